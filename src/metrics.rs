//! Metrics for CloudWatch, without an agent: once a minute a line of the log in the Embedded Metric
//! Format, from which CloudWatch Logs makes metrics ([specification][emf]).
//!
//! The serializer is our own. `metrique-writer-format-emf` and `metrics_cloudwatch_embedded` write the
//! format well, but the one brings entries and writers of its own, the other the facade `metrics` with
//! a second set of counters beside [`crate::counts`]; and the format is one JSON object.
//!
//! [emf]: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::clock::Clock;
use crate::counts::{Durations, Summary};
use crate::health::Vitals;
use crate::health::judge::State;

/// How often a line is written.
const PERIOD: Duration = Duration::from_mins(1);

/// The most dimensions: what the specification allowed first. Today it is 30, not in each region.
const DIMENSIONS: usize = 9;

/// The longest namespace and the longest name and value of a dimension, in characters (CloudWatch API
/// reference, `PutMetricData` and `Dimension`).
const NAME: usize = 255;
const VALUE: usize = 1024;

/// A unit of CloudWatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Of a duration that is short.
    Milliseconds,
    /// Of a duration that is long.
    Seconds,
    /// Hundredths of a whole.
    Percent,
}

impl Unit {
    /// Its name in CloudWatch.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Milliseconds => "Milliseconds",
            Self::Seconds => "Seconds",
            Self::Percent => "Percent",
        }
    }
}

/// Finds a counter.
type Count = fn(&Summary) -> u64;

/// The counters. A line has by how much each has grown since the line before.
const GROWING: [(&str, Count); 16] = [
    ("PostsRead", |summary| summary.posts_read),
    ("PostsDoubled", |summary| summary.posts_doubled),
    ("PostsMatched", |summary| summary.posts_matched),
    ("RowsWritten", |summary| summary.rows_written),
    ("RowsCollided", |summary| summary.rows_collided),
    ("RowsRejected", |summary| summary.rows_rejected),
    ("RowsDropped", |summary| summary.rows_dropped),
    ("RowsSpooled", |summary| summary.rows_spooled),
    ("ConnectsOpened", |summary| summary.connects),
    ("ConnectsFailedNetwork", |summary| summary.connects_failed_network),
    ("ConnectsFailedHttp", |summary| summary.connects_failed_http),
    ("ConnectsFailedRateLimit", |summary| summary.connects_failed_rate_limit),
    ("StreamsLost", |summary| summary.streams_lost),
    ("StreamStalls", |summary| summary.stalls),
    ("CredentialRefusals", |summary| summary.credential_refusals),
    ("Rotations", |summary| summary.rotations),
];

/// What there is beside the counters. Of what did not happen within the minute, or is not there, a line
/// has nothing.
const OTHERS: [(&str, Unit); 15] = [
    ("RowsInMemory", Unit::Count),
    ("RowsInSpool", Unit::Count),
    ("PutLatencyP50", Unit::Milliseconds),
    ("PutLatencyP99", Unit::Milliseconds),
    ("PutLatencyMax", Unit::Milliseconds),
    ("RotationLatencyPoll", Unit::Milliseconds),
    ("RotationLatencyEvent", Unit::Milliseconds),
    ("RotationLatencyRefusal", Unit::Milliseconds),
    ("RotationLatencySignal", Unit::Milliseconds),
    ("GenerationAge", Unit::Seconds),
    ("LastLookAge", Unit::Seconds),
    ("ReadBudgetUsed", Unit::Percent),
    ("Stale", Unit::Count),
    ("Degraded", Unit::Count),
    ("Failing", Unit::Count),
];

/// Every metric that a line may have, and its unit.
pub fn all() -> impl Iterator<Item = (&'static str, Unit)> {
    GROWING.into_iter().map(|(name, _)| (name, Unit::Count)).chain(OTHERS)
}

/// What else is in a line.
const RESERVED: [&str; 3] = ["_aws", "level", "message"];

/// Whose metrics they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `METRICS_NAMESPACE`.
    pub namespace: String,
    /// `METRICS_DIMENSIONS`: names and values.
    pub dimensions: Vec<(String, String)>,
}

/// A namespace that CloudWatch takes: letters, digits and `.-_/#: `, and none of AWS's own.
#[must_use]
pub fn namespace(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c);
    let own = !text.starts_with("AWS/") && !text.starts_with(':');
    let is_good = own && is_label(text, NAME) && text.chars().all(allowed);
    is_good.then(|| text.to_owned())
}

