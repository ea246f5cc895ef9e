//! A set of credentials that belong together: adopted whole or not at all.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Credential, Reference};
use crate::wipe;

/// One credential and the version of the secret that it came from. A clone shares the value: there
/// is one copy of it, however many generations hold it.
#[derive(Clone)]
pub struct Held {
    /// Which credential it is.
    pub credential: Credential,
    /// Where it is kept.
    pub reference: Reference,
    /// The `VersionId` of the secret's version that held the value.
    pub version_id: String,
    /// The value.
    pub value: Arc<SecretString>,
}

/// The credentials that one dialect needs, fetched together.
///
/// It does not care how many there are. Neither `Debug` nor `Display` shows a value, nor anything
/// derived from one.
pub struct Generation {
    held: Vec<Held>,
}

impl Generation {
    /// A generation of these credentials.
    #[must_use]
    pub const fn new(held: Vec<Held>) -> Self {
        Self { held }
    }

    /// The value of one credential, `None` where this generation does not hold it.
    #[must_use]
    pub fn secret(&self, credential: Credential) -> Option<&SecretString> {
        self.held.iter().find(|held| held.credential == credential).map(|held| &*held.value)
    }

    /// Whether both hold the same version of every credential.
    #[must_use]
    pub fn is_same_set(&self, other: &Self) -> bool {
        self.versions().eq(other.versions())
    }

    /// The version of each credential: what a set is known by, without its values.
    pub fn versions(&self) -> impl Iterator<Item = (Credential, &str)> {
        self.held.iter().map(|held| (held.credential, held.version_id.as_str()))
    }

    /// What is held, in the order in which it was asked for.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Replaces every live value in a text that a peer sent, however the peer may have encoded it:
    /// as it is, percent-encoded, or in base64.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.held.iter().fold(text.to_owned(), |text, held| redact(&text, &held.value))
    }
}

/// The characters that RFC 3986, and so OAuth, leaves as they are.
pub(crate) const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How much of a value's beginning counts as the value where a text breaks off in the middle of it.
const SHORTEST_FRAGMENT: usize = 8;

const REDACTED: &str = "[redacted]";

/// The ways in which a value may be written in a text: as it is, percent-encoded for a form and as
/// OAuth does it, and in base64 at each of the three places that it can have in a longer text, such as
/// `key:secret`. Of base64 the letters are left out that hold bits of what stands beside the value.
pub(crate) fn spellings(value: &str) -> [Zeroizing<String>; 6] {
    let form = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let oauth = utf8_percent_encode(value, UNRESERVED).to_string();
    let base64 = |before: usize| {
        let mut longer = Zeroizing::new("\0".repeat(before));
        longer.push_str(value);
        let encoded = wipe::base64(longer.as_bytes());
        let (first, last) = ((before * 8).div_ceil(6), longer.len() * 8 / 6);
        encoded.get(first..last).unwrap_or_default().to_owned()
    };
    [value.to_owned(), form, oauth, base64(0), base64(1), base64(2)].map(Zeroizing::new)
}

/// Replaces a value in a text that a peer sent, as [`Generation::redact`] does.
#[must_use]
pub fn redact(text: &str, value: &SecretString) -> String {
    wipe::stack_of(|| redacted(text, value))
}

/// Named place of `expose_secret`: a value is compared with a text that is about to be logged.
fn redacted(text: &str, value: &SecretString) -> String {
    let value = value.expose_secret();
    let mut text = text.to_owned();
    for form in spellings(value).iter().map(|form| form.as_str()).filter(|form| !form.is_empty()) {
        text = text.replace(form, REDACTED);
        let fragment = (SHORTEST_FRAGMENT..form.len())
            .rev()
            .filter_map(|length| form.get(..length))
            .find(|fragment| text.ends_with(fragment));
        if let Some(fragment) = fragment {
            text.truncate(text.len() - fragment.len());
            text.push_str(REDACTED);
        }
    }
    text
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.held).finish()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("credential", &self.credential)
            .field("reference", &self.reference.to_string())
            .field("version_id", &self.version_id)
            .field("value", &REDACTED)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation() -> Generation {
        let held = |credential: Credential, value: &str| Held {
            credential,
            reference: credential.default_secret().parse().unwrap(),
            version_id: "9d4cb84b-ad69-40c0-a0ab-cead36b967e8".into(),
            value: Arc::new(SecretString::from(value)),
        };
        Generation::new(vec![
            held(Credential::ConsumerKey, "MARKER-key/+=~*"),
            held(Credential::AccessTokenSecret, "MARKER-token-secret"),
        ])
    }

    #[test]
    fn debug_shows_versions_and_no_value() {
        insta::assert_debug_snapshot!(generation(), @r#"
        [
            Held {
                credential: ConsumerKey,
                reference: "CONSUMERKEY",
                version_id: "9d4cb84b-ad69-40c0-a0ab-cead36b967e8",
                value: "[redacted]",
            },
            Held {
                credential: AccessTokenSecret,
                reference: "ACCESSTOKENSECRET",
                version_id: "9d4cb84b-ad69-40c0-a0ab-cead36b967e8",
                value: "[redacted]",
            },
        ]
        "#);
    }

    #[test]
    fn a_credential_that_is_not_held_is_none() {
        assert!(generation().secret(Credential::ConsumerKey).is_some());
        assert!(generation().secret(Credential::ConsumerSecret).is_none());
    }

    #[test]
    fn a_peers_text_loses_every_encoding_of_a_value() {
        let text = generation().redact(
            "MARKER-key/+=~* MARKER-key%2F%2B%3D%7E* MARKER-key%2F%2B%3D~%2A \
             TUFSS0VSLWtleS8rPX4q and MARKER-token-secret.",
        );
        assert_eq!(text, "[redacted] [redacted] [redacted] [redacted] and [redacted].");
        // As HTTP Basic sends them, whatever the key's length.
        for key in ["k", "ke", "key"] {
            let pair = aws_smithy_types::base64::encode(format!("{key}:MARKER-token-secret"));
            let text = generation().redact(&format!("Basic {pair}"));
            assert!(text.contains("[redacted]") && text.len() < 28, "{text}");
        }
        assert_eq!(generation().redact("MARKER-other"), "MARKER-other");
        assert_eq!(generation().redact("MARKER-token-secreT"), "MARKER-token-secreT");
    }

    #[test]
    fn a_peers_text_loses_the_beginning_of_a_value_that_it_breaks_off_in() {
        assert_eq!(generation().redact("cut MARKER-token-se"), "cut [redacted]");
        assert_eq!(generation().redact("cut MARKER-key%2F%2"), "cut [redacted]");
        assert_eq!(generation().redact("cut MARKER-"), "cut MARKER-");
    }
}
