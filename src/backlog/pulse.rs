//! Whether the table answers: known from what the writers tell of each try, without asking it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The table counts as away when rows are being written and none was acknowledged for so long.
/// Longer than a call that is only slow takes.
pub const AWAY: Duration = Duration::from_secs(5);

/// How often at most a failure to write is logged, in milliseconds.
const SAID_EVERY: u64 = 10_000;

/// The pulse of the table.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    writing: AtomicU64,
    /// Milliseconds after `start`: when a row was acknowledged last, or the writers began after a rest.
    acknowledged: AtomicU64,
    /// The same: when a failure may be logged again.
    quiet_until: AtomicU64,
    failing: AtomicBool,
}

impl Pulse {
    /// A table of which nothing is known yet. The pulse is counted from now.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            start: now,
            writing: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// A row is about to be written.
    pub fn begin(&self) {
        // Before anybody sees that rows are being written, and after: the last one may end meanwhile.
        if self.writing.load(Ordering::Relaxed) == 0 {
            self.acknowledged.fetch_max(self.now(), Ordering::Relaxed);
        }
        if self.writing.fetch_add(1, Ordering::Release) == 0 {
            self.acknowledged.fetch_max(self.now(), Ordering::Relaxed);
        }
    }

    /// It is not being written any more, for whatever reason.
    pub fn end(&self) {
        self.writing.fetch_sub(1, Ordering::Relaxed);
    }

    /// The table has acknowledged a row. Returns how long it had not, where that was worth a line.
    pub fn acknowledged(&self) -> Option<Duration> {
        let now = self.now();
        let before = self.acknowledged.fetch_max(now, Ordering::Relaxed);
        let silence = Duration::from_millis(now.saturating_sub(before));
        let was_failing = self.failing.load(Ordering::Relaxed)
            && silence >= AWAY
            && self.failing.swap(false, Ordering::Relaxed);
        was_failing.then_some(silence)
    }

    /// The table has refused a row. Returns whether that is to be logged.
    pub fn failed(&self) -> bool {
        self.failing.store(true, Ordering::Relaxed);
        let (now, quiet_until) = (self.now(), self.quiet_until.load(Ordering::Relaxed));
        now >= quiet_until
            && self
                .quiet_until
                .compare_exchange(
                    quiet_until,
                    now + SAID_EVERY,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// When a row was acknowledged last.
    #[must_use]
    pub fn last_acknowledged(&self) -> Instant {
        self.start + Duration::from_millis(self.acknowledged.load(Ordering::Relaxed))
    }

    /// Whether the table is away.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.writing.load(Ordering::Acquire) > 0 && self.last_acknowledged().elapsed() > AWAY
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_table_is_away_only_while_rows_wait_for_it_in_vain() {
        let pulse = Pulse::new(Instant::now());
        advance(AWAY * 10).await;
        assert!(!pulse.is_away(), "nothing is being written");
        pulse.begin();
        assert!(!pulse.is_away(), "it has just been asked");
        advance(AWAY).await;
        assert!(!pulse.is_away());
        advance(SECOND).await;
        assert!(pulse.is_away());
        pulse.begin();
        assert!(pulse.is_away(), "a second row changes nothing");
        assert_eq!(pulse.acknowledged(), None, "nothing has failed: it was slow");
        assert!(!pulse.is_away());
        pulse.end();
        advance(AWAY * 2).await;
        assert!(pulse.is_away(), "the other row waits still");
        pulse.end();
        assert!(!pulse.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_said_once_in_a_while_and_their_end_once() {
        let pulse = Pulse::new(Instant::now());
        pulse.begin();
        let mut said = 0;
        for _ in 0..300 {
            said += u32::from(pulse.failed());
            advance(SECOND / 10).await;
        }
        assert_eq!(said, 3, "in 30 s");
        assert_eq!(pulse.acknowledged(), Some(SECOND * 30));
        assert_eq!(pulse.acknowledged(), None);
        // One that fails now and then is not away, and that it answers is no news.
        let _ = pulse.failed();
        advance(SECOND).await;
        assert_eq!(pulse.acknowledged(), None);
    }
}
