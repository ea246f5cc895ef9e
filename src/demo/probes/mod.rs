//! Every claim that one model is safer than the other is an attack that runs, also where injection
//! wins.
//!
//! A [`Probe`] of [`PROBES`] says what is claimed, how it is checked, and what was found when it last
//! ran. [`run`] starts both models in worlds of their own, attacks them, and makes a [`Finding`] of
//! each probe. The verdict follows from the [`Evidence`] of both sides and from nothing else.
//!
//! Both models run as they ship, with the same hardening and the same allocator, so that what
//! differs is the model. Beside them runs the injected model as most programs are, without either.
//! Nothing leaves loopback.

mod cloud;
mod evidence;
mod inside;
mod neighbour;
mod operation;
mod place;
mod rotation;
mod spill;
mod subject;
mod table;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Clock, ecs_agent, local_aws, memory_scan, running_worker, world};

pub use self::evidence::{Evidence, Measure, Observed, Verdict};
use self::place::Place;
use self::subject::Trio;
pub use self::table::PROBES;

/// One claim, and how it is checked.
#[derive(Debug, Serialize)]
pub struct Probe {
    /// Names it, in kebab-case.
    pub id: &'static str,
    /// Who attacks, or what happens.
    pub threat: Threat,
    /// What the attacker has, or what goes wrong: "a process of the same user".
    pub given: &'static str,
    /// What is claimed, in one sentence.
    pub claim: &'static str,
    /// How it is checked here.
    pub method: &'static str,
    /// What it means on Fargate.
    pub on_fargate: &'static str,
    /// What repeats it there.
    pub command: &'static str,
    /// What was found when it last ran. A test holds every run against it.
    #[serde(skip)]
    pub last: Last,
}

/// What a probe found when it last ran.
#[derive(Debug)]
pub struct Last {
    /// The verdict.
    pub verdict: Verdict,
    /// Where the worker fetches its secrets itself.
    pub embedded: &'static str,
    /// Where ECS injects them.
    pub injected: &'static str,
    /// Where ECS injects them into a program that is not hardened.
    pub unhardened: Option<&'static str>,
}

/// Under which heading a probe stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threat {
    /// A process beside the worker, of its user or of root.
    Neighbour,
    /// Somebody runs code in the container, or gets a shell there.
    Inside,
    /// What holds the values leaves them behind: a log, a crash, a core file.
    Spill,
    /// Somebody has the task's AWS credentials.
    TaskRole,
    /// Somebody may read or use things of the AWS account.
    Account,
    /// The secrets rotate.
    Rotation,
    /// Something is away, or is to be paid.
    Operation,
}

impl Threat {
    /// All, in the order of the review.
    pub const ALL: [Self; 7] = [
        Self::Neighbour,
        Self::Inside,
        Self::Spill,
        Self::TaskRole,
        Self::Account,
        Self::Rotation,
        Self::Operation,
    ];
}

/// What a probe found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The probe.
    #[serde(flatten)]
    pub probe: &'static Probe,
    /// What was found in the embedded model, in words; empty where it was skipped.
    pub embedded: String,
    /// What was found in the injected model.
    pub injected: String,
    /// What was found in the injected model without hardening, where that was tried.
    pub unhardened: Option<String>,
    /// Which model is better off; `None` where it was skipped.
    pub verdict: Option<Verdict>,
    /// What the verdict follows from.
    pub evidence: Option<Evidence>,
    /// Why it could not run here.
    pub skipped: Option<String>,
    /// Whether it found what the table says, as far as it ran.
    pub as_claimed: bool,
}

impl Finding {
    pub(super) fn of(probe: &'static Probe, evidence: Evidence) -> Self {
        let verdict = evidence.verdict();
        let [embedded, injected] =
            [&evidence.embedded, &evidence.injected].map(|observed| evidence.words(observed));
        let unhardened = evidence.unhardened.as_ref().map(|observed| evidence.words(observed));
        let last = &probe.last;
        let as_claimed = verdict == last.verdict
            && embedded == last.embedded
            && injected == last.injected
            && unhardened.as_deref() == last.unhardened;
        Self {
            probe,
            embedded,
            injected,
            unhardened,
            verdict: Some(verdict),
            evidence: Some(evidence),
            skipped: None,
            as_claimed,
        }
    }

    pub(super) fn skipped(probe: &'static Probe, why: String) -> Self {
        Self {
            probe,
            embedded: String::new(),
            injected: String::new(),
            unhardened: None,
            verdict: None,
            evidence: None,
            skipped: Some(why),
            as_claimed: true,
        }
    }
}

/// The programs under attack.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The worker: `twitterstream`.
    pub embedded: PathBuf,
    /// The counter-example, hardened like the worker: `injected`.
    pub injected: PathBuf,
    /// The same as most programs are: `injected-unhardened`.
    pub unhardened: PathBuf,
}

