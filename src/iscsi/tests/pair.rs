//! An initiator made of raw bytes, a driver, a disk and a pool, around one [`Connection`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use super::super::chap::Entropy;
use super::super::*;
use crate::block::{
    BlockOp, BlockRequest, BlockStatus, BufSlice, UnitAnswer, UnitChange, UnitState, UnitVersion,
};
use crate::scsi::{DeviceIdentity, LogicalUnit, Provisioning, Target, TargetPort};
use crate::time::{Duration, Instant};
use crate::units::{BlockRange, BufId, CHUNK_BYTES, Geometry, Pool, RequestId, ShardId};
use crate::wire::{Demand, crc32c};

pub(super) const TARGET: &str = "iqn.2026-11.example:vol1";
/// Blocks of the disk, 512 bytes each: 8 MiB, two extents.
pub(super) const BLOCKS: u64 = 16 * 1024;

pub(super) fn config() -> TargetConfig {
    let geometry = Geometry { block_shift: 9, blocks: BLOCKS, lanes: 2 };
    let identity = DeviceIdentity {
        vendor: *b"TWINLUN ",
        product: *b"VIRTUAL-DISK    ",
        revision: *b"0001",
        serial: "00c0ffee".into(),
        naa: [0x60, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    };
    let mut unit = LogicalUnit::new(identity, geometry, 12, true).expect("valid identity");
    unit.provisioning = Provisioning::Thin;
    let port = TargetPort {
        target_name: TARGET.into(),
        portal_group_tag: 1,
        relative_id: 1,
        target_port_group: 1,
        peer: None,
    };
    TargetConfig {
        name: TARGET.into(),
        alias: String::new(),
        portals: Vec::new(),
        portal_group_tag: 1,
        peer_portals: None,
        access: Access::default(),
        limits: Limits::default(),
        caps: Caps::default(),
        scsi: Target::new(port, vec![(0, unit)]).expect("valid target"),
    }
}

/// What the driver gives a session.
pub(super) const TSIH: u16 = 0x0808;
/// CHAP_I, then CHAP_C.
pub(super) const ENTROPY: [u8; 33] = [0x5A; 33];

/// Buffers that know whether they are free.
#[derive(Default)]
pub(super) struct TestPool {
    pub(super) taken: HashMap<u32, Vec<u8>>,
    next: u32,
    pub(super) capacity: usize,
    pub(super) most: usize,
}

impl Pool for TestPool {
    fn take(&mut self, len: usize) -> Option<BufId> {
        assert!((1..=CHUNK_BYTES).contains(&len));
        if self.taken.len() == self.capacity {
            return None;
        }
        self.next += 1;
        self.taken.insert(self.next, vec![0xEE; len]);
        self.most = self.most.max(self.taken.len());
        Some(BufId(self.next))
    }
}

/// A PDU from the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pdu {
    pub(super) bhs: [u8; 48],
    pub(super) data: Vec<u8>,
}

impl Pdu {
    pub(super) fn opcode(&self) -> u8 {
        self.bhs[0]
    }

    pub(super) fn field(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bhs[at..at + 4].try_into().expect("four bytes"))
    }

    pub(super) fn itt(&self) -> u32 {
        self.field(16)
    }

    /// SCSI status and sense as `key/asc/ascq`.
    pub(super) fn status(&self) -> (u8, Option<(u8, u8, u8)>) {
        assert!(matches!(self.opcode(), 0x21 | 0x25), "{:02x}", self.opcode());
        let sense = (self.opcode() == 0x21 && self.data.len() > 15)
            .then(|| (self.data[4] & 15, self.data[14], self.data[15]));
        (self.bhs[3], sense)
    }

    pub(super) fn text(&self) -> String {
        let text = String::from_utf8(self.data.clone()).expect("text");
        text.trim_end_matches('\0').replace('\0', " ")
    }
}

/// Every block tells its number.
fn fresh_disk() -> Vec<u8> {
    static DISK: OnceLock<Vec<u8>> = OnceLock::new();
    DISK.get_or_init(|| (0..BLOCKS as usize * 512).map(|at| (at / 512 + at % 512) as u8).collect()).clone()
}

