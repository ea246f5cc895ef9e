//! Which posts the stream before has brought, while one takes over from another.

use std::collections::HashSet;

use tokio::time::{Duration, Instant};

/// How long after the last post of the old stream the new one may still repeat it.
const REMEMBERED: Duration = Duration::from_mins(1);

/// How many posts are remembered, at the most.
const MOST: usize = 65_536;

/// The ids of the posts that an old stream brought in its last moments.
#[derive(Default)]
pub struct Doubles {
    ids: HashSet<Box<str>>,
    last: Option<Instant>,
}

impl Doubles {
    /// Remembers a post; false where it was remembered already.
    pub fn remember(&mut self, id: &str, now: Instant) -> bool {
        self.last = Some(now);
        if self.ids.contains(id) {
            return false;
        }
        if self.ids.len() < MOST {
            self.ids.insert(id.into());
        }
        true
    }

    /// Whether the post is remembered.
    pub fn knows(&mut self, id: &str, now: Instant) -> bool {
        let Some(last) = self.last else { return false };
        if now.duration_since(last) > REMEMBERED {
            self.forget();
        }
        self.ids.contains(id)
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Nothing is remembered any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_remembered_for_a_minute_and_not_for_ever() {
        let mut doubles = Doubles::default();
        let now = Instant::now();
        assert!(!doubles.knows("1", now));
        assert!(doubles.remember("1", now));
        assert!(!doubles.remember("1", now));
        assert!(doubles.knows("1", now + REMEMBERED) && !doubles.knows("2", now));
        assert!(!doubles.knows("1", now + REMEMBERED * 2));
        assert_eq!(doubles.ids.capacity(), 0);
    }
}
