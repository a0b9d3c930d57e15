//! LUN fields, absent logical units, REPORT LUNS and unit attentions.

use super::*;

/// A LUN that nothing is mapped to.
const LUN9: [u8; 8] = [0, 9, 0, 0, 0, 0, 0, 0];

#[test]
fn an_absent_lun_answers_what_it_must_and_refuses_the_rest() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.at(LUN9, &[0x12, 0, 0, 0, 36, 0]), Outcome::Done);
    assert_eq!((fixture.data_in[0], fixture.data_in.len()), (0x7F, 36));
    assert_eq!(fixture.at(LUN9, &[0x03, 0, 0, 0, 252, 0]), Outcome::Done);
    assert_eq!((fixture.data_in[2], fixture.data_in[12]), (0x05, 0x25));
    let report = [0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    assert_eq!(fixture.at(LUN9, &report), Outcome::Done);
    assert_eq!(fixture.data_in, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(triple(fixture.at(LUN9, &[0; 6])), NO_LOGICAL_UNIT);
    assert_eq!(triple(fixture.at(LUN9, &[0xFF; 16])), NO_LOGICAL_UNIT);
    assert_eq!(triple(fixture.at(LUN9, &[0x12, 0, 1, 0, 36, 0])), INVALID_FIELD);
    assert_eq!(fixture.refused(&[0xFF; 16]), INVALID_OPCODE);
}

#[test]
fn a_new_nexus_hears_of_one_reset_per_logical_unit() {
    let mut fixture = Fixture::with(vec![(0, unit_of(9, BLOCKS)), (9, unit_of(12, BLOCKS))]);
    fixture.nexus = Nexus::new(&fixture.target);
    for lun in [LUN0, LUN9] {
        assert_eq!(fixture.at(lun, &[0x12, 0, 0, 0, 96, 0]), Outcome::Done);
        assert_eq!(triple(fixture.at(lun, &[0; 6])), RESET);
        assert_eq!(fixture.at(lun, &[0; 6]), Outcome::Done);
    }
    fixture.nexus = Nexus::new(&fixture.target);
    let sense = fixture.data(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((sense[2], sense[12], sense[13]), RESET);
    assert_eq!(fixture.run(&[0; 6]), Outcome::Done);
}
