//! `cargo demo`: both models side by side, or the worker's main job, on an embedded local AWS and a local feed.

mod arguments;
mod drills;
mod main_job;
mod pair;
mod programs;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use twitterstream::demo::trouble::Troubles;
use twitterstream::telemetry::chain;

use crate::arguments::Arguments;
use crate::terminal::say;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let (ran, complaint) = if arguments.scan {
        let work = unless_interrupted(drills::scan(&arguments));
        (runtime.block_on(work), "There are copies that should not be; see above.")
    } else if let Some(Troubles(troubles)) = &arguments.trouble {
        let work = unless_interrupted(drills::trouble(&arguments, troubles));
        (runtime.block_on(work), "Rows were lost or changed; see above.")
    } else if let Some(kills) = arguments.kills {
        let work = unless_interrupted(drills::kill(&arguments, kills));
        (runtime.block_on(work), "Rows were lost or changed; see above.")
    } else if let Some(minutes) = arguments.soak {
        let work = unless_interrupted(drills::soak(&arguments, minutes));
        (runtime.block_on(work), "Not every check held; see above.")
    } else if arguments.review {
        let work = unless_interrupted(pair::review(&arguments));
        (runtime.block_on(work), "What was found is not what is claimed; see above.")
    } else if arguments.is_main_job() {
        let complaint = "The table does not hold just what it should; see the figures above.";
        (runtime.block_on(main_job::run(&arguments)), complaint)
    } else if arguments.once {
        let work = unless_interrupted(pair::once(&arguments));
        (runtime.block_on(work), "Not all was as it should be; see above.")
    } else {
        (runtime.block_on(pair::live(&arguments)), "")
    };
    // An attack that does not let go of its thread is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(10));
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            say(complaint);
            ExitCode::FAILURE
        }
        Err(error) => failed(&*error),
    }
}

/// Ctrl-C is not for the worker, which is in a group of its own: it ends with what is dropped here.
async fn unless_interrupted(
    work: impl Future<Output = Result<bool, Box<dyn std::error::Error>>>,
) -> Result<bool, Box<dyn std::error::Error>> {
    let interrupted = interrupted()?;
    tokio::select! {
        ran = work => ran,
        () = interrupted => Err("interrupted".into()),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let _ = writeln!(io::stderr(), "cargo demo: {}", chain(error));
    ExitCode::FAILURE
}

/// A report, and whether it is as it should be.
#[derive(serde::Serialize)]
struct Judged<'a, Report> {
    is_right: bool,
    #[serde(flatten)]
    report: &'a Report,
}

fn write_json(
    arguments: &Arguments,
    report: &impl serde::Serialize,
) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(report)?;
        std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
