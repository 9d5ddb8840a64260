//! tc filters on the clsact qdisc, for kernels without TCX.
//!
//! A filter cannot be pinned; it lives as long as its device. What is pinned in its place is the
//! program, as the mark that the filter is ours. Filters have a priority and a handle of our own,
//! so that nobody else's is ever replaced or removed. The qdisc itself stays when we leave: others
//! may have filters on it.

use std::{io, mem};

use aya::programs::{
    Link as _, ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::links::Direction;
use crate::devices::raw;

/// Early among those that see what arrives, late among those that see what leaves.
const INGRESS_PRIORITY: u16 = 3;
const EGRESS_PRIORITY: u16 = 0x6c62;
/// "lb" in ASCII.
const HANDLE: TcHandle = TcHandle::new(0, 0x6c62);

fn place(direction: Direction) -> (TcAttachType, u16) {
    match direction {
        Direction::Ingress => (TcAttachType::Ingress, INGRESS_PRIORITY),
        Direction::Egress => (TcAttachType::Egress, EGRESS_PRIORITY),
    }
}

/// Makes `program` run as our filter on `device`, in place of the one that is there, if any.
///
/// # Errors
///
/// When the kernel refuses.
pub fn attach(program: &mut SchedClassifier, device: &str, direction: Direction) -> io::Result<()> {
    let (attach_type, priority) = place(direction);
    match tc::qdisc_add_clsact(device) {
        Err(error) if errno(&error) != Some(libc::EEXIST) => return Err(into_io(error)),
        Ok(()) | Err(_) => {}
    }
    let ours = SchedClassifierLink::attached(device, attach_type, priority, HANDLE, None)?;
    let id = match program.attach_to_link(ours) {
        Ok(id) => id,
        // There is none to replace.
        Err(_) => {
            let options = NlOptions { priority, handle: HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(device, attach_type, options).map_err(io::Error::other)?
        }
    };
    // The filter stays until it is replaced or removed by name; dropping the link would detach it.
    mem::forget(program.take_link(id).map_err(io::Error::other)?);
    Ok(())
}

/// Removes our filter from `device`; false when there was none, or the device is gone.
///
/// # Errors
///
/// When the kernel refuses.
pub fn detach(device: &str, direction: Direction) -> io::Result<bool> {
    let (attach_type, priority) = place(direction);
    let Ok(ours) = SchedClassifierLink::attached(device, attach_type, priority, HANDLE, None)
    else {
        return Ok(false);
    };
    match ours.detach() {
        Ok(()) => Ok(true),
        Err(ProgramError::NetlinkError(error))
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
        {
            Ok(false)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Whether our filter is on the device with this index.
///
/// # Errors
///
/// When the kernel does not list the filters.
pub fn is_there(ifindex: u32, direction: Direction) -> io::Result<bool> {
    const NEW_FILTER: u16 = 44;
    const GET_FILTER: u16 = 46;
    /// The two sides of clsact, as parents of filters.
    const PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
    let (_, priority) = place(direction);
    let parent = match direction {
        Direction::Ingress => PARENTS[0],
        Direction::Egress => PARENTS[1],
    };
    // `struct tcmsg`: family and padding, device, handle, parent, and priority with protocol.
    let request = [0, ifindex, 0, parent, 0].map(u32::to_ne_bytes).concat();
    let filters = raw::dump(NETLINK_ROUTE, GET_FILTER, &request)?;
    Ok(filters.iter().filter(|message| message.kind == NEW_FILTER).any(|filter| {
        let word = |at: usize| {
            filter.body.get(at * 4..).and_then(<[u8]>::first_chunk).map(|b| u32::from_ne_bytes(*b))
        };
        word(2) == Some(u32::from(HANDLE)) && word(4).map(|w| w >> 16) == Some(priority.into())
    }))
}

fn errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        TcError::NulError(_)
        | TcError::AlreadyAttached
        | TcError::InvalidTcxAttach(_)
        | TcError::InvalidLinkOperation => None,
    }
}

fn into_io(error: TcError) -> io::Error {
    errno(&error).map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}
