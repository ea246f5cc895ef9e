//! Where a credential is kept: a secret's name, its ARN, or the `valueFrom` form of an ECS task
//! definition.
//!
//! The grammar is ECS's own. A resource part `secret:NAME` is an ARN; `secret:NAME` followed by
//! exactly three more fields is `json-key`, `version-stage` and `version-id`, each of which may be
//! empty ([ECS guide, "Pass Secrets Manager secrets through environment variables"][guide]; the
//! agent counts the fields in `getASMParametersFromInput`).
//!
//! [guide]: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html

use std::fmt;
use std::str::FromStr;

/// The staging label that is meant where none is named.
pub const AWSCURRENT: &str = "AWSCURRENT";

/// Which version of a secret is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VersionChoice {
    /// The version that carries this staging label; `AWSCURRENT` where none was named.
    Stage(String),
    /// This version, whatever its labels.
    Id(String),
    /// This version, provided that it carries this staging label.
    StageAndId(String, String),
}

impl VersionChoice {
    /// The `VersionStage` to send.
    #[must_use]
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::Stage(stage) | Self::StageAndId(stage, _) => Some(stage),
            Self::Id(_) => None,
        }
    }

    /// The `VersionId` to send.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Id(id) | Self::StageAndId(_, id) => Some(id),
            Self::Stage(_) => None,
        }
    }
}

/// Where a credential is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    secret_id: String,
    region: Option<String>,
    json_key: Option<String>,
    version: VersionChoice,
}

/// What a reference should look like. It does not repeat the text, which may be a secret that
/// landed in the wrong variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is not an ARN, and not a name either.
    #[error("the name of a secret: 1 to 512 of letters, digits and /_+=.@-, or an ARN")]
    Name,
    /// It has the form of what X gives out, and not of a name that somebody would choose.
    #[error(
        "the name of a secret or its ARN, and it looks like a credential's value: put that into \
         Secrets Manager (where it stood others may have read it: have a new one made) and name the \
         secret here; of a secret that is really named so, give the ARN"
    )]
    Value,
    /// It starts like an ARN and is not one of Secrets Manager.
    #[error("an ARN of Secrets Manager: arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME")]
    Arn,
    /// There are more fields after the name, but not three.
    #[error(
        "an ARN that ends at the secret's name, or goes on with exactly three fields, \
         :JSON-KEY:VERSION-STAGE:VERSION-ID, each of which may be empty"
    )]
    Fields,
    /// The version id has not 32 to 64 characters.
    #[error("a version id of 32 to 64 letters, digits and hyphens in the ARN's last field")]
    VersionId,
    /// The staging label has over 256 characters.
    #[error("a staging label of at most 256 characters in the ARN's version-stage field")]
    VersionStage,
}

impl Reference {
    /// The `SecretId` to send: a name, or an ARN without the fields that ECS adds.
    #[must_use]
    pub fn secret_id(&self) -> &str {
        &self.secret_id
    }

    /// The region that the ARN names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The key of the value inside a JSON secret; without one the whole secret is the value.
    #[must_use]
    pub fn json_key(&self) -> Option<&str> {
        self.json_key.as_deref()
    }

    /// Which version is wanted.
    #[must_use]
    pub const fn version(&self) -> &VersionChoice {
        &self.version
    }

    /// The same place at another staging label.
    #[must_use]
    pub fn at_stage(&self, stage: &str) -> Self {
        Self { version: VersionChoice::Stage(stage.to_owned()), ..self.clone() }
    }

    /// Whether both are answered by one `GetSecretValue`.
    #[must_use]
    pub fn same_version_as(&self, other: &Self) -> bool {
        self.secret_id == other.secret_id && self.version == other.version
    }

