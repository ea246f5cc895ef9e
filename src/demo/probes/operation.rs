//! Secrets Manager is away, at a start and while a task runs; and how much an environment may hold.

use std::io;

use rustix::process::Signal;
use tokio::time::timeout;

use super::evidence::{Evidence, Measure, Observed};
use super::place::{Place, attack};
use super::subject::{Ground, Subject, Trio};
use super::{Attacked, Error, Lab};
use crate::demo::ecs_agent;
use crate::demo::local_aws::{Effect, Fault, Service};
use crate::demo::running_worker::{self, STUCK};
use crate::demo::world::{Model, World};

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
    let embedded = async {
        let ground = Ground::new(lab, Model::Embedded).await?;
        ground.world.aws.inject(away());
        let mut running = ground.start(place, &place.programs.embedded, &[]).await?;
        let world = &ground.world;
        let waiting = |_: &running_worker::RunningWorker| failed_reads(world) >= 4;
        running.worker.until("a refused read", waiting).await?;
        let not_started = usize::from(!running.worker.log.opened);
        world.aws.clear_faults();
        running.worker.until("its stream", |worker| worker.log.opened).await?;
        Ok::<_, Error>(
            Observed::new(not_started).with("it tries again by itself, and the same task runs"),
        )
    };
    let injected = async {
        let ground = Ground::new(lab, Model::Injected).await?;
        ground.world.aws.inject(away());
        let program = &place.programs.injected;
        let refused = match ground.start(place, program, &[]).await {
            Ok(_) => false,
            Err(Error::Worker(running_worker::Error::Task(
                ecs_agent::Error::ResourceInitialization { .. },
            ))) => true,
            Err(error) => return Err(error),
        };
        ground.world.aws.clear_faults();
        let mut running = ground.start(place, program, &[]).await?;
        running.worker.until("its stream", |worker| worker.log.opened).await?;
        let what = "ResourceInitializationError; ECS tries again with another task";
        Ok(Observed::new(usize::from(refused)).with(what))
    };
    let (embedded, injected) = tokio::try_join!(embedded, injected)?;
    Ok(Evidence::new(Measure::NotStarted, embedded, injected))
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

/// A program is started with the values of many long secrets in its environment, and with none.
pub(super) async fn environment_size(place: &Place, trio: &Trio) -> Attacked {
    let long = "x".repeat(LONGEST_SECRET - 1);
    let started = async |values: bool| {
        let mut program = trio.embedded.inside(place, "true");
        if values {
            program.envs((0..LONG_SECRETS).map(|secret| (format!("SECRET{secret}"), &long)));
        }
        match program.status().await {
            Ok(_) => Ok(Observed::new(0)),
            Err(error) if error.kind() == io::ErrorKind::ArgumentListTooLong => {
                Ok(Observed::new(1).with("the kernel: argument list too long"))
            }
            Err(error) => Err(attack("a program cannot be started", error)),
        }
    };
    let embedded = started(false).await?.with("only names are in its environment");
    Ok(Evidence::new(Measure::NotStarted, embedded, started(true).await?))
}
