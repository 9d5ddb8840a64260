//! Links: the bindings of programs to hooks, pinned, so that they outlive the agent.
//!
//! Invariant: a hook that has had a program keeps having one. A restart replaces the program of the
//! pinned link between one packet and the next; a link is made anew only where there is none, or
//! where its device or cgroup is gone.
//!
//! A pin is named `<device>:<place>`, which no device name can contain; dots, which bpffs refuses,
//! are escaped.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::maps::bpf::{self, Access, LinkInfo, ObjectKind, Order};

/// Where a program is to run.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// TCX hook of a device.
    Tcx {
        /// Index of the device.
        ifindex: u32,
        /// Which direction.
        direction: Direction,
    },
    /// XDP hook of a device.
    Xdp {
        /// Index of the device.
        ifindex: u32,
        /// In the driver or in the stack.
        flavour: XdpFlavour,
    },
    /// A cgroup.
    Cgroup {
        /// The open directory.
        dir: BorrowedFd<'a>,
        /// Its cgroup id, which is its inode.
        id: u64,
        /// `BPF_CGROUP_…`.
        attach_type: u32,
    },
}

/// A direction of tc.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// What the device receives.
    Ingress,
    /// What the device sends.
    Egress,
}

/// Where XDP runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum XdpFlavour {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// How a program came to its hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A link was made.
    Attached,
    /// A pinned link was there and now runs our program.
    Adopted,
}

/// A program could not be bound to a hook, or a binding could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {pin}")]
pub struct LinkError {
    /// What was tried.
    pub action: &'static str,
    /// Name of the pin: device and direction.
    pub pin: String,
    /// The kernel's answer.
    pub source: io::Error,
}

/// What a pin of the links directory is.
#[derive(Debug)]
pub enum Pinned {
    /// A link.
    Link(OwnedFd, LinkInfo),
    /// A program: the mark of a clsact filter, which is no link.
    Filter,
}

/// The pinned links of one agent.
#[derive(Debug)]
pub struct Links {
    dir: PathBuf,
    /// Where agents of other ABI versions pinned theirs; they are taken over from there.
    older: Vec<PathBuf>,
}

impl Target<'_> {
    pub(super) fn attach_type(&self) -> u32 {
        const XDP: u32 = 37;
        const TCX_INGRESS: u32 = 46;
        const TCX_EGRESS: u32 = 47;
        match self {
            Self::Tcx { direction: Direction::Ingress, .. } => TCX_INGRESS,
            Self::Tcx { direction: Direction::Egress, .. } => TCX_EGRESS,
            Self::Xdp { .. } => XDP,
            Self::Cgroup { attach_type, .. } => *attach_type,
        }
    }

    pub(super) fn create(&self, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        const XDP_GENERIC: u32 = 1 << 1;
        const XDP_NATIVE: u32 = 1 << 2;
        let attach_type = self.attach_type();
        match *self {
            // NAT happens at the outer edge of the device: first of those that see what arrives,
            // last of those that see what leaves.
            Self::Tcx { ifindex, direction: Direction::Ingress } => {
                bpf::link_create(program, ifindex, attach_type, Order::First, 0)
            }
            Self::Tcx { ifindex, direction: Direction::Egress } => {
                bpf::link_create(program, ifindex, attach_type, Order::Last, 0)
            }
            Self::Xdp { ifindex, flavour } => {
                let mode = match flavour {
                    XdpFlavour::Native => XDP_NATIVE,
                    XdpFlavour::Generic => XDP_GENERIC,
                };
                bpf::link_create(program, ifindex, attach_type, Order::None, mode)
            }
            Self::Cgroup { dir, .. } => bpf::link_create_cgroup(program, dir, attach_type),
        }
    }

    /// Whether a link is bound to this target; a link of a vanished device has interface index 0.
    pub(super) fn is_of(&self, info: &LinkInfo) -> bool {
        match *self {
            Self::Tcx { ifindex, .. } => {
                (info.kind, info.target, info.target_high)
                    == (bpf::LINK_TCX, ifindex, self.attach_type())
            }
            Self::Xdp { ifindex, .. } => (info.kind, info.target) == (bpf::LINK_XDP, ifindex),
            Self::Cgroup { id, attach_type, .. } => {
                let bound = u64::from(info.target) | u64::from(info.target_high) << 32;
                (info.kind, bound, info.attach_type) == (bpf::LINK_CGROUP, id, attach_type)
            }
        }
    }
}

impl Links {
    /// The links pinned in `dir`; those in `older` are taken over when the same hook is wanted.
    pub fn new(dir: PathBuf, older: Vec<PathBuf>) -> Self {
        Self { dir, older }
    }

