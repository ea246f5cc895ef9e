//! A process under strace: the system calls that it makes, and those that are made to fail.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{holding, skipped};

/// A place for one trace.
pub struct Strace(TempDir);

/// Why nothing can be traced here.
fn obstacle() -> Option<String> {
    match Command::new("strace").args(["-f", "-e", "trace=none", "true"]).output() {
        Err(error) => Some(format!("strace cannot be started: {error}")),
        Ok(output) if !output.status.success() => {
            Some(format!("strace may not trace: {}", output.stderr.escape_ascii()))
        }
        Ok(_) => None,
    }
}

/// Whether strace can read the strings that a process passes once it has made itself undumpable. Names
/// of calls, numbers and flags it always sees.
fn reads_the_undumpable() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let capabilities = u64::from_str_radix(capabilities.trim(), 16).unwrap();
    // CAP_SYS_PTRACE is number 19 (linux/capability.h).
    capabilities >> 19 & 1 == 1
}

impl Strace {
    /// `None`, with a word why, where nothing can be traced.
    pub fn new() -> Option<Self> {
        if let Some(obstacle) = obstacle() {
            skipped(&obstacle);
            return None;
        }
        Some(Self(TempDir::new().unwrap()))
    }

    /// The same, for a trace of the worker's strings.
    pub fn of_strings() -> Option<Self> {
        if !reads_the_undumpable() {
            skipped("no CAP_SYS_PTRACE");
            return None;
        }
        Self::new()
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("trace")
    }

    /// The arguments of strace, to be followed by a program and its own. The program becomes the
    /// process that was started, and strace its child (`-D`), so that signals and the exit code are
    /// the program's. Strings are whole (`-s`), and so is the environment (`-v`).
    pub fn arguments(&self, expressions: &[&str]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-D", "-f", "-v", "-s", "65536", "-o"].map(OsString::from).into();
        arguments.push(self.file().into());
        for expression in expressions {
            arguments.extend(["-e".into(), OsString::from(expression)]);
        }
        arguments
    }

    /// What was traced. It is complete once the output of the program has ended: strace has it too.
    pub fn trace(&self) -> Trace {
        Trace(std::fs::read_to_string(self.file()).unwrap())
    }
}

/// System calls, a line each.
pub struct Trace(String);

impl Trace {
    /// The calls, as name and line. What a line resumes was begun in an earlier one.
    pub fn calls(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| {
            let (_thread, call) = line.split_once(' ')?;
            let (name, _) = call.trim_start().split_once('(')?;
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(())?;
            Some((name, line))
        })
    }

    fn select(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<&str> {
        self.calls().filter(|(name, line)| wanted(name, line)).map(|(_, line)| line).collect()
    }

    /// Calls of this name.
    pub fn named(&self, name: &str) -> Vec<&str> {
        self.select(|call, _| call == name)
    }

    /// Programs that were started after the first, which is the one that is traced.
    pub fn programs(&self) -> Vec<&str> {
        let mut programs = self.select(|call, _| matches!(call, "execve" | "execveat"));
        programs.drain(..1);
        programs
    }

    /// Processes that were started. A thread is none.
    pub fn processes(&self) -> Vec<&str> {
        self.select(|call, line| match call {
            "fork" | "vfork" => true,
            "clone" | "clone3" => !line.contains("CLONE_THREAD"),
            _ => false,
        })
    }

    /// Files that were made, changed, or opened for that.
    pub fn files(&self) -> Vec<&str> {
        self.select(|call, line| match call {
            "open" | "openat" | "openat2" => {
                ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag))
                    && !line.contains("\"/dev/null\"")
            }
            "creat" | "memfd_create" | "rename" | "renameat" | "renameat2" | "link" | "linkat"
            | "symlink" | "symlinkat" | "mkdir" | "mkdirat" | "mknod" | "mknodat" | "truncate"
            // A file that is opened this way has no call of its own.
            | "io_uring_setup" => true,
            _ => false,
        })
    }

    /// Lines that hold one of the values, in any encoding.
    pub fn holding(&self, secrets: &[String]) -> Vec<&str> {
        holding(&self.0.lines().collect::<Vec<_>>(), secrets)
    }
}
