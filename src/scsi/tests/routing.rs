//! LUN fields, absent logical units, REPORT LUNS and unit attentions.

use super::*;

const LUN9: [u8; 8] = [0, 9, 0, 0, 0, 0, 0, 0];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 96, 0];
const TEST_UNIT_READY: [u8; 6] = [0; 6];

fn report_luns(select: u8, allocation: u32) -> [u8; 12] {
    let [a, b, c, d] = allocation.to_be_bytes();
    [0xA0, 0, select, 0, 0, 0, a, b, c, d, 0, 0]
}

#[test]
fn lun_fields_decode_by_their_addressing_method() {
    let cases = [
        ([0x00, 0x00], LunAddress::Unit(0)),
        ([0x00, 0xFF], LunAddress::Unit(255)),
        ([0x01, 0x00], LunAddress::Absent), // peripheral, bus 1
        ([0x40, 0x00], LunAddress::Unit(0)),
        ([0x41, 0x02], LunAddress::Unit(0x102)),
        ([0x7F, 0xFF], LunAddress::Unit(LUN_MAX)),
        ([0x80, 0x00], LunAddress::Absent), // logical unit addressing
        ([0xC1, 0x01], LunAddress::ReportLuns),
        ([0xC1, 0x02], LunAddress::Absent), // ACCESS CONTROLS
        ([0xD2, 0x00], LunAddress::Absent), // extended flat space
    ];
    for ([first, second], address) in cases {
        assert_eq!(LunAddress::decode([first, second, 0, 0, 0, 0, 0, 0]), address);
        for at in 2..8 {
            let mut second_level = [first, second, 0, 0, 0, 0, 0, 0];
            second_level[at] = 1;
            assert_eq!(LunAddress::decode(second_level), LunAddress::Absent);
        }
    }
    for number in [0, 1, 255, 256, 4095, LUN_MAX] {
        assert_eq!(LunAddress::decode(LunAddress::encode_unit(number)), LunAddress::Unit(number));
    }
}

#[test]
fn an_absent_lun_answers_what_it_must_and_refuses_the_rest() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.at(LUN9, &INQUIRY), Outcome::Done);
    assert_eq!((fixture.data_in[0], fixture.data_in.len()), (0x7F, 96));
    assert_eq!(fixture.at(LUN9, &[0x03, 0, 0, 0, 252, 0]), Outcome::Done);
    assert_eq!((fixture.data_in[2], fixture.data_in[12]), (0x05, 0x25));
    assert_eq!(fixture.at(LUN9, &report_luns(0, 16)), Outcome::Done);
    assert_eq!(fixture.data_in, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(triple(fixture.at(LUN9, &TEST_UNIT_READY)), NO_LOGICAL_UNIT);
    assert_eq!(triple(fixture.at(LUN9, &[0xFF; 16])), NO_LOGICAL_UNIT);
    assert_eq!(triple(fixture.at(LUN9, &[0x12, 0, 1, 0, 36, 0])), INVALID_FIELD);
    assert_eq!(triple(fixture.at(LUN9, &[0x12, 1, 0x83, 0, 36, 0])), INVALID_FIELD);
    assert_eq!(fixture.refused(&[0xFF; 16]), INVALID_OPCODE);
}

#[test]
fn report_luns_selects_and_truncates() {
    let units = vec![(300, unit_of(9, BLOCKS)), (0, unit_of(9, BLOCKS)), (9, unit_of(12, BLOCKS))];
    let mut fixture = Fixture::with(units);
    let unit0 = [0; 8];
    let unit300 = [0x41, 0x2C, 0, 0, 0, 0, 0, 0];
    let header = |length: u8| [0, 0, 0, length, 0, 0, 0, 0];
    let plain = fixture.data(&report_luns(0, 4096));
    assert_eq!(plain, [header(24), unit0, LUN9, unit300].concat());
    let well_known = fixture.data(&report_luns(1, 4096));
    assert_eq!(well_known, [header(8), REPORT_LUNS_WLUN].concat());
    let both = fixture.data(&report_luns(2, 4096));
    assert_eq!(both, [header(32), REPORT_LUNS_WLUN, unit0, LUN9, unit300].concat());
    assert_eq!(fixture.data(&report_luns(0, 19)), plain[..19]);
    assert_eq!(fixture.data(&report_luns(0, 16)), plain[..16]);
    assert_eq!(fixture.run(&report_luns(0, 15)), Outcome::Check(SenseData::invalid_cdb_field(6)));
    assert_eq!(fixture.run(&report_luns(3, 16)), Outcome::Check(SenseData::invalid_cdb_field(2)));
    for lun in [LUN9, REPORT_LUNS_WLUN, [0xFF; 8]] {
        assert_eq!(fixture.at(lun, &report_luns(0, 4096)), Outcome::Done);
        assert_eq!(fixture.data_in, plain);
    }
}

#[test]
fn a_target_without_logical_units_still_answers() {
    let mut fixture = Fixture::with(Vec::new());
    assert_eq!(fixture.data(&report_luns(0, 16)), [0; 8]);
    assert_eq!(fixture.at(LUN0, &INQUIRY), Outcome::Done);
    assert_eq!(fixture.data_in[0], 0x7F);
}

