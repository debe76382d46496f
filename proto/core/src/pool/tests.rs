//! Examples of what a pool decides. The laws over random lives of it are in `tests/deterministic`.

use super::*;

const MINUTE: Millis = 60_000;

fn team(name: &str, member: &str, gpus: u32, weight: u32) -> Team {
    Team { name: name.into(), members: vec![member.into()], gpus, per_lease: None, longest: None, weight }
}

fn gpu(number: u32, memory_mib: u64, name: &str) -> Slot {
    Slot { uuid: format!("GPU-{number}"), kind: SlotKind::Whole, memory_mib, name: name.into() }
}

fn ask(node: &str, gpus: u32) -> Ask {
    let who = Identity { node: node.into(), uid: 1000, user: "ada".into() };
    Ask { who, gpus, memory_mib: None, filters: vec![], at: 0, wait_until: None }
}

fn pool(teams: Vec<Team>, slots: u32) -> Pool {
    let slots = (0..slots).map(|n| gpu(n, 40_960, "NVIDIA A100 40GB")).collect();
    Pool::new(Policy { teams, idle_release: None }, slots).unwrap_or_else(|why| panic!("{why}"))
}

/// Carries out all that is to be done; says it in short.
fn done(pool: &mut Pool, now: Millis) -> Vec<String> {
    let mut said = vec![];
    for decision in pool.decide(now) {
        let lease = pool.carry_out(&decision, now);
        said.push(match &decision {
            Decision::Grant { ask, slots, .. } => {
                let slots: Vec<String> = slots.iter().map(|s| s.0.to_string()).collect();
                format!("ask {} gets {} as lease {}", ask.0, slots.join("+"), lease.map_or(0, |l| l.0))
            }
            Decision::Refuse { ask, why } => format!("ask {}: {why}", ask.0),
            Decision::Warn { lease, warning } => format!("warn {}: {warning:?}", lease.0),
            Decision::End { lease, why } => format!("end {}: {}", lease.0, why.word()),
            Decision::OutOfService { slot, why } => format!("slot {}: {why}", slot.0),
        });
    }
    assert_eq!(pool.decide(now), [], "decided twice");
    said
}

fn release(pool: &mut Pool, lease: u64, now: Millis) {
    pool.end(LeaseId(lease), Ended::Released, now);
    assert!(pool.engine_gone(LeaseId(lease)).is_some());
}

#[test]
fn a_slot_is_given_on_when_its_engine_is_gone_and_not_before() {
    let mut pool = pool(vec![team("ml", "*", 4, 1)], 1);
    for _ in 0..2 {
        pool.ask(ask("a", 1)).unwrap_or_else(|why| panic!("{why}"));
    }
    assert_eq!(done(&mut pool, 0), ["ask 1 gets 0 as lease 1"]);
    assert!(pool.engine_gone(LeaseId(1)).is_none(), "it has not ended");
    pool.end(LeaseId(1), Ended::Released, 10);
    assert_eq!(done(&mut pool, 10), [] as [&str; 0]);
    assert_eq!(pool.held_by("ml"), 1, "it counts until then");
    assert!(pool.engine_gone(LeaseId(1)).is_some());
    assert_eq!(done(&mut pool, 20), ["ask 2 gets 0 as lease 2"]);
    // One that does not go takes its slot with it.
    pool.end(LeaseId(2), Ended::Released, 30);
    assert_eq!(done(&mut pool, 25_029), [] as [&str; 0]);
    assert_eq!(done(&mut pool, 25_030), ["slot 0: its engine is not gone 25 s after its lease ended"]);
    assert!(pool.engine_gone(LeaseId(2)).is_some());
    pool.ask(ask("a", 1)).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(done(&mut pool, 30_000), [] as [&str; 0]);
    pool.in_service(SlotId(0));
    assert_eq!(done(&mut pool, 30_000), ["ask 3 gets 0 as lease 3"]);
}

#[test]
fn the_team_that_has_least_for_its_weight_comes_first() {
    let mut pool = pool(vec![team("ml", "ml-*", 8, 2), team("ci", "ci-*", 8, 1)], 6);
    for node in ["ci-1", "ci-1", "ci-1", "ci-1", "ml-1", "ml-1", "ml-1", "ml-1"] {
        pool.ask(ask(node, 1)).unwrap_or_else(|why| panic!("{why}"));
    }
    done(&mut pool, 0);
    assert_eq!((pool.held_by("ml"), pool.held_by("ci")), (4, 2));
}

