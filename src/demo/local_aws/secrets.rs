//! Secrets Manager: secrets, their versions, and the staging labels that say which version is which.
//!
//! Our own store, and not a wrapper around `AWSim`'s. A wrapper would have to replace its create, put, update, get,
//! describe, batch and label calls, which is all of it. Here a secret maps each label to one version, so that a label
//! in two places, which rotation must never see, cannot be written down.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use awsim_core::ContextValue;
use awsim_iam_policy::PolicyDocument;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::api_error::ApiError;
use super::eventbridge::EventBridge;
use super::gateway::{Access, Answer, Caller};
use super::iam::Question;
use super::identifiers;

const CURRENT: &str = "AWSCURRENT";
const PENDING: &str = "AWSPENDING";
const PREVIOUS: &str = "AWSPREVIOUS";
const NOT_FOUND: &str = "ResourceNotFoundException";
/// AWS's limit of a value, in bytes.
const LIMIT_BYTES: usize = 65_536;
/// How many label updates wait for a slow receiver.
const UPDATES_KEPT: usize = 1024;

/// A staging label has come to another version, as in the event "Secret Label Updated". Not sent for AWSPENDING and
/// AWSPREVIOUS, as AWS does not either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelUpdate {
    /// The secret's full ARN.
    pub secret_arn: String,
    /// The secret's name.
    pub name: String,
    /// The staging label.
    pub label: String,
    /// The version that it is attached to now.
    pub version_id: String,
}

enum SecretValue {
    String(SecretString),
    /// As it came, in base64.
    Binary(SecretString),
}

impl SecretValue {
    fn text(&self) -> &str {
        match self {
            Self::String(text) | Self::Binary(text) => text.expose_secret(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::String(_), Self::String(_)) | (Self::Binary(_), Self::Binary(_))
        ) && self.text() == other.text()
    }
}

struct Version {
    /// None while a rotation has made the version and not yet put its value.
    value: Option<SecretValue>,
    created: SystemTime,
}

struct Secret {
    arn: String,
    name: String,
    description: Option<String>,
    kms_key_id: Option<String>,
    tags: BTreeMap<String, String>,
    /// Who may do what with it, besides what their own policies say.
    policy: Option<PolicyDocument>,
    versions: BTreeMap<String, Version>,
    /// Staging label to version id.
    labels: BTreeMap<String, String>,
    created: SystemTime,
    last_changed: SystemTime,
    last_accessed: Option<SystemTime>,
    /// When a deletion becomes final.
    deletion: Option<SystemTime>,
}

impl Secret {
    /// Attaches the label to the version, away from where it was. AWSPREVIOUS follows what AWSCURRENT leaves.
    fn attach(&mut self, label: &str, version_id: &str) -> bool {
        let left = self.labels.insert(label.to_owned(), version_id.to_owned());
        if left.as_deref() == Some(version_id) {
            return false;
        }
        if let (CURRENT, Some(left)) = (label, left) {
            self.labels.insert(PREVIOUS.to_owned(), left);
        }
        true
    }

    fn labels_of(&self, version_id: &str) -> Vec<&str> {
        let of_version = self.labels.iter().filter(|(_, attached)| *attached == version_id);
        of_version.map(|(label, _)| label.as_str()).collect()
    }

    fn update(&self, label: &str) -> Option<LabelUpdate> {
        if matches!(label, PENDING | PREVIOUS) {
            return None;
        }
        Some(LabelUpdate {
            secret_arn: self.arn.clone(),
            name: self.name.clone(),
            label: label.to_owned(),
            version_id: self.labels.get(label)?.clone(),
        })
    }
}

