//! A generated post as v2 writes it: what was asked for, and nothing else.

use std::borrow::Cow;

use super::super::json::Json;
use super::super::posts::{Draft, ExpectedRow, Flavour, Generator, Post, User, end};
use super::super::vocabulary::{DESCRIPTIONS, LOCATIONS, NAMES, SENTENCES};
use super::expression::is_retweet;
use super::fields::Fields;
use super::rule_book::KeptRule;

/// X cuts the `text` of a retweet to this many characters.
const RETWEET: usize = 140;

impl Generator {
    /// Appends a post that matches these rules, without its line's end.
    pub(in super::super) fn write_v2(
        &mut self,
        post: &Post,
        fields: &Fields,
        rules: &[&KeptRule],
        out: &mut Vec<u8>,
    ) {
        let Some(author) = self.users.get(post.stamp.user) else {
            return;
        };
        let json = &mut self.json;
        json.start(std::mem::take(out));
        json.style(post.style);
        // Members have no order that a reader could rely on.
        if post.id.is_multiple_of(16) {
            json.raw("{");
            matching_rules(json, rules);
            json.raw(r#","data":{"#);
        } else {
            json.raw(r#"{"data":{"#);
        }
        data(json, post, fields, author);
        json.raw("}");
        if fields.author() {
            json.raw(r#","includes":{"users":[{"#);
            user(json, post, fields, author, &self.word);
            json.raw("}]}");
        }
        if !post.id.is_multiple_of(16) {
            json.raw(",");
            matching_rules(json, rules);
        }
        json.raw("}");
        *out = json.finish();
    }

    /// The row that a post must become, if it contains the word.
    pub(in super::super) fn row_v2(&self, post: &Post) -> Option<Box<ExpectedRow>> {
        let author = self.users.get(post.stamp.user).filter(|_| post.matches)?;
        let text = if post.full_text.is_empty() { text(post) } else { whole_text(post) };
        Some(Box::new(ExpectedRow {
            user: author.screen_name.clone(),
            date: created_at(post),
            text: text.into_owned(),
            id: post.id.to_string(),
        }))
    }
}

/// All of a post's text, as rules see it.
pub(super) fn whole_text(post: &Post) -> Cow<'_, str> {
    if !post.full_text.is_empty() {
        return Cow::Borrowed(&post.full_text);
    }
    if !is_retweet(post) || !post.id.is_multiple_of(4) {
        return Cow::Borrowed(&post.draft.text);
    }
    // v1.1 has the retweeted post beside the text; here a retweet may be one of a longer post.
    let mut text = post.draft.text.clone();
    let more = usize::try_from(post.id / 4).unwrap_or_default() % SENTENCES.len();
    for (_, sentence) in SENTENCES.iter().cycle().skip(more) {
        if text.chars().count() > RETWEET {
            break;
        }
        text.extend([" ", sentence]);
    }
    Cow::Owned(text)
}

/// The member `text`: only the beginning of a long post.
fn text(post: &Post) -> Cow<'_, str> {
    let text =
        if post.full_text.is_empty() { whole_text(post) } else { Cow::Borrowed(&*post.draft.text) };
    if !is_retweet(post) || text.chars().count() <= RETWEET {
        return text;
    }
    Cow::Owned(text.chars().take(RETWEET - 1).chain(['\u{2026}']).collect())
}

/// `2026-11-22T10:00:00.000Z`.
fn created_at(post: &Post) -> String {
    let milliseconds = i64::try_from(post.stamp.milliseconds).unwrap_or(0);
    let date = chrono::DateTime::from_timestamp_millis(milliseconds).unwrap_or_default();
    date.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

fn matching_rules(json: &mut Json, rules: &[&KeptRule]) {
    json.raw(r#""matching_rules":["#);
    for (index, KeptRule { rule, .. }) in rules.iter().enumerate() {
        json.raw(if index == 0 { r#"{"id":""# } else { r#",{"id":""# });
        json.raw(&rule.id);
        json.raw("\"");
        if let Some(tag) = &rule.tag {
            json.raw(r#","tag":"#);
            json.text(tag);
        }
        json.raw("}");
    }
    json.raw("]");
}

fn data(json: &mut Json, post: &Post, fields: &Fields, author: &User) {
    let Post { draft, id, full_text, .. } = post;
    // The expansion brings the field with it.
    if fields.tweet("author_id") || fields.author() {
        json.raw(r#""author_id":""#);
        json.number(author.id);
        json.raw(r#"","#);
    }
    if fields.tweet("created_at") {
        json.raw(r#""created_at":""#);
        json.raw(&created_at(post));
        json.raw(r#"","#);
    }
    json.raw(r#""edit_history_tweet_ids":[""#);
    json.number(*id);
    json.raw(r#""],"#);
    let text = text(post);
    if fields.tweet("entities") && full_text.is_empty() {
        entities(json, draft, end(&text)[1]);
    }
    json.raw(r#""id":""#);
    json.number(*id);
    json.raw(r#"","#);
    if fields.tweet("lang") {
        json.raw(r#""lang":"#);
        json.text(draft.lang);
        json.raw(",");
    }
    if fields.tweet("note_tweet") && !full_text.is_empty() {
        json.raw(r#""note_tweet":{"#);
        entities(json, draft, end(full_text)[1]);
        json.raw(r#""text":"#);
        json.text(full_text);
        json.raw("},");
    }
    if fields.tweet("referenced_tweets")
        && let Some((kind, id)) = referenced(post)
    {
        json.raw(r#""referenced_tweets":[{"type":""#);
        json.raw(kind);
        json.raw(r#"","id":""#);
        json.raw(&id);
        json.raw(r#""}],"#);
    }
    json.raw(r#""text":"#);
    json.text(&text);
}

/// The post that this one repeats or quotes.
fn referenced(post: &Post) -> Option<(&'static str, String)> {
    if is_retweet(post) {
        let earlier = post.id.saturating_sub(1 + post.id % (1 << 40));
        return Some(("retweeted", earlier.to_string()));
    }
    // The link at the end of a quote leads to it.
    let (url, _) = post.draft.urls.last().filter(|_| matches!(post.flavour, Flavour::Quote))?;
    Some(("quoted", url.expanded.rsplit('/').next()?.to_owned()))
}

/// The member `entities` and a comma; nothing where there are none, as X does. What stands behind the text's end is
/// not among them.
fn entities(json: &mut Json, draft: &Draft, length: usize) {
    let mut urls = Vec::new();
    for (url, range) in &draft.urls {
        let members = vec![
            ("url", &*url.short),
            ("expanded_url", &*url.expanded),
            ("display_url", &*url.display),
        ];
        urls.push((*range, members));
    }
    let lists = [
        ("hashtags", names("tag", &draft.hashtags)),
        ("mentions", names("username", &draft.mentions)),
        ("urls", urls),
    ];
    let mut begun = false;
    for (name, mut list) in lists {
        list.retain(|([_, end], _)| *end <= length);
        if list.is_empty() {
            continue;
        }
        json.raw(if begun { "," } else { r#""entities":{"# });
        begun = true;
        json.raw(&format!(r#""{name}":["#));
        for (index, ([start, end], members)) in list.into_iter().enumerate() {
            json.raw(if index == 0 { "" } else { "," });
            json.raw(&format!(r#"{{"start":{start},"end":{end}"#));
            for (key, value) in members {
                json.raw(&format!(r#","{key}":"#));
                json.text(value);
            }
            json.raw("}");
        }
        json.raw("]");
    }
    json.raw(if begun { "}," } else { "" });
}

fn names<'a>(key: &'static str, entities: &'a [(String, [usize; 2])]) -> Vec<Entity<'a>> {
    entities.iter().map(|(name, range)| (*range, vec![(key, name.as_str())])).collect()
}

/// Where it stands, and its other members.
type Entity<'a> = ([usize; 2], Vec<(&'static str, &'a str)>);

fn user(json: &mut Json, post: &Post, fields: &Fields, user: &User, word: &str) {
    let index = post.stamp.user;
    let in_profile = matches!(post.flavour, Flavour::Profile);
    let mut member = |name: &str, list: &[&str]| {
        let plain = list.get(index % list.len()).copied().unwrap_or_default();
        json.raw(name);
        if in_profile {
            json.text(&format!("{plain} {word} "));
        } else {
            json.text(plain);
        }
        json.raw(",");
    };
    if fields.user("description") {
        member(r#""description":"#, &DESCRIPTIONS);
    }
    if fields.user("location") {
        member(r#""location":"#, &LOCATIONS);
    }
    member(r#""name":"#, &NAMES);
    json.raw(r#""id":""#);
    json.number(user.id);
    json.raw(r#"","username":"#);
    json.text(&user.screen_name);
}
