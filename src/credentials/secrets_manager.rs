//! Fetching: `GetSecretValue` for all secrets at once, with an explicit staging label, values
//! straight into types that wipe themselves.
//!
//! One call per secret and not `BatchGetSecretValue`: the batch needs a grant on `*` and cannot
//! meet a policy's condition on `secretsmanager:VersionStage`.
//!
//! A client is built for a fetch and dropped after it, and keeps no idle connection, because the
//! buffer of a pooled connection keeps the last response, value and all.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::config::Region;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::RequestId;
use aws_sdk_secretsmanager::{Client, config};
use futures_util::future::try_join_all;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Credential, Held, Reference};
use crate::aws::{Answer, http_client, is_denial, no_task_role};
use crate::wipe;

/// The longest value that is taken, in bytes. X's longest credential has 50 characters; a header
/// line of 8 KiB is what servers commonly allow.
pub const LONGEST_VALUE: usize = 4096;

/// Secrets Manager, asked with the task role.
#[derive(Clone)]
pub struct SecretsManager {
    sdk: SdkConfig,
    /// Answers to `DescribeSecret` hold no value, so its connections may stay open.
    describing: Client,
}

/// Which version carries which staging label, of one secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// As the reference names it.
    pub secret_id: String,
    /// Version id and staging label, as many pairs as there are labels.
    pub versions: Vec<(String, String)>,
}

impl Labels {
    /// The id of the version that carries a label.
    #[must_use]
    pub fn version_at(&self, stage: &str) -> Option<&str> {
        self.versions.iter().find(|(_, label)| label == stage).map(|(id, _)| id.as_str())
    }
}

/// What is asked of Secrets Manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `DescribeSecret`.
    Look,
    /// `GetSecretValue`.
    Fetch,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Look => "DescribeSecret",
            Self::Fetch => "GetSecretValue",
        }
    }
}

/// Why a set of credentials could not be had. It carries no value, nor any part of one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the credential {} was not had: {} of secret {secret_id}{}",
    credential.variable(), action.name(), InRegion(region.as_deref())
)]
pub struct FetchError {
    /// Which credential was asked for.
    pub credential: Credential,
    /// How.
    pub action: Action,
    /// The secret's name or ARN.
    pub secret_id: String,
    /// The region asked, where the reference names one.
    pub region: Option<String>,
    /// What happened.
    #[source]
    pub cause: Cause,
}

struct InRegion<'a>(Option<&'a str>);

impl fmt::Display for InRegion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |region| write!(f, " in {region}"))
    }
}

/// What happened to a fetch, and what an operator does about it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No answer, or one that says to come again.
    #[error("no answer that can be used yet ({0})")]
    Transient(Answer),
    /// The task has no role, or none that can be used.
    #[error(
        "there are no AWS credentials of a task role ({0}): set taskRoleArn in the task definition \
         (outside ECS, point AWS_CONTAINER_CREDENTIALS_FULL_URI at a credentials endpoint)"
    )]
    NoTaskRole(String),
    /// Refused by IAM, by the secret's own policy, or because the role's credentials are not known.
    #[error(
        "access denied for the task role ({answer}): grant secretsmanager:{} on this secret{}, and \
         compare with iam/task-role-embedded.json",
        action.name(),
        if *action == Action::Fetch { " with VersionStage AWSCURRENT" } else { "" }
    )]
    Denied {
        /// What was denied.
        action: Action,
        /// By whom, and why.
        answer: Answer,
    },
    /// No such secret, no such version, or a version without a value.
    #[error(
        "there is no such secret, or no value under that staging label ({0}): compare the name and \
         the region, and see 'aws secretsmanager describe-secret' for its labels"
    )]
    NotFound(Answer),
    /// Scheduled for deletion.
    #[error("the secret is scheduled for deletion ({0}): see 'aws secretsmanager restore-secret'")]
    Deleted(Answer),
    /// The KMS key cannot be used.
    #[error(
        "its KMS key cannot be used ({0}): enable the key, and grant kms:Decrypt on the key (not \
         on the secret) where it is one of your own"
    )]
    Decryption(Answer),
    /// Any other refusal of the request.
    #[error("Secrets Manager refused the request ({0})")]
    Refused(Answer),
    /// A value came, and cannot be used.
    #[error("version {version_id} of it cannot be used: {fault}")]
    Value {
        /// The version that was read.
        version_id: String,
        /// What is wrong with it.
        fault: ValueFault,
    },
}

