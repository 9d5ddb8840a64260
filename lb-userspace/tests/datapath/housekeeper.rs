//! The housekeeper over real maps, a real clock and real sockets.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd as _},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use lb_common::{
    Action, Addr4, AffinityKey, AffinityValue, BackendState, BackendValue, FlowKey, FlowValue,
    FrontendKey, FrontendKind, FrontendValue, Hook, Seen, SockDirection, SockKey, SockValue, names,
    proto,
};
use lb_userspace::{
    clock::Clock,
    datapath::Datapath,
    housekeeper::{Housekeeper, Lifetimes, Removed, Worker},
    maps::{bpf::Access, table::Table},
    plan::BackendId,
};

use crate::node::on_node;

type Flows = Table<FlowKey<Addr4>, FlowValue<Addr4>>;
type Socks = Table<SockKey<Addr4>, SockValue<Addr4>>;

struct Maps {
    flows: Flows,
    socks: Socks,
    backends: Table<u32, BackendValue<Addr4>>,
    clock: Clock,
}

impl Maps {
    fn open(maps: &Path) -> Self {
        Self {
            flows: Table::open(maps, names::LB4_FLOWS, Access::ReadWrite).expect("flows"),
            socks: Table::open(maps, names::LB4_SOCKS, Access::ReadWrite).expect("socks"),
            backends: Table::open(maps, names::LB4_BACKENDS, Access::ReadWrite).expect("backends"),
            clock: Clock::open().expect("a clock"),
        }
    }

    fn ago(&self, seconds: u32) -> u32 {
        self.clock.now().expect("the time").0.wrapping_sub(seconds * self.clock.hz())
    }

    fn backend(&self, id: u32, state: BackendState) {
        let value = BackendValue { state: state as u8, ..BackendValue::default() };
        self.backends.put(&id, &value).expect("a backend");
    }

    /// Puts a pair of entries; the key of the forward one.
    fn pair(&self, client: u16, protocol: u8, backend: u32, idle: u32) -> FlowKey<Addr4> {
        let seen = Seen::PACKET | Seen::ACK;
        let (forward, reverse) = pair(client, protocol, backend, seen, self.ago(idle));
        self.flows.put(&reverse.0, &reverse.1).expect("a reverse entry");
        self.flows.put(&forward.0, &forward.1).expect("a forward entry");
        forward.0
    }

    fn has(&self, key: &FlowKey<Addr4>) -> (bool, bool) {
        let (_, reverse) = pair(key.sport, key.proto, 0, 0, 0);
        let there = |key| self.flows.get(key).expect("reading flows").is_some();
        (there(key), there(&reverse.0))
    }
}

type Entry = (FlowKey<Addr4>, FlowValue<Addr4>);

fn pair(client: u16, protocol: u8, backend: u32, seen: u8, last_seen: u32) -> (Entry, Entry) {
    let ip = |a| Addr4::from(Ipv4Addr::new(10, 0, 0, a));
    let (from, vip, to) = (ip(1), ip(2), ip(3));
    let key = |hook: Hook, src, sport, dst, dport| FlowKey {
        src,
        dst,
        sport,
        dport,
        proto: protocol,
        hook: hook as u8,
        pad: [0; 2],
    };
    let value = |new: FlowKey<Addr4>, reverse| FlowValue {
        other_hook: new.hook,
        src: new.src,
        dst: new.dst,
        sport: new.sport,
        dport: new.dport,
        backend,
        seen,
        last_seen,
        reverse,
        ..FlowValue::default()
    };
    let (arrives, leaves) = (Hook::ExternalIn, Hook::ExternalOut);
    let forward =
        (key(arrives, from, client, vip, 80), value(key(leaves, from, client, to, 8080), 0));
    let reverse =
        (key(leaves, to, 8080, from, client), value(key(arrives, vip, 80, from, client), 1));
    (forward, reverse)
}

fn sweep(housekeeper: &mut Housekeeper) -> (Removed, lb_userspace::housekeeper::Round) {
    let mut removed = Removed::default();
    let round = housekeeper.sweep(&mut removed).expect("sweeping");
    (removed, round)
}

