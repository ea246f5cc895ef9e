//! New credentials are found, proven and taken over without losing a post, in whatever way and
//! order the secrets and the service are rotated.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;
use twitterstream::demo::feed_server::{self, Options, When};
use twitterstream::demo::key_rotation::{KeyRotation, Order};
use twitterstream::demo::local_aws::{Effect, Fault, Service};
use twitterstream::demo::main_job::{self, Job, Rotations, Until};
use twitterstream::demo::world::{ROTATION_QUEUE, SECRETS};
use twitterstream::feed::Dialect;

use crate::support::{Ended, Run, Stage, ended_with_all, flowing, own, program};

const ROTATED: &str = "rotated: a new set of credentials is in use";
const AWAY: &str = "the credentials cannot be refreshed; the set in use serves on";
const REFUSED: &str = "the feed refused a new set of credentials; the one in use stays";

/// Rotates, and waits until the worker uses the new keys.
async fn rotate(stage: &Stage, run: &mut Run<'_>, keys: &mut KeyRotation, order: Order) -> Value {
    let rotated = keys.rotate(&stage.world, order).unwrap();
    stage.hide_keys(keys.account());
    let event = run.message(ROTATED).await;
    assert_eq!(stage.world.feed.opened_with(&rotated.access_token), 1);
    keys.end_overlap(&stage.world);
    event
}

/// Asserts that each version was fetched once; where Secrets Manager did not answer for a moment, the
/// worker's own second try may be one more.
fn assert_fetched_once(fetches: &HashMap<(String, String), u32>, ended: &Ended) {
    let trouble = !ended.events(AWAY).is_empty();
    let most = if trouble { 2 } else { 1 };
    assert!(fetches.values().all(|count| *count <= most), "{fetches:?}\n{}", own(&ended.log));
}

/// Moves AWSCURRENT of each secret to this version of it.
async fn make_current(secrets: &aws_sdk_secretsmanager::Client, versions: &[String]) {
    for (secret, version) in SECRETS.iter().zip(versions) {
        let described = secrets.describe_secret().secret_id(*secret).send().await.unwrap();
        let stages = described.version_ids_to_stages.unwrap();
        let is_current = |labels: &[String]| labels.iter().any(|label| label == "AWSCURRENT");
        let (current, _) = stages.iter().find(|(_, labels)| is_current(labels)).unwrap();
        secrets
            .update_secret_version_stage()
            .secret_id(*secret)
            .version_stage("AWSCURRENT")
            .remove_from_version_id(current)
            .move_to_version_id(version)
            .send()
            .await
            .unwrap();
    }
}

/// How often each version of each secret was fetched.
fn fetches(stage: &Stage) -> HashMap<(String, String), u32> {
    let mut fetches = HashMap::new();
    for record in stage.world.aws.audit() {
        if record.event_name == "GetSecretValue" && record.error_code.is_none() {
            let key = (record.resource.unwrap(), record.version_id.unwrap());
            *fetches.entry(key).or_default() += 1;
        }
    }
    fetches
}

#[tokio::test]
async fn each_order_of_a_rotation_ends_on_the_new_keys_and_loses_nothing() {
    let stage = Stage::set(flowing(100)).await;
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1s")]);
    run.message("the stream is open").await;
    for order in [Order::Overlap, Order::ServiceFirst, Order::LabelsFirst, Order::ServiceFirst] {
        let event = rotate(&stage, &mut run, &mut keys, order).await;
        let moves = event["moves"].as_str().unwrap();
        for secret in SECRETS {
            assert!(moves.contains(&format!("{secret} from ")), "{moves}");
        }
        assert!(event["total_seconds"].as_f64().is_some(), "{event}");
    }
    let ended = ended_with_all(&stage, run).await;
    let fetches = fetches(&stage);
    assert_eq!(fetches.len(), 4 * 5);
    assert_fetched_once(&fetches, &ended);
}

#[tokio::test]
async fn a_signal_is_answered_by_a_look_and_a_quiet_worker_fetches_nothing() {
    let stage = Stage::set(flowing(50)).await;
    let mut run = stage.start(&[("ROTATION_POLL", "1h")]);
    run.message("the stream is open").await;
    let mut changes = stage.world.aws.audit_changes();
    let looks = || {
        stage
            .world
            .aws
            .audit()
            .iter()
            .filter(|record| record.event_name == "DescribeSecret")
            .count()
    };
    for expected in 1..=3 {
        run.hang_up();
        while looks() < expected * SECRETS.len() {
            timeout(Duration::from_secs(30), changes.changed()).await.unwrap().unwrap();
        }
    }
    ended_with_all(&stage, run).await;
    assert_eq!(fetches(&stage).len(), 4);
}

