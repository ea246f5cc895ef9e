//! What a record of the filtered stream says: a post with its author, or a problem of the stream.

use std::borrow::Cow;

use serde::Deserialize;

use super::rules::TAG;
use crate::feed::message::{Message, Notice, Post, Text};

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(borrow)]
    includes: Option<Includes<'a>>,
    #[serde(borrow)]
    matching_rules: Option<Vec<MatchingRule<'a>>>,
    /// With `data`, what could not be expanded; without, what is wrong with the stream.
    #[serde(borrow)]
    errors: Option<Vec<Problem<'a>>>,
    #[serde(borrow)]
    title: Option<Text<'a>>,
    #[serde(borrow)]
    detail: Option<Text<'a>>,
    #[serde(borrow)]
    connection_issue: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    created_at: Option<Text<'a>>,
    #[serde(borrow)]
    author_id: Option<Text<'a>>,
    #[serde(borrow)]
    entities: Option<Entities<'a>>,
    #[serde(borrow)]
    note_tweet: Option<NoteTweet<'a>>,
}

/// A post of more than 280 characters has its whole text here.
#[derive(Deserialize)]
struct NoteTweet<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    entities: Option<Entities<'a>>,
}

#[derive(Deserialize)]
struct Includes<'a> {
    #[serde(borrow)]
    users: Option<Vec<User<'a>>>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    username: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct MatchingRule<'a> {
    #[serde(borrow)]
    tag: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow)]
    title: Option<Text<'a>>,
    #[serde(borrow)]
    detail: Option<Text<'a>>,
    #[serde(borrow)]
    disconnect_type: Option<Text<'a>>,
    #[serde(borrow)]
    connection_issue: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Entities<'a> {
    #[serde(borrow)]
    hashtags: Option<Vec<Entity<'a>>>,
    #[serde(borrow)]
    mentions: Option<Vec<Entity<'a>>>,
    #[serde(borrow)]
    urls: Option<Vec<Entity<'a>>>,
}

#[derive(Deserialize)]
struct Entity<'a> {
    #[serde(borrow)]
    tag: Option<Text<'a>>,
    #[serde(borrow)]
    username: Option<Text<'a>>,
    #[serde(borrow)]
    display_url: Option<Text<'a>>,
    #[serde(borrow)]
    expanded_url: Option<Text<'a>>,
}

impl<'a> Entities<'a> {
    fn texts(self) -> impl Iterator<Item = Cow<'a, str>> {
        let every = [self.hashtags, self.mentions, self.urls];
        every.into_iter().flatten().flatten().flat_map(|entity| {
            let texts = [entity.tag, entity.username, entity.display_url, entity.expanded_url];
            texts.into_iter().flatten().map(|Text(text)| text)
        })
    }
}

/// Reads one record.
pub fn read(record: &[u8]) -> Message<'_> {
    match serde_json::from_slice::<Record<'_>>(record) {
        Ok(record) => record.into_message(),
        Err(_) => Message::Malformed,
    }
}

impl<'a> Record<'a> {
    fn into_message(self) -> Message<'a> {
        let Some(data) = self.data else {
            let text = |text: Option<Text<'a>>| text.map(|Text(text)| text);
            let problem = self.errors.and_then(|errors| errors.into_iter().next());
            let problem = problem.unwrap_or(Problem {
                title: self.title,
                detail: self.detail,
                disconnect_type: None,
                connection_issue: self.connection_issue,
            });
            let kind = text(problem.disconnect_type).or_else(|| text(problem.connection_issue));
            let title = text(problem.title);
            if kind.is_none() && title.is_none() {
                return Message::Unknown;
            }
            return Message::Notice(Notice::Problem {
                kind: kind.unwrap_or_default(),
                title: title.unwrap_or_default(),
                detail: text(problem.detail).unwrap_or_default(),
            });
        };
        let tagged = self
            .matching_rules
            .iter()
            .flatten()
            .any(|rule| rule.tag.as_ref().is_some_and(|Text(tag)| tag == TAG));
        let users = self.includes.and_then(|includes| includes.users);
        data.into_post(users, tagged)
            .map_or(Message::Malformed, |post| Message::Post(Box::new(post)))
    }
}

