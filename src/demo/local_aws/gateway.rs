//! The HTTP front: one call from the wire to the service and back.
//!
//! Which service and operation -> who signed it -> faults -> the service, which asks IAM -> AWS's shape -> the audit.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::watch;

use super::api_error::ApiError;
use super::audit::{Audit, Record};
use super::authentication::SignedCall;
use super::connection::ResetHandle;
use super::dynamodb::DynamoDb;
use super::faults::{Effect, Faults};
use super::iam::{Iam, Principal, Question};
use super::keys::Keys;
use super::secrets::SecretsManager;
use super::sqs::Sqs;
use super::task_endpoints::TaskEndpoints;
use super::{Service, identifiers, sts};
use crate::demo::Clock;

/// A body may be this long. The longest that is sent here is an item of 400 KB; of SQS, events of some hundred bytes.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;

/// Everything that the front needs, shared by all calls.
pub(super) struct Gateway {
    pub(super) account_id: String,
    pub(super) region: String,
    pub(super) clock: Clock,
    pub(super) iam: Iam,
    pub(super) keys: Keys,
    pub(super) secrets: SecretsManager,
    pub(super) dynamodb: DynamoDb,
    pub(super) sqs: Arc<Sqs>,
    pub(super) task_endpoints: TaskEndpoints,
    pub(super) faults: Faults,
    pub(super) audit: Audit,
    /// Ends with the [`LocalAws`](super::LocalAws), and with it the calls that hang.
    pub(super) closing: watch::Receiver<()>,
}

/// Who calls a service, and when.
pub(super) struct Caller<'a> {
    pub(super) principal: &'a Principal,
    pub(super) iam: &'a Iam,
    pub(super) now: SystemTime,
    /// The VPC endpoint that the call came through.
    pub(super) source_vpce: Option<&'a str>,
}

impl Caller<'_> {
    pub(super) fn authorize(&self, question: Question<'_>) -> Result<(), ApiError> {
        self.iam.authorize(self.principal, question, self.source_vpce, self.now)
    }
}

/// What a service answers, and what of it the audit is to know.
pub(super) struct Answer {
    pub(super) result: Result<String, ApiError>,
    pub(super) access: Access,
    /// One for each secret of a batch, which `CloudTrail` records too.
    pub(super) of_batch: Vec<Access>,
}

/// What was touched.
#[derive(Default)]
pub(super) struct Access {
    pub(super) event_name: Option<&'static str>,
    pub(super) resource: Option<String>,
    pub(super) version_id: Option<String>,
    pub(super) version_stage: Option<String>,
    pub(super) error_code: Option<String>,
}

/// The whole local AWS as a web application, behind a VPC endpoint or not.
pub(super) fn application(gateway: Arc<Gateway>, source_vpce: Option<&str>) -> Router {
    let source_vpce = source_vpce.map(Arc::from);
    Router::new().fallback(answer).with_state(Front { gateway, source_vpce })
}

/// A way in.
#[derive(Clone)]
struct Front {
    gateway: Arc<Gateway>,
    source_vpce: Option<Arc<str>>,
}

