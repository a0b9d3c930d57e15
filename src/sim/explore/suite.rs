//! What is explored for every change, what for every release, and every planted bug with the bounds that show it.

use crate::volume::mutant::{Mutant, Mutants};

use super::Bounds;
use crate::arbitration::lease::DRIFT_PER_MILLE;

const NOTHING: Bounds = Bounds {
    writes: 0,
    reads: 0,
    crashes: 0,
    cuts: 0,
    promotions: 0,
    handovers: 0,
    silences: 0,
    sessions: 3,
    ticks: 0,
    freezes: 0,
    rates: [1000; 2],
    leases: false,
    takeovers: false,
    forwards: false,
    volatile: false,
    mutants: Mutants::NONE,
};

/// Within two minutes on one core.
pub const QUICK: &[Bounds] = &[
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, ..NOTHING },
    Bounds { writes: 1, reads: 1, crashes: 1, promotions: 1, volatile: true, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, handovers: 1, sessions: 2, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, silences: 1, ..NOTHING },
    Bounds { cuts: 1, sessions: 2, ..LEASED },
    Bounds { rates: [FASTEST, 1000], ticks: 2, sessions: 1, ..LEASED },
    FORWARDED,
];

/// The rate of a clock that goes as fast as one that leases rest on may, beside one that does not.
const FASTEST: u32 = 1000 + DRIFT_PER_MILLE as u32;
/// Leases, and the follower's clock is the faster: its promise ends as early as it may.
const LEASED: Bounds = Bounds {
    writes: 1,
    reads: 1,
    promotions: 1,
    ticks: 1,
    leases: true,
    takeovers: true,
    rates: [1000, FASTEST],
    ..NOTHING
};
/// Clients at both nodes.
const FORWARDED: Bounds =
    Bounds { writes: 1, reads: 1, cuts: 1, handovers: 1, sessions: 2, forwards: true, ..NOTHING };

/// As far as a machine with some memory goes.
pub const FULL: &[Bounds] = &[
    Bounds { writes: 2, reads: 2, cuts: 1, promotions: 1, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 2, promotions: 2, ..NOTHING },
    Bounds { writes: 1, reads: 2, crashes: 1, cuts: 1, promotions: 2, volatile: true, ..NOTHING },
    Bounds { writes: 1, reads: 1, crashes: 2, promotions: 2, ..NOTHING },
    Bounds { writes: 1, reads: 1, cuts: 1, promotions: 1, handovers: 1, ..NOTHING },
    Bounds { crashes: 1, sessions: 2, ..LEASED },
    Bounds { ticks: 2, cuts: 1, handovers: 1, sessions: 2, ..LEASED },
    Bounds { promotions: 1, ..FORWARDED },
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

/// Each is found. M2 of the list is no bug: see [`REMARKS`]. Lines without a number are rules of this protocol alone.
pub const PLANTED: &[Planted] = &[
    planted("M1 R4", "unconfirmed-read", Mutant::UnconfirmedRead, STALE),
    planted("M1 R4", "stale-lease", Mutant::StaleLease, Bounds { sessions: 1, ..LEASED }),
    planted(
        "M3 R5",
        "promote-during-grant",
        Mutant::PromoteDuringGrant,
        Bounds { ticks: 0, sessions: 1, ..LEASED },
    ),
    planted("R5", "whole-grant", Mutant::WholeGrant, Bounds { sessions: 1, ..LEASED }),
    planted("R2", "promote-with-link-open", Mutant::PromoteWithLinkOpen, Bounds { promotions: 2, ..CACHES }),
    planted("M4 R3", "alone-before-arbiter", Mutant::AloneBeforeArbiter, STALE),
    planted("M5 R4", "dirty-read", Mutant::DirtyRead, Bounds { reads: 2, ..STALE }),
    planted("M6 R3", "add-after-answer", Mutant::AddAfterAnswer, Bounds { cuts: 2, ..STALE }),
    planted(
        "M7 R9",
        "ignore-target-bitmap",
        Mutant::IgnoreTargetBitmap,
        Bounds { crashes: 1, promotions: 2, ..STALE },
    ),
    planted(
        "M8 R6",
        "forget-grants",
        Mutant::ForgetGrants,
        Bounds { ticks: 0, crashes: 1, sessions: 1, ..LEASED },
    ),
    planted("R4", "early-confirm", Mutant::EarlyConfirm, Bounds { reads: 2, ..STALE }),
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
        "M15 R6",
        "named-skips-wait",
        Mutant::NamedSkipsWait,
        Bounds { crashes: 1, promotions: 2, sessions: 2, ..LEASED },
    ),
    planted(
        "M16 R10",
        "skip-flush-before-alone",
        Mutant::SkipFlushBeforeAlone,
        Bounds { crashes: 2, ..CACHES },
    ),
    // Nothing is left out but the clock: why leases are for machines that nobody stops.
    planted("M17 R5", "frozen-clock", Mutant::FrozenClock, Bounds { freezes: 1, sessions: 1, ..LEASED }),
];

/// What looks like a bug and is none. Each is explored: everything within its bounds is seen, and nothing is violated.
pub const REMARKS: &[(Planted, &str)] = &[
    (
        planted("M2 R4", "early-lease", Mutant::EarlyLease, Bounds { sessions: 1, ..LEASED }),
        "the lease may be looked at before the data is fetched: the read happened then, for the range stays locked",
    ),
    (
        planted(
            "M17 R4",
            "frozen-clock",
            Mutant::FrozenClock,
            Bounds { leases: false, freezes: 1, sessions: 1, ..LEASED },
        ),
        "confirmed reads rest on no clock: one that stands still changes nothing",
    ),
];