/// The members of all operations' requests in one, since each is optional and no two mean different things.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Input {
    client_request_token: Option<String>,
    description: Option<String>,
    filters: Option<Value>,
    force_delete_without_recovery: Option<bool>,
    include_deprecated: Option<bool>,
    include_planned_deletion: Option<bool>,
    kms_key_id: Option<String>,
    max_results: Option<usize>,
    move_to_version_id: Option<String>,
    name: Option<String>,
    next_token: Option<String>,
    recovery_window_in_days: Option<u64>,
    remove_from_version_id: Option<String>,
    secret_binary: Option<String>,
    secret_id: Option<String>,
    secret_id_list: Option<Vec<String>>,
    secret_string: Option<String>,
    tag_keys: Option<Vec<String>>,
    tags: Option<Vec<Tag>>,
    version_id: Option<String>,
    version_stage: Option<String>,
    version_stages: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    value: String,
}

pub(super) struct SecretsManager {
    arn_prefix: String,
    secrets: Mutex<HashMap<String, Secret>>,
    updates: broadcast::Sender<LabelUpdate>,
    eventbridge: EventBridge,
}

impl SecretsManager {
    pub(super) fn new(account_id: &str, region: &str, eventbridge: EventBridge) -> Self {
        Self {
            arn_prefix: format!("arn:aws:secretsmanager:{region}:{account_id}:secret:"),
            secrets: Mutex::default(),
            updates: broadcast::Sender::new(UPDATES_KEPT),
            eventbridge,
        }
    }

    pub(super) fn eventbridge(&self) -> &EventBridge {
        &self.eventbridge
    }

    pub(super) fn label_updates(&self) -> broadcast::Receiver<LabelUpdate> {
        self.updates.subscribe()
    }

    /// Answers one authenticated call.
    pub(super) fn call(&self, operation: &str, body: &[u8], caller: &Caller<'_>) -> Answer {
        let mut access = Access::default();
        let mut of_batch = Vec::new();
        let result = match serde_json::from_slice::<Input>(body) {
            Err(_) => Err(ApiError::serialization()),
            Ok(input) => {
                access.version_stage.clone_from(&input.version_stage);
                self.answer(operation, &input, caller, &mut access, &mut of_batch)
            }
        };
        Answer { result: result.map(|body| body.to_string()), access, of_batch }
    }

    /// Makes a secret in process. Returns its ARN and the id of its first version.
    pub(super) fn seed(
        &self,
        name: &str,
        value: &str,
        now: SystemTime,
    ) -> Result<(String, String), ApiError> {
        let input = Input {
            name: Some(name.to_owned()),
            secret_string: Some(value.to_owned()),
            ..Input::default()
        };
        let mut access = Access::default();
        self.create(&mut self.lock(now), &input, &mut access, now)?;
        Ok((access.resource.unwrap_or_default(), access.version_id.unwrap_or_default()))
    }

    /// Puts a new version in process, under these labels. Without a value it is what a rotation leaves behind that
    /// fails between making AWSPENDING and putting its value.
    pub(super) fn seed_version(
        &self,
        secret_id: &str,
        value: Option<&str>,
        labels: &[&str],
        now: SystemTime,
    ) -> Result<String, ApiError> {
        let mut secrets = self.lock(now);
        let secret = self
            .find(&secrets, secret_id)
            .and_then(|name| secrets.get_mut(&name))
            .ok_or_else(no_such_secret)?;
        let version_id = identifiers::uuid();
        let value = value.map(|value| SecretValue::String(value.into()));
        secret.versions.insert(version_id.clone(), Version { value, created: now });
        secret.last_changed = now;
        self.attach_all(secret, labels.iter().copied(), &version_id, now);
        Ok(version_id)
    }

    /// Puts the resource policy of a secret in process.
    pub(super) fn put_policy(
        &self,
        secret_id: &str,
        policy: PolicyDocument,
        now: SystemTime,
    ) -> Result<(), ApiError> {
        let mut secrets = self.lock(now);
        let secret = self
            .find(&secrets, secret_id)
            .and_then(|name| secrets.get_mut(&name))
            .ok_or_else(no_such_secret)?;
        secret.policy = Some(policy);
        Ok(())
    }

