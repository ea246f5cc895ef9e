//! Every probe finds what the table says, and so what `docs/security-review.md` tells; and in a world
//! where the models differ otherwise, the probes say otherwise.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use twitterstream::demo::feed_server::Account;
use twitterstream::demo::probes::{self, Finding, Lab, Programs, Verdict};
use twitterstream::demo::review::review;
use twitterstream::demo::world::keys_of;
use twitterstream::telemetry::chain;

use crate::support::{clock, holding, skipped};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn programs() -> Programs {
    Programs {
        embedded: env!("CARGO_BIN_EXE_twitterstream").into(),
        injected: env!("CARGO_BIN_EXE_injected").into(),
        unhardened: env!("CARGO_BIN_EXE_injected-unhardened").into(),
    }
}

async fn run(root: &Path, programs: Programs, seed: u64) -> Vec<Finding> {
    let lab = Lab { root, clock: clock(), programs, seed };
    let mut told = 0;
    let findings = match probes::run(&lab, |_| told += 1).await {
        Ok(findings) => findings,
        Err(error) => panic!("{}", chain(&error)),
    };
    assert_eq!(told, findings.len());
    for Finding { probe, skipped: why, .. } in &findings {
        if let Some(why) = why {
            skipped(&format!("{}: {why}", probe.id));
        }
    }
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn every_probe_finds_what_the_table_says_and_tells_no_value() {
    let seed = fastrand::u64(..);
    let findings = run(root(), programs(), seed).await;
    let other: Vec<_> = findings.iter().filter(|finding| !finding.as_claimed).collect();
    assert_eq!(serde_json::to_string_pretty(&other).unwrap(), "[]");
    assert!(findings.iter().any(|finding| finding.skipped.is_none()));
    let file = fs::read_to_string(root().join("docs/security-review.md")).unwrap();
    assert!(review(&findings) == file, "docs/security-review.md is not what was found");
    let values = keys_of(&Account::generated(&mut fastrand::Rng::with_seed(seed)));
    let told = serde_json::to_string(&findings).unwrap();
    assert_eq!(holding(&[&told], &values), [""; 0]);
}

/// A shipped file, and what is done to it.
type Change<'a> = (&'static str, &'a dyn Fn(&mut Value));

/// The shipped files, some of which are changed.
fn changed(changes: &[Change<'_>]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["iam", "task-definition"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        for entry in fs::read_dir(root().join(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(name).join(entry.file_name())).unwrap();
        }
    }
    for (name, change) in changes {
        let path = folder.path().join(name);
        let mut document = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut document);
        fs::write(&path, document.to_string()).unwrap();
    }
    folder
}

/// The statement of another file, put into a document.
fn with_statement_of(name: &'static str, index: usize) -> impl Fn(&mut Value) {
    move |document| {
        let other = fs::read(root().join("iam").join(name)).unwrap();
        let mut other: Value = serde_json::from_slice(&other).unwrap();
        document["Statement"].as_array_mut().unwrap().push(other["Statement"][index].take());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_models_differ_otherwise_the_probes_say_otherwise() {
    let may_read = with_statement_of("task-role-embedded.json", 0);
    let may_inject = with_statement_of("task-execution-role-injected.json", 3);
    let names_a_value = |document: &mut Value| {
        let container = &mut document["containerDefinitions"][0];
        container["environment"].as_array_mut().unwrap().push(json!({
            "name": "NOTE", "value": "arn:aws:secretsmanager:$REGION:$AWSACCOUNT:secret:NOTE" }));
    };
    let folder = changed(&[
        // The injected task may read the secrets itself, and its execution role is no other than the
        // embedded one's.
        ("iam/task-role-injected.json", &may_read),
        ("iam/task-execution-role-embedded.json", &may_inject),
        ("iam/secret-resource-policy.json", &|document| {
            document["Statement"][0]["Effect"] = "Allow".into();
        }),
        ("task-definition/embedded.json", &names_a_value),
    ]);
    // And it is not hardened.
    let programs = Programs { injected: programs().unhardened, ..programs() };
    let findings = run(folder.path(), programs, fastrand::u64(..)).await;
    for (id, verdict) in [
        ("environ-same-user", Verdict::Embedded),
        ("memory-same-user", Verdict::Embedded),
        ("ptrace-same-user", Verdict::Embedded),
        ("shared-pid-namespace", Verdict::Embedded),
        ("root-becomes-the-user", Verdict::Embedded),
        ("core-file", Verdict::Embedded),
        ("exec-credentials", Verdict::Equal),
        ("code-execution-next-values", Verdict::Equal),
        ("sidecar-credentials", Verdict::Equal),
        ("ssrf-credentials", Verdict::Equal),
        ("shared-execution-role", Verdict::Equal),
        ("older-versions", Verdict::Equal),
    ] {
        let finding = findings.iter().find(|finding| finding.probe.id == id).unwrap();
        assert_ne!(finding.probe.last.verdict, verdict, "{id} says so anyway");
        let run = finding.skipped.is_none();
        assert!(!run || finding.verdict == Some(verdict), "{finding:?}");
        assert!(!run || !finding.as_claimed, "{id}");
    }
    // What differs and is no verdict is seen, too.
    for id in ["credentials-bound-to-endpoint", "task-definition"] {
        let finding = findings.iter().find(|finding| finding.probe.id == id).unwrap();
        assert!(!finding.as_claimed, "{finding:?}");
    }
}
