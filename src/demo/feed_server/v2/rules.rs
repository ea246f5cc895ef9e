//! `/2/tweets/search/stream/rules`: which posts the application's stream has.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::accounts::user_id;
use super::super::connection::Stream;
use super::super::faults::Endpoint;
use super::super::refusal::Refusal;
use super::super::wire::Peer;
use super::super::{Shared, State};
use super::problem::invalid_request;
use super::rule_book::{MOST, Rule, Verdict};
use super::token::bearer_account;
use super::{BODY_BYTES, Refused, answered, json, rfc3339, text};

/// What a request changes: one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    add: Option<Vec<Add>>,
    delete: Option<Delete>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    value: String,
    tag: Option<String>,
}

/// Which rules: by ids or by values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    ids: Option<Vec<String>>,
    values: Option<Vec<String>>,
}

/// `GET`: the rules of the application; with `ids` only these.
pub(super) async fn list(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let respond = async {
        let state = shared.lock();
        let account = bearer_account(&state, &parts.headers)?;
        let ids = parameter(parts.uri.query(), "ids")?;
        let wanted =
            |rule: &Rule| ids.as_ref().is_none_or(|ids| ids.split(',').any(|id| id == rule.id));
        let rules = state.rules.of(user_id(&account.access_token)).iter().map(|kept| &kept.rule);
        let data: Vec<Value> = rules.filter(|rule| wanted(rule)).map(shown).collect();
        let sent = rfc3339((shared.clock)());
        let mut body = json!({"meta": {"sent": sent, "result_count": data.len()}});
        if let (false, Some(body)) = (data.is_empty(), body.as_object_mut()) {
            body.insert("data".to_owned(), data.into());
        }
        Ok(json(StatusCode::OK, &body))
    };
    answered(&shared, Endpoint::Rules, &peer, &parts.headers, respond).await
}

/// `POST`: adds rules or deletes them; with `dry_run=true` only says what would be.
pub(super) async fn change(
    Extract(shared): Extract<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let respond = async {
        let body = to_bytes(body, BODY_BYTES).await.unwrap_or_default();
        let mut state = shared.lock();
        let state = &mut *state;
        let account = bearer_account(state, &parts.headers)?;
        let app = user_id(&account.access_token);
        let dry_run = match parameter(parts.uri.query(), "dry_run")?.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let message = format!("`dry_run` must be true or false, not [{other}]");
                return Err(invalid_request(Some(("dry_run", other)), &message));
            }
        };
        let sent = rfc3339((shared.clock)());
        let answer = match read(&parts.headers, &body)? {
            Change { add: Some(rules), delete: None } => add(state, app, &rules, dry_run, &sent)?,
            Change { add: None, delete: Some(Delete { ids, values }) }
                if ids.is_some() != values.is_some() =>
            {
                let ids = ids.unwrap_or_default();
                let values = values.unwrap_or_default();
                delete(state, app, &ids, &values, dry_run, &sent)
            }
            _ => return Err(invalid_request(None, "Exactly one of add and delete must be given")),
        };
        // A stream that had no rule may have posts now.
        state.streams.values().for_each(Stream::wake);
        Ok(answer)
    };
    answered(&shared, Endpoint::Rules, &peer, &parts.headers, respond).await
}

fn read(headers: &HeaderMap, body: &Bytes) -> Result<Change, Refused> {
    let kind = text(headers, &header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    if !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(invalid_request(None, "The request body must be application/json"));
    }
    serde_json::from_slice(body).map_err(|error| invalid_request(None, &error.to_string()))
}

