//! Task management across sessions: what others hear, and that nobody is answered too early.

use super::pair::{Pair, config, pattern, read10, write10};
use crate::iscsi::{CloseReason, Reset, ResetId};
use crate::units::ShardId;
use crate::wire::Demand;

const R: u8 = 0xC0;
const W: u8 = 0xA0;
const ID: ResetId = ResetId { shard: ShardId(3), number: 9 };

fn management(pair: &mut Pair, function: u8) {
    let mut bhs = [0; 48];
    (bhs[0], bhs[1], bhs[19]) = (0x42, 0x80 | function, 9);
    bhs[20..24].fill(0xFF);
    pair.send(bhs, &[]);
}

fn reset(pair: &mut Pair, reset: Reset) {
    pair.connection.on_reset(reset, ID, &mut pair.out);
    pair.run();
}

#[test]
fn functions_wait_for_every_other_session() {
    for (function, expected) in [
        (4, Reset::TaskSet { unit: 0 }),
        (5, Reset::Unit { unit: 0 }),
        (6, Reset::Target),
        (7, Reset::TargetAndSessions),
    ] {
        let mut pair = Pair::logged_in(config());
        (pair.alone, pair.prompt) = (false, false);
        pair.send_command(1, R, 512, &read10(0, 1), &[]);
        management(&mut pair, function);
        let (told, ticket) = pair.resets.pop().expect("others are told");
        assert_eq!(told, expected);
        // Either may come first.
        if function % 2 == 0 {
            pair.complete_all();
            assert!(pair.nothing_sent());
            pair.connection.on_reset_done(ticket, &mut pair.out);
            pair.run();
        } else {
            pair.connection.on_reset_done(ticket, &mut pair.out);
            pair.run();
            assert!(pair.nothing_sent());
            pair.complete_all();
        }
        let response = pair.reply();
        assert_eq!((response.opcode(), response.bhs[2], response.itt()), (0x22, 0, 9));
        assert_eq!(pair.closed, (function == 7).then_some(CloseReason::Reset));
        assert!(pair.nothing_sent());
        pair.hang_up();
    }
}

#[test]
fn others_hear_task_aborted_and_a_unit_attention() {
    for (what, attention) in [
        (Reset::TaskSet { unit: 0 }, None),
        (Reset::Unit { unit: 0 }, Some((6, 0x29, 3))),
        (Reset::Target, Some((6, 0x29, 2))),
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
        assert!(pair.nothing_sent() && pair.quiet.is_empty());
        pair.complete_all();
        assert_eq!(pair.quiet, [ID]);
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
fn a_reset_of_another_unit_is_no_business_of_this_one() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    reset(&mut pair, Reset::Unit { unit: 4 });
    assert_eq!(pair.quiet, [ID]);
    pair.complete_all();
    assert_eq!(pair.reply().bhs[1], 0x81);
    assert_eq!(pair.command(1, 0x80, 0, &[0; 16], &[]).status(), (0, None));
}

#[test]
fn a_cold_reset_ends_every_session() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    reset(&mut pair, Reset::TargetAndSessions);
    assert_eq!(pair.closed, Some(CloseReason::Reset));
    // Quiet only when what was under way is back.
    assert!(pair.quiet.is_empty());
    pair.complete_all();
    assert_eq!(pair.quiet, [ID]);
    pair.hang_up();
    assert_eq!(pair.quiet, [ID]);
}

#[test]
fn connections_without_tasks_are_quiet_at_once() {
    let mut pair = Pair::new(config());
    reset(&mut pair, Reset::Target);
    assert_eq!(pair.quiet, [ID]);
    pair.hang_up();
    reset(&mut pair, Reset::Target);
    assert_eq!(pair.quiet, [ID, ID]);
}

#[test]
fn a_session_that_is_over_reports_what_it_left_behind() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, W, 512, &write10(0, 1), &[1; 512]);
    pair.connection.on_closed(&mut pair.out);
    pair.closed.get_or_insert(CloseReason::Logout);
    reset(&mut pair, Reset::Unit { unit: 0 });
    assert!(pair.quiet.is_empty());
    pair.complete_all();
    assert_eq!(pair.quiet, [ID]);
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
        reset(&mut pair, Reset::Unit { unit: 0 });
        assert!(filling.is_none_or(|buf| pair.pool.taken.contains_key(&buf.0)));
        pair.complete_all();
        assert_eq!(pair.quiet, [ID], "{at}");
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
    reset(&mut pair, Reset::Target);
    assert_eq!((pair.reply().status(), pair.quiet.len()), ((0x40, None), 1));
    pair.pool.capacity = 1;
    assert_eq!(pair.command(3, 0x80, 0, &[0; 16], &[]).status(), (2, Some((6, 0x29, 2))));
    pair.hang_up();
}
