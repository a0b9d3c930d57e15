//! Starting and stopping: from a plan to running shards, and the daemon's way to talk to them.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::buffers::{Arena, ArenaPlan, Purpose, ShardPool};
use super::device::Device;
use super::establish::{Establish, LinkPlan};
use super::faces::Face;
use super::mesh::{Endpoint, Waker, mesh};
use super::plumbing::{Message, Plumbing, boot_time};
use super::reactor::Reactor;
use super::registry::SessionInfo;
use super::ring::RingError;
use super::shard::Shard;
use super::target_driver::TargetDriver;
use super::volume_driver::VolumeDriver;
use super::zero::Zero;
use crate::arbitration::{Reads, Record};
use crate::block::UnitState;
use crate::iscsi::TargetConfig;
use crate::replication::control::Notice;
use crate::replication::handshake::{LocalEnd, VERSIONS};
use crate::storage::{LaneState, Layout, Superblock, UnitCopy};
use crate::units::{BufId, CHUNK_BYTES, Pool, SHARDS_MAX, ShardId};
use crate::volume::coordinator::{CasOutcome, Coordinator, CoordinatorConfig, LeaseView, RecordOutcome};
use crate::volume::mutant::Mutants;
use crate::volume::operator::{Event, OperatorCommand, Refusal, Status, Ticket};
use crate::volume::part::{Part, PartConfig, PartStats};

/// How a volume is run on this node.
pub struct EnginePlan {
    /// Threads, 1..=[`SHARDS_MAX`]; a shard beyond the number of lanes serves connections only.
    pub shards: u8,
    /// CPUs to pin the shards to, in turn; empty: not pinned.
    pub cpus: Vec<usize>,
    /// Holds the data area, from offset 0.
    pub data: Device,
    /// Holds the metadata; the same device when it is internal.
    pub metadata: Device,
    /// As chosen from the two copies.
    pub superblock: Superblock,
    /// What the logical unit remembers, as chosen from the two copies; `None`: they are lost.
    pub unit: Option<UnitCopy>,
    /// The running kernel's boot identifier.
    pub boot_id: [u8; 16],
    /// Every lane's state as loaded, in order.
    pub lanes: Vec<LaneState>,
    /// Extents a lane keeps hot.
    pub hot_extents_per_lane: usize,
    /// Where initiators connect to.
    pub portals: Vec<SocketAddr>,
    pub target: Arc<TargetConfig>,
    /// What initiators see at other addresses than this node's own.
    pub faces: Vec<Face>,
    /// Do initiators log in also while the other node leads? Then this one forwards.
    pub standby_serves: bool,
    /// How long initiators' requests are held before they are answered NOT READY; `None`: for ever.
    pub hold_limit: Option<std::time::Duration>,
    /// How a leader knows that it still leads when it answers a read.
    pub reads: Reads,
    /// `None`: a volume without a peer; it is served from the start.
    pub link: Option<LinkPlan>,
    pub tuning: Tuning,
    /// Planted bugs, for tests of tests.
    pub mutants: Mutants,
}

impl EnginePlan {
    /// What every shard begins with.
    fn unit_state(&self) -> UnitState {
        self.unit.as_ref().map_or_else(UnitState::empty, |copy| copy.state.clone())
    }

    fn layout(&self) -> Layout {
        self.superblock.layout
    }
}

/// What may be tried out; the defaults are right.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long a shard looks for news before it sleeps, as long as that pays. Zero: it sleeps at once.
    pub spin: Duration,
    /// Pin the data buffers once (costs their whole memory) instead of for every operation.
    pub pin_buffers: bool,
    /// Use nothing of io_uring that has a substitute, as on the oldest kernel that is supported.
    pub plain_ring: bool,
    /// `None`: [`ArenaPlan::standard`].
    pub buffers: Option<ArenaPlan>,
}

/// About the round trip of an initiator that has one command in flight: network and its own wake-up, which alone is
/// 5 µs on bare metal and up to 50 µs in a virtual machine. Found in that time, its next command costs no sleep.
const SPIN: Duration = Duration::from_micros(100);

impl Default for Tuning {
    fn default() -> Self {
        Self { spin: SPIN, pin_buffers: true, plain_ring: false, buffers: None }
    }
}

/// What the daemon asks of a running engine.
#[derive(Debug)]
pub enum EngineRequest {
    /// A person or the agent; answered by [`EngineEvent::Reply`].
    Operator { ticket: Ticket, command: OperatorCommand },
    /// The arbiter's answer to [`EngineEvent::ReadRecord`].
    Record(RecordOutcome),
    /// The arbiter's answer to [`EngineEvent::Cas`].
    Cas(CasOutcome),
    /// For the other node's operator; dropped while there is no session.
    Notice(Notice),
    /// Answered on the channel that comes along.
    Status { reply: Sender<EngineStatus> },
    /// Ask every initiator to log out (Asynchronous Message 1); who has not gone after so many seconds is disconnected.
    AskLogout { seconds: u16 },
    /// These addresses have left this node: drop the connections to them.
    DropAt(Vec<IpAddr>),
    /// From now on send who logs in to this portal, `ip:port` (login status 0101h); `None`: serve again.
    Redirect(Option<String>),
    /// Drop the initiators and the peer, finish what is under way, end. For an orderly end of service let
    /// [`OperatorCommand::Stop`] go before.
    Stop,
}

