//! Routing rules and IPsec policies of the network namespace, as far as they may send a packet
//! another way than its addresses say.
//!
//! Read by hand: what matters is any attribute that we do not know, and a parser that knows less
//! than the kernel would hide it.
//!
//! Invariant: what cannot be read or understood is reported as such, never as absent.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::NlasIterator;
use netlink_sys::{
    Socket,
    protocols::{NETLINK_ROUTE, NETLINK_XFRM},
};

use super::raw::{self, Message, dump};

/// Length of `struct fib_rule_hdr`.
const RULE: usize = 12;
/// Where `struct xfrm_userpolicy_info` has its direction: behind selector, both lifetimes, priority
/// and index.
const POLICY_DIRECTION: usize = 56 + 64 + 32 + 4 + 4;

pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
/// XFRMNLGRP_POLICY.
const POLICY_GROUP: u32 = 4;
/// XFRM_USERPOLICY_BLOCK.
const BLOCK: u8 = 1;

/// What may send a packet another way than its addresses say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Routing {
    /// Selectors of the routing rules of both families, sorted, each once: of the source, and those
    /// that no look-up of ours can ask with.
    pub selectors: Vec<Selector>,
    /// The xfrm policies for packets that leave or are forwarded.
    pub policies: Policies,
}

/// Whether there are xfrm policies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Policies {
    /// There is none, or the kernel knows none.
    #[default]
    None,
    /// There is one at least, or packets without one are dropped.
    Some,
    /// They cannot be read.
    Unreadable,
}

/// By what a routing rule chooses packets.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Selector {
    /// The source address.
    Source,
    /// The mark that netfilter or a program gave.
    Mark,
    /// The user of the socket.
    User,
    /// The id of the tunnel that it came from.
    Tunnel,
    /// The six bits of differentiated services, apart from the other bits of the old field.
    Dscp,
    /// The flow label of IPv6.
    FlowLabel,
    /// An attribute of a newer kernel, by number.
    Unknown(u16),
    /// The rules cannot be read.
    Unreadable,
}

/// Reads all rules and policies.
pub(super) fn read() -> Routing {
    let mut selectors = Vec::new();
    // A kernel without such rules answers that it knows no such request.
    match absent(dump(NETLINK_ROUTE, RTM_GETRULE, &[0; RULE])) {
        Ok(messages) => {
            let rules = messages.iter().filter(|message| message.kind == RTM_NEWRULE);
            selectors.extend(rules.flat_map(|rule| rule_selectors(&rule.body)));
        }
        Err(error) => {
            tracing::warn!(%error, "the routing rules cannot be read");
            selectors.push(Selector::Unreadable);
        }
    }
    selectors.sort_unstable();
    selectors.dedup();
    let policies = match policies() {
        Ok(true) => Policies::Some,
        Ok(false) => Policies::None,
        Err(error) => {
            tracing::warn!(%error, "the xfrm policies cannot be read");
            Policies::Unreadable
        }
    };
    Routing { selectors, policies }
}

/// By what a rule chooses, beyond what a look-up of ours asks with in any case.
fn rule_selectors(body: &[u8]) -> Vec<Selector> {
    let Some((header, attributes)) = body.split_at_checked(RULE) else {
        return vec![Selector::Unreadable];
    };
    // Rules of multicast routing are listed too, with families of their own.
    let family = i32::from(header[0]);
    if family != libc::AF_INET && family != libc::AF_INET6 {
        return Vec::new();
    }
    let mut selectors = Vec::new();
    if header[2] != 0 {
        selectors.push(Selector::Source);
    }
    for attribute in NlasIterator::new(attributes) {
        let Ok(attribute) = attribute else {
            selectors.push(Selector::Unreadable);
            break;
        };
        selectors.extend(selector(attribute.kind()));
    }
    selectors
}

/// Which selector an attribute (`FRA_…` of linux/fib_rules.h) is, if any.
const fn selector(kind: u16) -> Option<Selector> {
    match kind {
        2 => Some(Selector::Source),
        10 | 16 => Some(Selector::Mark),
        12 => Some(Selector::Tunnel),
        20 => Some(Selector::User),
        25 | 30 => Some(Selector::Dscp),
        26 | 27 => Some(Selector::FlowLabel),
        // Destination, incoming device, goto, priority, realm, suppressors, table, outgoing device,
        // padding, l3mdev, who made it; protocol, ports, and the masks of ports.
        1 | 3 | 4 | 6 | 11 | 13 | 14 | 15 | 17 | 18 | 19 | 21 | 22 | 23 | 24 | 28 | 29 => None,
        other => Some(Selector::Unknown(other)),
    }
}

