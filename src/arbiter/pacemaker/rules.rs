//! What a change of the record needs before it counts, and how it is made: the decision part, without processes or clocks.
//!
//! # What a CIB is, and is not
//!
//! Every change of Pacemaker's CIB is handed to all members of a partition in one order, and each applies it to its own
//! copy. So a change with a guard is a compare-and-swap *among the members that got it*. It is not a commit:
//!
//! - The caller is answered when its own node has applied the change. If the cable is cut at that moment, nobody else has.
//! - When partitions meet again, one copy replaces all others: the one with the highest `admin_epoch`, `epoch`,
//!   `num_updates`. What only the others had is gone without a word.
//! - Two nodes with `two_node` (or with a quorum device) may each have quorum at one time until one has fenced the other.
//!
//! # The protocol
//!
//! 1. *Bid.* With the record as guard, the proposal is written beside it. A bid gives no right.
//! 2. *Exclude.* The other node must show the bid in its own copy, or be known to be off: fenced with confirmation, or
//!    shut down in order. A node that is merely not heard is neither; it is waited for. Other members show the bid too.
//! 3. *Settle.* With record and bid as guard, the proposal becomes the record, and `admin_epoch` rises, so that this copy
//!    replaces every copy that lacks it when partitions meet.
//! 4. *Confirm.* As 2, for the record. Only then is the change committed.
//!
//! At every step the partition must be quorate, and the guard itself holds `have-quorum`, so that a partition that has
//! lost its quorum takes nothing.
//!
//! A copy of the CIB that comes back with its node may be old, however many vote for it. So a node serves alone only if it
//! has met the other one since it started, or if *its own disk* already says that it alone is in sync, as with fence
//! devices (F5).

use crate::arbitration::{NodeSet, Record};
use crate::units::NodeId;

/// What the CIB holds, on one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Copy {
    pub record: Option<Record>,
    pub bid: Option<Bid>,
    /// Record and bid as they are written there: what a guard compares. `None`: there is nothing yet.
    pub words: Option<(String, String)>,
}

/// A proposal that is not decided, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bid {
    pub record: Record,
    pub by: NodeId,
}

/// What the cluster knows of another node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Presence {
    /// A full member: its copy can be asked for.
    Online,
    /// Fenced with confirmation, or shut down in order.
    Gone,
    /// Anything else: not heard and not fenced, or just coming.
    Doubtful,
}

/// Another node of the cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    pub name: String,
    pub presence: Presence,
}

/// The cluster as this node sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    pub quorate: bool,
    pub own: Copy,
    /// All other nodes.
    pub members: Vec<Member>,
}

impl View {
    fn online(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.presence == Presence::Online)
    }

    fn names(&self) -> Vec<String> {
        self.online().map(|member| member.name.clone()).collect()
    }
}

/// Why a change is not for a program to make.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refused {
    /// The node has not met its peer since it started (F5).
    NotMet,
    /// The record does not count this copy as in sync.
    NotInSync,
}

/// Why there is no answer yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Pending {
    NoQuorum,
    /// The other node is not heard, and not known to be off.
    NotExcluded,
    /// Nobody has served yet, and the other node is not there to agree.
    FirstNeedsPeer,
    /// Too few members are there to keep the record.
    TooFew,
    /// There is another bid already.
    Rival,
    /// The change was not taken: something else came between.
    NotTaken,
    /// A member's copy does not show it yet, or did not answer.
    NotSpread(String),
    /// The cluster's copies do not agree with what this node knows, or with each other.
    Discord,
}

/// What must be so before a change counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Need {
    /// It gives nobody a right to answer alone, or nobody else may ask.
    Spread,
    /// The other node must show it, or be gone.
    Exclude,
    /// The other node must be there and show it.
    Agree,
    /// A person says that the other node is off.
    Vouched,
}

/// What `me` needs to put `proposed` in the place of `expected`. `met`: since this process started, it and its peer have
/// found that both copies are good. `own`: what this node's disk said when the process started, or what this process has
/// committed since. `vouched`: a person says that the other node is off.
pub fn judge(
    me: NodeId,
    met: bool,
    vouched: bool,
    own: Record,
    expected: Option<Record>,
    proposed: &Record,
) -> Result<Need, Refused> {
    if matches!(proposed.in_sync, NodeSet::BOTH | NodeSet::NONE) {
        return Ok(Need::Spread);
    }
    if proposed.in_sync != NodeSet::only(me) {
        return Err(Refused::NotInSync);
    }
    if vouched {
        return Ok(Need::Vouched);
    }
    let Some(known) = expected else { return Ok(Need::Agree) };
    if known.in_sync == NodeSet::only(me) && known == own {
        return Ok(Need::Spread);
    }
    if !known.in_sync.contains(me) {
        return Err(Refused::NotInSync);
    }
    if met { Ok(Need::Exclude) } else { Err(Refused::NotMet) }
}

