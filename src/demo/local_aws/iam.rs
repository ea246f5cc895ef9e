//! Roles, the administrator, and whether a policy allows what a caller asks.
//!
//! `AWSim` keeps and validates the roles and evaluates the policies. Its own engine stays out of the way, because it
//! takes a caller that it does not know for an administrator; here who is not known has no identity to evaluate.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use awsim_core::{
    AwsError, ContextValue, PrincipalLookup, RequestContext, ResolvedPrincipal, ServiceHandler,
};
use awsim_iam::IamService;
use awsim_iam::authz::IamPrincipalLookup;
use awsim_iam_policy::{
    AuthzRequest, Decision, EvalContext, PolicyDocument, Principal as Trusted, evaluate,
};
use serde_json::{Value, json};

use super::Error;
use super::api_error::ApiError;

/// The condition keys that a request carries here. AWS gives a request more; a policy that asks for one of those would
/// be judged wrongly, so it is refused when it is put. Keys of other services (`kms:ViaService`) are absent on AWS too.
const GLOBAL_KEYS: [&str; 9] = [
    "aws:CurrentTime",
    "aws:EpochTime",
    "aws:PrincipalAccount",
    "aws:PrincipalArn",
    "aws:PrincipalType",
    "aws:RequestedRegion",
    "aws:SecureTransport",
    "aws:SourceIp",
    // Of a call that comes through a VPC endpoint; absent otherwise, as on AWS.
    "aws:SourceVpce",
];
const SERVICE_KEYS: [&str; 4] = [
    "secretsmanager:Name",
    "secretsmanager:SecretId",
    "secretsmanager:VersionId",
    "secretsmanager:VersionStage",
];
const TAG_KEYS: [&str; 2] = ["aws:ResourceTag/", "secretsmanager:ResourceTag/"];
/// The service that begins a task's sessions.
const ECS: &str = "ecs-tasks.amazonaws.com";
const JUDGED_PREFIXES: [&str; 5] = ["aws:", "dynamodb:", "secretsmanager:", "sqs:", "sts:"];

/// A user or role as its policies stand now.
pub(super) struct Identity {
    /// `AROA...` or `AIDA...`. A role made anew under an old name has another one.
    pub(super) unique_id: String,
    policies: ResolvedPrincipal,
    /// What a role's trust policy says about ECS; empty for a user.
    trust_of_ecs: PolicyDocument,
}

