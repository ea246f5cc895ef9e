//! What the feed is doing, for whoever watches it.

use tokio::time::Instant;

/// What the feed is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no stream, and one is wanted.
    Connecting {
        /// Since when. A stream in between that was lost again at once does not count.
        since: Instant,
        /// The server has asked to be left alone for a while, or lets no more streams be opened yet.
        held_off: bool,
    },
    /// A stream is open.
    Delivering {
        /// Since when there is one, be it the first or one that took over from it.
        since: Instant,
    },
    /// `READ_BUDGET` is read, and no stream is wanted.
    Paused {
        /// When that is looked at again.
        until: Instant,
    },
}
