//! rtnetlink: dumps of links, addresses and routes, and the stream of changes.
//!
//! Invariant: a message that cannot be parsed is skipped, never an error: kernels add attributes.
//! Sockets belong to the network namespace of the thread that made them.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use lb_common::MacAddr;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{LinkFacts, is_global, netdev, routing};

/// RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];
/// Room for bursts of changes; beyond it the kernel says so and everything is read again.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How often a dump that was disturbed by a change is begun again.
const ATTEMPTS: u32 = 10;

/// What a read of the change stream brought.
#[derive(Debug)]
pub(super) enum Received {
    /// Messages, and whether there were some about routing rules, which are not among them.
    Messages { messages: Vec<RouteNetlinkMessage>, rules: bool },
    /// Nothing more for now.
    Empty,
    /// The kernel had to drop messages.
    Lost,
}

/// The stream of changes.
#[derive(Debug)]
pub(super) struct Changes {
    socket: Socket,
    /// What drivers can do for XDP; `None` where the kernel does not tell.
    features: Option<netdev::Changes>,
}

impl Changes {
    /// Joins the groups of links, addresses, routes, rules and neighbours.
    pub(super) fn join() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Failing leaves the default size, which only makes losses likelier.
        let _unprivileged = socket.set_rx_buf_sz(RECEIVE_BUFFER).is_err();
        let _address = socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, features: netdev::Changes::join() })
    }

    /// Whether drivers began or ceased to do something for XDP since this was asked last.
    pub(super) fn features_changed(&self) -> bool {
        self.features.as_ref().is_some_and(netdev::Changes::drain)
    }

    /// The descriptor of what [`features_changed`](Self::features_changed) reads, to wait on.
    pub(super) fn features_fd(&self) -> Option<BorrowedFd<'_>> {
        self.features.as_ref().map(netdev::Changes::fd)
    }

    /// Reads what is there, without waiting.
    pub(super) fn receive(&self) -> io::Result<Received> {
        match self.socket.recv_from_full() {
            Ok((bytes, _)) => {
                let Parsed { messages, rules, .. } = parse(&bytes);
                Ok(Received::Messages { messages, rules })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Empty),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Received::Lost),
            Err(error) => Err(error),
        }
    }

    /// The descriptor, to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.socket`, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// Reads all links with their addresses and routes, and what their drivers can do for XDP.
pub(super) fn links() -> io::Result<Vec<LinkFacts>> {
    let mut links = BTreeMap::new();
    let mut slaves = Vec::new();
    for message in dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let facts = link_facts(&link);
            slaves.extend(master(&link).map(|master| (facts.ifindex, master)));
            let _before = links.insert(facts.ifindex, facts);
        }
    }
    for (slave, master) in slaves {
        let kind = links.get(&master).and_then(|master: &LinkFacts| master.kind.clone());
        if let Some(link) = links.get_mut(&slave) {
            link.master = Some(kind.unwrap_or_default());
        }
    }
    for ifindex in netdev::transmitting() {
        if let Some(link) = links.get_mut(&ifindex) {
            link.transmits = true;
        }
    }
    for message in dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(address) = message
            && let Some(ip) = usable_address(&address)
            && let Some(link) = links.get_mut(&address.header.index)
        {
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            link.on_network |= is_global(ip) && address.header.prefix_len < whole;
            link.addresses.push(ip);
        }
    }
    for message in dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            note_route(&route, &mut links);
        }
    }
    Ok(links.into_values().collect())
}

#[derive(Default)]
struct Parsed {
    messages: Vec<RouteNetlinkMessage>,
    /// Whether there were some about routing rules: those are read elsewhere, whatever they say.
    rules: bool,
    done: bool,
    interrupted: bool,
    error: Option<io::Error>,
}

