//! The reactor on the real kernel: sockets and a file.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::buffers::{Arena, ArenaPlan, Purpose, Quota, Returned, ShardPool};
use super::device::{Device, PAGE_BYTES, Page};
use super::plumbing::ConnNo;
use super::reactor::{Completion, DiskTag, Reactor, StreamOwner};
use super::ring::Wait;
use super::stream::{Inbound, Met, SendBatch};
use crate::block::BufSlice;
use crate::units::{CHUNK_BYTES, Pool, ShardId};
use crate::volume::effect::{DiskResult, OpId};
use crate::wire::Demand;

fn reactor(pin: bool) -> (Reactor, ShardPool) {
    reactor_with(pin, false)
}

fn reactor_with(pin: bool, plain: bool) -> (Reactor, ShardPool) {
    let quota = Quota { target: 8, link: 0, resync: 0 };
    let arena = Arena::new(ArenaPlan { shards: 1, small: quota, chunk: quota }).expect("memory");
    let reactor = Reactor::new(arena.clone(), pin, plain).expect("the machine has io_uring");
    (reactor, ShardPool::new(arena, ShardId(0)))
}

/// A directory on the disk: the system's temporary directory may be memory, which takes no direct I/O.
pub(super) fn build_directory() -> std::path::PathBuf {
    let program = std::env::current_exe().expect("the test has a path");
    program.parent().expect("a program lies in a directory").to_path_buf()
}

fn owner() -> StreamOwner {
    StreamOwner::Target(ConnNo(0))
}

fn next(reactor: &mut Reactor) -> Completion {
    for _ in 0..100 {
        if let Some(completion) = reactor.next_completion() {
            return completion;
        }
        reactor.turn(Wait::AtMost(Duration::from_millis(100)));
    }
    panic!("no completion in ten seconds");
}

/// Receives until the demand of `inbound` is met; gives it back with what `check` saw.
fn meet(
    reactor: &mut Reactor,
    pool: &mut ShardPool,
    file: &super::reactor::File,
    mut inbound: Box<Inbound>,
    demand: Demand,
) -> (Box<Inbound>, Vec<u8>) {
    inbound.demand(demand);
    loop {
        let arena = pool.arena().clone();
        match inbound.meet(&arena) {
            Met::Bytes(bytes) => {
                let bytes = bytes.to_vec();
                return (inbound, bytes);
            }
            Met::Data { buf, offset, len } => {
                let bytes = arena.bytes(buf, offset, len).to_vec();
                return (inbound, bytes);
            }
            Met::Skipped => return (inbound, Vec::new()),
            Met::NotYet => {}
        }
        reactor.recv(file, owner(), inbound, false);
        let Completion::Received { inbound: back, result, .. } = next(reactor) else {
            panic!("only a receive is under way");
        };
        inbound = back;
        let count = result.expect("received");
        assert!(count > 0, "the other end is open");
        if let Some(buf) = inbound.received(count) {
            assert_eq!(pool.release(buf), Returned::InUse);
        }
    }
}

