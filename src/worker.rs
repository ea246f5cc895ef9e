//! The worker: credentials and table are proven, then the straight line from the feed to the
//! table, and at a stop the drain.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use crate::backlog::{self, Backlog, QUEUE_ROWS};
use crate::clock::Clock;
use crate::config::{Config, Spool};
use crate::counts::{Counts, Summary};
use crate::credentials::queue;
use crate::credentials::rotation::{self, Reason, Rotation, Vault};
use crate::credentials::{FetchError, Generation};
use crate::feed::connection::Client;
use crate::feed::dialect::Wire;
use crate::feed::message::Post;
use crate::feed::twitter_v1_1::TwitterV1_1;
use crate::feed::x_v2::XV2;
use crate::feed::{Dialect, Feed, FeedError};
use crate::filter::Filter;
use crate::health::{self, Vitals};
use crate::retry::Jitter;
use crate::table::{Row, Table, TableError};
use crate::telemetry::chain;
use crate::writers::Writers;

/// How often the counts are logged while they change.
const PROGRESS: Duration = Duration::from_secs(5);

/// When a stop is asked for, what has come is read: until so many looks find nothing more, or, where the
/// feed never pauses, for so long. A socket holds some 6 MB, which even a slow processor reads in less.
const LOOK: Duration = Duration::from_millis(2);
const LOOKS_IN_VAIN: u32 = 3;
const LAST_READ: Duration = Duration::from_secs(2);

/// How often dropped rows are reported while there are more and more of them.
const DROPPED: Duration = Duration::from_mins(1);

/// What the worker was asked to do, by signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Nothing: go on.
    #[default]
    Run,
    /// Read what has come and no more, write what was accepted, and end.
    Drain,
    /// End at once.
    Leave,
}

/// Why a worker did not run, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The credentials were not had.
    #[error("the worker has no credentials")]
    Credentials(#[source] FetchError),
    /// The table cannot be written.
    #[error("the worker cannot write its table; {}", .0.kind.advice())]
    Table(#[source] TableError),
    /// The feed will never deliver.
    #[error("the worker has no feed")]
    Feed(#[source] FeedError),
    /// Rows were accepted and not written.
    #[error("{0} rows were accepted and not written")]
    RowsLost(u64),
    /// Rows wait on the disk.
    #[error(
        "{rows} rows were not written and are left in the spool in {}: the next worker with this disk \
         writes them. On Fargate the disk ends with its task",
        folder.display()
    )]
    RowsLeft {
        /// How many.
        rows: u64,
        /// `SPOOL_DIR`.
        folder: PathBuf,
    },
    /// The system gives no thread.
    #[error("the worker could not start its threads")]
    Threads(#[source] io::Error),
}

/// Runs until it is asked to stop, or cannot go on.
///
/// # Errors
/// A dependency refused for good, `START_LIMIT` passed, or rows were lost at the stop.
pub async fn run<V: Vault>(
    config: &Config,
    sdk: &SdkConfig,
    vault: V,
    vitals: Arc<Vitals>,
    mut requests: watch::Receiver<Request>,
    (trigger, triggers): (mpsc::UnboundedSender<Reason>, mpsc::UnboundedReceiver<Reason>),
    clock: Clock,
) -> Result<(), WorkerError> {
    let counts = Arc::clone(&vitals.counts);
    let folder = config.spool.as_ref().map(|spool| spool.folder.as_path());
    let _watch = health::Watch::begin(Arc::clone(&vitals), folder);
    let table = Table::new(sdk, config.table.clone());
    // A large spool that a killed process has left takes a second or two to be read.
    let opening = config.spool.clone().map(|Spool { folder, bytes }| {
        let counts = Arc::clone(&counts);
        tokio::task::spawn_blocking(move || backlog::open(Some((&folder, bytes)), &counts))
    });
    let started = tokio::select! {
        started = start(config, &vault, &table) => Some(started),
        () = asked(&mut requests, Request::Drain) => None,
    };
    let opened = match opening {
        Some(opening) => opening.await.map_err(io::Error::other).flatten(),
        None => backlog::open(None, &counts),
    };
    let (backlog, rest, rows) = opened.map_err(WorkerError::Threads)?;
    vitals.pulse(rest.pulse());
    let writers = Writers::start(&table, &rows, &counts).map_err(WorkerError::Threads)?;
    drop(rows);
    let mut asked_at = None;
    let reading = match started {
        Some(Ok(generation)) => {
            let asked_at = &mut asked_at;
            let work = Work { config, sdk, backlog, vitals: &vitals, clock, asked_at };
            let read = work.read(vault, generation, &mut requests, (trigger, triggers)).await;
            let rows_waiting = counts.summary().rows_waiting;
            tracing::info!(rows_waiting, "the stream is closed; writing what was accepted");
            read
        }
        not_started => {
            drop(backlog);
            // A task that ends takes its disk with it, so they are written even now.
            let rows_waiting = counts.summary().rows_waiting;
            if rows_waiting > 0 {
                tracing::info!(rows_waiting, "writing what an earlier process has left");
            }
            if not_started.is_none() {
                tracing::info!("asked to stop before the stream was open");
            }
            not_started.map_or(Ok(()), |error| error.map(drop))
        }
    };

    // The backlog is closed now: the writers end once nothing waits.
    vitals.drain();
    let until = asked_at.unwrap_or_else(Instant::now) + config.stop_limit;
    let drained = drain(config, until, &counts, writers, rest, &mut requests).await;
    match (reading, drained) {
        (Ok(()), drained) => drained,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(rows)) => {
            tracing::error!(error = chain(&rows), "rows were not written");
            Err(error)
        }
    }
}

