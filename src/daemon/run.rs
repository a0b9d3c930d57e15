//! The life of the daemon: look, open, start, serve until told to stop, drain, end.
//!
//! One thread listens to everyone: the control socket, the engine, the arbiter, the signals. It decides nothing about
//! the volume; it carries requests to the coordinator on shard 0 and its answers back, and keeps the event log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select, tick};
use nix::sys::signal::Signal;

use super::api::{Answer, Request, Status};
use super::config::{Config, NodeConfig, Secret};
use super::control::{Call, ControlSocket};
use super::device::{self, Opened};
use super::events::{EventLog, Weight};
use super::failure::Failure;
use super::plan;
use super::process::{self, InstanceLock};
use super::translate::{self, Names};
use crate::engine::{Engine, EngineError, EngineEvent, EnginePlan, EngineRequest, Tuning};
use crate::units::NodeId;
use crate::volume::mutant::Mutants;
use crate::volume::operator::{self, OperatorCommand, Refusal, Ticket};

/// How often the daemon looks around when nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// How the daemon was called.
#[derive(Clone, Debug)]
pub struct Launch {
    pub config: PathBuf,
    pub node: Option<String>,
    /// Leave the terminal's session.
    pub background: bool,
}

/// Runs a node until it is told to stop.
pub fn run(launch: &Launch) -> Result<(), Failure> {
    if launch.background {
        process::detach();
    }
    process::log_to_stderr();
    process::private_files();
    let config = Config::load(&launch.config)?;
    let node = config.choose(launch.node.as_deref(), &process::host_name())?.clone();
    let lock = InstanceLock::take(&node)?;
    if let Some(replication) = &config.replication {
        Secret::read(&replication.secret_file)?;
    }
    process::retry(lock.patience(), || process::check_addresses(&config, &node))?;
    let opened = process::retry(lock.patience(), || device::open(&config, &node))?;
    // Before the first thread, so that every thread leaves the signals to the one that listens for them.
    let signals = process::signals()?;
    Daemon::start(&config, &node, opened)?.serve(&signals);
    drop(lock);
    Ok(())
}

/// A request of a client that the coordinator has not answered yet.
struct Pending {
    call: Call,
    command: OperatorCommand,
}

/// What the daemon's thread hears.
enum News {
    Call(Call),
    Engine(EngineEvent),
    Signal(Signal),
    Tick,
}

/// A started node.
struct Daemon {
    names: Names,
    engine: Engine,
    events: EventLog,
    calls: Receiver<Call>,
    pending: BTreeMap<Ticket, Pending>,
    tickets: u64,
    size_bytes: u64,
    started: Instant,
    /// Since when the node drains, and who is to hear of its end.
    stopping: Option<(Instant, Vec<Call>)>,
    /// Dropped last: its end is what `twinlun down` waits for.
    _socket: ControlSocket,
}

impl Daemon {
    fn start(config: &Config, node: &NodeConfig, opened: Opened) -> Result<Self, Failure> {
        let events = EventLog::new(&node.name);
        for warning in &opened.warnings {
            events.push(Weight::Warning, "metadata_damaged", warning.clone());
        }
        let (socket, calls) = ControlSocket::open(&node.socket(), events.clone())?;
        let layout = opened.superblock.layout;
        let plan = EnginePlan {
            shards: node.shards,
            cpus: plan::cpus(node),
            target: plan::target(config, &opened.superblock, opened.data.facts().volatile_cache)?,
            data: opened.data,
            metadata: opened.metadata,
            superblock: opened.superblock,
            boot_id: super::init::boot_identifier()?,
            lanes: opened.lanes,
            hot_extents_per_lane: plan::hot_extents_per_lane(&layout),
            portals: config.target.portals.clone(),
            link: None,
            tuning: Tuning::default(),
            mutants: Mutants::default(),
        };
        let engine = Engine::start(plan).map_err(|error| engine_failure(&node.name, &error))?;
        Ok(Self {
            names: Names::new(config, node),
            engine,
            events,
            calls,
            pending: BTreeMap::new(),
            tickets: 0,
            size_bytes: layout.geometry.bytes(),
            started: Instant::now(),
            stopping: None,
            _socket: socket,
        })
    }

    fn serve(mut self, signals: &Receiver<Signal>) {
        let clock = tick(TICK);
        while !self.is_over() {
            match self.next(signals, &clock) {
                News::Call(call) => self.on_call(call),
                News::Engine(event) => self.on_engine(event),
                News::Signal(Signal::SIGTERM | Signal::SIGINT) => self.stop(None),
                News::Signal(_) | News::Tick => {}
            }
        }
        let Self { engine, stopping, events, .. } = self;
        engine.stop();
        events.push(Weight::Info, "ended", "the daemon ends");
        for call in stopping.into_iter().flat_map(|(_, calls)| calls) {
            call.answer(Answer::Done("drained".to_owned()));
        }
    }

