//! Header and data digests: where they stand, when they begin, and what a wrong one leads to (RFC 7143 §7.8, §13.1).

use super::pair::{Pair, config, pattern, read10, write10};
use crate::iscsi::{CloseReason, Digests};

const R: u8 = 0xC0;
const W: u8 = 0xA0;
const NO_TAG: u32 = 0xFFFF_FFFF;

fn digested(header: bool, data: bool) -> Pair {
    let mut unsolicited = config();
    unsolicited.limits.initial_r2t = false;
    let mut pair = Pair::new(unsolicited);
    let word = |on| if on { "CRC32C" } else { "None" };
    let keys = format!(
        "HeaderDigest={} DataDigest={} InitialR2T=No MaxRecvDataSegmentLength=65536 MaxBurstLength=262144",
        word(header),
        word(data)
    );
    pair.login(&keys);
    pair.hear_attention();
    pair
}

const ALL: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

#[test]
fn offers_are_answered_in_the_initiators_order() {
    for (offer, answer) in
        [("None,CRC32C", "None"), ("CRC32C,None", "CRC32C"), ("CRC32C", "CRC32C"), ("X,None", "None")]
    {
        let mut pair = Pair::new(config());
        let last = pair.login(&format!("HeaderDigest={offer} DataDigest={offer}"));
        assert!(last.text().starts_with(&format!("HeaderDigest={answer} DataDigest={answer}")));
        // The last Login Response has none yet, whatever comes after it.
        assert_eq!(pair.connection.digests_of(&last.bhs), Digests::default());
        let on = answer == "CRC32C";
        assert_eq!(pair.connection.digests_of(&[0; 48]), Digests { header: on, data: on });
    }
}

#[test]
fn a_digest_may_be_required() {
    let mut strict = config();
    strict.limits.require_header_digest = true;
    let mut pair = Pair::new(strict);
    let last = pair.login("HeaderDigest=None,CRC32C DataDigest=None,CRC32C");
    assert!(last.text().starts_with("HeaderDigest=CRC32C DataDigest=None"));
    let mut strict = config();
    strict.limits.require_data_digest = true;
    let mut pair = Pair::new(strict);
    let last = pair.login("HeaderDigest=None DataDigest=None");
    assert!(last.text().starts_with("HeaderDigest=None DataDigest=Reject"));
}

#[test]
fn everything_works_with_any_of_them() {
    for (header, data) in ALL {
        let mut pair = digested(header, data);
        // Sizes around padding and chunks; surplus that nobody needs.
        for (len, excess) in [(512, 0), (65_536, 0), (200_704, 0), (512, 3), (4096, 9000)] {
            let bytes = pattern(len + excess, len as u8);
            let first = bytes.len().min(8192);
            pair.send_command(
                5,
                W,
                (len + excess) as u32,
                &write10(100, (len / 512) as u16),
                &bytes[..first],
            );
            pair.answer_r2ts(&bytes, 30_001);
            assert_eq!(pair.reply().status(), (0, None), "{len} {excess}");
            assert!(pair.disk_at(100, len) == &bytes[..len]);
            pair.send_command(6, R, len as u32, &read10(100, (len / 512) as u16), &[]);
            let mut back = Vec::new();
            while !pair.nothing_sent() {
                back.extend(pair.reply().data);
            }
            assert!(back == bytes[..len]);
        }
        // Parameter lists, pings of all lengths, and data that is dropped.
        let mut select = [0; 16];
        (select[0], select[1], select[4]) = (0x15, 0x10, 4);
        assert_eq!(pair.command(5, W, 9, &select, &[0; 9]).status().0, 0);
        for len in [1, 4, 16_384, 16_385, 40_000, 100_001] {
            let ping = pattern(len, 1);
            let mut bhs = [0; 48];
            (bhs[0], bhs[1], bhs[19]) = (0x40, 0x80, 1);
            bhs[20..24].fill(0xFF);
            pair.send(bhs, &ping);
            assert!(pair.reply().data == ping[..len.min(65_536)], "{len}");
        }
        pair.data_out(77, NO_TAG, 0, 0, true, &[1; 777]);
        assert_eq!(pair.command(5, 0x80, 0, &[0; 16], &[]).status(), (0, None));
        // An extended CDB, under the same digest as its header.
        let mut bhs = pair.command_bhs(5, 0x80, 0, &[0x7F; 16]);
        bhs[4] = 5;
        let mut ahs = vec![0, 17, 1, 0];
        ahs.extend([0; 16]);
        pair.stream.extend(bhs);
        pair.stream.extend(&ahs);
        if header {
            let crc = crate::wire::crc32c(&[&bhs[..], &ahs].concat());
            pair.stream.extend(crc.to_le_bytes());
        }
        pair.run();
        assert_eq!(pair.reply().status(), (2, Some((5, 0x20, 0))));
        pair.hang_up();
    }
}

