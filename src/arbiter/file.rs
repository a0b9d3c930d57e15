//! A file that both nodes see, for two nodes on one machine: the demo and the tests.
//!
//! The lock keeps two changes from interleaving and decides nothing. Whoever is stopped while it holds the lock keeps
//! the other from changing the record; that is noticed after [`LOCK_PATIENCE`] and said with the holder's process id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Arbiter, ArbiterError, Swap};
use crate::arbitration::{RECORD_BYTES, Record};

/// How long a change waits for the other node's change to finish.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

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
                Err((back, Errno::EWOULDBLOCK)) => return Err(held(&path, &back)),
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

/// Somebody does not let go of the lock: a process that was stopped in the middle of a change.
fn held(path: &Path, lock: &File) -> ArbiterError {
    let who = lock.metadata().ok().and_then(|facts| holder(facts.ino()));
    let who = who.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    ArbiterError::Unreachable(format!(
        "{who} has held the lock {} for {} ms and may be stopped; let it go on (kill -CONT) or end it",
        path.display(),
        LOCK_PATIENCE.as_millis()
    ))
}

/// The process that holds a lock of flock(2) on this inode, as /proc/locks tells.
fn holder(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 3459 08:02:1234 0 EOF
        let words: Vec<&str> = line.split_whitespace().collect();
        let same = words.get(5)?.rsplit(':').next()?.parse() == Ok(inode);
        (words[1] == "FLOCK" && same).then(|| words[4].parse().ok()).flatten()
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::{Epoch, NodeSet, RecordError};
    use crate::units::NodeId;

    fn record(epoch: u64, nonce: u64) -> Record {
        Record { epoch: Epoch(epoch), primary: Some(NodeId(0)), in_sync: NodeSet::BOTH, nonce }
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
    }

    #[test]
    fn a_lock_that_is_never_released_is_reported_with_its_holder() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("arbiter");
        let held = FileArbiter::new(&path).lock().expect("free");
        let began = Instant::now();
        let Swap::Unknown(ArbiterError::Unreachable(what)) =
            FileArbiter::new(&path).compare_and_swap(None, record(1, 1))
        else {
            panic!("nobody can change the record now");
        };
        assert!(began.elapsed() < LOCK_PATIENCE * 3);
        assert!(what.starts_with(&format!("process {} has held the lock", std::process::id())), "{what}");
        assert_eq!(FileArbiter::new(&path).read(), Ok(None), "reading needs no lock");
        drop(held);
        assert_eq!(FileArbiter::new(&path).compare_and_swap(None, record(1, 1)), Swap::Committed);
    }
}
