//! READ and WRITE: immediate data, R2T, unsolicited data, Data-In, residuals.

use super::pair::{Pair, config, pattern, read10, write10};
use crate::block::{BlockOp, BlockStatus};
use crate::iscsi::CloseReason;

const R: u8 = 0xC0;
const W: u8 = 0xA0;

#[test]
fn four_kib_both_ways() {
    let mut pair = Pair::logged_in(config());
    let data = pattern(4096, 3);
    let answer = pair.command(5, W, 4096, &write10(8, 8), &data);
    assert_eq!((answer.opcode(), answer.bhs[1], answer.status()), (0x21, 0x80, (0, None)));
    assert_eq!(pair.disk_at(8, 4096), data);
    let answer = pair.command(6, R, 4096, &read10(8, 8), &[]);
    // Final, with status.
    assert_eq!((answer.opcode(), answer.bhs[1], answer.bhs[3]), (0x25, 0x81, 0));
    assert_eq!((answer.field(36), answer.field(40), answer.field(20)), (0, 0, 0xFFFF_FFFF));
    assert_eq!(answer.data, data);
    assert!(pair.nothing_sent() && pair.pool.taken.is_empty());
    pair.hang_up();
}

#[test]
fn one_mib_write_by_r2t() {
    let mut pair = Pair::logged_in(config());
    let data = pattern(1 << 20, 9);
    // From the middle of a chunk's worth below an extent edge, so that chunks are cut in two.
    let lba = 8192 - 1000;
    pair.send_command(5, W, 1 << 20, &write10(lba, 2048), &data[..65536]);
    let r2t = pair.sent.front().cloned().expect("an R2T");
    assert_eq!((r2t.opcode(), r2t.bhs[1], r2t.field(36)), (0x31, 0x80, 0));
    // It starts behind the immediate data and asks for a burst.
    assert_eq!((r2t.field(40), r2t.field(44)), (65536, 262_144));
    pair.answer_r2ts(&data, 8192);
    let answer = pair.reply();
    assert_eq!((answer.itt(), answer.bhs[1], answer.status()), (5, 0x80, (0, None)));
    assert!(pair.disk_at(u64::from(lba), 1 << 20) == data);
    assert!(pair.pool.taken.is_empty());
}

#[test]
fn one_mib_read_in_order() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(5, R, 1 << 20, &read10(8000, 2048), &[]);
    // 16 chunks, one of them across the extent edge.
    assert_eq!(pair.pending.len(), 17);
    while !pair.pending.is_empty() {
        // The last first.
        pair.complete_at(pair.pending.len() - 1, BlockStatus::Good);
    }
    let mut data: Vec<u8> = Vec::new();
    for sn in 0..16 {
        let pdu = pair.reply();
        assert_eq!((pdu.opcode(), pdu.field(36), pdu.field(40) as usize), (0x25, sn, data.len()));
        data.extend(&pdu.data);
        // A sequence is as long as MaxBurstLength, 256 KiB.
        let flags = if sn == 15 {
            0x81
        } else if sn % 4 == 3 {
            0x80
        } else {
            0
        };
        assert_eq!(pdu.bhs[1], flags);
    }
    assert!(pair.nothing_sent());
    assert!(data == pair.disk_at(8000, 1 << 20));
    assert!(pair.pool.taken.is_empty());
}

#[test]
fn small_segments_of_the_initiator() {
    let mut pair = Pair::new(config());
    pair.login("MaxRecvDataSegmentLength=1023 MaxBurstLength=2050");
    pair.hear_attention();
    pair.send_command(5, R, 4096, &read10(0, 8), &[]);
    let mut data: Vec<u8> = Vec::new();
    while data.len() < 4096 {
        let pdu = pair.reply();
        assert_eq!(pdu.field(40) as usize, data.len());
        assert!(pdu.data.len() <= 1023 && pdu.data.len() % 4 == 0);
        data.extend(&pdu.data);
        let ends = data.len() == 2048 || data.len() == 4096;
        assert_eq!(pdu.bhs[1] & 0x80 != 0, ends, "{}", data.len());
    }
    assert_eq!(data, pair.disk_at(0, 4096));
}

