//! The programs that the demo starts.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that holds `iam/` and `task-definition/`.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Binaries built in the folder and with the features of this one, so that everything but the last
/// step is done already.
pub fn built<const N: usize>(
    root: &Path,
    names: [&str; N],
) -> Result<[PathBuf; N], Box<dyn std::error::Error>> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("this program is in no folder")?;
    let programs = names.map(|name| folder.join(name));
    // Cargo says where it is to what it runs. Without it, what stands beside this program is used.
    let Some(cargo) = std::env::var_os("CARGO") else {
        return match programs.iter().find(|program| !program.exists()) {
            None => Ok(programs),
            Some(missing) => {
                Err(format!("{} is not there; use cargo demo", missing.display()).into())
            }
        };
    };
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["build", "--features", "demo"]);
    build.args(names.iter().flat_map(|name| ["--bin", name]));
    build.arg("--target-dir").arg(folder.parent().ok_or("this program is in no target folder")?);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    if build.status()?.success() { Ok(programs) } else { Err("the worker was not built".into()) }
}
