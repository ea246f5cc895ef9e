//! Trouble with DynamoDB under load: reading goes on, no row is lost, and what waited is written once
//! the trouble is over.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::drill::Drill;
use super::feed_server::FeedServer;
use super::local_aws::{self, Effect, Fault, Service};
use super::running_worker::{Error, RunningWorker, STUCK};
use super::table_rows::TableRows;
use super::world::World;

/// A post takes some milliseconds from the feed to the table, on a busy machine more. The worker has caught
/// up when the table has every post that was sent so long ago.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// How often at most the sockets are looked at: the kernel's list of them is long on a busy machine.
const SOCKETS: Duration = Duration::from_millis(50);

/// How often at most the rows of the table are counted, which takes longer the more there are.
const COUNT: Duration = Duration::from_millis(200);

/// What is wrong with DynamoDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Every connection is reset.
    Outage,
    /// No call is answered.
    Hang,
    /// Every second call is throttled.
    Throttling,
    /// One connection in twenty is reset.
    Resets,
    /// One call in twenty is carried out, and its connection reset before the answer.
    LostAnswers,
    /// Each call takes two seconds.
    Latency,
    /// Every call fails with an error of the service.
    Errors,
    /// IAM refuses.
    Denied,
    /// The table is not there.
    Gone,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Outage,
        Self::Hang,
        Self::Throttling,
        Self::Resets,
        Self::LostAnswers,
        Self::Latency,
        Self::Errors,
        Self::Denied,
        Self::Gone,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Hang => "hang",
            Self::Throttling => "throttling",
            Self::Resets => "resets",
            Self::LostAnswers => "lost-answers",
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::Denied => "denied",
            Self::Gone => "gone",
        }
    }

    /// How long it lasts where nobody says.
    #[must_use]
    pub const fn usual_length(self) -> Duration {
        match self {
            Self::Outage => Duration::from_mins(10),
            _ => Duration::from_mins(1),
        }
    }

    /// It, for the local AWS.
    #[must_use]
    pub fn fault(self) -> Fault {
        let (effect, one_in) = match self {
            Self::Outage => (Effect::Reset, 1),
            Self::Hang => (Effect::Hang, 1),
            Self::Throttling => (Effect::error(400, "ProvisionedThroughputExceededException"), 2),
            Self::Resets => (Effect::Reset, 20),
            Self::LostAnswers => (Effect::LoseAnswer, 20),
            Self::Latency => (Effect::Delay(Duration::from_secs(2)), 1),
            Self::Errors => (Effect::error(500, "InternalServerError"), 1),
            Self::Denied => (Effect::error(400, "AccessDeniedException"), 1),
            Self::Gone => (Effect::error(400, "ResourceNotFoundException"), 1),
        };
        Fault { one_in, ..Fault::every_call(Service::DynamoDb, effect) }
    }
}

/// One trouble, or one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Troubles(pub Vec<Trouble>);

impl FromStr for Troubles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Trouble::ALL.to_vec()));
        }
        let one = Trouble::ALL.into_iter().find(|trouble| trouble.name() == text);
        one.map(|one| Self(vec![one]))
            .ok_or_else(|| format!("{}, or all", Trouble::ALL.map(Trouble::name).join(", ")))
    }
}

/// What a run is made of.
#[derive(Clone)]
pub struct Settings<'a> {
    /// The worker, and its feed.
    pub drill: Drill<'a>,
    /// What goes wrong.
    pub trouble: Trouble,
    /// How long.
    pub length: Duration,
}

/// What is seen while it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What goes on.
    pub phase: &'static str,
    /// Since the worker was started.
    pub seconds: f64,
    /// Posts that the feed has sent.
    pub posts_sent: u64,
    /// Rows in the table, when they were counted last.
    pub rows_in_table: u64,
    /// Rows in the spool, as the worker has said last.
    pub rows_in_spool: u64,
}

