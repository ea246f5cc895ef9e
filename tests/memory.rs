//! What is left of a credential in the memory of the real worker: scanned from outside, at every
//! moment of its life, with controls that show that the scan finds what is there.
//!
//! It takes root or `CAP_SYS_PTRACE`, because the worker lets nobody else read its memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that meets the unexpected has failed"
)]

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use twitterstream::clock;
use twitterstream::demo::copies::{self, Report, Transport};
use twitterstream::demo::memory_scan::{Encoding, Error, Finding, Scan};
use twitterstream::feed::Dialect;
use twitterstream::telemetry::chain;

const WORKER: &str = env!("CARGO_BIN_EXE_twitterstream");
const UNWIPED: &str = env!("CARGO_BIN_EXE_unwiped");

/// `None` where this process may not read the worker's memory.
async fn scanned(program: &str, dialect: Dialect, transport: Transport) -> Option<Report> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seed = fastrand::u64(..);
    match copies::run(root, Path::new(program), clock::system(), seed, dialect, transport).await {
        Ok(report) => Some(report),
        Err(copies::Error::Scan(refused @ Error::Refused { .. })) => {
            println!("skipped: {}", chain(&refused));
            None
        }
        Err(error) => panic!("{}", chain(&error)),
    }
}

fn said(report: &Report) -> String {
    let moments = report.moments.iter();
    let places = moments.map(|moment| format!("{}: {:#?}", moment.name, moment.places));
    format!("{report}\n{}", places.collect::<Vec<_>>().join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_of_each_credential_in_use_and_none_of_an_old_one() {
    for dialect in Dialect::ALL {
        for transport in [Transport::Plain, Transport::Tls] {
            let Some(report) = scanned(WORKER, dialect, transport).await else { return };
            println!("{dialect:?}, {transport}\n{report}");
            assert!(report.holds(), "{}", said(&report));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_wiping_allocator_old_copies_stay() {
    let Some(report) = scanned(UNWIPED, Dialect::XV2, Transport::Plain).await else { return };
    println!("{report}");
    assert!(!report.holds(), "{}", said(&report));
    // How much stays behind is chance. During a fetch there is always some: the values in use are
    // those that the label has just left.
    let old = |moment: &copies::Moment| moment.rotated_out != copies::Copies::default();
    assert!(report.moments.iter().any(old), "{}", said(&report));
}

/// What the control plants, and how the scan must find it.
const PLANTED: [(&str, Encoding, bool); 9] = [
    ("heap", Encoding::Plain, true),
    ("freed", Encoding::Plain, false),
    ("live stack", Encoding::Plain, true),
    ("dead stack", Encoding::Plain, true),
    ("percent", Encoding::Percent, true),
    ("base64", Encoding::Base64, true),
    ("base64 of key:secret", Encoding::Base64, true),
    ("truncated at its beginning", Encoding::Plain, false),
    ("truncated at its end", Encoding::Plain, false),
];

/// The values to plant, which only the seed tells: no argument and no variable holds one.
fn markers(seed: u64, count: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let marker = |_| {
        let letters = (0..48).map(|index| if index % 12 == 5 { '/' } else { rng.alphanumeric() });
        letters.collect()
    };
    (0..count).map(marker).collect()
}

#[test]
fn the_scan_finds_every_copy_that_is_planted() {
    let seed = fastrand::u64(..);
    let mut planter = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "plants_copies", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = planter.stdin.take().unwrap();
    writeln!(input, "{seed}").unwrap();
    let mut lines = BufReader::new(planter.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("planted")), "nothing was planted");

    // One more than was planted.
    let markers = markers(seed, PLANTED.len() + 1);
    let scanned = Scan::new(markers.iter().map(String::as_str)).unwrap().process(planter.id());
    drop(input);
    assert!(planter.wait().unwrap().success());
    let findings = match scanned {
        Ok(findings) => findings,
        Err(refused @ Error::Refused { .. }) => return println!("skipped: {}", chain(&refused)),
        Err(error) => panic!("{}", chain(&error)),
    };
    for (value, (place, encoding, whole)) in PLANTED.into_iter().enumerate() {
        let found = |finding: &Finding| {
            finding.value == value && finding.encoding == encoding && finding.whole == whole
        };
        let of_it: Vec<_> = findings.iter().filter(|finding| finding.value == value).collect();
        assert!(findings.iter().any(found), "{place}: {of_it:?}");
    }
    // One that nobody has planted is nowhere.
    assert!(findings.iter().all(|finding| finding.value < PLANTED.len()));
}

/// The process that [`the_scan_finds_every_copy_that_is_planted`] starts.
#[test]
#[ignore = "plants copies for another test"]
fn plants_copies() {
    let mut input = io::stdin().lines();
    let seed = input.next().unwrap().unwrap().parse().unwrap();
    let [heap, freed, live, dead, percent, base64, pair, end, beginning] =
        <[String; 9]>::try_from(markers(seed, PLANTED.len())).unwrap();
    drop(freed);
    dead_stack(&dead, 8);
    drop(dead);
    let mut frame = [0_u8; 48];
    frame.copy_from_slice(live.as_bytes());
    drop(live);
    let percent: String = url::form_urlencoded::byte_serialize(percent.as_bytes()).collect();
    let base64 = aws_smithy_types::base64::encode(base64);
    let pair = aws_smithy_types::base64::encode(format!("some-consumer-key:{pair}"));
    let (end, beginning) = (end[20..].to_owned(), beginning[..20].to_owned());
    println!("planted");
    // Until the other test has seen enough.
    assert!(input.next().is_none());
    black_box((heap, frame, percent, base64, pair, end, beginning));
}

/// Leaves a copy far below the frames of whoever calls it.
#[inline(never)]
fn dead_stack(marker: &str, depth: u32) {
    let mut frame = [0_u8; 16 * 1024];
    if depth == 0 {
        frame[..marker.len()].copy_from_slice(marker.as_bytes());
    } else {
        dead_stack(marker, depth - 1);
    }
    black_box(&mut frame);
}
