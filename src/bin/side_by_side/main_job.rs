//! The worker's main job, with rotations if they are asked for.

use std::num::NonZeroU32;

use twitterstream::clock;
use twitterstream::demo::feed_server::replay::Recording;
use twitterstream::demo::feed_server::{Account, Options, Source};
use twitterstream::demo::key_rotation::KeyRotation;
use twitterstream::demo::main_job::{self, Job, Progress, Rotations, Until};
use twitterstream::demo::world::World;
use twitterstream::feed::Dialect;

use crate::arguments::{Arguments, LearnBy};
use crate::programs::{built, root};
use crate::terminal::{Line, say};
use crate::{interrupted, write_json};

/// Runs it. Whether the table holds just what it should.
pub async fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let root = root();
    let dialect = arguments.dialect.unwrap_or(Dialect::TwitterV1_1);
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
    let [(_, feed), (_, feed_url)] = world.feed_variables(dialect);
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
    if dialect == Dialect::XV2 && arguments.rotate_every.is_some() {
        // Its default is X's figure. Nobody rotates that often there.
        variables.push(("CONNECT_BUDGET", "1000"));
        say("CONNECT_BUDGET is 1000 in 15 minutes, because each rotation ends a stream.\n");
    }
    let (order, limit) = (arguments.order, arguments.rotations);
    let rotations = arguments.rotate_every.map(|every| Rotations { keys, every, order, limit });
    let show = |progress: &Progress| display.show(progress);
    let stop = interrupted()?;
    let (program, variables) = (&*program, &*variables);
    let job = Job { program, dialect, variables, until, rotations };
    let report = main_job::run(&world, job, stop, show).await?;
    display.end();
    say(&report.to_string());
    write_json(arguments, &report)?;
    let complete = arguments.rotations.is_some_and(|rotations| report.rotations >= rotations)
        || posts.is_some_and(|posts| report.posts_sent >= posts);
    Ok(report.is_right(complete))
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
