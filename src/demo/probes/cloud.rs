//! What can be had with the task's AWS credentials, and with the roles of the account: from within
//! the container, from beside it in the task, and from elsewhere.

use std::io;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Credentials;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::evidence::{Evidence, Measure, Observed};
use super::place::{Place, attack, said, values_in};
use super::subject::{Ground, Subject, Trio};
use super::{Attacked, Error, Found, Lab, Obstacle};
use crate::aws::http_client;
use crate::credentials::reference::AWSCURRENT;
use crate::demo::ecs_agent::{self, TaskDefinition, filled_in};
use crate::demo::local_aws::{LocalAws, Record, SessionCredentials, TASK_CREDENTIALS_LIFE, Task};
use crate::demo::running_worker::STUCK;
use crate::demo::world::{Model, SECRETS};

/// What IAM says, in short.
const DENIED: &str = "access denied";

/// How often the worker looks where the labels are, by default: `ROTATION_POLL` of README.md.
const LOOKS_A_DAY: usize = 24 * 60;

pub(super) async fn probes(
    lab: &Lab<'_>,
    place: &Place,
    trio: &Trio,
    found: &mut Found<'_>,
) -> Result<(), Error> {
    found("exec-credentials", exec_credentials(trio).await)?;
    found("sidecar-credentials", sidecar_credentials(trio).await)?;
    found("ssrf-credentials", ssrf_credentials(trio).await)?;
    found("credentials-bound-to-endpoint", bound_to_endpoint(lab).await)?;
    found("task-definition", task_definition(lab, trio).await)?;
    found("audit-of-reads", audit_of_reads(place, trio).await)?;
    found("shared-execution-role", shared_execution_role(trio).await)?;
    found("older-versions", older_versions(trio).await)?;
    let (surface, calls) = calls_of_the_tasks(trio).await?;
    found("api-surface", Ok(surface))?;
    found("api-calls", Ok(calls))
}

/// What came of asking for the four secrets.
#[derive(Default)]
pub(super) struct Taken {
    /// Of the values that were expected.
    pub(super) values: usize,
    denied: usize,
}

impl Taken {
    fn observed(&self) -> Observed {
        Observed::new(self.values).with_if(self.denied == SECRETS.len(), DENIED)
    }
}

/// Asks Secrets Manager for the four secrets at a label.
pub(super) async fn take(
    aws: &LocalAws,
    endpoint_url: &str,
    credentials: Option<Credentials>,
    stage: &str,
    values: &[String],
) -> Taken {
    let Some(credentials) = credentials else { return Taken::default() };
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(aws.region().to_owned()))
        .endpoint_url(endpoint_url)
        .credentials_provider(credentials)
        .http_client(http_client(0))
        .build();
    let client = Client::from_conf(config);
    let mut taken = Taken::default();
    for name in SECRETS {
        match client.get_secret_value().secret_id(name).version_stage(stage).send().await {
            Ok(answer) => {
                let value = answer.secret_string().unwrap_or_default();
                taken.values += usize::from(values_in(value.as_bytes(), values) > 0);
            }
            Err(error) => {
                let denied = error.code() == Some("AccessDeniedException");
                taken.denied += usize::from(denied);
            }
        }
    }
    taken
}

/// Asks the credentials endpoint, as curl would. `None` where it refuses.
async fn credentials(url: &Url, token: Option<&str>) -> Result<Option<Credentials>, Error> {
    let body = asked(url, token)
        .await
        .map_err(|error| attack("the credentials endpoint cannot be asked", error))?;
    let text = |name: &str| Some(body.get(name)?.as_str()?.to_owned());
    let all = || {
        let (id, secret) = (text("AccessKeyId")?, text("SecretAccessKey")?);
        Some(Credentials::new(id, secret, Some(text("Token")?), None, "stolen"))
    };
    Ok(all())
}

/// The JSON that a GET is answered with.
async fn asked(url: &Url, token: Option<&str>) -> io::Result<Value> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or_default());
    let authorization = token.map(|token| format!("Authorization: {token}\r\n"));
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\n{}Connection: close\r\n\r\n",
        url.path(),
        authorization.unwrap_or_default()
    );
    let mut connection = TcpStream::connect((host, port)).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str(body)?)
}

