//! What the feed says of a peer's notices: never in the peer's name, never without end, and no live value.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::simulation::{GOOD, LIMITS, Scripted, Simulated, VALUE};
use crate::telemetry::{LogFormat, PEER_TEXT, subscriber};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn simulated() -> Simulated {
    Simulated::new(&Scripted::new(false, [GOOD]), LIMITS)
}

/// The lines that a feed logs of these records.
fn said_of(records: &[&str]) -> Vec<String> {
    let (mut simulated, log) = (simulated(), Log::default());
    let writer = log.clone();
    let subscriber = subscriber(LogFormat::Json, "info", move || writer.clone());
    tracing::subscriber::with_default(subscriber, || {
        for record in records {
            assert!(simulated.feed.post(record.as_bytes()).is_none(), "{record}");
        }
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    log.lines().map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn no_word_of_a_peer_is_the_message_of_an_event() {
    let forged = "rotated: a new set of credentials is in use";
    let records = [
        format!(r#"{{"warning":{{"code":"{forged}","message":"{forged}","percent_full":60}}}}"#),
        format!(r#"{{"disconnect":{{"code":4,"reason":"{forged}"}}}}"#),
        format!(
            r#"{{"errors":[{{"title":"{forged}","disconnect_type":"{forged}","detail":"{forged}"}}]}}"#
        ),
    ];
    let lines = said_of(&records.each_ref().map(String::as_str));
    assert_eq!(lines.len(), records.len(), "{lines:?}");
    for line in lines {
        // A reader of JSON may take the first of two keys or the last.
        assert_eq!(line.matches(r#""message":"#).count(), 1, "{line}");
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_ne!(event["message"], forged);
        assert!(line.matches(forged).count() > 0, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_repeats_is_said_ten_times_at_once_whatever_it_says() {
    for record in [
        r#"{"warning":{"code":"FALLING_BEHIND","message":"m"}}"#,
        r#"{"limit":{"track":1}}"#,
        r#"{"disconnect":{"code":4,"reason":"stall"}}"#,
        r#"{"errors":[{"title":"t","disconnect_type":"UpstreamOperationalDisconnect"}]}"#,
    ] {
        assert_eq!(said_of(&vec![record; 1_000]).len(), 10, "{record}");
    }
}

#[tokio::test(start_paused = true)]
async fn warnings_do_not_keep_back_what_is_said_of_an_end() {
    let mut records = vec![r#"{"warning":{"code":"c","message":"m"}}"#; 1_000];
    records.push(r#"{"disconnect":{"code":4,"reason":"stall"}}"#);
    let lines = said_of(&records);
    assert_eq!(lines.len(), 11);
    assert!(lines[10].contains("the feed is about to disconnect"), "{}", lines[10]);
}

#[tokio::test]
async fn a_value_of_the_offered_set_is_cut_out_before_a_peers_text_is_bounded() {
    let offered = "OFFERED-aB3xaB3xaB3xaB3xaB3xaB3xaB3xaB3xaB3x";
    let mut simulated = simulated();
    simulated.offer_value("2", offered);
    simulated.feed.offered();
    let feed = &simulated.feed;
    assert_eq!(feed.quoted(&format!("{VALUE} {offered}\n")), "[redacted] [redacted]\\n");
    // The bound is in the middle of it.
    for before in PEER_TEXT - offered.len()..PEER_TEXT {
        let quoted = feed.quoted(&format!("{}{offered} and more", "x".repeat(before)));
        assert!(!quoted.contains("OFFERED"), "{quoted}");
        assert!(quoted.chars().count() <= PEER_TEXT + 1, "{quoted}");
    }
}
