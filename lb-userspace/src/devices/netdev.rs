//! The kernel's generic netlink family `netdev`: what drivers can do for XDP.
//!
//! Invariant: a kernel that does not tell (before 6.3), or fails to, is taken for one whose drivers
//! can do nothing: packets then leave by tc, which is slower and never wrong.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// The family that knows the numbers of all others.
const CONTROLLER: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const FAMILY: &[u8] = b"netdev\0";
/// The group that is told of every change of a device.
const GROUP: &[u8] = b"mgmt\0";
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// The driver has `ndo_xdp_xmit`, and at this moment it works.
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;

const HEADER: usize = 16;
/// `struct genlmsghdr`.
const GENERIC: usize = 4;
/// How often a dump that was disturbed by a change is begun again.
const ATTEMPTS: u32 = 10;

/// The devices whose drivers transmit what XDP redirects to them.
pub(super) fn transmitting() -> Vec<u32> {
    match family().and_then(|family| features(family.id)) {
        Ok(features) => features
            .into_iter()
            .filter(|(_, features)| features & NETDEV_XDP_ACT_NDO_XMIT != 0)
            .map(|(ifindex, _)| ifindex)
            .collect(),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not tell what drivers can do for XDP");
            Vec::new()
        }
    }
}

/// The stream of changes.
#[derive(Debug)]
pub(super) struct Changes {
    socket: Socket,
}

impl Changes {
    /// Joins the group of changes; `None` where the kernel has none.
    pub(super) fn join() -> Option<Self> {
        let join = || {
            let socket = open()?;
            socket.add_membership(family()?.changes)?;
            socket.set_non_blocking(true)?;
            Ok::<_, io::Error>(Self { socket })
        };
        let joined = join();
        if let Err(error) = &joined {
            tracing::debug!(%error, "changes of what drivers can do for XDP are not followed");
        }
        joined.ok()
    }

