//! The production worker. Everything but its allocator is in the library.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes every block of memory as it is freed: what the SDK, hyper and serde held of a value goes
/// with the block.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    twitterstream::program::main()
}