/// A change of the CIB: applied by each member to its own copy if that is as the guard says and has quorum.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Write {
    pub guard: Option<(String, String)>,
    pub record: Option<Record>,
    pub bid: Option<Bid>,
    /// Raise `admin_epoch` with it.
    pub raise: bool,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Next {
    /// Look at the cluster and the own copy; the answer goes to [`Attempt::on_view`].
    Look,
    /// Try this, then look, whatever came of it.
    Write(Write),
    /// Ask these members for their copies; the answer goes to [`Attempt::on_copies`].
    Copies(Vec<String>),
    Committed,
    /// Every copy holds this record, not the expected one.
    Conflict(Option<Record>),
    Pending(Pending),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// Nothing was written in this attempt.
    Begin,
    Bidding,
    /// The own copy shows the bid.
    Excluding {
        words: Option<(String, String)>,
    },
    Settling,
    /// The own copy shows the record.
    Confirming,
    /// The own copy shows another one.
    Contradicted {
        found: Option<Record>,
    },
}

/// One attempt at a change. It ends in an answer or in [`Pending`]; then another one may begin, any number of times.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attempt {
    pub me: NodeId,
    /// The other data node's name.
    pub peer: String,
    pub need: Need,
    pub expected: Option<Record>,
    pub proposed: Record,
    /// Another bid has stood for so long that it may be replaced.
    pub overrule: bool,
    phase: Phase,
}

impl Attempt {
    pub fn new(
        me: NodeId,
        peer: String,
        need: Need,
        expected: Option<Record>,
        proposed: Record,
        overrule: bool,
    ) -> Self {
        Self { me, peer, need, expected, proposed, overrule, phase: Phase::Begin }
    }

    fn bid(&self) -> Bid {
        Bid { record: self.proposed, by: self.me }
    }

    pub fn on_view(&mut self, view: &View) -> Next {
        if !view.quorate {
            return Next::Pending(Pending::NoQuorum);
        }
        let first = self.phase == Phase::Begin;
        if view.own.record == Some(self.proposed) {
            // Settled: now, or by an earlier attempt whose answer was lost.
            return self.spread(view, Phase::Confirming);
        }
        if view.own.record != self.expected {
            self.phase = Phase::Contradicted { found: view.own.record };
            return Next::Copies(view.names());
        }
        if view.own.bid == Some(self.bid()) && self.phase != Phase::Settling {
            return self.spread(view, Phase::Excluding { words: view.own.words.clone() });
        }
        if !first {
            return Next::Pending(Pending::NotTaken);
        }
        if view.own.bid.is_some() && self.presence(view) == Presence::Online && !self.overrule {
            return Next::Pending(Pending::Rival);
        }
        self.phase = Phase::Bidding;
        let guard = view.own.words.clone();
        Next::Write(Write { guard, record: self.expected, bid: Some(self.bid()), raise: false })
    }

    fn presence(&self, view: &View) -> Presence {
        let peer = view.members.iter().find(|member| member.name == self.peer);
        peer.map_or(Presence::Doubtful, |peer| peer.presence)
    }

    /// Asks the members for what this node sees itself, if the other node's state allows that.
    fn spread(&mut self, view: &View, phase: Phase) -> Next {
        match (self.need, self.presence(view)) {
            (Need::Exclude, Presence::Doubtful) => return Next::Pending(Pending::NotExcluded),
            (Need::Agree, Presence::Gone | Presence::Doubtful) => {
                return Next::Pending(Pending::FirstNeedsPeer);
            }
            _ => {}
        }
        // Half of the nodes, so that no majority is without one that knows.
        if (view.online().count() + 1) * 2 < view.members.len() + 1 {
            return Next::Pending(Pending::TooFew);
        }
        self.phase = phase;
        Next::Copies(view.names())
    }

    /// The copies that were asked for, in that order; `None` where there was no answer.
    pub fn on_copies(&mut self, copies: &[(String, Option<Copy>)]) -> Next {
        let lacks = |good: &dyn Fn(&Copy) -> bool| {
            copies.iter().find(|(_, copy)| !copy.as_ref().is_some_and(good)).map(|(name, _)| name.clone())
        };
        match self.phase.clone() {
            Phase::Excluding { words } => {
                let (expected, bid) = (self.expected, Some(self.bid()));
                if let Some(name) = lacks(&|copy| copy.record == expected && copy.bid == bid) {
                    return Next::Pending(Pending::NotSpread(name));
                }
                self.phase = Phase::Settling;
                Next::Write(Write { guard: words, record: Some(self.proposed), bid: None, raise: true })
            }
            Phase::Confirming => match lacks(&|copy| copy.record == Some(self.proposed)) {
                Some(name) => Next::Pending(Pending::NotSpread(name)),
                None => Next::Committed,
            },
            // A daemon that was just restarted may still read an old file.
            Phase::Contradicted { found } => match lacks(&|copy| copy.record == found) {
                Some(_) => Next::Pending(Pending::Discord),
                None => Next::Conflict(found),
            },
            Phase::Begin | Phase::Bidding | Phase::Settling => {
                unreachable!("no copies were asked for in {:?}", self.phase)
            }
        }
    }
}
