//! The initiators: random commands on hot regions, several at a time, at whichever node serves. A connection that is
//! lost takes its commands with it: their writes are in doubt, and are sent again with a value of their own, so that
//! every effect of every attempt can be told apart.

use crate::block::{BlockCompletion, BlockOp, BlockRequest, BlockStatus, BufSlice, UnitState, UnitVersion};
use crate::units::{BlockRange, BufId, CHUNK_BYTES, Lba, RequestId, ShardId};

use super::history::Anomaly;
use super::node::Mesh;
use super::world::{Event, Verdict, Violation, World, ensure};

/// Silence after which an initiator gives its connection up.
const PATIENCE: (u64, u64) = (1_500_000_000, 4_000_000_000);
const SECTOR_BITS: u32 = 20;

/// One initiator.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Node and life of the process it is connected to, and its shard there.
    pub connection: Option<(usize, u32, u8)>,
    pub(super) outstanding: u64,
    /// What a lost connection left to be done again.
    again: Vec<Wish>,
    waits: bool,
}

/// What a command is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    pub op: BlockOp,
    pub range: BlockRange,
    /// Lock the range, read it, write it: what COMPARE AND WRITE does.
    pub update: bool,
}

/// Where a command stands. Only an update goes through more than one stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Plain,
    Lock,
    Read,
    Write,
    Unlock,
}

/// One attempt at a command.
#[derive(Clone, Debug)]
pub struct Command {
    pub wish: Wish,
    client: usize,
    pub node: usize,
    life: u32,
    pub begun: u64,
    begun_at: u64,
    pub(super) stage: Stage,
    stage_begun: u64,
    shard: u8,
    /// Pieces that are not answered, as bits.
    pieces: u64,
    /// Pieces whose lock is held, from the first on.
    locks: usize,
    buffers: Vec<BufId>,
    /// What an update reads into.
    reads: Vec<BufId>,
    worst: BlockStatus,
    /// What it was judged by when it arrived, and what changes of that had been answered by then.
    judged: UnitState,
    due: UnitVersion,
    /// Every piece so far was written through or answered by the only copy.
    pub secured: bool,
    /// The initiator does not wait for it any more.
    abandoned: bool,
}

impl Command {
    /// What its pieces ask for at this stage.
    pub(super) fn op(&self) -> BlockOp {
        match self.stage {
            Stage::Plain | Stage::Write => self.wish.op,
            Stage::Lock => BlockOp::Lock,
            Stage::Read => BlockOp::Read,
            Stage::Unlock => BlockOp::Unlock,
        }
    }
}

/// The attempt that wrote a value; 0 wrote nothing.
pub fn attempt_of(value: u64) -> u64 {
    value >> SECTOR_BITS
}

/// What a zero leaves in a sector; `tag` names the request.
pub fn zero_of(tag: u64, sector: u64) -> u64 {
    value_of(tag >> 8, sector)
}

/// The value that an attempt writes to a sector.
pub fn value_of(attempt: u64, sector: u64) -> u64 {
    attempt << SECTOR_BITS | sector
}

/// Sectors of a range.
pub fn sectors_of(range: BlockRange, block_shift: u8) -> std::ops::Range<u64> {
    let per_block = 1u64 << (block_shift - 9);
    range.start.0 * per_block..range.end().0 * per_block
}

pub fn linearizability(anomaly: Anomaly) -> Violation {
    Violation {
        invariant: "linearizability (D1, D5, D7, S1)",
        what: format!("sector {}: {}", anomaly.sector, anomaly.what),
    }
}

impl World {
    /// An initiator's turn: connect, then fill its queue.
    pub(super) fn on_client(&mut self, client: usize) -> Verdict {
        self.clients[client].waits = false;
        if self.clients[client].connection.is_none() {
            self.connect_client(client);
        }
        let Some((node, life, shard)) = self.clients[client].connection else {
            let nothing = self.commands_left == 0 && self.clients[client].again.is_empty();
            if !nothing || !self.calm {
                self.turn_later(client, 2_000_000, 30_000_000);
            }
            return Ok(());
        };
        if self.commands_left > 0 && self.rng.per_mille(self.setup.unit_changes_per_mille) {
            self.ask_unit_change(client, node, life, shard);
        }
        let depth = self.rng.range(1, self.setup.depth);
        while self.clients[client].outstanding < depth {
            let Some(wish) = self.next_wish(client) else { break };
            self.submit(client, node, life, shard, wish)?;
        }
        Ok(())
    }

