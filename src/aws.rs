//! The AWS SDK: how it is set up for all services, and what its errors mean where they are the same
//! for all.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::invocation_id::InvocationIdInterceptor;
use aws_runtime::request_info::RequestInfoInterceptor;
use aws_runtime::user_agent::UserAgentInterceptor;
use aws_sdk_secretsmanager::config::interceptors::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_secretsmanager::config::{ConfigBag, Intercept, RuntimeComponents, SharedHttpClient};
use aws_sdk_secretsmanager::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::RequestId;
use aws_smithy_http_client::tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::interceptors::{disable_interceptor, dyn_dispatch_hint};

use crate::telemetry::{chain, peer_text};

/// The SDK's own default chain, with the region of the configuration first, and a name in the user
/// agent that tells the audit trail which version asked. `None` where no region is configured.
///
/// Its HTTP client knows no proxy: the SDK's own would send the token of the credentials endpoint
/// through `HTTP_PROXY`, in clear.
pub async fn sdk_config(region: Option<&str>) -> Option<SdkConfig> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(10))
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client(usize::MAX))
        .timeout_config(timeouts);
    if let Ok(name) = AppName::new(concat!("twitterstream-", env!("CARGO_PKG_VERSION"))) {
        loader = loader.app_name(name);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    let sdk = loader.load().await;
    sdk.region().is_some().then_some(sdk)
}

/// A client of the one TLS stack that knows no proxy, and keeps so many idle connections to a host.
#[must_use]
pub fn http_client(idle_connections: usize) -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .pool_max_idle_per_host(idle_connections)
        .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
        .build_https()
}

/// For calls by the thousand: leaves out what the SDK tells of each of them, the ids of invocation and
/// attempt and a user agent that is made anew each time, and has a constant one that names the version.
/// That is a tenth of what a call costs.
#[derive(Debug)]
pub struct Terse;

/// The user agent of [`Terse`] calls.
const USER_AGENT: &str =
    concat!("aws-sdk-rust app/twitterstream-", env!("CARGO_PKG_VERSION"), " lang/rust");

#[dyn_dispatch_hint]
impl Intercept for Terse {
    fn name(&self) -> &'static str {
        "Terse"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let why = "a call of thousands";
        let state = config.interceptor_state();
        state.store_put(disable_interceptor::<InvocationIdInterceptor>(why));
        state.store_put(disable_interceptor::<RequestInfoInterceptor>(why));
        state.store_put(disable_interceptor::<UserAgentInterceptor>(why));
        Ok(())
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().headers_mut().insert("user-agent", USER_AGENT);
        Ok(())
    }
}

/// What a service answered, as far as it may be repeated. Never its `Debug`, which prints the raw body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The error code, or what failed before there was one.
    pub code: String,
    /// AWS's own words, bounded and escaped.
    pub message: String,
    /// For a question to AWS support and for CloudTrail.
    pub request_id: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        self.request_id.as_deref().map_or(Ok(()), |id| write!(f, "; request id {id}"))
    }
}

impl Answer {
    /// The answer in an error of the SDK, or why there was none.
    #[must_use]
    pub fn of<E>(error: &SdkError<E>) -> Self
    where
        E: Error + ProvideErrorMetadata + 'static,
        SdkError<E>: RequestId,
    {
        if let SdkError::ServiceError(_) = error {
            return Self {
                code: peer_text(error.code().unwrap_or("no error code")),
                message: peer_text(error.message().unwrap_or_default()),
                request_id: error.request_id().map(peer_text),
            };
        }
        let causes = error.source().map(chain).unwrap_or_default();
        Self { code: error.to_string(), message: peer_text(&causes), request_id: None }
    }
}

/// Whether an error code says that the caller is not allowed, or not known. The codes are those that
/// the services' API references have in common ("Common Errors").
#[must_use]
pub fn is_denial(code: &str) -> bool {
    matches!(
        code,
        "AccessDeniedException"
            | "AccessDenied"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "OptInRequired"
    )
}

/// Why there are no AWS credentials, where it is that which made a request fail.
#[must_use]
pub fn no_task_role(error: &(dyn Error + 'static)) -> Option<String> {
    let text = chain(error);
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_),
        ) = error.downcast_ref()
        {
            return Some(peer_text(&text));
        }
        cause = error.source();
    }
    // The SDK has no type for it: a credentials endpoint that answers 4xx has refused the token or
    // does not know the task, and will again; unless it only wants to be asked later.
    let answered =
        |status: &str| text.contains(&format!("HTTP credential provider: StatusCode({status}"));
    (answered("4") && !answered("408") && !answered("429")).then(|| peer_text(&text))
}
