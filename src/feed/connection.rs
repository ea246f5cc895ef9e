//! One HTTP/1.1 connection for one request, with an `Authorization` header of which nothing is left
//! once it is sent.
//!
//! An HTTP client writes a request's head into a buffer that it keeps for as long as the connection is
//! open, and a stream is open for days. So hyper never sees that header here: it writes the request
//! without it, and on the way to the socket the header is put in after the request line, from memory
//! that is wiped as soon as the last byte of it is written. Connecting, TLS and everything else is
//! hyper's and rustls's.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use memchr::memchr;
use reqwest::{Body, Response};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use tower_service::Service;
use zeroize::Zeroizing;

use super::FeedError;
use super::back_off::Class;
use super::dialect::Failure;
use crate::telemetry::chain;
use crate::wipe;

/// How long a request may take, to the end of the response's head.
const ANSWER: Duration = Duration::from_secs(30);

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("twitterstream/", env!("CARGO_PKG_VERSION")));

/// How long connecting may take; the addresses of a name share it.
const CONNECT: Duration = Duration::from_secs(20);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The name, the TCP connection or the TLS handshake.
    #[error("no connection")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection ended before the answer.
    #[error("no answer")]
    Answer(#[from] hyper::Error),
    /// The request cannot be sent as it is.
    #[error("the request cannot be sent")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A request that got no answer.
pub struct Unanswered {
    /// Whether the server may have had it.
    pub sent: bool,
    reason: String,
}

impl From<Unanswered> for Failure {
    fn from(Unanswered { reason, .. }: Unanswered) -> Self {
        Self::Wait { class: Class::Network, refused: false, reset: None, reason }
    }
}

/// Sends requests. Every connection looks its name up anew, and none is used twice.
#[derive(Clone)]
pub struct Client {
    /// Builds and signs requests. What it would send them with is never used.
    pub requests: reqwest::Client,
    connector: HttpsConnector<HttpConnector>,
}

impl Client {
    /// A client that trusts the platform's certificate authorities, or those of `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// There is nobody to trust.
    pub fn new() -> Result<Self, FeedError> {
        let tls = tls()?;
        let requests = reqwest::Client::builder().use_preconfigured_tls(tls.clone()).build();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = https.enable_http1().wrap_connector(http);
        Ok(Self { requests: requests.map_err(FeedError::Client)?, connector })
    }

    /// Sends a request and returns its answer, of which the body is yet to come.
    ///
    /// # Errors
    /// There was none in time.
    pub async fn send(&self, request: reqwest::Request) -> Result<Response, Unanswered> {
        match timeout(ANSWER, wipe::steps_of(self.exchange(request))).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let sent = !matches!(error, ConnectionError::Connect(_));
                Err(Unanswered { sent, reason: chain(&error) })
            }
            Err(_) => Err(Unanswered { sent: true, reason: format!("no answer in {ANSWER:?}") }),
        }
    }

    async fn exchange(&self, request: reqwest::Request) -> Result<Response, ConnectionError> {
        let mut request = Request::<Body>::try_from(request)
            .map_err(|error| ConnectionError::Request(error.without_url().into()))?;
        let authorization = request.headers_mut().remove(header::AUTHORIZATION);
        let uri = std::mem::take(request.uri_mut());
        let host = HeaderValue::try_from(host(&uri))
            .map_err(|error| ConnectionError::Request(error.into()))?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        *request.uri_mut() =
            uri.path_and_query().map_or_else(Uri::default, |target| Uri::from(target.clone()));

        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(ConnectionError::Connect)?;
        let socket = connector.call(uri).await.map_err(ConnectionError::Connect)?;
        let head = match authorization {
            Some(value) => Head::RequestLine(header_line(value.as_bytes())),
            None => Head::Sent,
        };
        let (mut sender, connection) = http1::handshake(Authorized { socket, head }).await?;
        // It ends with the answer's body: at its end, or when that is dropped.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        Ok(answer.map(Body::wrap).into())
    }
}

