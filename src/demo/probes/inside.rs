//! What whoever starts a process in the container finds in its environment: the shell of ECS Exec, a
//! health check, a program that the worker runs, a crash reporter.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::evidence::{Measure, Observed};
use super::place::{Place, attack, said};
use super::subject::{Subject, Trio};
use super::{Attacked, Error, Found};
use crate::demo::world::SECRETS;

/// A process that starts another and clears nothing.
const STARTS_ANOTHER: &str = "sh -c env";

/// A handler that adds the environment to its report of a crash, as many do.
const REPORTS_CRASHES: &str = "trap 'env; exit 70' ABRT; kill -ABRT $$";

pub(super) async fn probes(place: &Place, trio: &Trio, found: &mut Found<'_>) -> Result<(), Error> {
    found("exec-environment", shell(place, trio, "env").await)?;
    found("child-environment", shell(place, trio, STARTS_ANOTHER).await)?;
    found("environ-after-unset", environ_after_unset(place, trio).await)?;
    found("inspect-environment", inspect(trio).await)?;
    found("crash-reporter", shell(place, trio, REPORTS_CRASHES).await)
}

/// What a shell in the container writes.
async fn shell(place: &Place, trio: &Trio, script: &str) -> Attacked {
    let attack = async |subject: &Subject| {
        let said = said(subject.inside(place, "sh").args(["-c", script])).await?;
        Ok(Observed::new(said.values(&subject.values())))
    };
    trio.compared(Measure::Values, attack).await
}

/// A process removes the variables, and then its environment is read from outside.
async fn environ_after_unset(place: &Place, trio: &Trio) -> Attacked {
    let script = format!("unset {}; env; echo; read -r end", SECRETS.join(" "));
    let attack = async |subject: &Subject| {
        let mut shell = subject.inside(place, "sh");
        let failed = |error| attack("a shell cannot be used", error);
        let mut shell =
            shell.args(["-c", &script]).stdin(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(mut input), Some(mut output)) = (shell.stdin.take(), shell.stdout.take()) else {
            return Err(Error::NotReached("a shell").into());
        };
        // The empty line is after its own list of its variables.
        let (mut own, mut buffer) = (Vec::new(), [0; 4096]);
        while !own.ends_with(b"\n\n") {
            let read = output.read(&mut buffer).await.map_err(failed)?;
            own.extend_from_slice(buffer.get(..read).unwrap_or_default());
            if read == 0 {
                return Err(Error::NotReached("a shell's environment").into());
            }
        }
        let values = subject.values();
        let pid = shell.id().ok_or(Error::NotReached("a shell"))?;
        let outside = said(place.neighbour("cat").arg(format!("/proc/{pid}/environ"))).await?;
        input.write_all(b"\n").await.map_err(failed)?;
        let _ = shell.wait().await;
        let gone = super::place::values_in(&own, &values) == 0;
        Ok(Observed::new(outside.values(&values))
            .with_if(gone, "its own list of variables has none"))
    };
    trio.compared(Measure::Values, attack).await
}

/// What a container runtime tells of a container.
async fn inspect(trio: &Trio) -> Attacked {
    let attack =
        async |subject: &Subject| Ok(Observed::new(subject.in_environment(&subject.values())));
    trio.compared(Measure::Values, attack).await
}
