//! The environment, read once: every variable is checked and every fault reported together.
//!
//! No variable holds a secret, and those that would are refused. But an operator may put one into
//! the wrong variable. So a fault names the variable and what was expected there, and never repeats
//! the value.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

use crate::credentials::{Credential, Reference};
use crate::feed::x_v2::StreamOptions;
use crate::feed::{Dialect, read_budget};
use crate::filter::Filter;
use crate::metrics;
use crate::telemetry::LogFormat;

/// Where variables come from: the process environment, or a map in a test.
pub trait Environment {
    /// The value of `name`; `None` where it is not set, `Some(Err)` where it is not Unicode.
    fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>>;
}

/// The value of a variable is not valid Unicode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnicode;

impl<const N: usize> Environment for [(&str, &str); N] {
    fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>> {
        self.as_slice().variable(name)
    }
}

impl Environment for [(&str, &str)] {
    fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>> {
        self.iter().find(|(key, _)| *key == name).map(|(_, value)| Ok((*value).to_owned()))
    }
}

/// What to do when the process cannot be hardened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardening {
    /// Say so in one warning, and run on.
    BestEffort,
    /// Do not start.
    Required,
}

/// Where rows wait on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// `SPOOL_DIR`.
    pub folder: PathBuf,
    /// `SPOOL_BYTES`: how much of it they may take.
    pub bytes: u64,
}

/// Everything the worker was told, checked.
#[derive(Debug)]
pub struct Config {
    /// The DynamoDB table: `DYNAMODBTABLE`.
    pub table: String,
    /// `AWSREGION`; where it is not set, the SDK's own region chain decides.
    pub region: Option<String>,
    /// The track phrases: `FILTER`.
    pub filter: Filter,
    /// Where each credential that the dialect needs is kept.
    pub references: Vec<(Credential, Reference)>,
    /// What the feed speaks: `FEED`.
    pub dialect: Dialect,
    /// The stream's endpoint, or for x-v2 the base of the API: `FEED_URL`.
    pub feed_url: Url,
    /// Of x-v2's stream: `BACKFILL_MINUTES`, `PARTITION`, `CONNECT_BUDGET`.
    pub stream_options: StreamOptions,
    /// How many posts may be read: `READ_BUDGET`.
    pub read_budget: read_budget::Limits,
    /// How often the staging labels are looked at: `ROTATION_POLL`.
    pub rotation_poll: Duration,
    /// The queue of the events that a label has moved: `ROTATION_QUEUE_URL`.
    pub rotation_queue_url: Option<String>,
    /// Whether a refused AWSCURRENT may be bridged by other labels: `ROTATION_BRIDGE`.
    pub rotation_bridge: bool,
    /// Where rows wait while the table is away; in memory alone where it is not set.
    pub spool: Option<Spool>,
    /// How long startup retries what is transient: `START_LIMIT`.
    pub start_limit: Duration,
    /// How long a stop may drain: `STOP_LIMIT`.
    pub stop_limit: Duration,
    /// `HARDENING`.
    pub hardening: Hardening,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// Whose metrics are in the log: `METRICS_NAMESPACE`, `METRICS_DIMENSIONS`. None where they are off,
    /// or the log is for people.
    pub metrics: Option<metrics::Settings>,
    /// `RUST_LOG`: the directives of the log filter.
    pub log_filter: String,
    /// Variables that the audit would refuse, and that `ALLOW_ENVIRONMENT` lets through.
    pub let_through: Vec<&'static str>,
    /// Variables that are set and that the dialect, or the log's format, does not act on.
    pub unheeded: Vec<&'static str>,
}

/// One variable that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The variable.
    pub variable: &'static str,
    /// What is expected there.
    pub expectation: String,
}

/// All faults of an environment; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault(s)", self.0.len())?;
        for Fault { variable, expectation } in &self.0 {
            write!(f, "; {variable}: expected {expectation}")?;
        }
        Ok(())
    }
}

