//! A set of credentials that belong together: adopted whole or not at all.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::{Credential, Reference};

/// One credential and the version of the secret that it came from.
pub struct Held {
    /// Which credential it is.
    pub credential: Credential,
    /// Where it is kept.
    pub reference: Reference,
    /// The `VersionId` of the secret's version that held the value.
    pub version_id: String,
    /// The value.
    pub value: SecretString,
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
        self.held
            .iter()
            .find(|held| held.credential == credential)
            .map(|held| &held.value)
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
        self.held
            .iter()
            .fold(text.to_owned(), |text, held| redacted(&text, held))
    }
}

/// Named place of `expose_secret`: a value is compared with a text that is about to be logged.
fn redacted(text: &str, held: &Held) -> String {
    let value = held.value.expose_secret();
    let percent: zeroize::Zeroizing<String> =
        zeroize::Zeroizing::new(url::form_urlencoded::byte_serialize(value.as_bytes()).collect());
    let base64 = zeroize::Zeroizing::new(aws_smithy_types::base64::encode(value));
    // Base64 of a longer text that contains the value shifts its letters; what can be found is the
    // value encoded by itself. The padding may be missing.
    let base64 = base64.trim_end_matches('=');
    [value, percent.as_str(), base64]
        .into_iter()
        .filter(|form| !form.is_empty())
        .fold(text.to_owned(), |text, form| {
            text.replace(form, "[redacted]")
        })
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
            .field("value", &"[redacted]")
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
            value: SecretString::from(value),
        };
        Generation::new(vec![
            held(Credential::ConsumerKey, "MARKER-key/+="),
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
            "key MARKER-key/+=, MARKER-key%2F%2B%3D, TUFSS0VSLWtleS8rPQ== and MARKER-token-secret.",
        );
        assert_eq!(
            text,
            "key [redacted], [redacted], [redacted]== and [redacted]."
        );
        assert_eq!(generation().redact("MARKER-other"), "MARKER-other");
    }
}
