//! The main job: the worker runs as a task in the local world until all posts have been read, or
//! until it is asked to stop, and then the table is held against what the feed sent.

use std::cell::RefCell;
use std::future::{Future, pending};
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::ecs_agent::{self, Task, Usage};
use super::key_rotation::{KeyRotation, Order};
use super::local_aws;
use super::report::{LAST_ROWS, Report};
use super::table_rows::TableRows;
use super::to_f64;
use super::worker_log::WorkerLog;
use super::world::World;
use crate::feed::Dialect;

/// How often the world is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long nothing may happen before the run counts as stuck. Longer than the feed's keep-alive.
const STUCK: Duration = Duration::from_mins(1);

/// Why the job was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task was not started, or its end not seen.
    #[error("the worker did not run")]
    Task(#[from] ecs_agent::Error),
    /// The table cannot be read.
    #[error("the table was not read back")]
    Table(#[from] local_aws::Error),
    /// There is no folder for its spool.
    #[error("there is no temporary folder")]
    Folder(#[from] std::io::Error),
    /// It ended by itself.
    #[error("the worker ended by itself with {0}; its last words: {1}")]
    Ended(String, String),
    /// The new keys were never used.
    #[error("the worker has not used its new keys for {STUCK:?}")]
    NotRotated,
    /// Nothing moved any more.
    #[error("nothing has moved for {STUCK:?}; the worker's last words: {0}")]
    Stuck(String),
}

/// What is to be done.
pub struct Job<'a> {
    /// The worker.
    pub program: &'a Path,
    /// What it is to speak with the feed.
    pub dialect: Dialect,
    /// They replace or add to those of the task definition.
    pub variables: &'a [(&'a str, &'a str)],
    /// When it is over.
    pub until: Until,
    /// What happens meanwhile.
    pub rotations: Option<Rotations>,
}

/// The rotations to make while the job runs.
pub struct Rotations {
    /// The keys in force at the start.
    pub keys: KeyRotation,
    /// How long after one is done the next is made.
    pub every: Duration,
    /// How.
    pub order: Order,
    /// After so many the feed ends its posts.
    pub limit: Option<u64>,
}

/// When the job is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so many posts.
    Posts(u64),
    /// When it is asked to stop.
    Stopped,
}

/// What is seen while the job runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Posts that the feed has sent.
    pub posts_sent: u64,
    /// Posts that the worker says it has read. It says so every few seconds.
    pub posts_read: u64,
    /// Posts that it has accepted: its log has a line for each.
    pub posts_matched: u64,
    /// Calls of `PutItem` that DynamoDB has acknowledged.
    pub rows_written: u64,
    /// Since the stream was opened.
    pub seconds: f64,
    /// Rotations that the worker has lived through.
    pub rotations: u64,
}

