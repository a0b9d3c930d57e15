//! The process around the daemon: its log, its lock, its signals, and what else of the machine it needs at the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use env_logger::Target;
use log::{Level, LevelFilter};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};

use super::clock;
use super::config::{ArbiterConfig, Config, NodeConfig};
use super::failure::Failure;
use super::log_file::{LOG_MAX, LogFile};

/// How long the kernel may hold a killed daemon's sockets and devices: until its rings' last operations have ended.
const CRASH_PATIENCE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The name of this machine; empty when it has none that is text.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// How a program of a node was called.
#[derive(Clone, Debug)]
pub struct Launch {
    pub config: PathBuf,
    pub node: Option<String>,
    /// Leave the terminal's session.
    pub background: bool,
}

impl Launch {
    /// What every program of a node begins with. `log_file`: where it logs to in the background.
    pub fn enter(
        &self,
        log_file: impl FnOnce(&NodeConfig) -> PathBuf,
    ) -> Result<(Config, NodeConfig), Failure> {
        if self.background {
            detach();
        }
        private_files();
        let config = Config::load(&self.config)?;
        let node = config.choose(self.node.as_deref(), &host_name())?.clone();
        begin_log(self.background.then(|| log_file(&node)).as_deref());
        Ok((config, node))
    }
}

/// Leaves the terminal's session, so that the daemon outlives it.
pub fn detach() {
    // Fails only for a process that leads a session or a group already; then there is nothing to leave.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
}

/// Files made from here on are for their owner only.
pub fn private_files() {
    umask(Mode::from_bits_truncate(0o077));
}

/// Log lines to stderr: with the journal's level prefix under systemd, with the time elsewhere; or to the log of a
/// daemon in the background, which its stderr follows. `RUST_LOG` chooses more or less than `info`.
pub fn begin_log(background: Option<&Path>) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    let follow = |file: &File| {
        let _ = nix::unistd::dup2_stderr(file);
    };
    if let Some(log) = background.and_then(|path| LogFile::new(path, LOG_MAX, follow).ok()) {
        builder.target(Target::Pipe(Box::new(log)));
    }
    builder.filter_level(LevelFilter::Info).parse_default_env();
    builder.format(move |out, record| {
        if journal {
            return writeln!(out, "<{}>{}", journal_level(record.level()), record.args());
        }
        let time = clock::rfc3339(clock::unix_milliseconds());
        writeln!(out, "{time} {:<5} {}", record.level(), record.args())
    });
    // A second logger in the same process (tests) is no reason to stop.
    let _ = builder.try_init();
}

/// The priorities of sd-daemon(3).
fn journal_level(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Another process, by its identifier. The open file names that process for ever: a new one with the same number is
/// not taken for it.
pub struct Process(File);

/// How far a process is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    Lives,
    /// Killed, but the kernel has not let go of all that it had: its sockets may still be connected to.
    Ends,
    /// Gone; at most its parent has not asked for its exit status.
    Ended,
}

impl Process {
    /// `None`: there is no such process (any more).
    pub fn open(id: u32) -> Option<Self> {
        File::open(format!("/proc/{id}/stat")).ok().map(Self)
    }

    pub fn life(&mut self) -> Life {
        let mut line = String::new();
        let read = self.0.rewind().and_then(|()| self.0.read_to_string(&mut line));
        if read.is_err() { Life::Ended } else { life(&line) }
    }

    /// Waits until the process has ended. False: it has not in this time.
    pub fn wait_for_end(&mut self, patience: Duration) -> bool {
        let began = Instant::now();
        while self.life() != Life::Ended {
            if began.elapsed() >= patience {
                return false;
            }
            thread::sleep(RETRY_PAUSE);
        }
        true
    }
}

/// Reads a line of `/proc/PID/stat` (proc_pid_stat(5)). A leader that is a zombie may have threads that are not.
fn life(stat: &str) -> Life {
    const EXITING: u64 = 0x4;
    const KILL: u64 = 1 << (Signal::SIGKILL as u64 - 1);
    // The name, in parentheses, may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (flags, threads, pending) = (number(6), number(17), number(28));
    match fields.first() {
        None => Life::Ended,
        Some(&("Z" | "X")) if threads <= 1 => Life::Ended,
        Some(&("Z" | "X")) => Life::Ends,
        Some(_) if flags & EXITING != 0 || pending & KILL != 0 => Life::Ends,
        Some(_) => Life::Lives,
    }
}

