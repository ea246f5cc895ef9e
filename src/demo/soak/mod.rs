//! Hours of trouble at speed: one worker, one thing after the other that goes wrong, first each kind
//! once, then drawn from a seed, and after each the question whether the worker has come out of it as it
//! should. At the end new workers take over, one from the other, as at a deployment.
//!
//! A trouble is injected, held for a moment and taken away. Then the table must get every post that was
//! sent by then, and the worker's own health must have been right in the trouble and be `ok` after it.
//! Every so often its memory is searched for credentials that were rotated out.
//!
//! The feed is live: it sends what falls due to whoever is connected then, and nothing again. So what
//! the worker can miss is known, and counted: posts that passed by while it had no stream, and, at a
//! hand-over, the last posts of the old stream, which it had left unread. Every other post is a row, or
//! lost.

mod report;
mod step;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;

use crate::demo::Clock;
use crate::demo::drill::Drill;
use crate::demo::feed_server::{self, When};
use crate::demo::key_rotation::{KeyRotation, Order};
use crate::demo::local_aws::{Effect, Fault, Service};
use crate::demo::memory_scan::{self, Scan};
use crate::demo::running_worker::{Error as WorkerError, RunningWorker};
use crate::demo::table_rows::TableRows;
use crate::demo::to_f64;
use crate::demo::world::{SECRETS, World, keys_of};
use crate::health;
use crate::health::socket::AskError;
use crate::telemetry::chain;

use self::report::growth;
pub use self::report::{HandOver, Report};
pub use self::step::Step;

/// `ROTATION_POLL`. What is stale is so after three polls and ten seconds.
const POLL: &str = "1s";
const UNTIL_STALE: Duration = Duration::from_secs(16);

/// How long it may give no answer at all.
const UNTIL_ANSWERED: Duration = Duration::from_secs(30);

/// The table counts as away after 5 s.
const UNTIL_DEGRADED: Duration = Duration::from_secs(7);

/// A stream that has delivered for 10 s makes the next failure a first one, after which the worker
/// connects at once. Another one before would be waited for longer and longer.
const BETWEEN_CUTS: Duration = Duration::from_secs(11);

/// After so many troubles the memory is searched.
const SCANNED_EVERY: u64 = 100;

/// For so many generations that were rotated out; more make the search slow.
const GENERATIONS: usize = 20;

/// A set that was rotated out is wiped once the stream that it had opened is at its end.
const SCANS: u32 = 5;

/// How often at the end a new worker takes over.
const HAND_OVERS: u32 = 5;

/// Why a soak did not run to its end. But for its beginning that is a report, too.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker did not live through it.
    #[error("after {troubles} troubles, in {step}")]
    Worker {
        /// Troubles that it had lived through.
        troubles: u64,
        /// The one in which it ended.
        step: Step,
        /// How.
        #[source]
        source: WorkerError,
    },
    /// Its memory was not searched.
    #[error("the worker's memory was not searched")]
    Scan(#[from] memory_scan::Error),
}

impl Error {
    /// Whether the worker has ended by a bug of its own.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        let Self::Worker { source: WorkerError::Ended(status, _), .. } = self else { return false };
        status == "exit status: 70"
    }
}

/// What a soak is made of.
#[derive(Clone)]
pub struct Settings<'a> {
    /// The worker, and its feed. Troubles are drawn from its seed, too. The clock of AWS and the feed
    /// jumps about its clock.
    pub drill: Drill<'a>,
    /// How long it lasts.
    pub length: Duration,
}

/// What is seen while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since it began.
    pub seconds: f64,
    /// Troubles so far.
    pub faults: u64,
    /// The latest.
    pub step: Step,
    /// Rows in the table.
    pub rows: u64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// Runs a worker through trouble after trouble, first each kind once, however long that takes. `show` is