    /// Waits for whoever speaks first.
    #[expect(clippy::disallowed_methods, reason = "the transmute is inside crossbeam's macro")]
    fn next(&self, signals: &Receiver<Signal>, clock: &Receiver<Instant>) -> News {
        select! {
            recv(self.calls) -> call => call.map_or(News::Tick, News::Call),
            recv(self.engine.events()) -> event => event.map_or(News::Tick, News::Engine),
            recv(signals) -> signal => signal.map_or(News::Tick, News::Signal),
            recv(clock) -> _ => News::Tick,
        }
    }

    fn on_call(&mut self, call: Call) {
        let command = match &call.request {
            Request::Status => {
                let status = self.status();
                return call.answer(Answer::Status(Box::new(status)));
            }
            Request::Down => return self.stop(Some(call)),
            Request::Promote { seed, fenced } => match self.fenced(fenced.as_deref()) {
                Ok(i_have_fenced) => OperatorCommand::Promote { seed: *seed, i_have_fenced },
                Err(failure) => return call.answer(Answer::Failure(failure)),
            },
            Request::Demote => OperatorCommand::Demote,
            Request::Switchover => OperatorCommand::Switchover,
            Request::Connect { discard_my_data } => {
                OperatorCommand::Connect { discard_my_data: *discard_my_data }
            }
            Request::Disconnect => OperatorCommand::Disconnect,
            // The control socket answers these itself.
            Request::Events { .. } => return,
        };
        log::info!("event=request {command:?}");
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.pending.insert(ticket, Pending { call, command });
        self.ask(ticket, command);
    }

    /// The node that a person says to have fenced.
    fn fenced(&self, name: Option<&str>) -> Result<Option<NodeId>, Failure> {
        let Some(name) = name else { return Ok(None) };
        self.names.id_of(name).map(Some).ok_or_else(|| {
            let what = format!("there is no node {name:?}");
            Failure::usage(what, "name the other node as the configuration does")
        })
    }

    fn ask(&mut self, ticket: Ticket, command: OperatorCommand) {
        self.engine.request(EngineRequest::Operator { ticket, command });
    }

    fn on_reply(&mut self, ticket: Ticket, result: Result<(), Refusal>) {
        let Some(Pending { call, command }) = self.pending.remove(&ticket) else { return };
        call.answer(match result {
            Ok(()) => Answer::Done(translate::done(&self.names, &command)),
            Err(refusal) => Answer::Failure(translate::refusal(&self.names, &refusal)),
        });
    }

    fn on_engine(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Serving { addresses } => {
                let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                self.events.push(Weight::Info, "serving", format!("initiators are served at {list}"));
            }
            EngineEvent::Failed { why } => self.events.push(Weight::Warning, "engine_failed", why),
            EngineEvent::Reply { ticket, result } => self.on_reply(ticket, result),
            EngineEvent::LinkTrouble { why } => self.events.push(Weight::Warning, "link_trouble", why),
            EngineEvent::NotServing | EngineEvent::Volume(_) => {}
            // Only a volume with a peer asks the arbiter.
            EngineEvent::ReadRecord | EngineEvent::Cas { .. } => {}
        }
    }

    fn stop(&mut self, call: Option<Call>) {
        let (_, calls) = self.stopping.get_or_insert_with(|| (Instant::now(), Vec::new()));
        calls.extend(call);
    }

    fn is_over(&self) -> bool {
        self.stopping.is_some()
    }

    fn status(&self) -> Status {
        let core = operator::Status {
            role: operator::Role::Primary,
            serving: true,
            suspended: false,
            disk: operator::DiskState::UpToDate,
            peer_disk: operator::DiskState::Unknown,
            peer_primary: false,
            connection: operator::Connection::Single,
            discord: None,
            record: Default::default(),
            generations: Default::default(),
            flags: Default::default(),
            suspect: false,
        };
        let status = translate::status(&self.names, &core);
        Status { size_bytes: self.size_bytes, uptime_seconds: self.started.elapsed().as_secs(), ..status }
            .judge()
    }
}

fn engine_failure(node: &str, error: &EngineError) -> Failure {
    let next = match error {
        EngineError::Ring(_) => {
            "allow io_uring (sysctl kernel.io_uring_disabled=0) and use Linux 6.1 or later"
        }
        EngineError::Memory(_) => "free memory, or raise the limit (ulimit -l unlimited)",
        EngineError::Descriptor(_) => "raise the limit of open files (ulimit -n 65536)",
        EngineError::Pin { .. } => "correct the key cpus of this node",
        EngineError::Thread(_) => "raise the limit of threads (ulimit -u)",
    };
    Failure::failed(format!("the engine of {node} does not start: {error}"), next)
}
