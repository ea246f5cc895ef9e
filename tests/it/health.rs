//! What a worker says of its health, to whoever asks and in the log, and who gets no answer.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use twitterstream::demo::local_aws::{Effect, Fault, Service};
use twitterstream::demo::world::{SECRETS, keys_of};

use crate::support::{LIMIT, Run, Stage, flowing, generated, post, program, replayed, skipped};

/// Nobody's.
const USER: u32 = 65_534;

/// Asks with this `SPOOL_DIR`: the exit code, and the answer.
fn ask_with(program: &Path, folder: Option<&Path>) -> (i32, Value) {
    let mut command = Command::new(program);
    command.env_clear().envs(folder.map(|folder| ("SPOOL_DIR", folder)));
    let output = command.arg("health").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((text.lines().count(), output.stderr.as_slice()), (1, &b""[..]), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(!answer["reason"].as_str().unwrap().is_empty(), "{answer}");
    (output.status.code().unwrap(), answer)
}

fn ask(folder: &Path) -> (i32, Value) {
    ask_with(program(), Some(folder))
}

/// A folder, and the variables that make it a worker's.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn variable(&self) -> (&str, &str) {
        ("SPOOL_DIR", self.path().to_str().unwrap())
    }
}

/// Waits until the log says that the worker is in this state.
async fn said(run: &mut Run<'_>, state: &str) -> Value {
    run.event(|event| event["message"] == "health" && event["state"] == state).await
}

/// What throttles each call of a service.
fn throttled() -> Effect {
    Effect::error(400, "ThrottlingException")
}

#[tokio::test]
async fn a_worker_starts_is_ok_is_degraded_while_the_table_is_away_and_is_ok_again() {
    let stage = Stage::set(flowing(50)).await;
    let place = Place::new();
    stage.world.aws.inject(Fault::every_call(Service::SecretsManager, throttled()));
    let mut run = stage.start(&[place.variable()]);
    said(&mut run, "starting").await;
    let (code, answer) = ask(place.path());
    assert_eq!(
        (code, &answer["state"], &answer["healthy"]),
        (1, &"starting".into(), &false.into())
    );

    stage.world.aws.clear_faults();
    let event = said(&mut run, "ok").await;
    let secrets = event["secrets"].as_str().unwrap();
    for secret in SECRETS {
        assert!(secrets.contains(&format!("{secret} at ")), "{secrets}");
    }
    let (code, answer) = ask(place.path());
    assert_eq!((code, &answer["state"]), (0, &"ok".into()));
    for age in ["generation_age_seconds", "last_look_age_seconds", "stream_age_seconds"] {
        assert!(answer[age].is_u64(), "{answer}");
    }

    stage.world.aws.inject(Fault::every_call(Service::DynamoDb, Effect::Hang));
    let event = said(&mut run, "degraded").await;
    assert_eq!((&event["level"], &event["healthy"]), (&"WARN".into(), &true.into()));
    let (code, answer) = ask(place.path());
    assert_eq!((code, &answer["state"], &answer["healthy"]), (0, &"degraded".into(), &true.into()));
    assert!(answer["rows_waiting"].as_u64().unwrap() > 0, "{answer}");

    stage.world.aws.clear_faults();
    said(&mut run, "ok").await;
    assert_eq!(ask(place.path()).1["state"], "ok");
    stage.world.feed.end_posts().await;
    run.caught_up(&stage.world.feed).await;
    assert_eq!(run.stop().await.code, Some(0));
}

#[tokio::test]
async fn a_worker_that_cannot_look_at_its_secrets_is_stale_and_is_left_alone() {
    let stage = Stage::set(flowing(10)).await;
    let place = Place::new();
    let mut run = stage.start(&[place.variable(), ("ROTATION_POLL", "1s")]);
    said(&mut run, "ok").await;
    stage.world.aws.inject(Fault::every_call(Service::SecretsManager, throttled()));
    said(&mut run, "stale").await;
    let (code, answer) = ask(place.path());
    assert_eq!((code, &answer["state"]), (0, &"stale".into()));
    assert!(answer["last_look_age_seconds"].as_u64() >= Some(13), "{answer}");
    stage.world.aws.clear_faults();
    said(&mut run, "ok").await;
    assert_eq!(run.stop().await.code, Some(0));
}

