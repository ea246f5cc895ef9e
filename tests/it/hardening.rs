//! What the worker does to itself before it reads anything, what it says where the kernel refuses a
//! part of that, and what a panic says. The kernel's refusals are made by strace.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use twitterstream::process;

use crate::strace::{Strace, Trace};
use crate::support::{Run, Stage, generated, program};

/// What strace makes fail, the level that is left, and the calls that the worker names.
const REFUSALS: [(&str, &str, &[&str]); 4] = [
    ("prctl:error=EPERM:when=1", "without not-dumpable", &["prctl(PR_SET_DUMPABLE)"]),
    ("prlimit64,setrlimit:error=EPERM", "without no-core", &["setrlimit(RLIMIT_CORE)"]),
    ("prctl:error=ENOSYS:when=2", "without no-new-privileges", &["prctl(PR_SET_NO_NEW_PRIVS)"]),
    (
        "prctl,prlimit64,setrlimit:error=EPERM",
        "without not-dumpable, no-core, no-new-privileges",
        &["prctl(PR_SET_DUMPABLE)", "setrlimit(RLIMIT_CORE)", "prctl(PR_SET_NO_NEW_PRIVS)"],
    ),
];

/// The worker in a world, with system calls that fail.
fn start<'a>(
    stage: &'a Stage,
    strace: &Strace,
    injected: &str,
    variables: &[(&str, &str)],
) -> Run<'a> {
    let mut command = stage.command(Path::new("strace"), variables);
    let calls = "trace=prctl,prlimit64,setrlimit,clone,clone3,socket";
    let injected = format!("inject={injected}");
    command.args(strace.arguments(&[calls, &injected])).arg(program());
    stage.run(command)
}

async fn stage() -> Stage {
    Stage::set(generated(1.0, 10)).await
}

/// What the kernel says of a process that runs.
fn shown(pid: u32, file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_worker_that_runs_is_hardened_in_full_and_says_so() {
    let stage = stage().await;
    let mut run = stage.start(&[("HARDENING", "required")]);
    assert_eq!(run.message("starting").await["hardening"], "full");
    run.posts_read(10).await;
    let pid = run.task.id().unwrap();
    assert_eq!(shown(pid, "limits", "Max core file size"), "0 0 bytes");
    assert_eq!(shown(pid, "status", "NoNewPrivs:"), "1");
    let ended = run.stop().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.events("the kernel refused a part of the hardening").is_empty());
}

#[tokio::test]
async fn what_the_kernel_refuses_is_named_in_one_warning_and_the_worker_runs_on() {
    for (injected, level, calls) in REFUSALS {
        let Some(strace) = Strace::new() else { return };
        let stage = stage().await;
        let mut run = start(&stage, &strace, injected, &[]);
        run.posts_read(10).await;
        let ended = run.stop().await;
        assert_eq!(ended.code, Some(0));
        assert_eq!(stage.rows().len(), 10);
        assert_eq!(ended.events("starting")[0]["hardening"], level);
        let warnings = ended.events("the kernel refused a part of the hardening");
        assert_eq!((warnings.len(), &warnings[0]["level"]), (1, &"WARN".into()));
        let refused = warnings[0]["refused"].as_str().unwrap();
        assert_eq!(refused.matches("(os error ").count(), calls.len(), "{refused}");
        assert!(calls.iter().all(|call| refused.contains(call)), "{refused}");
    }
}

#[tokio::test]
async fn what_is_required_and_refused_ends_the_worker_before_it_asks_for_anything() {
    for (injected, _, calls) in REFUSALS {
        let Some(strace) = Strace::new() else { return };
        let stage = stage().await;
        let ended = start(&stage, &strace, injected, &[("HARDENING", "required")]).end().await;
        ended.assert_says(69, calls);
        ended.assert_says(69, &["HARDENING=required", "seccomp", "HARDENING=best-effort"]);
        assert_eq!(strace.trace().named("socket"), [""; 0]);
        assert!(stage.world.aws.audit().is_empty());
        assert_eq!(stage.world.feed.statistics().connects, 0);
    }
}

/// Runs the worker under strace with these variables and arguments, and nothing else.
fn alone(variables: &[(&str, &str)], arguments: &[&str]) -> Option<(Output, Trace)> {
    let strace = Strace::new()?;
    let mut command = Command::new("strace");
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(variables.iter().copied());
    command.args(strace.arguments(&["trace=prctl,prlimit64,setrlimit,write,clone,clone3,socket"]));
    let output = command.arg(program()).args(arguments).stdin(Stdio::null()).output().unwrap();
    Some((output, strace.trace()))
}

