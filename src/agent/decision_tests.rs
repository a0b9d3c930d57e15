//! The rows of the failure table that concern detection, one by one; then two cores in a small random world.

use super::super::message::{Body, Header};
use super::*;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn timing() -> Timing {
    Timing {
        heartbeat: ms(100),
        takeover_after: ms(550),
        settle: ms(500),
        start_wait: ms(5000),
        hysteresis: ms(5000),
        linger: ms(1000),
        hold_grace: ms(2000),
    }
}

fn view(role: Role, epoch: u64, in_sync: NodeSet) -> EngineView {
    let service = if role == Role::Primary { Service::Both } else { Service::Closed };
    EngineView {
        incarnation: 7,
        progress: 0,
        role,
        service,
        disk: Disk::Whole,
        link: Link::Connected,
        epoch: Epoch(epoch),
        primary: Some(A),
        in_sync,
        demoted: false,
        peer_silent_ms: 10,
    }
}

/// The standby's agent, what its engine and the primary's agent say every 100 ms, and what it asked for.
struct Standby {
    core: Core,
    now: u64,
    sequence: u64,
    own: EngineView,
    own_speaks: bool,
    peer: Report,
    /// Networks on which the peer is heard.
    networks: Vec<u8>,
    asked: Vec<(u64, Ask)>,
    addresses: Vec<(u64, bool)>,
    effects: Vec<Effect>,
    /// What comes of asking the initiators, at once.
    initiators: Option<Answer>,
    stand_in: Vec<(u64, bool)>,
}

impl Standby {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    /// B beside a primary A; both in sync; the two have met.
    fn with(policy: Policy) -> Self {
        let own = view(Role::Secondary, 3, NodeSet::BOTH);
        let peer = Report {
            engine: EngineReport::Alive { view: view(Role::Primary, 3, NodeSet::BOTH), beat_age_ms: 5 },
            hears: 0b11,
            holds_addresses: false,
            stands_in: false,
            standby: false,
            leaving: false,
            clients: ClientNetwork::Up,
        };
        let mut standby = Self {
            core: Core::new(B, timing(), true, 99, 2, at(0)).with_policy(policy),
            now: 0,
            sequence: 0,
            own,
            own_speaks: true,
            peer,
            networks: vec![0, 1],
            asked: Vec::new(),
            addresses: Vec::new(),
            effects: Vec::new(),
            initiators: None,
            stand_in: Vec::new(),
        };
        standby.run(1000);
        assert!(standby.asked.is_empty(), "{:?}", standby.asked);
        standby
    }

    fn peer_view(&mut self) -> &mut EngineView {
        match &mut self.peer.engine {
            EngineReport::Alive { view, .. } | EngineReport::Dead { view } => view,
            EngineReport::Absent => panic!("there is an engine"),
        }
    }

    fn certify(&mut self) {
        let view = *self.peer_view();
        self.peer.engine = EngineReport::Dead { view };
    }

    fn run(&mut self, for_ms: u64) {
        for _ in 0..for_ms {
            self.now += 1;
            let now = at(self.now);
            let mut out = Vec::new();
            if self.now % 100 == 0 {
                if self.own_speaks {
                    self.own.progress += 1;
                    self.core.on_beat(now, self.own, &mut out);
                }
                self.hear(now, &mut out);
            }
            if self.core.deadline().is_some_and(|deadline| deadline <= now) {
                self.core.on_timer(now, &mut out);
            }
            self.take(out);
        }
    }

    fn hear(&mut self, now: Instant, out: &mut Outbox) {
        self.sequence += 1;
        for network in &self.networks {
            let header = Header {
                node: A,
                network: *network,
                incarnation: 55,
                sequence: self.sequence,
                echo_incarnation: 99,
                echo_sequence: self.sequence,
            };
            let datagram = Datagram { header, body: Body::Heartbeat(self.peer) };
            self.core.on_datagram(now, datagram, out).expect("it is fresh");
        }
    }

