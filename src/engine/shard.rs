//! One shard: a thread with its ring, its connections, its lanes and its links, and the loop that turns them.
//!
//! A turn: one system call (submit, sleep, reap); every completion and message is fed to its driver and what the cores
//! ask for is carried out at once; at the end each connection that has something to say says all of it in one send.
//! The time is read once for each turn.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as WallInstant};

use super::buffers::Purpose;
use super::link_driver::{LinkDriver, LinkEvent};
use super::plumbing::{Message, Plumbing, boot_time};
use super::reactor::{Completion, DiskTag, ListenFor, StreamOwner};
use super::ring::Wait;
use super::target_driver::TargetDriver;
use super::volume_driver::VolumeDriver;
use super::zero::Zero;
use crate::arbitration::Lease;
use crate::block::{UnitCompletion, UnitState};
use crate::scsi::Leader;
use crate::time::{Instant, earliest};
use crate::units::ShardId;
use crate::volume::messages::{LinkRole, Posture, Service};

/// Longest sleep without a deadline.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Longest sleep while messages wait on this side of a full ring of the mesh.
const BACKLOG_SLEEP: Duration = Duration::from_micros(50);
/// How long the end of a shard waits for what is under way.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a posture means to initiators with paths to both nodes.
fn tell_leader(posture: &Posture, target: &mut TargetDriver, plumbing: &mut Plumbing) {
    let leader = match posture.service {
        Service::Standalone | Service::Alone | Service::Both => {
            Leader::Here { peer: posture.link == LinkRole::Lead }
        }
        // Perhaps it goes on as it was.
        Service::Held => return,
        Service::Closed if posture.forward => Leader::There,
        Service::Closed => Leader::Between,
    };
    target.on_leader(leader, plumbing);
}

/// When to look for news awake before sleeping: as long as it pays. A wake-up costs both sides more than a short look;
/// a look in vain costs the core, and another thread on it its turn.
struct Spin {
    /// How long to look. Zero: never.
    limit: Duration,
    /// Looks in vain in a row.
    misses: u32,
    /// Sleeps until the next try.
    pause: u32,
}

/// log2 of the most sleeps between two tries.
const SPIN_PAUSE_MAX: u32 = 8;

impl Spin {
    fn new(limit: Duration) -> Self {
        Self { limit, misses: 0, pause: 0 }
    }

    fn is_worthwhile(&mut self) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0
    }

    fn found(&mut self) {
        self.misses = 0;
    }

    fn missed(&mut self) {
        self.misses = (self.misses + 1).min(SPIN_PAUSE_MAX);
        self.pause = 1 << self.misses;
    }
}

/// See the module.
pub struct Shard {
    pub plumbing: Plumbing,
    pub target: TargetDriver,
    pub volume: VolumeDriver,
    pub links: LinkDriver,
    /// What only shard 0 does.
    pub zero: Option<Box<Zero>>,
    spin: Spin,
    stopping: Option<Instant>,
}

impl Shard {
    pub fn new(
        mut plumbing: Plumbing,
        target: TargetDriver,
        volume: VolumeDriver,
        zero: Option<Box<Zero>>,
        spin: Duration,
    ) -> std::io::Result<Self> {
        let descriptor = plumbing.mesh.waker().descriptor()?;
        let wake = plumbing.reactor.adopt(descriptor);
        plumbing.reactor.arm_wake(&wake);
        Ok(Self {
            plumbing,
            target,
            volume,
            links: LinkDriver::default(),
            zero,
            spin: Spin::new(spin),
            stopping: None,
        })
    }

    /// Turns until told to stop and everything under way has ended.
    pub fn run(mut self) {
        self.with_zero(|zero, shard| zero.on_start(shard));
        while !self.is_over() {
            self.turn();
        }
        // Whoever still sleeps must hear of the end.
        self.finish_turn();
        log::debug!("shard {} ends: {:?}", self.plumbing.shard.0, self.plumbing.reactor.stats());
    }

