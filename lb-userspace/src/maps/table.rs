//! Typed access to one pinned map: the key and value types of a name, errors that name the map.
//!
//! Invariant: a table exists only over a map whose key and value sizes are those of its types.

use std::{fmt, io, marker::PhantomData, path::Path};

use bytemuck::Pod;

use super::bpf::{self, Access, Cursor, Map};

/// Entries that one batch call moves: enough to make the call's own cost vanish, few enough that
/// the buffers stay small. More than the largest bucket that a kernel hash can have in practice.
const BATCH: usize = 8192;

/// A map operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The pin is missing or is no map. The agent makes it: run `lb run`.
    #[error("opening map {path}")]
    Open {
        /// Path of the pin.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pinned map is not what this build expects: it was made by another build. `lb cleanup`
    /// removes it.
    #[error(
        "map {path} has keys of {key} and values of {value} bytes, this build expects {expected_key} and {expected_value}: run `lb cleanup`"
    )]
    Shape {
        /// Path of the pin.
        path: String,
        /// Bytes of its keys.
        key: u32,
        /// Bytes of its values.
        value: u32,
        /// Bytes of the keys of this build.
        expected_key: usize,
        /// Bytes of the values of this build.
        expected_value: usize,
    },
    /// The map is full. Raise the flag and make the maps anew with `lb cleanup`.
    #[error(
        "{op} {name}: full at {max_entries} entries: raise {flag}, then run `lb cleanup` to make the map anew"
    )]
    Full {
        /// The operation and the key.
        op: String,
        /// Name of the map.
        name: &'static str,
        /// Capacity of the map.
        max_entries: u32,
        /// The flag of `lb run` that sets the capacity.
        flag: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other refusal.
    #[error("{op} {name}")]
    Call {
        /// The operation and the key.
        op: String,
        /// Name of the map.
        name: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A pinned map with keys `K` and values `V` (per-CPU maps: `V` of each CPU).
pub struct Table<K, V> {
    name: &'static str,
    map: Map,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("map", &self.map).finish()
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map `name` that is pinned in the directory `maps`.
    ///
    /// # Errors
    ///
    /// When there is no such pin, or it is a map of another shape.
    pub fn open(maps: &Path, name: &'static str, access: Access) -> Result<Self, TableError> {
        let path = maps.join(name);
        let shown = path.display().to_string();
        let map = bpf::obj_get(&path, access)
            .and_then(Map::new)
            .map_err(|source| TableError::Open { path: shown.clone(), source })?;
        let info = map.info();
        let sizes = (u64::from(info.key_size), u64::from(info.value_size));
        if sizes != (size_of::<K>() as u64, size_of::<V>() as u64) {
            return Err(TableError::Shape {
                path: shown,
                key: info.key_size,
                value: info.value_size,
                expected_key: size_of::<K>(),
                expected_value: size_of::<V>(),
            });
        }
        Ok(Self { name, map, types: PhantomData })
    }

    /// Name of the map.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The open map.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Capacity of the map.
    pub fn max_entries(&self) -> u32 {
        self.map.info().max_entries
    }

    /// The value at `key`, the first CPU's in per-CPU maps.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut values = vec![V::zeroed(); self.map.values_per_key::<V>()];
        let found = self.map.lookup(key, &mut values);
        found.map(|found| found.then(|| values[0])).map_err(|error| self.error("reading", error))
    }

    /// Writes one entry.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, for instance because the map is full.
    pub fn put(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.map
            .update(key, std::slice::from_ref(value))
            .map_err(|error| self.error("writing to", error))
    }

    /// Removes one entry; false when there was none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn delete(&self, key: &K) -> Result<bool, TableError> {
        self.map.delete(key).map_err(|error| self.error("removing from", error))
    }

    /// Removes one entry if its value is still as wanted; false when it is not, or not there.
    ///
    /// Whoever replaces the value between the look and the removal loses it: that window is two calls
    /// long, and not as long as it takes to read and judge a whole map.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn delete_if(&self, key: &K, still: impl FnOnce(&V) -> bool) -> Result<bool, TableError> {
        match self.get(key)? {
            Some(value) if still(&value) => self.delete(key),
            Some(_) | None => Ok(false),
        }
    }

    /// Writes entries. On error also says how many of them, from the first on, are in the map.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> Result<(), (usize, TableError)> {
        let mut done = 0;
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            // One entry is cheaper without the batch machinery.
            let result = match (keys, values) {
                ([key], [value]) => {
                    let result = self.map.update(key, std::slice::from_ref(value));
                    result.map_err(|error| (0, error))
                }
                _ => self.map.update_batch(keys, values),
            };
            if let Err((applied, error)) = result {
                return Err((done + applied, self.error("writing to", error)));
            }
            done += keys.len();
        }
        Ok(())
    }

    /// Removes entries; those that are missing count as removed. On error also says how many of
    /// them, from the first on, are gone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn delete_all(&self, keys: &[K]) -> Result<(), (usize, TableError)> {
        let mut done = 0;
        while let Some(rest) = keys.get(done..).filter(|rest| !rest.is_empty()) {
            let chunk = &rest[..rest.len().min(BATCH)];
            done += match self.map.delete_batch(chunk) {
                Ok(()) => chunk.len(),
                Err((applied, error)) if error.raw_os_error() == Some(libc::ENOENT) => applied + 1,
                Err((applied, error)) => {
                    return Err((done + applied, self.error("removing from", error)));
                }
            };
        }
        Ok(())
    }

    /// Calls `each` with every entry.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn for_each(&self, mut each: impl FnMut(&K, &V)) -> Result<(), TableError> {
        let mut scan = Scan::new();
        while !self.scan(&mut scan, &mut each)? {}
        Ok(())
    }

    /// Calls `each` with the next entries of `scan`; true when these were the last.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn scan(
        &self,
        scan: &mut Scan<K, V>,
        mut each: impl FnMut(&K, &V),
    ) -> Result<bool, TableError> {
        let per_key = self.map.values_per_key::<V>();
        let slice = self.next(scan)?;
        for (key, values) in slice.keys.iter().zip(slice.values.chunks(per_key)) {
            each(key, &values[0]);
        }
        Ok(slice.done)
    }

    /// Calls `each` with every entry and the values of all CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn for_each_cpus(&self, mut each: impl FnMut(&K, &[V])) -> Result<(), TableError> {
        let mut scan = Scan::new();
        let per_key = self.map.values_per_key::<V>();
        loop {
            let slice = self.next(&mut scan)?;
            for (key, values) in slice.keys.iter().zip(slice.values.chunks(per_key)) {
                each(key, values);
            }
            if slice.done {
                return Ok(());
            }
        }
    }

    fn next<'s>(&self, scan: &'s mut Scan<K, V>) -> Result<Slice<'s, K, V>, TableError> {
        let per_key = self.map.values_per_key::<V>();
        loop {
            scan.keys.resize(scan.size, K::zeroed());
            scan.values.resize(scan.size * per_key, V::zeroed());
            match self.map.lookup_batch(&mut scan.cursor, &mut scan.keys, &mut scan.values) {
                Ok(out) => {
                    return Ok(Slice {
                        keys: &scan.keys[..out.count],
                        values: &scan.values[..out.count * per_key],
                        done: out.done,
                    });
                }
                // A bucket holds more than we have room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && scan.size < 1 << 20 => {
                    scan.size *= 2;
                }
                Err(error) => return Err(self.error("reading", error)),
            }
        }
    }

    fn error(&self, op: &str, source: io::Error) -> TableError {
        let (op, name) = (op.to_owned(), self.name);
        match source.raw_os_error() {
            // A hash answers E2BIG when full, an array when the index is past its end; a hash
            // without preallocation may answer ENOMEM, which is no matter of its size.
            Some(libc::E2BIG | libc::ENOSPC) => TableError::Full {
                op,
                name,
                max_entries: self.max_entries(),
                flag: capacity_flag(name),
                source,
            },
            _ => TableError::Call { op, name, source },
        }
    }
}

