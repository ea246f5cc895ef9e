//! The collision rule of `src/table.rs`: each post is one item, whatever the order in which posts come, how
//! often they come again, how many workers write them and how often one is killed; and no item is touched
//! that is another's.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use twitterstream::backlog;
use twitterstream::counts::{Counts, Summary};
use twitterstream::demo::feed_server::replay::Recording;
use twitterstream::demo::feed_server::{FeedServer, Options, Source};
use twitterstream::demo::local_aws::{Effect, Fault, Service};
use twitterstream::table::{Row, Table};
use twitterstream::writers::Writers;

use crate::support::{Stage, clock, generated, post, replayed};

/// As long as a busy machine may take.
const LIMIT: Duration = Duration::from_mins(3);

const DATE: &str = "Wed Oct 10 20:19:24 +0000 2018";

/// Writes these rows as the worker does, many at once, until DynamoDB has acknowledged the last.
async fn write(table: Table, rows: Vec<Row>) -> Summary {
    let counts = Arc::new(Counts::default());
    let (backlog, _rest, waiting) = backlog::open(None, &counts).unwrap();
    let mut writers = Writers::start(&table, &waiting, &counts).unwrap();
    for row in rows {
        backlog.accept(row);
    }
    drop(backlog);
    timeout(LIMIT, writers.ended()).await.expect("the rows are not written");
    counts.summary()
}

fn table_of(stage: &Stage) -> Table {
    Table::new(&stage.administrator(), stage.world.table().to_owned())
}

fn row(user: &str, date: &str, id: u64) -> Row {
    let text = format!("amazon, post {id} of {user} at {date}");
    Row { user: user.to_owned(), date: date.to_owned(), text, id: id.to_string() }
}

/// The item that a row becomes where it finds its key free, or taken.
fn item(row: &Row, free: bool) -> [String; 4] {
    let Row { user, date, text, id } = row.clone();
    let date = if free { date } else { format!("{date}#{id}") };
    [user, date, text, id]
}

/// Puts an item that no worker of ours has written.
async fn put_foreign(stage: &Stage, user: &str, date: &str, attributes: &[(&str, &str)]) {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let mut put = aws_sdk_dynamodb::Client::new(&stage.administrator())
        .put_item()
        .table_name(stage.world.table())
        .item("user", text(user))
        .item("date", text(date));
    for (name, value) in attributes {
        put = put.item(*name, text(value));
    }
    put.send().await.unwrap();
}

/// Each distinct order of the items of a multiset.
fn orders(multiset: &[u64]) -> BTreeSet<Vec<u64>> {
    if multiset.is_empty() {
        return BTreeSet::from([Vec::new()]);
    }
    let mut all = BTreeSet::new();
    for at in 0..multiset.len() {
        let mut rest = multiset.to_vec();
        let first = rest.remove(at);
        all.extend(orders(&rest).into_iter().map(|order| [vec![first], order].concat()));
    }
    all
}

/// Asserts that the items are those of `rows`, each once and to the letter, and that of the posts of one
/// user and second exactly one has the plain date.
fn assert_items(mut items: Vec<[String; 4]>, rows: &[Row]) {
    let mut groups: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry((&row.user, &row.date)).or_default().push(row);
    }
    let mut expected = Vec::new();
    for ((user, date), rows) in groups {
        let plain = items.iter().filter(|item| item[0] == user && item[1] == date);
        let plain: Vec<_> = plain.map(|item| item[3].clone()).collect();
        assert_eq!(plain.len(), 1, "of {user} at {date} these have the plain date: {plain:?}");
        expected.extend(rows.into_iter().map(|row| item(row, row.id == plain[0])));
    }
    items.sort();
    expected.sort();
    assert_eq!(items, expected);
}

#[tokio::test]
async fn every_order_of_the_posts_of_one_second_with_redelivery_gives_the_same_rows() {
    let stage = Stage::set(generated(1.0, 1)).await;
    let orders = orders(&[1, 1, 2, 2, 3]);
    assert_eq!(orders.len(), 30);
    let mut expected = Vec::new();
    for old in [false, true] {
        let writing = orders.iter().enumerate().map(|(number, order)| {
            let (stage, user) = (&stage, format!("user{number}{old}"));
            async move {
                let mut expected = Vec::new();
                if old {
                    put_foreign(stage, &user, DATE, &[("text", "old")]).await;
                    expected.push([&*user, DATE, "old", ""].map(str::to_owned));
                }
                for id in order {
                    write(table_of(stage), vec![row(&user, DATE, *id)]).await;
                }
                let first = |id: u64| !old && id == order[0];
                expected.extend([1, 2, 3].map(|id| item(&row(&user, DATE, id), first(id))));
                expected
            }
        });
        expected.extend(join_all(writing).await.concat());
    }
    let mut rows = stage.rows();
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);
}

