//! Which chains of iptables are kube-proxy's, and which of them can go.
//!
//! Invariant: pure. A chain goes only when nothing that stays refers to it, so that a removal is
//! complete and valid whichever back end carries it out.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Backend, Family};

/// One table of iptables, in either back end, or a table of nftables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// Who holds it.
    pub backend: Backend,
    /// Its family.
    pub family: Family,
    /// `nat`, `filter`, `mangle`, ….
    pub name: String,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Whether it hangs on a hook of the kernel.
    pub base: bool,
    /// Whether it is one that may translate addresses.
    pub nat: bool,
    /// Its rules, in order; empty where only chains were read.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// By which the back end knows it.
    pub handle: u64,
    /// The chains that it jumps or goes to.
    pub targets: Vec<String>,
    /// Whether it needs the kernel to track connections.
    pub tracks: bool,
}

impl Table {
    /// Whether iptables uses it, and kube-proxy in it.
    pub fn is_xtables(&self) -> bool {
        ["nat", "filter", "mangle"].contains(&self.name.as_str())
    }
}

/// Whether an expression of nf_tables, or a match or target of x_tables, needs connections tracked.
pub(super) fn tracks(name: &str) -> bool {
    matches!(
        name,
        // nf_tables.
        "ct" | "nat" | "masq" | "redir" | "connlimit" | "synproxy"
        // Matches of x_tables.
            | "conntrack" | "state" | "connmark" | "connbytes" | "connlabel" | "helper" | "cluster"
        // Targets of x_tables.
            | "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" | "CT" | "CONNMARK"
            | "CONNSECMARK"
    )
}

/// Who makes a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    /// kube-proxy and nobody else.
    KubeProxy,
    /// kube-proxy, and kubelets before 1.27 too.
    Shared,
}

/// Chains into which kube-proxy jumps from the kernel's own.
const ENTRANCES: [&str; 10] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-NODE-PORT",
    "KUBE-FORWARD",
    "KUBE-POSTROUTING",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
const POSTROUTING: &str = "KUBE-POSTROUTING";
const MARK_MASQ: &str = "KUBE-MARK-MASQ";
/// Chains of one Service or endpoint, by what precedes the hash. KUBE-XLB- is of versions before 1.24.
const HASHED: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];

/// Whether kube-proxy, in iptables or IPVS mode, makes a chain of this name in this table.
///
/// The kubelet's are not among them: KUBE-FIREWALL of `filter` (kube-proxy makes an equal one, and
/// either counts on it), KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, and KUBE-MARK-DROP of old ones.
pub(super) fn kube_proxys(table: &str, chain: &str) -> Option<Owner> {
    let own = match (table, chain) {
        ("nat", POSTROUTING | MARK_MASQ) => return Some(Owner::Shared),
        ("nat" | "filter" | "mangle", "KUBE-PROXY-CANARY") => true,
        ("nat", "KUBE-SERVICES" | "KUBE-NODEPORTS") => true,
        // IPVS mode; KUBE-FIREWALL of `nat` is its own.
        ("nat", "KUBE-NODE-PORT" | "KUBE-LOAD-BALANCER" | "KUBE-FIREWALL") => true,
        ("nat", name) => HASHED.iter().any(|prefix| name.starts_with(prefix)),
        (
            "filter",
            "KUBE-SERVICES"
            | "KUBE-EXTERNAL-SERVICES"
            | "KUBE-FORWARD"
            | "KUBE-NODEPORTS"
            | "KUBE-PROXY-FIREWALL"
            | "KUBE-NODE-PORT"
            | "KUBE-SOURCE-RANGES-FIREWALL"
            | "KUBE-IPVS-FILTER"
            | "KUBE-IPVS-OUT-FILTER",
        ) => true,
        _ => false,
    };
    own.then_some(Owner::KubeProxy)
}

/// What is to be removed from one table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Removal {
    /// Chains, with all their rules.
    pub chains: BTreeSet<String>,
    /// Rules of chains that stay: the chain, and the rule's handle.
    pub rules: Vec<(String, u64)>,
    /// Chains of kube-proxy that stay.
    pub kept: Vec<Kept>,
}

/// A chain of kube-proxy that stays.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Kept {
    /// Its name.
    pub chain: String,
    /// Why.
    pub why: String,
}

impl Removal {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.rules.is_empty()
    }

    /// Whether a rule that needs connections tracked stays in the table.
    pub(super) fn leaves_tracking(&self, table: &Table) -> bool {
        table.chains.iter().filter(|chain| !self.chains.contains(&chain.name)).any(|chain| {
            chain.rules.iter().any(|rule| {
                rule.tracks
                    && !self.rules.iter().any(|(at, n)| *at == chain.name && *n == rule.handle)
            })
        })
    }

    /// What of kube-proxy's can go from a table.
    pub fn plan(table: &Table) -> Self {
        let mut chains: BTreeSet<String> = table
            .chains
            .iter()
            .filter(|chain| !chain.base && kube_proxys(&table.name, &chain.name).is_some())
            .map(|chain| chain.name.clone())
            .collect();
        let mut kept = Vec::new();
        // What stays keeps what it refers to, which keeps what that refers to.
        while let Some(keep) = first_needed(table, &chains) {
            let _was_there = chains.remove(&keep.chain);
            kept.push(keep);
        }
        let rules = table
            .chains
            .iter()
            .filter(|chain| !chains.contains(&chain.name))
            .flat_map(|chain| {
                let gone = chain.rules.iter().filter(|rule| {
                    chain.base && rule.targets.iter().any(|target| chains.contains(target))
                });
                gone.map(|rule| (chain.name.clone(), rule.handle))
            })
            .collect();
        Self { chains, rules, kept }
    }
}