    fn take(&mut self, mut out: Outbox) {
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match &effect {
                    Effect::Ask(ask) => self.asked.push((self.now, *ask)),
                    Effect::Addresses(wanted) => {
                        self.addresses.push((self.now, *wanted));
                        self.core.on_addresses(at(self.now), *wanted, &mut out);
                    }
                    Effect::StandIn(wanted) => {
                        self.stand_in.push((self.now, *wanted));
                        self.core.on_stand_in(at(self.now), *wanted, &mut out);
                    }
                    Effect::AskClients => {
                        if let Some(answer) = self.initiators {
                            self.core.on_asked(at(self.now), answer, &mut out);
                        }
                    }
                    _ => {}
                }
                self.effects.push(effect);
            }
        }
    }

    fn answer(&mut self, answer: Result<(), &str>) {
        let mut out = Vec::new();
        self.core.on_answer(at(self.now), answer.map_err(str::to_owned), &mut out);
        self.take(out);
    }

    /// The engine has taken over.
    fn promoted(&mut self, epoch: u64) {
        self.answer(Ok(()));
        self.own = view(Role::Primary, epoch, NodeSet::only(B));
        self.own.service = Service::Alone;
        self.own.link = Link::Apart;
        self.own.peer_silent_ms = u32::MAX;
        let mut out = Vec::new();
        self.core.on_beat(at(self.now), self.own, &mut out);
        self.take(out);
    }

    /// The replication link is gone as well.
    fn part(&mut self) {
        self.own.link = Link::Apart;
        self.own.peer_silent_ms = u32::MAX;
    }

    fn asked_within(&self, from: u64, longest: u64, reason: Reason) {
        let (when, ask) = self.asked.first().copied().expect("it asked");
        assert_eq!(ask, Ask::TakeOver(reason));
        assert!((from..=from + longest).contains(&when), "asked at {when}, not {from}..={}", from + longest);
    }
}

#[test]
fn row_1_a_certified_death_needs_no_waiting() {
    let mut b = Standby::new();
    let from = b.now;
    b.certify();
    b.run(100);
    b.asked_within(from, 100, Reason::EngineDied);
}

#[test]
fn row_2_a_silent_node_is_taken_over_after_the_silence() {
    let mut b = Standby::new();
    let from = b.now;
    b.networks.clear();
    b.part();
    b.run(2000);
    b.asked_within(from + 500, 60, Reason::PeerSilent);
    assert_eq!(b.asked.len(), 1, "no second request while the first is unanswered");
}

#[test]
fn a_certificate_outlives_the_node_that_gave_it() {
    let mut b = Standby::new();
    b.own.disk = Disk::Behind;
    b.certify();
    b.run(100);
    b.networks.clear();
    b.part();
    b.run(1000);
    assert!(b.asked.is_empty(), "a copy that is behind is never offered");
    b.own.disk = Disk::Whole;
    let from = b.now;
    b.run(200);
    b.asked_within(from, 200, Reason::EngineDied);
}

#[test]
fn row_7_a_cut_replication_link_is_the_engines_affair() {
    let mut b = Standby::new();
    b.networks = vec![1];
    b.part();
    b.run(60_000);
    assert!(b.asked.is_empty());
    assert_eq!(b.core.standing(at(b.now)), Standing::Alive);
}

#[test]
fn a_dead_agent_beside_a_living_engine_is_no_dead_node() {
    let mut b = Standby::new();
    b.networks.clear();
    b.run(60_000);
    assert!(b.asked.is_empty());
    assert_eq!(b.core.standing(at(b.now)), Standing::AgentSilent);
    let from = b.now;
    b.part();
    b.run(1000);
    b.asked_within(from, 600, Reason::PeerSilent);
}

#[test]
fn row_10_one_direction_is_told_apart() {
    let mut b = Standby::new();
    // A hears nothing of B, and says so; B hears A: whoever hears does nothing.
    b.peer.hears = 0;
    b.part();
    b.run(10_000);
    assert!(b.asked.is_empty());
    let report = b.core.report(at(b.now));
    assert_eq!(report.hears, 0b11);
}

#[test]
fn row_17_an_engine_that_stands_still_is_replaced() {
    let mut b = Standby::new();
    let EngineReport::Alive { view, .. } = b.peer.engine else { panic!("it lives") };
    let from = b.now;
    b.peer.engine = EngineReport::Alive { view, beat_age_ms: 700 };
    b.own.peer_silent_ms = 700;
    b.run(100);
    b.asked_within(from, 100, Reason::EngineHung);
}

