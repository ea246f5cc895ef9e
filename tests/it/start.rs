//! What keeps the worker from starting, and what it says: exit 64 for the configuration, 69 for a
//! dependency that refuses, always with what to do next, and always before the stream is opened.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use twitterstream::demo::local_aws::{Effect, Fault, Service};

use crate::support::{Ended, Stage, generated, program};

/// Runs the worker in a world until it has ended by itself; the stream was never opened.
async fn ended(stage: &Stage, variables: &[(&str, &str)]) -> Ended {
    let ended = stage.start(variables).end().await;
    assert_eq!(stage.world.feed.statistics().connects, 0, "the stream was opened");
    ended
}

/// Runs the worker with these variables and nothing else.
async fn alone(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    command.env_clear().envs(variables.iter().copied()).args(arguments).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn stage() -> Stage {
    Stage::set(generated(1.0, 10)).await
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_named_at_once_with_exit_64() {
    let variables = [
        ("FEED", "MARK"),
        ("FEED_URL", "http://example.com/MARKER"),
        ("ACCESSTOKEN_SECRET", "MARK ER"),
    ];
    let (code, log, error) = alone(&variables, &[]).await;
    assert_eq!((code, log.as_str()), (Some(64), ""));
    for word in
        ["3 fault(s)", "FEED: expected", "FEED_URL: expected", "ACCESSTOKEN_SECRET: expected"]
    {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert!(!error.contains("MARK"), "{error}");
}

#[tokio::test]
async fn a_secret_in_the_environment_stops_it_and_is_let_through_with_a_warning_where_that_is_allowed()
 {
    let stage = stage().await;
    stage.hide("MARKER");
    let variables = [("CONSUMERKEY", "MARKER"), ("ACCESSTOKEN", "")];
    let key = ("AWS_SECRET_ACCESS_KEY", "MARKER");
    // The task has the marks of Fargate.
    ended(&stage, &[variables[0], variables[1], key])
        .await
        .assert_says(64, &["3 fault(s)", "CONSUMERKEY:", "ACCESSTOKEN:", "AWS_SECRET_ACCESS_KEY:"]);
    assert!(stage.world.aws.audit().is_empty());

    let allow = ("ALLOW_ENVIRONMENT", "CONSUMERKEY,ACCESSTOKEN,LOG_SENSITIVE_BODIES");
    for _ in 0..2 {
        let mut run = stage.start(&[variables[0], variables[1], allow]);
        run.message("the stream is open").await;
        let ended = run.stop().await;
        assert_eq!(ended.code, Some(0));
        let warnings = ended.events("ALLOW_ENVIRONMENT lets through what should not be set");
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0]["variables"], "CONSUMERKEY, ACCESSTOKEN");
        assert_eq!(warnings[0]["level"], "WARN");
    }
}

#[tokio::test]
async fn arguments_are_help_and_version_and_no_other() {
    let version = concat!("twitterstream ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    assert_eq!(alone(&[], &["--version"]).await, (Some(0), version, String::new()));
    let (code, help, _) = alone(&[], &["--help"]).await;
    assert!(code == Some(0) && help.contains("Exit codes"));
    assert_eq!(alone(&[], &["MARKER"]).await.0, Some(64));
}

#[tokio::test]
async fn without_a_region_or_a_task_role_it_says_which_is_missing() {
    let feed = ("FEED", "twitter-v1.1");
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    let (code, log, _) = alone(&[feed, off], &[]).await;
    assert_eq!(code, Some(69));
    assert!(log.contains("set AWSREGION or AWS_REGION"), "{log}");
    let (code, log, _) = alone(&[feed, off, ("AWSREGION", "us-west-2")], &[]).await;
    assert_eq!(code, Some(69));
    assert!(log.contains("taskRoleArn"), "{log}");
}

#[tokio::test]
async fn a_credentials_endpoint_that_refuses_its_token_stops_it_at_once() {
    let stage = stage().await;
    let ended = ended(&stage, &[("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong")]).await;
    ended.assert_says(69, &["taskRoleArn"]);
}

#[tokio::test]
async fn each_secret_that_the_task_role_may_not_read_stops_it_and_is_named() {
    for (secret, variable) in [
        ("CONSUMERKEY", "CONSUMERKEY_SECRET"),
        ("CONSUMERSECRETKEY", "CONSUMERSECRETKEY_SECRET"),
        ("ACCESSTOKEN", "ACCESSTOKEN_SECRET"),
        ("ACCESSTOKENSECRET", "ACCESSTOKENSECRET_SECRET"),
    ] {
        let stage = stage().await;
        let mut policy = stage.world.document("task-role-embedded.json").unwrap();
        let granted = policy["Statement"][0]["Resource"].as_array_mut().unwrap();
        granted.retain(|arn| !arn.as_str().unwrap().contains(&format!(":{secret}-")));
        assert_eq!(granted.len(), 3);
        let role = stage.world.task_definition.task_role();
        stage.world.aws.put_role_policy(role, "task-role-embedded", &policy).await.unwrap();
        let ended = ended(&stage, &[]).await;
        ended.assert_says(
            69,
            &[
                variable,
                &format!("of secret {secret}:"),
                "access denied for the task role",
                "request id",
                "iam/task-role-embedded.json",
            ],
        );
    }
}

#[tokio::test]
async fn a_label_that_the_policy_does_not_allow_is_refused() {
    let stage = stage().await;
    let region = stage.world.aws.region();
    let account = stage.world.aws.account_id();
    stage.world.aws.seed_version("ACCESSTOKEN", Some("next"), &["AWSPENDING"]).unwrap();
    let pending =
        format!("arn:aws:secretsmanager:{region}:{account}:secret:ACCESSTOKEN::AWSPENDING:");
    ended(&stage, &[("ACCESSTOKEN_SECRET", &pending)]).await.assert_says(69, &["access denied"]);
}

#[tokio::test]
async fn a_secret_that_is_not_there_or_deleted_stops_it() {
    let stage = stage().await;
    let secrets = aws_sdk_secretsmanager::Client::new(&stage.administrator());
    secrets.delete_secret().secret_id("ACCESSTOKEN").send().await.unwrap();
    ended(&stage, &[])
        .await
        .assert_says(69, &["ACCESSTOKEN_SECRET", "scheduled for deletion", "restore-secret"]);
    secrets.restore_secret().secret_id("ACCESSTOKEN").send().await.unwrap();
    // The policy names the four secrets, so another one is denied before it is looked for.
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["secretsmanager:*", "dynamodb:*"], "Resource": "*"}]});
    let role = stage.world.task_definition.task_role();
    stage.world.aws.put_role_policy(role, "task-role-embedded", &policy).await.unwrap();
    ended(&stage, &[("CONSUMERKEY_SECRET", "ELSEWHERE")])
        .await
        .assert_says(69, &["of secret ELSEWHERE", "there is no such secret"]);
}

