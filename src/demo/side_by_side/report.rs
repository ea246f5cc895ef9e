//! What a run of both sides came to: for a program as JSON, for people as a table.

use std::fmt;

use serde::Serialize;

use super::Pair;
use super::attacks::Attacks;
use super::deployment::{PUBLISHED_START, Published};
use super::scenario::{Phase, Rotation};
use super::service::{Finished, Point};
use super::snapshot::SideSnapshot;
use super::timeline::Event;
use crate::demo::probes::{Finding, Verdict};
use crate::demo::report;
use crate::demo::to_f64;
use crate::demo::world::Model;
use crate::feed::Dialect;

/// What a rotation did to a side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RotationFigures {
    /// From the last label to the first stream with the new keys.
    pub seconds_on_old: f64,
    /// Matching posts that the feed made while nobody had a stream.
    pub rows_lost: u64,
    /// Those of them that it made while a task was being made ready: simulated.
    pub simulated_rows_lost: u64,
    /// How much of it Fargate was simulated to take for new tasks; see `simulated_start_seconds`.
    pub restart_simulated_seconds: f64,
    /// How many tasks were started for it.
    pub restarts: u32,
}

impl RotationFigures {
    pub(super) fn between(before: &SideSnapshot, after: &SideSnapshot) -> Self {
        Self {
            seconds_on_old: after.seconds_on_old - before.seconds_on_old,
            rows_lost: after.rows_missed - before.rows_missed,
            simulated_rows_lost: after.simulated_rows_missed - before.simulated_rows_missed,
            restart_simulated_seconds: after.task.simulated_seconds - before.task.simulated_seconds,
            restarts: after.task.starts - before.task.starts,
        }
    }
}

/// The rotations of both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotations {
    /// The rotation with an overlap, and nothing else: what the whole run came to is elsewhere.
    pub embedded: RotationFigures,
    /// The same of the injected side.
    pub injected: RotationFigures,
    /// Each rotation of the run.
    pub each: Vec<Rotation>,
}

/// The injected side's figures, as those of the embedded side are named.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InjectedSide {
    /// Posts that the feed handed over.
    pub posts_sent: u64,
    /// Posts that its workers have read.
    pub posts_read: u64,
    /// Those that they accepted.
    pub posts_matched: u64,
    /// Rows that DynamoDB acknowledged to them.
    pub rows_written: u64,
    /// Rows read back from the table.
    pub rows_in_table: u64,
    /// Matching posts that the feed made and the table does not have.
    pub rows_lost: u64,
    /// Those of them that it made while a task was being made ready: simulated.
    pub simulated_rows_lost: u64,
    /// Rows whose user, date or text is not what the feed sent.
    pub rows_differing: u64,
    /// Ids that the table holds twice.
    pub duplicate_ids: u64,
    /// Streams that its workers opened.
    pub connects: u64,
    /// Requests for a stream that the feed refused.
    pub refused: u64,
    /// Tasks that were started.
    pub tasks_started: u32,
    /// `GetSecretValue` calls in the audit trail.
    pub get_secret_value_calls: u64,
    /// How the last worker's process ended.
    pub worker_exit: String,
    /// How those ended that nobody had asked to.
    pub ended_by_itself: Vec<String>,
}

/// The figures of one run. All were measured in it, but for what carries its source, and what is called
/// simulated.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The embedded side, as the main job reports it.
    #[serde(flatten)]
    pub embedded: report::Report,
    /// Tasks that were started on the embedded side.
    pub tasks_started: u32,
    /// How its workers ended that nobody had asked to.
    pub ended_by_itself: Vec<String>,
    /// The injected side.
    pub injected: InjectedSide,
    /// What was found by attacking both.
    pub probes: Vec<Finding>,
    /// Why the attacks broke off.
    pub probes_error: Option<String>,
    #[serde(skip)]
    probes_complete: bool,
    /// What the rotations did.
    pub rotation: Rotations,
    /// Posts a second, on each side.
    pub rate: u32,
    /// What a start of a task was simulated to take on Fargate.
    pub simulated_start_seconds: f64,
    /// What it was published to take.
    pub published_start: Published,
    /// How long the operator of the injected side takes to force a deployment: nobody has measured one.
    pub operator_reaction_seconds: f64,
    /// Where that is from.
    pub operator_reaction_source: &'static str,
    /// The parts of the run.
    pub phases: Vec<Phase>,
    /// What happened.
    pub timeline: Vec<Event>,
    /// For the plots: embedded, then injected.
    #[serde(skip)]
    pub points: [Vec<Point>; 2],
    /// When either side used old keys: embedded, then injected.
    pub stale_intervals: [Vec<(f64, f64)>; 2],
}

