//! Where the tasks under attack run, and the commands of whoever attacks them: as root the workers
//! and their neighbours run as a user of their own, as in the image; otherwise all are of one user.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use memchr::memmem;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Error, Obstacle, Programs};
use crate::credentials::spellings;

/// The image's user.
pub(super) const USER: u32 = 65_532;

/// How long a command may take: one that reads all memory takes its time on a busy machine.
const LIMIT: Duration = Duration::from_mins(2);

/// A folder of the worker's user, with programs that it can run.
pub(super) struct Place {
    folder: TempDir,
    /// The worker's user where that is not the one that runs this.
    user: Option<u32>,
    pub(super) programs: Programs,
}

impl Place {
    pub(super) fn new(programs: &Programs) -> Result<Self, Error> {
        let user = rustix::process::geteuid().is_root().then_some(USER);
        let mut place = Self { folder: folder(user)?, user, programs: programs.clone() };
        let Some(user) = user else { return Ok(place) };
        let copied = |name: &str, program: &Path| -> Result<PathBuf, Error> {
            if place.can_run(program) {
                return Ok(program.to_owned());
            }
            let copy = place.folder.path().join(name);
            // In a process of its own: what this one holds open for writing, another could not start.
            let mut install = Blocking::new("install");
            let install = install.args(["-m", "755"]).args([program, copy.as_path()]).status();
            let done = install.map_err(|source| attack("a program cannot be copied", source))?;
            if done.success() && place.can_run(&copy) {
                Ok(copy)
            } else {
                Err(Error::Unreachable(user))
            }
        };
        let programs = Programs {
            embedded: copied("twitterstream", &programs.embedded)?,
            injected: copied("injected", &programs.injected)?,
            unhardened: copied("injected-unhardened", &programs.unhardened)?,
        };
        place.programs = programs;
        Ok(place)
    }

    fn can_run(&self, program: &Path) -> bool {
        let mut command = Blocking::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user).current_dir("/");
        }
        command.status().is_ok_and(|status| status.success())
    }

    /// Whether this is root, which some attacks take.
    pub(super) fn as_root(&self) -> Result<(), Obstacle> {
        match self.user {
            Some(_) => Ok(()),
            None => Err(Obstacle::Skip("it takes root".to_owned())),
        }
    }

    /// A folder for a task: its working directory and its volume.
    pub(super) fn folder(&self) -> Result<TempDir, Error> {
        folder(self.user)
    }

    /// Makes a command one of the worker's user.
    pub(super) fn as_user(&self, command: &mut Command) {
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
    }

    /// A command of a process of the worker's user.
    pub(super) fn neighbour(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        self.as_user(&mut command);
        command
    }

    /// A command of a process of another user, who is not root either.
    pub(super) fn stranger(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        command.uid(USER + 1).gid(USER + 1);
        command
    }

    /// A command of a process of the user that runs this.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// A new folder that the user can reach and write.
fn folder(user: Option<u32>) -> Result<TempDir, Error> {
    let made = || {
        let folder = tempfile::tempdir()?;
        if user.is_some() {
            fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
            chown(folder.path(), user, user)?;
        }
        Ok(folder)
    };
    made().map_err(|source| attack("a temporary folder cannot be used", source))
}

pub(super) fn attack(what: impl Into<String>, source: io::Error) -> Error {
    Error::Attack { what: what.into(), source }
}

/// What a command has written. It may hold values, and so has no `Debug`.
pub(super) struct Said {
    output: Vec<u8>,
    errors: String,
    success: bool,
}

/// Runs a command to its end. A program that is not there is a reason to skip.
pub(super) async fn said(command: &mut Command) -> Result<Said, Obstacle> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let ended = match timeout(LIMIT, command.output()).await {
        Err(_) => return Err(Error::Endless(program).into()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Obstacle::Skip(format!("{program} is not there")));
        }
        Ok(Err(error)) => return Err(attack(format!("{program} cannot be started"), error).into()),
        Ok(Ok(ended)) => ended,
    };
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    Ok(Said { output: ended.stdout, errors, success: ended.status.success() })
}

impl Said {
    /// How many of the values are in what was written.
    pub(super) fn values(&self, values: &[String]) -> usize {
        values_in(&self.output, values)
    }

    /// Whether it has ended well.
    pub(super) const fn success(&self) -> bool {
        self.success
    }

    /// Whether the kernel has refused something.
    pub(super) fn refused(&self) -> bool {
        ["Permission denied", "Operation not permitted"]
            .iter()
            .any(|refusal| self.errors.contains(refusal))
    }
}

/// How many of the values are in some bytes, in whatever encoding.
pub(super) fn values_in(bytes: &[u8], values: &[String]) -> usize {
    let is_there = |value: &&String| {
        spellings(value).iter().any(|form| memmem::find(bytes, form.as_bytes()).is_some())
    };
    values.iter().filter(is_there).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_in_any_encoding_and_nothing_else_is() {
        let values = ["MARKER/one+", "MARKER-two", "MARKER-three", "MARKER-four"];
        let values = values.map(ToOwned::to_owned);
        assert_eq!(values_in(b"nothing is here, MARKER-fou", &values), 0);
        let encoded = aws_smithy_types::base64::encode("key:MARKER-two");
        let text = format!("a=MARKER%2Fone%2B\0b={encoded}\0c=MARKER-four\0d=MARKER-four");
        assert_eq!(values_in(text.as_bytes(), &values), 3);
    }
}
