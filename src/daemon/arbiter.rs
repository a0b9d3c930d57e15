//! The arbiter's back ends: where the record `{epoch, primary, in_sync}` is kept, and how it is changed.
//!
//! A change is a compare-and-swap with one of three outcomes. *Committed* and *conflict* are definite; everything that
//! is not definite is *unknown*, and may turn out either way until it is asked again. A change whose answer was lost is
//! recognised by its nonce: offering it again commits it once. Absent on purpose: locks or leases that decide
//! anything. The lock of the `file` back end only keeps two changes from interleaving.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendError, Sender};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::config::ArbiterConfig;
use crate::arbitration::{RECORD_BYTES, Record, RecordError};
use crate::volume::coordinator::{CasOutcome, RecordOutcome};

/// Pause before a change that has no answer is offered again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long the `file` back end waits for the other node's change to finish.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Swap {
    /// The record is now the proposed one, durably.
    Committed,
    /// The record is another one than expected; nothing was changed.
    Conflict(Option<Record>),
    /// It may or may not have been changed.
    Unknown(ArbiterError),
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArbiterError {
    /// There is nobody to ask; a person decides.
    Manual,
    /// The back end failed; the text says at what.
    Unreachable(String),
    /// What is kept is not a record.
    Damaged(RecordError),
}

impl std::fmt::Display for ArbiterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manual => write!(f, "the arbiter is manual: a person decides"),
            Self::Unreachable(what) => write!(f, "the arbiter does not answer: {what}"),
            Self::Damaged(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ArbiterError {}

/// A back end. Calls may block; they are made from a thread of their own.
pub trait Arbiter: Send {
    /// The word for it in the configuration.
    fn kind(&self) -> &'static str;
    /// The record, `None` before the first change. A hint, never a right.
    fn read(&mut self) -> Result<Option<Record>, ArbiterError>;
    /// Makes `proposed` the record if it is `expected` now (or `proposed` already).
    fn compare_and_swap(&mut self, expected: Option<Record>, proposed: Record) -> Swap;
}

/// The back end that a configuration asks for.
pub fn open(config: &ArbiterConfig) -> Box<dyn Arbiter> {
    match config {
        ArbiterConfig::File { path } => Box::new(FileArbiter::new(path)),
        ArbiterConfig::Manual => Box::new(ManualArbiter),
    }
}

/// Nobody to ask.
pub struct ManualArbiter;

impl Arbiter for ManualArbiter {
    fn kind(&self) -> &'static str {
        "manual"
    }

    fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
        Err(ArbiterError::Manual)
    }

    fn compare_and_swap(&mut self, _expected: Option<Record>, _proposed: Record) -> Swap {
        Swap::Unknown(ArbiterError::Manual)
    }
}

/// A file that both nodes see, for two nodes on one machine.
///
/// The record is replaced whole: written to a new file, made durable, renamed, and the rename made durable.
pub struct FileArbiter {
    path: PathBuf,
}

impl FileArbiter {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    fn directory(&self) -> &Path {
        self.path.parent().expect("the configuration takes full paths only")
    }

    fn lock(&self) -> Result<Flock<File>, ArbiterError> {
        let path = self.beside(".lock");
        fs::create_dir_all(self.directory()).map_err(|error| failed("make", self.directory(), &error))?;
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open().map_err(|error| failed("open", &path, &error))?;
        let began = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK)) if began.elapsed() < LOCK_PATIENCE => file = back,
                Err((_, errno)) => return Err(failed("lock", &path, &errno.into())),
            }
            thread::sleep(LOCK_PAUSE);
        }
    }

    fn current(&self) -> Result<Option<Record>, ArbiterError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &self.path, &error)),
        };
        let mut bytes = Vec::with_capacity(RECORD_BYTES + 1);
        let most = RECORD_BYTES as u64 + 1;
        file.take(most).read_to_end(&mut bytes).map_err(|error| failed("read", &self.path, &error))?;
        Record::decode(&bytes).map(Some).map_err(ArbiterError::Damaged)
    }

    fn replace(&self, record: &Record) -> Result<(), ArbiterError> {
        let fresh = self.beside(".new");
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&record.encode())?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)
        };
        write().map_err(|error| failed("write", &self.path, &error))?;
        self.settle()
    }

    /// Makes the last rename durable.
    fn settle(&self) -> Result<(), ArbiterError> {
        let sync = File::open(self.directory()).and_then(|directory| directory.sync_all());
        sync.map_err(|error| failed("sync", self.directory(), &error))
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> ArbiterError {
    ArbiterError::Unreachable(format!("cannot {doing} {}: {error}", path.display()))
}

impl Arbiter for FileArbiter {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
        // A rename replaces the record whole, so a reader needs no lock.
        self.current()
    }

    fn compare_and_swap(&mut self, expected: Option<Record>, proposed: Record) -> Swap {
        let change = || -> Result<Swap, ArbiterError> {
            let _lock = self.lock()?;
            let current = self.current()?;
            if current == Some(proposed) {
                // Ours already: an earlier answer was lost, perhaps before the rename was durable.
                self.settle()?;
                return Ok(Swap::Committed);
            }
            if current != expected {
                return Ok(Swap::Conflict(current));
            }
            self.replace(&proposed)?;
            Ok(Swap::Committed)
        };
        change().unwrap_or_else(Swap::Unknown)
    }
}

