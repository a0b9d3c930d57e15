//! `twinlun-sim explore`: every state within bounds.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use twinlun::sim::explore::{Bounds, Outcome, explore, suite};
use twinlun::volume::mutant::{Mutant, Mutants};

/// Without bounds of its own the quick set is explored.
#[derive(Args)]
pub struct Exploration {
    /// The large set of bounds: minutes and gigabytes.
    #[arg(long)]
    full: bool,
    /// Every planted bug of the protocol, each within bounds that show it.
    #[arg(long)]
    mutants: bool,
    #[arg(long)]
    writes: Option<usize>,
    #[arg(long, default_value_t = 1)]
    reads: usize,
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    #[arg(long, default_value_t = 0)]
    cuts: u8,
    #[arg(long, default_value_t = 0)]
    promotions: u8,
    #[arg(long, default_value_t = 0)]
    handovers: u8,
    /// Reads of the record that the arbiter leaves unanswered.
    #[arg(long, default_value_t = 0)]
    silences: u8,
    /// Connections, the first included.
    #[arg(long, default_value_t = 3)]
    sessions: u8,
    /// How often time passes, and how often one node's clock stands still meanwhile.
    #[arg(long, default_value_t = 0)]
    ticks: u8,
    #[arg(long, default_value_t = 0)]
    freezes: u8,
    /// By how much node 1's clock is faster than node 0's, in parts of a thousand; negative: slower.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    drift: i32,
    /// Reads are answered by leases.
    #[arg(long)]
    leases: bool,
    /// Promotions are asked for as the agent does.
    #[arg(long)]
    takeovers: bool,
    /// Clients are at both nodes.
    #[arg(long)]
    forwards: bool,
    /// Devices with a cache that is lost with the power.
    #[arg(long)]
    volatile: bool,
    /// Leave one rule out.
    #[arg(long)]
    mutant: Option<String>,
    /// Give up after so many states.
    #[arg(long, default_value_t = 60_000_000)]
    limit: u64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

impl Exploration {
    pub fn wants_mutants(&self) -> bool {
        self.mutants || self.mutant.is_some()
    }

    pub fn run(&self, find: impl Fn(&str) -> Option<Mutant>, only: impl Fn(Mutant) -> Mutants) -> ExitCode {
        if self.mutants {
            return self.run_planted(only);
        }
        let mutants = match self.mutant.as_deref().map(find) {
            None => Mutants::NONE,
            Some(Some(mutant)) => only(mutant),
            Some(None) => {
                eprintln!("twinlun-sim: no such planted bug");
                return ExitCode::from(2);
            }
        };
        let chosen = self.writes.map(|writes| Bounds {
            writes,
            reads: self.reads,
            crashes: self.crashes,
            cuts: self.cuts,
            promotions: self.promotions,
            handovers: self.handovers,
            silences: self.silences,
            sessions: self.sessions,
            ticks: self.ticks,
            freezes: self.freezes,
            rates: [1000 + (-self.drift).max(0) as u32, 1000 + self.drift.max(0) as u32],
            leases: self.leases,
            takeovers: self.takeovers,
            forwards: self.forwards,
            volatile: self.volatile,
            mutants,
        });
        let list = match &chosen {
            Some(bounds) => std::slice::from_ref(bounds),
            None if self.full => suite::FULL,
            None => suite::QUICK,
        };
        let mut good = true;
        for bounds in list {
            let bounds = Bounds { mutants, ..*bounds };
            let began = Instant::now();
            let outcome = explore(&bounds, self.limit, self.threads);
            tell(&bounds, &outcome, began);
            good &= outcome.violation.is_none() && outcome.exhausted;
        }
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn run_planted(&self, only: impl Fn(Mutant) -> Mutants) -> ExitCode {
        let (mut missed, mut surprises) = (0, 0);
        for planted in suite::PLANTED {
            let began = Instant::now();
            let bounds = Bounds { mutants: only(planted.mutant), ..planted.bounds };
            let outcome = explore(&bounds, self.limit, self.threads);
            let seconds = began.elapsed().as_secs_f64();
            let name = format!("{} {}", planted.rule, planted.name);
            match &outcome.violation {
                Some(violation) => println!(
                    "{name:<32} found: depth {}, {} states, {seconds:.1} s: {}",
                    outcome.depth, outcome.states, violation.what
                ),
                None => {
                    missed += 1;
                    println!("{name:<32} NOT FOUND in {} states, {seconds:.1} s", outcome.states);
                }
            }
        }
        for (planted, why) in suite::REMARKS {
            let began = Instant::now();
            let bounds = Bounds { mutants: only(planted.mutant), ..planted.bounds };
            let outcome = explore(&bounds, self.limit, self.threads);
            let good = outcome.exhausted && outcome.violation.is_none();
            let word = if good { "nothing violated" } else { "NOT AS EXPECTED" };
            let (states, seconds) = (outcome.states, began.elapsed().as_secs_f64());
            let name = format!("{} {}", planted.rule, planted.name);
            println!("{name:<32} no bug: {states} states, all seen, {word}, {seconds:.1} s: {why}");
            if let Some(violation) = &outcome.violation {
                tell(&bounds, &outcome, began);
                println!("  {}", violation.what);
            }
            surprises += usize::from(!good);
        }
        let planted = suite::PLANTED.len();
        println!("{planted} planted bugs, {} found, {missed} missed", planted - missed);
        if missed + surprises == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn tell(bounds: &Bounds, outcome: &Outcome, began: Instant) {
    let Bounds { writes, reads, crashes, cuts, promotions, handovers, silences, sessions, ticks, .. } =
        bounds;
    let mut caches = if bounds.volatile { ", volatile caches" } else { "" }.to_owned();
    if bounds.leases || *ticks > 0 {
        let [zero, one] = bounds.rates;
        let kind = if bounds.leases { "leases" } else { "confirmed reads" };
        let freezes = bounds.freezes;
        caches += &format!(", {kind}, {ticks} ticks, {freezes} of a frozen clock, rates {zero}:{one}");
    }
    caches += if bounds.takeovers { ", take-overs" } else { "" };
    caches += if bounds.forwards { ", clients at both nodes" } else { "" };
    let end = match (&outcome.violation, outcome.exhausted) {
        (Some(_), _) => "VIOLATED",
        (None, true) => "all seen, nothing violated",
        (None, false) => "NOT all seen, nothing violated so far",
    };
    println!(
        "{writes} writes, {reads} reads, {crashes} crashes, {cuts} cuts, {promotions} promotions, {handovers} hand-overs, \
         {silences} silences, {sessions} sessions{caches}: {} states, {} transitions, depth {}, {} node states; {:.1} s; {end}",
        outcome.states,
        outcome.transitions,
        outcome.depth,
        outcome.nodes,
        began.elapsed().as_secs_f64()
    );
    if let Some(violation) = &outcome.violation {
        for (number, step) in violation.steps.iter().enumerate() {
            println!("{:>4}  {step}", number + 1);
        }
        println!("  {}", violation.what);
    }
}
