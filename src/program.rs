//! The worker as a program: arguments, environment, log, signals and exit codes.
//!
//! What comes from outside is taken here and handed on. A binary adds its allocator, and nothing else.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_config::SdkConfig;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::{Config, Environment, Hardening, NotUnicode, is_loopback};
use crate::counts::Counts;
use crate::credentials::SecretsManager;
use crate::credentials::rotation::{Reason, Vault};
use crate::feed::read_budget::Limits;
use crate::health::Vitals;
use crate::metrics::Metrics;
use crate::worker::{self, Request};
use crate::{aws, check, clock, config, health, process, telemetry};

/// The configuration cannot be used (`EX_USAGE` of sysexits.h).
const CONFIGURATION: u8 = 64;
/// A dependency refused for good, or rows were lost (`EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// The word of `health` that a new task would be better.
const UNHEALTHY: u8 = 1;
/// A bug (`EX_SOFTWARE`).
const BUG: i32 = 70;

/// How many lines wait for whoever reads the log, at the most: some 6 MB of posts as long as most are.
const LOG_LINES: usize = 16_384;

/// How long the last of them may take. The guard itself gives its thread 1.1 s.
const LAST_LINES: Duration = Duration::from_millis(1_500);

const NO_REGION: &str = "there is no AWS region: set AWSREGION or AWS_REGION";

const HELP: &str = "\
Reads a stream of posts, keeps what matches FILTER, and writes user, date and text to DynamoDB.
Its credentials come from AWS Secrets Manager, asked with the task role.

Usage: twitterstream [check | health | --help | --version]

check says what the platform gives it and what its role may do, and ends.
health asks the worker that runs in the same container how it is, and ends: 0 where it is to be left
alone, 1 where a new task would be better or no worker answers, 64 without SPOOL_DIR.

It is configured by environment variables, none of which is secret; README.md lists them.
Exit codes: 0 drained; 64 configuration; 69 a dependency refused for good, START_LIMIT passed or
rows were lost or left in the spool at a stop; 70 a bug.
";

/// The environment of the process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>> {
        std::env::var_os(name).map(|value| value.into_string().map_err(|_| NotUnicode))
    }
}

/// The worker, from its first instruction to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    run_as(process::harden, &ProcessEnvironment, |sdk| SecretsManager::new(sdk.clone()))
}

/// The same with what `harden` does first, what `environment` says, and credentials from the vault
/// that `open` makes.
#[must_use]
pub fn run_as<V: Vault>(
    harden: fn() -> process::Level,
    environment: &impl Environment,
    open: impl FnOnce(&SdkConfig) -> V,
) -> ExitCode {
    let hardened = harden();
    process::end_on_panic(BUG);
    let mut check = false;
    match std::env::args_os().nth(1).as_deref().map(std::ffi::OsStr::to_str) {
        None => {}
        Some(Some("check")) => check = true,
        Some(Some("health")) => return ExitCode::from(health_of(environment)),
        Some(Some("--help" | "-h")) => {
            return print(HELP);
        }
        Some(Some("--version" | "-V")) => {
            return print(concat!("twitterstream ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Some(_) => {
            say("twitterstream: unknown argument; see --help");
            return ExitCode::from(CONFIGURATION);
        }
    }
    let config = match Config::read(environment) {
        Ok(config) => config,
        Err(faults) => {
            say(&format!("twitterstream: {faults}"));
            return ExitCode::from(CONFIGURATION);
        }
    };
    if check {
        return ExitCode::from(checked(&config, &hardened));
    }
    // A log that nobody reads must not stop the worker: lines are dropped then, and counted.
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES)
        .finish(log_output());
    let dropped = writer.error_counter();
    // Nothing has set one before.
    let log = telemetry::subscriber(config.log_format, &config.log_filter, writer.clone());
    let _ = tracing::subscriber::set_global_default(log);
    let code = run_to_end(&config, &hardened, writer, open);
    say_last(guard, &dropped);
    ExitCode::from(code)
}

/// Writes what is left of the log, and says how much of it was dropped. Where nobody reads, either may
/// block for ever, the guard in a `println!` of its own: so it is a thread that does, and the process
/// ends without it.
fn say_last(guard: WorkerGuard, dropped: &ErrorCounter) {
    let dropped = dropped.dropped_lines();
    let (done, over) = std::sync::mpsc::channel();
    let last = move || {
        if dropped > 0 {
            say(&format!("twitterstream: {dropped} lines of the log were dropped"));
        }
        drop(guard);
        let _ = done.send(());
    };
    if thread::Builder::new().name("last-lines".to_owned()).spawn(last).is_ok() {
        let _ = over.recv_timeout(LAST_LINES);
    }
}

/// Standard output, with a buffer that the log's thread flushes when it has nothing more to write: that
/// of the standard library makes a system call of each line.
fn log_output() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(BufWriter::with_capacity(64 << 10, File::from(output))),
        Err(_) => Box::new(io::stdout()),
    }
}

