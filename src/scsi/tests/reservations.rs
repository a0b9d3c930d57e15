//! Persistent reservations, RESERVE and RELEASE: several nexuses at one unit, as a pair lets them share its memory.

use super::super::reservation::out::OutAction;
use super::*;
use crate::scsi::{NexusId, UnitMemory};

pub(super) const REGISTER: u8 = 0;
pub(super) const RESERVE: u8 = 1;
pub(super) const RELEASE: u8 = 2;
pub(super) const CLEAR: u8 = 3;
pub(super) const PREEMPT: u8 = 4;
pub(super) const PREEMPT_AND_ABORT: u8 = 5;
pub(super) const REGISTER_AND_IGNORE: u8 = 6;
pub(super) const REGISTER_AND_MOVE: u8 = 7;

pub(super) const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];
/// PREEMPTED, RELEASED, REGISTRATIONS PREEMPTED, MODE PARAMETERS CHANGED.
const PREEMPTED: (u8, u8, u8) = (6, 0x2A, 3);
const RELEASED: (u8, u8, u8) = (6, 0x2A, 4);
const REGISTRATIONS_PREEMPTED: (u8, u8, u8) = (6, 0x2A, 5);

const GOOD: Outcome = Outcome::Done;
pub(super) const CONFLICT: Outcome = Outcome::Status(Status::ReservationConflict);
const TUR: [u8; 6] = [0; 6];

/// Initiators at one unit. Numbers 0 to 3 are at this node's port, the others at its peer's.
pub(super) struct Cluster {
    targets: [Target; 2],
    pub(super) nexuses: Vec<Nexus>,
    pub(super) memory: Arc<UnitMemory>,
    data_in: Vec<u8>,
    ended: Vec<Ended>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let at = |own, peer| {
            let peer = PeerPort { relative_id: peer, target_port_group: peer, stand_in: Default::default() };
            let port = TargetPort { relative_id: own, target_port_group: own, peer: Some(peer), ..port() };
            let unit = LogicalUnit { provisioning: Provisioning::Thin, ..unit_of(9, BLOCKS) };
            Target::new(port, vec![(0, unit)]).expect("a good target")
        };
        let targets = [at(1, 2), at(2, 1)];
        let nexus =
            |number: u8| Nexus::new(&targets[usize::from(number / 4)], initiator(number % 4), Arc::default());
        let nexuses = (0..8).map(nexus).collect();
        let mut cluster =
            Self { targets, nexuses, memory: Arc::default(), data_in: Vec::new(), ended: Vec::new() };
        for number in 0..8 {
            assert_eq!(cluster.attention(number), Some(RESET));
        }
        cluster
    }

    /// Carries a command out, with every nexus told of what it changes.
    pub(super) fn run(&mut self, number: usize, cdb: &[u8], list: &[u8]) -> Outcome {
        let mut bytes = [0; CDB_BYTES];
        bytes[..cdb.len()].copy_from_slice(cdb);
        let target = &self.targets[number / 4];
        let nexus = &mut self.nexuses[number];
        let mut outcome = target.execute(nexus, LUN0, &bytes, &mut self.data_in);
        if let Outcome::NeedData { .. } = outcome {
            outcome = target.execute_with_data(nexus, LUN0, &bytes, list, &mut self.data_in);
        }
        if outcome != Outcome::ChangeUnit {
            return outcome;
        }
        let memory = UnitMemory::decode(&self.data_in).expect("good bytes");
        self.tell(memory);
        self.data_in.clear();
        GOOD
    }

    pub(super) fn tell(&mut self, memory: UnitMemory) {
        let mut bytes = Vec::new();
        memory.encode(&mut bytes).expect("not too large");
        assert_eq!(UnitMemory::decode(&bytes).as_ref(), Ok(&memory));
        self.memory = Arc::new(memory);
        let memory = &self.memory;
        self.ended = self.nexuses.iter_mut().map(|nexus| nexus.set_memory(memory)).collect();
    }

    pub(super) fn out(&mut self, number: usize, action: u8, kind: u8, key: u64, new: u64) -> Outcome {
        self.run(number, &[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], &list(key, new, 0))
    }

    pub(super) fn register(&mut self, number: usize, key: u64) {
        assert_eq!(self.out(number, REGISTER_AND_IGNORE, 0, 0, key), GOOD);
    }

    /// PERSISTENT RESERVE IN by somebody who has nothing else to hear.
    pub(super) fn input(&mut self, number: usize, action: u8) -> Vec<u8> {
        let target = &self.targets[number / 4];
        let mut nexus = Nexus::new(target, initiator(9), self.memory.clone());
        nexus.attentions[0] = Default::default();
        let mut cdb = [0; CDB_BYTES];
        (cdb[0], cdb[1], cdb[7], cdb[8]) = (0x5E, action, 0xFF, 0xFF);
        assert_eq!(target.execute(&mut nexus, LUN0, &cdb, &mut self.data_in), GOOD);
        self.data_in.clone()
    }

    /// Data of the last answer.
    pub(super) fn answer(&self) -> Vec<u8> {
        self.data_in.clone()
    }

    pub(super) fn keys(&mut self) -> Vec<u64> {
        let data = self.input(0, 0);
        assert_eq!(data.len() - 8, u32::from_be_bytes([data[4], data[5], data[6], data[7]]) as usize);
        data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().expect("8 bytes"))).collect()
    }

    /// Key and type of the reservation.
    pub(super) fn reservation(&mut self) -> Option<(u64, u8)> {
        let data = self.input(0, 1);
        let key = data.get(8..16)?;
        assert_eq!(data.len(), 24);
        Some((u64::from_be_bytes(key.try_into().expect("8 bytes")), data[21]))
    }

    pub(super) fn generation(&mut self) -> u32 {
        let data = self.input(0, 0);
        u32::from_be_bytes([data[0], data[1], data[2], data[3]])
    }

    /// The unit attention that the initiator hears next.
    pub(super) fn attention(&mut self, number: usize) -> Option<(u8, u8, u8)> {
        assert_eq!(self.run(number, &[0x03, 0, 0, 0, 18, 0], &[]), GOOD);
        let sense = (self.data_in[2], self.data_in[12], self.data_in[13]);
        (sense.0 != 0).then_some(sense)
    }

    fn attentions(&mut self) -> Vec<Option<(u8, u8, u8)>> {
        (0..8).map(|number| self.attention(number)).collect()
    }
}

