//! Errors that are none of ours, or not to be trusted.

use lb_common::{FlowKey, Reason};
use lb_ebpf::{Decision, host::craft::Checksum, refuse::Answer};

use crate::{
    Error, IN, OUT, POD_IN, POD_OUT, elsewhere, frame, kinds, router, turns,
    world::{EXTERNAL, PROTOS, World},
};

both_families![
    errors_about_other_packets_pass,
    a_quote_that_ends_before_the_ports_passes,
    only_errors_quote_packets,
    xdp_leaves_errors_to_tc,
];

const PASSES: Decision = Decision::pass(Reason::Icmp);

fn errors_about_other_packets_pass<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [tuple, between, to]) = elsewhere::<A>(proto, true);
        let error = Error { from: router(), to: to.src, about: to };
        let all = [
            // Another port, another protocol, what goes the other way.
            Error { about: FlowKey { sport: to.sport ^ 1, ..to }, ..error },
            Error { about: FlowKey { proto: if proto == 6 { 17 } else { 6 }, ..to }, ..error },
            Error { about: FlowKey { proto: 47, ..to }, ..error },
            Error { about: to.reversed(), ..error },
            // Whoever gets this did not send that.
            Error { to: tuple.src, ..error },
            Error { to: router(), ..error },
        ];
        for error in &all {
            turns(&mut world, IN, error, PASSES, error);
        }
        for at in [OUT, POD_IN, POD_OUT] {
            turns(&mut world, at, &error, PASSES, &error);
        }
        let on_road = Error { from: router(), to: tuple.src, about: between };
        for at in [IN, POD_IN, POD_OUT] {
            turns(&mut world, at, &on_road, PASSES, &on_road);
        }
    }
}

fn a_quote_that_ends_before_the_ports_passes<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [_, _, to]) = elsewhere::<A>(proto, true);
        let error = Error { from: router(), to: to.src, about: to };
        let whole = frame(&error, &to, kinds::<A>()[0], 8, Checksum::Complete);
        for length in 14..whole.len() - 4 {
            let (decision, bytes) = world.run(IN.0, IN.1, &whole[..length]);
            assert_eq!(decision.verdict, lb_ebpf::Verdict::Pass, "cut to {length}");
            assert_eq!(bytes, &whole[..length]);
        }
        // A fragment that is no first one has no ports; of IPv6 it says so by a header.
        let ip = if A::FAMILY == lb_common::Family::V4 { 20 } else { 40 };
        let mut fragment = whole;
        let at = 14 + ip + 8 + 6;
        fragment[at] = if ip == 20 { 0x20 } else { 44 };
        fragment[at + 1] = 5;
        let (decision, bytes) = world.run(IN.0, IN.1, &fragment);
        assert_eq!((decision, bytes), (PASSES, fragment));
    }
}

/// A redirect quotes one too, but is for the first hop alone.
fn only_errors_quote_packets<A: Answer>(_: &mut World<A>) {
    let errors = if A::FAMILY == lb_common::Family::V4 { &[3, 11, 12][..] } else { &[1, 2, 3, 4] };
    let (mut world, [_, _, to]) = elsewhere::<A>(PROTOS[0], true);
    for kind in 0..=255 {
        let error = Error { from: router(), to: to.src, about: to };
        let arrives = frame(&error, &to, ([kind, 0], 0), 28, Checksum::Complete);
        let (decision, bytes) = world.run(IN.0, IN.1, &arrives);
        let turned = decision.reason == Reason::Error;
        assert_eq!(turned, errors.contains(&kind), "type {kind}: {decision:?}");
        assert_eq!(bytes == arrives, !turned);
    }
}

fn xdp_leaves_errors_to_tc<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [_, _, to]) = elsewhere::<A>(proto, true);
        let error = Error { from: router(), to: to.src, about: to };
        turns(&mut world, (lb_common::Hook::Xdp, EXTERNAL), &error, PASSES, &error);
    }
}
