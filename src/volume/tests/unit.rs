//! Stories of the unit state: what the logical unit remembers of its initiators.

use crate::block::{UNIT_BYTES_MAX, UnitAnswer, UnitVersion};
use crate::time::Duration;
use crate::units::NodeId;
use crate::volume::operator::{OperatorCommand, Refusal};

use super::pair::Pair;
use super::{A, B, serving};

/// A leads, B is in sync, and both have initiators.
fn both_paths(shards: [usize; 2]) -> Pair {
    let mut pair = Pair::new(true, shards);
    pair.standby_serves = true;
    pair.start(A);
    pair.start(B);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()));
    pair.run();
    pair
}

/// Changes the state and runs until nothing is left to do.
fn change(pair: &mut Pair, number: usize, bytes: &[u8]) -> Option<UnitAnswer> {
    let name = pair.begin_change(number, 0, bytes);
    pair.run();
    pair.change_answer(number, name)
}

/// Every shard of every running node, and every disk, has the state.
fn all_have(pair: &Pair, version: u64, bytes: &[u8], shards: [usize; 2]) {
    for (number, shards) in [A, B].into_iter().zip(shards) {
        let stored = pair.stored_unit(number).expect("it is kept").state;
        assert_eq!((stored.version, &*stored.bytes), (UnitVersion(version), bytes), "disk of {number}");
        for shard in 0..shards {
            assert_eq!(*pair.unit(number, shard), stored, "node {number} shard {shard}");
        }
    }
}

#[test]
fn a_change_at_either_node_is_held_and_adopted_by_both() {
    for shards in [[1, 1], [2, 1], [1, 3]] {
        let mut pair = both_paths(shards);
        assert_eq!(change(&mut pair, A, b"one"), Some(UnitAnswer::Done));
        all_have(&pair, 1, b"one", shards);
        assert_eq!(change(&mut pair, B, b"two"), Some(UnitAnswer::Done));
        all_have(&pair, 2, b"two", shards);
        let long = vec![5; UNIT_BYTES_MAX];
        assert_eq!(change(&mut pair, B, &long), Some(UnitAnswer::Done));
        all_have(&pair, 3, &long, shards);
        assert_eq!(pair.coordinator(B).status().unit, UnitVersion(3));
    }
}

#[test]
fn of_two_from_one_base_the_second_is_stale_and_its_shard_has_the_first() {
    for (first, second) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut pair = both_paths([2, 2]);
        let winner = pair.begin_change(first, 0, b"first");
        pair.step();
        let loser = pair.begin_change(second, 1, b"second");
        while pair.change_answer(second, loser).is_none() {
            assert!(pair.step(), "both are answered");
        }
        let answers = [pair.change_answer(first, winner), pair.change_answer(second, loser)];
        let stale = if answers[0] == Some(UnitAnswer::Stale) { first } else { second };
        assert!(answers.contains(&Some(UnitAnswer::Stale)), "{answers:?}");
        assert_eq!(pair.unit(stale, 1).version, UnitVersion(1));
        pair.run();
        assert!(pair.change_answer(first, winner).is_some());
    }
}

#[test]
fn an_answer_waits_until_both_nodes_are_quiet() {
    for noisy in [A, B] {
        for asked in [A, B] {
            let mut pair = both_paths([1, 2]);
            pair.nodes[noisy].noisy = true;
            let name = pair.begin_change(asked, 0, b"preempt");
            pair.run();
            assert_eq!(pair.change_answer(asked, name), None);
            pair.nodes[noisy].noisy = false;
            pair.run();
            assert_eq!(pair.change_answer(asked, name), Some(UnitAnswer::Done));
        }
    }
}

#[test]
fn without_the_peer_a_change_waits_for_the_record() {
    let mut pair = both_paths([1, 1]);
    pair.held = [true, true];
    let name = pair.begin_change(A, 0, b"alone");
    pair.run();
    assert_eq!(pair.change_answer(A, name), None, "the peer has not said that it holds it");
    pair.arbiter.held = true;
    pair.unplugged = true;
    pair.cut();
    pair.run();
    assert_eq!(pair.change_answer(A, name), None, "the record still counts the peer in");
    pair.arbiter.held = false;
    pair.run();
    assert_eq!(pair.change_answer(A, name), Some(UnitAnswer::Done));
    assert!(!pair.arbiter.record.in_sync.contains(NodeId(1)));
    // Back again, the peer takes it over before it counts.
    pair.held = [false, false];
    pair.unplugged = false;
    pair.run();
    assert!(pair.arbiter.record.in_sync.contains(NodeId(1)));
    all_have(&pair, 1, b"alone", [1, 1]);
}

#[test]
fn a_forwarded_change_whose_leader_is_lost_is_in_doubt_and_said_so() {
    let mut pair = both_paths([1, 1]);
    pair.held = [true, true];
    let name = pair.begin_change(B, 0, b"doubt");
    pair.run();
    pair.unplugged = true;
    pair.cut();
    pair.run();
    assert_eq!(pair.change_answer(B, name), Some(UnitAnswer::NotServing));
}

