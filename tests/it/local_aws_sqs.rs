//! The local SQS is right where a real one is right, seen through an unmodified SDK, and a label that moves is on the
//! queue when the call that moves it is answered.
//!
//! Each test has one thread, which the server shares: a poll that blocked it would end none of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::receive_message::{ReceiveMessageError, ReceiveMessageOutput};
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, DeleteMessageBatchResultEntry, Message,
    MessageSystemAttributeName, QueueAttributeName,
};
use futures_util::future::select;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use twitterstream::demo::local_aws::{
    Effect, Error, Fault, LocalAws, QueueHandle, Record, Service, SessionCredentials, Settings,
};

const ROLE: &str = "task-role";
const TASK_ID: &str = "0123456789abcdef0123456789abcdef";
const QUEUE: &str = "rotation";
const LIMIT: Duration = Duration::from_secs(20);
/// Far less than the 20 seconds that the polls here would wait, with room for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

type Received = Result<ReceiveMessageOutput, SdkError<ReceiveMessageError>>;

/// A local AWS with one queue. Its clock stands still.
struct World {
    aws: LocalAws,
    queue: QueueHandle,
    now: SystemTime,
}

impl World {
    async fn start() -> Self {
        let now = now();
        let clock = Arc::new(move || now);
        let aws = LocalAws::start(Settings::new(clock)).await.unwrap();
        let queue = aws.create_rotation_queue(QUEUE).unwrap();
        Self { aws, queue, now }
    }

    async fn session(&self, statements: Value, life: Duration) -> SessionCredentials {
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" }] });
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        let policies = [("inline", policy)];
        self.aws.put_role(ROLE, &trust, &policies).await.unwrap();
        self.aws.begin_session(ROLE, TASK_ID, life).unwrap()
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

    fn client(&self, credentials: Credentials) -> Client {
        Client::new(&self.config(credentials))
    }

    fn administrator(&self) -> Credentials {
        let key = self.aws.administrator();
        let (id, secret) = (&key.access_key_id, &key.secret_access_key);
        Credentials::new(id, secret, None, None, "test")
    }

    /// A client that may do anything.
    fn sqs(&self) -> Client {
        self.client(self.administrator())
    }

    fn secrets(&self) -> aws_sdk_secretsmanager::Client {
        aws_sdk_secretsmanager::Client::new(&self.config(self.administrator()))
    }

    fn put(&self, body: &str) {
        self.aws.send_message(QUEUE, body).unwrap();
    }

    /// What is on the queue now, read as events, and deleted.
    async fn events(&self) -> Vec<Value> {
        let client = self.sqs();
        let mut events = Vec::new();
        for message in messages(poll(&client, &self.queue.url, 0).await) {
            events.push(serde_json::from_str(message.body().unwrap()).unwrap());
            delete(&client, &self.queue.url, &message).await;
        }
        events
    }

    async fn wait_for_poll(&self) {
        let waits = async {
            while self.aws.queue_polls(QUEUE).unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, waits).await.expect("the poll waits");
    }

    fn last_record(&self) -> Record {
        self.aws.audit().pop().expect("a record")
    }
}

#[allow(clippy::disallowed_methods, reason = "this is where the wall clock is passed in")]
fn now() -> SystemTime {
    SystemTime::now()
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

fn may(actions: &[&str], resource: &str) -> Value {
    json!([{ "Effect": "Allow", "Action": actions, "Resource": resource }])
}

/// Up to ten messages, waited for so many seconds.
async fn poll(client: &Client, url: &str, seconds: i32) -> Received {
    client
        .receive_message()
        .queue_url(url)
        .max_number_of_messages(10)
        .wait_time_seconds(seconds)
        .send()
        .await
}

fn messages(received: Received) -> Vec<Message> {
    received.unwrap().messages.unwrap_or_default()
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|m| m.body().unwrap()).collect()
}

fn only(messages: Vec<Message>) -> Message {
    let [message] = <[Message; 1]>::try_from(messages).expect("one message");
    message
}

async fn delete(client: &Client, url: &str, message: &Message) {
    client
        .delete_message()
        .queue_url(url)
        .receipt_handle(message.receipt_handle().unwrap())
        .send()
        .await
        .unwrap();
}

fn code<T: std::fmt::Debug, E: ProvideErrorMetadata>(result: Result<T, E>) -> String {
    let error = result.expect_err("an error");
    error.code().unwrap_or("no code").to_owned()
}

/// An error as it came over the wire: the status, the code in the header, and the body.
fn wire<T: std::fmt::Debug, E: std::fmt::Debug>(
    result: &Result<T, SdkError<E>>,
) -> (u16, &str, Value) {
    let error = result.as_ref().expect_err("an error");
    let response = error.raw_response().expect("an answer");
    let headers = response.headers();
    assert_eq!(headers.get("content-type"), Some("application/x-amz-json-1.0"));
    (
        response.status().as_u16(),
        headers.get("x-amzn-query-error").expect("a code"),
        serde_json::from_slice(response.body().bytes().unwrap()).unwrap(),
    )
}

// --- Receive and delete ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_poll_that_waits_returns_at_once_when_a_label_moves() {
    let world = World::start().await;
    let session = world
        .session(may(&["sqs:ReceiveMessage"], &world.queue.arn), Duration::from_hours(1))
        .await;
    let client = world.client(of_session(&session));
    let url = world.queue.url.clone();
    let polling = tokio::spawn(async move { poll(&client, &url, 20).await });
    world.wait_for_poll().await;
    assert_eq!(world.aws.audit(), [], "it is not answered yet");

