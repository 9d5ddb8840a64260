//! Random packets that know what they are: clients' requests, replies, errors about both, all that passes,
//! and all of these damaged.

use lb_common::{Addr4, Addr6, FlowKey, FlowValue, HOOKS, Hook, MacAddr, proto};
use lb_ebpf::{
    host::craft::{Checksum, Craft, Transport},
    refuse::Answer,
};

use super::{
    ground::Ground,
    kernel::Kernel,
    scene::{Scene, World, addr},
};

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Case {
    /// The hook.
    pub hook: Hook,
    /// The device where it is seen.
    pub ifindex: u32,
    /// The bytes from the Ethernet header on.
    pub frame: Vec<u8>,
}

/// A source of packets; the same seed gives the same ones over the same scene.
pub struct Generator {
    state: u64,
    ground: Ground,
    history4: Vec<Request<Addr4>>,
    history6: Vec<Request<Addr6>>,
}

/// What a client sent, and where.
type Request<A> = (FlowKey<A>, Hook);

/// Remembered requests in each family.
const HISTORY: usize = 256;

/// Who sends, and where.
const CLIENTS: [(&str, Hook); 9] = [
    ("pod", Hook::PodIn),
    ("other-pod", Hook::PodIn),
    ("client", Hook::ExternalIn),
    ("client", Hook::ExternalIn),
    ("client", Hook::Xdp),
    // Forged.
    ("node", Hook::ExternalIn),
    ("node", Hook::ExternalOut),
    ("node", Hook::LoopbackOut),
    ("loopback", Hook::LoopbackOut),
];

/// To whom; frontends more often than not.
const TARGETS: [(&str, u16); 31] = [
    ("vip", 80),
    ("vip", 80),
    ("vip", 81),
    ("vip", 85),
    ("vip", 99),
    ("other-vip", 80),
    ("other-vip", 82),
    ("other-vip", 83),
    ("other-vip", 84),
    ("node", 30000),
    ("node", 30000),
    ("node", 30001),
    ("node", 30002),
    ("node", 30003),
    ("node", 22),
    ("loopback", 30000),
    ("vip", 86),
    ("vip", 87),
    ("vip", 88),
    ("node", 30005),
    ("node", 30004),
    ("node", 30006),
    ("node", 30006),
    ("node", 30006),
    ("node", 30006),
    ("public", 80),
    ("public", 81),
    ("public", 82),
    ("public", 83),
    ("public", 84),
    ("remote-pod", 8080),
];

/// The hook by the name that flow entries give it.
const fn named(hook: Hook) -> Hook {
    if matches!(hook, Hook::Xdp) { Hook::ExternalIn } else { hook }
}

/// The keys of a flow's entries besides that of the client's packets.
fn replies<A: Answer>(request: &FlowKey<A>, flow: &FlowValue<A>) -> Vec<FlowKey<A>> {
    let reply = flow.other_key(request.proto);
    let legs = flow.second_legs(request).into_iter().flatten();
    [reply, reply].into_iter().chain(legs).collect()
}

impl Generator {
    /// A source that starts from `seed`.
    pub const fn new(seed: u64, ground: Ground) -> Self {
        Self { state: seed, ground, history4: Vec::new(), history6: Vec::new() }
    }

