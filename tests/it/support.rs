//! A world, the real worker in it, and its log.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
pub use twitterstream::clock::system as clock;
use twitterstream::demo::ecs_agent::Task;
use twitterstream::demo::feed_server::replay::Recording;
use twitterstream::demo::feed_server::{Account, FeedServer, Options, Source};
use twitterstream::demo::key_rotation::KeyRotation;
use twitterstream::demo::world::{Model, World, keys_of};
use twitterstream::feed::Dialect;

/// How long a test waits for what must come.
pub const LIMIT: Duration = Duration::from_mins(3);

/// How long for the end of a worker: `STOP_LIMIT` of [`Stage::command`], and time to read and to report.
const END: Duration = Duration::from_mins(10);

/// The worker's binary, built with the features of the test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_twitterstream"))
}

/// Generated posts, of which this share matches, up to `limit`.
pub fn generated(matching: f64, limit: u64) -> Options {
    let account = Account::generated(&mut fastrand::Rng::new());
    let source =
        Source::Generated { seed: fastrand::u64(..), track: "Amazon".to_owned(), matching };
    Options { limit: Some(limit), ..Options::new(vec![account], source, clock()) }
}

/// So many matching posts a second, without end.
pub fn flowing(rate: u32) -> Options {
    Options {
        limit: None,
        rate: NonZeroU32::new(rate),
        keep_alive: Duration::from_millis(100),
        ..generated(1.0, 0)
    }
}

/// These posts, one after the other.
pub fn replayed(records: &str) -> Options {
    let account = Account::generated(&mut fastrand::Rng::new());
    let source = Source::Replay(Recording::parse(records.as_bytes()).unwrap());
    Options::new(vec![account], source, clock())
}

/// A post of v1.1 with no more than it needs.
pub fn post(id: u64, user: &str, text: &str) -> String {
    let text = serde_json::to_string(text).unwrap();
    format!(
        r#"{{"created_at":"Wed Oct 10 20:19:24 +0000 2018","id":{id},"id_str":"{id}","text":{text},"user":{{"screen_name":"{user}"}}}}"#
    ) + "\n"
}

/// A world, and the values that no log may show.
pub struct Stage {
    pub world: World,
    account: Account,
    secrets: Mutex<Vec<String>>,
}

impl Stage {
    pub async fn set(options: Options) -> Self {
        Self::of(Model::Embedded, options).await
    }

    /// The same of a model.
    pub async fn of(model: Model, options: Options) -> Self {
        let account = options.accounts[0].clone();
        let secrets = Mutex::new(keys_of(&account).into());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let world = World::of(model, root, clock(), options).await.unwrap();
        Self { world, account, secrets }
    }

    /// The access token of the feed's account.
    pub fn access_token(&self) -> &str {
        &self.account.access_token
    }

    /// The feed's account.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// The rotation of the feed's keys.
    pub fn keys(&self) -> KeyRotation {
        KeyRotation::new(self.account.clone(), fastrand::Rng::new())
    }

    /// One more value that no log may show.
    pub fn hide(&self, secret: &str) {
        self.secrets.lock().unwrap().push(secret.to_owned());
    }

    /// New keys, that no log may show either.
    pub fn hide_keys(&self, account: &Account) {
        for key in keys_of(account) {
            self.hide(&key);
        }
    }

