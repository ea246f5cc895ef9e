//! The whole worker, every post a row, beside a loop that does nothing but put the same rows. All of
//! them write to a DynamoDB that keeps nothing.

use std::error::Error;

use twitterstream::demo::feed_server::Scheme;

use crate::figure::{Figure, Goal, median, progress};
use crate::lab::{Lab, Pace, Run};
use crate::process::Process;
use crate::put_loop::Loop;

const ROWS: u32 = 30_000;
const ROUNDS: usize = 5;

const LOOPS: [Loop; 4] = [Loop::Sdk, Loop::SdkOneThread, Loop::Signed, Loop::Unsigned];

pub async fn rows() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut worker: Vec<Run> = Vec::new();
    let mut loops = [const { Vec::<Run>::new() }; LOOPS.len()];
    for round in 1..=ROUNDS {
        progress(&format!("write-path, round {round} of {ROUNDS}"));
        let mut lab = Lab::start(Pace::Posts(ROWS), Scheme::Http).await?;
        let command = lab.worker()?;
        worker.push(lab.rows(command, ROWS).await?);
        for (which, runs) in LOOPS.into_iter().zip(&mut loops) {
            runs.push(put_loop(&mut lab, which).await?);
        }
    }
    let cpu = |runs: &[Run]| median(runs.iter().map(|run| run.cpu_seconds_per_row * 1e6).collect());
    let rate = |runs: &[Run]| median(runs.iter().map(|run| run.rows_per_second).collect());
    let [sdk, one_thread, signed, unsigned] = loops;
    let worker_cpu = cpu(&worker);
    let beside = |compared_with, runs: &[Run]| {
        Figure::new(
            ("CPU of a row, whole worker", "µs"),
            worker_cpu,
            (compared_with, cpu(runs)),
            None,
        )
    };
    Ok(vec![
        Figure::new(
            ("CPU of a row, whole worker", "µs"),
            worker_cpu,
            ("bare loop of the SDK", cpu(&sdk)),
            Some(Goal::RatioUpTo(1.0)),
        )
        .ratio_as("worker_cpu_per_row_vs_sdk_loop"),
        beside("bare loop of the SDK, one thread", &one_thread),
        beside("hyper and SigV4, one thread", &signed),
        beside("hyper alone, one thread", &unsigned),
        Figure::new(
            ("rows a second, whole worker", "rows/s"),
            rate(&worker),
            ("bare loop of the SDK", rate(&sdk)),
            Some(Goal::RatioFrom(0.95)),
        )
        .ratio_as("worker_rows_per_second_vs_sdk_loop"),
        Figure::new(
            ("rows a second, whole worker", "rows/s"),
            rate(&worker),
            ("bare loop of the SDK, one thread", rate(&one_thread)),
            None,
        ),
    ])
}

async fn put_loop(lab: &mut Lab, which: Loop) -> Result<Run, Box<dyn Error>> {
    let mut command = lab.task(&std::env::current_exe()?, &[])?;
    command.args(["--role", "put-loop", "--loop", &which.role(), "--rows", &ROWS.to_string()]);
    lab.null.expect(ROWS).await?;
    let mut process = Process::start(command)?;
    let first = process.until(lab.null.seen()).await?;
    // The loop ends with its last row, or has failed.
    let cpu_seconds_per_row = process.output().await?.trim().parse()?;
    let rows_per_second = f64::from(ROWS - 1) / (lab.null.seen().await? - first);
    Ok(Run { rows_per_second, cpu_seconds_per_row })
}
