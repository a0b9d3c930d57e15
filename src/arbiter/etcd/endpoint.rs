//! One endpoint: its HTTP connection, its login, and the thread that waits for it.
//!
//! Every question has a deadline of its own, which covers name lookup, connecting, TLS, sending and the whole answer.
//! The thread may hang for so long and no longer; whoever asked waits on a channel and goes on to the next endpoint.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ureq::Agent;
use zeroize::Zeroizing;

use super::error::Trouble;
use super::message::{self, ANSWER_MAX, Answer, Request};

/// Shortest time that is left for a further step of the same try.
const STEP_MIN: Duration = Duration::from_millis(5);

/// User and password.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// The cluster that the first endpoint to answer belongs to; all others must belong to it too.
#[derive(Clone, Debug, Default)]
pub struct Pin(Arc<Mutex<Pinned>>);

#[derive(Debug, Default)]
struct Pinned {
    known: Option<(u64, String)>,
    /// An endpoint of another cluster was met: which of them is right is not for a program to guess.
    broken: Option<Trouble>,
}

impl Pin {
    fn check(&self, found: u64, endpoint: &str) -> Result<(), Trouble> {
        let mut pinned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, known_at) = pinned.known.get_or_insert_with(|| (found, endpoint.to_owned())).clone();
        if known != found {
            pinned.broken = Some(Trouble::OtherCluster { found, known, known_at });
        }
        pinned.broken.clone().map_or(Ok(()), Err)
    }
}

/// A question on its way to an endpoint's thread.
pub struct Job {
    pub round: u64,
    pub request: Request,
    pub until: Instant,
}

/// What an endpoint's thread found out.
pub struct Report {
    pub round: u64,
    pub endpoint: usize,
    pub result: Result<Answer, Trouble>,
}

/// The thread of one endpoint.
pub struct Worker {
    pub url: String,
    jobs: Sender<Job>,
}

impl Worker {
    /// The thread ends when the worker is dropped and its last try is over.
    pub fn start(place: usize, endpoint: Endpoint, reports: Sender<Report>) -> io::Result<Self> {
        let (jobs, todo) = bounded(1);
        let url = endpoint.url.clone();
        thread::Builder::new()
            .name(format!("etcd-{place}"))
            .spawn(move || serve(place, endpoint, &todo, &reports))?;
        Ok(Self { url, jobs })
    }

    /// Hands over a question, unless the thread still waits for an earlier one.
    pub fn ask(&self, job: Job) -> bool {
        match self.jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn serve(place: usize, mut endpoint: Endpoint, todo: &Receiver<Job>, reports: &Sender<Report>) {
    // Now rather than when a peer is lost: find out whose member it is, and log in. The answer itself is of no use yet.
    let _ = endpoint.ask(&Request::Read, Instant::now() + super::TRY_MAX);
    for Job { round, request, until } in todo {
        let result = endpoint.ask(&request, until);
        if reports.send(Report { round, endpoint: place, result }).is_err() {
            return;
        }
    }
}

/// One of etcd's members, as this node sees it.
pub struct Endpoint {
    pub url: String,
    pub key: String,
    pub agent: Agent,
    pub login: Option<Login>,
    pub pin: Pin,
    pub token: Option<Zeroizing<String>>,
    /// Its cluster was found to be the right one.
    pub trusted: bool,
}

/// An answer as it came.
struct Raw {
    status: u16,
    body: Vec<u8>,
}

impl Endpoint {
    fn ask(&mut self, request: &Request, until: Instant) -> Result<Answer, Trouble> {
        if !self.trusted && *request != Request::Read {
            // A change must not reach another cluster's member, and only an answer tells whose member it is.
            self.call(&Request::Read, until)?;
        }
        self.call(request, until)
    }

    fn call(&mut self, request: &Request, until: Instant) -> Result<Answer, Trouble> {
        let raw = self.call_as_user(request, until)?;
        if raw.status != 200 {
            return Err(message::refusal(raw.status, &raw.body, &self.key).unwrap_or(Trouble::LoginRefused));
        }
        let (cluster, answer) = request.read(&raw.body)?;
        self.pin.check(cluster, &self.url)?;
        self.trusted = true;
        Ok(answer)
    }

    /// Logs in where that is wanted, and once more where the token has become old.
    fn call_as_user(&mut self, request: &Request, until: Instant) -> Result<Raw, Trouble> {
        let body = request.body(&self.key);
        if self.login.is_some() && self.token.is_none() {
            self.log_in(until)?;
        }
        let raw = self.post(request.path(), &body, until)?;
        let stale = raw.status != 200 && message::refusal(raw.status, &raw.body, &self.key).is_none();
        if self.login.is_none() || !stale {
            return Ok(raw);
        }
        self.token = None;
        self.log_in(until)?;
        self.post(request.path(), &body, until)
    }

    fn log_in(&mut self, until: Instant) -> Result<(), Trouble> {
        let Some(login) = &self.login else { return Ok(()) };
        let body = Zeroizing::new(message::login(&login.user, &login.password));
        let raw = self.post("/v3/auth/authenticate", &body, until)?;
        if raw.status == 200 {
            self.token = Some(Zeroizing::new(message::token(&raw.body)?));
            return Ok(());
        }
        if message::says_no_users(&raw.body) {
            // The server has no users any more. That it lets everybody in is not for this node to heal.
            return Ok(());
        }
        Err(message::refusal(raw.status, &raw.body, &self.key).unwrap_or(Trouble::LoginRefused))
    }

    fn post(&self, path: &str, body: &[u8], until: Instant) -> Result<Raw, Trouble> {
        let left = until.saturating_duration_since(Instant::now());
        if left < STEP_MIN {
            return Err(Trouble::NoAnswer);
        }
        let request =
            self.agent.post(format!("{}{path}", self.url)).header("Content-Type", "application/json");
        let request = match &self.token {
            Some(token) => request.header("Authorization", token.as_str()),
            None => request,
        };
        let request = request.config().timeout_global(Some(left)).build();
        let mut answer = request.send(body).map_err(trouble)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec().map_err(trouble)?;
        Ok(Raw { status, body })
    }
}

/// Whose fault it is that there is no answer.
fn trouble(error: ureq::Error) -> Trouble {
    use ureq::Error;
    match error {
        Error::Timeout(_) => Trouble::NoAnswer,
        Error::Io(error) => io_trouble(&error),
        Error::Rustls(error) => Trouble::Tls(error.to_string()),
        Error::Tls(what) => Trouble::Tls(what.to_owned()),
        Error::HostNotFound => Trouble::Connection("its name is not known".to_owned()),
        Error::ConnectionFailed => Trouble::Connection("no connection".to_owned()),
        Error::BodyExceedsLimit(limit) => Trouble::NotEtcd(format!("an answer of more than {limit} bytes")),
        other => Trouble::NotEtcd(message::printable(&other.to_string())),
    }
}

/// The TLS layer wraps its complaints in I/O errors.
fn io_trouble(error: &io::Error) -> Trouble {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(tls), _) => Trouble::Tls(tls.to_string()),
        (None, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Trouble::NoAnswer,
        (None, _) => Trouble::Connection(message::printable(&error.to_string())),
    }
}