/// Adds all, but for duplicates; none if one of them is invalid.
fn add(
    state: &mut State,
    app: &str,
    rules: &[Add],
    dry_run: bool,
    sent: &str,
) -> Result<Response<Body>, Refused> {
    if rules.is_empty() {
        return Err(invalid_request(Some(("add", "")), "add must not be empty"));
    }
    let mut new: Vec<super::KeptRule> = Vec::new();
    let (mut errors, mut invalid) = (Vec::new(), 0);
    for Add { value, tag } in rules {
        let twin = new.iter().find(|kept| kept.rule.value == *value);
        let verdict = match twin {
            Some(kept) => Verdict::Duplicate(kept.rule.id.clone()),
            None => state.rules.judge(app, value, tag.as_deref()),
        };
        match verdict {
            Verdict::New(kept) => new.push(kept),
            Verdict::Duplicate(id) => errors.push(json!({
                "value": value,
                "id": id,
                "title": "DuplicateRule",
                "type": "https://api.twitter.com/2/problems/duplicate-rules",
            })),
            Verdict::Invalid(error) => {
                invalid += 1;
                errors.push(json!({
                    "value": value,
                    "details": [error.to_string()],
                    "title": "UnprocessableEntity",
                    "type": "https://api.twitter.com/2/problems/invalid-rules",
                }));
            }
        }
    }
    if state.rules.of(app).len() + new.len() > MOST {
        let problem = json!({
            "title": "RulesCapExceeded",
            "detail": format!("Rule limit of {MOST} exceeded"),
            "type": "https://api.twitter.com/2/problems/rule-cap",
            "status": 422,
        });
        return Err(Refused::new(Refusal::RuleCap, StatusCode::UNPROCESSABLE_ENTITY, &problem));
    }
    let valid = new.len();
    if invalid > 0 {
        new.clear();
    }
    let data: Vec<Value> = new.iter().map(|kept| shown(&kept.rule)).collect();
    let mut answer = json!({"meta": {"sent": sent, "summary": {
        "created": data.len(),
        "not_created": rules.len() - data.len(),
        "valid": valid,
        "invalid": rules.len() - valid,
    }}});
    if let Some(answer) = answer.as_object_mut() {
        if !data.is_empty() {
            answer.insert("data".to_owned(), data.into());
        }
        if !errors.is_empty() {
            answer.insert("errors".to_owned(), errors.into());
        }
    }
    if !dry_run {
        for kept in new {
            state.rules.add(app, kept);
        }
    }
    Ok(json(StatusCode::CREATED, &answer))
}

fn delete(
    state: &mut State,
    app: &str,
    ids: &[String],
    values: &[String],
    dry_run: bool,
    sent: &str,
) -> Response<Body> {
    let meant = |rule: &Rule| ids.contains(&rule.id) || values.contains(&rule.value);
    let deleted = state.rules.of(app).iter().filter(|kept| meant(&kept.rule)).count();
    if !dry_run {
        state.rules.remove(app, meant);
    }
    let not_deleted = (ids.len() + values.len()).saturating_sub(deleted);
    let mut answer = json!({
        "meta": {"sent": sent, "summary": {"deleted": deleted, "not_deleted": not_deleted}},
    });
    if let (true, Some(answer)) = (not_deleted > 0, answer.as_object_mut()) {
        let errors = json!([{
            "title": "Invalid Request",
            "detail": "One or more of the rules to delete do not exist.",
            "type": "https://api.twitter.com/2/problems/invalid-request",
        }]);
        answer.insert("errors".to_owned(), errors);
    }
    json(StatusCode::OK, &answer)
}

fn shown(rule: &Rule) -> Value {
    match &rule.tag {
        Some(tag) => json!({"id": rule.id, "value": rule.value, "tag": tag}),
        None => json!({"id": rule.id, "value": rule.value}),
    }
}

/// The one parameter that a query may have.
fn parameter(query: Option<&str>, name: &str) -> Result<Option<String>, Refused> {
    let mut parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let first = parameters.next();
    let wrong = first.iter().find(|(key, _)| key != name).cloned().or_else(|| parameters.next());
    match wrong {
        Some((key, value)) => Err(invalid_request(
            Some((&key, &value)),
            &format!("The query parameter [{key}] is not one of [{name}]"),
        )),
        None => Ok(first.map(|(_, value)| value.into_owned())),
    }
}
