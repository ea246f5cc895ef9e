//! What can be had with the task's AWS credentials, and with the roles of the account: from within
//! the container, from beside it in the task, and from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
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

/// What came of asking for the four secrets: of each a value, or a refusal.
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

/// Asks Secrets Manager for the four secrets at a label, where they have these values.
///
/// # Errors
/// Any answer but a value of these or a refusal: it says nothing of what an attacker gets.
pub(super) async fn take(
    aws: &LocalAws,
    endpoint_url: &str,
    credentials: Credentials,
    stage: &str,
    values: &[String],
) -> Result<Taken, Error> {
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
                if values_in(value.as_bytes(), values) == 0 {
                    let code = "another value".to_owned();
                    return Err(Error::Unanswered { secret: name, code });
                }
                taken.values += 1;
            }
            Err(error) if error.code() == Some("AccessDeniedException") => taken.denied += 1,
            Err(error) => {
                let code = error.code().unwrap_or("no answer").to_owned();
                return Err(Error::Unanswered { secret: name, code });
            }
        }
    }
    Ok(taken)
}

/// Asks the credentials endpoint, as curl would. `None` where it refuses.
async fn guessed(url: &Url, token: Option<&str>) -> Result<Option<Credentials>, Error> {
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

/// The same of a URI that must be right.
async fn credentials(url: &Url, token: Option<&str>) -> Result<Credentials, Error> {
    guessed(url, token).await?.ok_or(Error::NotReached("the task role's credentials"))
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

fn variable<'a>(subject: &'a Subject, name: &str) -> Option<&'a str> {
    let found = subject.environment().iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// The endpoint and its token, as the container's environment tells them.
fn endpoint(subject: &Subject) -> Result<(Url, Option<&str>), Error> {
    let url = variable(subject, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let url = url.and_then(|url| Url::parse(url).ok());
    let url = url.ok_or(Error::NotReached("the URI of the credentials endpoint"))?;
    Ok((url, variable(subject, "AWS_CONTAINER_AUTHORIZATION_TOKEN")))
}

/// What somebody in the container is given.
pub(super) async fn credentials_of(subject: &Subject) -> Result<Credentials, Error> {
    let (url, token) = endpoint(subject)?;
    credentials(&url, token).await
}

/// Calls of `GetSecretValue` that were answered, by a session: `ROLE/TASK`, or `ROLE/` for any of a role.
fn reads(aws: &LocalAws, session: &str) -> Vec<Record> {
    let session = format!(":assumed-role/{session}");
    let mut records = aws.audit();
    records.retain(|record| {
        let arn = record.principal_arn.as_deref().unwrap_or_default();
        let is_of_it =
            arn.ends_with(&session) || (session.ends_with('/') && arn.contains(&session));
        is_of_it && record.event_name == "GetSecretValue" && record.error_code.is_none()
    });
    records
}

/// The task's session as the trail names it, `ROLE/TASK`: the metadata endpoint tells which task it is.
async fn session_of(subject: &Subject) -> Result<String, Error> {
    let uri = variable(subject, "ECS_CONTAINER_METADATA_URI_V4");
    let url = uri.and_then(|uri| Url::parse(&format!("{uri}/task")).ok());
    let url = url.ok_or(Error::NotReached("the URI of the metadata endpoint"))?;
    let told = asked(&url, None).await;
    let told = told.map_err(|error| attack("the metadata endpoint cannot be asked", error))?;
    let arn = told.get("TaskARN").and_then(Value::as_str).unwrap_or_default();
    let (_, task) = arn.rsplit_once('/').ok_or(Error::NotReached("the task's ARN"))?;
    Ok(format!("{}/{task}", subject.ground.world.task_definition.task_role()))
}

async fn exec_credentials(trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let world = &subject.ground.world;
        let task = session_of(subject).await?;
        let before = reads(&world.aws, &task).len();
        let url = world.aws.endpoint_url();
        let stolen = credentials_of(subject).await?;
        let taken = take(&world.aws, &url, stolen, AWSCURRENT, &subject.values()).await?;
        let events = reads(&world.aws, &task).len() - before;
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
        let taken = take(&world.aws, &url, stolen, AWSCURRENT, &subject.values()).await?;
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
        let mut guess = relative.clone();
        guess.set_path("/v2/credentials/00000000-0000-4000-8000-000000000000");
        let guess = guessed(&guess, None).await?;
        let stolen = credentials(&relative, None).await?;
        let url = world.aws.endpoint_url();
        let taken = take(&world.aws, &url, stolen, AWSCURRENT, &subject.values()).await?;
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
        let taken = take(aws, &outside, session.clone(), AWSCURRENT, &values).await?;
        let through = take(aws, &inside, session, AWSCURRENT, &values).await?.values;
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
        let definition: Value = serde_json::from_str(&text)
            .map_err(|error| attack("a task definition is not valid", error.into()))?;
        // A key that somebody has put there is none that this run has drawn.
        let like = variables_like_credentials(&definition);
        let named = text.matches(":secret:").count();
        let named = match named {
            0 => "no secret is named".to_owned(),
            some => format!("{some} secrets are named"),
        };
        let values = values_in(text.as_bytes(), &subject.values()).max(like.len());
        let like = like.join(", ");
        Ok(Observed::new(values)
            .with(named)
            .with_if(!like.is_empty(), &format!("variables named like a credential: {like}")))
    };
    trio.compared(Measure::Values, attack).await
}

/// The names of a definition's `environment` that a credential could have.
fn variables_like_credentials(definition: &Value) -> Vec<&str> {
    let containers = definition.get("containerDefinitions").and_then(Value::as_array);
    let variables = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container.get("environment")?.as_array())
        .flatten();
    let names = variables.filter_map(|variable| variable.get("name")?.as_str());
    let like = |name: &&str| {
        let name = name.to_uppercase();
        ["KEY", "SECRET", "TOKEN", "PASSW", "CREDENTIAL"].iter().any(|word| name.contains(word))
    };
    names.filter(like).collect()
}

