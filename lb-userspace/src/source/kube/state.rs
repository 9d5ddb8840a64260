//! How the API server and the watches do: for `lb status`, the metrics and one log line a change.
//!
//! Invariant: what is logged is a change of state, never an attempt.

use std::time::SystemTime;

use tracing::{debug, info, warn};

use super::trouble::{Class, Trouble};

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// The Node that the agent runs on.
    Nodes,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Services, Self::Slices, Self::Nodes];

    /// The name of several.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "Services",
            Self::Slices => "EndpointSlices",
            Self::Nodes => "Nodes",
        }
    }

    /// The name of one.
    pub const fn one(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::Slices => "EndpointSlice",
            Self::Nodes => "Node",
        }
    }

    /// The name of the resource, in the API and in metrics.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "endpointslices",
            Self::Nodes => "nodes",
        }
    }
}

/// How one watch does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WatchState {
    /// What is watched.
    pub kind: Kind,
    /// Whether everything was listed once.
    pub listed: bool,
    /// How many objects there are.
    pub objects: usize,
    /// When the server said something last, a bookmark at least.
    pub heard: Option<SystemTime>,
    /// What is wrong, and since when.
    pub trouble: Option<(Trouble, SystemTime)>,
}

/// How a source does.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourceState {
    /// The address of the API server; none where the source is another.
    pub server: Option<String>,
    /// What is wrong with the server as a whole, and since when.
    pub trouble: Option<(Trouble, SystemTime)>,
    /// Since when all is well.
    pub well_since: Option<SystemTime>,
    /// The watches.
    pub watches: Vec<WatchState>,
    /// What was logged since all was well: what comes and goes by turns is told once.
    told: Vec<Class>,
}

impl SourceState {
    /// Nothing was heard of this server yet.
    pub(super) fn new(server: &str) -> Self {
        let watch =
            |kind| WatchState { kind, listed: false, objects: 0, heard: None, trouble: None };
        let watches = Kind::ALL.map(watch).into();
        Self { server: Some(server.to_owned()), watches, ..Self::default() }
    }

    /// When the watch of which the least is known was heard last: what is shown is as old as this.
    pub fn heard(&self) -> Option<SystemTime> {
        let heard = self.watches.iter().map(|watch| watch.heard).min();
        heard.flatten()
    }

    pub(super) fn watch(&self, kind: Kind) -> &WatchState {
        let found = self.watches.iter().find(|watch| watch.kind == kind);
        found.expect("every kind has a watch")
    }

    fn watch_mut(&mut self, kind: Kind) -> &mut WatchState {
        let found = self.watches.iter_mut().find(|watch| watch.kind == kind);
        found.expect("every kind has a watch")
    }

    /// The server answered.
    pub(super) fn well(&mut self, kind: Kind, now: SystemTime, objects: Option<usize>) {
        let watch = self.watch_mut(kind);
        watch.heard = Some(now);
        watch.trouble = None;
        watch.objects = objects.unwrap_or(watch.objects);
        self.look(now);
    }

    /// Everything was listed.
    pub(super) fn listed(&mut self, kind: Kind) {
        self.watch_mut(kind).listed = true;
    }

    /// Something is wrong.
    pub(super) fn ill(&mut self, kind: Kind, trouble: Trouble, now: SystemTime) {
        let watch = self.watch_mut(kind);
        // Every attempt at a server that does not answer is slow first: no news.
        if trouble.class == Class::Slow && watch.trouble.is_some() {
            return;
        }
        let since = watch.trouble.as_ref().map_or(now, |(_, since)| *since);
        watch.trouble = Some((trouble, since));
        self.look(now);
    }

