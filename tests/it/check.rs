//! What the command `check` says of a task: one line of JSON for each finding, and no value in any.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Stage, generated, program};

/// Runs it in the stage's world; its exit code and its findings.
async fn findings(
    stage: &Stage,
    variables: &[(&str, &str)],
) -> (Option<i32>, BTreeMap<String, (bool, String)>) {
    let mut command = stage.command(program(), variables);
    let output = command.arg("check").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for secret in stage.secrets() {
        assert!(!text.contains(&secret), "a value is in the findings");
    }
    let found = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        (text("check"), (line["ok"].as_bool().unwrap(), text("found")))
    });
    (output.status.code(), found.collect())
}

fn wrong(found: &BTreeMap<String, (bool, String)>) -> Vec<&str> {
    // Who runs the tests, and on what, is not what is asked.
    let platform = ["user", "capabilities", "root file system", "end"];
    found
        .iter()
        .filter(|(check, (ok, _))| !ok && !platform.contains(&check.as_str()))
        .map(|(check, _)| check.as_str())
        .collect()
}

#[tokio::test]
async fn check_passes_with_the_shipped_policy_and_names_what_another_allows() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let (_, found) = findings(&stage, &[]).await;
    assert_eq!(wrong(&found), [""; 0], "{found:?}");
    assert_eq!(found.keys().filter(|check| check.ends_with("can be read")).count(), 4);
    assert_eq!(found["hardening"], (true, "full".to_owned()));

    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]});
    let role = stage.world.task_definition.task_role();
    stage.world.aws.put_role_policy(role, "task-role-embedded", &policy).await.unwrap();
    let secrets = aws_sdk_secretsmanager::Client::new(&stage.administrator());
    secrets
        .create_secret()
        .name("twitterstream-not-granted")
        .secret_string("x")
        .send()
        .await
        .unwrap();
    stage.world.aws.seed_version("ACCESSTOKEN", Some("older"), &["AWSPREVIOUS"]).unwrap();
    let (code, found) = findings(&stage, &[]).await;
    assert_eq!(code, Some(69));
    let wrong = wrong(&found);
    for check in [
        "ACCESSTOKEN at AWSPREVIOUS is denied",
        "ACCESSTOKEN can be looked at",
        "another secret is denied",
        "twitterStream can be written",
    ] {
        assert!(wrong.contains(&check), "{check} is not in {wrong:?}");
    }
}

#[tokio::test]
async fn check_says_whose_the_volume_is_and_whether_it_can_be_written() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let (_, found) = findings(&stage, &[("SPOOL_DIR", path)]).await;
    assert!(found["volume"].0 && found["volume"].1.ends_with(", writable"), "{found:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let (code, found) = findings(&stage, &[("SPOOL_DIR", "/nowhere")]).await;
    assert_eq!((code, found["volume"].0), (Some(69), false));
}
