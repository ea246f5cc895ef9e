//! The record of API calls, as `CloudTrail` keeps it: who asked what of which resource, and how it ended.
//!
//! No record holds a value. `DynamoDB`'s calls, which come by the thousand, are only counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

/// How many records are kept; the oldest go first.
const KEPT: usize = 65_536;

/// One API call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was answered.
    pub time: SystemTime,
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION` or the user's ARN; none where the caller was not recognised.
    pub principal_arn: Option<String>,
    /// As in `CloudTrail`: `secretsmanager.amazonaws.com`, `sqs.amazonaws.com`, `sts.amazonaws.com`, and `ecs-credentials` for the task's
    /// credentials endpoint, which `CloudTrail` does not see.
    pub event_source: &'static str,
    /// The operation, such as `GetSecretValue`.
    pub event_name: String,
    /// The ARN of the secret or queue, or what the caller called the secret where there is no such one.
    pub resource: Option<String>,
    /// The version that was answered or made.
    pub version_id: Option<String>,
    /// The staging label that the caller named.
    pub version_stage: Option<String>,
    /// AWS's error code; none for a call that succeeded.
    pub error_code: Option<String>,
    /// The caller's User-Agent header.
    pub user_agent: Option<String>,
    /// The `x-amzn-requestid` of the answer.
    pub request_id: String,
}

/// What came in for one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableCalls {
    /// Calls that succeeded, by operation.
    pub ok: BTreeMap<String, u64>,
    /// Calls that failed, by AWS's error code.
    pub failed: BTreeMap<String, u64>,
}

pub(super) struct Audit {
    records: Mutex<VecDeque<Record>>,
    tables: Mutex<BTreeMap<String, TableCalls>>,
    changed: watch::Sender<()>,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self {
            records: Mutex::default(),
            tables: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn record(&self, record: Record) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == KEPT {
            records.pop_front();
        }
        records.push_back(record);
        drop(records);
        self.changed.send_replace(());
    }

    pub(super) fn count(&self, table: &str, operation: &str, error_code: Option<&str>) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if !tables.contains_key(table) {
            tables.insert(table.to_owned(), TableCalls::default());
        }
        if let Some(calls) = tables.get_mut(table) {
            let (counts, key) = match error_code {
                None => (&mut calls.ok, operation),
                Some(code) => (&mut calls.failed, code),
            };
            if let Some(count) = counts.get_mut(key) {
                *count += 1;
            } else {
                counts.insert(key.to_owned(), 1);
            }
        }
    }

    pub(super) fn records(&self) -> Vec<Record> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().cloned().collect()
    }

    pub(super) fn tables(&self) -> BTreeMap<String, TableCalls> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes with every record.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
