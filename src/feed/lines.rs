//! Framing: chunks in, records out.
//!
//! Records end in CRLF; a bare LF may stand inside one. An empty record is a keep-alive. A chunk
//! may end anywhere, also between CR and LF. A record over the bound is skipped to its end and
//! counted, and never held.

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
    /// A record over the bound has ended; it had this many bytes.
    Skipped(usize),
}

/// Cuts a stream of chunks into records.
#[derive(Debug)]
pub struct Lines {
    bound: usize,
    chunk: Bytes,
    /// The beginning of a record whose end is not there yet.
    partial: BytesMut,
    /// How much of an over-long record was thrown away; 0 while none is being skipped.
    skipped: usize,
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
        Self {
            bound,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            skipped: 0,
        }
    }

    /// Takes the next chunk. The one before must have been read to its end: [`Self::next`] gave
    /// `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(
            self.chunk.is_empty(),
            "the chunk before has been read to its end"
        );
        self.chunk = chunk;
    }

    /// The next record of what was pushed; `None` when more must be pushed first.
    #[expect(
        clippy::should_implement_trait,
        reason = "None is not the end: push, and go on"
    )]
    pub fn next(&mut self) -> Option<Line> {
        let mut from = 0;
        loop {
            let rest = self.chunk.get(from..)?;
            let Some(at) = memchr(b'\n', rest).map(|at| from + at) else {
                let rest = self.chunk.split_off(0);
                self.keep(&rest);
                return None;
            };
            let before = match at.checked_sub(1) {
                Some(index) => self.chunk.get(index),
                None => self.partial.last(),
            };
            if before == Some(&b'\r') {
                let head = self.chunk.split_to(at);
                self.chunk.advance(1);
                return Some(self.finish(head));
            }
            from = at + 1;
        }
    }

    fn keep(&mut self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        // One more than the bound, for the CR of the end.
        if self.skipped == 0 && self.partial.len() + part.len() <= self.bound + 1 {
            self.partial.extend_from_slice(part);
            return;
        }
        self.skipped += self.partial.len() + part.len();
        self.partial = BytesMut::new();
        // Only the last byte still matters: it may be the CR of the end.
        if part.last() == Some(&b'\r') {
            self.skipped -= 1;
            self.partial.extend_from_slice(b"\r");
        }
    }

    /// `head` is the rest of the record up to its LF; the CR is the last byte of it, or of what was
    /// kept where it is empty.
    fn finish(&mut self, head: Bytes) -> Line {
        let mut record = if self.partial.is_empty() && self.skipped == 0 {
            head
        } else {
            self.keep(&head);
            self.partial.split().freeze()
        };
        if self.skipped > 0 {
            return Line::Skipped(std::mem::take(&mut self.skipped));
        }
        record.truncate(record.len().saturating_sub(1));
        match record.len() {
            0 => Line::KeepAlive,
            length if length > self.bound => Line::Skipped(length),
            _ => Line::Record(record),
        }
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
    fn an_over_long_record_is_skipped_counted_and_never_held() {
        let long = "x".repeat(50);
        let stream = format!("{long}{long}\r\nnext\r\n");
        for size in [1, 2, 7, 51, 101, 200] {
            let lines = all(20, stream.as_bytes().chunks(size));
            let Some(Line::Skipped(bytes)) = lines.first() else {
                panic!("{lines:?}")
            };
            assert!((100..=101).contains(bytes), "{bytes}");
            assert_eq!(lines[1..], [record("next")]);
        }
        let mut lines = Lines::with_bound(20);
        for _ in 0..1000 {
            lines.push(Bytes::from(long.clone()));
            assert_eq!(lines.next(), None);
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
            let normal = |lines: Vec<Line>| lines.into_iter().map(|line| match line {
                Line::Skipped(_) => Line::Skipped(0),
                other => other,
            }).collect::<Vec<_>>();
            prop_assert_eq!(normal(all(bound, chunks)), normal(whole));
        }
    }
}