#[tokio::test]
async fn a_refusal_makes_the_worker_look_at_once() {
    let stage = Stage::set(flowing(100)).await;
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1h")]);
    run.message("the stream is open").await;
    for _ in 0..2 {
        let event = rotate(&stage, &mut run, &mut keys, Order::LabelsFirst).await;
        assert_eq!(event["learnt_by"], "refusal");
    }
    ended_with_all(&stage, run).await;
}

#[tokio::test]
async fn each_change_of_the_credentials_state_is_one_event_with_before_and_after() {
    let stage = Stage::set(flowing(50)).await;
    let mut keys = stage.keys();
    let (code, headers) = (StatusCode::UNAUTHORIZED, HeaderMap::new());
    let refusal = feed_server::Fault::Status { code, headers, body_template: String::new() };
    stage.world.feed.inject(refusal, When::Next);
    let mut run = stage.start(&[("ROTATION_POLL", "1h")]);
    run.message("the stream is open").await;
    rotate(&stage, &mut run, &mut keys, Order::ServiceFirst).await;
    let ended = ended_with_all(&stage, run).await;
    let states = |message: &str| {
        let events = ended.events(message);
        json!(events.iter().map(|event| [&event["before"], &event["after"]]).collect::<Vec<_>>())
    };
    let refusals = states("the feed refuses the credentials in use");
    assert_eq!(refusals, json!([["accepted", "refused"], ["accepted", "refused"]]));
    let again = states("the feed accepts the credentials in use again");
    assert_eq!(again, json!([["refused", "accepted"]]));
    for message in
        ["a new set of credentials was found; it is used once the feed accepts it", ROTATED]
    {
        let events = ended.events(message);
        let moves = events.last().unwrap()["moves"].as_str().unwrap();
        assert!(SECRETS.iter().all(|secret| moves.contains(&format!("{secret} from "))), "{moves}");
    }
    let banner = &ended.events("starting")[0];
    assert_eq!(banner["secrets"], SECRETS.join(", "));
    assert_eq!(ended.events("a credential was fetched").len(), 4);
}

#[tokio::test]
async fn a_label_that_moves_back_is_a_rotation_like_another() {
    let stage = Stage::set(flowing(100)).await;
    let secrets = aws_sdk_secretsmanager::Client::new(&stage.administrator());
    let mut before = Vec::new();
    for secret in SECRETS {
        let described = secrets.describe_secret().secret_id(secret).send().await.unwrap();
        let versions = described.version_ids_to_stages.unwrap();
        before.push(versions.into_keys().next().unwrap());
    }
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1s")]);
    run.message("the stream is open").await;
    let rotated = keys.rotate(&stage.world, Order::Overlap).unwrap();
    stage.hide_keys(keys.account());
    run.message(ROTATED).await;
    assert_eq!(stage.world.feed.opened_with(&rotated.access_token), 1);

    make_current(&secrets, &before).await;
    run.message(ROTATED).await;
    assert_eq!(stage.world.feed.opened_with(stage.access_token()), 2);
    ended_with_all(&stage, run).await;
}

/// Every order in which four things can happen.
fn permutations() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for a in 0..4 {
        for b in 0..4 {
            for c in 0..4 {
                for d in 0..4 {
                    let order = [a, b, c, d];
                    if (0..4).all(|secret| order.contains(&secret)) {
                        all.push(order);
                    }
                }
            }
        }
    }
    all
}

/// The secrets move one by one, in every order; the service changes its keys before the first, after
/// the last, or between any two of them. The worker is made to look after every step.
///
/// By default each order is met with one place of the change; with `TORN_SETS=all` each with every
/// place, which takes five times as long.
#[tokio::test]
async fn a_torn_set_never_takes_the_stream_down_and_always_ends_on_the_new_set() {
    let orders = permutations();
    assert_eq!(orders.len(), 24);
    let stage = Stage::set(flowing(100)).await;
    let mut keys = stage.keys();
    // The SDK's lines at TRACE would take most of the time of a hundred looks.
    let log = ("RUST_LOG", "info,twitterstream=trace");
    let mut run = stage.start(&[("ROTATION_POLL", "1h"), log]);
    run.message("the stream is open").await;
    let all = std::env::var_os("TORN_SETS").is_some_and(|sets| sets == "all");
    let places = |index: usize| if all { (0..5).collect() } else { vec![index % 5] };
    let cases = orders.iter().enumerate();
    let cases = cases.flat_map(|(index, order)| places(index).into_iter().map(move |c| (order, c)));
    let cases: Vec<_> = cases.collect();
    for (order, change) in cases.iter().copied() {
        let old = keys.account().access_token.clone();
        keys.renew();
        stage.hide_keys(keys.account());
        for step in 0..=4 {
            if step == change {
                keys.accept(&stage.world);
                keys.end_overlap(&stage.world);
            }
            let Some(secret) = order.get(step) else { break };
            keys.move_label(&stage.world, *secret).unwrap();
            if step < 3 {
                run.hang_up();
                // A torn set is offered, tried and refused; once for each set.
                run.message(REFUSED).await;
                if step < change {
                    assert_eq!(stage.world.feed.statistics().open, 1, "the stream is down");
                }
            }
        }
        run.hang_up();
        run.message(ROTATED).await;
        assert_eq!(
            stage.world.feed.opened_with(&keys.account().access_token),
            1,
            "{order:?} {change}"
        );
        assert!(stage.world.feed.opened_with(&old) >= 1);
    }
    let ended = ended_with_all(&stage, run).await;
    let fetches = fetches(&stage);
    assert_eq!(fetches.len(), 4 * (cases.len() + 1));
    assert_fetched_once(&fetches, &ended);
}

