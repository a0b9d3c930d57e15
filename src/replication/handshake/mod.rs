//! Establishment of one link: both ends show that they know the pre-shared secret, that they serve the same volume
//! and speak a common version, before any other frame is accepted.
//!
//! ```text
//! connector                                   listener
//!   Hello (volume, node, shards, purpose,
//!          life, nonce)             ─────────▶  checks it
//!   checks it           ◀─────────  Hello (the same fields of the listener, the session's identifier)
//!   Proof = HMAC(secret, "connect" ‖ both Hellos) ─▶  checks it
//!   checks it           ◀─────────  Proof = HMAC(secret, "accept" ‖ both Hellos)
//! ```
//!
//! Each message is the payload of one Handshake frame. The proofs cover every byte of both Hellos, so a changed byte
//! anywhere ends in a refusal; both nonces are fresh, so an old conversation proves nothing; the two proofs differ in
//! their first word and the two Hellos in their role and node, so a message sent back to its author proves nothing
//! either. The connector proves itself first: a stranger who merely connects gets no material to guess the secret
//! with. A listener says why it refuses in one unauthenticated byte, which the connector reports as hearsay.
//!
//! The secret authenticates the ends when the link is made. Frames that follow carry CRCs, not MACs: the replication
//! network is trusted not to alter them, as with DRBD. Deadlines and sockets are the driver's.

mod message;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::arbitration::Reads;
use crate::units::{NodeId, SHARDS_MAX, SessionId, ShardId};

use message::{Hello, MAC_BYTES, Message, RawHello, Role};
pub use message::{MESSAGE_BYTES_MAX, VOLUME_NAME_MAX};

/// Link versions this release speaks.
pub const VERSIONS: VersionRange = VersionRange { min: 2, max: 2 };
/// Shortest secret that is accepted.
pub const SECRET_BYTES_MIN: usize = 16;

const CONNECT_TAG: &[u8] = b"twinlun link connect";
const ACCEPT_TAG: &[u8] = b"twinlun link accept\0";
const _: () = assert!(CONNECT_TAG.len() == ACCEPT_TAG.len());

/// Versions of the link's meaning that a node speaks, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRange {
    pub min: u16,
    pub max: u16,
}

impl VersionRange {
    /// The newest version in both ranges.
    fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// The pre-shared secret, ready for use. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct LinkKey(Hmac<Sha256>);

/// The secret has fewer than [`SECRET_BYTES_MIN`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecretTooShort {
    pub bytes: usize,
}

impl fmt::Display for SecretTooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret of {} bytes is too short; use at least {SECRET_BYTES_MIN}", self.bytes)
    }
}

impl core::error::Error for SecretTooShort {}

impl LinkKey {
    pub fn new(secret: &[u8]) -> Result<Self, SecretTooShort> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort { bytes: secret.len() });
        }
        Ok(Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")))
    }

    fn proof(&self, tag: &[u8], connector: &RawHello, listener: &RawHello) -> [u8; MAC_BYTES] {
        let mut mac = self.0.clone();
        mac.update(tag);
        mac.update(connector);
        mac.update(listener);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

/// This end, the same for all of its links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalEnd {
    /// The volume's identifier.
    pub volume: [u8; 16],
    /// For the other operator's error message; at most [`VOLUME_NAME_MAX`] bytes.
    pub volume_name: String,
    pub node: NodeId,
    /// 1..=[`SHARDS_MAX`].
    pub shards: u8,
    /// Random, another one with every start of the engine.
    pub life: [u8; 16],
    pub versions: VersionRange,
    /// How reads are answered; the same on both nodes.
    pub reads: Reads,
}

/// What a link is for, seen from this end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Shard 0 to shard 0; starts a session.
    Control,
    /// A data link of a session between this node's shard `local` and the other node's shard `peer`.
    Data { session: SessionId, local: ShardId, peer: ShardId },
}

/// What a listener knows about sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sessions {
    /// The session that starts if this is a control link: random, from the driver.
    pub new: SessionId,
    /// The session whose control link is up, which data links may join.
    pub current: Option<SessionId>,
}

