//! The feed server's X API v2 against a reader that shares no code with it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use twitterstream::demo::Clock;
use twitterstream::demo::feed_server::replay::Recording;
use twitterstream::demo::feed_server::{
    Account, Endpoint, ExpectedRow, Fault, FeedServer, Options, Refusal, Revocation, Source,
    StreamError, When,
};

use crate::feed_server::{End, Reader, account, clock, limited, options, within};

const RULES: &str = "/2/tweets/search/stream/rules";
const STREAM: &str = "/2/tweets/search/stream";
const FORM: &str = "application/x-www-form-urlencoded;charset=UTF-8";
/// What a reader needs for its rows.
const QUERY: &str =
    "?tweet.fields=created_at,note_tweet,entities&expansions=author_id&user.fields=username";

/// One for all requests: to make one takes a while.
fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(crate::feed_server::client)
}

/// A client of one application.
struct Client<'a> {
    server: &'a FeedServer,
    bearer: String,
}

fn basic(key: &str, secret: &str) -> String {
    let encode =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let halves = format!("{}:{}", encode(key), encode(secret));
    format!("Basic {}", aws_smithy_types::base64::encode(halves))
}

async fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let response = within(request.send()).await.unwrap();
    let status = response.status();
    let body = within(response.bytes()).await.unwrap();
    let json = serde_json::from_slice(&body);
    (status, json.unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
}

fn token_request(server: &FeedServer, path: &str, account: &Account, body: &str) -> RequestBuilder {
    client()
        .post(format!("{}{path}", server.base_url()))
        .header(AUTHORIZATION, basic(&account.consumer_key, &account.consumer_secret))
        .header(CONTENT_TYPE, FORM)
        .body(body.to_owned())
}

async fn mint(server: &FeedServer, account: &Account) -> String {
    let body = "grant_type=client_credentials";
    let (status, answer) = send(token_request(server, "/oauth2/token", account, body)).await;
    assert_eq!((status, &answer["token_type"]), (StatusCode::OK, &json!("bearer")), "{answer}");
    answer["access_token"].as_str().unwrap().to_owned()
}

impl<'a> Client<'a> {
    async fn new(server: &'a FeedServer, account: &Account) -> Self {
        Self { server, bearer: mint(server, account).await }
    }

    /// One that has set the rule of the generated word.
    async fn ready(server: &'a FeedServer) -> Self {
        let client = Self::new(server, &account(1)).await;
        client.add(&[("Amazon", "mine")]).await;
        client
    }

    fn get(&self, path: &str) -> RequestBuilder {
        client().get(format!("{}{path}", self.server.base_url())).bearer_auth(&self.bearer)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        client()
            .post(format!("{}{path}", self.server.base_url()))
            .bearer_auth(&self.bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string())
    }

    async fn add(&self, rules: &[(&str, &str)]) -> (StatusCode, Value) {
        let add: Vec<Value> =
            rules.iter().map(|(value, tag)| json!({"value": value, "tag": tag})).collect();
        send(self.post(RULES, &json!({"add": add}))).await
    }

    async fn rules(&self) -> Value {
        let (status, answer) = send(self.get(RULES)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn request_stream(&self, query: &str) -> Response {
        within(self.get(&format!("{STREAM}{query}")).send()).await.unwrap()
    }

    async fn connect(&self, query: &str) -> Reader {
        let response = self.request_stream(query).await;
        assert_eq!(response.status(), StatusCode::OK);
        Reader::new(response)
    }
}

/// The next record that is not blank.
async fn record(reader: &mut Reader) -> Value {
    let line = async {
        loop {
            let line = reader.line().await.unwrap();
            if !line.is_empty() {
                return line;
            }
        }
    };
    serde_json::from_slice(&within(line).await).unwrap()
}

async fn records(reader: &mut Reader, count: usize) -> Vec<Value> {
    let mut records = Vec::new();
    while records.len() < count {
        records.push(record(reader).await);
    }
    records
}

fn id(record: &Value) -> String {
    record["data"]["id"].as_str().unwrap().to_owned()
}

fn posts(lines: &[Vec<u8>]) -> Vec<Value> {
    let records = lines.iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    records.filter(|record| record["data"]["id"].is_string()).collect()
}

/// The row of a record, by the rule of the expected rows.
fn row(record: &Value) -> ExpectedRow {
    let data = &record["data"];
    let author = record["includes"]["users"].as_array().unwrap();
    let author = author.iter().find(|user| user["id"] == data["author_id"]).unwrap();
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    ExpectedRow {
        user: string(&author["username"]),
        date: string(&data["created_at"]),
        text: string(data.pointer("/note_tweet/text").unwrap_or(&data["text"])),
        id: id(record),
    }
}

async fn assert_status(response: Response, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status);
    serde_json::from_slice(&within(response.bytes()).await.unwrap()).unwrap()
}

fn refusals(server: &FeedServer, refusal: Refusal) -> u64 {
    server.statistics().refused.get(&refusal).copied().unwrap_or(0)
}

/// A clock that a test moves.
fn movable_clock() -> (Clock, Arc<AtomicU64>) {
    let seconds = Arc::new(AtomicU64::new(1_795_000_000));
    let moved = Arc::clone(&seconds);
    let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(moved.load(Ordering::SeqCst));
    (Arc::new(now), seconds)
}

// The bearer.

#[tokio::test]
async fn an_application_has_one_bearer_until_it_is_invalidated() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let account = account(1);
    let first = mint(&server, &account).await;
    assert!((100..=120).contains(&first.len()) && first.starts_with("AAAAAAAAAAAAAAAA"), "{first}");
    assert!(first.contains("%2F") && first.contains("%3D"));
    assert_eq!(mint(&server, &account).await, first);
    assert_eq!(server.statistics().tokens_given, 2);
    let old = Client { server: &server, bearer: first.clone() };
    old.rules().await;
    for encoded in [true, false] {
        let bearer = mint(&server, &account).await;
        let body = if encoded {
            url::form_urlencoded::Serializer::new(String::new())
                .append_pair("access_token", &bearer)
                .finish()
        } else {
            // As in X's own example.
            format!("access_token={bearer}")
        };
        let path = "/oauth2/invalidate_token";
        let (status, answer) = send(token_request(&server, path, &account, &body)).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({"access_token": bearer})));
        let (status, _) = send(token_request(&server, path, &account, &body)).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    let answer = assert_status(old.get(RULES).send().await.unwrap(), 401).await;
    assert_eq!(
        answer,
        json!({"title": "Unauthorized", "type": "about:blank", "status": 401, "detail": "Unauthorized"})
    );
    assert_eq!(refusals(&server, Refusal::EndedBearer), 1);
    assert_ne!(mint(&server, &account).await, first);
    assert_eq!(server.bearers().len(), 3);
}