/// Why a variable has no place in the environment.
#[derive(Clone, Copy)]
enum Objection {
    /// It is how ECS hands over the value of a secret; the variable names where that is kept.
    Injected(&'static str),
    /// It makes the AWS SDK log what Secrets Manager answers.
    LogsBodies,
    /// It is a secret of AWS, and the task role makes it unnecessary. Who works on the worker
    /// elsewhere has no task role.
    KeyOnFargate,
}

/// The variables that the audit of the environment looks for. The last two are those from which the
/// SDK's environment provider takes a secret key (`aws_config::environment::credentials`).
const AUDITED: [(&str, Objection); 7] = [
    ("CONSUMERKEY", Objection::Injected("CONSUMERKEY_SECRET")),
    ("CONSUMERSECRETKEY", Objection::Injected("CONSUMERSECRETKEY_SECRET")),
    ("ACCESSTOKEN", Objection::Injected("ACCESSTOKEN_SECRET")),
    ("ACCESSTOKENSECRET", Objection::Injected("ACCESSTOKENSECRET_SECRET")),
    ("LOG_SENSITIVE_BODIES", Objection::LogsBodies),
    ("AWS_SECRET_ACCESS_KEY", Objection::KeyOnFargate),
    ("SECRET_ACCESS_KEY", Objection::KeyOnFargate),
];

impl Objection {
    fn expectation(self) -> String {
        match self {
            Self::Injected(reference) => format!(
                "it not to be set: take it out of the container definition's `secrets` (or \
                 `environment`); the worker itself fetches the value with the task role, and \
                 {reference} names where it is kept"
            ),
            Self::LogsBodies => "it not to be set: the AWS SDK would log secret values".to_owned(),
            Self::KeyOnFargate => "it not to be set on Fargate: take it and its access key id out \
                                   of the container definition; the task role is enough"
                .to_owned(),
        }
    }
}

/// `SPOOL_DIR` alone, for whoever asks a worker that runs.
///
/// # Errors
/// It is no absolute path.
pub fn spool_folder(environment: &(impl Environment + ?Sized)) -> Result<Option<PathBuf>, Faults> {
    let mut reader = Reader { environment, faults: Vec::new() };
    let spool_folder = reader.optional("SPOOL_DIR", SPOOL_DIR, folder);
    if reader.faults.is_empty() { Ok(spool_folder) } else { Err(Faults(reader.faults)) }
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that cannot be used, with what was expected of it.
    pub fn read(environment: &(impl Environment + ?Sized)) -> Result<Self, Faults> {
        let mut reader = Reader { environment, faults: Vec::new() };
        let dialect = reader.dialect();
        // Without a dialect the references are still checked, so that one run tells everything.
        let credentials = dialect.map_or(Credential::ALL.as_slice(), Dialect::credentials);
        let references: Vec<_> = credentials
            .iter()
            .filter_map(|credential| Some((*credential, reader.reference(*credential)?)))
            .collect();
        let table = reader.parse("DYNAMODBTABLE", "twitterStream", TABLE, table_name);
        let region = reader.optional("AWSREGION", REGION, region_name);
        let filter = reader.filter();
        let feed_url = reader.parse(
            "FEED_URL",
            dialect.unwrap_or(Dialect::XV2).default_url(),
            FEED_URL,
            safe_url,
        );
        let stream_options = reader.stream_options();
        let posts = reader.optional("READ_BUDGET", POSTS, read_budget::Limits::parse);
        let rotation_poll = reader.parse("ROTATION_POLL", "60s", POLL, poll);
        let rotation_queue_url =
            reader.optional("ROTATION_QUEUE_URL", QUEUE_URL, |text| safe_url(text).map(Into::into));
        let rotation_bridge = reader.parse("ROTATION_BRIDGE", "off", BRIDGE, |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        });
        let spool_folder = reader.optional("SPOOL_DIR", SPOOL_DIR, folder);
        let spool_bytes = reader.parse("SPOOL_BYTES", "1GiB", SPOOL_BYTES, bytes);
        let start_limit = reader.parse("START_LIMIT", "5m", DURATION, duration);
        let stop_limit = reader.parse("STOP_LIMIT", "25s", DURATION, duration);
        let hardening = reader.parse("HARDENING", "best-effort", HARDENING, |text| match text {
            "best-effort" => Some(Hardening::BestEffort),
            "required" => Some(Hardening::Required),
            _ => None,
        });
        let log_format = reader.parse("LOG_FORMAT", "json", LOG_FORMAT, |text| match text {
            "json" => Some(LogFormat::Json),
            "text" => Some(LogFormat::Text),
            _ => None,
        });
        let metrics = reader.metrics(table.as_deref());
        let log_filter = reader.parse("RUST_LOG", "info", LOG_FILTER, log_filter);
        let let_through = reader.audit();
        let unheeded = reader.unheeded(dialect, log_format);
        match (
            dialect,
            table,
            filter,
            feed_url,
            stream_options,
            rotation_poll,
            rotation_bridge,
            spool_bytes,
            start_limit,
            stop_limit,
            hardening,
            log_format,
            log_filter,
        ) {
            (
                Some(dialect),
                Some(table),
                Some(filter),
                Some(feed_url),
                Some(stream_options),
                Some(rotation_poll),
                Some(rotation_bridge),
                Some(bytes),
                Some(start_limit),
                Some(stop_limit),
                Some(hardening),
                Some(log_format),
                Some(log_filter),
            ) if reader.faults.is_empty() => Ok(Self {
                table,
                region,
                filter,
                references,
                dialect,
                feed_url,
                stream_options,
                read_budget: posts.unwrap_or_default(),
                rotation_poll,
                rotation_queue_url,
                rotation_bridge,
                spool: spool_folder.map(|folder| Spool { folder, bytes }),
                start_limit,
                stop_limit,
                hardening,
                log_format,
                metrics: metrics.filter(|_| log_format == LogFormat::Json),
                log_filter,
                let_through,
                unheeded,
            }),
            _ => Err(Faults(reader.faults)),
        }
    }
}

