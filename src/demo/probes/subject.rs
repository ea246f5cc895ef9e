//! Tasks under attack.

use std::num::NonZeroU32;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use super::evidence::{Evidence, Measure, Observed};
use super::place::{Place, values_in};
use super::{Attacked, Error, Lab, Obstacle};
use crate::demo::feed_server::{Account, Options, Source};
use crate::demo::key_rotation::{KeyRotation, Order};
use crate::demo::running_worker::RunningWorker;
use crate::demo::world::{Model, World, keys_of};

/// Posts a second: enough to see that rows are written.
const RATE: Option<NonZeroU32> = NonZeroU32::new(5);

/// Posts a second of a live feed: more than one in the time that any start of a task takes.
const LIVE_RATE: Option<NonZeroU32> = NonZeroU32::new(50);

/// Starts its arguments with as much room for a core file as may be had, so that it is the worker's own
/// doing where there is none.
const ROOM_FOR_CORES: &str = r#"ulimit -S -c "$(ulimit -H -c)" && exec "$0" "$@""#;

/// A world of one model, where no task runs yet.
pub(super) struct Ground {
    pub(super) model: Model,
    pub(super) world: World,
    pub(super) keys: KeyRotation,
}

impl Ground {
    pub(super) async fn new(lab: &Lab<'_>, model: Model) -> Result<Self, Error> {
        Self::with(lab, model, RATE, false).await
    }

    /// One whose feed sends on while nobody has a stream.
    pub(super) async fn live(lab: &Lab<'_>, model: Model) -> Result<Self, Error> {
        Self::with(lab, model, LIVE_RATE, true).await
    }

    async fn with(
        lab: &Lab<'_>,
        model: Model,
        rate: Option<NonZeroU32>,
        live: bool,
    ) -> Result<Self, Error> {
        let mut rng = fastrand::Rng::with_seed(lab.seed);
        let account = Account::generated(&mut rng);
        let keys = KeyRotation::new(account.clone(), rng);
        let source =
            Source::Generated { seed: lab.seed, track: "Amazon".to_owned(), matching: 1.0 };
        let options =
            Options { rate, live, ..Options::new(vec![account], source, lab.clock.clone()) };
        let world = Box::pin(World::of(model, lab.root, lab.clock.clone(), options)).await?;
        Ok(Self { model, world, keys })
    }

    /// The newest values of the four secrets.
    pub(super) fn values(&self) -> [String; 4] {
        keys_of(self.keys.account())
    }

    /// Rotates all four secrets. The service accepts the old keys, too.
    pub(super) fn rotate(&mut self) -> Result<(), Error> {
        self.keys.rotate(&self.world, Order::Overlap)?;
        Ok(())
    }

    /// The command of a task of this world.
    pub(super) async fn command(
        &self,
        place: &Place,
        program: &Path,
        folder: &TempDir,
        variables: &[(&str, &str)],
    ) -> Result<Command, Error> {
        let spool = folder.path().to_string_lossy();
        let mut overrides = vec![("SPOOL_DIR", &*spool)];
        overrides.extend_from_slice(variables);
        let mut command =
            Box::pin(RunningWorker::command(&self.world, Path::new("sh"), &overrides)).await?;
        command.args(["-c", ROOM_FOR_CORES]).arg(program).current_dir(folder.path());
        place.as_user(&mut command);
        Ok(command)
    }

