//! The attacks, while both sides run: the probes, in worlds and on tasks of their own.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Settings;
use super::timeline::{Timeline, Tone};
use crate::demo::probes::{self, Finding, Lab, PROBES};
use crate::telemetry::chain;

/// How long all of them may take. Half a minute is usual.
pub(super) const LIMIT: Duration = Duration::from_mins(10);

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
    settings: Settings,
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
    let under_way = UnderWay { attacks: attacks.clone(), timeline, ended: None };
    let runtime = tokio::runtime::Handle::current();
    // What they wait on need not be sent between threads, so they get one of their own.
    tokio::task::spawn_blocking(move || {
        let Settings { root, clock, programs, seed, .. } = settings;
        let lab = Lab { root: &root, clock, programs, seed };
        let found = |finding: &Finding| {
            under_way.attacks.send_modify(|attacks| attacks.findings.push(finding.clone()));
        };
        let ended = runtime.block_on(async {
            tokio::select! {
                ran = timeout(LIMIT, probes::run(&lab, found)) => match ran {
                    Ok(ran) => ran.map_err(|error| chain(&error)),
                    Err(_) => Err(format!("they have not ended within {LIMIT:?}")),
                },
                _ = stopped.changed() => Err("they were broken off".to_owned()),
            }
        });
        under_way.end(ended);
    });
}

/// The attacks as they go on. They are over when this is dropped, also where a probe panics: somebody waits
/// for it.
struct UnderWay {
    attacks: watch::Sender<Attacks>,
    timeline: Timeline,
    /// What was found, or why they broke off.
    ended: Option<Result<Vec<Finding>, String>>,
}

impl UnderWay {
    fn end(mut self, ended: Result<Vec<Finding>, String>) {
        self.ended = Some(ended);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let bug = || Err("a probe has panicked".to_owned());
        let ended = self.ended.take().unwrap_or_else(bug);
        match &ended {
            Ok(findings) => {
                let text = format!("{} attacks were made", findings.len());
                self.timeline.note(None, Tone::Note, text);
            }
            Err(error) => {
                self.timeline.note(None, Tone::Bad, format!("the attacks broke off: {error}"));
            }
        }
        self.attacks.send_modify(|attacks| {
            attacks.running = false;
            match ended {
                Ok(findings) => attacks.findings = findings,
                Err(error) => attacks.error = Some(error),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_panic_ends_the_attacks_with_an_error() {
        let attacks = watch::Sender::new(Attacks { running: true, ..Attacks::default() });
        let timeline = Timeline::new(Instant::now());
        let under_way =
            UnderWay { attacks: attacks.clone(), timeline: timeline.clone(), ended: None };
        let panicked = std::thread::spawn(move || {
            let _under_way = under_way;
            panic!("a probe's bug");
        });
        assert!(panicked.join().is_err());
        let attacks = attacks.borrow();
        assert!(!attacks.running && !attacks.is_complete());
        assert_eq!(attacks.error.as_deref(), Some("a probe has panicked"));
        assert_eq!(timeline.since(0)[0].tone, Tone::Bad);
    }

    #[test]
    fn attacks_that_end_are_over_and_have_what_was_found() {
        let attacks = watch::Sender::new(Attacks { running: true, ..Attacks::default() });
        let timeline = Timeline::new(Instant::now());
        UnderWay { attacks: attacks.clone(), timeline, ended: None }.end(Ok(Vec::new()));
        let attacks = attacks.borrow();
        assert!(!attacks.running && attacks.error.is_none());
    }
}
