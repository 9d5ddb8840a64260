//! What building Go programs needs from this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{prerequisites, process, workspace};

/// The oldest Go that builds the pinned modules.
const OLDEST: (u32, u32) = (1, 26);

/// Finds a Go that is new enough.
///
/// # Errors
///
/// One sentence that says what to install.
pub(super) fn find() -> Result<PathBuf> {
    let (major, minor) = OLDEST;
    // The second is where the archive from go.dev is unpacked; not every shell has it on PATH.
    let known = prerequisites::which("go").into_iter().chain(["/usr/local/go/bin/go".into()]);
    let Some(go) = known.into_iter().find(|path| path.is_file()) else {
        bail!(
            "Go is missing, and the components of Kubernetes are built with it: install Go {major}.{minor} \
             or newer (https://go.dev/dl, unpacked in /usr/local, or your distribution's package)"
        );
    };
    let says = process::output(Command::new(&go).args(["env", "GOVERSION", "GOTOOLCHAIN"]))
        .with_context(|| format!("{} does not work", go.display()))?;
    let (version, toolchain) = says.split_once('\n').unwrap_or((&says, ""));
    // Another toolchain that a newer go.mod names is fetched by Go itself, unless told not to.
    if release(version) < Some(OLDEST) && toolchain.starts_with("local") {
        bail!(
            "{} is {version}; the components of Kubernetes need Go {major}.{minor} or newer: install it, \
             or let Go fetch it with GOTOOLCHAIN=auto",
            go.display()
        );
    }
    Ok(go)
}

/// Makes sure that runc's only C library can be linked.
pub(super) fn seccomp() -> Result<()> {
    let found = Command::new("pkg-config").args(["--exists", "libseccomp"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    prerequisites::install(
        "runc cannot be built without libseccomp",
        &["libseccomp-dev", "pkg-config"],
    )
}

/// Where Go keeps the files of a pinned module, fetched if need be.
pub(super) fn module_files(module: &str, project: &str) -> Result<PathBuf> {
    let mut go = Command::new(find()?);
    let _ = go
        .current_dir(workspace::kubernetes_modules().join(module))
        .args(["mod", "download", "-json", project])
        .env("GOWORK", "off")
        .env_remove("GOFLAGS");
    let says = process::output(&mut go)?;
    let dir = says.lines().find_map(|line| line.trim().strip_prefix("\"Dir\": \""));
    let dir = dir.and_then(|rest| rest.split('"').next());
    dir.map(PathBuf::from).with_context(|| format!("go does not say where {project} is: {says}"))
}

/// `go1.26.8` as (1, 26).
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(release("go1.26.8"), Some((1, 26)));
        assert_eq!(release("go1.27rc1"), Some((1, 27)));
        assert!(release("go1.9.2") < Some((1, 26)));
        assert_eq!(release("devel +abc"), None);
    }
}
