//! The login phase (RFC 7143 §6): leading login of a session, without authentication, over a blocking socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::Error;
use crate::pdu::{self, Header, get32, put32};

/// Login rounds after which a target that never lets the login end is given up.
const ROUNDS: u32 = 8;
/// Longest text that a target may send in one login or text response.
const TEXT_LIMIT: usize = 65_536;

/// What is offered at login.
#[derive(Clone, Debug)]
pub struct Offer {
    pub initiator: String,
    pub target: String,
    pub isid: [u8; 6],
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub first_burst: u32,
    pub max_burst: u32,
    pub max_recv: u32,
    /// CRC32C over headers and data.
    pub digests: bool,
    /// For the connection and for each answer of the login.
    pub timeout: Duration,
}

/// What was agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub first_burst: u32,
    pub max_burst: u32,
    /// MaxRecvDataSegmentLength that the target declared: the longest data segment it may be sent.
    pub send_limit: u32,
    /// MaxRecvDataSegmentLength that this initiator declared.
    pub recv_limit: u32,
    /// CRC32C follows every header and every data segment.
    pub digests: bool,
}

/// A connection in the full feature phase, and the numbers it begins with.
pub struct LoggedIn {
    pub stream: TcpStream,
    pub agreed: Agreed,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    pub max_cmd_sn: u32,
    pub tsih: u16,
    /// Every key=value that the target sent, in order.
    pub answers: Vec<(String, String)>,
}

/// Connects and logs in to a normal session.
pub fn normal(address: SocketAddr, offer: &Offer) -> Result<LoggedIn, Error> {
    let yes_no = |yes| if yes { "Yes" } else { "No" };
    let digest = if offer.digests { "CRC32C" } else { "None" };
    let operational = [
        ("HeaderDigest", digest.to_string()),
        ("DataDigest", digest.to_string()),
        ("ErrorRecoveryLevel", "0".to_string()),
        ("InitialR2T", yes_no(offer.initial_r2t).to_string()),
        ("ImmediateData", yes_no(offer.immediate_data).to_string()),
        ("MaxRecvDataSegmentLength", offer.max_recv.to_string()),
        ("MaxBurstLength", offer.max_burst.to_string()),
        ("FirstBurstLength", offer.first_burst.to_string()),
        ("MaxConnections", "1".to_string()),
        ("MaxOutstandingR2T", "1".to_string()),
        ("DefaultTime2Wait", "2".to_string()),
        ("DefaultTime2Retain", "0".to_string()),
        ("DataPDUInOrder", "Yes".to_string()),
        ("DataSequenceInOrder", "Yes".to_string()),
    ];
    let names = [
        ("InitiatorName", offer.initiator.clone()),
        ("SessionType", "Normal".to_string()),
        ("TargetName", offer.target.clone()),
        ("AuthMethod", "None".to_string()),
    ];
    Dialogue::open(address, offer)?.run(&names, &operational)
}

/// Connects and logs in to a discovery session.
pub fn discovery(address: SocketAddr, offer: &Offer) -> Result<LoggedIn, Error> {
    let names = [
        ("InitiatorName", offer.initiator.clone()),
        ("SessionType", "Discovery".to_string()),
        ("AuthMethod", "None".to_string()),
    ];
    let operational = [
        ("HeaderDigest", "None".to_string()),
        ("DataDigest", "None".to_string()),
        ("MaxRecvDataSegmentLength", offer.max_recv.to_string()),
    ];
    Dialogue::open(address, offer)?.run(&names, &operational)
}

struct Dialogue<'a> {
    stream: TcpStream,
    offer: &'a Offer,
    cmd_sn: u32,
    /// StatSN that the next answer must have; unknown before the first.
    exp_stat_sn: Option<u32>,
    max_cmd_sn: u32,
    tsih: u16,
    answers: Vec<(String, String)>,
}

