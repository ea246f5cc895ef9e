//! A feed that speaks Twitter's v1.1 `statuses/filter` stream on loopback.
//!
//! A request is answered in the order of these modules: `oauth1_verifier` reads what it claims, `accounts` knows
//! whether that is so, `refusal` says what is wrong; else a `connection` sends messages off the `cursor`, which
//! takes them from `posts` or a `replay`. `faults` are what it does wrong when asked to; `wire` can cut a socket.

mod accounts;
mod connection;
mod cursor;
mod faults;
mod json;
mod oauth1_verifier;
mod posts;
mod refusal;
pub mod replay;
mod statistics;
mod vocabulary;
mod wire;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use axum::routing::any;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use accounts::Account;
pub use faults::{Fault, When};
pub use posts::{Error as TrackError, ExpectedRow, Generated, stream_of};
pub use refusal::Refusal;
pub use statistics::Statistics;

use super::Clock;
use accounts::{Register, Standing, user_id};
use connection::{Connection, Ending, Stream};
use cursor::{Cursor, Supply};
use faults::Faults;
use oauth1_verifier::{Claims, Nonces, SignedRequest, form_parameters};
use posts::Generator;
use refusal::answer;
use statistics::Tally;
use wire::{Peer, Sockets, Wires};

/// The endpoint's path, as at stream.twitter.com.
const PATH: &str = "/1.1/statuses/filter.json";

/// More than 400 phrases of 60 bytes, percent-encoded, can take.
const BODY_BYTES: usize = 128 * 1024;

/// X's default access level: 400 track phrases.
const PHRASES: usize = 400;

/// Where the posts come from.
pub enum Source {
    /// Made up, with known matches.
    Generated {
        /// The same seed (and clock) gives the same posts.
        seed: u64,
        /// One word of ASCII letters.
        track: String,
        /// The share of posts that contain the word, 0 to 1.
        matching: f64,
    },
    /// Recorded.
    Replay(replay::Recording),
}

/// What a server is started with.
pub struct Options {
    /// Who may connect.
    pub accounts: Vec<Account>,
    /// What is sent.
    pub source: Source,
    /// Posts a second on each stream; none: as fast as the reader reads.
    pub rate: Option<NonZeroU32>,
    /// After so many posts on all streams together, only keep-alives are sent.
    pub limit: Option<u64>,
    /// A blank line is sent after this much silence.
    pub keep_alive: Duration,
    /// Whether [`FeedServer::expected_rows`] is kept. It grows with each matching post (some 0.4 KB).
    pub keep_rows: bool,
    /// How a revoked token is refused.
    pub revoked: RevokedAnswer,
    /// Dates the posts and judges the requests' timestamps.
    pub clock: Clock,
    /// What a reader's URL begins with, which it signs: `https` behind a TLS front.
    pub scheme: &'static str,
}

impl Options {
    /// No pace, no limit, v1.1's keep-alive of 30 seconds, rows kept, 401 for a revoked token.
    #[must_use]
    pub fn new(accounts: Vec<Account>, source: Source, clock: Clock) -> Self {
        Self {
            accounts,
            source,
            rate: None,
            limit: None,
            keep_alive: Duration::from_secs(30),
            keep_rows: true,
            revoked: RevokedAnswer::Unauthorized,
            clock,
            scheme: "http",
        }
    }
}

/// How a revoked token is refused; v1.1 did both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedAnswer {
    /// 401, code 89, "Invalid or expired token."
    Unauthorized,
    /// 403, code 64.
    Forbidden,
}

/// What a revocation does to streams that are open with the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Ends them, with disconnect message 6.
    Cut,
    /// Leaves them, as X mostly does.
    KeepOpenStreams,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No port to be had on loopback.
    #[error("cannot listen on loopback")]
    Listen(#[from] std::io::Error),
    /// The generator cannot work with this track.
    #[error("cannot generate posts")]
    Track(#[from] TrackError),
}

/// The server; it ends, and cuts its connections, when this is dropped.
pub struct FeedServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    wires: Wires,
    task: JoinHandle<()>,
}

/// What the server and its connections share.
struct Shared {
    state: Mutex<State>,
    rate: Option<NonZeroU32>,
    keep_alive: Duration,
    revoked: RevokedAnswer,
    clock: Clock,
    scheme: &'static str,
    changes: watch::Sender<()>,
}

struct State {
    register: Register,
    nonces: Nonces,
    faults: Faults,
    cursor: Cursor,
    tally: Tally,
    /// By the order in which they were opened.
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    /// How many streams were opened with each access token.
    opened: BTreeMap<String, u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait for a condition to look again.
    fn changed(&self) {
        self.changes.send_replace(());
    }
}

