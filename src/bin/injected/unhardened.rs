//! The counter-example as most programs are, the worker in Python among them: it does nothing about
//! its process, and its allocator wipes nothing. It ships nowhere.

mod environment;

use std::process::ExitCode;

use aws_config::SdkConfig;
use twitterstream::process::Level;
use twitterstream::program;

use environment::{Injected, WithoutCredentials};

fn main() -> ExitCode {
    program::run_as(Level::none, &WithoutCredentials, |_: &SdkConfig| Injected)
}
