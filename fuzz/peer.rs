//! Bytes of a fuzzer to everything else that reads what others wrote: the replication link, the agent's datagrams, the
//! control socket, files that people bring, and the pages of the metadata.
//!
//! The link's frames go through the receiver into a part of the volume that follows or leads, with a disk that answers
//! when the fuzzer says so. Checksums and authentication are made right where the fuzzer changed what they cover: a
//! peer that went mad can do the same. What must hold: no panic, bounded buffers, every buffer freed once.

#![allow(dead_code, reason = "each program uses its entry point")]

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use twinlun::agent::message::{Datagram, Key};
use twinlun::arbitration::Epoch;
use twinlun::daemon::config::Config;
use twinlun::daemon::control::read_request;
use twinlun::daemon::import::{self, Choice};
use twinlun::daemon::probe::Ends;
use twinlun::replication::control::Control;
use twinlun::replication::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use twinlun::replication::handshake::{Handshake, LinkKey, LocalEnd, Sessions, Step, VERSIONS};
use twinlun::replication::receiver::{Frame, FrameReceiver, Payload};
use twinlun::storage::{
    DiskFlags, Generations, LaneLoader, LaneState, Layout, PAGE_BYTES, Page, ScsiIdentity, Superblock,
    SuperblockCopies,
};
use twinlun::time::{Duration, Instant};
use twinlun::units::{BufId, CHUNK_BYTES, LaneId, Lba, NodeId, Pool, SessionId, ShardId};
use twinlun::volume::effect::{DiskResult, Effect, LinkNo, OpId, Outbox};
use twinlun::volume::messages::{LinkRole, PartReport, Posture, Service, SyncRole};
use twinlun::volume::mutant::Mutants;
use twinlun::volume::part::{Part, PartConfig};
use twinlun::wire::{Demand, crc32c, crc32c_append};

use super::harness::Choices;

const SECRET: &[u8] = b"a secret of enough bytes";
const SESSION: SessionId = SessionId(77);
/// Buffers for what comes by a link.
const BUFFERS: usize = 24;

fn layout() -> Layout {
    Layout::internal(64 << 20, 12, 2).expect("it fits")
}

/// Buffers of which only the names matter, and those of the part's own.
#[derive(Default)]
struct Buffers {
    taken: Vec<BufId>,
    next: u32,
}

impl Pool for Buffers {
    fn take(&mut self, len: usize) -> Option<BufId> {
        assert!((1..=CHUNK_BYTES).contains(&len), "a buffer of {len} bytes");
        if self.taken.len() >= BUFFERS {
            return None;
        }
        self.next += 1;
        self.taken.push(BufId(1000 + self.next));
        self.taken.last().copied()
    }
}

impl Buffers {
    fn free(&mut self, buf: BufId) {
        let at = self.taken.iter().position(|taken| *taken == buf).expect("freed once, by its owner");
        self.taken.swap_remove(at);
    }
}

/// One shard's part of the volume, and one link to it.
struct Follower {
    part: Part,
    out: Outbox,
    pool: Buffers,
    disk: Vec<OpId>,
    prompt: bool,
    now: Instant,
    fault: bool,
    sent: u64,
}

impl Follower {
    fn new(link: LinkRole, sync: SyncRole) -> Self {
        let layout = layout();
        let lanes = (0..2).map(|lane| LaneState::new(layout.lane_shape(LaneId(lane)))).collect();
        let config = PartConfig {
            shard: ShardId(0),
            shards: 1,
            geometry: layout.geometry,
            hot_extents_per_lane: 3,
            resync_buffers: (0..2).map(BufId).collect(),
            hold_limit: Some(Duration::from_secs(45)),
            mutants: Mutants::default(),
        };
        let mut follower = Self {
            part: Part::new(config, lanes),
            out: Outbox::new(),
            pool: Buffers::default(),
            disk: Vec::new(),
            prompt: true,
            now: Instant(1_000_000_000),
            fault: false,
            sent: 0,
        };
        let service = match (link, sync) {
            (LinkRole::Lead, SyncRole::None) => Service::Both,
            (LinkRole::Lead, _) => Service::Alone,
            _ => Service::Closed,
        };
        let posture = Posture {
            serial: 1,
            epoch: Epoch(5),
            service,
            session: Some(SESSION),
            peer_shards: 1,
            link,
            sync,
            ..Posture::START
        };
        follower.part.on_posture(follower.now, posture, &mut follower.out);
        follower.drain();
        follower
    }

