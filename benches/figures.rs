//! The figures that this project promises, each measured beside what it is compared with, in the same
//! run: `cargo bench --features demo [-- --json FILE]`.
//!
//! Only the ratios mean anything. Every figure is the median of several rounds in which the two sides
//! take turns.
#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::error::Error;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::Parser;
use serde::Serialize;
use twitterstream::demo::Clock;
use twitterstream::demo::feed_server::{Account, Options, Source};
use twitterstream::demo::main_job::{self, Job, Until};
use twitterstream::demo::report::Report;
use twitterstream::demo::world::World;
use twitterstream::feed::Dialect;

/// The production worker, and the same without its wiping allocator.
const WORKER: &str = env!("CARGO_BIN_EXE_twitterstream");
const UNWIPED: &str = env!("CARGO_BIN_EXE_unwiped");

/// How often each side has its turn.
const ROUNDS: usize = 5;

#[derive(Parser)]
struct Arguments {
    /// Also write the figures to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo itself passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// Something measured, beside what it is compared with.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    measured: f64,
    compared_with: &'static str,
    comparison: f64,
    ratio: f64,
    goal: &'static str,
    holds: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = [runtime.block_on(allocator())?];
    println!("{:<44}{:>12}{:>12}{:>8}   goal", "figure", "measured", "beside", "ratio");
    for figure in &figures {
        println!(
            "{:<44}{:>12.1}{:>12.1}{:>8.3}   {}{}   ({}; beside: {})",
            figure.name,
            figure.measured,
            figure.comparison,
            figure.ratio,
            figure.goal,
            if figure.holds { "" } else { " MISSED" },
            figure.unit,
            figure.compared_with,
        );
    }
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}

fn median(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured.get(measured.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::disallowed_methods, reason = "the wall clock enters the benchmark here")]
fn clock() -> Clock {
    Arc::new(SystemTime::now)
}

/// The whole worker on so many posts, as fast as it reads.
async fn main_job(program: &str, posts: u64, matching: f64) -> Result<Report, Box<dyn Error>> {
    let account = Account::generated(&mut fastrand::Rng::with_seed(1));
    let source = Source::Generated { seed: 1, track: "Amazon".to_owned(), matching };
    let mut options = Options::new(vec![account], source, clock());
    options.limit = Some(posts);
    let world = World::start(Path::new(env!("CARGO_MANIFEST_DIR")), clock(), options).await?;
    let (program, until) = (Path::new(program), Until::Posts(posts));
    let dialect = Dialect::TwitterV1_1;
    let job = Job { program, dialect, variables: &[], until, rotations: None };
    let report = main_job::run(&world, job, pending(), |_| {}).await?;
    if report.is_right(true) { Ok(report) } else { Err(format!("not right:\n{report}").into()) }
}

/// What wiping every block that is freed costs a run.
async fn allocator() -> Result<Figure, Box<dyn Error>> {
    let (mut wiping, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        wiping.push(main_job(WORKER, 50_000, 0.2).await?.cpu_seconds);
        plain.push(main_job(UNWIPED, 50_000, 0.2).await?.cpu_seconds);
    }
    let (measured, comparison) = (median(wiping) * 1e3, median(plain) * 1e3);
    let ratio = measured / comparison;
    Ok(Figure {
        name: "CPU of 50,000 posts, 10,000 rows",
        unit: "ms",
        measured,
        compared_with: "without the wiping allocator",
        comparison,
        ratio,
        goal: "below 1.05",
        holds: ratio < 1.05,
    })
}
