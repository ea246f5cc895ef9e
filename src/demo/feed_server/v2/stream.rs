//! `/2/tweets/search/stream`: the application's one stream.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::http::{Response, request};

use super::super::accounts::user_id;
use super::super::connection::Dialect;
use super::super::faults::Endpoint;
use super::super::wire::Peer;
use super::super::{Shared, State, stream_answer};
use super::admission::too_many_connections;
use super::fields::Fields;
use super::token::bearer_account;
use super::{JSON, Refused, answered};

/// `GET`: opens the stream, if the application has none.
pub(super) async fn open(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let respond = async { admit(&shared, &peer, &parts) };
    answered(&shared, Endpoint::Stream, &peer, &parts.headers, respond).await
}

fn admit(
    shared: &Arc<Shared>,
    peer: &Peer,
    parts: &request::Parts,
) -> Result<Response<Body>, Refused> {
    let mut state = shared.lock();
    let state: &mut State = &mut state;
    let account = bearer_account(state, &parts.headers)?;
    let app = user_id(&account.access_token);
    let now = (shared.clock)();
    let budget = state.admission.spend(app, now).map_err(|refused| *refused)?;
    let said = |mut refused: Refused| {
        if let Some(budget) = budget {
            budget.say(&mut refused.response);
        }
        refused
    };
    let query = parts.uri.query().unwrap_or_default();
    let fields = Fields::of_query(query).map_err(|refused| said(*refused))?;
    let taken = state.streams.values().any(|stream| {
        stream.dialect.is_v2() && user_id(&stream.access_token) == app && !stream.is_ending()
    });
    if taken || state.admission.lingers(app, now) {
        return Err(said(too_many_connections()));
    }
    state.tally.statistics.last_query = Some(query.to_owned());
    let dialect = Dialect::V2 { app: app.to_owned(), fields };
    let connection = state.open(shared, &account, dialect, peer);
    let mut response = stream_answer(connection, shared, parts, JSON);
    if let Some(budget) = budget {
        budget.say(&mut response);
    }
    Ok(response)
}
