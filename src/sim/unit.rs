//! Changes of the unit state, asked for at both nodes, and what must hold of them.
//!
//! The state is the list of the changes that made it: each change appends its own number, and sometimes so much padding
//! that the state takes several pages. So a change that was lost is a number that is missing.
//!
//! * U1: what was answered `Done`, and what a command was judged by that was answered, is in the state of every node that
//!   the record counts in sync.
//! * U2: a command that arrived after a change was answered was judged by that state or a newer one, if it is answered.
//! * U3: when a change is answered, every node in sync has it durably.

use std::collections::{BTreeMap, BTreeSet};

use crate::arbitration::Record;
use crate::block::{UnitAnswer, UnitChange, UnitCompletion, UnitState, UnitVersion};
use crate::replication::control::{Control, ForwardedChange};
use crate::storage::{PAGE_BYTES, UNIT_STATE_BYTES, UNIT_STATE_PAGES, UnitCopies, UnitCopy};
use crate::units::{RequestId, SessionId, ShardId};
use crate::volume::effect::OpId;

use super::disk::{Job, Owner};
use super::node::{ControlInput, Mesh, Node, blank};
use super::world::{Event, Verdict, Violation, World, ensure};

/// Marks the numbers of changes among those of requests.
const CHANGE: u64 = 1 << 63;

/// A change that is not answered.
#[derive(Clone, Debug)]
pub struct Change {
    client: usize,
    node: usize,
    life: u32,
    begun_at: u64,
    base: UnitVersion,
    /// The initiator does not wait for it any more.
    abandoned: bool,
}

/// What the initiators know of the unit state.
#[derive(Debug, Default)]
pub struct UnitWatch {
    next: u64,
    changes: BTreeMap<u64, Change>,
    /// Changes that must not be lost.
    kept: BTreeSet<u64>,
    /// The newest version that an answer has spoken of.
    pub answered: UnitVersion,
}

/// The changes that made the state.
fn history(state: &UnitState) -> impl Iterator<Item = u64> + '_ {
    let words = state.bytes.chunks_exact(8);
    words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).filter(|number| *number != 0)
}

impl Node {
    /// The unit state as a start now would find it.
    pub fn stored_unit(&self) -> Option<UnitCopy> {
        let copies = [0, 1].map(|copy| {
            let mut bytes = vec![0; UNIT_STATE_BYTES];
            for page in 0..UNIT_STATE_PAGES as usize {
                let at = self.layout.unit_state_offset(copy) + (page * PAGE_BYTES) as u64;
                if let Some(stored) = self.disk.page(at) {
                    bytes[page * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(stored);
                }
            }
            bytes
        });
        let [first, second] = &copies;
        let volume = self.superblock(&self.layout).volume;
        UnitCopies { first: Some(first), second: Some(second) }.choose(&volume).ok()
    }
}

impl World {
    // ---- asking ----

    /// An initiator changes the unit state, from what its shard holds. One at a time for each.
    pub(super) fn ask_unit_change(&mut self, client: usize, node: usize, life: u32, shard: u8) {
        if self.unit.changes.values().any(|change| change.client == client && !change.abandoned) {
            return;
        }
        self.unit.next += 1;
        let number = self.unit.next;
        let padding = if self.rng.per_mille(100) { self.rng.below(3000) as usize } else { 0 };
        let machine = self.nodes[node].machine.as_ref().expect("connected to a running node");
        let state = &machine.units[usize::from(shard)];
        let base = state.version;
        let words = history(state).chain([number]).chain((0..padding).map(|_| 0));
        let bytes = words.flat_map(u64::to_le_bytes).collect();
        self.log(|| {
            format!("client {client}: change {number} of unit {base:?} at node {node} shard {shard}")
        });
        let change = Change { client, node, life, begun_at: self.now, base, abandoned: false };
        self.unit.changes.insert(number, change);
        self.clients[client].outstanding += 1;
        let change = UnitChange { id: RequestId(CHANGE | number), origin: ShardId(shard), base, bytes };
        self.mesh(node, shard, 0, Mesh::UnitChange(change));
    }

    // ---- what the node does with it ----

