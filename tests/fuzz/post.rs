//! Posts around a list of track phrases: their words in every case, in every place of a post and beside
//! every character; and records that are no posts.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::spelling::Spelling;

/// What words are made of: letters with a case or two, such that become ASCII in lower case, combining
/// marks, scripts without spaces, punctuation.
const LETTERS: &[char] = &[
    'a',
    'm',
    'A',
    'z',
    'Z',
    'o',
    'N',
    'k',
    'K',
    '\u{212a}',
    'i',
    'I',
    'İ',
    'ı',
    '\u{307}',
    '\u{301}',
    's',
    'ſ',
    'ß',
    'ẞ',
    'é',
    'É',
    'å',
    '\u{212b}',
    'σ',
    'ς',
    'Σ',
    'ω',
    'Ω',
    '\u{2126}',
    'ǆ',
    'ǅ',
    'Ǆ',
    'я',
    'Я',
    '買',
    'っ',
    'ア',
    'ｱ',
    '한',
    '\u{10400}',
    '\u{10428}',
    '😀',
    '0',
    '1',
    '6',
    '9',
    'c',
    'e',
    'u',
    'd',
    '_',
    '#',
    '@',
    '.',
    '/',
    '&',
    '\'',
    '-',
    '\\',
    '"',
];

/// What stands between words, or touches them.
const SEPARATORS: &[&str] = &[
    " ",
    " ",
    " ",
    "",
    "",
    "\n",
    "\t",
    ".",
    ",",
    "!",
    "\"",
    "\\",
    "\\u00",
    "/",
    "#",
    "@",
    "(",
    "_",
    "x",
    "k",
    "7",
    "é",
    "\u{301}",
    "買",
    "の",
    "\u{2028}",
    "\0",
    "\u{7f}",
    "\u{c}",
    "https://",
    "www.",
    "}",
    "},",
    "{",
    ",\"user\":{",
    "},\"x",
    "n",
    "u0041",
];

/// A phrase's term in some case, or anything, and what follows it.
#[derive(Clone, Debug)]
struct Piece {
    term: Option<prop::sample::Index>,
    word: String,
    case: u8,
    separator: &'static str,
}

#[derive(Clone, Debug)]
pub struct Draft {
    phrases: Vec<Vec<String>>,
    /// Of the places in the order of [`Draft::json`].
    texts: [Vec<Piece>; 12],
    spelling: u64,
}

pub fn drafts() -> impl Strategy<Value = Draft> {
    let word = || vec(select(LETTERS), 1..6).prop_map(String::from_iter);
    let piece = || {
        let term = prop::option::weighted(0.7, any::<prop::sample::Index>());
        (term, word(), 0_u8..6, select(SEPARATORS))
            .prop_map(|(term, word, case, separator)| Piece { term, word, case, separator })
    };
    let place = || prop_oneof![3 => Just(Vec::new()), 1 => vec(piece(), 1..4)];
    let places: [_; 12] = std::array::from_fn(|_| place());
    (vec(vec(word(), 1..3), 1..4), places, any::<u64>())
        .prop_map(|(phrases, texts, spelling)| Draft { phrases, texts, spelling })
}

impl Draft {
    pub fn track(&self) -> String {
        let phrases: Vec<String> = self.phrases.iter().map(|terms| terms.join(" ")).collect();
        phrases.join(",")
    }

    fn text(&self, place: usize) -> String {
        let terms: Vec<&String> = self.phrases.iter().flatten().collect();
        let mut text = String::new();
        for Piece { term, word, case, separator } in &self.texts[place] {
            let word = term.map_or(word, |term| *term.get(&terms));
            text.push_str(&match case {
                0 => word.to_uppercase(),
                1 => word.to_lowercase(),
                2 => word.replace(['k', 'K'], "\u{212a}").replace("i\u{307}", "İ"),
                3 => word.replace('å', "\u{212b}").replace('ß', "ẞ").replace('σ', "Σ"),
                4 => word.trim_matches(['#', '@']).to_owned(),
                _ => word.clone(),
            });
            text.push_str(separator);
        }
        text
    }

    /// The post, its members in v1.1's order or in another.
    pub fn json(&self) -> Vec<u8> {
        let mut json = Spelling::new(self.spelling);
        let mut members: Vec<u8> = (0..10).collect();
        match json.rng().u8(..4) {
            0 => json.rng().shuffle(&mut members),
            1 => members.rotate_right(3),
            _ => {}
        }
        json.raw("{");
        let mut is_first = true;
        for member in members {
            // Some are missing, as in a post without a retweeted one.
            if member > 4 && json.rng().bool() {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                json.raw(",");
            }
            self.member(&mut json, member);
        }
        json.raw("}");
        json.out
    }

