//! The bpf(2) system call: maps in batches, pins, links, test runs.
//!
//! Aya loads programs; everything after that is these calls on file descriptors, because aya has no
//! batch calls and hides the descriptors of its links. Every function is one call and returns the
//! kernel's error unchanged; callers say what it was for. Invariant: no pointer outlives its call.

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

const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_TEST_RUN: i32 = 10;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_UPDATE_BATCH: i32 = 26;
const MAP_DELETE_BATCH: i32 = 27;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

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

/// What the kernel says of a map: the first fields of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, Eq, Pod, PartialEq, Zeroable)]
#[repr(C)]
pub struct MapInfo {
    /// `BPF_MAP_TYPE_…`.
    pub kind: u32,
    /// Id, unique until reboot.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU's value in per-CPU maps).
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Flags of creation.
    pub flags: u32,
    /// Name, filled with zeros.
    pub name: [u8; 16],
}

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

/// One call of the kernel's map iteration in batches.
#[derive(Debug)]
pub struct BatchOut {
    /// Entries that were read.
    pub count: usize,
    /// Whether these were the last.
    pub done: bool,
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
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// An open map, with what the kernel says of it.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes that the kernel reads or writes for the value of one key.
    value_bytes: usize,
}

/// `BPF_MAP_TYPE_PERCPU_HASH`, `…_PERCPU_ARRAY` and `…_LRU_PERCPU_HASH`.
const PER_CPU_KINDS: [u32; 3] = [5, 6, 10];

impl Map {
    /// Takes an open map.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        if object_kind(&fd)? != ObjectKind::Map {
            return Err(io::Error::other("the object is not a map"));
        }
        let info: MapInfo = info(fd.as_fd())?;
        let size = usize::try_from(info.value_size).map_err(io::Error::other)?;
        let value_bytes = if PER_CPU_KINDS.contains(&info.kind) {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            size.next_multiple_of(8) * cpus
        } else {
            size
        };
        Ok(Self { fd, info, value_bytes })
    }

    /// What the kernel says of the map.
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// The values of one key: 1, or the number of possible CPUs.
    pub fn values_per_key<V>(&self) -> usize {
        self.value_bytes / size_of::<V>().max(1)
    }

    /// Panics where the kernel would read past a key.
    fn check_key<K>(&self) {
        let key_size = usize::try_from(self.info.key_size).unwrap_or(usize::MAX);
        assert_eq!(size_of::<K>(), key_size, "keys of this map");
    }

    /// Panics where the kernel would touch memory outside of the slices.
    fn check<K, V>(&self, keys: &[K], values: &[V]) {
        self.check_key::<K>();
        assert!(size_of_val(values) >= keys.len() * self.value_bytes, "room for a value a key");
    }

    /// Writes one entry.
    pub fn update<K: Pod, V: Pod>(&self, key: &K, value: &[V]) -> io::Result<()> {
        self.check(std::slice::from_ref(key), value);
        let mut attr = ElemAttr {
            map_fd: fd_number(self.fd.as_fd()),
            pad: 0,
            key: pointer(std::slice::from_ref(key)),
            value: pointer(value),
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    /// Reads one entry into `value`; false when there is none.
    pub fn lookup<K: Pod, V: Pod>(&self, key: &K, value: &mut [V]) -> io::Result<bool> {
        self.check(std::slice::from_ref(key), value);
        let mut attr = ElemAttr {
            map_fd: fd_number(self.fd.as_fd()),
            pad: 0,
            key: pointer(std::slice::from_ref(key)),
            value: pointer_mut(value),
            flags: 0,
        };
        found(bpf(MAP_LOOKUP_ELEM, &mut attr))
    }

    /// Removes one entry; false when there was none.
    pub fn delete<K: Pod>(&self, key: &K) -> io::Result<bool> {
        self.check_key::<K>();
        let mut attr = ElemAttr {
            map_fd: fd_number(self.fd.as_fd()),
            pad: 0,
            key: pointer(std::slice::from_ref(key)),
            value: 0,
            flags: 0,
        };
        found(bpf(MAP_DELETE_ELEM, &mut attr))
    }

    /// Writes entries; on error says how many of them, from the first on, the kernel took.
    pub fn update_batch<K: Pod, V: Pod>(
        &self,
        keys: &[K],
        values: &[V],
    ) -> Result<(), (usize, io::Error)> {
        self.check(keys, values);
        let mut attr = BatchAttr {
            keys: pointer(keys),
            values: pointer(values),
            count: length(keys).map_err(|error| (0, error))?,
            map_fd: fd_number(self.fd.as_fd()),
            ..Zeroable::zeroed()
        };
        let result = bpf(MAP_UPDATE_BATCH, &mut attr);
        result.map(drop).map_err(|error| (attr.applied(keys.len()), error))
    }

    /// Removes entries; on error says how many of them, from the first on, are removed.
    pub fn delete_batch<K: Pod>(&self, keys: &[K]) -> Result<(), (usize, io::Error)> {
        self.check_key::<K>();
        let mut attr = BatchAttr {
            keys: pointer(keys),
            count: length(keys).map_err(|error| (0, error))?,
            map_fd: fd_number(self.fd.as_fd()),
            ..Zeroable::zeroed()
        };
        let result = bpf(MAP_DELETE_BATCH, &mut attr);
        result.map(drop).map_err(|error| (attr.applied(keys.len()), error))
    }

    /// Reads the next entries after `cursor`, at most `keys.len()` of them, with all values of each
    /// key.
    ///
    /// `ENOSPC` means that `keys` is shorter than the kernel's largest hash bucket.
    pub fn lookup_batch<K: Pod, V: Pod>(
        &self,
        cursor: &mut Cursor,
        keys: &mut [K],
        values: &mut [V],
    ) -> io::Result<BatchOut> {
        self.check(keys, values);
        let from = cursor.token;
        let mut attr = BatchAttr {
            in_batch: if cursor.started { pointer(&from) } else { 0 },
            out_batch: pointer_mut(&mut cursor.token),
            count: length(keys)?,
            keys: pointer_mut(keys),
            values: pointer_mut(values),
            map_fd: fd_number(self.fd.as_fd()),
            ..Zeroable::zeroed()
        };
        let result = bpf(MAP_LOOKUP_BATCH, &mut attr);
        let count = usize::try_from(attr.count).map_err(io::Error::other)?;
        match result {
            Ok(_) => {
                cursor.started = true;
                Ok(BatchOut { count, done: false })
            }
            // The end: the kernel has filled in what it read last.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                *cursor = Cursor::default();
                Ok(BatchOut { count, done: true })
            }
            Err(error) => {
                cursor.token = from;
                Err(error)
            }
        }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn found(result: io::Result<libc::c_long>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl BatchAttr {
    /// How far a failed call came. The kernel writes that back; when it refused before it began, it
    /// leaves the number of the request, which no failed call can have reached.
    fn applied(&self, asked: usize) -> usize {
        let count = usize::try_from(self.count).unwrap_or(0);
        if count >= asked { 0 } else { count }
    }
}

/// Where a map iteration stands: opaque bytes of the kernel (a bucket number or an array index).
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    token: [u32; 16],
    started: bool,
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
