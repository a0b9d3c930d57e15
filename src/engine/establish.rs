//! Shard 0 makes the links between the nodes: node 0 connects, node 1 listens, both authenticate.
//!
//! First the control link, which stays here; it names the session. Then one data link for each pair of shards that have
//! a lane in common, each handed to its shard as soon as it is authenticated. With the last of them the session is up.
//! When any link of the session ends, the session ends, and the connector tries again.
//!
//! Absent on purpose: what the coordinators say to each other ([`Control`] is carried, not read).

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::duplex::{Duplex, SendEnd};
use super::link_driver::{ReadyLink, ending};
use super::op_slab::{Key, Slab};
use super::plumbing::Plumbing;
use super::reactor::{File, ListenFor, StreamOwner};
use super::sockets;
use super::stream::{Inbound, Met, SendBatch};
use crate::arbitration::Epoch;
use crate::replication::control::Control;
use crate::replication::frame::{FrameHeader, FrameKind};
use crate::replication::handshake::{
    Established, Handshake, LinkKey, LocalEnd, Purpose, Refusal, Sessions, Step,
};
use crate::replication::receiver::{Frame, FrameReceiver, Payload};
use crate::time::{Duration, Instant, earliest};
use crate::units::{BufId, LaneId, Pool, SessionId, ShardId};
use crate::volume::effect::LinkNo;
use crate::volume::messages::PeerEnd;
use crate::wire::{Demand, crc32c};

/// From connect or accept to an authenticated link.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// From the control link to the last data link.
const SESSION_LIMIT: Duration = Duration::from_secs(5);
/// Pause of the connector after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// How long the last words on a control link may take.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);
/// Strangers that may be shaking hands at one time.
const PENDING_MAX: usize = 128;

/// The two ends of the links.
#[derive(Clone, Debug)]
pub struct LinkPlan {
    pub key: LinkKey,
    /// This node's replication address; the listener's port counts, the connector's does not.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Unacknowledged data of this age ends a link.
    pub peer_timeout: std::time::Duration,
}

/// What shard 0 hears from here.
pub enum Meeting {
    /// A data link for that shard.
    Handoff(ShardId, ReadyLink),
    Up {
        session: SessionId,
        peer: PeerEnd,
    },
    /// The session, up or not, has lost a link: drop the others.
    Lost {
        session: SessionId,
        was_up: bool,
    },
    Control {
        session: SessionId,
        message: Control,
    },
    /// Why there is no session, for the operator.
    Trouble(String),
}

enum State {
    Connecting(Purpose),
    Shaking(Box<Handshake>),
    /// Authenticated; its last message must leave before it is handed on.
    HandingOff(Established),
    /// The control link of the session.
    Control,
    /// Last words are being sent.
    Leaving,
    Ended,
}

struct Link {
    stream: Duplex,
    receiver: FrameReceiver,
    state: State,
    until: Option<Instant>,
    /// Who it is, for the operator.
    peer: SocketAddr,
    listed: bool,
    /// The connect is under way.
    connecting: bool,
}

/// The session that is being made, or is up.
struct Session {
    id: SessionId,
    peer: PeerEnd,
    control: Key,
    /// Data links that are missing, by (our shard, the peer's shard).
    missing: Vec<(u8, u8)>,
    up: bool,
    until: Instant,
}

/// See the module.
pub struct Establish {
    plan: LinkPlan,
    local: LocalEnd,
    lanes: u16,
    links: Slab<Link>,
    session: Option<Session>,
    allowed: bool,
    /// The engine ends: the coordinator, which would like another session, is not asked any more.
    stopped: bool,
    listener: Option<File>,
    listening: bool,
    retry: Option<Instant>,
    dirty: Vec<Key>,
    meetings: Vec<Meeting>,
    /// The last trouble told, so that it is told once.
    trouble: String,
}

impl Establish {
    pub fn new(plan: LinkPlan, local: LocalEnd, lanes: u16) -> Self {
        Self {
            plan,
            local,
            lanes,
            links: Slab::with_capacity(PENDING_MAX),
            session: None,
            allowed: false,
            stopped: false,
            listener: None,
            listening: false,
            retry: None,
            dirty: Vec::new(),
            meetings: Vec::new(),
            trouble: String::new(),
        }
    }

