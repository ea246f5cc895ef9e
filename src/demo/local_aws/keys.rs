//! Our own key store: which access keys there are, whose they are, and how long they live.
//!
//! `AWSim` takes an unknown key for an administrator's, keeps no secret of a session and checks no session token, so
//! nothing reaches it before a key has been found here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use super::Error;
use super::iam::{Iam, Principal};
use super::identifiers;

/// The long-lived key pair of an IAM user.
#[derive(Clone)]
pub struct AccessKey {
    /// `AKIA...`
    pub access_key_id: String,
    /// The secret that signs.
    pub secret_access_key: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AccessKey")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// The temporary credentials of one session of a role.
#[derive(Clone)]
pub struct SessionCredentials {
    /// `arn:aws:iam::ACCOUNT:role/ROLE`
    pub role_arn: String,
    /// `ASIA...`
    pub access_key_id: String,
    /// The secret that signs.
    pub secret_access_key: String,
    /// Goes with every request, in `x-amz-security-token`.
    pub session_token: String,
    /// When it ends.
    pub expiration: SystemTime,
}

impl fmt::Debug for SessionCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SessionCredentials")
            .field("role_arn", &self.role_arn)
            .field("access_key_id", &self.access_key_id)
            .field("expiration", &self.expiration)
            .finish_non_exhaustive()
    }
}

/// What is known of one access key.
pub(super) struct Key {
    pub(super) secret_access_key: String,
    holder: Holder,
}

enum Holder {
    User {
        arn: String,
    },
    Session {
        role_arn: String,
        /// `AROA...` of the role when the session began: a role made anew under the same name is another role.
        role_id: String,
        /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`
        arn: String,
        session_name: String,
        token: String,
        expiration: SystemTime,
    },
}

/// Why a key does not stand for anybody.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    /// The session token is missing, is another one, or the user or role is gone.
    Invalid,
    /// The session has ended.
    Expired,
}

impl Key {
    /// Whom this key stands for, given the session token that came with it.
    pub(super) fn principal(
        &self,
        token: Option<&str>,
        iam: &Iam,
        now: SystemTime,
    ) -> Result<Principal, KeyError> {
        match &self.holder {
            Holder::User { arn } => {
                if token.is_some() {
                    return Err(KeyError::Invalid);
                }
                let identity = iam.identity(arn).ok_or(KeyError::Invalid)?;
                Ok(Principal { arn: arn.clone(), user_id: identity.unique_id.clone(), identity })
            }
            Holder::Session { role_arn, role_id, arn, session_name, token: issued, expiration } => {
                if token != Some(issued) {
                    return Err(KeyError::Invalid);
                }
                if now >= *expiration {
                    return Err(KeyError::Expired);
                }
                let identity = iam
                    .identity(role_arn)
                    .filter(|identity| identity.unique_id == *role_id)
                    .ok_or(KeyError::Invalid)?;
                Ok(Principal {
                    arn: arn.clone(),
                    user_id: format!("{role_id}:{session_name}"),
                    identity,
                })
            }
        }
    }
}

pub(super) struct Keys {
    account_id: String,
    by_id: RwLock<HashMap<String, Arc<Key>>>,
}

impl Keys {
    pub(super) fn new(account_id: &str) -> Self {
        Self { account_id: account_id.to_owned(), by_id: RwLock::default() }
    }

    pub(super) fn add_user_key(&self, user_arn: String, key: &AccessKey) {
        self.add(
            &key.access_key_id,
            Key {
                secret_access_key: key.secret_access_key.clone(),
                holder: Holder::User { arn: user_arn },
            },
        );
    }

    /// Begins a session of a role for a task, as ECS does. Its name is the last part of the task's ARN.
    pub(super) fn begin_session(
        &self,
        iam: &Iam,
        role_name: &str,
        task_arn: &str,
        expiration: SystemTime,
    ) -> Result<SessionCredentials, Error> {
        let session_name = task_arn.rsplit('/').next().unwrap_or(task_arn);
        let role_arn = iam.role_arn(role_name);
        let role =
            iam.identity(&role_arn).ok_or_else(|| Error::NoSuchRole(role_name.to_owned()))?;
        if !iam.ecs_may_assume(&role, task_arn) {
            return Err(Error::NotTrusting(role_name.to_owned()));
        }
        let no_random = |_| Error::Random;
        let credentials = SessionCredentials {
            role_arn: role_arn.clone(),
            access_key_id: identifiers::unique_id("ASIA").map_err(no_random)?,
            secret_access_key: identifiers::secret_access_key().map_err(no_random)?,
            session_token: identifiers::session_token().map_err(no_random)?,
            expiration,
        };
        let key = Key {
            secret_access_key: credentials.secret_access_key.clone(),
            holder: Holder::Session {
                role_arn,
                role_id: role.unique_id.clone(),
                arn: format!(
                    "arn:aws:sts::{}:assumed-role/{role_name}/{session_name}",
                    self.account_id
                ),
                session_name: session_name.to_owned(),
                token: credentials.session_token.clone(),
                expiration,
            },
        };
        self.add(&credentials.access_key_id, key);
        Ok(credentials)
    }

    pub(super) fn find(&self, access_key_id: &str) -> Option<Arc<Key>> {
        let keys = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(access_key_id).cloned()
    }

    fn add(&self, access_key_id: &str, key: Key) {
        let mut keys = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(access_key_id.to_owned(), Arc::new(key));
    }
}

/// How long a task's credentials live, on Fargate.
pub const TASK_CREDENTIALS_LIFE: Duration = Duration::from_hours(6);
