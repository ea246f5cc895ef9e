//! The worker's resident memory while rows flow steadily.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use twitterstream::demo::feed_server::Scheme;

use crate::figure::{Figure, Goal, median, progress};
use crate::lab::{Lab, Pace};
use crate::process::Process;

const ROUNDS: usize = 3;

/// Rows a second.
const RATE: u32 = 1_000;

/// What the memory may be, in bytes.
const LIMIT: f64 = 24e6;

/// How long rows flow. In the second half of it the memory is looked at.
const SECONDS: u32 = 20;

/// The most resident memory in the steady half of a run: the median of the runs.
pub async fn steady() -> Result<Figure, Box<dyn Error>> {
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        progress(&format!("memory, round {round} of {ROUNDS}"));
        rounds.push(once().await?);
    }
    let limited = ("its limit", LIMIT / 1e6);
    let goal = Some(Goal::UpTo(LIMIT / 1e6));
    let measured = median(rounds);
    let figure = Figure::new(("memory at 1,000 rows/s", "MB"), measured / 1e6, limited, goal);
    Ok(figure.keyed("rss_bytes_steady", measured))
}

async fn once() -> Result<f64, Box<dyn Error>> {
    let mut lab = Lab::start(Pace::Rate(RATE), Scheme::Http).await?;
    // That rows do flow is seen by the last of these.
    lab.null.expect(RATE * (SECONDS - 1)).await?;
    let mut process = Process::start(lab.worker()?)?;
    process.until(lab.null.seen()).await?;
    let half = Duration::from_secs(u64::from(SECONDS) / 2);
    sleep(half).await;
    let steady = Instant::now();
    let mut most = 0;
    while steady.elapsed() < half {
        most = most.max(process.usage()?.rss_bytes);
        sleep(Duration::from_millis(100)).await;
    }
    process.until(lab.null.seen()).await?;
    process.end().await?;
    Ok(f64::from(u32::try_from(most)?))
}
