//! The socket on which the worker says how it is, and the client that asks.
//!
//! Whoever connects is sent one line of JSON, and the connection is closed; nothing is read, so nothing
//! that a client does or does not do can hold the worker up. It is a file on the volume, which only the
//! container has, and not an abstract socket, which every container of the task could reach. Only the
//! worker's own user and root are answered.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::Answer;

/// The file in `SPOOL_DIR`.
const FILE: &str = "health.sock";

/// The longest path that a socket can have: `sun_path` of unix(7) has 108 bytes, the last one a zero.
const LONGEST_PATH: usize = 107;

/// How long a client may take to be sent its answer, which fits into any socket's buffer.
const SENDING: Duration = Duration::from_secs(1);

/// How long the worker has to answer.
const ANSWERING: Duration = Duration::from_secs(2);

/// How long the volume may take to let go of the file.
const UNLINKING: Duration = Duration::from_millis(500);

/// How much of an answer is read, in bytes.
const LONGEST_ANSWER: u64 = 4096;

/// How often at most it is logged that somebody was not answered, in seconds.
const SAID_EVERY: u64 = 60;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Its path is too long.
    #[error(
        "{0} is longer than the 107 bytes that the path of a socket may have; choose a shorter SPOOL_DIR"
    )]
    TooLong(PathBuf),
    /// Somebody listens there.
    #[error("{0} is another worker's; each needs a SPOOL_DIR of its own")]
    InUse(PathBuf),
    /// There is something else.
    #[error("{0} is in the way: it is no socket")]
    NoSocket(PathBuf),
    /// The folder or the file cannot be used.
    #[error("{path} cannot be used")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the socket of the worker with this `SPOOL_DIR` is.
///
/// # Errors
/// There can be none of this name.
pub fn path(folder: &Path) -> Result<PathBuf, SocketError> {
    let path = folder.join(FILE);
    if path.as_os_str().as_bytes().len() > LONGEST_PATH {
        return Err(SocketError::TooLong(path));
    }
    Ok(path)
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    user: u32,
    start: Instant,
    /// In seconds after `start`: when it may be logged again that somebody was not answered.
    quiet_until: AtomicU64,
}

/// Takes the file of a socket away when it is dropped, unless another has taken its place.
#[derive(Debug)]
pub struct Unlink {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Drop for Unlink {
    fn drop(&mut self) {
        let Self { path, file } = self;
        let (Some(file), path) = (*file, mem::take(path)) else { return };
        let (done, over) = mpsc::channel();
        let unlink = move || {
            if identity(&path) == Some(file) {
                // What stays is replaced by the next worker.
                let _ = fs::remove_file(&path);
            }
            let _ = done.send(());
        };
        // A volume that hangs must not keep the process from its last words.
        if thread::Builder::new().name("unlink".to_owned()).spawn(unlink).is_ok() {
            let _ = over.recv_timeout(UNLINKING);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Socket {
    /// Listens in a folder, which is made where there is none. The file that a killed process has left
    /// is replaced; one that somebody listens on is not.
    ///
    /// # Errors
    /// A path that is too long, in use, or cannot be used.
    pub fn bind(folder: &Path) -> Result<(Self, Unlink), SocketError> {
        let path = path(folder)?;
        let file = |source| SocketError::File { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(file)?;
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file(error)),
            Ok(data) if !data.file_type().is_socket() => return Err(SocketError::NoSocket(path)),
            Ok(_) if is_answered(&path) => return Err(SocketError::InUse(path)),
            Ok(_) => fs::remove_file(&path).map_err(file)?,
        }
        let listener = UnixListener::bind(&path).map_err(file)?;
        let unlink = Unlink { file: identity(&path), path: path.clone() };
        // Until this is done the check of the user alone holds off others.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(file)?;
        let user = rustix::process::geteuid().as_raw();
        let (start, quiet_until) = (Instant::now(), AtomicU64::new(0));
        Ok((Self { listener, user, start, quiet_until }, unlink))
    }

    /// The next client that may be answered.
    pub async fn next(&self) -> UnixStream {
        loop {
            let Ok((client, _)) = self.listener.accept().await else {
                // No descriptor is left, perhaps. Whoever asks waits.
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            match client.peer_cred().map(|peer| peer.uid()) {
                Ok(uid) if uid == self.user || uid == 0 => return client,
                Ok(uid) => self.say_refused(uid),
                Err(_) => {}
            }
        }
    }

    fn say_refused(&self, uid: u32) {
        let now = self.start.elapsed().as_secs();
        if now >= self.quiet_until.load(Ordering::Relaxed) {
            self.quiet_until.store(now + SAID_EVERY, Ordering::Relaxed);
            tracing::warn!(
                uid,
                "another user has asked for the worker's health and gets no answer"
            );
        }
    }
}

/// Whether somebody listens. Only a refusal says that nobody does.
fn is_answered(path: &Path) -> bool {
    // It must not wait: a full queue of connections is an error here, and a sign of life.
    let connecting = UnixStream::connect(path).now_or_never();
    !matches!(connecting, Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Sends an answer. Whoever does not take it goes without.
pub(super) async fn answer(client: UnixStream, answer: &Answer) {
    let Ok(mut line) = serde_json::to_vec(answer) else { return };
    line.push(b'\n');
    let sending = async {
        if client.writable().await.is_ok() {
            // It is short: all of it fits, or the client has gone.
            let _ = client.try_write(&line);
        }
    };
    let _ = timeout(SENDING, sending).await;
}

/// What a worker has said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its line of JSON.
    pub line: String,
    /// Whether it is to be left alone.
    pub healthy: bool,
}

/// Why a worker has not said how it is.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection, or an end before the answer.
    #[error("no worker answers")]
    Connection(#[from] io::Error),
    /// It takes too long.
    #[error("the worker has not answered in {ANSWERING:?}")]
    Late,
    /// The connection was closed without a word.
    #[error("the worker did not answer: it answers its own user and root alone")]
    Refused,
    /// It is no answer.
    #[error("the answer was not understood")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Said {
    healthy: bool,
}

/// Asks the worker that listens at `path`. It takes no longer than two seconds.
///
/// # Errors
/// There was no answer that could be understood.
pub fn ask(path: &Path) -> Result<Reply, AskError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = path.to_owned();
    // To connect may block for ever, where a worker hangs and its queue of connections is full.
    thread::Builder::new().name("ask".to_owned()).spawn(move || {
        // Nobody listens any more where it took too long.
        let _ = sender.send(exchange(&path));
    })?;
    let line = receiver.recv_timeout(ANSWERING).map_err(|_| AskError::Late)??;
    if line.is_empty() {
        return Err(AskError::Refused);
    }
    let Said { healthy } = serde_json::from_str(&line)?;
    Ok(Reply { line, healthy })
}

fn exchange(path: &Path) -> io::Result<String> {
    let socket = std::os::unix::net::UnixStream::connect(path)?;
    let mut answer = String::new();
    socket.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