/// The endpoint and its token, as the container's environment tells them.
fn endpoint(subject: &Subject) -> Result<(Url, Option<&str>), Error> {
    let variable = |name: &str| {
        let found = subject.environment().iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let url = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").and_then(|url| Url::parse(url).ok());
    let url = url.ok_or(Error::NotReached("the URI of the credentials endpoint"))?;
    Ok((url, variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")))
}

/// What somebody in the container is given.
pub(super) async fn credentials_of(subject: &Subject) -> Result<Option<Credentials>, Error> {
    let (url, token) = endpoint(subject)?;
    credentials(&url, token).await
}

/// Calls of `GetSecretValue` that were answered to a role.
fn reads(aws: &LocalAws, role: &str) -> usize {
    let role = format!(":assumed-role/{role}/");
    let is_read = |record: &&Record| {
        record.event_name == "GetSecretValue"
            && record.error_code.is_none()
            && record.principal_arn.as_deref().is_some_and(|arn| arn.contains(&role))
    };
    aws.audit().iter().filter(is_read).count()
}

async fn exec_credentials(trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let world = &subject.ground.world;
        let role = world.task_definition.task_role();
        let before = reads(&world.aws, role);
        let url = world.aws.endpoint_url();
        let stolen = credentials_of(subject).await?;
        let taken = take(&world.aws, &url, stolen, AWSCURRENT, &subject.values()).await;
        let events = reads(&world.aws, role) - before;
        let seen = taken.values > 0 && events == taken.values;
        Ok(taken.observed().with_if(seen, "each is an event that names the task"))
    };
    trio.compared(Measure::Values, attack).await
}

async fn sidecar_credentials(trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let world = &subject.ground.world;
        // Another container of the task: the same role, an endpoint of its own, and none of the
        // worker's variables.
        let task_id = format!("{:032x}", fastrand::u128(..));
        let sidecar = Task::new(world.task_definition.task_role(), &task_id);
        let endpoint = world.aws.task(sidecar).map_err(Error::from)?;
        let url = Url::parse(&endpoint.full_uri).map_err(|_| Error::NotReached("an endpoint"))?;
        let stolen = credentials(&url, Some(&endpoint.authorization_token)).await?;
        let url = world.aws.endpoint_url();
        let taken = take(&world.aws, &url, stolen, AWSCURRENT, &subject.values()).await;
        Ok(taken.observed())
    };
    trio.compared(Measure::Values, attack).await
}

async fn ssrf_credentials(trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let world = &subject.ground.world;
        let (full, _) = endpoint(subject)?;
        // As behind AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, which asks for no header.
        let mut relative = full.clone();
        relative.set_path(full.path().trim_start_matches("/full"));
        let mut guessed = relative.clone();
        guessed.set_path("/v2/credentials/00000000-0000-4000-8000-000000000000");
        let guess = credentials(&guessed, None).await?;
        let stolen = credentials(&relative, None).await?;
        let url = world.aws.endpoint_url();
        let taken = take(&world.aws, &url, stolen, AWSCURRENT, &subject.values()).await;
        Ok(taken.observed().with_if(guess.is_none(), "a guessed URI gives no credentials"))
    };
    trio.compared(Measure::Values, attack).await
}

/// The credentials of a task, used outside the VPC endpoint that the secrets are bound to.
async fn bound_to_endpoint(lab: &Lab<'_>) -> Attacked {
    let attack = async |model| -> Result<Observed, Obstacle> {
        let ground = Ground::new(lab, model).await?;
        let (aws, definition) = (&ground.world.aws, &ground.world.task_definition);
        let document = ground.world.document("secret-resource-policy.json").map_err(Error::from)?;
        let document = filled_in_endpoint(&document);
        for name in SECRETS {
            aws.put_secret_policy(name, &document).map_err(Error::from)?;
        }
        let inside = aws.vpc_endpoint(ENDPOINT).await.map_err(Error::from)?;
        let session = session(aws, definition.task_role())?;
        let (values, outside) = (ground.values(), aws.endpoint_url());
        let taken = take(aws, &outside, Some(session.clone()), AWSCURRENT, &values).await;
        let through = take(aws, &inside, Some(session), AWSCURRENT, &values).await.values;
        let through = match through {
            0 => "none through the endpoint".to_owned(),
            some => format!("{some} through the endpoint"),
        };
        Ok(taken.observed().with(through))
    };
    let embedded = attack(Model::Embedded).await?;
    Ok(Evidence::new(Measure::Values, embedded, attack(Model::Injected).await?))
}

