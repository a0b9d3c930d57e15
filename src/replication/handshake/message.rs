//! The handshake's messages as bytes, little-endian. Sizes are fixed, so a transcript cannot be read two ways.
//!
//! ```text
//! Hello    0 magic "TWHS" | 4 type 1 | 5 role u8 (1 connects, 2 accepts) | 6 zero u16 | 8 version min u16 | 10 max u16
//!         12 node u8 | 13 shards u8 | 14 purpose u8 (1 control, 2 data) | 15 connector's shard u8
//!         16 listener's shard u8 | 17 volume name length u8 | 18 reads u8 (0 confirm, 1 lease) | 19 zero [5]
//!         24 session u64
//!         32 volume identifier [16] | 48 life [16] | 64 nonce [32] | 96 volume name [64]
//! Proof    0 magic "TWHS" | 4 type 2 | 5 zero [3] | 8 HMAC-SHA256 [32]
//! Refused  0 magic "TWHS" | 4 type 3 | 5 reason u8 | 6 zero [2]
//! ```
//!
//! The first 12 bytes of a Hello keep their place in every version, so that releases without a common version can
//! tell each other so.

use alloc::string::String;
use alloc::vec::Vec;

use crate::arbitration::Reads;
use crate::units::{NodeId, SHARDS_MAX, SessionId, ShardId};
use crate::wire::{Reader, Short, Writer};

use super::{Established, HandshakeError, LocalEnd, Purpose, RefusalReason, VersionRange};

/// Bytes of an encoded Hello.
pub(super) const HELLO_BYTES: usize = 160;
/// Bytes of an HMAC-SHA256.
pub(super) const MAC_BYTES: usize = 32;
/// Longest handshake message; a later version's Hello may be longer than this one's.
pub const MESSAGE_BYTES_MAX: usize = 512;
/// Longest volume name in bytes.
pub const VOLUME_NAME_MAX: usize = 64;

const PROOF_BYTES: usize = 8 + MAC_BYTES;
const REFUSED_BYTES: usize = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"TWHS");
const TYPE_HELLO: u8 = 1;
const TYPE_PROOF: u8 = 2;
const TYPE_REFUSED: u8 = 3;

const _: () = assert!(HELLO_BYTES <= MESSAGE_BYTES_MAX && 96 + VOLUME_NAME_MAX == HELLO_BYTES);

/// A Hello as it went over the wire; the proofs are taken over these bytes.
pub(super) type RawHello = [u8; HELLO_BYTES];

/// Any message, its frame checked and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Hello(RawHello),
    Proof([u8; MAC_BYTES]),
    Refused(RefusalReason),
}

impl Message {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        const SHORT: HandshakeError = HandshakeError::BadMessage("it ends too early");
        let mut reader = Reader::new(bytes);
        if reader.u32_le().map_err(|Short| SHORT)? != MAGIC {
            return Err(HandshakeError::BadMessage("it is not from twinlun"));
        }
        match reader.u8().map_err(|Short| SHORT)? {
            TYPE_HELLO => {
                // A Hello of a version that we do not speak may have another length: take what every version has.
                let mut raw = [0; HELLO_BYTES];
                let len = bytes.len().min(HELLO_BYTES);
                raw[..len].copy_from_slice(&bytes[..len]);
                if bytes.len() < 12 {
                    return Err(SHORT);
                }
                let same_length = bytes.len() == HELLO_BYTES;
                let known = super::VERSIONS.common(Hello::versions(&raw)).is_some();
                if known && !same_length {
                    return Err(HandshakeError::BadMessage("a Hello of the wrong length"));
                }
                Ok(Self::Hello(raw))
            }
            TYPE_PROOF if bytes.len() == PROOF_BYTES && bytes[5..8] == [0; 3] => {
                reader.skip(3).map_err(|Short| SHORT)?;
                Ok(Self::Proof(reader.array().map_err(|Short| SHORT)?))
            }
            TYPE_REFUSED if bytes.len() == REFUSED_BYTES => {
                let reason = match reader.u8().map_err(|Short| SHORT)? {
                    1 => RefusalReason::WrongSecret,
                    2 => RefusalReason::UnknownSession,
                    _ => RefusalReason::Other,
                };
                Ok(Self::Refused(reason))
            }
            TYPE_PROOF | TYPE_REFUSED => Err(HandshakeError::BadMessage("it has the wrong length")),
            _ => Err(HandshakeError::BadMessage("its type is unknown")),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        match self {
            Self::Hello(raw) => return raw.to_vec(),
            Self::Proof(mac) => {
                bytes.extend_from_slice(&[TYPE_PROOF, 0, 0, 0]);
                bytes.extend_from_slice(mac);
            }
            Self::Refused(reason) => bytes.extend_from_slice(&[TYPE_REFUSED, *reason as u8, 0, 0]),
        }
        bytes
    }
}

/// Which end sent a Hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Role {
    Connect = 1,
    Accept = 2,
}

/// A Hello's fields. `purpose` is seen from its sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) role: Role,
    pub(super) versions: VersionRange,
    pub(super) node: NodeId,
    pub(super) shards: u8,
    pub(super) purpose: Purpose,
    /// 0 in the Hello of a control link's connector.
    pub(super) session: SessionId,
    pub(super) volume: [u8; 16],
    pub(super) life: [u8; 16],
    pub(super) nonce: [u8; 32],
    pub(super) volume_name: String,
    pub(super) reads: Reads,
}

