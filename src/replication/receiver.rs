//! Cuts the byte stream of a link into checked frames, by the [`Demand`] contract.
//!
//! Data of [`Write`](FrameKind::Write) and its like goes to a pool buffer; a [`ForwardRead`](FrameKind::ForwardRead)
//! brings none, but gets a buffer for its answer; the short payloads of Bitmap, Control and Handshake frames come as bytes. A frame is handed out only when its header and its
//! payload passed their CRCs. The first error ends the stream: a receiver that lost its place never finds it again.
//!
//! Until [`admit`](FrameReceiver::admit) only short Handshake frames are accepted, so that a stranger can neither
//! reach the volume's cores nor make the node hold a buffer.

use crate::units::{BufId, CHUNK_BYTES, Pool};
use crate::wire::{Demand, crc32c};

use super::frame::{FrameError, FrameHeader, FrameKind, HEADER_BYTES};
use super::handshake::MESSAGE_BYTES_MAX;

/// What came with a frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    None,
    /// A buffer that is now the caller's to free: `payload_len` bytes from offset 0, or room for the answer to a
    /// ForwardRead.
    Buf(BufId),
    /// Bitmap, Control and Handshake.
    Bytes(&'a [u8]),
}

/// A checked frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    pub header: FrameHeader,
    pub payload: Payload<'a>,
}

/// Receiving half of one link.
#[derive(Debug)]
pub struct FrameReceiver {
    state: State,
    admitted: bool,
}

#[derive(Debug)]
enum State {
    Header,
    /// A header whose payload wants a buffer that the pool has not given yet.
    Wanting(FrameHeader, u32),
    Data(FrameHeader, u32, BufId),
    /// A header that wants a buffer for its answer, and then with it.
    WantingRoom(FrameHeader),
    Room(FrameHeader, BufId),
    Bytes(FrameHeader, u32),
    /// An error was found. A buffer may be left to take back.
    Failed(Option<BufId>),
}

/// How a kind carries its payload.
enum Carries {
    Nothing,
    Data,
    /// Nothing, but its answer needs a buffer of `value` bytes.
    Room,
    Text {
        may_be_empty: bool,
    },
}

impl Default for FrameReceiver {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameReceiver {
    /// A receiver that accepts Handshake frames only.
    pub fn new() -> Self {
        Self { state: State::Header, admitted: false }
    }

    /// The peer has proven itself: from the next frame on every kind but Handshake is accepted.
    pub fn admit(&mut self) {
        self.admitted = true;
    }

    /// What the stream is to bring next. May take a buffer; [`Demand::Stalled`] when the pool has none: ask again
    /// when one came free.
    pub fn demand(&mut self, pool: &mut impl Pool) -> Demand {
        if let State::Wanting(header, crc) = self.state {
            let Some(buf) = pool.take(header.payload_len as usize) else { return Demand::Stalled };
            self.state = State::Data(header, crc, buf);
        }
        if let State::WantingRoom(header) = self.state {
            let Some(buf) = pool.take(header.value as usize) else { return Demand::Stalled };
            self.state = State::Room(header, buf);
        }
        match self.state {
            State::Header => Demand::Bytes { len: HEADER_BYTES },
            State::Wanting(..) | State::WantingRoom(_) => Demand::Stalled,
            State::Room(..) => Demand::Skip { len: 0 },
            State::Data(header, _, buf) => Demand::Data { buf, offset: 0, len: header.payload_len as usize },
            State::Bytes(header, _) => Demand::Bytes { len: header.payload_len as usize },
            State::Failed(_) => Demand::Closed,
        }
    }

    /// The bytes that [`Demand::Bytes`] asked for.
    pub fn on_bytes<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let result = match self.state {
            State::Header => self.on_header(bytes),
            State::Bytes(header, crc) => {
                assert_eq!(bytes.len(), header.payload_len as usize, "the driver brings what was asked for");
                self.state = State::Header;
                check_payload(bytes, crc).map(|()| Some(Frame { header, payload: Payload::Bytes(bytes) }))
            }
            State::Wanting(..)
            | State::Data(..)
            | State::WantingRoom(_)
            | State::Room(..)
            | State::Failed(_) => {
                unreachable!("bytes were not asked for")
            }
        };
        if result.is_err() {
            self.state = State::Failed(None);
        }
        result
    }