impl TableError {
    /// The same error with the key that it concerns.
    #[must_use]
    pub fn at(mut self, key: impl fmt::Display) -> Self {
        if let Self::Full { op, .. } | Self::Call { op, .. } = &mut self {
            let (verb, preposition) = op.split_once(' ').unwrap_or((op, "at"));
            *op = format!("{verb} {key} {preposition}");
        }
        self
    }
}

/// The flag of `lb run` that sets the capacity of a map.
fn capacity_flag(name: &str) -> &'static str {
    use lb_common::names as n;
    match name {
        n::LB4_FRONTENDS | n::LB6_FRONTENDS | n::LB4_RANGES | n::LB6_RANGES => "--max-frontends",
        n::LB4_BACKENDS | n::LB6_BACKENDS | n::LB_SLOTS | n::LB_BACKEND_STAT => "--max-backends",
        n::LB_SERVICES => "--max-services",
        n::LB4_FLOWS | n::LB6_FLOWS | n::LB4_SOCKS | n::LB6_SOCKS => "--max-flows",
        _ => "nothing (its size is fixed)",
    }
}

/// An iteration over a table, which may pause between slices.
#[derive(Debug)]
pub struct Scan<K, V> {
    cursor: Cursor,
    keys: Vec<K>,
    values: Vec<V>,
    size: usize,
}

/// Entries that one call read, with all values of each key.
struct Slice<'s, K, V> {
    keys: &'s [K],
    values: &'s [V],
    done: bool,
}

impl<K, V> Scan<K, V> {
    /// Starts at the first entry, with large slices.
    pub fn new() -> Self {
        Self::with_slice(BATCH)
    }

    /// Starts at the first entry, with slices of about `size` entries.
    pub fn with_slice(size: usize) -> Self {
        Self { cursor: Cursor::default(), keys: Vec::new(), values: Vec::new(), size: size.max(64) }
    }
}

impl<K, V> Default for Scan<K, V> {
    fn default() -> Self {
        Self::new()
    }
}
