//! Stories of two nodes, told on the table of [`pair`]; and every defect that a reader once found, as the story that
//! shows it. The simulator draws its stories at random; these are the ones to read.

mod decisions;
mod forward;
mod hostile;
mod hung;
mod lease;
mod pair;
mod unit;

use crate::arbitration::Record;
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
fn a_wrong_word_of_the_agent_costs_a_failover_and_nothing_else() {
    for shards in [[1, 1], [2, 1]] {
        let mut pair = serving(shards);
        pair.write(A, X, 1);
        let under_way = pair.begin_write(A, Y, 2, false);
        // A is alive and well; B's agent believes otherwise.
        assert_eq!(pair.command(B, OperatorCommand::TakeOver { died: None }), Ok(()));
        pair.run();
        assert!(is_together(&pair, B), "A has followed, and was resynced");
        assert_ne!(
            pair.answer(A, under_way),
            Some(BlockStatus::MediumError),
            "its initiator sees no error (S4)"
        );
        assert_eq!(pair.read(B, X), 1);
        check(&pair);
        // Asked of the one that serves, it is done already.
        assert_eq!(pair.command(B, OperatorCommand::TakeOver { died: None }), Ok(()));
        assert!(is_together(&pair, B));
    }
}

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

/// The arbiter was restored from a backup: what it shows is older than what the nodes have seen.
#[test]
fn an_arbiter_that_forgot_decides_nothing_until_a_person_says_so() {
    for emptied in [false, true] {
        let mut pair = serving([1, 1]);
        let forgotten = if emptied { Record::default() } else { pair.arbiter.record };
        pair.command(A, OperatorCommand::Switchover).expect("moves");
        let seen = pair.arbiter.record;
        assert!(pair.is_primary(B));
        pair.arbiter.record = forgotten;
        pair.unplugged = true;
        let write = pair.begin_write(B, X, 1, false);
        pair.cut();
        pair.run();
        assert_ne!(pair.answer(B, write), Some(BlockStatus::Good), "nothing is acknowledged");
        for node in [A, B] {
            assert!(!pair.is_primary(node));
            let known = pair.coordinator(node).status().record;
            assert_eq!(known, seen, "the forgotten record is not taken for newer");
            assert_eq!(pair.promote(node), Err(Refusal::ArbiterLostData { record: forgotten, seen }));
        }
        assert_eq!(pair.arbiter.record, forgotten, "nothing was decided");
        pair.kill(A);
        assert_eq!(pair.command(B, forced(A)), Ok(()));
        assert!(pair.is_primary(B) && pair.arbiter.record.epoch > seen.epoch);
        pair.start(A);
        pair.unplugged = false;
        pair.run();
        assert!(is_together(&pair, B));
        check(&pair);
    }
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

// ---- defects that were found by reading ----

/// The read waits for the peer's confirmation when the node hands over; the confirmation comes afterwards.
#[test]
fn a_read_may_wait_for_its_confirmation_while_the_service_moves() {
    let mut pair = serving([1, 1]);
    pair.write(A, Y, 1);
    pair.held[B] = true;
    let read = pair.begin_read(A, X);
    pair.run();
    let ticket = pair.ask(A, OperatorCommand::Switchover);
    pair.run();
    assert_eq!(pair.answer(A, read), Some(BlockStatus::NotServing));
    pair.held[B] = false;
    pair.run();
    assert_eq!(pair.reply(A, ticket), Some(Ok(())));
    assert!(is_together(&pair, B));
}

/// A source with fewer shards flushes through one of the target's shards; the others clear their bits all the same.
#[test]
fn a_target_with_more_shards_than_its_source_ends_clean() {
    for shards in [[1, 2], [2, 4], [3, 2], [4, 1]] {
        let mut pair = serving(shards);
        for (value, block) in (1..).zip([X, Y, Z]) {
            pair.write(A, block, value);
        }
        pair.kill(A);
        pair.run();
        assert_eq!(pair.promote(B), Ok(()));
        pair.start(A);
        pair.run();
        assert!(is_together(&pair, B), "{shards:?}: {} and {} blocks left", pair.dirty(A), pair.dirty(B));
        check(&pair);
    }
}

/// B, whose cache alone still holds the write, is the source of an idle resync; it must be stable there before A's copy
/// of it is touched, for a power cut at B leaves A's bits and B's data to go on from.
#[test]
fn an_idle_source_flushes_before_it_leads() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.kill(A);
    pair.run();
    pair.start(A);
    while pair.coordinator(B).posture().link == super::messages::LinkRole::Off {
        assert!(pair.step(), "B leads a resync of what A may have written");
    }
    pair.cut_power(B);
    pair.run();
    pair.start(B);
    pair.run();
    check(&pair);
}

