//! The local world: an AWS account set up as the scripts would set it up, and a feed.
//!
//! `cargo demo` and the integration tests start it with the same code and the shipped files, so
//! that what ships is what is tested.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Clock;
use super::ecs_agent::{TaskDefinition, filled_in};
use super::feed_server::{self, Account, FeedServer};
use super::local_aws::{self, LocalAws, Settings};
use crate::feed::Dialect;

/// The secrets' names, as the documents have them, in the order of an account's four keys.
pub const SECRETS: [&str; 4] =
    ["CONSUMERKEY", "CONSUMERSECRETKEY", "ACCESSTOKEN", "ACCESSTOKENSECRET"];

/// The queue's name in `iam/task-role-rotation-queue.json`.
pub const ROTATION_QUEUE: &str = "twitterstream-rotations";

/// Why a world could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shipped file cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A shipped file is not JSON.
    #[error("{path} is not valid")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The local AWS refuses.
    #[error("the local AWS was not set up")]
    Aws(#[from] local_aws::Error),
    /// The feed server refuses.
    #[error("the feed server was not started")]
    Feed(#[from] feed_server::Error),
    /// The shipped task definition cannot be used.
    #[error("the task was not set up")]
    Task(#[from] super::ecs_agent::Error),
}

/// A running world. Both servers stop when it is dropped.
pub struct World {
    /// The AWS account.
    pub aws: LocalAws,
    /// The feed.
    pub feed: FeedServer,
    /// The task definition of the embedded model.
    pub task_definition: TaskDefinition,
    /// Where the shipped files are.
    root: PathBuf,
}

impl World {
    /// Starts both servers, with the roles of `iam/`, the table and the four secrets in place. The
    /// keys in the secrets are those of the feed's first account.
    ///
    /// `root` is the folder that holds `iam/` and `task-definition/`.
    ///
    /// # Errors
    /// A shipped file that cannot be used, or a server that does not start.
    pub async fn start(
        root: &Path,
        clock: Clock,
        feed: feed_server::Options,
    ) -> Result<Self, Error> {
        let keys = feed.accounts.first().map(keys_of);
        let aws = LocalAws::start(Settings::new(clock)).await?;
        let feed = FeedServer::start(feed).await?;
        let definition = root.join("task-definition/embedded.json");
        let task_definition = TaskDefinition::read(&definition, &aws)?;
        let world = Self { aws, feed, task_definition, root: root.to_owned() };
        let trust = world.document("trust-policy.json")?;
        let policy = world.document("task-role-embedded.json")?;
        let role = world.task_definition.task_role();
        world.aws.put_role(role, &trust, &[("task-role-embedded", policy)]).await?;
        world.aws.create_table(world.table())?;
        for (name, value) in SECRETS.iter().zip(keys.into_iter().flatten()) {
            world.aws.seed_secret(name, &value)?;
        }
        Ok(world)
    }

    /// The table of the task definition.
    #[must_use]
    pub fn table(&self) -> &str {
        self.task_definition.variable("DYNAMODBTABLE").unwrap_or_default()
    }

    /// How many calls of `PutItem` the table has acknowledged.
    #[must_use]
    pub fn rows_put(&self) -> u64 {
        let calls = self.aws.table_calls();
        let put = calls.get(self.table()).and_then(|calls| calls.ok.get("PutItem").copied());
        put.unwrap_or_default()
    }

    /// What makes a worker speak a dialect with the feed: `FEED`, and `FEED_URL`.
    #[must_use]
    pub fn feed_variables(&self, dialect: Dialect) -> [(&'static str, String); 2] {
        let url = format!("{}{}", self.feed.base_url(), self.feed_path(dialect));
        [("FEED", dialect.name().to_owned()), ("FEED_URL", url)]
    }

    /// The path of `FEED_URL`: an endpoint's in v1.1, and none in v2, where it is a base.
    #[must_use]
    pub const fn feed_path(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::XV2 => "",
            Dialect::TwitterV1_1 => self.feed.path(),
        }
    }

    /// Makes the queue of rotation events, and grants it to the task role. Returns its URL, for
    /// `ROTATION_QUEUE_URL`.
    ///
    /// # Errors
    /// A shipped file that cannot be used, or a local AWS that refuses.
    pub async fn add_rotation_queue(&self) -> Result<String, Error> {
        let queue = self.aws.create_rotation_queue(ROTATION_QUEUE)?;
        let policy = self.document("task-role-rotation-queue.json")?;
        let role = self.task_definition.task_role();
        self.aws.put_role_policy(role, "task-role-rotation-queue", &policy).await?;
        Ok(queue.url)
    }

    /// A policy document of `iam/`, its placeholders filled in.
    ///
    /// # Errors
    /// A file that cannot be read, or is not JSON.
    pub fn document(&self, name: &str) -> Result<Value, Error> {
        let path = self.root.join("iam").join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::File { path: path.clone(), source })?;
        serde_json::from_str(&filled_in(&text, &self.aws))
            .map_err(|source| Error::Json { path, source })
    }
}

/// An account's keys in the order of [`SECRETS`].
#[must_use]
pub fn keys_of(account: &Account) -> [String; 4] {
    [
        account.consumer_key.clone(),
        account.consumer_secret.clone(),
        account.access_token.clone(),
        account.access_token_secret.clone(),
    ]
}
