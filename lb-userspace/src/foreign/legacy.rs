//! The tables of x_tables, which iptables-legacy keeps: read and replaced by socket options.
//!
//! Invariant: only tables that exist in this network namespace are asked for; asking for another
//! would make the kernel create it. A table is replaced only as it was read: the kernel refuses when
//! its number of entries has changed meanwhile.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    Backend, Family,
    blob::{Blob, Edited},
    chains::{Removal, Table},
};

/// `IPT_SO_GET_INFO` and `IPT_SO_SET_REPLACE`, which have one number, and those after them.
const INFO_OR_REPLACE: i32 = 64;
const ENTRIES_OR_COUNTERS: i32 = 65;
const NAME: usize = 32;
/// `struct ipt_getinfo`.
const INFO: usize = 84;
/// `struct ipt_get_entries` and `struct xt_counters_info` without what follows.
const HEAD: usize = 40;
/// `struct ipt_replace` without the entries.
const REPLACE: usize = 96;
/// Taken by iptables-legacy while it changes a table.
const LOCK: &str = "/run/xtables.lock";

const fn level(family: Family) -> i32 {
    match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    }
}

/// The tables of a family that are there, with their rules.
pub(super) fn tables(family: Family) -> io::Result<Vec<Table>> {
    let list = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = match fs::read_to_string(list) {
        Ok(names) => names,
        // This kernel has no x_tables, or has not loaded it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    names
        .lines()
        .map(|name| {
            let mut chains = read(family, name)?.parse(family)?.chains();
            for chain in chains.iter_mut().filter(|chain| chain.base) {
                chain.nat = name == "nat";
            }
            Ok(Table { backend: Backend::Legacy, family, name: name.to_owned(), chains })
        })
        .collect()
}

/// Removes from a table what `plan` finds in it, all at once.
pub(super) fn remove(
    family: Family,
    name: &str,
    plan: impl Fn(&Table) -> Removal,
) -> io::Result<Removal> {
    let _lock = lock()?;
    let blob = read(family, name)?;
    let parsed = blob.parse(family)?;
    let table =
        Table { backend: Backend::Legacy, family, name: name.to_owned(), chains: parsed.chains() };
    let removal = plan(&table);
    if !removal.is_empty() {
        let edited = parsed.edit(family, &blob, &removal)?;
        replace(family, name, &edited, parsed.len())?;
    }
    Ok(removal)
}

/// Keeps iptables-legacy from changing tables meanwhile. Where the lock file cannot be made, as in a
/// container without it, the kernel's own check of the number of entries must do.
fn lock() -> io::Result<Option<Flock<File>>> {
    let Ok(file) = File::options().create(true).truncate(false).write(true).open(LOCK) else {
        return Ok(None);
    };
    Flock::lock(file, FlockArg::LockExclusive).map(Some).map_err(|(_file, error)| error.into())
}

fn read(family: Family, name: &str) -> io::Result<Blob> {
    let mut info = vec![0; INFO];
    info[..name.len()].copy_from_slice(name.as_bytes());
    ask(family, INFO_OR_REPLACE, &mut info)?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let mut blob = Blob { valid_hooks: word(NAME), ..Blob::default() };
    for hook in 0..5 {
        blob.hook_entry[hook] = word(36 + 4 * hook);
        blob.underflow[hook] = word(56 + 4 * hook);
    }
    let size = word(80);
    let mut entries = vec![0; HEAD + usize::try_from(size).unwrap_or(0)];
    entries[..name.len()].copy_from_slice(name.as_bytes());
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    ask(family, ENTRIES_OR_COUNTERS, &mut entries)?;
    blob.entries = entries.split_off(HEAD);
    Ok(blob)
}

fn replace(family: Family, name: &str, edited: &Edited, before: usize) -> io::Result<()> {
    let too_many = |_error| io::Error::other("the table is too large");
    let Edited { blob, count, counters } = edited;
    // The kernel writes the counters that the old entries had in the end here.
    let mut old = vec![0_u64; before * 2];
    let mut request = vec![0; REPLACE];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let mut put = |at: usize, word: u32| request[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    put(32, blob.valid_hooks);
    put(36, u32::try_from(*count).map_err(too_many)?);
    put(40, u32::try_from(blob.entries.len()).map_err(too_many)?);
    for hook in 0..5 {
        put(44 + 4 * hook, blob.hook_entry[hook]);
        put(64 + 4 * hook, blob.underflow[hook]);
    }
    put(84, u32::try_from(before).map_err(too_many)?);
    // The kernel uses the address during the call below and never after it.
    let address = old.as_mut_ptr().expose_provenance() as u64;
    request[88..96].copy_from_slice(&address.to_ne_bytes());
    request.extend(&blob.entries);
    tell(family, INFO_OR_REPLACE, &request)?;

    // A new table counts from zero; give each entry what it had.
    let mut request = vec![0; HEAD];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let count = u32::try_from(counters.len()).map_err(too_many)?;
    request[NAME..NAME + 4].copy_from_slice(&count.to_ne_bytes());
    request.extend(counters.concat());
    tell(family, ENTRIES_OR_COUNTERS, &request)
}

fn socket(family: Family) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    // SAFETY: no pointers; the result is checked before use.
    let fd =
        unsafe { libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ask(family: Family, option: i32, bytes: &mut [u8]) -> io::Result<()> {
    let fd = socket(family)?;
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` octets, which is what `bytes` has.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level(family),
            option,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn tell(family: Family, option: i32, bytes: &[u8]) -> io::Result<()> {
    let fd = socket(family)?;
    let length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` octets of `bytes`; the buffer of counters that a replacement
    // names lives in the caller until after this call.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level(family), option, bytes.as_ptr().cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
