//! A set of credentials at work: with it goes what a dialect has derived from it, and both are wiped
//! together.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;

use crate::credentials::{Generation, redact};
use crate::telemetry::peer_text;

/// Credentials, and what was derived from them.
pub struct Session {
    generation: Arc<Generation>,
    bearer: Mutex<Option<Arc<SecretString>>>,
    /// Whether the rules on the server are those of `FILTER`.
    ruled: AtomicBool,
}

impl Session {
    /// A session that has derived nothing yet.
    #[must_use]
    pub fn new(generation: Arc<Generation>) -> Self {
        Self { generation, bearer: Mutex::default(), ruled: AtomicBool::new(false) }
    }

    /// The credentials.
    #[must_use]
    pub const fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The bearer token, if there is one.
    #[must_use]
    pub fn bearer(&self) -> Option<Arc<SecretString>> {
        self.lock().clone()
    }

    /// Keeps a bearer token, and wipes the one before; with `None` it only wipes.
    pub fn keep_bearer(&self, bearer: Option<Arc<SecretString>>) {
        *self.lock() = bearer;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<SecretString>>> {
        self.bearer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the rules on the server are those of `FILTER`.
    #[must_use]
    pub fn is_ruled(&self) -> bool {
        self.ruled.load(Ordering::Relaxed)
    }

    /// They are.
    pub fn ruled(&self) {
        self.ruled.store(true, Ordering::Relaxed);
    }

    /// A peer's words, fit for the log: bounded, escaped, and without any live value.
    #[must_use]
    pub fn quoted(&self, text: &str) -> String {
        peer_text(&self.redact(text))
    }

    /// A peer's words without any live value, neither bounded nor escaped yet.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let text = self.generation.redact(text);
        match self.bearer() {
            Some(bearer) => redact(&text, &bearer),
            None => text,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("generation", &self.generation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_a_quotation_shows_what_was_derived() {
        let session = Session::new(Arc::new(Generation::new(Vec::new())));
        session.keep_bearer(Some(Arc::new(SecretString::from("MARKER-bearer%3D"))));
        assert!(!format!("{session:?}").contains("MARKER"));
        assert_eq!(session.quoted("Bearer MARKER-bearer%3D\n"), "Bearer [redacted]\\n");
    }
}
