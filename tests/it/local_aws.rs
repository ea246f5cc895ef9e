//! The local AWS is right where a real one is right, seen through unmodified SDKs. Its refusals are what the other
//! tests' proofs of least privilege rest on, so each has its control here.

use std::collections::HashMap;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_secretsmanager::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::list_secrets::ListSecretsOutput;
use aws_sdk_secretsmanager::primitives::Blob;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use twitterstream::demo::local_aws::{
    AccessKey, Effect, Error, Fault, LocalAws, Record, Service, SessionCredentials, Settings, Task,
    TaskEndpoint,
};

const ROLE: &str = "task-role";
const TASK_ID: &str = "0123456789abcdef0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(20);

/// A local AWS whose clock a test can move.
struct World {
    aws: LocalAws,
    offset_seconds: Arc<AtomicI64>,
}

impl World {
    async fn start() -> Self {
        let offset_seconds = Arc::new(AtomicI64::new(0));
        let offset = Arc::clone(&offset_seconds);
        let clock = Arc::new(move || {
            now() + Duration::from_secs(offset.load(Ordering::Relaxed).try_into().unwrap())
        });
        let aws = LocalAws::start(Settings::new(clock)).await.unwrap();
        Self { aws, offset_seconds }
    }

    /// With a task role of these statements.
    async fn with_role(statements: Value) -> Self {
        let world = Self::start().await;
        world.put_role(statements).await;
        world
    }

    async fn put_role(&self, statements: Value) {
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        self.aws.put_role(ROLE, &trust(), &[("inline", policy)]).await.unwrap();
    }

    fn advance(&self, time: Duration) {
        let seconds = i64::try_from(time.as_secs()).unwrap();
        self.offset_seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    fn session(&self) -> SessionCredentials {
        self.aws.begin_session(ROLE, TASK_ID, Duration::from_hours(1)).unwrap()
    }

    fn config(&self, credentials: Credentials) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.aws.region().to_owned()))
            .endpoint_url(self.aws.endpoint_url())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::disabled())
            .build()
    }

    fn secrets(&self, credentials: Credentials) -> aws_sdk_secretsmanager::Client {
        aws_sdk_secretsmanager::Client::new(&self.config(credentials))
    }

    fn tables(&self, credentials: Credentials) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.config(credentials))
    }

    fn administrator(&self) -> Credentials {
        of_user(self.aws.administrator())
    }

    async fn wait_for_record(&self, matches: impl Fn(&Record) -> bool) -> Record {
        let mut changes = self.aws.audit_changes();
        tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(record) = self.aws.audit().into_iter().find(&matches) {
                    return record;
                }
                changes.changed().await.unwrap();
            }
        })
        .await
        .expect("the record comes")
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the closure that passes the wall clock in")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn trust() -> Value {
    json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" }] })
}

fn of_user(key: &AccessKey) -> Credentials {
    Credentials::new(&key.access_key_id, &key.secret_access_key, None, None, "test")
}

fn of_session(session: &SessionCredentials) -> Credentials {
    Credentials::new(
        &session.access_key_id,
        &session.secret_access_key,
        Some(session.session_token.clone()),
        None,
        "test",
    )
}