    /// Starts a task here.
    pub(super) async fn start(
        &self,
        place: &Place,
        program: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Running, Error> {
        let folder = place.folder()?;
        let command = self.command(place, program, &folder, variables).await?;
        Ok(Running { worker: RunningWorker::spawn(&self.world, command)?, folder })
    }
}

/// A task that runs.
pub(super) struct Running {
    pub(super) worker: RunningWorker,
    /// Its working directory and its volume.
    pub(super) folder: TempDir,
}

impl Running {
    /// Sends its process a signal.
    pub(super) fn send(&self, signal: Signal) -> Result<(), Error> {
        let pid = self.worker.task.id().and_then(|pid| i32::try_from(pid).ok());
        let sent = pid.and_then(Pid::from_raw).map(|pid| kill_process(pid, signal));
        sent.and_then(Result::ok).ok_or(Error::NotReached("a worker's process"))
    }
}

/// A task that runs, in its world.
pub(super) struct Subject {
    pub(super) ground: Ground,
    pub(super) running: Running,
}

impl Subject {
    /// Starts one, and waits until its stream is open.
    pub(super) async fn start(
        lab: &Lab<'_>,
        place: &Place,
        model: Model,
        program: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self, Error> {
        Self::start_on(Ground::new(lab, model).await?, place, program, variables).await
    }

    /// The same in a world that is there.
    pub(super) async fn start_on(
        ground: Ground,
        place: &Place,
        program: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let mut running = ground.start(place, program, variables).await?;
        running.worker.until("its stream", |worker| worker.log.opened).await?;
        Ok(Self { ground, running })
    }

    /// The process id.
    pub(super) fn pid(&self) -> Result<u32, Error> {
        self.running.worker.task.id().ok_or(Error::NotReached("a task that runs"))
    }

    /// The values of the four secrets.
    pub(super) fn values(&self) -> [String; 4] {
        self.ground.values()
    }

    /// The container's environment.
    pub(super) fn environment(&self) -> &[(String, String)] {
        self.running.worker.task.environment()
    }

    /// How many of some values the container's environment holds.
    pub(super) fn in_environment(&self, values: &[String]) -> usize {
        let variables =
            self.environment().iter().flat_map(|(name, value)| [name.as_str(), "=", value, "\n"]);
        let text: String = variables.collect();
        values_in(text.as_bytes(), values)
    }

    /// What ECS starts in this container besides the worker: a shell of ECS Exec, a health check.
    pub(super) fn inside(&self, place: &Place, program: &str) -> Command {
        let mut command = place.neighbour(program);
        let environment = self.environment().iter();
        command.env_clear().envs(environment.map(|(name, value)| (name, value)));
        command
    }
}

/// Both models, and the injected one as most programs are.
pub(super) struct Trio {
    pub(super) embedded: Subject,
    pub(super) injected: Subject,
    pub(super) unhardened: Subject,
}

impl Trio {
    /// Starts all three. They look at their labels when they are told to.
    pub(super) async fn start(lab: &Lab<'_>, place: &Place) -> Result<Self, Error> {
        let variables = [("ROTATION_POLL", "1h")];
        let start = |model, program| Subject::start(lab, place, model, program, &variables);
        let (embedded, injected, unhardened) = tokio::try_join!(
            start(Model::Embedded, &place.programs.embedded),
            start(Model::Injected, &place.programs.injected),
            start(Model::Injected, &place.programs.unhardened),
        )?;
        Ok(Self { embedded, injected, unhardened })
    }

    /// Makes the same attack on all three. Where it gets nothing from any, the last among them, which
    /// does nothing against it, it cannot be made here.
    pub(super) async fn attacked(
        &self,
        measure: Measure,
        attack: impl AsyncFn(&Subject) -> Result<Observed, Obstacle>,
    ) -> Attacked {
        let evidence = self.tried(measure, attack).await?;
        if evidence.is_nothing() {
            return Err(Obstacle::Skip(
                "here this attack gets nothing from a process that is not hardened either"
                    .to_owned(),
            ));
        }
        Ok(evidence)
    }

    /// The same of an attack that may fail on all three.
    pub(super) async fn tried(
        &self,
        measure: Measure,
        attack: impl AsyncFn(&Subject) -> Result<Observed, Obstacle>,
    ) -> Attacked {
        let mut evidence = self.compared(measure, &attack).await?;
        evidence.unhardened = Some(attack(&self.unhardened).await?);
        Ok(evidence)
    }

    /// The same attack on both models, where hardening makes no difference.
    pub(super) async fn compared(
        &self,
        measure: Measure,
        attack: impl AsyncFn(&Subject) -> Result<Observed, Obstacle>,
    ) -> Attacked {
        let embedded = attack(&self.embedded).await?;
        Ok(Evidence::new(measure, embedded, attack(&self.injected).await?))
    }
}
