//! The steps from the programs that are attached to those that shall be.
//!
//! Invariant: one failing device is reported and does not keep the others from being served; a
//! device that lost its role, or vanished, keeps nothing of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    path::Path,
};

use lb_common::names;

use super::{
    clsact,
    links::{self, Direction, LinkError, Links, Outcome, Pinned, Target, XdpFlavour, pin_name},
    load::Programs,
    order::Moves,
    wanted::{Place, Wanted, cgroup_attach_type, wanted},
    xdp::{self, NoXdp, XdpTable},
};
use crate::{
    config::{TcMode, XdpMode},
    devices::Device,
    maps::bpf,
};

/// A device, or the cgroup, that could not be given its programs.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct AttachProblem {
    /// Name of the device; `cgroup` for the socket programs.
    pub device: String,
    /// What went wrong.
    #[source]
    pub error: LinkError,
}

/// What this process attached, so that a change of one device touches only that.
#[derive(Debug)]
pub struct Attachments {
    pub(super) links: Links,
    tc: TcMode,
    xdp: XdpMode,
    /// By pin name: the device's index and the program.
    pub(super) done: BTreeMap<String, (u32, &'static str)>,
    /// Those of them that the device cannot have, and does without, with the reason.
    without: BTreeMap<String, NoXdp>,
    table: XdpTable,
    /// How XDP runs on each external device, or why it does not.
    xdp_of: BTreeMap<u32, Result<XdpFlavour, NoXdp>>,
    pub(super) moves: Moves,
}

/// The pins of the socket programs are named like those of a device of this name.
pub const CGROUP: &str = "cgroup";

impl Attachments {
    /// Nothing attached by this process yet.
    pub fn new(links: Links, tc: TcMode, xdp: XdpMode, table: XdpTable) -> Self {
        let (done, without, xdp_of, moves) = Default::default();
        Self { links, tc, xdp, done, without, table, xdp_of, moves }
    }

    /// How XDP runs on each external device, by interface index, or why it does not.
    pub fn xdp(&self) -> &BTreeMap<u32, Result<XdpFlavour, NoXdp>> {
        &self.xdp_of
    }

    /// Brings the programs of all devices to what their roles ask for.
    pub fn devices(&mut self, programs: &mut Programs, devices: &[Device]) -> Vec<AttachProblem> {
        let names: BTreeMap<u32, &str> =
            devices.iter().map(|device| (device.ifindex, device.name.as_str())).collect();
        let mut problems = Vec::new();
        let renamed = self.links.follow_renames(|index| names.get(&index).map(ToString::to_string));
        if let Err(source) = renamed {
            problems.push(problem("pins", "links", "following renamed devices of", source));
        }
        self.xdp_of = xdp::choose(devices, self.xdp);
        let mut kept = BTreeSet::new();
        for device in devices {
            let flavour = self.xdp_of.get(&device.ifindex).and_then(|choice| choice.clone().ok());
            for wanted in wanted(device, flavour) {
                let pin = pin_name(&device.name, wanted.place.name());
                let _new = kept.insert(pin.clone());
                problems.extend(self.bring(programs, device, &wanted, &pin).err());
                if let Some(why) = self.without.get(&pin) {
                    let _before = self.xdp_of.insert(device.ifindex, Err(why.clone()));
                }
            }
        }
        self.prune(&kept, &mut problems);
        let receiving = self.receiving();
        if let Err(source) = self.table.sync(&xdp::entries(devices, self.xdp, &receiving)) {
            problems.push(problem("XDP", names::LB_XDP_DEVICES, "writing", source));
        }
        problems
    }

    /// Makes one program run, unless it does already.
    fn bring(
        &mut self,
        programs: &mut Programs,
        device: &Device,
        wanted: &Wanted,
        pin: &str,
    ) -> Result<(), AttachProblem> {
        let done = (device.ifindex, wanted.program);
        if self.done.get(pin) == Some(&done) {
            return Ok(());
        }
        let _before = self.without.remove(pin);
        match (self.attach(programs, device, wanted, pin), wanted.place) {
            (Ok(outcome), _) => {
                tracing::info!(
                    device = device.name,
                    hook = wanted.place.name(),
                    program = wanted.program,
                    adopted = outcome == Outcome::Adopted,
                    "program attached"
                );
            }
            (Err(error), Place::Xdp(_)) => {
                let why = xdp::refused(&error);
                tracing::info!(device = device.name, %why, "no XDP here, tc serves it");
                // Not tried again until the device is made anew.
                let _before = self.without.insert(pin.to_owned(), why);
            }
            (Err(error), Place::Tc(_)) => {
                return Err(AttachProblem { device: device.name.clone(), error });
            }
        }
        let _before = self.done.insert(pin.to_owned(), done);
        Ok(())
    }

