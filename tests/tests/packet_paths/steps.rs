//! The paths: who sends what where, and what becomes of it.

use lb_common::{Hook, MacAddr, Reason};
use lb_tests::packet::Ground;

/// One packet of a path: its name, where it is seen, from whom to whom, and what becomes of it.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    pub(crate) macs: [MacAddr; 2],
    pub(crate) from: (&'static str, u16),
    pub(crate) to: (&'static str, u16),
    pub(crate) becomes: Becomes,
}

/// What becomes of a packet.
pub(crate) enum Becomes {
    /// Nothing.
    Untouched(Reason),
    /// These addresses, on its way.
    Stack(Reason, (&'static str, u16), (&'static str, u16)),
    /// From this address and a port of ours to that, on its way.
    Source(Reason, &'static str, (&'static str, u16)),
    /// The same out of a device to a neighbour, as a router sends it.
    Masqueraded(Reason, &'static str, (&'static str, u16), [MacAddr; 2]),
    /// The same as its sender sends it.
    Redirected(Reason, &'static str, (&'static str, u16), [MacAddr; 2]),
    /// A reset or an ICMP error back.
    Refused(Reason),
    /// Discarded.
    Dropped(Reason),
}

use Becomes::{Dropped, Masqueraded, Redirected, Refused, Source, Stack, Untouched};

const FROM_OUTSIDE: [MacAddr; 2] = [Ground::ROUTER, Ground::OWN];
const TO_OUTSIDE: [MacAddr; 2] = [Ground::OWN, Ground::ROUTER];
/// What the node itself sends: a test run takes a frame to another address for one that a bridge passes on.
const LEAVING: [MacAddr; 2] = [Ground::OWN; 2];
const FROM_POD: [MacAddr; 2] = [Ground::POD, Ground::POD_OWN];
const TO_POD: [MacAddr; 2] = [Ground::POD_OWN, Ground::POD];
const TO_OTHER_POD: [MacAddr; 2] = [Ground::OTHER_POD_OWN, Ground::OTHER_POD];
const LO: [MacAddr; 2] = [MacAddr { octets: [0; 6] }; 2];

