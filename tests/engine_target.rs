//! The engine as a single node: real io_uring, a real file under direct I/O, real TCP, and a small initiator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use twinlun::engine::device::Device;
use twinlun::engine::{Engine, EngineEvent, EnginePlan, Tuning};
use twinlun::iscsi::{Limits, TargetConfig};
use twinlun::scsi::{DeviceIdentity, LogicalUnit, Target, TargetPort};
use twinlun::storage::{LaneState, Layout};
use twinlun::units::LaneId;

const IQN: &str = "iqn.2026-11.example:test";
const LANES: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new(bytes: u64) -> Self {
        // Beside the test program: a temporary directory may be memory, which takes no direct I/O.
        let program = std::env::current_exe().expect("the test has a path");
        let directory = tempfile::tempdir_in(program.parent().expect("in a directory")).expect("directory");
        let path = directory.path().join("disk");
        std::fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("file");
        Self { _directory: directory, path }
    }

    fn start(&self, shards: u8, tuning: Tuning) -> (Engine, SocketAddr) {
        let device = Device::open(&self.path).expect("the file system takes direct I/O");
        let layout = Layout::internal(device.facts().bytes, 9, LANES).expect("large enough");
        let lanes = (0..LANES).map(|lane| LaneState::new(layout.lane_shape(LaneId(lane)))).collect();
        let plan = EnginePlan {
            shards,
            cpus: Vec::new(),
            data: device.clone(),
            metadata: device,
            layout,
            lanes,
            hot_extents_per_lane: 16,
            portals: vec!["127.0.0.1:0".parse().expect("an address")],
            target: Arc::new(target(layout)),
            tuning,
        };
        let engine = Engine::start(plan).expect("the engine starts");
        let event = engine.events().recv_timeout(PATIENCE).expect("the engine says what it does");
        let EngineEvent::Serving { addresses } = event else { panic!("it serves, not {event:?}") };
        (engine, addresses[0])
    }
}

fn target(layout: Layout) -> TargetConfig {
    let identity = DeviceIdentity {
        vendor: *b"TWINLUN ",
        product: *b"disk            ",
        revision: *b"0001",
        serial: "0001".to_owned(),
        naa: [0x60; 16],
    };
    let unit = LogicalUnit::new(identity, layout.geometry, 12, true).expect("a good identity");
    let port =
        TargetPort { target_name: IQN.to_owned(), portal_group_tag: 1, relative_id: 1, target_port_group: 1 };
    TargetConfig {
        name: IQN.to_owned(),
        alias: String::new(),
        portals: Vec::new(),
        portal_group_tag: 1,
        serving: true,
        limits: Limits::default(),
        scsi: Target::new(port, vec![(0, unit)]).expect("one logical unit"),
    }
}

/// Just enough of an initiator: one command at a time, data whole and immediate or after one R2T.
struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    stat_sn: u32,
    tag: u32,
}

struct Pdu {
    header: [u8; 48],
    data: Vec<u8>,
}