    fn frame(&mut self, frame: Frame<'_>) {
        self.part.on_frame(self.now, SESSION, LinkNo(0), &frame.header, frame.payload, &mut self.out);
        self.drain();
    }

    fn drain(&mut self) {
        // What one input sets off is bounded; what it set off may set off more, a disk's answer at a time.
        for _ in 0..10_000 {
            let effects = std::mem::take(&mut self.out);
            if effects.is_empty() {
                if !self.prompt || self.disk.is_empty() {
                    return;
                }
                self.answer(0, DiskResult::Good);
            }
            assert!(effects.len() < 4096, "{} effects of one input", effects.len());
            for effect in effects {
                self.carry_out(effect);
            }
        }
        panic!("it does not come to rest");
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::DiskRead { op, offset, len, .. }
            | Effect::DiskWrite { op, offset, len, .. }
            | Effect::DiskZero { op, offset, len, .. } => {
                assert!(offset + u64::from(len) <= layout().geometry.bytes(), "inside the volume");
                self.begin(op);
            }
            Effect::DiskFlush { op } => self.begin(op),
            Effect::MetaWrite { op, page } => {
                let mut bytes = [0; PAGE_BYTES];
                self.part.render(page, &mut bytes);
                self.begin(op);
            }
            Effect::LinkSend { .. } => self.sent += 1,
            Effect::LinkSendBytes { payload, .. } => {
                assert!(payload.len() <= CHUNK_BYTES);
                self.sent += 1;
            }
            Effect::LinkGive { payload, .. } => self.pool.free(payload.buf),
            Effect::Free(buf) => self.pool.free(buf),
            Effect::Deliver { from, .. } => self.pool.free(from),
            Effect::Complete(_) => panic!("nobody asked"),
            Effect::Report(report) => self.fault |= matches!(report, PartReport::LinkFault { .. }),
        }
    }

    fn begin(&mut self, op: OpId) {
        assert!(self.disk.len() < 4096, "the disk's queue has a bound");
        self.disk.push(op);
    }

    fn answer(&mut self, at: usize, result: DiskResult) {
        let op = self.disk.remove(at);
        self.part.on_disk(self.now, op, result, &mut self.out);
    }

    /// The session ends and everything comes back.
    fn end(mut self) {
        let posture = Posture { serial: 9, epoch: Epoch(6), ..Posture::START };
        self.part.on_posture(self.now, posture, &mut self.out);
        self.drain();
        while !self.disk.is_empty() {
            self.answer(0, DiskResult::Good);
            self.drain();
        }
        assert!(self.pool.taken.is_empty(), "{} buffers were kept", self.pool.taken.len());
        assert_eq!(self.part.stats().requests_live, 0, "nothing is left");
    }
}

