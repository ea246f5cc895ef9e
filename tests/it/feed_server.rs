//! The feed server against a reader that shares no code with it: reqwest, signed by reqwest-oauth1.

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use reqwest::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use reqwest::{Response, StatusCode};
use reqwest_oauth1::{OAuthClientProvider, Secrets};
use serde_json::Value;
use twitterstream::demo::Clock;
use twitterstream::demo::feed_server::replay::Recording;
use twitterstream::demo::feed_server::{
    Account, ExpectedRow, Fault, FeedServer, Options, Refusal, Revocation, RevokedAnswer, Scheme,
    Source, When,
};

/// Nothing here takes long; what hangs must fail.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("took longer than 30 s")
}

pub fn clock() -> Clock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the signer reads this clock too, and cannot be given another"
    )]
    Arc::new(SystemTime::now)
}

pub fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    });
    reqwest::Client::builder().user_agent("feed-server-test/1").no_proxy().build().unwrap()
}

pub fn account(seed: u64) -> Account {
    Account::generated(&mut fastrand::Rng::with_seed(seed))
}

pub fn options() -> Options {
    let source = Source::Generated { seed: 7, track: "Amazon".to_owned(), matching: 0.3 };
    Options::new(vec![account(1)], source, clock())
}

pub fn limited(limit: u64) -> Options {
    Options { limit: Some(limit), ..options() }
}

pub fn secrets(account: &Account) -> Secrets<'_> {
    Secrets::new(&account.consumer_key, &account.consumer_secret)
        .token(&account.access_token, &account.access_token_secret)
}

async fn request(server: &FeedServer, account: &Account, form: &[(&str, &str)]) -> Response {
    let request = client().oauth1(secrets(account)).post(server.url()).form(&form.to_vec());
    within(request.send()).await.unwrap()
}

pub async fn connect(server: &FeedServer, account: &Account) -> Reader {
    let response = request(server, account, &[("track", "Amazon")]).await;
    assert_eq!(response.status(), StatusCode::OK);
    Reader::new(response)
}

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Error,
}

/// Cuts a body into records.
pub struct Reader {
    pub response: Response,
    pub buffer: Vec<u8>,
}

impl Reader {
    pub fn new(response: Response) -> Self {
        Self { response, buffer: Vec::new() }
    }

    /// The next line without its CRLF, blank ones too; or how the body ended.
    pub async fn line(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                line.truncate(at);
                return Ok(line);
            }
            match within(self.response.chunk()).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Err(End::Clean),
                Err(_) => return Err(End::Error),
            }
        }
    }

    /// The next record that is a post.
    async fn post(&mut self) -> Result<Value, End> {
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                continue;
            }
            let record: Value = serde_json::from_slice(&line).unwrap();
            if record.get("user").is_some() {
                return Ok(record);
            }
        }
    }

    /// The ids of the next posts.
    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(id(&self.post().await.unwrap()));
        }
        ids
    }

    /// All that still comes: the lines that are not blank, what stands behind the last line's end, and the end.
    pub async fn rest(&mut self) -> (Vec<Vec<u8>>, Vec<u8>, End) {
        let mut lines = Vec::new();
        loop {
            match self.line().await {
                Ok(line) if line.is_empty() => {}
                Ok(line) => lines.push(line),
                Err(end) => return (lines, std::mem::take(&mut self.buffer), end),
            }
        }
    }
}

fn id(post: &Value) -> String {
    post["id_str"].as_str().unwrap().to_owned()
}

fn posts(lines: &[Vec<u8>]) -> Vec<Value> {
    let records = lines.iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    records
        .filter(|record| {
            record.get("id_str").is_some_and(Value::is_string) && record.get("user").is_some()
        })
        .collect()
}

/// The row of a post, by the rule of the expected rows.
fn row(post: &Value) -> ExpectedRow {
    let text = post.pointer("/extended_tweet/full_text").unwrap_or(&post["text"]);
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    ExpectedRow {
        user: string(&post["user"]["screen_name"]),
        date: string(&post["created_at"]),
        text: string(text),
        id: id(post),
    }
}

