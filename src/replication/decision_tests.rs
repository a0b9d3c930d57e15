//! The handshake's table, row by row, and its mirror property over random pairs.

use proptest::prelude::*;

use super::*;
use crate::arbitration::{Epoch, NodeSet, Record};
use crate::storage::{DiskFlags, Generations};
use crate::units::Geometry;

fn state(node: u8, generations: Generations) -> PeerState {
    PeerState {
        node: NodeId(node),
        geometry: Geometry { block_shift: 9, blocks: 1 << 20, lanes: 4 },
        generations,
        record: Record { epoch: Epoch(4), primary: Some(NodeId(0)), in_sync: NodeSet::BOTH, nonce: 1 },
        flags: DiskFlags::default(),
        primary: false,
        dirty_blocks: 0,
        suspect: false,
        discard: false,
    }
}

fn pair() -> (PeerState, PeerState) {
    (state(0, Generations::new(7)), state(1, Generations::new(7)))
}

#[test]
fn equal_and_clean_is_idle() {
    let (a, b) = pair();
    assert_eq!(decide(&a, &b), Ok(Relation::Idle));
}

#[test]
fn equal_generations_do_not_drop_bits() {
    let (mut a, b) = pair();
    a.dirty_blocks = 1;
    assert_eq!(decide(&a, &b), Ok(Relation::Follow(Copy::Bitmap)), "the survivor is the source");
    a.primary = true;
    assert_eq!(decide(&a, &b), Ok(Relation::Lead(Copy::Bitmap)), "whoever serves is the source");
}

#[test]
fn the_one_that_went_on_leads() {
    let (mut a, b) = pair();
    a.generations.go_alone(8);
    assert_eq!(decide(&a, &b), Ok(Relation::Lead(Copy::Bitmap)));
    assert_eq!(decide(&b, &a), Ok(Relation::Follow(Copy::Bitmap)));
    a.generations.back_in_sync();
    assert_eq!(
        decide(&a, &b),
        Ok(Relation::Lead(Copy::Everything)),
        "the bitmap no longer counts from b's data"
    );
}

#[test]
fn a_replaced_disk_is_copied_whole() {
    let (mut a, mut b) = pair();
    a.generations.go_alone(8);
    b.record = Record::default();
    assert_eq!(
        decide(&a, &b),
        Ok(Relation::Lead(Copy::Everything)),
        "formatted as equal, but the pair went on"
    );
    assert_eq!(decide(&b, &a), Ok(Relation::Follow(Copy::Everything)));
    a.generations = Generations::new(7);
    assert_eq!(decide(&a, &b), Ok(Relation::Lead(Copy::Everything)), "even if no one ever served alone");
}

#[test]
fn both_went_on_is_split_brain() {
    let (mut a, mut b) = pair();
    a.generations.go_alone(8);
    b.generations.go_alone(9);
    assert_eq!(decide(&a, &b), Err(Discord::SplitBrain));
    b.discard = true;
    assert_eq!(decide(&a, &b), Ok(Relation::Lead(Copy::Everything)));
    assert_eq!(decide(&b, &a), Ok(Relation::Follow(Copy::Everything)));
}

#[test]
fn crossed_generations_are_split_brain_from_both_sides() {
    let (mut a, mut b) = pair();
    a.generations = Generations { base: 1, ..Generations::new(2) };
    b.generations = Generations { base: 2, ..Generations::new(1) };
    a.flags = DiskFlags { sync_target: true, ..DiskFlags::default() };
    assert_eq!(decide(&a, &b), Err(Discord::SplitBrain));
    assert_eq!(decide(&b, &a), Err(Discord::SplitBrain));
}

#[test]
fn strangers_do_not_mix() {
    let (a, b) = (state(0, Generations::new(1)), state(1, Generations::new(2)));
    assert_eq!(decide(&a, &b), Err(Discord::Unrelated));
}

#[test]
fn a_replaced_primary_stops() {
    let (mut a, mut b) = pair();
    a.primary = true;
    b.generations.go_alone(9);
    assert_eq!(decide(&a, &b), Err(Discord::Superseded));
    b.primary = true;
    b.record.epoch = Epoch(5);
    assert_eq!(decide(&a, &b), Err(Discord::Superseded));
    assert_eq!(decide(&b, &a), Err(Discord::PeerSuperseded));
}

#[test]
fn a_lost_cache_never_wins() {
    let (mut a, b) = pair();
    a.suspect = true;
    assert_eq!(decide(&a, &b), Ok(Relation::Follow(Copy::Bitmap)));
}

fn generations() -> impl Strategy<Value = Generations> {
    (1..5u64, 0..5u64, prop::array::uniform8(0..5u64)).prop_map(|(current, base, history)| Generations {
        current,
        base,
        history,
    })
}

fn any_state(node: u8) -> impl Strategy<Value = PeerState> {
    (generations(), 0..8u32, any::<[bool; 3]>(), 0..3u64, 1..3u64, 0..4u8, 0..3u8).prop_map(
        move |(generations, flags, [primary, suspect, discard], dirty, epoch, in_sync, leader)| {
            let mut state = state(node, generations);
            state.flags = DiskFlags::from_bits(flags).expect("known flags");
            state.primary = primary;
            state.suspect = suspect;
            state.discard = discard;
            state.dirty_blocks = dirty;
            state.record.epoch = Epoch(epoch);
            state.record.in_sync = NodeSet::from_bits(in_sync).expect("a set of two nodes");
            state.record.primary = (leader < 2).then_some(NodeId(leader));
            state
        },
    )
}

proptest! {
    #[test]
    fn the_two_sides_mirror_each_other(mut a in any_state(0), mut b in any_state(1)) {
        // Records of one epoch are one record.
        if a.record.epoch == b.record.epoch {
            b.record = a.record;
        }
        if a.primary && a.flags.sync_target { a.primary = false; }
        if b.primary && b.flags.sync_target { b.primary = false; }
        let mirrored = match decide(&a, &b) {
            Ok(Relation::Idle) => Ok(Relation::Idle),
            Ok(Relation::Lead(copy)) => Ok(Relation::Follow(copy)),
            Ok(Relation::Follow(copy)) => Ok(Relation::Lead(copy)),
            Err(Discord::Superseded) => Err(Discord::PeerSuperseded),
            Err(Discord::PeerSuperseded) => Err(Discord::Superseded),
            Err(other) => Err(other),
        };
        prop_assert_eq!(decide(&b, &a), mirrored);
    }
}
