//! Drives this shard's data links to the peer: frames of the part out, the peer's frames in.
//!
//! A link comes here authenticated ([`establish`](super::establish) on shard 0 made it) and belongs to one session; the
//! peer's shard at its other end is its number. When one link of a session ends, shard 0 ends them all.

use std::os::fd::OwnedFd;

use super::buffers::Purpose;
use super::duplex::{Duplex, SendEnd};
use super::op_slab::{Key, Slab};
use super::plumbing::Plumbing;
use super::reactor::StreamOwner;
use super::stream::{Inbound, Met, SendBatch};
use crate::block::BufSlice;
use crate::replication::frame::{FrameError, FrameHeader};
use crate::replication::receiver::{Frame, FrameReceiver, Payload};
use crate::units::{SHARDS_MAX, SessionId};
use crate::volume::effect::LinkNo;
use crate::wire::{Demand, crc32c};

/// Bytes that may wait to be sent on a link before its session is given up: the peer reads nothing any more.
const BACKLOG_MAX: usize = 64 << 20;

/// A data link that passed the handshake, on its way to the shard that drives it.
pub struct ReadyLink {
    pub session: SessionId,
    pub link: LinkNo,
    pub fd: OwnedFd,
    /// Received, but not consumed by the handshake.
    pub unread: Vec<u8>,
}

struct Link {
    session: SessionId,
    number: LinkNo,
    stream: Duplex,
    receiver: FrameReceiver,
    listed: bool,
    /// The receiver waits for a buffer.
    stalled: bool,
    /// TCP is gone; the ring's last operations are awaited.
    ended: bool,
}

/// What the shard's loop must do about links.
pub enum LinkEvent {
    /// The link broke; its session is over.
    Lost { session: SessionId, why: String },
}

/// See the module.
pub struct LinkDriver {
    links: Slab<Link>,
    /// The live link of each number.
    by_number: [Option<Key>; SHARDS_MAX],
    dirty: Vec<Key>,
    events: Vec<LinkEvent>,
}

/// Takes the frames of a link; the volume's part, reached through the shard.
pub trait FrameSink {
    fn on_frame(
        &mut self,
        session: SessionId,
        link: LinkNo,
        header: &FrameHeader,
        payload: Payload<'_>,
        links: &mut LinkDriver,
        plumbing: &mut Plumbing,
    );
}

impl Default for LinkDriver {
    fn default() -> Self {
        Self {
            links: Slab::with_capacity(16),
            by_number: [None; SHARDS_MAX],
            dirty: Vec::with_capacity(SHARDS_MAX),
            events: Vec::new(),
        }
    }
}

impl LinkDriver {
    /// Takes over an authenticated link. Frames are delivered from the next [`pump`](Self::pump) on.
    pub fn adopt(&mut self, ready: ReadyLink, sink: &mut impl FrameSink, plumbing: &mut Plumbing) {
        let file = plumbing.reactor.adopt(ready.fd);
        let mut receiver = FrameReceiver::new();
        receiver.admit();
        let key = self.links.insert(Link {
            session: ready.session,
            number: ready.link,
            stream: Duplex::new(file, Inbound::with_unread(&ready.unread)),
            receiver,
            listed: false,
            stalled: false,
            ended: false,
        });
        let older = self.by_number[usize::from(ready.link.0)].replace(key);
        assert!(older.is_none(), "one live link of each number");
        self.pump(key, sink, plumbing);
    }

    /// Queues a frame of `session`; its payload is retained until it is sent. A frame for a link that is gone is dropped:
    /// the end of the session is on its way to the coordinator. A frame never leaves on the link of another session,
    /// where the peer could take an old answer for a new one.
    pub fn send(
        &mut self,
        session: Option<SessionId>,
        number: LinkNo,
        mut header: FrameHeader,
        payload: Option<(BufSlice, u32)>,
        plumbing: &mut Plumbing,
    ) {
        let Some(link) = self.live(session, number) else { return };
        match payload {
            None => link.stream.filling.push(&header.encode(0)),
            Some((slice, len)) => {
                let arena = plumbing.pool.arena();
                let crc = crc32c(arena.bytes(slice.buf, slice.offset as usize, len as usize));
                header.payload_len = len;
                link.stream.filling.push(&header.encode(crc));
                link.stream.filling.push_buffer(arena, slice, len as usize);
            }
        }
        self.queued(number, plumbing);
    }