/// What a running engine tells the daemon.
#[derive(Debug)]
pub enum EngineEvent {
    /// Initiators are served at these addresses.
    Serving {
        addresses: Vec<SocketAddr>,
    },
    NotServing,
    /// The engine cannot do what it should; it goes on without.
    Failed {
        why: String,
    },
    /// Why there is no session with the peer. Told once for each reason.
    LinkTrouble {
        why: String,
    },
    /// Read the arbiter's record; answer with [`EngineRequest::Record`].
    ReadRecord,
    /// Ask the arbiter until it answers, then [`EngineRequest::Cas`].
    Cas {
        expected: Record,
        proposed: Record,
    },
    Reply {
        ticket: Ticket,
        result: Result<(), Refusal>,
    },
    Volume(Event),
    /// The other node has this for the operator.
    Notice(Notice),
}

/// What the engine knows of itself.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    pub volume: Status,
    /// For how long the peer's engine has said nothing; `None` without a session.
    pub peer_silent: Option<Duration>,
    pub lease: LeaseView,
    /// Counters of each shard's part, this node's shard 0 first, then in no order.
    pub parts: Vec<PartStats>,
    /// Sessions of initiators, the oldest first.
    pub sessions: Vec<SessionInfo>,
    /// Where initiators are served; empty while they are not.
    pub portals: Vec<SocketAddr>,
}

/// Why an engine could not be started.
#[derive(Debug)]
pub enum EngineError {
    Ring(RingError),
    Memory(io::Error),
    Descriptor(io::Error),
    Thread(io::Error),
    Pin { cpu: usize, error: io::Error },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => write!(f, "{error}"),
            Self::Memory(error) => write!(f, "no memory for the data buffers: {error}"),
            Self::Descriptor(error) => write!(f, "no descriptor for a shard: {error}"),
            Self::Thread(error) => write!(f, "a shard's thread cannot be started: {error}"),
            Self::Pin { cpu, error } => write!(f, "a shard cannot be pinned to CPU {cpu}: {error}"),
        }
    }
}

impl std::error::Error for EngineError {}

/// A running engine.
pub struct Engine {
    requests: Sender<EngineRequest>,
    events: Receiver<EngineEvent>,
    wakers: Arc<[Waker]>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the shards; returns once every one has its ring.
    pub fn start(plan: EnginePlan) -> Result<Self, EngineError> {
        assert!((1..=SHARDS_MAX).contains(&usize::from(plan.shards)), "1 to {SHARDS_MAX} shards");
        assert_eq!(plan.lanes.len(), usize::from(plan.layout().geometry.lanes), "every lane is loaded");
        let replicated = plan.link.is_some();
        let buffers = plan.tuning.buffers.unwrap_or_else(|| ArenaPlan::standard(plan.shards, replicated));
        let arena = Arena::new(buffers).map_err(EngineError::Memory)?;
        let (endpoints, wakers) = mesh::<Message>(plan.shards).map_err(EngineError::Descriptor)?;
        let (requests, request_inlet) = unbounded();
        let (event_outlet, events) = unbounded();
        let (ready, readiness) = bounded(usize::from(plan.shards));
        let mut engine = Self { requests, events, wakers, threads: Vec::new() };
        // Declared after the engine: on an early return the gate falls first, and the engine waits for shards that end.
        let (go, gate) = bounded(usize::from(plan.shards));
        let mut channels = Some((request_inlet, event_outlet));
        let plan = Arc::new(plan);
        let quiet: Arc<[AtomicBool]> = (0..plan.shards).map(|_| AtomicBool::new(false)).collect();
        for endpoint in endpoints {
            let number = endpoint.shard();
            let seed = Seed {
                endpoint,
                arena: arena.clone(),
                channels: channels.take(),
                plan: plan.clone(),
                quiet: quiet.clone(),
            };
            let (ready, gate) = (ready.clone(), gate.clone());
            let thread = std::thread::Builder::new()
                .name(format!("shard-{}", number.0))
                .spawn(move || {
                    let _guard = AbortOnPanic;
                    match seed.grow() {
                        Ok(shard) => {
                            let _ = ready.send(Ok(()));
                            // Nobody turns before all shards are there; when one cannot start, nobody does.
                            if gate.recv().is_ok() {
                                shard.run();
                            }
                        }
                        Err(error) => {
                            let _ = ready.send(Err(error));
                        }
                    }
                })
                .map_err(EngineError::Thread)?;
            engine.threads.push(thread);
        }
        for _ in 0..plan.shards {
            readiness.recv().expect("every shard says whether it is there")?;
        }
        for _ in 0..plan.shards {
            go.send(()).expect("every shard waits for it");
        }
        Ok(engine)
    }