    let moved = Instant::now();
    world.aws.seed_secret("CONSUMERKEY", "VALUE-1").unwrap();
    let received = timeout(LIMIT, polling).await.unwrap().unwrap();
    assert!(moved.elapsed() < AT_ONCE, "{:?}", moved.elapsed());
    let message = only(messages(received));
    assert!(message.body().unwrap().contains("CONSUMERKEY"));
    assert_eq!(world.aws.queue_polls(QUEUE).unwrap(), 0);

    let record = world.last_record();
    assert_eq!(record.event_source, "sqs.amazonaws.com");
    assert_eq!(record.event_name, "ReceiveMessage");
    assert_eq!(record.resource.as_ref(), Some(&world.queue.arn));
    assert_eq!(record.error_code, None);
    let role = format!("assumed-role/{ROLE}/{TASK_ID}");
    assert!(record.principal_arn.unwrap().ends_with(&role));
}

#[tokio::test]
async fn of_two_polls_one_gets_the_message_and_the_other_waits_on() {
    let world = World::start().await;
    let client = world.sqs();
    let polls = |expected| {
        let world = &world;
        let polls = async move {
            while world.aws.queue_polls(QUEUE).unwrap() != expected {
                tokio::task::yield_now().await;
            }
        };
        async move { timeout(LIMIT, polls).await.expect("the polls wait") }
    };
    let (first, second) =
        (poll(&client, &world.queue.url, 20), poll(&client, &world.queue.url, 20));
    let put = async {
        polls(2).await;
        world.put("once");
    };
    let answered = async {
        let (answered, other) = select(Box::pin(first), Box::pin(second)).await.factor_first();
        (messages(answered), other)
    };
    let ((received, other), ()) = tokio::join!(answered, put);
    assert_eq!(bodies(&received), ["once"]);
    // Whoever gives up its poll does not wait any more.
    let mut other = other;
    tokio::select! {
        _ = &mut other => panic!("it has nothing to give"),
        () = polls(1) => {}
    }
}

#[tokio::test]
async fn an_empty_poll_returns_nothing_after_its_time() {
    let world = World::start().await;
    let client = world.sqs();
    let started = Instant::now();
    assert_eq!(messages(poll(&client, &world.queue.url, 0).await), []);
    assert!(started.elapsed() < AT_ONCE);
    let started = Instant::now();
    assert_eq!(messages(poll(&client, &world.queue.url, 1).await), []);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert!(waited < AT_ONCE, "{waited:?}");
    assert_eq!(world.last_record().error_code, None);
}

