//! Media access: every form of READ and WRITE at every boundary.

use super::*;

/// Builds a READ or WRITE of one form.
fn access_cdb(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    match opcode >> 5 {
        0 => {
            let lba = (lba as u32).to_be_bytes();
            cdb.clear();
            cdb.extend([opcode, lba[1], lba[2], lba[3], blocks as u8, 0]);
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

const READS: [u8; 4] = [0x08, 0x28, 0xA8, 0x88];
const WRITES: [u8; 4] = [0x0A, 0x2A, 0xAA, 0x8A];

fn expect_access(fixture: &mut Fixture, opcode: u8, lba: u64, blocks: u32) {
    let range = BlockRange::new(Lba(lba), blocks);
    let lu = LuIndex(0);
    let expected = if READS.contains(&opcode) {
        Outcome::Read { lu, range, fua: false }
    } else {
        Outcome::Write { lu, range, fua: false }
    };
    assert_eq!(fixture.run(&access_cdb(opcode, 0, lba, blocks)), expected);
}

#[test]
fn every_form_reaches_the_last_block_and_not_beyond() {
    let mut fixture = Fixture::new();
    for opcode in READS.into_iter().chain(WRITES) {
        expect_access(&mut fixture, opcode, 0, 1);
        expect_access(&mut fixture, opcode, 7, 255);
        expect_access(&mut fixture, opcode, BLOCKS - 1, 1);
        expect_access(&mut fixture, opcode, BLOCKS - 8, 8);
        assert_eq!(fixture.refused(&access_cdb(opcode, 0, BLOCKS - 1, 2)), OUT_OF_RANGE);
    }
}
