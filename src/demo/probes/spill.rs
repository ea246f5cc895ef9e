//! What a worker leaves behind: in its log, and in a core file.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::evidence::{Evidence, Measure, Observed};
use super::place::{Place, attack, values_in};
use super::subject::{Ground, Subject, Trio};
use super::{Attacked, Error, Lab, Obstacle};
use crate::demo::ecs_agent::Task;
use crate::demo::running_worker::STUCK;
use crate::demo::world::Model;

/// Logs everything.
const TRACE: (&str, &str) = ("RUST_LOG", "trace");

/// Makes the AWS SDK log bodies.
const BODIES: (&str, &str) = ("LOG_SENSITIVE_BODIES", "true");

/// The log at TRACE, and the exit code where it ended before its stream was open.
struct Log {
    lines: Vec<u8>,
    refused: Option<i32>,
}

/// Starts a task in a world of its own, and reads its log until the stream is open.
async fn log(
    lab: &Lab<'_>,
    place: &Place,
    model: Model,
    program: &Path,
    variables: &[(&str, &str)],
) -> Result<(Log, [String; 4]), Error> {
    let ground = Ground::new(lab, model).await?;
    let folder = place.folder()?;
    let command = ground.command(place, program, &folder, variables).await?;
    let (sender, mut output) = mpsc::unbounded_channel();
    let mut task = Task::spawn(command, &ground.world.task_definition, &sender)?;
    drop(sender);
    let (mut lines, mut opened) = (Vec::new(), false);
    let reading = async {
        while let Some(line) = output.recv().await {
            lines.extend_from_slice(line.as_bytes());
            lines.push(b'\n');
            if !opened && line.contains("\"message\":\"the stream is open\"") {
                opened = true;
                task.terminate();
            }
        }
    };
    timeout(STUCK, reading).await.map_err(|_| Error::NotReached("the end of a log"))?;
    let status = task.wait().await?;
    let refused = if opened { None } else { status.code() };
    Ok((Log { lines, refused }, ground.values()))
}

fn observed((log, values): (Log, [String; 4])) -> Observed {
    let observed = Observed::new(values_in(&log.lines, &values));
    match log.refused {
        None => observed,
        Some(code) => observed.with(format!("it refuses to start, exit {code}")),
    }
}

/// The most that can be logged without being told to log secrets.
pub(super) async fn log_at_trace(lab: &Lab<'_>, place: &Place) -> Attacked {
    let programs = &place.programs;
    let (embedded, injected, unhardened) = tokio::try_join!(
        log(lab, place, Model::Embedded, &programs.embedded, &[TRACE]),
        log(lab, place, Model::Injected, &programs.injected, &[TRACE]),
        log(lab, place, Model::Injected, &programs.unhardened, &[TRACE]),
    )?;
    let evidence = Evidence::new(Measure::Values, observed(embedded), observed(injected));
    Ok(Evidence { unhardened: Some(observed(unhardened)), ..evidence })
}

/// The SDK is told to log bodies, and the worker to let that pass.
pub(super) async fn log_of_bodies(lab: &Lab<'_>, place: &Place) -> Attacked {
    let programs = &place.programs;
    let allowed = [TRACE, BODIES, ("ALLOW_ENVIRONMENT", BODIES.0)];
    let (refused, embedded, injected) = tokio::try_join!(
        log(lab, place, Model::Embedded, &programs.embedded, &[TRACE, BODIES]),
        log(lab, place, Model::Embedded, &programs.embedded, &allowed),
        log(lab, place, Model::Injected, &programs.injected, &allowed),
    )?;
    let refused = observed(refused);
    let mut embedded = observed(embedded);
    for fact in refused.facts {
        embedded =
            embedded.with(format!("unless ALLOW_ENVIRONMENT lets the variable pass, {fact}"));
    }
    Ok(Evidence::new(Measure::Values, embedded, observed(injected)))
}

/// Aborts all three workers, and reads the core files. Nobody runs afterwards.
pub(super) async fn core_file(trio: &mut Trio) -> Attacked {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.trim().is_empty() || pattern.contains(['|', '/']) {
        return Err(Obstacle::Skip(
            "core files go elsewhere than to the working directory".to_owned(),
        ));
    }
    let embedded = aborted(&mut trio.embedded).await?;
    let injected = aborted(&mut trio.injected).await?;
    let unhardened = aborted(&mut trio.unhardened).await?;
    let evidence = Evidence::new(Measure::Values, embedded, injected);
    let evidence = Evidence { unhardened: Some(unhardened), ..evidence };
    if evidence.is_nothing() {
        return Err(Obstacle::Skip("no core file is to be had here".to_owned()));
    }
    Ok(evidence)
}

async fn aborted(subject: &mut Subject) -> Result<Observed, Obstacle> {
    let values = subject.values();
    subject.running.send(Signal::ABORT)?;
    let ended = timeout(STUCK, subject.running.worker.task.wait()).await;
    ended.map_err(|_| Error::NotReached("a worker's end"))?.map_err(Error::from)?;
    let failed = |error| attack("a core file cannot be read", error);
    let mut found = Observed::new(0).with("no core file");
    for entry in fs::read_dir(subject.running.folder.path()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with("core") {
            let core = fs::read(entry.path()).map_err(failed)?;
            found = Observed::new(values_in(&core, &values)).with("a core file");
        }
    }
    Ok(found)
}