impl Cause {
    /// One word for it: while it stays the same there is nothing new to say.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::NoTaskRole(_) => "no task role",
            Self::Denied { .. } => "denied",
            Self::NotFound(_) => "not found",
            Self::Deleted(_) => "deleted",
            Self::Decryption(_) => "decryption",
            Self::Refused(_) => "refused",
            Self::Value { .. } => "value",
        }
    }

    /// Whether asking again can help without anybody doing something first.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Transient(_) => true,
            Self::NoTaskRole(_)
            | Self::Denied { .. }
            | Self::NotFound(_)
            | Self::Deleted(_)
            | Self::Decryption(_)
            | Self::Refused(_)
            | Self::Value { .. } => false,
        }
    }
}

/// What is wrong with a value that was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueFault {
    /// `SecretBinary` instead of `SecretString`.
    #[error("it is binary; store it as a string")]
    Binary,
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Longer than [`LONGEST_VALUE`].
    #[error("it is longer than {LONGEST_VALUE} bytes; is it a JSON secret that needs a json-key?")]
    TooLong,
    /// A character that no key of X has, and no header may carry.
    #[error(
        "it holds white space, a control character or one outside ASCII (a line break at its end?)"
    )]
    Characters,
    /// A json-key was asked of something that is not a JSON object.
    #[error("it is not a JSON object ({category} error at line {line}, column {column})")]
    NotJson {
        /// The category of `serde_json`'s error.
        category: &'static str,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// The JSON object has no such key.
    #[error("its JSON object has no key {0:?}")]
    NoKey(String),
    /// The JSON object has the key, with something else than a string.
    #[error("key {0:?} of its JSON object is not a string")]
    NotAString(String),
}

impl SecretsManager {
    /// Asks with the credentials, region and endpoint of `sdk`.
    #[must_use]
    pub fn new(sdk: SdkConfig) -> Self {
        Self { describing: Client::new(&sdk), sdk }
    }

