//! `cargo demo`: the worker's main job on an embedded local AWS and a local feed.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use twitterstream::clock;
use twitterstream::demo::copies::{self, Transport};
use twitterstream::demo::feed_server::replay::Recording;
use twitterstream::demo::feed_server::{Account, Options, Source};
use twitterstream::demo::key_rotation::{KeyRotation, Order};
use twitterstream::demo::kills;
use twitterstream::demo::main_job::{self, Job, Progress, Rotations, Until};
use twitterstream::demo::trouble::{self, Trouble, Troubles};
use twitterstream::demo::world::World;
use twitterstream::feed::Dialect;
use twitterstream::telemetry::chain;

/// Runs the worker on an embedded local AWS and a local feed.
///
/// Both servers start in this process, on loopback. The worker starts as a process of its own, as
/// a Fargate task would: with the variables of task-definition/embedded.json and a credentials
/// endpoint for its task role, and nothing else. Ctrl-C ends it.
#[derive(Parser)]
#[command(name = "cargo demo", version)]
struct Arguments {
    /// What the worker and the feed speak: x-v2 or twitter-v1.1
    #[arg(long, value_name = "DIALECT", default_value = "twitter-v1.1", value_parser = dialect)]
    dialect: Dialect,
    /// End by itself after N posts, sent as fast as they are read. In x-v2 only those are sent that match
    #[arg(long, value_name = "N")]
    posts: Option<u64>,
    /// Replay recorded posts of the dialect (JSON lines, or v1.1's search-API object) instead of
    /// generated ones
    #[arg(long, value_name = "FILE")]
    feed: Option<PathBuf>,
    /// Also write the report to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Posts a second [default: 200; 500 with --rotate-every; 1000 with --trouble or --kills; no limit with --posts]
    #[arg(long, value_name = "N", env = "DEMO_RATE")]
    rate: Option<NonZeroU32>,
    /// The share of generated posts that match the filter, from 0 to 1
    #[arg(long, value_name = "SHARE", env = "DEMO_MATCHING", default_value = "0.2")]
    matching: f64,
    /// Rotate all four secrets again and again, so long after the worker uses the last new keys
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    rotate_every: Option<Duration>,
    /// End after N rotations
    #[arg(long, value_name = "N", requires = "rotate_every")]
    rotations: Option<u64>,
    /// service-first (the harsh case: the old keys end and their streams are cut before the labels
    /// move), labels-first, or overlap (both keys are accepted for a while)
    #[arg(long, value_name = "ORDER", default_value = "service-first")]
    order: Order,
    /// How the worker learns of a rotation: event (a queue), poll (every second), or neither
    #[arg(long, value_name = "HOW", default_value = "event")]
    learn_by: LearnBy,
    /// Instead: count the copies of each credential in the worker's memory, at each moment of its life,
    /// in both dialects, over plain HTTP and TLS, and without the wiping allocator. It takes root or `CAP_SYS_PTRACE`
    #[arg(long, conflicts_with_all = ["dialect", "posts", "feed", "rotate_every"])]
    scan: bool,
    /// Instead: run the worker through trouble with `DynamoDB`, each in a world of its own: outage, hang,
    /// throttling, resets, lost-answers, latency, errors, denied, gone, or all
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan"])]
    trouble: Option<Troubles>,
    /// How long the trouble lasts [default: 10m for outage, 1m for the others]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, requires = "trouble")]
    length: Option<Duration>,
    /// Instead: kill N workers with SIGKILL, one after the other on one disk, while `DynamoDB` is in trouble
    #[arg(long, value_name = "N", conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan", "trouble"])]
    kills: Option<u64>,
    /// What the generated posts and keys are drawn from
    #[arg(long, value_name = "N", env = "DEMO_SEED", default_value = "1")]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LearnBy {
    Event,
    Poll,
    Refusal,
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let names = Dialect::ALL.map(Dialect::name).join(" or ");
    Dialect::named(name).ok_or(names)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let (ran, complaint) = if arguments.scan {
        (
            runtime.block_on(unless_interrupted(scan(&arguments))),
            "There are copies that should not be; see above.",
        )
    } else if let Some(Troubles(troubles)) = &arguments.trouble {
        let work = unless_interrupted(trouble(&arguments, troubles));
        (runtime.block_on(work), "Rows were lost or changed; see above.")
    } else if let Some(kills) = arguments.kills {
        let work = unless_interrupted(kill(&arguments, kills));
        (runtime.block_on(work), "Rows were lost or changed; see above.")
    } else {
        let complaint = "The table does not hold just what it should; see the figures above.";
        (runtime.block_on(demo(&arguments)), complaint)
    };
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            say(complaint);
            ExitCode::FAILURE
        }
        Err(error) => failed(&*error),
    }
}

