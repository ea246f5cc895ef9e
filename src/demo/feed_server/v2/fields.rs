//! The query of a stream: what a reader asks for, held against what X knows.

use super::Refused;
use super::problem::invalid_request;

/// X's names of what may be asked for of a post.
const TWEET_FIELDS: &[&str] = &[
    "article",
    "attachments",
    "author_id",
    "card_uri",
    "community_id",
    "context_annotations",
    "conversation_id",
    "created_at",
    "display_text_range",
    "edit_controls",
    "edit_history_tweet_ids",
    "entities",
    "geo",
    "id",
    "in_reply_to_user_id",
    "lang",
    "media_metadata",
    "non_public_metrics",
    "note_tweet",
    "organic_metrics",
    "possibly_sensitive",
    "promoted_metrics",
    "public_metrics",
    "referenced_tweets",
    "reply_settings",
    "scopes",
    "source",
    "text",
    "username",
    "withheld",
];

/// What may be included beside it.
const EXPANSIONS: &[&str] = &[
    "article.cover_media",
    "article.media_entities",
    "attachments.media_keys",
    "attachments.media_source_tweet",
    "attachments.poll_ids",
    "author_id",
    "edit_history_tweet_ids",
    "entities.mentions.username",
    "entities.note.mentions.username",
    "geo.place_id",
    "in_reply_to_user_id",
    "referenced_tweets.id",
    "referenced_tweets.id.author_id",
];

const USER_FIELDS: &[&str] = &[
    "affiliation",
    "connection_status",
    "created_at",
    "description",
    "entities",
    "id",
    "location",
    "most_recent_tweet_id",
    "name",
    "pinned_tweet_id",
    "profile_banner_url",
    "profile_image_url",
    "protected",
    "public_metrics",
    "receives_your_dm",
    "subscription_type",
    "url",
    "username",
    "verified",
    "verified_type",
    "withheld",
];

/// The lists that a query may hold, and their names.
const LISTS: [(&str, &[&str]); 3] =
    [("tweet.fields", TWEET_FIELDS), ("expansions", EXPANSIONS), ("user.fields", USER_FIELDS)];

/// The numbers that a query may hold, and their bounds.
const NUMBERS: [(&str, u32, u32); 2] = [("backfill_minutes", 0, 5), ("partition", 1, 20)];

/// What of a post was asked for.
///
/// Generated posts have no more than `created_at`, `author_id`, `entities`, `lang`, `note_tweet` and
/// `referenced_tweets`, their users no more than `description` and `location`, and nothing can be expanded but
/// `author_id`. What else X knows may be asked for, and is missing in the posts, as it is where X has no value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Fields {
    tweet: Vec<String>,
    expansions: Vec<String>,
    user: Vec<String>,
}

impl Fields {
    /// Reads a query.
    pub(super) fn of_query(query: &str) -> Result<Self, Box<Refused>> {
        let mut fields = Self::default();
        let mut seen = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let refuse = |message: String| {
                Err(Box::new(invalid_request(Some((name.as_ref(), value.as_ref())), &message)))
            };
            if seen.contains(&name) {
                return refuse(format!("The query parameter [{name}] can only have one value"));
            }
            if let Some((_, known)) = LISTS.iter().find(|(list, _)| *list == name) {
                let asked: Vec<String> = value.split(',').map(str::to_owned).collect();
                if let Some(wrong) = asked.iter().find(|field| !known.contains(&field.as_str())) {
                    return refuse(format!(
                        "The `{name}` query parameter value [{wrong}] is not one of [{}]",
                        known.join(",")
                    ));
                }
                match name.as_ref() {
                    "tweet.fields" => fields.tweet = asked,
                    "expansions" => fields.expansions = asked,
                    _ => fields.user = asked,
                }
            } else if let Some((_, least, most)) =
                NUMBERS.iter().find(|(number, _, _)| *number == name)
            {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let number = value.parse::<u32>().ok().filter(|_| digits);
                if !number.is_some_and(|number| (*least..=*most).contains(&number)) {
                    return refuse(format!(
                        "The `{name}` query parameter value [{value}] is not between {least} and {most}"
                    ));
                }
            } else {
                let known: Vec<&str> = LISTS
                    .iter()
                    .map(|(name, _)| *name)
                    .chain(NUMBERS.iter().map(|(name, _, _)| *name))
                    .collect();
                return refuse(format!(
                    "The query parameter [{name}] is not one of [{}]",
                    known.join(",")
                ));
            }
            seen.push(name.clone());
        }
        Ok(fields)
    }

    pub(super) fn tweet(&self, field: &str) -> bool {
        self.tweet.iter().any(|asked| asked == field)
    }

    pub(super) fn user(&self, field: &str) -> bool {
        self.user.iter().any(|asked| asked == field)
    }

    /// Whether the author stands beside the post.
    pub(super) fn author(&self) -> bool {
        self.expansions.iter().any(|asked| asked == "author_id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_x_does_not_know_is_refused() {
        let right = "tweet.fields=created_at,note_tweet&expansions=author_id&user.fields=username\
                     &backfill_minutes=5&partition=1";
        assert!(Fields::of_query(right).is_ok());
        assert!(Fields::of_query("").is_ok());
        for wrong in [
            "tweet.fields=created",
            "tweet.fields=",
            "tweet.fields=id,%20text",
            "expansions=author",
            "user.fields=screen_name",
            "backfill_minutes=6",
            "backfill_minutes=-1",
            "backfill_minutes=%2B1",
            "backfill_minutes=",
            "partition=0",
            "track=Amazon",
            "tweet.fields=id&tweet.fields=text",
        ] {
            assert!(Fields::of_query(wrong).is_err(), "{wrong}");
        }
    }
}
