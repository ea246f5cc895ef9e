//! Random identifiers in the shapes AWS gives them.

use aws_lc_rs::error::Unspecified;

const UPPER: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const MIXED: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `prefix` and 16 characters of base32, as in `ASIAIOSFODNN7EXAMPLE`.
pub(super) fn unique_id(prefix: &str) -> Result<String, Unspecified> {
    Ok(prefix.to_owned() + &unguessable(UPPER, 16)?)
}

/// A secret access key: 40 characters of base64.
pub(super) fn secret_access_key() -> Result<String, Unspecified> {
    unguessable(MIXED, 40)
}

/// A session token. AWS gives no length; theirs are some hundred characters.
pub(super) fn session_token() -> Result<String, Unspecified> {
    unguessable(MIXED, 356)
}

/// A version 4 UUID that nobody can guess: the path of a credentials endpoint is all that protects it.
pub(super) fn unguessable_uuid() -> Result<String, Unspecified> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(format_uuid(u128::from_be_bytes(bytes)))
}

/// A version 4 UUID for what is no secret: request ids, version ids.
pub(super) fn uuid() -> String {
    format_uuid(fastrand::u128(..))
}

/// The six characters that Secrets Manager hangs on a secret's name in its ARN.
pub(super) fn arn_suffix() -> String {
    (0..6).filter_map(|_| fastrand::choice(ALPHANUMERIC).copied().map(char::from)).collect()
}

fn format_uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) | (4 << 76);
    let bits = bits & !(0b11 << 62) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let mut uuid = String::with_capacity(36);
    for (position, digit) in hex.chars().enumerate() {
        if matches!(position, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        uuid.push(digit);
    }
    uuid
}

/// `alphabet` has a power of two of letters, so that no letter is likelier than another.
fn unguessable<const LETTERS: usize>(
    alphabet: &[u8; LETTERS],
    length: usize,
) -> Result<String, Unspecified> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes
        .into_iter()
        .filter_map(|byte| alphabet.get(usize::from(byte) % LETTERS).copied().map(char::from))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_the_shapes_that_aws_gives_them() {
        let uuid = uuid();
        assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{uuid}");
        assert_eq!(&uuid[14..15], "4", "{uuid}");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        assert_eq!(unique_id("ASIA").unwrap().len(), 20);
        assert_eq!(secret_access_key().unwrap().len(), 40);
        assert_eq!(arn_suffix().len(), 6);
        assert_ne!(session_token().unwrap(), session_token().unwrap());
    }
}