impl<'a> Data<'a> {
    fn into_post(self, users: Option<Vec<User<'a>>>, tagged: bool) -> Option<Post<'a>> {
        let Text(author) = self.author_id?;
        let is_author = |user: &User<'a>| user.id.as_ref().is_some_and(|Text(id)| *id == author);
        let user = users.into_iter().flatten().find(is_author).and_then(|user| user.username);
        // A suspended author is not included; the post is still one that was asked for.
        let user = user.map_or(author, |Text(name)| name);
        let Text(id) = self.id?;
        let Text(date) = self.created_at?;
        let Text(short) = self.text?;
        let mut also: Vec<Cow<'a, str>> =
            self.entities.into_iter().flat_map(Entities::texts).collect();
        let mut text = short;
        if let Some(note) = self.note_tweet {
            also.extend(note.entities.into_iter().flat_map(Entities::texts));
            text = note.text.map_or(text, |Text(whole)| whole);
        }
        // A retweet's own text is a shortened copy of what X has matched.
        let matched_unseen = tagged && text.ends_with('…');
        // The table's key cannot hold an empty string.
        let whole = !id.is_empty() && !user.is_empty() && !date.is_empty();
        whole.then_some(Post { id, user, date, text, also, matched_unseen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Searched;

    fn post(json: &str) -> Post<'_> {
        match read(json.as_bytes()) {
            Message::Post(post) => *post,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_post_gives_its_authors_name_its_date_and_its_whole_text() {
        let post = post(
            r#"{"data":{"author_id":"7","created_at":"2026-11-22T10:00:00.000Z",
                "edit_history_tweet_ids":["1"],"id":"1","text":"short\u2026",
                "entities":{"hashtags":[{"start":0,"end":1,"tag":"h"}],
                "mentions":[{"username":"m","id":"9"}],
                "urls":[{"url":"t.co","expanded_url":"e","display_url":"d","status":200}]},
                "note_tweet":{"text":"short and long","entities":{"hashtags":[{"tag":"n"}]}}},
                "includes":{"users":[{"id":"8","name":"B","username":"b"},
                {"id":"7","name":"A","username":"a"}]},
                "matching_rules":[{"id":"1","tag":"twitterstream"}]}"#,
        );
        assert_eq!((&*post.id, &*post.user, &*post.date), ("1", "a", "2026-11-22T10:00:00.000Z"));
        assert_eq!(post.text, "short and long");
        assert!(!post.matched_unseen);
        let mut texts = Vec::new();
        post.any_text(|text| {
            texts.push(text.to_owned());
            false
        });
        assert_eq!(texts, ["short and long", "h", "m", "d", "e", "n"]);
    }

    #[test]
    fn a_post_without_its_author_names_the_authors_id() {
        let post = post(
            r#"{"data":{"author_id":"7","created_at":"d","id":"1","text":"t"},
                "errors":[{"title":"Not Found Error","resource_type":"user"}]}"#,
        );
        assert_eq!(post.user, "7");
    }

    #[test]
    fn only_of_a_shortened_text_is_the_servers_match_believed_and_only_by_our_own_rule() {
        for (text, tag, believed) in [
            ("RT @a: cut…", "twitterstream", true),
            ("RT @a: cut…", "twitterstream2", false),
            ("whole", "twitterstream", false),
        ] {
            let json = format!(
                r#"{{"data":{{"author_id":"7","created_at":"d","id":"1","text":"{text}"}},
                    "matching_rules":[{{"id":"1","tag":"{tag}"}},{{"id":"2"}}]}}"#
            );
            assert_eq!(post(&json).matched_unseen, believed, "{text} {tag}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_stream_is_told_from_what_is_unknown_or_malformed() {
        let kinds = |json: &'static str| match read(json.as_bytes()) {
            Message::Notice(Notice::Problem { kind, title, .. }) => format!("{title}/{kind}"),
            Message::Unknown => "unknown".to_owned(),
            Message::Malformed => "malformed".to_owned(),
            other => panic!("{other:?}"),
        };
        for (json, expected) in [
            (
                r#"{"errors":[{"title":"operational-disconnect","disconnect_type":"UpstreamOperationalDisconnect","detail":"d","type":"u"}]}"#,
                "operational-disconnect/UpstreamOperationalDisconnect",
            ),
            (
                r#"{"title":"ConnectionException","detail":"d","connection_issue":"TooManyConnections","type":"u"}"#,
                "ConnectionException/TooManyConnections",
            ),
            ("{}", "unknown"),
            (r#"{"matching_rules":[]}"#, "unknown"),
            ("[]", "malformed"),
            (r#"{"data":{"id":"1","text":"t"}}"#, "malformed"),
            (r#"{"data":{"id":1}}"#, "malformed"),
        ] {
            assert_eq!(kinds(json), expected, "{json}");
        }
    }
}
