//! What a worker's log says of its run.

use std::collections::HashMap;

use serde_json::Value;

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
            Some("rotated: a new set of credentials is in use") => self.adopted += 1,
            Some("the stream is open") => self.opened = true,
            _ => line.clone_into(&mut self.last),
        }
    }

    /// A count of the latest line with the counts; 0 before there is one.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }
}