    fn connects(&self) -> bool {
        self.local.node.0 == 0
    }

    /// Opens the listener's socket, so that a port in use is found at the start.
    pub fn on_start(&mut self, plumbing: &mut Plumbing) -> std::io::Result<()> {
        if !self.connects() {
            let fd = sockets::listen_on(self.plan.local)?;
            self.listener = Some(plumbing.reactor.adopt(fd));
            self.arm_accept(plumbing);
        }
        Ok(())
    }

    /// May sessions be made? Not: what is being made is dropped; a session that is up stays.
    pub fn allow(&mut self, allowed: bool, plumbing: &mut Plumbing) {
        self.allowed = allowed && !self.stopped;
        if self.allowed {
            self.trouble.clear();
            self.retry = Some(plumbing.now);
        } else {
            self.retry = None;
            self.end_handshakes(plumbing);
            if self.session.as_ref().is_some_and(|session| !session.up) {
                self.lose_session("", plumbing);
            }
        }
    }

    /// Sends a message on the control link of the session.
    pub fn send(&mut self, session: SessionId, message: &Control) {
        let Some(current) = self.session.as_ref().filter(|current| current.id == session && current.up)
        else {
            return;
        };
        let key = current.control;
        if let Some(link) = self.links.get_mut(key) {
            queue(link, FrameKind::Control, &message.encode());
            self.list(key);
        }
    }

    /// Sends a message on the control link of whatever session is up; without one it is dropped.
    pub fn send_to_peer(&mut self, message: &Control) {
        if let Some(session) = self.session.as_ref().map(|session| session.id) {
            self.send(session, message);
        }
    }

    /// Ends the session; what is queued on the control link is sent first.
    pub fn drop_session(&mut self, session: SessionId, plumbing: &mut Plumbing) {
        let Some(current) = self.session.take_if(|current| current.id == session) else { return };
        self.end_handshakes(plumbing);
        if let Some(link) = self.links.get_mut(current.control) {
            link.state = State::Leaving;
            link.until = Some(plumbing.now + FAREWELL_LIMIT);
            self.list(current.control);
        }
        self.meetings.push(Meeting::Lost { session, was_up: current.up });
        self.try_again(plumbing);
    }

    /// A data link of the session broke on its shard.
    pub fn on_link_lost(&mut self, session: SessionId, why: &str, plumbing: &mut Plumbing) {
        if self.session.as_ref().is_some_and(|current| current.id == session) {
            self.lose_session(why, plumbing);
        }
    }

    /// Drops everything: the engine ends.
    pub fn stop(&mut self, plumbing: &mut Plumbing) {
        self.stopped = true;
        self.allowed = false;
        self.retry = None;
        if let Some(listener) = self.listener.take() {
            plumbing.reactor.cancel(&listener);
        }
        if let Some(session) = &self.session {
            self.drop_session(session.id, plumbing);
        }
        self.end_handshakes(plumbing);
    }

