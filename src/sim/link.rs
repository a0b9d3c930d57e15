//! The links between the nodes: one session at a time, a control link and a data link for every pair of shards with
//! common lanes. A link delivers in order or not at all. A cut loses what was on its way from some moment on, in each
//! direction its own, and each side notices it at its own time, or only by the peer's silence.

use std::collections::{BTreeMap, VecDeque};

use crate::arbitration::Epoch;
use crate::replication::control::Control;
use crate::replication::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use crate::units::{LaneId, SessionId};
use crate::volume::effect::LinkNo;
use crate::volume::messages::PeerEnd;

use super::node::{ControlInput, PartInput};
use super::world::{Event, FramePayload, Verdict, World, ensure};

/// One of the session's connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LinkKey {
    Control,
    /// Shard of node 0, shard of node 1.
    Data(u8, u8),
}

/// One end of a session.
#[derive(Clone, Copy, Default, Debug)]
pub struct Side {
    /// Tell the coordinator that the session is up, not before.
    pub up: bool,
    /// This end takes and sends nothing any more.
    pub closed: bool,
    /// From when on nothing that this end sent arrives.
    cut_at: Option<u64>,
}

/// The connections of one meeting of the nodes.
#[derive(Debug, Default)]
pub struct Session {
    pub sides: [Side; 2],
    /// What a side sends arrives not before this.
    stalled_until: [u64; 2],
    pipes: BTreeMap<(usize, LinkKey), Pipe>,
}

/// One direction of one link. Every frame has one event, which delivers the first frame of the pipe.
#[derive(Debug, Default)]
struct Pipe {
    last: u64,
    frames: VecDeque<([u8; HEADER_BYTES], FramePayload)>,
}

impl Session {
    fn last_from(&self, node: usize) -> u64 {
        self.pipes.iter().filter(|((from, _), _)| *from == node).map(|(_, pipe)| pipe.last).max().unwrap_or(0)
    }

    /// Can what `node` sends still arrive?
    fn is_whole(&self, node: usize) -> bool {
        self.sides[node].cut_at.is_none()
    }
}

impl World {
    // ---- making a session ----

    /// Node 0 tries to connect, for ever.
    pub(super) fn on_connect(&mut self) -> Verdict {
        self.after(500_000, 20_000_000, Event::Connect);
        let willing = |node: usize| {
            let this = &self.nodes[node];
            let free = this.machine.as_ref().is_some_and(|m| m.connect_allowed && m.session.is_none());
            free && this.paused_until <= self.now
        };
        let pending = self.sessions.values().any(|session| session.sides.iter().any(|side| !side.closed));
        if pending || !willing(0) || !willing(1) || self.rng.per_mille(300) {
            return Ok(());
        }
        self.last_session += 1;
        let id = SessionId(self.last_session);
        self.sessions.insert(id, Session::default());
        // The old ones have nothing more to deliver that anybody takes.
        self.sessions.retain(|_, session| session.sides.iter().any(|side| !side.closed));
        let (low, high) = self.setup.link_latency;
        for node in 0..2 {
            self.after(low, high * 2, Event::SessionUp { session: id, node });
        }
        self.tally.sessions += 1;
        Ok(())
    }

    pub(super) fn on_session_up(&mut self, session: SessionId, node: usize) -> Verdict {
        let Some(links) = self.sessions.get_mut(&session).filter(|links| !links.sides[node].closed) else {
            return Ok(());
        };
        let other = &self.nodes[1 - node];
        let mut peer = PeerEnd { shards: other.shards, life: [0; 16] };
        peer.life[..4].copy_from_slice(&other.life.to_le_bytes());
        let machine = self.nodes[node].machine.as_mut();
        let Some(machine) = machine.filter(|m| m.connect_allowed && m.session.is_none()) else {
            self.close_side(session, node);
            return Ok(());
        };
        links.sides[node].up = true;
        machine.session = Some(session);
        self.log(|| format!("node {node}: {session:?} is up"));
        self.feed_control(node, ControlInput::SessionUp { session, peer })
    }

