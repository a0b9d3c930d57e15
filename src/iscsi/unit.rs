//! What the logical unit remembers, as sessions of both nodes see and change it ([`UnitMemory`]).
//!
//! A command that changes it (a reservation, a mode parameter) becomes [`Effect::ChangeUnit`]: the whole memory to come,
//! computed from the version that this session knows. The driver answers with
//! [`on_unit_answer`](super::Connection::on_unit_answer): done, and then both nodes have it; or another change was faster,
//! and the command is judged anew by the newest version.
//!
//! Every new version comes to every session by [`on_unit`](super::Connection::on_unit). What it ends is aborted at once,
//! and [`Effect::UnitQuiet`] says when nothing of that is on its way to a disk any more. The change is answered only after
//! all sessions have said so: whoever asked for PREEMPT AND ABORT finds both nodes quiet.
//!
//! A session that ends gives back what it has by RESERVE, for that does not outlive the nexus.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::block::{UnitAnswer, UnitChange, UnitState, UnitVersion};
use crate::scsi::{BadUnitMemory, Outcome, ResetKind, Status, UnitAttention, UnitMemory};
use crate::units::RequestId;

use super::effect::{CloseReason, Effect, Outbox};
use super::session::{FLUSH_PIECE, Session};
use super::task::{Ending, Slot, SlotSet, Work};
use super::task_management::Pending;

/// How often a change is tried when others are faster. Whoever is faster gets on, so this is a bound on nodes that fight.
const TRIES_MAX: u8 = 64;

/// One version of the memory, decoded: every shard has one, and hands it to its connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitSnapshot {
    pub version: UnitVersion,
    pub memory: Arc<UnitMemory>,
}

impl UnitSnapshot {
    /// # Errors
    /// Bytes that this program does not understand: another, newer one has written them.
    pub fn read(state: &UnitState) -> Result<Self, BadUnitMemory> {
        let memory = UnitMemory::decode(&state.bytes)?;
        Ok(Self { version: state.version, memory: Arc::new(memory) })
    }

    /// What a new volume remembers.
    pub fn empty() -> Self {
        Self { version: UnitVersion(0), memory: Arc::new(UnitMemory::default()) }
    }
}

/// Who waits for a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Task(Slot),
    /// A task management function.
    Function {
        ticket: u32,
        kind: ResetKind,
    },
    /// The nexus is lost, and so is its reservation; a logout may wait for that.
    Loss {
        ticket: Option<u32>,
    },
}

#[derive(Debug)]
struct Change {
    /// The lower half of its [`RequestId`].
    number: u32,
    asker: Asker,
    base: UnitVersion,
    tries: u8,
    /// It came too late, and the version that was faster is not here yet.
    late: bool,
}

/// The changes that a session has asked for.
#[derive(Debug)]
pub(super) struct Changes {
    version: UnitVersion,
    pending: Vec<Change>,
    numbers: u32,
}

