//! What an agent makes of what it hears and sees: when to ask its engine to take over or to hand over, and whether
//! the service addresses belong on this node.
//!
//! It grants nothing. A wrong guess costs a failover that was not needed, never data: the engine wins rights by its own
//! compare-and-swap alone (R1), and silence only decides *who races first*. Kept here:
//!
//! - Never ask for a copy that the newest record known to either agent leaves out.
//! - A death certificate needs no waiting. Silence counts when *every* network and the replication link have been
//!   silent for [`Timing::takeover_after`]: a dead agent beside a living engine is no dead node.
//! - A link that is cut is the engines' affair, as long as the agents hear each other.
//! - After the service has moved, silence must last longer before it moves again (hysteresis, doubling).
//! - The addresses follow the engine's word, and leave when the word is old. While nobody serves they linger for a
//!   moment, and they stay until the one that serves has them: their kernel refuses connections, and a refused
//!   initiator tries again at once, an unheard one after a second.
//!
//! Driven like every core: one input, drain the outbox, the next; [`Core::deadline`] says when to call the timer.

use crate::arbitration::{Epoch, NodeSet};
use crate::time::{Duration, Instant, earliest};
use crate::units::NodeId;

use super::detector::{Detector, Stale};
use super::effect::{Ask, Effect, Note, Outbox, Own, Policy, Reason, Standing, Timing};
use super::failback::Failback;
use super::message::{
    ClientConnection, ClientNetwork, Datagram, Disk, EngineReport, EngineView, Link, Report, Role, Service,
};
use super::reach::{Answer, Reach};

#[path = "hand_over.rs"]
mod hand_over;

/// How long the addresses stay here when the other node serves and does not say that it has them.
const RELEASE_PATIENCE: Duration = Duration::from_millis(300);
/// How long the way to the clients must be down before the service is moved for it.
const CLIENTS_DOWN: Duration = Duration::from_millis(200);
/// How long an ending agent waits for the service to move.
const LEAVE_PATIENCE: Duration = Duration::from_secs(8);
/// How much longer the standby waits before it takes over for that: the primary can do it in better order.
const HAND_OVER_GRACE: Duration = Duration::from_millis(500);
/// Pause before the same is asked again although nothing was refused.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Pause before a refused request is made again, doubling. The first is short: an arbiter that has lost its own leader
/// has another one in a moment.
const REFUSED_MIN: Duration = Duration::from_millis(100);
const REFUSED_MAX: Duration = Duration::from_secs(30);
/// Moves of the service that count for the hysteresis.
const MOVES_WINDOW: Duration = Duration::from_secs(60);
const DAMPING_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Engine {
    Absent,
    Alive { view: EngineView, beat: Instant },
    Dead { view: EngineView },
}

/// The newest record of the arbiter that either node has told of.
#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    in_sync: NodeSet,
    primary: Option<NodeId>,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    me: NodeId,
    timing: Timing,
    /// The arbiter can decide without a person.
    automatic: bool,
    detector: Detector,
    engine: Engine,
    known: Known,
    /// Since when nobody serves, as far as this node knows.
    unserved_since: Option<Instant>,
    /// Who served last, and when the service moved.
    server: Option<NodeId>,
    moves: Vec<Instant>,
    asking: Option<Ask>,
    ask_again: Option<Instant>,
    refusals: u32,
    damped: bool,
    standby: bool,
    leaving_since: Option<Instant>,
    left: bool,
    policy: Policy,
    reach: Reach,
    failback: Option<Failback>,
    /// The dead peer's portal addresses: what was asked for, what is, and whether the peer had this node's.
    stand_in_wanted: bool,
    stand_in_held: bool,
    stood_in_for: bool,
    /// What was asked for last of the addresses, and what is.
    addresses_wanted: bool,
    addresses_held: bool,
    /// They may be announced again: initiators are answered here.
    announcing: bool,
    /// The peer has said that it has them too.
    peer_holds: bool,
    /// They are being given up since.
    releasing_since: Option<Instant>,
    /// Since when this node has served, or has not.
    serving: bool,
    serving_since: Instant,
    held_since: Option<Instant>,
    peer_held_since: Option<Instant>,
    /// The peer serves, and its clients cannot reach it; they can reach this node.
    peer_cut_since: Option<Instant>,
    began: Instant,
    /// This agent did not run for a while: until then it cannot tell others' silence from its own.
    blind_until: Instant,
    told_peer: Standing,
    told_engine: Own,
    next: Option<Instant>,
}