fn code<T: std::fmt::Debug, E: ProvideErrorMetadata>(result: Result<T, E>) -> String {
    match result {
        Ok(answer) => panic!("refused, it should be: {answer:?}"),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

fn message<T: std::fmt::Debug, E: ProvideErrorMetadata>(result: Result<T, E>) -> String {
    result.expect_err("an error").message().unwrap_or_default().to_owned()
}

async fn fetch(
    client: &aws_sdk_secretsmanager::Client,
    secret_id: &str,
) -> Result<String, impl ProvideErrorMetadata + std::fmt::Debug + use<>> {
    let answer = client.get_secret_value().secret_id(secret_id).send().await;
    answer.map(|answer| answer.secret_string.unwrap_or_default())
}

async fn labels(
    client: &aws_sdk_secretsmanager::Client,
    secret_id: &str,
) -> HashMap<String, String> {
    let described = client.describe_secret().secret_id(secret_id).send().await.unwrap();
    let mut labels = HashMap::new();
    for (version_id, attached) in described.version_ids_to_stages.unwrap_or_default() {
        for label in attached {
            let other = labels.insert(label.clone(), version_id.clone());
            assert_eq!(other, None, "{label} is attached twice");
        }
    }
    labels
}

async fn post(
    world: &World,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, String, String) {
    let mut request = http().post(world.aws.endpoint_url()).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-amzn-requestid"));
    let error_type = response.headers().get("x-amzn-errortype");
    let error_type = error_type.map_or("", |value| value.to_str().unwrap()).to_owned();
    (status, error_type, response.text().await.unwrap())
}

fn http() -> reqwest::Client {
    // Whoever comes first installs it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

async fn get(url: &str, authorization: Option<&str>) -> (u16, Value) {
    let mut request = http().get(url);
    if let Some(token) = authorization {
        request = request.header("authorization", token);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

/// May fetch one secret by this ARN pattern.
fn may_fetch(resource: &str) -> Value {
    json!([{ "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": resource }])
}

fn item(user: &str, date: &str) -> HashMap<String, AttributeValue> {
    let string = |text: &str| AttributeValue::S(text.to_owned());
    HashMap::from([
        ("user".to_owned(), string(user)),
        ("date".to_owned(), string(date)),
        ("text".to_owned(), string("Prime day")),
    ])
}

// --- Who calls -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_session_with_the_grant_fetches_the_secret_and_the_audit_names_it() {
    let world = World::start().await;
    let (arn, version_id) = world.aws.seed_secret("CONSUMERKEY", "VALUE-1").unwrap();
    world.put_role(may_fetch(&arn)).await;
    let client = world.secrets(of_session(&world.session()));
    let answer = client
        .get_secret_value()
        .secret_id("CONSUMERKEY")
        .version_stage("AWSCURRENT")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.secret_string(), Some("VALUE-1"));
    assert_eq!(answer.arn(), Some(arn.as_str()));
    assert_eq!(answer.version_stages(), ["AWSCURRENT"]);
    let record = world.wait_for_record(|record| record.event_name == "GetSecretValue").await;
    assert_eq!(
        record.principal_arn.as_deref(),
        Some("arn:aws:sts::123456789012:assumed-role/task-role/0123456789abcdef0123456789abcdef")
    );
    assert_eq!(record.event_source, "secretsmanager.amazonaws.com");
    assert_eq!(record.resource, Some(arn));
    assert_eq!(record.version_id, Some(version_id));
    assert_eq!(record.version_stage.as_deref(), Some("AWSCURRENT"));
    assert_eq!(record.error_code, None);
    assert!(record.user_agent.unwrap().contains("aws-sdk-rust"));
    assert!(!format!("{:?}", world.aws.audit()).contains("VALUE-1"));
}

#[tokio::test]
async fn a_caller_whose_key_token_or_signature_is_wrong_is_refused_by_every_service() {
    let world =
        World::with_role(json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }])).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    world.aws.create_table("T").unwrap_err();
    world.aws.create_table("Table").unwrap();
    let session = world.session();
    let other = world.session();
    let key = |id: &str, secret: &str, token: Option<&str>| {
        Credentials::new(id, secret, token.map(str::to_owned), None, "test")
    };
    let (id, secret, token) = (
        session.access_key_id.as_str(),
        session.secret_access_key.as_str(),
        session.session_token.as_str(),
    );
    let forged = "0".repeat(40);
    let user = world.aws.administrator();
    let cases = [
        (
            "unknown key",
            key("AKIAAAAAAAAAAAAAAAAA", secret, None),
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
        (
            "unknown session",
            key("ASIAAAAAAAAAAAAAAAAA", secret, Some(token)),
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
        (
            "forged secret",
            key(id, &forged, Some(token)),
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
        ),
        (
            "stripped token",
            key(id, secret, None),
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
        (
            "another session's token",
            key(id, secret, Some(&other.session_token)),
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
        (
            "administrator's key, forged secret",
            key(&user.access_key_id, &forged, None),
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
        ),
        (
            "administrator's key with a token",
            key(&user.access_key_id, &user.secret_access_key, Some(token)),
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
    ];
    for (name, credentials, json, query) in cases {
        let secrets = world.secrets(credentials.clone());
        assert_eq!(code(fetch(&secrets, "S").await), json, "{name}");
        let tables = world.tables(credentials.clone());
        let put = tables.put_item().table_name("Table").set_item(Some(item("a", "b"))).send().await;
        assert_eq!(code(put), json, "{name}");
        let sts = aws_sdk_sts::Client::new(&world.config(credentials));
        assert_eq!(code(sts.get_caller_identity().send().await), query, "{name}");
    }
    // The control of them all: the same session, unspoilt.
    fetch(&world.secrets(of_session(&session)), "S").await.unwrap();
    assert_eq!(world.aws.table_item_count("Table").unwrap(), 0);
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_up() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let session = world.aws.begin_session(ROLE, TASK_ID, Duration::from_mins(2)).unwrap();
    let client = world.secrets(of_session(&session));
    fetch(&client, "S").await.unwrap();
    world.advance(Duration::from_mins(2));
    assert_eq!(code(fetch(&client, "S").await), "ExpiredTokenException");
    let sts = aws_sdk_sts::Client::new(&world.config(of_session(&session)));
    assert_eq!(code(sts.get_caller_identity().send().await), "ExpiredToken");
}

#[tokio::test]
async fn sessions_of_a_deleted_role_are_refused_also_when_the_role_is_made_again() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let client = world.secrets(of_session(&world.session()));
    fetch(&client, "S").await.unwrap();
    world.aws.delete_role(ROLE).await.unwrap();
    assert_eq!(code(fetch(&client, "S").await), "UnrecognizedClientException");
    world.put_role(may_fetch("*")).await;
    assert_eq!(code(fetch(&client, "S").await), "UnrecognizedClientException");
    fetch(&world.secrets(of_session(&world.session())), "S").await.unwrap();
}

#[tokio::test]
async fn a_clock_may_be_off_by_five_minutes_and_no_more() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let session = world.session();
    world.advance(Duration::from_secs(4 * 60 + 50));
    // A new client for each, because a client learns the server's clock from its answers.
    fetch(&world.secrets(of_session(&session)), "S").await.unwrap();
    world.advance(Duration::from_secs(20));
    let answer = fetch(&world.secrets(of_session(&session)), "S").await;
    let error = answer.unwrap_err();
    assert_eq!(error.code(), Some("InvalidSignatureException"));
    assert!(error.message().unwrap().starts_with("Signature expired: "), "{error:?}");
}

#[tokio::test]
async fn an_unsigned_or_garbled_request_gets_an_error_in_the_shape_of_aws() {
    let world = World::start().await;
    let json = ("content-type", "application/x-amz-json-1.1");
    let get = ("x-amz-target", "secretsmanager.GetSecretValue");
    let put = ("x-amz-target", "DynamoDB_20120810.PutItem");

    let (status, error_type, body) = post(&world, &[json, get], r#"{"SecretId":"S"}"#).await;
    assert_eq!((status, error_type.as_str()), (400, "MissingAuthenticationTokenException"));
    assert!(body.contains(r#""__type":"MissingAuthenticationTokenException""#), "{body}");

    let (status, _, body) = post(&world, &[json, put], "{}").await;
    assert_eq!(status, 400);
    assert!(
        body.contains("com.amazon.coral.service#MissingAuthenticationTokenException"),
        "{body}"
    );

    let form = ("content-type", "application/x-www-form-urlencoded");
    let (status, _, body) =
        post(&world, &[form], "Action=GetCallerIdentity&Version=2011-06-15").await;
    assert_eq!(status, 403);
    assert!(body.contains("<Code>MissingAuthenticationToken</Code>"), "{body}");

    for authorization in [
        "Bearer x",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=c",
        "AWS4-HMAC-SHA256 Credential=a/20260101/us-west-2/secretsmanager/aws4_request, SignedHeaders=host, Signature=c",
    ] {
        let (status, error_type, _) =
            post(&world, &[json, get, ("authorization", authorization)], "{}").await;
        assert_eq!(
            (status, error_type.as_str()),
            (400, "IncompleteSignatureException"),
            "{authorization}"
        );
    }

    for target in [
        "secretsmanager.",
        "secretsmanager.Get*",
        "Nothing.Here",
        "GetSecretValue",
        "secretsmanager",
    ] {
        let (status, error_type, _) = post(&world, &[json, ("x-amz-target", target)], "{}").await;
        assert_eq!((status, error_type.as_str()), (400, "UnknownOperationException"), "{target}");
    }

    let (status, error_type, _) = post(&world, &[json, put], vec![b'x'; 10 * 1024 * 1024]).await;
    assert_eq!((status, error_type.as_str()), (413, "RequestEntityTooLargeException"));

    let response = http().get(world.aws.endpoint_url() + "/v2/nothing").send().await.unwrap();
    assert_eq!(response.status().as_u16(), 404);
}

#[tokio::test]
async fn a_signed_request_with_a_garbled_body_is_a_serialization_exception_that_quotes_nothing() {
    let world = World::start().await;
    for target in ["secretsmanager.PutSecretValue", "DynamoDB_20120810.PutItem"] {
        for body in [
            &b"{"[..],
            b"",
            b"\xff\xfe",
            br#"{"SecretId":{"a":"MARKER"},"TableName":{"a":"MARKER"}}"#,
        ] {
            let (status, error_type, answer) = post_signed(&world, target, body).await;
            assert_eq!(
                (status, error_type.as_str()),
                (400, "SerializationException"),
                "{target} {body:?}"
            );
            assert!(!answer.contains("MARKER"), "{answer}");
        }
    }
    // The control of the signing above.
    let (status, _, _) = post_signed(&world, "DynamoDB_20120810.ListTables", b"{}").await;
    assert_eq!(status, 200);
}

/// Signs by hand, because the SDK cannot be brought to send garbage.
async fn post_signed(world: &World, target: &str, body: &[u8]) -> (u16, String, String) {
    let service = if target.starts_with("DynamoDB") { "dynamodb" } else { "secretsmanager" };
    post_signed_as(world, service, target, body).await
}

async fn post_signed_as(
    world: &World,
    service: &str,
    target: &str,
    body: &[u8],
) -> (u16, String, String) {
    use aws_lc_rs::{digest, hmac};
    let hex = |bytes: &[u8]| {
        let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.concat()
    };
    let sign = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let date = chrono::DateTime::<chrono::Utc>::from(now()).format("%Y%m%dT%H%M%SZ").to_string();
    let (day, host) = (&date[..8], world.aws.address().to_string());
    let canonical = format!(
        "POST\n/\n\nhost:{host}\nx-amz-date:{date}\nx-amz-target:{target}\n\nhost;x-amz-date;x-amz-target\n{}",
        sha256(body)
    );
    let scope = format!("{day}/us-west-2/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let AccessKey { access_key_id, secret_access_key } = world.aws.administrator();
    let mut key = format!("AWS4{secret_access_key}").into_bytes();
    for part in [day, "us-west-2", service, "aws4_request"] {
        key = sign(&key, part);
    }
    let signature = hex(&sign(&key, &to_sign));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders=host;x-amz-date;x-amz-target, \
         Signature={signature}"
    );
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-date", date.as_str()),
        ("x-amz-target", target),
        ("authorization", authorization.as_str()),
    ];
    post(world, &headers, body.to_vec()).await
}

#[tokio::test]
async fn a_body_changed_on_the_way_is_refused() {
    let world = World::start().await;
    let (arn, _) = world.aws.seed_secret("S", "VALUE").unwrap();
    // A proxy that exchanges the secret's name for another of the same length.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = world.aws.address();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(upstream).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            client.read_buf(&mut request).await.unwrap();
        }
        let changed =
            String::from_utf8(request).unwrap().replace(r#""SecretId":"T""#, r#""SecretId":"S""#);
        server.write_all(changed.as_bytes()).await.unwrap();
        tokio::io::copy(&mut server, &mut client).await.unwrap();
    });
    let config = world.config(world.administrator()).to_builder().endpoint_url(url).build();
    let client = aws_sdk_secretsmanager::Client::new(&config);
    assert_eq!(code(fetch(&client, "T").await), "InvalidSignatureException");
    drop(arn);
}

#[tokio::test]
async fn a_signature_for_another_region_or_service_is_refused() {
    let world = World::start().await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let elsewhere = Region::new("us-east-1");
    let config = world.config(world.administrator());
    let config = config.to_builder().region(elsewhere).build();
    let client = aws_sdk_secretsmanager::Client::new(&config);
    assert_eq!(code(fetch(&client, "S").await), "InvalidSignatureException");
    let (target, body) = ("secretsmanager.GetSecretValue", br#"{"SecretId":"S"}"#);
    let (status, error_type, _) = post_signed_as(&world, "dynamodb", target, body).await;
    assert_eq!((status, error_type.as_str()), (400, "InvalidSignatureException"));
    assert_eq!(post_signed(&world, target, body).await.0, 200);
}

#[tokio::test]
async fn get_caller_identity_names_the_session_and_the_administrator() {
    let world =
        World::with_role(json!([{ "Effect": "Deny", "Action": "*", "Resource": "*" }])).await;
    let identity = |credentials| {
        let sts = aws_sdk_sts::Client::new(&world.config(credentials));
        async move { sts.get_caller_identity().send().await.unwrap() }
    };
    let of_task = identity(of_session(&world.session())).await;
    assert_eq!(
        of_task.arn(),
        Some("arn:aws:sts::123456789012:assumed-role/task-role/0123456789abcdef0123456789abcdef")
    );
    assert!(of_task.user_id().unwrap().starts_with("AROA"));
    assert!(of_task.user_id().unwrap().ends_with(":0123456789abcdef0123456789abcdef"));
    let of_administrator = identity(world.administrator()).await;
    assert_eq!(of_administrator.arn(), Some("arn:aws:iam::123456789012:user/administrator"));
    assert_eq!(of_administrator.account(), Some("123456789012"));
}

#[tokio::test]
async fn nobody_assumes_a_role_that_trusts_ecs_tasks_alone() {
    let world =
        World::with_role(json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }])).await;
    for credentials in [of_session(&world.session()), world.administrator()] {
        let sts = aws_sdk_sts::Client::new(&world.config(credentials));
        let assumed = sts
            .assume_role()
            .role_arn("arn:aws:iam::123456789012:role/task-role")
            .role_session_name("x")
            .send()
            .await;
        assert_eq!(code(assumed), "AccessDenied");
    }
}

// --- What IAM allows -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_grant_on_one_secret_is_no_grant_on_another_nor_for_another_action() {
    let world = World::start().await;
    let (arn, version_id) = world.aws.seed_secret("CONSUMERKEY", "VALUE").unwrap();
    let (other, _) = world.aws.seed_secret("CONSUMERKEY2", "OTHER").unwrap();
    world
        .put_role(may_fetch(
            "arn:aws:secretsmanager:us-west-2:123456789012:secret:CONSUMERKEY-??????",
        ))
        .await;
    let client = world.secrets(of_session(&world.session()));
    // By name, by ARN, and by ARN without the suffix; by version, too.
    for secret_id in ["CONSUMERKEY", &arn, &arn[..arn.len() - 7]] {
        assert_eq!(fetch(&client, secret_id).await.unwrap(), "VALUE", "{secret_id}");
    }
    client.get_secret_value().secret_id(&arn).version_id(version_id).send().await.unwrap();
    for secret_id in ["CONSUMERKEY2", &other, &other[..other.len() - 7], "ABSENT"] {
        assert_eq!(code(fetch(&client, secret_id).await), "AccessDeniedException", "{secret_id}");
    }
    assert_eq!(
        message(fetch(&client, "CONSUMERKEY2").await),
        format!(
            "User: arn:aws:sts::123456789012:assumed-role/task-role/{TASK_ID} is not authorized to perform: \
             secretsmanager:GetSecretValue on resource: {other} because no identity-based policy allows the \
             secretsmanager:GetSecretValue action"
        )
    );
    assert_eq!(
        code(client.describe_secret().secret_id(&arn).send().await),
        "AccessDeniedException"
    );
    assert_eq!(
        code(client.put_secret_value().secret_id(&arn).secret_string("x").send().await),
        "AccessDeniedException"
    );
    assert_eq!(code(client.delete_secret().secret_id(&arn).send().await), "AccessDeniedException");
    assert_eq!(code(client.list_secrets().send().await), "AccessDeniedException");
    assert_eq!(
        code(client.create_secret().name("NEW").secret_string("x").send().await),
        "AccessDeniedException"
    );
    assert_eq!(
        code(client.batch_get_secret_value().secret_id_list(&arn).send().await),
        "AccessDeniedException"
    );
    let denied = world.wait_for_record(|record| record.resource.as_ref() == Some(&other)).await;
    assert_eq!(denied.error_code.as_deref(), Some("AccessDeniedException"));
    assert_eq!(denied.version_id, None);
}

