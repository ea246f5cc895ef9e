//! The counter-example: the same worker with the credentials that ECS has put into its environment.
//! It never asks Secrets Manager, and cannot rotate.

mod environment;

use std::alloc::System;
use std::process::ExitCode;

use aws_config::SdkConfig;
use twitterstream::{process, program};
use zeroizing_alloc::ZeroAlloc;

use environment::{Injected, WithoutCredentials};

/// The worker's, as is the hardening, so that a comparison shows the model and nothing else.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    program::run_as(process::harden, &WithoutCredentials, |_: &SdkConfig| Injected)
}
