//! A worker that runs in the world and is looked at every few milliseconds.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::ecs_agent::{self, Task, Usage};
use super::feed_server::FeedServer;
use super::local_aws;
use super::worker_log::WorkerLog;
use super::world::{self, World};
use crate::feed::Dialect;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long something that must come may take.
pub const STUCK: Duration = Duration::from_mins(2);

/// Why a run was not finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no world.
    #[error("the local world was not set up")]
    World(#[from] world::Error),
    /// The worker was not started, or its end not seen.
    #[error("the worker did not run")]
    Task(#[from] ecs_agent::Error),
    /// The table cannot be read.
    #[error("the table was not read back")]
    Table(#[from] local_aws::Error),
    /// A folder or a file of this program's own.
    #[error("a temporary file cannot be used")]
    File(#[from] std::io::Error),
    /// It ended by itself.
    #[error("the worker ended by itself with {0}; its last words: {1}")]
    Ended(String, String),
    /// Nothing moves.
    #[error("{0} has not come for {STUCK:?}; the worker's last words: {1}")]
    Stuck(&'static str, String),
}

/// The worker, and what is known of it.
pub struct RunningWorker {
    /// Its task.
    pub task: Task,
    lines: mpsc::UnboundedReceiver<String>,
    looks: Interval,
    /// What it has logged.
    pub log: WorkerLog,
    /// What it had used at the last look.
    pub usage: Usage,
}

impl RunningWorker {
    /// Starts it, with what its task definition injects. `variables` replace or add to those of the
    /// task definition.
    ///
    /// # Errors
    /// A task that cannot be started.
    pub async fn start(
        world: &World,
        program: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self, ecs_agent::Error> {
        Self::spawn(world, Self::command(world, program, variables).await?)
    }

    /// The command that [`Self::start`] starts, to be changed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn command(
        world: &World,
        program: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Command, ecs_agent::Error> {
        let injected = ecs_agent::injected(&world.task_definition, &world.aws).await?;
        let feed = world.feed_variables(Dialect::TwitterV1_1);
        let mut overrides: Vec<_> =
            feed.iter().map(|(name, value)| (*name, value.as_str())).collect();
        overrides.extend(injected.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        overrides.extend_from_slice(variables);
        Task::command(&world.task_definition, program, &overrides, &world.aws)
    }

    /// Starts what [`Self::command`] made, perhaps changed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn spawn(world: &World, command: Command) -> Result<Self, ecs_agent::Error> {
        let (sender, lines) = mpsc::unbounded_channel();
        let task = Task::spawn(command, &world.task_definition, &sender)?;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { task, lines, looks, log: WorkerLog::default(), usage: Usage::default() })
    }

    /// Waits for the next look, and reads what was logged until then.
    ///
    /// # Errors
    /// It has ended.
    pub async fn look(&mut self) -> Result<(), Error> {
        tokio::select! {
            status = self.task.wait() => {
                self.read_to_the_end().await;
                return Err(Error::Ended(status?.to_string(), self.log.last.clone()));
            }
            _ = self.looks.tick() => {}
        }
        while let Ok(line) = self.lines.try_recv() {
            self.log.read(&line);
        }
        self.usage = self.task.usage().unwrap_or(self.usage);
        Ok(())
    }

    /// Looks until a condition holds. `what` is what is waited for.
    ///
    /// # Errors
    /// It has ended, or the condition did not hold for [`STUCK`].
    pub async fn until(
        &mut self,
        what: &'static str,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        while !condition(self) {
            if begun.elapsed() > STUCK {
                return Err(self.stuck(what));
            }
            self.look().await?;
        }
        Ok(())
    }

    /// Ends the feed's posts, and waits until what was begun is sent.
    ///
    /// # Errors
    /// It was not for [`STUCK`].
    pub async fn feed_ends(&self, feed: &FeedServer) -> Result<(), Error> {
        timeout(STUCK, feed.end_posts()).await.map_err(|_| self.stuck("the feed's end"))
    }

    /// What is waited for does not come.
    #[must_use]
    pub fn stuck(&self, what: &'static str) -> Error {
        Error::Stuck(what, self.log.last.clone())
    }

    /// Stops it as ECS does. Returns how it ended.
    ///
    /// # Errors
    /// The end was not seen.
    pub async fn stop(&mut self) -> Result<String, Error> {
        let status = self.task.stop().await?.to_string();
        self.read_to_the_end().await;
        Ok(status)
    }

    /// Kills it.
    ///
    /// # Errors
    /// The end was not seen.
    pub async fn kill(&mut self) -> Result<(), Error> {
        self.task.kill().await?;
        self.read_to_the_end().await;
        Ok(())
    }

    async fn read_to_the_end(&mut self) {
        while let Some(line) = self.lines.recv().await {
            self.log.read(&line);
        }
    }
}
