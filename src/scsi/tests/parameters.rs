//! Golden bytes: INQUIRY, READ CAPACITY, mode parameters, supported operation codes.

use super::*;

fn vpd(page: u8) -> [u8; 6] {
    [0x12, 1, page, 4, 0, 0]
}

#[test]
fn standard_inquiry_data() {
    let mut fixture = Fixture::new();
    let data = fixture.data(&[0x12, 0, 0, 1, 0, 0]);
    let mut expected = vec![0x00, 0x00, 0x06, 0x12, 91, 0x00, 0x00, 0x02];
    expected.extend(b"TWINLUN VIRTUAL-DISK    0001");
    expected.extend([0; 22]);
    expected.extend([0x00, 0xA0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xC0]);
    expected.extend([0; 30]);
    assert_eq!(data, expected);
    assert_eq!(data.len(), usize::from(data[4]) + 5);
}

#[test]
fn inquiry_truncates_at_every_allocation_length() {
    let mut fixture = Fixture::new();
    let full = fixture.data(&[0x12, 0, 0, 1, 0, 0]);
    for allocation in 0..=255u8 {
        let data = fixture.data(&[0x12, 0, 0, 0, allocation, 0]);
        assert_eq!(data, full[..full.len().min(usize::from(allocation))]);
    }
}

#[test]
fn every_listed_vpd_page_is_there_and_no_other() {
    let mut fixture = Fixture::new();
    let list = fixture.data(&vpd(0x00));
    assert_eq!(list, [0, 0, 0, 8, 0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0xB0, 0xB1]);
    for page in 0..=u8::MAX {
        if list[4..].contains(&page) {
            let data = fixture.data(&vpd(page));
            let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
            assert_eq!((data[0], data[1], data.len()), (0, page, length + 4));
        } else {
            assert_eq!(fixture.run(&vpd(page)), Outcome::Check(SenseData::invalid_cdb_field(2)));
        }
    }
}

#[test]
fn vpd_80_is_the_serial_number() {
    let data = Fixture::new().data(&vpd(0x80));
    assert_eq!(data, [&[0, 0x80, 0, 16], &b"00c0ffee0badcafe"[..]].concat());
}

