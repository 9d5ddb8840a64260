//! Datagrams in fragments: the others go where the first one went.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{Addr4, FRAGMENT_SECONDS, FlowKey, FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Decision, Verdict,
    host::craft::{Checksum, Craft, Transport},
};
use world::{EXTERNAL, HZ, OWN, POD, POD_DEVICE, POD_OWN, ROUTER, World, addr, key, sent, stack};

/// More Fragments.
const FIRST: u16 = 0x2000;
/// An offset of 1,480 octets, and the last one.
const LAST: u16 = 185;

/// The fragments of a datagram with this tuple: the first with its ports, the last without.
fn cut(tuple: &FlowKey<Addr4>) -> [Craft; 2] {
    let whole = sent::<Addr4>(tuple, [ROUTER, OWN]);
    let first = Craft { fragment: FIRST, payload: vec![7; 64], ..whole.clone() };
    let last = Craft {
        fragment: LAST,
        transport: Transport::Ports(proto::UDP),
        payload: vec![9; 32],
        // It begins in the middle of the datagram: nothing in it is a checksum.
        checksum: Checksum::Raw(0x1234),
        ..whole
    };
    [first, last]
}

fn addresses(frame: &[u8]) -> [[u8; 4]; 2] {
    [frame[26..30].try_into().unwrap(), frame[30..34].try_into().unwrap()]
}

/// The one's complement sum of the IP header: all ones when its checksum is right.
fn header_sum(frame: &[u8]) -> u32 {
    let mut sum: u32 =
        frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn web(world: &mut World<Addr4>, backend: &str) {
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::UDP, &[backend]);
}

#[test]
fn later_fragments_go_where_the_first_one_went() {
    for backend in ["pod", "remote-pod"] {
        let mut world = World::<Addr4>::new();
        web(&mut world, backend);
        let [first, last] = cut(&key("client", 4000, "node", 30000, proto::UDP));
        let (decision, _) = world.run(Hook::ExternalIn, EXTERNAL, &first.frame());
        // By the road also to another node: the others have no ports to find the shortcut by.
        assert_eq!(decision, stack(Reason::NewFlow), "{backend}");
        let frame = last.frame();
        let (decision, bytes) = world.run(Hook::ExternalIn, EXTERNAL, &frame);
        assert_eq!(decision, stack(Reason::Following), "{backend}");
        let to = [addr::<Addr4>("client").octets, addr::<Addr4>(backend).octets];
        assert_eq!(addresses(&bytes), to);
        assert_eq!((header_sum(&bytes), &bytes[34..]), (0xffff, &frame[34..]), "{backend}");
    }
}

/// What the stack cuts on the road leaves with the source of its first fragment.
#[test]
fn fragments_of_the_road_leave_with_the_address_of_the_node() {
    let mut world = World::<Addr4>::new();
    web(&mut world, "remote-pod");
    let tuple = key("client", 4000, "node", 30000, proto::UDP);
    let [first, _] = cut(&tuple);
    let _ = world.run(Hook::ExternalIn, EXTERNAL, &first.frame());
    let [first, last] = cut(&key("client", 4000, "remote-pod", 8080, proto::UDP));
    let (decision, bytes) = world.run(Hook::ExternalOut, EXTERNAL, &first.frame());
    assert_eq!(decision, stack(Reason::Forward));
    let ends = [addr::<Addr4>("node").octets, addr::<Addr4>("remote-pod").octets];
    assert_eq!(addresses(&bytes), ends);
    let (decision, bytes) = world.run(Hook::ExternalOut, EXTERNAL, &last.frame());
    assert_eq!(decision, stack(Reason::Following));
    assert_eq!((addresses(&bytes), header_sum(&bytes)), (ends, 0xffff));
}

#[test]
fn a_fragment_that_nobody_knows_passes_untouched() {
    let mut world = World::<Addr4>::new();
    web(&mut world, "pod");
    let [first, last] = cut(&key("client", 4000, "node", 30000, proto::UDP));
    let untouched = (Decision::pass(Reason::Fragment), last.frame());
    // Before the first.
    assert_eq!(world.run(Hook::ExternalIn, EXTERNAL, &last.frame()), untouched);
    let _ = world.run(Hook::ExternalIn, EXTERNAL, &first.frame());
    // At another hook, and at XDP, which leaves them to tc.
    assert_eq!(world.run(Hook::PodIn, POD_DEVICE, &last.frame()), untouched);
    assert_eq!(world.run(Hook::Xdp, EXTERNAL, &last.frame()), untouched);
    // When receivers have given up.
    let later = world.env.now.get().wrapping_add((FRAGMENT_SECONDS + 1) * HZ);
    world.env.now.set(later);
    assert_eq!(world.run(Hook::ExternalIn, EXTERNAL, &last.frame()), untouched);
}

/// Numbers of datagrams are used again: the next of the same number may be for somebody else.
#[test]
fn a_first_fragment_that_is_not_ours_ends_what_another_began() {
    let mut world = World::<Addr4>::new();
    web(&mut world, "pod");
    let [first, last] = cut(&key("client", 4000, "node", 30000, proto::UDP));
    let _ = world.run(Hook::ExternalIn, EXTERNAL, &first.frame());
    let [other, _] = cut(&key("client", 4000, "node", 53, proto::UDP));
    let (decision, _) = world.run(Hook::ExternalIn, EXTERNAL, &other.frame());
    assert_eq!(decision.verdict, Verdict::Pass);
    let untouched = (Decision::pass(Reason::Fragment), last.frame());
    assert_eq!(world.run(Hook::ExternalIn, EXTERNAL, &last.frame()), untouched);
}

#[test]
fn replies_to_a_pod_in_fragments_come_from_the_service() {
    let mut world = World::<Addr4>::new();
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::UDP, &["remote-pod"]);
    let out = sent::<Addr4>(&key("pod", 4000, "vip", 80, proto::UDP), [POD, POD_OWN]);
    let _ = world.run(Hook::PodIn, POD_DEVICE, &out.frame());
    let [first, last] = cut(&key("remote-pod", 8080, "pod", 4000, proto::UDP));
    let ends = [addr::<Addr4>("vip").octets, addr::<Addr4>("pod").octets];
    for (fragment, reason) in [(first, Reason::Reply), (last, Reason::Following)] {
        let (decision, bytes) = world.run(Hook::PodOut, POD_DEVICE, &fragment.frame());
        assert_eq!((decision, addresses(&bytes)), (stack(reason), ends));
    }
}
