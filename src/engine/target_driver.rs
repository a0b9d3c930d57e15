//! Drives the initiators' connections of one shard: bytes in, PDUs out, requests to the volume, timers.
//!
//! Shard 0 listens and logs initiators in; a session then moves to the shard that serves it, with its descriptor and
//! what has been received but not read. All that one loop turn has to say to an initiator leaves in one send.
//!
//! A connection ends in this order: the core asks ([`Phase::Leaving`]) or TCP ends; what was queued is sent; the socket
//! is shut down; the core hands back its buffers as its requests end; when the core is idle and the ring has let go,
//! the connection is dropped and its number goes back to shard 0.

mod unit;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::buffers::{Arena, Purpose};
use super::duplex::{Duplex, SendEnd};
use super::faces::{self, Face};
use super::plumbing::{ConnNo, Message, MovedConnection, Plumbing};
use super::reactor::{File, ListenFor, StreamOwner};
use super::registry::{CONNECTIONS_MAX, Entrant, Registry, SessionInfo};
use super::sockets;
use super::stream::{Inbound, Met, SendBatch};
use crate::block::{BlockCompletion, UnitState};
use crate::iscsi::bhs::Bhs;
use crate::iscsi::chap::Entropy;
use crate::iscsi::{
    Arrival, CloseReason, Connection, Effect, NexusName, Origin, Outbox, SendData, Service, TargetConfig,
    UnitSnapshot,
};
use crate::scsi::Leader;
use crate::time::{Duration as CoreDuration, Instant, earliest};
use crate::units::ShardId;
use crate::wire::{Demand, crc32c, crc32c_append};

/// Unacknowledged data of this age ends a connection to an initiator.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// Bytes that may wait to be sent before a connection's commands are left unread.
const BACKLOG_MAX: usize = 8 << 20;
/// Between two lines of the log about connections that are turned away.
const TURNED_AWAY_PAUSE: CoreDuration = CoreDuration::from_secs(10);
/// Pause after a failed accept (no descriptors left, for example).
const ACCEPT_PAUSE: CoreDuration = CoreDuration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// Logged in; shard 0 holds it until older sessions are gone and decides where it is served.
    Admitting,
    /// The core wants it closed once everything queued is sent.
    Leaving,
    /// TCP has ended; the core's last requests are awaited.
    Ended,
}

struct Conn {
    core: Connection,
    stream: Duplex,
    phase: Phase,
    /// Listed in [`TargetDriver::dirty`].
    listed: bool,
    nexus: Option<NexusName>,
    /// Where to move as soon as no send is under way, and the session's TSIH.
    moving: Option<(ShardId, u16)>,
    peer: Option<SocketAddr>,
}

struct Listener {
    address: SocketAddr,
    file: Option<File>,
    armed: bool,
}

/// See the module.
pub struct TargetDriver {
    config: Arc<TargetConfig>,
    faces: Vec<Face>,
    /// By connection number.
    conns: Vec<Option<Box<Conn>>>,
    /// Connections that may have something to send or want to receive at the end of the turn.
    dirty: Vec<ConnNo>,
    out: Outbox,
    /// No connection has an earlier deadline; it may be earlier than the earliest.
    deadline: Option<Instant>,
    /// Shard 0 only.
    listeners: Vec<Listener>,
    registry: Registry,
    serving: bool,
    leader: Leader,
    /// Where the target is found instead.
    elsewhere: Option<String>,
    accept_again: Option<Instant>,
    turned_away: TurnedAway,
    /// What commands are judged by; `None`: nobody here can read it.
    unit: Option<UnitSnapshot>,
    adoptions: unit::Adoptions,
    /// The reservation of a nexus that is gone is being ended.
    clearing: bool,
}

/// Connections that were not taken, told once in a while.
#[derive(Default)]
struct TurnedAway {
    count: u64,
    told: Option<Instant>,
}

impl TargetDriver {
    pub fn new(
        config: Arc<TargetConfig>,
        faces: Vec<Face>,
        portals: &[SocketAddr],
        shards: u8,
        unit: &UnitState,
    ) -> Self {
        let listeners =
            portals.iter().map(|address| Listener { address: *address, file: None, armed: false }).collect();
        Self {
            conns: Vec::new(),
            dirty: Vec::with_capacity(CONNECTIONS_MAX),
            out: Outbox::new(),
            deadline: None,
            listeners,
            registry: Registry::new(config.caps, shards),
            config,
            faces,
            serving: false,
            leader: Leader::default(),
            elsewhere: None,
            accept_again: None,
            turned_away: TurnedAway::default(),
            unit: unit::read(unit),
            adoptions: unit::Adoptions::default(),
            clearing: false,
        }
    }

