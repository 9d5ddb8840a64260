//! What the agent may still do once it runs: the capabilities of its work, and no others.
//!
//! Mounting bpffs is the only thing that asks for more (CAP_SYS_ADMIN), so [`reduce`] comes after
//! [`crate::datapath::probe::machine`]. It comes before the first thread, because capabilities
//! belong to threads and are inherited when one is made.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{errno::Errno, sys::prctl};

/// What stays, and what for.
const NEEDED: [Capability; 6] = [
    // Maps, programs, links: all of bpf(2).
    Capability::CAP_BPF,
    // Devices, netlink, sock_diag, attaching to devices and cgroups, sysctls of the network.
    Capability::CAP_NET_ADMIN,
    // Programs that read kernel memory: the iterator over sockets, the clock.
    Capability::CAP_PERFMON,
    // Asking iptables for its rules takes a raw socket.
    Capability::CAP_NET_RAW,
    // A kubeconfig or a directory of manifests may belong to a user.
    Capability::CAP_DAC_READ_SEARCH,
    // An operator may want health to be served at any port.
    Capability::CAP_NET_BIND_SERVICE,
];

/// Privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Reading or setting capabilities.
    #[error("giving up capabilities")]
    Capabilities(#[from] CapsError),
    /// Setting `no_new_privs`.
    #[error("giving up new privileges")]
    NoNewPrivileges(#[source] Errno),
}

/// Gives up everything that the agent does not need, for this thread and all that it will start.
///
/// # Errors
///
/// When the kernel refuses, which it does not for giving up what one has.
pub fn reduce() -> Result<(), PrivilegeError> {
    let had = caps::read(None, CapSet::Permitted)?;
    let kept = kept(&had);
    // Only who may set capabilities may shrink the bounding set. That one matters for children: the
    // agent has none, and without new privileges they would get nothing back.
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
                caps::drop(None, CapSet::Bounding, *capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)
}

/// What to keep of what there was.
fn kept(had: &CapsHashSet) -> CapsHashSet {
    let mut kept: CapsHashSet = NEEDED.into_iter().filter(|needed| had.contains(needed)).collect();
    // What starts us may not know the newer ones; the older one then stands for them.
    let newer = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    if newer.iter().any(|newer| !had.contains(newer)) && had.contains(&Capability::CAP_SYS_ADMIN) {
        let _ = kept.insert(Capability::CAP_SYS_ADMIN);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_strong_capability_stays_only_where_it_stands_for_newer_ones() {
        assert_eq!(kept(&caps::all()), NEEDED.into_iter().collect());
        let old: CapsHashSet = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN].into();
        assert_eq!(kept(&old), old);
        assert_eq!(kept(&CapsHashSet::new()), CapsHashSet::new());
    }

    #[test]
    fn a_thread_that_reduced_itself_has_no_more_and_gets_no_more() {
        let reduced = thread::spawn(|| {
            reduce().expect("giving up is allowed");
            let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];
            let left = sets.map(|set| caps::read(None, set).expect("can be read"));
            // Whoever is started from here inherits it.
            let child = thread::spawn(|| caps::read(None, CapSet::Permitted).expect("can be read"));
            (left, child.join().expect("reads its own"), prctl::get_no_new_privs())
        });
        let (left, child, no_new_privileges) = reduced.join().expect("reduces itself");
        let allowed: CapsHashSet = kept(&caps::read(None, CapSet::Permitted).expect("can be read"));
        assert_eq!(
            left,
            [allowed.clone(), allowed.clone(), CapsHashSet::new(), CapsHashSet::new()]
        );
        assert_eq!(child, allowed);
        assert_eq!(no_new_privileges, Ok(true));
    }
}
