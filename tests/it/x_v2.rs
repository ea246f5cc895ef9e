//! The X API v2: its token, its rules and its one stream, with the keys that Secrets Manager holds.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use twitterstream::demo::feed_server::{
    Endpoint, Fault, Options, Refusal, Revocation, StreamError, When,
};
use twitterstream::demo::key_rotation::Order;

use crate::support::{Run, Stage, clock, ended_with_all, flowing, generated};

const OPEN: &str = "the stream is open";
const CLOSED: &str = "the stream is closed; it will be opened again";
const ROTATED: &str = "rotated: a new set of credentials is in use";
const RULES: &str = "the stream's rules are to be those of FILTER";

/// Starts the worker on the v2 of the world's feed.
fn start<'a>(stage: &'a Stage, variables: &[(&str, &str)]) -> Run<'a> {
    let base = stage.world.feed.base_url();
    let mut all = vec![("FEED", "x-v2"), ("FEED_URL", base.as_str())];
    all.extend_from_slice(variables);
    stage.start(&all)
}

fn status(code: u16, headers: HeaderMap) -> Fault {
    let code = StatusCode::from_u16(code).unwrap();
    Fault::Status { code, headers, body_template: "{authorization}".to_owned() }
}

#[tokio::test]
async fn every_post_that_matches_is_a_row_with_its_authors_name_and_its_whole_text() {
    for gzip in [false, true] {
        let stage = Stage::set(Options { gzip, ..generated(0.3, 1_000) }).await;
        let run = start(&stage, &[]);
        let feed = &stage.world.feed;
        feed.wait_until(|feed| feed.posts_sent + feed.posts_passed_over >= 1_000).await;
        let ended = ended_with_all(&stage, run).await;
        let rows = stage.rows();
        assert!(rows.len() > 200);
        assert!(rows.iter().all(|[_, date, ..]| date.contains('T') && date.contains('Z')));
        // Of the four secrets the two that it needs, and no other.
        let fetched = stage.world.aws.audit().into_iter();
        let fetched = fetched.filter(|record| record.event_name == "GetSecretValue");
        let mut fetched: Vec<_> = fetched.filter_map(|record| record.resource).collect();
        fetched.sort();
        assert_eq!(fetched.len(), 2, "{fetched:?}");
        assert!(fetched[0].contains(":CONSUMERKEY-") && fetched[1].contains(":CONSUMERSECRETKEY-"));
        let query = feed.statistics().last_query.unwrap();
        for field in ["created_at", "author_id", "note_tweet", "username"] {
            assert!(query.contains(field), "{query}");
        }
        assert_eq!(ended.events(RULES)[0]["add"], "[\"Amazon\"]");
    }
}

#[tokio::test]
async fn the_rules_become_those_of_filter_and_those_of_others_stay() {
    let stage = Stage::set(generated(1.0, 20)).await;
    let feed = &stage.world.feed;
    feed.add_rule(stage.account(), "kittens", "somebody").unwrap();
    feed.add_rule(stage.account(), "old", "twitterstream").unwrap();
    let run = start(&stage, &[("FILTER", "Amazon,cloud computing,amazon.com")]);
    feed.wait_until(|feed| feed.posts_sent >= 20).await;
    let ended = ended_with_all(&stage, run).await;
    let mut rules: Vec<_> =
        feed.rules().into_iter().map(|rule| (rule.value, rule.tag.unwrap_or_default())).collect();
    rules.sort();
    let expected = [
        ("\"amazon.com\"", "twitterstream"),
        ("Amazon", "twitterstream"),
        ("cloud computing", "twitterstream"),
        ("kittens", "somebody"),
    ];
    assert_eq!(rules, expected.map(|(value, tag)| (value.to_owned(), tag.to_owned())));
    let event = &ended.events(RULES)[0];
    assert_eq!((&event["remove"], &event["of_others"]), (&"[\"old\"]".into(), &1.into()));
}

