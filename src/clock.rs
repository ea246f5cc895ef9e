//! The wall clock, which comes in from outside: a test moves it as it likes. What only measures how
//! long something takes uses `tokio::time`.

use std::sync::Arc;
use std::time::SystemTime;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The system's.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the wall clock enters the program here")]
pub fn system() -> Clock {
    Arc::new(SystemTime::now)
}
