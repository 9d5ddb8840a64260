//! The ids of the contract: which rows there are, and how many of each kind.

/// Ids that differ in their number only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// What stands before the number.
    pub(crate) prefix: &'static str,
    /// The largest number; the smallest is 1, and none is left out.
    pub(crate) count: u16,
}

const fn group(prefix: &'static str, count: u16) -> Group {
    Group { prefix, count }
}

/// What a user of Services can rely on: 285 rows, in `docs/parity.md`.
pub(crate) const CONTRACT: [Group; 23] = [
    group("SVC-", 18),
    group("FAM-", 14),
    group("PORT-", 11),
    group("CIP-", 12),
    group("ICMP-", 1),
    group("NP-", 20),
    group("EIP-", 7),
    group("LB-", 12),
    group("SR-", 10),
    group("M-", 12),
    group("TP-", 14),
    group("ES-", 18),
    group("EP-", 10),
    group("TOP-", 12),
    group("BAL-", 5),
    group("AFF-", 12),
    group("NE-", 17),
    group("CT-", 19),
    group("HOST-", 11),
    group("SYNC-", 17),
    group("HC-", 14),
    group("HZ-", 13),
    group("NODE-", 6),
];

/// Choices in which the modes of kube-proxy differ, and traps of eBPF: in `docs/parity.md` as well.
pub(crate) const BESIDES: [Group; 2] = [group("D", 15), group("B", 20)];

/// What surrounds the agent: in `docs/kubernetes.md`.
pub(crate) const OPERATION: [Group; 2] = [group("OPS-", 7), group("API-", 8)];

/// Every id of these groups.
pub(crate) fn ids(groups: &[Group]) -> impl Iterator<Item = String> {
    groups.iter().flat_map(|group| (1..=group.count).map(|n| format!("{}{n}", group.prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_has_285_rows() {
        assert_eq!(ids(&CONTRACT).count(), 285);
        assert_eq!(ids(&BESIDES).last().as_deref(), Some("B20"));
    }
}
