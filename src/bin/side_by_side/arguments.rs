//! What `cargo demo` is asked for.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use twitterstream::demo::key_rotation::Order;
use twitterstream::demo::trouble::Troubles;
use twitterstream::feed::Dialect;

/// Runs both models side by side, each on a local AWS and a local feed of its own, until Ctrl-C: the
/// worker that fetches its secrets itself, and the same with secrets that ECS has injected.
///
/// The servers start in this process, on loopback. Each worker starts as a process of its own, as a
/// Fargate task would: with the variables of its task definition, a credentials endpoint for its task
/// role, and nothing else. A start of a task takes as long as on Fargate; that is simulated.
///
/// With --posts, --feed, --rotate-every or --dialect the embedded worker runs alone: the main job.
#[derive(Parser)]
#[command(name = "cargo demo", version)]
#[command(group(ArgGroup::new("with a report").multiple(true).args([
    "once", "dialect", "posts", "feed", "rotate_every", "scan", "trouble", "kills", "soak", "review",
])))]
pub struct Arguments {
    /// Go through the whole course of events unattended, in less than two minutes, and write report.html and
    /// report.json
    #[arg(long, conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan", "trouble", "kills"])]
    pub once: bool,
    /// What a start of a task is simulated to take on Fargate [default: 57s, as published; 5s with --once]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub fargate_start: Option<Duration>,
    /// Where --once writes its reports
    #[arg(long, value_name = "DIR", default_value = "target/demo", requires = "once")]
    pub out: PathBuf,
    /// Main job: what the worker and the feed speak, x-v2 or twitter-v1.1 [default: twitter-v1.1]
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub dialect: Option<Dialect>,
    /// Main job: end by itself after N posts, sent as fast as they are read. In x-v2 only those are sent that match
    #[arg(long, value_name = "N")]
    pub posts: Option<u64>,
    /// Main job: replay recorded posts of the dialect (JSON lines, or v1.1's search-API object) instead of
    /// generated ones
    #[arg(long, value_name = "FILE")]
    pub feed: Option<PathBuf>,
    /// Also write the report to FILE, as JSON; with --once instead of report.json. The live demo has none
    #[arg(long, value_name = "FILE", requires = "with a report")]
    pub json: Option<PathBuf>,
    /// Posts a second [default: 75 on each side; main job: 200, 500 with --rotate-every; 1000 with --trouble or --kills; 100 with --soak; no limit with --posts]
    #[arg(long, value_name = "N", env = "DEMO_RATE")]
    pub rate: Option<NonZeroU32>,
    /// The share of generated posts that match the filter, from 0 to 1
    #[arg(long, value_name = "SHARE", env = "DEMO_MATCHING", default_value = "0.2")]
    pub matching: f64,
    /// Main job: rotate all four secrets again and again, so long after the worker uses the last new keys
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub rotate_every: Option<Duration>,
    /// End after N rotations
    #[arg(long, value_name = "N", requires = "rotate_every")]
    pub rotations: Option<u64>,
    /// service-first (the harsh case: the old keys end and their streams are cut before the labels
    /// move), labels-first, or overlap (both keys are accepted for a while)
    #[arg(long, value_name = "ORDER", default_value = "service-first")]
    pub order: Order,
    /// How the worker learns of a rotation: event (a queue), poll (every second), or refusal (neither: the feed refuses the old keys)
    #[arg(long, value_name = "HOW", default_value = "event")]
    pub learn_by: LearnBy,
    /// Instead: count the copies of each credential in the worker's memory, at each moment of its life,
    /// in both dialects, over plain HTTP and TLS, and without the wiping allocator. It takes root or `CAP_SYS_PTRACE`
    #[arg(long, conflicts_with_all = ["dialect", "posts", "feed", "rotate_every"])]
    pub scan: bool,
    /// Instead: run the worker through trouble with `DynamoDB`, each in a world of its own: outage, hang,
    /// throttling, resets, lost-answers, latency, errors, denied, gone, or all
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan"])]
    pub trouble: Option<Troubles>,
    /// How long the trouble lasts [default: 10m for outage, 1m for the others]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, requires = "trouble")]
    pub length: Option<Duration>,
    /// Instead: kill N workers with SIGKILL, one after the other on one disk, while `DynamoDB` is in trouble
    #[arg(long, value_name = "N", conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan", "trouble"])]
    pub kills: Option<u64>,
    /// Instead: so many minutes of trouble after trouble, drawn from --seed: streams that end, rotations, torn
    /// ones, a table and a Secrets Manager that fail, clocks that jump
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan", "trouble", "kills", "once"])]
    pub soak: Option<NonZeroU32>,
    /// Instead: attack both models, and print the security review with what was found. It takes root for all of it
    #[arg(long, conflicts_with_all = ["dialect", "posts", "feed", "rotate_every", "scan", "trouble", "kills", "once", "soak"])]
    pub review: bool,
    /// What the generated posts, keys and troubles are drawn from
    #[arg(long, value_name = "N", env = "DEMO_SEED", default_value = "1")]
    pub seed: u64,
}

impl Arguments {
    /// Whether the embedded worker runs alone.
    pub fn is_main_job(&self) -> bool {
        self.posts.is_some()
            || self.feed.is_some()
            || self.rotate_every.is_some()
            || self.dialect.is_some()
    }
}

/// How the worker learns of a rotation.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LearnBy {
    Event,
    Poll,
    Refusal,
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let names = Dialect::ALL.map(Dialect::name).join(" or ");
    Dialect::named(name).ok_or(names)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn json_is_refused_where_there_is_no_report() {
        Arguments::command().debug_assert();
        let parsed = |words: &[&str]| {
            let all = ["demo", "--json", "x.json"].iter().chain(words);
            Arguments::try_parse_from(all).map(drop).map_err(|error| error.kind())
        };
        for live in [&[][..], &["--rate", "9"], &["--fargate-start", "1s"]] {
            assert_eq!(parsed(live), Err(ErrorKind::MissingRequiredArgument), "{live:?}");
        }
        for words in [
            &["--once"][..],
            &["--posts", "1"],
            &["--dialect", "x-v2"],
            &["--feed", "x"],
            &["--rotate-every", "1s"],
            &["--scan"],
            &["--trouble", "all"],
            &["--kills", "1"],
            &["--soak", "1"],
            &["--review"],
        ] {
            assert_eq!(parsed(words), Ok(()), "{words:?}");
        }
    }
}
