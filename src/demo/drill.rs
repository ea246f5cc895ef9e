//! What the drills share, in which the worker alone is put through something: trouble with its table,
//! kills, a soak.

use std::num::NonZeroU32;
use std::path::Path;

use super::Clock;
use super::feed_server::{Account, Options, Source};
use super::world::{self, World};

/// What a drill is made of.
#[derive(Clone)]
pub struct Drill<'a> {
    /// The folder that holds `iam/` and `task-definition/`.
    pub root: &'a Path,
    /// The worker.
    pub program: &'a Path,
    /// Posts a second, all of which match.
    pub rate: NonZeroU32,
    /// What posts, keys and all that is left to chance are drawn from.
    pub seed: u64,
    /// The wall clock.
    pub clock: Clock,
}

impl Drill<'_> {
    /// A world whose feed sends nothing but what matches, at a rate, and waits for its reader.
    pub(super) async fn world(&self) -> Result<World, world::Error> {
        World::start(self.root, self.clock.clone(), self.feed()).await
    }

    /// The same with a live feed, which waits for nobody.
    pub(super) async fn live_world(&self) -> Result<World, world::Error> {
        let feed = Options { live: true, ..self.feed() };
        World::start(self.root, self.clock.clone(), feed).await
    }

    /// Its keys, which the seed decides.
    pub(super) fn account(&self) -> Account {
        Account::generated(&mut fastrand::Rng::with_seed(self.seed))
    }

    fn feed(&self) -> Options {
        let track = "Amazon".to_owned();
        let source = Source::Generated { seed: self.seed, track, matching: 1.0 };
        let options = Options::new(vec![self.account()], source, self.clock.clone());
        Options { rate: Some(self.rate), ..options }
    }
}