    /// Who leads the volume from now on.
    pub fn on_leader(&mut self, leader: Leader, plumbing: &mut Plumbing) {
        self.leader = leader;
        for conn in self.conns.iter_mut().flatten() {
            conn.core.on_leader(leader);
        }
        self.drop_at(&faces::left(&self.faces, leader), plumbing);
        self.end_lost_reservation(plumbing);
    }

    /// Ends the connections of this shard to these addresses.
    pub fn drop_at(&mut self, addresses: &[IpAddr], plumbing: &mut Plumbing) {
        if addresses.is_empty() {
            return;
        }
        for number in 0..self.conns.len() {
            let Some(conn) = &self.conns[number] else { continue };
            let local = sockets::local_address(conn.stream.file.as_fd());
            if local.is_ok_and(|local| addresses.contains(&local.ip())) {
                self.end(ConnNo(number as u32), plumbing);
            }
        }
    }

    // ---- shard 0: listening, admission ----

    /// Starts or ends listening. When it ends, the initiators' connections of this shard are dropped.
    pub fn serve(&mut self, on: bool, plumbing: &mut Plumbing) -> std::io::Result<()> {
        if on == self.serving {
            return Ok(());
        }
        if !on {
            self.stop_listening(plumbing);
            self.drop_initiators(plumbing);
            return Ok(());
        }
        self.serving = true;
        for number in 0..self.listeners.len() {
            let address = self.listeners[number].address;
            match sockets::listen_on(address) {
                Ok(fd) => {
                    let bound = sockets::bound_address(std::os::fd::AsFd::as_fd(&fd)).unwrap_or(address);
                    log::info!("initiators are served at {bound}");
                    self.listeners[number].file = Some(plumbing.reactor.adopt(fd));
                    self.arm_accept(number, plumbing);
                }
                Err(error) => {
                    let _ = self.serve(false, plumbing);
                    return Err(std::io::Error::new(
                        error.kind(),
                        format!("cannot listen on {address}: {error}"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn stop_listening(&mut self, plumbing: &mut Plumbing) {
        self.serving = false;
        for listener in &mut self.listeners {
            if let Some(file) = listener.file.take() {
                plumbing.reactor.cancel(&file);
            }
            listener.armed = false;
        }
    }

    /// Addresses that are listened on.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.file.as_ref())
            .filter_map(|file| sockets::bound_address(file.as_fd()).ok())
            .collect()
    }

    fn arm_accept(&mut self, number: usize, plumbing: &mut Plumbing) {
        let listener = &mut self.listeners[number];
        if listener.armed {
            return;
        }
        if let Some(file) = &listener.file {
            listener.armed = true;
            plumbing.reactor.accept(file, ListenFor::Portal(number as u16));
        }
    }

    pub fn on_accepted(&mut self, portal: u16, result: Result<OwnedFd, i32>, plumbing: &mut Plumbing) {
        let listener = &mut self.listeners[usize::from(portal)];
        listener.armed = false;
        if !self.serving {
            return;
        }
        match result {
            Ok(fd) => {
                self.arm_accept(usize::from(portal), plumbing);
                if let Err(error) = self.welcome(fd, plumbing) {
                    log::warn!("a connection could not be taken: {error}");
                }
            }
            Err(libc::ECANCELED) => {}
            Err(libc::ECONNABORTED | libc::EINTR) => self.arm_accept(usize::from(portal), plumbing),
            Err(error) => {
                log::warn!("accept failed: {}", std::io::Error::from_raw_os_error(error));
                self.accept_again = Some(plumbing.now + ACCEPT_PAUSE);
            }
        }
    }

    fn welcome(&mut self, fd: OwnedFd, plumbing: &mut Plumbing) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        sockets::tune(fd.as_fd(), DEAD_AFTER)?;
        let local = sockets::local_address(fd.as_fd())?;
        let peer = sockets::peer_address(fd.as_fd())?;
        let seen = faces::face_at(&self.faces, &self.config, local.ip(), self.leader);
        let Some(config) = seen else { return Ok(()) };
        let mut random = [0; 33];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let Some(number) = self.registry.connect(peer) else {
            self.turn_away(peer, plumbing.now);
            return Ok(());
        };
        let origin = Origin { shard: plumbing.shard, connection: number.0 };
        let service = self.elsewhere.clone().map_or(Service::Open, Service::Moved);
        let portal = SocketAddr::new(local.ip(), local.port()).to_string();
        let arrival = Arrival { portal, peer: peer.ip(), entropy: Entropy(random), service };
        let core = Connection::new(config, origin, arrival, plumbing.now);
        let file = plumbing.reactor.adopt(fd);
        self.insert(number, core, file, Inbound::new(), Phase::Open);
        self.conn(number).peer = Some(peer);
        self.pump(number, plumbing);
        Ok(())
    }

    /// There are too many connections that have not logged in, or too many of all.
    fn turn_away(&mut self, peer: SocketAddr, now: Instant) {
        let away = &mut self.turned_away;
        away.count += 1;
        if away.told.is_none_or(|told| now.since(told) >= TURNED_AWAY_PAUSE) {
            away.told = Some(now);
            log::warn!("{peer} is turned away: too many connections are open ({} so far)", away.count);
        }
    }

    /// From now on sends who logs in elsewhere, or serves again.
    pub fn redirect(&mut self, elsewhere: Option<String>) {
        self.elsewhere = elsewhere;
    }

    fn insert(&mut self, number: ConnNo, core: Connection, file: File, inbound: Box<Inbound>, phase: Phase) {
        let index = number.0 as usize;
        if index >= self.conns.len() {
            self.conns.resize_with(index + 1, || None);
        }
        assert!(self.conns[index].is_none(), "a number names one connection");
        self.conns[index] = Some(Box::new(Conn {
            core,
            stream: Duplex::new(file, inbound),
            phase,
            listed: false,
            nexus: None,
            moving: None,
            peer: None,
        }));
    }

    /// A login is agreed (shard 0).
    fn on_full_feature(&mut self, number: ConnNo, entrant: Entrant, plumbing: &mut Plumbing) {
        let discovery = entrant.discovery;
        let nexus = entrant.nexus.clone();
        let mut older = Vec::new();
        if let Err(status) = self.registry.enter(number, entrant, &mut older) {
            let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
            conn.core.on_refused(status, &mut self.out);
            return self.drain(number, plumbing);
        }
        if discovery {
            let (_, tsih) = self.registry.admit(number, plumbing.now);
            return self.admitted(number, tsih, plumbing);
        }
        let conn = self.conn(number);
        conn.phase = Phase::Admitting;
        conn.nexus = Some(nexus);
        for &(other, shard) in &older {
            if shard == plumbing.shard {
                self.replace(other, plumbing);
            } else {
                plumbing.mesh.send(shard, Message::Replace(other));
            }
        }
        if older.is_empty() {
            self.place(number, plumbing);
        }
    }

    /// Nothing stands in the session's way any more: have it served where there is most room.
    fn place(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        let (shard, tsih) = self.registry.admit(number, plumbing.now);
        if shard == plumbing.shard {
            self.conn(number).phase = Phase::Open;
            self.admitted(number, tsih, plumbing);
        } else {
            self.conn(number).moving = Some((shard, tsih));
            self.list(number);
        }
    }

    fn admitted(&mut self, number: ConnNo, tsih: u16, plumbing: &mut Plumbing) {
        let shard = plumbing.shard;
        let now = plumbing.now;
        let Some(unit) = &self.unit else { return self.end(number, plumbing) };
        let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
        conn.core.set_shard(shard);
        conn.core.on_admitted(now, tsih, unit, &mut self.out);
        conn.core.on_leader(self.leader);
        self.drain(number, plumbing);
        self.pump(number, plumbing);
    }

    /// Sends a connection, with nothing in flight, to the shard that will serve it.
    fn move_away(&mut self, number: ConnNo, (shard, tsih): (ShardId, u16), plumbing: &mut Plumbing) {
        let conn = self.conns[number.0 as usize].take().expect("the connection lives");
        assert!(conn.stream.is_quiet() && conn.stream.filling.is_empty(), "nothing is under way");
        let inbound = conn.stream.inbound.expect("no receive is under way");
        match conn.stream.file.as_fd().try_clone_to_owned() {
            Ok(fd) => {
                let nexus = conn.nexus.expect("the session has a name");
                let unread = inbound.unread().to_vec();
                let moved = MovedConnection { number, core: conn.core, fd, unread, nexus, tsih };
                plumbing.mesh.send(shard, Message::Adopt(Box::new(moved)));
            }
            Err(error) => {
                log::warn!("a session could not be moved to its shard: {error}");
                self.gone(number, plumbing);
            }
        }
    }

    /// A connection is gone, here or on another shard (shard 0).
    pub fn gone(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        if let Some(next) = self.registry.gone(number) {
            self.place(next, plumbing);
        }
    }

    /// Sessions that are served, on whichever shard (shard 0).
    pub fn sessions(&self, now: Instant) -> Vec<SessionInfo> {
        self.registry.sessions(now)
    }

    // ---- every shard ----

    /// Serves a session that shard 0 has admitted.
    pub fn adopt(&mut self, moved: MovedConnection, plumbing: &mut Plumbing) {
        let file = plumbing.reactor.adopt(moved.fd);
        let inbound = Inbound::with_unread(&moved.unread);
        self.insert(moved.number, moved.core, file, inbound, Phase::Open);
        self.conn(moved.number).nexus = Some(moved.nexus);
        self.admitted(moved.number, moved.tsih, plumbing);
    }

    /// A newer session takes this one's place.
    pub fn replace(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        if let Some(Some(conn)) = self.conns.get_mut(number.0 as usize) {
            conn.core.on_close_wanted(CloseReason::Replaced, &mut self.out);
            self.drain(number, plumbing);
            self.end(number, plumbing);
        }
    }

    /// Asks the initiators of this shard to log out.
    pub fn ask_logout(&mut self, seconds: u16, plumbing: &mut Plumbing) {
        for number in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[number] else { continue };
            if conn.phase == Phase::Open {
                conn.core.on_logout_wanted(plumbing.now, seconds, &mut self.out);
                let number = ConnNo(number as u32);
                self.drain(number, plumbing);
                self.note_deadline(number);
            }
        }
    }

    /// Drops every connection: the node does not serve any more, or the engine ends.
    pub fn drop_initiators(&mut self, plumbing: &mut Plumbing) {
        for number in 0..self.conns.len() {
            if self.conns[number].is_some() {
                self.end(ConnNo(number as u32), plumbing);
            }
        }
    }

    /// Connections of this shard.
    pub fn connections(&self) -> usize {
        self.conns.iter().flatten().count()
    }

    pub fn on_received(
        &mut self,
        number: ConnNo,
        inbound: Box<Inbound>,
        result: Result<usize, i32>,
        more: bool,
        plumbing: &mut Plumbing,
    ) {
        let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
        let alive = conn.stream.on_received(inbound, result, more, plumbing);
        match conn.phase {
            Phase::Ended => self.reap(number, plumbing),
            _ if alive => self.pump(number, plumbing),
            _ => self.end(number, plumbing),
        }
    }

    pub fn on_sent(
        &mut self,
        number: ConnNo,
        batch: Box<SendBatch>,
        result: Result<usize, i32>,
        plumbing: &mut Plumbing,
    ) {
        let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
        let alive = conn.phase != Phase::Ended;
        let end = conn.stream.on_sent(batch, result, alive, StreamOwner::Target(number), plumbing);
        match (conn.phase, end) {
            (_, SendEnd::Continues) => {}
            (Phase::Ended, _) => self.reap(number, plumbing),
            (_, SendEnd::Failed) => self.end(number, plumbing),
            // The backlog is gone.
            (Phase::Open, SendEnd::Done) if !conn.stream.hungry => self.pump(number, plumbing),
            (_, SendEnd::Done) => self.list(number),
        }
    }

    /// A request of one of this shard's connections has ended.
    pub fn on_block_done(&mut self, completion: BlockCompletion, plumbing: &mut Plumbing) {
        let number = ConnNo((completion.id.0 >> 32) as u32);
        let conn = self.conns[number.0 as usize].as_mut().expect("a connection outlives its requests");
        let mut pool = plumbing.pool.purpose(Purpose::Target);
        conn.core.on_block_done(completion.id, completion.status, &mut pool, &mut self.out);
        self.drain(number, plumbing);
        let conn = self.conn(number);
        match conn.phase {
            Phase::Ended => self.reap(number, plumbing),
            // A command that was answered may let in the next.
            _ if !conn.stream.hungry => self.pump(number, plumbing),
            _ => {}
        }
    }

    /// Buffers came free after someone had gone without.
    pub fn on_pool_ready(&mut self, plumbing: &mut Plumbing) {
        for number in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[number] else { continue };
            if conn.phase != Phase::Open || !conn.core.waits_for_buffers() {
                continue;
            }
            let number = ConnNo(number as u32);
            conn.core.on_pool_ready(&mut plumbing.pool.purpose(Purpose::Target), &mut self.out);
            self.drain(number, plumbing);
            self.pump(number, plumbing);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        earliest(self.deadline, self.accept_again)
    }

    /// Calls the timers that are due.
    pub fn on_timer(&mut self, plumbing: &mut Plumbing) {
        if self.accept_again.is_some_and(|at| at <= plumbing.now) {
            self.accept_again = None;
            for number in 0..self.listeners.len() {
                self.arm_accept(number, plumbing);
            }
        }
        if self.deadline.is_none_or(|at| at > plumbing.now) {
            return;
        }
        self.deadline = None;
        for number in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[number] else { continue };
            if conn.phase == Phase::Ended {
                continue;
            }
            let number = ConnNo(number as u32);
            if conn.core.deadline().is_some_and(|at| at <= plumbing.now) {
                conn.core.on_timer(plumbing.now, &mut self.out);
                self.drain(number, plumbing);
            }
            self.note_deadline(number);
        }
    }

    /// Is there something that [`flush`](Self::flush) would do?
    pub fn has_more(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// End of the turn: one send and one receive for each connection that has use for it.
    pub fn flush(&mut self, plumbing: &mut Plumbing) {
        while let Some(number) = self.dirty.pop() {
            let Some(conn) = self.conns[number.0 as usize].as_mut() else { continue };
            conn.listed = false;
            if conn.phase == Phase::Ended {
                continue;
            }
            let owner = StreamOwner::Target(number);
            conn.stream.send_if_due(owner, plumbing);
            let idle = conn.stream.send_is_idle();
            match (conn.phase, conn.moving) {
                (Phase::Open, _) => conn.stream.receive_if_due(owner, plumbing),
                (Phase::Leaving, _) if idle => self.end(number, plumbing),
                (Phase::Admitting, Some(to)) if idle => self.move_away(number, to, plumbing),
                _ => {}
            }
        }
    }

    // ---- inside ----

    fn conn(&mut self, number: ConnNo) -> &mut Conn {
        self.conns[number.0 as usize].as_mut().expect("the connection lives")
    }

    fn list(&mut self, number: ConnNo) {
        let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
        if !conn.listed {
            conn.listed = true;
            self.dirty.push(number);
        }
    }

    fn note_deadline(&mut self, number: ConnNo) {
        let at = self.conn(number).core.deadline();
        self.deadline = earliest(self.deadline, at);
    }

    /// Feeds the core what has been received, as far as it goes.
    fn pump(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        let arena = plumbing.pool.arena().clone();
        loop {
            let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
            // An initiator that does not read its answers gets no more of its commands read.
            if conn.phase != Phase::Open || conn.stream.filling.left() > BACKLOG_MAX {
                conn.stream.hungry = false;
                break;
            }
            let Some(inbound) = &mut conn.stream.inbound else { break };
            let mut pool = plumbing.pool.purpose(Purpose::Target);
            if inbound.wants_demand() {
                match conn.core.demand() {
                    Demand::Stalled | Demand::Closed => {
                        conn.stream.hungry = false;
                        break;
                    }
                    demand => inbound.demand(demand),
                }
            }
            let now = plumbing.now;
            match inbound.meet(&arena) {
                Met::Bytes(bytes) => conn.core.on_bytes(now, bytes, &mut pool, &mut self.out),
                Met::Data { buf, offset, len } => {
                    conn.core.on_data(now, arena.bytes(buf, offset, len), &mut pool, &mut self.out);
                }
                Met::Skipped => conn.core.on_skipped(now),
                Met::NotYet => {
                    conn.stream.hungry = true;
                    break;
                }
            }
            self.drain(number, plumbing);
        }
        if self.conns[number.0 as usize].is_some() {
            self.list(number);
            self.note_deadline(number);
        }
    }

    /// Carries out what the core has asked for.
    fn drain(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        if self.out.effects.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        let mut full_feature = None;
        let (mut examined, mut adopted) = (Vec::new(), Vec::new());
        let conn = self.conn(number);
        for effect in out.effects.drain(..) {
            match effect {
                Effect::Send { header, data, pad } => {
                    conn.fill(&header, data, pad, &out.bytes, plumbing.pool.arena());
                }
                Effect::Block(request) => plumbing.route(request),
                Effect::Examine { id, how, left, right, len } => {
                    let found = plumbing.pool.arena().examine(how, left, right, len as usize);
                    examined.push((id, found));
                }
                Effect::Free(buf) => plumbing.release(buf),
                Effect::FullFeature { nexus, tsih, cid, discovery } => {
                    full_feature = Some(Entrant { nexus, tsih, cid, discovery });
                }
                Effect::ChangeUnit(change) => plumbing.tell_zero(Message::UnitChange(change)),
                Effect::UnitQuiet(serial) => adopted.push(serial),
                Effect::Close { reason } => {
                    log::info!("connection of {} ends: {reason}", conn.name());
                    if conn.phase != Phase::Ended {
                        conn.phase = Phase::Leaving;
                    }
                }
            }
        }
        out.clear();
        self.out = out;
        self.list(number);
        for (id, found) in examined {
            let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
            let mut pool = plumbing.pool.purpose(Purpose::Target);
            conn.core.on_examined(id, found, &mut pool, &mut self.out);
            self.drain(number, plumbing);
        }
        for serial in adopted {
            self.on_unit_quiet(serial, plumbing);
        }
        if let Some(entrant) = full_feature {
            self.on_full_feature(number, entrant, plumbing);
        }
    }

    /// TCP ends, by either side.
    fn end(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        let conn = self.conns[number.0 as usize].as_mut().expect("the connection lives");
        if conn.phase == Phase::Ended {
            return;
        }
        conn.phase = Phase::Ended;
        conn.moving = None;
        conn.stream.hang_up(plumbing);
        conn.core.on_closed(&mut self.out);
        self.drain(number, plumbing);
        self.reap(number, plumbing);
    }

    /// Drops an ended connection once nothing of it is under way.
    fn reap(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        let conn = self.conn(number);
        debug_assert!(conn.phase == Phase::Ended);
        if !conn.stream.is_quiet() || !conn.core.is_idle() {
            return;
        }
        log::debug!("connection of {} is gone", conn.name());
        self.conns[number.0 as usize] = None;
        if plumbing.shard == ShardId(0) {
            self.gone(number, plumbing);
        } else {
            plumbing.mesh.send(ShardId(0), Message::Gone(number));
        }
    }
}

impl Conn {
    /// Appends a PDU to what will be sent, with its digests.
    fn fill(&mut self, header: &Bhs, data: SendData, pad: u8, bytes: &[u8], arena: &Arc<Arena>) {
        let digests = self.core.digests_of(header);
        let filling = &mut self.stream.filling;
        filling.push(header);
        if digests.header {
            filling.push(&crc32c(header).to_le_bytes());
        }
        let crc = match data {
            SendData::None => return,
            SendData::Inline { start, len } => {
                let bytes = &bytes[start as usize..(start + len) as usize];
                filling.push(bytes);
                if digests.data { crc32c(bytes) } else { 0 }
            }
            SendData::Buf(slice, len) => {
                filling.push_buffer(arena, slice, len as usize);
                let bytes = || arena.bytes(slice.buf, slice.offset as usize, len as usize);
                if digests.data { crc32c(bytes()) } else { 0 }
            }
        };
        filling.push_zeros(usize::from(pad));
        if digests.data {
            let crc = crc32c_append(crc, &[0; 3][..usize::from(pad)]);
            filling.push(&crc.to_le_bytes());
        }
    }

    fn name(&self) -> String {
        match (&self.nexus, self.peer) {
            (Some(nexus), _) => nexus.initiator.as_str().to_owned(),
            (None, Some(peer)) => peer.to_string(),
            (None, None) => "an initiator".to_owned(),
        }
    }
}
