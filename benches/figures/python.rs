//! The worker beside its forerunner, `forerunner.py`: the same feed, the same DynamoDB. The Python it needs is
//! made ready in the target folder; where that fails there is a reason instead of figures.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;
use twitterstream::demo::feed_server::Scheme;

use crate::figure::{Figure, Goal, median, progress};
use crate::lab::{Lab, Pace, Run};
use crate::start;

/// So many rows of each side are one measurement.
const ROWS: [u32; 2] = [10_000, 300];
const ROUNDS: usize = 5;
const STARTS: usize = 7;

/// tweepy 3.10 imports imghdr, which Python 3.13 no longer has; boto3 needs 3.10.
const PYTHONS: [&str; 4] = ["python3.12", "python3.11", "python3.10", "python3"];
const IS_SUITABLE: &str = "import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))";

/// Beside these sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/figures");

/// The figures, or why there are none.
pub async fn forerunner() -> Result<Result<Vec<Figure>, String>, Box<dyn Error>> {
    let python = match environment().await {
        Ok(python) => python,
        Err(why) => return Ok(Err(why.to_string())),
    };
    // A first run compiles the libraries.
    progress("python, once in advance");
    first_row(&python).await?;

    let (mut worker, mut forerunner): (Vec<Run>, Vec<Run>) = Default::default();
    for round in 1..=ROUNDS {
        progress(&format!("python, rows, round {round} of {ROUNDS}"));
        let [rows, rows_python] = ROWS;
        let mut lab = Lab::start(Pace::Posts(rows), Scheme::Http).await?;
        let command = lab.worker()?;
        worker.push(lab.rows(command, rows).await?);
        let mut lab = Lab::start(Pace::Posts(rows_python), Scheme::Http).await?;
        let command = command_of(&lab, &python)?;
        forerunner.push(lab.rows(command, rows_python).await?);
    }
    let (mut worker_starts, mut starts) = (Vec::new(), Vec::new());
    for round in 1..=STARTS {
        progress(&format!("python, start, round {round} of {STARTS}"));
        worker_starts.push(start::once(Scheme::Http).await? * 1e3);
        starts.push(first_row(&python).await? * 1e3);
    }
    let cpu = |runs: &[Run]| median(runs.iter().map(|run| run.cpu_seconds_per_row * 1e6).collect());
    let rate = |runs: &[Run]| median(runs.iter().map(|run| run.rows_per_second).collect());
    Ok(Ok(vec![
        Figure::new(
            ("rows a second, whole worker", "rows/s"),
            rate(&worker),
            ("its forerunner in Python", rate(&forerunner)),
            Some(Goal::RatioFrom(60.0)),
        )
        .ratio_as("worker_rows_per_second_vs_python"),
        Figure::new(
            ("CPU of a row, forerunner in Python", "µs"),
            cpu(&forerunner),
            ("whole worker", cpu(&worker)),
            Some(Goal::RatioFrom(60.0)),
        )
        .ratio_as("python_cpu_per_row_vs_worker"),
        Figure::new(
            ("first row after the start, Python", "ms"),
            median(starts),
            ("whole worker", median(worker_starts)),
            Some(Goal::RatioFrom(8.0)),
        )
        .ratio_as("first_row_python_vs_worker"),
    ]))
}

fn command_of(lab: &Lab, python: &Path) -> Result<Command, Box<dyn Error>> {
    let mut command = lab.forerunner(python)?;
    command.arg("-u").arg(Path::new(SOURCES).join("forerunner.py"));
    Ok(command)
}

async fn first_row(python: &Path) -> Result<f64, Box<dyn Error>> {
    let mut lab = Lab::start(Pace::Rate(start::RATE), Scheme::Http).await?;
    let command = command_of(&lab, python)?;
    lab.first_row(command).await
}

/// The Python of an environment with the pinned libraries, made where there is none.
async fn environment() -> Result<PathBuf, Box<dyn Error>> {
    let requirements = Path::new(SOURCES).join("requirements.txt");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forerunner");
    let python = home.join("bin/python");
    // Written when all is installed.
    let installed = home.join("installed.txt");
    let wanted = std::fs::read(&requirements)?;
    if std::fs::read(&installed).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    progress("python, the environment is being made");
    let system = suitable().await.ok_or("there is no Python 3.10, 3.11 or 3.12 with venv")?;
    done(&Command::new(system).args(["-m", "venv", "--clear"]).arg(&home).output().await?)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements);
    done(&install.output().await?)?;
    std::fs::write(installed, wanted)?;
    Ok(python)
}

/// A name may be there and the Python behind it not: it is asked.
async fn suitable() -> Option<&'static str> {
    for name in PYTHONS {
        let asked = Command::new(name).args(["-c", IS_SUITABLE]).output().await;
        if asked.is_ok_and(|output| output.status.success()) {
            return Some(name);
        }
    }
    None
}

fn done(output: &Output) -> Result<(), Box<dyn Error>> {
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(format!("the forerunner's libraries were not installed: {last}").into())
}