/// The disk of the serving node fails between the two halves of a flush: the other half was never seen.
#[test]
fn a_flush_is_not_answered_by_a_node_that_gives_up() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.held[A] = true;
    let flush = pair.begin_flush(A);
    pair.run();
    pair.nodes[A].disk.fails_reads = true;
    pair.begin_read(A, X);
    pair.run();
    assert_eq!(pair.answer(A, flush), Some(BlockStatus::NotServing));
}

/// Two operators seed at once: the slower node goes on as the empty one.
#[test]
fn a_seed_that_lost_the_race_leaves_the_disk_empty() {
    let mut pair = Pair::new(false, [1, 1]);
    pair.unplugged = true;
    pair.start(A);
    pair.start(B);
    pair.run();
    pair.arbiter.held = true;
    let tickets = [pair.ask(A, seed()), pair.ask(B, seed())];
    pair.run();
    pair.arbiter.held = false;
    pair.run();
    let replies = [A, B].map(|number| pair.reply(number, tickets[number]));
    let winner = usize::from(replies[A] != Some(Ok(())));
    assert!(replies[winner] == Some(Ok(())) && matches!(replies[1 - winner], Some(Err(_))));
    pair.unplugged = false;
    pair.run();
    assert!(is_together(&pair, winner));
}

/// A shard may have no lane; a flush may reach it all the same.
#[test]
fn a_shard_without_lanes_flushes() {
    let mut pair = serving([5, 5]);
    pair.write(A, X, 1);
    let flush = pair.begin_flush_at(A, 4);
    pair.run();
    assert_eq!(pair.answer(A, flush), Some(BlockStatus::Good));
}

/// The metadata fails while a node stops, hands over, or goes on alone: no command and no request waits for ever.
/// The peer has what a failed flush took away from this disk, so this disk is not read any more.
#[test]
fn nothing_is_read_from_a_device_that_failed_a_flush() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.nodes[A].disk.fails_flushes = true;
    pair.begin_flush(A);
    while pair.nodes[A].disk.block(X) == 1 {
        assert!(pair.step());
    }
    let read = pair.begin_read(A, X);
    pair.run();
    assert_ne!(pair.answer(A, read), Some(BlockStatus::Good));
}

#[test]
fn a_failed_disk_stops_nothing_from_ending() {
    let commands = [OperatorCommand::Stop, OperatorCommand::Demote, OperatorCommand::Switchover];
    for command in commands {
        for alone in [false, true] {
            let mut pair = serving([1, 1]);
            if alone {
                pair.kill(B);
                pair.run();
            }
            pair.nodes[A].disk.fails_pages = true;
            let ticket = pair.ask(A, command);
            pair.run();
            assert!(pair.reply(A, ticket).is_some(), "{command:?} is answered");
            if command != OperatorCommand::Stop {
                let write = pair.begin_write(A, X, 1, false);
                pair.run();
                let answer = pair.answer(A, write);
                assert!(answer.is_some_and(|status| status != BlockStatus::Good), "{command:?}: {answer:?}");
            }
            assert_eq!(pair.command(A, OperatorCommand::Stop), Ok(()));
        }
    }
}

/// The target has taken over A's generation, and A does not know: what A writes alone then is a new generation.
#[test]
fn nothing_is_written_alone_in_a_generation_that_the_target_has() {
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
    assert_ne!(pair.arbiter.record.in_sync, crate::arbitration::NodeSet::BOTH);
    pair.write(A, Y, 2);
    let current = |pair: &Pair, number| pair.coordinator(number).superblock().generations.current;
    assert_ne!(current(&pair, A), current(&pair, B), "their copies differ");
    pair.unplugged = false;
    pair.run();
    assert!(is_together(&pair, A));
    check(&pair);
}

/// Both lost their caches. Once they are equal again either may serve.
#[test]
fn a_doubt_ends_on_both_nodes_when_they_are_equal() {
    for first in [A, B] {
        let mut pair = serving([1, 1]);
        pair.write(A, X, 1);
        pair.flush(A);
        pair.cut_power(A);
        pair.cut_power(B);
        pair.start(first);
        pair.run();
        assert_eq!(pair.promote(first), Err(Refusal::MayLackWrites));
        pair.start(1 - first);
        pair.run();
        assert_eq!(pair.promote(first), Ok(()));
        assert!(is_together(&pair, first));
        check(&pair);
    }
}

/// A node that waits for the arbiter may be stopped.
#[test]
fn a_held_node_stops() {
    let mut pair = serving([1, 1]);
    let write = pair.begin_write(A, X, 1, false);
    pair.arbiter.held = true;
    pair.kill(B);
    pair.run();
    assert_eq!(pair.command(A, OperatorCommand::Stop), Ok(()));
    assert_eq!(pair.answer(A, write), Some(BlockStatus::NotServing));
    pair.arbiter.held = false;
    pair.kill(A);
    pair.start(A);
    pair.run();
    assert_eq!(pair.promote(A), Ok(()));
    pair.check_written(A);
}