impl<'a> Dialogue<'a> {
    fn open(address: SocketAddr, offer: &'a Offer) -> Result<Dialogue<'a>, Error> {
        let stream = TcpStream::connect_timeout(&address, offer.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(offer.timeout))?;
        stream.set_write_timeout(Some(offer.timeout))?;
        Ok(Dialogue {
            stream,
            offer,
            cmd_sn: 1,
            exp_stat_sn: None,
            max_cmd_sn: 0,
            tsih: 0,
            answers: Vec::new(),
        })
    }

    /// Security stage, then operational stage, then the full feature phase.
    fn run(mut self, names: &[(&str, String)], operational: &[(&str, String)]) -> Result<LoggedIn, Error> {
        self.stage(0, 1, names)?;
        self.stage(1, 3, operational)?;
        if self.tsih == 0 {
            return Err(Error::Protocol("the last login response has TSIH 0".into()));
        }
        let offered: Vec<&str> = names.iter().chain(operational).map(|(key, _)| *key).collect();
        let agreed = agree(self.offer, &self.answers, &offered)?;
        Ok(LoggedIn {
            stream: self.stream,
            agreed,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn.expect("a login has at least one answer"),
            max_cmd_sn: self.max_cmd_sn,
            tsih: self.tsih,
            answers: self.answers,
        })
    }

    /// Sends `keys` in stage `current` and goes on until the target agrees to enter stage `next`.
    fn stage(&mut self, current: u8, next: u8, keys: &[(&str, String)]) -> Result<(), Error> {
        let mut text: Vec<u8> = keys.iter().flat_map(|(k, v)| format!("{k}={v}\0").into_bytes()).collect();
        for _ in 0..ROUNDS {
            self.request(current, next, &text)?;
            let (header, data) = receive(&mut self.stream)?;
            self.check_response(&header, current, next)?;
            let continued = header[1] & 0x40 != 0;
            for (key, value) in parse_keys(&data)? {
                self.answers.push((key, value));
            }
            if header[1] & pdu::FINAL != 0 && !continued {
                self.tsih = u16::from_be_bytes([header[14], header[15]]);
                return Ok(());
            }
            text.clear();
        }
        Err(Error::Protocol(format!("login stage {current} did not end in {ROUNDS} rounds")))
    }

    fn request(&mut self, current: u8, next: u8, text: &[u8]) -> Result<(), Error> {
        let mut header: Header = [0; 48];
        header[0] = 0x43;
        header[1] = pdu::FINAL | current << 2 | next;
        pdu::set_data_length(&mut header, text.len());
        header[8..14].copy_from_slice(&self.offer.isid);
        put32(&mut header, 16, 1);
        put32(&mut header, 24, self.cmd_sn);
        put32(&mut header, 28, self.exp_stat_sn.unwrap_or(0));
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len() + pdu::padding(text.len()), 0);
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    fn check_response(&mut self, header: &Header, current: u8, next: u8) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Protocol(format!("login response: {text}")));
        if pdu::opcode(header) != pdu::LOGIN_RESPONSE {
            return wrong(format!("opcode {:02x}", header[0]));
        }
        if header[36] != 0 {
            return Err(Error::Refused { class: header[36], detail: header[37] });
        }
        if header[8..14] != self.offer.isid || pdu::task_tag(header) != 1 {
            return wrong("ISID or task tag is not the request's".into());
        }
        let stat_sn = get32(header, 24);
        if self.exp_stat_sn.is_some_and(|expected| expected != stat_sn) {
            return wrong(format!("StatSN {stat_sn}, not {:?}", self.exp_stat_sn));
        }
        self.exp_stat_sn = Some(stat_sn.wrapping_add(1));
        if get32(header, 28) != self.cmd_sn {
            return wrong(format!("ExpCmdSN {}, not {}", get32(header, 28), self.cmd_sn));
        }
        self.max_cmd_sn = get32(header, 32);
        let last = header[1] & pdu::FINAL != 0 && next == 3;
        if !last && (header[14], header[15]) != (0, 0) {
            return wrong("TSIH is set before the last response".into());
        }
        if header[1] & pdu::FINAL != 0 && header[1] & 0x0f != current << 2 | next {
            return wrong(format!("stages {:02x}", header[1] & 0x0f));
        }
        Ok(())
    }
}

/// Reads one whole PDU.
fn receive(stream: &mut TcpStream) -> Result<(Header, Vec<u8>), Error> {
    let mut header: Header = [0; 48];
    stream.read_exact(&mut header)?;
    let length = pdu::data_length(&header);
    if header[4] != 0 || length > TEXT_LIMIT {
        return Err(Error::Protocol("login response with additional headers or too much text".into()));
    }
    let mut data = vec![0; length + pdu::padding(length)];
    stream.read_exact(&mut data)?;
    data.truncate(length);
    Ok((header, data))
}

