//! Two cores over a random network, beside engines that know only the rules of the record.
//!
//! Checked in every step: nobody asks for a copy that the newest record it was told of leaves out. At the end of each
//! kind of run: a true death is answered in time, a flapping network moves the service a bounded number of times, and
//! when all is well again exactly one node serves and has the addresses.

use super::*;

const NETS: usize = 2;
const PEER_TIMEOUT: u64 = 400;
const STEPS_OF_ENGINE: u64 = 20;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    epoch: u64,
    primary: NodeId,
    in_sync: NodeSet,
}

struct Node {
    core: Option<Core>,
    incarnation: u64,
    sequence: u64,
    view: EngineView,
    engine_alive: bool,
    hung: bool,
    /// The engine's own compare-and-swap, under way.
    pending: Option<(u64, Ask)>,
    apart_since: Option<u64>,
    together_since: Option<u64>,
    addresses: bool,
    /// The newest record that this node's agent was told of, as the test sees it.
    told: (u64, NodeSet),
}

struct World {
    now: u64,
    random: Random,
    record: Record,
    nodes: [Node; 2],
    /// `up[from][net]`: datagrams of `from` arrive on it.
    up: [[bool; NETS]; 2],
    mail: Vec<(u64, usize, Datagram)>,
    starts: u64,
    moves: Vec<u64>,
}

