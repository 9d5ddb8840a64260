//! Ops: one map write each, as a value that can be printed, executed, or executed again.
//!
//! Invariant: every op is idempotent and absolute (it says what shall be, not what to change), so
//! executing a prefix of a plan and then another plan is always meaningful.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use lb_common::{
    BackendSets, BackendState, Family, FrontendKey, FrontendKind, FrontendValue, Location,
    RANGE_SET_BITS, ServiceInfo,
};

use crate::model::{ProtoName, family};

/// One write to one map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Op {
    /// Names a service id. The names are boxed: they are five times as large as any other op.
    PutService(ServiceId, Box<ServiceInfo>),
    /// Forgets a service id. An id that is not there is no error.
    DeleteService(ServiceId),
    /// Writes a backend; with [`BackendState::Free`] the id stops naming anything.
    PutBackend(BackendId, Backend),
    /// Writes a range of slots that no frontend names yet.
    WriteSlots {
        /// Index of the first slot.
        base: u32,
        /// What the slots shall name, in order.
        backends: Vec<BackendId>,
    },
    /// Enters a range into a set that no frontend names yet.
    PutRange(Range),
    /// Takes a range out of a set that no frontend names any more. One that is not there is no error.
    DeleteRange(Range),
    /// Writes one word of the VIP filter.
    SetFilter {
        /// Index of the word.
        word: u32,
        /// The whole word.
        value: u64,
    },
    /// Writes a frontend or a marker.
    PutFrontend(Frontend, FrontendValue),
    /// Removes a frontend or a marker. One that is not there is no error.
    DeleteFrontend(Frontend),
}

/// The number of one Service port in one family. 0 is never used.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceId(pub u32);

/// The number of one backend of one service, index into the backend maps. 0 is never used.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendId(pub u32);

/// The number of one set of source ranges. 0 is never used.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RangeSetId(pub u32);

/// One range of one set: key of the range maps.
///
/// Sorts by set. Of a damaged map it can be any key, also one that is no range of a single set.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Range {
    /// The set.
    pub set: RangeSetId,
    /// The network address.
    pub addr: IpAddr,
    /// How many bits must agree: the [`RANGE_SET_BITS`] of the set, then those of the range.
    pub bits: u32,
}

impl Range {
    /// The range `net` of a set.
    pub fn new(set: RangeSetId, net: IpNet) -> Self {
        let bits = RANGE_SET_BITS + u32::from(net.prefix_len());
        Self { set, addr: net.network(), bits }
    }

    /// The range without its set; `None` when the key is none that we write.
    pub fn net(&self) -> Option<IpNet> {
        let len = self.bits.checked_sub(RANGE_SET_BITS)?;
        IpNet::new(self.addr, u8::try_from(len).ok()?).ok()
    }

    /// The family, hence the map.
    pub const fn family(&self) -> Family {
        family(self.addr)
    }
}

/// What a client sends to: key of the frontend maps.
///
/// Sorts by address, then port, then protocol; a marker comes before the frontends of its address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Frontend {
    /// The address.
    pub addr: IpAddr,
    /// The port; 0 in a marker.
    pub port: u16,
    /// IANA protocol number; 0 in a marker.
    pub proto: u8,
}

impl Frontend {
    /// The frontend with these coordinates.
    pub const fn new(addr: IpAddr, port: u16, proto: u8) -> Self {
        Self { addr, port, proto }
    }

    /// The marker of a VIP, see [`FrontendKey`].
    pub const fn marker(addr: IpAddr) -> Self {
        Self::new(addr, 0, 0)
    }

    /// Whether this is the marker of a VIP.
    pub const fn is_marker(&self) -> bool {
        self.port == 0 && self.proto == 0
    }

    /// The family, hence the map.
    pub const fn family(&self) -> Family {
        family(self.addr)
    }

    pub(crate) const fn family_index(&self) -> usize {
        match self.addr {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => 1,
        }
    }
}

impl<A: lb_common::Address> From<FrontendKey<A>> for Frontend {
    fn from(key: FrontendKey<A>) -> Self {
        Self::new(key.addr.ip(), key.port, key.proto)
    }
}

/// What answers: value of the backend maps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backend {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Whether it may be used.
    pub state: BackendState,
    /// The service that it belongs to.
    pub service: ServiceId,
    /// The sets that it stands in: bits of [`lb_common::BackendSets`].
    pub sets: u8,
    /// Where the endpoint is.
    pub location: Location,
}