#[test]
fn an_engine_whose_agent_lost_it_and_whose_link_lives_is_left_alone() {
    let mut b = Standby::new();
    let EngineReport::Alive { view, .. } = b.peer.engine else { panic!("it lives") };
    b.peer.engine = EngineReport::Alive { view, beat_age_ms: 60_000 };
    b.run(10_000);
    assert!(b.asked.is_empty());
}

#[test]
fn rows_6_26_29_a_copy_that_the_record_leaves_out_is_never_offered() {
    // B has not heard from its engine that A went on alone; A's agent has said so.
    let mut b = Standby::new();
    let alone =
        EngineView { service: Service::Alone, epoch: Epoch(4), in_sync: NodeSet::only(A), ..*b.peer_view() };
    *b.peer_view() = alone;
    b.part();
    b.run(1000);
    b.certify();
    b.run(1000);
    b.networks.clear();
    b.run(60_000);
    assert!(b.asked.is_empty());
    // The resync's target, and one without any record.
    for change in [
        |own: &mut EngineView| own.disk = Disk::Behind,
        |own: &mut EngineView| own.disk = Disk::Failed,
        |own: &mut EngineView| own.demoted = true,
    ] {
        let mut b = Standby::new();
        change(&mut b.own);
        b.run(100);
        b.certify();
        b.run(60_000);
        assert!(b.asked.is_empty());
    }
}

#[test]
fn rows_12_13_a_primary_that_cannot_go_on_is_replaced_after_a_while_only() {
    let mut b = Standby::new();
    b.peer_view().service = Service::Held;
    b.part();
    b.run(2000);
    b.peer_view().service = Service::Alone;
    b.run(10_000);
    assert!(b.asked.is_empty(), "a short hold is ordinary");
    let from = b.now;
    b.peer_view().service = Service::Held;
    b.run(6000);
    b.asked_within(from, 5200, Reason::PeerHeld);
    // One that hears nobody is not waited for.
    let mut deaf = Standby::new();
    let from = deaf.now;
    deaf.peer_view().service = Service::Held;
    deaf.peer.hears = 0;
    deaf.part();
    deaf.run(1000);
    deaf.asked_within(from + 500, 200, Reason::PeerHeld);
    // The arbiter is silent for this node as well: ask less and less often.
    let mut gaps = Vec::new();
    for _ in 0..6 {
        b.answer(Err("the arbiter does not answer"));
        let (before, count) = (b.now, b.asked.len());
        while b.asked.len() == count {
            b.run(10);
        }
        gaps.push(b.now - before);
    }
    assert!(gaps.windows(2).all(|pair| pair[0] < pair[1] || pair[1] >= 29_000), "{gaps:?}");
}

#[test]
fn row_9_a_primary_without_clients_hands_over_to_one_that_has_them() {
    let mut b = Standby::new();
    b.own = view(Role::Primary, 4, NodeSet::BOTH);
    b.own.primary = Some(B);
    *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
    b.run(20_000);
    assert_eq!(b.addresses, [(1100, true)]);
    let mut out = Vec::new();
    b.core.on_clients(at(b.now), ClientNetwork::Down, &mut out);
    b.take(out);
    b.peer.clients = ClientNetwork::Unknown;
    b.run(5000);
    assert!(b.asked.is_empty(), "only to one that is known to have them");
    b.peer.clients = ClientNetwork::Up;
    b.run(200);
    assert!(matches!(b.asked.as_slice(), [(_, Ask::HandOver(_))]), "{:?}", b.asked);
}

/// B serves, A follows, both in sync.
fn serving(policy: Policy) -> Standby {
    let mut b = Standby::with(policy);
    b.own = view(Role::Primary, 4, NodeSet::BOTH);
    b.own.primary = Some(B);
    *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
    b.run(20_000);
    assert!(b.asked.is_empty(), "{:?}", b.asked);
    b
}

#[test]
fn row_9_a_dead_cable_moves_the_service_in_a_moment() {
    let mut b = serving(Policy::default());
    let from = b.now;
    let mut out = Vec::new();
    b.core.on_clients(at(b.now), ClientNetwork::Down, &mut out);
    b.take(out);
    b.run(1000);
    let (when, ask) = b.asked[0];
    assert!(matches!(ask, Ask::HandOver(_)) && when <= from + 250, "{:?}", b.asked);
}

