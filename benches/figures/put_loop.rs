//! What a row must cost: a loop that does nothing but put the worker's rows, in a process of its own,
//! with the environment of a task. By the AWS SDK, and without it.

use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::task::JoinSet;
use twitterstream::clock::{self, Clock};
use twitterstream::demo::feed_server::stream_of;
use twitterstream::feed::message::Message;
use twitterstream::table::Row;

use crate::process::cpu_seconds;

/// How many calls are under way at once, as in the worker.
const IN_FLIGHT: usize = 64;

const CONDITION: &str = "attribute_not_exists(#user) OR id = :id";

/// What puts, and on which runtime.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Loop {
    /// The SDK's client as it comes, on Tokio's default runtime
    Sdk,
    /// The same on one thread
    SdkOneThread,
    /// hyper, and the SDK's signatures alone, on one thread
    Signed,
    /// hyper, on one thread; all requests have one signature
    Unsigned,
}

impl Loop {
    pub fn role(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Puts so many rows, and returns the seconds of processor for one.
pub fn run(which: Loop, rows: u32) -> Result<f64, Box<dyn Error>> {
    let runtime = match which {
        Loop::Sdk => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let posts = posts(rows)?;
    runtime.block_on(async {
        let sdk = aws_config::load_defaults(BehaviorVersion::latest()).await;
        let table = std::env::var("DYNAMODBTABLE")?;
        let before = cpu_seconds();
        match which {
            Loop::Sdk | Loop::SdkOneThread => by_sdk(&sdk, table, posts).await?,
            Loop::Signed => by_hyper(Http::new(&sdk, table, true).await?, posts).await?,
            Loop::Unsigned => by_hyper(Http::new(&sdk, table, false).await?, posts).await?,
        }
        Ok((cpu_seconds() - before) / f64::from(rows))
    })
}

/// The rows that the feed's posts become in the worker.
fn posts(rows: u32) -> Result<Vec<Row>, Box<dyn Error>> {
    let rows = usize::try_from(rows)?;
    // Some of the messages are notices.
    let stream = stream_of(rows + rows / 50 + 100, 1, "Amazon", 1.0, clock::system()())?.stream;
    let row = |record: &[u8]| {
        let Message::Post(post) = Message::parse(record) else { return None };
        Some(Row {
            user: post.user.to_string(),
            date: post.date.to_string(),
            text: post.text.to_string(),
            id: post.id.to_string(),
        })
    };
    let records = stream.split(|byte| *byte == b'\r');
    Ok(records.map(<[u8]>::trim_ascii).filter_map(row).take(rows).collect())
}

/// Puts each row, many at once.
async fn each<F>(
    posts: Vec<Row>,
    put: impl Fn(Row) -> F + Clone + Send + 'static,
) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = Result<(), String>> + Send,
{
    let posts = Arc::new(Mutex::new(posts.into_iter()));
    let mut putting = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (posts, put) = (Arc::clone(&posts), put.clone());
        let next = move || posts.lock().unwrap_or_else(PoisonError::into_inner).next();
        putting.spawn(async move {
            while let Some(row) = next() {
                put(row).await?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(ended) = putting.join_next().await {
        ended??;
    }
    Ok(())
}

async fn by_sdk(sdk: &SdkConfig, table: String, posts: Vec<Row>) -> Result<(), Box<dyn Error>> {
    let client = aws_sdk_dynamodb::Client::new(sdk);
    let table: Arc<str> = table.into();
    each(posts, move |Row { user, date, text, id }| {
        let (client, table) = (client.clone(), Arc::clone(&table));
        async move {
            let put = client
                .put_item()
                .table_name(&*table)
                .item("user", AttributeValue::S(user))
                .item("date", AttributeValue::S(date))
                .item("text", AttributeValue::S(text))
                .item("id", AttributeValue::S(id.clone()))
                .condition_expression(CONDITION)
                .expression_attribute_names("#user", "user")
                .expression_attribute_values(":id", AttributeValue::S(id));
            put.send().await.map(drop).map_err(|error| format!("{error:?}"))
        }
    })
    .await
}

/// What a request takes without the SDK's client.
struct Http {
    client: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    endpoint: String,
    table: String,
    region: String,
    credentials: Credentials,
    clock: Clock,
    is_signed: bool,
}

impl Http {
    async fn new(sdk: &SdkConfig, table: String, is_signed: bool) -> Result<Self, Box<dyn Error>> {
        let provider = sdk.credentials_provider().ok_or("there are no credentials")?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            client: hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .build(connector),
            endpoint: format!("{}/", std::env::var("AWS_ENDPOINT_URL_DYNAMODB")?),
            table,
            region: sdk.region().ok_or("there is no region")?.to_string(),
            credentials: provider.provide_credentials().await?,
            clock: clock::system(),
            is_signed,
        })
    }

    async fn put(&self, Row { user, date, text, id }: Row) -> Result<(), Box<dyn Error>> {
        let item =
            json!({"user": {"S": user}, "date": {"S": date}, "text": {"S": text}, "id": {"S": id}});
        let body = json!({
            "TableName": self.table,
            "Item": item,
            "ConditionExpression": CONDITION,
            "ExpressionAttributeNames": {"#user": "user"},
            "ExpressionAttributeValues": {":id": {"S": id}},
        });
        let body = serde_json::to_vec(&body)?;
        let mut request = Request::post(&self.endpoint)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", "DynamoDB_20120810.PutItem")
            .body(Full::new(Bytes::from(body.clone())))?;
        if self.is_signed {
            let identity = self.credentials.clone().into();
            let parameters = SigningParams::builder()
                .identity(&identity)
                .region(&self.region)
                .name("dynamodb")
                .time((self.clock)())
                .settings(SigningSettings::default())
                .build()?
                .into();
            let headers = request.headers().iter();
            let headers =
                headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
            let signable =
                SignableRequest::new("POST", &*self.endpoint, headers, SignableBody::Bytes(&body))?;
            let (instructions, _) = sign(signable, &parameters)?.into_parts();
            instructions.apply_to_request_http1x(&mut request);
        }
        let answer = self.client.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() { Ok(()) } else { Err(format!("{status}: {body:?}").into()) }
    }
}

async fn by_hyper(http: Http, posts: Vec<Row>) -> Result<(), Box<dyn Error>> {
    let http = Arc::new(http);
    each(posts, move |row| {
        let http = Arc::clone(&http);
        async move { http.put(row).await.map_err(|error| error.to_string()) }
    })
    .await
}
