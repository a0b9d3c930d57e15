//! What goes wrong, and who repairs it: the schedule of faults, the operator, and the peace at the end of a run, when
//! everything is repaired and the pair must be in sync again in bounded time.

use crate::arbitration::Epoch;
use crate::units::NodeId;
use crate::volume::operator::{Connection, DiskState, OperatorCommand, Role, Status, Ticket};

use super::node::ControlInput;
use super::setup::Beginning;
use super::world::{Event, Verdict, World};

const MILLISECOND: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Draw one and do it.
    Any,
    /// The process ends in order (it has said that it may), or is ended because its disk failed.
    Exit { node: usize },
}

const TAKE_OVER: OperatorCommand = OperatorCommand::TakeOver { died: None };
const PROMOTE: OperatorCommand = OperatorCommand::Promote { seed: false, i_have_fenced: None };

impl World {
    pub(super) fn next_fault(&mut self, extra: u64) {
        let (low, high) = self.setup.fault_gap;
        self.after(low, high + extra, Event::Fault(Fault::Any));
    }

    pub(super) fn on_fault(&mut self, fault: Fault) -> Verdict {
        match fault {
            Fault::Exit { node } => {
                let over = self.nodes[node].machine.as_ref().is_some_and(|machine| {
                    machine.stopped || machine.coordinator.status().disk == DiskState::Diskless
                });
                if over { self.stop_node(node, false) } else { Ok(()) }
            }
            Fault::Any if self.calm || self.faults_left == 0 => Ok(()),
            Fault::Any => {
                self.faults_left -= 1;
                self.do_some_fault()?;
                self.next_fault(0);
                Ok(())
            }
        }
    }

    fn do_some_fault(&mut self) -> Verdict {
        let w = self.setup.weights;
        let node = self.rng.below(2) as usize;
        let kinds = [
            w.crash,
            w.power_cut,
            w.power_cut_both,
            w.link_cut,
            w.half_open,
            w.stall,
            w.pause,
            w.slow_disk,
            w.disk_error,
            w.arbiter_outage,
            w.operator,
        ];
        let total: u64 = kinds.iter().sum();
        if total == 0 {
            return Ok(());
        }
        let mut die = self.rng.below(total);
        let kind = kinds.iter().position(|&weight| {
            let hit = die < weight;
            die = die.saturating_sub(weight);
            hit
        });
        match kind.expect("the die is below the total") {
            0 => self.stop_node(node, false),
            1 => self.stop_node(node, true),
            2 => self.stop_both(),
            3 => self.cut(false),
            4 => self.cut(true),
            5 => {
                self.stall_links();
                self.maybe_guess()
            }
            6 => self.pause(node),
            7 if self.rng.per_mille(250) => {
                // Not slow: it answers nothing, or no writes, for longer than anybody waits.
                let until = self.now + self.rng.range(8_000, 40_000) * MILLISECOND;
                self.nodes[node].hangs_until = until;
                self.nodes[node].hang_spares_reads = self.rng.coin();
                self.log(|| format!("node {node}: the disk hangs until {until}"));
                Ok(())
            }
            7 => {
                let until = self.now + self.rng.range(MILLISECOND, 400 * MILLISECOND);
                self.nodes[node].slow_until = until;
                self.log(|| format!("node {node}: slow disk until {until}"));
                Ok(())
            }
            8 => {
                self.nodes[node].error_left = 1;
                Ok(())
            }
            9 => {
                self.arbiter.unreachable_until = self.now + self.rng.range(MILLISECOND, 800 * MILLISECOND);
                self.log(|| "arbiter out of reach".into());
                Ok(())
            }
            _ => self.meddle(node),
        }
    }