/// Everything around one connection.
pub(super) struct Pair {
    pub(super) connection: Connection,
    pub(super) out: Outbox,
    pub(super) pool: TestPool,
    pub(super) now: Instant,
    pub(super) disk: Vec<u8>,
    /// Bytes the target has not taken yet.
    pub(super) stream: VecDeque<u8>,
    /// PDUs the target sent, not looked at yet.
    pub(super) sent: VecDeque<Pdu>,
    /// Block requests that were not completed yet.
    pub(super) pending: VecDeque<BlockRequest>,
    /// Complete block requests at once.
    pub(super) prompt: bool,
    pub(super) closed: Option<CloseReason>,
    /// Bits of the digests that are sent wrong.
    pub(super) spoil_header: u32,
    pub(super) spoil_data: u32,
    pub(super) nexus: Option<(NexusName, u16, u16, bool)>,
    /// What the unit remembers, as the other node and this one have it.
    pub(super) unit: UnitSnapshot,
    /// Changes that are not decided yet.
    pub(super) changes: VecDeque<UnitChange>,
    /// Decide changes at once.
    pub(super) keep: bool,
    /// Changes that are made; answered when the connection is quiet.
    made: Vec<(RequestId, UnitVersion)>,
    pub(super) units_quiet: Vec<u64>,
    /// Answer `FullFeature` at once.
    pub(super) admit: bool,
    pub(super) cmd_sn: u32,
    /// TSIH of Login Requests.
    pub(super) tsih: u16,
    /// Ranges that are locked; the connection is the only one.
    pub(super) locks: Vec<BlockRange>,
    stat_sn: Option<u32>,
}

impl Pair {
    pub(super) fn new(config: TargetConfig) -> Self {
        Self::arriving(config, Service::Open)
    }

    pub(super) fn arriving(config: TargetConfig, service: Service) -> Self {
        let arrival = Arrival {
            portal: "10.0.0.1:3260".into(),
            peer: "10.0.0.50".parse().expect("an address"),
            entropy: Entropy(ENTROPY),
            service,
        };
        let now = Instant(1_000_000_000);
        let origin = Origin { connection: 7, shard: ShardId(0) };
        let pool = TestPool { capacity: 1000, ..TestPool::default() };
        Self {
            connection: Connection::new(Arc::new(config), origin, arrival, now),
            out: Outbox::new(),
            pool,
            now,
            disk: fresh_disk(),
            stream: VecDeque::new(),
            sent: VecDeque::new(),
            pending: VecDeque::new(),
            prompt: true,
            closed: None,
            spoil_header: 0,
            spoil_data: 0,
            nexus: None,
            admit: true,
            unit: UnitSnapshot::empty(),
            changes: VecDeque::new(),
            keep: true,
            made: Vec::new(),
            units_quiet: Vec::new(),
            cmd_sn: 100,
            tsih: 0,
            locks: Vec::new(),
            stat_sn: None,
        }
    }

    /// Logged in as an ordinary initiator, unit attention heard.
    pub(super) fn logged_in(config: TargetConfig) -> Self {
        let mut pair = Self::new(config);
        pair.login("MaxRecvDataSegmentLength=65536 MaxBurstLength=262144 FirstBurstLength=65536");
        pair.hear_attention();
        pair
    }

    pub(super) fn hear_attention(&mut self) {
        let answer = self.command(0, 0x80, 0, &[0; 16], &[]);
        assert_eq!(answer.status(), (2, Some((6, 0x29, 0))));
    }

    /// A normal login in two steps, `keys` in the operational one.
    pub(super) fn login(&mut self, keys: &str) -> Pdu {
        let first = format!("InitiatorName=iqn.2001-04.test:a TargetName={TARGET} AuthMethod=None");
        self.login_pdu(0x81, &first);
        assert_eq!(self.reply().bhs[1], 0x81);
        self.login_pdu(0x87, keys);
        let last = self.reply();
        assert_eq!((last.bhs[1], last.field(36)), (0x87, 0));
        last
    }

    pub(super) fn login_pdu(&mut self, flags: u8, text: &str) {
        let mut bhs = [0; 48];
        bhs[0] = 0x43;
        bhs[1] = flags;
        bhs[8..14].copy_from_slice(&[0x40, 0, 1, 0x37, 0, 0]);
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        bhs[14..16].copy_from_slice(&self.tsih.to_be_bytes());
        let mut data = text.replace(' ', "\0").into_bytes();
        if !data.is_empty() {
            data.push(0);
        }
        self.send(bhs, &data);
    }

