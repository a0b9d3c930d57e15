//! What the logical unit remembers, as far as this shard's connections go: new states in, changes and their answers.
//!
//! A state is handed to every connection; when all have said that what it ends is quiet, the shard has adopted it.
//! A state that this release cannot read was written by a newer one on the other node. Nobody can say then what an
//! initiator may do, so none is served here: reservations are promises of both nodes.

use super::super::plumbing::{ConnNo, Message, Plumbing};
use super::{Phase, TargetDriver};
use crate::block::{UnitChange, UnitCompletion, UnitState};
use crate::iscsi::UnitSnapshot;
use crate::scsi::{Leader, NexusId};
use crate::units::{RequestId, ShardId};

/// In place of a connection's number: the driver itself asks.
const NOBODY: u64 = u32::MAX as u64;

/// States that were handed out and are not adopted, with the number of those that are not quiet.
#[derive(Default)]
pub(super) struct Adoptions(Vec<(u64, u32)>);

impl Adoptions {
    fn expect(&mut self, serial: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == serial) {
            Some((_, left)) => *left += 1,
            None => self.0.push((serial, 1)),
        }
    }

    /// One is quiet. True: all are.
    fn quiet(&mut self, serial: u64) -> bool {
        let at = self.0.iter().position(|(known, _)| *known == serial).expect("who is quiet was told to be");
        self.0[at].1 -= 1;
        let all = self.0[at].1 == 0;
        if all {
            self.0.swap_remove(at);
        }
        all
    }
}

/// Decodes a state, or tells that it cannot be.
pub(super) fn read(state: &UnitState) -> Option<UnitSnapshot> {
    let snapshot = UnitSnapshot::read(state);
    if let Err(error) = &snapshot {
        log::error!(
            "{:?} of the unit state cannot be read ({error:?}): nobody is served here",
            state.version
        );
    }
    snapshot.ok()
}

impl TargetDriver {
    /// The logical unit remembers this from now on.
    pub fn on_unit(&mut self, serial: u64, state: &UnitState, plumbing: &mut Plumbing) {
        self.unit = read(state);
        self.adoptions.expect(serial);
        if let Some(unit) = self.unit.clone() {
            for number in 0..self.conns.len() {
                let name = ConnNo(number as u32);
                let Some(conn) = self.conns[number].as_mut() else { continue };
                self.adoptions.expect(serial);
                conn.core.on_unit(serial, &unit, &mut self.out);
                self.go_on(name, plumbing);
            }
        } else {
            self.drop_initiators(plumbing);
        }
        self.on_unit_quiet(serial, plumbing);
        self.end_lost_reservation(plumbing);
    }

    /// One of those that [`Adoptions::expect`] counts is quiet.
    pub(super) fn on_unit_quiet(&mut self, serial: u64, plumbing: &mut Plumbing) {
        if self.adoptions.quiet(serial) {
            plumbing.tell_zero(Message::UnitAdopted { shard: plumbing.shard, serial });
        }
    }

    /// What became of a change that a session of this shard asked for.
    pub fn on_unit_answer(&mut self, completion: UnitCompletion, plumbing: &mut Plumbing) {
        if completion.id.0 >> 32 == NOBODY {
            self.clearing = false;
            return;
        }
        let number = ConnNo((completion.id.0 >> 32) as u32);
        let conn = self.conns[number.0 as usize].as_mut().expect("a connection outlives its changes");
        conn.core.on_unit_answer(completion.id, completion.answer, &mut self.out);
        self.go_on(number, plumbing);
    }

    /// What a nexus has by RESERVE ends with it. A session gives it back itself; for sessions that were lost with their
    /// node it is done here, by whoever leads now (shard 0).
    pub(super) fn end_lost_reservation(&mut self, plumbing: &mut Plumbing) {
        let (Some(unit), Leader::Here { peer }) = (&self.unit, self.leader) else { return };
        let Some(holder) = unit.memory.reserved() else { return };
        if plumbing.shard != ShardId(0) || self.clearing || self.is_there(holder, peer) {
            return;
        }
        log::info!("{} has lost what it had reserved", holder.initiator.name);
        let mut bytes = Vec::new();
        if unit.memory.after_nexus_loss(None).encode(&mut bytes).is_err() {
            return;
        }
        let (id, base) = (RequestId(NOBODY << 32), unit.version);
        self.clearing = true;
        let change = UnitChange { id, origin: plumbing.shard, base, bytes: bytes.into() };
        plumbing.tell_zero(Message::UnitChange(change));
    }

    /// Has the nexus a session here, or may it have one at the other node's port? `peer`: that node is there.
    fn is_there(&self, nexus: &NexusId, peer: bool) -> bool {
        let port = self.config.scsi.port();
        let served = core::iter::once(&self.config).chain(self.faces.iter().map(|face| &face.target));
        let mut tags = served
            .filter(|target| target.scsi.port().relative_id == nexus.port)
            .map(|target| target.portal_group_tag);
        let here =
            tags.any(|tag| self.registry.has_session(&nexus.initiator.name, nexus.initiator.isid, tag));
        here || peer && port.peer.is_some_and(|peer| peer.relative_id == nexus.port)
    }

    /// Carries out what a connection has asked for, drops it if it is over, and lets its next command in.
    fn go_on(&mut self, number: ConnNo, plumbing: &mut Plumbing) {
        self.drain(number, plumbing);
        let Some(conn) = self.conns[number.0 as usize].as_mut() else { return };
        match conn.phase {
            Phase::Ended => self.reap(number, plumbing),
            _ if !conn.stream.hungry => self.pump(number, plumbing),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_adopted_when_all_are_quiet() {
        let mut adoptions = Adoptions::default();
        adoptions.expect(1);
        adoptions.expect(1);
        adoptions.expect(2);
        assert!(!adoptions.quiet(1) && adoptions.quiet(2) && adoptions.quiet(1));
        assert!(adoptions.0.is_empty());
    }
}
