//! The shortcut to a rotation: Secrets Manager's native event "Secret Label Updated", which an
//! EventBridge rule puts into an SQS queue ([its shape][event]).
//!
//! It is a shortcut and no guarantee: tasks that share a queue compete for its messages, and a
//! message may be lost. Polling is the guarantee, and goes on whatever happens here.
//!
//! [event]: https://docs.aws.amazon.com/secretsmanager/latest/userguide/secret-event-notifications.html

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::Message;
use aws_sdk_sqs::{Client, config};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Reference;
use super::rotation::Reason;
use crate::aws::Answer;
use crate::counts::Counts;
use crate::retry::Jitter;
use crate::telemetry::Seldom;

/// How long SQS holds a poll open, in seconds: its own limit.
const LONG_POLL: i32 = 20;

/// How many messages one poll may bring: SQS's own limit.
const MOST: i32 = 10;

/// The first wait, and the longest, after a poll that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Listens to the queue, and asks for a look at every event of a secret that is used here. It ends
/// when nobody looks any more.
pub async fn listen(
    sdk: SdkConfig,
    queue_url: String,
    references: Vec<Reference>,
    triggers: mpsc::UnboundedSender<Reason>,
    counts: Arc<Counts>,
) {
    // A long poll is longer than any other call may be.
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(30))
        .build();
    let client = Client::from_conf(config::Builder::from(&sdk).timeout_config(timeouts).build());
    let mut waits = Jitter::new(RETRY.0, RETRY.1);
    let mut trouble: Option<String> = None;
    let mut foreign_said = Seldom::default();
    while !triggers.is_closed() {
        let poll = client
            .receive_message()
            .queue_url(&queue_url)
            .wait_time_seconds(LONG_POLL)
            .max_number_of_messages(MOST);
        match poll.send().await {
            Ok(answer) => {
                if trouble.take().is_some() {
                    tracing::info!("the queue of rotation events answers again");
                }
                waits = Jitter::new(RETRY.0, RETRY.1);
                let messages = answer.messages.unwrap_or_default();
                let mut ours = false;
                for message in &messages {
                    let known = references.iter().any(|reference| is_about(message, reference));
                    ours |= known;
                    if known {
                        counts.rotation_events.increment();
                    } else {
                        counts.rotation_events_foreign.increment();
                        if let Some(kept_back) = foreign_said.due() {
                            tracing::warn!(
                                kept_back,
                                "a message of the queue is no event of a secret used here; it is deleted"
                            );
                        }
                    }
                }
                // First look, then tidy up.
                if ours && triggers.send(Reason::Event).is_err() {
                    return;
                }
                for message in messages {
                    delete(&client, &queue_url, message).await;
                }
            }
            Err(error) => {
                let answer = Answer::of(&error);
                if trouble.as_ref() != Some(&answer.code) {
                    tracing::error!(
                        error = %answer,
                        "the queue of rotation events cannot be read, polling goes on; compare \
                         ROTATION_QUEUE_URL, and the sqs grants of the task role",
                    );
                    trouble = Some(answer.code);
                }
                sleep(waits.next_wait()).await;
            }
        }
    }
}

async fn delete(client: &Client, queue_url: &str, message: Message) {
    let deleted = client
        .delete_message()
        .queue_url(queue_url)
        .set_receipt_handle(message.receipt_handle)
        .send()
        .await;
    if let Err(error) = deleted {
        // It comes again, and costs one more look.
        let error = Answer::of(&error);
        tracing::debug!(%error, "a message of the queue was not deleted");
    }
}

/// The part of the event that matters here.
#[derive(Deserialize)]
struct Event {
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    #[serde(default)]
    resources: Vec<String>,
    detail: Detail,
}

#[derive(Deserialize)]
struct Detail {
    name: String,
}

fn is_about(message: &Message, reference: &Reference) -> bool {
    let body = message.body.as_deref().unwrap_or_default();
    let Ok(event) = serde_json::from_str::<Event>(body) else { return false };
    let secret_id = reference.secret_id();
    // An ARN may lack the six characters that Secrets Manager adds to the name.
    let is_named = |arn: &String| {
        arn.strip_prefix(secret_id).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    event.source == "aws.secretsmanager"
        && event.detail_type == "Secret Label Updated"
        && (event.detail.name == secret_id || event.resources.iter().any(is_named))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:us-west-2:123456789012:secret:CONSUMERKEY-a1B2c3";

    fn about(body: &str, reference: &str) -> bool {
        let message = Message::builder().body(body).build();
        is_about(&message, &reference.parse().unwrap())
    }

    #[test]
    fn an_event_is_known_by_name_and_by_full_and_partial_arn() {
        let event = format!(
            r#"{{"source":"aws.secretsmanager","detail-type":"Secret Label Updated","resources":["{ARN}"],
                "detail":{{"name":"CONSUMERKEY","labelUpdated":"AWSCURRENT","versionId":"v"}}}}"#,
        );
        let partial = ARN.strip_suffix("-a1B2c3").unwrap();
        for reference in ["CONSUMERKEY", ARN, partial, &format!("{ARN}:key::")] {
            assert!(about(&event, reference), "{reference}");
        }
        for reference in ["CONSUMER", "ACCESSTOKEN", &partial[..partial.len() - 1]] {
            assert!(!about(&event, reference), "{reference}");
        }
    }

    #[test]
    fn anything_else_is_foreign_and_not_fatal() {
        for body in [
            "",
            "not json",
            "{}",
            r#"{"source":"aws.s3","detail-type":"Secret Label Updated","detail":{"name":"CONSUMERKEY"}}"#,
            r#"{"source":"aws.secretsmanager","detail-type":"Other","detail":{"name":"CONSUMERKEY"}}"#,
            r#"{"source":"aws.secretsmanager","detail-type":"Secret Label Updated","detail":{}}"#,
        ] {
            assert!(!about(body, "CONSUMERKEY"), "{body}");
        }
    }
}
