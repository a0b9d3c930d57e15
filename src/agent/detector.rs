//! What is heard of the peer: on which networks, how long ago, whether it hears this node, and its newest report.
//!
//! A datagram counts only if it is fresh: of the incarnation that speaks at present and newer than everything heard of
//! it on that network. A new incarnation must show that it lives now, by echoing something that *this* incarnation
//! said later than all that was echoed before: a recording of an earlier one cannot. So a replay refreshes nothing.
//! Absent on purpose: sockets, and what follows from silence (the decision's).

use crate::time::{Duration, Instant};

use super::message::{Body, ClientConnection, Datagram, NETWORKS_MAX, Report};
use crate::units::NodeId;

/// Why an authentic datagram is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// This node's own, or for a network that is not configured.
    NotThePeers,
    /// Heard before, or older than what was heard.
    Replay,
    /// Of another incarnation that has not shown that it lives now. Ordinary while the two meet.
    Unproven,
}

#[derive(Clone, Copy, Debug, Default)]
struct Network {
    heard: Option<Instant>,
    sequence: u64,
}

/// The incarnation that speaks at present.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    incarnation: u64,
    /// Newest sequence of it on any network.
    sequence: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Detector {
    me: NodeId,
    incarnation: u64,
    networks: Vec<Network>,
    speaker: Option<Speaker>,
    /// Newest sequence of this node's that was ever echoed.
    echoed: u64,
    report: Option<(Instant, Report)>,
    /// What the header of the next datagram echoes.
    candidate: Option<(u64, u64)>,
    clients: Clients,
}

/// The peer's list of connections, and the one that is being received.
#[derive(Debug, Default)]
struct Clients {
    complete: Vec<ClientConnection>,
    list: u32,
    parts: Vec<Option<Vec<ClientConnection>>>,
}

impl Detector {
    /// `incarnation`: random, not 0.
    pub fn new(me: NodeId, incarnation: u64, networks: usize) -> Self {
        assert!(incarnation != 0 && (1..=NETWORKS_MAX).contains(&networks));
        Self {
            me,
            incarnation,
            networks: vec![Network::default(); networks],
            speaker: None,
            echoed: 0,
            report: None,
            candidate: None,
            clients: Clients::default(),
        }
    }

    /// Takes an authentic datagram. Returns whether it brought a report.
    pub fn on_datagram(&mut self, now: Instant, datagram: Datagram) -> Result<bool, Stale> {
        let header = datagram.header;
        let known = usize::from(header.network) < self.networks.len();
        if header.node == self.me || !known || header.incarnation == 0 {
            return Err(Stale::NotThePeers);
        }
        let network = &self.networks[usize::from(header.network)];
        match self.speaker {
            Some(speaker) if speaker.incarnation == header.incarnation => {
                if header.sequence <= network.sequence {
                    return Err(Stale::Replay);
                }
            }
            _ => {
                let proof = header.echo_incarnation == self.incarnation && header.echo_sequence > self.echoed;
                if !proof {
                    // Echo it, so that it can prove itself. A recording gets nothing from that.
                    self.candidate = Some((header.incarnation, header.sequence));
                    return Err(Stale::Unproven);
                }
                self.speaker = Some(Speaker { incarnation: header.incarnation, sequence: 0 });
                self.networks.fill(Network::default());
                self.report = None;
                self.clients = Clients::default();
            }
        }
        self.networks[usize::from(header.network)] = Network { heard: Some(now), sequence: header.sequence };
        if header.echo_incarnation == self.incarnation {
            self.echoed = self.echoed.max(header.echo_sequence);
        }
        let speaker = self.speaker.as_mut().expect("set above");
        let newest = header.sequence > speaker.sequence;
        speaker.sequence = speaker.sequence.max(header.sequence);
        self.candidate = Some((speaker.incarnation, speaker.sequence));
        match datagram.body {
            Body::Heartbeat(report) if newest => {
                self.report = Some((now, report));
                Ok(true)
            }
            Body::Heartbeat(_) => Ok(false),
            Body::Clients { list, part, parts, connections } => {
                self.clients.take(list, part, parts, connections);
                Ok(false)
            }
        }
    }

    /// What to echo: the peer's incarnation and the newest sequence heard of it, (0, 0) before the first.
    pub fn echo(&self) -> (u64, u64) {
        self.candidate.unwrap_or_default()
    }

    /// When the peer was last heard on any network; `None`: never.
    pub fn heard(&self) -> Option<Instant> {
        self.networks.iter().filter_map(|network| network.heard).max()
    }

    /// When the peer was last heard on each network.
    pub fn heard_on(&self) -> impl Iterator<Item = Option<Instant>> + '_ {
        self.networks.iter().map(|network| network.heard)
    }

    /// Networks on which the peer was heard within `patience`, a bit each.
    pub fn hears(&self, now: Instant, patience: Duration) -> u8 {
        let fresh = |heard: Option<Instant>| heard.is_some_and(|at| now.since(at) < patience);
        self.networks.iter().enumerate().map(|(at, network)| u8::from(fresh(network.heard)) << at).sum()
    }

    /// The newest report and when it came.
    pub fn report(&self) -> Option<(Instant, &Report)> {
        self.report.as_ref().map(|(at, report)| (*at, report))
    }

    /// The initiators' connections that the peer told of last.
    pub fn clients(&self) -> &[ClientConnection] {
        &self.clients.complete
    }
}

