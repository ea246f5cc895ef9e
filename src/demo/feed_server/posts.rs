//! Posts made up as fast as a stream can be written; a dialect's `post` module writes them as JSON.
//!
//! The generator is the oracle of the tests: it knows which posts a track filter must keep, because it put the
//! word there, or something that is not the word. It has no filter. What counts as the word is X's "Basic stream
//! parameters", section track: text, hashtag texts, mentioned screen names, display and expanded URLs are
//! searched, by whole words, whatever their case, punctuation aside; `#word` and `@word` match, `WordTracker` and
//! `#newword` do not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::accounts::alphanumeric;
use super::json::{Json, Style};
use super::vocabulary::{HASHTAGS, OTHER_WORDS, SENTENCES};

/// How many people post.
pub(super) const USERS: usize = 3_000;

/// The zero of snowflake ids: 2010-11-04T01:42:54.657Z.
const SNOWFLAKE_EPOCH: Duration = Duration::from_millis(1_288_834_974_657);

/// The row that a match must become.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpectedRow {
    /// v1.1: `user.screen_name`. v2: the author's `username`.
    pub user: String,
    /// `created_at`, as it was sent: v2 writes RFC 3339.
    pub date: String,
    /// The whole text: v1.1's `extended_tweet.full_text`, v2's `note_tweet.text`, where the post has one, else `text`;
    /// unescaped from JSON, HTML entities left as they are. Of a retweet v2 has no more than its `text`.
    pub text: String,
    /// v1.1: `id_str`. v2: `id`.
    pub id: String,
}

/// What [`Generator::next`] made up.
pub(super) enum Item {
    /// A post.
    Post(Box<Post>),
    /// Another message, of which v1.1 has many kinds and v2 none.
    Notice,
}

/// One post, before a dialect writes it.
pub(super) struct Post {
    pub(super) draft: Draft,
    pub(super) stamp: Stamp,
    pub(super) id: u64,
    pub(super) flavour: Flavour,
    /// The whole text of a post so long that the draft's text is only its beginning; else empty.
    pub(super) full_text: String,
    /// Whether it contains the word.
    pub(super) matches: bool,
    pub(super) style: Style,
}

/// Why posts cannot be generated for a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The oracle must know every word, and make new words from this one.
    #[error("posts are generated for a track of one word of 3 to 30 ASCII letters")]
    NotAWord,
    /// Posts that should not match would.
    #[error("the track is one of the words that generated posts are made of")]
    CommonWord,
}

pub(super) struct User {
    pub(super) screen_name: String,
    pub(super) id: u64,
    pub(super) created_at: String,
}

/// The identity and the second of an earlier post, to post again in.
#[derive(Clone)]
pub(super) struct Stamp {
    pub(super) user: usize,
    pub(super) milliseconds: u64,
    pub(super) date: String,
}

pub(super) struct Url {
    pub(super) short: String,
    pub(super) expanded: String,
    pub(super) display: String,
}

/// The places in a post that a filter looks at.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) lang: &'static str,
    pub(super) text: String,
    pub(super) hashtags: Vec<(String, [usize; 2])>,
    pub(super) mentions: Vec<(String, [usize; 2])>,
    pub(super) urls: Vec<(Url, [usize; 2])>,
    /// Whose post a retweet repeats: an index into the users.
    pub(super) retweeted: usize,
}

/// Where a post is the word, or nearly.
#[derive(Clone, Copy)]
pub(super) enum Flavour {
    /// Nothing of the word anywhere.
    Plain,
    /// In the text.
    Text,
    /// In one entity, and nowhere else.
    HashtagEntity,
    MentionEntity,
    DisplayUrl,
    ExpandedUrl,
    BothUrls,
    /// At the beginning of a post so long that `text` is only its beginning.
    LongText,
    /// In `extended_tweet.full_text` behind the place where `text` ends.
    FullText,
    /// In a URL of `extended_tweet.entities`, whose t.co address stands behind that place.
    FullTextUrl,
    /// In a retweet: in both texts.
    Retweet,
    /// In the text of a post that quotes another.
    Quote,
    /// A longer word in the text, or the word in pieces.
    NearText,
    /// The same behind the place where `text` ends.
    NearFullText,
    NearRetweet,
    NearEntities,
    /// The word, but in a place that is not searched: the author's name, description and location.
    Profile,
}

