//! How the worker is, said to whoever asks and in the log.
//!
//! `twitterstream health` asks the running worker over a Unix [`socket`] on its volume, prints the
//! answer and ends; ECS runs it in the container as its health check. What the answer is, [`mod@judge`]
//! decides of what is known at that moment.
//!
//! # What the exit code means
//!
//! ECS replaces a task of a service whose essential container is UNHEALTHY, and with the task goes its
//! disk: all rows that wait there, or in memory, are lost if the stop cannot write them. So a worker
//! that is in trouble with its table must not be called unhealthy. The exit code is 1 only where a new
//! task can be better and nothing is lost by the change: the worker is `failing`, no row waits, and no
//! server has asked to be left alone, which a new process would not know. Then it is what helps: a
//! worker whose injected credentials were rotated is replaced by one with the new values. By the same
//! rule it is 1 while the worker is `starting`, which ECS forgives for the start period: a deployment is
//! healthy once credentials, table and feed are proven, and not before. It is 1 also
//! where no worker answers in time, for a process that hangs writes nothing. Otherwise it is 0, and
//! the state is in the answer, the log and the metrics for people and alarms. Without `SPOOL_DIR` there
//! is no socket, and the exit code is 64: a service with this health check and without the volume never
//! gets healthy, so that its deployment is rolled back, and does not run unwatched.

pub mod judge;
pub mod socket;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::judge::{Judgement, Snapshot, State, judge};
use self::socket::Socket;
use crate::backlog::pulse::Pulse;
use crate::counts::Counts;
use crate::credentials::rotation;
use crate::feed;
use crate::telemetry::chain;

/// How often the worker looks at itself.
const LOOK: Duration = Duration::from_secs(1);

/// How often the state is logged where it does not change.
const SAID_EVERY: Duration = Duration::from_mins(10);

/// Where what is known of the worker comes together. Each part is given once it is there.
#[derive(Debug)]
pub struct Vitals {
    /// What has passed.
    pub counts: Arc<Counts>,
    poll: Duration,
    credentials: OnceLock<watch::Receiver<rotation::Status>>,
    feed: OnceLock<watch::Receiver<feed::State>>,
    pulse: OnceLock<Arc<Pulse>>,
    draining: AtomicBool,
    state: Mutex<State>,
}

impl Vitals {
    /// Of a worker that begins. `poll` is how often it looks at the labels of its secrets.
    #[must_use]
    pub fn new(counts: Arc<Counts>, poll: Duration) -> Self {
        let draining = AtomicBool::new(false);
        let (credentials, feed, pulse) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let state = Mutex::new(State::Starting);
        Self { counts, poll, credentials, feed, pulse, draining, state }
    }

    /// The credentials are there.
    pub fn credentials(&self, status: watch::Receiver<rotation::Status>) {
        // Each part is given once; a second one would change nothing.
        let _ = self.credentials.set(status);
    }

    /// The feed is there.
    pub fn feed(&self, state: watch::Receiver<feed::State>) {
        let _ = self.feed.set(state);
    }

    /// The backlog is there, and with it the table's pulse.
    pub fn pulse(&self, pulse: Arc<Pulse>) {
        let _ = self.pulse.set(pulse);
    }

    /// The stop has begun.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What is known of the credentials; `None` before they are there.
    #[must_use]
    pub fn status(&self) -> Option<rotation::Status> {
        self.credentials.get().map(|status| status.borrow().clone())
    }

    /// The state at the last look, which is a second ago at the most.
    #[must_use]
    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self, dropped_at: Option<Instant>) -> Snapshot {
        let counts = self.counts.summary();
        Snapshot {
            draining: self.draining.load(Ordering::Relaxed),
            looked_at: self.credentials.get().map(|status| status.borrow().looked_at),
            poll: self.poll,
            feed: self.feed.get().map(|state| *state.borrow()),
            was_open: counts.connects > 0,
            table_is_away: self.pulse.get().is_some_and(|pulse| pulse.is_away()),
            rows_in_spool: counts.rows_in_spool,
            rows_waiting: counts.rows_waiting,
            dropped_at,
        }
    }
}

/// The worker's watch over itself. It ends, and its socket with it, when it is dropped.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<()>,
    _socket: Option<socket::Unlink>,
}

impl Watch {
    /// Begins to watch, and to answer on a socket in `folder`, where there is one. A socket that cannot
    /// be had is said in the log, and stops nothing.
    #[must_use]
    pub fn begin(vitals: Arc<Vitals>, folder: Option<&Path>) -> Self {
        let socket = folder.and_then(|folder| {
            let unusable = |error: socket::SocketError| {
                let error = chain(&error);
                tracing::error!(error, "nobody can ask for the worker's health; it runs on");
            };
            Socket::bind(folder).map_err(unusable).ok()
        });
        let (socket, unlink) = socket.unzip();
        Self { task: tokio::spawn(watch(vitals, socket)), _socket: unlink }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(vitals: Arc<Vitals>, socket: Option<Socket>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dropped = (0, None::<Instant>);
    let mut said = None::<(State, Instant)>;
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let rows_dropped = vitals.counts.rows_dropped.count();
                if rows_dropped > dropped.0 {
                    dropped = (rows_dropped, Some(Instant::now()));
                }
                let now = Instant::now();
                let judgement = judge(&vitals.snapshot(dropped.1), now);
                *vitals.state.lock().unwrap_or_else(PoisonError::into_inner) = judgement.state;
                let due = |(state, at): &(State, Instant)| {
                    *state != judgement.state || now.duration_since(*at) >= SAID_EVERY
                };
                if said.as_ref().is_none_or(due) {
                    said = Some((judgement.state, now));
                    say(&judgement, vitals.status().as_ref(), now);
                }
            }
            client = next(socket.as_ref()) => {
                let snapshot = vitals.snapshot(dropped.1);
                let answer = Answer::new(&snapshot, vitals.status().as_ref(), Instant::now());
                socket::answer(client, &answer).await;
            }
        }
    }
}

async fn next(socket: Option<&Socket>) -> UnixStream {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}

/// What is said to whoever asks: a line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    state: &'static str,
    reason: String,
    /// Whether the exit code is 0.
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_look_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_age_seconds: Option<u64>,
    rows_waiting: u64,
    rows_in_spool: u64,
}

impl Answer {
    fn new(snapshot: &Snapshot, status: Option<&rotation::Status>, now: Instant) -> Self {
        let Judgement { state, reason, healthy } = judge(snapshot, now);
        let age = |moment: Instant| now.duration_since(moment).as_secs();
        let opened_at = match snapshot.feed {
            Some(feed::State::Delivering { since }) => Some(since),
            _ => None,
        };
        Self {
            state: state.name(),
            reason,
            healthy,
            generation_age_seconds: status.map(|status| age(status.adopted_at)),
            last_look_age_seconds: status.map(|status| age(status.looked_at)),
            stream_age_seconds: opened_at.map(age),
            rows_waiting: snapshot.rows_waiting,
            rows_in_spool: snapshot.rows_in_spool,
        }
    }
}

fn say(judgement: &Judgement, status: Option<&rotation::Status>, now: Instant) {
    let Judgement { state, reason, healthy } = judgement;
    let secrets = status.map(|status| status.secrets(now));
    let state = state.name();
    match judgement.state {
        State::Ok | State::Starting | State::Draining => {
            tracing::info!(state, reason, healthy, secrets, "health");
        }
        State::Stale | State::Degraded => {
            tracing::warn!(state, reason, healthy, secrets, "health");
        }
        State::Failing => tracing::error!(state, reason, healthy, secrets, "health"),
    }
}
