//! What is posted and matches is in the table and in the log, once and to the letter.

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use twitterstream::demo::feed_server::{Options, Scheme};
use twitterstream::demo::main_job::{self, Job, Until};
use twitterstream::demo::report::Report;
use twitterstream::demo::tls_front::{Authority, Fronts};
use twitterstream::demo::world::World;
use twitterstream::feed::Dialect;

use crate::support::{Stage, generated, post, program, replayed};

const DATE: &str = "Wed Oct 10 20:19:24 +0000 2018";

#[tokio::test]
async fn every_matching_post_is_in_the_table_once_and_to_the_letter() {
    for (dialect, matching) in [(Dialect::TwitterV1_1, 0.3), (Dialect::XV2, 0.5)] {
        let stage = Stage::set(generated(matching, 2_000)).await;
        let never = std::future::pending();
        let until = Until::Posts(2_000);
        let job = Job { program: program(), dialect, variables: &[], until, rotations: None };
        let report = main_job::run(&stage.world, job, never, |_| {}).await.unwrap();
        assert!(report.is_right(true), "{report}");
        assert!(report.rows_collided > 0, "no two posts shared a key: {report}");
        assert_eq!(report.get_secret_value_calls, dialect.credentials().len() as u64);
        assert_eq!(report.worker_exit, "exit status: 0");
        let crashed = Report { worker_exit: "exit status: 70".to_owned(), ..report.clone() };
        assert!(!crashed.is_right(true), "{crashed}");
        match dialect {
            Dialect::TwitterV1_1 => assert!(report.posts_matched > 400, "{report}"),
            // What does not match is not sent.
            Dialect::XV2 => assert_eq!(report.posts_matched, 2_000, "{report}"),
        }
    }
}

#[tokio::test]
async fn the_log_has_user_date_and_text_of_every_row_and_no_secret_at_trace() {
    let stage = Stage::set(generated(0.5, 200)).await;
    let mut run = stage.start(&[]);
    run.posts_read(200).await;
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    let field = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let mut logged: Vec<_> = ended
        .events("post")
        .iter()
        .map(|event| ["user", "date", "text", "id"].map(|name| field(event, name)))
        .collect();
    let mut expected: Vec<_> = stage
        .world
        .feed
        .expected_rows()
        .into_iter()
        .map(|row| [row.user, row.date, row.text, row.id])
        .collect();
    logged.sort();
    expected.sort();
    assert!(expected.len() > 50);
    assert_eq!(logged, expected);
    // The check above would find nothing in a log that is not written.
    assert!(ended.log.iter().any(|line| line.contains("\"level\":\"TRACE\"")));
}

#[tokio::test]
async fn a_post_cannot_forge_a_line_of_the_log() {
    for format in ["json", "text"] {
        let forged = "amazon\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r\u{1b}[2K\u{85}";
        let stage = Stage::set(replayed(&post(1, "user", forged))).await;
        let mut run = stage.start(&[("LOG_FORMAT", format), ("RUST_LOG", "info")]);
        match format {
            "json" => drop(run.posts_read(1).await),
            _ => drop(stage.world.feed.wait_until(|feed| feed.posts_sent == 1).await),
        }
        while stage.rows().is_empty() {
            tokio::task::yield_now().await;
        }
        let ended = run.stop().await;
        assert_eq!(ended.code, Some(0));
        let lines: Vec<_> = ended.log.iter().filter(|line| line.contains("forged")).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].starts_with("{\"level\":\"ERROR\"") && !lines[0].contains('\u{1b}'));
        assert_eq!(stage.rows()[0][2], forged);
    }
}

#[tokio::test]
async fn a_row_that_another_worker_left_without_an_id_stays() {
    let stage = Stage::set(replayed(&post(7, "user", "amazon new"))).await;
    let table = aws_sdk_dynamodb::Client::new(&stage.administrator());
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let put = table.put_item().table_name(stage.world.table());
    let old = put.item("user", text("user")).item("date", text(DATE)).item("text", text("old"));
    old.send().await.unwrap();
    let mut run = stage.start(&[]);
    run.posts_read(1).await;
    assert_eq!(run.stop().await.code, Some(0));
    let mut rows = stage.rows();
    rows.sort();
    let row = |date: &str, text: &str, id: &str| ["user", date, text, id].map(str::to_owned);
    assert_eq!(rows, [row(DATE, "old", ""), row(&format!("{DATE}#7"), "amazon new", "7")]);
}

