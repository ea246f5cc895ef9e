//! An error of the API, and the four shapes in which AWS puts one on the wire.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::Service;

/// What a caller gets instead of an answer: AWS's error code, its message and the HTTP status.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// A body already in the service's own shape, with what `message` has no room for.
    pub(super) body: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), body: None }
    }

    /// An error of the caller's, by the JSON services' rule that all of those are 400.
    pub(super) fn caller(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// The operation does not exist, or not here.
    pub(super) fn unknown_operation() -> Self {
        Self::caller("UnknownOperationException", "")
    }

    /// The body is no JSON, or a member has another type than the service's model says.
    ///
    /// Without the parser's words: they quote the body, which may hold a secret.
    pub(super) fn serialization() -> Self {
        Self::caller("SerializationException", "")
    }

    /// The HTTP answer, in the shape that `service`'s protocol gives it.
    pub(super) fn response(self, service: Option<Service>, request_id: &str) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = HeaderValue::from_str(&self.code).ok();
        let (content_type, body) = match service {
            Some(Service::Sts) => ("text/xml", self.xml(request_id)),
            Some(Service::DynamoDb) => {
                let namespace = dynamodb_namespace(&self.code);
                ("application/x-amz-json-1.0", self.json(namespace))
            }
            Some(Service::Sqs) => return self.query_compatible(status),
            Some(Service::SecretsManager | Service::TaskCredentials) | None => {
                ("application/x-amz-json-1.1", self.json(""))
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let (Some(code), false) = (code, service == Some(Service::Sts)) {
            headers.insert("x-amzn-errortype", code);
        }
        response
    }

    /// SQS's shape: the code of its old query protocol in a header, which SDKs prefer, and its JSON name in the body.
    fn query_compatible(self, status: StatusCode) -> Response<Body> {
        let fault = if self.status >= 500 { "Receiver" } else { "Sender" };
        // SQS's front spells it as the other services do; SQS itself, as in its documentation's example, does not.
        let member = if self.code == "AccessDenied" { "Message" } else { "message" };
        let body = json!({ "__type": sqs_type(&self.code), member: self.message });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(Service::Sqs.content_type());
        headers.insert(header::CONTENT_TYPE, content_type);
        if let Ok(code) = HeaderValue::from_str(&format!("{};{fault}", self.code)) {
            headers.insert("x-amzn-query-error", code);
        }
        response
    }

    fn json(self, namespace: &str) -> String {
        if let Some(body) = self.body {
            return body;
        }
        let mut body = json!({ "__type": format!("{namespace}{}", self.code) });
        if let (Some(members), false) = (body.as_object_mut(), self.message.is_empty()) {
            // The spelling differs between a service's own errors and the front's; SDKs read either.
            let member = if is_of_the_front(&self.code) { "message" } else { "Message" };
            members.insert(member.to_owned(), self.message.into());
        }
        body.to_string()
    }

    fn xml(&self, request_id: &str) -> String {
        let fault = if self.status >= 500 { "Receiver" } else { "Sender" };
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{fault}</Type>\
             <Code>{}</Code><Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
            escape_xml(&self.code),
            escape_xml(&self.message),
        )
    }
}

/// Text as it stands between XML tags.
pub(super) fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn is_of_the_front(code: &str) -> bool {
    matches!(
        code,
        "ExpiredTokenException"
            | "IncompleteSignatureException"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "UnrecognizedClientException"
            | "ValidationException"
    )
}

/// `DynamoDB` names the model that an error comes from before its code.
fn dynamodb_namespace(code: &str) -> &'static str {
    match code {
        "AccessDeniedException"
        | "ExpiredTokenException"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "MissingAuthenticationTokenException"
        | "RequestEntityTooLargeException"
        | "SerializationException"
        | "UnknownOperationException"
        | "UnrecognizedClientException" => "com.amazon.coral.service#",
        "ThrottlingException" => "com.amazon.coral.availability#",
        "ValidationException" => "com.amazon.coral.validate#",
        _ => "com.amazonaws.dynamodb.v20120810#",
    }
}

/// What SQS's JSON calls the error that its query protocol has this code for.
fn sqs_type(code: &str) -> String {
    let of_the_front = match code {
        "AccessDenied" => "AccessDeniedException",
        "ExpiredToken" => "ExpiredTokenException",
        "IncompleteSignature" => "IncompleteSignatureException",
        "InvalidClientTokenId" => "UnrecognizedClientException",
        "InvalidParameterValue" => "InvalidParameterValueException",
        "MissingAuthenticationToken" => "MissingAuthenticationTokenException",
        "MissingParameter" => "MissingRequiredParameterException",
        "SignatureDoesNotMatch" => "InvalidSignatureException",
        "RequestEntityTooLargeException"
        | "SerializationException"
        | "UnknownOperationException" => code,
        "AWS.SimpleQueueService.NonExistentQueue" => {
            return "com.amazonaws.sqs#QueueDoesNotExist".to_owned();
        }
        _ => {
            let name = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
            return format!("com.amazonaws.sqs#{name}");
        }
    };
    format!("com.amazon.coral.service#{of_the_front}")
}
