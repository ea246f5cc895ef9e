//! What a run of the main job came to: for a program as JSON, for people as text.

use std::fmt::{self, Write as _};

use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::to_f64;
use crate::table::Row;
use crate::telemetry::peer_text;

/// How many rows a report shows.
pub const LAST_ROWS: usize = 10;

/// The figures of one run. All were measured in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What the worker and the feed spoke.
    pub dialect: &'static str,
    /// Posts that the feed handed over.
    pub posts_sent: u64,
    /// Those that must match; `None` for a recording, of which nobody knows.
    pub posts_sent_matching: Option<u64>,
    /// Posts that the worker has read.
    pub posts_read: u64,
    /// Those that it accepted.
    pub posts_matched: u64,
    /// Rows that DynamoDB acknowledged to it.
    pub rows_written: u64,
    /// Those that shared user and second with another post.
    pub rows_collided: u64,
    /// Rows read back from the table.
    pub rows_in_table: u64,
    /// Accepted posts that the table does not hold.
    pub rows_lost: u64,
    /// Rows whose user, date or text is not what the feed sent.
    pub rows_differing: u64,
    /// Ids that the table holds twice.
    pub duplicate_ids: u64,
    /// Streams that the worker opened.
    pub connects: u64,
    /// From the opening of the stream to the last row.
    pub seconds: f64,
    /// Posts read in a second of that time.
    pub posts_per_second: f64,
    /// Rows written in a second of that time.
    pub rows_per_second: f64,
    /// The worker's own processor time, user and system, its start included.
    pub cpu_seconds: f64,
    /// The same for one written row, in microseconds.
    pub cpu_microseconds_per_row: f64,
    /// From the start of the worker's process to the first row in the table.
    pub first_row_seconds: Option<f64>,
    /// The most resident memory that the worker had.
    pub peak_rss_bytes: u64,
    /// Rotations of all four secrets that the worker has lived through.
    pub rotations: u64,
    /// What the time of a rotation is measured to, from its last step.
    pub rotation_measured_to: &'static str,
    /// That time.
    pub rotation_seconds_median: Option<f64>,
    /// The longest of them.
    pub rotation_seconds_max: Option<f64>,
    /// The worker's resident memory after a hundred rotations.
    pub rss_bytes_at_100_rotations: Option<u64>,
    /// The same at the end.
    pub rss_bytes: u64,
    /// `GetSecretValue` calls in the audit trail.
    pub get_secret_value_calls: u64,
    /// How the worker's process ended.
    pub worker_exit: String,
    /// The latest rows, as read back.
    pub last_rows: Vec<Row>,
}

impl Report {
    /// Whether every accepted post is in the table, once and to the letter, and, where the feed
    /// knows which posts match, whether just those were accepted. Of a run that was stopped while
    /// the feed was sending, the last is not asked: `complete` is false. The worker has ended well, too.
    #[must_use]
    pub fn is_right(&self, complete: bool) -> bool {
        let same = |matching| !complete || matching == self.posts_matched;
        self.rows_lost == 0
            && self.rows_differing == 0
            && self.duplicate_ids == 0
            && self.worker_exit == "exit status: 0"
            && self.rows_in_table == self.rows_written
            && self.rows_written == self.posts_matched
            && self.posts_sent_matching.is_none_or(same)
            && (!complete || self.posts_read == self.posts_sent)
    }
}

/// Columns of the table of rows, in terminal cells.
const COLUMNS: [usize; 3] = [18, 32, 70];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [user, date, text] = COLUMNS;
        writeln!(f, "The last rows, read back from the table:\n")?;
        writeln!(f, "  {:user$}  {:date$}  text", "user", "date")?;
        writeln!(f, "  {}  {}  {}", "─".repeat(user), "─".repeat(date), "─".repeat(text))?;
        for row in &self.last_rows {
            let cells = [cell(&row.user, user), cell(&row.date, date), cell(&row.text, text)];
            writeln!(f, "  {}", cells.join("  ").trim_end())?;
        }
        writeln!(f)?;
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<28}{value}");
        line("posts read", format!("{} of {} sent", self.posts_read, self.posts_sent))?;
        line("posts matched", self.posts_matched.to_string())?;
        line("rows written", self.rows_written.to_string())?;
        line("rows in the table", self.rows_in_table.to_string())?;
        line("same user, same second", self.rows_collided.to_string())?;
        line("rows lost", self.rows_lost.to_string())?;
        line("rows not as sent", self.rows_differing.to_string())?;
        line("duplicate ids", self.duplicate_ids.to_string())?;
        line("posts a second", format!("{:.0}", self.posts_per_second))?;
        line("rows a second", format!("{:.0}", self.rows_per_second))?;
        line("worker's CPU", format!("{:.2} s", self.cpu_seconds))?;
        line("worker's CPU a row", format!("{:.0} µs", self.cpu_microseconds_per_row))?;
        let first = self.first_row_seconds.map(|seconds| format!("after {:.0} ms", seconds * 1e3));
        line("first row", first.unwrap_or_else(|| "none".to_owned()))?;
        line("worker's peak memory", format!("{:.1} MB", mega(self.peak_rss_bytes)))?;
        if let (Some(median), Some(most)) =
            (self.rotation_seconds_median, self.rotation_seconds_max)
        {
            line("rotations", self.rotations.to_string())?;
            let times = format!("median {:.0} ms, longest {:.0} ms", median * 1e3, most * 1e3);
            line("to new keys in use (local)", times)?;
            line("  measured to", self.rotation_measured_to.to_owned())?;
        }
        if let Some(early) = self.rss_bytes_at_100_rotations {
            let now = mega(self.rss_bytes);
            line("memory at 100 and at last", format!("{:.1} MB and {now:.1} MB", mega(early)))?;
        }
        line("GetSecretValue calls", self.get_secret_value_calls.to_string())?;
        line("worker ended with", self.worker_exit.clone())
    }
}

fn mega(bytes: u64) -> f64 {
    to_f64(bytes) / 1e6
}

/// A text in so many cells of a terminal, cut or filled up. What the text contains cannot move the
/// cursor.
fn cell(text: &str, cells: usize) -> String {
    let text = peer_text(text);
    if text.width() <= cells {
        let fill = " ".repeat(cells - text.width());
        return text + &fill;
    }
    let mut shown = String::new();
    let mut width = 0;
    for character in text.chars() {
        width += character.width().unwrap_or(0);
        if width >= cells {
            break;
        }
        shown.push(character);
    }
    let _ = write!(shown, "…");
    let fill = " ".repeat(cells.saturating_sub(shown.width()));
    shown + &fill
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_its_width_in_any_script() {
        for text in
            ["", "short", "日本語のテキストがここに入ります", "e\u{301}e\u{301}", "\u{1b}[2J\n"]
        {
            assert_eq!(cell(text, 12).width(), 12, "{text:?}");
            assert!(!cell(text, 12).contains(char::is_control));
        }
    }
}