#[test]
fn it_is_hardened_before_it_looks_at_its_arguments_and_its_environment() {
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    let cases: [(&[_], &[&str], i32); 4] = [
        (&[], &["--version"], 0),
        (&[], &["unknown"], 64),
        (&[("FEED", "rss")], &[], 64),
        (&[("FEED", "twitter-v1.1"), off], &[], 69),
    ];
    for (variables, arguments, code) in cases {
        let Some((output, trace)) = alone(variables, arguments) else { return };
        assert_eq!(output.status.code(), Some(code));
        let measures = ["PR_SET_DUMPABLE", "RLIMIT_CORE", "PR_SET_NO_NEW_PRIVS"];
        let hardens = |line: &str| measures.iter().any(|measure| line.contains(measure));
        // What it answers is the first sign that it has read; the C library's own start is not.
        let own = trace.calls().filter(|(name, line)| {
            hardens(line) || !matches!(*name, "prctl" | "prlimit64" | "setrlimit")
        });
        let own: Vec<_> = own.map(|(_, line)| line).collect();
        assert!(own.len() > measures.len(), "{own:?}");
        for (line, measure) in own.iter().zip(measures) {
            assert!(line.contains(measure), "{measure} is not first: {own:?}");
        }
    }
}

/// The first thread is the log's. The next is to look up the feed's name, and cannot be had: a
/// runtime without threads panics.
#[tokio::test]
async fn a_panic_with_the_secrets_in_memory_is_exit_70_with_the_place_and_nothing_else() {
    let Some(strace) = Strace::new() else { return };
    let stage = stage().await;
    let feed_url = stage.world.feed.url().replace("127.0.0.1", "localhost");
    assert!(feed_url.contains("//localhost:"), "{feed_url}");
    // After the threads of the log and of the writers comes that of the first lookup of a name.
    let writers = thread::available_parallelism().unwrap().get().min(2);
    let injected = format!("clone,clone3:error=EAGAIN:when={}+", 2 + writers);
    let ended = start(&stage, &strace, &injected, &[("FEED_URL", &feed_url)]).end().await;
    let fetched = stage.world.aws.audit();
    let fetched = fetched.iter().filter(|record| record.event_name == "GetSecretValue");
    assert_eq!(fetched.count(), 4, "{}", crate::support::own(&ended.log));
    assert_eq!(ended.code, Some(70));
    let panics: Vec<_> = ended.log.iter().filter(|line| line.contains("panic")).collect();
    assert_eq!(panics.len(), 1, "{panics:?}");
    let line = panics[0];
    assert!(line.starts_with("twitterstream: a bug: panic at ") && line.contains(".rs:"), "{line}");
    assert!(line.ends_with(" with a message"), "{line}");
    // What the panic said.
    assert!(!ended.log.iter().any(|line| line.contains("spawn worker thread")), "{line}");
}

#[tokio::test]
async fn a_system_that_gives_no_thread_is_said_to() {
    let Some(strace) = Strace::new() else { return };
    let stage = stage().await;
    let ended = start(&stage, &strace, "clone,clone3:error=EAGAIN:when=2+", &[]).end().await;
    ended.assert_says(69, &["the worker could not start its threads", "os error 11"]);
}

/// What [`end_on_panic`](process::end_on_panic) is tested with, in a process of its own.
const PAYLOAD: &str = "PANIC_PAYLOAD";

#[test]
#[ignore = "it ends its process; another test starts it"]
fn panics() {
    let Ok(payload) = std::env::var(PAYLOAD) else { return };
    process::end_on_panic(70);
    match payload.as_str() {
        "literal" => panic!("MARKER"),
        "formatted" => panic!("{}{}", "MAR", "KER"),
        _ => std::panic::panic_any(vec!["MARKER"]),
    }
}

#[test]
fn a_panic_never_shows_its_payload() {
    for (payload, kind) in [
        ("literal", "a message"),
        ("formatted", "a message"),
        ("other", "a payload of an unknown type"),
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "hardening::panics", "--ignored", "--nocapture"]);
        let output = command.env(PAYLOAD, payload).output().unwrap();
        assert_eq!(output.status.code(), Some(70));
        let error = String::from_utf8(output.stderr).unwrap();
        let place = "twitterstream: a bug: panic at tests/it/hardening.rs:";
        assert!(error.contains(place) && error.contains(&format!(" with {kind}\n")), "{error}");
        assert!(!error.contains("MARKER"), "{error}");
        assert!(!String::from_utf8(output.stdout).unwrap().contains("MARKER"));
    }
}
