//! What a connection asks of its driver.
//!
//! The driver drains an [`Outbox`] before the next input. Sends stay in the order given; other effects may run in any
//! order among themselves, except that [`Effect::Close`] comes after everything queued before it was sent, and
//! [`Effect::Free`] after every send that uses the buffer.

use alloc::vec::Vec;
use core::fmt;

use crate::block::{BlockRequest, BufSlice, UnitChange};
use crate::units::{BufId, RequestId};

use super::bhs::{Bhs, pad_of};
use super::name::InitiatorName;

/// The data segment of a PDU to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendData {
    None,
    /// A range of [`Outbox::bytes`]; copy it before the outbox is cleared.
    Inline {
        start: u32,
        len: u32,
    },
    /// `len` bytes of a data buffer, unchanged until the send has completed.
    Buf(BufSlice, u32),
}

impl SendData {
    pub fn len(&self) -> usize {
        match *self {
            Self::None => 0,
            Self::Inline { len, .. } | Self::Buf(_, len) => len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One session endpoint, as the driver registers it: the initiator port's name is `name,i,isid` (RFC 7143 §4.4.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NexusName {
    pub initiator: InitiatorName,
    pub isid: [u8; 6],
    pub portal_group_tag: u16,
}

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The initiator logged out.
    Logout,
    /// The login was refused; the status has been sent.
    LoginRefused(super::login::LoginStatus),
    /// No full feature phase within the login timer.
    LoginTimeout,
    /// The initiator broke the protocol; a Reject may have been sent.
    Protocol(&'static str),
    /// No answer to the target's NOP-In.
    Unresponsive,
    /// A newer session of the same initiator port took its place (RFC 7143 §6.3.5), or the operator asked.
    Replaced,
    /// An initiator has reset the target as a whole.
    Reset,
    /// The initiator was asked to log out and has not.
    Overstayed,
    /// The node may not answer any more; the initiator must find the other one.
    NotServing,
}

/// What the driver does with the bytes of two buffers, and what it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Examine {
    /// The offset of the first byte of `left` that differs from `right`; `None`: they are equal.
    Compare,
    /// Sets in `left` the bits that are set in `right`. Answers `None`.
    Or,
    /// Fills `left` with copies of its first `block` bytes. The offset of the first byte that is not zero; `None`: all are.
    /// `right` is not looked at.
    Repeat { block: u32 },
}

/// Effects of a [`Connection`](super::Connection).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a PDU: header, data, then `pad` (0..=3) zero bytes; with the digests that
    /// [`Connection::digests_of`](super::Connection::digests_of) names.
    Send { header: Bhs, data: SendData, pad: u8 },
    /// Do this; answer with `on_block_done`.
    Block(BlockRequest),
    /// Look at `len` bytes of data buffers ([`Examine`]); answer with `on_examined` as soon as this outbox is drained.
    Examine { id: RequestId, how: Examine, left: BufSlice, right: BufSlice, len: u32 },
    /// The core is done with the buffer. It is free once no send or disk operation uses it.
    Free(BufId),
    /// Login is agreed. The driver closes an older session of the same nexus (session reinstatement, RFC 7143 §6.3.5)
    /// unless this is a discovery session, waits until that one is idle, and then calls `on_admitted` with a TSIH that no
    /// live session has; only then does the initiator learn of its success. With a `tsih` other than 0 the initiator
    /// means the live session of this nexus with that TSIH: with the same `cid` its connection is replaced and the TSIH
    /// stays (§6.3.4), else `on_refused` says why not. The driver may move the connection to another shard first. Until
    /// one of the calls the connection demands nothing.
    FullFeature { nexus: NexusName, tsih: u16, cid: u16, discovery: bool },
    /// Have the unit's memory changed; answer with `on_unit_answer`, exactly once.
    ChangeUnit(UnitChange),
    /// What `on_unit` told of, by its number, is done as far as this connection goes.
    UnitQuiet(u64),
    /// Close the TCP connection after everything before this was sent, then call `on_closed`.
    Close { reason: CloseReason },
}

/// A reused list of effects and the bytes that some of them refer to.
#[derive(Debug, Default)]
pub struct Outbox {
    pub effects: Vec<Effect>,
    pub bytes: Vec<u8>,
}

impl Outbox {
    pub fn new() -> Self {
        Self { effects: Vec::with_capacity(64), bytes: Vec::with_capacity(16 * 1024) }
    }

    /// Forgets everything; the allocations stay.
    pub fn clear(&mut self) {
        self.effects.clear();
        self.bytes.clear();
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// A PDU without data.
    pub(super) fn send(&mut self, header: Bhs) {
        self.push(Effect::Send { header, data: SendData::None, pad: 0 });
    }

    /// A PDU whose data is copied into the outbox. For control traffic, not for media data.
    pub(super) fn send_bytes(&mut self, mut header: Bhs, data: &[u8]) {
        if data.is_empty() {
            return self.send(header);
        }
        set_data_len(&mut header, data.len());
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(data);
        let data = SendData::Inline { start, len: data.len() as u32 };
        self.push(Effect::Send { header, data, pad: pad_of(data.len()) as u8 });
    }

    /// A PDU whose data stays where it is.
    pub(super) fn send_slice(&mut self, mut header: Bhs, slice: BufSlice, len: u32) {
        set_data_len(&mut header, len as usize);
        let pad = pad_of(len as usize) as u8;
        self.push(Effect::Send { header, data: SendData::Buf(slice, len), pad });
    }
}

fn set_data_len(header: &mut Bhs, len: usize) {
    assert!(len < 1 << 24, "a data segment has a 24-bit length");
    header[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logout => write!(f, "the initiator logged out"),
            Self::LoginRefused(status) => write!(f, "login refused: {status}"),
            Self::LoginTimeout => write!(f, "login was not finished in time"),
            Self::Protocol(what) => write!(f, "the initiator broke the protocol: {what}"),
            Self::Unresponsive => write!(f, "the initiator does not answer NOP-In"),
            Self::Replaced => write!(f, "the session was replaced"),
            Self::Reset => write!(f, "the target was reset"),
            Self::Overstayed => write!(f, "the initiator was asked to log out and did not"),
            Self::NotServing => write!(f, "this node does not serve any more"),
        }
    }
}
