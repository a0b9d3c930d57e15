//! What every back end must do, whatever it is made of.

use std::sync::Mutex;

use twinlun::arbiter::{Arbiter, Swap};
use twinlun::arbitration::{Epoch, NodeSet, Record};
use twinlun::units::NodeId;

/// Opens the same record once more, as another node would.
pub type Open = Box<dyn Fn() -> Box<dyn Arbiter> + Sync>;

pub fn record(epoch: u64, nonce: u64) -> Record {
    let primary = NodeId((nonce % 2) as u8);
    Record { epoch: Epoch(epoch), primary: Some(primary), in_sync: NodeSet::BOTH, nonce }
}

/// Offers a change until its fate is known. True if it was committed.
pub fn settle(
    arbiter: &mut dyn Arbiter,
    expected: Option<Record>,
    proposed: Record,
) -> Result<(), Option<Record>> {
    for _ in 0..600 {
        match arbiter.compare_and_swap(expected, proposed) {
            Swap::Committed => return Ok(()),
            Swap::Conflict(current) => return Err(current),
            Swap::Unknown(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
    panic!("{} never decides about {proposed:?}", arbiter.kind());
}

/// The record, asked for until there is an answer: a busy machine may need more than one try.
pub fn read_surely(arbiter: &mut dyn Arbiter) -> Option<Record> {
    let mut last = None;
    for _ in 0..600 {
        match arbiter.read() {
            Ok(record) => return record,
            Err(error) => last = Some(error),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} does not answer: {last:?}", arbiter.kind());
}

/// A back end that decides by itself. `fresh` gives a record that nobody has written yet.
pub fn decides(fresh: &dyn Fn() -> Open) {
    decides_in(fresh, 8, 40);
}

/// The same, of one that takes a second for a change.
pub fn decides_slowly(fresh: &dyn Fn() -> Open) {
    decides_in(fresh, 4, 8);
}

fn decides_in(fresh: &dyn Fn() -> Open, rivals: u64, epochs: u64) {
    a_change_needs_the_record_it_was_made_for(fresh());
    an_offer_is_recognised_when_it_comes_again(fresh());
    of_many_rivals_exactly_one_wins(fresh(), rivals);
    a_race_is_a_chain(fresh(), 4, epochs);
}

/// A back end that leaves every decision to a person: nothing is ever definite, so nobody ever gets a right.
pub fn never_decides(fresh: &dyn Fn() -> Open) {
    let open = fresh();
    let (mut one, mut two) = (open(), open());
    for _ in 0..3 {
        assert!(one.read().is_err());
        assert!(matches!(one.compare_and_swap(None, record(1, 1)), Swap::Unknown(_)));
        assert!(matches!(two.compare_and_swap(None, record(1, 2)), Swap::Unknown(_)));
        assert!(matches!(two.compare_and_swap(Some(record(1, 1)), record(2, 2)), Swap::Unknown(_)));
    }
}

fn a_change_needs_the_record_it_was_made_for(open: Open) {
    let (mut one, mut two) = (open(), open());
    assert_eq!(read_surely(one.as_mut()), None);
    assert_eq!(settle(one.as_mut(), Some(record(1, 5)), record(2, 6)), Err(None));
    assert_eq!(settle(one.as_mut(), None, record(1, 7)), Ok(()));
    assert_eq!(read_surely(two.as_mut()), Some(record(1, 7)));
    assert_eq!(settle(two.as_mut(), None, record(1, 8)), Err(Some(record(1, 7))));
    let similar = Record { nonce: 9, ..record(1, 7) };
    assert_eq!(settle(two.as_mut(), Some(similar), record(2, 9)), Err(Some(record(1, 7))));
    assert_eq!(settle(two.as_mut(), Some(record(1, 7)), record(2, 9)), Ok(()));
    assert_eq!(read_surely(one.as_mut()), Some(record(2, 9)));
    // Names of nobody and of one are kept as they are.
    let bare = Record { epoch: Epoch(1 << 40), primary: None, in_sync: NodeSet::NONE, nonce: u64::MAX };
    assert_eq!(settle(one.as_mut(), Some(record(2, 9)), bare), Ok(()));
    assert_eq!(read_surely(two.as_mut()), Some(bare));
}

fn an_offer_is_recognised_when_it_comes_again(open: Open) {
    let (mut one, mut two) = (open(), open());
    // The answer was lost and nobody came between: the same offer is recognised, however often it is made.
    for _ in 0..3 {
        assert_eq!(settle(one.as_mut(), None, record(1, 7)), Ok(()));
    }
    for _ in 0..2 {
        assert_eq!(settle(two.as_mut(), Some(record(1, 7)), record(2, 9)), Ok(()));
    }
    // Another change came between: the right is gone, whether it was ever won or not.
    assert_eq!(settle(one.as_mut(), None, record(1, 7)), Err(Some(record(2, 9))));
    assert_eq!(read_surely(two.as_mut()), Some(record(2, 9)));
}

fn of_many_rivals_exactly_one_wins(open: Open, rivals: u64) {
    let rival = |nonce: u64| {
        let mut arbiter = open();
        settle(arbiter.as_mut(), None, record(1, nonce))
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let rivals: Vec<_> = (1..=rivals).map(|nonce| scope.spawn(move || rival(nonce))).collect();
        rivals.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let kept = read_surely(open().as_mut()).expect("it is written");
    assert!(outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).all(|seen| *seen == Some(kept)));
}

/// Many change the record as often as they can: every epoch has one winner, and each change builds on the one before.
pub fn a_race_is_a_chain(open: Open, rivals: u64, epochs: u64) {
    let wins: Mutex<Vec<(Option<Record>, Record)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for rival in 1..=rivals {
            let (open, wins) = (&open, &wins);
            scope.spawn(move || {
                let mut arbiter = open();
                let mut known: Option<Record> = None;
                while known.is_none_or(|record| record.epoch.0 < epochs) {
                    let epoch = known.map_or(1, |record| record.epoch.0 + 1);
                    let proposed = record(epoch, epoch * 100 + rival);
                    match settle(arbiter.as_mut(), known, proposed) {
                        Ok(()) => {
                            wins.lock().expect("no panic").push((known, proposed));
                            known = Some(proposed);
                        }
                        Err(current) => known = current,
                    }
                }
            });
        }
    });
    let mut wins = wins.into_inner().expect("no panic");
    wins.sort_by_key(|(_, won)| won.epoch);
    assert_eq!(wins.len() as u64, epochs, "one winner for each epoch");
    let mut before = None;
    for (expected, won) in wins {
        assert_eq!(expected, before, "every change builds on the one before");
        before = Some(won);
    }
    assert_eq!(read_surely(open().as_mut()), before);
}