impl Initiator {
    fn login(address: SocketAddr, isid: u8) -> Self {
        let stream = TcpStream::connect(address).expect("the portal listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("socket option");
        stream.set_nodelay(true).expect("socket option");
        let mut this = Self { stream, cmd_sn: 1, stat_sn: 0, tag: 1 };
        let text = format!(
            "InitiatorName=iqn.2026-11.example:host\0TargetName={IQN}\0SessionType=Normal\0InitialR2T=Yes\0\
             ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0AuthMethod=None\0"
        );
        let mut header = [0; 48];
        header[0] = 0x43;
        header[1] = 0x87; // transit, operational stage to full feature phase
        header[8] = 0x80;
        header[13] = isid;
        header[16..20].copy_from_slice(&this.tag.to_be_bytes());
        header[24..28].copy_from_slice(&this.cmd_sn.to_be_bytes());
        this.send(header, text.as_bytes());
        let answer = this.receive();
        assert_eq!(answer.header[0], 0x23, "a Login Response");
        assert_eq!(answer.header[36..38], [0, 0], "success");
        assert_eq!(answer.header[1] & 0x83, 0x83, "full feature phase");
        this.stat_sn = word(&answer.header, 24) + 1;
        this
    }

    fn send(&mut self, mut header: [u8; 48], data: &[u8]) {
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.stream.write_all(&bytes).expect("the target reads");
    }

    fn receive(&mut self) -> Pdu {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).expect("the target answers");
        let len = (word(&header, 4) & 0xFF_FFFF) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut data).expect("the target sends what it announced");
        data.truncate(len);
        Pdu { header, data }
    }

    /// Runs a command; returns its status and what was read.
    fn run(&mut self, cdb: &[u8], write: &[u8], read: usize) -> (u8, Vec<u8>) {
        self.tag += 1;
        let mut header = [0; 48];
        header[0] = 0x01;
        header[1] = 0x80 | if read > 0 { 0x40 } else { 0 } | if write.is_empty() { 0 } else { 0x20 };
        header[16..20].copy_from_slice(&self.tag.to_be_bytes());
        header[20..24].copy_from_slice(&(read.max(write.len()) as u32).to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.stat_sn.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        // Up to 8 KiB go with the command, the rest as the target asks for it.
        self.send(header, &write[..write.len().min(8192)]);
        let mut data = vec![0; read];
        loop {
            let pdu = self.receive();
            match pdu.header[0] {
                0x25 => {
                    let offset = word(&pdu.header, 40) as usize;
                    data[offset..offset + pdu.data.len()].copy_from_slice(&pdu.data);
                    if pdu.header[1] & 1 != 0 {
                        self.stat_sn = word(&pdu.header, 24) + 1;
                        return (pdu.header[3], data);
                    }
                }
                0x31 => self.data_out(&pdu, write),
                0x21 => {
                    self.stat_sn = word(&pdu.header, 24) + 1;
                    return (pdu.header[3], data);
                }
                other => panic!("an answer to the command, not opcode {other:#x}"),
            }
        }
    }

    fn data_out(&mut self, r2t: &Pdu, write: &[u8]) {
        let (offset, len) = (word(&r2t.header, 40) as usize, word(&r2t.header, 44) as usize);
        for (number, piece) in write[offset..offset + len].chunks(65536).enumerate() {
            let mut header = [0; 48];
            header[0] = 0x05;
            let at = offset + number * 65536;
            header[1] = if at + piece.len() == offset + len { 0x80 } else { 0 };
            header[16..20].copy_from_slice(&self.tag.to_be_bytes());
            header[20..24].copy_from_slice(&r2t.header[20..24]);
            header[28..32].copy_from_slice(&self.stat_sn.to_be_bytes());
            header[36..40].copy_from_slice(&(number as u32).to_be_bytes());
            header[40..44].copy_from_slice(&(at as u32).to_be_bytes());
            self.send(header, piece);
        }
    }

    fn ready(&mut self) {
        for _ in 0..4 {
            if self.run(&[0; 6], &[], 0).0 == 0 {
                return;
            }
        }
        panic!("the unit gets ready once its unit attentions are told");
    }

    fn write(&mut self, lba: u64, data: &[u8]) {
        assert_eq!(self.run(&cdb(0x8A, lba, data.len()), data, 0).0, 0, "WRITE at {lba}");
    }

    fn read(&mut self, lba: u64, len: usize) -> Vec<u8> {
        let (status, data) = self.run(&cdb(0x88, lba, len), &[], len);
        assert_eq!(status, 0, "READ at {lba}");
        data
    }
}

fn cdb(code: u8, lba: u64, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&((len / 512) as u32).to_be_bytes());
    cdb
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| ((n ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

#[test]
fn what_is_written_is_read_back_on_any_number_of_shards_and_after_a_restart() {
    let fixture = Fixture::new(64 << 20);
    // Small, crossing a chunk, crossing an extent, the largest.
    let writes = [(0u64, 512usize), (7, 4096), (100, 65536 + 512), (8192 - 3, 8192), (20000, 1 << 20)];
    for (round, (shards, pin)) in [(1u8, true), (2, false), (5, true)].into_iter().enumerate() {
        let tuning = Tuning { pin_buffers: pin, ..Tuning::default() };
        let (engine, address) = fixture.start(shards, tuning);
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
    let fixture = Fixture::new(32 << 20);
    for shards in [1, 3] {
        let (engine, address) = fixture.start(shards, Tuning::default());
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
    let fixture = Fixture::new(32 << 20);
    let (engine, address) = fixture.start(2, Tuning::default());
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