/// called after each.
///
/// # Errors
/// A world or a worker that does not start. One that ends by itself or hangs after that is a report.
pub async fn run(
    settings: &Settings<'_>,
    mut show: impl FnMut(&Progress),
) -> Result<Report, Error> {
    let begin = |source| Error::Worker { troubles: 0, step: Step::Begin, source };
    let mut soak = Soak::begin(settings).await.map_err(begin)?;
    if let Err(error) = soak.live(&mut show).await {
        soak.report.panics += u64::from(error.is_panic());
        soak.report.complaints.push(chain(&error));
    }
    Ok(soak.end())
}

struct Soak<'a> {
    settings: &'a Settings<'a>,
    begun: Instant,
    rng: fastrand::Rng,
    world: World,
    queue_url: String,
    keys: KeyRotation,
    worker: RunningWorker,
    /// Posts that had been sent when it was started.
    sent_before: u64,
    volume: tempfile::TempDir,
    /// How far the clocks of AWS and the feed are from the wall clock, in seconds.
    offset: Arc<AtomicI64>,
    /// When the stream was last cut.
    cut_at: Option<Instant>,
    rotated_out: Vec<String>,
    /// Whether memory was at its height: that is where rows wait.
    is_warm: bool,
    /// Seconds, and resident bytes, since then.
    memory: Vec<(f64, f64)>,
    report: Report,
}

impl<'a> Soak<'a> {
    async fn begin(settings: &'a Settings<'a>) -> Result<Self, WorkerError> {
        let (drill, seed) = (&settings.drill, settings.drill.seed);
        let offset = Arc::new(AtomicI64::new(0));
        let clock = jumping(drill.clock.clone(), Arc::clone(&offset));
        let world = Drill { clock, ..drill.clone() }.live_world().await?;
        let queue_url = world.add_rotation_queue().await?;
        let keys = KeyRotation::new(drill.account(), fastrand::Rng::with_seed(!seed));
        let volume = tempfile::tempdir()?;
        let worker = started(&world, drill.program, volume.path(), &queue_url).await?;
        Ok(Self {
            settings,
            begun: Instant::now(),
            rng: fastrand::Rng::with_seed(seed),
            world,
            queue_url,
            keys,
            worker,
            sent_before: 0,
            volume,
            offset,
            cut_at: None,
            rotated_out: Vec::new(),
            is_warm: false,
            memory: Vec::new(),
            report: Report { seed, ..Report::default() },
        })
    }

    /// All of it, and the end, when the worker is stopped.
    async fn live(&mut self, show: &mut impl FnMut(&Progress)) -> Result<(), Error> {
        self.settle().await.map_err(|source| self.failed(Step::Begin, source))?;
        let mut each = Step::KINDS.iter();
        loop {
            let step = match each.next() {
                Some((step, _)) => *step,
                None if self.begun.elapsed() >= self.settings.length => break,
                None => {
                    let may_cut = self.cut_at.is_none_or(|at| at.elapsed() > BETWEEN_CUTS);
                    Step::draw(&mut self.rng, may_cut)
                }
            };
            self.live_through(step).await?;
            show(&self.progress(step));
        }
        for _ in 0..HAND_OVERS {
            self.live_through(Step::HandOver).await?;
        }
        self.scan().await?;
        self.stop().await.map_err(|source| self.failed(Step::End, source))
    }

    fn failed(&self, step: Step, source: WorkerError) -> Error {
        Error::Worker { troubles: self.report.faults, step, source }
    }

    async fn live_through(&mut self, step: Step) -> Result<(), Error> {
        self.take(step).await.map_err(|source| self.failed(step, source))?;
        self.settle().await.map_err(|source| self.failed(step, source))?;
        self.report.faults += 1;
        let seconds = self.begun.elapsed().as_secs_f64();
        self.is_warm |= matches!(step, Step::TableAway(_));
        if self.is_warm && step != Step::HandOver {
            self.memory.push((seconds, to_f64(self.worker.usage.rss_bytes)));
        }
        if self.report.faults % SCANNED_EVERY == 1 {
            self.scan().await?;
        }
        Ok(())
    }

