//! The embedded local world: what `cargo demo` and the integration tests run against. It is part of
//! the cargo feature `demo` alone, and of no production image.

pub mod copies;
pub mod ecs_agent;
pub mod feed_server;
pub mod key_rotation;
pub mod kills;
pub mod local_aws;
pub mod main_job;
pub mod memory_scan;
pub mod report;
pub mod running_worker;
pub mod table_rows;
pub mod tls_front;
pub mod trouble;
pub mod worker_log;
pub mod world;

pub use crate::clock::Clock;
