//! What the logical unit remembers: how a session changes it, and what becomes of its tasks when others do.

use super::pair::{Pair, config, pattern, read10, write10};
use crate::block::{BlockOp, UnitAnswer, UnitState, UnitVersion};
use crate::iscsi::{CloseReason, UnitSnapshot};
use crate::scsi::{InitiatorPort, Nexus, NexusId, Outcome, ResetKind};

const R: u8 = 0xC0;
const W: u8 = 0xA0;
const NONE: u8 = 0x80;
const CONFLICT: (u8, Option<(u8, u8, u8)>) = (0x18, None);
const GOOD: (u8, Option<(u8, u8, u8)>) = (0, None);
const TUR: [u8; 16] = [0; 16];

fn cdb(opcode: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb
}

fn reserve_out(action: u8, kind: u8, key: u64, new: u64) -> ([u8; 16], Vec<u8>) {
    let mut cdb = cdb(0x5F);
    (cdb[1], cdb[2], cdb[8]) = (action, kind, 24);
    (cdb, [key.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat())
}

fn send_out(pair: &mut Pair, itt: u32, action: u8, kind: u8, key: u64, new: u64) {
    let (cdb, list) = reserve_out(action, kind, key, new);
    pair.send_command(itt, W, 24, &cdb, &list);
}

fn out(pair: &mut Pair, action: u8, kind: u8, key: u64, new: u64) -> (u8, Option<(u8, u8, u8)>) {
    send_out(pair, 77, action, kind, key, new);
    pair.reply().status()
}

fn rival_id() -> NexusId {
    let initiator = InitiatorPort { name: "iqn.rival".into(), isid: Some([0x80; 6]) };
    NexusId { initiator, port: 1 }
}

/// What another initiator's command makes of the memory.
fn rival(pair: &Pair, cdb: &[u8; 16], list: &[u8]) -> UnitState {
    let target = config().scsi;
    let nexus = Nexus::new(&target, rival_id().initiator, pair.unit.memory.clone());
    let mut bytes = Vec::new();
    let outcome = target.execute_with_data(&nexus, [0; 8], cdb, list, &mut bytes);
    assert_eq!(outcome, Outcome::ChangeUnit);
    UnitState { version: pair.unit.version.next(), bytes: bytes.into() }
}

fn rival_out(pair: &mut Pair, action: u8, kind: u8, key: u64, new: u64) {
    let (cdb, list) = reserve_out(action, kind, key, new);
    let state = rival(pair, &cdb, &list);
    pair.remember(&state);
    pair.run();
}

fn mode_select(list: &[u8]) -> [u8; 16] {
    let mut cdb = cdb(0x15);
    (cdb[1], cdb[4]) = (0x10, list.len() as u8);
    cdb
}

fn control(sense: u8, protect: u8, status: u8) -> Vec<u8> {
    [&[0, 0, 0, 0, 0x0A, 10, sense, 0x10, protect, status, 0, 0, 0xFF, 0xFF][..], &[0, 0]].concat()
}

#[test]
fn a_change_is_answered_when_it_is_made() {
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    send_out(&mut pair, 1, 6, 0, 0, 5);
    assert!(pair.nothing_sent());
    assert_eq!((pair.changes.len(), pair.changes[0].base), (1, UnitVersion(0)));
    pair.decide();
    pair.run();
    assert_eq!(pair.reply().status(), GOOD);
    assert_eq!((pair.unit.version, pair.units_quiet.clone()), (UnitVersion(1), vec![1]));
    pair.keep = true;
    assert_eq!(out(&mut pair, 1, 3, 5, 0), GOOD);
    let mut keys = cdb(0x5E);
    keys[8] = 16;
    let answer = pair.command(2, R, 16, &keys, &[]);
    assert_eq!(answer.data, [0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5]);
    // What changes nothing needs nobody.
    pair.keep = false;
    assert_eq!(out(&mut pair, 1, 3, 5, 0), GOOD);
    assert_eq!(out(&mut pair, 1, 3, 6, 0), CONFLICT);
    assert_eq!(pair.changes.len(), 0);
    pair.hang_up();
}

#[test]
fn a_change_that_comes_too_late_is_judged_anew() {
    for answer_first in [false, true] {
        let mut pair = Pair::logged_in(config());
        pair.keep = false;
        send_out(&mut pair, 1, 6, 0, 0, 5);
        let (cdb, list) = reserve_out(6, 0, 0, 9);
        let state = rival(&pair, &cdb, &list);
        let id = pair.changes.pop_front().expect("a change").id;
        if answer_first {
            // The answer overtakes the version that was faster.
            pair.connection.on_unit_answer(id, UnitAnswer::Stale, &mut pair.out);
            pair.run();
            assert!(pair.changes.is_empty() && pair.nothing_sent());
            pair.remember(&state);
        } else {
            pair.remember(&state);
            pair.connection.on_unit_answer(id, UnitAnswer::Stale, &mut pair.out);
        }
        pair.run();
        assert!(pair.nothing_sent());
        assert_eq!((pair.changes.len(), pair.changes[0].base), (1, UnitVersion(1)));
        pair.decide();
        pair.run();
        assert_eq!(pair.reply().status(), GOOD);
        // The second time it may end otherwise.
        send_out(&mut pair, 1, 1, 3, 5, 0);
        rival_out(&mut pair, 1, 1, 9, 0);
        pair.decide();
        pair.run();
        assert_eq!(pair.reply().status(), CONFLICT);
        pair.hang_up();
    }
}

#[test]
fn who_is_always_too_late_is_told_to_come_back() {
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    send_out(&mut pair, 1, 6, 0, 0, 5);
    for round in 0..1000u64 {
        if pair.changes.is_empty() {
            assert!(round > 8);
            assert_eq!(pair.reply().status(), (8, None));
            return pair.hang_up();
        }
        rival_out(&mut pair, 6, 0, 0, round + 1);
        pair.decide();
        pair.run();
    }
    panic!("it goes on for ever");
}

#[test]
fn a_node_that_cannot_change_anything_drops_the_session() {
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    send_out(&mut pair, 1, 6, 0, 0, 5);
    let id = pair.changes.pop_front().expect("a change").id;
    pair.connection.on_unit_answer(id, UnitAnswer::NotServing, &mut pair.out);
    pair.run();
    assert_eq!(pair.closed, Some(CloseReason::NotServing));
    assert!(pair.nothing_sent());
    pair.hang_up();
}

#[test]
fn reservations_of_others_are_in_the_way() {
    let mut pair = Pair::logged_in(config());
    rival_out(&mut pair, 6, 0, 0, 9);
    rival_out(&mut pair, 1, 1, 9, 0);
    assert_eq!(pair.command(1, W, 512, &write10(0, 1), &[1; 512]).status(), CONFLICT);
    assert_eq!(pair.command(1, R, 512, &read10(0, 1), &[]).bhs[1] & 1, 1);
    rival_out(&mut pair, 4, 3, 9, 9);
    assert_eq!(pair.command(1, R, 512, &read10(0, 1), &[]).status(), CONFLICT);
    // A list that was on its way when the reservation came.
    rival_out(&mut pair, 2, 3, 9, 0);
    let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 8], &[0, 0, 0, 8, 0, 0, 0, 0]].concat();
    let mut unmap = cdb(0x42);
    unmap[8] = 24;
    pair.send_command(1, W, 24, &unmap, &[]);
    let r2t = pair.reply();
    rival_out(&mut pair, 1, 1, 9, 0);
    pair.answer_r2t(&r2t, &list, 24);
    assert_eq!(pair.reply().status(), CONFLICT);
    rival_out(&mut pair, 3, 0, 9, 0);
    assert_eq!(pair.command(1, W, 512, &write10(0, 1), &[1; 512]).status(), GOOD);
    pair.hang_up();
}

