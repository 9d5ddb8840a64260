//! Watches the configuration file: when it changes, the agent ends, and its restart reads it, as
//! kube-proxy does it. The datapath goes on meanwhile.
//!
//! A file that cannot be used ends nothing: the agent goes on with what it has, and says so.

use std::{
    fs,
    path::{Path, PathBuf},
};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::ConfigError;

/// A file that is watched, until this is dropped.
pub struct Watch {
    /// Says once that the file changed.
    pub changed: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

/// Watches a file that said `text`. What it says then is given to `check` first.
///
/// # Errors
///
/// When its directory cannot be watched.
pub fn watch(
    path: &Path,
    text: String,
    check: impl Fn(&str) -> Result<(), ConfigError> + Send + 'static,
) -> notify::Result<Watch> {
    let (sender, changed) = mpsc::channel(1);
    let mut file = File { path: path.to_owned(), text };
    let mut watcher = notify::recommended_watcher(move |_event: notify::Result<notify::Event>| {
        if file.is_new(&check) {
            info!(file = %file.path.display(), "the configuration changed");
            // Full when it was said already.
            let _said = sender.try_send(()).is_ok();
        }
    })?;
    // A mounted ConfigMap changes by a link beside the file, and an editor replaces the file.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(Watch { changed, _watcher: watcher })
}

/// The file as it was read last.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    /// Whether it says something else than before that can be used.
    fn is_new(&mut self, check: impl Fn(&str) -> Result<(), ConfigError>) -> bool {
        // Between two versions there may be none for a moment.
        let Ok(text) = fs::read_to_string(&self.path) else { return false };
        if text == self.text {
            return false;
        }
        let result = check(&text);
        self.text = text;
        match result {
            Ok(()) => true,
            Err(error) => {
                let file = self.path.display();
                warn!(%file, %error, "the new configuration cannot be used: the old one stays");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use super::*;

    /// How long a loaded machine may take.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn check(text: &str) -> Result<(), ConfigError> {
        let error = || ConfigError {
            flag: "x".into(),
            value: text.into(),
            problem: "bad".into(),
            allowed: "good".into(),
        };
        if text.contains("bad") { Err(error()) } else { Ok(()) }
    }

    async fn told(watch: &mut Watch) -> bool {
        tokio::time::timeout(PATIENCE, watch.changed.recv()).await.is_ok_and(|told| told.is_some())
    }

    /// SYNC-10.
    #[tokio::test]
    async fn a_file_that_says_something_else_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        fs::write(&path, "one").unwrap();
        let mut watch = watch(&path, "one".into(), check).unwrap();
        fs::write(&path, "bad").unwrap();
        fs::write(&path, "two").unwrap();
        assert!(told(&mut watch).await);
    }

    /// SYNC-10: as the kubelet replaces a mounted ConfigMap.
    #[tokio::test]
    async fn a_link_that_leads_elsewhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("1", "one"), ("2", "two")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("config.conf"), text).unwrap();
        }
        symlink("1", dir.path().join("..data")).unwrap();
        let path = dir.path().join("config.conf");
        symlink("..data/config.conf", &path).unwrap();
        let mut watch = watch(&path, "one".into(), check).unwrap();
        symlink("2", dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
        assert!(told(&mut watch).await);
    }

    #[test]
    fn the_same_text_and_one_that_cannot_be_used_are_no_news() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        let mut file = File { path: path.clone(), text: "one".into() };
        assert!(!file.is_new(check), "it is not there");
        for (text, news) in [("one", false), ("bad", false), ("one", true), ("two", true)] {
            fs::write(&path, text).unwrap();
            assert_eq!(file.is_new(check), news, "{text}");
        }
    }
}
