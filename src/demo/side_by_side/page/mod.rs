//! The live page: both sides, and buttons for what an operator can do, on a loopback port.
//!
//! What it shows is a [`Snapshot`](super::snapshot::Snapshot), which can hold no secret value. It is for the
//! browser on this machine alone: a request that names another host is refused (DNS rebinding), and so is
//! an action without the token that only the page has (a form on somebody's site). Nothing is loaded from
//! elsewhere, and no script or style but its own runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Action, Pair};

const INDEX: &str = include_str!("index.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");
const ICON: &str = include_str!("icon.svg");

/// Where the token stands in the page.
const PLACE: &str = "@TOKEN@";

/// The header that an action brings it in.
pub const TOKEN_HEADER: &str = "x-demo-token";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page's server. It ends when this is dropped.
pub struct Page {
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Shared {
    pair: Arc<Pair>,
    hosts: [String; 2],
    token: String,
}

impl Page {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port, or no random bytes.
    pub async fn start(pair: Arc<Pair>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let port = address.port();
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        let shared = Arc::new(Shared { pair, hosts, token: token()? });
        let application = Router::new().fallback(answer).with_state(shared);
        let task = tokio::spawn(async move {
            // It has no error to give, and ends with the task.
            let _ = axum::serve(listener, application).await;
        });
        Ok(Self { address, task })
    }

    /// `http://127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// 256 bits that nobody can guess, in hexadecimal.
fn token() -> io::Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random bytes"))?;
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect())
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let headers = request.headers();
    let Some(host) = text(headers, &header::HOST).filter(|host| shared.is_own(host)) else {
        let why = "this page is for the browser on this machine, at the address that it was told";
        return plain(StatusCode::MISDIRECTED_REQUEST, why);
    };
    let path = request.uri().path();
    if let Some(name) = path.strip_prefix("/action/") {
        return match (request.method(), Action::named(name)) {
            (_, None) => plain(StatusCode::NOT_FOUND, "there is no such action"),
            (&Method::POST, Some(_)) if !shared.may_act(headers, host) => {
                plain(StatusCode::FORBIDDEN, "an action needs the token of the page")
            }
            (&Method::POST, Some(action)) => {
                shared.pair.act(action);
                plain(StatusCode::ACCEPTED, "done, or begun")
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "an action is a POST"),
        };
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "this is read with GET");
    }
    match path {
        "/" => typed("text/html; charset=utf-8", INDEX.replace(PLACE, &shared.token)),
        "/page.js" => typed("text/javascript; charset=utf-8", SCRIPT),
        "/page.css" => typed("text/css; charset=utf-8", STYLE),
        "/icon.svg" => typed("image/svg+xml", ICON),
        "/snapshot" => {
            let from = request.uri().query().and_then(|query| query.strip_prefix("from="));
            let from = from.and_then(|from| from.parse().ok()).unwrap_or_default();
            match serde_json::to_vec(&shared.pair.snapshot(from)) {
                Ok(json) => typed("application/json", json),
                Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no snapshot"),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

impl Shared {
    fn is_own(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own == host)
    }

    /// Whether the request comes from the page: it knows the token, and the browser names no other origin.
    fn may_act(&self, headers: &HeaderMap, host: &str) -> bool {
        let token = headers.get(TOKEN_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        let origin = text(headers, &header::ORIGIN);
        verify_slices_are_equal(token, self.token.as_bytes()).is_ok()
            && origin.is_none_or(|origin| origin.strip_prefix("http://") == Some(host))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = typed("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
