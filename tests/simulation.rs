//! The simulator as a test: a bounded number of seeds for each shard count, none of which may break an invariant. With
//! `--features mutants`: every planted bug is found.

#[cfg(feature = "mutants")]
use twinlun::sim::explore::Bounds;
use twinlun::sim::explore::{explore, suite};
use twinlun::sim::run::run_seeds;
use twinlun::sim::setup::Choice;
use twinlun::volume::mutant::Mutants;

const SHARD_COUNTS: [u8; 3] = [1, 2, 5];

#[test]
fn no_seed_breaks_an_invariant() {
    for shards in SHARD_COUNTS {
        let choice = Choice { seed: 0, shards, mutants: Mutants::NONE, trace: false };
        let (summary, failures) = run_seeds(0..300, choice, 2, 3);
        assert!(failures.is_empty(), "{shards} shards: {failures:#?}");
        assert_eq!(summary.seeds, 300);
        // The seeds must have done something worth checking.
        assert!(summary.tally.writes > 5_000 && summary.tally.reads > 5_000 && summary.tally.crashes > 50);
        assert!(summary.tally.resyncs > 50 && summary.tally.solo_answers > 1_000);
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 11, 42] {
        let choice = Choice { seed, shards: 2, mutants: Mutants::NONE, trace: false };
        let tallies = [(); 2].map(|()| run_seeds(seed..seed + 1, choice, 1, 1).0.tally);
        assert_eq!(format!("{:?}", tallies[0]), format!("{:?}", tallies[1]));
    }
}

/// A small corner of what `twinlun-sim explore` walks.
#[test]
fn no_state_of_the_protocol_breaks_an_invariant() {
    let outcome = explore(&suite::QUICK[0], 300_000, 2);
    assert!(outcome.violation.is_none(), "{:#?}", outcome.violation);
    assert!(outcome.exhausted && outcome.states > 10_000, "{outcome:?}");
}

#[cfg(feature = "mutants")]
#[test]
fn every_planted_bug_of_the_protocol_is_found() {
    for planted in suite::PLANTED {
        let bounds = Bounds { mutants: Mutants::only(planted.mutant), ..planted.bounds };
        let outcome = explore(&bounds, 3_000_000, 2);
        assert!(outcome.violation.is_some(), "{} {} is not found", planted.rule, planted.name);
    }
    for (planted, _) in suite::REMARKS {
        let bounds = Bounds { mutants: Mutants::only(planted.mutant), ..planted.bounds };
        let outcome = explore(&bounds, 3_000_000, 2);
        assert!(
            outcome.violation.is_none() && outcome.exhausted,
            "{} {}: {outcome:?}",
            planted.rule,
            planted.name
        );
    }
}

#[cfg(feature = "mutants")]
#[test]
fn every_planted_bug_is_found() {
    use twinlun::volume::mutant::MUTANTS;
    for (name, mutant) in MUTANTS {
        let choice = Choice { seed: 0, shards: 1, mutants: Mutants::only(*mutant), trace: false };
        let (_, failures) = run_seeds(0..2000, choice, 2, 1);
        assert!(!failures.is_empty(), "{name} is not found in 2000 seeds");
    }
}