    pub(super) fn write_unit_page(&mut self, node: usize, op: OpId, page: u8) {
        let machine = self.nodes[node].machine.as_ref().expect("a running node");
        let mut bytes = blank();
        let copy = machine.coordinator.render_unit(page, &mut bytes);
        let at = self.setup.layout.unit_state_offset(copy) + u64::from(page) * PAGE_BYTES as u64;
        self.begin_disk(node, Owner::Coordinator(op), Job::Page { at, bytes });
    }

    pub(super) fn give_unit(&mut self, node: usize, serial: u64, state: &UnitState) {
        for shard in 0..self.nodes[node].shards {
            self.mesh(node, 0, shard, Mesh::Unit { serial, state: state.clone() });
        }
    }

    /// The coordinator gives a shard a new state.
    pub(super) fn on_unit_given(&mut self, node: usize, shard: u8, serial: u64, state: UnitState) {
        self.log(|| format!("node {node} shard {shard}: judges by {:?}", state.version));
        let this = &mut self.nodes[node];
        let life = this.life;
        this.machine.as_mut().expect("it runs").units[usize::from(shard)] = state;
        // What the change ends takes a while to be quiet.
        let slow = if self.rng.per_mille(100) { 5_000_000 } else { 20_000 };
        self.after(0, slow, Event::UnitQuiet { node, life, shard, serial });
    }

    pub(super) fn on_unit_quiet(&mut self, node: usize, life: u32, shard: u8, serial: u64) -> Verdict {
        if self.nodes[node].life == life {
            self.mesh(node, shard, 0, Mesh::UnitAdopted { shard: ShardId(shard), serial });
        }
        Ok(())
    }

    /// A coordinator says something to the other; perhaps that a change of its is done.
    pub(super) fn say(&mut self, node: usize, session: SessionId, message: Control) -> Verdict {
        if matches!(message, Control::UnitChanged { outcome: ForwardedChange::Done, .. }) {
            self.check_unit_done(node)?;
        }
        self.send_control(node, session, message);
        Ok(())
    }

    pub(super) fn answer_unit(&mut self, node: usize, completion: UnitCompletion) -> Verdict {
        let machine = self.nodes[node].machine.as_ref().expect("a running node answers");
        if completion.answer == UnitAnswer::Done && !machine.told.forward {
            self.check_unit_done(node)?;
        }
        self.mesh(node, 0, completion.origin.0, Mesh::UnitAnswer(completion));
        Ok(())
    }

    /// S1, U3: the leader says that its newest change is done.
    fn check_unit_done(&mut self, node: usize) -> Verdict {
        if self.lied {
            return Ok(());
        }
        let machine = self.nodes[node].machine.as_ref().expect("a running node answers");
        let (posture, state) = (machine.told, machine.coordinator.unit_given().clone());
        self.check_right_to_answer(node, &posture)?;
        for (number, holder) in self.nodes.iter().enumerate() {
            if !self.is_in_sync(number) || holder.disk_failed {
                continue;
            }
            let held = holder.stored_unit().map(|copy| copy.state);
            ensure(held.as_ref() == Some(&state), "U3", || {
                format!(
                    "{:?} is answered, but node {number} holds {:?}",
                    state.version,
                    held.map(|s| s.version)
                )
            })?;
        }
        Ok(())
    }

    // ---- answers ----

    pub(super) fn on_unit_answered(&mut self, node: usize, completion: UnitCompletion) -> Verdict {
        let number = completion.id.0 & !CHANGE;
        let Some(change) = self.unit.changes.remove(&number) else {
            let what = format!("change {number} is answered a second time or was never asked");
            return Err(Violation { invariant: "exactly once", what });
        };
        self.log(|| format!("client {}: change {number} {:?}", change.client, completion.answer));
        if change.abandoned {
            return Ok(());
        }
        let machine = self.nodes[node].machine.as_ref().expect("it answers");
        let held = machine.units[usize::from(completion.origin.0)].version;
        if completion.answer == UnitAnswer::NotServing {
            self.lose_connection(change.client, "not serving");
            return Ok(());
        }
        self.clients[change.client].outstanding -= 1;
        self.turn_later(change.client, 1_000, 1_000_000);
        if self.lied {
            return Ok(());
        }
        ensure(
            held > change.base || completion.answer == UnitAnswer::Stale && held != change.base,
            "U2",
            || format!("change {number} of {:?} is {:?} where {held:?} is", change.base, completion.answer),
        )?;
        if completion.answer == UnitAnswer::Done {
            self.tally.changes += 1;
            self.unit.kept.insert(number);
            self.unit.answered = self.unit.answered.max(change.base.next());
        }
        Ok(())
    }

