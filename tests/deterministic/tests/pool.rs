//! Random lives of a GPU server's pool: `VSGPU_POOL_STEPS=1000000` is the long form, `VSGPU_SEED=N` replays
//! one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use vsgpu_deterministic::pool::live;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_laws_of_a_pool_hold_in_every_step() {
    let all = number("VSGPU_POOL_STEPS").unwrap_or(100_000);
    let one = 2_000;
    let seeds = number("VSGPU_SEED").map_or(0..all / one, |seed| seed..seed + 1);
    let (mut asks, mut grants, mut ends) = (0, 0, std::collections::BTreeMap::new());
    for seed in seeds.clone() {
        let life = live(seed, one).unwrap();
        (asks, grants) = (asks + life.asks, grants + life.grants);
        life.ends.into_iter().for_each(|(why, count)| *ends.entry(why).or_insert(0) += count);
    }
    println!("{} lives of {one} steps: {asks} asks, {grants} grants, ends {ends:?}", seeds.end - seeds.start);
    if number("VSGPU_SEED").is_none() {
        for why in ["released", "client-gone", "idle-too-long", "time-up", "engine-died"] {
            assert!(ends.contains_key(why), "no lease ended by {why}: the lives are too tame");
        }
    }
}