    /// Starts the worker on the feed's v1.1. `variables` replace or add to those of the task definition.
    pub fn start(&self, variables: &[(&str, &str)]) -> Run<'_> {
        self.run(self.command(program(), variables))
    }

    /// What starts this program as the worker is started.
    pub fn command(&self, program: &Path, variables: &[(&str, &str)]) -> Command {
        let feed_url = self.world.feed.url();
        let dialect = Dialect::TwitterV1_1.name();
        let mut overrides = vec![
            ("FEED", dialect),
            ("FEED_URL", feed_url.as_str()),
            ("RUST_LOG", "trace"),
            // As long as a busy machine may take.
            ("STOP_LIMIT", "5m"),
        ];
        overrides.extend_from_slice(variables);
        let World { aws, task_definition, .. } = &self.world;
        Task::command(task_definition, program, &overrides, aws).unwrap()
    }

    /// Starts the worker with a command of one's own.
    pub fn run(&self, command: Command) -> Run<'_> {
        let (sender, lines) = mpsc::unbounded_channel();
        let task = Task::spawn(command, &self.world.task_definition, &sender).unwrap();
        Run { stage: self, task, lines, log: Vec::new() }
    }

    /// The values that may be nowhere.
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.lock().unwrap().clone()
    }

    /// The items of the worker's table, as user, date, text and id.
    pub fn rows(&self) -> Vec<[String; 4]> {
        let items = self.world.aws.scan_items(self.world.table(), usize::MAX).unwrap();
        let attribute =
            |item: &Value, name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
        items
            .iter()
            .map(|item| ["user", "date", "text", "id"].map(|name| attribute(item, name)))
            .collect()
    }

    /// An unmodified SDK with the administrator's credentials.
    pub fn administrator(&self) -> SdkConfig {
        let key = self.world.aws.administrator();
        let credentials =
            Credentials::new(&key.access_key_id, &key.secret_access_key, None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.world.aws.region().to_owned()))
            .endpoint_url(self.world.aws.endpoint_url())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build()
    }
}

/// A worker that runs, and what it has logged so far.
pub struct Run<'a> {
    stage: &'a Stage,
    pub task: Task,
    lines: mpsc::UnboundedReceiver<String>,
    log: Vec<String>,
}

/// A worker that has ended.
pub struct Ended {
    pub code: Option<i32>,
    pub log: Vec<String>,
}

impl Run<'_> {
    /// Waits for an event of the worker's own, and returns it.
    pub async fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            while let Some(line) = self.lines.recv().await {
                let event = serde_json::from_str::<Value>(&line).unwrap_or_default();
                self.log.push(line);
                if wanted(&event) {
                    return Some(event);
                }
            }
            None
        };
        match timeout(LIMIT, waiting).await {
            Ok(Some(event)) => event,
            Ok(None) => panic!("the worker ended without it:\n{}", own(&self.log)),
            Err(elapsed) => panic!(
                "it did not come ({elapsed}) to {:?}:\n{}",
                self.stage.world.feed.statistics(),
                own(&self.log)
            ),
        }
    }

    /// Waits for an event with this message.
    pub async fn message(&mut self, message: &str) -> Value {
        self.event(|event| event["message"] == message).await
    }

    /// Waits until the worker says that it has read so many posts.
    pub async fn posts_read(&mut self, posts: u64) -> Value {
        self.event(|event| event["posts_read"].as_u64().is_some_and(|read| read >= posts)).await
    }

    /// Waits until the worker has read all that the feed has sent. The feed must not send more.
    pub async fn caught_up(&mut self, feed: &FeedServer) {
        let read = |event: &Value| {
            let count = |name: &str| event[name].as_u64();
            Some(count("posts_read")? + count("posts_doubled")?)
        };
        self.event(|event| read(event) == Some(feed.statistics().posts_sent)).await;
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.send(Signal::HUP);
    }

    /// Sends a signal.
    pub fn send(&self, signal: Signal) {
        let pid = self.task.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops the task as ECS does, and checks the log.
    pub async fn stop(self) -> Ended {
        self.task.terminate();
        self.end().await
    }

    /// Waits until the worker has ended by itself, and checks the log.
    pub async fn end(mut self) -> Ended {
        let ended = timeout(END, self.task.wait()).await;
        while let Ok(line) = self.lines.try_recv() {
            self.log.push(line);
        }
        let Ok(status) = ended else {
            panic!("the worker does not end:\n{}", own(&self.log));
        };
        while let Some(line) = self.lines.recv().await {
            self.log.push(line);
        }
        let mut secrets = self.stage.secrets.lock().unwrap().clone();
        secrets.extend(self.stage.world.feed.bearers());
        assert_no_secret(&self.log, &secrets);
        Ended { code: status.unwrap().code(), log: self.log }
    }
}