#[test]
fn the_well_known_logical_unit_has_a_few_commands_of_its_own() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.at(REPORT_LUNS_WLUN, &INQUIRY), Outcome::Done);
    assert_eq!(fixture.data_in[0], 0x1E);
    assert_eq!(fixture.at(REPORT_LUNS_WLUN, &[0x12, 1, 0, 0, 255, 0]), Outcome::Done);
    assert_eq!(fixture.data_in, [0x1E, 0, 0, 2, 0x00, 0x83]);
    assert_eq!(fixture.at(REPORT_LUNS_WLUN, &TEST_UNIT_READY), Outcome::Done);
    assert_eq!(fixture.at(REPORT_LUNS_WLUN, &[0x03, 0, 0, 0, 18, 0]), Outcome::Done);
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(triple(fixture.at(REPORT_LUNS_WLUN, &read)), INVALID_OPCODE);
}

#[test]
fn lun_maps_that_cannot_be_reported_are_refused() {
    let unit = || unit_of(9, BLOCKS);
    let target = |units| Target::new(port(), units).map(|_| ());
    assert_eq!(target(vec![(5, unit()), (5, unit())]), Err(TargetError::DuplicateLun(5)));
    assert_eq!(target(vec![(0x4000, unit())]), Err(TargetError::LunTooLarge(0x4000)));
    let many = (0..=LOGICAL_UNITS_MAX as u16).map(|number| (number, unit())).collect();
    assert_eq!(target(many), Err(TargetError::TooManyLogicalUnits));
    let port0 = TargetPort { relative_id: 0, ..port() };
    assert_eq!(Target::new(port0, Vec::new()).map(|_| ()), Err(TargetError::RelativePort));
    let nameless = TargetPort { target_name: String::new(), ..port() };
    let error = Err(TargetError::Identity(IdentityError::TargetName));
    assert_eq!(Target::new(nameless, Vec::new()).map(|_| ()), error);
}

#[test]
fn identities_that_do_not_fit_are_refused() {
    let refused = |identity: DeviceIdentity| identity.validate().err();
    assert_eq!(refused(identity()), None);
    assert_eq!(
        refused(DeviceIdentity { vendor: *b"tab\tbing", ..identity() }),
        Some(IdentityError::NotPrintable)
    );
    assert_eq!(refused(DeviceIdentity { naa: [0x50; 16], ..identity() }), Some(IdentityError::Naa));
    let long = "sixty-five".repeat(7);
    for serial in ["", &long[..65]] {
        let identity = DeviceIdentity { serial: serial.into(), ..identity() };
        assert_eq!(refused(identity), Some(IdentityError::Serial));
    }
}

#[test]
fn a_new_nexus_hears_of_one_reset_per_logical_unit() {
    let mut fixture = Fixture::with(vec![(0, unit_of(9, BLOCKS)), (9, unit_of(12, BLOCKS))]);
    fixture.nexus = new_nexus(&fixture.target);
    for lun in [LUN0, LUN9] {
        assert_eq!(fixture.at(lun, &INQUIRY), Outcome::Done);
        assert_eq!(fixture.at(lun, &report_luns(0, 64)), Outcome::Done);
        assert_eq!(triple(fixture.at(lun, &TEST_UNIT_READY)), RESET);
        assert_eq!(fixture.at(lun, &TEST_UNIT_READY), Outcome::Done);
    }
}

#[test]
fn a_unit_attention_stops_a_write_before_anything_is_written() {
    let mut fixture = Fixture::new();
    fixture.nexus.post(LuIndex(0), UnitAttention::LogicalUnitReset);
    let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(fixture.refused(&write), (6, 0x29, 3));
    assert!(matches!(fixture.run(&write), Outcome::Write { .. }));
}

#[test]
fn request_sense_takes_the_unit_attention() {
    let mut fixture = Fixture::new();
    fixture.nexus.post(LuIndex(0), UnitAttention::CapacityChanged);
    let sense = fixture.data(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x2A, 9));
    assert_eq!(fixture.run(&TEST_UNIT_READY), Outcome::Done);
    let sense = fixture.data(&[0x03, 1, 0, 0, 252, 0]);
    assert_eq!(sense, [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn report_luns_clears_the_attention_that_asks_for_it() {
    let mut fixture = Fixture::new();
    fixture.nexus.post_all(UnitAttention::ReportedLunsChanged);
    assert_eq!(fixture.run(&report_luns(0, 64)), Outcome::Done);
    assert_eq!(fixture.run(&TEST_UNIT_READY), Outcome::Done);
}

#[test]
fn attentions_queue_by_precedence_and_resets_replace_lesser_ones() {
    let mut fixture = Fixture::new();
    for attention in [
        UnitAttention::ReportedLunsChanged,
        UnitAttention::ModeParametersChanged,
        UnitAttention::CapacityChanged,
        UnitAttention::CapacityChanged,
    ] {
        fixture.nexus.post(LuIndex(0), attention);
    }
    assert_eq!(fixture.refused(&TEST_UNIT_READY), (6, 0x2A, 9));
    assert_eq!(fixture.refused(&TEST_UNIT_READY), (6, 0x2A, 1));
    fixture.nexus.post(LuIndex(0), UnitAttention::NexusLoss);
    fixture.nexus.post(LuIndex(0), UnitAttention::TargetReset);
    fixture.nexus.post(LuIndex(0), UnitAttention::LogicalUnitReset);
    fixture.nexus.post(LuIndex(0), UnitAttention::AccessStateChanged);
    assert_eq!(fixture.refused(&TEST_UNIT_READY), (6, 0x29, 2));
    assert_eq!(fixture.refused(&TEST_UNIT_READY), (6, 0x2A, 6));
    assert_eq!(fixture.run(&TEST_UNIT_READY), Outcome::Done);
}
