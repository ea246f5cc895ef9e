//! Posts recorded earlier, from a file.
//!
//! Three forms are read: JSON Lines as a stream of either dialect wrote them, a JSON array of such records, and the
//! search API's object with a `statuses` array. What is sent is what was recorded, byte for byte, but for whitespace between JSON
//! tokens: a record must stand on one line.

use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the recording")]
    Read(#[from] std::io::Error),
    /// A line, or the document that starts there, is not JSON.
    #[error("the recording is not JSON at line {line}, column {column}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("line {line} of the recording is not a JSON object")]
    NotAnObject {
        /// Where it starts, counted from 1.
        line: usize,
    },
    /// There is no post in it.
    #[error("the recording holds no posts")]
    Empty,
}

/// The records of a file, in its order.
#[derive(Debug, Clone)]
pub struct Recording {
    records: Vec<Record>,
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    /// One JSON object on one line, without the line's end.
    pub(super) json: Bytes,
    /// Whether it is a post; else it is a notice that was recorded with them.
    pub(super) post: bool,
}

/// Enough of a record to tell a post from a notice.
#[derive(Deserialize)]
struct Shape {
    id: Option<IgnoredAny>,
    id_str: Option<IgnoredAny>,
    user: Option<IgnoredAny>,
    data: Option<Data>,
}

/// What v2 has the post in.
#[derive(Deserialize)]
struct Data {
    id: Option<IgnoredAny>,
}

impl Shape {
    fn is_post(&self) -> bool {
        let v1_1 = self.user.is_some() && (self.id.is_some() || self.id_str.is_some());
        v1_1 || self.data.as_ref().is_some_and(|data| data.id.is_some())
    }
}

/// Enough of a document to tell whether it is the search API's.
#[derive(Deserialize)]
struct Search {
    statuses: Option<Vec<IgnoredAny>>,
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// See [`Error`]; each names the line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads what a file holds.
    ///
    /// # Errors
    ///
    /// See [`Error`]; each names the line.
    pub fn parse(content: &[u8]) -> Result<Self, Error> {
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let mut records = Vec::new();
        match serde_json::from_slice::<IgnoredAny>(content) {
            Ok(_) => {
                let start =
                    content.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
                let document = content.get(start..).unwrap_or_default();
                let statuses = serde_json::from_slice::<Search>(document)
                    .is_ok_and(|search| search.statuses.is_some());
                match document.first() {
                    Some(b'[') => elements(document, line_at(content, start), &mut records)?,
                    Some(b'{') if statuses => {
                        let array = member(document, "statuses").unwrap_or(document);
                        let line = line_at(content, content.len() - array.len());
                        elements(array, line, &mut records)?;
                    }
                    _ => records.push(record(document, line_at(content, start))?),
                }
            }
            Err(error) => lines(content, &error, &mut records)?,
        }
        if records.iter().any(|record| record.post) {
            Ok(Self { records })
        } else {
            Err(Error::Empty)
        }
    }

    /// How many posts it holds.
    #[must_use]
    pub fn posts(&self) -> usize {
        self.records.iter().filter(|record| record.post).count()
    }

    pub(super) fn into_records(self) -> Vec<Record> {
        self.records
    }
}

/// JSON Lines. `whole` says why the content is not one document, which is the better explanation where the first
/// line is not a record either: then it is a damaged document.
fn lines(
    content: &[u8],
    whole: &serde_json::Error,
    records: &mut Vec<Record>,
) -> Result<(), Error> {
    for (index, line) in content.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<IgnoredAny>(line) {
            Ok(_) => records.push(record(line, index + 1)?),
            Err(_) if records.is_empty() && whole.line() > index + 1 => {
                return Err(Error::Json { line: whole.line(), column: whole.column() });
            }
            Err(error) => {
                return Err(Error::Json { line: index + 1, column: error.column() });
            }
        }
    }
    Ok(())
}

/// The elements of an array, which is valid JSON with perhaps more JSON behind it.
fn elements(array: &[u8], first_line: usize, records: &mut Vec<Record>) -> Result<(), Error> {
    let mut start = 1;
    let mut end = None;
    scan(array, |at, depth, byte| {
        if (depth == 1 && byte == b',') || (depth == 0 && byte == b']') {
            let element = array.get(start..at).unwrap_or_default();
            let blank = element.len() - element.trim_ascii_start().len();
            if !element.trim_ascii().is_empty() {
                let line = first_line + line_at(array, start + blank) - 1;
                end = record(element.trim_ascii(), line).map(|record| records.push(record)).err();
            }
            start = at + 1;
        }
        end.is_none() && !(depth == 0 && byte == b']')
    });
    end.map_or(Ok(()), Err)
}

/// The value of an object's own member, with all that follows it.
fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut key_start = 1;
    let mut found = None;
    scan(object, |at, depth, byte| {
        match (depth, byte) {
            (1, b':') => {
                let key = object.get(key_start..at).unwrap_or_default();
                // A key may be written with escapes.
                if serde_json::from_slice::<String>(key).is_ok_and(|key| key == name) {
                    found = object.get(at + 1..).map(<[u8]>::trim_ascii_start);
                }
            }
            (1, b',') => key_start = at + 1,
            _ => {}
        }
        found.is_none()
    });
    found
}

