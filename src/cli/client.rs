//! The client's end of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::daemon::api::{Answer, AnswerLine, Request, RequestLine, SCHEMA};
use crate::daemon::config::{Config, NodeConfig};
use crate::daemon::failure::{Failure, FailureKind};
use crate::daemon::process::Process;

/// A connection to the daemon of one node.
pub struct Client {
    lines: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Client {
    pub fn connect(config: &Config, node: &NodeConfig) -> Result<Self, Failure> {
        let socket = node.socket();
        match UnixStream::connect(&socket) {
            Ok(stream) => Ok(Self { lines: BufReader::new(stream), socket }),
            Err(error) => Err(unreachable(config, node, &error)),
        }
    }

    /// A connection to the failover agent of one node.
    pub fn connect_agent(node: &NodeConfig) -> Result<Self, Failure> {
        let socket = node.agent_socket();
        UnixStream::connect(&socket).map(|stream| Self { lines: BufReader::new(stream), socket }).map_err(
            |error| {
                let show = node.agent_socket();
                let what = format!("no agent runs for node {}: {}: {error}", node.name, show.display());
                Failure::new(FailureKind::Unreachable, what, format!("twinlun up --node {}", node.name))
            },
        )
    }

    /// The daemon's process. `None`: it is gone.
    pub fn process(&self) -> Option<Process> {
        self.process_id().and_then(Process::open)
    }

    /// The number of the process that listens. `None`: it is of another PID namespace.
    pub fn process_id(&self) -> Option<u32> {
        let credentials = getsockopt(self.lines.get_ref(), PeerCredentials).ok()?;
        u32::try_from(credentials.pid()).ok().filter(|id| *id != 0)
    }

    /// Sends a request and waits for its answer. A failure that the daemon reports is an error here.
    pub fn ask(&mut self, request: Request, patience: Duration) -> Result<Answer, Failure> {
        self.send(request)?;
        self.answer(Some(patience))
    }

    pub fn send(&mut self, request: Request) -> Result<(), Failure> {
        let line = RequestLine { schema: SCHEMA, request };
        let line = serde_json::to_string(&line).expect("a request has only string keys");
        writeln!(self.lines.get_mut(), "{line}").map_err(|error| self.lost(&error))
    }

    /// The next line of the daemon. Without patience it waits for ever.
    pub fn answer(&mut self, patience: Option<Duration>) -> Result<Answer, Failure> {
        self.lines.get_ref().set_read_timeout(patience).map_err(|error| self.lost(&error))?;
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => return Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let seconds = patience.unwrap_or_default().as_secs_f32();
                return Err(Failure::new(
                    FailureKind::TimedOut,
                    format!("not done after {seconds} s; it goes on in the daemon"),
                    "look with twinlun status and twinlun events, or wait longer with --timeout",
                ));
            }
            Err(error) => return Err(self.lost(&error)),
        }
        let read: AnswerLine = serde_json::from_str(&line).map_err(|error| {
            let what = format!("the daemon's answer is not understood: {error}");
            Failure::failed(what, "use the twinlun of the same release as the daemon")
        })?;
        match read.answer {
            Answer::Failure(failure) => Err(failure),
            answer => Ok(answer),
        }
    }

    fn lost(&self, error: &io::Error) -> Failure {
        Failure::new(
            FailureKind::Unreachable,
            format!("the daemon at {} went away before it answered: {error}", self.socket.display()),
            "see why in its log, then twinlun up",
        )
    }
}

fn unreachable(config: &Config, node: &NodeConfig, error: &io::Error) -> Failure {
    let socket = node.socket();
    let (name, volume) = (&node.name, &config.volume.name);
    let (what, next) = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            (format!("{} may not be opened: {error}", socket.display()), "run this as root".to_owned())
        }
        _ => (
            format!(
                "no daemon runs for node {name} (nobody answers at {}); {name} does not serve {volume}",
                socket.display()
            ),
            format!("twinlun up --node {name}"),
        ),
    };
    Failure::new(FailureKind::Unreachable, what, next)
}
