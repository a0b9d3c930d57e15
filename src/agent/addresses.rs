//! Keeps the service addresses where the agent wants them, on a thread of its own: takes and announces them, calls the
//! initiators over, gives them up, and looks every now and then whether all is as it should be.
//!
//! Taking goes: forget what is left of an earlier time, add, announce, tickle; then announce and tickle again a few times,
//! because one lost frame must not cost an initiator its patience. Somebody else who has the address is reported, and
//! the address is taken all the same: who may *answer* is decided elsewhere, and an initiator at the wrong node is only
//! refused.
//!
//! Not so the portal addresses of a dead peer, which are that node's own: they are taken only if nobody answers for them,
//! and let go as soon as somebody does ([`Keeping::careful`]).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::interface::{self, Interface};
use super::leftover;
use super::message::{ClientConnection, ClientNetwork};
use super::packet::Mac;
use super::reach::Answer;
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

/// How long initiators have for saying that they are there.
const ANSWER_PATIENCE: Duration = Duration::from_millis(150);
/// So many initiators are asked at most.
const ASKED_MAX: usize = 32;
/// Between two looks whether somebody else has an address that is kept with care.
const CARE_PAUSE: Duration = Duration::from_secs(1);

/// What a keeper keeps.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    pub addresses: Vec<ServiceAddress>,
    /// The interface to put them on; `None`: that of their subnet.
    pub named: Option<String>,
    /// Addresses that this node has by itself and that initiators are at as well.
    pub own: Vec<IpAddr>,
    /// Only while nobody else has them.
    pub careful: bool,
}

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
    /// Find out whether any of these initiators answers.
    Ask(Vec<ClientConnection>),
    /// Tell the link that this node's own addresses are here, and call those of these connections over that are to them.
    AnnounceOwn(Vec<ClientConnection>),
    /// Give them up and end.
    End,
}

/// What the keeper tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Any of them is here.
    Held(bool),
    Clients(ClientNetwork),
    /// What came of asking the initiators.
    Asked(Answer),
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
pub fn keep(keeping: Keeping, orders: Receiver<Order>, told: Sender<Told>) -> io::Result<JoinHandle<()>> {
    let mut keeper = Keeper::new(keeping, told);
    let (changed, changes) = bounded(1);
    watch_interfaces(changed.clone(), &keeper.alive);
    // Held here as well, so that the channel stays when the watcher ends.
    keeper.changed = Some(changed);
    thread::Builder::new().name("addresses".to_owned()).spawn(move || keeper.run(&orders, &changes))
}

