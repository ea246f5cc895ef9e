//! Faults that a test or the demo injects between the caller and a service.
//!
//! A fault strikes after the caller is authenticated and before IAM is asked, as throttling does on AWS.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Service;

/// A fault, and which calls it strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The service it strikes.
    pub service: Service,
    /// The operation it strikes, such as `PutItem`; none for all.
    pub operation: Option<String>,
    /// What happens to a call.
    pub effect: Effect,
    /// How many more calls it strikes; none for all until cleared.
    pub remaining: Option<u64>,
    /// It strikes the first, and after it every `one_in`th matching call. 0 counts as 1.
    pub one_in: u32,
}

impl Fault {
    /// A fault that strikes every call of `service` until it is cleared.
    #[must_use]
    pub fn every_call(service: Service, effect: Effect) -> Self {
        Self { service, operation: None, effect, remaining: None, one_in: 1 }
    }

    /// The same fault for one operation only.
    #[must_use]
    pub fn of_operation(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// The same fault, spent after `calls` calls.
    #[must_use]
    pub fn times(mut self, calls: u64) -> Self {
        self.remaining = Some(calls);
        self
    }
}

/// What a fault does to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is answered with this error, in the service's own shape. The SDK retries `ThrottlingException` (400),
    /// `ProvisionedThroughputExceededException` (400) and any 500, 502, 503 and 504.
    Error {
        /// The HTTP status.
        status: u16,
        /// AWS's error code.
        code: String,
        /// Its message.
        message: String,
    },
    /// It is answered this much later.
    Delay(Duration),
    /// It gets no answer until the faults are cleared; then it goes on.
    Hang,
    /// Its connection is reset (TCP RST) without an answer.
    Reset,
    /// It is carried out, and then its connection is reset in place of the answer: the caller cannot know.
    LoseAnswer,
}

impl Effect {
    /// An error of which only status and code matter.
    #[must_use]
    pub fn error(status: u16, code: &str) -> Self {
        Self::Error { status, code: code.to_owned(), message: "An injected fault.".to_owned() }
    }
}

struct Armed {
    fault: Fault,
    matched: u64,
}

pub(super) struct Faults {
    armed: Mutex<Vec<Armed>>,
    /// Counts the clearings, so that a call that hangs sees the one that frees it.
    cleared: watch::Sender<u64>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self { armed: Mutex::default(), cleared: watch::Sender::new(0) }
    }

    pub(super) fn inject(&self, fault: Fault) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push(Armed { fault, matched: 0 });
    }

    pub(super) fn clear(&self) {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.cleared.send_modify(|times| *times += 1);
    }

    /// What strikes this call: the first fault, in the order of injection, that matches and is due; and, taken at the
    /// same time so that no clearing falls between, what a hanging call has to watch.
    pub(super) fn strike(
        &self,
        service: Service,
        operation: &str,
    ) -> Option<(Effect, watch::Receiver<u64>)> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        for Armed { fault, matched } in armed.iter_mut() {
            let matches = fault.service == service
                && fault.operation.as_deref().is_none_or(|only| only == operation);
            if !matches || fault.remaining == Some(0) {
                continue;
            }
            let due = *matched % u64::from(fault.one_in.max(1)) == 0;
            *matched += 1;
            if due {
                if let Some(remaining) = &mut fault.remaining {
                    *remaining -= 1;
                }
                return Some((fault.effect.clone(), self.cleared.subscribe()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_the_first_and_every_nth_call_of_its_operation_until_spent() {
        let faults = Faults::new();
        faults.inject(Fault {
            one_in: 3,
            ..Fault::every_call(Service::DynamoDb, Effect::Reset).of_operation("PutItem").times(2)
        });
        let strikes = |operation| faults.strike(Service::DynamoDb, operation).is_some();
        assert!(!strikes("GetItem"));
        let struck: Vec<bool> = (0..9).map(|_| strikes("PutItem")).collect();
        assert_eq!(struck, [true, false, false, true, false, false, false, false, false]);
        assert!(faults.strike(Service::SecretsManager, "PutItem").is_none());
    }
}
