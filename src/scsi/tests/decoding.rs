//! CDBs: reserved bits, service actions, lengths; and that no bytes at all do harm.

use super::*;
use crate::scsi::opcodes::OPERATIONS;
use proptest::prelude::*;

/// A CDB of the row with nothing set but what names it.
fn blank(opcode: u8, service_action: Option<u8>) -> [u8; CDB_BYTES] {
    let mut cdb = [0; CDB_BYTES];
    cdb[0] = opcode;
    cdb[1] = service_action.unwrap_or(0);
    cdb
}

#[test]
fn every_reserved_bit_is_refused_and_pointed_at() {
    for row in &OPERATIONS {
        for byte in 1..row.usage.len() {
            for bit in 0..8u8 {
                let service_action = row.service_action.is_some() && byte == 1 && bit < 5;
                if row.usage[byte] & (1 << bit) != 0 || service_action {
                    continue;
                }
                let mut cdb = blank(row.opcode, row.service_action);
                cdb[byte] |= 1 << bit;
                let expected = Err(SenseData::invalid_cdb_bit(byte as u16, bit));
                assert_eq!(decode(&cdb), expected, "{:?} byte {byte} bit {bit}", row.operation);
            }
        }
    }
}

#[test]
fn a_blank_cdb_of_every_command_decodes_whatever_follows_it() {
    for row in &OPERATIONS {
        let mut cdb = blank(row.opcode, row.service_action);
        let plain = decode(&cdb);
        assert!(plain.is_ok(), "{:?}", row.operation);
        cdb[row.usage.len()..].fill(0xFF);
        assert_eq!(decode(&cdb), plain);
        assert_eq!(decode(&cdb[..row.usage.len()]), plain);
        let short = row.usage.len() - 1;
        let expected = Err(SenseData::invalid_cdb_field(short as u16));
        assert_eq!(decode(&cdb[..short]), expected, "{:?}", row.operation);
    }
}

#[test]
fn the_table_is_sorted_and_lengths_follow_the_group_code() {
    for pair in OPERATIONS.windows(2) {
        let key = |at: usize| (pair[at].opcode, pair[at].service_action);
        assert!(key(0) < key(1));
    }
    for row in &OPERATIONS {
        let length = match row.opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            group => panic!("no command is in group {group}"),
        };
        assert_eq!((row.usage.len(), row.usage[0]), (length, row.opcode));
        assert_eq!(row.usage[length - 1], 0, "CONTROL");
    }
}

#[test]
fn what_is_not_in_the_table_is_refused_as_operation_or_as_service_action() {
    for opcode in 0..=u8::MAX {
        if OPERATIONS.iter().all(|row| row.opcode != opcode) {
            assert_eq!(decode(&[opcode; CDB_BYTES]), Err(SenseData::INVALID_OPERATION_CODE));
        }
    }
    // REPORT REFERRALS and REPORT ALIASES; initiators tell "unsupported" by the pointer at byte 1.
    for (opcode, service_action) in [(0x9E, 0x13), (0xA3, 0x0B)] {
        let cdb = blank(opcode, Some(service_action));
        assert_eq!(decode(&cdb), Err(SenseData::invalid_cdb_bit(1, 4)));
    }
    assert_eq!(decode(&[]), Err(SenseData::invalid_cdb_field(0)));
}

#[test]
fn naca_is_refused() {
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04];
    assert_eq!(decode(&read), Err(SenseData::invalid_cdb_bit(9, 2)));
}

#[test]
fn fields_decode_from_their_places() {
    let sense = |form, allocation, long_lba| {
        Command::ModeSense(ModeSense {
            form,
            disable_block_descriptors: true,
            long_lba,
            control: 2,
            page: 0x3F,
            subpage: 0xFF,
            allocation,
        })
    };
    let cases: [(&[u8], Command); 8] = [
        (&[0x12, 1, 0x83, 1, 2, 0], Command::Inquiry { page: Some(0x83), allocation: 0x102 }),
        (&[0x12, 0, 0, 0, 36, 0], Command::Inquiry { page: None, allocation: 36 }),
        (&[0x1A, 8, 0xBF, 0xFF, 9, 0], sense(ModeForm::Six, 9, false)),
        (&[0x5A, 0x18, 0xBF, 0xFF, 0, 0, 0, 1, 2, 0], sense(ModeForm::Ten, 0x102, true)),
        (
            &[0x55, 0x11, 0, 0, 0, 0, 0, 1, 2, 0],
            Command::ModeSelect {
                form: ModeForm::Ten,
                page_format: true,
                save_pages: true,
                parameter_bytes: 0x102,
            },
        ),
        (
            &[0xA0, 0, 2, 0, 0, 0, 1, 2, 3, 4, 0, 0],
            Command::ReportLuns { select: 2, allocation: 0x0102_0304 },
        ),
        (
            &[0xA3, 0x0C, 0x83, 0x9E, 0x12, 0x34, 0, 0, 1, 2, 0, 0],
            Command::ReportSupportedOperationCodes {
                timeouts: true,
                option: 3,
                opcode: 0x9E,
                service_action: 0x1234,
                allocation: 0x102,
            },
        ),
        (
            &[0x88, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0],
            Command::Read(Access {
                lba: Lba(0x0102_0304_0506_0708),
                blocks: 0x090A_0B0C,
                fua: true,
                length_at: 10,
            }),
        ),
    ];
    for (cdb, command) in cases {
        assert_eq!(decode(cdb), Ok(command), "{cdb:02x?}");
    }
}

