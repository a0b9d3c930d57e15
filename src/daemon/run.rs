//! The life of the daemon: look, open, start, serve until told to stop, drain, end.
//!
//! One thread listens to everyone: the control socket, the engine, the arbiter, the signals. It decides nothing about
//! the volume; it carries requests to the coordinator on shard 0 and its answers back, and keeps the event log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick, unbounded};
use nix::sys::signal::Signal;

use super::api::{
    Answer, ArbiterStatus, Beat, LastResync, LinkState, Request, ResyncStatus, SessionStatus, Status,
    SyncDirection,
};
use super::arbiter::{self, Question, Told};
use super::clock;
use super::config::units::human_bytes;
use super::config::{Config, LUNS, NodeConfig, Paths, Secret};
use super::control::{Call, ControlSocket};
use super::device::{self, Opened};
use super::events::{EventLog, Weight};
use super::failure::Failure;
use super::init::boot_identifier;
use super::plan;
use super::process::{self, InstanceLock, Launch};
use super::progress::Progress;
use super::translate::{self, Names, Pulse};
use super::virtual_machine;
use crate::arbitration::{Epoch, Reads, Record};
use crate::engine::{
    Engine, EngineError, EngineEvent, EnginePlan, EngineRequest, EngineStatus, SessionInfo, Tuning,
};
use crate::replication::control::Notice;
use crate::time;
use crate::units::{BITMAP_BLOCK_BYTES, NodeId};
use crate::volume::mutant::Mutants;
use crate::volume::operator::{Connection, Event, OperatorCommand, Refusal, Ticket};
use crate::volume::part::PartStats;

/// How often the daemon looks around when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// How long the engine may take to tell its state.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// How long draining may take before the daemon ends without it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// The ticket of the daemon's own request to stop.
const STOP_TICKET: Ticket = Ticket(0);

/// Runs a node until it is told to stop.
pub fn run(launch: &Launch) -> Result<(), Failure> {
    let (config, node) = launch.enter(NodeConfig::log_file)?;
    let lock = InstanceLock::take(&node)?;
    let secret = match &config.replication {
        Some(replication) => Some(Secret::read(&replication.secret_file)?),
        None => None,
    };
    virtual_machine::check(&config, std::path::Path::new("/"))?;
    process::retry(lock.patience(), || process::check_addresses(&config, &node))?;
    let opened = process::retry(lock.patience(), || device::open(&config, &node))?;
    // Before the first thread, so that every thread leaves the signals to the one that listens for them.
    let signals = process::signals()?;
    Daemon::start(&config, &node, opened, secret.as_ref())?.serve(&signals);
    drop(lock);
    Ok(())
}

/// A request of a client that the coordinator has not answered yet.
struct Pending {
    call: Call,
    command: OperatorCommand,
}

/// A promotion that was refused because the peer is primary, while it is not sure that the peer still lives.
struct Doubted {
    pending: Pending,
    /// A peer that is heard of for so long lives.
    until: Instant,
}

/// What the daemon's thread hears.
enum News {
    Call(Call),
    Engine(EngineEvent),
    Arbiter(Told),
    Signal(Signal),
    Tick,
}

/// The arbiter's thread, as the daemon sees it.
struct ArbiterDesk {
    kind: &'static str,
    questions: Sender<Question>,
    told: Receiver<Told>,
    /// Did it answer the last time?
    reachable: bool,
    /// Why it did not.
    trouble: Option<String>,
}

/// A started node.
struct Daemon {
    names: Names,
    engine: Engine,
    arbiter: Option<ArbiterDesk>,
    events: EventLog,
    calls: Receiver<Call>,
    pending: BTreeMap<Ticket, Pending>,
    doubted: Vec<Doubted>,
    /// Silence after which the peer counts as lost.
    peer_timeout: Duration,
    tickets: u64,
    size_bytes: u64,
    started: Instant,
    /// Since when there is no session with the peer.
    apart_since: Option<Instant>,
    /// Why there is none, if that is known.
    trouble: Option<String>,
    resync: Option<Progress>,
    /// What the peer, as sync source, says: bytes in all and left.
    source_says: Option<(u64, u64)>,
    /// This node's configuration file.
    config_hash: [u8; 32],
    config_differs: bool,
    reads: Reads,
    last_resync: Option<LastResync>,
    stopping: Option<Stopping>,
    /// A person made this node secondary, and nobody has served since.
    demoted: bool,
    /// Names this start of the daemon in its beats.
    incarnation: u64,
    beats: u64,
    /// Dropped last: its end is what `twinlun down` waits for.
    _socket: ControlSocket,
}

