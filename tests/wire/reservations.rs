//! Persistent reservations as clusters use them: several initiators, on every shard, and a target that starts again.

use super::Target;
use super::client::{F, NO_TAG, R, W, Wire, cdb10};
use super::support::initiator::pattern;

const GOOD: (u8, Option<(u8, u8, u8)>) = (0, None);
const CONFLICT: (u8, Option<(u8, u8, u8)>) = (0x18, None);

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
/// Write exclusive, registrants only: what Windows clusters reserve.
const REGISTRANTS_ONLY: u8 = 5;

/// A node of a cluster: its session, unit attention heard.
fn host(target: &Target, number: u8) -> Wire {
    let mut wire = Wire::connect(target.address);
    wire.initiator = format!("iqn.1991-05.com.microsoft:node{number}");
    wire.enter("MaxRecvDataSegmentLength=65536 ImmediateData=Yes InitialR2T=Yes");
    wire.hear_attention();
    wire
}

fn out(wire: &mut Wire, action: u8, kind: u8, key: u64, new: u64) -> (u8, Option<(u8, u8, u8)>) {
    let list = [key.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat();
    wire.command(1, W, 24, &[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], &list).status()
}

/// PRGENERATION and the keys.
fn keys(wire: &mut Wire) -> (u32, Vec<u64>) {
    let data = wire.fetch(8192, &[0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0, 0]);
    let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(word(4) as usize, data.len() - 8);
    let keys = data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().expect("eight bytes")));
    (word(0), keys.collect())
}

/// Key and type of the reservation.
fn held(wire: &mut Wire) -> Option<(u64, u8)> {
    let data = wire.fetch(64, &[0x5E, 1, 0, 0, 0, 0, 0, 0, 64, 0]);
    let key = data.get(8..16)?;
    Some((u64::from_be_bytes(key.try_into().expect("eight bytes")), data[21]))
}

fn attention(wire: &mut Wire) -> (u8, Option<(u8, u8, u8)>) {
    wire.command(2, F, 0, &[0; 6], &[]).status()
}

/// As a Windows failover cluster goes about it: everybody registers, one reserves and looks at the keys from time to time,
/// the others write to the shared volume; the owner is lost, another one takes its place, and it comes back.
#[test]
fn a_failover_cluster_takes_and_keeps_its_disk() {
    let target = Target::new(2);
    let (mut one, mut two, mut three) = (host(&target, 1), host(&target, 2), host(&target, 3));
    let mut outsider = host(&target, 9);
    for (number, wire) in [&mut one, &mut two, &mut three].into_iter().enumerate() {
        assert_eq!(out(wire, REGISTER_AND_IGNORE, 0, 0, number as u64 + 1), GOOD);
    }
    assert_eq!(out(&mut one, RESERVE, REGISTRANTS_ONLY, 1, 0), GOOD);
    assert_eq!(out(&mut two, RESERVE, REGISTRANTS_ONLY, 2, 0), CONFLICT);
    let data = pattern(3, 8192);
    for wire in [&mut one, &mut two, &mut three] {
        assert_eq!(keys(wire), (3, vec![1, 2, 3]));
        assert_eq!(held(wire), Some((1, REGISTRANTS_ONLY)));
        assert_eq!(wire.write(64, &data, 8192).status(), GOOD);
    }
    assert_eq!(outsider.write(64, &data, 8192).status(), CONFLICT);
    assert!(outsider.read(64, 8192) == data, "reading is allowed");
    assert_eq!(out(&mut outsider, PREEMPT, REGISTRANTS_ONLY, 0, 1), CONFLICT);
    assert_eq!(outsider.command(1, F, 0, &[0x16, 0, 0, 0, 0, 0], &[]).status(), CONFLICT);

    // The owner is gone without a word; its registration and its reservation are not.
    drop(one);
    assert_eq!((keys(&mut two), held(&mut two)), ((3, vec![1, 2, 3]), Some((1, REGISTRANTS_ONLY))));
    assert_eq!(out(&mut two, PREEMPT, REGISTRANTS_ONLY, 2, 1), GOOD);
    assert_eq!((keys(&mut two), held(&mut two)), ((4, vec![2, 3]), Some((2, REGISTRANTS_ONLY))));
    assert_eq!(attention(&mut three), GOOD, "the type is the same");
    assert_eq!(three.write(64, &data, 8192).status(), GOOD);

    // It comes back and finds that it is not in any more, until it registers.
    let mut one = host(&target, 1);
    assert_eq!(one.write(64, &data, 8192).status(), CONFLICT);
    assert_eq!(out(&mut one, RESERVE, REGISTRANTS_ONLY, 1, 0), CONFLICT);
    assert_eq!(out(&mut one, REGISTER_AND_IGNORE, 0, 0, 1), GOOD);
    assert_eq!(one.write(64, &data, 8192).status(), GOOD);
    assert_eq!(out(&mut two, RELEASE, REGISTRANTS_ONLY, 2, 0), GOOD);
    assert_eq!(attention(&mut one), (2, Some((6, 0x2A, 4))));
    assert_eq!(attention(&mut three), (2, Some((6, 0x2A, 4))));
    assert_eq!(out(&mut three, CLEAR, 0, 3, 0), GOOD);
    assert_eq!(attention(&mut one), (2, Some((6, 0x2A, 3))));
    assert_eq!((keys(&mut three), held(&mut three)), ((6, vec![]), None));
    assert_eq!(outsider.write(64, &data, 8192).status(), GOOD);
    target.stop();
}

