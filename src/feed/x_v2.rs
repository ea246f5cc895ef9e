//! The dialect `x-v2`: the filtered stream of the X API v2.
//!
//! What is fetched from Secrets Manager is the application's consumer key and secret. A bearer token
//! is minted from them; it is a secret like them, lives in the [`Session`] and is wiped with it. It is
//! never invalidated at X: the same key is given the same token again, so that of a session that has
//! ended may be the next one's, or another task's. It ends when X ends the key.
//!
//! An application has one stream. So new credentials are proven by minting and by reading the rules
//! while the stream goes on, and the stream of the old ones is read until X ends it: closing it
//! before would lose what X sends until another is open.
//!
//! What X should send is kept in rules on its side. Those with this worker's own tag are made to be
//! the phrases of `FILTER`; all others are left alone.

mod bearer;
mod record;
mod rules;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Request, Response, StatusCode};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use url::Url;

use self::rules::Rules;
use super::FeedError;
use super::back_off::Class;
use super::body::accept_gzip;
use super::connect_budget::ConnectBudget;
use super::connection::{Client, Unanswered};
use super::dialect::{Failure, Held, Refusal, Wire};
use super::message::Message;
use super::session::Session;
use crate::clock::Clock;
use crate::credentials::{Credential, Generation};
use crate::telemetry::chain;
use crate::wipe;

/// X sends a keep-alive every 20 s (X, "Consuming streaming data"), and the network is late at times.
const STALL: Duration = Duration::from_secs(25);

/// The longest answer of the token and rules endpoints that is taken, in bytes: a thousand rules of a
/// thousand characters.
const LONGEST_ANSWER: usize = 4 << 20;

/// How long an answer's body may take.
const ANSWER: Duration = Duration::from_secs(30);

const TOKEN: &str = "oauth2/token";
const STREAM: &str = "2/tweets/search/stream";
const RULES: &str = "2/tweets/search/stream/rules";

/// What a stream may be asked for besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// How many minutes of missed posts to send again, 1 to 5: `BACKFILL_MINUTES`. X gives it to
    /// Enterprise customers only.
    pub backfill_minutes: Option<u8>,
    /// Which part of a stream that is split: `PARTITION`.
    pub partition: Option<u8>,
    /// How many streams may be opened in [`super::connect_budget::WINDOW`]: `CONNECT_BUDGET`.
    pub connects: usize,
}

/// The API, and what is asked of it.
pub struct XV2 {
    client: Client,
    base: Url,
    rules: Vec<String>,
    options: StreamOptions,
    connects: Mutex<ConnectBudget>,
    clock: Clock,
}

/// A request that was refused, and whether it was the bearer token that was.
struct Refused {
    by_token: bool,
    failure: Failure,
}

impl From<Unanswered> for Refused {
    fn from(unanswered: Unanswered) -> Self {
        Failure::from(unanswered).into()
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { by_token: false, failure }
    }
}

impl XV2 {
    /// A stream of posts that match the track phrases, from the API at `base`.
    #[must_use]
    pub fn new(
        client: Client,
        base: Url,
        track: &str,
        options: StreamOptions,
        clock: Clock,
    ) -> Self {
        let connects = Mutex::new(ConnectBudget::new(options.connects));
        Self { client, base, rules: rules::of_track(track), options, connects, clock }
    }

    fn endpoint(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let before = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{before}/{path}"));
        url
    }

    /// Sees that the rules of `FILTER` are there, opens the stream, and removes what nobody wants any
    /// more: at no moment does the stream bring less than it should, and the rules of a task that
    /// still has the stream are left until it is gone.
    async fn open(&self, session: &Session) -> Result<Response, Refused> {
        let bearer = self.bearer(session).await?;
        let left_over = match self.add_rules(session, &bearer).await {
            Ok(left_over) => left_over,
            // They were there before, and the stream need not wait for the other endpoint.
            Err(Refused { failure: Failure::Wait { refused: false, reason, .. }, .. })
                if session.is_ruled() =>
            {
                tracing::warn!(reason, "the stream's rules were not looked at");
                Vec::new()
            }
            Err(refused) => return Err(refused),
        };
        let stream = self.stream(session, &bearer).await?;
        session.ruled();
        if !left_over.is_empty()
            && let Err(Refused { failure, .. }) =
                self.remove_rules(session, &bearer, &left_over).await
        {
            let reason = match failure {
                Failure::Wait { reason, .. } => reason,
                Failure::Stop(error) => chain(&error),
            };
            tracing::warn!(
                reason,
                "old rules are still there; they are removed at the next connect"
            );
        }
        Ok(stream)
    }

