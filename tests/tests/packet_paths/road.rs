//! A client outside and a backend elsewhere by the stack: two legs each way, and an error about each.

use anyhow::{Result, anyhow};
use lb_common::{Addr4, Addr6, FlowKey, FlowValue, Hook, Reason, proto};
use lb_ebpf::{
    Verdict,
    host::craft::{Craft, Transport},
    refuse::Answer,
};
use lb_tests::{
    lab,
    packet::{Case, Ground, Twin, addr, inside},
};

use crate::key;

#[test]
fn the_road_leads_to_the_backend_and_back() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    inside(|ground| {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            let mut twin = Twin::new(&ground)?;
            twin.set_ways(false, false)?;
            let mut road = Road { twin: &mut twin, ground: &ground };
            road.walk::<Addr4>(proto, |twin, key| twin.kernel.v4.flow(key))?;
            road.walk::<Addr6>(proto, |twin, key| twin.kernel.v6.flow(key))?;
            twin.compare()?;
        }
        Ok(())
    })
    .unwrap();
}

struct Road<'a> {
    twin: &'a mut Twin,
    ground: &'a Ground,
}

impl Road<'_> {
    /// Runs a frame; kernel and host agree, and it goes on with this reason as this.
    fn goes_on(&mut self, hook: Hook, sent: &Craft, reason: Reason, becomes: &Craft) -> Result<()> {
        let case = Case { hook, ifindex: self.ground.external, frame: sent.frame() };
        let what = format!("{sent:?} at {hook:?}");
        let done = self.twin.run(&case)?;
        let (decision, bytes) = done.map_err(|difference| anyhow!("{what}: {difference}"))?;
        assert_eq!((decision.verdict, decision.reason), (Verdict::Stack, reason), "{what}");
        assert_eq!(bytes, becomes.frame(), "{what}");
        Ok(())
    }

    fn walk<A: Answer>(
        &mut self,
        proto: u8,
        flow: fn(&Twin, &FlowKey<A>) -> Option<FlowValue<A>>,
    ) -> Result<()> {
        let (client, remote) = (("client", 4400), ("remote-pod", 8080));
        let tuple = key::<A>(Hook::ExternalIn, client, ("node", 30006), proto);
        // The kernel draws a port for the flow; the client's own is free between the legs.
        let out = arriving(&tuple);
        let between = key::<A>(Hook::ExternalOut, client, remote, proto);
        self.goes_on(Hook::ExternalIn, &out, Reason::NewFlow, &out.translated(&between))?;
        let to = flow(self.twin, &tuple).expect("a flow in the kernel").translated(proto);
        assert_eq!((to.src, to.dst), (addr("node"), addr("remote-pod")));
        for (from, between, into, reason) in [
            (tuple, between, to, Reason::Forward),
            (to.reversed(), between.reversed(), tuple.reversed(), Reason::Reply),
        ] {
            let arrives = arriving(&from);
            self.goes_on(Hook::ExternalIn, &arrives, reason, &arrives.translated(&between))?;
            let leaves = arriving(&between);
            self.goes_on(Hook::ExternalOut, &leaves, reason, &leaves.translated(&into))?;
        }
        // The receiver of either says that nobody is there; then it is who was asked that says so.
        for (about, on_road, told) in
            [(to, between, tuple), (tuple.reversed(), between.reversed(), to.reversed())]
        {
            let [arrives, on_road, told] = [about, on_road, told].map(|about| error(&about));
            self.goes_on(Hook::ExternalIn, &arrives, Reason::Error, &on_road)?;
            self.goes_on(Hook::ExternalOut, &on_road, Reason::Error, &told)?;
        }
        Ok(())
    }
}

fn arriving<A: Answer>(tuple: &FlowKey<A>) -> Craft {
    Craft { eth: [Ground::OWN.octets, Ground::ROUTER.octets], ..Craft::of(tuple) }
}

/// What the receiver of a packet says about it: port unreachable, quoting as much as any transport says who
/// it is by.
fn error<A: Answer>(about: &FlowKey<A>) -> Craft {
    let v4 = A::FAMILY == lb_common::Family::V4;
    let (kind, length) = if v4 { ((3, 3), 20 + 8) } else { ((1, 4), 40 + 8) };
    let payload = Craft::of(about).frame()[14..14 + length].to_vec();
    let transport = Transport::Icmp(kind.0, kind.1);
    Craft { transport, payload, ..arriving(&about.reversed()) }
}
