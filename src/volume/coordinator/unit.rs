//! The unit state: what the logical unit remembers of its initiators (persistent reservations, saved parameters,
//! resets), one small value of the whole volume, changed by compare-and-swap at the leader.
//!
//! ```text
//!  leader:   change ─▶ durable here ─▶ Unit to the follower ─────────────▶ UnitAdopted ─▶ own shards adopt ─▶ answer
//!  follower:                            durable there ─▶ its shards adopt ─▶ ┘
//!  join:     Lead carries the state ─▶ durable there ─▶ its shards adopt ─▶ Following
//! ```
//!
//! What must hold:
//! * U1: a change that was answered is never lost. Every node that the record counts in sync holds every answered change
//!   durably: an answer needs the follower of a live session, whether it is in sync yet or not, and joining begins with
//!   the leader's state; the record counts a node in only after both. When the link is lost, a change waits like a
//!   write until this node is alone by the record (D3).
//! * U2: what arrives at either node after the answer is judged by this state or a newer one: every shard of both nodes
//!   has adopted it. Adopting ends when what the change ends is quiet, so resets and PREEMPT AND ABORT are answered when
//!   both nodes are quiet.
//! * No shard is given a state that a failover could take back: the leader's shards get it when the follower holds it.
//!
//! A node whose copies are both damaged remembers nothing, and says so when it leads: then the follower's state counts.
//!
//! A leader whose role ends in the middle of a change cannot say what becomes of it: it answers `NotServing`. Its disk may
//! hold the change, and the next leader's state, whatever its version, takes its place at the next joining.
//!
//! One change is under way at a time; the others wait in a bounded queue. Writing excludes procedures: neither begins
//! while the other runs. Absent on purpose: what the bytes mean.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::block::{UnitAnswer, UnitChange, UnitCompletion, UnitState, UnitVersion};
use crate::replication::control::{Control, ForwardedChange};
use crate::storage::{PAGE_BYTES, Page, UnitCopy};
use crate::time::Instant;
use crate::units::{RequestId, SessionId, ShardId};

use super::super::effect::OpId;
use super::super::messages::{LinkRole, Service};
use super::super::mutant::Mutant;
use super::super::operator::Role;
use super::procedure::{Goal, Procedure, Wait};
use super::session::{Awaited, Stage};
use super::{ControlEffect, ControlOutbox, Coordinator, DropReason, bit};

/// Changes that wait for their turn. One more is answered `NotServing`.
pub(super) const QUEUE_MAX: usize = 128;

/// Who waits for a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Asker {
    Here { id: RequestId, origin: ShardId },
    Peer { session: SessionId, number: u64 },
}

/// A change that somebody wishes.
#[derive(Clone, Hash, Debug)]
struct Wish {
    asker: Asker,
    base: UnitVersion,
    bytes: Arc<[u8]>,
}

/// A copy that is being written, page by page.
#[derive(Clone, Hash, Debug)]
struct Writing {
    bytes: Vec<u8>,
    copy: usize,
    /// Names of the pages' operations, from page 0 on.
    first: u64,
    left: usize,
    /// What was remembered before, and whether that was damaged. `None`: the state is durable already, in the other copy.
    before: Option<(UnitState, bool)>,
}

/// See the module.
#[derive(Clone, Hash, Debug)]
pub(super) struct Unit {
    /// The newest state, durable unless it is being written.
    copy: UnitCopy,
    /// What is on this disk cannot be read: it must be written even where nothing changes.
    damaged: bool,
    writing: Option<Writing>,
    /// What the shards were given last, and its number.
    given: UnitState,
    serial: u64,
    /// Shards that have not adopted it, as bits.
    adopting: u64,
    queue: VecDeque<Wish>,
    /// Leader: who waits for the newest state to be adopted by all.
    change: Option<Asker>,
    /// Follower: the change that the leader was asked for, by its number.
    forwarded: Option<(u64, Wish)>,
    numbers: u64,
    /// Follower: the leader waits for this version to be adopted.
    owed: Option<(SessionId, UnitVersion)>,
}

