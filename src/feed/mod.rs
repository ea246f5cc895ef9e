//! The stream: connected, read, and connected again for as long as the worker runs.
//!
//! [`Feed::next`] moves it on, and where it waits the wait comes from [`back_off`]. Framing is in
//! [`lines`], what a record says in [`message`], the signature in [`oauth1`], the way to the socket in
//! [`connection`]; `doubles` knows what two streams have both brought.

pub mod back_off;
pub mod connection;
mod doubles;
pub mod lines;
pub mod message;
pub mod oauth1;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::select_all;
use reqwest::{Client, Response, StatusCode, header};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use url::Url;

use self::back_off::{BackOff, Class};
use self::connection::Connector;
use self::doubles::Doubles;
use self::lines::{LONGEST_RECORD, Line, Lines};
use self::message::{Message, Notice, Post};
use crate::counts::Counts;
use crate::credentials::rotation::{Port, Verdict};
use crate::credentials::{Credential, Generation};
use crate::retry::Jitter;
use crate::telemetry::{chain, peer_text};
use crate::wipe;

/// Silence after which a v1.1 stream counts as stalled: three of its keep-alives of 30 s (X,
/// "Connecting to a streaming endpoint").
const STALL: Duration = Duration::from_secs(90);

/// How long a connection may take, to the end of the response's head.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a stream must deliver before the failures before it are forgotten. One that is opened
/// and closed again at once is a failure like another.
const PROVEN: Duration = Duration::from_secs(10);

/// How long a stream is read on beside the one that has taken over. v1.1 cuts the oldest at once; what
/// it had sent by then may still be on its way.
const OVERLAP: Duration = Duration::from_mins(1);

/// The first wait, and the longest, before refused credentials are tried again beside those in use:
/// services accept new keys some time after they were made.
const OFFER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

const USER_AGENT: header::HeaderValue =
    header::HeaderValue::from_static(concat!("twitterstream/", env!("CARGO_PKG_VERSION")));

/// How much of a refusal's body is read, in bytes.
const REFUSAL: usize = 4096;

/// What a feed speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POST statuses/filter` of Twitter's API v1.1, signed with OAuth 1.0a.
    TwitterV1_1,
}

impl Dialect {
    /// The dialect's name in `FEED`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwitterV1_1 => "twitter-v1.1",
        }
    }

    /// The credentials that it needs. No other is fetched.
    #[must_use]
    pub const fn credentials(self) -> &'static [Credential] {
        match self {
            Self::TwitterV1_1 => &Credential::ALL,
        }
    }

    /// Its own endpoint.
    #[must_use]
    pub const fn default_url(self) -> &'static str {
        match self {
            Self::TwitterV1_1 => "https://stream.twitter.com/1.1/statuses/filter.json",
        }
    }
}

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
}

/// A stream that is kept open, and moved over to new credentials without a gap.
///
/// At any moment there are streams to read (one, or for a moment two while the next set of
/// credentials takes over, or none), at most one attempt to open another, and maybe an offer: a set
/// that is to be proven by an attempt of its own while the streams are read.
pub struct Feed {
    client: Client,
    connector: Connector,
    url: Url,
    track: String,
    /// The credentials in use.
    generation: Arc<Generation>,
    port: Port,
    /// Oldest first. All but the last were taken over from, and are read to their end.
    streams: Vec<Stream>,
    attempt: Option<Attempt>,
    /// When there is no stream that lasts: not before this moment is one opened.
    not_before: Instant,
    back_off: BackOff,
    offer: Option<Offer>,
    doubles: Doubles,
    counts: Arc<Counts>,
}

struct Stream {
    response: Response,
    lines: Lines,
    opened_at: Instant,
    /// Another stream has taken over, and this one ends; at the latest at this moment.
    until: Option<Instant>,
}

struct Attempt {
    generation: Arc<Generation>,
    begun: Instant,
    answer: Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>,
}

/// A set of credentials that is to be proven.
struct Offer {
    generation: Arc<Generation>,
    not_before: Instant,
    waits: Jitter,
}