/// Writes posts and notices; the same seed and times give the same ones.
pub(super) struct Generator {
    pub(super) rng: fastrand::Rng,
    pub(super) word: String,
    matching: f64,
    pub(super) users: Vec<User>,
    pub(super) last_id: u64,
    pub(super) undelivered: u64,
    date: (u64, String),
    /// The latest stamp of a post that does not match, and of one that does.
    stamps: [Option<Stamp>; 2],
    pub(super) json: Json,
}

impl Generator {
    /// `track` is one word; `matching` is the share of posts that contain it.
    pub(super) fn new(seed: u64, track: &str, matching: f64) -> Result<Self, Error> {
        if !(3..=30).contains(&track.len()) || !track.bytes().all(|byte| byte.is_ascii_alphabetic())
        {
            return Err(Error::NotAWord);
        }
        let sentences = SENTENCES.iter().map(|(_, text)| *text);
        if sentences
            .chain(HASHTAGS)
            .chain([OTHER_WORDS])
            .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()))
            .any(|word| word.eq_ignore_ascii_case(track))
        {
            return Err(Error::CommonWord);
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let dates: Vec<String> =
            (0..100).map(|_| date(rng.u64(1_160_000_000..1_530_000_000))).collect();
        let users = (0..USERS).map(|index| user(&mut rng, index, &dates)).collect();
        Ok(Self {
            rng,
            word: track.to_owned(),
            matching,
            users,
            last_id: 0,
            undelivered: 0,
            date: (0, date(0)),
            stamps: [None, None],
            json: Json::default(),
        })
    }

    /// Makes up one message.
    pub(super) fn next(&mut self, now: SystemTime) -> Item {
        let now = since_epoch(now);
        if self.rng.u32(..256) == 0 {
            return Item::Notice;
        }
        let matches = self.rng.f64() < self.matching;
        let flavour = self.flavour(matches);
        let stamp = self.stamp(now, matches);
        let id = self.id(now);
        let style = self.style();
        let mut full_text = String::new();
        let draft = self.draft(flavour, &mut full_text);
        Item::Post(Box::new(Post { draft, stamp, id, flavour, full_text, matches, style }))
    }

    fn flavour(&mut self, matches: bool) -> Flavour {
        let roll = self.rng.u32(..100);
        if matches {
            match roll {
                0..50 => Flavour::Text,
                50..56 => Flavour::LongText,
                56..60 => Flavour::HashtagEntity,
                60..64 => Flavour::MentionEntity,
                64..67 => Flavour::DisplayUrl,
                67..70 => Flavour::ExpandedUrl,
                70..74 => Flavour::BothUrls,
                74..82 => Flavour::FullText,
                82..84 => Flavour::FullTextUrl,
                84..94 => Flavour::Retweet,
                _ => Flavour::Quote,
            }
        } else {
            match roll {
                0..50 => Flavour::Plain,
                50..70 => Flavour::NearText,
                70..78 => Flavour::NearFullText,
                78..86 => Flavour::NearRetweet,
                86..93 => Flavour::NearEntities,
                _ => Flavour::Profile,
            }
        }
    }

    /// Who posts and when. Now and then somebody posts twice in the same second.
    fn stamp(&mut self, now: Duration, matches: bool) -> Stamp {
        let again = self.rng.u32(..32) == 0;
        let earlier = self.stamps.get_mut(usize::from(matches));
        if let Some(Some(stamp)) = &earlier
            && again
        {
            return stamp.clone();
        }
        if self.date.0 != now.as_secs() {
            self.date = (now.as_secs(), date(now.as_secs()));
        }
        let stamp = Stamp {
            user: self.rng.usize(..USERS),
            milliseconds: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            date: self.date.1.clone(),
        };
        if let Some(earlier) = earlier {
            *earlier = Some(stamp.clone());
        }
        stamp
    }

    /// Increasing, and about what X would have given at that time: more than a double holds.
    fn id(&mut self, now: Duration) -> u64 {
        let milliseconds = now.saturating_sub(SNOWFLAKE_EPOCH).as_millis();
        let floor = u64::try_from(milliseconds << 22).unwrap_or(u64::MAX);
        self.last_id = self.last_id.max(floor).saturating_add(self.rng.u64(1..4096));
        self.last_id
    }

    fn style(&mut self) -> Style {
        match self.rng.u32(..100) {
            0..60 => Style::Ascii,
            60..85 => Style::Unicode,
            85..98 => Style::BareSlashes,
            _ => Style::Needless,
        }
    }

    /// Composes the text and its entities. `full_text` stays empty unless the post is a truncated one, which has
    /// both.
    fn draft(&mut self, flavour: Flavour, full_text: &mut String) -> Draft {
        let mut draft = Draft::default();
        let (lang, sentence) = self.sentence();
        draft.lang = lang;
        match flavour {
            Flavour::Plain | Flavour::Profile => {
                draft.text.push_str(sentence);
                self.decorate(&mut draft);
            }
            Flavour::HashtagEntity => {
                draft.text.push_str(sentence);
                let at = end(&draft.text);
                let hashtag = self.word_in_any_case();
                draft.hashtags.push((hashtag, at));
            }
            Flavour::MentionEntity => {
                draft.text.push_str(sentence);
                let at = end(&draft.text);
                let name = self.word_in_any_case();
                draft.mentions.push((name, at));
            }
            Flavour::DisplayUrl | Flavour::ExpandedUrl | Flavour::BothUrls => {
                draft.text.push_str(sentence);
                let url = self.url_with_the_word(flavour);
                push_url(&mut draft, url);
            }
            Flavour::Text | Flavour::Retweet | Flavour::Quote => {
                if matches!(flavour, Flavour::Retweet) {
                    self.retweet_prefix(&mut draft);
                }
                self.sentence_with_the_word(&mut draft, sentence);
            }
            Flavour::NearText | Flavour::NearRetweet => {
                if matches!(flavour, Flavour::NearRetweet) {
                    self.retweet_prefix(&mut draft);
                }
                self.sentence_with_a_near_miss(&mut draft, sentence);
            }
            Flavour::NearEntities => {
                draft.text.push_str(sentence);
                self.near_miss_entities(&mut draft);
            }
            Flavour::LongText
            | Flavour::FullText
            | Flavour::FullTextUrl
            | Flavour::NearFullText => {
                match flavour {
                    Flavour::LongText => self.sentence_with_the_word(&mut draft, sentence),
                    _ => draft.text.push_str(sentence),
                }
                while draft.text.chars().count() < 150 {
                    let (_, sentence) = self.sentence();
                    draft.text.push(' ');
                    draft.text.push_str(sentence);
                }
                draft.text.push(' ');
                let (_, sentence) = self.sentence();
                match flavour {
                    Flavour::FullText => self.sentence_with_the_word(&mut draft, sentence),
                    Flavour::LongText => draft.text.push_str(sentence),
                    Flavour::NearFullText => self.sentence_with_a_near_miss(&mut draft, sentence),
                    _ => {
                        let url = self.url_with_the_word(Flavour::BothUrls);
                        push_url(&mut draft, url);
                    }
                }
                full_text.push_str(&draft.text);
                let shown = first_words(full_text, 110);
                draft.text =
                    format!("{shown}\u{2026} https://t.co/{}", alphanumeric(&mut self.rng, 10));
            }
        }
        if matches!(flavour, Flavour::Quote) {
            let id = self.last_id.saturating_sub(self.rng.u64(1..1 << 40));
            let url = Url {
                short: self.short_url(),
                expanded: format!("https://twitter.com/i/web/status/{id}"),
                display: "twitter.com/i/web/status/1\u{2026}".to_owned(),
            };
            push_url(&mut draft, url);
        }
        draft
    }

    pub(super) fn sentence(&mut self) -> (&'static str, &'static str) {
        self.rng.choice(SENTENCES).unwrap_or_default()
    }

    /// Ordinary entities.
    fn decorate(&mut self, draft: &mut Draft) {
        if self.rng.u32(..4) == 0 {
            let hashtag = self.rng.choice(HASHTAGS).unwrap_or_default();
            push_token(&mut draft.text, &mut draft.hashtags, '#', hashtag.to_owned());
        }
        if self.rng.u32(..4) == 0 {
            let name = self.screen_name();
            push_token(&mut draft.text, &mut draft.mentions, '@', name);
        }
        if self.rng.u32(..4) == 0 {
            let url = Url {
                short: self.short_url(),
                expanded: "https://www.example.com/news/article".to_owned(),
                display: "example.com/news/article".to_owned(),
            };
            push_url(draft, url);
        }
    }

    fn retweet_prefix(&mut self, draft: &mut Draft) {
        draft.retweeted = self.rng.usize(..USERS);
        let name = self
            .users
            .get(draft.retweeted)
            .map(|user| user.screen_name.clone())
            .unwrap_or_default();
        draft.text.extend(["RT @", &name, ": "]);
        let end = 4 + name.len();
        draft.mentions.push((name, [3, end]));
    }

    fn word_in_any_case(&mut self) -> String {
        match self.rng.u32(..4) {
            0 => self.word.clone(),
            1 => self.word.to_ascii_lowercase(),
            2 => self.word.to_ascii_uppercase(),
            _ => {
                let flip = |c: char| {
                    if self.rng.bool() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
                };
                self.word.chars().map(flip).collect()
            }
        }
    }

    fn sentence_with_the_word(&mut self, draft: &mut Draft, sentence: &str) {
        let word = self.word_in_any_case();
        let (before, after) = match self.rng.u32(..14) {
            0 => ("#", ""),
            1 => ("@", ""),
            2 => ("", "."),
            3 => ("", ","),
            4 => ("", "!"),
            5 => ("(", ")?"),
            6 => ("\"", "\""),
            7 => ("\n", "\n"),
            8 => ("&lt;", "&gt;"),
            9 => ("[", "]:"),
            _ => ("", ""),
        };
        let place = self.rng.u32(..3);
        let range = insert(&mut draft.text, sentence, place, &[before, &word, after]);
        match before {
            "#" => draft.hashtags.push((word, range)),
            "@" => draft.mentions.push((word, range)),
            _ => {}
        }
    }

    /// Whole words that are not the word, always between spaces.
    fn sentence_with_a_near_miss(&mut self, draft: &mut Draft, sentence: &str) {
        let word = self.word_in_any_case();
        let half = word.len() / 2;
        let near = match self.rng.u32(..10) {
            0 => format!("{word}Tracker"),
            1 => format!("{}ian", word.to_ascii_lowercase()),
            2 => format!("#new{word}"),
            3 => format!("new{word}"),
            4 => format!("@{word}Help"),
            5 => format!("#{word}Deals2018"),
            6 => format!("{word}\u{e9}"),
            7 => format!(
                "{} {}",
                word.get(..half).unwrap_or_default(),
                word.get(half..).unwrap_or_default()
            ),
            // X: "UTF-8 characters will match exactly, even in cases where an equivalent ASCII character exists".
            8 => word.bytes().filter_map(|byte| char::from_u32(u32::from(byte) + 0xfee0)).collect(),
            _ => format!("{word}{word}"),
        };
        let place = self.rng.u32(..3);
        let range = insert(&mut draft.text, sentence, place, &[&near]);
        if let Some(hashtag) = near.strip_prefix('#') {
            draft.hashtags.push((hashtag.to_owned(), range));
        } else if let Some(name) = near.strip_prefix('@') {
            draft.mentions.push((name.to_owned(), range));
        }
    }

    fn near_miss_entities(&mut self, draft: &mut Draft) {
        let word = self.word_in_any_case();
        let at = end(&draft.text);
        match self.rng.u32(..3) {
            0 => draft.hashtags.push((format!("new{word}"), at)),
            1 => draft.mentions.push((format!("{word}Tracker"), at)),
            _ => {
                let host = format!("{}ian.com", word.to_ascii_lowercase());
                let url = Url {
                    short: self.short_url(),
                    expanded: format!("https://{host}"),
                    display: host,
                };
                push_url(draft, url);
            }
        }
    }

    /// The word as a domain, without a path: X's own table has `http://twitter.com` as a match of `Twitter`, and
    /// says less clearly what a path does.
    fn url_with_the_word(&mut self, flavour: Flavour) -> Url {
        let word = self.word_in_any_case();
        let elsewhere = "example.com/blog";
        Url {
            short: self.short_url(),
            expanded: match flavour {
                Flavour::DisplayUrl => format!("https://{elsewhere}"),
                _ => format!("http://{word}.com"),
            },
            display: match flavour {
                Flavour::ExpandedUrl => elsewhere.to_owned(),
                _ => format!("{word}.com"),
            },
        }
    }

    fn short_url(&mut self) -> String {
        format!("https://t.co/{}", alphanumeric(&mut self.rng, 10))
    }

    fn screen_name(&mut self) -> String {
        let index = self.rng.usize(..USERS);
        self.users.get(index).map(|user| user.screen_name.clone()).unwrap_or_default()
    }
}