    /// The process is killed, or the power cut; it starts again later.
    pub(super) fn stop_node(&mut self, node: usize, power: bool) -> Verdict {
        if self.nodes[node].machine.is_none() {
            return Ok(());
        }
        self.log(|| format!("node {node}: {}", if power { "power cut" } else { "killed" }));
        self.tally.crashes += 1;
        let machine = self.nodes[node].machine.as_ref().expect("it runs");
        let told = machine.coordinator.superblock().record.epoch;
        self.end_process(node, power)?;
        let (low, high) = self.setup.restart_delay;
        self.after(low, high, Event::Restart { node });
        let peer = 1 - node;
        if self.rng.per_mille(700) {
            let command = self.some_promotion();
            self.after(MILLISECOND, 20 * MILLISECOND, Event::Command { node: peer, command });
        }
        if !power && self.rng.per_mille(500) {
            // Its agent certifies the death; the word may come when the next life has begun.
            let latest = *self.rng.pick(&[5 * MILLISECOND, 2000 * MILLISECOND]);
            let command = OperatorCommand::TakeOver { died: Some(told) };
            self.after(100_000, latest, Event::Command { node: peer, command });
        }
        Ok(())
    }

    fn stop_both(&mut self) -> Verdict {
        let kill = self.rng.per_mille(200);
        let first = self.rng.below(2) as usize;
        self.stop_node(first, true)?;
        self.stop_node(1 - first, !kill)
    }

    fn cut(&mut self, half_open: bool) -> Verdict {
        let deaf = self.cut_links(half_open);
        match deaf {
            // The one that knows takes over at once, while the other still believes that it is followed: the hour of
            // stale reads.
            Some(deaf) if self.rng.per_mille(950) => {
                let command = Event::Command { node: 1 - deaf, command: self.some_promotion() };
                self.after(MILLISECOND, 4 * MILLISECOND, command);
                Ok(())
            }
            _ => self.maybe_guess(),
        }
    }

    fn pause(&mut self, node: usize) -> Verdict {
        let longest = self.setup.peer_timeout.as_nanos() as u64 * 3;
        let until = self.now + self.rng.range(MILLISECOND, longest);
        let until = until.max(self.nodes[node].paused_until);
        self.nodes[node].paused_until = until;
        if self.setup.clocks_freeze {
            // A virtual machine: its clock stands still with it.
            self.nodes[node].clock.stopped.get_or_insert(self.now);
        }
        self.log(|| format!("node {node} is stopped until {until}"));
        self.at(until, Event::Resume { node });
        if self.rng.coin() {
            let at = self.now + self.rng.range(MILLISECOND, longest);
            let command = self.some_promotion();
            self.at(at, Event::Command { node: 1 - node, command });
        }
        Ok(())
    }

    /// A person asks, who is refused while the primary is heard; or the agent, who is not.
    fn some_promotion(&mut self) -> OperatorCommand {
        if self.rng.coin() { PROMOTE } else { TAKE_OVER }
    }

    /// Somebody believes that the other node is dead.
    fn maybe_guess(&mut self) -> Verdict {
        if self.rng.per_mille(500) {
            let node = self.rng.below(2) as usize;
            let longest = self.setup.peer_timeout.as_nanos() as u64 * 2;
            let at = self.now + self.rng.range(100_000, longest);
            let command = self.some_promotion();
            self.at(at, Event::Command { node, command });
        }
        Ok(())
    }

    /// The operator does something that he may do.
    fn meddle(&mut self, node: usize) -> Verdict {
        let command = match self.rng.below(8) {
            0 => OperatorCommand::Demote,
            1 | 2 => OperatorCommand::Switchover,
            3 => OperatorCommand::Disconnect,
            4 => OperatorCommand::Connect { discard_my_data: false },
            5 => OperatorCommand::Stop,
            6 => TAKE_OVER,
            _ => PROMOTE,
        };
        if command == OperatorCommand::Disconnect {
            let connect = OperatorCommand::Connect { discard_my_data: false };
            self.after(MILLISECOND, 300 * MILLISECOND, Event::Command { node, command: connect });
        }
        self.on_command(node, command)
    }

    // ---- the operator ----