    /// The devices that carry our XDP program.
    fn receiving(&self) -> BTreeSet<u32> {
        let xdp = |program| program == names::LB_XDP_IN;
        let done = self.done.iter().filter(|(pin, _)| !self.without.contains_key(*pin));
        done.filter(|(_, (_, program))| xdp(*program)).map(|(_, (ifindex, _))| *ifindex).collect()
    }

    fn attach(
        &mut self,
        programs: &mut Programs,
        device: &Device,
        wanted: &Wanted,
        pin: &str,
    ) -> Result<Outcome, LinkError> {
        programs.need(wanted.program).map_err(|error| LinkError {
            action: "loading the program of",
            pin: pin.to_owned(),
            source: io::Error::other(error),
        })?;
        let ifindex = device.ifindex;
        match wanted.place {
            Place::Xdp(flavour) => {
                // The two flavours exclude each other.
                let other = match flavour {
                    XdpFlavour::Native => XdpFlavour::Generic,
                    XdpFlavour::Generic => XdpFlavour::Native,
                };
                let other = pin_name(&device.name, Place::Xdp(other).name());
                links::remove_link(&self.links.dir().join(&other)).map_err(|source| LinkError {
                    action: "detaching",
                    pin: other,
                    source,
                })?;
                let target = Target::Xdp { ifindex, flavour };
                self.links.ensure(pin, &target, programs.fd(wanted.program))
            }
            Place::Tc(direction) => {
                if self.tc != TcMode::Clsact {
                    let target = Target::Tcx { ifindex, direction };
                    match self.tcx(pin, &target, programs.fd(wanted.program), device, direction) {
                        Err(error) if self.tc == TcMode::Auto && no_tcx(&error) => {
                            tracing::warn!("this kernel has no TCX: using clsact filters");
                            self.tc = TcMode::Clsact;
                        }
                        result => return result,
                    }
                }
                self.filter(programs, device, direction, wanted.program, pin)
            }
        }
    }

    /// Forgets what this process attached and is not there any more, because somebody removed its
    /// pin or detached it, so that it is attached again; returns what that is.
    pub fn forget_missing(&mut self) -> Vec<String> {
        let missing = |pin: &str, ifindex: u32| match links::open(&self.links.dir().join(pin)) {
            Ok(Pinned::Link(_, info)) => info.target != ifindex,
            // Only the mark of a filter is pinned.
            Ok(Pinned::Filter) => is_removed(pin, ifindex),
            Err(_) => true,
        };
        let lost: Vec<String> = self
            .done
            .iter()
            .filter(|(pin, (ifindex, _))| {
                !self.without.contains_key(*pin) && missing(pin, *ifindex)
            })
            .map(|(pin, _)| pin.clone())
            .collect();
        for pin in &lost {
            let _before = self.done.remove(pin);
        }
        lost
    }

    /// Which of the socket programs do not run at the cgroup `root`.
    ///
    /// # Errors
    ///
    /// When the cgroup cannot be looked at.
    pub fn missing_at(&self, root: &Path) -> io::Result<Vec<String>> {
        let id = fs::metadata(root)?.st_ino();
        let pins = names::CGROUP_PROGRAMS
            .map(|name| pin_name(CGROUP, name.strip_prefix("lb_").unwrap_or(name)));
        let there = |pin: &String| match links::open(&self.links.dir().join(pin)) {
            Ok(Pinned::Link(_, info)) => {
                u64::from(info.target) | u64::from(info.target_high) << 32 == id
            }
            Ok(Pinned::Filter) | Err(_) => false,
        };
        Ok(pins.into_iter().filter(|pin| !there(pin)).collect())
    }

    /// Attaches by TCX, after which a filter that an earlier agent left is in the way.
    fn tcx(
        &self,
        pin: &str,
        target: &Target<'_>,
        program: std::os::fd::BorrowedFd<'_>,
        device: &Device,
        direction: Direction,
    ) -> Result<Outcome, LinkError> {
        let was_filter = matches!(links::open(&self.links.dir().join(pin)), Ok(Pinned::Filter));
        let outcome = self.links.ensure(pin, target, program)?;
        if was_filter {
            let _removed = clsact::detach(&device.name, direction).map_err(|source| LinkError {
                action: "removing the filter of",
                pin: pin.to_owned(),
                source,
            })?;
        }
        Ok(outcome)
    }