#[test]
fn preempt_and_abort_ends_tasks_and_waits_for_them() {
    let mut pair = Pair::logged_in(config());
    assert_eq!(out(&mut pair, 6, 0, 0, 5), GOOD);
    rival_out(&mut pair, 6, 0, 0, 9);
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    pair.send_command(2, W, 8192, &write10(8, 16), &[]);
    let r2t = pair.reply();
    pair.units_quiet.clear();
    rival_out(&mut pair, 5, 3, 9, 5);
    let aborted = pair.reply();
    assert_eq!((aborted.itt(), aborted.status()), (2, (0x40, None)));
    assert!(pair.units_quiet.is_empty() && pair.nothing_sent());
    pair.complete_all();
    assert_eq!(pair.units_quiet, [pair.unit.version.0]);
    let aborted = pair.reply();
    assert_eq!((aborted.itt(), aborted.status()), (1, (0x40, None)));
    pair.answer_r2t(&r2t, &pattern(8192, 1), 8192);
    assert!(pair.nothing_sent());
    assert_eq!(pair.command(3, NONE, 0, &TUR, &[]).status(), (2, Some((6, 0x2A, 5))));
    pair.hang_up();
}

#[test]
fn a_preempted_change_is_not_waited_for() {
    let mut pair = Pair::logged_in(config());
    assert_eq!(out(&mut pair, 6, 0, 0, 5), GOOD);
    rival_out(&mut pair, 6, 0, 0, 9);
    pair.keep = false;
    pair.units_quiet.clear();
    send_out(&mut pair, 1, 1, 3, 5, 0);
    rival_out(&mut pair, 5, 3, 9, 5);
    assert_eq!(pair.units_quiet, [pair.unit.version.0]);
    assert!(pair.nothing_sent());
    pair.decide();
    pair.run();
    assert_eq!(pair.reply().status(), (0x40, None));
    pair.hang_up();
}

