//! What happened on either side, and when: one list for both.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::time::Instant;

use crate::demo::world::Model;

/// How many events are kept; the oldest go first.
const KEPT: usize = 2_000;

/// What an event means for who looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// The operator, the service or AWS did something.
    Action,
    /// It is as it should be.
    Good,
    /// It is not.
    Bad,
    /// It is said for the record.
    Note,
}

/// Something that happened. No text holds a secret value: it is the demo's own, an id, or a field of a
/// worker's log line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Counted from 0.
    pub number: usize,
    /// Since the start.
    pub seconds: f64,
    /// On which side; none: on both, or of neither.
    pub side: Option<Model>,
    /// What it means.
    pub tone: Tone,
    /// What happened.
    pub text: String,
}

/// The list. A clone is the same one.
#[derive(Clone)]
pub struct Timeline {
    started: Instant,
    events: Arc<Mutex<VecDeque<Event>>>,
}

impl Timeline {
    /// An empty one that begins at this moment.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self { started, events: Arc::default() }
    }

    /// Seconds from the start to a moment.
    #[must_use]
    pub fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.started).as_secs_f64()
    }

    /// Notes something that happens now.
    pub fn note(&self, side: Option<Model>, tone: Tone, text: impl Into<String>) {
        let seconds = self.seconds(Instant::now());
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let number = events.back().map_or(0, |last| last.number + 1);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(Event { number, seconds, side, tone, text: text.into() });
    }

    /// The events from this number on.
    #[must_use]
    pub fn since(&self, number: usize) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| event.number >= number).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_go_and_the_numbers_go_on() {
        let timeline = Timeline::new(Instant::now());
        for number in 0..KEPT + 3 {
            timeline.note(None, Tone::Note, number.to_string());
        }
        let all = timeline.since(0);
        assert_eq!((all.len(), all[0].number, &*all[0].text), (KEPT, 3, "3"));
        let last = timeline.since(KEPT + 2);
        assert_eq!((last.len(), &*last[0].text), (1, &*(KEPT + 2).to_string()));
    }
}
