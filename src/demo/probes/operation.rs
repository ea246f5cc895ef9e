//! Secrets Manager is away, at a start and while a task runs; and how much an environment may hold.

use std::io;
use std::path::Path;

use rustix::process::Signal;
use tokio::time::timeout;

use super::evidence::{Evidence, Measure, Observed};
use super::place::{Place, attack};
use super::subject::{Ground, Subject, Trio};
use super::{Attacked, Error, Lab, Obstacle};
use crate::credentials::LONGEST_VALUE;
use crate::credentials::reference::AWSCURRENT;
use crate::demo::ecs_agent;
use crate::demo::local_aws::{Effect, Fault, Service};
use crate::demo::running_worker::{self, STUCK};
use crate::demo::world::{Model, SECRETS, World};

/// How long a secret's value may be, in bytes: Secrets Manager's quota.
const LONGEST_SECRET: usize = 65_536;

/// So many of them are more than the kernel lets a program start with: a quarter of the stack's
/// limit, which is 8 MiB (execve(2)).
const LONG_SECRETS: usize = 40;

/// It answers as a service does that is away.
fn away() -> Fault {
    let effect = Effect::Error {
        status: 503,
        code: "ServiceUnavailable".to_owned(),
        message: String::new(),
    };
    Fault::every_call(Service::SecretsManager, effect)
}

fn failed_reads(world: &World) -> usize {
    let audit = world.aws.audit();
    audit.iter().filter(|record| record.error_code.as_deref() == Some("ServiceUnavailable")).count()
}

/// Secrets Manager is away when the task starts, and then comes back.
pub(super) async fn away_at_start(lab: &Lab<'_>, place: &Place) -> Attacked {
    let (embedded, injected) = tokio::try_join!(
        started_while_away(lab, place, Model::Embedded, &place.programs.embedded),
        started_while_away(lab, place, Model::Injected, &place.programs.injected),
    )?;
    Ok(Evidence::new(Measure::NotStarted, embedded, injected))
}

async fn started_while_away(
    lab: &Lab<'_>,
    place: &Place,
    model: Model,
    program: &Path,
) -> Result<Observed, Error> {
    let ground = Ground::new(lab, model).await?;
    let world = &ground.world;
    world.aws.inject(away());
    match ground.start(place, program, &[]).await {
        Ok(mut running) => {
            let refused = |_: &_| failed_reads(world) >= SECRETS.len();
            running.worker.until("a refused read", refused).await?;
            let (waits, waiting) = (!running.worker.log.opened, running.worker.task.id());
            world.aws.clear_faults();
            running.worker.until("its stream", |worker| worker.log.opened).await?;
            let same = waits && waiting.is_some() && running.worker.task.id() == waiting;
            Ok(Observed::new(usize::from(waits))
                .with_if(same, "it tries again by itself, and the same task runs"))
        }
        Err(Error::Worker(running_worker::Error::Task(
            ecs_agent::Error::ResourceInitialization { .. },
        ))) => {
            world.aws.clear_faults();
            let mut running = ground.start(place, program, &[]).await?;
            running.worker.until("its stream", |worker| worker.log.opened).await?;
            Ok(Observed::new(1).with("ResourceInitializationError; it takes another task"))
        }
        Err(error) => Err(error),
    }
}

/// Secrets Manager is away while the tasks run.
pub(super) async fn away_while_running(trio: &mut Trio) -> Attacked {
    let embedded = rows_meanwhile(&mut trio.embedded).await?;
    Ok(Evidence::new(Measure::Stopped, embedded, rows_meanwhile(&mut trio.injected).await?))
}

/// Whether rows are written after a look at the labels has failed.
async fn rows_meanwhile(subject: &mut Subject) -> Result<Observed, Error> {
    let Subject { ground: Ground { world, model, .. }, running } = subject;
    world.aws.inject(away());
    if *model == Model::Embedded {
        let mut changes = world.aws.audit_changes();
        let before = failed_reads(world);
        running.send(Signal::HUP)?;
        let refused = changes.wait_for(|()| failed_reads(world) > before);
        let refused = timeout(STUCK, refused).await.ok().and_then(Result::ok);
        refused.ok_or(Error::NotReached("a refused look"))?;
    }
    let before = world.rows_put();
    let written = running.worker.until("rows", |_| world.rows_put() > before + 1).await;
    world.aws.clear_faults();
    match written {
        Ok(()) => Ok(Observed::new(0)),
        Err(running_worker::Error::Stuck(..) | running_worker::Error::Ended(..)) => {
            Ok(Observed::new(1))
        }
        Err(error) => Err(error.into()),
    }
}

/// A program is started with the values of many long secrets in its environment, and the worker where
/// one of its secrets is as long.
pub(super) async fn environment_size(lab: &Lab<'_>, place: &Place, trio: &Trio) -> Attacked {
    let long = "x".repeat(LONGEST_SECRET - 1);
    let embedded = async {
        let ground = Ground::new(lab, Model::Embedded).await?;
        let [secret, ..] = SECRETS;
        ground.world.aws.seed_version(secret, Some(&long), &[AWSCURRENT])?;
        let mut running = ground.start(place, &place.programs.embedded, &[]).await?;
        let too_long = format!("longer than {LONGEST_VALUE} bytes");
        match running.worker.until("its stream", |worker| worker.log.opened).await {
            Ok(()) => Ok(Observed::new(0)),
            Err(running_worker::Error::Ended(..))
                if running.worker.log.errors.iter().any(|line| line.contains(&too_long)) =>
            {
                let what = format!("the worker: it takes no value {too_long}");
                Ok(Observed::new(1).with(what))
            }
            Err(error) => Err(Error::from(error)),
        }
    };
    let mut program = trio.injected.inside(place, "true");
    program.envs((0..LONG_SECRETS).map(|secret| (format!("SECRET{secret}"), &long)));
    let injected = match program.status().await {
        Ok(_) => Observed::new(0),
        Err(error) if error.kind() == io::ErrorKind::ArgumentListTooLong => {
            Observed::new(1).with("the kernel: argument list too long")
        }
        Err(error) => return Err(attack("a program cannot be started", error).into()),
    };
    // Without them it is started, so that it is their length that counts.
    let plain = trio.injected.inside(place, "true").status().await;
    if !plain.is_ok_and(|status| status.success()) {
        return Err(Obstacle::Skip("true is not there".to_owned()));
    }
    Ok(Evidence::new(Measure::NotStarted, embedded.await?, injected))
}
