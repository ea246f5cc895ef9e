//! How many copies of each credential a worker holds, at each moment of its life: it runs as a task
//! in the local world, and its memory is scanned from outside.

use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Clock;
use super::ecs_agent::{self, Task};
use super::feed_server::{Account, Options, Scheme, Source};
use super::key_rotation::KeyRotation;
use super::local_aws::{self, Effect, Fault, Service};
use super::memory_scan::{self, Finding, Scan};
use super::tls_front::{self, Fronts};
use super::world::{self, SECRETS, World, keys_of};
use crate::feed::Dialect;

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_mins(1);

/// How many rotations the worker is scanned after.
pub const ROTATIONS: usize = 10;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The world was not set up.
    #[error("the local world was not set up")]
    World(#[from] world::Error),
    /// No TLS.
    #[error("there is no TLS in front of the local world")]
    Tls(#[from] tls_front::Error),
    /// The task was not started, or its end not seen.
    #[error("the worker did not run")]
    Task(#[from] ecs_agent::Error),
    /// The local AWS refuses.
    #[error("the local AWS refused")]
    Aws(#[from] local_aws::Error),
    /// Its memory was not scanned.
    #[error("the worker was not scanned")]
    Scan(#[from] memory_scan::Error),
    /// What was waited for did not come.
    #[error("the worker has not come to {0}; its last words: {1}")]
    NotReached(&'static str, String),
}

/// How the worker reaches AWS and the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// In clear.
    Plain,
    /// In TLS, with keep-alive to AWS and a stream that stays open.
    Tls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain HTTP",
            Self::Tls => "TLS",
        })
    }
}

/// What must hold at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Demand {
    /// One whole copy of each credential in use, none of one that was rotated out, and no fragment
    /// of one.
    One,
    /// No copy of anything.
    None,
    /// Nothing: the figures are for information.
    Nothing,
}

/// The task role's credentials.
const ROLE: [&str; 3] = ["role's key id", "role's secret", "role's token"];

/// What a worker holds to speak a dialect.
const fn credentials(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::XV2 => &["consumer key", "consumer secret", "bearer token"],
        Dialect::TwitterV1_1 => {
            &["consumer key", "consumer secret", "access token", "token secret"]
        }
    }
}

/// How often a value was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// All of it, in whatever encoding.
    pub whole: usize,
    /// A piece of at least [`memory_scan::SHORTEST_FRAGMENT`] bytes.
    pub fragments: usize,
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.fragments {
            0 => self.whole.to_string(),
            fragments => format!("{}+{fragments}", self.whole),
        };
        f.pad(&text)
    }
}

/// One scan.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// When it was made.
    pub name: String,
    /// What must hold.
    pub demand: Demand,
    /// Of the credentials in use, in the order of [`Report::credentials`].
    pub in_use: Vec<Copies>,
    /// Of all that were rotated out, together.
    pub rotated_out: Copies,
    /// Of the task role's access key id, secret access key and session token.
    pub task_role: [Copies; 3],
    /// Where each copy is, without its value.
    pub places: Vec<String>,
}

impl Moment {
    /// Whether what must hold does.
    #[must_use]
    pub fn holds(&self) -> bool {
        let none = Copies::default();
        let in_use = match self.demand {
            Demand::Nothing => return true,
            Demand::One => Copies { whole: 1, fragments: 0 },
            Demand::None => none,
        };
        self.rotated_out == none && self.in_use.iter().all(|copies| *copies == in_use)
    }
}

/// All scans of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the worker and the feed spoke.
    pub dialect: &'static str,
    /// How the worker reached AWS and the feed.
    pub transport: Transport,
    /// What the worker holds to speak it.
    pub credentials: &'static [&'static str],
    /// In the order in which they were made.
    pub moments: Vec<Moment>,
}

impl Report {
    /// Whether what must hold does, at every moment.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.moments.iter().all(Moment::holds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = || {
            let names = self.credentials.iter().chain(&["rotated out"]).chain(&ROLE);
            names.filter_map(|name| name.split_once(' '))
        };
        write!(f, "{:<22}", "")?;
        columns().try_for_each(|(word, _)| write!(f, "{word:>10}"))?;
        write!(f, "\n{:<22}", "")?;
        columns().try_for_each(|(_, words)| write!(f, "{words:>10}"))?;
        writeln!(f)?;
        for moment in &self.moments {
            write!(f, "{:<22}", moment.name)?;
            moment.in_use.iter().try_for_each(|copies| write!(f, "{copies:>10}"))?;
            write!(f, "{:>10}", moment.rotated_out)?;
            moment.task_role.iter().try_for_each(|copies| write!(f, "{copies:>10}"))?;
            writeln!(f, "{}", if moment.holds() { "" } else { "   NOT AS IT MUST BE" })?;
        }
        Ok(())
    }
}

