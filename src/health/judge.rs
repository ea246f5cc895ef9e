//! What the worker's state is, of what is known at one moment.

use std::time::Duration;

use tokio::time::Instant;

use crate::feed;

/// So many polls of the labels may be missed, and some time more: a look may take long, and the next
/// one after a failure comes up to half a minute later.
const MISSED_POLLS: u32 = 3;
const SLOW_LOOK: Duration = Duration::from_secs(10);

/// How long there may be no stream.
pub const NO_STREAM: Duration = Duration::from_mins(10);

/// For how long a row that was dropped counts.
pub const DROPPED: Duration = Duration::from_mins(1);

/// The states, each outranking those before it. A worker that drains is on its way out, however it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Reading and writing, or free to.
    Ok,
    /// There has been no stream yet.
    Starting,
    /// Secrets Manager could not be looked at for long; the set in use serves on.
    Stale,
    /// Rows wait on the disk, or the table does not acknowledge any.
    Degraded,
    /// There has been no stream for long, though one is wanted, or rows were dropped.
    Failing,
    /// Asked to stop.
    Draining,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Starting, Self::Stale, Self::Degraded, Self::Failing, Self::Draining];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Starting => "starting",
            Self::Stale => "stale",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::Draining => "draining",
        }
    }
}

/// What is known of the worker.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Whether it reads no more.
    pub draining: bool,
    /// When the labels were last seen; `None` before there are credentials.
    pub looked_at: Option<Instant>,
    /// How often they are to be seen.
    pub poll: Duration,
    /// What the feed is doing; `None` before there is one.
    pub feed: Option<feed::State>,
    /// Whether there has ever been a stream.
    pub was_open: bool,
    /// Whether rows are being written, and the table acknowledges none.
    pub table_is_away: bool,
    /// Rows on the disk.
    pub rows_in_spool: u64,
    /// Rows on the disk and in memory.
    pub rows_waiting: u64,
    /// When a row was last seen to be dropped.
    pub dropped_at: Option<Instant>,
}

/// What the snapshot means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The worst of all that is so.
    pub state: State,
    /// All that is so, the worst first.
    pub reason: String,
    /// Whether the worker is to be left alone: the exit code is 0.
    pub healthy: bool,
}

/// Judges a snapshot.
#[must_use]
pub fn judge(snapshot: &Snapshot, now: Instant) -> Judgement {
    let mut found = findings(snapshot, now);
    // A stable sort: what was found first stays first among its like.
    found.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
    let state = found.first().map_or(State::Ok, |(state, _)| *state);
    let in_vain = |(state, _): &(State, String)| matches!(state, State::Starting | State::Failing);
    let in_vain = found.iter().any(in_vain);
    let reasons: Vec<_> = found.into_iter().map(|(_, reason)| reason).collect();
    let reason = if reasons.is_empty() { well(snapshot, now) } else { reasons.join("; ") };
    let held_off = matches!(snapshot.feed, Some(feed::State::Connecting { held_off: true, .. }));
    let healthy = !in_vain || snapshot.rows_waiting > 0 || held_off;
    Judgement { state, reason, healthy }
}

/// All that is not as it should be, or not yet.
fn findings(snapshot: &Snapshot, now: Instant) -> Vec<(State, String)> {
    let age = |moment: Instant| now.saturating_duration_since(moment);
    let mut found = Vec::new();
    let mut find = |state, reason: String| found.push((state, reason));
    if snapshot.draining {
        find(State::Draining, "the worker is stopping".to_owned());
    } else {
        // What is not wanted any more cannot be missed.
        if let Some(feed::State::Connecting { since, .. }) = snapshot.feed
            && age(since) > NO_STREAM
        {
            let seconds = age(since).as_secs();
            find(State::Failing, format!("there has been no stream for {seconds} s"));
        }
        if let Some(looked_at) = snapshot.looked_at
            && age(looked_at) > snapshot.poll * MISSED_POLLS + SLOW_LOOK
        {
            let seconds = age(looked_at).as_secs();
            let reason = format!(
                "the labels of the secrets could not be looked at for {seconds} s; the set in use \
                 serves on"
            );
            find(State::Stale, reason);
        }
        match (snapshot.feed, snapshot.was_open) {
            (None, _) => find(State::Starting, "credentials and table are being proven".to_owned()),
            (Some(_), false) => {
                find(State::Starting, "the first stream is being opened".to_owned());
            }
            (Some(_), true) => {}
        }
    }
    if snapshot.dropped_at.is_some_and(|at| age(at) < DROPPED) {
        let reason = "rows were dropped: neither memory nor disk took them in time";
        find(State::Failing, reason.to_owned());
    }
    if snapshot.table_is_away {
        find(State::Degraded, "the table acknowledges no row".to_owned());
    }
    if snapshot.rows_in_spool > 0 {
        find(State::Degraded, format!("{} rows wait on the disk", snapshot.rows_in_spool));
    }
    found
}