    /// The trouble comes, and goes.
    async fn take(&mut self, step: Step) -> Result<(), WorkerError> {
        let moment = Duration::from_millis(self.rng.u64(20..300));
        match step {
            Step::Begin | Step::End => {}
            Step::FeedCut => {
                let posts = self.rng.u64(..5);
                let fault = feed_server::Fault::DropAfter { posts, mid_record: self.rng.bool() };
                self.end_stream(fault).await?;
            }
            Step::FeedDisconnect => {
                let reason = "a soak".to_owned();
                self.end_stream(feed_server::Fault::Disconnect { code: 7, reason }).await?;
            }
            Step::FeedGarbage => {
                let fault = feed_server::Fault::Garbage { lines: self.rng.u32(1..20) };
                self.world.feed.inject(fault, When::Open);
                self.hold(step, moment).await?;
            }
            Step::Rotation(order) => self.rotate(order).await?,
            Step::TornRotation => self.rotate_torn().await?,
            Step::Table(trouble) => {
                self.world.aws.inject(trouble.fault());
                self.hold(step, moment).await?;
            }
            Step::TableAway(trouble) => {
                self.world.aws.inject(trouble.fault());
                self.hold(step, UNTIL_DEGRADED).await?;
            }
            Step::Vault | Step::VaultAway => {
                let effects =
                    [Effect::Reset, Effect::Hang, Effect::error(500, "InternalServiceError")];
                let effect = self.rng.choice(effects).unwrap_or(Effect::Reset);
                self.world.aws.inject(Fault::every_call(Service::SecretsManager, effect));
                let length = if step == Step::VaultAway { UNTIL_STALE } else { moment };
                self.hold(step, length).await?;
            }
            Step::HangUp => {
                self.worker.task.hang_up();
                self.hold(step, moment).await?;
            }
            Step::ClockJump => {
                // AWS and X take what is not more than some minutes off.
                self.offset.store(self.rng.i64(-120..120), Ordering::Relaxed);
                self.hold(step, moment).await?;
            }
            Step::HandOver => self.hand_over().await?,
        }
        self.world.aws.clear_faults();
        self.world.feed.clear_faults();
        Ok(())
    }

