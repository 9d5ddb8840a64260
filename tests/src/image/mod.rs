//! Container images of static programs, written without any engine: one layer, a configuration, and an
//! archive that containerd, docker, podman and skopeo read.
//!
//! The same files give the same bytes: no clock, no user, no order of a directory goes in.

mod archive;
mod catalog;
mod tar;

pub use archive::Format;
pub use catalog::{Sources, agent, all};

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// When images were made, for tools that want to be told: never.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image whose only layer holds a few programs.
#[derive(Clone, Debug)]
pub struct Image {
    /// Names with tags, complete: `docker.io/library/lb:0.1.0`. The first is what it is called in messages.
    pub names: Vec<String>,
    /// Programs: path in the image, without the leading slash, and contents.
    pub programs: Vec<(String, Vec<u8>)>,
    /// Command line in front of a pod's `args`.
    pub entrypoint: Vec<String>,
    /// `org.opencontainers.image.*` and others.
    pub labels: Vec<(String, String)>,
    /// Ports that it serves, as `80/tcp`.
    pub ports: Vec<String>,
}

/// An image's parts, with the digests that name them.
struct Parts {
    config: Vec<u8>,
    config_digest: String,
    layer: Vec<u8>,
    layer_digest: String,
}

impl Image {
    /// Reads a program for the image, without what only a debugger reads.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or `strip` is missing.
    pub fn program(path: &Path) -> Result<Vec<u8>> {
        let scratch = tempfile::NamedTempFile::new().context("creating a scratch file")?;
        let mut strip = std::process::Command::new("strip");
        let _ = strip.arg("--strip-debug").arg("-o").arg(scratch.path()).arg(path);
        let output = strip.output().context("starting strip: install binutils")?;
        anyhow::ensure!(
            output.status.success(),
            "strip {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        fs::read(scratch.path()).with_context(|| format!("reading {} stripped", path.display()))
    }

    /// Writes the image to a file, complete or not at all, and returns its digest: that of the
    /// configuration, which containerd and docker call the image's id.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, format: Format, to: &Path) -> Result<String> {
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(&dir)
            .with_context(|| format!("creating a file in {}", dir.display()))?;
        let digest = self
            .write(format, &mut io::BufWriter::new(&mut file))
            .with_context(|| format!("writing {}", to.display()))?;
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(file.path(), readable).context("making the image readable")?;
        let _ = file.persist(to).with_context(|| format!("renaming to {}", to.display()))?;
        Ok(digest)
    }

    /// Writes the image as an archive and returns its digest.
    ///
    /// # Errors
    ///
    /// What `out` returns.
    pub fn write(&self, format: Format, out: &mut impl Write) -> io::Result<String> {
        let parts = self.parts()?;
        let mut archive = tar::Archive::new(out);
        for (path, bytes) in archive::files(self, &parts, format)? {
            archive.file(&path, 0o644, &bytes)?;
        }
        archive.end()?.flush()?;
        Ok(format!("sha256:{}", parts.config_digest))
    }

    fn parts(&self) -> io::Result<Parts> {
        let mut layer = tar::Archive::new(Vec::new());
        let mut programs: Vec<_> = self.programs.iter().collect();
        programs.sort();
        for (path, bytes) in programs {
            layer.file(path, 0o755, bytes)?;
        }
        let layer = layer.end()?;
        let layer_digest = archive::sha256(&layer);
        let object = |pairs: &[(String, String)]| -> Value {
            pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
        };
        let ports: Value = self.ports.iter().map(|port| (port.clone(), json!({}))).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": self.entrypoint,
                "ExposedPorts": ports,
                "Labels": object(&self.labels),
                "StopSignal": "SIGTERM",
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
            "history": [{ "created": CREATED, "comment": "static programs" }],
        });
        let config = serde_json::to_vec(&config)?;
        let config_digest = archive::sha256(&config);
        Ok(Parts { config, config_digest, layer, layer_digest })
    }
}

/// This machine's architecture, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
