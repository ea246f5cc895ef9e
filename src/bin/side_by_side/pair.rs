//! Both models side by side.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use twitterstream::clock;
use twitterstream::demo::probes::{self, Finding, Lab, Programs};
use twitterstream::demo::review;
use twitterstream::demo::side_by_side::page::Page;
use twitterstream::demo::side_by_side::timeline::{Event, Timeline};
use twitterstream::demo::side_by_side::{Action, Pair, Settings, report_page, scenario};
use twitterstream::demo::world::Model;

use crate::arguments::Arguments;
use crate::programs::{built, root};
use crate::terminal::say;
use crate::{Judged, interrupted, write_json};

/// Posts a second on each side where nobody says.
const RATE: NonZeroU32 = NonZeroU32::new(75).unwrap();

/// What a start of a task is simulated to take where nobody says: as published, and unattended.
const FARGATE_START: [Duration; 2] = [Duration::from_secs(57), Duration::from_secs(5)];

fn programs() -> Result<Programs, Box<dyn std::error::Error>> {
    let names = ["twitterstream", "injected", "injected-unhardened"];
    let [embedded, injected, unhardened] = built(root(), names)?;
    Ok(Programs { embedded, injected, unhardened })
}

/// Attacks both, and prints the security review. Whether all was found as it is claimed.
pub async fn review(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let lab =
        Lab { root: root(), clock: clock::system(), programs: programs()?, seed: arguments.seed };
    let findings = probes::run(&lab, |finding: &Finding| {
        let result = match (&finding.skipped, finding.as_claimed) {
            (Some(why), _) => format!("skipped: {why}"),
            (None, true) => "as claimed".to_owned(),
            (None, false) => "NOT AS CLAIMED".to_owned(),
        };
        // Standard output is the document's.
        let _ = writeln!(io::stderr(), "{:<32}{result}", finding.probe.id);
    });
    let findings = findings.await?;
    say(&review::review(&findings));
    write_json(arguments, &findings)?;
    Ok(findings.iter().all(|finding| finding.as_claimed))
}

async fn start(arguments: &Arguments) -> Result<Pair, Box<dyn std::error::Error>> {
    let [attended, unattended] = FARGATE_START;
    let usual = if arguments.once { unattended } else { attended };
    let settings = Settings {
        root: root().to_owned(),
        clock: clock::system(),
        programs: programs()?,
        seed: arguments.seed,
        rate: arguments.rate.unwrap_or(RATE),
        matching: arguments.matching,
        fargate_start: arguments.fargate_start.unwrap_or(usual),
    };
    Ok(Pair::start(settings).await?)
}

/// Goes through the scenario, and writes the reports. Whether it is as it should be.
pub async fn once(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("{}: {error}", arguments.out.display()))?;
    let json = arguments.json.clone().unwrap_or_else(|| arguments.out.join("report.json"));
    let page = arguments.out.join("report.html");
    // Of a run that fails there is no report, and none of another run in its place.
    for path in [&json, &page] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", path.display()).into());
            }
            _ => {}
        }
    }
    let pair = start(arguments).await?;
    let mut told = 0;
    let report = {
        let running = scenario::run(&pair);
        tokio::pin!(running);
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                report = &mut running => break report?,
                _ = looks.tick() => told = tell(&pair.timeline, told),
            }
        }
    };
    tell(&pair.timeline, told);
    say(&format!("\n{report}"));
    let written = |path: &Path, text: &[u8]| {
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    written(
        &json,
        &serde_json::to_vec_pretty(&Judged { is_right: report.is_right(), report: &report })?,
    )?;
    written(&page, report_page::page(&report).as_bytes())?;
    say(&format!("Written: {} and {}", page.display(), json.display()));
    Ok(report.is_right())
}

/// Runs both until Ctrl-C, with a page for whoever looks on.
pub async fn live(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    let pair = Arc::new(start(arguments).await?);
    let page = Page::start(Arc::clone(&pair)).await?;
    say(&format!("\nLive page   {}", page.url()));
    say("Ctrl-C ends it. Press Enter to see how both stand, or type one of:\n");
    for action in Action::ALL {
        say(&format!("  {:<14}{}", action.name(), action.text()));
    }
    say("");
    let mut words = typed_words();
    let mut told = 0;
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            () = &mut interrupted => break,
            error = pair.failed() => return Err(error.into()),
            Some(word) = words.recv() => match (word.trim(), Action::named(word.trim())) {
                (_, Some(action)) => pair.act(action),
                ("", None) => stand(&pair),
                (word, None) => say(&format!("there is no action {word}; Enter shows how both stand")),
            },
            _ = looks.tick() => told = tell(&pair.timeline, told),
        }
    }
    stand(&pair);
    Ok(true)
}

/// The lines that are typed, until there are no more.
fn typed_words() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // It ends with the process: a read of standard input cannot be broken off.
    std::thread::spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Says how both stand.
fn stand(pair: &Pair) {
    let snapshot = pair.snapshot(usize::MAX);
    for side in [&snapshot.embedded, &snapshot.injected] {
        let task = match side.task.simulated_seconds_left {
            Some(left) => format!("{}, {left:.0} s left (simulated)", side.task.last_status),
            None => side.task.last_status.to_owned(),
        };
        let keys = side.keys_in_use.map_or_else(|| "none".to_owned(), |keys| keys.to_string());
        say(&format!(
            "{:7.1} s  {:<9} {task}; stream {}; keys {keys} of {}; on old keys {:.1} s{}; rows {}, lost {}{}, in the spool {}",
            snapshot.seconds,
            side.model.name(),
            if side.streaming { "open" } else { "none" },
            side.keys_newest,
            side.seconds_on_old,
            simulated(
                &format!("{:.1} s", side.simulated_seconds_on_old),
                side.task.simulated_seconds
            ),
            side.rows_written,
            side.rows_missed,
            simulated(&side.simulated_rows_missed.to_string(), side.task.simulated_seconds),
            side.rows_in_spool,
        ));
    }
}

/// What the simulated starts have added to a figure, where there was one.
fn simulated(share: &str, starts: f64) -> String {
    if starts > 0.0 { format!(" ({share} of it simulated)") } else { String::new() }
}

/// Says what has come to the timeline; returns the number of the next event.
fn tell(timeline: &Timeline, from: usize) -> usize {
    let events = timeline.since(from);
    for Event { seconds, side, text, .. } in &events {
        let side = side.map_or("", Model::name);
        say(&format!("{seconds:7.1} s  {side:<9} {text}"));
    }
    events.last().map_or(from, |last| last.number + 1)
}