/// What [`stream_of`] made.
#[derive(Debug, Default)]
pub struct Generated {
    /// The messages in v1.1, each with its CRLF.
    pub stream: Vec<u8>,
    /// How many of them are posts. The others are notices.
    pub posts: u64,
    /// How many of the posts match.
    pub posts_matching: u64,
}

/// A stream of so many messages in v1.1 without a server, all of them of one moment.
///
/// # Errors
/// The generator cannot work with this track.
pub fn stream_of(
    messages: usize,
    seed: u64,
    track: &str,
    matching: f64,
    now: SystemTime,
) -> Result<Generated, Error> {
    let mut generator = Generator::new(seed, track, matching)?;
    let mut generated = Generated::default();
    let mut json = Vec::new();
    for _ in 0..messages {
        json.clear();
        match generator.next(now) {
            Item::Post(post) => {
                generator.write_v1_1(&post, &mut json);
                generated.posts += 1;
                generated.posts_matching += u64::from(generator.row_v1_1(&post).is_some());
            }
            Item::Notice => generator.write_notice(now, &mut json),
        }
        generated.stream.extend_from_slice(&json);
        generated.stream.extend_from_slice(b"\r\n");
    }
    Ok(generated)
}

fn user(rng: &mut fastrand::Rng, index: usize, dates: &[String]) -> User {
    const SYLLABLES: [&str; 16] = [
        "ka", "mi", "ro", "ne", "shi", "to", "lu", "be", "dan", "vel", "or", "pix", "ya", "zen",
        "gra", "fu",
    ];
    let name: String = (0..rng.usize(2..4)).filter_map(|_| rng.choice(SYLLABLES)).collect();
    User {
        // A track is all letters: with its digits no name can be one, and no two are the same.
        screen_name: format!("{name}{index}"),
        id: rng.u64(10_000..4_000_000_000),
        created_at: rng.choice(dates).cloned().unwrap_or_default(),
    }
}

