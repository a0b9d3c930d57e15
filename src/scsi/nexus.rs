//! What the target remembers of one I_T nexus: pending unit attentions, who leads, and what the unit's memory means to it.
//!
//! Everything that a command needs of it at once is worked out when it changes, so that a command without
//! reservations and with ordinary mode parameters pays two comparisons.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::alua::Leader;
use super::attention::{Attentions, UnitAttention};
use super::reservation::conflict::Standing;
use super::reservation::{InitiatorPort, NexusId};
use super::sense::SenseFormat;
use super::target::{LuIndex, Target};
use super::unit_memory::UnitMemory;

/// See the module. One per iSCSI session.
#[derive(Clone, Debug)]
pub struct Nexus {
    id: NexusId,
    /// By [`LuIndex`].
    pub(super) attentions: Vec<Attentions>,
    pub(super) leader: Leader,
    memory: Arc<UnitMemory>,
    pub(super) standing: Standing,
}

/// Which of a nexus's tasks a new memory ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ended {
    /// All of them.
    pub tasks: bool,
    /// With TASK ABORTED.
    pub answered: bool,
    /// The session, too.
    pub session: bool,
    /// It was CLEAR TASK SET.
    pub cleared: bool,
}

impl Nexus {
    /// A new nexus. Its first command to each logical unit hears of a reset (SAM-5 §5.14.2): whatever the initiator
    /// knew of the logical unit from before must be asked for again.
    pub fn new(target: &Target, initiator: InitiatorPort, memory: Arc<UnitMemory>) -> Self {
        let mut attentions = Vec::new();
        attentions.resize(target.unit_count(), Attentions::default());
        let id = NexusId { initiator, port: target.port().relative_id };
        let standing = memory.standing(&id);
        let mut nexus = Self { id, attentions, leader: Leader::default(), memory, standing };
        nexus.post_all(UnitAttention::PowerOnOrReset);
        nexus
    }

    pub fn id(&self) -> &NexusId {
        &self.id
    }

    /// The memory that commands are judged by.
    pub fn memory(&self) -> &Arc<UnitMemory> {
        &self.memory
    }

    /// Has this nexus the unit by RESERVE? That ends with it.
    pub fn has_reserved(&self) -> bool {
        self.memory.reserved.as_ref() == Some(&self.id)
    }

    /// How sense data is encoded.
    pub fn sense_format(&self) -> SenseFormat {
        if self.memory.current.descriptor_sense { SenseFormat::Descriptor } else { SenseFormat::Fixed }
    }

    /// Who leads from now on. The initiator hears of a change once (SPC-4 §5.15.2.7).
    pub fn set_leader(&mut self, leader: Leader) {
        let told = core::mem::replace(&mut self.leader, leader);
        if told != leader && told != Leader::Between {
            self.post_all(UnitAttention::AccessStateChanged);
        }
    }

    /// The memory from now on. What others did in it becomes unit attentions; the caller ends the tasks.
    pub fn set_memory(&mut self, new: &Arc<UnitMemory>) -> Ended {
        let old = core::mem::replace(&mut self.memory, Arc::clone(new));
        self.standing = new.standing(&self.id);
        if new.author.as_ref() == Some(&self.id) {
            return Ended::default();
        }
        let (was, is) = (old.resets, new.resets);
        let reset = if was.target != is.target || was.sessions != is.sessions {
            Some(UnitAttention::TargetReset)
        } else if was.unit != is.unit {
            Some(UnitAttention::LogicalUnitReset)
        } else if new.author.is_none() && old.reserved.is_some() && new.reserved.is_none() {
            // The holder is gone with its node: to everybody else that is a reset.
            Some(UnitAttention::PowerOnOrReset)
        } else {
            None
        };
        if let Some(attention) = reset {
            self.post_all(attention);
        } else if old.current != new.current {
            self.post_all(UnitAttention::ModeParametersChanged);
        }
        let lost = self.compare_registrations(&old);
        let by_reset = (was.task_set, was.unit, was.target, was.sessions)
            != (is.task_set, is.unit, is.target, is.sessions);
        Ended {
            tasks: by_reset || lost && was.preempted != is.preempted,
            answered: !old.current.silent_abort,
            session: was.sessions != is.sessions,
            cleared: was.task_set != is.task_set,
        }
    }

    /// Unit attentions of reservations. `true`: this nexus was registered and is not any more.
    fn compare_registrations(&mut self, old: &UnitMemory) -> bool {
        let new = Arc::clone(&self.memory);
        let (before, after) = (&old.reservations, &new.reservations);
        let was = before.find(&self.id).is_some();
        let is = after.find(&self.id).is_some();
        if was && !is {
            let cleared = before.cleared != after.cleared;
            self.post_all(if cleared {
                UnitAttention::ReservationsPreempted
            } else {
                UnitAttention::RegistrationsPreempted
            });
        } else if was && is && before.kind != after.kind {
            // Ended, where registrants had been let in; or taken over with another type.
            let told = before.kind.is_some_and(|kind| after.kind.is_some() || kind.lets_registrants());
            if told {
                self.post_all(UnitAttention::ReservationsReleased);
            }
        }
        was && !is
    }

    /// Makes a unit attention pending at one logical unit.
    pub fn post(&mut self, lu: LuIndex, attention: UnitAttention) {
        self.attentions[usize::from(lu.0)].post(attention);
    }

    /// Makes a unit attention pending at every logical unit.
    pub fn post_all(&mut self, attention: UnitAttention) {
        for pending in &mut self.attentions {
            pending.post(attention);
        }
    }
}

impl UnitMemory {
    /// What the reservations mean to a nexus.
    pub(super) fn standing(&self, nexus: &NexusId) -> Standing {
        if let Some(holder) = &self.reserved {
            return if holder == nexus { Standing::Free } else { Standing::Reserved };
        }
        let Some(kind) = self.reservations.kind else { return Standing::Free };
        let index = self.reservations.find(nexus);
        let free = index.is_some_and(|index| kind.lets_registrants() || self.reservations.holds(index));
        match (free, kind.excludes_reads()) {
            (true, _) => Standing::Free,
            (false, true) => Standing::ExclusiveAccess,
            (false, false) => Standing::WriteExclusive,
        }
    }
}
