//! When a flow is over. Pure: time and lifetimes are parameters.

use lb_common::{Address, FlowValue, Seen, proto};
use serde::Serialize;

use crate::clock::Jiffies;

/// How long flows may be idle, in seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifetimes {
    /// TCP, not yet answered or not yet acknowledged by the client.
    pub half_open: u32,
    /// TCP, established.
    pub established: u32,
    /// TCP, closed by one side.
    pub half_closed: u32,
    /// TCP, closed by both sides.
    pub closed: u32,
    /// TCP, reset.
    pub reset: u32,
    /// SCTP, not yet established, or being shut down.
    pub sctp_opening: u32,
    /// SCTP, established.
    pub sctp_established: u32,
    /// SCTP, aborted or shut down.
    pub sctp_ended: u32,
    /// UDP without a reply.
    pub udp_unreplied: u32,
    /// UDP with replies.
    pub udp_replied: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Lifetimes {
    /// Those of the kernel's own connection tracking, where it has them; but an established SCTP
    /// association may be silent for an hour, where the kernel's tracking counts on heartbeats, which
    /// an application can turn off.
    pub const DEFAULT: Self = Self {
        half_open: 60,
        established: 24 * 3600,
        half_closed: 3600,
        closed: 120,
        reset: 10,
        sctp_opening: 60,
        sctp_established: 3600,
        sctp_ended: 10,
        udp_unreplied: 30,
        udp_replied: 120,
    };

    /// The shortest of all: an entry that was used more recently is not over, whatever its state.
    pub fn shortest(&self) -> u32 {
        let &Self {
            half_open,
            established,
            half_closed,
            closed,
            reset,
            sctp_opening,
            sctp_established,
            sctp_ended,
            udp_unreplied,
            udp_replied,
        } = self;
        let tcp = half_open.min(established).min(half_closed).min(closed).min(reset);
        let sctp = sctp_opening.min(sctp_established).min(sctp_ended);
        tcp.min(sctp).min(udp_unreplied).min(udp_replied)
    }

    /// How long a flow may be idle whose two directions have shown these bits of [`Seen`].
    pub fn of(&self, protocol: u8, forward: u8, reverse: u8) -> u32 {
        let both = forward & reverse;
        let either = forward | reverse;
        if protocol == proto::SCTP {
            return if either & Seen::RST != 0 {
                self.sctp_ended
            } else if either & Seen::FIN == 0 && reverse & Seen::ACK != 0 {
                self.sctp_established
            } else {
                self.sctp_opening
            };
        }
        if protocol != proto::TCP {
            return if reverse & Seen::PACKET != 0 { self.udp_replied } else { self.udp_unreplied };
        }
        if either & Seen::RST != 0 {
            self.reset
        } else if both & Seen::FIN != 0 {
            self.closed
        } else if either & Seen::FIN != 0 {
            self.half_closed
        } else if forward & Seen::ACK != 0 && reverse & Seen::PACKET != 0 {
            self.established
        } else {
            self.half_open
        }
    }
}

/// Whether the flow of these two entries is over.
pub fn expired<A: Address>(
    protocol: u8,
    forward: &FlowValue<A>,
    reverse: &FlowValue<A>,
    lifetimes: &Lifetimes,
    now: Jiffies,
    hz: u32,
) -> bool {
    let idle = now.since(forward.last_seen).min(now.since(reverse.last_seen));
    let lifetime = lifetimes.of(protocol, forward.seen, reverse.seen);
    u64::from(idle) > u64::from(lifetime) * u64::from(hz)
}

#[cfg(test)]
mod tests {
    use lb_common::Addr4;

    use super::*;

    const HZ: u32 = 250;

    fn entry(seen: u8, last_seen: u32) -> FlowValue<Addr4> {
        FlowValue { seen, last_seen, ..FlowValue::default() }
    }

    #[test]
    fn the_state_of_both_directions_tells_the_lifetime() {
        let l = Lifetimes::default();
        let (p, ack, fin, rst) = (
            Seen::PACKET,
            Seen::PACKET | Seen::ACK,
            Seen::PACKET | Seen::ACK | Seen::FIN,
            Seen::PACKET | Seen::RST,
        );
        let tcp = [
            (p, 0, l.half_open, "SYN"),
            (p, p, l.half_open, "SYN, SYN+ACK: a flood gets this far"),
            (ack, 0, l.half_open, "unanswered"),
            (ack, p, l.established, "handshake done"),
            (ack, ack, l.established, "data"),
            (fin, ack, l.half_closed, "client closed"),
            (ack, fin, l.half_closed, "server closed"),
            (fin, fin, l.closed, "both closed"),
            (rst, ack, l.reset, "reset by the client"),
            (p, rst, l.reset, "refused by the server"),
            (fin | Seen::RST, fin, l.reset, "reset after closing"),
        ];
        for (forward, reverse, lifetime, what) in tcp {
            assert_eq!(l.of(proto::TCP, forward, reverse), lifetime, "{what}");
        }
        let sctp = [
            (p, 0, l.sctp_opening, "INIT"),
            (p, p, l.sctp_opening, "COOKIE ECHO, INIT ACK: not proven yet"),
            (p, ack, l.sctp_established, "COOKIE ACK"),
            (ack, ack, l.sctp_established, "data"),
            (fin, ack, l.sctp_opening, "SHUTDOWN"),
            (fin, fin, l.sctp_opening, "SHUTDOWN ACK"),
            (fin | Seen::RST, fin, l.sctp_ended, "SHUTDOWN COMPLETE"),
            (ack, rst, l.sctp_ended, "ABORT by the server"),
        ];
        for (forward, reverse, lifetime, what) in sctp {
            assert_eq!(l.of(proto::SCTP, forward, reverse), lifetime, "{what}");
        }
        assert_eq!(l.of(proto::UDP, p, 0), l.udp_unreplied);
        assert_eq!(l.of(proto::UDP, p, p), l.udp_replied);
        assert_eq!(l.shortest(), 10);
    }

    #[test]
    fn the_later_of_both_directions_counts() {
        let l = Lifetimes::default();
        let now = Jiffies(5);
        let ago = |seconds: u32| 5_u32.wrapping_sub(seconds * HZ);
        let over = |forward, reverse| {
            let (forward, reverse) = (entry(Seen::PACKET, forward), entry(Seen::PACKET, reverse));
            expired(proto::UDP, &forward, &reverse, &l, now, HZ)
        };
        assert!(over(ago(121), ago(121)), "also across the wrap of the clock");
        assert!(!over(ago(121), ago(119)));
        assert!(!over(ago(119), ago(121)));
        assert!(!over(ago(121), now.0 + 3), "a packet passed after the clock was read");
    }

    #[test]
    fn a_day_of_silence_ends_an_established_connection() {
        let l = Lifetimes::default();
        let over = |seconds: u32| {
            let last = 0_u32.wrapping_sub(seconds * 1000);
            let both = entry(Seen::PACKET | Seen::ACK, last);
            expired(proto::TCP, &both, &both, &l, Jiffies(0), 1000)
        };
        assert!(!over(24 * 3600 - 1));
        assert!(over(24 * 3600 + 1));
    }
}