#[tokio::test]
async fn a_post_that_only_the_rule_of_another_matches_is_no_row() {
    let stage = Stage::set(generated(0.0, 500)).await;
    let feed = &stage.world.feed;
    // Words that posts without the track word have.
    for word in ["the", "a", "on", "の"] {
        feed.add_rule(stage.account(), word, "somebody").unwrap();
    }
    let mut run = start(&stage, &[]);
    feed.wait_until(|feed| feed.posts_sent + feed.posts_passed_over >= 500).await;
    run.caught_up(feed).await;
    assert!(feed.statistics().posts_sent > 0, "nobody's rule matched anything");
    assert_eq!(run.stop().await.code, Some(0));
    assert!(stage.rows().is_empty());
}

#[tokio::test]
async fn new_keys_are_proven_while_the_stream_goes_on_and_no_post_is_lost() {
    for order in [Order::Overlap, Order::ServiceFirst, Order::LabelsFirst] {
        let stage = Stage::set(flowing(100)).await;
        let mut keys = stage.keys();
        let mut run = start(&stage, &[("ROTATION_POLL", "1s")]);
        run.message(OPEN).await;
        for rotation in 0..3 {
            let connects = stage.world.feed.statistics().connects;
            keys.rotate(&stage.world, order).unwrap();
            stage.hide_keys(keys.account());
            let event = run.message(ROTATED).await;
            assert!(event["moves"].as_str().unwrap().contains("CONSUMERKEY from "), "{event}");
            if order == Order::Overlap {
                // The stream of the old keys is the application's only one, and goes on.
                assert_eq!(stage.world.feed.statistics().connects, connects, "{rotation}");
            }
            keys.end_overlap(&stage.world);
            let consumer_key = keys.account().consumer_key.clone();
            let feed = &stage.world.feed;
            feed.wait_until(|_| feed.opened_with(&consumer_key) > 0).await;
        }
        let ended = ended_with_all(&stage, run).await;
        let feed = stage.world.feed.statistics();
        assert_eq!(feed.refused.get(&Refusal::TooManyConnections), None);
        assert_eq!(stage.world.feed.bearers().len(), 4);
        assert_eq!(ended.events("the set of credentials before is wiped").len(), 3);
        // The rules were in place already.
        let later = &ended.events(RULES)[1..];
        assert!(later.iter().all(|event| event["add"] == "[]" && event["kept"] == 1), "{later:?}");
    }
}

#[tokio::test]
async fn a_bearer_that_ends_alone_is_minted_anew_and_the_keys_are_not_suspected() {
    let stage = Stage::set(flowing(100)).await;
    let mut run = start(&stage, &[]);
    run.message(OPEN).await;
    stage.world.feed.revoke_bearer(&stage.account().consumer_key, Revocation::Cut);
    run.message(CLOSED).await;
    run.message(OPEN).await;
    assert_eq!(stage.world.feed.bearers().len(), 2);
    let ended = ended_with_all(&stage, run).await;
    assert_eq!(
        stage.world.aws.audit().iter().filter(|call| call.event_name == "DescribeSecret").count(),
        0
    );
    assert_eq!(ended.events(CLOSED).len(), 1);
}

#[tokio::test]
async fn keys_that_get_no_token_are_refused_keys_and_a_rotation_heals_them() {
    let stage = Stage::set(flowing(100)).await;
    let mut keys = stage.keys();
    stage.world.feed.revoke(stage.access_token(), Revocation::Cut);
    let mut run = start(&stage, &[("ROTATION_POLL", "1s")]);
    let event = run.message(CLOSED).await;
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("403") && reason.contains("no token for these keys"), "{reason}");
    assert!(event["wait_seconds"].as_f64().unwrap() >= 5.0, "{event}");
    keys.rotate(&stage.world, Order::ServiceFirst).unwrap();
    stage.hide_keys(keys.account());
    run.message(ROTATED).await;
    ended_with_all(&stage, run).await;
}