    /// Lets a trouble last, and asks the worker how it is.
    async fn hold(&mut self, step: Step, length: Duration) -> Result<(), WorkerError> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.worker.look().await?;
        }
        self.report.health_checks += 1;
        let (state, line) = self.health().await;
        if state != step.state() {
            self.mismatch(&format!("in {step}, {} was expected: {line}", step.state()));
        }
        Ok(())
    }

    fn mismatch(&mut self, complaint: &str) {
        self.report.health_mismatches += 1;
        self.report.complaints.push(format!("health: {complaint}"));
    }

    /// What the worker says of itself, as its health check is told. On a busy machine it may take more than one
    /// question; what it answers counts.
    async fn health(&self) -> (String, String) {
        let begun = Instant::now();
        let line = loop {
            let folder = self.volume.path().to_owned();
            let asked = tokio::task::spawn_blocking(move || {
                let path: PathBuf =
                    health::socket::path(&folder).map_err(|error| (false, error.to_string()))?;
                let late = |error: AskError| {
                    (matches!(error, AskError::Late | AskError::Connection(_)), error.to_string())
                };
                health::socket::ask(&path).map_err(late)
            });
            match asked.await {
                Ok(Ok(reply)) => break reply.line,
                Ok(Err((true, _))) if begun.elapsed() < UNTIL_ANSWERED => {}
                Ok(Err((_, error))) => break error,
                Err(error) => break error.to_string(),
            }
        };
        let answer: Value = serde_json::from_str(&line).unwrap_or_default();
        (answer.get("state").and_then(Value::as_str).unwrap_or_default().to_owned(), line)
    }

    async fn end_stream(&mut self, fault: feed_server::Fault) -> Result<(), WorkerError> {
        let connects = self.world.feed.statistics().connects;
        self.world.feed.inject(fault, When::Open);
        let world = &self.world;
        let again = |_: &RunningWorker| world.feed.statistics().connects > connects;
        self.worker.until("a new stream", again).await?;
        self.cut_at = Some(Instant::now());
        Ok(())
    }

    async fn rotate(&mut self, order: Order) -> Result<(), WorkerError> {
        self.rotated_out.extend(keys_of(self.keys.account()));
        let adopted = self.worker.log.adopted;
        let _ = self.keys.rotate(&self.world, order)?;
        self.adopted(adopted).await
    }

    /// The service takes both keys until the last label has moved.
    async fn rotate_torn(&mut self) -> Result<(), WorkerError> {
        self.rotated_out.extend(keys_of(self.keys.account()));
        let adopted = self.worker.log.adopted;
        self.keys.renew();
        self.keys.accept(&self.world);
        let mut secrets: Vec<usize> = (0..SECRETS.len()).collect();
        self.rng.shuffle(&mut secrets);
        for secret in secrets {
            self.keys.move_label(&self.world, secret)?;
            let until = Instant::now() + Duration::from_millis(self.rng.u64(..200));
            while Instant::now() < until {
                self.worker.look().await?;
            }
        }
        self.adopted(adopted).await
    }

    async fn adopted(&mut self, before: u64) -> Result<(), WorkerError> {
        self.worker.until("a rotation", |worker| worker.log.adopted > before).await?;
        self.keys.end_overlap(&self.world);
        let (world, token) = (&self.world, &self.keys.account().access_token);
        self.worker.until("a stream", |_| world.feed.opened_with(token) > 0).await?;
        self.report.rotations += 1;
        Ok(())
    }

    /// The old worker drains, and a new one starts with the same volume.
    async fn hand_over(&mut self) -> Result<(), WorkerError> {
        let Self { settings, world, queue_url, worker, volume, report, .. } = self;
        let missed = world.feed.statistics().posts_missed;
        let closed = async {
            let statistics = world.feed.wait_until(|now| now.open == 0).await;
            (Instant::now(), statistics.posts_sent)
        };
        let (status, (closed_at, sent)) = tokio::join!(worker.stop(), closed);
        let is_clean = report.stopped(&status?);
        // One that was killed has not told what it had read.
        let read = if is_clean { worker.log.count("posts_read") } else { sent };
        *worker = started(world, settings.drill.program, volume.path(), queue_url).await?;
        worker.until("a new stream", |_| world.feed.statistics().open > 0).await?;
        report.hand_overs.push(HandOver {
            gap_seconds: closed_at.elapsed().as_secs_f64(),
            posts_missed: world.feed.statistics().posts_missed - missed,
            posts_unread: (sent - self.sent_before).saturating_sub(read),
            sent,
        });
        self.sent_before = sent;
        Ok(())
    }

    /// Waits until the table has every post that was sent by now, and the worker is well.
    async fn settle(&mut self) -> Result<(), WorkerError> {
        let sent = self.world.feed.statistics().posts_sent;
        let unread: u64 = self.report.hand_overs.iter().map(|one| one.posts_unread).sum();
        let world = &self.world;
        let written = |_: &RunningWorker| {
            world.aws.table_item_count(world.table()).is_ok_and(|rows| rows + unread >= sent)
        };
        self.worker.until("a row of every post that was sent", written).await?;
        self.report.health_checks += 1;
        let begun = Instant::now();
        loop {
            let (state, line) = self.health().await;
            if state == "ok" {
                return Ok(());
            }
            // It looks at itself as it answers; only rows on their way from the disk take time.
            if begun.elapsed() > Duration::from_secs(30) {
                self.mismatch(&format!("ok was expected: {line}"));
                return Ok(());
            }
            self.worker.look().await?;
        }
    }

    /// Searches the worker's memory for what was rotated out.
    async fn scan(&mut self) -> Result<(), Error> {
        let (Some(pid), true) = (self.worker.task.id(), self.report.scan_skipped.is_none()) else {
            return Ok(());
        };
        let oldest = self.rotated_out.len().saturating_sub(GENERATIONS * SECRETS.len());
        self.rotated_out.drain(..oldest);
        // What is in use is looked for, too: the two may have a piece in common.
        let in_use = keys_of(self.keys.account());
        let values = self.rotated_out.iter().chain(&in_use);
        let scan = Scan::new(values.map(String::as_str))?;
        let mut found = Vec::new();
        for _ in 0..SCANS {
            match scan.process(pid) {
                Ok(mut findings) => {
                    findings.retain(|finding| finding.value < self.rotated_out.len());
                    found = findings;
                }
                Err(error @ memory_scan::Error::Refused { .. }) => {
                    self.report.scan_skipped = Some(error.to_string());
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for finding in &found {
            let sets_ago = (self.rotated_out.len() - finding.value).div_ceil(SECRETS.len());
            let name = SECRETS.get(finding.value % SECRETS.len()).unwrap_or(&"");
            let after = self.report.faults;
            let complaint =
                format!("after {after} troubles, {name} of {sets_ago} sets ago: {finding}");
            self.report.complaints.push(complaint);
        }
        self.report.scans += 1;
        *self.report.old_secrets_found.get_or_insert(0) += found.len() as u64;
        Ok(())
    }

    /// Lets the worker write what it has, and stops it.
    async fn stop(&mut self) -> Result<(), WorkerError> {
        self.worker.feed_ends(&self.world.feed).await?;
        self.settle().await?;
        let status = self.worker.stop().await?;
        self.report.stopped(&status);
        Ok(())
    }

    /// Reads the table back, whatever has become of the worker.
    fn end(mut self) -> Report {
        self.report.seconds = self.begun.elapsed().as_secs_f64();
        let statistics = self.world.feed.statistics();
        self.report.posts_sent = statistics.posts_sent;
        self.report.posts_missed = statistics.posts_missed;
        self.report.rss_bytes = self.worker.usage.rss_bytes;
        self.report.rss_slope = growth(&self.memory);
        match TableRows::read_back(&self.world) {
            Ok(table) => self.compare(&table),
            Err(error) => self.report.complaints.push(chain(&WorkerError::from(error))),
        }
        self.report
    }

    /// Holds the table against what the feed has sent.
    fn compare(&mut self, table: &TableRows) {
        let Self { world, report, .. } = self;
        let expected = world.feed.expected_rows();
        let unread = |post: u64| report.hand_overs.iter().any(|one| one.unread().contains(&post));
        let due = (0..).zip(&expected).filter(|(post, _)| !unread(*post));
        report.rows_lost = table.missing(due.map(|(_, row)| row.id.as_str()));
        report.rows_in_table = table.count;
        report.rows_differing = table.differing(&expected);
        report.duplicate_ids = table.duplicate_ids();
    }

    fn progress(&self, step: Step) -> Progress {
        Progress {
            seconds: self.begun.elapsed().as_secs_f64(),
            faults: self.report.faults,
            step,
            rows: self.world.rows_put(),
            rss_bytes: self.worker.usage.rss_bytes,
        }
    }
}

async fn started(
    world: &World,
    program: &Path,
    volume: &Path,
    queue_url: &str,
) -> Result<RunningWorker, WorkerError> {
    let volume = volume.to_string_lossy();
    let variables =
        [("SPOOL_DIR", &*volume), ("ROTATION_POLL", POLL), ("ROTATION_QUEUE_URL", queue_url)];
    Ok(RunningWorker::start(world, program, &variables).await?)
}

/// A clock that is so many seconds off.
fn jumping(clock: Clock, offset: Arc<AtomicI64>) -> Clock {
    Arc::new(move || -> SystemTime {
        let offset = offset.load(Ordering::Relaxed);
        let off = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { clock() - off } else { clock() + off }
    })
}
