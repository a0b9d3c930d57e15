//! Is what the initiators saw one disk? A checker of linearizability, sector by sector.
//!
//! A sector is a register, and every write of it carries a value of its own, so the zones of Gibbons and Korach decide
//! exactly: a value's *cluster* is its write and the reads that returned it; `first_response` is the earliest end
//! among them, `last_invocation` the latest begin. If the first response comes before the last invocation, the value
//! must have been in the register all the time between ("forward zone"). The history is linearizable if no read ended
//! before its write began, no two forward zones overlap, and no other cluster lies wholly inside a forward zone.
//!
//! A write without an answer may have happened or not. It may still happen later, until it is *sealed*: when its
//! service is over, what it did not do by then it must never do.
//!
//! Losing power with volatile caches on both nodes may take back what no flush covered ([`History::on_power_loss`]);
//! what is left then must be one of the values that may have been there. The same holds for a write that the only
//! copy's device failed: its initiator was told, what landed of it may be read, and no flush was promised to cover it.
//!
//! Times are ticks of the world, all different.

/// A value that came from nowhere, too late, or after it was overwritten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly {
    pub sector: u64,
    pub what: String,
}

/// One value of one sector.
#[derive(Clone, Debug)]
struct Cluster {
    value: u64,
    begun: u64,
    /// Answered, or sealed.
    ended: Option<u64>,
    answered: bool,
    /// Written through, or answered by the only copy: no loss of power takes it back.
    secured: bool,
    read_first_end: u64,
    read_last_begin: u64,
}

impl Cluster {
    fn new(value: u64, begun: u64) -> Self {
        Self {
            value,
            begun,
            ended: None,
            answered: false,
            secured: false,
            read_first_end: u64::MAX,
            read_last_begin: 0,
        }
    }

    fn was_read(&self) -> bool {
        self.read_first_end != u64::MAX
    }

    /// `(first response, last invocation)`; `None` if nothing is known to have happened.
    fn zone(&self) -> Option<(u64, u64)> {
        if !self.answered && !self.was_read() {
            return None;
        }
        let first_response = self.ended.unwrap_or(u64::MAX).min(self.read_first_end);
        Some((first_response, self.begun.max(self.read_last_begin)))
    }
}

#[derive(Clone, Debug, Default)]
struct Register {
    clusters: Vec<Cluster>,
}

/// Everything the initiators did.
#[derive(Debug)]
pub struct History {
    /// Sector → register number plus one.
    index: Vec<u32>,
    registers: Vec<Register>,
    sectors: Vec<u64>,
    /// `(register, value, answered at)` of answered writes that a loss of power may take back.
    unsecured: Vec<(u32, u64, u64)>,
    /// `(node, register)` of writes that the node's device failed: of these the next loss of its power may take back
    /// what was read.
    failed: Vec<(usize, u32)>,
    pub reads_checked: u64,
}

/// How a value relates to a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    Same,
    /// Certainly overwritten by it.
    Older,
    /// Beside it or after it.
    NotOlder,
}

impl History {
    pub fn new(sectors: u64) -> Self {
        Self {
            index: vec![0; sectors as usize],
            registers: Vec::new(),
            sectors: Vec::new(),
            unsecured: Vec::new(),
            failed: Vec::new(),
            reads_checked: 0,
        }
    }

    fn register(&mut self, sector: u64) -> usize {
        let place = &mut self.index[sector as usize];
        if *place == 0 {
            // Sectors start as zero.
            let base = Cluster { ended: Some(0), answered: true, secured: true, ..Cluster::new(0, 0) };
            self.registers.push(Register { clusters: vec![base] });
            self.sectors.push(sector);
            *place = self.registers.len() as u32;
        }
        *place as usize - 1
    }

    /// Sectors that somebody wrote or read.
    pub fn touched(&self) -> &[u64] {
        &self.sectors
    }

    pub fn on_write_begun(&mut self, tick: u64, sector: u64, value: u64) {
        let register = self.register(sector);
        self.registers[register].clusters.push(Cluster::new(value, tick));
    }

