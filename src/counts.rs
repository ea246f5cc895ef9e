//! What was read, matched and written: one set of counters for the whole path, shared between
//! those who count and those who report.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So many less.
    pub fn subtract(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    /// How many now.
    #[must_use]
    pub fn level(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters, along the path of the data.
#[derive(Debug, Default)]
pub struct Counts {
    /// Streams opened.
    pub connects: Counter,
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
    /// Messages of the queue that were events of a secret used here.
    pub rotation_events: Counter,
    /// Messages of the queue that were not.
    pub rotation_events_foreign: Counter,
    /// Rows that an earlier process has left in the spool.
    pub rows_recovered: Counter,
    /// Rows that went to the disk, because the table was away or the queue full.
    pub rows_spooled: Counter,
    /// Rows that are there now, or on their way.
    pub rows_in_spool: Gauge,
    /// Rows for which there was no room, neither in memory nor on the disk: they are lost.
    pub rows_dropped: Counter,
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
    pub posts_read: u64,
    pub posts_doubled: u64,
    pub keep_alives: u64,
    pub notices: u64,
    pub unknown: u64,
    pub malformed: u64,
    pub over_long: u64,
    pub posts_matched: u64,
    pub rotation_events: u64,
    pub rotation_events_foreign: u64,
    pub rows_recovered: u64,
    pub rows_spooled: u64,
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
        let accepted = posts_matched + rows_recovered;
        Summary {
            connects: self.connects.count(),
            posts_read: self.posts_read.count(),
            posts_doubled: self.posts_doubled.count(),
            keep_alives: self.keep_alives.count(),
            notices: self.notices.count(),
            unknown: self.unknown.count(),
            malformed: self.malformed.count(),
            over_long: self.over_long.count(),
            posts_matched,
            rotation_events: self.rotation_events.count(),
            rotation_events_foreign: self.rotation_events_foreign.count(),
            rows_recovered,
            rows_spooled,
            rows_in_spool,
            rows_dropped,
            rows_written,
            rows_collided,
            rows_rejected,
            rows_waiting: accepted.saturating_sub(rows_written + rows_rejected + rows_dropped),
        }
    }
}