/// Everybody on every shard is preempted by one, again and again: nothing of theirs is written afterwards.
#[test]
fn preempt_and_abort_reaches_every_shard() {
    let target = Target::new(3);
    let mut owner = host(&target, 0);
    let mut others: Vec<_> = (1..7).map(|number| host(&target, number)).collect();
    let data = pattern(1, 65_536);
    assert_eq!(out(&mut owner, REGISTER_AND_IGNORE, 0, 0, 99), GOOD);
    for round in 0..4 {
        for wire in &mut others {
            assert_eq!(out(wire, REGISTER_AND_IGNORE, 0, 0, 7), GOOD);
        }
        for (number, wire) in others.iter_mut().enumerate() {
            wire.send_command(5, W, 65_536, &cdb10(0x2A, number as u32 * 128, 65_536), &data[..8192]);
            assert_eq!(wire.receive().opcode(), 0x31);
        }
        assert_eq!(out(&mut owner, PREEMPT_AND_ABORT, 3, 99, 7), GOOD);
        assert_eq!(out(&mut owner, RESERVE, 3, 99, 0), GOOD);
        for wire in &mut others {
            let aborted = wire.receive();
            assert_eq!((aborted.itt(), aborted.status()), (5, (0x40, None)), "round {round}");
            let read = wire.command(6, R, 512, &cdb10(0x28, 0, 512), &[]).status();
            assert_eq!(read, CONFLICT, "before news that is no reset");
            assert_eq!(attention(wire), (2, Some((6, 0x2A, 5))));
            assert_eq!(attention(wire), GOOD, "TEST UNIT READY gets through");
        }
        assert_eq!(out(&mut owner, RELEASE, 3, 99, 0), GOOD);
    }
    target.stop();
}

/// Changes by everybody at once: each is made exactly once, whoever is too late tries again.
#[test]
fn registrations_at_the_same_time() {
    let target = Target::new(3);
    let mut wires: Vec<_> = (0..9).map(|number| host(&target, number)).collect();
    let list = |new: u64| [[0; 8], new.to_be_bytes(), [0; 8]].concat();
    for round in 1..6u64 {
        for (number, wire) in wires.iter_mut().enumerate() {
            let new = (round << 8) | (number as u64 + 1);
            wire.send_command(1, W, 24, &[0x5F, REGISTER_AND_IGNORE, 0, 0, 0, 0, 0, 0, 24, 0], &list(new));
        }
        for wire in &mut wires {
            assert_eq!(wire.receive().status(), GOOD);
        }
        let (generation, mut found) = keys(&mut wires[0]);
        found.sort_unstable();
        let expected: Vec<u64> = (1..=9).map(|number| (round << 8) | number).collect();
        assert_eq!((generation, found), (round as u32 * 9, expected));
    }
    target.stop();
}

