//! Who may serve where nothing keeps a record for both nodes: the decision part, without processes or clocks.
//!
//! - F1, F2: to serve alone a node first has the other one switched off, with confirmation, and then writes its own
//!   record. The primary of the record goes first, the other node waits a little ([`Verdict::Fence`]).
//! - F4: a fence that failed, or of which nothing is known, is not a fence (the caller's duty).
//! - F5: a node that has not met its peer since it started may serve alone only if its own record says that it alone is
//!   in sync. It must not fence its way back either: the peer may have gone on, and died since.
//!
//! A change to `{both}` gives nobody a right of its own: while both are in sync, every answer needs the other node. The
//! tests explore two nodes, their crashes, restarts and fences exhaustively.

use crate::arbitration::{NodeSet, Record};
use crate::units::NodeId;

/// What must happen before a change counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing: the change is good as soon as it is durable.
    Granted,
    /// The other node must be off. `first`: this node is the primary and does not wait (F3).
    Fence {
        first: bool,
    },
    Refused(Refused),
}

/// Why a change is not for a program to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The node has not met its peer since it started (F5).
    NotMet,
    /// Nobody has served yet: which copy is the first is a person's choice.
    NoRecord,
    /// The record does not count this copy as in sync.
    NotInSync,
}

/// What `me` must do before `proposed` may take the place of `expected`, its own durable record. `met`: since this
/// process started, it and its peer have found that both copies are good.
pub fn judge(me: NodeId, met: bool, expected: Option<Record>, proposed: &Record) -> Verdict {
    let only_me = NodeSet::only(me);
    if proposed.in_sync == NodeSet::BOTH {
        return Verdict::Granted;
    }
    let known = expected.unwrap_or_default();
    let in_sync = known.in_sync;
    if proposed.in_sync != only_me || in_sync == NodeSet::only(me.peer()) {
        return Verdict::Refused(Refused::NotInSync);
    }
    if in_sync == NodeSet::NONE {
        return Verdict::Refused(Refused::NoRecord);
    }
    if in_sync == only_me {
        return Verdict::Granted;
    }
    if met && in_sync == NodeSet::BOTH {
        return Verdict::Fence { first: known.primary == Some(me) };
    }
    Verdict::Refused(Refused::NotMet)
}
