//! What a worker leaves behind: in its log, and in a core file.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;

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

/// Names the variables that the worker is to let pass.
const ALLOW: &str = "ALLOW_ENVIRONMENT";

/// Makes the AWS SDK log bodies.
const BODIES: (&str, &str) = ("LOG_SENSITIVE_BODIES", "true");

/// With what the worker ends that does not like its configuration.
const CONFIGURATION: i32 = 64;

/// The log at TRACE.
struct Log {
    lines: Vec<u8>,
    values: [String; 4],
    /// How it ended, where its stream was never open.
    unopened: Option<ExitStatus>,
}

/// Starts a task in a world of its own, and reads its log until the stream is open. What is `allowed` is
/// let through besides what the definition lets through.
async fn log(
    lab: &Lab<'_>,
    place: &Place,
    model: Model,
    program: &Path,
    variables: &[(&str, &str)],
    allowed: Option<&str>,
) -> Result<Log, Error> {
    let ground = Ground::new(lab, model).await?;
    let folder = place.folder()?;
    let shipped = ground.world.task_definition.variable(ALLOW);
    let allowed =
        allowed.map(|name| shipped.into_iter().chain([name]).collect::<Vec<_>>().join(","));
    let mut variables = variables.to_vec();
    variables.extend(allowed.as_deref().map(|names| (ALLOW, names)));
    let command = ground.command(place, program, &folder, &variables).await?;
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
    Ok(Log { lines, values: ground.values(), unopened: (!opened).then_some(status) })
}

/// What the log of a task that has run holds. One that has not run says nothing of what it would log.
fn observed(log: &Log) -> Result<Observed, Error> {
    match log.unopened {
        None => Ok(Observed::new(values_in(&log.lines, &log.values))),
        Some(_) => Err(Error::NotReached("the stream of a task that logs everything")),
    }
}

/// The most that can be logged without being told to log secrets.
pub(super) async fn log_at_trace(lab: &Lab<'_>, place: &Place) -> Attacked {
    let programs = &place.programs;
    let (embedded, injected, unhardened) = tokio::try_join!(
        log(lab, place, Model::Embedded, &programs.embedded, &[TRACE], None),
        log(lab, place, Model::Injected, &programs.injected, &[TRACE], None),
        log(lab, place, Model::Injected, &programs.unhardened, &[TRACE], None),
    )?;
    let evidence = Evidence::new(Measure::Values, observed(&embedded)?, observed(&injected)?);
    Ok(Evidence { unhardened: Some(observed(&unhardened)?), ..evidence })
}

/// The SDK is told to log bodies, and the worker to let that pass.
pub(super) async fn log_of_bodies(lab: &Lab<'_>, place: &Place) -> Attacked {
    let programs = &place.programs;
    let (variables, allowed) = ([TRACE, BODIES], Some(BODIES.0));
    let (refused, embedded, injected) = tokio::try_join!(
        log(lab, place, Model::Embedded, &programs.embedded, &variables, None),
        log(lab, place, Model::Embedded, &programs.embedded, &variables, allowed),
        log(lab, place, Model::Injected, &programs.injected, &variables, allowed),
    )?;
    let without = match refused.unopened.map(|status| status.code()) {
        None => "with the variable alone it starts, too",
        Some(Some(CONFIGURATION)) => {
            "unless ALLOW_ENVIRONMENT lets the variable pass, it refuses to start, exit 64"
        }
        Some(_) => return Err(Error::NotReached("a refusal of the variable").into()),
    };
    let embedded = observed(&embedded)?.with(without);
    Ok(Evidence::new(Measure::Values, embedded, observed(&injected)?))
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
