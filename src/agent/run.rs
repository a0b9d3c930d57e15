//! The life of the agent: one thread that hears everyone, feeds the core, and carries out what it asks for.

use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as WallInstant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use super::addresses::{self, Keeping, Order, Told};
use super::decision::Core;
use super::effect::{Ask, Effect, Note, Outbox, Own, Policy, Reason, Standing, Timing};
use super::engine::{self, Errand, News};
use super::heartbeat::{HEARD_MAX, Heard, Network, Speaker, Voice};
use super::interface;
use super::message::{ClientConnection, Key, Malformed};
use crate::daemon::api::{AddressStatus, AgentStatus, Answer, NetworkStatus, Request, SCHEMA};
use crate::daemon::config::{AgentConfig, Config, NodeConfig, Secret, ServiceAddress};
use crate::daemon::control::{Call, ControlSocket};
use crate::daemon::events::{EventLog, Weight};
use crate::daemon::failure::Failure;
use crate::daemon::process::{self, InstanceLock, Launch};
use crate::time::Instant;

/// Longest pause of the loop.
const TURN_MAX: Duration = Duration::from_millis(100);
/// How long the addresses stay while nobody serves: their kernel refuses connections meanwhile, and a refused initiator
/// tries again sooner than an unheard one.
const LINGER: Duration = Duration::from_secs(1);
/// How long they stay while requests are held.
const HOLD_GRACE: Duration = Duration::from_secs(2);
/// How long two idle nodes that have met wait before one serves.
const SETTLE: Duration = Duration::from_millis(500);
/// Before ordinary processes, behind those that must never wait.
const PRIORITY: i32 = -15;
/// Datagrams that are not believed are told of at most so often.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// Runs the agent of a node until it is told to stop.
pub fn run(launch: &Launch) -> Result<(), Failure> {
    let (config, node) = launch.enter(NodeConfig::agent_log_file)?;
    let (Some(agent), Some(replication)) = (&config.agent, &config.replication) else {
        let what = format!("{} has no section [agent]: nothing fails over by itself", config.file.display());
        return Err(Failure::usage(what, "add [agent] to the file on both nodes, or promote by hand"));
    };
    let lock = InstanceLock::take_for(&node, "an agent", "agent.lock")?;
    let secret = Secret::read(&replication.secret_file)?;
    // A busy machine must not look like a dead one. Not allowed: then it goes on as it is.
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        log::info!("event=priority the agent keeps its ordinary priority: {error}");
    }
    // Before the first thread, so that every thread leaves the signals to the one that listens for them.
    let signals = process::signals()?;
    Agent::start(&config, agent, &node, &secret)?.serve(&signals);
    drop(lock);
    Ok(())
}

/// Time on the clock that goes on while the machine sleeps.
fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has this clock");
    Instant(Duration::from(time).as_nanos() as u64)
}

fn timing(agent: &AgentConfig) -> Timing {
    Timing {
        heartbeat: agent.heartbeat,
        takeover_after: agent.takeover_after,
        settle: SETTLE,
        start_wait: agent.start_wait,
        hysteresis: agent.hysteresis,
        linger: LINGER,
        hold_grace: HOLD_GRACE,
    }
}

/// Heartbeat networks on which this node has addresses that initiators use, a bit each: by the interface.
fn client_networks(networks: &[Network], agent: &AgentConfig, node: &NodeConfig) -> u8 {
    let name = |found: std::io::Result<Option<interface::Interface>>| Some(found.ok()??.name);
    let service = agent.service_addresses.iter();
    let service =
        service.filter_map(|it| Some(interface::find(it, node.service_interface.as_deref()).ok()?.name));
    let own = node.portals.iter().filter_map(|portal| name(interface::holder(portal.ip())));
    let links: Vec<String> = service.chain(own).collect();
    let mut bits = 0;
    for (number, network) in networks.iter().enumerate() {
        let here = name(interface::holder(network.local.ip()));
        bits |= u8::from(here.is_some_and(|link| links.contains(&link))) << number;
    }
    bits
}

