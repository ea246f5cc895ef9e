//! OAuth 1.0a from the server's side, written from RFC 5849 alone: it referees the worker's signer, so it
//! shares no code with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::super::refusal::Refusal;

/// What RFC 5849 section 3.6 leaves unescaped.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How far a request's timestamp may be from the server's clock. X answers "Timestamp out of bounds" beyond
/// five minutes.
const TIMESTAMP_TOLERANCE: Duration = Duration::from_mins(5);

/// How many nonces are remembered. A client signs once per connect, so this is never reached in earnest.
const NONCES: usize = 100_000;

/// The parts of a request that its signature covers.
#[derive(Clone, Copy)]
pub(super) struct SignedRequest<'a> {
    pub(super) method: &'a str,
    pub(super) scheme: &'a str,
    /// The Host header: what the client believes it talks to.
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) authorization: &'a str,
    /// The body, if its content type is `application/x-www-form-urlencoded`.
    pub(super) form: Option<&'a [u8]>,
}

/// What a request claims, before anything of it is believed.
pub(super) struct Claims {
    pub(super) consumer_key: String,
    /// Empty where the request has none: then it is nobody's.
    pub(super) access_token: String,
    timestamp: u64,
    nonce: String,
    signature: Vec<u8>,
    base_string: String,
}

type Parameter<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl Claims {
    /// Reads the Authorization header and builds the signature base string.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unsigned`] if the header is not an OAuth one, [`Refusal::Malformed`] if it is not one that
    /// RFC 5849 with HMAC-SHA1 permits.
    pub(super) fn read(request: &SignedRequest<'_>) -> Result<Self, Refusal> {
        let mut protocol = BTreeMap::new();
        for (name, value) in authorization_parameters(request.authorization)? {
            let name = String::from_utf8(name.into_owned()).map_err(|_| Refusal::Malformed)?;
            let value = String::from_utf8(value.into_owned()).map_err(|_| Refusal::Malformed)?;
            // Section 3.2: each parameter must not appear more than once per request.
            if protocol.insert(name, value).is_some() {
                return Err(Refusal::Malformed);
            }
        }
        protocol.remove("realm");
        let signature = protocol.remove("oauth_signature").ok_or(Refusal::Malformed)?;
        let signature =
            aws_smithy_types::base64::decode(signature).map_err(|_| Refusal::Malformed)?;
        let required = |name: &str| match protocol.get(name) {
            Some(value) if !value.is_empty() => Ok(value.clone()),
            _ => Err(Refusal::Malformed),
        };
        if required("oauth_signature_method")? != "HMAC-SHA1"
            || protocol.get("oauth_version").is_some_and(|version| version != "1.0")
        {
            return Err(Refusal::Malformed);
        }
        let timestamp = required("oauth_timestamp")?;
        if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::Malformed);
        }
        let mut parameters: Vec<Parameter<'_>> = Vec::new();
        parameters.extend(request.query.map(str::as_bytes).into_iter().flat_map(form_parameters));
        parameters.extend(request.form.into_iter().flat_map(form_parameters));
        parameters.extend(protocol.iter().map(|(name, value)| {
            (Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes()))
        }));
        Ok(Self {
            consumer_key: required("oauth_consumer_key")?,
            access_token: protocol.get("oauth_token").cloned().unwrap_or_default(),
            timestamp: timestamp.parse().map_err(|_| Refusal::Malformed)?,
            nonce: required("oauth_nonce")?,
            signature,
            base_string: base_string(request, &parameters),
        })
    }

    /// Whether the signature was made with these secrets (section 3.4.2), compared in constant time.
    pub(super) fn signed_with(&self, consumer_secret: &str, access_token_secret: &str) -> bool {
        let key = format!(
            "{}&{}",
            encode(consumer_secret.as_bytes()),
            encode(access_token_secret.as_bytes())
        );
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
        hmac::verify(&key, self.base_string.as_bytes(), &self.signature).is_ok()
    }
}

/// The nonces already used, so that a request that was overheard cannot be sent again (section 3.3).
#[derive(Default)]
pub(in super::super) struct Nonces {
    by_timestamp: BTreeMap<u64, HashSet<[u8; 32]>>,
    held: usize,
    /// Timestamps up to this one were forgotten for want of room, so none of them can be admitted any more.
    forgotten: Option<u64>,
}

