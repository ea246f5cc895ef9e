//! The environment as a vault: what ECS, with the task execution role, has put there when the task
//! was started. It cannot rotate. No other program of this project than the two that share this file
//! has code that could read a credential from there.

use std::sync::Arc;

use secrecy::SecretString;
use twitterstream::aws::Answer;
use twitterstream::config::{Environment, NotUnicode};
use twitterstream::credentials::rotation::Vault;
use twitterstream::credentials::secrets_manager::{Action, Cause, Labels};
use twitterstream::credentials::{Credential, FetchError, Held, Reference};
use twitterstream::program::ProcessEnvironment;

/// What takes the place of a version id: nothing in the environment tells one.
const VERSION: &str = "injected";

/// The variable that ECS sets.
const fn variable(credential: Credential) -> &'static str {
    credential.default_secret()
}

/// The environment as the worker may see it: it refuses to start where these are set.
pub struct WithoutCredentials;

impl Environment for WithoutCredentials {
    fn variable(&self, name: &str) -> Option<Result<String, NotUnicode>> {
        let injected = Credential::ALL.map(variable);
        if injected.contains(&name) { None } else { ProcessEnvironment.variable(name) }
    }
}

/// The environment as a vault whose labels never move.
pub struct Injected;

impl Vault for Injected {
    async fn labels(
        &self,
        references: &[(Credential, Reference)],
    ) -> Result<Vec<Labels>, FetchError> {
        let labels = |(_, reference): &(_, Reference)| Labels {
            secret_id: reference.secret_id().to_owned(),
            versions: vec![(VERSION.to_owned(), "AWSCURRENT".to_owned())],
        };
        Ok(references.iter().map(labels).collect())
    }

    async fn fetch(&self, references: &[(Credential, Reference)]) -> Result<Vec<Held>, FetchError> {
        references.iter().map(|(credential, reference)| held(*credential, reference)).collect()
    }
}

fn held(credential: Credential, reference: &Reference) -> Result<Held, FetchError> {
    let name = variable(credential);
    let Some(Ok(value)) = ProcessEnvironment.variable(name) else {
        let code = format!("the variable {name} is not set, or not Unicode");
        let cause = Cause::Refused(Answer { code, ..Answer::default() });
        let secret_id = name.to_owned();
        return Err(FetchError {
            credential,
            action: Action::Fetch,
            secret_id,
            region: None,
            cause,
        });
    };
    Ok(Held {
        credential,
        reference: reference.clone(),
        version_id: VERSION.to_owned(),
        value: Arc::new(SecretString::from(value)),
    })
}