const ENDPOINT: &str = "vpce-0123456789abcdef0";

fn filled_in_endpoint(document: &Value) -> Value {
    let text = document.to_string().replace("$VPCENDPOINT", ENDPOINT);
    serde_json::from_str(&text).unwrap_or_default()
}

/// Credentials of a role, as ECS gets them.
fn session(aws: &LocalAws, role: &str) -> Result<Credentials, Error> {
    let task_id = format!("{:032x}", fastrand::u128(..));
    let SessionCredentials { access_key_id, secret_access_key, session_token, .. } =
        aws.begin_session(role, &task_id, TASK_CREDENTIALS_LIFE)?;
    Ok(Credentials::new(access_key_id, secret_access_key, Some(session_token), None, "session"))
}

async fn task_definition(lab: &Lab<'_>, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let Ground { model, world, .. } = &subject.ground;
        let path = lab.root.join("task-definition").join(format!("{}.json", model.name()));
        let text = std::fs::read_to_string(&path)
            .map_err(|error| attack("a task definition cannot be read", error))?;
        let text = filled_in(&text, &world.aws);
        let named = text.matches(":secret:").count();
        let named = match named {
            0 => "no secret is named".to_owned(),
            some => format!("{some} secrets are named"),
        };
        Ok(Observed::new(values_in(text.as_bytes(), &subject.values())).with(named))
    };
    trio.compared(Measure::Values, attack).await
}

/// The shortest way to the values from within the container, and what the audit trail has of it.
async fn audit_of_reads(place: &Place, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let (aws, values) = (&subject.ground.world.aws, subject.values());
        let before = aws.audit().len();
        let seen = said(&mut subject.inside(place, "env")).await?.values(&values);
        let taken = if seen > 0 {
            seen
        } else {
            let stolen = credentials_of(subject).await?;
            take(aws, &aws.endpoint_url(), stolen, AWSCURRENT, &values).await.values
        };
        let audit = aws.audit();
        let is_read = |record: &&Record| record.event_name == "GetSecretValue";
        let events = audit.get(before..).unwrap_or_default().iter().filter(is_read).count();
        let way =
            if seen > 0 { "they are in the environment" } else { "they have to be asked for" };
        Ok(Observed::new(taken.saturating_sub(events)).with(way))
    };
    trio.compared(Measure::SilentValues, attack).await
}

/// Another service's task definition, with the same task execution role, names these secrets.
async fn shared_execution_role(trio: &Trio) -> Attacked {
    injected_elsewhere(trio, Measure::Values, "", Subject::values).await
}

/// The same for the versions before the current ones.
async fn older_versions(trio: &Trio) -> Attacked {
    let older = SECRETS.map(|name| format!("older-value-of-{name}"));
    for subject in [&trio.embedded, &trio.injected] {
        for (name, value) in SECRETS.iter().zip(&older) {
            let aws = &subject.ground.world.aws;
            aws.seed_version(name, Some(value), &["AWSPREVIOUS"]).map_err(Error::from)?;
        }
    }
    let by_execution_role =
        injected_elsewhere(trio, Measure::OlderValues, "::AWSPREVIOUS:", |_| older.clone()).await?;
    let attack = async |subject: &Subject| {
        let aws = &subject.ground.world.aws;
        let stolen = credentials_of(subject).await?;
        let url = aws.endpoint_url();
        Ok::<_, Error>(take(aws, &url, stolen, "AWSPREVIOUS", &older).await)
    };
    let both = |by_execution: Observed, taken: Taken| {
        let more = taken.values as u64 > by_execution.amount;
        if more { taken.observed() } else { by_execution }
    };
    let Evidence { embedded, injected, .. } = by_execution_role;
    let embedded = both(embedded, attack(&trio.embedded).await?);
    let injected = both(injected, attack(&trio.injected).await?);
    Ok(Evidence::new(Measure::OlderValues, embedded, injected))
}

