//! `/oauth2/token` and `/oauth2/invalidate_token`: the application's keys for a bearer.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::http::{HeaderMap, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::super::accounts::{Account, user_id};
use super::super::faults::Endpoint;
use super::super::refusal::Refusal;
use super::super::wire::Peer;
use super::super::{Shared, State};
use super::bearers::Standing;
use super::{Refused, answered, json, text};

/// More than any form here can take.
const FORM_BYTES: usize = 16 * 1024;

/// `POST /oauth2/token`: gives the bearer of the application whose keys the request has.
pub(super) async fn mint(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let respond = async {
        let form = form(&parts.headers, body).await;
        let mut state = shared.lock();
        let account = application(&state, &parts.headers)?;
        if form != [("grant_type".to_owned(), "client_credentials".to_owned())] {
            let problem = json!({"errors": [{
                "code": 170,
                "message": "Missing required parameter: grant_type",
                "label": "forbidden_missing_parameter",
            }]});
            return Err(Refused::new(Refusal::GrantType, StatusCode::FORBIDDEN, &problem));
        }
        let bearer = state.bearers.mint(&account);
        state.tally.statistics.tokens_given += 1;
        Ok(json(StatusCode::OK, &json!({"token_type": "bearer", "access_token": bearer})))
    };
    answered(&shared, Endpoint::Token, &peer, &parts.headers, respond).await
}

/// `POST /oauth2/invalidate_token`: ends a bearer of the application whose keys the request has.
pub(super) async fn invalidate(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let respond = async {
        let form = form(&parts.headers, body).await;
        let mut state = shared.lock();
        let account = application(&state, &parts.headers)?;
        let given = match form.as_slice() {
            [(name, value)] if name == "access_token" => value.as_str(),
            _ => "",
        };
        // X's own example sends the bearer as it stands, whose percent sequences the form's decoding takes away.
        let as_it_stands: String = url::form_urlencoded::byte_serialize(given.as_bytes()).collect();
        let app = user_id(&account.access_token);
        let is_its = |bearer: &&str| state.bearers.standing(bearer).is_of(app);
        let Some(bearer) = [given, &as_it_stands].into_iter().find(is_its) else {
            let problem = json!({"errors": [{
                "code": 348,
                "message": "Client application is not permitted to to invalidate this token.",
            }]});
            return Err(Refused::new(Refusal::NotItsBearer, StatusCode::FORBIDDEN, &problem));
        };
        state.bearers.end(|_, value| value == bearer);
        Ok(json(StatusCode::OK, &json!({"access_token": bearer})))
    };
    answered(&shared, Endpoint::Token, &peer, &parts.headers, respond).await
}

/// The account that a request acts for with a bearer.
pub(super) fn bearer_account(state: &State, headers: &HeaderMap) -> Result<Account, Refused> {
    let bearer = text(headers, &header::AUTHORIZATION)
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
    match bearer.map_or(Standing::Unknown, |(_, bearer)| state.bearers.standing(bearer)) {
        Standing::Accepted(account) => Ok(account.clone()),
        Standing::Ended => Err(super::problem::unauthorized(Refusal::EndedBearer)),
        Standing::Unknown => Err(super::problem::unauthorized(Refusal::UnknownBearer)),
    }
}

/// The account whose consumer key and secret stand in the Authorization header.
fn application(state: &State, headers: &HeaderMap) -> Result<Account, Refused> {
    text(headers, &header::AUTHORIZATION)
        .and_then(basic)
        .and_then(|(key, secret)| state.register.application(&key, &secret))
        .cloned()
        .ok_or_else(|| {
            let problem = json!({"errors": [{
                "code": 99,
                "message": "Unable to verify your credentials",
                "label": "authenticity_token_error",
            }]});
            Refused::new(Refusal::WrongApplication, StatusCode::FORBIDDEN, &problem)
        })
}

/// RFC 7617, and within it each half percent-encoded, as X asks for.
fn basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let decoded = String::from_utf8(aws_smithy_types::base64::decode(encoded).ok()?).ok()?;
    let (key, secret) = decoded.split_once(':')?;
    Some((half(key)?, half(secret)?))
}

/// A half as it was before it was encoded; none if it was not encoded.
fn half(encoded: &str) -> Option<String> {
    // What RFC 1738 leaves as it is, and the one more character that RFC 3986 does.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"$-_.+!*'(),~%".contains(&byte);
    if !encoded.bytes().all(plain) {
        return None;
    }
    percent_decode_str(encoded).decode_utf8().ok().map(Cow::into_owned)
}

/// The parameters of a form; none where the body is not one.
async fn form(headers: &HeaderMap, body: Body) -> Vec<(String, String)> {
    let mut content_type = text(headers, &header::CONTENT_TYPE).unwrap_or_default().split(';');
    let is_form = content_type
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    let is_utf8 =
        content_type.all(|parameter| parameter.trim().eq_ignore_ascii_case("charset=utf-8"));
    match to_bytes(body, FORM_BYTES).await {
        Ok(body) if is_form && is_utf8 => url::form_urlencoded::parse(&body).into_owned().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(halves: &str) -> String {
        format!("Basic {}", aws_smithy_types::base64::encode(halves))
    }

    #[test]
    fn the_example_of_xs_guide_is_read() {
        // X's "Application-only authentication".
        let authorization = "Basic eHZ6MWV2RlM0d0VFUFRHRUZQSEJvZzpMOHFxOVBaeVJnNmllS0dFS2hab2xHQzB2SldMdzhpRUo4OERSZHlPZw==";
        let keys = ("xvz1evFS4wEEPTGEFPHBog", "L8qq9PZyRg6ieKGEKhZolGC0vJWLw8iEJ88DRdyOg");
        let keys = (keys.0.to_owned(), keys.1.to_owned());
        assert_eq!(basic(authorization), Some(keys));
    }

    #[test]
    fn halves_are_percent_encoded_before_they_are_joined() {
        let keys = ("a:b/c".to_owned(), "d e%é".to_owned());
        assert_eq!(basic(&header("a%3Ab%2Fc:d%20e%25%C3%A9")), Some(keys));
        for wrong in ["a/b:c", "a b:c", "no halves", "a:é", "a:b:c"] {
            assert_eq!(basic(&header(wrong)), None, "{wrong}");
        }
        assert_eq!(basic("Basic a:b"), None);
        assert_eq!(basic(&header("a:b").replace("Basic", "Bearer")), None);
    }
}