/// A question for the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    Read,
    /// `expected` may be the empty record that stands for none.
    Swap {
        expected: Record,
        proposed: Record,
    },
}

/// What the arbiter's thread tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Record(RecordOutcome),
    Swapped(CasOutcome),
    /// There is no answer yet; a swap is asked again until there is.
    Silent(String),
    /// It answers again.
    Back,
}

/// Asks the arbiter on a thread of its own. Ends when the questions end.
pub fn spawn(
    mut arbiter: Box<dyn Arbiter>,
    questions: Receiver<Question>,
    told: Sender<Told>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("arbiter".to_owned()).spawn(move || {
        let mut silent = false;
        for question in questions {
            // A dropped receiver means that the daemon ends.
            if answer(arbiter.as_mut(), question, &told, &mut silent).is_err() {
                return;
            }
        }
    })
}

fn answer(
    arbiter: &mut dyn Arbiter,
    question: Question,
    told: &Sender<Told>,
    silent: &mut bool,
) -> Result<(), SendError<Told>> {
    loop {
        let (outcome, trouble) = match question {
            Question::Read => read(arbiter),
            Question::Swap { expected, proposed } => swap(arbiter, expected, proposed),
        };
        match (&trouble, *silent) {
            (Some(why), false) => told.send(Told::Silent(why.clone()))?,
            (None, true) => told.send(Told::Back)?,
            _ => {}
        }
        *silent = trouble.is_some();
        if let Some(outcome) = outcome {
            return told.send(outcome);
        }
        thread::sleep(ASK_AGAIN);
    }
}

/// The answer, if there is one to give on, and what kept the arbiter from answering, if anything.
fn read(arbiter: &mut dyn Arbiter) -> (Option<Told>, Option<String>) {
    match arbiter.read() {
        Ok(record) => (Some(Told::Record(RecordOutcome::Known(record.unwrap_or_default()))), None),
        Err(ArbiterError::Manual) => (Some(Told::Record(RecordOutcome::NeedsOperator)), None),
        Err(error) => (Some(Told::Record(RecordOutcome::Unreachable)), Some(error.to_string())),
    }
}

