//! Tests of the room through its one door, [`Target::execute`].

use std::sync::Arc;

use super::*;
use crate::units::{BlockRange, Geometry, Lba};

mod access;
mod decoding;
mod health;
mod modes;
mod parameters;
mod reservation_model;
mod reservations;
mod routing;
mod sense;

/// LUN 0 in peripheral addressing.
const LUN0: [u8; 8] = [0; 8];
/// Blocks of the test volume: 1 GiB of 512-byte blocks.
const BLOCKS: u64 = 1 << 21;

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}

fn identity() -> DeviceIdentity {
    DeviceIdentity {
        vendor: padded("TWINLUN"),
        product: padded("VIRTUAL-DISK"),
        revision: padded("0001"),
        serial: "00c0ffee0badcafe".into(),
        naa: [0x60, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    }
}

fn unit_of(block_shift: u8, blocks: u64) -> LogicalUnit {
    let geometry = Geometry { block_shift, blocks, lanes: 16 };
    LogicalUnit::new(identity(), geometry, 12, true).expect("the identity is valid")
}

fn port() -> TargetPort {
    TargetPort {
        target_name: "iqn.2026-11.example:vol1".into(),
        portal_group_tag: 1,
        relative_id: 2,
        target_port_group: 3,
        peer: None,
    }
}

/// A port of the initiator `iqn.a`.
fn initiator(number: u8) -> InitiatorPort {
    InitiatorPort { name: "iqn.a".into(), isid: Some([0x80, 0, 0, 0, 0, number]) }
}

fn new_nexus(target: &Target) -> Nexus {
    Nexus::new(target, initiator(1), Arc::default())
}

/// A target and a nexus whose first unit attention has been heard.
struct Fixture {
    target: Target,
    nexus: Nexus,
    data_in: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(vec![(0, unit_of(9, BLOCKS))])
    }

    fn with(units: Vec<(u16, LogicalUnit)>) -> Self {
        let target = Target::new(port(), units).expect("the LUN map is valid");
        let mut fixture = Self { nexus: new_nexus(&target), target, data_in: Vec::new() };
        fixture.forget_attentions();
        fixture
    }

    fn forget_attentions(&mut self) {
        for number in 0..=u8::MAX {
            let lun = [0, number, 0, 0, 0, 0, 0, 0];
            while self.target.find(lun).is_some() && self.at(lun, &[0; 6]) != Outcome::Done {}
        }
    }

    fn at(&mut self, lun: [u8; 8], cdb: &[u8]) -> Outcome {
        let mut bytes = [0; CDB_BYTES];
        bytes[..cdb.len()].copy_from_slice(cdb);
        self.target.execute(&mut self.nexus, lun, &bytes, &mut self.data_in)
    }

    fn run(&mut self, cdb: &[u8]) -> Outcome {
        self.at(LUN0, cdb)
    }

    /// Runs a command that must end with GOOD and returns its data.
    fn data(&mut self, cdb: &[u8]) -> Vec<u8> {
        assert_eq!(self.run(cdb), Outcome::Done, "{cdb:02x?}");
        self.data_in.clone()
    }

    /// Runs a command that must be refused and returns (key, ASC, ASCQ).
    #[track_caller]
    fn refused(&mut self, cdb: &[u8]) -> (u8, u8, u8) {
        triple(self.run(cdb))
    }
}

#[track_caller]
fn triple(outcome: Outcome) -> (u8, u8, u8) {
    match outcome {
        Outcome::Check(sense) => (sense.key as u8, sense.additional.code, sense.additional.qualifier),
        other => panic!("expected CHECK CONDITION, got {other:?}"),
    }
}

const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);
const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const NO_LOGICAL_UNIT: (u8, u8, u8) = (5, 0x25, 0);
const INVALID_OPCODE: (u8, u8, u8) = (5, 0x20, 0);
const RESET: (u8, u8, u8) = (6, 0x29, 0);