/// Why nothing was found.
fn well(snapshot: &Snapshot, now: Instant) -> String {
    match snapshot.feed {
        Some(feed::State::Paused { until }) => {
            let seconds = until.saturating_duration_since(now).as_secs();
            format!("READ_BUDGET is read; it is looked at again in {seconds} s")
        }
        Some(feed::State::Connecting { since, .. }) => {
            let seconds = now.saturating_duration_since(since).as_secs();
            format!("the stream was lost {seconds} s ago and is being opened again")
        }
        Some(feed::State::Delivering { .. }) | None => "a stream is open".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const POLL: Duration = Duration::from_mins(1);

    /// Nothing is amiss.
    fn well_since(start: Instant) -> Snapshot {
        Snapshot {
            draining: false,
            looked_at: Some(start),
            poll: POLL,
            feed: Some(feed::State::Delivering { since: start }),
            was_open: true,
            table_is_away: false,
            rows_in_spool: 0,
            rows_waiting: 0,
            dropped_at: None,
        }
    }

    type Change = fn(&mut Snapshot, Instant);

    /// Each thing that may be amiss, what it makes of the state by itself, and a word of its reason.
    const CAUSES: [(State, &str, Change); 7] = [
        (State::Starting, "first stream", |snapshot, _| snapshot.was_open = false),
        (State::Stale, "could not be looked at for 191 s", |snapshot, now| {
            snapshot.looked_at = now.checked_sub(SECOND * 191);
        }),
        (State::Degraded, "acknowledges no row", |snapshot, _| snapshot.table_is_away = true),
        (State::Degraded, "7 rows wait on the disk", |snapshot, _| {
            (snapshot.rows_in_spool, snapshot.rows_waiting) = (7, 9);
        }),
        (State::Failing, "rows were dropped", |snapshot, now| {
            snapshot.dropped_at = now.checked_sub(SECOND * 59);
        }),
        (State::Failing, "no stream for 601 s", |snapshot, now| {
            let since = now.checked_sub(SECOND * 601).unwrap();
            snapshot.feed = Some(feed::State::Connecting { since, held_off: false });
        }),
        (State::Draining, "is stopping", |snapshot, _| snapshot.draining = true),
    ];

    /// A moment with an hour before it.
    fn now() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    #[test]
    fn the_worst_wins_and_every_reason_is_told_in_all_combinations() {
        let now = now();
        let not_wanted_when_draining = [0, 1, 5];
        for combination in 0_u32..1 << CAUSES.len() {
            let mut snapshot = well_since(now);
            let is_in = |index: &usize| combination & (1 << index) != 0;
            let chosen: Vec<_> = (0..CAUSES.len()).filter(is_in).collect();
            for index in &chosen {
                CAUSES[*index].2(&mut snapshot, now);
            }
            let counts =
                |index: &&usize| !snapshot.draining || !not_wanted_when_draining.contains(*index);
            let told: Vec<_> = chosen.iter().filter(counts).map(|index| CAUSES[*index]).collect();
            let worst = told.iter().map(|(state, ..)| *state).max().unwrap_or(State::Ok);

            let judgement = judge(&snapshot, now);
            assert_eq!(judgement.state, worst, "{snapshot:?}");
            for (_, word, _) in &told {
                assert!(judgement.reason.contains(word), "{word}: {judgement:?}");
            }
            let count = if told.is_empty() { 1 } else { told.len() };
            let reasons: Vec<_> = judgement
                .reason
                .split("; ")
                .filter(|part| *part != "the set in use serves on")
                .collect();
            assert_eq!(reasons.len(), count, "{judgement:?}");
            // A new task is for a worker that fails or never began, and never where rows wait.
            let in_vain =
                |(state, ..): &(State, _, _)| matches!(state, State::Starting | State::Failing);
            let replaced = told.iter().any(in_vain) && snapshot.rows_waiting == 0;
            assert_eq!(judgement.healthy, !replaced, "{snapshot:?}");
        }
    }

    #[test]
    fn each_limit_is_where_it_is_said_to_be() {
        let now = now();
        let ago = |duration| now.checked_sub(duration).unwrap();
        let state = |change: &dyn Fn(&mut Snapshot)| {
            let mut snapshot = well_since(now);
            change(&mut snapshot);
            judge(&snapshot, now).state
        };
        let looked = |age| state(&|snapshot| snapshot.looked_at = Some(ago(age)));
        assert_eq!(looked(POLL * 3 + SECOND * 10), State::Ok);
        assert_eq!(looked(POLL * 3 + SECOND * 11), State::Stale);
        let connecting = |age| {
            let feed = feed::State::Connecting { since: ago(age), held_off: false };
            state(&|snapshot| snapshot.feed = Some(feed))
        };
        assert_eq!(connecting(NO_STREAM), State::Ok);
        assert_eq!(connecting(NO_STREAM + SECOND), State::Failing);
        let dropped = |age| state(&|snapshot| snapshot.dropped_at = Some(ago(age)));
        assert_eq!(dropped(SECOND * 59), State::Failing);
        assert_eq!(dropped(DROPPED), State::Ok);
    }

    #[test]
    fn a_pause_of_the_read_budget_is_no_failure_however_long() {
        let now = now();
        let paused = feed::State::Paused { until: now + Duration::from_hours(1) };
        let snapshot = Snapshot { feed: Some(paused), ..well_since(now) };
        let judgement = judge(&snapshot, now);
        assert_eq!((judgement.state, judgement.healthy), (State::Ok, true));
        assert!(
            judgement.reason.contains("READ_BUDGET is read") && judgement.reason.contains("3600 s")
        );
    }

    #[test]
    fn a_worker_that_the_server_has_asked_to_wait_is_not_replaced_by_one_that_does_not_know() {
        let now = now();
        let since = now.checked_sub(NO_STREAM * 2).unwrap();
        for held_off in [false, true] {
            let feed = Some(feed::State::Connecting { since, held_off });
            let judgement = judge(&Snapshot { feed, ..well_since(now) }, now);
            assert_eq!((judgement.state, judgement.healthy), (State::Failing, held_off));
        }
    }

    #[test]
    fn before_there_is_anything_it_starts() {
        let now = now();
        let snapshot = Snapshot { looked_at: None, feed: None, was_open: false, ..well_since(now) };
        let judgement = judge(&snapshot, now);
        assert_eq!((judgement.state, judgement.healthy), (State::Starting, false));
        assert!(judgement.reason.contains("being proven"));
    }
}
