//! The secrets rotate: one task takes the new values over by itself, the other is replaced.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::cloud::{credentials_of, take};
use super::evidence::{Evidence, Measure, Observed};
use super::neighbour::copies;
use super::place::Place;
use super::subject::{Ground, Running, Subject};
use super::{Attacked, Error, Found, Lab, Obstacle};
use crate::credentials::reference::AWSCURRENT;
use crate::demo::feed_server::FeedServer;
use crate::demo::world::{Model, SECRETS};

/// The shortest poll that there is, so that nobody waits for a minute.
const POLL: (&str, &str) = ("ROTATION_POLL", "1s");

/// How long a worker may take to use new values, and to let the old ones go.
const LIMIT: Duration = Duration::from_secs(30);

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

/// Watches a feed while something goes on. Whether there was a moment without a stream.
async fn without_a_stream<T>(feed: &FeedServer, going_on: impl Future<Output = T>) -> (bool, T) {
    let away = Cell::new(false);
    let watching = feed.wait_until(|feed| {
        if feed.open == 0 {
            away.set(true);
        }
        false
    });
    let done = tokio::select! {
        done = going_on => done,
        done = async { drop(watching.await); pending().await } => done,
    };
    (away.get(), done)
}

/// Rotates all four secrets while both tasks run; the service accepts the old keys for a while, as
/// services do that are kind.
async fn rotated(lab: &Lab<'_>, place: &Place) -> Result<Vec<(&'static str, Attacked)>, Error> {
    let (mut embedded, mut injected) = tokio::try_join!(
        Subject::start(lab, place, Model::Embedded, &place.programs.embedded, &[POLL]),
        Subject::start(lab, place, Model::Injected, &place.programs.injected, &[]),
    )?;
    let old = embedded.values();
    for subject in [&mut embedded, &mut injected] {
        subject.ground.rotate()?;
    }
    let (new, token) = (embedded.values(), embedded.ground.keys.account().access_token.clone());

    // The embedded one learns of it.
    let Subject { ground, running } = &mut embedded;
    let begun = Instant::now();
    let adopted = running.worker.until("new keys in use", |worker| worker.log.adopted > 0);
    let adopted = timeout(LIMIT, adopted);
    // It may not have come: then a new task is what it takes.
    let (embedded_away, _) = without_a_stream(&ground.world.feed, adopted).await;
    let seconds = format!("{:.1} s after the last label moved", begun.elapsed().as_secs_f64());
    let by_itself = ground.world.feed.opened_with(&token) > 0;

    // Somebody is in both containers since before the rotation.
    let mut next = Vec::new();
    for subject in [&embedded, &injected] {
        let (aws, stolen) = (&subject.ground.world.aws, credentials_of(subject).await?);
        let had = take(aws, &aws.endpoint_url(), stolen, AWSCURRENT, &new).await;
        next.push(Observed::new(had.values.max(subject.in_environment(&new))));
    }

    // What is left of the old values.
    let embedded_old = old_values(&embedded, &old, LIMIT).await;
    let injected_old = old_values(&injected, &old, Duration::ZERO).await;

    // The injected one is replaced, as the shipped service does it: first stopped, then started.
    let still_old = injected.ground.world.feed.opened_with(&token) == 0;
    let Subject { ground, running } = &mut injected;
    let begun = Instant::now();
    let replaced = async {
        running.worker.stop().await?;
        *running = ground.start(place, &place.programs.injected, &[]).await?;
        running.worker.until("its stream", |worker| worker.log.opened).await?;
        Ok::<_, Error>(())
    };
    let (injected_away, replaced) = without_a_stream(&ground.world.feed, replaced).await;
    replaced?;
    let replaced_in = format!("{:.1} s for the new task here", begun.elapsed().as_secs_f64());
    let by_a_new_task = still_old && ground.world.feed.opened_with(&token) > 0;
    let replaced_old = old_values(&injected, &old, Duration::ZERO).await;

    let old_values = || -> Attacked {
        let gone = replaced_old?.amount == 0;
        let injected_old = injected_old?.with_if(gone, "none once the task is replaced");
        Ok(Evidence::new(Measure::OldValues, embedded_old?, injected_old))
    };
    let mut next = next.into_iter();
    let mut next = || next.next().unwrap_or_default();
    Ok(vec![
        (
            "rotation-new-task",
            Ok(Evidence::new(
                Measure::NewTasks,
                Observed::new(usize::from(!by_itself)).figure(seconds),
                Observed::new(usize::from(by_a_new_task)).figure(replaced_in),
            )),
        ),
        (
            "rotation-gap",
            Ok(Evidence::new(
                Measure::Gaps,
                Observed::new(usize::from(embedded_away)),
                Observed::new(usize::from(injected_away)),
            )),
        ),
        ("code-execution-next-values", Ok(Evidence::new(Measure::NextValues, next(), next()))),
        ("old-values-in-memory", old_values()),
    ])
}

/// How many of the old values are in a worker's memory once it has had time to let them go.
async fn old_values(
    subject: &Subject,
    old: &[String],
    time: Duration,
) -> Result<Observed, Obstacle> {
    let begun = Instant::now();
    loop {
        let copies = copies(subject, old)?;
        let left = copies.iter().filter(|copies| **copies > 0).count();
        if left == 0 || begun.elapsed() >= time {
            return Ok(Observed::new(left));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Tasks that start while one of four labels has moved.
async fn torn(lab: &Lab<'_>, place: &Place) -> Attacked {
    let embedded = torn_start(lab, place, Model::Embedded);
    let injected = torn_start(lab, place, Model::Injected);
    let (embedded, injected) = tokio::try_join!(embedded, injected)?;
    Ok(Evidence::new(Measure::NewTasks, embedded, injected))
}

async fn torn_start(lab: &Lab<'_>, place: &Place, model: Model) -> Result<Observed, Error> {
    let mut ground = Ground::new(lab, model).await?;
    ground.keys.renew();
    ground.keys.accept(&ground.world);
    ground.keys.move_label(&ground.world, 0)?;
    let (program, variables): (_, &[_]) = match model {
        Model::Embedded => (&place.programs.embedded, &[POLL]),
        Model::Injected => (&place.programs.injected, &[]),
    };
    let token = ground.keys.account().access_token.clone();
    let Ground { world, keys, .. } = &ground;
    let mut running = ground.start(place, program, variables).await?;
    let refused = |_: &_| world.feed.statistics().refused.values().sum::<u64>() > 0;
    running.worker.until("a refusal of the torn set", refused).await?;
    (1..SECRETS.len()).try_for_each(|secret| keys.move_label(world, secret))?;
    let used = |_: &_| world.feed.opened_with(&token) > 0;
    let observed = |tasks| Observed::new(tasks).with("the service refuses the torn set");
    // What is in an environment stays as it is, so there is nothing to wait for.
    if !holds_some(&running, &ground.values()) {
        let used = running.worker.until("the new keys in use", used);
        if let Ok(Ok(())) = timeout(LIMIT, used).await {
            return Ok(observed(0));
        }
    }
    running.worker.stop().await?;
    running = ground.start(place, program, variables).await?;
    running.worker.until("the new keys in use", used).await?;
    Ok(observed(1))
}

/// Whether a task's environment holds some of the values, and not all.
fn holds_some(running: &Running, values: &[String]) -> bool {
    let environment = running.worker.task.environment();
    let held = |value: &&String| environment.iter().any(|(_, held)| held == *value);
    (1..values.len()).contains(&values.iter().filter(held).count())
}
