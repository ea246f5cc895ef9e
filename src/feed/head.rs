//! The head of a record of v1.1: enough to pass over a post that cannot match.
//!
//! Parsing takes most of the time that a post costs, and most posts match nothing. That a record is a
//! post, and which, is seen from its first members up to its text, from the `user` behind them, and
//! from its last byte. A record in which one of these is not as v1.1 writes it is left to
//! [`Message::parse`], so that whatever is not plainly a post is counted exactly. What lies between is not
//! read: a post that cannot match counts as read even where the rest of it is not JSON, or
//! has a member that makes it a notice.
//!
//! [`Message::parse`]: crate::feed::message::Message::parse

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr, memchr2, memchr3};

/// In a string its quotes would be escaped.
static USER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(",\"user\":{"));

/// What is plainly a post.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The post's `id_str`.
    pub id: &'a str,
    /// All of the JSON in which texts stand that a filter searches: without the author's profile, which is
    /// most of a post, and where track words stand most often.
    pub searched: [&'a [u8]; 2],
}

impl<'a> Head<'a> {
    /// `None` says nothing about the record.
    #[must_use]
    pub fn of(record: &'a [u8]) -> Option<Self> {
        let mut rest = record.strip_suffix(b"}")?.strip_prefix(b"{")?;
        let (mut is_dated, mut id, mut retweeted) = (false, None, None);
        while !(rest.starts_with(b"\"text\":\"") || rest.starts_with(b"\"full_text\":\"")) {
            rest = if let Some(date) = rest.strip_prefix(b"\"created_at\":\"") {
                let length = memchr2(b'"', b'\\', date).filter(|length| *length > 0)?;
                is_dated = true;
                date.get(length..)?.strip_prefix(b"\",")?
            } else if let Some(number) = rest.strip_prefix(b"\"id\":") {
                digits(number)?.1.strip_prefix(b",")?
            } else if let Some(text) = rest.strip_prefix(b"\"id_str\":\"") {
                let (digits, behind) = digits(text)?;
                id = Some(digits);
                behind.strip_prefix(b"\",")?
            } else if let Some(post) = rest.strip_prefix(b"\"retweeted_status\":") {
                retweeted = Some(rest);
                behind_object(post)?.strip_prefix(b",")?
            } else {
                rest.strip_prefix(b"\"is_quote_status\":false,")?
            };
        }
        let id = str::from_utf8(id.filter(|_| is_dated)?).ok()?;
        let (before, user) = rest.split_at_checked(USER.find(rest)?)?;
        // The first closing brace is the profile's end, or stands in the profile.
        let behind = user.get(memchr(b'}', user)?..)?;
        let searched = match retweeted {
            None => [before, behind],
            Some(retweeted) => [retweeted, &[]],
        };
        Some(Self { id, searched })
    }
}

/// The digits of an id at the beginning, and what follows them.
fn digits(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = json.iter().position(|byte| !byte.is_ascii_digit())?;
    // Up to 19 digits are in range. A number may not begin with a zero.
    let is_id = (1..20).contains(&length) && !json.starts_with(b"0");
    json.split_at_checked(length).filter(|_| is_id)
}

/// What follows an object.
fn behind_object(json: &[u8]) -> Option<&[u8]> {
    let mut rest = json.strip_prefix(b"{")?;
    let mut depth = 1;
    while depth > 0 {
        let (found, behind) = rest.get(memchr3(b'"', b'{', b'}', rest)?..)?.split_first()?;
        rest = match found {
            b'{' => {
                depth += 1;
                behind
            }
            b'}' => {
                depth -= 1;
                behind
            }
            _ => behind_string(behind)?,
        };
    }
    Some(rest)
}

/// What follows a string whose opening quote has been read.
fn behind_string(mut json: &[u8]) -> Option<&[u8]> {
    loop {
        let (found, behind) = json.get(memchr2(b'"', b'\\', json)?..)?.split_first()?;
        if *found == b'"' {
            return Some(behind);
        }
        json = behind.get(1..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::message::Message;

    fn id(record: &[u8]) -> Option<&str> {
        Head::of(record).map(|head| head.id)
    }

    const POST: &str = r#"{"created_at":"d","id":7,"id_str":"7","text":"\"user\":{","truncated":false,"user":{"id":1,"screen_name":"u"},"lang":"en"}"#;

    #[test]
    fn a_plain_post_is_seen_by_its_head_in_any_order_of_it() {
        assert_eq!(id(POST.as_bytes()), Some("7"));
        for (from, to) in [
            (r#""created_at":"d","id":7,"id_str":"7""#, r#""id_str":"7","created_at":"d""#),
            (r#"{"created_at""#, r#"{"is_quote_status":false,"created_at""#),
            (r#""text":"#, r#""full_text":"#),
        ] {
            assert!(POST.contains(from));
            assert_eq!(id(POST.replace(from, to).as_bytes()), Some("7"), "{to}");
        }
    }

    /// Each change makes of the post something that parsing counts otherwise, or cannot be seen so.
    #[test]
    fn what_is_not_plainly_a_post_is_left_to_the_parser() {
        for (from, to) in [
            (r#""created_at":"d","#, ""),
            (r#""created_at":"d""#, r#""created_at":"""#),
            (r#""created_at":"d""#, r#""created_at":null"#),
            (r#""created_at":"d""#, r#""created_at":"\u0064""#),
            (r#""created_at":"d""#, r#""created_\u0061t":"d""#),
            (r#""id":7"#, r#""id":"7""#),
            (r#""id":7"#, r#""id":7.5"#),
            (r#""id":7"#, r#""id":07"#),
            (r#""id":7"#, r#""id":-7"#),
            (r#""id":7"#, r#""id":77777777777777777777777"#),
            (r#","id_str":"7""#, ""),
            (r#""id_str":"7""#, r#""id_str":"""#),
            (r#""id_str":"7""#, r#""id_str":"seven""#),
            (r#""text":"\"user\":{","#, ""),
            (r#""text":"\"user\":{""#, r#""text":null"#),
            (r#""text":"\"user\":{""#, r#""text":5"#),
            (r#""user":{"id":1,"screen_name":"u"}"#, r#""user":null"#),
            (r#""user":{"id":1,"screen_name":"u"},"#, ""),
            (r#"{"created_at""#, r#"{"limit":{"track":1},"created_at""#),
            (r#"{"created_at""#, r#"{"delete":false,"created_at""#),
            (r#"{"created_at""#, "\u{feff}{\"created_at\""),
            (r#"{"created_at""#, r#"[{"created_at""#),
            (r#""lang":"en"}"#, r#""lang":"en""#),
        ] {
            assert!(POST.contains(from), "{from}");
            let changed = POST.replace(from, to);
            assert_eq!(id(changed.as_bytes()), None, "{changed}");
        }
    }

    #[test]
    fn no_beginning_of_a_post_is_one() {
        for end in 0..POST.len() {
            let cut = &POST[..end];
            let is_post = matches!(Message::parse(cut.as_bytes()), Message::Post(_));
            assert!(!is_post);
            // A closing brace at the cut is the one thing that can be mistaken.
            assert!(id(cut.as_bytes()).is_none() || cut.ends_with('}'), "{cut}");
        }
    }
}
