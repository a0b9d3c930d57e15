//! Commands of a disk, byte by byte: lines of the checklist that concern SCSI and can be seen on the wire.

use super::Target;
use super::client::{F, Pdu, R, W, Wire, cdb10};
use super::support::initiator::pattern;

const ILLEGAL_REQUEST: u8 = 0x05;
const INVALID_FIELD_IN_CDB: (u8, u8, u8) = (ILLEGAL_REQUEST, 0x24, 0x00);
const LBA_OUT_OF_RANGE: (u8, u8, u8) = (ILLEGAL_REQUEST, 0x21, 0x00);
/// Blocks of the test's disk, or more.
const BEYOND: u64 = 1 << 20;

/// The data segment of a CHECK CONDITION: SenseLength, then fixed format.
fn sense(answer: &Pdu) -> &[u8] {
    assert_eq!((answer.opcode(), answer.bhs[3]), (0x21, 2), "CHECK CONDITION");
    let length = usize::from(u16::from_be_bytes([answer.data[0], answer.data[1]]));
    assert!(length == 18 && answer.data.len() >= 2 + length, "fixed format, 18 bytes");
    &answer.data[2..2 + length]
}

/// The blocks of the disk, as READ CAPACITY(16) tells them.
fn blocks(wire: &mut Wire) -> u64 {
    let data = wire.fetch(32, &service_in(0x10, 32));
    u64::from_be_bytes(data[..8].try_into().expect("eight bytes")) + 1
}

/// SERVICE ACTION IN(16).
fn service_in(action: u8, allocation: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (0x9E, action);
    cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

fn rw16(code: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    cdb
}

#[test]
fn errors_come_with_their_sense() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    let end = blocks(&mut wire);
    // VALID and INFORMATION: the first block that does not exist. Also where the sum wraps around.
    for (lba, count) in [(end - 1, 2), (end, 1), (BEYOND << 20, 1), (u64::MAX, 1), (u64::MAX - 1, 8)] {
        let answer = wire.command(1, R, 8 * 512, &rw16(0x88, lba, count), &[]);
        assert_eq!(answer.status(), (2, Some(LBA_OUT_OF_RANGE)), "block {lba}");
        let first = lba.max(end);
        let sense = sense(&answer);
        match u32::try_from(first) {
            Ok(first) => assert_eq!((sense[0], &sense[3..7]), (0xF0, &first.to_be_bytes()[..])),
            Err(_) => assert_eq!(sense[0], 0x70, "no room for the address"),
        }
    }
    // Field pointers: a reserved bit, NACA. And a command that is not known.
    let mut reserved = cdb10(0x28, 0, 512);
    reserved[1] = 0x01;
    let answer = wire.command(1, R, 512, &reserved, &[]);
    assert_eq!(answer.status(), (2, Some(INVALID_FIELD_IN_CDB)));
    assert_eq!(sense(&answer)[15..18], [0xC8, 0, 1], "SKSV, C/D, BPV, bit 0, byte 1");
    let mut naca = cdb10(0x28, 0, 512);
    naca[9] = 0x04;
    let answer = wire.command(1, R, 512, &naca, &[]);
    assert_eq!(answer.status(), (2, Some(INVALID_FIELD_IN_CDB)));
    assert_eq!(sense(&answer)[15..18], [0xCA, 0, 9]);
    assert_eq!(wire.command(1, F, 0, &[0xC7; 16], &[]).status(), (2, Some((ILLEGAL_REQUEST, 0x20, 0))));
    // VERIFY tells where the data differs.
    let data = pattern(3, 4096);
    assert_eq!(wire.write(8, &data, 4096).status(), (0, None));
    let mut other = data.clone();
    other[1234] ^= 1;
    let mut verify = cdb10(0x2F, 8, 4096);
    verify[1] = 0x02;
    let answer = wire.command(1, W, 4096, &verify, &other);
    assert_eq!(answer.status(), (2, Some((0x0E, 0x1D, 0))));
    assert_eq!((sense(&answer)[0], &sense(&answer)[3..7]), (0xF0, &1234u32.to_be_bytes()[..]));
    assert_eq!(wire.command(1, W, 4096, &verify, &data).status(), (0, None));
    target.stop();
}