pub(super) fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// "Wed Oct 10 20:19:24 +0000 2018".
fn date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let date = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    date.format("%a %b %d %H:%M:%S +0000 %Y").to_string()
}

/// The empty range behind a text, in code points as X counts them.
pub(super) fn end(text: &str) -> [usize; 2] {
    let length = text.chars().count();
    [length, length]
}

fn push_token(
    text: &mut String,
    entities: &mut Vec<(String, [usize; 2])>,
    sign: char,
    token: String,
) {
    text.push(' ');
    let [start, _] = end(text);
    text.push(sign);
    text.push_str(&token);
    entities.push((token, [start, end(text)[1]]));
}

fn push_url(draft: &mut Draft, url: Url) {
    draft.text.push(' ');
    let [start, _] = end(&draft.text);
    draft.text.push_str(&url.short);
    draft.urls.push((url, [start, end(&draft.text)[1]]));
}

/// Appends a sentence with something before it (`place` 0), behind it (1) or at its first space, always between
/// spaces; returns where that something is.
fn insert(text: &mut String, sentence: &str, place: u32, parts: &[&str]) -> [usize; 2] {
    let at = match place {
        0 => 0,
        1 => sentence.len(),
        _ => sentence.find(' ').unwrap_or(sentence.len()),
    };
    let (left, right) = sentence.split_at_checked(at).unwrap_or((sentence, ""));
    text.push_str(left);
    if !left.is_empty() {
        text.push(' ');
    }
    let [start, _] = end(text);
    text.extend(parts.iter().copied());
    let [end, _] = end(text);
    if !right.is_empty() {
        text.push(' ');
        text.push_str(right.trim_start_matches(' '));
    }
    [start, end]
}