impl FeedServer {
    /// Starts to listen on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn start(options: Options) -> Result<Self, Error> {
        let (supply, seed) = match options.source {
            Source::Generated { seed, track, matching } => {
                (Supply::Generated(Box::new(Generator::new(seed, &track, matching)?)), seed)
            }
            Source::Replay(recording) => (Supply::Replay(recording.into_records().into_iter()), 0),
        };
        let cursor = Cursor::new(supply, options.limit, seed);
        let mut register = Register::default();
        options.accounts.into_iter().for_each(|account| register.accept(account));
        let (sockets, address) = Sockets::bind().await?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                register,
                nonces: Nonces::default(),
                faults: Faults::default(),
                tally: Tally::new(cursor.has_oracle(), options.keep_rows),
                cursor,
                streams: BTreeMap::new(),
                next_stream: 1,
                opened: BTreeMap::new(),
            }),
            rate: options.rate,
            keep_alive: options.keep_alive,
            revoked: options.revoked,
            clock: options.clock,
            scheme: options.scheme,
            changes: watch::Sender::new(()),
        });
        let wires = sockets.wires.clone();
        let service = Router::new()
            .route(PATH, any(filter))
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            // It has no error to give, and ends with the task.
            let _ = axum::serve(sockets, service).await;
        });
        Ok(Self { shared, address, wires, task })
    }

    /// The endpoint: `http://127.0.0.1:PORT/1.1/statuses/filter.json`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint's path.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        PATH
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.shared.lock();
        let open = state.streams.values().filter(|stream| !stream.is_ending()).count();
        Statistics { open, ..state.tally.statistics.clone() }
    }

    /// Waits until the statistics fulfil a condition, for ever if need be.
    pub async fn wait_until(&self, condition: impl Fn(&Statistics) -> bool) -> Statistics {
        let mut changes = self.shared.changes.subscribe();
        loop {
            let statistics = self.statistics();
            if condition(&statistics) {
                return statistics;
            }
            // The sender lives as long as self: there is no error.
            let _ = changes.changed().await;
        }
    }

    /// How many streams were opened with an access token.
    #[must_use]
    pub fn opened_with(&self, access_token: &str) -> u64 {
        self.shared.lock().opened.get(access_token).copied().unwrap_or_default()
    }

    /// The rows that the matching posts delivered so far must become, in the order of delivery. Empty for a replay, or
    /// if [`Options::keep_rows`] is off.
    #[must_use]
    pub fn expected_rows(&self) -> Vec<ExpectedRow> {
        self.shared.lock().tally.rows.clone().unwrap_or_default()
    }

    /// Lets an account connect from now on: a new one, one whose secrets changed, or one that was revoked.
    pub fn accept(&self, account: Account) {
        self.shared.lock().register.accept(account);
    }

    /// Refuses this token from now on.
    pub fn revoke(&self, access_token: &str, revocation: Revocation) {
        let mut state = self.shared.lock();
        state.register.revoke(access_token);
        if revocation == Revocation::Cut {
            for stream in
                state.streams.values_mut().filter(|stream| stream.access_token == access_token)
            {
                stream.end(Ending::Disconnect { code: 6, reason: "token revoked".to_owned() });
            }
        }
        drop(state);
        self.shared.changed();
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: Fault, when: When) {
        let mut state = self.shared.lock();
        match when {
            When::Each => state.faults.each(fault),
            When::Open if !fault.is_answer() => {
                state.streams.values_mut().for_each(|stream| stream.apply(fault.clone()));
            }
            When::Next | When::Open => state.faults.next(fault),
        }
        drop(state);
        self.shared.changed();
    }

    /// Ends the posts: what was begun is sent, and then only keep-alives. Returns when it is so.
    pub async fn end_posts(&self) {
        let taken = self.shared.lock().cursor.end();
        self.wait_until(|statistics| statistics.posts_sent >= taken).await;
    }

    /// Forgets the faults that wait, and cures the open streams. What was ended stays so.
    pub fn clear_faults(&self) {
        let mut state = self.shared.lock();
        state.faults.clear();
        state.streams.values_mut().for_each(Stream::clear_faults);
    }
}

impl Drop for FeedServer {
    fn drop(&mut self) {
        self.task.abort();
        self.wires.cut_all();
    }
}

/// A request to the endpoint.
async fn filter(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let fault = {
        let mut state = shared.lock();
        state.tally.statistics.last_user_agent = text(header::USER_AGENT).map(str::to_owned);
        state.faults.take(true)
    };
    let response = match fault {
        Some(fault) => {
            shared.lock().tally.refused(Refusal::Fault);
            fault_answer(fault, text(header::AUTHORIZATION).unwrap_or_default())
        }
        None => match open(&shared, &peer, &parts, body).await {
            Ok(connection) => stream_answer(connection),
            Err(refusal) => {
                shared.lock().tally.refused(refusal);
                refusal.response()
            }
        },
    };
    shared.changed();
    response
}

