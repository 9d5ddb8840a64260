//! Ours stays at the outer edge of each device, whoever attaches later.
//!
//! Invariant: a hook that has had a program of ours keeps having one, and a link that runs is pinned
//! or dies with this process. The link at the edge is made beside the one that is there and takes
//! over its pin in one step; for a moment both run, of which the inner one finds nothing to do.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt, fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    attach::Attachments,
    links::{self, Direction, Pinned, Target, pin_parts},
    load::Programs,
    wanted::Place,
};
use crate::maps::bpf::{self, Attached};

/// Others may want to be outermost as well: nobody is helped by two that overtake each other.
const MOVES: usize = 5;
/// The time in which a device sees no more than [`MOVES`].
const SPAN: Duration = Duration::from_secs(3600);

/// A program of others outside of ours, which stays there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outside {
    /// Name of the device.
    pub device: String,
    /// Name of the hook.
    pub hook: &'static str,
    /// The program.
    pub program: String,
    /// Why it is not overtaken.
    pub reason: String,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device: _, hook, program, reason } = self;
        write!(
            f,
            "{program} sees packets at {hook} outside of the translation, with other addresses than \
             the stack: {reason}"
        )
    }
}

/// When which device had its programs moved.
#[derive(Debug, Default)]
pub(super) struct Moves(BTreeMap<u32, Vec<Instant>>);

impl Moves {
    /// Whether a device may have a program moved; takes note if so.
    fn take(&mut self, ifindex: u32, now: Instant) -> bool {
        self.0.retain(|_, moves| {
            moves.retain(|then| now.saturating_duration_since(*then) < SPAN);
            !moves.is_empty()
        });
        let moves = self.0.entry(ifindex).or_default();
        let may = moves.len() < MOVES;
        if may {
            moves.push(now);
        }
        may
    }
}

impl Attachments {
    /// Moves what this process attached by TCX back to the outer edge of its device, where somebody
    /// came to be outside of it; returns who stays there.
    pub fn keep_outermost(&mut self, programs: &Programs, now: Instant) -> Vec<Outside> {
        let mut outside = Vec::new();
        // Loading takes the verifier's time, so one instance serves all hooks, one after the other.
        let mut seconds = BTreeMap::new();
        for (pin, (ifindex, program)) in &self.done {
            let Some((device, place)) = pin_parts(pin) else { continue };
            let Some(direction) = direction(place) else { continue };
            let target = Target::Tcx { ifindex: *ifindex, direction };
            let path = self.links.dir().join(pin);
            let Ok(Pinned::Link(link, info)) = links::open(&path) else { continue };
            if !target.is_of(&info) {
                continue;
            }
            let order = match bpf::query(*ifindex, target.attach_type()) {
                Ok(order) => order,
                Err(error) => {
                    tracing::debug!(device, %error, "the order of programs cannot be read");
                    continue;
                }
            };
            let Some(other) = outermost(&order, info.id, direction) else { continue };
            let (hook, other) = (Place::Tc(direction).name(), name(other));
            let reason = if self.moves.take(*ifindex, now) {
                let second = match seconds.entry(*program) {
                    Entry::Occupied(there) => Ok(there.into_mut()),
                    Entry::Vacant(vacant) => {
                        programs.second(program).map(|second| vacant.insert(second))
                    }
                };
                let moved = second.map_err(io::Error::other).and_then(|second| {
                    let two = [second.fd(), programs.fd(program)];
                    overtake(self.links.dir(), pin, &target, link.as_fd(), two)
                });
                match moved {
                    Ok(()) => {
                        tracing::warn!(
                            device,
                            hook,
                            program,
                            overtaken = other,
                            "a program of others was outside of ours: moved to the outer edge"
                        );
                        continue;
                    }
                    Err(error) => error.to_string(),
                }
            } else {
                format!("overtaken {MOVES} times within the hour, it came back each time")
            };
            outside.push(Outside { device, hook, program: other, reason });
        }
        outside
    }
}

/// The direction of a hook with an order, by its name in pins.
fn direction(place: &str) -> Option<Direction> {
    let directions = [Direction::Ingress, Direction::Egress];
    directions.into_iter().find(|direction| Place::Tc(*direction).name() == place)
}

/// Who is farthest outside of our link, if anybody is.
fn outermost(order: &[Attached], ours: u32, direction: Direction) -> Option<Attached> {
    let at = order.iter().position(|attached| attached.link == ours)?;
    let farthest = match direction {
        // The first one sees a packet as it came from the wire, the last one as it goes there.
        Direction::Ingress => 0,
        Direction::Egress => order.len() - 1,
    };
    (at != farthest).then(|| order[farthest])
}

/// The name of a program; its id where the agent may not ask for more.
fn name(attached: Attached) -> String {
    let id = attached.program;
    match bpf::program_name(id) {
        Ok(name) if !name.is_empty() => format!("program {name} (id {id})"),
        Ok(_) | Err(_) => format!("program {id} (`bpftool prog show id {id}`)"),
    }
}

/// Puts a link at the edge in the place of `old`: with the second instance of its program, because
/// the kernel takes none twice at one hook, until the first is free.
fn overtake(
    dir: &Path,
    pin: &str,
    target: &Target<'_>,
    old: BorrowedFd<'_>,
    [second, first]: [BorrowedFd<'_>; 2],
) -> io::Result<()> {
    let (path, beside) = (dir.join(pin), dir.join(format!("{pin}-new")));
    links::remove_link(&beside)?;
    let link = target.create(second)?;
    // Whoever starts after a sudden end here removes this pin, because no device wants it, and finds
    // the old link under its name.
    bpf::obj_pin(link.as_fd(), &beside)?;
    if let Err(error) = fs::rename(&beside, &path) {
        links::remove_link(&beside)?;
        return Err(error);
    }
    // The old link is held by nothing but this process now.
    bpf::link_detach(old)?;
    // The first instance is free to return: all that holds for what was attached holds again.
    bpf::link_update(link.as_fd(), first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_is_first_where_packets_come_in_and_last_where_they_leave() {
        let order = [7, 8, 9].map(|link| Attached { program: link + 100, link });
        let seen = |ours, direction| outermost(&order, ours, direction).map(|other| other.link);
        assert_eq!(seen(7, Direction::Ingress), None);
        assert_eq!(seen(9, Direction::Ingress), Some(7));
        assert_eq!(seen(9, Direction::Egress), None);
        assert_eq!(seen(7, Direction::Egress), Some(9));
        assert_eq!(seen(1, Direction::Egress), None, "ours is not there: nothing to be moved");
    }

    #[test]
    fn a_device_is_left_alone_after_some_moves_until_the_hour_is_over() {
        let (mut moves, start) = (Moves::default(), Instant::now());
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        for n in 0..5 {
            assert!(moves.take(2, minutes(n)), "{n}");
        }
        assert!(!moves.take(2, minutes(10)));
        assert!(moves.take(3, minutes(10)), "another device");
        assert!(moves.take(2, minutes(60)), "the first move is an hour ago");
        assert!(!moves.take(2, minutes(60)), "the second is not");
    }
}
