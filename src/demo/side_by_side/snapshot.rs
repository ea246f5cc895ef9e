//! How things stand on both sides: what the page, the terminal and the scenario look at. No field can
//! hold a secret value; keys are numbers, secrets are names and version ids.

use serde::Serialize;

use super::attacks::Attacks;
use super::calls::{Calls, Versions};
use super::deployment::Published;
use super::timeline::Event;
use crate::demo::world::Model;

/// The task of a side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Task {
    /// ECS's `lastStatus`.
    pub last_status: &'static str,
    /// Why the one before was stopped, or was not started.
    pub stopped_reason: Option<String>,
    /// How many were started.
    pub starts: u32,
    /// While one is made ready: how long that still takes. Simulated.
    pub simulated_seconds_left: Option<f64>,
    /// How long that took so far, in all. Simulated.
    pub simulated_seconds: f64,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SideSnapshot {
    /// Who hands the task its credentials.
    pub model: Model,
    /// Its task.
    pub task: Task,
    /// Whether a stream is open.
    pub streaming: bool,
    /// Posts that the feed has sent.
    pub posts_sent: u64,
    /// Posts that matched and that the feed has made while nobody had a stream: their rows are lost.
    pub rows_missed: u64,
    /// Those of them that it has made while a task was being made ready. Simulated.
    pub simulated_rows_missed: u64,
    /// Calls of `PutItem` that DynamoDB has acknowledged.
    pub rows_written: u64,
    /// Rows that wait in the spool, as the worker has said last.
    pub rows_in_spool: u64,
    /// The number of the keys that the newest stream was opened with.
    pub keys_in_use: Option<usize>,
    /// The number of the keys that all four secrets hold.
    pub keys_labelled: usize,
    /// The number of the newest keys. Where it is another, the secrets are a torn set.
    pub keys_newest: usize,
    /// Whether the feed accepts keys before the newest.
    pub old_keys_accepted: bool,
    /// Whether the keys in use are older than those that the secrets hold.
    pub stale: bool,
    /// For how long they have been, in all.
    pub seconds_on_old: f64,
    /// How much of that a task was being made ready. Simulated.
    pub simulated_seconds_on_old: f64,
    /// From when until when they were, in seconds since the start; the last may not be over.
    pub stale_intervals: Vec<(f64, f64)>,
    /// How often the feed has refused a request for a stream.
    pub refused: u64,
    /// How often the worker has said that the feed refused a new set that it offered.
    pub sets_refused: u64,
    /// The secrets.
    pub versions: Vec<Versions>,
    /// Its calls to AWS, `DynamoDB`'s apart.
    pub calls: Vec<Calls>,
}

/// Whether a service can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// It answers.
    #[default]
    There,
    /// Every connection to it is reset.
    Away,
}

/// Both sides at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Since the start.
    pub seconds: f64,
    /// Posts a second, on each side.
    pub rate: u32,
    /// What a start of a task is simulated to take on Fargate.
    pub simulated_start_seconds: f64,
    /// What it was published to take.
    pub published_start: Published,
    /// Secrets Manager, of both sides.
    pub secrets_manager: Reach,
    /// `DynamoDB`, of both sides.
    pub dynamodb: Reach,
    /// The model whose task fetches its credentials itself.
    pub embedded: SideSnapshot,
    /// The model whose task is given them by ECS.
    pub injected: SideSnapshot,
    /// What happened; from some number on where that was asked for.
    pub timeline: Vec<Event>,
    /// What the attacks have found.
    pub attacks: Attacks,
}

impl Snapshot {
    /// One of the sides.
    #[must_use]
    pub const fn side(&self, model: Model) -> &SideSnapshot {
        match model {
            Model::Embedded => &self.embedded,
            Model::Injected => &self.injected,
        }
    }
}
