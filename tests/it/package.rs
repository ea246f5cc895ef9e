//! What ships: no code of the local world is in the worker, even where it was built beside it.

use std::path::Path;

use memchr::memmem;
use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};

/// Texts that the local world cannot be built without: names of its crates and modules, which
/// mangled symbols hold, and words that it says.
const TRACES: [&str; 5] =
    ["awsim", "dynoxide", "SQLite format 3", "local_aws", "Could not authenticate you."];

/// The traces in what the process maps into memory, and in the names of what is there. Debug
/// information and the names of object files tell of all that the linker saw, not of what it took.
fn traces_in(program: &str) -> Vec<&'static str> {
    let binary = std::fs::read(Path::new(program)).unwrap();
    let file = object::File::parse(&*binary).unwrap();
    let segments = file.segments().map(|segment| segment.data().unwrap());
    let symbols = file.symbols().filter(|symbol| symbol.kind() != SymbolKind::File);
    let names = symbols.map(|symbol| symbol.name_bytes().unwrap());
    let searched: Vec<&[u8]> = segments.chain(names).collect();
    let found =
        |trace: &&str| searched.iter().any(|part| memmem::find(part, trace.as_bytes()).is_some());
    TRACES.into_iter().filter(found).collect()
}

#[test]
fn the_worker_holds_no_code_of_the_local_world() {
    assert_eq!(traces_in(env!("CARGO_BIN_EXE_twitterstream")), [""; 0]);
    // Each of them would be seen.
    assert_eq!(traces_in(env!("CARGO_BIN_EXE_side-by-side")), TRACES);
}