/// Runs `program` as a task, rotates all credentials again and again, and scans it at every
/// moment. It takes root, or `CAP_SYS_PTRACE`.
///
/// # Errors
/// A worker that does not run, or that may not be scanned.
pub async fn run(
    root: &Path,
    program: &Path,
    clock: Clock,
    seed: u64,
    dialect: Dialect,
    transport: Transport,
) -> Result<Report, Error> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let account = Account::generated(&mut rng);
    let source = Source::Generated { seed, track: "Amazon".to_owned(), matching: 1.0 };
    let mut options = Options::new(vec![account.clone()], source, clock.clone());
    options.rate = NonZeroU32::new(500);
    if transport == Transport::Tls {
        options.scheme = Scheme::Https;
    }
    let world = World::start(root, clock, options).await?;
    let mut variables = vec![("ROTATION_QUEUE_URL", world.add_rotation_queue().await?)];
    variables.extend(world.feed_variables(dialect));
    let fronts = Fronts::start(world.aws.address(), world.feed.address()).await?;
    if transport == Transport::Tls {
        variables.extend(fronts.variables(world.feed_path(dialect)));
    }
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (sender, log) = mpsc::unbounded_channel();
    let task = Task::start(&world.task_definition, program, &variables, &world.aws, &sender)?;
    drop(sender);
    let mut scanned = Scanned {
        keys: KeyRotation::new(account, rng),
        dialect,
        report: Report {
            dialect: dialect.name(),
            transport,
            credentials: credentials(dialect),
            moments: Vec::new(),
        },
        rotated_out: Vec::new(),
        log,
        last: String::new(),
        world,
        task,
    };
    scanned.life().await?;
    Ok(scanned.report)
}

/// A worker and its scans.
struct Scanned {
    world: World,
    keys: KeyRotation,
    task: Task,
    log: mpsc::UnboundedReceiver<String>,
    last: String,
    dialect: Dialect,
    rotated_out: Vec<String>,
    report: Report,
}

impl Scanned {
    async fn life(&mut self) -> Result<(), Error> {
        self.said("the stream is open").await?;
        self.scan("start", Demand::One)?;
        self.posts(200).await?;
        self.scan("200 posts", Demand::One)?;
        for rotation in 1..=ROTATIONS {
            self.rotated_out.extend(keys_of(self.keys.account()));
            self.keys.renew();
            self.keys.accept(&self.world);
            if rotation == 1 {
                self.scan_the_fetch().await?;
            } else {
                self.move_labels()?;
            }
            self.said("the set of credentials before is wiped").await?;
            self.scan(&format!("rotation {rotation}"), Demand::One)?;
            self.keys.end_overlap(&self.world);
            if self.dialect == Dialect::XV2 {
                // The application's one stream was that of the old keys until now.
                self.said("the stream is open").await?;
                if [1, ROTATIONS].contains(&rotation) {
                    self.scan(&format!("rotation {rotation}, stream"), Demand::One)?;
                }
            }
        }
        self.scan_the_drain().await
    }

    /// The values that the worker has to hold, in the order of [`credentials`].
    fn in_use(&self) -> Vec<String> {
        let keys = keys_of(self.keys.account());
        match self.dialect {
            Dialect::TwitterV1_1 => keys.into(),
            Dialect::XV2 => {
                let [key, secret, ..] = keys;
                vec![key, secret, self.bearers().pop().unwrap_or_default()]
            }
        }
    }

    /// All bearers that the feed has given. The letters that every one of them begins with are no
    /// secret, and left out: in any of them they would be found as a fragment of any other.
    fn bearers(&self) -> Vec<String> {
        let bearers = self.world.feed.bearers().into_iter();
        bearers.map(|bearer| bearer.trim_start_matches('A').to_owned()).collect()
    }

    /// The values that it must not hold any more.
    fn rotated_out(&self) -> Vec<String> {
        let mut bearers = self.bearers();
        bearers.pop();
        self.rotated_out.iter().cloned().chain(bearers).collect()
    }

