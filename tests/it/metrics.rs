//! The metrics of a worker: what its lines hold, where there are none, and what docs/operations.md says of them.

use std::path::Path;

use serde_json::Value;
use twitterstream::metrics;

use crate::support::{Ended, Stage, generated};

fn lines(ended: &Ended) -> Vec<Value> {
    let lines = ended.log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("_aws").is_some()).collect()
}

async fn ended(variables: &[(&str, &str)]) -> Ended {
    let stage = Stage::set(generated(0.5, 200)).await;
    let mut run = stage.start(variables);
    // What is for people cannot be waited for.
    if variables.contains(&("LOG_FORMAT", "text")) {
        stage.world.feed.wait_until(|feed| feed.posts_sent == 200).await;
    } else {
        run.posts_read(200).await;
    }
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    ended
}

#[tokio::test]
async fn the_last_line_has_what_came_since_the_one_before() {
    let variables = [("METRICS_NAMESPACE", "Mine"), ("METRICS_DIMENSIONS", "Stage=test,Part=1")];
    let ended = ended(&variables).await;
    let lines = lines(&ended);
    let directive = &lines.last().unwrap()["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Namespace"], "Mine");
    assert_eq!(directive["Dimensions"], serde_json::json!([["Stage", "Part"]]));
    let counts = ended.events("stopped").pop().unwrap();
    for (metric, count) in [
        ("PostsRead", "posts_read"),
        ("PostsMatched", "posts_matched"),
        ("RowsWritten", "rows_written"),
        ("ConnectsOpened", "connects"),
    ] {
        let sum: u64 = lines.iter().map(|line| line[metric].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), counts[count].as_u64(), "{metric}");
        assert!(sum > 0, "{metric}");
    }
    // It is left out of a minute in which no row was written.
    let with_latency = lines.iter().rfind(|line| line.get("PutLatencyP50").is_some());
    let line = with_latency.unwrap();
    let latency = |name: &str| line[name].as_f64().unwrap();
    assert!(latency("PutLatencyP50") > 0.0, "{line}");
    assert!(latency("PutLatencyP50") <= latency("PutLatencyP99"), "{line}");
    assert!(latency("PutLatencyP99") <= latency("PutLatencyMax"), "{line}");
    assert_eq!((&line["Stage"], &line["Part"]), (&"test".into(), &"1".into()));
    assert!(line["GenerationAge"].is_u64() && line["LastLookAge"].is_u64(), "{line}");
    assert!(line.get("ReadBudgetUsed").is_none(), "there is no budget: {line}");
}

#[tokio::test]
async fn there_are_none_where_they_are_off_or_the_log_is_for_people() {
    assert!(lines(&ended(&[("METRICS_NAMESPACE", "off")]).await).is_empty());
    let text = ended(&[("LOG_FORMAT", "text")]).await;
    assert!(text.log.iter().any(|line| line.contains("starting")), "there is no log");
    assert!(!text.log.iter().any(|line| line.contains("_aws")));
}

#[test]
fn the_documents_have_every_metric_with_its_unit_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("\n## Metrics\n").nth(1).unwrap();
    let table = table.split("\n##").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut written: Vec<(String, String)> = Vec::new();
    for row in rows {
        let [_, names, unit, ..] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let names = names.split(',').map(|name| name.trim().trim_matches('`').to_owned());
        written.extend(names.map(|name| (name, unit.trim().to_owned())));
    }
    let known = metrics::all().map(|(name, unit)| (name.to_owned(), unit.name().to_owned()));
    let mut known: Vec<_> = known.collect();
    written.sort();
    known.sort();
    assert_eq!(written, known);
}