/// A masqueraded flow that took the road: its pair, and the second legs of both directions.
fn roaming(client: u16, last_seen: u32) -> [Entry; 4] {
    let ip = |a| Addr4::from(Ipv4Addr::new(10, 0, 0, a));
    let (from, vip, to, node) = (ip(1), ip(2), ip(3), ip(4));
    let entry = |hook: Hook, ends: [(Addr4, u16); 4], reverse, second| {
        let [(src, sport), (dst, dport), new_src, new_dst] = ends;
        let key =
            FlowKey { src, dst, sport, dport, proto: proto::UDP, hook: hook as u8, pad: [0; 2] };
        let value = FlowValue {
            src: new_src.0,
            sport: new_src.1,
            dst: new_dst.0,
            dport: new_dst.1,
            backend: 1,
            seen: Seen::PACKET,
            last_seen,
            action: if second == 0 { Action::Masquerade as u8 } else { Action::Stack as u8 },
            reverse,
            second,
            other_hook: Hook::ExternalIn as u8,
            road_port: if second == 0 { client } else { 0 },
            ..FlowValue::default()
        };
        (key, value)
    };
    let (c, v, b, n) = ((from, client), (vip, 80), (to, 8080), (node, 20_000 + client));
    [
        entry(Hook::ExternalIn, [c, v, n, b], 0, 0),
        entry(Hook::ExternalIn, [b, n, v, c], 1, 0),
        entry(Hook::ExternalOut, [c, b, n, b], 0, 1),
        entry(Hook::ExternalOut, [b, c, v, c], 1, 1),
    ]
}

#[test]
fn second_legs_live_as_long_as_their_pair() {
    on_node("legs", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let dir = datapath.paths().maps();
        let maps = Maps::open(&dir);
        maps.backend(1, BackendState::Serving);
        let mut housekeeper = Housekeeper::open(&dir, Lifetimes::default()).unwrap();
        let (living, over, alone) = (roaming(1, maps.ago(100)), roaming(2, maps.ago(130)), 3);
        for (key, value) in living.iter().chain(&over).chain(&roaming(alone, maps.ago(100))[2..]) {
            maps.flows.put(key, value).unwrap();
        }
        // The pair is in use; its legs keep the time at which they were made.
        for (key, value) in &living[..2] {
            maps.flows.put(key, &FlowValue { last_seen: maps.ago(0), ..*value }).unwrap();
        }
        let (removed, _) = sweep(&mut housekeeper);
        let there = |(key, _): &Entry| maps.flows.get(key).unwrap().is_some();
        assert_eq!(living.each_ref().map(there), [true; 4]);
        assert_eq!(over.each_ref().map(there), [false; 4]);
        assert!(!roaming(alone, 0)[2..].iter().any(there), "legs without a pair");
        assert_eq!((removed.expired, removed.orphans), (1, 2));
    });
}

#[test]
fn flows_end_by_age_and_by_backend_and_orphans_go() {
    on_node("sweep", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let dir = datapath.paths().maps();
        let maps = Maps::open(&dir);
        maps.backend(1, BackendState::Serving);
        maps.backend(2, BackendState::Gone);
        maps.backend(3, BackendState::Gone);
        let mut housekeeper = Housekeeper::open(&dir, Lifetimes::default()).unwrap();

        let kept = [
            maps.pair(1, proto::UDP, 1, 0),
            maps.pair(2, proto::UDP, 1, 100),
            maps.pair(3, proto::TCP, 1, 3600),
            maps.pair(4, proto::TCP, 2, 3600),
        ];
        let over = [
            maps.pair(11, proto::UDP, 1, 130),
            maps.pair(12, proto::TCP, 1, 25 * 3600),
            maps.pair(13, proto::UDP, 2, 0),
            maps.pair(14, proto::UDP, 3, 0),
        ];
        let lone_forward = maps.pair(21, proto::TCP, 1, 8);
        let _there = maps.flows.delete(&pair(21, proto::TCP, 1, 0, 0).1.0).unwrap();
        let lone_reverse = maps.pair(22, proto::TCP, 1, 8);
        let _there = maps.flows.delete(&lone_reverse).unwrap();
        let young = maps.pair(23, proto::TCP, 1, 0);
        let _there = maps.flows.delete(&pair(23, proto::TCP, 1, 0, 0).1.0).unwrap();

        let (removed, round) = sweep(&mut housekeeper);
        for key in kept {
            assert_eq!(maps.has(&key), (true, true), "{key:?}");
        }
        for key in over.into_iter().chain([lone_forward, lone_reverse]) {
            assert_eq!(maps.has(&key), (false, false), "{key:?}");
        }
        assert_eq!(maps.has(&young), (true, false), "the other entry may be on its way");
        assert_eq!((removed.expired, removed.stale(), removed.orphans), (2, 2, 2));
        assert!(round.names(BackendId(2)) && round.names(BackendId(1)));

        let (removed, round) = sweep(&mut housekeeper);
        assert_eq!(removed, Removed::default());
        assert!(round.names(BackendId(2)), "its TCP connection lives");
        assert!(!round.names(BackendId(3)), "nothing names it any more");
    });
}

