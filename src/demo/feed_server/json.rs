//! Writing JSON by hand, in the several ways that are all the same JSON.

/// How strings are escaped. A reader must not care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    /// As v1.1 did: everything but ASCII as `\u` escapes, also `<` and `>`; slashes as `\/`.
    #[default]
    Ascii,
    /// UTF-8, slashes as `\/`.
    Unicode,
    /// UTF-8, slashes bare.
    BareSlashes,
    /// UTF-8, with some letters escaped that need not be, in upper-case hexadecimal.
    Needless,
}

impl Style {
    /// Which bytes stand for themselves. A part of a character of several bytes never does, so that a text can be
    /// cut where this changes.
    fn plain(self) -> &'static [bool; 256] {
        static ASCII: [bool; 256] = plain_bytes(Style::Ascii);
        static UNICODE: [bool; 256] = plain_bytes(Style::Unicode);
        static BARE_SLASHES: [bool; 256] = plain_bytes(Style::BareSlashes);
        static NEEDLESS: [bool; 256] = plain_bytes(Style::Needless);
        match self {
            Self::Ascii => &ASCII,
            Self::Unicode => &UNICODE,
            Self::BareSlashes => &BARE_SLASHES,
            Self::Needless => &NEEDLESS,
        }
    }
}

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which would refuse a bad index"
)]
const fn plain_bytes(style: Style) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        table[byte as usize] = match byte {
            b'"' | b'\\' => false,
            b'/' => matches!(style, Style::BareSlashes | Style::Needless),
            b'<' | b'>' => !matches!(style, Style::Ascii),
            b'a'..=b'z' => !matches!(style, Style::Needless) || !byte.is_multiple_of(5),
            _ => true,
        };
        byte += 1;
    }
    table
}

/// An output buffer.
#[derive(Default)]
pub(super) struct Json {
    out: Vec<u8>,
    style: Style,
}

impl Json {
    /// Appends to this buffer from now on.
    pub(super) fn start(&mut self, out: Vec<u8>) {
        self.out = out;
    }

    /// Gives the buffer back.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn style(&mut self, style: Style) {
        self.style = style;
    }

    pub(super) fn ends_with(&self, bytes: &[u8]) -> bool {
        self.out.ends_with(bytes)
    }

    /// Appends JSON as it stands.
    pub(super) fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    pub(super) fn number(&mut self, mut number: u64) {
        let start = self.out.len();
        loop {
            self.out.push(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        if let Some(digits) = self.out.get_mut(start..) {
            digits.reverse();
        }
    }

    /// Appends a string with its quotes.
    pub(super) fn text(&mut self, text: &str) {
        let plain = self.style.plain();
        let is_plain = |byte: u8| plain.get(usize::from(byte)).copied().unwrap_or_default();
        self.out.push(b'"');
        let mut rest = text;
        while !rest.is_empty() {
            // Most of a text needs no escape: it is copied in one go.
            let end = rest.bytes().position(|byte| !is_plain(byte));
            let (copied, others) = rest.split_at(end.unwrap_or(rest.len()));
            self.raw(copied);
            let end = others.bytes().position(is_plain);
            let (escaped, after) = others.split_at(end.unwrap_or(others.len()));
            for c in escaped.chars() {
                self.character(c);
            }
            rest = after;
        }
        self.out.push(b'"');
    }

    fn character(&mut self, c: char) {
        match c {
            '"' => self.raw("\\\""),
            '\\' => self.raw("\\\\"),
            '\n' => self.raw("\\n"),
            '\t' => self.raw("\\t"),
            '/' => self.raw("\\/"),
            _ if c < ' ' || self.style == Style::Ascii => self.escape(c, *b"0123456789abcdef"),
            ' '..='~' => self.escape(c, *b"0123456789ABCDEF"),
            _ => self.raw(c.encode_utf8(&mut [0; 4])),
        }
    }

    /// One `\u` escape, or the two of a surrogate pair.
    fn escape(&mut self, c: char, digits: [u8; 16]) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let digit = |shift: u16| {
                let digit = usize::from((*unit >> shift) & 0xf);
                digits.get(digit).copied().unwrap_or_default()
            };
            self.out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_is_the_same_json() {
        let text = "a\"b\\c/d\ne\tf\u{7}\u{1b}\u{7f}g <h> é 日本 \u{1f468}\u{200d}\u{1f469} \u{2028} the quick brown fox";
        let mut written = Vec::new();
        for style in [Style::Ascii, Style::Unicode, Style::BareSlashes, Style::Needless] {
            let mut json = Json::default();
            json.style(style);
            json.text(text);
            let out = json.finish();
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text, "{style:?}");
            written.push(out);
        }
        assert!(written[0].is_ascii() && !written[1].is_ascii());
        assert!(String::from_utf8_lossy(&written[0]).contains("\\ud83d\\udc68"));
        written.dedup();
        assert_eq!(written.len(), 4);
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 1_050_118_621_198_921_728, u64::MAX] {
            let mut json = Json::default();
            json.number(number);
            assert_eq!(json.finish(), number.to_string().as_bytes());
        }
    }
}