/// Dimensions that CloudWatch takes, written `Name=value,Name=value`. No name may be that of a metric,
/// as both are members of the same object.
#[must_use]
pub fn dimensions(text: &str) -> Option<Vec<(String, String)>> {
    let mut dimensions: Vec<(String, String)> = Vec::new();
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_free = !RESERVED.contains(&name)
            && all().all(|(metric, _)| metric != name)
            && dimensions.iter().all(|(other, _)| other != name);
        let is_good = is_label(name, NAME) && !name.starts_with(':') && is_label(value, VALUE);
        if !is_free || !is_good {
            return None;
        }
        dimensions.push((name.to_owned(), value.to_owned()));
    }
    (dimensions.len() <= DIMENSIONS).then_some(dimensions)
}

/// Whether it is printable ASCII, not only blanks, and not too long.
fn is_label(text: &str, longest: usize) -> bool {
    let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    printable && !text.trim().is_empty() && text.len() <= longest
}

/// What is measured, and what was when it was last told.
pub struct Metrics {
    settings: Settings,
    vitals: Arc<Vitals>,
    /// Whether there is a `READ_BUDGET`.
    budgeted: bool,
    before: Summary,
}

impl Metrics {
    /// Of a worker that begins.
    #[must_use]
    pub fn new(settings: Settings, vitals: Arc<Vitals>, budgeted: bool) -> Self {
        Self { settings, vitals, budgeted, before: Summary::default() }
    }