/// AFF-2, AFF-4: who came back too late, who was bound to a backend that left, and who was bound by a
/// Service that is gone or has no affinity any more. The others keep their backend across a start.
#[test]
fn affinity_ends_by_age_by_backend_and_by_service() {
    on_node("affinity", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let dir = datapath.paths().maps();
        let maps = Maps::open(&dir);
        maps.backend(1, BackendState::Serving);
        maps.backend(2, BackendState::Gone);
        let frontends: Table<FrontendKey<Addr4>, FrontendValue> =
            Table::open(&dir, names::LB4_FRONTENDS, Access::ReadWrite).unwrap();
        let affinity: Table<AffinityKey<Addr4>, AffinityValue> =
            Table::open(&dir, names::LB4_AFFINITY, Access::ReadWrite).unwrap();
        let vip = Addr4::from(Ipv4Addr::new(10, 96, 0, 1));
        for (service, seconds) in [(1, 100), (2, 0), (3, 3600)] {
            let kind = FrontendKind::ClusterIp as u8;
            let value = FrontendValue { service, affinity: seconds, kind, ..Default::default() };
            let port = u16::try_from(service).unwrap();
            frontends.put(&FrontendKey::new(vip, port, proto::TCP), &value).unwrap();
        }
        let bind = |service: u32, host: u8, backend: u32, idle: u32| {
            let client = Addr4::from(Ipv4Addr::new(192, 0, 2, host));
            let key = AffinityKey { service, client };
            affinity.put(&key, &AffinityValue { backend, last_used: maps.ago(idle) }).unwrap();
            key
        };
        let kept = [bind(1, 1, 1, 0), bind(1, 2, 1, 60), bind(3, 1, 1, 1800), bind(1, 0, 1, 5)];
        let over = [
            bind(1, 3, 1, 102),
            bind(3, 4, 1, 3602),
            bind(1, 5, 2, 0),
            bind(2, 6, 1, 0),
            bind(4, 7, 1, 0),
        ];
        let mut housekeeper = Housekeeper::open(&dir, Lifetimes::default()).unwrap();
        let (removed, round) = sweep(&mut housekeeper);
        for key in kept {
            assert!(affinity.get(&key).unwrap().is_some(), "{key:?}");
        }
        for key in over {
            assert!(affinity.get(&key).unwrap().is_none(), "{key:?}");
        }
        assert_eq!(removed, Removed { affinity: over.len(), ..Removed::default() });
        assert_eq!(round.entries, kept.len() + over.len());
        // The Service loses its affinity: what was remembered does not come back with it.
        let port = FrontendKey::new(vip, 1, proto::TCP);
        frontends.put(&port, &FrontendValue { service: 1, ..Default::default() }).unwrap();
        let (removed, _) = sweep(&mut housekeeper);
        assert_eq!(removed.affinity, 3);
    });
}

fn cookie(socket: &impl AsFd) -> u64 {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(failed, 0, "{}", io::Error::last_os_error());
    cookie
}

