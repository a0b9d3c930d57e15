//! SIMPLE, ORDERED, HEAD OF QUEUE.

use super::pair::{Pair, config, pattern, read10, write10};

const R: u8 = 0xC0;
const W: u8 = 0xA0;

/// Flags are in the high bits, the attribute in the low ones.
const ORDERED: u8 = 2;
const HEAD: u8 = 3;

fn pair() -> Pair {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair
}

/// First blocks of what the disk has been asked for.
fn asked(pair: &Pair) -> Vec<u64> {
    pair.pending.iter().map(|request| request.range.start.0).collect()
}

#[test]
fn ordered_waits_for_the_older_and_the_newer_for_it() {
    let mut pair = pair();
    pair.send_command(1, R | 1, 512, &read10(1, 1), &[]);
    pair.send_command(2, R, 512, &read10(2, 1), &[]);
    pair.send_command(3, W | ORDERED, 512, &write10(3, 1), &[3; 512]);
    pair.send_command(4, R | 1, 512, &read10(4, 1), &[]);
    pair.send_command(5, R | ORDERED, 512, &read10(5, 1), &[]);
    pair.send_command(6, R | 1, 512, &read10(6, 1), &[]);
    assert_eq!(asked(&pair), [1, 2]);
    pair.complete_at(1, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [1]);
    pair.complete_at(0, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [3]);
    pair.complete_at(0, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [4]);
    pair.complete_at(0, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [5]);
    pair.complete_at(0, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [6]);
    pair.complete_all();
    assert_eq!(pair.sent.iter().map(|pdu| pdu.itt()).collect::<Vec<_>>(), [2, 1, 3, 4, 5, 6]);
    assert_eq!(pair.disk_at(3, 512), [3; 512]);
    pair.hang_up();
}

#[test]
fn head_of_queue_passes_everything() {
    let mut pair = pair();
    pair.send_command(1, R, 512, &read10(1, 1), &[]);
    pair.send_command(2, R | ORDERED, 512, &read10(2, 1), &[]);
    pair.send_command(3, R | HEAD, 512, &read10(3, 1), &[]);
    // Newer than a HEAD OF QUEUE that is not done.
    pair.send_command(4, R, 512, &read10(4, 1), &[]);
    assert_eq!(asked(&pair), [1, 3]);
    pair.complete_at(0, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [3]);
    pair.complete_at(0, crate::block::BlockStatus::Good);
    assert_eq!(asked(&pair), [2]);
    pair.complete_all();
    assert_eq!(pair.sent.iter().map(|pdu| pdu.itt()).collect::<Vec<_>>(), [1, 3, 2, 4]);
    pair.hang_up();
}

#[test]
fn a_flush_keeps_its_place() {
    let mut pair = pair();
    let mut flush = [0; 16];
    flush[0] = 0x35;
    pair.send_command(1, W, 512, &write10(1, 1), &[1; 512]);
    pair.send_command(2, 0x80 | ORDERED, 0, &flush, &[]);
    assert_eq!(pair.pending.len(), 1);
    pair.complete_all();
    assert_eq!(pair.sent.len(), 2);
}

#[test]
fn data_of_a_held_write_is_taken_in() {
    let mut pair = pair();
    let data = pattern(200_704, 9);
    pair.send_command(1, R, 512, &read10(8000, 1), &[]);
    pair.send_command(2, W | ORDERED, 200_704, &write10(0, 392), &data[..8192]);
    pair.answer_r2ts(&data, 60_000);
    assert_eq!(asked(&pair), [8000]);
    pair.complete_all();
    assert_eq!(pair.disk_at(0, 200_704), data);
    assert_eq!(pair.sent.iter().map(|pdu| pdu.itt()).collect::<Vec<_>>(), [1, 2]);
    pair.hang_up();
}