    fn answer(
        &self,
        operation: &str,
        input: &Input,
        caller: &Caller<'_>,
        access: &mut Access,
        of_batch: &mut Vec<Access>,
    ) -> Result<Value, ApiError> {
        let now = caller.now;
        let mut secrets = self.lock(now);
        match operation {
            "CreateSecret" => {
                let name = required(input.name.as_ref(), "Name")?;
                access.resource = Some(name.clone());
                let resource = self.new_arn(name);
                authorize(caller, operation, &resource, input, None, [])?;
                self.create(&mut secrets, input, access, now)
            }
            "ListSecrets" => {
                authorize(caller, operation, "*", input, None, [])?;
                list(&secrets, input)
            }
            "BatchGetSecretValue" => {
                authorize(caller, operation, "*", input, None, [])?;
                self.batch(&mut secrets, input, caller, of_batch)
            }
            "DeleteSecret"
            | "DescribeSecret"
            | "GetSecretValue"
            | "ListSecretVersionIds"
            | "PutSecretValue"
            | "RestoreSecret"
            | "RotateSecret"
            | "TagResource"
            | "UntagResource"
            | "UpdateSecret"
            | "UpdateSecretVersionStage" => {
                let secret_id = required(input.secret_id.as_ref(), "SecretId")?;
                let allowed = self.allowed(&secrets, operation, secret_id, input, caller, access);
                let name = match allowed {
                    // AWS forgives this one, so that a second teardown succeeds.
                    Err(error)
                        if input.force_delete_without_recovery == Some(true)
                            && operation == "DeleteSecret"
                            && error.code == NOT_FOUND =>
                    {
                        let deletion = epoch_seconds(now);
                        return Ok(json!({ "Name": secret_id, "DeletionDate": deletion }));
                    }
                    allowed => allowed?,
                };
                if operation == "DeleteSecret" {
                    return delete(&mut secrets, &name, input, now);
                }
                let secret = secrets.get_mut(&name).ok_or_else(no_such_secret)?;
                self.change(operation, secret, input, access, now)
            }
            _ => {
                // What is not here is refused to whom IAM would refuse it, and unknown to the rest.
                authorize(caller, operation, "*", input, None, [])?;
                Err(ApiError::unknown_operation())
            }
        }
    }

    /// The name of the secret, once IAM allows the operation on it. AWS asks for the full ARN of a secret that exists,
    /// however the caller named it, and otherwise for what the caller wrote.
    fn allowed(
        &self,
        secrets: &HashMap<String, Secret>,
        operation: &str,
        secret_id: &str,
        input: &Input,
        caller: &Caller<'_>,
        access: &mut Access,
    ) -> Result<String, ApiError> {
        let found = self.find(secrets, secret_id);
        let secret = found.as_ref().and_then(|name| secrets.get(name));
        let resource = secret.map_or(secret_id, |secret| &secret.arn);
        access.resource = Some(resource.to_owned());
        let tags = secret.iter().flat_map(|secret| &secret.tags);
        let tags = tags.map(|(key, value)| (key.as_str(), value.as_str()));
        let policy = secret.and_then(|secret| secret.policy.as_ref());
        authorize(caller, operation, resource, input, policy, tags)?;
        found.ok_or_else(no_such_secret)
    }