#[test]
fn vpd_83_names_the_logical_unit_the_port_and_the_target() {
    let data = Fixture::new().data(&vpd(0x83));
    let mut expected = vec![0, 0x83, 0, 0];
    expected.extend([0x01, 0x03, 0, 16]); // NAA, binary, logical unit
    expected.extend([0x60, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    expected.extend([0x02, 0x01, 0, 24]); // T10 vendor id, ASCII, logical unit
    expected.extend(b"TWINLUN 00c0ffee0badcafe");
    expected.extend([0x51, 0x94, 0, 4, 0, 0, 0, 2]); // relative target port 2
    expected.extend([0x51, 0x95, 0, 4, 0, 0, 0, 3]); // target port group 3
    expected.extend([0x53, 0x98, 0, 36]); // SCSI name string of the port
    expected.extend(b"iqn.2026-11.example:vol1,t,0x0001\0\0\0");
    expected.extend([0x53, 0xA8, 0, 28]); // SCSI name string of the target device
    expected.extend(b"iqn.2026-11.example:vol1\0\0\0\0");
    expected[3] = (expected.len() - 4) as u8;
    assert_eq!(data, expected);
}

#[test]
fn vpd_b0_and_b1_describe_the_disk() {
    let mut expected = vec![0, 0xB0, 0, 0x3C, 1, 255];
    expected.extend([0, 8]); // granularity: 4096 bytes in 512-byte blocks
    expected.extend([0, 0, 64, 0]); // at most 8 MiB
    expected.resize(36, 0);
    expected.extend([0, 0, 0, 0, 0, 0, 0x80, 0]); // WRITE SAME: 16 MiB
    expected.extend([0, 0, 0, 1]); // atomic: one block
    expected.resize(64, 0);
    let mut fixture = Fixture::new();
    assert_eq!(fixture.data(&vpd(0xB0)), expected);
    let mut expected = vec![0, 0xB1, 0, 0x3C, 0, 1];
    expected.resize(64, 0);
    assert_eq!(fixture.data(&vpd(0xB1)), expected);
    let mut native = Fixture::with(vec![(0, unit_of(12, 1000))]);
    let limits = native.data(&vpd(0xB0));
    assert_eq!(limits[6..12], [0, 1, 0, 0, 8, 0]);
}

#[test]
fn capacities_of_small_and_large_volumes() {
    let capacity_10 = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut capacity_16 = [0u8; 16];
    capacity_16[..2].copy_from_slice(&[0x9E, 0x10]);
    capacity_16[13] = 0xFF;
    let mut fixture = Fixture::new();
    assert_eq!(fixture.data(&capacity_10), [0, 0x1F, 0xFF, 0xFF, 0, 0, 2, 0]);
    let mut expected = vec![0, 0, 0, 0, 0, 0x1F, 0xFF, 0xFF, 0, 0, 2, 0, 0, 3];
    expected.resize(32, 0);
    assert_eq!(fixture.data(&capacity_16), expected);
    for allocation in 0..=33u8 {
        capacity_16[13] = allocation;
        assert_eq!(fixture.data(&capacity_16), expected[..32.min(usize::from(allocation))]);
    }
    capacity_16[13] = 12;
    for (blocks, last_10) in [(1 << 32, u32::MAX), ((1 << 32) - 1, u32::MAX - 1), (1 << 40, u32::MAX)] {
        let mut large = Fixture::with(vec![(0, unit_of(12, blocks))]);
        let expected = [&last_10.to_be_bytes()[..], &[0, 0, 0x10, 0]].concat();
        assert_eq!(large.data(&capacity_10), expected);
        let expected = [&(blocks - 1).to_be_bytes()[..], &[0, 0, 0x10, 0]].concat();
        assert_eq!(large.data(&capacity_16), expected);
    }
}

#[test]
fn partial_medium_indicator_goes_with_an_address() {
    let mut fixture = Fixture::new();
    let with = |lba: u8, pmi: u8| [0x25, 0, 0, 0, 0, lba, 0, 0, pmi, 0];
    assert_eq!(fixture.run(&with(1, 0)), Outcome::Check(SenseData::invalid_cdb_field(2)));
    assert_eq!(fixture.data(&with(1, 1)), fixture.data(&with(0, 0)));
}

/// Pages as MODE SENSE shows them, current values.
const CACHING: [u8; 20] = [0x88, 18, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CONTROL: [u8; 12] = [0x8A, 10, 0, 0x10, 0, 0x40, 0, 0, 0xFF, 0xFF, 0, 0];
const EXCEPTIONS: [u8; 12] = [0x1C, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const RECOVERY: [u8; 12] = [0x01, 10, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn disconnect() -> Vec<u8> {
    let mut page = vec![0x02, 14];
    page.resize(16, 0);
    page
}

fn power() -> Vec<u8> {
    let mut page = vec![0x1A, 38];
    page.resize(40, 0);
    page
}

fn control_extension() -> Vec<u8> {
    let mut page = vec![0x4A, 0x01, 0, 28];
    page.resize(32, 0);
    page
}

/// Header and short block descriptor of MODE SENSE(6) for pages of `bytes` bytes.
fn mode_6(pages: &[&[u8]]) -> Vec<u8> {
    let pages = pages.concat();
    let mut data = vec![(11 + pages.len()) as u8, 0, 0x10, 8];
    data.extend([0, 0x20, 0, 0, 0, 0, 2, 0]);
    data.extend(pages);
    data
}

#[test]
fn mode_sense_6_shows_each_page() {
    let mut fixture = Fixture::new();
    let mut sense = |page, subpage| fixture.data(&[0x1A, 0, page, subpage, 255, 0]);
    assert_eq!(sense(0x08, 0), mode_6(&[&CACHING]));
    assert_eq!(sense(0x0A, 0), mode_6(&[&CONTROL]));
    assert_eq!(sense(0x0A, 1), mode_6(&[&control_extension()]));
    assert_eq!(sense(0x0A, 0xFF), mode_6(&[&CONTROL, &control_extension()]));
    assert_eq!(sense(0x1C, 0), mode_6(&[&EXCEPTIONS]));
    assert_eq!(sense(0x01, 0), mode_6(&[&RECOVERY]));
    assert_eq!(sense(0x02, 0), mode_6(&[&disconnect()]));
    assert_eq!(sense(0x1A, 0), mode_6(&[&power()]));
    let (disconnect, extension, power) = (disconnect(), control_extension(), power());
    let plain = [&RECOVERY[..], &disconnect, &CACHING, &CONTROL, &power, &EXCEPTIONS];
    assert_eq!(sense(0x3F, 0), mode_6(&plain));
    let all = [&RECOVERY[..], &disconnect, &CACHING, &CONTROL, &extension, &power, &EXCEPTIONS];
    assert_eq!(sense(0x3F, 0xFF), mode_6(&all));
}

#[test]
fn mode_sense_page_control() {
    let mut fixture = Fixture::new();
    let current = fixture.data(&[0x1A, 8, 0x3F, 0xFF, 255, 0]);
    assert_eq!(fixture.data(&[0x1A, 8, 0x80 | 0x3F, 0xFF, 255, 0]), current, "defaults");
    let changeable = fixture.data(&[0x1A, 8, 0x40 | 0x0A, 0, 255, 0]);
    assert_eq!(changeable, [15, 0, 0x10, 0, 0x8A, 10, 4, 0, 8, 0x40, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fixture.data(&[0x1A, 8, 0xC0 | 0x3F, 0xFF, 255, 0]), current, "saved");
}

#[test]
fn mode_sense_refuses_pages_that_are_not_there() {
    let mut fixture = Fixture::new();
    let page = Outcome::Check(SenseData::invalid_cdb_bit(2, 5));
    let subpage = Outcome::Check(SenseData::invalid_cdb_field(3));
    assert_eq!(fixture.run(&[0x1A, 0, 0x05, 0, 255, 0]), page);
    assert_eq!(fixture.run(&[0x1A, 0, 0x05, 0xFF, 255, 0]), page);
    assert_eq!(fixture.run(&[0x1A, 0, 0x08, 1, 255, 0]), subpage);
    assert_eq!(fixture.run(&[0x1A, 0, 0x3F, 2, 255, 0]), subpage);
}

#[test]
fn mode_sense_10_has_its_own_header_and_both_block_descriptors() {
    let mut fixture = Fixture::new();
    let mut sense = |flags| fixture.data(&[0x5A, flags, 0x08, 0, 0, 0, 0, 0, 255, 0]);
    let short = [0, 0x20, 0, 0, 0, 0, 2, 0];
    let long = [0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    assert_eq!(sense(0x00), [&[0, 34, 0, 0x10, 0, 0, 0, 8], &short[..], &CACHING[..]].concat());
    assert_eq!(sense(0x10), [&[0, 42, 0, 0x10, 1, 0, 0, 16], &long[..], &CACHING[..]].concat());
    assert_eq!(sense(0x08), [&[0, 26, 0, 0x10, 0, 0, 0, 0], &CACHING[..]].concat());
    assert_eq!(sense(0x18), [&[0, 26, 0, 0x10, 0, 0, 0, 0], &CACHING[..]].concat());
}

#[test]
fn write_back_is_shown_only_for_volatile_caches() {
    let unit = LogicalUnit { volatile_cache: false, ..unit_of(9, 1 << 33) };
    let mut fixture = Fixture::with(vec![(0, unit)]);
    let data = fixture.data(&[0x1A, 0, 0x08, 0, 255, 0]);
    assert_eq!(data[4..8], [0xFF; 4], "too many blocks for the short descriptor");
    assert_eq!(data[12..16], [0x88, 18, 0, 0]);
}

/// Sends a MODE SELECT with this parameter list.
fn select(fixture: &mut Fixture, cdb: &[u8], list: &[u8]) -> Outcome {
    assert_eq!(fixture.run(cdb), Outcome::NeedData { bytes: list.len() as u32 });
    fixture.target.execute_with_data(&fixture.nexus, LUN0, cdb, list, &mut fixture.data_in)
}

#[test]
fn mode_select_takes_back_what_mode_sense_gave() {
    let mut fixture = Fixture::new();
    for (page, subpage) in
        [(0x01, 0), (0x02, 0), (0x08, 0), (0x0A, 0), (0x0A, 1), (0x1A, 0), (0x1C, 0), (0x3F, 0xFF)]
    {
        let list = fixture.data(&[0x1A, 0, page, subpage, 255, 0]);
        let cdb = [0x15, 0x10, 0, 0, list.len() as u8, 0];
        assert_eq!(select(&mut fixture, &cdb, &list), Outcome::Done);
        for flags in [0x00, 0x08, 0x10] {
            let list = fixture.data(&[0x5A, flags, page, subpage, 0, 0, 0, 1, 0, 0]);
            let cdb = [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
            assert_eq!(select(&mut fixture, &cdb, &list), Outcome::Done);
        }
    }
}

#[test]
fn mode_select_refuses_changes_and_short_lists() {
    let mut fixture = Fixture::new();
    let good = mode_6(&[&CACHING]);
    let cdb = |list: &[u8]| [0x15, 0x10, 0, 0, list.len() as u8, 0];
    let mut refused = |list: &[u8]| select(&mut fixture, &cdb(list), list);
    let parameter = |byte| Outcome::Check(SenseData::invalid_parameter(byte));
    let with = |at: usize, value: u8| {
        let mut list = good.clone();
        list[at] = value;
        list
    };
    assert_eq!(refused(&with(14, 0x01)), parameter(14), "RCD set");
    assert_eq!(refused(&with(12, 0x88)), Outcome::Done, "PS is ignored");
    assert_eq!(refused(&with(12, 0x05)), parameter(12), "unknown page");
    assert_eq!(refused(&with(13, 17)), parameter(13), "page length");
    assert_eq!(refused(&with(3, 7)), parameter(3), "block descriptor length");
    assert_eq!(refused(&with(10, 4)), parameter(4), "block length");
    assert_eq!(refused(&with(5, 0)), Outcome::Done, "no number of blocks means the same number");
    for length in [1, 3, 4, 11, 13, 31] {
        assert_eq!(triple(refused(&good[..length])), (5, 0x1A, 0), "{length} bytes");
    }
    assert_eq!(refused(&good[..12]), Outcome::Done, "no pages");
    assert_eq!(refused(&[0; 4]), Outcome::Done, "a header alone");
    assert_eq!(triple(refused(&[0, 0, 0, 0, 0x4A])), (5, 0x1A, 0));
}

#[test]
fn mode_select_checks_its_cdb() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.run(&[0x15, 0x10, 0, 0, 0, 0]), Outcome::Done, "no list is no error");
    assert_eq!(fixture.run(&[0x15, 0x11, 0, 0, 4, 0]), Outcome::NeedData { bytes: 4 });
    assert_eq!(fixture.run(&[0x15, 0x11, 0, 0, 0, 0]), Outcome::Done, "nothing to save");
    assert_eq!(fixture.run(&[0x15, 0x00, 0, 0, 4, 0]), Outcome::Check(SenseData::invalid_cdb_bit(1, 4)));
}

fn supported(option: u8, opcode: u8, service_action: u8) -> [u8; 12] {
    [0xA3, 0x0C, option, opcode, 0, service_action, 0, 0, 0xFF, 0xFF, 0, 0]
}

#[test]
fn all_supported_operation_codes_with_and_without_timeouts() {
    let mut fixture = Fixture::new();
    let data = fixture.data(&supported(0, 0, 0));
    let listed = u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize;
    assert_eq!((listed % 8, listed + 4), (0, data.len()));
    assert_eq!(data[4..12], [0x00, 0, 0, 0, 0, 0x00, 0, 6]);
    let capacity = data[4..].chunks(8).find(|row| row[0] == 0x9E).expect("READ CAPACITY(16)");
    assert_eq!(capacity, [0x9E, 0, 0, 0x10, 0, 0x01, 0, 16]);
    let timed = fixture.data(&supported(0x80, 0, 0));
    assert_eq!(timed.len() - 4, listed / 8 * 20);
    assert_eq!(timed[4..24], [0, 0, 0, 0, 0, 0x02, 0, 6, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn one_supported_operation_code() {
    let mut fixture = Fixture::new();
    let read = [0, 3, 0, 10, 0x28, 0x1A, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 0xFF, 0xFF, 0];
    assert_eq!(fixture.data(&supported(1, 0x28, 0)), read);
    assert_eq!(fixture.data(&supported(3, 0x28, 0)), read);
    let timed = fixture.data(&supported(0x81, 0x28, 0));
    assert_eq!((timed[1], timed.len()), (0x83, 26));
    let capacity = fixture.data(&supported(2, 0x9E, 0x10));
    assert_eq!((capacity[1], capacity[3], capacity[4], capacity[5]), (3, 16, 0x9E, 0x10));
    let none = [0, 1, 0, 0];
    assert_eq!(fixture.data(&supported(1, 0x42, 0)), none);
    assert_eq!(fixture.data(&supported(2, 0x9E, 0x13)), none);
    assert_eq!(fixture.data(&supported(3, 0x28, 1)), none);
    let refused = Outcome::Check(SenseData::invalid_cdb_bit(2, 2));
    assert_eq!(fixture.run(&supported(1, 0x9E, 0x10)), refused);
    assert_eq!(fixture.run(&supported(2, 0x28, 0)), refused);
    assert_eq!(fixture.run(&supported(4, 0x28, 0)), refused);
}
