//! What the process does to itself before it reads anything: no memory of it is to be had by a
//! neighbour of the same user, and none reaches a core file.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// Which of the three measures are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// `PR_SET_DUMPABLE` 0: another process of the same user can neither trace this one nor read
    /// its memory, environment, maps or descriptors.
    pub not_dumpable: bool,
    /// `RLIMIT_CORE` 0: an abort leaves no core file.
    pub no_core: bool,
    /// `PR_SET_NO_NEW_PRIVS`: nothing that this process starts gains privileges.
    pub no_new_privileges: bool,
}

impl Level {
    /// Whether all of them are.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.not_dumpable && self.no_core && self.no_new_privileges
    }
}

/// Hardens the process as far as the kernel allows.
#[must_use]
pub fn harden() -> Level {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Level {
        not_dumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok(),
        no_core: setrlimit(Resource::Core, none).is_ok(),
        no_new_privileges: set_no_new_privs(true).is_ok(),
    }
}