#[tokio::test]
async fn an_operation_that_is_not_here_is_denied_to_all_but_the_administrator() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let call = |credentials| {
        let client = world.secrets(credentials);
        async move { code(client.get_resource_policy().secret_id("S").send().await) }
    };
    assert_eq!(call(of_session(&world.session())).await, "AccessDeniedException");
    assert_eq!(call(world.administrator()).await, "UnknownOperationException");
}

#[tokio::test]
async fn a_condition_on_version_stage_matches_only_a_call_that_sends_it() {
    let world = World::with_role(json!([{
        "Effect": "Allow",
        "Action": ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
        "Resource": "*",
        "Condition": { "StringEquals": { "secretsmanager:VersionStage": "AWSCURRENT" } } }]))
    .await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    world.aws.seed_version("S", Some("NEXT"), &["AWSPENDING"]).unwrap();
    let client = world.secrets(of_session(&world.session()));
    let with = |label: &str| client.get_secret_value().secret_id("S").version_stage(label).send();
    assert_eq!(with("AWSCURRENT").await.unwrap().secret_string(), Some("VALUE"));
    assert_eq!(code(with("AWSPENDING").await), "AccessDeniedException");
    assert_eq!(code(fetch(&client, "S").await), "AccessDeniedException");
    assert_eq!(code(client.describe_secret().secret_id("S").send().await), "AccessDeniedException");
}