#[test]
fn held_tasks_can_be_aborted() {
    let mut pair = pair();
    pair.send_command(1, R, 512, &read10(1, 1), &[]);
    pair.send_command(2, W | ORDERED, 512, &write10(2, 1), &[2; 512]);
    pair.send_command(3, R, 512, &read10(3, 1), &[]);
    let mut abort = [0; 48];
    (abort[0], abort[1], abort[19], abort[23]) = (0x42, 0x81, 9, 2);
    pair.send(abort, &[]);
    // It had nothing on its way, so it is quiet at once, and nobody waits for it any more.
    assert_eq!((pair.reply().itt(), asked(&pair)), (9, vec![1, 3]));
    pair.complete_all();
    assert_eq!(pair.sent.len(), 2);
    // All the rest at once, and at the end of the connection.
    pair.sent.clear();
    pair.send_command(1, R, 512, &read10(1, 1), &[]);
    for itt in 2..9 {
        pair.send_command(itt, W | ORDERED, 512, &write10(itt, 1), &[2; 512]);
    }
    pair.hang_up();
}

#[test]
fn what_ends_without_touching_the_disk_does_not_wait() {
    let mut pair = pair();
    pair.send_command(1, R, 512, &read10(1, 1), &[]);
    // No medium, an error in the CDB, an error in the data.
    assert_eq!(pair.command(2, 0x80 | ORDERED, 0, &[0; 16], &[]).status(), (0, None));
    assert_eq!(pair.command(3, R | ORDERED, 512, &read10(u32::MAX, 1), &[]).status().0, 2);
    pair.send_command(4, W | ORDERED, 8192, &write10(0, 16), &[]);
    let ttt = pair.reply().field(20);
    pair.data_out(4, ttt, 9, 0, true, &[0; 8192]);
    assert_eq!(pair.reply().status(), (2, Some((0x0B, 0x4B, 0))));
    // Nobody waits for those any more.
    pair.send_command(5, R, 512, &read10(5, 1), &[]);
    assert_eq!(asked(&pair), [1, 5]);
    pair.complete_all();
    pair.hang_up();
}

#[test]
fn held_tasks_give_way_when_buffers_run_out() {
    let mut pair = pair();
    pair.pool.capacity = 3;
    // Two buffers of six are there for the first.
    pair.send_command(1, R, 131_072 * 2, &read10(0, 512), &[]);
    pair.send_command(2, R | ORDERED, 65_536, &read10(1000, 128), &[]);
    assert_eq!(pair.pending.len(), 3);
    while let Some(request) = pair.pending.front().copied() {
        assert!(request.range.start.0 < 512 || pair.pending.len() == 1);
        pair.complete_at(0, crate::block::BlockStatus::Good);
        pair.pool_ready(3);
    }
    let ended: Vec<_> = pair.sent.iter().filter(|pdu| pdu.opcode() == 0x21 || pdu.bhs[1] & 1 != 0).collect();
    assert_eq!(ended.iter().map(|pdu| pdu.itt()).collect::<Vec<_>>(), [1, 2]);
    pair.sent.clear();
    // The held one has the only buffer, and what may run has none: it is told to come again.
    pair.pool.capacity = 1;
    let mut flush = [0; 16];
    flush[0] = 0x35;
    pair.send_command(1, 0x80, 0, &flush, &[]);
    pair.send_command(2, W | ORDERED, 512, &write10(0, 1), &[1; 512]);
    pair.send_command(3, R | HEAD, 512, &read10(0, 1), &[]);
    assert!(pair.nothing_sent());
    pair.complete_all();
    pair.pool_ready(1);
    pair.complete_all();
    let statuses: Vec<_> = pair.sent.iter().map(|pdu| (pdu.itt(), pdu.bhs[3])).collect();
    assert_eq!(statuses, [(1, 0), (2, 0x28), (3, 0)]);
    pair.hang_up();
}

#[test]
fn attributes_that_mean_nothing_are_refused() {
    let mut pair = pair();
    for attribute in 4..8 {
        let answer = pair.command(1, R | attribute, 512, &read10(0, 1), &[]);
        assert_eq!(answer.status(), (2, Some((5, 0x49, 0))), "{attribute}");
    }
    assert!(pair.pending.is_empty());
}
