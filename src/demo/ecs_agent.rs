//! Starts a task from a task definition as ECS would: its container's process gets the environment
//! of the definition, the values of its `secrets`, the endpoints of the task, and nothing of ours.
//!
//! The files are read as they are shipped; `$REGION`, `$AWSACCOUNT` and the random ends of the
//! secrets' ARNs are filled in as the scripts do. Three things are not as on Fargate: there is no container around the process; so there is no
//! volume either, and a variable that names where one is mounted is left out; and the credentials
//! endpoint is given as `AWS_CONTAINER_CREDENTIALS_FULL_URI`, because the address 169.254.170.2
//! behind `..._RELATIVE_URI` cannot be had without a network namespace.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::config::Credentials;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::local_aws::{
    self, LocalAws, SessionCredentials, TASK_CREDENTIALS_LIFE, Task as TaskIdentity,
};
use crate::aws::http_client;
use crate::credentials::Reference;
use crate::credentials::reference::AWSCURRENT;

/// Why a task was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task definition cannot be read.
    #[error("the task definition {path} cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what ECS takes.
    #[error("the task definition is not valid")]
    Parse(#[from] serde_json::Error),
    /// It has no container, or no task role.
    #[error("the task definition has no {0}")]
    Missing(&'static str),
    /// The local AWS knows no such role.
    #[error("the task gets no credentials")]
    Credentials(#[from] local_aws::Error),
    /// ECS cannot have a secret that the definition injects, and starts no container.
    #[error(
        "ResourceInitializationError: the secret {secret_id} was not read with the task execution role: {code}"
    )]
    ResourceInitialization {
        /// What `valueFrom` names.
        secret_id: String,
        /// AWS's error code, or what is wrong with the definition.
        code: String,
    },
    /// The container's program cannot be started.
    #[error("{program} cannot be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process is gone, and nobody knows how.
    #[error("the task's end was not seen")]
    Wait(#[source] io::Error),
}

/// The part of a task definition that a start needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefinition {
    family: String,
    task_role_arn: String,
    execution_role_arn: String,
    container_definitions: Vec<ContainerDefinition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerDefinition {
    name: String,
    #[serde(default)]
    environment: Vec<KeyValuePair>,
    #[serde(default)]
    secrets: Vec<Secret>,
    #[serde(default)]
    mount_points: Vec<MountPoint>,
    /// Seconds; ECS's default is 30.
    stop_timeout: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct KeyValuePair {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    name: String,
    value_from: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MountPoint {
    container_path: String,
}

impl TaskDefinition {
    /// Reads a file with the placeholders of the scripts. `secrets` are the names and ARNs of the
    /// secrets that there are.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what ECS takes.
    pub fn read(path: &Path, aws: &LocalAws, secrets: &[(&str, String)]) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.display().to_string(), source })?;
        let mut text = filled_in(&text, aws);
        for (name, arn) in secrets {
            let (region, account) = (aws.region(), aws.account_id());
            let placeholder =
                format!("arn:aws:secretsmanager:{region}:{account}:secret:{name}-XXXXXX");
            text = text.replace(&placeholder, arn);
        }
        Ok(serde_json::from_str(&text)?)
    }

    fn container(&self) -> Result<&ContainerDefinition, Error> {
        self.container_definitions.first().ok_or(Error::Missing("container"))
    }

    /// The name of the task role.
    #[must_use]
    pub fn task_role(&self) -> &str {
        self.task_role_arn.rsplit('/').next().unwrap_or_default()
    }

    /// The name of the task execution role.
    #[must_use]
    pub fn execution_role(&self) -> &str {
        self.execution_role_arn.rsplit('/').next().unwrap_or_default()
    }

    /// The value of a variable of the container's `environment`.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let container = self.container_definitions.first()?;
        container.environment.iter().find(|pair| pair.name == name).map(|pair| &*pair.value)
    }
}

