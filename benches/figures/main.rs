//! The figures that this project promises, each measured beside what it is compared with, in the same
//! run: `cargo bench --features demo [-- --json FILE] [--only PART]`.
//!
//! Only the ratios mean anything, and the few figures that are a limit by themselves. Every figure is the
//! median of several rounds in which the sides take turns. A module measures one part of the worker; each
//! of its functions is a figure, or a few that come from the same rounds. What is measured is a process
//! of its own, and so is the DynamoDB behind it: this program starts itself again for them.
#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

mod figure;
mod lab;
mod main_job;
mod memory;
mod metrics;
mod null_dynamodb;
mod process;
mod put_loop;
mod python;
mod read_path;
mod start;
mod write_path;

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::figure::Figure;
use crate::put_loop::Loop;

#[derive(Parser)]
struct Arguments {
    /// Also write the figures to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only this part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// What cargo itself passes
    #[arg(long, hide = true)]
    bench: bool,
    /// What this program is, where it has started itself
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// Of the role put-loop
    #[arg(long = "loop", hide = true, default_value = "sdk")]
    which: Loop,
    /// Of the role put-loop
    #[arg(long, hide = true, default_value = "30000")]
    rows: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Framing and filter
    ReadPath,
    /// The worker on a firehose, and what its allocator costs
    MainJob,
    /// The whole worker beside bare loops that put the same rows
    WritePath,
    /// From the start to the first row
    Start,
    /// Resident memory
    Memory,
    /// What measuring costs
    Metrics,
    /// The worker beside its forerunner in Python
    Python,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    NullDynamodb,
    PutLoop,
}

/// The numbers at the top of the JSON, and the parts that they come from. Each is the ratio of a figure
/// whose name says of what to what, or a measured value whose name says its unit.
const KEYS: [(&str, Part); 11] = [
    ("worker_cpu_per_row_vs_sdk_loop", Part::WritePath),
    ("worker_rows_per_second_vs_sdk_loop", Part::WritePath),
    ("worker_rows_per_second_vs_python", Part::Python),
    ("python_cpu_per_row_vs_worker", Part::Python),
    ("first_row_ms_http", Part::Start),
    ("first_row_ms_tls", Part::Start),
    ("first_row_python_vs_worker", Part::Python),
    ("firehose_us_per_post", Part::MainJob),
    // The rate of framing and filter, of that of a bare search for line ends: more is faster, 1 is a filter
    // that costs nothing.
    ("filter_rate_vs_line_split", Part::ReadPath),
    ("rss_bytes_steady", Part::Memory),
    ("metrics_cpu_vs_worker", Part::Metrics),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::NullDynamodb) => return null_dynamodb::serve(),
        Some(Role::PutLoop) => {
            println!("{}", put_loop::run(arguments.which, arguments.rows)?);
            return Ok(());
        }
        None => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut figures = Vec::new();
    let mut python_skipped = None;
    if wanted(Part::ReadPath) {
        figures.extend(read_path::framing_and_filter()?);
    }
    if wanted(Part::MainJob) {
        figures.push(runtime.block_on(main_job::firehose())?);
        figures.push(runtime.block_on(main_job::allocator())?);
    }
    if wanted(Part::WritePath) {
        figures.extend(runtime.block_on(write_path::rows())?);
    }
    if wanted(Part::Start) {
        figures.extend(runtime.block_on(start::first_row())?);
    }
    if wanted(Part::Memory) {
        figures.push(runtime.block_on(memory::steady())?);
    }
    if wanted(Part::Metrics) {
        figures.push(runtime.block_on(metrics::cost())?);
    }
    if wanted(Part::Python) {
        match runtime.block_on(python::forerunner())? {
            Ok(beside_python) => figures.extend(beside_python),
            Err(why) => {
                println!("Python is skipped: {why}");
                python_skipped = Some(why);
            }
        }
    } else {
        python_skipped = Some(NOT_ASKED_FOR.to_owned());
    }
    println!("{}", figure::table(&figures));
    if let Some(path) = arguments.json {
        let report = report(&figures, python_skipped.as_deref());
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

const NOT_ASKED_FOR: &str = "not asked for: --only names another part";

/// The JSON: each number of [`KEYS`], or null and, under `skipped`, why; and all figures.
fn report(figures: &[Figure], python_skipped: Option<&str>) -> Value {
    let mut report = Map::new();
    let mut skipped = Map::new();
    for (key, part) in KEYS {
        let mut numbers = figures.iter().filter_map(|figure| figure.key);
        let number = numbers.find(|(name, _)| *name == key).map(|(_, number)| number);
        if number.is_none() {
            let why = python_skipped.filter(|_| part == Part::Python).unwrap_or(NOT_ASKED_FOR);
            skipped.insert(key.to_owned(), json!(why));
        }
        report.insert(key.to_owned(), json!(number));
    }
    report.insert("python_skipped".to_owned(), json!(python_skipped));
    report.insert("skipped".to_owned(), Value::Object(skipped));
    report.insert("figures".to_owned(), json!(figures));
    Value::Object(report)
}