/// The cable is well, and what is behind it is not: the clients' network is silent, and the initiators say where.
#[test]
fn row_9_a_silent_network_is_asked_about_and_moves_the_service_if_nobody_answers() {
    let policy = Policy { client_networks: 0b01, ..Policy::default() };
    for (answer, moves) in [(Answer::Nobody, true), (Answer::Somebody, false), (Answer::NoneKnown, false)] {
        let mut b = serving(policy);
        let mut out = Vec::new();
        b.core.on_clients(at(b.now), ClientNetwork::Up, &mut out);
        b.take(out);
        b.initiators = Some(answer);
        let from = b.now;
        b.networks = vec![1];
        b.run(3000);
        match moves {
            true => {
                assert!(matches!(b.asked[0], (when, Ask::HandOver(_)) if when <= from + 800), "{:?}", b.asked)
            }
            false => assert!(b.asked.is_empty(), "{answer:?}: {:?}", b.asked),
        }
        assert!(b.effects.contains(&Effect::AskClients));
    }
    // Silent everywhere is another matter.
    let mut b = serving(policy);
    b.networks.clear();
    b.run(3000);
    assert!(b.asked.is_empty() && !b.effects.contains(&Effect::AskClients));
}

/// A takes over and comes back; nothing goes back to it unless it is preferred, and has been well for long enough.
#[test]
fn a_preferred_node_gets_the_service_back_when_it_has_been_well() {
    for prefer in [None, Some((B, ms(60_000))), Some((A, ms(60_000)))] {
        let mut b = Standby::with(Policy { prefer, ..Policy::default() });
        b.certify();
        b.run(200);
        b.promoted(4);
        b.run(5000);
        // A is back, and follows; first it is brought level.
        let mut back = view(Role::Secondary, 4, NodeSet::only(B));
        back.disk = Disk::Behind;
        b.peer.engine = EngineReport::Alive { view: back, beat_age_ms: 5 };
        b.own.link = Link::Connected;
        b.run(100_000);
        let asked = b.asked.len();
        *b.peer_view() = view(Role::Secondary, 5, NodeSet::BOTH);
        b.own = view(Role::Primary, 5, NodeSet::BOTH);
        b.own.primary = Some(B);
        let from = b.now;
        b.run(59_000);
        assert_eq!(b.asked.len(), asked, "{prefer:?}");
        b.run(3000);
        let moved = b.asked.len() > asked;
        assert_eq!(moved, prefer.is_some_and(|(node, _)| node == A), "{prefer:?}: {:?}", b.asked);
        if moved {
            let (when, ask) = b.asked[asked];
            assert!(matches!(ask, Ask::HandOver(_)) && when >= from + 60_000);
        }
    }
}

#[test]
fn a_service_that_a_person_moved_stays_although_the_other_node_is_preferred() {
    let mut b = Standby::with(Policy { prefer: Some((A, ms(5000))), ..Policy::default() });
    b.own = view(Role::Primary, 4, NodeSet::BOTH);
    b.own.primary = Some(B);
    *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
    b.run(200_000);
    assert!(b.asked.is_empty(), "{:?}", b.asked);
}

#[test]
fn the_portals_of_a_dead_node_are_here_until_it_is_heard_again() {
    let mut b = Standby::with(Policy { stands_in: true, ..Policy::default() });
    // It was not stood in for; that is said once, at the first meeting.
    assert_eq!(b.effects.iter().filter(|it| **it == Effect::AnnounceOwn).count(), 1);
    b.networks.clear();
    b.part();
    b.run(2000);
    assert!(b.stand_in.is_empty(), "not before this node serves");
    b.promoted(4);
    b.run(2000);
    assert!(matches!(b.stand_in.as_slice(), [(_, true)]), "{:?}", b.stand_in);
    assert!(b.core.report(at(b.now)).stands_in);
    // Its agent is back; its engine not yet.
    b.peer.engine = EngineReport::Absent;
    b.networks = vec![0];
    let from = b.now;
    b.run(150);
    assert!(matches!(b.stand_in.as_slice(), [_, (when, false)] if *when <= from + 100), "{:?}", b.stand_in);
    // Only a node that is silent is stood in for.
    b.run(10_000);
    assert_eq!(b.stand_in.len(), 2);
}