/// A thread cannot be had.
fn thread(error: std::io::Error) -> Failure {
    Failure::failed(format!("a thread cannot be started: {error}"), "raise the limit of threads (ulimit -u)")
}

/// Random, and not 0.
fn incarnation() -> Result<u64, Failure> {
    let random = getrandom::u64();
    let random = random
        .map_err(|error| Failure::failed(format!("the kernel gives no random numbers: {error}"), ""))?;
    Ok(random.max(1))
}

/// The networks that the two nodes share.
fn networks(node: &NodeConfig, peer: &NodeConfig) -> Vec<Network> {
    let pairs = node.heartbeat_addresses.iter().zip(&peer.heartbeat_addresses);
    pairs.map(|(local, peer)| Network { local: *local, peer: *peer }).collect()
}

fn policy(config: &Config, agent: &AgentConfig, node: &NodeConfig, networks: &[Network]) -> Policy {
    Policy {
        client_networks: client_networks(networks, agent, node),
        prefer: agent.prefer.map(|preferred| (preferred, agent.failback_after)),
        stands_in: config.stands_in(),
    }
}

/// What the two keepers keep: the service addresses, and a dead peer's portals.
fn keepings(config: &Config, agent: &AgentConfig, node: &NodeConfig, peer: &NodeConfig) -> [Keeping; 2] {
    let named = &node.service_interface;
    let own = node.portals.iter().map(|portal| portal.ip()).collect();
    let portals = if config.stands_in() { portal_addresses(peer) } else { Vec::new() };
    [
        Keeping { addresses: agent.service_addresses.clone(), named: named.clone(), own, careful: false },
        Keeping { addresses: portals, named: named.clone(), own: Vec::new(), careful: true },
    ]
}

/// A node's own portals, as addresses that the other one takes when it stands in.
fn portal_addresses(node: &NodeConfig) -> Vec<ServiceAddress> {
    let mut addresses: Vec<ServiceAddress> = Vec::new();
    for ip in node.portals.iter().map(|portal| portal.ip()) {
        // A host's address beside the subnet's own: it goes as it came, and takes no route with it.
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        if !addresses.iter().any(|other| other.ip == ip) {
            addresses.push(ServiceAddress { ip, prefix });
        }
    }
    addresses
}

struct Agent {
    core: Core,
    out: Outbox,
    voice: Voice,
    node: String,
    peer: String,
    networks: Vec<Network>,
    addresses: Vec<AddressState>,
    orders: Sender<Order>,
    keeper: Option<JoinHandle<()>>,
    /// For the dead peer's portal addresses.
    stand_in: Sender<Order>,
    substitute: Option<JoinHandle<()>>,
    stood_in: Receiver<Told>,
    /// Those addresses, and who tells the engine that they have gone.
    portals: Vec<IpAddr>,
    /// Initiators at this node's addresses, and at those of the peer that are here.
    connections: [Vec<ClientConnection>; 2],
    drops: Sender<Vec<IpAddr>>,
    asks: Sender<Errand>,
    events: EventLog,
    heard: Receiver<Heard>,
    news: Receiver<News>,
    told: Receiver<Told>,
    calls: Receiver<Call>,
    /// Who waits for the end.
    leaving: Vec<Call>,
    left: bool,
    timing: Timing,
    started: WallInstant,
    turned: Instant,
    complained: Option<WallInstant>,
    /// Dropped last: its end is what `twinlun down` waits for.
    _socket: ControlSocket,
}

struct AddressState {
    address: ServiceAddress,
    trouble: Option<String>,
}

impl AddressState {
    fn new(address: &ServiceAddress) -> Self {
        Self { address: *address, trouble: None }
    }
}

/// What the loop hears.
enum Input {
    Heard(Heard),
    News(News),
    Told(Told),
    StoodIn(Told),
    Call(Call),
    Signal(Signal),
    Nothing,
}

