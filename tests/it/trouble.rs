//! DynamoDB in trouble, and workers killed meanwhile: reading goes on, what finds no room is dropped
//! and said, and everything else is in the table once, sooner or later.
//!
//! `cargo demo --trouble` and `--kills` do the same for minutes and hundreds of times.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use twitterstream::demo::drill::Drill;
use twitterstream::demo::feed_server::Options;
use twitterstream::demo::kills;
use twitterstream::demo::local_aws::{Effect, Fault, Service};
use twitterstream::demo::trouble::{self, Report, Trouble};

use crate::support::{
    Ended, Run, Stage, assert_rows, clock, flowing, generated, post, program, replayed,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const RATE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Longer than the table may be silent until rows go to the disk.
const AWAY: Duration = Duration::from_secs(8);

fn drill(seed: u64) -> Drill<'static> {
    Drill { root: Path::new(ROOT), program: program(), rate: RATE, seed, clock: clock() }
}

/// Runs the worker through each of them.
async fn lived_through(troubles: &[Trouble], length: Duration) -> Vec<Report> {
    let mut reports = Vec::new();
    for trouble in troubles {
        let settings = trouble::Settings { drill: drill(1), trouble: *trouble, length };
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
    let settings = kills::Settings { drill: drill(fastrand::u64(..)), kills: 10 };
    let report = kills::run(&settings, |_| {}).await.unwrap();
    assert!(report.is_right(), "seed {}: {report}", settings.drill.seed);
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
async fn what_a_killed_worker_has_left_is_written_by_the_next_though_it_never_has_a_stream() {
    let denied = Effect::error(400, "AccessDeniedException");
    for (effect, code) in [(Effect::Reset, 0), (denied, 69)] {
        let stage = Stage::set(generated(1.0, 400)).await;
        let folder = tempfile::tempdir().unwrap();
        let spool = [("SPOOL_DIR", folder.path().to_str().unwrap())];
        let mut run = cut_off(&stage, &spool).await;
        let before = stage.rows().len() as u64;
        run.event(|event| event["rows_in_spool"].as_u64() >= Some(400 - before)).await;
        run.send(Signal::KILL);
        run.end().await;

        stage.world.aws.clear_faults();
        stage.world.aws.inject(Fault::every_call(Service::SecretsManager, effect));
        let mut run = stage.start(&spool);
        if code == 0 {
            run.message("not started yet; trying again").await;
            run.task.terminate();
        }
        let ended = run.end().await;
        assert_eq!(ended.events("writing what an earlier process has left").len(), 1);
        assert_eq!((ended.code, stage.rows().len()), (Some(code), 400));
    }
}

fn invalid(one_in: u32) -> Fault {
    let effect = Effect::error(400, "ValidationException");
    Fault { one_in, ..Fault::every_call(Service::DynamoDb, effect) }
}

#[tokio::test]
async fn a_table_that_calls_every_row_invalid_for_a_while_loses_none() {
    let stage = Stage::set(flowing(100)).await;
    let mut run = stage.start(&[("RUST_LOG", "info")]);
    run.event(|event| event["rows_written"].as_u64() > Some(0)).await;
    stage.world.aws.inject(invalid(1));
    let said = run.message("a row was not written yet").await;
    // Each of them has been refused several times by then.
    let waiting = said["rows_waiting"].as_u64().unwrap();
    run.event(|event| event["rows_waiting"].as_u64() > Some(waiting + 200)).await;
    stage.world.aws.clear_faults();
    stage.world.feed.end_posts().await;
    let ended = run.stop().await;
    assert_rows(&stage, &ended);
    assert_eq!(ended.events("stopped")[0]["rows_rejected"], 0);
}

#[tokio::test]
async fn a_row_that_the_table_refuses_again_and_again_while_it_takes_others_is_given_up() {
    let stage = Stage::set(generated(1.0, 500)).await;
    let mut run = stage.start(&[("RUST_LOG", "info")]);
    run.message("the stream is open").await;
    stage.world.aws.inject(invalid(2));
    run.event(|event| event["posts_read"] == 500 && event["rows_waiting"] == 0).await;
    let ended = run.stop().await;
    let rejected = ended.events("a row can never be written and was dropped").len();
    assert_eq!((ended.code, stage.rows().len() + rejected), (Some(0), 500));
    assert!(rejected > 0 && rejected < 250, "{rejected}");
}

/// Posts of 8 KB, so that some hundred fill a small disk.
fn long_posts(count: u64) -> Options {
    posts_of(8_000, count)
}

fn posts_of(bytes: usize, count: u64) -> Options {
    let text = format!("amazon {}", "x".repeat(bytes));
    let posts = (0..count).map(|id| post(id, &format!("user{id}"), &text));
    replayed(&posts.collect::<String>())
}

/// A worker that may write no file of more than 4 MB, cut off from its table.
async fn cut_off_on_a_small_disk<'a>(stage: &'a Stage, variables: &[(&str, &str)]) -> Run<'a> {
    let variables = [&[("RUST_LOG", "info")], variables].concat();
    let mut command = stage.command(Path::new("bash"), &variables);
    command.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\""]).arg(program());
    let mut run = stage.run(command);
    run.message("the stream is open").await;
    stage.world.aws.inject(Fault::every_call(Service::DynamoDb, Effect::Reset));
    run.message("the spool failed; rows wait in memory until it works again").await;
    run
}

