//! The prefilter: what the bytes of a post's JSON tell about whether it can match.
//!
//! To parse a post costs many times what it costs to look through it, and most posts match nothing. So one
//! *mark* of each phrase is searched in the JSON as it stands. That may find too much, and never misses a
//! post that matches:
//!
//! - A mark is the longest run of ASCII letters, digits and `_` in the terms of a phrase. A post that matches
//!   has it in some case, and no letter touches it but where the term itself goes on.
//! - Two characters beyond ASCII have a lower case in it: `K` (U+212A) becomes `k`, `İ` (U+0130) an `i`
//!   and U+0307. A mark holds no `k`, and no `i` before U+0307.
//! - JSON may write any character as an escape. What may have one of a mark's characters written so is
//!   rewritten first.
//! - A phrase without ASCII has for its mark a single character, in everything that it can be written as.
//!
//! A phrase without any mark, such as `...`, makes every post one that may match.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use memchr::{memchr, memchr2_iter};

use super::Term;

/// The characters of marks, rarest first, roughly: in English, and in the keys and ids of a post.
const RAREST: &[u8] = b"zqxjvywgbphfmcudlrsnioate9876543210_";

/// Every character with another lower case, and each character of that.
static LOWER_CASES: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
    let pairs = |c: char| c.to_lowercase().map(move |lower| (c, lower));
    let pairs = ('\u{80}'..=char::MAX).flat_map(pairs).filter(|(c, lower)| c != lower);
    // At a word's end str::to_lowercase makes another sigma than char::to_lowercase.
    pairs.chain([('Σ', 'ς')]).collect()
});

/// The marks of a list of phrases.
pub(super) struct Prefilter {
    words: Vec<Word>,
    /// Whether there are digits in them.
    digits: bool,
    /// What the marks that are no words can be written as.
    others: Option<AhoCorasick>,
}

/// A mark of ASCII.
struct Word {
    /// In lower case.
    text: String,
    /// Where in it the character is that is searched first.
    rare: usize,
    /// Whether a letter may touch it before and behind.
    may_touch: (bool, bool),
}

impl Prefilter {
    /// `None` where a phrase has no mark.
    pub(super) fn new(phrases: &[Vec<Term>]) -> Option<Self> {
        let mut words = Vec::new();
        let mut characters = BTreeSet::new();
        for terms in phrases {
            let longest = terms.iter().flat_map(Word::all_of).max_by_key(|word| word.text.len());
            if let Some(word) = longest {
                words.push(word);
            } else {
                // The last in Unicode's order is a kanji rather than a kana, which is more frequent.
                let of_terms = terms.iter().flat_map(|term| term.folded.chars());
                characters.insert(of_terms.filter(|c| !c.is_ascii()).max()?);
            }
        }
        let others = if characters.is_empty() {
            None
        } else {
            let mut automaton = AhoCorasick::builder();
            // Of ASCII there are only escapes in it.
            automaton.ascii_case_insensitive(true);
            Some(automaton.build(spellings(&characters)).ok()?)
        };
        let digits = words.iter().any(|word| word.text.bytes().any(|byte| byte.is_ascii_digit()));
        Some(Self { words, digits, others })
    }

    pub(super) fn may_match(&self, json: &[u8]) -> bool {
        let is_in = |json: &[u8]| self.words.iter().any(|word| word.is_in(json));
        self.others.as_ref().is_some_and(|others| others.is_match(json))
            || is_in(json)
            || may_be_escaped(json, self.digits) && is_in(&rewritten(json))
    }
}

impl Word {
    fn all_of(term: &Term) -> impl Iterator<Item = Self> {
        let ends = |c: char| !is_mark(c) || c == 'k';
        let touches = |c: char| !c.is_ascii() || c == 'k';
        let (mut before, mut at) = (false, 0);
        term.folded.split_inclusive(ends).filter_map(move |piece| {
            let text = piece.trim_end_matches(ends);
            let behind = term.folded.get(at + text.len()..)?.chars().next();
            at += piece.len();
            let may_touch = (before, behind.is_some_and(touches));
            before = may_touch.1;
            let undotted = text.strip_suffix('i').filter(|_| behind == Some('\u{307}'));
            Self::new(undotted.unwrap_or(text), may_touch)
        })
    }