/// Held for as long as the daemon of a node lives; names its process.
pub struct InstanceLock {
    file: Flock<File>,
    /// The daemon before this one did not end in order. The kernel may take a moment to let go of what it had.
    pub after_crash: bool,
}

impl InstanceLock {
    /// Takes the lock of a node's daemon, `<run_dir>/<node>.lock`.
    pub fn take(node: &NodeConfig) -> Result<Self, Failure> {
        Self::take_for(node, "a daemon", "lock")
    }

    /// Takes the lock of a program of a node: who, and the end of the file's name.
    pub fn take_for(node: &NodeConfig, who: &str, suffix: &str) -> Result<Self, Failure> {
        let path = node.run_dir.join(format!("{}.{suffix}", node.name));
        let cannot = |error: io::Error| {
            Failure::failed(
                format!("cannot make {}: {error}", path.display()),
                "run this as root, or set run_dir in the configuration to a directory that may be written",
            )
        };
        fs::create_dir_all(&node.run_dir).map_err(cannot)?;
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(cannot)?;
        let began = Instant::now();
        let mut lock = loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
                Err((_, errno)) => return Err(cannot(errno.into())),
            };
            let owner = fs::read_to_string(&path).unwrap_or_default();
            let process = owner.trim().parse().ok().and_then(Process::open);
            let lives = process.is_some_and(|mut process| process.life() == Life::Lives);
            if lives || began.elapsed() > CRASH_PATIENCE {
                let what = format!("{who} of {} runs already (process {})", node.name, owner.trim());
                return Err(Failure::failed(what, "see it with twinlun status, or end it with twinlun down"));
            }
            thread::sleep(RETRY_PAUSE);
        };
        let after_crash = lock.metadata().map_err(cannot)?.len() > 0;
        lock.set_len(0).map_err(cannot)?;
        writeln!(lock, "{}", std::process::id()).map_err(cannot)?;
        Ok(Self { file: lock, after_crash })
    }

    /// How long to go on trying when something is still in use.
    pub fn patience(&self) -> Duration {
        if self.after_crash { CRASH_PATIENCE } else { Duration::ZERO }
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // An empty file tells the next daemon that this one ended in order.
        let _ = self.file.set_len(0);
    }
}

/// Tries again while the failure may be a crashed daemon's doing.
pub fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(_) if began.elapsed() < patience => thread::sleep(RETRY_PAUSE),
            result => return result,
        }
    }
}

/// Takes SIGTERM and SIGINT out of the ordinary way for all threads started later; each arrives as a message instead.
/// SIGPIPE is ignored by every Rust program.
pub fn signals() -> Result<Receiver<Signal>, Failure> {
    let cannot = |what: String| Failure::failed(format!("cannot listen for signals: {what}"), "");
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGHUP);
    set.thread_block().map_err(|error| cannot(error.to_string()))?;
    let (outlet, inlet) = bounded(4);
    let listen = move || {
        while let Ok(signal) = set.wait() {
            if outlet.send(signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map_err(|error| cannot(error.to_string()))?;
    Ok(inlet)
}

/// Are the node's addresses free? Tried before anything is started, so that the answer is a line and not a surprise
/// at the first failover. A service address that is elsewhere at the moment is in order.
pub fn check_addresses(config: &Config, node: &NodeConfig) -> Result<(), Failure> {
    for portal in config.portals_of(node) {
        match TcpListener::bind(portal) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                log::info!(
                    "event=portal_elsewhere the portal {portal} is not an address of this machine now"
                );
            }
            // Two nodes on one machine: the other may be serving there now.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && shares_machine(config) => {
                log::info!("event=portal_in_use the portal {portal} is in use now; the peer serves there?");
            }
            Err(error) => return Err(address_failure("the portal", portal, "target.portals", &error)),
        }
    }
    let Some(address) = node.replication_address else { return Ok(()) };
    let key = format!("node.{}.replication_address", node.name);
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(foreign_address(node, address)),
        Err(error) => Err(address_failure("the replication address", address, &key, &error)),
    }
}