// ---- faults between any two steps ----

const FAULTS: usize = 7;

fn strike(pair: &mut Pair, fault: usize) {
    match fault {
        0 | 1 => pair.kill(fault),
        2 | 3 => pair.cut_power(fault - 2),
        4 => {
            pair.cut_power(A);
            pair.cut_power(B);
            pair.lose_unflushed();
        }
        5 => {
            pair.kill(A);
            pair.kill(B);
        }
        _ => pair.cut(),
    }
}

/// Starts what does not run (`first` first) and brings the service back, as an agent would.
fn recover(pair: &mut Pair, first: usize) {
    pair.held = [false; 2];
    for number in [first, 1 - first] {
        if !pair.runs(number) {
            pair.start(number);
        }
        pair.run();
        if !pair.nodes[0].serving && !pair.nodes[1].serving {
            let _ = pair.promote(number);
        }
    }
    for number in [first, 1 - first, first] {
        if !pair.nodes[0].serving && !pair.nodes[1].serving {
            let _ = pair.promote(number);
        }
    }
    pair.pass_time(Duration::from_millis(50));
}

/// Runs `story` and strikes after every `stride` steps of it; the pair must come together again, equal, with every
/// answered write.
fn strike_everywhere(name: &str, stride: usize, story: impl Fn(&mut Pair)) {
    for fault in 0..FAULTS {
        for first in [A, B] {
            let mut steps = fault % stride;
            loop {
                let mut pair = serving([1, 1]);
                pair.write(A, X, 1);
                pair.flush(A);
                pair.write(A, Y, 2);
                story(&mut pair);
                let mut went = true;
                for _ in 0..steps {
                    went = pair.step();
                }
                let context = format!("{name}, fault {fault} after step {steps}, node {first} first");
                strike(&mut pair, fault);
                recover(&mut pair, first);
                let leader = usize::from(pair.is_primary(B));
                assert!(
                    is_together(&pair, leader),
                    "{context}: {:?} {:?}",
                    status(&pair, A),
                    status(&pair, B)
                );
                pair.context = context;
                check(&pair);
                if !went {
                    break;
                }
                steps += stride;
            }
        }
    }
}

fn status(pair: &Pair, number: usize) -> super::operator::Status {
    pair.coordinator(number).status()
}

#[test]
fn faults_under_writes_lose_nothing() {
    strike_everywhere("writes", 3, |pair| {
        pair.begin_write(A, X, 3, false);
        pair.begin_write(A, Z, 4, true);
        pair.begin_flush(A);
    });
}

#[test]
fn faults_during_a_switchover_lose_nothing() {
    strike_everywhere("switchover", 3, |pair| {
        pair.begin_write(A, X, 3, false);
        pair.ask(A, OperatorCommand::Switchover);
    });
}

#[test]
fn faults_during_a_resync_lose_nothing() {
    strike_everywhere("resync", 5, |pair| {
        pair.kill(B);
        pair.write(A, X, 3);
        pair.start(B);
        pair.begin_write(A, Y, 4, false);
    });
}

#[test]
fn faults_during_a_takeover_lose_nothing() {
    strike_everywhere("takeover", 5, |pair| {
        pair.begin_write(A, X, 3, false);
        pair.step();
        pair.kill(A);
        pair.ask(B, OperatorCommand::Promote { seed: false, i_have_fenced: None });
        pair.start(A);
    });
}

#[test]
fn faults_during_an_idle_resync_lose_nothing() {
    strike_everywhere("idle resync", 3, |pair| {
        pair.begin_write(A, X, 3, false);
        pair.step();
        pair.kill(A);
        pair.start(A);
    });
}

#[test]
fn faults_during_a_stop_lose_nothing() {
    strike_everywhere("stop", 5, |pair| {
        pair.begin_write(A, X, 3, false);
        pair.ask(A, OperatorCommand::Stop);
        while pair.coordinator(A).status().serving && pair.step() {}
        pair.ask(B, OperatorCommand::Stop);
        for _ in 0..200 {
            pair.step();
        }
        pair.kill(A);
        pair.kill(B);
        pair.start(B);
        pair.start(A);
    });
}

/// The peer's coordinator answers every ping, but its device answers nothing: initiators must not wait for ever.
#[test]
fn a_peer_whose_disk_hangs_is_left_behind() {
    let mut pair = serving([1, 1]);
    pair.write(A, X, 1);
    pair.nodes[B].disk.held = true;
    let write = pair.begin_write(A, X, 2, false);
    pair.run();
    assert_eq!(pair.answer(A, write), None, "one copy of two is not enough");
    for _ in 0..45 {
        pair.pass_time(Duration::from_millis(300));
    }
    assert_eq!(pair.answer(A, write), Some(BlockStatus::Good));
    assert!(!pair.arbiter.record.in_sync.contains(NodeId(1)));
    pair.check_written(A);
}
