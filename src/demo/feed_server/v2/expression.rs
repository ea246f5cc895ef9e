//! The language of rules, from X's "Building a rule": whether a value is a rule, and whether a post matches it.
//!
//! Words beside each other must all match, `OR` binds looser, `-` negates, parentheses group. A word is compared
//! with the tokens of a post, not with its letters: what lies between punctuation, symbols and spaces. Of X's
//! operators these are here: keywords, quoted phrases, `#`, `@`, `from:`, `retweets_of:`, `url:`, `lang:`, `is:` and
//! `has:`. Another one is refused, as X refuses one that an access level does not have.

use std::iter::Peekable;
use std::str::CharIndices;

use super::super::posts::{Flavour, Generator, Post};
use super::post::whole_text;

/// X: rules of at most so many characters.
const LONGEST: usize = 1_024;

/// Why a value is no rule. The text is for a reader: X's own wording where it is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// A rule's value, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expression {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    /// These tokens, one behind the other.
    Phrase(Vec<String>),
    /// A text without any token, such as an emoji.
    Symbols(String),
    Hashtag(String),
    Mention(String),
    From(String),
    RetweetsOf(String),
    Url(Vec<String>),
    Lang(String),
    Is(Kind),
    Has(Entity),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Retweet,
    Quote,
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entity {
    Hashtags,
    Links,
    Mentions,
}

/// Reads a rule's value.
pub(super) fn parse(value: &str) -> Result<Expression, Error> {
    if value.trim().is_empty() {
        return Err(Error("Rule value must not be empty".to_owned()));
    }
    if value.chars().count() > LONGEST {
        return Err(Error(format!("Rule must be less than or equal to {LONGEST} characters")));
    }
    let mut parser = Parser { chars: value.char_indices().peekable(), end: value.len() };
    let expression = parser.any()?;
    match parser.chars.next() {
        Some((at, c)) => Err(Error(format!("missing EOF at '{c}' (at position {})", at + 1))),
        None if !expression.stands_alone() => Err(Error(
            "Rule must contain at least one operator that can stand alone in each alternative: \
             negations, lang:, is: and has: cannot"
                .to_owned(),
        )),
        None => Ok(expression),
    }
}

struct Parser<'a> {
    chars: Peekable<CharIndices<'a>>,
    end: usize,
}

