//! What a feed speaks: how a stream is opened, credentials are proven and records are read. The state
//! machine in [`super`] knows no more of a dialect than this.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout};
use url::Url;

use super::FeedError;
use super::back_off::Class;
use super::head::Head;
use super::message::Message;
use super::session::Session;
use crate::credentials::Credential;

/// How much of a refusal's body is read, in bytes.
const REFUSAL: usize = 4096;

/// The longest wait that a server's `x-rate-limit-reset` is believed.
const LONGEST_RESET: Duration = Duration::from_hours(1);

/// The dialects: what `FEED` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The filtered stream of the X API v2, with an app-only bearer token.
    XV2,
    /// `POST statuses/filter` of Twitter's API v1.1, signed with OAuth 1.0a.
    TwitterV1_1,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::XV2, Self::TwitterV1_1];

    /// The dialect's name in `FEED`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XV2 => "x-v2",
            Self::TwitterV1_1 => "twitter-v1.1",
        }
    }

    /// The dialect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The credentials that it needs. No other is fetched.
    #[must_use]
    pub const fn credentials(self) -> &'static [Credential] {
        match self {
            Self::XV2 => &[Credential::ConsumerKey, Credential::ConsumerSecret],
            Self::TwitterV1_1 => &Credential::ALL,
        }
    }

    /// Where it is spoken if `FEED_URL` does not say so: a base for x-v2, the endpoint for v1.1.
    #[must_use]
    pub const fn default_url(self) -> &'static str {
        match self {
            Self::XV2 => "https://api.x.com",
            Self::TwitterV1_1 => "https://stream.twitter.com/1.1/statuses/filter.json",
        }
    }
}

/// A future that is held while it goes on.
pub type Held<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One dialect at work.
pub trait Wire: Send + Sync {
    /// Where the stream is, for the log.
    fn url(&self) -> &Url;

    /// Silence after which a stream counts as stalled.
    fn stall(&self) -> Duration;

    /// The first moment, not before `wanted`, at which the server lets one more stream be opened.
    fn free_at(&self, wanted: Instant) -> Instant;

    /// Opens a stream.
    fn open(self: Arc<Self>, session: Arc<Session>) -> Held<Result<Response, Failure>>;

    /// Shows that credentials are good while a stream of others goes on. `None` where only a stream
    /// of their own shows it.
    fn prove(self: Arc<Self>, session: Arc<Session>) -> Option<Held<Result<(), Failure>>>;

    /// The head of a record, where it is plainly a post. `None` says nothing about it.
    fn head<'a>(&self, _record: &'a [u8]) -> Option<Head<'a>> {
        None
    }

    /// Reads one record.
    fn read<'a>(&self, record: &'a [u8]) -> Message<'a>;
}

/// Why a request was in vain.
#[derive(Debug)]
pub enum Failure {
    /// For now.
    Wait {
        /// What kind of failure it is.
        class: Class,
        /// Whether it is the credentials that were refused.
        refused: bool,
        /// How long the server wants to be left alone, where it says so.
        reset: Option<Duration>,
        /// What the operator reads.
        reason: String,
    },
    /// For good.
    Stop(FeedError),
}

/// An answer that is no success, read as far as it is needed.
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// The beginning of its body, fit for the log.
    pub text: String,
    reset: Option<Duration>,
    url: Url,
}

impl Refusal {
    /// Reads a refusal by the server at `url`.
    pub async fn read(response: Response, url: &Url, session: &Session, now: SystemTime) -> Self {
        let status = response.status();
        let reset = reset(&response, now);
        let text = session.quoted(&beginning(response).await);
        Self { status, text, reset, url: url.clone() }
    }

    /// It can never heal by itself.
    #[must_use]
    pub fn stop(self, advice: &'static str) -> Failure {
        let Self { status, text, url, .. } = self;
        Failure::Stop(FeedError::Refused { url, status, advice, text })
    }

    /// The same, where `x-rate-limit-reset` is about something else.
    #[must_use]
    pub fn without_reset(self) -> Self {
        Self { reset: None, ..self }
    }

    /// It may heal. `refused` says that it is the credentials.
    #[must_use]
    pub fn wait(self, class: Class, refused: bool, meaning: &str) -> Failure {
        let Self { status, text, reset, .. } = self;
        // Only of a rate limit does the header tell when it is over.
        let reset = reset.filter(|_| class == Class::RateLimit);
        let reason = format!("status {status}, {meaning}; it said: {text}");
        Failure::Wait { class, refused, reset, reason }
    }

    /// What is the same for all endpoints of all dialects.
    #[must_use]
    pub fn usual(self) -> Failure {
        match self.status.as_u16() {
            404 => self.stop("there is nothing at this address; compare FEED_URL"),
            420 | 429 => self.wait(Class::RateLimit, false, "it asks to come less often"),
            _ => self.wait(Class::Http, false, "the feed has an error"),
        }
    }
}

/// The beginning of a body. What is wrong with reading it does not matter any more.
async fn beginning(mut response: Response) -> String {
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

/// `x-rate-limit-reset`: the moment, in seconds of Unix time, at which the server counts anew.
fn reset(response: &Response, now: SystemTime) -> Option<Duration> {
    let header = response.headers().get("x-rate-limit-reset")?.to_str().ok()?;
    let since_epoch = Duration::from_secs(header.trim().parse().ok()?);
    let at = SystemTime::UNIX_EPOCH.checked_add(since_epoch)?;
    // The clocks may differ by a little, and the server's second has just begun.
    let wait = at.duration_since(now).unwrap_or_default() + Duration::from_secs(1);
    (wait <= LONGEST_RESET).then_some(wait)
}
