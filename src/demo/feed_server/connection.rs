//! One stream: when it sends what, how records are framed, and how it ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::accounts::Account;
use super::cursor::{Cursor, Kind, Message, Reader, Taken};
use super::faults::{Fault, GARBAGE, StreamError};
use super::gzip;
use super::json::Json;
use super::pacer::Pacer;
use super::statistics::Tally;
use super::v2::{self, Fields, RuleBook};
use super::wire::Wire;
use super::{Shared, State};

/// A full-speed stream hands over chunks of about this size: a chunk per record would make HTTP the bottleneck.
const CHUNK: usize = 64 * 1024;

/// How long a stream waits after many posts that match none of its rules.
const PASSED_OVER: Duration = Duration::from_millis(2);

/// How the records of a stream are chosen and written.
pub(super) enum Dialect {
    V1_1 {
        /// Whether the length of each record stands before it.
        delimited: bool,
    },
    V2 {
        /// Whose rules choose the posts.
        app: String,
        /// What of each post was asked for.
        fields: Fields,
    },
}

impl Dialect {
    pub(super) fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    fn is_delimited(&self) -> bool {
        matches!(self, Self::V1_1 { delimited: true })
    }

    fn reader<'a>(&'a self, rules: &'a RuleBook) -> Reader<'a> {
        match self {
            Self::V1_1 { .. } => Reader::V1_1,
            Self::V2 { app, fields } => Reader::V2 { fields, rules: rules.of(app) },
        }
    }

    /// How long it may be silent.
    fn keep_alive(&self, asked: Duration) -> Duration {
        if self.is_v2() { asked.min(v2::KEEP_ALIVE) } else { asked }
    }
}

/// What was decided about an open stream, for its [`Connection`] to carry out.
pub(super) struct Stream {
    pub(super) consumer_key: String,
    pub(super) access_token: String,
    pub(super) dialect: Arc<Dialect>,
    wake: Arc<Notify>,
    ending: Option<Ending>,
    condition: Condition,
    interlude: Option<Interlude>,
}

/// How a stream ends.
#[derive(Clone)]
pub(super) enum Ending {
    /// The body ends properly.
    Clean,
    /// The same, behind a disconnect message.
    Disconnect { code: u8, reason: String },
    /// The same, behind an error record.
    Error(StreamError),
    /// The socket closes within the body.
    Drop { mid_record: bool },
}

/// What goes wrong with a stream until its end, or until the faults are cleared.
enum Condition {
    Normal,
    CountDown { posts: u64, ending: Ending },
    Stall,
    SlowBytes { every: Duration },
}

/// What is sent once, before the next post.
enum Interlude {
    Garbage { lines: u32 },
    OverLong { left: u64, begun: bool },
    Error(StreamError),
}

impl Stream {
    pub(super) fn new(account: &Account, dialect: Dialect) -> Self {
        Self {
            consumer_key: account.consumer_key.clone(),
            access_token: account.access_token.clone(),
            dialect: Arc::new(dialect),
            wake: Arc::default(),
            ending: None,
            condition: Condition::Normal,
            interlude: None,
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Lets the connection look again at what it is to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.wake();
    }

    pub(super) fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Status { .. } | Fault::EchoCredentials => {}
            Fault::DropAfter { posts, mid_record } => {
                self.condition =
                    Condition::CountDown { posts, ending: Ending::Drop { mid_record } };
            }
            Fault::EndAfter { posts } => {
                self.condition = Condition::CountDown { posts, ending: Ending::Clean };
            }
            Fault::Stall => self.condition = Condition::Stall,
            Fault::SlowBytes { every } => self.condition = Condition::SlowBytes { every },
            Fault::Garbage { lines } => self.interlude = Some(Interlude::Garbage { lines }),
            Fault::OverLongRecord { bytes } => {
                self.interlude = Some(Interlude::OverLong { left: bytes, begun: false });
            }
            Fault::Disconnect { code, reason } => self.end(Ending::Disconnect { code, reason }),
            Fault::ErrorRecord { error, close: true } => self.end(Ending::Error(error)),
            Fault::ErrorRecord { error, close: false } => {
                self.interlude = Some(Interlude::Error(error));
            }
        }
        self.wake();
    }

    pub(super) fn clear_faults(&mut self) {
        self.condition = Condition::Normal;
        self.wake();
    }
}

/// A record of which not all bytes were sent.
struct Partial {
    message: Message,
    framed: Bytes,
    next_byte_at: Instant,
}

/// The sending side of one stream. It is dropped with the HTTP body, whoever ended that.
pub(super) struct Connection {
    shared: Arc<Shared>,
    id: u64,
    wire: Wire,
    wake: Arc<Notify>,
    pacer: Pacer,
    dialect: Arc<Dialect>,
    last_sent: Instant,
    partial: Option<Partial>,
    last_step: Option<Step>,
}