/// An authenticated link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Established {
    pub peer: NodeId,
    /// Shards the peer runs with.
    pub peer_shards: u8,
    /// The peer's: tells whether it remembers what it did in an earlier session.
    pub peer_life: [u8; 16],
    pub purpose: Purpose,
    /// The session this link belongs to; of a control link, the one it started.
    pub session: SessionId,
    /// The version both speak.
    pub version: u16,
}

/// What the driver does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this message, then wait for the answer.
    Send(Vec<u8>),
    /// Send this message; the link is established.
    SendAndDone(Vec<u8>, Established),
    /// The link is established.
    Done(Established),
}

/// The link is refused: send `reply` if it is not empty, then close.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub error: HandshakeError,
    pub reply: Vec<u8>,
}

/// Why a link was refused, sorted by what an operator has to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HandshakeError {
    /// The other end does not know our secret.
    WrongSecret,
    /// The other end serves another volume.
    OtherVolume {
        theirs: String,
    },
    /// Both ends are configured as the same node.
    SameNode(NodeId),
    VersionMismatch {
        ours: VersionRange,
        theirs: VersionRange,
    },
    /// One end would use leases that the other does not wait out.
    OtherReads {
        ours: Reads,
        theirs: Reads,
    },
    /// A data link of a session that this node does not have (any more).
    UnknownSession(SessionId),
    /// A data link names a shard that its node does not have.
    UnknownShard {
        shard: ShardId,
        of: u8,
    },
    /// Not a message of this protocol, or one out of turn. What is wrong with it.
    BadMessage(&'static str),
    /// The listener refuses; what it said, unauthenticated.
    Refused(RefusalReason),
}

/// What a listener says when it refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RefusalReason {
    WrongSecret = 1,
    UnknownSession = 2,
    Other = 255,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongSecret => {
                write!(
                    f,
                    "the peer has another secret; the secret files of both nodes must hold the same bytes"
                )
            }
            Self::OtherVolume { theirs } => {
                write!(f, "the peer serves another volume (\"{}\"); check its address", theirs.escape_debug())
            }
            Self::SameNode(node) => {
                write!(f, "the peer also says it is node {}; start it with its own node name", node.0)
            }
            Self::VersionMismatch { ours, theirs } => write!(
                f,
                "no common link version: this release speaks {} to {}, the peer's {} to {}; upgrade the older",
                ours.min, ours.max, theirs.min, theirs.max
            ),
            Self::OtherReads { ours, theirs } => write!(
                f,
                "this node runs with reads = \"{}\", the peer with \"{}\"; give both the same [replication] reads and \
                 restart the one that is behind, the secondary first",
                ours.word(),
                theirs.word()
            ),
            Self::UnknownSession(session) => {
                write!(f, "data link of session {:016x}, which is not up (any more)", session.0)
            }
            Self::UnknownShard { shard, of } => {
                write!(f, "data link names shard {}; the node has {of}", shard.0)
            }
            Self::BadMessage(what) => write!(f, "not a valid link handshake: {what}"),
            Self::Refused(RefusalReason::WrongSecret) => {
                write!(
                    f,
                    "the peer refuses our secret; the secret files of both nodes must hold the same bytes"
                )
            }
            Self::Refused(RefusalReason::UnknownSession) => {
                write!(f, "the peer says that the session of this data link is not up (any more)")
            }
            Self::Refused(RefusalReason::Other) => {
                write!(f, "the peer refuses the link; its log says why")
            }
        }
    }
}

impl core::error::Error for HandshakeError {}

/// One end of one link under establishment.
#[derive(Debug)]
pub struct Handshake {
    key: LinkKey,
    local: LocalEnd,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Listener: waits for the connector's Hello.
    Listening { nonce: [u8; 32], sessions: Sessions },
    /// Connector: has sent its Hello, waits for the listener's.
    Greeted { sent: RawHello, purpose: Purpose },
    /// Listener: has answered, waits for the connector's proof.
    Answered { connector: RawHello, listener: RawHello, sessions: Sessions, outcome: Established },
    /// Connector: has sent its proof, waits for the listener's.
    Proven { connector: RawHello, listener: RawHello, outcome: Established },
    /// Established or refused.
    Over,
}