fn put_sock(maps: &Maps, cookie: u64, protocol: u8, peer: SocketAddr, backend: u32) {
    let SocketAddr::V4(peer) = peer else { panic!("an IPv4 address") };
    let key = SockKey {
        cookie_low: u32::try_from(cookie & 0xffff_ffff).expect("half"),
        cookie_high: u32::try_from(cookie >> 32).expect("half"),
        addr: Addr4::from(*peer.ip()),
        port: peer.port(),
        proto: protocol,
        direction: SockDirection::Back as u8,
    };
    maps.socks.put(&key, &SockValue { backend, ..SockValue::default() }).expect("a sock entry");
}

#[test]
fn sockets_of_a_backend_that_left_are_ended_and_no_others() {
    on_node("sockets", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let dir = datapath.paths().maps();
        let maps = Maps::open(&dir);
        maps.backend(1, BackendState::Serving);
        maps.backend(2, BackendState::Gone);
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = server.local_addr().unwrap();
        let client = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(peer).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket
        };
        let (left, stays, foreign) = (client(), client(), client());
        put_sock(&maps, cookie(&left), proto::UDP, peer, 2);
        put_sock(&maps, cookie(&stays), proto::UDP, peer, 1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp_peer = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(tcp_peer).unwrap();
        put_sock(&maps, cookie(&tcp), proto::TCP, tcp_peer, 2);
        put_sock(&maps, 0xdead_0000_0001, proto::TCP, tcp_peer, 2);

        let mut housekeeper = Housekeeper::open(&dir, Lifetimes::default()).unwrap();
        let (removed, round) = sweep(&mut housekeeper);
        assert_eq!((removed.socks, removed.sockets), (2, 1), "{removed:?}");
        assert!(round.names(BackendId(2)), "its TCP socket is open");
        let error = |socket: &UdpSocket| socket.recv(&mut [0; 8]).expect_err("nobody sent").kind();
        assert_eq!(error(&left), io::ErrorKind::ConnectionAborted);
        assert_eq!(error(&stays), io::ErrorKind::WouldBlock);
        assert_eq!(error(&foreign), io::ErrorKind::WouldBlock);

        drop((tcp, listener));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (_, round) = sweep(&mut housekeeper);
            if !round.names(BackendId(2)) {
                break;
            }
            assert!(Instant::now() < deadline, "the id is never free");
        }
    });
}

#[test]
fn the_worker_sweeps_at_once_when_backends_leave_and_by_itself() {
    on_node("worker", |node| {
        let mut options = node.options();
        options.capacity.flows = 1 << 17;
        let datapath = Datapath::open(&options).unwrap();
        let dir = datapath.paths().maps();
        let maps = Maps::open(&dir);
        maps.backend(1, BackendState::Serving);
        let now = maps.ago(0);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for client in 0..50_000 {
            for (key, value) in <[Entry; 2]>::from(pair(client, proto::UDP, 1, Seen::PACKET, now)) {
                keys.push(key);
                values.push(value);
            }
        }
        maps.flows.put_all(&keys, &values).map_err(|(_, error)| error).unwrap();
        let (send, reports) = mpsc::channel();
        let housekeeper = Housekeeper::open(&dir, Lifetimes::default()).unwrap();
        let worker = Worker::start(housekeeper, move |report| {
            let _received = send.send(report).is_ok();
        })
        .unwrap();
        let start = Instant::now();
        maps.backend(1, BackendState::Gone);
        worker.backends_left();
        let wait = Duration::from_secs(20);
        let report = reports.recv_timeout(wait).unwrap();
        println!("50,000 flows ended in {:?}", start.elapsed());
        assert_eq!(report.removed.stale(), 50_000);
        let mut entries = 0;
        maps.flows.for_each(|_, _| entries += 1).unwrap();
        assert_eq!(entries, 0);
        let later = reports.recv_timeout(wait).unwrap();
        let round = later.round.expect("few entries are one visit");
        assert!(!round.names(BackendId(1)) && round.began > start);
    });
}