/// Why a connection was not had.
enum Failure {
    /// For now, and whether it is the credentials that were refused.
    Wait { class: Class, refused: bool, reason: String },
    /// For good.
    Stop(FeedError),
}

impl Feed {
    /// A feed that connects when it is first read. New credentials come through `port`.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(
        url: Url,
        track: &str,
        generation: Arc<Generation>,
        port: Port,
        counts: Arc<Counts>,
    ) -> Result<Self, FeedError> {
        let tls = tls()?;
        // It builds and signs requests; what it would send them with is never used.
        let client = Client::builder().use_preconfigured_tls(tls.clone()).build();
        Ok(Self {
            client: client.map_err(FeedError::Client)?,
            connector: Connector::new(tls),
            url,
            track: track.to_owned(),
            generation,
            port,
            streams: Vec::new(),
            attempt: None,
            not_before: Instant::now(),
            back_off: BackOff::default(),
            offer: None,
            doubles: Doubles::default(),
            counts,
        })
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
            self.begin();
            let begin_at = self.begin_at();
            tokio::select! {
                biased;
                answer = answer(&mut self.attempt) => self.answered(answer)?,
                // An attempt is never dropped: the server may have begun to send.
                Ok(()) = self.port.candidates.changed(), if self.attempt.is_none() => self.offered(),
                (index, filled) = fill(&mut self.streams) => self.filled(index, filled),
                () = at(begin_at), if self.attempt.is_none() => {}
            }
        }
    }

    /// The next record of what has been received already.
    pub fn buffered(&mut self) -> Option<Bytes> {
        self.streams.iter_mut().find_map(|stream| stream.record(&self.counts))
    }

    /// The post in a record of [`Self::next`] or [`Self::buffered`], unless the stream before has
    /// brought it already. Anything else is counted, and heeded where it concerns the stream.
    pub fn post<'a>(&mut self, record: &'a [u8]) -> Option<Box<Post<'a>>> {
        match Message::parse(record) {
            Message::Post(post) if self.is_double(&post.id) => {
                self.counts.posts_doubled.increment();
            }
            Message::Post(post) => {
                self.counts.posts_read.increment();
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

    /// Whether the post came on another stream, too. While one takes over from another, or may be
    /// about to, what they bring is remembered.
    fn is_double(&mut self, id: &str) -> bool {
        if self.streams.len() > 1 || self.is_proving() {
            !self.doubles.remember(id, Instant::now())
        } else {
            self.doubles.knows(id, Instant::now())
        }
    }

    /// Whether a set is another than the one in use.
    fn is_offered(&self, generation: &Arc<Generation>) -> bool {
        !Arc::ptr_eq(generation, &self.generation)
    }

    fn is_proving(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| self.is_offered(&attempt.generation))
    }

    fn heed(&self, notice: &Notice<'_>) {
        match notice {
            Notice::Disconnect { code, reason } => {
                tracing::warn!(
                    code,
                    reason = self.quoted(reason),
                    "the feed is about to disconnect"
                );
            }
            Notice::Warning { code, message } => {
                let (code, message) = (self.quoted(code), self.quoted(message));
                tracing::warn!(code, message, "the feed warns");
            }
            Notice::Limit { track } => {
                tracing::warn!(withheld = track, "the feed withheld matching posts: rate limit");
            }
            Notice::Delete | Notice::ScrubGeo | Notice::StatusWithheld | Notice::UserWithheld => {}
        }
    }

    /// A peer's words, fit for the log.
    fn quoted(&self, text: &str) -> String {
        let text = self.generation.redact(text);
        let offered = self.offer.as_ref().map(|offer| offer.generation.redact(&text));
        peer_text(&offered.unwrap_or(text))
    }

    /// When the next attempt may begin; `None` while there is nothing to attempt.
    fn begin_at(&self) -> Option<Instant> {
        let open = (!self.lasts()).then_some(self.not_before);
        let prove = self.offer.as_ref().map(|offer| offer.not_before);
        open.into_iter().chain(prove).min()
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
        let offered = self.offer.as_ref().filter(|offer| offer.not_before <= now);
        let generation = match offered {
            Some(offer) => &offer.generation,
            None if !self.lasts() && self.not_before <= now => &self.generation,
            None => return,
        };
        let generation = Arc::clone(generation);
        let answer = Box::pin(connect(
            self.client.clone(),
            self.connector.clone(),
            self.url.clone(),
            self.track.clone(),
            Arc::clone(&generation),
        ));
        self.attempt = Some(Attempt { generation, begun: now, answer });
    }

    fn offered(&mut self) {
        let offered = self.port.candidates.borrow_and_update().clone();
        self.offer = offered.map(|candidate| Offer {
            generation: Arc::clone(&candidate.generation),
            not_before: Instant::now(),
            waits: Jitter::new(OFFER.0, OFFER.1),
        });
    }

    fn answered(
        &mut self,
        (generation, begun, answer): (Arc<Generation>, Instant, Result<Response, Failure>),
    ) -> Result<(), FeedError> {
        let is_offer = self.is_offered(&generation);
        match answer {
            Ok(response) => {
                self.opened(response);
                if is_offer {
                    // The failures so far were those of the credentials before.
                    self.back_off.reset();
                    self.offer = None;
                    self.generation = Arc::clone(&generation);
                }
                let proven_in = begun.elapsed();
                self.say(Verdict::Accepted { generation, proven_in });
                Ok(())
            }
            Err(Failure::Stop(error)) if !is_offer => Err(error),
            Err(failure) => {
                let (class, refused, reason) = match failure {
                    Failure::Wait { class, refused, reason } => (class, refused, reason),
                    Failure::Stop(error) => (Class::Http, true, chain(&error)),
                };
                if is_offer {
                    self.postpone_offer(class, &reason);
                } else {
                    self.wait(class, &reason);
                }
                if refused {
                    self.say(Verdict::Refused { generation });
                }
                Ok(())
            }
        }
    }

    fn opened(&mut self, response: Response) {
        self.counts.connects.increment();
        let until = Instant::now() + OVERLAP;
        for old in &mut self.streams {
            old.until.get_or_insert(until);
        }
        if self.streams.is_empty() {
            self.doubles.forget();
        }
        tracing::info!(url = %self.url, takes_over = !self.streams.is_empty(), "the stream is open");
        let lines = Lines::default();
        self.streams.push(Stream { response, lines, opened_at: Instant::now(), until: None });
    }

    fn postpone_offer(&mut self, class: Class, reason: &str) {
        if self.streams.len() < 2 {
            self.doubles.forget();
        }
        let Some(offer) = &mut self.offer else { return };
        let wait = match class {
            Class::RateLimit => OFFER.1.max(Class::RateLimit.wait(1)),
            Class::Network | Class::Http => offer.waits.next_wait(),
        };
        offer.not_before = Instant::now() + wait;
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
                    self.wait(Class::Network, &reason);
                } else {
                    tracing::debug!(reason, "the stream before has been read to its end");
                }
            }
        }
    }

    /// There is no stream any more: waits, and tries an offer at once.
    fn wait(&mut self, class: Class, reason: &str) {
        let now = Instant::now();
        let wait = self.back_off.after(class);
        self.not_before = now + wait;
        if let Some(offer) = &mut self.offer {
            offer.not_before = now;
        }
        tracing::warn!(
            reason,
            class = class.name(),
            wait_seconds = wait.as_secs_f64(),
            "the stream is closed; it will be opened again",
        );
    }

    /// Nobody hears where the credentials are not rotated any more.
    fn say(&self, verdict: Verdict) {
        let _ = self.port.verdicts.send(verdict);
    }
}