impl Handshake {
    /// The end that connected. Returns the message to send first. `nonce` is fresh randomness.
    pub fn connect(key: LinkKey, local: LocalEnd, purpose: Purpose, nonce: [u8; 32]) -> (Self, Vec<u8>) {
        local.check();
        if let Purpose::Data { session, local: shard, .. } = purpose {
            assert!(session.0 != 0 && shard.0 < local.shards, "a data link joins a session from a shard");
        }
        let sent = Hello::of(&local, Role::Connect, purpose, nonce).encode();
        let first = sent.to_vec();
        (Self { key, local, state: State::Greeted { sent, purpose } }, first)
    }

    /// The end that accepted. It waits for the connector's first message. `nonce` is fresh randomness.
    pub fn accept(key: LinkKey, local: LocalEnd, sessions: Sessions, nonce: [u8; 32]) -> Self {
        local.check();
        assert!(sessions.new.0 != 0, "session 0 means none");
        Self { key, local, state: State::Listening { nonce, sessions } }
    }

    /// The payload of the next Handshake frame from the other end. After a refusal or a step that ends with `Done`
    /// every further message is refused.
    pub fn on_message(&mut self, payload: &[u8]) -> Result<Step, Refusal> {
        let state = core::mem::replace(&mut self.state, State::Over);
        let message = Message::decode(payload).map_err(|error| match state {
            State::Listening { .. } | State::Answered { .. } => spoken(error, RefusalReason::Other),
            State::Greeted { .. } | State::Proven { .. } | State::Over => silent(error),
        })?;
        match (state, message) {
            (State::Listening { nonce, sessions }, Message::Hello(raw)) => {
                self.on_connector_hello(raw, nonce, sessions)
            }
            (State::Greeted { sent, purpose }, Message::Hello(raw)) => {
                self.on_listener_hello(sent, purpose, raw)
            }
            (State::Answered { connector, listener, sessions, outcome }, Message::Proof(proof)) => {
                self.on_connector_proof(&connector, &listener, sessions, outcome, &proof)
            }
            (State::Proven { connector, listener, outcome }, Message::Proof(proof)) => {
                let expected = self.key.proof(ACCEPT_TAG, &connector, &listener);
                if !bool::from(expected.ct_eq(&proof)) {
                    return Err(silent(HandshakeError::WrongSecret));
                }
                Ok(Step::Done(outcome))
            }
            (State::Greeted { .. } | State::Proven { .. }, Message::Refused(reason)) => {
                Err(silent(HandshakeError::Refused(reason)))
            }
            _ => Err(silent(HandshakeError::BadMessage("a message out of turn"))),
        }
    }

    fn on_connector_hello(
        &mut self,
        connector: RawHello,
        nonce: [u8; 32],
        sessions: Sessions,
    ) -> Result<Step, Refusal> {
        let (theirs, version) = self.check_hello(&connector, Role::Connect).map_err(|error| {
            // Our Hello lets the other end find the same fault and name it to its operator.
            let ours = Hello::of(&self.local, Role::Accept, Purpose::Control, nonce).encode();
            Refusal { error, reply: ours.to_vec() }
        })?;
        let purpose = match theirs.purpose {
            Purpose::Control => Purpose::Control,
            Purpose::Data { session, local, peer } => Purpose::Data { session, local: peer, peer: local },
        };
        self.check_shards(purpose, theirs.shards).map_err(|error| spoken(error, RefusalReason::Other))?;
        let session = match purpose {
            Purpose::Control => sessions.new,
            Purpose::Data { session, .. } => session,
        };
        let mut ours = Hello::of(&self.local, Role::Accept, purpose, nonce);
        ours.session = session;
        let listener = ours.encode();
        let outcome = theirs.established(purpose, session, version);
        self.state = State::Answered { connector, listener, sessions, outcome };
        Ok(Step::Send(listener.to_vec()))
    }

