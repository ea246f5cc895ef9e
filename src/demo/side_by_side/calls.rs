//! The calls of a side to AWS, by the role that made them: the audit trail, counted.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::demo::local_aws::{LabelUpdate, LocalAws, Record};
use crate::demo::world::SECRETS;

/// How often a role made a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// The role's name; `-` where the caller was not recognised.
    pub role: String,
    /// Such as `secretsmanager.amazonaws.com`.
    pub event_source: String,
    /// Such as `GetSecretValue`.
    pub event_name: String,
    /// Those that succeeded.
    pub ok: u64,
    /// Those that were refused or failed.
    pub failed: u64,
}

/// The versions of a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Its name.
    pub secret: &'static str,
    /// The `VersionId` under AWSCURRENT, as far as it is known.
    pub current: Option<String>,
    /// The `VersionId` that the side was given last.
    pub fetched: Option<String>,
}

/// What is known of them so far.
pub(super) struct CallsOfASide {
    changes: watch::Receiver<()>,
    labels: broadcast::Receiver<LabelUpdate>,
    pub(super) calls: Vec<Calls>,
    pub(super) versions: Vec<Versions>,
}

impl CallsOfASide {
    pub(super) fn new(aws: &LocalAws) -> Self {
        let mut changes = aws.audit_changes();
        changes.mark_changed();
        let versions = SECRETS.map(|secret| Versions { secret, ..Versions::default() });
        let labels = aws.on_label_update();
        Self { changes, labels, calls: Vec::new(), versions: versions.into() }
    }

    /// Reads what has come to the audit trail, and where the labels have moved.
    pub(super) fn look(&mut self, aws: &LocalAws) {
        while let Ok(update) = self.labels.try_recv() {
            let moved = self.versions.iter_mut().find(|versions| versions.secret == update.name);
            if let Some(moved) = moved.filter(|_| update.label == "AWSCURRENT") {
                moved.current = Some(update.version_id);
            }
        }
        if self.changes.has_changed().unwrap_or(false) {
            self.changes.mark_unchanged();
            self.count(&aws.audit());
        }
    }

    fn count(&mut self, records: &[Record]) {
        let mut counts: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for record in records {
            let role = role_of(record.principal_arn.as_deref());
            let count = counts.entry((role, record.event_source, &*record.event_name)).or_default();
            if record.error_code.is_none() {
                count.0 += 1;
            } else {
                count.1 += 1;
            }
            if record.event_name == "GetSecretValue" && record.error_code.is_none() {
                let name = record.resource.as_deref().and_then(secret_name);
                let fetched = self.versions.iter_mut().find(|it| Some(it.secret) == name);
                if let Some(fetched) = fetched {
                    // At the start the labels have not moved yet.
                    if fetched.current.is_none() {
                        fetched.current.clone_from(&record.version_id);
                    }
                    fetched.fetched.clone_from(&record.version_id);
                }
            }
        }
        let counted = counts.into_iter().map(|((role, source, name), (ok, failed))| Calls {
            role: role.to_owned(),
            event_source: source.to_owned(),
            event_name: name.to_owned(),
            ok,
            failed,
        });
        self.calls = counted.collect();
    }
}

/// The role in `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`, or what stands last.
fn role_of(principal_arn: Option<&str>) -> &str {
    let Some(arn) = principal_arn else { return "-" };
    match arn.split_once(":assumed-role/") {
        Some((_, role)) => role.split('/').next().unwrap_or_default(),
        None => arn.rsplit(['/', ':']).next().unwrap_or_default(),
    }
}

/// The name in `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-xxxxxx`.
fn secret_name(arn: &str) -> Option<&str> {
    arn.rsplit(':').next()?.rsplit_once('-').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_secrets_are_found_in_their_arns() {
        let arn = "arn:aws:sts::123456789012:assumed-role/twitterstream-embedded-task-role/0f1e";
        assert_eq!(role_of(Some(arn)), "twitterstream-embedded-task-role");
        assert_eq!(role_of(Some("arn:aws:iam::123456789012:user/admin")), "admin");
        assert_eq!(role_of(None), "-");
        let arn = "arn:aws:secretsmanager:us-west-2:123456789012:secret:CONSUMERKEY-aBcDeF";
        assert_eq!(secret_name(arn), Some("CONSUMERKEY"));
    }
}