/// Ctrl-C is not for the worker, which is in a group of its own: it ends with what is dropped here.
async fn unless_interrupted(
    work: impl Future<Output = Result<bool, Box<dyn std::error::Error>>>,
) -> Result<bool, Box<dyn std::error::Error>> {
    let interrupted = interrupted()?;
    tokio::select! {
        ran = work => ran,
        () = interrupted => Err("interrupted".into()),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let _ = writeln!(io::stderr(), "cargo demo: {}", chain(error));
    ExitCode::FAILURE
}

/// Standard output may be closed early, as by `head`; that is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn demo(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [program] = built(root, ["twitterstream"])?;

    let recording = arguments.feed.as_deref().map(Recording::read).transpose()?;
    let recorded = recording.as_ref().map(|recording| recording.posts() as u64);
    let source = match recording {
        Some(recording) => Source::Replay(recording),
        None => Source::Generated {
            seed: arguments.seed,
            track: "Amazon".to_owned(),
            matching: arguments.matching,
        },
    };
    // A recording ends by itself, too.
    let posts = match (arguments.posts, recorded) {
        (Some(posts), Some(recorded)) => Some(posts.min(recorded)),
        (posts, recorded) => posts.or(recorded),
    };
    let clock = clock::system();
    let account = Account::generated(&mut fastrand::Rng::with_seed(arguments.seed));
    let keys = KeyRotation::new(account.clone(), fastrand::Rng::with_seed(!arguments.seed));
    let mut options = Options::new(vec![account], source, clock.clone());
    options.limit = posts;
    options.rate = match arguments.rate {
        // Rotations need a stream that lasts.
        None if arguments.rotate_every.is_some() => NonZeroU32::new(500),
        None if posts.is_none() => NonZeroU32::new(200),
        rate => rate,
    };
    let world = World::start(root, clock, options).await?;
    say(&format!("Local AWS   {} (account {})", world.aws.endpoint_url(), world.aws.account_id()));
    let [(_, feed), (_, feed_url)] = world.feed_variables(arguments.dialect);
    say(&format!("Local feed  {feed_url} ({feed})"));
    say(&format!("Worker      {}", program.display()));
    say(match posts {
        Some(_) => "",
        None => "Ctrl-C ends it.\n",
    });

    let until = posts.map_or(Until::Stopped, Until::Posts);
    let mut display = Display::default();
    let queue_url = world.add_rotation_queue().await?;
    let mut variables = vec![match arguments.learn_by {
        LearnBy::Event => ("ROTATION_QUEUE_URL", &*queue_url),
        LearnBy::Poll => ("ROTATION_POLL", "1s"),
        LearnBy::Refusal => ("ROTATION_POLL", "1h"),
    }];
    if arguments.dialect == Dialect::XV2 && arguments.rotate_every.is_some() {
        // Its default is X's figure. Nobody rotates that often there.
        variables.push(("CONNECT_BUDGET", "1000"));
        say("CONNECT_BUDGET is 1000 in 15 minutes, because each rotation ends a stream.\n");
    }
    let (order, limit) = (arguments.order, arguments.rotations);
    let rotations = arguments.rotate_every.map(|every| Rotations { keys, every, order, limit });
    let show = |progress: &Progress| display.show(progress);
    let stop = interrupted()?;
    let (program, dialect, variables) = (&*program, arguments.dialect, &*variables);
    let job = Job { program, dialect, variables, until, rotations };
    let report = main_job::run(&world, job, stop, show).await?;
    display.end();
    say(&report.to_string());
    write_json(arguments, &report)?;
    let complete = arguments.rotations.is_some_and(|rotations| report.rotations >= rotations)
        || posts.is_some_and(|posts| report.posts_sent >= posts);
    Ok(report.is_right(complete))
}

