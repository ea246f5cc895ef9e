//! The ECS service of a side: which task is to run, and when.
//!
//! The service has one task, at least 0 % and at most 100 % of it while it is deployed (the feed gives an
//! application one stream): a deployment stops the task before it starts the next one. States, and the
//! reasons for a stop, have the names that `DescribeTasks` gives them.
//!
//! What is really done is the work of the local agent: injecting the secrets, starting the container's
//! process, SIGTERM, SIGKILL. What Fargate takes for an address and for the image is waited for, and
//! called simulated wherever it is shown.
//!
//! The definitions' `restartPolicy` is not simulated. A worker that ends by itself becomes a new task here, with
//! the values that the secrets have then; on Fargate its container would first be started anew within the
//! task, at once and with the values that were injected before. Where a worker ends by itself that is said.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// What a task on Fargate took from its creation to its start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Published {
    /// The mean.
    pub seconds: f64,
    /// What was measured.
    pub of: &'static str,
    /// Where it was published.
    pub source: &'static str,
}

/// The figure that stands beside the simulated one.
pub const PUBLISHED_START: Published = Published {
    seconds: 57.0,
    of: "the mean of ten starts of a Fargate task with an image of 413 MB, 53 to 62 s, April 2024",
    source: "https://elasticscale.com/blog/reduce-aws-fargate-pull-times-with-soci",
};

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Fargate makes ready for it until this moment: simulated.
    Provisioning {
        /// When it is ready.
        ready_at: Instant,
    },
    /// The agent injects what the definition's `secrets` name, and starts the container.
    Pending,
    /// The container's process runs.
    Running,
    /// It was sent SIGTERM.
    Stopping {
        /// When SIGKILL is sent; none once it was.
        kill_at: Option<Instant>,
    },
    /// No task is wanted any more.
    Stopped,
}

impl State {
    /// ECS's `lastStatus`.
    #[must_use]
    pub const fn last_status(self) -> &'static str {
        match self {
            Self::Provisioning { .. } => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Stopping { .. } => "STOPPING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Inject the secrets and start the container.
    Start,
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill,
}

/// The service, from the moment at which its first task runs.
#[derive(Clone, Debug)]
pub struct Deployment {
    state: State,
    /// Whether a task is wanted.
    wanted: bool,
    /// Whether the task that runs is to give way.
    replace: bool,
    /// What Fargate takes for a start.
    start_time: Duration,
    stop_timeout: Duration,
    stopped_reason: Option<String>,
    starts: u32,
    simulated: Duration,
}

impl Deployment {
    /// A service whose first task has been started.
    #[must_use]
    pub const fn running(start_time: Duration, stop_timeout: Duration) -> Self {
        Self {
            state: State::Running,
            wanted: true,
            replace: false,
            start_time,
            stop_timeout,
            stopped_reason: None,
            starts: 1,
            simulated: Duration::ZERO,
        }
    }

    /// Where the task is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why the task before was stopped, or was not started.
    #[must_use]
    pub fn stopped_reason(&self) -> Option<&str> {
        self.stopped_reason.as_deref()
    }

    /// How many tasks were started.
    #[must_use]
    pub const fn starts(&self) -> u32 {
        self.starts
    }

    /// How long Fargate was simulated to make ready for tasks, in all.
    #[must_use]
    pub const fn simulated(&self) -> Duration {
        self.simulated
    }

    /// Whether the container's process runs.
    #[must_use]
    pub const fn has_task(&self) -> bool {
        matches!(self.state, State::Running | State::Stopping { .. })
    }

    /// `UpdateService` with `forceNewDeployment`. One that is asked for while a task is made ready changes
    /// nothing: that one will be new.
    pub const fn force_new_deployment(&mut self) {
        self.replace = self.wanted && self.has_task();
    }

    /// `UpdateService` with a `desiredCount` of 0.
    pub const fn scale_to_zero(&mut self) {
        self.wanted = false;
    }