#[test]
fn portals_that_a_killed_agent_has_left_are_let_go() {
    let mut core = Core::new(A, timing(), true, 5, 1, at(0))
        .with_policy(Policy { stands_in: true, ..Policy::default() });
    let mut out = Vec::new();
    core.on_stand_in(at(1), true, &mut out);
    assert!(out.contains(&Effect::StandIn(false)), "{out:?}");
}

#[test]
fn a_node_that_was_stood_in_for_says_where_its_portals_are() {
    let mut b = Standby::with(Policy { stands_in: true, ..Policy::default() });
    let announced = |b: &Standby| b.effects.iter().filter(|it| **it == Effect::AnnounceOwn).count();
    b.peer.stands_in = true;
    b.run(1000);
    assert_eq!(announced(&b), 1);
    b.peer.stands_in = false;
    b.run(1000);
    assert_eq!(announced(&b), 2);
}

#[test]
fn row_9_a_primary_without_clients_that_cannot_hand_over_is_replaced() {
    // Its arbiter is where its clients are, say.
    let mut b = Standby::new();
    let mut out = Vec::new();
    b.core.on_clients(at(b.now), ClientNetwork::Up, &mut out);
    b.take(out);
    let from = b.now;
    b.peer.clients = ClientNetwork::Down;
    b.run(600);
    assert!(b.asked.is_empty(), "it may hand over by itself");
    b.run(400);
    b.asked_within(from + 700, 100, Reason::PeerCutOff);
    // Not when nobody can be reached from here either, and not for a moment.
    let mut b = Standby::new();
    b.peer.clients = ClientNetwork::Down;
    b.run(5000);
    let mut out = Vec::new();
    b.core.on_clients(at(b.now), ClientNetwork::Up, &mut out);
    b.take(out);
    for _ in 0..5 {
        b.peer.clients = ClientNetwork::Down;
        b.run(500);
        b.peer.clients = ClientNetwork::Up;
        b.run(200);
    }
    assert!(b.asked.is_empty(), "{:?}", b.asked);
}

#[test]
fn row_14_an_arbiter_without_a_leader_is_asked_again_soon() {
    let mut b = Standby::new();
    b.networks.clear();
    b.part();
    b.run(600);
    b.answer(Err("the arbiter does not answer"));
    let from = b.now;
    b.run(110);
    assert_eq!(b.asked.len(), 2, "{:?}", b.asked);
    assert!(b.asked[1].0 <= from + 100);
}

#[test]
fn row_20_a_failed_disk_is_not_waited_for() {
    let mut b = Standby::new();
    let from = b.now;
    *b.peer_view() = EngineView { disk: Disk::Failed, ..view(Role::Secondary, 4, NodeSet::BOTH) };
    b.part();
    b.run(200);
    b.asked_within(from, 200, Reason::PeerDisk);
}

#[test]
fn row_30_what_a_person_stopped_stays_stopped() {
    let mut b = Standby::new();
    *b.peer_view() = EngineView { demoted: true, ..view(Role::Secondary, 3, NodeSet::BOTH) };
    b.run(60_000);
    b.networks.clear();
    b.part();
    b.run(60_000);
    assert!(b.asked.is_empty());
}

#[test]
fn after_both_were_down_the_last_primary_serves_first() {
    for (last, longest) in [(B, 700), (A, 5200)] {
        let mut b = Standby::new();
        let from = b.now;
        let idle = EngineView { primary: Some(last), ..view(Role::Secondary, 4, NodeSet::BOTH) };
        *b.peer_view() = idle;
        b.own = idle;
        b.run(10_000);
        b.asked_within(from, longest, Reason::NobodyServes);
        assert!(b.asked[0].0 + 800 > from + longest, "the other one waits for its turn");
    }
}

#[test]
fn a_node_that_starts_alone_waits_for_the_other_first() {
    let mut core = Core::new(A, timing(), true, 5, 1, at(0));
    let mut own = view(Role::Secondary, 3, NodeSet::BOTH);
    own.link = Link::Apart;
    own.peer_silent_ms = u32::MAX;
    let mut first = None;
    for now in (0..10_000).step_by(100) {
        let mut out = Vec::new();
        core.on_beat(at(now), own, &mut out);
        if out.contains(&Effect::Ask(Ask::TakeOver(Reason::NobodyServes))) {
            first.get_or_insert(now);
        }
    }
    assert_eq!(first, Some(5000));
}