    fn change(
        &self,
        operation: &str,
        secret: &mut Secret,
        input: &Input,
        access: &mut Access,
        now: SystemTime,
    ) -> Result<Value, ApiError> {
        match operation {
            "DescribeSecret" => return Ok(describe(secret)),
            "ListSecretVersionIds" => return Ok(list_versions(secret, input)),
            "RestoreSecret" => {
                secret.deletion = None;
                return Ok(named(secret));
            }
            _ => {}
        }
        if secret.deletion.is_some() {
            return Err(marked_for_deletion());
        }
        match operation {
            "GetSecretValue" => {
                let version_id =
                    chosen(secret, input.version_id.as_deref(), input.version_stage.as_deref())?;
                access.version_id = Some(version_id.clone());
                secret.last_accessed = Some(now);
                value(secret, &version_id)
            }
            "PutSecretValue" => {
                let value = given_value(input)?.ok_or_else(|| {
                    invalid_parameter("You must provide either SecretString or SecretBinary.")
                })?;
                let labels = match input.version_stages.as_deref() {
                    None | Some([]) => vec![CURRENT],
                    Some(labels) => labels.iter().map(String::as_str).collect(),
                };
                let version_id = self.add_version(secret, value, input, &labels, now)?;
                access.version_id = Some(version_id.clone());
                let mut answer = named(secret);
                set(&mut answer, "VersionStages", json!(secret.labels_of(&version_id)));
                set(&mut answer, "VersionId", version_id);
                Ok(answer)
            }
            "UpdateSecret" => {
                let value = given_value(input)?;
                let version_id = value
                    .map(|value| self.add_version(secret, value, input, &[CURRENT], now))
                    .transpose()?;
                if let Some(description) = &input.description {
                    secret.description = Some(description.clone());
                }
                if let Some(key) = &input.kms_key_id {
                    secret.kms_key_id = Some(key.clone());
                }
                secret.last_changed = now;
                let mut answer = named(secret);
                if let Some(version_id) = version_id {
                    access.version_id = Some(version_id.clone());
                    set(&mut answer, "VersionId", version_id);
                }
                Ok(answer)
            }
            "UpdateSecretVersionStage" => {
                access.version_id.clone_from(&input.move_to_version_id);
                self.move_label(secret, input, now)
            }
            "TagResource" => {
                let tags = required(input.tags.as_ref(), "Tags")?;
                secret.tags.extend(tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())));
                Ok(json!({}))
            }
            "UntagResource" => {
                for key in required(input.tag_keys.as_ref(), "TagKeys")? {
                    secret.tags.remove(key);
                }
                Ok(json!({}))
            }
            // There is no Lambda here. AWS says the same of a secret for which none is configured.
            "RotateSecret" => Err(invalid_request(
                "No Lambda rotation function ARN is associated with this secret.",
            )),
            _ => Err(ApiError::unknown_operation()),
        }
    }

    fn create(
        &self,
        secrets: &mut HashMap<String, Secret>,
        input: &Input,
        access: &mut Access,
        now: SystemTime,
    ) -> Result<Value, ApiError> {
        let name = required(input.name.as_ref(), "Name")?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
        if name.is_empty() || name.len() > 512 || !name.chars().all(allowed) {
            return Err(validation(
                "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
            ));
        }
        let value = given_value(input)?;
        let version_id = token(input)?;
        if let Some(existing) = secrets.get(name) {
            if existing.deletion.is_some() {
                return Err(invalid_request(
                    "You can't create this secret because a secret with this name is already scheduled for deletion.",
                ));
            }
            let repeated =
                existing.versions.get(&version_id).and_then(|version| version.value.as_ref());
            if !matches!((repeated, &value), (Some(old), Some(new)) if old.is(new)) {
                return Err(exists(format!(
                    "The operation failed because the secret {name} already exists."
                )));
            }
            let mut answer = named(existing);
            set(&mut answer, "VersionId", version_id);
            return Ok(answer);
        }
        let tags = input.tags.iter().flatten();
        let mut secret = Secret {
            arn: self.new_arn(name),
            name: name.clone(),
            description: input.description.clone(),
            kms_key_id: input.kms_key_id.clone(),
            tags: tags.map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
            versions: BTreeMap::new(),
            labels: BTreeMap::new(),
            policy: None,
            created: now,
            last_changed: now,
            last_accessed: None,
            deletion: None,
        };
        let mut answer = named(&secret);
        access.resource = Some(secret.arn.clone());
        // AWS makes a secret without a version, too; its value comes with PutSecretValue.
        if let Some(value) = value {
            secret
                .versions
                .insert(version_id.clone(), Version { value: Some(value), created: now });
            self.attach_all(&mut secret, [CURRENT], &version_id, now);
            access.version_id = Some(version_id.clone());
            set(&mut answer, "VersionId", version_id);
        }
        secrets.insert(name.clone(), secret);
        Ok(answer)
    }

    /// Adds the version that the request token names, or finds that it is there already.
    fn add_version(
        &self,
        secret: &mut Secret,
        value: SecretValue,
        input: &Input,
        labels: &[&str],
        now: SystemTime,
    ) -> Result<String, ApiError> {
        let version_id = token(input)?;
        match secret.versions.get_mut(&version_id) {
            None => {
                let value = Some(value);
                secret.versions.insert(version_id.clone(), Version { value, created: now });
            }
            Some(version) => match &version.value {
                // A rotation made the version; this is its value.
                None => version.value = Some(value),
                Some(old) if old.is(&value) => return Ok(version_id),
                Some(_) => {
                    return Err(exists(
                        "You can't use ClientRequestToken again for a different value.".to_owned(),
                    ));
                }
            },
        }
        secret.last_changed = now;
        self.attach_all(secret, labels.iter().copied(), &version_id, now);
        Ok(version_id)
    }

    fn attach_all<'a>(
        &self,
        secret: &mut Secret,
        labels: impl IntoIterator<Item = &'a str>,
        version_id: &str,
        now: SystemTime,
    ) {
        for label in labels {
            if secret.attach(label, version_id)
                && let Some(update) = secret.update(label)
            {
                self.eventbridge.secret_label_updated(&update, now);
                // Nobody has to listen.
                let _ = self.updates.send(update);
            }
        }
    }

    fn move_label(
        &self,
        secret: &mut Secret,
        input: &Input,
        now: SystemTime,
    ) -> Result<Value, ApiError> {
        let label = required(input.version_stage.as_ref(), "VersionStage")?;
        let attached = secret.labels.get(label).cloned();
        let from = input.remove_from_version_id.as_ref();
        match (&attached, from) {
            (Some(attached), None) if input.move_to_version_id.as_ref() != Some(attached) => {
                return Err(invalid_parameter(&format!(
                    "The parameter RemoveFromVersionId can't be empty. Staging label {label} is currently attached to \
                     version {attached}, so you must explicitly reference that version in RemoveFromVersionId."
                )));
            }
            (attached, Some(from)) if attached.as_ref() != Some(from) => {
                return Err(invalid_parameter(&format!(
                    "RemoveFromVersionId must be the version that staging label {label} is attached to."
                )));
            }
            _ => {}
        }
        match &input.move_to_version_id {
            Some(to) => {
                if !secret.versions.contains_key(to) {
                    return Err(not_found(&format!(
                        "Secrets Manager can't find the specified secret version: {to}"
                    )));
                }
                self.attach_all(secret, [label.as_str()], to, now);
            }
            None if label == CURRENT => {
                return Err(invalid_parameter(
                    "You can only move staging label AWSCURRENT to a different secret version. It can't be completely \
                     removed.",
                ));
            }
            None if from.is_none() => {
                return Err(invalid_parameter(
                    "You must provide MoveToVersionId, RemoveFromVersionId or both.",
                ));
            }
            None => {
                secret.labels.remove(label);
            }
        }
        secret.last_changed = now;
        Ok(named(secret))
    }

    fn batch(
        &self,
        secrets: &mut HashMap<String, Secret>,
        input: &Input,
        caller: &Caller<'_>,
        of_batch: &mut Vec<Access>,
    ) -> Result<Value, ApiError> {
        if input.filters.is_some() {
            return Err(invalid_parameter("Filters are not supported here."));
        }
        let ids = required(input.secret_id_list.as_ref(), "SecretIdList")?;
        if !(1..=20).contains(&ids.len()) {
            return Err(validation(
                "1 validation error detected: Value at 'secretIdList' failed to satisfy constraint: Member must have \
                 length less than or equal to 20, and greater than or equal to 1",
            ));
        }
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for secret_id in ids {
            let mut access = Access { event_name: Some("GetSecretValue"), ..Access::default() };
            let of_one = Input { secret_id: Some(secret_id.clone()), ..Input::default() };
            let result = self
                .allowed(secrets, "GetSecretValue", secret_id, &of_one, caller, &mut access)
                .and_then(|name| {
                    let secret = secrets.get_mut(&name).ok_or_else(no_such_secret)?;
                    self.change("GetSecretValue", secret, &of_one, &mut access, caller.now)
                });
            match result {
                Ok(value) => values.push(value),
                Err(error) => {
                    access.error_code = Some(error.code.clone());
                    errors.push(json!({
                        "SecretId": secret_id, "ErrorCode": error.code, "Message": error.message }));
                }
            }
            of_batch.push(access);
        }
        Ok(json!({ "SecretValues": values, "Errors": errors }))
    }

    /// The name of the secret that is meant by its name, its ARN, or its ARN without the suffix.
    fn find(&self, secrets: &HashMap<String, Secret>, secret_id: &str) -> Option<String> {
        let Some(name) = secret_id.strip_prefix(&self.arn_prefix) else {
            return secrets.contains_key(secret_id).then(|| secret_id.to_owned());
        };
        // What looks like a suffix is taken for one, so a partial ARN of a name that ends so finds nothing:
        // the mistake that AWS's documentation warns of.
        match name.rsplit_once('-') {
            Some((stem, suffix))
                if suffix.len() == 6 && suffix.chars().all(|c| c.is_ascii_alphanumeric()) =>
            {
                secrets
                    .get(stem)
                    .filter(|secret| secret.arn == secret_id)
                    .map(|secret| secret.name.clone())
            }
            _ => secrets.contains_key(name).then(|| name.to_owned()),
        }
    }

    fn new_arn(&self, name: &str) -> String {
        format!("{}{name}-{}", self.arn_prefix, identifiers::arn_suffix())
    }

    fn lock(&self, now: SystemTime) -> MutexGuard<'_, HashMap<String, Secret>> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.retain(|_, secret| secret.deletion.is_none_or(|deletion| now < deletion));
        secrets
    }
}