/// What reading takes.
struct Work<'a> {
    config: &'a Config,
    sdk: &'a SdkConfig,
    backlog: Backlog,
    vitals: &'a Vitals,
    clock: Clock,
    /// When a stop was asked for: `STOP_LIMIT` is counted from there.
    asked_at: &'a mut Option<Instant>,
}

impl Work<'_> {
    /// Reads the feed until a stop is asked for, or it will never deliver.
    async fn read<V: Vault>(
        self,
        vault: V,
        generation: Generation,
        requests: &mut watch::Receiver<Request>,
        (trigger, triggers): (mpsc::UnboundedSender<Reason>, mpsc::UnboundedReceiver<Reason>),
    ) -> Result<(), WorkerError> {
        let Self { config, sdk, backlog, vitals, clock, asked_at } = self;
        let counts = &vitals.counts;
        let generation = Arc::new(generation);
        let settings = rotation::Settings {
            references: config.references.clone(),
            poll: config.rotation_poll,
            bridge: config.rotation_bridge,
        };
        let (rotation, port, status) =
            Rotation::new(vault, settings, Arc::clone(&generation), triggers, Arc::clone(counts));
        let wire = wire(config, Arc::clone(&clock)).map_err(WorkerError::Feed)?;
        let feed = Feed::new(wire, config.read_budget, generation, port, Arc::clone(counts), clock);
        vitals.credentials(status.clone());
        vitals.feed(feed.state());
        // It ends with the feed, which holds the other end of its port, and the listening with it.
        tokio::spawn(rotation.run());
        if let Some(queue_url) = config.rotation_queue_url.clone() {
            let references =
                config.references.iter().map(|(_, reference)| reference.clone()).collect();
            tokio::spawn(queue::listen(
                sdk.clone(),
                queue_url,
                references,
                trigger,
                Arc::clone(counts),
            ));
        }
        let mut reading = pin!(read(feed, &config.filter, backlog, counts));
        let mut dropped = Dropped::default();
        let read = tokio::select! {
            Err(error) = &mut reading => Err(error),
            () = progress(counts, &status, &mut dropped) => Ok(()),
            () = asked(requests, Request::Drain) => {
                *asked_at = Some(Instant::now());
                read_what_has_come(reading, counts, config.stop_limit / 2).await
            }
        };
        // Those of the last minute have not been told of.
        dropped.say(&counts.summary());
        read.map_err(WorkerError::Feed)
    }
}

