//! What a stream can do wrong on request.

use std::collections::VecDeque;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};

/// A misbehaviour of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers a request with this instead of looking at it. `{authorization}` in the body stands for the
    /// Authorization header as it was received.
    Status {
        /// The answer's status.
        code: StatusCode,
        /// Added to the answer; a Content-Type given here replaces `text/plain`.
        headers: HeaderMap,
        /// The body.
        body_template: String,
    },
    /// Answers 401 with a body that quotes the received Authorization header, as some proxies do: a reader that
    /// logs bodies would then log a credential.
    EchoCredentials,
    /// Closes the socket, without ending the body, after this many more posts. Over HTTP/2 what flow control still
    /// holds back, of more than some kilobytes at once, is lost with it, though it was counted.
    DropAfter {
        /// Posts sent in full before.
        posts: u64,
        /// Whether the first half of one more is sent. It is not counted, and goes to the next connection.
        mid_record: bool,
    },
    /// Ends the body properly after this many more posts.
    EndAfter {
        /// Posts sent before.
        posts: u64,
    },
    /// Sends nothing more, not even keep-alives, and stays open.
    Stall,
    /// Sends this many lines that are no records, then goes on.
    Garbage {
        /// How many.
        lines: u32,
    },
    /// Sends one record of this many bytes (at least a few), which is JSON but no post, then goes on.
    OverLongRecord {
        /// Its length without CRLF.
        bytes: u64,
    },
    /// Sends posts one byte at a time.
    SlowBytes {
        /// The pause before each byte.
        every: Duration,
    },
    /// Sends a disconnect message and ends the body properly. v2 has no codes and no reasons: there it is
    /// [`StreamError::OperationalDisconnect`].
    Disconnect {
        /// X's disconnect code, 1 to 12.
        code: u8,
        /// The text beside it.
        reason: String,
    },
    /// Sends one of v2's error records, then goes on or ends the body properly.
    ErrorRecord {
        /// Which.
        error: StreamError,
        /// Whether the body ends behind it.
        close: bool,
    },
}

/// What v2 says within a stream that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// X restarts the server behind the stream.
    OperationalDisconnect,
    /// The application has as many streams as it may.
    TooManyConnections,
}

impl StreamError {
    /// The record, without its line's end.
    pub(super) fn record(self) -> Vec<u8> {
        let error = match self {
            Self::OperationalDisconnect => concat!(
                r#"{"title":"operational-disconnect","#,
                r#""disconnect_type":"UpstreamOperationalDisconnect","#,
                r#""detail":"This stream has been disconnected upstream for operational reasons.","#,
                r#""type":"https://api.twitter.com/2/problems/operational-disconnect"}"#
            ),
            Self::TooManyConnections => TOO_MANY_CONNECTIONS,
        };
        format!(r#"{{"errors":[{error}]}}"#).into_bytes()
    }
}

/// The same where a stream is asked for, with status 429.
pub(super) const TOO_MANY_CONNECTIONS: &str = concat!(
    r#"{"title":"ConnectionException","#,
    r#""detail":"This stream is currently at the maximum allowed connection limit.","#,
    r#""connection_issue":"TooManyConnections","#,
    r#""type":"https://api.twitter.com/2/problems/streaming-connection"}"#
);

/// Where a [`Fault`] is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The streams of both dialects.
    Stream,
    /// v2's `/oauth2/...`.
    Token,
    /// v2's `/2/tweets/search/stream/rules`.
    Rules,
}

/// Which connections a [`Fault`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The next request only. Several of these queue up.
    ///
    /// A fault of a stream is used up by a request that becomes a stream, an answer by any request.
    Next,
    /// Each request from now on for which no `Next` waits, until the faults are cleared. One at a time: a new
    /// one replaces the old.
    Each,
    /// The streams that are open now. Where there is none, nothing happens; an answer
    /// ([`Fault::Status`], [`Fault::EchoCredentials`]) has no meaning for a stream and waits as `Next`.
    Open,
}

impl Fault {
    /// Whether this fault takes the place of the answer, so that no stream opens.
    ///
    /// Where there is no stream, [`Fault::Stall`] never answers, and every other fault cuts the socket.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::EchoCredentials)
    }
}

/// The faults that wait for a request.
#[derive(Default)]
pub(super) struct Faults {
    next: VecDeque<Fault>,
    each: Option<Fault>,
}

impl Faults {
    pub(super) fn next(&mut self, fault: Fault) {
        self.next.push_back(fault);
    }

    pub(super) fn each(&mut self, fault: Fault) {
        self.each = Some(fault);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The fault for a request just arrived (`answer`), or for a stream about to start.
    pub(super) fn take(&mut self, answer: bool) -> Option<Fault> {
        match self.next.front() {
            Some(fault) if fault.is_answer() == answer => self.next.pop_front(),
            Some(_) => None,
            None => self.each.clone().filter(|fault| fault.is_answer() == answer),
        }
    }
}

/// Lines that look like what goes wrong in the field: a proxy's page, a record cut in two, bytes that are not
/// UTF-8, JSON that is no object.
pub(super) const GARBAGE: [&[u8]; 6] = [
    b"<html><body><h1>502 Bad Gateway</h1></body></html>",
    br#"{"created_at":"Wed Oct 10 20:19:24 +0000 2018","id":105011862"#,
    b"\xff\xfe\x00{\"text\":\"\xc3\x28\"}",
    b"[1,2,3]",
    b"null",
    br#"{"text":7,"user":"nobody","id_str":null}"#,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_taken_in_order_and_only_where_they_apply() {
        let mut faults = Faults::default();
        faults.next(Fault::EchoCredentials);
        faults.next(Fault::Stall);
        assert_eq!(faults.take(false), None);
        assert_eq!(faults.take(true), Some(Fault::EchoCredentials));
        assert_eq!(faults.take(true), None);
        assert_eq!(faults.take(false), Some(Fault::Stall));
        assert_eq!(faults.take(false), None);
    }

    #[test]
    fn a_standing_fault_waits_behind_the_queue_and_stays_until_cleared() {
        let mut faults = Faults::default();
        faults.each(Fault::Stall);
        faults.next(Fault::EndAfter { posts: 1 });
        assert_eq!(faults.take(false), Some(Fault::EndAfter { posts: 1 }));
        assert_eq!(faults.take(false), Some(Fault::Stall));
        assert_eq!(faults.take(false), Some(Fault::Stall));
        faults.clear();
        assert_eq!(faults.take(false), None);
    }
}