fn authorize<'a>(
    caller: &Caller<'_>,
    operation: &str,
    resource: &str,
    input: &Input,
    resource_policy: Option<&PolicyDocument>,
    tags: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), ApiError> {
    let mut context = HashMap::new();
    // Each key is there only if its parameter was sent. A condition on VersionStage does not match a call that
    // leaves it out, though AWSCURRENT is what the call will get.
    let members = [
        ("Name", &input.name),
        ("SecretId", &input.secret_id),
        ("VersionId", &input.version_id),
        ("VersionStage", &input.version_stage),
    ];
    for (key, member) in members {
        if let Some(member) = member {
            context.insert(format!("secretsmanager:{key}"), ContextValue::String(member.clone()));
        }
    }
    for (key, value) in tags {
        for prefix in ["aws:ResourceTag/", "secretsmanager:ResourceTag/"] {
            context.insert(format!("{prefix}{key}"), ContextValue::String(value.to_owned()));
        }
    }
    caller.authorize(Question {
        action: &format!("secretsmanager:{operation}"),
        resource,
        context,
        resource_policy,
    })
}

fn chosen(
    secret: &Secret,
    version_id: Option<&str>,
    label: Option<&str>,
) -> Result<String, ApiError> {
    match (version_id, label) {
        (Some(version_id), label) => {
            if !secret.versions.contains_key(version_id) {
                return Err(not_found(&format!(
                    "Secrets Manager can't find the specified secret value for VersionId: {version_id}"
                )));
            }
            if label.is_some_and(|label| {
                secret.labels.get(label).is_none_or(|attached| attached != version_id)
            }) {
                return Err(invalid_request(
                    "You provided a VersionStage that is not associated to the provided VersionId.",
                ));
            }
            Ok(version_id.to_owned())
        }
        (None, label) => {
            let label = label.unwrap_or(CURRENT);
            let attached = secret.labels.get(label);
            let with_value = attached.filter(|version_id| {
                secret.versions.get(*version_id).is_some_and(|version| version.value.is_some())
            });
            with_value.cloned().ok_or_else(|| {
                not_found(&format!(
                    "Secrets Manager can't find the specified secret value for staging label: {label}"
                ))
            })
        }
    }
}