/// What one trouble came to. All was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What went wrong.
    pub trouble: &'static str,
    /// How long.
    pub trouble_seconds: f64,
    /// From its end until the table had every post that was sent a second before, while the feed went on.
    pub catch_up_seconds: f64,
    /// Posts that the feed handed over.
    pub posts_sent: u64,
    /// Posts that the worker has read.
    pub posts_read: u64,
    /// Those that it accepted.
    pub posts_matched: u64,
    /// Rows that DynamoDB acknowledged to it.
    pub rows_written: u64,
    /// Rows that went to the disk.
    pub rows_spooled: u64,
    /// The most that were there, as the worker's log says every few seconds.
    pub most_rows_in_spool: u64,
    /// Rows for which there was no room.
    pub rows_dropped: u64,
    /// Rows that were given up.
    pub rows_rejected: u64,
    /// Rows read back from the table.
    pub rows_in_table: u64,
    /// Posts that were sent and that the table does not hold.
    pub rows_lost: u64,
    /// Rows whose user, date or text is not what the feed sent.
    pub rows_differing: u64,
    /// Rows with an id that another has, too.
    pub duplicate_ids: u64,
    /// Streams that the worker opened.
    pub connects: u64,
    /// The longest that the worker took nothing from its socket though something lay there.
    pub longest_reading_pause_seconds: f64,
    /// The most bytes of the feed that lay unread in the kernel.
    pub most_unread_bytes: u64,
    /// The most resident memory that the worker had.
    pub peak_rss_bytes: u64,
    /// The same at the end of the trouble.
    pub rss_bytes_after_trouble: u64,
    /// The same when it had caught up.
    pub rss_bytes_after_recovery: u64,
    /// How the worker's process ended.
    pub worker_exit: String,
}

impl Report {
    /// Whether every post that was sent was read, accepted and written, once and to the letter, and
    /// the worker has ended well.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let all = [self.posts_read, self.posts_matched, self.rows_in_table];
        let none = [
            self.rows_lost,
            self.rows_differing,
            self.duplicate_ids,
            self.rows_dropped,
            self.rows_rejected,
        ];
        self.posts_sent > 0
            && all.iter().all(|count| *count == self.posts_sent)
            && none.iter().all(|count| *count == 0)
            && self.worker_exit == "exit status: 0"
    }
}

/// Reports, a line each.
pub struct Table<'a>(pub &'a [Report]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<13}{:>8}{:>10}{:>10}{:>10}{:>7}{:>7}{:>9}{:>10}{:>9}{:>10}{:>24}   exit",
            "trouble",
            "s of it",
            "catch-up",
            "sent",
            "in table",
            "lost",
            "twice",
            "changed",
            "in spool",
            "dropped",
            "pause ms",
            "MB peak, then, after",
        )?;
        for report in self.0 {
            let memory = [
                report.peak_rss_bytes,
                report.rss_bytes_after_trouble,
                report.rss_bytes_after_recovery,
            ];
            let memory = memory.map(|bytes| (bytes / 1_000_000).to_string()).join(", ");
            writeln!(
                f,
                "  {:<13}{:>8.0}{:>8.1} s{:>10}{:>10}{:>7}{:>7}{:>9}{:>10}{:>9}{:>10.0}{:>24}   {}",
                report.trouble,
                report.trouble_seconds,
                report.catch_up_seconds,
                report.posts_sent,
                report.rows_in_table,
                report.rows_lost,
                report.duplicate_ids,
                report.rows_differing,
                report.most_rows_in_spool,
                report.rows_dropped,
                report.longest_reading_pause_seconds * 1e3,
                memory,
                report.worker_exit,
            )?;
        }
        Ok(())
    }
}

