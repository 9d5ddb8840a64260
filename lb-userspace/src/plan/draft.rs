//! Drafts: who gets which frontend, before anything is written.
//!
//! Invariant: after this, each frontend has at most one draft that wants it. The model has settled
//! what Services may claim from each other; what is left is a node address that is a VIP too, where
//! the VIP wins.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lb_common::{Family, FrontendKind};

use super::{
    NodeAddresses,
    actual::Actual,
    op::{Frontend, ServiceId},
};
use crate::model::{Desired, DesiredPort, ObjectName};

/// One Service port in one family, about to be planned.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) port: DesiredPort,
    pub(super) frontends: Vec<(Frontend, FrontendKind)>,
}

/// Everything that the Services being planned want.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    pub(super) drafts: Vec<Draft>,
    /// Every frontend that will be there.
    pub(super) wanted: HashSet<Frontend>,
    /// Services that do not get a frontend that they want.
    pub(super) losers: BTreeMap<Frontend, BTreeSet<ObjectName>>,
    /// Services with node ports.
    pub(super) with_node_ports: HashSet<ObjectName>,
}

impl Drafts {
    /// Settles the frontends of the Services `names`.
    pub(super) fn new(
        names: &BTreeSet<ObjectName>,
        orphans: &BTreeSet<ObjectName>,
        desired: &impl Desired,
        actual: &Actual,
        node: &NodeAddresses,
    ) -> Self {
        let mut this = Self::default();
        let mut drafts = Vec::with_capacity(names.len());
        for name in names {
            for port in desired.desired(name).ports {
                if port.node_port.is_some() {
                    let _new = this.with_node_ports.insert(name.clone());
                }
                drafts.push(Draft { name: name.clone(), port, frontends: Vec::new() });
            }
        }
        let arena = Arena { names, orphans, actual };
        for draft in &mut drafts {
            if let Some(addr) = draft.port.vip {
                let frontend = Frontend::new(addr, draft.port.port, draft.port.proto);
                this.claim(draft, frontend, FrontendKind::ClusterIp, &arena);
            }
        }
        for draft in &mut drafts {
            let DesiredPort { node_port: Some(port), proto, family, .. } = draft.port else {
                continue;
            };
            for addr in node.node_port.iter().filter(|addr| in_family(addr, family)) {
                let frontend = Frontend::new(*addr, port, proto);
                this.claim(draft, frontend, FrontendKind::NodePort, &arena);
            }
        }
        drafts.retain(|draft| !draft.frontends.is_empty());
        this.drafts = drafts;
        this
    }

    fn claim(
        &mut self,
        draft: &mut Draft,
        frontend: Frontend,
        kind: FrontendKind,
        in_: &Arena<'_>,
    ) {
        if self.wanted.contains(&frontend) {
            self.lose(frontend, &draft.name);
            return;
        }
        if let Some((holder, held_as)) = in_.holder(&frontend)
            && holder != draft.name
        {
            if kind != FrontendKind::ClusterIp || held_as == FrontendKind::ClusterIp as u8 {
                self.lose(frontend, &draft.name);
                return;
            }
            self.lose(frontend, &holder);
        }
        let _new = self.wanted.insert(frontend);
        draft.frontends.push((frontend, kind));
    }

    fn lose(&mut self, frontend: Frontend, name: &ObjectName) {
        let _new = self.losers.entry(frontend).or_default().insert(name.clone());
    }
}

/// What is there already.
struct Arena<'a> {
    names: &'a BTreeSet<ObjectName>,
    orphans: &'a BTreeSet<ObjectName>,
    actual: &'a Actual,
}

impl Arena<'_> {
    /// The Service that has `frontend` and is not being planned now, so that it will keep it.
    fn holder(&self, frontend: &Frontend) -> Option<(ObjectName, u8)> {
        let value = self.actual.frontends.get(frontend)?;
        let entry = self.actual.services.get(&ServiceId(value.service))?;
        let name = super::actual::object_name(&entry.info);
        let keeps = !self.names.contains(&name) && !self.orphans.contains(&name);
        keeps.then_some((name, value.kind))
    }
}

fn in_family(addr: &std::net::IpAddr, family: Family) -> bool {
    crate::model::family(*addr) == family
}