#[tokio::test]
async fn an_undeleted_message_comes_again_after_its_visibility_timeout_and_a_deleted_one_does_not()
{
    let world = World::start().await;
    let client = world.sqs();
    let url = &world.queue.url;
    world.put("again");
    let received = Instant::now();
    let hide = client.receive_message().queue_url(url).visibility_timeout(5);
    let first = only(messages(hide.send().await));
    assert_eq!(messages(poll(&client, url, 0).await), [], "it is hidden");
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 1);

    let second = only(messages(poll(&client, url, 20).await));
    let hidden = received.elapsed();
    assert!(hidden >= Duration::from_secs(5), "{hidden:?}");
    assert!(hidden < Duration::from_secs(5) + AT_ONCE, "{hidden:?}");
    assert_eq!(second.message_id(), first.message_id());
    assert_ne!(second.receipt_handle(), first.receipt_handle());

    delete(&client, url, &first).await;
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 1, "an old handle");
    delete(&client, url, &second).await;
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 0);
    delete(&client, url, &second).await;
    assert_eq!(messages(poll(&client, url, 0).await), []);
}

#[tokio::test]
async fn a_message_is_hidden_for_30_seconds_unless_the_call_says_otherwise() {
    let world = World::start().await;
    let client = world.sqs();
    let url = &world.queue.url;
    world.put("hidden");
    only(messages(poll(&client, url, 0).await));
    assert_eq!(messages(poll(&client, url, 2).await), []);
    world.put("visible");
    let show = client.receive_message().queue_url(url).visibility_timeout(0);
    for _ in 0..2 {
        let message = only(messages(show.clone().send().await));
        assert_eq!(message.body(), Some("visible"));
    }
    let attributes = client
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::All)
        .send()
        .await
        .unwrap();
    let attributes = attributes.attributes.unwrap();
    assert_eq!(attributes[&QueueAttributeName::VisibilityTimeout], "30");
    let count = |name| attributes[&name].as_str();
    assert_eq!(count(QueueAttributeName::ApproximateNumberOfMessages), "1");
    assert_eq!(count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible), "1");
    assert_eq!(count(QueueAttributeName::QueueArn), world.queue.arn);
}

#[tokio::test]
async fn messages_come_in_their_order_ten_at_most_and_whole() {
    let world = World::start().await;
    let client = world.sqs();
    let url = &world.queue.url;
    let sent = client.send_message().queue_url(url).message_body("hello").send().await.unwrap();
    let md5 = Some("5d41402abc4b2a76b9719d911017c592");
    assert_eq!(sent.md5_of_message_body(), md5);
    let one = only(messages(client.receive_message().queue_url(url).send().await));
    assert_eq!(one.md5_of_body(), md5);
    assert_eq!(one.message_id(), sent.message_id());
    delete(&client, url, &one).await;

    // No JSON, no ASCII, none at all: whatever is put comes.
    let put: Vec<String> = (0..9).map(|n| format!("{{\"n\": {n}")).collect();
    let put =
        [put, ["\u{1f511} \0\n".to_owned(), String::new(), "12".to_owned()].to_vec()].concat();
    for body in &put {
        world.put(body);
    }
    let first = messages(poll(&client, url, 0).await);
    let second = messages(poll(&client, url, 0).await);
    assert_eq!((first.len(), second.len()), (10, 2));
    assert_eq!(bodies(&[first, second].concat()), put);
}

