//! Every statement of `iam/` is needed: with the file it allows (or denies) what it is for, and without
//! it that breaks and nothing else. README's table has a row for each, and each row a statement.
//!
//! The worker's own calls are made by the worker, with its exit code and words; those that ECS, the
//! registry, KMS and EventBridge make are put to the policy evaluator of the local AWS. (`rotation` has the
//! worker without `SeeWhereTheLabelsAre`.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use awsim_iam_policy::{
    AuthzRequest, ContextValue, Decision, EvalContext, PolicyDocument, evaluate, parse,
};
use serde_json::Value;
use twitterstream::demo::world::SECRETS;

use crate::support::{Ended, Stage, generated};

const REGION: &str = "us-west-2";
const ACCOUNT: &str = "123456789012";
const KEY: &str = "arn:aws:kms:us-west-2:123456789012:key/mine";
const SECRET: &str = "arn:aws:secretsmanager:us-west-2:123456789012:secret:ACCESSTOKEN-AbCdEf";
const REPOSITORY: &str = "arn:aws:ecr:us-west-2:123456789012:repository/twitterstream";
const LOG: &str =
    "arn:aws:logs:us-west-2:123456789012:log-group:twitterstream:log-stream:twitterstream/a";
const TABLE: &str = "arn:aws:dynamodb:us-west-2:123456789012:table/twitterStream";
const TASK_ROLE: &str = "arn:aws:iam::123456789012:role/twitterstream-embedded-task-role";

/// A call: who, what, on what, and the condition keys that come with it.
type Call = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

/// The statements, each with the calls that it is for.
const STATEMENTS: [(&str, &str, &[Call]); 15] = [
    (
        "task-role-embedded",
        "ReadTheCurrentCredentials",
        &[(TASK_ROLE, "secretsmanager:GetSecretValue", SECRET, CURRENT)],
    ),
    (
        "task-role-embedded",
        "SeeWhereTheLabelsAre",
        &[(TASK_ROLE, "secretsmanager:DescribeSecret", SECRET, &[])],
    ),
    ("task-role-embedded", "WriteRows", &[(TASK_ROLE, "dynamodb:PutItem", TABLE, &[])]),
    ("task-role-injected", "WriteRows", &[(TASK_ROLE, "dynamodb:PutItem", TABLE, &[])]),
    (
        "task-role-rotation-queue",
        "HearOfRotations",
        &[
            (TASK_ROLE, "sqs:ReceiveMessage", QUEUE, &[]),
            (TASK_ROLE, "sqs:DeleteMessage", QUEUE, &[]),
        ],
    ),
    ("task-execution-role-embedded", "LogInToTheRegistry", LOG_IN),
    ("task-execution-role-embedded", "PullTheImage", PULL),
    ("task-execution-role-embedded", "WriteTheLog", WRITE_LOG),
    ("task-execution-role-injected", "LogInToTheRegistry", LOG_IN),
    ("task-execution-role-injected", "PullTheImage", PULL),
    ("task-execution-role-injected", "WriteTheLog", WRITE_LOG),
    (
        "task-execution-role-injected",
        "InjectTheCredentials",
        // ECS sends no VersionStage where `valueFrom` names none.
        &[("", "secretsmanager:GetSecretValue", SECRET, &[])],
    ),
    (
        "role-customer-key",
        "DecryptTheCredentials",
        &[(
            TASK_ROLE,
            "kms:Decrypt",
            KEY,
            &[
                ("kms:ViaService", "secretsmanager.us-west-2.amazonaws.com"),
                ("kms:EncryptionContext:SecretARN", SECRET),
            ],
        )],
    ),
    (
        "rotation-queue-policy",
        "EventsOfTheRule",
        &[(
            "",
            "sqs:SendMessage",
            QUEUE,
            &[(
                "aws:SourceArn",
                "arn:aws:events:us-west-2:123456789012:rule/twitterstream-rotations",
            )],
        )],
    ),
    (
        "alarm-topic-policy",
        "EventsOfTheAlarm",
        &[(
            "",
            "sns:Publish",
            "arn:aws:sns:us-west-2:123456789012:twitterstream-secret-access",
            &[(
                "aws:SourceArn",
                "arn:aws:events:us-west-2:123456789012:rule/twitterstream-secret-access",
            )],
        )],
    ),
];