/// The process's one TLS stack.
fn tls() -> Result<ClientConfig, FeedError> {
    let mut roots = RootCertStore::empty();
    // A bundle may hold a certificate that cannot be used; the others still can.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(FeedError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What `Host` says: the port is left out where it is the scheme's own.
fn host(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match (uri.port_u16(), uri.scheme_str()) {
        (None, _) | (Some(443), Some("https")) | (Some(80), Some("http")) => host.to_owned(),
        (Some(port), _) => format!("{host}:{port}"),
    }
}

fn header_line(value: &[u8]) -> Zeroizing<Vec<u8>> {
    const NAME: &[u8] = b"authorization: ";
    const END: &[u8] = b"\r\n";
    // Just as long as it must be: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(NAME.len() + value.len() + END.len()));
    line.extend_from_slice(NAME);
    line.extend_from_slice(value);
    line.extend_from_slice(END);
    line
}

/// A socket that puts a header into the first request that is written to it.
struct Authorized<S> {
    socket: S,
    head: Head,
}

/// How much of the head is written.
enum Head {
    /// Not all of the request line. The header's line waits.
    RequestLine(Zeroizing<Vec<u8>>),
    /// The request line, and this many bytes of the header's.
    Header(Zeroizing<Vec<u8>>, usize),
    /// The header, too; it is wiped.
    Sent,
}

impl<S: Write + Unpin> Authorized<S> {
    /// Writes what is left of the header's line.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Head::Header(line, written) = &mut self.head {
            match line.get(*written..) {
                Some(rest) if !rest.is_empty() => {
                    let count = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *written += count;
                }
                _ => self.head = Head::Sent,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Authorized<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_header(cx))?;
        let Head::RequestLine(line) = &mut self.head else {
            return Pin::new(&mut self.socket).poll_write(cx, bytes);
        };
        let line = std::mem::take(line);
        let end = memchr(b'\n', bytes).map(|at| at + 1);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let written = Pin::new(&mut self.socket).poll_write(cx, part);
        self.head = match &written {
            Poll::Ready(Ok(count)) if end == Some(*count) => Head::Header(line, 0),
            _ => Head::RequestLine(line),
        };
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_header(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: Read + Unpin> Read for Authorized<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time, and every other time none.
    struct Narrow {
        bytes: usize,
        ready: bool,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.ready = !self.ready;
            if !self.ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = bytes.len().min(self.bytes);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_header_follows_the_request_line_wherever_writes_end_and_is_then_wiped() {
        let request = b"GET /stream HTTP/1.1\r\nhost: example.com\r\n\r\nbody\n";
        for (at_once, offered) in [(1, 1), (1, 100), (3, 7), (21, 22), (22, 22), (100, 100)] {
            let socket = Narrow { bytes: at_once, ready: false, taken: Vec::new() };
            let head = Head::RequestLine(header_line(b"OAuth MARKER"));
            let mut authorized = Authorized { socket, head };
            for part in request.chunks(offered) {
                let mut rest = part;
                while !rest.is_empty() {
                    let count =
                        poll_fn(|cx| Pin::new(&mut authorized).poll_write(cx, rest)).await.unwrap();
                    rest = &rest[count..];
                }
            }
            poll_fn(|cx| Pin::new(&mut authorized).poll_flush(cx)).await.unwrap();
            assert!(matches!(authorized.head, Head::Sent));
            let taken = String::from_utf8(authorized.socket.taken).unwrap();
            let expected = "GET /stream HTTP/1.1\r\nauthorization: OAuth MARKER\r\n\
                            host: example.com\r\n\r\nbody\n";
            assert_eq!(taken, expected, "{at_once} of {offered}");
        }
    }

    #[test]
    fn the_host_is_named_with_its_port_where_that_is_not_the_schemes_own() {
        for (uri, expected) in [
            ("https://api.x.com/2/stream", "api.x.com"),
            ("https://api.x.com:443/", "api.x.com"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("http://[::1]:80/", "[::1]"),
            ("https://[::1]:80/", "[::1]:80"),
        ] {
            assert_eq!(host(&Uri::from_static(uri)), expected);
        }
    }
}
