//! Why a request was refused, and what v1.1 answers then. What v2 answers is where it refuses.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

/// Why a request did not become a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No Authorization header, or not an OAuth one.
    Unsigned,
    /// The header is not OAuth 1.0 with HMAC-SHA1 as RFC 5849 has it.
    Malformed,
    /// No account has this consumer key together with this access token.
    UnknownCredentials,
    /// The account is known; the signature is not its.
    WrongSignature,
    /// More than five minutes from the server's clock.
    StaleTimestamp,
    /// The nonce was used before.
    NonceReused,
    /// The access token was revoked; answered with 401.
    Revoked,
    /// The access token was revoked; answered with 403.
    Forbidden,
    /// Neither `track` nor anything else to filter by.
    NoFilter,
    /// A track phrase is not 1 to 60 bytes long.
    PhraseLength,
    /// More than the 400 track phrases, or the 64 KiB of body, that are taken.
    TooLong,
    /// Neither GET nor POST.
    Method,
    /// v2: no application has this consumer key with this secret.
    WrongApplication,
    /// v2: a bearer is asked for with another body than `grant_type=client_credentials`.
    GrantType,
    /// v2: what is to be invalidated is not a bearer of this application, in force.
    NotItsBearer,
    /// v2: no bearer, or one that was never given.
    UnknownBearer,
    /// v2: a bearer that was revoked or invalidated, or whose keys were.
    EndedBearer,
    /// v2: the application has asked for as many streams as it may for now.
    ConnectBudget,
    /// v2: the application has its stream already.
    TooManyConnections,
    /// v2: a parameter or a body that X does not know.
    InvalidRequest,
    /// v2: more rules than an application may have.
    RuleCap,
    /// An injected fault answered.
    Fault,
}

impl Refusal {
    /// The answer of v1.1. Codes and messages: X's "Response codes" and, for the filter, "Connecting to a streaming
    /// endpoint".
    pub(super) fn response(self) -> Response<Body> {
        let authentication = |status, code: u16, message| {
            let body = format!(r#"{{"errors":[{{"code":{code},"message":"{message}"}}]}}"#);
            answer(status, "application/json; charset=utf-8", body)
        };
        let plain = |status, text: &str| answer(status, "text/plain", format!("{text}\r\n"));
        match self {
            Self::Unsigned => {
                authentication(StatusCode::BAD_REQUEST, 215, "Bad Authentication data.")
            }
            Self::Malformed
            | Self::UnknownCredentials
            | Self::WrongSignature
            | Self::NonceReused => {
                authentication(StatusCode::UNAUTHORIZED, 32, "Could not authenticate you.")
            }
            Self::StaleTimestamp => {
                authentication(StatusCode::UNAUTHORIZED, 135, "Timestamp out of bounds.")
            }
            Self::Revoked => {
                authentication(StatusCode::UNAUTHORIZED, 89, "Invalid or expired token.")
            }
            Self::Forbidden => authentication(
                StatusCode::FORBIDDEN,
                64,
                "Your account is suspended and is not permitted to access this feature.",
            ),
            Self::NoFilter => plain(
                StatusCode::NOT_ACCEPTABLE,
                "No filter parameters found. Expect at least one parameter: follow track locations",
            ),
            Self::PhraseLength => {
                plain(StatusCode::NOT_ACCEPTABLE, "Parameter track item has a bad length")
            }
            Self::TooLong => plain(StatusCode::PAYLOAD_TOO_LARGE, "Parameter list too long"),
            Self::Method => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
                response
                    .headers_mut()
                    .insert(header::ALLOW, header::HeaderValue::from_static("GET, POST"));
                response
            }
            Self::Fault
            | Self::WrongApplication
            | Self::GrantType
            | Self::NotItsBearer
            | Self::UnknownBearer
            | Self::EndedBearer
            | Self::ConnectBudget
            | Self::TooManyConnections
            | Self::InvalidRequest
            | Self::RuleCap => plain(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable"),
        }
    }
}

pub(super) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