    /// Writes a line each minute, and one at the end.
    pub async fn run(
        mut self,
        mut writer: impl Write,
        clock: Clock,
        mut end: oneshot::Receiver<()>,
    ) {
        let mut ticks = interval_at(Instant::now() + PERIOD, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut end => true,
            };
            let line = self.line(clock());
            // In one piece, so that no other line comes between. A log that cannot be written has
            // nobody to be told.
            let _ = writer.write_all(line.as_bytes());
            if ended {
                return;
            }
        }
    }

    /// What has passed since the line before, in one line.
    pub fn line(&mut self, now: SystemTime) -> String {
        let values = self.values();
        let definitions = values.iter().filter_map(|(name, _)| {
            let (name, unit) = all().find(|(metric, _)| metric == name)?;
            Some(json!({ "Name": name, "Unit": unit.name() }))
        });
        let definitions: Vec<_> = definitions.collect();
        let Settings { namespace, dimensions } = &self.settings;
        let names: Vec<_> = dimensions.iter().map(|(name, _)| name.as_str()).collect();
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or_default();
        let directive =
            json!({ "Namespace": namespace, "Dimensions": [names], "Metrics": definitions });
        let mut root = Map::new();
        root.insert(
            "_aws".to_owned(),
            json!({ "Timestamp": milliseconds, "CloudWatchMetrics": [directive] }),
        );
        root.insert("level".to_owned(), "INFO".into());
        root.insert("message".to_owned(), "metrics".into());
        for (name, value) in dimensions {
            root.insert(name.clone(), value.as_str().into());
        }
        root.extend(values.into_iter().map(|(name, value)| (name.to_owned(), value)));
        format!("{}\n", Value::Object(root))
    }

    fn values(&mut self) -> Vec<(&'static str, Value)> {
        let counts = &self.vitals.counts;
        let now = counts.summary();
        let before = std::mem::replace(&mut self.before, now);
        let grown = GROWING.map(|(name, count)| (name, count(&now) - count(&before)));
        let mut values: Vec<(_, Value)> =
            grown.into_iter().map(|(name, count)| (name, count.into())).collect();
        let mut add = |name, value: Value| values.push((name, value));
        add("RowsInMemory", (now.rows_waiting - now.rows_in_spool).into());
        add("RowsInSpool", now.rows_in_spool.into());
        if let Some(spread) = counts.put_latency.take() {
            add("PutLatencyP50", milliseconds(spread.median));
            add("PutLatencyP99", milliseconds(spread.p99));
            add("PutLatencyMax", milliseconds(spread.longest));
        }
        let rotated: [(_, &Durations); 4] = [
            ("RotationLatencyPoll", &counts.rotated_by_poll),
            ("RotationLatencyEvent", &counts.rotated_by_event),
            ("RotationLatencyRefusal", &counts.rotated_by_refusal),
            ("RotationLatencySignal", &counts.rotated_by_signal),
        ];
        for (name, durations) in rotated {
            if let Some(spread) = durations.take() {
                add(name, milliseconds(spread.longest));
            }
        }
        if let Some(status) = self.vitals.status() {
            add("GenerationAge", status.adopted_at.elapsed().as_secs().into());
            add("LastLookAge", status.looked_at.elapsed().as_secs().into());
        }
        if self.budgeted {
            add("ReadBudgetUsed", counts.read_budget_percent.level().into());
        }
        let state = self.vitals.state();
        for (name, is_it) in [
            ("Stale", state == State::Stale),
            ("Degraded", state == State::Degraded),
            ("Failing", state == State::Failing),
        ] {
            add(name, u64::from(is_it).into());
        }
        values
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> Value {
    let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    (f64::from(microseconds) / 1_000.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;

    /// What AWS's JSON schema of the format demands, and the text around it ("Specification: Embedded
    /// metric format", the section of the example and schema): the first fault of a line.
    fn fault(line: &str) -> Option<String> {
        const UNITS: [&str; 4] = ["Count", "Milliseconds", "Seconds", "Percent"];
        let Ok(root) = serde_json::from_str::<Value>(line) else { return Some("JSON".into()) };
        let name_of = |value: &Value| {
            let name = value.as_str()?;
            (1..=255).contains(&name.chars().count()).then(|| name.to_owned())
        };
        let directives = root["_aws"]["CloudWatchMetrics"].as_array();
        let faults = || -> Option<Vec<(&str, bool)>> {
            let mut held = vec![
                ("one line", line.ends_with('\n') && line.lines().count() == 1),
                ("at most 256 KB", line.len() <= 256 * 1024),
                ("Timestamp", root["_aws"]["Timestamp"].is_u64()),
            ];
            for directive in directives? {
                held.push(("Namespace", name_of(&directive["Namespace"]).is_some()));
                let sets = directive["Dimensions"].as_array()?;
                held.push(("a DimensionSet", !sets.is_empty()));
                for set in sets {
                    let names = set.as_array()?;
                    held.push(("at most 9 dimensions", names.len() <= 9));
                    for name in names {
                        let target = &root[name_of(name)?];
                        held.push(("a dimension's target is a string", target.is_string()));
                    }
                }
                let metrics = directive["Metrics"].as_array()?;
                held.push(("at most 100 metrics", metrics.len() <= 100));
                for metric in metrics {
                    let target = &root[name_of(&metric["Name"])?];
                    held.push(("a metric's target is a number", target.is_number()));
                    let unit = &metric["Unit"];
                    let known = unit.is_null() || UNITS.iter().any(|known| unit == known);
                    held.push(("a unit of CloudWatch", known));
                }
            }
            Some(held)
        };
        let Some(held) = faults() else { return Some("a member is missing".into()) };
        held.into_iter().find(|(_, holds)| !holds).map(|(what, _)| what.to_owned())
    }

    fn metrics() -> (Metrics, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        let vitals = Arc::new(Vitals::new(Arc::clone(&counts), PERIOD));
        let settings = Settings {
            namespace: "TwitterStream".to_owned(),
            dimensions: vec![("Table".to_owned(), "twitterStream".to_owned())],
        };
        (Metrics::new(settings, vitals, true), counts)
    }

    fn line(metrics: &mut Metrics) -> Value {
        let line = metrics.line(SystemTime::UNIX_EPOCH + Duration::from_millis(1_574_109_732_004));
        assert_eq!(fault(&line), None, "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn every_line_is_as_the_specification_has_it() {
        let (mut metrics, counts) = metrics();
        let quiet = line(&mut metrics);
        assert_eq!(quiet["_aws"]["Timestamp"], 1_574_109_732_004_u64);
        assert_eq!(
            (&quiet["Table"], &quiet["message"]),
            (&"twitterStream".into(), &"metrics".into())
        );
        assert!(quiet.get("PutLatencyP50").is_none(), "{quiet}");
        for durations in [
            &counts.put_latency,
            &counts.rotated_by_poll,
            &counts.rotated_by_event,
            &counts.rotated_by_refusal,
            &counts.rotated_by_signal,
        ] {
            durations.record(Duration::from_millis(20));
        }
        let names = |line: &Value| {
            let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
            metrics.iter().map(|m| m["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let full = names(&line(&mut metrics));
        let status = ["GenerationAge", "LastLookAge"];
        let expected = all().map(|(name, _)| name).filter(|name| !status.contains(name));
        let mut expected: Vec<_> = expected.collect();
        let mut found: Vec<_> = full.iter().map(String::as_str).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    type Change = fn(&mut Value);

    #[test]
    fn what_the_specification_forbids_is_found() {
        let (mut metrics, _) = metrics();
        let good = metrics.line(SystemTime::UNIX_EPOCH);
        assert_eq!(fault(&good), None);
        let changes: [(&str, Change); 9] = [
            ("Timestamp", |root| root["_aws"]["Timestamp"] = "now".into()),
            ("a member is missing", |root| root["_aws"]["CloudWatchMetrics"] = Value::Null),
            ("Namespace", |root| directive(root)["Namespace"] = "".into()),
            ("a DimensionSet", |root| directive(root)["Dimensions"] = json!([])),
            ("at most 9 dimensions", |root| {
                directive(root)["Dimensions"] = json!([vec!["Table"; 10]]);
            }),
            ("a dimension's target is a string", |root| root["Table"] = 1.into()),
            ("a metric's target is a number", |root| root["RowsWritten"] = "1".into()),
            ("a unit of CloudWatch", |root| directive(root)["Metrics"][0]["Unit"] = "Posts".into()),
            ("at most 100 metrics", |root| {
                let metric = directive(root)["Metrics"][0].clone();
                directive(root)["Metrics"] = vec![metric; 101].into();
            }),
        ];
        for (expected, change) in changes {
            let mut root = serde_json::from_str(&good).unwrap();
            change(&mut root);
            assert_eq!(fault(&format!("{root}\n")).as_deref(), Some(expected));
        }
        assert_eq!(fault(&format!("{good}{good}")).as_deref(), Some("JSON"));
    }

    fn directive(root: &mut Value) -> &mut Value {
        &mut root["_aws"]["CloudWatchMetrics"][0]
    }

    #[test]
    fn a_line_has_what_came_since_the_line_before_and_levels_as_they_are() {
        let (mut metrics, counts) = metrics();
        counts.posts_matched.add(30);
        counts.rows_written.add(10);
        counts.rows_in_spool.set(5);
        counts.read_budget_percent.set(81);
        for number in 1..=100 {
            counts.put_latency.record(Duration::from_millis(number));
        }
        let first = line(&mut metrics);
        assert_eq!((&first["PostsMatched"], &first["RowsWritten"]), (&30.into(), &10.into()));
        assert_eq!((&first["RowsInMemory"], &first["RowsInSpool"]), (&15.into(), &5.into()));
        assert_eq!(first["ReadBudgetUsed"], 81);
        // Two digits of each are right.
        let close = |name: &str, value: f64| {
            let found = first[name].as_f64().unwrap();
            assert!((found / value - 1.0).abs() < 0.01, "{name}: {found}");
        };
        close("PutLatencyP50", 50.0);
        close("PutLatencyP99", 99.0);
        close("PutLatencyMax", 100.0);

        counts.rows_written.add(3);
        let second = line(&mut metrics);
        assert_eq!((&second["PostsMatched"], &second["RowsWritten"]), (&0.into(), &3.into()));
        assert_eq!(second["RowsInMemory"], 12);
        assert!(second.get("PutLatencyMax").is_none(), "{second}");
    }

    /// Each write, as it came.
    struct Lines(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_written_each_minute_and_at_the_end() {
        let (metrics, counts) = metrics();
        let (sender, lines) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        let clock: Clock = Arc::new(|| SystemTime::UNIX_EPOCH);
        let running = tokio::spawn(metrics.run(Lines(sender), clock, ended));
        counts.posts_read.add(1);
        tokio::time::sleep(PERIOD * 2 + Duration::from_secs(1)).await;
        counts.posts_read.add(2);
        drop(end);
        running.await.unwrap();
        let read: Vec<_> = lines
            .iter()
            .map(|line| serde_json::from_slice::<Value>(&line).unwrap()["PostsRead"].clone())
            .collect();
        assert_eq!(read, [1, 0, 2]);
    }

    #[test]
    fn namespaces_and_dimensions_are_those_that_cloudwatch_takes() {
        for good in ["TwitterStream", "a/b-c_d.e#f:g h"] {
            assert_eq!(namespace(good).as_deref(), Some(good));
        }
        for wrong in ["", " ", "AWS/ECS", ":a", "a\"b", "ä", &"x".repeat(256)] {
            assert_eq!(namespace(wrong), None, "{wrong}");
        }
        let pairs = |text| dimensions(text).unwrap();
        assert_eq!(pairs("A=b"), [("A".to_owned(), "b".to_owned())]);
        assert_eq!(pairs("A=b, C = d=e").last().unwrap(), &("C".to_owned(), "d=e".to_owned()));
        let nine: Vec<_> = (0..9).map(|number| format!("D{number}=v")).collect();
        assert_eq!(pairs(&nine.join(",")).len(), 9);
        let ten = nine.join(",") + ",D9=v";
        let long = format!("A={}", "x".repeat(1025));
        for wrong in [
            "",
            "A",
            "A=",
            "=b",
            "A=b,",
            "A=b,A=c",
            ":A=b",
            "A=\u{e4}",
            "A=b\nc",
            "RowsWritten=b",
            "_aws=b",
            "message=b",
            &ten,
            &long,
        ] {
            assert_eq!(dimensions(wrong), None, "{wrong}");
        }
    }
}
