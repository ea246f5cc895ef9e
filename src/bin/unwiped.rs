//! The worker without the allocator that wipes what is freed: what the memory scan and the
//! allocator's cost are compared with. It ships nowhere.

use std::process::ExitCode;

fn main() -> ExitCode {
    twitterstream::program::main()
}
