//! Stories of initiators at the node that does not lead.

use crate::block::BlockStatus;
use crate::time::Duration;

use super::pair::Pair;
use super::{A, B, X, Y, Z, check};
use crate::volume::operator::OperatorCommand;

/// A leads, B is in sync, and both have initiators.
fn both_paths(shards: [usize; 2]) -> Pair {
    let mut pair = Pair::new(true, shards);
    pair.standby_serves = true;
    pair.start(A);
    pair.start(B);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()));
    pair.run();
    assert!(pair.nodes[A].serving && pair.nodes[B].serving);
    pair
}

#[test]
fn every_path_reads_and_writes_both_disks() {
    for shards in [[1, 1], [2, 1], [1, 3], [4, 4]] {
        let mut pair = both_paths(shards);
        for (value, block) in (1..).zip([X, Y, Z]) {
            pair.write(B, block, value);
            assert_eq!(pair.read(A, block), value);
            pair.write(A, block, value + 100);
            assert_eq!(pair.read(B, block), value + 100);
        }
        let zero = pair.begin_zero(B, Y);
        pair.flush(B);
        pair.run();
        assert_eq!(pair.answer(B, zero), Some(BlockStatus::Good));
        assert_eq!((pair.read(A, Y), pair.read(B, Y)), (0, 0));
        assert_eq!([A, B].map(|node| pair.nodes[node].disk.block(Y)), [0, 0]);
        check(&pair);
    }
}

#[test]
fn a_flush_at_the_follower_makes_both_disks_stable() {
    let mut pair = both_paths([2, 2]);
    pair.write(B, X, 1);
    pair.write(A, Y, 2);
    pair.flush(B);
    pair.cut_power(A);
    pair.cut_power(B);
    assert_eq!([A, B].map(|node| pair.nodes[node].disk.block(X)), [1, 1]);
    assert_eq!([A, B].map(|node| pair.nodes[node].disk.block(Y)), [2, 2]);
}

#[test]
fn more_requests_than_fit_the_link_are_all_answered() {
    let mut pair = both_paths([3, 3]);
    let mut asked = Vec::new();
    for round in 0..100 {
        asked.extend([X, Y, Z].map(|block| pair.begin_write(B, block + 16 * round, 7, false)));
        asked.extend([X, Y, Z].map(|block| pair.begin_read(B, block)));
    }
    pair.run();
    assert!(asked.iter().all(|&request| pair.answer(B, request) == Some(BlockStatus::Good)));
    check(&pair);
}

#[test]
fn a_hand_over_is_not_noticed_at_either_node() {
    for steps in 0..160 {
        let mut pair = both_paths([2, 1]);
        pair.context = format!("after {steps} steps");
        let ticket = pair.ask(A, OperatorCommand::Switchover);
        let mut asked = Vec::new();
        for step in 0..steps {
            if step % 10 == 0 {
                let value = step as u8 + 1;
                asked.push((A, pair.begin_write(A, X + step, value, step % 20 == 0)));
                asked.push((A, pair.begin_read(A, Y)));
                asked.push((A, pair.begin_flush(A)));
                asked.push((B, pair.begin_read(B, X)));
                asked.push((B, pair.begin_flush(B)));
            }
            pair.step();
        }
        pair.run();
        assert_eq!(pair.reply(A, ticket), Some(Ok(())), "{}", pair.context);
        assert!(pair.is_primary(B) && pair.nodes[A].serving && pair.nodes[B].serving);
        for (index, (node, request)) in asked.into_iter().enumerate() {
            let answer = pair.answer(node, request);
            assert_eq!(answer, Some(BlockStatus::Good), "{}: request {index} at {node}", pair.context);
        }
        pair.write(A, Z, 9);
        assert_eq!(pair.read(B, Z), 9);
        check(&pair);
    }
}

/// Seconds pass, and the nodes hear each other.
fn wait(pair: &mut Pair, seconds: u64) {
    for _ in 0..seconds * 5 {
        pair.pass_time(Duration::from_millis(200));
    }
}

