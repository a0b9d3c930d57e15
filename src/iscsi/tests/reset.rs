//! Task management across sessions: what others hear, and that nobody is answered too early.

use super::pair::{Pair, config, pattern, read10, write10};
use crate::block::{UnitAnswer, UnitState};
use crate::iscsi::CloseReason;
use crate::scsi::{InitiatorPort, NexusId, ResetKind};
use crate::wire::Demand;

const R: u8 = 0xC0;
const W: u8 = 0xA0;

fn management(pair: &mut Pair, function: u8) {
    let mut bhs = [0; 48];
    (bhs[0], bhs[1], bhs[19]) = (0x42, 0x80 | function, 9);
    bhs[20..24].fill(0xFF);
    pair.send(bhs, &[]);
}

/// Another initiator resets.
fn reset(pair: &mut Pair, kind: ResetKind) {
    let initiator = InitiatorPort { name: "iqn.rival".into(), isid: Some([0x80; 6]) };
    let mut bytes = Vec::new();
    let next = pair.unit.memory.after_reset(kind, &NexusId { initiator, port: 1 });
    next.encode(&mut bytes).expect("small");
    pair.remember(&UnitState { version: pair.unit.version.next(), bytes: bytes.into() });
    pair.run();
}

#[test]
fn functions_wait_for_every_other_session() {
    for function in [4, 5, 6, 7] {
        let mut pair = Pair::logged_in(config());
        (pair.keep, pair.prompt) = (false, false);
        pair.send_command(1, R, 512, &read10(0, 1), &[]);
        management(&mut pair, function);
        assert_eq!(pair.changes.len(), 1, "others are told");
        // Either may come first, and somebody else may be faster.
        if function % 2 == 0 {
            pair.complete_all();
            assert!(pair.nothing_sent());
            reset(&mut pair, ResetKind::TaskSet);
            pair.decide();
            pair.run();
            assert!(pair.nothing_sent());
            pair.decide();
            pair.run();
        } else {
            pair.decide();
            pair.run();
            assert!(pair.nothing_sent());
            pair.complete_all();
        }
        let response = pair.reply();
        assert_eq!((response.opcode(), response.bhs[2], response.itt()), (0x22, 0, 9));
        assert_eq!(pair.closed, (function == 7).then_some(CloseReason::Reset));
        assert!(pair.nothing_sent() && pair.changes.is_empty());
        pair.hang_up();
    }
}

#[test]
fn what_comes_after_a_reset_is_not_reset() {
    let mut pair = Pair::logged_in(config());
    (pair.keep, pair.prompt) = (false, false);
    management(&mut pair, 4);
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    pair.decide();
    pair.run();
    assert_eq!(pair.reply().opcode(), 0x22);
    pair.complete_all();
    assert_eq!(pair.reply().bhs[1], 0x81);
    pair.hang_up();
}

#[test]
fn a_function_that_nobody_can_carry_out_ends_the_session() {
    let mut pair = Pair::logged_in(config());
    pair.keep = false;
    management(&mut pair, 5);
    let id = pair.changes.pop_front().expect("others are told").id;
    pair.connection.on_unit_answer(id, UnitAnswer::NotServing, &mut pair.out);
    pair.run();
    assert_eq!((pair.closed, pair.nothing_sent()), (Some(CloseReason::NotServing), true));
    pair.hang_up();
}

