//! The local world with a DynamoDB that keeps nothing: where whole programs are measured.

use std::error::Error;
use std::num::NonZeroU32;
use std::path::Path;

use tokio::process::Command;
use twitterstream::clock;
use twitterstream::demo::ecs_agent::Task;
use twitterstream::demo::feed_server::{Account, Options, Scheme, Source};
use twitterstream::demo::tls_front::{Authority, TlsFront};
use twitterstream::demo::world::{SECRETS, World, keys_of};
use twitterstream::feed::Dialect;

use crate::main_job::WORKER;
use crate::null_dynamodb::NullDynamoDb;
use crate::process::Process;

/// What the feed sends: posts that all match.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many, as fast as they are read.
    Posts(u32),
    /// So many a second, without end.
    Rate(u32),
}

pub struct Lab {
    world: World,
    pub null: NullDynamoDb,
    account: Account,
    tls: Option<Tls>,
}

struct Tls {
    authority: Authority,
    aws: TlsFront,
    dynamodb: TlsFront,
    feed: TlsFront,
}

/// What a program did with so many rows.
pub struct Run {
    pub rows_per_second: f64,
    pub cpu_seconds_per_row: f64,
}

impl Lab {
    pub async fn start(pace: Pace, scheme: Scheme) -> Result<Self, Box<dyn Error>> {
        let account = Account::generated(&mut fastrand::Rng::with_seed(1));
        let source = Source::Generated { seed: 1, track: "Amazon".to_owned(), matching: 1.0 };
        let mut options = Options::new(vec![account.clone()], source, clock::system());
        options.keep_rows = false;
        options.scheme = scheme;
        match pace {
            Pace::Posts(posts) => options.limit = Some(posts.into()),
            Pace::Rate(rate) => options.rate = NonZeroU32::new(rate),
        }
        let world =
            World::start(Path::new(env!("CARGO_MANIFEST_DIR")), clock::system(), options).await?;
        let null = NullDynamoDb::start().await?;
        let tls = match scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let authority = Authority::new()?;
                Some(Tls {
                    aws: TlsFront::start(&authority, world.aws.address()).await?,
                    dynamodb: TlsFront::start(&authority, null.address).await?,
                    feed: TlsFront::start(&authority, world.feed.address()).await?,
                    authority,
                })
            }
        };
        Ok(Self { world, null, account, tls })
    }

    /// A program with a task's environment, that of the shipped task definition, and these variables.
    pub fn task(
        &self,
        program: &Path,
        variables: &[(&str, String)],
    ) -> Result<Command, Box<dyn Error>> {
        let endpoint = ("AWS_ENDPOINT_URL_DYNAMODB", self.null.endpoint());
        let variables: Vec<_> = [&endpoint]
            .into_iter()
            .chain(variables)
            .map(|(name, value)| (*name, &**value))
            .collect();
        Ok(Task::command(&self.world.task_definition, program, &variables, &self.world.aws)?)
    }

    /// The worker.
    pub fn worker(&self) -> Result<Command, Box<dyn Error>> {
        let mut variables = Vec::from(self.world.feed_variables(Dialect::TwitterV1_1));
        if let Some(Tls { authority, aws, dynamodb, feed }) = &self.tls {
            let path = self.world.feed.path();
            variables.extend([
                ("AWS_ENDPOINT_URL", format!("https://{}", aws.authority())),
                ("AWS_ENDPOINT_URL_DYNAMODB", format!("https://{}", dynamodb.authority())),
                ("FEED_URL", format!("https://{}{path}", feed.authority())),
                ("SSL_CERT_FILE", authority.bundle().display().to_string()),
            ]);
        }
        self.task(Path::new(WORKER), &variables)
    }

    /// What the worker's forerunner gets: the keys themselves, and the feed's host.
    pub fn forerunner(&self, python: &Path) -> Result<Command, Box<dyn Error>> {
        let mut variables: Vec<_> = SECRETS.into_iter().zip(keys_of(&self.account)).collect();
        variables.push(("FEED_HOST", self.world.feed.address().to_string()));
        self.task(python, &variables)
    }

    /// Runs a program until it has put so many rows. It is measured from the first to the last.
    pub async fn rows(&mut self, command: Command, rows: u32) -> Result<Run, Box<dyn Error>> {
        self.null.expect(rows).await?;
        let mut process = Process::start(command)?;
        let first = process.until(self.null.seen()).await?;
        let before = process.usage()?;
        let last = process.until(self.null.seen()).await?;
        let cpu_seconds = process.usage()?.cpu_seconds - before.cpu_seconds;
        process.end().await?;
        let rows = f64::from(rows - 1);
        Ok(Run { rows_per_second: rows / (last - first), cpu_seconds_per_row: cpu_seconds / rows })
    }

    /// How many seconds a program takes from its start to its first row.
    pub async fn first_row(&mut self, command: Command) -> Result<f64, Box<dyn Error>> {
        self.null.expect(1).await?;
        let mut process = Process::start(command)?;
        let first = process.until(self.null.seen()).await?;
        let seconds = first - process.started;
        process.end().await?;
        Ok(seconds)
    }
}
