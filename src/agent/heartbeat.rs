//! Heartbeats on every network: one thread that sends, and one for each network that listens.
//!
//! The sender waits for nothing but its clock: what it says is a value that the agent replaces when it has news. Should
//! the agent itself stand still, the age of the engine's last beat grows in what is sent, so nobody is deceived.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::message::{
    Body, CLIENTS_IN_ONE, ClientConnection, DATAGRAM_MAX, Datagram, EngineReport, Header, Key, Malformed,
    Report,
};
use crate::units::NodeId;

/// Pause before an address that is not there is tried again.
const BIND_PAUSE: Duration = Duration::from_millis(500);
/// The list of connections goes out with every so many heartbeats.
const CLIENTS_EVERY: u64 = 5;

/// What was heard and waits for the agent. More is not news but somebody's doing, and is lost like on a bad network.
pub const HEARD_MAX: usize = 256;
/// Pause between reports of datagrams that are not to be believed, on each network.
const MALFORMED_PAUSE: Duration = Duration::from_secs(1);

/// One network: this node's address and the peer's.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// What is heard.
#[derive(Debug)]
pub enum Heard {
    Datagram(Datagram),
    /// From the peer's address, and not to be believed.
    Malformed {
        network: usize,
        why: Malformed,
    },
    /// The address cannot be listened at; it is tried again.
    Deaf {
        network: usize,
        why: String,
    },
}

/// What the next heartbeat says.
#[derive(Clone, Debug)]
struct Speech {
    report: Report,
    /// When `report` was true.
    made: Instant,
    echo: (u64, u64),
    clients: Arc<[ClientConnection]>,
    list: u32,
}

/// The agent's voice. Dropping it ends the sender.
pub struct Voice {
    speech: Arc<Mutex<Speech>>,
    now: Sender<()>,
}

/// Who speaks, where, how often.
pub struct Speaker {
    pub node: NodeId,
    pub incarnation: u64,
    pub key: Key,
    pub networks: Vec<Network>,
    pub every: Duration,
}

type Socket = Arc<OnceLock<UdpSocket>>;

impl Voice {
    /// Begins to speak and to listen.
    pub fn start(speaker: Speaker, report: Report, heard: Sender<Heard>) -> io::Result<Self> {
        let (now, called) = bounded(1);
        let speech = Speech { report, made: Instant::now(), echo: (0, 0), clients: Arc::from([]), list: 0 };
        let speech = Arc::new(Mutex::new(speech));
        let mut sockets = Vec::new();
        for (number, network) in speaker.networks.iter().enumerate() {
            let socket = Socket::default();
            sockets.push(socket.clone());
            let (key, heard, network) = (speaker.key.clone(), heard.clone(), *network);
            thread::Builder::new()
                .name(format!("heartbeat-{number}"))
                .spawn(move || listen(number, network, &socket, &key, &heard))?;
        }
        let shared = speech.clone();
        thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || speak(&speaker, &sockets, &shared, &called))?;
        Ok(Self { speech, now })
    }

    /// What to say from now on.
    pub fn set(&self, report: Report, echo: (u64, u64)) {
        let mut speech = self.speech.lock().unwrap_or_else(PoisonError::into_inner);
        (speech.report, speech.made, speech.echo) = (report, Instant::now(), echo);
    }

    /// The initiators' connections to this node.
    pub fn set_clients(&self, clients: Vec<ClientConnection>) {
        let mut speech = self.speech.lock().unwrap_or_else(PoisonError::into_inner);
        if *speech.clients != clients {
            (speech.clients, speech.list) = (Arc::from(clients), speech.list.wrapping_add(1));
        }
    }

    /// Say it now.
    pub fn speak(&self) {
        // One that waits already says this as well.
        let _ = self.now.try_send(());
    }
}

