//! The track filter: which posts are kept.
//!
//! The rules are those that X documents for the `track` parameter of v1.1
//! ([Standard stream parameters][track]): phrases are separated by commas and any of them may
//! match; the terms of a phrase are separated by spaces and all of them must be present, in any
//! order and in any case. Searched are the text, the display and expanded form of links and media,
//! the text of hashtags and the names of mentioned users. The filter runs here too because a
//! compatible server need not filter, and a replay does not.
//!
//! - A term of letters, digits and `_` must stand as a word of its own: `twitter` is found in
//!   `“Twitter”`, `twitter.`, `#twitter`, `@twitter` and `http://twitter.com`, not in
//!   `TwitterTracker` or `#newtwitter`. Everything but letters, digits, `_` and combining marks
//!   separates words; marks belong to their letter, so that `touche` is not found in `touché`,
//!   however that is encoded.
//! - A term with punctuation in it must equal a whole word between white space, from which the
//!   punctuation around it, the `http://` or `https://` and the `www.` are taken first: `example.com`
//!   is found in `https://www.example.com`, not in `example.com/page`, and no hashtag or mention
//!   is equal to it.
//! - X calls languages written without spaces unsupported. Here their characters separate words,
//!   and a term that begins or ends with one needs no boundary on that side: `Amazon` is found in
//!   `Amazonで買った`, and `買った` too.
//!
//! [track]: https://developer.x.com/en/docs/twitter-api/v1/tweets/filter-realtime/guides/basic-stream-parameters

mod prefilter;

use memchr::memmem::Finder;
use unicode_normalization::char::is_combining_mark;

use self::prefilter::Prefilter;

/// The longest phrase, in bytes: X's limit.
const LONGEST_PHRASE: usize = 60;

/// How many phrases: X's limit for standard access to v1.1.
const MOST_PHRASES: usize = 400;

/// A list of track phrases.
pub struct Filter {
    text: String,
    phrases: Vec<Vec<Term>>,
    /// `None` where nothing can be told from a record's bytes.
    prefilter: Option<Prefilter>,
}

/// Why a list of phrases cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Nothing but commas and spaces.
    #[error("at least one phrase, several separated by commas")]
    Empty,
    /// Over 60 bytes.
    #[error("phrases of at most {LONGEST_PHRASE} bytes each, X's limit (phrase {0} is longer)")]
    TooLong(usize),
    /// Over 400 phrases.
    #[error("at most {MOST_PHRASES} phrases, X's limit")]
    TooMany,
}

/// What of a post is searched.
pub trait Searched {
    /// Calls `found` with each text in turn, until it returns true.
    fn any_text(&self, found: impl FnMut(&str) -> bool) -> bool;
}

struct Term {
    /// In lower case.
    folded: String,
    finder: Finder<'static>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Must stand as a word.
    Word,
    /// Holds punctuation: must equal a whole word between white space.
    Whole,
}

