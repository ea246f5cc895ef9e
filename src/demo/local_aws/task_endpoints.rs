//! What ECS gives a task on Fargate: the endpoint of its role's credentials, and the task metadata endpoint, version 4.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Error;
use super::iam::Iam;
use super::identifiers;
use super::keys::{Keys, SessionCredentials, TASK_CREDENTIALS_LIFE};

/// New credentials are made when the old ones have less than this to live, so that nobody gets some about to end.
const RENEW_BEFORE: Duration = Duration::from_mins(15);

/// A task that is to have endpoints.
#[derive(Clone, Debug)]
pub struct Task {
    /// The task role's name.
    pub role_name: String,
    /// The task's id: 32 hex digits, and the session name of its credentials.
    pub task_id: String,
    /// The cluster's name.
    pub cluster: String,
    /// The family of its task definition.
    pub family: String,
    /// The name of its only container.
    pub container_name: String,
    /// How long each set of credentials lives.
    pub credentials_life: Duration,
}

impl Task {
    /// A task with this role and id; the rest as in the demo, credentials as on Fargate.
    #[must_use]
    pub fn new(role_name: &str, task_id: &str) -> Self {
        Self {
            role_name: role_name.to_owned(),
            task_id: task_id.to_owned(),
            cluster: "default".to_owned(),
            family: "twitterstream".to_owned(),
            container_name: "twitterstream".to_owned(),
            credentials_life: TASK_CREDENTIALS_LIFE,
        }
    }
}

/// What a task's environment is to hold. Whoever knows these URIs has the task's credentials, so there is no Debug.
pub struct TaskEndpoint {
    /// For `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`: a path, which the SDK asks at 169.254.170.2.
    pub relative_uri: String,
    /// For `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub full_uri: String,
    /// For `AWS_CONTAINER_AUTHORIZATION_TOKEN`: the full URI answers only with it.
    pub authorization_token: String,
    /// For `ECS_CONTAINER_METADATA_URI_V4`.
    pub metadata_uri_v4: String,
}

struct Endpoint {
    task: Task,
    authorization_token: String,
    credentials: Mutex<SessionCredentials>,
}

/// An answer of an endpoint: an HTTP status, and JSON.
pub(super) struct EndpointAnswer {
    pub(super) status: u16,
    pub(super) body: Value,
    /// Whose credentials were asked for, if an endpoint was.
    pub(super) role_arn: Option<String>,
}

/// The relative URI is protected by its own secrecy, the full one by a token besides.
#[derive(Clone, Copy)]
enum Authorization<'a> {
    NotAsked,
    Sent(Option<&'a str>),
}

pub(super) struct TaskEndpoints {
    account_id: String,
    region: String,
    by_id: RwLock<HashMap<String, Arc<Endpoint>>>,
}

impl TaskEndpoints {
    pub(super) fn new(account_id: &str, region: &str) -> Self {
        Self {
            account_id: account_id.to_owned(),
            region: region.to_owned(),
            by_id: RwLock::default(),
        }
    }

    /// Gives the task its endpoints under `base`, such as `http://127.0.0.1:1234`.
    pub(super) fn add(
        &self,
        task: Task,
        base: &str,
        keys: &Keys,
        iam: &Iam,
        now: SystemTime,
    ) -> Result<TaskEndpoint, Error> {
        let id = identifiers::unguessable_uuid().map_err(|_| Error::Random)?;
        let authorization_token = identifiers::session_token().map_err(|_| Error::Random)?;
        let credentials = self.begin_session(&task, keys, iam, now)?;
        let endpoint = Endpoint {
            task,
            authorization_token: authorization_token.clone(),
            credentials: Mutex::new(credentials),
        };
        let mut endpoints = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.insert(id.clone(), Arc::new(endpoint));
        Ok(TaskEndpoint {
            relative_uri: format!("/v2/credentials/{id}"),
            full_uri: format!("{base}/full/v2/credentials/{id}"),
            authorization_token,
            metadata_uri_v4: format!("{base}/v4/{id}"),
        })
    }

    /// The credentials that each task has now.
    pub(super) fn issued(&self) -> Vec<SessionCredentials> {
        let endpoints = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let credentials = endpoints.values().map(|endpoint| {
            endpoint.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
        });
        credentials.collect()
    }

    /// Answers a GET of this path. `None`: it is not one of these endpoints.
    pub(super) fn answer(
        &self,
        path: &str,
        authorization: Option<&str>,
        keys: &Keys,
        iam: &Iam,
        now: SystemTime,
    ) -> Option<EndpointAnswer> {
        if let Some(id) = path.strip_prefix("/v2/credentials/") {
            return Some(self.credentials(id, Authorization::NotAsked, keys, iam, now));
        }
        if let Some(id) = path.strip_prefix("/full/v2/credentials/") {
            return Some(self.credentials(id, Authorization::Sent(authorization), keys, iam, now));
        }
        let (id, of_task) = match path.strip_prefix("/v4/")?.split_once('/') {
            None => (path.strip_prefix("/v4/")?, false),
            Some((id, "")) => (id, false),
            Some((id, "task")) => (id, true),
            Some(_) => return None,
        };
        Some(self.metadata(id, of_task))
    }

