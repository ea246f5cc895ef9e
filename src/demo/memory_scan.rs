//! Looks for values in the memory of another process, from outside: the process is stopped, every
//! readable mapping of it is read, and it goes on.
//!
//! A value is looked for as it is, percent-encoded, and in base64 (at each of the three places that
//! it can have in a longer text, `key:secret` for instance). What is found is a whole copy, or a
//! fragment of at least [`SHORTEST_FRAGMENT`] bytes.
//!
//! Reading a process that is not dumpable takes `CAP_SYS_PTRACE`. What the CPU's registers and the
//! kernel's buffers hold is not seen.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use aho_corasick::{AhoCorasick, BuildError};
use rustix::process::{Pid, Signal, kill_process};

/// How long a piece of a value must be to count, in bytes. Shorter ones are found by chance.
pub const SHORTEST_FRAGMENT: usize = 12;

/// How much of memory cannot be read where some cannot.
const PAGE: usize = 4096;

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Why a process was not scanned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The values cannot be looked for.
    #[error("the values cannot be searched for; are they too long?")]
    Pattern(#[from] BuildError),
    /// The kernel refuses.
    #[error("the memory of process {pid} cannot be read; it takes root, or CAP_SYS_PTRACE")]
    Refused {
        /// The process.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It does not stop, or is no more.
    #[error("process {0} cannot be stopped")]
    NotStopped(u32),
}

/// How a value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// With percent-encoding, as in a form or a signature.
    Percent,
    /// In base64.
    Base64,
}

/// Where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The heap, or a mapping that no file is behind: the allocator's, or a thread's stack.
    Heap,
    /// The main thread's stack; arguments and environment are at its end.
    Stack,
    /// A mapping with a name.
    Named(String),
}

/// A piece of a value in the memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which value, as an index into what was given to [`Scan::new`].
    pub value: usize,
    /// How it is written there.
    pub encoding: Encoding,
    /// Where it begins.
    pub address: u64,
    /// How much of it is there, in bytes.
    pub length: usize,
    /// Whether that is all of it.
    pub whole: bool,
    /// What it is in.
    pub place: Place,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spelling = match self.encoding {
            Encoding::Plain => "",
            Encoding::Percent => ", percent-encoded,",
            Encoding::Base64 => " in base64",
        };
        let amount = if self.whole { "all" } else { "a piece" };
        let place = match &self.place {
            Place::Heap => "the heap or a thread's stack",
            Place::Stack => "the main thread's stack",
            Place::Named(name) => name,
        };
        write!(
            f,
            "{amount} of it ({} bytes{spelling}) at {:#x}, {place}",
            self.length, self.address
        )
    }
}

/// One spelling of one value.
struct Form {
    value: usize,
    encoding: Encoding,
    bytes: Vec<u8>,
}

/// Values to look for. It holds them, and so has no `Debug`.
pub struct Scan {
    forms: Vec<Form>,
    /// Finds every window of [`SHORTEST_FRAGMENT`] bytes of every form.
    windows: AhoCorasick,
    /// Of each window the forms that hold it, and where in them.
    holders: Vec<Vec<(usize, usize)>>,
    longest: usize,
}

