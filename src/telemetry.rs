//! The log: what may be said in it, and how.
//!
//! One event a line. What a peer sent is never repeated as it came: [`peer_text`] bounds and
//! escapes it, and [`Generation::redact`](crate::credentials::Generation::redact) cuts the live
//! values out of it first.

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

    #[test]
    fn a_peers_text_cannot_forge_a_line_or_flood_the_log() {
        let text = peer_text("one\ntwo\r\u{1b}[31m\u{202e}three\u{2028}四");
        assert_eq!(text, "one\\ntwo\\r\\u{1b}[31m\\u{202e}three\\u{2028}四");
        assert_eq!(peer_text(&"x".repeat(10_000)).chars().count(), PEER_TEXT + 1);
    }
}