#[test]
fn an_agent_that_was_stopped_listens_before_it_judges() {
    let mut b = Standby::new();
    b.part();
    b.run(100);
    // Stopped for half a minute; the first thing it does then is to look at its clock.
    b.now += 30_000;
    let mut out = Vec::new();
    b.core.on_gap(at(b.now), &mut out);
    b.core.on_beat(at(b.now), b.own, &mut out);
    b.take(out);
    b.run(1000);
    assert!(b.asked.is_empty(), "the peer was there all the time: {:?}", b.asked);
}

#[test]
fn without_an_arbiter_that_can_decide_nothing_is_asked() {
    let mut b = Standby::new();
    b.core.automatic = false;
    b.certify();
    b.run(1000);
    b.networks.clear();
    b.part();
    b.run(60_000);
    assert!(b.asked.is_empty());
}

#[test]
fn on_standby_nothing_is_taken_and_what_is_had_is_handed_over() {
    let mut b = Standby::new();
    let mut out = Vec::new();
    b.core.on_standby(at(b.now), true, &mut out);
    b.take(out);
    b.certify();
    b.run(60_000);
    assert!(b.asked.is_empty());
    let mut b = Standby::new();
    b.own = view(Role::Primary, 4, NodeSet::BOTH);
    *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
    b.run(300);
    let mut out = Vec::new();
    b.core.on_standby(at(b.now), true, &mut out);
    b.take(out);
    assert!(matches!(b.asked.as_slice(), [(_, Ask::HandOver(_))]), "{:?}", b.asked);
}

#[test]
fn row_8_the_service_does_not_move_back_and_forth() {
    let mut b = Standby::new();
    b.networks.clear();
    b.part();
    b.run(600);
    b.promoted(5);
    // A comes back, is resynced, and B dies and comes back: A served meanwhile.
    b.networks = vec![0, 1];
    *b.peer_view() = view(Role::Primary, 6, NodeSet::BOTH);
    b.own = view(Role::Secondary, 6, NodeSet::BOTH);
    b.run(1500);
    b.asked.clear();
    let moved = b.now;
    b.networks.clear();
    b.part();
    b.run(30_000);
    let (when, _) = b.asked[0];
    assert!(when >= moved + 8000, "two moves in a minute: ten seconds of silence, not {} ms", when - moved);
    // A certificate is no guess.
    let mut b = Standby::new();
    b.core.moves = vec![at(900), at(950), at(990)];
    b.core.server = Some(A);
    b.certify();
    let from = b.now;
    b.run(100);
    b.asked_within(from, 100, Reason::EngineDied);
}

#[test]
fn the_addresses_follow_the_engine_and_leave_when_its_word_is_old() {
    let mut b = Standby::new();
    b.certify();
    b.run(100);
    // The dead engine's kernel still has the addresses: no matter, its agent lets go when these are here.
    b.peer.holds_addresses = true;
    b.run(100);
    b.promoted(4);
    assert_eq!(b.addresses, [(b.now, true)], "at once");
    b.peer.holds_addresses = false;
    b.run(500);
    // Held requests: kept for a while.
    b.own.service = Service::Held;
    b.run(1500);
    assert_eq!(b.addresses.len(), 1);
    assert_eq!(b.effects.last(), Some(&Effect::Announce(false)), "another may be taking over");
    b.own.service = Service::Alone;
    b.run(100);
    assert_eq!(b.effects.last(), Some(&Effect::Announce(true)));
    b.own.service = Service::Held;
    b.run(3500);
    assert_eq!(b.addresses.len(), 2, "not for ever");
    b.own.service = Service::Alone;
    b.run(200);
    assert_eq!(b.addresses.last().map(|it| it.1), Some(true));
    // The engine stands still.
    let from = b.now;
    b.own_speaks = false;
    b.run(2000);
    let (when, wanted) = *b.addresses.last().expect("it let go");
    assert!(!wanted && when <= from + 560, "let go at {when}");
}

