//! Bytes of a fuzzer through the whole state machine of a connection: stream, login, session, tasks, SCSI, completions,
//! timers, resets. Used by the fuzz targets and, with seeded random bytes, by `tests/fuzz.rs`.
//!
//! What must hold whatever comes in: no panic; never more buffers than the session's limits; never more bytes queued
//! for one input than a bound; every PDU whole, with a StatSN that fits; no byte sent of a buffer that nobody filled;
//! and at the end nothing is kept.

#![allow(dead_code, reason = "each program uses its entry point")]

use std::collections::HashMap;
use std::sync::Arc;

use twinlun::block::{
    BlockOp, BlockRequest, BlockStatus, BufSlice, UnitAnswer, UnitChange, UnitState, UnitVersion,
};
use twinlun::iscsi::chap::{Algorithm, Chap, Credential, Entropy};
use twinlun::iscsi::{
    Access, Arrival, Caps, Connection, Effect, Examine, Limits, Origin, Outbox, SendData, Service,
    TargetConfig, UnitSnapshot,
};
use twinlun::scsi::{
    DeviceIdentity, InitiatorPort, LogicalUnit, Nexus, NexusId, Outcome, Provisioning, ResetKind, Target,
    TargetPort,
};
use twinlun::time::{Duration, Instant};
use twinlun::units::{BufId, CHUNK_BYTES, Geometry, Pool, RequestId, ShardId};
use twinlun::wire::{Demand, crc32c};

pub const TARGET: &str = "iqn.2026-11.example:vol1";
const SECRET: &[u8] = b"0123456789ab";
const BLOCKS: u64 = 16 * 1024;
/// What a buffer holds that nobody has written to, and what the disk holds.
const STALE: u8 = 0xEE;
const ON_DISK: u8 = 0x11;
/// Most bytes that one input may queue to be sent: an echo of the largest ping, or a READ's data, and the odd header.
const QUEUED_MAX: usize = 4 << 20;

/// A fuzzer's bytes as a source of decisions. Zeros when they are used up.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) * 256 + usize::from(self.byte())) % bound.max(1)
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Default)]
struct Buffers {
    taken: HashMap<u32, Vec<u8>>,
    next: u32,
    capacity: usize,
}

impl Pool for Buffers {
    fn take(&mut self, len: usize) -> Option<BufId> {
        assert!((1..=CHUNK_BYTES).contains(&len));
        if self.taken.len() >= self.capacity {
            return None;
        }
        self.next += 1;
        self.taken.insert(self.next, vec![STALE; len]);
        Some(BufId(self.next))
    }
}

fn limits() -> Limits {
    Limits { window: 6, immediate: 2, buffers: 4, initial_r2t: false, ..Limits::default() }
}

fn config(chap: bool) -> TargetConfig {
    let geometry = Geometry { block_shift: 9, blocks: BLOCKS, lanes: 2 };
    let identity = DeviceIdentity {
        vendor: *b"TWINLUN ",
        product: *b"VIRTUAL-DISK    ",
        revision: *b"0001",
        serial: "00c0ffee".into(),
        naa: [0x60; 16],
    };
    let mut unit = LogicalUnit::new(identity, geometry, 12, true).expect("a good identity");
    unit.provisioning = Provisioning::Thin;
    let port = TargetPort {
        target_name: TARGET.into(),
        portal_group_tag: 1,
        relative_id: 1,
        target_port_group: 1,
        peer: None,
    };
    let credential =
        |user: &str, secret: &[u8]| Credential { user: user.into(), secret: secret.to_vec().into() };
    let own = Some(credential("disk", b"another-secret"));
    let chap =
        chap.then(|| Chap::new(credential("host", SECRET), own, Algorithm::ALL.to_vec()).expect("good"));
    TargetConfig {
        name: TARGET.into(),
        alias: "fuzz".into(),
        portals: Vec::new(),
        portal_group_tag: 1,
        peer_portals: None,
        access: Access { chap, ..Access::default() },
        limits: limits(),
        caps: Caps::default(),
        scsi: Target::new(port, vec![(0, unit)]).expect("a good target"),
    }
}