impl Unit {
    /// `None`: what the disk held is lost.
    pub fn new(copy: Option<UnitCopy>) -> Self {
        let damaged = copy.is_none();
        let copy = copy.unwrap_or_else(UnitCopy::blank);
        Self {
            given: copy.state.clone(),
            copy,
            damaged,
            writing: None,
            serial: 0,
            adopting: 0,
            queue: VecDeque::new(),
            change: None,
            forwarded: None,
            numbers: 0,
            owed: None,
        }
    }

    pub fn state(&self) -> &UnitState {
        &self.copy.state
    }

    fn version(&self) -> UnitVersion {
        self.copy.state.version
    }

    /// A page is on its way to the disk.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// A change of the leader's has begun and is not answered.
    pub fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    pub fn is_adopted(&self) -> bool {
        self.adopting == 0
    }

    /// Nothing can be written any more. A state that is not durable is nobody's: no shard gets it, no peer is told.
    pub fn stop_writing(&mut self) {
        if let Some((state, damaged)) = self.writing.take().and_then(|writing| writing.before) {
            (self.copy.state, self.damaged) = (state, damaged);
        }
    }
}

impl Coordinator {
    // ---- inputs ----

    /// A session of this node asks for a change of the unit state. Answered once, by [`ControlEffect::UnitAnswer`].
    pub fn on_unit_change(&mut self, now: Instant, change: UnitChange, out: &mut ControlOutbox) {
        let UnitChange { id, origin, base, bytes } = change;
        let asker = Asker::Here { id, origin };
        if self.unit.queue.len() >= QUEUE_MAX {
            self.answer_change(asker, UnitAnswer::NotServing, out);
        } else {
            self.unit.queue.push_back(Wish { asker, base, bytes });
        }
        self.after_input(now, out);
    }

    /// A shard has adopted the state that [`ControlEffect::Unit`] gave it under this number: what arrives there is judged
    /// by it, and what the change ends is quiet.
    pub fn on_unit_adopted(&mut self, now: Instant, shard: ShardId, serial: u64, out: &mut ControlOutbox) {
        if serial == self.unit.serial {
            self.unit.adopting &= !bit(shard);
        }
        if let (0, Some(Procedure { goal: Goal::Follow { session, copy, .. }, wait: Wait::Adopted })) =
            (self.unit.adopting, self.procedure)
        {
            self.end_follow(session, copy, out);
        }
        self.after_input(now, out);
    }

    /// The bytes of a page of the unit state, and the copy (0 or 1) that it is of. Called while
    /// [`ControlEffect::WriteUnit`] is drained.
    pub fn render_unit(&self, page: u8, out: &mut Page) -> usize {
        let writing = self.unit.writing.as_ref().expect("asked for while it is written");
        let from = usize::from(page) * PAGE_BYTES;
        out.copy_from_slice(&writing.bytes[from..from + PAGE_BYTES]);
        writing.copy
    }

    /// What this node remembers for the logical unit.
    pub fn unit(&self) -> &UnitState {
        self.unit.state()
    }

    /// What this node's shards judge by, or are about to.
    pub fn unit_given(&self) -> &UnitState {
        &self.unit.given
    }

    // ---- writing ----

    fn write_unit(&mut self, before: Option<(UnitState, bool)>, out: &mut ControlOutbox) {
        self.unit.copy.advance();
        let bytes = self.unit.copy.encode(&self.superblock.volume);
        let (left, first) = (bytes.len() / PAGE_BYTES, self.operations + 1);
        self.operations += left as u64;
        let copy = self.unit.copy.copy();
        self.unit.writing = Some(Writing { bytes, copy, first, left, before });
        for page in 0..left as u8 {
            out.push(ControlEffect::WriteUnit { op: OpId(first + u64::from(page)), page });
        }
    }

