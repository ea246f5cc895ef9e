//! JSON in any of the spellings that are the same JSON.

/// Writes JSON; the same seed gives the same spelling.
pub struct Spelling {
    rng: fastrand::Rng,
    /// The share of characters that are escaped though they need not be, in percent.
    escaped: u8,
    /// The same of the names of members.
    escaped_names: u8,
    /// The share of places between tokens that hold white space, in percent.
    spaced: u8,
    pub out: Vec<u8>,
}

impl Spelling {
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let escaped = [0, 0, 5, 30, 100][rng.usize(..5)];
        let [escaped_names, spaced] = [(); 2].map(|()| [0, 0, 0, 0, 5][rng.usize(..5)]);
        Self { rng, escaped, escaped_names, spaced, out: Vec::new() }
    }

    fn percent(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    pub fn rng(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
    }

    /// A token as it stands.
    pub fn raw(&mut self, json: &str) {
        self.space();
        self.out.extend_from_slice(json.as_bytes());
        self.space();
    }

    fn space(&mut self) {
        while self.percent(self.spaced) {
            self.out.push(b" \t\n"[self.rng.usize(..3)]);
        }
    }

    pub fn name(&mut self, name: &str) {
        self.string(name, self.escaped_names);
        self.raw(":");
    }

    pub fn text(&mut self, text: &str) {
        self.string(text, self.escaped);
    }

    fn string(&mut self, text: &str, escaped: u8) {
        self.space();
        self.out.push(b'"');
        for c in text.chars() {
            let short = match c {
                '"' | '\\' | '/' => Some(c),
                '\n' => Some('n'),
                '\t' => Some('t'),
                '\r' => Some('r'),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                _ => None,
            };
            let must = matches!(c, '"' | '\\' | '\0'..='\x1f');
            if !must && !self.percent(escaped) {
                self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else if let Some(short) = short
                && self.rng.bool()
            {
                self.out.extend_from_slice(format!("\\{short}").as_bytes());
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let digits = format!("{unit:04x}");
                    self.out.extend_from_slice(b"\\u");
                    for digit in digits.bytes() {
                        let upper = self.rng.bool();
                        self.out.push(if upper { digit.to_ascii_uppercase() } else { digit });
                    }
                }
            }
        }
        self.out.push(b'"');
        self.space();
    }
}