fn value(secret: &Secret, version_id: &str) -> Result<Value, ApiError> {
    let version = secret.versions.get(version_id);
    let Some((version, value)) =
        version.and_then(|version| Some((version, version.value.as_ref()?)))
    else {
        return Err(not_found(&format!(
            "Secrets Manager can't find the specified secret value for VersionId: {version_id}"
        )));
    };
    let mut answer = named(secret);
    set(&mut answer, "VersionId", version_id);
    set(&mut answer, "VersionStages", json!(secret.labels_of(version_id)));
    set(&mut answer, "CreatedDate", epoch_seconds(version.created));
    let member = match value {
        SecretValue::String(_) => "SecretString",
        SecretValue::Binary(_) => "SecretBinary",
    };
    set(&mut answer, member, value.text());
    Ok(answer)
}

fn describe(secret: &Secret) -> Value {
    let mut stages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (label, version_id) in &secret.labels {
        stages.entry(version_id).or_default().push(label);
    }
    let tags = secret.tags.iter();
    let mut answer = named(secret);
    set(&mut answer, "VersionIdsToStages", json!(stages));
    set(&mut answer, "CreatedDate", epoch_seconds(secret.created));
    set(&mut answer, "LastChangedDate", epoch_seconds(secret.last_changed));
    set(
        &mut answer,
        "Tags",
        tags.map(|(key, value)| json!({ "Key": key, "Value": value })).collect::<Vec<_>>(),
    );
    if let Some(accessed) = secret.last_accessed {
        // AWS tells the day only.
        let day = 24 * 60 * 60;
        let seconds = since_epoch(accessed).as_secs();
        set(&mut answer, "LastAccessedDate", json!(seconds - seconds % day));
    }
    if let Some(deletion) = secret.deletion {
        set(&mut answer, "DeletedDate", epoch_seconds(deletion));
    }
    if let Some(description) = &secret.description {
        set(&mut answer, "Description", description.as_str());
    }
    if let Some(key) = &secret.kms_key_id {
        set(&mut answer, "KmsKeyId", key.as_str());
    }
    answer
}