    pub(super) fn turn_later(&mut self, client: usize, low: u64, high: u64) {
        if !std::mem::replace(&mut self.clients[client].waits, true) {
            self.after(low, high, Event::Client { client });
        }
    }

    fn connect_client(&mut self, client: usize) {
        let serving: Vec<usize> = (0..2)
            .filter(|&n| self.nodes[n].machine.as_ref().is_some_and(|machine| machine.serving))
            .collect();
        if serving.is_empty() {
            return;
        }
        // Where two believe that they serve, the service address is mostly at the newer one.
        let epoch = |node: &usize| self.nodes[*node].machine.as_ref().map(|m| m.coordinator.posture().epoch);
        let newest = serving.iter().copied().max_by_key(epoch);
        let node = match newest {
            Some(newest) if self.rng.per_mille(700) => newest,
            _ => *self.rng.pick(&serving),
        };
        let shard = self.rng.below(u64::from(self.nodes[node].shards)) as u8;
        self.clients[client].connection = Some((node, self.nodes[node].life, shard));
        self.log(|| format!("client {client} connects to node {node} shard {shard}"));
    }

    fn next_wish(&mut self, client: usize) -> Option<Wish> {
        if let Some(wish) = self.clients[client].again.pop() {
            return Some(wish);
        }
        if self.commands_left == 0 {
            return None;
        }
        self.commands_left -= 1;
        let setup = &self.setup;
        let (spot, width) = *self.rng.pick(&setup.hot_spots);
        let geometry = setup.layout.geometry;
        let per_block = 1u64 << (geometry.block_shift - 9);
        let largest = (setup.largest / per_block).max(1);
        let start = spot + self.rng.below(width);
        let count = self.rng.skewed(1, largest).min(geometry.blocks - start);
        let range = BlockRange::new(Lba(start), count as u32);
        let die = self.rng.below(1000);
        let (zeroes, updates) = (setup.zeroes_per_mille, setup.updates_per_mille);
        let op = if client < setup.readers {
            BlockOp::Read
        } else if die < setup.flushes_per_mille {
            return Some(Wish { op: BlockOp::Flush, range: BlockRange::default(), update: false });
        } else if die < setup.flushes_per_mille + setup.reads_per_mille {
            BlockOp::Read
        } else {
            let fua = self.rng.per_mille(setup.fua_per_mille);
            match self.rng.per_mille(zeroes) {
                true => BlockOp::Zero { fua, unmap: self.rng.coin() },
                false => BlockOp::Write { fua },
            }
        };
        let update = op.is_write() && self.rng.per_mille(updates);
        Some(Wish { op, range, update })
    }

    fn submit(&mut self, client: usize, node: usize, life: u32, shard: u8, wish: Wish) -> Verdict {
        let attempt = self.next_command;
        self.next_command += 1;
        let begun = self.tick();
        let geometry = self.setup.layout.geometry;
        let sectors = sectors_of(wish.range, geometry.block_shift);
        let write = wish.op.is_write();
        if write {
            for sector in sectors.clone() {
                self.history.on_write_begun(begun, sector, value_of(attempt, sector));
            }
        }
        self.log(|| {
            let how = if wish.update { " under lock" } else { "" };
            format!("client {client}: #{attempt} {:?} {:?}{how} (tick {begun})", wish.op, wish.range)
        });
        let data: Vec<u64> =
            sectors.map(|sector| if write { value_of(attempt, sector) } else { u64::MAX }).collect();
        let machine = self.nodes[node].machine.as_mut().expect("connected to a running node");
        let judged = machine.units[usize::from(shard)].clone();
        let chunk = CHUNK_BYTES / 512;
        let buffers: Vec<BufId> =
            data.chunks(chunk).map(|data| machine.buffers.take(data.to_vec())).collect();
        let begun_at = self.now;
        let worst = BlockStatus::Good;
        let command = Command {
            wish,
            client,
            node,
            life,
            begun,
            begun_at,
            stage: Stage::Plain,
            stage_begun: begun,
            shard,
            pieces: 0,
            locks: 0,
            buffers,
            reads: Vec::new(),
            worst,
            judged,
            due: self.unit.answered,
            secured: true,
            abandoned: false,
        };
        self.commands.insert(attempt, command);
        self.clients[client].outstanding += 1;
        self.begin_stage(attempt, if wish.update { Stage::Lock } else { Stage::Plain });
        Ok(())
    }