impl Backend {
    /// The family, hence the map.
    pub const fn family(&self) -> Family {
        family(self.addr)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutService(id, info) => write!(f, "put service {id} {}", ServiceName(info)),
            Self::DeleteService(id) => write!(f, "delete service {id}"),
            Self::PutBackend(id, backend) => write!(f, "put backend {id} {backend}"),
            Self::WriteSlots { base, backends } => {
                write!(f, "write slots {} =", SlotRange { base: *base, len: backends.len() })?;
                backends.iter().try_for_each(|backend| write!(f, " {backend}"))
            }
            Self::PutRange(range) => write!(f, "put {range}"),
            Self::DeleteRange(range) => write!(f, "delete {range}"),
            Self::SetFilter { word, value } => write!(f, "set filter word {word} = {value:#018x}"),
            Self::PutFrontend(frontend, value) => {
                write!(f, "put frontend {frontend}{}", FrontendTarget(value))
            }
            Self::DeleteFrontend(frontend) => write!(f, "delete frontend {frontend}"),
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RangeSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.net() {
            Some(net) => write!(f, "range {net} of set {}", self.set),
            None => write!(f, "range {}, {} bits of set {}", self.addr, self.bits, self.set),
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_marker() {
            return write!(f, "{} (any other port)", self.addr);
        }
        endpoint(f, self.addr, self.port, self.proto)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        endpoint(f, self.addr, self.port, self.proto)?;
        write!(f, " {} (service {}", self.state.name(), self.service)?;
        if self.sets != 0 {
            write!(f, "; {}", set_names(self.sets))?;
        }
        f.write_str(match self.location {
            Location::Unknown => ")",
            Location::Here => "; on this node)",
            Location::Elsewhere => "; on another node)",
        })
    }
}

fn endpoint(f: &mut fmt::Formatter<'_>, addr: IpAddr, port: u16, proto: u8) -> fmt::Result {
    write!(f, "{}/{}", std::net::SocketAddr::new(addr, port), ProtoName(proto))
}

/// The names of the sets that a backend stands in.
pub(crate) const fn set_names(sets: u8) -> &'static str {
    match (sets & BackendSets::CLUSTER != 0, sets & BackendSets::LOCAL != 0) {
        (true, true) => "cluster,local",
        (true, false) => "cluster",
        (false, true) => "local",
        (false, false) => "none",
    }
}

/// A service that prints as `namespace/name:port-name TCP IPv4`.
pub(crate) struct ServiceName<'a>(pub(crate) &'a ServiceInfo);

impl fmt::Display for ServiceName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        write!(f, "{}/{}", info.namespace(), info.name())?;
        if !info.port_name().is_empty() {
            write!(f, ":{}", info.port_name())?;
        }
        write!(f, " {} IPv{}", ProtoName(info.proto), info.family)
    }
}

struct FrontendTarget<'a>(&'a FrontendValue);

impl fmt::Display for FrontendTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FrontendValue { service, base, len, local_len, ranges, affinity, kind, .. } = *self.0;
        match FrontendKind::from_u8(kind) {
            Some(FrontendKind::Marker) => return Ok(()),
            Some(kind) => write!(f, " {} service {service}", kind.name())?,
            None => write!(f, " kind {kind} service {service}")?,
        }
        match len {
            0 => f.write_str(", no backend")?,
            _ => write!(f, ", slots {}", SlotRange { base, len: len as usize })?,
        }
        if local_len > 0 {
            let base = base.saturating_add(len);
            write!(f, ", local slots {}", SlotRange { base, len: local_len as usize })?;
        }
        if self.0.is_local() {
            f.write_str(", policy Local")?;
        }
        if ranges != 0 {
            write!(f, ", source ranges of set {ranges}")?;
        }
        match affinity {
            0 => Ok(()),
            seconds => write!(f, ", affinity {seconds} s"),
        }
    }
}

struct SlotRange {
    base: u32,
    len: usize,
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.base, self.base as usize + self.len)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::proto;

    use super::*;

    #[test]
    fn ops_print_as_one_readable_line() {
        let vip = Frontend::new([10, 96, 0, 10].into(), 80, proto::TCP);
        let value = FrontendValue {
            service: 3,
            base: 40,
            len: 2,
            kind: FrontendKind::ClusterIp as u8,
            ..FrontendValue::default()
        };
        let info = ServiceInfo::new("default", "vote", "http", proto::TCP, Family::V4)
            .expect("names are short");
        let backend = Backend {
            addr: "fd44::5".parse().expect("an address"),
            port: 8080,
            proto: proto::UDP,
            state: BackendState::Gone,
            service: ServiceId(3),
            sets: 0,
            location: Location::Unknown,
        };
        let ops = [
            (
                Op::PutService(ServiceId(3), Box::new(info)),
                "put service 3 default/vote:http TCP IPv4",
            ),
            (
                Op::PutBackend(BackendId(7), backend),
                "put backend 7 [fd44::5]:8080/UDP gone (service 3)",
            ),
            (
                Op::WriteSlots { base: 40, backends: vec![BackendId(7), BackendId(9)] },
                "write slots 40..42 = 7 9",
            ),
            (
                Op::PutFrontend(vip, value),
                "put frontend 10.96.0.10:80/TCP ClusterIP service 3, slots 40..42",
            ),
            (
                Op::PutFrontend(Frontend::marker(vip.addr), FrontendValue::default()),
                "put frontend 10.96.0.10 (any other port)",
            ),
            (Op::DeleteFrontend(vip), "delete frontend 10.96.0.10:80/TCP"),
            (Op::SetFilter { word: 5, value: 4 }, "set filter word 5 = 0x0000000000000004"),
        ];
        for (op, text) in ops {
            assert_eq!(op.to_string(), text);
        }
    }
}