fn list_versions(secret: &Secret, input: &Input) -> Value {
    let deprecated = input.include_deprecated.unwrap_or(false);
    let versions = secret.versions.iter().filter_map(|(version_id, version)| {
        let labels = secret.labels_of(version_id);
        (deprecated || !labels.is_empty()).then(|| {
            let mut entry =
                json!({ "VersionId": version_id, "CreatedDate": epoch_seconds(version.created) });
            if !labels.is_empty() {
                set(&mut entry, "VersionStages", json!(labels));
            }
            entry
        })
    });
    let versions: Value = versions.collect();
    let mut answer = named(secret);
    set(&mut answer, "Versions", versions);
    answer
}

fn list(secrets: &HashMap<String, Secret>, input: &Input) -> Result<Value, ApiError> {
    if input.filters.is_some() {
        return Err(invalid_parameter("Filters are not supported here."));
    }
    let planned = input.include_planned_deletion.unwrap_or(false);
    let listed: BTreeMap<&String, &Secret> = secrets
        .iter()
        .filter(|(name, secret)| {
            (planned || secret.deletion.is_none())
                && input.next_token.as_ref().is_none_or(|after| *name > after)
        })
        .collect();
    let page = input.max_results.unwrap_or(100).clamp(1, 100);
    let entries = listed.values().take(page).map(|secret| {
        let mut entry = describe(secret);
        if let Some(members) = entry.as_object_mut()
            && let Some(stages) = members.remove("VersionIdsToStages")
        {
            members.insert("SecretVersionsToStages".to_owned(), stages);
        }
        entry
    });
    let mut answer = json!({ "SecretList": entries.collect::<Value>() });
    if listed.len() > page
        && let Some(last) = listed.keys().nth(page - 1)
    {
        set(&mut answer, "NextToken", last.as_str());
    }
    Ok(answer)
}

