//! SQS: standard queues, as far as who receives and deletes messages sees them.
//!
//! A parameter that is not known here is refused, so that no caller relies on what was left out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::api_error::ApiError;
use super::gateway::{Access, Answer, Caller};
use super::iam::Question;
use super::{Error, identifiers};

/// SQS's default of a queue's `VisibilityTimeout`, in seconds.
const VISIBILITY_TIMEOUT: i64 = 30;
/// What `GetQueueAttributes` knows here.
const ATTRIBUTES: [&str; 4] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "QueueArn",
    "VisibilityTimeout",
];
/// SQS's limit of a batch.
const BATCH: usize = 10;
/// How every receipt handle begins, here as on AWS.
const RECEIPT_HANDLE: &str = "AQEB";

/// Where a queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueHandle {
    /// `http://127.0.0.1:PORT/ACCOUNT/NAME`
    pub url: String,
    /// `arn:aws:sqs:REGION:ACCOUNT:NAME`
    pub arn: String,
}

struct Message {
    id: String,
    body: String,
    /// From when on it is received again.
    visible: Instant,
    /// How often it was received. Only the last receipt handle deletes it.
    received: u64,
}

struct Queue {
    /// In the receipt handles, so that another queue's are told apart.
    id: String,
    messages: Vec<Message>,
    /// Changes with every message. Its receivers are the polls that wait, which its end wakes, too.
    arrivals: watch::Sender<()>,
}

impl Queue {
    fn new() -> Self {
        Self { id: identifiers::uuid(), messages: Vec::new(), arrivals: watch::Sender::new(()) }
    }

    fn put(&mut self, body: String) -> String {
        let id = identifiers::uuid();
        self.messages.push(Message { id: id.clone(), body, visible: Instant::now(), received: 0 });
        self.arrivals.send_replace(());
        id
    }

    /// Receives up to `limit` visible messages, the oldest first, and hides them for `timeout`.
    fn take(&mut self, limit: usize, timeout: Duration, now: Instant) -> Vec<Value> {
        let Self { id, messages, .. } = self;
        let visible = messages.iter_mut().filter(|message| message.visible <= now);
        let taken = visible.take(limit).map(|message| {
            message.visible = now + timeout;
            message.received += 1;
            json!({
                "MessageId": message.id,
                "ReceiptHandle": format!("{RECEIPT_HANDLE}/{id}/{}/{}", message.id, message.received),
                "MD5OfBody": md5_of(&message.body),
                "Body": message.body,
            })
        });
        taken.collect()
    }

    /// An older receipt handle of a message is accepted and deletes nothing, as `DeleteMessage`'s documentation says.
    fn delete(&mut self, receipt_handle: &str) -> Result<(), ApiError> {
        let parts: Vec<&str> = receipt_handle.split('/').collect();
        let &[RECEIPT_HANDLE, queue_id, message_id, received] = parts.as_slice() else {
            return Err(invalid_receipt_handle(format!(
                "The input receipt handle \"{receipt_handle}\" is not a valid receipt handle."
            )));
        };
        if queue_id != self.id {
            return Err(invalid_receipt_handle(format!(
                "The receipt handle \"{receipt_handle}\" is not valid for this queue."
            )));
        }
        self.messages
            .retain(|message| message.id != message_id || message.received.to_string() != received);
        Ok(())
    }

    fn attribute(&self, name: &str, arn: &str) -> Option<String> {
        let now = Instant::now();
        let hidden = self.messages.iter().filter(|message| message.visible > now).count();
        match name {
            "ApproximateNumberOfMessages" => Some((self.messages.len() - hidden).to_string()),
            "ApproximateNumberOfMessagesNotVisible" => Some(hidden.to_string()),
            "QueueArn" => Some(arn.to_owned()),
            "VisibilityTimeout" => Some(VISIBILITY_TIMEOUT.to_string()),
            _ => None,
        }
    }
}

/// The members of all operations' requests in one, since each is optional and no two mean different things.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    attribute_names: Option<Vec<String>>,
    entries: Option<Vec<Entry>>,
    max_number_of_messages: Option<i64>,
    message_body: Option<String>,
    queue_name: Option<String>,
    queue_url: Option<String>,
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    receipt_handle: String,
}

pub(super) struct Sqs {
    /// What a queue's URL and its ARN have before its name.
    url_prefix: String,
    arn_prefix: String,
    queues: Mutex<HashMap<String, Queue>>,
}

impl Sqs {
    /// `endpoint_url` such as `http://127.0.0.1:1234`.
    pub(super) fn new(account_id: &str, region: &str, endpoint_url: &str) -> Self {
        Self {
            url_prefix: format!("{endpoint_url}/{account_id}/"),
            arn_prefix: format!("arn:aws:sqs:{region}:{account_id}:"),
            queues: Mutex::default(),
        }
    }

