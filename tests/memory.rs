//! What is left of a credential in the memory of the real worker: scanned from outside, at every
//! moment of its life, with controls that show that the scan finds what is there.
//!
//! It takes root or `CAP_SYS_PTRACE`, because the worker lets nobody else read its memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use twitterstream::demo::Clock;
use twitterstream::demo::copies::{self, Report, Transport};

const WORKER: &str = env!("CARGO_BIN_EXE_twitterstream");
const UNWIPED: &str = env!("CARGO_BIN_EXE_unwiped");

#[expect(clippy::disallowed_methods, reason = "the wall clock enters the tests here")]
fn clock() -> Clock {
    Arc::new(SystemTime::now)
}

async fn scanned(program: &str, transport: Transport) -> Report {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seed = fastrand::u64(..);
    copies::run(root, Path::new(program), clock(), seed, transport).await.unwrap()
}

fn said(report: &Report) -> String {
    let places = report
        .moments
        .iter()
        .map(|moment| format!("{}:\n  {}", moment.name, moment.places.join("\n  ")));
    let places: Vec<_> = places.collect();
    format!("{report}\n{}", places.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_of_each_credential_in_use_and_none_of_an_old_one() {
    for transport in [Transport::Plain, Transport::Tls] {
        let report = scanned(WORKER, transport).await;
        eprintln!("{:?} {}", std::process::id(), said(&report));
        assert!(report.holds(), "{}", said(&report));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_wiping_allocator_old_copies_stay() {
    let report = scanned(UNWIPED, Transport::Plain).await;
    println!("{}", said(&report));
    assert!(!report.holds(), "{}", said(&report));
}
