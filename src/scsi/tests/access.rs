//! Media access: every form of READ, WRITE and SYNCHRONIZE CACHE at every boundary.

use super::*;

const READS: [u8; 4] = [0x08, 0x28, 0xA8, 0x88];
const WRITES: [u8; 4] = [0x0A, 0x2A, 0xAA, 0x8A];
const LU: LuIndex = LuIndex(0);

/// Builds a READ, WRITE or SYNCHRONIZE CACHE of the form that the operation code has.
fn access_cdb(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    match opcode >> 5 {
        0 => {
            let lba = (lba as u32).to_be_bytes();
            return vec![opcode, lba[1], lba[2], lba[3], blocks as u8, 0];
        }
        1 => {
            cdb.extend((lba as u32).to_be_bytes());
            cdb.push(0);
            cdb.extend((blocks as u16).to_be_bytes());
            cdb.push(0);
        }
        5 => {
            cdb.extend((lba as u32).to_be_bytes());
            cdb.extend(blocks.to_be_bytes());
            cdb.extend([0, 0]);
        }
        _ => {
            cdb.extend(lba.to_be_bytes());
            cdb.extend(blocks.to_be_bytes());
            cdb.extend([0, 0]);
        }
    }
    cdb
}

fn all_forms() -> impl Iterator<Item = u8> {
    READS.into_iter().chain(WRITES)
}

/// The operation codes that carry flags in byte 1.
fn long_forms() -> impl Iterator<Item = u8> {
    all_forms().filter(|opcode| *opcode >> 5 != 0)
}

fn expected(opcode: u8, lba: u64, blocks: u32, fua: bool) -> Outcome {
    let range = BlockRange::new(Lba(lba), blocks);
    if READS.contains(&opcode) {
        Outcome::Read { lu: LU, range, fua }
    } else {
        Outcome::Write { lu: LU, range, fua }
    }
}

#[test]
fn every_form_reaches_the_last_block_and_not_beyond() {
    let mut fixture = Fixture::new();
    for opcode in all_forms() {
        for (lba, blocks) in [(0, 1), (7, 255), (BLOCKS - 1, 1), (BLOCKS - 8, 8)] {
            let outcome = fixture.run(&access_cdb(opcode, 0, lba, blocks));
            assert_eq!(outcome, expected(opcode, lba, blocks, false), "{opcode:02x}h");
        }
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, BLOCKS - 1, 2)), OUT_OF_RANGE);
    }
}

#[test]
fn an_address_error_names_the_first_block_that_does_not_exist() {
    let mut fixture = Fixture::new();
    let cases = [
        (0x88, BLOCKS - 1, 2, BLOCKS),
        (0x88, BLOCKS + 5, 1, BLOCKS + 5),
        (0x8A, u64::MAX, 1, u64::MAX),
        (0x8A, u64::MAX - 3, 2048, u64::MAX - 3),
        (0x28, u64::from(u32::MAX), 1, u64::from(u32::MAX)),
    ];
    for (opcode, lba, blocks, first_bad) in cases {
        let outcome = fixture.run(&access_cdb(opcode, 0, lba, blocks));
        assert_eq!(outcome, Outcome::Check(SenseData::lba_out_of_range(Lba(first_bad))));
    }
}

#[test]
fn no_blocks_is_good_unless_the_address_is_outside() {
    let mut fixture = Fixture::new();
    for opcode in long_forms() {
        assert_eq!(fixture.run(&access_cdb(opcode, 0, 0, 0)), Outcome::Done);
        assert_eq!(fixture.run(&access_cdb(opcode, 0, BLOCKS, 0)), Outcome::Done);
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, BLOCKS + 1, 0)), OUT_OF_RANGE);
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, 0xFFFF_FFFF, 0)), OUT_OF_RANGE);
    }
}

#[test]
fn six_byte_forms_move_256_blocks_for_zero_and_use_21_address_bits() {
    let mut fixture = Fixture::with(vec![(0, unit_of(9, 1 << 30))]);
    assert_eq!(fixture.run(&[0x08, 0, 0, 0, 0, 0]), expected(0x08, 0, 256, false));
    assert_eq!(fixture.run(&[0x0A, 0x1F, 0xFF, 0xFF, 0, 0]), expected(0x0A, 0x1F_FFFF, 256, false));
    // The three bits above the address are reserved; SCSI-2 had the LUN there.
    assert_eq!(fixture.run(&[0x08, 0x20, 0, 0, 1, 0]), Outcome::Check(SenseData::invalid_cdb_bit(1, 5)));
}

