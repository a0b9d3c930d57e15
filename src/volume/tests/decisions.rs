//! Stories of who decides: promotions, hand-overs, an arbiter that is away or a person, and what is remembered of it.

use crate::arbitration::NodeSet;
use crate::block::BlockStatus;
use crate::time::Duration;
use crate::units::NodeId;
use crate::volume::messages::SyncRole;
use crate::volume::operator::{OperatorCommand, Refusal};

use super::pair::Pair;
use super::{A, B, X, Y, Z, check, forced, is_together, serving};

const DISCARD: OperatorCommand = OperatorCommand::Connect { discard_my_data: true };

/// Gives an old primary's process, which knows only its own disk, and the survivor that went on alone.
fn stale_and_alone() -> Pair {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.kill(A);
    pair.run();
    assert_eq!(pair.promote(B), Ok(()));
    for (value, block) in (2..).zip([X, Y, Z]) {
        pair.write(B, block, value);
    }
    pair
}

#[test]
fn a_refused_promotion_leaves_the_session_and_its_resync_alone() {
    let mut pair = stale_and_alone();
    pair.start(A);
    // Before A follows it is a secondary like any other, and asks for itself.
    while !pair.has_session() {
        assert!(pair.step());
    }
    let session = pair.session(A);
    let ticket = pair.ask(A, OperatorCommand::Promote { seed: false, i_have_fenced: None });
    pair.run();
    assert!(pair.reply(A, ticket).is_some_and(|reply| reply.is_err()));
    assert_eq!(pair.session(A), session, "the session that was there is there");
    assert!(is_together(&pair, B));
    check(&pair);
}

#[test]
fn a_person_who_has_not_spoken_costs_no_session() {
    let mut pair = stale_and_alone();
    pair.start(A);
    pair.run();
    assert!(is_together(&pair, B));
    pair.arbiter.is_person = true;
    assert_eq!(pair.command(B, OperatorCommand::Demote), Ok(()));
    pair.unplugged = true;
    pair.cut();
    pair.run();
    assert_eq!(pair.promote(A), Err(Refusal::NeedsOperator));
    assert_eq!(pair.coordinator(A).status().record.in_sync, NodeSet::BOTH);
}

/// Nothing can be read, but what is asked for is granted once the other node is off.
#[test]
fn an_arbiter_without_a_record_lets_the_survivor_take_over() {
    for dies in [A, B] {
        let mut pair = serving([1, 1]);
        pair.arbiter.keeps_nothing = true;
        pair.write(A, X, 1);
        pair.kill(dies);
        pair.run();
        let survivor = 1 - dies;
        assert_eq!(pair.promote(survivor), Ok(()));
        pair.write(survivor, Y, 2);
        pair.start(dies);
        pair.run();
        assert!(is_together(&pair, survivor));
        assert_eq!(pair.command(survivor, OperatorCommand::Switchover), Ok(()));
        assert!(is_together(&pair, dies));
        check(&pair);
    }
}

/// What a node must not do any more stays so when the page that says it goes bad.
#[test]
fn lost_rights_are_written_to_both_copies() {
    let mut pair = stale_and_alone();
    pair.start(A);
    while pair.coordinator(A).posture().sync != SyncRole::Target {
        assert!(pair.step(), "A becomes the target");
    }
    pair.kill(A);
    pair.spoil_newest_superblock(A);
    pair.start(A);
    assert!(pair.coordinator(A).superblock().flags.sync_target, "half a resync is still known");
    assert_eq!(pair.coordinator(A).superblock().record, pair.coordinator(B).superblock().record);
}

/// The end of a resync was lost between the nodes; what the source wrote alone afterwards is all that is missing.
#[test]
fn a_missed_end_of_a_resync_costs_no_full_copy() {
    let mut pair = serving([1, 1]);
    pair.kill(B);
    pair.write(A, X, 1);
    pair.start(B);
    while pair.coordinator(B).superblock().flags.sync_target || pair.dirty(A) > 0 {
        assert!(pair.step());
    }
    pair.cut();
    pair.unplugged = true;
    pair.run();
    pair.write(A, Y, 2);
    pair.unplugged = false;
    while pair.coordinator(B).posture().sync != SyncRole::Target {
        assert!(pair.step(), "B becomes the target");
    }
    assert!(!pair.coordinator(B).superblock().flags.full_sync, "the marked blocks are enough");
    pair.run();
    assert!(is_together(&pair, A));
    check(&pair);
}