    /// The write is answered GOOD. `secured`: no loss of power may take it back.
    pub fn on_write_answered(
        &mut self,
        tick: u64,
        sector: u64,
        value: u64,
        secured: bool,
    ) -> Result<(), Anomaly> {
        let register = self.register(sector);
        if !secured {
            self.unsecured.push((register as u32, value, tick));
        }
        let Some(at) = self.find(register, value) else { return Ok(()) };
        let cluster = &mut self.registers[register].clusters[at];
        cluster.ended = Some(tick);
        cluster.answered = true;
        cluster.secured = secured;
        self.check(register, at)
    }

    /// The write will not be answered, and what it has not done by now it must not do any more.
    pub fn on_write_sealed(&mut self, tick: u64, sector: u64, value: u64) -> Result<(), Anomaly> {
        let register = self.register(sector);
        let Some(at) = self.find(register, value) else { return Ok(()) };
        self.registers[register].clusters[at].ended = Some(tick);
        self.check(register, at)
    }

    /// The device of `node`, the only copy, failed the write. Goes before [`History::on_write_sealed`].
    pub fn on_write_failed(&mut self, node: usize, sector: u64) {
        let register = self.register(sector) as u32;
        self.failed.push((node, register));
    }

    /// A read that began at `begun` is answered now with `value`.
    pub fn on_read(&mut self, begun: u64, tick: u64, sector: u64, value: u64) -> Result<(), Anomaly> {
        self.reads_checked += 1;
        let register = self.register(sector);
        let Some(at) = self.find(register, value) else {
            let what = format!("read {value:#x}, which was never written here or was lost and came back");
            return Err(self.anomaly(register, what));
        };
        let cluster = &mut self.registers[register].clusters[at];
        cluster.read_first_end = cluster.read_first_end.min(tick);
        cluster.read_last_begin = cluster.read_last_begin.max(begun);
        if tick < cluster.begun {
            let what = format!("read {value:#x} before it was written");
            return Err(self.anomaly(register, what));
        }
        self.check(register, at)
    }

    fn find(&self, register: usize, value: u64) -> Option<usize> {
        // The value looked for is mostly a recent one.
        self.registers[register].clusters.iter().rposition(|cluster| cluster.value == value)
    }

    fn check(&self, register: usize, at: usize) -> Result<(), Anomaly> {
        let clusters = &self.registers[register].clusters;
        let mine = &clusters[at];
        let Some((my_end, my_begin)) = mine.zone() else { return Ok(()) };
        for (number, other) in clusters.iter().enumerate() {
            if number == at {
                continue;
            }
            let Some((end, begin)) = other.zone() else { continue };
            let some_forward = my_end < my_begin || end < begin;
            let bad = some_forward && my_end < begin && end < my_begin;
            if bad {
                let what = format!("{} and {} cannot both be true", tell(mine), tell(other));
                return Err(self.anomaly(register, what));
            }
        }
        Ok(())
    }

    fn anomaly(&self, register: usize, what: String) -> Anomaly {
        Anomaly { sector: self.sectors[register], what }
    }

    /// Is `value` older than the write of `reference`?
    pub fn age(&self, sector: u64, value: u64, reference: u64) -> Age {
        if value == reference {
            return Age::Same;
        }
        let place = self.index[sector as usize];
        if place == 0 {
            return Age::NotOlder;
        }
        let register = place as usize - 1;
        let Some(newer) = self.find(register, reference) else { return Age::NotOlder };
        let Some(old) = self.find(register, value) else { return Age::Older };
        let clusters = &self.registers[register].clusters;
        let end = clusters[old].ended.unwrap_or(u64::MAX).min(clusters[old].read_first_end);
        if end < clusters[newer].begun { Age::Older } else { Age::NotOlder }
    }

    /// Answered writes, at most at tick `until`, that a loss of power could take back: `(sector, value)`.
    pub fn unsecured(&self, until: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sectors = &self.sectors;
        self.unsecured
            .iter()
            .filter(move |entry| entry.2 <= until)
            .map(move |entry| (sectors[entry.0 as usize], entry.1))
    }

