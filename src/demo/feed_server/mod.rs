//! A feed on loopback that speaks Twitter's v1.1 `statuses/filter` stream and X API v2's filtered stream.
//!
//! A request is answered in the order of these modules: `v1_1` or `v2` reads what it claims, `accounts` knows
//! whether that is so, `refusal` says what is wrong; else a `connection` sends messages off the `cursor`, which
//! takes them from `posts` or a `replay` when the `pacer` says so, and has the dialect write them. `gzip` compresses
//! them for who asks.
//! `faults` are what it does wrong when asked to; `wire` can cut a socket.

mod accounts;
mod connection;
mod cursor;
mod faults;
mod gzip;
mod json;
mod pacer;
mod posts;
mod refusal;
pub mod replay;
mod statistics;
mod v1_1;
mod v2;
mod vocabulary;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header, request};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use accounts::Account;
pub use faults::{Endpoint, Fault, StreamError, When};
pub use posts::{Error as TrackError, ExpectedRow, Generated, stream_of};
pub use refusal::Refusal;
pub use statistics::Statistics;
pub use v2::{Rule, RuleError};

use super::Clock;
use accounts::{Register, user_id};
use connection::{Connection, Dialect, Ending, Stream};
use cursor::{Cursor, Supply};
use faults::Faults;
use pacer::Pacer;
use posts::Generator;
use refusal::answer;
use statistics::Tally;
use v1_1::Nonces;
use v2::{Admission, Bearers, RuleBook};
use wire::{Peer, Sockets, Wires};

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
    /// Whether it goes on as a real feed does: from the first stream on, posts fall due at `rate`, of all streams
    /// together, and those that fall due while nobody has a stream pass by. Without a rate it changes nothing.
    pub live: bool,
    /// After so many posts on all streams together, only keep-alives are sent.
    pub limit: Option<u64>,
    /// A blank line is sent after this much silence; on a stream of v2 after 20 seconds at the latest.
    pub keep_alive: Duration,
    /// Whether [`FeedServer::expected_rows`] is kept. It grows with each matching post (some 0.4 KB).
    pub keep_rows: bool,
    /// How v1.1 refuses a revoked token.
    pub revoked: RevokedAnswer,
    /// What v1.1's signatures are made for: https where something in front of the server ends TLS.
    pub scheme: Scheme,
    /// How many streams of v2 an application may ask for in 15 minutes; X's figure is 50.
    pub connect_budget: Option<u32>,
    /// How long after a client of v2 has closed its stream the application's one place is still taken, by the
    /// clock.
    pub slot_release: Duration,
    /// Whether streams are compressed for readers that accept gzip.
    pub gzip: bool,
    /// Dates the posts and judges the requests' timestamps.
    pub clock: Clock,
}

impl Options {
    /// No pace, waiting for a reader, no limit, v1.1's keep-alive of 30 seconds, rows kept, 401 for a revoked token, http, no connect budget,
    /// places free at once, nothing compressed.
    #[must_use]
    pub fn new(accounts: Vec<Account>, source: Source, clock: Clock) -> Self {
        Self {
            accounts,
            source,
            rate: None,
            live: false,
            limit: None,
            keep_alive: Duration::from_secs(30),
            keep_rows: true,
            revoked: RevokedAnswer::Unauthorized,
            scheme: Scheme::Http,
            connect_budget: None,
            slot_release: Duration::ZERO,
            gzip: false,
            clock,
        }
    }
}

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// As the server listens.
    Http,
    /// As a client sees it through a TLS front.
    Https,
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
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
    /// Ends them: v1.1's with disconnect message 6, v2's with an operational disconnect.
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
    is_live: bool,
    keep_alive: Duration,
    revoked: RevokedAnswer,
    scheme: Scheme,
    gzip: bool,
    clock: Clock,
    changes: watch::Sender<()>,
}

