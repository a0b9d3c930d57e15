//! Commands that compare, combine, repeat and give back, over the whole way of a session.

use super::pair::{BLOCKS, Pair, config, pattern, rw10};
use crate::block::{BlockOp, BlockStatus};
use crate::units::{BlockRange, Lba};

const WRITE: u8 = 0xA0;
const SIMPLE: u8 = 0x80;

fn rw16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn with_flags(mut cdb: [u8; 16], flags: u8) -> [u8; 16] {
    cdb[1] = flags;
    cdb
}

/// A command with all of its data, however it is asked for.
fn write(pair: &mut Pair, cdb: &[u8; 16], data: &[u8]) -> (u8, Option<(u8, u8, u8)>) {
    pair.send_command(9, WRITE, data.len() as u32, cdb, &data[..data.len().min(65536)]);
    pair.answer_r2ts(data, 8192);
    let answer = pair.reply();
    assert_eq!(answer.itt(), 9);
    assert!(pair.locks.is_empty() && pair.pool.taken.is_empty(), "everything is given back");
    answer.status()
}

#[test]
fn compare_and_write_writes_what_matches() {
    let mut pair = Pair::logged_in(config());
    assert_eq!(write(&mut pair, &rw16(0x89, 0, 9, 0), &[]), (0, None));
    assert_eq!(write(&mut pair, &rw16(0x89, 0, 9, 0), &[0; 1024]), (2, Some((5, 0x24, 0))));
    // Across an extent's edge, and across a chunk's in the second half.
    for (lba, blocks) in [(100u64, 1u32), (8190, 5), (8192 - 255, 255), (0, 130)] {
        let len = blocks as usize * 512;
        let old = pair.disk_at(lba, len).to_vec();
        let new = pattern(len, lba as u8 ^ 0x5A);
        let cdb = rw16(0x89, 0, lba, blocks);
        assert_eq!(write(&mut pair, &cdb, &[old, new.clone()].concat()), (0, None));
        assert_eq!(pair.disk_at(lba, len), new);
    }
    pair.hang_up();
}

#[test]
fn compare_and_write_tells_where_it_differs_and_writes_nothing() {
    let mut pair = Pair::logged_in(config());
    let (lba, len) = (8100u64, 200 * 512);
    let old = pair.disk_at(lba, len).to_vec();
    for at in [0, 511, 512, 65535, 65536, 92 * 512, len - 1] {
        let mut wrong = old.clone();
        wrong[at] ^= 0x10;
        let data = [wrong, pattern(len, 3)].concat();
        pair.send_command(9, WRITE, data.len() as u32, &rw16(0x89, 0, lba, 200), &data[..65536]);
        pair.answer_r2ts(&data, 65536);
        let answer = pair.reply();
        assert_eq!(answer.status(), (2, Some((0xE, 0x1D, 0))));
        let information = u32::from_be_bytes(answer.data[5..9].try_into().expect("four bytes"));
        assert_eq!((answer.data[2], information as usize), (0xF0, at));
        assert_eq!(pair.disk_at(lba, len), old);
        assert!(pair.locks.is_empty());
    }
    pair.hang_up();
}

#[test]
fn compare_and_write_holds_its_range_from_the_read_to_the_write() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    let old = pair.disk_at(8190, 4 * 512).to_vec();
    let data = [old, vec![7; 4 * 512]].concat();
    pair.send_command(9, WRITE, data.len() as u32, &rw16(0x89, 0x08, 8190, 4), &data);
    let mut seen = Vec::new();
    while let Some(request) = pair.pending.front().copied() {
        seen.push((request.op, request.range, request.locked));
        pair.complete_at(0, BlockStatus::Good);
    }
    let (low, high) = (BlockRange::new(Lba(8190), 2), BlockRange::new(Lba(8192), 2));
    let write = BlockOp::Write { fua: true };
    let expected = [
        (BlockOp::Lock, low, false),
        (BlockOp::Lock, high, false),
        (BlockOp::Read, low, true),
        (BlockOp::Read, high, true),
        (write, low, true),
        (write, high, true),
        (BlockOp::Unlock, low, false),
        (BlockOp::Unlock, high, false),
    ];
    assert_eq!(seen, expected);
    assert_eq!(pair.reply().status(), (0, None));
    pair.hang_up();
}

#[test]
fn a_lock_is_given_back_at_every_end() {
    let steps = 8;
    for step in 0..steps {
        let failures = [BlockStatus::MediumError, BlockStatus::NotReady, BlockStatus::NotServing];
        for status in failures.into_iter().chain([BlockStatus::Good]) {
            let mut pair = Pair::logged_in(config());
            pair.prompt = false;
            let data = [pair.disk_at(8190, 4 * 512).to_vec(), vec![7; 4 * 512]].concat();
            pair.send_command(9, WRITE, data.len() as u32, &rw16(0x89, 0, 8190, 4), &data);
            for _ in 0..step {
                pair.complete_at(0, BlockStatus::Good);
            }
            pair.complete_at(0, status);
            match status {
                // The connection ends in the middle.
                BlockStatus::Good => {}
                BlockStatus::NotServing => assert!(pair.closed.is_some() || step >= 6),
                BlockStatus::MediumError | BlockStatus::NotReady => {
                    pair.complete_all();
                    let expected = if step < 6 { 2 } else { 0 };
                    assert_eq!(pair.reply().status().0, expected, "step {step}");
                }
            }
            pair.hang_up();
        }
    }
}

