//! The body of a stream as it comes, unpacked where the server has packed it.

use std::io::Write;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use reqwest::{Request, Response};

use crate::telemetry::chain;

/// How much is unpacked at once, in bytes. Deflate makes at most about a thousand times as much of it.
const STEP: usize = 4096;

/// Tells the server that it may pack the stream.
pub fn accept_gzip(request: &mut Request) {
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
}

/// A body that is still being received.
pub struct Body {
    response: Response,
    packed: Option<Packed>,
}

struct Packed {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Received and not yet unpacked.
    rest: Bytes,
}

impl Body {
    /// The body of this response.
    pub fn new(response: Response) -> Self {
        let gzip = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"gzip");
        let packed = response.headers().get(CONTENT_ENCODING).is_some_and(gzip);
        let decoder = || Packed { decoder: MultiGzDecoder::new(Vec::new()), rest: Bytes::new() };
        Self { response, packed: packed.then(decoder) }
    }

    /// The next part of it; `None` at its end. A caller that drops the future loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(unpacked) = self.packed.as_mut().map_or(Ok(None), Packed::step)? {
                return Ok(Some(unpacked));
            }
            let received = self.response.chunk().await;
            match (received.map_err(|error| chain(&error.without_url()))?, &mut self.packed) {
                (Some(chunk), Some(packed)) => packed.rest = chunk,
                (received, _) => return Ok(received),
            }
        }
    }
}

impl Packed {
    /// Unpacks until there is something to read, or nothing more to unpack.
    fn step(&mut self) -> Result<Option<Bytes>, String> {
        while !self.rest.is_empty() {
            let step = self.rest.len().min(STEP);
            let part = self.rest.get(..step).unwrap_or_default();
            let unpacked = self.decoder.write_all(part).and_then(|()| self.decoder.flush());
            unpacked.map_err(|error| format!("the stream's gzip is broken: {error}"))?;
            self.rest.advance(step);
            let unpacked = std::mem::take(self.decoder.get_mut());
            if !unpacked.is_empty() {
                return Ok(Some(unpacked.into()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::stream;
    use reqwest::header::CONTENT_ENCODING;

    use super::*;

    /// A response that comes in pieces of this size.
    fn response(encoding: &str, bytes: &[u8], size: usize) -> Response {
        let chunks: Vec<Result<Bytes, std::io::Error>> =
            bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let body = reqwest::Body::wrap_stream(stream::iter(chunks));
        hyper::Response::builder().header(CONTENT_ENCODING, encoding).body(body).unwrap().into()
    }

    async fn read(response: Response) -> Result<Vec<u8>, String> {
        let mut body = Body::new(response);
        let mut read = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            assert!(chunk.len() <= STEP * 1100, "{}", chunk.len());
            read.extend_from_slice(&chunk);
        }
        Ok(read)
    }

    #[tokio::test]
    async fn what_was_flushed_is_read_at_once_wherever_the_pieces_end() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut flushed = Vec::new();
        for record in ["one\r\n", "\r\n", "two\r\n"] {
            encoder.write_all(record.as_bytes()).unwrap();
            encoder.flush().unwrap();
            flushed.push(encoder.get_ref().len());
        }
        // The server has not ended it.
        let packed = encoder.get_ref().clone();
        for size in [1, 3, 1000] {
            assert_eq!(read(response("gzip", &packed, size)).await.unwrap(), b"one\r\n\r\ntwo\r\n");
        }
        let first = &packed[..flushed[0]];
        assert_eq!(read(response("GZIP", first, 1000)).await.unwrap(), b"one\r\n");
        assert_eq!(read(response("identity", b"plain", 2)).await.unwrap(), b"plain");
    }

    #[tokio::test]
    async fn a_bomb_is_unpacked_in_steps_and_garbage_is_an_error() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b'x'; 4 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert_eq!(read(response("gzip", &bomb, usize::MAX)).await.unwrap().len(), 4 << 20);
        assert!(read(response("gzip", b"not packed at all", 5)).await.is_err());
    }
}