impl Ended {
    /// The events with this message.
    pub fn events(&self, message: &str) -> Vec<Value> {
        let events = self.log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["message"] == message).collect()
    }

    /// Asserts the exit code, and that the last words contain all of `words`.
    pub fn assert_says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", own(&self.log));
        let last = match self.events("ending").pop() {
            Some(event) => event["error"].as_str().unwrap_or_default().to_owned(),
            None => self.log.last().cloned().unwrap_or_default(),
        };
        for word in words {
            assert!(last.contains(word), "{word:?} is not in {last:?}");
        }
    }
}

/// Stops the feed and the worker, and asserts that all that was sent is in the table, once.
pub async fn ended_with_all(stage: &Stage, mut run: Run<'_>) -> Ended {
    stage.world.feed.wait_until(|feed| feed.posts_sent >= 10).await;
    stage.world.feed.end_posts().await;
    run.caught_up(&stage.world.feed).await;
    let ended = run.stop().await;
    assert_rows(stage, &ended);
    ended
}

/// Asserts that the table holds just what the feed has delivered, to the letter.
pub fn assert_rows(stage: &Stage, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}", own(&ended.log));
    let mut rows: Vec<_> =
        stage.rows().into_iter().map(|[user, _, text, id]| [user, text, id]).collect();
    let expected = stage.world.feed.expected_rows().into_iter();
    let mut expected: Vec<_> = expected.map(|row| [row.user, row.text, row.id]).collect();
    rows.sort();
    expected.sort();
    assert!(!expected.is_empty());
    assert_eq!(rows, expected);
}

/// Everything that was written, also by libraries at TRACE, holds no value in any encoding.
fn assert_no_secret(log: &[String], secrets: &[String]) {
    assert!(!secrets.is_empty(), "there is nothing to look for");
    let log: Vec<_> = log.iter().map(String::as_str).collect();
    if let Some(line) = holding(&log, secrets).first() {
        panic!("a secret is in the log: {line}");
    }
}

/// The lines that hold one of the values, plain, percent-encoded or in base64.
pub fn holding<'a>(lines: &[&'a str], secrets: &[String]) -> Vec<&'a str> {
    let forms = secrets.iter().flat_map(|secret| {
        let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        // At each of the three places that it can have in a longer text, such as key:secret.
        let base64 = |before: usize| {
            let longer = [vec![0; before], secret.as_bytes().to_vec()].concat();
            let encoded = aws_smithy_types::base64::encode(&longer);
            encoded[(before * 8).div_ceil(6)..longer.len() * 8 / 6].to_owned()
        };
        [secret.clone(), percent, base64(0), base64(1), base64(2)]
    });
    let forms: Vec<_> = forms.collect();
    let holds = |line: &&&str| forms.iter().any(|form| line.contains(form));
    lines.iter().filter(holds).copied().collect()
}

/// Says why a test is skipped. It is written past the harness, which hides what a test prints unless
/// it fails.
pub fn skipped(why: &str) {
    let test = std::thread::current();
    let line = format!("skipped: {why} ({})\n", test.name().unwrap_or_default());
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The last of the worker's own lines that are no posts, for a message.
pub fn own(log: &[String]) -> String {
    let other = ["\"TRACE\"", "\"message\":\"post\""];
    let own = log.iter().filter(|line| {
        line.contains("\"target\":\"twitterstream") && !other.iter().any(|part| line.contains(part))
    });
    let own: Vec<_> = own.map(String::as_str).collect();
    own[own.len().saturating_sub(40)..].join("\n")
}

#[test]
#[should_panic(expected = "a secret is in the log")]
fn a_secret_in_the_log_is_found_in_any_encoding() {
    let secret = "MARKER/secret+value".to_owned();
    let encoded = aws_smithy_types::base64::encode(format!("key:{secret}"));
    assert_no_secret(&[format!("body: {encoded}")], &[secret]);
}