    fn new(text: &str, may_touch: (bool, bool)) -> Option<Self> {
        let rarity = |byte: u8| RAREST.iter().position(|rare| *rare == byte);
        let (rare, _) = text.bytes().enumerate().min_by_key(|(_, byte)| rarity(*byte))?;
        Some(Self { text: text.to_owned(), rare, may_touch })
    }

    fn is_in(&self, json: &[u8]) -> bool {
        let Some(rare) = self.text.as_bytes().get(self.rare) else { return true };
        memchr2_iter(*rare, rare.to_ascii_uppercase(), json)
            .filter_map(|at| at.checked_sub(self.rare))
            .any(|start| self.stands_at(start, json))
    }

    /// Whether it stands there, and nothing touches it that may not.
    fn stands_at(&self, start: usize, json: &[u8]) -> bool {
        let part = json.get(start..).and_then(|json| json.split_at_checked(self.text.len()));
        let Some((text, behind)) = part else { return false };
        if !text.eq_ignore_ascii_case(self.text.as_bytes()) {
            return false;
        }
        let back = |bytes: usize| start.checked_sub(bytes).and_then(|at| json.get(at)).copied();
        // What looks like a letter may be the end of an escape: of \n, or of \u65e5.
        let touches_before = back(1).is_some_and(|byte| is_mark(char::from(byte)))
            && back(2) != Some(b'\\')
            && back(6) != Some(b'\\');
        let touches_behind = || {
            let lower = first_character(behind).and_then(|c| c.to_lowercase().next());
            lower.is_some_and(super::is_word)
        };
        (self.may_touch.0 || !touches_before) && (self.may_touch.1 || !touches_behind())
    }
}