#[test]
fn preempt_ends_no_task() {
    let mut pair = Pair::logged_in(config());
    assert_eq!(out(&mut pair, 6, 0, 0, 5), GOOD);
    rival_out(&mut pair, 6, 0, 0, 9);
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    rival_out(&mut pair, 4, 3, 9, 5);
    pair.complete_all();
    assert_eq!(pair.reply().status(), GOOD);
    pair.hang_up();
}

#[test]
fn abort_task_waits_until_the_change_is_decided() {
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    send_out(&mut pair, 1, 6, 0, 0, 5);
    let mut bhs = [0; 48];
    (bhs[0], bhs[1], bhs[19], bhs[23]) = (0x42, 0x81, 9, 1);
    pair.send(bhs, &[]);
    assert!(pair.nothing_sent());
    pair.decide();
    pair.run();
    let response = pair.reply();
    assert_eq!((response.opcode(), response.bhs[2], pair.nothing_sent()), (0x22, 0, true));
    pair.hang_up();
}

#[test]
fn a_session_gives_back_what_it_had_by_reserve() {
    let mut pair = Pair::logged_in(config());
    assert_eq!(pair.command(1, NONE, 0, &cdb(0x16), &[]).status(), GOOD);
    assert!(pair.unit.memory.reserved().is_some());
    pair.hang_up();
    assert!(pair.unit.memory.reserved().is_none());
    // A change that others overtake, and a RESERVE that is made when nobody is there any more.
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    pair.send_command(1, NONE, 0, &cdb(0x16), &[]);
    pair.connection.on_closed(&mut pair.out);
    pair.closed = Some(CloseReason::Logout);
    pair.run();
    assert_eq!(pair.changes.len(), 1);
    pair.decide();
    pair.run();
    assert!(pair.unit.memory.reserved().is_some() && !pair.connection.is_idle());
    assert_eq!(pair.changes.len(), 1);
    let mut bytes = Vec::new();
    pair.unit.memory.after_reset(ResetKind::TaskSet, &rival_id()).encode(&mut bytes).expect("small");
    pair.remember(&UnitState { version: pair.unit.version.next(), bytes: bytes.into() });
    pair.decide();
    pair.run();
    pair.decide();
    pair.run();
    assert!(pair.unit.memory.reserved().is_none());
    assert!(pair.connection.is_idle());
}

#[test]
fn a_logout_is_answered_when_the_reservation_is_free() {
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    // Not made yet when the initiator leaves.
    pair.send_command(1, NONE, 0, &cdb(0x16), &[]);
    let mut bhs = [0; 48];
    (bhs[0], bhs[1], bhs[19]) = (0x46, 0x80, 9);
    bhs[24..28].copy_from_slice(&pair.cmd_sn.to_be_bytes());
    pair.send(bhs, &[]);
    pair.decide();
    pair.run();
    assert!(pair.nothing_sent() && pair.unit.memory.reserved().is_some());
    // Somebody else is faster, once.
    let mut bytes = Vec::new();
    pair.unit.memory.after_reset(ResetKind::TaskSet, &rival_id()).encode(&mut bytes).expect("small");
    pair.remember(&UnitState { version: pair.unit.version.next(), bytes: bytes.into() });
    pair.decide();
    pair.run();
    assert!(pair.nothing_sent());
    pair.decide();
    pair.run();
    assert!(pair.unit.memory.reserved().is_none());
    assert_eq!((pair.reply().opcode(), pair.closed), (0x26, Some(CloseReason::Logout)));
    pair.hang_up();
}