async fn answer(
    State(Front { gateway, source_vpce }): State<Front>,
    ConnectInfo(connection): ConnectInfo<ResetHandle>,
    request: Request,
) -> Response<Body> {
    let request_id = identifiers::uuid();
    let (parts, body) = request.into_parts();
    let mut response = match parts.method {
        Method::GET => gateway.answer_get(&parts, &connection, &request_id).await,
        Method::POST if parts.uri.path() == "/" => match to_bytes(body, BODY_LIMIT_BYTES).await {
            Ok(body) => {
                let call = Call { headers: &parts.headers, source_vpce: source_vpce.as_deref() };
                gateway.answer_call(&call, &body, &connection, &request_id).await
            }
            Err(_) => {
                ApiError::new(413, "RequestEntityTooLargeException", "The request is too long.")
                    .response(Target::of(&parts.headers, b"").service(), &request_id)
            }
        },
        _ => no_such_page(),
    };
    let headers = response.headers_mut();
    if let Ok(request_id) = HeaderValue::from_str(&request_id) {
        headers.insert("x-amzn-requestid", request_id);
    }
    // SDKs correct their clock by this, so it has to be the clock that signatures are checked by.
    let now = chrono::DateTime::<chrono::Utc>::from((gateway.clock)());
    if let Ok(date) = HeaderValue::from_str(&now.format("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
        headers.insert(header::DATE, date);
    }
    response
}

/// What a POST asks for.
enum Target {
    Call { service: Service, operation: String },
    Unknown,
}

impl Target {
    fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (service, operation) = match text("x-amz-target").map(|target| target.split_once('.')) {
            Some(Some(("secretsmanager", operation))) => {
                (Service::SecretsManager, operation.to_owned())
            }
            Some(Some(("DynamoDB_20120810", operation))) => {
                (Service::DynamoDb, operation.to_owned())
            }
            Some(Some(("AmazonSQS", operation))) => (Service::Sqs, operation.to_owned()),
            Some(_) => return Self::Unknown,
            None => {
                let form = text("content-type")
                    .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
                match sts::operation(body).filter(|_| form) {
                    Some(operation) => (Service::Sts, operation),
                    None => return Self::Unknown,
                }
            }
        };
        // It goes into policies' actions and error messages: no wildcards, no line ends.
        if operation.is_empty()
            || operation.len() > 64
            || !operation.chars().all(|c| c.is_ascii_alphanumeric())
        {
            return Self::Unknown;
        }
        Self::Call { service, operation }
    }

    fn service(&self) -> Option<Service> {
        match self {
            Self::Call { service, .. } => Some(*service),
            Self::Unknown => None,
        }
    }
}

/// A POST, but for its body.
struct Call<'a> {
    headers: &'a HeaderMap,
    source_vpce: Option<&'a str>,
}

impl Gateway {
    async fn answer_call(
        &self,
        call: &Call<'_>,
        body: &Bytes,
        connection: &ResetHandle,
        request_id: &str,
    ) -> Response<Body> {
        let Call { headers, source_vpce } = *call;
        let Target::Call { service, operation } = Target::of(headers, body) else {
            return ApiError::unknown_operation().response(None, request_id);
        };
        let now = (self.clock)();
        let signed = SignedCall { service, region: &self.region, headers, body };
        let (principal, answer) = match signed.principal(&self.keys, &self.iam, now) {
            Err(error) => (None, Answer::refused(error)),
            Ok(principal) => {
                let struck = self.struck(service, &operation, connection).await;
                let now = (self.clock)();
                let caller = Caller { principal: &principal, iam: &self.iam, now, source_vpce };
                let answer = match struck {
                    Some(error) => Answer::refused(error),
                    None => self.dispatch(service, &operation, body, &caller, request_id).await,
                };
                (Some(principal), answer)
            }
        };
        let error_code = answer.result.as_ref().err().map(|error| error.code.as_str());
        if service == Service::DynamoDb {
            let table = answer.access.resource.as_deref().unwrap_or("-");
            self.audit.count(table, &operation, error_code);
        } else {
            let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
            let record = |access: Access, error_code: Option<String>| Record {
                time: now,
                principal_arn: principal.as_ref().map(|principal| principal.arn.clone()),
                event_source: service.event_source(),
                event_name: access.event_name.map_or_else(|| operation.clone(), str::to_owned),
                resource: access.resource,
                version_id: access.version_id,
                version_stage: access.version_stage,
                error_code,
                user_agent: user_agent.map(str::to_owned),
                request_id: request_id.to_owned(),
            };
            let error_code = error_code.map(str::to_owned);
            self.audit.record(record(answer.access, error_code));
            for mut access in answer.of_batch {
                let error_code = access.error_code.take();
                self.audit.record(record(access, error_code));
            }
        }
        match answer.result {
            Ok(body) => {
                let mut response = Response::new(Body::from(body));
                let content_type = HeaderValue::from_static(service.content_type());
                response.headers_mut().insert(header::CONTENT_TYPE, content_type);
                response
            }
            Err(error) => error.response(Some(service), request_id),
        }
    }