    /// Fetches all credentials at once, each version of a secret one time.
    ///
    /// # Errors
    /// The first secret that could not be had, or whose value cannot be used.
    pub async fn fetch(
        &self,
        references: &[(Credential, Reference)],
    ) -> Result<Vec<Held>, FetchError> {
        let client = self.client();
        // Several references into one JSON secret are one question.
        let mut questions: Vec<Vec<&(Credential, Reference)>> = Vec::new();
        for wanted in references {
            let same = |question: &&mut Vec<&(Credential, Reference)>| {
                question.iter().any(|(_, other)| other.same_version_as(&wanted.1))
            };
            match questions.iter_mut().find(same) {
                Some(question) => question.push(wanted),
                None => questions.push(vec![wanted]),
            }
        }
        let asking = try_join_all(questions.iter().map(|question| ask(&client, question)));
        let answers = wipe::steps_of(asking).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Reads which version carries which label, of each secret once. No value crosses the wire.
    ///
    /// # Errors
    /// The first secret that could not be looked at.
    pub async fn labels(
        &self,
        references: &[(Credential, Reference)],
    ) -> Result<Vec<Labels>, FetchError> {
        let mut secrets: Vec<&(Credential, Reference)> = Vec::new();
        for wanted in references {
            if !secrets.iter().any(|(_, other)| other.secret_id() == wanted.1.secret_id()) {
                secrets.push(wanted);
            }
        }
        try_join_all(secrets.into_iter().map(|wanted| describe(&self.describing, wanted))).await
    }

    fn client(&self) -> Client {
        let http = http_client(0);
        let config = config::Builder::from(&self.sdk).http_client(http).build();
        Client::from_conf(config)
    }
}

async fn describe(
    client: &Client,
    (credential, reference): &(Credential, Reference),
) -> Result<Labels, FetchError> {
    let request = client.describe_secret().secret_id(reference.secret_id());
    let sent = match reference.region() {
        Some(region) => {
            let region = Region::new(region.to_owned());
            request.customize().config_override(config::Builder::new().region(region)).send().await
        }
        None => request.send().await,
    };
    let secret = sent.map_err(|error| {
        failed(*credential, reference, Action::Look, cause_of(Action::Look, &error))
    })?;
    let stages = secret.version_ids_to_stages.unwrap_or_default();
    let mut versions: Vec<_> = stages
        .into_iter()
        .flat_map(|(id, labels)| labels.into_iter().map(move |label| (id.clone(), label)))
        .collect();
    // So that labels that have not moved are equal.
    versions.sort();
    Ok(Labels { secret_id: reference.secret_id().to_owned(), versions })
}

fn failed(
    credential: Credential,
    reference: &Reference,
    action: Action,
    cause: Cause,
) -> FetchError {
    FetchError {
        credential,
        action,
        secret_id: reference.secret_id().to_owned(),
        region: reference.region().map(str::to_owned),
        cause,
    }
}

/// One `GetSecretValue`, shared by all credentials that are kept in that version.
async fn ask(
    client: &Client,
    wanted: &[&(Credential, Reference)],
) -> Result<Vec<Held>, FetchError> {
    let Some((credential, reference)) = wanted.first() else {
        return Ok(Vec::new());
    };
    let request = client
        .get_secret_value()
        .secret_id(reference.secret_id())
        .set_version_stage(reference.version().stage().map(str::to_owned))
        .set_version_id(reference.version().id().map(str::to_owned));
    let sent = match reference.region() {
        Some(region) => {
            let region = Region::new(region.to_owned());
            request.customize().config_override(config::Builder::new().region(region)).send().await
        }
        None => request.send().await,
    };
    let fail = |credential, cause| failed(credential, reference, Action::Fetch, cause);
    let answer = sent.map_err(|error| fail(*credential, cause_of(Action::Fetch, &error)))?;
    let version_id = answer.version_id.unwrap_or_default();
    // From here on the payload is wiped on every way out.
    let mut payload = answer.secret_string.map(SecretString::from);
    let mut held = Vec::with_capacity(wanted.len());
    for (index, (credential, reference)) in wanted.iter().enumerate() {
        let value = match (reference.json_key(), &mut payload) {
            (_, None) => Err(ValueFault::Binary),
            (Some(key), Some(payload)) => json_value(payload, key),
            // The last one has the payload itself, not a copy of it.
            (None, payload) if index + 1 == wanted.len() => {
                payload.take().ok_or(ValueFault::Binary)
            }
            (None, Some(payload)) => Ok(payload.clone()),
        };
        let value = value.and_then(checked).map_err(|fault| {
            fail(*credential, Cause::Value { version_id: version_id.clone(), fault })
        })?;
        held.push(Held {
            credential: *credential,
            reference: reference.clone(),
            version_id: version_id.clone(),
            value: Arc::new(value),
        });
    }
    Ok(held)
}

/// Named place of `expose_secret`: a value must be one that can stand in a header.
fn checked(value: SecretString) -> Result<SecretString, ValueFault> {
    let text = value.expose_secret();
    if text.is_empty() {
        return Err(ValueFault::Empty);
    }
    if text.len() > LONGEST_VALUE {
        return Err(ValueFault::TooLong);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ValueFault::Characters);
    }
    Ok(value)
}

/// Named place of `expose_secret`: the string under one key of a JSON object. Nothing else of the
/// object is kept, and of an error only its place, because `serde_json`'s own words quote what they
/// stumbled over.
fn json_value(payload: &SecretString, key: &str) -> Result<SecretString, ValueFault> {
    struct Key<'a>(&'a str);
    impl<'de> Visitor<'de> for Key<'_> {
        type Value = Option<Option<SecretString>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                if name == self.0 {
                    found = Some(map.next_value::<StringOrNot>()?.0);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }

    let mut json = serde_json::Deserializer::from_str(payload.expose_secret());
    let found = json.deserialize_map(Key(key)).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Some(Some(value))) => Ok(value),
        Ok(Some(None)) => Err(ValueFault::NotAString(key.to_owned())),
        Ok(None) => Err(ValueFault::NoKey(key.to_owned())),
        Err(error) => Err(ValueFault::NotJson {
            category: match error.classify() {
                serde_json::error::Category::Io => "read",
                serde_json::error::Category::Syntax => "syntax",
                serde_json::error::Category::Data => "type",
                serde_json::error::Category::Eof => "end-of-text",
            },
            line: error.line(),
            column: error.column(),
        }),
    }
}