#[test]
fn what_is_lost_with_the_node_is_not_given_back() {
    let mut pair = Pair::logged_in(config());
    assert_eq!(pair.command(1, NONE, 0, &cdb(0x16), &[]).status(), GOOD);
    pair.keep = false;
    pair.connection.on_closed(&mut pair.out);
    pair.closed = Some(CloseReason::Logout);
    pair.run();
    let id = pair.changes.pop_front().expect("a change").id;
    assert!(!pair.connection.is_idle());
    pair.connection.on_unit_answer(id, UnitAnswer::NotServing, &mut pair.out);
    pair.run();
    assert!(pair.connection.is_idle() && pair.changes.is_empty());
}

#[test]
fn resets_that_come_with_the_memory() {
    for (kind, attention) in [
        (ResetKind::TaskSet, None),
        (ResetKind::Unit, Some((6, 0x29, 3))),
        (ResetKind::Target, Some((6, 0x29, 2))),
        (ResetKind::TargetAndSessions, None),
    ] {
        let mut pair = Pair::logged_in(config());
        pair.prompt = false;
        pair.send_command(1, R, 1 << 17, &read10(0, 256), &[]);
        let by = rival_id();
        let mut bytes = Vec::new();
        pair.unit.memory.after_reset(kind, &by).encode(&mut bytes).expect("small");
        pair.remember(&UnitState { version: UnitVersion(1), bytes: bytes.into() });
        pair.run();
        assert!(pair.nothing_sent() && pair.units_quiet.is_empty());
        if kind == ResetKind::TargetAndSessions {
            assert_eq!(pair.closed, Some(CloseReason::Reset));
        }
        pair.complete_all();
        assert_eq!(pair.units_quiet, [1]);
        if pair.closed.is_none() {
            let aborted = pair.reply();
            assert_eq!((aborted.itt(), aborted.status()), (1, (0x40, None)));
            if let Some(attention) = attention {
                assert_eq!(pair.command(3, NONE, 0, &TUR, &[]).status(), (2, Some(attention)));
            }
            assert_eq!(pair.command(3, NONE, 0, &TUR, &[]).status(), GOOD);
        }
        pair.hang_up();
    }
}

#[test]
fn connections_without_a_session_are_quiet_at_once() {
    let mut pair = Pair::new(config());
    let unit = UnitSnapshot { version: UnitVersion(4), ..UnitSnapshot::empty() };
    pair.connection.on_unit(9, &unit, &mut pair.out);
    pair.run();
    assert_eq!(pair.units_quiet, [9]);
    pair.hang_up();
}

#[test]
fn sense_data_in_descriptor_format() {
    let mut pair = Pair::logged_in(config());
    let list = control(4, 0, 0x40);
    assert_eq!(pair.command(1, W, 16, &mode_select(&list), &list).status(), GOOD);
    let answer = pair.command(1, R, 512, &read10(u32::MAX, 1), &[]);
    assert_eq!(answer.bhs[3], 2);
    assert_eq!(answer.data[..6], [0, 20, 0x72, 5, 0x21, 0]);
    assert_eq!(
        answer.data[14..22],
        [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        "INFORMATION has all of the address"
    );
    pair.hang_up();
}

#[test]
fn software_write_protection_and_no_write_cache() {
    let mut pair = Pair::logged_in(config());
    let list = control(0, 8, 0x40);
    assert_eq!(pair.command(1, W, 16, &mode_select(&list), &list).status(), GOOD);
    assert_eq!(pair.command(1, W, 512, &write10(0, 1), &[1; 512]).status(), (2, Some((7, 0x27, 2))));
    let list = control(0, 0, 0x40);
    assert_eq!(pair.command(1, W, 16, &mode_select(&list), &list).status(), GOOD);
    let mut list = vec![0; 24];
    (list[4], list[5]) = (0x08, 18);
    assert_eq!(pair.command(1, W, 24, &mode_select(&list), &list).status(), GOOD);
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    let mut unmap = cdb(0x42);
    unmap[8] = 24;
    let ranges = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 8], &[0, 0, 0, 8, 0, 0, 0, 0]].concat();
    pair.send_command(2, W, 24, &unmap, &ranges);
    let mut same = write10(0, 1);
    same[0] = 0x41;
    pair.send_command(3, W, 512, &same, &[3; 512]);
    let ops: Vec<_> = pair.pending.iter().map(|request| request.op).collect();
    let fua = true;
    assert_eq!(ops, [BlockOp::Write { fua }, BlockOp::Zero { fua, unmap: true }, BlockOp::Write { fua }]);
    pair.complete_all();
    for _ in 0..3 {
        assert_eq!(pair.reply().status(), GOOD);
    }
    pair.hang_up();
}
