//! Names of maps, programs and globals, each once. Map names have at most 15 bytes: the kernel's
//! field holds no more.

/// Frontends, IPv4: hash, [`crate::FrontendKey`] → [`crate::FrontendValue`].
pub const LB4_FRONTENDS: &str = "LB4_FRONTENDS";
/// Frontends, IPv6.
pub const LB6_FRONTENDS: &str = "LB6_FRONTENDS";
/// Backends, IPv4: array by backend id of [`crate::BackendValue`].
pub const LB4_BACKENDS: &str = "LB4_BACKENDS";
/// Backends, IPv6.
pub const LB6_BACKENDS: &str = "LB6_BACKENDS";
/// Slots of both families: array of backend ids (u32).
pub const LB_SLOTS: &str = "LB_SLOTS";
/// VIP filter: array of u64 words.
pub const LB_VIP_FILTER: &str = "LB_VIP_FILTER";
/// Flows, IPv4: hash, [`crate::FlowKey`] → [`crate::FlowValue`].
pub const LB4_FLOWS: &str = "LB4_FLOWS";
/// Flows, IPv6.
pub const LB6_FLOWS: &str = "LB6_FLOWS";
/// Socket translations, IPv4: LRU hash, [`crate::SockKey`] → [`crate::SockValue`].
pub const LB4_SOCKS: &str = "LB4_SOCKS";
/// Socket translations, IPv6.
pub const LB6_SOCKS: &str = "LB6_SOCKS";
/// Fragments of datagrams, IPv4: LRU hash, [`crate::FragmentKey`] → [`crate::FragmentValue`].
pub const LB4_FRAGMENTS: &str = "LB4_FRAGMENTS";
/// Session affinity, IPv4: LRU hash, [`crate::AffinityKey`] → [`crate::AffinityValue`].
pub const LB4_AFFINITY: &str = "LB4_AFFINITY";
/// Session affinity, IPv6.
pub const LB6_AFFINITY: &str = "LB6_AFFINITY";
/// Source ranges, IPv4: LPM trie, [`crate::RangeKey`] → 1 (u32).
pub const LB4_RANGES: &str = "LB4_RANGES";
/// Source ranges, IPv6.
pub const LB6_RANGES: &str = "LB6_RANGES";
/// Devices: hash, interface index (u32) → [`crate::DeviceValue`].
pub const LB_DEVICES: &str = "LB_DEVICES";
/// What XDP may do at a device: array of [`crate::XdpDevice`] by interface index modulo
/// [`crate::XDP_DEVICES`].
pub const LB_XDP_DEVICES: &str = "LB_XDP_DEVICES";
/// Services by id: hash, service id (u32) → [`crate::ServiceInfo`].
pub const LB_SERVICES: &str = "LB_SERVICES";
/// Counters by hook and reason: per-CPU array of u64.
pub const LB_REASONS: &str = "LB_REASONS";
/// Counters by backend: per-CPU array of [`crate::BackendStats`].
pub const LB_BACKEND_STAT: &str = "LB_BACKEND_STAT";
/// Layout of the maps: array of one [`crate::Schema`].
pub const LB_SCHEMA: &str = "LB_SCHEMA";
/// Values that change at run time: array of one [`crate::Runtime`].
pub const LB_RUNTIME: &str = "LB_RUNTIME";

/// Every map.
pub const MAPS: [&str; 22] = [
    LB4_FRONTENDS,
    LB6_FRONTENDS,
    LB4_BACKENDS,
    LB6_BACKENDS,
    LB_SLOTS,
    LB_VIP_FILTER,
    LB4_FLOWS,
    LB6_FLOWS,
    LB4_SOCKS,
    LB6_SOCKS,
    LB4_FRAGMENTS,
    LB4_AFFINITY,
    LB6_AFFINITY,
    LB4_RANGES,
    LB6_RANGES,
    LB_DEVICES,
    LB_XDP_DEVICES,
    LB_SERVICES,
    LB_REASONS,
    LB_BACKEND_STAT,
    LB_SCHEMA,
    LB_RUNTIME,
];

/// Global of type [`crate::Settings`].
pub const SETTINGS: &str = "SETTINGS";

/// tc ingress of workload devices.
pub const LB_POD_IN: &str = "lb_pod_in";
/// tc egress of workload devices.
pub const LB_POD_OUT: &str = "lb_pod_out";
/// tc ingress of external devices.
pub const LB_EXT_IN: &str = "lb_ext_in";
/// tc egress of external devices.
pub const LB_EXT_OUT: &str = "lb_ext_out";
/// tc ingress of workload devices without Ethernet header.
pub const LB_POD_IN_L3: &str = "lb_pod_in_l3";
/// tc egress of workload devices without Ethernet header.
pub const LB_POD_OUT_L3: &str = "lb_pod_out_l3";
/// tc ingress of external devices without Ethernet header.
pub const LB_EXT_IN_L3: &str = "lb_ext_in_l3";
/// tc egress of external devices without Ethernet header.
pub const LB_EXT_OUT_L3: &str = "lb_ext_out_l3";
/// tc egress of the loopback device.
pub const LB_LO_OUT: &str = "lb_lo_out";
/// XDP ingress of external devices.
pub const LB_XDP_IN: &str = "lb_xdp_in";
/// Reads the kernel's jiffies: a tc program that is only ever run by `BPF_PROG_TEST_RUN`; it
/// overwrites the first eight bytes of the packet with `bpf_jiffies64()` in host order.
pub const LB_JIFFIES: &str = "lb_jiffies";

/// tc programs that are attached to devices.
pub const TC_PROGRAMS: [&str; 9] = [
    LB_POD_IN,
    LB_POD_OUT,
    LB_EXT_IN,
    LB_EXT_OUT,
    LB_POD_IN_L3,
    LB_POD_OUT_L3,
    LB_EXT_IN_L3,
    LB_EXT_OUT_L3,
    LB_LO_OUT,
];

/// Those of them for devices without Ethernet header.
pub const L3_PROGRAMS: [&str; 4] = [LB_POD_IN_L3, LB_POD_OUT_L3, LB_EXT_IN_L3, LB_EXT_OUT_L3];

/// cgroup programs, each named after its attach type.
pub const CGROUP_PROGRAMS: [&str; 8] = [
    "lb_connect4",
    "lb_connect6",
    "lb_sendmsg4",
    "lb_sendmsg6",
    "lb_recvmsg4",
    "lb_recvmsg6",
    "lb_getpeer4",
    "lb_getpeer6",
];