    /// A command that was judged by `judged` is answered; when it arrived, `due` had been answered.
    pub(super) fn check_judged(&mut self, attempt: u64, judged: &UnitState, due: UnitVersion) -> Verdict {
        if self.lied {
            return Ok(());
        }
        // Whoever asked has seen it.
        self.unit.kept.extend(history(judged));
        ensure(judged.version >= due, "U2", || {
            format!(
                "#{attempt} was judged by {:?}, but {due:?} had been answered before it came",
                judged.version
            )
        })
    }

    /// The connection is gone: nobody waits for its change.
    pub(super) fn abandon_unit_changes(&mut self, client: usize) {
        for change in self.unit.changes.values_mut().filter(|change| change.client == client) {
            change.abandoned = true;
        }
    }

    pub(super) fn has_late_unit_change(&self, client: usize, patience: u64) -> bool {
        let late = |c: &Change| c.client == client && !c.abandoned && self.now - c.begun_at > patience;
        self.unit.changes.values().any(late)
    }

    // ---- U1 ----

    /// The record has changed: whom it counts in sync has everything that was answered.
    pub(super) fn check_units_kept(&self, record: Record) -> Verdict {
        for node in &self.nodes {
            let suspect = || node.machine.as_ref().is_none_or(|m| m.coordinator.status().suspect);
            if !record.in_sync.contains(node.id) || node.disk_failed || suspect() {
                continue;
            }
            self.check_unit_kept(node, &format!("{record:?}"))?;
        }
        Ok(())
    }

    fn check_unit_kept(&self, node: &Node, when: &str) -> Verdict {
        let state = node.stored_unit().map(|copy| copy.state);
        let held: BTreeSet<u64> = state.iter().flat_map(history).collect();
        let lost = self.unit.kept.iter().find(|number| !held.contains(number));
        ensure(lost.is_none(), "U1", || {
            let version = state.map(|state| state.version);
            format!(
                "{when}: change {lost:?} is answered or seen, but not in {version:?} of node {}",
                node.id.0
            )
        })
    }

    /// Everything is over: both nodes, and all their shards, hold the same.
    pub(super) fn check_units_at_end(&self) -> Verdict {
        let open = self.unit.changes.iter().find(|(_, change)| self.nodes[change.node].life == change.life);
        ensure(open.is_none(), "exactly once", || format!("never answered: change {open:?}"))?;
        let stored = self.nodes.each_ref().map(|node| node.stored_unit().map(|copy| copy.state));
        ensure(stored[0] == stored[1], "U3", || {
            format!(
                "in sync, but the unit states are {:?}",
                stored.each_ref().map(|s| s.as_ref().map(|s| s.version))
            )
        })?;
        for node in &self.nodes {
            let shards = node.machine.iter().flat_map(|machine| &machine.units);
            let other = shards.clone().find(|state| Some(*state) != stored[0].as_ref());
            ensure(other.is_none(), "U2", || {
                format!(
                    "a shard of node {} goes on judging by {:?}",
                    node.id.0,
                    other.map(|state| state.version)
                )
            })?;
            if !self.lied {
                self.check_unit_kept(node, "at the end")?;
            }
        }
        Ok(())
    }

    pub(super) fn feed_unit(&mut self, node: usize, message: Mesh) -> Verdict {
        match message {
            Mesh::UnitChange(change) => self.feed_control(node, ControlInput::UnitChange(change)),
            Mesh::UnitAdopted { shard, serial } => {
                self.feed_control(node, ControlInput::UnitAdopted { shard, serial })
            }
            Mesh::UnitAnswer(completion) => self.on_unit_answered(node, completion),
            _ => unreachable!("the others are not the unit's"),
        }
    }
}
