//! The lab itself, without any load balancer: what the other end-to-end tests stand on.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::time::Instant;

use lb_tests::{
    lab::{FAMILIES, Lab, Network, Node, Setup, start_or_skip},
    worker::{MonitorKind, Outcome, Proto, UdpStyle},
};

#[test]
fn every_machine_reaches_every_pod_with_its_own_address() {
    for network in Network::ALL {
        let begin = Instant::now();
        let setup = Setup { network, ..Setup::default() };
        let Some(lab) = start_or_skip(setup) else { return };
        println!("{network:?} up in {:?}", begin.elapsed());
        lab.serve(8080).unwrap();
        reach(&lab);
    }
}

fn reach(lab: &Lab) {
    let mut clients = vec![(&lab.client.worker, Ok(lab.client.addresses))];
    for node in &lab.nodes {
        clients.push((&node.host, Err(node)));
        clients.push((&node.unhooked, Err(node)));
    }
    clients.extend(lab.pods().map(|pod| (&pod.worker, Ok(pod.addresses))));
    for (client, own) in clients {
        for pod in lab.pods() {
            for family in FAMILIES {
                for proto in Proto::ALL {
                    let outcome = client.probe(proto, pod.addresses.at(family, 8080)).unwrap();
                    let what = format!("{} to {} {proto} {family}", client.name(), pod.name());
                    let network = lab.network();
                    assert_eq!(outcome.by(), Some(pod.name()), "{network:?}: {what}: {outcome}");
                    // The kernel of a node takes the address of the device that leads to the pod.
                    let to = pod.addresses.ip(family);
                    let own = own.map_or_else(
                        |node: &Node| node.address_towards(to).unwrap(),
                        |own| own.ip(family),
                    );
                    assert_eq!(outcome.source(), Some(own), "{:?}: {what}", lab.network());
                }
            }
        }
    }
}

#[test]
fn probes_tell_refusal_from_silence() {
    let Some(lab) = start_or_skip(Setup { pods: vec![1], ..Setup::default() }) else { return };
    let pod = &lab.nodes[0].pods[0];
    for family in FAMILIES {
        for proto in Proto::ALL {
            // Without a socket of SCTP the kernel does not know the protocol, let alone the port.
            let closed = if proto == Proto::Sctp { Outcome::Unreachable } else { Outcome::Refused };
            let at = pod.addresses.at(family, 8080);
            assert_eq!(lab.client.worker.probe(proto, at).unwrap(), closed);
            pod.worker.serve(proto, at).unwrap();
            assert_eq!(lab.client.worker.probe(proto, at).unwrap().by(), Some("pod1-1"));
            pod.worker.stop(proto, at).unwrap();
            assert_eq!(lab.client.worker.probe(proto, at).unwrap(), closed);
        }
    }
}

#[test]
fn monitors_count_what_is_lost_and_what_is_refused() {
    let Some(lab) = start_or_skip(Setup { pods: vec![1], ..Setup::default() }) else { return };
    lab.serve(8080).unwrap();
    let pod = &lab.nodes[0].pods[0];
    let client = &lab.client.worker;
    let every = std::time::Duration::from_millis(5);
    for family in FAMILIES {
        let at = pod.addresses.at(family, 8080);
        let stream = client.monitor(MonitorKind::Stream, at, every).unwrap();
        let ping = client.monitor(MonitorKind::Ping(UdpStyle::Connected), at, every).unwrap();
        while client.peek(ping).unwrap().answered < 20 {}
        let association = client.monitor(MonitorKind::Association, at, every).unwrap();
        while client.peek(association).unwrap().answered < 20 {}
        for running in [stream, association] {
            let seen = client.end(running).unwrap();
            assert_eq!((seen.lost, seen.retransmitted, seen.broken.len()), (0, 0, 0), "{seen:?}");
        }
        pod.worker.stop(Proto::Udp, at).unwrap();
        while client.peek(ping).unwrap().refused < 3 {}
        let seen = client.end(ping).unwrap();
        assert_eq!(seen.last(), Some("refused"), "{seen:?}");
    }
}

#[test]
fn large_transfers_and_captures_work() {
    let Some(lab) = start_or_skip(Setup { pods: vec![1], ..Setup::default() }) else { return };
    lab.serve(8080).unwrap();
    let pod = &lab.nodes[0].pods[0];
    for family in FAMILIES {
        let at = pod.addresses.at(family, 8080);
        let capture = lab.underlay.worker.capture("client").unwrap();
        let bulk = lab.client.worker.bulk(at, 2_000_000).unwrap();
        let seen = lab.underlay.worker.end_capture(capture).unwrap();
        assert_eq!((bulk.received, bulk.sent), (2_000_000, 2_000_000));
        assert!(seen.frames.iter().any(|frame| !frame.out && frame.to == at), "{seen:?}");
    }
}

#[test]
fn a_lab_that_panics_leaves_nothing_behind() {
    let Some(lab) = start_or_skip(Setup { pods: vec![1], ..Setup::default() }) else { return };
    let dir = lab.dir().to_owned();
    let netns = lab.nodes[0].pods[0].netns.path();
    let cgroup = lab.nodes[0].cgroup().to_owned();
    assert!(dir.exists() && netns.exists() && cgroup.exists());
    let panic = std::thread::spawn(move || {
        let _lab = lab;
        std::panic::resume_unwind(Box::new("as a failed assertion does"));
    });
    assert!(panic.join().is_err());
    assert!(!dir.exists() && !netns.exists() && !cgroup.exists());
}

#[test]
fn labs_with_the_same_addresses_do_not_meet() {
    let setup = Setup { pods: vec![1], ..Setup::default() };
    let Some(one) = start_or_skip(setup.clone()) else { return };
    let Some(two) = start_or_skip(setup) else { return };
    one.serve(8080).unwrap();
    let at = one.nodes[0].pods[0].addresses.at(FAMILIES[0], 8080);
    assert_eq!(one.client.worker.probe(Proto::Tcp, at).unwrap().by(), Some("pod1-1"));
    assert_eq!(two.client.worker.probe(Proto::Tcp, at).unwrap(), Outcome::Refused);
    drop(one);
    assert_eq!(two.client.worker.probe(Proto::Tcp, at).unwrap(), Outcome::Refused);
}
