//! Names that very many endpoints share, each kept once.
//!
//! Invariant: nobody can tell an interned name from a copy but by the memory that it takes.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use crate::model::Hints;

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// The names that are in use.
pub(super) fn names() -> MutexGuard<'static, Names> {
    // Whatever a panic interrupted, a set of names is as good as before.
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Shared<str>,
    hints: Shared<Hints>,
}

impl Names {
    /// A name.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        match self.texts.known.get(text) {
            Some(known) => known.clone(),
            None => self.texts.add(text.into()),
        }
    }

    /// Hints, sorted; `None` when they say nothing.
    pub(super) fn hints<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a str>,
        zones: impl Iterator<Item = &'a str>,
    ) -> Option<Arc<Hints>> {
        let hints = Hints { nodes: self.sorted(nodes), zones: self.sorted(zones) };
        if hints == Hints::default() {
            return None;
        }
        Some(match self.hints.known.get(&hints) {
            Some(known) => known.clone(),
            None => self.hints.add(hints.into()),
        })
    }

    fn sorted<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
        let names = names.filter(|name| !name.is_empty());
        let mut names: Vec<Arc<str>> = names.map(|name| self.text(name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Values that are kept as long as somebody else has them, and until the next time that room is
/// needed.
#[derive(Debug)]
struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>>,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { known: HashSet::new() }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn add(&mut self, value: Arc<T>) -> Arc<T> {
        if self.known.len() == self.known.capacity() {
            self.known.retain(|known| Arc::strong_count(known) > 1);
        }
        let _new = self.known.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_only_while_it_is_used() {
        let mut names = Names::default();
        let kept = names.text("node-1");
        assert!(Arc::ptr_eq(&kept, &names.text("node-1")));
        let hints = |names: &mut Names, zones: [&'static str; 2]| {
            names.hints(["node-1"].into_iter(), zones.into_iter()).expect("something")
        };
        let (one, other) = (hints(&mut names, ["b", "a"]), hints(&mut names, ["a", "b"]));
        assert!(Arc::ptr_eq(&one, &other));
        for number in 0..10_000 {
            let _dropped = names.text(&format!("node-{number}"));
        }
        assert!(names.texts.known.len() < 100, "{}", names.texts.known.len());
        assert!(Arc::ptr_eq(&kept, &names.text("node-1")));
    }

    #[test]
    fn hints_that_name_nobody_are_none() {
        let mut names = Names::default();
        assert_eq!(names.hints([""].into_iter(), [].into_iter()), None);
    }
}
