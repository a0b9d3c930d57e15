//! Text keys (RFC 7143 §6 and §13): splitting `key=value` text, and the answer to each operational key.
//!
//! The target never offers a key of its own except the declarative MaxRecvDataSegmentLength, and answers only what was
//! offered: Windows repeats its request for ever when it meets a key that it did not ask for.
//!
//! Absent on purpose: CHAP (`chap` answers it in the security stage), vendor keys (answered NotUnderstood like any other).

use alloc::vec::Vec;

use super::limits::Limits;

/// Longest key (§6.1).
pub const KEY_BYTES_MAX: usize = 63;
/// Longest value that is read at all, of any key.
pub const VALUE_BYTES_MAX: usize = 8192;
/// Longest value of an operational key (§6.1). CHAP's binary values are longer and bounded where they are decoded.
const OPERATIONAL_BYTES_MAX: usize = 255;
/// Most text of one negotiation exchange, over all its continuation PDUs.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Most text of one answer. Many unknown keys make a longer answer than the request: each comes back NotUnderstood.
pub const REPLY_BYTES_MAX: usize = 32 * 1024;
/// MaxRecvDataSegmentLength that holds until declared otherwise (§13.12).
pub const DEFAULT_MAX_RECV: u32 = 8192;

const REJECT: &str = "Reject";
const IRRELEVANT: &str = "Irrelevant";
const NOT_UNDERSTOOD: &str = "NotUnderstood";

/// Why text cannot be split. The initiator's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextError {
    NotUtf8,
    NoEquals,
    BadKey,
    ValueTooLong,
    /// A key came a second time in one negotiation (§6.3).
    Repeated,
    /// A declared value is out of its range.
    BadDeclaration,
}

/// Splits text into pairs. Empty strings between NULs are passed over.
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, &'a str), TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let end = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
            let (pair, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or(&[]);
            if !pair.is_empty() {
                return Some(split(pair));
            }
        }
    }
}

fn split(pair: &[u8]) -> Result<(&str, &str), TextError> {
    let text = core::str::from_utf8(pair).map_err(|_| TextError::NotUtf8)?;
    let (key, value) = text.split_once('=').ok_or(TextError::NoEquals)?;
    let key_ok = !key.is_empty()
        && key.len() <= KEY_BYTES_MAX
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+@_#".contains(&b));
    if !key_ok {
        return Err(TextError::BadKey);
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(TextError::ValueTooLong);
    }
    Ok((key, value))
}

/// Appends `key=value NUL`.
pub fn put(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

pub fn put_number(out: &mut Vec<u8>, key: &str, value: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put(out, key, core::str::from_utf8(&digits[at..]).expect("digits are ASCII"));
}

/// A numerical value (§6.1): decimal or 0x hexadecimal.
pub fn number(value: &str) -> Option<u64> {
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((value, 10), |digits| (digits, 16));
    // from_str_radix would also take a sign.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// What the two sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// CRC32C behind every header in full feature phase, else none.
    pub header_digest: bool,
    /// CRC32C behind every data segment in full feature phase, else none.
    pub data_digest: bool,
    /// Longest data segment the initiator takes.
    pub initiator_max_recv: u32,
    /// Longest data segment the target takes.
    pub target_max_recv: u32,
    pub max_burst: u32,
    /// Never more than `max_burst`.
    pub first_burst: u32,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub max_outstanding_r2t: u16,
    /// Seconds.
    pub time2wait: u16,
    /// Seconds.
    pub time2retain: u16,
}

impl Default for Parameters {
    /// The values of §13 that hold when a key is not negotiated.
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initiator_max_recv: DEFAULT_MAX_RECV,
            target_max_recv: DEFAULT_MAX_RECV,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// Operational keys; the discriminant is the bit in the "seen" set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    HeaderDigest,
    DataDigest,
    MaxConnections,
    InitialR2t,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2t,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    TaskReporting,
    ProtocolLevel,
    /// IFMarker and OFMarker of RFC 3720.
    IfMarker,
    OfMarker,
    /// Keys that only the target sends, or that have no place in a login.
    Misplaced,
}

impl Key {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HeaderDigest" => Self::HeaderDigest,
            "DataDigest" => Self::DataDigest,
            "MaxConnections" => Self::MaxConnections,
            "InitialR2T" => Self::InitialR2t,
            "ImmediateData" => Self::ImmediateData,
            "MaxRecvDataSegmentLength" => Self::MaxRecvDataSegmentLength,
            "MaxBurstLength" => Self::MaxBurstLength,
            "FirstBurstLength" => Self::FirstBurstLength,
            "DefaultTime2Wait" => Self::DefaultTime2Wait,
            "DefaultTime2Retain" => Self::DefaultTime2Retain,
            "MaxOutstandingR2T" => Self::MaxOutstandingR2t,
            "DataPDUInOrder" => Self::DataPduInOrder,
            "DataSequenceInOrder" => Self::DataSequenceInOrder,
            "ErrorRecoveryLevel" => Self::ErrorRecoveryLevel,
            "TaskReporting" => Self::TaskReporting,
            "iSCSIProtocolLevel" => Self::ProtocolLevel,
            "IFMarker" => Self::IfMarker,
            "OFMarker" => Self::OfMarker,
            "IFMarkInt" | "OFMarkInt" | "TargetAddress" | "TargetPortalGroupTag" | "SendTargets" => {
                Self::Misplaced
            }
            _ => return None,
        })
    }

    /// Keys that mean nothing in a discovery session (§13).
    fn normal_only(self) -> bool {
        matches!(
            self,
            Self::MaxConnections
                | Self::InitialR2t
                | Self::ImmediateData
                | Self::MaxBurstLength
                | Self::FirstBurstLength
                | Self::MaxOutstandingR2t
                | Self::DataPduInOrder
                | Self::DataSequenceInOrder
                | Self::TaskReporting
        )
    }
}

