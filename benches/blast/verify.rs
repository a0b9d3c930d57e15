//! `blast verify`: stamped writes, reads, FUA writes and flushes, through any number of losses of the target.
//!
//! A lost connection leaves commands unanswered. As a real initiator does, the verifier logs in again with the same
//! ISID, to any of the portals, and sends them again until they are answered. In the end it reads every block that
//! it wrote, and the [`Ledger`] judges.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use crate::error::Error;
use crate::ledger::{Floor, Ledger};
use crate::load::{capacity, settle};
use crate::random::{Random, fresh_seed};
use crate::scsi::{self, Capacity};
use crate::session::Session;
use crate::stamp::SECTOR;
use crate::transfer::{Answer, Command, Data};
use crate::{Failure, TargetArgs};

/// How long one wait for input lasts; between waits the clock is looked at.
const TICK: Duration = Duration::from_millis(20);
const TICK_MIN: Duration = Duration::from_millis(1);
/// Pause between attempts to log in, and before a command that met BUSY is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// Pauses between answers that are reported one by one.
const NOTABLE_GAP: Duration = Duration::from_millis(200);
/// Such pauses that are reported at most.
const NOTABLE_GAPS: usize = 256;
/// Windows that are told apart at most; what comes later belongs to the last.
const WINDOWS: usize = 65_536;
/// Bytes of one read when everything is read back.
const READ_BACK_BYTES: usize = 64 * 1024;
/// Time for a login, once the connection stands.
const LOGIN_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How long to write and read before everything is read back
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Stop earlier when standard input ends; each line of it begins a new window of the report
    #[arg(long)]
    until_eof: bool,
    /// Blocks of the disk that are used
    #[arg(long, default_value_t = 16_384)]
    span_blocks: usize,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first_block: u64,
    /// New commands in a second at most; 0 is as many as are answered
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Bytes of a block, a multiple of 512 and of the disk's block
    #[arg(long, default_value_t = 4096)]
    block_size: usize,
    /// Blocks in one command at most
    #[arg(long, default_value_t = 16)]
    max_blocks: u64,
    /// Commands in flight
    #[arg(long, default_value_t = 16)]
    qd: usize,
    /// Percentage of commands that read
    #[arg(long, default_value_t = 25)]
    reads: u64,
    /// Give up after so many seconds without a connection
    #[arg(long, default_value_t = 60.0)]
    reconnect_timeout: f64,
    /// Drop a connection on which nothing was answered for so many seconds
    #[arg(long, default_value_t = 10.0)]
    stall_timeout: f64,
    /// Seed of the addresses; a fresh one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Print the state on standard error every second
    #[arg(long)]
    progress: bool,
}

/// Runs the verifier and prints one JSON line. `Ok(false)` when the target lost, returned or tore anything wrong.
pub fn run(args: &VerifyArgs) -> Result<bool, Failure> {
    args.target.pin().map_err(Failure::Usage)?;
    let addresses = args.target.addresses().map_err(Failure::Usage)?;
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let mut connector = Connector::new(args, addresses);
    let session = connector.reconnect(Instant::now())?;
    let mut verifier = Verifier::new(args, connector, session, seed)?;
    let outcome = verifier.work().and_then(|()| verifier.read_back());
    if let Some(session) = verifier.session.take() {
        // All is answered by now, so a target that dies at the logout takes nothing with it.
        let _ = session.logout(LOGIN_PATIENCE);
    }
    let gave_up = matches!(outcome, Err(Failure::Unreachable(_)));
    println!("{}", verifier.report(seed, gave_up));
    outcome.map(|()| verifier.all_right())
}

/// What standard input has said so far.
#[derive(Clone, Default)]
struct Input {
    ended: Arc<AtomicBool>,
    lines: Arc<AtomicUsize>,
}

fn watch_input() -> Input {
    let input = Input::default();
    let theirs = input.clone();
    std::thread::spawn(move || {
        // Whatever ends the input, an error included, ends the run.
        for line in std::io::stdin().lines() {
            if line.is_err() {
                break;
            }
            theirs.lines.fetch_add(1, Ordering::Relaxed);
        }
        theirs.ended.store(true, Ordering::Relaxed);
    });
    input
}

