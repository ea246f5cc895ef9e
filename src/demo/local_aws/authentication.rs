//! Who signed a request: Signature Version 4, the session token and the clock.

use std::time::{Duration, SystemTime};

use awsim_core::sigv4_verify::{AuthHeader, VerifyOutcome, parse_authorization_header, verify};
use axum::http::{HeaderMap, header};

use super::Service;
use super::api_error::ApiError;
use super::iam::{Iam, Principal};
use super::keys::{KeyError, Keys};

/// How far the caller's clock may be off, either way.
const SKEW: Duration = Duration::from_mins(5);

enum Refusal {
    Unsigned,
    Incomplete(&'static str),
    UnknownKey,
    Expired,
    Signature(String),
}

/// A signed call as it came in: always `POST /` without a query, which is how the SDKs call these services.
pub(super) struct SignedCall<'a> {
    pub(super) service: Service,
    pub(super) region: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl SignedCall<'_> {
    /// The principal whose key signed this, or AWS's error.
    pub(super) fn principal(
        &self,
        keys: &Keys,
        iam: &Iam,
        now: SystemTime,
    ) -> Result<Principal, ApiError> {
        self.verify(keys, iam, now).map_err(|refusal| refusal.error(self.service))
    }

    fn verify(&self, keys: &Keys, iam: &Iam, now: SystemTime) -> Result<Principal, Refusal> {
        let authorization = self.header(header::AUTHORIZATION.as_str()).ok_or(Refusal::Unsigned)?;
        let authorization = parse_authorization_header(authorization).ok_or(Refusal::Incomplete(
            "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters.",
        ))?;
        let date = self.header("x-amz-date").ok_or(Refusal::Incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
        ))?;
        self.check_scope(&authorization, date)?;
        let key = keys.find(authorization.access_key).ok_or(Refusal::UnknownKey)?;
        let token = self.header("x-amz-security-token");
        let principal = key.principal(token, iam, now).map_err(|error| match error {
            KeyError::Invalid => Refusal::UnknownKey,
            KeyError::Expired => Refusal::Expired,
        })?;
        check_clock(date, now)?;
        let signed_headers = self.canonical_headers(&authorization)?;
        let outcome = verify(
            &authorization,
            &key.secret_access_key,
            "POST",
            "/",
            "",
            &signed_headers,
            date,
            self.body,
            // Of these services none takes the caller's word for the body's hash.
            None,
            now,
            SKEW,
        );
        match outcome {
            VerifyOutcome::Ok => Ok(principal),
            VerifyOutcome::IncompleteSignature => Err(Refusal::Incomplete("Date must be in ISO-8601 'basic format'.")),
            VerifyOutcome::SignatureMismatch => Err(Refusal::Signature(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                 Access Key and signing method. Consult the service documentation for details."
                    .to_owned(),
            )),
        }
    }

    fn check_scope(&self, authorization: &AuthHeader<'_>, date: &str) -> Result<(), Refusal> {
        let service = self.service.signing_name();
        if authorization.service != service {
            return Err(Refusal::Signature(format!(
                "Credential should be scoped to correct service: '{service}'."
            )));
        }
        if authorization.region != self.region {
            return Err(Refusal::Signature(
                "Credential should be scoped to a valid region.".to_owned(),
            ));
        }
        if !date.starts_with(authorization.date_stamp) || authorization.date_stamp.len() != 8 {
            return Err(Refusal::Signature(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.".to_owned(),
            ));
        }
        // What is not signed could be exchanged on the way.
        for required in ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
            let signed = authorization.signed_headers.contains(&required);
            if !signed && (required == "host" || self.headers.contains_key(required)) {
                return Err(Refusal::Signature(format!(
                    "'{required}' must be a 'SignedHeader' in the AWS Authorization."
                )));
            }
        }
        Ok(())
    }

    fn canonical_headers(
        &self,
        authorization: &AuthHeader<'_>,
    ) -> Result<Vec<(String, String)>, Refusal> {
        let mut canonical = Vec::with_capacity(authorization.signed_headers.len());
        for name in &authorization.signed_headers {
            let mut joined = String::new();
            for (position, value) in self.headers.get_all(*name).iter().enumerate() {
                let value = value
                    .to_str()
                    .map_err(|_| Refusal::Incomplete("A signed header is not ASCII."))?;
                if position > 0 {
                    joined.push(',');
                }
                for (word, text) in value.split(' ').filter(|text| !text.is_empty()).enumerate() {
                    if word > 0 {
                        joined.push(' ');
                    }
                    joined.push_str(text);
                }
            }
            canonical.push(((*name).to_owned(), joined));
        }
        Ok(canonical)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn check_clock(date: &str, now: SystemTime) -> Result<(), Refusal> {
    let format = "%Y%m%dT%H%M%SZ";
    let signed = chrono::NaiveDateTime::parse_from_str(date, format)
        .map_err(|_| Refusal::Incomplete("Date must be in ISO-8601 'basic format'."))?
        .and_utc();
    let now = chrono::DateTime::<chrono::Utc>::from(now);
    let skew = chrono::TimeDelta::from_std(SKEW).unwrap_or_default();
    let said = |limit: chrono::DateTime<chrono::Utc>, sign| {
        format!("{} ({} {sign} 5 min.)", limit.format(format), now.format(format))
    };
    if signed < now - skew {
        Err(Refusal::Signature(format!(
            "Signature expired: {date} is now earlier than {}",
            said(now - skew, '-')
        )))
    } else if signed > now + skew {
        Err(Refusal::Signature(format!(
            "Signature not yet current: {date} is still later than {}",
            said(now + skew, '+')
        )))
    } else {
        Ok(())
    }
}

impl Refusal {
    /// The query protocol has other codes than JSON's, and 403 where JSON has 400. SQS has kept both in its JSON.
    fn error(self, service: Service) -> ApiError {
        let query = matches!(service, Service::Sts | Service::Sqs);
        let choose = |json: &str, in_query: &str, message: String| {
            if query {
                ApiError::new(403, in_query, message)
            } else {
                ApiError::caller(json, message)
            }
        };
        match self {
            Self::Unsigned => choose(
                "MissingAuthenticationTokenException",
                "MissingAuthenticationToken",
                "Request is missing Authentication Token".to_owned(),
            ),
            Self::Incomplete(message) => {
                choose("IncompleteSignatureException", "IncompleteSignature", message.to_owned())
            }
            Self::UnknownKey => choose(
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "The security token included in the request is invalid.".to_owned(),
            ),
            Self::Expired => choose(
                "ExpiredTokenException",
                "ExpiredToken",
                "The security token included in the request is expired".to_owned(),
            ),
            Self::Signature(message) => {
                choose("InvalidSignatureException", "SignatureDoesNotMatch", message)
            }
        }
    }
}
