//! Both models beside each other, as `cargo demo` runs them.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use twitterstream::demo::probes::Programs;
use twitterstream::demo::side_by_side::calls::Calls;
use twitterstream::demo::side_by_side::report::Report;
use twitterstream::demo::side_by_side::snapshot::{SideSnapshot, Snapshot};
use twitterstream::demo::side_by_side::{Action, Pair, Settings, scenario};
use twitterstream::demo::world::Model;

use crate::support::{clock, holding, program};

/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_mins(2);

fn settings() -> Settings {
    Settings {
        root: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        clock: clock(),
        programs: Programs {
            embedded: program().to_owned(),
            injected: env!("CARGO_BIN_EXE_injected").into(),
            unhardened: env!("CARGO_BIN_EXE_injected-unhardened").into(),
        },
        seed: 1,
        rate: NonZeroU32::new(40).unwrap(),
        matching: 1.0,
        fargate_start: Duration::from_millis(300),
    }
}

/// Both, when each has written something.
pub async fn pair() -> Pair {
    let pair = Pair::start(settings()).await.unwrap();
    for model in Model::BOTH {
        until(&pair, model, |side| side.rows_written > 10).await;
    }
    pair
}

pub async fn until(
    pair: &Pair,
    model: Model,
    condition: impl FnMut(&SideSnapshot) -> bool,
) -> SideSnapshot {
    match pair.until(model, "what the test waits for", LIMIT, condition).await {
        Ok(snapshot) => snapshot,
        Err(error) => panic!("{error}: {:#?}", pair.snapshot(0)),
    }
}