    /// The data that [`Demand::Data`] asked for, as it lies in the buffer.
    pub fn on_data(&mut self, data: &[u8]) -> Result<Frame<'static>, FrameError> {
        let State::Data(header, crc, buf) = self.state else { unreachable!("data was not asked for") };
        assert_eq!(data.len(), header.payload_len as usize, "the driver brings what was asked for");
        match check_payload(data, crc) {
            Ok(()) => {
                self.state = State::Header;
                Ok(Frame { header, payload: Payload::Buf(buf) })
            }
            Err(error) => {
                self.state = State::Failed(Some(buf));
                Err(error)
            }
        }
    }

    /// The nothing that [`Demand::Skip`] asked for: the frame has the buffer for its answer.
    pub fn on_skipped(&mut self) -> Frame<'static> {
        let State::Room(header, buf) = self.state else { unreachable!("a skip was not asked for") };
        self.state = State::Header;
        Frame { header, payload: Payload::Buf(buf) }
    }

    /// The stream is over, by an error or because it was closed: hands back a buffer that was being filled.
    pub fn take_buffer(&mut self) -> Option<BufId> {
        match core::mem::replace(&mut self.state, State::Failed(None)) {
            State::Data(_, _, buf) | State::Room(_, buf) => Some(buf),
            State::Failed(buf) => buf,
            State::Header | State::Wanting(..) | State::WantingRoom(_) | State::Bytes(..) => None,
        }
    }

    fn on_header<'a>(&mut self, bytes: &[u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let bytes = bytes.try_into().expect("the driver brings what was asked for");
        let (header, crc) = FrameHeader::decode(bytes)?;
        self.check_place(&header)?;
        let FrameHeader { kind, payload_len: len, .. } = header;
        match carries(kind) {
            Carries::Nothing | Carries::Room if len > 0 => Err(FrameError::UnexpectedPayload { kind, len }),
            Carries::Nothing => Ok(Some(Frame { header, payload: Payload::None })),
            Carries::Room if !(1..=CHUNK_BYTES as u64).contains(&header.value) => {
                Err(FrameError::AnswerTooLong(header.value))
            }
            Carries::Room => {
                self.state = State::WantingRoom(header);
                Ok(None)
            }
            Carries::Text { may_be_empty: true } if len == 0 => {
                Ok(Some(Frame { header, payload: Payload::Bytes(&[]) }))
            }
            Carries::Data | Carries::Text { .. } if len == 0 => Err(FrameError::MissingPayload(kind)),
            Carries::Data => {
                self.state = State::Wanting(header, crc);
                Ok(None)
            }
            Carries::Text { .. } => {
                self.state = State::Bytes(header, crc);
                Ok(None)
            }
        }
    }

    fn check_place(&self, header: &FrameHeader) -> Result<(), FrameError> {
        if self.admitted == (header.kind == FrameKind::Handshake) {
            return Err(FrameError::OutOfPlace(header.kind));
        }
        let limit = if self.admitted { CHUNK_BYTES } else { MESSAGE_BYTES_MAX };
        if header.payload_len as usize > limit {
            return Err(FrameError::PayloadTooLong(header.payload_len));
        }
        Ok(())
    }
}

fn carries(kind: FrameKind) -> Carries {
    match kind {
        FrameKind::Write | FrameKind::ResyncData | FrameKind::ForwardWrite | FrameKind::ForwardData => {
            Carries::Data
        }
        FrameKind::ForwardRead => Carries::Room,
        FrameKind::Bitmap => Carries::Text { may_be_empty: true },
        FrameKind::Control | FrameKind::Handshake => Carries::Text { may_be_empty: false },
        FrameKind::WriteAck
        | FrameKind::Zero
        | FrameKind::Flush
        | FrameKind::FlushAck
        | FrameKind::Confirm
        | FrameKind::ConfirmAck
        | FrameKind::ForwardOrder
        | FrameKind::ForwardAck
        | FrameKind::ResyncAck => Carries::Nothing,
    }
}

