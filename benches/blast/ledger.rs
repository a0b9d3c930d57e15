//! What each block may hold, from what was sent, answered and seen: the judge of `blast verify`.
//!
//! Each block is a register with one writer: at most one write of a block is unanswered at any time, and it is sent
//! again, with the same content, until it is answered. So at every moment a block holds the newest acknowledged
//! write, or the one write that is still unanswered (*in doubt*), and nothing else.
//!
//! - A read must return, sector by sector, a write not older than the newest acknowledged before the read was sent,
//!   and not older than what an earlier read already showed: data once shown may not be taken back by a failover.
//! - In the end a block must hold its newest acknowledged write, or the one in doubt if there is one. Both are right.
//!
//! A write in doubt may be half there: a disk owes atomicity to single sectors only. An acknowledged one may not.

use std::ops::Range;

use crate::stamp::{self, Content, SECTOR, Stamp};

/// Descriptions of violations that are kept; further ones are only counted.
const FINDINGS: usize = 16;

#[derive(Clone, Copy, Default)]
struct Block {
    /// Sequence of the newest acknowledged write; 0 before the first.
    acknowledged: u64,
    /// Newest sequence that a read has shown in the whole block.
    seen: u64,
    /// Sequence of the newest write that was sent.
    newest: u64,
    /// The newest write is not answered.
    in_doubt: bool,
}

/// What a read that is sent now must at least return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floor {
    acknowledged: u64,
    seen: u64,
}

/// Violations and results, in blocks unless said otherwise.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Blocks that hold what they must, at the end.
    pub verified: u64,
    /// Blocks whose newest acknowledged write is not there at the end.
    pub lost: u64,
    /// Reads of a block that returned less than was acknowledged when they were sent.
    pub stale: u64,
    /// Reads of a block that returned less than an earlier read had shown, though not less than was acknowledged.
    pub taken_back: u64,
    /// Blocks with torn or misplaced sectors, or with a write that was never sent.
    pub corrupt: u64,
    /// Blocks that end with an unanswered write, and hold the state before or after it.
    pub in_doubt: u64,
    /// Reads of a block that were as they must be, during the run.
    pub reads_right: u64,
}

pub struct Ledger {
    writer: u64,
    sectors_per_block: u64,
    blocks: Vec<Block>,
    next_sequence: u64,
    pub counts: Counts,
    pub findings: Vec<String>,
}

/// The worst thing found in a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    Right,
    TakenBack,
    Stale,
    Corrupt,
}

impl Ledger {
    /// For `blocks` blocks of `sectors_per_block` sectors each. `writer` differs from run to run, so that data of
    /// an earlier run is never taken for this run's.
    pub fn new(writer: u64, blocks: usize, sectors_per_block: u64) -> Ledger {
        Ledger {
            writer,
            sectors_per_block,
            blocks: vec![Block::default(); blocks],
            next_sequence: 1,
            counts: Counts::default(),
            findings: Vec::new(),
        }
    }

    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    pub fn block_bytes(&self) -> usize {
        self.sectors_per_block as usize * SECTOR
    }

    /// Whether none of these blocks has an unanswered write.
    pub fn may_write(&self, range: Range<usize>) -> bool {
        self.blocks[range].iter().all(|block| !block.in_doubt)
    }

    /// Whether a write of this block was ever sent.
    pub fn was_written(&self, block: usize) -> bool {
        self.blocks[block].newest != 0
    }

    /// Notes that a write of these blocks is about to be sent; returns its sequence and its bytes.
    pub fn begin_write(&mut self, range: Range<usize>) -> (u64, Vec<u8>) {
        assert!(self.may_write(range.clone()), "one write of a block at a time");
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        for block in &mut self.blocks[range.clone()] {
            block.newest = sequence;
            block.in_doubt = true;
        }
        let mut bytes = vec![0; range.len() * self.block_bytes()];
        let first = range.start as u64 * self.sectors_per_block;
        stamp::fill(&mut bytes, first, Stamp { writer: self.writer, sequence });
        (sequence, bytes)
    }

