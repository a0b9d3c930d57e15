//! Stories of a disk that answers nothing, and says nothing.

use crate::arbitration::NodeSet;
use crate::block::BlockStatus;
use crate::time::Duration;
use crate::units::NodeId;

use super::pair::Pair;
use super::{A, B, X, Y, check, is_together, serving};
use crate::volume::operator::DiskState;

/// Time goes by, and the nodes hear each other.
fn wait(pair: &mut Pair, seconds: u64) {
    for _ in 0..seconds * 5 {
        pair.pass_time(Duration::from_millis(200));
    }
}

#[test]
fn a_primary_whose_disk_hangs_gives_the_lead_to_its_peer() {
    for shards in [[1, 1], [2, 3]] {
        let mut pair = serving(shards);
        pair.write(A, X, 1);
        pair.nodes[A].disk.held = true;
        let write = pair.begin_write(A, X, 2, false);
        let read = pair.begin_read(A, Y);
        wait(&mut pair, 5);
        assert!(pair.is_primary(A), "it may be slow");
        wait(&mut pair, 6);
        assert_eq!(pair.coordinator(A).status().disk, DiskState::Diskless);
        assert_eq!(pair.arbiter.record.primary, Some(NodeId(1)));
        assert!(!pair.nodes[A].serving);
        for request in [write, read] {
            assert_ne!(pair.answer(A, request), Some(BlockStatus::Good), "nothing is answered from here");
        }
        assert_eq!(pair.promote(B), Ok(()));
        pair.write(B, X, 3);
        // It was not dead: what it was asked for happens after all, and is no answer to anybody.
        pair.nodes[A].disk.held = false;
        pair.run();
        for request in [write, read] {
            assert_eq!(pair.answer(A, request), Some(BlockStatus::NotServing));
        }
        assert_eq!(pair.read(B, X), 3);
        pair.kill(A);
        pair.start(A);
        wait(&mut pair, 2);
        assert!(is_together(&pair, B));
        check(&pair);
    }
}

#[test]
fn a_secondary_whose_disk_hangs_is_left_out() {
    let mut pair = serving([1, 2]);
    pair.nodes[B].disk.held = true;
    let write = pair.begin_write(A, X, 1, false);
    wait(&mut pair, 5);
    assert_eq!(pair.answer(A, write), None);
    wait(&mut pair, 6);
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
    assert_eq!(pair.arbiter.record.in_sync, NodeSet::only(NodeId(0)));
    // The hung one stays out until its disk answers.
    wait(&mut pair, 20);
    pair.write(A, X, 2);
    pair.nodes[B].disk.held = false;
    wait(&mut pair, 20);
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn the_only_copy_is_waited_for() {
    let mut pair = serving([1, 1]);
    pair.unplugged = true;
    pair.cut();
    pair.write(A, X, 1);
    pair.nodes[A].disk.held = true;
    let write = pair.begin_write(A, X, 2, false);
    wait(&mut pair, 60);
    assert!(pair.is_primary(A) && pair.nodes[A].serving && pair.answer(A, write).is_none());
    pair.nodes[A].disk.held = false;
    pair.run();
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
}
