//! Uplinks that are not one NIC with the node's address.

use lb_tests::{
    cluster::Policy,
    lab::{Addresses, FAMILIES, Network, Pod, Setup, load_balancer_address},
    worker::Proto,
};

use super::{By, NODE_PORT, ask, put, start, web};

/// The node's address is on its loopback device, and eth0 has none that anybody knows: what it puts for a client's
/// address is still one by which answers come back.
#[test]
fn an_uplink_with_link_local_addresses_only_serves() {
    for by in By::ALL {
        let setup = Setup { network: Network::Unnumbered, ..Setup::default() };
        let Some(cluster) = start(setup, by) else { return };
        let lab = &cluster.lab;
        let node = lab.nodes[0].addresses;
        let (local, remote) = (&lab.nodes[0].pods[1], &lab.nodes[1].pods[0]);
        let mut wrong = String::new();
        for pod in [local, remote] {
            put(&cluster, &web(), pod);
            let places: [(&str, Addresses, u16); 3] = [
                ("node port", node, NODE_PORT),
                ("load balancer", load_balancer_address(20), 80),
                ("cluster address", web().addresses, 80),
            ];
            for (place, addresses, port) in places {
                let node = &lab.nodes[0];
                for client in [&lab.client.worker, &node.pods[0].worker, &node.unhooked] {
                    wrong += &answers(client.name(), client, addresses, port, pod, place);
                }
            }
        }
        assert!(wrong.is_empty(), "{by:?}:\n{wrong}");
    }
}

fn answers(
    who: &str,
    client: &lb_tests::worker::Worker,
    addresses: Addresses,
    port: u16,
    pod: &Pod,
    place: &str,
) -> String {
    let mut wrong = String::new();
    for family in FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            let at = addresses.at(family, port);
            let outcome = ask(client, proto, at);
            if outcome.by() != Some(pod.name()) {
                let name = pod.name();
                wrong += &format!("{who} to {place} {at} {proto}, backend {name}: {outcome}\n");
            }
        }
    }
    wrong
}

/// A second NIC is one although it has no default route in the main table and looks like a pod's link: who comes by
/// it comes from outside, and a backend on the node sees its address.
#[test]
fn a_second_nic_brings_clients_from_outside() {
    for by in By::ALL {
        let setup = Setup { network: Network::TwoNics, ..Setup::default() };
        let Some(cluster) = start(setup, by) else { return };
        let lab = &cluster.lab;
        let second = lab.nodes[0].second.unwrap();
        let (local, remote) = (&lab.nodes[0].pods[1], &lab.nodes[1].pods[0]);
        let mut wrong = String::new();
        for (pod, policy) in
            [(local, Policy::Local), (local, Policy::Cluster), (remote, Policy::Cluster)]
        {
            put(&cluster, &web().policies(Policy::Cluster, policy), pod);
            for family in FAMILIES {
                for proto in [Proto::Tcp, Proto::Udp] {
                    let at = second.at(family, NODE_PORT);
                    let outcome = ask(&lab.client.worker, proto, at);
                    // Rules put the node's address unless the policy forbids it.
                    let keeps = policy == Policy::Local || by != By::Rules;
                    let own = lab.client.addresses.ip(family);
                    let seen = pod.node != "node1" || !keeps || outcome.source() == Some(own);
                    if outcome.by() != Some(pod.name()) || !seen {
                        wrong +=
                            &format!("{proto} to {at}, {policy:?}, {}: {outcome}\n", pod.name());
                    }
                }
            }
        }
        // The policy asks where a client comes from: of those outside, none is served from elsewhere.
        put(&cluster, &web().policies(Policy::Cluster, Policy::Local), remote);
        for family in FAMILIES {
            let at = second.at(family, NODE_PORT);
            let half = std::time::Duration::from_millis(500);
            let style = lb_tests::worker::UdpStyle::Connected;
            let client = &lab.client.worker;
            let outcome = client.probe_with(Proto::Tcp, style, at, None, half).unwrap();
            if by != By::Rules && outcome != lb_tests::worker::Outcome::Timeout {
                wrong += &format!("{at}, policy Local, no backend here: {outcome}\n");
            }
        }
        assert!(wrong.is_empty(), "{by:?}:\n{wrong}");
    }
}