/// Who calls, once the signature is verified.
#[derive(Clone)]
pub(super) struct Principal {
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`, or the user's ARN.
    pub(super) arn: String,
    /// `AROA...:SESSION`, or the user's id.
    pub(super) user_id: String,
    pub(super) identity: Arc<Identity>,
}

/// What IAM is asked: one action on one resource, with the condition keys that the service adds.
pub(super) struct Question<'a> {
    pub(super) action: &'a str,
    /// An ARN; `*` for an action that knows no resources.
    pub(super) resource: &'a str,
    pub(super) context: HashMap<String, ContextValue>,
    /// The policy of the resource itself.
    pub(super) resource_policy: Option<&'a PolicyDocument>,
}

pub(super) struct Iam {
    service: IamService,
    lookup: IamPrincipalLookup,
    account_id: String,
    region: String,
    /// By ARN. Parsed once per change, not once per request: `PutItem` asks thousands of times a second.
    identities: RwLock<HashMap<String, Arc<Identity>>>,
}

impl Iam {
    pub(super) fn new(account_id: &str, region: &str) -> Self {
        let service = IamService::new();
        let lookup = IamPrincipalLookup::new(service.store());
        Self {
            service,
            lookup,
            account_id: account_id.to_owned(),
            region: region.to_owned(),
            identities: RwLock::default(),
        }
    }

    pub(super) fn role_arn(&self, role_name: &str) -> String {
        format!("arn:aws:iam::{}:role/{role_name}", self.account_id)
    }

    /// Makes the administrator: a user who may do anything. Returns its ARN, access key id and secret access key.
    pub(super) async fn create_administrator(&self) -> Result<(String, String, String), Error> {
        let name = "administrator";
        let user = self.handle("CreateUser", json!({ "UserName": name })).await?;
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }],
        });
        let document = policy.to_string();
        self.handle(
            "PutUserPolicy",
            json!({ "UserName": name, "PolicyName": "AdministratorAccess", "PolicyDocument": document }),
        )
        .await?;
        let key = self.handle("CreateAccessKey", json!({ "UserName": name })).await?;
        let arn = text(&user, "/User/Arn")?;
        self.refresh(&arn, text(&user, "/User/UserId")?, nobody());
        Ok((arn, text(&key, "/AccessKey/AccessKeyId")?, text(&key, "/AccessKey/SecretAccessKey")?))
    }

    /// Makes the role, or makes an existing one exactly this. Returns its ARN.
    pub(super) async fn put_role(
        &self,
        name: &str,
        trust: &Value,
        inline_policies: &[(&str, Value)],
    ) -> Result<String, Error> {
        for (_, policy) in inline_policies {
            refuse_what_is_judged_wrongly(policy)?;
        }
        let trust = trust.to_string();
        let created = self
            .handle("CreateRole", json!({ "RoleName": name, "AssumeRolePolicyDocument": trust }))
            .await;
        match created {
            Ok(_) => {}
            Err(Error::Iam { code, .. }) if code == "EntityAlreadyExists" => {
                self.handle(
                    "UpdateAssumeRolePolicy",
                    json!({ "RoleName": name, "PolicyDocument": trust }),
                )
                .await?;
                self.delete_inline_policies(name).await?;
            }
            Err(error) => return Err(error),
        }
        for (policy_name, policy) in inline_policies {
            self.put_inline_policy(name, policy_name, policy).await?;
        }
        self.refresh_role(name).await
    }

    /// Puts one inline policy of a role, and leaves its others.
    pub(super) async fn put_role_policy(
        &self,
        role_name: &str,
        name: &str,
        policy: &Value,
    ) -> Result<(), Error> {
        refuse_what_is_judged_wrongly(policy)?;
        self.put_inline_policy(role_name, name, policy).await?;
        self.refresh_role(role_name).await.map(drop)
    }

    /// Deletes a role with its policies. Its sessions are worth nothing from then on.
    pub(super) async fn delete_role(&self, name: &str) -> Result<(), Error> {
        self.delete_inline_policies(name).await?;
        self.handle("DeleteRole", json!({ "RoleName": name })).await?;
        let mut identities = self.identities.write().unwrap_or_else(PoisonError::into_inner);
        identities.remove(&self.role_arn(name));
        Ok(())
    }

    /// The user or role of this ARN, if there is one.
    pub(super) fn identity(&self, arn: &str) -> Option<Arc<Identity>> {
        let identities = self.identities.read().unwrap_or_else(PoisonError::into_inner);
        identities.get(arn).cloned()
    }

    /// Whether the role's trust policy lets ECS begin a session of it for this task. The evaluator knows no service
    /// principals, so what it is asked about is the statements for ECS alone.
    pub(super) fn ecs_may_assume(&self, role: &Identity, task_arn: &str) -> bool {
        let context = HashMap::from([
            ("aws:SourceAccount".to_owned(), ContextValue::String(self.account_id.clone())),
            ("aws:SourceArn".to_owned(), ContextValue::String(task_arn.to_owned())),
        ]);
        let request = AuthzRequest {
            principal_arn: ECS,
            principal_account: &self.account_id,
            action: "sts:AssumeRole",
            resource_arn: &role.policies.arn,
            context: &context,
        };
        let policies = EvalContext {
            identity_policies: std::slice::from_ref(&role.trust_of_ecs),
            permissions_boundary: None,
            resource_policy: None,
            scps: &[],
            session_policy: None,
        };
        evaluate(&request, &policies) == Decision::Allow
    }

    /// Whether the caller's identity policies and the resource's own allow this. There are no permission boundaries and
    /// service control policies here. `source_vpce` is the VPC endpoint that the call came through.
    pub(super) fn authorize(
        &self,
        principal: &Principal,
        question: Question<'_>,
        source_vpce: Option<&str>,
        now: SystemTime,
    ) -> Result<(), ApiError> {
        let Question { action, resource, mut context, resource_policy } = question;
        let now = chrono::DateTime::<chrono::Utc>::from(now);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        let epoch = now.timestamp() as f64;
        let caller_type =
            if principal.arn.contains(":assumed-role/") { "AssumedRole" } else { "User" };
        context.extend([
            ("aws:CurrentTime".to_owned(), ContextValue::Date(now)),
            ("aws:EpochTime".to_owned(), ContextValue::Number(epoch)),
            ("aws:PrincipalAccount".to_owned(), ContextValue::String(self.account_id.clone())),
            // Of a session this is the role's ARN, not the session's.
            (
                "aws:PrincipalArn".to_owned(),
                ContextValue::String(principal.identity.policies.arn.clone()),
            ),
            ("aws:PrincipalType".to_owned(), ContextValue::String(caller_type.to_owned())),
            ("aws:RequestedRegion".to_owned(), ContextValue::String(self.region.clone())),
            ("aws:SecureTransport".to_owned(), ContextValue::Bool(false)),
            ("aws:SourceIp".to_owned(), ContextValue::Ip("127.0.0.1".to_owned())),
        ]);
        let endpoint = source_vpce.map(|id| ContextValue::String(id.to_owned()));
        context.extend(endpoint.map(|id| ("aws:SourceVpce".to_owned(), id)));
        let request = AuthzRequest {
            principal_arn: &principal.identity.policies.arn,
            principal_account: &self.account_id,
            action,
            resource_arn: resource,
            context: &context,
        };
        let decided = |resource_policy| {
            let policies = EvalContext {
                identity_policies: &principal.identity.policies.identity_policies,
                permissions_boundary: None,
                resource_policy,
                scps: &[],
                session_policy: None,
            };
            evaluate(&request, &policies)
        };
        let because = match decided(resource_policy) {
            Decision::Allow => return Ok(()),
            Decision::ImplicitDeny => {
                format!("because no identity-based policy allows the {action} action")
            }
            Decision::ExplicitDeny if decided(None) == Decision::ExplicitDeny => {
                "with an explicit deny in an identity-based policy".to_owned()
            }
            Decision::ExplicitDeny => "with an explicit deny in a resource-based policy".to_owned(),
        };
        let on = if resource == "*" { String::new() } else { format!("on resource: {resource} ") };
        Err(ApiError::caller(
            "AccessDeniedException",
            format!("User: {} is not authorized to perform: {action} {on}{because}", principal.arn),
        ))
    }

    async fn put_inline_policy(
        &self,
        role_name: &str,
        name: &str,
        policy: &Value,
    ) -> Result<(), Error> {
        let document = policy.to_string();
        self.handle(
            "PutRolePolicy",
            json!({ "RoleName": role_name, "PolicyName": name, "PolicyDocument": document }),
        )
        .await
        .map(drop)
    }

    async fn delete_inline_policies(&self, role_name: &str) -> Result<(), Error> {
        let listed = self.handle("ListRolePolicies", json!({ "RoleName": role_name })).await?;
        let names = listed.pointer("/PolicyNames/member").and_then(Value::as_array);
        for name in names.into_iter().flatten() {
            self.handle("DeleteRolePolicy", json!({ "RoleName": role_name, "PolicyName": name }))
                .await?;
        }
        Ok(())
    }

    async fn refresh_role(&self, name: &str) -> Result<String, Error> {
        let role = self.handle("GetRole", json!({ "RoleName": name })).await?;
        let arn = text(&role, "/Role/Arn")?;
        let trust = role.pointer("/Role/AssumeRolePolicyDocument");
        let trust = match trust.and_then(Value::as_str) {
            Some(document) => statements_for_ecs(document)?,
            None => nobody(),
        };
        self.refresh(&arn, text(&role, "/Role/RoleId")?, trust);
        Ok(arn)
    }

    fn refresh(&self, arn: &str, unique_id: String, trust_of_ecs: PolicyDocument) {
        let mut identities = self.identities.write().unwrap_or_else(PoisonError::into_inner);
        match self.lookup.resolve_arn(arn) {
            Some(policies) => identities
                .insert(arn.to_owned(), Arc::new(Identity { unique_id, policies, trust_of_ecs })),
            None => identities.remove(arn),
        };
    }

    async fn handle(&self, operation: &str, input: Value) -> Result<Value, Error> {
        let context = RequestContext {
            account_id: self.account_id.clone(),
            region: self.region.clone(),
            service: "iam".to_owned(),
            ..RequestContext::default()
        };
        self.service
            .handle(operation, input, &context)
            .await
            .map_err(|AwsError { code, message, .. }| Error::Iam { code, message })
    }
}

fn text(value: &Value, pointer: &str) -> Result<String, Error> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| Error::Iam {
        code: "ServiceFailure".to_owned(),
        message: format!("no {pointer} in the answer"),
    })
}

fn nobody() -> PolicyDocument {
    PolicyDocument { version: None, id: None, statements: Vec::new() }
}

/// The statements of a trust policy that speak of ECS, as if they spoke of whom they are evaluated for.
fn statements_for_ecs(trust: &str) -> Result<PolicyDocument, Error> {
    let mut document =
        awsim_iam_policy::parse(trust).map_err(|error| Error::Policy(error.to_string()))?;
    document.statements.retain_mut(|statement| match statement.principal.take() {
        Some(Trusted::Service(services) | Trusted::Mixed { service: services, .. }) => {
            services.iter().any(|service| service == ECS)
        }
        Some(Trusted::Wildcard) => true,
        _ => false,
    });
    Ok(document)
}

/// A resource's policy.
pub(super) fn resource_policy(policy: &Value) -> Result<PolicyDocument, Error> {
    refuse_what_is_judged_wrongly(policy)
}

fn refuse_what_is_judged_wrongly(policy: &Value) -> Result<PolicyDocument, Error> {
    let document: PolicyDocument = awsim_iam_policy::parse(&policy.to_string())
        .map_err(|error| Error::Policy(error.to_string()))?;
    for variable in ["${aws:userid}", "${aws:username}"] {
        // The evaluator puts the role's name in their place, which AWS does not.
        if policy.to_string().contains(variable) {
            return Err(Error::Policy(format!("policy variable {variable} is not supplied here")));
        }
    }
    for statement in &document.statements {
        // The evaluator takes a statement without a resource for one about every resource; AWS refuses it.
        if statement.resource.is_none() && statement.not_resource.is_none() {
            return Err(Error::Policy("a statement names no Resource".to_owned()));
        }
        let conditions = statement.condition.iter().flat_map(|block| &block.conditions);
        for key in conditions.map(|condition| condition.key.as_str()) {
            let judged = JUDGED_PREFIXES.iter().any(|prefix| {
                key.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
            });
            let known = GLOBAL_KEYS.contains(&key)
                || SERVICE_KEYS.contains(&key)
                || TAG_KEYS.iter().any(|prefix| key.starts_with(prefix));
            if judged && !known {
                return Err(Error::Policy(format!(
                    "condition key {key} is not supplied here (keys are compared with their case)"
                )));
            }
        }
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> Value {
        json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" }] })
    }

    fn principal(iam: &Iam, arn: &str) -> Principal {
        let identity = iam.identity(arn).expect("the role exists");
        Principal {
            arn: "arn:aws:sts::123456789012:assumed-role/r/task".to_owned(),
            user_id: "AROA:task".to_owned(),
            identity,
        }
    }

    fn ask(iam: &Iam, arn: &str, action: &str, resource: &str) -> Result<(), String> {
        let context = HashMap::new();
        let question = Question { action, resource, context, resource_policy: None };
        iam.authorize(&principal(iam, arn), question, None, SystemTime::UNIX_EPOCH)
            .map_err(|error| error.message)
    }

    #[tokio::test]
    async fn a_replaced_policy_takes_the_old_grant_away() {
        let iam = Iam::new("123456789012", "us-west-2");
        let allow = |action: &str| json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": action, "Resource": "*" }] });
        let arn = iam.put_role("r", &trust(), &[("p", allow("dynamodb:PutItem"))]).await.unwrap();
        ask(&iam, &arn, "dynamodb:PutItem", "arn:t").unwrap();
        iam.put_role("r", &trust(), &[("q", allow("dynamodb:GetItem"))]).await.unwrap();
        let denied = ask(&iam, &arn, "dynamodb:PutItem", "arn:t").unwrap_err();
        assert_eq!(
            denied,
            "User: arn:aws:sts::123456789012:assumed-role/r/task is not authorized to perform: dynamodb:PutItem \
             on resource: arn:t because no identity-based policy allows the dynamodb:PutItem action"
        );
    }

    #[tokio::test]
    async fn ecs_assumes_a_role_only_if_its_trust_policy_says_so() {
        let iam = Iam::new("123456789012", "us-west-2");
        let trust = |principal: Value, condition: Value| {
            json!({ "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", "Condition": condition }] })
        };
        let ecs = || json!({ "Service": ["ecs-tasks.amazonaws.com", "ec2.amazonaws.com"] });
        let from = |account: &str| {
            json!({ "StringEquals": { "aws:SourceAccount": account },
                "ArnLike": { "aws:SourceArn": format!("arn:aws:ecs:us-west-2:{account}:*") } })
        };
        for (document, trusted) in [
            (trust(ecs(), json!({})), true),
            (trust(ecs(), from("123456789012")), true),
            (trust(ecs(), from("210987654321")), false),
            (trust(json!({ "Service": "lambda.amazonaws.com" }), json!({})), false),
            (trust(json!({ "AWS": "123456789012" }), json!({})), false),
        ] {
            let arn = iam.put_role("r", &document, &[]).await.unwrap();
            let role = iam.identity(&arn).unwrap();
            let task = "arn:aws:ecs:us-west-2:123456789012:task/default/t";
            assert_eq!(iam.ecs_may_assume(&role, task), trusted, "{document}");
        }
    }

    #[tokio::test]
    async fn an_explicit_deny_wins_and_says_so() {
        let iam = Iam::new("123456789012", "us-west-2");
        let policy = json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "*", "Resource": "*" },
            { "Effect": "Deny", "Action": "dynamodb:DeleteTable", "Resource": "*" }] });
        let arn = iam.put_role("r", &trust(), &[("p", policy)]).await.unwrap();
        ask(&iam, &arn, "dynamodb:PutItem", "arn:t").unwrap();
        let denied = ask(&iam, &arn, "dynamodb:DeleteTable", "arn:t").unwrap_err();
        assert!(denied.ends_with("with an explicit deny in an identity-based policy"), "{denied}");
    }

    #[tokio::test]
    async fn a_policy_that_could_only_be_judged_wrongly_is_refused() {
        let iam = Iam::new("123456789012", "us-west-2");
        let with = |condition: Value| {
            json!({ "Version": "2012-10-17", "Statement": [
                { "Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition }] })
        };
        for refused in [
            json!({ "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": ["a"] } }),
            json!({ "StringEquals": { "aws:SourceVpc": "vpc-1" } }),
            json!({ "StringNotEquals": { "secretsmanager:versionstage": "AWSPREVIOUS" } }),
        ] {
            let put = iam.put_role("r", &trust(), &[("p", with(refused.clone()))]).await;
            assert!(matches!(put, Err(Error::Policy(_))), "{refused}");
        }
        let elsewhere = with(
            json!({ "StringEquals": { "kms:ViaService": "secretsmanager.us-west-2.amazonaws.com" } }),
        );
        let arn = iam.put_role("r", &trust(), &[("p", elsewhere)]).await.unwrap();
        ask(&iam, &arn, "dynamodb:PutItem", "arn:t").unwrap_err();
    }
}