/// Is the node's replication address one of this machine's? Asked where the daemon may be running.
pub fn check_replication_host(node: &NodeConfig) -> Result<(), Failure> {
    let Some(address) = node.replication_address else { return Ok(()) };
    match TcpListener::bind((address.ip(), 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(foreign_address(node, address)),
        _ => Ok(()),
    }
}

fn foreign_address(node: &NodeConfig, address: SocketAddr) -> Failure {
    let name = &node.name;
    Failure::failed(
        format!("the replication address {address} of {name} is not an address of this machine"),
        format!("set up the network (ip addr), or correct node.{name}.replication_address; is this {name}?"),
    )
}

/// An arbiter that is a file is for two nodes on one machine.
fn shares_machine(config: &Config) -> bool {
    let arbiter = config.replication.as_ref().map(|replication| &replication.arbiter);
    matches!(arbiter, Some(ArbiterConfig::File { .. }))
}

fn address_failure(what: &str, address: SocketAddr, key: &str, error: &io::Error) -> Failure {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => Failure::failed(
            format!("{what} {address} is in use by another program"),
            format!("see which with: ss -ltnp 'sport = :{port}' (tgtd? LIO?), stop it, or change {key}"),
        ),
        io::ErrorKind::PermissionDenied => {
            Failure::failed(format!("{what} {address} may not be used: {error}"), "run this as root")
        }
        _ => Failure::failed(format!("{what} {address} cannot be used: {error}"), format!("correct {key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(portal: SocketAddr, run_dir: &Path) -> Config {
        let text = format!(
            "[volume]\nname = \"v\"\n[target]\niqn = \"iqn.2026-11.example:v\"\nportals = [\"{portal}\"]\n\
             [node.a]\nid = 0\ndisk = \"/d\"\nrun_dir = {run_dir:?}\n"
        );
        Config::parse(Path::new("t.toml"), &text).expect("a valid file")
    }

    #[test]
    fn a_taken_port_is_named_with_the_way_to_its_owner() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let config = config(address, Path::new("/run"));
        let failure = check_addresses(&config, &config.nodes[0]).expect_err("taken").to_string();
        assert!(failure.contains(&address.to_string()) && failure.contains("ss -ltnp"), "{failure}");
        drop(taken);
        assert_eq!(check_addresses(&config, &config.nodes[0]), Ok(()));
    }

    #[test]
    fn a_service_address_may_be_elsewhere() {
        // TEST-NET-1 is nobody's (RFC 5737).
        let config = config("192.0.2.77:3260".parse().expect("an address"), Path::new("/run"));
        assert_eq!(check_addresses(&config, &config.nodes[0]), Ok(()));
    }

    #[test]
    fn a_process_is_followed_to_its_end() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("it starts");
        let mut process = Process::open(child.id()).expect("it lives");
        assert_eq!(process.life(), Life::Lives);
        assert!(!process.wait_for_end(Duration::ZERO));
        child.kill().expect("it lives");
        // It stays a zombie until its parent, this test, asks for it.
        assert!(process.wait_for_end(Duration::from_secs(20)));
        child.wait().expect("it has ended");
        assert_eq!(process.life(), Life::Ended);
    }

    #[test]
    fn a_dying_process_is_told_from_a_living_one() {
        let stat = |state: &str, flags: u64, threads: u64, pending: u64| {
            let mut fields = vec!["0".to_owned(); 50];
            fields[0] = state.to_owned();
            (fields[6], fields[17], fields[28]) =
                (flags.to_string(), threads.to_string(), pending.to_string());
            life(&format!("71 (twin) lund) {}", fields.join(" ")))
        };
        assert_eq!(stat("S", 0x40_0000, 5, 0), Life::Lives);
        assert_eq!(stat("S", 0x40_0000, 5, 0x100), Life::Ends, "SIGKILL is on its way");
        assert_eq!(stat("D", 0x40_0004, 5, 0), Life::Ends);
        assert_eq!(stat("Z", 0x40_0004, 2, 0), Life::Ends, "a thread still has its descriptors");
        assert_eq!(stat("Z", 0x40_0004, 1, 0), Life::Ended);
        assert_eq!(life(""), Life::Ended);
    }

    #[test]
    fn one_daemon_for_each_node() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config("127.0.0.1:1".parse().expect("an address"), &dir.path().join("deep/run"));
        let lock = InstanceLock::take(&config.nodes[0]).expect("free");
        let second = InstanceLock::take(&config.nodes[0]).map(|_| ()).expect_err("taken");
        assert!(second.what.contains(&format!("process {}", std::process::id())), "{second}");
        drop(lock);
        InstanceLock::take(&config.nodes[0]).map(|_| ()).expect("free again");
    }
}