async fn injected_elsewhere(
    trio: &Trio,
    measure: Measure,
    version: &str,
    values: impl Fn(&Subject) -> [String; 4],
) -> Attacked {
    let attack = async |subject: &Subject| {
        let world = &subject.ground.world;
        let (region, account) = (world.aws.region(), world.aws.account_id());
        let arn = |name: &str| format!("arn:aws:secretsmanager:{region}:{account}:secret:{name}");
        let secrets = SECRETS
            .map(|name| json!({ "name": name, "valueFrom": format!("{}{version}", arn(name)) }));
        let role = |name: &str| format!("arn:aws:iam::{account}:role/{name}");
        let definition = json!({
            "family": "another-service",
            "taskRoleArn": role("another-services-task-role"),
            "executionRoleArn": role(world.task_definition.execution_role()),
            "containerDefinitions": [{ "name": "another-service", "secrets": secrets }],
        });
        let definition: TaskDefinition = serde_json::from_value(definition)
            .map_err(|error| attack("a task definition is not valid", error.into()))?;
        match ecs_agent::injected(&definition, &world.aws).await {
            Ok(variables) => {
                let text: String = variables.into_iter().map(|(_, value)| value + "\n").collect();
                Ok(Observed::new(values_in(text.as_bytes(), &values(subject))))
            }
            Err(ecs_agent::Error::ResourceInitialization { .. }) => {
                Ok(Observed::new(0).with("ResourceInitializationError"))
            }
            Err(error) => Err(Error::from(error).into()),
        }
    };
    trio.compared(measure, attack).await
}

/// Which actions of Secrets Manager the tasks themselves call, and how often when nothing rotates.
async fn calls_of_the_tasks(trio: &Trio) -> Result<(Evidence, Evidence), Error> {
    let mut surface = Vec::new();
    let mut calls = Vec::new();
    for subject in [&trio.embedded, &trio.injected] {
        let world = &subject.ground.world;
        let role = format!(":assumed-role/{}/", world.task_definition.task_role());
        let own = || {
            let mut records = world.aws.audit();
            records.retain(|record| {
                record.event_source == "secretsmanager.amazonaws.com"
                    && record.error_code.is_none()
                    && record.principal_arn.as_deref().is_some_and(|arn| arn.contains(&role))
                    // Not of those who stole its credentials.
                    && record.user_agent.as_deref().is_some_and(|name| name.contains("twitterstream"))
            });
            records
        };
        let before = own().len();
        subject.running.send(Signal::HUP)?;
        if subject.ground.model == Model::Embedded {
            let mut changes = world.aws.audit_changes();
            let looked = changes.wait_for(|()| own().len() >= before + SECRETS.len());
            timeout(STUCK, looked)
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(Error::NotReached("a look at the labels"))?;
        }
        let all = own();
        let mut actions: Vec<_> = all.iter().map(|record| record.event_name.as_str()).collect();
        actions.sort_unstable();
        actions.dedup();
        let observed = Observed::new(actions.len());
        let names = actions.join(", ");
        surface.push(if actions.is_empty() { observed } else { observed.with(names) });
        let of_a_look = all.len() - before;
        let observed = Observed::new(of_a_look * LOOKS_A_DAY);
        let what = format!("{of_a_look} DescribeSecret a minute");
        calls.push(observed.with(if of_a_look == 0 {
            "ECS makes 4 GetSecretValue at each start of a task".to_owned()
        } else {
            what
        }));
    }
    let pair = |measure, observed: Vec<Observed>| {
        let mut observed = observed.into_iter();
        let mut next = || observed.next().unwrap_or_default();
        Evidence::new(measure, next(), next())
    };
    Ok((pair(Measure::Actions, surface), pair(Measure::CallsADay, calls)))
}