/// Whether any policy is for packets that leave or are forwarded.
fn policies() -> io::Result<bool> {
    let listed = absent(dump(NETLINK_XFRM, XFRM_MSG_GETPOLICY, &[]))?;
    let mut policies = listed.iter().filter(|message| message.kind == XFRM_MSG_NEWPOLICY);
    // What belongs to one socket has directions beyond these, and is no matter of forwarding.
    Ok(policies.any(|policy| matches!(policy.body.get(POLICY_DIRECTION), Some(1 | 2) | None))
        || blocks_by_default()?)
}

/// Whether packets without a policy are dropped: what stands for a policy that matches all.
fn blocks_by_default() -> io::Result<bool> {
    // `struct xfrm_userpolicy_default`: in, forwarded, out.
    let answer = absent(raw::ask(NETLINK_XFRM, XFRM_MSG_GETDEFAULT, &[0; 3]))?;
    let default = answer.iter().find(|message| message.kind == XFRM_MSG_GETDEFAULT);
    Ok(default.is_some_and(|message| {
        matches!(message.body.as_slice(), [_, BLOCK, ..] | [_, _, BLOCK, ..])
    }))
}

/// An answer that the kernel has no such thing is an empty answer.
fn absent(answer: io::Result<Vec<Message>>) -> io::Result<Vec<Message>> {
    match answer {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// The stream of changes of xfrm policies. Only that something came is of interest.
#[derive(Debug)]
pub(super) struct PolicyChanges(Socket);

impl PolicyChanges {
    /// Joins the group; `None` on a kernel without xfrm, and for who may not join: [`read`] tells
    /// these two apart.
    pub(super) fn join() -> io::Result<Option<Self>> {
        let mut socket = match Socket::new(NETLINK_XFRM) {
            Ok(socket) => socket,
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let _address = socket.bind_auto()?;
        match socket.add_membership(POLICY_GROUP) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            joined => joined?,
        }
        socket.set_non_blocking(true)?;
        Ok(Some(Self(socket)))
    }

    /// Takes in what is there; whether there was anything.
    pub(super) fn drain(&self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match self.0.recv_from_full() {
                Ok(_) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptor, to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.0`, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule as the kernel sends it: family, length of the source, attributes.
    fn rule(family: i32, source: u8, attributes: &[(u16, u32)]) -> Vec<Selector> {
        let mut body = vec![u8::try_from(family).unwrap_or(0), 0, source, 0];
        body.resize(RULE, 0);
        for (kind, value) in attributes {
            body.extend(8_u16.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value.to_ne_bytes());
        }
        rule_selectors(&body)
    }

    #[test]
    fn selectors_that_a_look_up_asks_with_are_none() {
        // What the kernel says of `ip rule add to 192.0.2.0/24 iif eth0 ipproto tcp dport 80`.
        let asked =
            [(1, 0), (3, 0), (6, 100), (14, u32::MAX), (15, 254), (21, 0), (22, 6), (24, 80)];
        assert_eq!(rule(libc::AF_INET, 0, &asked), []);
        assert_eq!(rule(libc::AF_INET6, 0, &[(19, 1)]), []);
    }

    #[test]
    fn every_other_selector_is_told() {
        assert_eq!(rule(libc::AF_INET, 24, &[(2, 0)]), [Selector::Source, Selector::Source]);
        assert_eq!(rule(libc::AF_INET6, 0, &[(10, 7), (16, 7)]), [Selector::Mark, Selector::Mark]);
        assert_eq!(rule(libc::AF_INET, 0, &[(20, 0)]), [Selector::User]);
        assert_eq!(rule(libc::AF_INET, 0, &[(25, 0)]), [Selector::Dscp]);
        assert_eq!(rule(libc::AF_INET, 0, &[(99, 0)]), [Selector::Unknown(99)]);
    }

    #[test]
    fn rules_of_multicast_routing_do_not_count() {
        assert_eq!(rule(128, 0, &[(10, 7)]), []);
    }

    #[test]
    fn a_rule_that_is_cut_short_is_not_taken_for_harmless() {
        assert_eq!(rule_selectors(&[2, 0, 0]), [Selector::Unreadable]);
        let mut body = vec![2, 0, 0, 0];
        body.resize(RULE, 0);
        body.extend([200, 0, 1, 0]);
        assert_eq!(rule_selectors(&body), [Selector::Unreadable]);
    }
}