/// Runs the worker through one trouble, in a world of its own. `show` is called with every look.
///
/// # Errors
/// A worker that does not start, ends by itself or hangs.
pub async fn run(settings: &Settings<'_>, show: impl FnMut(&Progress)) -> Result<Report, Error> {
    let Settings { drill, trouble, length } = settings;
    let world = drill.world().await?;
    let spool = tempfile::tempdir()?;
    let spool_dir = spool.path().to_string_lossy();
    let worker = RunningWorker::start(&world, drill.program, &[("SPOOL_DIR", &*spool_dir)]).await?;
    let mut run = Run { world: &world, worker, watch: Watch::new(), show };

    // A second of health.
    run.table_has(u64::from(drill.rate.get())).await?;
    world.aws.inject(trouble.fault());
    let begun = Instant::now();
    while begun.elapsed() < *length {
        run.look(trouble.name()).await?;
    }
    let trouble_seconds = begun.elapsed().as_secs_f64();
    let rss_bytes_after_trouble = run.worker.usage.rss_bytes;
    world.aws.clear_faults();

    let cleared = Instant::now();
    run.catch_up().await?;
    let catch_up_seconds = cleared.elapsed().as_secs_f64();
    let rss_bytes_after_recovery = run.worker.usage.rss_bytes;
    run.worker.feed_ends(&world.feed).await?;
    run.table_has(world.feed.statistics().posts_sent).await?;

    let worker_exit = run.worker.stop().await?;
    let (log, watch) = (&run.worker.log, &run.watch);
    let table = TableRows::read_back(&world)?;
    let expected = world.feed.expected_rows();
    Ok(Report {
        trouble: trouble.name(),
        trouble_seconds,
        catch_up_seconds,
        posts_sent: world.feed.statistics().posts_sent,
        posts_read: log.count("posts_read"),
        posts_matched: log.count("posts_matched"),
        rows_written: log.count("rows_written"),
        rows_spooled: log.count("rows_spooled"),
        most_rows_in_spool: log.most_in_spool,
        rows_dropped: log.count("rows_dropped"),
        rows_rejected: log.count("rows_rejected"),
        rows_in_table: table.count,
        rows_lost: table.missing(expected.iter().map(|row| row.id.as_str())),
        rows_differing: table.differing(&expected),
        duplicate_ids: table.duplicate_ids(),
        connects: log.count("connects"),
        longest_reading_pause_seconds: watch.reading.longest.as_secs_f64(),
        most_unread_bytes: watch.reading.most_unread,
        peak_rss_bytes: run.worker.usage.peak_rss_bytes,
        rss_bytes_after_trouble,
        rss_bytes_after_recovery,
        worker_exit,
    })
}

struct Run<'a, S> {
    world: &'a World,
    worker: RunningWorker,
    watch: Watch,
    show: S,
}

impl<S: FnMut(&Progress)> Run<'_, S> {
    async fn look(&mut self, phase: &'static str) -> Result<(), Error> {
        self.worker.look().await?;
        self.watch.look(self.world)?;
        (self.show)(&Progress {
            phase,
            seconds: self.watch.started.elapsed().as_secs_f64(),
            posts_sent: self.world.feed.statistics().posts_sent,
            rows_in_table: self.watch.rows_in_table,
            rows_in_spool: self.worker.log.count("rows_in_spool"),
        });
        Ok(())
    }

    async fn table_has(&mut self, rows: u64) -> Result<(), Error> {
        self.until("a row in the table", |watch| watch.rows_in_table >= rows).await
    }

    async fn catch_up(&mut self) -> Result<(), Error> {
        self.until("a row in the table", Watch::has_caught_up).await
    }

    /// Looks until a condition holds, for as long as rows come to the table.
    async fn until(
        &mut self,
        what: &'static str,
        mut condition: impl FnMut(&Watch) -> bool,
    ) -> Result<(), Error> {
        let mut moved = (Instant::now(), self.watch.rows_in_table);
        while !condition(&self.watch) {
            self.look("healthy").await?;
            if self.watch.rows_in_table > moved.1 {
                moved = (Instant::now(), self.watch.rows_in_table);
            }
            if moved.0.elapsed() > STUCK {
                return Err(self.worker.stuck(what));
            }
        }
        Ok(())
    }
}

/// What is known of the run so far.
struct Watch {
    started: Instant,
    sockets_seen: Option<Instant>,
    counted: Option<Instant>,
    rows_in_table: u64,
    /// How many posts were sent by when: since [`ON_ITS_WAY`] ago.
    sent: VecDeque<(Instant, u64)>,
    reading: Reading,
}