    fn replace_unit(&mut self, state: UnitState, out: &mut ControlOutbox) {
        let before = core::mem::replace(&mut self.unit.copy.state, state);
        let damaged = core::mem::take(&mut self.unit.damaged);
        self.write_unit(Some((before, damaged)), out);
    }

    /// A page is durable. Says whether it was one of the unit state's.
    pub(super) fn on_unit_written(&mut self, op: OpId, out: &mut ControlOutbox) -> bool {
        let Some(writing) = self.unit.writing.as_mut() else { return false };
        let pages = (writing.bytes.len() / PAGE_BYTES) as u64;
        if !(writing.first..writing.first + pages).contains(&op.0) {
            return false;
        }
        writing.left -= 1;
        let first_copy = writing.before.is_some();
        if writing.left > 0 {
            return true;
        }
        self.unit.writing = None;
        if first_copy {
            self.write_unit(None, out);
            return true;
        }
        if let Some(Procedure { goal: Goal::Follow { .. }, wait: Wait::UnitHeld }) = self.procedure {
            self.give_unit(out);
            self.record(out);
        } else if self.role == Role::Secondary {
            self.give_unit(out);
        }
        true
    }

    /// Hands the state to every shard, unless they have it.
    fn give_unit(&mut self, out: &mut ControlOutbox) {
        if self.unit.given != self.unit.copy.state {
            self.unit.given = self.unit.copy.state.clone();
            self.unit.serial += 1;
            self.unit.adopting = self.all_shards();
            out.push(ControlEffect::Unit { serial: self.unit.serial, state: self.unit.given.clone() });
        }
    }

    // ---- joining ----

    /// The leader's state comes with its word to follow; `None`: it has lost its own, and gets this node's. Says whether the
    /// leader's must be written before anything else.
    pub(super) fn join_unit(&mut self, state: Option<UnitState>, out: &mut ControlOutbox) -> bool {
        let Some(state) = state else {
            self.send(Control::Unit(self.unit.state().clone()), out);
            return false;
        };
        if self.config.mutants.has(Mutant::FollowWithoutUnit) {
            return false;
        }
        self.unit.owed = None;
        if state != self.unit.given && self.posture.hold {
            // What waits here was judged by a state that is not the leader's: its initiators come again.
            self.set_serving(false, out);
            self.set_posture(|posture| posture.hold = false, out);
        }
        if state != *self.unit.state() || self.unit.damaged {
            self.replace_unit(state, out);
            return true;
        }
        self.give_unit(out);
        false
    }

    /// The state to go with the word to follow.
    pub(super) fn unit_to_lead_with(&mut self) -> Option<UnitState> {
        let state = (!self.unit.damaged).then(|| self.unit.state().clone());
        if let Some(session) = self.session.as_mut() {
            (session.unit_sent, session.unit_held) = (state.as_ref().map(|state| state.version), None);
        }
        state
    }

    // ---- messages ----

    pub(super) fn on_unit_message(&mut self, message: Control, out: &mut ControlOutbox) {
        let session = self.session.as_mut().expect("messages come in a session");
        let (id, stage) = (session.id, session.stage);
        match (message, stage) {
            (Control::Unit(state), Stage::Following { .. }) => {
                self.unit.owed = Some((id, state.version));
                if state == *self.unit.state() {
                    self.give_unit(out);
                } else {
                    self.replace_unit(state, out);
                }
            }
            (Control::Unit(state), Stage::Leading { awaited: Awaited::Following, .. })
                if self.unit.damaged =>
            {
                session.unit_sent = Some(state.version);
                self.replace_unit(state, out);
            }
            // An answer to an earlier one may be under way when the roles change.
            (Control::UnitAdopted { version }, _) => {
                if session.unit_sent == Some(version) && matches!(stage, Stage::Leading { .. }) {
                    session.unit_held = Some(version);
                }
            }
            (Control::UnitChange { number, base, bytes }, _) => {
                self.on_forwarded_change(id, number, base, bytes, out);
            }
            (Control::UnitChanged { number, outcome }, _) => self.on_change_answered(number, outcome, out),
            _ => self.drop_session(DropReason::Protocol, out),
        }
    }