    /// Answers one authenticated call, and waits for messages where it asks for that.
    pub(super) async fn call(&self, operation: &str, body: &[u8], caller: &Caller<'_>) -> Answer {
        let mut access = Access::default();
        let result = match serde_json::from_slice::<Input>(body) {
            Err(_) => Err(ApiError::serialization()),
            Ok(input) => self.answer(operation, &input, caller, &mut access).await,
        };
        Answer { result: result.map(|body| body.to_string()), access, of_batch: Vec::new() }
    }

    /// Makes a queue, or leaves the one of this name as it is, as `CreateQueue` does.
    pub(super) fn create(&self, name: &str) -> Result<QueueHandle, Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 80 || !name.chars().all(allowed) {
            return Err(Error::Queue(format!("no queue can be named {name:?}")));
        }
        self.lock().entry(name.to_owned()).or_insert_with(Queue::new);
        Ok(QueueHandle {
            url: format!("{}{name}", self.url_prefix),
            arn: format!("{}{name}", self.arn_prefix),
        })
    }

    /// Deletes a queue with its messages, and wakes who polls it.
    pub(super) fn delete(&self, name: &str) -> Result<(), Error> {
        let deleted = self.lock().remove(name);
        deleted.map(drop).ok_or_else(|| no_queue(name))
    }

    /// Puts a message. Returns its id.
    pub(super) fn send(&self, name: &str, body: String) -> Result<String, Error> {
        let mut queues = self.lock();
        let queue = queues.get_mut(name).ok_or_else(|| no_queue(name))?;
        Ok(queue.put(body))
    }

    /// How many messages there are, hidden or not.
    pub(super) fn depth(&self, name: &str) -> Result<usize, Error> {
        let queues = self.lock();
        let queue = queues.get(name).ok_or_else(|| no_queue(name))?;
        Ok(queue.messages.len())
    }

    /// How many calls wait for a message.
    pub(super) fn polls(&self, name: &str) -> Result<usize, Error> {
        let queues = self.lock();
        let queue = queues.get(name).ok_or_else(|| no_queue(name))?;
        Ok(queue.arrivals.receiver_count())
    }

    async fn answer(
        &self,
        operation: &str,
        input: &Input,
        caller: &Caller<'_>,
        access: &mut Access,
    ) -> Result<Value, ApiError> {
        let action = match operation {
            "DeleteMessage" | "GetQueueAttributes" | "GetQueueUrl" | "ReceiveMessage"
            | "SendMessage" => operation,
            // IAM knows no action of its own for a batch.
            "DeleteMessageBatch" => "DeleteMessage",
            _ => {
                // What is not here is refused to whom IAM would refuse it, and unknown to the rest.
                authorize(caller, operation, "*")?;
                return Err(ApiError::unknown_operation());
            }
        };
        let name = if operation == "GetQueueUrl" {
            required(input.queue_name.as_deref(), "QueueName")?
        } else {
            let url = required(input.queue_url.as_deref(), "QueueUrl")?;
            url.strip_prefix(&self.url_prefix).ok_or_else(|| {
                ApiError::caller(
                    "InvalidAddress",
                    format!("The address {url} is not valid for this endpoint."),
                )
            })?
        };
        let arn = format!("{}{name}", self.arn_prefix);
        access.resource = Some(arn.clone());
        authorize(caller, action, &arn)?;
        if let Some(parameter) = input.unknown.keys().next() {
            return Err(ApiError::caller(
                "AWS.SimpleQueueService.UnsupportedOperation",
                format!("The parameter {parameter} is not supported here."),
            ));
        }
        if operation == "ReceiveMessage" {
            return self.receive(name, input).await;
        }
        let mut queues = self.lock();
        let queue = queues.get_mut(name).ok_or_else(no_such_queue)?;
        match operation {
            "DeleteMessage" => {
                let receipt_handle = required(input.receipt_handle.as_deref(), "ReceiptHandle")?;
                queue.delete(receipt_handle)?;
                Ok(json!({}))
            }
            "DeleteMessageBatch" => delete_batch(queue, input.entries.as_deref()),
            "GetQueueAttributes" => attributes(queue, input.attribute_names.as_deref(), &arn),
            "GetQueueUrl" => Ok(json!({ "QueueUrl": format!("{}{name}", self.url_prefix) })),
            "SendMessage" => {
                let body = required(input.message_body.as_deref(), "MessageBody")?;
                let message_id = queue.put(body.to_owned());
                Ok(json!({ "MessageId": message_id, "MD5OfMessageBody": md5_of(body) }))
            }
            _ => Err(ApiError::unknown_operation()),
        }
    }

    async fn receive(&self, name: &str, input: &Input) -> Result<Value, ApiError> {
        if input.attribute_names.is_some() {
            return Err(ApiError::caller(
                "AWS.SimpleQueueService.UnsupportedOperation",
                "The parameter AttributeNames is not supported here.",
            ));
        }
        let limit = within(
            input.max_number_of_messages.unwrap_or(1),
            (1, 10),
            "MaxNumberOfMessages",
            "Must be between 1 and 10, if provided.",
        )?;
        let wait = within(
            input.wait_time_seconds.unwrap_or(0),
            (0, 20),
            "WaitTimeSeconds",
            "Must be >= 0 and <= 20, if provided.",
        )?;
        let timeout = within(
            input.visibility_timeout.unwrap_or(VISIBILITY_TIMEOUT),
            (0, 43_200),
            "VisibilityTimeout",
            "Must be between 0 and 43200, if provided.",
        )?;
        let limit = usize::try_from(limit).unwrap_or(1);
        let timeout = Duration::from_secs(timeout);
        let deadline = Instant::now() + Duration::from_secs(wait);
        loop {
            // The poll subscribes under the same lock that finds nothing, so no message falls between.
            let (mut arrivals, until) = {
                let mut queues = self.lock();
                let queue = queues.get_mut(name).ok_or_else(no_such_queue)?;
                let now = Instant::now();
                let messages = queue.take(limit, timeout, now);
                if !messages.is_empty() {
                    return Ok(json!({ "Messages": messages }));
                }
                if now >= deadline {
                    return Ok(json!({}));
                }
                let again = queue.messages.iter().map(|message| message.visible);
                let until = again.min().map_or(deadline, |again| again.min(deadline));
                (queue.arrivals.subscribe(), until)
            };
            tokio::select! {
                // Also when the queue is deleted.
                _ = arrivals.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn authorize(caller: &Caller<'_>, operation: &str, resource: &str) -> Result<(), ApiError> {
    let action = format!("sqs:{operation}");
    let question =
        Question { action: &action, resource, context: HashMap::new(), resource_policy: None };
    caller.authorize(question).map_err(|denied| {
        // SQS has a code and a status of its own, and writes the action in lower case.
        let message = denied.message.replace(&action, &action.to_ascii_lowercase());
        ApiError::new(403, "AccessDenied", message)
    })
}

fn delete_batch(queue: &mut Queue, entries: Option<&[Entry]>) -> Result<Value, ApiError> {
    let refused = |code: &str, message: String| {
        Err(ApiError::caller(&format!("AWS.SimpleQueueService.{code}"), message))
    };
    let entries = entries.unwrap_or_default();
    if entries.is_empty() {
        return refused(
            "EmptyBatchRequest",
            "There should be at least one DeleteMessageBatchRequestEntry in the request."
                .to_owned(),
        );
    }
    if entries.len() > BATCH {
        return refused(
            "TooManyEntriesInBatchRequest",
            format!(
                "Maximum number of entries per request are {BATCH}. You have sent {}.",
                entries.len()
            ),
        );
    }
    let mut ids = HashSet::new();
    for Entry { id, .. } in entries {
        if !ids.insert(id) {
            return refused("BatchEntryIdsNotDistinct", format!("Id {id} repeated."));
        }
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for Entry { id, receipt_handle } in entries {
        match queue.delete(receipt_handle) {
            Ok(()) => successful.push(json!({ "Id": id })),
            Err(error) => failed.push(json!({
                "Id": id, "SenderFault": true, "Code": error.code, "Message": error.message })),
        }
    }
    Ok(json!({ "Successful": successful, "Failed": failed }))
}

fn attributes(queue: &Queue, names: Option<&[String]>, arn: &str) -> Result<Value, ApiError> {
    let names = names.unwrap_or_default();
    let known = |name: &String| name == "All" || ATTRIBUTES.contains(&name.as_str());
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(ApiError::caller("InvalidAttributeName", format!("Unknown Attribute {name}.")));
    }
    let asked = ATTRIBUTES
        .into_iter()
        .filter(|attribute| names.iter().any(|name| name == "All" || name == attribute));
    let attributes: BTreeMap<_, _> =
        asked.filter_map(|name| Some((name, queue.attribute(name, arn)?))).collect();
    Ok(json!({ "Attributes": attributes }))
}

fn required<'a>(member: Option<&'a str>, name: &str) -> Result<&'a str, ApiError> {
    member.filter(|text| !text.is_empty()).ok_or_else(|| {
        ApiError::caller(
            "MissingParameter",
            format!("The request must contain the parameter {name}."),
        )
    })
}

fn within(value: i64, limits: (i64, i64), name: &str, reason: &str) -> Result<u64, ApiError> {
    u64::try_from(value).ok().filter(|_| (limits.0..=limits.1).contains(&value)).ok_or_else(|| {
        ApiError::caller(
            "InvalidParameterValue",
            format!("Value {value} for parameter {name} is invalid. Reason: {reason}"),
        )
    })
}

fn md5_of(body: &str) -> String {
    format!("{:x}", md5::compute(body))
}

fn invalid_receipt_handle(message: String) -> ApiError {
    ApiError::caller("ReceiptHandleIsInvalid", message)
}

fn no_such_queue() -> ApiError {
    ApiError::caller(
        "AWS.SimpleQueueService.NonExistentQueue",
        "The specified queue does not exist.",
    )
}

fn no_queue(name: &str) -> Error {
    Error::Queue(format!("there is no queue {name}"))
}
