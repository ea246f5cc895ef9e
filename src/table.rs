//! The table: one item per post, written by conditional `PutItem`.
//!
//! The item is the one of the worker in Python, `user` (partition key), `date` (sort key) and
//! `text`, plus `id`; all strings. Two posts of one user in one second would share a key, and the
//! later one would replace the other. So an item is put only where its key is free or already holds
//! the same post: `attribute_not_exists(#user) OR id = :id`. The post that finds its key taken goes
//! to `date` + `#` + id, which no other post can have. Redelivery in any order changes nothing, and
//! an item without an id, which another worker left behind, stays. `PutItem` is all that it needs.

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;

use crate::aws::{Answer, Terse, http_client, is_denial, no_task_role};

/// The longest partition key, the longest sort key and the largest item, in bytes ("Quotas in Amazon
/// DynamoDB").
const PARTITION_KEY: usize = 2_048;
const SORT_KEY: usize = 1_024;
pub(crate) const ITEM: usize = 400 * 1_024;

/// What a row takes beside its strings, in memory or on disk.
const ROW: usize = 64;

/// What is kept of a post.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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

impl Row {
    /// About how many bytes it takes where it waits.
    #[must_use]
    pub fn size(&self) -> usize {
        Self::size_of(&self.user, &self.date, &self.text, &self.id)
    }

    /// The same of a row of these strings.
    #[must_use]
    pub const fn size_of(user: &str, date: &str, text: &str, id: &str) -> usize {
        ROW + user.len() + date.len() + text.len() + id.len()
    }

    /// Why no table can ever take it.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let names = "userdatetextid".len();
        // The longest sort key that it may get.
        let longest_date = self.date_and_id_len();
        let size = self.size() - ROW + names + longest_date - self.date.len();
        match () {
            () if self.user.is_empty() => Some("the user is empty, and it is the partition key"),
            () if self.date.is_empty() => Some("the date is empty, and it is the sort key"),
            () if self.user.len() > PARTITION_KEY => Some("the user is longer than 2,048 bytes"),
            () if longest_date > SORT_KEY => Some("date and id are longer than 1,024 bytes"),
            () if size > ITEM => Some("it is over 400 KB"),
            () => None,
        }
    }

    /// The sort key where the date alone is taken.
    fn date_and_id(&self) -> String {
        format!("{}#{}", self.date, self.id)
    }

    fn date_and_id_len(&self) -> usize {
        self.date.len() + 1 + self.id.len()
    }
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
    /// The table does not take this item. It has no [`Row::fault`], so it is the table that is not
    /// as it must be; unless it takes others.
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
    /// The table `name`, written with the credentials, region and endpoint of `sdk`. Each call is
    /// one try: whoever writes knows better how long a row can wait.
    #[must_use]
    pub fn new(sdk: &SdkConfig, name: String) -> Self {
        let config = aws_sdk_dynamodb::config::Builder::from(sdk)
            .retry_config(RetryConfig::disabled())
            // For long bodies. A PutItem has a limit for the whole of it.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .interceptor(Terse)
            .build();
        Self { client: Client::from_conf(config), name }
    }

    /// The same table by connections of its own, for a thread that shall not depend on another one: a
    /// connection is driven by the runtime that opened it.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        let config = self.client.config().to_builder().http_client(http_client(usize::MAX)).build();
        Self { client: Client::from_conf(config), name: self.name.clone() }
    }

    /// Its name or ARN.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
    ///
    /// # Errors
    /// What DynamoDB answers. To ask again is always safe.
    pub async fn put(&self, row: &Row) -> Result<bool, TableError> {
        match self.put_at(row, row.date.clone()).await {
            Err(TableError { kind: Kind::Taken, .. }) => {
                self.put_at(row, row.date_and_id()).await.map(|()| true)
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
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;
    use std::time::Duration;

    use aws_config::{BehaviorVersion, Region};
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::runtime::Runtime;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    fn table_at(address: SocketAddr) -> Table {
        let credentials = Credentials::new("id", "key", None, None, "test");
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-west-2"))
            .endpoint_url(format!("http://{address}"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client(usize::MAX))
            .build();
        Table::new(&sdk, "table".to_owned())
    }

    /// Takes every item that comes on a connection.
    fn take_items(connection: &TcpStream) -> std::io::Result<()> {
        let mut requests = BufReader::new(connection);
        loop {
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                if requests.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.trim_end().parse().unwrap();
                }
            }
            requests.read_exact(&mut vec![0; length])?;
            requests.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")?;
        }
    }

    #[test]
    fn a_table_with_its_own_connections_waits_for_no_other_runtime() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let table = table_at(listener.local_addr().unwrap());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let connection = connection.unwrap();
                thread::spawn(move || take_items(&connection));
            }
        });
        let runtime = || -> Runtime {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
        };
        let (idle, busy) = (runtime(), runtime());
        idle.block_on(async {
            table.put(&Row::default()).await.unwrap();
            // The connection goes back to where the next call would find it.
            for _ in 0..100 {
                yield_now().await;
            }
        });
        // From here on nothing drives `idle`, nor what it opened.
        let own = table.with_own_connections();
        let put = busy
            .block_on(async { timeout(Duration::from_mins(1), own.put(&Row::default())).await });
        put.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_put_names_its_version_and_carries_none_of_the_sdks_ids() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let table = table_at(listener.local_addr().unwrap());
        let row = Row::default();
        let head = async {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            String::from_utf8(head).unwrap().to_lowercase()
        };
        let head = tokio::select! {
            head = head => head,
            _ = table.put(&row) => unreachable!(),
        };
        let version = concat!("app/twitterstream-", env!("CARGO_PKG_VERSION"));
        let agents: Vec<_> = head.lines().filter(|line| line.contains("user-agent:")).collect();
        assert!(agents.len() == 1 && agents[0].contains(version), "{head}");
        assert!(
            !head.contains("amz-sdk-invocation-id") && !head.contains("amz-sdk-request"),
            "{head}"
        );
        assert!(head.contains("authorization: aws4-hmac-sha256"), "{head}");
    }
}