#[tokio::test]
async fn a_worker_that_drops_rows_fails_and_is_not_replaced_while_rows_wait() {
    // More than memory and the smallest spool hold.
    let text = format!("amazon {}", "x".repeat(100_000));
    let posts = (0..380).map(|id| post(id, &format!("user{id}"), &text));
    let stage = Stage::set(replayed(&posts.collect::<String>())).await;
    let place = Place::new();
    let variables = [("SPOOL_BYTES", "1MiB"), ("STOP_LIMIT", "1h"), ("RUST_LOG", "info")];
    let mut run = stage.start(&[&variables[..], &[place.variable()]].concat());
    run.message("the stream is open").await;
    stage.world.aws.inject(Fault::every_call(Service::DynamoDb, Effect::Reset));
    let event = said(&mut run, "failing").await;
    assert_eq!((&event["level"], &event["healthy"]), (&"ERROR".into(), &true.into()));
    assert!(event["reason"].as_str().unwrap().contains("rows were dropped"), "{event}");
    assert_eq!(ask(place.path()).0, 0);

    run.task.terminate();
    said(&mut run, "draining").await;
    let (code, answer) = ask(place.path());
    assert_eq!((code, &answer["state"]), (0, &"draining".into()));
    assert!(answer["reason"].as_str().unwrap().contains("rows wait on the disk"), "{answer}");
    // A second signal ends it at once.
    run.task.terminate();
    assert_eq!(run.end().await.code, Some(69));
    assert!(!place.path().join("health.sock").exists(), "the socket is still there");
}

#[tokio::test]
async fn a_worker_of_injected_credentials_is_asked_as_well() {
    let injected = Path::new(env!("CARGO_BIN_EXE_injected"));
    let stage = Stage::set(generated(1.0, 10)).await;
    let values = keys_of(stage.account());
    let mut variables: Vec<_> =
        SECRETS.into_iter().zip(values.iter().map(String::as_str)).collect();
    let place = Place::new();
    variables.push(place.variable());
    let mut run = stage.run(stage.command(injected, &variables));
    let event = said(&mut run, "ok").await;
    assert!(event["secrets"].as_str().unwrap().contains("at injected for"), "{event}");
    // Its own variables are there when ECS asks, too.
    let asking = stage.command(injected, &variables).arg("health").output().await.unwrap();
    assert_eq!(asking.status.code(), Some(0), "{asking:?}");
    let (code, answer) = ask_with(injected, Some(place.path()));
    assert_eq!((code, &answer["state"]), (0, &"ok".into()));
    assert_eq!(run.stop().await.code, Some(0));
}

#[tokio::test]
async fn clients_that_say_nothing_stay_or_do_not_listen_hold_up_nobody() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let place = Place::new();
    let mut run = stage.start(&[place.variable()]);
    said(&mut run, "ok").await;
    let socket = place.path().join("health.sock");
    let silent: Vec<_> = (0..500).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for mut loud in (0..50).map(|_| UnixStream::connect(&socket).unwrap()) {
        // The worker may have closed it.
        let _ = loud.write_all(&vec![b'x'; 100_000]);
    }
    // Each question has two seconds, which may be few on a busy machine.
    let begun = Instant::now();
    while ask(place.path()).1["state"] != "ok" {
        assert!(begun.elapsed() < LIMIT, "it does not answer");
    }
    run.posts_read(10).await;
    assert_eq!(run.stop().await.code, Some(0));
    drop(silent);
}

#[tokio::test]
async fn the_socket_is_the_workers_own_replaced_after_a_kill_and_left_to_whoever_lives() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let place = Place::new();
    let socket = place.path().join("health.sock");
    let mut run = stage.start(&[place.variable()]);
    said(&mut run, "ok").await;
    let data = fs::metadata(&socket).unwrap();
    assert!(data.file_type().is_socket());
    assert_eq!(data.permissions().mode() & 0o777, 0o600);
    run.send(Signal::KILL);
    run.end().await;
    assert!(socket.exists(), "a killed process cannot have taken it away");
    let (code, answer) = ask(place.path());
    assert_eq!((code, &answer["state"]), (1, &"unknown".into()), "nobody answers");

    let mut run = stage.start(&[place.variable()]);
    said(&mut run, "ok").await;
    assert_eq!(ask(place.path()).0, 0);
    let mut second = stage.start(&[place.variable(), ("RUST_LOG", "info")]);
    let said_no = second.message("nobody can ask for the worker's health; it runs on").await;
    assert!(said_no["error"].as_str().unwrap().contains("another worker's"), "{said_no}");
    assert_eq!(said_no["level"], "ERROR");
    said(&mut second, "ok").await;
    second.stop().await;
    assert_eq!(ask(place.path()).0, 0, "the first one's is gone");
    assert_eq!(run.stop().await.code, Some(0));
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_path_that_is_too_long_or_taken_is_said_and_stops_nothing() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let place = Place::new();
    let long = place.path().join("x".repeat(100));
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("health.sock"), b"kept").unwrap();
    for (folder, word) in [(&long, "longer than the 107 bytes"), (&other, "it is no socket")] {
        let mut run = stage.start(&[("SPOOL_DIR", folder.to_str().unwrap())]);
        let event = run.message("nobody can ask for the worker's health; it runs on").await;
        assert!(event["error"].as_str().unwrap().contains(word), "{event}");
        said(&mut run, "ok").await;
        assert_eq!(run.stop().await.code, Some(0));
    }
    assert_eq!(fs::read(other.join("health.sock")).unwrap(), b"kept");
    let (code, answer) = ask(&long);
    assert_eq!(code, 64);
    assert!(answer["reason"].as_str().unwrap().contains("longer than the 107 bytes"), "{answer}");
}

