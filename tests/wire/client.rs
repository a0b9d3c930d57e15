//! An initiator that knows nothing but bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::support::{IQN, PATIENCE};
use twinlun::wire::crc32c;

pub const NO_TAG: u32 = 0xFFFF_FFFF;
/// Bits of a SCSI Command's flags: final, read, write.
pub const F: u8 = 0x80;
pub const R: u8 = 0xC0;
pub const W: u8 = 0xA0;

/// A PDU from the target; digests and padding are checked and gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pdu {
    pub bhs: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.bhs[0]
    }

    pub fn word(&self, at: usize) -> u32 {
        word(&self.bhs, at)
    }

    pub fn itt(&self) -> u32 {
        self.word(16)
    }

    /// Class and detail of a Login Response.
    pub fn login_status(&self) -> u16 {
        assert_eq!(self.opcode(), 0x23, "a Login Response");
        (self.word(36) >> 16) as u16
    }

    /// SCSI status, and sense key, code and qualifier.
    pub fn status(&self) -> (u8, Option<(u8, u8, u8)>) {
        assert!(matches!(self.opcode(), 0x21 | 0x25), "opcode {:02x}", self.opcode());
        let sense = (self.opcode() == 0x21 && self.data.len() > 15)
            .then(|| (self.data[4] & 15, self.data[14], self.data[15]));
        (self.bhs[3], sense)
    }

    pub fn text(&self) -> String {
        let text = String::from_utf8(self.data.clone()).expect("text is UTF-8");
        assert!(text.is_empty() || text.ends_with('\0'), "text ends with NUL");
        text.trim_end_matches('\0').replace('\0', " ")
    }
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn set(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// One TCP connection to the target.
pub struct Wire {
    pub stream: TcpStream,
    pub header_digest: bool,
    pub data_digest: bool,
    pub cmd_sn: u32,
    /// The StatSN that comes next, once one was seen.
    pub stat_sn: Option<u32>,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub cid: u16,
    pub initiator: String,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the portal listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("socket option");
        stream.set_nodelay(true).expect("socket option");
        Self {
            stream,
            header_digest: false,
            data_digest: false,
            cmd_sn: 1,
            stat_sn: None,
            isid: [0x40, 0, 1, 0x37, 0, 0],
            tsih: 0,
            cid: 1,
            initiator: "iqn.1991-05.com.microsoft:host".to_owned(),
        }
    }

    /// A normal session of initiator port `isid`, unit attention heard.
    pub fn session(address: SocketAddr, isid: u8) -> Self {
        let mut wire = Self::connect(address);
        wire.isid[5] = isid;
        wire.enter("MaxRecvDataSegmentLength=262144 ImmediateData=Yes InitialR2T=Yes");
        wire.hear_attention();
        wire
    }

    /// Logs in to a normal session in two steps, `keys` in the operational one.
    pub fn enter(&mut self, keys: &str) -> Pdu {
        let names = format!("InitiatorName={} TargetName={IQN} AuthMethod=None", self.initiator);
        let first = self.login(0x81, &names);
        assert_eq!((first.login_status(), first.bhs[1]), (0, 0x81));
        let last = self.login(0x87, keys);
        assert_eq!((last.login_status(), last.bhs[1]), (0, 0x87));
        self.tsih = u16::from_be_bytes([last.bhs[14], last.bhs[15]]);
        assert_ne!(self.tsih, 0);
        last
    }

    /// One Login Request and its answer.
    pub fn login(&mut self, flags: u8, text: &str) -> Pdu {
        let bhs = self.login_bhs(flags);
        self.send(bhs, &as_text(text));
        self.receive()
    }

    pub fn login_bhs(&self, flags: u8) -> [u8; 48] {
        let mut bhs = [0; 48];
        bhs[0] = 0x43;
        bhs[1] = flags;
        bhs[8..14].copy_from_slice(&self.isid);
        bhs[14..16].copy_from_slice(&self.tsih.to_be_bytes());
        set(&mut bhs, 16, 7);
        bhs[20..22].copy_from_slice(&self.cid.to_be_bytes());
        set(&mut bhs, 24, self.cmd_sn);
        set(&mut bhs, 28, self.stat_sn.unwrap_or(0));
        bhs
    }

    pub fn hear_attention(&mut self) {
        let answer = self.command(0xFFFF, F, 0, &[0; 16], &[]);
        assert_eq!(answer.status(), (2, Some((6, 0x29, 0))));
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the target reads");
    }

    /// Sends a PDU with its digests and padding; the length is filled in.
    pub fn send(&mut self, mut bhs: [u8; 48], data: &[u8]) {
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = bhs.to_vec();
        if self.header_digest {
            bytes.extend(crc32c(&bhs).to_le_bytes());
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        bytes.extend(&padded);
        if self.data_digest && !data.is_empty() {
            bytes.extend(crc32c(&padded).to_le_bytes());
        }
        self.send_raw(&bytes);
    }

    pub fn receive(&mut self) -> Pdu {
        self.next().expect("the target answers")
    }

    /// The next PDU; `None` when the target has closed the connection.
    pub fn next(&mut self) -> Option<Pdu> {
        let mut bhs = [0; 48];
        match self.stream.read_exact(&mut bhs) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("the target neither answers nor closes: {error}"),
        }
        assert_eq!(bhs[4], 0, "the target sends no additional header segments");
        let digested = self.header_digest && bhs[0] != 0x23;
        if digested {
            assert_eq!(self.word_read(), crc32c(&bhs).to_le_bytes(), "the header's digest");
        }
        let len = (word(&bhs, 4) & 0xFF_FFFF) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut data).expect("the target sends what it announced");
        if self.data_digest && len > 0 && bhs[0] != 0x23 {
            assert_eq!(self.word_read(), crc32c(&data).to_le_bytes(), "the data's digest");
        }
        assert!(data[len..].iter().all(|byte| *byte == 0), "padding is zero");
        data.truncate(len);
        let pdu = Pdu { bhs, data };
        self.check_numbers(&pdu);
        Some(pdu)
    }

    fn word_read(&mut self) -> [u8; 4] {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes).expect("a digest");
        bytes
    }

    /// StatSN rises by one with each PDU that carries status, and with no other.
    fn check_numbers(&mut self, pdu: &Pdu) {
        let with_status = match pdu.opcode() {
            0x25 => pdu.bhs[1] & 1 != 0,
            0x31 => false,
            0x20 => pdu.itt() != NO_TAG,
            _ => true,
        };
        if pdu.opcode() == 0x25 && !with_status {
            return;
        }
        let stat_sn = pdu.word(24);
        assert_eq!(stat_sn, self.stat_sn.unwrap_or(stat_sn), "StatSN");
        self.stat_sn = Some(stat_sn.wrapping_add(u32::from(with_status)));
    }

    pub fn expect_closed(&mut self) {
        while let Some(pdu) = self.next() {
            assert_eq!(pdu.opcode(), 0x20, "nothing but pings before the end");
        }
    }

    /// Header of a SCSI Command with the next CmdSN.
    pub fn command_bhs(&mut self, itt: u32, flags: u8, expected: u32, cdb: &[u8]) -> [u8; 48] {
        let mut bhs = [0; 48];
        bhs[0] = 0x01;
        bhs[1] = flags;
        set(&mut bhs, 16, itt);
        set(&mut bhs, 20, expected);
        set(&mut bhs, 24, self.cmd_sn);
        set(&mut bhs, 28, self.stat_sn.unwrap_or(0));
        bhs[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        bhs
    }

    pub fn send_command(&mut self, itt: u32, flags: u8, expected: u32, cdb: &[u8], data: &[u8]) {
        let bhs = self.command_bhs(itt, flags, expected, cdb);
        self.send(bhs, data);
    }

    /// A command and its one answer.
    pub fn command(&mut self, itt: u32, flags: u8, expected: u32, cdb: &[u8], data: &[u8]) -> Pdu {
        self.send_command(itt, flags, expected, cdb, data);
        let answer = self.receive();
        assert_eq!(answer.itt(), itt);
        answer
    }

    /// Parameter data of a command.
    pub fn fetch(&mut self, expected: u32, cdb: &[u8]) -> Vec<u8> {
        let answer = self.command(0x1000, R, expected, cdb, &[]);
        assert_eq!((answer.opcode(), answer.status().0), (0x25, 0), "{cdb:02x?}: {answer:02x?}");
        answer.data
    }

    /// An immediate request with tag, and a second field at 20.
    pub fn request(&self, opcode: u8, flags: u8, itt: u32, second: u32) -> [u8; 48] {
        let mut bhs = [0; 48];
        bhs[0] = 0x40 | opcode;
        bhs[1] = flags;
        set(&mut bhs, 16, itt);
        set(&mut bhs, 20, second);
        set(&mut bhs, 24, self.cmd_sn);
        set(&mut bhs, 28, self.stat_sn.unwrap_or(0));
        bhs
    }

    /// Asks for a task management function.
    pub fn manage(&mut self, function: u8, lun: u8, itt: u32, referenced: u32) {
        let mut bhs = self.request(0x02, F | function, itt, referenced);
        bhs[9] = lun;
        self.send(bhs, &[]);
    }

    /// Answers an R2T with `data` of the whole command in PDUs of `segment` bytes. The LUN is not set, as Windows does.
    pub fn answer_r2t(&mut self, r2t: &Pdu, data: &[u8], segment: usize) {
        assert_eq!((r2t.opcode(), r2t.bhs[1]), (0x31, 0x80), "an R2T");
        let (start, len) = (r2t.word(40) as usize, r2t.word(44) as usize);
        for (number, piece) in data[start..start + len].chunks(segment).enumerate() {
            let at = start + number * segment;
            let mut bhs = [0; 48];
            bhs[0] = 0x05;
            bhs[1] = if at + piece.len() == start + len { F } else { 0 };
            set(&mut bhs, 16, r2t.itt());
            set(&mut bhs, 20, r2t.word(20));
            set(&mut bhs, 28, self.stat_sn.unwrap_or(0));
            set(&mut bhs, 36, number as u32);
            set(&mut bhs, 40, at as u32);
            self.send(bhs, piece);
        }
    }

    /// A WRITE with `immediate` bytes at once and the rest as the target asks; its answer.
    pub fn write(&mut self, lba: u32, data: &[u8], immediate: usize) -> Pdu {
        let cdb = cdb10(0x2A, lba, data.len());
        self.send_command(0x2000, W, data.len() as u32, &cdb, &data[..immediate]);
        loop {
            let pdu = self.receive();
            match pdu.opcode() {
                0x31 => self.answer_r2t(&pdu, data, 65_536),
                _ => return pdu,
            }
        }
    }

    /// READ(10); checks offsets, DataSN and flags of every Data-In.
    pub fn read(&mut self, lba: u32, len: usize) -> Vec<u8> {
        self.send_command(0x3000, R, len as u32, &cdb10(0x28, lba, len), &[]);
        let mut data = Vec::new();
        for number in 0.. {
            let pdu = self.receive();
            assert_eq!((pdu.opcode(), pdu.itt()), (0x25, 0x3000));
            assert_eq!((pdu.word(36), pdu.word(40) as usize), (number, data.len()), "DataSN and offset");
            data.extend(&pdu.data);
            if pdu.bhs[1] & 1 != 0 {
                assert_eq!((pdu.bhs[1], pdu.bhs[3]), (0x81, 0));
                break;
            }
        }
        assert_eq!(data.len(), len);
        data
    }

    pub fn is_ready(&mut self) -> bool {
        self.command(0x4000, F, 0, &[0; 16], &[]).status().0 == 0
    }

    pub fn log_out(mut self) {
        let bhs = self.request(0x06, F, 0x5000, 0);
        self.send(bhs, &[]);
        let answer = self.receive();
        assert_eq!((answer.opcode(), answer.bhs[2], answer.itt()), (0x26, 0, 0x5000));
        self.expect_closed();
    }
}

/// Blanks to NULs, one at the end.
pub fn as_text(text: &str) -> Vec<u8> {
    let mut bytes = text.replace(' ', "\0").into_bytes();
    if !bytes.is_empty() {
        bytes.push(0);
    }
    bytes
}

/// READ(10), WRITE(10) and their like, for `len` bytes of 512-byte blocks.
pub fn cdb10(code: u8, lba: u32, len: usize) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = code;
    set(&mut cdb, 2, lba);
    cdb[7..9].copy_from_slice(&((len / 512) as u16).to_be_bytes());
    cdb
}
