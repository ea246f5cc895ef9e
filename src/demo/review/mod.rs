//! The security review: `docs/security-review.md`, made of the probes' table and what they found.

use std::fmt::{self, Write};

use super::probes::{Finding, Last, PROBES, Probe, Threat, Verdict};

/// What stands before the probes.
const HEAD: &str = include_str!("head.md");

/// What stands after them.
const TAIL: &str = include_str!("tail.md");

/// The whole document. A probe without a finding has the result of its last run; so has one that was
/// skipped, and it says why it did not run.
#[must_use]
pub fn review(findings: &[Finding]) -> String {
    let mut document = HEAD.to_owned();
    // A String takes everything that is written to it.
    let _ = probes(&mut document, findings);
    document.push_str(TAIL);
    document
}

/// What is shown of a probe's result.
struct Result<'a> {
    verdict: Verdict,
    embedded: &'a str,
    injected: &'a str,
    unhardened: Option<&'a str>,
    /// Why it is that of the last run, where it was to run.
    skipped: Option<&'a str>,
}

impl<'a> Result<'a> {
    fn of(probe: &Probe, findings: &'a [Finding]) -> Self {
        let finding = findings.iter().find(|finding| finding.probe.id == probe.id);
        if let Some(Finding { embedded, injected, unhardened, verdict: Some(verdict), .. }) =
            finding
        {
            return Self {
                verdict: *verdict,
                embedded,
                injected,
                unhardened: unhardened.as_deref(),
                skipped: None,
            };
        }
        let Last { verdict, embedded, injected, unhardened } = probe.last;
        let skipped = finding.and_then(|finding| finding.skipped.as_deref());
        Self { verdict, embedded, injected, unhardened, skipped }
    }

    /// What follows a verdict that was not reached in this run.
    fn mark(&self) -> String {
        self.skipped.map_or_else(String::new, |why| format!(" (not run here: {why})"))
    }
}

fn probes(document: &mut String, findings: &[Finding]) -> fmt::Result {
    writeln!(document, "## What an attacker gets\n")?;
    writeln!(
        document,
        "Each row leads to its probe. The fourth column is empty where that was not tried.\n"
    )?;
    writeln!(document, "| given | embedded | injected | injected, not hardened | better |")?;
    writeln!(document, "|---|---|---|---|---|")?;
    for probe in PROBES {
        let result = Result::of(probe, findings);
        let (mark, Result { verdict, embedded, injected, unhardened, .. }) =
            (result.mark(), result);
        let (id, given, unhardened) = (probe.id, probe.given, unhardened.unwrap_or_default());
        let better = better(verdict);
        writeln!(
            document,
            "| [{given}](#{id}) | {embedded} | {injected} | {unhardened} | {better}{mark} |"
        )?;
    }
    writeln!(document)?;
    for verdict in [Verdict::Embedded, Verdict::Injected, Verdict::Equal] {
        let of = |probe: &&Probe| Result::of(probe, findings).verdict == verdict;
        let ids: Vec<_> = PROBES.iter().filter(of).map(|probe| link(probe.id)).collect();
        writeln!(document, "- **{}**, {}: {}.", verdict.words(), ids.len(), ids.join(", "))?;
    }
    writeln!(
        document,
        "\nThese are counts of probes, not of risks. Several probes show one cause from several sides: that the values \
         stand in the environment, that the task role can ask for them, or that a task has to be replaced."
    )?;
    writeln!(document, "\n## Threats and probes\n")?;
    for threat in Threat::ALL {
        let (heading, design) = said(threat);
        writeln!(document, "### {heading}\n\n{design}\n")?;
        for probe in PROBES.iter().filter(|probe| probe.threat == threat) {
            one(document, probe, &Result::of(probe, findings))?;
        }
    }
    Ok(())
}

fn one(document: &mut String, probe: &Probe, result: &Result<'_>) -> fmt::Result {
    let Probe { id, claim, method, on_fargate, command, .. } = probe;
    let Result { verdict, embedded, injected, unhardened, .. } = result;
    writeln!(document, "#### {id}\n\n{claim}\n")?;
    writeln!(document, "- Probe: {method}")?;
    writeln!(document, "- Embedded: {embedded}.")?;
    writeln!(document, "- Injected: {injected}.")?;
    if let Some(unhardened) = unhardened {
        writeln!(document, "- Injected, not hardened: {unhardened}.")?;
    }
    writeln!(document, "- Verdict: **{}**{}.", verdict.words(), result.mark())?;
    writeln!(document, "- On Fargate: {on_fargate}")?;
    writeln!(document, "- To repeat it there: {command}\n")
}