#[test]
fn the_transfer_length_is_limited_to_what_block_limits_says() {
    let mut fixture = Fixture::new();
    let max = fixture.target.logical_unit(LU).max_transfer_blocks();
    assert_eq!(max, 16384);
    for (opcode, length_at) in [(0x28, 7), (0x2A, 7), (0xA8, 6), (0xAA, 6), (0x88, 10), (0x8A, 10)] {
        assert_eq!(fixture.run(&access_cdb(opcode, 0, 3, max)), expected(opcode, 3, max, false));
        let refused = Outcome::Check(SenseData::invalid_cdb_field(length_at));
        assert_eq!(fixture.run(&access_cdb(opcode, 0, 3, max + 1)), refused);
    }
    for opcode in [0xA8, 0xAA, 0x88, 0x8A] {
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, 0, u32::MAX)), INVALID_FIELD);
    }
}

#[test]
fn fua_is_handed_on_and_dpo_changes_nothing() {
    let mut fixture = Fixture::new();
    for opcode in long_forms() {
        for (flags, fua) in [(0x08, true), (0x18, true), (0x10, false), (0x0A, true), (0x02, false)] {
            let outcome = fixture.run(&access_cdb(opcode, flags, 1, 1));
            assert_eq!(outcome, expected(opcode, 1, 1, fua), "{opcode:02x}h flags {flags:02x}h");
        }
    }
}

#[test]
fn protection_fields_must_be_zero() {
    let mut fixture = Fixture::new();
    for opcode in long_forms() {
        for protect in 1..8u8 {
            assert_eq!(fixture.refused(&access_cdb(opcode, protect << 5, 0, 1)), INVALID_FIELD);
        }
    }
}

#[test]
fn group_numbers_are_accepted() {
    let mut fixture = Fixture::new();
    let mut cdb = access_cdb(0x28, 0, 0, 1);
    cdb[6] = 0x1F;
    assert_eq!(fixture.run(&cdb), expected(0x28, 0, 1, false));
    cdb[6] = 0x20;
    assert_eq!(fixture.run(&cdb), Outcome::Check(SenseData::invalid_cdb_bit(6, 5)));
}

#[test]
fn synchronize_cache_flushes_after_checking_its_range() {
    let mut fixture = Fixture::new();
    let flush = Outcome::Flush { lu: LU };
    for opcode in [0x35, 0x91] {
        for (lba, blocks) in [(0, 0), (0, 8), (BLOCKS - 1, 1), (BLOCKS - 1, 0), (BLOCKS, 0)] {
            assert_eq!(fixture.run(&access_cdb(opcode, 0, lba, blocks)), flush);
        }
        // IMMED and SYNC_NV.
        assert_eq!(fixture.run(&access_cdb(opcode, 0x06, 0, 0)), flush);
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, BLOCKS, 1)), OUT_OF_RANGE);
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, BLOCKS + 1, 0)), OUT_OF_RANGE);
    }
    assert_eq!(fixture.refused(&access_cdb(0x91, 0, u64::MAX, u32::MAX)), OUT_OF_RANGE);
    // More than one transfer may be synchronized at once.
    assert_eq!(fixture.run(&access_cdb(0x91, 0, 0, BLOCKS as u32)), flush);
}

#[test]
fn start_stop_unit_flushes_on_a_stop() {
    let mut fixture = Fixture::new();
    let flush = Outcome::Flush { lu: LU };
    let cases = [
        (0x00, flush),         // STOP
        (0x04, Outcome::Done), // STOP, NO_FLUSH
        (0x01, Outcome::Done), // START
        (0x10, Outcome::Done), // ACTIVE
        (0x12, Outcome::Done), // ACTIVE: LOEJ is ignored with a power condition
        (0x30, flush),         // STANDBY
        (0x34, Outcome::Done), // STANDBY, NO_FLUSH
        (0x02, Outcome::Check(SenseData::invalid_cdb_bit(4, 1))),
        (0x03, Outcome::Check(SenseData::invalid_cdb_bit(4, 1))),
        (0xF0, Outcome::Check(SenseData::invalid_cdb_bit(4, 7))),
        (0x08, Outcome::Check(SenseData::invalid_cdb_bit(4, 3))),
    ];
    for (byte, outcome) in cases {
        assert_eq!(fixture.run(&[0x1B, 0x01, 0, 0, byte, 0]), outcome, "byte 4 = {byte:02x}h");
    }
}

#[test]
fn four_kib_blocks_are_counted_in_blocks() {
    let mut fixture = Fixture::with(vec![(0, unit_of(12, 1000))]);
    assert_eq!(fixture.run(&access_cdb(0x28, 0, 744, 256)), expected(0x28, 744, 256, false));
    assert_eq!(fixture.refused(&access_cdb(0x28, 0, 0, 2049)), INVALID_FIELD);
    assert_eq!(fixture.refused(&access_cdb(0x28, 0, 745, 256)), OUT_OF_RANGE);
}