    /// Queues a frame whose payload is given as bytes.
    pub fn send_bytes(
        &mut self,
        session: Option<SessionId>,
        number: LinkNo,
        mut header: FrameHeader,
        payload: &[u8],
        plumbing: &mut Plumbing,
    ) {
        let Some(link) = self.live(session, number) else { return };
        header.payload_len = payload.len() as u32;
        let crc = if payload.is_empty() { 0 } else { crc32c(payload) };
        link.stream.filling.push(&header.encode(crc));
        link.stream.filling.push(payload);
        self.queued(number, plumbing);
    }

    fn queued(&mut self, number: LinkNo, plumbing: &mut Plumbing) {
        let key = self.by_number[usize::from(number.0)].expect("the link lives");
        let link = self.links.get_mut(key).expect("the link lives");
        if link.stream.filling.left() > BACKLOG_MAX {
            self.lose(key, "the peer does not take what it is sent", plumbing);
        } else if !link.listed {
            link.listed = true;
            self.dirty.push(key);
        }
    }

    fn live(&mut self, session: Option<SessionId>, number: LinkNo) -> Option<&mut Link> {
        let key = self.by_number[usize::from(number.0)]?;
        self.links.get_mut(key).filter(|link| Some(link.session) == session)
    }

    pub fn on_received(
        &mut self,
        key: Key,
        inbound: Box<Inbound>,
        result: Result<usize, i32>,
        more: bool,
        sink: &mut impl FrameSink,
        plumbing: &mut Plumbing,
    ) {
        let link = self.links.get_mut(key).expect("a link outlives its operations");
        let alive = link.stream.on_received(inbound, result, more, plumbing);
        if link.ended {
            self.reap(key);
        } else if alive {
            self.pump(key, sink, plumbing);
        } else {
            self.lose(key, &ending(result), plumbing);
        }
    }

    pub fn on_sent(
        &mut self,
        key: Key,
        batch: Box<SendBatch>,
        result: Result<usize, i32>,
        plumbing: &mut Plumbing,
    ) {
        let link = self.links.get_mut(key).expect("a link outlives its operations");
        let alive = !link.ended;
        match link.stream.on_sent(batch, result, alive, StreamOwner::Link(key), plumbing) {
            SendEnd::Continues => {}
            _ if !alive => self.reap(key),
            SendEnd::Failed => self.lose(key, &ending(result), plumbing),
            SendEnd::Done => self.list(key),
        }
    }

    /// Link buffers came free after a receiver had gone without.
    pub fn on_pool_ready(&mut self, sink: &mut impl FrameSink, plumbing: &mut Plumbing) {
        for number in 0..self.links.slots() {
            let Some(key) = self.links.key_at(number) else { continue };
            if self.links.get(key).is_some_and(|link| link.stalled && !link.ended) {
                self.pump(key, sink, plumbing);
            }
        }
    }

    /// The session is over: every link of it is dropped.
    pub fn drop_session(&mut self, session: SessionId, plumbing: &mut Plumbing) {
        for number in 0..self.links.slots() {
            let Some(key) = self.links.key_at(number) else { continue };
            if self.links.get(key).is_some_and(|link| link.session == session) {
                self.end(key, plumbing);
            }
        }
    }