impl Clients {
    fn take(&mut self, list: u32, part: u8, parts: u8, connections: Vec<ClientConnection>) {
        if list != self.list || self.parts.len() != usize::from(parts) {
            self.list = list;
            self.parts = vec![None; usize::from(parts)];
        }
        // The wire format has checked that the part is one of the parts.
        self.parts[usize::from(part)] = Some(connections);
        if self.parts.iter().all(Option::is_some) {
            self.complete = self.parts.iter().flatten().flatten().copied().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{ClientNetwork, EngineReport, Header};
    use super::*;

    const MINE: u64 = 11;
    const THEIRS: u64 = 22;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn report(leaving: bool) -> Report {
        Report {
            engine: EngineReport::Absent,
            hears: 0,
            holds_addresses: false,
            stands_in: false,
            standby: false,
            leaving,
            clients: ClientNetwork::Unknown,
        }
    }

    fn datagram(incarnation: u64, sequence: u64, network: u8, echo: (u64, u64)) -> Datagram {
        Datagram {
            header: Header {
                node: NodeId(1),
                network,
                incarnation,
                sequence,
                echo_incarnation: echo.0,
                echo_sequence: echo.1,
            },
            body: Body::Heartbeat(report(false)),
        }
    }

    fn detector() -> Detector {
        Detector::new(NodeId(0), MINE, 2)
    }

    #[test]
    fn the_two_meet_by_echoing_each_other() {
        let mut detector = detector();
        assert_eq!(detector.on_datagram(at(0), datagram(THEIRS, 1, 0, (0, 0))), Err(Stale::Unproven));
        assert_eq!(detector.heard(), None);
        assert_eq!(detector.echo(), (THEIRS, 1));
        assert_eq!(detector.on_datagram(at(1), datagram(THEIRS, 2, 0, (MINE, 1))), Ok(true));
        assert_eq!(detector.heard(), Some(at(1)));
        assert_eq!(detector.hears(at(2), Duration::from_millis(500)), 0b01);
        // The same tick on the other network is heard there, and is no news.
        assert_eq!(detector.on_datagram(at(3), datagram(THEIRS, 2, 1, (MINE, 1))), Ok(false));
        assert_eq!(detector.hears(at(3), Duration::from_millis(500)), 0b11);
    }

    #[test]
    fn replays_refresh_nothing() {
        let mut detector = detector();
        let first = datagram(THEIRS, 1, 0, (MINE, 1));
        assert_eq!(detector.on_datagram(at(0), first.clone()), Ok(true));
        assert_eq!(detector.on_datagram(at(9), first.clone()), Err(Stale::Replay));
        // Carried over to another network: the number of the network is under the MAC, so it is still of network 0.
        assert_eq!(detector.on_datagram(at(1), datagram(THEIRS, 5, 0, (MINE, 4))), Ok(true));
        // The peer starts anew.
        assert_eq!(detector.on_datagram(at(2), datagram(33, 1, 0, (MINE, 4))), Err(Stale::Unproven));
        assert_eq!(detector.on_datagram(at(3), datagram(33, 2, 0, (MINE, 6))), Ok(true));
        // A recording of the incarnation before says only what was echoed before.
        assert_eq!(detector.on_datagram(at(4), datagram(THEIRS, 6, 0, (MINE, 5))), Err(Stale::Unproven));
        assert_eq!(detector.on_datagram(at(4), first), Err(Stale::Unproven));
        // A recording of a talk with an earlier start of this node.
        assert_eq!(detector.on_datagram(at(5), datagram(44, 9, 0, (10, 999))), Err(Stale::Unproven));
        assert_eq!(detector.heard(), Some(at(3)));
    }

    #[test]
    fn strangers_are_not_heard() {
        let mut detector = detector();
        let mut own = datagram(MINE, 1, 0, (MINE, 1));
        own.header.node = NodeId(0);
        assert_eq!(detector.on_datagram(at(0), own), Err(Stale::NotThePeers));
        assert_eq!(detector.on_datagram(at(0), datagram(THEIRS, 1, 2, (MINE, 1))), Err(Stale::NotThePeers));
    }

    #[test]
    fn an_old_report_does_not_replace_a_newer_one() {
        let mut detector = detector();
        let mut newer = datagram(THEIRS, 8, 0, (MINE, 1));
        newer.body = Body::Heartbeat(report(true));
        assert_eq!(detector.on_datagram(at(0), newer), Ok(true));
        // The slower network is one tick behind: it is heard, its report is not taken.
        assert_eq!(detector.on_datagram(at(1), datagram(THEIRS, 7, 1, (MINE, 1))), Ok(false));
        assert!(detector.report().is_some_and(|(_, report)| report.leaving));
        assert_eq!(detector.hears(at(1), Duration::from_millis(500)), 0b11);
    }

    #[test]
    fn a_list_of_clients_counts_when_it_is_whole() {
        let mut detector = detector();
        let client = |port: u16| ClientConnection {
            local: "192.0.2.1:3260".parse().expect("an address"),
            remote: SocketAddr::from(([192, 0, 2, 9], port)),
        };
        let mut number = 0;
        let mut tell = |detector: &mut Detector, list, part, parts, ports: &[u16]| {
            number += 1;
            let mut sent = datagram(THEIRS, number, 0, (MINE, 1));
            let connections = ports.iter().map(|port| client(*port)).collect();
            sent.body = Body::Clients { list, part, parts, connections };
            assert_eq!(detector.on_datagram(at(number), sent), Ok(false));
        };
        tell(&mut detector, 1, 0, 2, &[1]);
        assert!(detector.clients().is_empty());
        tell(&mut detector, 1, 1, 2, &[2]);
        assert_eq!(detector.clients(), [client(1), client(2)]);
        tell(&mut detector, 2, 0, 2, &[3]);
        assert_eq!(detector.clients(), [client(1), client(2)]);
        tell(&mut detector, 3, 0, 1, &[]);
        assert!(detector.clients().is_empty());
    }

    use std::net::SocketAddr;
}
