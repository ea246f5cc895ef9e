//! DynamoDB in trouble, and workers killed meanwhile: reading goes on, what finds no room is dropped
//! and said, and everything else is in the table once, sooner or later.
//!
//! `cargo demo --trouble` and `--kills` do the same for minutes and hundreds of times.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use twitterstream::demo::kills;
use twitterstream::demo::local_aws::{Effect, Fault, Service};
use twitterstream::demo::trouble::{self, Report, Trouble};

use crate::support::{Run, Stage, assert_rows, clock, generated, post, program, replayed};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const RATE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Longer than the table may be silent until rows go to the disk.
const AWAY: Duration = Duration::from_secs(8);

/// Runs the worker through each of them.
async fn lived_through(troubles: &[Trouble], length: Duration) -> Vec<Report> {
    let mut reports = Vec::new();
    for trouble in troubles {
        let settings = trouble::Settings {
            root: Path::new(ROOT),
            program: program(),
            trouble: *trouble,
            length,
            rate: RATE,
            seed: 1,
            clock: clock(),
        };
        let report = trouble::run(&settings, |_| {}).await.unwrap();
        assert!(report.is_right(), "{report:#?}");
        reports.push(report);
    }
    reports
}

#[tokio::test]
async fn nothing_is_lost_while_the_table_is_away_and_it_waits_on_the_disk() {
    for report in lived_through(&[Trouble::Outage, Trouble::Hang, Trouble::Denied], AWAY).await {
        assert!(report.rows_spooled > 0, "{report:#?}");
        assert_eq!(report.connects, 1, "{report:#?}");
    }
}

#[tokio::test]
async fn nothing_is_lost_while_the_table_fails_for_a_moment() {
    lived_through(&[Trouble::Errors, Trouble::Gone], Duration::from_secs(2)).await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_table_is_slow_or_fails_now_and_then() {
    let troubles = [Trouble::Throttling, Trouble::Resets, Trouble::LostAnswers, Trouble::Latency];
    lived_through(&troubles, Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_report_with_a_row_lost_doubled_or_changed_is_not_right() {
    let report = lived_through(&[Trouble::Resets], Duration::ZERO).await.remove(0);
    for wrong in [
        Report { rows_lost: 1, ..report.clone() },
        Report { duplicate_ids: 1, ..report.clone() },
        Report { rows_differing: 1, ..report.clone() },
        Report { rows_dropped: 1, ..report.clone() },
        Report { posts_read: report.posts_read - 1, ..report.clone() },
        Report { rows_in_table: report.rows_in_table - 1, ..report.clone() },
        Report { worker_exit: "exit status: 69".to_owned(), ..report },
    ] {
        assert!(!wrong.is_right(), "{wrong:#?}");
    }
}

#[tokio::test]
async fn what_is_on_the_disk_at_a_kill_is_in_the_table_once_however_many_are_killed() {
    let settings = kills::Settings {
        root: Path::new(ROOT),
        program: program(),
        kills: 10,
        rate: RATE,
        seed: fastrand::u64(..),
        clock: clock(),
    };
    let report = kills::run(&settings, |_| {}).await.unwrap();
    assert!(report.is_right(), "seed {}: {report}", settings.seed);
    assert_eq!(report.kills.len(), 10);
}

/// A worker whose table is away from the moment on that the stream is open.
async fn cut_off<'a>(stage: &'a Stage, variables: &[(&str, &str)]) -> Run<'a> {
    let mut run = stage.start(&[&[("RUST_LOG", "info")], variables].concat());
    run.message("the stream is open").await;
    stage.world.aws.inject(Fault::every_call(Service::DynamoDb, Effect::Reset));
    run
}

#[tokio::test]
async fn rows_that_a_worker_leaves_on_the_disk_are_written_by_the_next() {
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(69))] {
        let stage = Stage::set(generated(1.0, 400)).await;
        let folder = tempfile::tempdir().unwrap();
        let spool = [("SPOOL_DIR", folder.path().to_str().unwrap()), ("STOP_LIMIT", "1s")];
        let mut run = cut_off(&stage, &spool).await;
        let before = stage.rows().len() as u64;
        run.event(|event| event["rows_in_spool"].as_u64() >= Some(400 - before)).await;
        run.send(signal);
        let ended = run.end().await;
        assert_eq!(ended.code, code);
        assert!(stage.rows().len() < 400, "nothing was left");

        stage.world.aws.clear_faults();
        let mut run = stage.start(&spool);
        let recovered = run.message("an earlier process has left rows in the spool").await;
        let left = recovered["rows"].as_u64().unwrap();
        run.event(|event| event["rows_written"].as_u64() == Some(left)).await;
        let ended = run.stop().await;
        assert_rows(&stage, &ended);
        let counts = ended.events("stopped").pop().unwrap();
        assert_eq!((&counts["rows_in_spool"], &counts["rows_waiting"]), (&0.into(), &0.into()));
    }
}

#[tokio::test]
async fn a_full_spool_drops_the_newest_rows_counts_them_and_says_so() {
    // The smallest spool that there can be has room for some hundred of these.
    const POSTS: u64 = 400;
    let text = format!("amazon {}", "x".repeat(8_000));
    let posts = (0..POSTS).map(|id| post(id, &format!("user{id}"), &text));
    let stage = Stage::set(replayed(&posts.collect::<String>())).await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let mut run = cut_off(&stage, &[("SPOOL_DIR", folder), ("SPOOL_BYTES", "1MiB")]).await;
    let said = run.event(|event| event["message"].as_str().is_some_and(is_loss)).await;
    assert_eq!(said["level"], "ERROR");
    assert!(said["rows_dropped"].as_u64() > Some(0), "{said}");
    stage.world.aws.clear_faults();
    run.event(|event| {
        event["posts_read"] == POSTS && event["rows_waiting"] == 0 && event["rows_in_spool"] == 0
    })
    .await;
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));

    let counts = ended.events("stopped").pop().unwrap();
    let rows = stage.rows();
    let dropped = counts["rows_dropped"].as_u64().unwrap();
    assert_eq!(rows.len() as u64 + dropped, POSTS);
    // What came first was in hand, or has filled the spool.
    let ids: Vec<u64> = rows.iter().map(|[_, _, _, id]| id.parse().unwrap()).collect();
    assert!((0..64).all(|id| ids.contains(&id)), "{ids:?}");
    assert!(!ids.contains(&(POSTS - 1)), "the newest was kept");
}

fn is_loss(message: &str) -> bool {
    message.starts_with("rows are lost")
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_said_and_stops_nothing() {
    let stage = Stage::set(generated(1.0, 200)).await;
    let mut run = stage.start(&[("SPOOL_DIR", "/proc/spool")]);
    let said = run.message("there is no spool: rows wait in memory alone").await;
    assert_eq!(said["level"], "ERROR");
    assert!(said["error"].as_str().unwrap().contains("/proc/spool"), "{said}");
    run.posts_read(200).await;
    assert_rows(&stage, &run.stop().await);
}