/// Runs the worker to the end of the job. `show` is called with every look at the world, `stop`
/// ends a job that has no other end.
///
/// # Errors
/// A worker that does not start, ends by itself or hangs.
pub async fn run(
    world: &World,
    job: Job<'_>,
    stop: impl Future<Output = ()>,
    mut show: impl FnMut(&Progress),
) -> Result<Report, Error> {
    let Job { program, dialect, variables, mut until, rotations } = job;
    let (sender, mut lines) = mpsc::unbounded_channel();
    let feed = world.feed_variables(dialect);
    let mut overrides: Vec<_> = feed.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let spool = tempfile::tempdir()?;
    let spool = spool.path().to_string_lossy();
    overrides.push(("SPOOL_DIR", &*spool));
    overrides.extend_from_slice(variables);
    let started = Instant::now();
    let mut task = Task::start(&world.task_definition, program, &overrides, &world.aws, &sender)?;
    drop(sender);

    let mut log = WorkerLog::default();
    let mut watch = Watch::default();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(stop);
    let made = RefCell::new(Vec::new());
    let adopted = watch::Sender::new(0);
    let mut rotating_on = rotations.is_some();
    let rotating = rotate(world, dialect, rotations, &made, adopted.subscribe());
    tokio::pin!(rotating);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            rotated = &mut rotating, if rotating_on => {
                rotated?;
                rotating_on = false;
                world.feed.end_posts().await;
                until = Until::Posts(world.feed.statistics().posts_sent);
            }
            status = task.wait() => {
                drain(&mut lines, &mut log).await;
                return Err(Error::Ended(status?.to_string(), log.last));
            }
            _ = looks.tick() => {}
            // What the rotation waits for must not wait for the next look.
            Some(line) = lines.recv(), if rotating_on => {
                log.read(&line);
                adopted.send_replace(log.adopted);
                continue;
            }
        }
        while let Ok(line) = lines.try_recv() {
            log.read(&line);
        }
        adopted.send_replace(log.adopted);
        watch.rotations = made.borrow().len() as u64;
        watch.look(world, &task, &log, started);
        show(&watch.progress);
        if let Until::Posts(posts) = until
            && watch.is_done(posts)
        {
            break;
        }
        if watch.moved.is_some_and(|moved| moved.elapsed() > STUCK) && until != Until::Stopped {
            return Err(Error::Stuck(log.last));
        }
    }

    // Asked once: a second signal would make it leave at once, with rows still to write.
    task.terminate();
    let limit = sleep(task.stop_timeout());
    tokio::pin!(limit);
    // The worker's figures are taken as late as can be: while it drains.
    let status = loop {
        watch.usage = task.usage().unwrap_or(watch.usage);
        tokio::select! {
            status = task.wait() => break status?,
            () = &mut limit => break task.kill().await?,
            _ = looks.tick() => {}
        }
    };
    watch.status = Some(status.to_string());
    drain(&mut lines, &mut log).await;
    watch.look(world, &task, &log, started);
    show(&watch.progress);
    report(world, dialect, &watch, &log, made.take())
}

/// What a rotation's time is measured to: the first sign from outside that the worker does its work
/// with the new keys.
const fn measured_to(dialect: Dialect) -> &'static str {
    match dialect {
        // A stream of their own is what proves them.
        Dialect::TwitterV1_1 => "the first stream opened with the new keys",
        // The application has one stream, which may be that of the old keys for as long as they last.
        Dialect::XV2 => "the worker's word that X has taken the new keys",
    }
}

/// Rotates, and notes how many seconds it took until the new keys were in use. Ends after the last
/// rotation; without one never.
async fn rotate(
    world: &World,
    dialect: Dialect,
    rotations: Option<Rotations>,
    made: &RefCell<Vec<f64>>,
    mut adopted: watch::Receiver<u64>,
) -> Result<(), Error> {
    let Some(Rotations { mut keys, every, order, limit }) = rotations else {
        return pending().await;
    };
    world.feed.wait_until(|feed| feed.connects > 0).await;
    while limit.is_none_or(|limit| (made.borrow().len() as u64) < limit) {
        sleep(every).await;
        let before = *adopted.borrow();
        let rotated = keys.rotate(world, order)?;
        let opened =
            || world.feed.wait_until(|_| world.feed.opened_with(&rotated.access_token) > 0);
        match dialect {
            Dialect::TwitterV1_1 => soon(opened()).await?,
            Dialect::XV2 => soon(adopted.wait_for(|adopted| *adopted > before)).await?,
        }
        made.borrow_mut().push(rotated.at.elapsed().as_secs_f64());
        keys.end_overlap(world);
        soon(opened()).await?;
    }
    Ok(())
}

/// Waits for a sign of the new keys.
async fn soon<T>(sign: impl Future<Output = T>) -> Result<(), Error> {
    timeout(STUCK, sign).await.map(drop).map_err(|_| Error::NotRotated)
}

async fn drain(lines: &mut mpsc::UnboundedReceiver<String>, log: &mut WorkerLog) {
    while let Some(line) = lines.recv().await {
        log.read(&line);
    }
}

/// What is known of the run so far.
#[derive(Default)]
struct Watch {
    progress: Progress,
    opened: Option<Instant>,
    first_row_seconds: Option<f64>,
    last_row: Option<Instant>,
    moved: Option<Instant>,
    usage: Usage,
    status: Option<String>,
    rotations: u64,
    /// Resident memory when the hundredth rotation was done.
    rss_bytes_at_100: Option<u64>,
}

