//! The app-only bearer token (X, "App only authentication"): asked for with the consumer key and
//! secret in HTTP Basic, of which the base64 is a copy of both.

use std::borrow::Cow;

use percent_encoding::utf8_percent_encode;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{insert_authorization, secret};
use crate::credentials::{Credential, Generation, LONGEST_VALUE, UNRESERVED};
use crate::feed::dialect::Failure;
use crate::wipe;

/// The request for a token.
///
/// Named place of `expose_secret`: key and secret become a header.
pub fn request(url: Url, generation: &Generation) -> Result<Request, Failure> {
    let key = secret(generation, Credential::ConsumerKey)?.expose_secret();
    let secret = secret(generation, Credential::ConsumerSecret)?.expose_secret();
    // X asks for RFC 1738's encoding first; of the letters that keys consist of it changes none.
    let encoded = |text| utf8_percent_encode(text, UNRESERVED);
    let pair = Zeroizing::new(format!("{}:{}", encoded(key), encoded(secret)));
    let basic = Zeroizing::new(format!("Basic {}", *wipe::base64(pair.as_bytes())));
    let mut request = Request::new(Method::POST, url);
    let form = HeaderValue::from_static("application/x-www-form-urlencoded;charset=UTF-8");
    request.headers_mut().insert(CONTENT_TYPE, form);
    *request.body_mut() = Some("grant_type=client_credentials".into());
    insert_authorization(&mut request, &basic);
    Ok(request)
}

/// The token in X's answer; `None` where there is none that could stand in a header. `serde_json`'s
/// own words for what is wrong would quote the answer.
pub fn of_answer(body: &[u8]) -> Option<SecretString> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        token_type: Cow<'a, str>,
        #[serde(borrow)]
        access_token: Cow<'a, str>,
    }
    let Answer { token_type, access_token } = serde_json::from_slice(body).ok()?;
    let usable = token_type.eq_ignore_ascii_case("bearer")
        && (1..=LONGEST_VALUE).contains(&access_token.len())
        && access_token.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then(|| SecretString::from(&*access_token))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reqwest::header::AUTHORIZATION;

    use super::*;
    use crate::credentials::Held;

    #[test]
    fn key_and_secret_are_encoded_and_sent_as_x_asks() {
        let held = |credential: Credential, value: &str| Held {
            credential,
            reference: credential.default_secret().parse().unwrap(),
            version_id: "1".into(),
            value: Arc::new(SecretString::from(value)),
        };
        let generation = Generation::new(vec![
            held(Credential::ConsumerKey, "MARKER key"),
            held(Credential::ConsumerSecret, "MARKER:secret/"),
        ]);
        let url = Url::parse("https://api.x.com/oauth2/token").unwrap();
        let request = request(url, &generation).unwrap();
        let header = request.headers().get(AUTHORIZATION).unwrap();
        let expected = aws_smithy_types::base64::encode("MARKER%20key:MARKER%3Asecret%2F");
        assert_eq!(header.to_str().unwrap(), format!("Basic {expected}"));
        assert!(!format!("{request:?}").contains(&expected));
        assert_eq!(
            request.body().and_then(reqwest::Body::as_bytes),
            Some(&b"grant_type=client_credentials"[..])
        );
    }

    #[test]
    fn an_answer_without_a_usable_token_gives_none() {
        let token =
            |body: &str| of_answer(body.as_bytes()).map(|token| token.expose_secret().to_owned());
        let good = r#"{"token_type":"bearer","access_token":"AAAA%2FMARKER%3D"}"#;
        assert_eq!(token(good).as_deref(), Some("AAAA%2FMARKER%3D"));
        for bad in [
            "",
            "{}",
            r#"{"token_type":"mac","access_token":"A"}"#,
            r#"{"token_type":"bearer","access_token":""}"#,
            r#"{"token_type":"bearer","access_token":"a\r\nb"}"#,
            r#"{"token_type":"bearer","access_token":7}"#,
        ] {
            assert_eq!(token(bad), None, "{bad}");
        }
    }
}