fn delete(
    secrets: &mut HashMap<String, Secret>,
    name: &str,
    input: &Input,
    now: SystemTime,
) -> Result<Value, ApiError> {
    let secret = secrets.get_mut(name).ok_or_else(no_such_secret)?;
    let mut answer = named(secret);
    if input.force_delete_without_recovery == Some(true) {
        if input.recovery_window_in_days.is_some() {
            return Err(invalid_parameter(
                "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
            ));
        }
        secrets.remove(name);
        set(&mut answer, "DeletionDate", epoch_seconds(now));
        return Ok(answer);
    }
    if secret.deletion.is_some() {
        return Err(marked_for_deletion());
    }
    let days = input.recovery_window_in_days.unwrap_or(30);
    if !(7..=30).contains(&days) {
        return Err(invalid_parameter(
            "The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).",
        ));
    }
    let deletion = now + Duration::from_secs(days * 24 * 60 * 60);
    secret.deletion = Some(deletion);
    set(&mut answer, "DeletionDate", epoch_seconds(deletion));
    Ok(answer)
}

fn given_value(input: &Input) -> Result<Option<SecretValue>, ApiError> {
    let (member, value) = match (&input.secret_string, &input.secret_binary) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(invalid_parameter(
                "You can't specify both a binary secret value and a string secret value in the same secret.",
            ));
        }
        (Some(text), None) => ("secretString", SecretValue::String(text.as_str().into())),
        (None, Some(base64)) => ("secretBinary", SecretValue::Binary(base64.as_str().into())),
    };
    let text = value.text();
    let bytes = match value {
        SecretValue::String(_) => text.len(),
        SecretValue::Binary(_) => text.trim_end_matches('=').len() * 3 / 4,
    };
    let bound = match bytes {
        0 => "greater than or equal to 1".to_owned(),
        1..=LIMIT_BYTES => return Ok(Some(value)),
        _ => format!("less than or equal to {LIMIT_BYTES}"),
    };
    Err(validation(&format!(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must have length {bound}"
    )))
}

/// The version id: the request token, which SDKs make up where the caller gives none.
fn token(input: &Input) -> Result<String, ApiError> {
    match &input.client_request_token {
        None => Ok(identifiers::uuid()),
        Some(token) if (32..=64).contains(&token.len()) => Ok(token.clone()),
        Some(_) => Err(invalid_parameter(
            "You must use a ClientRequestToken that is between 32 and 64 characters long.",
        )),
    }
}

fn required<'a, T>(member: Option<&'a T>, name: &str) -> Result<&'a T, ApiError> {
    member.ok_or_else(|| {
        let mut chars = name.chars();
        let name: String = chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect();
        validation(&format!(
            "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must not be null"
        ))
    })
}

fn set(answer: &mut Value, member: &str, value: impl Into<Value>) {
    if let Value::Object(members) = answer {
        members.insert(member.to_owned(), value.into());
    }
}

fn named(secret: &Secret) -> Value {
    json!({ "ARN": secret.arn, "Name": secret.name })
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn epoch_seconds(time: SystemTime) -> Value {
    // Milliseconds, as AWS gives them.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    let seconds = since_epoch(time).as_millis() as f64 / 1e3;
    json!(seconds)
}

fn no_such_secret() -> ApiError {
    not_found("Secrets Manager can't find the specified secret.")
}

fn marked_for_deletion() -> ApiError {
    invalid_request(
        "You can't perform this operation on the secret because it was marked for deletion.",
    )
}

fn not_found(message: &str) -> ApiError {
    ApiError::caller(NOT_FOUND, message)
}

fn exists(message: String) -> ApiError {
    ApiError::caller("ResourceExistsException", message)
}

fn invalid_parameter(message: &str) -> ApiError {
    ApiError::caller("InvalidParameterException", message)
}

fn invalid_request(message: &str) -> ApiError {
    ApiError::caller("InvalidRequestException", message)
}

fn validation(message: &str) -> ApiError {
    ApiError::caller("ValidationException", message)
}
