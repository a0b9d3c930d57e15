//! `blast load`: one access pattern at a constant queue depth, measured over a window after a warm-up.

use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use crate::cpu::{self, ProcessTimes};
use crate::error::Error;
use crate::histogram::Histogram;
use crate::random::Random;
use crate::scsi::{self, Capacity};
use crate::session::Session;
use crate::transfer::{Answer, Command, Data};
use crate::{Failure, TargetArgs};

/// A target that answers nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Pattern {
    Randread,
    Randwrite,
    Seqread,
    Seqwrite,
}

impl Pattern {
    fn writes(self) -> bool {
        matches!(self, Pattern::Randwrite | Pattern::Seqwrite)
    }

    fn random(self) -> bool {
        matches!(self, Pattern::Randread | Pattern::Randwrite)
    }
}

#[derive(Args)]
pub struct LoadArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Access pattern
    #[arg(long, value_enum, default_value = "randread")]
    pattern: Pattern,
    /// Bytes of each read or write
    #[arg(long, default_value_t = 4096)]
    block_size: u32,
    /// Commands in flight in each session
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// Sessions, all driven by one thread
    #[arg(long, default_value_t = 1)]
    sessions: u16,
    /// Length of the measured window
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Length of the load before it
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// First byte of the part of the disk that is used
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Bytes of the part of the disk that is used; 0 is all to the end
    #[arg(long, default_value_t = 0)]
    span: u64,
    /// Seed of the addresses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write bytes that do not compress, not zeros
    #[arg(long)]
    incompressible: bool,
    /// Also measure the CPU time of this process; give it again for further processes
    #[arg(long)]
    target_pid: Vec<u32>,
}

/// Runs the load and prints one JSON line. `Ok(false)` when commands failed.
pub fn run(args: &LoadArgs) -> Result<bool, Failure> {
    args.target.pin().map_err(Failure::Usage)?;
    let addresses = args.target.addresses().map_err(Failure::Usage)?;
    let mut sessions = Vec::new();
    for index in 0..args.sessions.max(1) {
        let address = addresses[usize::from(index) % addresses.len()];
        let depth = usize::from(args.depth.max(1));
        let mut session = Session::login(address, &args.target.offer(index), args.target.lun, depth)?;
        settle(&mut session)?;
        sessions.push(session);
    }
    let capacity = capacity(&mut sessions[0])?;
    let mut load = Load::new(args, capacity)?;
    let clock = Instant::now();
    let measure_from = clock + Duration::from_secs_f64(args.warmup);
    load.drive(&mut sessions, measure_from)?;
    load.begin();
    let targets = read_targets(args)?;
    let (own, started) = (cpu::own_time(), Instant::now());
    load.drive(&mut sessions, started + Duration::from_secs_f64(args.seconds))?;
    let (elapsed, own) = (started.elapsed(), cpu::own_time() - own);
    let used: Vec<Duration> =
        read_targets(args)?.iter().zip(&targets).map(|(now, then)| now.since(then)).collect();
    println!("{}", load.report(args, elapsed, own, &used));
    for mut session in sessions {
        drain(&mut session)?;
        session.logout(PATIENCE)?;
    }
    Ok(load.errors == 0)
}

fn read_targets(args: &LoadArgs) -> Result<Vec<ProcessTimes>, Failure> {
    let read =
        |pid: &u32| ProcessTimes::read(*pid).map_err(|e| Failure::Usage(format!("process {pid}: {e}")));
    args.target_pid.iter().map(read).collect()
}

/// Sends TEST UNIT READY until the unit attentions of a new session are used up.
pub fn settle(session: &mut Session) -> Result<(), Error> {
    for _ in 0..16 {
        let command = Command { cdb: scsi::test_unit_ready(), data: Data::None, name: 0 };
        let answer = session.run(command, PATIENCE)?;
        match (answer.status, answer.sense) {
            (scsi::GOOD, _) => return Ok(()),
            (scsi::CHECK_CONDITION, Some(sense)) if sense.key == scsi::UNIT_ATTENTION => {}
            (status, sense) => return Err(status_error("TEST UNIT READY", status, sense)),
        }
    }
    Err(Error::Status("TEST UNIT READY: unit attentions do not end".into()))
}

/// Asks for the size of the disk.
pub fn capacity(session: &mut Session) -> Result<Capacity, Error> {
    let data = Data::Read { length: 32, keep: true };
    let answer = session.run(Command { cdb: scsi::read_capacity_16(32), data, name: 0 }, PATIENCE)?;
    if answer.status != scsi::GOOD {
        return Err(status_error("READ CAPACITY(16)", answer.status, answer.sense));
    }
    let capacity = Capacity::parse(&answer.data);
    capacity.ok_or_else(|| Error::Status("READ CAPACITY(16): parameter data too short".into()))
}

fn status_error(command: &str, status: u8, sense: Option<scsi::Sense>) -> Error {
    match sense {
        Some(sense) => Error::Status(format!("{command}: status {status:02x}, {sense}")),
        None => Error::Status(format!("{command}: status {status:02x}")),
    }
}

/// Waits for the commands in flight.
fn drain(session: &mut Session) -> Result<(), Error> {
    let mut answers = Vec::new();
    while session.outstanding() > 0 {
        if !session.pump(PATIENCE, &mut answers)? {
            return Err(Error::TimedOut);
        }
    }
    Ok(())
}