/// Logs in, again and again, and watches that the disk stays the same one.
struct Connector<'a> {
    args: &'a VerifyArgs,
    addresses: Vec<SocketAddr>,
    next_address: usize,
    capacity: Option<Capacity>,
    /// Device identification page of the first login.
    identity: Option<Vec<u8>>,
    identity_changes: u64,
    logins: u64,
    last_error: String,
}

impl<'a> Connector<'a> {
    fn new(args: &'a VerifyArgs, addresses: Vec<SocketAddr>) -> Connector<'a> {
        Connector {
            args,
            addresses,
            next_address: 0,
            capacity: None,
            identity: None,
            identity_changes: 0,
            logins: 0,
            last_error: String::new(),
        }
    }

    /// Tries the portals in turn until one serves the disk.
    fn reconnect(&mut self, lost: Instant) -> Result<Session, Failure> {
        let give_up = lost + Duration::from_secs_f64(self.args.reconnect_timeout);
        loop {
            let address = self.addresses[self.next_address % self.addresses.len()];
            match self.try_login(address) {
                Ok(session) => {
                    self.logins += 1;
                    return Ok(session);
                }
                Err(error) => self.last_error = format!("{address}: {error}"),
            }
            if Instant::now() >= give_up {
                return Err(Failure::Unreachable(self.last_error.clone()));
            }
            self.next_address += 1;
            std::thread::sleep(PAUSE);
        }
    }

    fn try_login(&mut self, address: SocketAddr) -> Result<Session, Error> {
        let mut offer = self.args.target.offer(0);
        offer.timeout = LOGIN_PATIENCE;
        let mut session = Session::login(address, &offer, self.args.target.lun, self.args.qd.max(1))?;
        settle(&mut session)?;
        let capacity = capacity(&mut session)?;
        let page = Data::Read { length: 1024, keep: true };
        let inquiry = Command { cdb: scsi::inquiry(Some(0x83), 1024), data: page, name: 0 };
        let identity = session.run(inquiry, LOGIN_PATIENCE)?.data;
        let changed = self.capacity.replace(capacity).is_some_and(|before| before != capacity)
            | self.identity.as_ref().is_some_and(|before| *before != identity);
        self.identity_changes += u64::from(changed);
        self.identity.get_or_insert(identity);
        Ok(session)
    }
}

enum Work {
    Write { range: Range<usize>, sequence: u64, bytes: Rc<[u8]>, fua: bool },
    Read { range: Range<usize>, floors: Vec<Floor> },
    Flush,
    ReadBack { range: Range<usize> },
}

#[derive(Default)]
struct Tally {
    writes: u64,
    flushes: u64,
    sent_again: u64,
    busy: u64,
    unit_attentions: u64,
    scsi_errors: u64,
    protocol_errors: u64,
    stalls: u64,
    longest_gap: Duration,
    /// When, and how long, since the start.
    gaps: Vec<(Duration, Duration)>,
    /// The longest gap that touched each window; the last one lasts until everything is read back.
    windows: Vec<Duration>,
}

struct Verifier<'a> {
    args: &'a VerifyArgs,
    connector: Connector<'a>,
    session: Option<Session>,
    ledger: Ledger,
    random: Random,
    /// Commands in flight, by name.
    in_flight: BTreeMap<u64, Work>,
    /// Commands to send (again), first first.
    waiting: VecDeque<Work>,
    next_name: u64,
    /// Blocks of the disk in one block of the ledger.
    disk_blocks: u32,
    tally: Tally,
    started: Instant,
    last_answer: Instant,
    last_input: Instant,
    hold_until: Instant,
    /// When `--rate` allows the next new command.
    next_fresh: Instant,
    last_progress: Instant,
    answers: Vec<Answer>,
    input: Input,
}