/// Whether a mark can hold the character.
const fn is_mark(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Everything that one of the characters can be written as in JSON, hexadecimal digits in lower case.
fn spellings(characters: &BTreeSet<char>) -> Vec<Vec<u8>> {
    let others = LOWER_CASES.iter().filter(|(_, lower)| characters.contains(lower));
    let all: BTreeSet<char> = others.map(|(c, _)| c).chain(characters).copied().collect();
    let escapes = |c: char| {
        let mut units = [0; 2];
        let units = c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"));
        units.collect::<Vec<_>>().concat()
    };
    all.into_iter().flat_map(|c| [c.to_string(), escapes(c)]).map(String::into_bytes).collect()
}

/// Whether a letter of ASCII or `_`, or with `digits` one of these, may be written as an escape.
fn may_be_escaped(json: &[u8], digits: bool) -> bool {
    // \u00, where the u is not looked at, and 4 to 7, or 3 and 0 to 9.
    let start = |a, c, d| (a ^ b'\\') | ((c | d) ^ b'0');
    stands_somewhere(json, |[a, _, c, d, e, _]| start(a, c, d) | ((e & 0xfc) ^ b'4'))
        || digits
            && stands_somewhere(json, |[a, _, c, d, e, f]| {
                start(a, c, d) | (e ^ b'3') | f.saturating_sub(b'9')
            })
}

/// Whether `differs` is 0 for six bytes in a row.
///
/// The compiler makes vector code of it, because it branches on nothing and looks for no position. That takes
/// less time than a search that stops at every backslash.
#[inline]
fn stands_somewhere(json: &[u8], differs: impl Fn([u8; 6]) -> u8) -> bool {
    const BLOCK: usize = 32;
    const BEHIND: usize = 5;
    let mut least = [u8::MAX; BLOCK];
    let mut look_at = |block: &[u8; BLOCK + BEHIND]| {
        let from = |at: usize| block.get(at..at + BLOCK).unwrap_or_default();
        let sixes = from(0).iter().zip(from(1)).zip(from(2)).zip(from(3)).zip(from(4)).zip(from(5));
        for (least, (((((a, b), c), d), e), f)) in least.iter_mut().zip(sixes) {
            *least = differs([*a, *b, *c, *d, *e, *f]).min(*least);
        }
    };
    let mut rest = json;
    while let Some(block) = rest.first_chunk() {
        look_at(block);
        rest = rest.get(BLOCK..).unwrap_or_default();
    }
    let mut end = [0; BLOCK + BEHIND];
    if let Some((start, _)) = end.split_at_mut_checked(rest.len()) {
        start.copy_from_slice(rest);
    }
    look_at(&end);
    least.into_iter().fold(u8::MAX, u8::min) == 0
}

/// The same JSON with no letter or digit of ASCII and no `_` as an escape.
fn rewritten(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        out.extend_from_slice(before);
        let length = if let Some(byte) = escaped_mark(escape) {
            out.push(byte);
            6
        } else {
            out.extend_from_slice(escape.get(..2).unwrap_or(escape));
            2
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// The character that a text in JSON goes on with, unless it is written as two escapes.
fn first_character(json: &[u8]) -> Option<char> {
    match json.first()? {
        b'\\' => escaped_unit(json).and_then(char::from_u32),
        byte if byte.is_ascii() => Some(char::from(*byte)),
        _ => json.get(..json.len().min(4))?.utf8_chunks().next()?.valid().chars().next(),
    }
}

/// The letter or digit of ASCII or the `_` whose escape this begins with.
fn escaped_mark(json: &[u8]) -> Option<u8> {
    u8::try_from(escaped_unit(json)?).ok().filter(|byte| is_mark(char::from(*byte)))
}

/// The UTF-16 unit whose escape this begins with.
fn escaped_unit(json: &[u8]) -> Option<u32> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::super::Filter;
    use super::*;

    fn marks(track: &str) -> Vec<String> {
        let filter = Filter::parse(track).unwrap();
        let words = filter.prefilter.map(|prefilter| prefilter.words);
        words.into_iter().flatten().map(|word| word.text).collect()
    }

    fn may_match(track: &str, json: &str) -> bool {
        Filter::parse(track).unwrap().may_match(json.as_bytes())
    }

    #[test]
    fn two_characters_alone_beyond_ascii_become_ascii() {
        let becomes = |c: &char| !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii());
        let all: Vec<char> = ('\0'..=char::MAX).filter(becomes).collect();
        assert_eq!(all, ['İ', '\u{212a}']);
        assert_eq!("İ\u{212a}".to_lowercase(), "i\u{307}k");
    }

    #[test]
    fn a_mark_is_the_longest_run_of_ascii_that_nothing_else_becomes() {
        assert_eq!(
            marks("Amazon,prime video,C++,example.com/page"),
            ["amazon", "video", "c", "example"]
        );
        assert_eq!(
            marks("book,i\u{307}stanbul,ali\u{307},café_9"),
            ["boo", "stanbul", "al", "caf"]
        );
        assert!(Filter::parse("a,...").unwrap().prefilter.is_none());
        assert!(Filter::parse("k").unwrap().prefilter.is_none());
    }

    #[test]
    fn a_mark_is_found_however_it_is_written() {
        for json in [
            r#"{"text":"AmaZon"}"#,
            r#"{"text":"\u0041ma\u007Aon."}"#,
            r#"{"text":"\\\u0061mazon"}"#,
            r#"{"text":"買amazon\n"}"#,
            r#"{"text":"\u8cb7amazon\u3067"}"#,
            r#"{"text":"\namazon\ud83d\ude00"}"#,
        ] {
            assert!(may_match("amazon", json), "{json}");
            assert!(!may_match("twitter", json), "{json}");
        }
        for json in [r#""買""#, r#""\u8CB7""#, r#""\u8cb7""#] {
            assert!(may_match("買う", json) && !may_match("売る", json), "{json}");
        }
        assert!(may_match("1k9", r#""\u0031\u212a\u0039""#));
        assert!(may_match("ας", r#""\u03a3""#) && may_match("\u{10428}", r#""\uD801\uDC00""#));
    }

    /// The post would be parsed for nothing.
    #[test]
    fn a_longer_word_is_not_the_mark() {
        for json in [
            r#"{"text":"amazonian #newAmazon amazon_ amazon7"}"#,
            r#"{"text":"amazoné amazon\u00e9 amazon\u0301 Amazonя"}"#,
            r#"{"text":"\\u0061mazon amazo\\u006e"}"#,
            r#"{"text":"amaz on \u0062mazon"}"#,
        ] {
            assert!(!may_match("amazon", json), "{json}");
        }
    }

    #[test]
    fn six_bytes_are_found_at_every_place() {
        for length in 0..200 {
            for at in 0..length {
                let mut json = vec![b'x'; length];
                json[at] = b'\\';
                let is_first = stands_somewhere(&json, |[a, ..]| a ^ b'\\');
                assert!(is_first || at + 6 > length, "{at} of {length}");
                let is_last = stands_somewhere(&json, |[.., f]| f ^ b'\\');
                assert_eq!(is_last, at >= 5, "{at} of {length}");
            }
            assert!(!stands_somewhere(&vec![b'x'; length], |[a, ..]| a ^ b'\\'));
        }
    }
}