pub(super) fn list(key: u64, new: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list
}

fn read_of(lba: u8) -> [u8; 10] {
    [0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

fn write_of(lba: u8) -> [u8; 10] {
    [0x2A, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

fn check(outcome: Outcome) -> Option<(u8, u8, u8)> {
    match outcome {
        Outcome::Check(sense) => Some((sense.key as u8, sense.additional.code, sense.additional.qualifier)),
        _ => None,
    }
}

#[test]
fn registering_changing_and_unregistering() {
    let mut c = Cluster::new();
    assert_eq!(c.out(0, REGISTER, 0, 1, 2), CONFLICT, "there is no key to show");
    assert_eq!(c.out(0, REGISTER, 0, 0, 0), GOOD);
    assert_eq!((c.generation(), c.keys()), (0, vec![]));
    assert_eq!(c.out(0, REGISTER, 0, 0, 7), GOOD);
    assert_eq!((c.generation(), c.keys()), (1, vec![7]));
    assert_eq!(c.out(0, REGISTER, 0, 0, 8), CONFLICT);
    assert_eq!(c.out(0, REGISTER, 0, 8, 8), CONFLICT);
    assert_eq!(c.out(0, REGISTER, 0, 7, 8), GOOD);
    assert_eq!(c.out(4, REGISTER, 0, 0, 8), GOOD, "the same initiator at the other port");
    assert_eq!((c.generation(), c.keys()), (3, vec![8, 8]));
    assert_eq!(c.out(0, REGISTER, 0, 8, 0), GOOD);
    assert_eq!(c.out(1, REGISTER_AND_IGNORE, 0, 99, 5), GOOD);
    assert_eq!(c.out(1, REGISTER_AND_IGNORE, 0, 98, 6), GOOD);
    assert_eq!((c.generation(), c.keys()), (6, vec![8, 6]));
    assert_eq!(c.out(1, REGISTER_AND_IGNORE, 0, 97, 0), GOOD);
    assert_eq!(c.out(1, REGISTER_AND_IGNORE, 0, 97, 0), GOOD);
    assert_eq!((c.generation(), c.keys()), (7, vec![8]));
    assert_eq!(c.attentions(), [None; 8], "nobody was robbed");
}

#[test]
fn only_registrants_with_their_key_may_act() {
    let mut c = Cluster::new();
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        assert_eq!(c.out(0, action, 1, 0, 1), CONFLICT, "{action}");
    }
    c.register(0, 5);
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        assert_eq!(c.out(0, action, 1, 4, 5), CONFLICT, "{action}");
        assert_eq!(c.out(1, action, 1, 5, 5), CONFLICT, "{action}");
    }
    assert_eq!((c.generation(), c.keys(), c.reservation()), (1, vec![5], None));
}

#[test]
fn reserving_again_is_good_and_reserving_otherwise_conflicts() {
    for kind in TYPES {
        let mut c = Cluster::new();
        c.register(0, 1);
        c.register(1, 2);
        assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
        let of_all = kind >= 7;
        assert_eq!(c.reservation(), Some((if of_all { 0 } else { 1 }, kind)));
        assert_eq!(c.generation(), 2, "reserving does not count");
        assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
        assert_eq!(c.out(1, RESERVE, kind, 2, 0), if of_all { GOOD } else { CONFLICT });
        for other in TYPES.into_iter().filter(|other| *other != kind) {
            assert_eq!(c.out(0, RESERVE, other, 1, 0), CONFLICT);
            assert_eq!(check(c.out(0, RELEASE, other, 1, 0)), Some((5, 0x26, 4)));
        }
        // Who does not hold it releases nothing.
        assert_eq!(c.out(1, RELEASE, kind, 2, 0), GOOD);
        assert_eq!(c.reservation().is_none(), of_all);
        // Registrants are told where they had been let in; who releases is not.
        assert_eq!((c.attention(0), c.attention(1)), (of_all.then_some(RELEASED), None));
        assert_eq!(c.out(0, RELEASE, kind, 1, 0), GOOD);
        assert_eq!(c.out(0, RELEASE, kind, 1, 0), GOOD, "nothing to release");
        assert_eq!((c.reservation(), c.generation()), (None, 2));
        let told = (kind >= 5 && !of_all).then_some(RELEASED);
        assert_eq!((c.attention(0), c.attention(1)), (None, told));
    }
}

#[test]
fn types_and_scopes_that_do_not_exist() {
    let mut c = Cluster::new();
    c.register(0, 1);
    for action in [RESERVE, RELEASE, PREEMPT, PREEMPT_AND_ABORT] {
        for code in [0, 2, 4, 9, 15, 0x11, 0xF1] {
            let sense = check(c.out(0, action, code, 1, 1));
            assert_eq!(sense, Some(INVALID_FIELD), "{action} {code:#x}");
        }
    }
    // Elsewhere they mean nothing.
    assert_eq!(c.out(0, REGISTER, 0xF2, 1, 2), GOOD);
    assert_eq!(c.out(0, CLEAR, 0x12, 2, 0), GOOD);
}

#[test]
fn parameter_lists_of_the_wrong_length() {
    let mut c = Cluster::new();
    c.register(0, 1);
    let cdb = |action: u8, len: u8| [0x5F, action, 1, 0, 0, 0, 0, 0, len, 0];
    for action in 0..7 {
        for len in [0u8, 1, 8, 23, 25, 28, 64] {
            let bytes = [&list(1, 1, 0)[..], &[0; 64]].concat();
            let sense = check(c.run(0, &cdb(action, len), &bytes[..usize::from(len)]));
            assert_eq!(sense, Some((5, 0x1A, 0)), "{action} {len}");
        }
        // The initiator sends less than it said.
        assert_eq!(check(c.run(0, &cdb(action, 24), &list(1, 1, 0)[..23])), Some((5, 0x1A, 0)));
        // SPEC_I_PT is for REGISTER, and brings more.
        let named = check(c.run(0, &cdb(action, 24), &list(1, 1, 8)));
        assert_eq!(named, Some(if action == REGISTER { (5, 0x1A, 0) } else { (5, 0x26, 0) }), "{action}");
    }
    assert_eq!((c.keys(), c.reservation()), (vec![1], None));
}

#[test]
fn clearing_takes_everything_and_tells_registrants() {
    let mut c = Cluster::new();
    c.register(0, 1);
    c.register(1, 2);
    c.register(5, 3);
    assert_eq!(c.out(0, RESERVE, 6, 1, 0), GOOD);
    assert_eq!(c.out(1, CLEAR, 0, 2, 0), GOOD);
    assert_eq!((c.keys(), c.reservation(), c.generation()), (vec![], None, 4));
    let mut told = [None; 8];
    (told[0], told[5]) = (Some(PREEMPTED), Some(PREEMPTED));
    assert_eq!(c.attentions(), told);
    assert!(c.ended.iter().all(|ended| !ended.tasks));
}

#[test]
fn preempting_the_holder() {
    for (kind, new_kind) in TYPES[..4].iter().flat_map(|kind| TYPES.map(|new| (*kind, new))) {
        for action in [PREEMPT, PREEMPT_AND_ABORT] {
            let mut c = Cluster::new();
            for (number, key) in [(0, 1), (1, 2), (2, 1), (4, 4)] {
                c.register(number, key);
            }
            assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
            assert_eq!(c.out(1, action, new_kind, 2, 1), GOOD);
            assert_eq!(c.keys(), [2, 4]);
            assert_eq!(c.reservation(), Some((if new_kind >= 7 { 0 } else { 2 }, new_kind)));
            assert_eq!(c.generation(), 5);
            let abort = action == PREEMPT_AND_ABORT;
            let ended: Vec<_> = c.ended.iter().map(|ended| (ended.tasks, ended.answered)).collect();
            let robbed = |number| number == 0 || number == 2;
            for (number, ended) in ended.into_iter().enumerate() {
                assert_eq!(ended, (abort && robbed(number), number != 1), "{number}");
            }
            let mut told = [None; 8];
            (told[0], told[2]) = (Some(REGISTRATIONS_PREEMPTED), Some(REGISTRATIONS_PREEMPTED));
            told[4] = (kind != new_kind).then_some(RELEASED);
            assert_eq!(c.attentions(), told, "{kind} to {new_kind}");
        }
    }
}

#[test]
fn preempting_somebody_else_takes_registrations_only() {
    for kind in TYPES {
        let mut c = Cluster::new();
        for (number, key) in [(0, 1), (1, 2), (2, 3), (6, 3)] {
            c.register(number, key);
        }
        assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
        assert_eq!(c.out(1, PREEMPT, 3, 2, 9), CONFLICT, "nobody has the key");
        assert_eq!(c.out(1, PREEMPT, 3, 2, 3), GOOD);
        assert_eq!(c.keys(), [1, 2]);
        assert_eq!(c.reservation(), Some((if kind >= 7 { 0 } else { 1 }, kind)));
        let mut told = [None; 8];
        (told[2], told[6]) = (Some(REGISTRATIONS_PREEMPTED), Some(REGISTRATIONS_PREEMPTED));
        assert_eq!(c.attentions(), told);
        // Key 0 is nobody's, unless all registrants hold the reservation: then it is everybody else's.
        let zero = c.out(1, PREEMPT, 3, 2, 0);
        if kind < 7 {
            assert_eq!(check(zero), Some((5, 0x26, 0)));
        } else {
            assert_eq!((zero, c.keys(), c.reservation()), (GOOD, vec![2], Some((2, 3))));
            assert_eq!(c.attention(0), Some(REGISTRATIONS_PREEMPTED));
        }
    }
}

#[test]
fn a_holder_may_preempt_itself_to_change_the_type() {
    let mut c = Cluster::new();
    c.register(0, 1);
    c.register(1, 2);
    assert_eq!(c.out(0, RESERVE, 1, 1, 0), GOOD);
    assert_eq!(c.out(0, PREEMPT, 8, 1, 1), GOOD);
    assert_eq!((c.keys(), c.reservation()), (vec![1, 2], Some((0, 8))));
    assert_eq!((c.attention(0), c.attention(1)), (None, Some(RELEASED)));
}

#[test]
fn without_a_reservation_preempting_removes_all_with_the_key() {
    let mut c = Cluster::new();
    c.register(0, 1);
    c.register(1, 1);
    assert_eq!(c.out(0, PREEMPT, 1, 1, 1), GOOD);
    assert_eq!((c.keys(), c.reservation()), (vec![], None));
    assert_eq!((c.attention(0), c.attention(1)), (None, Some(REGISTRATIONS_PREEMPTED)));
}

#[test]
fn a_holder_that_unregisters_releases() {
    for kind in TYPES {
        let mut c = Cluster::new();
        c.register(0, 1);
        c.register(1, 2);
        assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
        assert_eq!(c.out(0, REGISTER, 0, 1, 0), GOOD);
        let told = matches!(kind, 5 | 6).then_some(RELEASED);
        assert_eq!((c.keys(), c.attention(1)), (vec![2], told), "{kind}");
        if kind >= 7 {
            assert_eq!(c.reservation(), Some((0, kind)), "others hold it still");
            assert_eq!(c.out(1, REGISTER, 0, 2, 0), GOOD);
        }
        assert_eq!(c.reservation(), None);
    }
}

/// A TransportID as another implementation would write it.
fn transport_id(text: &str) -> Vec<u8> {
    let mut padded = [text.as_bytes(), &[0]].concat();
    padded.resize(padded.len().next_multiple_of(4).max(20), 0);
    let format = if text.contains(",i,") { 0x45 } else { 0x05 };
    [&[format, 0, 0, padded.len() as u8], &padded[..]].concat()
}

fn port_id(number: u8) -> Vec<u8> {
    transport_id(&format!("iqn.a,i,0x80000000000{number}"))
}

fn with_ids(key: u64, new: u64, flags: u8, ids: &[Vec<u8>]) -> Vec<u8> {
    let ids = ids.concat();
    [&list(key, new, 0x08 | flags)[..], &(ids.len() as u32).to_be_bytes(), &ids].concat()
}

fn named(c: &mut Cluster, number: usize, list: &[u8]) -> Outcome {
    c.run(number, &[0x5F, REGISTER, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list)
}

#[test]
fn spec_i_pt_registers_others() {
    let mut c = Cluster::new();
    c.register(2, 9);
    assert_eq!(named(&mut c, 0, &with_ids(0, 1, 0, &[port_id(1), port_id(2), port_id(1)])), GOOD);
    assert_eq!(c.keys(), [9, 1, 1], "whoever has a key keeps it");
    // The name alone is every port of the initiator, and is shown so.
    assert_eq!(named(&mut c, 4, &with_ids(0, 6, 0, &[transport_id("IQN.B")])), GOOD);
    assert_eq!(c.keys(), [9, 1, 1, 6, 6]);
    let full = c.input(0, 3);
    assert!(full.ends_with(&transport_id("iqn.b")));
    // Once registered, only the key can be changed.
    assert_eq!(check(named(&mut c, 0, &with_ids(1, 2, 0, &[port_id(3)]))), Some((5, 0x26, 0)));
    assert_eq!(c.generation(), 3);
}

#[test]
fn all_tg_pt_registers_at_both_ports() {
    let mut c = Cluster::new();
    let all = |list: &[u8]| [0x5F, REGISTER, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    let one = list(0, 7, 0x04);
    assert_eq!(c.run(0, &all(&one), &one), GOOD);
    let two = with_ids(0, 8, 0x04, &[port_id(2)]);
    assert_eq!(c.run(1, &all(&two), &two), GOOD);
    assert_eq!((c.keys(), c.generation()), (vec![7, 7, 8, 8, 8, 8], 2));
    assert_eq!(c.out(4, RESERVE, 3, 7, 0), GOOD, "registered at the peer's port");
    assert_eq!(
        c.run(4, &write_of(0), &[]),
        Outcome::Write { lu: LuIndex(0), range: BlockRange::new(Lba(0), 1), fua: false }
    );
    assert_eq!(c.run(0, &write_of(0), &[]), CONFLICT, "another nexus");
    let none = list(7, 0, 0x04);
    assert_eq!(c.run(0, &all(&none), &none), GOOD);
    assert_eq!((c.keys(), c.reservation()), (vec![8, 8, 8, 8], None));
}

#[test]
fn transport_ids_that_make_no_sense() {
    let good = port_id(1);
    let with = |at: usize, value: u8| {
        let mut id = good.clone();
        id[at] = value;
        id
    };
    let mut bad = vec![
        with(0, 0x46),                           // another protocol
        with(0, 0x85),                           // a reserved format
        with(3, 19),                             // not whole words
        with(3, 16),                             // too short
        with(3, 200),                            // more than there is
        with(4, b'x'),                           // no iSCSI name
        with(5, 0xFF),                           // no UTF-8
        transport_id("iqn.a,i,0x8000000000011"), // thirteen digits
        transport_id("iqn.a,i,0x80000000001"),   // eleven
        transport_id("iqn.a,i,0x80000000000g"),
        transport_id("iqn. a,i,0x800000000001"),
        transport_id(&format!("iqn.{},i,0x800000000001", "a".repeat(220))),
    ];
    let mut endless = good.clone();
    endless[4..].fill(b'i');
    bad.push(endless);
    bad.push(good[..3].to_vec());
    for id in bad {
        let mut c = Cluster::new();
        let list = with_ids(0, 1, 0, &[port_id(2), id.clone()]);
        let cdb = [0x5F, REGISTER, 0, 0, 0, 0, 0, (list.len() >> 8) as u8, list.len() as u8, 0];
        assert_eq!(check(c.run(0, &cdb, &list)), Some((5, 0x26, 0)), "{}", String::from_utf8_lossy(&id));
        assert!(c.keys().is_empty(), "all or none");
    }
    // TRANSPORTID PARAMETER DATA LENGTH.
    for wrong in [0, 4, 23, 29] {
        let mut list = with_ids(0, 1, 0, &[port_id(2)]);
        list[27] = wrong;
        assert_eq!(check(named(&mut Cluster::new(), 0, &list)), Some((5, 0x26, 0)));
    }
}

fn moving(key: u64, new: u64, unregister: bool, port: u8, id: &[u8]) -> Vec<u8> {
    let mut list = [&key.to_be_bytes()[..], &new.to_be_bytes(), &[0; 8], id].concat();
    (list[17], list[19], list[23]) = (if unregister { 2 } else { 0 }, port, id.len() as u8);
    list
}

fn move_to(c: &mut Cluster, number: usize, list: &[u8]) -> Outcome {
    c.run(number, &[0x5F, REGISTER_AND_MOVE, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list)
}

#[test]
fn register_and_move() {
    for kind in TYPES {
        for unregister in [false, true] {
            let mut c = Cluster::new();
            let list = moving(1, 5, unregister, 2, &port_id(3));
            assert_eq!(move_to(&mut c, 0, &list), CONFLICT, "not registered");
            c.register(0, 1);
            c.register(1, 2);
            assert_eq!(move_to(&mut c, 0, &list), CONFLICT, "nothing to move");
            assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
            assert_eq!(move_to(&mut c, 1, &moving(2, 5, false, 2, &port_id(3))), CONFLICT, "not the holder");
            if kind >= 7 {
                assert_eq!(move_to(&mut c, 0, &list), CONFLICT, "all hold it");
                continue;
            }
            assert_eq!(move_to(&mut c, 0, &moving(3, 5, false, 2, &port_id(3))), CONFLICT, "not the key");
            for wrong in [
                moving(1, 0, false, 2, &port_id(3)),
                moving(1, 5, false, 9, &port_id(3)),
                moving(1, 5, false, 1, &port_id(0)),
                moving(1, 5, false, 2, &transport_id("iqn.a")),
                moving(1, 5, false, 2, &[port_id(3), port_id(3)].concat()),
                moving(1, 5, false, 2, &[]),
            ] {
                assert_eq!(check(move_to(&mut c, 0, &wrong)), Some((5, 0x26, 0)));
            }
            assert_eq!(c.generation(), 2);
            assert_eq!(move_to(&mut c, 0, &list), GOOD);
            assert_eq!((c.reservation(), c.generation()), (Some((5, kind)), 3));
            assert_eq!(c.keys(), if unregister { vec![2, 5] } else { vec![1, 2, 5] });
            assert_eq!(c.attentions(), [None; 8]);
            // To one that is registered: its key changes.
            assert_eq!(move_to(&mut c, 7, &moving(5, 6, false, 1, &port_id(1))), GOOD);
            assert_eq!((c.reservation(), c.keys().contains(&2)), (Some((6, kind)), false));
        }
    }
}

#[test]
fn full_status_tells_who_where_and_how() {
    let mut c = Cluster::new();
    c.register(0, 0x0102_0304_0506_0708);
    let all = list(0, 9, 0x04);
    assert_eq!(c.run(5, &[0x5F, REGISTER, 0, 0, 0, 0, 0, 0, 24, 0], &all), GOOD);
    assert_eq!(c.out(5, RESERVE, 5, 9, 0), GOOD);
    let id = |number| port_id(number);
    let one = |key: u64, flags: u8, kind: u8, port: u8, id: Vec<u8>| {
        let fixed = [&key.to_be_bytes()[..], &[0, 0, 0, 0, flags, kind, 0, 0, 0, 0, 0, port]].concat();
        [fixed, vec![0, 0, 0, id.len() as u8], id].concat()
    };
    let all =
        [one(0x0102_0304_0506_0708, 0, 0, 1, id(0)), one(9, 3, 5, 2, id(1)), one(9, 2, 0, 1, id(1))].concat();
    let expected = [&[0, 0, 0, 2, 0, 0, 0, all.len() as u8], &all[..]].concat();
    assert_eq!(c.input(7, 3), expected);
    assert_eq!(expected.len() % 4, 0);
}

#[test]
fn capabilities_say_that_registrations_persist() {
    let mut c = Cluster::new();
    assert_eq!(c.input(3, 2), [0, 8, 0x1D, 0xB1, 0xEA, 0x01, 0, 0]);
    let cut = c.run(3, &[0x5E, 2, 0, 0, 0, 0, 0, 0, 3, 0], &[]);
    assert_eq!((cut, &c.data_in[..]), (GOOD, &[0, 8, 0x1D][..]));
}

/// What a command is stopped by: nothing, RESERVE, exclusive access, write exclusive.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
enum StoppedBy {
    Nothing,
    Reserve,
    ExclusiveAccess,
    WriteExclusive,
}

/// Every command that the unit has.
fn matrix() -> Vec<(Vec<u8>, StoppedBy)> {
    use StoppedBy::*;
    let long = |opcode: u8, second: u8| {
        let mut cdb = vec![opcode, second];
        cdb.resize(16, 0);
        cdb
    };
    let mut rows = vec![
        (long(0x00, 0), Reserve),
        (long(0x03, 0), Nothing),
        (long(0x12, 0), Nothing),
        (long(0x15, 0x10), WriteExclusive),
        (long(0x55, 0x10), WriteExclusive),
        ([0x1A, 0, 0x3F, 0].into(), ExclusiveAccess),
        ([0x5A, 0, 0x3F, 0].into(), ExclusiveAccess),
        (long(0x1D, 4), WriteExclusive),
        ([0x1B, 0, 0, 0, 1].into(), Reserve),
        ([0x1B, 0, 0, 0, 0].into(), WriteExclusive),
        ([0x1B, 0, 0, 0, 0x10].into(), WriteExclusive),
        ([0x1E, 0, 0, 0, 0].into(), Nothing),
        ([0x1E, 0, 0, 0, 1].into(), WriteExclusive),
        (long(0x25, 0), Reserve),
        (long(0x9E, 0x10), Reserve),
        (long(0x9E, 0x12), ExclusiveAccess),
        (long(0xA0, 0), Nothing),
        (long(0xA3, 0x0A), Nothing),
        (long(0xA3, 0x0C), ExclusiveAccess),
        (long(0xA3, 0x0D), ExclusiveAccess),
        (long(0x37, 0), ExclusiveAccess),
        (long(0xB7, 0), ExclusiveAccess),
        (long(0x4D, 0), Nothing),
    ];
    for opcode in [0x08, 0x28, 0x88, 0xA8, 0x2F, 0x8F, 0xAF, 0x34, 0x90] {
        rows.push((long(opcode, 0), ExclusiveAccess));
    }
    for opcode in [0x0A, 0x2A, 0x8A, 0xAA, 0x2E, 0x8E, 0xAE, 0x35, 0x91, 0x41, 0x93, 0x42, 0x89, 0x8B, 0x9C] {
        rows.push((long(opcode, 0), WriteExclusive));
    }
    for (cdb, _) in &mut rows {
        cdb.resize(16, 0);
    }
    rows
}

#[test]
fn the_conflict_matrix() {
    let rows = matrix();
    for kind in TYPES {
        let mut c = Cluster::new();
        c.register(0, 1);
        c.register(1, 2);
        assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
        let excludes_reads = matches!(kind, 3 | 6 | 8);
        let registrants_too = kind >= 5;
        for (cdb, stopped_by) in &rows {
            let stops = if excludes_reads { StoppedBy::ExclusiveAccess } else { StoppedBy::WriteExclusive };
            let stopped = *stopped_by >= stops;
            for (number, free) in [(0, true), (1, registrants_too), (2, false), (4, false)] {
                let outcome = c.run(number, cdb, &[]);
                assert_eq!(outcome == CONFLICT, stopped && !free, "{cdb:02x?} of {number}, type {kind}");
            }
        }
    }
    let mut c = Cluster::new();
    assert_eq!(c.run(0, &[0x16, 0, 0, 0, 0, 0], &[]), GOOD);
    for (cdb, stopped_by) in &rows {
        assert_ne!(c.run(0, cdb, &[]), CONFLICT);
        assert_eq!(c.run(1, cdb, &[]) == CONFLICT, *stopped_by >= StoppedBy::Reserve, "{cdb:02x?}");
    }
}

#[test]
fn the_matrix_has_every_command() {
    let unit = LogicalUnit { provisioning: Provisioning::Thin, ..unit_of(9, BLOCKS) };
    let mut fixture = Fixture::with(vec![(0, unit)]);
    let data = fixture.data(&[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0]);
    let rows = matrix();
    for row in data[4..].chunks(8) {
        let own = [0x16, 0x17, 0x56, 0x57, 0x5E, 0x5F].contains(&row[0]);
        let with_action = row[5] & 1 != 0;
        let there = rows.iter().any(|(cdb, _)| cdb[0] == row[0] && (!with_action || cdb[1] & 0x1F == row[3]));
        assert!(own || there, "{row:02x?}");
    }
}

#[test]
fn reserve_and_release() {
    for (reserve, release) in [(0x16, 0x17), (0x56, 0x57), (0x16, 0x57)] {
        let cdb = |opcode: u8| [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut c = Cluster::new();
        assert_eq!(c.run(0, &cdb(release), &[]), GOOD, "nothing to release");
        assert_eq!(c.run(0, &cdb(reserve), &[]), GOOD);
        assert_eq!(c.run(0, &cdb(reserve), &[]), GOOD);
        assert_eq!(c.run(1, &cdb(reserve), &[]), CONFLICT);
        assert_eq!(c.run(4, &TUR, &[]), CONFLICT);
        assert_eq!(c.run(1, &cdb(release), &[]), GOOD, "but it does nothing");
        assert_eq!(c.run(1, &TUR, &[]), CONFLICT);
        // The two ways do not mix, not even for the holder.
        assert_eq!(c.run(0, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]), CONFLICT);
        assert_eq!(c.out(0, REGISTER, 0, 0, 1), CONFLICT);
        assert_eq!(c.run(0, &cdb(release), &[]), GOOD);
        assert_eq!(c.run(1, &TUR, &[]), GOOD);
        assert_eq!(c.attentions(), [None; 8]);
    }
}

#[test]
fn with_registrations_reserving_is_a_formality() {
    for kind in TYPES {
        let mut c = Cluster::new();
        c.register(0, 1);
        c.register(1, 2);
        for opcode in [0x16, 0x17, 0x56, 0x57] {
            let cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(c.run(0, &cdb, &[]), CONFLICT, "registered, nothing held");
        }
        assert_eq!(c.out(0, RESERVE, kind, 1, 0), GOOD);
        let before = c.memory.clone();
        for opcode in [0x16, 0x17, 0x56, 0x57] {
            let cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(c.run(0, &cdb, &[]), GOOD);
            assert_eq!(c.run(1, &cdb, &[]), if kind >= 5 { GOOD } else { CONFLICT });
            assert_eq!(c.run(2, &cdb, &[]), CONFLICT);
        }
        assert_eq!(c.memory, before);
    }
}

#[test]
fn what_reserve_took_ends_with_resets_and_with_the_nexus() {
    let reserve = [0x16, 0, 0, 0, 0, 0];
    for (kind, ends) in [
        (ResetKind::TaskSet, false),
        (ResetKind::Unit, true),
        (ResetKind::Target, true),
        (ResetKind::TargetAndSessions, true),
    ] {
        let mut c = Cluster::new();
        assert_eq!(c.run(0, &reserve, &[]), GOOD);
        let by = c.nexuses[1].id().clone();
        c.tell(c.memory.after_reset(kind, &by));
        assert_eq!(c.memory.reserved().is_none(), ends);
        let attention = match kind {
            ResetKind::TaskSet => None,
            ResetKind::Unit => Some((6, 0x29, 3)),
            _ => Some((6, 0x29, 2)),
        };
        assert_eq!((c.attention(0), c.attention(1), c.attention(7)), (attention, None, attention));
        let ended: Vec<_> = c.ended.iter().map(|ended| (ended.tasks, ended.session)).collect();
        let all = (true, kind == ResetKind::TargetAndSessions);
        assert_eq!((ended[0], ended[1], ended[7]), (all, (false, false), all));
    }
    let mut c = Cluster::new();
    assert_eq!(c.run(0, &reserve, &[]), GOOD);
    assert!(c.nexuses[0].has_reserved() && !c.nexuses[4].has_reserved());
    c.tell(c.memory.after_nexus_loss(Some(&c.nexuses[0].id().clone())));
    assert_eq!((c.attention(1), c.run(1, &TUR, &[])), (None, GOOD));
    // A node is gone with its nexuses: for those that are left that is a reset.
    assert_eq!(c.run(0, &reserve, &[]), GOOD);
    c.tell(c.memory.after_nexus_loss(None));
    assert_eq!((c.attention(1), c.run(1, &TUR, &[])), (Some(RESET), GOOD));
}

#[test]
fn registrations_survive_resets_and_nexuses() {
    let mut c = Cluster::new();
    c.register(0, 1);
    assert_eq!(c.out(0, RESERVE, 3, 1, 0), GOOD);
    c.tell(c.memory.after_reset(ResetKind::TargetAndSessions, &c.nexuses[1].id().clone()));
    assert_eq!(c.reservation(), Some((1, 3)));
    let again = Nexus::new(&c.targets[0], initiator(0), c.memory.clone());
    assert_eq!(again.standing, Standing::Free);
    let stranger = Nexus::new(&c.targets[0], initiator(1), c.memory.clone());
    assert_eq!(stranger.standing, Standing::ExclusiveAccess);
}

#[test]
fn a_reset_is_heard_before_a_conflict_and_other_news_after_it() {
    let mut c = Cluster::new();
    c.register(0, 1);
    c.register(1, 2);
    assert_eq!(c.out(0, RESERVE, 3, 1, 0), GOOD);
    c.nexuses[1].post_all(UnitAttention::NexusLoss);
    assert_eq!(check(c.run(1, &read_of(0), &[])), Some((6, 0x29, 7)));
    assert_eq!(c.run(1, &read_of(0), &[]), CONFLICT);
    c.nexuses[1].post_all(UnitAttention::ModeParametersChanged);
    assert_eq!(c.run(1, &read_of(0), &[]), CONFLICT);
    assert_eq!(check(c.run(1, &TUR, &[])), Some((6, 0x2A, 1)));
}

#[test]
fn registrations_are_bounded_in_number_and_in_bytes() {
    // Long names fill the bytes, short ones the table.
    for (name, most) in [(220, 120), (1, REGISTRATIONS_MAX)] {
        let target = Target::new(port(), vec![(0, unit_of(9, BLOCKS))]).expect("a good target");
        let mut memory = Arc::new(UnitMemory::default());
        let mut count = 0;
        let full = loop {
            let name = format!("iqn.{count:0name$}", name = name.min(215));
            let initiator = InitiatorPort { name, isid: Some([0; 6]) };
            let nexus = Nexus::new(&target, initiator, memory.clone());
            let mut bytes = Vec::new();
            let cdb = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
            match target.execute_with_data(&nexus, LUN0, &cdb, &list(0, 1, 0), &mut bytes) {
                Outcome::ChangeUnit => {
                    assert!(bytes.len() <= crate::block::UNIT_BYTES_MAX);
                    memory = Arc::new(UnitMemory::decode(&bytes).expect("good bytes"));
                    count += 1;
                }
                outcome => break outcome,
            }
        };
        assert_eq!(check(full), Some((5, 0x55, 4)));
        assert!(count <= most && count > most - 15, "{count}");
    }
}

#[test]
fn damaged_memory_is_an_error() {
    let mut c = Cluster::new();
    c.register(0, 1);
    c.register(5, 2);
    assert_eq!(c.out(0, RESERVE, 3, 1, 0), GOOD);
    let mut bytes = Vec::new();
    c.memory.encode(&mut bytes).expect("small");
    assert_eq!(UnitMemory::decode(&[]), Ok(UnitMemory::default()));
    assert_eq!(UnitMemory::decode(&[2]), Err(BadUnitMemory::Format(2)));
    for len in 1..bytes.len() {
        assert_eq!(UnitMemory::decode(&bytes[..len]), Err(BadUnitMemory::Length), "{len}");
    }
    bytes.push(0);
    assert_eq!(UnitMemory::decode(&bytes), Err(BadUnitMemory::Length));
    bytes.pop();
    // Whatever is changed is refused, or means something that can be written again.
    for at in 0..bytes.len() {
        for value in [0x00, 0x01, 0x02, 0x7F, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            if let Ok(memory) = UnitMemory::decode(&damaged) {
                let mut again = Vec::new();
                memory.encode(&mut again).expect("no longer than before");
                assert_eq!(again, damaged);
            }
        }
    }
    let nobody = NexusId { initiator: InitiatorPort { name: "iqn.a".into(), isid: None }, port: 1 };
    assert!(nobody.covers(c.nexuses[0].id()) && !c.nexuses[0].id().covers(&nobody));
    assert_eq!(OutAction::RegisterAndMove as u8, REGISTER_AND_MOVE);
}