#[tokio::test]
async fn a_post_that_is_delivered_again_changes_nothing() {
    let one = post(1, "user", "amazon one");
    let two = post(2, "user", "amazon two");
    let stage = Stage::set(replayed(&[&*one, &two, &two, &one, &one, &two].concat())).await;
    let mut run = stage.start(&[]);
    run.posts_read(6).await;
    assert_eq!(run.stop().await.code, Some(0));
    let mut ids: Vec<_> = stage.rows().into_iter().map(|[_, _, _, id]| id).collect();
    ids.sort();
    assert_eq!(ids, ["1", "2"]);
}

#[tokio::test]
async fn recorded_posts_of_the_search_api_are_read_as_well() {
    let search = r#"{"statuses": [
        {"created_at": "d1", "id_str": "1", "full_text": "the whole Amazon", "user": {"screen_name": "a"}},
        {"created_at": "d2", "id_str": "2", "text": "no match", "user": {"screen_name": "b"}}
    ], "search_metadata": {"count": 2}}"#;
    let stage = Stage::set(replayed(search)).await;
    let mut run = stage.start(&[]);
    let counts = run.posts_read(2).await;
    assert_eq!(counts["posts_matched"], 1);
    assert_eq!(run.stop().await.code, Some(0));
    assert_eq!(stage.rows(), [["a", "d1", "the whole Amazon", "1"].map(str::to_owned)]);
}

#[tokio::test]
async fn one_json_secret_can_hold_all_four_and_is_fetched_once() {
    let options = generated(1.0, 20);
    let keys = twitterstream::demo::world::keys_of(&options.accounts[0]);
    let stage = Stage::set(options).await;
    let [a, b, c, d] = keys.map(|key| serde_json::to_string(&key).unwrap());
    let json = format!(r#"{{"ck":{a},"cs":{b},"at":{c},"as":{d},"other":{{"x":[1]}}}}"#);
    let (arn, version_id) = stage.world.aws.seed_secret("CONSUMERKEY-and-more", &json).unwrap();
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": arn}});
    let role = stage.world.task_definition.task_role().to_owned();
    stage.world.aws.put_role_policy(&role, "one-secret", &policy).await.unwrap();
    let reference = |key: &str| format!("{arn}:{key}::");
    let run = stage.start(&[
        ("CONSUMERKEY_SECRET", &reference("ck")),
        ("CONSUMERSECRETKEY_SECRET", &reference("cs")),
        ("ACCESSTOKEN_SECRET", &reference("at")),
        ("ACCESSTOKENSECRET_SECRET", &format!("{arn}:as:AWSCURRENT:{version_id}")),
    ]);
    let mut run = run;
    run.posts_read(20).await;
    assert_eq!(run.stop().await.code, Some(0));
    assert_eq!(stage.rows().len(), 20);
    let fetched = stage.world.aws.audit();
    let fetched = fetched.iter().filter(|record| record.event_name == "GetSecretValue");
    // One for the label alone, one for the label with a version id.
    assert_eq!(fetched.count(), 2);
}

#[tokio::test]
async fn over_tls_it_trusts_whom_ssl_cert_file_names_and_nobody_else() {
    let options = Options { scheme: Scheme::Https, ..generated(1.0, 50) };
    let stage = Stage::set(options).await;
    let World { aws, feed, .. } = &stage.world;
    let fronts = Fronts::start(aws.address(), feed.address()).await.unwrap();
    let variables = fronts.variables(feed.path());
    let mut variables = variables.each_ref().map(|(name, value)| (*name, value.as_str())).to_vec();
    let mut run = stage.start(&variables);
    run.posts_read(50).await;
    assert_eq!(run.stop().await.code, Some(0));
    assert_eq!(stage.rows().len(), 50);

    // An authority that has not signed anything here.
    let stranger = Authority::new().unwrap();
    let bundle = stranger.bundle().display().to_string();
    variables.extend([("SSL_CERT_FILE", &*bundle), ("START_LIMIT", "1s")]);
    let ended = stage.start(&variables).end().await;
    ended.assert_says(69, &["invalid peer certificate"]);
    assert_eq!(feed.statistics().connects, 1);
}
