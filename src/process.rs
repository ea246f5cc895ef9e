//! What the process does to itself before it reads anything: no memory of it is to be had by a
//! neighbour of the same user, none reaches a core file, and a panic repeats nothing.

use std::fmt;
use std::io::{self, Write as _};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// How far the process is hardened. Shown as `full`, or as `without` and what the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    refused: Vec<Refused>,
}

/// A measure that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    measure: &'static str,
    call: &'static str,
    /// Only the counter-example has none: it did not ask.
    error: Option<Errno>,
}

impl Level {
    /// Whether all measures are in force.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.refused.is_empty()
    }

    /// The kernel calls that were refused, each with its error; empty where none was.
    #[must_use]
    pub fn refused(&self) -> String {
        let calls = self.refused.iter().map(|refused| match refused.error {
            Some(error) => format!("{} ({error})", refused.call),
            None => format!("{} (not asked for)", refused.call),
        });
        calls.collect::<Vec<_>>().join(", ")
    }

    /// The level of a process that does nothing about itself: the counter-example's.
    #[cfg(feature = "demo")]
    #[must_use]
    pub fn none() -> Self {
        let refused = MEASURES.map(|(measure, call)| Refused { measure, call, error: None });
        Self { refused: refused.into() }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_full() {
            return f.write_str("full");
        }
        let measures: Vec<_> = self.refused.iter().map(|refused| refused.measure).collect();
        write!(f, "without {}", measures.join(", "))
    }
}

/// Each measure, and the call that takes it.
const MEASURES: [(&str, &str); 3] = [
    ("not-dumpable", "prctl(PR_SET_DUMPABLE)"),
    ("no-core", "setrlimit(RLIMIT_CORE)"),
    ("no-new-privileges", "prctl(PR_SET_NO_NEW_PRIVS)"),
];

/// Hardens the process as far as the kernel allows:
///
/// - `not-dumpable`: another process of the same user can neither trace this one nor read its
///   memory, environment, maps or descriptors (`PR_SET_DUMPABLE` 0).
/// - `no-core`: an abort leaves no core file (`RLIMIT_CORE` 0).
/// - `no-new-privileges`: nothing that this process starts gains privileges
///   (`PR_SET_NO_NEW_PRIVS`).
#[must_use]
pub fn harden() -> Level {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let results = [
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
        setrlimit(Resource::Core, none),
        set_no_new_privs(true),
    ];
    let refused = MEASURES.into_iter().zip(results).filter_map(|((measure, call), result)| {
        result.err().map(|error| Refused { measure, call, error: Some(error) })
    });
    Level { refused: refused.collect() }
}

/// Makes a panic in any thread end the process with this exit code. One line on standard error has
/// the place and whether there was a message; that is enough to find the bug. The payload itself is
/// never shown: it may quote anything.
pub fn end_on_panic(exit_code: i32) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = match panic.payload_as_str() {
            Some(_) => "a message",
            None => "a payload of an unknown type",
        };
        // There is nobody to tell that nobody can be told.
        let _ = writeln!(io::stderr(), "twitterstream: a bug: panic at {place} with {payload}");
        std::process::exit(exit_code);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_says_what_it_is_without() {
        let refused = |measure, call| Refused { measure, call, error: Some(Errno::PERM) };
        let full = Level { refused: Vec::new() };
        assert_eq!((full.to_string().as_str(), full.refused().as_str()), ("full", ""));
        let less = Level { refused: vec![refused("a", "x(A)"), refused("b", "y(B)")] };
        assert_eq!(less.to_string(), "without a, b");
        let error = "(Operation not permitted (os error 1))";
        assert_eq!(less.refused(), format!("x(A) {error}, y(B) {error}"));
        let unasked = Refused { error: None, ..refused("a", "x(A)") };
        assert_eq!(Level { refused: vec![unasked] }.refused(), "x(A) (not asked for)");
    }
}