/// What a peer could say, with fields of the fuzzer's choice and checksums that fit.
fn frame(choices: &mut Choices<'_>) -> Vec<u8> {
    const KINDS: [FrameKind; 18] = [
        FrameKind::Write,
        FrameKind::Write,
        FrameKind::Write,
        FrameKind::WriteAck,
        FrameKind::Flush,
        FrameKind::FlushAck,
        FrameKind::Confirm,
        FrameKind::ConfirmAck,
        FrameKind::ResyncData,
        FrameKind::ResyncAck,
        FrameKind::Bitmap,
        FrameKind::Zero,
        FrameKind::ForwardWrite,
        FrameKind::ForwardRead,
        FrameKind::ForwardOrder,
        FrameKind::ForwardAck,
        FrameKind::ForwardData,
        FrameKind::Control,
    ];
    let kind = KINDS[choices.below(KINDS.len())];
    let lane = u16::from(choices.byte() % 3);
    let mut header = FrameHeader::new(kind, LaneId(lane), Epoch(5));
    if choices.byte() == 1 {
        header.epoch = Epoch(u64::from(choices.byte() % 8));
    }
    header.flags = u16::from(choices.byte() & 0x0F) | u16::from(choices.byte() % 8) << 8;
    header.sequence = u64::from(choices.byte());
    let extent = u64::from(choices.byte() % 8);
    // Mostly an address that belongs to the lane: extents are dealt in turn.
    header.lba = Lba((extent * 2 + u64::from(lane)) * 1024 + u64::from(choices.byte()));
    header.blocks = 1 + u32::from(choices.byte() % 16);
    header.value = u64::from(choices.byte());
    let mut payload = match kind {
        FrameKind::Write | FrameKind::ResyncData | FrameKind::ForwardWrite | FrameKind::ForwardData => {
            vec![7; header.blocks as usize * 4096]
        }
        FrameKind::Bitmap | FrameKind::Control => {
            let len = choices.below(80);
            choices.bytes(len).to_vec()
        }
        _ => Vec::new(),
    };
    if kind == FrameKind::ForwardRead {
        header.value = u64::from(header.blocks) * 4096;
    }
    match choices.byte() % 32 {
        1 => header.lba = Lba(u64::MAX - u64::from(choices.byte())),
        2 => header.blocks = u32::MAX - u32::from(choices.byte()),
        3 => header.value = u64::MAX - u64::from(choices.byte()),
        4 => payload.truncate(choices.below(payload.len() + 1)),
        5 => header.sequence = u64::MAX,
        6 => header.lane = LaneId(u16::from(choices.byte()) << 8),
        _ => {}
    }
    header.payload_len = payload.len() as u32;
    let crc = if payload.is_empty() { 0 } else { crc32c(&payload) };
    let mut bytes = header.encode(crc).to_vec();
    if choices.byte() % 16 == 1 {
        // Anything at all, with the checksum of the header made right.
        for _ in 0..1 + choices.byte() % 3 {
            let at = choices.below(60);
            bytes[at] = choices.byte();
        }
        let crc = crc32c(&bytes[..60]);
        bytes[60..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// The replication port: a stranger's handshake first, then the frames of a peer that is let in and means harm.
pub fn link(data: &[u8]) {
    let mut choices = Choices::new(data);
    if choices.byte() % 4 == 0 {
        return stranger(&mut choices);
    }
    let (role, sync) = match choices.byte() % 4 {
        0 => (LinkRole::Follow, SyncRole::None),
        1 => (LinkRole::Follow, SyncRole::Target),
        2 => (LinkRole::Lead, SyncRole::Source { full: true }),
        _ => (LinkRole::Lead, SyncRole::None),
    };
    let mut follower = Follower::new(role, sync);
    let mut receiver = FrameReceiver::new();
    receiver.admit();
    let mut stream = Vec::new();
    while !choices.is_empty() && !follower.fault {
        match choices.byte() % 8 {
            0 if !follower.disk.is_empty() => {
                let at = choices.below(follower.disk.len());
                let result = if choices.byte() == 9 { DiskResult::Error } else { DiskResult::Good };
                follower.answer(at, result);
                follower.drain();
            }
            1 => follower.prompt = !follower.prompt,
            2 => {
                follower.now = follower.now + Duration::from_millis(u64::from(choices.byte()));
                follower.part.on_timer(follower.now, &mut follower.out);
                follower.drain();
            }
            _ => stream.extend(frame(&mut choices)),
        }
        if !deliver(&mut receiver, &mut stream, &mut follower) {
            break;
        }
    }
    if let Some(buf) = receiver.take_buffer() {
        follower.pool.free(buf);
    }
    follower.end();
}

/// Cuts the stream into frames. False: the link is to be dropped.
fn deliver(receiver: &mut FrameReceiver, stream: &mut Vec<u8>, follower: &mut Follower) -> bool {
    loop {
        if follower.fault {
            return false;
        }
        match receiver.demand(&mut follower.pool) {
            Demand::Bytes { len } if stream.len() >= len => {
                let bytes: Vec<u8> = stream.drain(..len).collect();
                match receiver.on_bytes(&bytes) {
                    Ok(None) => {}
                    Ok(Some(frame)) => {
                        if let (FrameKind::Control, Payload::Bytes(bytes)) =
                            (frame.header.kind, frame.payload)
                        {
                            // Control frames come on a link of their own.
                            decode_control(bytes);
                        } else {
                            follower.frame(frame);
                        }
                    }
                    Err(_) => return false,
                }
            }
            Demand::Data { len, .. } if stream.len() >= len => {
                let bytes: Vec<u8> = stream.drain(..len).collect();
                match receiver.on_data(&bytes) {
                    Ok(frame) => follower.frame(frame),
                    Err(_) => return false,
                }
            }
            Demand::Skip { .. } => {
                let frame = receiver.on_skipped();
                follower.frame(frame);
            }
            Demand::Closed => return false,
            Demand::Stalled | Demand::Bytes { .. } | Demand::Data { .. } => return true,
        }
    }
}

/// A message that is understood means the same when it is said again.
fn decode_control(bytes: &[u8]) {
    if let Ok(message) = Control::decode(bytes) {
        assert_eq!(Control::decode(&message.encode()).as_ref(), Ok(&message));
    }
}

fn stranger(choices: &mut Choices<'_>) {
    let local = LocalEnd {
        volume: [3; 16],
        volume_name: "v".into(),
        node: NodeId(0),
        shards: 2,
        life: [4; 16],
        versions: VERSIONS,
        reads: Default::default(),
    };
    let peer = LocalEnd { node: NodeId(1), ..local.clone() };
    let key = || LinkKey::new(SECRET).expect("long enough");
    let sessions = Sessions { new: SESSION, current: None };
    let mut handshake = Handshake::accept(key(), local, sessions, [5; 32]);
    // What the peer would say, for the fuzzer to change.
    let purpose = twinlun::replication::handshake::Purpose::Control;
    let (_, hello) = Handshake::connect(key(), peer, purpose, [6; 32]);
    let mut receiver = FrameReceiver::new();
    let mut pool = Buffers::default();
    let mut stream = Vec::new();
    let mut touched = false;
    while !choices.is_empty() {
        let payload = if choices.byte() % 2 == 0 {
            let mut bytes = hello.clone();
            for _ in 0..choices.byte() % 4 {
                touched = true;
                let at = choices.below(bytes.len());
                bytes[at] = choices.byte();
            }
            bytes
        } else {
            let len = choices.below(600);
            choices.bytes(len).to_vec()
        };
        let mut header = FrameHeader::new(FrameKind::Handshake, LaneId(0), Epoch(0));
        header.payload_len = payload.len() as u32;
        stream.extend(header.encode(if payload.is_empty() { 0 } else { crc32c(&payload) }));
        stream.extend(&payload);
        loop {
            match receiver.demand(&mut pool) {
                Demand::Bytes { len } if stream.len() >= len => {
                    let bytes: Vec<u8> = stream.drain(..len).collect();
                    let frame = match receiver.on_bytes(&bytes) {
                        Ok(None) => continue,
                        Ok(Some(frame)) => frame,
                        Err(_) => return,
                    };
                    let Payload::Bytes(bytes) = frame.payload else { panic!("handshakes are text") };
                    match handshake.on_message(bytes) {
                        Ok(Step::Send(_)) => {}
                        Ok(Step::SendAndDone(..) | Step::Done(_)) => {
                            panic!("nobody who lacks the secret gets in (touched: {touched})")
                        }
                        Err(refusal) => assert!(refusal.reply.len() <= 512),
                    }
                }
                Demand::Bytes { .. } => break,
                other => panic!("a stranger gets no buffer: {other:?}"),
            }
        }
        assert!(pool.taken.is_empty());
    }
}

/// The agent's port: datagrams as they come, and ones that are authentic and mean nothing good.
pub fn agent(data: &[u8]) {
    let key = Key::new(SECRET, "v");
    let _ = Datagram::decode(data, &key);
    let mut derive = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length");
    derive.update(b"twinlun agent\0v");
    let derived = derive.finalize().into_bytes();
    let mut mac = Hmac::<Sha256>::new_from_slice(&derived).expect("any length");
    let mut bytes = b"TLHB".to_vec();
    bytes.push(1);
    bytes.extend(data);
    mac.update(&bytes);
    bytes.extend(mac.finalize().into_bytes());
    if let Ok(datagram) = Datagram::decode(&bytes, &key) {
        let again = Datagram::decode(&datagram.encode(&key), &key);
        assert_eq!(again.as_ref(), Ok(&datagram), "what is understood means the same when it is said again");
    }
}

/// The control socket's lines.
pub fn control(data: &[u8]) {
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        match read_request(line) {
            Ok(request) => drop(format!("{request:?}")),
            Err(failure) => assert!(failure.to_string().lines().count() <= 2, "one or two lines"),
        }
    }
}

/// Files that people bring: the configuration, another target's, and the ends of a disk with data to keep.
pub fn files(data: &[u8]) {
    let mut choices = Choices::new(data);
    let which = choices.byte() % 3;
    let rest = choices.bytes(usize::MAX);
    match (which, std::str::from_utf8(rest)) {
        (0, Ok(text)) => {
            if let Err(error) = Config::parse(Path::new("t.toml"), text) {
                assert!(error.to_string().lines().count() <= 1, "{error}");
            }
        }
        (1, Ok(text)) => {
            let Ok(file) = serde_json::from_str(text) else { return };
            if let Ok(import) = import::import_lio(&file, &Choice::default()) {
                let text = format!("{}\n[node.a]\nid = 0\ndisk = \"/d\"\n", import.document);
                // It may lack something or hold a name that we refuse; it must be TOML.
                if let Err(error) = Config::parse(Path::new("t.toml"), &text) {
                    assert!(!error.problem.contains("not valid TOML"), "{error}\n{text}");
                }
            }
        }
        _ => {
            // The two ends of a disk of 4 MiB, sparse: an offset, a length, and so many bytes.
            let mut choices = Choices::new(rest);
            let (mut head, mut tail) = (vec![0; 1 << 17], vec![0; 1 << 17]);
            while !choices.is_empty() {
                let end = if choices.byte() % 4 == 0 { &mut tail } else { &mut head };
                let at = choices.below(end.len());
                let len = usize::from(choices.byte() % 33);
                let bytes = choices.bytes(len);
                let len = bytes.len().min(end.len() - at);
                end[at..at + len].copy_from_slice(&bytes[..len]);
            }
            let ends = Ends { size: 4 << 20, head: &head, tail: &tail };
            let _ = (ends.find(), ends.claimed());
        }
    }
}

/// Makes the checksum of a structure right: CRC32C of all but the four bytes that hold it.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c_append(crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Pages of the metadata, as a disk with other ideas returns them.
pub fn pages(data: &[u8]) {
    let mut choices = Choices::new(data);
    let layout = layout();
    let mut superblock = Superblock {
        counter: 4,
        node: NodeId(0),
        layout,
        volume: [1; 16],
        volume_name: "v".into(),
        flags: DiskFlags::default(),
        generations: Generations::new(1),
        record: Default::default(),
        boot_id: [2; 16],
        identity: ScsiIdentity { naa: [0x60; 16], serial: "1".into(), iqn: "iqn.2026-11.example:v".into() },
    };
    let mut copies = [[0; PAGE_BYTES]; 2];
    for _ in 0..2 {
        let copy = superblock.advance();
        superblock.encode(&mut copies[copy]);
        change(&mut choices, &mut copies[copy], 640, PAGE_BYTES);
    }
    let chosen = SuperblockCopies { first: Some(&copies[0]), second: Some(&copies[1]) }.choose();
    if let Ok(chosen) = chosen {
        // What is accepted can be written and is the same then.
        let mut page: Page = [0; PAGE_BYTES];
        let mut again = chosen.superblock;
        let copy = again.advance();
        again.encode(&mut page);
        let (first, second) = if copy == 0 { (Some(&page), None) } else { (None, Some(&page)) };
        let read = SuperblockCopies { first, second }.choose().expect("it was just written");
        assert_eq!(read.superblock, again);
    }
    let lane = LaneId(0);
    let fresh = LaneState::new(layout.lane_shape(lane));
    let mut loader = LaneLoader::new(&layout, lane);
    for number in 0..layout.activity_pages_per_lane() {
        let mut page: Page = [0; PAGE_BYTES];
        fresh.activity.encode_page(number, 1, &mut page);
        change(&mut choices, &mut page, PAGE_BYTES, 512);
        let _damage = loader.on_activity_page(Some(&page));
    }
    for number in 0..layout.bitmap_pages_per_lane() {
        let mut page: Page = [0; PAGE_BYTES];
        fresh.bitmap.encode_page(number, 1, &mut page);
        change(&mut choices, &mut page, PAGE_BYTES, PAGE_BYTES);
        let _damage = loader.on_bitmap_page(Some(&page));
    }
    let state = loader.finish();
    assert!(state.bitmap.count() <= layout.lane_shape(lane).blocks(), "no block that the lane does not have");
    assert!(state.bitmap.runs().count() as u64 <= state.bitmap.count());
    assert!(state.activity.iter_hot().all(|index| index < layout.lane_shape(lane).extents));
}

/// Changes bytes among the first `reach`, and mostly makes the checksums of the `unit`-sized structures right again.
fn change(choices: &mut Choices<'_>, page: &mut Page, reach: usize, unit: usize) {
    for _ in 0..choices.byte() % 8 {
        let at = choices.below(reach);
        let len = 1 + usize::from(choices.byte() % 8);
        for (byte, new) in page[at..].iter_mut().zip(choices.bytes(len)) {
            *byte = *new;
        }
    }
    if choices.byte() % 8 > 0 {
        page.chunks_mut(unit).for_each(seal);
    }
}
