//! The one sequence of posts that all connections of a server share: each post goes to exactly one of them.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::posts::{ExpectedRow, Generator, Item, Post};
use super::replay;
use super::v2::{Fields, KeptRule, Searched};

/// After so many posts that a reader does not want, a pause is due: others wait for the sequence.
const PASSED_OVER: u32 = 256;

/// Where the posts come from.
pub(super) enum Supply {
    Generated(Box<Generator>),
    Replay(std::vec::IntoIter<replay::Record>),
}

/// Whom a message is taken for: which posts it is sent, and how they are written.
pub(super) enum Reader<'a> {
    /// Every post.
    V1_1,
    /// The posts that match a rule. Without a rule the sequence stands still.
    V2 { fields: &'a Fields, rules: &'a [KeptRule] },
}

/// What there is for a reader.
pub(super) enum Taken {
    Message(Message),
    /// Nothing yet: many posts were passed over that match none of its rules.
    PassedOver,
    /// Nothing: the limit is reached, the recording at its end, or no rule is there.
    Nothing,
}

/// One message, taken from the sequence and not yet delivered.
pub(super) struct Message {
    /// JSON on one line (but for a bare LF inside), without the line's end; empty for a keep-alive.
    pub(super) json: Vec<u8>,
    pub(super) kind: Kind,
    /// What it was written from, to write it again for another reader.
    post: Option<Box<Post>>,
    dialect: Dialect,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V1_1,
    V2,
    /// Recorded: sent as it is to every reader.
    Any,
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
    /// How many were, each once. What was passed over is not among them.
    taken: u64,
    /// How many were passed over.
    passed_over: u64,
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
            passed_over: 0,
            handed_back: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
            buffer: Vec::new(),
        }
    }

    /// Whether matches are known.
    pub(super) fn has_oracle(&self) -> bool {
        matches!(self.supply, Supply::Generated(_))
    }

    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The next message for a reader. Its buffer is best given back with [`Cursor::recycle`].
    pub(super) fn take(&mut self, now: SystemTime, reader: &Reader<'_>) -> Taken {
        if matches!(reader, Reader::V2 { rules: [], .. }) {
            return Taken::Nothing;
        }
        if let Some(message) = self.take_back(reader) {
            return Taken::Message(message);
        }
        if self.left == Some(0) {
            return Taken::Nothing;
        }
        for _ in 0..PASSED_OVER {
            let mut json = std::mem::take(&mut self.buffer);
            json.clear();
            let dialect = reader.dialect();
            let message = match &mut self.supply {
                // X sends blank lines when it is quiet; a reader must take them at any time.
                Supply::Generated(_) if self.rng.u32(..128) == 0 => {
                    Message { json, kind: Kind::KeepAlive, post: None, dialect: Dialect::Any }
                }
                Supply::Generated(generator) => match (generator.next(now), reader) {
                    (Item::Post(post), _) => {
                        let Some(row) = write(generator, &post, reader, &mut json) else {
                            self.passed_over += 1;
                            self.buffer = json;
                            continue;
                        };
                        Message { json, kind: Kind::Post(row), post: Some(post), dialect }
                    }
                    (Item::Notice, Reader::V1_1) => {
                        generator.write_notice(now, &mut json);
                        Message { json, kind: Kind::Notice, post: None, dialect }
                    }
                    (Item::Notice, Reader::V2 { .. }) => {
                        self.buffer = json;
                        continue;
                    }
                },
                Supply::Replay(records) => {
                    let Some(record) = records.next() else { return Taken::Nothing };
                    json.extend_from_slice(&record.json);
                    let kind = if record.post { Kind::Post(None) } else { Kind::Notice };
                    Message { json, kind, post: None, dialect: Dialect::Any }
                }
            };
            if matches!(message.kind, Kind::Post(_)) {
                self.taken += 1;
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
            return Taken::Message(message);
        }
        Taken::PassedOver
    }

    /// Lets the next post go by that nobody is there to be sent. Whether it contains the track, as far
    /// as is known; none if there is no more.
    pub(super) fn let_pass(&mut self, now: SystemTime) -> Option<bool> {
        while let Some(Message { kind, .. }) = self.handed_back.pop_front() {
            if let Kind::Post(row) = kind {
                // It is taken no more, and will not be sent.
                self.taken = self.taken.saturating_sub(1);
                return Some(row.is_some());
            }
        }
        if self.left == Some(0) {
            return None;
        }
        let mut unread = Vec::new();
        let matching = match &mut self.supply {
            // Written all the same, as v1.1 would: what is drawn for it is drawn, and so those who missed other posts
            // are sent the same ones afterwards.
            Supply::Generated(generator) => loop {
                match generator.next(now) {
                    Item::Notice => generator.write_notice(now, &mut unread),
                    Item::Post(post) => {
                        generator.write_v1_1(&post, &mut unread);
                        break post.matches;
                    }
                }
            },
            Supply::Replay(records) => {
                records.find(|record| record.post)?;
                false
            }
        };
        self.left = self.left.map(|left| left.saturating_sub(1));
        Some(matching)
    }

    /// The first that was handed back and is for this reader, written for it.
    fn take_back(&mut self, reader: &Reader<'_>) -> Option<Message> {
        for at in 0..self.handed_back.len() {
            let message = self.handed_back.get(at)?;
            let written = message.dialect == Dialect::Any
                || (message.dialect == Dialect::V1_1 && matches!(reader, Reader::V1_1));
            if written {
                return self.handed_back.remove(at);
            }
            let (Some(post), Supply::Generated(generator)) = (&message.post, &mut self.supply)
            else {
                continue;
            };
            let mut json = Vec::new();
            if let Some(row) = write(generator, post, reader, &mut json) {
                let Message { post, .. } = self.handed_back.remove(at)?;
                let kind = Kind::Post(row);
                return Some(Message { json, kind, post, dialect: reader.dialect() });
            }
        }
        None
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

impl Reader<'_> {
    fn dialect(&self) -> Dialect {
        match self {
            Self::V1_1 => Dialect::V1_1,
            Self::V2 { .. } => Dialect::V2,
        }
    }
}

/// Writes a post for a reader. None if it does not want it; else the row that it must become, if it
/// contains the word.
#[expect(clippy::option_option, reason = "wanted or not, and then with a row or not")]
fn write(
    generator: &mut Generator,
    post: &Post,
    reader: &Reader<'_>,
    json: &mut Vec<u8>,
) -> Option<Option<Box<ExpectedRow>>> {
    match reader {
        Reader::V1_1 => {
            generator.write_v1_1(post, json);
            Some(generator.row_v1_1(post))
        }
        Reader::V2 { fields, rules } => {
            let searched = Searched::of(generator, post);
            let matching: Vec<_> = rules.iter().filter(|rule| rule.matches(&searched)).collect();
            if matching.is_empty() {
                return None;
            }
            generator.write_v2(post, fields, &matching, json);
            Some(generator.row_v2(post))
        }
    }
}