    /// `arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID`
    pub(super) fn task_arn(&self, cluster: &str, task_id: &str) -> String {
        format!("arn:aws:ecs:{}:{}:task/{cluster}/{task_id}", self.region, self.account_id)
    }

    fn begin_session(
        &self,
        task: &Task,
        keys: &Keys,
        iam: &Iam,
        now: SystemTime,
    ) -> Result<SessionCredentials, Error> {
        let task_arn = self.task_arn(&task.cluster, &task.task_id);
        keys.begin_session(iam, &task.role_name, &task_arn, now + task.credentials_life)
    }

    fn credentials(
        &self,
        id: &str,
        authorization: Authorization<'_>,
        keys: &Keys,
        iam: &Iam,
        now: SystemTime,
    ) -> EndpointAnswer {
        let Some(endpoint) = self.endpoint(id) else {
            return EndpointAnswer::refused(
                400,
                "InvalidIdInRequest",
                "Credentials not found",
                None,
            );
        };
        let role_arn = Some(iam.role_arn(&endpoint.task.role_name));
        match authorization {
            Authorization::Sent(None) => {
                return EndpointAnswer::refused(
                    401,
                    "Unauthorized",
                    "No authorization token",
                    role_arn,
                );
            }
            Authorization::Sent(Some(token)) if token != endpoint.authorization_token => {
                return EndpointAnswer::refused(
                    403,
                    "Forbidden",
                    "Wrong authorization token",
                    role_arn,
                );
            }
            Authorization::Sent(Some(_)) | Authorization::NotAsked => {}
        }
        let mut credentials = endpoint.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        if now + RENEW_BEFORE >= credentials.expiration {
            let task = &endpoint.task;
            // Where the role is gone there are no new ones, and the old ones serve until they end, as on ECS.
            if let Ok(new) = self.begin_session(task, keys, iam, now) {
                *credentials = new;
            }
        }
        let expiration = chrono::DateTime::<chrono::Utc>::from(credentials.expiration);
        EndpointAnswer {
            status: 200,
            body: json!({
                "RoleArn": credentials.role_arn,
                "AccessKeyId": credentials.access_key_id,
                "SecretAccessKey": credentials.secret_access_key,
                "Token": credentials.session_token,
                "Expiration": expiration.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }),
            role_arn,
        }
    }

    fn metadata(&self, id: &str, of_task: bool) -> EndpointAnswer {
        let Some(endpoint) = self.endpoint(id) else {
            return EndpointAnswer::refused(
                400,
                "InvalidIdInRequest",
                "Task metadata not found",
                None,
            );
        };
        let (region, account) = (&self.region, &self.account_id);
        let Task { task_id, cluster, family, container_name, .. } = &endpoint.task;
        let arn = |resource: &str| format!("arn:aws:ecs:{region}:{account}:{resource}");
        let task_arn = self.task_arn(cluster, task_id);
        let container = json!({
            "DockerId": format!("{task_id}-0"),
            "Name": container_name,
            "DockerName": container_name,
            "Image": format!("{account}.dkr.ecr.{region}.amazonaws.com/{family}:latest"),
            "Labels": {
                "com.amazonaws.ecs.cluster": cluster,
                "com.amazonaws.ecs.container-name": container_name,
                "com.amazonaws.ecs.task-arn": task_arn,
                "com.amazonaws.ecs.task-definition-family": family,
                "com.amazonaws.ecs.task-definition-version": "1",
            },
            "DesiredStatus": "RUNNING",
            "KnownStatus": "RUNNING",
            "Type": "NORMAL",
            "ContainerARN": arn(&format!("container/{cluster}/{task_id}/{container_name}")),
        });
        let body = if of_task {
            json!({
                "Cluster": arn(&format!("cluster/{cluster}")),
                "TaskARN": task_arn,
                "Family": family,
                "Revision": "1",
                "DesiredStatus": "RUNNING",
                "KnownStatus": "RUNNING",
                "Containers": [container],
                "LaunchType": "FARGATE",
                "AvailabilityZone": format!("{region}a"),
            })
        } else {
            container
        };
        EndpointAnswer { status: 200, body, role_arn: None }
    }

    fn endpoint(&self, id: &str) -> Option<Arc<Endpoint>> {
        let endpoints = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        endpoints.get(id).cloned()
    }
}

impl EndpointAnswer {
    fn refused(status: u16, code: &str, message: &str, role_arn: Option<String>) -> Self {
        Self {
            status,
            body: json!({ "code": code, "message": message, "HTTPErrorCode": status }),
            role_arn,
        }
    }
}
