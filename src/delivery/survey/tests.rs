//! A survey of an owner with many destinations.

use super::*;

use crate::delivery::home::tests::now_at;
use crate::delivery::view::tests::deliver;
use crate::delivery::view::tests::owner;

#[test]
fn the_largest_are_named_and_the_rest_is_summed_up() {
    let many = LARGEST_MAX as u64 + 10;
    let mut owner = owner(0);
    for target in 1..=many {
        (0..target).for_each(|job| deliver(&mut owner, 1000 * target + job, target));
    }
    let shelf = Arc::new(DestinationsShelf::default());
    let mut survey = Survey::new(Arc::clone(&shelf));
    while shelf.load().largest.is_empty() {
        survey.tick(&mut owner, now_at(0));
    }
    let snapshot = shelf.load();
    let named: Vec<&str> = snapshot.largest.iter().map(|view| &*view.key).collect();
    let expected: Vec<String> =
        (11..=many).rev().map(|target| format!("mx{target}.b.test")).collect();
    assert_eq!(named, expected);
    let oldest = snapshot.largest[0].oldest;
    let others = Others { destinations: 10, queued: (1..=10).sum(), in_flight: 0, oldest };
    assert_eq!(snapshot.others, others);

    // The next one begins a second later.
    deliver(&mut owner, 999_000, many + 1);
    survey.tick(&mut owner, now_at(500));
    survey.tick(&mut owner, now_at(999));
    assert_eq!(shelf.load().others.destinations, 10);
    (0..4).for_each(|ms| survey.tick(&mut owner, now_at(1000 + ms)));
    assert_eq!(shelf.load().others.destinations, 11);
}
