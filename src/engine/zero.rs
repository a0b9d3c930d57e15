//! What only shard 0 does: it hears the daemon, drives the coordinator and the making of links, and tells all shards
//! what was decided.

use crossbeam_channel::{Receiver, Sender};

use super::device::Page;
use super::establish::{Establish, Meeting};
use super::plumbing::{Message, boot_time};
use super::reactor::{Completion, DiskTag, ListenFor, StreamOwner};
use super::run::{EngineEvent, EngineRequest, EngineStatus};
use super::shard::Shard;
use crate::block::UnitChange;
use crate::replication::control::Control;
use crate::storage::{Layout, PAGE_BYTES};
use crate::time::{Duration, Instant, earliest};
use crate::units::{SessionId, ShardId};
use crate::volume::coordinator::{ControlEffect, ControlOutbox, Coordinator};
use crate::volume::effect::{DiskResult, OpId};
use crate::volume::messages::PartReport;
use crate::volume::part::PartStats;

/// Pause between attempts to open a portal that is taken.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub struct Zero {
    coordinator: Coordinator,
    /// `None` for a volume without a peer.
    establish: Option<Establish>,
    layout: Layout,
    requests: Receiver<EngineRequest>,
    events: Sender<EngineEvent>,
    out: ControlOutbox,
    /// A portal could not be opened: when to try again.
    listen_again: Option<Instant>,
    /// Somebody waits for the other shards' numbers.
    status: Vec<StatusRequest>,
}

struct StatusRequest {
    reply: Sender<EngineStatus>,
    parts: Vec<PartStats>,
    /// Shards that have not answered.
    missing: usize,
}

impl Zero {
    pub fn new(
        coordinator: Coordinator,
        establish: Option<Establish>,
        layout: Layout,
        requests: Receiver<EngineRequest>,
        events: Sender<EngineEvent>,
    ) -> Self {
        Self {
            coordinator,
            establish,
            layout,
            requests,
            events,
            out: Vec::new(),
            listen_again: None,
            status: Vec::new(),
        }
    }

    pub fn on_start(&mut self, shard: &mut Shard) {
        let started =
            self.establish.as_mut().map_or(Ok(()), |establish| establish.on_start(&mut shard.plumbing));
        if let Err(error) = started {
            self.tell(EngineEvent::Failed { why: format!("cannot listen for the peer: {error}") });
        }
        self.coordinator.on_start(shard.plumbing.now, &mut self.out);
        self.drain(shard);
    }

    /// Is there something from the daemon?
    pub fn has_control(&self) -> bool {
        !self.requests.is_empty()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let links = self.establish.as_ref().and_then(Establish::deadline);
        earliest(earliest(self.coordinator.deadline(), links), self.listen_again)
    }

    /// Once each turn: the daemon's requests and timers.
    pub fn on_turn(&mut self, shard: &mut Shard) {
        while let Ok(request) = self.requests.try_recv() {
            self.on_request(request, shard);
        }
        let now = shard.plumbing.now;
        if self.coordinator.deadline().is_some_and(|at| at <= now) {
            self.coordinator.on_timer(now, &mut self.out);
            self.drain(shard);
        }
        if let Some(establish) = &mut self.establish {
            if establish.deadline().is_some_and(|at| at <= now) {
                establish.on_timer(&mut shard.plumbing);
            }
        }
        if self.listen_again.is_some_and(|at| at <= now) {
            self.serve(true, shard);
        }
        self.meet(shard);
    }

    fn on_request(&mut self, request: EngineRequest, shard: &mut Shard) {
        let now = shard.plumbing.now;
        match request {
            EngineRequest::Operator { ticket, command } => {
                self.coordinator.on_operator(now, ticket, command, &mut self.out);
            }
            EngineRequest::Record(outcome) => self.coordinator.on_record(now, outcome, &mut self.out),
            EngineRequest::Cas(outcome) => self.coordinator.on_cas(now, outcome, &mut self.out),
            EngineRequest::Notice(notice) => {
                if let Some(establish) = &mut self.establish {
                    establish.send_to_peer(&Control::Notice(notice));
                }
            }
            EngineRequest::AskLogout { seconds } => shard.ask_logout(seconds),
            EngineRequest::DropAt(addresses) => shard.drop_at(&addresses.into()),
            EngineRequest::Redirect(elsewhere) => shard.target.redirect(elsewhere),
            EngineRequest::Status { reply } => return self.begin_status(reply, shard),
            EngineRequest::Stop => {
                if let Some(establish) = &mut self.establish {
                    establish.stop(&mut shard.plumbing);
                }
                shard.tell_others(|| Message::Stop);
                shard.stop();
            }
        }
        self.drain(shard);
    }