impl Changes {
    pub(super) fn new(version: UnitVersion) -> Self {
        Self { version, pending: Vec::new(), numbers: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

impl Session {
    /// A command wants the memory to become `bytes`.
    pub(super) fn start_change(&mut self, slot: Slot, bytes: &[u8], out: &mut Outbox) {
        let task = self.tasks.get_mut(slot);
        task.work = Work::Change;
        task.in_flight += 1;
        self.ask_for_change(Asker::Task(slot), bytes, 0, out);
    }

    pub(super) fn ask_for_change(&mut self, asker: Asker, bytes: &[u8], tries: u8, out: &mut Outbox) {
        let changes = &mut self.changes;
        let (number, base) = (changes.numbers, changes.version);
        changes.numbers = number.wrapping_add(1);
        changes.pending.push(Change { number, asker, base, tries, late: false });
        let id = RequestId(u64::from(self.origin.connection) << 32 | u64::from(number));
        out.push(Effect::ChangeUnit(UnitChange { id, origin: self.origin.shard, base, bytes: bytes.into() }));
    }

    /// A change was decided upon.
    pub(super) fn on_unit_answer(
        &mut self,
        id: RequestId,
        answer: UnitAnswer,
        out: &mut Outbox,
    ) -> Result<(), CloseReason> {
        let changes = &mut self.changes;
        let at = changes.pending.iter().position(|change| change.number == id.0 as u32 && !change.late);
        let at = at.expect("a change is answered once");
        match answer {
            UnitAnswer::Stale if changes.pending[at].base == changes.version => {
                changes.pending[at].late = true
            }
            UnitAnswer::Stale => self.judge_anew(at, out),
            UnitAnswer::Done => {
                let asker = self.changes.pending.swap_remove(at).asker;
                self.changed(asker, Ending::Good, out);
            }
            UnitAnswer::NotServing => {
                if let Asker::Task(slot) = changes.pending.swap_remove(at).asker {
                    // Its connection ends; nobody is told.
                    let task = self.tasks.get_mut(slot);
                    (task.aborted, task.answered) = (true, false);
                    self.changed(Asker::Task(slot), Ending::Good, out);
                }
                return Err(CloseReason::NotServing);
            }
        }
        self.give_back_reservation(out);
        Ok(())
    }

    /// The change at `at` came too late, and what was faster is here.
    fn judge_anew(&mut self, at: usize, out: &mut Outbox) {
        let Change { asker, tries, .. } = self.changes.pending.swap_remove(at);
        let slot = match asker {
            Asker::Task(slot) => slot,
            // Whoever is faster gets on, so this ends.
            Asker::Function { .. } => return self.ask_for_reset(asker, out),
            Asker::Loss { ticket } => return self.give_back(ticket, out),
        };
        let task = self.tasks.get_mut(slot);
        if task.aborted {
            return self.changed(asker, Ending::Good, out);
        }
        if tries >= TRIES_MAX {
            return self.changed(asker, Ending::Status(Status::Busy), out);
        }
        let list = core::mem::take(&mut task.list);
        let (lun, cdb) = (task.lun, task.cdb);
        let mut bytes = core::mem::take(&mut self.data_in);
        let target = self.config.target(self.grant);
        let outcome = target.execute_with_data(&self.nexus, lun, &cdb, &list, &mut bytes);
        self.tasks.get_mut(slot).list = list;
        match outcome {
            Outcome::ChangeUnit => self.ask_for_change(asker, &bytes, tries + 1, out),
            outcome => self.changed(asker, Ending::of(&outcome), out),
        }
        self.data_in = bytes;
    }

    /// Whoever asked for a change is done.
    pub(super) fn changed(&mut self, asker: Asker, ending: Ending, out: &mut Outbox) {
        let slot = match asker {
            Asker::Task(slot) => slot,
            Asker::Function { ticket, .. } | Asker::Loss { ticket: Some(ticket) } => {
                return self.reset_done(ticket, out);
            }
            Asker::Loss { ticket: None } => return,
        };
        let task = self.tasks.get_mut(slot);
        assert!(task.in_flight > 0, "a change belongs to a task that waits for it");
        task.in_flight -= 1;
        if task.aborted {
            return self.aborted_piece(slot, FLUSH_PIECE, out);
        }
        task.fail(ending);
        self.respond(slot, out);
    }

    /// A new version of the memory.
    pub(super) fn on_unit(&mut self, number: u64, unit: &UnitSnapshot, out: &mut Outbox) {
        self.changes.version = unit.version;
        let ended = self.nexus.set_memory(&unit.memory);
        let mut waited_for = SlotSet::default();
        if ended.tasks {
            let answer = ended.answered && !self.over;
            let live = self.tasks.live();
            for slot in self.tasks.slots() {
                let Some(task) = self.tasks.live_mut(slot) else { continue };
                // A change that is not decided yet is too late, for this one is: there is nothing to wait for.
                let change = task.work == Work::Change;
                self.abort_into(slot, answer, &mut waited_for, out);
                if change {
                    waited_for.remove(slot);
                }
            }
            if ended.cleared && !ended.answered && live > 0 {
                self.nexus.post_all(UnitAttention::CommandsCleared);
            }
        }
        self.when_quiet(Pending::Unit(number), waited_for, None, out);
        while let Some(at) = self.changes.pending.iter().position(|change| change.late) {
            self.judge_anew(at, out);
        }
        self.give_back_reservation(out);
        if ended.session && !self.over {
            self.finished = Some(CloseReason::Reset);
        }
    }

    /// A session that is over gives up what it has by RESERVE (SPC-2 §5.5.1).
    pub(super) fn give_back_reservation(&mut self, out: &mut Outbox) {
        if self.over && self.changes.is_empty() {
            self.give_back(None, out);
        }
    }

    /// Gives up what the nexus has by RESERVE, if it has. `ticket`: who waits for that.
    pub(super) fn give_back(&mut self, ticket: Option<u32>, out: &mut Outbox) {
        let asker = Asker::Loss { ticket };
        if !self.nexus.has_reserved() {
            return self.changed(asker, Ending::Good, out);
        }
        let next = self.nexus.memory().after_nexus_loss(Some(self.nexus.id()));
        let mut bytes = core::mem::take(&mut self.data_in);
        if next.encode(&mut bytes).is_ok() {
            self.ask_for_change(asker, &bytes, 0, out);
        }
        self.data_in = bytes;
    }
}
