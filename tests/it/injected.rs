//! The counter-example's worker: it does the same job with what ECS has put into its environment, and
//! asks Secrets Manager for nothing.

use std::path::Path;

use serde_json::json;
use twitterstream::demo::ecs_agent;
use twitterstream::demo::world::{Model, SECRETS, World, keys_of};

use crate::support::{Stage, generated};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_injected"))
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

async fn injected(stage: &Stage) -> Vec<(String, String)> {
    ecs_agent::injected(&stage.world.task_definition, &stage.world.aws).await.unwrap()
}

#[tokio::test]
async fn what_ecs_injects_does_the_main_job_and_the_task_asks_for_no_secret() {
    let stage = Stage::of(Model::Injected, generated(1.0, 100)).await;
    let injected = injected(&stage).await;
    let expected: Vec<_> =
        SECRETS.into_iter().map(ToOwned::to_owned).zip(keys_of(stage.account())).collect();
    assert!(injected == expected, "not the four secrets");
    let mut run = stage.run(stage.command(program(), &borrowed(&injected)));
    run.posts_read(100).await;
    assert_eq!(run.stop().await.code, Some(0));
    assert_eq!(stage.rows().len(), 100);
    let audit = stage.world.aws.audit();
    let askers: Vec<_> = audit
        .iter()
        .filter(|record| record.event_source == "secretsmanager.amazonaws.com")
        .map(|record| (record.event_name.as_str(), record.principal_arn.as_deref().unwrap()))
        .collect();
    assert_eq!(askers.len(), 4);
    let execution_role = "assumed-role/twitterstream-injected-task-execution-role/";
    for (event_name, asker) in askers {
        assert!(event_name == "GetSecretValue" && asker.contains(execution_role), "{asker}");
    }
}

#[tokio::test]
async fn what_is_not_injected_is_named() {
    let stage = Stage::of(Model::Injected, generated(1.0, 1)).await;
    let mut injected = injected(&stage).await;
    injected.pop();
    let ended = stage.run(stage.command(program(), &borrowed(&injected))).end().await;
    ended.assert_says(69, &["the variable ACCESSTOKENSECRET is not set"]);
}

#[tokio::test]
async fn a_task_whose_execution_role_may_not_read_is_not_started() {
    let stage = Stage::of(Model::Injected, generated(1.0, 1)).await;
    let World { aws, task_definition, .. } = &stage.world;
    let deny = json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Deny", "Action": "secretsmanager:*", "Resource": "*" }],
    });
    aws.put_role_policy(task_definition.execution_role(), "deny", &deny).await.unwrap();
    let Err(error) = ecs_agent::injected(task_definition, aws).await else {
        panic!("a secret was injected")
    };
    let error = error.to_string();
    assert!(error.starts_with("ResourceInitializationError: "), "{error}");
    assert!(error.contains(":secret:CONSUMERKEY-"), "{error}");
    assert!(error.ends_with("AccessDeniedException"), "{error}");
}