#[test]
fn allocation_lengths_cut() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    let mut cut = |cdb: &dyn Fn(u8) -> Vec<u8>, most: u8| {
        let whole = wire.fetch(255, &cdb(most));
        for length in 0..most {
            let answer = wire.command(1, R, 255, &cdb(length), &[]);
            assert_eq!(answer.status(), (0, None), "{:02x?}", cdb(length));
            let shown = whole.len().min(usize::from(length));
            // With nothing to send, the answer is a SCSI Response.
            assert_eq!(answer.data, whole[..shown], "cut, and nothing else is changed");
            assert_eq!((answer.bhs[1] & 0x06, answer.word(44)), (0x02, 255 - shown as u32), "residual");
        }
    };
    cut(&|length| vec![0x12, 0, 0, 0, length, 0], 96);
    cut(&|length| vec![0x12, 1, 0x83, 0, length, 0], 200);
    cut(&|length| service_in(0x10, length.into()).to_vec(), 32);
    cut(&|length| vec![0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, length, 0, 0], 32);
    cut(&|length| vec![0x1A, 0, 0x3F, 0, length, 0], 200);
    target.stop();
}

#[test]
fn luns_that_are_not_there() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    let at = |wire: &mut Wire, lun: [u8; 2], flags: u8, expected: u32, cdb: &[u8]| {
        let mut bhs = wire.command_bhs(1, flags, expected, cdb);
        bhs[8..10].copy_from_slice(&lun);
        wire.send(bhs, &[]);
        wire.receive()
    };
    // INQUIRY answers PQ 3, type 1Fh; REPORT LUNS is answered anywhere; the rest is refused.
    for lun in [[0, 9], [0x40, 9], [0xC1, 2], [0xFF, 0xFF]] {
        let answer = at(&mut wire, lun, R, 36, &[0x12, 0, 0, 0, 36, 0]);
        assert_eq!((answer.status(), answer.data[0]), ((0, None), 0x7F), "{lun:02x?}");
        let answer = at(&mut wire, lun, R, 64, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]);
        assert_eq!((answer.status(), &answer.data[..4]), ((0, None), &[0, 0, 0, 8][..]), "{lun:02x?}");
        assert_eq!(
            at(&mut wire, lun, F, 0, &[0; 6]).status(),
            (2, Some((ILLEGAL_REQUEST, 0x25, 0))),
            "{lun:02x?}"
        );
    }
    // The same unit by both addressing methods, and the well-known one for REPORT LUNS.
    for lun in [[0, 0], [0x40, 0]] {
        assert_eq!(at(&mut wire, lun, F, 0, &[0; 6]).status(), (0, None), "{lun:02x?}");
    }
    let answer = at(&mut wire, [0xC1, 1], R, 36, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!((answer.status(), answer.data[0]), ((0, None), 0x1E));
    // SELECT REPORT, and too short an allocation length.
    for (select, luns) in [(0, 1), (1, 1), (2, 2)] {
        let answer = at(&mut wire, [0, 0], R, 64, &[0xA0, 0, select, 0, 0, 0, 0, 0, 0, 64, 0, 0]);
        assert_eq!((answer.status(), answer.data[3]), ((0, None), 8 * luns), "SELECT REPORT {select}");
    }
    for allocation in [0, 15] {
        let answer = at(&mut wire, [0, 0], R, 64, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, allocation, 0, 0]);
        assert_eq!(answer.status(), (2, Some(INVALID_FIELD_IN_CDB)), "{allocation} bytes");
    }
    target.stop();
}

/// UNMAP with these bytes.
fn unmap(wire: &mut Wire, list: &[u8]) -> (u8, Option<(u8, u8, u8)>) {
    let mut cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
    let flags = if list.is_empty() { F } else { W };
    wire.command(1, flags, list.len() as u32, &cdb, list).status()
}