    /// Is there something that [`flush`](Self::flush) would do?
    pub fn has_more(&self) -> bool {
        self.establish.as_ref().is_some_and(Establish::has_more)
    }

    /// End of the turn.
    pub fn flush(&mut self, shard: &mut Shard) {
        if let Some(establish) = &mut self.establish {
            establish.flush(&mut shard.plumbing);
        }
        self.meet(shard);
    }

    /// Nothing of shard 0's own is under way.
    pub fn is_quiet(&self) -> bool {
        self.establish.as_ref().is_none_or(Establish::is_quiet)
    }

    pub fn on_completion(&mut self, completion: Completion, shard: &mut Shard) {
        let Some(establish) = &mut self.establish else { return };
        let plumbing = &mut shard.plumbing;
        match completion {
            Completion::Accepted { listen: ListenFor::Peer, result } => {
                establish.on_accepted(result, plumbing);
            }
            Completion::Connected { owner: StreamOwner::Meeting(key), result } => {
                establish.on_connected(key, result, plumbing);
            }
            Completion::Received { owner: StreamOwner::Meeting(key), inbound, result, more } => {
                establish.on_received(key, inbound, result, more, plumbing);
            }
            Completion::Sent { owner: StreamOwner::Meeting(key), batch, result } => {
                establish.on_sent(key, batch, result, plumbing);
            }
            _ => unreachable!("the shard takes the others"),
        }
        self.meet(shard);
    }

    pub fn on_disk(&mut self, op: OpId, result: DiskResult, shard: &mut Shard) {
        self.coordinator.on_disk(shard.plumbing.now, op, result, &mut self.out);
        self.drain(shard);
    }

    pub fn on_report(&mut self, report: PartReport, shard: &mut Shard) {
        self.coordinator.on_report(shard.plumbing.now, report, &mut self.out);
        self.drain(shard);
    }

    /// An initiator of some shard changes the unit state.
    pub fn on_unit_change(&mut self, change: UnitChange, shard: &mut Shard) {
        self.coordinator.on_unit_change(shard.plumbing.now, change, &mut self.out);
        self.drain(shard);
    }

    pub fn on_unit_adopted(&mut self, from: ShardId, serial: u64, shard: &mut Shard) {
        self.coordinator.on_unit_adopted(shard.plumbing.now, from, serial, &mut self.out);
        self.drain(shard);
    }

    pub fn on_link_lost(&mut self, session: SessionId, why: &str, shard: &mut Shard) {
        if let Some(establish) = &mut self.establish {
            establish.on_link_lost(session, why, &mut shard.plumbing);
        }
        self.meet(shard);
    }

    /// Hands on what the making of links has brought.
    fn meet(&mut self, shard: &mut Shard) {
        while let Some(meeting) = self.establish.as_mut().and_then(Establish::next_meeting) {
            let now = shard.plumbing.now;
            match meeting {
                Meeting::Handoff(to, ready) => {
                    if to == shard.plumbing.shard {
                        shard.links.adopt(ready, &mut shard.volume, &mut shard.plumbing);
                    } else {
                        shard.plumbing.mesh.send(to, Message::AdoptLink(Box::new(ready)));
                    }
                }
                Meeting::Up { session, peer } => {
                    self.coordinator.on_session_up(now, session, peer, &mut self.out);
                }
                Meeting::Lost { session, was_up } => {
                    shard.drop_session(session);
                    if was_up {
                        self.coordinator.on_session_down(now, session, &mut self.out);
                    }
                }
                Meeting::Control { message: Control::Notice(notice), .. } => {
                    self.tell(EngineEvent::Notice(notice));
                }
                Meeting::Control { session, message } => {
                    // A promise begins when the question has come (R5); the turn began before, a stopped process ago even.
                    let asks = matches!(message, Control::LeaseAsk { .. });
                    let now = if asks { boot_time() } else { now };
                    self.coordinator.on_control(now, session, message, &mut self.out);
                }
                Meeting::Trouble(why) => self.tell(EngineEvent::LinkTrouble { why }),
            }
            self.drain(shard);
        }
    }

    /// Carries out what the coordinator asks for.
    fn drain(&mut self, shard: &mut Shard) {
        while !self.out.is_empty() {
            for effect in std::mem::take(&mut self.out) {
                self.carry_out(effect, shard);
            }
        }
    }

