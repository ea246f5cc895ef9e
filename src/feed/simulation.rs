//! The state machine against a scripted server, on a clock that only waits when nothing is to be done:
//! every fault in every state, and hours of trouble in a moment.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Response, StatusCode};
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::connect_budget::ConnectBudget;
use super::dialect::{Failure, Held, Wire};
use super::message::Message;
use super::*;
use crate::credentials::rotation::{Candidate, Port, Reason, Verdict};
use crate::credentials::{Credential, Held as HeldCredential};

/// In seconds.
const WINDOW: f64 = 15.0 * 60.0;

const SECOND: Duration = Duration::from_secs(1);

/// What the server does with an attempt.
#[derive(Clone)]
pub(super) enum Answer {
    /// Refuses it.
    Refuse { class: Class, refused: bool, reset: Option<Duration> },
    /// Refuses it for good.
    Stop,
    /// Does not answer.
    Hang,
    /// Sends a post every so often, so many of them, and ends the stream like this.
    Posts { every: Duration, count: u64, end: End },
}

#[derive(Clone)]
pub(super) enum End {
    /// The body ends properly.
    Clean,
    /// The connection is lost within a record.
    Cut,
    /// Nothing more comes, and nothing ends.
    Silence,
    /// This record, and then the end, or nothing more.
    Record { json: &'static str, closes: bool },
}

fn posts(count: u64, end: End) -> Answer {
    Answer::Posts { every: SECOND, count, end }
}

const fn refuse(class: Class, refused: bool) -> Answer {
    Answer::Refuse { class, refused, reset: None }
}

/// A dialect whose server follows a script, and then keeps to its last line.
pub(super) struct Scripted {
    url: Url,
    script: Mutex<VecDeque<Answer>>,
    proofs: Mutex<VecDeque<Answer>>,
    /// Whether credentials are proven without a stream, and connects are within a budget.
    one_stream: bool,
    budget: Mutex<ConnectBudget>,
    connects: Mutex<Vec<Instant>>,
    proven: Mutex<Vec<Instant>>,
    next_id: Arc<AtomicU64>,
}

impl Scripted {
    pub(super) fn new(one_stream: bool, script: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self {
            url: Url::parse("https://example.com/").unwrap(),
            script: Mutex::new(script.into_iter().collect()),
            proofs: Mutex::new(VecDeque::from([posts(0, End::Clean)])),
            one_stream,
            budget: Mutex::new(ConnectBudget::new(CONNECTS)),
            connects: Mutex::default(),
            proven: Mutex::default(),
            next_id: Arc::default(),
        })
    }

    async fn answer(&self, script: &Mutex<VecDeque<Answer>>) -> Result<Response, Failure> {
        let answer = {
            let mut script = script.lock().unwrap();
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
        };
        match answer.unwrap() {
            Answer::Hang => pending().await,
            Answer::Refuse { class, refused, reset } => {
                Err(Failure::Wait { class, refused, reset, reason: "refused".to_owned() })
            }
            Answer::Stop => Err(Failure::Stop(FeedError::Refused {
                url: self.url.clone(),
                status: StatusCode::NOT_FOUND,
                advice: "advice",
                text: String::new(),
            })),
            Answer::Posts { every, count, end } => Ok(self.stream(every, count, end)),
        }
    }

    fn stream(&self, every: Duration, count: u64, end: End) -> Response {
        let ids = Arc::clone(&self.next_id);
        let chunks = stream::unfold((count, false), move |(left, ended)| {
            let (ids, end) = (Arc::clone(&ids), end.clone());
            async move {
                if left > 0 {
                    sleep(every).await;
                    let id = ids.fetch_add(1, Ordering::Relaxed);
                    return Some((Ok(Bytes::from(record(id))), (left - 1, false)));
                }
                match (end, ended) {
                    (End::Clean, _) | (End::Record { closes: true, .. }, true) => None,
                    (End::Cut, false) => {
                        Some((Ok(Bytes::from_static(b"{\"id\":1,\"te")), (0, true)))
                    }
                    (End::Cut, true) => {
                        Some((Err(std::io::Error::other("connection lost")), (0, true)))
                    }
                    (End::Silence, _) | (End::Record { closes: false, .. }, true) => {
                        pending().await
                    }
                    (End::Record { json, .. }, false) => {
                        Some((Ok(Bytes::from(format!("{json}\r\n"))), (0, true)))
                    }
                }
            }
        });
        hyper::Response::new(reqwest::Body::wrap_stream(chunks)).into()
    }

