//! Others attach after us, nearer to the wire.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::DeviceRole;
use lb_userspace::{
    config::TcMode,
    datapath::{
        Datapath,
        links::{self, Pinned},
        options::Options,
        paths::PinPaths,
    },
    maps::bpf::{self, Attached, Order},
};

use super::{
    attach_all, ids,
    node::{Node, device, ip, on_node, veth},
    program_ids,
};

const INGRESS: u32 = 46;
const EGRESS: u32 = 47;

/// A program of somebody else, which lets every packet go on.
fn other() -> OwnedFd {
    const SCHED_CLS: u32 = 3;
    // r0 = TCX_NEXT; exit.
    bpf::prog_load(SCHED_CLS, &[0xffff_ffff_0000_00b7, 0x95]).expect("it is harmless")
}

fn ours(node: &Node, pin: &str) -> u32 {
    match links::open(&PinPaths::new(node.pin_dir()).links().join(pin)) {
        Ok(Pinned::Link(_, info)) => info.id,
        other => panic!("{pin}: {other:?}"),
    }
}

fn order(ifindex: u32, attach_type: u32) -> Vec<u32> {
    let attached = bpf::query(ifindex, attach_type).expect("the order can be read");
    attached.iter().map(|Attached { link, .. }| *link).collect()
}

#[test]
fn whoever_came_to_be_outside_is_overtaken_without_a_gap() {
    on_node("overtaken", |node| {
        let devices = [veth("pod1", DeviceRole::Workload)];
        let ifindex = devices[0].ifindex;
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &devices);
        let (pins, programs) = (ids(node).0, program_ids(node));
        assert!(datapath.keep_outermost(Instant::now()).is_empty());
        assert_eq!(ids(node).0, pins, "nobody is outside: nothing is moved");

        let program = other();
        let attach = |attach_type, order| {
            bpf::link_create(program.as_fd(), ifindex, attach_type, order, 0).expect("attached")
        };
        let (first, last) = (attach(INGRESS, Order::First), attach(EGRESS, Order::Last));
        let id = |link: &OwnedFd| bpf::link_info(link.as_fd()).expect("a link").id;
        let (first, last) = ((id(&first), first), (id(&last), last));
        assert_eq!(order(ifindex, INGRESS), [first.0, pins["pod1:tc-in"]]);
        assert_eq!(order(ifindex, EGRESS), [pins["pod1:tc-out"], last.0]);

        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watcher = thread::spawn(move || {
            let mut looks = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                for attach_type in [INGRESS, EGRESS] {
                    assert!(order(ifindex, attach_type).len() >= 2, "a gap after {looks} looks");
                    looks += 1;
                }
            }
            looks
        });
        let start = Instant::now();
        assert!(datapath.keep_outermost(start).is_empty());
        println!("two moves took {:?}", start.elapsed());
        stop.store(true, Ordering::Relaxed);
        assert!(watcher.join().expect("no gap") > 2);

        assert_eq!(order(ifindex, INGRESS), [ours(node, "pod1:tc-in"), first.0]);
        assert_eq!(order(ifindex, EGRESS), [last.0, ours(node, "pod1:tc-out")]);
        let after = ids(node).0;
        assert!(after.keys().eq(pins.keys()), "{after:?}");
        assert_eq!(program_ids(node), programs, "the first instance runs again");
        assert!(datapath.heal().expect("nothing is to be done").is_empty());

        // The next agent finds it as it is.
        drop(datapath);
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &devices);
        assert_eq!(ids(node).0, after);
        assert!(datapath.keep_outermost(Instant::now()).is_empty());
        assert_eq!(ids(node).0, after);
    });
}