/// libiscsi's iSCSIResiduals suites.
#[test]
fn residuals_are_exact_and_no_error() {
    let mut pair = Pair::logged_in(config());
    let overflow = |answer: &super::pair::Pdu| (answer.bhs[1] & 6, answer.field(44), answer.bhs[3]);
    // READ of one block.
    for (expected, flag, count, got) in [(0, 4, 512, 0), (10_000, 2, 9488, 512), (200, 4, 312, 200)] {
        let answer = pair.command(5, R, expected, &read10(0, 1), &[]);
        assert_eq!(overflow(&answer), (flag, count, 0));
        assert_eq!(answer.data, pair.disk_at(0, got));
    }
    let answer = pair.command(5, R, 512, &read10(0, 2), &[]);
    assert_eq!((overflow(&answer), answer.data.len()), ((4, 512, 0), 512));
    // WRITE of one block: whole blocks of what comes, never more than the CDB says.
    let before = pair.disk_at(0, 2048).to_vec();
    let data = vec![0x62; 10_000];
    for (expected, flag, count, written) in [(0u32, 4, 512, 0), (200, 4, 312, 0), (10_000, 2, 9488, 512)] {
        let answer = pair.command(5, W, expected, &write10(0, 1), &data[..expected as usize]);
        assert_eq!(overflow(&answer), (flag, count, 0));
        assert_eq!(pair.disk_at(0, written), &data[..written]);
        assert_eq!(pair.disk_at(1, 512), &before[512..1024]);
    }
    // Two blocks in the CDB, one from the initiator.
    let answer = pair.command(5, W, 512, &write10(2, 2), &data[..512]);
    assert_eq!(overflow(&answer), (4, 512, 0));
    assert_eq!(pair.disk_at(2, 512), &data[..512]);
    assert_eq!(pair.disk_at(3, 512), &before[1536..2048]);
    // READ flagged as a write (Read10Invalid).
    let answer = pair.command(5, W, 512, &read10(0, 1), &data[..512]);
    assert_eq!(answer.bhs[3], 0);
    // INQUIRY: shorter than offered, cut to the allocation length.
    let mut inquiry = [0; 16];
    inquiry[0] = 0x12;
    inquiry[4] = 36;
    let answer = pair.command(5, R, 255, &inquiry, &[]);
    assert_eq!((overflow(&answer), answer.data.len(), answer.bhs[1]), ((2, 219, 0), 36, 0x83));
    // A refused command uses none of it.
    let answer = pair.command(5, R, 512, &read10(0xFFFF_FFFF, 1), &[]);
    assert_eq!((answer.status(), answer.field(44)), ((2, Some((5, 0x21, 0))), 512));
    assert!(pair.pool.taken.is_empty());
}

#[test]
fn writes_without_immediate_data() {
    let mut pair = Pair::logged_in(config());
    let data = pattern(8192, 1);
    pair.send_command(5, W, 8192, &write10(0, 16), &[]);
    assert_eq!((pair.sent[0].field(40), pair.sent[0].field(44)), (0, 8192));
    pair.answer_r2ts(&data, 512);
    assert_eq!(pair.reply().status(), (0, None));
    assert_eq!(pair.disk_at(0, 8192), data);
}

