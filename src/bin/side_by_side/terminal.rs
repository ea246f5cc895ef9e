//! What is said on standard output.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// Standard output may be closed early, as by `head`; that is no reason to fail.
pub fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The progress line: rewritten in place at a terminal, else a line every five seconds.
pub struct Line {
    terminal: bool,
    shown: Option<Instant>,
}

impl Default for Line {
    fn default() -> Self {
        Self { terminal: io::stdout().is_terminal(), shown: None }
    }
}

impl Line {
    /// Shows a line, if one is due.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        let period =
            if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        if self.shown.is_some_and(|shown| shown.elapsed() < period) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line();
        let _ = if self.terminal {
            write!(io::stdout(), "\r\u{1b}[K{line}").and_then(|()| io::stdout().flush())
        } else {
            writeln!(io::stdout(), "{line}")
        };
    }

    /// Ends the line.
    pub fn end(&self) {
        say(if self.terminal { "\n" } else { "" });
    }
}
