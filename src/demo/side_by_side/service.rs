//! One side as it runs: its task under an ECS service, its keys, and what is seen of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::calls::CallsOfASide;
use super::deployment::{Deployment, State, Step};
use super::keys_in_use::KeysInUse;
use super::snapshot::{Reach, SideSnapshot, Task};
use super::timeline::{Timeline, Tone};
use crate::demo::ecs_agent::Usage;
use crate::demo::feed_server::{Account, ExpectedRow, Statistics};
use crate::demo::local_aws::{Effect, Fault, Service as AwsService};
use crate::demo::running_worker::{Error, STUCK};
use crate::demo::side::Side;
use crate::demo::table_rows::TableRows;
use crate::demo::worker_log::Said;
use crate::demo::world::{Model, SECRETS, keys_of};

/// How often a side is looked at while it has no task.
const LOOK: Duration = Duration::from_millis(20);

/// How often what is seen is published, and noted for the plots.
const PUBLISH: Duration = Duration::from_millis(100);

/// For how long nothing may come to the table before what is missing counts as lost.
const SETTLED: Duration = Duration::from_secs(2);

/// How many points of the plots are kept; the oldest go first.
const POINTS: usize = 36_000;

/// What a side is asked to do.
pub(super) enum Request {
    /// Something goes on.
    Do(Order),
    /// The feed ends its posts; the task writes what it has, and is stopped.
    Finish(oneshot::Sender<Finished>),
}

/// What an operator, the feed's service or AWS does to a side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// The service makes new keys and accepts both; the labels of all four secrets move. Where the set is
    /// torn, the three that are behind follow.
    Rotate,
    /// New keys that the service accepts, and the label of one secret moves.
    Tear,
    /// The service ends the old keys and cuts their stream.
    Revoke,
    /// A service of AWS goes away, or comes back.
    Reach(Reached),
    /// `UpdateService` with `forceNewDeployment`.
    Deploy,
}

/// Which of the services can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) secrets_manager: Reach,
    pub(super) dynamodb: Reach,
}

/// The values that may be seen nowhere, old and new, of both sides. A clone is the same list.
#[derive(Clone, Default)]
pub(super) struct Secrets(Arc<Mutex<Vec<String>>>);

impl Secrets {
    fn add(&self, account: &Account) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(keys_of(account));
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A moment of a side, for the plots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Since the start.
    pub seconds: f64,
    /// Rows that DynamoDB has acknowledged.
    pub rows_written: u64,
    /// Rows that were lost because nobody had a stream.
    pub rows_missed: u64,
    /// Whether a stream was open.
    pub streaming: bool,
    /// Whether a task ran.
    pub running: bool,
}

/// What a side came to.
pub struct Finished {
    /// The last that was seen.
    pub last: SideSnapshot,
    /// What the feed has counted.
    pub feed: Statistics,
    /// The rows that the posts that it has sent must have become.
    pub expected: Vec<ExpectedRow>,
    /// The rows that the table holds.
    pub table: TableRows,
    /// Matching posts that the feed has made and that the table does not hold.
    pub rows_lost: u64,
    /// What the workers have counted, all tasks together.
    pub counts: BTreeMap<String, u64>,
    /// How often a new set of credentials was taken over.
    pub adopted: u64,
    /// Of the last task.
    pub usage: Usage,
    /// How the last task ended.
    pub worker_exit: String,
    /// How those tasks ended that nobody had asked to.
    pub ended_by_itself: Vec<String>,
    /// From the side's start to its first row.
    pub first_row_seconds: Option<f64>,
    /// From its first stream to its last row.
    pub seconds: f64,
    /// `GetSecretValue` calls in the audit trail.
    pub get_secret_value_calls: u64,
    /// The plots.
    pub points: Vec<Point>,
}

pub(super) struct Service {
    side: Side,
    deployment: Deployment,
    keys: KeysInUse,
    calls: CallsOfASide,
    timeline: Timeline,
    published: watch::Sender<SideSnapshot>,
    published_at: Instant,
    simulated: Simulated,
    sets_refused: u64,
    secrets: Secrets,
    counts: BTreeMap<String, u64>,
    adopted: u64,
    worker_exit: String,
    ended_by_itself: Vec<String>,
    started: Instant,
    opened: Option<Instant>,
    first_row: Option<Instant>,
    last_row: Instant,
    rows_written: u64,
    points: VecDeque<Point>,
}