/// The node drains.
struct Stopping {
    since: Instant,
    /// Who is to hear of the end.
    calls: Vec<Call>,
    drained: bool,
}

impl Daemon {
    fn start(
        config: &Config,
        node: &NodeConfig,
        opened: Opened,
        secret: Option<&Secret>,
    ) -> Result<Self, Failure> {
        let events = EventLog::new(&node.name);
        for warning in &opened.warnings {
            events.push(Weight::Warning, "metadata_damaged", warning.clone());
        }
        let (socket, calls) = ControlSocket::open(&node.socket(), events.clone())?;
        let layout = opened.superblock.layout;
        let cache = opened.data.facts().volatile_cache;
        let (target, faces) = plan::targets(config, node, &opened.superblock, cache)?;
        let own = opened.superblock.record;
        let plan = EnginePlan {
            standby_serves: config.target.paths != Paths::Vip,
            reads: config.replication.as_ref().map_or(Reads::Confirm, |it| it.reads),
            shards: node.shards,
            cpus: plan::cpus(node),
            target,
            faces,
            data: opened.data,
            metadata: opened.metadata,
            superblock: opened.superblock,
            unit: opened.unit,
            boot_id: boot_identifier()?,
            lanes: opened.lanes,
            hot_extents_per_lane: plan::hot_extents_per_lane(&layout),
            portals: config.portals_of(node),
            hold_limit: config.replication.as_ref().and_then(|replication| replication.hold_limit),
            link: secret.map(|secret| plan::link(config, node, secret)).transpose()?,
            tuning: Tuning::default(),
            mutants: Mutants::default(),
        };
        let arbiter = secret.map(|secret| ArbiterDesk::open(config, node, secret, own)).transpose()?;
        let engine = Engine::start(plan).map_err(|error| engine_failure(&node.name, &error))?;
        Ok(Self {
            names: Names::new(config, node),
            engine,
            events,
            calls,
            pending: BTreeMap::new(),
            doubted: Vec::new(),
            peer_timeout: config.replication.as_ref().map_or(Duration::ZERO, |it| it.peer_timeout),
            tickets: STOP_TICKET.0,
            size_bytes: layout.geometry.bytes(),
            started: Instant::now(),
            apart_since: arbiter.is_some().then(Instant::now),
            arbiter,
            trouble: None,
            resync: None,
            source_says: None,
            config_hash: config.hash,
            reads: config.replication.as_ref().map_or(Reads::Confirm, |it| it.reads),
            config_differs: false,
            last_resync: None,
            stopping: None,
            demoted: false,
            incarnation: random()?,
            beats: 0,
            _socket: socket,
        })
    }

    fn serve(mut self, signals: &Receiver<Signal>) {
        let clock = tick(TICK);
        while !self.is_over() {
            match self.next(signals, &clock) {
                News::Call(call) => self.on_call(call),
                News::Engine(event) => self.on_engine(event),
                News::Arbiter(told) => self.on_arbiter(told),
                News::Signal(Signal::SIGTERM | Signal::SIGINT) => self.stop(None),
                News::Signal(_) => {}
                News::Tick => self.on_tick(),
            }
        }
        let Self { engine, stopping, events, .. } = self;
        engine.stop();
        events.push(Weight::Info, "ended", "the daemon ends");
        for call in stopping.into_iter().flat_map(|stopping| stopping.calls) {
            call.answer(Answer::Done("drained".to_owned()));
        }
    }

