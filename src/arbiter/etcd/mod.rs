//! etcd (3.4 or later) as the arbiter: one key, `/twinlun/<cluster>/<volume>`, changed by guarded transactions.
//!
//! A change is one transaction: *if the key's value is the expected record, put the proposed one, else tell the value.*
//! A record carries a nonce and is never put twice, so the value is a perfect guard, and the same transaction may be
//! offered any number of times, to any number of members at once: it takes effect once, and every definite answer to
//! any of them is the truth about all. That is why there is one round for a change:
//!
//! - The endpoint that answered last is asked first. If it is silent for [`HEDGE`], the next one is asked *as well*.
//! - A try ends after [`TRY`], give or take an eighth. Where one after the other has no answer they become longer, up to
//!   [`TRY_MAX`]: a slow etcd is an etcd. A hung endpoint never delays the next one.
//! - The first definite answer wins. No answer, or an error, is unknown; the caller offers the change again.
//!
//! Whose etcd it is, is checked twice: all endpoints must belong to one etcd cluster, and the value must be this
//! pair's. Absent on purpose: leases, locks and watches; a decision on a read; trust in any clock.

mod endpoint;
mod error;
mod message;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use ureq::Agent;

use super::value::{self, PairId};
use super::{Arbiter, ArbiterError, Swap};
use crate::arbitration::Record;

use endpoint::{Endpoint, Job, Pin, Report, Worker};
use message::{Answer, Request};

pub use endpoint::Login;
pub use error::{EtcdError, Trouble};
pub use tls::TlsFiles;

/// Silence of one endpoint after which the next is asked as well. Above the 99th percentile of a healthy etcd.
pub const HEDGE: Duration = Duration::from_millis(75);
/// Time of one try.
pub const TRY: Duration = Duration::from_millis(250);
/// Longest time of one try.
pub const TRY_MAX: Duration = Duration::from_secs(2);
/// Tries before they become longer. While a cluster elects a leader, what was handed to the old one is lost, and only a
/// new try finds the new one.
const SAME_TRIES: u32 = 4;
/// Most endpoints that a configuration may name. A cluster of etcd has up to seven members.
pub const ENDPOINTS_MAX: usize = 9;

/// What the back end needs to know.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `http://` or `https://`, host and port, without a path; 1 to [`ENDPOINTS_MAX`].
    pub endpoints: Vec<String>,
    pub cluster: String,
    pub volume: String,
    pub pair: PairId,
    pub tls: TlsFiles,
    pub login: Option<Login>,
}

/// Why the back end cannot be started.
#[derive(Debug)]
pub enum EtcdSetupError {
    /// A file of the configuration cannot be used.
    File { path: PathBuf, why: String },
    /// No thread to be had.
    Thread(io::Error),
}

impl std::fmt::Display for EtcdSetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, why } => write!(f, "cannot use {}: {why}", path.display()),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for EtcdSetupError {}

/// The back end.
pub struct EtcdArbiter {
    key: String,
    pair: PairId,
    workers: Vec<Worker>,
    reports: Receiver<Report>,
    /// The endpoint that answered last.
    preferred: usize,
    round: u64,
    /// Rounds without an answer, in a row.
    misses: u32,
}

