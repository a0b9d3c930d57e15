//! The rules by which a node changes the record, and what a change gives it. Pure: the volume's coordinator asks here what
//! comes next and obeys; it knows how, this file knows whether and in which order.
//!
//! | rule | what it says | where it is kept |
//! |---|---|---|
//! | R1 | rights grow only by a successful compare-and-swap; a read is a hint, a time-out no answer | [`Change::proposal`], [`Change::on_answer`] |
//! | R2 | frames of an older epoch are refused; before a bid for the lead the link is closed and the own disk drained | [`is_refused`], [`Change::steps`] |
//! | R3 | an answer needs every member of the acting set; it shrinks when the change *succeeded*, grows when it is *asked for* | [`Change::steps`], [`may_act_alone`] |
//! | R4 | a read waits for overlapping writes and, with a peer in sync, for its confirmation begun after the read came (or, where leased, a lease) | `replication::confirm`, `replication::conflict_set`, [`Lease::covers`] |
//! | R5 | where reads are leased: the follower promises to bid for nothing so long, the leader uses it for less | [`Promise`], [`Lease`], [`Step::Outwait`] |
//! | R6 | after a start a node waits as if it had just promised, before it bids; one that the record names as well | [`Promise::at_start`], [`Change::steps`] |
//! | R7 | a restarted primary claims the record before it serves; not if its cache lost what the peer still has | [`Gate::check`], [`may_lack_writes`] |
//! | R8 | nor is a secondary promoted that lost its cache | [`Gate::check`], [`may_lack_writes`] |
//! | R9 | what may differ is marked before it can, and unmarked when both disks have flushed it | `volume::lane` |
//! | R10 | the own cache is flushed before any bid to be the only copy; alone, every write is written through | [`Change::steps`], `volume::primary` |
//! | R11 | a copy is counted in only after what it received is on its stable media | [`Change::steps`] and the resync before it |
//! | R12 | a planned hand-over drains first, and is one change that names the peer with both copies counted | [`Change::steps`], [`Change::proposal`] |
//! | R13 | a new primary answers no command of an old session | `iscsi`: the session is gone with its connection |
//! | R14 | the new epoch is durable before the first answer | [`Change::steps`] |
//! | R15 | the check stands beside each answer | `volume::primary` (`try_finish`) |
//!
//! `twinlun-sim explore` walks every state of the cores that obey these rules, and finds each rule that is left out.

use crate::units::NodeId;

#[cfg(doc)]
use super::lease::{Lease, Promise};
use super::{Epoch, NodeSet, Record};

/// The arbiter's answer to a compare-and-swap. A time-out is not an answer: the driver asks until it has one (R1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CasOutcome {
    Won,
    /// Somebody else changed the record; this is it.
    Lost(Record),
    /// The arbiter is a person.
    NeedsOperator,
}

/// The arbiter's answer to a read. Only a hint (R1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordOutcome {
    Known(Record),
    /// Nothing is kept outside the nodes (fence devices); the change itself will show whether it is granted.
    Own,
    NeedsOperator,
    Unreachable,
}

/// A change of the record that a node may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// The primary has lost its peer: be the only copy.
    Alone,
    /// Lead from now on, as the only copy.
    Promote,
    /// Lead from now on beside a peer that is here, equal, and agrees.
    PromoteBeside,
    /// The primary counts its peer in.
    Add,
    /// The primary hands the lead to its peer, with both in sync.
    HandOver,
    /// The primary's disk has failed: name the peer.
    Surrender,
}

/// What a change takes. Each step is begun when the one before has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Read the record: is the arbiter there, and is there any use in asking?
    Read,
    /// Take up what the change needs before it is asked for, and let everything older end. Alone: requests are held.
    /// Promote: the link is closed, and what came by it is on the disk or dropped. Add: every answer needs the peer.
    /// Hand-over: nothing new is begun, and everything is on both disks.
    Settle,
    /// The own device.
    Flush,
    /// R5, R6: what this node has promised, or may have promised before it started, is over.
    Outwait,
    /// The compare-and-swap.
    Ask,
    /// The superblock.
    Record,
    /// The change is made: act as the record says.
    Act,
}

/// What follows from an answer of the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The record is the proposal: go on.
    Granted,
    /// Hold until a person has answered for it.
    AwaitPerson,
    /// Refused for want of a person's word; nothing has changed.
    NeedsPerson,
    /// The record is another: whoever serves must stop.
    Superseded(Record),
    /// The record is another; this node did not serve, and goes on not serving.
    LostRace(Record),
}

impl Change {
    pub const ALL: [Self; 6] =
        [Self::Alone, Self::Promote, Self::PromoteBeside, Self::Add, Self::HandOver, Self::Surrender];

