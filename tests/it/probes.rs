//! Every probe finds what the table says, and so what `docs/security-review.md` tells; and in a world
//! where the models differ otherwise, the probes say otherwise.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use twitterstream::demo::feed_server::Account;
use twitterstream::demo::key_rotation::KeyRotation;
use twitterstream::demo::probes::{self, Finding, Lab, Programs, Verdict};
use twitterstream::demo::review::review;
use twitterstream::demo::world::{SECRETS, keys_of};
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
    // What was not run here is marked, and the file has no marks.
    let ran = findings.iter().filter(|finding| finding.skipped.is_none());
    let ran: Vec<_> = ran.cloned().collect();
    let file = fs::read_to_string(root().join("docs/security-review.md")).unwrap();
    assert!(review(&ran) == file, "docs/security-review.md is not what was found");
    // Those in force, those after a rotation, and those before.
    let mut rng = fastrand::Rng::with_seed(seed);
    let account = Account::generated(&mut rng);
    let mut keys = KeyRotation::new(account.clone(), rng);
    keys.renew();
    let mut values = [keys_of(&account), keys_of(keys.account())].concat();
    values.extend(SECRETS.map(|name| format!("older-value-of-{name}")));
    let told = serde_json::to_string(&findings).unwrap() + &review(&findings);
    assert_eq!(holding(&[&told], &values), [""; 0]);
    // They would be found, as these are what the worlds have.
    for value in &values {
        assert_eq!(holding(&[&format!("a {value} b")], &values).len(), 1);
    }
    for finding in ran {
        comes_out_either_way(finding);
    }
}

/// The verdict of a probe follows its evidence, whichever model is the better off.
fn comes_out_either_way(finding: Finding) {
    let id = finding.probe.id;
    let mut evidence = finding.evidence.unwrap();
    for (embedded, injected, verdict) in [
        (0, 1, Verdict::Embedded),
        (1, 0, Verdict::Injected),
        (0, 0, Verdict::Equal),
        (1, 1, Verdict::Equal),
    ] {
        (evidence.embedded.amount, evidence.injected.amount) = (embedded, injected);
        assert_eq!(evidence.verdict(), verdict, "{id}");
    }
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
    // What somebody has committed, and the four secrets, which the worker is told to let pass.
    let injects_too = |document: &mut Value| {
        let container = &mut document["containerDefinitions"][0];
        container["environment"].as_array_mut().unwrap().extend([
            json!({ "name": "API_TOKEN", "value": "somebody's" }),
            json!({ "name": "ALLOW_ENVIRONMENT", "value": SECRETS.join(",") }),
        ]);
        container["secrets"] = SECRETS
            .map(|name| {
                let secret = format!("secret:{name}-XXXXXX");
                let arn = format!("arn:aws:secretsmanager:$REGION:$AWSACCOUNT:{secret}");
                json!({ "name": name, "valueFrom": arn })
            })
            .to_vec()
            .into();
    };
    let folder = changed(&[
        // The injected task may read the secrets itself, and its execution role is no other than the
        // embedded one's.
        ("iam/task-role-injected.json", &may_read),
        ("iam/task-execution-role-embedded.json", &may_inject),
        ("iam/secret-resource-policy.json", &|document| {
            document["Statement"][0]["Effect"] = "Allow".into();
        }),
        ("task-definition/embedded.json", &injects_too),
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
        // The embedded task is given the values, too.
        ("environ-root", Verdict::Equal),
        ("exec-environment", Verdict::Equal),
        ("child-environment", Verdict::Equal),
        ("environ-after-unset", Verdict::Equal),
        ("inspect-environment", Verdict::Equal),
        ("crash-reporter", Verdict::Equal),
        ("audit-of-reads", Verdict::Equal),
        ("old-values-in-memory", Verdict::Equal),
        ("task-definition", Verdict::Injected),
    ] {
        let finding = findings.iter().find(|finding| finding.probe.id == id).unwrap();
        assert_ne!(finding.probe.last.verdict, verdict, "{id} says so anyway");
        let run = finding.skipped.is_none();
        assert!(!run || finding.verdict == Some(verdict), "{finding:?}");
        assert!(!run || !finding.as_claimed, "{id}");
    }
    // What differs and is no verdict is seen, too.
    let bound = |finding: &&Finding| finding.probe.id == "credentials-bound-to-endpoint";
    let finding = findings.iter().find(bound).unwrap();
    assert!(!finding.as_claimed, "{finding:?}");
}
