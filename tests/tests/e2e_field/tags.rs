//! VLAN tags that travel beside the frame, where a program at XDP cannot see them.

use lb_tests::{
    lab::{FAMILIES, Setup, Tagging, load_balancer_address},
    worker::{Outcome, Proto, UdpStyle},
};

use super::{By, NODE_PORT, ask, flows_of_first, put, start, web};

/// Node 1 is in no VLAN: what arrives with the tag of one is for nobody here.
#[test]
fn a_frame_of_a_vlan_that_the_node_is_not_in_makes_no_flow() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let lab = &cluster.lab;
        let (client, node) = (&lab.client, &lab.nodes[0]);
        put(&cluster, &web(), &lab.nodes[1].pods[0]);
        // Nobody asks for anybody: the questions would have the tag too.
        let (mac, own) = (node.netns.netlink().mac("eth0"), client.netns.netlink().mac("eth0"));
        let (mac, own) = (mac.unwrap(), own.unwrap());
        for family in FAMILIES {
            let (to, from) = (node.addresses.ip(family), client.addresses.ip(family));
            client.netns.netlink().add_neighbour("eth0", to, mac).unwrap();
            node.netns.netlink().add_neighbour("eth0", from, own).unwrap();
        }
        for family in FAMILIES {
            let node_port = node.addresses.at(family, NODE_PORT);
            for at in [node_port, load_balancer_address(20).at(family, 80)] {
                for proto in [Proto::Tcp, Proto::Udp] {
                    let tagging = Tagging::begin(&client.netns, "eth0").unwrap();
                    let half = std::time::Duration::from_millis(500);
                    let style = UdpStyle::Connected;
                    let got = client.worker.probe_with(proto, style, at, None, half).unwrap();
                    assert_eq!(got, Outcome::Timeout, "{by:?}: {proto} to {at}");
                    let made = flows_of_first(&cluster);
                    assert_eq!(made.len(), 0, "{by:?}: {proto} to {at}: {made:?}");
                    drop(tagging);
                }
            }
        }
        // The same without the tag is served.
        for family in FAMILIES {
            let at = node.addresses.at(family, NODE_PORT);
            assert_eq!(ask(&client.worker, Proto::Udp, at).by(), Some("pod2-1"), "{by:?} {at}");
        }
    }
}