#[test]
fn two_writers_at_once_lose_and_double_nothing_in_any_order_and_with_any_redelivery() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::set(generated(1.0, 1)));
    // Two users, two seconds, three posts each.
    let post_of = |case: u64, number: u64| {
        let user = format!("case{case}user{}", number % 2);
        row(&user, &format!("{DATE} + {}", number / 2 % 2), number)
    };
    let cases = std::cell::Cell::new(0);
    // Each wave begins when the one before it is written, and is written by two writers.
    let waves = vec((vec(0..12_u64, 0..12), vec(0..12_u64, 0..12)), 1..4);
    let config = Config {
        cases: 24,
        // Each step of the shrinking writes to the table.
        max_shrink_iters: 32,
        failure_persistence: None,
        ..Config::default()
    };
    let run = TestRunner::new(config).run(&waves, |waves| {
        cases.set(cases.get() + 1);
        let rows = |numbers: &[u64]| -> Vec<Row> {
            numbers.iter().map(|number| post_of(cases.get(), *number)).collect()
        };
        runtime.block_on(async {
            for (one, other) in &waves {
                let write = |numbers| tokio::spawn(write(table_of(&stage), rows(numbers)));
                for written in join_all([write(one), write(other)]).await {
                    assert_eq!(written.unwrap().rows_rejected, 0);
                }
            }
        });
        let delivered: BTreeSet<u64> =
            waves.iter().flat_map(|(one, other)| [one, other]).flatten().copied().collect();
        let own = format!("case{}user", cases.get());
        let items = stage.rows().into_iter().filter(|item| item[0].starts_with(&own)).collect();
        assert_items(items, &rows(&delivered.into_iter().collect::<Vec<_>>()));
        Ok(())
    });
    run.unwrap();
}

/// Posts of five users, all of one second, and the rows that they are.
fn busy_second(posts: u64) -> (String, Vec<Row>) {
    let rows: Vec<_> = (0..posts).map(|id| row(&format!("user{}", id % 5), DATE, id)).collect();
    let records = rows.iter().map(|row| post(row.id.parse().unwrap(), &row.user, &row.text));
    (records.collect(), rows)
}

/// Another server that delivers the same posts to the same account, from the first on.
async fn same_feed(stage: &Stage, records: &str) -> FeedServer {
    let source = Source::Replay(Recording::parse(records.as_bytes()).unwrap());
    let options = Options::new(vec![stage.account().clone()], source, clock());
    FeedServer::start(Options { rate: NonZeroU32::new(500), ..options }).await.unwrap()
}

/// Reads from this server. Nothing here is about what TRACE says of thousands of posts, which takes time.
const fn quiet(feed_url: &str) -> [(&str, &str); 2] {
    [("FEED_URL", feed_url), ("RUST_LOG", "info")]
}

#[tokio::test]
async fn two_workers_that_get_the_same_posts_write_each_once() {
    let (records, rows) = busy_second(200);
    let stage = Stage::set(generated(1.0, 1)).await;
    let feeds = [same_feed(&stage, &records).await, same_feed(&stage, &records).await];
    let mut runs = feeds.each_ref().map(|feed| stage.start(&quiet(&feed.url())));
    for run in &mut runs {
        run.posts_read(200).await;
    }
    for run in runs {
        let ended = run.stop().await;
        assert_eq!(ended.code, Some(0));
        // Each has written them all.
        let counts = ended.events("stopped").pop().unwrap();
        assert_eq!((&counts["rows_written"], &counts["rows_rejected"]), (&200.into(), &0.into()));
    }
    assert_items(stage.rows(), &rows);
}