/// What to do next.
enum Step {
    Send(Bytes),
    /// For this long at most, or until something is decided.
    Wait(Option<Instant>),
    /// Close the socket.
    Cut,
    /// End the body.
    End,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, id: u64, stream: &Stream, wire: Wire) -> Self {
        let started = Instant::now();
        Self {
            pacer: Pacer::new(shared.rate, started),
            shared,
            id,
            wire,
            wake: Arc::clone(&stream.wake),
            dialect: Arc::clone(&stream.dialect),
            last_sent: started,
            partial: None,
            last_step: None,
        }
    }

    /// The body of the answer, compressed if the encoder is there.
    pub(super) fn into_body(self, encoder: Option<gzip::Encoder>) -> axum::body::Body {
        let chunks = futures_util::stream::unfold(Some((self, encoder)), |body| async move {
            let (mut connection, mut encoder) = body?;
            Some(match (connection.next().await, &mut encoder) {
                (Some(chunk), None) => (Ok::<_, Infallible>(chunk), Some((connection, encoder))),
                (Some(chunk), Some(gzip)) => (Ok(gzip.encode(&chunk)), Some((connection, encoder))),
                (None, None) => return None,
                (None, Some(gzip)) => (Ok(gzip.end()), None),
            })
        });
        axum::body::Body::from_stream(chunks)
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.step() {
                Step::Send(chunk) => {
                    self.last_sent = Instant::now();
                    self.shared.changed();
                    return Some(chunk);
                }
                Step::Wait(Some(instant)) => {
                    // Whether time passed or something was decided, the next step looks at both.
                    let _ = timeout_at(instant, self.wake.notified()).await;
                }
                Step::Wait(None) => self.wake.notified().await,
                Step::Cut => {
                    self.wire.cut_when_flushed();
                    return std::future::pending().await;
                }
                Step::End => return None,
            }
        }
    }

    /// Decides what to do now. What is to be sent is counted here, and goes to HTTP with no await between.
    fn step(&mut self) -> Step {
        if let Some(step) = self.last_step.take() {
            return step;
        }
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let State { streams, cursor, tally, rules, live, .. } = &mut *state;
        let dialect = Arc::clone(&self.dialect);
        let reader = &dialect.reader(rules);
        let Some(stream) = streams.get_mut(&self.id) else {
            return Step::End;
        };

        if let Some(step) = self.finish_record(stream, tally, live, now) {
            return step;
        }
        if let Some(ending) = stream.ending.clone() {
            return self.end(&ending, cursor, tally, reader);
        }
        if let Condition::Stall = stream.condition {
            return Step::Wait(None);
        }
        if let Some(chunk) = interlude(stream, tally) {
            return Step::Send(chunk);
        }

        let mut due = live.as_ref().unwrap_or(&self.pacer).due(now);
        match &mut stream.condition {
            Condition::CountDown { posts: 0, ending } => {
                let ending = ending.clone();
                stream.ending = Some(ending.clone());
                return self.end(&ending, cursor, tally, reader);
            }
            Condition::CountDown { posts, .. } => due = due.min(*posts),
            Condition::SlowBytes { .. } if due > 0 => match cursor.take((shared.clock)(), reader) {
                Taken::Message(message) => {
                    let mut framed = Vec::new();
                    frame(&mut framed, &message.json, dialect.is_delimited());
                    self.partial =
                        Some(Partial { message, framed: framed.into(), next_byte_at: now });
                    return Step::Wait(Some(now));
                }
                Taken::PassedOver => return Step::Wait(Some(now + PASSED_OVER)),
                Taken::Nothing => {}
            },
            Condition::SlowBytes { .. } | Condition::Normal | Condition::Stall => {}
        }
        let batch = self.batch(cursor, tally, due, reader);
        live.as_mut().unwrap_or(&mut self.pacer).sent += batch.posts;
        if !batch.chunk.is_empty() {
            if let Condition::CountDown { posts, .. } = &mut stream.condition {
                *posts = posts.saturating_sub(batch.posts);
            }
            return Step::Send(batch.chunk.into());
        }
        let keep_alive_at = self.last_sent + dialect.keep_alive(shared.keep_alive);
        if now >= keep_alive_at {
            tally.delivered(Kind::KeepAlive);
            return Step::Send(Bytes::from_static(b"\r\n"));
        }
        let next = match batch.lack {
            Some(Lack::Posts) => keep_alive_at,
            Some(Lack::Matches) => keep_alive_at.min(now + PASSED_OVER),
            None => keep_alive_at.min(live.as_ref().unwrap_or(&self.pacer).next()),
        };
        Step::Wait(Some(next))
    }

    /// A record that was begun is sent on, byte by byte, or at once if the stream is to end or to be well again.
    fn finish_record(
        &mut self,
        stream: &mut Stream,
        tally: &mut Tally,
        live: &mut Option<Pacer>,
        now: Instant,
    ) -> Option<Step> {
        if let Some(Interlude::OverLong { left, begun: true }) = &mut stream.interlude {
            let chunk = over_long_part(left);
            if *left == 0 {
                stream.interlude = None;
            }
            return Some(Step::Send(chunk));
        }
        let mut partial = self.partial.take()?;
        let chunk = match stream.condition {
            Condition::SlowBytes { every } if stream.ending.is_none() => {
                if now < partial.next_byte_at {
                    let instant = partial.next_byte_at;
                    self.partial = Some(partial);
                    return Some(Step::Wait(Some(instant)));
                }
                partial.next_byte_at = now + every;
                partial.framed.split_to(1)
            }
            _ => std::mem::take(&mut partial.framed),
        };
        if partial.framed.is_empty() {
            live.as_mut().unwrap_or(&mut self.pacer).sent += tally.delivered(partial.message.kind);
        } else {
            self.partial = Some(partial);
        }
        Some(Step::Send(chunk))
    }

    fn end(
        &mut self,
        ending: &Ending,
        cursor: &mut Cursor,
        tally: &mut Tally,
        reader: &Reader<'_>,
    ) -> Step {
        match ending {
            Ending::Clean => Step::End,
            Ending::Disconnect { code, reason } => {
                self.last_step = Some(Step::End);
                tally.delivered(Kind::Notice);
                let record = match &*self.dialect {
                    Dialect::V1_1 { .. } => disconnect(*code, self.id, reason),
                    // X tells a reader of v2 no more than this, whatever the reason.
                    Dialect::V2 { .. } => StreamError::OperationalDisconnect.record(),
                };
                let mut framed = Vec::new();
                frame(&mut framed, &record, self.dialect.is_delimited());
                Step::Send(framed.into())
            }
            Ending::Error(error) => {
                self.last_step = Some(Step::End);
                tally.delivered(Kind::Notice);
                let mut framed = Vec::new();
                frame(&mut framed, &error.record(), self.dialect.is_delimited());
                Step::Send(framed.into())
            }
            Ending::Drop { mid_record: false } => Step::Cut,
            Ending::Drop { mid_record: true } => {
                let Some(message) = next_post(cursor, (self.shared.clock)(), reader) else {
                    return Step::Cut;
                };
                self.last_step = Some(Step::Cut);
                let mut framed = Vec::new();
                frame(&mut framed, &message.json, self.dialect.is_delimited());
                framed.truncate(framed.len() / 2);
                cursor.hand_back(message);
                Step::Send(framed.into())
            }
        }
    }

    /// As many posts as are due and fit in a chunk, with what stands between them.
    fn batch(
        &self,
        cursor: &mut Cursor,
        tally: &mut Tally,
        due: u64,
        reader: &Reader<'_>,
    ) -> Batch {
        let now = (self.shared.clock)();
        let mut batch = Batch { chunk: Vec::new(), posts: 0, lack: None };
        while batch.posts < due && batch.chunk.len() < CHUNK {
            let message = match cursor.take(now, reader) {
                Taken::Message(message) => message,
                Taken::PassedOver => {
                    batch.lack = Some(Lack::Matches);
                    break;
                }
                Taken::Nothing => {
                    batch.lack = Some(Lack::Posts);
                    break;
                }
            };
            if batch.chunk.is_empty() {
                let expected = usize::try_from(due).unwrap_or(usize::MAX).saturating_mul(3_000);
                batch.chunk.reserve(expected.min(CHUNK + CHUNK / 8));
            }
            frame(&mut batch.chunk, &message.json, self.dialect.is_delimited());
            cursor.recycle(message.json);
            batch.posts += tally.delivered(message.kind);
        }
        batch
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let stream = state.streams.remove(&self.id);
        if let (Some(stream), Dialect::V2 { app, .. }) = (stream, &*self.dialect)
            && !stream.is_ending()
        {
            state.admission.closed_by_client(app, (self.shared.clock)());
        }
        if let Some(Partial { message, .. }) = self.partial.take() {
            state.cursor.hand_back(message);
        }
        // One that waits for want of posts may have one now.
        state.streams.values().for_each(Stream::wake);
        drop(state);
        self.shared.changed();
    }
}

