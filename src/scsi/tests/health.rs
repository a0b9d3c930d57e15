//! Golden bytes of what a monitoring initiator asks: log pages, defect lists, diagnostics; and of a thin or read-only disk.

use super::*;

fn thin() -> Fixture {
    Fixture::with(vec![(0, LogicalUnit { provisioning: Provisioning::Thin, ..unit_of(9, BLOCKS) })])
}

fn log(page: u8, subpage: u8, from: u8) -> [u8; 10] {
    [0x4D, 0, 0x40 | page, subpage, 0, 0, from, 0, 255, 0]
}

#[test]
fn log_pages_are_listed_and_there() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.data(&log(0x00, 0, 0)), [0, 0, 0, 4, 0x00, 0x0D, 0x15, 0x2F]);
    let with_subpages = [0x40, 0xFF, 0, 10, 0, 0, 0, 0xFF, 0x0D, 0, 0x15, 0, 0x2F, 0];
    assert_eq!(fixture.data(&log(0x00, 0xFF, 0)), with_subpages);
    assert_eq!(fixture.data(&log(0x0D, 0, 0)), [0x0D, 0, 0, 6, 0, 0, 3, 2, 0, 0xFF]);
    let scan = [&[0x15, 0, 0, 16, 0, 0, 3, 12], &[0; 12][..]].concat();
    assert_eq!(fixture.data(&log(0x15, 0, 0)), scan);
    assert_eq!(fixture.data(&log(0x2F, 0, 0)), [0x2F, 0, 0, 7, 0, 0, 3, 3, 0, 0, 0xFF]);
    assert_eq!(fixture.run(&log(0x0C, 0, 0)), Outcome::Check(SenseData::invalid_cdb_bit(2, 5)));
    assert_eq!(thin().data(&log(0x0C, 0, 0)), [0x0C, 0, 0, 0]);
    assert_eq!(thin().data(&log(0x00, 0, 0)), [0, 0, 0, 5, 0x00, 0x0C, 0x0D, 0x15, 0x2F]);
}

#[test]
fn log_sense_refuses_what_is_not_there() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.run(&log(0x0D, 1, 0)), Outcome::Check(SenseData::invalid_cdb_field(3)));
    assert_eq!(fixture.run(&log(0x0D, 0, 1)), Outcome::Check(SenseData::invalid_cdb_field(5)));
    let saved = [0x4D, 1, 0x4D, 0, 0, 0, 0, 0, 255, 0];
    assert_eq!(fixture.run(&saved), Outcome::Check(SenseData::invalid_cdb_bit(1, 0)));
}

#[test]
fn no_defects_no_faults_nothing_to_remove() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.data(&[0x37, 0, 0x1D, 0, 0, 0, 0, 0, 255, 0]), [0, 0x1D, 0, 0]);
    assert_eq!(fixture.data(&[0xB7, 0x0C, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]), [0, 0x0C, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fixture.run(&[0x1D, 0x04, 0, 0, 0, 0]), Outcome::Done);
    assert_eq!(fixture.run(&[0x1D, 0x20, 0, 0, 0, 0]), Outcome::Check(SenseData::invalid_cdb_bit(1, 7)));
    assert_eq!(fixture.run(&[0x1D, 0x10, 0, 0, 4, 0]), Outcome::Check(SenseData::invalid_cdb_field(3)));
    assert_eq!(fixture.run(&[0x1E, 0, 0, 0, 1, 0]), Outcome::Done);
}

#[test]
fn pre_fetch_checks_its_range() {
    let mut fixture = Fixture::new();
    let at = |lba: u32, blocks: u8| {
        let [a, b, c, d] = lba.to_be_bytes();
        [0x34, 2, a, b, c, d, 0, 0, blocks, 0]
    };
    assert_eq!(fixture.run(&at(0, 0)), Outcome::Done);
    assert_eq!(fixture.run(&at(BLOCKS as u32 - 1, 1)), Outcome::Done);
    assert_eq!(fixture.refused(&at(BLOCKS as u32 - 1, 2)), OUT_OF_RANGE);
    let mut long = [0; 16];
    long[0] = 0x90;
    long[2..10].copy_from_slice(&(BLOCKS + 1).to_be_bytes());
    assert_eq!(fixture.refused(&long), OUT_OF_RANGE);
}

#[test]
fn supported_task_management_functions() {
    let mut fixture = Fixture::new();
    let ask = |extended| [0xA3, 0x0D, extended, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    assert_eq!(fixture.data(&ask(0)), [0xFA, 0, 0, 0]);
    assert_eq!(fixture.data(&ask(0x80)), [0xFA, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn pages_of_policy_ports_and_extended_data() {
    let mut fixture = Fixture::new();
    let page = |number| [0x12, 1, number, 4, 0, 0];
    assert_eq!(fixture.data(&page(0x86))[..8], [0, 0x86, 0, 60, 0, 0x07, 0x01, 0]);
    assert_eq!(fixture.data(&page(0x87)), [0, 0x87, 0, 4, 0x3F, 0xFF, 0, 0]);
    let mut expected = vec![0, 0x88, 0, 52, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 40, 0x53, 0x98, 0, 36];
    expected.extend(b"iqn.2026-11.example:vol1,t,0x0001\0\0\0");
    assert_eq!(fixture.data(&page(0x88)), expected);
}

#[test]
fn a_thin_disk_says_so_wherever_it_is_asked() {
    let mut fixture = thin();
    let list = fixture.data(&[0x12, 1, 0, 4, 0, 0]);
    assert_eq!(list.last(), Some(&0xB2));
    assert_eq!(fixture.data(&[0x12, 1, 0xB2, 4, 0, 0]), [0, 0xB2, 0, 4, 0, 0xE4, 2, 0]);
    let mut capacity = [0; 16];
    capacity[..2].copy_from_slice(&[0x9E, 0x10]);
    capacity[13] = 32;
    assert_eq!(fixture.data(&capacity)[14], 0xC0);
    assert_eq!(Fixture::new().data(&capacity)[14], 0);
}

#[test]
fn a_read_only_disk_refuses_every_change_and_says_so() {
    let mut fixture = Fixture::with(vec![(0, LogicalUnit { read_only: true, ..unit_of(9, BLOCKS) })]);
    assert_eq!(fixture.data(&[0x1A, 8, 0x08, 0, 4, 0]), [23, 0, 0x90, 0]);
    for opcode in [0x2A, 0x8A, 0xAA] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        assert_eq!(fixture.refused(&cdb), (7, 0x27, 0), "{opcode:02x}");
    }
    assert_eq!(fixture.refused(&[0x0A, 0, 0, 0, 1, 0]), (7, 0x27, 0));
    assert!(matches!(fixture.run(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Outcome::Read { .. }));
}