#[test]
fn bytes_one_at_a_time_with_digests() {
    let mut pair = digested(true, true);
    let bytes = pattern(1025, 1);
    let bhs = pair.command_bhs(5, W, 1025, &write10(3, 2));
    let mut bhs = bhs;
    bhs[5..8].copy_from_slice(&[0, 4, 1]);
    let mut stream = bhs.to_vec();
    stream.extend(crate::wire::crc32c(&bhs).to_le_bytes());
    let mut padded = bytes.clone();
    padded.resize(1028, 0);
    stream.extend(&padded);
    stream.extend(crate::wire::crc32c(&padded).to_le_bytes());
    for byte in stream {
        pair.stream.push_back(byte);
        pair.run();
    }
    assert_eq!(pair.reply().status(), (0, None));
    assert_eq!(pair.disk_at(3, 1024), &bytes[..1024]);
}

#[test]
fn a_wrong_header_digest_closes() {
    let mut pair = digested(true, false);
    pair.spoil_header = 1;
    pair.send_command(5, 0x80, 0, &[0; 16], &[]);
    assert!(pair.nothing_sent());
    assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
    pair.hang_up();
    let mut pair = digested(true, false);
    let mut bhs = pair.command_bhs(5, 0x80, 0, &[0x7F; 16]);
    bhs[4] = 1;
    pair.stream.extend(bhs);
    pair.stream.extend([0, 1, 1, 0]);
    pair.stream.extend(crate::wire::crc32c(&bhs).to_le_bytes());
    pair.run();
    assert!(pair.nothing_sent() && pair.closed.is_some());
}

fn expect_reject(pair: &mut Pair) {
    let reject = pair.reply();
    assert_eq!((reject.opcode(), reject.bhs[2], reject.data.len()), (0x3F, 0x02, 48));
}

#[test]
fn damaged_immediate_data_is_rejected_and_never_written() {
    let mut pair = digested(false, true);
    let before = pair.disk_at(100, 4096).to_vec();
    pair.spoil_data = 0x8000;
    pair.send_command(5, W, 4096, &write10(100, 8), &[1; 4096]);
    expect_reject(&mut pair);
    // The command was not received, and at ErrorRecoveryLevel 0 nothing fills the gap.
    assert!(pair.nothing_sent());
    assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
    assert_eq!(pair.disk_at(100, 4096), before);
    pair.hang_up();
}

#[test]
fn a_damaged_data_out_ends_its_task_and_not_the_session() {
    for unsolicited in [true, false] {
        let mut pair = digested(true, true);
        let before = pair.disk_at(100, 131_072).to_vec();
        let flags = if unsolicited { 0x20 } else { W };
        pair.send_command(5, flags, 131_072, &write10(100, 256), &[]);
        let (ttt, end) = if unsolicited { (NO_TAG, 65_536) } else { (pair.reply().field(20), 131_072) };
        // The first PDU fills a chunk and more, so it would be written if its digest were not waited for.
        pair.spoil_data = 2;
        let first = if unsolicited { 40_000 } else { 100_000 };
        pair.data_out(5, ttt, 0, 0, false, &[1; 100_000][..first]);
        expect_reject(&mut pair);
        pair.spoil_data = 0;
        assert!(pair.nothing_sent());
        pair.data_out(5, ttt, 1, first as u32, true, &[1; 100_000][..end - first]);
        assert_eq!(pair.reply().status(), (2, Some((0x0B, 0x47, 0x05))));
        assert!(pair.closed.is_none() && pair.disk_at(100, 131_072) == before);
        assert_eq!(pair.command(6, 0x80, 0, &[0; 16], &[]).status(), (0, None));
        pair.hang_up();
    }
}

#[test]
fn a_damaged_parameter_list_is_not_executed() {
    let mut pair = digested(false, true);
    let mut select = [0; 16];
    (select[0], select[1], select[4]) = (0x15, 0x10, 4);
    pair.send_command(5, W, 4, &select, &[]);
    let ttt = pair.reply().field(20);
    pair.spoil_data = 1;
    pair.data_out(5, ttt, 0, 0, true, &[0; 4]);
    expect_reject(&mut pair);
    assert_eq!(pair.reply().status(), (2, Some((0x0B, 0x47, 0x05))));
}

#[test]
fn damaged_pings_and_text_do_not_count_as_received() {
    for len in [10, 20_000] {
        let mut pair = digested(false, true);
        pair.spoil_data = 1;
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[19]) = (0x40, 0x80, 1);
        bhs[20..24].fill(0xFF);
        pair.send(bhs, &vec![1; len]);
        expect_reject(&mut pair);
        assert!(pair.nothing_sent() && pair.closed.is_none());
        // With a number of its own it leaves a gap.
        bhs[0] = 0;
        pair.send(bhs, &vec![1; len]);
        expect_reject(&mut pair);
        assert!(pair.closed.is_some());
        pair.hang_up();
    }
}