impl Nonces {
    /// Takes note of a request whose signature was found right.
    ///
    /// # Errors
    ///
    /// [`Refusal::StaleTimestamp`], [`Refusal::NonceReused`].
    pub(super) fn admit(&mut self, claims: &Claims, now: SystemTime) -> Result<(), Refusal> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let oldest = now.saturating_sub(TIMESTAMP_TOLERANCE.as_secs());
        let newest = now.saturating_add(TIMESTAMP_TOLERANCE.as_secs());
        if !(oldest..=newest).contains(&claims.timestamp)
            || self.forgotten.is_some_and(|forgotten| claims.timestamp <= forgotten)
        {
            return Err(Refusal::StaleTimestamp);
        }
        while let Some(entry) = self.by_timestamp.first_entry()
            && (*entry.key() < oldest || self.held >= NONCES)
        {
            if *entry.key() >= oldest {
                self.forgotten = Some(*entry.key());
            }
            self.held = self.held.saturating_sub(entry.remove().len());
        }
        if self.by_timestamp.entry(claims.timestamp).or_default().insert(nonce_digest(claims)) {
            self.held += 1;
            Ok(())
        } else {
            Err(Refusal::NonceReused)
        }
    }
}

/// A nonce is unique per timestamp, client and token. The digest bounds what a long nonce can cost.
fn nonce_digest(claims: &Claims) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&claims.consumer_key, &claims.access_token, &claims.nonce] {
        // The encoding never holds '&', so that no two triples share a digest input.
        context.update(encode(part.as_bytes()).as_bytes());
        context.update(b"&");
    }
    let mut bytes = [0; 32];
    for (byte, digest) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *byte = *digest;
    }
    bytes
}

/// Section 3.4.1: method, base string URI and normalised parameters.
fn base_string(request: &SignedRequest<'_>, parameters: &[Parameter<'_>]) -> String {
    let mut pairs: Vec<(String, String)> = parameters
        .iter()
        .filter(|(name, _)| name.as_ref() != b"oauth_signature")
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    // Section 3.4.1.3.2: by encoded name, equal names by encoded value.
    pairs.sort_unstable();
    let mut normalised = String::new();
    for (name, value) in &pairs {
        let separator = if normalised.is_empty() { "" } else { "&" };
        let _ = write!(normalised, "{separator}{name}={value}");
    }
    format!(
        "{}&{}&{}",
        encode(request.method.to_ascii_uppercase().as_bytes()),
        encode(base_string_uri(request).as_bytes()),
        encode(normalised.as_bytes())
    )
}

/// Section 3.4.1.2: scheme and host in lower case, the scheme's own port left out, the path as it was sent.
fn base_string_uri(request: &SignedRequest<'_>) -> String {
    let scheme = request.scheme.to_ascii_lowercase();
    let host = request.host.to_ascii_lowercase();
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let path = if request.path.is_empty() { "/" } else { request.path };
    format!("{scheme}://{host}{path}")
}

/// Section 3.5.1: `OAuth name="value", ...`, names and values percent-encoded.
fn authorization_parameters(header: &str) -> Result<Vec<Parameter<'static>>, Refusal> {
    let (scheme, mut rest) = header.trim().split_once(' ').ok_or(Refusal::Unsigned)?;
    if !scheme.eq_ignore_ascii_case("OAuth") {
        return Err(Refusal::Unsigned);
    }
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(parameters);
        }
        let (name, after) = rest.split_once('=').ok_or(Refusal::Malformed)?;
        let quoted = after.trim_start().strip_prefix('"').ok_or(Refusal::Malformed)?;
        // Percent-encoding leaves no quote and no backslash in a value; the realm, a quoted-string, may hold
        // both behind a backslash.
        let mut escaped = false;
        let end = quoted
            .find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })
            .ok_or(Refusal::Malformed)?;
        let (value, after) = quoted.split_at(end);
        let decode = |text: &str| Cow::Owned(percent_decode(text.as_bytes()).collect());
        parameters.push((decode(name.trim()), decode(value)));
        rest = after.trim_start_matches('"').trim_start();
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(Refusal::Malformed);
        }
    }
}

/// The parameters of a query or of a form body (section 3.4.1.3.1), as bytes: what is not UTF-8 was signed too.
pub(super) fn form_parameters(encoded: &[u8]) -> impl Iterator<Item = Parameter<'_>> {
    encoded.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        let mut half = || form_decode(halves.next().unwrap_or_default());
        (half(), half())
    })
}

