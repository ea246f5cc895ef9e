//! One stream that is open: its body in records, and what is known of its end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use reqwest::Response;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

use super::back_off::Class;
use super::body::Body;
use super::lines::{LONGEST_RECORD, Line, Lines};
use crate::counts::Counts;
use crate::telemetry::Seldom;

const OVER: &str = "it had not ended long after another took over";

/// A stream.
pub struct Stream {
    body: Body,
    lines: Lines,
    /// When it was opened.
    pub opened_at: Instant,
    /// Another stream has taken over, and this one ends; at the latest at this moment.
    pub until: Option<Instant>,
    /// The server has said why it ends the stream.
    pub farewell: Option<Farewell>,
    /// It has ended because nothing came any more.
    pub stalled: bool,
    /// When it counts as stalled. It is waited for from the first time that more is wanted.
    stalls_at: Option<Instant>,
    over_long_said: Seldom,
}

/// What the end of a stream will mean, because the server has said so before.
pub struct Farewell {
    /// How long to wait after it.
    pub class: Class,
    /// It is over now, whether the server closes it or not.
    pub over: bool,
    /// What the operator reads.
    pub reason: String,
}

impl Stream {
    /// The stream that was answered with.
    pub fn new(response: Response) -> Self {
        Self {
            body: Body::new(response),
            lines: Lines::default(),
            opened_at: Instant::now(),
            until: None,
            farewell: None,
            stalled: false,
            stalls_at: None,
            over_long_said: Seldom::default(),
        }
    }

    /// The next record that is not empty, of what the framing has been given.
    pub fn record(&mut self, counts: &Counts) -> Option<Bytes> {
        loop {
            match self.lines.next()? {
                Line::Record(record) => return Some(record),
                Line::KeepAlive => counts.keep_alives.increment(),
                Line::OverLong => {
                    counts.over_long.increment();
                    if let Some(kept_back) = self.over_long_said.due() {
                        tracing::warn!(
                            bound = LONGEST_RECORD,
                            kept_back,
                            "a record is longer than any post and is skipped; do its records end in CRLF?",
                        );
                    }
                }
            }
        }
    }

    /// Reads the next part of the body; the framing has used up the ones before. Why the stream has
    /// ended, if it has: silence for as long as `stall` is an end, too.
    pub async fn fill(&mut self, stall: Duration) -> Result<(), String> {
        let now = Instant::now();
        if self.until.is_some_and(|until| until <= now) {
            return Err(OVER.to_owned());
        }
        // Kept: whoever waits may be called away, again and again, and come back.
        let stalled = *self.stalls_at.get_or_insert(now + stall);
        let limit = self.until.map_or(stalled, |until| until.min(stalled));
        match timeout_at(limit, self.body.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.received(chunk);
                Ok(())
            }
            Ok(Ok(None)) => Err("the feed ended the stream".to_owned()),
            Ok(Err(reason)) => Err(reason),
            // What has arrived by now is still read. The timeout alone would not tell: it may strike
            // because this task has had its share of the processor.
            Err(_) => match unconstrained(self.body.chunk()).now_or_never() {
                Some(Ok(Some(chunk))) => {
                    self.received(chunk);
                    Ok(())
                }
                _ if limit == stalled => {
                    self.stalled = true;
                    Err(format!("the stream stalled: nothing for {stall:?}"))
                }
                _ => Err(OVER.to_owned()),
            },
        }
    }

    fn received(&mut self, chunk: Bytes) {
        self.stalls_at = None;
        self.lines.push(chunk);
    }
}