/// Where the allocation length of a command with parameter data is, and its size.
fn allocation_of(cdb: &[u8; CDB_BYTES]) -> Option<u64> {
    let field = match (cdb[0], cdb[1] & 0x1F) {
        (0x03 | 0x1A, _) => &cdb[4..5],
        (0x12, _) => &cdb[3..5],
        (0x5A, _) => &cdb[7..9],
        (0x9E, 0x10 | 0x12) => &cdb[10..14],
        (0xA0, _) | (0xA3, 0x0A | 0x0C | 0x0D) | (0xB7, _) => &cdb[6..10],
        (0x37 | 0x4D | 0x5E, _) => &cdb[7..9],
        (0x25, _) => return Some(8),
        _ => return None,
    };
    Some(field.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// CDBs of known commands with every allowed field random, and some with anything at all.
fn any_cdb() -> impl Strategy<Value = [u8; CDB_BYTES]> {
    let known = (0..OPERATIONS.len(), any::<[u8; CDB_BYTES]>()).prop_map(|(at, mut cdb)| {
        let row = &OPERATIONS[at];
        for (byte, usage) in cdb.iter_mut().zip(row.usage) {
            *byte &= usage;
        }
        cdb[0] = row.opcode;
        if let Some(action) = row.service_action {
            cdb[1] = cdb[1] & 0xE0 | action;
        }
        cdb
    });
    prop_oneof![4 => known, 1 => any::<[u8; CDB_BYTES]>()]
}

fn any_lun() -> impl Strategy<Value = [u8; 8]> {
    prop_oneof![6 => Just(LUN0), 1 => Just(REPORT_LUNS_WLUN), 1 => any::<[u8; 8]>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_cdb_does_harm(cdb in any_cdb(), lun in any_lun(), data in any::<Vec<u8>>(), attention in any::<bool>()) {
        let mut fixture = Fixture::new();
        if attention {
            fixture.nexus.post_all(UnitAttention::CapacityChanged);
        }
        let geometry = fixture.target.logical_unit(LuIndex(0)).geometry;
        let max = fixture.target.logical_unit(LuIndex(0)).max_transfer_blocks();
        let outcome = fixture.at(lun, &cdb);
        match outcome {
            Outcome::Done => {}
            Outcome::Read { range, .. } | Outcome::Write { range, .. } => {
                prop_assert!(range.count > 0 && range.count <= max);
                prop_assert!(geometry.contains(range.start, u64::from(range.count)));
            }
            Outcome::Act(action) => {
                prop_assert!(action.range.count > 0 || action.kind == ActionKind::CompareAndWrite);
                prop_assert!(geometry.contains(action.range.start, u64::from(action.range.count)));
                let most = fixture.target.max_data_bytes() >> geometry.block_shift;
                prop_assert!(action.data_blocks() <= most);
            }
            Outcome::NeedData { bytes } => {
                prop_assert!(bytes > 0 && (bytes <= u32::from(u16::MAX) || cdb[0] == 0x5F));
                let done =
                    fixture.target.execute_with_data(&fixture.nexus, lun, &cdb, &data, &mut fixture.data_in);
                let ended = matches!(
                    done,
                    Outcome::Done | Outcome::Unmap { .. } | Outcome::Check(_) | Outcome::ChangeUnit | Outcome::Status(_)
                );
                prop_assert!(ended);
                fixture.data_in.clear();
            }
            Outcome::Unmap { .. } => prop_assert!(false, "without its list"),
            Outcome::ChangeUnit => fixture.data_in.clear(),
            Outcome::Flush { .. } | Outcome::Check(_) | Outcome::Status(_) => {}
        }
        if outcome != Outcome::Done {
            prop_assert!(fixture.data_in.is_empty());
        }
        if let Some(allocation) = allocation_of(&cdb) {
            prop_assert!(fixture.data_in.len() as u64 <= allocation);
        } else {
            prop_assert!(fixture.data_in.is_empty());
        }
    }

    #[test]
    fn truncation_cuts_and_changes_nothing(cdb in any_cdb(), shorter in any::<u16>()) {
        let mut fixture = Fixture::new();
        let (at, size) = match cdb[0] {
            0x03 | 0x1A => (4, 1),
            0x12 => (3, 2),
            0x37 | 0x4D | 0x5A => (7, 2),
            0x9E => (10, 4),
            0xA0 | 0xA3 | 0xB7 => (6, 4),
            _ => return Ok(()),
        };
        let mut long = cdb;
        long[at..at + size].fill(0xFF);
        prop_assume!(fixture.run(&long) == Outcome::Done);
        let full = fixture.data_in.clone();
        let allocation = usize::from(shorter) % (full.len() + 2);
        let mut short = cdb;
        let bytes = (allocation as u32).to_be_bytes();
        short[at..at + size].copy_from_slice(&bytes[4 - size..]);
        if fixture.run(&short) == Outcome::Done {
            prop_assert_eq!(&fixture.data_in[..], &full[..allocation.min(full.len())]);
        } else {
            prop_assert!(cdb[0] == 0xA0 && allocation < 16);
        }
    }
}