impl Report {
    pub(super) fn new(
        pair: &Pair,
        [embedded, injected]: [Finished; 2],
        attacks: Attacks,
        phases: Vec<Phase>,
        each: Vec<Rotation>,
    ) -> Self {
        let overlap = |of: fn(&Rotation) -> &RotationFigures| {
            each.first().map(of).cloned().unwrap_or_default()
        };
        let rotation = Rotations {
            embedded: overlap(|rotation| &rotation.embedded),
            injected: overlap(|rotation| &rotation.injected),
            each,
        };
        Self {
            rotation,
            probes_complete: attacks.is_complete(),
            probes: attacks.findings,
            probes_error: attacks.error,
            rate: pair.settings.rate.get(),
            simulated_start_seconds: pair.settings.fargate_start.as_secs_f64(),
            published_start: PUBLISHED_START,
            operator_reaction_seconds: 0.0,
            operator_reaction_source: "an assumption, the best case for injection",
            phases,
            timeline: pair.timeline.since(0),
            stale_intervals: [&embedded, &injected].map(|side| side.last.stale_intervals.clone()),
            injected: InjectedSide::of(&injected),
            tasks_started: embedded.last.task.starts,
            ended_by_itself: embedded.ended_by_itself.clone(),
            points: [embedded.points.clone(), injected.points],
            embedded: main_job(embedded),
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.complaints().is_empty()
    }

    /// What is wrong. That the injected side loses what passes by while it has no stream is not: it is what
    /// a new task costs.
    #[must_use]
    pub fn complaints(&self) -> Vec<&'static str> {
        let Self { embedded, injected, .. } = self;
        let well = "exit status: 0";
        let as_claimed = self.probes.iter().all(|finding| finding.as_claimed);
        let checks = [
            (embedded.rows_lost == 0, "the embedded side lost rows"),
            (embedded.rows_differing == 0, "the embedded side changed rows"),
            (embedded.duplicate_ids == 0, "the embedded side doubled rows"),
            (embedded.rows_in_table > 0, "the embedded side has no row"),
            (embedded.worker_exit == well, "the embedded worker did not end well"),
            (self.ended_by_itself.is_empty(), "an embedded worker ended by itself"),
            (self.tasks_started == 1, "the embedded side took more than one task"),
            (injected.rows_differing == 0, "the injected side changed rows"),
            (injected.duplicate_ids == 0, "the injected side doubled rows"),
            (injected.rows_in_table > 0, "the injected side has no row"),
            (injected.worker_exit == well, "the injected worker did not end well"),
            (injected.ended_by_itself.is_empty(), "an injected worker ended by itself"),
            (self.probes_complete, "not every attack was made"),
            (as_claimed, "an attack did not find what is claimed"),
        ];
        checks.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint).collect()
    }
}

impl InjectedSide {
    fn of(side: &Finished) -> Self {
        let count = |name: &str| side.counts.get(name).copied().unwrap_or_default();
        Self {
            posts_sent: side.feed.posts_sent,
            posts_read: count("posts_read"),
            posts_matched: count("posts_matched"),
            rows_written: count("rows_written"),
            rows_in_table: side.table.count,
            rows_lost: side.rows_lost,
            simulated_rows_lost: side.last.simulated_rows_missed,
            rows_differing: side.table.differing(&side.expected),
            duplicate_ids: side.table.duplicate_ids(),
            connects: count("connects"),
            refused: side.feed.refused.values().sum(),
            tasks_started: side.last.task.starts,
            get_secret_value_calls: side.get_secret_value_calls,
            worker_exit: side.worker_exit.clone(),
            ended_by_itself: side.ended_by_itself.clone(),
        }
    }
}

/// The embedded side's figures, as the main job has them.
fn main_job(side: Finished) -> report::Report {
    let count = |name: &str| side.counts.get(name).copied().unwrap_or_default();
    let rows_written = count("rows_written");
    let seconds = side.seconds;
    let rate = |count: u64| if seconds > 0.0 { to_f64(count) / seconds } else { 0.0 };
    let mut on_old: Vec<f64> =
        side.last.stale_intervals.iter().map(|(from, to)| to - from).collect();
    on_old.sort_by(f64::total_cmp);
    let rows_differing = side.table.differing(&side.expected);
    let (rows_in_table, duplicate_ids) = (side.table.count, side.table.duplicate_ids());
    let last_rows = side.table.newest(report::LAST_ROWS);
    let cpu_seconds = side.usage.cpu_seconds;
    report::Report {
        dialect: Dialect::TwitterV1_1.name(),
        posts_sent: side.feed.posts_sent,
        posts_sent_matching: side.feed.posts_sent_matching,
        posts_read: count("posts_read"),
        posts_matched: count("posts_matched"),
        rows_written,
        rows_collided: count("rows_collided"),
        rows_in_table,
        rows_lost: side.rows_lost,
        rows_differing,
        duplicate_ids,
        connects: count("connects"),
        seconds,
        posts_per_second: rate(count("posts_read")),
        rows_per_second: rate(rows_written),
        cpu_seconds,
        cpu_microseconds_per_row: match rows_written {
            0 => 0.0,
            rows => cpu_seconds * 1e6 / to_f64(rows),
        },
        first_row_seconds: side.first_row_seconds,
        peak_rss_bytes: side.usage.peak_rss_bytes,
        rotations: side.adopted,
        rotation_measured_to: "the first stream opened with the new keys",
        rotation_seconds_median: on_old.get(on_old.len() / 2).copied(),
        rotation_seconds_max: on_old.last().copied(),
        rss_bytes_at_100_rotations: None,
        rss_bytes: side.usage.rss_bytes,
        get_secret_value_calls: side.get_secret_value_calls,
        worker_exit: side.worker_exit,
        last_rows,
    }
}