#[tokio::test]
async fn a_worker_that_is_killed_again_and_again_leaves_each_post_once_when_the_feed_redelivers() {
    let (records, rows) = busy_second(400);
    let stage = Stage::set(generated(1.0, 1)).await;
    let lost = Fault { one_in: 8, ..Fault::every_call(Service::DynamoDb, Effect::LoseAnswer) };
    for kill in 1..=3 {
        let feed = same_feed(&stage, &records).await;
        let mut run = stage.start(&quiet(&feed.url()));
        run.message("the stream is open").await;
        stage.world.aws.inject(lost.clone());
        while stage.world.aws.table_item_count(stage.world.table()).unwrap() < kill * 60 {
            sleep(Duration::from_millis(10)).await;
        }
        run.send(Signal::KILL);
        assert_eq!(run.end().await.code, None);
        stage.world.aws.clear_faults();
        assert!(stage.rows().len() < 400, "it was killed when all was done");
    }
    let feed = same_feed(&stage, &records).await;
    let mut run = stage.start(&quiet(&feed.url()));
    run.posts_read(400).await;
    assert_eq!(run.stop().await.code, Some(0));
    assert_items(stage.rows(), &rows);
}

/// The item under this key, whole.
fn whole_item(stage: &Stage, user: &str, date: &str) -> Value {
    let items = stage.world.aws.scan_items(stage.world.table(), usize::MAX).unwrap();
    let found =
        items.into_iter().find(|item| item["user"]["S"] == user && item["date"]["S"] == date);
    found.unwrap_or_default()
}

#[tokio::test]
async fn an_item_of_another_worker_stays_as_it_is_whatever_comes_and_however_often() {
    let stage = Stage::set(generated(1.0, 1)).await;
    // Without an id as the worker in Python has written it, and with more than that.
    put_foreign(&stage, "user", DATE, &[("text", "old")]).await;
    put_foreign(&stage, "other", DATE, &[("text", "old"), ("id", ""), ("lang", "en")]).await;
    let before = ["user", "other"].map(|user| whole_item(&stage, user, DATE));
    let rows = ["user", "other"].map(|user| [row(user, DATE, 1), row(user, DATE, 2)]).concat();
    for _ in 0..3 {
        let written = write(table_of(&stage), [rows.clone(), rows.clone()].concat()).await;
        assert_eq!((written.rows_written, written.rows_collided), (8, 8));
    }
    assert_eq!(["user", "other"].map(|user| whole_item(&stage, user, DATE)), before);
    let mut ours = stage.rows();
    ours.retain(|[_, _, text, _]| text != "old");
    ours.sort();
    let mut expected: Vec<_> = rows.iter().map(|row| item(row, false)).collect();
    expected.sort();
    assert_eq!(ours, expected);
}

#[tokio::test]
async fn a_post_whose_own_key_is_anothers_is_given_up_and_said_and_the_others_are_written() {
    let (taken, next) = (row("user", DATE, 1), row("user", DATE, 2));
    let records = [&taken, &next].map(|row| post(row.id.parse().unwrap(), &row.user, &row.text));
    let stage = Stage::set(replayed(&records.concat())).await;
    put_foreign(&stage, "user", DATE, &[("text", "old")]).await;
    put_foreign(&stage, "user", &format!("{DATE}#1"), &[("text", "older")]).await;
    let mut run = stage.start(&[]);
    run.posts_read(2).await;
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    let dropped = ended.events("a row can never be written and was dropped");
    assert_eq!((dropped.len(), &dropped[0]["id"]), (1, &"1".into()));
    assert_eq!(ended.events("stopped").pop().unwrap()["rows_rejected"], 1);
    let mut rows = stage.rows();
    rows.sort();
    let old = |date: &str, text: &str| ["user", date, text, ""].map(str::to_owned);
    let expected = [old(DATE, "old"), old(&format!("{DATE}#1"), "older"), item(&next, false)];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_post_that_is_at_its_own_key_already_stays_there_once() {
    let stage = Stage::set(generated(1.0, 1)).await;
    let (first, second) = (row("user", DATE, 1), row("user", DATE, 2));
    write(table_of(&stage), vec![first.clone()]).await;
    for _ in 0..3 {
        let written = write(table_of(&stage), vec![second.clone()]).await;
        assert_eq!((written.rows_written, written.rows_collided), (1, 1));
        let mut rows = stage.rows();
        rows.sort();
        assert_eq!(rows, [item(&first, true), item(&second, false)]);
    }
}
