//! A local AWS in this process, on one loopback port, with an unmodified AWS SDK in front: Secrets Manager, `DynamoDB`,
//! SQS with the events that `EventBridge` delivers to it, the part of STS that a task uses, and the endpoints that ECS
//! gives a task.
//!
//! It exists to prove least privilege, so IAM is enforced, and what is not known is refused: an access key that was not
//! issued here, a session token that is another one, an operation that is not here, a condition key that it could not
//! judge. A proof needs its negative control; the tests hold one for each of these.

mod api_error;
mod audit;
mod authentication;
mod connection;
mod dynamodb;
mod eventbridge;
mod faults;
mod gateway;
mod iam;
mod identifiers;
mod keys;
mod secrets;
mod sqs;
mod sts;
mod task_endpoints;

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};

use self::audit::Audit;
use self::connection::{ResetHandle, ResettableListener};
use self::dynamodb::DynamoDb;
use self::eventbridge::EventBridge;
use self::faults::Faults;
use self::gateway::{Gateway, application};
use self::iam::Iam;
use self::keys::Keys;
use self::secrets::SecretsManager;
use self::sqs::Sqs;
use self::task_endpoints::TaskEndpoints;
use super::Clock;

pub use self::audit::{Record, TableCalls};
pub use self::faults::{Effect, Fault};
pub use self::keys::{AccessKey, SessionCredentials, TASK_CREDENTIALS_LIFE};
pub use self::secrets::LabelUpdate;
pub use self::sqs::QueueHandle;
pub use self::task_endpoints::{Task, TaskEndpoint};

/// A service of the local AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// AWS Secrets Manager.
    SecretsManager,
    /// Amazon `DynamoDB`.
    DynamoDb,
    /// Amazon SQS.
    Sqs,
    /// AWS Security Token Service.
    Sts,
    /// The endpoint of a task's credentials; its only operation is called `GetCredentials`.
    TaskCredentials,
}

impl Service {
    fn signing_name(self) -> &'static str {
        match self {
            Self::SecretsManager => "secretsmanager",
            Self::DynamoDb => "dynamodb",
            Self::Sqs => "sqs",
            Self::Sts => "sts",
            Self::TaskCredentials => "",
        }
    }

    fn event_source(self) -> &'static str {
        match self {
            Self::SecretsManager => "secretsmanager.amazonaws.com",
            Self::DynamoDb => "dynamodb.amazonaws.com",
            Self::Sqs => "sqs.amazonaws.com",
            Self::Sts => "sts.amazonaws.com",
            Self::TaskCredentials => "ecs-credentials",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::SecretsManager => "application/x-amz-json-1.1",
            Self::DynamoDb | Self::Sqs => "application/x-amz-json-1.0",
            Self::Sts => "text/xml",
            Self::TaskCredentials => "application/json",
        }
    }
}

/// Why the local AWS could not be started, or its setup be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No loopback port.
    #[error("cannot listen on loopback")]
    Listen(#[source] std::io::Error),
    /// IAM refused.
    #[error("IAM refuses: {code}: {message}")]
    Iam {
        /// AWS's error code.
        code: String,
        /// Its message.
        message: String,
    },
    /// A policy that is malformed, or that could only be judged wrongly here.
    #[error("policy refused: {0}")]
    Policy(String),
    /// There is no role of this name.
    #[error("there is no role {0}")]
    NoSuchRole(String),
    /// The trust policy of this role does not let ECS assume it for a task.
    #[error("ECS is unable to assume the role {0}: its trust policy does not allow it")]
    NotTrusting(String),
    /// Secrets Manager refused.
    #[error("Secrets Manager refuses: {code}: {message}")]
    Secret {
        /// AWS's error code.
        code: String,
        /// Its message.
        message: String,
    },
    /// `DynamoDB` refused.
    #[error("DynamoDB refuses: {0}")]
    Table(String),
    /// SQS refused.
    #[error("SQS refuses: {0}")]
    Queue(String),
    /// The system gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// Which account and region to be.
#[derive(Clone)]
pub struct Settings {
    /// Twelve digits.
    pub account_id: String,
    /// Such as `us-west-2`.
    pub region: String,
    /// The clock of signatures, sessions and dates.
    pub clock: Clock,
}

impl Settings {
    /// Account 123456789012, region us-west-2.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { account_id: "123456789012".to_owned(), region: "us-west-2".to_owned(), clock }
    }
}

/// A running local AWS. It stops when this is dropped.
pub struct LocalAws {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    administrator: AccessKey,
    /// Dropping it is the sign to stop.
    _closing: watch::Sender<()>,
}

