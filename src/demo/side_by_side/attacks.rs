//! The attacks, while both sides run: the probes, in worlds and on tasks of their own.

use serde::Serialize;
use tokio::sync::watch;

use super::timeline::{Timeline, Tone};
use crate::demo::probes::{self, Finding, Lab, PROBES};
use crate::telemetry::chain;

/// What the attacks have found so far.
#[derive(Clone, Debug, Serialize)]
pub struct Attacks {
    /// Whether they go on.
    pub running: bool,
    /// How many there are.
    pub probes: usize,
    /// What was found; while they go on, in the order in which it was.
    pub findings: Vec<Finding>,
    /// Why they broke off.
    pub error: Option<String>,
}

impl Default for Attacks {
    fn default() -> Self {
        Self { running: false, probes: PROBES.len(), findings: Vec::new(), error: None }
    }
}

impl Attacks {
    /// Whether each has a finding, or a reason why it could not run here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let explained = |finding: &Finding| finding.verdict.is_some() != finding.skipped.is_some();
        self.error.is_none()
            && self.findings.len() == self.probes
            && self.findings.iter().all(explained)
    }
}

/// Begins them, unless they are under way. They break off where `stopped` has no sender any more.
pub(super) fn begin(
    lab: OwnedLab,
    attacks: &watch::Sender<Attacks>,
    mut stopped: watch::Receiver<()>,
    timeline: Timeline,
) {
    let begun = attacks.send_if_modified(|attacks| {
        let idle = !attacks.running;
        if idle {
            *attacks = Attacks { running: true, ..Attacks::default() };
        }
        idle
    });
    if !begun {
        return;
    }
    let attacks = attacks.clone();
    let runtime = tokio::runtime::Handle::current();
    // What they wait on need not be sent between threads, so they get one of their own.
    tokio::task::spawn_blocking(move || {
        let OwnedLab { root, clock, programs, seed } = lab;
        let lab = Lab { root: &root, clock, programs, seed };
        let found = |finding: &Finding| {
            attacks.send_modify(|attacks| attacks.findings.push(finding.clone()));
        };
        let ran = runtime.block_on(async {
            tokio::select! {
                ran = probes::run(&lab, found) => Some(ran),
                _ = stopped.changed() => None,
            }
        });
        attacks.send_modify(|attacks| {
            attacks.running = false;
            match ran {
                Some(Ok(findings)) => {
                    let text = format!("{} attacks were made", findings.len());
                    timeline.note(None, Tone::Note, text);
                    attacks.findings = findings;
                }
                Some(Err(error)) => {
                    let error = chain(&error);
                    timeline.note(None, Tone::Bad, format!("the attacks broke off: {error}"));
                    attacks.error = Some(error);
                }
                None => attacks.error = Some("they were broken off".to_owned()),
            }
        });
    });
}

/// What a [`Lab`] borrows.
pub(super) struct OwnedLab {
    pub(super) root: std::path::PathBuf,
    pub(super) clock: crate::demo::Clock,
    pub(super) programs: probes::Programs,
    pub(super) seed: u64,
}
