//! Rotation: a new set of credentials is found, offered, and adopted only once it is proven.
//!
//! [`Rotation`] looks where the staging labels are (`DescribeSecret`, no value), fetches only a
//! version that it does not hold, and offers the set that the labels describe as a [`Candidate`].
//! Whoever uses the credentials tries the candidate and says what became of it ([`Verdict`]). Until
//! a candidate is proven the set in use stays in use: secrets that rotate one by one are a torn set
//! for a while, which no service accepts.
//!
//! A set is offered when two looks in a row agree, so that one that is being torn right now is
//! seldom offered, and an offer that was overtaken by the labels is replaced or taken back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::secrets_manager::{FetchError, Labels};
use super::{Credential, Generation, Held, Reference, SecretsManager};
use crate::counts::Counts;
use crate::retry::Jitter;
use crate::telemetry::chain;

/// How many looks in a row may find something new before the set is offered as it is.
const LOOKS: usize = 5;

/// Events of a rotation come in a bunch, one for each secret. The first is waited with for so long.
const BUNCH: Duration = Duration::from_millis(20);

/// The first wait, and the longest, between looks while something is amiss: the set in use or a
/// candidate was refused, or a rotation is under way (AWSPENDING is elsewhere than AWSCURRENT).
const HASTE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a rotation may be under way before it counts as left behind by a failed one.
const UNDER_WAY: Duration = Duration::from_mins(10);

/// How the worker came to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was time.
    Poll,
    /// An event in the queue said that a label has moved.
    Event,
    /// The feed refused the set in use.
    Refusal,
    /// SIGHUP.
    Signal,
}

impl Reason {
    /// The word for it in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Event => "event",
            Self::Refusal => "refusal",
            Self::Signal => "signal",
        }
    }
}

/// A set that is offered instead of the one in use.
#[derive(Debug)]
pub struct Candidate {
    /// The set.
    pub generation: Arc<Generation>,
    /// The staging label that it was taken from.
    pub stage: &'static str,
    learnt: Reason,
    learnt_at: Instant,
    /// How long it took to know the labels and to have the values.
    fetched_in: Duration,
}

#[cfg(test)]
impl Candidate {
    /// A candidate that was found just now.
    pub(crate) fn new(generation: Arc<Generation>, stage: &'static str, learnt: Reason) -> Self {
        let (learnt_at, fetched_in) = (Instant::now(), Duration::ZERO);
        Self { generation, stage, learnt, learnt_at, fetched_in }
    }
}

/// What became of a set.
#[derive(Debug)]
pub enum Verdict {
    /// It was accepted. From now on it is the one in use.
    Accepted {
        /// The set.
        generation: Arc<Generation>,
        /// How long the proof took.
        proven_in: Duration,
    },
    /// It was refused.
    Refused {
        /// The set.
        generation: Arc<Generation>,
    },
}

/// Where the labels and values come from: Secrets Manager, or a simulation of it.
pub trait Vault: Send + Sync + 'static {
    /// Which version carries which label.
    fn labels(
        &self,
        references: &[(Credential, Reference)],
    ) -> impl Future<Output = Result<Vec<Labels>, FetchError>> + Send;

    /// The values.
    fn fetch(
        &self,
        references: &[(Credential, Reference)],
    ) -> impl Future<Output = Result<Vec<Held>, FetchError>> + Send;
}

impl Vault for SecretsManager {
    async fn labels(
        &self,
        references: &[(Credential, Reference)],
    ) -> Result<Vec<Labels>, FetchError> {
        Self::labels(self, references).await
    }

    async fn fetch(&self, references: &[(Credential, Reference)]) -> Result<Vec<Held>, FetchError> {
        Self::fetch(self, references).await
    }
}

/// The side of whoever uses the credentials.
#[derive(Debug)]
pub struct Port {
    /// The set that is offered; `None` while the one in use is the right one.
    pub candidates: watch::Receiver<Option<Arc<Candidate>>>,
    /// What became of a set.
    pub verdicts: mpsc::UnboundedSender<Verdict>,
}

/// What is known of the credentials, for the log and for whoever watches the worker.
#[derive(Clone, Debug)]
pub struct Status {
    /// When the set in use was adopted.
    pub adopted_at: Instant,
    /// When the labels were last seen: the last look that succeeded.
    pub looked_at: Instant,
    in_use: Vec<InUse>,
}