fn run_to_end<V: Vault>(
    config: &Config,
    hardened: &process::Level,
    log: NonBlocking,
    open: impl FnOnce(&SdkConfig) -> V,
) -> u8 {
    if !hardened.is_full() && config.hardening == Hardening::Required {
        let error = format!(
            "the kernel refused {}, and HARDENING=required; no secret was asked for. Run it where \
             the seccomp profile lets these calls pass, or set HARDENING=best-effort",
            hardened.refused()
        );
        tracing::error!(error, "ending");
        return UNAVAILABLE;
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return UNAVAILABLE;
        }
    };
    let code = runtime.block_on(run(config, hardened, log, open));
    // A lookup of a name may still hang in a thread; it has nothing to finish.
    runtime.shutdown_background();
    code
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs [`check`] instead of the worker.
fn checked(config: &Config, hardened: &process::Level) -> u8 {
    let volume = config.spool.as_ref().map(|spool| spool.folder.as_path());
    let checking = async {
        let sdk = aws::sdk_config(config.region.as_deref()).await;
        let sdk = sdk.ok_or_else(|| io::Error::other(NO_REGION))?;
        check::run(config, &sdk, hardened, volume, &mut io::stdout()).await
    };
    match runtime().and_then(|runtime| runtime.block_on(checking)) {
        Ok(true) => 0,
        Ok(false) => UNAVAILABLE,
        Err(error) => {
            say(&format!("twitterstream: {error}"));
            UNAVAILABLE
        }
    }
}

/// Asks the worker that runs how it is, instead of being one.
fn health_of(environment: &impl Environment) -> u8 {
    let unknown = |reason: &str, code| {
        let line = serde_json::json!({ "state": "unknown", "reason": reason, "healthy": false });
        print(&format!("{line}\n"));
        code
    };
    let folder = match config::spool_folder(environment) {
        Ok(Some(folder)) => folder,
        Ok(None) => {
            return unknown(
                "there is no SPOOL_DIR, in which the worker's socket is",
                CONFIGURATION,
            );
        }
        Err(faults) => return unknown(&faults.to_string(), CONFIGURATION),
    };
    match health::socket::path(&folder) {
        Err(error) => unknown(&telemetry::chain(&error), CONFIGURATION),
        Ok(path) => match health::socket::ask(&path) {
            Ok(reply) => {
                print(&format!("{}\n", reply.line));
                u8::from(!reply.healthy)
            }
            Err(error) => unknown(&telemetry::chain(&error), UNHEALTHY),
        },
    }
}

async fn run<V: Vault>(
    config: &Config,
    hardened: &process::Level,
    log: NonBlocking,
    open: impl FnOnce(&SdkConfig) -> V,
) -> u8 {
    let mut secrets: Vec<_> =
        config.references.iter().map(|(_, reference)| reference.secret_id()).collect();
    secrets.dedup();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        // The image's build says it; one by hand need not.
        commit = option_env!("GIT_COMMIT").filter(|commit| !commit.is_empty()),
        feed = config.dialect.name(),
        feed_url = %config.feed_url,
        table = config.table,
        secrets = secrets.join(", "),
        filter = config.filter.track(),
        hardening = %hardened,
        "starting",
    );
    if !hardened.is_full() {
        tracing::warn!(refused = hardened.refused(), "the kernel refused a part of the hardening");
    }
    if !config.let_through.is_empty() {
        let variables = config.let_through.join(", ");
        tracing::warn!(variables, "ALLOW_ENVIRONMENT lets through what should not be set");
    }
    if !config.unheeded.is_empty() {
        tracing::warn!(variables = ?config.unheeded, "set, and without effect with this FEED or LOG_FORMAT");
    }
    let vitals = Arc::new(Vitals::new(Arc::new(Counts::default()), config.rotation_poll));
    let (end, ended) = oneshot::channel::<()>();
    let measuring = config.metrics.clone().map(|settings| {
        let budgeted = config.read_budget != Limits::default();
        let metrics = Metrics::new(settings, Arc::clone(&vitals), budgeted);
        tokio::spawn(metrics.run(log, clock::system(), ended))
    });
    let result = async {
        let requests = requests().map_err(|error| error.to_string())?;
        let triggers = triggers().map_err(|error| error.to_string())?;
        let sdk = aws::sdk_config(config.region.as_deref()).await;
        let sdk = sdk.ok_or(NO_REGION)?;
        if sdk.endpoint_url().is_some_and(|url| url.starts_with("http://") && !is_loopback(url)) {
            tracing::warn!("AWS_ENDPOINT_URL is plain http: secrets cross the network in clear");
        }
        let run =
            worker::run(config, &sdk, open(&sdk), vitals, requests, triggers, clock::system())
                .await;
        run.map_err(|error| telemetry::chain(&error))
    };
    let result = result.await;
    drop(end);
    if let Some(measuring) = measuring {
        // It writes a last line; a bug in it has ended the process.
        let _ = measuring.await;
    }
    match result {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error, "ending");
            UNAVAILABLE
        }
    }
}

/// SIGTERM and SIGINT: the first asks to drain, the second to leave.
fn requests() -> io::Result<watch::Receiver<Request>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(Request::Run);
    tokio::spawn(async move {
        for request in [Request::Drain, Request::Leave] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Nobody listens any more where the worker is done.
            let _ = sender.send(request);
        }
    });
    Ok(receiver)
}

/// What makes the worker look at the labels of its secrets. SIGHUP does.
fn triggers() -> io::Result<(mpsc::UnboundedSender<Reason>, mpsc::UnboundedReceiver<Reason>)> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let trigger = sender.clone();
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() && trigger.send(Reason::Signal).is_ok() {}
    });
    Ok((sender, receiver))
}

/// One line on standard error: before there is a log, and when there is none any more.
fn say(line: &str) {
    // There is nobody to tell that nobody can be told.
    let _ = writeln!(io::stderr(), "{line}");
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