#[test]
fn unsolicited_data_when_agreed() {
    let mut loose = config();
    loose.limits.initial_r2t = false;
    let mut pair = Pair::new(loose);
    pair.login("InitialR2T=No ImmediateData=Yes FirstBurstLength=8192");
    pair.hear_attention();
    let data = pattern(20 * 512, 2);
    pair.send_command(5, 0x20, 20 * 512, &write10(0, 20), &data[..4096]);
    pair.data_out(5, 0xFFFF_FFFF, 0, 4096, false, &data[4096..6144]);
    assert!(pair.nothing_sent());
    pair.data_out(5, 0xFFFF_FFFF, 1, 6144, true, &data[6144..8192]);
    pair.answer_r2ts(&data, 2048);
    assert_eq!(pair.reply().status(), (0, None));
    assert_eq!(pair.disk_at(0, data.len()), data);
    // Refused early: answered after the last of it, which is dropped (§11.4.2).
    pair.send_command(6, 0x20, 8192, &write10(0xFFFF_FFFF, 16), &data[..4096]);
    assert!(pair.nothing_sent());
    pair.data_out(6, 0xFFFF_FFFF, 0, 4096, true, &data[4096..8192]);
    assert_eq!(pair.reply().status(), (2, Some((5, 0x21, 0))));
    // More than the first burst.
    pair.send_command(7, 0x20, 16384, &write10(0, 32), &data[..4096]);
    pair.data_out(7, 0xFFFF_FFFF, 0, 4096, true, &data[4096..8704]);
    assert_eq!(pair.reply().status(), (2, Some((0xB, 0x4B, 0))));
    pair.hang_up();
}

/// libiscsi's iSCSIDataSnInvalid, which tgt and LIO fail.
#[test]
fn data_sn_and_offset_are_checked() {
    let data = pattern(1024, 2);
    for (first, second) in [((0, 0), (0, 512)), ((27, 0), (1, 512)), ((1, 0), (0, 512)), ((0, 0), (1, 0))] {
        let mut pair = Pair::logged_in(config());
        let before = pair.disk_at(100, 1024).to_vec();
        pair.send_command(5, W, 1024, &write10(100, 2), &[]);
        let ttt = pair.reply().field(20);
        pair.data_out(5, ttt, first.0, first.1, false, &data[..512]);
        assert!(pair.nothing_sent());
        pair.data_out(5, ttt, second.0, second.1, true, &data[512..]);
        assert_eq!(pair.reply().status(), (2, Some((0xB, 0x4B, 0))), "{first:?} {second:?}");
        assert_eq!(pair.disk_at(100, 1024), before);
        // The session goes on.
        assert_eq!(pair.command(6, W, 512, &write10(0, 1), &data[..512]).status(), (0, None));
        pair.hang_up();
    }
}

#[test]
fn a_short_or_long_answer_to_r2t_fails_the_command() {
    let data = pattern(4096, 2);
    for (len, last) in [(512, true), (4096, true)] {
        let mut pair = Pair::logged_in(config());
        pair.send_command(5, W, 1024, &write10(100, 2), &[]);
        let ttt = pair.reply().field(20);
        pair.data_out(5, ttt, 0, 0, last, &data[..len]);
        assert_eq!(pair.reply().status(), (2, Some((0xB, 0x4B, 0))));
        pair.hang_up();
    }
}

#[test]
fn tags_of_data_out() {
    let data = pattern(1024, 2);
    // An unknown task: answered or aborted before, the data is dropped.
    let mut pair = Pair::logged_in(config());
    pair.data_out(99, 0, 0, 0, true, &data);
    pair.data_out(99, 0xFFFF_FFFF, 0, 0, true, &data);
    assert!(pair.nothing_sent() && pair.closed.is_none());
    // A live task with another tag, or one that expects nothing.
    for ttt in [0xFFFF_FFFF, 0x0001_0000, 77] {
        let mut pair = Pair::logged_in(config());
        pair.send_command(5, W, 1024, &write10(100, 2), &[]);
        pair.reply();
        pair.data_out(5, ttt, 0, 0, true, &data);
        let reject = pair.reply();
        assert_eq!((reject.opcode(), reject.bhs[2], reject.data.len()), (0x3F, 0x09, 48));
        assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
        pair.hang_up();
    }
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(5, W, 512, &write10(100, 1), &data[..512]);
    pair.data_out(5, 0, 0, 0, true, &data);
    assert_eq!(pair.reply().bhs[2], 0x04);
    pair.hang_up();
}