impl Core {
    /// `incarnation`: random, not 0. `networks`: how many the two nodes share.
    pub fn new(
        me: NodeId,
        timing: Timing,
        automatic: bool,
        incarnation: u64,
        networks: usize,
        now: Instant,
    ) -> Self {
        Self {
            me,
            timing,
            automatic,
            detector: Detector::new(me, incarnation, networks),
            engine: Engine::Absent,
            known: Known { epoch: Epoch(0), in_sync: NodeSet::NONE, primary: None },
            unserved_since: None,
            server: None,
            moves: Vec::new(),
            asking: None,
            ask_again: None,
            refusals: 0,
            damped: false,
            standby: false,
            leaving_since: None,
            left: false,
            policy: Policy::default(),
            reach: Reach::new(now),
            failback: None,
            stand_in_wanted: false,
            stand_in_held: false,
            stood_in_for: true,
            addresses_wanted: false,
            addresses_held: false,
            announcing: false,
            peer_holds: false,
            releasing_since: None,
            serving: false,
            serving_since: now,
            held_since: None,
            peer_held_since: None,
            peer_cut_since: None,
            began: now,
            blind_until: now,
            told_peer: Standing::Unheard,
            told_engine: Own::Absent,
            next: None,
        }
    }

    /// With what the configuration adds.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        let to_peer = policy.prefer.filter(|(node, _)| *node != self.me);
        self.failback = to_peer.map(|(_, after)| Failback::new(after));
        self.policy = policy;
        self
    }

    // ---- inputs ----

    /// An authentic datagram.
    pub fn on_datagram(&mut self, now: Instant, datagram: Datagram, out: &mut Outbox) -> Result<(), Stale> {
        if self.detector.on_datagram(now, datagram)? {
            if let Some(view) = self.peer_view() {
                self.learn(&view);
            }
        }
        self.decide(now, out);
        Ok(())
    }

    /// The own engine's beat.
    pub fn on_beat(&mut self, now: Instant, view: EngineView, out: &mut Outbox) {
        let (news, late) = match self.engine {
            Engine::Absent => (true, false),
            Engine::Alive { view: old, .. } => (differs(&old, &view), false),
            Engine::Dead { view: old } => (true, old.incarnation == view.incarnation),
        };
        if late {
            return;
        }
        self.engine = Engine::Alive { view, beat: now };
        self.learn(&view);
        if news {
            out.push(Effect::Speak);
        }
        self.decide(now, out);
    }

    /// The kernel says that the engine's process has ended.
    pub fn on_engine_died(&mut self, now: Instant, incarnation: u64, out: &mut Outbox) {
        if let Engine::Alive { view, .. } = self.engine {
            if view.incarnation == incarnation {
                self.engine = Engine::Dead { view };
                out.push(Effect::Speak);
            }
        }
        self.decide(now, out);
    }

    /// The engine answered what it was asked for; `Err` says why not.
    pub fn on_answer(&mut self, now: Instant, answer: Result<(), String>, out: &mut Outbox) {
        let Some(ask) = self.asking.take() else { return };
        match answer {
            Ok(()) => {
                self.refusals = 0;
                // Its next beats show it; no need to ask twice meanwhile.
                self.ask_again = Some(now + ASK_AGAIN);
            }
            Err(why) => {
                let pause = REFUSED_MIN * (1 << self.refusals.min(9));
                self.ask_again = Some(now + pause.min(REFUSED_MAX));
                self.refusals += 1;
                out.push(Effect::Note(Note::Refused { ask, why }));
            }
        }
        self.decide(now, out);
    }

    /// Are the service addresses on this node? After every change, and whenever somebody looked.
    pub fn on_addresses(&mut self, now: Instant, held: bool, out: &mut Outbox) {
        if self.addresses_held != held {
            self.addresses_held = held;
            out.push(Effect::Speak);
        }
        self.decide(now, out);
    }

    /// The state of the interface that the clients are behind.
    pub fn on_clients(&mut self, now: Instant, clients: ClientNetwork, out: &mut Outbox) {
        self.reach.on_cable(now, clients);
        self.decide(now, out);
    }

    /// What came of [`Effect::AskClients`].
    pub fn on_asked(&mut self, now: Instant, answer: Answer, out: &mut Outbox) {
        self.reach.on_answer(now, answer);
        self.decide(now, out);
    }

    /// Are the dead peer's portal addresses here?
    pub fn on_stand_in(&mut self, now: Instant, held: bool, out: &mut Outbox) {
        if self.stand_in_held != held {
            self.stand_in_held = held;
            out.push(Effect::Speak);
            if held && !self.stand_in_wanted {
                // An agent that was killed has left them.
                out.push(Effect::StandIn(false));
            }
        }
        self.decide(now, out);
    }

    /// A person wants this node to take no part, or to take part again.
    pub fn on_standby(&mut self, now: Instant, standby: bool, out: &mut Outbox) {
        self.standby = standby;
        self.refusals = 0;
        self.ask_again = None;
        out.push(Effect::Speak);
        self.decide(now, out);
    }

    /// The agent itself was stopped, or starved of its processor: what it has not heard, others may have said.
    pub fn on_gap(&mut self, now: Instant, out: &mut Outbox) {
        self.blind_until = now + self.timing.takeover_after;
        self.decide(now, out);
    }

    /// The agent is to end: hand over if that is possible, give up the addresses, then [`Effect::Left`].
    pub fn on_leave(&mut self, now: Instant, out: &mut Outbox) {
        if self.leaving_since.is_none() {
            self.leaving_since = Some(now);
            self.refusals = 0;
            self.ask_again = None;
            out.push(Effect::Speak);
        }
        self.decide(now, out);
    }

    /// [`Core::deadline`] has passed.
    pub fn on_timer(&mut self, now: Instant, out: &mut Outbox) {
        self.decide(now, out);
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    // ---- what is known ----

    /// What the next heartbeat says.
    pub fn report(&self, now: Instant) -> Report {
        let engine = match self.engine {
            Engine::Absent => EngineReport::Absent,
            Engine::Alive { view, beat } => {
                let age = now.since(beat).as_millis();
                EngineReport::Alive { view, beat_age_ms: u32::try_from(age).unwrap_or(u32::MAX) }
            }
            Engine::Dead { view } => EngineReport::Dead { view },
        };
        Report {
            engine,
            hears: self.detector.hears(now, self.timing.takeover_after),
            holds_addresses: self.addresses_held,
            stands_in: self.stand_in_held,
            standby: self.standby,
            leaving: self.leaving_since.is_some(),
            clients: self.reach.word(),
        }
    }

    pub fn echo(&self) -> (u64, u64) {
        self.detector.echo()
    }

    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// The peer's connections of initiators, to be told to come here.
    pub fn peer_clients(&self) -> &[ClientConnection] {
        self.detector.clients()
    }

    pub fn is_standby(&self) -> bool {
        self.standby
    }

    pub fn stands_in(&self) -> bool {
        self.stand_in_held
    }

    pub fn holds_addresses(&self) -> bool {
        self.addresses_held
    }

    pub fn own(&self, now: Instant) -> Own {
        match self.engine {
            Engine::Absent => Own::Absent,
            Engine::Dead { .. } => Own::Dead,
            Engine::Alive { beat, .. } if now.since(beat) >= self.timing.takeover_after => Own::Hung,
            Engine::Alive { .. } => Own::Alive,
        }
    }

    /// The own engine's last word, if it is young enough to act on.
    fn own_view(&self, now: Instant) -> Option<EngineView> {
        match self.engine {
            Engine::Alive { view, beat } if now.since(beat) <= self.timing.stale() => Some(view),
            _ => None,
        }
    }

    fn peer_view(&self) -> Option<EngineView> {
        match self.detector.report()?.1.engine {
            EngineReport::Absent => None,
            EngineReport::Alive { view, .. } | EngineReport::Dead { view } => Some(view),
        }
    }

    /// When the own engine last heard the peer's engine, while the two have a session.
    fn engine_heard(&self) -> Option<Instant> {
        let Engine::Alive { view, beat } = self.engine else { return None };
        let silent = Duration::from_millis(u64::from(view.peer_silent_ms));
        (view.link != Link::Apart && view.peer_silent_ms != u32::MAX)
            .then(|| Instant(beat.0.saturating_sub(silent.as_nanos() as u64)))
    }

    /// The moment from which the peer's node counts as silent, if nothing more is heard of it.
    fn silent_from(&self) -> Option<Instant> {
        let heard = self.detector.heard()?.max(self.engine_heard().unwrap_or_default());
        Some(heard + self.timing.takeover_after)
    }

    pub fn standing(&self, now: Instant) -> Standing {
        let after = self.timing.takeover_after;
        let engine_heard = self.engine_heard().is_some_and(|at| now.since(at) < after);
        let Some(heard) = self.detector.heard() else {
            return if engine_heard { Standing::AgentSilent } else { Standing::Unheard };
        };
        if now.since(heard) >= after {
            return if engine_heard { Standing::AgentSilent } else { Standing::Silent };
        }
        match self.detector.report() {
            None => Standing::Unheard,
            Some((_, report)) => match report.engine {
                EngineReport::Absent => Standing::NoEngine,
                EngineReport::Dead { .. } => Standing::EngineDead,
                // The age is its agent's word. Between two reports it does not grow here: that would be silence.
                EngineReport::Alive { beat_age_ms, .. } => {
                    let old = Duration::from_millis(u64::from(beat_age_ms)) >= after;
                    if old && !engine_heard { Standing::EngineHung } else { Standing::Alive }
                }
            },
        }
    }

    fn learn(&mut self, view: &EngineView) {
        if view.epoch >= self.known.epoch {
            self.known = Known { epoch: view.epoch, in_sync: view.in_sync, primary: view.primary };
        }
    }

    /// May this node ask for the service at all?
    fn is_eligible(&self, own: &EngineView) -> bool {
        let peer_demoted = self.peer_view().is_some_and(|view| view.demoted);
        let willing = self.automatic && !self.standby && self.leaving_since.is_none();
        let in_sync = self.known.epoch > Epoch(0) && self.known.in_sync.contains(self.me);
        willing && in_sync && own.disk == Disk::Whole && !own.demoted && !peer_demoted
    }

    // ---- decisions ----

    fn wake(&mut self, at: Instant) {
        self.next = earliest(self.next, Some(at));
    }

    /// `true` once `at` has come; otherwise the timer is set for it.
    fn due(&mut self, now: Instant, at: Instant) -> bool {
        if at > now {
            self.wake(at);
        }
        at <= now
    }

    fn decide(&mut self, now: Instant, out: &mut Outbox) {
        self.next = None;
        self.watch(now, out);
        self.look_for_clients(now, out);
        self.count_moves(now);
        self.decide_takeover(now, out);
        self.decide_hand_over(now, out);
        self.decide_addresses(now, out);
        self.decide_stand_in(now, out);
        self.decide_leaving(now, out);
    }

    /// Notices what changes with time, and tells of it.
    fn watch(&mut self, now: Instant, out: &mut Outbox) {
        let peer = self.standing(now);
        if peer != self.told_peer {
            self.told_peer = peer;
            out.push(Effect::Note(Note::Peer(peer)));
        }
        let own = self.own(now);
        if own != self.told_engine {
            self.told_engine = own;
            out.push(Effect::Note(Note::Engine(own)));
        }
        // The instants at which the two words change by themselves.
        for at in [self.silent_from(), self.hung_from(), self.engine_silent_from()].into_iter().flatten() {
            if at > now {
                self.wake(at);
            }
        }
    }

    fn hung_from(&self) -> Option<Instant> {
        let Engine::Alive { beat, .. } = self.engine else { return None };
        Some(beat + self.timing.takeover_after)
    }

    fn engine_silent_from(&self) -> Option<Instant> {
        Some(self.engine_heard()? + self.timing.takeover_after)
    }

    /// Follows who serves, for the hysteresis.
    fn count_moves(&mut self, now: Instant) {
        self.moves.retain(|at| now.since(*at) < MOVES_WINDOW);
        let mine = self.own_view(now).filter(|view| view.role == Role::Primary);
        let theirs = self.peer_view().filter(|view| view.role == Role::Primary);
        let server = match (mine, theirs) {
            (Some(mine), Some(theirs)) if mine.epoch < theirs.epoch => self.me.peer(),
            (Some(_), _) => self.me,
            (None, Some(theirs)) if theirs.epoch >= self.known.epoch => self.me.peer(),
            _ => return,
        };
        if self.server.is_some_and(|before| before != server) {
            self.moves.push(now);
        }
        self.server = Some(server);
    }

    /// Until when the service stays where it is, whatever the silence.
    fn damped_until(&self) -> Option<Instant> {
        let last = *self.moves.last()?;
        let doublings = (self.moves.len() - 1).min(8) as u32;
        Some(last + (self.timing.hysteresis * (1 << doublings)).min(DAMPING_MAX))
    }

    fn decide_takeover(&mut self, now: Instant, out: &mut Outbox) {
        let own = self.own_view(now);
        let served = own.is_some_and(|view| view.role == Role::Primary) || self.peer_serves();
        if served {
            self.unserved_since = None;
        }
        let unserved_since = if served { now } else { *self.unserved_since.get_or_insert(now) };
        let wanted = own
            .filter(|own| own.role == Role::Secondary && self.is_eligible(own))
            .and_then(|own| self.cause(now, &own, unserved_since));
        let Some((reason, mut at)) = wanted else {
            self.damped = false;
            return;
        };
        let guess =
            matches!(reason, Reason::PeerSilent | Reason::EngineHung | Reason::PeerHeld | Reason::PeerCutOff);
        if guess {
            at = at.max(self.blind_until);
        }
        if let (true, Some(until)) = (guess, self.damped_until()) {
            if until > now && at <= now && !self.damped {
                self.damped = true;
                out.push(Effect::Note(Note::Damped { for_ms: until.since(now).as_millis() as u64 }));
            }
            at = at.max(until);
        }
        self.ask(now, at, Ask::TakeOver(reason), out);
    }

    fn ask(&mut self, now: Instant, at: Instant, ask: Ask, out: &mut Outbox) {
        let at = at.max(self.ask_again.unwrap_or_default());
        if self.asking.is_none() && self.due(now, at) {
            self.asking = Some(ask);
            out.push(Effect::Note(Note::Asked(ask)));
            out.push(Effect::Ask(ask));
        }
    }

    /// Does the peer serve, or did it when it was last heard?
    fn peer_serves(&self) -> bool {
        self.peer_view().is_some_and(|view| view.role == Role::Primary && view.epoch >= self.known.epoch)
    }

    /// Why this node should serve, and from when on.
    fn cause(&mut self, now: Instant, own: &EngineView, unserved: Instant) -> Option<(Reason, Instant)> {
        let standing = self.standing(now);
        let served = self.peer_serves();
        let held = self.peer_view().is_some_and(|view| view.service == Service::Held);
        if !(standing == Standing::Alive && served && held) {
            self.peer_held_since = None;
        }
        let cut_off = self.is_peer_cut_off();
        if !(standing == Standing::Alive && served && cut_off) {
            self.peer_cut_since = None;
        }
        let later = unserved + self.timing.start_wait;
        match standing {
            Standing::Alive if served && held => {
                let since = *self.peer_held_since.get_or_insert(now);
                // One that hears nobody will not go on by itself.
                let deaf = self.detector.report().is_some_and(|(_, report)| report.hears == 0);
                let wait = if deaf { self.timing.takeover_after } else { self.timing.hysteresis };
                Some((Reason::PeerHeld, since + wait))
            }
            // It hands over by itself, unless the arbiter is where its clients are.
            Standing::Alive if served && cut_off => {
                let since = *self.peer_cut_since.get_or_insert(now);
                Some((Reason::PeerCutOff, since + CLIENTS_DOWN + HAND_OVER_GRACE))
            }
            Standing::AgentSilent => None,
            Standing::EngineDead if served => Some((Reason::EngineDied, now)),
            Standing::EngineHung if served => Some((Reason::EngineHung, now)),
            // A certificate outlives the one who gave it.
            Standing::Silent if served && self.peer_is_certified_dead() => Some((Reason::EngineDied, now)),
            Standing::Silent if served => Some((Reason::PeerSilent, now)),
            Standing::Alive if served => None,
            Standing::Alive => self.idle_cause(own, unserved),
            _ => Some((Reason::NobodyServes, later)),
        }
    }

    /// Only this node's way to the clients works.
    fn is_peer_cut_off(&self) -> bool {
        let peer = self.detector.report().map_or(ClientNetwork::Unknown, |(_, report)| report.clients);
        self.reach.word() == ClientNetwork::Up && peer == ClientNetwork::Down
    }

    fn peer_is_certified_dead(&self) -> bool {
        self.certificate().is_some()
    }

    /// The peer's agent certifies that its engine has died: the epoch that the dead told last.
    pub fn certificate(&self) -> Option<Epoch> {
        match self.detector.report()?.1.engine {
            EngineReport::Dead { view } => Some(view.epoch),
            EngineReport::Absent | EngineReport::Alive { .. } => None,
        }
    }

    /// Both engines live, and neither serves.
    fn idle_cause(&self, own: &EngineView, unserved: Instant) -> Option<(Reason, Instant)> {
        let peer = self.peer_view()?;
        if peer.disk == Disk::Failed {
            return Some((Reason::PeerDisk, unserved));
        }
        let unwilling = self.detector.report().is_some_and(|(_, report)| report.standby || report.leaving);
        let first = self.known.primary == Some(self.me) || unwilling || peer.disk == Disk::Behind;
        let wait = match (own.link, first) {
            (Link::Connected, true) => self.timing.settle,
            // The other is to be first; perhaps it cannot.
            (Link::Connected, false) | (_, true) => self.timing.start_wait,
            (_, false) => self.timing.start_wait * 2,
        };
        Some((Reason::NobodyServes, unserved + wait))
    }

    // ---- the service addresses ----

    /// Does the own engine answer initiators now?
    fn serves(&mut self, now: Instant) -> bool {
        let view = match self.engine {
            Engine::Alive { view, beat } if now.since(beat) < self.timing.takeover_after => view,
            _ => return false,
        };
        if view.service != Service::Held {
            self.held_since = None;
        }
        // The first word of an engine that was stopped is what was true before.
        let replaced =
            self.peer_view().is_some_and(|peer| peer.role == Role::Primary && peer.epoch > view.epoch);
        match view.service {
            _ if replaced => false,
            Service::Alone | Service::Both => true,
            Service::Closed => false,
            Service::Held => {
                // What it has, it keeps for a while; it takes nothing.
                let since = *self.held_since.get_or_insert(now);
                self.addresses_wanted && !self.due(now, since + self.timing.hold_grace)
            }
        }
    }

    fn decide_addresses(&mut self, now: Instant, out: &mut Outbox) {
        let leaving = self.leaving_since.is_some() && !self.waits_for_hand_over(now);
        let serves = self.serves(now) && !leaving;
        if serves != self.serving {
            self.serving = serves;
            self.serving_since = now;
        }
        let agent_lives = matches!(
            self.standing(now),
            Standing::Alive | Standing::NoEngine | Standing::EngineHung | Standing::EngineDead
        );
        let peer_holds =
            agent_lives && self.detector.report().is_some_and(|(_, report)| report.holds_addresses);
        let let_go = std::mem::replace(&mut self.peer_holds, peer_holds) && !peer_holds;
        if serves {
            // (An agent that leaves a service behind takes the addresses with it: nobody would look after them.)
            if !self.addresses_wanted {
                self.addresses_wanted = true;
                self.announcing = true;
                self.releasing_since = None;
                out.push(Effect::Addresses(true));
            } else if let_go && self.announcing {
                // Whoever asked while both had them may have heard the other one.
                out.push(Effect::Announce(true));
            }
            self.decide_announcing(now, out);
            return;
        }
        if !self.addresses_wanted && !self.addresses_held {
            return;
        }
        self.decide_announcing(now, out);
        let peer_serves = self.peer_serves() && self.standing(now) == Standing::Alive;
        let peer_had_time = peer_serves && self.due(now, self.serving_since + RELEASE_PATIENCE);
        let hung = self.own(now) == Own::Hung;
        let lingered = self.serving_since + self.timing.linger;
        if peer_had_time || peer_holds || hung || leaving || self.due(now, lingered) {
            self.release(now, out);
        }
    }

    /// Addresses that linger are not announced: the other node may have announced them as its own already.
    fn decide_announcing(&mut self, now: Instant, out: &mut Outbox) {
        let answers = match self.engine {
            Engine::Alive { view, beat } if now.since(beat) < self.timing.takeover_after => {
                matches!(view.service, Service::Alone | Service::Both)
            }
            _ => false,
        };
        if self.addresses_wanted && self.announcing != answers {
            self.announcing = answers;
            out.push(Effect::Announce(answers));
        }
    }

    /// Gives the addresses up, and again if they are still there after a while.
    fn release(&mut self, now: Instant, out: &mut Outbox) {
        let asked = std::mem::replace(&mut self.addresses_wanted, false);
        let again = self.releasing_since.is_none_or(|since| now.since(since) >= ASK_AGAIN);
        if asked || (self.addresses_held && again) {
            self.releasing_since = Some(now);
            out.push(Effect::Addresses(false));
        }
        if self.addresses_held {
            self.wake(now + ASK_AGAIN);
        }
    }

    /// The service is on its way to the peer, or can be.
    fn waits_for_hand_over(&self, now: Instant) -> bool {
        let in_time = self.leaving_since.is_some_and(|since| now.since(since) < LEAVE_PATIENCE);
        in_time && self.refusals == 0 && (self.asking.is_some() || self.can_hand_over(now))
    }

    fn decide_leaving(&mut self, now: Instant, out: &mut Outbox) {
        let Some(since) = self.leaving_since else { return };
        if self.left {
            return;
        }
        let late = self.due(now, since + LEAVE_PATIENCE + Duration::from_secs(1));
        let waits = self.waits_for_hand_over(now);
        if waits {
            self.wake(since + LEAVE_PATIENCE);
        } else if !self.addresses_held && !self.addresses_wanted && !self.stand_in_held {
            self.left = true;
            out.push(Effect::Left);
            return;
        }
        if late {
            self.left = true;
            out.push(Effect::Left);
        }
    }
}

/// Is there news in a beat, beside its being one?
fn differs(old: &EngineView, new: &EngineView) -> bool {
    let still = EngineView { progress: old.progress, peer_silent_ms: old.peer_silent_ms, ..*new };
    *old != still
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
