//! The rules of each application.

use std::collections::BTreeMap;

use super::expression::{self, Error, Expression, Searched};

/// X: "1,000 rules".
pub(super) const MOST: usize = 1_000;

/// A rule as X shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A number in digits. X gives it.
    pub id: String,
    /// What matches.
    pub value: String,
    /// What the client calls it.
    pub tag: Option<String>,
}

/// A rule with what its value means.
pub(in super::super) struct KeptRule {
    pub(super) rule: Rule,
    expression: Expression,
}

impl KeptRule {
    pub(in super::super) fn matches(&self, searched: &Searched<'_>) -> bool {
        self.expression.matches(searched)
    }
}

/// All rules.
pub(in super::super) struct RuleBook {
    by_app: BTreeMap<String, Vec<KeptRule>>,
    last_id: u64,
}

impl Default for RuleBook {
    fn default() -> Self {
        // About what X gave in 2026.
        Self { by_app: BTreeMap::new(), last_id: 1_990_000_000_000_000_000 }
    }
}

/// Whether a rule can be added.
pub(super) enum Verdict {
    New(KeptRule),
    /// The id of the rule with this value.
    Duplicate(String),
    Invalid(Error),
}

impl RuleBook {
    pub(in super::super) fn of(&self, app: &str) -> &[KeptRule] {
        self.by_app.get(app).map(Vec::as_slice).unwrap_or_default()
    }

    pub(in super::super) fn all(&self) -> Vec<Rule> {
        self.by_app.values().flatten().map(|kept| kept.rule.clone()).collect()
    }

    /// Judges a rule, and makes one with an id of its own.
    pub(super) fn judge(&mut self, app: &str, value: &str, tag: Option<&str>) -> Verdict {
        if let Some(kept) = self.of(app).iter().find(|kept| kept.rule.value == value) {
            return Verdict::Duplicate(kept.rule.id.clone());
        }
        match expression::parse(value) {
            Ok(expression) => {
                self.last_id += 4_099;
                let tag = tag.map(str::to_owned);
                let rule = Rule { id: self.last_id.to_string(), value: value.to_owned(), tag };
                Verdict::New(KeptRule { rule, expression })
            }
            Err(error) => Verdict::Invalid(error),
        }
    }

    pub(super) fn add(&mut self, app: &str, rule: KeptRule) {
        self.by_app.entry(app.to_owned()).or_default().push(rule);
    }

    /// Adds a rule and returns its id: that of the one that is there already, if it is.
    pub(in super::super) fn seed(
        &mut self,
        app: &str,
        value: &str,
        tag: Option<&str>,
    ) -> Result<String, Error> {
        match self.judge(app, value, tag) {
            Verdict::New(kept) => {
                let id = kept.rule.id.clone();
                self.add(app, kept);
                Ok(id)
            }
            Verdict::Duplicate(id) => Ok(id),
            Verdict::Invalid(error) => Err(error),
        }
    }

    /// Removes the rules that a condition is true of.
    pub(super) fn remove(&mut self, app: &str, condition: impl Fn(&Rule) -> bool) {
        if let Some(rules) = self.by_app.get_mut(app) {
            rules.retain(|kept| !condition(&kept.rule));
        }
    }
}
