//! Ways to the other node that are no plain wire: a client outside asks node 1, the backend is on node 2.

use lb_tests::{
    cluster::{Cluster, Policy},
    lab::{FAMILIES, Network, Setup, load_balancer_address},
    worker::Proto,
};

use super::{By, NODE_PORT, put, start, web};

/// Asks for the node port and for the load balancer's address by both protocols, more than once: the first packet
/// of a flow and the later ones may take different ways.
fn served_elsewhere(cluster: &Cluster, what: &str) {
    let lab = &cluster.lab;
    let pod = &lab.nodes[1].pods[0];
    put(cluster, &web(), pod);
    let mut wrong = String::new();
    for family in FAMILIES {
        let node_port = lab.nodes[0].addresses.at(family, NODE_PORT);
        let towards = lab.nodes[0].address_towards(pod.addresses.ip(family)).unwrap();
        for at in [node_port, load_balancer_address(20).at(family, 80)] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let share = lab.client.worker.many(proto, at, 10).unwrap();
                let right = share.by.get(pod.name()) == Some(&10)
                    && share.sources.get(&towards) == Some(&10);
                if !right {
                    wrong += &format!("{proto} to {at}, by way of {towards}: {share:?}\n");
                }
            }
            match lab.client.worker.bulk(at, 300_000) {
                Ok(bulk) if (bulk.received, bulk.sent) == (300_000, 300_000) => {}
                other => wrong += &format!("300 kB each way with {at}: {other:?}\n"),
            }
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{wrong}");
}

fn over(network: Network) {
    for by in By::ALL {
        if by == By::Xdp && !network.has_ethernet() {
            continue;
        }
        let Some(cluster) = start(Setup { network, ..Setup::default() }, by) else { return };
        served_elsewhere(&cluster, &format!("{network:?} {by:?}"));
    }
}

#[test]
fn a_vxlan_device_leads_to_the_backend() {
    over(Network::Vxlan);
}

#[test]
fn remote_pods_are_behind_a_bridge_of_which_a_vxlan_device_is_a_port() {
    over(Network::Flat);
}

#[test]
fn a_bridge_with_the_uplink_as_a_port_leads_to_the_backend() {
    over(Network::UplinkBridge);
}

#[test]
fn a_device_without_ethernet_header_leads_to_the_backend() {
    over(Network::Tun);
}

#[test]
fn the_backends_own_link_has_no_ethernet_header() {
    over(Network::TunPods);
}

#[test]
fn a_device_without_ethernet_header_is_the_only_way_to_anybody() {
    over(Network::TunUplink);
}

/// A macvlan device over the uplink, whose frames no XDP program can redirect to it.
#[test]
fn a_macvlan_device_leads_to_the_backend() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
        one.netns.ip("link add mv0 link eth0 type macvlan mode bridge").unwrap();
        one.netns.netlink().up("mv0").unwrap();
        for (node, device, number) in [(one, "mv0", 1), (two, "eth0", 2)] {
            node.netns.ip(&format!("address add 10.2.0.{number}/24 dev {device}")).unwrap();
            node.netns.ip(&format!("address add fd02::{number}/64 dev {device} nodad")).unwrap();
        }
        let vias = [[10, 2, 0, 2].into(), [0xfd02, 0, 0, 0, 0, 0, 0, 2].into()];
        for (to, via) in two.pod_networks().into_iter().zip(vias) {
            one.netns.netlink().add_route(to, Some(via), "mv0").unwrap();
        }
        served_elsewhere(&cluster, &format!("macvlan {by:?}"));
    }
}

/// Pods that share the uplink's bridge with the node: their answers to a client of the same network never pass
/// the node's stack, and are still the Service's. With `externalTrafficPolicy: Local` they see the client.
#[test]
fn pods_on_the_bridge_of_the_uplink_see_the_client() {
    for by in By::ALL {
        let setup = Setup { network: Network::UplinkBridge, ..Setup::default() };
        let Some(cluster) = start(setup, by) else { return };
        let lab = &cluster.lab;
        let pod = &lab.nodes[0].pods[0];
        for policy in [Policy::Local, Policy::Cluster] {
            // Rules put the node's address for the client's, so that answers come back at all.
            if by == By::Rules {
                continue;
            }
            put(&cluster, &web().policies(Policy::Cluster, policy), pod);
            for family in FAMILIES {
                let node_port = lab.nodes[0].addresses.at(family, NODE_PORT);
                for at in [node_port, load_balancer_address(20).at(family, 80)] {
                    for proto in [Proto::Tcp, Proto::Udp] {
                        let what = format!("{by:?}, {policy:?}, {proto} to {at}");
                        let share = lab.client.worker.many(proto, at, 10).unwrap();
                        assert_eq!(share.by.get(pod.name()), Some(&10), "{what}: {share:?}");
                        let own = lab.client.addresses.ip(family);
                        assert_eq!(share.sources.get(&own), Some(&10), "{what}: {share:?}");
                    }
                }
            }
        }
    }
}
