//! A small initiator, and bytes that tell where they belong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{IQN, PATIENCE};

/// Just enough of an initiator: one command at a time, data whole and immediate or after one R2T.
pub struct Initiator {
    pub stream: TcpStream,
    pub cmd_sn: u32,
    stat_sn: u32,
    tag: u32,
}

struct Pdu {
    header: [u8; 48],
    data: Vec<u8>,
}

impl Initiator {
    pub fn login(address: SocketAddr, isid: u8) -> Self {
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
    pub fn run(&mut self, cdb: &[u8], write: &[u8], read: usize) -> (u8, Vec<u8>) {
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

    pub fn ready(&mut self) {
        for _ in 0..4 {
            if self.run(&[0; 6], &[], 0).0 == 0 {
                return;
            }
        }
        panic!("the unit gets ready once its unit attentions are told");
    }

    pub fn write(&mut self, lba: u64, data: &[u8]) {
        assert_eq!(self.run(&cdb(0x8A, lba, data.len()), data, 0).0, 0, "WRITE at {lba}");
    }

    pub fn read(&mut self, lba: u64, len: usize) -> Vec<u8> {
        let (status, data) = self.run(&cdb(0x88, lba, len), &[], len);
        assert_eq!(status, 0, "READ at {lba}");
        data
    }
}

pub fn cdb(code: u8, lba: u64, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&((len / 512) as u32).to_be_bytes());
    cdb
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| ((n ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
