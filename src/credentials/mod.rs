//! The third-party credentials: where each is kept, how it is fetched, the set that is held, and
//! how one set follows another.

mod generation;
pub mod queue;
pub mod reference;
pub mod rotation;
pub mod secrets_manager;

pub(crate) use generation::UNRESERVED;
#[cfg(feature = "demo")]
pub(crate) use generation::spellings;
pub use generation::{Generation, Held, redact};
pub use reference::{Reference, ReferenceError, VersionChoice};
pub use secrets_manager::{FetchError, LONGEST_VALUE, SecretsManager};

/// One of the four credentials of OAuth 1.0a. RFC 5849 calls the first two client credentials and
/// the last two token credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Credential {
    /// Names the application.
    ConsumerKey,
    /// Proves the application.
    ConsumerSecret,
    /// Names the account that the application acts for.
    AccessToken,
    /// Proves that it may.
    AccessTokenSecret,
}

impl Credential {
    /// All four.
    pub const ALL: [Self; 4] =
        [Self::ConsumerKey, Self::ConsumerSecret, Self::AccessToken, Self::AccessTokenSecret];

    /// The variable that says where the credential is kept.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::ConsumerKey => "CONSUMERKEY_SECRET",
            Self::ConsumerSecret => "CONSUMERSECRETKEY_SECRET",
            Self::AccessToken => "ACCESSTOKEN_SECRET",
            Self::AccessTokenSecret => "ACCESSTOKENSECRET_SECRET",
        }
    }

    /// The secret's name where the variable is not set.
    #[must_use]
    pub const fn default_secret(self) -> &'static str {
        match self {
            Self::ConsumerKey => "CONSUMERKEY",
            Self::ConsumerSecret => "CONSUMERSECRETKEY",
            Self::AccessToken => "ACCESSTOKEN",
            Self::AccessTokenSecret => "ACCESSTOKENSECRET",
        }
    }
}
