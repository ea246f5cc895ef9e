//! What can be had of a worker from beside it: by a process of its user, of another user, and of root
//! with all, some and none of its capabilities.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use super::evidence::{Measure, Observed};
use super::place::{Place, Said, attack, said};
use super::subject::{Subject, Trio};
use super::{Attacked, Error, Found, Obstacle};
use crate::demo::memory_scan::{self, Finding, Scan};

/// What the kernel says, in short.
const REFUSED: &str = "the kernel refuses";

/// The capabilities that Docker gives a container's root
/// (docs.docker.com, "Runtime privilege and Linux capabilities").
const DOCKER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                      +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// Reads the writable memory of the process `$0`, as far as it may.
const READ_MEMORY: &str = r#"
while read -r range access rest; do
    case $access in rw*) ;; *) continue ;; esac
    start=$((0x${range%-*})) end=$((0x${range#*-}))
    dd if="/proc/$0/mem" bs=65536 iflag=skip_bytes,count_bytes skip=$start count=$((end - start)) status=none
done < "/proc/$0/maps""#;

/// Runs the probes that only look.
pub(super) async fn probes(place: &Place, trio: &Trio, found: &mut Found<'_>) -> Result<(), Error> {
    found("environ-same-user", environ_same_user(place, trio).await)?;
    found("memory-same-user", memory_same_user(place, trio).await)?;
    found("ptrace-same-user", ptrace_same_user(place, trio).await)?;
    found("shared-pid-namespace", shared_pid_namespace(place, trio).await)?;
    found("root-docker-capabilities", root_docker_capabilities(place, trio).await)?;
    found("root-becomes-the-user", root_becomes_the_user(place, trio).await)?;
    found("root-no-capabilities", root_no_capabilities(place, trio).await)?;
    found("environ-root", environ_root(place, trio).await)?;
    found("memory-root", memory_root(place, trio).await)
}

fn environ(subject: &Subject) -> Result<String, Error> {
    Ok(format!("/proc/{}/environ", subject.pid()?))
}

async fn environ_same_user(place: &Place, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let said = said(place.neighbour("cat").arg(environ(subject)?)).await?;
        Ok(Observed::new(said.values(&subject.values())).with_if(said.refused(), REFUSED))
    };
    trio.attacked(Measure::Values, attack).await
}

async fn memory_same_user(place: &Place, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let mut shell = place.neighbour("sh");
        let said = said(shell.args(["-c", READ_MEMORY, &subject.pid()?.to_string()])).await?;
        Ok(Observed::new(said.values(&subject.values())).with_if(said.refused(), REFUSED))
    };
    trio.attacked(Measure::Values, attack).await
}

async fn ptrace_same_user(place: &Place, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let mut strace = place.neighbour("strace");
        strace.args(["-o", "/dev/null", "-e", "trace=none", "-p"]);
        strace.arg(subject.pid()?.to_string()).stdout(Stdio::null());
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Obstacle::Skip("strace is not there".to_owned()),
            _ => attack("strace cannot be started", error).into(),
        };
        // Its first line says whether it could attach. It lets go as it is killed.
        let mut strace = strace.spawn().map_err(missing)?;
        let errors = strace.stderr.take().ok_or(Error::NotReached("strace's word"))?;
        let mut errors = BufReader::new(errors).lines();
        let line = timeout(Duration::from_mins(2), errors.next_line()).await;
        let line = line.ok().and_then(Result::ok).flatten().unwrap_or_default();
        let attached = line.contains(" attached");
        let _ = strace.kill().await;
        let refused = line.contains("Operation not permitted");
        Ok(Observed::new(usize::from(attached)).with_if(refused, REFUSED))
    };
    trio.attacked(Measure::Tracers, attack).await
}

async fn shared_pid_namespace(place: &Place, trio: &Trio) -> Attacked {
    place.as_root()?;
    let attack = async |subject: &Subject| {
        let values = subject.values();
        let mut open = place.stranger("cat");
        let open = open.arg(format!("/proc/{}/cmdline", subject.pid()?));
        let neighbour = said(place.neighbour("cat").arg(environ(subject)?)).await?.values(&values);
        let stranger = said(place.stranger("cat").arg(environ(subject)?)).await?.values(&values);
        let stranger = stranger.max(said(open).await?.values(&values));
        Ok(Observed::new(neighbour.max(stranger))
            .with_if(stranger == 0, "none for another user, nor in the command line"))
    };
    trio.attacked(Measure::Values, attack).await
}

/// Reads a worker's environment as root with some capabilities.
async fn as_root_with(
    place: &Place,
    subject: &Subject,
    capabilities: &str,
) -> Result<Said, Obstacle> {
    let mut setpriv = place.command("setpriv");
    said(setpriv.args(["--bounding-set", capabilities, "cat"]).arg(environ(subject)?)).await
}

/// The same, once this root has become the worker's user.
async fn as_user_of_root_with(
    place: &Place,
    subject: &Subject,
    capabilities: &str,
) -> Result<Said, Obstacle> {
    let mut setpriv = place.command("setpriv");
    setpriv.args(["--bounding-set", capabilities, "setpriv", "--reuid=65532"]);
    setpriv.args(["--regid=65532", "--clear-groups", "cat"]);
    said(setpriv.arg(environ(subject)?)).await
}