    /// Puts a PDU into the stream and lets the target run.
    pub(super) fn send(&mut self, mut bhs: [u8; 48], data: &[u8]) {
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let digests = self.connection.digests_of(&bhs);
        self.stream.extend(bhs);
        if digests.header {
            self.stream.extend((crc32c(&bhs) ^ self.spoil_header).to_le_bytes());
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        self.stream.extend(&padded);
        if digests.data && !data.is_empty() {
            self.stream.extend((crc32c(&padded) ^ self.spoil_data).to_le_bytes());
        }
        self.run();
    }

    /// The next CmdSN.
    pub(super) fn next_cmd_sn(&mut self) -> u32 {
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.cmd_sn.wrapping_sub(1)
    }

    pub(super) fn command_bhs(&mut self, itt: u32, flags: u8, expected: u32, cdb: &[u8; 16]) -> [u8; 48] {
        let mut bhs = [0; 48];
        bhs[0] = 0x01;
        bhs[1] = flags;
        bhs[16..20].copy_from_slice(&itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&expected.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.next_cmd_sn().to_be_bytes());
        bhs[32..].copy_from_slice(cdb);
        bhs
    }

    pub(super) fn send_command(&mut self, itt: u32, flags: u8, expected: u32, cdb: &[u8; 16], data: &[u8]) {
        let bhs = self.command_bhs(itt, flags, expected, cdb);
        self.send(bhs, data);
    }

    /// A command, and its one answer.
    pub(super) fn command(&mut self, itt: u32, flags: u8, expected: u32, cdb: &[u8; 16], data: &[u8]) -> Pdu {
        self.send_command(itt, flags, expected, cdb, data);
        let answer = self.reply();
        assert_eq!(answer.itt(), itt);
        answer
    }

    pub(super) fn data_out(&mut self, itt: u32, ttt: u32, sn: u32, offset: u32, last: bool, data: &[u8]) {
        let mut bhs = [0; 48];
        bhs[0] = 0x05;
        bhs[1] = if last { 0x80 } else { 0 };
        bhs[16..20].copy_from_slice(&itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&ttt.to_be_bytes());
        bhs[36..40].copy_from_slice(&sn.to_be_bytes());
        bhs[40..44].copy_from_slice(&offset.to_be_bytes());
        self.send(bhs, data);
    }

    /// Answers the R2Ts at the head of the queue with `data` of the whole command, in PDUs of `segment` bytes.
    pub(super) fn answer_r2ts(&mut self, data: &[u8], segment: usize) {
        while self.sent.front().is_some_and(|pdu| pdu.opcode() == 0x31) {
            let r2t = self.reply();
            self.answer_r2t(&r2t, data, segment);
        }
    }

    pub(super) fn answer_r2t(&mut self, r2t: &Pdu, data: &[u8], segment: usize) {
        assert_eq!(r2t.bhs[1], 0x80);
        let (start, len) = (r2t.field(40) as usize, r2t.field(44) as usize);
        let whole = &data[start..start + len];
        for (sn, part) in whole.chunks(segment).enumerate() {
            let offset = start + sn * segment;
            let last = offset + part.len() == start + len;
            self.data_out(r2t.itt(), r2t.field(20), sn as u32, offset as u32, last, part);
        }
    }

    /// The oldest PDU of the target that was not looked at.
    pub(super) fn reply(&mut self) -> Pdu {
        self.sent.pop_front().expect("the target has answered")
    }

    pub(super) fn nothing_sent(&self) -> bool {
        self.sent.is_empty()
    }

    /// The driver loop: brings what is asked for as long as the stream has it.
    pub(super) fn run(&mut self) {
        loop {
            self.drain();
            match self.connection.demand() {
                Demand::Bytes { len } if self.stream.len() >= len => {
                    assert!((1..=BYTES_DEMAND_MAX).contains(&len));
                    let bytes: Vec<u8> = self.stream.drain(..len).collect();
                    self.connection.on_bytes(self.now, &bytes, &mut self.pool, &mut self.out);
                }
                Demand::Data { buf, offset, len } if !self.stream.is_empty() => {
                    let len = len.min(self.stream.len());
                    let bytes: Vec<u8> = self.stream.drain(..len).collect();
                    let buffer = self.pool.taken.get_mut(&buf.0).expect("a taken buffer");
                    buffer[offset..offset + len].copy_from_slice(&bytes);
                    self.connection.on_data(self.now, &bytes, &mut self.pool, &mut self.out);
                }
                Demand::Skip { len } if self.stream.len() >= len => {
                    self.stream.drain(..len);
                    self.connection.on_skipped(self.now);
                }
                _ => break,
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            let effects = std::mem::take(&mut self.out.effects);
            let bytes = std::mem::take(&mut self.out.bytes);
            if effects.is_empty() {
                return;
            }
            let (mut ready, mut examined) = (Vec::new(), Vec::new());
            for effect in effects {
                match effect {
                    Effect::Send { header, data, pad } => self.on_send(header, data, pad, &bytes),
                    Effect::Block(request) if self.prompt => ready.push(request),
                    Effect::Block(request) => self.pending.push_back(request),
                    Effect::Examine { id, how, left, right, len } => {
                        examined.push((id, self.examine(how, left, right, len as usize)));
                    }
                    Effect::Free(buf) => {
                        self.pool.taken.remove(&buf.0).expect("freed once");
                    }
                    Effect::FullFeature { nexus, tsih, cid, discovery } => {
                        self.nexus = Some((nexus, tsih, cid, discovery));
                        if self.admit {
                            self.connection.on_admitted(self.now, TSIH, &self.unit, &mut self.out);
                        }
                    }
                    Effect::ChangeUnit(change) => self.changes.push_back(change),
                    Effect::UnitQuiet(number) => self.on_unit_quiet(number),
                    Effect::Close { reason } => {
                        assert!(self.closed.is_none(), "closed twice");
                        self.closed = Some(reason);
                        self.stream.clear();
                    }
                }
            }
            for (id, found) in examined {
                self.connection.on_examined(id, found, &mut self.pool, &mut self.out);
            }
            for request in ready {
                self.complete(request, BlockStatus::Good);
            }
            while self.keep && !self.changes.is_empty() {
                self.decide();
            }
        }
    }

    /// The oldest change is decided: made, or it came too late.
    pub(super) fn decide(&mut self) {
        let UnitChange { id, base, bytes, .. } = self.changes.pop_front().expect("a change");
        if base != self.unit.version {
            return self.connection.on_unit_answer(id, UnitAnswer::Stale, &mut self.out);
        }
        let version = base.next();
        self.made.push((id, version));
        self.remember(&UnitState { version, bytes });
    }

    /// There is a new version, of this connection's making or not.
    pub(super) fn remember(&mut self, state: &UnitState) {
        self.unit = UnitSnapshot::read(state).expect("good bytes");
        self.connection.on_unit(self.unit.version.0, &self.unit, &mut self.out);
    }

    fn on_unit_quiet(&mut self, number: u64) {
        self.units_quiet.push(number);
        if let Some(at) = self.made.iter().position(|(_, made)| made.0 == number) {
            let (id, _) = self.made.swap_remove(at);
            self.connection.on_unit_answer(id, UnitAnswer::Done, &mut self.out);
        }
    }

    fn examine(&mut self, how: Examine, left: BufSlice, right: BufSlice, len: usize) -> Option<u32> {
        let bytes = |slice: BufSlice| slice.offset as usize..slice.offset as usize + len;
        let right = self.pool.taken[&right.buf.0][bytes(right)].to_vec();
        let left = &mut self.pool.taken.get_mut(&left.buf.0).expect("a taken buffer")[bytes(left)];
        let found = match how {
            Examine::Compare => left.iter().zip(&right).position(|(a, b)| a != b),
            Examine::Or => {
                left.iter_mut().zip(&right).for_each(|(a, b)| *a |= b);
                None
            }
            Examine::Repeat { block } => {
                (block as usize..len).for_each(|at| left[at] = left[at - block as usize]);
                left.iter().position(|byte| *byte != 0)
            }
        };
        found.map(|at| at as u32)
    }

    fn on_send(&mut self, header: [u8; 48], data: SendData, pad: u8, bytes: &[u8]) {
        assert!(self.closed.is_none(), "sent after close");
        let data = match data {
            SendData::None => Vec::new(),
            SendData::Inline { start, len } => bytes[start as usize..(start + len) as usize].to_vec(),
            SendData::Buf(slice, len) => {
                let buffer = &self.pool.taken[&slice.buf.0];
                buffer[slice.offset as usize..(slice.offset + len) as usize].to_vec()
            }
        };
        let pdu = Pdu { bhs: header, data };
        assert_eq!(pdu.field(4) as usize, pdu.data.len());
        assert_eq!(usize::from(pad), pdu.data.len().wrapping_neg() & 3);
        self.check_numbers(&pdu);
        self.sent.push_back(pdu);
    }

    /// StatSN rises by one with every PDU that carries status (§4.2.2.2).
    fn check_numbers(&mut self, pdu: &Pdu) {
        let with_status = match pdu.opcode() {
            0x25 => pdu.bhs[1] & 1 != 0,
            0x31 => false,
            0x20 => pdu.itt() != 0xFFFF_FFFF,
            _ => true,
        };
        let without_field = pdu.opcode() == 0x25 && !with_status;
        let stat_sn = pdu.field(24);
        if let Some(expected) = self.stat_sn {
            assert!(without_field || stat_sn == expected, "StatSN {stat_sn} instead of {expected}");
        }
        if with_status {
            self.stat_sn = Some(stat_sn.wrapping_add(1));
        }
        let ahead = pdu.field(32).wrapping_sub(pdu.field(28)).wrapping_add(1);
        assert!(ahead <= 192, "MaxCmdSN is {ahead} ahead");
    }

    /// Completes the block request at `index` of the pending ones.
    pub(super) fn complete_at(&mut self, index: usize, status: BlockStatus) {
        let request = self.pending.remove(index).expect("a pending request");
        self.complete(request, status);
        self.run();
    }

    pub(super) fn complete_all(&mut self) {
        while !self.pending.is_empty() {
            self.complete_at(0, BlockStatus::Good);
        }
    }

    fn complete(&mut self, request: BlockRequest, status: BlockStatus) {
        // A lock is given back whatever happens.
        let status = if request.op == BlockOp::Unlock { BlockStatus::Good } else { status };
        if status == BlockStatus::Good {
            self.transfer(&request);
        }
        self.connection.on_block_done(request.id, status, &mut self.pool, &mut self.out);
    }

    fn transfer(&mut self, request: &BlockRequest) {
        let BlockRange { start, count } = request.range;
        if request.op == BlockOp::Flush {
            return assert_eq!((request.buf, count), (None, 0));
        }
        assert!(count > 0 && start.0 + u64::from(count) <= BLOCKS);
        assert_eq!(start.0 / 8192, (start.0 + u64::from(count) - 1) / 8192, "within an extent");
        let disk = start.0 as usize * 512..(start.0 as usize + count as usize) * 512;
        let mine = |range: &BlockRange| range.start <= start && request.range.end() <= range.end();
        assert!(!request.locked || self.locks.iter().any(mine), "locked without a lock");
        let slice = match (request.op, request.buf) {
            (BlockOp::Zero { .. }, None) => return self.disk[disk].fill(0),
            (BlockOp::Lock, None) => {
                assert!(self.locks.iter().all(|range| range.end() <= start), "by rising address");
                return self.locks.push(request.range);
            }
            (BlockOp::Unlock, None) => {
                let at = self.locks.iter().position(|range| *range == request.range).expect("it is locked");
                self.locks.remove(at);
                return;
            }
            (_, slice) => slice.expect("reads and writes have a buffer"),
        };
        let buffer = self.pool.taken.get_mut(&slice.buf.0).expect("a taken buffer");
        let memory = slice.offset as usize..slice.offset as usize + disk.len();
        match request.op {
            BlockOp::Read => buffer[memory].copy_from_slice(&self.disk[disk]),
            BlockOp::Write { .. } => self.disk[disk].copy_from_slice(&buffer[memory]),
            other => panic!("{other:?} has no buffer"),
        }
    }

    pub(super) fn pool_ready(&mut self, capacity: usize) {
        self.pool.capacity = capacity;
        self.connection.on_pool_ready(&mut self.pool, &mut self.out);
        self.run();
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.connection.on_timer(self.now, &mut self.out);
        self.run();
    }

    /// Ends the connection and checks that nothing was kept.
    pub(super) fn hang_up(&mut self) {
        self.connection.on_closed(&mut self.out);
        self.closed.get_or_insert(CloseReason::Logout);
        self.drain();
        self.complete_all();
        assert!(self.connection.is_idle());
        assert_eq!(self.connection.demand(), Demand::Closed);
        assert!(self.locks.is_empty(), "locks were kept: {:?}", self.locks);
        assert!(self.pool.taken.is_empty(), "{} buffers were kept", self.pool.taken.len());
    }

    pub(super) fn disk_at(&self, lba: u64, len: usize) -> &[u8] {
        &self.disk[lba as usize * 512..lba as usize * 512 + len]
    }
}

pub(super) fn read10(lba: u32, blocks: u16) -> [u8; 16] {
    rw10(0x28, lba, blocks)
}

pub(super) fn write10(lba: u32, blocks: u16) -> [u8; 16] {
    rw10(0x2A, lba, blocks)
}

pub(super) fn rw10(opcode: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed).collect()
}