impl Agent {
    fn start(
        config: &Config,
        agent: &AgentConfig,
        node: &NodeConfig,
        secret: &Secret,
    ) -> Result<Self, Failure> {
        let peer = config.peer_of(node).expect("replication has two nodes");
        let events = EventLog::new(&node.name);
        let (socket, calls) = ControlSocket::open(&node.agent_socket(), events.clone())?;
        let timing = timing(agent);
        let incarnation = incarnation()?;
        let networks = networks(node, peer);
        let began = now();
        // The configuration has refused an arbiter that cannot decide.
        let core = Core::new(node.id, timing, true, incarnation, networks.len(), began)
            .with_policy(policy(config, agent, node, &networks));
        let (heard_tell, heard) = bounded(HEARD_MAX);
        let speaker = Speaker {
            node: node.id,
            incarnation,
            key: Key::new(secret.bytes(), &config.volume.name),
            networks: networks.clone(),
            every: agent.heartbeat,
        };
        let voice = Voice::start(speaker, core.report(began), heard_tell).map_err(thread)?;
        let (orders, taken) = unbounded();
        let (told_tell, told) = unbounded();
        let [service, portals] = keepings(config, agent, node, peer);
        let keeper = addresses::keep(service, taken, told_tell).map_err(thread)?;
        let (stand_in, taken) = unbounded();
        let (told_tell, stood_in) = unbounded();
        let substitute = addresses::keep(portals.clone(), taken, told_tell).map_err(thread)?;
        let portals = portals.addresses.iter().map(|address| address.ip).collect();
        let (asks, asked) = unbounded();
        let (news_tell, news) = unbounded();
        let (drops, dropped) = unbounded();
        engine::drop_connections(node.socket(), dropped, news_tell.clone()).map_err(thread)?;
        engine::follow(node.socket(), agent.heartbeat, asked, news_tell).map_err(thread)?;
        events.push(Weight::Info, "started", format!("the agent of {} watches {}", node.name, peer.name));
        Ok(Self {
            core,
            out: Vec::new(),
            voice,
            node: node.name.clone(),
            peer: peer.name.clone(),
            networks,
            addresses: agent.service_addresses.iter().map(AddressState::new).collect(),
            orders,
            keeper: Some(keeper),
            stand_in,
            substitute: Some(substitute),
            stood_in,
            portals,
            connections: [Vec::new(), Vec::new()],
            drops,
            asks,
            events,
            heard,
            news,
            told,
            calls,
            leaving: Vec::new(),
            left: false,
            timing,
            started: WallInstant::now(),
            turned: began,
            complained: None,
            _socket: socket,
        })
    }

