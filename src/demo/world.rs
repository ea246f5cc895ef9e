//! The local world: an AWS account set up as the scripts would set it up, and a feed.
//!
//! `cargo demo` and the integration tests start it with the same code and the shipped files, so
//! that what ships is what is tested.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::Clock;
use super::ecs_agent::{TaskDefinition, filled_in};
use super::feed_server::{self, Account, FeedServer};
use super::local_aws::{self, LocalAws, Settings};
use crate::feed::Dialect;

/// The secrets' names, as the worker in Python has them, in the order of an account's four keys.
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

/// Who hands a task its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// Nobody: the worker asks Secrets Manager with its task role.
    Embedded,
    /// ECS, with the task execution role, in environment variables: the counter-example.
    Injected,
}

impl Model {
    /// Both, as they stand beside each other.
    pub const BOTH: [Self; 2] = [Self::Embedded, Self::Injected];

    /// As in the names of the shipped files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Injected => "injected",
        }
    }
}

/// A running world. Both servers stop when it is dropped.
pub struct World {
    /// The AWS account.
    pub aws: LocalAws,
    /// The feed.
    pub feed: FeedServer,
    /// The task definition of its model.
    pub task_definition: TaskDefinition,
    /// Where the shipped files are.
    root: PathBuf,
}

impl World {
    /// The world of the embedded model.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub async fn start(
        root: &Path,
        clock: Clock,
        feed: feed_server::Options,
    ) -> Result<Self, Error> {
        Self::of(Model::Embedded, root, clock, feed).await
    }

    /// Starts both servers, with the model's roles of `iam/`, the table and the four secrets in place.
    /// The keys in the secrets are those of the feed's first account.
    ///
    /// `root` is the folder that holds `iam/` and `task-definition/`.
    ///
    /// # Errors
    /// A shipped file that cannot be used, or a server that does not start.
    pub async fn of(
        model: Model,
        root: &Path,
        clock: Clock,
        feed: feed_server::Options,
    ) -> Result<Self, Error> {
        let keys = feed.accounts.first().map(keys_of);
        let aws = LocalAws::start(Settings::new(clock)).await?;
        let feed = FeedServer::start(feed).await?;
        let mut secrets = Vec::new();
        for (name, value) in SECRETS.into_iter().zip(keys.into_iter().flatten()) {
            let (arn, _) = aws.seed_secret(name, &value)?;
            secrets.push((name, arn));
        }
        let definition = root.join("task-definition").join(format!("{}.json", model.name()));
        let task_definition = TaskDefinition::read(&definition, &aws, &secrets)?;
        let world = Self { aws, feed, task_definition, root: root.to_owned() };
        let trust = world.document("trust-policy.json")?;
        for (role, kind) in [
            (world.task_definition.task_role(), "task-role"),
            (world.task_definition.execution_role(), "task-execution-role"),
        ] {
            let name = format!("{kind}-{}", model.name());
            let policy = world.document(&format!("{name}.json"))?;
            world.aws.put_role(role, &trust, &[(&name, policy)]).await?;
        }
        world.aws.create_table(world.table())?;
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