#[tokio::test]
async fn a_resource_policy_denies_whom_it_names_outside_the_endpoint_and_nobody_else() {
    let world = World::start().await;
    let (arn, _) = world.aws.seed_secret("S", "VALUE").unwrap();
    world.put_role(may_fetch(&arn)).await;
    let policy = |keys: Value| {
        let role = format!("arn:aws:iam::{}:role/{ROLE}", world.aws.account_id());
        json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Deny", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
            "Condition": { "ArnEquals": { "aws:PrincipalArn": role }, "StringNotEquals": keys } }] })
    };
    let inside = world.aws.vpc_endpoint("vpce-1").await.unwrap();
    let other = world.aws.vpc_endpoint("vpce-2").await.unwrap();
    let through = |url: &str, credentials| {
        let config = world.config(credentials).into_builder().endpoint_url(url).build();
        aws_sdk_secretsmanager::Client::new(&config)
    };
    let session = || of_session(&world.session());
    let outside = world.aws.endpoint_url();
    for url in [&outside, &inside, &other] {
        assert_eq!(fetch(&through(url, session()), "S").await.unwrap(), "VALUE");
    }
    world.aws.put_secret_policy("S", &policy(json!({ "aws:SourceVpce": "vpce-1" }))).unwrap();
    assert_eq!(fetch(&through(&inside, session()), "S").await.unwrap(), "VALUE");
    for url in [&outside, &other] {
        let refused = fetch(&through(url, session()), "S").await;
        let refused = message(refused);
        assert!(refused.ends_with("an explicit deny in a resource-based policy"), "{refused}");
        let administrator = through(url, world.administrator());
        assert_eq!(fetch(&administrator, "S").await.unwrap(), "VALUE");
    }
    // A key that is not supplied here would be judged wrongly.
    let refused = world.aws.put_secret_policy("S", &policy(json!({ "aws:SourceVpc": "vpc-1" })));
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_batch_needs_a_grant_on_everything_and_on_each_secret() {
    let world = World::start().await;
    let (arn, _) = world.aws.seed_secret("A", "VALUE-A").unwrap();
    world.aws.seed_secret("B", "VALUE-B").unwrap();
    let mut statements = may_fetch(&arn);
    let batch = json!({ "Effect": "Allow", "Action": "secretsmanager:BatchGetSecretValue", "Resource": "*" });
    statements.as_array_mut().unwrap().push(batch);
    world.put_role(statements).await;
    let client = world.secrets(of_session(&world.session()));
    let answer = client
        .batch_get_secret_value()
        .secret_id_list("A")
        .secret_id_list("B")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.secret_values().len(), 1);
    assert_eq!(answer.secret_values()[0].secret_string(), Some("VALUE-A"));
    assert_eq!(answer.errors()[0].error_code(), Some("AccessDeniedException"));
    let fetched =
        |record: &Record| record.event_name == "GetSecretValue" && record.error_code.is_none();
    assert_eq!(world.wait_for_record(fetched).await.resource, Some(arn));
}

