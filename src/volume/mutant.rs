//! Planted bugs, to prove that the simulator's checkers bite. Only the simulator's build knows any
//! (`--features mutants`); without it the set is empty at compile time and every question is `false`.

/// One rule left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Mutant {
    /// Going on alone keeps the old generation identifier (D3).
    SkipGenerationBump = 1 << 0,
    /// A write is answered before the peer has it (D1).
    AckBeforePeer = 1 << 1,
    /// Data is written before its extent is hot on disk (D4).
    SkipActivityLogWait = 1 << 2,
    /// A resync bit is cleared when the target has written, not when it has flushed (D4).
    ClearBitBeforeFlush = 1 << 3,
    /// Overlapping writes run side by side on the primary, and the secondary applies them in any order (D5).
    UnorderedOverlap = 1 << 4,
    /// A flush is answered when the local device is flushed (D2).
    FlushLocalOnly = 1 << 5,
    /// Reads are answered without the peer's confirmation (S1).
    UnconfirmedRead = 1 << 6,
    /// Writes are answered alone before the arbiter has agreed (D3).
    AloneBeforeArbiter = 1 << 7,
    /// Going on alone without flushing the own cache first (D3).
    SkipFlushBeforeAlone = 1 << 8,
    /// What the returning node may have written alone is left out of the resync (D4).
    IgnoreTargetBitmap = 1 << 9,
    /// A lock keeps nobody out.
    LooseLock = 1 << 10,
    /// Zeroes are not sent to the peer (D1).
    ZeroHereOnly = 1 << 11,
    /// A change of the unit state is answered before the peer holds it (U1, U3).
    AnswerUnheld = 1 << 14,
    /// A change of the unit state is answered before every shard has adopted it (U2).
    AnswerUnadopted = 1 << 15,
    /// A follower goes on with the unit state that it has (U1).
    FollowWithoutUnit = 1 << 32,
    /// A read does not wait for a write that is not on both copies yet (R4).
    DirtyRead = 1 << 16,
    /// A node that asks to be primary goes on confirming and acknowledging until it is answered (R2).
    PromoteWithLinkOpen = 1 << 17,
    /// The peer's acknowledgement is needed only when the arbiter has answered that it is counted in (R3).
    AddAfterAnswer = 1 << 18,
    /// A node promotes while its disk still applies what the old primary sent (R2).
    PromoteUndrained = 1 << 19,
    /// A restarted primary serves on without claiming the record anew (R7).
    ServeBeforeClaim = 1 << 20,
    /// A lost change of the record is made all the same (R1).
    BlindSwap = 1 << 21,
    /// A secondary that lost its cache counts itself in sync (R8).
    TrustLostSecondary = 1 << 22,
    /// A primary that lost its cache claims the record (R7).
    TrustLostPrimary = 1 << 23,
    /// A write's extent need not stay hot until both copies have flushed it (R9).
    ForgetUnstable = 1 << 24,
    /// A confirmation that was asked before a read arrived counts for it (R4).
    EarlyConfirm = 1 << 25,
    /// A primary that holds goes on beside a peer that does not remember what it asked the arbiter for (R1).
    TrustForgetful = 1 << 26,
    /// A read is answered by a lease whatever the clock says (R4).
    StaleLease = 1 << 12,
    /// The lease is looked at when the read begins, and not beside the answer. (No bug: see the suite's remarks.)
    EarlyLease = 1 << 27,
    /// A node bids for the lead while its promise binds (R5).
    PromoteDuringGrant = 1 << 28,
    /// A node that starts forgets what it may have promised (R6).
    ForgetGrants = 1 << 29,
    /// A node that the record names bids without outwaiting its promise (R6). And its peer goes on beside it although it
    /// has forgotten what it asked for: that rule (R1) stands before the same hole.
    NamedSkipsWait = 1 << 30,
    /// The lease is used for as long as it was granted (R5): no room is left for clocks that drift.
    WholeGrant = 1 << 31,
    /// A clock that leases rest on stands still while its node is stopped (R5). The world's doing, no node's.
    FrozenClock = 1 << 13,
}

/// Names as the simulator's command line knows them.
pub const MUTANTS: &[(&str, Mutant)] = &[
    ("skip-generation-bump", Mutant::SkipGenerationBump),
    ("ack-before-peer", Mutant::AckBeforePeer),
    ("skip-activity-log-wait", Mutant::SkipActivityLogWait),
    ("clear-bit-before-flush", Mutant::ClearBitBeforeFlush),
    ("unordered-overlap", Mutant::UnorderedOverlap),
    ("flush-local-only", Mutant::FlushLocalOnly),
    ("unconfirmed-read", Mutant::UnconfirmedRead),
    ("alone-before-arbiter", Mutant::AloneBeforeArbiter),
    ("skip-flush-before-alone", Mutant::SkipFlushBeforeAlone),
    ("ignore-target-bitmap", Mutant::IgnoreTargetBitmap),
    ("loose-lock", Mutant::LooseLock),
    ("zero-here-only", Mutant::ZeroHereOnly),
    ("answer-unheld", Mutant::AnswerUnheld),
    ("answer-unadopted", Mutant::AnswerUnadopted),
    ("follow-without-unit", Mutant::FollowWithoutUnit),
];

/// Those that only the explorer looks for: it takes a short story, but one that chance rarely tells.
pub const EXPLORED: &[(&str, Mutant)] = &[
    ("dirty-read", Mutant::DirtyRead),
    ("promote-with-link-open", Mutant::PromoteWithLinkOpen),
    ("add-after-answer", Mutant::AddAfterAnswer),
    ("promote-undrained", Mutant::PromoteUndrained),
    ("serve-before-claim", Mutant::ServeBeforeClaim),
    ("blind-swap", Mutant::BlindSwap),
    ("trust-lost-secondary", Mutant::TrustLostSecondary),
    ("trust-lost-primary", Mutant::TrustLostPrimary),
    ("forget-unstable", Mutant::ForgetUnstable),
    ("early-confirm", Mutant::EarlyConfirm),
    ("stale-lease", Mutant::StaleLease),
    ("early-lease", Mutant::EarlyLease),
    ("promote-during-grant", Mutant::PromoteDuringGrant),
    ("forget-grants", Mutant::ForgetGrants),
    ("named-skips-wait", Mutant::NamedSkipsWait),
    ("whole-grant", Mutant::WholeGrant),
    ("frozen-clock", Mutant::FrozenClock),
];

/// The planted bugs in force.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    set: u64,
}

impl Mutants {
    pub const NONE: Self = Self {
        #[cfg(feature = "mutants")]
        set: 0,
    };

    #[cfg(feature = "mutants")]
    pub fn only(mutant: Mutant) -> Self {
        Self { set: mutant as u64 }
    }

    /// Is the rule left out? Always `false` outside the simulator's build.
    #[inline]
    pub fn has(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.set & mutant as u64 != 0;
        #[cfg(not(feature = "mutants"))]
        {
            let _ = mutant;
            false
        }
    }
}