/// The process's one TLS stack, with the platform's roots or those of `SSL_CERT_FILE`.
fn tls() -> Result<ClientConfig, FeedError> {
    let mut roots = RootCertStore::empty();
    // A bundle may hold a certificate that cannot be used; the others still can.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(FeedError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The answer to the attempt, which is then over.
async fn answer(
    attempt: &mut Option<Attempt>,
) -> (Arc<Generation>, Instant, Result<Response, Failure>) {
    let Some(under_way) = attempt else {
        return pending().await;
    };
    let answer = under_way.answer.as_mut().await;
    let over = (Arc::clone(&under_way.generation), under_way.begun, answer);
    *attempt = None;
    over
}

/// Reads the next chunk of any stream; their framing has used up the ones before. Which stream it
/// was, and why it has ended if it has.
async fn fill(streams: &mut [Stream]) -> (usize, Result<(), String>) {
    match streams {
        [] => pending().await,
        [stream] => (0, stream.fill().await),
        streams => {
            let filling = streams.iter_mut().map(|stream| Box::pin(stream.fill()));
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

/// One attempt to open the stream.
async fn connect(
    client: Client,
    connector: Connector,
    url: Url,
    track: String,
    generation: Arc<Generation>,
) -> Result<Response, Failure> {
    let form = [("track", track.as_str())];
    let signed = wipe::stack_of(|| oauth1::signed_form(&client, &url, &form, &generation));
    let mut request = signed.map_err(|error| Failure::Stop(error.into()))?;
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    let network = |reason| Failure::Wait { class: Class::Network, refused: false, reason };
    let response = match timeout(CONNECT, wipe::steps_of(connector.send(request))).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(network(chain(&error))),
        Err(_) => return Err(network(format!("no answer in {CONNECT:?}"))),
    };
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let text = peer_text(&generation.redact(&refusal(response).await));
    let stop =
        |advice| Failure::Stop(FeedError::Refused { url, status, advice, text: text.clone() });
    let wait = |class, refused, meaning: &str| {
        let reason = format!("status {status}, {meaning}; it said: {text}");
        Failure::Wait { class, refused, reason }
    };
    Err(match status.as_u16() {
        401 => wait(Class::Http, true, "the credentials were refused"),
        403 => wait(Class::Http, true, "access is forbidden for these credentials"),
        404 => stop("there is no stream at this address; compare FEED_URL"),
        406 => stop("it takes no such FILTER"),
        413 | 416 => stop("FILTER is too long for it"),
        420 | 429 => wait(Class::RateLimit, false, "it asks to connect less often"),
        _ => wait(Class::Http, false, "the feed has an error"),
    })
}

impl Stream {
    /// The next record that is not empty, of what the framing has been given.
    fn record(&mut self, counts: &Counts) -> Option<Bytes> {
        loop {
            match self.lines.next()? {
                Line::Record(record) => return Some(record),
                Line::KeepAlive => counts.keep_alives.increment(),
                Line::OverLong => {
                    counts.over_long.increment();
                    tracing::warn!(
                        bound = LONGEST_RECORD,
                        "a record is longer than any post and is skipped; do its records end in CRLF?",
                    );
                }
            }
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        let stalled = Instant::now() + STALL;
        let limit = self.until.map_or(stalled, |until| until.min(stalled));
        match timeout_at(limit, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.lines.push(chunk);
                Ok(())
            }
            Ok(Ok(None)) => Err("the feed ended the stream".to_owned()),
            Ok(Err(error)) => Err(chain(&error.without_url())),
            // What has arrived by now is still read. The timeout alone would not tell: it may strike
            // because this task has had its share of the processor.
            Err(_) => match unconstrained(self.response.chunk()).now_or_never() {
                Some(Ok(Some(chunk))) => {
                    self.lines.push(chunk);
                    Ok(())
                }
                _ if limit == stalled => Err(format!("the stream stalled: nothing for {STALL:?}")),
                _ => Err(format!("it had not ended {OVERLAP:?} after another took over")),
            },
        }
    }
}

/// The beginning of a refusal's body. What is wrong with reading it does not matter any more.
async fn refusal(mut response: Response) -> String {
    let mut body = Vec::new();
    let reading = async {
        while body.len() < REFUSAL
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
    };
    let _ = timeout(Duration::from_secs(5), reading).await;
    body.truncate(REFUSAL);
    String::from_utf8_lossy(&body).into_owned()
}
