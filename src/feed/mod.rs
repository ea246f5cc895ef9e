//! The stream: connected, read, and connected again for as long as the worker runs.
//!
//! [`Feed`] is the state machine: [`Feed::next`] moves it on, and where it waits the wait comes from
//! [`back_off`]. What differs between feeds is behind [`dialect::Wire`]: [`twitter_v1_1`] with its
//! signature in [`oauth1`], and [`x_v2`] with its [`connect_budget`]. A [`session`] is credentials at
//! work, [`connection`] the way to the socket. Framing is in [`lines`], what a record says in
//! [`message`], and its beginning in [`head`]; `doubles` knows what two streams have both brought, and
//! [`read_budget`] how many posts may be read. Whoever watches is told the [`State`].

pub mod back_off;
mod body;
pub mod connect_budget;
pub mod connection;
pub mod dialect;
mod doubles;
pub mod head;
pub mod lines;
pub mod message;
pub mod oauth1;
pub mod read_budget;
#[cfg(test)]
mod said;
pub mod session;
#[cfg(test)]
mod simulation;
mod state;
mod stream;
pub mod twitter_v1_1;
pub mod x_v2;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use reqwest::{Response, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use url::Url;

use self::back_off::{BackOff, Class};
pub use self::dialect::Dialect;
use self::dialect::{Failure, Wire};
use self::doubles::Doubles;
use self::head::Head;
use self::message::{Message, Notice, Post};
use self::read_budget::{ReadBudget, Spent};
use self::session::Session;
pub use self::state::State;
use self::stream::{Farewell, Stream};
use crate::clock::Clock;
use crate::counts::Counts;
use crate::credentials::Generation;
use crate::credentials::rotation::{Port, Verdict};
use crate::retry::Jitter;
use crate::telemetry::{Seldom, chain, peer_text};

/// How long a stream must deliver before the failures before it are forgotten. One that is opened
/// and closed again at once is a failure like another.
const PROVEN: Duration = Duration::from_secs(10);

/// How long a stream is read on beside the one that has taken over. v1.1 cuts the oldest at once; what
/// it had sent by then may still be on its way.
const OVERLAP: Duration = Duration::from_mins(1);

/// The first wait, and the longest, before refused credentials are tried again beside those in use:
/// services accept new keys some time after they were made.
const OFFER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(320));

/// Why a feed will never deliver again.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    Client(#[source] reqwest::Error),
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
    /// Nobody is trusted.
    #[error(
        "there is no certificate authority to trust: install a CA bundle, or name one in SSL_CERT_FILE"
    )]
    NoRoots,
    /// The request could not be signed.
    #[error("the request to the feed was not signed")]
    Sign(#[from] oauth1::SignError),
    /// The server refused the request itself, and will again.
    #[error(
        "the feed at {url} refused the request with status {status}: {advice} (it said: {text})"
    )]
    Refused {
        /// The endpoint.
        url: Url,
        /// Its answer.
        status: StatusCode,
        /// What to do.
        advice: &'static str,
        /// The server's own words, bounded and escaped, without live values.
        text: String,
    },
    /// The server does not take a rule that `FILTER` asks for.
    #[error("the feed at {url} does not take a rule of FILTER: {text}")]
    Rules {
        /// The endpoint.
        url: Url,
        /// Which, and why, in the server's own words.
        text: String,
    },
}

/// A stream that is kept open, and moved over to new credentials without a gap.
///
/// At any moment there are streams to read (one, or for a moment two while the next set of
/// credentials takes over, or none), at most one attempt to open another, and maybe an offer: a set
/// that is to be proven by an attempt of its own while the streams are read.
pub struct Feed {
    wire: Arc<dyn Wire>,
    /// The credentials in use.
    session: Arc<Session>,
    port: Port,
    /// Oldest first. All but the last were taken over from, and are read to their end.
    streams: Vec<Stream>,
    /// Which of them the last record came from.
    reading: usize,
    attempt: Option<Attempt>,
    /// When there is no stream that lasts: not before this moment is one opened.
    not_before: Instant,
    back_off: BackOff,
    read_budget: ReadBudget,
    /// Whether the read budget is said to be spent.
    spent: bool,
    offer: Option<Offer>,
    /// The server has asked to be left alone.
    told_to_wait: bool,
    /// Since when no stream has lasted.
    missed_since: Instant,
    state: watch::Sender<State>,
    warned: Seldom,
    end_said: Seldom,
    closed_said: Seldom,
    doubles: Doubles,
    counts: Arc<Counts>,
    clock: Clock,
}

