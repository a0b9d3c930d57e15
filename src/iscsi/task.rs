//! The task slots of a session: preallocated, indexed, never searched but by tag.
//!
//! Invariants: a slot is free exactly when its tag is [`NO_TAG`]; a chunk has pieces in flight only while it holds a
//! buffer; a slot is released only when nothing of it is in flight and it holds no buffer.

use alloc::vec::Vec;

use crate::block::BufSlice;
use crate::scsi::{LuIndex, Outcome, SenseData, Status};
use crate::units::{BlockRange, BufId, CHUNK_BYTES};

use super::action::Program;
use super::bhs::{Lun, NO_TAG};
use super::pdu::Residual;

/// log2 of [`CHUNK_BYTES`].
pub const CHUNK_SHIFT: u32 = CHUNK_BYTES.trailing_zeros();
/// Most slots of a session: one bit each in a [`SlotSet`].
pub const SLOTS_MAX: usize = 256;

/// A task slot, the low half of its Target Transfer Tag.
pub type Slot = u16;

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Media to initiator.
    Read,
    /// Initiator to media.
    Write,
    /// Initiator to a parameter list, then `execute_with_data`.
    List,
    /// SYNCHRONIZE CACHE.
    Flush,
    /// Initiator to media or to nowhere, by a program.
    Act,
    /// A change of what the unit remembers.
    Change,
    /// The result stands; unsolicited data is still to come and is dropped (RFC 7143 §11.4.2).
    Refused,
}

/// How a task ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Good,
    Check(SenseData),
    Status(Status),
}

impl Ending {
    /// The end of a command whose outcome is a result. Any other outcome is a fault of the target.
    pub fn of(outcome: &Outcome) -> Self {
        match *outcome {
            Outcome::Done => Self::Good,
            Outcome::Check(sense) => Self::Check(sense),
            Outcome::Status(status) => Self::Status(status),
            _ => Self::Check(SenseData::INTERNAL_TARGET_FAILURE),
        }
    }
}

/// Task attribute (SAM-5 §8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// And untagged.
    Simple,
    /// After everything older, before everything newer.
    Ordered,
    /// At once; what is newer waits.
    HeadOfQueue,
}

impl Attribute {
    /// Does newer work wait for the end of such a task?
    pub fn is_barrier(self) -> bool {
        self != Self::Simple
    }
}

/// Data-Out PDUs that are due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expecting {
    Nothing,
    /// Unsolicited Data-Out up to offset `end`.
    Unsolicited {
        next_sn: u32,
        end: u32,
    },
    /// The data of one R2T, up to offset `end`.
    Solicited {
        ttt: u32,
        next_sn: u32,
        end: u32,
    },
}

/// 64 KiB of a command's data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunk {
    pub buf: Option<BufId>,
    /// Block requests in flight.
    pub pieces: u8,
}

/// One SCSI task.
#[derive(Debug)]
pub struct Task {
    pub itt: u32,
    pub lun: Lun,
    pub lu: LuIndex,
    /// Came as an immediate command: holds no credit of the window.
    pub immediate: bool,
    pub attribute: Attribute,
    /// Its block requests wait for other tasks' end.
    pub held: bool,
    pub aborted: bool,
    /// Aborted, and to be answered with `ending` all the same.
    pub answered: bool,
    /// Waits for a buffer.
    pub queued: bool,
    pub fua: bool,
    pub work: Work,
    pub ending: Ending,
    pub residual: Residual,
    /// EDTL.
    pub expected: u32,
    /// Blocks that are really read or written.
    pub blocks: BlockRange,
    /// Bytes that move between the initiator and the blocks (or the parameter list).
    pub need: u32,
    /// To the target: offset of the next byte due, surplus included. To the initiator: bytes sent.
    pub moved: u32,
    pub expecting: Expecting,
    /// R2Ts sent, or Data-Ins sent.
    pub pdus: u32,
    /// Chunks that got a buffer.
    pub provided: u16,
    /// Block requests in flight.
    pub in_flight: u16,
    /// Parameter list, as far as it came.
    pub list: Vec<u8>,
    /// The CDB of a command with a parameter list.
    pub cdb: [u8; 16],
    /// Where a [`Work::Act`] stands.
    pub(super) program: Option<Program>,
}

impl Task {
    fn free() -> Self {
        Self {
            itt: NO_TAG,
            lun: [0; 8],
            lu: LuIndex(0),
            immediate: false,
            attribute: Attribute::Simple,
            held: false,
            aborted: false,
            answered: false,
            queued: false,
            fua: false,
            work: Work::Refused,
            ending: Ending::Good,
            residual: Residual::None,
            expected: 0,
            blocks: BlockRange::default(),
            need: 0,
            moved: 0,
            expecting: Expecting::Nothing,
            pdus: 0,
            provided: 0,
            in_flight: 0,
            list: Vec::new(),
            cdb: [0; 16],
            program: None,
        }
    }

    pub fn failed(&self) -> bool {
        self.ending != Ending::Good
    }

    /// The first reason to fail counts.
    pub fn fail(&mut self, ending: Ending) {
        if !self.failed() {
            self.ending = ending;
        }
    }
}

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotSet([u64; SLOTS_MAX / 64]);

