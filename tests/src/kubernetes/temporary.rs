//! Clusters of tests: they go when the value that holds them does, also while a panic unwinds.

use std::{
    ops::Deref,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use super::{cluster::Cluster, down::down, options::Options};
use crate::lab;

/// A cluster that is removed when this value is dropped.
pub struct Temporary(Cluster);

impl Temporary {
    /// Brings a cluster up under a name of its own, whatever the options say of names. Where the
    /// machine cannot hold one, says why and returns `None`.
    ///
    /// # Panics
    /// When the machine can hold a cluster and bringing one up fails all the same.
    pub fn up_or_skip(options: Options) -> Option<Self> {
        if let Some(reason) = missing(&options) {
            println!("SKIPPED: {reason}");
            return None;
        }
        match Self::up(options) {
            Ok(cluster) => Some(cluster),
            Err(error) => panic!("bringing a cluster up: {error:#}"),
        }
    }

    /// Brings a cluster up under a name of its own.
    ///
    /// # Errors
    /// As of [`Cluster::up`]; nothing stays then.
    pub fn up(options: Options) -> Result<Self> {
        let name = unique_name();
        match Cluster::up(Options { name: name.clone(), ..options }) {
            Ok(cluster) => Ok(Self(cluster)),
            Err(error) => {
                drop(down(&name));
                Err(error)
            }
        }
    }
}

impl Deref for Temporary {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = down(self.0.name()) {
            eprintln!("removing the cluster {}: {error:#}", self.0.name());
        }
    }
}

/// Why a cluster with these options cannot be brought up here, if so.
pub fn missing(options: &Options) -> Option<String> {
    lab::missing().or_else(|| options.missing())
}

/// A cluster name that no other process of this machine uses.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("t{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