    /// Finds out how the server does as a whole, and logs it if that changed.
    fn look(&mut self, now: SystemTime) {
        let ill = self.watches.iter().filter_map(|watch| {
            watch.trouble.as_ref().map(|(trouble, since)| (trouble, *since, watch.kind))
        });
        let worst = ill.clone().max_by_key(|(trouble, _, _)| trouble.class);
        let Some((trouble, _, _)) = worst else {
            let all_heard = self.watches.iter().all(|watch| watch.heard.is_some());
            self.told.clear();
            match self.trouble.take() {
                Some((_, since)) => {
                    let lasted = now.duration_since(since).unwrap_or_default();
                    info!(server = self.server, ?lasted, "the API server is back");
                    self.well_since = Some(now);
                }
                None if all_heard && self.well_since.is_none() => {
                    info!(server = self.server, "the API server answers");
                    self.well_since = Some(now);
                }
                None => {}
            }
            return;
        };
        let before = self.trouble.as_ref().map(|(trouble, _)| trouble.class);
        if before == Some(trouble.class) {
            return;
        }
        // One refused kind is not the server's fault: which one it is has to be said.
        let kinds: Vec<&str> = ill.clone().map(|(_, _, kind)| kind.name()).collect();
        let mut told = trouble.clone();
        if kinds.len() < self.watches.len() && trouble.class == Class::Forbidden {
            told.text = format!("{}: {}", kinds.join(", "), trouble.text);
        }
        let since = ill.map(|(_, since, _)| since).min().unwrap_or(now);
        let state = told.class.name();
        let error = &*told.text;
        if self.told.contains(&told.class) {
            debug!(server = self.server, state, error, "the API server");
        } else {
            self.told.push(told.class);
            warn!(server = self.server, state, error, "the API server: what is programmed stays");
        }
        self.well_since = None;
        self.trouble = Some((told, since));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_state_changes_once_however_often_it_is_tried() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = SourceState::new("http://x");
        for kind in Kind::ALL {
            state.well(kind, at(0), Some(2));
        }
        assert_eq!((state.heard(), state.well_since), (Some(at(0)), Some(at(0))));
        for second in 1..9 {
            for kind in Kind::ALL {
                state.ill(
                    kind,
                    Trouble::new(Class::Unreachable, format!("try {second}")),
                    at(second),
                );
            }
        }
        let trouble = state.trouble.clone().expect("it is away");
        assert_eq!((trouble.0.text.as_str(), trouble.1), ("try 1", at(1)));
        state.well(Kind::Services, at(9), None);
        assert!(state.trouble.is_some(), "not all watches are back");
        assert_eq!(state.heard(), Some(at(0)), "as old as the oldest");
        state.well(Kind::Slices, at(9), None);
        state.well(Kind::Nodes, at(9), None);
        assert_eq!((state.trouble, state.well_since), (None, Some(at(9))));
    }

    #[test]
    fn a_server_that_hangs_is_not_slow_again_with_every_attempt() {
        let now = SystemTime::UNIX_EPOCH;
        let mut state = SourceState::new("http://x");
        for _ in 0..3 {
            state.ill(Kind::Services, Trouble::new(Class::Slow, "slow"), now);
            state.ill(Kind::Services, Trouble::new(Class::Unreachable, "silent"), now);
            let class = state.trouble.as_ref().map(|(trouble, _)| trouble.class);
            assert_eq!(class, Some(Class::Unreachable));
        }
        assert_eq!(state.told, [Class::Slow, Class::Unreachable]);
        for kind in Kind::ALL {
            state.well(kind, now, None);
        }
        assert!(state.told.is_empty() && state.trouble.is_none());
    }

    #[test]
    fn the_worst_is_told_and_of_a_refusal_what_is_refused() {
        let now = SystemTime::UNIX_EPOCH;
        let mut state = SourceState::new("http://x");
        state.ill(Kind::Slices, Trouble::new(Class::Slow, "slow"), now);
        state.ill(Kind::Nodes, Trouble::of_status(403, "no"), now);
        let (trouble, _) = state.trouble.expect("something is wrong");
        assert_eq!(trouble.class, Class::Forbidden);
        assert!(trouble.text.contains("Nodes: it answers 403 (no)"), "{}", trouble.text);
    }
}
