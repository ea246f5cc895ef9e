//! The rules on X's side: which there are, and how they come to be those of `FILTER`.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// The tag of this worker's own rules. One without it is somebody else's, and is never touched.
pub const TAG: &str = "twitterstream";

/// One rule for each track phrase: all its words, in any order (X, "Build a rule").
pub fn of_track(track: &str) -> Vec<String> {
    let mut rules = Vec::new();
    for phrase in track.split(',') {
        let words: Vec<String> = phrase.split_whitespace().map(word).collect();
        let rule = words.join(" ");
        if !rule.is_empty() && !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// A word as the rules' grammar takes it. What could be read as an operator is quoted.
fn word(word: &str) -> String {
    let name = word.strip_prefix(['#', '@']).unwrap_or(word);
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if plain && !["or", "and", "not"].contains(&&*word.to_lowercase()) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The rules that there are.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Listed")]
pub struct Rules {
    data: Vec<Rule>,
}

/// An answer that lists rules, or one that says why it does not.
#[derive(Deserialize)]
struct Listed {
    data: Option<Vec<Rule>>,
    errors: Option<IgnoredAny>,
    meta: Option<IgnoredAny>,
}

impl TryFrom<Listed> for Rules {
    type Error = &'static str;

    fn try_from(listed: Listed) -> Result<Self, Self::Error> {
        match listed {
            Listed { data: Some(data), .. } => Ok(Self { data }),
            Listed { data: None, errors: None, meta: Some(_) } => Ok(Self { data: Vec::new() }),
            Listed { .. } => Err("neither rules nor the word that there are none"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Rule {
    id: String,
    value: String,
    tag: Option<String>,
}

/// What makes the rules those that are wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Values to add.
    pub add: Vec<String>,
    /// Ids to remove.
    pub remove_ids: Vec<String>,
    /// The values of the same.
    pub remove_values: Vec<String>,
    /// How many are there already.
    pub kept: usize,
    /// How many are somebody else's.
    pub of_others: usize,
}

impl Rules {
    /// What is missing, and what of ours is not wanted any more.
    pub fn change_to(&self, wanted: &[String]) -> Change {
        let is_ours = |rule: &&Rule| rule.tag.as_deref() == Some(TAG);
        let all = || self.data.iter();
        let there = |value: &String| all().any(|rule| rule.value == *value);
        let removed = || all().filter(is_ours).filter(|rule| !wanted.contains(&rule.value));
        Change {
            // A value may be there once, under whatever tag.
            add: wanted.iter().filter(|value| !there(value)).cloned().collect(),
            remove_ids: removed().map(|rule| rule.id.clone()).collect(),
            remove_values: removed().map(|rule| rule.value.clone()).collect(),
            kept: wanted.iter().filter(|value| there(value)).count(),
            of_others: all().filter(|rule| !is_ours(rule)).count(),
        }
    }
}

impl Change {
    /// The request's body that adds.
    pub fn adding(&self) -> Value {
        let rules = self.add.iter().map(|value| json!({ "value": value, "tag": TAG }));
        json!({ "add": rules.collect::<Vec<_>>() })
    }

    /// Whether there is nothing to change.
    pub const fn is_none(&self) -> bool {
        self.add.is_empty() && self.remove_ids.is_empty()
    }
}

/// The request's body that removes.
pub fn removing(ids: &[String]) -> Value {
    json!({ "delete": { "ids": ids } })
}

/// X's answer to a change.
#[derive(Debug, Deserialize)]
pub struct Changed {
    meta: Option<IgnoredAny>,
    errors: Option<Vec<Problem>>,
    /// Of an answer that is one problem itself.
    title: Option<String>,
    detail: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    title: Option<String>,
    /// Of the rule that a duplicate is one of.
    id: Option<String>,
    value: Option<String>,
    detail: Option<String>,
    message: Option<String>,
    details: Option<Vec<String>>,
}

impl Changed {
    /// What X has against a rule, with the rule; `None` where it has nothing.
    pub fn fault(&self) -> Option<String> {
        let serious = |problem: &&Problem| {
            // Somebody has added it since we looked, or removed it.
            !matches!(problem.title.as_deref(), Some("DuplicateRule" | "Not Found Error"))
        };
        let mut problems: Vec<String> =
            self.errors.iter().flatten().filter(serious).map(Problem::said).collect();
        if self.errors.is_none() && self.meta.is_none() {
            let words = [&self.title, &self.detail].into_iter().flatten().cloned();
            problems.push(words.collect::<Vec<_>>().join(": "));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// Whether there are too many rules.
    pub fn is_over_the_cap(&self) -> bool {
        let titles = self.errors.iter().flatten().map(|problem| &problem.title);
        titles.chain([&self.title]).flatten().any(|title| title == "RulesCapExceeded")
    }

    /// The ids of the rules that were there already.
    pub fn duplicates(&self) -> impl Iterator<Item = &String> {
        let is_duplicate = |problem: &&Problem| problem.title.as_deref() == Some("DuplicateRule");
        self.errors.iter().flatten().filter(is_duplicate).filter_map(|problem| problem.id.as_ref())
    }
}

impl Problem {
    fn said(&self) -> String {
        let rule = self.value.iter().map(|value| format!("rule {value:?}"));
        let words = [&self.title, &self.detail, &self.message].into_iter().flatten().cloned();
        rule.chain(words)
            .chain(self.details.iter().flatten().cloned())
            .collect::<Vec<_>>()
            .join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phrase_is_a_rule_and_what_could_be_an_operator_is_quoted() {
        assert_eq!(
            of_track(
                "Amazon, cloud  computing ,#tag @user,amazon.com,a OR b,-x,say\"so,日本,Amazon"
            ),
            [
                "Amazon",
                "cloud computing",
                "#tag @user",
                "\"amazon.com\"",
                "a \"OR\" b",
                "\"-x\"",
                "\"say\\\"so\"",
                "日本",
            ]
        );
    }

    #[test]
    fn what_is_missing_is_added_and_only_our_own_removed() {
        let rules: Rules = serde_json::from_str(
            r#"{"data":[{"id":"1","value":"Amazon","tag":"twitterstream"},
                {"id":"2","value":"old","tag":"twitterstream"},
                {"id":"3","value":"other","tag":"somebody"},{"id":"4","value":"bare"}],
                "meta":{"sent":"2026-11-22T00:00:00Z"}}"#,
        )
        .unwrap();
        let wanted = ["Amazon", "new", "other"].map(str::to_owned);
        let change = rules.change_to(&wanted);
        assert_eq!(
            change,
            Change {
                add: vec!["new".into()],
                remove_ids: vec!["2".into()],
                remove_values: vec!["old".into()],
                kept: 2,
                of_others: 2,
            }
        );
        assert_eq!(change.adding(), json!({ "add": [{ "value": "new", "tag": "twitterstream" }] }));
        assert_eq!(removing(&change.remove_ids), json!({ "delete": { "ids": ["2"] } }));
        for refused in [r#"{"errors":[{"code":215}]}"#, r#"{"title":"Unauthorized"}"#, "{}", "[]"] {
            assert!(serde_json::from_str::<Rules>(refused).is_err(), "{refused}");
        }
        let none: Rules = serde_json::from_str(r#"{"data":null,"meta":{}}"#).unwrap();
        assert_eq!(none.change_to(&wanted).add, wanted);
    }

    #[test]
    fn a_refused_rule_is_named_with_what_x_has_against_it() {
        let answer = r#"{"errors":[
            {"title":"DuplicateRule","id":"1","value":"Amazon"},
            {"title":"UnprocessableEntity","value":"lang:","details":["no viable alternative"]}],
            "meta":{"summary":{"created":0}}}"#;
        let changed: Changed = serde_json::from_str(answer).unwrap();
        assert_eq!(
            changed.fault().unwrap(),
            "rule \"lang:\": UnprocessableEntity: no viable alternative"
        );
        assert_eq!(changed.duplicates().collect::<Vec<_>>(), ["1"]);
        let fine: Changed = serde_json::from_str(r#"{"data":[],"meta":{}}"#).unwrap();
        assert_eq!(fine.fault(), None);
        let refused = r#"{"title":"RulesCapExceeded","detail":"too many","status":422}"#;
        let refused: Changed = serde_json::from_str(refused).unwrap();
        assert_eq!(refused.fault().unwrap(), "RulesCapExceeded: too many");
        assert!(refused.is_over_the_cap() && !fine.is_over_the_cap());
    }
}
