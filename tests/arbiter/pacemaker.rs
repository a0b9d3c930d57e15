//! The Pacemaker back end against a living cluster: `scripts/drills-pacemaker` runs these inside its machines, with the
//! name of this node and of the other one in `TWINLUN_CLUSTER`.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use twinlun::arbiter::pacemaker::PacemakerConfig;
use twinlun::arbiter::value::PairId;
use twinlun::arbiter::{Arbiter, ArbiterError, PacemakerArbiter, PacemakerError, Swap};
use twinlun::arbitration::{Epoch, NodeSet, Record};
use twinlun::units::NodeId;

use crate::conformance;

/// Changes of the race between two nodes.
const EPOCHS: u64 = 30;

fn config(volume: String) -> PacemakerConfig {
    let names = std::env::var("TWINLUN_CLUSTER").expect("this node and the other, as in TWINLUN_CLUSTER=a,b");
    let (name, peer) = names.split_once(',').expect("two names");
    PacemakerConfig {
        me: NodeId(u8::from(name > peer)),
        name: name.to_owned(),
        peer: peer.to_owned(),
        volume,
        pair: PairId([0x17; 16]),
        own: Record::default(),
    }
}

fn open(volume: &str) -> Box<dyn Arbiter> {
    Box::new(PacemakerArbiter::new(config(volume.to_owned())))
}

#[test]
#[ignore = "needs a Pacemaker cluster: scripts/drills-pacemaker"]
fn pacemaker_conforms() {
    let number = AtomicU32::new(0);
    let fresh = || {
        let volume = format!("test-{}", number.fetch_add(1, Ordering::Relaxed));
        Box::new(move || open(&volume)) as conformance::Open
    };
    conformance::decides_slowly(&fresh);
    another_pairs_record_is_refused();
    a_node_that_has_met_nobody_goes_nowhere_alone();
}

fn another_pairs_record_is_refused() {
    let record = conformance::record(1, 1);
    assert_eq!(conformance::settle(open("foreign").as_mut(), None, record), Ok(()));
    let mut stranger =
        PacemakerArbiter::new(PacemakerConfig { pair: PairId([0x18; 16]), ..config("foreign".into()) });
    let refused = |error| matches!(error, ArbiterError::Pacemaker(PacemakerError::Value { .. }));
    assert!(stranger.read().is_err_and(refused));
    let swap = stranger.compare_and_swap(Some(record), conformance::record(2, 2));
    assert!(matches!(swap, Swap::Unknown(ArbiterError::Pacemaker(PacemakerError::Value { .. }))));
}

/// F5, and a person's word over it.
fn a_node_that_has_met_nobody_goes_nowhere_alone() {
    let me = config(String::new()).me;
    let shared = Record { epoch: Epoch(1), primary: Some(me), in_sync: NodeSet::BOTH, nonce: 5 };
    let alone = Record { epoch: Epoch(2), in_sync: NodeSet::only(me), nonce: 6, ..shared };
    let mut arbiter = open("alone");
    assert_eq!(conformance::settle(arbiter.as_mut(), None, shared), Ok(()));
    let swap = arbiter.compare_and_swap(Some(shared), alone);
    assert!(matches!(swap, Swap::Unknown(ArbiterError::Pacemaker(PacemakerError::Refused { .. }))));
    assert_eq!(arbiter.read(), Ok(Some(shared)));
    // The other node is a member, so its own copy is the witness.
    arbiter.on_met();
    assert_eq!(conformance::settle(arbiter.as_mut(), Some(shared), alone), Ok(()));
    assert_eq!(open("alone").read(), Ok(Some(alone)));
}

/// One half of a race: run on both nodes at once, with a file for the epochs that this node won. Each line is an epoch,
/// the nonce it was made for (`none` for the first), and its own.
#[test]
#[ignore = "needs a Pacemaker cluster: scripts/drills-pacemaker"]
fn pacemaker_races() {
    let path = std::env::var("TWINLUN_RACE").expect("a file for the result");
    let mut won = std::fs::File::create(path).expect("a file");
    let me = u64::from(config(String::new()).me.0);
    let mut arbiter = open("race");
    let mut known: Option<Record> = conformance::read_surely(arbiter.as_mut());
    while known.is_none_or(|record| record.epoch.0 < EPOCHS) {
        let epoch = known.map_or(1, |record| record.epoch.0 + 1);
        let proposed = conformance::record(epoch, epoch * 100 + me);
        match conformance::settle(arbiter.as_mut(), known, proposed) {
            Ok(()) => {
                let before = known.map_or_else(|| "none".to_owned(), |record| record.nonce.to_string());
                writeln!(won, "{epoch} {before} {}", proposed.nonce).expect("written");
                known = Some(proposed);
            }
            Err(current) => known = current,
        }
    }
}