fn link(id: &str) -> String {
    format!("[{id}](#{id})")
}

const fn better(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Embedded => "**embedded**",
        Verdict::Injected => "**injected**",
        Verdict::Equal => "equal",
    }
}

/// A threat's heading, and what the design sets against it.
const fn said(threat: Threat) -> (&'static str, &'static str) {
    match threat {
        Threat::Neighbour => (
            "A process beside the worker",
            "Before it reads anything the process makes itself undumpable, sets the limit of core files to 0, and gives up \
             gaining privileges (`src/process.rs`). The container has no capability and a user of its own. The embedded \
             worker has each value in memory once.",
        ),
        Threat::Inside => (
            "Code or a shell in the container",
            "The embedded worker's environment holds no value, and it refuses to start where it finds one. It starts no \
             process and writes no file with a value. The image is one static binary without a shell, on a read-only root \
             file system, which keeps ECS Exec out; the probes here put a shell there all the same. What remains is the \
             credentials endpoint.",
        ),
        Threat::Spill => (
            "What is left behind",
            "Values are in types that print nothing, errors keep no text of a secret, a panic's message is never shown, and \
             the variable that makes the SDK log bodies is refused.",
        ),
        Threat::TaskRole => (
            "The task's AWS credentials",
            "The task role reads the four secrets at AWSCURRENT, sees their labels, and puts rows into one table. The task \
             has one container. A resource policy can bind the secrets to a VPC endpoint.",
        ),
        Threat::Account => (
            "Rights in the AWS account",
            "The execution role of the embedded model has nothing of Secrets Manager. A worker reads each version once, so \
             every read beyond a start or a rotation means something; an alarm tells of those by other programs. The trust policy names this account and region.",
        ),
        Threat::Rotation => (
            "A rotation",
            "The worker looks where the labels are, fetches what it does not hold, proves the new set at the feed while the \
             stream of the old one is read, and wipes the old set once the new one is accepted. A set that is refused is \
             not taken into use.",
        ),
        Threat::Operation => (
            "What it costs to run",
            "The worker retries what is transient for START_LIMIT, and while it runs the last good set serves on. That is \
             code, calls and a grant that injection does without.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;
    use crate::demo::probes::{Evidence, Measure, Observed};

    /// To write it anew: `REVIEW=write cargo test --all-features --lib review`.
    #[test]
    fn the_file_in_docs_is_what_the_table_generates() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security-review.md");
        let document = review(&[]);
        if std::env::var_os("REVIEW").is_some() {
            std::fs::write(&path, &document).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap();
        assert!(file == document, "docs/security-review.md is not what the table generates");
    }

    #[test]
    fn a_finding_takes_the_place_of_the_last_result_and_a_skipped_one_does_not() {
        let last = review(&[]);
        let probe = PROBES.iter().find(|probe| probe.last.verdict == Verdict::Embedded).unwrap();
        let evidence =
            Evidence::new(Measure::Values, Observed::new(3).with("MARKER"), Observed::new(0));
        let found = Finding::of(probe, evidence);
        let document = review(std::slice::from_ref(&found));
        assert!(document.contains("3 of the 4 values; MARKER") && document != last);
        assert!(document.contains(&format!("**injection better**, 8: {}", link(probe.id))));
        // It has the last result, and says that it is that.
        let skipped = review(&[Finding::skipped(probe, "it takes root".to_owned())]);
        let mark = " (not run here: it takes root)";
        assert!(!last.contains(mark) && skipped.matches(mark).count() == 2);
        assert!(skipped.replace(mark, "") == last);
    }

    #[test]
    fn every_probe_and_every_threat_is_in_it_once() {
        let document = review(&[]);
        let ids: HashSet<_> = PROBES.iter().map(|probe| probe.id).collect();
        assert_eq!(ids.len(), PROBES.len());
        for Probe { id, claim, command, threat, .. } in PROBES {
            assert_eq!(document.matches(&format!("\n#### {id}\n")).count(), 1, "{id}");
            assert!(Threat::ALL.contains(threat), "{id}");
            assert!(claim.ends_with('.') && !command.is_empty(), "{id}");
            let kebab =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(id.bytes().all(kebab), "{id}");
        }
        // Each leads somewhere.
        for target in document.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            assert!(document.contains(&format!("\n#### {target}\n")), "{target}");
        }
    }
}