    /// Waits for whoever speaks first.
    #[expect(clippy::disallowed_methods, reason = "the transmute is inside crossbeam's macro")]
    fn next(&self, signals: &Receiver<Signal>, clock: &Receiver<Instant>) -> News {
        let silent = never();
        let told = self.arbiter.as_ref().map_or(&silent, |arbiter| &arbiter.told);
        select! {
            recv(self.calls) -> call => call.map_or(News::Tick, News::Call),
            recv(self.engine.events()) -> event => event.map_or(News::Tick, News::Engine),
            recv(told) -> told => told.map_or(News::Tick, News::Arbiter),
            recv(signals) -> signal => signal.map_or(News::Tick, News::Signal),
            recv(clock) -> _ => News::Tick,
        }
    }

    fn on_call(&mut self, call: Call) {
        let command = match &call.request {
            Request::Status => {
                let answer = self.status().map_or_else(Answer::Failure, |it| Answer::Status(Box::new(it)));
                return call.answer(answer);
            }
            Request::Down => return self.stop(Some(call)),
            Request::Watch { .. } => {
                let answer = self.beat().map_or_else(Answer::Failure, Answer::Beat);
                return call.answer(answer);
            }
            Request::Standby { .. } => {
                let failure =
                    Failure::usage("the daemon knows no standby", "ask the agent (section [agent])");
                return call.answer(Answer::Failure(failure));
            }
            Request::Promote { automatic: Some(why), died_epoch, .. } => {
                let text = format!("the agent asks to take over: {why}");
                self.events.push(Weight::Info, "takeover_asked", text);
                OperatorCommand::TakeOver { died: died_epoch.map(Epoch) }
            }
            Request::Promote { seed, fenced, unmet, .. } => {
                let price = if *seed || *unmet { Ok(()) } else { self.refuse_unmet() };
                match price.and_then(|()| self.fenced(fenced.as_deref())) {
                    Ok(i_have_fenced) => {
                        if i_have_fenced.is_some() && self.arbiter.is_some() {
                            self.ask_arbiter(Question::Vouched);
                        }
                        OperatorCommand::Promote { seed: *seed, i_have_fenced }
                    }
                    Err(failure) => return call.answer(Answer::Failure(failure)),
                }
            }
            Request::Demote => OperatorCommand::Demote,
            Request::Switchover => OperatorCommand::Switchover,
            Request::Connect { discard_my_data } => {
                OperatorCommand::Connect { discard_my_data: *discard_my_data }
            }
            Request::Disconnect => OperatorCommand::Disconnect,
            Request::DropConnections { at } => {
                self.engine.request(EngineRequest::DropAt(at.clone()));
                return call.answer(Answer::Done("connections to these addresses are dropped".to_owned()));
            }
            // The control socket answers these itself.
            Request::Events { .. } => return,
        };
        log::info!("event=request {command:?}");
        self.ask(Pending { call, command });
    }

    fn ask(&mut self, pending: Pending) {
        self.tickets += 1;
        let (ticket, command) = (Ticket(self.tickets), pending.command);
        self.pending.insert(ticket, pending);
        self.engine.request(EngineRequest::Operator { ticket, command });
    }

    /// Refuses what would cost a copy of everything that a little patience spares.
    fn refuse_unmet(&self) -> Result<(), Failure> {
        let volume = self.engine_status()?.volume;
        let apart = matches!(volume.connection, Connection::Connecting | Connection::StandAlone);
        // A node that was seeded or promoted, or followed one that was, has seen a record.
        let unmet = apart && volume.record.epoch.0 == 0 && !volume.flags.just_created;
        if unmet { Err(translate::unmet(&self.names, self.size_bytes)) } else { Ok(()) }
    }

    /// The node that a person says to have fenced.
    fn fenced(&self, name: Option<&str>) -> Result<Option<NodeId>, Failure> {
        let Some(name) = name else { return Ok(None) };
        self.names.id_of(name).map(Some).ok_or_else(|| {
            let what = format!("there is no node {name:?}");
            Failure::usage(what, "name the other node as the configuration does")
        })
    }