impl Filter {
    /// Reads a comma-separated list of phrases.
    ///
    /// # Errors
    /// A list without a phrase, and one beyond X's limits.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut phrases = Vec::new();
        for (index, phrase) in text.split(',').enumerate() {
            if phrase.trim().len() > LONGEST_PHRASE {
                return Err(FilterError::TooLong(index + 1));
            }
            let terms: Vec<Term> = phrase.split_whitespace().map(Term::new).collect();
            if !terms.is_empty() {
                phrases.push(terms);
            }
        }
        match phrases.len() {
            0 => Err(FilterError::Empty),
            1..=MOST_PHRASES => {
                let prefilter = Prefilter::new(&phrases);
                Ok(Self { text: text.to_owned(), phrases, prefilter })
            }
            _ => Err(FilterError::TooMany),
        }
    }

    /// The list as it was given: the value of the `track` parameter.
    #[must_use]
    pub fn track(&self) -> &str {
        &self.text
    }

    /// Whether a post may match that is written in JSON: false only where [`Self::matches`] is false for
    /// what parsing it gives. It costs a small part of the parsing. What is known not to be searched may be
    /// left out, and the rest given in several parts, each with whole texts.
    #[must_use]
    pub fn may_match(&self, json: &[u8]) -> bool {
        self.prefilter.as_ref().is_none_or(|prefilter| prefilter.may_match(json))
    }

    /// Whether the post matches a phrase.
    #[must_use]
    pub fn matches(&self, post: &impl Searched) -> bool {
        let mut texts = Vec::new();
        post.any_text(|text| {
            texts.push(text.to_lowercase());
            false
        });
        self.phrases
            .iter()
            .any(|terms| terms.iter().all(|term| texts.iter().any(|text| term.is_in(text))))
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

impl Term {
    fn new(term: &str) -> Self {
        let folded = term.to_lowercase();
        // A leading # or @ asks for the hashtag or the mention, whose text is a word.
        let word = folded.strip_prefix(['#', '@']).unwrap_or(&folded);
        let kind = if word.chars().all(|c| is_word(c) || is_unspaced(c)) {
            Kind::Word
        } else {
            Kind::Whole
        };
        Self { finder: Finder::new(folded.as_bytes()).into_owned(), folded, kind }
    }

    /// `text` is in lower case.
    fn is_in(&self, text: &str) -> bool {
        if self.finder.find(text.as_bytes()).is_none() {
            return false;
        }
        match self.kind {
            Kind::Word => self.is_word_of(text),
            Kind::Whole => text.split_whitespace().any(|word| self.is_whole(word)),
        }
    }

    fn is_word_of(&self, text: &str) -> bool {
        let open = |edge: Option<char>| edge.is_some_and(is_unspaced);
        let opens = open(self.folded.chars().next());
        let closes = open(self.folded.chars().next_back());
        self.finder.find_iter(text.as_bytes()).any(|start| {
            let before = text.get(..start).and_then(|text| text.chars().next_back());
            let after = text.get(start + self.folded.len()..).and_then(|text| text.chars().next());
            (opens || !before.is_some_and(is_word)) && (closes || !after.is_some_and(is_word))
        })
    }

    fn is_whole(&self, word: &str) -> bool {
        // '#' and '@' stay: a term with punctuation matches no hashtag and no mention.
        let edge = |c: char| !(is_word(c) || is_unspaced(c) || matches!(c, '#' | '@'));
        let opened = word.trim_start_matches(edge);
        let address = opened.strip_prefix("https://").or_else(|| opened.strip_prefix("http://"));
        let address = address.unwrap_or(opened);
        let address = address.strip_prefix("www.").unwrap_or(address);
        [word, opened, address]
            .into_iter()
            .any(|word| word.strip_prefix(&*self.folded).is_some_and(|rest| rest.chars().all(edge)))
    }
}

/// Whether a character belongs to a word of a language that is written with spaces.
fn is_word(c: char) -> bool {
    (c.is_alphanumeric() || c == '_' || is_combining_mark(c)) && !is_unspaced(c)
}

/// Whether a character is of a script that is written without spaces between words: kana, Han,
/// Bopomofo, Thai, Lao, Myanmar and Khmer.
const fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{312f}'
        | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}'
        | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Texts<'a>(&'a [&'a str]);

    impl Searched for Texts<'_> {
        fn any_text(&self, found: impl FnMut(&str) -> bool) -> bool {
            self.0.iter().copied().any(found)
        }
    }

    fn matches(track: &str, text: &str) -> bool {
        Filter::parse(track).unwrap().matches(&Texts(&[text]))
    }

    /// Each row: the track phrases, texts that match, texts that do not. The rows up to `example
    /// com` follow the table of examples in X's documentation.
    const EXAMPLES: &[(&str, &[&str], &[&str])] = &[
        (
            "Twitter",
            &[
                "TWITTER",
                "twitter",
                "“Twitter”",
                "twitter.",
                "#twitter",
                "@twitter",
                "http://twitter.com",
                "it's Twitter's",
            ],
            &["TwitterTracker", "#newtwitter", "twitter_fan", "twıtter"],
        ),
        (
            "Twitter’s",
            &["I like Twitter’s new design", "(Twitter’s)"],
            &["Someday I'd like to visit @Twitter’s office", "Twitter", "#Twitter’s"],
        ),
        (
            "twitter api,twitter streaming",
            &["The Twitter API is awesome", "Twitter has a streaming service", "an API of Twitter"],
            &["I'm new to Twitter", "api"],
        ),
        (
            "example.com",
            &["Someday I will visit example.com", "https://www.example.com/", "(example.com)."],
            &["There is no example.com/foobarbaz", "notexample.com", "example com"],
        ),
        (
            "example.com/foobarbaz",
            &["example.com/foobarbaz", "www.example.com/foobarbaz", "http://example.com/foobarbaz"],
            &["example.com"],
        ),
        ("www.example.com/foobarbaz", &[], &["example.com/foobarbaz"]),
        (
            "example com",
            &[
                "example.com",
                "www.example.com",
                "foo.example.com/bar",
                "an example of a dot com boom",
            ],
            &["examples.com"],
        ),
        ("touché", &["TOUCHÉ!"], &["touche", "touchée"]),
        ("touche", &["touche"], &["touche\u{301}", "touché"]),
        (
            "amazon",
            &["Amazonで買った", "昨日Amazon届いた", "amazon🎉", "#Amazon日本"],
            &["アマゾン"],
        ),
        ("買った,アマゾン", &["Amazonで買った本", "アマゾンで"], &["買う"]),
        ("cloud computing", &["Computing in the CLOUD", "#cloud #computing"], &["cloudcomputing"]),
        ("привет", &["ПРИВЕТ, мир"], &["приветик"]),
        ("#aws", &["learn #AWS, now", "#aws,#gcp", "#AWS's"], &["aws", "#awsome"]),
        ("C++", &["I like c++.", "(C++)"], &["c", "c++11 in C"]),
        ("अमेज़न", &["(अमेज़न)से", "अमेज़न/फ"], &["अमेज़नका"]),
        ("हिन", &["हिन"], &["हिन्दी"]),
        (" , aws ,, ", &["aws"], &["was"]),
    ];

    #[test]
    fn the_documented_examples_hold() {
        for (track, hits, misses) in EXAMPLES {
            for text in *hits {
                assert!(matches(track, text), "{track:?} should match {text:?}");
            }
            for text in *misses {
                assert!(!matches(track, text), "{track:?} should not match {text:?}");
            }
        }
    }

    #[test]
    fn the_terms_of_a_phrase_may_stand_in_different_places_of_a_post() {
        let filter = Filter::parse("fargate secrets").unwrap();
        assert!(filter.matches(&Texts(&["I use Fargate", "secrets"])));
        assert!(!filter.matches(&Texts(&["I use Fargate", "secret"])));
    }

    #[test]
    fn lists_beyond_the_limits_are_refused() {
        let error = |text: &str| Filter::parse(text).unwrap_err();
        assert_eq!(error(" , ,"), FilterError::Empty);
        assert_eq!(error(&format!("a,{}", "é".repeat(31))), FilterError::TooLong(2));
        assert_eq!(error(&"a,".repeat(401)), FilterError::TooMany);
        assert!(Filter::parse(&"a,".repeat(400)).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(track in "\\PC{1,15}", text in "\\PC{0,60}") {
            if let Ok(filter) = Filter::parse(&track) {
                let _ = filter.matches(&Texts(&[&text, &track]));
            }
        }

        #[test]
        fn a_word_is_found_between_any_separators(
            before in "[ .,!#@\"(\\n買いの]{0,3}", after in "[ .,!?\"')\\n買いの]{0,3}",
        ) {
            let text = format!("{before}AmaZon{after}");
            prop_assert!(matches("amazon", &text));
        }
    }
}