/// Who fetched secrets, and how often.
fn fetches(side: &SideSnapshot) -> Vec<(&str, u64, u64)> {
    let fetch = |calls: &&Calls| calls.event_name == "GetSecretValue";
    let counted = |calls: &Calls| (calls.ok, calls.failed);
    let calls = side.calls.iter().filter(fetch);
    calls.map(|calls| (&*calls.role, counted(calls).0, counted(calls).1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_side_takes_new_keys_by_itself_and_the_other_with_a_new_task_that_loses_rows() {
    let pair = pair().await;
    pair.act(Action::Rotate);
    let embedded = until(&pair, Model::Embedded, |side| side.keys_in_use == Some(2)).await;
    assert!(!embedded.stale && embedded.old_keys_accepted, "{embedded:#?}");
    let injected = until(&pair, Model::Injected, |side| side.keys_labelled == 2).await;
    // Both keys are accepted, and nobody has told the task of the new ones.
    assert_eq!((injected.keys_in_use, injected.stale), (Some(1), true), "{injected:#?}");

    pair.act(Action::Revoke);
    until(&pair, Model::Injected, |side| !side.streaming && side.refused > 0).await;
    pair.act(Action::Deploy);
    let injected = until(&pair, Model::Injected, |side| side.keys_in_use == Some(2)).await;
    assert!(!injected.stale && injected.rows_missed > 0, "{injected:#?}");
    assert_eq!((injected.task.starts, injected.task.simulated_seconds), (2, 0.3));
    // Only what came while the task was made ready is called simulated.
    let simulated = injected.simulated_seconds_on_old;
    assert!(simulated > 0.0 && simulated < injected.seconds_on_old, "{injected:#?}");
    assert!(injected.simulated_rows_missed <= injected.rows_missed, "{injected:#?}");
    let told: String = pair.timeline.since(0).into_iter().map(|event| event.text + "\n").collect();
    assert!(told.contains(" s of it simulated"), "{told}");

    let [embedded, injected] = pair.finish().await.unwrap();
    // On a machine that is too busy to answer in time a stream may be lost; nothing else is.
    let missed = embedded.last.rows_missed;
    assert_eq!(embedded.rows_lost, missed, "{:#?}", pair.timeline.since(0));
    assert!(injected.rows_lost > missed);
    assert_eq!(embedded.table.differing(&embedded.expected), 0);
    assert_eq!((embedded.last.task.starts, embedded.adopted), (1, 1));
    assert!(injected.rows_lost >= injected.last.rows_missed && injected.rows_lost > 0);
    assert!(embedded.last.simulated_rows_missed == 0);
    assert!(embedded.last.simulated_seconds_on_old.abs() < 1e-9);
    assert_eq!(fetches(&embedded.last), [("twitterstream-embedded-task-role", 8, 0)]);
    assert_eq!(fetches(&injected.last), [("twitterstream-injected-task-execution-role", 8, 0)]);
    for side in [&embedded, &injected] {
        assert_eq!((&*side.worker_exit, side.ended_by_itself.len()), ("exit status: 0", 0));
        for versions in &side.last.versions {
            assert!(versions.current.is_some() && versions.current == versions.fetched);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_set_is_refused_and_the_rest_of_it_is_taken() {
    let pair = pair().await;
    pair.act(Action::Tear);
    let torn = until(&pair, Model::Embedded, |side| side.sets_refused > 0).await;
    assert_eq!((torn.keys_newest, torn.keys_labelled, torn.keys_in_use), (2, 1, Some(1)));
    assert!(!torn.stale && torn.streaming, "{torn:#?}");
    pair.act(Action::Rotate);
    let whole = until(&pair, Model::Embedded, |side| side.keys_in_use == Some(2)).await;
    assert_eq!((whole.keys_newest, whole.keys_labelled), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_be_given_its_secrets_is_not_started_and_tried_again() {
    let pair = pair().await;
    pair.act(Action::SecretsAway);
    pair.act(Action::Deploy);
    let failed = |side: &SideSnapshot| {
        let reason = side.task.stopped_reason.as_deref().unwrap_or_default();
        reason.contains("ResourceInitializationError")
    };
    let injected = until(&pair, Model::Injected, failed).await;
    assert_eq!(injected.task.starts, 1);
    pair.act(Action::SecretsBack);
    until(&pair, Model::Injected, |side| side.task.starts == 2 && side.streaming).await;
    let embedded = until(&pair, Model::Embedded, |_| true).await;
    assert_eq!(embedded.task.starts, 1);
    assert!(embedded.streaming, "{embedded:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_ends_well_and_nothing_that_it_shows_is_a_secret() {
    let pair = Pair::start(settings()).await.unwrap();
    let report = scenario::run(&pair).await.unwrap();
    let embedded = &report.embedded;
    let wrong = [embedded.rows_lost, embedded.rows_differing, embedded.duplicate_ids];
    assert!(wrong[1..] == [0, 0] && embedded.worker_exit == "exit status: 0", "{report}");
    let lost = "the embedded side lost rows";
    let expected: Vec<_> = [lost].into_iter().filter(|_| wrong[0] > 0).collect();
    assert_eq!(report.complaints(), expected, "{report}");
    assert_eq!(report.is_right(), wrong[0] == 0, "{report}");
    one_thing_that_is_not_right_is_a_complaint(&report);
    assert_eq!(report.rotation.each.len(), 3);
    assert!(report.rotation.injected.rows_lost > 0, "{report}");
    // The first rotation is one of three, and alone.
    let [first, of_all] = [&report.rotation.injected, &report.rotation.each[0].injected];
    assert_eq!(first, of_all);
    assert!(first.rows_lost < report.injected.rows_lost, "{report}");
    assert!(first.simulated_rows_lost <= first.rows_lost, "{report}");
    assert!((report.rotation.injected.restart_simulated_seconds - 0.3).abs() < 1e-9, "{report}");
    assert_eq!(report.rotation.embedded.restarts, 0);
    let json = serde_json::to_string(&report).unwrap();
    for member in ["posts_sent", "rows_lost", "probes", "rotation", "injected", "published_start"] {
        assert!(json.contains(&format!("\"{member}\":")), "{member}");
    }
    let secrets = pair.secrets();
    // Four keys of each side, at the start and after each rotation.
    assert_eq!(secrets.len(), 2 * 4 * 4);
    let snapshot: Snapshot = pair.snapshot(0);
    let shown = [json, report.to_string(), serde_json::to_string(&snapshot).unwrap()];
    let shown: Vec<_> = shown.iter().map(String::as_str).collect();
    assert_eq!(holding(&shown, &secrets), [""; 0]);
    // It would be found.
    assert_eq!(holding(&[&format!("a {} b", secrets[0])], &secrets).len(), 1);
}

fn one_thing_that_is_not_right_is_a_complaint(report: &Report) {
    let is_missed = |change: fn(&mut Report)| {
        let mut changed = report.clone();
        changed.embedded.rows_lost = 0;
        assert!(changed.is_right(), "{changed}");
        change(&mut changed);
        changed.is_right() || changed.complaints().len() != 1
    };
    let changes: [fn(&mut Report); 13] = [
        |report| report.embedded.rows_lost = 1,
        |report| report.embedded.rows_differing = 1,
        |report| report.embedded.duplicate_ids = 1,
        |report| report.embedded.rows_in_table = 0,
        |report| report.embedded.worker_exit.push('1'),
        |report| report.ended_by_itself.push("exit status: 70".to_owned()),
        |report| report.tasks_started = 2,
        |report| report.injected.rows_differing = 1,
        |report| report.injected.duplicate_ids = 1,
        |report| report.injected.rows_in_table = 0,
        |report| report.injected.worker_exit.clear(),
        |report| report.injected.ended_by_itself.push("exit status: 70".to_owned()),
        |report| report.probes[0].as_claimed = false,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert!(!is_missed(change), "change {number}");
    }
    let mut other = report.clone();
    other.injected.rows_lost += 1_000;
    other.embedded.rows_lost = 0;
    assert!(other.is_right(), "{other}");
}