#[tokio::test]
async fn a_set_that_the_service_accepts_late_does_not_disturb_the_stream_and_is_adopted_then() {
    let stage = Stage::set(flowing(100)).await;
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1s")]);
    run.message("the stream is open").await;
    keys.renew();
    stage.hide_keys(keys.account());
    for secret in 0..4 {
        keys.move_label(&stage.world, secret).unwrap();
    }
    run.message(REFUSED).await;
    // Tried again and again, each time beside the stream.
    stage.world.feed.wait_until(|feed| feed.refused.values().sum::<u64>() >= 3).await;
    assert_eq!(stage.world.feed.statistics().connects, 1);
    keys.accept(&stage.world);
    run.message(ROTATED).await;
    keys.end_overlap(&stage.world);
    ended_with_all(&stage, run).await;
}

#[tokio::test]
async fn while_secrets_manager_is_away_the_set_in_use_serves_on_and_one_line_says_so() {
    let stage = Stage::set(flowing(100)).await;
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1s")]);
    run.message("the stream is open").await;
    let kinds =
        [Effect::error(503, "ServiceUnavailable"), Effect::error(400, "AccessDeniedException")];
    for effect in kinds {
        stage.world.aws.inject(Fault::every_call(Service::SecretsManager, effect));
        run.message(AWAY).await;
        let mut changes = stage.world.aws.audit_changes();
        let failed = || {
            let audit = stage.world.aws.audit();
            audit.iter().filter(|record| record.error_code.is_some()).count()
        };
        let before = failed();
        while failed() < before + 8 {
            timeout(Duration::from_mins(1), changes.changed()).await.unwrap().unwrap();
        }
        stage.world.aws.clear_faults();
        run.message("Secrets Manager answers again").await;
    }
    rotate(&stage, &mut run, &mut keys, Order::Overlap).await;
    let ended = run.stop().await;
    assert_eq!(ended.events(AWAY).len(), 2);
}

#[tokio::test]
async fn without_the_grant_to_look_the_worker_runs_on_and_says_what_to_grant() {
    let stage = Stage::set(flowing(100)).await;
    let mut policy = stage.world.document("task-role-embedded.json").unwrap();
    let statements = policy["Statement"].as_array_mut().unwrap();
    statements.retain(|statement| statement["Sid"] != "SeeWhereTheLabelsAre");
    assert_eq!(statements.len(), 2);
    let role = stage.world.task_definition.task_role();
    stage.world.aws.put_role_policy(role, "task-role-embedded", &policy).await.unwrap();
    let mut run = stage.start(&[("ROTATION_POLL", "1s")]);
    let event = run.message(AWAY).await;
    let error = event["error"].as_str().unwrap();
    assert!(error.contains("grant secretsmanager:DescribeSecret"), "{error}");
    ended_with_all(&stage, run).await;
}

/// `RotateSecret` between setSecret and finishSecret: the service refuses what AWSCURRENT holds, and
/// what it accepts is AWSPENDING.
#[tokio::test]
async fn a_refused_current_set_is_bridged_by_the_pending_one_where_that_is_allowed() {
    let stage = Stage::set(flowing(100)).await;
    let mut policy = stage.world.document("task-role-embedded.json").unwrap();
    policy["Statement"][0]["Condition"]["StringEquals"]["secretsmanager:VersionStage"] =
        json!(["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"]);
    let role = stage.world.task_definition.task_role();
    stage.world.aws.put_role_policy(role, "task-role-embedded", &policy).await.unwrap();
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1h"), ("ROTATION_BRIDGE", "on")]);
    run.message("the stream is open").await;
    keys.renew();
    stage.hide_keys(keys.account());
    let values = twitterstream::demo::world::keys_of(keys.account());
    let mut pending = Vec::new();
    for (secret, value) in SECRETS.iter().zip(&values) {
        pending.push(stage.world.aws.seed_version(secret, Some(value), &["AWSPENDING"]).unwrap());
    }
    keys.accept(&stage.world);
    keys.end_overlap(&stage.world);
    let event = run.message(ROTATED).await;
    assert_eq!((&event["stage"], &event["learnt_by"]), (&json!("AWSPENDING"), &json!("refusal")));

    // finishSecret: what serves already is now AWSCURRENT.
    let secrets = aws_sdk_secretsmanager::Client::new(&stage.administrator());
    make_current(&secrets, &pending).await;
    run.hang_up();
    ended_with_all(&stage, run).await;
    assert_eq!(stage.world.feed.opened_with(&keys.account().access_token), 1);
    // A look in the middle of the moves asks for what is at AWSCURRENT, and may be given the version
    // that has just come there: one that is held. So there may be a second fetch, and no third.
    let fetches = fetches(&stage);
    let bridging = fetches.iter().filter(|((_, version), _)| pending.contains(version));
    let bridging: Vec<_> = bridging.map(|(_, count)| *count).collect();
    assert_eq!(bridging.len(), 4);
    assert!(bridging.iter().all(|count| *count <= 2), "{bridging:?}");
}

