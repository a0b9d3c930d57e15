//! Stories of read leases (R5, R6). Every clock here is the same one; how far they may drift apart is the simulator's and
//! the explorer's affair.

use crate::arbitration::Reads;
use crate::block::BlockStatus;
use crate::time::Duration;

use super::pair::Pair;
use super::{A, B, X, Y, check, is_together};
use crate::volume::operator::OperatorCommand;

const TAKE_OVER: OperatorCommand = OperatorCommand::TakeOver { died: None };

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A leads with a lease.
fn leased(shards: [usize; 2]) -> Pair {
    let mut pair = Pair::new(true, shards);
    pair.reads = Reads::Lease;
    pair.start(A);
    pair.start(B);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()), "who has met its peer waits for nothing");
    pair.run();
    assert!(is_together(&pair, A));
    pair.write(A, X, 1);
    pair
}

/// Time passes in steps in which every timer fires.
fn pass(pair: &mut Pair, count: u64) {
    for _ in 0..count / 50 {
        pair.pass_time(milliseconds(50));
    }
}

#[test]
fn a_leased_read_does_not_wait_for_the_peer_and_a_lapsed_lease_is_confirmed() {
    for shards in [[1, 1], [2, 1], [3, 2]] {
        let mut pair = leased(shards);
        assert_eq!(pair.leased(A), 0);
        pass(&mut pair, 1000);
        assert_eq!(pair.read(A, X), 1);
        assert_eq!(pair.leased(A), 1);
        // The peer goes silent.
        pair.held = [true; 2];
        assert_eq!(pair.read(A, X), 1);
        assert_eq!(pair.leased(A), 2);
        pair.pass_a_moment(milliseconds(650));
        let late = pair.begin_read(A, X);
        pair.run();
        assert_eq!(pair.answer(A, late), None, "nobody says that A leads");
        pair.held = [false; 2];
        pair.run();
        assert_eq!(pair.answer(A, late), Some(BlockStatus::Good), "it was confirmed, not failed");
        check(&pair);
    }
}

#[test]
fn a_read_that_outlasts_the_lease_is_confirmed_then() {
    let mut pair = leased([1, 1]);
    pass(&mut pair, 200);
    pair.nodes[A].disk.held = true;
    let read = pair.begin_read(A, X);
    pair.held = [true; 2];
    pair.pass_a_moment(milliseconds(650));
    pair.nodes[A].disk.held = false;
    pair.run();
    assert_eq!(pair.answer(A, read), None);
    pair.held = [false; 2];
    pair.run();
    assert_eq!(pair.answer(A, read), Some(BlockStatus::Good));
}

#[test]
fn who_has_promised_waits_before_it_bids() {
    let mut pair = leased([1, 1]);
    pass(&mut pair, 200);
    pair.unplugged = true;
    pair.held = [true; 2];
    let asked = pair.ask(B, TAKE_OVER);
    pair.run();
    pair.pass_time(milliseconds(600));
    assert!(pair.reply(B, asked).is_none() && !pair.is_primary(B), "A may still read by its lease");
    pair.pass_time(milliseconds(150));
    assert_eq!(pair.reply(B, asked), Some(Ok(())));
    pair.write(B, Y, 2);
}

#[test]
fn a_certificate_ends_the_promise_to_the_dead_and_no_later_one() {
    let mut pair = leased([1, 1]);
    pass(&mut pair, 200);
    let told = pair.coordinator(A).status().record.epoch;
    pair.kill(A);
    pair.run();
    assert_eq!(pair.command(B, OperatorCommand::TakeOver { died: Some(told) }), Ok(()));
    pair.start(A);
    pair.run();
    assert!(is_together(&pair, B));
    // A's own death is old news by now; its promise to B is of a later epoch.
    pass(&mut pair, 200);
    pair.unplugged = true;
    pair.held = [true; 2];
    let asked = pair.ask(A, OperatorCommand::TakeOver { died: Some(told) });
    pair.run();
    assert_eq!(pair.reply(A, asked), None);
    pair.pass_time(milliseconds(750));
    assert_eq!(pair.reply(A, asked), Some(Ok(())));
}

#[test]
fn a_node_that_starts_waits_for_what_it_forgot_even_if_its_leases_were_switched_off() {
    for after in [Reads::Lease, Reads::Confirm] {
        let mut pair = leased([1, 1]);
        pass(&mut pair, 200);
        pair.unplugged = true;
        // Nobody says whether A has ended.
        pair.kill(A);
        pair.kill(B);
        pair.reads = after;
        pair.start(B);
        pair.run();
        let asked = pair.ask(B, TAKE_OVER);
        pair.run();
        assert_eq!(pair.reply(B, asked), None, "{after:?}");
        pair.pass_time(milliseconds(750));
        assert_eq!(pair.reply(B, asked), Some(Ok(())), "{after:?}");
    }
}

#[test]
fn a_hand_over_gives_the_lease_up_and_waits_for_nothing() {
    let mut pair = leased([2, 1]);
    pass(&mut pair, 200);
    assert_eq!(pair.command(A, OperatorCommand::Switchover), Ok(()));
    assert!(is_together(&pair, B));
    assert_eq!(pair.command(B, OperatorCommand::Switchover), Ok(()));
    assert!(is_together(&pair, A));
    assert_eq!(pair.read(A, X), 1);
    check(&pair);
}

#[test]
fn without_leases_nothing_is_waited_for() {
    let mut pair = Pair::new(true, [1, 1]);
    pair.start(A);
    pair.start(B);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()));
    pass(&mut pair, 200);
    assert_eq!(pair.command(B, TAKE_OVER), Ok(()));
    assert_eq!(pair.leased(A), 0);
}
