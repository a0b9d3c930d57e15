//! Clusters whose cables are cut in the middle of a message, whose nodes lose their power and come back with old copies of
//! the CIB, and whose rings form anew when they like: never two servers, never one that lacks an answered write. Rules
//! that are broken on purpose are caught.
//!
//! Walked at random from fixed seeds, so a failure comes again. Pacemaker is the adversary here: it asks any node to
//! promote at any time.

use super::rules::{Attempt, Bid, Copy, Member, Need, Next, Pending, Presence, Refused, View, Write, judge};
use crate::arbitration::{Epoch, NodeSet, Record};
use crate::units::NodeId;

const NAMES: [&str; 3] = ["a", "b", "w"];

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }

    fn once_in(&mut self, most: u64) -> bool {
        self.below(most) == 0
    }
}

/// The rules as they are, or broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rules {
    AsTheyAre,
    /// A write to the CIB counts as soon as the own copy has it.
    BelieveOwnCopy,
    /// A lost node counts as gone.
    SilenceIsGone,
    /// F5 is left out: who started may serve alone by the CIB's word.
    BelieveOldCopies,
    /// Whatever the record says.
    NoGuard,
}

/// A machine of the cluster: its power, its ring, its copy of the CIB.
#[derive(Clone, Debug)]
struct Machine {
    up: bool,
    /// Physically: machines of one part reach each other.
    part: u64,
    /// The ring that it believes to be in; rings are numbered.
    ring: u64,
    quorate: bool,
    /// It has seen all nodes since it started (`wait_for_all`).
    seen_all: bool,
    known: [Presence; 3],
    copy: Copy,
    /// `admin_epoch`, `epoch`
    version: (u64, u64),
    disk: (Copy, (u64, u64)),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Serving {
    No,
    Both,
    Alone,
}

/// The engine of a data node.
#[derive(Clone, Debug)]
struct Engine {
    up: bool,
    met: bool,
    serving: Serving,
    /// Durable.
    record: Record,
    data: u64,
    generation: u64,
    attempt: Option<(Attempt, Next)>,
}

struct World {
    random: Random,
    rules: Rules,
    nodes: usize,
    machines: Vec<Machine>,
    engines: [Engine; 2],
    link: bool,
    session: bool,
    /// Machines that were shot, and the ring that waits to hear of it.
    shots: Vec<(usize, u64)>,
    answered: u64,
    rings: u64,
    nonce: u64,
    /// How often somebody went on alone, with the other node gone and with its consent.
    alone: [u64; 2],
}

fn words(copy: &Copy) -> Option<(String, String)> {
    Some((format!("{:?}", copy.record), format!("{:?}", copy.bid)))
}

impl World {
    fn new(seed: u64, nodes: usize, rules: Rules) -> Self {
        let record = Record { epoch: Epoch(1), primary: Some(NodeId(0)), in_sync: NodeSet::BOTH, nonce: 1 };
        let mut copy = Copy { record: Some(record), bid: None, words: None };
        copy.words = words(&copy);
        let machine = Machine {
            up: true,
            part: 0,
            ring: 0,
            quorate: true,
            seen_all: true,
            known: [Presence::Online; 3],
            copy: copy.clone(),
            version: (0, 1),
            disk: (copy, (0, 1)),
        };
        let engine = Engine {
            up: true,
            met: true,
            serving: Serving::No,
            record,
            data: 0,
            generation: 0,
            attempt: None,
        };
        let mut first = engine.clone();
        first.serving = Serving::Both;
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            rules,
            nodes,
            machines: vec![machine; nodes],
            engines: [first, engine],
            link: true,
            session: true,
            shots: Vec::new(),
            answered: 0,
            rings: 0,
            nonce: 1,
            alone: [0; 2],
        }
    }