    fn on_listener_hello(
        &mut self,
        connector: RawHello,
        purpose: Purpose,
        listener: RawHello,
    ) -> Result<Step, Refusal> {
        let (theirs, version) = self.check_hello(&listener, Role::Accept).map_err(silent)?;
        let agreed = match (purpose, theirs.purpose) {
            (Purpose::Control, Purpose::Control) => theirs.session.0 != 0,
            (
                Purpose::Data { session, local, peer },
                Purpose::Data { session: same, local: far, peer: near },
            ) => session == same && local == near && peer == far,
            _ => false,
        };
        if !agreed {
            return Err(silent(HandshakeError::BadMessage("the answer is to another question")));
        }
        self.check_shards(purpose, theirs.shards).map_err(silent)?;
        let outcome = theirs.established(purpose, theirs.session, version);
        let proof = Message::Proof(self.key.proof(CONNECT_TAG, &connector, &listener)).encode();
        self.state = State::Proven { connector, listener, outcome };
        Ok(Step::Send(proof))
    }

    fn on_connector_proof(
        &mut self,
        connector: &RawHello,
        listener: &RawHello,
        sessions: Sessions,
        outcome: Established,
        proof: &[u8; MAC_BYTES],
    ) -> Result<Step, Refusal> {
        let expected = self.key.proof(CONNECT_TAG, connector, listener);
        if !bool::from(expected.ct_eq(proof)) {
            return Err(spoken(HandshakeError::WrongSecret, RefusalReason::WrongSecret));
        }
        // Only now may the other end learn which sessions exist.
        match outcome.purpose {
            Purpose::Data { session, .. } if sessions.current != Some(session) => {
                return Err(spoken(HandshakeError::UnknownSession(session), RefusalReason::UnknownSession));
            }
            Purpose::Data { .. } | Purpose::Control => {}
        }
        let ours = self.key.proof(ACCEPT_TAG, connector, listener);
        Ok(Step::SendAndDone(Message::Proof(ours).encode(), outcome))
    }

    /// Everything that a Hello must satisfy whoever sent it; also the version to speak.
    fn check_hello(&self, raw: &RawHello, role: Role) -> Result<(Hello, u16), HandshakeError> {
        let ours = self.local.versions;
        let theirs = Hello::versions(raw);
        let version = ours.common(theirs).ok_or(HandshakeError::VersionMismatch { ours, theirs })?;
        let hello = Hello::decode(raw)?;
        if hello.volume != self.local.volume {
            return Err(HandshakeError::OtherVolume { theirs: hello.volume_name });
        }
        if hello.node == self.local.node {
            return Err(HandshakeError::SameNode(hello.node));
        }
        if hello.role != role {
            return Err(HandshakeError::BadMessage("both ends connected, or neither did"));
        }
        if hello.reads != self.local.reads {
            return Err(HandshakeError::OtherReads { ours: self.local.reads, theirs: hello.reads });
        }
        Ok((hello, version))
    }

    fn check_shards(&self, purpose: Purpose, peer_shards: u8) -> Result<(), HandshakeError> {
        let Purpose::Data { local, peer, .. } = purpose else { return Ok(()) };
        for (shard, of) in [(local, self.local.shards), (peer, peer_shards)] {
            if shard.0 >= of {
                return Err(HandshakeError::UnknownShard { shard, of });
            }
        }
        Ok(())
    }
}

/// A listener's refusal, with a word to the other end.
fn spoken(error: HandshakeError, reason: RefusalReason) -> Refusal {
    Refusal { error, reply: Message::Refused(reason).encode() }
}

/// A refusal that the other end need not hear of.
fn silent(error: HandshakeError) -> Refusal {
    Refusal { error, reply: Vec::new() }
}

impl LocalEnd {
    fn check(&self) {
        assert!(self.volume_name.len() <= VOLUME_NAME_MAX, "volume names are limited by the configuration");
        assert!((1..=SHARDS_MAX).contains(&usize::from(self.shards)), "a node has 1 to {SHARDS_MAX} shards");
        assert!(self.node.0 < 2, "there are two nodes");
    }
}

#[cfg(test)]
mod tests;
