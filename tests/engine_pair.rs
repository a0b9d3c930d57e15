//! Two engines in one process: the pair meets over TCP, replicates, loses a node, and comes together again.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use support::initiator::{Initiator, pattern};
use support::{Disk, PATIENCE};
use twinlun::arbitration::Record;
use twinlun::engine::{Engine, EngineEvent, EnginePlan, EngineRequest, EngineStatus, LinkPlan, Tuning};
use twinlun::replication::handshake::LinkKey;
use twinlun::volume::coordinator::{CasOutcome, RecordOutcome};
use twinlun::volume::operator::{DiskState, OperatorCommand, Refusal, Ticket};

const DISK_BYTES: u64 = 48 << 20;

/// The arbiter: one record, compared and swapped.
type Arbiter = Arc<Mutex<Record>>;

/// A running node and who answers its engine's questions.
struct Node {
    engine: Engine,
    arbiter: Arbiter,
    portal: Option<SocketAddr>,
    tickets: u64,
    replies: Vec<(Ticket, Result<(), Refusal>)>,
}

impl Node {
    fn start(disk: &Disk, shards: u8, link: LinkPlan, arbiter: &Arbiter) -> Self {
        Self::start_plan(disk.plan(shards, Some(link), Tuning::default()), arbiter)
    }

    fn start_plan(plan: EnginePlan, arbiter: &Arbiter) -> Self {
        let engine = Engine::start(plan).expect("the engine starts");
        Self { engine, arbiter: arbiter.clone(), portal: None, tickets: 0, replies: Vec::new() }
    }

    /// Answers what the engine asks until it is silent for a moment.
    fn attend(&mut self) {
        loop {
            match self.engine.events().recv_timeout(Duration::from_millis(5)) {
                Ok(EngineEvent::Serving { addresses }) => self.portal = Some(addresses[0]),
                Ok(EngineEvent::NotServing) => self.portal = None,
                Ok(EngineEvent::ReadRecord) => {
                    let record = *self.arbiter.lock().expect("nobody panics with it");
                    self.engine.request(EngineRequest::Record(RecordOutcome::Known(record)));
                }
                Ok(EngineEvent::Cas { expected, proposed }) => {
                    let mut record = self.arbiter.lock().expect("nobody panics with it");
                    let outcome = if *record == expected || *record == proposed {
                        *record = proposed;
                        CasOutcome::Won
                    } else {
                        CasOutcome::Lost(*record)
                    };
                    self.engine.request(EngineRequest::Cas(outcome));
                }
                Ok(EngineEvent::Reply { ticket, result }) => self.replies.push((ticket, result)),
                Ok(EngineEvent::Failed { why }) => panic!("the engine fails: {why}"),
                Ok(EngineEvent::LinkTrouble { .. } | EngineEvent::Volume(_) | EngineEvent::Notice(_)) => {}
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("the engine has ended"),
            }
        }
    }

    fn status(&mut self) -> EngineStatus {
        let (reply, answer) = bounded(1);
        self.engine.request(EngineRequest::Status { reply });
        answer.recv_timeout(PATIENCE).expect("the engine tells its status")
    }

    fn order(&mut self, command: OperatorCommand) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.engine.request(EngineRequest::Operator { ticket, command });
        ticket
    }

    fn answered(&self, ticket: Ticket) -> bool {
        match self.replies.iter().find(|(answered, _)| *answered == ticket) {
            Some((_, Ok(()))) => true,
            Some((_, Err(refusal))) => panic!("refused: {refusal}"),
            None => false,
        }
    }
}