/// Writes what was accepted, until `STOP_LIMIT` has passed; the disk takes the rest.
async fn drain(
    config: &Config,
    until: Instant,
    counts: &Counts,
    mut writers: Writers,
    rest: backlog::Rest,
    requests: &mut watch::Receiver<Request>,
) -> Result<(), WorkerError> {
    let rows_dropped = counts.summary().rows_dropped;
    tokio::select! {
        drained = timeout_at(until, writers.ended()) => if drained.is_err() {
            tracing::error!(limit = ?config.stop_limit, "STOP_LIMIT passed with rows still to write");
        },
        () = asked(requests, Request::Leave) => {
            tracing::error!("asked a second time to stop: leaving at once");
        }
    }
    writers.leave().await;
    rest.flush().await;
    let summary = counts.summary();
    log(&summary, None, "stopped");
    let in_memory = summary.rows_waiting - summary.rows_in_spool;
    let lost = in_memory + summary.rows_dropped - rows_dropped;
    match (lost, summary.rows_waiting, &config.spool) {
        (0, 0, _) => Ok(()),
        (0, rows, Some(Spool { folder, .. })) => {
            Err(WorkerError::RowsLeft { rows, folder: folder.clone() })
        }
        (lost, ..) => Err(WorkerError::RowsLost(lost)),
    }
}

/// The dialect of the configuration.
fn wire(config: &Config, clock: Clock) -> Result<Arc<dyn Wire>, FeedError> {
    let (client, url, track) = (Client::new()?, config.feed_url.clone(), config.filter.track());
    Ok(match config.dialect {
        Dialect::XV2 => Arc::new(XV2::new(client, url, track, config.stream_options, clock)),
        Dialect::TwitterV1_1 => Arc::new(TwitterV1_1::new(client, url, track, clock)),
    })
}

/// Waits until at least this was asked. Whoever asks may go away; then nothing more is asked.
async fn asked(requests: &mut watch::Receiver<Request>, at_least: Request) {
    if requests.wait_for(|request| *request >= at_least).await.is_err() {
        pending::<()>().await;
    }
}

/// Proves table and credentials, both at once.
async fn start(
    config: &Config,
    vault: &impl Vault,
    table: &Table,
) -> Result<Generation, WorkerError> {
    let deadline = Instant::now() + config.start_limit;
    let fetching = retried(
        deadline,
        || vault.fetch(&config.references),
        |error: &FetchError| error.cause.is_transient(),
    );
    let proving =
        retried(deadline, || table.prove(), |error: &TableError| error.kind.is_transient());
    let (generation, ()) = tokio::try_join!(
        async { fetching.await.map(Generation::new).map_err(WorkerError::Credentials) },
        async { proving.await.map_err(WorkerError::Table) },
    )?;
    for held in generation.held() {
        tracing::info!(
            secret_id = held.reference.secret_id(),
            version_id = held.version_id,
            variable = held.credential.variable(),
            "a credential was fetched",
        );
    }
    Ok(generation)
}

/// Asks again after what is transient, until the deadline.
async fn retried<T, E, F>(
    deadline: Instant,
    mut attempt: impl FnMut() -> F,
    is_transient: impl Fn(&E) -> bool,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: std::error::Error + 'static,
{
    let mut jitter = Jitter::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let wait = jitter.next_wait();
        if !is_transient(&error) || Instant::now() + wait > deadline {
            return Err(error);
        }
        let wait_seconds = wait.as_secs_f64();
        tracing::warn!(error = chain(&error), wait_seconds, "not started yet; trying again");
        sleep(wait).await;
    }
}

/// The straight line: record, post, filter, row.
async fn read(
    mut feed: Feed,
    filter: &Filter,
    backlog: Backlog,
    counts: &Counts,
) -> Result<Infallible, FeedError> {
    loop {
        let record = feed.next().await?;
        accept(&mut feed, &record, filter, &backlog, counts);
        while let Some(record) = feed.buffered() {
            accept(&mut feed, &record, filter, &backlog, counts);
        }
        tracing::trace!(
            posts_read = counts.posts_read.count(),
            posts_doubled = counts.posts_doubled.count(),
            posts_matched = counts.posts_matched.count(),
            "all that was received has been read",
        );
    }
}

