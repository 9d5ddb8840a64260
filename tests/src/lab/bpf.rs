//! Small BPF programs of the lab itself, written as instructions.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use super::netns::Netns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_TCX_EGRESS: u32 = 47;

/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
/// `r2 = htons(ETH_P_8021Q); r3 = 100; call bpf_skb_vlan_push; r0 = TCX_PASS; exit`.
const TAG: [u64; 5] = [
    0x0000_0081_0000_02b7,
    0x0000_0064_0000_03b7,
    0x0000_0012_0000_0085,
    0x0000_0000_0000_00b7,
    0x0000_0000_0000_0095,
];

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The fields of `union bpf_attr` for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct ProgAttach {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

/// An XDP program that passes everything, for the far ends of wires whose near ends carry XDP.
///
/// A veth hands frames that its peer's program sent back (`XDP_TX`) to the stack only when it has a
/// program itself; without one they wait in a ring for the next frame. Real NICs have no such need.
pub(crate) fn pass() -> Result<OwnedFd> {
    load(BPF_PROG_TYPE_XDP, &PASS).context("loading an XDP program that passes everything")
}

/// Whatever leaves a device gets the VLAN tag 100, which travels beside the frame as a NIC would send it.
/// Dropping this ends it.
pub struct Tagging<'a> {
    program: OwnedFd,
    netns: &'a Netns,
    ifindex: u32,
}

impl<'a> Tagging<'a> {
    /// Begins to tag what leaves `device`.
    pub fn begin(netns: &'a Netns, device: &str) -> Result<Self> {
        let program = load(BPF_PROG_TYPE_SCHED_CLS, &TAG).context("loading a program that tags")?;
        let tagging = Self { program, netns, ifindex: netns.netlink().index(device)? };
        tagging.call(BPF_PROG_ATTACH).with_context(|| format!("tagging what leaves {device}"))?;
        Ok(tagging)
    }

    fn call(&self, command: libc::c_long) -> Result<()> {
        let attr = ProgAttach {
            target_ifindex: self.ifindex,
            attach_bpf_fd: u32::try_from(self.program.as_raw_fd())?,
            attach_type: BPF_TCX_EGRESS,
            attach_flags: 0,
            replace_bpf_fd: 0,
            relative_fd: 0,
            expected_revision: 0,
        };
        self.netns.run(|| {
            // SAFETY: the structure has the layout that both commands read, of the size that is passed.
            let rc = unsafe {
                libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ProgAttach>())
            };
            if rc < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
        })
    }
}

impl Drop for Tagging<'_> {
    fn drop(&mut self) {
        // The program goes with the device at the latest.
        let _ = self.call(BPF_PROG_DETACH).ok();
    }
}

fn load(prog_type: u32, program: &[u64]) -> Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type,
        insn_cnt: u32::try_from(program.len())?,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the structure has the layout that the command reads, of the size that is passed, and
    // points at what lives until the call returns.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<ProgLoad>())
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
