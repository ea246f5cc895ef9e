//! Waiting before the next try: exponential, with full jitter.
//!
//! A wait is drawn evenly between nothing and a ceiling that doubles, which spreads the tries of
//! many clients best ([AWS Architecture Blog, "Exponential Backoff And Jitter"][blog]).
//!
//! [blog]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

use std::time::Duration;

/// A row of waits.
#[derive(Clone, Copy, Debug)]
pub struct Jitter {
    ceiling: Duration,
    most: Duration,
}

impl Jitter {
    /// Waits of at most `first`, then twice that, and so on up to `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { ceiling: first, most }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_over_its_ceiling_and_they_differ() {
        let most = Duration::from_secs(4);
        let mut jitter = Jitter::new(Duration::from_secs(1), most);
        let waits: Vec<_> = (0..50).map(|_| jitter.next_wait()).collect();
        assert!(waits[0] <= Duration::from_secs(1) && waits[1] <= Duration::from_secs(2));
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
