//! The live page of the side-by-side demo: who may read it, who may act on it, and that it shows no secret.

use std::sync::Arc;

use reqwest::header::{CONTENT_SECURITY_POLICY, HOST, ORIGIN};
use reqwest::{Method, Response, StatusCode};
use twitterstream::demo::side_by_side::page::{Page, TOKEN_HEADER};
use twitterstream::demo::side_by_side::{Action, Pair};
use twitterstream::demo::world::Model;

use crate::feed_server::{client, within};
use crate::side_by_side::{pair, until};
use crate::support::holding;

const PATHS: [&str; 5] = ["", "page.js", "page.css", "icon.svg", "snapshot"];

async fn page() -> (Arc<Pair>, Page) {
    let pair = Arc::new(pair().await);
    let page = Page::start(Arc::clone(&pair)).await.unwrap();
    (pair, page)
}

async fn answer(page: &Page, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = client().request(method, page.url() + path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    within(request.send()).await.unwrap()
}

async fn read(page: &Page, path: &str) -> String {
    let answer = answer(page, Method::GET, path, &[]).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    within(answer.text()).await.unwrap()
}

async fn token(page: &Page) -> String {
    let index = read(page, "").await;
    let (_, rest) = index.split_once(r#"name="demo-token" content=""#).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_for_its_own_host_and_an_action_for_who_has_its_token() {
    let (pair, page) = page().await;
    let own = page.url().replace("http://", "").replace('/', "");
    let port = own.rsplit(':').next().unwrap();
    let localhost = format!("localhost:{port}");
    for host in ["example.org", "127.0.0.1", &format!("example.org:{port}"), ""] {
        for path in PATHS.into_iter().chain(["action/rotate"]) {
            let refused = answer(&page, Method::GET, path, &[(HOST.as_str(), host)]).await;
            assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
            let text = within(refused.text()).await.unwrap();
            assert!(!text.contains("demo-token") && !text.contains("keys_in_use"), "{text}");
        }
    }
    let found = answer(&page, Method::GET, "", &[(HOST.as_str(), &localhost)]).await;
    assert_eq!(found.status(), StatusCode::OK);

    let token = token(&page).await;
    assert_eq!(token.len(), 64);
    let (own_origin, other_origin) = (format!("http://{own}"), "http://example.org");
    for headers in [
        vec![],
        vec![(TOKEN_HEADER, "")],
        vec![(TOKEN_HEADER, &token[1..])],
        vec![(TOKEN_HEADER, &*token), (ORIGIN.as_str(), other_origin)],
        vec![(TOKEN_HEADER, &*token), (ORIGIN.as_str(), "null")],
    ] {
        let refused = answer(&page, Method::POST, "action/rotate", &headers).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{headers:?}");
    }
    let headers = [(TOKEN_HEADER, &*token), (ORIGIN.as_str(), &*own_origin)];
    let read_only = answer(&page, Method::GET, "action/rotate", &headers).await;
    assert_eq!(read_only.status(), StatusCode::METHOD_NOT_ALLOWED);
    let unknown = answer(&page, Method::POST, "action/format-disk", &headers).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(pair.snapshot(0).embedded.keys_newest, 1);

    let done = answer(&page, Method::POST, "action/rotate", &headers).await;
    assert_eq!(done.status(), StatusCode::ACCEPTED);
    until(&pair, Model::Embedded, |side| side.keys_newest == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_holds_a_secret_or_lets_a_script_of_others_run() {
    let (pair, page) = page().await;
    pair.act(Action::Rotate);
    until(&pair, Model::Embedded, |side| side.keys_in_use == Some(2)).await;
    let secrets = pair.secrets();
    assert_eq!(secrets.len(), 2 * 2 * 4);
    for path in PATHS.into_iter().chain(["snapshot?from=3", "nothing", "action/rotate"]) {
        let answer = answer(&page, Method::GET, path, &[]).await;
        let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        let mut shown: Vec<_> =
            answer.headers().values().map(|value| format!("{value:?}")).collect();
        shown.push(within(answer.text()).await.unwrap());
        let shown: Vec<_> = shown.iter().map(String::as_str).collect();
        assert_eq!(holding(&shown, &secrets), [""; 0], "{path}");
    }
    // There is something to be read there.
    assert!(read(&page, "snapshot").await.contains("\"keys_in_use\":2"));

    // What the policy forbids is not tried either.
    let index = read(&page, "").await;
    for inline in
        ["<style", " style=", " onclick=", "<script>", "javascript:", "http://", "https://"]
    {
        assert!(!index.contains(inline), "{inline}");
    }
    assert!(!read(&page, "page.js").await.contains("innerHTML"));
    assert!(!read(&page, "page.css").await.contains("url("));
}
