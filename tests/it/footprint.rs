//! What the worker leaves behind outside of itself, seen from the kernel: it starts no process,
//! writes no file, and no secret is in an argument of either.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use twitterstream::demo::feed_server::Options;
use twitterstream::demo::key_rotation::Order;

use crate::strace::{Strace, Trace};
use crate::support::{Stage, generated, program};

/// The calls that start processes and those that name a file, with those that `file` leaves out.
const CALLS: &str = "trace=process,file,memfd_create,io_uring_setup,prctl";

#[tokio::test]
async fn a_run_with_a_rotation_starts_no_process_writes_no_file_and_passes_no_secret() {
    let Some(strace) = Strace::of_strings() else { return };
    let options = Options {
        limit: None,
        rate: NonZeroU32::new(100),
        keep_alive: Duration::from_millis(100),
        ..generated(1.0, 0)
    };
    let stage = Stage::set(options).await;
    let mut command = stage.command(Path::new("strace"), &[("ROTATION_POLL", "1s")]);
    command.args(strace.arguments(&[CALLS])).arg(program());
    let mut run = stage.run(command);
    run.message("the stream is open").await;
    let mut keys = stage.keys();
    keys.rotate(&stage.world, Order::Overlap).unwrap();
    stage.hide_keys(keys.account());
    run.message("rotated: a new set of credentials is in use").await;
    keys.end_overlap(&stage.world);
    assert_eq!(run.stop().await.code, Some(0));
    assert!(!stage.rows().is_empty());

    let trace = strace.trace();
    let secrets = stage.secrets();
    assert_eq!(secrets.len(), 8);
    assert_eq!(trace.programs(), [""; 0]);
    assert_eq!(trace.processes(), [""; 0]);
    assert_eq!(trace.files(), [""; 0]);
    assert_eq!(trace.holding(&secrets), [""; 0]);
    // It is a trace of the whole run, and its arguments could be read also once it was undumpable.
    assert!(trace.named("execve")[0].contains("ROTATION_POLL=1s"));
    assert!(trace.named("clone3").len() + trace.named("clone").len() > 0);
    assert!(trace.named("openat").iter().all(|line| line.contains('"')));
    assert_eq!(trace.named("exit_group").len(), 1);
}

/// What a shell does with this script, under the same eyes.
fn shell(script: &str, arguments: &[&str]) -> Option<Trace> {
    let strace = Strace::new()?;
    let mut command = Command::new("strace");
    command.args(strace.arguments(&[CALLS])).args(["sh", "-c", script, "sh"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    Some(strace.trace())
}

#[test]
fn a_process_a_program_a_file_and_a_secret_would_be_seen() {
    let secrets = ["MARKER/of+a secret".to_owned()];
    let Some(quiet) = shell("read line < /dev/null; echo > /dev/null", &[]) else { return };
    assert_eq!((quiet.programs(), quiet.processes(), quiet.files()), (vec![], vec![], vec![]));
    assert_eq!(quiet.holding(&secrets), [""; 0]);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let written = shell("echo text > \"$1\"", &[file.to_str().unwrap()]).unwrap();
    assert!(written.files().iter().any(|line| line.contains(file.to_str().unwrap())));
    let renamed = shell("exec mv \"$1\" \"$1.new\"", &[file.to_str().unwrap()]).unwrap();
    assert!(renamed.files().iter().any(|line| line.contains("rename")));
    assert!(!renamed.programs().is_empty());

    assert_eq!(shell("(true); true", &[]).unwrap().processes().len(), 1);
    let base64 = aws_smithy_types::base64::encode(&secrets[0]);
    for form in [&secrets[0], "MARKER%2Fof%2Ba+secret", base64.trim_end_matches('=')] {
        // The first line is the shell's own start, which must hold it to hand it on.
        let passed = shell("exec true \"$1\"", &[form]).unwrap();
        assert!(!passed.programs().is_empty());
        assert_eq!(passed.holding(&secrets)[1..], passed.programs());
        let variable = shell("M=\"$1\" exec true", &[form]).unwrap();
        assert!(!variable.programs().is_empty());
        assert_eq!(variable.holding(&secrets)[1..], variable.programs());
        let opened = shell("read line < \"$1\" || true", &[form]).unwrap();
        assert_eq!(opened.holding(&secrets).len(), 2, "{form}");
    }
}
