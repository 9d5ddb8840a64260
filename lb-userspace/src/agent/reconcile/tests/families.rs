//! A family whose maps cannot be written rests; the other goes on.

use lb_common::names;

use super::*;

fn dual(name: &str, last: u8) -> Event {
    let Event::PutService(one) = service(name, last) else { panic!("it is one") };
    let vip6 = Some([0xfd96, 0, 0, 0, 0, 0, 0, u16::from(last)].into());
    Event::PutService(Service { vip6, ..Service::clone(&one) }.into())
}

/// Frontends and markers of each family.
fn counts(reconciler: &Reconciler<Memory>) -> [usize; 2] {
    let contents = reconciler.maps.contents().unwrap();
    let all = || contents.frontends.keys();
    FAMILIES.map(|family| all().filter(|frontend| frontend.family() == family).count())
}

/// FAM-4: what comes while one family rests after a failure is written for the other at once, and
/// the one that rests is left alone until its time.
#[test]
fn a_family_that_rests_does_not_hold_up_the_other() {
    let now = Instant::now();
    let [v4, v6] = FAMILIES;
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.maps.maps.set_fault(Some(Fault::Always(names::LB6_FRONTENDS)));
    reconciler.events([dual("vote", 10), Event::Coverage(Coverage::Full)]);
    let follow = |reconciler: &Reconciler<Memory>| FAMILIES.map(|of| reconciler.follows(of));
    assert_eq!(follow(&reconciler), [false, false]);
    let pass = reconciler.pass(now).unwrap();
    assert_eq!(pass.error.map(|error| error.map), Some(names::LB6_FRONTENDS));
    assert_eq!((counts(&reconciler), follow(&reconciler)), ([2, 0], [true, false]));
    assert!(reconciler.pass(now).is_none(), "it rests");
    let wake = reconciler.wake().unwrap();

    reconciler.events([dual("shop", 11)]);
    assert_eq!(follow(&reconciler), [false, false]);
    let pass = reconciler.pass(now).unwrap();
    assert!(pass.error.is_none(), "nothing is tried that fails: {pass:?}");
    assert_eq!((counts(&reconciler), follow(&reconciler)), ([4, 0], [true, false]));
    assert!(reconciler.pass(now).is_none() && !reconciler.settled());
    assert_eq!(reconciler.wake(), Some(wake), "as long as before");

    // It fails once more, and then no more.
    assert!(reconciler.pass(wake).unwrap().error.is_some());
    reconciler.maps.maps.set_fault(None);
    let wake = reconciler.wake().unwrap();
    assert!(reconciler.pass(wake).unwrap().error.is_none());
    assert_eq!((counts(&reconciler), follow(&reconciler)), ([4, 4], [true, true]));
    assert!(reconciler.settled() && reconciler.follows(v4) && reconciler.follows(v6));
}

/// FAM-4: nothing waits for a family that has nothing to write any more.
#[test]
fn what_is_no_longer_wanted_is_not_tried_again() {
    let now = Instant::now();
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.events([dual("vote", 10), Event::Coverage(Coverage::Full)]);
    assert!(reconciler.pass(now).unwrap().error.is_none());
    reconciler.maps.maps.set_fault(Some(Fault::Always(names::LB6_FRONTENDS)));
    reconciler.events([dual("vote", 11)]);
    assert!(reconciler.pass(now).unwrap().error.is_some());
    reconciler.events([dual("vote", 10)]);
    assert!(reconciler.pass(now).unwrap().error.is_none());
    assert_eq!((counts(&reconciler), reconciler.wake()), ([2, 2], None));
    assert!(reconciler.settled());
}

/// SYNC-5: what failed once and was written one by one after all waits for nothing.
#[test]
fn what_was_written_in_the_end_is_settled() {
    let now = Instant::now();
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.maps.maps.set_fault(Some(Fault::Once(names::LB4_FRONTENDS)));
    reconciler.events([dual("vote", 10), Event::Coverage(Coverage::Full)]);
    assert!(reconciler.pass(now).unwrap().error.is_some(), "it is told");
    assert_eq!(counts(&reconciler), [2, 2]);
    assert!(reconciler.settled());
    assert_eq!(reconciler.wake(), None);
}