/// Judges a request and opens its stream.
async fn open(
    shared: &Arc<Shared>,
    peer: &Peer,
    parts: &request::Parts,
    body: Body,
) -> Result<Connection, Refusal> {
    if parts.method != Method::GET && parts.method != Method::POST {
        return Err(Refusal::Method);
    }
    let body = to_bytes(body, BODY_BYTES).await.map_err(|_| Refusal::TooLong)?;
    let text = |name| match parts.headers.get(name) {
        Some(value) => value.to_str().map_err(|_| Refusal::Malformed),
        None => Ok(""),
    };
    let form = text(header::CONTENT_TYPE)?
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    let request = SignedRequest {
        method: parts.method.as_str(),
        scheme: shared.scheme,
        host: text(header::HOST)?,
        path: parts.uri.path(),
        query: parts.uri.query(),
        authorization: text(header::AUTHORIZATION)?,
        form: form.then_some(&body),
    };
    let claims = Claims::read(&request)?;
    let mut state = shared.lock();
    let state = &mut *state;
    match state.register.standing(&claims.consumer_key, &claims.access_token) {
        Standing::Accepted(account) => {
            if !claims.signed_with(&account.consumer_secret, &account.access_token_secret) {
                return Err(Refusal::WrongSignature);
            }
        }
        Standing::Revoked => {
            return Err(match shared.revoked {
                RevokedAnswer::Unauthorized => Refusal::Revoked,
                RevokedAnswer::Forbidden => Refusal::Forbidden,
            });
        }
        Standing::Unknown => return Err(Refusal::UnknownCredentials),
    }
    state.nonces.admit(&claims, (shared.clock)())?;
    let track =
        parameter(&request, "track").filter(|track| !track.is_empty()).ok_or(Refusal::NoFilter)?;
    if track.split(',').any(|phrase| !(1..=60).contains(&phrase.len())) {
        return Err(Refusal::PhraseLength);
    }
    if track.split(',').count() > PHRASES {
        return Err(Refusal::TooLong);
    }
    let delimited = parameter(&request, "delimited").is_some_and(|delimited| delimited == "length");
    Ok(state.open(shared, claims.access_token, track, delimited, peer))
}

impl State {
    /// Opens a stream; the oldest one of the same user gives way, whatever token it was opened with.
    fn open(
        &mut self,
        shared: &Arc<Shared>,
        access_token: String,
        track: String,
        delimited: bool,
        peer: &Peer,
    ) -> Connection {
        let statistics = &mut self.tally.statistics;
        let oldest = self.streams.values_mut().find(|stream| {
            user_id(&stream.access_token) == user_id(&access_token) && !stream.is_ending()
        });
        if let Some(oldest) = oldest {
            statistics.cut_oldest += 1;
            // X: "the same credentials were used to connect a new stream and the oldest was disconnected".
            oldest.end(Ending::Disconnect { code: 7, reason: "admin logout".to_owned() });
        }
        statistics.connects += 1;
        statistics.last_track = Some(track);
        *self.opened.entry(access_token.clone()).or_default() += 1;
        let mut stream = Stream::new(access_token);
        if let Some(fault) = self.faults.take(false) {
            stream.apply(fault);
        }
        let id = self.next_stream;
        self.next_stream += 1;
        let connection =
            Connection::new(Arc::clone(shared), id, &stream, peer.wire.clone(), delimited);
        self.streams.insert(id, stream);
        connection
    }
}

/// The first value of a parameter of the query or the form.
fn parameter(request: &SignedRequest<'_>, name: &str) -> Option<String> {
    let query = request.query.map(str::as_bytes).into_iter().flat_map(form_parameters);
    let form = request.form.into_iter().flat_map(form_parameters);
    query
        .chain(form)
        .find(|(key, _)| key.as_ref() == name.as_bytes())
        .map(|(_, value): (_, Cow<'_, [u8]>)| String::from_utf8_lossy(&value).into_owned())
}

fn stream_answer(connection: Connection) -> Response<Body> {
    let mut response = Response::new(connection.into_body());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn fault_answer(fault: Fault, authorization: &str) -> Response<Body> {
    let (code, headers, body_template) = match fault {
        Fault::Status { code, headers, body_template } => (code, headers, body_template),
        _ => (
            StatusCode::UNAUTHORIZED,
            HeaderMap::new(),
            "<html><body><h1>401</h1><pre>Authorization: {authorization}</pre></body></html>"
                .to_owned(),
        ),
    };
    let mut response =
        answer(code, "text/plain", body_template.replace("{authorization}", authorization));
    for (name, value) in &headers {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}