const TABLE: &str =
    "the name of a DynamoDB table (3 to 255 of letters, digits, '_', '-' and '.'), or its ARN";
const REGION: &str = "the name of an AWS region, such as us-west-2";
const FEED_URL: &str = "an https URL without user, password, query and fragment \
                        (http is taken for a loopback address only)";
const BACKFILL: &str = "a number of minutes from 1 to 5";
const PARTITION: &str = "the number of a partition, from 1";
const CONNECTS: &str = "a number of connects in 15 minutes, from 1 to 1000";
const POSTS: &str = "a number of posts a day and a month (UTC), such as 10000, 200000/month, or \
                     10000/day,200000/month";
const DURATION: &str = "a duration with its unit, such as 25s or 5m, of at most a day";
const POLL: &str = "a duration with its unit from 1s to 1h, such as 60s";
const QUEUE_URL: &str =
    "the URL of an SQS queue: https, without user, password, query and fragment";
const BRIDGE: &str = "on or off";
const SPOOL_DIR: &str = "the absolute path of a folder that the worker may write";
const SPOOL_BYTES: &str = "a number of bytes from 1MiB to 1TiB, as it is or in KiB, MiB, GiB or \
                           TiB";
const HARDENING: &str = "best-effort or required";
const LOG_FORMAT: &str = "json or text";
const NAMESPACE: &str = "a namespace of CloudWatch (up to 255 of letters, digits and .-_/#: and blanks; \
                         those that begin with AWS/ are AWS's), or off";
const DIMENSIONS: &str = "up to nine dimensions of CloudWatch, such as Service=reader,Stage=test: names \
                          and values of printable ASCII, no name twice, and none that a metric has";
const LOG_FILTER: &str =
    "a log level, or directives of tracing's EnvFilter such as info,twitterstream=debug";

struct Reader<'a, E: ?Sized> {
    environment: &'a E,
    faults: Vec<Fault>,
}

