//! A machine on the underlay that is no node.

use std::path::Path;

use anyhow::Result;

use super::{
    Addresses, Setup, netns::Netns, network::Uplink, place::Place, scope::Scope, underlay::Underlay,
};
use crate::worker::Worker;

/// Its number on the underlay.
const CLIENT: u8 = 100;

/// The client outside.
pub struct Machine {
    /// Its worker.
    pub worker: Worker,
    /// Where further commands of it start.
    pub place: Place,
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses.
    pub addresses: Addresses,
}

impl Machine {
    pub(super) fn client(
        scope: &Scope,
        executable: &Path,
        underlay: &Underlay,
        setup: &Setup,
    ) -> Result<Self> {
        let netns = Netns::create(&scope.netns_name("client"))?;
        let addresses = underlay.connect(&netns, "client", CLIENT, Uplink::Nic, setup)?.addresses;
        let place = Place::new(&netns, &scope.cgroup("client")?)?;
        let worker = Worker::start(executable, &place, "client")?;
        Ok(Self { worker, place, netns, addresses })
    }
}
