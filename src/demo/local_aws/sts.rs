//! The one call of STS that a task makes: who am I?

use super::api_error::{ApiError, escape_xml};
use super::iam::Principal;

/// The `Action` of a form body, if there is one.
pub(super) fn operation(body: &[u8]) -> Option<String> {
    url::form_urlencoded::parse(body)
        .find(|(name, _)| name == "Action")
        .map(|(_, action)| action.into_owned())
}

/// Answers in XML, as the query protocol does.
pub(super) fn call(
    operation: &str,
    body: &[u8],
    principal: &Principal,
    account_id: &str,
    request_id: &str,
) -> Result<String, ApiError> {
    match operation {
        // AWS lets everybody ask this, even against an explicit deny.
        "GetCallerIdentity" => Ok(format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
             <Arn>{}</Arn><UserId>{}</UserId><Account>{account_id}</Account></GetCallerIdentityResult>\
             <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
            escape_xml(&principal.arn),
            escape_xml(&principal.user_id),
        )),
        // The roles here trust ecs-tasks alone, so nobody who can call may assume one, not even the administrator.
        "AssumeRole" => {
            let role = url::form_urlencoded::parse(body)
                .find(|(name, _)| name == "RoleArn")
                .map(|(_, arn)| arn.into_owned())
                .unwrap_or_default();
            Err(ApiError::new(
                403,
                "AccessDenied",
                format!(
                    "User: {} is not authorized to perform: sts:AssumeRole on resource: {role}",
                    principal.arn
                ),
            ))
        }
        _ => Err(ApiError::caller(
            "InvalidAction",
            "Could not find operation for version 2011-06-15",
        )),
    }
}