impl<E: Environment + ?Sized> Reader<'_, E> {
    fn fault(&mut self, variable: &'static str, expectation: impl Into<String>) {
        self.faults.push(Fault { variable, expectation: expectation.into() });
    }

    /// The text of a variable; `None` where it is not set. One that is set to nothing, as a
    /// task definition's empty `value` does, counts as not set.
    fn text(&mut self, variable: &'static str) -> Option<String> {
        match self.environment.variable(variable)? {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(text),
            Err(NotUnicode) => {
                self.fault(variable, "valid Unicode");
                None
            }
        }
    }

    /// A variable without a default.
    fn optional<T>(
        &mut self,
        variable: &'static str,
        expectation: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(variable)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.fault(variable, expectation);
        }
        parsed
    }

    /// A variable with a default, which goes through the same check. `None` after a fault.
    fn parse<T>(
        &mut self,
        variable: &'static str,
        default: &str,
        expectation: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(variable).unwrap_or_else(|| default.to_owned());
        let parsed = parse(&text);
        if parsed.is_none() {
            self.fault(variable, expectation);
        }
        parsed
    }

    /// Refuses the [`AUDITED`] variables that are set, and returns those that `ALLOW_ENVIRONMENT`
    /// lets through. To be set is enough: ECS injects an empty secret as an empty variable.
    fn audit(&mut self) -> Vec<&'static str> {
        let allowed = self.text("ALLOW_ENVIRONMENT").unwrap_or_default();
        let mut allowed: Vec<_> = allowed.split(',').map(str::trim).collect();
        allowed.retain(|name| !name.is_empty());
        let is_set = |name| self.environment.variable(name).is_some();
        let on_fargate = is_set("ECS_CONTAINER_METADATA_URI_V4")
            || self.environment.variable("AWS_EXECUTION_ENV") == Some(Ok("AWS_ECS_FARGATE".into()));
        let found = AUDITED.into_iter().filter(|(name, objection)| {
            is_set(*name) && (on_fargate || !matches!(objection, Objection::KeyOnFargate))
        });
        let (let_through, refused): (Vec<_>, Vec<_>) =
            found.partition(|(name, _)| allowed.contains(name));
        for (name, objection) in refused {
            self.fault(name, objection.expectation());
        }
        let known = AUDITED.map(|(name, _)| name);
        if allowed.iter().any(|name| !known.contains(name)) {
            self.fault("ALLOW_ENVIRONMENT", format!("some of {}, by comma", known.join(",")));
        }
        let_through.into_iter().map(|(name, _)| name).collect()
    }

    /// The variables that are set, and of which nothing comes with this dialect and this log.
    fn unheeded(
        &mut self,
        dialect: Option<Dialect>,
        log_format: Option<LogFormat>,
    ) -> Vec<&'static str> {
        let of_x_v2: &[&str] = match dialect {
            Some(Dialect::TwitterV1_1) => &["BACKFILL_MINUTES", "PARTITION", "CONNECT_BUDGET"],
            Some(Dialect::XV2) | None => &[],
        };
        let of_json: &[&str] = match log_format {
            Some(LogFormat::Text) => &["METRICS_NAMESPACE", "METRICS_DIMENSIONS"],
            Some(LogFormat::Json) | None => &[],
        };
        let all = of_x_v2.iter().chain(of_json).copied();
        all.filter(|name| self.text(name).is_some()).collect()
    }

    fn dialect(&mut self) -> Option<Dialect> {
        let text = self.text("FEED").unwrap_or_else(|| Dialect::XV2.name().to_owned());
        let dialect = Dialect::named(&text);
        if dialect.is_none() {
            let names = Dialect::ALL.map(Dialect::name).join(" or ");
            self.fault("FEED", names);
        }
        dialect
    }

    fn stream_options(&mut self) -> Option<StreamOptions> {
        let backfill_minutes = self.optional("BACKFILL_MINUTES", BACKFILL, |text| {
            text.parse().ok().filter(|minutes| (1..=5).contains(minutes))
        });
        let partition = self.optional("PARTITION", PARTITION, |text| {
            text.parse().ok().filter(|partition| *partition > 0)
        });
        let connects = self.parse("CONNECT_BUDGET", "50", CONNECTS, |text| {
            text.parse().ok().filter(|connects| (1..=1000).contains(connects))
        });
        Some(StreamOptions { backfill_minutes, partition, connects: connects? })
    }

    /// `None` where they are off. The table is a dimension where no other is asked for.
    fn metrics(&mut self, table: Option<&str>) -> Option<metrics::Settings> {
        let namespace = self.parse("METRICS_NAMESPACE", "TwitterStream", NAMESPACE, |text| {
            if text == "off" { Some(None) } else { metrics::namespace(text).map(Some) }
        });
        let dimensions = self.optional("METRICS_DIMENSIONS", DIMENSIONS, metrics::dimensions);
        let table = || vec![("Table".to_owned(), table.unwrap_or_default().to_owned())];
        let dimensions = dimensions.unwrap_or_else(table);
        Some(metrics::Settings { namespace: namespace??, dimensions })
    }

    fn reference(&mut self, credential: Credential) -> Option<Reference> {
        let text = self
            .text(credential.variable())
            .unwrap_or_else(|| credential.default_secret().to_owned());
        match text.parse() {
            Ok(reference) => Some(reference),
            Err(error) => {
                self.fault(credential.variable(), format!("{error}"));
                None
            }
        }
    }

    fn filter(&mut self) -> Option<Filter> {
        let text = self.text("FILTER").unwrap_or_else(|| "Amazon".to_owned());
        match Filter::parse(&text) {
            Ok(filter) => Some(filter),
            Err(error) => {
                self.fault("FILTER", error.to_string());
                None
            }
        }
    }
}

