//! With which keys a side reads its feed, and how long it did so with old ones.
//!
//! It is told by the feed, from outside: what a stream was opened with, whatever the worker says.

use tokio::time::{Duration, Instant};

use crate::demo::feed_server::FeedServer;

/// Keys are known by their number, from 1, and never shown.
pub(super) struct KeysInUse {
    sets: Vec<KeySet>,
    /// Of the stream that was opened last.
    in_use: Option<usize>,
    /// The newest set that the labels of all secrets describe.
    labelled: usize,
    /// Since when the stream is one of older keys than those.
    stale_since: Option<Instant>,
    intervals: Vec<(Instant, Instant)>,
}

struct KeySet {
    access_token: String,
    opened: u64,
}

impl KeysInUse {
    /// The keys in force at the start.
    pub(super) fn new(access_token: String) -> Self {
        let sets = vec![KeySet { access_token, opened: 0 }];
        Self { sets, in_use: None, labelled: 0, stale_since: None, intervals: Vec::new() }
    }

    /// There are new keys.
    pub(super) fn renewed(&mut self, access_token: String) {
        self.sets.push(KeySet { access_token, opened: 0 });
    }

    /// The labels of all secrets describe the newest keys, since this moment.
    pub(super) fn labels_moved(&mut self, at: Instant) {
        self.labelled = self.sets.len() - 1;
        self.stale_since.get_or_insert(at);
    }

    /// Looks which keys the newest stream was opened with.
    pub(super) fn look(&mut self, feed: &FeedServer, now: Instant) {
        self.seen(|access_token| feed.opened_with(access_token), now);
    }

    fn seen(&mut self, opened_with: impl Fn(&str) -> u64, now: Instant) {
        for (number, set) in self.sets.iter_mut().enumerate() {
            let opened = opened_with(&set.access_token);
            if opened > set.opened {
                set.opened = opened;
                self.in_use = Some(number);
            }
        }
        if let Some(since) = self.stale_since
            && self.in_use >= Some(self.labelled)
        {
            self.stale_since = None;
            self.intervals.push((since, now));
        }
    }

    /// The number of the keys of the newest stream.
    pub(super) fn in_use(&self) -> Option<usize> {
        self.in_use.map(|number| number + 1)
    }

    /// The number of the keys that the labels describe.
    pub(super) fn labelled(&self) -> usize {
        self.labelled + 1
    }

    /// The number of the newest keys, which all secrets may not hold yet.
    pub(super) fn newest(&self) -> usize {
        self.sets.len()
    }

    /// The access token that the side is expected to open a stream with, while it has not.
    pub(super) fn awaited(&self) -> Option<&str> {
        self.stale_since?;
        self.sets.get(self.labelled).map(|set| &*set.access_token)
    }

    /// Since when the keys in use are old ones; none where they are not.
    pub(super) const fn stale_since(&self) -> Option<Instant> {
        self.stale_since
    }

    /// From when until when they were, each time that is over.
    pub(super) fn intervals(&self) -> &[(Instant, Instant)] {
        &self.intervals
    }

    /// How long they were, in all.
    pub(super) fn stale(&self, now: Instant) -> Duration {
        let over: Duration = self.intervals.iter().map(|(from, to)| *to - *from).sum();
        over + self.stale_since.map_or(Duration::ZERO, |since| now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn keys_are_old_from_the_last_label_to_the_first_stream_with_the_new_ones() {
        let now = Instant::now();
        let mut keys = KeysInUse::new("a".to_owned());
        keys.seen(|_| 0, now);
        assert_eq!(keys.in_use(), None);
        let opened = |a, b| move |token: &str| if token == "a" { a } else { b };
        keys.seen(opened(1, 0), now);
        assert_eq!((keys.in_use(), keys.awaited()), (Some(1), None));

        // One label of four has moved: nothing is old yet.
        keys.renewed("b".to_owned());
        keys.seen(opened(1, 0), now + seconds(1));
        assert_eq!(
            (keys.newest(), keys.labelled(), keys.stale(now + seconds(1))),
            (2, 1, seconds(0))
        );

        keys.labels_moved(now + seconds(2));
        assert_eq!(keys.awaited(), Some("b"));
        // The old ones once more: a reconnect.
        keys.seen(opened(2, 0), now + seconds(3));
        assert_eq!((keys.in_use(), keys.stale(now + seconds(5))), (Some(1), seconds(3)));
        keys.seen(opened(2, 1), now + seconds(6));
        assert_eq!((keys.in_use(), keys.awaited()), (Some(2), None));
        assert_eq!(keys.stale(now + seconds(9)), seconds(4));
        assert_eq!(keys.intervals().len(), 1);
    }

    #[test]
    fn rotations_that_follow_each_other_are_one_time_with_old_keys() {
        let now = Instant::now();
        let mut keys = KeysInUse::new("a".to_owned());
        keys.seen(|token| u64::from(token == "a"), now);
        for token in ["b", "c"] {
            keys.renewed(token.to_owned());
            keys.labels_moved(now + seconds(1));
        }
        // No longer the newest.
        keys.seen(|token| u64::from(token != "c"), now + seconds(2));
        assert!(keys.stale_since().is_some());
        keys.seen(|_| 1, now + seconds(3));
        assert_eq!(keys.stale(now + seconds(9)), seconds(2));
    }
}