#[test]
fn misplaced_immediate_data() {
    let mut strict = config();
    strict.limits.immediate_data = false;
    let mut pair = Pair::new(strict);
    pair.login("ImmediateData=Yes");
    pair.hear_attention();
    let before = pair.disk_at(0, 512).to_vec();
    let unexpected = (2, Some((0xB, 0x0C, 0x0C)));
    assert_eq!(pair.command(5, W, 512, &write10(0, 1), &[1; 512]).status(), unexpected);
    assert_eq!(pair.disk_at(0, 512), before);
    // F=0 under InitialR2T=Yes; the Data-Out that follows finds no task.
    assert_eq!(pair.command(6, 0x20, 512, &write10(0, 1), &[]).status(), unexpected);
    pair.data_out(6, 0xFFFF_FFFF, 0, 0, true, &[1; 512]);
    assert!(pair.nothing_sent());
    // More than EDTL, and more than FirstBurstLength.
    let mut pair = Pair::logged_in(config());
    assert_eq!(pair.command(5, W, 512, &write10(0, 1), &[1; 1024]).status(), (2, Some((0xB, 0x4B, 0))));
    let long = vec![1; 65536 + 512];
    assert_eq!(pair.command(5, W, 1 << 17, &write10(0, 256), &long).status(), unexpected);
    assert_eq!(pair.command(6, R, 512, &read10(0, 1), &[1; 4]).status(), unexpected);
    pair.hang_up();
}

#[test]
fn medium_errors_come_when_everything_is_back() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(5, R, 1 << 18, &read10(0, 512), &[]);
    assert_eq!(pair.pending.len(), 4);
    pair.complete_at(0, BlockStatus::Good);
    pair.complete_at(0, BlockStatus::MediumError);
    pair.complete_at(0, BlockStatus::Good);
    assert_eq!(pair.reply().data.len(), 65536);
    assert!(pair.nothing_sent());
    pair.complete_at(0, BlockStatus::Good);
    let answer = pair.reply();
    assert_eq!(answer.status(), (2, Some((3, 0x11, 0))));
    // One Data-In was sent; the rest is underflow; INFORMATION names the chunk.
    assert_eq!((answer.field(36), answer.field(44), answer.bhs[1] & 6), (1, 3 * 65536, 2));
    assert_eq!(answer.data[5..9], 128u32.to_be_bytes());

    pair.send_command(6, W, 1 << 17, &write10(0, 256), &[7; 65536]);
    let ttt = pair.reply().field(20);
    pair.complete_at(0, BlockStatus::MediumError);
    // The R2T is outstanding: status waits for its data.
    assert!(pair.nothing_sent());
    pair.data_out(6, ttt, 0, 65536, true, &[7; 65536]);
    assert_eq!(pair.reply().status(), (2, Some((3, 0x0C, 0))));
    pair.hang_up();
}

#[test]
fn not_serving_is_never_an_error() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(5, R, 1 << 17, &read10(0, 256), &[]);
    pair.send_command(6, W, 512, &write10(0, 1), &[7; 512]);
    pair.complete_at(1, BlockStatus::NotServing);
    assert!(pair.nothing_sent());
    assert_eq!(pair.closed, Some(CloseReason::NotServing));
    assert!(!pair.connection.is_idle());
    pair.complete_at(0, BlockStatus::NotServing);
    pair.hang_up();
}

#[test]
fn flushes_and_fua() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    let mut cdb = [0; 16];
    cdb[0] = 0x35;
    pair.send_command(5, 0x80, 0, &cdb, &[]);
    assert_eq!(pair.pending[0].op, BlockOp::Flush);
    assert!(pair.nothing_sent());
    pair.complete_all();
    assert_eq!(pair.reply().status(), (0, None));
    let mut cdb = write10(0, 1);
    cdb[1] = 0x08;
    pair.send_command(6, W, 512, &cdb, &[7; 512]);
    assert_eq!(pair.pending[0].op, BlockOp::Write { fua: true });
    pair.complete_all();
    assert_eq!(pair.reply().status(), (0, None));
    let mut cdb = read10(0, 1);
    cdb[1] = 0x08;
    pair.send_command(7, R, 512, &cdb, &[]);
    assert_eq!(pair.pending[0].op, BlockOp::Flush);
    pair.complete_at(0, BlockStatus::Good);
    assert_eq!(pair.pending[0].op, BlockOp::Read);
    pair.complete_all();
    assert_eq!(pair.reply().data, [7; 512]);
}