#[tokio::test]
async fn a_grant_on_one_table_is_no_grant_on_another_nor_for_another_action() {
    let world = World::with_role(json!([{
        "Effect": "Allow", "Action": "dynamodb:PutItem",
        "Resource": "arn:aws:dynamodb:us-west-2:123456789012:table/twitterStream" }]))
    .await;
    world.aws.create_table("twitterStream").unwrap();
    world.aws.create_table("other").unwrap();
    let client = world.tables(of_session(&world.session()));
    let put =
        |table: &str| client.put_item().table_name(table).set_item(Some(item("a", "b"))).send();
    put("twitterStream").await.unwrap();
    for table in ["other", "twitterStream2", "absent"] {
        assert_eq!(code(put(table).await), "AccessDeniedException", "{table}");
    }
    assert_eq!(
        message(put("other").await),
        format!(
            "User: arn:aws:sts::123456789012:assumed-role/task-role/{TASK_ID} is not authorized to perform: \
             dynamodb:PutItem on resource: arn:aws:dynamodb:us-west-2:123456789012:table/other because no \
             identity-based policy allows the dynamodb:PutItem action"
        )
    );
    let refused = [
        code(client.scan().table_name("twitterStream").send().await),
        code(client.delete_table().table_name("twitterStream").send().await),
        code(client.describe_table().table_name("twitterStream").send().await),
        code(client.list_tables().send().await),
        code(client.describe_limits().send().await),
    ];
    assert_eq!(refused, ["AccessDeniedException"; 5]);
    assert_eq!(world.aws.table_item_count("twitterStream").unwrap(), 1);
    assert_eq!(world.aws.table_item_count("other").unwrap(), 0);
}

// --- Secrets Manager -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_put_moves_current_and_previous_and_leaves_each_label_on_one_version() {
    let world = World::start().await;
    let client = world.secrets(world.administrator());
    let first = client.create_secret().name("S").secret_string("1").send().await.unwrap();
    let first = first.version_id().unwrap().to_owned();
    let put = |value: &str| client.put_secret_value().secret_id("S").secret_string(value).send();
    let second = put("2").await.unwrap();
    assert_eq!(second.version_stages(), ["AWSCURRENT"]);
    let second = second.version_id().unwrap().to_owned();
    let third = put("3").await.unwrap().version_id().unwrap().to_owned();
    let labels = labels(&client, "S").await;
    assert_eq!(labels["AWSCURRENT"], third);
    assert_eq!(labels["AWSPREVIOUS"], second);
    assert!(!labels.values().any(|version_id| *version_id == first));
    assert_eq!(fetch(&client, "S").await.unwrap(), "3");
    let previous =
        client.get_secret_value().secret_id("S").version_stage("AWSPREVIOUS").send().await.unwrap();
    assert_eq!(previous.secret_string(), Some("2"));
    let by_id = client.get_secret_value().secret_id("S").version_id(first).send().await.unwrap();
    assert_eq!(by_id.secret_string(), Some("1"));
}

#[tokio::test]
async fn a_rotation_goes_from_pending_to_current_and_back() {
    let world = World::start().await;
    let client = world.secrets(world.administrator());
    let (arn, first) = world.aws.seed_secret("S", "OLD").unwrap();
    let mut updates = world.aws.on_label_update();
    let second = "11111111-2222-4333-8444-555555555555";
    let pending = client
        .put_secret_value()
        .secret_id("S")
        .secret_string("NEW")
        .client_request_token(second)
        .version_stages("AWSPENDING")
        .send()
        .await
        .unwrap();
    assert_eq!(pending.version_id(), Some(second));
    assert_eq!(fetch(&client, "S").await.unwrap(), "OLD");
    assert!(updates.try_recv().is_err(), "AWSPENDING sends no event");

    let move_current = |from: Option<&str>, to: &str| {
        client
            .update_secret_version_stage()
            .secret_id("S")
            .version_stage("AWSCURRENT")
            .set_remove_from_version_id(from.map(str::to_owned))
            .move_to_version_id(to)
            .send()
    };
    assert_eq!(code(move_current(None, second).await), "InvalidParameterException");
    assert_eq!(code(move_current(Some(second), second).await), "InvalidParameterException");
    assert_eq!(
        code(move_current(Some(&first), &"x".repeat(36)).await),
        "ResourceNotFoundException"
    );
    assert!(
        message(move_current(None, second).await)
            .contains(&format!("currently attached to version {first}"))
    );
    assert_eq!(fetch(&client, "S").await.unwrap(), "OLD");

    move_current(Some(&first), second).await.unwrap();
    assert_eq!(fetch(&client, "S").await.unwrap(), "NEW");
    let moved = labels(&client, "S").await;
    assert_eq!(moved["AWSCURRENT"], second);
    assert_eq!(moved["AWSPENDING"], second);
    assert_eq!(moved["AWSPREVIOUS"], first);
    let update = updates.try_recv().unwrap();
    assert_eq!((update.secret_arn, update.name), (arn, "S".to_owned()));
    assert_eq!((update.label.as_str(), update.version_id.as_str()), ("AWSCURRENT", second));
    assert!(updates.try_recv().is_err(), "AWSPREVIOUS sends no event");

    move_current(Some(second), &first).await.unwrap();
    let back = labels(&client, "S").await;
    assert_eq!((&back["AWSCURRENT"], back["AWSPREVIOUS"].as_str()), (&first, second));
    assert_eq!(updates.try_recv().unwrap().version_id, first);

    let remove = |label: &str| {
        let update = client.update_secret_version_stage().secret_id("S");
        let from = if label == "AWSCURRENT" { first.as_str() } else { second };
        update.version_stage(label).remove_from_version_id(from).send()
    };
    assert_eq!(code(remove("AWSCURRENT").await), "InvalidParameterException");
    remove("AWSPENDING").await.unwrap();
    assert!(!labels(&client, "S").await.contains_key("AWSPENDING"));
}

