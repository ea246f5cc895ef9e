//! `DynamoDB`: the engine of `dynoxide` behind the same authentication and IAM as everything else here.

use std::collections::HashMap;

use dynoxide::actions::create_table::CreateTableRequest;
use dynoxide::actions::delete_item::DeleteItemRequest;
use dynoxide::actions::delete_table::DeleteTableRequest;
use dynoxide::actions::describe_table::DescribeTableRequest;
use dynoxide::actions::get_item::GetItemRequest;
use dynoxide::actions::list_tables::ListTablesRequest;
use dynoxide::actions::put_item::PutItemRequest;
use dynoxide::actions::query::QueryRequest;
use dynoxide::actions::scan::ScanRequest;
use dynoxide::actions::update_item::UpdateItemRequest;
use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Error;
use super::api_error::ApiError;
use super::gateway::{Access, Answer, Caller};
use super::iam::Question;

/// What `dynoxide` puts before a table's name in its ARNs.
const ENGINE_ARN_PREFIX: &str = "arn:aws:dynamodb:dynoxide:000000000000:";

pub(super) struct DynamoDb {
    database: Database,
    arn_prefix: String,
}

/// What a request is about: a table, or an index of one; none for what knows no tables.
type Target<'a> = Option<(&'a str, Option<&'a str>)>;

impl DynamoDb {
    pub(super) fn new(account_id: &str, region: &str) -> Result<Self, Error> {
        Ok(Self {
            database: Database::memory().map_err(|error| Error::Table(error.to_string()))?,
            arn_prefix: format!("arn:aws:dynamodb:{region}:{account_id}:"),
        })
    }

    /// Answers one authenticated call, on this thread. A put is short, and the engine has one lock: handing it to a
    /// blocking thread took the same CPU time and gave no more puts a second.
    pub(super) fn call(&self, operation: &str, body: &[u8], caller: &Caller<'_>) -> Answer {
        let mut access = Access::default();
        let result = self.answer(operation, body, caller, &mut access);
        Answer { result, access, of_batch: Vec::new() }
    }

    fn answer(
        &self,
        operation: &str,
        body: &[u8],
        caller: &Caller<'_>,
        access: &mut Access,
    ) -> Result<String, ApiError> {
        let call = Call { operation, body, caller, access, arn_prefix: &self.arn_prefix };
        let db = &self.database;
        match operation {
            "PutItem" => {
                call.run(|r: &PutItemRequest| Some((&r.table_name, None)), |r| db.put_item(r))
            }
            "GetItem" => {
                call.run(|r: &GetItemRequest| Some((&r.table_name, None)), |r| db.get_item(r))
            }
            "DeleteItem" => {
                call.run(|r: &DeleteItemRequest| Some((&r.table_name, None)), |r| db.delete_item(r))
            }
            "UpdateItem" => {
                call.run(|r: &UpdateItemRequest| Some((&r.table_name, None)), |r| db.update_item(r))
            }
            "Query" => call.run(
                |r: &QueryRequest| Some((&r.table_name, r.index_name.as_deref())),
                |r| db.query(r),
            ),
            "Scan" => call.run(
                |r: &ScanRequest| Some((&r.table_name, r.index_name.as_deref())),
                |r| db.scan(r),
            ),
            "CreateTable" => {
                self.with_our_arns(call.run(
                    |r: &CreateTableRequest| Some((&r.table_name, None)),
                    |r| db.create_table(r),
                ))
            }
            "DeleteTable" => {
                self.with_our_arns(call.run(
                    |r: &DeleteTableRequest| Some((&r.table_name, None)),
                    |r| db.delete_table(r),
                ))
            }
            "DescribeTable" => self.with_our_arns(call.run(
                |r: &DescribeTableRequest| Some((&r.table_name, None)),
                |r| db.describe_table(r),
            )),
            "ListTables" => call.run(|_: &ListTablesRequest| None, |r| db.list_tables(r)),
            _ => {
                // What is not here is refused to whom IAM would refuse it, and unknown to the rest.
                call.authorize(None)?;
                Err(ApiError::unknown_operation())
            }
        }
    }