    fn on_reply(&mut self, ticket: Ticket, result: Result<(), Refusal>) {
        if let (STOP_TICKET, Some(stopping)) = (ticket, &mut self.stopping) {
            stopping.drained = true;
            return;
        }
        let Some(pending) = self.pending.remove(&ticket) else { return };
        let promotion = matches!(pending.command, OperatorCommand::Promote { .. });
        if promotion && result == Err(Refusal::PeerIsPrimary) && self.apart_since.is_none() {
            // Right after a crash the loss of the peer is not noticed yet: give it the time that it needs.
            self.doubted.push(Doubted { pending, until: Instant::now() + self.peer_timeout + TICK });
            return;
        }
        self.finish(pending, result);
    }

    fn finish(&mut self, pending: Pending, result: Result<(), Refusal>) {
        let Pending { call, command } = pending;
        self.demoted |= command == OperatorCommand::Demote && result.is_ok();
        call.answer(match result {
            Ok(()) => Answer::Done(translate::done(&self.names, &command)),
            Err(refusal) => {
                let mut failure = translate::refusal(&self.names, &command, &refusal);
                let trouble = self.arbiter.as_ref().and_then(|desk| desk.trouble.as_deref());
                if let (Refusal::NeedsOperator, Some(why)) = (&refusal, trouble) {
                    why.clone_into(&mut failure.what);
                }
                Answer::Failure(failure)
            }
        });
    }

    /// Answers promotions whose peer has proved to live; asks again when it is lost.
    fn settle_doubts(&mut self) {
        let lost = self.apart_since.is_some();
        for doubted in std::mem::take(&mut self.doubted) {
            if lost {
                self.ask(doubted.pending);
            } else if doubted.until <= Instant::now() {
                self.finish(doubted.pending, Err(Refusal::PeerIsPrimary));
            } else {
                self.doubted.push(doubted);
            }
        }
    }

