//! Twitter's v1.1 `statuses/filter` stream: every request is signed with OAuth 1.0a, which `oauth1_verifier` reads,
//! and `post` writes what is sent.

mod oauth1_verifier;
mod post;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::http::{HeaderValue, Method, Response, header, request};
use axum::routing::any;

use super::accounts::{Standing, user_id};
use super::connection::{Connection, Dialect, Ending};
use super::faults::Endpoint;
use super::refusal::Refusal;
use super::wire::Peer;
use super::{RevokedAnswer, Shared, fault_answer, stream_answer};
use oauth1_verifier::{Claims, SignedRequest, form_parameters};

pub(super) use oauth1_verifier::Nonces;

/// The endpoint's path, as at stream.twitter.com.
pub(super) const PATH: &str = "/1.1/statuses/filter.json";

/// More than 400 phrases of 60 bytes, percent-encoded, can take.
const BODY_BYTES: usize = 128 * 1024;

/// X's default access level: 400 track phrases.
const PHRASES: usize = 400;

/// The endpoint of v1.1.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route(PATH, any(filter))
}

/// A request to the endpoint.
async fn filter(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let fault = {
        let mut state = shared.lock();
        state.tally.statistics.last_user_agent = text(header::USER_AGENT).map(str::to_owned);
        state.faults_at(Endpoint::Stream).take(true)
    };
    let response = match fault {
        Some(fault) => {
            shared.lock().tally.refused(Refusal::Fault);
            fault_answer(fault, text(header::AUTHORIZATION).unwrap_or_default())
        }
        None => match open(&shared, &peer, &parts, body).await {
            Ok(connection) => stream_answer(connection, &shared, &parts, "application/json"),
            Err(refusal) => {
                shared.lock().tally.refused(refusal);
                refusal.response()
            }
        },
    };
    shared.changed();
    response
}

/// Judges a request and opens its stream.
async fn open(
    shared: &Arc<Shared>,
    peer: &Peer,
    parts: &request::Parts,
    body: Body,
) -> Result<Connection, Refusal> {
    if parts.method != Method::GET && parts.method != Method::POST {
        return Err(Refusal::Method);
    }
    let body = to_bytes(body, BODY_BYTES).await.map_err(|_| Refusal::TooLong)?;
    let text = |name| match parts.headers.get(name) {
        Some(value) => value.to_str().map_err(|_| Refusal::Malformed),
        None => Ok(""),
    };
    let form = text(header::CONTENT_TYPE)?
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    let request = SignedRequest {
        method: parts.method.as_str(),
        scheme: shared.scheme.name(),
        host: match text(header::HOST)? {
            // HTTP/2 has it in the request's target.
            "" => parts.uri.authority().map_or("", |authority| authority.as_str()),
            host => host,
        },
        path: parts.uri.path(),
        query: parts.uri.query(),
        authorization: text(header::AUTHORIZATION)?,
        form: form.then_some(&body),
    };
    let claims = Claims::read(&request)?;
    let mut state = shared.lock();
    let state = &mut *state;
    let account = match state.register.standing(&claims.consumer_key, &claims.access_token) {
        Standing::Accepted(account) => {
            if !claims.signed_with(&account.consumer_secret, &account.access_token_secret) {
                return Err(Refusal::WrongSignature);
            }
            account.clone()
        }
        Standing::Revoked => {
            return Err(match shared.revoked {
                RevokedAnswer::Unauthorized => Refusal::Revoked,
                RevokedAnswer::Forbidden => Refusal::Forbidden,
            });
        }
        Standing::Unknown => return Err(Refusal::UnknownCredentials),
    };
    state.nonces.admit(&claims, (shared.clock)())?;
    let track =
        parameter(&request, "track").filter(|track| !track.is_empty()).ok_or(Refusal::NoFilter)?;
    if track.split(',').any(|phrase| !(1..=60).contains(&phrase.len())) {
        return Err(Refusal::PhraseLength);
    }
    if track.split(',').count() > PHRASES {
        return Err(Refusal::TooLong);
    }
    let delimited = parameter(&request, "delimited").is_some_and(|delimited| delimited == "length");
    let user = user_id(&account.access_token);
    let oldest = state.streams.iter().find(|(_, stream)| {
        !stream.dialect.is_v2() && user_id(&stream.access_token) == user && !stream.is_ending()
    });
    let oldest = oldest.map(|(id, _)| *id);
    state.tally.statistics.last_track = Some(track);
    let connection = state.open(shared, &account, Dialect::V1_1 { delimited }, peer);
    // The oldest stream of the same user gives way, whatever token it was opened with. The new one is there before it
    // goes: what is due of a live feed at this moment has a reader.
    if let Some(oldest) = oldest.and_then(|id| state.streams.get_mut(&id)) {
        state.tally.statistics.cut_oldest += 1;
        // X: "the same credentials were used to connect a new stream and the oldest was disconnected".
        oldest.end(Ending::Disconnect { code: 7, reason: "admin logout".to_owned() });
    }
    Ok(connection)
}

/// The first value of a parameter of the query or the form.
fn parameter(request: &SignedRequest<'_>, name: &str) -> Option<String> {
    let query = request.query.map(str::as_bytes).into_iter().flat_map(form_parameters);
    let form = request.form.into_iter().flat_map(form_parameters);
    query
        .chain(form)
        .find(|(key, _)| key.as_ref() == name.as_bytes())
        .map(|(_, value): (_, Cow<'_, [u8]>)| String::from_utf8_lossy(&value).into_owned())
}
