//! How often what the contract tells apart was there.

use crate::naive::{Contract, Frontend, Kind};

/// Counts of worlds that have something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// All that were compared.
    pub(crate) worlds: u64,
    cluster_ip: u64,
    load_balancer: u64,
    external_ip: u64,
    node_port: u64,
    restricted: u64,
    affinity: u64,
    /// A policy Local that leaves some endpoints, or none of those that there are.
    local: u64,
    no_local: u64,
    /// No endpoint at all.
    refused: u64,
    /// Hints that leave some of the ready endpoints.
    hinted: u64,
    /// Endpoints that terminate, in one set and not in the other.
    local_only: u64,
    /// Endpoints that only keep what they have.
    kept: u64,
    checks: u64,
    counted_checks: u64,
}

impl Tally {
    /// Counts one world.
    pub(crate) fn count(&mut self, contract: &Contract) {
        let any = |of: &dyn Fn(&Frontend) -> bool| u64::from(contract.frontends.values().any(of));
        let kind = |kind: Kind| any(&|frontend| frontend.kind == kind);
        self.worlds += 1;
        self.cluster_ip += kind(Kind::ClusterIP);
        self.load_balancer += kind(Kind::LoadBalancer);
        self.external_ip += kind(Kind::ExternalIP);
        self.node_port += kind(Kind::NodePort);
        self.restricted += any(&|frontend| frontend.is_restricted());
        self.affinity += any(&|frontend| frontend.port.affinity > 0);
        self.local += any(&|f| f.is_local() && !f.port.local.is_empty());
        self.no_local +=
            any(&|f| f.is_local() && f.port.local.is_empty() && !f.port.cluster.is_empty());
        self.refused += any(&|frontend| frontend.port.cluster.is_empty());
        self.hinted += any(&|f| f.port.hinted);
        self.local_only += any(&|f| !f.port.local.is_subset(&f.port.cluster));
        self.kept += any(&|f| {
            let chosen = |at| f.port.cluster.contains(at) || f.port.local.contains(at);
            f.port.serving.iter().any(|at| !chosen(at))
        });
        self.checks += u64::from(!contract.checks.is_empty());
        let counted = |counts: &[Option<usize>; 2]| counts.iter().flatten().any(|count| *count > 0);
        self.counted_checks += u64::from(contract.checks.iter().any(|(.., c)| counted(c)));
    }

    /// Adds another count.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.fields().into_iter().zip(Self::fields(&mut other.clone())) {
            *sum += *more;
        }
    }

    /// The smallest of all counts.
    pub(crate) fn least(&self) -> u64 {
        Self::fields(&mut self.clone()).into_iter().map(|count| *count).min().unwrap_or_default()
    }

    fn fields(&mut self) -> [&mut u64; 15] {
        let Self {
            worlds,
            cluster_ip,
            load_balancer,
            external_ip,
            node_port,
            restricted,
            affinity,
            local,
            no_local,
            refused,
            hinted,
            local_only,
            kept,
            checks,
            counted_checks,
        } = self;
        [
            worlds,
            cluster_ip,
            load_balancer,
            external_ip,
            node_port,
            restricted,
            affinity,
            local,
            no_local,
            refused,
            hinted,
            local_only,
            kept,
            checks,
            counted_checks,
        ]
    }
}
