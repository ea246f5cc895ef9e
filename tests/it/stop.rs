//! What is accepted is written, or reported: the drain, its limit, and what DynamoDB can do
//! meanwhile.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use twitterstream::demo::ecs_agent::Task;
use twitterstream::demo::local_aws::{Effect, Fault, Service};
use twitterstream::demo::world::World;

use crate::support::{LIMIT, Run, Stage, assert_rows, flowing, generated, program};

/// Only what happens after the table was proven.
async fn accepted<'a>(stage: &'a Stage, effect: Effect, variables: &[(&str, &str)]) -> Run<'a> {
    let mut run = stage.start(variables);
    run.message("the stream is open").await;
    stage.world.aws.inject(Fault::every_call(Service::DynamoDb, effect));
    run
}

#[tokio::test]
async fn everything_accepted_is_written_before_a_stop_ends() {
    let stage = Stage::set(generated(1.0, 1_000)).await;
    let mut run = accepted(&stage, Effect::Hang, &[]).await;
    run.posts_read(1_000).await;
    run.task.terminate();
    let closed = run.message("the stream is closed; writing what was accepted").await;
    assert!(closed["rows_waiting"].as_u64().unwrap() > 500, "nothing is left to drain: {closed}");
    stage.world.aws.clear_faults();
    let ended = run.end().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(stage.rows().len(), 1_000);
    let counts = ended.events("stopped").pop().unwrap();
    assert_eq!((&counts["rows_written"], &counts["rows_waiting"]), (&1_000.into(), &0.into()));
}

#[tokio::test]
async fn what_has_come_when_a_stop_is_asked_for_is_read_and_written() {
    let stage = Stage::set(flowing(50)).await;
    let mut run = stage.start(&[]);
    run.posts_read(1).await;
    // It sleeps, and meanwhile its socket fills.
    run.send(Signal::STOP);
    let feed = &stage.world.feed;
    let sent = feed.statistics().posts_sent;
    timeout(LIMIT, feed.wait_until(|now| now.posts_sent > sent + 20)).await.unwrap();
    feed.end_posts().await;
    run.task.terminate();
    run.send(Signal::CONT);
    assert_rows(&stage, &run.end().await);
}

#[tokio::test]
async fn a_stop_that_cannot_write_says_how_many_rows_were_lost() {
    let stage = Stage::set(generated(1.0, 300)).await;
    let mut run = accepted(&stage, Effect::Hang, &[("STOP_LIMIT", "1s")]).await;
    run.posts_read(300).await;
    let ended = run.stop().await;
    let counts = ended.events("stopped").pop().unwrap();
    let lost = 300 - stage.rows().len();
    assert!(lost > 0);
    assert_eq!(counts["rows_waiting"], lost);
    ended.assert_says(69, &[&format!("{lost} rows were accepted and not written")]);
}

#[tokio::test]
async fn a_second_signal_leaves_at_once_and_says_what_was_lost() {
    let stage = Stage::set(generated(1.0, 300)).await;
    let mut run = accepted(&stage, Effect::Hang, &[("STOP_LIMIT", "1h")]).await;
    run.posts_read(300).await;
    run.task.terminate();
    run.message("the stream is closed; writing what was accepted").await;
    let ended = run.stop().await;
    assert_eq!(ended.events("asked a second time to stop: leaving at once").len(), 1);
    ended.assert_says(69, &["rows were accepted and not written"]);
}

#[tokio::test]
async fn reading_goes_on_and_no_row_is_lost_while_dynamodb_throttles_fails_or_resets() {
    let effects = [
        Effect::error(400, "ProvisionedThroughputExceededException"),
        Effect::error(500, "InternalServerError"),
        Effect::Reset,
        Effect::error(400, "AccessDeniedException"),
    ];
    for effect in effects {
        let stage = Stage::set(generated(1.0, 500)).await;
        let mut run = accepted(&stage, effect, &[]).await;
        // All is read though nothing is written.
        run.posts_read(500).await;
        run.message("a row was not written yet").await;
        stage.world.aws.clear_faults();
        run.event(|event| event["rows_written"] == 500).await;
        assert_eq!(run.stop().await.code, Some(0));
        assert_eq!(stage.rows().len(), 500);
    }
}

#[tokio::test]
async fn a_row_that_can_never_be_written_does_not_hold_up_the_rest() {
    let long = "u".repeat(2_049);
    let records = [
        crate::support::post(1, "user", "amazon one"),
        crate::support::post(2, &long, "amazon two"),
        crate::support::post(3, "user", "amazon three"),
    ];
    let stage = Stage::set(crate::support::replayed(&records.concat())).await;
    let mut run = stage.start(&[]);
    run.posts_read(3).await;
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(stage.rows().len(), 2);
    let dropped = ended.events("a row can never be written and was dropped");
    assert_eq!((dropped.len(), &dropped[0]["id"]), (1, &"2".into()));
}

#[tokio::test]
async fn a_log_that_nobody_reads_or_that_is_closed_stops_nothing() {
    for closed in [false, true] {
        let stage = Stage::set(generated(1.0, 1_000)).await;
        let World { aws, task_definition, feed, .. } = &stage.world;
        // At TRACE the worker says some 80 lines a post: five times as many as wait for a reader.
        let overrides =
            [("FEED", "twitter-v1.1"), ("FEED_URL", &*feed.url()), ("RUST_LOG", "trace")];
        let mut command = Task::command(task_definition, program(), &overrides, aws).unwrap();
        // The pipe is full after some hundred lines.
        let mut child = command.spawn().unwrap();
        if closed {
            drop((child.stdout.take(), child.stderr.take()));
        }
        let written = async {
            while aws.table_item_count(stage.world.table()).unwrap() < 1_000 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, written).await.expect("the rows are not written");
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = timeout(LIMIT, child.wait()).await.expect("the worker does not end").unwrap();
        assert_eq!(status.code(), Some(0));
        if let Some(stderr) = &mut child.stderr {
            let mut said = String::new();
            stderr.read_to_string(&mut said).await.unwrap();
            assert!(said.contains("lines of the log were dropped"), "{said:?}");
        }
    }
}