    fn member(&self, json: &mut Spelling, member: u8) {
        let id = (1_050_118_621_198_921_728 + self.spelling % 1000).to_string();
        match member {
            0 => {
                json.name("created_at");
                json.raw("\"Wed Oct 10 20:19:24 +0000 2018\"");
            }
            1 => {
                json.name("id");
                json.raw(&id);
            }
            2 => {
                json.name("id_str");
                json.raw(&format!("\"{id}\""));
            }
            3 => {
                json.name("text");
                json.text(&self.text(0));
            }
            4 => self.user(json),
            5 => self.entities(json),
            6 => {
                json.name("extended_tweet");
                json.raw("{");
                json.name("full_text");
                json.text(&self.text(1));
                json.raw(",");
                self.entities(json);
                json.raw("}");
            }
            7 => {
                json.name("retweeted_status");
                json.raw("{");
                json.name("text");
                json.text(&self.text(2));
                json.raw(",");
                self.user(json);
                json.raw(",");
                self.entities(json);
                json.raw("}");
            }
            8 => {
                json.name("is_quote_status");
                json.raw("false");
            }
            _ => {
                json.name("source");
                json.text(&self.text(3));
            }
        }
    }

    fn user(&self, json: &mut Spelling) {
        json.name("user");
        json.raw("{");
        json.name("screen_name");
        json.raw("\"somebody\"");
        for (name, place) in [("name", 4), ("description", 5)] {
            json.raw(",");
            json.name(name);
            json.text(&self.text(place));
        }
        if json.rng().u8(..4) == 0 {
            json.raw(",");
            self.entities(json);
        }
        json.raw("}");
    }

    fn entities(&self, json: &mut Spelling) {
        json.name("entities");
        json.raw("{");
        for (index, (list, members)) in [
            ("hashtags", &[("text", 6)][..]),
            ("user_mentions", &[("screen_name", 7), ("name", 8)]),
            ("urls", &[("url", 9), ("expanded_url", 10), ("display_url", 11)]),
        ]
        .into_iter()
        .enumerate()
        {
            if index > 0 {
                json.raw(",");
            }
            json.name(list);
            json.raw("[{");
            for (index, (name, place)) in members.iter().enumerate() {
                if index > 0 {
                    json.raw(",");
                }
                json.name(name);
                json.text(&self.text(*place));
            }
            json.raw("}]");
        }
        json.raw("}");
    }
}

/// Records without a CRLF in them that are no posts, or hardly: JSON of the names that mean something, with values
/// that these may or may not have.
pub fn hostile() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: &[&str] = &[
        "created_at",
        "id",
        "id_str",
        "text",
        "user",
        "screen_name",
        "entities",
        "limit",
        "delete",
        "warning",
        "disconnect",
        "code",
        "track",
        "retweeted_status",
        "extended_tweet",
        "is_quote_status",
        "hashtags",
        "x",
    ];
    const LEAVES: &[&str] = &[
        "null",
        "true",
        "false",
        "0",
        "-1",
        "12",
        "1e999",
        "99999999999999999999",
        "\"\"",
        "\"12\"",
        "\"zebra\"",
        "\"\\ud83d\"",
        "\"Amazon\"",
        "[]",
        "{}",
        "nul",
        "\u{feff}",
        "\0",
        "",
    ];
    let leaf = select(LEAVES).prop_map(str::to_owned);
    let json = leaf.prop_recursive(3, 8, 4, |inner| {
        let members = vec((select(NAMES), inner.clone()), 0..7);
        prop_oneof![
            3 => members.prop_map(|members| {
                let members = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
            1 => vec(inner, 0..3).prop_map(|values| format!("[{}]", values.join(","))),
        ]
    });
    prop_oneof![json, almost_posts()]
        .prop_map(|json| if json.is_empty() { b"{".to_vec() } else { json.into_bytes() })
}

/// Members of a post in v1.1's order, some of them missing, or with values that make something else of it.
fn almost_posts() -> impl Strategy<Value = String> {
    const MEMBERS: [(&str, &[&str]); 7] = [
        ("x", &["", "null", "\"limit\""]),
        ("created_at", &["\"d\"", "\"d\"", "\"\"", "null", "5", "\"\\u0064\"", ""]),
        ("id", &["7", "7", "\"7\"", "-7", "07", "7.5", "77777777777777777777", "null", ""]),
        ("id_str", &["\"7\"", "\"7\"", "\"\"", "\"seven\"", "\"7x\"", "7", "null", ""]),
        ("text", &["\"t\"", "\"t\"", "null", "5", ""]),
        ("limit", &["", "", "null"]),
        ("user", &["{\"screen_name\":\"u\"}", "{\"screen_name\":\"u\"}", "null", "5", ""]),
    ];
    let front = select(
        &["", "", "\"limit\":{\"track\":1},", "\"delete\":false,", "\"is_quote_status\":false,"][..],
    );
    let values = MEMBERS.map(|(_, values)| select(values));
    let end = select(&["}", "}", "}", "", "]"][..]);
    (front, values, end).prop_map(|(front, values, end)| {
        let members = MEMBERS.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let members = members.map(|((name, _), value)| format!("\"{name}\":{value}"));
        format!("{{{front}{}{end}", members.collect::<Vec<_>>().join(","))
    })
}