#[test]
fn a_quota_is_the_teams_and_keeps_nobody_else_waiting() {
    let mut pool = pool(vec![team("ml", "ml-*", 2, 1), team("ci", "ci-*", 1, 1)], 4);
    for node in ["ml-1", "ml-2", "ml-3", "ci-1"] {
        pool.ask(ask(node, 1)).unwrap_or_else(|why| panic!("{why}"));
    }
    let said = done(&mut pool, 0);
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!((pool.held_by("ml"), pool.held_by("ci"), pool.asks().count()), (2, 1, 1));
    assert_eq!(pool.ask(ask("ml-1", 3)), Err(Refused::OverQuota { team: "ml".into(), most: 2 }));
    assert_eq!(pool.ask(ask("payroll", 1)), Err(Refused::NoTeam));
    // A smaller quota ends nothing.
    let teams = vec![team("ml", "ml-*", 1, 1), team("ci", "ci-*", 1, 1)];
    pool.set_policy(Policy { teams, idle_release: None }, 0).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(done(&mut pool, 0), [] as [&str; 0]);
    assert_eq!(pool.held_by("ml"), 2);
}

#[test]
fn a_large_ask_lets_eight_smaller_ones_pass_and_then_slots_are_kept_for_it() {
    let mut pool = pool(vec![team("ml", "*", 64, 1)], 2);
    pool.ask(ask("small", 1)).unwrap_or_else(|why| panic!("{why}"));
    done(&mut pool, 0);
    pool.ask(ask("large", 2)).unwrap_or_else(|why| panic!("{why}"));
    let mut passed = 0;
    for lease in 2.. {
        pool.ask(ask("small", 1)).unwrap_or_else(|why| panic!("{why}"));
        if done(&mut pool, 0).is_empty() {
            break;
        }
        passed += 1;
        release(&mut pool, lease, 0);
    }
    assert_eq!(passed, 8);
    release(&mut pool, 1, 0);
    assert_eq!(done(&mut pool, 0)[0], "ask 2 gets 0+1 as lease 10");
}

#[test]
fn memory_and_filters_are_kept_and_the_smallest_that_fits_is_given() {
    let slots =
        vec![gpu(0, 81_920, "NVIDIA H100 80GB"), gpu(1, 24_576, "NVIDIA A30"), gpu(2, 40_960, "NVIDIA A100")];
    let policy = Policy { teams: vec![team("ml", "*", 3, 1)], idle_release: None };
    let mut pool = Pool::new(policy, slots).unwrap_or_else(|why| panic!("{why}"));
    let with = |memory, filter: &str| Ask {
        memory_mib: memory,
        filters: if filter.is_empty() { vec![] } else { filter.parse().into_iter().collect() },
        ..ask("a", 1)
    };
    for ask in [with(Some(30_000), ""), with(None, ""), with(None, "device.name=h100")] {
        pool.ask(ask).unwrap_or_else(|why| panic!("{why}"));
    }
    let said = done(&mut pool, 0);
    assert_eq!(said, ["ask 1 gets 2 as lease 1", "ask 2 gets 1 as lease 2", "ask 3 gets 0 as lease 3"]);
    assert_eq!(pool.ask(with(Some(90_000), "")), Err(Refused::NoSuchGpu { there_are: 0 }));
    assert!("device.colour=red".parse::<Filter>().is_err());
}