    /// When the attempts to open a stream began, in seconds from the first one on.
    fn connects(&self) -> Vec<f64> {
        let connects = self.connects.lock().unwrap();
        connects.iter().map(|at| at.duration_since(connects[0]).as_secs_f64()).collect()
    }
}

fn record(id: u64) -> String {
    format!(
        r#"{{"id":{id},"id_str":"{id}","text":"t","user":{{"screen_name":"u"}},"created_at":"d"}}"#
    ) + "\r\n"
}

impl Wire for Scripted {
    fn url(&self) -> &Url {
        &self.url
    }

    fn stall(&self) -> Duration {
        90 * SECOND
    }

    fn free_at(&self, wanted: Instant) -> Instant {
        if self.one_stream { self.budget.lock().unwrap().free_at(wanted) } else { wanted }
    }

    fn open(self: Arc<Self>, _: Arc<Session>) -> Held<Result<Response, Failure>> {
        Box::pin(async move {
            self.connects.lock().unwrap().push(Instant::now());
            self.budget.lock().unwrap().make(Instant::now());
            self.answer(&self.script).await
        })
    }

    fn prove(self: Arc<Self>, _: Arc<Session>) -> Option<Held<Result<(), Failure>>> {
        self.one_stream.then(|| -> Held<Result<(), Failure>> {
            Box::pin(async move {
                self.proven.lock().unwrap().push(Instant::now());
                self.answer(&self.proofs).await.map(|_| ())
            })
        })
    }

    fn read<'a>(&self, record: &'a [u8]) -> Message<'a> {
        // Either dialect's notices, so that each is known to the state machine.
        match (Message::parse(record), x_v2::read(record)) {
            (Message::Unknown, notice @ Message::Notice(_)) => notice,
            (message, _) => message,
        }
    }
}

/// A feed on a scripted server.
pub(super) struct Simulated {
    pub(super) feed: Feed,
    offers: watch::Sender<Option<Arc<Candidate>>>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    read: Vec<String>,
}

const CONNECTS: usize = 50;

pub(super) const LIMITS: read_budget::Limits = read_budget::Limits { day: None, month: None };

impl Simulated {
    pub(super) fn new(wire: &Arc<Scripted>, limits: read_budget::Limits) -> Self {
        let (offers, candidates) = watch::channel(None);
        let (sender, verdicts) = mpsc::unbounded_channel();
        let port = Port { candidates, verdicts: sender };
        let started = Instant::now();
        let clock: Clock = Arc::new(move || SystemTime::UNIX_EPOCH + started.elapsed());
        let dialect: Arc<dyn Wire> = Arc::clone(wire) as Arc<dyn Wire>;
        let feed = Feed::new(dialect, limits, generation("1", VALUE), port, Arc::default(), clock);
        Self { feed, offers, verdicts, read: Vec::new() }
    }

    /// Reads for so long, or until the feed gives up.
    async fn run(&mut self, time: Duration) -> Option<FeedError> {
        let reading = async {
            loop {
                let record = match self.feed.next().await {
                    Ok(record) => record,
                    Err(error) => return error,
                };
                if let Some(post) = self.feed.post(&record) {
                    self.read.push(post.id.into_owned());
                }
            }
        };
        timeout(time, reading).await.ok()
    }

    fn offer(&self, version: &str) {
        self.offer_value(version, VALUE);
    }

    pub(super) fn offer_value(&self, version: &str, value: &str) {
        let generation = generation(version, value);
        let candidate = Candidate::new(generation, "AWSCURRENT", Reason::Event);
        self.offers.send_replace(Some(Arc::new(candidate)));
    }

    fn verdicts(&mut self) -> Vec<(&'static str, String)> {
        let mut verdicts = Vec::new();
        while let Ok(verdict) = self.verdicts.try_recv() {
            let (word, generation) = match verdict {
                Verdict::Accepted { generation, .. } => ("accepted", generation),
                Verdict::Refused { generation } => ("refused", generation),
            };
            let version = generation.versions().next().unwrap().1.to_owned();
            verdicts.push((word, version));
        }
        verdicts
    }
}

pub(super) const VALUE: &str = "MARKER";

fn generation(version: &str, value: &str) -> Arc<Generation> {
    Arc::new(Generation::new(vec![HeldCredential {
        credential: Credential::ConsumerKey,
        reference: "CONSUMERKEY".parse().unwrap(),
        version_id: version.to_owned(),
        value: Arc::new(SecretString::from(value)),
    }]))
}