/// What ECS does with a definition's `secrets` before it starts the container: it asks Secrets Manager
/// for each, as the task execution role, and makes a variable of it. Never again afterwards.
///
/// # Errors
/// [`Error::ResourceInitialization`], and the task is not started.
pub async fn injected(
    definition: &TaskDefinition,
    aws: &LocalAws,
) -> Result<Vec<(String, String)>, Error> {
    let secrets = &definition.container()?.secrets;
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let session = format!("{:032x}", fastrand::u128(..));
    let role = definition.execution_role();
    let SessionCredentials { access_key_id, secret_access_key, session_token, .. } =
        aws.begin_session(role, &session, TASK_CREDENTIALS_LIFE)?;
    let credentials =
        Credentials::new(access_key_id, secret_access_key, Some(session_token), None, "ecs");
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(aws.region().to_owned()))
        .endpoint_url(aws.endpoint_url())
        .credentials_provider(credentials)
        .http_client(http_client(0))
        .build();
    let client = aws_sdk_secretsmanager::Client::from_conf(config);
    let mut variables = Vec::new();
    for Secret { name, value_from } in secrets {
        let failed = |code: &str| Error::ResourceInitialization {
            secret_id: value_from.clone(),
            code: code.to_owned(),
        };
        let reference: Reference = value_from.parse().map_err(|_| failed("not a valueFrom"))?;
        let version = reference.version();
        // ECS sends a label only where one is named.
        let stage = version.stage().filter(|stage| *stage != AWSCURRENT);
        let answer = client
            .get_secret_value()
            .secret_id(reference.secret_id())
            .set_version_stage(stage.map(ToOwned::to_owned))
            .set_version_id(version.id().map(ToOwned::to_owned))
            .send()
            .await
            .map_err(|error| failed(error.code().unwrap_or("no answer")))?;
        let value = answer.secret_string().ok_or_else(|| failed("it has no SecretString"))?;
        let value = match reference.json_key() {
            None => Some(value.to_owned()),
            Some(key) => serde_json::from_str::<Value>(value)
                .ok()
                .and_then(|secret| secret.get(key)?.as_str().map(ToOwned::to_owned)),
        };
        variables.push((name.clone(), value.ok_or_else(|| failed("it has no such JSON key"))?));
    }
    Ok(variables)
}

/// Fills in `$REGION` and `$AWSACCOUNT`.
#[must_use]
pub fn filled_in(text: &str, aws: &LocalAws) -> String {
    text.replace("$REGION", aws.region()).replace("$AWSACCOUNT", aws.account_id())
}

/// A running task. It knows its container's environment, and so has no `Debug`.
pub struct Task {
    child: Child,
    environment: Vec<(String, String)>,
    pid: Option<Pid>,
    stop_timeout: Duration,
}

impl Task {
    /// The command that starts the definition's container with `program` as its image, with the
    /// environment that ECS would give it. `overrides` are those of `RunTask`: they replace or add
    /// variables.
    ///
    /// # Errors
    /// A definition without container, or a role that does not exist or does not trust ECS.
    pub fn command(
        definition: &TaskDefinition,
        program: &Path,
        overrides: &[(&str, &str)],
        aws: &LocalAws,
    ) -> Result<Command, Error> {
        let container = definition.container()?;
        let task_id = format!("{:032x}", fastrand::u128(..));
        let mut identity = TaskIdentity::new(definition.task_role(), &task_id);
        identity.family.clone_from(&definition.family);
        identity.container_name.clone_from(&container.name);
        let endpoint = aws.task(identity)?;

        let mounted = |pair: &&KeyValuePair| {
            container.mount_points.iter().any(|mount| mount.container_path == pair.value)
        };
        let environment = container.environment.iter().filter(|pair| !mounted(pair));
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOSTNAME", format!("{}.local", container.name))
            .env("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE")
            .env("AWS_REGION", aws.region())
            .env("AWS_DEFAULT_REGION", aws.region())
            .env("ECS_CONTAINER_METADATA_URI_V4", endpoint.metadata_uri_v4)
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.full_uri)
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", endpoint.authorization_token)
            .env("AWS_ENDPOINT_URL", aws.endpoint_url())
            .envs(environment.map(|pair| (&pair.name, &pair.value)))
            .envs(overrides.iter().copied())
            // A Ctrl-C at the terminal is for the demo, which stops the task as ECS does.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Starts it. Each line of standard output and standard error goes to `log`, as to a log driver.
    ///
    /// # Errors
    /// As [`Self::command`], and a program that cannot be started.
    pub fn start(
        definition: &TaskDefinition,
        program: &Path,
        overrides: &[(&str, &str)],
        aws: &LocalAws,
        log: &mpsc::UnboundedSender<String>,
    ) -> Result<Self, Error> {
        Self::spawn(Self::command(definition, program, overrides, aws)?, definition, log)
    }