    fn move_labels(&self) -> Result<(), Error> {
        Ok((0..SECRETS.len()).try_for_each(|secret| self.keys.move_label(&self.world, secret))?)
    }

    /// All values but one have come, and that one is on its way.
    async fn scan_the_fetch(&mut self) -> Result<(), Error> {
        let fetched = |world: &World| {
            let audit = world.aws.audit();
            audit.iter().filter(|record| record.event_name == "GetSecretValue").count()
        };
        let before = fetched(&self.world);
        let hang = Fault::every_call(Service::SecretsManager, Effect::Hang);
        self.world.aws.inject(hang.of_operation("GetSecretValue").times(1));
        self.move_labels()?;
        let mut changes = self.world.aws.audit_changes();
        let (world, others) = (&self.world, self.dialect.credentials().len() - 1);
        let come = changes.wait_for(|()| fetched(world) >= before + others);
        if timeout(LIMIT, come).await.is_err() {
            return Err(self.not_reached("a fetch"));
        }
        self.scan("during a fetch", Demand::Nothing)?;
        self.world.aws.clear_faults();
        Ok(())
    }

    /// The stream is closed, and rows wait for a table that does not answer.
    async fn scan_the_drain(&mut self) -> Result<(), Error> {
        let hang = Fault::every_call(Service::DynamoDb, Effect::Hang);
        self.world.aws.inject(hang);
        let sent = self.world.feed.statistics().posts_sent;
        self.posts(sent + 100).await?;
        self.task.terminate();
        self.said("the stream is closed; writing what was accepted").await?;
        // The rotation ends with the stream, a moment after this was said, and with it the credentials.
        self.idle().await?;
        self.scan("drain", Demand::None)?;
        self.world.aws.clear_faults();
        let _ = self.task.stop().await?;
        Ok(())
    }

    /// Waits until the feed has sent so many posts.
    async fn posts(&self, posts: u64) -> Result<(), Error> {
        let sent = self.world.feed.wait_until(|feed| feed.posts_sent >= posts);
        match timeout(LIMIT, sent).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.not_reached("its posts")),
        }
    }

    /// Waits for a line of the log.
    async fn said(&mut self, message: &'static str) -> Result<(), Error> {
        let words = format!("\"message\":\"{message}\"");
        let waiting = async {
            while let Some(line) = self.log.recv().await {
                let found = line.contains(&words);
                self.last = line;
                if found {
                    return true;
                }
            }
            false
        };
        match timeout(LIMIT, waiting).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(self.not_reached(message)),
        }
    }

    /// Waits until the worker has nothing to do.
    async fn idle(&self) -> Result<(), Error> {
        let idle = async {
            while !self.task.id().is_some_and(memory_scan::is_idle) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, idle).await.map_err(|_| self.not_reached("an end of its work"))
    }

    fn not_reached(&self, what: &'static str) -> Error {
        Error::NotReached(what, self.last.clone())
    }

    fn scan(&mut self, name: &str, demand: Demand) -> Result<(), Error> {
        let Some(pid) = self.task.id() else {
            return Err(Error::NotReached("a scan", self.last.clone()));
        };
        let role = self.world.aws.task_credentials().pop();
        let role =
            role.map(|role| [role.access_key_id, role.secret_access_key, role.session_token]);
        let (in_use, role, rotated_out) =
            (self.in_use(), role.unwrap_or_default(), self.rotated_out());
        let values = in_use.iter().chain(&role).chain(&rotated_out);
        let findings = Scan::new(values.map(String::as_str))?.process(pid)?;
        let count = |is: &dyn Fn(usize) -> bool| {
            let mut copies = Copies::default();
            for finding in findings.iter().filter(|finding| is(finding.value)) {
                if finding.whole {
                    copies.whole += 1;
                } else {
                    copies.fragments += 1;
                }
            }
            copies
        };
        let of = |value: usize| count(&|found| found == value);
        let names: Vec<&str> = self.report.credentials.iter().chain(&ROLE).copied().collect();
        let place = |finding: &Finding| {
            let name = names.get(finding.value).unwrap_or(&"rotated out");
            format!("{name}: {finding}")
        };
        let moment = Moment {
            name: name.to_owned(),
            demand,
            in_use: (0..in_use.len()).map(of).collect(),
            rotated_out: count(&|found| found >= names.len()),
            task_role: [0, 1, 2].map(|value| of(in_use.len() + value)),
            places: findings.iter().map(place).collect(),
        };
        self.report.moments.push(moment);
        Ok(())
    }
}