    /// The pieces of a command at its stage, with the places of their data.
    pub(super) fn pieces_of(&self, command: &Command) -> Vec<(BlockRange, usize)> {
        let geometry = &self.setup.layout.geometry;
        match command.op() {
            BlockOp::Flush => vec![(BlockRange::default(), 0)],
            BlockOp::Lock | BlockOp::Unlock => geometry.extent_pieces(command.wish.range).collect(),
            _ => geometry.pieces(command.wish.range).collect(),
        }
    }

    /// Sends what the stage asks for: all pieces at once, but locks one after the other.
    fn begin_stage(&mut self, attempt: u64, stage: Stage) {
        let tick = self.tick();
        let command = self.commands.get_mut(&attempt).expect("a live command");
        command.stage = stage;
        command.stage_begun = tick;
        let count = self.pieces_of(&self.commands[&attempt]).len();
        assert!(count < 64, "pieces are named by bits");
        let command = self.commands.get_mut(&attempt).expect("a live command");
        let first = match stage {
            Stage::Lock => 0..1,
            Stage::Unlock => 0..command.locks,
            Stage::Plain | Stage::Read | Stage::Write => 0..count,
        };
        if stage == Stage::Read {
            let machine = self.nodes[command.node].machine.as_mut().expect("it runs");
            let blank = |_| machine.buffers.take(vec![u64::MAX; CHUNK_BYTES / 512]);
            command.reads = (0..command.buffers.len()).map(blank).collect();
        }
        for piece in first {
            self.send_piece(attempt, piece);
        }
    }

    fn send_piece(&mut self, attempt: u64, piece: usize) {
        let (range, offset) = self.pieces_of(&self.commands[&attempt])[piece];
        let command = self.commands.get_mut(&attempt).expect("a live command");
        command.pieces |= 1 << piece;
        let (node, shard, op) = (command.node, command.shard, command.op());
        let buffers = if command.stage == Stage::Read { &command.reads } else { &command.buffers };
        let has_data = matches!(op, BlockOp::Read | BlockOp::Write { .. });
        let buf = has_data
            .then(|| BufSlice { buf: buffers[offset / CHUNK_BYTES], offset: (offset % CHUNK_BYTES) as u32 });
        let locked = matches!(command.stage, Stage::Read | Stage::Write);
        let geometry = self.setup.layout.geometry;
        let lane = geometry.lane_of(geometry.extent_of(range.start));
        let to = match op {
            BlockOp::Flush => shard,
            _ => (lane.0 % u16::from(self.nodes[node].shards)) as u8,
        };
        let id = RequestId(attempt << 8 | piece as u64);
        let request = BlockRequest { id, origin: ShardId(shard), op, range, buf, locked };
        self.mesh(node, shard, to, Mesh::Request(request));
    }

