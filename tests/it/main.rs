//! The integration tests: one binary. The modules, from the world to the worker in it:
//!
//! - `local_aws`, `local_aws_sqs`, `feed_server`, `feed_server_v2`: the world itself, with its negative controls.
//!   Without them the tests below would prove nothing.
//! - `main_job`: what is posted and matches is in the table and in the log, once and to the letter.
//! - `collisions`: each post is one item, whatever the order, the redelivery, the workers and the restarts.
//! - `iam`: every statement of `iam/` is needed, and README says for what.
//! - `check`: what the command `check` says of a task.
//! - `injected`: the counter-example's worker.
//! - `side_by_side`, `page`: both models beside each other, and the live page of it.
//! - `start`: what keeps the worker from starting, and what it says.
//! - `feed_trouble`: what a feed can do wrong.
//! - `x_v2`: the X API v2, with a token, rules and one stream.
//! - `rotation`: new credentials are found, proven and taken over without losing a post.
//! - `stop`: what is accepted is written, or reported.
//! - `trouble`: DynamoDB is away, slow or fails, and workers are killed meanwhile.
//! - `health`: how the worker says it is, and to whom.
//! - `metrics`: what CloudWatch is told.
//! - `hardening`: what the worker does to itself first, what it says of it, and of a panic.
//! - `footprint`: it starts no process and writes no file, and no secret is in an argument of either.
//! - `neighbour`: what a process of the same user can have of it.
//! - `probes`: the attacks on both models find what the security review tells of them.
//! - `package`: what ships.
//! - `documents`: what README and docs/ lead to is there.
//!
//! `support` starts the worker in a world and reads its log. Every run is logged at TRACE, and a
//! secret in the log fails the test. `strace` is for the tests of what the worker asks of the kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod check;
mod collisions;
mod documents;
mod feed_server;
mod feed_server_v2;
mod feed_trouble;
mod footprint;
mod hardening;
mod health;
mod iam;
mod injected;
mod local_aws;
mod local_aws_sqs;
mod main_job;
mod metrics;
mod neighbour;
mod package;
mod page;
mod probes;
mod rotation;
mod side_by_side;
mod start;
mod stop;
mod strace;
mod support;
mod trouble;
mod x_v2;
