//! The refusals that several endpoints share.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::refusal::Refusal;
use super::Refused;

/// A bearer that is missing, unknown or ended.
pub(super) fn unauthorized(refusal: Refusal) -> Refused {
    let problem = json!({
        "title": "Unauthorized",
        "type": "about:blank",
        "status": 401,
        "detail": "Unauthorized",
    });
    Refused::new(refusal, StatusCode::UNAUTHORIZED, &problem)
}

/// A request that could never be right; `parameter` is the one that is wrong, and its value.
pub(super) fn invalid_request(parameter: Option<(&str, &str)>, message: &str) -> Refused {
    let parameters: Map<String, Value> =
        parameter.into_iter().map(|(name, value)| (name.to_owned(), json!([value]))).collect();
    let problem = json!({
        "errors": [{ "parameters": parameters, "message": message }],
        "title": "Invalid Request",
        "detail": "One or more parameters to your request was invalid.",
        "type": "https://api.twitter.com/2/problems/invalid-request",
    });
    Refused::new(Refusal::InvalidRequest, StatusCode::BAD_REQUEST, &problem)
}