pub(crate) fn steps() -> Vec<Step> {
    let step = |name, hook, macs, from, to, becomes| Step { name, hook, macs, from, to, becomes };
    let pod = ("pod", 4000);
    let client = ("client", 4000);
    let node = ("node", 4000);
    // Other ports, for backends that were met before.
    let [other_pod, other_client, other_node] = [("pod", 4100), ("client", 4100), ("node", 4100)];
    vec![
        step(
            "pod to ClusterIP",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("other-vip", 80),
            Stack(Reason::NewFlow, pod, ("other-pod", 8080)),
        ),
        step(
            "and its reply",
            Hook::PodOut,
            TO_POD,
            ("other-pod", 8080),
            pod,
            Stack(Reason::Reply, ("other-vip", 80), pod),
        ),
        step(
            "pod to itself",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("other-vip", 82),
            Stack(Reason::NewFlow, pod, ("pod", 8080)),
        ),
        step(
            "which hears it from the node",
            Hook::PodOut,
            TO_POD,
            pod,
            ("pod", 8080),
            Source(Reason::Forward, "node-at-pods", ("pod", 8080)),
        ),
        step(
            "outside to a remote pod",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 30006),
            Masqueraded(Reason::NewFlow, "node", ("remote-pod", 8080), TO_OUTSIDE),
        ),
        step(
            "which XDP carries on",
            Hook::Xdp,
            FROM_OUTSIDE,
            client,
            ("node", 30006),
            Masqueraded(Reason::Forward, "node", ("remote-pod", 8080), TO_OUTSIDE),
        ),
        step(
            "a flooded frame",
            Hook::ExternalIn,
            [Ground::ROUTER, Ground::POD],
            client,
            ("node", 30006),
            Untouched(Reason::OtherHost),
        ),
        step(
            "a flooded frame at XDP",
            Hook::Xdp,
            [Ground::ROUTER, Ground::POD],
            client,
            ("node", 30006),
            Untouched(Reason::OtherHost),
        ),
        step(
            "a broadcast frame of a pod",
            Hook::PodIn,
            [Ground::POD, MacAddr { octets: [0xff; 6] }],
            pod,
            ("other-vip", 80),
            Untouched(Reason::OtherHost),
        ),
        step(
            "what a bridge passes on",
            Hook::ExternalOut,
            TO_OUTSIDE,
            ("node", 4300),
            ("other-vip", 80),
            Untouched(Reason::NotService),
        ),
        step(
            "somebody outside with the node's address",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            node,
            ("node", 30006),
            Dropped(Reason::BadSource),
        ),
        step(
            "pod to a host-network backend",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("node", 30003),
            Stack(Reason::NewFlow, pod, ("node", 8080)),
        ),
        step(
            "outside to a host-network backend",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 30003),
            Stack(Reason::NewFlow, client, ("node", 8080)),
        ),
        step(
            "and its reply",
            Hook::ExternalOut,
            TO_OUTSIDE,
            ("node", 8080),
            client,
            Stack(Reason::Reply, ("node", 30003), client),
        ),
        step(
            "outside to a local pod by XDP",
            Hook::Xdp,
            FROM_OUTSIDE,
            client,
            ("other-vip", 80),
            Untouched(Reason::LeftToTc),
        ),
        step(
            "which tc does",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("other-vip", 80),
            Stack(Reason::NewFlow, client, ("other-pod", 8080)),
        ),
        step(
            "host to a local pod",
            Hook::ExternalOut,
            LEAVING,
            node,
            ("other-vip", 80),
            Redirected(Reason::NewFlow, "node-at-pods", ("other-pod", 8080), TO_OTHER_POD),
        ),
        step(
            "VIP without backends",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("vip", 81),
            Refused(Reason::NoBackend),
        ),
        step(
            "node port without backends",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 30001),
            Refused(Reason::NoBackend),
        ),
        step(
            "unknown port of a VIP",
            Hook::ExternalOut,
            LEAVING,
            node,
            ("vip", 99),
            Refused(Reason::UnknownPort),
        ),
        step(
            "the same on loopback",
            Hook::LoopbackOut,
            LO,
            node,
            ("vip", 99),
            Refused(Reason::UnknownPort),
        ),
        step(
            "XDP refuses nothing",
            Hook::Xdp,
            FROM_OUTSIDE,
            client,
            ("node", 30001),
            Untouched(Reason::LeftToTc),
        ),
        step(
            "no Service",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 22),
            Untouched(Reason::NotService),
        ),
        step(
            "outside to a load balancer's address",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            other_client,
            ("public", 82),
            Stack(Reason::NewFlow, other_client, ("other-pod", 8080)),
        ),
        step(
            "a pod outside the source ranges",
            Hook::PodIn,
            FROM_POD,
            other_pod,
            ("public", 82),
            Dropped(Reason::SourceRange),
        ),
        step(
            "the node inside them",
            Hook::ExternalOut,
            LEAVING,
            other_node,
            ("public", 82),
            Redirected(Reason::NewFlow, "node-at-pods", ("other-pod", 8080), TO_OTHER_POD),
        ),
        step(
            "outside to the local set",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            ("client", 4200),
            ("node", 30004),
            Stack(Reason::NewFlow, ("client", 4200), ("other-pod", 8080)),
        ),
        step(
            "pod past the local set, unmasqueraded",
            Hook::PodIn,
            FROM_POD,
            other_pod,
            ("node", 30004),
            Stack(Reason::NewFlow, other_pod, ("remote-pod", 8080)),
        ),
        step(
            "XDP drops nothing",
            Hook::Xdp,
            FROM_OUTSIDE,
            other_client,
            ("public", 81),
            Untouched(Reason::LeftToTc),
        ),
        step(
            "no local backend",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            other_client,
            ("public", 81),
            Dropped(Reason::NoLocalBackend),
        ),
        step(
            "no local backend for a process of the node",
            Hook::ExternalOut,
            LEAVING,
            other_node,
            ("vip", 87),
            Dropped(Reason::NoLocalBackend),
        ),
        step(
            "a slot without backend",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("other-vip", 84),
            Dropped(Reason::Inconsistent),
        ),
    ]
}