impl Parser<'_> {
    /// Alternatives between `OR`.
    fn any(&mut self) -> Result<Expression, Error> {
        let mut alternatives = vec![self.all()?];
        while self.take_or() {
            alternatives.push(self.all()?);
        }
        Ok(single_or(alternatives, Expression::Any))
    }

    /// What stands beside each other, up to an `OR`, a closing parenthesis or the end.
    fn all(&mut self) -> Result<Expression, Error> {
        let mut parts = Vec::new();
        loop {
            self.skip_spaces();
            if self.at_or() || matches!(self.chars.peek(), None | Some((_, ')'))) {
                break;
            }
            parts.push(self.one()?);
        }
        if parts.is_empty() { Err(self.stuck()) } else { Ok(single_or(parts, Expression::All)) }
    }

    fn one(&mut self) -> Result<Expression, Error> {
        match self.chars.peek() {
            Some((_, '-')) => {
                self.chars.next();
                match self.chars.peek() {
                    Some((_, c)) if !c.is_whitespace() && *c != '-' && *c != ')' => {
                        Ok(Expression::Not(Box::new(self.one()?)))
                    }
                    _ => Err(self.stuck()),
                }
            }
            Some((_, '(')) => {
                self.chars.next();
                let inner = self.any()?;
                self.skip_spaces();
                match self.chars.next() {
                    Some((_, ')')) => Ok(inner),
                    _ => Err(Error(format!("missing ')' at position {}", self.end + 1))),
                }
            }
            Some((_, '"')) => Ok(words(&self.quoted()?)),
            _ => self.word(),
        }
    }

    /// A quoted phrase; `\"` is a quote in it.
    fn quoted(&mut self) -> Result<String, Error> {
        let start = self.chars.next().map_or(self.end, |(at, _)| at);
        let mut text = String::new();
        while let Some((_, c)) = self.chars.next() {
            match c {
                '"' if text.trim().is_empty() => break,
                '"' => return Ok(text),
                '\\' => text.extend(self.chars.next().map(|(_, c)| c)),
                _ => text.push(c),
            }
        }
        Err(Error(format!("no viable alternative at character '\"' (at position {})", start + 1)))
    }

    /// A word without quotes: a keyword, `#`, `@`, or an operator with its value.
    fn word(&mut self) -> Result<Expression, Error> {
        let start = self.position();
        let sign = self.chars.next_if(|(_, c)| matches!(c, '#' | '@')).map(|(_, sign)| sign);
        let mut word = String::new();
        while let Some((_, c)) = self.chars.next_if(|(_, c)| is_word(*c)) {
            word.push(c);
        }
        match self.chars.peek().copied() {
            _ if word.is_empty() => Err(self.stuck()),
            Some((_, ':')) if sign.is_none() => {
                self.chars.next();
                self.operator(&word, start)
            }
            Some((_, c)) if !c.is_whitespace() && c != ')' && c != '(' => Err(Error(format!(
                "no viable alternative at character '{c}' (at position {}): what holds \
                 punctuation must be quoted",
                self.position() + 1
            ))),
            _ => match sign {
                Some('#') => Ok(Expression::Hashtag(word.to_lowercase())),
                Some(_) => username(&word).map(Expression::Mention),
                None if ["and", "or"].contains(&word.to_lowercase().as_str()) => {
                    Err(Error(format!(
                        "Ambiguous use of {} as a keyword (at position {})",
                        word.to_lowercase(),
                        start + 1
                    )))
                }
                None => Ok(words(&word)),
            },
        }
    }

    fn operator(&mut self, name: &str, start: usize) -> Result<Expression, Error> {
        let mut value = String::new();
        if matches!(self.chars.peek(), Some((_, '"'))) {
            value = self.quoted()?;
        }
        while let Some((_, c)) =
            self.chars.next_if(|(_, c)| !c.is_whitespace() && !"()\"".contains(*c))
        {
            value.push(c);
        }
        let wrong = || {
            Error(format!(
                "Invalid value '{value}' for operator '{name}' (at position {})",
                start + 1
            ))
        };
        match (name, value.as_str()) {
            ("from", user) => username(user).map(Expression::From),
            ("retweets_of", user) => username(user).map(Expression::RetweetsOf),
            ("url", url) if !tokens(url).is_empty() => Ok(Expression::Url(tokens(url))),
            ("lang", lang)
                if (2..=3).contains(&lang.len())
                    && lang.bytes().all(|byte| byte.is_ascii_lowercase()) =>
            {
                Ok(Expression::Lang(value))
            }
            ("is", "retweet") => Ok(Expression::Is(Kind::Retweet)),
            ("is", "quote") => Ok(Expression::Is(Kind::Quote)),
            ("is", "reply") => Ok(Expression::Is(Kind::Reply)),
            ("has", "hashtags") => Ok(Expression::Has(Entity::Hashtags)),
            ("has", "links") => Ok(Expression::Has(Entity::Links)),
            ("has", "mentions") => Ok(Expression::Has(Entity::Mentions)),
            ("url" | "lang" | "is" | "has", _) => Err(wrong()),
            _ => Err(Error(format!(
                "Reference to invalid operator '{name}'. Operator is not available in current \
                 product or product packaging. (at position {})",
                start + 1
            ))),
        }
    }

    fn skip_spaces(&mut self) {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    /// Whether `OR` stands here, as a word of its own.
    fn at_or(&self) -> bool {
        let mut ahead = self.chars.clone().map(|(_, c)| c);
        ahead.next() == Some('O')
            && ahead.next() == Some('R')
            && ahead.next().is_none_or(|c| c.is_whitespace() || c == '(' || c == ')')
    }

    fn take_or(&mut self) -> bool {
        let found = self.at_or();
        if found {
            self.chars.next();
            self.chars.next();
        }
        found
    }

    fn position(&mut self) -> usize {
        self.chars.peek().map_or(self.end, |(at, _)| *at)
    }

    fn stuck(&mut self) -> Error {
        let at = self.position() + 1;
        match self.chars.peek() {
            Some((_, c)) => {
                Error(format!("no viable alternative at character '{c}' (at position {at})"))
            }
            None => Error(format!("no viable alternative at input '<EOF>' (at position {at})")),
        }
    }
}

fn single_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(part) if parts.is_empty() => part,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

/// What may stand in a word that is not quoted.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace())
}

fn words(text: &str) -> Expression {
    let tokens = tokens(text);
    if tokens.is_empty() {
        Expression::Symbols(text.to_lowercase())
    } else {
        Expression::Phrase(tokens)
    }
}

fn username(name: &str) -> Result<String, Error> {
    let right = (1..=30).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if right {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(Error(format!("'{name}' is not a username")))
    }
}