/// Attends to the nodes until the condition holds.
fn until(nodes: &mut [&mut Node], what: &str, mut holds: impl FnMut(&mut [&mut Node]) -> bool) {
    let begun = Instant::now();
    loop {
        for node in nodes.iter_mut() {
            node.attend();
        }
        if holds(nodes) {
            return;
        }
        if begun.elapsed() > PATIENCE {
            let states: Vec<_> = nodes.iter_mut().map(|node| node.status().volume).collect();
            panic!("{what}: not within {PATIENCE:?}: {states:#?}");
        }
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free")
}

fn links() -> [LinkPlan; 2] {
    let key = LinkKey::new(b"a secret of sixteen bytes or more").expect("long enough");
    let listener = free_port();
    let connector: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let peer_timeout = Duration::from_secs(2);
    [
        LinkPlan { key: key.clone(), local: connector, peer: listener, peer_timeout },
        LinkPlan { key, local: listener, peer: connector, peer_timeout },
    ]
}

fn both_up_to_date(nodes: &mut [&mut Node]) -> bool {
    nodes.iter_mut().all(|node| {
        let status = node.status().volume;
        status.disk == DiskState::UpToDate && status.peer_disk == DiskState::UpToDate
    })
}

fn data_is_equal(disks: &[Disk; 2]) -> bool {
    let [a, b] = [0, 1].map(|n: usize| std::fs::read(disks[n].path()).expect("read"));
    let data = usize::try_from(DISK_BYTES).expect("small") - (2 << 20);
    a[..data] == b[..data]
}

fn initiator(node: &Node, isid: u8) -> Initiator {
    let mut initiator = Initiator::login(node.portal.expect("the node serves"), isid);
    initiator.ready();
    initiator
}

/// Two fresh disks that were never together.
fn fresh_disks() -> [Disk; 2] {
    [0, 1].map(|node| {
        let disk = Disk::new(DISK_BYTES);
        disk.format(node, true);
        disk
    })
}

#[test]
fn a_pair_replicates_survives_its_primary_and_comes_together_again() {
    for shards in [[1, 1], [2, 3]] {
        let disks = fresh_disks();
        let arbiter = Arbiter::default();
        let plans = links();
        let mut a = Node::start(&disks[0], shards[0], plans[0].clone(), &arbiter);
        let mut b = Node::start(&disks[1], shards[1], plans[1].clone(), &arbiter);

        let ticket = a.order(OperatorCommand::Promote { seed: true, i_have_fenced: None });
        until(&mut [&mut a, &mut b], "the first promotion", |nodes| nodes[0].answered(ticket));
        until(&mut [&mut a, &mut b], "the first resync", both_up_to_date);
        until(&mut [&mut a, &mut b], "the portal", |nodes| nodes[0].portal.is_some());

        let mut host = initiator(&a, 1);
        for number in 0..64u64 {
            host.write(number * 1031, &pattern(number, 4096 + (number as usize % 7) * 8192));
            a.attend();
            b.attend();
        }
        assert_eq!(host.run(&support::initiator::cdb(0x91, 0, 0), &[], 0).0, 0, "SYNCHRONIZE CACHE");
        drop(host);
        assert!(data_is_equal(&disks), "what was answered is on both disks");

        // The primary ends without a word; the other takes over and goes on alone.
        a.engine.stop();
        let ticket = b.order(OperatorCommand::Promote { seed: false, i_have_fenced: None });
        until(&mut [&mut b], "the takeover", |nodes| nodes[0].answered(ticket) && nodes[0].portal.is_some());
        let mut host = initiator(&b, 1);
        for number in 0..64u64 {
            let len = 4096 + (number as usize % 7) * 8192;
            assert!(host.read(number * 1031, len) == pattern(number, len), "write {number} survived");
        }
        for number in 0..16u64 {
            host.write(number * 4001, &pattern(1000 + number, 8192));
        }

        // The old primary comes back, follows, and is brought up to date.
        let mut a = Node::start(&disks[0], shards[0], plans[0].clone(), &arbiter);
        until(&mut [&mut a, &mut b], "the resync back", both_up_to_date);
        host.write(7, &pattern(7, 4096));
        for number in 1..16u64 {
            assert!(host.read(number * 4001, 8192) == pattern(1000 + number, 8192));
        }
        drop(host);
        for node in [&mut a, &mut b] {
            let ticket = node.order(OperatorCommand::Stop);
            until(&mut [node], "the orderly end", |nodes| nodes[0].answered(ticket));
        }
        a.engine.stop();
        b.engine.stop();
        assert!(data_is_equal(&disks), "both disks are equal in the end");
    }
}

/// Both nodes take initiators; the one that follows forwards, also while the two change places.
#[test]
fn initiators_at_both_nodes_see_one_disk_through_a_switchover() {
    for shards in [[1, 1], [3, 2]] {
        let disks = fresh_disks();
        let arbiter = Arbiter::default();
        let plans = links();
        let start = |n: usize| {
            let mut plan = disks[n].plan(shards[n], Some(plans[n].clone()), Tuning::default());
            plan.standby_serves = true;
            Node::start_plan(plan, &arbiter)
        };
        let (mut a, mut b) = (start(0), start(1));
        a.order(OperatorCommand::Promote { seed: true, i_have_fenced: None });
        until(&mut [&mut a, &mut b], "the first resync", both_up_to_date);
        until(&mut [&mut a, &mut b], "both portals", |nodes| nodes.iter().all(|node| node.portal.is_some()));
        let mut hosts = [initiator(&a, 1), initiator(&b, 2)];
        for number in 0..48u64 {
            let (here, there) = (number as usize % 2, (number as usize + 1) % 2);
            let bytes = pattern(number, 4096 + (number as usize % 7) * 24576);
            hosts[here].write(number * 1031, &bytes);
            assert!(hosts[there].read(number * 1031, bytes.len()) == bytes, "write {number}");
        }
        let ticket = a.order(OperatorCommand::Switchover);
        until(&mut [&mut a, &mut b], "the switchover", |nodes| nodes[0].answered(ticket));
        until(&mut [&mut a, &mut b], "both portals again", |nodes| {
            nodes.iter().all(|node| node.portal.is_some())
        });
        // The same sessions go on.
        for number in 0..48u64 {
            let there = (number as usize + 1) % 2;
            let bytes = pattern(number, 4096 + (number as usize % 7) * 24576);
            assert!(hosts[there].read(number * 1031, bytes.len()) == bytes, "write {number} afterwards");
            hosts[1 - there].write(number * 1031, &pattern(100 + number, 8192));
        }
        for host in &mut hosts {
            assert_eq!(host.run(&support::initiator::cdb(0x91, 0, 0), &[], 0).0, 0, "SYNCHRONIZE CACHE");
        }
        drop(hosts);
        assert!(data_is_equal(&disks), "what was answered is on both disks");
        a.engine.stop();
        b.engine.stop();
    }
}

/// PERSISTENT RESERVE OUT; the status.
fn reserve(host: &mut Initiator, action: u8, kind: u8, key: u64, new_key: u64) -> u8 {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new_key.to_be_bytes());
    host.run(&[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], &list, 0).0
}

