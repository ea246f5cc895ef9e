//! Posts that look like v1.1's, made up as fast as a stream can be written.
//!
//! The generator is the oracle of the tests: it knows which posts a track filter must keep, because it put the
//! word there, or something that is not the word. It has no filter. What counts as the word is X's "Basic stream
//! parameters", section track: text, hashtag texts, mentioned screen names, display and expanded URLs are
//! searched, by whole words, whatever their case, punctuation aside; `#word` and `@word` match, `WordTracker` and
//! `#newword` do not.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::accounts::alphanumeric;
use super::json::{Json, Style};
use super::vocabulary::{
    DESCRIPTIONS, HASHTAGS, LOCATIONS, NAMES, OTHER_WORDS, SENTENCES, SOURCES,
};

/// How many people post.
const USERS: usize = 3_000;

/// The zero of snowflake ids: 2010-11-04T01:42:54.657Z.
const SNOWFLAKE_EPOCH: Duration = Duration::from_millis(1_288_834_974_657);

/// The row that a match must become.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpectedRow {
    /// `user.screen_name`.
    pub user: String,
    /// `created_at`, as it was sent.
    pub date: String,
    /// `extended_tweet.full_text` where the post is truncated, else `text`; unescaped from JSON, HTML entities
    /// left as they are.
    pub text: String,
    /// `id_str`.
    pub id: String,
}

/// What [`Generator::next`] wrote.
pub(super) enum Item {
    /// A post; the row if it matches.
    Post(Option<Box<ExpectedRow>>),
    /// Another message.
    Notice,
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

struct User {
    screen_name: String,
    id: u64,
    created_at: String,
}

/// The identity and the second of an earlier post, to post again in.
#[derive(Clone)]
struct Stamp {
    user: usize,
    milliseconds: u64,
    date: String,
}

struct Url {
    short: String,
    expanded: String,
    display: String,
}

/// The places in a post that a filter looks at.
#[derive(Default)]
struct Draft {
    lang: &'static str,
    text: String,
    hashtags: Vec<(String, [usize; 2])>,
    mentions: Vec<(String, [usize; 2])>,
    urls: Vec<(Url, [usize; 2])>,
    /// Whose post a retweet repeats: an index into the users.
    retweeted: usize,
}

/// Where a post is the word, or nearly.
#[derive(Clone, Copy)]
enum Flavour {
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
    rng: fastrand::Rng,
    word: String,
    matching: f64,
    users: Vec<User>,
    last_id: u64,
    undelivered: u64,
    date: (u64, String),
    /// The latest stamp of a post that does not match, and of one that does.
    stamps: [Option<Stamp>; 2],
    json: Json,
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

    /// Appends one message, without its line's end.
    pub(super) fn next(&mut self, out: &mut Vec<u8>, now: SystemTime) -> Item {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.json.start(std::mem::take(out));
        let item = if self.rng.u32(..256) == 0 {
            self.notice(now);
            Item::Notice
        } else {
            Item::Post(self.post(now))
        };
        *out = self.json.finish();
        item
    }

