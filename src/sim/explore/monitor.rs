//! Is what the clients saw one block? Every way in which the commands so far may have happened one after the other is
//! kept; when none is left, the history is not linearizable. With a handful of commands the set stays small, and it is
//! part of the explored state.

use super::node::Value;

/// Commands of each kind.
pub const COMMANDS_MAX: usize = 4;
/// A node's process that has ended.
pub const GONE: u8 = 2;
const NOT_YET: Value = 0xFF;
const OVER: Value = 0xFE;

/// Where a command is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Progress {
    NotAsked,
    /// At this node.
    Pending(u8),
    Answered,
    /// The connection is gone: at this node, or ([`GONE`]) with the process. A write may still happen.
    Lost(u8),
    /// What it has not done by now it must never do.
    Sealed,
}

/// One way in which it may have happened: the block's value, the writes that did, and what each read returned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Way {
    value: Value,
    written: u8,
    read: [Value; COMMANDS_MAX],
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Monitor {
    pub writes: Vec<Progress>,
    pub reads: Vec<Progress>,
    ways: Vec<Way>,
}

impl Monitor {
    pub fn new(writes: usize, reads: usize) -> Self {
        assert!(writes <= COMMANDS_MAX && reads <= COMMANDS_MAX);
        let way = Way { value: 0, written: 0, read: [NOT_YET; COMMANDS_MAX] };
        Self {
            writes: vec![Progress::NotAsked; writes],
            reads: vec![Progress::NotAsked; reads],
            ways: vec![way],
        }
    }

    /// Can it have happened at all?
    pub fn is_possible(&self) -> bool {
        !self.ways.is_empty()
    }

    /// Every command that may happen now happens, or not.
    fn spread(&mut self) {
        let mut at = 0;
        while at < self.ways.len() {
            let way = self.ways[at];
            at += 1;
            for (number, progress) in self.writes.iter().enumerate() {
                let open = matches!(progress, Progress::Pending(_) | Progress::Lost(_));
                if open && way.written & 1 << number == 0 {
                    let next = Way { value: number as Value + 1, written: way.written | 1 << number, ..way };
                    add(&mut self.ways, next);
                }
            }
            for (number, progress) in self.reads.iter().enumerate() {
                if matches!(progress, Progress::Pending(_)) && way.read[number] == NOT_YET {
                    let mut next = way;
                    next.read[number] = way.value;
                    add(&mut self.ways, next);
                }
            }
        }
    }

    fn tidy(&mut self) {
        for (number, progress) in self.reads.iter().enumerate() {
            if matches!(progress, Progress::Lost(_) | Progress::Answered) {
                self.ways.iter_mut().for_each(|way| way.read[number] = OVER);
            }
        }
        self.ways.sort_unstable();
        self.ways.dedup();
    }

    pub fn ask_write(&mut self, number: usize, node: usize) {
        self.writes[number] = Progress::Pending(node as u8);
    }

    pub fn ask_read(&mut self, number: usize, node: usize) {
        self.reads[number] = Progress::Pending(node as u8);
    }

    /// A write is answered GOOD.
    pub fn write_done(&mut self, number: usize) {
        self.spread();
        self.writes[number] = Progress::Answered;
        self.ways.retain(|way| way.written & 1 << number != 0);
        self.tidy();
    }

    /// A read is answered.
    pub fn read_done(&mut self, number: usize, value: Value) {
        self.spread();
        self.ways.retain(|way| way.read[number] == value);
        self.reads[number] = Progress::Answered;
        self.tidy();
    }

    /// The commands at `node` will not be answered.
    pub fn lose(&mut self, node: usize) {
        self.lose_to(node as u8, node as u8);
    }

    /// Nor those of its process, which has ended.
    pub fn end(&mut self, node: usize) {
        self.lose_to(node as u8, GONE);
    }

    fn lose_to(&mut self, node: u8, to: u8) {
        let lose = |progress: &mut Progress| {
            if matches!(*progress, Progress::Pending(at) | Progress::Lost(at) if at == node) {
                *progress = Progress::Lost(to);
            }
        };
        self.writes.iter_mut().for_each(lose);
        self.reads.iter_mut().for_each(lose);
        self.tidy();
    }

    pub fn lose_write(&mut self, number: usize, node: usize) {
        self.writes[number] = Progress::Lost(node as u8);
    }

    pub fn lose_read(&mut self, number: usize, node: usize) {
        self.reads[number] = Progress::Lost(node as u8);
        self.tidy();
    }

    /// `node` begins to serve: what was asked elsewhere has happened by now, or never will (S4).
    pub fn seal(&mut self, node: usize) {
        self.spread();
        for progress in &mut self.writes {
            let elsewhere = matches!(progress, Progress::Pending(at) if usize::from(*at) != node);
            if elsewhere || matches!(progress, Progress::Lost(_)) {
                *progress = Progress::Sealed;
            }
        }
        self.tidy();
    }

    /// `node` begins to lead, and clients may be at the other as well: what they wait for there is carried here and may
    /// happen still. What was lost there, or in an earlier life, must not (S4).
    pub fn seal_lost(&mut self, node: usize) {
        self.spread();
        for progress in &mut self.writes {
            if matches!(progress, Progress::Lost(at) if usize::from(*at) != node) {
                *progress = Progress::Sealed;
            }
        }
        self.tidy();
    }
}

fn add(ways: &mut Vec<Way>, way: Way) {
    if !ways.contains(&way) {
        ways.push(way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_and_a_dirty_read_are_impossible() {
        let mut monitor = Monitor::new(1, 2);
        monitor.ask_write(0, 0);
        monitor.write_done(0);
        monitor.ask_read(0, 0);
        let mut stale = monitor.clone();
        stale.read_done(0, 0);
        assert!(!stale.is_possible());
        monitor.read_done(0, 1);
        assert!(monitor.is_possible());
        let mut dirty = Monitor::new(1, 2);
        dirty.ask_write(0, 0);
        dirty.ask_read(0, 0);
        dirty.read_done(0, 1);
        dirty.ask_read(1, 1);
        assert!(dirty.is_possible());
        dirty.read_done(1, 0);
        assert!(!dirty.is_possible(), "seen once, gone afterwards");
    }

    #[test]
    fn a_sealed_write_happens_before_the_seal_or_never() {
        let mut monitor = Monitor::new(1, 2);
        monitor.ask_write(0, 0);
        monitor.lose(0);
        monitor.seal(1);
        monitor.ask_read(0, 1);
        monitor.read_done(0, 0);
        monitor.ask_read(1, 1);
        assert!(monitor.is_possible());
        monitor.read_done(1, 1);
        assert!(!monitor.is_possible());
    }

    #[test]
    fn a_lost_write_may_come_late() {
        let mut monitor = Monitor::new(1, 2);
        monitor.ask_write(0, 0);
        monitor.lose(0);
        monitor.ask_read(0, 0);
        monitor.read_done(0, 0);
        monitor.ask_read(1, 0);
        monitor.read_done(1, 1);
        assert!(monitor.is_possible());
    }
}
