//! Who may connect: the four credentials of each account, and which were revoked.

use std::collections::HashMap;
use std::fmt;

const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The credentials of one application acting for one user.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// RFC 5849's client identifier.
    pub consumer_key: String,
    /// RFC 5849's client shared-secret.
    pub consumer_secret: String,
    /// RFC 5849's token.
    pub access_token: String,
    /// RFC 5849's token shared-secret.
    pub access_token_secret: String,
}

impl Account {
    /// Credentials with the lengths and alphabets of real ones: 25 and 50 alphanumeric characters, a
    /// numeric user id of 9 digits with `-` and 40 characters, and 45 characters.
    ///
    /// The generator is not a cryptographic one: these open nothing but this server.
    #[must_use]
    pub fn generated(rng: &mut fastrand::Rng) -> Self {
        let consumer_key = alphanumeric(rng, 25);
        let consumer_secret = alphanumeric(rng, 50);
        let user_id = rng.u32(100_000_000..1_000_000_000);
        Self {
            consumer_key,
            consumer_secret,
            access_token: format!("{user_id}-{}", alphanumeric(rng, 40)),
            access_token_secret: alphanumeric(rng, 45),
        }
    }

    /// New keys for the same user.
    #[must_use]
    pub fn renewed(&self, rng: &mut fastrand::Rng) -> Self {
        let access_token = format!("{}-{}", user_id(&self.access_token), alphanumeric(rng, 40));
        Self { access_token, ..Self::generated(rng) }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").finish_non_exhaustive()
    }
}

/// The user that an access token was given for: X puts its id before the hyphen. Renewed keys are for the same user,
/// and so it also names the application that they are keys of.
pub(super) fn user_id(access_token: &str) -> &str {
    access_token.split_once('-').map_or(access_token, |(user_id, _)| user_id)
}

pub(super) fn alphanumeric(rng: &mut fastrand::Rng, length: usize) -> String {
    (0..length).filter_map(|_| rng.choice(ALPHANUMERIC)).map(|&byte| char::from(byte)).collect()
}

/// What the register knows of a (`consumer_key`, `access_token`) pair.
pub(super) enum Standing<'a> {
    Accepted(&'a Account),
    Revoked,
    Unknown,
}

/// Every account this server knows.
///
/// The key is the pair: a consumer key with another consumer's token is nobody, as it is for X.
#[derive(Default)]
pub(super) struct Register {
    accounts: HashMap<(String, String), Option<Account>>,
}

impl Register {
    /// Adds an account. One with the same key and token is replaced, and no longer revoked.
    pub(super) fn accept(&mut self, account: Account) {
        let pair = (account.consumer_key.clone(), account.access_token.clone());
        self.accounts.insert(pair, Some(account));
    }

    /// Forgets the secrets of every account with this token, as the peer of a revocation does.
    pub(super) fn revoke(&mut self, access_token: &str) {
        for ((_, token), account) in &mut self.accounts {
            if token == access_token {
                *account = None;
            }
        }
    }

    /// The account that has this consumer key with this secret, so that it is an application. Where an application
    /// acts for several users, it is the same one at each call.
    pub(super) fn application(
        &self,
        consumer_key: &str,
        consumer_secret: &str,
    ) -> Option<&Account> {
        let accounts = self.accounts.values().flatten().filter(|account| {
            account.consumer_key == consumer_key && account.consumer_secret == consumer_secret
        });
        accounts.min_by(|a, b| a.access_token.cmp(&b.access_token))
    }

    pub(super) fn standing(&self, consumer_key: &str, access_token: &str) -> Standing<'_> {
        let pair = (consumer_key.to_owned(), access_token.to_owned());
        match self.accounts.get(&pair) {
            Some(Some(account)) => Standing::Accepted(account),
            Some(None) => Standing::Revoked,
            None => Standing::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_accounts_have_the_shape_of_real_ones_and_differ() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (first, second) = (Account::generated(&mut rng), Account::generated(&mut rng));
        assert_eq!(first.consumer_key.len(), 25);
        assert_eq!(first.consumer_secret.len(), 50);
        assert_eq!(first.access_token.len(), 50);
        assert_eq!(first.access_token_secret.len(), 45);
        let (user_id, rest) = first.access_token.split_once('-').unwrap();
        assert!(user_id.chars().all(|c| c.is_ascii_digit()));
        assert_eq!(rest.len(), 40);
        assert_ne!(first, second);
    }

    #[test]
    fn debug_output_of_an_account_shows_no_credential() {
        let account = Account::generated(&mut fastrand::Rng::with_seed(1));
        assert_eq!(format!("{account:?}"), "Account { .. }");
    }

    #[test]
    fn a_revoked_token_is_revoked_until_it_is_accepted_again() {
        let account = Account::generated(&mut fastrand::Rng::with_seed(1));
        let standing = |register: &Register| match register
            .standing(&account.consumer_key, &account.access_token)
        {
            Standing::Accepted(_) => "accepted",
            Standing::Revoked => "revoked",
            Standing::Unknown => "unknown",
        };
        let mut register = Register::default();
        assert_eq!(standing(&register), "unknown");
        register.accept(account.clone());
        assert_eq!(standing(&register), "accepted");
        register.revoke("another token");
        assert_eq!(standing(&register), "accepted");
        register.revoke(&account.access_token);
        assert_eq!(standing(&register), "revoked");
        register.accept(account.clone());
        assert_eq!(standing(&register), "accepted");
    }
}