#[tokio::test]
async fn a_reader_gets_every_post_once_and_the_statistics_say_so() {
    let server = FeedServer::start(limited(2_000)).await.unwrap();
    let response = request(&server, &account(1), &[("track", "Amazon,aws cloud")]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()[TRANSFER_ENCODING], "chunked");
    assert_eq!(response.headers()[CONNECTION], "close");
    let mut reader = Reader::new(response);
    let mut rows = Vec::new();
    for _ in 0..2_000 {
        rows.push(row(&reader.post().await.unwrap()));
    }
    let statistics = server.statistics();
    assert_eq!((statistics.connects, statistics.open, statistics.posts_sent), (1, 1, 2_000));
    assert_eq!(statistics.last_user_agent.as_deref(), Some("feed-server-test/1"));
    assert_eq!(statistics.last_track.as_deref(), Some("Amazon,aws cloud"));
    assert!(statistics.notices_sent > 0 && statistics.keep_alives_sent > 0, "{statistics:?}");
    let expected = server.expected_rows();
    assert_eq!(statistics.posts_sent_matching, Some(expected.len() as u64));
    assert!((500..700).contains(&expected.len()));
    let unique: HashSet<&ExpectedRow> = rows.iter().collect();
    assert_eq!(unique.len(), 2_000);
    assert!(expected.iter().all(|row| unique.contains(row)));
    // A table keyed by user and date would lose rows.
    let keys: HashSet<(&str, &str)> =
        expected.iter().map(|row| (row.user.as_str(), row.date.as_str())).collect();
    assert!(keys.len() < expected.len());
    drop(reader);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
}

#[tokio::test]
async fn a_get_with_a_signed_query_opens_a_stream_too() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let account = account(1);
    let request = client().oauth1(secrets(&account)).get(server.url());
    let response = within(request.query(&[("track", "Amazon, é+~%20")]).send()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(server.statistics().last_track.as_deref(), Some("Amazon, é+~%20"));
    assert_eq!(Reader::new(response).ids(10).await.len(), 10);
}

/// Asserts an answer and that it was counted as this refusal.
async fn refused(
    server: &FeedServer,
    response: Response,
    status: u16,
    code: Option<u64>,
    refusal: Refusal,
) {
    assert_eq!(response.status().as_u16(), status, "{refusal:?}");
    let body = within(response.text()).await.unwrap();
    if let Some(code) = code {
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{refusal:?}");
    }
    assert_eq!(server.statistics().refused.get(&refusal), Some(&1), "{refusal:?}");
}

#[tokio::test]
async fn credentials_that_are_not_the_accounts_are_refused() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let other = account(2);
    let track = [("track", "Amazon")];
    let mixed = |change: fn(&mut Account, &Account)| {
        let mut account = account(1);
        change(&mut account, &other);
        account
    };
    for (account, refusal) in [
        (mixed(|a, b| a.consumer_secret.clone_from(&b.consumer_secret)), Refusal::WrongSignature),
        (
            mixed(|a, b| a.access_token_secret.clone_from(&b.access_token_secret)),
            Refusal::WrongSignature,
        ),
        (mixed(|a, b| a.consumer_key.clone_from(&b.consumer_key)), Refusal::UnknownCredentials),
        (mixed(|a, b| a.access_token.clone_from(&b.access_token)), Refusal::UnknownCredentials),
    ] {
        let before = server.statistics().refused.get(&refusal).copied().unwrap_or(0);
        let response = request(&server, &account, &track).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let body: Value = serde_json::from_slice(&within(response.bytes()).await.unwrap()).unwrap();
        assert_eq!(body["errors"][0]["code"], 32);
        assert_eq!(server.statistics().refused[&refusal], before + 1);
    }
    assert_eq!(server.statistics().connects, 0);
    // The account itself is let in, so it was the change that was refused.
    connect(&server, &account(1)).await;
}

