//! Rotating the feed's keys: at the service, and in Secrets Manager.
//!
//! The two are never changed in one moment. In which order, and whether the service accepts old and
//! new keys for a while, is what a worker has to live with.

use std::str::FromStr;

use tokio::time::Instant;

use super::feed_server::{Account, Revocation};
use super::local_aws;
use super::world::{SECRETS, World, keys_of};

/// Which comes first, and whether the old keys go on for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The harsh case, and that of `RotateSecret`: the service changes the keys and cuts the streams
    /// of the old ones, and then the labels move.
    ServiceFirst,
    /// The labels move, and then the service changes the keys and cuts the streams of the old ones.
    LabelsFirst,
    /// The service accepts both; the old keys end with [`KeyRotation::end_overlap`].
    Overlap,
}

impl FromStr for Order {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "service-first" => Ok(Self::ServiceFirst),
            "labels-first" => Ok(Self::LabelsFirst),
            "overlap" => Ok(Self::Overlap),
            _ => Err("service-first, labels-first or overlap"),
        }
    }
}

/// The keys in force, and those before them that the service still accepts.
pub struct KeyRotation {
    account: Account,
    before: Vec<Account>,
    rng: fastrand::Rng,
}

/// A rotation that was made.
pub struct Rotated {
    /// What a worker signs with from now on.
    pub access_token: String,
    /// When its last step was done.
    pub at: Instant,
}

impl KeyRotation {
    /// Begins with the keys in force.
    #[must_use]
    pub fn new(account: Account, rng: fastrand::Rng) -> Self {
        Self { account, before: Vec::new(), rng }
    }

    /// Makes new keys, changes the service, and moves the label of all four secrets.
    ///
    /// # Errors
    /// Where the local AWS refuses a version.
    pub fn rotate(&mut self, world: &World, order: Order) -> Result<Rotated, local_aws::Error> {
        self.renew();
        if order != Order::LabelsFirst {
            self.accept(world);
        }
        if order == Order::ServiceFirst {
            self.end_overlap(world);
        }
        for secret in 0..SECRETS.len() {
            self.move_label(world, secret)?;
        }
        if order == Order::LabelsFirst {
            self.accept(world);
            self.end_overlap(world);
        }
        Ok(Rotated { access_token: self.account.access_token.clone(), at: Instant::now() })
    }

    /// Makes new keys, which nobody knows yet.
    pub fn renew(&mut self) {
        let renewed = self.account.renewed(&mut self.rng);
        self.before.push(std::mem::replace(&mut self.account, renewed));
    }

    /// Whether there are keys before the newest that the service still accepts.
    #[must_use]
    pub const fn overlaps(&self) -> bool {
        !self.before.is_empty()
    }

    /// The newest keys.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// The service accepts the newest keys.
    pub fn accept(&self, world: &World) {
        world.feed.accept(self.account.clone());
    }

    /// The service ends all keys before the newest, and the streams that were opened with them.
    pub fn end_overlap(&mut self, world: &World) {
        for before in self.before.drain(..) {
            world.feed.revoke(&before.access_token, Revocation::Cut);
        }
    }

    /// Puts the newest key into one of the [`SECRETS`], as `PutSecretValue` does.
    ///
    /// # Errors
    /// Where the local AWS refuses the version.
    pub fn move_label(&self, world: &World, secret: usize) -> Result<(), local_aws::Error> {
        let keys = keys_of(&self.account);
        if let (Some(name), Some(key)) = (SECRETS.get(secret), keys.get(secret)) {
            world.aws.seed_version(name, Some(key), &["AWSCURRENT"])?;
        }
        Ok(())
    }
}