    // ---- frames ----

    pub(super) fn send_data(
        &mut self,
        node: usize,
        shard: u8,
        link: LinkNo,
        header: FrameHeader,
        payload: FramePayload,
    ) {
        let Some(session) = self.nodes[node].machine.as_ref().and_then(|machine| machine.session) else {
            return;
        };
        let key = if node == 0 { LinkKey::Data(shard, link.0) } else { LinkKey::Data(link.0, shard) };
        self.send_frame(node, session, key, header, payload);
    }

    pub(super) fn send_control(&mut self, node: usize, session: SessionId, message: Control) {
        let mut header = FrameHeader::new(FrameKind::Control, LaneId(0), Epoch(0));
        let bytes = message.encode();
        header.payload_len = bytes.len() as u32;
        if !matches!(message, Control::Ping | Control::Pong) {
            self.log(|| format!("node {node}: sends {message:x?}"));
        }
        self.send_frame(node, session, LinkKey::Control, header, FramePayload::Bytes(bytes));
    }

    fn send_frame(
        &mut self,
        node: usize,
        session: SessionId,
        key: LinkKey,
        header: FrameHeader,
        payload: FramePayload,
    ) {
        let (low, high) = self.setup.link_latency;
        let mut at = self.now + self.rng.range(low, high);
        let Some(links) = self.sessions.get_mut(&session).filter(|links| !links.sides[node].closed) else {
            return;
        };
        let pipe = links.pipes.entry((node, key)).or_default();
        at = at.max(pipe.last).max(links.stalled_until[node]);
        pipe.last = at;
        pipe.frames.push_back((header.encode(0), payload));
        self.at(at, Event::Frame { session, to: 1 - node, key });
    }

    /// The first frame of a pipe arrives, unless it must wait.
    pub(super) fn on_frame(&mut self, session: SessionId, to: usize, key: LinkKey) -> Verdict {
        let Some(links) = self.sessions.get_mut(&session) else { return Ok(()) };
        let gone = links.sides[to].closed || links.sides[1 - to].cut_at.is_some_and(|at| self.now >= at);
        let stalled_until = links.stalled_until[1 - to];
        let held = self.nodes[to].machine.as_ref().and_then(|machine| machine.session);
        if !gone && (stalled_until > self.now || held != Some(session)) {
            // The network has it and delivers it later; or the session is not up here yet and nobody reads.
            let at = stalled_until.max(self.now + 5_000);
            self.at(at, Event::Frame { session, to, key });
            return Ok(());
        }
        let pipe = links.pipes.get_mut(&(1 - to, key)).expect("a frame came from a pipe");
        let (header, payload) = pipe.frames.pop_front().expect("every frame has one event");
        if gone {
            return Ok(());
        }
        self.deliver(session, to, key, &header, payload)
    }

    fn deliver(
        &mut self,
        session: SessionId,
        to: usize,
        key: LinkKey,
        header: &[u8; HEADER_BYTES],
        payload: FramePayload,
    ) -> Verdict {
        let (header, _) = FrameHeader::decode(header)
            .map_err(|error| super::world::Violation { invariant: "wire", what: error.to_string() })?;
        match (key, payload) {
            (LinkKey::Control, FramePayload::Bytes(bytes)) => {
                let message = Control::decode(&bytes).map_err(|error| super::world::Violation {
                    invariant: "wire",
                    what: error.to_string(),
                })?;
                self.feed_control(to, ControlInput::Control(session, message))
            }
            (LinkKey::Control, _) => unreachable!("control frames carry bytes"),
            (LinkKey::Data(zero, one), payload) => {
                let (shard, link) = if to == 0 { (zero, one) } else { (one, zero) };
                let shards = self.nodes[to].shards;
                ensure(shard < shards, "wire", || format!("a frame for shard {shard} of {shards}"))?;
                let payload = match (header.kind, payload) {
                    (FrameKind::Bitmap, FramePayload::None) => FramePayload::Bytes(Vec::new()),
                    (_, payload) => payload,
                };
                self.feed_part(to, shard, PartInput::Frame { session, link: LinkNo(link), header, payload })
            }
        }
    }