/// Everything in one datagram.
fn parse(mut bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    while let Some(header) = bytes.first_chunk::<4>() {
        let length = usize::try_from(u32::from_ne_bytes(*header)).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= 16) else {
            break;
        };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        if matches!(kind, routing::RTM_NEWRULE | routing::RTM_DELRULE) {
            parsed.rules = true;
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            continue;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => {
                parsed.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                if let NetlinkPayload::InnerMessage(message) = message.payload {
                    parsed.messages.push(message);
                } else if let NetlinkPayload::Done(_) = message.payload {
                    parsed.done = true;
                } else if let NetlinkPayload::Error(error) = message.payload {
                    parsed.error = Some(error.to_io());
                }
            }
            Err(error) => tracing::debug!(%error, "skipped a netlink message"),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    parsed
}

/// Reads a table of the kernel, again from the start when it changed meanwhile.
fn dump(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    for _attempt in 0..ATTEMPTS {
        if let Some(messages) = dump_once(request.clone())? {
            return Ok(messages);
        }
    }
    Err(io::Error::other("the kernel's tables change faster than they can be read"))
}

fn dump_once(request: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    let _address = socket.bind_auto()?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let _sent = socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut messages = Vec::new();
    let mut interrupted = false;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let parsed = parse(&bytes);
        messages.extend(parsed.messages);
        interrupted |= parsed.interrupted;
        if let Some(error) = parsed.error {
            return Err(error);
        }
        if parsed.done {
            return Ok((!interrupted).then_some(messages));
        }
    }
}

fn link_facts(link: &LinkMessage) -> LinkFacts {
    let mut facts = LinkFacts {
        ifindex: link.header.index,
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        without_ip: carries_no_ip(link.header.link_layer_type),
        ..LinkFacts::default()
    };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            facts.name.clone_from(name);
        } else if let LinkAttribute::Address(mac) = attribute {
            facts.mac = mac.as_slice().try_into().ok().map(|octets| MacAddr { octets });
        } else if let LinkAttribute::LinkNetNsId(_) = attribute {
            facts.peer_elsewhere = true;
        } else if let LinkAttribute::ParentDevName(_) = attribute {
            facts.physical = true;
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            facts.kind = infos.iter().find_map(|info| {
                let LinkInfo::Kind(kind) = info else { return None };
                Some(kind.to_string())
            });
        }
    }
    facts
}

/// The index of the device that this one is enslaved to.
fn master(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Controller(master) = attribute else { return None };
        Some(*master)
    })
}

/// Whether no IP packet can pass a device of this type: field buses, monitors, telephones.
fn carries_no_ip(layer: LinkLayerType) -> bool {
    use LinkLayerType as Type;
    matches!(
        layer,
        Type::Can
            | Type::Mctp
            | Type::Netlink
            | Type::Vsockmon
            | Type::Phonet
            | Type::PhonetPipe
            | Type::Ieee80211
            | Type::Ieee80211Prism
            | Type::Ieee80211Radiotap
            | Type::Ieee802154
            | Type::Ieee802154Monitor
            | Type::X25
            | Type::Hwx25
            | Type::Lapb
    )
}

/// The address in a message, unless it is not (or no longer) to be used.
fn usable_address(message: &AddressMessage) -> Option<IpAddr> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if message.header.flags.intersects(unusable) {
        return None;
    }
    // Of a point-to-point address, `Local` is this end and `Address` the other.
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        }
    }
    local.or(address)
}

/// Whether a route is to everywhere, in the main table.
pub(super) fn is_default_route(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN
}

/// Whether a route leads other packets than the node's own to some device: not one to an address of
/// the node, and not one that every device has for its link.
pub(super) fn leads_away(route: &RouteMessage) -> bool {
    let everyones = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => ip.is_link_local() || ip.is_multicast(),
        RouteAddress::Inet6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
        RouteAddress::Mpls(_) | RouteAddress::Other(_) | _ => true,
    };
    route.header.kind == RouteType::Unicast
        && !route
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, RouteAttribute::Destination(to) if everyones(to)))
}

/// The devices that a route leads to.
pub(super) fn devices_of(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(ifindex) = attribute {
            devices.push(*ifindex);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            devices.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    devices
}

fn note_route(route: &RouteMessage, links: &mut BTreeMap<u32, LinkFacts>) {
    if !leads_away(route) {
        return;
    }
    let v4 = route.header.address_family == AddressFamily::Inet;
    let to_network = route.header.destination_prefix_length < if v4 { 32 } else { 128 };
    let metric = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Priority(metric) = attribute else { return None };
        Some(*metric)
    });
    let metric = metric.unwrap_or(0);
    for ifindex in devices_of(route) {
        let Some(link) = links.get_mut(&ifindex) else { continue };
        link.routed = true;
        link.to_network |= to_network;
        if is_default_route(route) {
            let best = if v4 { &mut link.default4 } else { &mut link.default6 };
            *best = Some(best.map_or(metric, |other| other.min(metric)));
        }
    }
}