#[tokio::test]
async fn a_value_that_cannot_be_used_stops_it_and_is_never_shown() {
    for (value, word) in [
        (Some("MARKER-value\n".to_owned()), "line break"),
        (Some("MARKER value".to_owned()), "white space"),
        (Some("MARKER-".repeat(1000)), "longer than 4096 bytes"),
        (None, "no value under that staging label"),
    ] {
        let stage = stage().await;
        stage.hide("MARKER");
        stage
            .world
            .aws
            .seed_version("CONSUMERSECRETKEY", value.as_deref(), &["AWSCURRENT"])
            .unwrap();
        ended(&stage, &[]).await.assert_says(69, &["CONSUMERSECRETKEY", word]);
    }
}

#[tokio::test]
async fn a_binary_secret_stops_it() {
    let stage = stage().await;
    let secrets = aws_sdk_secretsmanager::Client::new(&stage.administrator());
    let binary = aws_smithy_types::Blob::new(*b"MARKER");
    secrets.put_secret_value().secret_id("ACCESSTOKEN").secret_binary(binary).send().await.unwrap();
    ended(&stage, &[]).await.assert_says(69, &["ACCESSTOKEN", "it is binary"]);
}

#[tokio::test]
async fn a_json_secret_without_the_key_stops_it_and_is_never_quoted() {
    let stage = stage().await;
    stage.hide("MARKER");
    for (json, word) in [
        (r#"{"other": "MARKER"}"#, "no key \"key\""),
        (r#"{"key": {"MARKER": 1}}"#, "is not a string"),
        (r#"{"key": MARKER}"#, "not a JSON object (syntax error at line 1, column"),
        (r#"["MARKER"]"#, "not a JSON object (type error"),
    ] {
        stage.world.aws.seed_version("ACCESSTOKEN", Some(json), &["AWSCURRENT"]).unwrap();
        let region = stage.world.aws.region();
        let account = stage.world.aws.account_id();
        let arn = format!("arn:aws:secretsmanager:{region}:{account}:secret:ACCESSTOKEN:key::");
        ended(&stage, &[("ACCESSTOKEN_SECRET", &arn)])
            .await
            .assert_says(69, &["ACCESSTOKEN", word]);
    }
}

#[tokio::test]
async fn a_table_that_is_missing_denied_or_of_another_key_stops_it() {
    let stage = stage().await;
    ended(&stage, &[("DYNAMODBTABLE", "elsewhere")])
        .await
        .assert_says(69, &["cannot write its table", "dynamodb:PutItem", "table elsewhere"]);

    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["secretsmanager:*", "dynamodb:*"], "Resource": "*"}]});
    let role = stage.world.task_definition.task_role();
    stage.world.aws.put_role_policy(role, "task-role-embedded", &policy).await.unwrap();
    ended(&stage, &[("DYNAMODBTABLE", "elsewhere")])
        .await
        .assert_says(69, &["create the table", "table elsewhere"]);

    let table = aws_sdk_dynamodb::Client::new(&stage.administrator());
    let name = "other-key";
    let id = aws_sdk_dynamodb::types::AttributeDefinition::builder()
        .attribute_name("id")
        .attribute_type(aws_sdk_dynamodb::types::ScalarAttributeType::S)
        .build()
        .unwrap();
    let hash = aws_sdk_dynamodb::types::KeySchemaElement::builder()
        .attribute_name("id")
        .key_type(aws_sdk_dynamodb::types::KeyType::Hash)
        .build()
        .unwrap();
    table
        .create_table()
        .table_name(name)
        .attribute_definitions(id)
        .key_schema(hash)
        .billing_mode(aws_sdk_dynamodb::types::BillingMode::PayPerRequest)
        .send()
        .await
        .unwrap();
    ended(&stage, &[("DYNAMODBTABLE", name)]).await.assert_says(69, &["key must be user (HASH"]);
}

