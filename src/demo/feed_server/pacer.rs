//! When posts fall due.

use std::num::NonZeroU32;

use tokio::time::{Duration, Instant};

/// Says how many posts are due: of one stream, or of a live feed.
pub(super) struct Pacer {
    rate: Option<NonZeroU32>,
    started: Instant,
    pub(super) sent: u64,
}

impl Pacer {
    pub(super) fn new(rate: Option<NonZeroU32>, started: Instant) -> Self {
        Self { rate, started, sent: 0 }
    }

    /// Posts that should have been sent by now and were not. After a pause all of them are due at once, so that
    /// the rate holds on average.
    pub(super) fn due(&self, now: Instant) -> u64 {
        let Some(rate) = self.rate else {
            return u64::MAX;
        };
        let nanoseconds = now.saturating_duration_since(self.started).as_nanos();
        let due = nanoseconds * u128::from(rate.get()) / 1_000_000_000;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.sent)
    }

    /// When the next post is due.
    pub(super) fn next(&self) -> Instant {
        let Some(rate) = self.rate else {
            return self.started;
        };
        let nanoseconds = (u128::from(self.sent) + 1) * 1_000_000_000;
        let nanoseconds = nanoseconds.div_ceil(u128::from(rate.get()));
        self.started + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(rate: u32) -> Pacer {
        Pacer::new(NonZeroU32::new(rate), Instant::now())
    }

    #[test]
    fn the_pace_is_exact_from_one_to_fifty_thousand_a_second() {
        for rate in [1, 3, 7, 1_000, 33_333, 50_000] {
            let mut pacer = pacer(rate);
            let started = pacer.started;
            assert_eq!(pacer.due(started), 0);
            for second in 1..=3_u32 {
                let end = started + Duration::from_secs(u64::from(second));
                // Each post falls due exactly when `next` says, and not a nanosecond before.
                while pacer.next() <= end {
                    let instant = pacer.next();
                    assert_eq!(pacer.due(instant - Duration::from_nanos(1)), 0, "{rate}");
                    assert_eq!(pacer.due(instant), 1, "{rate}");
                    pacer.sent += 1;
                }
                assert_eq!(pacer.sent, u64::from(rate) * u64::from(second));
            }
        }
    }

    #[test]
    fn what_fell_due_in_a_pause_is_due_after_it() {
        let pacer = pacer(50_000);
        assert_eq!(pacer.due(pacer.started + Duration::from_millis(1)), 50);
        assert_eq!(pacer.due(pacer.started + Duration::from_secs(10)), 500_000);
    }
}
