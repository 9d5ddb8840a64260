//! The maps that random objects lead to are those that a naive reading of the contract asks for.
//!
//! Everything of the agent between the objects and the maps takes part: conversion, model, planner.
//! The worlds follow one another, each a few changes away from the one before, and after a while a
//! new agent is told all of a world at once, in another order. What differs is told with the world,
//! reduced to the objects that it takes.

mod agent;
mod endpoints;
mod naive;
mod network;
mod random;
mod slices;
mod tally;
mod world;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use agent::{Agent, events};
use random::Random;
use tally::Tally;
use world::World;

/// Worlds that one agent goes through.
const WORLDS: u64 = 100;
/// Agents of a run.
const AGENTS: u64 = 1_050;

/// SVC-1 to SVC-6, SVC-9, SVC-10, SVC-15 to SVC-17, FAM-6 to FAM-8, FAM-10, FAM-11, PORT-1 to PORT-7,
/// EIP-2, EIP-3, EIP-5, LB-1 to LB-4, LB-9, LB-11, SR-1, SR-2, SR-4 to SR-6, SR-10, TP-1, TP-3, TP-4,
/// TP-13, TP-14, ES-1 to ES-9, ES-13, ES-15, EP-1 to EP-8, TOP-1 to TOP-9, AFF-2, HC-1, HC-5.
#[test]
fn the_maps_are_those_of_a_naive_reading_of_the_contract() {
    let agents = AGENTS * if std::env::var_os("LB_TEST_NIGHTLY").is_some() { 10 } else { 1 };
    let next = AtomicU64::new(0);
    let all = Mutex::new(Tally::default());
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(8) {
            let _handle = threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= agents {
                        break;
                    }
                    let tally = life(seed);
                    all.lock().expect("no life failed").add(&tally);
                }
            });
        }
    });
    let all = all.into_inner().expect("no life failed");
    println!("{all:?}");
    assert!(all.worlds >= 100_000, "too few: {all:?}");
    // What was never there was never tested.
    assert!(all.least() >= all.worlds / 1000, "something is too rare: {all:?}");
}

/// One agent and the worlds that it goes through.
fn life(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let mut agent = Agent::new();
    let mut world = World::default();
    let mut tally = Tally::default();
    for step in 0..WORLDS {
        let before = world.clone();
        world.change(&mut random);
        let mut changes = events(&before, &world);
        random.shuffle(&mut changes);
        // One batch, or several.
        let at = random.below(changes.len() + 1);
        let rest = changes.split_off(at);
        agent.feed(changes);
        agent.feed(rest);
        let contract = naive::read(&world);
        if let Err(why) = agent.check(&contract) {
            fail(seed, step, &why, &world);
        }
        tally.count(&contract);
    }
    if let Err(why) = at_once(&world, &mut random) {
        fail(seed, WORLDS, &why, &world);
    }
    tally.worlds += 1;
    tally
}

/// A new agent that is told all of a world at once, in any order.
fn at_once(world: &World, random: &mut Random) -> Result<(), String> {
    let mut agent = Agent::new();
    let mut all = events(&World::default(), world);
    random.shuffle(&mut all);
    agent.feed(all);
    agent.check(&naive::read(world))
}

/// Tells what went wrong, with as little of the world as shows it.
fn fail(seed: u64, step: u64, why: &str, world: &World) -> ! {
    let mut small = world.clone();
    let wrong = |world: &World| at_once(world, &mut Random::new(seed)).err();
    let Some(mut what) = wrong(&small) else {
        panic!("agent {seed}, world {step}: {why}\n(the world alone is no problem)\n{world:#?}");
    };
    while let Some((smaller, less)) =
        small.smaller().into_iter().find_map(|world| wrong(&world).map(|why| (world, why)))
    {
        (small, what) = (smaller, less);
    }
    panic!("agent {seed}, world {step}: {why}\nreduced: {what}\n{small:#?}");
}