/// Both forced: two histories.
fn split() -> Pair {
    let mut pair = serving([1, 1]);
    pair.unplugged = true;
    pair.arbiter.is_person = true;
    pair.kill(A);
    pair.run();
    assert_eq!(pair.command(B, forced(A)), Ok(()));
    pair.write(B, X, 2);
    pair.start(A);
    assert_eq!(pair.command(A, forced(B)), Ok(()));
    pair.write(A, X, 3);
    pair.unplugged = false;
    pair.run();
    assert!(pair.coordinator(A).status().discord.is_some() && pair.coordinator(B).status().discord.is_some());
    pair
}

#[test]
fn a_split_brain_is_ended_on_the_loser_alone() {
    for loser in [A, B] {
        let mut pair = split();
        assert_eq!(pair.command(loser, OperatorCommand::Demote), Ok(()));
        assert_eq!(pair.command(loser, DISCARD), Ok(()));
        pair.pass_time(Duration::from_secs(6));
        let winner = 1 - loser;
        assert_eq!(pair.coordinator(winner).status().discord, None);
        assert!(pair.is_primary(winner) || pair.command(winner, forced(loser)).is_ok());
        assert!(pair.nodes[winner].serving && !pair.nodes[loser].serving);
        assert_eq!(pair.coordinator(winner).status().record.in_sync, NodeSet::BOTH);
        assert_eq!(pair.nodes[loser].disk.block(X), pair.nodes[winner].disk.block(X));
    }
}

#[test]
fn two_that_disagree_stay_apart_between_their_meetings() {
    let mut pair = split();
    assert!(!pair.has_session());
    for _ in 0..3 {
        pair.pass_time(Duration::from_secs(6));
        assert!(!pair.has_session() && pair.coordinator(A).status().discord.is_some());
    }
    assert!(pair.nodes[A].disk.block(X) == 3 && pair.nodes[B].disk.block(X) == 2);
}

/// The word that its data may go is given once, however often the copy is interrupted.
#[test]
fn a_loser_that_restarts_in_the_middle_is_still_the_loser() {
    let mut pair = split();
    assert_eq!(pair.command(A, OperatorCommand::Demote), Ok(()));
    pair.unplugged = true;
    assert_eq!(pair.command(A, DISCARD), Ok(()));
    pair.pass_time(Duration::from_secs(6));
    pair.unplugged = false;
    while pair.coordinator(A).posture().sync != SyncRole::Target {
        assert!(pair.step(), "A becomes the target");
    }
    pair.kill(A);
    pair.start(A);
    pair.run();
    assert_eq!(pair.coordinator(A).status().discord, None);
    assert_eq!(pair.coordinator(B).status().record.in_sync, NodeSet::BOTH);
    assert_eq!(pair.nodes[A].disk.block(X), 2);
}

/// The link blinks; nobody was asked, so nothing has changed, and what was held is answered by both.
fn blink(pair: &mut Pair) {
    pair.write(A, X, 1);
    pair.held[A] = true;
    let lost = pair.begin_write(A, X, 2, false);
    let behind = pair.begin_write(A, X, 3, false);
    let flush = pair.begin_flush(A);
    let read = pair.begin_read(A, Y);
    pair.run();
    pair.unplugged = true;
    pair.cut();
    pair.held[A] = false;
    pair.run();
    let late = pair.begin_write(A, Z, 4, true);
    pair.run();
    for request in [lost, behind, flush, read, late] {
        assert_eq!(pair.answer(A, request), None, "held");
    }
    let record = pair.coordinator(A).superblock().record;
    pair.unplugged = false;
    pair.run();
    for request in [lost, behind, flush, read, late] {
        assert_eq!(pair.answer(A, request), Some(BlockStatus::Good));
    }
    assert_eq!(pair.coordinator(A).superblock().record, record, "nothing was decided");
    assert!(is_together(pair, A));
    check(pair);
    pair.kill(A);
    pair.run();
    pair.check_written(B);
}

