//! The bpf(2) system call: maps in batches, pins, links, test runs.
//!
//! Aya loads programs; everything after that is these calls on file descriptors, because aya has no
//! batch calls and hides the descriptors of its links. Every function is one call and returns the
//! kernel's error unchanged; callers say what it was for. Invariant: no pointer outlives its call.

mod link;
mod map;
mod order;

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};

pub use link::{
    LINK_CGROUP, LINK_TCX, LINK_XDP, LinkInfo, Order, link_create, link_create_cgroup, link_detach,
    link_info, link_update,
};
pub use map::{BatchOut, Cursor, Map, MapInfo};
pub use order::{Attached, program_name, query};

const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_TEST_RUN: i32 = 10;
const OBJ_GET_INFO_BY_FD: i32 = 15;

/// `BPF_F_RDONLY` of `BPF_OBJ_GET`.
const READ_ONLY: u32 = 1 << 3;

/// What an opened pin may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Look-ups only.
    Read,
    /// Look-ups and changes.
    ReadWrite,
}

fn bpf<T: Pod>(cmd: i32, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes at `attr`, which is an
    // exclusive reference to plain data of that size; the pointers inside it were made from live
    // slices by the functions below, which check (`Map::check`) or know that these hold what the
    // call touches.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<T>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn owned_fd(ret: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(ret).map_err(io::Error::other)?;
    // SAFETY: the call that returned `fd` just made it for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pointer<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

fn pointer_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}

fn length<T>(slice: &[T]) -> io::Result<u32> {
    u32::try_from(slice.len()).map_err(io::Error::other)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens the map, program or link that is pinned at `path`.
pub fn obj_get(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = match access {
        Access::Read => READ_ONLY,
        Access::ReadWrite => 0,
    };
    let mut attr = ObjAttr { path: pointer(path.as_bytes_with_nul()), fd: 0, flags };
    bpf(OBJ_GET, &mut attr).and_then(owned_fd)
}

/// Pins a map, program or link at `path`.
pub fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr =
        ObjAttr { path: pointer(path.as_bytes_with_nul()), fd: fd_number(object), flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

fn info<T: Pod>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = [T::zeroed()];
    let mut attr = InfoAttr {
        fd: fd_number(object),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: pointer_mut(&mut info),
    };
    let _written = bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[0])
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProgLoadAttr {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Loads a program that needs no maps and no relocation, given as encoded instructions.
pub fn prog_load(prog_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0".to_bytes_with_nul();
    let mut attr = ProgLoadAttr {
        prog_type,
        insn_count: length(instructions)?,
        insns: pointer(instructions),
        license: pointer(license),
        ..Zeroable::zeroed()
    };
    bpf(PROG_LOAD, &mut attr).and_then(owned_fd)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a program once on `packet` and returns its return value.
pub fn prog_test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attr = TestRunAttr {
        prog_fd: fd_number(program),
        data_size_in: length(packet)?,
        data_in: pointer(packet),
        repeat: 1,
        ..Zeroable::zeroed()
    };
    let _ran = bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// A sort of BPF object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectKind {
    /// A map.
    Map,
    /// A program.
    Program,
    /// A link.
    Link,
}

/// What a descriptor of a BPF object is, by the name that the kernel gives it in /proc.
pub fn object_kind(object: &impl AsFd) -> io::Result<ObjectKind> {
    let number = object.as_fd().as_raw_fd();
    let name = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
    let name = name.to_string_lossy();
    match name.strip_prefix("anon_inode:").unwrap_or(&name).trim_matches(['[', ']']) {
        "bpf-map" => Ok(ObjectKind::Map),
        "bpf-prog" => Ok(ObjectKind::Program),
        // Spelled with an underscore before Linux 6.9 or so.
        "bpf-link" | "bpf_link" => Ok(ObjectKind::Link),
        other => Err(io::Error::other(format!("{other} is no BPF object"))),
    }
}
