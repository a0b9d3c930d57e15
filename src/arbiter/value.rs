//! The record as text, for back ends that keep text: readable by people, compared by machines.
//!
//! ```text
//! twinlun/1 pair=<32 hex digits> record=<64 hex digits> epoch=7 primary=1 in_sync=0,1
//! ```
//!
//! Only `pair` and `record` count; the rest is `record` once more for whoever looks at it by hand. `pair` says whose
//! record it is: without it, a second pair of nodes that was set up with a copied configuration would take the first
//! one's record for its own.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;

use crate::arbitration::{RECORD_BYTES, Record, RecordError};
use crate::units::NodeId;

/// Longest text that is looked at.
pub const VALUE_MAX: usize = 512;

/// Which pair of nodes a record belongs to. The same on both nodes, another one for every other pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairId(pub [u8; 16]);

/// Why a text is not this pair's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueError {
    /// It does not look like a record at all.
    Foreign,
    /// It is the record of another pair.
    OtherPair(PairId),
    Damaged(RecordError),
}

impl std::fmt::Display for PairId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..4]))
    }
}

impl std::fmt::Display for ValueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => write!(f, "it is not a record of twinlun's"),
            Self::OtherPair(pair) => write!(f, "it is the record of another pair of nodes ({pair})"),
            Self::Damaged(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ValueError {}

/// The text that stands for a record.
pub fn encode(pair: PairId, record: &Record) -> String {
    let (pair, bytes) = (HEXLOWER.encode(&pair.0), HEXLOWER.encode(&record.encode()));
    let mut text = format!("twinlun/1 pair={pair} record={bytes} epoch={}", record.epoch.0);
    let primary = record.primary.map_or("none".to_owned(), |node| node.0.to_string());
    let in_sync = [0, 1].into_iter().filter(|id| record.in_sync.contains(NodeId(*id)));
    let in_sync = in_sync.map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let _ = write!(text, " primary={primary} in_sync={in_sync}");
    text
}

/// The record of `pair` that a text stands for.
pub fn decode(pair: PairId, text: &[u8]) -> Result<Record, ValueError> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= VALUE_MAX);
    let mut words = text.ok_or(ValueError::Foreign)?.split(' ');
    if words.next() != Some("twinlun/1") {
        return Err(ValueError::Foreign);
    }
    let mut field = |name: &str| -> Option<Vec<u8>> {
        let value = words.next()?.strip_prefix(name)?.strip_prefix('=')?;
        HEXLOWER.decode(value.as_bytes()).ok()
    };
    let found: [u8; 16] = field("pair").and_then(|bytes| bytes.try_into().ok()).ok_or(ValueError::Foreign)?;
    if PairId(found) != pair {
        return Err(ValueError::OtherPair(PairId(found)));
    }
    let bytes: [u8; RECORD_BYTES] = field("record")
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(ValueError::Damaged(RecordError::Damaged))?;
    Record::decode(&bytes).map_err(ValueError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::{Epoch, NodeSet};

    const PAIR: PairId = PairId([0xA5; 16]);

    fn record() -> Record {
        Record { epoch: Epoch(7), primary: Some(NodeId(1)), in_sync: NodeSet::BOTH, nonce: 99 }
    }

    #[test]
    fn a_record_is_text_that_people_can_read() {
        let text = encode(PAIR, &record());
        assert!(text.ends_with(" epoch=7 primary=1 in_sync=0,1"), "{text}");
        assert!(text.len() < VALUE_MAX);
        assert_eq!(decode(PAIR, text.as_bytes()), Ok(record()));
        assert_eq!(decode(PAIR, format!("{text} more=words").as_bytes()), Ok(record()));
        assert_eq!(decode(PAIR, encode(PAIR, &Record::default()).as_bytes()), Ok(Record::default()));
    }

    #[test]
    fn what_is_not_the_pairs_record_is_told_apart() {
        let text = encode(PAIR, &record());
        let other = PairId([1; 16]);
        assert_eq!(decode(other, text.as_bytes()), Err(ValueError::OtherPair(PAIR)));
        for foreign in ["", "hello", "twinlun/2 pair=", "twinlun/1 pair=12 record=", "twinlun/1"] {
            assert_eq!(decode(PAIR, foreign.as_bytes()), Err(ValueError::Foreign), "{foreign}");
        }
        assert_eq!(decode(PAIR, &vec![b' '; VALUE_MAX + 1]), Err(ValueError::Foreign));
        assert_eq!(decode(PAIR, &[0xFF; 4]), Err(ValueError::Foreign));
        let at = text.find("record=").expect("a field") + 9;
        let flipped = if &text[at..=at] == "0" { "1" } else { "0" };
        let damaged = format!("{}{flipped}{}", &text[..at], &text[at + 1..]);
        assert_eq!(decode(PAIR, damaged.as_bytes()), Err(ValueError::Damaged(RecordError::Damaged)));
        assert!(decode(PAIR, &text.as_bytes()[..at]).is_err());
    }
}