/// The tokens of a text, in lower case. In a script without spaces each character is one, so that a phrase of them
/// is found wherever it stands.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() && !is_unspaced(c) {
            token.extend(c.to_lowercase());
            continue;
        }
        if !token.is_empty() {
            tokens.push(std::mem::take(&mut token));
        }
        if is_unspaced(c) {
            tokens.push(c.to_string());
        }
    }
    if !token.is_empty() {
        tokens.push(token);
    }
    tokens
}

/// Scripts that are written without spaces: Thai to Myanmar, Khmer, kana, Han.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}' | '\u{20000}'..='\u{2fa1f}')
}

/// A post as rules see it.
pub(in super::super) struct Searched<'a> {
    post: &'a Post,
    text: String,
    /// Of the text, the hashtags, the mentions and the links, each by itself.
    tokens: Vec<Vec<String>>,
    from: &'a str,
    retweets_of: &'a str,
}

impl<'a> Searched<'a> {
    pub(in super::super) fn of(generator: &'a Generator, post: &'a Post) -> Self {
        let name = |user: usize| {
            generator.users.get(user).map(|user| user.screen_name.as_str()).unwrap_or_default()
        };
        let text = whole_text(post).to_lowercase();
        let draft = &post.draft;
        let urls = draft.urls.iter().flat_map(|(url, _)| [&url.expanded, &url.display]);
        let names = draft.hashtags.iter().chain(&draft.mentions).map(|(name, _)| name);
        let places = std::iter::once(&text).chain(names).chain(urls);
        Self {
            post,
            tokens: places.map(|text| tokens(text)).collect(),
            text,
            from: name(post.stamp.user),
            retweets_of: if is_retweet(post) { name(draft.retweeted) } else { "" },
        }
    }
}

pub(super) fn is_retweet(post: &Post) -> bool {
    matches!(post.flavour, Flavour::Retweet | Flavour::NearRetweet)
}

fn holds(tokens: &[String], phrase: &[String]) -> bool {
    tokens.windows(phrase.len()).any(|window| window == phrase)
}

impl Expression {
    /// Whether a rule may be this alone: X would otherwise send nearly everything.
    fn stands_alone(&self) -> bool {
        match self {
            Self::All(parts) => parts.iter().any(Self::stands_alone),
            Self::Any(parts) => parts.iter().all(Self::stands_alone),
            Self::Not(_) | Self::Lang(_) | Self::Is(_) | Self::Has(_) => false,
            _ => true,
        }
    }

    pub(super) fn matches(&self, searched: &Searched<'_>) -> bool {
        let draft = &searched.post.draft;
        let is = |name: &str, wanted: &str| name.eq_ignore_ascii_case(wanted);
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(searched)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(searched)),
            Self::Not(part) => !part.matches(searched),
            Self::Phrase(phrase) => searched.tokens.iter().any(|tokens| holds(tokens, phrase)),
            Self::Symbols(symbols) => searched.text.contains(symbols.as_str()),
            Self::Hashtag(tag) => {
                draft.hashtags.iter().any(|(hashtag, _)| hashtag.to_lowercase() == *tag)
            }
            Self::Mention(name) => draft.mentions.iter().any(|(mention, _)| is(mention, name)),
            Self::From(name) => is(searched.from, name),
            Self::RetweetsOf(name) => is(searched.retweets_of, name),
            Self::Url(phrase) => {
                draft.urls.iter().any(|(url, _)| holds(&tokens(&url.expanded), phrase))
            }
            Self::Lang(lang) => draft.lang == lang,
            Self::Is(Kind::Retweet) => is_retweet(searched.post),
            Self::Is(Kind::Quote) => matches!(searched.post.flavour, Flavour::Quote),
            // No generated post is one.
            Self::Is(Kind::Reply) => false,
            Self::Has(Entity::Hashtags) => !draft.hashtags.is_empty(),
            Self::Has(Entity::Links) => !draft.urls.is_empty(),
            Self::Has(Entity::Mentions) => !draft.mentions.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::super::posts::Item;
    use super::*;

    #[test]
    fn what_x_takes_is_a_rule() {
        for value in [
            "Amazon",
            "Amazon OR \"Amazon Web Services\"",
            "(cat OR dog) -#meme lang:en -is:retweet",
            "snow -(day OR noschool)",
            "#nowplaying @someone_1",
            "from:someone has:links",
            "url:\"https://example.com/a\"",
            "\"coca-cola\" \"a \\\"quoted\\\" word\"",
            "日本語 OR 🌸",
            "ORacle ORDER",
            "\"or\" \"and\"",
            &"a".repeat(1_024),
        ] {
            assert!(parse(value).is_ok(), "{value}: {:?}", parse(value));
        }
    }