    /// Notes that this write was answered with GOOD.
    pub fn acknowledge(&mut self, range: Range<usize>, sequence: u64) {
        for block in &mut self.blocks[range] {
            assert!(
                block.in_doubt && block.newest == sequence,
                "the newest write is the one that was answered"
            );
            block.acknowledged = sequence;
            block.in_doubt = false;
        }
    }

    /// Notes that a read of these blocks is about to be sent; what it returns goes to [`check_read`](Self::check_read).
    pub fn begin_read(&self, range: Range<usize>) -> Vec<Floor> {
        let floor = |block: &Block| Floor { acknowledged: block.acknowledged, seen: block.seen };
        self.blocks[range].iter().map(floor).collect()
    }

    /// Judges what a read returned.
    pub fn check_read(&mut self, first: usize, floors: &[Floor], bytes: &[u8]) {
        assert_eq!(bytes.len(), floors.len() * self.block_bytes(), "a whole read is judged");
        let block_bytes = self.block_bytes();
        for (index, (floor, bytes)) in floors.iter().zip(bytes.chunks_exact(block_bytes)).enumerate() {
            match self.judge(first + index, *floor, bytes, "read") {
                Verdict::Right => self.counts.reads_right += 1,
                Verdict::TakenBack => self.counts.taken_back += 1,
                Verdict::Stale => self.counts.stale += 1,
                Verdict::Corrupt => self.counts.corrupt += 1,
            }
        }
    }

    /// Judges what a block holds when everything is over.
    pub fn check_end(&mut self, block: usize, bytes: &[u8]) {
        let floor = Floor { acknowledged: self.blocks[block].acknowledged, seen: self.blocks[block].seen };
        self.counts.in_doubt += u64::from(self.blocks[block].in_doubt);
        match self.judge(block, floor, bytes, "end") {
            Verdict::Right => self.counts.verified += 1,
            Verdict::TakenBack => self.counts.taken_back += 1,
            Verdict::Stale => self.counts.lost += 1,
            Verdict::Corrupt => self.counts.corrupt += 1,
        }
    }