/// A JSON string, or `None` for whatever else stands there.
struct StringOrNot(Option<SecretString>);

impl<'de> serde::Deserialize<'de> for StringOrNot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = StringOrNot;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_str<E>(self, text: &str) -> Result<StringOrNot, E> {
                Ok(StringOrNot(Some(SecretString::from(text))))
            }

            fn visit_bool<E>(self, _: bool) -> Result<StringOrNot, E> {
                Ok(StringOrNot(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<StringOrNot, E> {
                Ok(StringOrNot(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<StringOrNot, E> {
                Ok(StringOrNot(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<StringOrNot, E> {
                Ok(StringOrNot(None))
            }

            fn visit_unit<E>(self) -> Result<StringOrNot, E> {
                Ok(StringOrNot(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StringOrNot, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(StringOrNot(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringOrNot, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(StringOrNot(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Decides in one place whether asking again can help. The codes are those of the Secrets Manager
/// API reference (`GetSecretValue`, "Common Errors").
fn cause_of<E>(action: Action, error: &SdkError<E>) -> Cause
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    SdkError<E>: RequestId,
{
    let SdkError::ServiceError(refusal) = error else {
        return unanswered(error);
    };
    let answer = Answer::of(error);
    let code = error.code().unwrap_or_default();
    let message = error.message().unwrap_or_default();
    let status = refusal.raw().status().as_u16();
    match code {
        code if is_denial(code) => Cause::Denied { action, answer },
        "ResourceNotFoundException" => Cause::NotFound(answer),
        // The API has no code of its own for this: InvalidRequestException stands for several.
        "InvalidRequestException" if message.contains("marked") && message.contains("delet") => {
            Cause::Deleted(answer)
        }
        "DecryptionFailure" => Cause::Decryption(answer),
        // The SDK fetches new session credentials before it asks again.
        "ExpiredTokenException" | "RequestExpired" => Cause::Transient(answer),
        _ if status == 403 => Cause::Denied { action, answer },
        _ if status >= 500 || status == 429 || code.contains("Throttl") => Cause::Transient(answer),
        _ => Cause::Refused(answer),
    }
}

/// A request that got no answer: the network's fault, or the credentials'.
fn unanswered<E>(error: &SdkError<E>) -> Cause
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    SdkError<E>: RequestId,
{
    if let Some(why) = no_task_role(error) {
        return Cause::NoTaskRole(why);
    }
    Cause::Transient(Answer::of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(payload: &str, json_key: Option<&str>) -> Result<String, ValueFault> {
        let payload = SecretString::from(payload);
        let value = match json_key {
            Some(key) => json_value(&payload, key)?,
            None => payload,
        };
        checked(value).map(|value| value.expose_secret().to_owned())
    }

    #[test]
    fn a_secret_without_a_key_is_the_value() {
        assert_eq!(value("MARKER", None), Ok("MARKER".into()));
    }

    #[test]
    fn a_json_key_picks_its_value_and_nothing_else() {
        let payload = r#" {"a": {"k": [1, {}]}, "k": "MARK\u0045R", "z": null} "#;
        assert_eq!(value(payload, Some("k")), Ok("MARKER".into()));
        for (key, fault) in [
            ("a", ValueFault::NotAString("a".into())),
            ("z", ValueFault::NotAString("z".into())),
            ("missing", ValueFault::NoKey("missing".into())),
        ] {
            assert_eq!(value(payload, Some(key)), Err(fault));
        }
    }

    #[test]
    fn a_value_that_cannot_be_used_is_described_and_never_quoted() {
        let long = "MARKER".repeat(1000);
        for (payload, key) in [
            ("", None),
            (long.as_str(), None),
            ("MARKER\n", None),
            ("MARKER MARKER", None),
            ("MÄRKER-MARKER", None),
            ("MARKER", Some("key")),
            ("\"MARKER\"", Some("key")),
            ("[\"MARKER\"]", Some("key")),
            ("{\"key\": \"MARKER", Some("key")),
            ("{\"key\": \"MARKER\"} MARKER", Some("key")),
            ("{\"key\": 12345}", Some("key")),
        ] {
            let fault = value(payload, key).unwrap_err();
            let text = format!("{fault} {fault:?}");
            assert!(!text.contains("MARKER") && !text.contains("12345"), "{text}");
        }
    }
}
