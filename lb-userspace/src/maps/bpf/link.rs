//! Links: the bindings of programs to hooks.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

use super::{bpf, fd_number, info, owned_fd};

const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

/// What the kernel says of a link: the first fields of `struct bpf_link_info`.
#[derive(Clone, Copy, Debug, Default, Eq, Pod, PartialEq, Zeroable)]
#[repr(C)]
pub struct LinkInfo {
    /// `BPF_LINK_TYPE_…`.
    pub kind: u32,
    /// Id, unique until reboot.
    pub id: u32,
    /// Id of the program that runs.
    pub program: u32,
    /// Always zero.
    pub pad: u32,
    /// What follows depends on the kind: the interface index for XDP and TCX (0 when the device is
    /// gone), the low half of the cgroup id for cgroups.
    pub target: u32,
    /// High half of the cgroup id, or the attach type of TCX.
    pub target_high: u32,
    /// Attach type of cgroup links.
    pub attach_type: u32,
    /// Always zero.
    pub pad2: u32,
}

/// `BPF_LINK_TYPE_CGROUP`.
pub const LINK_CGROUP: u32 = 3;
/// `BPF_LINK_TYPE_XDP`.
pub const LINK_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX`.
pub const LINK_TCX: u32 = 11;

/// Where in the order of programs at a TCX hook a new link goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// The hook knows no order (XDP, cgroup).
    None,
}

/// Describes a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// `BPF_F_BEFORE` and `BPF_F_AFTER`; with no relative they mean the two ends of the order.
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;

/// Attaches a program to an interface index or to a cgroup's descriptor number.
pub fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    order: Order,
    flags: u32,
) -> io::Result<OwnedFd> {
    let order = match order {
        Order::First => BEFORE,
        Order::Last => AFTER,
        Order::None => 0,
    };
    let mut attr = LinkCreateAttr {
        prog_fd: fd_number(program),
        target,
        attach_type,
        flags: flags | order,
        ..Zeroable::zeroed()
    };
    bpf(LINK_CREATE, &mut attr).and_then(owned_fd)
}

/// Attaches a program to a cgroup, below the programs that others attached there.
pub fn link_create_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link_create(program, fd_number(cgroup), attach_type, Order::None, 0)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link, between one packet and the next. `ENOLINK` means that the device
/// or cgroup is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: fd_number(link),
        new_prog_fd: fd_number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link now, whoever holds it. `EOPNOTSUPP` or `ENOLINK` when there is nothing left to
/// detach from.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = fd_number(link);
    bpf(LINK_DETACH, &mut attr).map(drop)
}
