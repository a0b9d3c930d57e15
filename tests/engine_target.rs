//! The engine as a single node: real io_uring, a real file under direct I/O, real TCP, and a small initiator.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;

use support::initiator::{Initiator, cdb, pattern};
use support::{Disk, PATIENCE};
use twinlun::engine::{Engine, EngineEvent, Tuning};

fn start(disk: &Disk, shards: u8, tuning: Tuning) -> (Engine, SocketAddr) {
    let engine = Engine::start(disk.plan(shards, None, tuning)).expect("the engine starts");
    loop {
        let event = engine.events().recv_timeout(PATIENCE).expect("the engine says what it does");
        if let EngineEvent::Serving { addresses } = event {
            return (engine, addresses[0]);
        }
    }
}

#[test]
fn what_is_written_is_read_back_on_any_number_of_shards_and_after_a_restart() {
    let disk = Disk::new(64 << 20);
    disk.format(0, false);
    // Small, crossing a chunk, crossing an extent, the largest.
    let writes = [(0u64, 512usize), (7, 4096), (100, 65536 + 512), (8192 - 3, 8192), (20000, 1 << 20)];
    for (round, (shards, pin)) in [(1u8, true), (2, false), (5, true), (3, false)].into_iter().enumerate() {
        let plain_ring = shards == 3;
        let tuning = Tuning { pin_buffers: pin, plain_ring, ..Tuning::default() };
        let (engine, address) = start(&disk, shards, tuning);
        let mut initiators: Vec<_> = (0..3).map(|isid| Initiator::login(address, isid)).collect();
        for initiator in &mut initiators {
            initiator.ready();
        }
        if round > 0 {
            for (lba, len) in writes {
                assert!(initiators[0].read(lba, len) == pattern(lba + round as u64 - 1, len), "lba {lba}");
            }
        }
        for (number, (lba, len)) in writes.into_iter().enumerate() {
            initiators[number % 3].write(lba, &pattern(lba + round as u64, len));
        }
        for (lba, len) in writes {
            for initiator in &mut initiators {
                assert!(initiator.read(lba, len) == pattern(lba + round as u64, len), "lba {lba}");
            }
        }
        // SYNCHRONIZE CACHE(16)
        assert_eq!(initiators[1].run(&cdb(0x91, 0, 0), &[], 0).0, 0);
        engine.stop();
    }
}

#[test]
fn the_same_initiator_port_replaces_its_older_session() {
    let disk = Disk::new(32 << 20);
    disk.format(0, false);
    for shards in [1, 3] {
        let (engine, address) = start(&disk, shards, Tuning::default());
        let mut first = Initiator::login(address, 1);
        first.ready();
        let mut other = Initiator::login(address, 2);
        other.ready();
        let mut second = Initiator::login(address, 1);
        second.ready();
        let mut byte = [0];
        assert!(matches!(first.stream.read(&mut byte), Ok(0) | Err(_)), "the older session is closed");
        other.write(0, &pattern(1, 4096));
        assert!(second.read(0, 4096) == pattern(1, 4096));
        engine.stop();
    }
}

#[test]
fn connections_that_break_off_anywhere_leave_the_engine_whole() {
    let disk = Disk::new(32 << 20);
    disk.format(0, false);
    let (engine, address) = start(&disk, 2, Tuning::default());
    for round in 0..40u64 {
        let mut initiator = Initiator::login(address, round as u8);
        initiator.ready();
        initiator.write(round * 8, &pattern(round, 4096));
        // Announces 64 KiB, sends a part of the first 8 KiB, and is gone.
        let mut header = [0; 48];
        header[0] = 0x01;
        header[1] = 0xA0;
        header[16..20].copy_from_slice(&[0, 0, 9, 9]);
        header[20..24].copy_from_slice(&65536u32.to_be_bytes());
        header[24..28].copy_from_slice(&initiator.cmd_sn.to_be_bytes());
        header[32..48].copy_from_slice(&cdb(0x8A, 4096, 65536));
        header[5..8].copy_from_slice(&[0, 0x20, 0]);
        let mut bytes = header.to_vec();
        bytes.resize(48 + (round as usize * 211), 0xEE);
        initiator.stream.write_all(&bytes[..bytes.len().min(48 + 8192)]).expect("the target reads");
    }
    let mut initiator = Initiator::login(address, 99);
    initiator.ready();
    for round in 0..40u64 {
        assert!(initiator.read(round * 8, 4096) == pattern(round, 4096));
    }
    assert!(initiator.read(4096, 65536).iter().all(|byte| *byte == 0), "half a command writes nothing");
    engine.stop();
}

#[test]
fn an_engine_that_cannot_start_leaves_nothing_behind() {
    let disk = Disk::new(32 << 20);
    disk.format(0, false);
    let mut plan = disk.plan(2, None, Tuning::default());
    plan.cpus = vec![0, 1023];
    let Err(error) = Engine::start(plan) else { panic!("there is no CPU 1023") };
    assert!(error.to_string().contains("CPU 1023"), "{error}");
    let (engine, _) = start(&disk, 2, Tuning::default());
    drop(engine);
}
