//! The stream: connected, read, and connected again for as long as the worker runs.
//!
//! A connection is a [`State`]; [`Feed::next`] moves from one to the next, and where it waits the
//! wait comes from [`back_off`]. Framing is in [`lines`], what a record says in [`message`], the
//! signature in [`oauth1`].

pub mod back_off;
pub mod lines;
pub mod message;
pub mod oauth1;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use self::back_off::{BackOff, Class};
use self::lines::{Line, Lines};
use self::message::{Message, Notice, Post};
use crate::counts::Counts;
use crate::credentials::{Credential, Generation};
use crate::telemetry::{chain, peer_text};

/// Silence after which a v1.1 stream counts as stalled: three of its keep-alives of 30 s (X,
/// "Connecting to a streaming endpoint").
const STALL: Duration = Duration::from_secs(90);

/// How long a connection may take, to the end of the response's head.
const CONNECT: Duration = Duration::from_secs(30);

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
    #[error("the HTTP client could not be built; is a CA bundle installed, or SSL_CERT_FILE set?")]
    Client(#[source] reqwest::Error),
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

/// A stream that is kept open.
pub struct Feed {
    client: Client,
    url: Url,
    track: String,
    generation: Arc<Generation>,
    state: State,
    back_off: BackOff,
    counts: Arc<Counts>,
}

/// Where the connection is.
enum State {
    /// Not before this moment.
    Waiting(Instant),
    /// Now.
    Connecting,
    /// Open.
    Reading(Box<Stream>),
}

struct Stream {
    response: Response,
    lines: Lines,
    /// Whether something was received: until then, the next failure is not a first one.
    proven: bool,
}

/// Why a connection was not had.
enum Failure {
    /// For now.
    Wait(Class, String),
    /// For good.
    Stop(FeedError),
}

impl Feed {
    /// A feed that connects when it is first read.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(
        url: Url,
        track: &str,
        generation: Arc<Generation>,
        counts: Arc<Counts>,
    ) -> Result<Self, FeedError> {
        // reqwest is built without a provider, so that there is one in the process. The error says
        // that one is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(concat!("twitterstream/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .http1_only();
        if url.scheme() == "http" {
            // Loopback: no proxy has a way there.
            client = client.no_proxy();
        } else {
            client = client.https_only(true);
        }
        Ok(Self {
            client: client.build().map_err(FeedError::Client)?,
            url,
            track: track.to_owned(),
            generation,
            state: State::Connecting,
            back_off: BackOff::default(),
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
            let next = match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    State::Connecting
                }
                State::Connecting => match self.connect().await {
                    Ok(response) => {
                        self.counts.connects.increment();
                        tracing::info!(url = %self.url, "the stream is open");
                        let lines = Lines::default();
                        State::Reading(Box::new(Stream {
                            response,
                            lines,
                            proven: false,
                        }))
                    }
                    Err(Failure::Wait(class, reason)) => self.wait(class, &reason),
                    Err(Failure::Stop(error)) => return Err(error),
                },
                State::Reading(stream) => {
                    if let Some(record) = stream.record(&self.counts) {
                        return Ok(record);
                    }
                    match stream.fill().await {
                        Ok(()) => {
                            if !std::mem::replace(&mut stream.proven, true) {
                                self.back_off.reset();
                            }
                            continue;
                        }
                        Err(reason) => self.wait(Class::Network, &reason),
                    }
                }
            };
            self.state = next;
        }
    }

    /// The next record of what has been received already.
    pub fn buffered(&mut self) -> Option<Bytes> {
        match &mut self.state {
            State::Reading(stream) => stream.record(&self.counts),
            State::Waiting(_) | State::Connecting => None,
        }
    }

    /// The post in a record. Anything else is counted, and heeded where it concerns the stream.
    pub fn post<'a>(&self, record: &'a [u8]) -> Option<Box<Post<'a>>> {
        match Message::parse(record) {
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
                tracing::warn!(
                    withheld = track,
                    "the feed withheld matching posts: rate limit"
                );
            }
            Notice::Delete | Notice::ScrubGeo | Notice::StatusWithheld | Notice::UserWithheld => {}
        }
    }

    /// A peer's words, fit for the log.
    fn quoted(&self, text: &str) -> String {
        peer_text(&self.generation.redact(text))
    }

    fn wait(&mut self, class: Class, reason: &str) -> State {
        let wait = self.back_off.after(class);
        tracing::warn!(
            reason,
            class = class.name(),
            wait_seconds = wait.as_secs_f64(),
            "the stream is closed; it will be opened again",
        );
        State::Waiting(Instant::now() + wait)
    }

    async fn connect(&self) -> Result<Response, Failure> {
        let form = [("track", self.track.as_str())];
        let request = oauth1::signed_form(&self.client, &self.url, &form, &self.generation)
            .map_err(|error| Failure::Stop(error.into()))?;
        let response = match timeout(CONNECT, self.client.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(Failure::Wait(Class::Network, chain(&error.without_url())));
            }
            Err(_) => {
                return Err(Failure::Wait(
                    Class::Network,
                    format!("no answer in {CONNECT:?}"),
                ));
            }
        };
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let text = self.quoted(&refusal(response).await);
        let stop = |advice| {
            let (url, text) = (self.url.clone(), text.clone());
            Err(Failure::Stop(FeedError::Refused {
                url,
                status,
                advice,
                text,
            }))
        };
        let wait = |class, meaning: &str| {
            Err(Failure::Wait(
                class,
                format!("status {status}, {meaning}; it said: {text}"),
            ))
        };
        match status.as_u16() {
            401 => wait(Class::Http, "the credentials were refused"),
            403 => wait(Class::Http, "access is forbidden for these credentials"),
            404 => stop("there is no stream at this address; compare FEED_URL"),
            406 => stop("it takes no such FILTER"),
            413 | 416 => stop("FILTER is too long for it"),
            420 | 429 => wait(Class::RateLimit, "it asks to connect less often"),
            _ => wait(Class::Http, "the feed has an error"),
        }
    }
}

impl Stream {
    /// The next record that is not empty, of what the framing has been given.
    fn record(&mut self, counts: &Counts) -> Option<Bytes> {
        loop {
            match self.lines.next()? {
                Line::Record(record) => return Some(record),
                Line::KeepAlive => counts.keep_alives.increment(),
                Line::Skipped(bytes) => {
                    counts.over_long.increment();
                    tracing::warn!(bytes, "a record over the bound was skipped");
                }
            }
        }
    }

    /// Reads the next chunk; the framing has used up the one before.
    async fn fill(&mut self) -> Result<(), String> {
        match timeout(STALL, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.lines.push(chunk);
                Ok(())
            }
            Ok(Ok(None)) => Err("the feed ended the stream".to_owned()),
            Ok(Err(error)) => Err(chain(&error.without_url())),
            Err(_) => Err(format!("the stream stalled: nothing for {STALL:?}")),
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