impl EtcdArbiter {
    /// Reads the files and starts a thread for each endpoint. etcd need not be there yet.
    pub fn open(config: &EtcdConfig) -> Result<Self, EtcdSetupError> {
        assert!(
            (1..=ENDPOINTS_MAX).contains(&config.endpoints.len()),
            "the configuration checks the endpoints"
        );
        let key = format!("/twinlun/{}/{}", config.cluster, config.volume);
        let tls = config.tls.load()?;
        let (tell, reports) = unbounded();
        let pin = Pin::default();
        let start = |(place, url): (usize, &String)| {
            let endpoint = Endpoint {
                url: url.trim_end_matches('/').to_owned(),
                key: key.clone(),
                agent: agent(tls.clone()),
                login: config.login.clone(),
                pin: pin.clone(),
                token: None,
                trusted: false,
            };
            Worker::start(place, endpoint, tell.clone()).map_err(EtcdSetupError::Thread)
        };
        let workers = config.endpoints.iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { key, pair: config.pair, workers, reports, preferred: 0, round: 0, misses: 0 })
    }

    /// Asks until one endpoint gives a definite answer, for one try.
    fn ask(&mut self, request: &Request) -> Result<(usize, Answer), ArbiterError> {
        self.round += 1;
        let began = Instant::now();
        let until = began + self.patience();
        let mut waiting: Vec<usize> =
            (0..self.workers.len()).filter(|place| *place != self.preferred).collect();
        waiting.insert(0, self.preferred);
        waiting.reverse();
        let mut running = 0;
        let mut worst: Option<(usize, Trouble)> = None;
        let mut next = began;
        loop {
            let now = Instant::now();
            if now >= next || running == 0 {
                match waiting.pop() {
                    Some(place) => {
                        let job = Job { round: self.round, request: request.clone(), until };
                        if self.workers[place].ask(job) {
                            running += 1;
                            next = now + HEDGE;
                        } else {
                            keep_worse(&mut worst, place, Trouble::Busy);
                        }
                        continue;
                    }
                    None if running == 0 => break,
                    None => next = until,
                }
            }
            let report = match self.reports.recv_deadline(next.min(until)) {
                Ok(report) => report,
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => continue,
                Err(_) => {
                    keep_worse(&mut worst, self.preferred, Trouble::NoAnswer);
                    break;
                }
            };
            if report.round != self.round {
                continue;
            }
            running -= 1;
            match report.result {
                Ok(answer) => {
                    self.preferred = report.endpoint;
                    self.misses = 0;
                    return Ok((report.endpoint, answer));
                }
                Err(trouble) => {
                    keep_worse(&mut worst, report.endpoint, trouble);
                    next = Instant::now();
                }
            }
        }
        self.misses += 1;
        let (place, trouble) = worst.unwrap_or((self.preferred, Trouble::NoAnswer));
        // Another one first, next time: this one may hang where the others do not.
        self.preferred = (self.preferred + 1) % self.workers.len();
        Err(self.error(place, trouble))
    }

    /// How long this try may take.
    fn patience(&self) -> Duration {
        let whole = (TRY * (self.misses / SAME_TRIES + 1).min(64)).min(TRY_MAX);
        // Two nodes that lost etcd together should not come back to it in step.
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        whole * 7 / 8 + (whole / 4).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    fn error(&self, place: usize, trouble: Trouble) -> ArbiterError {
        ArbiterError::Etcd(EtcdError { endpoint: self.workers[place].url.clone(), trouble })
    }

    fn decode(&self, place: usize, bytes: Option<&[u8]>) -> Result<Option<Record>, ArbiterError> {
        let record = bytes.map(|bytes| value::decode(self.pair, bytes)).transpose();
        record.map_err(|error| self.error(place, Trouble::Value { key: self.key.clone(), error }))
    }

    fn swap(&mut self, expected: Option<Record>, proposed: Record) -> Result<Swap, ArbiterError> {
        let text = |record: &Record| value::encode(self.pair, record).into_bytes();
        let mut request = Request::Swap { expected: expected.as_ref().map(text), proposed: text(&proposed) };
        // Twice: where another release has written the expected record in other words, its words are the guard.
        for _ in 0..2 {
            let (place, answer) = self.ask(&request)?;
            let Answer::Value(bytes) = answer else { return Ok(Swap::Committed) };
            let current = self.decode(place, bytes.as_deref())?;
            if current == Some(proposed) {
                return Ok(Swap::Committed);
            }
            if current != expected {
                return Ok(Swap::Conflict(current));
            }
            if let Request::Swap { expected, .. } = &mut request {
                *expected = bytes;
            }
        }
        Err(self.error(self.preferred, Trouble::NoAnswer))
    }
}

fn keep_worse(worst: &mut Option<(usize, Trouble)>, place: usize, trouble: Trouble) {
    if worst.as_ref().is_none_or(|(_, known)| known.rank() <= trouble.rank()) {
        *worst = Some((place, trouble));
    }
}

fn agent(tls: Option<ureq::tls::TlsConfig>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("twinlun/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(16 << 10)
        .max_idle_connections(1)
        .max_idle_connections_per_host(1);
    match tls {
        Some(tls) => config.tls_config(tls).build().into(),
        None => config.build().into(),
    }
}

impl Arbiter for EtcdArbiter {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
        let (place, answer) = self.ask(&Request::Read)?;
        match answer {
            Answer::Value(bytes) => self.decode(place, bytes.as_deref()),
            Answer::Put => unreachable!("nothing was put"),
        }
    }

    fn compare_and_swap(&mut self, expected: Option<Record>, proposed: Record) -> Swap {
        self.swap(expected, proposed).unwrap_or_else(Swap::Unknown)
    }
}