#[test]
fn row_17_the_first_word_of_an_engine_that_wakes_moves_no_address() {
    let mut b = Standby::new();
    b.own = view(Role::Primary, 4, NodeSet::BOTH);
    *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
    b.run(300);
    b.own_speaks = false;
    b.run(1000);
    assert_eq!(b.addresses.iter().map(|it| it.1).collect::<Vec<_>>(), [true, false]);
    *b.peer_view() = EngineView { service: Service::Alone, ..view(Role::Primary, 5, NodeSet::only(A)) };
    b.run(30_000);
    // It has not looked around yet.
    b.own_speaks = true;
    b.run(100);
    assert_eq!(b.addresses.len(), 2, "{:?}", b.addresses);
}

#[test]
fn addresses_are_announced_again_when_the_peer_has_let_go() {
    let mut b = Standby::new();
    b.peer.holds_addresses = true;
    b.certify();
    b.run(100);
    b.promoted(4);
    b.run(100);
    b.effects.clear();
    b.peer.holds_addresses = false;
    b.run(500);
    let again = b.effects.iter().filter(|it| **it == Effect::Announce(true)).count();
    assert_eq!(again, 1, "{:?}", b.effects);
}

#[test]
fn they_linger_until_the_peer_has_them() {
    for (peer_serves, peer_holds, longest) in [(false, false, 1000), (true, false, 300), (true, true, 100)] {
        let mut b = Standby::new();
        b.own = view(Role::Primary, 4, NodeSet::BOTH);
        *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
        b.run(300);
        assert_eq!(b.addresses.len(), 1);
        let from = b.now;
        let mut out = Vec::new();
        b.core.on_engine_died(at(b.now), 7, &mut out);
        assert!(out.contains(&Effect::Speak), "the certificate is not kept for the next tick");
        b.take(out);
        b.own_speaks = false;
        if peer_serves {
            *b.peer_view() =
                EngineView { service: Service::Alone, ..view(Role::Primary, 5, NodeSet::only(A)) };
        }
        b.peer.holds_addresses = peer_holds;
        assert_eq!(b.effects.last(), Some(&Effect::Announce(false)), "they are the peer's to announce");
        b.run(2000);
        let (when, wanted) = b.addresses[1];
        assert!(!wanted);
        assert!((from + longest).abs_diff(when) <= 100, "let go after {} ms", when - from);
    }
}

#[test]
fn addresses_that_are_found_at_the_start_leave_unless_the_node_serves() {
    for serves in [true, false] {
        let mut core = Core::new(A, timing(), true, 5, 1, at(0));
        let mut out = Vec::new();
        core.on_addresses(at(0), true, &mut out);
        assert!(!out.contains(&Effect::Addresses(false)), "the engine has not been asked yet");
        if serves {
            core.on_beat(at(900), view(Role::Primary, 3, NodeSet::BOTH), &mut out);
        }
        core.on_timer(at(1001), &mut out);
        assert_eq!(out.contains(&Effect::Addresses(false)), !serves);
        assert_eq!(out.contains(&Effect::Addresses(true)), serves);
    }
}

#[test]
fn an_agent_that_leaves_hands_over_first_and_drops_the_addresses() {
    for answer in [Ok(()), Err("the other node is not in sync")] {
        let mut b = Standby::new();
        b.own = view(Role::Primary, 4, NodeSet::BOTH);
        *b.peer_view() = view(Role::Secondary, 4, NodeSet::BOTH);
        b.run(300);
        let mut out = Vec::new();
        b.core.on_leave(at(b.now), &mut out);
        b.take(out);
        assert!(matches!(b.asked.as_slice(), [(_, Ask::HandOver(_))]));
        assert!(!b.effects.contains(&Effect::Left));
        b.answer(answer);
        if answer.is_ok() {
            b.own = view(Role::Secondary, 5, NodeSet::BOTH);
            *b.peer_view() = view(Role::Primary, 5, NodeSet::BOTH);
        }
        b.run(300);
        assert_eq!(b.addresses.last().map(|it| it.1), Some(false));
        assert_eq!(b.effects.iter().filter(|effect| **effect == Effect::Left).count(), 1);
        assert_eq!(b.asked.len(), 1);
    }
}

#[path = "world_tests.rs"]
mod world;