#[tokio::test]
async fn the_request_token_is_the_version_id_and_makes_calls_idempotent() {
    let world = World::start().await;
    let client = world.secrets(world.administrator());
    let token = |digit: &str| digit.repeat(32);
    let create = |value: &str| {
        client
            .create_secret()
            .name("S")
            .secret_string(value)
            .client_request_token(token("1"))
            .send()
    };
    assert_eq!(create("1").await.unwrap().version_id(), Some(token("1").as_str()));
    create("1").await.unwrap();
    assert_eq!(code(create("2").await), "ResourceExistsException");
    let update = |value: &str| {
        client
            .update_secret()
            .secret_id("S")
            .secret_string(value)
            .client_request_token(token("2"))
            .send()
    };
    assert_eq!(update("2").await.unwrap().version_id(), Some(token("2").as_str()));
    update("2").await.unwrap();
    assert_eq!(code(update("3").await), "ResourceExistsException");
    let labels = labels(&client, "S").await;
    assert_eq!(
        (labels["AWSCURRENT"].clone(), labels["AWSPREVIOUS"].clone()),
        (token("2"), token("1"))
    );
    let described =
        client.update_secret().secret_id("S").description("no new value").send().await.unwrap();
    assert_eq!(described.version_id(), None);
    assert_eq!(
        code(
            client
                .put_secret_value()
                .secret_id("S")
                .secret_string("x")
                .client_request_token("short")
                .send()
                .await
        ),
        "InvalidParameterException"
    );
}

#[tokio::test]
async fn what_has_no_value_cannot_be_fetched() {
    let world = World::start().await;
    let client = world.secrets(world.administrator());
    client.create_secret().name("EMPTY").send().await.unwrap();
    let answer = fetch(&client, "EMPTY").await;
    let error = answer.unwrap_err();
    assert_eq!(error.code(), Some("ResourceNotFoundException"));
    assert_eq!(
        error.message(),
        Some("Secrets Manager can't find the specified secret value for staging label: AWSCURRENT")
    );
    assert_eq!(
        message(fetch(&client, "ABSENT").await),
        "Secrets Manager can't find the specified secret."
    );

    world.aws.seed_secret("S", "VALUE").unwrap();
    let empty = world.aws.seed_version("S", None, &["AWSPENDING"]).unwrap();
    assert_eq!(labels(&client, "S").await["AWSPENDING"], empty);
    let pending = || client.get_secret_value().secret_id("S").version_stage("AWSPENDING").send();
    assert_eq!(
        message(pending().await),
        "Secrets Manager can't find the specified secret value for staging label: AWSPENDING"
    );
    // What a rotation does next: it puts the value of the version that is there.
    let put =
        client.put_secret_value().secret_id("S").secret_string("NEW").client_request_token(&empty);
    put.version_stages("AWSPENDING").send().await.unwrap();
    assert_eq!(pending().await.unwrap().secret_string(), Some("NEW"));
    let mismatch = client
        .get_secret_value()
        .secret_id("S")
        .version_id(&empty)
        .version_stage("AWSCURRENT")
        .send()
        .await;
    assert_eq!(code(mismatch), "InvalidRequestException");
}

#[tokio::test]
async fn a_value_may_have_65536_bytes_and_no_more() {
    let world = World::start().await;
    let client = world.secrets(world.administrator());
    world.aws.seed_secret("S", "VALUE").unwrap();
    let put = |value: String| client.put_secret_value().secret_id("S").secret_string(value).send();
    put("x".repeat(65_536)).await.unwrap();
    let answer = put("x".repeat(65_537)).await;
    assert_eq!(code(answer), "ValidationException");
    assert!(!message(put("x".repeat(65_537)).await).contains("xx"));
    assert_eq!(fetch(&client, "S").await.unwrap().len(), 65_536);
    let binary = |length: usize| {
        client.put_secret_value().secret_id("S").secret_binary(Blob::new(vec![7; length])).send()
    };
    binary(65_536).await.unwrap();
    assert_eq!(code(binary(65_537).await), "ValidationException");
    let answer = client.get_secret_value().secret_id("S").send().await.unwrap();
    assert_eq!(answer.secret_binary().unwrap().as_ref(), vec![7; 65_536]);
}

#[tokio::test]
async fn a_secret_marked_for_deletion_is_refused_until_restored_and_then_gone() {
    let world = World::start().await;
    let client = world.secrets(world.administrator());
    let (arn, _) = world.aws.seed_secret("S", "VALUE").unwrap();
    client.delete_secret().secret_id("S").recovery_window_in_days(7).send().await.unwrap();
    let error = fetch(&client, "S").await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidRequestException"));
    assert_eq!(
        error.message(),
        Some("You can't perform this operation on the secret because it was marked for deletion.")
    );
    assert!(client.describe_secret().secret_id("S").send().await.unwrap().deleted_date().is_some());
    assert_eq!(
        code(client.create_secret().name("S").secret_string("x").send().await),
        "InvalidRequestException"
    );
    assert_eq!(client.list_secrets().send().await.unwrap().secret_list().len(), 0);
    client.restore_secret().secret_id("S").send().await.unwrap();
    fetch(&client, "S").await.unwrap();
    client.delete_secret().secret_id("S").force_delete_without_recovery(true).send().await.unwrap();
    assert_eq!(code(fetch(&client, "S").await), "ResourceNotFoundException");
    let twice = client.delete_secret().secret_id("S");
    let twice = twice.force_delete_without_recovery(true);
    twice.send().await.unwrap();
    let again = client.create_secret().name("S").secret_string("x").send().await.unwrap();
    assert_ne!(again.arn(), Some(arn.as_str()), "a secret made anew has another suffix");
    assert_eq!(code(fetch(&client, &arn).await), "ResourceNotFoundException");
}

#[tokio::test]
async fn list_secrets_pages_without_values() {
    let world = World::start().await;
    for name in ["A", "B", "C"] {
        world.aws.seed_secret(name, "VALUE").unwrap();
    }
    let client = world.secrets(world.administrator());
    let pages = client.list_secrets().max_results(2).into_paginator().send();
    let pages: Vec<_> = pages.collect::<Result<_, _>>().await.unwrap();
    assert_eq!(pages.len(), 2);
    let listed: Vec<_> = pages.iter().flat_map(ListSecretsOutput::secret_list).collect();
    let names: Vec<_> = listed.iter().filter_map(|entry| entry.name()).collect();
    assert_eq!(names, ["A", "B", "C"]);
    assert_eq!(listed[0].secret_versions_to_stages().unwrap().len(), 1);
}