    async fn dispatch(
        &self,
        service: Service,
        operation: &str,
        body: &[u8],
        caller: &Caller<'_>,
        request_id: &str,
    ) -> Answer {
        match service {
            Service::SecretsManager => self.secrets.call(operation, body, caller),
            Service::DynamoDb => self.dynamodb.call(operation, body, caller),
            Service::Sqs => {
                let mut closing = self.closing.clone();
                tokio::select! {
                    answer = self.sqs.call(operation, body, caller) => answer,
                    // No poll outlives the local AWS.
                    _ = closing.changed() => Answer::refused(ApiError::new(503, "ServiceUnavailable", "")),
                }
            }
            Service::Sts => Answer {
                result: sts::call(operation, body, caller.principal, &self.account_id, request_id),
                access: Access::default(),
                of_batch: Vec::new(),
            },
            Service::TaskCredentials => Answer::refused(ApiError::unknown_operation()),
        }
    }

    async fn answer_get(
        &self,
        parts: &Parts,
        connection: &ResetHandle,
        request_id: &str,
    ) -> Response<Body> {
        let service = Service::TaskCredentials;
        let path = parts.uri.path();
        let is_credentials = path.contains("/credentials/");
        if is_credentials
            && let Some(error) = self.struck(service, "GetCredentials", connection).await
        {
            return error.response(None, request_id);
        }
        let text = |name: header::HeaderName| {
            parts.headers.get(name).and_then(|value| value.to_str().ok())
        };
        let now = (self.clock)();
        let authorization = text(header::AUTHORIZATION);
        let answer = self.task_endpoints.answer(path, authorization, &self.keys, &self.iam, now);
        let Some(answer) = answer else {
            return no_such_page();
        };
        if is_credentials {
            self.audit.record(Record {
                time: now,
                principal_arn: None,
                event_source: service.event_source(),
                event_name: "GetCredentials".to_owned(),
                resource: answer.role_arn,
                version_id: None,
                version_stage: None,
                error_code: (answer.status != 200).then(|| answer.status.to_string()),
                user_agent: text(header::USER_AGENT).map(str::to_owned),
                request_id: request_id.to_owned(),
            });
        }
        let mut response = Response::new(Body::from(answer.body.to_string()));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }

    /// What an injected fault makes of a call: an error, or nothing more, after a while.
    async fn struck(
        &self,
        service: Service,
        operation: &str,
        connection: &ResetHandle,
    ) -> Option<ApiError> {
        let (effect, mut cleared) = self.faults.strike(service, operation)?;
        match effect {
            Effect::Error { status, code, message } => Some(ApiError::new(status, code, message)),
            Effect::Delay(delay) => {
                tokio::time::sleep(delay).await;
                None
            }
            Effect::Hang => {
                let mut closing = self.closing.clone();
                tokio::select! {
                    _ = cleared.changed() => {}
                    _ = closing.changed() => {}
                }
                None
            }
            Effect::Reset => {
                connection.reset();
                // It will not arrive.
                Some(ApiError::new(500, "InternalFailure", ""))
            }
            Effect::LoseAnswer => {
                connection.reset();
                None
            }
        }
    }
}

impl Answer {
    fn refused(error: ApiError) -> Self {
        Self { result: Err(error), access: Access::default(), of_batch: Vec::new() }
    }
}

fn no_such_page() -> Response<Body> {
    let mut response = Response::new(Body::from("<UnknownOperationException/>\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