    /// Something answered that is certainly not in `held`, a disk's content.
    pub fn missing(&self, held: impl Fn(u64) -> u64) -> Option<String> {
        for (register, &sector) in self.registers.iter().zip(&self.sectors) {
            let value = held(sector);
            let Some(at) = register.clusters.iter().rposition(|c| c.value == value) else {
                return Some(format!("sector {sector}: {value:#x} is no value of it"));
            };
            let end =
                register.clusters[at].ended.unwrap_or(u64::MAX).min(register.clusters[at].read_first_end);
            if let Some(newer) = register.clusters.iter().find(|c| c.answered && end < c.begun) {
                return Some(format!("sector {sector}: {} (it has {value:#x})", tell(newer)));
            }
        }
        None
    }

    /// What was answered until `tick` is stable from now on.
    pub fn on_secured(&mut self, until: u64) {
        let mut rest = Vec::new();
        for (register, value, tick) in core::mem::take(&mut self.unsecured) {
            if tick > until {
                rest.push((register, value, tick));
            } else if let Some(at) = self.find(register as usize, value) {
                self.registers[register as usize].clusters[at].secured = true;
            }
        }
        self.unsecured = rest;
    }

    /// Both nodes have lost their caches, the other one at `other_lost_at`: unsecured writes begun before that may
    /// be gone. From here on each such sector may hold any value that could have been durable somewhere.
    pub fn on_power_loss(&mut self, tick: u64, other_lost_at: u64) -> usize {
        let mut doubtful: Vec<u32> = Vec::new();
        let mut rest = Vec::new();
        for entry in core::mem::take(&mut self.unsecured) {
            // Begun before the other's loss: the other may have had it in the cache that it lost, and acknowledged it.
            let begun = self.find(entry.0 as usize, entry.1).map(|at| self.begun(entry.0, at));
            if begun.is_some_and(|begun| begun > other_lost_at) {
                rest.push(entry);
            } else {
                doubtful.push(entry.0);
            }
        }
        self.unsecured = rest;
        // So may a write that was read before it was answered.
        let seen = |c: &Cluster| !c.answered && c.was_read() && c.begun <= other_lost_at;
        let early = |register: &Register| register.clusters.iter().any(seen);
        doubtful.extend((0..).zip(&self.registers).filter(|(_, it)| early(it)).map(|(number, _)| number));
        doubtful.sort_unstable();
        doubtful.dedup();
        for &register in &doubtful {
            self.split(register as usize, tick, other_lost_at);
        }
        doubtful.len()
    }

    /// The node has lost its power: what it had of failed writes may be gone, and nothing that was answered.
    pub fn on_failed_writes_lost(&mut self, tick: u64, node: usize) {
        let failed = core::mem::take(&mut self.failed);
        let (lost, kept): (Vec<_>, Vec<_>) = failed.into_iter().partition(|entry| entry.0 == node);
        self.failed = kept;
        let mut doubtful: Vec<u32> = lost.into_iter().map(|entry| entry.1).collect();
        doubtful.sort_unstable();
        doubtful.dedup();
        for register in doubtful {
            self.split(register as usize, tick, 0);
        }
    }

    fn begun(&self, register: u32, at: usize) -> u64 {
        self.registers[register as usize].clusters[at].begun
    }

    fn split(&mut self, register: usize, tick: u64, other_lost_at: u64) {
        let clusters = &mut self.registers[register].clusters;
        let kept: Vec<u64> = clusters
            .iter()
            .filter(|c| c.answered && (c.secured || c.begun > other_lost_at))
            .map(|c| c.begun)
            .collect();
        let newest_kept = kept.into_iter().max().unwrap_or(0);
        clusters.retain(|c| c.ended.unwrap_or(u64::MAX).min(c.read_first_end) >= newest_kept);
        for cluster in clusters.iter_mut() {
            // Candidates: whichever is read first was there since now. What is still under way may also come later.
            let ended = cluster.ended.map(|_| tick);
            let secured = cluster.secured;
            *cluster = Cluster { ended, secured, ..Cluster::new(cluster.value, tick - 1) };
        }
    }
}

fn tell(cluster: &Cluster) -> String {
    let mut text = format!("value {:#x} (written {}", cluster.value, cluster.begun);
    match (cluster.answered, cluster.ended) {
        (true, Some(end)) => text += &format!(", answered {end}"),
        (_, Some(end)) => text += &format!(", unanswered, over by {end}"),
        _ => text += ", unanswered",
    }
    if cluster.was_read() {
        text += &format!(", read from {} to {}", cluster.read_first_end, cluster.read_last_begin);
    }
    text + ")"
}

