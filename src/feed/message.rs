//! What a record of the stream says: a post, or something about the stream. What v1.1 sends is read
//! here too.
//!
//! Its message types are those of X's [Streaming message types][types]. A record that is none of
//! them, or not JSON, is reported as such and never fatal.
//!
//! [types]: https://developer.x.com/en/docs/twitter-api/v1/tweets/filter-realtime/guides/streaming-message-types

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::filter::Searched;

/// One record of the stream.
#[derive(Debug)]
pub enum Message<'a> {
    /// A post.
    Post(Box<Post<'a>>),
    /// Something about the stream, or about posts that were sent before.
    Notice(Notice<'a>),
    /// JSON, and none of the known types.
    Unknown,
    /// Not JSON, or a known type with parts missing.
    Malformed,
}

/// What the server has to say besides posts.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// The server is about to close the stream.
    Disconnect {
        /// X's number for the reason: 1 shutdown, 2 duplicate stream, 4 stall, 6 token revoked,
        /// 7 admin logout, 9 max message limit, 10 stream exception, 11 broker stall, 12 shed load.
        code: u64,
        /// The server's own words.
        reason: Cow<'a, str>,
    },
    /// How many matching posts were withheld, since the connection was opened, because of the
    /// rate limit.
    Limit {
        /// The count.
        track: u64,
    },
    /// A warning about this client.
    Warning {
        /// `FALLING_BEHIND`, for instance.
        code: Cow<'a, str>,
        /// The server's own words.
        message: Cow<'a, str>,
    },
    /// Something is wrong with the stream, in the words of the X API v2. The server may leave it open,
    /// but sends nothing more.
    Problem {
        /// `UpstreamOperationalDisconnect` or `TooManyConnections`, for instance.
        kind: Cow<'a, str>,
        /// `operational-disconnect`, for instance.
        title: Cow<'a, str>,
        /// The server's own words.
        detail: Cow<'a, str>,
    },
    /// A user deleted a post.
    Delete,
    /// A user took the place out of posts.
    ScrubGeo,
    /// A post is withheld in some countries.
    StatusWithheld,
    /// A user is withheld in some countries.
    UserWithheld,
}

/// A post, borrowed from its record.
#[derive(Debug)]
pub struct Post<'a> {
    /// The post's id.
    pub id: Cow<'a, str>,
    /// The author's screen name.
    pub user: Cow<'a, str>,
    /// `created_at` as the server wrote it, such as `Wed Oct 10 20:19:24 +0000 2018`, or
    /// `2018-10-10T20:19:24.000Z` in the X API v2.
    pub date: Cow<'a, str>,
    /// The whole text, in Unicode.
    pub text: Cow<'a, str>,
    /// What is searched besides the text: links, hashtags, the names of mentioned users, and the text
    /// of a retweeted post, of which a retweet's own text is a shortened copy.
    pub also: Vec<Cow<'a, str>>,
    /// A rule of this worker's own matches it, by a text of which the server has sent the beginning
    /// alone.
    pub matched_unseen: bool,
}

impl<'a> Message<'a> {
    /// Reads one record.
    #[must_use]
    pub fn parse(record: &'a [u8]) -> Self {
        match serde_json::from_slice::<Record<'a>>(record) {
            Ok(record) => record.into_message(),
            Err(_) => Self::Malformed,
        }
    }
}

impl Searched for Post<'_> {
    fn any_text(&self, mut found: impl FnMut(&str) -> bool) -> bool {
        found(&self.text) || self.also.iter().any(|text| found(text))
    }
}

/// A string that is borrowed from the record where it has no escapes.
#[derive(Debug, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Every field that tells what a record is, or that is needed of it. The rest is skipped.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    id_str: Option<Text<'a>>,
    id: Option<u64>,
    #[serde(borrow)]
    created_at: Option<Text<'a>>,
    #[serde(borrow)]
    user: Option<User<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    /// Instead of `text` where a recording was made with `tweet_mode=extended`.
    #[serde(borrow)]
    full_text: Option<Text<'a>>,
    #[serde(borrow)]
    entities: Option<Entities<'a>>,
    #[serde(borrow)]
    extended_tweet: Option<Body<'a>>,
    #[serde(borrow)]
    retweeted_status: Option<Retweeted<'a>>,
    #[serde(borrow)]
    disconnect: Option<Disconnect<'a>>,
    #[serde(borrow)]
    warning: Option<Warning<'a>>,
    limit: Option<Limit>,
    delete: Option<IgnoredAny>,
    scrub_geo: Option<IgnoredAny>,
    status_withheld: Option<IgnoredAny>,
    user_withheld: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    screen_name: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    full_text: Option<Text<'a>>,
    #[serde(borrow)]
    entities: Option<Entities<'a>>,
}

