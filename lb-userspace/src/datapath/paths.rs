//! Where things are pinned: `<pin-dir>/v<ABI version>/{maps,links}/…`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::ABI_VERSION;

/// The directories of one agent on the BPF file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinPaths {
    root: PathBuf,
}

impl PinPaths {
    /// The directories below `pin_dir`.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self { root: pin_dir.into() }
    }

    /// The pin directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this ABI version.
    pub fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// Where maps are pinned, each under its name.
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// Where links are pinned, each under device and direction.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Makes the directories of this version.
    ///
    /// # Errors
    ///
    /// When a directory cannot be made.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.maps())?;
        fs::create_dir_all(self.links())
    }

    /// The directories of all ABI versions that are there, with their versions, oldest first.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read; a missing one has no versions.
    pub fn versions(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut versions = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(version) = entry.file_name().to_str().and_then(version_of)
                && entry.file_type()?.is_dir()
            {
                versions.push((version, entry.path()));
            }
        }
        versions.sort();
        Ok(versions)
    }

    /// The directories of other ABI versions.
    ///
    /// # Errors
    ///
    /// As [`Self::versions`].
    pub fn other_versions(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let mut versions = self.versions()?;
        versions.retain(|(version, _)| *version != ABI_VERSION);
        Ok(versions)
    }
}

fn version_of(name: &str) -> Option<u32> {
    let version: u32 = name.strip_prefix('v')?.parse().ok()?;
    (name == format!("v{version}")).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_version_names_count() {
        assert_eq!(version_of("v1"), Some(1));
        assert_eq!(version_of("v20"), Some(20));
        for other in ["1", "v", "v01", "v+1", "v1x", "vault", "maps"] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }
}
