//! What is over makes way for packets past the Service, from the same port to the same backend.

use lb_common::{FrontendKind, Hook, Reason, proto};
use lb_ebpf::refuse::Answer;

use crate::{
    ACK, FIN, RST, SYN, SYN_ACK, Talk,
    world::{self, EXTERNAL, POD, POD_DEVICE, POD_OWN, World, key, sent},
};

both_families![
    a_connection_past_the_service_ends_a_finished_one_by_the_same_ports,
    a_datagram_past_the_service_ends_a_flow_that_its_client_left,
    a_datagram_to_the_node_itself_ends_such_a_flow_where_it_comes_in,
];

/// The client reaches the backend another way, by the port that it used for the Service: what is left
/// of that connection must not translate the replies of this one.
fn a_connection_past_the_service_ends_a_finished_one_by_the_same_ports<A: Answer>(
    world: &mut World<A>,
) {
    // What was said and heard before, and whether that is over.
    let cases: [(&[u8], &[u8], bool); 4] = [
        (&[SYN], &[], false),
        (&[SYN, ACK], &[SYN_ACK, FIN], false),
        (&[SYN, ACK, FIN], &[SYN_ACK, FIN], true),
        (&[SYN], &[RST], true),
    ];
    for (client, backend, over) in cases {
        // A process of the node that sends to a pod passes the pod's device only.
        for (hook, device) in [
            (Hook::PodIn, POD_DEVICE),
            (Hook::ExternalIn, EXTERNAL),
            (Hook::PodOut, POD_DEVICE),
            (Hook::ExternalOut, EXTERNAL),
        ] {
            let mut talk = Talk::new(world, proto::TCP, &["other-pod"]);
            for flags in client {
                let _ = talk.says(*flags);
            }
            for flags in backend {
                let _ = talk.hears(*flags);
            }
            let tuple = key("pod", 4000, "other-pod", 8080, proto::TCP);
            let direct = |flags| sent::<A>(&tuple, [POD, POD_OWN]).flags(flags).frame();
            // Only what opens a connection does so, and XDP leaves it to tc.
            for (hook, flags) in [(hook, ACK), (hook, SYN_ACK), (Hook::Xdp, SYN)] {
                let (decision, _) = talk.world.run(hook, device, &direct(flags));
                assert_eq!(decision.reason, Reason::NotService);
                assert_eq!(talk.world.tables.flows.borrow().len(), 2);
            }
            let (decision, _) = talk.world.run(hook, device, &direct(SYN));
            assert_eq!(decision.reason, Reason::NotService);
            let left = talk.world.tables.flows.borrow().len();
            assert_eq!(left, if over { 0 } else { 2 }, "{client:?} {backend:?} {hook:?}");
        }
    }
}

/// A datagram has no SYN: the flow is over for it once its client has sent nothing for a moment.
fn a_datagram_past_the_service_ends_a_flow_that_its_client_left<A: Answer>(world: &mut World<A>) {
    // Seconds since the client's last datagram, and whether that was long ago. Answers keep nothing.
    for (idle, over) in [(0, false), (2, false), (6, true), (100, true)] {
        for hook in [Hook::PodOut, Hook::ExternalOut, Hook::LoopbackOut] {
            let mut talk = Talk::new(world, proto::UDP, &["other-pod"]);
            let _ = talk.says(0);
            talk.wait(idle);
            let _ = talk.hears(0);
            let tuple = key("pod", 4000, "other-pod", 8080, proto::UDP);
            let left = |world: &World<A>| world.tables.flows.borrow().len();
            // Not by where it came in, where no look-up is spent on it; not by another's, and not by
            // what goes the other way.
            let elsewhere = sent::<A>(&tuple, [POD, POD_OWN]).frame();
            for hook in [Hook::PodIn, Hook::ExternalIn, Hook::Xdp] {
                assert_eq!(talk.world.run(hook, EXTERNAL, &elsewhere).0.reason, Reason::NotService);
            }
            for other in [
                lb_common::FlowKey { sport: 4001, ..tuple },
                lb_common::FlowKey { dport: 8081, ..tuple },
                key("pod", 4000, "vip", 80, proto::UDP),
            ] {
                let frame = sent::<A>(&other, [POD, POD_OWN]).frame();
                let _ = talk.world.run(hook, EXTERNAL, &frame);
            }
            assert_eq!(left(talk.world), 2);
            let (decision, bytes) = talk.world.run(hook, EXTERNAL, &elsewhere);
            assert_eq!((decision.reason, &bytes), (Reason::NotService, &elsewhere));
            assert_eq!(left(talk.world), if over { 0 } else { 2 }, "{hook:?} after {idle} s");
        }
    }
}

/// What is for an address of the node passes no device on its way out.
fn a_datagram_to_the_node_itself_ends_such_a_flow_where_it_comes_in<A: Answer>(
    world: &mut World<A>,
) {
    for hook in [Hook::PodIn, Hook::ExternalIn] {
        let mut talk = Talk::new(world, proto::UDP, &["node"]);
        let _ =
            talk.world.serve(FrontendKind::NodePort, "node", 30000, proto::UDP, &["remote-pod"]);
        let _ = talk.says(0);
        talk.wait(6);
        let tuple = key("pod", 4000, "node", 8080, proto::UDP);
        let frame = sent::<A>(&tuple, [POD, POD_OWN]).frame();
        let (decision, _) = talk.world.run(hook, POD_DEVICE, &frame);
        assert_eq!(decision.reason, Reason::NotService);
        assert!(talk.world.tables.flows.borrow().is_empty(), "{hook:?}");
    }
}