impl LocalAws {
    /// Starts one on a free loopback port, within the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// When there is no port, no memory database or no random bytes.
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let Settings { account_id, region, clock } = settings;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        let iam = Iam::new(&account_id, &region);
        let keys = Keys::new(&account_id);
        let (arn, access_key_id, secret_access_key) = iam.create_administrator().await?;
        let administrator = AccessKey { access_key_id, secret_access_key };
        keys.add_user_key(arn, &administrator);
        let (closing, closed) = watch::channel(());
        let sqs = Arc::new(Sqs::new(&account_id, &region, &format!("http://{address}")));
        let eventbridge = EventBridge::new(&account_id, &region, Arc::clone(&sqs));
        let gateway = Arc::new(Gateway {
            iam,
            keys,
            secrets: SecretsManager::new(&account_id, &region, eventbridge),
            dynamodb: DynamoDb::new(&account_id, &region)?,
            sqs,
            task_endpoints: TaskEndpoints::new(&account_id, &region),
            faults: Faults::new(),
            audit: Audit::new(),
            closing: closed,
            account_id,
            region,
            clock,
        });
        serve(listener, &gateway, None);
        Ok(Self { gateway, address, administrator, _closing: closing })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `AWS_ENDPOINT_URL`: `http://127.0.0.1:PORT`. All services answer there.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a VPC endpoint of this id. What comes in at the URL that is returned has come through it, and nothing else
    /// has.
    ///
    /// # Errors
    ///
    /// When there is no port.
    pub async fn vpc_endpoint(&self, id: &str) -> Result<String, Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        serve(listener, &self.gateway, Some(id));
        Ok(format!("http://{address}"))
    }

    /// The region it is.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.gateway.region
    }

    /// The account it is.
    #[must_use]
    pub fn account_id(&self) -> &str {
        &self.gateway.account_id
    }

    /// The key pair of a user who may do anything.
    #[must_use]
    pub fn administrator(&self) -> &AccessKey {
        &self.administrator
    }

    /// Makes a role, or makes an existing one exactly this, at once for all its sessions. Returns its ARN.
    ///
    /// # Errors
    ///
    /// When IAM refuses the name or a document, or a policy has a condition key that could not be judged here.
    pub async fn put_role(
        &self,
        name: &str,
        trust: &Value,
        inline_policies: &[(&str, Value)],
    ) -> Result<String, Error> {
        self.gateway.iam.put_role(name, trust, inline_policies).await
    }

    /// Puts one inline policy of a role, and leaves its others.
    ///
    /// # Errors
    ///
    /// As [`put_role`](Self::put_role), and when there is no such role.
    pub async fn put_role_policy(
        &self,
        role_name: &str,
        name: &str,
        policy: &Value,
    ) -> Result<(), Error> {
        self.gateway.iam.put_role_policy(role_name, name, policy).await
    }

    /// Deletes a role. Its sessions are refused from then on, also when a role of that name is made again.
    ///
    /// # Errors
    ///
    /// When there is no such role.
    pub async fn delete_role(&self, name: &str) -> Result<(), Error> {
        self.gateway.iam.delete_role(name).await
    }

    /// Begins a session of a role for `life`, as ECS does for the task of this id in the cluster `default`.
    ///
    /// # Errors
    ///
    /// When there is no such role, or its trust policy does not let ECS assume it.
    pub fn begin_session(
        &self,
        role_name: &str,
        task_id: &str,
        life: Duration,
    ) -> Result<SessionCredentials, Error> {
        let Gateway { keys, iam, clock, task_endpoints, .. } = &*self.gateway;
        let task_arn = task_endpoints.task_arn("default", task_id);
        keys.begin_session(iam, role_name, &task_arn, clock() + life)
    }

    /// Gives a task its endpoints.
    ///
    /// # Errors
    ///
    /// When there is no such role, or its trust policy does not let ECS assume it.
    pub fn task(&self, task: Task) -> Result<TaskEndpoint, Error> {
        let Gateway { keys, iam, clock, .. } = &*self.gateway;
        let base = self.endpoint_url();
        self.gateway.task_endpoints.add(task, &base, keys, iam, clock())
    }

    /// The credentials that each task has now.
    #[must_use]
    pub fn task_credentials(&self) -> Vec<SessionCredentials> {
        self.gateway.task_endpoints.issued()
    }

    /// Makes a secret, outside IAM and the audit. Returns its ARN and the id of its first version.
    ///
    /// # Errors
    ///
    /// Where `CreateSecret` has one.
    pub fn seed_secret(&self, name: &str, value: &str) -> Result<(String, String), Error> {
        let now = (self.gateway.clock)();
        Ok(self.gateway.secrets.seed(name, value, now)?)
    }

    /// Adds a version under these staging labels, outside IAM and the audit. Returns its id.
    ///
    /// Without a value it is what a failed rotation leaves: AWSPENDING on a version that has none.
    ///
    /// # Errors
    ///
    /// When there is no such secret.
    pub fn seed_version(
        &self,
        secret_id: &str,
        value: Option<&str>,
        labels: &[&str],
    ) -> Result<String, Error> {
        let now = (self.gateway.clock)();
        Ok(self.gateway.secrets.seed_version(secret_id, value, labels, now)?)
    }

    /// Puts a secret's resource policy, outside IAM and the audit.
    ///
    /// # Errors
    ///
    /// When there is no such secret, or the policy has a condition key that could not be judged here.
    pub fn put_secret_policy(&self, secret_id: &str, policy: &Value) -> Result<(), Error> {
        let now = (self.gateway.clock)();
        Ok(self.gateway.secrets.put_policy(secret_id, iam::resource_policy(policy)?, now)?)
    }

    /// Every staging label that comes to another version from now on, but for AWSPENDING and AWSPREVIOUS.
    #[must_use]
    pub fn on_label_update(&self) -> broadcast::Receiver<LabelUpdate> {
        self.gateway.secrets.label_updates()
    }

    /// Makes a table as the worker expects it: `user` HASH, `date` RANGE, both strings, on demand.
    ///
    /// # Errors
    ///
    /// When the name is taken, or is no table's name.
    pub fn create_table(&self, name: &str) -> Result<(), Error> {
        self.gateway.dynamodb.create_table(name)
    }

    /// How many items a table holds.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn table_item_count(&self, name: &str) -> Result<u64, Error> {
        self.gateway.dynamodb.item_count(name)
    }

    /// The first `limit` items of a table, as `{"user": {"S": "..."}, ...}`.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn scan_items(&self, name: &str, limit: usize) -> Result<Vec<Value>, Error> {
        self.gateway.dynamodb.items(name, limit)
    }

    /// Makes a queue, and an `EventBridge` rule that delivers to it every event "Secret Label Updated" from now on. The
    /// message is there when the call that moves the label is answered.
    ///
    /// A queue of this name that is there already keeps its messages.
    ///
    /// # Errors
    ///
    /// When the name is none that a queue can have.
    pub fn create_rotation_queue(&self, name: &str) -> Result<QueueHandle, Error> {
        let queue = self.gateway.sqs.create(name)?;
        self.gateway.secrets.eventbridge().put_rule(name);
        Ok(queue)
    }

    /// Deletes a queue. Calls that wait for its messages are answered at once that it does not exist. Its rule stays.
    ///
    /// # Errors
    ///
    /// When there is no such queue.
    pub fn delete_queue(&self, name: &str) -> Result<(), Error> {
        self.gateway.sqs.delete(name)
    }

    /// Puts a message on a queue, whatever it says, outside IAM and the audit. Returns its id.
    ///
    /// # Errors
    ///
    /// When there is no such queue.
    pub fn send_message(&self, queue: &str, body: &str) -> Result<String, Error> {
        self.gateway.sqs.send(queue, body.to_owned())
    }

    /// How many messages a queue holds, also those that are hidden because they were received and not yet deleted.
    ///
    /// # Errors
    ///
    /// When there is no such queue.
    pub fn queue_depth(&self, name: &str) -> Result<usize, Error> {
        self.gateway.sqs.depth(name)
    }

    /// How many `ReceiveMessage` calls wait for a message of this queue now. The audit has a call only once it is
    /// answered.
    ///
    /// # Errors
    ///
    /// When there is no such queue.
    pub fn queue_polls(&self, name: &str) -> Result<usize, Error> {
        self.gateway.sqs.polls(name)
    }

    /// Every API call so far but `DynamoDB`'s, oldest first.
    #[must_use]
    pub fn audit(&self) -> Vec<Record> {
        self.gateway.audit.records()
    }

    /// Changes with every record of the audit, for who waits for one.
    #[must_use]
    pub fn audit_changes(&self) -> watch::Receiver<()> {
        self.gateway.audit.changes()
    }

    /// How many calls each table got. What names no table, or whose caller is nobody, counts for `-`.
    #[must_use]
    pub fn table_calls(&self) -> BTreeMap<String, TableCalls> {
        self.gateway.audit.tables()
    }

    /// Makes calls fail from now on. Of several faults that match, the first injected strikes.
    pub fn inject(&self, fault: Fault) {
        self.gateway.faults.inject(fault);
    }

    /// Ends all faults. Calls that hang go on.
    pub fn clear_faults(&self) {
        self.gateway.faults.clear();
    }
}

/// Answers what comes in here until the gateway closes.
fn serve(listener: TcpListener, gateway: &Arc<Gateway>, source_vpce: Option<&str>) {
    let mut closed = gateway.closing.clone();
    let service = application(Arc::clone(gateway), source_vpce)
        .into_make_service_with_connect_info::<ResetHandle>();
    let server = axum::serve(ResettableListener(listener), service)
        // Idle connections are closed, too, which ending the accepting task alone would not do.
        .with_graceful_shutdown(async move { while closed.changed().await.is_ok() {} });
    tokio::spawn(server.into_future());
}

impl From<api_error::ApiError> for Error {
    fn from(error: api_error::ApiError) -> Self {
        let api_error::ApiError { code, message, .. } = error;
        Self::Secret { code, message }
    }
}
