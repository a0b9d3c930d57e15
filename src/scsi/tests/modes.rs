//! Mode parameters that can be changed: what they do, who hears of it, and what is saved.

use super::reservations::Cluster;
use super::*;

const CHANGED: Option<(u8, u8, u8)> = Some((6, 0x2A, 1));

/// MODE SELECT(6) of the Control page with these bytes 2, 4 and 5.
fn control(c: &mut Cluster, number: usize, save: bool, bytes: [u8; 3]) -> Outcome {
    let [sense, protect, status] = bytes;
    let list = [0, 0, 0, 0, 0x0A, 10, sense, 0x10, protect, status, 0, 0, 0xFF, 0xFF, 0, 0];
    c.run(number, &[0x15, 0x10 | u8::from(save), 0, 0, 16, 0], &list)
}

/// MODE SELECT(10) of the Caching page.
fn caching(c: &mut Cluster, number: usize, save: bool, wce: bool) -> Outcome {
    let mut list = [0; 28];
    (list[8], list[9], list[10]) = (0x88, 18, if wce { 4 } else { 0 });
    c.run(number, &[0x55, 0x10 | u8::from(save), 0, 0, 0, 0, 0, 0, 28, 0], &list)
}

/// Bytes 2, 4 and 5 of the Control page and byte 2 of the Caching page, by MODE SENSE(10); page control 0..=3.
fn shown(c: &mut Cluster, number: usize, control: u8) -> [u8; 4] {
    let mut page = |code: u8| c.sense(number, control << 6 | code);
    let (control, caching) = (page(0x0A), page(0x08));
    assert_eq!((control[0], caching[0]), (0x8A, 0x88), "PS");
    [control[2], control[4], control[5], caching[2]]
}

impl Cluster {
    /// A page, without the header.
    fn sense(&mut self, number: usize, page: u8) -> Vec<u8> {
        let data = self.data(number, &[0x5A, 0x08, page, 0, 0, 0, 0, 0, 0xFF, 0]);
        data[8..].to_vec()
    }

    fn data(&mut self, number: usize, cdb: &[u8]) -> Vec<u8> {
        assert_eq!(self.run(number, cdb, &[]), Outcome::Done, "{cdb:02x?}");
        self.answer()
    }
}

#[test]
fn everybody_sees_a_change_and_others_hear_of_it() {
    let mut c = Cluster::new();
    assert_eq!(shown(&mut c, 0, 0), [0, 0, 0x40, 4]);
    assert_eq!(shown(&mut c, 0, 1), [4, 8, 0x40, 4], "what can be changed");
    assert_eq!(control(&mut c, 0, false, [4, 0, 0]), Outcome::Done);
    assert_eq!((c.attention(0), c.attention(1), c.attention(7)), (None, CHANGED, CHANGED));
    assert_eq!(caching(&mut c, 7, false, false), Outcome::Done);
    for number in [0, 1, 7] {
        c.attention(number);
        assert_eq!(shown(&mut c, number, 0), [4, 0, 0, 0]);
        assert_eq!(shown(&mut c, number, 2), [0, 0, 0x40, 4], "defaults");
        assert_eq!(shown(&mut c, number, 3), [0, 0, 0x40, 4], "nothing was saved");
    }
    // What changes nothing is told to nobody.
    assert_eq!(control(&mut c, 1, false, [4, 0, 0]), Outcome::Done);
    assert_eq!((c.attention(0), c.attention(7)), (None, None));
}

#[test]
fn a_reset_brings_the_saved_values_back() {
    let mut c = Cluster::new();
    assert_eq!(control(&mut c, 0, true, [4, 0, 0x40]), Outcome::Done);
    assert_eq!(caching(&mut c, 0, false, false), Outcome::Done);
    assert_eq!((shown(&mut c, 0, 0), shown(&mut c, 0, 3)), ([4, 0, 0x40, 0], [4, 0, 0x40, 4]));
    let by = c.nexuses[0].id().clone();
    c.tell(c.memory.after_reset(ResetKind::TaskSet, &by));
    assert_eq!(shown(&mut c, 0, 0), [4, 0, 0x40, 0]);
    c.tell(c.memory.after_reset(ResetKind::Unit, &by));
    assert_eq!(shown(&mut c, 0, 0), [4, 0, 0x40, 4]);
    assert_eq!(c.attention(1), Some((6, 0x29, 3)), "the reset says it all");
    // Without a list what is current is saved.
    assert_eq!(caching(&mut c, 0, false, false), Outcome::Done);
    assert_eq!(c.run(0, &[0x15, 0x11, 0, 0, 0, 0], &[]), Outcome::Done);
    assert_eq!(shown(&mut c, 0, 3), [4, 0, 0x40, 0]);
}

