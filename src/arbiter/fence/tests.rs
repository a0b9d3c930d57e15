//! Two nodes, every order of crashes, restarts, cuts and fences: never two servers, never a stale one.
//!
//! The world is small enough to visit every state. What the coordinator does is told in a few steps; what this room
//! decides is decided by [`judge`] itself. Rules that are broken on purpose are caught.

use std::collections::{HashSet, VecDeque};

use super::rules::{Refused, Verdict, judge};
use crate::arbitration::{Epoch, NodeSet, Record};
use crate::units::NodeId;

const EPOCHS: u64 = 6;
const WRITES: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Serving {
    No,
    /// Primary; answers need the session and the peer's consent.
    Both,
    Alone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Node {
    up: bool,
    met: bool,
    serving: Serving,
    /// Durable.
    record: Record,
    /// Durable: how many of the writes it has.
    data: u8,
    /// Durable: the last time alone that its data descends from (the generation identifier).
    generation: u8,
}

/// A fence on its way. The device works even when the node that asked is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Shot {
    hit: bool,
    /// Whoever asked has died since and will not hear the answer.
    orphan: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct World {
    nodes: [Node; 2],
    link: bool,
    session: bool,
    shots: [Option<Shot>; 2],
    /// Writes that were answered.
    answered: u8,
    generations: u8,
}

/// The rules as they are, or broken.
#[derive(Clone, Copy)]
struct Rules {
    judge: fn(NodeId, bool, Option<Record>, &Record) -> Verdict,
    silence_is_success: bool,
}

const RULES: Rules = Rules { judge, silence_is_success: false };

fn record(epoch: u64, primary: usize, in_sync: NodeSet) -> Record {
    Record { epoch: Epoch(epoch), primary: Some(NodeId(primary as u8)), in_sync, nonce: 0 }
}

fn only(node: usize) -> NodeSet {
    NodeSet::only(NodeId(node as u8))
}

impl World {
    fn start() -> Self {
        let node = Node {
            up: true,
            met: false,
            serving: Serving::No,
            record: record(1, 0, NodeSet::BOTH),
            data: 0,
            generation: 0,
        };
        Self { nodes: [node; 2], link: true, session: false, shots: [None; 2], answered: 0, generations: 0 }
    }

    fn may_answer(&self, n: usize) -> bool {
        let [own, other] = [&self.nodes[n], &self.nodes[1 - n]];
        match own.serving {
            Serving::No => false,
            Serving::Alone => own.up,
            Serving::Both => own.up && self.session && own.record == other.record,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.may_answer(0) && self.may_answer(1) {
            return Err("two servers");
        }
        if (0..2).any(|n| self.may_answer(n) && self.nodes[n].data != self.answered) {
            return Err("a server that lacks an answered write");
        }
        Ok(())
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = *self;
        change(&mut next);
        next
    }

    fn crash(&mut self, n: usize) {
        self.session = false;
        let node = &mut self.nodes[n];
        (node.up, node.met, node.serving) = (false, false, Serving::No);
        if let Some(shot) = &mut self.shots[n] {
            shot.orphan = true;
        }
    }

    fn waits_for_a_shot(&self, n: usize) -> bool {
        self.shots[n].is_some_and(|shot| !shot.orphan)
    }

    /// The two exchange their states; the newer record is taken over, and what differs is copied.
    fn meet(&mut self) {
        self.session = true;
        // The data decides; a change to {both} that only one of them made does not outweigh what was written alone.
        let rank = |n: usize| (self.nodes[n].generation, self.nodes[n].record.epoch);
        let newer = self.nodes[usize::from(rank(1) > rank(0))];
        assert!(self.nodes.iter().all(|node| node.record.epoch <= newer.record.epoch), "{self:?}");
        for node in self.nodes.iter_mut().filter(|node| node.record != newer.record) {
            *node = Node { record: newer.record, data: newer.data, generation: newer.generation, ..*node };
            node.serving = Serving::No;
        }
        self.nodes.iter_mut().for_each(|node| node.met = true);
    }

    fn commit(&mut self, n: usize, in_sync: NodeSet) {
        let epoch = self.nodes[n].record.epoch.0 + 1;
        self.nodes[n].record = record(epoch, n, in_sync);
        if in_sync == NodeSet::BOTH {
            self.nodes[n].serving = Serving::Both;
            return;
        }
        self.generations += 1;
        self.nodes[n].serving = Serving::Alone;
        self.nodes[n].generation = self.generations;
    }

    /// Node `n` asks for `in_sync`.
    fn ask(&self, rules: Rules, n: usize, in_sync: NodeSet) -> Option<Self> {
        let node = &self.nodes[n];
        let proposed = record(node.record.epoch.0 + 1, n, in_sync);
        match (rules.judge)(NodeId(n as u8), node.met, Some(node.record), &proposed) {
            Verdict::Granted => Some(self.with(|world| world.commit(n, in_sync))),
            Verdict::Fence { .. } if self.shots[n].is_none() => {
                Some(self.with(|world| world.shots[n] = Some(Shot { hit: false, orphan: false })))
            }
            Verdict::Fence { .. } | Verdict::Refused(_) => None,
        }
    }

    fn steps(&self, rules: Rules) -> Vec<Self> {
        let mut next = vec![self.with(|world| {
            world.link = !world.link;
            world.session &= world.link;
        })];
        let both_up = self.nodes.iter().all(|node| node.up);
        if both_up && self.link && !self.session && !(0..2).any(|n| self.waits_for_a_shot(n)) {
            next.push(self.with(Self::meet));
        }
        for n in 0..2 {
            self.steps_of(rules, n, &mut next);
        }
        next
    }

    fn steps_of(&self, rules: Rules, n: usize, next: &mut Vec<Self>) {
        let (own, other) = (&self.nodes[n], &self.nodes[1 - n]);
        match self.shots[n] {
            Some(shot) if !shot.hit => {
                next.push(self.with(|world| {
                    world.crash(1 - n);
                    world.shots[n] = Some(Shot { hit: true, ..shot });
                }));
                next.push(self.with(|world| world.shots[n] = None));
            }
            Some(_) => next.push(self.with(|world| world.shots[n] = None)),
            None => {}
        }
        if !own.up {
            next.push(self.with(|world| world.nodes[n].up = true));
            return;
        }
        next.push(self.with(|world| world.crash(n)));
        let heard = self.shots[n].is_some_and(|shot| shot.hit || rules.silence_is_success);
        if self.waits_for_a_shot(n) && heard && own.record.epoch.0 < EPOCHS {
            next.push(self.with(|world| {
                world.shots[n] = None;
                world.commit(n, only(n));
            }));
        }
        if self.may_answer(n) && self.answered < WRITES {
            next.push(self.with(|world| {
                world.answered += 1;
                world.nodes[n].data += 1;
                if own.serving == Serving::Both {
                    world.nodes[1 - n].data += 1;
                }
            }));
        }
        if own.record.epoch.0 >= EPOCHS || self.waits_for_a_shot(n) {
            return;
        }
        if !self.session && own.serving != Serving::Alone {
            next.extend(self.ask(rules, n, only(n)));
        }
        let agreed = self.session && own.record == other.record;
        let in_sync = own.record.in_sync == NodeSet::BOTH;
        if agreed && in_sync && [own.serving, other.serving] == [Serving::No; 2] {
            next.extend(self.ask(rules, n, NodeSet::BOTH));
        }
        if agreed && own.serving == Serving::Alone {
            // The copy is complete: every answer needs the peer from before the change on.
            let synced = self.with(|world| {
                world.nodes[1 - n].data = own.data;
                world.nodes[1 - n].generation = own.generation;
            });
            next.extend(synced.ask(rules, n, NodeSet::BOTH));
        }
        let behind = other.record.epoch < own.record.epoch && own.serving == Serving::Both;
        if self.session && behind {
            next.push(self.with(|world| {
                world.nodes[1 - n].record = own.record;
                world.nodes[1 - n].serving = Serving::No;
            }));
        }
    }
}

/// Visits every state. The number of states, how many of them have a node that serves alone, or what went wrong.
fn explore(rules: Rules) -> Result<(usize, [usize; 2]), (&'static str, World)> {
    let mut seen = HashSet::from([World::start()]);
    let mut queue = VecDeque::from([World::start()]);
    let mut alone = [0; 2];
    while let Some(world) = queue.pop_front() {
        world.check().map_err(|why| (why, world))?;
        for (node, count) in world.nodes.iter().zip(&mut alone) {
            *count += usize::from(node.serving == Serving::Alone);
        }
        for next in world.steps(rules) {
            if seen.insert(next) {
                queue.push_back(next);
            }
        }
    }
    Ok((seen.len(), alone))
}

#[test]
fn no_order_of_events_makes_two_servers_or_a_stale_one() {
    let (states, alone) = explore(RULES).expect("the rules hold");
    println!("{states} states, {alone:?} of them with a node alone");
    assert!(states > 10_000 && alone.iter().all(|count| *count > 1000), "{states} {alone:?}");
}

#[test]
fn each_rule_is_needed() {
    let broken: [(&str, Rules); 5] = [
        ("F4: a time-out is read as success", Rules { silence_is_success: true, ..RULES }),
        ("F5: fencing after a start", Rules { judge: |me, _, old, new| judge(me, true, old, new), ..RULES }),
        (
            "F1: no fence at all",
            Rules {
                judge: |me, met, old, new| match judge(me, met, old, new) {
                    Verdict::Fence { .. } => Verdict::Granted,
                    verdict => verdict,
                },
                ..RULES
            },
        ),
        (
            "F5: {both} is taken for {self}",
            Rules {
                judge: |me, met, old, new| match judge(me, met, old, new) {
                    Verdict::Refused(Refused::NotMet) => Verdict::Granted,
                    verdict => verdict,
                },
                ..RULES
            },
        ),
        (
            "a copy that is out may fence",
            Rules {
                judge: |me, met, old, new| match judge(me, met, old, new) {
                    Verdict::Refused(Refused::NotInSync) => Verdict::Fence { first: false },
                    verdict => verdict,
                },
                ..RULES
            },
        ),
    ];
    for (what, rules) in broken {
        assert!(explore(rules).is_err(), "nothing goes wrong: {what}");
    }
}

#[test]
fn who_goes_first_and_who_may_not_go_at_all() {
    let alone = |n: usize| record(9, n, only(n));
    let ask = |n: usize, met, known: Record| judge(NodeId(n as u8), met, Some(known), &alone(n));
    let shared = record(8, 0, NodeSet::BOTH);
    assert_eq!(ask(0, true, shared), Verdict::Fence { first: true });
    assert_eq!(ask(1, true, shared), Verdict::Fence { first: false });
    assert_eq!(ask(0, false, shared), Verdict::Refused(Refused::NotMet));
    assert_eq!(ask(0, false, record(8, 0, only(0))), Verdict::Granted, "{{self}} needs nobody");
    assert_eq!(ask(0, true, record(8, 1, only(1))), Verdict::Refused(Refused::NotInSync));
    assert_eq!(judge(NodeId(0), true, None, &alone(0)), Verdict::Refused(Refused::NoRecord));
    assert_eq!(judge(NodeId(0), true, None, &alone(1)), Verdict::Refused(Refused::NotInSync));
}