/// A connection and all that is around it.
pub struct World {
    connection: Connection,
    out: Outbox,
    pool: Buffers,
    now: Instant,
    stream: Vec<u8>,
    pending: Vec<BlockRequest>,
    /// Headers that the target has sent since they were last looked at.
    sent: Vec<[u8; 48]>,
    stat_sn: Option<u32>,
    closed: bool,
    prompt: bool,
    cmd_sn: u32,
    itt: u8,
    /// Locks taken and not given back.
    locks: usize,
    unit: UnitSnapshot,
    changes: Vec<UnitChange>,
    /// Changes that are made; answered when the connection is quiet.
    made: Vec<(RequestId, UnitVersion)>,
    /// `on_unit` minus `UnitQuiet`.
    told: usize,
}

impl World {
    fn new(chap: bool) -> Self {
        let arrival = Arrival {
            portal: "192.0.2.1:3260".into(),
            peer: "192.0.2.9".parse().expect("an address"),
            entropy: Entropy([0x5A; 33]),
            service: Service::Open,
        };
        let origin = Origin { connection: 3, shard: ShardId(0) };
        let now = Instant(1_000_000_000);
        Self {
            connection: Connection::new(Arc::new(config(chap)), origin, arrival, now),
            out: Outbox::new(),
            pool: Buffers { capacity: 8, ..Buffers::default() },
            now,
            stream: Vec::new(),
            pending: Vec::new(),
            sent: Vec::new(),
            stat_sn: None,
            closed: false,
            prompt: true,
            cmd_sn: 1,
            itt: 0,
            locks: 0,
            unit: UnitSnapshot::empty(),
            changes: Vec::new(),
            made: Vec::new(),
            told: 0,
        }
    }

