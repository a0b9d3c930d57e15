//! A peer that proved who it is and then says anything at all, at any moment: no word of it may end this node.

use std::sync::Arc;

use crate::arbitration::{Epoch, NodeSet, Record};
use crate::block::{UnitState, UnitVersion};
use crate::replication::control::{ByeReason, Control, Copy, ForwardedChange, PeerState};
use crate::replication::frame::{FrameHeader, FrameKind, FrameStatus};
use crate::storage::{DiskFlags, GENERATION_HISTORY, Generations};
use crate::time::Duration;
use crate::units::{Geometry, LaneId, Lba, NodeId};
use crate::volume::operator::OperatorCommand;

use super::pair::Pair;
use super::{A, B, X, Y, serving};

/// Xorshift: the same words for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: core::marker::Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number that code has opinions about.
    fn number(&mut self, near: u64) -> u64 {
        let small = self.below(4);
        self.pick(&[
            0,
            1,
            small,
            near,
            near.wrapping_add(1),
            near.wrapping_sub(1),
            1 << 62,
            u64::MAX >> 1,
            u64::MAX,
        ])
    }
}

fn record(dice: &mut Dice, near: &Record) -> Record {
    Record {
        epoch: Epoch(dice.number(near.epoch.0)),
        primary: dice.pick(&[None, Some(NodeId(0)), Some(NodeId(1)), near.primary]),
        in_sync: dice.pick(&[
            NodeSet::NONE,
            NodeSet::BOTH,
            NodeSet::only(NodeId(0)),
            NodeSet::only(NodeId(1)),
        ]),
        nonce: dice.number(near.nonce),
    }
}

fn generations(dice: &mut Dice, near: &Generations) -> Generations {
    let mut history = [0; GENERATION_HISTORY];
    history[0] = dice.pick(&[0, near.current, near.base]);
    let (current, base) = (dice.number(near.current), dice.pick(&[0, near.current, near.base]));
    Generations { current, base, history }
}

fn state(dice: &mut Dice, pair: &Pair) -> PeerState {
    let mine = pair.coordinator(A).superblock();
    let geometry = mine.layout.geometry;
    PeerState {
        node: NodeId(dice.below(2) as u8),
        geometry: dice.pick(&[geometry, geometry, Geometry { block_shift: 9, ..geometry }]),
        generations: generations(dice, &mine.generations),
        record: record(dice, &mine.record),
        flags: DiskFlags { sync_target: dice.coin(), full_sync: dice.coin(), ..DiskFlags::default() },
        primary: dice.coin(),
        dirty_blocks: dice.number(7),
        suspect: dice.coin(),
        discard: dice.coin(),
    }
}

fn control(dice: &mut Dice, pair: &Pair) -> Option<Control> {
    let mine = pair.coordinator(A).superblock();
    let (mine_record, mine_generations) = (mine.record, mine.generations);
    let copy = dice.pick(&[Copy::Nothing, Copy::Bitmap, Copy::Everything]);
    let unit = pair.coordinator(A).unit().version.0;
    let version = UnitVersion(dice.number(unit));
    let bytes: Arc<[u8]> = [dice.below(4) as u8].into();
    let message = match dice.below(14) {
        0 => Control::State(state(dice, pair)),
        1 => {
            let epoch = Epoch(dice.number(mine_record.epoch.0));
            let unit = dice.coin().then_some(UnitState { version, bytes });
            Control::Lead { epoch, record: record(dice, &mine_record), copy, unit }
        }
        2 => Control::Following,
        3 => Control::SyncDone { generations: generations(dice, &mine_generations) },
        4 => Control::SyncDoneAck,
        5 => Control::Commit { record: record(dice, &mine_record), idle: dice.coin() },
        6 => Control::Handover { record: record(dice, &mine_record) },
        7 => Control::Ping,
        8 => Control::Unit(UnitState { version, bytes }),
        9 => Control::UnitAdopted { version },
        10 | 11 => Control::UnitChange { number: dice.number(1), base: version, bytes },
        12 => {
            let outcome =
                dice.pick(&[ForwardedChange::Done, ForwardedChange::Stale, ForwardedChange::Refused]);
            Control::UnitChanged { number: dice.number(1), outcome }
        }
        _ => Control::Bye { reason: ByeReason::Stopping },
    };
    // What cannot be decoded never comes this far.
    Control::decode(&message.encode()).ok()
}