    /// Nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.links.is_empty()
    }

    pub fn next_meeting(&mut self) -> Option<Meeting> {
        if self.meetings.is_empty() { None } else { Some(self.meetings.remove(0)) }
    }

    // ---- completions ----

    pub fn on_accepted(&mut self, result: Result<OwnedFd, i32>, plumbing: &mut Plumbing) {
        self.listening = false;
        match result {
            Ok(fd) => {
                self.arm_accept(plumbing);
                // Whoever comes while no session may be made is closed at once and comes again.
                if self.allowed && self.makes_room(plumbing) {
                    if let Err(error) = self.welcome(fd, plumbing) {
                        log::warn!("a connection from the peer could not be taken: {error}");
                    }
                }
            }
            Err(libc::ECANCELED) => {}
            Err(error) => {
                log::warn!("accept failed: {}", std::io::Error::from_raw_os_error(error));
                self.retry = Some(plumbing.now + RETRY_PAUSE);
            }
        }
    }

    /// Is there room for one more? Those that shake hands for ever must not keep the peer out: the one that came first
    /// goes, for the peer needs less time than it takes others to come in such numbers.
    fn makes_room(&mut self, plumbing: &mut Plumbing) -> bool {
        let shaking = || self.links.iter().filter(|(_, link)| matches!(link.state, State::Shaking(_)));
        if shaking().count() >= PENDING_MAX {
            let first = shaking().min_by_key(|(_, link)| link.until).map(|(key, _)| key);
            self.end(first.expect("there are some"), plumbing);
        }
        // Ended ones stay until the ring has done with them.
        self.links.len() < 2 * PENDING_MAX
    }

    fn welcome(&mut self, fd: OwnedFd, plumbing: &mut Plumbing) -> std::io::Result<()> {
        sockets::tune(fd.as_fd(), self.plan.peer_timeout)?;
        let peer = sockets::peer_address(fd.as_fd())?;
        let current = self.session.as_ref().map(|session| session.id);
        let sessions = Sessions { new: SessionId(random_word() | 1), current };
        let handshake = Handshake::accept(self.plan.key.clone(), self.local.clone(), sessions, nonce());
        let key = self.insert(fd, peer, State::Shaking(Box::new(handshake)), plumbing);
        self.pump(key, plumbing);
        Ok(())
    }

    pub fn on_connected(&mut self, key: Key, result: Result<(), i32>, plumbing: &mut Plumbing) {
        let link = self.links.get_mut(key).expect("a link outlives its operations");
        link.connecting = false;
        let State::Connecting(purpose) = link.state else { return self.reap(key) };
        if let Err(error) = result {
            let why = std::io::Error::from_raw_os_error(error);
            let text = format!("cannot connect to the peer at {}: {why}", link.peer);
            return self.fail(key, text, plumbing);
        }
        if let Err(error) = sockets::tune(link.stream.file.as_fd(), self.plan.peer_timeout) {
            return self.fail(key, format!("the link's socket cannot be set up: {error}"), plumbing);
        }
        let (handshake, first) =
            Handshake::connect(self.plan.key.clone(), self.local.clone(), purpose, nonce());
        link.state = State::Shaking(Box::new(handshake));
        queue(link, FrameKind::Handshake, &first);
        self.pump(key, plumbing);
    }

    pub fn on_received(
        &mut self,
        key: Key,
        inbound: Box<Inbound>,
        result: Result<usize, i32>,
        more: bool,
        plumbing: &mut Plumbing,
    ) {
        let link = self.links.get_mut(key).expect("a link outlives its operations");
        let alive = link.stream.on_received(inbound, result, more, plumbing);
        match link.state {
            State::Ended => self.reap(key),
            State::Leaving => {}
            _ if alive => self.pump(key, plumbing),
            _ => {
                let text = format!("link to {}: {}", link.peer, ending(result));
                self.fail(key, text, plumbing);
            }
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
        let alive = !matches!(link.state, State::Ended);
        match link.stream.on_sent(batch, result, alive, StreamOwner::Meeting(key), plumbing) {
            SendEnd::Continues => {}
            _ if !alive => self.reap(key),
            SendEnd::Failed => {
                let text = format!("link to {}: {}", link.peer, ending(result));
                self.fail(key, text, plumbing);
            }
            SendEnd::Done => self.list(key),
        }
    }

    // ---- time ----

    pub fn deadline(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(|(_, link)| link.until).min();
        let session = self.session.as_ref().filter(|session| !session.up).map(|session| session.until);
        earliest(earliest(links, session), self.retry)
    }

    pub fn on_timer(&mut self, plumbing: &mut Plumbing) {
        if self.retry.is_some_and(|at| at <= plumbing.now) {
            self.retry = None;
            self.arm_accept(plumbing);
            if self.connects() && self.allowed && self.session.is_none() {
                self.connect(Purpose::Control, plumbing);
            }
        }
        let now = plumbing.now;
        if self.session.as_ref().is_some_and(|session| !session.up && session.until <= now) {
            self.lose_session("the peer's data links do not come", plumbing);
        }
        for number in 0..self.links.slots() {
            let Some(key) = self.links.key_at(number) else { continue };
            let link = self.links.get_mut(key).expect("the key is fresh");
            if link.until.is_some_and(|until| until <= now) {
                link.until = None;
                let text = format!("the peer at {} does not answer", link.peer);
                self.fail(key, text, plumbing);
            }
        }
    }

    /// Is there something that [`flush`](Self::flush) would do?
    pub fn has_more(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// End of the turn: sends, receives, and what waited for a send.
    pub fn flush(&mut self, plumbing: &mut Plumbing) {
        while let Some(key) = self.dirty.pop() {
            let Some(link) = self.links.get_mut(key) else { continue };
            link.listed = false;
            let owner = StreamOwner::Meeting(key);
            if matches!(link.state, State::Ended | State::Connecting(_)) {
                continue;
            }
            link.stream.send_if_due(owner, plumbing);
            let idle = link.stream.send_is_idle();
            match link.state {
                State::Shaking(_) | State::Control => link.stream.receive_if_due(owner, plumbing),
                State::HandingOff(established) if idle => self.hand_off(key, established, plumbing),
                State::Leaving if idle => self.end(key, plumbing),
                _ => {}
            }
        }
    }

    // ---- making links ----

    fn arm_accept(&mut self, plumbing: &mut Plumbing) {
        if self.listening {
            return;
        }
        if let Some(listener) = &self.listener {
            self.listening = true;
            plumbing.reactor.accept(listener, ListenFor::Peer);
        }
    }

    fn connect(&mut self, purpose: Purpose, plumbing: &mut Plumbing) {
        let peer = self.plan.peer;
        match sockets::connecting(Some(self.plan.local), peer) {
            Ok(fd) => {
                let key = self.insert(fd, peer, State::Connecting(purpose), plumbing);
                let file = self.links.get(key).expect("just inserted").stream.file.clone();
                plumbing.reactor.connect(&file, StreamOwner::Meeting(key), peer);
                self.links.get_mut(key).expect("just inserted").connecting = true;
            }
            Err(error) => {
                let text = format!("cannot connect from {} to the peer at {peer}: {error}", self.plan.local);
                self.tell(text);
                self.lose_session("", plumbing);
                self.try_again(plumbing);
            }
        }
    }

    fn insert(&mut self, fd: OwnedFd, peer: SocketAddr, state: State, plumbing: &mut Plumbing) -> Key {
        let file = plumbing.reactor.adopt(fd);
        self.links.insert(Link {
            stream: Duplex::new(file, Inbound::new()),
            receiver: FrameReceiver::new(),
            state,
            until: Some(plumbing.now + HANDSHAKE_LIMIT),
            peer,
            listed: false,
            connecting: false,
        })
    }

    /// Cuts what came into frames: handshake messages while shaking hands, control messages once the session is up.
    fn pump(&mut self, key: Key, plumbing: &mut Plumbing) {
        self.list(key);
        let arena = plumbing.pool.arena().clone();
        loop {
            let up = self.session.as_ref().is_some_and(|session| session.up);
            let Some(link) = self.links.get_mut(key) else { return };
            match link.state {
                State::Shaking(_) => {}
                // Until the session is up on this side, the peer's first words wait in the socket.
                State::Control if up => {}
                _ => return,
            }
            let Some(mut inbound) = link.stream.inbound.take() else { return };
            if inbound.wants_demand() {
                // Payload for buffers has no business on these links.
                match link.receiver.demand(&mut NoBuffers) {
                    Demand::Stalled | Demand::Closed => {
                        link.stream.inbound = Some(inbound);
                        let text = format!("link to {}: a frame out of place", link.peer);
                        return self.fail(key, text, plumbing);
                    }
                    demand => inbound.demand(demand),
                }
            }
            let result = match inbound.meet(&arena) {
                Met::Bytes(bytes) => match link.receiver.on_bytes(bytes) {
                    Ok(None) => Ok(()),
                    Ok(Some(frame)) => self.on_frame(key, &frame),
                    Err(error) => Err(error.to_string()),
                },
                Met::NotYet => {
                    link.stream.hungry = true;
                    link.stream.inbound = Some(inbound);
                    return;
                }
                Met::Data { .. } | Met::Skipped => unreachable!("neither was asked for"),
            };
            if let Some(link) = self.links.get_mut(key) {
                link.stream.inbound = Some(inbound);
                if let Err(why) = result {
                    let text = format!("link to {}: {why}", link.peer);
                    return self.fail(key, text, plumbing);
                }
            }
            self.step(key, plumbing);
        }
    }

    fn on_frame(&mut self, key: Key, frame: &Frame<'_>) -> Result<(), String> {
        let Payload::Bytes(payload) = frame.payload else { return Err("a frame out of place".to_owned()) };
        let link = self.links.get_mut(key).expect("the link lives");
        match &mut link.state {
            State::Shaking(handshake) => {
                let (established, message) = match handshake.on_message(payload) {
                    Ok(Step::Send(message)) => (None, message),
                    Ok(Step::SendAndDone(message, established)) => (Some(established), message),
                    Ok(Step::Done(established)) => (Some(established), Vec::new()),
                    Err(Refusal { error, reply }) => {
                        if !reply.is_empty() {
                            queue(link, FrameKind::Handshake, &reply);
                            link.state = State::Leaving;
                            self.tell(format!("the peer's link is refused: {error}"));
                            return Ok(());
                        }
                        return Err(error.to_string());
                    }
                };
                if !message.is_empty() {
                    queue(link, FrameKind::Handshake, &message);
                }
                if let Some(established) = established {
                    link.state = State::HandingOff(established);
                    link.receiver.admit();
                }
                Ok(())
            }
            State::Control if frame.header.kind == FrameKind::Control => {
                let message = Control::decode(payload).map_err(|error| error.to_string())?;
                let session = self.session.as_ref().map(|session| session.id);
                let session = session.expect("a control link has a session");
                self.meetings.push(Meeting::Control { session, message });
                Ok(())
            }
            _ => Err("a frame out of place".to_owned()),
        }
    }

    /// A control link needs no hand-over: it becomes the session's at once.
    fn step(&mut self, key: Key, plumbing: &mut Plumbing) {
        let Some(link) = self.links.get_mut(key) else { return };
        match link.state {
            State::HandingOff(established) if established.purpose == Purpose::Control => {
                link.state = State::Control;
                link.until = None;
                self.begin_session(key, &established, plumbing);
            }
            _ => {}
        }
    }

    fn begin_session(&mut self, control: Key, established: &Established, plumbing: &mut Plumbing) {
        if self.session.is_some() {
            // The peer has started anew; it knows better than we that the old session is over.
            self.lose_session("the peer began a new session", plumbing);
        }
        if !self.allowed {
            return self.end(control, plumbing);
        }
        let missing = pairs(self.lanes, self.local.shards, established.peer_shards);
        self.session = Some(Session {
            id: established.session,
            peer: PeerEnd { shards: established.peer_shards, life: established.peer_life },
            control,
            missing: missing.clone(),
            up: false,
            until: plumbing.now + SESSION_LIMIT,
        });
        if self.connects() {
            for (local, peer) in missing {
                let session = established.session;
                let purpose = Purpose::Data { session, local: ShardId(local), peer: ShardId(peer) };
                self.connect(purpose, plumbing);
            }
        }
    }

    /// Gives an authenticated data link, with nothing in flight, to its shard.
    fn hand_off(&mut self, key: Key, established: Established, plumbing: &mut Plumbing) {
        let Purpose::Data { session, local, peer } = established.purpose else {
            unreachable!("control links are not handed on");
        };
        let link = self.links.remove(key).expect("the link lives");
        let Some(current) = self.session.as_mut().filter(|current| current.id == session && !current.up)
        else {
            return;
        };
        let Some(place) = current.missing.iter().position(|pair| *pair == (local.0, peer.0)) else { return };
        let inbound = link.stream.inbound.as_ref().expect("no receive is under way after the handshake");
        let fd = match link.stream.file.as_fd().try_clone_to_owned() {
            Ok(fd) => fd,
            Err(error) => return self.lose_session(&error.to_string(), plumbing),
        };
        current.missing.swap_remove(place);
        let ready = ReadyLink { session, link: LinkNo(peer.0), fd, unread: inbound.unread().to_vec() };
        self.meetings.push(Meeting::Handoff(local, ready));
        if current.missing.is_empty() {
            current.up = true;
            self.trouble.clear();
            let (control, peer) = (current.control, current.peer);
            self.meetings.push(Meeting::Up { session, peer });
            self.pump(control, plumbing);
        }
    }

    // ---- ends ----

    fn list(&mut self, key: Key) {
        if let Some(link) = self.links.get_mut(key).filter(|link| !link.listed) {
            link.listed = true;
            self.dirty.push(key);
        }
    }

    /// A link did not come about, or the control link broke.
    fn fail(&mut self, key: Key, why: String, plumbing: &mut Plumbing) {
        let Some(link) = self.links.get(key) else { return };
        let made_session = match &link.state {
            State::Control => true,
            State::Connecting(purpose) => matches!(purpose, Purpose::Data { .. }),
            // The connector needs every link; a listener only hears of strangers.
            State::Shaking(_) | State::HandingOff(_) => self.connects(),
            State::Leaving | State::Ended => return self.end(key, plumbing),
        };
        self.end(key, plumbing);
        if made_session && self.session.is_some() {
            self.lose_session(&why, plumbing);
        } else if self.session.is_some() {
            // A stranger, while the peer is here: no trouble of the operator's.
            log::debug!("{why}");
        } else {
            self.tell(why);
            self.try_again(plumbing);
        }
    }

    fn lose_session(&mut self, why: &str, plumbing: &mut Plumbing) {
        if let Some(session) = self.session.take() {
            if !why.is_empty() {
                self.tell(why.to_owned());
            }
            self.end(session.control, plumbing);
            self.end_handshakes(plumbing);
            self.meetings.push(Meeting::Lost { session: session.id, was_up: session.up });
        }
        self.try_again(plumbing);
    }

    fn end_handshakes(&mut self, plumbing: &mut Plumbing) {
        for number in 0..self.links.slots() {
            let Some(key) = self.links.key_at(number) else { continue };
            let Some(link) = self.links.get(key) else { continue };
            if !matches!(link.state, State::Control | State::Leaving) {
                self.end(key, plumbing);
            }
        }
    }

    fn try_again(&mut self, plumbing: &mut Plumbing) {
        if self.allowed && self.retry.is_none() {
            self.retry = Some(plumbing.now + RETRY_PAUSE);
        }
    }

    fn end(&mut self, key: Key, plumbing: &mut Plumbing) {
        let Some(link) = self.links.get_mut(key) else { return };
        if matches!(std::mem::replace(&mut link.state, State::Ended), State::Ended) {
            return;
        }
        if link.connecting {
            let file = link.stream.file.clone();
            plumbing.reactor.cancel(&file);
        }
        link.until = None;
        link.stream.hang_up(plumbing);
        self.reap(key);
    }

    /// Drops an ended link once nothing of it is under way.
    fn reap(&mut self, key: Key) {
        let done =
            |link: &Link| matches!(link.state, State::Ended) && link.stream.is_quiet() && !link.connecting;
        if self.links.get(key).is_some_and(done) {
            self.links.remove(key);
        }
    }

    fn tell(&mut self, why: String) {
        if why != self.trouble {
            self.trouble.clone_from(&why);
            self.meetings.push(Meeting::Trouble(why));
        }
    }
}

/// Pairs of shards (ours, the peer's) that have a lane in common.
fn pairs(lanes: u16, ours: u8, theirs: u8) -> Vec<(u8, u8)> {
    let mut pairs: Vec<_> =
        (0..lanes).map(|lane| ((lane % u16::from(ours)) as u8, (lane % u16::from(theirs)) as u8)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

fn queue(link: &mut Link, kind: FrameKind, payload: &[u8]) {
    let mut header = FrameHeader::new(kind, LaneId(0), Epoch(0));
    header.payload_len = payload.len() as u32;
    link.stream.filling.push(&header.encode(crc32c(payload)));
    link.stream.filling.push(payload);
}

fn random_word() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    u64::from_le_bytes(bytes)
}

fn nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).expect("the kernel has randomness");
    nonce
}

/// A pool that has none.
struct NoBuffers;

impl Pool for NoBuffers {
    fn take(&mut self, _len: usize) -> Option<BufId> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_pair_and_no_pair_is_idle() {
        assert_eq!(pairs(16, 1, 1), [(0, 0)]);
        assert_eq!(pairs(16, 1, 3), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(pairs(16, 2, 4), [(0, 0), (0, 2), (1, 1), (1, 3)]);
        assert_eq!(pairs(1, 4, 4), [(0, 0)]);
        let mirrored: Vec<_> = pairs(16, 3, 5).into_iter().map(|(a, b)| (b, a)).collect();
        let mut other = pairs(16, 5, 3);
        other.sort_by_key(|(a, b)| (*b, *a));
        assert_eq!(mirrored, other);
    }
}