    /// Attaches as a clsact filter, and pins the program as its mark in place of a link.
    fn filter(
        &self,
        programs: &mut Programs,
        device: &Device,
        direction: Direction,
        program: &'static str,
        pin: &str,
    ) -> Result<Outcome, LinkError> {
        let fail = |action| move |source| LinkError { action, pin: pin.to_owned(), source };
        let path = self.links.dir().join(pin);
        let outcome = match links::open(&path) {
            Ok(Pinned::Filter) => Outcome::Adopted,
            Ok(Pinned::Link(..)) | Err(_) => Outcome::Attached,
        };
        // Pinned before it is attached: a filter without its mark would never be removed.
        let mark = self.links.dir().join(format!("{pin}-new"));
        links::remove_link(&mark).map_err(fail("removing the half-made mark of"))?;
        bpf::obj_pin(programs.fd(program), &mark).map_err(fail("pinning the mark of"))?;
        clsact::attach(programs.classifier(program), &device.name, direction)
            .map_err(fail("attaching the filter of"))?;
        links::remove_link(&path).map_err(fail("removing the old link"))?;
        fs::rename(&mark, &path).map_err(fail("pinning the mark of"))?;
        Ok(outcome)
    }

    /// Attaches the socket programs to the cgroup directory `root`, or removes them.
    ///
    /// # Errors
    ///
    /// The first program that could not be attached or removed.
    pub fn cgroup(
        &mut self,
        programs: &Programs,
        root: Option<&Path>,
    ) -> Result<(), AttachProblem> {
        let as_problem = |error| AttachProblem { device: CGROUP.to_owned(), error };
        for name in names::CGROUP_PROGRAMS {
            let pin = pin_name(CGROUP, name.strip_prefix("lb_").unwrap_or(name));
            let fail = |action| {
                let pin = pin.clone();
                move |source| as_problem(LinkError { action, pin, source })
            };
            let Some(root) = root else {
                let path = self.links.dir().join(&pin);
                links::remove_link(&path).map_err(fail("detaching"))?;
                continue;
            };
            let dir = File::open(root).map_err(fail("opening the cgroup for"))?;
            let id = dir.metadata().map_err(fail("reading the cgroup for"))?.st_ino();
            let attach_type = cgroup_attach_type(name)
                .ok_or_else(|| fail("finding the hook of")(io::Error::other("unknown program")))?;
            let target = Target::Cgroup { dir: dir.as_fd(), id, attach_type };
            let outcome =
                self.links.ensure(&pin, &target, programs.fd(name)).map_err(as_problem)?;
            let adopted = outcome == Outcome::Adopted;
            tracing::info!(cgroup = %root.display(), program = name, adopted, "program attached");
        }
        Ok(())
    }

    /// Detaches what no device wants any more.
    fn prune(&mut self, kept: &BTreeSet<String>, problems: &mut Vec<AttachProblem>) {
        self.done.retain(|pin, _| kept.contains(pin));
        self.without.retain(|pin, _| kept.contains(pin));
        let pins = match self.links.pins() {
            Ok(pins) => pins,
            Err(source) => {
                problems.push(problem("pins", "links", "listing", source));
                return;
            }
        };
        for pin in pins {
            let of_cgroup = links::pin_parts(&pin).is_some_and(|(device, _)| device == CGROUP);
            if kept.contains(&pin) || of_cgroup {
                continue;
            }
            match detach(self.links.dir(), &pin) {
                Ok(()) => tracing::info!(pin, "program detached"),
                Err(source) => problems.push(problem(&pin, &pin, "detaching", source)),
            }
        }
    }
}

/// Removes a pin of the links directory `dir` and what it stands for.
///
/// # Errors
///
/// When the kernel refuses.
pub fn detach(dir: &Path, pin: &str) -> io::Result<()> {
    let path = dir.join(pin);
    if let (Ok(Pinned::Filter), Some((device, place))) = (links::open(&path), links::pin_parts(pin))
    {
        let direction = match place {
            "tc-in" | "tc-in-new" => Direction::Ingress,
            _ => Direction::Egress,
        };
        let _removed = clsact::detach(&device, direction)?;
    }
    links::remove_link(&path)
}

/// Whether the filter of a mark is not there. Not knowing is no reason to attach it again.
fn is_removed(mark: &str, ifindex: u32) -> bool {
    let direction = match links::pin_parts(mark) {
        Some((_, "tc-in")) => Direction::Ingress,
        _ => Direction::Egress,
    };
    match clsact::is_there(ifindex, direction) {
        Ok(there) => !there,
        Err(error) => {
            tracing::debug!(mark, %error, "filters cannot be listed");
            false
        }
    }
}

fn no_tcx(error: &LinkError) -> bool {
    matches!(error.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn problem(device: &str, pin: &str, action: &'static str, source: io::Error) -> AttachProblem {
    let error = LinkError { action, pin: pin.to_owned(), source };
    AttachProblem { device: device.to_owned(), error }
}
