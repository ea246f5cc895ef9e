//! Framing: chunks in, records out.
//!
//! Records end in CRLF; a bare LF may stand inside one. An empty record is a keep-alive. A chunk
//! may end anywhere, also between CR and LF. A record over the bound is skipped to its end and
//! counted, and never held.

pub mod head;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// The longest record that is taken, in bytes. A v1.1 post has 2 to 5 KB, one with a quoted post
/// inside a retweet some 20 KB.
pub const LONGEST_RECORD: usize = 1 << 20;

/// What the framing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A record, without its CRLF.
    Record(Bytes),
    /// An empty record.
    KeepAlive,
    /// A record has passed the bound. The rest of it is skipped.
    OverLong,
}

/// Cuts a stream of chunks into records.
#[derive(Debug)]
pub struct Lines {
    bound: usize,
    chunk: Bytes,
    /// The beginning of a record whose end is not there yet.
    partial: BytesMut,
    /// Whether an over-long record is being skipped. Then `partial` holds no more than a CR that may
    /// be the one of its end.
    skipping: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self::with_bound(LONGEST_RECORD)
    }
}

impl Lines {
    /// Framing with another bound than [`LONGEST_RECORD`].
    #[must_use]
    pub fn with_bound(bound: usize) -> Self {
        Self { bound, chunk: Bytes::new(), partial: BytesMut::new(), skipping: false }
    }

    /// Takes the next chunk. The one before must have been read to its end: [`Self::next`] gave
    /// `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the chunk before has been read to its end");
        self.chunk = chunk;
    }

    /// The next record of what was pushed; `None` when more must be pushed first.
    #[expect(clippy::should_implement_trait, reason = "None is not the end: push, and go on")]
    pub fn next(&mut self) -> Option<Line> {
        let mut from = 0;
        loop {
            let rest = self.chunk.get(from..)?;
            let Some(at) = memchr(b'\n', rest).map(|at| from + at) else {
                let rest = std::mem::take(&mut self.chunk);
                return self.keep(&rest);
            };
            let before = match at.checked_sub(1) {
                Some(index) => self.chunk.get(index),
                None => self.partial.last(),
            };
            if before == Some(&b'\r') {
                let head = self.chunk.split_to(at);
                self.chunk.advance(1);
                if let Some(line) = self.finish(head) {
                    return Some(line);
                }
                from = 0;
            } else {
                from = at + 1;
            }
        }
    }

    /// Keeps the beginning of a record, if it is not too long already.
    fn keep(&mut self, part: &[u8]) -> Option<Line> {
        let last = part.last()?;
        // One more than the bound, for the CR of the end.
        if !self.skipping && self.partial.len() + part.len() <= self.bound + 1 {
            self.partial.extend_from_slice(part);
            return None;
        }
        self.partial = BytesMut::new();
        if *last == b'\r' {
            self.partial.extend_from_slice(b"\r");
        }
        (!std::mem::replace(&mut self.skipping, true)).then_some(Line::OverLong)
    }

    /// `head` is the rest of the record up to its LF; the CR is the last byte of it, or of what was
    /// kept where it is empty. `None` where the record's length was reported before.
    fn finish(&mut self, head: Bytes) -> Option<Line> {
        if self.skipping {
            self.skipping = false;
            self.partial.clear();
            return None;
        }
        let mut record = if self.partial.is_empty() {
            head
        } else {
            self.partial.extend_from_slice(&head);
            self.partial.split().freeze()
        };
        record.truncate(record.len().saturating_sub(1));
        Some(match record.len() {
            0 => Line::KeepAlive,
            length if length > self.bound => Line::OverLong,
            _ => Line::Record(record),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bound: usize, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Line> {
        let mut lines = Lines::with_bound(bound);
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(Bytes::copy_from_slice(chunk.as_ref()));
            while let Some(line) = lines.next() {
                found.push(line);
            }
        }
        found
    }

    fn record(text: &str) -> Line {
        Line::Record(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_record_ends_at_crlf_and_not_at_a_bare_lf_or_cr() {
        let lines = all(100, ["a\nb\r\n\r\nc\rd\r\nrest"]);
        assert_eq!(lines, [record("a\nb"), Line::KeepAlive, record("c\rd")]);
    }

    #[test]
    fn a_chunk_may_end_between_cr_and_lf() {
        assert_eq!(
            all(100, ["one\r", "\n", "\r", "\ntwo", "\r\n"]),
            [record("one"), Line::KeepAlive, record("two"),]
        );
    }

    #[test]
    fn an_over_long_record_is_reported_at_once_skipped_and_never_held() {
        let long = "x".repeat(50);
        let stream = format!("{long}{long}\r\nnext\r\n");
        for size in [1, 2, 7, 51, 101, 200] {
            let lines = all(20, stream.as_bytes().chunks(size));
            assert_eq!(lines, [Line::OverLong, record("next")], "{size}");
        }
        let mut lines = Lines::with_bound(20);
        for _ in 0..1000 {
            lines.push(Bytes::from(long.clone()));
            while lines.next().is_some() {}
            assert!(lines.partial.capacity() <= 64);
        }
    }

    proptest! {
        #[test]
        fn the_records_do_not_depend_on_where_the_chunks_end(
            stream in prop::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'a'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(1_usize..9, 1..50),
            bound in 1_usize..30,
        ) {
            let whole = all(bound, [&stream]);
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(all(bound, chunks), whole);
        }
    }
}
