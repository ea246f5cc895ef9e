//! One of the two models as it runs: a world of its own, its task there, and the feed's keys.

use std::num::NonZeroU32;
use std::path::PathBuf;

use tempfile::TempDir;

use super::Clock;
use super::feed_server::{Account, Options, Source};
use super::key_rotation::KeyRotation;
use super::running_worker::{Error, RunningWorker};
use super::world::{Model, World};

/// What a side is started with.
#[derive(Clone)]
pub struct Settings {
    /// The folder that holds `iam/` and `task-definition/`.
    pub root: PathBuf,
    /// The time of its world.
    pub clock: Clock,
    /// Who hands the task its credentials.
    pub model: Model,
    /// The worker.
    pub program: PathBuf,
    /// Of the posts and the keys: two sides with the same one are sent the same posts.
    pub seed: u64,
    /// Posts a second.
    pub rate: NonZeroU32,
    /// The share of them that matches, 0 to 1.
    pub matching: f64,
    /// They replace or add to those of the task definition.
    pub variables: Vec<(&'static str, String)>,
}

/// A running side. Everything ends when it is dropped.
pub struct Side {
    /// Who hands the task its credentials.
    pub model: Model,
    /// Its AWS account and its feed.
    pub world: World,
    /// The keys of the feed's account.
    pub keys: KeyRotation,
    /// Its task.
    pub worker: RunningWorker,
    settings: Settings,
    /// The task's volume, which ends with it.
    volume: TempDir,
}

impl Side {
    /// Sets up its world, and starts its task there as ECS would. The feed is live: what it sends while
    /// nobody has a stream reaches nobody. An embedded task hears of rotations from a queue.
    ///
    /// # Errors
    /// A world or a task that cannot be started.
    pub async fn start(mut settings: Settings) -> Result<Self, Error> {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let account = Account::generated(&mut rng);
        let keys = KeyRotation::new(account.clone(), rng);
        let source = Source::Generated {
            seed: settings.seed,
            track: "Amazon".to_owned(),
            matching: settings.matching,
        };
        let options = Options {
            rate: Some(settings.rate),
            live: true,
            ..Options::new(vec![account], source, settings.clock.clone())
        };
        let (root, clock, model) = (&settings.root, settings.clock.clone(), settings.model);
        let world = World::of(model, root, clock, options).await?;
        if model == Model::Embedded {
            let queue_url = world.add_rotation_queue().await?;
            settings.variables.insert(0, ("ROTATION_QUEUE_URL", queue_url));
        }
        let (worker, volume) = task(&world, &settings).await?;
        Ok(Self { model, world, keys, worker, settings, volume })
    }

    /// Starts a task in the place of one that has ended, with a volume of its own and the values that
    /// the secrets have now.
    ///
    /// # Errors
    /// A task that cannot be started.
    pub async fn start_task(&mut self) -> Result<(), Error> {
        (self.worker, self.volume) = task(&self.world, &self.settings).await?;
        Ok(())
    }
}

async fn task(world: &World, settings: &Settings) -> Result<(RunningWorker, TempDir), Error> {
    let volume = tempfile::tempdir()?;
    let folder = volume.path().to_string_lossy();
    let mut variables = vec![("SPOOL_DIR", &*folder)];
    variables.extend(settings.variables.iter().map(|(name, value)| (*name, value.as_str())));
    let worker = RunningWorker::start(world, &settings.program, &variables).await?;
    Ok((worker, volume))
}