/// Sends until the voice is gone.
fn speak(speaker: &Speaker, sockets: &[Socket], speech: &Mutex<Speech>, called: &Receiver<()>) {
    let mut sequence = 0;
    let mut tick = 0;
    let mut next = Instant::now();
    let mut list = 0;
    loop {
        match called.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                // After a pause there is nothing to catch up with.
                next = (next + speaker.every).max(Instant::now());
                tick += 1;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let speech = speech.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut bodies = vec![Body::Heartbeat(aged(speech.report, speech.made.elapsed()))];
        if speech.list != list || (tick % CLIENTS_EVERY == 0 && !speech.clients.is_empty()) {
            list = speech.list;
            bodies.extend(lists(list, &speech.clients));
        }
        for body in bodies {
            sequence += 1;
            say(speaker, sockets, &speech, sequence, body);
        }
    }
}

fn say(speaker: &Speaker, sockets: &[Socket], speech: &Speech, sequence: u64, body: Body) {
    let mut datagram = Datagram {
        header: Header {
            node: speaker.node,
            network: 0,
            incarnation: speaker.incarnation,
            sequence,
            echo_incarnation: speech.echo.0,
            echo_sequence: speech.echo.1,
        },
        body,
    };
    for (number, (socket, network)) in sockets.iter().zip(&speaker.networks).enumerate() {
        let Some(socket) = socket.get() else { continue };
        datagram.header.network = number as u8;
        // An error is a network that is down, or a peer that does not listen: the other end notices.
        let _ = socket.send_to(&datagram.encode(&speaker.key), network.peer);
    }
}

/// The report, older by so much.
fn aged(mut report: Report, by: Duration) -> Report {
    if let EngineReport::Alive { beat_age_ms, .. } = &mut report.engine {
        *beat_age_ms = beat_age_ms.saturating_add(u32::try_from(by.as_millis()).unwrap_or(u32::MAX));
    }
    report
}

fn lists(list: u32, clients: &[ClientConnection]) -> Vec<Body> {
    let most = CLIENTS_IN_ONE * usize::from(u8::MAX);
    let clients = &clients[..clients.len().min(most)];
    let parts = clients.len().div_ceil(CLIENTS_IN_ONE).max(1) as u8;
    let part = |number: u8| {
        let from = usize::from(number) * CLIENTS_IN_ONE;
        let to = clients.len().min(from + CLIENTS_IN_ONE);
        Body::Clients { list, part: number, parts, connections: clients[from..to].to_vec() }
    };
    (0..parts).map(part).collect()
}