struct State {
    register: Register,
    nonces: Nonces,
    bearers: Bearers,
    rules: RuleBook,
    admission: Admission,
    stream_faults: Faults,
    token_faults: Faults,
    rules_faults: Faults,
    cursor: Cursor,
    tally: Tally,
    /// The pace of a live feed, once there was a stream.
    live: Option<Pacer>,
    /// By the order in which they were opened.
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    /// How many streams were opened with each consumer key, and with each access token.
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
                bearers: Bearers::default(),
                rules: RuleBook::default(),
                admission: Admission::new(options.connect_budget, options.slot_release),
                stream_faults: Faults::default(),
                token_faults: Faults::default(),
                rules_faults: Faults::default(),
                tally: Tally::new(cursor.has_oracle(), options.keep_rows),
                cursor,
                live: None,
                streams: BTreeMap::new(),
                next_stream: 1,
                opened: BTreeMap::new(),
            }),
            rate: options.rate,
            is_live: options.live && options.rate.is_some(),
            keep_alive: options.keep_alive,
            revoked: options.revoked,
            scheme: options.scheme,
            gzip: options.gzip,
            clock: options.clock,
            changes: watch::Sender::new(()),
        });
        let wires = sockets.wires.clone();
        let service = v1_1::routes()
            .merge(v2::routes())
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            // It has no error to give, and ends with the task.
            let _ = axum::serve(sockets, service).await;
        });
        Ok(Self { shared, address, wires, task })
    }

    /// v1.1's endpoint: `http://127.0.0.1:PORT/1.1/statuses/filter.json`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.base_url(), v1_1::PATH)
    }

    /// What v2's paths are appended to: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint's path.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        v1_1::PATH
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut state = self.shared.lock();
        state.let_pass((self.shared.clock)());
        let open = state.streams.values().filter(|stream| !stream.is_ending()).count();
        let posts_passed_over = state.cursor.passed_over();
        Statistics { open, posts_passed_over, ..state.tally.statistics.clone() }
    }

    /// How many bytes its readers have taken, and how many lie unread in their sockets: what it has written and the
    /// kernel still holds.
    ///
    /// # Errors
    ///
    /// A `/proc/net/tcp` that cannot be read.
    pub fn taken_and_unread(&self) -> std::io::Result<(u64, u64)> {
        // In this order: what is written meanwhile must not seem to be taken.
        let written = self.wires.written();
        let sockets = std::fs::read_to_string("/proc/net/tcp")?;
        let unread = wire::in_kernel(&sockets, self.address.port());
        Ok((written.saturating_sub(unread), unread))
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

    /// How many streams, of either dialect, were opened with an account's keys. `key` is its access token or its
    /// consumer key; v2 is shown only the second, and stands for both.
    #[must_use]
    pub fn opened_with(&self, key: &str) -> u64 {
        self.shared.lock().opened.get(key).copied().unwrap_or_default()
    }

    /// Every bearer that was ever given to an application, in the order in which they were made.
    #[must_use]
    pub fn bearers(&self) -> Vec<String> {
        self.shared.lock().bearers.values()
    }

    /// The rules of all applications.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        self.shared.lock().rules.all()
    }

    /// Adds a rule to an application, as another client of it would, and returns the rule's id.
    ///
    /// # Errors
    ///
    /// A value that is no rule.
    pub fn add_rule(&self, app: &Account, value: &str, tag: &str) -> Result<String, RuleError> {
        let mut state = self.shared.lock();
        let id = state.rules.seed(user_id(&app.access_token), value, Some(tag));
        state.streams.values().for_each(Stream::wake);
        id
    }

    /// The rows that the matching posts delivered so far must become, in the order of delivery. Empty for a replay, or
    /// if [`Options::keep_rows`] is off.
    #[must_use]
    pub fn expected_rows(&self) -> Vec<ExpectedRow> {
        self.shared.lock().tally.rows.clone().unwrap_or_default()
    }

    /// Lets an account connect from now on: a new one, one whose secrets changed, or one that was revoked.
    pub fn accept(&self, account: Account) {
        let mut state = self.shared.lock();
        state.register.accept(account);
        state.end_bearers_without_an_application();
    }

    /// Refuses this token from now on, and the consumer key and the bearer of v2 that came with it.
    pub fn revoke(&self, access_token: &str, revocation: Revocation) {
        let mut state = self.shared.lock();
        state.register.revoke(access_token);
        state.end_bearers_without_an_application();
        if revocation == Revocation::Cut {
            state.cut(|stream| stream.access_token == access_token);
        }
        drop(state);
        self.shared.changed();
    }

    /// Ends an application's bearer. Its keys stay good: it can ask for another.
    pub fn revoke_bearer(&self, consumer_key: &str, revocation: Revocation) {
        let mut state = self.shared.lock();
        state.bearers.end(|account, _| account.consumer_key == consumer_key);
        if revocation == Revocation::Cut {
            state.cut(|stream| stream.dialect.is_v2() && stream.consumer_key == consumer_key);
        }
        drop(state);
        self.shared.changed();
    }

    /// Makes something go wrong with streams.
    pub fn inject(&self, fault: Fault, when: When) {
        self.inject_at(Endpoint::Stream, fault, when);
    }

    /// Makes something go wrong at an endpoint. At one that has no streams [`When::Open`] is [`When::Next`],
    /// [`Fault::Stall`] never answers, and every other fault of a stream cuts the socket.
    pub fn inject_at(&self, endpoint: Endpoint, fault: Fault, when: When) {
        let mut state = self.shared.lock();
        match when {
            When::Each => state.faults_at(endpoint).each(fault),
            When::Open if !fault.is_answer() && endpoint == Endpoint::Stream => {
                state.streams.values_mut().for_each(|stream| stream.apply(fault.clone()));
            }
            When::Next | When::Open => state.faults_at(endpoint).next(fault),
        }
        drop(state);
        self.shared.changed();
    }

    /// Ends the posts: what was begun is sent, and then only keep-alives. Returns when it is so.
    pub async fn end_posts(&self) {
        let taken = {
            let mut state = self.shared.lock();
            state.let_pass((self.shared.clock)());
            state.cursor.end()
        };
        self.wait_until(|statistics| statistics.posts_sent >= taken).await;
    }

    /// Forgets the faults that wait, and cures the open streams. What was ended stays so.
    pub fn clear_faults(&self) {
        let mut state = self.shared.lock();
        for endpoint in [Endpoint::Stream, Endpoint::Token, Endpoint::Rules] {
            state.faults_at(endpoint).clear();
        }
        state.streams.values_mut().for_each(Stream::clear_faults);
    }
}