    fn may_answer(&self, n: usize) -> bool {
        let [own, other] = [&self.engines[n], &self.engines[1 - n]];
        match own.serving {
            Serving::No => false,
            Serving::Alone => own.up,
            Serving::Both => own.up && self.session && other.up && own.record == other.record,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.may_answer(0) && self.may_answer(1) {
            return Err("two servers".into());
        }
        match (0..2).find(|&n| self.may_answer(n) && self.engines[n].data != self.answered) {
            Some(n) => Err(format!("{} serves and lacks an answered write", NAMES[n])),
            None => Ok(()),
        }
    }

    // ---- the cluster ----

    /// The machines that now find each other form a ring: who has the highest version gives its copy to all.
    fn reform(&mut self, n: usize) {
        if !self.machines[n].up {
            return;
        }
        let part = self.machines[n].part;
        let group: Vec<usize> =
            (0..self.nodes).filter(|&m| self.machines[m].up && self.machines[m].part == part).collect();
        let leader = *group.iter().max_by_key(|&&m| self.machines[m].version).expect("at least the asker");
        self.rings += 1;
        let (copy, version) = (self.machines[leader].copy.clone(), self.machines[leader].version);
        let mut known = self.machines[leader].known;
        for (m, presence) in known.iter_mut().enumerate().take(self.nodes) {
            *presence = match (group.contains(&m), *presence) {
                (true, _) => Presence::Online,
                (false, Presence::Gone) => Presence::Gone,
                (false, _) => Presence::Doubtful,
            };
        }
        let all = group.len() == self.nodes;
        let ready = group.iter().all(|&m| all || self.machines[m].seen_all);
        let quorate = if self.nodes == 2 { ready } else { group.len() * 2 > self.nodes };
        for m in group {
            let disk_lags = self.random.once_in(4);
            let machine = &mut self.machines[m];
            (machine.ring, machine.quorate, machine.known) = (self.rings, quorate, known);
            machine.seen_all |= all;
            (machine.copy, machine.version) = (copy.clone(), version);
            if !disk_lags {
                machine.disk = (copy.clone(), version);
            }
        }
    }

    /// A change of the CIB, sent by `n`; perhaps the cable is cut while it is on its way.
    fn change(&mut self, n: usize, write: &Write) {
        let (ring, part) = (self.machines[n].ring, self.machines[n].part);
        let cut = self.random.once_in(4);
        for m in 0..self.nodes {
            let machine = &mut self.machines[m];
            if !machine.up || machine.ring != ring || machine.part != part {
                continue;
            }
            if m != n && cut && self.random.once_in(2) {
                machine.part = part + 1_000 + self.rings;
                continue;
            }
            let matches = write.guard == machine.copy.words || self.rules == Rules::NoGuard;
            if machine.quorate && matches {
                machine.copy = Copy { record: write.record, bid: write.bid, words: None };
                machine.copy.words = words(&machine.copy);
                machine.version.0 += u64::from(write.raise);
                machine.version.1 += 1;
                if !self.random.once_in(4) {
                    machine.disk = (machine.copy.clone(), machine.version);
                }
            }
        }
    }

    fn view(&self, n: usize) -> View {
        let machine = &self.machines[n];
        let others = (0..self.nodes).filter(|&m| m != n);
        let silence = self.rules == Rules::SilenceIsGone;
        let members = others.map(|m| Member {
            name: NAMES[m].to_owned(),
            presence: match machine.known[m] {
                Presence::Doubtful if silence => Presence::Gone,
                presence => presence,
            },
        });
        View { quorate: machine.quorate, own: machine.copy.clone(), members: members.collect() }
    }

    fn copy_of(&self, n: usize, name: &str) -> Option<Copy> {
        let m = NAMES.iter().position(|known| *known == name).expect("a machine");
        let [asker, asked] = [&self.machines[n], &self.machines[m]];
        let reached = asked.up && asked.part == asker.part && asked.ring == asker.ring;
        reached.then(|| asked.copy.clone())
    }

    fn power_off(&mut self, n: usize) {
        self.machines[n].up = false;
        if n < 2 {
            self.engine_ends(n);
        }
    }

    fn boot(&mut self, n: usize) {
        if self.machines[n].up {
            return;
        }
        self.rings += 1;
        let (ring, nodes) = (self.rings, self.nodes);
        let machine = &mut self.machines[n];
        (machine.up, machine.ring, machine.quorate, machine.seen_all) = (true, ring, false, false);
        (machine.copy, machine.version) = machine.disk.clone();
        // `startup-fencing`: who was never seen is not known to be off.
        machine.known = [Presence::Doubtful; 3];
        machine.known[n] = Presence::Online;
        assert!(nodes <= 3);
    }

    /// A quorate ring shoots whom it has lost; that the shot has struck is heard later, or never.
    fn shoot(&mut self, n: usize) {
        let machine = &self.machines[n];
        if !machine.up || !machine.quorate {
            return;
        }
        let ring = machine.ring;
        if let Some(m) = (0..self.nodes).find(|&m| machine.known[m] == Presence::Doubtful) {
            self.power_off(m);
            self.shots.push((m, ring));
        }
    }

    fn hear_of_shot(&mut self) {
        if self.shots.is_empty() {
            return;
        }
        let at = self.random.below(self.shots.len() as u64) as usize;
        let (target, ring) = self.shots.swap_remove(at);
        for machine in self.machines.iter_mut().filter(|machine| machine.up && machine.ring == ring) {
            if machine.known[target] == Presence::Doubtful {
                machine.known[target] = Presence::Gone;
            }
        }
    }

    /// In order: the engine is stopped, then the node leaves, and the others know it.
    fn leave(&mut self, n: usize) {
        if !self.machines[n].up {
            return;
        }
        self.power_off(n);
        let ring = self.machines[n].ring;
        for machine in self.machines.iter_mut().filter(|machine| machine.up && machine.ring == ring) {
            machine.known[n] = Presence::Gone;
        }
    }

    // ---- the engines ----

    fn engine_ends(&mut self, n: usize) {
        self.session = false;
        let engine = &mut self.engines[n];
        (engine.up, engine.met, engine.serving, engine.attempt) = (false, false, Serving::No, None);
    }

    fn meet(&mut self) {
        let idle = self.engines.iter().all(|engine| engine.up && engine.attempt.is_none());
        if !self.link || self.session || !idle {
            return;
        }
        self.session = true;
        let rank = |engine: &Engine| (engine.generation, engine.record.epoch);
        let leader = usize::from(rank(&self.engines[1]) > rank(&self.engines[0]));
        let Engine { record, data, generation, serving, .. } = self.engines[leader].clone();
        let follower = &mut self.engines[1 - leader];
        if follower.serving == Serving::Alone {
            // It will be told by its peer, whose writes it lacks; the check has spoken before.
            return;
        }
        (follower.record, follower.data, follower.generation) = (record, data, generation);
        follower.serving = Serving::No;
        self.engines.iter_mut().for_each(|engine| engine.met = true);
        if serving == Serving::Alone {
            // The follower's word is needed from now on, before the arbiter hears of it.
            self.engines[leader].serving = Serving::Both;
            self.ask(leader, record, NodeSet::BOTH);
        }
    }

    fn ask(&mut self, n: usize, expected: Record, in_sync: NodeSet) {
        self.nonce += 1;
        let me = NodeId(n as u8);
        let epoch = expected.epoch.next();
        let proposed = Record { epoch, primary: Some(me), in_sync, nonce: self.nonce };
        self.begin(n, expected, proposed);
    }

    fn begin(&mut self, n: usize, expected: Record, proposed: Record) {
        let me = NodeId(n as u8);
        let engine = &self.engines[n];
        let met = engine.met || self.rules == Rules::BelieveOldCopies;
        let overrule = self.random.once_in(4);
        let attempt = judge(me, met, false, engine.record, Some(expected), &proposed).map(|need| {
            let peer = NAMES[1 - n].to_owned();
            let attempt = Attempt::new(me, peer, need, Some(expected), proposed, overrule);
            (attempt, Next::Look)
        });
        self.engines[n].attempt = attempt.ok();
    }

    fn promote(&mut self, n: usize) {
        let machine = &self.machines[n];
        let engine = &self.engines[n];
        let ready = engine.up && engine.attempt.is_none() && engine.serving == Serving::No;
        let hint = machine.copy.record.filter(|_| machine.up && machine.quorate);
        let Some(hint) = hint.filter(|_| ready) else { return };
        if hint.epoch < engine.record.epoch || !hint.in_sync.contains(NodeId(n as u8)) {
            return;
        }
        let beside = self.session
            && hint.in_sync == NodeSet::BOTH
            && self.engines[1 - n].serving == Serving::No
            && self.engines[1 - n].attempt.is_none();
        if !beside {
            self.session = false;
        }
        self.ask(n, hint, if beside { NodeSet::BOTH } else { NodeSet::only(NodeId(n as u8)) });
    }

    fn go_alone(&mut self, n: usize) {
        let engine = &self.engines[n];
        if engine.up && engine.serving == Serving::Both && !self.session && engine.attempt.is_none() {
            let record = engine.record;
            self.engines[n].serving = Serving::No;
            self.ask(n, record, NodeSet::only(NodeId(n as u8)));
        }
    }

    fn step(&mut self, n: usize) {
        let Some((mut attempt, next)) = self.engines[n].attempt.take() else { return };
        if !self.machines[n].up {
            return;
        }
        let next = match next {
            Next::Look => attempt.on_view(&self.view(n)),
            Next::Write(write) => {
                self.change(n, &write);
                Next::Look
            }
            Next::Copies(names) => {
                let copies: Vec<_> = names
                    .into_iter()
                    .map(|name| {
                        let copy = self.copy_of(n, &name);
                        (name, copy)
                    })
                    .collect();
                match attempt.on_copies(&copies) {
                    Next::Pending(Pending::NotSpread(_))
                        if self.rules == Rules::BelieveOwnCopy
                            && self.machines[n].copy.record == Some(attempt.proposed) =>
                    {
                        Next::Committed
                    }
                    next => next,
                }
            }
            next => next,
        };
        match next {
            Next::Committed => self.committed(n, attempt.proposed),
            Next::Conflict(found) => {
                self.engines[n].serving = Serving::No;
                let newer = found.filter(|found| found.epoch > self.engines[n].record.epoch);
                self.engines[n].record = newer.unwrap_or(self.engines[n].record);
            }
            Next::Pending(_) => {
                let expected = attempt.expected.expect("there is a record from the beginning");
                self.begin(n, expected, attempt.proposed);
            }
            next => self.engines[n].attempt = Some((attempt, next)),
        }
    }

    fn committed(&mut self, n: usize, record: Record) {
        let both = record.in_sync == NodeSet::BOTH;
        let gone = self.machines[n].known[1 - n] == Presence::Gone;
        let engine = &mut self.engines[n];
        engine.record = record;
        engine.serving = if both { Serving::Both } else { Serving::Alone };
        if !both {
            engine.generation = record.epoch.0;
            self.alone[usize::from(!gone)] += 1;
        } else if self.session && self.engines[1 - n].attempt.is_none() {
            self.engines[1 - n].record = record;
        }
    }

    fn write(&mut self) {
        for n in 0..2 {
            if self.may_answer(n) {
                self.answered += 1;
                self.engines[n].data = self.answered;
                if self.engines[n].serving == Serving::Both {
                    self.engines[1 - n].data = self.answered;
                }
            }
        }
    }

    fn happen(&mut self) {
        let n = self.random.below(self.nodes as u64) as usize;
        let e = n % 2;
        match self.random.below(64) {
            0 => self.machines[n].part = self.random.below(2),
            1..=2 => (0..self.nodes).for_each(|m| self.machines[m].part = 0),
            3..=8 => self.reform(n),
            9 => self.power_off(n),
            10..=13 => self.boot(n),
            14 => self.leave(n),
            15..=17 => self.shoot(n),
            18..=22 => self.hear_of_shot(),
            23 => self.engine_ends(e),
            24..=28 => self.engines[e].up = self.machines[e].up,
            29 => {
                self.link = false;
                self.session = false;
            }
            30..=32 => self.link = true,
            33..=37 => self.meet(),
            38..=41 => self.promote(e),
            42..=45 => self.go_alone(e),
            46..=49 => self.write(),
            // Somebody edits the configuration in one part of the cluster.
            50 => self.machines[n].version.1 += 1,
            _ => self.step(e),
        }
    }
}

/// Walks until something is wrong. Returns what, or how often somebody went on alone.
fn walk(nodes: usize, rules: Rules, walks: u64) -> Result<[u64; 2], String> {
    let mut alone = [0; 2];
    for seed in 1..=walks {
        let mut world = World::new(seed, nodes, rules);
        for step in 0..300 {
            world.happen();
            world.check().map_err(|what| format!("seed {seed}, step {step}: {what}"))?;
        }
        alone.iter_mut().zip(world.alone).for_each(|(all, one)| *all += one);
    }
    Ok(alone)
}

#[test]
fn no_two_serve_and_nothing_answered_is_missing() {
    for nodes in [2, 3] {
        let [gone, agreed] = walk(nodes, Rules::AsTheyAre, 20_000).expect("the rules hold");
        println!(
            "{nodes} nodes: alone after a fence {gone} times, with the other's copy as witness {agreed} times"
        );
        assert!(gone > 100 && agreed > 100, "the walks must come to what they are for");
    }
}

#[test]
#[ignore = "takes a minute"]
fn no_two_serve_however_long_one_walks() {
    for nodes in [2, 3] {
        println!("{nodes} nodes: {:?}", walk(nodes, Rules::AsTheyAre, 1_000_000).expect("the rules hold"));
    }
}

#[test]
fn each_rule_is_needed() {
    for rules in [Rules::BelieveOwnCopy, Rules::SilenceIsGone, Rules::BelieveOldCopies, Rules::NoGuard] {
        let found = [2, 3].map(|nodes| walk(nodes, rules, 60_000));
        println!("{rules:?}: {found:?}");
        assert!(found.iter().any(Result::is_err), "{rules:?} was not caught");
    }
}

// ---- single steps ----

fn record(epoch: u64, in_sync: NodeSet) -> Record {
    Record { epoch: Epoch(epoch), primary: Some(NodeId(0)), in_sync, nonce: epoch }
}

const ME: NodeId = NodeId(0);

#[test]
fn what_a_change_needs() {
    let [both, mine] = [NodeSet::BOTH, NodeSet::only(ME)];
    let theirs = NodeSet::only(NodeId(1));
    let own = record(4, mine);
    let ask = |met, vouched, expected: Option<Record>, in_sync| {
        judge(ME, met, vouched, own, expected, &record(5, in_sync))
    };
    assert_eq!(ask(false, false, Some(record(4, both)), both), Ok(Need::Spread));
    assert_eq!(ask(false, false, Some(own), mine), Ok(Need::Spread), "its own disk says so");
    let other = Record { nonce: 77, ..own };
    assert_eq!(ask(false, false, Some(other), mine), Err(Refused::NotMet), "only the CIB says so");
    assert_eq!(ask(false, false, Some(record(4, both)), mine), Err(Refused::NotMet));
    assert_eq!(ask(true, false, Some(record(4, both)), mine), Ok(Need::Exclude));
    assert_eq!(ask(true, false, Some(record(4, theirs)), mine), Err(Refused::NotInSync));
    assert_eq!(ask(false, true, Some(record(4, theirs)), mine), Ok(Need::Vouched));
    assert_eq!(ask(true, false, Some(record(4, both)), theirs), Err(Refused::NotInSync));
    assert_eq!(ask(false, false, None, mine), Ok(Need::Agree));
}

fn view(own: Copy, peer: Presence, third: Option<Presence>) -> View {
    let member = |name: &str, presence| Member { name: name.to_owned(), presence };
    let mut members = vec![member("b", peer)];
    members.extend(third.map(|presence| member("w", presence)));
    View { quorate: true, own, members }
}

fn attempt(need: Need) -> Attempt {
    let [expected, proposed] = [record(4, NodeSet::BOTH), record(5, NodeSet::only(ME))];
    Attempt::new(ME, "b".to_owned(), need, Some(expected), proposed, false)
}

fn shows(record: Record, bid: Option<Record>) -> Copy {
    let bid = bid.map(|record| Bid { record, by: ME });
    Copy { record: Some(record), bid, words: Some(("r".into(), "b".into())) }
}

#[test]
fn a_change_is_bid_for_settled_and_confirmed() {
    let mut attempt = attempt(Need::Exclude);
    let [old, new] = [attempt.expected.expect("there is one"), attempt.proposed];
    let Next::Write(bid) = attempt.on_view(&view(shows(old, None), Presence::Online, None)) else {
        panic!("a bid comes first")
    };
    assert!(!bid.raise && bid.record == Some(old) && bid.bid == Some(Bid { record: new, by: ME }));
    let copies = Next::Copies(vec!["b".to_owned()]);
    assert_eq!(attempt.on_view(&view(shows(old, Some(new)), Presence::Online, None)), copies);
    let Next::Write(settle) = attempt.on_copies(&[("b".to_owned(), Some(shows(old, Some(new))))]) else {
        panic!("then it is settled")
    };
    assert!(settle.raise && settle.record == Some(new) && settle.bid.is_none());
    assert_eq!(attempt.on_view(&view(shows(new, None), Presence::Online, None)), copies);
    let lost = attempt.clone().on_copies(&[("b".to_owned(), None)]);
    assert_eq!(lost, Next::Pending(Pending::NotSpread("b".to_owned())));
    assert_eq!(attempt.on_copies(&[("b".to_owned(), Some(shows(new, None)))]), Next::Committed);
}

#[test]
fn silence_a_lost_quorum_and_too_few_witnesses_decide_nothing() {
    let ask = |need, view: &View| attempt(need).on_view(view);
    let [old, new] = [record(4, NodeSet::BOTH), record(5, NodeSet::only(ME))];
    let bid = shows(old, Some(new));
    let lost = View { quorate: false, ..view(bid.clone(), Presence::Gone, None) };
    assert_eq!(ask(Need::Exclude, &lost), Next::Pending(Pending::NoQuorum));
    let silent = view(bid.clone(), Presence::Doubtful, None);
    assert_eq!(ask(Need::Exclude, &silent), Next::Pending(Pending::NotExcluded));
    assert_eq!(ask(Need::Agree, &silent), Next::Pending(Pending::FirstNeedsPeer));
    assert_eq!(ask(Need::Vouched, &silent), Next::Copies(Vec::new()));
    let gone = view(bid.clone(), Presence::Gone, Some(Presence::Doubtful));
    assert_eq!(ask(Need::Exclude, &gone), Next::Pending(Pending::TooFew));
    let gone = view(bid, Presence::Gone, Some(Presence::Online));
    assert_eq!(ask(Need::Exclude, &gone), Next::Copies(vec!["w".to_owned()]));
    let unlisted = View { members: Vec::new(), ..gone };
    assert_eq!(ask(Need::Exclude, &unlisted), Next::Pending(Pending::NotExcluded));
}

#[test]
fn another_record_is_a_conflict_only_if_every_copy_has_it() {
    let mut attempt = attempt(Need::Exclude);
    let other = record(3, NodeSet::only(NodeId(1)));
    let seen = view(shows(other, None), Presence::Online, None);
    assert_eq!(attempt.on_view(&seen), Next::Copies(vec!["b".to_owned()]));
    let newer = [("b".to_owned(), Some(shows(record(4, NodeSet::BOTH), None)))];
    assert_eq!(attempt.clone().on_copies(&newer), Next::Pending(Pending::Discord));
    assert_eq!(attempt.on_copies(&[("b".to_owned(), Some(shows(other, None)))]), Next::Conflict(Some(other)));
}