    /// The steps, in order.
    pub const fn steps(self) -> &'static [Step] {
        use Step::{Act, Ask, Flush, Outwait, Read, Record, Settle};
        match self {
            // The read comes late: the answers that are held need the disk to be quiet anyway, and as long as nothing
            // was asked for a peer that comes back ends the wait.
            Self::Alone => &[Settle, Flush, Read, Ask, Record, Act],
            // With the link closed nothing new is promised, so the wait has an end.
            Self::Promote => &[Read, Settle, Flush, Outwait, Ask, Record, Act],
            // Nothing is to be drained or flushed: both copies stay in sync.
            Self::PromoteBeside => &[Read, Outwait, Ask, Record, Act],
            Self::Add => &[Settle, Ask, Record, Act],
            // The peer records it before its first answer, the old primary when it follows.
            Self::HandOver => &[Read, Settle, Flush, Ask, Act],
            // The disk may never answer what it was asked.
            Self::Surrender => &[Ask, Act],
        }
    }

    pub const fn first(self) -> Step {
        self.steps()[0]
    }

    /// What comes after `step`.
    pub fn after(self, step: Step) -> Step {
        let at = self.steps().iter().position(|&own| own == step);
        self.steps()[at.expect("a step that ends is one of the change") + 1]
    }

    /// R1: the record that `me` asks for in place of `current`. The nonce is the caller's.
    pub fn proposal(self, me: NodeId, current: Record) -> Record {
        let (primary, in_sync) = match self {
            Self::Alone | Self::Promote => (me, NodeSet::only(me)),
            Self::PromoteBeside | Self::Add => (me, NodeSet::BOTH),
            // Nobody is made the only copy by another's word: the peer may have to flush first.
            Self::HandOver | Self::Surrender => (me.peer(), current.in_sync),
        };
        Record { epoch: current.epoch.next(), primary: Some(primary), in_sync, nonce: current.nonce }
    }

    /// Does the record say so already? Then nobody but `me` can have changed it, and nothing is to be asked.
    pub fn is_made(self, me: NodeId, current: Record) -> bool {
        let wanted = self.proposal(me, current);
        matches!(self, Self::Alone | Self::Add)
            && (current.primary, current.in_sync) == (wanted.primary, wanted.in_sync)
    }

    /// What an answer means. `forced`: a person has said that the other node is fenced.
    pub fn on_answer(self, outcome: CasOutcome, forced: bool) -> Verdict {
        match (outcome, self) {
            (CasOutcome::Won, _) => Verdict::Granted,
            (CasOutcome::Lost(record), Self::Promote | Self::PromoteBeside | Self::Surrender) => {
                Verdict::LostRace(record)
            }
            (CasOutcome::Lost(record), _) => Verdict::Superseded(record),
            // Both nodes are here and agree; no third vote is needed to widen or move the set.
            (CasOutcome::NeedsOperator, Self::PromoteBeside | Self::Add | Self::HandOver) => Verdict::Granted,
            (CasOutcome::NeedsOperator, Self::Promote) if forced => Verdict::Granted,
            (CasOutcome::NeedsOperator, Self::Promote) => Verdict::NeedsPerson,
            (CasOutcome::NeedsOperator, Self::Alone | Self::Surrender) => Verdict::AwaitPerson,
        }
    }
}

/// Why a promotion is not asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Denial {
    /// The arbiter's record is older than what this node has seen: it lost data.
    RecordWentBack,
    /// The record does not count this copy (S2).
    NotInSync,
    /// R7, R8.
    MayLackWrites,
    /// No data was ever on this copy, and nobody said that it is the first.
    NeverSynced,
    /// The arbiter is a person who has not spoken.
    NeedsPerson,
}

/// What a node knows of itself when it wants to lead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gate {
    pub me: NodeId,
    /// The newest record it has seen.
    pub seen: Record,
    /// See [`may_lack_writes`].
    pub suspect: bool,
    pub just_created: bool,
    /// The operator says that what is on the disk is the first copy.
    pub seed: bool,
    /// The operator says that the other node is fenced.
    pub forced: bool,
    /// The peer is here, equal and idle.
    pub beside: bool,
    /// The hint is this node's own memory: the arbiter is a person.
    pub by_person: bool,
}

impl Gate {
    /// May a change be asked for that leads on from `hint`, and which?
    pub fn check(&self, hint: Record) -> Result<Change, Denial> {
        let fresh = hint.epoch == Epoch(0);
        if hint.epoch < self.seen.epoch {
            return Err(Denial::RecordWentBack);
        }
        if !self.forced && !fresh && !hint.in_sync.contains(self.me) {
            return Err(Denial::NotInSync);
        }
        // Named alone it had flushed before, and wrote through since: a lost cache cost it nothing (R10).
        if self.suspect && !may_act_alone(self.me, hint) && !self.forced {
            return Err(Denial::MayLackWrites);
        }
        if self.just_created && !(self.seed && (fresh || self.forced)) {
            return Err(Denial::NeverSynced);
        }
        // Beside a peer that the record leaves out this node leads alone first; the resync counts the peer in.
        if self.beside && (fresh || hint.in_sync == NodeSet::BOTH) {
            return Ok(Change::PromoteBeside);
        }
        if self.by_person && !self.forced { Err(Denial::NeedsPerson) } else { Ok(Change::Promote) }
    }
}

/// R3: may `me` answer without the other copy, or is it at least the only one that counts?
pub fn may_act_alone(me: NodeId, record: Record) -> bool {
    record.in_sync == NodeSet::only(me)
}

/// R2, S3: is a word of this epoch refused by a node that has seen `seen`?
pub fn is_refused(epoch: Epoch, seen: Epoch) -> bool {
    epoch < seen
}

/// R7, R8: did a node that starts lose a cache with acknowledged writes that only the other may still hold?
/// `cache_lost`: the machine was restarted, the device forgets, and the last stop was not in order; or an earlier start
/// found that.
pub fn may_lack_writes(me: NodeId, record: Record, cache_lost: bool) -> bool {
    // Alone it wrote through (R10); before the first record nobody was promised anything.
    cache_lost && record.epoch != Epoch(0) && !may_act_alone(me, record)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
