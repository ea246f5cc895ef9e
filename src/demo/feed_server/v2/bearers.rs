//! The bearers that applications act with, which take the place of their keys in every request but the first.

use super::super::accounts::{Account, alphanumeric, user_id};

/// One bearer. It stays known when it has ended, and is never given again.
struct Bearer {
    value: String,
    account: Account,
    ended: bool,
}

/// What the server knows of a bearer.
pub(in super::super) enum Standing<'a> {
    /// In force, for this account.
    Accepted(&'a Account),
    Ended,
    Unknown,
}

/// All bearers, in the order in which they were made.
#[derive(Default)]
pub(in super::super) struct Bearers(Vec<Bearer>);

impl Bearers {
    /// The bearer of an application: the same one as long as it is in force.
    pub(super) fn mint(&mut self, account: &Account) -> String {
        let current = self.0.iter().find(|bearer| {
            !bearer.ended
                && bearer.account.consumer_key == account.consumer_key
                && bearer.account.consumer_secret == account.consumer_secret
        });
        if let Some(bearer) = current {
            return bearer.value.clone();
        }
        let value = made_up(&mut fastrand::Rng::new());
        self.0.push(Bearer { value: value.clone(), account: account.clone(), ended: false });
        value
    }

    pub(in super::super) fn standing(&self, value: &str) -> Standing<'_> {
        match self.0.iter().find(|bearer| bearer.value == value) {
            Some(Bearer { ended: false, account, .. }) => Standing::Accepted(account),
            Some(_) => Standing::Ended,
            None => Standing::Unknown,
        }
    }

    /// Ends those that a condition is true of: its account, and its value.
    pub(in super::super) fn end(&mut self, condition: impl Fn(&Account, &str) -> bool) {
        for bearer in &mut self.0 {
            bearer.ended |= condition(&bearer.account, &bearer.value);
        }
    }

    pub(in super::super) fn values(&self) -> Vec<String> {
        self.0.iter().map(|bearer| bearer.value.clone()).collect()
    }
}

impl Standing<'_> {
    /// Whether it is a bearer of this application, in force.
    pub(super) fn is_of(&self, app: &str) -> bool {
        matches!(self, Self::Accepted(account) if user_id(&account.access_token) == app)
    }
}

/// A bearer of the shape of X's: percent-encoded as it stands, and to be sent so.
fn made_up(rng: &mut fastrand::Rng) -> String {
    let mut some = |length| alphanumeric(rng, length);
    format!(
        "{}{}AAAAAAA{}%2F{}%2B{}%3D{}",
        "A".repeat(21),
        some(4),
        some(6),
        some(7),
        some(8),
        some(50)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_has_the_shape_of_a_real_one() {
        let bearer = made_up(&mut fastrand::Rng::with_seed(1));
        assert_eq!(bearer.len(), 112);
        assert!(bearer.starts_with("AAAAAAAAAAAAAAAAAAAAA") && bearer.contains("%3D"));
        assert!(bearer.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'%'));
    }
}