    /// A stage of an update is over. Says whether the whole update is.
    fn end_stage(&mut self, attempt: u64) -> Result<bool, Violation> {
        let tick = self.tick();
        let command = self.commands.get_mut(&attempt).expect("a live command");
        let on = command.worst == BlockStatus::Good && !command.abandoned;
        let (stage, locks, node) = (command.stage, command.locks, command.node);
        if stage == Stage::Read {
            let machine = self.nodes[node].machine.as_mut().expect("the answer came from it");
            let mut data = Vec::new();
            for buf in std::mem::take(&mut command.reads) {
                data.extend_from_slice(machine.buffers.get(buf)?);
                machine.buffers.free(buf)?;
            }
            if on && !self.lied {
                let (range, begun) = (command.wish.range, command.stage_begun);
                for (sector, &value) in sectors_of(range, self.setup.layout.geometry.block_shift).zip(&data) {
                    self.history.on_read(begun, tick, sector, value).map_err(linearizability)?;
                }
            }
        }
        let next = match stage {
            Stage::Plain | Stage::Unlock => return Ok(true),
            Stage::Lock if on => {
                if locks < self.pieces_of(&self.commands[&attempt]).len() {
                    self.send_piece(attempt, locks);
                    return Ok(false);
                }
                Stage::Read
            }
            Stage::Read if on => Stage::Write,
            _ if locks == 0 => return Ok(true),
            _ => Stage::Unlock,
        };
        self.begin_stage(attempt, next);
        Ok(false)
    }

    /// The command that a request belongs to.
    pub(super) fn command_of(&self, id: RequestId) -> Result<(&Command, u64), Violation> {
        let (attempt, piece) = (id.0 >> 8, id.0 & 0xFF);
        let command = self.commands.get(&attempt).filter(|command| command.pieces & (1 << piece) != 0);
        let command = command.ok_or_else(|| Violation {
            invariant: "exactly once",
            what: format!("request {attempt}.{piece} is answered a second time or was never asked"),
        })?;
        Ok((command, attempt))
    }

    /// A piece's answer is back at the shard of its connection.
    pub(super) fn on_piece_done(&mut self, node: usize, completion: BlockCompletion) -> Verdict {
        let (_, attempt) = self.command_of(completion.id)?;
        let command = self.commands.get_mut(&attempt).expect("looked up above");
        command.pieces &= !(1 << (completion.id.0 & 0xFF));
        let good = completion.status == BlockStatus::Good;
        command.locks += usize::from(command.stage == Stage::Lock && good);
        if completion.status != BlockStatus::Good && command.worst != BlockStatus::NotServing {
            command.worst = completion.status;
        }
        if command.pieces != 0 || !self.end_stage(attempt)? {
            return Ok(());
        }
        let command = self.commands.remove(&attempt).expect("looked up above");
        let machine = self.nodes[node].machine.as_mut().expect("the answer came from it");
        let mut data = Vec::new();
        for &buf in &command.buffers {
            data.extend_from_slice(machine.buffers.get(buf)?);
            machine.buffers.free(buf)?;
        }
        if command.abandoned {
            // What it did not do by now it will never do.
            return self.seal(attempt, &command);
        }
        match command.worst {
            BlockStatus::Good => self.on_answer(attempt, command, &data),
            BlockStatus::MediumError | BlockStatus::NotReady => {
                self.log(|| format!("client {}: #{attempt} {:?}", command.client, command.worst));
                self.clients[command.client].outstanding -= 1;
                self.turn_later(command.client, 1_000, 100_000);
                self.seal(attempt, &command)
            }
            BlockStatus::NotServing => {
                let client = command.client;
                self.commands.insert(attempt, command);
                self.lose_connection(client, "not serving");
                let command = self.commands.remove(&attempt).expect("put there above");
                self.seal(attempt, &command)
            }
        }
    }

    fn seal(&mut self, attempt: u64, command: &Command) -> Verdict {
        let tick = self.tick();
        if !command.wish.op.is_write() || self.lied {
            return Ok(());
        }
        for sector in sectors_of(command.wish.range, self.setup.layout.geometry.block_shift) {
            if command.worst == BlockStatus::MediumError {
                self.history.on_write_failed(command.node, sector);
            }
            self.history.on_write_sealed(tick, sector, value_of(attempt, sector)).map_err(linearizability)?;
        }
        Ok(())
    }

