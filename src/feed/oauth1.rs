//! Signing: OAuth 1.0a with HMAC-SHA1 (RFC 5849) by `reqwest-oauth1`.
//!
//! Its own `Secrets` type owns copies of the values and derives `Debug`. This provider borrows them
//! from the generation instead, for as long as a request is being signed.

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Request};
use reqwest_oauth1::{OAuthClientProvider, SecretsProvider};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::credentials::{Credential, Generation};

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The generation was fetched for another dialect.
    #[error("the credential {} is not held", .0.variable())]
    NotHeld(Credential),
    /// The signer refused.
    #[error("the signer refused the request")]
    Signer,
    /// The request could not be built.
    #[error("the request could not be built")]
    Request,
}

/// The four credentials, borrowed.
#[derive(Clone, Copy)]
struct Keys<'a> {
    consumer_key: &'a SecretString,
    consumer_secret: &'a SecretString,
    access_token: &'a SecretString,
    access_token_secret: &'a SecretString,
}

/// Named place of `expose_secret`: the signer reads the values.
impl SecretsProvider for Keys<'_> {
    fn get_consumer_key_pair(&self) -> (&str, &str) {
        (self.consumer_key.expose_secret(), self.consumer_secret.expose_secret())
    }

    fn get_token_pair_option(&self) -> Option<(&str, &str)> {
        Some((self.access_token.expose_secret(), self.access_token_secret.expose_secret()))
    }
}

/// A signed `POST` of a form.
///
/// # Errors
/// A credential that is not held, and what the signer or reqwest refuses. No error carries a value.
pub fn signed_form(
    client: &Client,
    url: &Url,
    form: &[(&str, &str)],
    generation: &Generation,
) -> Result<Request, SignError> {
    let key = |credential| generation.secret(credential).ok_or(SignError::NotHeld(credential));
    let keys = Keys {
        consumer_key: key(Credential::ConsumerKey)?,
        consumer_secret: key(Credential::ConsumerSecret)?,
        access_token: key(Credential::AccessToken)?,
        access_token_secret: key(Credential::AccessTokenSecret)?,
    };
    let mut request = client
        .clone()
        .oauth1(keys)
        .post(url.clone())
        .form(&form)
        .generate_signature()
        .map_err(|_| SignError::Signer)?
        .build()
        .map_err(|_| SignError::Request)?;
    if let Some(header) = request.headers_mut().get_mut(AUTHORIZATION) {
        header.set_sensitive(true);
    }
    Ok(request)
}
