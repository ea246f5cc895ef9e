//! Both models beside each other: the same worker, the same posts and the same keys, each in a world of
//! its own. They rotate, are put in trouble, and are seen.
//!
//! A [`Pair`] is what the page, the terminal and the [`scenario`] act on. Each side is a `service`, which
//! runs its task as ECS would ([`deployment`]), watches which keys it uses (`keys_in_use`) and what it asks
//! of AWS ([`calls`]), and publishes a [`snapshot`]. What happens stands on one [`timeline`].

pub mod attacks;
pub mod calls;
pub mod deployment;
mod keys_in_use;
pub mod page;
mod plots;
pub mod report;
pub mod report_page;
pub mod scenario;
pub mod service;
pub mod snapshot;
pub mod timeline;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use self::attacks::Attacks;
use self::deployment::PUBLISHED_START;
use self::service::{DEPLOYED, Finished, Order, Reached, Request, Secrets, Service};
use self::snapshot::{Reach, SideSnapshot, Snapshot};
use self::timeline::{Timeline, Tone};
use super::Clock;
use super::probes::Programs;
use super::running_worker;
use super::side::{self, Side};
use super::world::Model;

/// Why both did not run to the end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A side was not started, or failed.
    #[error("the {name} side does not run", name = .model.name())]
    Side {
        /// Which.
        model: Model,
        /// Why.
        #[source]
        source: running_worker::Error,
    },
    /// A side is gone, and nobody knows why.
    #[error("the {name} side is gone", name = .0.name())]
    Gone(Model),
    /// It does not come.
    #[error("{what} has not come within {limit:?}")]
    Stuck {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
}

/// What both are started with.
#[derive(Clone)]
pub struct Settings {
    /// The folder that holds `iam/` and `task-definition/`.
    pub root: PathBuf,
    /// The time of both worlds.
    pub clock: Clock,
    /// The workers of both models, and what the attacks need beside them.
    pub programs: Programs,
    /// Of the posts and the keys.
    pub seed: u64,
    /// Posts a second.
    pub rate: NonZeroU32,
    /// The share of them that matches, 0 to 1.
    pub matching: f64,
    /// What a start of a task is simulated to take on Fargate.
    pub fargate_start: Duration,
}

/// What an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The service makes new keys and accepts both; the labels of all secrets move.
    Rotate,
    /// The same, but the label of one secret alone moves: a torn set. [`Action::Rotate`] moves the others.
    Tear,
    /// The service ends the old keys.
    Revoke,
    /// Secrets Manager cannot be reached.
    SecretsAway,
    /// It can again.
    SecretsBack,
    /// `DynamoDB` cannot be reached.
    TableAway,
    /// It can again.
    TableBack,
    /// The injected side is deployed anew.
    Deploy,
    /// The attacks are made, on worlds and tasks of their own.
    Attack,
}

impl Action {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Self; 9] = [
        Self::Rotate,
        Self::Tear,
        Self::Revoke,
        Self::Deploy,
        Self::SecretsAway,
        Self::SecretsBack,
        Self::TableAway,
        Self::TableBack,
        Self::Attack,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Tear => "tear",
            Self::Revoke => "revoke",
            Self::SecretsAway => "secrets-away",
            Self::SecretsBack => "secrets-back",
            Self::TableAway => "table-away",
            Self::TableBack => "table-back",
            Self::Deploy => "deploy",
            Self::Attack => "attack",
        }
    }

    /// The action of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// What it does, for who may do it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Rotate => "rotate all four secrets; the feed accepts old and new keys",
            Self::Tear => "rotate, but move one label of four: a torn set",
            Self::Revoke => "the feed ends the old keys",
            Self::SecretsAway => "Secrets Manager cannot be reached",
            Self::SecretsBack => "Secrets Manager answers again",
            Self::TableAway => "DynamoDB cannot be reached",
            Self::TableBack => "DynamoDB answers again",
            Self::Deploy => "force a new deployment of the injected side",
            Self::Attack => "make the attacks on both models, in worlds of their own",
        }
    }
}

/// Both sides as they run. Everything ends when it is dropped.
pub struct Pair {
    settings: Settings,
    sides: [Running; 2],
    /// What happened.
    pub timeline: Timeline,
    reached: Mutex<Reached>,
    /// Whether one label has moved and three have not, once all that was asked for is done.
    torn: AtomicBool,
    secrets: Secrets,
    attacks: watch::Sender<Attacks>,
    /// Ends the attacks with the pair.
    stopping: watch::Sender<()>,
}

struct Running {
    model: Model,
    requests: mpsc::UnboundedSender<Request>,
    snapshots: watch::Receiver<SideSnapshot>,
    task: Mutex<JoinHandle<Result<(), running_worker::Error>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.get_mut().unwrap_or_else(PoisonError::into_inner).abort();
    }
}