    fn on_forwarded_change(
        &mut self,
        session: SessionId,
        number: u64,
        base: UnitVersion,
        bytes: Arc<[u8]>,
        out: &mut ControlOutbox,
    ) {
        let asker = Asker::Peer { session, number };
        if !self.leads_follower() || self.role != Role::Primary {
            return self.send(Control::UnitChanged { number, outcome: ForwardedChange::Refused }, out);
        }
        let of_peer = |asker: &Asker| matches!(asker, Asker::Peer { session: old, .. } if *old == session);
        let waits = self.unit.queue.iter().map(|wish| &wish.asker).chain(&self.unit.change).any(of_peer);
        if waits {
            return self.drop_session(DropReason::Protocol, out);
        }
        // One at most, beside what this node's own initiators may have waiting.
        self.unit.queue.push_back(Wish { asker, base, bytes });
    }

    fn on_change_answered(&mut self, number: u64, outcome: ForwardedChange, out: &mut ControlOutbox) {
        let Some((_, wish)) = self.unit.forwarded.take_if(|(asked, _)| *asked == number) else {
            return self.drop_session(DropReason::Protocol, out);
        };
        match outcome {
            ForwardedChange::Done => self.answer_change(wish.asker, UnitAnswer::Done, out),
            ForwardedChange::Stale => self.answer_change(wish.asker, UnitAnswer::Stale, out),
            ForwardedChange::Refused => self.unit.queue.push_front(wish),
        }
    }

    /// The session is over: what the leader was asked for may have been done or not, and what the follower asked for has
    /// nobody to be answered to.
    pub(super) fn lose_unit_session(&mut self, out: &mut ControlOutbox) {
        self.unit.owed = None;
        self.unit.queue.retain(|wish| matches!(wish.asker, Asker::Here { .. }));
        if let Some((_, wish)) = self.unit.forwarded.take() {
            self.answer_change(wish.asker, UnitAnswer::NotServing, out);
        }
    }

    // ---- steps ----

    /// Every input ends with this: whatever the unit state waits for may be there.
    pub(super) fn step_unit(&mut self, out: &mut ControlOutbox) {
        if self.disk_failed || self.role == Role::Secondary {
            if let Some(asker) = self.unit.change.take() {
                self.answer_change(asker, UnitAnswer::NotServing, out);
            }
        }
        if self.unit.is_writing() {
            return;
        }
        match self.role {
            Role::Primary => self.lead_unit(out),
            Role::Secondary => self.follow_unit(out),
        }
        let refuses = self.posture.service == Service::Closed && !self.posture.keeps_requests();
        if refuses && !self.disk_failed {
            self.refuse_forwarded(out);
        }
        if refuses || self.disk_failed {
            while let Some(wish) = self.unit.queue.pop_front() {
                self.answer_change(wish.asker, UnitAnswer::NotServing, out);
            }
        }
    }

    fn lead_unit(&mut self, out: &mut ControlOutbox) {
        self.send_unit(out);
        if !self.is_unit_committed() {
            return;
        }
        self.give_unit(out);
        let early = self.config.mutants.has(Mutant::AnswerUnadopted);
        if !self.unit.is_adopted() && !early {
            return;
        }
        if let Some(asker) = self.unit.change.take() {
            self.answer_change(asker, UnitAnswer::Done, out);
        }
        self.begin_unit_change(out);
    }

    /// The follower lacks the newest state, and listens.
    fn send_unit(&mut self, out: &mut ControlOutbox) {
        let version = self.unit.version();
        if !self.leads_follower() {
            return;
        }
        let session = self.session.as_mut().expect("a follower is led in a session");
        if session.unit_sent != Some(version) {
            session.unit_sent = Some(version);
            self.send(Control::Unit(self.unit.state().clone()), out);
        }
    }