impl Drop for FeedServer {
    fn drop(&mut self) {
        self.task.abort();
        self.wires.cut_all();
    }
}

impl State {
    fn faults_at(&mut self, endpoint: Endpoint) -> &mut Faults {
        match endpoint {
            Endpoint::Stream => &mut self.stream_faults,
            Endpoint::Token => &mut self.token_faults,
            Endpoint::Rules => &mut self.rules_faults,
        }
    }

    /// Opens a stream for a request that was found right.
    fn open(
        &mut self,
        shared: &Arc<Shared>,
        account: &Account,
        dialect: Dialect,
        peer: &Peer,
    ) -> Connection {
        self.let_pass((shared.clock)());
        if shared.is_live {
            self.live.get_or_insert_with(|| Pacer::new(shared.rate, Instant::now()));
        }
        self.tally.statistics.connects += 1;
        for key in [&account.consumer_key, &account.access_token] {
            *self.opened.entry(key.clone()).or_default() += 1;
        }
        let mut stream = Stream::new(account, dialect);
        if let Some(fault) = self.stream_faults.take(false) {
            stream.apply(fault);
        }
        let id = self.next_stream;
        self.next_stream += 1;
        let connection = Connection::new(Arc::clone(shared), id, &stream, peer.wire.clone());
        self.streams.insert(id, stream);
        connection
    }

    /// The posts of a live feed that are due and that nobody is there to be sent are gone.
    fn let_pass(&mut self, now: SystemTime) {
        let Some(live) = &mut self.live else { return };
        if self.streams.values().any(|stream| !stream.is_ending()) {
            return;
        }
        let due = live.due(Instant::now());
        for _ in 0..due {
            let Some(matching) = self.cursor.let_pass(now) else { break };
            self.tally.missed(matching);
        }
        live.sent += due;
    }

    /// Ends the streams that a condition is true of, as a revocation does.
    fn cut(&mut self, condition: impl Fn(&Stream) -> bool) {
        for stream in self.streams.values_mut().filter(|stream| condition(stream)) {
            stream.end(Ending::Disconnect { code: 6, reason: "token revoked".to_owned() });
        }
    }

    /// A bearer lives as long as the keys that it was given for.
    fn end_bearers_without_an_application(&mut self) {
        let Self { register, bearers, .. } = self;
        bearers.end(|account, _| {
            register.application(&account.consumer_key, &account.consumer_secret).is_none()
        });
    }
}

fn stream_answer(
    connection: Connection,
    shared: &Shared,
    request: &request::Parts,
    content_type: &'static str,
) -> Response<Body> {
    let encoder = gzip::Encoder::accepted(&request.headers).filter(|_| shared.gzip);
    let compressed = encoder.is_some();
    let mut response = Response::new(connection.into_body(encoder));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if request.version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
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
