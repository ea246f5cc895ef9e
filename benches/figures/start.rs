//! From the start of the worker's process to its first row: four secrets are fetched, a stream is
//! signed and opened, a post is read and put.

use std::error::Error;

use twitterstream::demo::feed_server::Scheme;

use crate::figure::{Figure, Goal, median, progress};
use crate::lab::{Lab, Pace};

const ROUNDS: usize = 9;

/// Posts a second: the first comes a millisecond after the stream is open.
pub const RATE: u32 = 1_000;

pub async fn first_row() -> Result<[Figure; 2], Box<dyn Error>> {
    let (mut http, mut tls) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        progress(&format!("start, round {round} of {ROUNDS}"));
        http.push(once(Scheme::Http).await? * 1e3);
        tls.push(once(Scheme::Https).await? * 1e3);
    }
    let limited = |name, rounds, limit: f64| {
        let goal = Some(Goal::UpTo(limit));
        Figure::new((name, "ms"), median(rounds), ("its limit", limit), goal)
    };
    Ok([
        limited("first row after the start, http", http, 60.0).measured_as("first_row_ms_http"),
        limited("first row after the start, TLS", tls, 150.0).measured_as("first_row_ms_tls"),
    ])
}

/// One start of the worker, in seconds.
pub async fn once(scheme: Scheme) -> Result<f64, Box<dyn Error>> {
    let mut lab = Lab::start(Pace::Rate(RATE), scheme).await?;
    let command = lab.worker()?;
    lab.first_row(command).await
}