#[tokio::test]
async fn a_batch_deletes_what_it_can_and_names_what_it_cannot() {
    let world = World::start().await;
    let client = world.sqs();
    let url = &world.queue.url;
    let other = world.aws.create_rotation_queue("other").unwrap();
    world.put("a");
    world.aws.send_message("other", "b").unwrap();
    let here = only(messages(poll(&client, url, 0).await));
    let there = only(messages(poll(&client, &other.url, 0).await));
    let entry = |id: &str, receipt_handle: &str| {
        DeleteMessageBatchRequestEntry::builder()
            .id(id)
            .receipt_handle(receipt_handle)
            .build()
            .unwrap()
    };
    let batch = |entries: Vec<DeleteMessageBatchRequestEntry>| {
        client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send()
    };
    let result = batch(vec![
        entry("malformed", "made up"),
        entry("here", here.receipt_handle().unwrap()),
        entry("there", there.receipt_handle().unwrap()),
    ])
    .await
    .unwrap();
    let successful: Vec<&str> =
        result.successful().iter().map(DeleteMessageBatchResultEntry::id).collect();
    assert_eq!(successful, ["here"]);
    for (failed, id) in result.failed().iter().zip(["malformed", "there"]) {
        assert_eq!((failed.id(), failed.code()), (id, "ReceiptHandleIsInvalid"));
        assert!(failed.sender_fault());
    }
    assert_eq!(result.failed().len(), 2);
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 0);
    assert_eq!(world.aws.queue_depth("other").unwrap(), 1);

    for (entries, expected) in [
        (vec![], "EmptyBatchRequest"),
        (vec![entry("x", "y"); 2], "BatchEntryIdsNotDistinct"),
        (vec![entry("x", "y"); 11], "TooManyEntriesInBatchRequest"),
    ] {
        assert_eq!(code(batch(entries).await), format!("AWS.SimpleQueueService.{expected}"));
    }
    let invalid = client.delete_message().queue_url(url).receipt_handle("made up");
    let invalid = invalid.send().await;
    assert_eq!(
        wire(&invalid),
        (
            400,
            "ReceiptHandleIsInvalid;Sender",
            json!({
                "__type": "com.amazonaws.sqs#ReceiptHandleIsInvalid",
                "message": "The input receipt handle \"made up\" is not a valid receipt handle.",
            })
        )
    );
    let invalid = invalid.unwrap_err().into_service_error();
    assert!(invalid.is_receipt_handle_is_invalid(), "{invalid:?}");
}

// --- The event -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_event_is_as_eventbridge_writes_it_and_is_there_when_the_call_is_answered() {
    let world = World::start().await;
    let (arn, first) = world.aws.seed_secret("CONSUMERKEY", "VALUE-1").unwrap();
    world.events().await;
    let put = world
        .secrets()
        .put_secret_value()
        .secret_id("CONSUMERKEY")
        .secret_string("VALUE-2")
        .send()
        .await
        .unwrap();
    // Its AWSPREVIOUS has moved, too, and is no event.
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 1);
    let event = world.events().await.remove(0);
    let id = event["id"].as_str().unwrap();
    assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    let time = chrono::DateTime::<chrono::Utc>::from(world.now);
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    assert_ne!(put.version_id(), Some(first.as_str()));
    assert_eq!(
        event,
        json!({
            "version": "0",
            "id": id,
            "detail-type": "Secret Label Updated",
            "source": "aws.secretsmanager",
            "account": "123456789012",
            "time": time,
            "region": "us-west-2",
            "resources": [arn],
            "detail": {
                "name": "CONSUMERKEY",
                "labelUpdated": "AWSCURRENT",
                "versionId": put.version_id().unwrap(),
            },
        })
    );
}

#[tokio::test]
async fn every_label_but_awspending_and_awsprevious_is_an_event_on_every_queue_with_a_rule() {
    let world = World::start().await;
    let (_, first) = world.aws.seed_secret("S", "OLD").unwrap();
    world.events().await;
    world.aws.create_rotation_queue("late").unwrap();
    world.aws.create_rotation_queue("late").unwrap();
    let client = world.secrets();
    let second = "11111111-2222-4333-8444-555555555555";
    client
        .put_secret_value()
        .secret_id("S")
        .secret_string("NEW")
        .client_request_token(second)
        .version_stages("AWSPENDING")
        .send()
        .await
        .unwrap();
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 0, "AWSPENDING");
    for (label, from) in [("AWSCURRENT", Some(&first)), ("BLUE", None)] {
        client
            .update_secret_version_stage()
            .secret_id("S")
            .version_stage(label)
            .set_remove_from_version_id(from.cloned())
            .move_to_version_id(second)
            .send()
            .await
            .unwrap();
    }
    let events = world.events().await;
    let labels: Vec<_> = events
        .iter()
        .map(|event| (&event["detail"]["labelUpdated"], &event["detail"]["versionId"]))
        .collect();
    let (current, blue) = (json!("AWSCURRENT"), json!("BLUE"));
    assert_eq!(labels, [(&current, &json!(second)), (&blue, &json!(second))]);
    assert_eq!(world.aws.queue_depth("late").unwrap(), 2, "one rule each");

    // A call that moves nothing, or that fails, is none.
    let again = client.update_secret_version_stage().secret_id("S");
    let again = again.version_stage("AWSCURRENT").move_to_version_id(second);
    again.send().await.unwrap();
    let failed = client.put_secret_value().secret_id("none").secret_string("x");
    failed.send().await.unwrap_err();
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 0);

    // A rule whose queue is gone does not keep a secret from its change.
    world.aws.delete_queue("late").unwrap();
    world.aws.seed_secret("T", "VALUE").unwrap();
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 1);
}