#[test]
fn a_stream_meets_demands_whatever_the_cut_of_the_segments() {
    for cut in [1usize, 7, 48, 4096, 1 << 20] {
        let (mut reactor, mut pool) = reactor(false);
        let (mut near, far) = UnixStream::pair().expect("sockets");
        let file = reactor.adopt(OwnedFd::from(far));
        let text: Vec<u8> = (0..48 + 100 + CHUNK_BYTES + 3 + 48).map(|n| (n * 7 + n / 256) as u8).collect();
        let sender = std::thread::spawn({
            let text = text.clone();
            move || {
                for (number, piece) in text.chunks(cut).enumerate() {
                    near.write_all(piece).expect("write");
                    if number == 100 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                near
            }
        });
        let buf = pool.purpose(Purpose::Target).take(CHUNK_BYTES).expect("buffer");
        let mut inbound = Inbound::new();
        let mut at = 0;
        let demands = [
            Demand::Bytes { len: 48 },
            Demand::Data { buf, offset: 0, len: 100 },
            Demand::Data { buf, offset: 0, len: CHUNK_BYTES },
            Demand::Skip { len: 3 },
            Demand::Bytes { len: 48 },
        ];
        for (demand, len) in demands.into_iter().zip([48, 100, CHUNK_BYTES, 3, 48]) {
            let (back, bytes) = meet(&mut reactor, &mut pool, &file, inbound, demand);
            inbound = back;
            if !matches!(demand, Demand::Skip { .. }) {
                assert!(bytes == text[at..at + len], "cut {cut} at {at}");
            }
            at += len;
        }
        assert!(inbound.unread().is_empty());
        assert_eq!(pool.release(buf), Returned::Home);
        drop(sender.join().expect("sender"));
    }
}

#[test]
fn one_batch_sends_own_bytes_and_buffers_in_order_and_then_lets_go() {
    let (mut reactor, mut pool) = reactor(false);
    let (near, far) = UnixStream::pair().expect("sockets");
    let file = reactor.adopt(OwnedFd::from(far));
    let mut expected = Vec::new();
    let mut batch = SendBatch::new();
    let arena = pool.arena().clone();
    let mut taken = Vec::new();
    for number in 0..8u8 {
        let buf = pool.purpose(Purpose::Target).take(CHUNK_BYTES).expect("buffer");
        arena.fill(buf, 512, &vec![number; 50_000]);
        batch.push(&[0xAA, number]);
        batch.push_buffer(&arena, BufSlice { buf, offset: 512 }, 50_000);
        batch.push_buffer(&arena, BufSlice { buf, offset: 512 }, 10);
        batch.push_zeros(3);
        expected.extend([0xAA, number]);
        expected.extend(vec![number; 50_010]);
        expected.extend([0; 3]);
        taken.push(buf);
        // The core lets go at once; the batch still has them.
        assert_eq!(pool.release(buf), Returned::InUse);
    }
    let reader = std::thread::spawn(move || {
        let mut near = near;
        let mut bytes = vec![0; expected.len()];
        near.read_exact(&mut bytes).expect("read");
        assert!(bytes == expected);
    });
    let mut foreign = Vec::new();
    while !batch.is_empty() {
        reactor.send(&file, owner(), batch);
        let Completion::Sent { batch: back, result, .. } = next(&mut reactor) else {
            panic!("only a send is under way");
        };
        batch = back;
        batch.sent(result.expect("sent"), &mut pool, &mut foreign);
    }
    reader.join().expect("reader");
    assert_eq!(pool.in_use(), 0);
    assert!(foreign.is_empty());
}

#[test]
fn disk_operations_move_bytes_with_and_without_pinned_buffers() {
    for (pin, plain) in [(false, false), (true, false), (false, true)] {
        let dir = tempfile::tempdir_in(build_directory()).expect("directory");
        let path = dir.path().join("disk");
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("file");
        let device = Device::open(&path).expect("device");
        let (mut reactor, mut pool) = reactor_with(pin, plain);
        let arena = pool.arena().clone();
        let file = reactor.adopt(device.descriptor().expect("descriptor"));
        let buf = pool.purpose(Purpose::Target).take(CHUNK_BYTES).expect("buffer");
        let other = pool.purpose(Purpose::Target).take(CHUNK_BYTES).expect("buffer");
        let data: Vec<u8> = (0..CHUNK_BYTES).map(|n| (n / 512) as u8).collect();
        arena.fill(buf, 0, &data);
        let slice = BufSlice { buf, offset: 4096 };
        reactor.disk_write(&file, DiskTag::Part(OpId(1)), 8192, slice, 32768, true);
        finish(&mut reactor, &mut pool, 1);
        let mut page = Page::boxed();
        page.0.fill(0x5A);
        reactor.page_write(&file, DiskTag::Part(OpId(2)), 65536, page);
        finish(&mut reactor, &mut pool, 2);
        reactor.disk_flush(&file, DiskTag::Part(OpId(3)));
        finish(&mut reactor, &mut pool, 3);
        reactor.disk_read(&file, DiskTag::Part(OpId(4)), 8192, BufSlice { buf: other, offset: 0 }, 32768);
        finish(&mut reactor, &mut pool, 4);
        assert!(arena.bytes(other, 0, 32768) == &data[4096..4096 + 32768]);
        reactor.disk_read(&file, DiskTag::Part(OpId(5)), 65536, BufSlice { buf: other, offset: 0 }, 4096);
        finish(&mut reactor, &mut pool, 5);
        assert!(arena.bytes(other, 0, PAGE_BYTES).iter().all(|byte| *byte == 0x5A));
        // Past the end of the file: an error, not a short success.
        let past = BufSlice { buf: other, offset: 0 };
        reactor.disk_read(&file, DiskTag::Coordinator(OpId(6)), (1 << 20) - 4096, past, 8192);
        let Completion::Disk { tag, result, released } = next(&mut reactor) else {
            panic!("a disk operation")
        };
        assert_eq!((tag, result), (DiskTag::Coordinator(OpId(6)), DiskResult::Error));
        let _ = pool.release(released.expect("a buffer was used"));
        assert_eq!(pool.release(buf), Returned::Home);
        assert_eq!(pool.release(other), Returned::Home);
    }
}

fn finish(reactor: &mut Reactor, pool: &mut ShardPool, op: u64) {
    let Completion::Disk { tag, result, released } = next(reactor) else { panic!("a disk operation") };
    assert_eq!((tag, result), (DiskTag::Part(OpId(op)), DiskResult::Good));
    if let Some(buf) = released {
        assert_eq!(pool.release(buf), Returned::InUse);
    }
}

#[test]
fn dropping_a_reactor_ends_what_is_under_way() {
    let (mut reactor, _pool) = reactor(false);
    let (near, far) = UnixStream::pair().expect("sockets");
    let file = reactor.adopt(OwnedFd::from(far));
    reactor.recv(&file, owner(), Inbound::new(), true);
    reactor.turn(Wait::No);
    assert_eq!(reactor.in_flight(), 1);
    let begun = std::time::Instant::now();
    drop(reactor);
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(near);
}