    // ---- the end of a session ----

    /// This end closes its connections. What it sent before still arrives; then the other end notices.
    fn close_side(&mut self, session: SessionId, node: usize) {
        let (low, high) = self.setup.link_latency;
        let delay = self.rng.range(low, high);
        let Some(links) = self.sessions.get_mut(&session).filter(|links| !links.sides[node].closed) else {
            return;
        };
        links.sides[node].closed = true;
        if links.is_whole(node) && !links.sides[1 - node].closed {
            let at = (self.now + delay).max(links.last_from(node)).max(links.stalled_until[node]);
            self.at(at, Event::SessionDown { session, node: 1 - node });
        }
    }

    /// The coordinator gives the session up.
    pub(super) fn drop_session(&mut self, node: usize, session: SessionId) {
        self.close_side(session, node);
        // The driver's other shards close their links first.
        self.after(1_000, 200_000, Event::SessionDown { session, node });
    }

    /// This end learns that the session is over.
    pub(super) fn on_session_down(&mut self, session: SessionId, node: usize) -> Verdict {
        self.close_side(session, node);
        let Some(machine) = self.nodes[node].machine.as_mut().filter(|m| m.session == Some(session)) else {
            return Ok(());
        };
        machine.session = None;
        self.log(|| format!("node {node}: {session:?} is down"));
        self.feed_control(node, ControlInput::SessionDown(session))
    }

    /// The process at one end is gone; without power nobody says so.
    pub(super) fn on_side_died(&mut self, session: SessionId, node: usize, power: bool) {
        if power {
            let at = self.now + self.rng.range(0, 100_000);
            if let Some(links) = self.sessions.get_mut(&session) {
                links.sides[node].cut_at = Some(at);
                links.sides[node].closed = true;
            }
        } else {
            self.close_side(session, node);
        }
    }

    // ---- faults ----

    pub(super) fn current_session(&self) -> Option<SessionId> {
        self.sessions
            .iter()
            .rev()
            .find(|(_, links)| links.sides.iter().any(|s| s.up && !s.closed))
            .map(|(&id, _)| id)
    }

    /// The network drops the connections. `half_open`: one side is not told, mostly the one that serves; says which.
    pub(super) fn cut_links(&mut self, half_open: bool) -> Option<usize> {
        let session = self.current_session()?;
        let serves = |node: &usize| self.nodes[*node].machine.as_ref().is_some_and(|machine| machine.serving);
        let server = (0..2).find(serves);
        let deaf = match server {
            _ if !half_open => None,
            Some(server) if self.rng.per_mille(900) => Some(server),
            _ => Some(self.rng.below(2) as usize),
        };
        let (_, high) = self.setup.link_latency;
        self.log(|| format!("network: cuts {session:?}, half open {deaf:?}"));
        for node in 0..2 {
            let at = self.now + self.rng.range(0, high);
            if let Some(links) = self.sessions.get_mut(&session) {
                links.sides[node].cut_at.get_or_insert(at);
            }
            if deaf != Some(node) {
                self.after(0, 2 * high + 1_000_000, Event::SessionDown { session, node });
            }
        }
        deaf
    }

    /// What one node (or both) sends is delayed, in order, for a while.
    pub(super) fn stall_links(&mut self) {
        let Some(session) = self.current_session() else { return };
        let longest = self.setup.peer_timeout.as_nanos() as u64 * 3;
        let until = self.now + self.rng.range(100_000, longest);
        let which = self.rng.below(3) as usize;
        self.log(|| format!("network: stalls {session:?} ({which}) until {until}"));
        if let Some(links) = self.sessions.get_mut(&session) {
            for node in 0..2 {
                if which == 2 || which == node {
                    links.stalled_until[node] = links.stalled_until[node].max(until);
                }
            }
        }
    }
}
