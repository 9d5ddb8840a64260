//! Builds of other revisions, to be measured against this one: `target/against/<commit>/`.
//!
//! A revision is built by its own xtask, from its own files and without a trace in git. What is kept of it
//! appears by one rename, so that what is there is whole. Sources and compiled dependencies share a place
//! that the next revision takes over; hence only one is built at a time.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::Step;
use crate::{process, workspace};

/// A commit of this repository.
pub(crate) struct Revision {
    commit: String,
    name: String,
}

/// What is kept of a build, and where its target directory has it.
const KEPT: [(&str, &str); 3] =
    [("lb-bench", "release/lb-bench"), ("lb.o", "ebpf/out/lb.o"), ("bench.o", "ebpf/out/bench.o")];

impl Revision {
    /// Asks git what the reader means.
    pub(crate) fn resolve(word: &str) -> Result<Self> {
        // Any word is a name here, never an option.
        let parse = |flags: &[&str], word: &str| {
            process::output(git().arg("rev-parse").args(flags).args(["--end-of-options", word]))
        };
        let inside = process::output(git().args(["rev-parse", "--git-dir"]));
        let _ = inside.context("another revision can be had from a git checkout only")?;
        let commit = parse(&["--verify"], &format!("{word}^{{commit}}")).with_context(|| {
            format!(
                "{word:?} is no commit of this repository: name one as git does (a hash, a branch, a tag, \
                 HEAD~1); a shallow clone lacks older ones until `git fetch --unshallow`"
            )
        })?;
        let name = process::output(git().args(["rev-parse", "--short", &commit]))?;
        Ok(Self { commit, name })
    }

    /// The short hash.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its `lb-bench` is, once it is built.
    pub(crate) fn lb_bench(&self) -> PathBuf {
        self.home().join("lb-bench")
    }

    /// Builds what measures it, unless that was done before.
    pub(crate) fn build(&self) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        let place = place();
        fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
        let lock = place.join(".lock");
        let lock = File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
        lock.lock().context("waiting for another build of another revision")?;
        if self.is_complete() {
            return Ok(());
        }
        let step =
            Step::begin(format!("building revision {} (some minutes the first time)", self.name));
        let source = place.join("source");
        self.extract(&source)?;
        let target = place.join("build");
        self.compile(&source, &target)?;
        self.keep(&target)?;
        remove(&source)?;
        step.done();
        Ok(())
    }

    fn home(&self) -> PathBuf {
        place().join(&self.commit)
    }

    fn is_complete(&self) -> bool {
        self.home().is_dir()
    }

    /// The files of the revision, in a directory of their own.
    fn extract(&self, source: &Path) -> Result<()> {
        remove(source)?;
        fs::create_dir_all(source).with_context(|| format!("creating {}", source.display()))?;
        let mut archive = git()
            .args(["archive", "--format=tar", &self.commit])
            .stdout(Stdio::piped())
            .spawn()
            .context("starting git")?;
        let tar = archive.stdout.take().expect("standard output is piped");
        // The files are as new as they look: cargo would take those of an old commit, at the place where
        // another was compiled later, for files that it has seen.
        let unpacked = Command::new("tar")
            .args(["-x", "--touch", "-C"])
            .arg(source)
            .stdin(tar)
            .status()
            .context("starting tar")?;
        let archived = archive.wait().context("waiting for git")?;
        ensure!(archived.success(), "`git archive {}` ended with {archived}", self.name);
        ensure!(unpacked.success(), "unpacking {} with tar ended with {unpacked}", self.name);
        Ok(())
    }

    /// Its own benchmark, in the quickest way, makes all that measuring needs, and shows that it works.
    fn compile(&self, source: &Path, target: &Path) -> Result<()> {
        let mut cargo = process::cargo();
        let _ = cargo
            .args(["xtask", "bench", "packet", "--quick", "--output", "json"])
            .current_dir(source)
            .stdout(Stdio::null())
            .env("CARGO_TARGET_DIR", target)
            .env("LB_EBPF_TOOLS", workspace::ebpf_tools());
        // These name parts of this tree's build.
        for variable in ["LB_EBPF_OBJECT", "LB_EBPF_TRACE_OBJECT", "LB_BIN"] {
            let _ = cargo.env_remove(variable);
        }
        process::run(&mut cargo).with_context(|| {
            format!(
                "building revision {0}, which must be able to `cargo xtask bench packet --quick` by itself \
                 (`git log --diff-filter=A -- xtask/src/bench.rs` tells since when)",
                self.name
            )
        })
    }

    fn keep(&self, target: &Path) -> Result<()> {
        let fresh = place().join(format!(".{}", self.commit));
        remove(&fresh)?;
        fs::create_dir(&fresh).with_context(|| format!("creating {}", fresh.display()))?;
        for (name, built) in KEPT {
            let built = target.join(built);
            if !built.is_file() {
                bail!("the build of revision {} left no {}", self.name, built.display());
            }
            let _ = fs::copy(&built, fresh.join(name))
                .with_context(|| format!("copying {}", built.display()))?;
        }
        let home = self.home();
        fs::rename(&fresh, &home).with_context(|| format!("renaming to {}", home.display()))
    }
}

fn place() -> PathBuf {
    workspace::target().join("against")
}

fn git() -> Command {
    let mut git = Command::new("git");
    let _ = git.current_dir(workspace::root());
    // A hook's variables would name another repository.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        if env::var_os(variable).is_some() {
            let _ = git.env_remove(variable);
        }
    }
    git
}

/// Removes a directory of ours, if it is there.
fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_commit_is_told_with_what_to_write() {
        for word in ["no-such-branch", "--all", "HEAD:Cargo.toml", ""] {
            let told = format!("{:#}", Revision::resolve(word).err().expect(word));
            assert!(told.contains("git"), "{word:?}: {told}");
        }
    }
}
