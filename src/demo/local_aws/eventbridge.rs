//! `EventBridge`: the rules that deliver Secrets Manager's own event, "Secret Label Updated", to queues.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::json;

use super::identifiers;
use super::secrets::LabelUpdate;
use super::sqs::Sqs;

pub(super) struct EventBridge {
    account_id: String,
    region: String,
    sqs: Arc<Sqs>,
    /// The queues that a rule delivers the event to, by name.
    targets: Mutex<BTreeSet<String>>,
}

impl EventBridge {
    pub(super) fn new(account_id: &str, region: &str, sqs: Arc<Sqs>) -> Self {
        Self {
            account_id: account_id.to_owned(),
            region: region.to_owned(),
            sqs,
            targets: Mutex::default(),
        }
    }

    /// Makes a rule that delivers the event of every secret to this queue.
    pub(super) fn put_rule(&self, queue_name: &str) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.insert(queue_name.to_owned());
    }

    /// Delivers the event before it returns, so that a test need not wait for what it has caused.
    pub(super) fn secret_label_updated(&self, update: &LabelUpdate, now: SystemTime) {
        // https://docs.aws.amazon.com/secretsmanager/latest/userguide/event-detail-secret-label-updated-secretsmanager.html
        let time = chrono::DateTime::<chrono::Utc>::from(now);
        let event = json!({
            "version": "0",
            "id": identifiers::uuid(),
            "detail-type": "Secret Label Updated",
            "source": "aws.secretsmanager",
            "account": self.account_id,
            "time": time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "region": self.region,
            "resources": [update.secret_arn],
            "detail": {
                "name": update.name,
                "labelUpdated": update.label,
                "versionId": update.version_id,
            },
        });
        let event = event.to_string();
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        for queue_name in targets.iter() {
            // AWS drops in the end, too, what has nowhere to go.
            let _ = self.sqs.send(queue_name, event.clone());
        }
    }
}