struct Load {
    pattern: Pattern,
    depth: usize,
    /// Blocks of the disk in one command, and commands that fit into the span.
    blocks: u32,
    places: u64,
    first_lba: u64,
    bytes: u32,
    payload: Rc<[u8]>,
    random: Random,
    next_place: u64,
    latencies: Histogram,
    errors: u64,
    answers: Vec<Answer>,
}

impl Load {
    fn new(args: &LoadArgs, capacity: Capacity) -> Result<Load, Failure> {
        let aligned = |bytes: u64| bytes % u64::from(capacity.block_bytes) == 0;
        if args.block_size == 0 || !aligned(u64::from(args.block_size)) || !aligned(args.start) {
            let size = capacity.block_bytes;
            return Err(Failure::Usage(format!("--block-size or --start is not a multiple of {size} bytes")));
        }
        let rest = capacity.bytes().saturating_sub(args.start);
        let span = if args.span == 0 { rest } else { args.span.min(rest) };
        let places = span / u64::from(args.block_size);
        if places == 0 {
            return Err(Failure::Usage("the span is smaller than one block".into()));
        }
        let mut payload = vec![0u8; args.block_size as usize];
        if args.incompressible {
            let mut noise = Random::new(args.seed ^ 0x5eed);
            payload.chunks_mut(8).for_each(|chunk| {
                let word = noise.next().to_le_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            });
        }
        Ok(Load {
            pattern: args.pattern,
            depth: usize::from(args.depth.max(1)),
            blocks: args.block_size / capacity.block_bytes,
            places,
            first_lba: args.start / u64::from(capacity.block_bytes),
            bytes: args.block_size,
            payload: payload.into(),
            random: Random::new(args.seed),
            next_place: 0,
            latencies: Histogram::new(),
            errors: 0,
            answers: Vec::new(),
        })
    }

    /// Forgets what was measured so far.
    fn begin(&mut self) {
        self.latencies = Histogram::new();
        self.errors = 0;
    }

    /// Keeps the queues full until `end`.
    fn drive(&mut self, sessions: &mut [Session], end: Instant) -> Result<(), Error> {
        let mut now = Instant::now();
        while now < end {
            for session in sessions.iter_mut() {
                self.fill(session, now);
            }
            match &mut *sessions {
                [session] => {
                    if !session.pump(PATIENCE, &mut self.answers)? {
                        return Err(Error::TimedOut);
                    }
                }
                many => self.pump_many(many)?,
            }
            now = Instant::now();
            for answer in self.answers.drain(..) {
                self.latencies.record((now - answer.started).as_nanos() as u64);
                self.errors += u64::from(answer.status != scsi::GOOD);
            }
        }
        Ok(())
    }

    fn fill(&mut self, session: &mut Session, now: Instant) {
        while session.outstanding() < self.depth && session.can_submit() {
            let place = if self.pattern.random() {
                self.random.below(self.places)
            } else {
                self.next_place = (self.next_place + 1) % self.places;
                self.next_place
            };
            let lba = self.first_lba + place * u64::from(self.blocks);
            let (cdb, data) = if self.pattern.writes() {
                (scsi::write_16(lba, self.blocks, false), Data::Write(self.payload.clone()))
            } else {
                (scsi::read_16(lba, self.blocks), Data::Read { length: self.bytes, keep: false })
            };
            session.submit(Command { cdb, data, name: 0 }, now);
        }
    }

    fn pump_many(&mut self, sessions: &mut [Session]) -> Result<(), Error> {
        for session in sessions.iter_mut() {
            session.flush()?;
        }
        let mut fds: Vec<_> = sessions.iter().map(Session::as_poll_fd).collect();
        match poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(Error::TimedOut),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        for (session, _) in sessions.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            session.receive_ready(&mut self.answers)?;
        }
        Ok(())
    }

    fn report(&self, args: &LoadArgs, elapsed: Duration, own: Duration, targets: &[Duration]) -> String {
        let done = self.latencies.total();
        let seconds = elapsed.as_secs_f64();
        let per_io = |time: Duration| rounded(time.as_secs_f64() * 1e6 / done.max(1) as f64);
        let all_targets: Duration = targets.iter().sum();
        let share = |share| rounded(self.latencies.percentile_us(share));
        serde_json::json!({
            "pattern": format!("{:?}", args.pattern).to_lowercase(),
            "block_size": args.block_size,
            "depth": args.depth,
            "sessions": args.sessions,
            "seconds": rounded(seconds),
            "done": done,
            "iops": (done as f64 / seconds).round(),
            "mb_s": rounded(done as f64 * f64::from(args.block_size) / seconds / 1e6),
            "mean_us": rounded(self.latencies.mean_us()),
            "p50_us": share(0.5),
            "p99_us": share(0.99),
            "p999_us": share(0.999),
            "max_us": rounded(self.latencies.max_us()),
            "initiator_cpu_us": per_io(own),
            "target_cpu_us": if targets.is_empty() { None } else { Some(per_io(all_targets)) },
            "each_target_cpu_us": targets.iter().map(|time| per_io(*time)).collect::<Vec<_>>(),
            "errors": self.errors,
        })
        .to_string()
    }
}

/// Two decimals are enough for anything printed here.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