impl Scan {
    /// A scan for these values. One that is shorter than [`SHORTEST_FRAGMENT`] is never found.
    ///
    /// # Errors
    /// More than can be searched for at once.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let forms: Vec<Form> = values
            .into_iter()
            .enumerate()
            .flat_map(|(value, text)| {
                let forms = spellings(text).into_iter();
                forms.map(move |(encoding, bytes)| Form { value, encoding, bytes })
            })
            .collect();
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        let mut windows: Vec<&[u8]> = Vec::new();
        let mut holders: Vec<Vec<(usize, usize)>> = Vec::new();
        for (form, Form { bytes, .. }) in forms.iter().enumerate() {
            for (offset, window) in bytes.windows(SHORTEST_FRAGMENT).enumerate() {
                let index = *known.entry(window).or_insert_with(|| {
                    windows.push(window);
                    holders.push(Vec::new());
                    windows.len() - 1
                });
                if let Some(holders) = holders.get_mut(index) {
                    holders.push((form, offset));
                }
            }
        }
        let windows = AhoCorasick::new(&windows)?;
        let longest = forms.iter().map(|form| form.bytes.len()).max().unwrap_or_default();
        Ok(Self { forms, windows, holders, longest })
    }

    /// Stops the process, reads all of its memory, and lets it go on.
    ///
    /// # Errors
    /// A process that is gone, or that this one may not read.
    pub fn process(&self, pid: u32) -> Result<Vec<Finding>, Error> {
        let refused = |source| Error::Refused { pid, source };
        let _stopped = Stopped::stop(pid)?;
        let folder = format!("/proc/{pid}");
        let folder = Path::new(&folder);
        let maps = fs::read_to_string(folder.join("maps")).map_err(refused)?;
        let memory = File::open(folder.join("mem")).map_err(refused)?;
        let mut findings = Vec::new();
        let mut buffer = vec![0; CHUNK + self.longest];
        for (start, end, place) in maps.lines().filter_map(mapping) {
            let mut at = start;
            while at < end {
                // Each chunk reaches into the next one, so that nothing is cut in two.
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let Some(chunk) = buffer.get_mut(..wanted) else { break };
                let read = memory.read_at(chunk, at).unwrap_or_default();
                let chunk = buffer.get(..read).unwrap_or_default();
                self.bytes(chunk, at, &place, &mut findings);
                // A page that went away, or that the kernel keeps for itself, is nobody's copy.
                at += if read < wanted { read + PAGE } else { CHUNK } as u64;
            }
        }
        Ok(distinct(findings))
    }

    /// Every piece in `memory`, of which the first byte is at `address`.
    fn bytes(&self, memory: &[u8], address: u64, place: &Place, findings: &mut Vec<Finding>) {
        // Up to where each form has been matched already, at the offset that it has there.
        let mut matched: HashMap<(usize, usize), usize> = HashMap::new();
        for found in self.windows.find_overlapping_iter(memory) {
            let holders = self.holders.get(found.pattern().as_usize());
            for (form, offset) in holders.into_iter().flatten() {
                let Some(Form { value, encoding, bytes }) = self.forms.get(*form) else { continue };
                // Where the form would begin; before the memory's first byte for a cut one.
                let diagonal = (found.start() + bytes.len()) - offset;
                let until = matched.entry((*form, diagonal)).or_default();
                if found.start() < *until {
                    continue;
                }
                let same = |(a, b): &(&u8, &u8)| a == b;
                let rest = memory.get(found.start()..).unwrap_or_default();
                let length = rest.iter().zip(bytes.iter().skip(*offset)).take_while(same).count();
                *until = found.start() + length;
                findings.push(Finding {
                    value: *value,
                    encoding: *encoding,
                    address: address + found.start() as u64,
                    length,
                    whole: length == bytes.len(),
                    place: place.clone(),
                });
            }
        }
    }
}

/// Without the pieces that are part of a longer one. What two chunks share was seen twice, two
/// spellings of a value may have a part in common, and so may two values: the access tokens of an
/// account all begin with the same user id. What lies within a longer piece of a value says nothing of
/// another.
fn distinct(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| {
        (finding.address, usize::MAX - finding.length, finding.value, !finding.whole)
    });
    // What reaches furthest, with the values that have been found to be all of it.
    let mut before = (0_u64, 0_usize);
    let mut same: Vec<usize> = Vec::new();
    findings.retain(|finding| {
        let end = finding.address + finding.length as u64;
        if end > before.0 {
            before = (end, finding.length);
            same.clear();
        } else if finding.length < before.1 || same.contains(&finding.value) {
            return false;
        }
        same.push(finding.value);
        true
    });
    findings
}

/// The ways in which a value can be written. Those that are the same are one.
fn spellings(value: &str) -> Vec<(Encoding, Vec<u8>)> {
    let [plain, form, oauth, base64 @ ..] = crate::credentials::spellings(value);
    let percent = [form, oauth].map(|text| (Encoding::Percent, text));
    let base64 = base64.map(|text| (Encoding::Base64, text));
    let mut spellings = vec![(Encoding::Plain, plain.as_bytes().to_vec())];
    for (encoding, text) in percent.into_iter().chain(base64) {
        if !spellings.iter().any(|(_, known)| known == text.as_bytes()) {
            spellings.push((encoding, text.as_bytes().to_vec()));
        }
    }
    spellings
}

/// A readable mapping of `/proc/PID/maps`: its bounds and what it is.
fn mapping(line: &str) -> Option<(u64, u64, Place)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.starts_with('r') {
        return None;
    }
    let place = match fields.nth(3) {
        None | Some("[heap]") => Place::Heap,
        Some("[stack]") => Place::Stack,
        // The kernel's own pages.
        Some(name) if name.starts_with("[v") => return None,
        Some(name) => Place::Named(name.to_owned()),
    };
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?, place))
}

/// A process that is stopped until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: u32) -> Result<Self, Error> {
        let gone = Error::NotStopped(pid);
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Err(gone);
        };
        if kill_process(process, Signal::STOP).is_err() {
            return Err(gone);
        }
        let stopped = Self(process);
        for _ in 0..5_000 {
            match all_threads_stopped(pid) {
                Some(true) => return Ok(stopped),
                Some(false) => sleep(Duration::from_millis(1)),
                None => return Err(gone),
            }
        }
        Err(gone)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// `None` where the process is gone.
