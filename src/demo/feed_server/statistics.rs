//! What the server counted.

use std::collections::BTreeMap;

use super::cursor::Kind;
use super::posts::ExpectedRow;
use super::refusal::Refusal;

/// A snapshot. A post counts when it has been handed in full to HTTP; what a server hands over reaches a reader
/// that reads on to the end, or to the error, of its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests that became streams.
    pub connects: u64,
    /// Streams open now, without those told to end.
    pub open: usize,
    /// Posts, over all streams.
    pub posts_sent: u64,
    /// Posts that matched no rule of the reader of v2 for whom they were taken, and so were not sent.
    pub posts_passed_over: u64,
    /// Those sent that contain the track. None for a replay, of which nobody knows.
    pub posts_sent_matching: Option<u64>,
    /// Posts of a live feed that fell due while nobody had a stream.
    pub posts_missed: u64,
    /// Those of them that contain the track. None for a replay, of which nobody knows.
    pub posts_missed_matching: Option<u64>,
    /// Messages that are no posts; disconnect messages among them.
    pub notices_sent: u64,
    /// Blank lines.
    pub keep_alives_sent: u64,
    /// Streams of v1.1 ended because another was opened with the same access token.
    pub cut_oldest: u64,
    /// Requests refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// The User-Agent of the latest request.
    pub last_user_agent: Option<String>,
    /// The `track` of the latest request that became a stream of v1.1.
    pub last_track: Option<String>,
    /// The query of the latest request that became a stream of v2, as it was sent.
    pub last_query: Option<String>,
    /// How often v2 gave a bearer, a new one or the same again.
    pub tokens_given: u64,
}

/// The statistics as they grow, with the rows that the posts must become.
pub(super) struct Tally {
    pub(super) statistics: Statistics,
    pub(super) rows: Option<Vec<ExpectedRow>>,
}

impl Tally {
    pub(super) fn new(oracle: bool, keep_rows: bool) -> Self {
        let none = oracle.then_some(0);
        let statistics = Statistics {
            posts_sent_matching: none,
            posts_missed_matching: none,
            ..Statistics::default()
        };
        Self { statistics, rows: keep_rows.then(Vec::new) }
    }

    /// Counts a message that was handed over in full; returns how many posts that is.
    pub(super) fn delivered(&mut self, kind: Kind) -> u64 {
        let statistics = &mut self.statistics;
        match kind {
            Kind::Notice => statistics.notices_sent += 1,
            Kind::KeepAlive => statistics.keep_alives_sent += 1,
            Kind::Post(row) => {
                statistics.posts_sent += 1;
                if let (Some(matching), Some(row)) = (&mut statistics.posts_sent_matching, row) {
                    *matching += 1;
                    if let Some(rows) = &mut self.rows {
                        rows.push(*row);
                    }
                }
                return 1;
            }
        }
        0
    }

    /// Counts a post that nobody was there to be sent, and whether it contains the track.
    pub(super) fn missed(&mut self, matching: bool) {
        self.statistics.posts_missed += 1;
        if let Some(missed) = &mut self.statistics.posts_missed_matching {
            *missed += u64::from(matching);
        }
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        *self.statistics.refused.entry(refusal).or_default() += 1;
    }
}