    async fn stream(&self, session: &Session, bearer: &SecretString) -> Result<Response, Refused> {
        let mut url = self.endpoint(STREAM);
        url.query_pairs_mut()
            .append_pair("tweet.fields", "created_at,author_id,entities,note_tweet")
            .append_pair("expansions", "author_id")
            .append_pair("user.fields", "username");
        let StreamOptions { backfill_minutes, partition, .. } = self.options;
        for (name, value) in [("backfill_minutes", backfill_minutes), ("partition", partition)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value.to_string());
            }
        }
        let mut request = Request::new(reqwest::Method::GET, url);
        authorize(&mut request, bearer);
        accept_gzip(&mut request);
        self.may_connect()?;
        let response = match self.client.send(request).await {
            Err(unanswered) if !unanswered.sent => return Err(unanswered.into()),
            answer => {
                self.connects().make(Instant::now());
                answer?
            }
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(self.refused(response, session, STREAM).await),
        }
    }

    /// Mints a token and reads the rules with it.
    async fn read_only(&self, session: &Session) -> Result<(), Refused> {
        let bearer = self.bearer(session).await?;
        self.read_rules(session, &bearer).await.map(|_| ())
    }

    /// The session's token; where it has none, X's.
    async fn bearer(&self, session: &Session) -> Result<Arc<SecretString>, Failure> {
        if let Some(bearer) = session.bearer() {
            return Ok(bearer);
        }
        let url = self.endpoint(TOKEN);
        let request = wipe::stack_of(|| bearer::request(url.clone(), session.generation()))?;
        let response = self.client.send(request).await?;
        if response.status() != StatusCode::OK {
            let refusal = Refusal::read(response, &url, session, (self.clock)()).await;
            return Err(match refusal.status.as_u16() {
                401 | 403 => refusal.wait(Class::Http, true, "it gives no token for these keys"),
                _ => refusal.usual(),
            });
        }
        let body = self.body(response, session, TOKEN).await?;
        let Some(token) = wipe::stack_of(|| bearer::of_answer(&body)) else {
            return Err(unusable(TOKEN, "it holds no bearer token"));
        };
        drop(body);
        let bearer = Arc::new(token);
        session.keep_bearer(Some(Arc::clone(&bearer)));
        tracing::debug!(url = %url, "a bearer token was minted");
        Ok(bearer)
    }

    async fn read_rules(&self, session: &Session, bearer: &SecretString) -> Result<Rules, Refused> {
        let mut request = Request::new(reqwest::Method::GET, self.endpoint(RULES));
        authorize(&mut request, bearer);
        self.asked(request, session).await
    }

    /// Adds the rules that are missing. The ids of our own that nobody wants any more.
    async fn add_rules(
        &self,
        session: &Session,
        bearer: &SecretString,
    ) -> Result<Vec<String>, Refused> {
        let mut change = self.read_rules(session, bearer).await?.change_to(&self.rules);
        if !session.is_ruled() || !change.is_none() {
            tracing::info!(
                add = ?change.add,
                remove = session.quoted(&format!("{:?}", change.remove_values)),
                kept = change.kept,
                of_others = change.of_others,
                "the stream's rules are to be those of FILTER",
            );
        }
        if change.add.is_empty() {
            return Ok(change.remove_ids);
        }
        let mut answer = self.change_rules(session, bearer, change.adding()).await?;
        if answer.is_over_the_cap() && !change.remove_ids.is_empty() {
            // There is no room for both.
            self.remove_rules(session, bearer, &change.remove_ids).await?;
            change.remove_ids.clear();
            answer = self.change_rules(session, bearer, change.adding()).await?;
        }
        if let Some(fault) = answer.fault() {
            let text = session.quoted(&fault);
            let error = FeedError::Rules { url: self.endpoint(RULES), text };
            return Err(Failure::Stop(error).into());
        }
        // What X takes for the same rule as a new one is not old.
        change.remove_ids.retain(|id| !answer.duplicates().any(|duplicate| duplicate == id));
        Ok(change.remove_ids)
    }

    async fn remove_rules(
        &self,
        session: &Session,
        bearer: &SecretString,
        ids: &[String],
    ) -> Result<(), Refused> {
        self.change_rules(session, bearer, rules::removing(ids)).await.map(|_| ())
    }

    async fn change_rules(
        &self,
        session: &Session,
        bearer: &SecretString,
        change: serde_json::Value,
    ) -> Result<rules::Changed, Refused> {
        let mut request = Request::new(reqwest::Method::POST, self.endpoint(RULES));
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(reqwest::header::CONTENT_TYPE, json);
        *request.body_mut() = Some(change.to_string().into());
        authorize(&mut request, bearer);
        self.asked(request, session).await
    }

    fn connects(&self) -> MutexGuard<'_, ConnectBudget> {
        self.connects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state machine has looked already; a second try within one attempt may be one too many.
    fn may_connect(&self) -> Result<(), Failure> {
        let now = Instant::now();
        let wait = self.connects().free_at(now).duration_since(now);
        if wait.is_zero() {
            return Ok(());
        }
        let reason = "CONNECT_BUDGET is spent for now".to_owned();
        Err(Failure::Wait { class: Class::RateLimit, refused: false, reset: Some(wait), reason })
    }

    /// Sends a request to the rules' endpoint, and reads its answer.
    async fn asked<T: DeserializeOwned>(
        &self,
        request: Request,
        session: &Session,
    ) -> Result<T, Refused> {
        let is_change = request.method() == reqwest::Method::POST;
        let response = self.client.send(request).await?;
        // A rule that is refused is told of in the body, with any of these.
        let told = [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY];
        let is_told = is_change && told.contains(&response.status());
        if !response.status().is_success() && !is_told {
            return Err(self.refused(response, session, RULES).await);
        }
        let body = self.body(response, session, RULES).await?;
        serde_json::from_slice(&body)
            .map_err(|_| unusable(RULES, "it is not what X answers").into())
    }

    async fn body(
        &self,
        mut response: Response,
        session: &Session,
        path: &str,
    ) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        let reading = async {
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > LONGEST_ANSWER {
                    break;
                }
                body.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>(())
        };
        match timeout(ANSWER, wipe::steps_of(reading)).await {
            Ok(Ok(())) => Ok(body.freeze()),
            Ok(Err(error)) => {
                Err(unusable(path, &session.quoted(&error.without_url().to_string())))
            }
            Err(_) => Err(unusable(path, "it does not end")),
        }
    }

    async fn refused(&self, response: Response, session: &Session, path: &str) -> Refused {
        let url = self.endpoint(path);
        let refusal = Refusal::read(response, &url, session, (self.clock)()).await;
        let by_token = refusal.status == StatusCode::UNAUTHORIZED;
        let failure = match refusal.status.as_u16() {
            401 => refusal.wait(Class::Http, true, "the bearer token was refused"),
            403 => refusal.wait(Class::Http, true, "access is forbidden for these credentials"),
            400 if path == STREAM => {
                refusal.stop("it takes no such request; compare BACKFILL_MINUTES and PARTITION")
            }
            // The header with it is that of the connect budget, which has nothing to do with it.
            429 if refusal.text.contains("TooManyConnections") => refusal.without_reset().wait(
                Class::RateLimit,
                false,
                "the application has its one stream already: another task of this application \
                 holds it, or an old one that is still draining, or X has not noticed its end yet",
            ),
            _ => refusal.usual(),
        };
        Refused { by_token, failure }
    }
}

