//! Framing and filter, on a stream of the feed server's posts of which 1 % match.
//!
//! The stream is longer than the processor's caches, as a firehose is: nothing of it has been seen
//! before. It comes in chunks of 64 KiB, some 27 posts each.

use std::error::Error;
use std::hint::black_box;

use bytes::Bytes;
use memchr::memchr_iter;
use twitterstream::clock;
use twitterstream::demo::feed_server::{Generated, stream_of};
use twitterstream::feed::head::Head;
use twitterstream::feed::lines::{Line, Lines};
use twitterstream::feed::message::Message;
use twitterstream::filter::Filter;

use crate::figure::{Figure, Goal, cpu_seconds, progress};

const MESSAGES: usize = 50_000;
const CHUNK: usize = 64 * 1024;
const ROUNDS: usize = 15;

struct Sample {
    chunks: Vec<Bytes>,
    bytes: f64,
    posts: f64,
    filter: Filter,
    /// Posts, and those that match.
    right: (u64, u64),
}

impl Sample {
    fn new() -> Result<Self, Box<dyn Error>> {
        let generated = stream_of(MESSAGES, 1, "Amazon", 0.01, clock::system()())?;
        let Generated { stream, posts, posts_matching } = generated;
        let stream = Bytes::from(stream);
        Ok(Self {
            chunks: (0..stream.len())
                .step_by(CHUNK)
                .map(|at| stream.slice(at..stream.len().min(at + CHUNK)))
                .collect(),
            bytes: f64::from(u32::try_from(stream.len())?),
            posts: f64::from(u32::try_from(posts)?),
            filter: Filter::parse("Amazon")?,
            right: (posts, posts_matching),
        })
    }

    fn bare_split(&self) {
        for chunk in &self.chunks {
            memchr_iter(b'\n', chunk).for_each(|at| _ = black_box(at));
        }
    }

    /// What every record passes through. What may match would go on from here.
    fn framing_and_prefilter(&self) {
        let mut passed_over = 0;
        self.frame(|record| passed_over += u64::from(self.is_passed_over(record)));
        let (posts, matching) = self.right;
        assert!((posts / 2..=posts - matching).contains(&passed_over));
    }

    /// What the worker does with a record, up to the row.
    fn framing_and_filter(&self) {
        self.read(|record| self.is_passed_over(record));
    }

    fn parsing_all(&self) {
        self.read(|_| false);
    }

    fn is_passed_over(&self, record: &[u8]) -> bool {
        Head::of(record)
            .is_some_and(|head| !head.searched.into_iter().any(|json| self.filter.may_match(json)))
    }

    fn read(&self, is_passed_over: impl Fn(&[u8]) -> bool) {
        let (mut posts, mut matching) = (0, 0);
        self.frame(|record| {
            if is_passed_over(record) {
                posts += 1;
            } else if let Message::Post(post) = Message::parse(record) {
                posts += 1;
                matching += u64::from(self.filter.matches(&*post));
            }
        });
        assert_eq!((posts, matching), self.right);
    }

    fn frame(&self, mut each: impl FnMut(&[u8])) {
        let mut lines = Lines::default();
        for chunk in &self.chunks {
            lines.push(chunk.clone());
            while let Some(line) = lines.next() {
                if let Line::Record(record) = line {
                    each(&record);
                }
            }
        }
    }
}

/// The rate beside that of looking for line ends alone; and the processor's time for a post, with the
/// parsing of what may match, beside that of parsing every record.
pub fn framing_and_filter() -> Result<[Figure; 2], Box<dyn Error>> {
    progress("read-path");
    let sample = Sample::new()?;
    let [bare, alone, whole, parsing] = cpu_seconds(
        ROUNDS,
        [
            &mut || sample.bare_split(),
            &mut || sample.framing_and_prefilter(),
            &mut || sample.framing_and_filter(),
            &mut || sample.parsing_all(),
        ],
    );
    let rate = |seconds: f64| sample.bytes / seconds / 1e6;
    let a_post = |seconds: f64| seconds * 1e6 / sample.posts;
    Ok([
        Figure::new(
            ("framing and prefilter alone", "MB/s"),
            rate(alone),
            ("looking for \\n alone", rate(bare)),
            Some(Goal::RatioFrom(0.40)),
        )
        .ratio_as("filter_rate_vs_line_split"),
        Figure::new(
            ("framing and filter, 1 % matching", "µs a post"),
            a_post(whole),
            ("parsing every record", a_post(parsing)),
            Some(Goal::UpTo(2.0)),
        ),
    ])
}

/// The seconds of processor for a post, once.
pub fn once() -> Result<f64, Box<dyn Error>> {
    let sample = Sample::new()?;
    let [seconds] = cpu_seconds(1, [&mut || sample.framing_and_filter()]);
    Ok(seconds / sample.posts)
}