// --- Who may ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn only_a_grant_on_this_queue_and_action_lets_a_session_receive_and_delete() {
    let world = World::start().await;
    world.aws.create_rotation_queue("other").unwrap();
    let url = &world.queue.url;
    let other_arn = world.queue.arn.replace(QUEUE, "other");
    world.put("message");
    for refused in [
        may(&["dynamodb:PutItem"], "*"),
        may(&["sqs:ReceiveMessage"], &other_arn),
        may(&["sqs:DeleteMessage", "sqs:SendMessage"], &world.queue.arn),
        may(&["sqs:ReceiveMessage"], &format!("{}-2", world.queue.arn)),
    ] {
        let session = world.session(refused.clone(), Duration::from_hours(1)).await;
        let client = world.client(of_session(&session));
        let denied = poll(&client, url, 20).await;
        let (status, code, body) = wire(&denied);
        assert_eq!((status, code), (403, "AccessDenied;Sender"), "{refused}");
        assert_eq!(
            body,
            json!({
                "__type": "com.amazon.coral.service#AccessDeniedException",
                "Message": format!(
                    "User: arn:aws:sts::123456789012:assumed-role/{ROLE}/{TASK_ID} is not authorized to perform: \
                     sqs:receivemessage on resource: {} because no identity-based policy allows the \
                     sqs:receivemessage action",
                    world.queue.arn
                ),
            })
        );
        let record = world.last_record();
        assert_eq!(record.error_code.as_deref(), Some("AccessDenied"));
        assert_eq!(record.resource.as_ref(), Some(&world.queue.arn));
    }

    let receive = may(&["sqs:ReceiveMessage"], &world.queue.arn);
    let session = world.session(receive, Duration::from_hours(1)).await;
    let client = world.client(of_session(&session));
    let message = only(messages(poll(&client, url, 0).await));
    let handle = message.receipt_handle().unwrap();
    let one = || client.delete_message().queue_url(url).receipt_handle(handle).send();
    let entry = DeleteMessageBatchRequestEntry::builder().id("1").receipt_handle(handle);
    let entry = entry.build().unwrap();
    let batch = || client.delete_message_batch().queue_url(url).entries(entry.clone()).send();
    assert_eq!(code(one().await), "AccessDenied");
    assert_eq!(code(batch().await), "AccessDenied");
    assert_eq!(
        code(client.send_message().queue_url(url).message_body("x").send().await),
        "AccessDenied"
    );
    assert_eq!(code(client.get_queue_attributes().queue_url(url).send().await), "AccessDenied");
    assert_eq!(code(client.get_queue_url().queue_name(QUEUE).send().await), "AccessDenied");
    assert_eq!(code(client.purge_queue().queue_url(url).send().await), "AccessDenied");
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 1);

    // The batch is the same action to IAM; the role's change counts for the session that there is.
    world.session(may(&["sqs:DeleteMessage"], &world.queue.arn), Duration::from_hours(1)).await;
    batch().await.unwrap();
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 0);
    one().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_is_not_recognised_is_refused_in_the_codes_of_sqs() {
    let world = World::start().await;
    let anything = || may(&["sqs:*"], "*");
    let session = world.session(anything(), Duration::from_hours(1)).await;
    let ended = world.session(anything(), Duration::ZERO).await;
    let wrong = |change: fn(&mut SessionCredentials)| {
        let mut session = session.clone();
        change(&mut session);
        session
    };
    let cases = [
        (
            wrong(|session| session.secret_access_key.push('x')),
            "SignatureDoesNotMatch",
            "InvalidSignatureException",
        ),
        (
            wrong(|session| session.session_token.push('x')),
            "InvalidClientTokenId",
            "UnrecognizedClientException",
        ),
        (
            wrong(|session| session.access_key_id.push('x')),
            "InvalidClientTokenId",
            "UnrecognizedClientException",
        ),
        (ended, "ExpiredToken", "ExpiredTokenException"),
    ];
    for (session, code, name) in cases {
        let client = world.client(of_session(&session));
        let refused = poll(&client, &world.queue.url, 20).await;
        let (status, header, body) = wire(&refused);
        assert_eq!((status, header), (403, format!("{code};Sender").as_str()));
        assert_eq!(body["__type"], format!("com.amazon.coral.service#{name}"));
        assert_eq!(refused.unwrap_err().code(), Some(code));
    }
    let client = world.client(of_session(&session));
    assert_eq!(messages(poll(&client, &world.queue.url, 0).await), []);
}