#[derive(Deserialize)]
struct Retweeted<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    full_text: Option<Text<'a>>,
    #[serde(borrow)]
    entities: Option<Entities<'a>>,
    #[serde(borrow)]
    extended_tweet: Option<Body<'a>>,
}

#[derive(Debug, Deserialize)]
struct Entities<'a> {
    #[serde(borrow)]
    hashtags: Option<Vec<Entity<'a>>>,
    #[serde(borrow)]
    user_mentions: Option<Vec<Entity<'a>>>,
    #[serde(borrow)]
    urls: Option<Vec<Entity<'a>>>,
    #[serde(borrow)]
    media: Option<Vec<Entity<'a>>>,
}

#[derive(Debug, Deserialize)]
struct Entity<'a> {
    /// Of a hashtag.
    #[serde(borrow)]
    text: Option<Text<'a>>,
    /// Of a mention.
    #[serde(borrow)]
    screen_name: Option<Text<'a>>,
    /// Of a link or a medium, as is `expanded_url`.
    #[serde(borrow)]
    display_url: Option<Text<'a>>,
    #[serde(borrow)]
    expanded_url: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Disconnect<'a> {
    code: u64,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Warning<'a> {
    #[serde(borrow)]
    code: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Limit {
    track: u64,
}

impl<'a> Record<'a> {
    fn into_message(self) -> Message<'a> {
        let text = |text: Option<Text<'a>>| text.map(|Text(text)| text);
        if let Some(Disconnect { code, reason }) = self.disconnect {
            let reason = text(reason).unwrap_or_default();
            return Message::Notice(Notice::Disconnect { code, reason });
        }
        if let Some(Warning { code, message }) = self.warning {
            let (code, message) = (text(code), text(message));
            return Message::Notice(Notice::Warning {
                code: code.unwrap_or_default(),
                message: message.unwrap_or_default(),
            });
        }
        if let Some(Limit { track }) = self.limit {
            return Message::Notice(Notice::Limit { track });
        }
        for (present, notice) in [
            (self.delete, Notice::Delete),
            (self.scrub_geo, Notice::ScrubGeo),
            (self.status_withheld, Notice::StatusWithheld),
            (self.user_withheld, Notice::UserWithheld),
        ] {
            if present.is_some() {
                return Message::Notice(notice);
            }
        }

        let id = text(self.id_str).or_else(|| self.id.map(|id| Cow::Owned(id.to_string())));
        let user = self.user.map(|user| text(user.screen_name));
        let extended = self.extended_tweet.map(|body| (text(body.full_text), body.entities));
        let (extended_text, extended_entities) = extended.unwrap_or_default();
        let shown = extended_text.or_else(|| text(self.full_text)).or_else(|| text(self.text));
        let is_post = id.is_some() && user.is_some() && shown.is_some();
        let (Some(id), Some(user), Some(date), Some(shown)) =
            (id, user.flatten(), text(self.created_at), shown)
        else {
            return if is_post { Message::Malformed } else { Message::Unknown };
        };
        // The table's key cannot hold an empty string.
        if id.is_empty() || user.is_empty() || date.is_empty() {
            return Message::Malformed;
        }
        let mut entities: Vec<Entities<'a>> =
            [self.entities, extended_entities].into_iter().flatten().collect();
        let mut also = Vec::new();
        if let Some(status) = self.retweeted_status {
            let extended = status.extended_tweet.map(|body| (text(body.full_text), body.entities));
            let (extended_text, extended_entities) = extended.unwrap_or_default();
            entities.extend(status.entities.into_iter().chain(extended_entities));
            also.extend(
                extended_text.or_else(|| text(status.full_text)).or_else(|| text(status.text)),
            );
        }
        also.extend(entities.into_iter().flat_map(Entities::texts));
        Message::Post(Box::new(Post { id, user, date, text: shown, also, matched_unseen: false }))
    }
}

