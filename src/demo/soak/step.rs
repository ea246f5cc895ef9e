//! What can go wrong in a soak, how often, and what the worker's health is meanwhile.

use std::fmt;

use crate::demo::key_rotation::Order;
use crate::demo::trouble::Trouble;

/// One trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none yet.
    Begin,
    /// The stream's socket is closed within a record.
    FeedCut,
    /// The server ends the stream, with a disconnect message.
    FeedDisconnect,
    /// The stream has lines that are no records.
    FeedGarbage,
    /// The keys change, in this order.
    Rotation(Order),
    /// The four labels move one by one, with time between.
    TornRotation,
    /// Something is wrong with the table for a moment.
    Table(Trouble),
    /// Something is wrong with the table for longer than it may be silent.
    TableAway(Trouble),
    /// Secrets Manager fails for a moment.
    Vault,
    /// Secrets Manager fails for longer than it may be silent.
    VaultAway,
    /// SIGHUP.
    HangUp,
    /// The clocks of AWS and the feed jump.
    ClockJump,
    /// A new worker takes over from the old one.
    HandOver,
    /// The last worker is stopped.
    End,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin => f.write_str("the beginning"),
            Self::FeedCut => f.write_str("a stream that is cut"),
            Self::FeedDisconnect => f.write_str("a stream that is ended"),
            Self::FeedGarbage => f.write_str("garbage in the stream"),
            Self::Rotation(_) => f.write_str("a rotation"),
            Self::TornRotation => f.write_str("a torn rotation"),
            Self::Table(trouble) => write!(f, "table: {}", trouble.name()),
            Self::TableAway(trouble) => write!(f, "table away: {}", trouble.name()),
            Self::Vault => f.write_str("Secrets Manager fails"),
            Self::VaultAway => f.write_str("Secrets Manager away"),
            Self::HangUp => f.write_str("SIGHUP"),
            Self::ClockJump => f.write_str("a clock that jumps"),
            Self::HandOver => f.write_str("a hand-over"),
            Self::End => f.write_str("the end"),
        }
    }
}

impl Step {
    /// What can go wrong, and how often it is drawn, in an order in which the stream is not cut twice
    /// within seconds.
    pub(super) const KINDS: [(Self, u32); 21] = [
        (Self::FeedCut, 240),
        (Self::FeedGarbage, 80),
        (Self::Rotation(Order::ServiceFirst), 75),
        (Self::Rotation(Order::LabelsFirst), 75),
        (Self::Rotation(Order::Overlap), 75),
        (Self::TornRotation, 40),
        (Self::Table(Trouble::Outage), 80),
        (Self::Table(Trouble::Throttling), 80),
        (Self::Table(Trouble::Resets), 80),
        (Self::Table(Trouble::LostAnswers), 80),
        (Self::Table(Trouble::Errors), 80),
        (Self::Table(Trouble::Denied), 80),
        (Self::Vault, 160),
        (Self::HangUp, 160),
        (Self::ClockJump, 120),
        (Self::TableAway(Trouble::Outage), 3),
        (Self::FeedDisconnect, 80),
        (Self::TableAway(Trouble::Hang), 3),
        (Self::TableAway(Trouble::Errors), 3),
        (Self::TableAway(Trouble::Gone), 3),
        (Self::VaultAway, 4),
    ];

    pub(super) const fn cuts(self) -> bool {
        matches!(self, Self::FeedCut | Self::FeedDisconnect)
    }

    /// Draws the next one. `may_cut`: whether the stream has lasted long enough.
    pub(super) fn draw(rng: &mut fastrand::Rng, may_cut: bool) -> Self {
        let kinds = Self::KINDS.iter().filter(|(step, _)| may_cut || !step.cuts());
        let drawn = rng.u32(..kinds.clone().map(|(_, often)| often).sum::<u32>());
        let mut passed = 0;
        let found = kinds.map(|(step, often)| (step, often)).find(|(_, often)| {
            passed += **often;
            drawn < passed
        });
        found.map_or(Self::HangUp, |(step, _)| *step)
    }

    /// What the worker's health must be while it lasts.
    pub(super) const fn state(self) -> &'static str {
        match self {
            Self::TableAway(_) => "degraded",
            Self::VaultAway => "stale",
            _ => "ok",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_is_drawn_and_the_stream_is_cut_only_where_it_may_be() {
        let mut rng = fastrand::Rng::with_seed(1);
        let drawn: Vec<_> = (0..20_000).map(|_| Step::draw(&mut rng, true)).collect();
        for (step, _) in Step::KINDS {
            assert!(drawn.contains(&step), "{step}");
        }
        assert!((0..10_000).all(|_| !Step::draw(&mut rng, false).cuts()));
    }
}
