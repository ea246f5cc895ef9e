//! The figures that this project promises, each measured beside what it is compared with, in the same
//! run: `cargo bench --features demo [-- --json FILE]`.
//!
//! Only the ratios mean anything. Every figure is the median of several rounds in which the sides take
//! turns. A module measures one part of the worker; each of its functions is a figure, or a few that
//! come from the same rounds.
#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

mod figure;
mod main_job;
mod read_path;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// Also write the figures to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the part of this name: `read-path` or `main-job`
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// What cargo itself passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted = |part| arguments.only.as_deref().is_none_or(|only| only == part);
    let mut figures = Vec::new();
    if wanted("read-path") {
        figures.extend(read_path::framing_and_filter()?);
    }
    if wanted("main-job") {
        figures.push(runtime.block_on(main_job::firehose())?);
        figures.push(runtime.block_on(main_job::allocator())?);
    }
    println!("{}", figure::table(&figures));
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}