    /// Makes a table as the worker expects it: `user` HASH, `date` RANGE, both strings, on demand.
    pub(super) fn create_table(&self, name: &str) -> Result<(), Error> {
        let request = json!({
            "TableName": name,
            "AttributeDefinitions": [
                { "AttributeName": "user", "AttributeType": "S" },
                { "AttributeName": "date", "AttributeType": "S" },
            ],
            "KeySchema": [
                { "AttributeName": "user", "KeyType": "HASH" },
                { "AttributeName": "date", "KeyType": "RANGE" },
            ],
            "BillingMode": "PAY_PER_REQUEST",
        });
        let request: CreateTableRequest =
            serde_json::from_value(request).map_err(|error| Error::Table(error.to_string()))?;
        self.database.create_table(request).map_err(|error| Error::Table(error.to_string()))?;
        Ok(())
    }

    pub(super) fn item_count(&self, table: &str) -> Result<u64, Error> {
        let tables =
            self.database.table_stats().map_err(|error| Error::Table(error.to_string()))?;
        let found = tables.iter().find(|stats| stats.table_name == table);
        let count = found.ok_or_else(|| Error::Table(format!("no table {table}")))?.item_count;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    pub(super) fn items(&self, table: &str, limit: usize) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let mut after = None;
        while items.len() < limit {
            let page = self
                .database
                .scan(ScanRequest {
                    table_name: table.to_owned(),
                    limit: Some(limit - items.len()),
                    exclusive_start_key: after,
                    ..ScanRequest::default()
                })
                .map_err(|error| Error::Table(error.to_string()))?;
            for item in page.items.iter().flatten() {
                items.push(
                    serde_json::to_value(item).map_err(|error| Error::Table(error.to_string()))?,
                );
            }
            match page.last_evaluated_key {
                Some(key) => after = Some(key),
                None => break,
            }
        }
        Ok(items)
    }

    fn with_our_arns(&self, result: Result<String, ApiError>) -> Result<String, ApiError> {
        result.map(|body| body.replace(ENGINE_ARN_PREFIX, &self.arn_prefix))
    }
}

struct Call<'a> {
    operation: &'a str,
    body: &'a [u8],
    caller: &'a Caller<'a>,
    access: &'a mut Access,
    arn_prefix: &'a str,
}

impl Call<'_> {
    fn run<Request: DeserializeOwned, Response: Serialize>(
        self,
        target: impl FnOnce(&Request) -> Target<'_>,
        run: impl FnOnce(Request) -> dynoxide::Result<Response>,
    ) -> Result<String, ApiError> {
        let request = serde_json::from_slice(self.body)
            .map_err(|error| refused_as_read(&error, self.operation))?;
        let target = target(&request);
        self.access.resource = target.map(|(table, _)| table.to_owned());
        self.authorize(target)?;
        let response = run(request).map_err(|error| refused(&error, self.operation))?;
        serde_json::to_string(&response)
            .map_err(|_| ApiError::new(500, "InternalServerError", "The answer cannot be written."))
    }

    fn authorize(&self, target: Target<'_>) -> Result<(), ApiError> {
        let prefix = self.arn_prefix;
        let resource = match target {
            None => "*".to_owned(),
            Some((table, None)) => format!("{prefix}table/{table}"),
            Some((table, Some(index))) => format!("{prefix}table/{table}/index/{index}"),
        };
        self.caller.authorize(Question {
            action: &format!("dynamodb:{}", self.operation),
            resource: &resource,
            context: HashMap::new(),
            resource_policy: None,
        })
    }
}

fn refused(error: &DynoxideError, operation: &str) -> ApiError {
    let (_, code) = error.error_type().rsplit_once('#').unwrap_or_default();
    // The engine leaves this envelope to who puts it on the wire.
    let enveloped = matches!(error, DynoxideError::EnvelopedValidation(_));
    if enveloped && matches!(operation, "DeleteItem" | "PutItem" | "UpdateItem") {
        return ApiError::caller(code, format!("1 validation error detected: {error}"));
    }
    ApiError {
        status: error.status_code(),
        code: code.to_owned(),
        message: error.to_string(),
        body: Some(error.to_json()),
    }
}

/// The engine's request types mark what kind of refusal a failed parse is by a word before the message.
fn refused_as_read(error: &serde_json::Error, operation: &str) -> ApiError {
    let message = error.to_string();
    let message = message.rfind(" at line ").and_then(|end| message.get(..end)).unwrap_or(&message);
    if let Some(message) = message.strip_prefix("VALIDATION_REQUEST:") {
        return refused(&DynoxideError::EnvelopedValidation(message.to_owned()), operation);
    }
    if let Some(message) = message.strip_prefix("VALIDATION:") {
        return ApiError::caller("ValidationException", message);
    }
    if message.contains("AttributeValue") {
        return ApiError::caller(
            "ValidationException",
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
        );
    }
    ApiError::serialization()
}