impl<'a> Entities<'a> {
    fn texts(self) -> impl Iterator<Item = Cow<'a, str>> {
        let every = [self.hashtags, self.user_mentions, self.urls, self.media];
        every.into_iter().flatten().flatten().flat_map(|entity| {
            let Entity { text, screen_name, display_url, expanded_url } = entity;
            let texts = [text, screen_name, display_url, expanded_url];
            texts.into_iter().flatten().map(|Text(text)| text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(json: &str) -> Post<'_> {
        match Message::parse(json.as_bytes()) {
            Message::Post(post) => *post,
            other => panic!("{other:?}"),
        }
    }

    fn texts(post: &Post<'_>) -> Vec<String> {
        let mut texts = Vec::new();
        post.any_text(|text| {
            texts.push(text.to_owned());
            false
        });
        texts
    }

    #[test]
    fn a_post_gives_user_date_whole_text_and_id() {
        let post = post(
            r#"{"created_at":"Wed Oct 10 20:19:24 +0000 2018","id":1050118621198921728,
                "id_str":"1050118621198921728","text":"caf\u00e9 \ud83d\ude00\n日本 &amp; more",
                "user":{"id":1,"screen_name":"TwitterAPI"},"retweeted_status":null}"#,
        );
        assert_eq!(
            (&*post.id, &*post.user, &*post.date),
            ("1050118621198921728", "TwitterAPI", "Wed Oct 10 20:19:24 +0000 2018"),
        );
        assert_eq!(post.text, "café 😀\n日本 &amp; more");
    }

    #[test]
    fn a_truncated_post_gives_its_full_text() {
        let post = post(
            r#"{"created_at":"d","id":7,"text":"short…","truncated":true,"user":{"screen_name":"u"},
                "extended_tweet":{"full_text":"short and long","entities":{"hashtags":[{"text":"tag"}]}}}"#,
        );
        assert_eq!((&*post.text, &*post.id), ("short and long", "7"));
        assert_eq!(texts(&post), ["short and long", "tag"]);
    }

    #[test]
    fn hashtags_mentions_links_media_and_the_retweeted_text_are_searched() {
        let post = post(
            r#"{"created_at":"d","id_str":"7","text":"RT","user":{"screen_name":"u"},
                "entities":{"hashtags":[{"text":"h"}],"user_mentions":[{"screen_name":"m","name":"n"}],
                "urls":[{"url":"t.co","display_url":"d","expanded_url":"e"}],
                "media":[{"display_url":"md"}],"symbols":[{"text":"s"}]},
                "retweeted_status":{"text":"short","extended_tweet":{"full_text":"whole"}}}"#,
        );
        assert_eq!(texts(&post), ["RT", "whole", "h", "m", "d", "e", "md"]);
    }

    #[test]
    fn every_notice_is_known() {
        for (json, notice) in [
            (r#"{"delete":{"status":{"id":1}}}"#, Notice::Delete),
            (r#"{"scrub_geo":{"user_id":1}}"#, Notice::ScrubGeo),
            (r#"{"status_withheld":{"id":1}}"#, Notice::StatusWithheld),
            (r#"{"user_withheld":{"id":1}}"#, Notice::UserWithheld),
            (r#"{"limit":{"track":1234}}"#, Notice::Limit { track: 1234 }),
            (
                r#"{"disconnect":{"code":4,"stream_name":"","reason":"stall"}}"#,
                Notice::Disconnect { code: 4, reason: "stall".into() },
            ),
            (
                r#"{"warning":{"code":"FALLING_BEHIND","message":"m","percent_full":60}}"#,
                Notice::Warning { code: "FALLING_BEHIND".into(), message: "m".into() },
            ),
        ] {
            match Message::parse(json.as_bytes()) {
                Message::Notice(found) => assert_eq!(found, notice),
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_post_is_reported_and_never_fatal() {
        for json in ["{}", r#"{"friends":[1]}"#, r#"{"id":1}"#] {
            assert!(matches!(Message::parse(json.as_bytes()), Message::Unknown), "{json}");
        }
        for json in [
            "not json",
            "[1]",
            "{\"text\":",
            "\u{feff}{}",
            r#"{"id":1,"text":"t","user":{"screen_name":"u"}}"#,
            r#"{"id":1,"text":"t","user":{"screen_name":""},"created_at":"d"}"#,
            r#"{"id":1,"text":5,"user":{"screen_name":"u"},"created_at":"d"}"#,
        ] {
            assert!(matches!(Message::parse(json.as_bytes()), Message::Malformed), "{json}");
        }
        assert!(matches!(Message::parse(b"{\"text\":\"\xff\"}"), Message::Malformed));
    }
}