/// Listens for ever on one network.
fn listen(number: usize, network: Network, socket: &OnceLock<UdpSocket>, key: &Key, heard: &Sender<Heard>) {
    let mut told = false;
    let bound = loop {
        match UdpSocket::bind(network.local) {
            Ok(bound) => break bound,
            Err(error) => {
                let why = error.to_string();
                if !told && heard.send(Heard::Deaf { network: number, why }).is_err() {
                    return;
                }
                told = true;
                thread::sleep(BIND_PAUSE);
            }
        }
    };
    let socket = socket.get_or_init(|| bound);
    // One more than the longest, so that a longer one is not taken for a shorter one.
    let mut bytes = [0; DATAGRAM_MAX + 1];
    let mut complained: Option<Instant> = None;
    loop {
        let (length, from) = match socket.recv_from(&mut bytes) {
            Ok(received) => received,
            // What an earlier send met (nobody listens there) is told to the next call.
            Err(_) => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
        };
        if from.ip() != network.peer.ip() {
            continue;
        }
        let news = match Datagram::decode(&bytes[..length], key) {
            Ok(datagram) if usize::from(datagram.header.network) == number => Heard::Datagram(datagram),
            Ok(_) => continue,
            Err(_) if complained.is_some_and(|at| at.elapsed() < MALFORMED_PAUSE) => continue,
            Err(why) => {
                complained = Some(Instant::now());
                Heard::Malformed { network: number, why }
            }
        };
        if let Err(TrySendError::Disconnected(_)) = heard.try_send(news) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::ClientNetwork;
    use super::*;

    fn report() -> Report {
        Report {
            engine: EngineReport::Absent,
            hears: 0,
            holds_addresses: false,
            stands_in: false,
            standby: false,
            leaving: false,
            clients: ClientNetwork::Unknown,
        }
    }

    #[test]
    fn lists_are_cut_into_parts_that_pass() {
        let client = ClientConnection {
            local: "192.0.2.1:3260".parse().expect("an address"),
            remote: "192.0.2.9:4000".parse().expect("an address"),
        };
        for (count, parts) in [(0, 1), (1, 1), (32, 1), (33, 2), (512, 16), (100_000, 255)] {
            let bodies = lists(1, &vec![client; count]);
            assert_eq!(bodies.len(), parts);
            let told: usize = bodies
                .iter()
                .map(|body| match body {
                    Body::Clients { connections, .. } => connections.len(),
                    Body::Heartbeat(_) => 0,
                })
                .sum();
            assert_eq!(told, count.min(32 * 255));
        }
    }

    #[test]
    fn two_agents_hear_each_other_and_nobody_else() {
        let free = || UdpSocket::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
        let (one, two) = (free(), free());
        let speaker = |node: u8, local, peer| Speaker {
            node: NodeId(node),
            incarnation: u64::from(node) + 1,
            key: Key::new(b"a secret of enough bytes", "v"),
            networks: vec![Network { local, peer }],
            every: Duration::from_millis(5),
        };
        let (heard_one, hear_one) = crossbeam_channel::unbounded();
        let (heard_two, hear_two) = crossbeam_channel::unbounded();
        let first = Voice::start(speaker(0, one, two), report(), heard_one).expect("threads");
        let _second = Voice::start(speaker(1, two, one), report(), heard_two).expect("threads");
        let patience = Duration::from_secs(20);
        let next = |from: &Receiver<Heard>| match from.recv_timeout(patience) {
            Ok(Heard::Datagram(datagram)) => datagram,
            other => panic!("a datagram, not {other:?}"),
        };
        assert_eq!(next(&hear_one).header.node, NodeId(1));
        first.set(Report { leaving: true, ..report() }, (2, 9));
        let leaves = |datagram: &Datagram| matches!(&datagram.body, Body::Heartbeat(it) if it.leaving);
        let changed = (0..10_000).map(|_| next(&hear_two)).find(leaves).expect("the news arrives");
        assert_eq!(changed.header.echo_sequence, 9);
        UdpSocket::bind("127.0.0.1:0").and_then(|it| it.send_to(b"TLHB forged", one)).expect("sent");
        let odd = hear_one.iter().find(|heard| !matches!(heard, Heard::Datagram(_)));
        assert!(matches!(odd, Some(Heard::Malformed { network: 0, .. })), "{odd:?}");
    }

    #[test]
    fn a_flood_of_forged_datagrams_hides_nobody_and_fills_nothing() {
        let free = || UdpSocket::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
        let (one, two) = (free(), free());
        let speaker = |node: u8, local, peer| Speaker {
            node: NodeId(node),
            incarnation: u64::from(node) + 1,
            key: Key::new(b"a secret of enough bytes", "v"),
            networks: vec![Network { local, peer }],
            every: Duration::from_millis(5),
        };
        let (heard, hear) = bounded(HEARD_MAX);
        let (heard_two, _hear_two) = bounded(HEARD_MAX);
        let _first = Voice::start(speaker(0, one, two), report(), heard).expect("threads");
        let _second = Voice::start(speaker(1, two, one), report(), heard_two).expect("threads");
        let flood = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let forged = [b"TLHB\x01".as_slice(), &[7; 200]].concat();
        // Authentic ones come through; of the others one is told in a while.
        let (mut authentic, mut refused) = (0, 0);
        let began = Instant::now();
        while authentic < 5 {
            for _ in 0..100 {
                let _ = flood.send_to(&forged, one);
            }
            for heard in hear.try_iter() {
                match heard {
                    Heard::Datagram(datagram) => authentic += usize::from(datagram.header.node == NodeId(1)),
                    _ => refused += 1,
                }
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the peer is not heard any more");
        }
        assert!(refused <= 1 + began.elapsed().as_secs() as usize, "{refused} reports");
        // Nobody listens to what is heard: it does not grow.
        while began.elapsed() < Duration::from_secs(60) && hear.len() < HEARD_MAX {
            let _ = flood.send_to(&forged, one);
        }
        assert_eq!(hear.len(), HEARD_MAX);
    }
}