/// A parameter list with these lengths, whatever its descriptors are.
fn unmap_list(data_length: u16, descriptors_length: u16, descriptors: &[(u64, u32)]) -> Vec<u8> {
    let mut list = [data_length.to_be_bytes(), descriptors_length.to_be_bytes(), [0; 2], [0; 2]].concat();
    for (lba, count) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

#[test]
fn an_unmap_of_nothing_is_good() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    assert_eq!(unmap(&mut wire, &[]), (0, None), "no list");
    assert_eq!(unmap(&mut wire, &unmap_list(6, 0, &[])), (0, None), "no descriptors");
    assert_eq!(unmap(&mut wire, &unmap_list(22, 16, &[(5, 0)])), (0, None), "no blocks");
    assert!(wire.is_ready());
    target.stop();
}

#[test]
fn unmap_lists_are_taken_as_far_as_they_go() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    let end = blocks(&mut wire);
    let data = pattern(5, 65_536);
    let mut case = |list: &[u8], expected: (u8, Option<(u8, u8, u8)>), zeros: std::ops::Range<usize>| {
        assert_eq!(wire.write(0, &data, 65_536).status(), (0, None));
        assert_eq!(unmap(&mut wire, list), expected, "{:02x?}", &list[..list.len().min(40)]);
        let after = wire.read(0, 65_536);
        let mut wanted = data.clone();
        wanted[zeros].fill(0);
        assert!(after == wanted, "{:02x?}", &list[..list.len().min(40)]);
    };
    let good = (0, None);
    // Half a descriptor at the end is not looked at; neither is one beyond either length field.
    case(&unmap_list(22, 16, &[(8, 8)]), good, 4096..8192);
    case(&unmap_list(22 + 8, 16 + 8, &[(8, 8), (32, 8)])[..32], good, 4096..8192);
    case(&unmap_list(22, 32, &[(8, 8), (32, 8)]), good, 4096..8192);
    case(&unmap_list(38, 16, &[(8, 8), (32, 8)]), good, 4096..8192);
    // One bad descriptor: nothing is given back at all.
    case(&unmap_list(38, 32, &[(8, 8), (end, 1)]), (2, Some(LBA_OUT_OF_RANGE)), 0..0);
    case(&unmap_list(38, 32, &[(8, 8), (u64::MAX, u32::MAX)]), (2, Some(LBA_OUT_OF_RANGE)), 0..0);
    // More descriptors than VPD page B0h allows.
    let many = vec![(8, 0); 257];
    case(&unmap_list(6 + 257 * 16, 257 * 16, &many), (2, Some((ILLEGAL_REQUEST, 0x26, 0))), 0..0);
    // No room for the header.
    case(&[0; 7], (2, Some((ILLEGAL_REQUEST, 0x1A, 0))), 0..0);
    target.stop();
}

#[test]
fn compare_and_write_is_bounded() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    let limits = wire.fetch(64, &[0x12, 1, 0xB0, 0, 64, 0]);
    let most = u32::from(limits[5]);
    assert_eq!(most, 255, "MAXIMUM COMPARE AND WRITE LENGTH");
    // The field has eight bits: no CDB can ask for more. The bits beside it are reserved.
    let mut cdb = rw16(0x89, 0, 0);
    cdb[13] = 1;
    let new = pattern(6, 512);
    let both = [vec![0; 512], new.clone()].concat();
    assert_eq!(wire.command(1, W, 1024, &cdb, &both).status(), (0, None));
    assert!(wire.read(0, 512) == new);
    let answer = wire.command(1, W, 1024, &cdb, &both);
    assert_eq!(answer.status(), (2, Some((0x0E, 0x1D, 0))));
    let first = new.iter().position(|byte| *byte != 0).expect("not all zeros") as u32;
    assert_eq!(
        (sense(&answer)[0], &sense(&answer)[3..7]),
        (0xF0, &first.to_be_bytes()[..]),
        "where it differs"
    );
    cdb[12] = 1;
    assert_eq!(wire.command(1, F, 0, &cdb, &[]).status(), (2, Some(INVALID_FIELD_IN_CDB)), "256 blocks");
    target.stop();
}
