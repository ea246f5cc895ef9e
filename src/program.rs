//! The worker as a program: arguments, environment, log, signals and exit codes.
//!
//! What comes from outside is taken here and handed on. A binary adds its allocator, and nothing else.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use aws_config::SdkConfig;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_appender::non_blocking::NonBlockingBuilder;

use crate::config::{Config, Environment, Hardening, NotUnicode, is_loopback};
use crate::counts::Counts;
use crate::credentials::SecretsManager;
use crate::credentials::rotation::{Reason, Vault};
use crate::worker::{self, Request};
use crate::{aws, check, clock, process, telemetry};

/// The configuration cannot be used (`EX_USAGE` of sysexits.h).
const CONFIGURATION: u8 = 64;
/// A dependency refused for good, or rows were lost (`EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// A bug (`EX_SOFTWARE`).
const BUG: i32 = 70;

/// How many lines wait for whoever reads the log, at the most; some 6 MB.
const LOG_LINES: usize = 16_384;

const NO_REGION: &str = "there is no AWS region: set AWSREGION or AWS_REGION";

const HELP: &str = "\
Reads a stream of posts, keeps what matches FILTER, and writes user, date and text to DynamoDB.
Its credentials come from AWS Secrets Manager, asked with the task role.

Usage: twitterstream [check | --help | --version]

check says what the platform gives it and what its role may do, and ends.

It is configured by environment variables, none of which is secret; README.md lists them.
Exit codes: 0 drained; 64 configuration; 69 a dependency refused for good, START_LIMIT passed or
rows were lost at a stop; 70 a bug.
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
    run_as(&ProcessEnvironment, |sdk| SecretsManager::new(sdk.clone()))
}

/// The same with what `environment` says, and credentials from the vault that `open` makes.
#[must_use]
pub fn run_as<V: Vault>(
    environment: &impl Environment,
    open: impl FnOnce(&SdkConfig) -> V,
) -> ExitCode {
    let hardened = process::harden();
    process::end_on_panic(BUG);
    let mut check = false;
    match std::env::args_os().nth(1).as_deref().map(std::ffi::OsStr::to_str) {
        None => {}
        Some(Some("check")) => check = true,
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
    // A log that nobody reads must not stop the worker: lines are dropped then, and counted. What is
    // left is written when the guard goes.
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES)
        .finish(log_output());
    let dropped = writer.error_counter();
    // Nothing has set one before.
    let log = telemetry::subscriber(config.log_format, &config.log_filter, writer);
    let _ = tracing::subscriber::set_global_default(log);
    let code = run_to_end(&config, &hardened, open);
    if dropped.dropped_lines() > 0 {
        say(&format!("twitterstream: {} lines of the log were dropped", dropped.dropped_lines()));
    }
    drop(guard);
    ExitCode::from(code)
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
    let code = runtime.block_on(run(config, hardened, open));
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

async fn run<V: Vault>(
    config: &Config,
    hardened: &process::Level,
    open: impl FnOnce(&SdkConfig) -> V,
) -> u8 {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        feed = config.dialect.name(),
        feed_url = %config.feed_url,
        table = config.table,
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
        tracing::warn!(variables = ?config.unheeded, "set, and without effect in this version or with this FEED");
    }
    let counts = Arc::new(Counts::default());
    let result = async {
        let requests = requests().map_err(|error| error.to_string())?;
        let triggers = triggers().map_err(|error| error.to_string())?;
        let sdk = aws::sdk_config(config.region.as_deref()).await;
        let sdk = sdk.ok_or(NO_REGION)?;
        if sdk.endpoint_url().is_some_and(|url| url.starts_with("http://") && !is_loopback(url)) {
            tracing::warn!("AWS_ENDPOINT_URL is plain http: secrets cross the network in clear");
        }
        let run =
            worker::run(config, &sdk, open(&sdk), counts, requests, triggers, clock::system())
                .await;
        run.map_err(|error| telemetry::chain(&error))
    };
    match result.await {
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
