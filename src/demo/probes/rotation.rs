//! The secrets rotate: one task takes the new values over by itself, the other is replaced.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::cloud::{credentials_of, take};
use super::evidence::{Evidence, Measure, Observed};
use super::neighbour::traces;
use super::place::Place;
use super::subject::{Ground, Subject};
use super::{Attacked, Error, Found, Lab, Obstacle, Programs};
use crate::credentials::reference::AWSCURRENT;
use crate::demo::feed_server::Statistics;
use crate::demo::world::{Model, SECRETS};

/// The shortest poll that there is, so that nobody waits for a minute. Both models are given it.
const POLL: &[(&str, &str)] = &[("ROTATION_POLL", "1s")];

/// How long a worker may take to use new values, and to let the old ones go.
const LIMIT: Duration = Duration::from_secs(100);

/// For how long old values must be in use to be called still in use: some polls.
const STILL: Duration = Duration::from_secs(5);

/// Runs the probes of rotation, in pairs of their own.
pub(super) async fn probes(
    lab: &Lab<'_>,
    place: &Place,
    found: &mut Found<'_>,
) -> Result<(), Error> {
    let (whole, torn) = tokio::join!(rotated(lab, place), torn(lab, place));
    found("rotation-mid-start", torn)?;
    for (id, attacked) in whole? {
        found(id, attacked)?;
    }
    Ok(())
}

/// A task whose secrets rotate, and what the feed had counted before.
struct Rotating<'a> {
    subject: Subject,
    program: &'a Path,
    begun: Instant,
    before: Statistics,
}

impl<'a> Rotating<'a> {
    fn new(subject: Subject, program: &'a Path) -> Self {
        let before = subject.ground.world.feed.statistics();
        Self { subject, program, begun: Instant::now(), before }
    }

    /// Whether a stream was opened with the newest keys.
    fn uses_the_newest(&self) -> bool {
        let Ground { world, keys, .. } = &self.subject.ground;
        world.feed.opened_with(&keys.account().access_token) > 0
    }

    async fn until_it_uses_the_newest(&mut self) -> Result<(), Error> {
        let Ground { world, keys, .. } = &self.subject.ground;
        let token = &keys.account().access_token;
        let used = |_: &_| world.feed.opened_with(token) > 0;
        Ok(self.subject.running.worker.until("a stream with the new keys", used).await?)
    }

    /// Replaces the task, as the shipped service does it: first stopped, then started.
    async fn replace(&mut self, place: &Place) -> Result<(), Error> {
        let Subject { ground, running } = &mut self.subject;
        running.worker.stop().await?;
        *running = ground.start(place, self.program, POLL).await?;
        self.until_it_uses_the_newest().await
    }

    fn seconds(&self) -> String {
        format!("{:.1} s on the old keys", self.begun.elapsed().as_secs_f64())
    }

    /// The posts that were missed by now, and beside them what became of the streams.
    fn missed(&self) -> Observed {
        let now = self.subject.ground.world.feed.statistics();
        let missed = now.posts_missed - self.before.posts_missed;
        Observed { amount: missed, ..Observed::default() }
            .figure(format!("{missed} posts missed"))
            .figure(format!("{} streams opened", now.connects - self.before.connects))
            .figure(format!("{} streams cut by another", now.cut_oldest - self.before.cut_oldest))
    }
}

/// Lets both tasks have the same time: until the embedded one uses the newest keys, [`STILL`] at least
/// and [`LIMIT`] at most. Whether each of them uses them, and how long the embedded one took.
async fn take_over(
    embedded: &mut Rotating<'_>,
    injected: &Rotating<'_>,
) -> Result<([bool; 2], String), Error> {
    let used = async {
        // It may not come: then a new task is what it takes.
        let used = timeout(LIMIT, embedded.until_it_uses_the_newest()).await;
        used.unwrap_or(Ok(()))?;
        Ok::<_, Error>(embedded.seconds())
    };
    let (seconds, ()) = tokio::join!(used, sleep(STILL));
    Ok(([embedded.uses_the_newest(), injected.uses_the_newest()], seconds?))
}