impl Hello {
    pub(super) fn of(local: &LocalEnd, role: Role, purpose: Purpose, nonce: [u8; 32]) -> Self {
        let session = match purpose {
            Purpose::Control => SessionId(0),
            Purpose::Data { session, .. } => session,
        };
        Self {
            role,
            versions: local.versions,
            node: local.node,
            shards: local.shards,
            purpose,
            session,
            volume: local.volume,
            life: local.life,
            nonce,
            volume_name: local.volume_name.clone(),
            reads: local.reads,
        }
    }

    /// The peer's half of an established link; `purpose` is seen from this end.
    pub(super) fn established(&self, purpose: Purpose, session: SessionId, version: u16) -> Established {
        Established {
            peer: self.node,
            peer_shards: self.shards,
            peer_life: self.life,
            purpose,
            session,
            version,
        }
    }

    /// The fields that have their place in every version.
    pub(super) fn versions(raw: &RawHello) -> VersionRange {
        VersionRange {
            min: u16::from_le_bytes([raw[8], raw[9]]),
            max: u16::from_le_bytes([raw[10], raw[11]]),
        }
    }

    pub(super) fn encode(&self) -> RawHello {
        let mut bytes = [0; HELLO_BYTES];
        self.write(&mut Writer::new(&mut bytes)).expect("a Hello has a fixed size");
        bytes
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), Short> {
        let (kind, local, peer) = match self.purpose {
            Purpose::Control => (1, 0, 0),
            Purpose::Data { local, peer, .. } => (2, local.0, peer.0),
        };
        let (connector, listener) = match self.role {
            Role::Connect => (local, peer),
            Role::Accept => (peer, local),
        };
        out.u32_le(MAGIC)?;
        out.bytes(&[TYPE_HELLO, self.role as u8, 0, 0])?;
        out.u16_le(self.versions.min)?;
        out.u16_le(self.versions.max)?;
        out.bytes(&[self.node.0, self.shards, kind, connector, listener, self.volume_name.len() as u8])?;
        out.u8(u8::from(self.reads == Reads::Lease))?;
        out.zeros(5)?;
        out.u64_le(self.session.0)?;
        out.bytes(&self.volume)?;
        out.bytes(&self.life)?;
        out.bytes(&self.nonce)?;
        out.bytes(self.volume_name.as_bytes())
    }

    pub(super) fn decode(raw: &RawHello) -> Result<Self, HandshakeError> {
        let bad = HandshakeError::BadMessage;
        Self::read(&mut Reader::new(raw)).map_err(|Short| bad("a Hello of the wrong length"))?
    }

    fn read(reader: &mut Reader<'_>) -> Result<Result<Self, HandshakeError>, Short> {
        reader.skip(5)?;
        let role = reader.u8()?;
        reader.skip(2)?;
        let versions = VersionRange { min: reader.u16_le()?, max: reader.u16_le()? };
        let [node, shards, kind, connector, listener, name_len] = reader.array()?;
        let reads = reader.u8()?;
        reader.skip(5)?;
        let session = SessionId(reader.u64_le()?);
        let volume = reader.array()?;
        let life = reader.array()?;
        let nonce = reader.array()?;
        let name = reader.bytes(VOLUME_NAME_MAX)?;
        Ok((|| {
            let bad = HandshakeError::BadMessage;
            let role = match role {
                1 => Role::Connect,
                2 => Role::Accept,
                _ => return Err(bad("a Hello without a role")),
            };
            let purpose = purpose_of(role, kind, session, connector, listener)?;
            if node > 1 {
                return Err(bad("its node number is not 0 or 1"));
            }
            if !(1..=SHARDS_MAX).contains(&usize::from(shards)) {
                return Err(bad("its number of shards is not possible"));
            }
            let reads = match reads {
                0 => Reads::Confirm,
                1 => Reads::Lease,
                _ => return Err(bad("its kind of reads is unknown")),
            };
            let name = name.get(..usize::from(name_len)).ok_or(bad("its volume name is too long"))?;
            let name = core::str::from_utf8(name).map_err(|_| bad("its volume name is not text"))?;
            Ok(Self {
                role,
                versions,
                node: NodeId(node),
                shards,
                purpose,
                session,
                volume,
                life,
                nonce,
                volume_name: String::from(name),
                reads,
            })
        })())
    }
}

fn purpose_of(
    role: Role,
    kind: u8,
    session: SessionId,
    connector: u8,
    listener: u8,
) -> Result<Purpose, HandshakeError> {
    let bad = HandshakeError::BadMessage;
    let (local, peer) = match role {
        Role::Connect => (ShardId(connector), ShardId(listener)),
        Role::Accept => (ShardId(listener), ShardId(connector)),
    };
    match kind {
        1 if role == Role::Connect && session.0 != 0 => Err(bad("the connector may not choose the session")),
        1 => Ok(Purpose::Control),
        2 if session.0 == 0 => Err(bad("a data link without a session")),
        2 => Ok(Purpose::Data { session, local, peer }),
        _ => Err(bad("its purpose is unknown")),
    }
}
