//! Maps: single entries, batches, and iteration in batches.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

use super::{ObjectKind, bpf, fd_number, info, length, object_kind, pointer, pointer_mut};

const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_UPDATE_BATCH: i32 = 26;
const MAP_DELETE_BATCH: i32 = 27;

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

/// One call of the kernel's map iteration in batches.
#[derive(Debug)]
pub struct BatchOut {
    /// Entries that were read.
    pub count: usize,
    /// Whether these were the last.
    pub done: bool,
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
