//! How long to wait before the next connection.
//!
//! The classes and figures are those of X's [Connecting to a streaming endpoint][connecting]:
//! a network error is tried again at once, then 250 ms later each time up to 16 s; an HTTP error
//! after 5 s, doubling up to 320 s; being told to slow down (420, 429) after 60 s, doubling.
//!
//! [connecting]: https://developer.x.com/en/docs/twitter-api/v1/tweets/filter-realtime/guides/connecting

use std::time::Duration;

/// Why a connection ended, or was not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The TCP or TLS connection failed, or the stream ended.
    Network,
    /// The server answered with an error.
    Http,
    /// The server asked this client to slow down.
    RateLimit,
}

impl Class {
    /// The word for it in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Http => "http",
            Self::RateLimit => "rate limit",
        }
    }

    /// The wait after so many failures in a row, of which there is at least one.
    #[must_use]
    pub const fn wait(self, failures: u32) -> Duration {
        // No class has more steps than 64, so the shift below is bounded too.
        let step = if failures > 65 { 64 } else { failures.saturating_sub(1) };
        match self {
            Self::Network => Duration::from_millis(250 * step as u64),
            Self::Http => Self::doubled(5, step, 320),
            // X names no ceiling. A quarter of an hour is the window of its rate limits.
            Self::RateLimit => Self::doubled(60, step, 900),
        }
    }

    const fn doubled(first_seconds: u64, step: u32, most_seconds: u64) -> Duration {
        let doubled = if step > 8 { most_seconds } else { first_seconds << step };
        Duration::from_secs(if doubled > most_seconds { most_seconds } else { doubled })
    }
}

/// Counts the failures in a row, each class for itself.
#[derive(Debug, Default)]
pub struct BackOff {
    network: u32,
    http: u32,
    rate_limit: u32,
}

impl BackOff {
    /// The wait after one more failure. A server that says how long it wants to be left alone is
    /// believed; when it refuses again, for no less than the class's own wait.
    #[must_use]
    pub fn after(&mut self, class: Class, reset: Option<Duration>) -> Duration {
        let failures = match class {
            Class::Network => &mut self.network,
            Class::Http => &mut self.http,
            Class::RateLimit => &mut self.rate_limit,
        };
        *failures = failures.saturating_add(1);
        let wait = class.wait(*failures);
        match reset {
            Some(reset) if *failures == 1 => reset,
            Some(reset) => reset.max(wait),
            // The documented waits are the shortest ones. What goes wrong for many at once must not
            // bring them all back at once.
            None if class != Class::Network => wait.mul_f64(1.0 + 0.25 * fastrand::f64()),
            None => wait,
        }
    }

    /// A connection has proven itself: the next failure is a first one.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits without what is random in them.
    fn seconds(class: Class, count: u32) -> Vec<f64> {
        (1..=count).map(|failures| class.wait(failures).as_secs_f64()).collect()
    }

    fn is_a_little_over(wait: Duration, seconds: u64) {
        let least = Duration::from_secs(seconds);
        assert!(wait >= least && wait <= least.mul_f64(1.25), "{wait:?} and not {least:?}");
    }

    #[test]
    fn each_class_grows_as_documented_and_stays_at_its_ceiling() {
        assert_eq!(seconds(Class::Network, 4), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(seconds(Class::Network, 200).last(), Some(&16.0));
        assert_eq!(seconds(Class::Http, 8), [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 320.0]);
        assert_eq!(seconds(Class::RateLimit, 6), [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]);
        assert_eq!(seconds(Class::Http, 100).last(), Some(&320.0));
    }

    #[test]
    fn only_a_success_begins_anew_and_no_class_is_forgotten_for_another() {
        let mut back_off = BackOff::default();
        let _ = (back_off.after(Class::Http, None), back_off.after(Class::Network, None));
        is_a_little_over(back_off.after(Class::RateLimit, None), 60);
        is_a_little_over(back_off.after(Class::Http, None), 10);
        assert_eq!(back_off.after(Class::Network, None), Duration::from_millis(250));
        back_off.reset();
        is_a_little_over(back_off.after(Class::Http, None), 5);
    }

    #[test]
    fn a_servers_word_is_taken_once_and_after_that_only_for_longer_waits() {
        let (mut back_off, second) = (BackOff::default(), Duration::from_secs(1));
        assert_eq!(back_off.after(Class::RateLimit, Some(second)), second);
        assert_eq!(back_off.after(Class::RateLimit, Some(second)), Duration::from_mins(2));
        let hour = Duration::from_hours(1);
        assert_eq!(back_off.after(Class::RateLimit, Some(hour)), hour);
    }
}
