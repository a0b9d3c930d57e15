//! Runs seeds, on two threads, and says which failed and how to see it again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use super::setup::Choice;
use super::world::{Tally, Violation, World};

thread_local! {
    static TRACING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    static LAST_PANIC: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub shards: u8,
    pub invariant: &'static str,
    pub what: String,
}

/// Sums over seeds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Summary {
    pub seeds: u64,
    pub tally: Tally,
}

/// Runs one seed. A broken assertion of a core is a violation too.
pub fn run_seed(choice: &Choice) -> Result<Tally, Failure> {
    catch_panics();
    TRACING.with(|tracing| tracing.set(choice.trace));
    let result = catch_unwind(AssertUnwindSafe(|| World::new(choice).run()));
    let Violation { invariant, what } = match result {
        Ok(Ok(tally)) => return Ok(tally),
        Ok(Err(violation)) => violation,
        Err(_) => Violation { invariant: "assertion", what: last_panic() },
    };
    Err(Failure { seed: choice.seed, shards: choice.shards, invariant, what })
}

/// What the last panic on this thread said.
pub(super) fn last_panic() -> String {
    LAST_PANIC.with(|text| text.take())
}

/// Panics of a run are caught and reported with their place; the default hook would print each.
pub(super) fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("sim")) {
                LAST_PANIC.with(|text| *text.borrow_mut() = info.to_string().replace('\n', " "));
                if TRACING.with(std::cell::Cell::get) {
                    println!("{}", std::backtrace::Backtrace::force_capture());
                }
            } else {
                default(info);
            }
        }));
    });
}

/// Runs `seeds` on `threads` threads until `failures_max` have failed. The lowest failing seeds come first.
pub fn run_seeds(
    seeds: std::ops::Range<u64>,
    template: Choice,
    threads: usize,
    failures_max: usize,
) -> (Summary, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let shared = Mutex::new((Summary::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = shared.lock().expect("no thread panics").1.len() >= failures_max;
            if seed >= seeds.end || enough {
                return;
            }
            let result = run_seed(&Choice { seed, ..template });
            let mut shared = shared.lock().expect("no thread panics");
            shared.0.seeds += 1;
            match result {
                Ok(tally) => add(&mut shared.0.tally, &tally),
                Err(failure) => shared.1.push(failure),
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..threads {
            let name = format!("sim-{number}");
            std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, work)
                .expect("a thread can be started");
        }
    });
    let (summary, mut failures) = shared.into_inner().expect("no thread panics");
    failures.sort_by_key(|failure| failure.seed);
    (summary, failures)
}

fn add(sum: &mut Tally, one: &Tally) {
    sum.events += one.events;
    sum.writes += one.writes;
    sum.reads += one.reads;
    sum.flushes += one.flushes;
    sum.zeroes += one.zeroes;
    sum.updates += one.updates;
    sum.changes += one.changes;
    sum.sessions += one.sessions;
    sum.solo_answers += one.solo_answers;
    sum.resyncs += one.resyncs;
    sum.crashes += one.crashes;
    sum.promotions += one.promotions;
    sum.leased += one.leased;
    sum.virtual_time += one.virtual_time;
}
