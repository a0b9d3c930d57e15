//! The initiators: random commands on hot regions, several at a time, at whichever node serves. A connection that is
//! lost takes its commands with it: their writes are in doubt, and are sent again with a value of their own, so that
//! every effect of every attempt can be told apart.

use crate::block::{BlockCompletion, BlockOp, BlockRequest, BlockStatus, BufSlice};
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
    outstanding: u64,
    /// What a lost connection left to be done again.
    again: Vec<Wish>,
    waits: bool,
}

/// What a command is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    pub op: BlockOp,
    pub range: BlockRange,
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
    /// Pieces that are not answered, as bits.
    pieces: u64,
    buffers: Vec<BufId>,
    worst: BlockStatus,
    /// Every piece so far was written through or answered by the only copy.
    pub secured: bool,
    /// The initiator does not wait for it any more.
    abandoned: bool,
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
        let depth = self.rng.range(1, self.setup.depth);
        while self.clients[client].outstanding < depth {
            let Some(wish) = self.next_wish(client) else { break };
            self.submit(client, node, life, shard, wish)?;
        }
        Ok(())
    }

    fn turn_later(&mut self, client: usize, low: u64, high: u64) {
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
        let op = if client < setup.readers {
            BlockOp::Read
        } else if die < setup.flushes_per_mille {
            return Some(Wish { op: BlockOp::Flush, range: BlockRange::default() });
        } else if die < setup.flushes_per_mille + setup.reads_per_mille {
            BlockOp::Read
        } else {
            BlockOp::Write { fua: self.rng.per_mille(setup.fua_per_mille) }
        };
        Some(Wish { op, range })
    }

    fn submit(&mut self, client: usize, node: usize, life: u32, shard: u8, wish: Wish) -> Verdict {
        let attempt = self.next_command;
        self.next_command += 1;
        let begun = self.tick();
        let geometry = self.setup.layout.geometry;
        let sectors = sectors_of(wish.range, geometry.block_shift);
        let write = matches!(wish.op, BlockOp::Write { .. });
        if write {
            for sector in sectors.clone() {
                self.history.on_write_begun(begun, sector, value_of(attempt, sector));
            }
        }
        self.log(|| format!("client {client}: #{attempt} {:?} {:?} (tick {begun})", wish.op, wish.range));
        let data: Vec<u64> =
            sectors.map(|sector| if write { value_of(attempt, sector) } else { u64::MAX }).collect();
        let machine = self.nodes[node].machine.as_mut().expect("connected to a running node");
        let chunk = CHUNK_BYTES / 512;
        let buffers: Vec<BufId> =
            data.chunks(chunk).map(|data| machine.buffers.take(data.to_vec())).collect();
        let mut requests = Vec::new();
        if wish.op == BlockOp::Flush {
            requests.push((BlockRange::default(), None));
        }
        for (range, offset) in geometry.pieces(wish.range) {
            let buf = buffers[offset / CHUNK_BYTES];
            requests.push((range, Some(BufSlice { buf, offset: (offset % CHUNK_BYTES) as u32 })));
        }
        assert!(requests.len() < 64, "pieces are named by bits");
        let pieces = (1u64 << requests.len()) - 1;
        let begun_at = self.now;
        let worst = BlockStatus::Good;
        let command = Command {
            wish,
            client,
            node,
            life,
            begun,
            begun_at,
            pieces,
            buffers,
            worst,
            secured: true,
            abandoned: false,
        };
        self.commands.insert(attempt, command);
        self.clients[client].outstanding += 1;
        for (piece, (range, buf)) in requests.into_iter().enumerate() {
            let to = match wish.op {
                BlockOp::Flush => shard,
                _ => {
                    let lane = geometry.lane_of(geometry.extent_of(range.start));
                    (lane.0 % u16::from(self.nodes[node].shards)) as u8
                }
            };
            let id = RequestId(attempt << 8 | piece as u64);
            let request = BlockRequest { id, origin: ShardId(shard), op: wish.op, range, buf };
            self.mesh(node, shard, to, Mesh::Request(request));
        }
        Ok(())
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
        if completion.status != BlockStatus::Good && command.worst != BlockStatus::NotServing {
            command.worst = completion.status;
        }
        if command.pieces != 0 {
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
            BlockStatus::MediumError => {
                self.log(|| format!("client {}: #{attempt} medium error", command.client));
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
        if !matches!(command.wish.op, BlockOp::Write { .. }) || self.lied {
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
        let Command { client, wish, begun, secured, .. } = command;
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
        let sectors = sectors_of(wish.range, self.setup.layout.geometry.block_shift);
        match wish.op {
            BlockOp::Read => {
                self.tally.reads += 1;
                for (sector, &value) in sectors.zip(data) {
                    self.history.on_read(begun, tick, sector, value).map_err(linearizability)?;
                }
            }
            BlockOp::Write { .. } => {
                self.tally.writes += 1;
                for sector in sectors {
                    let value = value_of(attempt, sector);
                    self.history.on_write_answered(tick, sector, value, secured).map_err(linearizability)?;
                }
            }
            BlockOp::Flush => {
                self.tally.flushes += 1;
                self.history.on_secured(begun);
            }
        }
        Ok(())
    }

    /// The connection is gone; its commands run on where they are, unseen.
    fn lose_connection(&mut self, client: usize, why: &str) {
        self.log(|| format!("client {client} loses its connection: {why}"));
        self.clients[client].connection = None;
        for command in self.commands.values_mut().filter(|c| c.client == client && !c.abandoned) {
            command.abandoned = true;
            self.clients[client].again.push(command.wish);
        }
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

    /// A node begins or ends serving. When one begins, everything that was in doubt elsewhere is over.
    pub(super) fn on_serve(&mut self, node: usize, serving: bool) -> Verdict {
        if !serving {
            self.drop_connections(node);
            return Ok(());
        }
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
        if self.commands.values().any(late) {
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