fn node(incarnation: u64, me: NodeId, role: Role) -> Node {
    Node {
        core: Some(Core::new(me, timing(), true, incarnation, NETS, at(0))),
        incarnation,
        sequence: 0,
        view: EngineView { incarnation, ..view(role, 3, NodeSet::BOTH) },
        engine_alive: true,
        hung: false,
        pending: None,
        apart_since: None,
        together_since: Some(0),
        addresses: false,
        told: (0, NodeSet::NONE),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            now: 0,
            random: Random(seed),
            record: Record { epoch: 3, primary: A, in_sync: NodeSet::BOTH },
            nodes: [node(101, A, Role::Primary), node(102, B, Role::Secondary)],
            up: [[true; NETS]; 2],
            mail: Vec::new(),
            starts: 200,
            moves: Vec::new(),
        };
        world.run(3000);
        assert_eq!(world.server(), Some(0));
        world
    }

    /// The one node that serves with the addresses.
    fn server(&self) -> Option<usize> {
        let serves = |node: &Node| {
            let answers = matches!(node.view.service, Service::Alone | Service::Both);
            node.engine_alive && !node.hung && answers && node.addresses
        };
        let serving: Vec<usize> = (0..2).filter(|number| serves(&self.nodes[*number])).collect();
        (serving.len() == 1).then(|| serving[0])
    }

    fn run(&mut self, for_ms: u64) {
        for _ in 0..for_ms {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += 1;
        for number in 0..2 {
            self.engine(number);
        }
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.mail).into_iter().partition(|mail| mail.0 <= now);
        self.mail = later;
        for (_, to, datagram) in due {
            self.deliver(to, datagram);
        }
        for number in 0..2 {
            let phase = (self.now + 37 * number as u64) % 100;
            if phase == 50 && self.nodes[number].engine_alive && !self.nodes[number].hung {
                self.beat(number);
            }
            self.with_core(number, |core, now, out| {
                if core.deadline().is_some_and(|deadline| deadline <= now) {
                    core.on_timer(now, out);
                }
            });
            if phase == 0 {
                self.speak(number);
            }
        }
    }

    fn with_core(&mut self, number: usize, act: impl FnOnce(&mut Core, Instant, &mut Outbox)) {
        let mut out = Vec::new();
        let now = at(self.now);
        let Some(core) = self.nodes[number].core.as_mut() else { return };
        act(core, now, &mut out);
        self.carry(number, out);
    }

    fn carry(&mut self, number: usize, effects: Outbox) {
        for effect in effects {
            match effect {
                Effect::Ask(ask) => self.asked(number, ask),
                Effect::Addresses(wanted) => {
                    self.nodes[number].addresses = wanted;
                    let mut out = Vec::new();
                    if let Some(core) = self.nodes[number].core.as_mut() {
                        core.on_addresses(at(self.now), wanted, &mut out);
                    }
                    self.carry(number, out);
                }
                Effect::Speak => self.speak(number),
                Effect::Announce(_) | Effect::Note(_) | Effect::Left => {}
                Effect::StandIn(_) | Effect::AnnounceOwn | Effect::AskClients => {
                    unreachable!("the policy asks for none of these")
                }
            }
        }
    }

    fn asked(&mut self, number: usize, ask: Ask) {
        let node = &mut self.nodes[number];
        let me = NodeId(number as u8);
        if matches!(ask, Ask::TakeOver(_)) {
            assert!(
                node.told.1.contains(me),
                "{me:?} knows record {:?} and asks for {ask:?} at {}",
                node.told,
                self.now
            );
        }
        if node.engine_alive && !node.hung {
            node.pending = Some((self.now + STEPS_OF_ENGINE, ask));
        } else {
            self.with_core(number, |core, now, out| core.on_answer(now, Err("no engine".into()), out));
        }
    }

    fn beat(&mut self, number: usize) {
        let linked = self.linked();
        let node = &mut self.nodes[number];
        node.view.progress += 1;
        node.view.peer_silent_ms = match node.view.link {
            Link::Connected => node.apart_since.map_or(30, |since| (self.now - since) as u32),
            _ => u32::MAX,
        };
        if linked {
            node.view.link = Link::Connected;
        }
        let view = node.view;
        tell(&mut node.told, &view);
        self.with_core(number, |core, now, out| core.on_beat(now, view, out));
    }

    fn speak(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let Some(core) = node.core.as_ref() else { return };
        let (echo_incarnation, echo_sequence) = core.echo();
        node.sequence += 1;
        for network in 0..NETS {
            if !self.up[number][network] {
                continue;
            }
            let header = Header {
                node: NodeId(number as u8),
                network: network as u8,
                incarnation: node.incarnation,
                sequence: node.sequence,
                echo_incarnation,
                echo_sequence,
            };
            let datagram = Datagram { header, body: Body::Heartbeat(core.report(at(now))) };
            let delay = 1 + self.random.below(4);
            self.mail.push((now + delay, 1 - number, datagram));
        }
    }

    fn deliver(&mut self, to: usize, datagram: Datagram) {
        if let Body::Heartbeat(Report {
            engine: EngineReport::Alive { view, .. } | EngineReport::Dead { view },
            ..
        }) = &datagram.body
        {
            let proven = self.nodes[to].core.as_ref().is_some_and(|core| {
                core.detector().heard().is_some() && core.echo().0 == datagram.header.incarnation
            });
            if proven {
                tell(&mut self.nodes[to].told, view);
            }
        }
        // Refused while the two meet, and when one network overtakes the other.
        self.with_core(to, |core, now, out| {
            let _ = core.on_datagram(now, datagram, out);
        });
    }

    /// Both engines hear each other over the replication network, which is network 0.
    fn linked(&self) -> bool {
        let works = |node: &Node| node.engine_alive && !node.hung;
        self.nodes.iter().all(works) && self.up[0][0] && self.up[1][0]
    }

    // ---- the engines, in a few lines ----

    fn engine(&mut self, number: usize) {
        let linked = self.linked();
        let now = self.now;
        let node = &mut self.nodes[number];
        if !node.engine_alive || node.hung {
            return;
        }
        if linked {
            node.apart_since = None;
            node.together_since.get_or_insert(now);
        } else {
            node.together_since = None;
            let since = *node.apart_since.get_or_insert(now);
            if now - since >= PEER_TIMEOUT {
                node.view.link = Link::Apart;
                self.go_alone(number);
            }
        }
        if let Some((_, ask)) = self.nodes[number].pending.take_if(|pending| pending.0 <= now) {
            let answer = self.carry_out(number, ask);
            self.with_core(number, |core, now, out| core.on_answer(now, answer, out));
        }
        if linked {
            self.meet(number);
        }
    }

    fn is_primary(&self, number: usize) -> bool {
        self.nodes[number].view.role == Role::Primary
    }

    fn go_alone(&mut self, number: usize) {
        let me = NodeId(number as u8);
        if !self.is_primary(number) || self.nodes[number].view.service == Service::Alone {
            return;
        }
        if self.nodes[number].view.epoch.0 == self.record.epoch {
            self.swap(number, me, NodeSet::only(me));
            self.become_(number, Role::Primary, Service::Alone);
        } else {
            self.become_(number, Role::Secondary, Service::Closed);
        }
    }

    fn swap(&mut self, by: usize, primary: NodeId, in_sync: NodeSet) {
        self.record = Record { epoch: self.record.epoch + 1, primary, in_sync };
        self.adopt(by);
    }

    fn adopt(&mut self, number: usize) {
        let Record { epoch, primary, in_sync } = self.record;
        let view = &mut self.nodes[number].view;
        (view.epoch, view.primary, view.in_sync) = (Epoch(epoch), Some(primary), in_sync);
    }

    fn become_(&mut self, number: usize, role: Role, service: Service) {
        if role == Role::Primary && self.nodes[number].view.role != Role::Primary {
            self.moves.push(self.now);
        }
        let view = &mut self.nodes[number].view;
        (view.role, view.service) = (role, service);
        // Every change is a beat at once.
        self.beat(number);
    }

    fn carry_out(&mut self, number: usize, ask: Ask) -> Result<(), String> {
        let me = NodeId(number as u8);
        match ask {
            Ask::TakeOver(_) if self.is_primary(number) => Ok(()),
            Ask::TakeOver(_) if !self.record.in_sync.contains(me) => Err("not in sync".to_owned()),
            Ask::TakeOver(_) => {
                self.swap(number, me, NodeSet::only(me));
                self.nodes[number].view.link = Link::Apart;
                self.become_(number, Role::Primary, Service::Alone);
                Ok(())
            }
            Ask::HandOver(_) if self.linked() && self.is_primary(number) => {
                self.swap(number, me.peer(), NodeSet::BOTH);
                self.become_(number, Role::Secondary, Service::Closed);
                self.adopt(1 - number);
                self.become_(1 - number, Role::Primary, Service::Both);
                Ok(())
            }
            Ask::HandOver(_) => Err("the other node is not ready".to_owned()),
        }
    }

    /// The two engines have met: one learns that it was replaced, the other takes its peer back when it is resynced.
    fn meet(&mut self, number: usize) {
        let other = 1 - number;
        if self.is_primary(number) && self.nodes[number].view.epoch.0 < self.record.epoch {
            self.become_(number, Role::Secondary, Service::Closed);
        }
        self.nodes[number].view.link = Link::Connected;
        let resynced = self.nodes[number].together_since.is_some_and(|since| self.now - since >= 800);
        let alone = self.is_primary(number) && self.nodes[number].view.service != Service::Both;
        if alone && resynced && !self.is_primary(other) {
            self.swap(number, NodeId(number as u8), NodeSet::BOTH);
            self.become_(number, Role::Primary, Service::Both);
        }
        if !self.is_primary(number) && self.nodes[number].view.epoch.0 < self.record.epoch && resynced {
            self.adopt(number);
            self.beat(number);
        }
    }

    // ---- what goes wrong ----

    fn kill_engine(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.engine_alive = false;
        node.pending = None;
        let incarnation = node.view.incarnation;
        self.with_core(number, |core, now, out| core.on_engine_died(now, incarnation, out));
    }

    fn kill_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        (node.engine_alive, node.core, node.addresses, node.pending) = (false, None, false, None);
    }

    fn start(&mut self, number: usize) {
        self.starts += 1;
        let incarnation = self.starts;
        let (me, now) = (NodeId(number as u8), self.now);
        let node = &mut self.nodes[number];
        if node.core.is_none() {
            node.core = Some(Core::new(me, timing(), true, incarnation, NETS, at(now)));
            (node.incarnation, node.sequence, node.told) = (incarnation, 0, (0, NodeSet::NONE));
        }
        if !node.engine_alive {
            let (epoch, primary, in_sync) = (node.view.epoch, node.view.primary, node.view.in_sync);
            let fresh = view(Role::Secondary, 0, NodeSet::NONE);
            node.view = EngineView { incarnation, epoch, primary, in_sync, link: Link::Apart, ..fresh };
            (node.engine_alive, node.hung, node.apart_since, node.together_since) = (true, false, None, None);
        }
    }

    fn heal(&mut self) {
        self.up = [[true; NETS]; 2];
        for number in 0..2 {
            self.nodes[number].hung = false;
            self.start(number);
        }
    }

    fn settled(&self) -> bool {
        self.server().is_some() && self.nodes.iter().all(|node| node.view.in_sync == NodeSet::BOTH)
    }
}