/// Whether a root can be had that has no more than these capabilities, and whether such a root, with
/// `CAP_SYS_PTRACE` besides Docker's, reads what is not hardened. What refuses otherwise may be the tool.
async fn setpriv_works(place: &Place, trio: &Trio, capabilities: &str) -> Result<(), Obstacle> {
    place.as_root()?;
    let mut setpriv = place.command("setpriv");
    if !said(setpriv.args(["--bounding-set", capabilities, "true"])).await?.success() {
        return Err(Obstacle::Skip("setpriv cannot take capabilities away here".to_owned()));
    }
    let (subject, tracer) = (&trio.unhardened, format!("{DOCKER},+sys_ptrace"));
    let control = as_root_with(place, subject, &tracer).await?.values(&subject.values());
    if control < subject.values().len() {
        return Err(Obstacle::Skip(
            "here root with CAP_SYS_PTRACE reads nothing either".to_owned(),
        ));
    }
    Ok(())
}

async fn root_docker_capabilities(place: &Place, trio: &Trio) -> Attacked {
    setpriv_works(place, trio, DOCKER).await?;
    let attack = async |subject: &Subject| {
        let said = as_root_with(place, subject, DOCKER).await?;
        Ok(Observed::new(said.values(&subject.values())).with_if(said.refused(), REFUSED))
    };
    trio.tried(Measure::Values, attack).await
}

/// Root becomes the worker's user, and reads as that.
async fn root_becomes_the_user(place: &Place, trio: &Trio) -> Attacked {
    place.as_root()?;
    let attack = async |subject: &Subject| {
        let said = as_user_of_root_with(place, subject, DOCKER).await?;
        Ok(Observed::new(said.values(&subject.values())).with_if(said.refused(), REFUSED))
    };
    trio.attacked(Measure::Values, attack).await
}

async fn root_no_capabilities(place: &Place, trio: &Trio) -> Attacked {
    const NONE: &str = "-all";
    setpriv_works(place, trio, NONE).await?;
    let (subject, values) = (&trio.unhardened, trio.unhardened.values());
    if as_user_of_root_with(place, subject, DOCKER).await?.values(&values) < values.len() {
        return Err(Obstacle::Skip("here root cannot become the worker's user".to_owned()));
    }
    let attack = async |subject: &Subject| {
        let values = subject.values();
        let direct = as_root_with(place, subject, NONE).await?;
        let as_user = as_user_of_root_with(place, subject, NONE).await?;
        Ok(Observed::new(direct.values(&values).max(as_user.values(&values)))
            .with_if(direct.refused() && as_user.refused(), "the kernel refuses both"))
    };
    trio.tried(Measure::Values, attack).await
}

async fn environ_root(place: &Place, trio: &Trio) -> Attacked {
    place.as_root()?;
    let attack = async |subject: &Subject| {
        let said = said(place.command("cat").arg(environ(subject)?)).await?;
        Ok(Observed::new(said.values(&subject.values())))
    };
    trio.attacked(Measure::Values, attack).await
}

/// What of some values is in a worker's memory.
fn scanned<'a>(
    subject: &Subject,
    values: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<Finding>, Obstacle> {
    let scan = Scan::new(values.into_iter().map(String::as_str)).map_err(Error::from)?;
    match scan.process(subject.pid()?) {
        Ok(findings) => Ok(findings),
        Err(memory_scan::Error::Refused { .. }) => {
            Err(Obstacle::Skip("it takes root, or CAP_SYS_PTRACE".to_owned()))
        }
        Err(error) => Err(Error::from(error).into()),
    }
}

/// Of each value the copies in a worker's memory.
fn copies(subject: &Subject, values: &[String]) -> Result<Vec<usize>, Obstacle> {
    let findings = scanned(subject, values)?;
    let of = |value| findings.iter().filter(|found| found.whole && found.value == value).count();
    Ok((0..values.len()).map(of).collect())
}

/// Of how many of some values that were rotated out a piece is in a worker's memory.
pub(super) fn traces(subject: &Subject, old: &[String]) -> Result<usize, Obstacle> {
    // What is in use is looked for, too: the two may have a piece in common.
    let findings = scanned(subject, old.iter().chain(&subject.values()))?;
    let is_there = |value| findings.iter().any(|found| found.value == value);
    Ok((0..old.len()).filter(|value| is_there(*value)).count())
}

async fn memory_root(_place: &Place, trio: &Trio) -> Attacked {
    let attack = async |subject: &Subject| {
        let copies = copies(subject, &subject.values())?;
        let one = copies.iter().all(|copies| *copies == 1);
        let observed = Observed::new(copies.iter().filter(|copies| **copies > 0).count());
        let figure = format!("{copies:?} copies");
        Ok(observed.with(if one { "one copy of each" } else { "several copies" }).figure(figure))
    };
    trio.attacked(Measure::Values, attack).await
}
