//! Calling a fence agent: the convention of the fence-agents collection.
//!
//! Options come on standard input, one `name=value` a line. `off` exits with 0 when the machine is off. `status` exits
//! with 0 when it is on and with 2 when it is off. Anything else, and silence until the deadline, is a failure: the
//! machine may be on. What was begun is killed at the deadline, with everything that it started.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// `status` of a machine that is off.
const STATUS_OFF: i32 = 2;
/// How often a running agent is looked at.
const GLANCE: Duration = Duration::from_millis(10);
/// What is kept of an agent's words.
const WORDS_MAX: u64 = 4096;

/// How one node is switched off.
#[derive(Clone, PartialEq, Eq)]
pub struct FenceAgent {
    /// Full path.
    pub program: PathBuf,
    /// In the order of the configuration; no line breaks.
    pub options: Vec<(String, String)>,
}

impl std::fmt::Debug for FenceAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Options hold passwords.
        write!(f, "FenceAgent({})", self.program.display())
    }
}

/// Why a node is not known to be off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentError {
    Start {
        why: String,
    },
    /// The agent did not end in time; it was killed.
    TimedOut {
        action: &'static str,
    },
    Failed {
        action: &'static str,
        status: String,
        said: String,
    },
    /// `off` succeeded, and `status` says that the machine is on.
    StillOn,
}

impl std::fmt::Display for AgentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { why } => write!(f, "it cannot be started ({why})"),
            Self::TimedOut { action } => write!(f, "{action} did not end in time"),
            Self::Failed { action, status, said } if said.is_empty() => {
                write!(f, "{action} failed ({status})")
            }
            Self::Failed { action, status, said } => write!(f, "{action} failed ({status}: {said})"),
            Self::StillOn => write!(f, "off was reported as done, but the machine is on"),
        }
    }
}

impl FenceAgent {
    /// Switches the machine off and looks whether it is off. Only `Ok` means that it is.
    pub fn fence(&self, until: Instant) -> Result<(), AgentError> {
        let (status, said) = self.run("off", until)?;
        if !status.success() {
            return Err(failed("off", status, said));
        }
        match self.is_off(until)? {
            true => Ok(()),
            false => Err(AgentError::StillOn),
        }
    }

    /// Is the machine off? Errors when the device does not say.
    pub fn is_off(&self, until: Instant) -> Result<bool, AgentError> {
        let (status, said) = self.run("status", until)?;
        match status.code() {
            Some(0) => Ok(false),
            Some(STATUS_OFF) => Ok(true),
            _ => Err(failed("status", status, said)),
        }
    }

    fn run(&self, action: &'static str, until: Instant) -> Result<(ExitStatus, String), AgentError> {
        let start = |error: std::io::Error| AgentError::Start { why: error.to_string() };
        let mut child = Command::new(&self.program)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let words = listen(&mut child).map_err(start)?;
        let mut options = format!("action={action}\n");
        for (name, value) in &self.options {
            options.push_str(&format!("{name}={value}\n"));
        }
        // Less than a pipe holds, so this does not block; an agent that reads nothing says itself what it is missing.
        let stdin = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(options.as_bytes()));
        if let Err(error) = stdin {
            log::debug!("{}: {error}", self.program.display());
        }
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    let said = words.recv_timeout(GLANCE).unwrap_or_default();
                    return Ok((status, said));
                }
                Ok(None) if Instant::now() < until => thread::sleep(GLANCE),
                Ok(None) => {
                    kill(&mut child);
                    return Err(AgentError::TimedOut { action });
                }
                Err(error) => {
                    kill(&mut child);
                    return Err(start(error));
                }
            }
        }
    }
}

/// Ends the agent and everything in its process group.
fn kill(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids are positive i32"));
    if let Err(error) = killpg(group, Signal::SIGKILL) {
        log::debug!("fence agent {group}: {error}");
    }
    if let Err(error) = child.wait() {
        log::debug!("fence agent {group}: {error}");
    }
}

/// Reads the agent's complaints beside it, whoever else keeps the pipe open.
fn listen(child: &mut Child) -> std::io::Result<Receiver<String>> {
    let (tell, words) = bounded(1);
    let stderr = child.stderr.take().expect("it is piped");
    thread::Builder::new().name("fence-words".to_owned()).spawn(move || {
        let mut stderr = stderr;
        let mut bytes = Vec::new();
        let read = (&mut stderr).take(WORDS_MAX).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let _ = tell.send(last.chars().filter(|c| !c.is_control()).take(200).collect());
        // The rest is read so that the agent never waits for a reader.
        if read.is_ok() {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        }
    })?;
    Ok(words)
}

fn failed(action: &'static str, status: ExitStatus, said: String) -> AgentError {
    AgentError::Failed { action, status: status.to_string(), said }
}
