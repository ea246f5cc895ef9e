//! The read path under posts of every spelling and under records that are no posts.
//!
//! A run of the suite takes seconds: 3,000 posts of every spelling, and about as many other records. With ten
//! million of the first kind:
//!
//!     FUZZ_POSTS=10000000 cargo test --release --features demo --test fuzz
//!
//! What fails is kept in `tests/proptest-regressions` and tried again by each run, as is `corpus`: hostile records
//! in directories named after what each of them is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod post;
mod spelling;

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use twitterstream::demo::feed_server::stream_of;
use twitterstream::feed::head::Head;
use twitterstream::feed::lines::{Line, Lines};
use twitterstream::feed::message::Message;
use twitterstream::filter::Filter;

/// How many posts are tried where `FUZZ_POSTS` does not say.
const POSTS: u32 = 3_000;

/// So many cases for each thousand posts.
fn config(per_thousand: u32) -> ProptestConfig {
    let asked = std::env::var("FUZZ_POSTS").ok().map(|posts| posts.parse().unwrap());
    let cases = (asked.unwrap_or(POSTS) / 1_000).max(1) * per_thousand;
    ProptestConfig { cases, ..ProptestConfig::default() }
}

/// What a record is counted as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    posts: u64,
    matching: u64,
    notices: u64,
    unknown: u64,
    malformed: u64,
}

impl Counts {
    /// By parsing.
    fn parsed(&mut self, record: &[u8], filter: &Filter) {
        match Message::parse(record) {
            Message::Post(post) => {
                self.posts += 1;
                self.matching += u64::from(filter.matches(&*post));
            }
            Message::Notice(_) => self.notices += 1,
            Message::Unknown => self.unknown += 1,
            Message::Malformed => self.malformed += 1,
        }
    }

    /// As the worker does.
    fn read(&mut self, record: &[u8], filter: &Filter) {
        if is_passed_over(record, filter) {
            self.posts += 1;
        } else {
            self.parsed(record, filter);
        }
    }
}

fn is_passed_over(record: &[u8], filter: &Filter) -> bool {
    Head::of(record)
        .is_some_and(|head| !head.searched.into_iter().any(|json| filter.may_match(json)))
}