    /// Can no failover take the newest state back, and may this node say so?
    fn is_unit_committed(&self) -> bool {
        if self.config.mutants.has(Mutant::AnswerUnheld) && self.posture.answers() {
            return true;
        }
        match self.live_session() {
            Some(session) if matches!(session.stage, Stage::Leading { .. }) => {
                session.unit_held == Some(self.unit.version()) && self.posture.answers()
            }
            // Nothing that came by the last session is answered any more.
            _ => match self.posture.service {
                Service::Standalone => true,
                Service::Alone => self.posture.link == LinkRole::Off && self.is_settled(),
                Service::Both | Service::Held | Service::Closed => false,
            },
        }
    }

    /// Takes up the next wish of the queue that can be fulfilled.
    fn begin_unit_change(&mut self, out: &mut ControlOutbox) {
        if self.procedure.is_some() || self.disk_failed || self.stopped {
            return;
        }
        while let Some(Wish { asker, base, bytes }) = self.unit.queue.pop_front() {
            if base != self.unit.version() {
                self.answer_change(asker, UnitAnswer::Stale, out);
                continue;
            }
            self.unit.change = Some(asker);
            return self.replace_unit(UnitState { version: base.next(), bytes }, out);
        }
    }

    fn follow_unit(&mut self, out: &mut ControlOutbox) {
        if let Some((session, version)) = self.unit.owed {
            let adopted = self.unit.is_adopted() || self.config.mutants.has(Mutant::AnswerUnadopted);
            if adopted && self.unit.version() == version {
                self.unit.owed = None;
                if self.is_current(session) {
                    self.send(Control::UnitAdopted { version }, out);
                }
            }
        }
        self.refuse_forwarded(out);
        if !self.posture.forward || self.unit.forwarded.is_some() || self.live_session().is_none() {
            return;
        }
        if let Some(wish) = self.unit.queue.pop_front() {
            self.unit.numbers += 1;
            let number = self.unit.numbers;
            self.send(Control::UnitChange { number, base: wish.base, bytes: wish.bytes.clone() }, out);
            self.unit.forwarded = Some((number, wish));
        }
    }

    /// This node does not lead (any more): wishes of the peer's go back.
    fn refuse_forwarded(&mut self, out: &mut ControlOutbox) {
        while let Some(at) = self.unit.queue.iter().position(|wish| matches!(wish.asker, Asker::Peer { .. }))
        {
            let wish = self.unit.queue.remove(at).expect("found above");
            if let Asker::Peer { number, .. } = wish.asker {
                self.send(Control::UnitChanged { number, outcome: ForwardedChange::Refused }, out);
            }
        }
    }

    /// The follower of the session listens on all its shards.
    fn leads_follower(&self) -> bool {
        let awaits = |stage| matches!(stage, Stage::Leading { awaited, .. } if awaited != Awaited::Following);
        self.live_session().is_some_and(|session| awaits(session.stage))
    }

    fn answer_change(&mut self, asker: Asker, answer: UnitAnswer, out: &mut ControlOutbox) {
        match (asker, answer) {
            (Asker::Here { id, origin }, answer) => {
                out.push(ControlEffect::UnitAnswer(UnitCompletion { id, origin, answer }));
            }
            (Asker::Peer { session, .. }, _) if !self.is_current(session) => {}
            (Asker::Peer { number, .. }, UnitAnswer::Done) => {
                self.send(Control::UnitChanged { number, outcome: ForwardedChange::Done }, out);
            }
            (Asker::Peer { number, .. }, UnitAnswer::Stale) => {
                self.send(Control::UnitChanged { number, outcome: ForwardedChange::Stale }, out);
            }
            // Nobody can say: with the session ends the follower's doubt.
            (Asker::Peer { .. }, UnitAnswer::NotServing) => self.drop_session(DropReason::OnPurpose, out),
        }
    }
}