    fn turn(&mut self) {
        self.finish_turn();
        self.sleep();
        self.plumbing.now = boot_time();
        while let Some(completion) = self.plumbing.reactor.next_completion() {
            self.on_completion(completion);
            self.settle();
        }
        while let Some((_, message)) = self.plumbing.mesh.receive() {
            self.on_message(message);
            self.settle();
        }
        self.on_timers();
        if self.plumbing.pool.take_starved(Purpose::Target) {
            self.target.on_pool_ready(&mut self.plumbing);
        }
        if self.plumbing.pool.take_starved(Purpose::Link) {
            self.links.on_pool_ready(&mut self.volume, &mut self.plumbing);
        }
        self.settle();
    }

    /// Says what the turn has to say, and what that brings about on this shard.
    fn finish_turn(&mut self) {
        loop {
            self.with_zero(|zero, shard| zero.flush(shard));
            self.settle();
            self.target.flush(&mut self.plumbing);
            self.links.flush(&mut self.plumbing);
            let said = !self.target.has_more() && !self.links.has_more();
            if said && self.plumbing.has_settled() && self.zero.as_ref().is_none_or(|zero| !zero.has_more()) {
                break;
            }
        }
        self.plumbing.mesh.flush();
    }

    /// The system call of the turn. Sleeps unless there is news.
    fn sleep(&mut self) {
        if self.spin.is_worthwhile() && self.look_for_news() {
            return;
        }
        let limit = self.sleep_limit();
        let Plumbing { reactor, mesh, .. } = &mut self.plumbing;
        let has_control = || self.zero.as_ref().is_some_and(|zero| zero.has_control());
        if has_control() || limit.is_zero() || !mesh.fall_asleep(has_control) {
            return reactor.turn(Wait::No);
        }
        reactor.turn(Wait::AtMost(limit));
        mesh.wake_up();
    }