#[test]
fn a_link_that_comes_back_ends_the_wait_for_a_person() {
    let mut pair = serving([1, 1]);
    pair.arbiter.is_person = true;
    blink(&mut pair);
}

#[test]
fn a_blink_is_forgotten_by_every_shard() {
    let mut pair = serving([2, 3]);
    pair.arbiter.is_person = true;
    blink(&mut pair);
}

/// A peer that runs since the record was made knows whether it asked for something.
#[test]
fn a_link_that_comes_back_ends_the_wait_for_an_arbiter_that_is_away() {
    for shards in [[1, 1], [2, 3]] {
        let mut pair = serving(shards);
        pair.arbiter.is_away = true;
        blink(&mut pair);
    }
}

/// The peer asked for the lead while the two were apart, and runs: it meets nobody before it has its answer.
#[test]
fn a_peer_that_waits_for_its_answer_ends_no_hold() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.unplugged = true;
    pair.arbiter.is_away = true;
    pair.cut();
    pair.run();
    pair.arbiter.is_away = false;
    let ticket = pair.ask(B, OperatorCommand::Promote { seed: false, i_have_fenced: None });
    while !pair.has_asked_for_a_change() {
        assert!(pair.step(), "B asks, and A waits until it looks again");
    }
    pair.arbiter.is_away = true;
    let write = pair.begin_write(A, X, 2, false);
    pair.unplugged = false;
    pair.run();
    assert!(!pair.has_session() && pair.answer(A, write).is_none() && pair.reply(B, ticket).is_none());
    pair.arbiter.is_away = false;
    pair.pass_time(Duration::from_millis(400));
    assert_eq!(usize::from(pair.is_primary(A)) + usize::from(pair.is_primary(B)), 1);
    assert!(pair.answer(A, write).is_some() && pair.reply(B, ticket).is_some());
    check(&pair);
}

/// The peer may have asked for the lead before it died, and the arbiter may grant that at any time. So the return of one
/// that was started anew says nothing while the arbiter is away; the arbiter's answer does.
#[test]
fn a_peer_that_was_started_anew_does_not_end_the_wait_for_an_arbiter_that_is_away() {
    let mut pair = serving([1, 1]);
    pair.arbiter.is_away = true;
    let write = pair.begin_write(A, X, 1, false);
    pair.cut();
    pair.kill(B);
    pair.start(B);
    pair.run();
    assert!(!pair.has_session() && pair.answer(A, write).is_none());
    pair.pass_time(Duration::from_secs(10));
    assert!(!pair.has_session() && pair.answer(A, write).is_none());
    pair.arbiter.is_away = false;
    pair.pass_time(Duration::from_millis(400));
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
    assert!(is_together(&pair, A));
    check(&pair);
}

#[test]
fn an_arbiter_that_comes_back_ends_the_wait_too() {
    let mut pair = serving([1, 1]);
    pair.arbiter.is_away = true;
    let write = pair.begin_write(A, X, 1, false);
    pair.unplugged = true;
    pair.cut();
    pair.run();
    assert_eq!(pair.answer(A, write), None);
    pair.arbiter.is_away = false;
    pair.pass_time(Duration::from_millis(400));
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
    assert_eq!(pair.arbiter.record.in_sync, NodeSet::only(NodeId(0)));
}

/// Held for too long: NOT READY, and nothing is lost or done twice.
#[test]
fn a_hold_ends_before_initiators_give_up() {
    let mut pair = serving([2, 1]);
    pair.arbiter.is_person = true;
    pair.write(A, X, 1);
    pair.held[A] = true;
    let sent = pair.begin_write(A, X, 2, false);
    let behind = pair.begin_write(A, X, 3, false);
    pair.run();
    pair.unplugged = true;
    pair.cut();
    pair.held[A] = false;
    pair.run();
    let read = pair.begin_read(A, Y);
    let flush = pair.begin_flush(A);
    pair.pass_time(Duration::from_secs(44));
    for request in [sent, behind, read, flush] {
        assert_eq!(pair.answer(A, request), None);
    }
    pair.pass_time(Duration::from_secs(2));
    for request in [sent, behind, read, flush] {
        assert_eq!(pair.answer(A, request), Some(BlockStatus::NotReady));
    }
    let late = pair.begin_read(A, X);
    assert_eq!(pair.answer(A, late), Some(BlockStatus::NotReady));
    pair.unplugged = false;
    pair.run();
    assert!(is_together(&pair, A));
    pair.write(A, X, 4);
    assert_eq!(pair.read(A, X), 4);
    check(&pair);
}