#[tokio::test]
async fn another_user_gets_no_answer_even_where_the_file_lets_it_connect() {
    if !rustix::process::geteuid().is_root() {
        return skipped("not root");
    }
    let stage = Stage::set(generated(1.0, 10)).await;
    let place = Place::new();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let client = place.path().join("client");
    let mut install = Command::new("install");
    assert!(install.args(["-m", "755"]).args([program(), &client]).status().unwrap().success());
    let mut run = stage.start(&[place.variable()]);
    said(&mut run, "ok").await;
    let ask_as = |user: u32| {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&client);
        command.env_clear().env("SPOOL_DIR", place.path()).arg("health").stdin(Stdio::null());
        let output = command.uid(user).gid(user).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), answer["reason"].as_str().unwrap().to_owned())
    };
    let (code, reason) = ask_as(USER);
    assert_eq!(code, Some(1));
    assert!(reason.contains("Permission denied"), "{reason}");
    let socket = place.path().join("health.sock");
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    for _ in 0..3 {
        let (code, reason) = ask_as(USER);
        assert_eq!(code, Some(1));
        assert!(reason.contains("its own user and root alone"), "{reason}");
    }
    // The same client is answered as root.
    assert_eq!(ask_as(0).0, Some(0));
    let ended = run.stop().await;
    let refused = ended.events("another user has asked for the worker's health and gets no answer");
    assert_eq!((refused.len(), &refused[0]["uid"]), (1, &USER.into()));

    // Of a worker that is not root its own user has an answer.
    chown(place.path(), Some(USER), Some(USER)).unwrap();
    let mut command = stage.command(&client, &[place.variable()]);
    command.uid(USER).gid(USER);
    let mut run = stage.run(command);
    said(&mut run, "ok").await;
    assert_eq!((ask_as(USER).0, ask_as(0).0), (Some(0), Some(0)));
    assert_eq!(run.stop().await.code, Some(0));
}

#[test]
fn without_a_folder_for_the_socket_it_says_so() {
    let (code, answer) = ask_with(program(), None);
    assert_eq!((code, &answer["state"]), (64, &"unknown".into()));
    assert!(answer["reason"].as_str().unwrap().contains("no SPOOL_DIR"), "{answer}");
    let (code, answer) = ask(Path::new("relative"));
    assert_eq!(code, 64);
    assert!(answer["reason"].as_str().unwrap().contains("SPOOL_DIR: expected"), "{answer}");
}

#[test]
fn the_exit_code_is_the_workers_word_and_1_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(ask(folder.path()).0, 1, "there is no socket");
    let listener = UnixListener::bind(folder.path().join("health.sock")).unwrap();
    let answers = [
        (r#"{"state":"failing","reason":"r","healthy":false}"#, 1, "failing"),
        (r#"{"state":"failing","reason":"r","healthy":true}"#, 0, "failing"),
        (r#"{"state":"ok","reason":"r"}"#, 1, "unknown"),
        ("[1]", 1, "unknown"),
        ("", 1, "unknown"),
    ];
    for (line, code, state) in answers {
        let (found, answer) = std::thread::scope(|scope| {
            let answering = || listener.accept().unwrap().0.write_all(line.as_bytes()).unwrap();
            scope.spawn(answering);
            ask(folder.path())
        });
        assert_eq!((found, &answer["state"]), (code, &state.into()), "{line}");
    }
    // Nobody takes the connection.
    let (code, answer) = ask(folder.path());
    assert_eq!(code, 1);
    assert!(answer["reason"].as_str().unwrap().contains("has not answered in 2s"), "{answer}");
}

#[tokio::test]
async fn a_worker_that_hangs_gives_no_answer() {
    let stage = Stage::set(generated(1.0, 10)).await;
    let place = Place::new();
    let mut run = stage.start(&[place.variable()]);
    said(&mut run, "ok").await;
    run.send(Signal::STOP);
    let begun = Instant::now();
    while ask(place.path()).0 == 0 {
        assert!(begun.elapsed() < Duration::from_mins(1), "it is not stopped");
        sleep(Duration::from_millis(10)).await;
    }
    run.send(Signal::CONT);
    while ask(place.path()).0 == 1 {
        assert!(begun.elapsed() < Duration::from_mins(1), "it does not go on");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(run.stop().await.code, Some(0));
}