    /// A number below `count` (SplitMix64).
    pub fn below(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let scaled = (u128::from(z ^ (z >> 31)) * count as u128) >> 64;
        usize::try_from(scaled).expect("below a usize")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// The next packet.
    pub fn next(&mut self, scene: &Scene) -> Case {
        let mut case = if self.chance(50) {
            let mut history = std::mem::take(&mut self.history4);
            let case = self.of(&scene.v4, &mut history);
            self.history4 = history;
            case
        } else {
            let mut history = std::mem::take(&mut self.history6);
            let case = self.of(&scene.v6, &mut history);
            self.history6 = history;
            case
        };
        if self.chance(25) {
            self.damage(&mut case.frame);
        }
        if !Kernel::takes(case.hook, &case.frame) {
            (case.hook, case.ifindex) = (Hook::Xdp, self.ground.external);
        }
        case
    }

    fn of<A: Answer>(&mut self, world: &World<A>, history: &mut Vec<Request<A>>) -> Case {
        let proto = self.pick(&[proto::TCP, proto::TCP, proto::UDP, proto::UDP, proto::SCTP]);
        if self.chance(8)
            && let Some(case) = self.error(world, history)
        {
            return case;
        }
        let (tuple, hook) = match self.reply(world, history) {
            Some(reply) => reply,
            None if !history.is_empty() && self.chance(40) => {
                let (tuple, hook) = self.pick(history);
                // What one of the two has begun the other may carry on.
                let outside = named(hook) == Hook::ExternalIn;
                (tuple, if outside { self.pick(&[Hook::ExternalIn, Hook::Xdp]) } else { hook })
            }
            None => {
                let (client, hook) = self.pick(&CLIENTS);
                let (target, dport) = self.pick(&TARGETS);
                let sport = u16::try_from(4000 + self.below(12)).expect("a port");
                let tuple = FlowKey {
                    src: addr(client),
                    dst: addr(target),
                    sport,
                    dport,
                    proto,
                    hook: named(hook) as u8,
                    pad: [0; 2],
                };
                if history.len() < HISTORY {
                    history.push((tuple, hook));
                } else {
                    let at = self.below(HISTORY);
                    history[at] = (tuple, hook);
                }
                (tuple, hook)
            }
        };
        let mut craft = Craft::of(&tuple);
        let ifindex = self.device(hook);
        craft.eth = self.macs(ifindex);
        self.vary(&mut craft);
        Case { hook, ifindex, frame: craft.frame() }
    }

    /// Ethernet addresses of a frame on a device: to the device more often than not.
    fn macs(&mut self, ifindex: u32) -> [[u8; 6]; 2] {
        let macs = [
            Ground::OWN,
            Ground::ROUTER,
            Ground::POD,
            Ground::POD_OWN,
            Ground::OTHER_POD,
            Ground::OTHER_POD_OWN,
        ];
        let to = match self.below(100) {
            0..85 => self.ground.mac_of(ifindex),
            85..98 => self.pick(&macs),
            _ => MacAddr { octets: [0xff; 6] },
        };
        [to.octets, self.pick(&macs).octets]
    }

    /// The key of one of the entries of a remembered request's flow, with the hook where it counts, or any.
    fn entry<A: Answer>(
        &mut self,
        world: &World<A>,
        history: &[Request<A>],
        whose: fn(&FlowKey<A>, &FlowValue<A>) -> Vec<FlowKey<A>>,
    ) -> Option<(FlowKey<A>, Hook)> {
        if history.is_empty() {
            return None;
        }
        let (request, _) = self.pick(history);
        let flow = world.tables.flows.borrow().get(&request)?.get();
        let key = self.pick(&whose(&request, &flow));
        let fitting: Vec<Hook> =
            HOOKS[..6].iter().copied().filter(|hook| named(*hook) as u8 == key.hook).collect();
        let any = self.chance(15) || fitting.is_empty();
        Some((key, self.pick(if any { &HOOKS[..6] } else { &fitting })))
    }

    /// An error about a packet of a flow, at the hook where a reply to that would be translated.
    fn error<A: Answer>(&mut self, world: &World<A>, history: &[Request<A>]) -> Option<Case> {
        let (reply, mut hook) = self.entry(world, history, |request, flow| {
            [vec![*request], replies(request, flow)].concat()
        })?;
        if reply.hook == Hook::ExternalIn as u8 && self.chance(20) {
            // What a tunnel of the node says.
            hook = Hook::LoopbackOut;
        }
        let ip = if A::FAMILY == lb_common::Family::V4 { 20 } else { 40 };
        let mut quoted = Craft { hop_limit: 3, ..Craft::of(&reply.reversed()) };
        self.vary(&mut quoted);
        let frame = quoted.frame();
        let quote = self.pick(&[0usize, 4, 8, 8, 12, 17, 18, 20, 28, 1500]);
        let whole = frame.len().min(14 + ip + quote);
        let from = if self.chance(40) { reply.src } else { addr("router") };
        let outer = FlowKey { src: from, dst: reply.dst, ..reply };
        let kind = self.pick(if ip == 20 { &[3, 3, 3, 11, 12, 5] } else { &[1, 2, 2, 3, 4, 137] });
        let ifindex = self.device(hook);
        let craft = Craft {
            eth: self.macs(ifindex),
            transport: Transport::Icmp(kind, 4),
            payload: frame[14..whole].to_vec(),
            ..Craft::of(&outer)
        };
        Some(Case { hook, ifindex, frame: craft.frame() })
    }

    /// A reply to a remembered request, or what either is between two legs, at a hook where it may be seen, or
    /// at any.
    fn reply<A: Answer>(
        &mut self,
        world: &World<A>,
        history: &[Request<A>],
    ) -> Option<(FlowKey<A>, Hook)> {
        if self.chance(35) { self.entry(world, history, replies) } else { None }
    }

    fn device(&mut self, hook: Hook) -> u32 {
        match hook {
            Hook::PodIn | Hook::PodOut => self.pick(&[self.ground.pod, self.ground.other_pod]),
            Hook::ExternalIn | Hook::ExternalOut | Hook::Xdp => self.ground.external,
            Hook::LoopbackOut | Hook::Socket => Ground::LOOPBACK,
        }
    }

    fn vary(&mut self, craft: &mut Craft) {
        const FLAGS: [u8; 12] =
            [0x02, 0x02, 0x02, 0x02, 0x10, 0x10, 0x12, 0x11, 0x14, 0x04, 0xc2, 0x00];
        let length = self.pick(&[0, 1, 2, 7, 30, 60, 1200, 1452, 1472, 1600]);
        craft.payload = (0..length).map(|_| self.byte()).collect();
        craft.hop_limit = self.pick(&[64, 64, 64, 64, 64, 255, 63, 2, 1, 0]);
        let options = self.pick(&[0usize, 0, 0, 12, 40]);
        let chosen = self.pick(&FLAGS);
        let (number, other) = (self.word(), self.word());
        if let Transport::Tcp { flags, seq, ack, options: bytes } = &mut craft.transport {
            (*flags, *seq, *ack) = (chosen, number, other);
            *bytes = vec![1; options];
        }
        // Chunks that open, go on and end; an INIT under a tag now and then.
        let opens = self.chance(40);
        let of_chunk = if opens { 1 } else { self.pick(&[0, 1, 2, 3, 6, 7, 8, 10, 11, 14, 0xc0]) };
        if let Transport::Sctp { tag, chunk, .. } = &mut craft.transport {
            (*tag, *chunk) = (if opens { 0 } else { number }, of_chunk);
        }
        craft.checksum = match self.below(40) {
            0 | 1 => Checksum::None,
            2 => Checksum::Raw(0xffff),
            3 => Checksum::Raw(self.pick(&[0x0000, 0x0001, 0xfffe, 0x1234])),
            4 => Checksum::Partial,
            _ => Checksum::Complete,
        };
        // All that passes untouched.
        match self.below(60) {
            0 => {
                let kind = self.pick(&[8, 8, 128, 128, 0, 3, 1, 135]);
                craft.transport = Transport::Icmp(kind, self.byte());
            }
            1 => craft.transport = Transport::Ports(proto::SCTP),
            2 => craft.transport = Transport::Ports(self.byte()),
            3 => craft.vlan = Some(7),
            4 => craft.options = vec![1; self.pick(&[4usize, 8, 40])],
            5 => craft.fragment = self.pick(&[0x2000, 0x2001, 0x0001, 0x1fff, 0x8000, 0]),
            6 => {
                let kind = self.pick(&[0u8, 43, 44, 50, 51, 59, 60, 135]);
                craft.extensions = vec![(kind, vec![0; 7])];
            }
            _ => {}
        }
    }

    fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            match self.below(8) {
                // Cut; the kernel runs nothing shorter than an Ethernet header.
                0 | 1 => frame.truncate(14 + self.below(frame.len() - 13)),
                2 => {
                    let extra = self.below(40);
                    frame.extend((0..extra).map(|_| 0xa5));
                }
                3 => {
                    let kind = self.pick(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]);
                    frame[12..14].copy_from_slice(&kind);
                }
                // A header field: version, lengths, protocol, flags.
                4 | 5 => {
                    let at = self.pick(&[14usize, 16, 17, 18, 19, 20, 23, 34, 46, 66, 67]);
                    let value = self.byte();
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = value;
                    }
                }
                _ => {
                    let at = self.below(frame.len().min(94));
                    let bit = self.below(8);
                    frame[at] ^= 1 << bit;
                }
            }
        }
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.below(1 << 32)).expect("below 2^32")
    }
}