impl<'a> Verifier<'a> {
    fn new(
        args: &'a VerifyArgs,
        connector: Connector<'a>,
        session: Session,
        seed: u64,
    ) -> Result<Self, Failure> {
        let capacity = connector.capacity.expect("the size is asked for at login");
        let disk_block = capacity.block_bytes as usize;
        if args.block_size == 0 || args.block_size % SECTOR != 0 || args.block_size % disk_block != 0 {
            return Err(Failure::Usage(format!("--block-size is not a multiple of 512 and {disk_block}")));
        }
        let there = (capacity.bytes() / args.block_size as u64).saturating_sub(args.first_block);
        let blocks = args.span_blocks.min(there as usize);
        if blocks == 0 || args.max_blocks == 0 || args.qd == 0 {
            return Err(Failure::Usage("the span, --max-blocks and --qd are at least one".into()));
        }
        let now = Instant::now();
        Ok(Verifier {
            args,
            connector,
            session: Some(session),
            ledger: Ledger::new(fresh_seed(), blocks, (args.block_size / SECTOR) as u64),
            random: Random::new(seed),
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_name: 0,
            disk_blocks: (args.block_size / disk_block) as u32,
            tally: Tally::default(),
            started: now,
            last_answer: now,
            last_input: now,
            hold_until: now,
            next_fresh: now,
            last_progress: now,
            answers: Vec::new(),
            input: Input::default(),
        })
    }

    /// Writes and reads until the time is over, then until every command is answered.
    fn work(&mut self) -> Result<(), Failure> {
        if self.args.until_eof {
            self.input = watch_input();
        }
        let end = self.started + Duration::from_secs_f64(self.args.seconds);
        while Instant::now() < end && !self.input.ended.load(Ordering::Relaxed) {
            self.step(true)?;
        }
        self.finish_waiting()
    }

    /// Reads everything that was written, and has it judged.
    fn read_back(&mut self) -> Result<(), Failure> {
        let step = (READ_BACK_BYTES / self.args.block_size).max(1);
        let all = self.ledger.blocks();
        for start in (0..all).step_by(step) {
            let range = start..all.min(start + step);
            if range.clone().any(|block| self.ledger.was_written(block)) {
                self.waiting.push_back(Work::ReadBack { range });
            }
        }
        self.finish_waiting()
    }

    fn finish_waiting(&mut self) -> Result<(), Failure> {
        while !self.in_flight.is_empty() || !self.waiting.is_empty() {
            self.step(false)?;
            if self.last_answer.elapsed().as_secs_f64() > self.args.reconnect_timeout {
                return Err(Failure::Unreachable("connected, but commands are no longer answered".into()));
            }
        }
        Ok(())
    }

    /// Sends what can be sent, waits a moment, works through the answers; reconnects first if need be.
    fn step(&mut self, fresh: bool) -> Result<(), Failure> {
        self.progress();
        let Some(mut session) = self.session.take() else {
            // The budget runs from the loss, not from the last answer: both are the same but for an idle session.
            self.session = Some(self.connector.reconnect(Instant::now())?);
            self.last_input = Instant::now();
            return Ok(());
        };
        self.fill(&mut session, fresh);
        let pumped = session.pump(self.patience(fresh), &mut self.answers);
        let answers = std::mem::take(&mut self.answers);
        for answer in answers {
            self.on_answer(answer);
        }
        match pumped {
            Ok(true) => self.last_input = Instant::now(),
            Ok(false) if self.stalled() => {
                self.tally.stalls += 1;
                self.on_lost();
                return Ok(());
            }
            Ok(false) => {}
            Err(error) => {
                if let Error::Protocol(text) = &error {
                    self.tally.protocol_errors += 1;
                    self.ledger.findings.push(text.clone());
                }
                self.on_lost();
                return Ok(());
            }
        }
        self.session = Some(session);
        Ok(())
    }

    fn stalled(&self) -> bool {
        !self.in_flight.is_empty() && self.last_input.elapsed().as_secs_f64() > self.args.stall_timeout
    }