    /// Judges every sector of a block; the worst counts. Remembers what was seen if the block is whole.
    fn judge(&mut self, block: usize, floor: Floor, bytes: &[u8], when: &str) -> Verdict {
        let first = block as u64 * self.sectors_per_block;
        let mut worst = Verdict::Right;
        let mut whole: Option<Content> = None;
        let mut uniform = true;
        for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            let content = stamp::read(bytes, sector);
            let verdict = self.judge_sector(block, floor, content);
            if verdict != Verdict::Right && verdict > worst {
                self.note(when, sector, content, floor, self.blocks[block]);
            }
            worst = worst.max(verdict);
            uniform &= whole.is_none_or(|first| first == content);
            whole = Some(content);
        }
        if let (Verdict::Right, true, Some(Content::Stamped(stamp))) = (worst, uniform, whole) {
            if stamp.writer == self.writer {
                self.blocks[block].seen = self.blocks[block].seen.max(stamp.sequence);
            }
        }
        worst
    }

    fn judge_sector(&self, block: usize, floor: Floor, content: Content) -> Verdict {
        let sequence = match content {
            Content::Broken => return Verdict::Corrupt,
            Content::Stamped(stamp) if stamp.writer == self.writer => stamp.sequence,
            // Somebody else's data is what the block held before this run wrote to it.
            Content::Stamped(_) | Content::Foreign => 0,
        };
        if sequence > self.blocks[block].newest {
            Verdict::Corrupt
        } else if sequence < floor.acknowledged {
            Verdict::Stale
        } else if sequence < floor.seen {
            Verdict::TakenBack
        } else {
            Verdict::Right
        }
    }

    fn note(&mut self, when: &str, sector: u64, content: Content, floor: Floor, block: Block) {
        if self.findings.len() < FINDINGS {
            self.findings.push(format!(
                "{when}: sector {sector} holds {content:?}; acknowledged {}, seen {}, newest sent {}",
                floor.acknowledged, floor.seen, block.newest
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 8 * SECTOR;

    fn ledger() -> Ledger {
        Ledger::new(7, 4, 8)
    }

    /// Writes block 1 and has it acknowledged; returns the bytes.
    fn written(ledger: &mut Ledger) -> Vec<u8> {
        let (sequence, bytes) = ledger.begin_write(1..2);
        ledger.acknowledge(1..2, sequence);
        bytes
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut ledger = ledger();
        let old = written(&mut ledger);
        let new = written(&mut ledger);
        ledger.check_end(1, &new);
        assert_eq!(ledger.counts, Counts { verified: 1, ..Counts::default() });
        ledger.check_end(1, &old);
        ledger.check_end(1, &[0; BLOCK]);
        assert_eq!(ledger.counts, Counts { verified: 1, lost: 2, ..Counts::default() });
        assert_eq!(ledger.findings.len(), 2);
    }

    #[test]
    fn a_write_in_doubt_may_be_there_or_not_or_half() {
        let mut ledger = ledger();
        let old = written(&mut ledger);
        let (_, new) = ledger.begin_write(1..2);
        let half = [&new[..BLOCK / 2], &old[BLOCK / 2..]].concat();
        for bytes in [&old, &half, &new] {
            ledger.check_end(1, bytes);
        }
        assert_eq!(ledger.counts, Counts { verified: 3, in_doubt: 3, ..Counts::default() });
        ledger.check_end(1, &[0; BLOCK]);
        assert_eq!(ledger.counts.lost, 1);
    }

    #[test]
    fn a_write_sent_again_and_acknowledged_is_no_longer_in_doubt() {
        let mut ledger = ledger();
        let old = written(&mut ledger);
        let (sequence, new) = ledger.begin_write(1..2);
        ledger.acknowledge(1..2, sequence);
        let half = [&new[..BLOCK / 2], &old[BLOCK / 2..]].concat();
        ledger.check_end(1, &half);
        assert_eq!(ledger.counts, Counts { lost: 1, ..Counts::default() });
    }

    #[test]
    fn reads_are_judged_by_what_was_known_when_they_were_sent() {
        let mut ledger = ledger();
        let old = written(&mut ledger);
        let early = ledger.begin_read(1..2);
        let new = written(&mut ledger);
        let late = ledger.begin_read(1..2);
        ledger.check_read(1, &early, &old);
        ledger.check_read(1, &late, &new);
        assert_eq!(ledger.counts, Counts { reads_right: 2, ..Counts::default() });
        ledger.check_read(1, &late, &old);
        assert_eq!(ledger.counts.stale, 1);
    }

    #[test]
    fn what_a_read_has_shown_may_not_be_taken_back() {
        let mut ledger = ledger();
        let old = written(&mut ledger);
        let (_, new) = ledger.begin_write(1..2);
        let before = ledger.begin_read(1..2);
        ledger.check_read(1, &before, &new);
        // This read was sent before the first returned, so it may still be of the old state.
        ledger.check_read(1, &before, &old);
        assert_eq!(ledger.counts, Counts { reads_right: 2, ..Counts::default() });
        let after = ledger.begin_read(1..2);
        ledger.check_read(1, &after, &old);
        ledger.check_end(1, &old);
        assert_eq!(ledger.counts.taken_back, 2);
        assert_eq!(ledger.counts.stale, 0);
    }

    #[test]
    fn misplaced_torn_and_unsent_data_is_corrupt() {
        let mut ledger = ledger();
        let bytes = written(&mut ledger);
        let (sequence, other) = ledger.begin_write(2..3);
        ledger.acknowledge(2..3, sequence);
        ledger.check_end(1, &other);
        let mut torn = bytes.clone();
        torn[100] ^= 0x80;
        ledger.check_end(1, &torn);
        let mut future = bytes;
        stamp::fill(&mut future, 8, Stamp { writer: 7, sequence: 1000 });
        ledger.check_end(1, &future);
        assert_eq!(ledger.counts, Counts { corrupt: 3, ..Counts::default() });
    }

    #[test]
    fn unwritten_blocks_may_hold_anything() {
        let mut ledger = ledger();
        let floors = ledger.begin_read(0..2);
        ledger.check_read(0, &floors, &[0xa5; 2 * BLOCK]);
        assert_eq!(ledger.counts, Counts { reads_right: 2, ..Counts::default() });
        assert!(!ledger.was_written(0));
    }
}
