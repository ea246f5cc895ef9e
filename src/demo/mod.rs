//! The embedded local world: what `cargo demo` and the integration tests run against. It is part of
//! the cargo feature `demo` alone, and of no production image.

pub mod copies;
pub mod drill;
pub mod ecs_agent;
pub mod feed_server;
pub mod key_rotation;
pub mod kills;
pub mod local_aws;
pub mod main_job;
pub mod memory_scan;
pub mod probes;
pub mod report;
pub mod review;
pub mod running_worker;
pub mod side;
pub mod side_by_side;
pub mod soak;
pub mod table_rows;
pub mod tls_front;
pub mod trouble;
pub mod worker_log;
pub mod world;

pub use crate::clock::Clock;

/// A count, or a size in bytes, for a ratio.
#[expect(clippy::cast_precision_loss, reason = "counts and sizes stay far below 2^52")]
const fn to_f64(count: u64) -> f64 {
    count as f64
}