/// What the probes run with.
pub struct Lab<'a> {
    /// The folder that holds `iam/` and `task-definition/`.
    pub root: &'a Path,
    /// The time of the worlds.
    pub clock: Clock,
    /// What is attacked.
    pub programs: Programs,
    /// Of the posts and the keys.
    pub seed: u64,
}

/// Why the probes did not run. That one of them cannot run here is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no world.
    #[error("a local world was not set up")]
    World(#[from] world::Error),
    /// A task did not run.
    #[error("a worker under attack did not run")]
    Worker(#[from] running_worker::Error),
    /// The local AWS refuses its own setup.
    #[error("the local AWS refused")]
    Aws(#[from] local_aws::Error),
    /// A memory was not scanned.
    #[error("a worker's memory was not scanned")]
    Scan(#[from] memory_scan::Error),
    /// A command of the attacker's, or a file of it.
    #[error("{what}")]
    Attack {
        /// What could not be done.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A command of the attacker's does not end.
    #[error("the attacker's {0} has not ended")]
    Endless(String),
    /// The worker's user cannot reach its program.
    #[error("user {0} cannot run the programs: set TMPDIR to a folder that others can reach")]
    Unreachable(u32),
    /// Secrets Manager gives neither the value that is there nor a refusal.
    #[error("asked for {secret} Secrets Manager neither gave its value nor denied it: {code}")]
    Unanswered {
        /// The secret.
        secret: &'static str,
        /// AWS's error code, or what came instead.
        code: String,
    },
    /// What was waited for did not come.
    #[error("{0} did not come")]
    NotReached(&'static str),
    /// A probe of the table that nothing runs, or a result of none.
    #[error("the probe {0} is not in the table, or has no result")]
    Unknown(&'static str),
}

impl From<ecs_agent::Error> for Error {
    fn from(error: ecs_agent::Error) -> Self {
        Self::Worker(error.into())
    }
}

/// Why an attack has no result.
enum Obstacle {
    /// It cannot run here.
    Skip(String),
    /// It should have run.
    Fail(Error),
}

impl<E: Into<Error>> From<E> for Obstacle {
    fn from(error: E) -> Self {
        Self::Fail(error.into())
    }
}

/// What an attack has found, or why not.
type Attacked = Result<Evidence, Obstacle>;

/// Runs all probes. `progress` is called with each finding as it is made, which is not in the order
/// of [`PROBES`]; what is returned is.
///
/// # Errors
/// A world or a worker that does not run, and an attack that breaks off.
pub async fn run(lab: &Lab<'_>, mut progress: impl FnMut(&Finding)) -> Result<Vec<Finding>, Error> {
    let place = Place::new(&lab.programs)?;
    let mut findings = Vec::new();
    let mut found = |id: &'static str, attacked: Attacked| -> Result<(), Error> {
        let probe = PROBES.iter().find(|probe| probe.id == id).ok_or(Error::Unknown(id))?;
        let finding = match attacked {
            Ok(evidence) => Finding::of(probe, evidence),
            Err(Obstacle::Skip(why)) => Finding::skipped(probe, why),
            Err(Obstacle::Fail(error)) => return Err(error),
        };
        progress(&finding);
        findings.push(finding);
        Ok(())
    };
    let mut trio = Box::pin(Trio::start(lab, &place)).await?;
    neighbour::probes(&place, &trio, &mut found).await?;
    inside::probes(&place, &trio, &mut found).await?;
    Box::pin(cloud::probes(lab, &place, &trio, &mut found)).await?;
    found("environment-size", Box::pin(operation::environment_size(lab, &place, &trio)).await)?;
    found("secrets-manager-away", operation::away_while_running(&mut trio).await)?;
    found("core-file", spill::core_file(&mut trio).await)?;
    drop(trio);
    found("log-at-trace", Box::pin(spill::log_at_trace(lab, &place)).await)?;
    found("log-of-bodies", Box::pin(spill::log_of_bodies(lab, &place)).await)?;
    found("secrets-manager-away-at-start", Box::pin(operation::away_at_start(lab, &place)).await)?;
    Box::pin(rotation::probes(lab, &place, &mut found)).await?;
    findings.sort_by_key(|finding| PROBES.iter().position(|probe| probe.id == finding.probe.id));
    match PROBES.iter().find(|probe| !findings.iter().any(|found| found.probe.id == probe.id)) {
        Some(missing) => Err(Error::Unknown(missing.id)),
        None => Ok(findings),
    }
}

/// Takes the result of a probe.
type Found<'a> = dyn FnMut(&'static str, Attacked) -> Result<(), Error> + 'a;