#[tokio::test]
async fn each_refusal_of_each_endpoint_is_named_and_waited_for_as_documented() {
    for (endpoint, code, words, class) in [
        (Endpoint::Token, 503, "503", "http"),
        (Endpoint::Token, 429, "less often", "rate limit"),
        (Endpoint::Rules, 403, "forbidden", "http"),
        (Endpoint::Rules, 503, "503", "http"),
        (Endpoint::Rules, 400, "400", "http"),
        (Endpoint::Stream, 403, "forbidden", "http"),
        (Endpoint::Stream, 420, "less often", "rate limit"),
        (Endpoint::Stream, 502, "502", "http"),
    ] {
        let stage = Stage::set(generated(1.0, 10)).await;
        stage.world.feed.inject_at(endpoint, status(code, HeaderMap::new()), When::Each);
        let mut run = start(&stage, &[]);
        let event = run.message(CLOSED).await;
        let reason = event["reason"].as_str().unwrap();
        assert!(reason.contains(words), "{endpoint:?} {code}: {reason}");
        assert_eq!(event["class"], class, "{endpoint:?} {code}");
        let least = if class == "http" { 5.0 } else { 60.0 };
        let wait = event["wait_seconds"].as_f64().unwrap();
        assert!((least..=least * 1.25).contains(&wait), "{wait}");
        assert_eq!(run.stop().await.code, Some(0));
    }
}

/// `x-rate-limit-reset`, so many seconds from now.
fn reset_in(seconds: u64) -> HeaderMap {
    let now = clock()().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let reset = HeaderValue::from(now.saturating_add(seconds));
    HeaderMap::from_iter([("x-rate-limit-reset".parse().unwrap(), reset)])
}

#[tokio::test]
async fn the_reset_of_another_limit_and_a_senseless_one_are_not_believed() {
    let many = r#"{"title":"ConnectionException","connection_issue":"TooManyConnections"}"#;
    for (body, headers) in [(many, reset_in(900)), ("", reset_in(u64::MAX)), ("", reset_in(86_400))]
    {
        let stage = Stage::set(generated(1.0, 10)).await;
        let code = StatusCode::TOO_MANY_REQUESTS;
        let refusal = Fault::Status { code, headers, body_template: body.to_owned() };
        stage.world.feed.inject(refusal, When::Next);
        let mut run = start(&stage, &[]);
        let event = run.message(CLOSED).await;
        let wait = event["wait_seconds"].as_f64().unwrap();
        assert!((60.0..=75.0).contains(&wait), "{event}");
        assert_eq!(run.stop().await.code, Some(0));
    }
}

#[tokio::test]
async fn a_rate_limit_is_over_when_the_server_says_so() {
    let stage = Stage::set(generated(1.0, 10)).await;
    stage.world.feed.inject(status(429, reset_in(1)), When::Next);
    let mut run = start(&stage, &[]);
    let event = run.message(CLOSED).await;
    assert_eq!(event["class"], "rate limit");
    assert!(event["wait_seconds"].as_f64().unwrap() <= 3.0, "{event}");
    run.message(OPEN).await;
    ended_with_all(&stage, run).await;
}

#[tokio::test]
async fn what_can_never_heal_ends_it_with_what_to_do() {
    for (endpoint, code, words) in [
        (Endpoint::Token, 404, "compare FEED_URL"),
        (Endpoint::Rules, 404, "compare FEED_URL"),
        (Endpoint::Stream, 400, "compare BACKFILL_MINUTES"),
    ] {
        let stage = Stage::set(generated(1.0, 10)).await;
        stage.world.feed.inject_at(endpoint, status(code, HeaderMap::new()), When::Each);
        let ended = start(&stage, &[("BACKFILL_MINUTES", "2"), ("PARTITION", "1")]).end().await;
        ended.assert_says(69, &[words, &code.to_string()]);
    }
}

#[tokio::test]
async fn a_second_stream_of_the_application_waits_and_says_who_may_hold_the_first() {
    let stage = Stage::set(flowing(100)).await;
    let mut first = start(&stage, &[]);
    first.message(OPEN).await;
    let mut second = start(&stage, &[]);
    let event = second.message(CLOSED).await;
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("another task of this application holds"), "{reason}");
    assert!(event["wait_seconds"].as_f64().unwrap() >= 60.0, "{event}");
    assert_eq!(second.stop().await.code, Some(0));
    ended_with_all(&stage, first).await;
}