fn swap(arbiter: &mut dyn Arbiter, expected: Record, proposed: Record) -> (Option<Told>, Option<String>) {
    let expected = (expected != Record::default()).then_some(expected);
    match arbiter.compare_and_swap(expected, proposed) {
        Swap::Committed => (Some(Told::Swapped(CasOutcome::Won)), None),
        Swap::Conflict(record) => (Some(Told::Swapped(CasOutcome::Lost(record.unwrap_or_default()))), None),
        Swap::Unknown(ArbiterError::Manual) => (Some(Told::Swapped(CasOutcome::NeedsOperator)), None),
        Swap::Unknown(error) => (None, Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::{Epoch, NodeSet};
    use crate::units::NodeId;

    fn record(epoch: u64, nonce: u64) -> Record {
        Record { epoch: Epoch(epoch), primary: Some(NodeId(0)), in_sync: NodeSet::BOTH, nonce }
    }

    #[test]
    fn a_change_needs_the_record_it_was_made_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/arbiter");
        let (mut one, mut two) = (FileArbiter::new(&path), FileArbiter::new(&path));
        assert_eq!(one.read(), Ok(None));
        assert_eq!(one.compare_and_swap(None, record(1, 7)), Swap::Committed);
        assert_eq!(two.read(), Ok(Some(record(1, 7))));
        assert_eq!(two.compare_and_swap(None, record(1, 8)), Swap::Conflict(Some(record(1, 7))));
        assert_eq!(two.compare_and_swap(Some(record(1, 7)), record(2, 9)), Swap::Committed);
        // The answer of the first change was lost: the same offer after the change of another is a conflict.
        assert_eq!(one.compare_and_swap(None, record(1, 7)), Swap::Conflict(Some(record(2, 9))));
        // The answer was lost and nobody came between: the same offer is recognised.
        assert_eq!(two.compare_and_swap(Some(record(1, 7)), record(2, 9)), Swap::Committed);
    }

    #[test]
    fn of_many_rivals_exactly_one_wins() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("arbiter");
        let rival = |nonce: u64| {
            let path = path.clone();
            thread::spawn(move || FileArbiter::new(&path).compare_and_swap(None, record(1, nonce)))
        };
        let rivals: Vec<_> = (1..=8).map(rival).collect();
        let outcomes: Vec<Swap> = rivals.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Swap::Committed).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Swap::Committed | Swap::Conflict(Some(_)))));
    }

    #[test]
    fn what_is_not_definite_is_unknown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("arbiter");
        fs::write(&path, b"not a record").expect("written");
        let mut arbiter = FileArbiter::new(&path);
        assert_eq!(arbiter.read(), Err(ArbiterError::Damaged(RecordError::Damaged)));
        let outcome = arbiter.compare_and_swap(None, record(1, 1));
        assert_eq!(outcome, Swap::Unknown(ArbiterError::Damaged(RecordError::Damaged)));
        assert_eq!(fs::read(&path).expect("still there"), b"not a record");
        fs::remove_file(&path).expect("removed");
        let held = arbiter.lock().expect("free");
        assert!(matches!(
            FileArbiter::new(&path).compare_and_swap(None, record(1, 1)),
            Swap::Unknown(ArbiterError::Unreachable(what)) if what.contains("lock")
        ));
        drop(held);
        assert_eq!(ManualArbiter.compare_and_swap(None, record(1, 1)), Swap::Unknown(ArbiterError::Manual));
    }

    /// Answers as it is told to, and remembers nothing.
    struct Scripted(Vec<Swap>);

    impl Arbiter for Scripted {
        fn kind(&self) -> &'static str {
            "scripted"
        }

        fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
            Err(ArbiterError::Unreachable("no".into()))
        }

        fn compare_and_swap(&mut self, expected: Option<Record>, _proposed: Record) -> Swap {
            assert_eq!(expected, None, "the empty record stands for none");
            self.0.remove(0)
        }
    }

    #[test]
    fn a_swap_is_asked_until_it_is_answered_and_a_read_once() {
        let unknown = || Swap::Unknown(ArbiterError::Unreachable("no".into()));
        let (questions, asked) = crossbeam_channel::unbounded();
        let (told, hear) = crossbeam_channel::unbounded();
        let arbiter = Scripted(vec![unknown(), unknown(), Swap::Committed]);
        let thread = spawn(Box::new(arbiter), asked, told).expect("a thread");
        questions.send(Question::Read).expect("listening");
        let swap = Question::Swap { expected: Record::default(), proposed: record(1, 1) };
        questions.send(swap).expect("listening");
        drop(questions);
        let said: Vec<Told> = hear.iter().collect();
        assert_eq!(
            said,
            [
                Told::Silent("the arbiter does not answer: no".into()),
                Told::Record(RecordOutcome::Unreachable),
                Told::Back,
                Told::Swapped(CasOutcome::Won)
            ]
        );
        thread.join().expect("no panic");
    }

    #[test]
    fn a_person_is_asked_for_every_time() {
        let (questions, asked) = crossbeam_channel::unbounded();
        let (told, hear) = crossbeam_channel::unbounded();
        spawn(Box::new(ManualArbiter), asked, told).expect("a thread");
        questions.send(Question::Read).expect("listening");
        questions.send(Question::Swap { expected: record(1, 1), proposed: record(2, 2) }).expect("listening");
        drop(questions);
        let said: Vec<Told> = hear.iter().collect();
        assert_eq!(
            said,
            [Told::Record(RecordOutcome::NeedsOperator), Told::Swapped(CasOutcome::NeedsOperator)]
        );
    }
}