    /// Takes in what is there; whether there was anything.
    pub(super) fn drain(&self) -> bool {
        let mut any = false;
        loop {
            match self.socket.recv_from_full() {
                Ok(_) => any = true,
                // Messages were lost: something changed, and there may be more.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }

    /// The descriptor, to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.socket`, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// The numbers that the kernel gave to the family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Family {
    id: u16,
    /// The group of changes.
    changes: u32,
}

fn family() -> io::Result<Family> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, FAMILY);
    let socket = open()?;
    send(&socket, CONTROLLER, 0, CTRL_CMD_GETFAMILY, &name)?;
    let (bytes, _from) = socket.recv_from_full()?;
    let mut messages = Messages(&bytes);
    let attributes = messages.next().transpose()?.and_then(|message| message.attributes);
    attributes.and_then(as_family).ok_or_else(|| io::Error::other("an answer of another kind"))
}

/// Reads what all drivers can do, again from the start when it changed meanwhile.
fn features(family: u16) -> io::Result<Vec<(u32, u64)>> {
    for _attempt in 0..ATTEMPTS {
        if let Some(features) = features_once(family)? {
            return Ok(features);
        }
    }
    Err(io::Error::other("the devices change faster than they can be read"))
}

fn features_once(family: u16) -> io::Result<Option<Vec<(u32, u64)>>> {
    let socket = open()?;
    send(&socket, family, NLM_F_DUMP, NETDEV_CMD_DEV_GET, &[])?;
    let mut features = Vec::new();
    let mut interrupted = false;
    loop {
        let (bytes, _from) = socket.recv_from_full()?;
        for message in Messages(&bytes) {
            let message = message?;
            interrupted |= message.interrupted;
            match message.attributes {
                Some(attributes) => features.extend(as_features(attributes)),
                None => return Ok((!interrupted).then_some(features)),
            }
        }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    let _address = socket.bind_auto()?;
    Ok(socket)
}

fn send(socket: &Socket, family: u16, flags: u16, command: u8, body: &[u8]) -> io::Result<()> {
    const VERSION: u8 = 1;
    let length = u32::try_from(HEADER + GENERIC + body.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port, which the kernel sets or returns as they are.
    bytes.extend([0; 8]);
    bytes.extend([command, VERSION, 0, 0]);
    bytes.extend(body);
    let _sent = socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    Ok(())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message of the kernel.
struct Message<'a> {
    /// What it says; `None` for the end of a list.
    attributes: Option<&'a [u8]>,
    /// Whether the list that it belongs to is of no use.
    interrupted: bool,
}

/// The messages in one datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let buffer = NetlinkBuffer::new_checked(self.0).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let interrupted = buffer.flags() & NLM_F_DUMP_INTR != 0;
        let error = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
        Some(match buffer.message_type() {
            NLMSG_ERROR if error != 0 => Err(io::Error::from_raw_os_error(error.saturating_neg())),
            NLMSG_ERROR | NLMSG_DONE => Ok(Message { attributes: None, interrupted }),
            _ => Ok(Message { attributes: body.get(GENERIC..), interrupted }),
        })
    }
}

/// The value of the first attribute of a kind; an attribute that is cut short ends the list.
fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    all.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

fn number<const N: usize>(attributes: &[u8], kind: u16) -> Option<[u8; N]> {
    find(attributes, kind)?.try_into().ok()
}

fn as_family(attributes: &[u8]) -> Option<Family> {
    let groups = find(attributes, CTRL_ATTR_MCAST_GROUPS)?;
    let changes = NlasIterator::new(groups.as_slice())
        .map_while(Result::ok)
        .map(|group| group.value().to_vec())
        .find(|group| find(group, CTRL_ATTR_MCAST_GRP_NAME).as_deref() == Some(GROUP))?;
    Some(Family {
        id: u16::from_ne_bytes(number(attributes, CTRL_ATTR_FAMILY_ID)?),
        changes: u32::from_ne_bytes(number(&changes, CTRL_ATTR_MCAST_GRP_ID)?),
    })
}

/// Interface index and features of a device.
fn as_features(attributes: &[u8]) -> Option<(u32, u64)> {
    let ifindex = u32::from_ne_bytes(number(attributes, NETDEV_A_DEV_IFINDEX)?);
    let features = u64::from_ne_bytes(number(attributes, NETDEV_A_DEV_XDP_FEATURES)?);
    Some((ifindex, features))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn features_are_read_device_by_device_until_the_end() {
        let device = |ifindex: u32, features: u64| {
            let mut body = vec![0; GENERIC];
            body.extend(attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes()));
            body.extend(attribute(NETDEV_A_DEV_XDP_FEATURES, &features.to_ne_bytes()));
            message(29, 2, &body)
        };
        let bytes =
            [device(1, 0), device(2, 0x23), device(3, 7), message(NLMSG_DONE, 2, &[0; 4])].concat();
        let messages: Vec<Message<'_>> = Messages(&bytes).map(|m| m.expect("no error")).collect();
        assert!(messages.iter().all(|message| !message.interrupted));
        let found: Vec<_> = messages.iter().map(|m| m.attributes.map(as_features)).collect();
        assert_eq!(found, [Some(Some((1, 0))), Some(Some((2, 0x23))), Some(Some((3, 7))), None]);
    }

    #[test]
    fn a_family_that_is_not_there_is_an_error() {
        let bytes = message(NLMSG_ERROR, 0, &(-libc::ENOENT).to_ne_bytes());
        let answer = Messages(&bytes).next().expect("a message");
        assert_eq!(answer.err().and_then(|error| error.raw_os_error()), Some(libc::ENOENT));
    }

    #[test]
    fn the_group_of_changes_is_found_by_its_name() {
        let group = |name: &[u8], id: u32| {
            let name = attribute(CTRL_ATTR_MCAST_GRP_NAME, name);
            attribute(1, &[name, attribute(CTRL_ATTR_MCAST_GRP_ID, &id.to_ne_bytes())].concat())
        };
        let groups = [group(b"page-pool\0", 9), group(GROUP, 8)].concat();
        let mut body = attribute(CTRL_ATTR_FAMILY_ID, &29_u16.to_ne_bytes());
        body.extend(attribute(CTRL_ATTR_MCAST_GROUPS, &groups));
        assert_eq!(as_family(&body), Some(Family { id: 29, changes: 8 }));
        assert_eq!(as_family(&body[..12]), None);
    }
}
