//! The road and the shortcut make the same of every packet, and each undoes for the replies what it did.

use lb_common::FlowKey;
use lb_ebpf::{
    Verdict,
    host::craft::{Checksum, Craft, Transport},
    refuse::Answer,
};
use proptest::prelude::*;

use crate::{
    IN, OUT, begun,
    world::{OWN, PROTOS, ROUTER, World, addr, hop, key, sent},
};

both_families![two_legs_make_what_one_rewrite_makes];

/// A packet drawn at random: client's address bytes and port, frontend's port, backend's address bytes and
/// port, payload, hop limit, numbers.
type Drawn = ([u8; 2], [u8; 2], [u16; 3], Vec<u8>, u8, [u32; 3], u8);

/// The address of this name with two other bytes at its end.
fn near<A: Answer>(name: &str, bytes: [u8; 2]) -> A {
    let mut addr: A = addr(name);
    let all = bytemuck::bytes_of_mut(&mut addr);
    let end = all.len() - 2;
    all[end..].copy_from_slice(&bytes);
    addr
}

fn varied(
    craft: Craft,
    hop_limit: u8,
    payload: Vec<u8>,
    [seq, ack, _]: [u32; 3],
    without: bool,
) -> Craft {
    let transport = match craft.transport {
        Transport::Tcp { .. } => Transport::Tcp { flags: 0x10, seq, ack, options: vec![1; 8] },
        Transport::Sctp { .. } => Transport::Sctp { tag: seq, chunk: 3, flags: 0 },
        other @ (Transport::Udp | Transport::Icmp(..) | Transport::Ports(_)) => other,
    };
    let has_one = matches!(transport, Transport::Tcp { .. });
    let checksum = if without && !has_one { Checksum::None } else { Checksum::Complete };
    Craft { hop_limit, payload, transport, checksum, ..craft }
}

/// What the road makes of a frame that arrives from outside.
fn by_road<A: Answer>(world: &mut World<A>, craft: &Craft) -> Vec<u8> {
    let (first, between) = world.run(IN.0, IN.1, &craft.frame());
    assert_eq!(first.verdict, Verdict::Stack, "{first:?}");
    // The kernel's part, as it does it.
    let mut leaves = between;
    leaves[..6].copy_from_slice(&ROUTER.octets);
    leaves[6..12].copy_from_slice(&OWN.octets);
    if craft.src.is_ipv4() {
        leaves[22] -= 1;
        leaves[24..26].fill(0);
        let check = !lb_ebpf::host::craft::sum(&leaves[14..34]);
        leaves[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        leaves[21] -= 1;
    }
    let (second, becomes) = world.run(OUT.0, OUT.1, &leaves);
    assert_eq!(second.verdict, Verdict::Stack, "{second:?}");
    becomes
}

fn by_shortcut<A: Answer>(world: &mut World<A>, craft: &Craft) -> Vec<u8> {
    let (decision, becomes) = world.run(IN.0, IN.1, &craft.frame());
    assert_eq!(decision.verdict, Verdict::Redirect, "{decision:?}");
    becomes
}

fn two_legs_make_what_one_rewrite_makes<A: Answer>(_: &mut World<A>) {
    let test =
        |(client, backend, [sport, port, at], payload, hop_limit, numbers, without): Drawn| {
            for proto in PROTOS {
                let prepare = |stack_only| {
                    let (mut world, _) = begun::<A>(proto, |world| {
                        world.env.stack_only = stack_only;
                        let far = world.tables.backends.get_mut(&1).unwrap();
                        far.addr = near("remote-pod", backend);
                        far.port = at;
                        let addresses = [near("remote-pod", backend), near("client", client)];
                        for address in addresses {
                            let route = world.env.routes[&addr("client")];
                            let _ = world.env.routes.insert(address, route);
                        }
                    });
                    let value = *world.tables.frontends.values().next().unwrap();
                    world.put_frontend("public", port, proto, value);
                    world.env.random.set(numbers[2]);
                    world
                };
                let tuple = FlowKey {
                    src: near("client", client),
                    sport,
                    ..key("client", 1, "public", port, proto)
                };
                let (mut road, mut shortcut) = (prepare(true), prepare(false));
                let first = sent::<A>(&tuple, [ROUTER, OWN]);
                let first = Craft { hop_limit, ..first };
                assert_eq!(by_road(&mut road, &first), by_shortcut(&mut shortcut, &first));
                let to = shortcut.flow(&tuple).unwrap().translated(proto);
                assert_eq!(road.flow(&tuple).unwrap().translated(proto), to);
                let without = without == 0;
                let next = varied(first, hop_limit, payload.clone(), numbers, without);
                let back = sent::<A>(&to.reversed(), [ROUTER, OWN]);
                let back = varied(back, hop_limit, payload.clone(), numbers, without);
                for (craft, to) in [(next, to), (back, tuple.reversed())] {
                    let becomes = by_shortcut(&mut shortcut, &craft);
                    assert_eq!(by_road(&mut road, &craft), becomes, "{craft:?}");
                    assert_eq!(becomes, hop(&craft.translated(&to), [OWN, ROUTER]).frame());
                }
                road.assert_pairs();
                shortcut.assert_pairs();
            }
            Ok(())
        };
    let drawn = (
        any::<[u8; 2]>(),
        any::<[u8; 2]>(),
        // The client's port may be zero; the others are somebody's.
        (0u16.., 1u16.., 1u16..).prop_map(|(a, b, c)| [a, b, c]),
        prop::collection::vec(any::<u8>(), 0..120),
        2u8..,
        any::<[u32; 3]>(),
        0u8..4,
    );
    let mut runner = proptest::test_runner::TestRunner::default();
    runner.run(&drawn, test).unwrap();
}
