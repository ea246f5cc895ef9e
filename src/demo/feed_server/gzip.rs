//! A stream's body, compressed for a reader that accepts it.

use std::io::Write;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Compresses chunk by chunk: what was put in can be read out at once, as a stream needs it.
pub(super) struct Encoder(GzEncoder<Vec<u8>>);

impl Encoder {
    /// One for a reader that accepts gzip.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let accepted = headers
            .get_all(header::ACCEPT_ENCODING)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|coding| {
                let (name, quality) = coding.split_once(';').unwrap_or((coding, "q=1"));
                let quality = quality.trim().strip_prefix("q=").and_then(|q| q.parse().ok());
                name.trim().eq_ignore_ascii_case("gzip") && quality.is_some_and(|q: f32| q > 0.0)
            });
        accepted.then(|| Self(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    /// A chunk, and the sync flush that lets all of it be read.
    pub(super) fn encode(&mut self, chunk: &[u8]) -> Bytes {
        // Writing to memory does not fail.
        let _ = self.0.write_all(chunk).and_then(|()| self.0.flush());
        std::mem::take(self.0.get_mut()).into()
    }

    /// What stands behind the last chunk of a body that ends properly.
    pub(super) fn end(&mut self) -> Bytes {
        let _ = self.0.try_finish();
        std::mem::take(self.0.get_mut()).into()
    }
}