    fn on_engine(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Serving { addresses } => {
                let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                self.events.push(Weight::Info, "serving", format!("initiators are served at {list}"));
            }
            EngineEvent::NotServing => {
                self.events.push(Weight::Info, "not_serving", "initiators are not served here");
            }
            EngineEvent::Failed { why } => self.events.push(Weight::Warning, "engine_failed", why),
            EngineEvent::LinkTrouble { why } => {
                self.events.push(Weight::Warning, "link_trouble", why.clone());
                self.trouble = Some(why);
            }
            EngineEvent::ReadRecord => self.ask_arbiter(Question::Read),
            EngineEvent::Cas { expected, proposed } => {
                self.ask_arbiter(Question::Swap { expected, proposed });
            }
            EngineEvent::Reply { ticket, result } => self.on_reply(ticket, result),
            EngineEvent::Volume(event) => self.on_volume(&event),
            EngineEvent::Notice(notice) => self.on_notice(notice),
        }
    }

    /// The peer has something for this node's operator.
    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Resync { total, left } => self.source_says = Some((total, left)),
            Notice::Config { hash } => {
                self.config_differs = hash != self.config_hash;
                if self.config_differs {
                    let text = translate::config_differs(&self.names);
                    self.events.push(Weight::Warning, "config_differs", text);
                }
            }
        }
    }

    fn on_volume(&mut self, event: &Event) {
        match event {
            Event::Connected => {
                self.apart_since = None;
                self.trouble = None;
                self.config_differs = false;
                self.engine.request(EngineRequest::Notice(Notice::Config { hash: self.config_hash }));
            }
            Event::Agreed => self.ask_arbiter(Question::Met),
            Event::Disconnected => {
                self.apart_since = Some(Instant::now());
                self.resync = None;
                self.source_says = None;
                self.settle_doubts();
            }
            Event::ResyncFinished { source } => self.end_resync(*source),
            Event::Promoted { .. } => self.demoted = false,
            _ => {}
        }
        let (weight, key, mut text) = translate::event(&self.names, event);
        if let (Event::ResyncFinished { source: true }, Some(last)) = (event, &self.last_resync) {
            text = format!("{text} ({} copied)", human_bytes(last.sent_bytes));
        }
        self.events.push(weight, key, text);
    }

    fn ask_arbiter(&self, question: Question) {
        let desk = self.arbiter.as_ref().expect("only a volume with a peer asks the arbiter");
        // Its thread lives as long as this channel.
        let _ = desk.questions.send(question);
    }

    fn on_arbiter(&mut self, told: Told) {
        let (reachable, news) = match told {
            Told::Record(outcome) => return self.engine.request(EngineRequest::Record(outcome)),
            Told::Swapped(outcome) => return self.engine.request(EngineRequest::Cas(outcome)),
            Told::Silent(why) => (false, (Weight::Warning, "arbiter_silent", why)),
            Told::Back => (true, (Weight::Info, "arbiter_back", "the arbiter answers again".to_owned())),
        };
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.reachable = reachable;
            arbiter.trouble = (!reachable).then(|| news.2.clone());
        }
        self.events.push(news.0, news.1, news.2);
    }

    /// Follows a resync, so that a rate is known when somebody asks.
    fn on_tick(&mut self) {
        self.settle_doubts();
        if self.stopping.is_none() && self.arbiter.is_some() {
            if let Ok(engine) = self.engine_status() {
                self.follow_resync(&engine);
            }
        }
    }

    fn end_resync(&mut self, source: bool) {
        let told = self.resync.take().map_or(0, |progress| progress.total());
        self.source_says = None;
        let Ok(engine) = self.engine_status() else { return };
        let counted = engine.parts.iter().map(|part| part.resync_blocks_total * BITMAP_BLOCK_BYTES).sum();
        self.last_resync = Some(LastResync {
            direction: if source { SyncDirection::Source } else { SyncDirection::Target },
            total_bytes: if source { counted } else { told },
            sent_bytes: engine.parts.iter().map(|part| part.resynced_bytes).sum(),
            unix_milliseconds: clock::unix_milliseconds(),
        });
    }

    fn follow_resync(&mut self, engine: &EngineStatus) {
        let (total, left) = match engine.volume.connection {
            Connection::SyncSource => {
                let bytes = |blocks: fn(&PartStats) -> u64| {
                    engine.parts.iter().map(blocks).sum::<u64>() * BITMAP_BLOCK_BYTES
                };
                let (total, left) = (bytes(|part| part.resync_blocks_total), bytes(|part| part.dirty_blocks));
                self.engine.request(EngineRequest::Notice(Notice::Resync { total, left }));
                (total, left)
            }
            // The target knows what it has got, not what is to come.
            Connection::SyncTarget => match self.source_says {
                Some(said) => said,
                None => return,
            },
            _ => {
                self.resync = None;
                return;
            }
        };
        let now = self.now();
        self.resync.get_or_insert_with(|| Progress::begin(now, left.max(total))).sample(now, left);
    }

    /// Time since the daemon's start, as the progress of a resync counts it.
    fn now(&self) -> time::Instant {
        time::Instant(0) + self.started.elapsed()
    }

    /// Begins to drain; the second request ends the daemon at once.
    fn stop(&mut self, call: Option<Call>) {
        match &mut self.stopping {
            Some(stopping) => {
                stopping.drained |= call.is_none();
                stopping.calls.extend(call);
            }
            None => {
                self.events.push(Weight::Info, "stopping", "the daemon drains and ends");
                let calls = call.into_iter().collect();
                self.stopping = Some(Stopping { since: Instant::now(), calls, drained: false });
                let stop = EngineRequest::Operator { ticket: STOP_TICKET, command: OperatorCommand::Stop };
                self.engine.request(stop);
            }
        }
    }

    fn is_over(&self) -> bool {
        let over = |it: &Stopping| it.drained || it.since.elapsed() > DRAIN_PATIENCE;
        self.stopping.as_ref().is_some_and(over)
    }

    fn engine_status(&self) -> Result<EngineStatus, Failure> {
        let (reply, answer) = bounded(1);
        self.engine.request(EngineRequest::Status { reply });
        answer.recv_timeout(STATUS_PATIENCE).map_err(|_| {
            let what = format!("the engine of {} does not tell its state", self.names.here);
            Failure::failed(what, "look at its log; twinlun down and twinlun up start it anew")
        })
    }

    /// The engine's pulse.
    fn beat(&mut self) -> Result<Beat, Failure> {
        let engine = self.engine_status()?;
        self.demoted &= !engine.volume.peer_primary;
        self.beats += 1;
        let pulse = Pulse { incarnation: self.incarnation, progress: self.beats, demoted: self.demoted };
        Ok(translate::beat(&self.names, &engine.volume, engine.peer_silent, pulse))
    }

    fn status(&mut self) -> Result<Status, Failure> {
        let engine = self.engine_status()?;
        self.follow_resync(&engine);
        let mut status = translate::status(&self.names, &engine.volume);
        status.size_bytes = self.size_bytes;
        status.uptime_seconds = self.started.elapsed().as_secs();
        status.sessions = engine.sessions.len() as u32;
        status.session_list = engine.sessions.iter().map(session_status).collect();
        status.config_differs = self.config_differs;
        let there = self.names.there.is_some();
        status.reads = there.then(|| translate::reads(self.reads, engine.lease));
        status.portals = engine.portals.iter().map(ToString::to_string).collect();
        status.out_of_sync_bytes =
            engine.parts.iter().map(|part| part.dirty_blocks * BITMAP_BLOCK_BYTES).sum();
        if status.link == LinkState::Connecting {
            status.link_reason = self.trouble.clone();
        }
        if !matches!(status.link, LinkState::None | LinkState::Connected) {
            status.link_down_seconds = self.apart_since.map(|since| since.elapsed().as_secs());
        }
        status.arbiter = self
            .arbiter
            .as_ref()
            .map(|desk| ArbiterStatus { kind: desk.kind.to_owned(), reachable: desk.reachable });
        let direction = match engine.volume.connection {
            Connection::SyncSource => Some(SyncDirection::Source),
            Connection::SyncTarget => Some(SyncDirection::Target),
            _ => None,
        };
        status.last_resync = self.last_resync.clone();
        let now = self.now();
        let unknown = Progress::begin(now, 0);
        let progress = self.resync.as_ref().unwrap_or(&unknown);
        status.resync = direction.map(|direction| resync_status(progress, direction, now));
        Ok(status.judge())
    }
}

