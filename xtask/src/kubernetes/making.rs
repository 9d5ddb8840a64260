//! Builds components, each once: a stamp beside the program holds all that went into it.
//!
//! A stamp is written after its program is in place, and the program is renamed into place, so a build
//! that was killed leaves nothing that a later one would trust, and a running program is never written to.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::go;
use super::parts::{MODULES, Module, Set};
use crate::step::Step;
use crate::{process, workspace};

/// A program that is wanted, and where it comes from.
struct Part {
    name: &'static str,
    origin: Origin,
}

enum Origin {
    /// Built from a module.
    Module { module: &'static Module, package: String, ldflags: String, sums: String },
    /// The user's own, from `KUBEBUILDER_ASSETS`.
    Assets(PathBuf),
}

/// Makes a set complete and returns the directory of the programs.
pub(super) fn all(set: Set) -> Result<PathBuf> {
    let tools = workspace::kubernetes_tools();
    let bin = tools.join("bin");
    let parts = parts(set)?;
    if parts.iter().all(|part| part.is_ready(&tools)) {
        return Ok(bin);
    }
    for dir in [&bin, &tools.join("stamps")] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    // Two builds at once would do everything twice.
    let lock = tools.join(".lock");
    let lock = File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
    lock.lock().context("waiting for another build of the components")?;
    let missing: Vec<&Part> = parts.iter().filter(|part| !part.is_ready(&tools)).collect();
    for (n, part) in missing.iter().enumerate() {
        part.make(&tools, &format!("{} of {}", n + 1, missing.len()))?;
    }
    Ok(bin)
}

/// Whether nothing has to be built for a set.
pub(super) fn is_complete(set: Set) -> bool {
    let tools = workspace::kubernetes_tools();
    parts(set).is_ok_and(|parts| parts.iter().all(|part| part.is_ready(&tools)))
}

fn parts(set: Set) -> Result<Vec<Part>> {
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let mut parts = Vec::new();
    for module in &MODULES {
        let dir = workspace::kubernetes_modules().join(module.dir);
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let go_mod = read("go.mod")?;
        let version = module.required(&go_mod).with_context(|| {
            format!("{}/go.mod does not require {}", module.dir, module.project)
        })?;
        let sums = format!("{go_mod}\n{}", read("go.sum")?);
        for (name, package, of) in module.programs {
            if !set.includes(*of) {
                continue;
            }
            let own = assets.as_ref().map(|assets| assets.join(name)).filter(|own| own.is_file());
            let origin = match own {
                Some(own) => Origin::Assets(own),
                None => Origin::Module {
                    module,
                    package: format!("{}/{package}", module.project)
                        .trim_end_matches('/')
                        .to_owned(),
                    ldflags: module.ldflags(version),
                    sums: sums.clone(),
                },
            };
            parts.push(Part { name, origin });
        }
    }
    Ok(parts)
}

impl Part {
    /// Everything that decides what the program is. Compared as a whole: no hash, no collisions.
    fn stamp(&self) -> String {
        match &self.origin {
            Origin::Assets(path) => format!("taken from {}\n", path.display()),
            Origin::Module { module, package, ldflags, sums } => format!(
                "{package}\ntags {}\ncgo {}\nldflags {ldflags}\n{} {}\n\n{sums}",
                module.tags,
                module.cgo,
                env::consts::OS,
                env::consts::ARCH,
            ),
        }
    }

    fn is_ready(&self, tools: &Path) -> bool {
        tools.join("bin").join(self.name).is_file()
            && fs::read_to_string(tools.join("stamps").join(self.name))
                .is_ok_and(|stamp| stamp == self.stamp())
    }

    fn make(&self, tools: &Path, which: &str) -> Result<()> {
        let program = tools.join("bin").join(self.name);
        let fresh = tools.join(format!(".{}", self.name));
        remove_if_there(&fresh)?;
        match &self.origin {
            Origin::Assets(path) => {
                eprintln!(
                    "==> Kubernetes components, {which}: {} is {}",
                    self.name,
                    path.display()
                );
                symlink(path, &fresh).with_context(|| format!("linking {}", fresh.display()))?;
            }
            Origin::Module { module, package, ldflags, .. } => {
                let go = go::find()?;
                if module.cgo {
                    go::seccomp()?;
                }
                let step = Step::begin(format!("Kubernetes components, {which}: {}", self.name));
                go_build(&go, module, package, ldflags, &fresh)?;
                step.done();
            }
        }
        fs::rename(&fresh, &program)
            .with_context(|| format!("moving {} into place", program.display()))?;
        let stamp = tools.join("stamps").join(self.name);
        fs::write(&stamp, self.stamp()).with_context(|| format!("writing {}", stamp.display()))
    }
}

fn go_build(go: &Path, module: &Module, package: &str, ldflags: &str, to: &Path) -> Result<()> {
    let dir = workspace::kubernetes_modules().join(module.dir);
    let mut command = Command::new(go);
    let _ = command
        .current_dir(&dir)
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", module.tags])
        .args(["-ldflags", ldflags, "-o"])
        .arg(to)
        .arg(package)
        .env("CGO_ENABLED", if module.cgo { "1" } else { "0" })
        // A user's workspace or flags must not change what is pinned.
        .env("GOWORK", "off")
        .env_remove("GOFLAGS");
    process::quietly(&mut command).with_context(|| {
        format!("building {package} (Go fetches modules from GOPROXY: is it reachable from here?)")
    })
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