/// What the simulated starts of tasks have added to what is measured: a start on Fargate takes as long as
/// somebody says, and so does this.
struct Simulated {
    /// How long keys were old meanwhile, in all.
    on_old: Duration,
    /// The same, when keys were last new again.
    on_old_before: Duration,
    /// Rows that were lost meanwhile.
    rows_missed: u64,
    /// The last look: when it was, the rows lost by then, and whether a task was being made ready.
    looked: (Instant, u64, bool),
}

impl Simulated {
    const fn new(now: Instant) -> Self {
        let none = Duration::ZERO;
        Self { on_old: none, on_old_before: none, rows_missed: 0, looked: (now, 0, false) }
    }

    /// What is between two looks at a task that is being made ready is the simulation's.
    fn look(&mut self, now: Instant, rows_missed: u64, stale: bool, provisioning: bool) {
        let (then, missed_then, was_provisioning) = self.looked;
        if provisioning && was_provisioning {
            self.rows_missed += rows_missed.saturating_sub(missed_then);
            if stale {
                self.on_old += now.saturating_duration_since(then);
            }
        }
        self.looked = (now, rows_missed, provisioning);
    }

    /// How much of the time with old keys that is over now it was.
    fn of_this_time(&mut self) -> Duration {
        let before = std::mem::replace(&mut self.on_old_before, self.on_old);
        self.on_old.saturating_sub(before)
    }
}

impl Service {
    /// The side's task was started just now.
    pub(super) fn new(
        side: Side,
        start_time: Duration,
        timeline: Timeline,
        secrets: Secrets,
    ) -> (Self, watch::Receiver<SideSnapshot>) {
        let now = Instant::now();
        let deployment = Deployment::running(start_time, side.worker.task.stop_timeout());
        let keys = KeysInUse::new(side.keys.account().access_token.clone());
        let calls = CallsOfASide::new(&side.world.aws);
        secrets.add(side.keys.account());
        let first = SideSnapshot {
            model: side.model,
            task: Task::default(),
            streaming: false,
            posts_sent: 0,
            rows_missed: 0,
            simulated_rows_missed: 0,
            rows_written: 0,
            rows_in_spool: 0,
            keys_in_use: None,
            keys_labelled: 1,
            keys_newest: 1,
            old_keys_accepted: false,
            stale: false,
            seconds_on_old: 0.0,
            simulated_seconds_on_old: 0.0,
            stale_intervals: Vec::new(),
            refused: 0,
            sets_refused: 0,
            versions: Vec::new(),
            calls: Vec::new(),
        };
        let (published, snapshots) = watch::channel(first);
        let service = Self {
            side,
            deployment,
            keys,
            calls,
            timeline,
            published,
            published_at: now,
            simulated: Simulated::new(now),
            sets_refused: 0,
            secrets,
            counts: BTreeMap::new(),
            adopted: 0,
            worker_exit: String::new(),
            ended_by_itself: Vec::new(),
            started: now,
            opened: None,
            first_row: None,
            last_row: now,
            rows_written: 0,
            points: VecDeque::new(),
        };
        (service, snapshots)
    }