    /// The initiator has its answer.
    fn on_answer(&mut self, attempt: u64, command: Command, data: &[u64]) -> Verdict {
        let tick = self.tick();
        let Command { client, wish, begun, secured, judged, due, .. } = command;
        self.log(|| format!("client {client}: #{attempt} done (tick {tick})"));
        self.clients[client].outstanding -= 1;
        let (low, high) = if self.rng.per_mille(self.setup.idle_per_mille) {
            (10_000_000, 120_000_000)
        } else {
            self.setup.think
        };
        self.turn_later(client, low, high);
        if self.lied {
            return Ok(());
        }
        self.check_judged(attempt, &judged, due)?;
        let sectors = sectors_of(wish.range, self.setup.layout.geometry.block_shift);
        match wish.op {
            BlockOp::Read => {
                self.tally.reads += 1;
                for (sector, &value) in sectors.zip(data) {
                    self.history.on_read(begun, tick, sector, value).map_err(linearizability)?;
                }
            }
            BlockOp::Write { .. } | BlockOp::Zero { .. } => {
                self.tally.writes += 1;
                self.tally.updates += u64::from(wish.update);
                self.tally.zeroes += u64::from(matches!(wish.op, BlockOp::Zero { .. }));
                for sector in sectors {
                    let value = value_of(attempt, sector);
                    self.history.on_write_answered(tick, sector, value, secured).map_err(linearizability)?;
                }
            }
            BlockOp::Flush => {
                self.tally.flushes += 1;
                self.history.on_secured(begun);
            }
            BlockOp::Lock | BlockOp::Unlock => unreachable!("stages of an update"),
        }
        Ok(())
    }

    /// The connection is gone; its commands run on where they are, unseen.
    pub(super) fn lose_connection(&mut self, client: usize, why: &str) {
        self.log(|| format!("client {client} loses its connection: {why}"));
        self.clients[client].connection = None;
        for command in self.commands.values_mut().filter(|c| c.client == client && !c.abandoned) {
            command.abandoned = true;
            self.clients[client].again.push(command.wish);
        }
        self.abandon_unit_changes(client);
        self.clients[client].outstanding = 0;
        self.turn_later(client, 100_000, 5_000_000);
    }

    /// The node's process is gone, or drops all its initiators.
    pub(super) fn drop_connections(&mut self, node: usize) {
        for client in 0..self.clients.len() {
            if self.clients[client].connection.is_some_and(|(at, _, _)| at == node) {
                self.lose_connection(client, "closed by the node");
            }
        }
    }

    /// A node begins to lead: everything that was in doubt elsewhere is over.
    pub(super) fn on_lead(&mut self, node: usize) -> Verdict {
        // The service address moves: some initiators come over at once, others go on where they are.
        for client in 0..self.clients.len() {
            let elsewhere = self.clients[client].connection.is_some_and(|(at, _, _)| at != node);
            if elsewhere && self.rng.coin() {
                self.lose_connection(client, "the service moves");
            }
        }
        let life = self.nodes[node].life;
        let over: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, c)| c.abandoned && (c.node != node || c.life != life))
            .map(|(&attempt, _)| attempt)
            .collect();
        for attempt in over {
            let command = self.commands[&attempt].clone();
            self.seal(attempt, &command)?;
            if self.nodes[command.node].life != command.life {
                self.commands.remove(&attempt);
            }
        }
        Ok(())
    }

    /// Gives connections up that do not answer.
    pub(super) fn on_client_watch(&mut self, client: usize) -> Verdict {
        let patience = self.rng.range(PATIENCE.0, PATIENCE.1);
        let now = self.now;
        let late = |c: &Command| c.client == client && !c.abandoned && now - c.begun_at > patience;
        if self.commands.values().any(late) || self.has_late_unit_change(client, patience) {
            self.lose_connection(client, "no answer");
        }
        self.after(200_000_000, 400_000_000, Event::ClientWatch { client });
        Ok(())
    }

    /// Is nothing of the initiators' left?
    pub(super) fn clients_are_done(&self) -> bool {
        self.commands_left == 0
            && self.clients.iter().all(|client| client.outstanding == 0 && client.again.is_empty())
    }

    pub(super) fn check_exactly_once(&self) -> Verdict {
        let lost = self.commands.iter().find(|(_, c)| self.nodes[c.node].life == c.life);
        ensure(lost.is_none(), "exactly once", || format!("never answered: {lost:?}"))
    }
}