struct Batch {
    chunk: Vec<u8>,
    posts: u64,
    /// Why there is no more.
    lack: Option<Lack>,
}

enum Lack {
    /// There was nothing more to take.
    Posts,
    /// There were posts, but none that matched.
    Matches,
}

/// Appends a record and its line's end. With `delimited=length`, the length before it counts both.
fn frame(out: &mut Vec<u8>, json: &[u8], delimited: bool) {
    if delimited && !json.is_empty() {
        out.extend_from_slice(format!("{}\r\n", json.len() + 2).as_bytes());
    }
    out.extend_from_slice(json);
    out.extend_from_slice(b"\r\n");
}

/// The next message that has two halves.
fn next_post(cursor: &mut Cursor, now: SystemTime, reader: &Reader<'_>) -> Option<Message> {
    for _ in 0..1_000 {
        match cursor.take(now, reader) {
            Taken::Message(message) if matches!(message.kind, Kind::Post(_)) => {
                return Some(message);
            }
            Taken::Message(_) | Taken::PassedOver => {}
            Taken::Nothing => break,
        }
    }
    None
}

fn disconnect(code: u8, id: u64, reason: &str) -> Vec<u8> {
    let mut json = Json::default();
    json.raw(r#"{"disconnect":{"code":"#);
    json.number(u64::from(code));
    json.raw(r#","stream_name":"statuses-filter-"#);
    json.number(id);
    json.raw(r#"","reason":"#);
    json.text(reason);
    json.raw("}}");
    json.finish()
}

/// What is to be sent before the next post, if anything.
fn interlude(stream: &mut Stream, tally: &mut Tally) -> Option<Bytes> {
    let delimited = stream.dialect.is_delimited();
    match stream.interlude.as_mut()? {
        Interlude::Garbage { lines } => {
            let lines = GARBAGE.iter().cycle().zip(0..*lines);
            let chunk = lines.flat_map(|(line, _)| [*line, b"\r\n"]).collect::<Vec<_>>().concat();
            stream.interlude = None;
            Some(chunk.into())
        }
        Interlude::OverLong { left, begun } => {
            *begun = true;
            let mut start = Vec::new();
            if delimited {
                start.extend_from_slice(format!("{}\r\n", *left + 2).as_bytes());
            }
            start.extend_from_slice(OVER_LONG_HEAD);
            *left = left.saturating_sub(OVER_LONG_HEAD.len() as u64 + OVER_LONG_TAIL.len() as u64);
            Some(start.into())
        }
        Interlude::Error(error) => {
            let mut framed = Vec::new();
            frame(&mut framed, &error.record(), delimited);
            tally.delivered(Kind::Notice);
            stream.interlude = None;
            Some(framed.into())
        }
    }
}

const OVER_LONG_HEAD: &[u8] = br#"{"over_long":""#;
const OVER_LONG_TAIL: &[u8] = br#""}"#;

/// Some more of an over-long record's filling; with the last of it, the record's end.
fn over_long_part(left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(CHUNK).min(CHUNK);
    *left -= length as u64;
    let mut part = vec![b'x'; length];
    if *left == 0 {
        part.extend_from_slice(OVER_LONG_TAIL);
        part.extend_from_slice(b"\r\n");
    }
    part.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_line_counts_the_record_and_its_line_end_but_no_keep_alive() {
        let mut out = Vec::new();
        frame(&mut out, b"{}", true);
        frame(&mut out, b"", true);
        frame(&mut out, b"{}", false);
        assert_eq!(out, b"4\r\n{}\r\n\r\n{}\r\n");
    }

    #[test]
    fn a_stream_of_v2_is_never_silent_for_longer_than_x_promises() {
        let v2 = Dialect::V2 { app: String::new(), fields: Fields::default() };
        let v1_1 = Dialect::V1_1 { delimited: false };
        let [short, long] = [5, 30].map(Duration::from_secs);
        assert_eq!([v2.keep_alive(short), v2.keep_alive(long)], [short, Duration::from_secs(20)]);
        assert_eq!([v1_1.keep_alive(short), v1_1.keep_alive(long)], [short, long]);
    }

    #[test]
    fn an_over_long_record_has_the_length_asked_for_and_is_json() {
        let account = Account::generated(&mut fastrand::Rng::with_seed(1));
        let mut stream = Stream::new(&account, Dialect::V1_1 { delimited: false });
        let mut tally = Tally::new(false, false);
        let bytes = 3 * CHUNK as u64 + 7;
        stream.apply(Fault::OverLongRecord { bytes });
        let mut record = interlude(&mut stream, &mut tally).unwrap().to_vec();
        let Some(Interlude::OverLong { left, .. }) = &mut stream.interlude else { panic!() };
        while *left > 0 {
            record.extend_from_slice(&over_long_part(left));
        }
        let record = record.strip_suffix(b"\r\n").unwrap();
        assert_eq!(record.len() as u64, bytes);
        serde_json::from_slice::<serde::de::IgnoredAny>(record).unwrap();
    }
}