impl Watch {
    fn look(&mut self, world: &World, task: &Task, log: &WorkerLog, started: Instant) {
        let now = Instant::now();
        let feed = world.feed.statistics();
        let rows_written = world.rows_put();
        if feed.connects > 0 && self.opened.is_none() {
            self.opened = Some(now);
        }
        if rows_written > 0 && self.first_row_seconds.is_none() {
            self.first_row_seconds = Some(now.duration_since(started).as_secs_f64());
        }
        if rows_written > self.progress.rows_written {
            self.last_row = Some(now);
        }
        let seconds = self.opened.map(|opened| now.duration_since(opened).as_secs_f64());
        let progress = Progress {
            posts_sent: feed.posts_sent,
            posts_read: log.count("posts_read"),
            posts_matched: log.posts.max(log.count("posts_matched")),
            rows_written,
            seconds: self.progress.seconds,
            rotations: self.rotations,
        };
        if progress != self.progress || self.moved.is_none() {
            self.moved = Some(now);
        }
        self.progress = Progress { seconds: seconds.unwrap_or_default(), ..progress };
        self.usage = task.usage().unwrap_or(self.usage);
        if self.rotations >= 100 {
            self.rss_bytes_at_100.get_or_insert(self.usage.rss_bytes);
        }
    }

    /// Whether the worker has read that many posts and written every row of them.
    fn is_done(&self, posts: u64) -> bool {
        let Progress { posts_sent, posts_read, posts_matched, rows_written, .. } = self.progress;
        posts_sent >= posts && posts_read >= posts && rows_written >= posts_matched
    }
}

fn report(
    world: &World,
    dialect: Dialect,
    watch: &Watch,
    log: &WorkerLog,
    mut rotations: Vec<f64>,
) -> Result<Report, Error> {
    rotations.sort_by(f64::total_cmp);
    let feed = world.feed.statistics();
    let table = TableRows::read_back(world)?;
    let (in_table, duplicate_ids) = (table.count, table.duplicate_ids());
    let rows_differing = table.differing(&world.feed.expected_rows());

    let matched = log.count("posts_matched");
    let seconds = match (watch.opened, watch.last_row) {
        (Some(opened), Some(last)) => last.duration_since(opened).as_secs_f64(),
        _ => 0.0,
    };
    let rate = |count: u64| {
        if seconds > 0.0 { to_f64(count) / seconds } else { 0.0 }
    };
    let rows_written = log.count("rows_written");
    let last_rows = table.newest(LAST_ROWS);
    Ok(Report {
        dialect: dialect.name(),
        posts_sent: feed.posts_sent,
        posts_sent_matching: feed.posts_sent_matching,
        posts_read: log.count("posts_read"),
        posts_matched: matched,
        rows_written,
        rows_collided: log.count("rows_collided"),
        rows_in_table: in_table,
        rows_lost: matched.saturating_sub(in_table.saturating_sub(duplicate_ids)),
        rows_differing,
        duplicate_ids,
        connects: log.count("connects"),
        seconds,
        posts_per_second: rate(log.count("posts_read")),
        rows_per_second: rate(rows_written),
        cpu_seconds: watch.usage.cpu_seconds,
        cpu_microseconds_per_row: match rows_written {
            0 => 0.0,
            rows => watch.usage.cpu_seconds * 1e6 / to_f64(rows),
        },
        first_row_seconds: watch.first_row_seconds,
        peak_rss_bytes: watch.usage.peak_rss_bytes,
        rotations: rotations.len() as u64,
        rotation_measured_to: measured_to(dialect),
        rotation_seconds_median: rotations.get(rotations.len() / 2).copied(),
        rotation_seconds_max: rotations.last().copied(),
        rss_bytes_at_100_rotations: watch.rss_bytes_at_100,
        rss_bytes: watch.usage.rss_bytes,
        get_secret_value_calls: world
            .aws
            .audit()
            .iter()
            .filter(|record| record.event_name == "GetSecretValue")
            .count() as u64,
        worker_exit: watch.status.clone().unwrap_or_default(),
        last_rows,
    })
}