#[tokio::test]
async fn an_error_record_ends_the_stream_even_where_the_server_leaves_it_open() {
    for close in [true, false] {
        let stage = Stage::set(flowing(200)).await;
        let mut run = start(&stage, &[]);
        run.message(OPEN).await;
        let error = StreamError::OperationalDisconnect;
        stage.world.feed.inject(Fault::ErrorRecord { error, close }, When::Open);
        let event = run.message(CLOSED).await;
        assert!(event["reason"].as_str().unwrap().contains("operational-disconnect"), "{event}");
        run.message(OPEN).await;
        assert_eq!(stage.world.feed.statistics().connects, 2);
        assert_eq!(run.stop().await.code, Some(0));
    }
}

#[tokio::test]
async fn a_rule_that_x_does_not_take_is_named() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let body = r#"{"meta":{"summary":{"created":0}},"errors":[{"value":"Amazon","details":
        ["no viable alternative"],"title":"UnprocessableEntity"}]}"#;
    let refusal = Fault::Status {
        code: StatusCode::BAD_REQUEST,
        headers: HeaderMap::new(),
        body_template: body.to_owned(),
    };
    // The first request reads the rules, the second adds one.
    let none = r#"{"meta":{"result_count":0}}"#.to_owned();
    let empty =
        Fault::Status { code: StatusCode::OK, headers: HeaderMap::new(), body_template: none };
    stage.world.feed.inject_at(Endpoint::Rules, empty, When::Next);
    stage.world.feed.inject_at(Endpoint::Rules, refusal, When::Next);
    let ended = start(&stage, &[]).end().await;
    ended.assert_says(69, &["a rule of FILTER", "Amazon", "no viable alternative"]);
}

#[tokio::test]
async fn when_the_read_budget_is_spent_the_stream_is_closed_and_said_to_be() {
    let stage = Stage::set(flowing(20)).await;
    let mut run = start(&stage, &[("READ_BUDGET", "50/day,10000/month")]);
    let warned = run.message("four fifths of READ_BUDGET are read").await;
    assert_eq!(warned["period"], "day");
    let closed = run.message("READ_BUDGET is read: the stream is closed until the period turns");
    assert_eq!(closed.await["period"], "day");
    stage.world.feed.wait_until(|feed| feed.open == 0).await;
    assert_eq!(stage.world.feed.statistics().connects, 1);
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    // What had been received by then was paid for, and is written.
    let read = ended.events("stopped")[0]["posts_read"].as_u64().unwrap();
    assert!((50..150).contains(&read), "{read}");
    assert_eq!(stage.rows().len() as u64, read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giant_record_and_a_reader_at_full_speed_stay_within_their_memory() {
    let full_speed = Options { limit: None, keep_rows: false, ..generated(0.0, 0) };
    for (options, dialect) in [(flowing(200), "x-v2"), (full_speed, "twitter-v1.1")] {
        let stage = Stage::set(options).await;
        let feed = &stage.world.feed;
        feed.inject(Fault::OverLongRecord { bytes: 10 << 20 }, When::Next);
        let url = if dialect == "x-v2" { feed.base_url() } else { feed.url() };
        let variables = [("FEED", dialect), ("FEED_URL", &*url), ("RUST_LOG", "info")];
        let mut run = stage.start(&variables);
        let over_long =
            "a record is longer than any post and is skipped; do its records end in CRLF?";
        run.message(over_long).await;
        feed.wait_until(|feed| feed.posts_sent >= 1_000).await;
        let peak = run.task.usage().unwrap().peak_rss_bytes;
        assert!(peak < 64 << 20, "{peak}");
        assert_eq!(run.stop().await.code, Some(0));
    }
}

#[tokio::test]
async fn secrets_it_does_not_need_may_be_missing() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let variables =
        [("ACCESSTOKEN_SECRET", "no-such-secret"), ("ACCESSTOKENSECRET_SECRET", "no-such-secret")];
    let run = start(&stage, &variables);
    stage.world.feed.wait_until(|feed| feed.posts_sent >= 10).await;
    ended_with_all(&stage, run).await;
}