#[tokio::test]
async fn a_condition_key_of_sqs_that_could_not_be_judged_is_refused() {
    let world = World::start().await;
    let trust = json!({ "Version": "2012-10-17", "Statement": [] });
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sqs:*", "Resource": "*",
        "Condition": { "StringEquals": { "sqs:Anything": "x" } } }] });
    let put = world.aws.put_role("r", &trust, &[("p", policy)]).await;
    assert!(matches!(put, Err(Error::Policy(_))), "{put:?}");
}

// --- What goes wrong -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_queue_that_does_not_exist_is_named_so_also_to_who_polls_it_when_it_is_deleted() {
    let world = World::start().await;
    let client = world.sqs();
    let url = world.queue.url.clone();
    let polling = {
        let client = client.clone();
        tokio::spawn(async move { poll(&client, &url, 20).await })
    };
    world.wait_for_poll().await;
    let deleted = Instant::now();
    world.aws.delete_queue(QUEUE).unwrap();
    let gone = timeout(LIMIT, polling).await.unwrap().unwrap();
    assert!(deleted.elapsed() < AT_ONCE, "{:?}", deleted.elapsed());
    assert_eq!(
        wire(&gone),
        (
            400,
            "AWS.SimpleQueueService.NonExistentQueue;Sender",
            json!({
                "__type": "com.amazonaws.sqs#QueueDoesNotExist",
                "message": "The specified queue does not exist.",
            })
        )
    );
    let gone = gone.unwrap_err().into_service_error();
    assert!(gone.is_queue_does_not_exist(), "{gone:?}");

    let url = &world.queue.url;
    let never = "AWS.SimpleQueueService.NonExistentQueue";
    assert_eq!(code(poll(&client, url, 20).await), never);
    assert_eq!(code(client.get_queue_url().queue_name("x").send().await), never);
    assert_eq!(world.last_record().error_code.as_deref(), Some(never));
    for refused in [
        world.aws.delete_queue(QUEUE).err(),
        world.aws.send_message(QUEUE, "x").err(),
        world.aws.queue_depth(QUEUE).err(),
        world.aws.queue_polls(QUEUE).err(),
        world.aws.create_rotation_queue("a/b").err(),
    ] {
        assert!(matches!(refused, Some(Error::Queue(_))), "{refused:?}");
    }

    // Another queue under the old name is another queue, with the old rule.
    assert_eq!(world.aws.create_rotation_queue(QUEUE).unwrap(), world.queue);
    world.aws.seed_secret("S", "VALUE").unwrap();
    assert_eq!(world.events().await.len(), 1);
}

