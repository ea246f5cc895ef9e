//! The log: what may be said in it, and how.
//!
//! One event a line. What a peer sent is never repeated as it came: [`peer_text`] bounds and
//! escapes it, and [`Generation::redact`](crate::credentials::Generation::redact) cuts the live
//! values out of it first.

use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// How much of a peer's text is repeated, in characters.
pub const PEER_TEXT: usize = 300;

/// A peer's text as it may stand in a log or an error: bounded to [`PEER_TEXT`] characters, with
/// every control character escaped, so that it can neither flood the log nor forge a line of it.
#[must_use]
pub fn peer_text(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == PEER_TEXT {
            shown.push('…');
            break;
        }
        // Line and paragraph separators end a line in some viewers without being controls; the
        // directional marks can turn a line's text around.
        let misleading = matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || misleading {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// So often is a line said that repeats at once.
const AT_ONCE: u32 = 10;

/// How long it takes until it may be said once more.
const ONE_MORE: Duration = Duration::from_mins(1);

/// Keeps a line that others can make repeat from flooding the log: it is said ten times at once, and then
/// once a minute.
#[derive(Debug)]
pub struct Seldom {
    left: u32,
    since: Instant,
    kept_back: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self { left: AT_ONCE, since: Instant::now(), kept_back: 0 }
    }
}

impl Seldom {
    /// Whether the line is to be said; and then how often it was not, since it was said last.
    pub fn due(&mut self) -> Option<u64> {
        while self.left < AT_ONCE && self.since.elapsed() >= ONE_MORE {
            self.left += 1;
            self.since += ONE_MORE;
        }
        if self.left == AT_ONCE {
            self.since = Instant::now();
        }
        if self.left == 0 {
            self.kept_back += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

/// An error with all its causes, on one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A subscriber that writes what the directives of `filter` let through.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::new(filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(false)
        // Where the log cannot be written, saying so on standard error may panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        ),
        LogFormat::Text => Box::new(builder.finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_that_repeats_is_said_ten_times_and_then_once_a_minute_with_what_was_kept_back()
    {
        let mut seldom = Seldom::default();
        let mut said = Vec::new();
        // One a second, for five minutes.
        for second in 0..300 {
            if let Some(kept_back) = seldom.due() {
                said.push((second, kept_back));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let at_once = (0..10).map(|second| (second, 0));
        let then = [(60, 50), (120, 59), (180, 59), (240, 59)];
        assert_eq!(said, at_once.chain(then).collect::<Vec<_>>());
        // After a rest it is as at first.
        tokio::time::advance(ONE_MORE * 20).await;
        let at_once: Vec<_> = (0..11).map(|_| seldom.due().is_some()).collect();
        assert_eq!(at_once.iter().filter(|said| **said).count(), 10);
    }

    #[test]
    fn a_peers_text_cannot_forge_a_line_or_flood_the_log() {
        let text = peer_text("one\ntwo\r\u{1b}[31m\u{202e}three\u{2028}四");
        assert_eq!(text, "one\\ntwo\\r\\u{1b}[31m\\u{202e}three\\u{2028}四");
        assert_eq!(peer_text(&"x".repeat(10_000)).chars().count(), PEER_TEXT + 1);
    }
}