    /// What is to be done now. Where that is something, it counts as done.
    pub fn step(&mut self, now: Instant) -> Step {
        let (state, step) = match self.state {
            State::Provisioning { .. } | State::Pending if !self.wanted => {
                (State::Stopped, Step::Wait)
            }
            State::Provisioning { ready_at } if ready_at <= now => (State::Pending, Step::Start),
            State::Running if self.replace || !self.wanted => {
                (State::Stopping { kill_at: Some(now + self.stop_timeout) }, Step::Terminate)
            }
            State::Stopping { kill_at: Some(kill_at) } if kill_at <= now => {
                (State::Stopping { kill_at: None }, Step::Kill)
            }
            state => (state, Step::Wait),
        };
        self.state = state;
        step
    }

    /// The container's process has been started.
    pub const fn started(&mut self) {
        self.state = State::Running;
        self.starts += 1;
    }

    /// The task could not be started.
    pub fn not_started(&mut self, reason: String, now: Instant) {
        self.stopped(reason, now);
    }

    /// The container's process has ended.
    pub fn ended(&mut self, status: &str, now: Instant) {
        let asked = matches!(self.state, State::Stopping { .. });
        let reason = if asked {
            "Scaling activity initiated by deployment".to_owned()
        } else {
            format!("Essential container in task exited ({status})")
        };
        self.stopped(reason, now);
    }

    fn stopped(&mut self, reason: String, now: Instant) {
        self.stopped_reason = Some(reason);
        self.replace = false;
        self.state = if self.wanted {
            self.simulated += self.start_time;
            State::Provisioning { ready_at: now + self.start_time }
        } else {
            State::Stopped
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(57);
    const STOP: Duration = Duration::from_secs(30);

    fn service() -> (Deployment, Instant) {
        (Deployment::running(START, STOP), Instant::now())
    }

    #[test]
    fn a_deployment_stops_the_task_before_it_starts_the_next() {
        let (mut service, now) = service();
        assert_eq!(service.step(now), Step::Wait);
        service.force_new_deployment();
        assert_eq!(service.step(now), Step::Terminate);
        assert_eq!(service.step(now), Step::Wait);
        service.ended("exit status: 0", now);
        assert_eq!(service.state().last_status(), "PROVISIONING");
        assert!(!service.has_task());
        assert_eq!(service.step(now + START - Duration::from_millis(1)), Step::Wait);
        assert_eq!(service.step(now + START), Step::Start);
        assert_eq!(service.state(), State::Pending);
        service.started();
        assert_eq!((service.state(), service.starts()), (State::Running, 2));
        assert_eq!(service.simulated(), START);
        assert_eq!(service.step(now + START), Step::Wait);
    }

    #[test]
    fn a_task_that_ends_by_itself_is_started_again_and_the_reason_says_so() {
        let (mut service, now) = service();
        service.ended("exit status: 69", now);
        assert!(
            service.stopped_reason().unwrap().starts_with("Essential container in task exited")
        );
        assert_eq!(service.step(now + START), Step::Start);
        service.not_started("ResourceInitializationError: x".to_owned(), now + START);
        assert!(service.stopped_reason().unwrap().starts_with("ResourceInitializationError"));
        // Not at once: the next task is made ready as the one before.
        assert_eq!(service.step(now + START), Step::Wait);
        assert_eq!(service.step(now + START * 2), Step::Start);
        assert_eq!(service.simulated(), START * 2);
    }

    #[test]
    fn a_task_that_does_not_heed_sigterm_is_killed_once() {
        let (mut service, now) = service();
        service.force_new_deployment();
        assert_eq!(service.step(now), Step::Terminate);
        assert_eq!(service.step(now + STOP - Duration::from_millis(1)), Step::Wait);
        assert_eq!(service.step(now + STOP), Step::Kill);
        assert_eq!(service.step(now + STOP * 2), Step::Wait);
    }

    #[test]
    fn a_service_that_is_scaled_to_zero_starts_nothing() {
        let (mut service, now) = service();
        service.scale_to_zero();
        assert_eq!(service.step(now), Step::Terminate);
        service.ended("exit status: 0", now);
        assert_eq!(service.state(), State::Stopped);
        service.force_new_deployment();
        assert_eq!(service.step(now + START), Step::Wait);
    }

    #[test]
    fn a_deployment_while_a_task_is_made_ready_does_not_make_another() {
        let (mut service, now) = service();
        service.ended("exit status: 0", now);
        service.force_new_deployment();
        assert_eq!(service.step(now + START), Step::Start);
        service.started();
        assert_eq!(service.step(now + START), Step::Wait);
    }
}