    #[test]
    fn what_x_does_not_take_is_no_rule() {
        for value in [
            "",
            "  ",
            "\"unbalanced",
            "\"\"",
            "(cat",
            "cat)",
            "()",
            "cat OR",
            "OR cat",
            "cat OR OR dog",
            "-cat",
            "-cat -dog",
            "lang:en",
            "lang:en -is:retweet",
            "has:links",
            "cat OR lang:en",
            "cat OR -dog",
            "cat -",
            "cat - dog",
            "cat --dog",
            "lang:English cat",
            "lang: cat",
            "is:funny cat",
            "from:not-a-name",
            "place:paris",
            "coca-cola",
            "amazon.com",
            "a&b",
            "cat and dog",
            "cat or dog",
            "cat AND dog",
            "#",
            "@",
            "a,b",
            &"a".repeat(1_025),
        ] {
            assert!(parse(value).is_err(), "{value}: {:?}", parse(value));
        }
    }

    #[test]
    fn a_space_binds_closer_than_or() {
        let word = |word: &str| Expression::Phrase(vec![word.to_owned()]);
        assert_eq!(
            parse("a b OR -c d"),
            Ok(Expression::Any(vec![
                Expression::All(vec![word("a"), word("b")]),
                Expression::All(vec![Expression::Not(Box::new(word("c"))), word("d")]),
            ]))
        );
    }

    #[test]
    fn tokens_lie_between_punctuation_and_scripts_without_spaces_are_cut_everywhere() {
        assert_eq!(tokens("Coca-Cola, #NOW!"), ["coca", "cola", "now"]);
        assert_eq!(tokens("Amazonで買った"), ["amazon", "で", "買", "っ", "た"]);
        assert_eq!(tokens("ＡＢＣ Ünder"), ["ａｂｃ", "ünder"]);
    }

    #[test]
    fn a_rule_of_the_word_and_the_oracle_agree_on_every_post() {
        let mut generator = Generator::new(1, "Amazon", 0.5).unwrap();
        let rules = ["Amazon", "aMAZON OR \"no such phrase\"", "(amazon) -\"no such phrase\""];
        let rules = rules.map(|value| parse(value).unwrap());
        let negated = Expression::Not(Box::new(parse("Amazon").unwrap()));
        let mut matches = 0;
        for second in 0..8_000 {
            let now = UNIX_EPOCH + Duration::from_secs(1_539_202_764 + second);
            let Item::Post(post) = generator.next(now) else { continue };
            let searched = Searched::of(&generator, &post);
            for rule in &rules {
                assert_eq!(rule.matches(&searched), post.matches, "{}", searched.text);
            }
            assert_eq!(negated.matches(&searched), !post.matches);
            matches += u32::from(post.matches);
        }
        assert!((3_500..4_500).contains(&matches));
    }

    #[test]
    fn each_operator_is_true_of_some_posts_and_not_of_others() {
        let mut generator = Generator::new(2, "Amazon", 0.5).unwrap();
        let name = generator.users.get(7).unwrap().screen_name.clone();
        let from = format!("from:{}", name.to_uppercase());
        let operators = [
            ("Amazon lang:ja", 200),
            ("\"ramen near the station\"", 20),
            ("\"near ramen\"", 0),
            ("#nowplaying", 20),
            ("@amazon", 20),
            ("url:\"example.com\"", 100),
            ("Amazon is:retweet", 100),
            ("Amazon is:quote", 50),
            ("Amazon is:reply", 0),
            ("Amazon has:hashtags", 50),
            ("Amazon has:links", 100),
            ("Amazon has:mentions", 50),
            ("🍜", 20),
            ("散歩", 20),
            (from.as_str(), 1),
            ("retweets_of:nobody", 0),
        ];
        let posts = 8_000;
        let mut counts = [0; 16];
        let rules = operators.map(|(value, _)| parse(value).unwrap());
        for second in 0..posts {
            let now = UNIX_EPOCH + Duration::from_secs(1_539_202_764 + second);
            let Item::Post(mut post) = generator.next(now) else { continue };
            if second == 0 {
                post.stamp.user = 7;
            }
            let searched = Searched::of(&generator, &post);
            for (count, rule) in counts.iter_mut().zip(&rules) {
                *count += u32::from(rule.matches(&searched));
            }
        }
        for ((value, least), count) in operators.into_iter().zip(counts) {
            assert!(count >= least && (least > 0 || count == 0), "{value}: {count}");
            assert!(count < 4_000, "{value}: {count}");
        }
    }
}