#[tokio::test]
async fn what_is_out_of_range_or_not_known_here_is_refused() {
    let world = World::start().await;
    let client = world.sqs();
    let url = &world.queue.url;
    let found = client.get_queue_url().queue_name(QUEUE).send().await;
    assert_eq!(found.unwrap().queue_url(), Some(url.as_str()));
    let receive = || client.receive_message().queue_url(url);
    for refused in [
        receive().max_number_of_messages(0),
        receive().max_number_of_messages(11),
        receive().wait_time_seconds(-1),
        receive().wait_time_seconds(21),
        receive().visibility_timeout(-1),
        receive().visibility_timeout(43_201),
    ] {
        let refused = refused.send().await;
        let (status, code, body) = wire(&refused);
        assert_eq!((status, code), (400, "InvalidParameterValue;Sender"));
        assert!(body["message"].as_str().unwrap().contains(" is invalid. Reason: Must be "));
    }
    let unsupported = "AWS.SimpleQueueService.UnsupportedOperation";
    let count = MessageSystemAttributeName::ApproximateReceiveCount;
    let with_count = receive().message_system_attribute_names(count);
    assert_eq!(code(with_count.send().await), unsupported);
    let delayed = client.send_message().queue_url(url).message_body("x").delay_seconds(1);
    assert_eq!(code(delayed.send().await), unsupported);
    let attributes = client.get_queue_attributes().queue_url(url);
    let policy = attributes.attribute_names(QueueAttributeName::Policy);
    assert_eq!(code(policy.send().await), "InvalidAttributeName");
    let elsewhere = url.replace("123456789012", "210987654321");
    assert_eq!(code(poll(&client, &elsewhere, 0).await), "InvalidAddress");
    let empty = client.send_message().queue_url(url).message_body("");
    assert_eq!(code(empty.send().await), "MissingParameter");
    assert_eq!(code(client.purge_queue().queue_url(url).send().await), "UnknownOperationException");
    assert_eq!(world.aws.queue_depth(QUEUE).unwrap(), 0);
}

#[tokio::test]
async fn a_fault_strikes_sqs_in_its_own_shape_and_the_sdk_retries_what_it_should() {
    let world = World::start().await;
    let standard = RetryConfig::standard().with_initial_backoff(Duration::from_millis(1));
    let config = world.config(world.administrator());
    let config = config.into_builder().retry_config(standard).build();
    world.put("message");
    let error = |status, code: &str| Effect::Error {
        status,
        code: code.to_owned(),
        message: "injected".to_owned(),
    };
    for (effect, retried) in [
        (error(403, "RequestThrottled"), true),
        (error(500, "InternalFailure"), true),
        (Effect::Reset, true),
        (error(400, "InvalidSecurity"), false),
    ] {
        // A new client, because the SDK's retry quota is shared by a client's calls.
        let client = Client::new(&config);
        world.aws.inject(
            Fault::every_call(Service::Sqs, effect.clone()).of_operation("ReceiveMessage").times(1),
        );
        let received = poll(&client, &world.queue.url, 0).await;
        assert_eq!(received.is_ok(), retried, "{effect:?} {received:?}");
        world.aws.clear_faults();
    }
    world.aws.inject(Fault::every_call(Service::Sqs, error(503, "InternalFailure")));
    let failed = poll(&world.sqs(), &world.queue.url, 0).await;
    assert_eq!(
        wire(&failed),
        (
            503,
            "InternalFailure;Receiver",
            json!({ "__type": "com.amazonaws.sqs#InternalFailure", "message": "injected" })
        )
    );
    world.secrets().list_secrets().send().await.unwrap();
}

#[tokio::test]
async fn a_poll_ends_with_the_local_aws_and_one_that_is_given_up_takes_no_message() {
    let world = World::start().await;
    let client = world.sqs();
    let url = world.queue.url.clone();
    let given_up = {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move { poll(&client, &url, 20).await })
    };
    world.wait_for_poll().await;
    given_up.abort();
    let ended = async {
        while world.aws.queue_polls(QUEUE).unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, ended).await.expect("the poll has ended");
    world.put("message");
    let message = only(messages(poll(&client, &url, 0).await));
    delete(&client, &url, &message).await;

    let polling = tokio::spawn(async move { poll(&client, &url, 20).await });
    world.wait_for_poll().await;
    let dropped = Instant::now();
    drop(world);
    polling.await.unwrap().unwrap_err();
    assert!(dropped.elapsed() < AT_ONCE, "{:?}", dropped.elapsed());
}