/// Reads what lies in the socket when a stop is asked for: the feed has sent it, and sends it to nobody
/// else.
async fn read_what_has_come(
    mut reading: Pin<&mut impl Future<Output = Result<Infallible, FeedError>>>,
    counts: &Counts,
    limit: Duration,
) -> Result<(), FeedError> {
    let until = Instant::now() + LAST_READ.min(limit);
    let mut looks_in_vain = 0;
    while looks_in_vain < LOOKS_IN_VAIN && Instant::now() < until {
        let read = || counts.posts_read.count() + counts.posts_doubled.count();
        let before = read();
        // The HTTP client's own task brings it from the socket meanwhile.
        if let Ok(Err(error)) = timeout(LOOK, &mut reading).await {
            return Err(error);
        }
        looks_in_vain = if read() > before { 0 } else { looks_in_vain + 1 };
    }
    Ok(())
}

/// One record.
fn accept(feed: &mut Feed, record: &[u8], filter: &Filter, backlog: &Backlog, counts: &Counts) {
    // Most of a busy stream ends here.
    if let Some(head) = feed.head(record)
        && !head.searched.into_iter().any(|json| filter.may_match(json))
    {
        feed.pass_over(&head);
        return;
    }
    let Some(post) = feed.post(record) else {
        return;
    };
    if !post.matched_unseen && !filter.matches(&*post) {
        return;
    }
    let Post { user, date, text, id, .. } = *post;
    let row = Row {
        user: user.into_owned(),
        date: date.into_owned(),
        text: text.into_owned(),
        id: id.into_owned(),
    };
    let Row { user, date, text, id } = &row;
    tracing::info!(user, date, text, id, "post");
    counts.posts_matched.increment();
    backlog.accept(row);
}

/// Which of the rows that were dropped have been told of.
#[derive(Default)]
struct Dropped {
    rows: u64,
    said: Option<Instant>,
}

impl Dropped {
    /// Says, loudly, that rows are dropped, where it has not been said.
    fn say(&mut self, counts: &Summary) {
        if counts.rows_dropped == self.rows {
            return;
        }
        tracing::error!(
            rows_dropped = counts.rows_dropped,
            rows_dropped_since_last_said = counts.rows_dropped - self.rows,
            queue_rows = QUEUE_ROWS,
            rows_in_spool = counts.rows_in_spool,
            "rows are lost: the table does not take them, and neither memory nor SPOOL_DIR has room",
        );
        *self = Self { rows: counts.rows_dropped, said: Some(Instant::now()) };
    }
}

/// Logs the counts while they change, and with them the age of the credentials; and, once a minute, that
/// rows are dropped.
async fn progress(
    counts: &Counts,
    status: &watch::Receiver<rotation::Status>,
    dropped: &mut Dropped,
) {
    let mut before = Summary::default();
    let mut ticks = interval(PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let summary = counts.summary();
        if summary != before {
            log(&summary, Some(&status.borrow()), "progress");
        }
        before = summary;
        if dropped.said.is_none_or(|said| said.elapsed() >= DROPPED) {
            dropped.say(&summary);
        }
    }
}

fn log(counts: &Summary, credentials: Option<&rotation::Status>, message: &str) {
    tracing::info!(
        generation_age_seconds = credentials.map(|status| status.adopted_at.elapsed().as_secs()),
        last_look_age_seconds = credentials.map(|status| status.looked_at.elapsed().as_secs()),
        connects = counts.connects,
        connects_failed_network = counts.connects_failed_network,
        connects_failed_http = counts.connects_failed_http,
        connects_failed_rate_limit = counts.connects_failed_rate_limit,
        streams_lost = counts.streams_lost,
        stalls = counts.stalls,
        posts_read = counts.posts_read,
        posts_doubled = counts.posts_doubled,
        keep_alives = counts.keep_alives,
        notices = counts.notices,
        unknown = counts.unknown,
        malformed = counts.malformed,
        over_long = counts.over_long,
        posts_matched = counts.posts_matched,
        credential_refusals = counts.credential_refusals,
        rotations = counts.rotations,
        rotation_events = counts.rotation_events,
        rotation_events_foreign = counts.rotation_events_foreign,
        rows_recovered = counts.rows_recovered,
        rows_spooled = counts.rows_spooled,
        rows_in_spool = counts.rows_in_spool,
        rows_dropped = counts.rows_dropped,
        rows_written = counts.rows_written,
        rows_collided = counts.rows_collided,
        rows_rejected = counts.rows_rejected,
        rows_waiting = counts.rows_waiting,
        "{message}",
    );
}
