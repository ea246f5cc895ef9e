//! The whole course of events, unattended: both sides write, rotate, and are put in trouble.
//!
//! Wherever the injected side's operator has something to do, the scenario does it at once: a reaction in
//! 0 seconds is the best case for injection. The same goes for the moment of injecting, at the end of the
//! simulated start.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::report::{Report, RotationFigures};
use super::snapshot::SideSnapshot;
use super::timeline::Tone;
use super::{Action, Error, Pair, attacks};
use crate::demo::world::Model;

/// How long an outage lasts. A worker's rows go to its disk after five seconds.
const OUTAGE: Duration = Duration::from_secs(7);

/// How long something that must come may take, the simulated start apart.
const LIMIT: Duration = Duration::from_mins(2);

/// How long is waited for the attacks, which end themselves by then: but not where a probe does not let go of
/// its thread.
const ATTACKS_LIMIT: Duration = attacks::LIMIT.saturating_add(Duration::from_mins(1));

/// A part of the course.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// What happens in it.
    pub name: &'static str,
    /// Seconds since the start.
    pub from: f64,
    /// Seconds since the start.
    pub to: f64,
}

/// One rotation, as it went on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotation {
    /// What kind.
    pub kind: &'static str,
    /// The embedded side.
    pub embedded: RotationFigures,
    /// The injected side.
    pub injected: RotationFigures,
}

/// Runs it to its end, when both sides have been stopped and their tables read back.
///
/// # Errors
/// A side that fails, or something that does not come.
pub async fn run(pair: &Pair) -> Result<Report, Error> {
    let mut course = Course { pair, phases: Vec::new(), rotations: Vec::new() };
    course.begin("both write");
    for model in Model::BOTH {
        course.until(model, "a row of each side", |side| side.rows_written >= 50).await?;
    }
    course.begin("rotation");
    let before = course.stand();
    pair.act(Action::Rotate);
    course.new_keys_everywhere("overlap: both keys are accepted for a while", &before).await?;

    course.begin("torn set");
    let before = course.stand();
    pair.act(Action::Tear);
    let refused = before.embedded.sets_refused;
    course
        .until(Model::Embedded, "a torn set that is refused", |side| side.sets_refused > refused)
        .await?;
    pair.act(Action::Rotate);
    course.new_keys_everywhere("torn: one label first, then the other three", &before).await?;

    course.begin("Secrets Manager away");
    let before = course.stand();
    pair.act(Action::SecretsAway);
    pair.act(Action::Rotate);
    sleep(OUTAGE).await;
    pair.act(Action::SecretsBack);
    course.new_keys_everywhere("while Secrets Manager is away", &before).await?;

    course.begin("DynamoDB away");
    pair.act(Action::TableAway);
    sleep(OUTAGE).await;
    let before = course.stand();
    pair.act(Action::TableBack);
    for (model, rows) in [
        (Model::Embedded, before.embedded.rows_written),
        (Model::Injected, before.injected.rows_written),
    ] {
        course.until(model, "a row after the outage", |side| side.rows_written > rows).await?;
    }

    course.begin("attacks");
    pair.act(Action::Attack);
    let stuck = |_| Error::Stuck { what: "the end of the attacks", limit: ATTACKS_LIMIT };
    let attacks = timeout(ATTACKS_LIMIT, pair.attacked()).await.map_err(stuck)?;

    course.begin("both are stopped, and the tables read back");
    pair.timeline.note(
        None,
        Tone::Note,
        "both feeds end; the tasks write what they have, and are stopped",
    );
    let finished = pair.finish().await?;
    course.end();
    let Course { phases, rotations, .. } = course;
    Ok(Report::new(pair, finished, attacks, phases, rotations))
}

struct Course<'a> {
    pair: &'a Pair,
    phases: Vec<Phase>,
    rotations: Vec<Rotation>,
}

/// How both sides stood before something.
struct Stand {
    embedded: SideSnapshot,
    injected: SideSnapshot,
}

impl Course<'_> {
    fn begin(&mut self, name: &'static str) {
        self.end();
        let now = self.pair.seconds();
        self.phases.push(Phase { name, from: now, to: now });
    }

    fn end(&mut self) {
        let now = self.pair.seconds();
        if let Some(last) = self.phases.last_mut() {
            last.to = now;
        }
    }

    fn stand(&self) -> Stand {
        let snapshot = self.pair.snapshot(usize::MAX);
        Stand { embedded: snapshot.embedded, injected: snapshot.injected }
    }

    async fn until(
        &self,
        model: Model,
        what: &'static str,
        condition: impl FnMut(&SideSnapshot) -> bool,
    ) -> Result<SideSnapshot, Error> {
        let limit = LIMIT + self.pair.settings.fargate_start;
        self.pair.until(model, what, limit, condition).await
    }

    /// The labels describe new keys, and the service accepts old and new. The embedded side takes them;
    /// then the service ends the old ones, as services do, and the injected side, cut, is deployed anew.
    async fn new_keys_everywhere(
        &mut self,
        kind: &'static str,
        before: &Stand,
    ) -> Result<(), Error> {
        let keys = before.embedded.keys_labelled;
        let taken =
            |side: &SideSnapshot| side.keys_labelled > keys && !side.stale && side.streaming;
        let what = "a stream with the new keys";
        self.until(Model::Embedded, what, taken).await?;
        self.pair.act(Action::Revoke);
        let cut = |side: &SideSnapshot| !side.streaming;
        self.until(Model::Injected, "the end of the injected side's stream", cut).await?;
        self.pair.act(Action::Deploy);
        let injected = self.until(Model::Injected, what, taken).await?;
        // Also what the cut and the deployment have done to the embedded side.
        let embedded = self.until(Model::Embedded, what, taken).await?;
        self.rotations.push(Rotation {
            kind,
            embedded: RotationFigures::between(&before.embedded, &embedded),
            injected: RotationFigures::between(&before.injected, &injected),
        });
        Ok(())
    }
}