/// A version of a secret that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InUse {
    secret_id: String,
    version_id: String,
    since: Instant,
}

impl Status {
    fn new(generation: &Generation, now: Instant) -> Self {
        let mut status = Self { adopted_at: now, looked_at: now, in_use: Vec::new() };
        status.adopt(generation, now);
        status
    }

    /// Another set is in use. What both hold is as old as before.
    fn adopt(&mut self, generation: &Generation, now: Instant) {
        self.adopted_at = now;
        let before = std::mem::take(&mut self.in_use);
        for held in generation.held() {
            let (secret_id, version_id) = (held.reference.secret_id(), held.version_id.as_str());
            let is_it =
                |other: &&InUse| other.secret_id == secret_id && other.version_id == version_id;
            // One secret may hold several credentials.
            if self.in_use.iter().any(|other| is_it(&other)) {
                continue;
            }
            let since = before.iter().find(is_it).map_or(now, |other| other.since);
            let (secret_id, version_id) = (secret_id.to_owned(), version_id.to_owned());
            self.in_use.push(InUse { secret_id, version_id, since });
        }
    }

    /// Which version of each secret is in use, and for how long, for the log.
    #[must_use]
    pub fn secrets(&self, now: Instant) -> String {
        let secrets = self.in_use.iter().map(|InUse { secret_id, version_id, since }| {
            let seconds = now.saturating_duration_since(*since).as_secs();
            format!("{secret_id} at {version_id} for {seconds} s")
        });
        secrets.collect::<Vec<_>>().join(", ")
    }
}

/// The settings of a rotation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where each credential is kept.
    pub references: Vec<(Credential, Reference)>,
    /// How often to look, give or take a tenth.
    pub poll: Duration,
    /// Whether a refused AWSCURRENT may be bridged by AWSPENDING, then AWSPREVIOUS.
    pub bridge: bool,
}

/// The task that looks. It ends when its triggers and its port are gone.
pub struct Rotation<V> {
    vault: V,
    settings: Settings,
    /// The set in use.
    current: Arc<Generation>,
    current_refused: bool,
    candidate: Option<Arc<Candidate>>,
    /// The sets that were refused since the labels last moved, without their values.
    refused: Vec<Versions>,
    /// Versions that were fetched and are in no set yet.
    spare: Vec<Held>,
    labels: Vec<Labels>,
    labels_moved_at: Instant,
    haste: Option<Jitter>,
    next_look: Instant,
    trouble: Option<Trouble>,
    offers: watch::Sender<Option<Arc<Candidate>>>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    triggers: mpsc::UnboundedReceiver<Reason>,
    status: watch::Sender<Status>,
    counts: Arc<Counts>,
}

/// What keeps the worker from looking, as far as a change of it is worth a line.
struct Trouble {
    kind: &'static str,
    waits: Jitter,
}

impl<V: Vault> Rotation<V> {
    /// A rotation that starts from the set in use, with the port of whoever uses it.
    pub fn new(
        vault: V,
        settings: Settings,
        current: Arc<Generation>,
        triggers: mpsc::UnboundedReceiver<Reason>,
        counts: Arc<Counts>,
    ) -> (Self, Port, watch::Receiver<Status>) {
        let (offers, candidates) = watch::channel(None);
        let (sender, verdicts) = mpsc::unbounded_channel();
        let now = Instant::now();
        let (status, statuses) = watch::channel(Status::new(&current, now));
        let next_look = now + jittered(settings.poll);
        let rotation = Self {
            vault,
            settings,
            current,
            current_refused: false,
            candidate: None,
            refused: Vec::new(),
            spare: Vec::new(),
            labels: Vec::new(),
            labels_moved_at: now,
            haste: None,
            next_look,
            trouble: None,
            offers,
            verdicts,
            triggers,
            status,
            counts,
        };
        (rotation, Port { candidates, verdicts: sender }, statuses)
    }