#[test]
fn time_idleness_and_silence_end_a_lease_after_a_word() {
    let mut teams = vec![team("ml", "*", 4, 1)];
    teams[0].longest = Some(60 * MINUTE);
    let policy = Policy { teams, idle_release: Some(10 * MINUTE) };
    let slots = (0..3).map(|n| gpu(n, 1024, "x")).collect();
    let mut pool = Pool::new(policy, slots).unwrap_or_else(|why| panic!("{why}"));
    for _ in 0..3 {
        pool.ask(ask("a", 1)).unwrap_or_else(|why| panic!("{why}"));
    }
    done(&mut pool, 0);
    let hear =
        |pool: &mut Pool, leases: &[u64], now| leases.iter().for_each(|l| pool.heard(LeaseId(*l), now));
    pool.activity(LeaseId(2), false, 0);
    hear(&mut pool, &[1, 2], 8 * MINUTE);
    assert_eq!(done(&mut pool, 8 * MINUTE), ["warn 2: Idle { left: 120000 }", "end 3: client-gone"]);
    assert!(pool.engine_gone(LeaseId(3)).is_some());
    hear(&mut pool, &[1, 2], 10 * MINUTE);
    assert_eq!(done(&mut pool, 10 * MINUTE), ["end 2: idle-too-long"]);
    assert!(pool.engine_gone(LeaseId(2)).is_some());
    for (minute, said) in [
        (54, vec![]),
        (55, vec!["warn 1: TimeIsUp { left: 300000 }"]),
        (59, vec!["warn 1: TimeIsUp { left: 60000 }"]),
        (60, vec!["end 1: time-up"]),
    ] {
        hear(&mut pool, &[1], minute * MINUTE);
        assert_eq!(done(&mut pool, minute * MINUTE), said, "minute {minute}");
    }
}

#[test]
fn an_engine_that_crashes_thrice_takes_its_slot_out_of_service() {
    let mut pool = pool(vec![team("ml", "*", 4, 1)], 1);
    pool.ask(ask("a", 1)).unwrap_or_else(|why| panic!("{why}"));
    done(&mut pool, 0);
    for (at, says) in [(0, 0), (6 * MINUTE, 0), (7 * MINUTE, 0), (8 * MINUTE, 2)] {
        pool.heard(LeaseId(1), at);
        pool.engine_crashed(LeaseId(1), SlotId(0), at);
        let said = done(&mut pool, at);
        assert_eq!(said.len(), says, "{said:?}");
    }
}

#[test]
fn a_drained_server_refuses_and_ends_nothing() {
    let mut pool = pool(vec![team("ml", "*", 4, 1)], 1);
    for _ in 0..2 {
        pool.ask(ask("a", 1)).unwrap_or_else(|why| panic!("{why}"));
    }
    done(&mut pool, 0);
    pool.set_drained(true);
    assert_eq!(done(&mut pool, 0), ["ask 2: the server is being drained: it takes no new leases"]);
    assert_eq!(pool.ask(ask("a", 1)), Err(Refused::Drained));
    assert_eq!(pool.leases().count(), 1);
}

#[test]
fn it_says_when_it_wants_to_be_asked_again() {
    let mut teams = vec![team("ml", "*", 1, 1)];
    teams[0].longest = Some(60 * MINUTE);
    let policy = Policy { teams, idle_release: Some(10 * MINUTE) };
    let mut pool = Pool::new(policy, vec![gpu(0, 1024, "x")]).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(pool.next_look(0), None);
    pool.ask(ask("a", 1)).unwrap_or_else(|why| panic!("{why}"));
    pool.ask(Ask { wait_until: Some(5_000), ..ask("a", 1) }).unwrap_or_else(|why| panic!("{why}"));
    done(&mut pool, 0);
    assert_eq!(pool.next_look(0), Some(5_000));
    assert_eq!(done(&mut pool, 5_000), ["ask 2: nothing became free in time"]);
    assert_eq!(pool.next_look(5_000), Some(20_000), "the client's next word");
    pool.heard(LeaseId(1), 20 * MINUTE);
    pool.activity(LeaseId(1), false, 20 * MINUTE);
    pool.heard(LeaseId(1), 28 * MINUTE - 1);
    assert_eq!(pool.next_look(27 * MINUTE), Some(28 * MINUTE), "the warning of its idleness");
}

#[test]
fn patterns_and_policies() {
    for (pattern, name, so) in [
        ("train-1", "train-1", true),
        ("train-1", "train-10", false),
        ("notebook-*", "notebook-7", true),
        ("*-gpu", "a-gpu", true),
        ("a*b*c", "a1b2c", true),
        ("a*b*c", "ab", false),
        ("ab*ba", "aba", false),
        ("*", "", true),
    ] {
        assert_eq!(team::matches(pattern, name), so, "{pattern} {name}");
    }
    let wrong = |team: Team| Policy { teams: vec![team], idle_release: None }.check().is_err();
    assert!(wrong(team("a", "*", 0, 1)) && wrong(team("a", "*", 1, 0)) && wrong(team("", "*", 1, 1)));
    let twice = Policy { teams: vec![team("a", "*", 1, 1), team("a", "*", 1, 1)], idle_release: None };
    assert!(twice.check().is_err());
}
