//! What is done to the worker alone: its memory is searched, its table is in trouble, it is killed, and
//! all of it again and again.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use twitterstream::clock;
use twitterstream::demo::copies::{self, Transport};
use twitterstream::demo::drill::Drill;
use twitterstream::demo::kills;
use twitterstream::demo::soak;
use twitterstream::demo::trouble::{self, Trouble};
use twitterstream::feed::Dialect;

use crate::arguments::Arguments;
use crate::programs::{built, root};
use crate::terminal::{Line, say};
use crate::{Judged, write_json};

/// Counts copies. Whether there are just as many as there should be.
pub async fn scan(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let root = root();
    let [worker, unwiped] = built(root, ["twitterstream", "unwiped"])?;
    let comparison = "For comparison, the same without the wiping allocator";
    let mut reports = Vec::new();
    for (program, dialect, transport, heading) in [
        (&worker, Dialect::XV2, Transport::Plain, "The worker"),
        (&worker, Dialect::XV2, Transport::Tls, "The worker"),
        (&worker, Dialect::TwitterV1_1, Transport::Plain, "The worker"),
        (&worker, Dialect::TwitterV1_1, Transport::Tls, "The worker"),
        (&unwiped, Dialect::XV2, Transport::Plain, comparison),
    ] {
        let (seed, name) = (arguments.seed, dialect.name());
        let report = copies::run(root, program, clock::system(), seed, dialect, transport).await?;
        say(&format!(
            "{heading}, {name} over {transport}: whole copies, and +fragments\n\n{report}"
        ));
        reports.push((program == &worker, report));
    }
    let reports_only: Vec<_> = reports.iter().map(|(_, report)| report).collect();
    write_json(arguments, &reports_only)?;
    Ok(reports.iter().all(|(wiped, report)| !wiped || report.holds()))
}

/// Posts a second under trouble where nobody says.
const RATE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// The worker, at this rate where nobody says.
fn drill<'a>(arguments: &Arguments, program: &'a Path, rate: NonZeroU32) -> Drill<'a> {
    let (rate, seed) = (arguments.rate.unwrap_or(rate), arguments.seed);
    Drill { root: root(), program, rate, seed, clock: clock::system() }
}

/// Runs the worker through troubles. Whether no row was lost in any.
pub async fn trouble(
    arguments: &Arguments,
    troubles: &[Trouble],
) -> Result<bool, Box<dyn std::error::Error>> {
    let [program] = built(root(), ["twitterstream"])?;
    let mut reports = Vec::new();
    for trouble in troubles {
        let settings = trouble::Settings {
            drill: drill(arguments, &program, RATE),
            trouble: *trouble,
            length: arguments.length.unwrap_or_else(|| trouble.usual_length()),
        };
        let mut line = Line::default();
        let show = |progress: &trouble::Progress| {
            line.show(|| {
                format!(
                    "{:<13}{:6.1} s   sent {:>8}   in table {:>8}   in spool {:>8}",
                    progress.phase,
                    progress.seconds,
                    progress.posts_sent,
                    progress.rows_in_table,
                    progress.rows_in_spool,
                )
            });
        };
        reports.push(trouble::run(&settings, show).await?);
        line.end();
        say(&trouble::Table(&reports).to_string());
        write_json(arguments, &reports)?;
    }
    Ok(reports.iter().all(trouble::Report::is_right))
}

/// Kills workers. Whether nothing that was on the disk was lost.
pub async fn kill(arguments: &Arguments, kills: u64) -> Result<bool, Box<dyn std::error::Error>> {
    let [program] = built(root(), ["twitterstream"])?;
    let settings = kills::Settings { drill: drill(arguments, &program, RATE), kills };
    let report = kills::run(&settings, |kill| say(&kill.to_string())).await?;
    say(&format!("\n{report}"));
    write_json(arguments, &report)?;
    Ok(report.is_right())
}

/// Posts a second of a soak where nobody says.
const SOAK_RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Puts the worker through trouble after trouble. Whether every check held.
pub async fn soak(
    arguments: &Arguments,
    minutes: NonZeroU32,
) -> Result<bool, Box<dyn std::error::Error>> {
    let [program] = built(root(), ["twitterstream"])?;
    let settings = soak::Settings {
        drill: drill(arguments, &program, SOAK_RATE),
        length: Duration::from_mins(minutes.get().into()),
    };
    let mut line = Line::default();
    let show = |progress: &soak::Progress| {
        line.show(|| {
            format!(
                "{:7.1} s   troubles {:>6}   rows {:>8}   {:>6} KB   {}",
                progress.seconds,
                progress.faults,
                progress.rows,
                progress.rss_bytes / 1_000,
                progress.step,
            )
        });
    };
    let report = soak::run(&settings, show).await?;
    line.end();
    say(&report.to_string());
    let is_right = report.is_right();
    write_json(arguments, &Judged { is_right, report: &report })?;
    Ok(is_right)
}
