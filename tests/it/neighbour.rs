//! What a process of the same user can have of the worker: its command line and what the kernel
//! counts of it, and nothing that holds a value.
//!
//! The worker and its neighbour run as a user that is not root, as in the image. The neighbour is
//! this test's own program, started a second time for the test that is ignored otherwise.

use std::fs::File;
use std::io::{IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Run, Stage, generated, holding, program, skipped};

/// Nobody's. In the image it is 65532 (distroless `nonroot`); any other than root is alike.
const USER: u32 = 65_534;

/// Whom the neighbour looks at: a process id; `child` is one that it starts itself, so that Yama
/// does not object where it is at work (`ptrace_scope` 1).
const TARGET: &str = "NEIGHBOUR_TARGET";

/// A folder that the user can reach and write, with the worker in it.
struct Place {
    directory: TempDir,
    worker: PathBuf,
}

impl Place {
    /// `None`, with a word why, where there can be none.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped("not root");
            return None;
        }
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(directory.path(), Some(USER), Some(USER)).unwrap();
        let worker = directory.path().join("worker");
        copy(program(), &worker);
        let place = Self { directory, worker };
        match place.as_user(&place.worker).arg("--version").output() {
            Ok(output) if output.status.success() => Some(place),
            Ok(output) => {
                panic!("the worker's copy does not run: {}", output.stderr.escape_ascii())
            }
            Err(error) => {
                skipped(&format!("the folder of temporary files is not to be reached: {error}"));
                None
            }
        }
    }

    /// A program that the user runs, in this folder.
    fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.uid(USER).gid(USER).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// What the neighbour could have.
    fn look(&self, target: &str) -> Vec<(String, String)> {
        let neighbour = self.directory.path().join("neighbour");
        copy(&std::env::current_exe().unwrap(), &neighbour);
        let mut command = self.as_user(&neighbour);
        command.args(["--exact", "neighbour::looks", "--ignored", "--nocapture"]);
        let output = command.env(TARGET, target).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", output.stderr.escape_ascii());
        let lines = text.lines().filter_map(|line| line.strip_prefix("attempt "));
        let lines = lines.map(|line| line.split_once(": ").unwrap());
        lines.map(|(attempt, result)| (attempt.to_owned(), result.to_owned())).collect()
    }

    /// The core files in this folder.
    fn cores(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| *path != self.worker).collect()
    }

    /// The worker, as this user, with room for a core file.
    fn start<'a>(&self, stage: &'a Stage) -> Run<'a> {
        let mut command = stage.command(Path::new("sh"), &[("HARDENING", "required")]);
        command.args(["-c", ROOM_FOR_CORES]).arg(&self.worker);
        command.uid(USER).gid(USER).current_dir(self.directory.path());
        stage.run(command)
    }
}

/// Copies a program, in a process of its own: a test beside this one could start a process while the
/// copy is open for writing here, which would hold it open, and the copy could not be started.
fn copy(from: &Path, to: &Path) {
    let mut install = Command::new("install");
    assert!(install.args(["-m", "755"]).args([from, to]).status().unwrap().success());
}

/// A script that starts its arguments with as much room for a core file as may be had.
const ROOM_FOR_CORES: &str = r#"ulimit -S -c "$(ulimit -H -c)" && exec "$0" "$@""#;

/// A place in a process that can be read, as its maps have it.
fn readable(maps: &str) -> Option<u64> {
    let line = maps.lines().find(|line| line.split(' ').nth(1).unwrap().starts_with('r'))?;
    u64::from_str_radix(line.split('-').next()?, 16).ok()
}