#[test]
fn descriptor_sense_is_for_commands_and_request_sense_says_itself() {
    let mut c = Cluster::new();
    assert_eq!(c.nexuses[3].sense_format(), SenseFormat::Fixed);
    assert_eq!(control(&mut c, 0, false, [4, 0, 0x40]), Outcome::Done);
    assert_eq!(c.nexuses[3].sense_format(), SenseFormat::Descriptor);
    assert_eq!(c.data(0, &[0x03, 0, 0, 0, 18, 0])[0], 0x70);
}

#[test]
fn software_write_protection() {
    let mut c = Cluster::new();
    assert_eq!(control(&mut c, 0, false, [0, 8, 0x40]), Outcome::Done);
    c.attention(1);
    for opcode in [0x0A, 0x2A, 0x8A, 0xAA, 0x2E, 0x41, 0x93, 0x89, 0x8B, 0x9C] {
        for number in [0, 1] {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            assert_eq!(triple(c.run(number, &cdb, &[])), (7, 0x27, 2), "{opcode:02x}");
        }
    }
    assert!(matches!(c.run(0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]), Outcome::Read { .. }));
    assert_eq!(c.data(0, &[0x1A, 8, 0x0A, 0, 255, 0])[2], 0x90, "WP and DPOFUA");
    assert_eq!(control(&mut c, 0, false, [0, 0, 0x40]), Outcome::Done);
    assert!(matches!(c.run(0, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]), Outcome::Write { .. }));
    assert_eq!(c.data(0, &[0x1A, 8, 0x0A, 0, 255, 0])[2], 0x10);
}

#[test]
fn without_write_cache_every_write_is_stable() {
    let mut c = Cluster::new();
    let fua = |c: &mut Cluster, cdb: &[u8]| match c.run(0, cdb, &[]) {
        Outcome::Write { fua, .. } => fua,
        Outcome::Act(action) => action.fua,
        other => panic!("{other:?}"),
    };
    for (wce, expected) in [(false, true), (true, false)] {
        assert_eq!(caching(&mut c, 0, false, wce), Outcome::Done);
        for opcode in [0x2A, 0x41, 0x2E] {
            assert_eq!(fua(&mut c, &[opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0]), expected, "{opcode:02x}");
        }
    }
    assert_eq!(c.attention(1), CHANGED);
}

#[test]
fn a_disk_without_a_volatile_cache_has_nothing_to_write_through() {
    let unit = LogicalUnit { volatile_cache: false, ..unit_of(9, BLOCKS) };
    let mut fixture = Fixture::with(vec![(0, unit)]);
    let page = fixture.data(&[0x1A, 8, 0x48, 0, 255, 0]);
    assert_eq!((page[4], page[6]), (0x88, 0), "not changeable");
    let mut list = [0; 24];
    (list[4], list[5], list[6]) = (0x08, 18, 4);
    let cdb = [0x15, 0x10, 0, 0, 24, 0];
    assert_eq!(fixture.run(&cdb), Outcome::NeedData { bytes: 24 });
    let outcome = fixture.target.execute_with_data(&fixture.nexus, LUN0, &cdb, &list, &mut fixture.data_in);
    assert_eq!(outcome, Outcome::Check(SenseData::invalid_parameter(6)));
}

#[test]
fn without_tas_tasks_end_in_silence() {
    let mut c = Cluster::new();
    let by = c.nexuses[0].id().clone();
    let memory = c.memory.after_reset(ResetKind::TaskSet, &by);
    let ended = c.nexuses[1].set_memory(&Arc::new(memory));
    assert!(ended.tasks && ended.answered && ended.cleared);
    assert_eq!(control(&mut c, 0, false, [0, 0, 0]), Outcome::Done);
    let memory = c.memory.after_reset(ResetKind::TaskSet, &by);
    let ended = c.nexuses[1].set_memory(&Arc::new(memory));
    assert!(ended.tasks && !ended.answered);
}