/// Splits `key=value` pairs that end in NUL bytes.
pub fn parse_keys(data: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::new();
    for item in data.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
        let text = std::str::from_utf8(item).map_err(|_| Error::Protocol("text is not UTF-8".into()))?;
        let (key, value) =
            text.split_once('=').ok_or_else(|| Error::Protocol(format!("text {text:?} has no '='")))?;
        pairs.push((key.to_string(), value.to_string()));
    }
    if !data.is_empty() && data.last() != Some(&0) {
        return Err(Error::Protocol("text does not end in NUL".into()));
    }
    Ok(pairs)
}

/// Works out the result of the negotiation and refuses answers that RFC 7143 §13 does not allow.
fn agree(offer: &Offer, answers: &[(String, String)], offered: &[&str]) -> Result<Agreed, Error> {
    // The defaults of RFC 7143 §13 hold for keys that were not negotiated.
    let mut agreed = Agreed {
        initial_r2t: true,
        immediate_data: true,
        first_burst: 65_536,
        max_burst: 262_144,
        send_limit: 8_192,
        recv_limit: offer.max_recv,
        digests: false,
    };
    let mut irrelevant = Vec::new();
    let mut digests = 0;
    for (key, value) in answers {
        if value == "Irrelevant" {
            irrelevant.push(key);
            continue;
        }
        let declared = ["TargetAlias", "TargetAddress", "TargetPortalGroupTag", "MaxRecvDataSegmentLength"];
        if !declared.contains(&key.as_str()) && !offered.contains(&key.as_str()) {
            return Err(Error::Protocol(format!("{key}={value} was not offered")));
        }
        match key.as_str() {
            // InitialR2T is the OR of both sides, ImmediateData the AND.
            "InitialR2T" => agreed.initial_r2t = flag(key, value)? || offer.initial_r2t,
            "ImmediateData" => agreed.immediate_data = flag(key, value)? && offer.immediate_data,
            "FirstBurstLength" => agreed.first_burst = length(key, value, offer.first_burst)?,
            "MaxBurstLength" => agreed.max_burst = length(key, value, offer.max_burst)?,
            "MaxRecvDataSegmentLength" => agreed.send_limit = length(key, value, 0x00ff_ffff)?,
            "HeaderDigest" | "DataDigest" if offer.digests && value == "CRC32C" => digests += 1,
            "HeaderDigest" | "DataDigest" if offer.digests => {
                return Err(Error::Protocol(format!("{key}={value}, and only CRC32C was offered")));
            }
            "HeaderDigest" | "DataDigest" | "AuthMethod" if value != "None" => {
                return Err(Error::Protocol(format!("{key}={value} was not offered")));
            }
            _ => {}
        }
    }
    // Of what is offered, only FirstBurstLength can be pointless: without any unsolicited data (RFC 7143 §13.14).
    let no_unsolicited = agreed.initial_r2t && !agreed.immediate_data;
    if let Some(key) = irrelevant.into_iter().find(|key| *key != "FirstBurstLength" || !no_unsolicited) {
        return Err(Error::Protocol(format!("{key}=Irrelevant, which it is not")));
    }
    agreed.digests = digests == 2;
    if agreed.first_burst > agreed.max_burst {
        return Err(Error::Protocol("FirstBurstLength exceeds MaxBurstLength".into()));
    }
    Ok(agreed)
}

fn flag(key: &str, value: &str) -> Result<bool, Error> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(Error::Protocol(format!("{key}={value} is neither Yes nor No"))),
    }
}

fn length(key: &str, value: &str, limit: u32) -> Result<u32, Error> {
    match value.parse() {
        Ok(number) if (512..=limit).contains(&number) => Ok(number),
        _ => Err(Error::Protocol(format!("{key}={value} is not in 512..={limit}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_and_bad_text_is_refused() {
        let pairs = parse_keys(b"A=1\0B=x=y\0").expect("well formed");
        assert_eq!(pairs, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
        assert!(parse_keys(b"A=1").is_err());
        assert!(parse_keys(b"novalue\0").is_err());
        assert!(parse_keys(b"").expect("no text").is_empty());
    }
}
