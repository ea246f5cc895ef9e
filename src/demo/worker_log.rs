//! What a worker's log says of its run.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value};

/// How many of the worker's words are kept until they are taken.
const KEPT: usize = 1_000;

/// A line of the worker's own that is neither a post nor a line with the counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Its level, such as `WARN`.
    pub level: String,
    /// Its message.
    pub message: String,
    /// Its fields.
    pub fields: Map<String, Value>,
}

impl Said {
    /// A field that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// A field that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.fields.get(name)?.as_f64()
    }
}

/// What was read of a log so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerLog {
    /// Posts that were accepted.
    pub posts: u64,
    /// Whether a stream was opened.
    pub opened: bool,
    /// How often a new set of credentials was taken into use.
    pub adopted: u64,
    /// The most rows that any line says are in the spool.
    pub most_in_spool: u64,
    /// What the worker has said, oldest first; the newest thousand lines are kept.
    pub said: VecDeque<Said>,
    /// Lines of level ERROR.
    pub errors: Vec<String>,
    /// The last line that is no post.
    pub last: String,
    /// Of the latest line with the counts.
    counts: HashMap<String, u64>,
}

impl WorkerLog {
    /// Reads one more line.
    pub fn read(&mut self, line: &str) {
        let Ok(Value::Object(event)) = serde_json::from_str(line) else {
            line.clone_into(&mut self.last);
            return;
        };
        let in_spool = event.get("rows_in_spool").and_then(Value::as_u64);
        self.most_in_spool = self.most_in_spool.max(in_spool.unwrap_or_default());
        if event.get("level").and_then(Value::as_str) == Some("ERROR") {
            self.errors.push(line.to_owned());
        }
        match event.get("message").and_then(Value::as_str) {
            Some("post") => self.posts += 1,
            Some("progress" | "stopped") => {
                let counts =
                    event.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?)));
                self.counts = counts.collect();
                line.clone_into(&mut self.last);
            }
            Some(message) => {
                match message {
                    "rotated: a new set of credentials is in use" => self.adopted += 1,
                    "the stream is open" => self.opened = true,
                    _ => line.clone_into(&mut self.last),
                }
                let message = message.to_owned();
                self.hear(message, event);
            }
            None => line.clone_into(&mut self.last),
        }
    }

    fn hear(&mut self, message: String, fields: Map<String, Value>) {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let level = text("level").to_owned();
        let is_own = text("target").starts_with("twitterstream");
        if !is_own || !["INFO", "WARN", "ERROR"].contains(&&*level) {
            return;
        }
        if self.said.len() == KEPT {
            self.said.pop_front();
        }
        self.said.push_back(Said { level, message, fields });
    }

    /// A count of the latest line with the counts; 0 before there is one.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }
}
