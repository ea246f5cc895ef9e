//! The one sequence of posts that all connections of a server share: each post goes to exactly one of them.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::posts::{ExpectedRow, Generator, Item};
use super::replay;

/// Where the posts come from.
pub(super) enum Supply {
    Generated(Box<Generator>),
    Replay(std::vec::IntoIter<replay::Record>),
}

/// One message, taken from the sequence and not yet delivered.
pub(super) struct Message {
    /// JSON on one line (but for a bare LF inside), without the line's end; empty for a keep-alive.
    pub(super) json: Vec<u8>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// With the row that it must become, if it matches.
    Post(Option<Box<ExpectedRow>>),
    Notice,
    KeepAlive,
}

/// The sequence, and what of it was delivered.
pub(super) struct Cursor {
    supply: Supply,
    /// How many posts may still be taken.
    left: Option<u64>,
    /// How many were, each once.
    taken: u64,
    /// Taken by a connection that ended before it had sent them in full.
    handed_back: VecDeque<Message>,
    /// Where keep-alives stand between posts.
    rng: fastrand::Rng,
    buffer: Vec<u8>,
}

impl Cursor {
    pub(super) fn new(supply: Supply, limit: Option<u64>, seed: u64) -> Self {
        Self {
            supply,
            left: limit,
            taken: 0,
            handed_back: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
            buffer: Vec::new(),
        }
    }

    /// Whether matches are known.
    pub(super) fn has_oracle(&self) -> bool {
        matches!(self.supply, Supply::Generated(_))
    }

    /// The next message; none when the limit is reached or the recording at its end.
    ///
    /// Its buffer is best given back with [`Cursor::recycle`].
    pub(super) fn take(&mut self, now: SystemTime) -> Option<Message> {
        if let Some(message) = self.handed_back.pop_front() {
            return Some(message);
        }
        if self.left == Some(0) {
            return None;
        }
        let mut json = std::mem::take(&mut self.buffer);
        json.clear();
        let kind = match &mut self.supply {
            // X sends blank lines when it is quiet; a reader must take them at any time.
            Supply::Generated(_) if self.rng.u32(..128) == 0 => Kind::KeepAlive,
            Supply::Generated(generator) => match generator.next(&mut json, now) {
                Item::Post(row) => Kind::Post(row),
                Item::Notice => Kind::Notice,
            },
            Supply::Replay(records) => {
                let record = records.next()?;
                json.extend_from_slice(&record.json);
                if record.post { Kind::Post(None) } else { Kind::Notice }
            }
        };
        if matches!(kind, Kind::Post(_)) {
            self.taken += 1;
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        Some(Message { json, kind })
    }

    /// From now on no new post is taken; one that was handed back still is. Returns how many were
    /// taken in all.
    pub(super) fn end(&mut self) -> u64 {
        self.left = Some(0);
        self.taken
    }

    pub(super) fn hand_back(&mut self, message: Message) {
        self.handed_back.push_front(message);
    }

    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }
}