    fn serve(mut self, signals: &Receiver<Signal>) {
        while !self.left {
            let input = self.next(signals);
            let time = now();
            // Not run for long: what was said meanwhile is waiting, and comes first.
            if time.since(self.turned) > TURN_MAX + self.timing.takeover_after / 2 {
                self.core.on_gap(time, &mut self.out);
            }
            // No more than waits now: whoever floods the port must not keep the rest of the turn from happening.
            for _ in 0..HEARD_MAX {
                let Ok(heard) = self.heard.try_recv() else { break };
                self.on_heard(heard);
            }
            self.on_input(input);
            let time = now();
            if self.core.deadline().is_some_and(|at| at <= time) {
                self.core.on_timer(time, &mut self.out);
            }
            self.carry_out();
            self.turned = now();
        }
        // The addresses go before anything else ends.
        let _ = self.orders.send(Order::End);
        let _ = self.stand_in.send(Order::End);
        for keeper in [self.keeper.take(), self.substitute.take()].into_iter().flatten() {
            let _ = keeper.join();
        }
        self.events.push(Weight::Info, "ended", "the agent ends; the service addresses are not here");
        for call in self.leaving.drain(..) {
            call.answer(Answer::Done("the agent has left".to_owned()));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the transmute is inside crossbeam's macro")]
    fn next(&self, signals: &Receiver<Signal>) -> Input {
        let patience = self.core.deadline().map_or(TURN_MAX, |at| at.since(now()).min(TURN_MAX));
        select! {
            recv(self.heard) -> it => it.map_or(Input::Nothing, Input::Heard),
            recv(self.news) -> it => it.map_or(Input::Nothing, Input::News),
            recv(self.told) -> it => it.map_or(Input::Nothing, Input::Told),
            recv(self.stood_in) -> it => it.map_or(Input::Nothing, Input::StoodIn),
            recv(self.calls) -> it => it.map_or(Input::Nothing, Input::Call),
            recv(signals) -> it => it.map_or(Input::Nothing, Input::Signal),
            default(patience) => Input::Nothing,
        }
    }

    fn on_input(&mut self, input: Input) {
        let time = now();
        match input {
            Input::Heard(heard) => self.on_heard(heard),
            Input::News(News::Beat(view)) => self.core.on_beat(time, view, &mut self.out),
            Input::News(News::Died(incarnation)) => {
                self.core.on_engine_died(time, incarnation, &mut self.out)
            }
            Input::News(News::Answered(answer)) => self.core.on_answer(time, answer, &mut self.out),
            Input::News(News::Dropped) => self.core.on_stand_in(time, false, &mut self.out),
            Input::Told(told) => self.on_told(told),
            Input::StoodIn(told) => self.on_stood_in(told),
            Input::Call(call) => self.on_call(call),
            Input::Signal(Signal::SIGTERM | Signal::SIGINT) => self.core.on_leave(time, &mut self.out),
            Input::Signal(_) | Input::Nothing => {}
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        match heard {
            // One that is not fresh: a second path was slower, or somebody replays. Neither is news.
            Heard::Datagram(datagram) => drop(self.core.on_datagram(now(), datagram, &mut self.out).is_ok()),
            Heard::Malformed { network, why } => {
                let quiet = self.complained.is_some_and(|at| at.elapsed() < COMPLAINT_PAUSE);
                if !quiet && why != Malformed::Foreign {
                    self.complained = Some(WallInstant::now());
                    let from = self.networks[network].peer;
                    let text = format!("a heartbeat from {from} is not believed: {why}");
                    self.events.push(Weight::Warning, "heartbeat_refused", text);
                }
            }
            Heard::Deaf { network, why } => {
                let local = self.networks[network].local;
                let text = format!("no heartbeats at {local} ({why}); it is tried again");
                self.events.push(Weight::Warning, "heartbeat_deaf", text);
            }
        }
    }

    fn on_told(&mut self, told: Told) {
        let time = now();
        match told {
            Told::Held(held) => {
                let (key, text) = match held {
                    true => ("addresses_here", "the service addresses are here"),
                    false => ("addresses_gone", "the service addresses are not here"),
                };
                self.events.push(Weight::Info, key, text);
                self.core.on_addresses(time, held, &mut self.out);
            }
            Told::Clients(state) => self.core.on_clients(time, state, &mut self.out),
            Told::Asked(answer) => self.core.on_asked(time, answer, &mut self.out),
            Told::Connections(connections) => {
                self.connections[0] = connections;
                self.voice.set_clients(self.connections.concat());
            }
            Told::Taken { called, after } => {
                let text =
                    format!("announced, {called} connections called over, in {} ms", after.as_millis());
                self.events.push(Weight::Info, "addresses_taken", text);
            }
            Told::Elsewhere { address, owner: Some(mac) } => {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                let text = format!("{} is also at {mac}; initiators may go astray", address.ip);
                self.events.push(Weight::Warning, "address_elsewhere", text);
            }
            Told::Elsewhere { owner: None, .. } => {}
            Told::Trouble { address, why } => {
                match &why {
                    Some(why) => self.events.push(Weight::Warning, "address_trouble", why.clone()),
                    None => self.events.push(Weight::Info, "address_well", format!("{address} is in order")),
                }
                if let Some(state) = self.addresses.iter_mut().find(|it| it.address == address) {
                    state.trouble = why;
                }
            }
        }
    }

    /// The keeper of the dead peer's portal addresses.
    fn on_stood_in(&mut self, told: Told) {
        match told {
            Told::Held(true) => {
                let text = format!("the portal addresses of {} are here", self.peer);
                self.events.push(Weight::Warning, "stands_in", text);
                self.core.on_stand_in(now(), true, &mut self.out);
            }
            Told::Held(false) if !self.core.stands_in() => {}
            Told::Held(false) => {
                // What came in by them must not be done here beside what is done there.
                let _ = self.drops.send(self.portals.clone());
                let text = format!("the portal addresses of {} are not here", self.peer);
                self.events.push(Weight::Info, "stands_in_no_more", text);
            }
            Told::Trouble { address, why: Some(why) } => {
                log::debug!("{address}: {why}");
                self.events.push(Weight::Warning, "address_trouble", why);
            }
            Told::Taken { called, after } => {
                let after = after.as_millis();
                log::info!("portals of {}: {called} connections called over, in {after} ms", self.peer);
            }
            Told::Connections(connections) => {
                // They must come home when the owner is back.
                self.connections[1] = connections;
                self.voice.set_clients(self.connections.concat());
            }
            // The other keeper says what concerns the interfaces.
            _ => {}
        }
    }

    fn on_call(&mut self, call: Call) {
        let time = now();
        match call.request {
            Request::Status => {
                let status = self.status(time);
                call.answer(Answer::Agent(Box::new(status)));
            }
            Request::Down => {
                self.leaving.push(call);
                self.core.on_leave(time, &mut self.out);
            }
            Request::Standby { on } => {
                self.core.on_standby(time, on, &mut self.out);
                let text = match on {
                    true => format!(
                        "{} is on standby: it takes nothing over, and hands over what it serves",
                        self.node
                    ),
                    false => format!("{} takes part in failover again", self.node),
                };
                self.events.push(Weight::Info, if on { "standby" } else { "unstandby" }, text.clone());
                call.answer(Answer::Done(text));
            }
            _ => {
                let failure = Failure::usage("the agent does not do this", "ask twinlund");
                call.answer(Answer::Failure(failure));
            }
        }
    }

    /// Carries out what the core asks for, and lets the heartbeat say what is true now.
    fn carry_out(&mut self) {
        let mut speak = false;
        for effect in std::mem::take(&mut self.out) {
            match effect {
                Effect::Ask(ask) => {
                    let died = self.core.certificate();
                    let _ = self.asks.send(Errand { ask, died });
                }
                Effect::Addresses(true) => {
                    let order = Order::Take(self.core.peer_clients().to_vec());
                    let _ = self.orders.send(order);
                }
                Effect::Addresses(false) => drop(self.orders.send(Order::Release)),
                Effect::Announce(may) => drop(self.orders.send(Order::Announce(may))),
                Effect::StandIn(true) => {
                    let order = Order::Take(self.core.peer_clients().to_vec());
                    let _ = self.stand_in.send(order);
                }
                Effect::StandIn(false) => drop(self.stand_in.send(Order::Release)),
                Effect::AnnounceOwn => {
                    let order = Order::AnnounceOwn(self.core.peer_clients().to_vec());
                    let _ = self.orders.send(order);
                }
                Effect::AskClients => {
                    let _ = self.orders.send(Order::Ask(self.core.peer_clients().to_vec()));
                }
                Effect::Speak => speak = true,
                Effect::Note(note) => self.note(note),
                Effect::Left => self.left = true,
            }
        }
        self.voice.set(self.core.report(now()), self.core.echo());
        if speak {
            self.voice.speak();
        }
    }

    fn note(&mut self, note: Note) {
        if let Note::Asked(Ask::TakeOver(Reason::PeerSilent)) = note {
            // While the engine takes over: is the old owner's kernel still there?
            let _ = self.orders.send(Order::Probe);
            let _ = self.stand_in.send(Order::Probe);
        }
        let (weight, key, text) = words(&note, &self.node, &self.peer);
        self.events.push(weight, key, text);
    }

    fn status(&self, time: Instant) -> AgentStatus {
        let hears_us = self.core.detector().report().map_or(0, |(_, report)| report.hears);
        let heard = self.core.detector().heard_on();
        let networks = self.networks.iter().zip(heard).enumerate();
        let held = self.core.holds_addresses();
        AgentStatus {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            engine: own_word(self.core.own(time)).to_owned(),
            peer: peer_word(self.core.standing(time)).to_owned(),
            standby: self.core.is_standby(),
            networks: networks
                .map(|(number, (network, heard))| NetworkStatus {
                    local: network.local.to_string(),
                    peer: network.peer.to_string(),
                    heard_milliseconds_ago: heard.map(|at| time.since(at).as_millis() as u64),
                    heard_by_peer: hears_us & (1 << number) != 0,
                })
                .collect(),
            addresses: self
                .addresses
                .iter()
                .map(|state| AddressStatus {
                    address: state.address.to_string(),
                    held,
                    trouble: state.trouble.clone(),
                })
                .collect(),
            peer_clients: self.core.peer_clients().len() as u32,
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }
}

fn own_word(own: Own) -> &'static str {
    match own {
        Own::Absent => "absent",
        Own::Alive => "alive",
        Own::Hung => "hung",
        Own::Dead => "dead",
    }
}

fn peer_word(peer: Standing) -> &'static str {
    match peer {
        Standing::Unheard => "unheard",
        Standing::Alive => "alive",
        Standing::NoEngine => "no_engine",
        Standing::EngineHung => "engine_hung",
        Standing::EngineDead => "engine_dead",
        Standing::AgentSilent => "agent_silent",
        Standing::Silent => "silent",
    }
}

/// An event: weight, key, text.
fn words(note: &Note, here: &str, there: &str) -> (Weight, &'static str, String) {
    use Weight::{Info, Warning};
    match note {
        Note::Peer(Standing::Alive) => {
            (Info, "peer_alive", format!("{there} is heard, and its engine lives"))
        }
        Note::Peer(Standing::Unheard) => (Info, "peer_unheard", format!("{there} has not been heard yet")),
        Note::Peer(Standing::NoEngine) => {
            (Info, "peer_no_engine", format!("{there} is heard, and has no engine"))
        }
        Note::Peer(Standing::EngineHung) => {
            (Warning, "peer_engine_hung", format!("the engine of {there} stands still, says its agent"))
        }
        Note::Peer(Standing::EngineDead) => {
            (Warning, "peer_engine_died", format!("the engine of {there} has died, certifies its agent"))
        }
        Note::Peer(Standing::AgentSilent) => {
            (Warning, "peer_agent_silent", format!("the agent of {there} is silent; its engine is heard"))
        }
        Note::Peer(Standing::Silent) => {
            (Warning, "peer_silent", format!("{there} is silent on every network"))
        }
        Note::Engine(Own::Absent) => (Info, "engine_absent", format!("no engine on {here}")),
        Note::Engine(Own::Alive) => (Info, "engine_alive", format!("the engine of {here} lives")),
        Note::Engine(Own::Hung) => (Warning, "engine_hung", format!("the engine of {here} stands still")),
        Note::Engine(Own::Dead) => (Warning, "engine_died", format!("the engine of {here} has died")),
        Note::Asked(Ask::TakeOver(reason)) => {
            (Info, "takeover_asked", format!("{here} is asked to take over: {}", reason.word()))
        }
        Note::Asked(Ask::HandOver(why)) => {
            (Info, "handover_asked", format!("{here} is asked to hand over: {why}"))
        }
        Note::Refused { ask: Ask::TakeOver(_), why } => (Warning, "takeover_refused", why.clone()),
        Note::Refused { ask: Ask::HandOver(_), why } => (Warning, "handover_refused", why.clone()),
        Note::Damped { for_ms } => (
            Warning,
            "takeover_damped",
            format!("the service moved a moment ago: {there} must be silent for {for_ms} ms more"),
        ),
    }
}