    pub(super) fn on_command(&mut self, node: usize, command: OperatorCommand) -> Verdict {
        let Some(machine) = self.nodes[node].machine.as_ref() else { return Ok(()) };
        if machine.coordinator.status().role == Role::Primary && matches!(command, PROMOTE | TAKE_OVER) {
            return Ok(());
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.log(|| format!("operator: node {node} {ticket:?} {command:?}"));
        self.feed_control(node, ControlInput::Operator(ticket, command))
    }

    /// Every now and then the operator looks whether somebody serves.
    pub(super) fn on_operator_round(&mut self) -> Verdict {
        self.after(5 * MILLISECOND, 60 * MILLISECOND, Event::Operator);
        let status = self.nodes.each_ref().map(|node| node.machine.as_ref().map(|m| m.coordinator.status()));
        if let Some(node) = status.iter().position(|s| s.as_ref().is_some_and(|s| s.discord.is_some())) {
            return self.settle_discord(node);
        }
        let node = self.rng.below(2) as usize;
        if status[node].is_none() || self.nodes[node].paused_until > self.now {
            return Ok(());
        }
        if self.setup.lies && !self.lied && self.rng.per_mille(30) && !self.calm {
            self.lied = true;
            let force = Some(NodeId(1 - node as u8));
            let command = OperatorCommand::Promote { seed: false, i_have_fenced: force };
            return self.on_command(node, command);
        }
        if status.iter().flatten().any(|s| s.role == Role::Primary) {
            return Ok(());
        }
        // While the two sort out whose data is newer, a promotion would cut them short: mostly he waits.
        let busy = |s: &Status| {
            matches!(s.connection, Connection::Negotiating | Connection::SyncSource | Connection::SyncTarget)
        };
        if status.iter().flatten().any(busy) && !self.rng.per_mille(50) {
            return Ok(());
        }
        let seed = self.setup.beginning == Beginning::Seed && node == 0;
        // The first promotion may have been cut short after the arbiter had heard of it.
        let cut_short = seed
            && self.record().epoch > Epoch(0)
            && (0..2).all(|n| self.nodes[n].superblock(&self.setup.layout).flags.just_created);
        let i_have_fenced = cut_short.then_some(NodeId(1));
        self.on_command(node, OperatorCommand::Promote { seed, i_have_fenced })
    }

    /// The nodes refuse each other. Only after a lie may that be; then the copy that the record leaves out is given up.
    fn settle_discord(&mut self, node: usize) -> Verdict {
        if !self.lied {
            let discord = self.nodes[node].machine.as_ref().and_then(|m| m.coordinator.status().discord);
            return super::world::ensure(false, "liveness", || {
                format!("node {node} refuses its peer although nobody lied: {discord:?}")
            });
        }
        self.discarded = true;
        let keep = self.record().primary.map_or(0, |primary| usize::from(primary.0));
        self.on_command(1 - keep, OperatorCommand::Demote)?;
        self.on_command(1 - keep, OperatorCommand::Connect { discard_my_data: true })?;
        self.on_command(keep, OperatorCommand::Connect { discard_my_data: false })
    }

    // ---- peace ----

    /// No more faults; everything is repaired.
    pub(super) fn make_peace(&mut self) -> Verdict {
        self.log(|| "peace".into());
        self.calm = true;
        self.arbiter.unreachable_until = 0;
        let (low, high) = self.setup.restart_delay;
        for node in 0..2 {
            self.nodes[node].slow_until = 0;
            self.nodes[node].hangs_until = 0;
            self.nodes[node].error_left = 0;
            if self.nodes[node].machine.is_none() {
                self.after(low, high, Event::Restart { node });
            }
            let at = self.nodes[node].paused_until.max(self.now) + MILLISECOND;
            let connect = OperatorCommand::Connect { discard_my_data: false };
            self.at(at, Event::Command { node, command: connect });
        }
        for client in 0..self.clients.len() {
            self.after(0, MILLISECOND, Event::Client { client });
        }
        Ok(())
    }
}