// --- DynamoDB --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn tables_answer_as_dynamodb_does() {
    let world = World::start().await;
    let client = world.tables(world.administrator());
    world.aws.create_table("twitterStream").unwrap();
    let put = || {
        let put = client.put_item().table_name("twitterStream").set_item(Some(item("a", "b")));
        put.condition_expression("attribute_not_exists(#user)")
            .expression_attribute_names("#user", "user")
            .send()
    };
    put().await.unwrap();
    let again = put().await.unwrap_err();
    assert!(again.into_service_error().is_conditional_check_failed_exception());
    let key = item("a", "b").into_iter().filter(|(name, _)| name != "text").collect();
    let got =
        client.get_item().table_name("twitterStream").set_key(Some(key)).send().await.unwrap();
    assert_eq!(got.item(), Some(&item("a", "b")));
    let queried = client
        .query()
        .table_name("twitterStream")
        .key_condition_expression("#user = :user")
        .expression_attribute_names("#user", "user")
        .expression_attribute_values(":user", AttributeValue::S("a".to_owned()))
        .send()
        .await
        .unwrap();
    assert_eq!(queried.count(), 1);
    assert_eq!(client.scan().table_name("twitterStream").send().await.unwrap().count(), 1);
    let described = client.describe_table().table_name("twitterStream").send().await.unwrap();
    assert_eq!(
        described.table().unwrap().table_arn(),
        Some("arn:aws:dynamodb:us-west-2:123456789012:table/twitterStream")
    );
    assert_eq!(world.aws.table_item_count("twitterStream").unwrap(), 1);
    let items = world.aws.scan_items("twitterStream", 10).unwrap();
    let stored =
        json!({ "user": { "S": "a" }, "date": { "S": "b" }, "text": { "S": "Prime day" } });
    assert_eq!(items, [stored]);
    let calls = &world.aws.table_calls()["twitterStream"];
    assert_eq!(calls.ok["PutItem"], 1);
    assert_eq!(calls.failed["ConditionalCheckFailedException"], 1);
}

#[tokio::test]
async fn tables_refuse_as_dynamodb_does() {
    let world = World::start().await;
    let client = world.tables(world.administrator());
    world.aws.create_table("twitterStream").unwrap();
    let absent = client
        .put_item()
        .table_name("absent")
        .set_item(Some(item("a", "b")))
        .send()
        .await
        .unwrap_err();
    assert!(absent.into_service_error().is_resource_not_found_exception());
    let no_key = HashMap::from([("text".to_owned(), AttributeValue::S("x".to_owned()))]);
    let invalid = client.put_item().table_name("twitterStream").set_item(Some(no_key)).send().await;
    assert_eq!(code(invalid), "ValidationException");
    let (status, error_type, body) = post_signed(
        &world,
        "DynamoDB_20120810.PutItem",
        br#"{"TableName":"absent","Item":{"user":{"S":"a"},"date":{"S":"b"}}}"#,
    )
    .await;
    assert_eq!((status, error_type.as_str()), (400, "ResourceNotFoundException"));
    assert!(body.contains("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"), "{body}");

    client.delete_table().table_name("twitterStream").send().await.unwrap();
    let gone = client.describe_table().table_name("twitterStream").send().await;
    assert_eq!(code(gone), "ResourceNotFoundException");
}

// --- A task's endpoints ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_credentials_endpoint_gives_credentials_that_work_and_renews_them() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let endpoint = world.aws.task(Task::new(ROLE, TASK_ID)).unwrap();
    let relative = world.aws.endpoint_url() + &endpoint.relative_uri;
    let (status, given) = get(&relative, None).await;
    assert_eq!(status, 200);
    assert_eq!(given["RoleArn"], "arn:aws:iam::123456789012:role/task-role");
    let expiration =
        chrono::DateTime::parse_from_rfc3339(given["Expiration"].as_str().unwrap()).unwrap();
    let life = SystemTime::from(expiration).duration_since(now()).unwrap();
    assert!(life > Duration::from_mins(359) && life <= Duration::from_hours(6), "{life:?}");
    let text = |name: &str| given[name].as_str().unwrap().to_owned();
    let credentials = Credentials::new(
        text("AccessKeyId"),
        text("SecretAccessKey"),
        Some(text("Token")),
        None,
        "test",
    );
    fetch(&world.secrets(credentials), "S").await.unwrap();

    assert_eq!(
        get(&endpoint.full_uri, Some(&endpoint.authorization_token)).await,
        (200, given.clone())
    );
    assert_eq!(get(&endpoint.full_uri, None).await.0, 401);
    assert_eq!(get(&endpoint.full_uri, Some("wrong")).await.0, 403);
    assert_eq!(
        get(&format!("{}/v2/credentials/unknown", world.aws.endpoint_url()), None).await.0,
        400
    );

    world.advance(Duration::from_mins(344));
    assert_eq!(get(&relative, None).await.1["AccessKeyId"], given["AccessKeyId"]);
    world.advance(Duration::from_mins(2));
    assert_ne!(get(&relative, None).await.1["AccessKeyId"], given["AccessKeyId"]);
}

#[tokio::test]
async fn a_role_that_does_not_trust_ecs_gets_no_endpoint() {
    let world = World::with_role(may_fetch("*")).await;
    let lambda = trust().to_string().replace("ecs-tasks", "lambda");
    let lambda = serde_json::from_str(&lambda).unwrap();
    world.aws.put_role(ROLE, &lambda, &[]).await.unwrap();
    let refused = world.aws.task(Task::new(ROLE, TASK_ID));
    assert!(matches!(refused, Err(Error::NotTrusting(_))));
    let absent = world.aws.task(Task::new("absent", TASK_ID));
    assert!(matches!(absent, Err(Error::NoSuchRole(_))));
}

#[tokio::test]
async fn the_metadata_endpoint_describes_the_task() {
    let world = World::with_role(may_fetch("*")).await;
    let endpoint = world.aws.task(Task::new(ROLE, TASK_ID)).unwrap();
    let (_, container) = get(&endpoint.metadata_uri_v4, None).await;
    assert_eq!(container["Name"], "twitterstream");
    let (_, task) = get(&format!("{}/task", endpoint.metadata_uri_v4), None).await;
    assert_eq!(
        task["TaskARN"],
        format!("arn:aws:ecs:us-west-2:123456789012:task/default/{TASK_ID}")
    );
    assert_eq!(task["LaunchType"], "FARGATE");
    assert_eq!(task["Containers"][0]["Name"], "twitterstream");
}