impl Pair {
    /// Starts both.
    ///
    /// # Errors
    /// A side that cannot be started.
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let timeline = Timeline::new(Instant::now());
        let secrets = Secrets::default();
        let start = |model, program: &PathBuf| {
            let program = program.clone();
            let (settings, timeline) = (settings.clone(), timeline.clone());
            let secrets = secrets.clone();
            async move {
                let side = Side::start(side::Settings {
                    root: settings.root,
                    clock: settings.clock,
                    model,
                    program,
                    seed: settings.seed,
                    rate: settings.rate,
                    matching: settings.matching,
                    variables: Vec::new(),
                });
                let side = side.await.map_err(|source| Error::Side { model, source })?;
                let (service, snapshots) =
                    Service::new(side, settings.fargate_start, timeline, secrets);
                let (requests, receiver) = mpsc::unbounded_channel();
                let task = Mutex::new(tokio::spawn(service.run(receiver)));
                Ok::<_, Error>(Running { model, requests, snapshots, task })
            }
        };
        let (embedded, injected) = tokio::join!(
            start(Model::Embedded, &settings.programs.embedded),
            start(Model::Injected, &settings.programs.injected),
        );
        let sides = [embedded?, injected?];
        let (reached, torn, attacks, stopping) = Default::default();
        Ok(Self { settings, sides, timeline, reached, torn, secrets, attacks, stopping })
    }

    fn side(&self, model: Model) -> &Running {
        let [embedded, injected] = &self.sides;
        match model {
            Model::Embedded => embedded,
            Model::Injected => injected,
        }
    }

    /// Does something on both sides, or on the one that it is for. It is done within some 20 ms, but where
    /// a task is being started.
    pub fn act(&self, action: Action) {
        let reach = |service: fn(&mut Reached) -> &mut Reach, reach| {
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            *service(&mut reached) = reach;
            Order::Reach(*reached)
        };
        let torn = match action {
            Action::Rotate => self.torn.swap(false, Ordering::Relaxed),
            Action::Tear => self.torn.swap(true, Ordering::Relaxed),
            _ => false,
        };
        let text = match action {
            Action::Rotate if torn => "the labels of the other three secrets move",
            Action::Tear if torn => "the set is torn already",
            action => action.text(),
        };
        self.timeline.note(None, Tone::Action, text);
        let order = match action {
            Action::Rotate => Order::Rotate,
            Action::Tear => Order::Tear,
            Action::Revoke => Order::Revoke,
            Action::Deploy => Order::Deploy,
            Action::Attack => {
                let (settings, stopped) = (self.settings.clone(), self.stopping.subscribe());
                return attacks::begin(settings, &self.attacks, stopped, self.timeline.clone());
            }
            Action::SecretsAway => reach(|reached| &mut reached.secrets_manager, Reach::Away),
            Action::SecretsBack => reach(|reached| &mut reached.secrets_manager, Reach::There),
            Action::TableAway => reach(|reached| &mut reached.dynamodb, Reach::Away),
            Action::TableBack => reach(|reached| &mut reached.dynamodb, Reach::There),
        };
        for side in &self.sides {
            if action != Action::Deploy || side.model == DEPLOYED {
                // Who is gone is noticed where something is waited for.
                let _ = side.requests.send(Request::Do(order));
            }
        }
    }

    /// What the attacks have found so far.
    #[must_use]
    pub fn attacks(&self) -> Attacks {
        self.attacks.borrow().clone()
    }

    /// Waits until no attack is under way.
    pub async fn attacked(&self) -> Attacks {
        let mut attacks = self.attacks.subscribe();
        // The sender lives as long as self: there is no error.
        let _ = attacks.wait_for(|attacks| !attacks.running).await;
        self.attacks()
    }

    /// Since the start.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.timeline.seconds(Instant::now())
    }

    /// How both stand, with the events from this number on.
    #[must_use]
    pub fn snapshot(&self, events_from: usize) -> Snapshot {
        let reached = *self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let side = |model| self.side(model).snapshots.borrow().clone();
        Snapshot {
            seconds: self.seconds(),
            rate: self.settings.rate.get(),
            simulated_start_seconds: self.settings.fargate_start.as_secs_f64(),
            published_start: PUBLISHED_START,
            secrets_manager: reached.secrets_manager,
            dynamodb: reached.dynamodb,
            embedded: side(Model::Embedded),
            injected: side(Model::Injected),
            timeline: self.timeline.since(events_from),
            attacks: self.attacks(),
        }
    }

    /// Waits until what is seen of a side fulfils a condition.
    ///
    /// # Errors
    /// It does not within `limit`, or the side is gone.
    pub async fn until(
        &self,
        model: Model,
        what: &'static str,
        limit: Duration,
        condition: impl FnMut(&SideSnapshot) -> bool,
    ) -> Result<SideSnapshot, Error> {
        let side = self.side(model);
        let mut snapshots = side.snapshots.clone();
        match timeout(limit, snapshots.wait_for(condition)).await {
            Ok(Ok(snapshot)) => Ok(snapshot.clone()),
            Ok(Err(_)) => Err(self.failure(model).await),
            Err(_) => Err(Error::Stuck { what, limit }),
        }
    }

    /// Waits until a side has failed.
    pub async fn failed(&self) -> Error {
        let [embedded, injected] = &self.sides;
        let closed = tokio::select! {
            () = embedded.requests.closed() => embedded.model,
            () = injected.requests.closed() => injected.model,
        };
        self.failure(closed).await
    }

    /// Why a side has ended.
    async fn failure(&self, model: Model) -> Error {
        let task = {
            let mut task = self.side(model).task.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *task, tokio::spawn(async { Ok(()) }))
        };
        match task.await {
            Ok(Err(source)) => Error::Side { model, source },
            Ok(Ok(())) | Err(_) => Error::Gone(model),
        }
    }

    /// The values that may be seen nowhere: all keys so far.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.all()
    }

    /// Ends the posts of both feeds, lets the tasks write what they have, stops them, and reads both
    /// tables back.
    ///
    /// # Errors
    /// A side that fails.
    pub async fn finish(&self) -> Result<[Finished; 2], Error> {
        let finish = |side: &Running| {
            let (answer, answered) = oneshot::channel();
            let _ = side.requests.send(Request::Finish(answer));
            answered
        };
        let [embedded, injected] = self.sides.each_ref().map(finish);
        let (embedded, injected) = tokio::join!(embedded, injected);
        match (embedded, injected) {
            (Ok(embedded), Ok(injected)) => Ok([embedded, injected]),
            (Err(_), _) => Err(self.failure(Model::Embedded).await),
            (_, Err(_)) => Err(self.failure(Model::Injected).await),
        }
    }
}
