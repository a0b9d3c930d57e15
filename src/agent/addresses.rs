//! Keeps the service addresses where the agent wants them, on a thread of its own: takes and announces them, calls the
//! initiators over, gives them up, and looks every now and then whether all is as it should be.
//!
//! Taking goes: add, announce, tickle; then announce and tickle again a few times, because one lost frame must not cost
//! an initiator its patience. Somebody else who has the address is reported, and the address is taken all the same: who
//! may *answer* is decided elsewhere, and an initiator at the wrong node is only refused.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::interface::{self, Interface};
use super::message::{ClientConnection, ClientNetwork};
use super::packet::Mac;
use crate::daemon::config::ServiceAddress;

/// Between two looks at interfaces and connections.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// When to announce and tickle again after taking.
const REPEATS: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// How long to wait for somebody who says that the address is his.
const PROBE_PATIENCE: Duration = Duration::from_millis(100);
/// A probe this young need not be repeated.
const PROBE_AGE: Duration = Duration::from_secs(3);
/// `ESTABLISHED` in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// What the agent orders.
#[derive(Clone, Debug)]
pub enum Order {
    /// Find out whether anybody has the addresses; they will be taken soon.
    Probe,
    /// Have them here, and call these connections over.
    Take(Vec<ClientConnection>),
    /// Announce what is here and call the connections over, once more now; or do neither any more.
    Announce(bool),
    Release,
    /// Give them up and end.
    End,
}

/// What the keeper tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Any of them is here.
    Held(bool),
    Clients(ClientNetwork),
    /// Connections of initiators to them, when they have changed.
    Connections(Vec<ClientConnection>),
    /// What is wrong with an address; `None`: nothing any more.
    Trouble {
        address: ServiceAddress,
        why: Option<String>,
    },
    /// Who else says that the address is his.
    Elsewhere {
        address: ServiceAddress,
        owner: Option<Mac>,
    },
    /// Announced, and so many connections called over.
    Taken {
        called: usize,
        after: Duration,
    },
}

/// Starts the keeper. It ends with [`Order::End`] or when the orders end, and then the addresses are gone.
pub fn keep(
    addresses: Vec<ServiceAddress>,
    named: Option<String>,
    orders: Receiver<Order>,
    told: Sender<Told>,
) -> io::Result<JoinHandle<()>> {
    let mut keeper = Keeper::new(addresses, named, told);
    thread::Builder::new().name("addresses".to_owned()).spawn(move || keeper.run(&orders))
}

struct Place {
    address: ServiceAddress,
    /// Where it was found to belong.
    interface: Option<Interface>,
    trouble: Option<String>,
}

struct Keeper {
    places: Vec<Place>,
    named: Option<String>,
    told: Sender<Told>,
    wanted: bool,
    /// The addresses linger: the other node may have them already, and its word is the newer one.
    quiet: bool,
    held: Option<bool>,
    clients: Option<ClientNetwork>,
    probed: Option<Instant>,
    call: Vec<ClientConnection>,
    repeats: Vec<Instant>,
    connections: Vec<ClientConnection>,
}

impl Keeper {
    fn new(addresses: Vec<ServiceAddress>, named: Option<String>, told: Sender<Told>) -> Self {
        let place = |address| Place { address, interface: None, trouble: None };
        Self {
            places: addresses.into_iter().map(place).collect(),
            named,
            told,
            wanted: false,
            quiet: false,
            held: None,
            clients: None,
            probed: None,
            call: Vec::new(),
            repeats: Vec::new(),
            connections: Vec::new(),
        }
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        let mut look = Instant::now();
        loop {
            let next = self.repeats.first().map_or(look, |at| look.min(*at));
            match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Order::Probe) => self.probe(),
                Ok(Order::Take(call)) => self.take(call),
                Ok(Order::Announce(may)) => {
                    self.quiet = !may;
                    self.announce();
                    self.call_over();
                }
                Ok(Order::Release) => self.release(),
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return self.release(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if self.repeats.first().is_some_and(|at| *at <= now) {
                self.repeats.remove(0);
                self.announce();
                self.call_over();
                // By now the old owner has had time to let go.
                if self.repeats.len() == REPEATS.len() - 3
                    && self.probed.is_none_or(|at| at.elapsed() > PROBE_AGE)
                {
                    self.probe();
                }
            }
            if look <= now {
                self.look();
                look = now + LOOK_PAUSE;
            }
        }
    }

    fn tell(&self, told: Told) {
        // Without a listener the agent ends, and so does this.
        let _ = self.told.send(told);
    }

