//! Stories of two nodes, told on the table of [`pair`]; and every defect that a reader once found, as the story that
//! shows it. The simulator draws its stories at random; these are the ones to read.

mod pair;

use crate::block::BlockStatus;
use crate::time::Duration;
use crate::units::NodeId;

use super::operator::{OperatorCommand, Refusal};
use pair::Pair;

const A: usize = 0;
const B: usize = 1;
/// First blocks of extents 0 to 3, one in each lane.
const X: u64 = 5;
const Y: u64 = 1024 + 9;
const Z: u64 = 2048 + 3;

fn seed() -> OperatorCommand {
    OperatorCommand::Promote { seed: true, i_have_fenced: None }
}

fn forced(fenced: usize) -> OperatorCommand {
    OperatorCommand::Promote { seed: false, i_have_fenced: Some(NodeId(fenced as u8)) }
}

/// Both run, declared equal, and A serves beside B.
fn serving(shards: [usize; 2]) -> Pair {
    let mut pair = Pair::new(true, shards);
    pair.start(A);
    pair.start(B);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()));
    assert!(is_together(&pair, A));
    pair
}

/// Does `leader` serve with the other node in sync?
fn is_together(pair: &Pair, leader: usize) -> bool {
    let record = pair.arbiter.record;
    let both = record.in_sync.contains(NodeId(0)) && record.in_sync.contains(NodeId(1));
    let leads = pair.is_primary(leader) && pair.nodes[leader].serving && !pair.nodes[1 - leader].serving;
    both && leads && !pair.coordinator(leader).status().suspended && pair.dirty(A) == 0 && pair.dirty(B) == 0
}

fn check(pair: &Pair) {
    pair.check_equal();
    pair.check_written(A);
    pair.check_written(B);
}

// ---- the plain stories ----

#[test]
fn first_promotion_beside_a_peer_needs_no_copy() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    assert_eq!(pair.read(A, X), 1);
    pair.flush(A);
    check(&pair);
    assert_eq!(pair.promote(B), Err(Refusal::PeerIsPrimary));
}

#[test]
fn a_seeded_volume_is_copied_whole() {
    let mut pair = Pair::new(false, [1, 1]);
    pair.start(A);
    pair.start(B);
    pair.run();
    assert_eq!(pair.promote(A), Err(Refusal::NeverSynced));
    assert_eq!(pair.command(A, seed()), Ok(()));
    pair.write(A, X, 1);
    pair.run();
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn a_crashed_primary_is_replaced_and_comes_back() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.write(A, Y, 2);
    pair.held[A] = true;
    pair.begin_write(A, X, 3, false);
    pair.run();
    pair.kill(A);
    pair.held[A] = false;
    pair.run();
    assert_eq!(pair.promote(B), Ok(()));
    pair.write(B, Z, 4);
    pair.check_written(B);
    pair.start(A);
    pair.run();
    assert!(is_together(&pair, B));
    check(&pair);
    // And back again.
    pair.cut_power(B);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()));
    pair.write(A, Z, 5);
    pair.start(B);
    pair.run();
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn a_crashed_secondary_is_resynchronised() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.cut_power(B);
    pair.write(A, Y, 2);
    assert!(pair.dirty(A) > 0);
    pair.start(B);
    pair.run();
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn a_lost_link_holds_writes_until_the_arbiter_agrees() {
    let mut pair = serving([1, 1]);
    pair.arbiter.held = true;
    pair.unplugged = true;
    pair.cut();
    let write = pair.begin_write(A, X, 1, false);
    let read = pair.begin_read(A, Y);
    pair.run();
    assert_eq!((pair.answer(A, write), pair.answer(A, read)), (None, None));
    pair.arbiter.held = false;
    pair.run();
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
    assert_eq!(pair.answer(A, read), Some(BlockStatus::Good));
    let record = pair.arbiter.record;
    assert_eq!(pair.promote(B), Err(Refusal::NotInSync { record }), "the stale copy refuses");
    pair.unplugged = false;
    pair.run();
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn switchover_moves_the_service_both_ways() {
    let mut pair = serving([2, 1]);
    pair.write(A, X, 1);
    assert_eq!(pair.command(A, OperatorCommand::Switchover), Ok(()));
    assert!(is_together(&pair, B));
    assert_eq!(pair.read(B, X), 1);
    pair.write(B, X, 2);
    assert_eq!(pair.command(B, OperatorCommand::Switchover), Ok(()));
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn both_stop_and_start_in_order() {
    for first in [A, B] {
        let mut pair = serving([1, 1]);
        pair.write(A, X, 1);
        for number in [first, 1 - first] {
            assert_eq!(pair.command(number, OperatorCommand::Stop), Ok(()));
            pair.cut_power(number);
            pair.run();
        }
        // Whoever stopped last has everything.
        pair.start(1 - first);
        pair.run();
        assert_eq!(pair.promote(1 - first), Ok(()));
        assert_eq!(pair.read(1 - first, X), 1);
        pair.start(first);
        pair.run();
        assert!(is_together(&pair, 1 - first));
        check(&pair);
    }
}

#[test]
fn split_brain_is_refused_and_a_person_ends_it() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.unplugged = true;
    pair.arbiter.is_person = true;
    pair.kill(A);
    pair.run();
    // The word was not true: both went on.
    assert_eq!(pair.command(B, forced(A)), Ok(()));
    pair.write(B, X, 2);
    pair.start(A);
    assert_eq!(pair.command(A, forced(B)), Ok(()));
    pair.write(A, X, 3);
    pair.unplugged = false;
    pair.run();
    let discord = |pair: &Pair, number| pair.coordinator(number).status().discord;
    assert!(discord(&pair, A).is_some() && discord(&pair, B).is_some(), "nothing is merged in silence");
    assert!(pair.nodes[A].disk.block(X) == 3 && pair.nodes[B].disk.block(X) == 2);
}

#[test]
fn writes_become_stable_in_the_background() {
    for quiet in [false, true] {
        let mut pair = serving([1, 1]);
        pair.write(A, X, 1);
        if quiet {
            pair.pass_time(Duration::from_millis(50));
        }
        pair.unplugged = true;
        pair.cut();
        pair.run();
        assert_eq!(pair.dirty(A) == 0, quiet, "a lost peer lacks only what was not flushed");
    }
}