/// The first of `going` that something else needs.
fn first_needed(table: &Table, going: &BTreeSet<String>) -> Option<Kept> {
    for chain in table.chains.iter().filter(|chain| !going.contains(&chain.name)) {
        for target in chain.rules.iter().flat_map(|rule| &rule.targets) {
            // kube-proxy's own way in goes with the chain.
            let entrance = chain.base && ENTRANCES.contains(&target.as_str());
            if going.contains(target) && !entrance {
                let why = format!("a rule in chain {} leads to it", chain.name);
                return Some(Kept { chain: target.clone(), why });
            }
        }
    }
    let marks = table.chains.iter().any(|chain| chain.name == MARK_MASQ);
    (marks && !going.contains(MARK_MASQ) && going.contains(POSTROUTING)).then(|| Kept {
        chain: POSTROUTING.to_owned(),
        why: format!("it masquerades what {MARK_MASQ} marks"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table from lines `chain: target target`, base chains without KUBE or CNI in their name.
    fn table(name: &str, lines: &[&str]) -> Table {
        let mut handle = 0;
        let chains = lines.iter().map(|line| {
            let (name, targets) = line.split_once(':').unwrap();
            let rules = targets.split_whitespace().map(|target| {
                handle += 1;
                Rule { handle, targets: vec![target.to_owned()], tracks: target == "KUBE-SEP-A" }
            });
            let base = !name.contains('-');
            Chain { name: name.into(), base, nat: false, rules: rules.collect() }
        });
        let chains = chains.collect();
        Table { backend: Backend::Nft, family: Family::V4, name: name.into(), chains }
    }

    fn check(table: &Table, chains: &[&str], rules: &[(&str, u64)], kept: &[&str]) {
        let removal = Removal::plan(table);
        assert_eq!(removal.chains.iter().map(String::as_str).collect::<Vec<_>>(), chains);
        let found: Vec<_> = removal.rules.iter().map(|(at, n)| (at.as_str(), *n)).collect();
        assert_eq!(found, rules);
        assert_eq!(removal.kept.iter().map(|kept| &*kept.chain).collect::<Vec<_>>(), kept);
    }

    #[test]
    fn all_of_kube_proxys_chains_go_with_the_jumps_into_them() {
        let nat = table(
            "nat",
            &[
                "PREROUTING: CNI-HOSTPORT-DNAT KUBE-SERVICES",
                "POSTROUTING: KUBE-POSTROUTING",
                "CNI-HOSTPORT-DNAT: ",
                "KUBE-SERVICES: KUBE-SVC-A KUBE-NODEPORTS",
                "KUBE-NODEPORTS: KUBE-EXT-A",
                "KUBE-EXT-A: KUBE-MARK-MASQ KUBE-SVC-A",
                "KUBE-SVC-A: KUBE-SEP-A",
                "KUBE-SEP-A: KUBE-MARK-MASQ",
                "KUBE-MARK-MASQ: ",
                "KUBE-POSTROUTING: ",
                "KUBE-KUBELET-CANARY: ",
                "KUBE-PROXY-CANARY: ",
            ],
        );
        let chains = [
            "KUBE-EXT-A",
            "KUBE-MARK-MASQ",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-PROXY-CANARY",
            "KUBE-SEP-A",
            "KUBE-SERVICES",
            "KUBE-SVC-A",
        ];
        check(&nat, &chains, &[("PREROUTING", 2), ("POSTROUTING", 3)], &[]);
    }

    #[test]
    fn tracking_is_left_only_by_rules_that_stay() {
        let all = table("nat", &["KUBE-SERVICES: KUBE-SEP-A", "KUBE-SEP-A: "]);
        let removal = Removal::plan(&all);
        assert!(Removal::default().leaves_tracking(&all));
        assert!(!removal.leaves_tracking(&all));
    }

    #[test]
    fn what_a_cni_or_an_operator_refers_to_stays_and_works() {
        let by_cni = table(
            "nat",
            &[
                "POSTROUTING: KUBE-POSTROUTING",
                "CNI-HOSTPORT-SETMARK: KUBE-MARK-MASQ",
                "KUBE-SERVICES: KUBE-MARK-MASQ",
                "KUBE-MARK-MASQ: ",
                "KUBE-POSTROUTING: ",
            ],
        );
        check(&by_cni, &["KUBE-SERVICES"], &[], &["KUBE-MARK-MASQ", "KUBE-POSTROUTING"]);
        let by_hand = table(
            "nat",
            &["OUTPUT: KUBE-MARK-MASQ KUBE-SERVICES", "KUBE-SERVICES: ", "KUBE-MARK-MASQ: "],
        );
        check(&by_hand, &["KUBE-SERVICES"], &[("OUTPUT", 2)], &["KUBE-MARK-MASQ"]);
    }

    #[test]
    fn what_the_kubelet_makes_is_never_touched() {
        let filter = table(
            "filter",
            &[
                "INPUT: KUBE-FIREWALL KUBE-EXTERNAL-SERVICES KUBE-NODEPORTS",
                "KUBE-FIREWALL: ",
                "KUBE-EXTERNAL-SERVICES: ",
                "KUBE-NODEPORTS: ",
                "KUBE-KUBELET-CANARY: ",
            ],
        );
        let gone = [("INPUT", 2), ("INPUT", 3)];
        check(&filter, &["KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS"], &gone, &[]);
        for chain in ["KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP"] {
            for table in ["nat", "filter", "mangle"] {
                assert_eq!(kube_proxys(table, chain), None, "{table} {chain}");
            }
        }
        // A user's chain of a similar name, and a user's table.
        assert_eq!(kube_proxys("filter", "KUBE-SVC-X"), None);
        assert_eq!(kube_proxys("raw", "KUBE-SERVICES"), None);
    }
}