/// What no file may allow, whichever statement one thinks of.
const NEVER: [Call; 9] = [
    (
        TASK_ROLE,
        "secretsmanager:GetSecretValue",
        SECRET,
        &[("secretsmanager:VersionStage", "AWSPREVIOUS")],
    ),
    (
        TASK_ROLE,
        "secretsmanager:GetSecretValue",
        "arn:aws:secretsmanager:us-west-2:123456789012:secret:OTHER-AbCdEf",
        CURRENT,
    ),
    // The name of another secret may begin with that of one of the four.
    (
        TASK_ROLE,
        "secretsmanager:GetSecretValue",
        "arn:aws:secretsmanager:us-west-2:123456789012:secret:ACCESSTOKEN-more-AbCdEf",
        CURRENT,
    ),
    (TASK_ROLE, "secretsmanager:PutSecretValue", SECRET, &[]),
    (TASK_ROLE, "dynamodb:Scan", TABLE, &[]),
    (TASK_ROLE, "dynamodb:PutItem", "arn:aws:dynamodb:us-west-2:123456789012:table/other", &[]),
    // The resource of kms:Decrypt is a key, so a secret's ARN grants nothing.
    (TASK_ROLE, "kms:Decrypt", KEY, &[("kms:ViaService", "s3.us-west-2.amazonaws.com")]),
    (TASK_ROLE, "ecr:BatchGetImage", "arn:aws:ecr:us-west-2:123456789012:repository/other", &[]),
    (
        TASK_ROLE,
        "logs:PutLogEvents",
        "arn:aws:logs:us-west-2:123456789012:log-group:other:log-stream:a",
        &[],
    ),
];

const CURRENT: &[(&str, &str)] = &[("secretsmanager:VersionStage", "AWSCURRENT")];
const QUEUE: &str = "arn:aws:sqs:us-west-2:123456789012:twitterstream-rotations";
const LOG_IN: &[Call] = &[("", "ecr:GetAuthorizationToken", "*", &[])];
const PULL: &[Call] = &[
    ("", "ecr:BatchCheckLayerAvailability", REPOSITORY, &[]),
    ("", "ecr:BatchGetImage", REPOSITORY, &[]),
    ("", "ecr:GetDownloadUrlForLayer", REPOSITORY, &[]),
];
const WRITE_LOG: &[Call] =
    &[("", "logs:CreateLogStream", LOG, &[]), ("", "logs:PutLogEvents", LOG, &[])];

/// The files of `iam/`, by name without `.json`, their placeholders filled in.
fn files() -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("iam");
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("$REGION", REGION).replace("$AWSACCOUNT", ACCOUNT);
        let text = text.replace("$CUSTOMERKEY", KEY).replace("$VPCENDPOINT", "vpce-1");
        assert!(!text.contains('$'), "{} has another placeholder", path.display());
        serde_json::from_str(&text).unwrap()
    };
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read(&path)))
        .collect()
}

fn sids(document: &Value) -> Vec<&str> {
    let statements = document["Statement"].as_array().unwrap().iter();
    statements.map(|statement| statement["Sid"].as_str().expect("a statement has no Sid")).collect()
}

fn without(document: &Value, sid: &str) -> Value {
    let mut document = document.clone();
    let statements = document["Statement"].as_array_mut().unwrap();
    let before = statements.len();
    statements.retain(|statement| statement["Sid"] != sid);
    assert_eq!(statements.len(), before - 1, "there is no statement {sid}");
    document
}

/// The evaluator knows no service principals: of a policy that names one it is asked as if it were
/// that service's own.
fn policy(document: &Value) -> PolicyDocument {
    let mut document = document.clone();
    for statement in document["Statement"].as_array_mut().unwrap() {
        statement.as_object_mut().unwrap().remove("Principal");
    }
    parse(&document.to_string()).unwrap()
}

fn decision(identity: &Value, resource: Option<&Value>, call: &Call) -> Decision {
    let (principal_arn, action, resource_arn, keys) = *call;
    let string = |value: &str| ContextValue::String(value.to_owned());
    let mut context: HashMap<_, _> =
        keys.iter().map(|(key, value)| ((*key).to_owned(), string(value))).collect();
    context.insert("aws:PrincipalArn".to_owned(), string(principal_arn));
    let request = AuthzRequest {
        principal_arn,
        principal_account: ACCOUNT,
        action,
        resource_arn,
        context: &context,
    };
    let resource = resource.map(|document| parse(&document.to_string()).unwrap());
    let context = EvalContext {
        identity_policies: &[policy(identity)],
        permissions_boundary: None,
        resource_policy: resource.as_ref(),
        scps: &[],
        session_policy: None,
    };
    evaluate(&request, &context)
}