#[tokio::test]
async fn only_the_keys_of_an_application_get_a_bearer() {
    let other = account(2);
    let accounts = vec![account(1), other.clone()];
    let server = FeedServer::start(Options { accounts, ..options() }).await.unwrap();
    let account = account(1);
    let ask = |authorization: String| {
        let request = client().post(format!("{}/oauth2/token", server.base_url()));
        let request = request.header(AUTHORIZATION, authorization).header(CONTENT_TYPE, FORM);
        send(request.body("grant_type=client_credentials"))
    };
    let right = basic(&account.consumer_key, &account.consumer_secret);
    let bare = aws_smithy_types::base64::encode(format!("{}+", account.consumer_key));
    for wrong in [
        basic(&account.consumer_key, &other.consumer_secret),
        basic(&other.consumer_key, &account.consumer_secret),
        basic(&account.access_token, &account.access_token_secret),
        basic("", ""),
        right.replace("Basic", "Bearer"),
        right[..right.len() - 4].to_owned(),
        format!("Basic {}:{}", account.consumer_key, account.consumer_secret),
        format!("Basic {bare}"),
        String::new(),
    ] {
        let (status, answer) = ask(wrong.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{wrong}");
        assert_eq!(
            answer,
            json!({"errors": [{"code": 99, "message": "Unable to verify your credentials", "label": "authenticity_token_error"}]})
        );
    }
    assert_eq!(refusals(&server, Refusal::WrongApplication), 9);
    assert_eq!(server.bearers().len(), 0);
    assert_eq!(ask(right).await.0, StatusCode::OK);
}

#[tokio::test]
async fn keys_with_reserved_characters_are_percent_encoded_in_basic() {
    let odd = Account {
        consumer_key: "a:b/c+d".to_owned(),
        consumer_secret: "e f%é".to_owned(),
        ..account(1)
    };
    let server =
        FeedServer::start(Options { accounts: vec![odd.clone()], ..options() }).await.unwrap();
    let halves = "a%3Ab%2Fc%2Bd:e%20f%25%C3%A9";
    let request = |halves: &str| {
        let encoded = format!("Basic {}", aws_smithy_types::base64::encode(halves));
        let request = client().post(format!("{}/oauth2/token", server.base_url()));
        let request = request.header(AUTHORIZATION, encoded).header(CONTENT_TYPE, FORM);
        send(request.body("grant_type=client_credentials"))
    };
    assert_eq!(request(halves).await.0, StatusCode::OK);
    for bare in ["a:b/c+d:e f%é", "a%3Ab/c%2Bd:e%20f%25%C3%A9", "a%3Ab%2Fc%2Bd:e f%25%C3%A9"] {
        assert_eq!(request(bare).await.0, StatusCode::FORBIDDEN, "{bare}");
    }
}

#[tokio::test]
async fn a_bearer_is_asked_for_with_a_form_of_the_one_grant_type() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let account = account(1);
    let right = "grant_type=client_credentials";
    let mut asked = 0;
    for (content_type, body) in [
        (FORM, ""),
        (FORM, "grant_type=password"),
        (FORM, "grant_type=client_credentials&scope=x"),
        (FORM, "{\"grant_type\":\"client_credentials\"}"),
        ("application/json", right),
        ("application/x-www-form-urlencoded;charset=latin1", right),
    ] {
        let request = token_request(&server, "/oauth2/token", &account, body);
        let mut request = request.build().unwrap();
        request.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
        let response = within(client().execute(request)).await.unwrap();
        assert_eq!(
            assert_status(response, 403).await["errors"][0],
            json!({"code": 170, "message": "Missing required parameter: grant_type", "label": "forbidden_missing_parameter"})
        );
        asked += 1;
        assert_eq!(refusals(&server, Refusal::GrantType), asked);
    }
    let response = within(client().get(format!("{}/oauth2/token", server.base_url())).send()).await;
    assert_eq!(response.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn revoked_keys_end_their_bearer_and_renewed_ones_have_another_for_the_same_application() {
    let old = account(1);
    let other = account(2);
    let accounts = vec![old.clone(), other.clone()];
    let server = FeedServer::start(Options { accounts, ..options() }).await.unwrap();
    let before = Client::ready(&server).await;
    let stranger = Client::new(&server, &other).await;
    let renewed = old.renewed(&mut fastrand::Rng::with_seed(9));
    let body = "grant_type=client_credentials";
    let (status, _) = send(token_request(&server, "/oauth2/token", &renewed, body)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    server.accept(renewed.clone());
    let after = Client::new(&server, &renewed).await;
    assert_ne!(after.bearer, before.bearer);
    // Both are good for a while, and show the same rules.
    assert_eq!(after.rules().await["data"], before.rules().await["data"]);
    assert_eq!(stranger.rules().await["meta"]["result_count"], 0);
    server.revoke(&old.access_token, Revocation::KeepOpenStreams);
    assert_status(before.get(RULES).send().await.unwrap(), 401).await;
    assert_status(before.request_stream("").await, 401).await;
    let (status, _) = send(token_request(&server, "/oauth2/token", &old, body)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    after.rules().await;
    stranger.rules().await;
    // What was revoked and is accepted again gets another bearer; the old one stays ended.
    server.accept(old.clone());
    assert_status(before.get(RULES).send().await.unwrap(), 401).await;
    assert_ne!(mint(&server, &old).await, before.bearer);
    // A changed secret ends the bearer too.
    let changed = Account { consumer_secret: account(5).consumer_secret, ..renewed };
    server.accept(changed);
    assert_status(after.get(RULES).send().await.unwrap(), 401).await;
}

#[tokio::test]
async fn a_bearer_can_be_revoked_alone() {
    let server =
        FeedServer::start(Options { rate: NonZeroU32::new(500), ..options() }).await.unwrap();
    let before = Client::ready(&server).await;
    let mut kept = before.connect("").await;
    let key = &account(1).consumer_key;
    server.revoke_bearer(key, Revocation::KeepOpenStreams);
    assert_status(before.get(RULES).send().await.unwrap(), 401).await;
    records(&mut kept, 20).await;
    let after = Client::new(&server, &account(1)).await;
    assert_ne!(after.bearer, before.bearer);
    after.rules().await;
    server.revoke_bearer(key, Revocation::Cut);
    assert_eq!(kept.rest().await.2, End::Clean);
}

// The rules.

#[tokio::test]
async fn rules_are_added_shown_and_deleted() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    let empty = client.rules().await;
    assert_eq!((empty.get("data"), &empty["meta"]["result_count"]), (None, &json!(0)));
    let sent = empty["meta"]["sent"].as_str().unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(sent).is_ok() && sent.ends_with('Z'), "{sent}");

    let (status, answer) = client.add(&[("Amazon", "mine"), ("cat OR dog", "pets")]).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(
        answer["meta"]["summary"],
        json!({"created": 2, "not_created": 0, "valid": 2, "invalid": 0})
    );
    assert!(answer.get("errors").is_none());
    let shown = client.rules().await;
    assert_eq!((&shown["data"], &shown["meta"]["result_count"]), (&answer["data"], &json!(2)));
    let [first, second] = [0, 1].map(|index| shown["data"][index].clone());
    assert_eq!((&first["value"], &first["tag"]), (&json!("Amazon"), &json!("mine")));
    assert_ne!(first["id"], second["id"]);
    let one = send(client.get(&format!("{RULES}?ids={}", second["id"].as_str().unwrap()))).await.1;
    assert_eq!(one["data"], json!([second]));

    for (delete, deleted, not_deleted) in [
        (json!({"ids": ["1"]}), 0, 1),
        (json!({"ids": [first["id"], "1"]}), 1, 1),
        (json!({"values": ["cat OR dog"]}), 1, 0),
    ] {
        let (status, answer) = send(client.post(RULES, &json!({"delete": delete}))).await;
        assert_eq!(status, StatusCode::OK);
        let summary = json!({"deleted": deleted, "not_deleted": not_deleted});
        assert_eq!(answer["meta"]["summary"], summary);
        assert_eq!(answer.get("errors").is_some(), not_deleted > 0);
    }
    assert_eq!(client.rules().await["meta"]["result_count"], 0);
}

#[tokio::test]
async fn a_duplicate_is_named_and_the_others_are_added() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    let (_, answer) = client.add(&[("Amazon", "mine")]).await;
    let id = answer["data"][0]["id"].clone();
    let (status, answer) = client.add(&[("Amazon", "other tag"), ("cat", "a"), ("cat", "b")]).await;
    assert_eq!(status, StatusCode::CREATED);
    let summary = json!({"created": 1, "not_created": 2, "valid": 1, "invalid": 2});
    assert_eq!(answer["meta"]["summary"], summary);
    assert_eq!(
        answer["errors"][0],
        json!({"value": "Amazon", "id": id, "title": "DuplicateRule", "type": "https://api.twitter.com/2/problems/duplicate-rules"})
    );
    assert_eq!(answer["errors"][1]["id"], answer["data"][0]["id"]);
    let tags: Vec<_> = server.rules().into_iter().map(|rule| rule.tag.unwrap()).collect();
    assert_eq!(tags, ["mine", "a"]);
}

#[tokio::test]
async fn with_an_invalid_rule_none_is_added() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    let long = "a".repeat(1_025);
    for invalid in ["\"Amazon", "(Amazon", "-Amazon", "lang:en", "Amazon place:x", "a,b", &long] {
        let (status, answer) = client.add(&[("cat", "a"), (invalid, "b")]).await;
        assert_eq!(status, StatusCode::CREATED, "{invalid}");
        assert_eq!(
            answer["meta"]["summary"],
            json!({"created": 0, "not_created": 2, "valid": 1, "invalid": 1}),
            "{invalid}"
        );
        let error = &answer["errors"][0];
        assert_eq!(
            (&error["value"], &error["title"]),
            (&json!(invalid), &json!("UnprocessableEntity"))
        );
        assert!(!error["details"][0].as_str().unwrap().is_empty());
        assert!(answer.get("data").is_none());
    }
    assert_eq!(server.rules(), []);
    let (_, answer) = client.add(&[("cat", "a"), (&long[1..], "b")]).await;
    assert_eq!(answer["meta"]["summary"]["created"], 2);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::ready(&server).await;
    let before = server.rules();
    let dry = format!("{RULES}?dry_run=true");
    let (status, answer) = send(client.post(&dry, &json!({"add": [{"value": "cat"}]}))).await;
    assert_eq!((status, &answer["meta"]["summary"]["created"]), (StatusCode::CREATED, &json!(1)));
    let delete = json!({"delete": {"ids": [before[0].id]}});
    let (status, answer) = send(client.post(&dry, &delete)).await;
    assert_eq!((status, &answer["meta"]["summary"]["deleted"]), (StatusCode::OK, &json!(1)));
    assert_eq!(server.rules(), before);
    let wet = format!("{RULES}?dry_run=false");
    assert_eq!(send(client.post(&wet, &delete)).await.0, StatusCode::OK);
    assert_eq!(server.rules(), []);
    let (status, _) = send(client.post(&format!("{RULES}?dry_run=yes"), &delete)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_thousand_rules_are_the_most() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    let values: Vec<String> = (0..1_001).map(|index| format!("word{index}")).collect();
    let rules: Vec<(&str, &str)> = values.iter().map(|value| (value.as_str(), "many")).collect();
    let (status, answer) = client.add(&rules).await;
    assert_eq!(
        (status, answer["title"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("RulesCapExceeded"))
    );
    assert_eq!(server.rules(), []);
    assert_eq!(client.add(&rules[..1_000]).await.0, StatusCode::CREATED);
    assert_eq!(client.add(&rules[1_000..]).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.rules().len(), 1_000);
}

#[tokio::test]
async fn what_is_no_change_of_rules_is_refused() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    let add = json!({"value": "Amazon"});
    for body in [
        json!({}),
        json!([]),
        json!({"add": []}),
        json!({"add": [add], "delete": {"ids": ["1"]}}),
        json!({"delete": {}}),
        json!({"delete": {"ids": [1]}}),
        json!({"add": [{"tag": "mine"}]}),
        json!({"add": [{"value": "Amazon", "id": "1"}]}),
        json!({"ad": [add]}),
        json!("not an object"),
    ] {
        let (status, answer) = send(client.post(RULES, &body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer["title"], "Invalid Request");
    }
    let text = client.get(RULES).build().unwrap().url().clone();
    let request = self::client().post(text).bearer_auth(&client.bearer);
    let (status, _) = send(request.body(json!({"add": [add]}).to_string())).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = send(client.get(&format!("{RULES}?id=1"))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for bearer in ["", "AAAA", &client.bearer[1..]] {
        let client = Client { server: &server, bearer: bearer.to_owned() };
        assert_eq!(client.add(&[("Amazon", "mine")]).await.0, StatusCode::UNAUTHORIZED);
        assert_status(client.get(RULES).send().await.unwrap(), 401).await;
        assert_status(client.request_stream("").await, 401).await;
    }
    assert_eq!(refusals(&server, Refusal::UnknownBearer), 9);
    assert_eq!(server.rules(), []);
}

#[tokio::test]
async fn rules_of_another_client_are_shown_and_counted_by_their_tag() {
    let server = FeedServer::start(limited(400)).await.unwrap();
    let foreign = server.add_rule(&account(1), "ramen OR 散歩", "theirs").unwrap();
    assert!(server.add_rule(&account(1), "(ramen", "theirs").is_err());
    let client = Client::ready(&server).await;
    let ids: Vec<String> = server.rules().into_iter().map(|rule| rule.id).collect();
    assert_eq!(ids[0], foreign);
    assert_eq!(client.rules().await["meta"]["result_count"], 2);
    let mut reader = client.connect(QUERY).await;
    let mut by_rules: BTreeMap<Vec<String>, u32> = BTreeMap::new();
    for record in records(&mut reader, 400).await {
        let rules = record["matching_rules"].as_array().unwrap().iter();
        let rules: Vec<String> = rules
            .map(|rule| {
                let tag = if rule["id"] == foreign { "theirs" } else { "mine" };
                assert_eq!(rule["tag"], tag);
                tag.to_owned()
            })
            .collect();
        let all = record["data"].to_string();
        // Of a retweet X looks at all of the text, and sends the beginning.
        let is_cut = record["data"]["text"].as_str().unwrap().ends_with('\u{2026}');
        let is_theirs = all.contains("ramen") || all.contains("散歩");
        assert!(is_cut || rules.contains(&"theirs".to_owned()) == is_theirs, "{all}");
        *by_rules.entry(rules).or_default() += 1;
    }
    assert_eq!(by_rules.len(), 3, "{by_rules:?}");
    // The oracle knows the word alone.
    let mine = 400 - by_rules[&vec!["theirs".to_owned()]];
    assert_eq!(server.expected_rows().len(), mine as usize);
}

// The stream.

#[tokio::test]
async fn every_matching_post_is_sent_once_with_what_was_asked_for() {
    let server = FeedServer::start(limited(1_500)).await.unwrap();
    let client = Client::ready(&server).await;
    let response = client.request_stream(QUERY).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json; charset=utf-8");
    assert!(response.headers().get(CONTENT_ENCODING).is_none());
    let mut reader = Reader::new(response);
    let records = records(&mut reader, 1_500).await;
    let mut rows: Vec<ExpectedRow> = records.iter().map(row).collect();
    let mut expected = server.expected_rows();
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);
    assert_eq!(rows.iter().map(|row| &row.id).collect::<HashSet<_>>().len(), 1_500);
    let statistics = server.statistics();
    assert_eq!((statistics.connects, statistics.open, statistics.posts_sent), (1, 1, 1_500));
    assert_eq!(statistics.posts_sent_matching, Some(1_500));
    assert_eq!(statistics.last_query.as_deref(), QUERY.strip_prefix('?'));
    assert!(statistics.posts_passed_over > 2_000 && statistics.keep_alives_sent > 0);
    assert_eq!(statistics.notices_sent, 0);

    let mut kinds = BTreeSet::new();
    for record in &records {
        assert_eq!(record["matching_rules"], json!([{"id": server.rules()[0].id, "tag": "mine"}]));
        let data = &record["data"];
        assert_eq!(data["edit_history_tweet_ids"], json!([data["id"]]));
        let created_at = data["created_at"].as_str().unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(created_at).is_ok());
        assert!(created_at.len() == 24 && created_at.ends_with('Z'), "{created_at}");
        let text = data["text"].as_str().unwrap();
        if let Some(note) = data.pointer("/note_tweet/text") {
            let note = note.as_str().unwrap();
            let (shown, _) = text.split_once('\u{2026}').unwrap();
            assert!(note.starts_with(shown) && note.chars().count() > 140);
            kinds.insert("note");
        }
        if text.starts_with("RT @") {
            assert!(text.chars().count() <= 140, "{text}");
            kinds.insert(if text.ends_with('\u{2026}') { "cut retweet" } else { "retweet" });
        }
        let places = [data.pointer("/entities"), data.pointer("/note_tweet/entities")];
        for (kind, members) in places.into_iter().flatten().flat_map(|e| e.as_object().unwrap()) {
            let first = members[0].as_object().unwrap();
            assert!(first["start"].as_u64().unwrap() <= first["end"].as_u64().unwrap());
            kinds.insert(match kind.as_str() {
                "hashtags" if first["tag"].is_string() => "hashtag",
                "mentions" if first["username"].is_string() => "mention",
                "urls" if first["expanded_url"].is_string() => "url",
                other => panic!("{other}: {first:?}"),
            });
        }
    }
    let all = ["cut retweet", "hashtag", "mention", "note", "retweet", "url"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
    // Somebody posts twice at one time.
    let keys: HashSet<_> = rows.iter().map(|row| (&row.user, &row.date)).collect();
    assert!(keys.len() < rows.len());
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_sent() {
    let rate = NonZeroU32::new(2_000);
    let server = FeedServer::start(Options { rate, ..options() }).await.unwrap();
    let client = Client::ready(&server).await;
    let members = |records: &[Value]| {
        let mut members = BTreeSet::new();
        for record in records {
            members.extend(record.as_object().unwrap().keys().cloned());
            for (name, at) in [("data", "/data"), ("user", "/includes/users/0")] {
                if let Some(Value::Object(object)) = record.pointer(at) {
                    members.extend(object.keys().map(|key| format!("{name}.{key}")));
                }
            }
        }
        members.into_iter().collect::<Vec<_>>().join(" ")
    };
    let plain = "data data.edit_history_tweet_ids data.id data.text matching_rules";
    for (query, expected) in [
        ("", plain.to_owned()),
        ("?user.fields=username", plain.to_owned()),
        ("?tweet.fields=author_id", plain.replace("data.edit", "data.author_id data.edit")),
        (
            "?tweet.fields=created_at,referenced_tweets,lang,geo",
            "data data.created_at data.edit_history_tweet_ids data.id data.lang \
             data.referenced_tweets data.text matching_rules"
                .to_owned(),
        ),
        (
            "?tweet.fields=entities,note_tweet",
            "data data.edit_history_tweet_ids data.entities data.id data.note_tweet data.text \
             matching_rules"
                .to_owned(),
        ),
        (
            "?expansions=author_id&backfill_minutes=5",
            "data data.author_id data.edit_history_tweet_ids data.id data.text includes \
             matching_rules user.id user.name user.username"
                .to_owned(),
        ),
        (
            "?expansions=author_id&user.fields=description",
            "data data.author_id data.edit_history_tweet_ids data.id data.text includes \
             matching_rules user.description user.id user.name user.username"
                .to_owned(),
        ),
    ] {
        let mut reader = client.connect(query).await;
        assert_eq!(members(&records(&mut reader, 120).await), expected, "{query}");
        drop(reader);
        within(server.wait_until(|statistics| statistics.open == 0)).await;
    }
}

#[tokio::test]
async fn a_query_that_x_does_not_know_is_refused() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::ready(&server).await;
    for (parameter, value) in
        [("tweet.fields", "date"), ("backfill_minutes", "6"), ("expansions", "x"), ("track", "a")]
    {
        let response = client.request_stream(&format!("?{parameter}={value}")).await;
        let answer = assert_status(response, 400).await;
        assert_eq!(answer["title"], "Invalid Request");
        assert_eq!(answer["errors"][0]["parameters"][parameter], json!([value]));
    }
    assert_eq!(refusals(&server, Refusal::InvalidRequest), 4);
    assert_eq!(server.statistics().connects, 0);
}

#[tokio::test]
async fn without_a_rule_only_keep_alives_come_and_a_rule_lets_the_posts_begin() {
    let keep_alive = Duration::from_millis(20);
    let server = FeedServer::start(Options { keep_alive, ..limited(50) }).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    let mut reader = client.connect(QUERY).await;
    for _ in 0..5 {
        assert_eq!(reader.line().await, Ok(Vec::new()));
    }
    let statistics = server.statistics();
    assert_eq!((statistics.posts_sent, statistics.posts_passed_over), (0, 0));
    client.add(&[("Amazon", "mine")]).await;
    records(&mut reader, 50).await;
    // A rule that nothing matches is silence too, and the posts go by.
    server.add_rule(&account(2), "nothingmatchesthis", "other").unwrap();
    assert_eq!(reader.line().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_rule_that_matches_nothing_brings_keep_alives_alone() {
    let keep_alive = Duration::from_millis(20);
    let server = FeedServer::start(Options { keep_alive, ..options() }).await.unwrap();
    let client = Client::new(&server, &account(1)).await;
    client.add(&[("nothingmatchesthis", "none")]).await;
    let mut reader = client.connect("").await;
    for _ in 0..20 {
        assert_eq!(reader.line().await, Ok(Vec::new()));
    }
    let statistics = within(server.wait_until(|feed| feed.posts_passed_over > 1_000)).await;
    assert_eq!(statistics.posts_sent, 0);
}

#[tokio::test]
async fn a_second_stream_is_refused_and_the_first_stays() {
    let accounts = vec![account(1), account(2)];
    let rate = NonZeroU32::new(1_000);
    let server = FeedServer::start(Options { accounts, rate, ..options() }).await.unwrap();
    let client = Client::ready(&server).await;
    let mut first = client.connect("").await;
    // Renewed keys are the same application.
    let renewed = account(1).renewed(&mut fastrand::Rng::with_seed(9));
    server.accept(renewed.clone());
    let after = Client::new(&server, &renewed).await;
    for client in [&client, &after] {
        let answer = assert_status(client.request_stream("").await, 429).await;
        assert_eq!(
            answer,
            json!({
                "title": "ConnectionException",
                "detail": "This stream is currently at the maximum allowed connection limit.",
                "connection_issue": "TooManyConnections",
                "type": "https://api.twitter.com/2/problems/streaming-connection",
            })
        );
    }
    records(&mut first, 50).await;
    assert_eq!(refusals(&server, Refusal::TooManyConnections), 2);
    // Another application has a place of its own.
    Client::new(&server, &account(2)).await.connect("").await;
    drop(first);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
    assert_eq!(server.opened_with(&renewed.consumer_key), 0);
    let mut second = after.connect("").await;
    records(&mut second, 50).await;
    assert_eq!(server.opened_with(&renewed.consumer_key), 1);
    assert_eq!(server.opened_with(&renewed.access_token), 1);
    assert_eq!(server.opened_with(&account(1).consumer_key), 1);
    assert_eq!(server.statistics().cut_oldest, 0);
}

#[tokio::test]
async fn a_place_is_taken_for_a_while_after_its_client_has_left_if_asked_for() {
    let (clock, seconds) = movable_clock();
    let slot_release = Duration::from_secs(7);
    let server = FeedServer::start(Options { clock, slot_release, ..limited(100) }).await.unwrap();
    let client = Client::ready(&server).await;
    drop(client.connect("").await);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
    assert_status(client.request_stream("").await, 429).await;
    seconds.fetch_add(6, Ordering::SeqCst);
    assert_status(client.request_stream("").await, 429).await;
    seconds.fetch_add(1, Ordering::SeqCst);
    let mut reader = client.connect("").await;
    // What the server ends is free at once.
    server.inject(Fault::EndAfter { posts: 0 }, When::Open);
    assert_eq!(reader.rest().await.2, End::Clean);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
    client.connect("").await;
}

#[tokio::test]
async fn a_connect_budget_is_spent_and_comes_back_with_the_clock() {
    let (clock, seconds) = movable_clock();
    let options = Options { clock, connect_budget: Some(3), ..limited(100) };
    let server = FeedServer::start(options).await.unwrap();
    let client = Client::ready(&server).await;
    let said = |response: &Response| {
        ["limit", "remaining", "reset"].map(|name| {
            let name = format!("x-rate-limit-{name}");
            response.headers()[&name].to_str().unwrap().parse::<u64>().unwrap()
        })
    };
    let reset = seconds.load(Ordering::SeqCst) + 15 * 60;
    let first = client.request_stream("").await;
    assert_eq!((first.status(), said(&first)), (StatusCode::OK, [3, 2, reset]));
    seconds.fetch_add(100, Ordering::SeqCst);
    // A refused request is one too.
    let second = client.request_stream("").await;
    assert_eq!((second.status().as_u16(), said(&second)), (429, [3, 1, reset]));
    let third = client.request_stream("?backfill_minutes=9").await;
    assert_eq!((third.status().as_u16(), said(&third)), (400, [3, 0, reset]));
    drop(first);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
    for _ in 0..2 {
        let spent = client.request_stream("").await;
        assert_eq!(said(&spent), [3, 0, reset]);
        assert_eq!(assert_status(spent, 429).await["title"], "Too Many Requests");
    }
    assert_eq!(refusals(&server, Refusal::ConnectBudget), 2);
    seconds.store(reset, Ordering::SeqCst);
    let fresh = client.request_stream("").await;
    assert_eq!((fresh.status(), said(&fresh)), (StatusCode::OK, [3, 2, reset + 15 * 60]));
}

#[tokio::test]
async fn a_revocation_cuts_the_stream_with_an_error_record_or_leaves_it() {
    let server =
        FeedServer::start(Options { rate: NonZeroU32::new(500), ..options() }).await.unwrap();
    let client = Client::ready(&server).await;
    let mut reader = client.connect("").await;
    server.revoke(&account(1).access_token, Revocation::KeepOpenStreams);
    records(&mut reader, 50).await;
    server.accept(account(1));
    server.revoke(&account(1).access_token, Revocation::Cut);
    let (lines, left_over, end) = reader.rest().await;
    let last: Value = serde_json::from_slice(lines.last().unwrap()).unwrap();
    assert_eq!(
        last,
        json!({"errors": [{
            "title": "operational-disconnect",
            "disconnect_type": "UpstreamOperationalDisconnect",
            "detail": "This stream has been disconnected upstream for operational reasons.",
            "type": "https://api.twitter.com/2/problems/operational-disconnect",
        }]})
    );
    assert_eq!((left_over.len(), end), (0, End::Clean));
}

#[tokio::test]
async fn a_recording_of_v2_is_sent_as_it_is() {
    let content = "{\"data\":{\"id\":\"1\",\"text\":\"\\u00e9\\/\",\"x\":1},\"matching_rules\":[]}\r\n\
                   {\"errors\":[{\"title\":\"y\"}]}\r\n{\"data\":{\"id\":\"2\",\"text\":\"\"}}\n";
    let recording = Recording::parse(content.as_bytes()).unwrap();
    assert_eq!(recording.posts(), 2);
    let keep_alive = Duration::from_millis(10);
    let options = Options::new(vec![account(1)], Source::Replay(recording), clock());
    let server = FeedServer::start(Options { keep_alive, ..options }).await.unwrap();
    let client = Client::ready(&server).await;
    let mut reader = client.connect("").await;
    for line in content.lines() {
        assert_eq!(reader.line().await.unwrap(), line.as_bytes());
    }
    assert_eq!(reader.line().await.unwrap(), b"");
    let statistics = server.statistics();
    assert_eq!((statistics.posts_sent, statistics.notices_sent), (2, 1));
}

#[tokio::test]
async fn both_dialects_share_the_posts_and_leave_each_others_streams_alone() {
    let server =
        FeedServer::start(Options { rate: NonZeroU32::new(2_000), ..options() }).await.unwrap();
    let client = Client::ready(&server).await;
    let mut v2 = client.connect(QUERY).await;
    let mut v1_1 = crate::feed_server::connect(&server, &account(1)).await;
    let mut ids: Vec<String> = records(&mut v2, 100).await.iter().map(id).collect();
    let mut dates = Vec::new();
    while dates.len() < 100 {
        let record = record(&mut v1_1).await;
        if let (Some(id), true) = (record["id_str"].as_str(), record["user"].is_object()) {
            ids.push(id.to_owned());
            dates.push(record["created_at"].as_str().unwrap().to_owned());
        }
    }
    assert!(dates.iter().all(|date| date.contains("+0000")));
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 200);
    assert_eq!((server.statistics().open, server.statistics().cut_oldest), (2, 0));
}

#[tokio::test]
async fn a_post_begun_in_one_dialect_goes_to_the_next_reader_in_its_own() {
    for slow_v2 in [true, false] {
        let server = FeedServer::start(Options {
            source: Source::Generated { seed: 3, track: "Amazon".to_owned(), matching: 1.0 },
            ..limited(5)
        })
        .await
        .unwrap();
        let client = Client::ready(&server).await;
        server.inject(Fault::SlowBytes { every: Duration::from_millis(1) }, When::Next);
        let connect = async |v2: bool| {
            if v2 {
                client.connect(QUERY).await
            } else {
                crate::feed_server::connect(&server, &account(1)).await
            }
        };
        let mut first = connect(slow_v2).await;
        assert!(within(first.response.chunk()).await.unwrap().is_some());
        drop(first);
        within(server.wait_until(|statistics| statistics.open == 0)).await;
        let mut second = connect(!slow_v2).await;
        let mut ids = HashSet::new();
        while ids.len() < 5 {
            let record = record(&mut second).await;
            let id =
                if slow_v2 { record["id_str"].as_str() } else { record["data"]["id"].as_str() };
            ids.extend(id.map(str::to_owned));
        }
        assert_eq!(server.expected_rows().len(), 5);
    }
}

// Faults.

#[tokio::test]
async fn streams_of_v2_break_like_those_of_v1_1_and_no_post_is_lost() {
    for (fault, expected_end, half) in [
        (Fault::DropAfter { posts: 20, mid_record: false }, End::Error, false),
        (Fault::DropAfter { posts: 20, mid_record: true }, End::Error, true),
        (Fault::EndAfter { posts: 20 }, End::Clean, false),
    ] {
        let server = FeedServer::start(limited(100)).await.unwrap();
        let client = Client::ready(&server).await;
        server.inject(fault, When::Next);
        let (lines, left_over, end) = client.connect(QUERY).await.rest().await;
        assert_eq!((end, posts(&lines).len(), !left_over.is_empty()), (expected_end, 20, half));
        within(server.wait_until(|statistics| statistics.open == 0)).await;
        let mut second = client.connect(QUERY).await;
        let mut ids: HashSet<String> = records(&mut second, 80).await.iter().map(id).collect();
        ids.extend(posts(&lines).iter().map(id));
        assert_eq!(ids.len(), 100);
    }
}

#[tokio::test]
async fn garbage_and_an_over_long_record_stand_between_posts_of_v2() {
    for (fault, lines, length) in [
        (Fault::Garbage { lines: 8 }, 8, 0),
        (Fault::OverLongRecord { bytes: 1_000_000 }, 1, 1_000_000),
    ] {
        let server = FeedServer::start(limited(30)).await.unwrap();
        let client = Client::ready(&server).await;
        server.inject(fault, When::Next);
        let mut reader = client.connect(QUERY).await;
        for _ in 0..lines {
            let line = reader.line().await.unwrap();
            assert!(!line.is_empty() && line.len() >= length && posts(&[line]).is_empty());
        }
        records(&mut reader, 30).await;
    }
}

#[tokio::test]
async fn an_error_record_ends_the_stream_or_does_not() {
    for (error, title) in [
        (StreamError::OperationalDisconnect, "operational-disconnect"),
        (StreamError::TooManyConnections, "ConnectionException"),
    ] {
        let server =
            FeedServer::start(Options { rate: NonZeroU32::new(1_000), ..options() }).await.unwrap();
        let client = Client::ready(&server).await;
        let mut reader = client.connect("").await;
        records(&mut reader, 10).await;
        server.inject(Fault::ErrorRecord { error, close: false }, When::Open);
        let is_it = |record: &Value| record["errors"][0]["title"] == title;
        while !is_it(&record(&mut reader).await) {}
        records(&mut reader, 10).await;
        server.inject(Fault::ErrorRecord { error, close: true }, When::Open);
        let (lines, left_over, end) = reader.rest().await;
        assert_eq!((left_over.len(), end), (0, End::Clean));
        assert!(is_it(&serde_json::from_slice(lines.last().unwrap()).unwrap()));
        assert_eq!(server.statistics().notices_sent, 2);
    }
}

#[tokio::test]
async fn each_endpoint_fails_alone() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::ready(&server).await;
    let mut headers = HeaderMap::new();
    headers.insert("x-rate-limit-reset", HeaderValue::from_static("1795000000"));
    let body_template = "{authorization}".to_owned();
    let fault = Fault::Status { code: StatusCode::TOO_MANY_REQUESTS, headers, body_template };
    let path = "/oauth2/token";
    let body = "grant_type=client_credentials";
    let token = || within(token_request(&server, path, &account(1), body).send());
    let rules = || within(client.get(RULES).send());
    let stream = || within(client.get(STREAM).send());
    for endpoint in [Endpoint::Token, Endpoint::Rules, Endpoint::Stream] {
        server.inject_at(endpoint, fault.clone(), When::Each);
        let answers = [token().await.unwrap(), rules().await.unwrap(), stream().await.unwrap()];
        for (answer, of) in answers.iter().zip([Endpoint::Token, Endpoint::Rules, Endpoint::Stream])
        {
            assert_eq!(answer.status() == StatusCode::TOO_MANY_REQUESTS, of == endpoint);
            assert_eq!(answer.headers().contains_key("x-rate-limit-reset"), of == endpoint);
        }
        drop(answers);
        server.clear_faults();
        within(server.wait_until(|statistics| statistics.open == 0)).await;
    }
    server.inject_at(Endpoint::Rules, Fault::EchoCredentials, When::Next);
    let echo = within(rules().await.unwrap().text()).await.unwrap();
    assert!(echo.contains(&client.bearer));
    // One that is no answer.
    let cut = Fault::DropAfter { posts: 0, mid_record: false };
    server.inject_at(Endpoint::Token, cut, When::Next);
    assert!(token().await.is_err());
    server.inject_at(Endpoint::Rules, Fault::Stall, When::Open);
    let stalled = tokio::spawn(client.get(RULES).send());
    within(server.wait_until(|feed| feed.refused.get(&Refusal::Fault) == Some(&6))).await;
    assert!(!stalled.is_finished());
    stalled.abort();
    assert_eq!(
        (token().await.unwrap().status(), rules().await.unwrap().status()),
        (StatusCode::OK, StatusCode::OK)
    );
}

// Transport.

/// What a gzip body holds so far.
async fn gunzipped(reader: &mut Reader, wanted: impl Fn(&str) -> bool) -> String {
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    loop {
        let chunk = within(reader.response.chunk()).await.unwrap().expect("ended before");
        std::io::Write::write_all(&mut decoder, &chunk).unwrap();
        std::io::Write::flush(&mut decoder).unwrap();
        let text = String::from_utf8_lossy(decoder.get_ref()).into_owned();
        if wanted(&text) {
            return text;
        }
    }
}

#[tokio::test]
async fn streams_are_compressed_chunk_by_chunk_if_both_sides_want_it() {
    let rate = NonZeroU32::new(200);
    let gzip = Options { gzip: true, rate, ..options() };
    let server = FeedServer::start(gzip).await.unwrap();
    let client = Client::ready(&server).await;
    let request = |accepted: &str| client.get(STREAM).header(ACCEPT_ENCODING, accepted.to_owned());
    for refused in ["identity", "gzip;q=0", "br, deflate"] {
        let response = within(request(refused).send()).await.unwrap();
        assert!(response.headers().get(CONTENT_ENCODING).is_none());
        records(&mut Reader::new(response), 3).await;
        within(server.wait_until(|statistics| statistics.open == 0)).await;
    }
    let response = within(request("br, gzip;q=0.8").send()).await.unwrap();
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let mut reader = Reader::new(response);
    let text =
        gunzipped(&mut reader, |text| text.matches("\"matching_rules\"").count() >= 20).await;
    let lines = text.split("\r\n").filter(|line| !line.is_empty()).take(20);
    assert!(lines.clone().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    server.inject(Fault::EndAfter { posts: 0 }, When::Open);
    let mut whole = Vec::new();
    while let Some(chunk) = within(reader.response.chunk()).await.unwrap() {
        whole.extend_from_slice(&chunk);
    }
    // The end of a gzip body is its length.
    assert!(whole.len() >= 8);
    drop(client);

    // v1.1 too, and a whole body.
    server.inject(Fault::EndAfter { posts: 5 }, When::Next);
    let account = account(1);
    let signed = reqwest_oauth1::OAuthClientProvider::oauth1(
        crate::feed_server::client(),
        crate::feed_server::secrets(&account),
    );
    let signed = signed.post(server.url()).form(&[("track", "Amazon")]);
    let request = signed.header(ACCEPT_ENCODING, "gzip").generate_signature().unwrap();
    let response = within(request.send()).await.unwrap();
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let body = within(response.bytes()).await.unwrap();
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&body[..]);
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert_eq!(text.matches("\"screen_name\"").count() >= 5, text.ends_with("\r\n"));
}

#[tokio::test]
async fn a_compressed_post_can_be_read_when_nothing_follows_it() {
    let server = FeedServer::start(Options { gzip: true, ..limited(1) }).await.unwrap();
    let client = Client::ready(&server).await;
    let response = within(client.get(STREAM).header(ACCEPT_ENCODING, "gzip").send()).await.unwrap();
    let text = gunzipped(&mut Reader::new(response), |text| text.contains("matching_rules")).await;
    assert!(text.ends_with("\r\n"), "{text}");
    assert_eq!(server.statistics().posts_sent, 1);
}

#[tokio::test]
async fn nothing_is_compressed_by_default() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let client = Client::ready(&server).await;
    let response = within(client.get(STREAM).header(ACCEPT_ENCODING, "gzip").send()).await.unwrap();
    assert!(response.headers().get(CONTENT_ENCODING).is_none());
    records(&mut Reader::new(response), 10).await;
}

/// A client of HTTP/2 that knows the server speaks it.
async fn h2(server: &FeedServer) -> h2::client::SendRequest<bytes::Bytes> {
    let address = server.base_url().replace("http://", "");
    let socket = within(tokio::net::TcpStream::connect(address)).await.unwrap();
    let (sender, connection) = within(h2::client::handshake(socket)).await.unwrap();
    tokio::spawn(connection);
    within(sender.ready()).await.unwrap()
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let server = FeedServer::start(limited(200)).await.unwrap();
    let client = Client::ready(&server).await;
    let request = || {
        let uri = format!("{}{STREAM}", server.base_url());
        let authorization = format!("Bearer {}", client.bearer);
        axum::http::Request::get(uri).header(AUTHORIZATION, authorization).body(()).unwrap()
    };
    let mut ids = HashSet::new();
    for (fault, expected) in [
        (Fault::DropAfter { posts: 20, mid_record: false }, Some(End::Error)),
        (Fault::EndAfter { posts: 80 }, Some(End::Clean)),
        (Fault::Garbage { lines: 1 }, None),
    ] {
        server.inject(fault, When::Next);
        let mut sender = h2(&server).await;
        let (response, _) = sender.send_request(request(), true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("connection"));
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        let end = loop {
            match within(body.data()).await {
                Some(Ok(chunk)) => {
                    body.flow_control().release_capacity(chunk.len()).unwrap();
                    bytes.extend_from_slice(&chunk);
                }
                Some(Err(_)) => break Some(End::Error),
                None => break Some(End::Clean),
            }
            let lines = String::from_utf8_lossy(&bytes).matches("\"data\"").count();
            if expected.is_none() && lines == 100 {
                break None;
            }
        };
        assert_eq!(end, expected);
        let lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        ids.extend(posts(&lines).iter().map(id));
        drop((body, sender));
        within(server.wait_until(|statistics| statistics.open == 0)).await;
    }
    assert_eq!(ids.len(), 200);
}