    /// Submits and looks for news for a while, awake. True: there is some.
    fn look_for_news(&mut self) -> bool {
        let Plumbing { reactor, mesh, .. } = &mut self.plumbing;
        reactor.turn(Wait::No);
        if reactor.has_completions() || reactor.has_backlog() {
            return true;
        }
        let begun = WallInstant::now();
        loop {
            if reactor.has_news() || mesh.has_messages() {
                self.spin.found();
                reactor.turn(Wait::No);
                return true;
            }
            if begun.elapsed() >= self.spin.limit {
                self.spin.missed();
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn sleep_limit(&self) -> Duration {
        let deadline = earliest(self.target.deadline(), self.volume.deadline());
        let deadline = earliest(deadline, self.zero.as_ref().and_then(|zero| zero.deadline()));
        let limit = deadline.map_or(SLEEP_MAX, |at| at.since(self.plumbing.now).min(SLEEP_MAX));
        if self.plumbing.mesh.has_backlog() || self.stopping.is_some() {
            return limit.min(BACKLOG_SLEEP);
        }
        limit
    }

    fn on_completion(&mut self, completion: Completion) {
        let Self { plumbing, target, volume, links, .. } = self;
        match completion {
            Completion::Received { owner: StreamOwner::Target(number), inbound, result, more } => {
                target.on_received(number, inbound, result, more, plumbing);
            }
            Completion::Sent { owner: StreamOwner::Target(number), batch, result } => {
                target.on_sent(number, batch, result, plumbing);
            }
            Completion::Disk { tag, result, released } => {
                if let Some(buf) = released {
                    plumbing.release(buf);
                }
                match tag {
                    DiskTag::Part(op) => volume.on_disk(op, result, links, plumbing),
                    DiskTag::Coordinator(op) => {
                        self.with_zero(|zero, shard| zero.on_disk(op, result, shard));
                    }
                }
            }
            Completion::Received { owner: StreamOwner::Link(key), inbound, result, more } => {
                links.on_received(key, inbound, result, more, volume, plumbing);
            }
            Completion::Sent { owner: StreamOwner::Link(key), batch, result } => {
                links.on_sent(key, batch, result, plumbing);
            }
            Completion::Accepted { listen: ListenFor::Portal(portal), result } => {
                target.on_accepted(portal, result, plumbing);
            }
            Completion::Woken => {}
            other => self.with_zero(|zero, shard| zero.on_completion(other, shard)),
        }
    }

    fn on_message(&mut self, message: Message) {
        let Self { plumbing, target, volume, links, .. } = self;
        match message {
            Message::Block(request) => plumbing.requests.push_back(request),
            Message::Done(completion) => plumbing.completions.push_back(completion),
            Message::Free(buf) => plumbing.pool.come_home(buf),
            Message::Adopt(moved) => target.adopt(*moved, plumbing),
            Message::Replace(number) => target.replace(number, plumbing),
            Message::Gone(number) => target.gone(number, plumbing),
            Message::AskLogout(seconds) => target.ask_logout(seconds, plumbing),
            Message::Posture(posture) => {
                tell_leader(&posture, target, plumbing);
                volume.on_posture(posture, links, plumbing);
            }
            Message::Lease(lease) => volume.on_lease(lease),
            Message::AdoptLink(ready) => links.adopt(*ready, volume, plumbing),
            Message::DropSession(session) => links.drop_session(session, plumbing),
            Message::DropInitiators => target.drop_initiators(plumbing),
            Message::DropAt(addresses) => target.drop_at(&addresses, plumbing),
            Message::Stop => self.stop(),
            Message::Unit { serial, state } => {
                target.on_unit(serial, &state, plumbing);
            }
            Message::UnitAnswer(completion) => target.on_unit_answer(completion, plumbing),
            Message::UnitChange(change) => self.with_zero(|zero, shard| zero.on_unit_change(change, shard)),
            Message::UnitAdopted { shard: from, serial } => {
                self.with_zero(|zero, shard| zero.on_unit_adopted(from, serial, shard));
            }
            Message::Report(report) => self.with_zero(|zero, shard| zero.on_report(report, shard)),
            Message::WantStats => {
                plumbing.mesh.send(ShardId(0), Message::Stats(Box::new(volume.stats())));
            }
            Message::Stats(stats) => self.with_zero(|zero, shard| zero.on_stats(*stats, shard)),
            Message::LinkLost(session, why) => {
                self.with_zero(|zero, shard| zero.on_link_lost(session, &why, shard));
            }
        }
    }

    fn on_timers(&mut self) {
        self.target.on_timer(&mut self.plumbing);
        self.volume.on_timer(&mut self.links, &mut self.plumbing);
        self.with_zero(|zero, shard| zero.on_turn(shard));
    }

    /// Carries requests, answers, reports and broken links on until nothing is left to carry.
    pub fn settle(&mut self) {
        loop {
            if let Some(request) = self.plumbing.requests.pop_front() {
                self.volume.on_request(request, &mut self.links, &mut self.plumbing);
            } else if let Some(completion) = self.plumbing.completions.pop_front() {
                self.target.on_block_done(completion, &mut self.plumbing);
            } else if let Some(message) = self.plumbing.to_self.pop_front() {
                self.on_message(message);
            } else if let Some(report) = self.volume.reports.pop_front() {
                self.with_zero(|zero, shard| zero.on_report(report, shard));
            } else if let Some(LinkEvent::Lost { session, why }) = self.links.next_event() {
                if self.zero.is_some() {
                    self.with_zero(|zero, shard| zero.on_link_lost(session, &why, shard));
                } else {
                    self.plumbing.mesh.send(ShardId(0), Message::LinkLost(session, why));
                }
            } else {
                return;
            }
        }
    }

    /// Lets shard 0's own part act on the shard. Nothing on other shards.
    fn with_zero(&mut self, act: impl FnOnce(&mut Zero, &mut Self)) {
        if let Some(mut zero) = self.zero.take() {
            act(&mut zero, self);
            self.zero = Some(zero);
        }
    }

    // ---- what shard 0 asks of all shards ----

    /// Sends a message to every other shard.
    pub fn tell_others(&mut self, message: impl Fn() -> Message) {
        for number in 0..self.plumbing.mesh.shards() {
            if ShardId(number) != self.plumbing.shard {
                self.plumbing.mesh.send(ShardId(number), message());
            }
        }
    }

    /// Puts a posture in force on all shards.
    pub fn posture(&mut self, posture: Posture) {
        self.tell_others(|| Message::Posture(posture));
        tell_leader(&posture, &mut self.target, &mut self.plumbing);
        self.volume.on_posture(posture, &mut self.links, &mut self.plumbing);
    }

    /// Reads need not be confirmed for a while, on any shard.
    pub fn lease(&mut self, lease: Lease) {
        self.tell_others(|| Message::Lease(lease));
        self.volume.on_lease(lease);
    }

    /// Gives every shard a unit state.
    pub fn unit(&mut self, serial: u64, state: UnitState) {
        self.tell_others(|| Message::Unit { serial, state: state.clone() });
        self.target.on_unit(serial, &state, &mut self.plumbing);
    }

    /// Tells the shard that asked what became of its change of the unit state.
    pub fn unit_answer(&mut self, completion: UnitCompletion) {
        if completion.origin == self.plumbing.shard {
            self.target.on_unit_answer(completion, &mut self.plumbing);
        } else {
            self.plumbing.mesh.send(completion.origin, Message::UnitAnswer(completion));
        }
    }

    /// Begins or ends to serve initiators.
    pub fn serve(&mut self, on: bool) -> std::io::Result<()> {
        if !on {
            self.tell_others(|| Message::DropInitiators);
        }
        self.target.serve(on, &mut self.plumbing)
    }

    /// Drops who is connected to these addresses, everywhere.
    pub fn drop_at(&mut self, addresses: &Arc<[IpAddr]>) {
        self.tell_others(|| Message::DropAt(addresses.clone()));
        self.target.drop_at(addresses, &mut self.plumbing);
    }

    /// Asks every initiator to log out within `seconds`; who has not gone by then is disconnected.
    pub fn ask_logout(&mut self, seconds: u16) {
        self.tell_others(|| Message::AskLogout(seconds));
        self.target.ask_logout(seconds, &mut self.plumbing);
    }

    /// Drops the links of a session everywhere.
    pub fn drop_session(&mut self, session: crate::units::SessionId) {
        self.tell_others(|| Message::DropSession(session));
        self.links.drop_session(session, &mut self.plumbing);
    }

    /// Ends the loop once everything under way has ended.
    pub fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(self.plumbing.now);
            let _ = self.target.serve(false, &mut self.plumbing);
            self.target.drop_initiators(&mut self.plumbing);
            self.links.drop_all(&mut self.plumbing);
        }
    }

    fn is_over(&self) -> bool {
        let Some(since) = self.stopping else { return false };
        let waited = self.plumbing.now.since(since);
        let quiet = self.target.connections() == 0
            && self.zero.as_ref().is_none_or(|zero| zero.is_quiet())
            && self.links.is_empty()
            && !self.plumbing.mesh.has_messages()
            && !self.plumbing.mesh.has_backlog();
        // The wake-up read is always under way.
        let still = quiet && self.plumbing.reactor.in_flight() <= 1;
        // A quiet shard goes on serving the others' requests until all are quiet.
        let all = self.plumbing.say_quiet(still);
        if waited >= STOP_LIMIT && !still {
            log::warn!("shard {} ends with operations under way", self.plumbing.shard.0);
        }
        all || waited >= STOP_LIMIT
    }
}
