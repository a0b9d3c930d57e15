//! Every state that a pair can reach within bounds, breadth first, over the very cores that serve: the volume's
//! [`Coordinator`](crate::volume::coordinator::Coordinator), which decides by the rules of [`crate::arbitration`], and its
//! [`Part`](crate::volume::part::Part), which answers. Nothing is modelled but what surrounds them: disks, wires, the
//! arbiter, clients.
//!
//! One block, a bounded number of writes, reads, crashes, cuts, promotions and hand-overs, in every order; every frame and
//! every answer late or lost. Checked at each step: the clients saw one block ([`monitor`]), nobody answers without the
//! committed record that names it, nobody is alone that the record does not name alone, epochs go up one by one, and
//! two that are joined in sync hold the same. The first violation found is a shortest one.
//!
//! Why the cores themselves are explored, and not a state machine cut out of them: what the rules protect (an answer, a
//! drained queue, a marked block) is decided in the parts as much as in the coordinator, and a cut would have to trust
//! the seam. The price is counters in the state, which merge less than a model's would.
//!
//! Not in it: several blocks and shards, partial writes, disk errors, time. Those are the random simulator's.

mod hash;
mod memo;
pub mod monitor;
pub mod node;
pub mod suite;
mod world;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memo::Memo;
use world::{Event, World};

pub use world::Bounds;

/// How an exploration ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub states: u64,
    pub transitions: u64,
    pub depth: usize,
    /// Different states of a single node that were met (by the worker that met most).
    pub nodes: usize,
    /// Everything within the bounds was seen.
    pub exhausted: bool,
    pub violation: Option<Violation>,
}

/// What does not hold, and the shortest way there.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    pub steps: Vec<String>,
}

const SHARDS: usize = 64;

/// Fingerprint → its parent's and the number of the event that led here.
struct Seen(Vec<Mutex<HashMap<u128, (u128, u16)>>>);

impl Seen {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn insert(&self, print: u128, parent: u128, event: u16) -> bool {
        let mut shard = self.0[print as usize % SHARDS].lock().expect("no worker panics");
        let free = !shard.contains_key(&print);
        if free {
            shard.insert(print, (parent, event));
        }
        free
    }

    fn parent(&self, print: u128) -> Option<(u128, u16)> {
        self.0[print as usize % SHARDS].lock().expect("no worker panics").get(&print).copied()
    }
}

/// A worker's findings on one level.
#[derive(Default)]
struct Level {
    next: Vec<World>,
    /// Where a violation was found: the state before it, and the event.
    broken: Option<(u128, usize, String)>,
}

/// Explores until everything is seen, something is broken, or `limit` states are seen.
pub fn explore(bounds: &Bounds, limit: u64, threads: usize) -> Outcome {
    super::run::catch_panics();
    let mut memos: Vec<Memo> = (0..threads.max(1)).map(|_| Memo::default()).collect();
    let mut outcome =
        Outcome { states: 0, transitions: 0, depth: 0, nodes: 0, exhausted: false, violation: None };
    let root = match World::serving(bounds, &mut memos[0]) {
        Ok(root) => root,
        Err(what) => {
            outcome.violation = Some(Violation { what, steps: Vec::new() });
            return outcome;
        }
    };
    let seen = Seen::new();
    seen.insert(root.print(), 0, u16::MAX);
    let (states, transitions) = (AtomicU64::new(1), AtomicU64::new(0));
    let mut frontier = vec![root.clone()];
    while !frontier.is_empty() && states.load(Ordering::Relaxed) < limit {
        outcome.depth += 1;
        let at = AtomicUsize::new(0);
        let levels: Vec<Level> = std::thread::scope(|scope| {
            let workers: Vec<_> = memos
                .iter_mut()
                .enumerate()
                .map(|(number, memo)| {
                    let (frontier, seen, states, transitions, at) =
                        (&frontier, &seen, &states, &transitions, &at);
                    let work = move || {
                        let level = expand(frontier, at, bounds, seen, memo);
                        states.fetch_add(level.0.next.len() as u64, Ordering::Relaxed);
                        transitions.fetch_add(level.1, Ordering::Relaxed);
                        level.0
                    };
                    let builder = std::thread::Builder::new().name(format!("sim-explore-{number}"));
                    builder.spawn_scoped(scope, work).expect("a thread can be started")
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("workers catch what breaks")).collect()
        });
        frontier = Vec::new();
        let mut broken = None;
        for mut level in levels {
            frontier.append(&mut level.next);
            broken = broken.or(level.broken);
        }
        if let Some((print, event, what)) = broken {
            let steps = tell(&root, bounds, &seen, print, event, &mut memos[0]);
            outcome.violation = Some(Violation { what, steps });
            break;
        }
    }
    outcome.states = states.into_inner();
    outcome.transitions = transitions.into_inner();
    outcome.nodes = memos.iter().map(Memo::nodes).max().unwrap_or(0);
    outcome.exhausted = frontier.is_empty() && outcome.violation.is_none();
    outcome
}

/// States taken from the frontier at once.
const BATCH: usize = 64;

fn expand(
    frontier: &[World],
    at: &AtomicUsize,
    bounds: &Bounds,
    seen: &Seen,
    memo: &mut Memo,
) -> (Level, u64) {
    let mut level = Level::default();
    let mut transitions = 0;
    let mut events = Vec::new();
    loop {
        let begin = at.fetch_add(BATCH, Ordering::Relaxed);
        if begin >= frontier.len() || level.broken.is_some() {
            return (level, transitions);
        }
        for world in &frontier[begin..(begin + BATCH).min(frontier.len())] {
            let parent = world.print();
            world.events(bounds, &mut events);
            for (number, &event) in events.iter().enumerate() {
                transitions += 1;
                match world.apply(event, memo) {
                    Ok(mut next) => {
                        if seen.insert(next.print(), parent, number as u16) {
                            next.share(memo);
                            level.next.push(next);
                        }
                    }
                    Err(what) => {
                        level.broken.get_or_insert((parent, number, what));
                    }
                }
            }
        }
    }
}

/// The events that led from the root to the violation.
fn tell(
    root: &World,
    bounds: &Bounds,
    seen: &Seen,
    print: u128,
    event: usize,
    memo: &mut Memo,
) -> Vec<String> {
    let mut numbers = vec![event];
    let mut print = print;
    while let Some((parent, number)) = seen.parent(print).filter(|(_, number)| *number != u16::MAX) {
        numbers.push(usize::from(number));
        print = parent;
    }
    let mut world = root.clone();
    let mut steps = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    for number in numbers.into_iter().rev() {
        world.events(bounds, &mut events);
        steps.push(world.describe(events[number]));
        match world.apply(events[number], memo) {
            Ok(next) => world = next,
            Err(_) => break,
        }
    }
    steps
}