/// As much of the beginning as `limit` characters hold, ending before a space where there is one: a near miss cut
/// in the middle could be a match.
fn first_words(text: &str, limit: usize) -> &str {
    let cut = text.char_indices().nth(limit).map_or(text.len(), |(at, _)| at);
    let shown = text.get(..cut).unwrap_or(text);
    shown
        .rfind(' ')
        .and_then(|space| shown.get(..space))
        .filter(|shown| !shown.is_empty())
        .unwrap_or(shown)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_539_202_764)
    }

    /// So many posts, each with the row that the oracle expects.
    fn posts(seed: u64, matching: f64, count: usize) -> Vec<(Vec<u8>, Option<ExpectedRow>)> {
        let mut generator = Generator::new(seed, "Amazon", matching).unwrap();
        let mut posts = Vec::new();
        while posts.len() < count {
            let mut json = Vec::new();
            // Half a millisecond between posts.
            let now = now() + Duration::from_micros(500) * u32::try_from(posts.len()).unwrap();
            if let Item::Post(post) = generator.next(now) {
                generator.write_v1_1(&post, &mut json);
                posts.push((json, generator.row_v1_1(&post).map(|row| *row)));
            }
        }
        posts
    }

    fn parse(json: &[u8]) -> Value {
        serde_json::from_slice(json)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(json)))
    }

    fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
        value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A second opinion on what matches: every place X names, cut into words.
    fn contains_the_word(post: &Value) -> bool {
        let mut searched = vec![
            text(post, "/text").to_owned(),
            text(post, "/extended_tweet/full_text").to_owned(),
        ];
        for entities in ["/entities", "/extended_tweet/entities"] {
            for (list, keys) in [
                ("hashtags", &["text"][..]),
                ("user_mentions", &["screen_name"]),
                ("urls", &["expanded_url", "display_url"]),
            ] {
                let list = post.pointer(&format!("{entities}/{list}")).and_then(Value::as_array);
                for entity in list.into_iter().flatten() {
                    searched
                        .extend(keys.iter().map(|key| entity[key].as_str().unwrap().to_owned()));
                }
            }
        }
        searched
            .iter()
            .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()))
            .any(|word| word.eq_ignore_ascii_case("amazon"))
    }

    #[test]
    fn the_oracle_and_a_search_for_the_word_agree() {
        for (json, row) in posts(1, 0.5, 8_000) {
            let post = parse(&json);
            assert_eq!(contains_the_word(&post), row.is_some(), "{post:#}");
        }
    }

    #[test]
    fn the_row_is_what_the_post_says() {
        for (json, row) in posts(2, 1.0, 2_500) {
            let (post, row) = (parse(&json), row.unwrap());
            assert_eq!(row.user, text(&post, "/user/screen_name"));
            assert_eq!(row.date, text(&post, "/created_at"));
            assert_eq!(row.id, text(&post, "/id_str"));
            assert_eq!(row.id, post["id"].as_u64().unwrap().to_string());
            let truncated = post["truncated"].as_bool().unwrap();
            assert_eq!(truncated, post.get("extended_tweet").is_some());
            let pointer = if truncated { "/extended_tweet/full_text" } else { "/text" };
            assert_eq!(row.text, text(&post, pointer));
        }
    }

    #[test]
    fn near_misses_are_many_and_contain_the_letters_of_the_word() {
        let near = posts(3, 0.0, 2_000)
            .iter()
            .filter(|(json, _)| parse(json).to_string().to_ascii_lowercase().contains("amazon"))
            .count();
        assert!(near > 600, "{near}");
    }

    #[test]
    fn the_share_of_matches_is_the_one_asked_for() {
        for matching in [0.0, 0.01, 0.5, 1.0] {
            let matches =
                posts(4, matching, 10_000).iter().filter(|(_, row)| row.is_some()).count();
            let expected = 10_000.0 * matching;
            let difference = (f64::from(u32::try_from(matches).unwrap()) - expected).abs();
            assert!(difference <= 0.02 * expected + 30.0, "{matching}: {matches}");
        }
    }

    #[test]
    fn ids_are_unique_and_increase_and_no_double_holds_them() {
        let ids: Vec<u64> = posts(5, 0.5, 4_000)
            .iter()
            .map(|(json, _)| parse(json)["id"].as_u64().unwrap())
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| *id > 1 << 53));
    }

    #[test]
    fn some_people_post_twice_in_a_second_also_when_posts_are_rare() {
        let mut rows = HashMap::new();
        let mut generator = Generator::new(6, "Amazon", 0.1).unwrap();
        for second in 0..20_000 {
            let now = now() + Duration::from_secs(second);
            if let Item::Post(post) = generator.next(now)
                && let Some(row) = generator.row_v1_1(&post)
            {
                *rows.entry((row.user, row.date)).or_insert(0) += 1;
            }
        }
        let collisions = rows.values().filter(|count| **count > 1).count();
        assert!((20..200).contains(&collisions), "{collisions} of {}", rows.len());
    }

    #[test]
    fn posts_have_the_size_the_languages_and_the_oddities_of_real_ones() {
        let posts = posts(7, 0.3, 2_500);
        let bytes: usize = posts.iter().map(|(json, _)| json.len()).sum();
        let average = bytes / posts.len();
        assert!((2_000..3_000).contains(&average), "{average}");
        let raw: Vec<String> =
            posts.iter().map(|(json, _)| String::from_utf8(json.clone()).unwrap()).collect();
        let parsed: Vec<Value> = posts.iter().map(|(json, _)| parse(json)).collect();
        let languages: HashSet<&str> = parsed.iter().map(|post| text(post, "/lang")).collect();
        for language in ["ja", "en", "ar", "fr"] {
            assert!(languages.contains(language), "{language}");
        }
        let some_text =
            |wanted: &str| parsed.iter().any(|post| text(post, "/text").contains(wanted));
        for wanted in ["\u{200d}", "\"", "\\", "\n", "\u{7}", "&amp;", "日", "é", "م", "\u{1f468}"]
        {
            assert!(some_text(wanted), "{wanted:?}");
        }
        // The last but one: an escaped small ASCII letter. The last: a bare LF between tokens.
        for wanted in ["\\ud83d\\ude2d", "\\/", "t.co/", "\\u00e9", "é", "\\u006E", "\n"] {
            assert!(raw.iter().any(|json| json.contains(wanted)), "{wanted:?}");
        }
        assert!(raw.iter().all(|json| !json.contains('\r') && !json.contains("\\r\\n")));
        for member in ["retweeted_status", "quoted_status", "extended_tweet"] {
            assert!(parsed.iter().any(|post| post.get(member).is_some()), "{member}");
        }
        assert!(raw.iter().any(|json| json.starts_with(r#"{"retweeted_status""#)));
    }

    #[test]
    fn every_kind_of_notice_is_sent_and_is_json() {
        let mut kinds = HashSet::new();
        let mut generator = Generator::new(8, "Amazon", 0.5).unwrap();
        for _ in 0..20_000 {
            let mut json = Vec::new();
            if let Item::Notice = generator.next(now()) {
                generator.write_notice(now(), &mut json);
                kinds.extend(parse(&json).as_object().unwrap().keys().cloned());
            }
        }
        let mut kinds: Vec<String> = kinds.into_iter().collect();
        kinds.sort();
        assert_eq!(
            kinds,
            ["delete", "limit", "scrub_geo", "status_withheld", "user_withheld", "warning"]
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_posts_and_another_seed_others() {
        assert_eq!(posts(9, 0.5, 100), posts(9, 0.5, 100));
        assert_ne!(posts(9, 0.5, 100), posts(10, 0.5, 100));
    }

    #[test]
    fn a_track_that_would_blind_the_oracle_is_refused() {
        for track in ["", "ab", "two words", "a,b", "日本語", "amazon.com", "v1beta"] {
            assert_eq!(Generator::new(1, track, 0.5).err(), Some(Error::NotAWord), "{track}");
        }
        for track in ["https", "Coffee", "example", "station"] {
            let expected = (track != "Coffee").then_some(Error::CommonWord);
            assert_eq!(Generator::new(1, track, 0.5).err(), expected, "{track}");
        }
    }

    #[test]
    fn dates_are_written_as_twitter_does() {
        assert_eq!(date(1_539_202_764), "Wed Oct 10 20:19:24 +0000 2018");
    }
}
