//! What is explored for every change, what for every release, and every planted bug with the bounds that show it.

use crate::volume::mutant::{Mutant, Mutants};

use super::Bounds;

const NOTHING: Bounds = Bounds {
    writes: 0,
    reads: 0,
    crashes: 0,
    cuts: 0,
    promotions: 0,
    handovers: 0,
    silences: 0,
    sessions: 3,
    volatile: false,
    mutants: Mutants::NONE,
};

/// Within two minutes on one core.
pub const QUICK: &[Bounds] = &[
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, ..NOTHING },
    Bounds { writes: 1, reads: 1, crashes: 1, promotions: 1, volatile: true, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, handovers: 1, sessions: 2, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, silences: 1, ..NOTHING },
];

/// As far as a machine with some memory goes.
pub const FULL: &[Bounds] = &[
    Bounds { writes: 2, reads: 2, cuts: 1, promotions: 1, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 2, promotions: 2, ..NOTHING },
    Bounds { writes: 1, reads: 2, crashes: 1, cuts: 1, promotions: 2, volatile: true, ..NOTHING },
    Bounds { writes: 1, reads: 1, crashes: 2, promotions: 2, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, handovers: 1, ..NOTHING },
];

/// A planted bug, the rule it leaves out and the smallest bounds known to show it.
pub struct Planted {
    /// Name in the list of mutations of the protocol, and the rule.
    pub rule: &'static str,
    pub name: &'static str,
    pub mutant: Mutant,
    pub bounds: Bounds,
}

const fn planted(rule: &'static str, name: &'static str, mutant: Mutant, bounds: Bounds) -> Planted {
    Planted { rule, name, mutant, bounds }
}

/// A stale read needs one of each.
const STALE: Bounds = Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, ..NOTHING };
/// A crash and a promotion, and devices with caches.
const CACHES: Bounds = Bounds { writes: 1, reads: 1, crashes: 1, promotions: 1, volatile: true, ..NOTHING };

/// Each is found. M2, M8, M15 and M17 of the list have no line: see [`REMARKS`].
pub const PLANTED: &[Planted] = &[
    planted("M1 R4", "unconfirmed-read", Mutant::UnconfirmedRead, STALE),
    planted(
        "M3 R2",
        "promote-with-link-open",
        Mutant::PromoteWithLinkOpen,
        Bounds { promotions: 2, ..CACHES },
    ),
    planted("M4 R3", "alone-before-arbiter", Mutant::AloneBeforeArbiter, STALE),
    planted("M5 R4", "dirty-read", Mutant::DirtyRead, Bounds { reads: 2, ..STALE }),
    planted("M6 R3", "add-after-answer", Mutant::AddAfterAnswer, Bounds { cuts: 2, ..STALE }),
    planted(
        "M7 R9",
        "ignore-target-bitmap",
        Mutant::IgnoreTargetBitmap,
        Bounds { crashes: 1, promotions: 2, ..STALE },
    ),
    planted("M8 R4", "early-confirm", Mutant::EarlyConfirm, Bounds { reads: 2, ..STALE }),
    planted("M9 R2", "promote-undrained", Mutant::PromoteUndrained, STALE),
    planted(
        "M10 R7",
        "serve-before-claim",
        Mutant::ServeBeforeClaim,
        Bounds { crashes: 1, cuts: 0, ..STALE },
    ),
    planted("M11 R1", "blind-swap", Mutant::BlindSwap, STALE),
    planted(
        "M12 R8",
        "trust-lost-secondary",
        Mutant::TrustLostSecondary,
        Bounds { cuts: 1, promotions: 2, ..CACHES },
    ),
    planted("M13 R7", "trust-lost-primary", Mutant::TrustLostPrimary, CACHES),
    planted(
        "M14 R9",
        "forget-unstable",
        Mutant::ForgetUnstable,
        Bounds { crashes: 2, promotions: 2, ..CACHES },
    ),
    planted(
        "M16 R10",
        "skip-flush-before-alone",
        Mutant::SkipFlushBeforeAlone,
        Bounds { crashes: 2, ..CACHES },
    ),
];

/// Mutations of the protocol that are none here, and why.
pub const REMARKS: &[(&str, &str)] = &[
    (
        "M2",
        "the check may come before the data is fetched: this is how reads work (the round trip runs beside the disk), and what is explored",
    ),
    (
        "M15",
        "nobody waits for grants: there are none to outlive, and what is explored waits for nothing after a start",
    ),
    ("M17", "clocks stand still in every exploration, on both nodes: no answer rests on one"),
];