/// How long after a fault the next attempt may begin, in seconds.
type Wait = std::ops::RangeInclusive<f64>;

const AT_ONCE: Wait = 0.0..=0.01;
const HTTP: Wait = 5.0..=6.25;
const RATE: Wait = 60.0..=75.0;
const STALL: Wait = 90.0..=90.01;

fn close_to(wait: &Wait, seconds: f64) -> bool {
    wait.contains(&seconds) || (seconds - wait.end()).abs() < 0.01
}

/// What the answers to an attempt must lead to: the wait before the next, and whether the
/// credentials are said to be refused.
fn answers() -> Vec<(&'static str, Answer, Wait, bool)> {
    let reset = Answer::Refuse { class: Class::RateLimit, refused: false, reset: Some(7 * SECOND) };
    vec![
        ("network error", refuse(Class::Network, false), AT_ONCE, false),
        ("503", refuse(Class::Http, false), HTTP, false),
        ("401", refuse(Class::Http, true), HTTP, true),
        ("429", refuse(Class::RateLimit, false), RATE, false),
        ("429 with a reset", reset, 7.0..=7.01, false),
    ]
}

/// The same for the ways in which a stream ends.
fn ends() -> Vec<(&'static str, End, Wait)> {
    let record = |json, closes| End::Record { json, closes };
    let code = |json| record(json, true);
    let problem = r#"{"errors":[{"title":"operational-disconnect","disconnect_type":"UpstreamOperationalDisconnect","detail":"d"}]}"#;
    let many =
        r#"{"errors":[{"title":"ConnectionException","connection_issue":"TooManyConnections"}]}"#;
    vec![
        ("clean end", End::Clean, AT_ONCE),
        ("cut in a record", End::Cut, AT_ONCE),
        ("silence", End::Silence, STALL),
        ("disconnect 12, load", code(r#"{"disconnect":{"code":12,"reason":"r"}}"#), AT_ONCE),
        ("disconnect 6, revoked", code(r#"{"disconnect":{"code":6,"reason":"r"}}"#), AT_ONCE),
        ("disconnect 7, another came", code(r#"{"disconnect":{"code":7,"reason":"r"}}"#), HTTP),
        ("disconnect 2, duplicate", code(r#"{"disconnect":{"code":2,"reason":"r"}}"#), HTTP),
        ("operational, closed", record(problem, true), AT_ONCE),
        ("operational, left open", record(problem, false), AT_ONCE),
        ("too many connections", record(many, false), RATE),
    ]
}

pub(super) const GOOD: Answer = Answer::Posts { every: SECOND, count: u64::MAX, end: End::Clean };

#[tokio::test(start_paused = true)]
async fn each_answer_to_the_first_attempt_has_its_wait_and_the_next_one_its_stream() {
    for one_stream in [false, true] {
        for (name, answer, wait, refused) in answers() {
            let wire = Scripted::new(one_stream, [answer, GOOD]);
            let mut simulated = Simulated::new(&wire, LIMITS);
            assert!(simulated.run(600 * SECOND).await.is_none());
            let connects = wire.connects();
            assert_eq!(connects.len(), 2, "{name}");
            assert!(close_to(&wait, connects[1]), "{name}: {connects:?}");
            let verdicts = simulated.verdicts();
            let expected = if refused { vec!["refused", "accepted"] } else { vec!["accepted"] };
            assert_eq!(verdicts.iter().map(|verdict| verdict.0).collect::<Vec<_>>(), expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_end_of_a_stream_that_has_proven_itself_has_its_wait() {
    for one_stream in [false, true] {
        for (name, end, wait) in ends() {
            let wire = Scripted::new(one_stream, [posts(20, end), GOOD]);
            let mut simulated = Simulated::new(&wire, LIMITS);
            assert!(simulated.run(600 * SECOND).await.is_none());
            let connects = wire.connects();
            assert_eq!(connects.len(), 2, "{name}");
            let waited = connects[1] - 20.0;
            assert!(close_to(&wait, waited), "{name}: {waited}");
            // Whatever was sent in full was read, and nothing twice.
            let expected: Vec<_> = (0..simulated.read.len()).map(|id| id.to_string()).collect();
            assert_eq!(simulated.read, expected, "{name}");
            assert!(simulated.read.len() > 400, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_says_last_of_its_end_counts_however_often_it_has_said_so() {
    let load = r#"{"disconnect":{"code":12,"reason":"load"}}"#;
    let json = format!("{}{DUPLICATE}", format!("{load}\r\n").repeat(50)).leak();
    let wire = Scripted::new(false, [posts(20, End::Record { json, closes: true }), GOOD]);
    let mut simulated = Simulated::new(&wire, LIMITS);
    assert!(simulated.run(600 * SECOND).await.is_none());
    let connects = wire.connects();
    assert!(close_to(&HTTP, connects[1] - 20.0), "{connects:?}");
}

#[tokio::test(start_paused = true)]
async fn each_answer_after_a_stream_that_has_not_proven_itself_counts_on() {
    for (name, answer, wait, _) in answers() {
        // Refused, then a stream of 2 s, then refused again: the second refusal is no first one.
        let script = [answer.clone(), posts(2, End::Clean), answer, GOOD];
        let wire = Scripted::new(false, script);
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(900 * SECOND).await.is_none());
        let connects = wire.connects();
        assert_eq!(connects.len(), 4, "{name}");
        let second = connects[3] - connects[2];
        let twice = match name {
            "network error" => 0.5..=0.51,
            // The server's word was too early the first time.
            "429 with a reset" => 120.0..=120.01,
            _ => wait.start() * 2.0..=wait.end() * 2.0,
        };
        assert!(close_to(&twice, second), "{name}: {second}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_answer_to_an_offer_leaves_the_stream_alone_and_the_offer_is_tried_again() {
    for one_stream in [false, true] {
        for (name, answer, wait, refused) in answers() {
            let script = if one_stream { vec![GOOD] } else { vec![GOOD, answer.clone(), GOOD] };
            let wire = Scripted::new(one_stream, script);
            *wire.proofs.lock().unwrap() = [answer, posts(0, End::Clean)].into();
            let mut simulated = Simulated::new(&wire, LIMITS);
            assert!(simulated.run(20 * SECOND).await.is_none());
            let _ = simulated.verdicts();
            simulated.offer("2");
            assert!(simulated.run(200 * SECOND).await.is_none());
            let verdicts = simulated.verdicts();
            let accepted = ("accepted", "2".to_owned());
            let refusals = verdicts.iter().filter(|verdict| verdict.0 == "refused").count();
            assert_eq!(verdicts.last(), Some(&accepted), "{name}");
            assert_eq!(refusals, usize::from(refused), "{name}");
            let tries = if one_stream {
                assert_eq!(wire.connects().len(), 1, "{name}: the stream was left");
                wire.proven.lock().unwrap().clone()
            } else {
                wire.connects.lock().unwrap()[1..].to_vec()
            };
            assert_eq!(tries.len(), 2, "{name}");
            let waited = (tries[1] - tries[0]).as_secs_f64();
            let longest = if *wait.start() >= 7.0 { *wait.end() } else { 1.0 };
            assert!(waited <= longest + 0.01, "{name}: {waited}");
            // The posts of the stream came all the while.
            let distinct: std::collections::HashSet<_> = simulated.read.iter().collect();
            assert!(distinct.len() == simulated.read.len() && distinct.len() >= 219, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_ends_the_feed_and_of_an_offer_only_the_offer() {
    for one_stream in [false, true] {
        let wire = Scripted::new(one_stream, [Answer::Stop]);
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(SECOND).await.is_some());

        let wire = Scripted::new(one_stream, [GOOD, Answer::Stop]);
        *wire.proofs.lock().unwrap() = [Answer::Stop].into();
        let mut simulated = Simulated::new(&wire, LIMITS);
        simulated.offer("2");
        assert!(simulated.run(100 * SECOND).await.is_none());
        assert!(simulated.verdicts().contains(&("refused", "2".to_owned())));
        assert!(simulated.read.len() >= 99);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_stream_ends_under_new_keys_the_next_one_is_theirs() {
    let wire = Scripted::new(true, [posts(20, End::Cut), GOOD]);
    let mut simulated = Simulated::new(&wire, LIMITS);
    assert!(simulated.run(5 * SECOND).await.is_none());
    simulated.offer("2");
    assert!(simulated.run(100 * SECOND).await.is_none());
    let versions: Vec<_> = simulated.verdicts().into_iter().map(|verdict| verdict.1).collect();
    assert_eq!(versions, ["1", "2", "2"]);
    assert_eq!(wire.connects().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_offer_is_tried_at_once_when_the_stream_ends() {
    for _ in 0..10 {
        let end = End::Record { json: r#"{"disconnect":{"code":7}}"#, closes: true };
        let mut script = vec![posts(300, end)];
        script.extend(std::iter::repeat_n(refuse(Class::Http, true), 200));
        let wire = Scripted::new(false, script);
        let mut simulated = Simulated::new(&wire, LIMITS);
        simulated.offer("2");
        assert!(simulated.run(400 * SECOND).await.is_none());
        // The offer's own next try is half a minute away by then, and the stream's five seconds.
        let connects = wire.connects();
        assert!(connects.iter().any(|at| (at - 300.0).abs() < 0.01), "{connects:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_noticed_however_often_an_offer_is_tried_meanwhile() {
    for one_stream in [false, true] {
        let mut script = vec![posts(5, End::Silence)];
        script.push(if one_stream { GOOD } else { refuse(Class::Http, true) });
        let wire = Scripted::new(one_stream, script);
        *wire.proofs.lock().unwrap() = [refuse(Class::Http, true)].into();
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(SECOND).await.is_none());
        simulated.offer("2");
        assert!(simulated.run(600 * SECOND).await.is_none());
        let connects = wire.connects();
        assert!(connects.iter().any(|at| (at - 95.0).abs() < 0.1), "{connects:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_hangs_does_not_keep_the_stream_from_being_opened_again() {
    let wire = Scripted::new(true, [posts(20, End::Cut), GOOD]);
    *wire.proofs.lock().unwrap() = [Answer::Hang].into();
    let mut simulated = Simulated::new(&wire, LIMITS);
    assert!(simulated.run(SECOND).await.is_none());
    simulated.offer("2");
    assert!(simulated.run(30 * SECOND).await.is_none());
    // Without a stream, the offer is proven by one.
    assert_eq!(simulated.verdicts(), [("accepted", "1".to_owned()), ("accepted", "2".to_owned())]);
    let connects = wire.connects();
    assert!(connects.len() == 2 && connects[1] < 20.1, "{connects:?}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_disconnects_loses_no_post_and_never_connects_more_than_documented() {
    for one_stream in [false, true] {
        // Two posts, and after a second the stream is cut, for as long as it takes.
        let storm = Answer::Posts { every: SECOND / 2, count: 2, end: End::Cut };
        let wire = Scripted::new(one_stream, [storm]);
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(600 * SECOND).await.is_none());
        let sent = wire.next_id.load(Ordering::Relaxed);
        let expected: Vec<_> = (0..sent).map(|id| id.to_string()).collect();
        assert_eq!(simulated.read, expected);
        let connects = wire.connects();
        let most = if one_stream { CONNECTS } else { 70 };
        assert!((20..=most).contains(&connects.len()), "{}", connects.len());
        let mut least: f64 = 0.0;
        for pair in connects.windows(2) {
            let waited = pair[1] - pair[0] - 1.0;
            assert!(waited >= least - 0.01, "{waited} and not {least}");
            least = (least + 0.25).min(16.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_storms_stays_within_the_connect_budget() {
    // Every stream lasts just long enough to be a good one.
    let wire = Scripted::new(true, [posts(11, End::Cut)]);
    let mut simulated = Simulated::new(&wire, LIMITS);
    assert!(simulated.run(24 * 3600 * SECOND).await.is_none());
    let connects = wire.connects();
    assert!(connects.len() > 4_000, "{}", connects.len());
    for window in connects.windows(51) {
        assert!(window[50] - window[0] > WINDOW, "{window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_refused_credentials_earns_no_rate_limit() {
    for one_stream in [false, true] {
        let wire = Scripted::new(one_stream, [refuse(Class::Http, true)]);
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(3600 * SECOND).await.is_none());
        let connects = wire.connects();
        // X counts in windows of a quarter of an hour, the smallest limit of which is 15.
        for window in connects.windows(15) {
            assert!(window[14] - window[0] > WINDOW, "{window:?}");
        }
        assert!((10..=30).contains(&connects.len()), "{}", connects.len());
        assert!(simulated.verdicts().iter().all(|verdict| verdict.0 == "refused"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_spent_read_budget_closes_the_stream_until_the_day_turns() {
    for one_stream in [false, true] {
        let day = read_budget::Limits { day: Some(100), month: None };
        let wire = Scripted::new(one_stream, [GOOD]);
        let mut simulated = Simulated::new(&wire, day);
        assert!(simulated.run(3600 * SECOND).await.is_none());
        assert_eq!(simulated.read.len(), 100);
        // Not even new credentials open it.
        simulated.offer("2");
        assert!(simulated.run(22 * 3600 * SECOND).await.is_none());
        assert_eq!((simulated.read.len(), wire.connects().len()), (100, 1));
        assert!(simulated.run(3 * 3600 * SECOND).await.is_none());
        assert_eq!((simulated.read.len(), wire.connects().len()), (200, 2));
        assert_eq!(simulated.verdicts().last().unwrap(), &("accepted", "2".to_owned()));
    }
}

/// For how long no stream has lasted, and whether the server lets one be opened; `None` where there is
/// one, or none is wanted.
fn missed(feed: &Feed) -> Option<(u64, bool)> {
    match *feed.state().borrow() {
        State::Connecting { since, held_off } => Some((since.elapsed().as_secs(), held_off)),
        State::Delivering { .. } | State::Paused { .. } => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_missed_from_the_start_and_from_its_end_on_whatever_is_lost_at_once_in_between()
{
    for (name, answer, held_off) in [
        ("refused", refuse(Class::Http, true), false),
        ("opened and lost", posts(1, End::Record { json: DUPLICATE, closes: true }), false),
        ("told to wait", refuse(Class::RateLimit, false), true),
    ] {
        let wire = Scripted::new(false, [answer.clone()]);
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(1000 * SECOND).await.is_none());
        assert_eq!(missed(&simulated.feed), Some((1000, held_off)), "{name}");

        let wire = Scripted::new(false, [posts(20, End::Clean), answer]);
        let mut simulated = Simulated::new(&wire, LIMITS);
        assert!(simulated.run(19 * SECOND).await.is_none());
        assert_eq!(missed(&simulated.feed), None, "{name}");
        assert!(simulated.run(1001 * SECOND).await.is_none());
        assert_eq!(missed(&simulated.feed), Some((1000, held_off)), "{name}");
    }
}

/// Others have opened a stream with the same credentials.
const DUPLICATE: &str = r#"{"disconnect":{"code":7,"reason":"r"}}"#;

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_spent_holds_off_or_pauses_and_a_stream_that_is_taken_over_goes_on() {
    // Cut again and again, until no more may be opened.
    let wire = Scripted::new(true, [posts(1, End::Cut)]);
    let mut simulated = Simulated::new(&wire, LIMITS);
    assert!(simulated.run(800 * SECOND).await.is_none());
    assert_eq!(missed(&simulated.feed), Some((800, true)));

    let day = read_budget::Limits { day: Some(100), month: None };
    let mut simulated = Simulated::new(&Scripted::new(false, [GOOD]), day);
    assert!(simulated.run(3600 * SECOND).await.is_none());
    let state = *simulated.feed.state().borrow();
    assert!(matches!(state, State::Paused { until } if until > Instant::now()), "{state:?}");

    let mut simulated = Simulated::new(&Scripted::new(false, [GOOD]), LIMITS);
    assert!(simulated.run(60 * SECOND).await.is_none());
    simulated.offer("2");
    assert!(simulated.run(60 * SECOND).await.is_none());
    let state = *simulated.feed.state().borrow();
    let age = |since: Instant| since.elapsed().as_secs();
    assert!(matches!(state, State::Delivering { since } if age(since) == 120), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_by_class_and_a_stall_is_a_lost_stream() {
    let script = [
        refuse(Class::Network, false),
        refuse(Class::Http, true),
        refuse(Class::RateLimit, false),
        posts(20, End::Silence),
        posts(20, End::Cut),
        GOOD,
    ];
    let mut simulated = Simulated::new(&Scripted::new(true, script), LIMITS);
    assert!(simulated.run(1000 * SECOND).await.is_none());
    let counts = simulated.feed.counts.summary();
    let failed = [
        counts.connects_failed_network,
        counts.connects_failed_http,
        counts.connects_failed_rate_limit,
        counts.credential_refusals,
    ];
    assert_eq!(failed, [1, 1, 1, 1]);
    assert_eq!((counts.connects, counts.streams_lost, counts.stalls), (3, 2, 1));

    // A proof that fails opens no stream, and so fails to open none.
    let wire = Scripted::new(true, [GOOD]);
    *wire.proofs.lock().unwrap() = VecDeque::from([refuse(Class::Http, true)]);
    let mut simulated = Simulated::new(&wire, LIMITS);
    assert!(simulated.run(20 * SECOND).await.is_none());
    simulated.offer("2");
    assert!(simulated.run(SECOND / 2).await.is_none());
    let counts = simulated.feed.counts.summary();
    assert!(counts.credential_refusals > 0);
    assert_eq!(counts.connects_failed_http, 0);
}