impl SlotSet {
    pub fn insert(&mut self, slot: Slot) {
        self.0[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    pub fn remove(&mut self, slot: Slot) {
        self.0[usize::from(slot) / 64] &= !(1 << (slot % 64));
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; SLOTS_MAX / 64]
    }
}

/// All slots of a session.
#[derive(Debug)]
pub struct TaskSet {
    tasks: Vec<Task>,
    /// Tags by slot, apart from the tasks so that a search touches few cache lines.
    tags: Vec<u32>,
    free: Vec<Slot>,
    chunks: Vec<Chunk>,
    chunks_per_task: usize,
    immediate: u16,
    /// Live tasks that newer ones wait for.
    barriers: u16,
}

impl TaskSet {
    /// `slots` tasks of at most `bytes` of data each.
    pub fn new(slots: usize, bytes: u32) -> Self {
        assert!(slots <= SLOTS_MAX, "more task slots than a slot set holds");
        let chunks_per_task = (bytes as usize).div_ceil(CHUNK_BYTES).max(1);
        let mut chunks = Vec::new();
        chunks.resize(slots * chunks_per_task, Chunk::default());
        let mut tags = Vec::new();
        tags.resize(slots, NO_TAG);
        Self {
            tasks: (0..slots).map(|_| Task::free()).collect(),
            tags,
            free: (0..slots as Slot).rev().collect(),
            chunks,
            chunks_per_task,
            immediate: 0,
            barriers: 0,
        }
    }

    /// Live immediate commands.
    pub fn immediate(&self) -> u16 {
        self.immediate
    }

    /// Live tasks.
    pub fn live(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// Live tasks that newer ones wait for.
    pub fn barriers(&self) -> u16 {
        self.barriers
    }

    /// Sets the attribute of a new task.
    pub fn set_attribute(&mut self, slot: Slot, attribute: Attribute) {
        self.tasks[usize::from(slot)].attribute = attribute;
        self.barriers += u16::from(attribute.is_barrier());
    }

    /// All slots, free ones included.
    pub fn slots(&self) -> core::ops::Range<Slot> {
        0..self.tasks.len() as Slot
    }

    /// No task is live.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.tasks.len()
    }

    /// The slot of a live task. The reserved tag marks free slots and names no task.
    pub fn find(&self, itt: u32) -> Option<Slot> {
        if itt == NO_TAG {
            return None;
        }
        self.tags.iter().position(|tag| *tag == itt).map(|slot| slot as Slot)
    }

    /// Is this the slot of a live task with this tag?
    pub fn holds(&self, slot: Slot, itt: u32) -> bool {
        itt != NO_TAG && self.tags.get(usize::from(slot)) == Some(&itt)
    }

    /// Takes a slot for `itt`. The window and the bound on immediate commands see to it that there is one.
    pub fn insert(&mut self, itt: u32, immediate: bool) -> Slot {
        let slot = self.free.pop().expect("admission keeps live commands below the number of slots");
        self.tags[usize::from(slot)] = itt;
        let task = &mut self.tasks[usize::from(slot)];
        let mut list = core::mem::take(&mut task.list);
        list.clear();
        *task = Task { itt, immediate, list, ..Task::free() };
        self.immediate += u16::from(immediate);
        slot
    }

    pub fn release(&mut self, slot: Slot) {
        let task = &mut self.tasks[usize::from(slot)];
        assert!(task.itt != NO_TAG, "a task slot was released twice");
        assert!(task.in_flight == 0 && !task.queued, "a busy task was released");
        self.immediate -= u16::from(task.immediate);
        self.barriers -= u16::from(task.attribute.is_barrier());
        task.itt = NO_TAG;
        self.tags[usize::from(slot)] = NO_TAG;
        self.free.push(slot);
    }

    pub fn get(&self, slot: Slot) -> &Task {
        &self.tasks[usize::from(slot)]
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut Task {
        &mut self.tasks[usize::from(slot)]
    }

    /// The live task of this slot, for numbers that come from outside.
    pub fn live_mut(&mut self, slot: Slot) -> Option<&mut Task> {
        self.tasks.get_mut(usize::from(slot)).filter(|task| task.itt != NO_TAG)
    }

    pub fn chunk_mut(&mut self, slot: Slot, chunk: usize) -> &mut Chunk {
        assert!(chunk < self.chunks_per_task, "a chunk beyond the longest transfer");
        &mut self.chunks[usize::from(slot) * self.chunks_per_task + chunk]
    }

    pub fn chunk(&self, slot: Slot, chunk: usize) -> Chunk {
        assert!(chunk < self.chunks_per_task, "a chunk beyond the longest transfer");
        self.chunks[usize::from(slot) * self.chunks_per_task + chunk]
    }

    /// Where the byte at `offset` of the task's data lies.
    pub fn place(&self, slot: Slot, offset: u32) -> Option<BufSlice> {
        let buf = self.chunk(slot, (offset >> CHUNK_SHIFT) as usize).buf?;
        Some(BufSlice { buf, offset: offset & (CHUNK_BYTES as u32 - 1) })
    }
}