    /// The directory of the pins.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes `program` run at `target`, by the pinned link `pin` if there is one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn ensure(
        &self,
        pin: &str,
        target: &Target<'_>,
        program: BorrowedFd<'_>,
    ) -> Result<Outcome, LinkError> {
        let fail = |action| move |source| LinkError { action, pin: pin.to_owned(), source };
        let path = self.dir.join(pin);
        if let Some(link) = usable(&path, target) {
            if replaced(&link, program).map_err(fail("replacing the program of"))? {
                self.unpin_elsewhere(pin, &link).map_err(fail("removing the old pin of"))?;
                return Ok(Outcome::Adopted);
            }
            unpin(&path).map_err(fail("removing the severed link"))?;
        }
        for older in &self.older {
            let old_path = older.join(pin);
            let Some(link) = usable(&old_path, target) else { continue };
            // Pinned at its new place first: whatever happens next, somebody finds it.
            bpf::obj_pin(link.as_fd(), &path).map_err(fail("taking over"))?;
            if replaced(&link, program).map_err(fail("replacing the program of"))? {
                unpin(&old_path).map_err(fail("removing the old pin of"))?;
                return Ok(Outcome::Adopted);
            }
            unpin(&path).map_err(fail("removing the severed link"))?;
        }
        // Whatever has this name now is bound to something else, or to nothing.
        remove_link(&path).map_err(fail("removing the old link"))?;
        let link = target.create(program).map_err(fail("attaching"))?;
        bpf::obj_pin(link.as_fd(), &path).map_err(fail("pinning"))?;
        Ok(Outcome::Attached)
    }

    /// Ends a takeover that was cut short: a link that is pinned here is nobody else's any more, and
    /// must not be detached with what others left.
    fn unpin_elsewhere(&self, pin: &str, link: &OwnedFd) -> io::Result<()> {
        let id = bpf::link_info(link.as_fd())?.id;
        for path in self.older.iter().map(|older| older.join(pin)) {
            if matches!(open(&path), Ok(Pinned::Link(_, info)) if info.id == id) {
                unpin(&path)?;
            }
        }
        Ok(())
    }

    /// The names of the pins.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn pins(&self) -> io::Result<Vec<String>> {
        pins_in(&self.dir)
    }

    /// Renames the pins of devices that were renamed, so that their links are found again.
    ///
    /// `name_of` tells the present name of a device by its index.
    ///
    /// # Errors
    ///
    /// When a pin cannot be read or renamed.
    pub fn follow_renames(&self, name_of: impl Fn(u32) -> Option<String>) -> io::Result<()> {
        for pin in self.pins()? {
            let path = self.dir.join(&pin);
            let Ok(Pinned::Link(_, info)) = open(&path) else { continue };
            let (Some((_, place)), bpf::LINK_TCX | bpf::LINK_XDP) =
                (pin.rsplit_once(':'), info.kind)
            else {
                continue;
            };
            if let Some(name) = name_of(info.target)
                && pin_name(&name, place) != pin
            {
                fs::rename(&path, self.dir.join(pin_name(&name, place)))?;
            }
        }
        Ok(())
    }
}

/// The name of the pin for `place` of a device.
pub fn pin_name(device: &str, place: &str) -> String {
    let device: String = device
        .chars()
        .map(|c| match c {
            '.' => "%2e".to_owned(),
            '%' => "%25".to_owned(),
            c => c.to_string(),
        })
        .collect();
    format!("{device}:{place}")
}

/// The device and the place that a pin names.
pub fn pin_parts(pin: &str) -> Option<(String, &str)> {
    let (device, place) = pin.rsplit_once(':')?;
    Some((device.replace("%2e", ".").replace("%25", "%"), place))
}

/// The names of the pins in a directory; none when there is no directory.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn pins_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut pins = Vec::new();
    for entry in entries {
        pins.extend(entry?.file_name().into_string());
    }
    pins.sort();
    Ok(pins)
}

/// Opens a pin and says what it is.
///
/// # Errors
///
/// When there is no pin, or it is neither a link nor a program.
pub fn open(path: &Path) -> io::Result<Pinned> {
    let object = bpf::obj_get(path, Access::ReadWrite)?;
    match bpf::object_kind(&object)? {
        ObjectKind::Link => {
            let info = bpf::link_info(object.as_fd())?;
            Ok(Pinned::Link(object, info))
        }
        ObjectKind::Program => Ok(Pinned::Filter),
        ObjectKind::Map => Err(io::Error::other("a map is pinned there, not a link")),
    }
}

/// Detaches the link pinned at `path`, even where somebody holds it open, and removes the pin.
/// A pin that is not there is no error.
///
/// # Errors
///
/// When the pin cannot be removed.
pub fn remove_link(path: &Path) -> io::Result<()> {
    if let Ok(Pinned::Link(link, _)) = open(path) {
        // A link whose device is gone cannot be detached again; unpinning is all that is left.
        let _severed = bpf::link_detach(link.as_fd()).is_err();
    }
    unpin(path)
}

fn usable(path: &Path, target: &Target<'_>) -> Option<OwnedFd> {
    match open(path) {
        Ok(Pinned::Link(link, info)) if target.is_of(&info) => Some(link),
        Ok(Pinned::Link(..) | Pinned::Filter) | Err(_) => None,
    }
}

/// Replaces the program of a link; false when the device or cgroup of the link is gone.
fn replaced(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<bool> {
    match bpf::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_can_be_taken_apart_again() {
        for device in ["eth0", "eth0.100", "a%2eb", "v-x_y@1"] {
            let pin = pin_name(device, "tc-in");
            assert!(!pin.contains('.'), "{pin}");
            assert_eq!(pin_parts(&pin), Some((device.to_owned(), "tc-in")));
        }
        assert_eq!(pin_parts("stray"), None);
    }
}
