//! TransportIDs of iSCSI initiators (SPC-4 §7.6.4.6): of a whole initiator (format 00b) or of one of its ports (01b).

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use super::InitiatorPort;

/// PROTOCOL IDENTIFIER of iSCSI.
const ISCSI: u8 = 0x5;
/// Between name and ISID.
const SEPARATOR: &str = ",i,0x";
const HEADER_BYTES: usize = 4;
/// The shortest ADDITIONAL LENGTH.
const TEXT_BYTES_MIN: usize = 20;
/// Longest iSCSI name.
const NAME_BYTES_MAX: usize = 223;

/// It is no TransportID of an iSCSI initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unintelligible;

/// Reads the first TransportID and returns what follows it.
pub fn decode(bytes: &[u8]) -> Result<(InitiatorPort, &[u8]), Unintelligible> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(Unintelligible)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] & 0x0F != ISCSI || length < TEXT_BYTES_MIN || length % 4 != 0 {
        return Err(Unintelligible);
    }
    let (text, rest) = rest.split_at_checked(length).ok_or(Unintelligible)?;
    let end = text.iter().position(|byte| *byte == 0).ok_or(Unintelligible)?;
    let text = core::str::from_utf8(&text[..end]).map_err(|_| Unintelligible)?.to_ascii_lowercase();
    let initiator = match header[0] >> 6 {
        0b00 => InitiatorPort { name: text, isid: None },
        0b01 => {
            let (name, isid) = text.rsplit_once(SEPARATOR).ok_or(Unintelligible)?;
            InitiatorPort { name: name.to_owned(), isid: Some(hex_isid(isid)?) }
        }
        _ => return Err(Unintelligible),
    };
    if is_name(&initiator.name) { Ok((initiator, rest)) } else { Err(Unintelligible) }
}

/// Twelve hexadecimal digits.
fn hex_isid(text: &str) -> Result<[u8; 6], Unintelligible> {
    if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Unintelligible);
    }
    let value = u64::from_str_radix(text, 16).map_err(|_| Unintelligible)?;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Ok(isid)
}

/// Could an initiator log in under this name?
pub fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.len() > 4
        && ["iqn.", "eui.", "naa."].iter().any(|prefix| name.starts_with(prefix))
        && !name.chars().any(|c| c.is_control() || c.is_whitespace() || c.is_ascii_uppercase())
}

/// Appends a TransportID.
pub fn encode(initiator: &InitiatorPort, data_in: &mut Vec<u8>) {
    let at = data_in.len();
    let format = if initiator.isid.is_some() { 0x40 } else { 0x00 };
    data_in.extend_from_slice(&[format | ISCSI, 0, 0, 0]);
    data_in.extend_from_slice(initiator.name.as_bytes());
    if let Some(isid) = initiator.isid {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        data_in.extend_from_slice(SEPARATOR.as_bytes());
        data_in.extend(
            isid.iter().flat_map(|byte| [byte >> 4, byte & 0xF]).map(|digit| DIGITS[usize::from(digit)]),
        );
    }
    // At least one NUL, and whole words.
    let text = data_in.len() - at - HEADER_BYTES;
    let length = (text / 4 * 4 + 4).max(TEXT_BYTES_MIN);
    data_in.resize(at + HEADER_BYTES + length, 0);
    let length = u16::try_from(length).expect("names are short");
    data_in[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
}