/// Seconds, as short as they say something.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// Rows that were lost, and how many of them the simulated starts have cost.
pub(super) fn lost(rows: u64, simulated: u64) -> String {
    match simulated {
        0 => rows.to_string(),
        simulated => format!("{rows} ({simulated} of them in a simulated start)"),
    }
}

/// What was measured on each side: a name, and the two values.
pub(super) fn figures(report: &Report) -> Vec<[String; 3]> {
    let Report { embedded, injected, rotation, .. } = report;
    let line =
        |name: &str, embedded: String, injected: String| [name.to_owned(), embedded, injected];
    let mut lines = Vec::new();
    for Rotation { kind, embedded, injected } in &rotation.each {
        let on_old = |figures: &RotationFigures| {
            let simulated = match figures.restart_simulated_seconds {
                simulated if simulated > 0.0 => {
                    format!(" ({} of it simulated)", seconds(simulated))
                }
                _ => String::new(),
            };
            seconds(figures.seconds_on_old) + &simulated
        };
        lines.push(line(&format!("on old keys, {kind}"), on_old(embedded), on_old(injected)));
        let lost = |figures: &RotationFigures| lost(figures.rows_lost, figures.simulated_rows_lost);
        lines.push(line("  rows lost meanwhile", lost(embedded), lost(injected)));
        let restarts = |figures: &RotationFigures| figures.restarts.to_string();
        lines.push(line("  tasks started for it", restarts(embedded), restarts(injected)));
    }
    let mut count = |name: &str, embedded: u64, injected: u64| {
        lines.push(line(name, embedded.to_string(), injected.to_string()));
    };
    count("rows in the table", embedded.rows_in_table, injected.rows_in_table);
    count("rows not as sent", embedded.rows_differing, injected.rows_differing);
    count("duplicate ids", embedded.duplicate_ids, injected.duplicate_ids);
    count("GetSecretValue calls", embedded.get_secret_value_calls, injected.get_secret_value_calls);
    lines.push(line(
        "rows lost, whole run",
        embedded.rows_lost.to_string(),
        lost(injected.rows_lost, injected.simulated_rows_lost),
    ));
    let exit = [&embedded.worker_exit, &injected.worker_exit].map(Clone::clone);
    let [embedded, injected] = exit;
    lines.push(line("last task ended with", embedded, injected));
    lines
}

/// What the simulated start stands for.
pub(super) fn note_on_the_start(report: &Report) -> String {
    let Published { seconds: published, of, source } = report.published_start;
    format!(
        "A start of a task on Fargate is simulated: {}. Published: {published:.0} s, {of} ({source}). \
         The injected side's operator deploys {:.0} s after the cut: {}.",
        seconds(report.simulated_start_seconds),
        report.operator_reaction_seconds,
        report.operator_reaction_source,
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [name, column] = [58, 12];
        let names = Model::BOTH.map(Model::name);
        let [embedded, injected] = names;
        writeln!(f, "  {:<name$}{embedded:<column$}{injected}", "")?;
        writeln!(f, "  {}", "─".repeat(name + column + 40))?;
        for [what, embedded, injected] in figures(self) {
            writeln!(f, "  {what:<name$}{embedded:<column$}{injected}")?;
        }
        writeln!(f, "\n  {}\n", note_on_the_start(self))?;
        for verdict in [Verdict::Embedded, Verdict::Injected, Verdict::Equal] {
            for finding in self.probes.iter().filter(|it| it.verdict == Some(verdict)) {
                writeln!(f, "  {:<18}{}", verdict.words(), finding.probe.id)?;
                writeln!(f, "  {:<18}  embedded: {}", "", finding.embedded)?;
                writeln!(f, "  {:<18}  injected: {}", "", finding.injected)?;
            }
        }
        for finding in &self.probes {
            if let Some(why) = &finding.skipped {
                writeln!(f, "  {:<18}{}: {why}", "skipped", finding.probe.id)?;
            }
        }
        let count = |verdict| self.probes.iter().filter(|it| it.verdict == verdict).count();
        writeln!(
            f,
            "\n  attacks and claims: {}; {} better for embedded, {} for injection, {} equal, {} skipped",
            self.probes.len(),
            count(Some(Verdict::Embedded)),
            count(Some(Verdict::Injected)),
            count(Some(Verdict::Equal)),
            count(None),
        )?;
        if let Some(error) = &self.probes_error {
            writeln!(f, "  the attacks broke off: {error}")?;
        }
        self.complaints().iter().try_for_each(|complaint| writeln!(f, "  NOT RIGHT: {complaint}"))
    }
}