#[tokio::test]
async fn a_disk_that_takes_no_more_keeps_no_row_from_a_table_that_is_back() {
    // All at once the disk has no space for their transaction; one by one they leave no byte of it.
    for rate in [None, NonZeroU32::new(60)] {
        const POSTS: u64 = 700;
        let stage = Stage::set(Options { rate, ..long_posts(POSTS) }).await;
        let folder = tempfile::tempdir().unwrap();
        let spool = [("SPOOL_DIR", folder.path().to_str().unwrap())];
        let mut run = cut_off_on_a_small_disk(&stage, &spool).await;
        run.posts_read(POSTS).await;
        stage.world.aws.clear_faults();
        run.event(|event| {
            event["posts_read"] == POSTS
                && event["rows_waiting"] == 0
                && event["rows_in_spool"] == 0
        })
        .await;
        let ended = run.stop().await;
        assert_eq!((ended.code, stage.rows().len() as u64), (Some(0), POSTS));
        assert!(ended.events("stopped")[0]["rows_spooled"].as_u64() > Some(0));
    }
}

#[tokio::test]
async fn a_stop_counts_as_left_only_what_is_on_the_disk() {
    // They come slowly, so that the disk takes some.
    let slowly = Options { rate: NonZeroU32::new(100), ..long_posts(2_000) };
    let stage = Stage::set(slowly).await;
    let folder = tempfile::tempdir().unwrap();
    let spool = ("SPOOL_DIR", folder.path().to_str().unwrap());
    let mut run = cut_off_on_a_small_disk(&stage, &[spool, ("STOP_LIMIT", "1s")]).await;
    // More than the disk can ever take.
    run.event(|event| event["posts_read"].as_u64() > Some(600)).await;
    assert_left_or_lost(&stage, run.stop().await, spool).await;
}

/// Asserts that what a worker has accepted and not written is on its disk, or was told to be lost at the
/// stop, or before.
async fn assert_left_or_lost(stage: &Stage, ended: Ended, spool: (&str, &str)) {
    ended.assert_says(69, &["rows were accepted and not written"]);
    let ending = ended.events("ending").pop().unwrap();
    let words = ending["error"].as_str().unwrap();
    let lost: u64 = words.split(' ').next().unwrap().parse().unwrap();
    let stopped = ended.events("stopped").pop().unwrap();
    let accepted = stopped["posts_matched"].as_u64().unwrap();
    let lost = lost + stopped["rows_dropped"].as_u64().unwrap();

    stage.world.aws.clear_faults();
    let mut run = stage.start(&[spool]);
    run.event(|event| event["rows_written"].as_u64() > Some(0) && event["rows_in_spool"] == 0)
        .await;
    assert_eq!(run.stop().await.code, Some(0));
    let ids = stage.rows().into_iter().map(|[_, _, _, id]| id.parse::<u64>().unwrap());
    let rows = ids.filter(|id| *id < accepted).count() as u64;
    assert!(rows > 0 && lost > 0, "{rows} in the table, {words}");
    assert_eq!(rows + lost, accepted);
}

#[tokio::test]
async fn where_spool_and_memory_are_full_the_newest_rows_are_dropped_counted_and_told() {
    // 32 MiB fill the memory, and one the smallest spool that there can be.
    let stage = Stage::set(posts_of(100_000, 380)).await;
    let folder = tempfile::tempdir().unwrap();
    let spool = ("SPOOL_DIR", folder.path().to_str().unwrap());
    let limits = [spool, ("SPOOL_BYTES", "1MiB"), ("STOP_LIMIT", "1s")];
    let mut run = cut_off(&stage, &limits).await;
    let said = run.event(|event| event["message"].as_str().is_some_and(is_loss)).await;
    assert_eq!(said["level"], "ERROR");
    assert!(said["rows_dropped"].as_u64() > Some(0), "{said}");
    run.posts_read(380).await;
    assert_left_or_lost(&stage, run.stop().await, spool).await;
    let ids = stage.rows().into_iter().map(|[_, _, _, id]| id.parse::<u64>().unwrap());
    let newest = ids.max();
    assert!(newest < Some(370), "{newest:?} was kept");
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