    fn post(&mut self, now: Duration) -> Option<Box<ExpectedRow>> {
        let matches = self.rng.f64() < self.matching;
        let flavour = self.flavour(matches);
        let stamp = self.stamp(now, matches);
        let id = self.id(now);
        let style = self.style();
        self.json.style(style);
        let mut row_text = String::new();
        let draft = self.draft(flavour, &mut row_text);
        self.write_post(&draft, &stamp, id, flavour, &row_text);
        let user = self.users.get(stamp.user)?;
        matches.then(|| {
            Box::new(ExpectedRow {
                user: user.screen_name.clone(),
                date: stamp.date,
                text: if row_text.is_empty() { draft.text } else { row_text },
                id: id.to_string(),
            })
        })
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

    fn sentence(&mut self) -> (&'static str, &'static str) {
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

    fn write_post(
        &mut self,
        draft: &Draft,
        stamp: &Stamp,
        id: u64,
        flavour: Flavour,
        full_text: &str,
    ) {
        // X: "the attributes of a JSON-encoded object are unordered": now and then what is nested comes first.
        let nested_first = self.rng.u32(..16) == 0;
        self.json.raw("{");
        if nested_first {
            self.nested(draft, stamp, id, flavour);
        }
        self.head(&stamp.date, id, &draft.text);
        self.json.raw(r#","source":"#);
        let source = self.rng.choice(SOURCES).unwrap_or_default();
        self.json.text(source);
        self.json.raw(if full_text.is_empty() {
            r#","truncated":false"#
        } else {
            r#","truncated":true"#
        });
        if self.rng.u32(..64) == 0 {
            // JSON permits whitespace between tokens, and X says that a bare LF may stand inside a record.
            self.json.raw("\n");
        }
        self.json.raw(concat!(
            r#","in_reply_to_status_id":null,"in_reply_to_status_id_str":null,"in_reply_to_user_id":null,"#,
            r#""in_reply_to_user_id_str":null,"in_reply_to_screen_name":null,"user":"#
        ));
        self.user(stamp.user, matches!(flavour, Flavour::Profile));
        self.json.raw(r#","geo":null,"coordinates":null,"place":null,"contributors":null"#);
        if !nested_first {
            self.nested(draft, stamp, id, flavour);
        }
        if !full_text.is_empty() {
            self.json.raw(r#","extended_tweet":{"full_text":"#);
            self.json.text(full_text);
            self.json.raw(r#","display_text_range":[0,"#);
            self.json.number(end(full_text)[1] as u64);
            self.json.raw(r#"],"entities":"#);
            self.entities(draft);
            self.json.raw("}");
        }
        self.json.raw(
            r#","quote_count":0,"reply_count":0,"retweet_count":0,"favorite_count":0,"entities":"#,
        );
        if full_text.is_empty() {
            self.entities(draft);
        } else {
            self.entities(&Draft::default());
        }
        self.json.raw(r#","favorited":false,"retweeted":false,"possibly_sensitive":false"#);
        self.json.raw(r#","filter_level":"low","lang":"#);
        self.json.text(draft.lang);
        self.json.raw(r#","timestamp_ms":""#);
        self.json.number(stamp.milliseconds);
        self.json.raw("\"}");
    }

    /// The post that this one retweets or quotes, followed or preceded by a comma as its place asks for.
    fn nested(&mut self, draft: &Draft, stamp: &Stamp, id: u64, flavour: Flavour) {
        let first = self.json.ends_with(b"{");
        if !first {
            self.json.raw(",");
        }
        let nested_id = id.saturating_sub(self.rng.u64(1..1 << 40));
        match flavour {
            Flavour::Retweet | Flavour::NearRetweet => {
                let text = draft.text.split_once(": ").map_or("", |(_, text)| text);
                let range = end(text);
                let mut nested =
                    Draft { lang: draft.lang, text: text.to_owned(), ..Draft::default() };
                nested
                    .hashtags
                    .extend(draft.hashtags.iter().map(|(text, _)| (text.clone(), range)));
                nested
                    .mentions
                    .extend(draft.mentions.iter().skip(1).map(|(name, _)| (name.clone(), range)));
                self.json.raw(r#""retweeted_status":{"#);
                self.nested_post(&nested, draft.retweeted, &stamp.date, nested_id);
                self.json.raw(r#"},"is_quote_status":false"#);
            }
            Flavour::Quote => {
                let (lang, sentence) = self.sentence();
                let nested = Draft { lang, text: sentence.to_owned(), ..Draft::default() };
                self.json.raw(r#""quoted_status_id":"#);
                self.json.number(nested_id);
                self.json.raw(r#","quoted_status_id_str":""#);
                self.json.number(nested_id);
                self.json.raw(r#"","quoted_status":{"#);
                let author = self.rng.usize(..USERS);
                self.nested_post(&nested, author, &stamp.date, nested_id);
                self.json.raw(r#"},"is_quote_status":true"#);
            }
            _ => self.json.raw(r#""is_quote_status":false"#),
        }
        if first {
            self.json.raw(",");
        }
    }

    fn nested_post(&mut self, draft: &Draft, author: usize, date: &str, id: u64) {
        self.head(date, id, &draft.text);
        self.json.raw(r#","truncated":false,"user":"#);
        self.user(author, false);
        self.json
            .raw(r#","is_quote_status":false,"retweet_count":12,"favorite_count":34,"entities":"#);
        self.entities(draft);
        self.json.raw(r#","lang":"#);
        self.json.text(draft.lang);
    }

    fn head(&mut self, date: &str, id: u64, text: &str) {
        self.json.raw(r#""created_at":""#);
        self.json.raw(date);
        self.json.raw(r#"","id":"#);
        self.json.number(id);
        self.json.raw(r#","id_str":""#);
        self.json.number(id);
        self.json.raw(r#"","text":"#);
        self.json.text(text);
    }

    fn user(&mut self, index: usize, with_the_word: bool) {
        let Some(user) = self.users.get(index) else {
            return;
        };
        let json = &mut self.json;
        let pick =
            |list: &[&'static str]| list.get(index % list.len()).copied().unwrap_or_default();
        let marked = |plain: &'static str| {
            if with_the_word {
                Cow::Owned(format!("{plain} {} ", self.word))
            } else {
                Cow::Borrowed(plain)
            }
        };
        json.raw(r#"{"id":"#);
        json.number(user.id);
        json.raw(r#","id_str":""#);
        json.number(user.id);
        json.raw(r#"","name":"#);
        json.text(&marked(pick(&NAMES)));
        json.raw(r#","screen_name":"#);
        json.text(&user.screen_name);
        json.raw(r#","location":"#);
        json.text(&marked(pick(&LOCATIONS)));
        json.raw(r#","url":null,"description":"#);
        json.text(&marked(pick(&DESCRIPTIONS)));
        json.raw(concat!(
            r#","translator_type":"none","derived":null,"protected":false,"verified":false,"#,
            r#""followers_count":"#
        ));
        json.number(user.id % 9_973);
        json.raw(r#","friends_count":"#);
        json.number(user.id % 997);
        json.raw(r#","listed_count":3,"favourites_count":"#);
        json.number(user.id % 99_991);
        json.raw(r#","statuses_count":"#);
        json.number(user.id % 199_999);
        json.raw(r#","created_at":""#);
        json.raw(&user.created_at);
        json.raw(concat!(
            r#"","utc_offset":null,"time_zone":null,"geo_enabled":true,"lang":null,"#,
            r#""contributors_enabled":false,"is_translator":false,"#,
            r#""profile_background_color":"C0DEED","#,
            r#""profile_background_image_url":"http:\/\/abs.twimg.com\/images\/themes\/theme1\/bg.png","#,
            r#""profile_background_image_url_https":"https:\/\/abs.twimg.com\/images\/themes\/theme1\/bg.png","#,
            r#""profile_background_tile":false,"profile_link_color":"1DA1F2","#,
            r#""profile_sidebar_border_color":"C0DEED","profile_sidebar_fill_color":"DDEEF6","#,
            r#""profile_text_color":"333333","profile_use_background_image":true,"#,
            r#""profile_image_url":"http:\/\/pbs.twimg.com\/profile_images\/"#
        ));
        json.number(user.id);
        json.raw(r#"\/face_normal.jpg","profile_image_url_https":"https:\/\/pbs.twimg.com\/profile_images\/"#);
        json.number(user.id);
        json.raw(concat!(
            r#"\/face_normal.jpg","default_profile":true,"default_profile_image":false,"#,
            r#""following":null,"follow_request_sent":null,"notifications":null}"#
        ));
    }

    fn entities(&mut self, draft: &Draft) {
        let json = &mut self.json;
        json.raw(r#"{"hashtags":["#);
        for (index, (hashtag, range)) in draft.hashtags.iter().enumerate() {
            json.raw(if index == 0 { r#"{"text":"# } else { r#",{"text":"# });
            json.text(hashtag);
            indices(json, *range);
        }
        json.raw(r#"],"urls":["#);
        for (index, (url, range)) in draft.urls.iter().enumerate() {
            json.raw(if index == 0 { r#"{"url":"# } else { r#",{"url":"# });
            json.text(&url.short);
            json.raw(r#","expanded_url":"#);
            json.text(&url.expanded);
            json.raw(r#","display_url":"#);
            json.text(&url.display);
            indices(json, *range);
        }
        json.raw(r#"],"user_mentions":["#);
        for (index, (name, range)) in draft.mentions.iter().enumerate() {
            json.raw(if index == 0 { r#"{"screen_name":"# } else { r#",{"screen_name":"# });
            json.text(name);
            json.raw(r#","name":"Somebody","id":783214,"id_str":"783214""#);
            indices(json, *range);
        }
        json.raw(r#"],"symbols":[]}"#);
    }

    fn notice(&mut self, now: Duration) {
        let id = self.last_id;
        let user_id = 1 + self.rng.u64(..1 << 30);
        let milliseconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let message = match self.rng.u32(..6) {
            0 => format!(
                r#"{{"delete":{{"status":{{"id":{id},"id_str":"{id}","user_id":{user_id},"user_id_str":"{user_id}"}},"timestamp_ms":"{milliseconds}"}}}}"#
            ),
            1 => {
                // X: the count since the connection was opened.
                self.undelivered += self.rng.u64(1..100);
                format!(r#"{{"limit":{{"track":{},"timestamp_ms":"{milliseconds}"}}}}"#, self.undelivered)
            }
            2 => format!(
                r#"{{"scrub_geo":{{"user_id":{user_id},"user_id_str":"{user_id}","up_to_status_id":{id},"up_to_status_id_str":"{id}"}}}}"#
            ),
            3 => format!(
                r#"{{"status_withheld":{{"id":{id},"user_id":{user_id},"withheld_in_countries":["DE","AR"],"timestamp_ms":"{milliseconds}"}}}}"#
            ),
            4 => format!(r#"{{"user_withheld":{{"id":{user_id},"withheld_in_countries":["DE","AR"]}}}}"#),
            _ => concat!(
                r#"{"warning":{"code":"FALLING_BEHIND","message":"Your connection is falling behind and "#,
                r#"messages are being queued for delivery to you. Your queue is now over 60% full. You will be "#,
                r#"disconnected when the queue is full.","percent_full":60}}"#
            )
            .to_owned(),
        };
        self.json.raw(&message);
    }
}

/// What [`stream_of`] made.
#[derive(Debug, Default)]
pub struct Generated {
    /// The messages, each with its CRLF.
    pub stream: Vec<u8>,
    /// How many of them are posts. The others are notices.
    pub posts: u64,
    /// How many of the posts match.
    pub posts_matching: u64,
}

/// A stream of so many messages without a server, all of them of one moment.
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
    for _ in 0..messages {
        if let Item::Post(row) = generator.next(&mut generated.stream, now) {
            generated.posts += 1;
            generated.posts_matching += u64::from(row.is_some());
        }
        generated.stream.extend_from_slice(b"\r\n");
    }
    Ok(generated)
}

fn indices(json: &mut Json, [start, end]: [usize; 2]) {
    json.raw(r#","indices":["#);
    json.number(start as u64);
    json.raw(",");
    json.number(end as u64);
    json.raw("]}");
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

/// "Wed Oct 10 20:19:24 +0000 2018".
fn date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let date = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    date.format("%a %b %d %H:%M:%S +0000 %Y").to_string()
}

/// The empty range behind a text, in code points as X counts them.
fn end(text: &str) -> [usize; 2] {
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
            if let Item::Post(row) = generator.next(&mut json, now) {
                posts.push((json, row.map(|row| *row)));
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
            if let Item::Post(Some(row)) = generator.next(&mut Vec::new(), now) {
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
            if let Item::Notice = generator.next(&mut json, now()) {
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