fn records(stream: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let (mut lines, mut records, mut rest) = (Lines::default(), Vec::new(), stream);
    for cut in cuts.iter().cycle() {
        let (chunk, behind) = rest.split_at((*cut).min(rest.len()));
        rest = behind;
        lines.push(Bytes::copy_from_slice(chunk));
        while let Some(line) = lines.next() {
            if let Line::Record(record) = line {
                records.push(record);
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    records
}

/// Messages of the feed server.
static GENERATED: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let now = UNIX_EPOCH + Duration::from_secs(1_539_202_764);
    let generated = stream_of(20_000, 1, "Amazon", 0.3, now).unwrap();
    let messages = records(&generated.stream, &[usize::MAX]);
    let mut counts = Counts::default();
    let filter = Filter::parse("Amazon").unwrap();
    for message in &messages {
        counts.parsed(message, &filter);
    }
    assert_eq!((counts.posts, counts.matching), (generated.posts, generated.posts_matching));
    messages
});

#[test]
fn a_post_that_matches_is_never_passed_over() {
    let (tried, matching, plain) = (Cell::new(0_u64), Cell::new(0_u64), Cell::new(0_u64));
    let config = ProptestConfig { source_file: Some(file!()), ..config(1_000) };
    TestRunner::new(config)
        .run(&post::drafts(), |draft| {
            let (track, record) = (draft.track(), draft.json());
            let Ok(filter) = Filter::parse(&track) else { return Ok(()) };
            let Message::Post(post) = Message::parse(&record) else {
                panic!("no post: {}", String::from_utf8_lossy(&record));
            };
            let matches = filter.matches(&*post);
            let head = Head::of(&record);
            if matches {
                let shown = String::from_utf8_lossy(&record);
                prop_assert!(filter.may_match(&record), "{track:?} in {shown}");
                prop_assert!(
                    !is_passed_over(&record, &filter),
                    "{track:?} in the parts of {shown}"
                );
            }
            if let Some(head) = &head {
                prop_assert_eq!(head.id, &*post.id);
            }
            tried.set(tried.get() + 1);
            matching.set(matching.get() + u64::from(matches));
            plain.set(plain.get() + u64::from(head.is_some()));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    // Otherwise nothing was shown.
    assert!(matching.get() * 10 > tried.get(), "{} of {}", matching.get(), tried.get());
    assert!(plain.get() * 4 > tried.get(), "{} of {}", plain.get(), tried.get());
}

#[test]
fn each_record_of_the_corpus_is_what_its_directory_says() {
    let filters = ["Amazon,kindle", "twitter", "..."].map(|track| Filter::parse(track).unwrap());
    let mut tried = 0;
    for (directory, right) in [
        ("post", Counts { posts: 1, ..Counts::default() }),
        ("notice", Counts { notices: 1, ..Counts::default() }),
        ("unknown", Counts { unknown: 1, ..Counts::default() }),
        ("malformed", Counts { malformed: 1, ..Counts::default() }),
    ] {
        let path = format!("{}/tests/fuzz/corpus/{directory}", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let record = std::fs::read(&path).unwrap();
            for (index, filter) in filters.iter().enumerate() {
                let (mut parsed, mut read) = (Counts::default(), Counts::default());
                parsed.parsed(&record, filter);
                read.read(&record, filter);
                // The first filter wants every post of the corpus.
                let right =
                    Counts { matching: if index == 0 { right.posts } else { 0 }, ..right.clone() };
                assert_eq!(parsed, right, "{}", path.display());
                if is_passed_over(&record, filter) {
                    // What looks like a post and cannot match is not read to its end.
                    assert!(["post", "malformed"].contains(&directory), "{}", path.display());
                    assert_eq!(right.matching, 0, "{}", path.display());
                } else {
                    assert_eq!(read, right, "{}", path.display());
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 150);
}

proptest! {
    #![proptest_config(config(50))]

    /// Posts and notices of the feed server, and between them what is hostile.
    #[test]
    fn the_counts_are_those_of_parsing_every_record(
        generated in vec(any::<Index>(), 0..8),
        hostile in vec((any::<Index>(), post::hostile()), 0..6),
        cuts in vec(1_usize..9_000, 1..20),
    ) {
        let mut sent: Vec<Bytes> =
            generated.iter().map(|index| index.get(&GENERATED).clone()).collect();
        for (index, record) in hostile {
            sent.insert(index.index(sent.len() + 1), record.into());
        }
        let stream: Vec<u8> = sent.iter().flat_map(|record| [record, &b"\r\n"[..]].concat()).collect();
        let received = records(&stream, &cuts);
        prop_assert_eq!(&received, &sent);
        for track in ["amazon", "zebra,tracker", "2018", "買"] {
            let filter = Filter::parse(track).unwrap();
            let (mut parsed, mut read) = (Counts::default(), Counts::default());
            for record in &received {
                parsed.parsed(record, &filter);
                read.read(record, &filter);
            }
            prop_assert_eq!(&parsed, &read);
        }
    }

    /// A post with some bytes changed, cut out or doubled. Whatever comes of it, what matches is found.
    #[test]
    fn broken_posts_do_no_harm(
        generated in any::<Index>(),
        breaks in vec((any::<Index>(), any::<u8>(), 0_usize..4), 1..6),
        cuts in vec(1_usize..2_000, 1..20),
    ) {
        let mut stream = [generated.get(&GENERATED), &b"\r\n"[..]].concat();
        for (index, byte, kind) in breaks {
            let at = index.index(stream.len());
            match kind {
                0 => stream[at] = byte,
                1 => stream.insert(at, byte),
                2 => drop(stream.drain(at..stream.len().min(at + usize::from(byte)))),
                _ => stream.extend_from_within(at..),
            }
            if stream.is_empty() { break; }
        }
        for track in ["amazon", "買", "..."] {
            let filter = Filter::parse(track).unwrap();
            for record in records(&stream, &cuts) {
                let (mut parsed, mut read) = (Counts::default(), Counts::default());
                parsed.parsed(&record, &filter);
                read.read(&record, &filter);
                prop_assert_eq!(parsed.matching, read.matching);
                prop_assert!(parsed == read || Head::of(&record).is_some());
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(
        stream in vec(any::<u8>(), 0..300),
        cuts in vec(1_usize..40, 1..20),
    ) {
        // Most of them are such as mean something.
        const SPECIAL: &[u8] = b"\r\n\"\\u00{},az41";
        let stream: Vec<u8> = stream
            .into_iter()
            .map(|byte| SPECIAL.get(usize::from(byte % 20)).copied().unwrap_or(byte))
            .collect();
        let filters = ["az", "0a", "買a,é", "k"].map(|track| Filter::parse(track).unwrap());
        let mut records = records(&stream, &cuts);
        records.push(stream.into());
        for filter in &filters {
            for record in &records {
                let _ = Head::of(record);
                let (mut parsed, mut read) = (Counts::default(), Counts::default());
                parsed.parsed(record, filter);
                read.read(record, filter);
                prop_assert!(parsed.matching == 0 || filter.may_match(record));
                prop_assert_eq!(parsed, read);
            }
        }
    }
}