#[tokio::test]
async fn what_is_transient_is_tried_again_and_the_start_succeeds() {
    let stage = stage().await;
    let secrets = Effect::error(400, "ThrottlingException");
    stage.world.aws.inject(Fault::every_call(Service::SecretsManager, secrets).times(20));
    let table = Effect::error(500, "InternalServerError");
    stage.world.aws.inject(Fault::every_call(Service::DynamoDb, table).times(5));
    let mut run = stage.start(&[]);
    run.posts_read(10).await;
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    assert!(!ended.events("not started yet; trying again").is_empty());
    assert_eq!(stage.rows().len(), 10);
}

#[tokio::test]
async fn what_stays_transient_ends_at_start_limit() {
    let stage = stage().await;
    let error = Effect::error(503, "ServiceUnavailable");
    stage.world.aws.inject(Fault::every_call(Service::SecretsManager, error));
    let ended = ended(&stage, &[("START_LIMIT", "2s")]).await;
    ended.assert_says(69, &["no answer that can be used yet", "ServiceUnavailable"]);
}

#[tokio::test]
async fn a_stop_before_the_stream_is_open_ends_it_cleanly() {
    let stage = stage().await;
    stage.world.aws.inject(Fault::every_call(Service::SecretsManager, Effect::Hang));
    let mut run = stage.start(&[]);
    run.message("starting").await;
    // The signals are handled once the worker talks to the network.
    let mut calls = stage.world.aws.audit_changes();
    let _ = tokio::time::timeout(Duration::from_secs(5), calls.changed()).await;
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.events("asked to stop before the stream was open").len(), 1);
}
