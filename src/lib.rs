//! A worker for AWS Fargate that holds third-party credentials the way a security reviewer would
//! want: it asks AWS Secrets Manager itself, with its *task role*, and never puts a value into an
//! environment variable, a file or a log.
//!
//! The modules, in the order in which the data meets them:
//!
//! 1. [`config`] reads the environment, none of which is secret, and reports every fault at once.
//! 2. [`credentials`] fetches the secrets from Secrets Manager as one [`credentials::Generation`].
//! 3. [`feed`] signs a request with them, keeps the stream open, cuts it into records and reads
//!    each record as a message.
//! 4. [`filter`] keeps the posts that match the track phrases.
//! 5. [`backlog`] is where what was kept waits: in memory, or on disk while the table is away.
//! 6. [`writers`] put user, date and text of each into the [`table`] in DynamoDB.
//! 7. [`worker`] is the straight line through all of them, and the drain at a stop.
//!
//! Beside the path: [`program`] takes what comes from outside, [`aws`] sets up the SDK, [`process`]
//! hardens the process before anything is read, [`counts`] counts what passes, [`clock`] tells the
//! time, [`retry`] how long to wait before a next try, [`telemetry`] what may be said in a log, and
//! how, and [`wipe`] cleans the stack behind whoever has used a secret. [`health`] says how the worker
//! is, [`metrics`] how much it does. [`check`] runs instead of it, and says what it would find.
//!
//! Dependencies point one way: `main -> program -> worker -> {credentials, feed, filter, backlog, writers}`.
//! `credentials` knows no feed, `feed` knows no AWS, `table` knows no feed.

pub mod aws;
pub mod backlog;
pub mod check;
pub mod clock;
pub mod config;
pub mod counts;
pub mod credentials;
#[cfg(feature = "demo")]
pub mod demo;
pub mod feed;
pub mod filter;
pub mod health;
pub mod metrics;
pub mod process;
pub mod program;
pub mod retry;
pub mod table;
pub mod telemetry;
pub mod wipe;
pub mod worker;
pub mod writers;
