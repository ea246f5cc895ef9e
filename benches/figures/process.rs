//! A process that is measured: started with a task's environment, its log read as a log driver reads
//! it, and ended when it has done what was wanted.

use std::error::Error;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use twitterstream::demo::ecs_agent::Usage;

/// How long a measurement may take before it counts as stuck.
const STUCK: Duration = Duration::from_mins(5);

/// How much of a log is kept, in bytes.
const LAST_WORDS: usize = 4 * 1024;

pub struct Process {
    child: Child,
    last_words: Arc<Mutex<Vec<u8>>>,
    /// In seconds of the monotonic clock.
    pub started: f64,
}

impl Process {
    pub fn start(mut command: Command) -> Result<Self, Box<dyn Error>> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = monotonic();
        let mut child = command.kill_on_drop(true).spawn()?;
        let last_words = Arc::default();
        drain(child.stdout.take(), &last_words);
        drain(child.stderr.take(), &last_words);
        Ok(Self { child, last_words, started })
    }

    /// Waits for what the process is to bring about. One that ends before has failed.
    pub async fn until<T>(
        &mut self,
        done: impl Future<Output = Result<T, Box<dyn Error>>>,
    ) -> Result<T, Box<dyn Error>> {
        let failed = tokio::select! {
            biased;
            done = timeout(STUCK, done) => match done {
                Ok(done) => return done,
                Err(_) => "it is stuck".to_owned(),
            },
            status = self.child.wait() => format!("it ended by itself with {}", status?),
        };
        Err(format!("{failed}; its last words:\n{}", self.last_words()).into())
    }

    pub fn usage(&self) -> Result<Usage, Box<dyn Error>> {
        let usage = self.child.id().and_then(Usage::of);
        usage.ok_or_else(|| "it has ended".into())
    }

    /// Waits until it ends by itself, and returns what it said.
    pub async fn output(&mut self) -> Result<String, Box<dyn Error>> {
        let status = timeout(STUCK, self.child.wait()).await??;
        // The pipe may still be read for a moment.
        while Arc::strong_count(&self.last_words) > 1 {
            tokio::task::yield_now().await;
        }
        let output = self.last_words();
        if status.success() { Ok(output) } else { Err(format!("{status}: {output}").into()) }
    }

    fn last_words(&self) -> String {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&words).into_owned()
    }

    pub async fn end(mut self) -> Result<(), Box<dyn Error>> {
        Ok(self.child.kill().await?)
    }
}

fn drain(
    output: Option<impl AsyncRead + Unpin + Send + 'static>,
    last_words: &Arc<Mutex<Vec<u8>>>,
) {
    let last_words = Arc::clone(last_words);
    tokio::spawn(async move {
        let Some(mut output) = output else { return };
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = output.read(&mut chunk).await {
            let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
            words.extend_from_slice(chunk.get(..length).unwrap_or_default());
            let surplus = words.len().saturating_sub(LAST_WORDS);
            words.drain(..surplus);
        }
    });
}

/// Seconds of the system's monotonic clock, which is the same in all processes.
pub fn monotonic() -> f64 {
    seconds(rustix::time::ClockId::Monotonic)
}

/// Seconds of processor, user and system, of this process.
pub fn cpu_seconds() -> f64 {
    seconds(rustix::time::ClockId::ProcessCPUTime)
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^52 ns since the machine's start")]
fn seconds(clock: rustix::time::ClockId) -> f64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