fn tell(told: &mut (u64, NodeSet), view: &EngineView) {
    if view.epoch.0 >= told.0 {
        *told = (view.epoch.0, view.in_sync);
    }
}

#[test]
fn a_true_death_is_answered_in_time() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let lead = world.random.below(200);
        world.run(lead);
        let (kind, longest) = if seed % 2 == 0 { ("engine", 60) } else { ("node", 700) };
        if kind == "engine" {
            world.kill_engine(0)
        } else {
            world.kill_node(0)
        }
        let from = world.now;
        while world.server() != Some(1) {
            world.step();
            assert!(
                world.now - from <= longest,
                "seed {seed}: {kind} dead, nobody serves after {longest} ms"
            );
        }
        // It returns, is resynced, and the service stays.
        world.heal();
        world.run(10_000);
        assert!(world.settled() && world.server() == Some(1), "seed {seed}");
    }
}

#[test]
fn a_flapping_network_does_not_play_with_the_service() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let quick = seed % 2 == 0;
        let end = world.now + 120_000;
        while world.now < end {
            let up = world.up[0][0];
            world.up = [[!up; NETS]; 2];
            let pause = if quick { 20 + world.random.below(80) } else { 100 + world.random.below(3000) };
            world.run(pause);
        }
        let most = if quick { 0 } else { 8 };
        assert!(
            world.moves.len() <= most,
            "seed {seed}: the service moved {} times: {:?}",
            world.moves.len(),
            world.moves
        );
        world.heal();
        world.run(70_000);
        assert!(world.settled(), "seed {seed}");
    }
}

#[test]
fn whatever_goes_wrong_one_serves_when_it_is_over() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..12 {
            let number = world.random.below(2) as usize;
            match world.random.below(9) {
                0 => world.kill_engine(number),
                1 => world.kill_node(number),
                2 => {
                    world.kill_node(0);
                    world.kill_node(1);
                }
                3 => world.nodes[number].hung = true,
                4 => world.nodes[number].hung = false,
                5 => world.nodes[number].core = None,
                6 => {
                    let network = world.random.below(NETS as u64) as usize;
                    world.up[number][network] = false;
                }
                7 => world.up = [[true; NETS]; 2],
                _ => world.start(number),
            }
            let pause = world.random.below(4000);
            world.run(pause);
        }
        world.heal();
        world.run(70_000);
        assert!(world.settled(), "seed {seed}: {:?} {:?}", world.nodes[0].view, world.nodes[1].view);
    }
}