fn frame(dice: &mut Dice, pair: &Pair) -> (FrameHeader, Option<Vec<u8>>) {
    use FrameKind::{Bitmap, Confirm, ConfirmAck, Flush, FlushAck, ResyncAck, ResyncData, Write, WriteAck};
    let kind = dice
        .pick(&[Write, WriteAck, Flush, Flush, FlushAck, Confirm, ConfirmAck, ResyncData, ResyncAck, Bitmap]);
    let epoch = pair.coordinator(A).posture().epoch.0;
    let mut header =
        FrameHeader::new(kind, LaneId(dice.pick(&[0, 1, 3, 4, u16::MAX])), Epoch(dice.number(epoch)));
    header.flags = dice.below(4) as u16;
    header.status =
        dice.pick(&[FrameStatus::Good, FrameStatus::Good, FrameStatus::DeviceError, FrameStatus::Refused]);
    header.sequence = dice.number(1 << 24);
    header.lba = Lba(dice.pick(&[X, Y, 0, 4095, 4096, u64::MAX, u64::MAX - 1]));
    header.blocks = dice.pick(&[0, 1, 1, 1, 2, u32::MAX]);
    header.value = dice.number(2);
    let payload = match kind {
        Write | ResyncData => {
            header.payload_len = 4096;
            Some(vec![200])
        }
        Bitmap => {
            let runs: Vec<u8> = (0..dice.below(3) * 8).map(|_| dice.pick(&[0, 1, 0xFF])).collect();
            header.payload_len = runs.len() as u32;
            Some(runs)
        }
        _ => None,
    };
    (header, payload)
}

/// Node 1 is the hostile one's mask: what it says in earnest is mixed with what it never said.
#[test]
fn a_hostile_peer_ends_nothing() {
    let mut met = 0;
    for seed in 1..400 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let mut pair = serving(dice.pick(&[[1, 1], [1, 2], [2, 1]]));
        if dice.coin() {
            assert_eq!(pair.command(A, OperatorCommand::Switchover), Ok(()));
        }
        for _ in 0..12 {
            for _ in 0..dice.below(40) {
                pair.step();
            }
            if !pair.has_session() {
                continue;
            }
            met += 1;
            if dice.coin() {
                let Some(message) = control(&mut dice, &pair) else { continue };
                pair.forge_control(A, message);
            } else {
                let (header, payload) = frame(&mut dice, &pair);
                pair.forge_frame(A, header, payload);
            }
            let leader = if pair.is_primary(B) { B } else { A };
            if dice.coin() {
                pair.begin_write(leader, X, 1, false);
                pair.begin_flush(leader);
                pair.begin_change(A, 0, &[9]);
            }
        }
        for _ in 0..3_000 {
            pair.step();
        }
        pair.pass_a_moment(Duration::from_millis(300));
    }
    assert!(met > 1_000, "the peer had its say {met} times only");
}

/// Flushes carry no data, so nothing but this refusal bounds how many a node has in hand.
#[test]
fn a_second_flush_on_a_link_breaks_the_protocol() {
    let mut pair = serving([1, 1]);
    assert_eq!(pair.command(A, OperatorCommand::Switchover), Ok(()));
    pair.nodes[A].disk.held = true;
    pair.unplugged = true;
    let epoch = pair.coordinator(A).posture().epoch;
    for value in 0..2 {
        assert!(pair.has_session());
        let mut header = FrameHeader::new(FrameKind::Flush, LaneId(0), epoch);
        header.value = value;
        pair.forge_frame(A, header, None);
        for _ in 0..200 {
            pair.step();
        }
    }
    assert!(!pair.has_session(), "the session is dropped");
}