#[test]
fn verify_compares_with_all_the_data_or_with_one_block() {
    let mut pair = Pair::logged_in(config());
    let good = pair.disk_at(60, 200 * 512).to_vec();
    let each = with_flags(rw10(0x2F, 60, 200), 0x02);
    assert_eq!(write(&mut pair, &each, &good), (0, None));
    let mut wrong = good.clone();
    wrong[150 * 512] ^= 1;
    assert_eq!(write(&mut pair, &each, &wrong), (2, Some((0xE, 0x1D, 0))));
    let one = with_flags(rw10(0x2F, 60, 300), 0x06);
    assert_eq!(write(&mut pair, &one, &good[..512]), (2, Some((0xE, 0x1D, 0))));
    let same = with_flags(rw10(0x41, 60, 300), 0);
    assert_eq!(write(&mut pair, &same, &good[..512]), (0, None));
    assert_eq!(write(&mut pair, &one, &good[..512]), (0, None));
    assert_eq!(pair.command(3, SIMPLE, 0, &rw10(0x2F, 8000, 300), &[]).status(), (0, None));
    pair.hang_up();
}

#[test]
fn write_and_verify_takes_short_data_as_a_write_does() {
    let mut pair = Pair::logged_in(config());
    let data = pattern(6 * 512, 9);
    for flags in [0, 0x02] {
        assert_eq!(write(&mut pair, &with_flags(rw10(0x2E, 10, 6), flags), &data), (0, None));
        assert_eq!(pair.disk_at(10, 6 * 512), data);
        let answer = pair.command(2, WRITE, 4 * 512, &with_flags(rw10(0x2E, 20, 6), flags), &data[..2048]);
        assert_eq!((answer.status().0, answer.bhs[1], answer.field(44)), (0, 0x84, 1024), "overflow");
        assert_eq!(pair.disk_at(20, 2048), &data[..2048]);
    }
    pair.hang_up();
}

#[test]
fn write_same_repeats_and_zeroes() {
    let mut pair = Pair::logged_in(config());
    let block = pattern(512, 1);
    assert_eq!(write(&mut pair, &rw10(0x41, 8000, 700), &block), (0, None));
    assert_eq!(pair.disk_at(8000, 700 * 512), block.repeat(700));
    assert_eq!(write(&mut pair, &rw10(0x41, 8100, 200), &[0; 512]), (0, None));
    assert_eq!(pair.disk_at(8099, 512), block);
    assert_eq!(pair.disk_at(8100, 200 * 512), [0; 200 * 512]);
    assert_eq!(pair.disk_at(8300, 512), block);
    let no_data = rw16(0x93, 0x01, 8000, 50);
    assert_eq!(pair.command(4, SIMPLE, 0, &no_data, &[]).status(), (0, None));
    assert_eq!(pair.disk_at(8000, 51 * 512), [vec![0; 50 * 512], block.clone()].concat());
    assert_eq!(write(&mut pair, &rw10(0x41, 0, 1), &block[..256]).0, 2, "less than a block");
    assert_eq!(
        write(&mut pair, &rw10(0x41, 0, 1), &[block.clone(), block].concat()).0,
        2,
        "more than a block"
    );
    pair.hang_up();
}

#[test]
fn or_write_sets_bits() {
    let mut pair = Pair::logged_in(config());
    let old = pair.disk_at(8100, 180 * 512).to_vec();
    let data = pattern(180 * 512, 0x21);
    assert_eq!(write(&mut pair, &rw16(0x8B, 0, 8100, 180), &data), (0, None));
    let expected: Vec<u8> = old.iter().zip(&data).map(|(a, b)| a | b).collect();
    assert_eq!(pair.disk_at(8100, 180 * 512), expected);
    pair.hang_up();
}

#[test]
fn unmap_gives_back_every_range_of_its_list() {
    let mut pair = Pair::logged_in(config());
    let ranges = [(16u64, 8u32), (8000, 400), (100, 0), (BLOCKS - 1, 1)];
    let mut list = vec![0, 70, 0, 64, 0, 0, 0, 0];
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    let unmap = rw10(0x42, 0, list.len() as u16);
    assert_eq!(write(&mut pair, &unmap, &list), (0, None));
    for (lba, blocks) in ranges {
        assert!(pair.disk_at(lba, blocks as usize * 512).iter().all(|byte| *byte == 0));
    }
    assert_ne!(pair.disk_at(24, 512), [0; 512]);
    list[8 + 16..8 + 24].copy_from_slice(&BLOCKS.to_be_bytes());
    assert_eq!(write(&mut pair, &unmap, &list), (2, Some((5, 0x21, 0))));
    pair.hang_up();
}

#[test]
fn an_action_takes_all_its_buffers_or_none() {
    let mut pair = Pair::logged_in(config());
    pair.pool.capacity = 2;
    let data = vec![1; 2 * 128 * 512];
    assert_eq!(
        write(&mut pair, &rw16(0x89, 0, 0, 128), &data),
        (0x28, None),
        "two for data, one to read into"
    );
    pair.pool.capacity = 3;
    assert_eq!(write(&mut pair, &rw16(0x89, 0, 0, 128), &data).0, 2);
    assert_eq!(pair.pool.most, 3);
    pair.hang_up();
}