    /// Asks the engine for something; the answer, if there is one, comes as an event.
    pub fn request(&self, request: EngineRequest) {
        // An engine that has ended takes no more requests.
        let _ = self.requests.send(request);
        self.wakers[0].wake();
    }

    pub fn events(&self) -> &Receiver<EngineEvent> {
        &self.events
    }

    /// Stops the shards and waits for their end.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.request(EngineRequest::Stop);
        for thread in self.threads.drain(..) {
            // A shard that panicked has taken the process with it.
            let _ = thread.join();
        }
    }
}

/// A broken invariant in one shard ends the node: the peer takes over, and nothing false is served.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// What a shard is made of, on its way to its thread.
struct Seed {
    endpoint: Endpoint<Message>,
    arena: Arc<Arena>,
    /// The daemon's end of shard 0.
    channels: Option<(Receiver<EngineRequest>, Sender<EngineEvent>)>,
    plan: Arc<EnginePlan>,
    quiet: Arc<[AtomicBool]>,
}

impl Seed {
    /// On the shard's own thread: the ring belongs to the thread that makes it.
    fn grow(self) -> Result<Shard, EngineError> {
        let Self { endpoint, arena, channels, plan, quiet } = self;
        let number = endpoint.shard();
        if !plan.cpus.is_empty() {
            let cpu = plan.cpus[usize::from(number.0) % plan.cpus.len()];
            pin(cpu).map_err(|error| EngineError::Pin { cpu, error })?;
        }
        let Tuning { spin, pin_buffers, plain_ring, .. } = plan.tuning;
        let mut reactor = Reactor::new(arena.clone(), pin_buffers, plain_ring).map_err(EngineError::Ring)?;
        if number.0 == 0 {
            log::info!("io_uring: {:?}", reactor.capabilities());
        }
        let data = reactor.adopt(plan.data.descriptor().map_err(EngineError::Descriptor)?);
        let metadata = reactor.adopt(plan.metadata.descriptor().map_err(EngineError::Descriptor)?);
        let mut pool = ShardPool::new(arena, number);
        let resync_buffers = std::iter::from_fn(|| pool.purpose(Purpose::Resync).take(CHUNK_BYTES)).collect();
        let part = part(&plan, number, resync_buffers);
        let volume = VolumeDriver::new(part, data, metadata, plan.layout());
        let faces = plan.faces.iter().flat_map(|face| &face.portals);
        let mut portals = plan.portals.clone();
        portals.extend(faces.copied());
        portals.sort_unstable();
        portals.dedup();
        let portals = if number.0 == 0 { portals.as_slice() } else { &[] };
        let target = TargetDriver::new(
            plan.target.clone(),
            plan.faces.clone(),
            portals,
            plan.shards,
            &plan.unit_state(),
        );
        let plumbing =
            Plumbing::new(number, plan.layout().geometry, reactor, pool, endpoint, quiet, boot_time());
        let zero = channels.map(|(requests, events)| Box::new(zero(&plan, requests, events)));
        Shard::new(plumbing, target, volume, zero, spin).map_err(EngineError::Descriptor)
    }
}

fn zero(plan: &EnginePlan, requests: Receiver<EngineRequest>, events: Sender<EngineEvent>) -> Zero {
    let superblock = plan.superblock.clone();
    let (mut entropy, mut life) = ([0; 8], [0; 16]);
    getrandom::fill(&mut entropy).expect("the kernel has randomness");
    getrandom::fill(&mut life).expect("the kernel has randomness");
    let local = LocalEnd {
        volume: superblock.volume,
        volume_name: superblock.volume_name.clone(),
        node: superblock.node,
        shards: plan.shards,
        life,
        versions: VERSIONS,
        reads: plan.reads,
    };
    let config = CoordinatorConfig {
        node: superblock.node,
        shards: plan.shards,
        replicated: plan.link.is_some(),
        volatile_cache: plan.data.facts().volatile_cache,
        reads: plan.reads,
        boot_id: plan.boot_id,
        standby_serves: plan.standby_serves,
        peer_timeout: plan.link.as_ref().map_or(std::time::Duration::from_secs(2), |link| link.peer_timeout),
        entropy: u64::from_le_bytes(entropy),
        mutants: plan.mutants,
    };
    let lanes = plan.layout().geometry.lanes;
    let establish = plan.link.clone().map(|link| Establish::new(link, local, lanes));
    Zero::new(
        Coordinator::new(config, superblock, plan.unit.clone()),
        establish,
        plan.layout(),
        requests,
        events,
    )
}

fn part(plan: &EnginePlan, shard: ShardId, resync_buffers: Vec<BufId>) -> Part {
    let lanes = plan
        .lanes
        .iter()
        .filter(|lane| lane.lane.0 % u16::from(plan.shards) == u16::from(shard.0))
        .cloned()
        .collect();
    let config = PartConfig {
        shard,
        shards: plan.shards,
        geometry: plan.layout().geometry,
        hot_extents_per_lane: plan.hot_extents_per_lane,
        resync_buffers,
        hold_limit: plan.hold_limit,
        mutants: plan.mutants,
    };
    Part::new(config, lanes)
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
