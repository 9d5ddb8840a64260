//! A network namespace in which next hops exist, so that the programs decide as on a node.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    unistd::Pid,
};

/// The devices of the namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Devices {
    /// Where packets arrive.
    pub inside: u32,
    /// Where the way to every backend leads.
    pub outside: u32,
    /// The other end of where packets arrive: what is sent there arrives.
    pub sender: u32,
}

/// Backends are behind one neighbour of `out0`, which is always known. Both devices have the address to which
/// the packets are, wherever a program is given them.
const LAYOUT: &str = "\
link set lo up
link add in0 address 02:00:00:00:00:10 type veth peer name in1
link add out0 address 02:00:00:00:00:10 type veth peer name out1
link set in0 up
link set in1 up
link set out0 up
link set out1 up
addr add 198.51.100.254/24 dev in0
addr add 192.0.2.1/24 dev out0
addr add fd51::fffe/64 dev in0 nodad
addr add fd02::1/64 dev out0 nodad
neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev out0 nud permanent
neigh add fd02::2 lladdr 02:00:00:00:00:02 dev out0 nud permanent
route add 10.20.0.0/16 via 192.0.2.2
route add fd20::/64 via fd02::2
";

/// Moves this process into a new namespace with two devices; it goes away with the process.
pub(super) fn enter() -> Result<Devices> {
    unshare(CloneFlags::CLONE_NEWNET).context("unsharing the network namespace")?;
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("starting ip (package iproute2)")?;
    let mut stdin = ip.stdin.take().expect("standard input is piped");
    stdin.write_all(LAYOUT.as_bytes()).context("describing the devices to ip")?;
    drop(stdin);
    if !ip.wait().context("waiting for ip")?.success() {
        bail!("ip refused to build the devices of the benchmark");
    }
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{path}"), "1")
            .with_context(|| format!("setting {path}"))?;
    }
    let of = |name: &str| if_nametoindex(name).with_context(|| format!("finding {name}"));
    Ok(Devices { inside: of("in0")?, outside: of("out0")?, sender: of("in1")? })
}

/// The CPU on which everything is measured, the last: interrupts tend to go to the first.
pub(super) fn cpu() -> Result<usize> {
    let cpus = CpuSet::count();
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("asking for the CPUs")?;
    let last = (0..cpus).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    last.context("no CPU may be used")
}

/// Binds this thread to that CPU.
pub(super) fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu()?).context("naming a CPU")?;
    sched_setaffinity(Pid::from_raw(0), &set).context("binding to a CPU")
}
