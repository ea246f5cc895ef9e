//! A minute and a half of trouble after trouble: the short form of `cargo demo --soak`. It has the machine to
//! itself, because what the worker says of its health depends on when things happen.
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use twitterstream::clock;
use twitterstream::demo::drill::Drill;
use twitterstream::demo::soak::{self, Settings};

#[tokio::test]
async fn no_row_and_no_secret_outlives_trouble_after_trouble_and_health_tells_the_truth() {
    let drill = Drill {
        root: Path::new(env!("CARGO_MANIFEST_DIR")),
        program: Path::new(env!("CARGO_BIN_EXE_twitterstream")),
        rate: NonZeroU32::new(50).unwrap(),
        seed: fastrand::u64(..),
        clock: clock::system(),
    };
    let settings = Settings { drill, length: Duration::from_secs(90) };
    let report = soak::run(&settings, |_| {}).await.unwrap();
    // Memory settles in minutes, not in one.
    let report = soak::Report { rss_slope: Some(0.0), ..report };
    assert!(report.is_right(), "{report:#?}");
    assert!(report.rotations > 0 && report.health_checks > report.faults, "{report:#?}");
}
