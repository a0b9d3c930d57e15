//! What must be true when a node answers, when the record changes, and when everything is over. Each check names the
//! invariant of the design that it keeps.

use crate::arbitration::{NodeSet, Record};
use crate::block::{BlockCompletion, BlockOp, BlockRequest, BlockStatus};
use crate::replication::frame::{FrameHeader, FrameKind, FrameStatus};
use crate::units::{BlockRange, RequestId, ShardId};
use crate::volume::messages::{LinkRole, Posture, Service};
use crate::volume::operator::{Connection, Event as NodeEvent};

use super::client::{attempt_of, linearizability, sectors_of, value_of};
use super::faults::Fault;
use super::history::Age;
use super::node::Node;
use super::world::{Event, Verdict, World, ensure};

impl World {
    // ---- beside every answer ----

    /// The leader answers a request that the other node forwarded: all that holds for an answer holds here.
    /// Where the other node has dropped the session, the answer reaches nobody, and may be to what was given up there.
    pub(super) fn check_forward_answer(&mut self, node: usize, shard: u8, header: &FrameHeader) -> Verdict {
        let machine = self.nodes[node].machine.as_ref().expect("a running node answers");
        let asker = self.nodes[1 - node].machine.as_ref();
        if asker.is_none_or(|asker| asker.session != machine.session) {
            return Ok(());
        }
        let posture = *machine.parts[usize::from(shard)].posture();
        match header.kind {
            FrameKind::ForwardData if !self.lied => self.check_right_to_answer(node, &posture),
            FrameKind::ForwardAck if header.status == FrameStatus::Good => {
                let (id, origin) = (RequestId(header.value), ShardId(shard));
                self.check_answer(node, shard, &BlockCompletion { id, origin, status: BlockStatus::Good })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_answer(&mut self, node: usize, shard: u8, completion: &BlockCompletion) -> Verdict {
        let machine = self.nodes[node].machine.as_ref().expect("a running node answers");
        let posture = *machine.parts[usize::from(shard)].posture();
        if posture.forward {
            // The leader was asked the same when it answered.
            return Ok(());
        }
        let (command, attempt) = self.command_of(completion.id)?;
        let op = command.op();
        if completion.status != BlockStatus::Good || op == BlockOp::Unlock {
            return Ok(());
        }
        let begun = command.begun;
        let piece = (completion.id.0 & 0xFF) as usize;
        let range = self.pieces_of(command).get(piece).map_or(BlockRange::default(), |(range, _)| *range);
        if op == BlockOp::Lock {
            self.locks.push((node, self.nodes[node].life, attempt, range));
            return Ok(());
        }
        if self.lied {
            return Ok(());
        }
        self.check_right_to_answer(node, &posture)?;
        match posture.service {
            Service::Alone => self.check_solo_answer(node, &posture, attempt, op)?,
            _ => self.check_both_answer(attempt, op, range, begun)?,
        }
        let fua =
            matches!(op, BlockOp::Read | BlockOp::Write { fua: true } | BlockOp::Zero { fua: true, .. });
        if posture.service != Service::Alone && !fua {
            self.commands.get_mut(&attempt).expect("looked up above").secured = false;
        }
        Ok(())
    }

    /// S1, S2: one node for each epoch, and only the one that the record of that epoch names.
    pub(super) fn check_right_to_answer(&mut self, node: usize, posture: &Posture) -> Verdict {
        // Winding down for a hand-over, with the peer still acknowledging.
        let hands_over = posture.hold && posture.link == LinkRole::Lead;
        ensure(matches!(posture.service, Service::Alone | Service::Both) || hands_over, "S1", || {
            format!("node {node} answers while it is {:?}", posture.service)
        })?;
        let id = self.nodes[node].id;
        let first = *self.answered_at.entry(posture.epoch).or_insert(id);
        ensure(first == id, "S1", || format!("both nodes answer at epoch {}", posture.epoch.0))?;
        let record = self.arbiter.at(posture.epoch);
        ensure(record.is_some_and(|r| r.primary == Some(id) && r.in_sync.contains(id)), "S2", || {
            format!("node {node} answers at epoch {}, whose record is {record:?}", posture.epoch.0)
        })
    }

    /// D1, D2: what both copies must have.
    fn check_both_answer(&self, attempt: u64, op: BlockOp, range: BlockRange, begun: u64) -> Verdict {
        for (number, node) in self.nodes.iter().enumerate() {
            if !self.is_in_sync(number) || node.disk_failed {
                continue;
            }
            match op {
                BlockOp::Read | BlockOp::Lock | BlockOp::Unlock => {}
                BlockOp::Write { fua } | BlockOp::Zero { fua, .. } => {
                    for sector in sectors_of(range, self.setup.layout.geometry.block_shift) {
                        let mine = value_of(attempt, sector);
                        let kept = node.cache_lost_at < begun;
                        let old = |value| self.history.age(sector, value, mine) == Age::Older;
                        ensure(!kept || !old(node.disk.visible(sector)), "D1", || {
                            format!(
                                "write #{attempt} is answered, but node {number} does not have sector {sector}"
                            )
                        })?;
                        ensure(!fua || !old(node.disk.durable(sector)), "D2", || {
                            format!(
                                "FUA write #{attempt} is answered, but sector {sector} is not stable on node {number}"
                            )
                        })?;
                    }
                }
                BlockOp::Flush => self.check_stable(number, begun, "D2", "a flush is answered")?,
            }
        }
        Ok(())
    }

    /// Everything answered until `tick` is on the node's stable media.
    fn check_stable(&self, node: usize, tick: u64, invariant: &'static str, what: &str) -> Verdict {
        for (sector, value) in self.history.unsecured(tick) {
            let held = self.nodes[node].disk.durable(sector);
            ensure(self.history.age(sector, held, value) != Age::Older, invariant, || {
                format!(
                    "{what}, but sector {sector} = {value:#x}, answered before, is not stable on node {node} ({held:#x})"
                )
            })?;
        }
        Ok(())
    }

    /// D3: alone only after a committed change of state.
    fn check_solo_answer(&mut self, node: usize, posture: &Posture, attempt: u64, op: BlockOp) -> Verdict {
        self.tally.solo_answers += 1;
        let id = self.nodes[node].id;
        let record = self.record();
        ensure(record.primary == Some(id) && record.in_sync == NodeSet::only(id), "D3", || {
            format!("node {node} answers #{attempt} alone, but the committed record is {record:?}")
        })?;
        // With a link the peer has it too, or its loss changes the posture first.
        let lacked = posture.link == LinkRole::Off;
        if lacked && op.is_write() {
            self.solo_writes[node] += 1;
            let layout = &self.setup.layout;
            let mine = self.nodes[node].superblock(layout).generations.current;
            let theirs = self.nodes[1 - node].superblock(layout).generations.current;
            ensure(mine != theirs, "D3", || {
                format!("node {node} answers write #{attempt} alone with the peer's generation {mine:#x}")
            })?;
        }
        self.check_stable(node, self.tick, "D3", "alone")?;
        self.history.on_secured(self.tick);
        Ok(())
    }

    // ---- locks ----

    /// A lock is being given back.
    pub(super) fn on_unlock_begun(&mut self, node: usize, request: &BlockRequest) {
        if request.op == BlockOp::Unlock {
            let attempt = request.id.0 >> 8;
            // A forwarded one is held at the leader.
            let there = |at: usize| at == node || self.commands.get(&attempt).is_some_and(|c| c.node == node);
            let mine = |lock: &(usize, u32, u64, BlockRange)| {
                (lock.2, lock.3) == (attempt, request.range) && there(lock.0)
            };
            self.locks.retain(|lock| !mine(lock));
        }
    }

    /// The node's links change: locks that it granted to the other's initiators may be void.
    pub(super) fn forget_remote_locks(&mut self, node: usize) {
        let commands = &self.commands;
        let own = |attempt: &u64| commands.get(attempt).is_some_and(|command| command.node == node);
        self.locks.retain(|(at, _, attempt, _)| *at != node || own(attempt));
    }

    /// Data is on its way to a node's disk: nobody but the holder of a lock may change its range.
    pub(super) fn check_locks(&mut self, node: usize, start: u64, data: &[u64]) -> Verdict {
        let lives = self.nodes.each_ref().map(|node| node.life);
        self.locks.retain(|&(node, life, ..)| lives[node] == life);
        let block_shift = self.setup.layout.geometry.block_shift;
        for &(at, _, holder, range) in &self.locks {
            let locked = sectors_of(range, block_shift);
            let intruder = (start..).zip(data).find(|(sector, value)| {
                at == node && locked.contains(sector) && attempt_of(**value) != holder
            });
            ensure(intruder.is_none(), "lock", || {
                format!("#{holder} has node {node}'s {range:?} locked, but it is written: {intruder:x?}")
            })?;
        }
        Ok(())
    }

    // ---- the record ----

    /// The arbiter has committed a change.
    pub(super) fn on_commit(&mut self, record: Record) -> Verdict {
        if record.in_sync == NodeSet::BOTH {
            let diverged = self.lied && !self.discarded && self.solo_writes.iter().all(|&writes| writes > 0);
            self.solo_writes = [0; 2];
            ensure(!diverged, "split brain", || {
                "both nodes answered writes in different histories, and were joined unasked".into()
            })?;
        }
        if self.lied {
            return Ok(());
        }
        self.check_units_kept(record)?;
        for node in 0..2 {
            // A node that came back and knows that it may lack writes says so itself, and is not served.
            let machine = self.nodes[node].machine.as_ref();
            let vouched =
                record.in_sync != NodeSet::BOTH || machine.is_some_and(|m| !m.coordinator.status().suspect);
            if record.in_sync.contains(self.nodes[node].id) && vouched && !self.nodes[node].disk_failed {
                let disk = &self.nodes[node].disk;
                let missing = self.history.missing(|sector| disk.visible(sector));
                ensure(missing.is_none(), "S2", || {
                    format!(
                        "record {record:?} counts node {node} in sync, but it lacks {}",
                        missing.unwrap_or_default()
                    )
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn on_node_event(&mut self, node: usize, event: NodeEvent) -> Verdict {
        match event {
            NodeEvent::Promoted { .. } => self.tally.promotions += 1,
            NodeEvent::ResyncFinished { source: true } => self.tally.resyncs += 1,
            NodeEvent::Stopped => {
                self.nodes[node].machine.as_mut().expect("it tells").stopped = true;
                self.after(1_000, 100_000, Event::Fault(Fault::Exit { node }));
            }
            NodeEvent::DiskFailed | NodeEvent::DiskHangs => {
                let (low, high) = self.setup.restart_delay;
                self.after(20_000_000 + low, 40_000_000 + high, Event::Fault(Fault::Exit { node }));
            }
            // Before the first write there is nothing to lie about (a first promotion that was cut short).
            NodeEvent::ForcedPromotion { .. } => self.lied |= self.setup.lies || self.tally.writes > 0,
            _ => {}
        }
        Ok(())
    }

    /// A volatile cache is lost. If the other node's went too, unflushed writes may be gone, and that is nobody's fault.
    pub(super) fn on_cache_lost(&mut self, node: usize) {
        let tick = self.tick();
        self.history.on_failed_writes_lost(tick, node);
        if self.nodes[node].disk.volatile {
            self.on_copy_lost(node);
        }
    }

    /// What the node holds only in its cache, or on a disk that has failed, is not counted on any more.
    pub(super) fn on_copy_lost(&mut self, node: usize) {
        let tick = self.tick();
        self.nodes[node].cache_lost_at = tick;
        let other = &self.nodes[1 - node];
        // A failed disk is not vouched for until its node starts anew.
        let other = if other.disk_failed { tick } else { other.cache_lost_at };
        if other > 0 {
            let sectors = self.history.on_power_loss(tick, other);
            self.log(|| format!("both caches were lost: {sectors} sectors may have gone back"));
        }
    }

    // ---- the end ----

    pub(super) fn is_at_peace(&self) -> bool {
        self.missing_for_peace().is_none()
    }

    pub(super) fn what_is_missing(&self) -> String {
        let status = self.nodes.each_ref().map(|node| node.machine.as_ref().map(|m| m.coordinator.status()));
        format!(
            "no peace in time: {}; record {:?}; {status:x?}",
            self.missing_for_peace().unwrap_or("nothing"),
            self.record()
        )
    }

    fn missing_for_peace(&self) -> Option<&'static str> {
        if !self.clients_are_done() {
            return Some("initiators wait");
        }
        if self.record().in_sync != NodeSet::BOTH {
            return Some("the record does not count both nodes");
        }
        let mut serving = 0;
        for node in &self.nodes {
            let Some(machine) = &node.machine else { return Some("a node is down") };
            if machine.coordinator.status().connection != Connection::Established {
                return Some("the nodes are not joined");
            }
            let stats = machine.parts.iter().map(|part| part.stats());
            if stats.clone().any(|stats| stats.dirty_blocks > 0) {
                return Some("blocks are out of sync");
            }
            if stats.clone().any(|stats| stats.requests_live > 0) || !node.disk.is_idle() {
                return Some("work is left");
            }
            serving += usize::from(machine.serving);
        }
        let leads = |node: &Node| node.machine.as_ref().is_some_and(|machine| machine.leads);
        if self.nodes.iter().filter(|node| leads(node)).count() != 1 {
            return Some("not one node leads");
        }
        let paths = if self.setup.standby_serves { 2 } else { 1 };
        (serving != paths).then_some("initiators cannot log in where they should")
    }

    /// Nothing is left to do: both disks are equal, hold what the initiators may expect, and every buffer is home.
    pub(super) fn check_end(&mut self) -> Verdict {
        self.check_exactly_once()?;
        self.check_units_at_end()?;
        let [zero, one] = &self.nodes;
        let different = zero.disk.first_difference(&one.disk);
        ensure(different.is_none(), "D5", || {
            let sector = different.unwrap_or(0);
            let (zero, one) = (zero.disk.visible(sector), one.disk.visible(sector));
            format!("in sync, but sector {sector} is {zero:#x} on node 0 and {one:#x} on node 1")
        })?;
        for node in 0..2 {
            let resync = self.setup.resync_buffers * usize::from(self.nodes[node].shards);
            let live = self.nodes[node].machine.as_ref().map_or(resync, |machine| machine.buffers.live);
            ensure(live == resync, "buffers", || {
                format!("node {node} has {live} buffers in use at rest; {resync} are the resync's")
            })?;
        }
        if self.lied {
            return Ok(());
        }
        let tick = self.tick();
        for sector in self.history.touched().to_vec() {
            let value = self.nodes[0].disk.visible(sector);
            self.history.on_read(tick, tick + 1, sector, value).map_err(linearizability)?;
        }
        Ok(())
    }
}
