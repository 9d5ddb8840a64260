//! Watches the devices, addresses, routes, rules, IPsec policies and neighbours of the network
//! namespace that it was started in.
//!
//! Invariant: the published state is always the result of a full read, never patched together from
//! single messages; a message only says that it is time to read again. So nothing can be missed for
//! longer than the next message, and losing messages (a full socket buffer) costs one read.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteFlags, RouteMessage},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::watch;

use super::{
    LinkFacts, NodeState, Rules, classify,
    netlink::{self, Changes, Received},
    routing::{self, PolicyChanges, Routing},
    settle::{Roles, Settled, settle},
};

/// How long changes are gathered before they are acted on.
const GATHER: Duration = Duration::from_millis(10);
/// How often next hops are renewed without a reason, so that neighbours that died silently are
/// noticed.
const RENEW: Duration = Duration::from_secs(30);
/// Pause after a failure of netlink.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    rules: Arc<Mutex<Rules>>,
    /// A byte makes the thread read everything again; closing ends it.
    wake: UnixStream,
    states: watch::Receiver<NodeState>,
    routing: watch::Receiver<Routing>,
}

impl Watcher {
    /// Reads the state of this thread's network namespace and starts watching it.
    ///
    /// `renew` is called, on the thread of the watcher, whenever cached next hops may be wrong, with
    /// the rules and policies that count from then on.
    ///
    /// # Errors
    ///
    /// When netlink cannot be used at all.
    pub fn start(rules: Rules, renew: impl FnMut(&Routing) + Send + 'static) -> io::Result<Self> {
        let changes = Streams::join()?;
        let (publish_routing, routing) = watch::channel(routing::read());
        let mut look = Look::default();
        let (publish, states) = watch::channel(look.again(&rules)?);
        let rules = Arc::new(Mutex::new(rules));
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let thread = Thread {
            rules: Arc::clone(&rules),
            woken,
            publish,
            routing: publish_routing,
            renew: Box::new(renew),
            look,
            neighbours: Neighbours::default(),
        };
        let _detached =
            thread::Builder::new().name("devices".into()).spawn(move || thread.run(changes))?;
        Ok(Self { rules, wake, states, routing })
    }

    /// The state, as it changes.
    pub fn states(&self) -> watch::Receiver<NodeState> {
        self.states.clone()
    }

    /// The rules and policies, as they change.
    pub fn routing(&self) -> watch::Receiver<Routing> {
        self.routing.clone()
    }

    /// Tells by which addresses the node is known, once the cluster has said so.
    pub fn set_node_ips(&self, node_ips: Vec<IpAddr>) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.node_ips != node_ips {
            rules.node_ips = node_ips;
            // The thread ends only after `self`; a full pipe means that it is woken already.
            let _awake = (&self.wake).write(&[1]).is_err();
        }
    }
}

struct Thread {
    rules: Arc<Mutex<Rules>>,
    woken: UnixStream,
    publish: watch::Sender<NodeState>,
    routing: watch::Sender<Routing>,
    renew: Box<dyn FnMut(&Routing) + Send>,
    look: Look,
    neighbours: Neighbours,
}

/// What is remembered from one look at the devices for the next.
#[derive(Debug, Default)]
struct Look {
    roles: Roles,
    /// When a role is due to change although nothing happens.
    due: Option<Instant>,
    /// The devices whose routes tell what they are. Others' routes may be many and change often.
    minding_routes: HashSet<u32>,
}

impl Look {
    /// Reads everything.
    fn again(&mut self, rules: &Rules) -> io::Result<NodeState> {
        let links = netlink::links()?;
        let found = classify(&links, rules);
        let Settled { devices, roles, again } = settle(&self.roles, found, Instant::now());
        self.roles = roles;
        self.due = again;
        let minding = links.iter().filter(|link| LinkFacts::minds_routes(link));
        self.minding_routes = minding.map(|link| link.ifindex).collect();
        Ok(NodeState::assemble(&links, devices, rules))
    }
}

/// What has to be done at the next occasion.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Due {
    /// The state has to be read again.
    read: bool,
    /// Rules and policies have to be read again.
    routing: bool,
    /// Next hops have to be renewed.
    renew: bool,
}

impl Due {
    const ALL: Self = Self { read: true, routing: true, renew: true };
}

/// The streams of changes.
struct Streams {
    changes: Changes,
    /// `None` on a kernel without xfrm.
    policies: Option<PolicyChanges>,
}

impl Streams {
    fn join() -> io::Result<Self> {
        Ok(Self { changes: Changes::join()?, policies: PolicyChanges::join()? })
    }
}

