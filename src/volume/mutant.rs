//! Planted bugs, to prove that the simulator's checkers bite. Only the simulator's build knows any
//! (`--features mutants`); without it the set is empty at compile time and every question is `false`.

/// One rule left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
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
];

/// The planted bugs in force.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    set: u32,
}

impl Mutants {
    pub const NONE: Self = Self {
        #[cfg(feature = "mutants")]
        set: 0,
    };

    #[cfg(feature = "mutants")]
    pub fn only(mutant: Mutant) -> Self {
        Self { set: mutant as u32 }
    }

    /// Is the rule left out? Always `false` outside the simulator's build.
    #[inline]
    pub fn has(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.set & mutant as u32 != 0;
        #[cfg(not(feature = "mutants"))]
        {
            let _ = mutant;
            false
        }
    }
}
