//! X API v2's filtered stream: an application trades its consumer key and secret for a bearer (`token`), sets its
//! rules with it (`rules`), and opens its one stream (`stream`).
//!
//! `bearers`, `rule_book` and `admission` are what is known of each application; `expression` judges whether a
//! rule is one and which posts match it; `fields` is what a reader asked for, and `post` writes it. An application
//! is known by the user id of its access token, which outlives its keys.

mod admission;
mod bearers;
mod expression;
mod fields;
mod post;
mod problem;
mod rule_book;
mod rules;
mod stream;
mod token;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Response, StatusCode, header};
use axum::routing::{get, post};
use serde_json::Value;

use super::faults::{Endpoint, Fault};
use super::refusal::{Refusal, answer};
use super::wire::Peer;
use super::{Shared, fault_answer};

pub use expression::Error as RuleError;
pub use rule_book::Rule;

pub(super) use admission::Admission;
pub(super) use bearers::Bearers;
pub(super) use expression::Searched;
pub(super) use fields::Fields;
pub(super) use rule_book::{KeptRule, RuleBook};

/// X: "a new line character every 20 seconds".
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// More than a thousand rules of a thousand characters can take.
const BODY_BYTES: usize = 8 * 1024 * 1024;

const JSON: &str = "application/json; charset=utf-8";

/// The endpoints of v2.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/oauth2/token", post(token::mint))
        .route("/oauth2/invalidate_token", post(token::invalidate))
        .route("/2/tweets/search/stream/rules", get(rules::list).post(rules::change))
        .route("/2/tweets/search/stream", get(stream::open))
}

/// Why a request was refused, and the answer that says so.
struct Refused {
    refusal: Refusal,
    response: Response<Body>,
}

impl Refused {
    fn new(refusal: Refusal, status: StatusCode, problem: &Value) -> Self {
        Self { refusal, response: json(status, problem) }
    }
}

/// Answers a request unless a fault does.
async fn answered(
    shared: &Shared,
    endpoint: Endpoint,
    peer: &Peer,
    headers: &HeaderMap,
    respond: impl Future<Output = Result<Response<Body>, Refused>>,
) -> Response<Body> {
    let fault = {
        let mut state = shared.lock();
        let user_agent = text(headers, &header::USER_AGENT).map(str::to_owned);
        state.tally.statistics.last_user_agent = user_agent;
        let faults = state.faults_at(endpoint);
        // A fault of a stream waits for the stream.
        let other = if endpoint == Endpoint::Stream { None } else { faults.take(false) };
        other.or_else(|| faults.take(true))
    };
    let result = match fault {
        None => respond.await,
        Some(fault) if fault.is_answer() => {
            let authorization = text(headers, &header::AUTHORIZATION).unwrap_or_default();
            Err(Refused { refusal: Refusal::Fault, response: fault_answer(fault, authorization) })
        }
        Some(fault) => {
            if fault != Fault::Stall {
                peer.wire.cut();
            }
            shared.lock().tally.refused(Refusal::Fault);
            shared.changed();
            pending().await
        }
    };
    let response = result.unwrap_or_else(|Refused { refusal, response }| {
        shared.lock().tally.refused(refusal);
        response
    });
    shared.changed();
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn json(status: StatusCode, body: &Value) -> Response<Body> {
    answer(status, JSON, body.to_string())
}

/// `2026-11-22T10:00:00.000Z`.
fn rfc3339(time: SystemTime) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