/// The operational negotiation of one login.
#[derive(Clone, Debug)]
pub struct Negotiation {
    pub parameters: Parameters,
    limits: Limits,
    discovery: bool,
    seen: u32,
    /// Value of FirstBurstLength, answered last: it depends on three other keys.
    first_burst: Option<Result<u32, ()>>,
    declared: bool,
}

impl Negotiation {
    pub fn new(limits: Limits) -> Self {
        Self {
            parameters: Parameters::default(),
            limits,
            discovery: false,
            seen: 0,
            first_burst: None,
            declared: false,
        }
    }

    /// The session type is known.
    pub fn set_discovery(&mut self, discovery: bool) {
        self.discovery = discovery;
    }

    /// Takes one pair and appends the answer, if it needs one. Call [`finish`](Self::finish) after the last pair of a
    /// request.
    pub fn answer(&mut self, name: &str, value: &str, out: &mut Vec<u8>) -> Result<(), TextError> {
        let Some(key) = Key::named(name) else {
            put(out, name, NOT_UNDERSTOOD);
            return Ok(());
        };
        if value.len() > OPERATIONAL_BYTES_MAX {
            return Err(TextError::ValueTooLong);
        }
        if matches!(value, REJECT | IRRELEVANT | NOT_UNDERSTOOD) {
            // An answer to something the target declared; nothing follows from it.
            return Ok(());
        }
        if key != Key::Misplaced {
            let bit = 1 << key as u32;
            if self.seen & bit != 0 {
                return Err(TextError::Repeated);
            }
            self.seen |= bit;
        }
        if self.discovery && key.normal_only() {
            put(out, name, IRRELEVANT);
            return Ok(());
        }
        self.result(key, name, value, out)
    }

    fn result(&mut self, key: Key, name: &str, value: &str, out: &mut Vec<u8>) -> Result<(), TextError> {
        let (limits, discovery) = (self.limits, self.discovery);
        let parameters = &mut self.parameters;
        match key {
            Key::HeaderDigest => {
                let required = limits.require_header_digest;
                parameters.header_digest = digest(out, name, value, discovery, required);
            }
            Key::DataDigest => {
                let required = limits.require_data_digest;
                parameters.data_digest = digest(out, name, value, discovery, required);
            }
            Key::TaskReporting => choose(out, name, value, "RFC3720"),
            Key::MaxConnections => minimum(out, name, value, 1..=65_535, 1, |_| ()),
            Key::InitialR2t => {
                or(out, name, value, limits.initial_r2t, |value| parameters.initial_r2t = value)
            }
            Key::ImmediateData => {
                and(out, name, value, limits.immediate_data, |value| parameters.immediate_data = value)
            }
            Key::MaxRecvDataSegmentLength => {
                parameters.initiator_max_recv = max_recv(value)?;
            }
            Key::MaxBurstLength => {
                minimum(out, name, value, 512..=0xFF_FFFF, limits.max_burst, |value| {
                    parameters.max_burst = value;
                });
            }
            Key::FirstBurstLength => self.first_burst = Some(in_range(value, 512..=0xFF_FFFF).ok_or(())),
            Key::DefaultTime2Wait => match in_range(value, 0..=3600) {
                // The larger of both, and of this side's none: an initiator that can come back at once shall.
                Some(value) => {
                    parameters.time2wait = value as u16;
                    put_number(out, name, value);
                }
                None => put(out, name, REJECT),
            },
            Key::DefaultTime2Retain => {
                minimum(out, name, value, 0..=3600, 0, |value| parameters.time2retain = value as u16);
            }
            Key::MaxOutstandingR2t => minimum(out, name, value, 1..=65_535, 8, |value| {
                parameters.max_outstanding_r2t = value as u16;
            }),
            Key::DataPduInOrder | Key::DataSequenceInOrder => or(out, name, value, true, |_| ()),
            Key::ErrorRecoveryLevel => minimum(out, name, value, 0..=2, 0, |_| ()),
            Key::ProtocolLevel => minimum(out, name, value, 0..=31, 1, |_| ()),
            // "No" is what every implementation of RFC 3720 takes; markers themselves are gone (§13.25).
            Key::IfMarker | Key::OfMarker => and(out, name, value, false, |_| ()),
            Key::Misplaced => put(out, name, REJECT),
        }
        Ok(())
    }