    /// In full feature phase, with keys that a fuzzer may choose.
    fn logged_in(keys: &str) -> Self {
        let mut world = Self::new(false);
        let text = format!("InitiatorName=iqn.a\0TargetName={TARGET}\0{keys}");
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[27]) = (0x43, 0x87, 1);
        world.pdu(bhs, text.as_bytes());
        world
    }

    /// Puts a PDU into the stream, with the digests that are in force, and lets the target run.
    fn pdu(&mut self, mut bhs: [u8; 48], data: &[u8]) {
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        self.ahs_pdu(bhs, &[], data);
    }

    fn ahs_pdu(&mut self, mut bhs: [u8; 48], ahs: &[u8], data: &[u8]) {
        let ahs = &ahs[..ahs.len().min(1020) / 4 * 4];
        bhs[4] = (ahs.len() / 4) as u8;
        let digests = self.connection.digests_of(&bhs);
        let header = [&bhs[..], ahs].concat();
        self.stream.extend(&header);
        if digests.header {
            self.stream.extend(crc32c(&header).to_le_bytes());
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        self.stream.extend(&padded);
        if digests.data && !data.is_empty() {
            self.stream.extend(crc32c(&padded).to_le_bytes());
        }
        self.run();
    }

    /// A PDU that makes sense, for mutation.
    fn template(&mut self, kind: u8) -> Vec<u8> {
        let mut bhs = [0; 48];
        self.itt = self.itt % 200 + 1;
        bhs[19] = self.itt;
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        let mut data: &[u8] = &[];
        match kind {
            1 | 2 => {
                (bhs[0], bhs[1], bhs[22]) = (0x01, if kind == 1 { 0xC0 } else { 0xA0 }, 4);
                (bhs[32], bhs[40]) = (if kind == 1 { 0x28 } else { 0x2A }, 2);
                data = if kind == 2 { &[7; 512] } else { data };
            }
            3 => {
                (bhs[0], bhs[1]) = (0x40, 0x80);
                bhs[20..24].fill(0xFF);
                data = b"ping";
            }
            4 => {
                (bhs[0], bhs[1]) = (0x44, 0x80);
                bhs[20..24].fill(0xFF);
                data = b"SendTargets=\0";
            }
            7 => {
                // COMPARE AND WRITE of one block.
                (bhs[0], bhs[1], bhs[22]) = (0x01, 0xA0, 4);
                (bhs[32], bhs[45]) = (0x89, 1);
                data = &[0; 1024];
            }
            5 => (bhs[0], bhs[1], bhs[23]) = (0x42, 0x82, 1),
            6 => {
                (bhs[0], bhs[1]) = (0x05, 0x80);
                let r2t = self.sent.iter().rev().find(|header| header[0] == 0x31);
                if let Some(r2t) = r2t {
                    bhs[16..24].copy_from_slice(&r2t[16..24]);
                    bhs[40..44].copy_from_slice(&r2t[40..44]);
                }
                data = &[9; 512];
            }
            _ => (bhs[0], bhs[1], bhs[32]) = (0x01, 0x80, 0x00),
        }
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = [&bhs[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Brings what is asked for, as far as the stream goes.
    fn run(&mut self) {
        let mut used = 0;
        loop {
            self.drain();
            let left = self.stream.len() - used;
            match self.connection.demand() {
                Demand::Bytes { len } if left >= len => {
                    assert!((1..=twinlun::iscsi::BYTES_DEMAND_MAX).contains(&len));
                    let bytes = &self.stream[used..used + len];
                    self.connection.on_bytes(self.now, bytes, &mut self.pool, &mut self.out);
                    used += len;
                }
                Demand::Data { buf, offset, len } if left > 0 => {
                    let len = len.min(left);
                    let bytes = &self.stream[used..used + len];
                    let buffer = self.pool.taken.get_mut(&buf.0).expect("a buffer that is not free");
                    buffer[offset..offset + len].copy_from_slice(bytes);
                    self.connection.on_data(self.now, bytes, &mut self.pool, &mut self.out);
                    used += len;
                }
                Demand::Skip { len } if left >= len => {
                    self.connection.on_skipped(self.now);
                    used += len;
                }
                Demand::Closed => used = self.stream.len(),
                _ => break,
            }
            if used == self.stream.len() && matches!(self.connection.demand(), Demand::Closed) {
                break;
            }
        }
        self.drain();
        self.stream.drain(..used);
        let most = usize::from(limits().buffers + limits().window + limits().immediate);
        assert!(self.pool.taken.len() <= most, "{} buffers", self.pool.taken.len());
    }

    fn drain(&mut self) {
        loop {
            let effects = std::mem::take(&mut self.out.effects);
            let bytes = std::mem::take(&mut self.out.bytes);
            if effects.is_empty() {
                return;
            }
            let mut queued = 0;
            let (mut done, mut examined, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
            for effect in effects {
                match effect {
                    Effect::Send { header, data, pad } => {
                        assert!(!self.closed, "sent after the end");
                        queued += 48 + data.len();
                        self.on_send(header, data, pad, &bytes);
                    }
                    Effect::Block(request) if self.prompt => done.push(request),
                    Effect::Block(request) => self.pending.push(request),
                    Effect::Examine { id, how, left, right, len } => {
                        examined.push((id, self.examine(how, left, right, len as usize)));
                    }
                    Effect::Free(buf) => drop(self.pool.taken.remove(&buf.0).expect("freed once")),
                    Effect::FullFeature { .. } => {
                        self.connection.on_admitted(self.now, 9, &self.unit, &mut self.out);
                    }
                    Effect::ChangeUnit(change) => self.changes.push(change),
                    Effect::UnitQuiet(number) => quiet.push(number),
                    Effect::Close { .. } => {
                        assert!(!self.closed, "closed twice");
                        self.closed = true;
                    }
                }
            }
            assert!(queued <= QUEUED_MAX, "{queued} bytes for one input");
            for (id, found) in examined {
                self.connection.on_examined(id, found, &mut self.pool, &mut self.out);
            }
            for request in done {
                self.complete(request, BlockStatus::Good);
            }
            for number in quiet {
                self.on_unit_quiet(number);
            }
            while self.prompt && !self.changes.is_empty() {
                self.decide(0);
            }
        }
    }

    fn examine(&mut self, how: Examine, left: BufSlice, right: BufSlice, len: usize) -> Option<u32> {
        let bytes = |slice: BufSlice| slice.offset as usize..slice.offset as usize + len;
        let right = self.pool.taken[&right.buf.0][bytes(right)].to_vec();
        let left = &self.pool.taken[&left.buf.0][bytes(left)];
        let found = match how {
            Examine::Compare => left.iter().zip(&right).position(|(a, b)| a != b),
            Examine::Or => None,
            Examine::Repeat { block } => left[..block as usize].iter().position(|byte| *byte != 0),
        };
        found.map(|at| at as u32)
    }

    fn on_send(&mut self, header: [u8; 48], data: SendData, pad: u8, bytes: &[u8]) {
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((word(4) as usize, usize::from(pad)), (data.len(), data.len().wrapping_neg() & 3));
        match data {
            SendData::None => {}
            SendData::Inline { start, len } => assert!((start + len) as usize <= bytes.len()),
            SendData::Buf(slice, len) => {
                let buffer = &self.pool.taken[&slice.buf.0];
                let bytes = &buffer[slice.offset as usize..(slice.offset + len) as usize];
                assert!(
                    header[0] != 0x25 || !bytes.contains(&STALE),
                    "Data-In of a buffer that nobody filled"
                );
            }
        }
        let with_status = match header[0] {
            0x25 => header[1] & 1 != 0,
            0x31 => false,
            0x20 => word(16) != u32::MAX,
            _ => true,
        };
        if header[0] != 0x25 || with_status {
            assert_eq!(self.stat_sn.unwrap_or(word(24)), word(24), "StatSN");
            self.stat_sn = Some(word(24).wrapping_add(u32::from(with_status)));
        }
        self.cmd_sn = word(28);
        if self.sent.len() < 64 {
            self.sent.push(header);
        }
    }

    fn complete(&mut self, request: BlockRequest, status: BlockStatus) {
        // A lock is given back whatever happens.
        let status = if request.op == BlockOp::Unlock { BlockStatus::Good } else { status };
        match request.op {
            BlockOp::Lock if status == BlockStatus::Good => self.locks += 1,
            BlockOp::Unlock => self.locks = self.locks.checked_sub(1).expect("it was locked"),
            _ => {}
        }
        if let Some(slice) = request.buf {
            let buffer = self.pool.taken.get_mut(&slice.buf.0).expect("a buffer that is not free");
            let at = slice.offset as usize;
            let bytes =
                buffer.get_mut(at..at + request.range.count as usize * 512).expect("inside the buffer");
            if request.op == BlockOp::Read {
                bytes.fill(if status == BlockStatus::Good { ON_DISK } else { STALE });
            }
        }
        if request.op != BlockOp::Flush {
            assert!(request.range.start.0 + u64::from(request.range.count) <= BLOCKS, "inside the volume");
        }
        self.connection.on_block_done(request.id, status, &mut self.pool, &mut self.out);
    }

    fn decide(&mut self, at: usize) {
        let UnitChange { id, base, bytes, .. } = self.changes.remove(at);
        if base != self.unit.version {
            return self.connection.on_unit_answer(id, UnitAnswer::Stale, &mut self.out);
        }
        self.made.push((id, base.next()));
        self.remember(&bytes);
    }

    /// A new version of what the unit remembers.
    fn remember(&mut self, bytes: &[u8]) {
        let state = UnitState { version: self.unit.version.next(), bytes: bytes.into() };
        self.unit = UnitSnapshot::read(&state).expect("what was written can be read");
        self.told += 1;
        self.connection.on_unit(self.unit.version.0, &self.unit, &mut self.out);
    }

    fn on_unit_quiet(&mut self, number: u64) {
        self.told = self.told.checked_sub(1).expect("said once");
        if let Some(at) = self.made.iter().position(|(_, made)| made.0 == number) {
            let (id, _) = self.made.swap_remove(at);
            self.connection.on_unit_answer(id, UnitAnswer::Done, &mut self.out);
        }
    }

    /// Another initiator registers, reserves, preempts, or changes the mode.
    fn rival(&mut self, choices: &mut Choices<'_>) {
        let initiator = InitiatorPort { name: "iqn.b".into(), isid: Some([0x80, 0, 0, 0, 0, 1]) };
        let target = &config(false).scsi;
        let rival = Nexus::new(target, initiator, self.unit.memory.clone());
        let action = choices.byte() % 10;
        let (mut cdb, mut list) = ([0; 16], [0; 24]);
        (list[7], list[15]) = (choices.byte() % 4, choices.byte() % 4);
        match action {
            0..8 => {
                let kind = choices.byte() % 9;
                (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5F, action, kind, 24);
            }
            8 => cdb[0] = 0x16,
            _ => {
                (cdb[0], cdb[1], cdb[4]) = (0x15, 0x11, 16);
                let values = choices.byte();
                list[4..16].copy_from_slice(&[
                    0x0A,
                    10,
                    values & 4,
                    0x10,
                    values & 8,
                    values & 0x40,
                    0,
                    0,
                    0xFF,
                    0xFF,
                    0,
                    0,
                ]);
            }
        }
        let mut bytes = Vec::new();
        let list = if cdb[0] == 0x15 { &list[..16] } else { &list[..] };
        let outcome = target.execute_with_data(&rival, [0; 8], &cdb, list, &mut bytes);
        if outcome == Outcome::ChangeUnit {
            self.remember(&bytes);
        }
    }

    /// Something other than bytes happens.
    fn happen(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 10 {
            8 => self.rival(choices),
            9 if !self.changes.is_empty() => {
                let at = choices.below(self.changes.len());
                if choices.byte() < 250 {
                    self.decide(at);
                } else {
                    let change = self.changes.remove(at);
                    self.connection.on_unit_answer(change.id, UnitAnswer::NotServing, &mut self.out);
                }
            }
            0 | 1 if !self.pending.is_empty() => {
                let at = choices.below(self.pending.len());
                let request = self.pending.swap_remove(at);
                let status = match choices.byte() {
                    0..=200 => BlockStatus::Good,
                    201..=240 => BlockStatus::MediumError,
                    _ => BlockStatus::NotServing,
                };
                self.complete(request, status);
            }
            2 => {
                self.now = self.now + Duration::from_secs(u64::from(choices.byte() % 20));
                self.connection.on_timer(self.now, &mut self.out);
            }
            3 => {
                self.pool.capacity = usize::from(choices.byte() % 12);
                self.connection.on_pool_ready(&mut self.pool, &mut self.out);
            }
            4 => {
                let kind = match choices.byte() % 8 {
                    0 => ResetKind::TargetAndSessions,
                    1 | 2 => ResetKind::Target,
                    3 | 4 => ResetKind::TaskSet,
                    _ => ResetKind::Unit,
                };
                let initiator = InitiatorPort { name: "iqn.b".into(), isid: Some([0x80, 0, 0, 0, 0, 1]) };
                let mut bytes = Vec::new();
                let next = self.unit.memory.after_reset(kind, &NexusId { initiator, port: 1 });
                next.encode(&mut bytes).expect("there is room for it");
                self.remember(&bytes);
            }
            5 => self.rival(choices),
            6 => self.prompt = !self.prompt,
            _ => self.connection.on_logout_wanted(self.now, 9, &mut self.out),
        }
        self.run();
    }

    /// TCP ends and everything comes back.
    fn end(mut self) {
        self.connection.on_closed(&mut self.out);
        self.closed = true;
        self.drain();
        while let Some(request) = self.pending.pop() {
            self.complete(request, BlockStatus::Good);
            self.drain();
        }
        while !self.changes.is_empty() {
            self.decide(0);
            self.drain();
        }
        assert_eq!(self.told, 0, "every memory was acknowledged");
        assert!(self.connection.is_idle(), "the session is gone");
        assert!(self.pool.taken.is_empty(), "{} buffers were kept", self.pool.taken.len());
        assert_eq!(self.locks, 0, "every lock was given back");
    }
}

/// Whatever bytes, before or after a login, cut anywhere.
pub fn stream(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = match choices.byte() % 3 {
        0 => World::new(false),
        1 => World::logged_in(""),
        _ => World::logged_in("InitialR2T=No\0MaxRecvDataSegmentLength=512\0MaxBurstLength=1024\0"),
    };
    while !choices.is_empty() && !world.closed {
        let bytes = match choices.byte() % 8 {
            0 => {
                let len = usize::from(choices.byte()) + 1;
                choices.bytes(len).to_vec()
            }
            kind => {
                let mut bytes = world.template(kind);
                for _ in 0..choices.byte() % 3 {
                    let at = choices.below(bytes.len());
                    bytes[at] = choices.byte();
                }
                bytes
            }
        };
        world.stream.extend(bytes);
        world.run();
    }
    world.end();
}

/// Headers that make enough sense to get far, with additional segments, data, digests and everything that happens
/// beside them.
pub fn headers(data: &[u8]) {
    let mut choices = Choices::new(data);
    let keys = match choices.byte() % 4 {
        0 => "HeaderDigest=CRC32C\0DataDigest=CRC32C\0InitialR2T=No\0MaxBurstLength=65536\0",
        1 => "DataDigest=CRC32C\0InitialR2T=No\0MaxRecvDataSegmentLength=4096\0",
        2 => "InitialR2T=No\0FirstBurstLength=16384\0",
        _ => "ImmediateData=No\0",
    };
    let mut world = World::logged_in(keys);
    world.prompt = choices.byte() % 2 == 0;
    while !choices.is_empty() && !world.closed {
        if choices.byte() % 3 == 0 {
            world.happen(&mut choices);
            continue;
        }
        let mut bhs = [0; 48];
        const OPCODES: [u8; 12] = [1, 1, 1, 1, 0x41, 5, 5, 5, 0, 0x42, 0x44, 0x40];
        bhs[0] = OPCODES[choices.below(OPCODES.len())];
        bhs[1] = match bhs[0] & 0x3F {
            1 => [0x80, 0xA0, 0xC0, 0x20, 0xA2, 0xC3, 0xC1, 0xA1][choices.below(8)],
            2 => 0x80 | (choices.byte() % 10),
            _ => 0x80,
        };
        // Tag, mostly a new one; then EDTL or a second tag.
        world.itt = world.itt % 250 + 1;
        bhs[19] = if choices.byte() % 8 == 0 { choices.byte() % 6 } else { world.itt };
        let second = choices.bytes(4).to_vec();
        bhs[20..20 + second.len()].copy_from_slice(&second);
        if bhs[0] & 0x3F != 1 && choices.byte() % 4 > 0 {
            bhs[20..24].fill(0xFF);
        }
        if bhs[0] & 0x3F == 5 {
            // The tag of an R2T, mostly.
            let r2t = world.sent.iter().rev().find(|header| header[0] == 0x31).copied();
            if let (Some(r2t), 0..=200) = (r2t, choices.byte()) {
                bhs[16..24].copy_from_slice(&r2t[16..24]);
                bhs[40..44].copy_from_slice(&r2t[40..44]);
            }
            bhs[39] = choices.byte() % 3;
        } else {
            if bhs[0] & 0x3F == 1 {
                bhs[20] = 0;
            }
            bhs[24..28].copy_from_slice(&world.cmd_sn.to_be_bytes());
            const CODES: [u8; 8] = [0x28, 0x2A, 0x35, 0x12, 0x15, 0x5F, 0x42, 0x89];
            bhs[32] = CODES[choices.below(8)];
            bhs[36] = choices.byte();
            bhs[40] = choices.byte();
        }
        if choices.byte() == 1 {
            let len = choices.bytes(48);
            bhs[..len.len()].copy_from_slice(len);
        }
        let ahs = if choices.byte() % 32 == 1 { choices.bytes(24) } else { &[] };
        let len = choices.below(70_000);
        let data = match choices.byte() % 3 {
            _ if bhs[0] & 0x3F == 1 && bhs[1] & 0x20 == 0 => Vec::new(),
            0 => vec![0x5A; len],
            1 => vec![0x5A; len % 9 * 512],
            _ => vec![0x5A; len % 600],
        };
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        world.ahs_pdu(bhs, ahs, &data);
    }
    world.end();
}

/// Login Requests with whatever text, one after another, cut and continued.
pub fn login(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new(choices.byte() % 4 == 0);
    while !choices.is_empty() && !world.closed {
        let mut bhs = [0; 48];
        bhs[0] = 0x43;
        bhs[1] = [0x81, 0x87, 0x83, 0x00, 0x04, 0x40, 0x44][choices.below(7)];
        let text = match choices.byte() % 4 {
            0 => format!("InitiatorName=iqn.a\0TargetName={TARGET}\0AuthMethod=None,CHAP\0").into_bytes(),
            1 => b"MaxBurstLength=65536\0HeaderDigest=CRC32C,None\0InitialR2T=No\0".to_vec(),
            _ => Vec::new(),
        };
        let len = choices.below(400);
        let text = [&text[..], choices.bytes(len)].concat();
        world.pdu(bhs, &text[..text.len().min(8192)]);
    }
    world.end();
}

/// CHAP's keys: the fuzzer chooses the values.
pub fn chap(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new(true);
    let mut bhs = [0; 48];
    (bhs[0], bhs[1]) = (0x43, 0x00);
    world.pdu(bhs, format!("InitiatorName=iqn.a\0TargetName={TARGET}\0AuthMethod=CHAP\0").as_bytes());
    let algorithm = Algorithm::ALL[choices.below(4)];
    if choices.byte() % 8 > 0 {
        world.pdu(bhs, format!("CHAP_A={}\0", algorithm as u8).as_bytes());
    }
    while !choices.is_empty() && !world.closed {
        bhs[1] = [0x00, 0x81, 0x83, 0x40][choices.below(4)];
        let mut text = Vec::new();
        for key in ["CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C", "CHAP_A"] {
            if choices.byte() % 2 == 0 {
                let prefix = ["0x", "0b", "", "0X"][choices.below(4)];
                let len = choices.below(3000);
                let value = choices.bytes(len);
                text.extend(format!("{key}={prefix}").as_bytes());
                text.extend(value);
                text.push(0);
            }
        }
        world.pdu(bhs, &text[..text.len().min(8192)]);
        // Nobody gets in by guessing.
        let entered = world.sent.iter().any(|header| header[0] == 0x23 && header[1] & 0x83 == 0x83);
        assert!(!entered, "the secret was never shown");
    }
    world.end();
}

/// CDBs, with allocation and EDTL of the fuzzer's choice.
pub fn cdb(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::logged_in("MaxRecvDataSegmentLength=65536\0");
    while !choices.is_empty() && !world.closed {
        let mut bhs = [0; 48];
        bhs[0] = 0x01;
        bhs[1] = [0xC0, 0x80, 0xA0, 0xE0][choices.below(4)];
        bhs[9] = u8::from(choices.byte() == 0);
        world.itt = world.itt % 250 + 1;
        bhs[19] = world.itt;
        let expected = choices.below(66_000) as u32;
        bhs[20..24].copy_from_slice(&expected.to_be_bytes());
        bhs[24..28].copy_from_slice(&world.cmd_sn.to_be_bytes());
        let cdb = choices.bytes(16);
        bhs[32..32 + cdb.len()].copy_from_slice(cdb);
        let ahs = if choices.byte() % 32 == 1 { choices.bytes(20) } else { &[] };
        let immediate = if bhs[1] & 0x20 != 0 { choices.below(expected as usize + 1).min(8192) } else { 0 };
        let data = vec![choices.byte(); immediate];
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        world.ahs_pdu(bhs, ahs, &data);
    }
    world.end();
}

/// PERSISTENT RESERVE IN and OUT, RESERVE, RELEASE and MODE SELECT, with lists that nearly make sense, while a rival does
/// the same.
pub fn reservations(data: &[u8]) {
    let mut choices = Choices(data);
    let mut world = World::logged_in("");
    world.prompt = choices.byte() % 2 == 0;
    while !choices.is_empty() && !world.closed {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x01, 0xA0);
        world.itt = world.itt % 250 + 1;
        bhs[19] = world.itt;
        bhs[24..28].copy_from_slice(&world.cmd_sn.to_be_bytes());
        let mut list = vec![0; 24];
        match choices.byte() % 8 {
            0 | 1 => {
                world.happen(&mut choices);
                continue;
            }
            2 => {
                world.rival(&mut choices);
                world.run();
                continue;
            }
            3 => {
                bhs[1] = 0xC0;
                (bhs[22], bhs[32], bhs[33], bhs[39]) = (8, 0x5E, choices.byte() % 5, 8);
                list.clear();
            }
            4 => {
                bhs[1] = 0x80;
                bhs[32] = [0x16, 0x17, 0x56, 0x57, 0x28, 0x2A][choices.below(6)];
                list.clear();
            }
            _ => {
                bhs[32] = 0x5F;
                (bhs[33], bhs[34]) = (choices.byte() % 9, choices.byte() % 10);
                (list[7], list[15]) = (choices.byte() % 4, choices.byte() % 4);
                list[20] = choices.byte() & 0x0D;
                if bhs[33] == 7 || list[20] & 8 != 0 {
                    let text = [&b"iqn.b,i,0x800000000001"[..], b"iqn.b", b"eui.c,i,0x00023d000001"]
                        [choices.below(3)];
                    let mut id = vec![if text.len() > 5 { 0x45 } else { 0x05 }, 0, 0, 24];
                    id.extend(text);
                    id.resize(28, 0);
                    if bhs[33] == 7 {
                        (list[17], list[19], list[20]) = (choices.byte() % 4, choices.byte() % 3, 0);
                        list[23] = id.len() as u8;
                    } else {
                        list.extend((id.len() as u32).to_be_bytes());
                    }
                    list.extend(id);
                }
                if choices.byte() % 8 == 0 {
                    let at = choices.below(list.len());
                    list[at] = choices.byte();
                }
                bhs[40] = list.len() as u8;
                bhs[23] = list.len() as u8;
            }
        }
        bhs[5..8].copy_from_slice(&(list.len() as u32).to_be_bytes()[1..]);
        world.pdu(bhs, &list);
    }
    world.end();
}

/// Parameter lists of every command that has one.
pub fn parameters(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::logged_in("");
    while !choices.is_empty() && !world.closed {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x01, 0xA0);
        world.itt = world.itt % 250 + 1;
        bhs[19] = world.itt;
        let list = choices.below(300);
        let list = choices.bytes(list);
        bhs[20..24].copy_from_slice(&(list.len() as u32).to_be_bytes());
        bhs[24..28].copy_from_slice(&world.cmd_sn.to_be_bytes());
        // MODE SELECT 6 and 10, UNMAP, PERSISTENT RESERVE OUT, COMPARE AND WRITE, WRITE SAME 10 and 16, SET TARGET PORT
        // GROUPS, SEND DIAGNOSTIC, LOG SELECT, ORWRITE, WRITE AND VERIFY.
        const CODES: [u8; 12] = [0x15, 0x55, 0x42, 0x5F, 0x89, 0x41, 0x93, 0xA4, 0x1D, 0x4C, 0x8B, 0x2E];
        let code = CODES[choices.below(CODES.len())];
        bhs[32] = code;
        let fields = choices.bytes(3);
        bhs[33..33 + fields.len()].copy_from_slice(fields);
        let len = list.len() as u32;
        match code {
            0x15 => bhs[36] = len as u8,
            0x1D => bhs[35..37].copy_from_slice(&(len as u16).to_be_bytes()),
            0x5F => bhs[37..41].copy_from_slice(&len.to_be_bytes()),
            0xA4 => {
                bhs[33] = 0x0A;
                bhs[38..42].copy_from_slice(&len.to_be_bytes());
            }
            0x89 => bhs[45] = choices.byte() % 4,
            0x93 | 0x8B => bhs[45] = choices.byte(),
            _ => bhs[39..41].copy_from_slice(&(len as u16).to_be_bytes()),
        }
        world.pdu(bhs, list);
        let r2t = world.sent.iter().copied().find(|header| header[0] == 0x31);
        world.sent.clear();
        if let Some(r2t) = r2t {
            // The rest of a list that is shorter than it claims.
            let want = u32::from_be_bytes(r2t[44..48].try_into().expect("four bytes")).min(9000);
            let mut out = [0; 48];
            (out[0], out[1]) = (0x05, 0x80);
            out[16..24].copy_from_slice(&r2t[16..24]);
            out[40..44].copy_from_slice(&r2t[40..44]);
            world.pdu(out, &vec![1; want as usize]);
        }
    }
    world.end();
}