struct Attempt {
    session: Arc<Session>,
    begun: Instant,
    /// It opens no stream, and may be dropped.
    is_proof: bool,
    answer: Pin<Box<dyn Future<Output = Result<Good, Failure>> + Send>>,
}

/// An attempt that is over.
struct Over {
    session: Arc<Session>,
    begun: Instant,
    is_proof: bool,
    answer: Result<Good, Failure>,
}

/// What an attempt came to.
enum Good {
    /// A stream.
    Stream(Response),
    /// The proof that the credentials are good.
    Proof,
}

/// A set of credentials that is to be proven.
struct Offer {
    session: Arc<Session>,
    not_before: Instant,
    waits: Jitter,
    /// The server has asked to be left alone with it until then.
    rate_limited: bool,
}

impl Feed {
    /// A feed that connects when it is first read. New credentials come through `port`.
    #[must_use]
    pub fn new(
        wire: Arc<dyn Wire>,
        posts: read_budget::Limits,
        generation: Arc<Generation>,
        port: Port,
        counts: Arc<Counts>,
        clock: Clock,
    ) -> Self {
        let missed_since = Instant::now();
        Self {
            wire,
            session: Arc::new(Session::new(generation)),
            port,
            streams: Vec::new(),
            reading: 0,
            attempt: None,
            not_before: Instant::now(),
            back_off: BackOff::default(),
            read_budget: ReadBudget::new(posts),
            spent: false,
            offer: None,
            told_to_wait: false,
            missed_since,
            state: watch::Sender::new(State::Connecting { since: missed_since, held_off: false }),
            warned: Seldom::default(),
            end_said: Seldom::default(),
            closed_said: Seldom::default(),
            doubles: Doubles::default(),
            counts,
            clock,
        }
    }

    /// What the feed is doing, from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The next record that is not empty. It waits, and connects, for as long as that takes; a
    /// caller that drops the future and asks again loses nothing.
    ///
    /// # Errors
    /// The feed will never deliver again.
    pub async fn next(&mut self) -> Result<Bytes, FeedError> {
        loop {
            if let Some(record) = self.buffered() {
                return Ok(record);
            }
            self.close();
            self.begin();
            self.tell_state();
            let begin_at = self.begin_at();
            tokio::select! {
                biased;
                answer = answer(&mut self.attempt) => self.answered(answer)?,
                // An attempt to open a stream is never dropped: the server may have begun to send.
                Ok(()) = self.port.candidates.changed(), if self.attempt.is_none() => self.offered(),
                (index, filled) = fill(&mut self.streams, self.wire.stall()) => self.filled(index, filled),
                () = at(begin_at), if self.attempt.is_none() => {}
            }
        }
    }

    /// The next record of what has been received already.
    pub fn buffered(&mut self) -> Option<Bytes> {
        self.streams.iter_mut().enumerate().find_map(|(index, stream)| {
            self.reading = index;
            stream.record(&self.counts)
        })
    }

