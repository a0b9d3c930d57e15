//! Task attributes (SAM-5 §8.6): which tasks may be on their way to the disks together.
//!
//! An ORDERED task waits for everything older of its session, and what is newer waits for it; newer tasks wait for a
//! HEAD OF QUEUE task, which itself waits for nothing. Waiting is done at the last moment: data is taken in as always,
//! and only block requests are held back. Commands that touch no medium are done when they arrive.
//!
//! Order is kept within a session, not between sessions: commands of two initiators have no order on the wire either.
//!
//! Why held requests cannot lock a session up: when tasks that may run wait for buffers and nothing else goes on, the
//! newest held task is answered TASK SET FULL and its buffers come free.

use alloc::collections::VecDeque;

use crate::block::BlockRequest;
use crate::scsi::{AdditionalSense, SenseData, SenseKey, Status};
use crate::units::Pool;

use super::effect::{Effect, Outbox};
use super::session::Session;
use super::task::{Attribute, Ending, Slot};

/// 05/49/00 INVALID MESSAGE ERROR: an attribute that means nothing here.
pub(super) const INVALID_ATTRIBUTE: SenseData =
    SenseData::new(SenseKey::IllegalRequest, AdditionalSense { code: 0x49, qualifier: 0x00 });

/// What waits for other tasks' end.
#[derive(Debug)]
pub(super) struct Held {
    /// Held tasks, oldest first.
    order: VecDeque<Slot>,
    /// Their block requests, in the order they were made.
    requests: VecDeque<BlockRequest>,
}

impl Held {
    pub(super) fn new() -> Self {
        Self { order: VecDeque::new(), requests: VecDeque::new() }
    }
}

/// The attribute as a command carries it (RFC 7143 §11.3.1). `None`: ACA, of which there is none in effect, or reserved.
pub(super) fn attribute(field: u8) -> Option<Attribute> {
    match field {
        0 | 1 => Some(Attribute::Simple),
        2 => Some(Attribute::Ordered),
        3 => Some(Attribute::HeadOfQueue),
        _ => None,
    }
}

/// The slot in a request's name.
fn slot_of(request: &BlockRequest) -> Slot {
    (request.id.0 >> 16) as Slot
}

impl Session {
    /// Gives a new task its attribute, and holds it if it must wait.
    pub(super) fn queue(&mut self, slot: Slot, attribute: Attribute) {
        let waits = match attribute {
            Attribute::Simple => self.tasks.barriers() > 0,
            Attribute::Ordered => self.tasks.live() > 1,
            Attribute::HeadOfQueue => false,
        };
        self.tasks.set_attribute(slot, attribute);
        if waits {
            self.tasks.get_mut(slot).held = true;
            self.held_tasks.order.push_back(slot);
        }
    }

    /// Emits a block request, or keeps it until its task may run.
    pub(super) fn emit(&mut self, request: BlockRequest, out: &mut Outbox) {
        if self.tasks.get(slot_of(&request)).held {
            self.held_tasks.requests.push_back(request);
        } else {
            self.in_flight += 1;
            out.push(Effect::Block(request));
        }
    }

    /// Lets the held tasks go whose turn has come.
    pub(super) fn enable_held(&mut self, out: &mut Outbox) {
        while let Some(slot) = self.held_tasks.order.front().copied() {
            let running = self.tasks.live() - self.held_tasks.order.len();
            let free = match self.tasks.get(slot).attribute {
                Attribute::Ordered => running == 0,
                _ => running == 0 || self.running_barriers() == 0,
            };
            if !free {
                return;
            }
            self.held_tasks.order.pop_front();
            self.tasks.get_mut(slot).held = false;
            let Self { held_tasks, in_flight, .. } = self;
            held_tasks.requests.retain(|request| {
                let go = slot_of(request) == slot;
                if go {
                    *in_flight += 1;
                    out.push(Effect::Block(*request));
                }
                !go
            });
        }
    }

    /// Live tasks that newer ones wait for, and that are not held themselves.
    fn running_barriers(&self) -> usize {
        let held = self.held_tasks.order.iter().filter(|slot| self.tasks.get(**slot).attribute.is_barrier());
        usize::from(self.tasks.barriers()) - held.count()
    }

    /// A held task ends without its requests. Their pieces count as come back.
    pub(super) fn forget_held(&mut self, slot: Slot) {
        if !self.tasks.get(slot).held {
            return;
        }
        self.tasks.get_mut(slot).held = false;
        self.held_tasks.order.retain(|other| *other != slot);
        while let Some(at) = self.held_tasks.requests.iter().position(|request| slot_of(request) == slot) {
            if let Some(request) = self.held_tasks.requests.remove(at) {
                self.piece_came_back(slot, request.id.0 as u16);
            }
        }
    }

    /// Gives up held tasks while others starve and nothing else would bring their buffers back. `stalled`: the stream
    /// waits for a buffer.
    pub(super) fn shed_held(&mut self, stalled: bool, pool: &mut impl Pool, out: &mut Outbox) {
        loop {
            let starving = stalled || !self.waiting.is_empty();
            if !starving || self.in_flight > 0 || self.expecting > 0 {
                return;
            }
            let Some(request) = self.held_tasks.requests.back().copied() else { return };
            let slot = slot_of(&request);
            let had = self.held;
            self.stop_waiting(slot);
            self.tasks.get_mut(slot).fail(Ending::Status(Status::TaskSetFull));
            self.forget_held(slot);
            self.piece_ended(slot, request.id.0 as u16, pool, out);
            if self.held < had {
                // The driver says when the buffers are back; the session's own share has room at once.
                if !stalled {
                    self.serve_waiting(pool, out);
                }
                return;
            }
        }
    }
}