    fn trouble(&mut self, place: usize, why: Option<String>) {
        let Place { address, trouble, .. } = &mut self.places[place];
        if *trouble != why {
            trouble.clone_from(&why);
            let address = *address;
            self.tell(Told::Trouble { address, why });
        }
    }

    fn take(&mut self, call: Vec<ClientConnection>) {
        let began = Instant::now();
        self.wanted = true;
        self.quiet = false;
        self.call = call;
        self.add_missing();
        self.announce();
        self.tell_held();
        self.call_over();
        self.tell(Told::Taken { called: self.call.len(), after: began.elapsed() });
        let now = Instant::now();
        self.repeats = REPEATS.iter().map(|after| now + *after).collect();
    }

    fn add_missing(&mut self) {
        for number in 0..self.places.len() {
            let address = self.places[number].address;
            let named = self.named.as_deref();
            let added = interface::find(&address, named).and_then(|found| {
                interface::add(&found, &address)?;
                Ok(found)
            });
            match added {
                Ok(found) => {
                    self.places[number].interface = Some(found);
                    if self.places[number].trouble.as_deref().is_some_and(|why| why.starts_with("cannot")) {
                        self.trouble(number, None);
                    }
                }
                Err(error) => self.trouble(number, Some(format!("cannot add {address}: {error}"))),
            }
        }
    }

    fn announce(&mut self) {
        if self.quiet {
            return;
        }
        for place in &self.places {
            if let Some(found) = &place.interface {
                // A link that is down now is announced to later.
                if let Err(error) = interface::announce(found, place.address.ip) {
                    log::debug!("{} is not announced on {}: {error}", place.address, found.name);
                }
            }
        }
    }

    fn call_over(&mut self) {
        if self.quiet {
            return;
        }
        let mut sequence = [0; 4];
        if getrandom::fill(&mut sequence).is_err() {
            return;
        }
        for client in &self.call {
            if let Err(error) = interface::tickle(client.local, client.remote, u32::from_le_bytes(sequence)) {
                log::debug!("{} is not called over: {error}", client.remote);
            }
        }
    }

    fn release(&mut self) {
        self.wanted = false;
        self.repeats.clear();
        self.call.clear();
        for number in 0..self.places.len() {
            let address = self.places[number].address;
            let place = match self.places[number].interface.take() {
                Some(found) => Ok(found),
                None => interface::find(&address, self.named.as_deref()),
            };
            match place.and_then(|found| interface::remove(&found, &address)) {
                Ok(()) => self.trouble(number, None),
                Err(error) if self.is_here(number) => {
                    self.trouble(number, Some(format!("cannot remove {address}: {error}")));
                }
                Err(_) => {}
            }
        }
        self.tell_held();
    }

    fn is_here(&self, place: usize) -> bool {
        interface::is_here(self.places[place].address.ip).unwrap_or(false)
    }

    fn tell_held(&mut self) {
        let held = (0..self.places.len()).any(|place| self.is_here(place));
        if self.held != Some(held) {
            self.held = Some(held);
            self.tell(Told::Held(held));
        }
    }