/// A question that is under way may be granted at any time: its answer is waited for.
#[test]
fn a_change_under_way_is_waited_for() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    let (asked, epoch) = (pair.arbiter.asked, pair.arbiter.record.epoch);
    pair.cut();
    while !pair.has_asked_for_a_change() {
        assert!(pair.step(), "A asks to be alone");
    }
    pair.arbiter.held = true;
    let write = pair.begin_write(A, X, 2, false);
    pair.run();
    assert!(!pair.has_session() && pair.answer(A, write).is_none());
    pair.arbiter.held = false;
    pair.run();
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
    assert!(is_together(&pair, A));
    assert_eq!(
        (pair.arbiter.asked, pair.arbiter.record.epoch.0),
        (asked + 2, epoch.0 + 2),
        "out, and in again"
    );
    check(&pair);
}

/// While the copy that came back is brought level it must not be taken for whole.
#[test]
fn a_primary_that_dies_while_its_peer_catches_up_is_needed_back() {
    let mut pair = serving([1, 1]);
    pair.arbiter.is_person = true;
    pair.held[A] = true;
    let write = pair.begin_write(A, X, 2, false);
    pair.run();
    pair.cut();
    pair.held[A] = false;
    while pair.coordinator(B).posture().sync != SyncRole::Target {
        assert!(pair.step(), "B catches up");
    }
    assert_eq!(pair.answer(A, write), None);
    pair.kill(A);
    pair.run();
    assert_eq!(pair.promote(B), Err(Refusal::Inconsistent));
    pair.start(A);
    pair.run();
    assert!(pair.promote(A).is_ok());
    assert!(is_together(&pair, A));
    check(&pair);
}

/// R12: one change names the peer, with both copies counted.
#[test]
fn a_planned_hand_over_is_one_change_of_the_record() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    let (asked, epoch) = (pair.arbiter.asked, pair.arbiter.record.epoch);
    assert_eq!(pair.command(A, OperatorCommand::Switchover), Ok(()));
    assert!(is_together(&pair, B));
    assert_eq!((pair.arbiter.asked, pair.arbiter.record.epoch), (asked + 1, epoch.next()));
    assert_eq!(pair.arbiter.record.primary, Some(NodeId(1)));
    assert_eq!(pair.coordinator(B).posture().epoch, pair.arbiter.record.epoch);
    pair.write(B, X, 2);
    check(&pair);
}

#[test]
fn nothing_is_stopped_for_an_arbiter_that_is_away() {
    let mut pair = serving([1, 1]);
    pair.arbiter.is_away = true;
    assert_eq!(pair.command(A, OperatorCommand::Switchover), Err(Refusal::ArbiterUnreachable));
    assert!(is_together(&pair, A));
    pair.write(A, X, 1);
    check(&pair);
}

/// The new primary of a hand-over was named by the old one's change. If they part before it leads, it is no more than
/// any copy in sync.
#[test]
fn a_hand_over_that_breaks_leaves_two_copies_in_sync() {
    for steps in 0..60 {
        let mut pair = serving([1, 1]);
        pair.write(A, X, 1);
        pair.ask(A, OperatorCommand::Switchover);
        for _ in 0..steps {
            pair.step();
        }
        pair.unplugged = true;
        pair.cut();
        pair.run();
        let serving = [A, B].map(|number| pair.nodes[number].serving && pair.is_primary(number));
        assert!(serving != [true, true], "after {steps} steps both serve");
        let number = usize::from(serving[B]);
        if !serving[number] {
            assert!(pair.promote(number).is_ok() || pair.promote(1 - number).is_ok(), "after {steps} steps");
        }
        let number = usize::from(pair.is_primary(B) && pair.nodes[B].serving);
        let write = pair.begin_write(number, Y, 9, false);
        pair.run();
        assert_eq!(pair.answer(number, write), Some(BlockStatus::Good), "after {steps} steps");
        pair.unplugged = false;
        pair.run();
        assert!(is_together(&pair, number), "after {steps} steps");
        check(&pair);
    }
}