    fn arn(text: &str) -> Result<Self, ReferenceError> {
        let mut parts = text.splitn(7, ':');
        let mut part = || parts.next().ok_or(ReferenceError::Arn);
        let (scheme, partition, service) = (part()?, part()?, part()?);
        let (region, account, kind) = (part()?, part()?, part()?);
        let resource = part()?;
        let arn = scheme == "arn"
            && (partition == "aws" || partition.starts_with("aws-"))
            && service == "secretsmanager"
            && !region.is_empty()
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && kind == "secret";
        if !arn {
            return Err(ReferenceError::Arn);
        }
        let fields: Vec<&str> = resource.split(':').collect();
        let (name, json_key, stage, id) = match *fields.as_slice() {
            [name] => (name, "", "", ""),
            [name, json_key, stage, id] => (name, json_key, stage, id),
            _ => return Err(ReferenceError::Fields),
        };
        if !is_name(name) {
            return Err(ReferenceError::Name);
        }
        if stage.len() > 256 {
            return Err(ReferenceError::VersionStage);
        }
        let id_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(id.is_empty() || ((32..=64).contains(&id.len()) && id.bytes().all(id_allowed))) {
            return Err(ReferenceError::VersionId);
        }
        Ok(Self {
            secret_id: format!("arn:{partition}:{service}:{region}:{account}:{kind}:{name}"),
            region: Some(region.to_owned()),
            json_key: (!json_key.is_empty()).then(|| json_key.to_owned()),
            version: match (stage, id) {
                ("", "") => VersionChoice::Stage(AWSCURRENT.to_owned()),
                (stage, "") => VersionChoice::Stage(stage.to_owned()),
                ("", id) => VersionChoice::Id(id.to_owned()),
                (stage, id) => VersionChoice::StageAndId(stage.to_owned(), id.to_owned()),
            },
        })
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
    (1..=512).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether a text has the form of one of X's credentials: an API key of 25 letters and digits, the
/// secret of a key of 50 or of a token of 45, or an access token, which begins with the number of its
/// account.
fn is_like_a_value(text: &str) -> bool {
    let alphanumeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match text.split_once('-') {
        None => matches!(text.len(), 25 | 45 | 50) && alphanumeric(text),
        Some((account, rest)) => {
            !account.is_empty()
                && account.bytes().all(|byte| byte.is_ascii_digit())
                && rest.len() >= 30
                && alphanumeric(rest)
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.starts_with("arn:") {
            return Self::arn(text);
        }
        if !is_name(text) {
            return Err(ReferenceError::Name);
        }
        if is_like_a_value(text) {
            return Err(ReferenceError::Value);
        }
        Ok(Self {
            secret_id: text.to_owned(),
            region: None,
            json_key: None,
            version: VersionChoice::Stage(AWSCURRENT.to_owned()),
        })
    }
}

/// The `valueFrom` form. What was parsed from it is the same reference again.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = self.version.stage().filter(|stage| *stage != AWSCURRENT);
        let id = self.version.id();
        f.write_str(&self.secret_id)?;
        if self.json_key.is_some() || stage.is_some() || id.is_some() {
            // A label beside a version id is a condition, so AWSCURRENT is spelt out there.
            let stage = if id.is_some() { self.version.stage() } else { stage };
            let json_key = self.json_key.as_deref().unwrap_or_default();
            write!(f, ":{json_key}:{}:{}", stage.unwrap_or_default(), id.unwrap_or_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:us-west-2:123456789012:secret:CONSUMERKEY-a1B2c3";
    const ID: &str = "9d4cb84b-ad69-40c0-a0ab-cead36b967e8";

    fn parsed(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_means_its_current_version() {
        let reference = parsed("team/CONSUMERKEY");
        assert_eq!(reference.secret_id(), "team/CONSUMERKEY");
        assert_eq!(reference.version(), &VersionChoice::Stage(AWSCURRENT.into()));
        assert_eq!((reference.region(), reference.json_key()), (None, None));
    }

    #[test]
    fn full_and_partial_arns_keep_their_text_and_name_their_region() {
        for arn in [ARN, "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:CONSUMERKEY"] {
            let reference = parsed(arn);
            assert_eq!(reference.secret_id(), arn);
            assert_eq!(reference.region(), arn.split(':').nth(3));
        }
    }

    #[test]
    fn the_three_fields_may_each_be_empty() {
        let reference = |fields: &str| parsed(&format!("{ARN}{fields}"));
        assert_eq!(reference(":::"), parsed(ARN));
        let key = reference(":consumer_key::");
        assert_eq!(key.json_key(), Some("consumer_key"));
        assert_eq!(key.version().stage(), Some(AWSCURRENT));
        let stage = reference("::AWSPREVIOUS:");
        assert_eq!((stage.json_key(), stage.version().stage()), (None, Some("AWSPREVIOUS")));
        let id = reference(&format!(":::{ID}"));
        assert_eq!((id.version().stage(), id.version().id()), (None, Some(ID)));
        let all = reference(&format!(":key:AWSPENDING:{ID}"));
        assert_eq!((all.version().stage(), all.version().id()), (Some("AWSPENDING"), Some(ID)));
        assert_eq!(all.secret_id(), ARN);
    }

    #[test]
    fn what_ecs_refuses_is_refused() {
        for (text, error) in [
            (String::new(), ReferenceError::Name),
            ("has space".into(), ReferenceError::Name),
            ("NAME:key::".into(), ReferenceError::Name),
            (format!("{ARN}:key"), ReferenceError::Fields),
            (format!("{ARN}:key:"), ReferenceError::Fields),
            (format!("{ARN}::::"), ReferenceError::Fields),
            (format!("{ARN}:::too-short"), ReferenceError::VersionId),
            (format!("{ARN}::{}:", "S".repeat(257)), ReferenceError::VersionStage),
            ("arn:aws:secretsmanager:us-west-2:123456789012:secret:".into(), ReferenceError::Name),
            ("arn:aws:ssm:us-west-2:123456789012:parameter/x".into(), ReferenceError::Arn),
            ("arn:aws:ssm:us-west-2:123456789012:secret:x".into(), ReferenceError::Arn),
            ("arn:aws:secretsmanager::123456789012:secret:x".into(), ReferenceError::Arn),
            ("arn:aws:secretsmanager:us-west-2:1234:secret:x".into(), ReferenceError::Arn),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(error), "{text}");
        }
    }

    #[test]
    fn what_looks_like_one_of_xs_credentials_is_no_name_of_a_secret() {
        let token =
            |account: &str, length: usize| format!("{account}-{}", "aB3".repeat(length / 3));
        for length in [25, 45, 50] {
            let value = "aB3x".repeat(13).split_off(52 - length);
            assert_eq!(value.parse::<Reference>(), Err(ReferenceError::Value), "{value}");
            // It is one where it is longer, has a character of its own, or is an ARN's.
            assert!(parsed(&format!("{value}x")).region().is_none());
            assert!(parsed(&format!("{}/{value}", "team")).region().is_none());
            let arn = format!("arn:aws:secretsmanager:us-west-2:123456789012:secret:{value}");
            assert_eq!(parsed(&arn).secret_id(), arn);
        }
        for value in [token("1", 30), token("1234567890123456789", 39)] {
            assert_eq!(value.parse::<Reference>(), Err(ReferenceError::Value), "{value}");
        }
        for name in [token("1", 27), token("", 30), token("prod", 30), token("1-a", 30)] {
            assert_eq!(parsed(&name).secret_id(), name);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic_or_an_echo(text in "\\PC{0,80}") {
            if let Err(error) = text.parse::<Reference>() {
                prop_assert!(text.len() < 6 || !error.to_string().contains(&text));
            }
        }

        #[test]
        fn what_is_printed_parses_to_the_same_reference(
            name in "[a-zA-Z0-9/_+=.@-]{1,40}",
            key in "[a-z_]{0,8}",
            stage in "(AWSCURRENT|AWSPENDING|mine|)",
            id in "([0-9a-f]{32}|)",
        ) {
            let arn = format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{name}");
            let reference = parsed(&format!("{arn}:{key}:{stage}:{id}"));
            prop_assert_eq!(parsed(&reference.to_string()), reference);
        }
    }
}
