//! The sockets: a TCP stream that can be cut from outside, at once or when all that was sent has left.
//!
//! Ending an HTTP body with an error would cut too, but then what hyper still buffers is lost, and the
//! statistics would count posts that nobody could read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
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
pub(super) struct Wires(Arc<Mutex<Vec<Weak<Inner>>>>);

impl Wires {
    pub(super) fn cut_all(&self) {
        let wires = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for inner in wires.iter().filter_map(Weak::upgrade) {
            Wire(inner).cut();
        }
    }

    fn add(&self, wire: &Wire) {
        let mut wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
                return (Socket { stream, wire: wire.clone() }, Peer { wire });
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