#[tokio::test]
async fn a_request_that_was_overheard_or_altered_is_refused() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let account = account(1);
    let form = [("track", "Amazon")];
    let request = client()
        .oauth1(secrets(&account))
        .post(server.url())
        .form(&form)
        .generate_signature()
        .unwrap();
    let request = request.build().unwrap();
    let again = request.try_clone().unwrap();
    let mut altered = request.try_clone().unwrap();
    *altered.body_mut() = Some("track=amazon".into());
    let send = |request| async { within(client().execute(request)).await.unwrap() };
    refused(&server, send(altered).await, 401, Some(32), Refusal::WrongSignature).await;
    assert_eq!(send(request).await.status(), StatusCode::OK);
    refused(&server, send(again).await, 401, Some(32), Refusal::NonceReused).await;
    assert_eq!(server.statistics().connects, 1);
}

#[tokio::test]
async fn a_timestamp_from_another_time_is_refused() {
    for minutes in [6, -6] {
        let now = clock();
        let offset = Duration::from_mins(6);
        let clock: Clock =
            Arc::new(move || if minutes > 0 { now() + offset } else { now() - offset });
        let server = FeedServer::start(Options { clock, ..options() }).await.unwrap();
        let response = request(&server, &account(1), &[("track", "Amazon")]).await;
        refused(&server, response, 401, Some(135), Refusal::StaleTimestamp).await;
    }
}

#[tokio::test]
async fn what_is_no_stream_request_is_refused_as_v1_1_does() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let account = account(1);
    let response = request(&server, &account, &[("delimited", "length")]).await;
    refused(&server, response, 406, None, Refusal::NoFilter).await;
    let response = request(&server, &account, &[("track", &"a".repeat(61))]).await;
    refused(&server, response, 406, None, Refusal::PhraseLength).await;
    let response =
        request(&server, &account, &[("track", &"a,".repeat(400)[..799]), ("track", "")]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let response = request(&server, &account, &[("track", &"a,".repeat(401)[..801])]).await;
    refused(&server, response, 413, None, Refusal::TooLong).await;
    let response = within(client().post(server.url()).body("track=Amazon").send()).await.unwrap();
    refused(&server, response, 400, Some(215), Refusal::Unsigned).await;
    let response =
        within(client().post(server.url()).header(AUTHORIZATION, "OAuth x").send()).await.unwrap();
    refused(&server, response, 401, Some(32), Refusal::Malformed).await;
    let response = within(client().delete(server.url()).send()).await.unwrap();
    assert_eq!(response.headers()["allow"], "GET, POST");
    refused(&server, response, 405, None, Refusal::Method).await;
    let response =
        within(client().get(server.url().replace("filter", "sample")).send()).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_its_streams_are_kept_or_cut_as_asked() {
    let (kept, cut) = (account(1), account(2));
    let server = FeedServer::start(Options {
        accounts: vec![kept.clone(), cut.clone()],
        rate: NonZeroU32::new(500),
        ..options()
    })
    .await
    .unwrap();
    let mut kept_stream = connect(&server, &kept).await;
    let mut cut_stream = connect(&server, &cut).await;
    server.revoke(&kept.access_token, Revocation::KeepOpenStreams);
    server.revoke(&cut.access_token, Revocation::Cut);
    let (lines, left_over, end) = cut_stream.rest().await;
    let last: Value = serde_json::from_slice(lines.last().unwrap()).unwrap();
    assert_eq!(last["disconnect"]["code"], 6);
    assert_eq!((left_over.len(), end), (0, End::Clean));
    kept_stream.ids(100).await;
    let response = request(&server, &kept, &[("track", "Amazon")]).await;
    refused(&server, response, 401, Some(89), Refusal::Revoked).await;
    kept_stream.ids(100).await;
    // A rotation: the same key and token with other secrets.
    let rotated = Account { access_token_secret: account(3).access_token_secret, ..kept.clone() };
    server.accept(rotated.clone());
    let response = request(&server, &kept, &[("track", "Amazon")]).await;
    refused(&server, response, 401, Some(32), Refusal::WrongSignature).await;
    connect(&server, &rotated).await;
}

#[tokio::test]
async fn a_revoked_token_can_be_answered_with_403() {
    let options = Options { revoked: RevokedAnswer::Forbidden, ..options() };
    let server = FeedServer::start(options).await.unwrap();
    server.revoke(&account(1).access_token, Revocation::Cut);
    let response = request(&server, &account(1), &[("track", "Amazon")]).await;
    refused(&server, response, 403, Some(64), Refusal::Forbidden).await;
}

#[tokio::test]
async fn a_second_connection_cuts_the_first_and_no_post_is_lost_or_doubled() {
    for rate in [None, NonZeroU32::new(2_000)] {
        let server = FeedServer::start(Options { rate, ..limited(3_000) }).await.unwrap();
        let account = account(1);
        let mut first = connect(&server, &account).await;
        let mut ids = first.ids(500).await;
        let mut second = connect(&server, &account).await;
        let (lines, left_over, end) = first.rest().await;
        assert_eq!((left_over.len(), end), (0, End::Clean));
        let last: Value = serde_json::from_slice(lines.last().unwrap()).unwrap();
        assert_eq!(last["disconnect"]["code"], 7);
        assert_eq!(last["disconnect"]["reason"], "admin logout");
        ids.extend(posts(&lines).iter().map(id));
        let of_the_first = ids.len();
        ids.extend(second.ids(3_000 - of_the_first).await);
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3_000);
        let statistics = server.statistics();
        assert_eq!((statistics.connects, statistics.open, statistics.cut_oldest), (2, 1, 1));
        assert_eq!(statistics.posts_sent, 3_000);
    }
}