fn all_threads_stopped(pid: u32) -> Option<bool> {
    let states = states(pid)?;
    let gone = states.iter().any(|state| matches!(state, 'Z' | 'X'));
    (!gone).then(|| states.iter().all(|state| matches!(state, 'T' | 't')))
}

/// Whether every thread of a process waits for something to happen.
#[must_use]
pub fn is_idle(pid: u32) -> bool {
    states(pid).is_some_and(|states| states.iter().all(|state| *state == 'S'))
}

/// The state of each thread of a process, as `proc_pid_stat(5)` has it. `None` where it is gone.
fn states(pid: u32) -> Option<Vec<char>> {
    let mut states = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        // The state follows the name, which stands in parentheses.
        states.push(stat.rsplit_once(") ")?.1.chars().next()?);
    }
    Some(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "key-with/special+chars=and~more_0123456789";

    fn found(memory: &[u8]) -> Vec<(Encoding, usize, bool)> {
        let scan = Scan::new([VALUE]).unwrap();
        let mut findings = Vec::new();
        scan.bytes(memory, 0, &Place::Heap, &mut findings);
        distinct(findings).iter().map(|found| (found.encoding, found.length, found.whole)).collect()
    }

    #[test]
    fn every_spelling_is_found_whole() {
        assert_eq!(found(format!("x{VALUE}y").as_bytes()), [(Encoding::Plain, 42, true)]);
        let percent = "key-with%2Fspecial%2Bchars%3Dand~more_0123456789";
        let found_percent = found(percent.as_bytes());
        assert!(found_percent.contains(&(Encoding::Percent, 48, true)), "{found_percent:?}");
        for before in ["", "a", "ab", "abc", "consumer_key:"] {
            for after in ["", ".", ":secret"] {
                let encoded = aws_smithy_types::base64::encode(format!("{before}{VALUE}{after}"));
                let found = found(encoded.as_bytes());
                let whole = |(encoding, _, whole): &(Encoding, usize, bool)| {
                    *encoding == Encoding::Base64 && *whole
                };
                assert!(found.iter().any(whole), "{before} {after} {found:?}");
            }
        }
    }

    #[test]
    fn a_fragment_is_found_from_twelve_bytes_on_and_is_not_whole() {
        assert_eq!(found(&VALUE.as_bytes()[5..17]), [(Encoding::Plain, 12, false)]);
        assert_eq!(found(&VALUE.as_bytes()[5..16]), []);
        assert_eq!(found(&VALUE.as_bytes()[..41]), [(Encoding::Plain, 41, false)]);
        assert_eq!(found(b"nothing of it is here, not even close"), []);
    }

    #[test]
    fn copies_beside_one_another_are_counted_each() {
        let copies = format!("{VALUE}{VALUE} {}{VALUE}", &VALUE[..20]);
        let found = found(copies.as_bytes());
        assert_eq!(found.iter().filter(|(_, _, whole)| *whole).count(), 3, "{found:?}");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn a_piece_of_a_longer_piece_is_no_trace_of_another_value() {
        let [old, new] = ["540493769-ab0123456789", "540493769-abXYZXYZXYZX"];
        let scan = Scan::new([old, new]).unwrap();
        let found = |memory: &str| {
            let mut findings = Vec::new();
            scan.bytes(memory.as_bytes(), 0, &Place::Heap, &mut findings);
            let findings = distinct(findings).into_iter();
            findings.map(|found| (found.value, found.length)).collect::<Vec<_>>()
        };
        assert_eq!(found(new), [(1, 22)]);
        assert_eq!(found(&format!("{new} {old}")), [(1, 22), (0, 22)]);
        assert_eq!(found(&new[..14]), [(1, 14)]);
        // It may be of either.
        assert_eq!(found(&new[..12]), [(0, 12), (1, 12)]);
        assert_eq!(found(&format!("{}{new}", &old[10..])), [(0, 12), (1, 22)]);
    }

    #[test]
    fn a_mapping_is_read_as_the_kernel_writes_it() {
        let heap = "55e0c0a00000-55e0c0b00000 rw-p 00000000 00:00 0    [heap]";
        assert_eq!(mapping(heap), Some((0x55e0_c0a0_0000, 0x55e0_c0b0_0000, Place::Heap)));
        let anonymous = "7f00-8f00 rw-p 00000000 00:00 0";
        assert_eq!(mapping(anonymous), Some((0x7f00, 0x8f00, Place::Heap)));
        let file = "7f00-8f00 r-xp 00000000 fe:00 1234    /usr/lib/libc.so.6";
        let name = Place::Named("/usr/lib/libc.so.6".to_owned());
        assert_eq!(mapping(file), Some((0x7f00, 0x8f00, name)));
        assert_eq!(mapping("7f00-8f00 ---p 00000000 00:00 0"), None);
        assert_eq!(mapping("7f00-8f00 r--p 00000000 00:00 0    [vvar]"), None);
    }
}
