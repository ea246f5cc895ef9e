//! Whether an application may connect now: how often it has, and whether its one place is free.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;

use super::super::faults::TOO_MANY_CONNECTIONS;
use super::super::refusal::{Refusal, answer};
use super::{JSON, Refused};

/// X counts requests in windows of this length.
const WINDOW: Duration = Duration::from_mins(15);

/// The limits, and what was used of them.
pub(in super::super) struct Admission {
    /// Requests in [`WINDOW`].
    budget: Option<u32>,
    /// How long after a client has closed its stream the place is still taken.
    slot_release: Duration,
    windows: HashMap<String, Window>,
    closed: HashMap<String, SystemTime>,
}

struct Window {
    ends: SystemTime,
    used: u32,
}

/// What X says of the budget with every answer.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    limit: u32,
    remaining: u32,
    reset: SystemTime,
}

impl Admission {
    pub(in super::super) fn new(budget: Option<u32>, slot_release: Duration) -> Self {
        Self { budget, slot_release, windows: HashMap::new(), closed: HashMap::new() }
    }

    /// Counts a request, whatever comes of it.
    ///
    /// # Errors
    /// The refusal, if the budget is used up.
    pub(super) fn spend(
        &mut self,
        app: &str,
        now: SystemTime,
    ) -> Result<Option<Budget>, Box<Refused>> {
        let Some(limit) = self.budget else {
            return Ok(None);
        };
        let fresh = || Window { ends: now + WINDOW, used: 0 };
        let window = self.windows.entry(app.to_owned()).or_insert_with(fresh);
        if window.ends <= now {
            *window = fresh();
        }
        let spent = window.used >= limit;
        window.used = window.used.saturating_add(1).min(limit);
        let budget = Budget { limit, remaining: limit - window.used, reset: window.ends };
        if spent {
            let problem = json!({
                "title": "Too Many Requests",
                "detail": "Too Many Requests",
                "type": "about:blank",
                "status": 429,
            });
            let mut refused =
                Refused::new(Refusal::ConnectBudget, StatusCode::TOO_MANY_REQUESTS, &problem);
            budget.say(&mut refused.response);
            return Err(Box::new(refused));
        }
        Ok(Some(budget))
    }

    /// Notes that a client has closed its stream.
    pub(in super::super) fn closed_by_client(&mut self, app: &str, now: SystemTime) {
        self.closed.insert(app.to_owned(), now);
    }

    /// Whether the place of a stream that was closed is still taken.
    pub(super) fn lingers(&self, app: &str, now: SystemTime) -> bool {
        self.closed.get(app).is_some_and(|closed| now < *closed + self.slot_release)
    }
}

impl Budget {
    pub(super) fn say<B>(self, response: &mut Response<B>) {
        let reset = self.reset.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for (name, value) in [
            ("x-rate-limit-limit", u64::from(self.limit)),
            ("x-rate-limit-remaining", u64::from(self.remaining)),
            ("x-rate-limit-reset", reset),
        ] {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from(value));
        }
    }
}

/// The refusal of a second stream.
pub(super) fn too_many_connections() -> Refused {
    Refused {
        refusal: Refusal::TooManyConnections,
        response: answer(StatusCode::TOO_MANY_REQUESTS, JSON, TOO_MANY_CONNECTIONS.to_owned()),
    }
}