    /// The post in a record of [`Self::next`] or [`Self::buffered`], unless the stream before has
    /// brought it already. Anything else is counted, and heeded where it concerns the stream.
    pub fn post<'a>(&mut self, record: &'a [u8]) -> Option<Box<Post<'a>>> {
        match self.wire.read(record) {
            Message::Post(post) if self.is_double(&post.id) => {
                self.counts.posts_doubled.increment();
            }
            Message::Post(post) => {
                self.counts.posts_read.increment();
                self.spend();
                return Some(post);
            }
            Message::Notice(notice) => {
                self.counts.notices.increment();
                self.heed(&notice);
            }
            Message::Unknown => self.counts.unknown.increment(),
            Message::Malformed => {
                self.counts.malformed.increment();
                tracing::debug!(bytes = record.len(), "a record was not understood");
            }
        }
        None
    }

    /// The head of a record, where it is plainly a post; a part of the cost of [`Self::post`].
    #[must_use]
    pub fn head<'a>(&self, record: &'a [u8]) -> Option<Head<'a>> {
        self.wire.head(record)
    }

    /// Counts a post as [`Self::post`] does, but does not give it.
    pub fn pass_over(&mut self, head: &Head<'_>) {
        if self.is_double(head.id) {
            self.counts.posts_doubled.increment();
        } else {
            self.counts.posts_read.increment();
            self.spend();
        }
    }

    /// Whether the post came on another stream, too. While one takes over from another, or may be
    /// about to, what they bring is remembered.
    fn is_double(&mut self, id: &str) -> bool {
        if self.streams.len() > 1 || self.is_proving() {
            !self.doubles.remember(id, Instant::now())
        } else {
            // Nothing is remembered most of the time, and then the time is not asked for.
            !self.doubles.is_empty() && self.doubles.knows(id, Instant::now())
        }
    }

    /// Whether a set is another than the one in use.
    fn is_offered(&self, session: &Arc<Session>) -> bool {
        !Arc::ptr_eq(session, &self.session)
    }

    fn is_proving(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| self.is_offered(&attempt.session))
    }

    /// One more post was read, of a feed that may be paid for by the post.
    fn spend(&mut self) {
        if self.spent || !self.read_budget.is_limited() {
            return;
        }
        let spent = self.read_budget.read((self.clock)());
        self.counts.read_budget_percent.set(self.read_budget.percent());
        match spent {
            Spent::Little => {}
            Spent::Most(period) => {
                let period = period.name();
                tracing::warn!(period, "four fifths of READ_BUDGET are read");
            }
            Spent::All(period) => {
                self.spent = true;
                let period = period.name();
                tracing::error!(
                    period,
                    "READ_BUDGET is read: the stream is closed until the period turns"
                );
            }
        }
    }

    /// Closes what the server has said is over, and everything where no post may be read any more.
    /// All that was received has been read before.
    fn close(&mut self) {
        let over = self
            .streams
            .iter()
            .position(|stream| stream.farewell.as_ref().is_some_and(|farewell| farewell.over));
        if let Some(index) = over {
            self.filled(index, Err("the feed has ended it".to_owned()));
        }
        if !self.spent {
            return;
        }
        let wait = self.read_budget.closed_for((self.clock)());
        self.counts.read_budget_percent.set(self.read_budget.percent());
        if let Some(wait) = wait {
            self.streams.clear();
            // The wall clock may be set while this waits.
            self.not_before = Instant::now() + wait.min(Duration::from_hours(1));
        } else {
            self.spent = false;
            self.not_before = Instant::now();
            tracing::info!("READ_BUDGET's period has turned: the stream is opened again");
        }
    }

    fn tell_state(&mut self) {
        let (now, before) = (Instant::now(), *self.state.borrow());
        let state = if self.spent {
            self.missed_since = now;
            State::Paused { until: self.not_before }
        } else if self.lasts() {
            match before {
                State::Delivering { .. } => before,
                State::Connecting { .. } | State::Paused { .. } => State::Delivering { since: now },
            }
        } else {
            if matches!(before, State::Delivering { since } if since.elapsed() > PROVEN) {
                self.missed_since = now;
            }
            let held_off = self.told_to_wait || self.wire.free_at(now) > now;
            State::Connecting { since: self.missed_since, held_off }
        };
        if state != before {
            self.state.send_replace(state);
        }
    }

    fn heed(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Disconnect { code, reason } => {
                let mut ended = format!("the feed ended the stream with code {code}");
                if let Some(kept_back) = self.end_said.due() {
                    let reason = self.quoted(reason);
                    tracing::warn!(code, reason, kept_back, "the feed is about to disconnect");
                    ended = format!("{ended}: {reason}");
                }
                // 2 and 7: others opened a stream with these credentials. Whoever comes back at once
                // cuts theirs, and they his.
                let class = if matches!(code, 2 | 7) { Class::Http } else { Class::Network };
                self.expect_end(Farewell { class, over: false, reason: ended });
            }
            Notice::Problem { kind, title, detail } => {
                let many = kind == "TooManyConnections";
                let mut ended = "the feed ended the stream".to_owned();
                if let Some(kept_back) = self.end_said.due() {
                    let [kind, title, detail] = [kind, title, detail].map(|text| self.quoted(text));
                    tracing::warn!(
                        kind,
                        title,
                        detail,
                        kept_back,
                        "the feed has a problem with the stream"
                    );
                    ended = format!("{ended}: {title}, {kind}: {detail}");
                }
                let class = if many { Class::RateLimit } else { Class::Network };
                self.expect_end(Farewell { class, over: true, reason: ended });
            }
            Notice::Warning { code, message } => {
                let Some(kept_back) = self.warned.due() else { return };
                let (code, said) = (self.quoted(code), self.quoted(message));
                // No field of an event is called `message`: its own text is.
                tracing::warn!(code, said, kept_back, "the feed warns");
            }
            Notice::Limit { track } => {
                if let Some(kept_back) = self.warned.due() {
                    tracing::warn!(
                        withheld = track,
                        kept_back,
                        "the feed withheld matching posts: rate limit"
                    );
                }
            }
            Notice::Delete | Notice::ScrubGeo | Notice::StatusWithheld | Notice::UserWithheld => {}
        }
    }

    fn expect_end(&mut self, farewell: Farewell) {
        if let Some(stream) = self.streams.get_mut(self.reading) {
            stream.farewell = Some(farewell);
        }
    }

    /// A peer's words, fit for the log. They are bounded last: of a value that is cut at the bound nothing
    /// would be found any more.
    fn quoted(&self, text: &str) -> String {
        let text = self.session.redact(text);
        match &self.offer {
            Some(offer) => offer.session.quoted(&text),
            None => peer_text(&text),
        }
    }

    /// When the next attempt may begin; `None` while there is nothing to attempt.
    fn begin_at(&self) -> Option<Instant> {
        if self.spent {
            // No post may be read, so nothing is opened, and new credentials wait with the rest.
            return Some(self.not_before);
        }
        let open = (!self.lasts()).then_some(self.not_before);
        let prove = self.offer.as_ref().map(|offer| offer.not_before);
        let wanted = open.into_iter().chain(prove).min()?;
        // A proof beside a stream opens none.
        Some(if self.lasts() { wanted } else { self.wire.free_at(wanted) })
    }

    /// Whether there is a stream that is not about to end.
    fn lasts(&self) -> bool {
        self.streams.iter().any(|stream| stream.until.is_none())
    }

    /// Begins the attempt that is due. An offer goes first: the set in use has been proven, or
    /// has just failed.
    fn begin(&mut self) {
        if self.attempt.is_some() {
            return;
        }
        let now = Instant::now();
        if self.begin_at().is_none_or(|begin_at| begin_at > now) {
            return;
        }
        let offered = self.offer.as_ref().filter(|offer| offer.not_before <= now);
        let session = match offered {
            Some(offer) => &offer.session,
            None if !self.lasts() && self.not_before <= now => &self.session,
            None => return,
        };
        let session = Arc::clone(session);
        let wire = || Arc::clone(&self.wire);
        let proof = if self.lasts() { wire().prove(Arc::clone(&session)) } else { None };
        let is_proof = proof.is_some();
        let answer: Pin<Box<dyn Future<Output = _> + Send>> = if let Some(proof) = proof {
            Box::pin(async { proof.await.map(|()| Good::Proof) })
        } else {
            let stream = wire().open(Arc::clone(&session));
            Box::pin(async { stream.await.map(Good::Stream) })
        };
        self.attempt = Some(Attempt { session, begun: now, is_proof, answer });
    }

    fn offered(&mut self) {
        let offered = self.port.candidates.borrow_and_update().clone();
        self.offer = offered.map(|candidate| Offer {
            session: Arc::new(Session::new(Arc::clone(&candidate.generation))),
            not_before: Instant::now(),
            waits: Jitter::new(OFFER.0, OFFER.1),
            rate_limited: false,
        });
    }

    fn answered(
        &mut self,
        Over { session, begun, is_proof, answer }: Over,
    ) -> Result<(), FeedError> {
        let is_offer = self.is_offered(&session);
        let generation = Arc::clone(session.generation());
        match answer {
            Ok(good) => {
                if let Good::Stream(response) = good {
                    self.opened(response, is_offer);
                }
                if is_offer {
                    // The failures so far were those of the credentials before.
                    self.back_off.reset();
                    self.offer = None;
                    self.session = session;
                }
                let proven_in = begun.elapsed();
                self.say(Verdict::Accepted { generation, proven_in });
                Ok(())
            }
            Err(Failure::Stop(error)) if !is_offer => Err(error),
            Err(failure) => {
                let (class, refused, reset, reason) = match failure {
                    Failure::Wait { class, refused, reset, reason } => {
                        (class, refused, reset, reason)
                    }
                    Failure::Stop(error) => (Class::Http, true, None, chain(&error)),
                };
                let counts = &self.counts;
                if refused {
                    counts.credential_refusals.increment();
                }
                if !is_proof {
                    let failed = match class {
                        Class::Network => &counts.connects_failed_network,
                        Class::Http => &counts.connects_failed_http,
                        Class::RateLimit => &counts.connects_failed_rate_limit,
                    };
                    failed.increment();
                }
                if is_offer {
                    self.postpone_offer(class, reset, &reason);
                } else {
                    self.wait(class, reset, &reason);
                }
                drop(session);
                if refused {
                    self.say(Verdict::Refused { generation });
                }
                Ok(())
            }
        }
    }

    fn opened(&mut self, response: Response, is_offer: bool) {
        self.counts.connects.increment();
        let until = Instant::now() + OVERLAP;
        for old in &mut self.streams {
            old.until.get_or_insert(until);
        }
        // One that takes over may find that the stream before has just been cut.
        if self.streams.is_empty() && !is_offer {
            self.doubles.forget();
        }
        let takes_over = !self.streams.is_empty();
        tracing::info!(url = %self.wire.url(), takes_over, "the stream is open");
        self.streams.push(Stream::new(response));
    }

    fn postpone_offer(&mut self, class: Class, reset: Option<Duration>, reason: &str) {
        if self.streams.len() < 2 {
            self.doubles.forget();
        }
        let Some(offer) = &mut self.offer else { return };
        let wait = match (class, reset) {
            (Class::RateLimit, Some(reset)) => reset,
            (Class::RateLimit, None) => Class::RateLimit.wait(1),
            (Class::Network | Class::Http, _) => offer.waits.next_wait(),
        };
        offer.not_before = Instant::now() + wait;
        offer.rate_limited = class == Class::RateLimit;
        let wait_seconds = wait.as_secs_f64();
        tracing::debug!(reason, wait_seconds, "new credentials are not proven yet");
    }

    fn filled(&mut self, index: usize, filled: Result<(), String>) {
        match filled {
            Ok(()) => {
                let opened_at = self.streams.get(index).map(|stream| stream.opened_at);
                if opened_at.is_some_and(|opened_at| opened_at.elapsed() > PROVEN) {
                    self.back_off.reset();
                }
            }
            Err(reason) => {
                let ended = self.streams.remove(index);
                if ended.until.is_none() {
                    self.counts.streams_lost.increment();
                    if ended.stalled {
                        self.counts.stalls.increment();
                    }
                    match ended.farewell {
                        Some(farewell) => self.wait(farewell.class, None, &farewell.reason),
                        None => self.wait(Class::Network, None, &reason),
                    }
                } else {
                    tracing::debug!(reason, "the stream before has been read to its end");
                }
            }
        }
    }

    /// There is no stream any more: waits, and tries an offer at once.
    fn wait(&mut self, class: Class, reset: Option<Duration>, reason: &str) {
        let now = Instant::now();
        let wait = self.back_off.after(class, reset);
        self.not_before = now + wait;
        self.told_to_wait = class == Class::RateLimit;
        // A proof beside a stream is none any more. Whatever it would have come to, the stream goes first.
        self.attempt.take_if(|attempt| attempt.is_proof);
        if let Some(offer) = &mut self.offer
            && class != Class::RateLimit
            && !offer.rate_limited
        {
            offer.not_before = now;
        }
        if let Some(kept_back) = self.closed_said.due() {
            tracing::warn!(
                reason,
                class = class.name(),
                wait_seconds = wait.as_secs_f64(),
                kept_back,
                "the stream is closed; it will be opened again",
            );
        }
    }

    /// Nobody hears where the credentials are not rotated any more.
    fn say(&self, verdict: Verdict) {
        let _ = self.port.verdicts.send(verdict);
    }
}

/// The answer to the attempt, which is then over.
async fn answer(attempt: &mut Option<Attempt>) -> Over {
    let Some(under_way) = attempt else {
        return pending().await;
    };
    let answer = under_way.answer.as_mut().await;
    let Attempt { session, begun, is_proof, .. } = under_way;
    let over = Over { session: Arc::clone(session), begun: *begun, is_proof: *is_proof, answer };
    *attempt = None;
    over
}

/// Reads the next chunk of any stream; their framing has used up the ones before. Which stream it
/// was, and why it has ended if it has.
async fn fill(streams: &mut [Stream], stall: Duration) -> (usize, Result<(), String>) {
    match streams {
        [] => pending().await,
        [stream] => (0, stream.fill(stall).await),
        streams => {
            let filling = streams.iter_mut().map(|stream| Box::pin(stream.fill(stall)));
            let (filled, index, _) = select_all(filling).await;
            (index, filled)
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