#[test]
fn who_comes_back_each_time_is_named_and_left_alone_for_an_hour() {
    on_node("contest", |node| {
        let devices = [device("lo", DeviceRole::Loopback), veth("pod1", DeviceRole::Workload)];
        let ifindex = devices[1].ifindex;
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &devices);
        let program = other();
        let again = || {
            bpf::link_create(program.as_fd(), ifindex, INGRESS, Order::First, 0).expect("attached")
        };
        let detach = |link: OwnedFd| bpf::link_detach(link.as_fd()).expect("detached");
        let now = Instant::now();
        for turn in 0..5 {
            let link = again();
            assert!(datapath.keep_outermost(now).is_empty(), "{turn}");
            assert_eq!(order(ifindex, INGRESS)[0], ours(node, "pod1:tc-in"), "{turn}");
            detach(link);
        }
        let link = again();
        let outside = datapath.keep_outermost(now);
        let told: Vec<_> = outside.iter().map(|o| (o.device.as_str(), o.hook)).collect();
        assert_eq!(told, [("pod1", "tc-in")]);
        let id = bpf::link_info(link.as_fd()).expect("a link").program;
        assert!(outside[0].to_string().starts_with(&format!("program {id} ")), "{}", outside[0]);
        assert_ne!(order(ifindex, INGRESS)[0], ours(node, "pod1:tc-in"));
        assert!(datapath.keep_outermost(now + Duration::from_secs(3601)).is_empty());
        assert_eq!(order(ifindex, INGRESS)[0], ours(node, "pod1:tc-in"));
    });
}

/// A second link under its passing name is all that a sudden end can leave behind.
#[test]
fn a_move_that_was_cut_short_is_undone_by_the_next_agent() {
    on_node("cut short", |node| {
        let devices = [veth("pod1", DeviceRole::Workload)];
        let ifindex = devices[0].ifindex;
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &devices);
        let before = ids(node).0;
        drop(datapath);
        let program = other();
        let beside =
            bpf::link_create(program.as_fd(), ifindex, INGRESS, Order::First, 0).expect("attached");
        let pin = PinPaths::new(node.pin_dir()).links().join("pod1:tc-in-new");
        bpf::obj_pin(beside.as_fd(), &pin).expect("pinned");
        assert_eq!(order(ifindex, INGRESS).len(), 2);
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &devices);
        assert_eq!(ids(node).0, before);
        assert_eq!(order(ifindex, INGRESS), [before["pod1:tc-in"]]);
    });
}

#[test]
fn a_filter_that_others_removed_is_put_back() {
    on_node("filter", |node| {
        let devices = [veth("pod1", DeviceRole::Workload)];
        let options = Options { tc: TcMode::Clsact, ..node.options() };
        let mut datapath = Datapath::open(&options).expect("it loads");
        attach_all(&mut datapath, &devices);
        assert!(datapath.heal().expect("nothing is to be done").is_empty());
        let tc = |arguments: &str| {
            let mut command = std::process::Command::new("tc");
            let done = command.args(arguments.split(' ')).output().expect("running tc");
            assert!(done.status.success(), "tc {arguments}");
            String::from_utf8(done.stdout).expect("text")
        };
        let filters = |side: &str| {
            tc(&format!("filter show dev pod1 {side}")).matches("handle 0x6c62").count()
        };
        for (side, pin) in [("ingress", "pod1:tc-in"), ("egress", "pod1:tc-out")] {
            let _nothing = tc(&format!("filter del dev pod1 {side}"));
            assert_eq!(filters(side), 0);
            assert_eq!(datapath.heal().expect("it heals"), [pin]);
            attach_all(&mut datapath, &devices);
            assert_eq!(filters(side), 1);
            assert!(datapath.heal().expect("nothing is to be done").is_empty());
        }
        // The whole qdisc.
        let _nothing = tc("qdisc del dev pod1 clsact");
        assert_eq!(datapath.heal().expect("it heals"), ["pod1:tc-in", "pod1:tc-out"]);
        attach_all(&mut datapath, &devices);
        assert_eq!((filters("ingress"), filters("egress")), (1, 1));
        ip("link del pod1");
    });
}