    /// Looks, offers and hears verdicts, until nobody uses the credentials any more.
    pub async fn run(mut self) {
        let offers = self.offers.clone();
        loop {
            let reason = tokio::select! {
                biased;
                verdict = self.verdicts.recv() => match verdict {
                    Some(verdict) => match self.hear(verdict) {
                        Some(reason) => reason,
                        None => continue,
                    },
                    None => return,
                },
                Some(reason) = self.triggers.recv() => {
                    sleep(BUNCH).await;
                    reason
                }
                () = sleep_until(self.next_look) => Reason::Poll,
            };
            // Whoever asked while nobody looked is answered by this look. Who asks while it goes on
            // gets another one: a label may have moved behind it.
            while self.triggers.try_recv().is_ok() {}
            let looked = tokio::select! {
                looked = self.look(reason) => looked,
                // What was being fetched is for nobody.
                () = offers.closed() => return,
            };
            match looked {
                Ok(()) => self.looked(),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Hears what became of a set; returns a reason to look.
    fn hear(&mut self, verdict: Verdict) -> Option<Reason> {
        match verdict {
            Verdict::Accepted { generation, proven_in } => {
                self.accepted(generation, proven_in);
                None
            }
            Verdict::Refused { generation } if generation.is_same_set(&self.current) => {
                // While it stays refused the looks are paced by the haste, not by its retries.
                let first = !std::mem::replace(&mut self.current_refused, true);
                if first {
                    let secrets = self.status.borrow().secrets(Instant::now());
                    tracing::warn!(
                        before = ACCEPTED,
                        after = REFUSED,
                        secrets,
                        "the feed refuses the credentials in use",
                    );
                }
                first.then_some(Reason::Refusal)
            }
            Verdict::Refused { generation } => {
                let versions = versions_of(&generation);
                if self.refused.contains(&versions) {
                    return None;
                }
                tracing::warn!(
                    moves = %Moves(&self.current, &generation),
                    "the feed refused a new set of credentials; the one in use stays",
                );
                self.refused.push(versions);
                self.hurry();
                // Another label may be worth a try at once.
                self.settings.bridge.then_some(Reason::Refusal)
            }
        }
    }

    fn accepted(&mut self, generation: Arc<Generation>, proven_in: Duration) {
        if generation.is_same_set(&self.current) {
            if std::mem::take(&mut self.current_refused) {
                let secrets = self.status.borrow().secrets(Instant::now());
                tracing::info!(
                    before = REFUSED,
                    after = ACCEPTED,
                    secrets,
                    "the feed accepts the credentials in use again",
                );
            }
            return;
        }
        // Another set may have been offered while this one was proven; that offer stands.
        let offer = self.candidate.take_if(|offer| offer.generation.is_same_set(&generation));
        if self.candidate.is_none() {
            self.offers.send_replace(None);
        }
        let now = Instant::now();
        let seconds = |duration: Duration| duration.as_secs_f64();
        self.counts.rotations.increment();
        if let Some(offer) = &offer {
            let durations = match offer.learnt {
                Reason::Poll => &self.counts.rotated_by_poll,
                Reason::Event => &self.counts.rotated_by_event,
                Reason::Refusal => &self.counts.rotated_by_refusal,
                Reason::Signal => &self.counts.rotated_by_signal,
            };
            durations.record(now - offer.learnt_at);
        }
        tracing::info!(
            moves = %Moves(&self.current, &generation),
            stage = offer.as_ref().map(|offer| offer.stage),
            learnt_by = offer.as_ref().map(|offer| offer.learnt.name()),
            fetched_in_seconds = offer.as_ref().map(|offer| seconds(offer.fetched_in)),
            proven_in_seconds = seconds(proven_in),
            total_seconds = offer.as_ref().map(|offer| seconds(now - offer.learnt_at)),
            "rotated: a new set of credentials is in use",
        );
        self.refused.clear();
        if std::mem::take(&mut self.current_refused) {
            self.refused.push(versions_of(&self.current));
        }
        retire(std::mem::replace(&mut self.current, generation));
        self.haste = None;
        self.status.send_modify(|status| status.adopt(&self.current, now));
        // The labels may have moved on, or back, while this set was proven.
        self.next_look = if self.candidate.is_none() && !self.is_in_use(&self.described(CURRENT)) {
            now
        } else {
            now + jittered(self.settings.poll)
        };
    }

    /// Looks until nothing is new, and offers what the labels describe.
    async fn look(&mut self, reason: Reason) -> Result<(), FetchError> {
        let learnt_at = Instant::now();
        for round in 0..LOOKS {
            let labels = self.vault.labels(&self.settings.references).await?;
            let moved = labels != self.labels;
            if moved {
                self.labels = labels;
                self.labels_moved_at = Instant::now();
                self.refused.clear();
            }
            // A set that was refused is fetched again only where nothing better is known.
            let refused = self.refused.contains(&self.described(CURRENT));
            let fetched = !refused && self.fetch(CURRENT).await?;
            let news = fetched || (moved && round > 0);
            if !news {
                break;
            }
        }
        self.status.send_modify(|status| status.looked_at = Instant::now());
        self.offer(reason, learnt_at).await
    }

    /// Fetches the versions at a label that are not held. Whether there were any.
    async fn fetch(&mut self, stage: &'static str) -> Result<bool, FetchError> {
        let missing: Vec<(Credential, Reference)> = self
            .wanted(stage)
            .filter(|(credential, _, id)| self.held(*credential, id).is_none())
            .map(|(credential, reference, _)| (credential, reference))
            .collect();
        if missing.is_empty() {
            return Ok(false);
        }
        let mut fetched = self.vault.fetch(&missing).await?;
        // A version is held under the reference of the configuration, whatever label gave it.
        for held in &mut fetched {
            let configured = self
                .settings
                .references
                .iter()
                .find(|(credential, _)| *credential == held.credential);
            if let Some((_, reference)) = configured {
                held.reference = reference.clone();
            }
        }
        self.spare.extend(fetched);
        Ok(true)
    }

    /// What a label describes: each credential, where to fetch it, and its version's id. A
    /// reference that names a label or version of its own keeps to it.
    fn wanted(&self, stage: &'static str) -> impl Iterator<Item = (Credential, Reference, String)> {
        self.settings.references.iter().filter_map(move |(credential, reference)| {
            let stages = match reference.version().stage()? {
                CURRENT if reference.version().id().is_none() => [stage, CURRENT],
                own => [own, own],
            };
            let labels =
                self.labels.iter().find(|labels| labels.secret_id == reference.secret_id())?;
            // A failed rotation may leave no AWSPENDING: the current version then stands for it.
            let (stage, id) = stages
                .into_iter()
                .find_map(|stage| Some((stage.to_owned(), labels.version_at(stage)?.to_owned())))?;
            let place = match reference.version().id() {
                Some(_) => reference.clone(),
                None => reference.at_stage(&stage),
            };
            Some((*credential, place, id))
        })
    }

    fn held(&self, credential: Credential, version_id: &str) -> Option<&Held> {
        let candidate = self.candidate.iter().flat_map(|candidate| candidate.generation.held());
        let mut all = self.current.held().iter().chain(candidate).chain(&self.spare);
        all.find(|held| held.credential == credential && held.version_id == version_id)
    }

    /// The versions that a label describes. A credential without that label keeps the one in use.
    fn described(&self, stage: &'static str) -> Versions {
        let mut versions = versions_of(&self.current);
        for (wanted, _, id) in self.wanted(stage) {
            if let Some((_, version)) =
                versions.iter_mut().find(|(credential, _)| *credential == wanted)
            {
                *version = id;
            }
        }
        versions
    }

    fn is_in_use(&self, versions: &Versions) -> bool {
        *versions == versions_of(&self.current)
    }

    /// Offers the set at AWSCURRENT where it is not in use. Where that is refused and a bridge is
    /// allowed, the first of the other labels' sets that is not.
    async fn offer(&mut self, reason: Reason, learnt_at: Instant) -> Result<(), FetchError> {
        let choice = self.choice();
        let offered = self.candidate.as_ref().map(|candidate| versions_of(&candidate.generation));
        if choice.as_ref().map(|(_, versions)| versions) != offered.as_ref() {
            let before = self.candidate.clone();
            self.candidate = match choice {
                Some((stage, versions)) => {
                    self.fetch(stage).await?;
                    let held =
                        versions.iter().filter_map(|(credential, id)| self.held(*credential, id));
                    let generation = Arc::new(Generation::new(held.cloned().collect()));
                    // A label that moved in this very moment is seen by the next look.
                    (generation.held().len() == versions.len()).then(|| {
                        let fetched_in = learnt_at.elapsed();
                        Arc::new(Candidate {
                            generation,
                            stage,
                            learnt: reason,
                            learnt_at,
                            fetched_in,
                        })
                    })
                }
                None => None,
            };
            self.say_offered(before.as_deref());
            self.offers.send_replace(self.candidate.clone());
        }
        // What is in no set any more is wiped here.
        self.spare.clear();
        Ok(())
    }

    fn say_offered(&self, before: Option<&Candidate>) {
        match (&self.candidate, before) {
            (Some(candidate), _) => tracing::info!(
                moves = %Moves(&self.current, &candidate.generation),
                stage = candidate.stage,
                learnt_by = candidate.learnt.name(),
                fetched_in_seconds = candidate.fetched_in.as_secs_f64(),
                "a new set of credentials was found; it is used once the feed accepts it",
            ),
            (None, Some(before)) => tracing::info!(
                moves = %Moves(&before.generation, &self.current),
                "the new set of credentials is not wanted any more; the labels have moved",
            ),
            (None, None) => {}
        }
    }

    fn choice(&self) -> Option<(&'static str, Versions)> {
        let current = self.described(CURRENT);
        let in_use = self.is_in_use(&current);
        if in_use && !self.current_refused {
            return None;
        }
        if !in_use && !self.refused.contains(&current) {
            return Some((CURRENT, current));
        }
        if self.settings.bridge {
            for stage in [PENDING, PREVIOUS] {
                let other = self.described(stage);
                match self.is_in_use(&other) {
                    // The bridge that is in use holds until the labels move.
                    true if !self.current_refused => return None,
                    false if other != current && !self.refused.contains(&other) => {
                        return Some((stage, other));
                    }
                    _ => {}
                }
            }
        }
        // Refused for now; services accept new keys some time after the label moved.
        (!in_use).then_some((CURRENT, current))
    }

    /// Plans the next look after one that succeeded.
    fn looked(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("Secrets Manager answers again");
        }
        let under_way = self.labels.iter().any(|labels| {
            let pending = labels.version_at(PENDING);
            pending.is_some() && pending != labels.version_at(CURRENT)
        }) && self.labels_moved_at.elapsed() < UNDER_WAY;
        let refused = self.refused.contains(&self.described(CURRENT));
        if under_way || self.current_refused || refused {
            self.hurry();
        } else {
            self.haste = None;
            self.next_look = Instant::now() + jittered(self.settings.poll);
        }
    }

    fn hurry(&mut self) {
        let (first, most) = HASTE;
        let wait = self.haste.get_or_insert(Jitter::new(first, most)).next_wait();
        // Looking is never slower for being in haste.
        self.next_look = Instant::now() + wait.min(jittered(self.settings.poll));
    }

    /// Plans the next look after one that failed. What is in use serves on.
    fn failed(&mut self, error: &FetchError) {
        let kind = error.cause.kind();
        let first = self.trouble.as_ref().is_none_or(|trouble| trouble.kind != kind);
        if first {
            let error = chain(error);
            let generation_age_seconds = self.status.borrow().adopted_at.elapsed().as_secs();
            tracing::error!(
                error,
                generation_age_seconds,
                "the credentials cannot be refreshed; the set in use serves on"
            );
            let waits = Jitter::new(HASTE.0, self.settings.poll.max(HASTE.1));
            self.trouble = Some(Trouble { kind, waits });
        }
        if let Some(trouble) = &mut self.trouble {
            let wait = trouble.waits.next_wait();
            // Without credentials that the feed takes there is no stream.
            let wait = if self.current_refused { wait.min(HASTE.1) } else { wait };
            self.next_look = Instant::now() + wait;
        }
    }
}

/// Lets a set go. Whoever used it has said that it uses another, so this is the last hold on it: the
/// values that no other set shares are wiped here.
fn retire(generation: Arc<Generation>) {
    match Arc::try_unwrap(generation) {
        Ok(generation) => {
            let own = |held: &&Held| Arc::strong_count(&held.value) == 1;
            let values = generation.held().iter().filter(own).count();
            drop(generation);
            tracing::info!(values, "the set of credentials before is wiped");
        }
        Err(held) => {
            let holders = Arc::strong_count(&held);
            tracing::warn!(holders, "the set of credentials before is still held somewhere");
        }
    }
}

/// What the feed makes of a set, for the log.
const ACCEPTED: &str = "accepted";
const REFUSED: &str = "refused";

const CURRENT: &str = "AWSCURRENT";
const PENDING: &str = "AWSPENDING";
const PREVIOUS: &str = "AWSPREVIOUS";

fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The version of each credential of a set.
type Versions = Vec<(Credential, String)>;

fn versions_of(generation: &Generation) -> Versions {
    generation.versions().map(|(credential, id)| (credential, id.to_owned())).collect()
}

/// Which secret moved from which version to which, for the log.
struct Moves<'a>(&'a Generation, &'a Generation);

impl fmt::Display for Moves<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.held().iter().zip(self.1.held());
        let moved = pairs.filter(|(from, to)| from.version_id != to.version_id);
        for (index, (from, to)) in moved.enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let secret_id = to.reference.secret_id();
            write!(f, "{separator}{secret_id} from {} to {}", from.version_id, to.version_id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use secrecy::SecretString;

    use super::super::secrets_manager::{Action, Cause};
    use super::*;
    use crate::aws::Answer;

    /// Two secrets; the version at AWSCURRENT of each is what the test says.
    #[derive(Clone, Default)]
    struct Simulated {
        current: Arc<Mutex<[String; 2]>>,
        looks: Arc<AtomicUsize>,
        away: Arc<AtomicBool>,
        fetches: Arc<Mutex<Vec<String>>>,
    }

    const KEYS: [Credential; 2] = [Credential::ConsumerKey, Credential::ConsumerSecret];

    impl Simulated {
        fn move_to(&self, versions: [&str; 2]) {
            *self.current.lock().unwrap() = versions.map(str::to_owned);
        }

        fn version(&self, credential: Credential) -> String {
            let index = KEYS.iter().position(|key| *key == credential).unwrap();
            self.current.lock().unwrap()[index].clone()
        }

        fn held(&self, (credential, reference): &(Credential, Reference)) -> Held {
            Held {
                credential: *credential,
                reference: reference.clone(),
                version_id: self.version(*credential),
                value: Arc::new(SecretString::from("MARKER")),
            }
        }
    }

    impl Vault for Simulated {
        async fn labels(
            &self,
            references: &[(Credential, Reference)],
        ) -> Result<Vec<Labels>, FetchError> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            if self.away.load(Ordering::Relaxed) {
                return Err(FetchError {
                    credential: Credential::ConsumerKey,
                    action: Action::Look,
                    secret_id: "CONSUMERKEY".to_owned(),
                    region: None,
                    cause: Cause::Transient(Answer::default()),
                });
            }
            let labels = references.iter().map(|(credential, reference)| Labels {
                secret_id: reference.secret_id().to_owned(),
                versions: vec![(self.version(*credential), CURRENT.to_owned())],
            });
            Ok(labels.collect())
        }

        async fn fetch(
            &self,
            references: &[(Credential, Reference)],
        ) -> Result<Vec<Held>, FetchError> {
            let held: Vec<Held> = references.iter().map(|wanted| self.held(wanted)).collect();
            let fetched = held.iter().map(|held| held.version_id.clone());
            self.fetches.lock().unwrap().extend(fetched);
            Ok(held)
        }
    }

    struct Started {
        vault: Simulated,
        current: Arc<Generation>,
        port: Port,
        status: watch::Receiver<Status>,
        trigger: mpsc::UnboundedSender<Reason>,
    }

    fn start() -> Started {
        let vault = Simulated::default();
        vault.move_to(["a1", "b1"]);
        let references: Vec<_> =
            KEYS.map(|key| (key, key.default_secret().parse().unwrap())).into();
        let held = references.iter().map(|wanted| vault.held(wanted)).collect();
        let current = Arc::new(Generation::new(held));
        let (trigger, triggers) = mpsc::unbounded_channel();
        let settings = Settings { references, poll: Duration::from_hours(1), bridge: false };
        let (rotation, port, status) =
            Rotation::new(vault.clone(), settings, Arc::clone(&current), triggers, Arc::default());
        tokio::spawn(rotation.run());
        Started { vault, current, port, status, trigger }
    }

    impl Started {
        /// Moves the labels and waits for the look that sees them.
        async fn look_at(&mut self, versions: [&str; 2]) -> Option<Vec<String>> {
            self.vault.move_to(versions);
            self.trigger.send(Reason::Event).unwrap();
            self.status.changed().await.unwrap();
            // The offer follows the look without another wait.
            tokio::task::yield_now().await;
            let offered = self.port.candidates.borrow_and_update().clone()?;
            Some(offered.generation.versions().map(|(_, id)| id.to_owned()).collect())
        }
    }

    #[tokio::test]
    async fn reasons_that_come_together_are_one_look() {
        let mut started = start();
        for reason in [Reason::Event, Reason::Signal, Reason::Event, Reason::Event] {
            started.trigger.send(reason).unwrap();
        }
        started.status.changed().await.unwrap();
        assert_eq!(started.vault.looks.load(Ordering::Relaxed), 1);
        assert!(started.port.candidates.borrow().is_none());
        assert!(started.vault.fetches.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_set_is_offered_whole_and_only_what_is_new_is_fetched() {
        let mut started = start();
        assert_eq!(started.look_at(["a2", "b1"]).await.unwrap(), ["a2", "b1"]);
        assert_eq!(started.look_at(["a2", "b2"]).await.unwrap(), ["a2", "b2"]);
        assert_eq!(*started.vault.fetches.lock().unwrap(), ["a2", "b2"]);
    }

    #[tokio::test]
    async fn an_offer_is_taken_back_when_the_labels_move_back() {
        let mut started = start();
        assert!(started.look_at(["a2", "b2"]).await.is_some());
        assert_eq!(started.look_at(["a1", "b1"]).await, None);
        assert_eq!(*started.vault.fetches.lock().unwrap(), ["a2", "b2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_rotation_that_a_refusal_brought_the_looks_are_those_of_the_poll() {
        let mut started = start();
        started.vault.move_to(["a2", "b2"]);
        let refused = Verdict::Refused { generation: Arc::clone(&started.current) };
        started.port.verdicts.send(refused).unwrap();
        started.port.candidates.changed().await.unwrap();
        let candidate = started.port.candidates.borrow_and_update().clone().unwrap();
        let (generation, proven_in) = (Arc::clone(&candidate.generation), Duration::ZERO);
        started.port.verdicts.send(Verdict::Accepted { generation, proven_in }).unwrap();
        let before = started.vault.looks.load(Ordering::Relaxed);
        // The poll is an hour.
        sleep(Duration::from_hours(10)).await;
        let looks = started.vault.looks.load(Ordering::Relaxed) - before;
        assert!((9..=12).contains(&looks), "{looks}");
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_set_in_use_is_refused_a_vault_that_is_away_is_asked_every_half_minute() {
        for (is_refused, least, most) in [(false, 1, 24), (true, 30, 120)] {
            let started = start();
            started.vault.away.store(true, Ordering::Relaxed);
            started.trigger.send(Reason::Event).unwrap();
            sleep(Duration::from_mins(1)).await;
            if is_refused {
                let refused = Verdict::Refused { generation: Arc::clone(&started.current) };
                started.port.verdicts.send(refused).unwrap();
            }
            let before = started.vault.looks.load(Ordering::Relaxed);
            // The poll is an hour.
            sleep(Duration::from_mins(20)).await;
            let looks = started.vault.looks.load(Ordering::Relaxed) - before;
            assert!((least..=most).contains(&looks), "{looks} looks, refused: {is_refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_has_the_age_of_each_version_and_what_stays_in_use_is_as_old_as_it_was() {
        let mut started = start();
        sleep(Duration::from_secs(30)).await;
        started.look_at(["a2", "b1"]).await.unwrap();
        let generation = started.port.candidates.borrow().as_ref().unwrap().generation.clone();
        let proven_in = Duration::ZERO;
        started.port.verdicts.send(Verdict::Accepted { generation, proven_in }).unwrap();
        started.status.changed().await.unwrap();
        sleep(Duration::from_secs(5)).await;
        let secrets = started.status.borrow().secrets(Instant::now());
        assert_eq!(secrets, "CONSUMERKEY at a2 for 5 s, CONSUMERSECRETKEY at b1 for 35 s");
    }

    #[tokio::test]
    async fn a_retired_set_is_let_go_and_nothing_else_holds_its_values() {
        let mut started = start();
        started.look_at(["a2", "b2"]).await.unwrap();
        let generation = started.port.candidates.borrow().as_ref().unwrap().generation.clone();
        let proven_in = Duration::ZERO;
        started.port.verdicts.send(Verdict::Accepted { generation, proven_in }).unwrap();
        started.status.changed().await.unwrap();
        tokio::task::yield_now().await;
        let values = started.current.held().iter().map(|held| Arc::strong_count(&held.value));
        // This test's own is the only one left.
        assert_eq!(values.collect::<Vec<_>>(), [1, 1]);
        assert_eq!(Arc::strong_count(&started.current), 1);
        assert!(started.port.candidates.borrow().is_none());
    }
}