/// The leader or the follower loses its power after any number of steps; the other goes on.
#[test]
fn no_loss_of_power_takes_an_answered_change_back() {
    for (asked, lost) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut answered = 0;
        for steps in 0..60 {
            let mut pair = both_paths([1, 2]);
            assert_eq!(change(&mut pair, A, b"old"), Some(UnitAnswer::Done));
            let name = pair.begin_change(asked, 0, b"new");
            for _ in 0..steps {
                pair.step();
            }
            let done = pair.change_answer(asked, name) == Some(UnitAnswer::Done);
            pair.cut_power(lost);
            let left = 1 - lost;
            pair.run();
            if left == B {
                assert_eq!(pair.promote(B), Ok(()));
            }
            let (state, shard) = (pair.coordinator(left).unit().clone(), pair.unit(left, 0).clone());
            assert!(!done || *state.bytes == *b"new", "{steps} steps: {state:?}");
            answered += u32::from(done);
            assert_eq!(state, shard);
            assert_eq!(change(&mut pair, left, b"newer"), Some(UnitAnswer::Done));
            pair.start(lost);
            pair.run();
            all_have(&pair, state.version.0 + 1, b"newer", [1, 2]);
        }
        assert!(answered > 0 && answered < 60, "the cut comes before and after: {answered}");
    }
}

#[test]
fn both_without_power_and_nothing_answered_is_forgotten() {
    for steps in 0..60 {
        let mut pair = both_paths([1, 1]);
        let name = pair.begin_change(B, 0, &[3; 9000]);
        for _ in 0..steps {
            pair.step();
        }
        let done = pair.change_answer(B, name) == Some(UnitAnswer::Done);
        pair.cut_power(A);
        pair.cut_power(B);
        pair.start(B);
        pair.start(A);
        pair.run();
        assert_eq!(pair.promote(B), Ok(()));
        pair.run();
        let version = pair.coordinator(B).unit().version;
        assert!(version == UnitVersion(1) || !done, "{steps} steps");
        assert_eq!(pair.coordinator(A).unit(), pair.coordinator(B).unit());
    }
}

#[test]
fn a_hand_over_takes_the_state_along_and_no_change_is_lost_in_it() {
    let mut pair = both_paths([2, 1]);
    assert_eq!(change(&mut pair, B, b"before"), Some(UnitAnswer::Done));
    for steps in 0..40 {
        let leader = if pair.is_primary(A) { A } else { B };
        let ticket = pair.ask(leader, OperatorCommand::Switchover);
        let names = [A, B].map(|number| {
            for _ in 0..steps / 2 {
                pair.step();
            }
            (number, pair.begin_change(number, 0, &[steps, number as u8]))
        });
        pair.run();
        assert_eq!(pair.reply(leader, ticket), Some(Ok(())));
        assert!(pair.is_primary(1 - leader) && pair.nodes[A].serving && pair.nodes[B].serving);
        let answers = names.map(|(number, name)| pair.change_answer(number, name));
        assert!(answers.contains(&Some(UnitAnswer::Done)), "{steps} steps: {answers:?}");
        let known = |answer| matches!(answer, Some(UnitAnswer::Done | UnitAnswer::Stale));
        assert!(answers.into_iter().all(known), "{steps} steps: {answers:?}");
        let state = pair.coordinator(A).unit().clone();
        all_have(&pair, state.version.0, &state.bytes, [2, 1]);
    }
}

#[test]
fn one_copy_gone_bad_costs_nothing() {
    for copy in 0..2 {
        let mut pair = serving([1, 1]);
        assert_eq!(change(&mut pair, A, b"kept"), Some(UnitAnswer::Done));
        pair.cut_power(A);
        pair.cut_power(B);
        for number in [A, B] {
            pair.spoil_unit(number, copy);
            assert_eq!(*pair.stored_unit(number).expect("the other copy").state.bytes, *b"kept");
        }
    }
}

#[test]
fn a_node_that_lost_both_copies_gets_them_from_the_other_whoever_leads() {
    let mut pair = serving([1, 1]);
    assert_eq!(change(&mut pair, A, b"kept"), Some(UnitAnswer::Done));
    pair.cut_power(A);
    pair.cut_power(B);
    pair.spoil_unit(A, 0);
    pair.spoil_unit(A, 1);
    pair.start(A);
    pair.run();
    assert_eq!(pair.promote(A), Err(Refusal::MayLackWrites));
    pair.start(B);
    pair.run();
    all_have(&pair, 1, b"kept", [1, 1]);
    assert_eq!(pair.promote(A), Ok(()), "it has met the other");
    assert_eq!(change(&mut pair, A, b"more"), Some(UnitAnswer::Done));
    all_have(&pair, 2, b"more", [1, 1]);
}

#[test]
fn more_than_the_queue_holds_are_turned_away() {
    let mut pair = serving([1, 1]);
    pair.nodes[A].disk.held = true;
    let names: Vec<u64> = (0..200).map(|_| pair.begin_change(A, 0, b"many")).collect();
    let refused = names.iter().filter(|name| pair.change_answer(A, **name).is_some()).count();
    assert_eq!(refused, 200 - 129, "one under way and 128 that wait");
    pair.nodes[A].disk.held = false;
    pair.run();
    let count = |answer| names.iter().filter(|name| pair.change_answer(A, **name) == Some(answer)).count();
    assert_eq!((count(UnitAnswer::Done), count(UnitAnswer::Stale)), (1, 128));
}

#[test]
fn a_node_that_stops_serving_answers_what_waits() {
    let mut pair = both_paths([1, 1]);
    pair.nodes[B].noisy = true;
    let names = [A, B].map(|number| (number, pair.begin_change(number, 0, b"late")));
    pair.run();
    assert_eq!(pair.command(A, OperatorCommand::Demote), Ok(()));
    pair.pass_time(Duration::from_millis(10));
    for (number, name) in names {
        assert_eq!(pair.change_answer(number, name), Some(UnitAnswer::NotServing), "node {number}");
    }
}