#[tokio::test]
async fn another_token_has_a_stream_of_its_own_and_shares_the_posts() {
    let accounts = vec![account(1), account(2)];
    let server = FeedServer::start(Options {
        accounts: accounts.clone(),
        rate: NonZeroU32::new(1_000),
        ..options()
    })
    .await
    .unwrap();
    let mut first = connect(&server, &accounts[0]).await;
    let mut second = connect(&server, &accounts[1]).await;
    let ids: HashSet<String> =
        first.ids(200).await.into_iter().chain(second.ids(200).await).collect();
    assert_eq!(ids.len(), 400);
    assert_eq!(server.statistics().cut_oldest, 0);
    assert_eq!(server.statistics().open, 2);
}

#[tokio::test]
async fn after_the_limit_only_keep_alives_come() {
    let keep_alive = Duration::from_millis(20);
    let server = FeedServer::start(Options { keep_alive, ..limited(50) }).await.unwrap();
    let mut reader = connect(&server, &account(1)).await;
    reader.ids(50).await;
    for _ in 0..5 {
        assert_eq!(reader.line().await, Ok(Vec::new()));
    }
    assert_eq!(server.statistics().posts_sent, 50);
    assert!(server.statistics().keep_alives_sent >= 5);
}

#[tokio::test]
async fn the_rate_holds() {
    for (rate, count) in [(20, 20_u32), (1_000, 1_000), (8_000, 8_000)] {
        let options = Options { rate: NonZeroU32::new(rate), ..options() };
        let server = FeedServer::start(options).await.unwrap();
        let started = tokio::time::Instant::now();
        let mut reader = connect(&server, &account(1)).await;
        let mut bytes = 0;
        while server.statistics().posts_sent < u64::from(count) {
            bytes += within(reader.response.chunk()).await.unwrap().unwrap().len();
        }
        let measured = f64::from(count) / started.elapsed().as_secs_f64();
        assert!(bytes > 1_000 * count as usize);
        // Never faster. How much slower it seems depends on who else uses the machine: that all of them come is
        // what can be asked.
        assert!(measured <= f64::from(rate) * 1.1, "{rate}: {measured}");
    }
}

