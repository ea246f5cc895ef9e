//! What a feed can do wrong. The worker names it, does not hammer, repeats nothing unchecked, and
//! loses no post that was delivered in full.

use axum::http::{HeaderMap, StatusCode};
use twitterstream::demo::feed_server::{Fault, Refusal, Revocation, When};

use crate::support::{Stage, assert_rows, generated};

fn status(code: u16, body: &str) -> Fault {
    let code = StatusCode::from_u16(code).unwrap();
    Fault::Status { code, headers: HeaderMap::new(), body_template: body.to_owned() }
}

#[tokio::test]
async fn refused_credentials_are_named_never_shown_and_not_tried_again_at_once() {
    for revoked in [false, true] {
        let stage = Stage::set(generated(1.0, 10)).await;
        if revoked {
            stage.world.feed.revoke(stage.access_token(), Revocation::Cut);
        } else {
            // A proxy's answer that quotes the header.
            stage.world.feed.inject(Fault::EchoCredentials, When::Each);
        }
        let mut run = stage.start(&[]);
        let event = run.message("the stream is closed; it will be opened again").await;
        let reason = event["reason"].as_str().unwrap();
        assert!(reason.contains("401") && reason.contains("credentials were refused"), "{reason}");
        assert!(event["wait_seconds"].as_f64().unwrap() >= 5.0, "{event}");
        let refused: u64 = stage.world.feed.statistics().refused.values().sum();
        assert_eq!(refused, 1);
        assert_eq!(run.stop().await.code, Some(0));
    }
}

#[tokio::test]
async fn each_refusal_has_its_class_of_wait() {
    for (code, class, seconds) in [
        (401, "http", 5.0),
        (403, "http", 5.0),
        (503, "http", 5.0),
        (302, "http", 5.0),
        (420, "rate limit", 60.0),
        (429, "rate limit", 60.0),
    ] {
        let stage = Stage::set(generated(1.0, 10)).await;
        stage.world.feed.inject(status(code, "no\nforged line"), When::Each);
        let mut run = stage.start(&[]);
        let event = run.message("the stream is closed; it will be opened again").await;
        assert_eq!(event["class"], class);
        let wait = event["wait_seconds"].as_f64().unwrap();
        assert!((seconds..=seconds * 1.25).contains(&wait), "{wait}");
        assert!(event["reason"].as_str().unwrap().contains("no\\nforged line"), "{event}");
        assert_eq!(run.stop().await.code, Some(0));
    }
}

#[tokio::test]
async fn a_refusal_that_can_never_heal_ends_the_worker() {
    for (code, words) in
        [(404, "compare FEED_URL"), (406, "takes no such FILTER"), (413, "too long")]
    {
        let stage = Stage::set(generated(1.0, 10)).await;
        stage.world.feed.inject(status(code, "{authorization}"), When::Each);
        stage.start(&[]).end().await.assert_says(69, &[words, &code.to_string()]);
    }
}

#[tokio::test]
async fn a_dead_feed_is_tried_again_and_said_to_be_one() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let mut run = stage.start(&[("FEED_URL", "http://127.0.0.1:9/1.1/statuses/filter.json")]);
    for seconds in [0.0, 0.25, 0.5] {
        let event = run.message("the stream is closed; it will be opened again").await;
        assert_eq!(
            (&event["class"], event["wait_seconds"].as_f64()),
            (&"network".into(), Some(seconds))
        );
        assert!(event["reason"].as_str().unwrap().contains("refused"), "{event}");
    }
    assert_eq!(run.stop().await.code, Some(0));
}

#[tokio::test]
async fn no_post_is_lost_or_doubled_over_dropped_ended_and_announced_disconnects() {
    let stage = Stage::set(generated(1.0, 400)).await;
    for fault in [
        Fault::DropAfter { posts: 50, mid_record: true },
        Fault::EndAfter { posts: 50 },
        Fault::Disconnect { code: 7, reason: "admin logout".to_owned() },
        Fault::DropAfter { posts: 50, mid_record: true },
    ] {
        stage.world.feed.inject(fault, When::Next);
    }
    let mut run = stage.start(&[]);
    let counts = run.posts_read(400).await;
    assert_eq!(counts["posts_read"], 400);
    let ended = run.stop().await;
    assert_rows(&stage, &ended);
    assert_eq!(ended.events("the feed is about to disconnect").len(), 1);
    assert!(stage.world.feed.statistics().connects >= 5);
}

#[tokio::test]
async fn garbage_and_over_long_records_are_counted_and_the_rest_flows_on() {
    let stage = Stage::set(generated(1.0, 50)).await;
    stage.world.feed.inject(Fault::Garbage { lines: 7 }, When::Next);
    let mut run = stage.start(&[]);
    run.posts_read(50).await;
    stage.world.feed.inject(Fault::OverLongRecord { bytes: 3 << 20 }, When::Open);
    let over_long = "a record is longer than any post and is skipped; do its records end in CRLF?";
    run.message(over_long).await;
    let ended = run.stop().await;
    assert_rows(&stage, &ended);
    let counts = ended.events("stopped").pop().unwrap();
    assert_eq!(counts["over_long"], 1);
    assert!(
        counts["malformed"].as_u64().unwrap() + counts["unknown"].as_u64().unwrap() >= 7,
        "{counts}"
    );
}

#[tokio::test]
async fn the_request_carries_the_filter_and_a_versioned_user_agent() {
    let stage = Stage::set(generated(1.0, 1)).await;
    let mut run = stage.start(&[("FILTER", "Amazon,cloud computing")]);
    run.posts_read(1).await;
    assert_eq!(run.stop().await.code, Some(0));
    let feed = stage.world.feed.statistics();
    assert_eq!(feed.last_track.as_deref(), Some("Amazon,cloud computing"));
    let agent = concat!("twitterstream/", env!("CARGO_PKG_VERSION"));
    assert_eq!(feed.last_user_agent.as_deref(), Some(agent));
    assert_eq!(feed.refused.get(&Refusal::WrongSignature), None);
    let audit = stage.world.aws.audit();
    let version = concat!("twitterstream-", env!("CARGO_PKG_VERSION"));
    let fetch = audit.iter().find(|record| record.event_name == "GetSecretValue").unwrap();
    assert!(fetch.user_agent.as_deref().unwrap().contains(version), "{fetch:?}");
}