/// The keys that PERSISTENT RESERVE IN tells: READ KEYS (0) or READ RESERVATION (1).
fn keys(host: &mut Initiator, action: u8) -> Vec<u64> {
    let (status, data) = host.run(&[0x5E, action, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256);
    assert_eq!(status, 0, "PERSISTENT RESERVE IN");
    let len = u32::from_be_bytes(data[4..8].try_into().expect("four bytes")) as usize;
    let mut keys: Vec<u64> = data[8..8 + len]
        .chunks(if action == 0 { 8 } else { 16 })
        .map(|key| u64::from_be_bytes(key[..8].try_into().expect("eight bytes")))
        .collect();
    keys.sort_unstable();
    keys
}

/// Reservations are made through either node, hold at both, and outlive the leader and a restart of both.
#[test]
fn a_reservation_holds_at_both_nodes_and_outlives_them() {
    const REGISTER: u8 = 0;
    const RESERVE: u8 = 1;
    const WRITE_EXCLUSIVE: u8 = 1;
    const CONFLICT: u8 = 0x18;
    for shards in [[1, 1], [3, 2]] {
        let disks = fresh_disks();
        let arbiter = Arbiter::default();
        let plans = links();
        let start = |n: usize| {
            let mut plan = disks[n].plan(shards[n], Some(plans[n].clone()), Tuning::default());
            plan.standby_serves = true;
            Node::start_plan(plan, &arbiter)
        };
        let serve = |nodes: &mut [&mut Node]| nodes.iter().all(|node| node.portal.is_some());
        let (mut a, mut b) = (start(0), start(1));
        a.order(OperatorCommand::Promote { seed: true, i_have_fenced: None });
        until(&mut [&mut a, &mut b], "the first resync", both_up_to_date);
        until(&mut [&mut a, &mut b], "both portals", serve);
        let (mut one, mut two) = (initiator(&a, 1), initiator(&b, 2));
        assert_eq!(reserve(&mut one, REGISTER, 0, 0, 0x11), 0, "REGISTER at the leader");
        assert_eq!(reserve(&mut two, REGISTER, 0, 0, 0x22), 0, "REGISTER at the follower");
        assert_eq!((keys(&mut one, 0), keys(&mut two, 0)), (vec![0x11, 0x22], vec![0x11, 0x22]));
        assert_eq!(reserve(&mut two, RESERVE, WRITE_EXCLUSIVE, 0x22, 0), 0, "RESERVE at the follower");
        let write = support::initiator::cdb(0x8A, 0, 4096);
        assert_eq!(one.run(&write, &[7; 4096], 0).0, CONFLICT, "at once, at the leader");
        two.write(0, &pattern(1, 4096));
        assert_eq!([&mut a, &mut b].map(|node| node.status().volume.unit.0), [3, 3]);

        // The leader ends without a word.
        drop((one, two));
        until(&mut [&mut a, &mut b], "both hold everything", both_up_to_date);
        a.engine.stop();
        let ticket = b.order(OperatorCommand::Promote { seed: false, i_have_fenced: None });
        until(&mut [&mut b], "the takeover", |nodes| nodes[0].answered(ticket) && nodes[0].portal.is_some());
        let (mut one, mut two) = (initiator(&b, 1), initiator(&b, 2));
        assert_eq!((keys(&mut one, 0), keys(&mut one, 1)), (vec![0x11, 0x22], vec![0x22]));
        assert_eq!(one.run(&write, &[7; 4096], 0).0, CONFLICT, "after the takeover");
        two.write(0, &pattern(2, 4096));
        assert_eq!(reserve(&mut one, REGISTER, 0, 0x11, 0x33), 0, "another key, while alone");

        // Both start anew; the old leader follows first.
        drop((one, two));
        b.engine.stop();
        let (mut a, mut b) = (start(0), start(1));
        let ticket = b.order(OperatorCommand::Promote { seed: false, i_have_fenced: None });
        until(&mut [&mut a, &mut b], "the promotion", |nodes| nodes[1].answered(ticket));
        until(&mut [&mut a, &mut b], "the last resync", both_up_to_date);
        until(&mut [&mut a, &mut b], "both portals in the end", serve);
        let mut one = initiator(&a, 1);
        assert_eq!((keys(&mut one, 0), keys(&mut one, 1)), (vec![0x22, 0x33], vec![0x22]));
        assert_eq!(one.run(&write, &[7; 4096], 0).0, CONFLICT, "after the restart, at the follower");
        drop(one);
        a.engine.stop();
        b.engine.stop();
    }
}

#[test]
fn a_peer_with_another_secret_is_refused_and_named() {
    let disks = fresh_disks();
    let arbiter = Arbiter::default();
    let mut plans = links();
    plans[1].key = LinkKey::new(b"another secret of enough bytes").expect("long enough");
    let nodes = [0, 1].map(|n: usize| Node::start(&disks[n], 1, plans[n].clone(), &arbiter));
    for node in &nodes {
        let begun = Instant::now();
        let told = loop {
            assert!(begun.elapsed() < PATIENCE, "the trouble is told");
            match node.engine.events().recv_timeout(PATIENCE) {
                Ok(EngineEvent::LinkTrouble { why }) if why.contains("secret") => break why,
                _ => {}
            }
        };
        assert!(told.contains("same bytes"), "it says what to do: {told}");
    }
    for node in nodes {
        node.engine.stop();
    }
}

/// Strangers at the replication port: more than may shake hands at one time, silent, dribbling, and coming again.
#[test]
fn a_thousand_strangers_at_the_replication_port_keep_nobody_out() {
    use std::io::Write;
    use std::net::TcpStream;
    let disks = fresh_disks();
    let arbiter = Arbiter::default();
    let plans = links();
    let listener = plans[1].local;
    let mut b = Node::start(&disks[1], 1, plans[1].clone(), &arbiter);
    let mut strangers = Vec::new();
    let come = |strangers: &mut Vec<TcpStream>, number: usize| {
        for _ in 0..number {
            strangers.extend(TcpStream::connect(listener));
        }
        for stream in strangers.iter_mut() {
            // Those that were turned away cannot be written to.
            let _ = stream.write(b"T");
        }
    };
    until(&mut [&mut b], "the port", |_| TcpStream::connect(listener).is_ok());
    come(&mut strangers, 300);
    // The peer comes last, and is let in.
    let mut a = Node::start(&disks[0], 1, plans[0].clone(), &arbiter);
    let ticket = a.order(OperatorCommand::Promote { seed: true, i_have_fenced: None });
    until(&mut [&mut a, &mut b], "the first promotion", |nodes| nodes[0].answered(ticket));
    until(&mut [&mut a, &mut b], "the first resync", both_up_to_date);
    until(&mut [&mut a, &mut b], "the portal", |nodes| nodes[0].portal.is_some());
    let mut host = initiator(&a, 1);
    for number in 0..7u64 {
        come(&mut strangers, 100);
        for block in 0..8 {
            host.write(block * 1031, &pattern(number, 4096));
            assert!(host.read(block * 1031, 4096) == pattern(number, 4096));
        }
        until(&mut [&mut a, &mut b], "both in sync as before", both_up_to_date);
    }
    drop((host, strangers));
    a.engine.stop();
    b.engine.stop();
}