#[tokio::test]
async fn an_event_in_the_queue_is_answered_by_a_look() {
    let stage = Stage::set(flowing(100)).await;
    let queue_url = stage.world.add_rotation_queue().await.unwrap();
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1h"), ("ROTATION_QUEUE_URL", &queue_url)]);
    run.message("the stream is open").await;
    for _ in 0..3 {
        let event = rotate(&stage, &mut run, &mut keys, Order::Overlap).await;
        assert_eq!(event["learnt_by"], "event");
    }
    let ended = ended_with_all(&stage, run).await;
    assert_fetched_once(&fetches(&stage), &ended);
}

#[tokio::test]
async fn what_does_not_belong_into_the_queue_is_counted_and_deleted() {
    let stage = Stage::set(flowing(50)).await;
    let queue_url = stage.world.add_rotation_queue().await.unwrap();
    for body in ["not json", "{}", r#"{"source":"aws.s3","detail-type":"x","detail":{"name":"y"}}"#]
    {
        stage.world.aws.send_message(ROTATION_QUEUE, body).unwrap();
    }
    let mut run = stage.start(&[("ROTATION_POLL", "1h"), ("ROTATION_QUEUE_URL", &queue_url)]);
    run.event(|event| event["rotation_events_foreign"] == 3).await;
    while stage.world.aws.queue_depth(ROTATION_QUEUE).unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    ended_with_all(&stage, run).await;
}

#[tokio::test]
async fn without_its_queue_the_worker_polls_and_one_line_says_so() {
    let stage = Stage::set(flowing(100)).await;
    let queue_url = stage.world.add_rotation_queue().await.unwrap();
    let mut keys = stage.keys();
    let mut run = stage.start(&[("ROTATION_POLL", "1s"), ("ROTATION_QUEUE_URL", &queue_url)]);
    run.message("the stream is open").await;
    stage.world.aws.delete_queue(ROTATION_QUEUE).unwrap();
    let line = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("the queue of rotation events cannot be read, polling goes on")
    };
    run.event(line).await;
    let event = rotate(&stage, &mut run, &mut keys, Order::Overlap).await;
    assert_eq!(event["learnt_by"], "poll");
    ended_with_all(&stage, run).await;
}

/// Fifty times in the harsh way: the service ends the old keys and cuts their streams, and then the
/// labels move. And a few times in each other way, in the dialect that has one stream only.
#[tokio::test]
async fn many_rotations_lose_nothing_and_fetch_each_version_once() {
    for (dialect, order, count) in [
        (Dialect::TwitterV1_1, Order::ServiceFirst, 50),
        (Dialect::XV2, Order::ServiceFirst, 10),
        (Dialect::XV2, Order::LabelsFirst, 10),
        (Dialect::XV2, Order::Overlap, 10),
    ] {
        let keep_alive = Duration::from_millis(100);
        let stage = Stage::set(Options { keep_alive, ..flowing(500) }).await;
        let queue_url = stage.world.add_rotation_queue().await.unwrap();
        let (every, limit) = (Duration::from_millis(50), Some(count));
        let rotations = Some(Rotations { keys: stage.keys(), every, order, limit });
        let variables = [("ROTATION_QUEUE_URL", queue_url.as_str())];
        let until = Until::Stopped;
        let job = Job { program: program(), dialect, variables: &variables, until, rotations };
        let report = main_job::run(&stage.world, job, std::future::pending(), |_| {}).await;
        let report = report.unwrap();
        assert!(report.is_right(true), "{order:?} {report}");
        let fetched = dialect.credentials().len() as u64 * (count + 1);
        let made = (report.rotations, report.get_secret_value_calls);
        assert_eq!(made, (count, fetched), "{order:?} {report}");
    }
}
