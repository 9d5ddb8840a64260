//! Who is attached to a TCX hook, in which order.

use std::{io, os::fd::AsFd as _};

use bytemuck::{Pod, Zeroable};

use super::{bpf, info, owned_fd, pointer_mut};

const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
/// The kernel takes no more at one hook.
const MOST: u32 = 64;

/// A program at a hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attached {
    /// Id of the program.
    pub program: u32,
    /// Id of its link; 0 where it was attached without one.
    pub link: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The programs at a TCX hook of an interface, in the order in which they see packets.
pub fn query(ifindex: u32, attach_type: u32) -> io::Result<Vec<Attached>> {
    let (mut programs, mut links) = ([0_u32; MOST as usize], [0_u32; MOST as usize]);
    let mut attr = QueryAttr {
        target: ifindex,
        attach_type,
        programs: pointer_mut(&mut programs),
        links: pointer_mut(&mut links),
        count: MOST,
        ..Zeroable::zeroed()
    };
    let _done = bpf(PROG_QUERY, &mut attr)?;
    let there = programs.into_iter().zip(links).take(usize::try_from(attr.count).unwrap_or(0));
    Ok(there.map(|(program, link)| Attached { program, link }).collect())
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    flags: u32,
}

/// `struct bpf_prog_info`, as far as the name.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProgramInfo {
    before: [u64; 8],
    name: [u8; 16],
}

/// The name of a program. `EPERM` for who has no CAP_SYS_ADMIN: an id is not a right to what it
/// names.
pub fn program_name(id: u32) -> io::Result<String> {
    let mut attr = IdAttr { id, ..Zeroable::zeroed() };
    let program = bpf(PROG_GET_FD_BY_ID, &mut attr).and_then(owned_fd)?;
    let ProgramInfo { name, .. } = info(program.as_fd())?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}