/// Walks over the bytes of valid JSON that are outside strings; `visit` gets position, depth after the byte, and the
/// byte, and says whether to go on.
fn scan(json: &[u8], mut visit: impl FnMut(usize, usize, u8) -> bool) {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for (at, &byte) in json.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !visit(at, depth, byte) {
            return;
        }
    }
}

fn record(json: &[u8], line: usize) -> Result<Record, Error> {
    if json.first() != Some(&b'{') {
        return Err(Error::NotAnObject { line });
    }
    let post = serde_json::from_slice::<Shape>(json).is_ok_and(|shape| shape.is_post());
    Ok(Record { json: compact(json), post })
}

/// Without the whitespace between tokens; strings and numbers stay as they were written.
fn compact(json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len());
    let mut last = 0;
    scan(json, |at, _, byte| {
        // Strings are not visited: copy what lies between two visits.
        if at > last {
            out.extend_from_slice(json.get(last..at).unwrap_or_default());
        }
        last = at + 1;
        if !byte.is_ascii_whitespace() {
            out.push(byte);
        }
        true
    });
    out.into()
}

fn line_at(content: &[u8], at: usize) -> usize {
    1 + memchr::memchr_iter(b'\n', content.get(..at).unwrap_or(content)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(content: &str) -> Vec<String> {
        let recording = Recording::parse(content.as_bytes()).unwrap();
        recording
            .records
            .iter()
            .map(|record| String::from_utf8(record.json.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn json_lines_are_sent_as_they_were_recorded() {
        let first =
            r#"{"id":1234567890123456789012,"user":{},"text":"a\u00e9\/ \" ] }  b","x":1.50}"#;
        let second = r#"{"delete":{"status":{"id":1}}}"#;
        let content = format!("\u{feff}\r\n{first}\r\n\n  \n{second}\n");
        assert_eq!(texts(&content), [first, second]);
        assert_eq!(Recording::parse(content.as_bytes()).unwrap().posts(), 1);
        // A single line is a document too.
        assert_eq!(texts(first), [first]);
    }

    #[test]
    fn a_pretty_printed_search_answer_is_compacted_and_only_its_statuses_are_taken() {
        let content = r#"
        {
          "search_metadata": { "statuses": [ {"id": 9, "user": {}} ], "query": "\"statuses\": [" },
          "st\u0061tuses": [
            {
              "id": 1, "user": { "screen_name": "a  b" },
              "text": "x , ] \\\" y",
              "list": [ 1, [ 2 ], { } ]
            } ,
            { "id_str": "2", "user": {} }
          ],
          "after": [ {"id": 3, "user": {}} ]
        }"#;
        assert_eq!(
            texts(content),
            [
                r#"{"id":1,"user":{"screen_name":"a  b"},"text":"x , ] \\\" y","list":[1,[2],{}]}"#,
                r#"{"id_str":"2","user":{}}"#
            ]
        );
    }

    #[test]
    fn an_array_of_posts_is_read() {
        assert_eq!(
            texts("[{\"id\":1,\"user\":{}},\n {\"id\":2,\"user\":{}}]\n"),
            [r#"{"id":1,"user":{}}"#, r#"{"id":2,"user":{}}"#]
        );
    }

    fn error(content: &str) -> String {
        Recording::parse(content.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            error("{\"id\":1,\"user\":{}}\n\n{\"id\":2,"),
            "the recording is not JSON at line 3, column 8"
        );
        assert_eq!(
            error("{\"id\":1,\"user\":{}}\n7\n"),
            "line 2 of the recording is not a JSON object"
        );
        assert_eq!(
            error("{\n \"statuses\": [\n {\"id\": }\n ]\n}"),
            "the recording is not JSON at line 3, column 9"
        );
        assert_eq!(
            error("{\"statuses\": [{\"id\":1,\"user\":{}},\n7,\n{}]}"),
            "line 2 of the recording is not a JSON object"
        );
        assert_eq!(
            error("[{\"id\":1,\"user\":{}},\n\n\"x\"]"),
            "line 3 of the recording is not a JSON object"
        );
    }

    #[test]
    fn a_recording_without_posts_is_refused() {
        for content in ["", "\n \r\n", "[]", "{\"statuses\":[]}", "{\"limit\":{\"track\":1}}"] {
            assert_eq!(error(content), "the recording holds no posts", "{content:?}");
        }
    }

    #[test]
    fn no_damage_to_a_recording_makes_it_panic() {
        let whole = "{\"statuses\": [ {\"id\": 1, \"user\": {\"a\": \"\\\"\\u00e9é\"}}, {\"id\":2,\"user\":{}} ] }";
        for end in 0..whole.len() {
            let _ = Recording::parse(whole.as_bytes().get(..end).unwrap());
            let mut damaged = whole.as_bytes().to_vec();
            for byte in [b'"', b'{', b']', 0xff] {
                damaged[end] = byte;
                let _ = Recording::parse(&damaged);
            }
        }
    }
}
