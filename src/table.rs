//! The table: one item per post, written by conditional `PutItem`.
//!
//! The item is the one of the documents' worker, `user` (partition key), `date` (sort key) and
//! `text`, plus `id`; all strings. Two posts of one user in one second would share a key, and the
//! later one would replace the other. So an item is put only where its key is free or already holds
//! the same post: `attribute_not_exists(#user) OR id = :id`. The post that finds its key taken goes
//! to `date` + `#` + id, which no other post can have. Redelivery in any order changes nothing, and
//! an item without an id, which another worker left behind, stays. `PutItem` is all that it needs.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::aws::{Answer, is_denial, no_task_role};
use crate::counts::Counts;
use crate::retry::Jitter;

/// How many rows wait in memory for the table, at the most. One has about 0.4 KB.
pub const QUEUE: usize = 65_536;

/// How many `PutItem` calls are under way at once, at the most.
const IN_FLIGHT: usize = 64;

/// The longest wait before a row is tried again: short enough that a stop writes what an outage that
/// is just over has left.
const RETRY: Duration = Duration::from_secs(2);

/// What is kept of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The author's screen name: the partition key.
    pub user: String,
    /// When it was posted, as the feed wrote it: the sort key.
    pub date: String,
    /// The whole text.
    pub text: String,
    /// The post's id.
    pub id: String,
}

/// A DynamoDB table.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: String,
}

/// Why the table was not written.
#[derive(Debug, thiserror::Error)]
#[error("table {table} was not written ({answer})")]
pub struct TableError {
    /// What kind of failure it is.
    pub kind: Kind,
    /// The table's name or ARN.
    pub table: String,
    /// What DynamoDB said.
    pub answer: Answer,
}

/// The kinds of failure, by what can be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The condition does not hold: another post has the key.
    Taken,
    /// This item can never be written: too large, a key too long.
    Invalid,
    /// IAM refused, or the role's credentials are not known.
    Denied,
    /// There is no such table.
    NoTable,
    /// There are no AWS credentials.
    NoTaskRole,
    /// Throttling, an error of the service, no answer: asking again can help.
    Transient,
}

impl Kind {
    /// What an operator does about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Taken => "another post has this key",
            Self::Invalid => {
                "the table's key must be user (HASH, string) and date (RANGE, string), see README"
            }
            Self::Denied => {
                "grant dynamodb:PutItem on the table to the task role, and compare with \
                 iam/task-role-embedded.json"
            }
            Self::NoTaskRole => "set taskRoleArn in the task definition",
            Self::NoTable => "create the table, or compare DYNAMODBTABLE and AWSREGION",
            Self::Transient => "see the AWS Health Dashboard if it lasts",
        }
    }

    /// Whether asking again can help without anybody doing something first.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Transient => true,
            Self::Taken | Self::Invalid | Self::Denied | Self::NoTaskRole | Self::NoTable => false,
        }
    }
}

impl Table {
    /// The table `name`, written with the credentials, region and endpoint of `sdk`.
    #[must_use]
    pub fn new(sdk: &SdkConfig, name: String) -> Self {
        Self { client: Client::new(sdk), name }
    }

    /// Proves that rows can be written, and writes none: a `PutItem` whose condition can never
    /// hold fails with `ConditionalCheckFailedException` only where the table is there, has the
    /// expected key and may be written. It is asked twice: the key alone shows a table with another
    /// key, the whole item an index that takes no string.
    ///
    /// # Errors
    /// What would have failed for a row.
    pub async fn prove(&self) -> Result<(), TableError> {
        let attribute =
            |name: &str| (name.to_owned(), AttributeValue::S("twitterstream".to_owned()));
        for names in [&["user", "date"][..], &["user", "date", "text", "id"]] {
            let sent = self
                .client
                .put_item()
                .table_name(&self.name)
                .set_item(Some(names.iter().map(|name| attribute(name)).collect()))
                .condition_expression("attribute_exists(#user) AND attribute_not_exists(#user)")
                .expression_attribute_names("#user", "user")
                .send()
                .await;
            match sent.map_err(|error| self.error(&error)) {
                Ok(_) => {}
                Err(error) if error.kind == Kind::Taken => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts one row: `Ok(true)` where its key was taken and it went to `date#id`.
    async fn put(&self, row: &Row) -> Result<bool, TableError> {
        match self.put_at(row, row.date.clone()).await {
            Err(TableError { kind: Kind::Taken, .. }) => {
                self.put_at(row, format!("{}#{}", row.date, row.id)).await.map(|()| true)
            }
            other => other.map(|()| false),
        }
    }

    async fn put_at(&self, row: &Row, date: String) -> Result<(), TableError> {
        self.client
            .put_item()
            .table_name(&self.name)
            .item("user", AttributeValue::S(row.user.clone()))
            .item("date", AttributeValue::S(date))
            .item("text", AttributeValue::S(row.text.clone()))
            .item("id", AttributeValue::S(row.id.clone()))
            .condition_expression("attribute_not_exists(#user) OR id = :id")
            .expression_attribute_names("#user", "user")
            .expression_attribute_values(":id", AttributeValue::S(row.id.clone()))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.error(&error))
    }

    /// Decides in one place what can be done. The codes are those of the DynamoDB API reference
    /// (`PutItem`, "Common Errors").
    fn error(&self, error: &SdkError<PutItemError>) -> TableError {
        let code = error.code().unwrap_or_default();
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let kind = match code {
            "ConditionalCheckFailedException" => Kind::Taken,
            "ValidationException" | "ItemCollectionSizeLimitExceededException" => Kind::Invalid,
            code if is_denial(code) => Kind::Denied,
            "ResourceNotFoundException" => Kind::NoTable,
            "SerializationException" if status < 500 => Kind::Invalid,
            _ if status == 403 => Kind::Denied,
            _ if no_task_role(error).is_some() => Kind::NoTaskRole,
            _ => Kind::Transient,
        };
        TableError { kind, table: self.name.clone(), answer: Answer::of(error) }
    }

    /// Writes a row, however long it takes. Only a row that can never be written is given up.
    async fn write(&self, row: Row, counts: &Counts) {
        let mut jitter = Jitter::new(Duration::from_millis(100), RETRY);
        loop {
            let error = match self.put(&row).await {
                Ok(collided) => {
                    if collided {
                        counts.rows_collided.increment();
                    }
                    counts.rows_written.increment();
                    return;
                }
                Err(error) => error,
            };
            match error.kind {
                Kind::Invalid | Kind::Taken => {
                    counts.rows_rejected.increment();
                    tracing::error!(
                        id = row.id.as_str(),
                        error = %error,
                        "a row can never be written and was dropped",
                    );
                    return;
                }
                Kind::Denied | Kind::NoTaskRole | Kind::NoTable | Kind::Transient => {
                    let wait = jitter.next_wait();
                    tracing::warn!(
                        error = %error,
                        advice = error.kind.advice(),
                        wait_seconds = wait.as_secs_f64(),
                        rows_waiting = counts.summary().rows_waiting,
                        "a row was not written yet",
                    );
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// Writes the rows of the queue, many at once, until the queue is closed and empty.
pub async fn write_all(table: Table, mut queue: mpsc::Receiver<Row>, counts: Arc<Counts>) {
    let mut writing = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = writing.next() => {}
            row = queue.recv(), if writing.len() < IN_FLIGHT => match row {
                Some(row) => writing.push(table.write(row, &counts)),
                None => break,
            },
        }
    }
    while writing.next().await.is_some() {}
}