    /// After the last pair of a request that was complete: answers FirstBurstLength and, in the operational stage, once
    /// declares the target's MaxRecvDataSegmentLength.
    pub fn finish(&mut self, declare: bool, out: &mut Vec<u8>) {
        let name = "FirstBurstLength";
        let parameters = &mut self.parameters;
        match self.first_burst.take() {
            Some(_) if parameters.initial_r2t && !parameters.immediate_data => put(out, name, IRRELEVANT),
            Some(Ok(value)) => {
                parameters.first_burst = value.min(self.limits.first_burst).min(parameters.max_burst);
                put_number(out, name, parameters.first_burst);
            }
            Some(Err(())) => put(out, name, REJECT),
            None => {}
        }
        // A first burst that was not negotiated is still bounded by the burst (§13.14), and by a buffer.
        let bound = parameters.max_burst.min(self.limits.first_burst);
        parameters.first_burst = parameters.first_burst.min(bound);
        if declare && !self.declared {
            self.declared = true;
            parameters.target_max_recv = self.limits.max_recv_data_segment;
            put_number(out, "MaxRecvDataSegmentLength", self.limits.max_recv_data_segment);
        }
    }
}

/// MaxRecvDataSegmentLength as the initiator declares it, in a login or later (§13.12).
pub fn max_recv(value: &str) -> Result<u32, TextError> {
    in_range(value, 512..=0xFF_FFFF).ok_or(TextError::BadDeclaration)
}

/// Answers the pairs of a Text Request that are no SendTargets (§6.4): few keys may change in full feature phase.
pub fn answer_later(name: &str, out: &mut Vec<u8>) {
    put(out, name, if Key::named(name).is_some() { REJECT } else { NOT_UNDERSTOOD });
}

fn in_range(value: &str, range: core::ops::RangeInclusive<u64>) -> Option<u32> {
    number(value).filter(|value| range.contains(value)).map(|value| value as u32)
}

/// HeaderDigest and DataDigest (§13.1): the initiator's first choice, or CRC32C alone where that is required. In a
/// discovery session None where it may be: some initiators offer CRC32C there and then do not keep to it. True: CRC32C.
fn digest(out: &mut Vec<u8>, name: &str, offered: &str, discovery: bool, required: bool) -> bool {
    let has = |wanted: &str| offered.split(',').any(|value| value == wanted);
    let first = offered.split(',').find(|value| matches!(*value, "None" | "CRC32C"));
    let chosen = match (discovery, required) {
        (true, _) if has("None") => Some("None"),
        (false, true) => Some("CRC32C").filter(|value| has(value)),
        _ => first,
    };
    put(out, name, chosen.unwrap_or(REJECT));
    chosen == Some("CRC32C")
}

/// List-of-values: the initiator's first choice that the target knows; it knows one.
fn choose(out: &mut Vec<u8>, name: &str, offered: &str, known: &str) {
    let found = offered.split(',').any(|value| value == known);
    put(out, name, if found { known } else { REJECT });
}

fn minimum(
    out: &mut Vec<u8>,
    name: &str,
    value: &str,
    range: core::ops::RangeInclusive<u64>,
    own: u32,
    set: impl FnOnce(u32),
) {
    match in_range(value, range) {
        Some(value) => {
            let result = value.min(own);
            set(result);
            put_number(out, name, result);
        }
        None => put(out, name, REJECT),
    }
}

fn or(out: &mut Vec<u8>, name: &str, value: &str, own: bool, set: impl FnOnce(bool)) {
    match boolean(value) {
        Some(value) => {
            set(value || own);
            put(out, name, yes_no(value || own));
        }
        None => put(out, name, REJECT),
    }
}

