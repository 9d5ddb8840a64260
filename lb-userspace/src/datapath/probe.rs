//! What the machine must offer: privileges, kernel, BTF, bpffs, cgroup v2.
//!
//! Every failure is one sentence that says what to do. The parsers are pure; only the two public
//! functions touch the machine, and only the mount of bpffs changes it.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};

use crate::config::SocketLb;

/// What is missing on this machine.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Not root, and without the capabilities.
    #[error("missing {0}: run lb as root, or give it these capabilities")]
    Privilege(String),
    /// The kernel is too old.
    #[error("kernel {0} is too old: lb needs Linux 6.6 or newer")]
    Kernel(String),
    /// The kernel describes no types.
    #[error("the kernel has no BTF ({BTF} is missing): use a kernel with CONFIG_DEBUG_INFO_BTF=y")]
    Btf,
    /// The pin directory is not on a BPF file system, and none could be mounted.
    #[error(
        "{dir} is not on a BPF file system{why}: mount one with `mount -t bpf bpf {mount}`, or choose another --pin-dir"
    )]
    Bpffs {
        /// The pin directory.
        dir: PathBuf,
        /// Where to mount.
        mount: PathBuf,
        /// Why it was not mounted.
        why: String,
    },
    /// No cgroup v2 hierarchy.
    #[error(
        "no cgroup v2 hierarchy is mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`, name it with --cgroup-root, or run with --socket-lb=off"
    )]
    NoCgroup2,
    /// The given directory is not in the cgroup v2 hierarchy.
    #[error("--cgroup-root {dir} {why}: name a directory of the cgroup v2 hierarchy{hint}")]
    CgroupRoot {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Where the hierarchy is.
        hint: String,
    },
    /// A file of /proc could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

const BTF: &str = "/sys/kernel/btf/vmlinux";
const BPFFS: &str = "/sys/fs/bpf";
const BPF_MAGIC: libc::c_long = 0xcafe_4a11;
const CGROUP2_MAGIC: libc::c_long = 0x6367_7270;

/// Checks what every agent needs, and mounts bpffs at its usual place when `pin_dir` is there and
/// nothing is mounted yet.
///
/// # Errors
///
/// The first thing that is missing.
pub fn machine(pin_dir: &Path) -> Result<(), ProbeError> {
    let missing = missing_capabilities(&read("/proc/self/status")?);
    if !missing.is_empty() {
        return Err(ProbeError::Privilege(missing.join(", ")));
    }
    let release = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    if kernel_version(&release).is_some_and(|version| version < (6, 6)) {
        return Err(ProbeError::Kernel(release));
    }
    if !Path::new(BTF).exists() {
        return Err(ProbeError::Btf);
    }
    bpffs(pin_dir)
}

fn bpffs(pin_dir: &Path) -> Result<(), ProbeError> {
    if on_filesystem(pin_dir, BPF_MAGIC) {
        return Ok(());
    }
    let usual = Path::new(BPFFS);
    let error = |why: String| ProbeError::Bpffs {
        dir: pin_dir.to_owned(),
        mount: if pin_dir.starts_with(usual) { usual } else { pin_dir }.to_owned(),
        why,
    };
    if !pin_dir.starts_with(usual) {
        return Err(error(String::new()));
    }
    let none: Option<&str> = None;
    mount(Some("bpf"), usual, Some("bpf"), MsFlags::empty(), none)
        .map_err(|errno| error(format!(" and mounting it failed ({})", errno.desc())))?;
    tracing::info!("mounted bpffs at {BPFFS}");
    Ok(())
}

/// Whether `path`, or its nearest ancestor that exists, lies on a file system of this kind.
fn on_filesystem(path: &Path, magic: libc::c_long) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    existing.and_then(|path| statfs(path).ok()).is_some_and(|fs| fs.filesystem_type().0 == magic)
}

/// The cgroup to attach the socket programs to; `None` when they are off.
///
/// # Errors
///
/// When there is no cgroup v2 hierarchy, or `given` is not in it.
pub fn cgroup_root(mode: SocketLb, given: Option<&Path>) -> Result<Option<PathBuf>, ProbeError> {
    if mode == SocketLb::Off {
        return Ok(None);
    }
    let found = cgroup2_mount(&read("/proc/self/mounts")?);
    let Some(dir) = given else {
        return found.map(Some).ok_or(ProbeError::NoCgroup2);
    };
    let why = if !dir.is_dir() {
        "is no directory"
    } else if !on_filesystem(dir, CGROUP2_MAGIC) {
        "is not in the cgroup v2 hierarchy"
    } else {
        return Ok(Some(dir.to_owned()));
    };
    let hint = found.map(|at| format!(", which is mounted at {}", at.display()));
    Err(ProbeError::CgroupRoot {
        dir: dir.to_owned(),
        why: why.to_owned(),
        hint: hint.unwrap_or_default(),
    })
}

/// What will not work, but is no reason not to start.
pub fn warnings() -> Vec<String> {
    let forwarding = [
        ("/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    let off = |path: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
    forwarding
        .into_iter()
        .filter(|(path, _)| off(path))
        .map(|(_, name)| {
            format!(
                "{name} is 0: traffic to backends on other nodes and in pods is not forwarded; \
                 set it with `sysctl -w {name}=1`"
            )
        })
        .collect()
}

/// The cookie by which programs know the network namespace of this process.
///
/// # Errors
///
/// When the kernel has no such cookies (older than 5.14).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `cookie`, and both
    // references live through the call.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

fn read(path: &'static str) -> Result<String, ProbeError> {
    fs::read_to_string(path).map_err(|source| ProbeError::Read { path, source })
}

/// The capabilities that the process with this /proc/…/status lacks.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective & (1 << bit) != 0;
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let wanted = [
        ("CAP_BPF", has(BPF) || has(SYS_ADMIN)),
        ("CAP_PERFMON", has(PERFMON) || has(SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(NET_ADMIN)),
    ];
    wanted.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
}

/// Major and minor version of a kernel release such as `6.6.13-cloud-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Where the cgroup v2 hierarchy is mounted, by the text of /proc/…/mounts. On hybrid systems it
/// stands beside the v1 controllers (/sys/fs/cgroup/unified).
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescaped(at)))
    })
}

/// Undoes the octal escapes of mount tables.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named_one_by_one() {
        let status = |bits: &str| format!("Name:\tlb\nCapPrm:\t0\nCapEff:\t{bits}\n");
        let missing = |bits| missing_capabilities(&status(bits));
        assert_eq!(missing("0000000000000000"), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing("000000c000001000"), [""; 0]);
        assert_eq!(missing("0000000000201000"), [""; 0], "CAP_SYS_ADMIN stands for two of them");
        assert_eq!(missing("0000008000001000"), ["CAP_PERFMON"]);
    }

    #[test]
    fn kernel_versions_are_compared_by_number() {
        assert_eq!(kernel_version("6.6.13-cloud-amd64"), Some((6, 6)));
        assert_eq!(kernel_version("6.12-rc1"), Some((6, 12)));
        assert!(kernel_version("5.15.0") < Some((6, 6)));
        assert!(kernel_version("6.10.0") > Some((6, 6)));
    }

    #[test]
    fn the_cgroup2_mount_is_found_on_hybrid_and_unified_systems() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "none /a\\040b cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(unified), Some("/a b".into()));
        assert_eq!(cgroup2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }
}
