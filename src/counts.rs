//! What was read, matched and written: one set of counters for the whole path, shared between
//! those who count and those who report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// So many from now on.
    pub fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// How many now.
    #[must_use]
    pub fn level(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations beyond this count as this long, in microseconds.
const LONGEST: u64 = 600_000_000;

/// Durations, each to two digits, kept until they are taken.
#[derive(Debug, Default)]
pub struct Durations(Mutex<Option<Histogram<u32>>>);

/// How durations spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// As long as half of them.
    pub median: Duration,
    /// As long as 99 of 100.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Durations {
    /// One more.
    pub fn record(&self, duration: Duration) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            // These bounds are good ones. It takes some 10 KB.
            *kept = Histogram::new_with_bounds(1, LONGEST, 2).ok();
        }
        if let Some(histogram) = &mut *kept {
            let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            histogram.saturating_record(microseconds);
        }
    }

    /// Takes them; `None` where there are none.
    pub fn take(&self) -> Option<Spread> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = kept.as_mut().filter(|histogram| !histogram.is_empty())?;
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        let longest = Duration::from_micros(histogram.max());
        let spread = Spread { median: at(0.5), p99: at(0.99), longest };
        histogram.reset();
        Some(spread)
    }
}

/// The counters, along the path of the data.
#[derive(Debug, Default)]
pub struct Counts {
    /// Streams opened.
    pub connects: Counter,
    /// Streams that were not opened, for want of a connection or an answer.
    pub connects_failed_network: Counter,
    /// Those that the server refused.
    pub connects_failed_http: Counter,
    /// Those for which the server asked to come later.
    pub connects_failed_rate_limit: Counter,
    /// Streams that ended and were not taken over from: each is opened again.
    pub streams_lost: Counter,
    /// Those of them that were given up after a silence.
    pub stalls: Counter,
    /// Posts read.
    pub posts_read: Counter,
    /// Posts that came again while one stream took over from another.
    pub posts_doubled: Counter,
    /// Empty records.
    pub keep_alives: Counter,
    /// Notices of any kind.
    pub notices: Counter,
    /// Records that are JSON and nothing known.
    pub unknown: Counter,
    /// Records that are not JSON, or a post with parts missing.
    pub malformed: Counter,
    /// Records over the bound.
    pub over_long: Counter,
    /// Posts that matched the filter: each is a row that was accepted.
    pub posts_matched: Counter,
    /// How much of `READ_BUDGET` is read, in percent: of the day or the month, whichever is more.
    pub read_budget_percent: Gauge,
    /// How often the server refused credentials.
    pub credential_refusals: Counter,
    /// New sets of credentials that were taken into use.
    pub rotations: Counter,
    /// From the poll that found a new set to its use.
    pub rotated_by_poll: Durations,
    /// The same of an event.
    pub rotated_by_event: Durations,
    /// The same of a refusal.
    pub rotated_by_refusal: Durations,
    /// The same of a signal.
    pub rotated_by_signal: Durations,
    /// Messages of the queue that were events of a secret used here.
    pub rotation_events: Counter,
    /// Messages of the queue that were not.
    pub rotation_events_foreign: Counter,
    /// Rows that an earlier process has left in the spool.
    pub rows_recovered: Counter,
    /// Rows that went to the disk, because the table was away or the queue full.
    pub rows_spooled: Counter,
    /// Rows that are there now, and that the table did not have when it was last written to.
    pub rows_in_spool: Gauge,
    /// Rows for which there was no room, neither in memory nor on the disk: they are lost.
    pub rows_dropped: Counter,
    /// How long `PutItem` took for each row that DynamoDB has acknowledged: the try that it acknowledged.
    pub put_latency: Durations,
    /// Rows that DynamoDB has acknowledged.
    pub rows_written: Counter,
    /// Those of them that found their key taken and went to `date#id`.
    pub rows_collided: Counter,
    /// Rows that can never be written.
    pub rows_rejected: Counter,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each field is the counter of the same name in Counts")]
pub struct Summary {
    pub connects: u64,
    pub connects_failed_network: u64,
    pub connects_failed_http: u64,
    pub connects_failed_rate_limit: u64,
    pub streams_lost: u64,
    pub stalls: u64,
    pub posts_read: u64,
    pub posts_doubled: u64,
    pub keep_alives: u64,
    pub notices: u64,
    pub unknown: u64,
    pub malformed: u64,
    pub over_long: u64,
    pub posts_matched: u64,
    pub credential_refusals: u64,
    pub rotations: u64,
    pub rotation_events: u64,
    pub rotation_events_foreign: u64,
    pub rows_recovered: u64,
    pub rows_spooled: u64,
    /// At most [`Summary::rows_waiting`].
    pub rows_in_spool: u64,
    pub rows_dropped: u64,
    pub rows_written: u64,
    pub rows_collided: u64,
    pub rows_rejected: u64,
    /// Rows accepted or recovered, and neither written nor rejected nor dropped yet.
    pub rows_waiting: u64,
}

impl Counts {
    /// All of them, now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        // Read in the reverse of the order in which a row passes them, so that the difference
        // below is never negative.
        let rows_rejected = self.rows_rejected.count();
        let rows_collided = self.rows_collided.count();
        let rows_written = self.rows_written.count();
        let rows_dropped = self.rows_dropped.count();
        let rows_in_spool = self.rows_in_spool.level();
        let rows_spooled = self.rows_spooled.count();
        let rows_recovered = self.rows_recovered.count();
        let posts_matched = self.posts_matched.count();
        let settled = rows_written + rows_rejected + rows_dropped;
        let rows_waiting = (posts_matched + rows_recovered).saturating_sub(settled);
        Summary {
            connects: self.connects.count(),
            connects_failed_network: self.connects_failed_network.count(),
            connects_failed_http: self.connects_failed_http.count(),
            connects_failed_rate_limit: self.connects_failed_rate_limit.count(),
            streams_lost: self.streams_lost.count(),
            stalls: self.stalls.count(),
            posts_read: self.posts_read.count(),
            posts_doubled: self.posts_doubled.count(),
            keep_alives: self.keep_alives.count(),
            notices: self.notices.count(),
            unknown: self.unknown.count(),
            malformed: self.malformed.count(),
            over_long: self.over_long.count(),
            posts_matched,
            credential_refusals: self.credential_refusals.count(),
            rotations: self.rotations.count(),
            rotation_events: self.rotation_events.count(),
            rotation_events_foreign: self.rotation_events_foreign.count(),
            rows_recovered,
            rows_spooled,
            // The disk may not have heard yet of the last that the table has acknowledged.
            rows_in_spool: rows_in_spool.min(rows_waiting),
            rows_dropped,
            rows_written,
            rows_collided,
            rows_rejected,
            rows_waiting,
        }
    }
}