fn form_decode(encoded: &[u8]) -> Cow<'_, [u8]> {
    let spaced: Vec<u8> =
        encoded.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5849 section 1.2, third request: protected resource.
    const PHOTOS: SignedRequest<'static> = SignedRequest {
        method: "GET",
        scheme: "http",
        host: "photos.example.net",
        path: "/photos",
        query: Some("file=vacation.jpg&size=original"),
        authorization: concat!(
            r#"OAuth realm="Photos", oauth_consumer_key="dpf43f3p2l4k3l03", "#,
            r#"oauth_token="nnch734d00sl2jdk", oauth_signature_method="HMAC-SHA1", "#,
            r#"oauth_timestamp="137131202", oauth_nonce="chapoH", "#,
            r#"oauth_signature="MdpQcU8iPSUjWoN%2FUDMsK2sui9I%3D""#
        ),
        form: None,
    };

    /// RFC 5849 section 3.4.1.1, with its odd parameters.
    const ODD: SignedRequest<'static> = SignedRequest {
        method: "POST",
        scheme: "http",
        host: "EXAMPLE.COM:80",
        path: "/request",
        query: Some("b5=%3D%253D&a3=a&c%40=&a2=r%20b"),
        authorization: concat!(
            r#"OAuth realm="Example", oauth_consumer_key="9djdj82h48djs9d2", "#,
            r#"oauth_token="kkk9d7dh3k39sjv7", oauth_signature_method="HMAC-SHA1", "#,
            r#"oauth_timestamp="137131201", oauth_nonce="7d8f3e4a", "#,
            // The RFC prints another signature, which verified erratum 2550 corrects to this one.
            r#"oauth_signature="r6%2FTJjbCOr97%2F%2BUU0NsvSne7s5g%3D""#
        ),
        form: Some(b"c2&a3=2+q"),
    };

    /// The example of X's guide "Creating a signature".
    const GUIDE: SignedRequest<'static> = SignedRequest {
        method: "POST",
        scheme: "https",
        host: "api.twitter.com",
        path: "/1.1/statuses/update.json",
        query: Some("include_entities=true"),
        authorization: concat!(
            r#"OAuth oauth_consumer_key="xvz1evFS4wEEPTGEFPHBog", "#,
            r#"oauth_nonce="kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg", "#,
            r#"oauth_signature="hCtSmYh%2BiHYCEqBWrE7C7hYmtUk%3D", oauth_signature_method="HMAC-SHA1", "#,
            r#"oauth_timestamp="1318622958", "#,
            r#"oauth_token="370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb", oauth_version="1.0""#
        ),
        form: Some(b"status=Hello%20Ladies%20%2b%20Gentlemen%2c%20a%20signed%20OAuth%20request%21"),
    };
    const GUIDE_SECRETS: [&str; 2] = [
        "kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw",
        "LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE",
    ];

    fn verifies(request: &SignedRequest<'_>, secrets: [&str; 2]) -> bool {
        let [consumer_secret, access_token_secret] = secrets;
        Claims::read(request)
            .is_ok_and(|claims| claims.signed_with(consumer_secret, access_token_secret))
    }

    /// Every way to alter one character of what was signed must be refused.
    fn each_alteration_is_refused(request: &SignedRequest<'_>, secrets: [&str; 2]) {
        let altered = |text: &str, from: &str, to: &str| {
            assert!(text.contains(from), "the control alters nothing: {from}");
            text.replacen(from, to, 1)
        };
        let path = altered(request.path, "/", "/x");
        let host = altered(request.host, ".", "-");
        assert!(!verifies(&SignedRequest { path: &path, ..*request }, secrets), "path");
        assert!(!verifies(&SignedRequest { host: &host, ..*request }, secrets), "host");
        assert!(!verifies(&SignedRequest { method: "PUT", ..*request }, secrets), "method");
        let scheme = if request.scheme == "http" { "https" } else { "http" };
        assert!(!verifies(&SignedRequest { scheme, ..*request }, secrets), "scheme");
        let query = request.query.map(|query| altered(query, "=", "=x"));
        if query.is_some() {
            assert!(
                !verifies(&SignedRequest { query: query.as_deref(), ..*request }, secrets),
                "query"
            );
        }
        if let Some(form) = request.form {
            let form = [form, b"x"].concat();
            assert!(!verifies(&SignedRequest { form: Some(&form), ..*request }, secrets), "form");
        }
        for (from, to) in [
            ("oauth_nonce=\"", "oauth_nonce=\"x"),
            ("oauth_timestamp=\"", "oauth_timestamp=\"1"),
            ("oauth_consumer_key=\"", "oauth_consumer_key=\"x"),
            ("oauth_signature=\"", "oauth_signature=\"AAAA"),
        ] {
            let authorization = altered(request.authorization, from, to);
            let request = SignedRequest { authorization: &authorization, ..*request };
            assert!(!verifies(&request, secrets), "{from}");
        }
        let [consumer_secret, access_token_secret] = secrets;
        let mut longer = consumer_secret.to_owned();
        longer.push('x');
        assert!(!verifies(request, [&longer, access_token_secret]), "consumer secret");
        let mut longer = access_token_secret.to_owned();
        longer.push('x');
        assert!(!verifies(request, [consumer_secret, &longer]), "access token secret");
    }

    #[test]
    fn rfc_5849_section_1_2_temporary_credentials() {
        let request = SignedRequest {
            method: "POST",
            scheme: "https",
            path: "/initiate",
            query: None,
            authorization: concat!(
                r#"OAuth realm="Photos", oauth_consumer_key="dpf43f3p2l4k3l03", "#,
                r#"oauth_signature_method="HMAC-SHA1", oauth_timestamp="137131200", oauth_nonce="wIjqoS", "#,
                r#"oauth_callback="http%3A%2F%2Fprinter.example.com%2Fready", "#,
                r#"oauth_signature="74KNZJeDHnMBp0EMJ9ZHt%2FXKycU%3D""#
            ),
            ..PHOTOS
        };
        assert!(verifies(&request, ["kd94hf93k423kf44", ""]));
        each_alteration_is_refused(&request, ["kd94hf93k423kf44", ""]);
    }

    #[test]
    fn rfc_5849_section_1_2_token_credentials() {
        let request = SignedRequest {
            method: "POST",
            scheme: "https",
            path: "/token",
            query: None,
            authorization: concat!(
                r#"OAuth realm="Photos", oauth_consumer_key="dpf43f3p2l4k3l03", "#,
                r#"oauth_token="hh5s93j4hdidpola", oauth_signature_method="HMAC-SHA1", "#,
                r#"oauth_timestamp="137131201", oauth_nonce="walatlh", oauth_verifier="hfdp7dh39dks9884", "#,
                r#"oauth_signature="gKgrFCywp7rO0OXSjdot%2FIHF7IU%3D""#
            ),
            ..PHOTOS
        };
        let secrets = ["kd94hf93k423kf44", "hdhd0244k9j7ao03"];
        assert!(verifies(&request, secrets));
        each_alteration_is_refused(&request, secrets);
    }

    #[test]
    fn rfc_5849_section_1_2_protected_resource() {
        let secrets = ["kd94hf93k423kf44", "pfkkdhi9sl3r4s00"];
        assert!(verifies(&PHOTOS, secrets));
        each_alteration_is_refused(&PHOTOS, secrets);
    }

    #[test]
    fn rfc_5849_section_3_4_1_base_string_with_its_odd_parameters() {
        let base_string = concat!(
            "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D",
            "%26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a",
            "%26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201",
            "%26oauth_token%3Dkkk9d7dh3k39sjv7"
        );
        assert_eq!(Claims::read(&ODD).unwrap().base_string, base_string);
        let secrets = ["j49sk3j29djd", "dh893hdasih9"];
        assert!(verifies(&ODD, secrets));
        each_alteration_is_refused(&ODD, secrets);
    }

    #[test]
    fn rfc_5849_section_3_4_1_2_base_string_uri() {
        let uri =
            |scheme, host, path| base_string_uri(&SignedRequest { scheme, host, path, ..PHOTOS });
        assert_eq!(uri("HTTP", "EXAMPLE.COM:80", "/r%20v/X"), "http://example.com/r%20v/X");
        assert_eq!(uri("https", "www.example.net:8080", "/"), "https://www.example.net:8080/");
        assert_eq!(uri("https", "www.example.net:443", "/"), "https://www.example.net/");
        assert_eq!(uri("http", "www.example.net:443", "/"), "http://www.example.net:443/");
    }

    #[test]
    fn the_example_of_x_verifies_and_no_alteration_of_it_does() {
        assert!(verifies(&GUIDE, GUIDE_SECRETS));
        each_alteration_is_refused(&GUIDE, GUIDE_SECRETS);
    }

    #[test]
    fn what_is_not_oauth_1_0_with_hmac_sha1_is_refused() {
        let refusal =
            |authorization: &str| Claims::read(&SignedRequest { authorization, ..GUIDE }).err();
        assert_eq!(refusal(""), Some(Refusal::Unsigned));
        assert_eq!(refusal("Bearer AAAA"), Some(Refusal::Unsigned));
        for (from, to) in [
            ("\"1.0\"", "\"1.1\""),
            ("HMAC-SHA1", "PLAINTEXT"),
            ("HMAC-SHA1", "HMAC-SHA256"),
            ("oauth_nonce=", "other="),
            ("oauth_nonce=", "oauth_token="),
            ("oauth_timestamp=\"", "oauth_timestamp=\"+"),
            ("oauth_timestamp=\"", "oauth_timestamp=\"99999999999999999999"),
            ("oauth_signature=\"", "oauth_signature=\"*"),
            ("oauth_nonce=\"", "oauth_nonce="),
            ("\", oauth_timestamp", "\" oauth_timestamp"),
        ] {
            let authorization = GUIDE.authorization.replacen(from, to, 1);
            assert_ne!(authorization, GUIDE.authorization);
            assert_eq!(refusal(&authorization), Some(Refusal::Malformed), "{from} -> {to}");
        }
    }

    #[test]
    fn a_realm_with_commas_and_quotes_is_ignored() {
        let header =
            GUIDE.authorization.replacen("OAuth ", r#"oauth realm="a, \"b\" c=\"d\"", "#, 1);
        assert!(verifies(&SignedRequest { authorization: &header, ..GUIDE }, GUIDE_SECRETS));
    }

    fn claims(timestamp: u64, nonce: &str) -> Claims {
        let mut claims = Claims::read(&GUIDE).unwrap();
        claims.timestamp = timestamp;
        nonce.clone_into(&mut claims.nonce);
        claims
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_timestamp_five_minutes_off_is_admitted_and_one_second_more_is_not() {
        let admit = |timestamp| Nonces::default().admit(&claims(timestamp, "n"), at(1_000_000));
        assert_eq!(admit(999_700), Ok(()));
        assert_eq!(admit(1_000_300), Ok(()));
        assert_eq!(admit(999_699), Err(Refusal::StaleTimestamp));
        assert_eq!(admit(1_000_301), Err(Refusal::StaleTimestamp));
    }

    #[test]
    fn a_nonce_serves_once_per_timestamp_and_token() {
        let mut nonces = Nonces::default();
        assert_eq!(nonces.admit(&claims(1_000, "n"), at(1_000)), Ok(()));
        assert_eq!(nonces.admit(&claims(1_000, "n"), at(1_000)), Err(Refusal::NonceReused));
        assert_eq!(nonces.admit(&claims(1_001, "n"), at(1_000)), Ok(()));
        assert_eq!(nonces.admit(&claims(1_000, "m"), at(1_000)), Ok(()));
        let mut other = claims(1_000, "n");
        other.access_token.push('x');
        assert_eq!(nonces.admit(&other, at(1_000)), Ok(()));
    }

    #[test]
    fn old_nonces_are_forgotten_and_cannot_come_back() {
        let mut nonces = Nonces::default();
        nonces.admit(&claims(1_000, "n"), at(1_000)).unwrap();
        nonces.admit(&claims(2_000, "n"), at(2_000)).unwrap();
        assert_eq!(nonces.held, 1);
        assert_eq!(nonces.admit(&claims(1_000, "n"), at(2_000)), Err(Refusal::StaleTimestamp));
        // Room is made by forgetting the oldest second, which is then refused as a whole.
        nonces.held = NONCES;
        nonces.admit(&claims(2_001, "n"), at(2_000)).unwrap();
        assert_eq!(nonces.admit(&claims(2_000, "n"), at(2_000)), Err(Refusal::StaleTimestamp));
        assert_eq!(nonces.admit(&claims(2_000, "new"), at(2_000)), Err(Refusal::StaleTimestamp));
    }
}
