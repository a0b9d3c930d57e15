//! Random sequences of service actions, by eight nexuses, against the simplest model of the tables of SPC-4 that one can
//! think of: a map of keys, and a reservation.

use std::collections::BTreeMap;

use super::reservations::{
    CLEAR, CONFLICT, Cluster, PREEMPT, PREEMPT_AND_ABORT, REGISTER, REGISTER_AND_IGNORE, RELEASE, RESERVE,
    TYPES,
};
use super::*;
use proptest::prelude::*;

#[derive(Default, Clone, PartialEq, Debug)]
struct Model {
    keys: BTreeMap<usize, u64>,
    /// Type and, unless all hold it, the holder.
    reservation: Option<(u8, Option<usize>)>,
    generation: u32,
}

#[derive(PartialEq, Debug)]
enum Said {
    Good,
    Conflict,
    Check,
}

impl Model {
    fn holds(&self, who: usize) -> bool {
        self.reservation.is_some_and(|(_, holder)| holder.is_none_or(|holder| holder == who))
            && self.keys.contains_key(&who)
    }

    fn drop_orphan(&mut self) {
        let kept = match self.reservation {
            Some((_, Some(holder))) => self.keys.contains_key(&holder),
            Some((_, None)) => !self.keys.is_empty(),
            None => false,
        };
        if !kept {
            self.reservation = None;
        }
    }

    fn run(&mut self, who: usize, action: u8, kind: u8, key: u64, new: u64) -> Said {
        let own = self.keys.get(&who).copied();
        if matches!(action, REGISTER | REGISTER_AND_IGNORE) {
            if action == REGISTER && own.unwrap_or(0) != key {
                return Said::Conflict;
            }
            if new == 0 && own.is_none() {
                return Said::Good;
            }
            self.generation += 1;
            match new {
                0 => drop(self.keys.remove(&who)),
                _ => drop(self.keys.insert(who, new)),
            }
            self.drop_orphan();
            return Said::Good;
        }
        if own != Some(key) {
            return Said::Conflict;
        }
        let wanted = Some((kind, (kind < 7).then_some(who)));
        match action {
            RESERVE => match self.reservation {
                None => self.reservation = wanted,
                Some((held, _)) if held == kind && self.holds(who) => {}
                Some(_) => return Said::Conflict,
            },
            RELEASE => match self.reservation {
                Some((held, _)) if self.holds(who) && held != kind => return Said::Check,
                Some(_) if self.holds(who) => self.reservation = None,
                _ => {}
            },
            CLEAR => {
                (self.keys, self.reservation) = (BTreeMap::new(), None);
                self.generation += 1;
            }
            _ => return self.preempt(who, wanted, new),
        }
        Said::Good
    }

    fn preempt(&mut self, who: usize, wanted: Option<(u8, Option<usize>)>, key: u64) -> Said {
        let of_all = matches!(self.reservation, Some((_, None)));
        if key == 0 && !of_all {
            return Said::Check;
        }
        let holder_key = match self.reservation {
            Some((_, Some(holder))) => self.keys.get(&holder).copied(),
            Some((_, None)) => Some(0),
            None => None,
        };
        if holder_key == Some(key) {
            self.keys.retain(|other, of| *other == who || key != 0 && *of != key);
            self.reservation = wanted;
        } else if self.keys.values().any(|of| *of == key) {
            self.keys.retain(|_, of| *of != key);
            self.drop_orphan();
        } else {
            return Said::Conflict;
        }
        self.generation += 1;
        Said::Good
    }

    fn stops(&self, who: usize, write: bool) -> bool {
        let Some((kind, _)) = self.reservation else { return false };
        let free = self.holds(who) || kind >= 5 && self.keys.contains_key(&who);
        !free && (write || matches!(kind, 3 | 6 | 8))
    }
}

type Step = (usize, u8, u8, u64, u64);

fn any_step() -> impl Strategy<Value = Step> {
    let actions = prop::sample::select(
        &[
            REGISTER,
            REGISTER_AND_IGNORE,
            REGISTER_AND_IGNORE,
            RESERVE,
            RESERVE,
            RELEASE,
            CLEAR,
            PREEMPT,
            PREEMPT_AND_ABORT,
        ][..],
    );
    (0..8usize, actions, prop::sample::select(&TYPES[..]), 0..4u64, 0..4u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_unit_does_what_the_tables_say(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut c = Cluster::new();
        let mut model = Model::default();
        for (who, action, kind, key, new) in steps {
            // Most who are registered show the right key.
            let key = if key > 0 { model.keys.get(&who).copied().unwrap_or(key) } else { key };
            let expected = model.run(who, action, kind, key, new);
            while c.attention(who).is_some() {}
            let said = match c.out(who, action, kind, key, new) {
                Outcome::Done => Said::Good,
                CONFLICT => Said::Conflict,
                Outcome::Check(_) => Said::Check,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(said, expected);
            let mut keys = c.keys();
            keys.sort_unstable();
            let mut wanted: Vec<u64> = model.keys.values().copied().collect();
            wanted.sort_unstable();
            prop_assert_eq!(keys, wanted);
            let held = model.reservation.map(|(kind, holder)| (holder.map_or(0, |holder| model.keys[&holder]), kind));
            prop_assert_eq!(c.reservation(), held);
            prop_assert_eq!(c.generation(), model.generation);
            for number in 0..8 {
                while c.attention(number).is_some() {}
                for (opcode, write) in [(0x28, false), (0x2A, true)] {
                    let outcome = c.run(number, &[opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
                    prop_assert_eq!(outcome == CONFLICT, model.stops(number, write));
                }
            }
        }
    }
}
