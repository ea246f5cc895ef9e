//! A generated post as v1.1 writes it, and v1.1's other messages.

use std::borrow::Cow;
use std::time::SystemTime;

use super::super::json::Json;
use super::super::posts::{
    Draft, ExpectedRow, Flavour, Generator, Post, Stamp, USERS, end, since_epoch,
};
use super::super::vocabulary::{DESCRIPTIONS, LOCATIONS, NAMES, SOURCES};

impl Generator {
    /// Appends a post, without its line's end.
    pub(in super::super) fn write_v1_1(&mut self, post: &Post, out: &mut Vec<u8>) {
        let Post { draft, stamp, id, flavour, full_text, style, .. } = post;
        self.json.start(std::mem::take(out));
        self.json.style(*style);
        self.write_post(draft, stamp, *id, *flavour, full_text);
        *out = self.json.finish();
    }

    /// The row that a post must become, if it matches.
    pub(in super::super) fn row_v1_1(&self, post: &Post) -> Option<Box<ExpectedRow>> {
        let user = self.users.get(post.stamp.user).filter(|_| post.matches)?;
        let text = if post.full_text.is_empty() { &post.draft.text } else { &post.full_text };
        Some(Box::new(ExpectedRow {
            user: user.screen_name.clone(),
            date: post.stamp.date.clone(),
            text: text.clone(),
            id: post.id.to_string(),
        }))
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

    /// Appends a message that is no post.
    pub(in super::super) fn write_notice(&mut self, now: SystemTime, out: &mut Vec<u8>) {
        let now = since_epoch(now);
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
        out.extend_from_slice(message.as_bytes());
    }
}

fn indices(json: &mut Json, [start, end]: [usize; 2]) {
    json.raw(r#","indices":["#);
    json.number(start as u64);
    json.raw(",");
    json.number(end as u64);
    json.raw("]}");
}
