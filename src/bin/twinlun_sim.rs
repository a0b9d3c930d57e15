//! `twinlun-sim`: runs seeds of the simulator.
//!
//! ```text
//! twinlun-sim --seeds A..B [--shards 1|2|5] [--mutant NAME] [--trace] [--threads N]
//! twinlun-sim --mutants [--seeds A..B] [--shards 1|2|5]      (both need a build with `--features mutants`)
//! twinlun-sim explore [--full | --mutants | --writes N --reads N --crashes N --cuts N --promotions N --handovers N
//!                      --silences N [--volatile] [--mutant NAME]]
//! ```
//! `explore` walks every state within bounds instead of random ones. Without `--shards` the seeds run with 1, 2 and 5 shards in turn. Exit: 0 all seeds passed (with `--mutants`: every
//! planted bug was found), 1 a seed failed, 2 usage.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use twinlun::sim::run::{Failure, Summary, run_seed, run_seeds};
use twinlun::sim::setup::Choice;
use twinlun::volume::mutant::{EXPLORED, MUTANTS, Mutant, Mutants};

#[path = "twinlun_sim/explore.rs"]
mod explore;

/// Shard counts that every release is held to.
const SHARD_COUNTS: [u8; 3] = [1, 2, 5];

#[derive(Parser)]
#[command(about = "Simulates a pair of nodes from seeds and checks the invariants of the design")]
struct Args {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Seeds to run, `FIRST..END`.
    #[arg(long, default_value = "0..1000", value_parser = parse_seeds)]
    seeds: (u64, u64),
    /// Shards of the nodes; without it 1, 2 and 5 in turn.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    shards: Option<u8>,
    /// Leave one rule out.
    #[arg(long)]
    mutant: Option<String>,
    /// Run every planted bug and tell the seed that finds it.
    #[arg(long)]
    mutants: bool,
    /// Print every event (one seed, one shard count).
    #[arg(long)]
    trace: bool,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop after so many failed seeds.
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

#[derive(Subcommand)]
enum Mode {
    /// Walks every state within bounds, breadth first.
    Explore(explore::Exploration),
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("`{text}` is not FIRST..END, as in 0..1000");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
    let (first, end) = (number(first)?, number(end)?);
    if first < end { Ok((first, end)) } else { Err(format!("`{text}` holds no seed")) }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let explored = args.mode.as_ref().is_some_and(|Mode::Explore(exploration)| exploration.wants_mutants());
    if (args.mutants || args.mutant.is_some() || explored) && !cfg!(feature = "mutants") {
        eprintln!("twinlun-sim: this build knows no planted bugs; build it with --features mutants");
        return ExitCode::from(2);
    }
    if let Some(Mode::Explore(exploration)) = &args.mode {
        return exploration.run(find_mutant, only);
    }
    let mutant = match args.mutant.as_deref().map(find_mutant) {
        None => Mutants::NONE,
        Some(Some(mutant)) => only(mutant),
        Some(None) => {
            let names: Vec<&str> = MUTANTS.iter().map(|(name, _)| *name).collect();
            eprintln!("twinlun-sim: no such planted bug; there are: {}", names.join(", "));
            return ExitCode::from(2);
        }
    };
    if args.mutants { run_mutants(&args) } else { run(&args, mutant) }
}

fn find_mutant(name: &str) -> Option<Mutant> {
    MUTANTS.iter().chain(EXPLORED).find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
}

#[cfg(feature = "mutants")]
fn only(mutant: Mutant) -> Mutants {
    Mutants::only(mutant)
}

#[cfg(not(feature = "mutants"))]
fn only(_mutant: Mutant) -> Mutants {
    Mutants::NONE
}

fn run(args: &Args, mutants: Mutants) -> ExitCode {
    let counts = args.shards.map_or(SHARD_COUNTS.to_vec(), |shards| vec![shards]);
    let mut failed = false;
    for shards in counts {
        let choice = Choice { seed: args.seeds.0, shards, mutants, trace: args.trace };
        let begun = Instant::now();
        let (summary, failures) = if args.trace {
            trace(&choice)
        } else {
            run_seeds(args.seeds.0..args.seeds.1, choice, args.threads, args.failures)
        };
        for failure in &failures {
            tell(failure, args.mutant.as_deref());
        }
        failed |= !failures.is_empty();
        report(shards, &summary, failures.len(), begun);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn trace(choice: &Choice) -> (Summary, Vec<Failure>) {
    let choice = *choice;
    let thread = std::thread::Builder::new().name("sim".into()).spawn(move || run_seed(&choice));
    match thread.expect("a thread can be started").join().expect("panics are caught") {
        Ok(tally) => (Summary { seeds: 1, tally }, Vec::new()),
        Err(failure) => (Summary { seeds: 1, ..Summary::default() }, vec![failure]),
    }
}

fn tell(failure: &Failure, mutant: Option<&str>) {
    let Failure { seed, shards, invariant, what } = failure;
    let mutant = mutant.map_or(String::new(), |name| format!(" --mutant {name}"));
    println!("seed {seed}, {shards} shards: {invariant} violated: {what}");
    println!("  replay: twinlun-sim --seeds {seed}..{} --shards {shards}{mutant} --trace", seed + 1);
}

fn report(shards: u8, summary: &Summary, failed: usize, begun: Instant) {
    let Summary { seeds, tally } = summary;
    println!(
        "{shards} shards: {seeds} seeds, {failed} failed; {} events, {} writes ({} zeroes, {} under lock), {} unit changes, {} reads ({} by lease), {} flushes, {} crashes, {} sessions, \
         {} promotions, {} resyncs, {} answers alone; {:.1} s",
        tally.events,
        tally.writes,
        tally.zeroes,
        tally.updates,
        tally.changes,
        tally.reads,
        tally.leased,
        tally.flushes,
        tally.crashes,
        tally.sessions,
        tally.promotions,
        tally.resyncs,
        tally.solo_answers,
        begun.elapsed().as_secs_f64()
    );
}

fn run_mutants(args: &Args) -> ExitCode {
    let mut missed = 0;
    for (name, mutant) in MUTANTS {
        let mut found = None;
        for shards in args.shards.map_or(SHARD_COUNTS.to_vec(), |shards| vec![shards]) {
            let choice = Choice { seed: 0, shards, mutants: only(*mutant), trace: false };
            let (_, failures) = run_seeds(args.seeds.0..args.seeds.1, choice, args.threads, 1);
            found = failures.into_iter().next();
            if found.is_some() {
                break;
            }
        }
        match found {
            Some(failure) => {
                let after = failure.seed - args.seeds.0 + 1;
                println!("{name}: found after {after} seeds ({})", failure.invariant);
                tell(&failure, Some(name));
            }
            None => {
                missed += 1;
                println!("{name}: NOT FOUND in {} seeds", args.seeds.1 - args.seeds.0);
            }
        }
    }
    println!("{} planted bugs, {} found, {missed} missed", MUTANTS.len(), MUTANTS.len() - missed);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