fn session_status(session: &SessionInfo) -> SessionStatus {
    SessionStatus {
        initiator: session.initiator.clone(),
        address: session.address.to_string(),
        luns: LUNS.to_vec(),
        connected_seconds: session.age.as_secs(),
    }
}

fn resync_status(progress: &Progress, direction: SyncDirection, now: time::Instant) -> ResyncStatus {
    ResyncStatus {
        direction,
        total_bytes: progress.total(),
        remaining_bytes: progress.remaining(),
        rate_bytes_per_second: progress.bytes_per_second(),
        eta_seconds: progress.eta_seconds(),
        stalled_seconds: progress.stalled_seconds(now),
    }
}

impl ArbiterDesk {
    fn open(config: &Config, node: &NodeConfig, secret: &Secret, own: Record) -> Result<Self, Failure> {
        let arbiter = arbiter::open(config, node, secret, own)?;
        let kind = arbiter.kind();
        let (questions, asked) = unbounded();
        let (tell, told) = unbounded();
        arbiter::spawn(arbiter, asked, tell).map_err(|error| {
            let what = format!("the arbiter's thread cannot be started: {error}");
            Failure::failed(what, "raise the limit of threads (ulimit -u)")
        })?;
        Ok(Self { kind, questions, told, reachable: true, trouble: None })
    }
}

/// Never 0.
fn random() -> Result<u64, Failure> {
    let number = getrandom::u64()
        .map_err(|error| Failure::failed(format!("the kernel gives no random numbers: {error}"), ""))?;
    Ok(number.max(1))
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
