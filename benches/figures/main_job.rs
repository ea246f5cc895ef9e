//! The whole worker as a process of its own, in the local world.

use std::error::Error;
use std::future::pending;
use std::path::Path;

use twitterstream::clock;
use twitterstream::demo::feed_server::{Account, Options, Source};
use twitterstream::demo::main_job::{self, Job, Until};
use twitterstream::demo::report::Report;
use twitterstream::demo::world::World;
use twitterstream::feed::Dialect;

use crate::figure::{Figure, Goal, median, progress};
use crate::read_path;

/// The production worker, and the same without its wiping allocator.
pub const WORKER: &str = env!("CARGO_BIN_EXE_twitterstream");
const UNWIPED: &str = env!("CARGO_BIN_EXE_unwiped");

/// How often each side has its turn.
const ROUNDS: usize = 5;

/// The whole worker on so many posts, as fast as it reads.
async fn main_job(program: &str, posts: u64, matching: f64) -> Result<Report, Box<dyn Error>> {
    let account = Account::generated(&mut fastrand::Rng::with_seed(1));
    let source = Source::Generated { seed: 1, track: "Amazon".to_owned(), matching };
    let mut options = Options::new(vec![account], source, clock::system());
    options.limit = Some(posts);
    let world =
        World::start(Path::new(env!("CARGO_MANIFEST_DIR")), clock::system(), options).await?;
    let (program, until) = (Path::new(program), Until::Posts(posts));
    let dialect = Dialect::TwitterV1_1;
    let job = Job { program, dialect, variables: &[], until, rotations: None };
    let report = main_job::run(&world, job, pending(), |_| {}).await?;
    if report.is_right(true) { Ok(report) } else { Err(format!("not right:\n{report}").into()) }
}

/// A firehose, of which the worker wants one post in a hundred. `WORKER` names another worker to measure.
pub async fn firehose() -> Result<Figure, Box<dyn Error>> {
    const POSTS: u32 = 200_000;
    let program = std::env::var("WORKER");
    let program = program.as_deref().unwrap_or(WORKER);
    let (mut whole, mut alone) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        progress(&format!("main-job, firehose, round {round} of {ROUNDS}"));
        let report = main_job(program, POSTS.into(), 0.01).await?;
        whole.push(report.cpu_seconds * 1e6 / f64::from(POSTS));
        alone.push(read_path::once()? * 1e6);
    }
    Ok(Figure::new(
        ("the whole worker, 1 % matching", "µs a post"),
        median(whole),
        ("its framing and filter", median(alone)),
        None,
    )
    .measured_as("firehose_us_per_post"))
}

/// What wiping every block that is freed costs a run.
pub async fn allocator() -> Result<Figure, Box<dyn Error>> {
    let (mut wiping, mut plain) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        progress(&format!("main-job, allocator, round {round} of {ROUNDS}"));
        wiping.push(main_job(WORKER, 50_000, 0.2).await?.cpu_seconds);
        plain.push(main_job(UNWIPED, 50_000, 0.2).await?.cpu_seconds);
    }
    Ok(Figure::new(
        ("CPU of 50,000 posts, 10,000 rows", "ms"),
        median(wiping) * 1e3,
        ("without the wiping allocator", median(plain) * 1e3),
        Some(Goal::RatioUpTo(1.05)),
    ))
}