fn table_name(text: &str) -> Option<String> {
    let name = match text.strip_prefix("arn:") {
        Some(arn) => arn.rsplit_once(":table/")?.1,
        None => text,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    ((3..=255).contains(&name.len()) && name.chars().all(allowed)).then(|| text.to_owned())
}

fn region_name(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (text.len() <= 32 && text.contains('-') && text.chars().all(allowed)).then(|| text.to_owned())
}

fn safe_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(text));
    // A query would take the place of the form in reqwest-oauth1's signature.
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (scheme && bare).then_some(url)
}

/// Whether a URL leads to this machine alone.
#[must_use]
pub fn is_loopback(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|duration| *duration <= Duration::from_hours(24))
}

fn folder(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("", 1)];
    let (number, unit) =
        units.into_iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let bytes = number.trim_end().parse::<u64>().ok()?.checked_mul(unit)?;
    (1 << 20..=1 << 40).contains(&bytes).then_some(bytes)
}

fn poll(text: &str) -> Option<Duration> {
    duration(text).filter(|poll| (Duration::from_secs(1)..=Duration::from_hours(1)).contains(poll))
}

fn log_filter(text: &str) -> Option<String> {
    tracing_subscriber::EnvFilter::try_new(text).ok().map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: (&str, &str) = ("FEED", "twitter-v1.1");
    const FARGATE: (&str, &str) = ("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE");

    fn faulty(environment: &(impl Environment + ?Sized)) -> Vec<&'static str> {
        let faults = Config::read(environment).unwrap_err();
        faults.0.iter().map(|fault| fault.variable).collect()
    }

    #[test]
    fn the_defaults_are_those_of_the_documents() {
        let config = Config::read(&[FEED]).unwrap();
        assert_eq!((config.table.as_str(), config.region), ("twitterStream", None));
        assert_eq!(config.filter.track(), "Amazon");
        let secrets: Vec<_> =
            config.references.iter().map(|(_, reference)| reference.secret_id()).collect();
        assert_eq!(
            secrets,
            ["CONSUMERKEY", "CONSUMERSECRETKEY", "ACCESSTOKEN", "ACCESSTOKENSECRET"]
        );
        assert_eq!(config.feed_url.as_str(), Dialect::TwitterV1_1.default_url());
        assert_eq!(config.start_limit, Duration::from_mins(5));
        assert_eq!(config.stop_limit, Duration::from_secs(25));
        assert_eq!(config.unheeded, [""; 0]);
    }

    #[test]
    fn an_empty_variable_is_one_that_is_not_set() {
        let config = Config::read(&[FEED, ("AWSREGION", ""), ("FILTER", "")]).unwrap();
        assert_eq!((config.region, config.filter.track()), (None, "Amazon"));
    }

    #[test]
    fn every_fault_is_in_one_report() {
        let environment = [
            ("AWSREGION", "somewhere"),
            ("DYNAMODBTABLE", "a b"),
            ("FILTER", " , "),
            ("FEED", "rss"),
            ("FEED_URL", "ftp://example.com/"),
            ("ACCESSTOKEN_SECRET", "arn:aws:s3:::bucket"),
            ("ROTATION_POLL", "10ms"),
            ("ROTATION_BRIDGE", "yes"),
            ("ROTATION_QUEUE_URL", "my-queue"),
            ("START_LIMIT", "5"),
            ("STOP_LIMIT", "2 days"),
            ("HARDENING", "no"),
            ("LOG_FORMAT", "xml"),
            ("METRICS_NAMESPACE", "AWS/ECS"),
            ("METRICS_DIMENSIONS", "Table"),
            ("RUST_LOG", "twitterstream=LOUD"),
            ("CONSUMERKEY", ""),
            ("CONSUMERSECRETKEY", "x"),
            ("ACCESSTOKEN", "x"),
            ("ACCESSTOKENSECRET", "x"),
            ("LOG_SENSITIVE_BODIES", "true"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("SECRET_ACCESS_KEY", "x"),
            ("ALLOW_ENVIRONMENT", "CONSUMER_KEY"),
        ];
        let environment = [environment.as_slice(), &[FARGATE]].concat();
        let mut found = faulty(environment.as_slice());
        let faults = environment.iter().filter(|variable| **variable != FARGATE);
        let mut expected: Vec<_> = faults.map(|(name, _)| *name).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn no_fault_repeats_a_value() {
        const NAMES: [&str; 29] = [
            "METRICS_NAMESPACE",
            "METRICS_DIMENSIONS",
            "BACKFILL_MINUTES",
            "PARTITION",
            "CONNECT_BUDGET",
            "READ_BUDGET",
            "AWSREGION",
            "DYNAMODBTABLE",
            "FILTER",
            "FEED",
            "FEED_URL",
            "CONSUMERKEY_SECRET",
            "CONSUMERSECRETKEY_SECRET",
            "ACCESSTOKEN_SECRET",
            "ACCESSTOKENSECRET_SECRET",
            "START_LIMIT",
            "STOP_LIMIT",
            "HARDENING",
            "LOG_FORMAT",
            "RUST_LOG",
            "ROTATION_POLL",
            "CONSUMERKEY",
            "CONSUMERSECRETKEY",
            "ACCESSTOKEN",
            "ACCESSTOKENSECRET",
            "LOG_SENSITIVE_BODIES",
            "AWS_SECRET_ACCESS_KEY",
            "ECS_CONTAINER_METADATA_URI_V4",
            "ALLOW_ENVIRONMENT",
        ];
        let value = "MARKER //=,[ MARKER that is longer than a phrase may be, by far: MARKER";
        let environment = NAMES.map(|name| (name, value));
        let error = Config::read(&environment).unwrap_err();
        assert!(error.0.len() >= 26, "{error}");
        assert!(!format!("{error} {error:?}").contains("MARKER"), "{error}");
    }

    #[test]
    fn plain_http_is_for_loopback_alone_and_a_url_carries_no_password() {
        for (url, taken) in [
            ("http://127.0.0.1:8080/1.1/statuses/filter.json", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("https://example.com/stream", true),
            ("http://example.com/", false),
            ("http://localhost.example.com/", false),
            ("https://user@example.com/", false),
            ("https://user:password@example.com/", false),
            ("https://example.com/?track=x", false),
            ("https://example.com/#x", false),
            ("/relative", false),
        ] {
            assert_eq!(Config::read(&[FEED, ("FEED_URL", url)]).is_ok(), taken, "{url}");
        }
    }

    #[test]
    fn what_is_not_unicode_is_a_fault() {
        struct NotText;
        impl Environment for NotText {
            fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>> {
                (name == "FILTER").then_some(Err(NotUnicode))
            }
        }
        assert_eq!(faulty(&NotText), ["FILTER"]);
    }

    #[test]
    fn a_secret_in_the_environment_is_refused_and_the_report_says_what_to_change() {
        for (name, words) in [
            ("CONSUMERKEY", ["`secrets`", "task role", "CONSUMERKEY_SECRET names"]),
            ("CONSUMERSECRETKEY", ["`secrets`", "task role", "CONSUMERSECRETKEY_SECRET names"]),
            ("ACCESSTOKEN", ["`secrets`", "task role", "ACCESSTOKEN_SECRET names"]),
            ("ACCESSTOKENSECRET", ["`secrets`", "task role", "ACCESSTOKENSECRET_SECRET names"]),
            ("LOG_SENSITIVE_BODIES", ["not to be set", "SDK", "would log secret values"]),
        ] {
            for value in ["MARKER", ""] {
                let faults = Config::read(&[FEED, (name, value)]).unwrap_err();
                let [Fault { variable, expectation }] = faults.0.as_slice() else {
                    panic!("{faults}")
                };
                assert_eq!(*variable, name);
                assert!(words.iter().all(|word| expectation.contains(word)), "{expectation}");
            }
        }
    }

    #[test]
    fn a_secret_that_is_not_unicode_is_refused_as_well() {
        struct NotText;
        impl Environment for NotText {
            fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>> {
                match name {
                    "FEED" => Some(Ok("twitter-v1.1".to_owned())),
                    "ACCESSTOKEN" => Some(Err(NotUnicode)),
                    _ => None,
                }
            }
        }
        assert_eq!(faulty(&NotText), ["ACCESSTOKEN"]);
    }

    #[test]
    fn a_secret_key_of_aws_is_refused_on_fargate_alone() {
        for name in ["AWS_SECRET_ACCESS_KEY", "SECRET_ACCESS_KEY"] {
            let key = (name, "MARKER");
            assert!(Config::read(&[FEED, key]).is_ok());
            assert!(Config::read(&[FEED, key, ("AWS_EXECUTION_ENV", "AWS_ECS_EC2")]).is_ok());
            for mark in [FARGATE, ("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/x")] {
                assert_eq!(faulty(&[FEED, key, mark]), [name]);
            }
        }
    }

    #[test]
    fn allow_environment_lets_through_what_it_names_and_nothing_else() {
        let allow = ("ALLOW_ENVIRONMENT", "AWS_SECRET_ACCESS_KEY, ACCESSTOKEN");
        let key = ("AWS_SECRET_ACCESS_KEY", "x");
        let config = Config::read(&[FEED, FARGATE, allow, key, ("ACCESSTOKEN", "")]).unwrap();
        assert_eq!(config.let_through, ["ACCESSTOKEN", "AWS_SECRET_ACCESS_KEY"]);
        // What is not set, or would not be refused, is not let through.
        assert_eq!(Config::read(&[FEED, allow, key]).unwrap().let_through, [""; 0]);
        let other = ("ACCESSTOKENSECRET", "x");
        assert_eq!(faulty(&[FEED, allow, ("ACCESSTOKEN", "x"), other]), ["ACCESSTOKENSECRET"]);
    }

    #[test]
    fn a_name_in_allow_environment_that_the_audit_does_not_know_is_a_fault() {
        for names in ["ACCESS_TOKEN", "accesstoken", "ACCESSTOKEN,MARKER", "ACCESSTOKEN;X"] {
            let environment = [FEED, ("ALLOW_ENVIRONMENT", names)];
            assert_eq!(faulty(&environment), ["ALLOW_ENVIRONMENT"], "{names}");
            let report = Config::read(&environment).unwrap_err().to_string();
            assert!(report.contains("CONSUMERKEY,") && report.contains(",SECRET_ACCESS_KEY"));
            assert!(!report.contains("MARKER"), "{report}");
        }
    }

    #[test]
    fn a_value_in_a_variable_for_the_place_of_a_secret_is_a_fault_that_names_the_variable_alone() {
        for credential in Credential::ALL {
            for value in ["MARKER".repeat(9).split_off(4), format!("12345-{}", "MARKER".repeat(6))]
            {
                let environment = [FEED, (credential.variable(), value.as_str())];
                assert_eq!(faulty(&environment), [credential.variable()]);
                let report = Config::read(&environment).unwrap_err().to_string();
                assert!(report.contains("give the ARN"), "{report}");
                assert!(!report.contains("MARKER"), "{report}");
            }
        }
    }

    #[test]
    fn variables_without_effect_are_known() {
        let partition = ("PARTITION", "1");
        assert_eq!(Config::read(&[FEED, partition]).unwrap().unheeded, ["PARTITION"]);
        let metrics = [("METRICS_NAMESPACE", "x"), ("METRICS_DIMENSIONS", "A=b")];
        let text = [FEED, ("LOG_FORMAT", "text"), metrics[0], metrics[1]];
        assert_eq!(Config::read(&text).unwrap().unheeded, metrics.map(|(name, _)| name));
        assert_eq!(Config::read(&[FEED, metrics[0], metrics[1]]).unwrap().unheeded, [""; 0]);
    }

    #[test]
    fn metrics_are_the_tables_unless_told_otherwise_and_only_for_programs() {
        let metrics = |variables: &[(&str, &str)]| {
            Config::read([&[FEED], variables].concat().as_slice()).unwrap().metrics
        };
        let settings = |namespace: &str, name: &str, value: &str| {
            let dimensions = vec![(name.to_owned(), value.to_owned())];
            Some(metrics::Settings { namespace: namespace.to_owned(), dimensions })
        };
        assert_eq!(metrics(&[]), settings("TwitterStream", "Table", "twitterStream"));
        let other = [("DYNAMODBTABLE", "other"), ("METRICS_NAMESPACE", "Mine")];
        assert_eq!(metrics(&other), settings("Mine", "Table", "other"));
        let dimensions = ("METRICS_DIMENSIONS", "Stage=test");
        assert_eq!(metrics(&[dimensions]), settings("TwitterStream", "Stage", "test"));
        assert_eq!(metrics(&[("METRICS_NAMESPACE", "off"), dimensions]), None);
        assert_eq!(metrics(&[("LOG_FORMAT", "text")]), None);
    }

    #[test]
    fn the_size_of_the_spool_has_a_unit_or_is_in_bytes() {
        let spool = |bytes| {
            let environment = [FEED, ("SPOOL_DIR", "/spool"), ("SPOOL_BYTES", bytes)];
            Config::read(&environment).map(|config| config.spool.unwrap().bytes)
        };
        for (text, bytes) in
            [("", 1 << 30), ("1048576", 1 << 20), ("3 MiB", 3 << 20), ("1TiB", 1 << 40)]
        {
            assert_eq!(spool(text), Ok(bytes), "{text}");
        }
        for text in ["1", "1MB", "-1GiB", "GiB", "2TiB", "99999999999999999999", "1.5GiB"] {
            assert_eq!(faulty(&[FEED, ("SPOOL_BYTES", text)]), ["SPOOL_BYTES"], "{text}");
        }
        assert_eq!(faulty(&[FEED, ("SPOOL_DIR", "spool")]), ["SPOOL_DIR"]);
        assert_eq!(Config::read(&[FEED]).unwrap().spool, None);
    }
}