fn and(out: &mut Vec<u8>, name: &str, value: &str, own: bool, set: impl FnOnce(bool)) {
    match boolean(value) {
        Some(value) => {
            set(value && own);
            put(out, name, yes_no(value && own));
        }
        None => put(out, name, REJECT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    fn negotiate(discovery: bool, text: &str) -> Result<(Parameters, String), TextError> {
        let mut negotiation = Negotiation::new(Limits::default());
        negotiation.set_discovery(discovery);
        let mut out = Vec::new();
        for pair in Pairs::new(text.replace(' ', "\0").as_bytes()) {
            let (key, value) = pair?;
            negotiation.answer(key, value, &mut out)?;
        }
        negotiation.finish(true, &mut out);
        let text = String::from_utf8(out).expect("answers are text");
        Ok((negotiation.parameters, text.trim_end_matches('\0').replace('\0', " ").to_string()))
    }

    #[test]
    fn windows_offer() {
        let (parameters, text) = negotiate(
            false,
            "HeaderDigest=None,CRC32C DataDigest=None,CRC32C ErrorRecoveryLevel=2 InitialR2T=No \
             ImmediateData=Yes MaxRecvDataSegmentLength=65536 MaxBurstLength=262144 FirstBurstLength=65536 \
             MaxConnections=32 MaxOutstandingR2T=16 DefaultTime2Wait=0 DefaultTime2Retain=60",
        )
        .expect("well-formed");
        assert_eq!(
            text,
            "HeaderDigest=None DataDigest=None ErrorRecoveryLevel=0 InitialR2T=Yes ImmediateData=Yes \
             MaxBurstLength=262144 MaxConnections=1 MaxOutstandingR2T=8 DefaultTime2Wait=0 \
             DefaultTime2Retain=0 FirstBurstLength=65536 MaxRecvDataSegmentLength=262144"
        );
        assert_eq!(parameters.initiator_max_recv, 65536);
        assert_eq!(parameters.max_burst, 262_144);
        assert!(parameters.initial_r2t && parameters.immediate_data);
    }

    #[test]
    fn bad_values_are_rejected_not_clamped() {
        let (parameters, text) = negotiate(
            false,
            "MaxBurstLength=511 FirstBurstLength=16777216 MaxConnections=0 MaxOutstandingR2T=65536 \
             DefaultTime2Wait=3601 DefaultTime2Retain=-1 InitialR2T=yes ErrorRecoveryLevel=3 \
             HeaderDigest=MD5 X-com.example.key=1 SendTargets=All",
        )
        .expect("well-formed");
        assert_eq!(
            text,
            "MaxBurstLength=Reject MaxConnections=Reject MaxOutstandingR2T=Reject DefaultTime2Wait=Reject \
             DefaultTime2Retain=Reject InitialR2T=Reject ErrorRecoveryLevel=Reject HeaderDigest=Reject \
             X-com.example.key=NotUnderstood SendTargets=Reject FirstBurstLength=Reject \
             MaxRecvDataSegmentLength=262144"
        );
        assert_eq!(parameters, Parameters { target_max_recv: 262_144, ..Parameters::default() });
    }

    #[test]
    fn irrelevant_where_nothing_depends_on_it() {
        let (_, text) = negotiate(false, "FirstBurstLength=4096 ImmediateData=No").expect("well-formed");
        assert_eq!(text, "ImmediateData=No FirstBurstLength=Irrelevant MaxRecvDataSegmentLength=262144");
        let (_, text) =
            negotiate(true, "MaxBurstLength=4096 HeaderDigest=None DefaultTime2Wait=5").expect("well-formed");
        assert_eq!(
            text,
            "MaxBurstLength=Irrelevant HeaderDigest=None DefaultTime2Wait=5 MaxRecvDataSegmentLength=262144"
        );
    }

    #[test]
    fn first_burst_never_exceeds_the_burst() {
        let (parameters, text) =
            negotiate(false, "FirstBurstLength=65536 MaxBurstLength=8192").expect("well-formed");
        assert_eq!(parameters.first_burst, 8192);
        assert!(text.contains("FirstBurstLength=8192"));
        let (parameters, _) = negotiate(false, "MaxBurstLength=4096").expect("well-formed");
        assert_eq!(parameters.first_burst, 4096);
    }

    #[test]
    fn blame_of_bad_text() {
        assert_eq!(negotiate(false, "InitialR2T=No InitialR2T=No"), Err(TextError::Repeated));
        assert_eq!(negotiate(false, "MaxRecvDataSegmentLength=100"), Err(TextError::BadDeclaration));
        assert_eq!(negotiate(false, "novalue"), Err(TextError::NoEquals));
        assert_eq!(negotiate(false, "=1"), Err(TextError::BadKey));
        let long = alloc::format!("{}=1", "k".repeat(64));
        assert_eq!(negotiate(false, &long), Err(TextError::BadKey));
        assert!(Pairs::new(b"a=\xFF\0").next().is_some_and(|pair| pair == Err(TextError::NotUtf8)));
    }

    #[test]
    fn numbers_in_both_notations() {
        assert_eq!(number("0x1000"), Some(4096));
        assert_eq!(number("42"), Some(42));
        for bad in ["", "0x", "+1", "0x+1", "-1", "1 ", "99999999999999999999"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }
}