fn check_payload(bytes: &[u8], stored: u32) -> Result<(), FrameError> {
    let computed = crc32c(bytes);
    if computed == stored { Ok(()) } else { Err(FrameError::BadPayloadCrc { computed, stored }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::Epoch;
    use crate::units::LaneId;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    struct Buffers {
        left: u32,
        taken: u32,
    }

    impl Pool for Buffers {
        fn take(&mut self, len: usize) -> Option<BufId> {
            assert!((1..=CHUNK_BYTES).contains(&len));
            self.left = self.left.checked_sub(1)?;
            self.taken += 1;
            Some(BufId(self.taken))
        }
    }

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut header = FrameHeader::new(kind, LaneId(1), Epoch(2));
        header.payload_len = payload.len() as u32;
        let mut bytes = header.encode(if payload.is_empty() { 0 } else { crc32c(payload) }).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn admitted() -> FrameReceiver {
        let mut receiver = FrameReceiver::new();
        receiver.admit();
        receiver
    }

    /// Feeds a stream; returns each frame's kind and payload, and the error that ended it.
    fn feed(
        receiver: &mut FrameReceiver,
        pool: &mut Buffers,
        mut stream: &[u8],
    ) -> (Vec<(FrameKind, Vec<u8>)>, Option<FrameError>) {
        let mut frames = Vec::new();
        loop {
            let demand = receiver.demand(pool);
            let len = match demand {
                Demand::Bytes { len } | Demand::Data { len, .. } => len,
                Demand::Skip { .. } => {
                    assert_eq!(receiver.demand(pool), demand, "asking twice changes nothing");
                    frames.push((receiver.on_skipped().header.kind, Vec::new()));
                    continue;
                }
                Demand::Stalled | Demand::Closed => return (frames, None),
            };
            assert_eq!(receiver.demand(pool), demand, "asking twice changes nothing");
            let Some((piece, rest)) = stream.split_at_checked(len) else { return (frames, None) };
            stream = rest;
            let result = match demand {
                Demand::Data { .. } => receiver.on_data(piece).map(Some),
                _ => receiver.on_bytes(piece),
            };
            match result {
                Ok(None) => {}
                Ok(Some(Frame { header, payload: Payload::None })) => frames.push((header.kind, Vec::new())),
                Ok(Some(Frame { header, payload: Payload::Buf(_) })) => {
                    frames.push((header.kind, piece.to_vec()));
                }
                Ok(Some(Frame { header, payload: Payload::Bytes(bytes) })) => {
                    frames.push((header.kind, bytes.to_vec()));
                }
                Err(error) => {
                    assert_eq!(receiver.demand(pool), Demand::Closed);
                    return (frames, Some(error));
                }
            }
        }
    }

    #[test]
    fn frames_of_every_shape_arrive() {
        let mut stream = frame(FrameKind::Write, &[7; 4096]);
        stream.extend(frame(FrameKind::Flush, &[]));
        stream.extend(frame(FrameKind::Bitmap, &[]));
        stream.extend(frame(FrameKind::Bitmap, &[1, 2, 3]));
        stream.extend(frame(FrameKind::Control, b"state"));
        stream.extend(frame(FrameKind::ResyncData, &[9; CHUNK_BYTES]));
        let mut pool = Buffers { left: 2, taken: 0 };
        let (frames, error) = feed(&mut admitted(), &mut pool, &stream);
        assert_eq!(error, None);
        let seen: Vec<_> = frames.iter().map(|(kind, bytes)| (*kind, bytes.len())).collect();
        assert_eq!(
            seen,
            [
                (FrameKind::Write, 4096),
                (FrameKind::Flush, 0),
                (FrameKind::Bitmap, 0),
                (FrameKind::Bitmap, 3),
                (FrameKind::Control, 5),
                (FrameKind::ResyncData, CHUNK_BYTES),
            ]
        );
    }

    #[test]
    fn an_empty_pool_stalls_and_a_buffer_resumes() {
        let mut receiver = admitted();
        let mut pool = Buffers { left: 0, taken: 0 };
        let stream = frame(FrameKind::Write, &[1; 512]);
        assert_eq!(receiver.on_bytes(&stream[..HEADER_BYTES]), Ok(None));
        assert_eq!(receiver.demand(&mut pool), Demand::Stalled);
        assert_eq!(receiver.demand(&mut pool), Demand::Stalled);
        pool.left = 1;
        assert_eq!(receiver.demand(&mut pool), Demand::Data { buf: BufId(1), offset: 0, len: 512 });
        let done = receiver.on_data(&stream[HEADER_BYTES..]).expect("the frame is good");
        assert_eq!(done.payload, Payload::Buf(BufId(1)));
        assert_eq!(receiver.take_buffer(), None, "the buffer went with the frame");
    }

    #[test]
    fn a_read_that_is_forwarded_comes_with_room_for_its_answer() {
        let header = |value| {
            let mut header = FrameHeader::new(FrameKind::ForwardRead, LaneId(1), Epoch(2));
            header.value = value;
            header.encode(0)
        };
        let mut receiver = admitted();
        let mut pool = Buffers { left: 0, taken: 0 };
        assert_eq!(receiver.on_bytes(&header(4096)), Ok(None));
        assert_eq!(receiver.demand(&mut pool), Demand::Stalled);
        pool.left = 2;
        assert_eq!(receiver.demand(&mut pool), Demand::Skip { len: 0 });
        assert_eq!(receiver.on_skipped().payload, Payload::Buf(BufId(1)));
        assert_eq!(receiver.on_bytes(&header(512)), Ok(None));
        assert_eq!(receiver.demand(&mut pool), Demand::Skip { len: 0 });
        assert_eq!(receiver.take_buffer(), Some(BufId(2)), "the stream ends before the frame is taken");
        for wrong in [0, CHUNK_BYTES as u64 + 1, u64::MAX] {
            assert_eq!(admitted().on_bytes(&header(wrong)), Err(FrameError::AnswerTooLong(wrong)));
        }
    }

    #[test]
    fn a_held_buffer_comes_back_after_damage_and_after_close() {
        for damage in [true, false] {
            let mut receiver = admitted();
            let mut pool = Buffers { left: 1, taken: 0 };
            let mut stream = frame(FrameKind::Write, &[1; 512]);
            stream[HEADER_BYTES + 100] ^= u8::from(damage);
            assert_eq!(receiver.on_bytes(&stream[..HEADER_BYTES]), Ok(None));
            assert!(matches!(receiver.demand(&mut pool), Demand::Data { .. }));
            if damage {
                let error = receiver.on_data(&stream[HEADER_BYTES..]);
                assert!(matches!(error, Err(FrameError::BadPayloadCrc { .. })));
            }
            assert_eq!(receiver.take_buffer(), Some(BufId(1)));
            assert_eq!(receiver.take_buffer(), None);
            assert_eq!(receiver.demand(&mut pool), Demand::Closed);
        }
    }

    #[test]
    fn payloads_where_none_belong_and_missing_ones_are_refused() {
        let mut pool = Buffers { left: 9, taken: 0 };
        for kind in
            [FrameKind::WriteAck, FrameKind::Zero, FrameKind::Flush, FrameKind::Confirm, FrameKind::ResyncAck]
        {
            let (frames, error) = feed(&mut admitted(), &mut pool, &frame(kind, &[0; 8]));
            assert_eq!((frames.len(), error), (0, Some(FrameError::UnexpectedPayload { kind, len: 8 })));
        }
        for kind in [FrameKind::Write, FrameKind::ResyncData, FrameKind::Control] {
            let (frames, error) = feed(&mut admitted(), &mut pool, &frame(kind, &[]));
            assert_eq!((frames.len(), error), (0, Some(FrameError::MissingPayload(kind))));
        }
        assert_eq!(pool.taken, 0);
    }

    #[test]
    fn a_stranger_gets_no_further_than_the_handshake() {
        let mut pool = Buffers { left: 9, taken: 0 };
        for kind in [FrameKind::Write, FrameKind::Control, FrameKind::Bitmap, FrameKind::Flush] {
            let (_, error) = feed(&mut FrameReceiver::new(), &mut pool, &frame(kind, &[0; 8]));
            assert_eq!(error, Some(FrameError::OutOfPlace(kind)));
        }
        let long = frame(FrameKind::Handshake, &[0; MESSAGE_BYTES_MAX + 1]);
        let (_, error) = feed(&mut FrameReceiver::new(), &mut pool, &long);
        assert_eq!(error, Some(FrameError::PayloadTooLong(MESSAGE_BYTES_MAX as u32 + 1)));
        assert_eq!(pool.taken, 0);

        let mut receiver = FrameReceiver::new();
        let hello = frame(FrameKind::Handshake, &[1; 40]);
        assert_eq!(feed(&mut receiver, &mut pool, &hello).0.len(), 1);
        receiver.admit();
        let (_, error) = feed(&mut receiver, &mut pool, &hello);
        assert_eq!(error, Some(FrameError::OutOfPlace(FrameKind::Handshake)));
    }

    proptest! {
        #[test]
        fn noise_is_an_error_not_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut pool = Buffers { left: 1, taken: 0 };
            let (frames, error) = feed(&mut admitted(), &mut pool, &noise);
            prop_assert!(frames.is_empty());
            prop_assert_eq!(error.is_some(), noise.len() >= HEADER_BYTES);
        }

        #[test]
        fn one_flipped_bit_ends_the_stream(len in 1usize..2000, at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut stream = frame(FrameKind::Write, &alloc::vec![3; len]);
            stream[at.index(HEADER_BYTES + len)] ^= 1u8 << bit;
            let mut pool = Buffers { left: 1, taken: 0 };
            let (frames, error) = feed(&mut admitted(), &mut pool, &stream);
            prop_assert!(frames.is_empty() && error.is_some());
        }
    }
}