#[cfg(test)]
mod tests {
    use super::{Age, History};

    #[test]
    fn a_plain_history_passes() {
        let mut history = History::new(8);
        history.on_read(1, 2, 3, 0).unwrap();
        history.on_write_begun(3, 3, 70);
        history.on_read(4, 5, 3, 0).unwrap();
        history.on_read(6, 7, 3, 70).unwrap();
        history.on_write_answered(8, 3, 70, true).unwrap();
        history.on_read(9, 10, 3, 70).unwrap();
        assert_eq!(history.age(3, 0, 70), Age::Older);
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut history = History::new(8);
        history.on_write_begun(1, 3, 70);
        history.on_write_answered(2, 3, 70, true).unwrap();
        assert!(history.on_read(3, 4, 3, 0).is_err());
    }

    #[test]
    fn a_read_taken_back_is_found() {
        let mut history = History::new(8);
        history.on_write_begun(1, 3, 70);
        history.on_read(2, 3, 3, 70).unwrap();
        assert!(history.on_read(4, 5, 3, 0).is_err(), "dirty read, then the old value again");
    }

    #[test]
    fn a_write_that_comes_back_after_its_end_is_found() {
        let mut history = History::new(8);
        history.on_write_begun(1, 3, 70);
        history.on_write_sealed(2, 3, 70).unwrap();
        history.on_write_begun(3, 3, 71);
        history.on_write_answered(4, 3, 71, true).unwrap();
        assert!(history.on_read(5, 6, 3, 70).is_err());
        let mut history = History::new(8);
        history.on_write_begun(1, 3, 70);
        history.on_write_begun(3, 3, 71);
        history.on_write_answered(4, 3, 71, true).unwrap();
        history.on_read(5, 6, 3, 70).unwrap();
    }

    #[test]
    fn an_unknown_value_is_found() {
        assert!(History::new(8).on_read(1, 2, 3, 99).is_err());
    }

    #[test]
    fn power_loss_takes_back_what_no_flush_covered() {
        let mut history = History::new(8);
        history.on_write_begun(1, 3, 70);
        history.on_write_answered(2, 3, 70, true).unwrap();
        history.on_write_begun(3, 3, 71);
        history.on_write_answered(4, 3, 71, false).unwrap();
        assert_eq!(history.on_power_loss(6, 5), 1);
        assert!(history.clone_for_test().on_read(7, 8, 3, 0).is_err(), "covered by a flush");
        let mut other = history.clone_for_test();
        other.on_read(7, 8, 3, 70).unwrap();
        assert!(other.on_read(9, 10, 3, 71).is_err(), "one or the other");
        history.on_read(7, 8, 3, 71).unwrap();
    }

    #[test]
    fn power_loss_takes_back_what_the_device_failed_and_nothing_older() {
        let mut history = History::new(8);
        history.on_write_begun(1, 3, 70);
        history.on_write_answered(2, 3, 70, true).unwrap();
        history.on_write_begun(3, 3, 71);
        history.on_write_failed(1, 3);
        history.on_write_sealed(4, 3, 71).unwrap();
        history.on_read(5, 6, 3, 71).unwrap();
        assert!(history.clone_for_test().on_read(7, 8, 3, 70).is_err(), "nothing happened since");
        let mut other = history.clone_for_test();
        other.on_failed_writes_lost(8, 0);
        assert!(other.on_read(9, 10, 3, 70).is_err(), "another node's power");
        history.on_failed_writes_lost(8, 1);
        assert!(history.clone_for_test().on_read(9, 10, 3, 0).is_err(), "70 was answered");
        history.on_read(9, 10, 3, 70).unwrap();
        assert!(history.on_read(11, 12, 3, 71).is_err(), "one or the other");
    }

    impl History {
        fn clone_for_test(&self) -> Self {
            Self {
                index: self.index.clone(),
                registers: self.registers.clone(),
                sectors: self.sectors.clone(),
                unsecured: self.unsecured.clone(),
                failed: self.failed.clone(),
                reads_checked: 0,
            }
        }
    }
}