    /// The connection is gone: what was unanswered is sent again on the next one, oldest first.
    fn on_lost(&mut self) {
        self.tally.sent_again += self.in_flight.len() as u64;
        for (_, work) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.waiting.push_front(work);
        }
    }

    fn fill(&mut self, session: &mut Session, fresh: bool) {
        let now = Instant::now();
        while now >= self.hold_until && session.can_submit() && session.outstanding() < self.args.qd {
            let next = self.waiting.pop_front();
            let Some(work) = next.or_else(|| if fresh { self.fresh_work(now) } else { None }) else { return };
            self.send(session, work, now);
        }
    }

    /// How long to wait for input: no longer than until the next command may be sent.
    fn patience(&self, fresh: bool) -> Duration {
        let limited = fresh && self.args.rate > 0 && self.in_flight.len() < self.args.qd;
        let left = self.next_fresh.saturating_duration_since(Instant::now());
        if limited { left.clamp(TICK_MIN, TICK) } else { TICK }
    }

    /// A new command, if the rate allows one. What was missed while nothing could be sent is not made up for.
    fn fresh_work(&mut self, now: Instant) -> Option<Work> {
        if self.args.rate > 0 {
            if now < self.next_fresh {
                return None;
            }
            let pause = Duration::from_secs(1) / self.args.rate;
            self.next_fresh = (self.next_fresh + pause).max(now);
        }
        self.new_work()
    }

    /// Chooses a command; `None` when the chosen blocks have an unanswered write.
    fn new_work(&mut self) -> Option<Work> {
        if self.random.one_in(256) {
            return Some(Work::Flush);
        }
        // Half of the commands are single blocks, the others of any length up to the largest.
        let most = self.args.max_blocks.min(self.ledger.blocks() as u64);
        let count = if self.random.one_in(2) { 1 } else { 1 + self.random.below(most) } as usize;
        let start = self.random.below((self.ledger.blocks() - count + 1) as u64) as usize;
        let range = start..start + count;
        if self.random.below(100) < self.args.reads {
            return Some(Work::Read { range, floors: Vec::new() });
        }
        if !self.ledger.may_write(range.clone()) {
            return None;
        }
        let (sequence, bytes) = self.ledger.begin_write(range.clone());
        Some(Work::Write { range, sequence, bytes: bytes.into(), fua: self.random.one_in(16) })
    }

    fn send(&mut self, session: &mut Session, mut work: Work, now: Instant) {
        let first = self.args.first_block;
        let place = |range: &Range<usize>| {
            ((first + range.start as u64) * u64::from(self.disk_blocks), range.len() as u32)
        };
        let (cdb, data) = match &mut work {
            Work::Flush => (scsi::synchronize_cache(), Data::None),
            Work::Write { range, bytes, fua, .. } => {
                let (lba, count) = place(range);
                (scsi::write_16(lba, count * self.disk_blocks, *fua), Data::Write(bytes.clone()))
            }
            Work::Read { range, .. } | Work::ReadBack { range } => {
                let (lba, count) = place(range);
                let length = count * self.args.block_size as u32;
                (scsi::read_16(lba, count * self.disk_blocks), Data::Read { length, keep: true })
            }
        };
        if let Work::Read { range, floors } = &mut work {
            *floors = self.ledger.begin_read(range.clone());
        }
        self.next_name += 1;
        session.submit(Command { cdb, data, name: self.next_name }, now);
        self.in_flight.insert(self.next_name, work);
    }

    fn on_answer(&mut self, answer: Answer) {
        let work = self.in_flight.remove(&answer.name).expect("an answer belongs to a command in flight");
        if answer.status == scsi::GOOD {
            self.note_gap();
            self.on_good(work, &answer.data);
            return;
        }
        match (answer.status, answer.sense.map(|sense| sense.key)) {
            (scsi::CHECK_CONDITION, Some(scsi::UNIT_ATTENTION)) => self.tally.unit_attentions += 1,
            (scsi::BUSY | scsi::TASK_SET_FULL, _) | (_, Some(scsi::NOT_READY)) => {
                self.tally.busy += 1;
                self.hold_until = Instant::now() + PAUSE;
            }
            (status, _) => {
                self.tally.scsi_errors += 1;
                let sense = answer.sense.map(|sense| sense.to_string()).unwrap_or_default();
                self.ledger.findings.push(format!("status {status:02x} {sense}"));
                self.hold_until = Instant::now() + PAUSE;
            }
        }
        self.waiting.push_back(work);
    }

    fn on_good(&mut self, work: Work, data: &[u8]) {
        match work {
            Work::Write { range, sequence, .. } => {
                self.tally.writes += 1;
                self.ledger.acknowledge(range, sequence);
            }
            Work::Read { range, floors } => self.ledger.check_read(range.start, &floors, data),
            Work::Flush => self.tally.flushes += 1,
            Work::ReadBack { range } => {
                for (block, bytes) in range.zip(data.chunks_exact(self.args.block_size)) {
                    self.ledger.check_end(block, bytes);
                }
            }
        }
    }

    fn note_gap(&mut self) {
        let now = Instant::now();
        let gap = now - self.last_answer;
        if gap >= NOTABLE_GAP && self.tally.gaps.len() < NOTABLE_GAPS {
            self.tally.gaps.push((self.last_answer - self.started, gap));
        }
        self.tally.longest_gap = self.tally.longest_gap.max(gap);
        let window = self.input.lines.load(Ordering::Relaxed).min(WINDOWS - 1);
        let windows = &mut self.tally.windows;
        let began = windows.len().saturating_sub(1);
        if windows.len() <= window {
            windows.resize(window + 1, Duration::ZERO);
        }
        windows[began..].iter_mut().for_each(|longest| *longest = gap.max(*longest));
        self.last_answer = now;
    }

    fn progress(&mut self) {
        if self.args.progress && self.last_progress.elapsed() >= Duration::from_secs(1) {
            self.last_progress = Instant::now();
            let connected = self.session.is_some();
            let (acked, logins) = (self.tally.writes, self.connector.logins);
            eprintln!("{}", serde_json::json!({"connected": connected, "acked": acked, "logins": logins}));
        }
    }

    fn all_right(&self) -> bool {
        let counts = &self.ledger.counts;
        let data = counts.lost + counts.stale + counts.taken_back + counts.corrupt;
        let rules = self.tally.scsi_errors + self.tally.protocol_errors + self.connector.identity_changes;
        data + rules == 0 && self.tally.writes > 0
    }

    fn report(&self, seed: u64, gave_up: bool) -> String {
        let (counts, tally) = (&self.ledger.counts, &self.tally);
        let millis = |time: Duration| time.as_millis() as u64;
        let gaps: Vec<_> =
            tally.gaps.iter().map(|(at, gap)| serde_json::json!([millis(*at), millis(*gap)])).collect();
        let windows: Vec<_> = tally.windows.iter().map(|gap| millis(*gap)).collect();
        serde_json::json!({
            "right": self.all_right() && !gave_up,
            "acked": tally.writes,
            "verified": counts.verified,
            "lost": counts.lost,
            "stale": counts.stale,
            "taken_back": counts.taken_back,
            "corrupt": counts.corrupt,
            "in_doubt": counts.in_doubt,
            "reads_right": counts.reads_right,
            "flushes": tally.flushes,
            "longest_gap_ms": millis(tally.longest_gap),
            "gaps_at_and_ms": gaps,
            "windows_ms": windows,
            "logins": self.connector.logins,
            "sent_again": tally.sent_again,
            "stalls": tally.stalls,
            "busy": tally.busy,
            "unit_attentions": tally.unit_attentions,
            "scsi_errors": tally.scsi_errors,
            "protocol_errors": tally.protocol_errors,
            "identity_changes": self.connector.identity_changes,
            "gave_up": gave_up,
            "last_error": self.connector.last_error,
            "seconds": self.started.elapsed().as_secs_f64(),
            "seed": seed,
            "findings": self.ledger.findings,
        })
        .to_string()
    }
}