#[test]
fn without_a_statement_what_it_is_for_breaks_and_nothing_else() {
    let files = files();
    for (file, sid, calls) in STATEMENTS {
        let whole = &files[file];
        let cut = without(whole, sid);
        for (other_file, other, needed) in STATEMENTS {
            if other_file != file {
                continue;
            }
            for call in needed {
                assert_eq!(decision(whole, None, call), Decision::Allow, "{file}: {call:?}");
                let expected = if other == sid { Decision::ImplicitDeny } else { Decision::Allow };
                assert_eq!(decision(&cut, None, call), expected, "{file} without {sid}: {call:?}");
            }
        }
        assert!(!calls.is_empty());
    }
    for (name, document) in &files {
        // This one is judged below.
        if name == "trust-policy" || name == "secret-resource-policy" {
            continue;
        }
        for call in NEVER {
            // Injection names no staging label, so its grant cannot either.
            let injection = name == "task-execution-role-injected"
                && (call.2, call.1) == (SECRET, "secretsmanager:GetSecretValue");
            assert!(
                injection || decision(document, None, &call) != Decision::Allow,
                "{name}: {call:?}"
            );
        }
    }
}

#[test]
fn the_condition_on_the_label_is_what_denies_older_values_and_describe_secret_has_none() {
    let mut document = files()["task-role-embedded"].clone();
    let older = NEVER[0];
    assert_eq!(decision(&document, None, &older), Decision::ImplicitDeny);
    let statement = document["Statement"][0].as_object_mut().unwrap();
    let condition = statement.remove("Condition").unwrap();
    assert_eq!(decision(&document, None, &older), Decision::Allow);
    // In one statement with that condition DescribeSecret, which sends no label, would be denied.
    document["Statement"][1]["Condition"] = condition;
    let look: Call = (TASK_ROLE, "secretsmanager:DescribeSecret", SECRET, &[]);
    assert_eq!(decision(&document, None, &look), Decision::ImplicitDeny);
}

#[test]
fn the_execution_role_of_the_embedded_model_has_nothing_of_secrets_manager() {
    let text = files()["task-execution-role-embedded"].to_string();
    assert!(!text.contains("secretsmanager") && !text.contains("kms"), "{text}");
}

#[test]
fn the_resource_policy_denies_the_task_role_outside_the_endpoint_and_nobody_else() {
    let files = files();
    let bound = &files["secret-resource-policy"];
    assert_eq!(sids(bound), ["OnlyThroughTheEndpoint"]);
    let allowed: Value = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:*", "Resource": "*"}]});
    let administrator = "arn:aws:iam::123456789012:role/administrator";
    let inside: &[(&str, &str)] = &[("aws:SourceVpce", "vpce-1")];
    let elsewhere: &[(&str, &str)] = &[("aws:SourceVpce", "vpce-2")];
    for (who, action, keys, expected) in [
        (TASK_ROLE, "secretsmanager:GetSecretValue", inside, Decision::Allow),
        (TASK_ROLE, "secretsmanager:GetSecretValue", elsewhere, Decision::ExplicitDeny),
        (TASK_ROLE, "secretsmanager:GetSecretValue", &[][..], Decision::ExplicitDeny),
        (TASK_ROLE, "secretsmanager:DescribeSecret", &[], Decision::Allow),
        (administrator, "secretsmanager:GetSecretValue", &[], Decision::Allow),
        (administrator, "secretsmanager:PutSecretValue", &[], Decision::Allow),
    ] {
        // The keys live as long as the table above.
        let keys: Vec<_> = keys.to_vec();
        let call = (who, action, SECRET, &*keys.leak());
        assert_eq!(decision(&allowed, Some(bound), &call), expected, "{call:?}");
        assert_eq!(decision(&allowed, None, &call), Decision::Allow, "without it: {call:?}");
    }
}

#[test]
fn readme_has_a_row_for_each_statement_and_a_statement_for_each_row() {
    let files = files();
    let statements: BTreeSet<_> = files
        .iter()
        .flat_map(|(file, document)| {
            sids(document).into_iter().map(|sid| (file.clone(), sid.to_owned()))
        })
        .collect();
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.unwrap();
    let table = readme.split("## What the roles may do").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let mut rows = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, names, sid, why, breaks, _] = cells[..] else { panic!("not four cells: {line}") };
        assert!(!why.is_empty() && !breaks.is_empty(), "{line}");
        for file in names.split(", ") {
            let row = (file.trim_matches('`').to_owned(), sid.trim_matches('`').to_owned());
            assert!(rows.insert(row), "twice: {line}");
        }
    }
    assert_eq!(rows, statements);
    // And each statement is exercised here.
    let judged: BTreeSet<_> = STATEMENTS
        .iter()
        .map(|(file, sid, _)| ((*file).to_owned(), (*sid).to_owned()))
        .chain([
            ("trust-policy".to_owned(), "TasksOfThisAccount".to_owned()),
            ("secret-resource-policy".to_owned(), "OnlyThroughTheEndpoint".to_owned()),
        ])
        .collect();
    assert_eq!(judged, statements);
}