    /// Runs until nobody asks for anything any more, or it is asked to finish.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
    ) -> Result<(), Error> {
        self.note(Tone::Good, "the task was started");
        loop {
            match requests.try_recv() {
                Ok(Request::Finish(answer)) => {
                    let finished = self.finish().await?;
                    let _ = answer.send(finished);
                    return Ok(());
                }
                Ok(Request::Do(order)) => self.heed(order)?,
                Err(mpsc::error::TryRecvError::Empty) => self.turn().await?,
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn heed(&mut self, order: Order) -> Result<(), Error> {
        let Self { side: Side { world, keys, model, .. }, .. } = self;
        let torn = self.keys.newest() > self.keys.labelled();
        match order {
            Order::Rotate | Order::Tear if !torn => {
                keys.renew();
                keys.accept(world);
                self.secrets.add(keys.account());
                self.keys.renewed(keys.account().access_token.clone());
                keys.move_label(world, 0)?;
                if matches!(order, Order::Rotate) {
                    self.complete()?;
                }
            }
            Order::Rotate => self.complete()?,
            // The set is torn already.
            Order::Tear => {}
            Order::Revoke => keys.end_overlap(world),
            Order::Reach(Reached { secrets_manager, dynamodb }) => {
                world.aws.clear_faults();
                for (service, reach) in [
                    (AwsService::SecretsManager, secrets_manager),
                    (AwsService::DynamoDb, dynamodb),
                ] {
                    if reach == Reach::Away {
                        world.aws.inject(Fault::every_call(service, Effect::Reset));
                    }
                }
            }
            Order::Deploy => {
                self.deployment.force_new_deployment();
                let text =
                    "forced deployment: the service has at least 0 % and at most 100 % of its task";
                self.timeline.note(Some(*model), Tone::Action, text);
            }
        }
        Ok(())
    }

    /// Moves the labels that are behind.
    fn complete(&mut self) -> Result<(), Error> {
        for secret in 1..SECRETS.len() {
            self.side.keys.move_label(&self.side.world, secret)?;
        }
        self.keys.labels_moved(Instant::now());
        Ok(())
    }

    /// What is due now, and a look.
    async fn turn(&mut self) -> Result<(), Error> {
        // Before a task is started: that is real.
        self.look_at_what_is_simulated(Instant::now());
        match self.deployment.step(Instant::now()) {
            Step::Wait => {}
            Step::Start => self.start().await,
            Step::Terminate => {
                self.note(Tone::Note, "SIGTERM was sent to the task");
                self.side.worker.task.terminate();
            }
            Step::Kill => {
                self.note(Tone::Bad, "stopTimeout is over: SIGKILL was sent to the task");
                self.side.worker.kill().await?;
            }
        }
        if self.deployment.has_task() {
            let Self { side: Side { world, worker, .. }, keys, .. } = self;
            let awaited = keys.awaited();
            let looked = tokio::select! {
                biased;
                // The moment at which new keys are in use is taken as it comes.
                () = opened_with(world, awaited), if awaited.is_some() => Ok(()),
                looked = worker.look() => looked,
            };
            match looked {
                Ok(()) => {}
                Err(Error::Ended(status, last)) => self.ended(status, &last),
                Err(error) => return Err(error),
            }
        } else {
            sleep(LOOK).await;
        }
        self.see();
        Ok(())
    }

    async fn start(&mut self) {
        match self.side.start_task().await {
            Ok(()) => {
                self.deployment.started();
                self.note(Tone::Good, "a new task was started");
            }
            Err(error) => {
                let reason = crate::telemetry::chain(&error);
                self.note(Tone::Bad, format!("the task was not started: {reason}"));
                self.deployment.not_started(reason, Instant::now());
            }
        }
    }

    fn ended(&mut self, status: String, last: &str) {
        self.listen();
        for name in COUNTS {
            *self.counts.entry(name.to_owned()).or_default() += self.side.worker.log.count(name);
        }
        self.adopted += self.side.worker.log.adopted;
        let asked = matches!(self.deployment.state(), State::Stopping { .. });
        self.deployment.ended(&status, Instant::now());
        let next = match self.deployment.state() {
            State::Provisioning { ready_at } => {
                let seconds = ready_at.saturating_duration_since(Instant::now()).as_secs_f64();
                format!("; the next one is there in {seconds:.0} s (simulated)")
            }
            _ => String::new(),
        };
        let (tone, why) = if asked {
            (Tone::Note, String::new())
        } else {
            self.ended_by_itself.push(status.clone());
            let words = words(last);
            (Tone::Bad, format!(" by itself{NO_RESTART_POLICY}; its last words: {words}"))
        };
        self.note(tone, format!("the task has ended with {status}{why}{next}"));
        self.worker_exit = status;
    }

    fn look_at_what_is_simulated(&mut self, now: Instant) {
        let missed = self.side.world.feed.statistics().posts_missed_matching.unwrap_or_default();
        let provisioning = matches!(self.deployment.state(), State::Provisioning { .. });
        self.simulated.look(now, missed, self.keys.stale_since().is_some(), provisioning);
    }

    fn see(&mut self) {
        let now = Instant::now();
        self.look_at_what_is_simulated(now);
        let keys_before = self.keys.in_use();
        let stale_since = self.keys.stale_since();
        self.keys.look(&self.side.world.feed, now);
        self.listen();
        if let Some(keys) = self.keys.in_use().filter(|keys| Some(*keys) != keys_before) {
            let after = match (stale_since, self.keys.stale_since()) {
                (Some(since), None) => {
                    let seconds = (now - since).as_secs_f64();
                    let simulated = match self.simulated.of_this_time().as_secs_f64() {
                        simulated if simulated > 0.0 => {
                            format!(", {simulated:.3} s of it simulated")
                        }
                        _ => String::new(),
                    };
                    format!(", {seconds:.3} s after the last label moved{simulated}")
                }
                _ => String::new(),
            };
            self.note(Tone::Good, format!("a stream is open with keys {keys}{after}"));
        }
        let rows_written = self.side.world.rows_put();
        if rows_written > self.rows_written {
            self.rows_written = rows_written;
            self.last_row = now;
            self.first_row.get_or_insert(now);
        }
        if now - self.published_at < PUBLISH {
            return;
        }
        self.published_at = now;
        self.calls.look(&self.side.world.aws);
        let snapshot = self.snapshot(now);
        if snapshot.streaming && self.opened.is_none() {
            self.opened = Some(now);
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            seconds: self.timeline.seconds(now),
            rows_written: snapshot.rows_written,
            rows_missed: snapshot.rows_missed,
            streaming: snapshot.streaming,
            running: self.deployment.has_task(),
        });
        self.published.send_replace(snapshot);
    }

    fn snapshot(&self, now: Instant) -> SideSnapshot {
        let Self { side, deployment, keys, .. } = self;
        let feed = side.world.feed.statistics();
        let seconds = |at| self.timeline.seconds(at);
        let over = keys.intervals().iter().copied();
        let open = keys.stale_since().map(|since| (since, now));
        let left = match deployment.state() {
            State::Provisioning { ready_at } => Some(ready_at.saturating_duration_since(now)),
            _ => None,
        };
        SideSnapshot {
            model: side.model,
            task: Task {
                last_status: deployment.state().last_status(),
                stopped_reason: deployment.stopped_reason().map(ToOwned::to_owned),
                starts: deployment.starts(),
                simulated_seconds_left: left.map(|left| left.as_secs_f64()),
                simulated_seconds: deployment.simulated().as_secs_f64(),
            },
            streaming: feed.open > 0,
            posts_sent: feed.posts_sent,
            rows_missed: feed.posts_missed_matching.unwrap_or_default(),
            simulated_rows_missed: self.simulated.rows_missed,
            rows_written: self.rows_written,
            rows_in_spool: side.worker.log.count("rows_in_spool"),
            keys_in_use: keys.in_use(),
            keys_labelled: keys.labelled(),
            keys_newest: keys.newest(),
            old_keys_accepted: side.keys.overlaps(),
            stale: keys.stale_since().is_some(),
            seconds_on_old: keys.stale(now).as_secs_f64(),
            simulated_seconds_on_old: self.simulated.on_old.as_secs_f64(),
            stale_intervals: over
                .chain(open)
                .map(|(from, to)| (seconds(from), seconds(to)))
                .collect(),
            refused: feed.refused.values().sum(),
            sets_refused: self.sets_refused,
            versions: self.calls.versions.clone(),
            calls: self.calls.calls.clone(),
        }
    }

    /// Puts what the worker has said on the timeline.
    fn listen(&mut self) {
        while let Some(said) = self.side.worker.log.said.pop_front() {
            if said.message == SET_REFUSED {
                self.sets_refused += 1;
            }
            if let Some((tone, text)) = retold(&said) {
                self.note(tone, text);
            }
        }
    }

    fn note(&self, tone: Tone, text: impl Into<String>) {
        self.timeline.note(Some(self.side.model), tone, text);
    }

    async fn finish(&mut self) -> Result<Finished, Error> {
        // A stream that is cut just now may never have sent what it had begun.
        let _ = timeout(STUCK, self.side.world.feed.end_posts()).await;
        let begun = Instant::now();
        while !self.is_settled()? && begun.elapsed() < STUCK {
            self.turn().await?;
        }
        self.deployment.scale_to_zero();
        while self.deployment.state() != State::Stopped {
            self.turn().await?;
        }
        self.published_at -= PUBLISH;
        self.see();
        let world = &self.side.world;
        let (feed, table) = (world.feed.statistics(), TableRows::read_back(world)?);
        let expected = world.feed.expected_rows();
        let missed = feed.posts_missed_matching.unwrap_or_default();
        let rows_lost = missed + table.missing(expected.iter().map(|row| row.id.as_str()));
        let gets = |record: &&crate::demo::local_aws::Record| record.event_name == "GetSecretValue";
        let since = |from: Instant, to: Instant| (to - from).as_secs_f64();
        Ok(Finished {
            last: self.published.borrow().clone(),
            feed,
            expected,
            table,
            rows_lost,
            counts: self.counts.clone(),
            adopted: self.adopted,
            usage: self.side.worker.usage,
            worker_exit: self.worker_exit.clone(),
            ended_by_itself: self.ended_by_itself.clone(),
            first_row_seconds: self.first_row.map(|first| since(self.started, first)),
            seconds: self.opened.map_or(0.0, |opened| since(opened, self.last_row.max(opened))),
            get_secret_value_calls: world.aws.audit().iter().filter(gets).count() as u64,
            points: std::mem::take(&mut self.points).into(),
        })
    }

    /// Whether the table has all that it will ever get.
    fn is_settled(&self) -> Result<bool, Error> {
        if matches!(self.deployment.state(), State::Provisioning { .. } | State::Stopped) {
            return Ok(true);
        }
        let world = &self.side.world;
        if world.feed.taken_and_unread()?.1 > 0 {
            return Ok(false);
        }
        // To read the table takes time that the worker then does not have.
        if self.last_row.elapsed() > SETTLED {
            return Ok(true);
        }
        let expected = world.feed.statistics().posts_sent_matching.unwrap_or_default();
        Ok(world.aws.table_item_count(world.table())? >= expected)
    }
}

/// The counts of a worker's log that the report has.
const COUNTS: [&str; 7] = [
    "posts_read",
    "posts_matched",
    "rows_written",
    "rows_collided",
    "connects",
    "rows_spooled",
    "posts_doubled",
];

const SET_REFUSED: &str = "the feed refused a new set of credentials; the one in use stays";

async fn opened_with(world: &crate::demo::world::World, access_token: Option<&str>) {
    if let Some(access_token) = access_token {
        world.feed.wait_until(|_| world.feed.opened_with(access_token) > 0).await;
    }
}

/// The worker's words as the timeline has them; none for those that it does not need.
fn retold(said: &Said) -> Option<(Tone, String)> {
    let text = |name| said.text(name).unwrap_or("?").to_owned();
    let seconds = |name| said.number(name).unwrap_or_default();
    Some(match &*said.message {
        // The feed tells it, with the keys.
        "the stream is open" => return None,
        "the stream is closed; it will be opened again" => {
            let wait = seconds("wait_seconds");
            (
                Tone::Bad,
                format!("the stream is closed: {}; next try in {wait:.1} s", text("reason")),
            )
        }
        "rotated: a new set of credentials is in use" => {
            let how = said.text("learnt_by").unwrap_or("a look");
            (Tone::Good, format!("took over the new set of credentials, learnt by {how}"))
        }
        "the table takes rows again" => {
            let away = seconds("away_seconds");
            (Tone::Good, format!("the table takes rows again, after {away:.1} s"))
        }
        "a row was not written yet" => (Tone::Bad, format!("rows wait: {}", text("error"))),
        "the credentials cannot be refreshed; the set in use serves on" => {
            (Tone::Note, format!("{}: {}", said.message, text("error")))
        }
        "Secrets Manager answers again" | "the set of credentials before is wiped" => {
            (Tone::Good, said.message.clone())
        }
        SET_REFUSED => (Tone::Note, said.message.clone()),
        "ending" => (Tone::Bad, format!("the worker ends: {}", text("error"))),
        message if said.level == "ERROR" => (Tone::Bad, message.to_owned()),
        _ => return None,
    })
}

/// What is not as on Fargate where a worker ends by itself.
const NO_RESTART_POLICY: &str = " (a new task follows: that the definition's restartPolicy would first start the \
                                 container anew, with the values that it has, is not simulated)";

/// The words of a line of the log. What is not JSON, as a panic of another thread, may hold anything.
fn words(line: &str) -> String {
    let Ok(Value::Object(event)) = serde_json::from_str(line) else {
        return "a line that is not JSON".to_owned();
    };
    let text = |name: &str| event.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    text("error").or_else(|| text("message")).unwrap_or_default()
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

/// The model whose operator must deploy.
pub(super) const DEPLOYED: Model = Model::Injected;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_workers_last_line_only_fields_are_told() {
        assert_eq!(words(r#"{"message":"ending","error":"no table"}"#), "no table");
        assert_eq!(words(r#"{"message":"ending"}"#), "ending");
        for line in ["a panic at 'secret'", r#""secret""#, ""] {
            assert_eq!(words(line), "a line that is not JSON");
        }
    }

    #[test]
    fn what_happens_while_a_task_is_made_ready_is_called_simulated_and_nothing_else() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut simulated = Simulated::new(now);
        // Old keys in a task that runs, then one that is made ready, then one that is started.
        simulated.look(at(2), 1, true, false);
        simulated.look(at(3), 2, true, true);
        simulated.look(at(7), 9, true, true);
        simulated.look(at(8), 10, true, false);
        assert_eq!((simulated.on_old, simulated.rows_missed), (Duration::from_secs(4), 7));
        assert_eq!(simulated.of_this_time(), Duration::from_secs(4));
        // A start with keys that are not old.
        simulated.look(at(9), 10, false, true);
        simulated.look(at(10), 12, false, true);
        assert_eq!((simulated.of_this_time(), simulated.rows_missed), (Duration::ZERO, 9));
    }
}
