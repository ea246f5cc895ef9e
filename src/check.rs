//! `twitterstream check`: what the platform gives a task, and what its role may do, said before or
//! beside a worker by the very image that will run there.
//!
//! One JSON line for each finding: `check` what was looked at, `ok` whether it is as it should be,
//! `found` what it is. The last one is `end`. Nothing is written but a file in the volume, which is
//! deleted; a value that is fetched is dropped, and no finding holds one. `scripts/verify.sh` runs it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_config::SdkConfig;
use serde_json::json;

use crate::config::Config;
use crate::credentials::secrets_manager::Cause;
use crate::credentials::{Reference, SecretsManager};
use crate::process::Level;
use crate::table::Table;
use crate::telemetry::chain;

/// A secret that no policy names: who may read it may read too much.
const ANOTHER: &str = "twitterstream-not-granted";

/// What was found.
struct Finding {
    check: String,
    ok: bool,
    found: String,
}

impl Finding {
    fn new(check: impl Into<String>, ok: bool, found: impl Into<String>) -> Self {
        Self { check: check.into(), ok, found: found.into() }
    }
}

/// Looks at everything, and writes what it finds to `out`. Returns whether all is as it should be.
///
/// # Errors
/// `out` cannot be written.
pub async fn run(
    config: &Config,
    sdk: &SdkConfig,
    hardened: &Level,
    volume: Option<&Path>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut findings = platform(hardened, volume);
    findings.extend(role(config, sdk).await);
    let (all, good) = (findings.len(), findings.iter().filter(|finding| finding.ok).count());
    findings.push(Finding::new("end", good == all, format!("{good} of {all} as they should be")));
    for Finding { check, ok, found } in &findings {
        writeln!(out, "{}", json!({ "check": check, "ok": ok, "found": found }))?;
    }
    Ok(good == all)
}

fn platform(hardened: &Level, volume: Option<&Path>) -> Vec<Finding> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let uid = rustix::process::geteuid();
    let gid = rustix::process::getegid();
    let capabilities = status("CapEff");
    let root = mount_options("/").unwrap_or_default();
    let mut findings = vec![
        Finding::new("kernel", !kernel.is_empty(), kernel.trim()),
        Finding::new("user", !uid.is_root(), format!("{}:{}", uid.as_raw(), gid.as_raw())),
        Finding::new("capabilities", capabilities.bytes().all(|digit| digit == b'0'), capabilities),
        Finding::new("seccomp", true, status("Seccomp")),
        Finding::new("hardening", hardened.is_full(), hardened.to_string()),
        Finding::new("root file system", root == "ro", root),
    ];
    if let Some(volume) = volume {
        let (ok, found) = writable(volume);
        findings.push(Finding::new("volume", ok, found));
    }
    findings
}

/// A field of `/proc/self/status`, empty where there is none.
fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

/// `ro` or `rw`, of what is mounted there (`proc_pid_mountinfo(5)`: field 5 is where, 6 begins with it).
fn mount_options(place: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last one lies on top.
    let mount = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(place))?;
    Some(mount.split(' ').nth(5)?.split(',').next()?.to_owned())
}

/// Whether a file can be made there, and whose it is.
fn writable(folder: &Path) -> (bool, String) {
    let owner = match fs::metadata(folder) {
        Ok(data) => format!("{}:{} {:04o}", data.uid(), data.gid(), data.mode() & 0o7777),
        Err(error) => return (false, error.to_string()),
    };
    let file = folder.join(".check");
    match fs::write(&file, b"check").and_then(|()| fs::remove_file(&file)) {
        Ok(()) => (true, format!("{owner}, writable")),
        Err(error) => (false, format!("{owner}, {error}")),
    }
}

async fn role(config: &Config, sdk: &SdkConfig) -> Vec<Finding> {
    let secrets = SecretsManager::new(sdk.clone());
    let mut findings = Vec::new();
    for wanted in &config.references {
        let name = wanted.1.secret_id();
        let (ok, found) = match secrets.fetch(std::slice::from_ref(wanted)).await {
            Ok(held) => {
                (true, held.first().map_or_else(String::new, |held| held.version_id.clone()))
            }
            Err(error) => (false, chain(&error)),
        };
        findings.push(Finding::new(format!("{name} can be read"), ok, found));
        let (ok, found) = match secrets.labels(std::slice::from_ref(wanted)).await {
            Ok(_) => (true, "yes".to_owned()),
            Err(error) => (false, chain(&error)),
        };
        findings.push(Finding::new(format!("{name} can be looked at"), ok, found));
        // With the bridge its older labels are wanted.
        if !config.rotation_bridge {
            let older = (wanted.0, wanted.1.at_stage("AWSPREVIOUS"));
            findings
                .push(denied(&secrets, &older, format!("{name} at AWSPREVIOUS is denied")).await);
        }
    }
    let another = config.references.first().map(|(credential, _)| *credential);
    if let (Some(credential), Ok(reference)) = (another, ANOTHER.parse::<Reference>()) {
        let question = (credential, reference);
        findings.push(denied(&secrets, &question, "another secret is denied".to_owned()).await);
    }
    let (ok, found) = match Table::new(sdk, config.table.clone()).prove().await {
        Ok(()) => (true, "yes".to_owned()),
        Err(error) => (false, chain(&error)),
    };
    findings.push(Finding::new(format!("{} can be written", config.table), ok, found));
    findings
}

async fn denied(
    secrets: &SecretsManager,
    wanted: &(crate::credentials::Credential, Reference),
    check: String,
) -> Finding {
    match secrets.fetch(std::slice::from_ref(wanted)).await {
        Ok(_) => Finding::new(check, false, "it was read"),
        Err(error) if matches!(error.cause, Cause::Denied { .. }) => {
            Finding::new(check, true, "yes")
        }
        Err(error) => Finding::new(check, false, chain(&error)),
    }
}