    /// Drops everything.
    pub fn drop_all(&mut self, plumbing: &mut Plumbing) {
        for number in 0..self.links.slots() {
            if let Some(key) = self.links.key_at(number) {
                self.end(key, plumbing);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub fn next_event(&mut self) -> Option<LinkEvent> {
        self.events.pop()
    }

    /// Is there something that [`flush`](Self::flush) would do?
    pub fn has_more(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// End of the turn: one send and one receive for each link that has use for it.
    pub fn flush(&mut self, plumbing: &mut Plumbing) {
        while let Some(key) = self.dirty.pop() {
            let Some(link) = self.links.get_mut(key) else { continue };
            link.listed = false;
            if !link.ended {
                link.stream.send_if_due(StreamOwner::Link(key), plumbing);
                link.stream.receive_if_due(StreamOwner::Link(key), plumbing);
            }
        }
    }

    fn list(&mut self, key: Key) {
        if let Some(link) = self.links.get_mut(key).filter(|link| !link.listed) {
            link.listed = true;
            self.dirty.push(key);
        }
    }

    /// Cuts what has been received into frames and hands them on.
    fn pump(&mut self, key: Key, sink: &mut impl FrameSink, plumbing: &mut Plumbing) {
        let arena = plumbing.pool.arena().clone();
        // The receive side is out of the link while frames are handed on: the sink may send on the same link.
        loop {
            let Some(link) = self.links.get_mut(key).filter(|link| !link.ended) else { return };
            let Some(mut inbound) = link.stream.inbound.take() else { return };
            link.stalled = false;
            if inbound.wants_demand() {
                match link.receiver.demand(&mut plumbing.pool.purpose(Purpose::Link)) {
                    Demand::Stalled => {
                        link.stalled = true;
                        link.stream.hungry = false;
                        link.stream.inbound = Some(inbound);
                        return self.list(key);
                    }
                    demand => inbound.demand(demand),
                }
            }
            let (session, number) = (link.session, link.number);
            let met: Result<Option<Frame<'_>>, FrameError> = match inbound.meet(&arena) {
                Met::Bytes(bytes) => link.receiver.on_bytes(bytes),
                Met::Data { buf, offset, len } => {
                    link.receiver.on_data(arena.bytes(buf, offset, len)).map(Some)
                }
                Met::Skipped => Ok(Some(link.receiver.on_skipped())),
                Met::NotYet => {
                    link.stream.hungry = true;
                    link.stream.inbound = Some(inbound);
                    return self.list(key);
                }
            };
            let broken = match met {
                Ok(Some(frame)) => {
                    sink.on_frame(session, number, &frame.header, frame.payload, self, plumbing);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(link) = self.links.get_mut(key) {
                link.stream.inbound = Some(inbound);
                if link.ended {
                    return self.reap(key);
                }
            }
            if let Some(error) = broken {
                return self.lose(key, &error.to_string(), plumbing);
            }
        }
    }

    /// The link broke: say so once, and end it.
    fn lose(&mut self, key: Key, why: &str, plumbing: &mut Plumbing) {
        if let Some(link) = self.links.get(key).filter(|link| !link.ended) {
            self.events.push(LinkEvent::Lost { session: link.session, why: why.to_owned() });
            self.end(key, plumbing);
        }
    }

    fn end(&mut self, key: Key, plumbing: &mut Plumbing) {
        let Some(link) = self.links.get_mut(key).filter(|link| !link.ended) else { return };
        link.ended = true;
        link.stream.hang_up(plumbing);
        if let Some(buf) = link.receiver.take_buffer() {
            plumbing.release(buf);
        }
        let slot = &mut self.by_number[usize::from(link.number.0)];
        if *slot == Some(key) {
            *slot = None;
        }
        self.reap(key);
    }

    /// Drops an ended link once nothing of it is under way.
    fn reap(&mut self, key: Key) {
        if self.links.get(key).is_some_and(|link| link.ended && link.stream.is_quiet()) {
            self.links.remove(key);
        }
    }
}

/// Why a stream ended, for the log.
pub fn ending(result: Result<usize, i32>) -> String {
    match result {
        Ok(_) => "the peer closed the connection".to_owned(),
        Err(error) => std::io::Error::from_raw_os_error(error).to_string(),
    }
}
