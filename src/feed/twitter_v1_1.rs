//! The dialect `twitter-v1.1`: `POST statuses/filter`, signed with OAuth 1.0a.
//!
//! One stream for each user: opening another cuts the oldest one. So a stream of their own is what
//! proves new credentials, and the one before is read to its end.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::back_off::Class;
use super::body::accept_gzip;
use super::connection::Client;
use super::dialect::{Failure, Held, Refusal, Wire};
use super::head::Head;
use super::message::Message;
use super::oauth1;
use super::session::Session;
use crate::clock::Clock;
use crate::wipe;

/// Three keep-alives of 30 s (X, "Connecting to a streaming endpoint").
const STALL: Duration = Duration::from_secs(90);

/// The endpoint, and what is asked of it.
pub struct TwitterV1_1 {
    client: Client,
    url: Url,
    track: String,
    clock: Clock,
}

impl TwitterV1_1 {
    /// A stream of posts that match the track phrases.
    #[must_use]
    pub fn new(client: Client, url: Url, track: &str, clock: Clock) -> Self {
        Self { client, url, track: track.to_owned(), clock }
    }

    async fn connect(&self, session: &Session) -> Result<Response, Failure> {
        let form = [("track", self.track.as_str())];
        let generation = session.generation();
        let signed = || oauth1::signed_form(&self.client.requests, &self.url, &form, generation);
        let mut request = wipe::stack_of(signed).map_err(|error| Failure::Stop(error.into()))?;
        accept_gzip(&mut request);
        let response = self.client.send(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let refusal = Refusal::read(response, &self.url, session, (self.clock)()).await;
        Err(match refusal.status.as_u16() {
            401 => refusal.wait(Class::Http, true, "the credentials were refused"),
            403 => refusal.wait(Class::Http, true, "access is forbidden for these credentials"),
            406 => refusal.stop("it takes no such FILTER"),
            413 | 416 => refusal.stop("FILTER is too long for it"),
            _ => refusal.usual(),
        })
    }
}

impl Wire for TwitterV1_1 {
    fn url(&self) -> &Url {
        &self.url
    }

    fn stall(&self) -> Duration {
        STALL
    }

    fn free_at(&self, wanted: Instant) -> Instant {
        wanted
    }

    fn open(self: Arc<Self>, session: Arc<Session>) -> Held<Result<Response, Failure>> {
        Box::pin(async move { self.connect(&session).await })
    }

    fn prove(self: Arc<Self>, _: Arc<Session>) -> Option<Held<Result<(), Failure>>> {
        None
    }

    fn head<'a>(&self, record: &'a [u8]) -> Option<Head<'a>> {
        Head::of(record)
    }

    fn read<'a>(&self, record: &'a [u8]) -> Message<'a> {
        Message::parse(record)
    }
}