#[tokio::test]
async fn the_posts_of_a_live_feed_end_though_one_that_a_stream_was_cut_in_has_passed_by() {
    let rate = NonZeroU32::new(1_000);
    let server = FeedServer::start(Options { rate, live: true, ..options() }).await.unwrap();
    let mut reader = connect(&server, &account(1)).await;
    reader.ids(20).await;
    server.inject(Fault::DropAfter { posts: 0, mid_record: true }, When::Open);
    within(server.wait_until(|feed| feed.open == 0)).await;
    within(async {
        while server.statistics().posts_missed == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within(server.end_posts()).await;
}

#[tokio::test]
async fn what_falls_due_while_nobody_has_a_stream_of_a_live_feed_passes_by() {
    let rate = NonZeroU32::new(1_000);
    let text = |post: Value| post["text"].as_str().unwrap().to_owned();
    for live in [true, false] {
        let server = FeedServer::start(Options { rate, live, ..options() }).await.unwrap();
        // Nobody has missed anything before the first stream.
        let before_the_first = server.statistics().posts_missed;
        let mut first = connect(&server, &account(1)).await;
        first.ids(20).await;
        drop(first);
        within(server.wait_until(|feed| feed.open == 0)).await;
        let missed = |server: &FeedServer| server.statistics().posts_missed;
        if live {
            within(async {
                while missed(&server) < 100 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        let mut second = connect(&server, &account(1)).await;
        let before = server.statistics();
        let next = text(second.post().await.unwrap());
        within(server.end_posts()).await;
        let after = server.statistics();
        assert_eq!(before_the_first, 0);
        assert_eq!(after.posts_missed >= 100, live, "{after:?}");
        if !live {
            assert_eq!(after.posts_missed, 0);
            continue;
        }
        // The same posts as of a feed that waits, a part of them missed.
        let all = FeedServer::start(limited(after.posts_sent + after.posts_missed)).await.unwrap();
        let mut reader = connect(&all, &account(1)).await;
        let mut texts = Vec::new();
        for _ in 0..after.posts_sent + after.posts_missed {
            texts.push(text(reader.post().await.unwrap()));
        }
        let gap = usize::try_from(before.posts_missed).unwrap();
        let at = texts.iter().skip(20 + gap).position(|text| *text == next);
        assert!(at.is_some(), "what comes after the gap is not of the same sequence");
        let matching = [after.posts_sent_matching, after.posts_missed_matching];
        let matching: u64 = matching.into_iter().map(Option::unwrap).sum();
        assert_eq!(Some(matching), all.statistics().posts_sent_matching);
    }
}

#[tokio::test]
async fn what_is_due_of_a_live_feed_when_one_stream_gives_way_to_another_goes_to_that_one() {
    let rate = NonZeroU32::new(10_000);
    let server = FeedServer::start(Options { rate, live: true, ..options() }).await.unwrap();
    let mut first = connect(&server, &account(1)).await;
    first.ids(20).await;
    // From now on the first takes nothing: all that falls due is due at the hand-over.
    server.inject(Fault::Stall, When::Open);
    let mut second = connect(&server, &account(1)).await;
    second.ids(20).await;
    let after = server.statistics();
    assert_eq!((after.cut_oldest, after.posts_missed), (1, 0), "{after:?}");
}

#[tokio::test]
async fn length_delimited_records_have_the_length_that_was_said() {
    let server = FeedServer::start(limited(300)).await.unwrap();
    let response =
        request(&server, &account(1), &[("track", "Amazon"), ("delimited", "length")]).await;
    let mut reader = Reader::new(response);
    let mut read = 0;
    while read < 300 {
        let line = reader.line().await.unwrap();
        if line.is_empty() {
            continue;
        }
        let length: usize = String::from_utf8(line).unwrap().parse().unwrap();
        let record = reader.line().await.unwrap();
        assert_eq!(record.len() + 2, length);
        read += posts(&[record]).len();
    }
}

#[tokio::test]
async fn an_answer_is_injected_once_or_until_cleared() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-rate-limit-reset", HeaderValue::from_static("1539202764"));
    let fault = Fault::Status {
        code: StatusCode::TOO_MANY_REQUESTS,
        headers,
        body_template: "Exceeded connection limit for user".to_owned(),
    };
    server.inject(fault.clone(), When::Next);
    let track = [("track", "Amazon")];
    let response = request(&server, &account(1), &track).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["x-rate-limit-reset"], "1539202764");
    assert_eq!(within(response.text()).await.unwrap(), "Exceeded connection limit for user");
    assert_eq!(request(&server, &account(1), &track).await.status(), StatusCode::OK);
    server.inject(fault, When::Each);
    for _ in 0..3 {
        assert_eq!(
            request(&server, &account(1), &track).await.status(),
            StatusCode::TOO_MANY_REQUESTS
        );
    }
    server.clear_faults();
    assert_eq!(request(&server, &account(1), &track).await.status(), StatusCode::OK);
    assert_eq!(server.statistics().refused[&Refusal::Fault], 4);
}

#[tokio::test]
async fn an_echoing_answer_holds_the_credentials_that_were_sent() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    server.inject(Fault::EchoCredentials, When::Next);
    let account = account(1);
    let response = request(&server, &account, &[("track", "Amazon")]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let body = within(response.text()).await.unwrap();
    assert!(body.contains(&account.consumer_key) && body.contains(&account.access_token));
    assert!(body.contains("oauth_signature="));
    assert!(
        !body.contains(&account.consumer_secret) && !body.contains(&account.access_token_secret)
    );
}

/// A stream that breaks after 20 posts, and the one after it: between them they have every post once.
async fn breaks_after_20(fault: Fault, expected_end: End) -> (Vec<Vec<u8>>, Vec<u8>) {
    let server = FeedServer::start(limited(100)).await.unwrap();
    server.inject(fault, When::Next);
    let mut first = connect(&server, &account(1)).await;
    let (lines, left_over, end) = first.rest().await;
    assert_eq!(end, expected_end);
    assert_eq!(posts(&lines).len(), 20);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
    assert_eq!(server.statistics().posts_sent, 20);
    let mut second = connect(&server, &account(1)).await;
    let mut ids = second.ids(80).await;
    ids.extend(posts(&lines).iter().map(id));
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(server.statistics().posts_sent, 100);
    (lines, left_over)
}

#[tokio::test]
async fn a_drop_is_an_error_and_what_was_sent_before_it_arrives() {
    let (_, left_over) =
        breaks_after_20(Fault::DropAfter { posts: 20, mid_record: false }, End::Error).await;
    assert!(left_over.is_empty());
}

#[tokio::test]
async fn a_drop_within_a_record_leaves_half_of_it_and_the_post_goes_to_the_next_connection() {
    let (_, left_over) =
        breaks_after_20(Fault::DropAfter { posts: 20, mid_record: true }, End::Error).await;
    assert!(left_over.len() > 500 && left_over.starts_with(b"{"));
    assert!(serde_json::from_slice::<Value>(&left_over).is_err());
}

#[tokio::test]
async fn an_end_is_clean() {
    let (_, left_over) = breaks_after_20(Fault::EndAfter { posts: 20 }, End::Clean).await;
    assert!(left_over.is_empty());
}

#[tokio::test]
async fn a_drop_of_a_stream_that_was_to_send_nothing_comes_after_the_head() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    server.inject(Fault::DropAfter { posts: 0, mid_record: false }, When::Next);
    let (lines, left_over, end) = connect(&server, &account(1)).await.rest().await;
    assert_eq!((lines.len(), left_over.len(), end), (0, 0, End::Error));
}

#[tokio::test]
async fn an_open_stream_stalls_until_the_faults_are_cleared() {
    let keep_alive = Duration::from_millis(5);
    let options = Options { keep_alive, rate: NonZeroU32::new(1_000), ..options() };
    let server = FeedServer::start(options).await.unwrap();
    let mut reader = connect(&server, &account(1)).await;
    reader.ids(10).await;
    server.inject(Fault::Stall, When::Open);
    let stalled = server.statistics();
    // What was on its way still comes; then nothing, where forty keep-alives and 200 posts would have come.
    let silence = async {
        while tokio::time::timeout(Duration::from_millis(200), reader.line()).await.is_ok() {}
    };
    within(silence).await;
    assert_eq!(server.statistics().posts_sent, stalled.posts_sent);
    assert_eq!(server.statistics().open, 1);
    server.clear_faults();
    reader.ids(10).await;
}

#[tokio::test]
async fn a_stalled_stream_gives_way_to_a_new_one() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    server.inject(Fault::Stall, When::Next);
    let mut first = connect(&server, &account(1)).await;
    let mut second = connect(&server, &account(1)).await;
    assert_eq!(first.rest().await.2, End::Clean);
    second.ids(10).await;
}

#[tokio::test]
async fn garbage_is_no_post_and_posts_go_on_behind_it() {
    let server = FeedServer::start(limited(30)).await.unwrap();
    server.inject(Fault::Garbage { lines: 8 }, When::Next);
    let mut reader = connect(&server, &account(1)).await;
    for _ in 0..8 {
        let line = reader.line().await.unwrap();
        assert!(!line.is_empty() && posts(&[line]).is_empty());
    }
    reader.ids(30).await;
    assert_eq!(server.statistics().posts_sent, 30);
}

#[tokio::test]
async fn an_over_long_record_has_its_length_and_posts_go_on_behind_it() {
    let server = FeedServer::start(limited(30)).await.unwrap();
    server.inject(Fault::OverLongRecord { bytes: 3_000_000 }, When::Next);
    let mut reader = connect(&server, &account(1)).await;
    // Looking for the line's end from the start for each chunk would take long.
    let mut record = Vec::new();
    while !record.windows(2).rev().take(200_000).any(|bytes| bytes == b"\r\n") {
        record.extend_from_slice(&within(reader.response.chunk()).await.unwrap().unwrap());
    }
    let end = record.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
    assert_eq!(end, 3_000_000);
    reader.buffer = record.split_off(end + 2);
    reader.ids(30).await;
}

#[tokio::test]
async fn slow_bytes_come_one_by_one_and_a_cut_finishes_the_record() {
    let server = FeedServer::start(limited(30)).await.unwrap();
    server.inject(Fault::SlowBytes { every: Duration::from_millis(1) }, When::Next);
    let mut first = connect(&server, &account(1)).await;
    let started = tokio::time::Instant::now();
    let mut read = 0;
    while read < 50 {
        let chunk = within(first.response.chunk()).await.unwrap().unwrap();
        read += chunk.len();
        first.buffer.extend_from_slice(&chunk);
    }
    assert!(started.elapsed() >= Duration::from_millis(45));
    assert_eq!(server.statistics().posts_sent, 0);
    let mut second = connect(&server, &account(1)).await;
    let (lines, left_over, end) = first.rest().await;
    assert_eq!((left_over.len(), end), (0, End::Clean));
    let mut ids: BTreeSet<String> = posts(&lines).iter().map(id).collect();
    let of_the_first = ids.len();
    assert!((1..30).contains(&of_the_first));
    ids.extend(second.ids(30 - of_the_first).await);
    assert_eq!(ids.len(), 30);
}

#[tokio::test]
async fn a_post_begun_for_a_reader_that_left_goes_to_the_next() {
    let server = FeedServer::start(limited(5)).await.unwrap();
    server.inject(Fault::SlowBytes { every: Duration::from_millis(1) }, When::Next);
    let mut first = connect(&server, &account(1)).await;
    assert!(within(first.response.chunk()).await.unwrap().is_some());
    drop(first);
    within(server.wait_until(|statistics| statistics.open == 0)).await;
    assert_eq!(server.statistics().posts_sent, 0);
    connect(&server, &account(1)).await.ids(5).await;
}

#[tokio::test]
async fn a_disconnect_message_is_the_last_record() {
    let options = Options { rate: NonZeroU32::new(1_000), ..options() };
    let server = FeedServer::start(options).await.unwrap();
    let mut reader = connect(&server, &account(1)).await;
    reader.ids(10).await;
    server.inject(Fault::Disconnect { code: 12, reason: "load \"shed\"".to_owned() }, When::Open);
    let (lines, _, end) = reader.rest().await;
    assert_eq!(end, End::Clean);
    let last: Value = serde_json::from_slice(lines.last().unwrap()).unwrap();
    assert_eq!(last["disconnect"]["code"], 12);
    assert_eq!(last["disconnect"]["reason"], "load \"shed\"");
    assert!(last["disconnect"]["stream_name"].is_string());
}

#[tokio::test]
async fn a_recording_is_replayed_byte_for_byte_and_then_kept_alive() {
    let content = b"{\"id\":1,\"user\":{},\"text\":\"\\u00e9\\/\"}\r\n{\"limit\":{\"track\":1}}\r\n{\"id\":2,\"user\":{}}\n";
    let source = Source::Replay(Recording::parse(content).unwrap());
    let keep_alive = Duration::from_millis(10);
    let options = Options { keep_alive, ..Options::new(vec![account(1)], source, clock()) };
    let server = FeedServer::start(options).await.unwrap();
    let mut reader = connect(&server, &account(1)).await;
    assert_eq!(reader.line().await.unwrap(), b"{\"id\":1,\"user\":{},\"text\":\"\\u00e9\\/\"}");
    assert_eq!(reader.line().await.unwrap(), b"{\"limit\":{\"track\":1}}");
    assert_eq!(reader.line().await.unwrap(), b"{\"id\":2,\"user\":{}}");
    assert_eq!(reader.line().await.unwrap(), b"");
    let statistics = server.statistics();
    assert_eq!((statistics.posts_sent, statistics.notices_sent), (2, 1));
    assert_eq!(statistics.posts_sent_matching, None);
    assert_eq!(server.expected_rows(), []);
    assert!(Recording::read(Path::new("no such file")).is_err());
}

#[tokio::test]
async fn a_dropped_server_cuts_its_streams_and_frees_its_port() {
    let server = FeedServer::start(limited(10)).await.unwrap();
    let url = server.url();
    let mut reader = connect(&server, &account(1)).await;
    reader.ids(10).await;
    drop(server);
    assert_eq!(reader.rest().await.2, End::Error);
    let gone = async {
        while client().get(&url).send().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}

#[tokio::test]
async fn a_track_the_oracle_cannot_judge_is_refused_at_start() {
    let source = Source::Generated { seed: 1, track: "two words".to_owned(), matching: 0.5 };
    assert!(FeedServer::start(Options::new(Vec::new(), source, clock())).await.is_err());
}

#[tokio::test]
async fn behind_a_tls_front_signatures_are_made_for_https() {
    let account = account(1);
    for scheme in [Scheme::Http, Scheme::Https] {
        let server = FeedServer::start(Options { scheme, ..limited(10) }).await.unwrap();
        for signed_for in [Scheme::Http, Scheme::Https] {
            let url = match signed_for {
                Scheme::Http => server.url(),
                Scheme::Https => server.url().replace("http://", "https://"),
            };
            let signed = client().oauth1(secrets(&account)).post(url).form(&[("track", "Amazon")]);
            let mut request = signed.generate_signature().unwrap().build().unwrap();
            *request.url_mut() = server.url().parse().unwrap();
            let status = within(client().execute(request)).await.unwrap().status();
            assert_eq!(status == StatusCode::OK, scheme == signed_for);
        }
        assert_eq!(server.statistics().refused[&Refusal::WrongSignature], 1);
    }
}