#[test]
fn others_hear_task_aborted_and_a_unit_attention() {
    for (what, attention) in [
        (ResetKind::TaskSet, None),
        (ResetKind::Unit, Some((6, 0x29, 3))),
        (ResetKind::Target, Some((6, 0x29, 2))),
    ] {
        let mut pair = Pair::logged_in(config());
        pair.prompt = false;
        pair.send_command(1, R, 1 << 17, &read10(0, 256), &[]);
        // Waits for its Data-Out: nothing on its way to the disk, so it ends at once.
        pair.send_command(2, W, 8192, &write10(0, 16), &[]);
        let ttt = pair.reply().field(20);
        reset(&mut pair, what);
        let aborted = pair.reply();
        assert_eq!((aborted.itt(), aborted.status()), (2, (0x40, None)));
        assert!(pair.nothing_sent() && pair.units_quiet.is_empty());
        pair.complete_all();
        assert_eq!(pair.units_quiet, [1]);
        let aborted = pair.reply();
        assert_eq!((aborted.itt(), aborted.status()), (1, (0x40, None)));
        // What still comes is swallowed.
        pair.data_out(2, ttt, 0, 0, true, &[1; 8192]);
        assert!(pair.nothing_sent());
        pair.prompt = true;
        if let Some(attention) = attention {
            assert_eq!(pair.command(3, 0x80, 0, &[0; 16], &[]).status(), (2, Some(attention)));
        }
        assert_eq!(pair.command(3, 0x80, 0, &[0; 16], &[]).status(), (0, None));
        pair.hang_up();
    }
}

#[test]
fn a_cold_reset_ends_every_session() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    reset(&mut pair, ResetKind::TargetAndSessions);
    assert_eq!(pair.closed, Some(CloseReason::Reset));
    // Quiet only when what was under way is back.
    assert!(pair.units_quiet.is_empty());
    pair.complete_all();
    assert_eq!(pair.units_quiet, [1]);
    pair.hang_up();
    assert_eq!(pair.units_quiet, [1]);
}

#[test]
fn a_session_that_is_over_reports_what_it_left_behind() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    pair.connection.on_closed(&mut pair.out);
    pair.closed.get_or_insert(CloseReason::Logout);
    reset(&mut pair, ResetKind::Unit);
    assert!(pair.units_quiet.is_empty());
    pair.complete_all();
    assert_eq!(pair.units_quiet, [1]);
    assert!(pair.connection.is_idle());
}

/// The stream is in the middle of a task's data when another initiator resets: the buffer being filled stays, the task
/// is quiet, and the stream finds the next header.
#[test]
fn a_reset_in_the_middle_of_data() {
    let data = pattern(1 << 17, 4);
    for at in [1, 100, 65_535, 65_536, 65_537, 131_071] {
        let mut pair = Pair::logged_in(config());
        pair.prompt = false;
        pair.send_command(1, W, 1 << 17, &write10(0, 256), &[]);
        let r2t = pair.reply();
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[19]) = (0x05, 0x80, 1);
        bhs[5..8].copy_from_slice(&[2, 0, 0]);
        bhs[20..24].copy_from_slice(&r2t.bhs[20..24]);
        pair.stream.extend(bhs);
        pair.stream.extend(&data[..at]);
        pair.run();
        let filling = match pair.connection.demand() {
            Demand::Data { buf, .. } => Some(buf),
            _ => None,
        };
        reset(&mut pair, ResetKind::Unit);
        assert!(filling.is_none_or(|buf| pair.pool.taken.contains_key(&buf.0)));
        pair.complete_all();
        assert_eq!(pair.units_quiet, [1], "{at}");
        pair.stream.extend(&data[at..]);
        pair.run();
        let aborted = pair.reply();
        assert_eq!((aborted.itt(), aborted.status()), (1, (0x40, None)));
        pair.complete_all();
        assert!(pair.pool.taken.is_empty() && pair.nothing_sent());
        assert_eq!(pair.command(3, 0x80, 0, &[0; 16], &[]).status(), (2, Some((6, 0x29, 3))));
        pair.hang_up();
    }
}

#[test]
fn a_reset_while_the_stream_waits_for_a_buffer() {
    let mut pair = Pair::logged_in(config());
    pair.pool.capacity = 0;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    assert!(pair.connection.waits_for_buffers());
    reset(&mut pair, ResetKind::Target);
    assert_eq!((pair.reply().status(), pair.units_quiet.len()), ((0x40, None), 1));
    pair.pool.capacity = 1;
    assert_eq!(pair.command(3, 0x80, 0, &[0; 16], &[]).status(), (2, Some((6, 0x29, 2))));
    pair.hang_up();
}