/// Counts copies. Whether there are just as many as there should be.
async fn scan(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
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

/// Runs the worker through troubles. Whether no row was lost in any.
async fn trouble(
    arguments: &Arguments,
    troubles: &[Trouble],
) -> Result<bool, Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [program] = built(root, ["twitterstream"])?;
    let mut reports = Vec::new();
    for trouble in troubles {
        let settings = trouble::Settings {
            root,
            program: &program,
            trouble: *trouble,
            length: arguments.length.unwrap_or_else(|| trouble.usual_length()),
            rate: arguments.rate.unwrap_or(RATE),
            seed: arguments.seed,
            clock: clock::system(),
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
async fn kill(arguments: &Arguments, kills: u64) -> Result<bool, Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [program] = built(root, ["twitterstream"])?;
    let (rate, seed) = (arguments.rate.unwrap_or(RATE), arguments.seed);
    let settings =
        kills::Settings { root, program: &program, kills, rate, seed, clock: clock::system() };
    let report = kills::run(&settings, |kill| say(&kill.to_string())).await?;
    say(&format!("\n{report}"));
    write_json(arguments, &report)?;
    Ok(report.is_right())
}

fn write_json(
    arguments: &Arguments,
    report: &impl serde::Serialize,
) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(report)?;
        std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Binaries built in the folder and with the features of this one, so that everything but the last
/// step is done already.
fn built<const N: usize>(
    root: &Path,
    names: [&str; N],
) -> Result<[PathBuf; N], Box<dyn std::error::Error>> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("this program is in no folder")?;
    let programs = names.map(|name| folder.join(name));
    // Cargo says where it is to what it runs. Without it, what stands beside this program is used.
    let Some(cargo) = std::env::var_os("CARGO") else {
        return match programs.iter().find(|program| !program.exists()) {
            None => Ok(programs),
            Some(missing) => {
                Err(format!("{} is not there; use cargo demo", missing.display()).into())
            }
        };
    };
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["build", "--features", "demo"]);
    build.args(names.iter().flat_map(|name| ["--bin", name]));
    build.arg("--target-dir").arg(folder.parent().ok_or("this program is in no target folder")?);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    if build.status()?.success() { Ok(programs) } else { Err("the worker was not built".into()) }
}

fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The progress line: rewritten in place at a terminal, else a line every five seconds.
struct Line {
    terminal: bool,
    shown: Option<Instant>,
}

impl Default for Line {
    fn default() -> Self {
        Self { terminal: io::stdout().is_terminal(), shown: None }
    }
}

impl Line {
    fn show(&mut self, line: impl FnOnce() -> String) {
        let period =
            if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        if self.shown.is_some_and(|shown| shown.elapsed() < period) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line();
        let _ = if self.terminal {
            write!(io::stdout(), "\r\u{1b}[K{line}").and_then(|()| io::stdout().flush())
        } else {
            writeln!(io::stdout(), "{line}")
        };
    }

    fn end(&self) {
        say(if self.terminal { "\n" } else { "" });
    }
}

/// The progress of the main job.
#[derive(Default)]
struct Display {
    line: Line,
    before: Progress,
    rate: f64,
}

impl Display {
    fn show(&mut self, progress: &Progress) {
        let Self { line, before, rate } = self;
        line.show(|| {
            let seconds = progress.seconds - before.seconds;
            if seconds > 0.0 {
                let rows = progress.rows_written - before.rows_written;
                // A count of rows in a fifth of a second fits.
                *rate = f64::from(u32::try_from(rows).unwrap_or(u32::MAX)) / seconds;
            }
            *before = *progress;
            format!(
                "{:6.1} s   rotations {:>4}   sent {:>8}   read {:>8}   matched {:>7}   written {:>7}   {:>6.0} rows/s",
                progress.seconds,
                progress.rotations,
                progress.posts_sent,
                progress.posts_read,
                progress.posts_matched,
                progress.rows_written,
                rate,
            )
        });
    }

    fn end(&self) {
        self.line.end();
    }
}