    /// Has anybody else the addresses? Asked beside everything else: taking them must not wait for the answer.
    fn probe(&mut self) {
        self.probed = Some(Instant::now());
        let places: Vec<_> = self.places.iter().map(|place| place.address).collect();
        let (named, told) = (self.named.clone(), self.told.clone());
        let ask = move || {
            for address in places {
                let Ok(found) = interface::find(&address, named.as_deref()) else { continue };
                match interface::who_has(&found, address.ip, PROBE_PATIENCE) {
                    Ok(owner) => drop(told.send(Told::Elsewhere { address, owner })),
                    Err(error) => log::debug!("{address} is not probed on {}: {error}", found.name),
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("probe".to_owned()).spawn(ask) {
            log::warn!("the service addresses are not probed: {error}");
        }
    }

    fn look(&mut self) {
        if self.wanted && (0..self.places.len()).any(|place| !self.is_here(place)) {
            self.add_missing();
            self.announce();
        }
        self.tell_held();
        let clients = self.client_network();
        if self.clients != Some(clients) {
            self.clients = Some(clients);
            self.tell(Told::Clients(clients));
        }
        if self.wanted {
            let service: BTreeSet<IpAddr> = self.places.iter().map(|place| place.address.ip).collect();
            let mut connections = established(&service);
            connections.sort_unstable();
            if connections != self.connections {
                self.connections.clone_from(&connections);
                self.tell(Told::Connections(connections));
            }
        }
        // Addresses that were given up leave connections behind: the peer is to call them over, so it is still told.
    }

    /// Down if the interface of any service address is.
    fn client_network(&mut self) -> ClientNetwork {
        let mut worst = ClientNetwork::Unknown;
        for place in &self.places {
            let name = match &place.interface {
                Some(found) => found.name.clone(),
                None => match interface::find(&place.address, self.named.as_deref()) {
                    Ok(found) => found.name,
                    Err(_) => continue,
                },
            };
            match interface::state(&name) {
                ClientNetwork::Down => return ClientNetwork::Down,
                ClientNetwork::Up => worst = ClientNetwork::Up,
                ClientNetwork::Unknown => {}
            }
        }
        worst
    }
}

/// Connections of others to these addresses, by the kernel's list.
fn established(service: &BTreeSet<IpAddr>) -> Vec<ClientConnection> {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let (four, six) = (read("/proc/self/net/tcp"), read("/proc/self/net/tcp6"));
    let lines = four.lines().chain(six.lines());
    lines.filter_map(connection).filter(|it| service.contains(&it.local.ip())).collect()
}

/// One line of /proc/net/tcp or tcp6 (proc(5)): number, local and remote address, state in hexadecimal.
fn connection(line: &str) -> Option<ClientConnection> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    if state != ESTABLISHED {
        return None;
    }
    Some(ClientConnection { local: socket_address(local)?, remote: socket_address(remote)? })
}

/// Addresses are printed as 32-bit words in the host's byte order, ports as numbers.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words: Option<Vec<[u8; 4]>> = (0..4).map(word).collect();
            let octets: [u8; 16] = words?.concat().try_into().ok()?;
            let ip = Ipv6Addr::from(octets);
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernels_list_has_this_connection() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(text) else { continue };
            let local = listener.local_addr().expect("bound");
            let client = TcpStream::connect(local).expect("connected");
            let wanted = ClientConnection { local, remote: client.local_addr().expect("bound") };
            let service = BTreeSet::from([local.ip()]);
            assert!(established(&service).contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn what_was_connected_is_told_of_after_the_addresses_have_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let local = listener.local_addr().expect("bound");
        let client = TcpStream::connect(local).expect("connected");
        let wanted = ClientConnection { local, remote: client.local_addr().expect("bound") };
        let (told, hear) = crossbeam_channel::unbounded();
        let address = ServiceAddress { ip: local.ip(), prefix: 8 };
        let mut keeper = Keeper::new(vec![address], None, told);
        keeper.wanted = true;
        keeper.look();
        // A hung engine's agent lets go at once, and the other one takes over a moment later.
        keeper.wanted = false;
        keeper.look();
        let lists = hear.try_iter().filter_map(|told| match told {
            Told::Connections(list) => Some(list),
            _ => None,
        });
        assert!(lists.last().is_some_and(|list| list.contains(&wanted)));
    }

    #[test]
    fn odd_lines_are_nobodys_connection() {
        let right = "  0: 0100007F:0CBC 0200007F:9C41 01 00000000:00000000 00:00000000 00000000     0";
        assert!(connection(right).is_some());
        for line in [
            "  sl  local_address rem_address   st tx_queue",
            "  0: 0100007F:0CBC 0200007F:9C41 0A",
            "  0: 0100007F:0CBC 0200007F",
            "  0: 01007F:0CBC 0200007F:9C41 01",
            "  0: zz00007F:0CBC 0200007F:9C41 01",
            "",
        ] {
            assert_eq!(connection(line), None, "{line}");
        }
    }

    #[test]
    fn an_address_without_an_interface_is_reported_once_and_the_keeper_ends() {
        let (orders, taken) = crossbeam_channel::unbounded();
        let (told, hear) = crossbeam_channel::unbounded();
        // TEST-NET-1 is nobody's (RFC 5737).
        let address = ServiceAddress { ip: "192.0.2.77".parse().expect("an address"), prefix: 24 };
        let keeper = keep(vec![address], Some("no-such".to_owned()), taken, told).expect("a thread");
        for order in [Order::Take(Vec::new()), Order::Take(Vec::new()), Order::End] {
            orders.send(order).expect("it lives");
        }
        keeper.join().expect("no panic");
        let said: Vec<Told> = hear.iter().collect();
        let troubles = said.iter().filter(|told| matches!(told, Told::Trouble { why: Some(_), .. })).count();
        assert_eq!(troubles, 1, "{said:?}");
        assert!(said.contains(&Told::Held(false)));
    }
}