/// The arbiter falls silent in the middle of a hand-over: initiators at neither node wait longer than the limit.
#[test]
fn a_hand_over_that_hangs_holds_requests_no_longer_than_the_limit() {
    let mut pair = both_paths([2, 1]);
    pair.ask(A, OperatorCommand::Switchover);
    while !pair.has_asked_for_a_change() {
        assert!(pair.step(), "A asks for the change");
    }
    pair.arbiter.held = true;
    let asked = [
        (A, pair.begin_write(A, X, 1, false)),
        (A, pair.begin_flush(A)),
        (B, pair.begin_write(B, Y, 1, false)),
        (B, pair.begin_read(B, X)),
        (B, pair.begin_flush(B)),
    ];
    wait(&mut pair, 44);
    assert!(asked.iter().all(|&(node, request)| pair.answer(node, request).is_none()));
    wait(&mut pair, 2);
    for (node, request) in asked {
        assert_eq!(pair.answer(node, request), Some(BlockStatus::NotReady), "at {node}");
    }
    let late = pair.begin_write(A, Z, 1, false);
    pair.run();
    assert_eq!(pair.answer(A, late), Some(BlockStatus::NotReady));
    pair.arbiter.held = false;
    pair.run();
    assert!(pair.is_primary(B));
    for (value, node) in [(2, A), (3, B)] {
        pair.write(node, X, value);
        assert_eq!(pair.read(1 - node, X), value);
    }
    check(&pair);
}

/// A write at the follower may be given up when the leader changes, never lost and never done twice.
#[test]
fn writes_at_the_follower_survive_a_hand_over_or_are_given_up() {
    for steps in 0..160 {
        let mut pair = both_paths([1, 2]);
        pair.context = format!("after {steps} steps");
        pair.ask(A, OperatorCommand::Switchover);
        let mut asked = Vec::new();
        for step in 0..steps {
            if step % 10 == 0 {
                asked.push(pair.begin_write(B, X + step, step as u8 + 1, false));
            }
            pair.step();
        }
        pair.run();
        assert!(asked.iter().all(|&request| pair.answer(B, request).is_some()), "{}", pair.context);
        check(&pair);
    }
}

#[test]
fn a_write_in_doubt_is_given_up_when_the_leader_is_known_to_have_stopped() {
    for meets_again in [true, false] {
        let mut pair = both_paths([1, 1]);
        pair.write(B, X, 1);
        pair.held[A] = true;
        let write = pair.begin_write(B, X, 2, false);
        let read = pair.begin_read(B, X);
        pair.run();
        pair.unplugged = true;
        if !meets_again {
            pair.kill(A);
        }
        pair.cut();
        pair.held[A] = false;
        pair.run();
        assert!(!pair.nodes[B].serving, "the other path, or a promotion");
        assert_eq!(pair.answer(B, write), None, "the old leader may still do it");
        assert_eq!(pair.answer(B, read), Some(BlockStatus::NotServing));
        pair.unplugged = false;
        if meets_again {
            pair.run();
            assert!(pair.is_primary(A) && pair.nodes[B].serving);
        } else {
            assert_eq!(pair.promote(B), Ok(()));
        }
        assert_eq!(pair.answer(B, write), Some(BlockStatus::NotServing));
        pair.write(B, X, 3);
        assert_eq!(pair.read(B, X), 3);
    }
}

#[test]
fn a_lock_taken_at_the_follower_keeps_everybody_else_out() {
    let mut pair = both_paths([1, 2]);
    let lock = pair.begin_lock(B, X);
    pair.run();
    assert_eq!(pair.answer(B, lock), Some(BlockStatus::Good));
    let intruders = [(A, pair.begin_write(A, X, 1, false)), (B, pair.begin_write(B, X, 2, false))];
    let mine = pair.begin_locked(B, X, 3);
    pair.run();
    assert_eq!(pair.answer(B, mine), Some(BlockStatus::Good));
    assert!(intruders.iter().all(|&(node, request)| pair.answer(node, request).is_none()));
    assert_eq!(pair.nodes[A].disk.block(X), 3);
    pair.unlock(B, X);
    pair.run();
    assert!(intruders.iter().all(|&(node, request)| pair.answer(node, request) == Some(BlockStatus::Good)));
    check(&pair);
}

#[test]
fn a_lock_does_not_outlive_the_session_that_it_was_taken_by() {
    let mut pair = both_paths([1, 1]);
    let lock = pair.begin_lock(B, X);
    pair.run();
    assert_eq!(pair.answer(B, lock), Some(BlockStatus::Good));
    pair.unplugged = true;
    pair.cut();
    pair.run();
    pair.write(A, X, 1);
    pair.unplugged = false;
    pair.run();
    assert!(pair.nodes[B].serving);
    let late = pair.begin_locked(B, X, 2);
    pair.run();
    assert_eq!(pair.answer(B, late), Some(BlockStatus::NotServing));
    pair.unlock(B, X);
    pair.run();
    pair.write(B, X, 3);
    check(&pair);
}