/// Tries once more with another token where the first was refused: it may have ended while the keys
/// are good.
async fn with_another_token<T, F>(session: &Session, attempt: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Refused>>,
{
    let mut tried = attempt().await;
    if let Err(Refused { by_token: true, .. }) = tried {
        session.keep_bearer(None);
        tried = attempt().await;
    }
    tried.map_err(|refused| refused.failure)
}

/// Named place of `expose_secret`: the token becomes a header.
fn authorize(request: &mut Request, bearer: &SecretString) {
    use secrecy::ExposeSecret;
    wipe::stack_of(|| {
        let value = zeroize::Zeroizing::new(format!("Bearer {}", bearer.expose_secret()));
        insert_authorization(request, &value);
    });
}

/// A header that no `Debug` shows. The value was checked to be one that can stand there, or is base64.
fn insert_authorization(request: &mut Request, value: &str) {
    if let Ok(mut value) = HeaderValue::from_str(value) {
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
}

fn unusable(path: &str, why: &str) -> Failure {
    let reason = format!("the answer of /{path} cannot be used: {why}");
    Failure::Wait { class: Class::Http, refused: false, reset: None, reason }
}

/// The value of a credential that this dialect needs.
fn secret(generation: &Generation, credential: Credential) -> Result<&SecretString, Failure> {
    let not_held = || Failure::Stop(super::oauth1::SignError::NotHeld(credential).into());
    generation.secret(credential).ok_or_else(not_held)
}

/// Reads one record of the stream.
pub(super) use self::record::read;

impl Wire for XV2 {
    fn url(&self) -> &Url {
        &self.base
    }

    fn stall(&self) -> Duration {
        STALL
    }

    fn free_at(&self, wanted: Instant) -> Instant {
        self.connects().free_at(wanted)
    }

    fn open(self: Arc<Self>, session: Arc<Session>) -> Held<Result<Response, Failure>> {
        Box::pin(async move {
            let open = || Self::open(&self, &session);
            with_another_token(&session, open).await
        })
    }

    fn prove(self: Arc<Self>, session: Arc<Session>) -> Option<Held<Result<(), Failure>>> {
        Some(Box::pin(async move {
            let read_only = || self.read_only(&session);
            with_another_token(&session, read_only).await
        }))
    }

    fn read<'a>(&self, record: &'a [u8]) -> Message<'a> {
        read(record)
    }
}