    fn carry_out(&mut self, effect: ControlEffect, shard: &mut Shard) {
        match effect {
            ControlEffect::Posture(posture) => shard.posture(posture),
            ControlEffect::Lease(lease) => shard.lease(lease),
            ControlEffect::SendControl { session, message } => {
                if let Some(establish) = &mut self.establish {
                    establish.send(session, &message);
                }
            }
            ControlEffect::DropSession { session, reason } => {
                log::info!("the session with the peer is ended: {reason:?}");
                if let Some(establish) = &mut self.establish {
                    establish.drop_session(session, &mut shard.plumbing);
                }
            }
            ControlEffect::AllowConnect(allowed) => {
                if let Some(establish) = &mut self.establish {
                    establish.allow(allowed, &mut shard.plumbing);
                }
            }
            ControlEffect::ReadRecord => self.tell(EngineEvent::ReadRecord),
            ControlEffect::Cas { expected, proposed } => self.tell(EngineEvent::Cas { expected, proposed }),
            ControlEffect::WriteSuperblock { op } => {
                let mut page = Page::boxed();
                let copy = self.coordinator.render_superblock(&mut page.0);
                let offset = self.layout.superblocks[copy];
                let file = shard.volume.metadata_file().clone();
                shard.plumbing.reactor.page_write(&file, DiskTag::Coordinator(op), offset, page);
            }
            ControlEffect::DiskFlush { op } => {
                let file = shard.volume.data_file().clone();
                shard.plumbing.reactor.disk_flush(&file, DiskTag::Coordinator(op));
            }
            ControlEffect::WriteUnit { op, page } => {
                let mut bytes = Page::boxed();
                let copy = self.coordinator.render_unit(page, &mut bytes.0);
                let offset = self.layout.unit_state_offset(copy) + u64::from(page) * PAGE_BYTES as u64;
                let file = shard.volume.metadata_file().clone();
                shard.plumbing.reactor.page_write(&file, DiskTag::Coordinator(op), offset, bytes);
            }
            ControlEffect::Unit { serial, state } => shard.unit(serial, state),
            ControlEffect::UnitAnswer(completion) => shard.unit_answer(completion),
            ControlEffect::Serve(on) => self.serve(on, shard),
            ControlEffect::Reply { ticket, result } => self.tell(EngineEvent::Reply { ticket, result }),
            ControlEffect::Event(event) => self.tell(EngineEvent::Volume(event)),
        }
    }

    /// Begins or ends to serve. A portal that is taken is tried again: who has it may be the node that served before.
    fn serve(&mut self, on: bool, shard: &mut Shard) {
        let first = self.listen_again.take().is_none();
        match shard.serve(on) {
            Ok(()) if on => self.tell(EngineEvent::Serving { addresses: shard.target.bound() }),
            Ok(()) => self.tell(EngineEvent::NotServing),
            Err(error) => {
                self.listen_again = Some(shard.plumbing.now + LISTEN_PAUSE);
                if first {
                    self.tell(EngineEvent::Failed { why: error.to_string() });
                }
            }
        }
    }

    fn begin_status(&mut self, reply: Sender<EngineStatus>, shard: &mut Shard) {
        let others = usize::from(shard.plumbing.mesh.shards()) - 1;
        self.status.push(StatusRequest { reply, parts: vec![shard.volume.stats()], missing: others });
        shard.tell_others(|| Message::WantStats);
        self.answer_status(shard);
    }

    /// Another shard's numbers. Answers come in the order of the questions.
    pub fn on_stats(&mut self, stats: PartStats, shard: &mut Shard) {
        if let Some(first) = self.status.iter_mut().find(|request| request.missing > 0) {
            first.parts.push(stats);
            first.missing -= 1;
        }
        self.answer_status(shard);
    }

    fn answer_status(&mut self, shard: &mut Shard) {
        while self.status.first().is_some_and(|request| request.missing == 0) {
            let request = self.status.remove(0);
            let status = EngineStatus {
                volume: self.coordinator.status(),
                peer_silent: self.coordinator.peer_silence(shard.plumbing.now),
                lease: self.coordinator.lease_view(shard.plumbing.now),
                parts: request.parts,
                sessions: shard.target.sessions(shard.plumbing.now),
                portals: shard.target.bound(),
            };
            // Who asked may have gone.
            let _ = request.reply.send(status);
        }
    }

    fn tell(&self, event: EngineEvent) {
        // The daemon may have stopped listening.
        let _ = self.events.send(event);
    }
}
