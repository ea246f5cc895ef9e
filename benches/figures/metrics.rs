//! What measuring costs the worker: a latency recorded for each row, and a line of metrics a minute.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use twitterstream::counts::Counts;
use twitterstream::demo::feed_server::Scheme;
use twitterstream::health::Vitals;
use twitterstream::metrics::{Metrics, Settings};

use crate::figure::{Figure, Goal, cpu_seconds, median, progress};
use crate::lab::{Lab, Pace};

/// Rows a second.
const RATE: u32 = 1_000;

/// Rows of a run of the worker.
const ROWS: u32 = 10_000;
const ROUNDS: usize = 3;

/// So many lines are written in a round, each with the rows of its minute before it.
const MINUTES: u32 = 10;
const ROWS_A_MINUTE: u32 = 60 * RATE;

/// The processor time of metrics, and that of the whole worker, for a row at 1,000 rows a second.
pub async fn cost() -> Result<Figure, Box<dyn Error>> {
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        progress(&format!("metrics, round {round} of {ROUNDS}"));
        let mut lab = Lab::start(Pace::Rate(RATE), Scheme::Http).await?;
        let command = lab.worker()?;
        rounds.push(lab.rows(command, ROWS).await?.cpu_seconds_per_row);
    }
    let [measured] = cpu_seconds(5, [&mut minutes]);
    let a_row = measured / f64::from(MINUTES * ROWS_A_MINUTE);
    let figure = Figure::new(
        ("CPU of metrics, a row at 1,000 rows/s", "µs"),
        a_row * 1e6,
        ("whole worker", median(rounds) * 1e6),
        Some(Goal::RatioUpTo(0.01)),
    );
    Ok(figure.ratio_as("metrics_cpu_vs_worker"))
}

fn minutes() {
    let counts = Arc::new(Counts::default());
    let vitals = Arc::new(Vitals::new(Arc::clone(&counts), Duration::from_mins(1)));
    let settings = Settings {
        namespace: "TwitterStream".to_owned(),
        dimensions: vec![("Table".to_owned(), "twitterStream".to_owned())],
    };
    let mut metrics = Metrics::new(settings, vitals, false);
    for _ in 0..MINUTES {
        for row in 0..ROWS_A_MINUTE {
            // Between 1 and 9 ms.
            counts.put_latency.record(Duration::from_micros(u64::from(1_000 + row % 8_192)));
        }
        black_box(metrics.line(SystemTime::UNIX_EPOCH));
    }
}