impl Thread {
    fn run(mut self, mut changes: Streams) {
        loop {
            match self.watch(&changes) {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "watching the devices failed, trying again"),
            }
            thread::sleep(PAUSE);
            match Streams::join() {
                Ok(joined) => changes = joined,
                Err(error) => tracing::warn!(%error, "watching the devices failed again"),
            }
        }
    }

    /// Watches until the watcher is dropped.
    fn watch(&mut self, changes: &Streams) -> io::Result<()> {
        // Whatever happened before the groups were joined is not in the stream.
        let mut due = Due::ALL;
        let mut at = Instant::now();
        loop {
            let idle = due == Due::default();
            if !idle && Instant::now() >= at {
                self.act(due)?;
                due = Due::default();
                at = Instant::now() + RENEW;
                continue;
            }
            if idle && self.look.due.is_some_and(|due| Instant::now() >= due) {
                due.read = true;
                at = Instant::now();
                continue;
            }
            if idle && Instant::now() >= at {
                due.renew = true;
                continue;
            }
            let wake = self.look.due.filter(|_| idle).map_or(at, |due| at.min(due));
            let timeout = wake.saturating_duration_since(Instant::now());
            if self.wait(changes, timeout)? {
                return Ok(());
            }
            let new = self.drain(changes)?;
            if idle && new != Due::default() {
                at = Instant::now() + GATHER;
            }
            due = Due {
                read: due.read || new.read,
                routing: due.routing || new.routing,
                renew: due.renew || new.renew,
            };
        }
    }

    fn act(&mut self, due: Due) -> io::Result<()> {
        if due.read {
            let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let state = self.look.again(&rules)?;
            let _changed = self.publish.send_if_modified(|published| {
                let differs = *published != state;
                *published = state;
                differs
            });
        }
        if due.routing {
            let routing = routing::read();
            let _changed = self.routing.send_if_modified(|published| {
                let differs = *published != routing;
                *published = routing;
                differs
            });
        }
        if due.renew {
            (self.renew)(&self.routing.borrow());
        }
        Ok(())
    }

    /// Waits for a change; true when the watcher was dropped.
    fn wait(&self, streams: &Streams, timeout: Duration) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(streams.changes.fd(), PollFlags::POLLIN),
        ];
        fds.extend(streams.changes.features_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let policies = streams.policies.as_ref().map(PolicyChanges::fd);
        fds.extend(policies.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let millis = u16::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let woken = fds[0].revents().unwrap_or(PollFlags::empty());
        Ok(woken.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }

    /// Takes in everything that is there.
    fn drain(&mut self, streams: &Streams) -> io::Result<Due> {
        let mut due = Due::default();
        let mut bytes = [0; 64];
        due.read |= streams.changes.features_changed();
        while matches!((&self.woken).read(&mut bytes), Ok(1..)) {
            due.read = true;
        }
        if let Some(policies) = &streams.policies
            && policies.drain()?
        {
            due = Due { routing: true, renew: true, ..due };
        }
        loop {
            match streams.changes.receive()? {
                Received::Empty => return Ok(due),
                Received::Lost => {
                    self.neighbours = Neighbours::default();
                    due = Due::ALL;
                }
                Received::Messages { messages, rules } => {
                    due.routing |= rules;
                    due.renew |= rules;
                    for message in messages {
                        self.note(&message, &mut due);
                    }
                }
            }
        }
    }

    /// Whether a route says what a device is.
    fn tells(&self, route: &RouteMessage) -> bool {
        let minds = |ifindex: &u32| self.look.minding_routes.contains(ifindex);
        netlink::leads_away(route) && netlink::devices_of(route).iter().any(minds)
    }

    fn note(&mut self, message: &RouteNetlinkMessage, due: &mut Due) {
        if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = message
        {
            if !route.header.flags.contains(RouteFlags::Cloned) {
                due.renew = true;
                due.read |= netlink::is_default_route(route) || self.tells(route);
            }
        } else if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
            due.renew |= self.neighbours.changed(neighbour, false);
        } else if let RouteNetlinkMessage::DelNeighbour(neighbour) = message {
            due.renew |= self.neighbours.changed(neighbour, true);
        } else {
            // Links and addresses.
            *due = Due { read: true, renew: true, ..*due };
        }
    }
}

/// The link-layer addresses of neighbours. Their state changes every few seconds without meaning
/// anything for a packet; only another address, or none, does.
#[derive(Debug, Default)]
struct Neighbours {
    known: HashMap<(u32, IpAddr), Vec<u8>>,
}

impl Neighbours {
    /// Takes in a message; true when packets to this neighbour must be sent another way.
    fn changed(&mut self, message: &NeighbourMessage, removed: bool) -> bool {
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            if let NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) = attribute {
                address = Some(IpAddr::V4(*ip));
            } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) = attribute {
                address = Some(IpAddr::V6(*ip));
            } else if let NeighbourAttribute::LinkLayerAddress(octets) = attribute {
                mac = Some(octets.clone());
            }
        }
        let Some(address) = address else { return false };
        let key = (message.header.ifindex, address);
        let dead = matches!(
            message.header.state,
            NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None
        );
        match mac.filter(|_| !removed && !dead) {
            // One that is new may be cached as unresolved.
            Some(mac) => match self.known.insert(key, mac.clone()) {
                Some(before) => before != mac,
                None => true,
            },
            None => self.known.remove(&key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(last: u8, state: NeighbourState, mac: Option<u8>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        let address = NeighbourAddress::Inet([192, 0, 2, last].into());
        message.attributes.push(NeighbourAttribute::Destination(address));
        message.attributes.extend(mac.map(|m| NeighbourAttribute::LinkLayerAddress(vec![m; 6])));
        message
    }

    #[test]
    fn only_another_link_layer_address_changes_the_way() {
        use NeighbourState::{Failed, Incomplete, Reachable, Stale};
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.changed(&neighbour(1, Incomplete, None), false));
        assert!(neighbours.changed(&neighbour(1, Reachable, Some(1)), false));
        assert!(!neighbours.changed(&neighbour(1, Stale, Some(1)), false));
        assert!(!neighbours.changed(&neighbour(1, Reachable, Some(1)), false));
        assert!(neighbours.changed(&neighbour(1, Reachable, Some(2)), false));
        assert!(neighbours.changed(&neighbour(1, Failed, None), false));
        assert!(!neighbours.changed(&neighbour(1, Failed, None), true));
        assert!(neighbours.changed(&neighbour(2, Reachable, Some(2)), false));
        assert!(neighbours.changed(&neighbour(2, Stale, Some(2)), true));
    }
}