#[test]
fn what_reserve_took_ends_with_the_session_and_with_resets() {
    let target = Target::new(2);
    let mut two = host(&target, 2);
    let reserve = [0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for how in 0..3 {
        let mut one = host(&target, 1);
        assert_eq!(one.command(1, F, 0, &reserve, &[]).status(), GOOD);
        assert_eq!(two.command(1, F, 0, &[0; 6], &[]).status(), CONFLICT);
        let mode = two.command(1, R, 255, &[0x1A, 0, 0x3F, 0, 255, 0], &[]).status();
        assert_eq!((mode, two.fetch(36, &[0x12, 0, 0, 0, 36, 0]).len()), (CONFLICT, 36));
        match how {
            0 => one.log_out(),
            1 => drop(one),
            _ => {
                two.manage(5, 0, 9, NO_TAG);
                assert_eq!(two.receive().bhs[2], 0);
                assert_eq!(two.command(1, F, 0, &[0; 6], &[]).status(), (2, Some((6, 0x29, 3))));
                assert_eq!(one.command(1, F, 0, &[0; 6], &[]).status(), (2, Some((6, 0x29, 3))));
            }
        }
        // The session ends a moment after the connection does.
        let mut answer = two.command(1, F, 0, &[0; 6], &[]).status();
        while answer == CONFLICT && how < 2 {
            answer = two.command(1, F, 0, &[0; 6], &[]).status();
        }
        assert_eq!(answer, GOOD);
    }
    target.stop();
}

#[test]
fn reservations_and_saved_modes_outlive_the_target() {
    let mut target = Target::new(2);
    let mut one = host(&target, 1);
    assert_eq!(out(&mut one, REGISTER, 0, 0, 5), GOOD);
    assert_eq!(out(&mut one, RESERVE, 3, 5, 0), GOOD);
    // WCE cleared and saved.
    let mut list = [0; 24];
    (list[4], list[5]) = (0x08, 18);
    assert_eq!(one.command(1, W, 24, &[0x15, 0x11, 0, 0, 24, 0], &list).status(), GOOD);
    for shards in [1, 3] {
        target = target.restart(shards);
        let (mut one, mut two) = (host(&target, 1), host(&target, 2));
        assert_eq!((keys(&mut two), held(&mut two)), ((1, vec![5]), Some((5, 3))));
        assert_eq!(two.command(1, R, 512, &cdb10(0x28, 0, 512), &[]).status(), CONFLICT);
        assert_eq!(one.read(0, 512).len(), 512);
        assert_eq!(one.fetch(255, &[0x1A, 8, 0xC8, 0, 255, 0])[6], 0);
        assert_eq!(one.fetch(255, &[0x1A, 8, 0x08, 0, 255, 0])[6], 0);
    }
    target.stop();
}

#[test]
fn mode_parameters_are_everybodys() {
    let target = Target::new(2);
    let (mut one, mut two) = (host(&target, 1), host(&target, 2));
    let control =
        |sense: u8, protect: u8| [0, 0, 0, 0, 0x0A, 10, sense, 0x10, protect, 0x40, 0, 0, 0xFF, 0xFF, 0, 0];
    let select = [0x15, 0x10, 0, 0, 16, 0];
    assert_eq!(one.command(1, W, 16, &select, &control(4, 8)).status(), GOOD);
    let changed = two.command(2, F, 0, &[0; 6], &[]);
    assert_eq!((changed.bhs[3], &changed.data[..6]), (2, &[0, 8, 0x72, 6, 0x2A, 1][..]));
    let refused = two.write(0, &[1; 512], 512);
    assert_eq!(refused.data[2..6], [0x72, 7, 0x27, 2]);
    assert_eq!(two.fetch(4, &[0x1A, 8, 0x0A, 0, 4, 0])[2], 0x90);
    assert_eq!(two.command(1, W, 16, &select, &control(0, 0)).status(), GOOD);
    assert_eq!(two.write(0, &[1; 512], 512).status(), GOOD);
    target.stop();
}