/// Everything that a process of the same user may try, and what came of it.
fn attempts(pid: u32) -> Vec<(&'static str, io::Result<usize>)> {
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let maps = fs::read_to_string(path("maps"));
    // Where there are no maps a guess must do; permission is asked before the place is looked at.
    let place = maps.as_deref().ok().and_then(readable).unwrap_or(0x1_0000);
    let memory = || {
        let mut memory = File::open(path("mem"))?;
        memory.seek(SeekFrom::Start(place))?;
        memory.read(&mut [0; 16])
    };
    let descriptors = || Ok(fs::read_dir(path("fd"))?.count());
    let target = Pid::from_raw(pid.try_into().unwrap());
    let attached = || {
        ptrace::attach(target)?;
        waitpid(target, None)?;
        ptrace::detach(target, None)?;
        Ok(1)
    };
    let copied = || {
        let mut copy = [0; 16];
        let remote = RemoteIoVec { base: usize::try_from(place).unwrap(), len: copy.len() };
        Ok(process_vm_readv(target, &mut [IoSliceMut::new(&mut copy)], &[remote])?)
    };
    vec![
        ("environ", fs::read(path("environ")).map(|environ| environ.len())),
        ("maps", maps.map(|maps| maps.len())),
        ("mem", memory()),
        ("auxv", fs::read(path("auxv")).map(|auxv| auxv.len())),
        ("exe", fs::read_link(path("exe")).map(|exe| exe.as_os_str().len())),
        ("fd", descriptors()),
        ("fd/0", File::open(path("fd/0")).map(|_| 1)),
        ("ptrace", attached()),
        ("process_vm_readv", copied()),
    ]
}

#[test]
#[ignore = "it is the neighbour; another test starts it, as another user"]
fn looks() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let mut child = None;
    let pid = target.parse().unwrap_or_else(|_| {
        let mut cat = Command::new("cat");
        let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // What it has copied shows that it is at work; before that it has no environment yet.
        cat.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child.insert(cat).id()
    });
    // The test harness may have begun a line.
    let mut output = io::stdout();
    writeln!(output).unwrap();
    for (attempt, result) in attempts(pid) {
        match result {
            Ok(length) => writeln!(output, "attempt {attempt}: got {length}").unwrap(),
            Err(error) => writeln!(output, "attempt {attempt}: {:?}", error.kind()).unwrap(),
        }
    }
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

async fn stage() -> Stage {
    Stage::set(generated(1.0, 10)).await
}

#[tokio::test]
async fn a_process_of_the_same_user_gets_no_value_and_can_get_them_of_another() {
    let Some(place) = Place::new() else { return };
    let stage = stage().await;
    let mut run = place.start(&stage);
    run.posts_read(10).await;
    let pid = run.task.id().unwrap();
    let attempts = place.look(&pid.to_string());
    assert_eq!(attempts.len(), 9);
    for (attempt, result) in &attempts {
        assert_eq!(result, "PermissionDenied", "{attempt}");
    }

    // What stays readable, to everybody, holds no value.
    let read = |name: &str| {
        let mut cat = place.as_user(Path::new("cat"));
        let output = cat.arg(format!("/proc/{pid}/{name}")).output().unwrap();
        assert!(output.status.success(), "{name}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(read("cmdline"), format!("{}\0", place.worker.display()));
    assert!(read("status").contains(&format!("\nUid:\t{USER}\t{USER}\t{USER}\t{USER}\n")));
    let secrets = stage.secrets();
    for name in ["cmdline", "status", "stat", "comm", "limits"] {
        assert_eq!(holding(&[&read(name)], &secrets), [""; 0], "{name}");
    }
    assert_eq!(run.stop().await.code, Some(0));

    // The same neighbour, and a process that is not hardened.
    let attempts = place.look("child");
    assert_eq!(attempts.len(), 9);
    for (attempt, result) in &attempts {
        assert!(
            result.strip_prefix("got ").is_some_and(|length| length != "0"),
            "{attempt}: {result}"
        );
    }
}

#[tokio::test]
async fn an_abort_leaves_no_core_and_another_process_leaves_one() {
    let Some(place) = Place::new() else { return };
    let stage = stage().await;
    let mut run = place.start(&stage);
    run.posts_read(10).await;
    run.send(Signal::ABORT);
    let status = run.task.wait().await.unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    assert_eq!(place.cores(), [""; 0].map(PathBuf::from));

    let mut shell = place.as_user(Path::new("sh"));
    let abort = "ulimit -c >&2; kill -ABRT $$";
    let output = shell.args(["-c", ROOM_FOR_CORES, "sh", "-c", abort]).output().unwrap();
    assert_eq!(output.status.signal(), Some(6));
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if output.stderr == b"0\n" || pattern.trim().is_empty() || pattern.contains(['|', '/']) {
        skipped(&format!("the control: no core file is to be had here, pattern {pattern:?}"));
        return;
    }
    assert!(output.status.core_dumped());
    assert_eq!(place.cores().len(), 1);
}