/// The shortest way to the values from within the container, and what the audit trail has of it.
async fn audit_of_reads(place: &Place, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let (world, values) = (&subject.ground.world, subject.values());
        let (aws, task) = (&world.aws, session_of(subject).await?);
        let before = reads(aws, &task).len();
        let seen = said(&mut subject.inside(place, "env")).await?.values(&values);
        let taken = if seen > 0 {
            seen
        } else {
            let stolen = credentials_of(subject).await?;
            take(aws, &aws.endpoint_url(), stolen, AWSCURRENT, &values).await?.values
        };
        let events = reads(aws, &task).len() - before;
        let way =
            if seen > 0 { "they are in the environment" } else { "they have to be asked for" };
        let by_ecs = reads(aws, &format!("{}/", world.task_definition.execution_role()));
        Ok(Observed::new(taken.saturating_sub(events))
            .with(way)
            .with_if(events > 0, "the trail names the task")
            .with_if(!by_ecs.is_empty(), "the trail names the task execution role, at the start"))
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
        take(aws, &url, stolen, "AWSPREVIOUS", &older).await
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
    let (embedded, injected) = (&trio.embedded, &trio.injected);
    let before = [embedded, injected].map(|subject| own_calls(subject).len());
    for subject in [embedded, injected] {
        subject.running.send(Signal::HUP)?;
    }
    // The other has as long to look as the one that does.
    let [before_embedded, before_injected] = before;
    let mut changes = embedded.ground.world.aws.audit_changes();
    let looked =
        changes.wait_for(|()| own_calls(embedded).len() >= before_embedded + SECRETS.len());
    let looked = timeout(STUCK, looked).await.ok().and_then(Result::ok);
    looked.ok_or(Error::NotReached("a look at the labels"))?;
    let (own_embedded, own_injected) = (own_calls(embedded), own_calls(injected));
    let surface = Evidence::new(Measure::Actions, actions(&own_embedded), actions(&own_injected));
    let calls = Evidence::new(
        Measure::CallsADay,
        calls_a_day(embedded, own_embedded.get(before_embedded..).unwrap_or_default()),
        calls_a_day(injected, own_injected.get(before_injected..).unwrap_or_default()),
    );
    Ok((surface, calls))
}

/// What a task itself has called of Secrets Manager, and not those who stole its credentials.
fn own_calls(subject: &Subject) -> Vec<Record> {
    let world = &subject.ground.world;
    let role = format!(":assumed-role/{}/", world.task_definition.task_role());
    let mut records = world.aws.audit();
    records.retain(|record| {
        record.event_source == "secretsmanager.amazonaws.com"
            && record.error_code.is_none()
            && record.principal_arn.as_deref().is_some_and(|arn| arn.contains(&role))
            && record.user_agent.as_deref().is_some_and(|name| name.contains("twitterstream"))
    });
    records
}

/// The distinct actions among some calls.
fn actions(records: &[Record]) -> Observed {
    let names: BTreeSet<_> = records.iter().map(|record| &*record.event_name).collect();
    let observed = Observed::new(names.len());
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() { observed } else { observed.with(names.join(", ")) }
}

/// The calls of one look, and of a day of looks; and those that ECS made when the task started.
fn calls_a_day(subject: &Subject, of_a_look: &[Record]) -> Observed {
    let world = &subject.ground.world;
    let by_ecs = reads(&world.aws, &format!("{}/", world.task_definition.execution_role()));
    // The first session of this role is the start's.
    let first = by_ecs.first().map(|record| record.principal_arn.clone());
    let at_start: Vec<_> =
        by_ecs.into_iter().filter(|record| Some(&record.principal_arn) == first.as_ref()).collect();
    let mut observed = Observed::new(of_a_look.len() * LOOKS_A_DAY);
    if !of_a_look.is_empty() {
        observed = observed.with(format!("{} a minute", counted(of_a_look)));
    }
    if !at_start.is_empty() {
        observed =
            observed.with(format!("ECS makes {} at each start of a task", counted(&at_start)));
    }
    observed
}

/// How many there are of each action: `4 GetSecretValue`.
fn counted(records: &[Record]) -> String {
    let mut counts = BTreeMap::<_, usize>::new();
    for record in records {
        *counts.entry(&*record.event_name).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    counts.join(", ")
}
