//! Links, addresses and routes by rtnetlink, synchronously, one request a call.
//!
//! A [`Netlink`] acts on the network namespace in which it was opened, from whatever thread.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    sync::Mutex,
};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        LinkXdp,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A prefix or an interface address: address and prefix length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cidr(pub IpAddr, pub u8);

impl Cidr {
    /// The prefix that holds `ip` alone.
    pub const fn host(ip: IpAddr) -> Self {
        Self(ip, if ip.is_ipv4() { 32 } else { 128 })
    }

    /// Whether `ip` is of this prefix.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let Self(network, length) = *self;
        match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                u32::from(network) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                u128::from(network) & mask == u128::from(ip) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// The default route's prefix, in the family of `ip`.
    pub const fn any(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            IpAddr::V6(_) => Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        }
    }
}

/// One end of a veth pair to be made.
pub struct End<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// Its address.
    pub mac: Mac,
}

/// A socket for requests to rtnetlink.
pub struct Netlink {
    socket: Mutex<Socket>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("opening an rtnetlink socket")?;
        let _ = socket.bind_auto().context("binding an rtnetlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connecting an rtnetlink socket")?;
        Ok(Self { socket: Mutex::new(socket) })
    }

    /// Creates a veth pair: `here` in this namespace, `there` in the namespace of `peer_ns`.
    pub fn veth(&self, here: &End<'_>, there: &End<'_>, peer_ns: BorrowedFd<'_>) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(there.name.to_owned()));
        peer.attributes.push(LinkAttribute::Address(there.mac.to_vec()));
        peer.attributes.push(LinkAttribute::NetNsFd(peer_ns.as_raw_fd()));
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(here.name.to_owned()));
        link.attributes.push(LinkAttribute::Address(here.mac.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(RouteNetlinkMessage::NewLink(link))
            .with_context(|| format!("creating the veth pair {} / {}", here.name, there.name))
    }

    /// Creates a bridge that forwards at once and floods multicast.
    pub fn bridge(&self, name: &str, mac: Mac) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
        ]));
        self.create(RouteNetlinkMessage::NewLink(link))
            .with_context(|| format!("creating the bridge {name}"))
    }

    /// Sets a device up.
    pub fn up(&self, name: &str) -> Result<()> {
        let mut link = self.by_name(name)?;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), 0)
            .map(drop)
            .with_context(|| format!("setting {name} up"))
    }

    /// Sets the MTU of a device.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let mut link = self.by_name(name)?;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
            .map(drop)
            .with_context(|| format!("setting the MTU of {name} to {mtu}"))
    }

    /// Attaches an XDP program to a device.
    pub fn attach_xdp(&self, name: &str, program: BorrowedFd<'_>) -> Result<()> {
        let mut link = self.by_name(name)?;
        link.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(program.as_raw_fd())]));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
            .map(drop)
            .with_context(|| format!("attaching an XDP program to {name}"))
    }

    /// Makes `name` a port of `bridge`.
    pub fn enslave(&self, name: &str, bridge: &str) -> Result<()> {
        let mut link = self.by_name(name)?;
        link.attributes.push(LinkAttribute::Controller(self.index(bridge)?));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
            .map(drop)
            .with_context(|| format!("adding {name} to {bridge}"))
    }

    /// Removes a device, and the other end of a veth pair with it.
    pub fn delete(&self, name: &str) -> Result<()> {
        let link = self.by_name(name)?;
        self.request(RouteNetlinkMessage::DelLink(link), 0)
            .map(drop)
            .with_context(|| format!("deleting {name}"))
    }

    /// The interface index of a device.
    pub fn index(&self, name: &str) -> Result<u32> {
        Ok(self.by_name(name)?.header.index)
    }

    /// The Ethernet address of a device.
    pub fn mac(&self, name: &str) -> Result<Mac> {
        let mut attributes = self.found(name)?.attributes.into_iter();
        let found = attributes.find_map(|attribute| {
            let LinkAttribute::Address(mac) = attribute else { return None };
            Mac::try_from(mac).ok()
        });
        found.with_context(|| format!("{name} has no Ethernet address"))
    }

    /// Adds an address to a device; usable at once (no duplicate address detection).
    pub fn add_address(&self, device: &str, address: Cidr) -> Result<()> {
        self.create(RouteNetlinkMessage::NewAddress(self.address(device, address)?))
            .with_context(|| format!("adding {} to {device}", address.0))
    }

    /// Takes an address from a device.
    pub fn delete_address(&self, device: &str, address: Cidr) -> Result<()> {
        self.request(RouteNetlinkMessage::DelAddress(self.address(device, address)?), 0)
            .map(drop)
            .with_context(|| format!("deleting {} from {device}", address.0))
    }

    /// Adds or replaces a route out of `device`: to a neighbour on the link, or by way of `via`,
    /// which is taken to be on the link whatever the addresses say.
    pub fn add_route(&self, to: Cidr, via: Option<IpAddr>, device: &str) -> Result<()> {
        let route = self.route(to, via, device)?;
        self.request(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .with_context(|| format!("adding a route to {}/{} by {device}", to.0, to.1))
    }

    /// Adds a neighbour that never has to be asked for.
    pub fn add_neighbour(&self, device: &str, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = self.index(device)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.create(RouteNetlinkMessage::NewNeighbour(message))
            .with_context(|| format!("adding the neighbour {ip} to {device}"))
    }

    /// Deletes a route out of `device`.
    pub fn delete_route(&self, to: Cidr, via: Option<IpAddr>, device: &str) -> Result<()> {
        let route = self.route(to, via, device)?;
        self.request(RouteNetlinkMessage::DelRoute(route), 0)
            .map(drop)
            .with_context(|| format!("deleting the route to {}/{} by {device}", to.0, to.1))
    }

    /// A message about a device that says nothing else of it yet.
    fn by_name(&self, name: &str) -> Result<LinkMessage> {
        let mut link = LinkMessage::default();
        link.header.index = self.found(name)?.header.index;
        Ok(link)
    }

    fn found(&self, name: &str) -> Result<LinkMessage> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = self
            .request(RouteNetlinkMessage::GetLink(link), 0)
            .with_context(|| format!("looking for the device {name}"))?;
        let Some(RouteNetlinkMessage::NewLink(found)) = answer else {
            bail!("looking for the device {name}: the kernel answered with something else");
        };
        Ok(found)
    }

    fn address(&self, device: &str, Cidr(ip, prefix): Cidr) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = prefix;
        message.header.index = self.index(device)?;
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Address(ip));
        match ip {
            IpAddr::V4(v4) => {
                message.attributes.push(AddressAttribute::Local(ip));
                if prefix < 31 {
                    let broadcast = u32::from(v4) | (u32::MAX >> prefix);
                    message.attributes.push(AddressAttribute::Broadcast(broadcast.into()));
                }
            }
            IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        Ok(message)
    }

    fn route(&self, to: Cidr, via: Option<IpAddr>, device: &str) -> Result<RouteMessage> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to.0);
        message.header.destination_prefix_length = to.1;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        if to.1 != 0 {
            message.attributes.push(RouteAttribute::Destination(route_address(to.0)));
        }
        match via {
            Some(gateway) => {
                message.header.flags = RouteFlags::Onlink;
                message.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
            }
            None if to.0.is_ipv4() => message.header.scope = RouteScope::Link,
            None => {}
        }
        message.attributes.push(RouteAttribute::Oif(self.index(device)?));
        Ok(message)
    }

    fn create(&self, message: RouteNetlinkMessage) -> Result<()> {
        self.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Sends one request and returns its answer: `None` for a bare acknowledgement.
    fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>> {
        let wants_answer = matches!(message, RouteNetlinkMessage::GetLink(_));
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags | if wants_answer { 0 } else { NLM_F_ACK };
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);

        let socket = self.socket.lock().expect("no holder of this lock panics");
        let _ = socket.send(&bytes, 0)?;
        let (answer, _) = socket.recv_from_full()?;
        drop(socket);
        let payload = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?.payload;
        if let NetlinkPayload::InnerMessage(inner) = payload {
            return Ok(Some(inner));
        }
        let NetlinkPayload::Error(error) = payload else {
            bail!("unexpected answer of rtnetlink: {payload:?}");
        };
        if error.code.is_none() { Ok(None) } else { Err(error.to_io().into()) }
    }
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}