/// Rotates all four secrets while both tasks run; the service accepts the old keys for a while, as
/// services do that are kind.
async fn rotated(lab: &Lab<'_>, place: &Place) -> Result<Vec<(&'static str, Attacked)>, Error> {
    let Programs { embedded, injected, .. } = &place.programs;
    let start = async |model, program| {
        let ground = Ground::live(lab, model).await?;
        let subject = Subject::start_on(ground, place, program, POLL).await?;
        Ok::<_, Error>(Rotating::new(subject, program))
    };
    let (mut embedded, mut injected) = tokio::try_join!(
        start(Model::Embedded, embedded.as_path()),
        start(Model::Injected, injected.as_path()),
    )?;
    let old = embedded.subject.values();
    for rotating in [&mut embedded, &mut injected] {
        rotating.subject.ground.rotate()?;
        rotating.begun = Instant::now();
    }
    let ([by_itself, injected_by_itself], seconds) = take_over(&mut embedded, &injected).await?;

    // Somebody is in both containers since before the rotation.
    let next_embedded = next_values(&embedded.subject).await?;
    let next =
        Evidence::new(Measure::NextValues, next_embedded, next_values(&injected.subject).await?);

    // What is left of the old values: the injected one has as long to let them go as the other takes.
    let embedded_old = old_values(&embedded.subject, &old, LIMIT).await;
    let injected_old = old_values(&injected.subject, &old, Duration::ZERO).await;

    if !by_itself {
        embedded.replace(place).await?;
    }
    if !injected_by_itself {
        injected.replace(place).await?;
    }
    let injected_seconds = injected.seconds();
    let (embedded_missed, injected_missed) = (embedded.missed(), injected.missed());
    let replaced_old = old_values(&injected.subject, &old, Duration::ZERO).await;

    let old_values = || -> Attacked {
        let gone = !injected_by_itself && replaced_old?.amount == 0;
        let injected_old = injected_old?.with_if(gone, "none once the task is replaced");
        Ok(Evidence::new(Measure::OldValues, embedded_old?, injected_old))
    };
    let new_task =
        |by_itself: bool, seconds| Observed::new(usize::from(!by_itself)).figure(seconds);
    Ok(vec![
        (
            "rotation-new-task",
            Ok(Evidence::new(
                Measure::NewTasks,
                new_task(by_itself, seconds),
                new_task(injected_by_itself, injected_seconds),
            )),
        ),
        ("rotation-gap", Ok(Evidence::new(Measure::PostsMissed, embedded_missed, injected_missed))),
        ("code-execution-next-values", Ok(next)),
        ("old-values-in-memory", old_values()),
    ])
}

/// What whoever is in a container gets of the newest values.
async fn next_values(subject: &Subject) -> Result<Observed, Error> {
    let (aws, new) = (&subject.ground.world.aws, subject.values());
    let stolen = credentials_of(subject).await?;
    let had = take(aws, &aws.endpoint_url(), stolen, AWSCURRENT, &new).await?;
    Ok(Observed::new(had.values.max(subject.in_environment(&new))))
}

/// Of how many of the old values a piece is in a worker's memory, once it has had time to let them go.
async fn old_values(
    subject: &Subject,
    old: &[String],
    time: Duration,
) -> Result<Observed, Obstacle> {
    let begun = Instant::now();
    loop {
        let left = traces(subject, old)?;
        if left == 0 || begun.elapsed() >= time {
            return Ok(Observed::new(left));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Tasks that start while one of four labels has moved.
async fn torn(lab: &Lab<'_>, place: &Place) -> Attacked {
    let Programs { embedded, injected, .. } = &place.programs;
    let start = async |model, program| {
        let mut ground = Ground::new(lab, model).await?;
        ground.keys.renew();
        ground.keys.accept(&ground.world);
        ground.keys.move_label(&ground.world, 0)?;
        let running = ground.start(place, program, POLL).await?;
        let mut rotating = Rotating::new(Subject { ground, running }, program);
        let Subject { ground, running } = &mut rotating.subject;
        let refused = |_: &_| ground.world.feed.statistics().refused.values().sum::<u64>() > 0;
        running.worker.until("a refusal of the torn set", refused).await?;
        Ok::<_, Error>(rotating)
    };
    let (mut embedded, mut injected) = tokio::try_join!(
        start(Model::Embedded, embedded.as_path()),
        start(Model::Injected, injected.as_path()),
    )?;
    for rotating in [&embedded, &injected] {
        let Ground { world, keys, .. } = &rotating.subject.ground;
        (1..SECRETS.len()).try_for_each(|secret| keys.move_label(world, secret))?;
    }
    let ([by_itself, injected_by_itself], _) = take_over(&mut embedded, &injected).await?;
    if !by_itself {
        embedded.replace(place).await?;
    }
    if !injected_by_itself {
        injected.replace(place).await?;
    }
    let observed = |by_itself: bool| {
        Observed::new(usize::from(!by_itself)).with("the service refuses the torn set")
    };
    let (embedded, injected) = (observed(by_itself), observed(injected_by_itself));
    Ok(Evidence::new(Measure::NewTasks, embedded, injected))
}
