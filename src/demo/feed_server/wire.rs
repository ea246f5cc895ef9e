//! The sockets: a TCP stream that can be cut from outside, at once or when all that was sent has left.
//!
//! Ending an HTTP body with an error would cut too, but then what hyper still buffers is lost, and the
//! statistics would count posts that nobody could read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

const OPEN: u8 = 0;
const CUT_WHEN_FLUSHED: u8 = 1;
const CUT: u8 = 2;

/// The hold that a request's handler has on the socket the request came by.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Wire {
    /// Closes the socket without ending the HTTP body: the reader sees an error.
    pub(super) fn cut(&self) {
        self.0.state.store(CUT, Ordering::Release);
        self.0.waker.wake();
    }

    /// The same, once every byte handed to HTTP has been handed to the kernel. Call it when the body has
    /// nothing more to say.
    pub(super) fn cut_when_flushed(&self) {
        let _ = self.0.state.compare_exchange(
            OPEN,
            CUT_WHEN_FLUSHED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    fn check(&self) -> io::Result<()> {
        match self.0.state.load(Ordering::Acquire) {
            CUT => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }
}

/// Every socket that is open, so that the server can close them when it goes.
#[derive(Clone, Default)]
pub(super) struct Wires {
    open: Arc<Mutex<Vec<Weak<Inner>>>>,
    /// Bytes that the kernel has taken, over all sockets.
    written: Arc<AtomicU64>,
}

impl Wires {
    pub(super) fn cut_all(&self) {
        let wires = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for inner in wires.iter().filter_map(Weak::upgrade) {
            Wire(inner).cut();
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn add(&self, wire: &Wire) {
        let mut wires = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        wires.retain(|inner| inner.strong_count() > 0);
        wires.push(Arc::downgrade(&wire.0));
    }
}

/// Accepts sockets and remembers them in [`Wires`].
pub(super) struct Sockets {
    pub(super) listener: TcpListener,
    pub(super) wires: Wires,
}

/// A socket's far end, with the hold on the socket.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) wire: Wire,
}

impl Listener for Sockets {
    type Io = Socket;
    type Addr = Peer;

    async fn accept(&mut self) -> (Socket, Peer) {
        loop {
            if let Ok((stream, _)) = self.listener.accept().await {
                // Small chunks must not wait for one another: a keep-alive is two bytes.
                let _ = stream.set_nodelay(true);
                let wire = Wire::default();
                self.wires.add(&wire);
                let written = Arc::clone(&self.wires.written);
                return (Socket { stream, wire: wire.clone(), written }, Peer { wire });
            }
            // Out of file descriptors, say: what frees one is a connection's end, which needs time.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { wire: Wire::default() })
    }
}

impl Sockets {
    pub(super) async fn bind() -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok((Self { listener, wires: Wires::default() }, address))
    }
}

impl Connected<IncomingStream<'_, Sockets>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Sockets>) -> Self {
        stream.remote_addr().clone()
    }
}

/// One accepted connection.
pub(super) struct Socket {
    stream: TcpStream,
    wire: Wire,
    written: Arc<AtomicU64>,
}

impl Socket {
    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper waits in a read while it has nothing to write, so this waker reaches an idle connection.
        self.wire.0.waker.register(cx.waker());
        self.wire.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wire.check()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the socket only after its own buffer is empty.
        if self.wire.0.state.load(Ordering::Acquire) == CUT_WHEN_FLUSHED {
            self.wire.cut();
        }
        self.wire.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How many bytes the kernel holds between a server on loopback and its readers, at both ends of its
/// sockets. `sockets` is `/proc/net/tcp` (`proc_pid_net(5)`): the local and the remote address, the
/// state, and the lengths of the queues of what is to be sent and to be read, all in hexadecimal.
pub(super) fn in_kernel(sockets: &str, port: u16) -> u64 {
    const ESTABLISHED: &str = "01";
    let port = format!(":{port:04X}");
    let queued = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (to_send, to_read) = fields.next()?.split_once(':')?;
        let queue = match () {
            () if state != ESTABLISHED => return None,
            () if local.ends_with(&port) => to_send,
            () if remote.ends_with(&port) => to_read,
            () => return None,
        };
        u64::from_str_radix(queue, 16).ok()
    };
    sockets.lines().filter_map(queued).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_holds_is_read_off_both_ends_of_the_servers_sockets_alone() {
        let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
           0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000
           1: 0100007F:1F90 0100007F:C350 01 00000010:00000001 00:00000000 00000000
           2: 0100007F:C350 0100007F:1F90 01 00000002:00000100 00:00000000 00000000
           3: 0100007F:C351 0100007F:1F91 01 00000000:00001000 00:00000000 00000000
           4: 0100007F:C352 0100007F:1F90 06 00000000:00010000 00:00000000 00000000";
        assert_eq!(in_kernel(sockets, 8_080), 0x110);
        assert_eq!(in_kernel("", 8_080), 0);
    }
}
