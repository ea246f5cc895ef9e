//! How many streams may be opened within a time: X counts, and refuses who opens more.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time in which connects are counted (X, "Rate limits": 50 requests of the filtered stream's
/// endpoint in 15 minutes).
pub const WINDOW: Duration = Duration::from_mins(15);

/// Connects that were made and still count.
#[derive(Debug)]
pub struct ConnectBudget {
    most: usize,
    made: VecDeque<Instant>,
}

impl ConnectBudget {
    /// At most so many in [`WINDOW`].
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { most, made: VecDeque::new() }
    }

    /// The first moment, not before `wanted`, at which one more may be made.
    #[must_use]
    pub fn free_at(&self, wanted: Instant) -> Instant {
        match self.made.len().checked_sub(self.most) {
            None => wanted,
            Some(index) => match self.made.get(index) {
                // A moment more: what is just as old as the window may still count.
                Some(made) => wanted.max(*made + WINDOW + Duration::from_secs(1)),
                None => wanted,
            },
        }
    }

    /// One is made now.
    pub fn make(&mut self, now: Instant) {
        self.made.push_back(now);
        while self.made.len() > self.most {
            self.made.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_ever_holds_more_than_the_budget() {
        let mut budget = ConnectBudget::new(3);
        let mut now = Instant::now();
        let mut made = Vec::new();
        for wish in [0, 0, 1, 0, 600, 0, 0, 2000, 1, 1, 1] {
            now = budget.free_at(now + Duration::from_secs(wish));
            budget.make(now);
            made.push(now);
        }
        for window in made.windows(4) {
            assert!(window[3].duration_since(window[0]) > WINDOW);
        }
    }

    #[test]
    fn within_the_budget_nothing_waits() {
        let mut budget = ConnectBudget::new(2);
        let now = Instant::now();
        assert_eq!(budget.free_at(now), now);
        budget.make(now);
        assert_eq!(budget.free_at(now), now);
        budget.make(now);
        assert!(budget.free_at(now) > now + WINDOW);
        assert_eq!(budget.free_at(now + WINDOW * 2), now + WINDOW * 2);
    }
}