impl Watch {
    fn new() -> Self {
        let (started, reading) = (Instant::now(), Reading::new(Instant::now()));
        Self {
            started,
            sockets_seen: None,
            counted: None,
            rows_in_table: 0,
            sent: VecDeque::new(),
            reading,
        }
    }

    fn look(&mut self, world: &World) -> Result<(), Error> {
        if self.sockets_seen.is_none_or(|seen| seen.elapsed() >= SOCKETS) {
            self.reading.look(&world.feed)?;
            self.sockets_seen = Some(Instant::now());
        }
        if self.counted.is_none_or(|counted| counted.elapsed() >= COUNT) {
            // To count the rows of a large table takes time that the worker then does not have.
            let acknowledged = world.rows_put();
            let expected = self.sent.front().map_or(0, |(_, posts)| *posts);
            self.rows_in_table = if acknowledged < expected { acknowledged } else { count(world)? };
            self.counted = Some(Instant::now());
        }
        let now = Instant::now();
        self.sent.push_back((now, world.feed.statistics().posts_sent));
        let is_old = |(at, _): &(Instant, u64)| now.duration_since(*at) >= ON_ITS_WAY;
        while self.sent.get(1).is_some_and(is_old) {
            self.sent.pop_front();
        }
        Ok(())
    }

    /// Whether the table has every post but those on their way.
    fn has_caught_up(&self) -> bool {
        self.sent.front().is_some_and(|(_, posts)| self.rows_in_table >= *posts)
    }
}

fn count(world: &World) -> Result<u64, local_aws::Error> {
    world.aws.table_item_count(world.table())
}

/// Whether the worker takes from its socket what lies there.
struct Reading {
    /// When it was last seen to have taken something, or all.
    took: Instant,
    taken: u64,
    /// Whether it was seen not to, since then.
    pausing: bool,
    longest: Duration,
    most_unread: u64,
}

impl Reading {
    const fn new(now: Instant) -> Self {
        Self { took: now, taken: 0, pausing: false, longest: Duration::ZERO, most_unread: 0 }
    }

    fn look(&mut self, feed: &FeedServer) -> Result<(), Error> {
        let (taken, unread) = feed.taken_and_unread()?;
        self.seen(taken, unread, Instant::now());
        Ok(())
    }

    fn seen(&mut self, taken: u64, unread: u64, now: Instant) {
        self.most_unread = self.most_unread.max(unread);
        if taken > self.taken || unread == 0 {
            if self.pausing {
                self.longest = self.longest.max(now.duration_since(self.took));
            }
            (self.took, self.taken, self.pausing) = (now, self.taken.max(taken), false);
        } else {
            self.pausing = true;
            self.longest = self.longest.max(now.duration_since(self.took));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_reading_is_found_and_silence_of_the_feed_is_none() {
        let start = Instant::now();
        let mut reading = Reading::new(start);
        let mut seen = |millis, taken, unread| {
            reading.seen(taken, unread, start + Duration::from_millis(millis));
            reading.longest.as_millis()
        };
        assert_eq!(seen(20, 100, 10), 0);
        // Nothing is sent.
        assert_eq!(seen(40, 110, 0), 0);
        assert_eq!(seen(900, 110, 0), 0);
        // It lies there.
        assert_eq!(seen(920, 110, 50), 20);
        assert_eq!(seen(1_000, 110, 60), 100);
        assert_eq!(seen(1_020, 120, 60), 120);
        // It is taken, however much lies there.
        assert_eq!(seen(2_000, 200, 60), 120);
    }

    #[test]
    fn a_trouble_is_found_by_its_name() {
        for trouble in Trouble::ALL {
            assert_eq!(trouble.name().parse(), Ok(Troubles(vec![trouble])));
        }
        assert_eq!("all".parse(), Ok(Troubles(Trouble::ALL.to_vec())));
        assert!("none".parse::<Troubles>().is_err());
    }
}
