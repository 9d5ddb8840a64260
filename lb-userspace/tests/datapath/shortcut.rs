//! What the node has that forbids or shapes the shortcut, in a real network namespace.

use std::{
    thread,
    time::{Duration, Instant},
};

use lb_common::{Runtime, names};
use lb_userspace::{
    config::Forward,
    datapath::Datapath,
    devices::{Rules, runtime::RuntimeTable, shortcut::Shortcut, watch::Watcher},
    maps::{bpf::Access, table::Table},
};

use crate::node::{ip, on_node};

#[test]
fn the_bits_follow_rules_and_policies_in_both_directions() {
    on_node("shortcut", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let maps = datapath.paths().maps();
        let map: Table<u32, Runtime> = Table::open(&maps, names::LB_RUNTIME, Access::Read).unwrap();
        let mut table = RuntimeTable::open(&maps).unwrap();
        let watcher = Watcher::start(Rules::default(), move |routing| {
            table.renew(Shortcut::decide(Forward::Redirect, routing).flags()).unwrap();
        })
        .unwrap();
        let now = || map.get(&0).unwrap().unwrap();
        let becomes = |flags: u8, what: &str| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while now().flags != flags {
                assert!(Instant::now() < deadline, "{what}: {:?} never has {flags}", now());
                thread::sleep(Duration::from_millis(2));
            }
        };
        let plain = Runtime::SHORTCUT;
        let by_source = Runtime::SHORTCUT | Runtime::SOURCE_RULES;
        becomes(plain, "a plain node");

        let policy = "xfrm policy VERB src 192.0.2.0/24 dst 198.51.100.0/24 dir";
        for (what, verbs, object, flags) in [
            ("mark", ["add", "del"], "rule VERB fwmark 7 table 7", 0),
            ("mark, IPv6", ["add", "del"], "-6 rule VERB fwmark 7 table 7", 0),
            ("user", ["add", "del"], "rule VERB uidrange 5-5 table 7", 0),
            ("source", ["add", "del"], "rule VERB from 192.0.2.0/24 table 7", by_source),
            ("source, IPv6", ["add", "del"], "-6 rule VERB from 2001:db8::/64 table 7", by_source),
            ("policy out", ["add", "delete"], &format!("{policy} out"), 0),
            ("policy fwd", ["add", "delete"], &format!("{policy} fwd"), 0),
        ] {
            let before = now().generation;
            ip(&object.replace("VERB", verbs[0]));
            becomes(flags, what);
            assert_ne!(now().generation, before, "{what}: the next hops are looked up again");
            ip(&object.replace("VERB", verbs[1]));
            becomes(plain, what);
        }

        ip("xfrm policy setdefault fwd block");
        becomes(0, "what has no policy is dropped");
        ip("xfrm policy setdefault fwd accept");
        becomes(plain, "and is not any more");

        // What is harmless renews the next hops and forbids nothing.
        let harmless = "rule VERB to 192.0.2.0/24 iif lo ipproto tcp dport 80 table 7";
        for (object, verb) in [(harmless, "add"), (harmless, "del")] {
            let before = now().generation;
            ip(&object.replace("VERB", verb));
            let deadline = Instant::now() + Duration::from_secs(10);
            while now().generation == before {
                assert!(Instant::now() < deadline, "{verb}: never renewed");
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(now().flags, plain, "{verb}");
        }
        ip(&format!("{} in", policy.replace("VERB", "add")));
        ip("rule add fwmark 8 table 7");
        becomes(0, "the mark after a policy for what comes in");
        ip("rule del fwmark 8 table 7");
        becomes(plain, "only the policy for what comes in is left");
        drop(watcher);
    });
}

/// An agent that starts on such a node never allows it, not even for a moment.
#[test]
fn what_is_there_already_is_known_before_the_first_word() {
    on_node("shortcut start", |_node| {
        ip("rule add fwmark 7 table 7");
        let watcher = Watcher::start(Rules::default(), |_routing| {}).unwrap();
        let shortcut = Shortcut::decide(Forward::Redirect, &watcher.routing().borrow());
        let why: Vec<String> = shortcut.obstacles.iter().map(ToString::to_string).collect();
        assert_eq!((shortcut.flags(), why), (0, vec!["routing rules by mark".to_owned()]));
    });
}