/// Runs [`a_task`] in a process of its own with this environment, and returns what it printed.
async fn run_a_task(world: &World, environment: &[(&str, &str)]) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "local_aws::a_task", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
        .env("AWS_ENDPOINT_URL", world.aws.endpoint_url())
        .env("AWS_REGION", world.aws.region())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Not a test: what [`run_a_task`] runs. The SDK reads the process's environment and nothing else.
#[tokio::test]
#[ignore = "run by other tests, with an environment"]
async fn a_task() {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::disabled())
        .load()
        .await;
    let client = aws_sdk_secretsmanager::Client::new(&config);
    let said = match fetch(&client, "S").await {
        Ok(value) => format!("fetched {value}"),
        Err(error) => format!("refused {:?} {error:?}", error.code()),
    };
    writeln!(std::io::stdout(), "{said}").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_chain_of_the_sdk_finds_the_credentials_endpoint() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let TaskEndpoint { relative_uri, full_uri, authorization_token, .. } =
        world.aws.task(Task::new(ROLE, TASK_ID)).unwrap();
    let uri = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let token = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
    let printed = run_a_task(&world, &[(uri, &full_uri), (token, &authorization_token)]).await;
    assert!(printed.contains("fetched VALUE"), "{printed}");
    let relative = world.aws.endpoint_url() + &relative_uri;
    let printed = run_a_task(&world, &[(uri, &relative)]).await;
    assert!(printed.contains("fetched VALUE"), "{printed}");
    for environment in [&[(uri, full_uri.as_str()), (token, "wrong")][..], &[(uri, &full_uri)], &[]]
    {
        let printed = run_a_task(&world, environment).await;
        assert!(printed.contains("refused None"), "{printed}");
    }
    let ends: Vec<_> = world
        .aws
        .audit()
        .into_iter()
        .filter(|record| record.event_name == "GetCredentials")
        .collect();
    let codes: Vec<_> = ends.iter().map(|record| record.error_code.as_deref()).collect();
    assert_eq!(codes, [None, None, Some("403"), Some("401")]);
}

// --- Faults and the end ----------------------------------------------------------------------------------------------

/// Tries three times in all, at once.
fn retrying(world: &World) -> SdkConfig {
    let retry =
        RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(1));
    world.config(world.administrator()).to_builder().retry_config(retry).build()
}

#[tokio::test]
async fn the_sdk_retries_injected_errors_as_it_would_real_ones() {
    let world = World::start().await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    world.aws.create_table("Table").unwrap();
    let config = retrying(&world);
    let error = |status, code: &str| Effect::Error {
        status,
        code: code.to_owned(),
        message: "later".to_owned(),
    };
    let cases = [
        (error(400, "ThrottlingException"), true),
        (error(400, "ProvisionedThroughputExceededException"), true),
        (error(500, "InternalServerError"), true),
        (error(503, "ServiceUnavailable"), true),
        (Effect::Reset, true),
        (error(400, "ValidationException"), false),
        (error(400, "AccessDeniedException"), false),
    ];
    for (effect, retried) in cases {
        // New clients, because the SDK's retry quota is shared by a client's calls.
        let secrets = aws_sdk_secretsmanager::Client::new(&config);
        let tables = aws_sdk_dynamodb::Client::new(&config);
        for service in [Service::SecretsManager, Service::DynamoDb] {
            world.aws.inject(Fault::every_call(service, effect.clone()).times(2));
        }
        assert_eq!(fetch(&secrets, "S").await.is_ok(), retried, "{effect:?}");
        let put = tables.put_item().table_name("Table").set_item(Some(item("a", "b"))).send().await;
        assert_eq!(put.is_ok(), retried, "{effect:?} {put:?}");
        world.aws.clear_faults();
    }
}

#[tokio::test]
async fn a_reset_gives_no_answer_at_all() {
    let world = World::start().await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let client = world.secrets(world.administrator());
    let reset = Fault::every_call(Service::SecretsManager, Effect::Reset);
    world.aws.inject(reset.times(1));
    let call = client.get_secret_value().secret_id("S").send().await;
    assert!(matches!(call, Err(SdkError::DispatchFailure(_))), "{call:?}");
    fetch(&client, "S").await.unwrap();
}

#[tokio::test]
async fn a_call_that_hangs_goes_on_when_the_faults_are_cleared() {
    let world = World::start().await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let client = world.secrets(world.administrator());
    world.aws.inject(
        Fault::every_call(Service::SecretsManager, Effect::Hang).of_operation("GetSecretValue"),
    );
    client.describe_secret().secret_id("S").send().await.unwrap();
    let mut call = std::pin::pin!(fetch(&client, "S"));
    tokio::time::timeout(Duration::from_millis(200), &mut call).await.expect_err("it hangs");
    world.aws.clear_faults();
    assert_eq!(tokio::time::timeout(LIMIT, call).await.unwrap().unwrap(), "VALUE");
}

#[tokio::test]
async fn a_delay_delays_and_a_fault_of_the_credentials_endpoint_shows_there() {
    let world = World::with_role(may_fetch("*")).await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let client = world.secrets(world.administrator());
    let delay = Duration::from_millis(150);
    world.aws.inject(Fault::every_call(Service::SecretsManager, Effect::Delay(delay)).times(1));
    let started = tokio::time::Instant::now();
    fetch(&client, "S").await.unwrap();
    assert!(started.elapsed() >= delay);
    let endpoint = world.aws.task(Task::new(ROLE, TASK_ID)).unwrap();
    let error = Effect::Error { status: 500, code: "Internal".to_owned(), message: String::new() };
    world.aws.inject(Fault::every_call(Service::TaskCredentials, error).times(1));
    assert_eq!(get(&(world.aws.endpoint_url() + &endpoint.relative_uri), None).await.0, 500);
    assert_eq!(get(&(world.aws.endpoint_url() + &endpoint.relative_uri), None).await.0, 200);
}

#[tokio::test]
async fn dropping_it_closes_the_port_and_the_connections() {
    let world = World::start().await;
    world.aws.seed_secret("S", "VALUE").unwrap();
    let address = world.aws.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    idle.readable().await.unwrap();
    world.aws.inject(Fault::every_call(Service::SecretsManager, Effect::Hang));
    let client = world.secrets(world.administrator());
    let mut hanging = std::pin::pin!(fetch(&client, "S"));
    tokio::time::timeout(Duration::from_millis(50), &mut hanging).await.expect_err("it hangs");
    drop(world);
    tokio::time::timeout(LIMIT, async {
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        let _ = hanging.await;
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all is closed");
}