    /// Starts what [`Self::command`] made, perhaps changed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn spawn(
        mut command: Command,
        definition: &TaskDefinition,
        log: &mpsc::UnboundedSender<String>,
    ) -> Result<Self, Error> {
        let mut child = command.spawn().map_err(|source| Error::Start {
            program: command.as_std().get_program().display().to_string(),
            source,
        })?;
        if let Some(output) = child.stdout.take() {
            forward(output.into_owned_fd(), log);
        }
        if let Some(output) = child.stderr.take() {
            forward(output.into_owned_fd(), log);
        }
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let stop_timeout = definition.container()?.stop_timeout.unwrap_or(30);
        let text = |text: &OsStr| text.to_str().map(ToOwned::to_owned);
        let variables = command.as_std().get_envs();
        let environment =
            variables.filter_map(|(name, value)| Some((text(name)?, text(value?)?))).collect();
        Ok(Self { child, environment, pid, stop_timeout: Duration::from_secs(stop_timeout) })
    }

    /// The container's environment: what ECS gives to whatever it starts in it, to a shell of ECS Exec
    /// or a health check for instance.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The process id; `None` once it has ended.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid.filter(|_| self.child.id().is_some()) {
            // It may be gone already, and then it hears nothing.
            let _ = kill_process(pid, signal);
        }
    }

    /// How long after SIGTERM comes SIGKILL: the definition's `stopTimeout`.
    #[must_use]
    pub const fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }

    /// Stops the task as ECS does: SIGTERM, and SIGKILL after the definition's `stopTimeout`.
    ///
    /// # Errors
    /// The end was not seen.
    pub async fn stop(&mut self) -> Result<ExitStatus, Error> {
        self.terminate();
        if let Ok(status) = timeout(self.stop_timeout, self.child.wait()).await {
            return status.map_err(Error::Wait);
        }
        self.kill().await
    }

    /// Kills it with SIGKILL, which it cannot notice.
    ///
    /// # Errors
    /// The end was not seen.
    pub async fn kill(&mut self) -> Result<ExitStatus, Error> {
        self.child.kill().await.map_err(Error::Wait)?;
        self.wait().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// The end was not seen.
    pub async fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.child.wait().await.map_err(Error::Wait)
    }

    /// What the process has used; `None` once it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.child.id()?)
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// In user and system mode, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory now, in bytes.
    pub rss_bytes: u64,
    /// The most it ever had.
    pub peak_rss_bytes: u64,
}

impl Usage {
    /// What a process has used; `None` where there is none of this id.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; the fields after it are counted from 3
        // (proc_pid_stat(5): utime is 14, stime 15).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
        let ticks = ticks(14)? + ticks(15)?;
        let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let bytes = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self {
            cpu_seconds: f64::from(ticks) / f64::from(per_second),
            rss_bytes: bytes("VmRSS:")?,
            peak_rss_bytes: bytes("VmHWM:")?,
        })
    }
}

/// Sends on what a task says, line by line, from a thread of its own: however busy this process is, the pipe is
/// read, and to its end even where nobody listens. A full one would stop the task.
fn forward(output: io::Result<OwnedFd>, log: &mpsc::UnboundedSender<String>) {
    let (Ok(output), log) = (output, log.clone()) else { return };
    thread::spawn(move || {
        for line in BufReader::new(File::from(output)).lines().map_while(Result::ok) {
            let _ = log.send(line);
        }
    });
}