/// Runs the worker, with one statement of its task role taken away.
async fn run_without(stage: &Stage, sid: &str) -> Ended {
    let document = without(&stage.world.document("task-role-embedded.json").unwrap(), sid);
    let role = stage.world.task_definition.task_role();
    stage.world.aws.put_role_policy(role, "task-role-embedded", &document).await.unwrap();
    let ended = stage.start(&[]).end().await;
    assert_eq!(stage.world.feed.statistics().connects, 0, "the stream was opened");
    ended
}

#[tokio::test]
async fn without_read_the_current_credentials_the_worker_does_not_start() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let words = ["access denied for the task role", "secretsmanager:GetSecretValue", "AWSCURRENT"];
    run_without(&stage, "ReadTheCurrentCredentials").await.assert_says(69, &words);
}

#[tokio::test]
async fn without_write_rows_the_worker_does_not_open_the_stream() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let words = ["cannot write its table", "grant dynamodb:PutItem"];
    run_without(&stage, "WriteRows").await.assert_says(69, &words);
}

#[tokio::test]
async fn without_hear_of_rotations_the_queue_is_denied_and_the_worker_polls_on() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let queue_url = stage.world.add_rotation_queue().await.unwrap();
    let document = stage.world.document("task-role-rotation-queue.json").unwrap();
    let role = stage.world.task_definition.task_role();
    // IAM takes no policy without statements: what is left of the other one stands in its place.
    assert_eq!(sids(&document), ["HearOfRotations"]);
    let rest = stage.world.document("task-role-embedded.json").unwrap();
    stage.world.aws.put_role_policy(role, "task-role-rotation-queue", &rest).await.unwrap();
    let mut run = stage.start(&[("ROTATION_QUEUE_URL", &queue_url)]);
    run.event(|event| event.to_string().contains("sqs grants of the task role")).await;
    run.posts_read(10).await;
    assert_eq!(run.stop().await.code, Some(0));
}

#[tokio::test]
async fn without_a_statement_that_trusts_ecs_no_task_gets_the_role() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let trust = stage.world.document("trust-policy.json").unwrap();
    assert_eq!(sids(&trust), ["TasksOfThisAccount"]);
    let role = stage.world.task_definition.task_role();
    let session = || stage.world.aws.begin_session(role, "a", std::time::Duration::from_hours(1));
    assert!(session().is_ok());
    // Of another account, or of somebody else's task.
    for (key, value) in [
        ("/Statement/0/Condition/StringEquals/aws:SourceAccount", "210987654321"),
        ("/Statement/0/Condition/ArnLike/aws:SourceArn", "arn:aws:ecs:us-west-2:210987654321:*"),
        ("/Statement/0/Principal/Service", "ec2.amazonaws.com"),
    ] {
        let mut other = trust.clone();
        *other.pointer_mut(key).unwrap() = value.into();
        stage.world.aws.put_role(role, &other, &[]).await.unwrap();
        assert!(session().is_err(), "{key} is not looked at");
    }
}

/// Whether a role with this file as its policy can do with the unmodified SDK what ECS does to inject.
async fn can_inject(stage: &Stage, file: &str, cut: Option<&str>) -> Vec<bool> {
    let trust = stage.world.document("trust-policy.json").unwrap();
    let mut document = stage.world.document(file).unwrap();
    if let Some(sid) = cut {
        document = without(&document, sid);
    }
    let role = "twitterstream-injected-task-execution-role";
    stage.world.aws.put_role(role, &trust, &[("policy", document)]).await.unwrap();
    let key = stage.world.aws.begin_session(role, "a", std::time::Duration::from_hours(1)).unwrap();
    let credentials = Credentials::new(
        key.access_key_id,
        key.secret_access_key,
        Some(key.session_token),
        None,
        "test",
    );
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(stage.world.aws.region().to_owned()))
        .endpoint_url(stage.world.aws.endpoint_url())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    let client = aws_sdk_secretsmanager::Client::new(&sdk);
    let mut read = Vec::new();
    for secret in SECRETS {
        read.push(client.get_secret_value().secret_id(secret).send().await.is_ok());
    }
    read
}

#[tokio::test]
async fn only_the_execution_role_of_the_injected_model_can_inject() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let injected = "task-execution-role-injected.json";
    assert_eq!(can_inject(&stage, injected, None).await, [true; 4]);
    assert_eq!(can_inject(&stage, injected, Some("InjectTheCredentials")).await, [false; 4]);
    assert_eq!(can_inject(&stage, "task-execution-role-embedded.json", None).await, [false; 4]);
}