/// Tells of every change of an interface, as long as the keeper is alive. Without it changes are seen at the next look.
fn watch_interfaces(changed: Sender<()>, alive: &Arc<()>) {
    let alive = Arc::downgrade(alive);
    let watch = move || {
        let Ok(socket) = interface::changes() else { return };
        while alive.strong_count() > 0 {
            if interface::await_change(&socket) {
                // One that waits stands for this one as well.
                let _ = changed.try_send(());
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("interfaces".to_owned()).spawn(watch) {
        log::warn!("changes of interfaces are seen late: {error}");
    }
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
    own: Vec<IpAddr>,
    careful: bool,
    /// When it was last asked whether somebody else has them.
    cared: Option<Instant>,
    /// And that nobody had.
    free: bool,
    told: Sender<Told>,
    wanted: bool,
    /// The addresses linger: the other node may have them already, and its word is the newer one.
    quiet: bool,
    held: Option<bool>,
    clients: Option<ClientNetwork>,
    probed: Option<Instant>,
    call: Vec<ClientConnection>,
    /// Connections to this node's own addresses, while another node had them.
    call_home: Vec<ClientConnection>,
    repeats: Vec<Instant>,
    connections: Vec<ClientConnection>,
    changed: Option<Sender<()>>,
    /// What others see of this one's life.
    alive: Arc<()>,
}

/// What the keeper waits for.
enum Heard {
    Order(Order),
    Change,
    Over,
    Nothing,
}

impl Keeper {
    fn new(keeping: Keeping, told: Sender<Told>) -> Self {
        let place = |address| Place { address, interface: None, trouble: None };
        Self {
            places: keeping.addresses.into_iter().map(place).collect(),
            named: keeping.named,
            own: keeping.own,
            careful: keeping.careful,
            cared: None,
            free: false,
            told,
            wanted: false,
            quiet: false,
            held: None,
            clients: None,
            probed: None,
            call: Vec::new(),
            call_home: Vec::new(),
            repeats: Vec::new(),
            connections: Vec::new(),
            changed: None,
            alive: Arc::new(()),
        }
    }

    fn run(&mut self, orders: &Receiver<Order>, changes: &Receiver<()>) {
        let mut look = Instant::now();
        loop {
            let next = self.repeats.first().map_or(look, |at| look.min(*at));
            match hear(orders, changes, next) {
                Heard::Order(Order::Probe) if self.careful => {
                    self.nobody_else_has_them();
                }
                Heard::Order(Order::Probe) => self.probe(),
                Heard::Order(Order::Take(call)) => self.take(call),
                Heard::Order(Order::Announce(may)) => {
                    self.quiet = !may;
                    self.announce();
                    self.call_over();
                }
                Heard::Order(Order::Release) => self.release(),
                Heard::Order(Order::Ask(initiators)) => self.ask(&initiators),
                Heard::Order(Order::AnnounceOwn(call)) => self.announce_own_soon(call),
                Heard::Order(Order::End) | Heard::Over => return self.release(),
                Heard::Change => look = Instant::now(),
                Heard::Nothing => {}
            }
            let now = Instant::now();
            if self.repeats.first().is_some_and(|at| *at <= now) {
                self.repeats.remove(0);
                self.repeat();
            }
            if look <= now {
                self.look();
                look = now + LOOK_PAUSE;
            }
        }
    }

    /// What was said after taking is said again.
    fn repeat(&mut self) {
        self.announce_own();
        if !self.wanted {
            return;
        }
        self.announce();
        self.call_over();
        // By now the old owner has had time to let go.
        let late = self.repeats.len() == REPEATS.len() - 3;
        if late && !self.careful && self.probed.is_none_or(|at| at.elapsed() > PROBE_AGE) {
            self.probe();
        }
    }

    fn announce_own_soon(&mut self, call: Vec<ClientConnection>) {
        self.call_home = call.into_iter().filter(|client| self.own.contains(&client.local.ip())).collect();
        self.announce_own();
        let now = Instant::now();
        self.repeats.extend(REPEATS.iter().map(|after| now + *after));
        self.repeats.sort_unstable();
    }

    fn announce_own(&self) {
        for ip in &self.own {
            if let Ok(Some(found)) = interface::holder(*ip) {
                if let Err(error) = interface::announce(&found, *ip) {
                    log::debug!("{ip} is not announced on {}: {error}", found.name);
                }
            }
        }
        tickle(&self.call_home);
    }

    /// Does any of the initiators answer? Asked beside everything else.
    fn ask(&self, known: &[ClientConnection]) {
        let both = known.iter().chain(&self.connections);
        let hosts: BTreeSet<IpAddr> = both.map(|it| it.remote.ip()).take(ASKED_MAX).collect();
        let told = self.told.clone();
        let ask = move || drop(told.send(Told::Asked(ask_hosts(&hosts))));
        if let Err(error) = thread::Builder::new().name("ask".to_owned()).spawn(ask) {
            log::warn!("the initiators are not asked: {error}");
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
        let ours = |ip: IpAddr| !self.careful || self.places.iter().any(|place| place.address.ip == ip);
        self.call = call.into_iter().filter(|client| ours(client.local.ip())).collect();
        self.forget_leftovers();
        // It may have been asked when the peer fell silent.
        let asked = self.cared.is_some_and(|at| at.elapsed() < CARE_PAUSE);
        if self.careful && !(asked && self.free) && !self.nobody_else_has_them() {
            return;
        }
        self.add_missing();
        self.announce();
        self.tell_held();
        self.call_over();
        self.tell(Told::Taken { called: self.call.len(), after: began.elapsed() });
        let now = Instant::now();
        self.repeats = REPEATS.iter().map(|after| now + *after).collect();
    }

    /// Asks the link, and waits. What somebody else has is given up here, if it was.
    fn nobody_else_has_them(&mut self) -> bool {
        self.cared = Some(Instant::now());
        let mut free = true;
        for number in 0..self.places.len() {
            let address = self.places[number].address;
            let found = interface::find(&address, self.named.as_deref());
            let asked = found.and_then(|found| {
                let owner = interface::who_has(&found, address.ip, PROBE_PATIENCE)?;
                if owner.is_some() {
                    interface::remove(&found, &address)?;
                }
                Ok(owner)
            });
            let why = match asked {
                Ok(None) => None,
                Ok(Some(_)) => Some(format!("{} is not taken: its owner answers for it", address.ip)),
                Err(error) => Some(format!("cannot ask who has {}: {error}", address.ip)),
            };
            free &= why.is_none();
            self.trouble(number, why);
        }
        self.tell_held();
        self.free = free;
        free
    }

    /// Careful: have they been looked after lately? Returns whether they may be here.
    fn care(&mut self) -> bool {
        if self.cared.is_some_and(|at| at.elapsed() < CARE_PAUSE) {
            return false;
        }
        self.nobody_else_has_them()
    }

    /// What the kernel keeps of an earlier time must not answer for the initiators of now.
    fn forget_leftovers(&self) {
        for place in &self.places {
            match leftover::forget(place.address.ip) {
                Ok(0) => {}
                Ok(count) => log::info!("{count} closed connections to {} are forgotten", place.address),
                Err(error) => log::debug!("closed connections to {} stay: {error}", place.address),
            }
        }
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
        tickle(&self.call);
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
        let may_add = self.wanted && (!self.careful || self.care());
        if may_add && (0..self.places.len()).any(|place| !self.is_here(place)) {
            self.add_missing();
            self.announce();
            if self.careful {
                self.call_over();
            }
        }
        self.tell_held();
        let clients = self.client_network();
        if self.clients != Some(clients) {
            self.clients = Some(clients);
            self.tell(Told::Clients(clients));
        }
        if self.wanted || !self.own.is_empty() {
            let service = self.places.iter().filter(|_| self.wanted).map(|place| place.address.ip);
            let mut connections = established(&service.chain(self.own.iter().copied()).collect());
            if !self.wanted {
                let left = |it: &&ClientConnection| !self.own.contains(&it.local.ip());
                connections.extend(self.connections.iter().filter(left));
            }
            connections.sort_unstable();
            if connections != self.connections {
                self.connections.clone_from(&connections);
                self.tell(Told::Connections(connections));
            }
        }
        // Addresses that were given up leave connections behind: the peer is to call them over, so it is still told.
    }

    /// Down if the interface of any service address is, or of any own one.
    fn client_network(&mut self) -> ClientNetwork {
        let places = self.places.iter().filter_map(|place| match &place.interface {
            Some(found) => Some(found.name.clone()),
            None => Some(interface::find(&place.address, self.named.as_deref()).ok()?.name),
        });
        let own = self.own.iter().filter_map(|ip| Some(interface::holder(*ip).ok()??.name));
        let names: BTreeSet<String> = places.chain(own).collect();
        let mut worst = ClientNetwork::Unknown;
        for name in &names {
            match interface::state(name) {
                ClientNetwork::Down => return ClientNetwork::Down,
                ClientNetwork::Up => worst = ClientNetwork::Up,
                ClientNetwork::Unknown => {}
            }
        }
        worst
    }
}

#[expect(clippy::disallowed_methods, reason = "the transmute is inside crossbeam's macro")]
fn hear(orders: &Receiver<Order>, changes: &Receiver<()>, until: Instant) -> Heard {
    let patience = until.saturating_duration_since(Instant::now());
    select! {
        recv(orders) -> it => it.map_or(Heard::Over, Heard::Order),
        recv(changes) -> it => it.map_or(Heard::Nothing, |()| Heard::Change),
        default(patience) => Heard::Nothing,
    }
}

fn tickle(clients: &[ClientConnection]) {
    let mut sequence = [0; 4];
    if getrandom::fill(&mut sequence).is_err() {
        return;
    }
    for client in clients {
        if let Err(error) = interface::tickle(client.local, client.remote, u32::from_le_bytes(sequence)) {
            log::debug!("{} is not called over: {error}", client.remote);
        }
    }
}

/// Asks those that are on a link of this host.
fn ask_hosts(hosts: &BTreeSet<IpAddr>) -> Answer {
    let mut links: Vec<(Interface, Vec<IpAddr>)> = Vec::new();
    for ip in hosts {
        let Ok(Some(found)) = interface::toward(*ip) else { continue };
        match links.iter_mut().find(|(link, _)| link.name == found.name) {
            Some((_, hosts)) => hosts.push(*ip),
            None => links.push((found, vec![*ip])),
        }
    }
    if links.is_empty() {
        return Answer::NoneKnown;
    }
    let answers = |(link, hosts): &(Interface, Vec<IpAddr>)| {
        interface::anyone(link, hosts, ANSWER_PATIENCE).unwrap_or(true)
    };
    if links.iter().any(answers) { Answer::Somebody } else { Answer::Nobody }
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
        let keeping = Keeping { addresses: vec![address], ..Keeping::default() };
        let mut keeper = Keeper::new(keeping, told);
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
        let keeping =
            Keeping { addresses: vec![address], named: Some("no-such".to_owned()), ..Keeping::default() };
        let keeper = keep(keeping, taken, told).expect("a thread");
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