#[test]
fn reads_wait_for_buffers() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.pool.capacity = 2;
    pair.send_command(5, R, 1 << 18, &read10(0, 512), &[]);
    pair.send_command(6, R, 512, &read10(0, 1), &[]);
    assert_eq!(pair.pending.len(), 2);
    assert!(pair.connection.waits_for_buffers());
    pair.complete_all();
    pair.pool_ready(2);
    pair.complete_all();
    while pair.connection.waits_for_buffers() {
        pair.pool_ready(2);
        pair.complete_all();
    }
    let mut tags: Vec<u32> = pair.sent.iter().map(|pdu| pdu.itt()).collect();
    tags.dedup();
    assert_eq!(tags, [5, 6]);
    assert_eq!(pair.pool.most, 2);
    pair.hang_up();
}

#[test]
fn the_share_of_a_session_is_bounded() {
    let mut small = config();
    small.limits.buffers = 3;
    let mut pair = Pair::logged_in(small);
    pair.prompt = false;
    for itt in 0..10 {
        pair.send_command(itt, R, 1 << 20, &read10(0, 2048), &[]);
    }
    while !pair.pending.is_empty() {
        assert!(pair.pool.taken.len() <= 3);
        pair.complete_at(0, BlockStatus::Good);
    }
    assert_eq!(pair.sent.iter().filter(|pdu| pdu.bhs[1] & 1 != 0).count(), 10);
    assert!(pair.pool.taken.is_empty());
}

#[test]
fn a_first_burst_without_buffer_stops_the_stream() {
    let mut pair = Pair::logged_in(config());
    pair.pool.capacity = 0;
    pair.send_command(5, W, 512, &write10(0, 1), &[7; 512]);
    assert_eq!(pair.connection.demand(), crate::wire::Demand::Stalled);
    assert!(pair.connection.waits_for_buffers());
    pair.pool_ready(1);
    assert_eq!(pair.reply().status(), (0, None));
    // With Data-Out due behind it, waiting could last for ever.
    pair.send_command(6, W, 1024, &write10(0, 2), &[]);
    let ttt = pair.reply().field(20);
    assert_eq!(pair.command(7, W, 512, &write10(0, 1), &[7; 512]).status(), (0x28, None));
    pair.data_out(6, ttt, 0, 0, true, &[8; 1024]);
    assert_eq!(pair.reply().status(), (0, None));
    assert_eq!(pair.disk_at(0, 1024), [8; 1024]);
    pair.hang_up();
}

#[test]
fn parameter_lists() {
    let mut pair = Pair::logged_in(config());
    // MODE SELECT(6) with an empty page list: header only.
    let mut cdb = [0; 16];
    cdb[..6].copy_from_slice(&[0x15, 0x10, 0, 0, 4, 0]);
    assert_eq!(pair.command(5, W, 4, &cdb, &[0; 4]).status(), (0, None));
    // By R2T.
    pair.send_command(6, W, 4, &cdb, &[]);
    pair.answer_r2ts(&[0; 4], 2);
    assert_eq!(pair.reply().status(), (0, None));
    // Fewer bytes than the CDB says: judged by the SCSI side.
    let answer = pair.command(7, W, 2, &cdb, &[0; 2]);
    assert_eq!(answer.status(), (2, Some((5, 0x1A, 0))));
    assert_eq!((answer.bhs[1] & 6, answer.field(44)), (4, 2));
}
