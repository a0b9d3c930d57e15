//! `blast`: a lean iSCSI initiator that measures and checks a target.
//!
//! It shares no protocol code with the target of this package, on purpose: two readings of RFC 7143 find each
//! other's mistakes. One thread drives one or more sessions over plain sockets. All commands that can start leave
//! in one send(), all answers that have arrived are taken by one recv(); so the initiator costs about a microsecond
//! an I/O and the target is what is measured.
//!
//! - `blast load` drives one access pattern for a while and prints rates, latencies and CPU time.
//! - `blast verify` writes stamped blocks, survives the loss of the target, and reads everything back.
//! - `blast check` walks a target through login, discovery, transfers of all shapes, and errors.
//!
//! Every command prints one JSON line on stdout. Exit status: 0 all well, 1 the target did wrong, 2 usage,
//! 3 the target could not be reached.
//!
//! Absent: error recovery above level 0, more than one connection in a session, authentication.

mod check;
mod cpu;
mod error;
mod histogram;
mod ledger;
mod load;
mod login;
mod pdu;
mod random;
mod scsi;
mod session;
mod stamp;
mod transfer;
mod verify;

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::login::Offer;

/// The initiator name used unless another is given.
const INITIATOR_NAME: &str = "iqn.2026-11.example:blast";

#[derive(Parser)]
#[command(name = "blast", about = "A lean iSCSI initiator that measures and checks a target")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Drive one access pattern and print rates, latencies and CPU time
    Load(load::LoadArgs),
    /// Write stamped blocks through failures of the target, then read all of them back
    Verify(verify::VerifyArgs),
    /// Walk the target through login, discovery, transfers of all shapes, and errors
    Check(check::CheckArgs),
}

/// Where the target is and how to log in to it.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// Portal, address:port; give it again for further portals, which are tried in turn
    #[arg(long, required = true)]
    portal: Vec<String>,
    /// Target name
    #[arg(long)]
    iqn: String,
    /// Logical unit number
    #[arg(long, default_value_t = 0)]
    lun: u8,
    /// Initiator name
    #[arg(long, default_value = INITIATOR_NAME)]
    initiator: String,
    /// Pin the initiator's thread to this CPU
    #[arg(long)]
    cpu: Option<usize>,
    /// Offer InitialR2T=Yes: no unsolicited Data-Out
    #[arg(long)]
    initial_r2t: bool,
    /// Offer ImmediateData=No
    #[arg(long)]
    no_immediate: bool,
    /// Offered FirstBurstLength in bytes
    #[arg(long, default_value_t = 262_144)]
    first_burst: u32,
    /// Offered MaxBurstLength in bytes
    #[arg(long, default_value_t = 1_048_576)]
    max_burst: u32,
    /// Own MaxRecvDataSegmentLength in bytes
    #[arg(long, default_value_t = 262_144)]
    max_recv: u32,
    /// Offer CRC32C alone as header and data digest
    #[arg(long)]
    digests: bool,
}

impl TargetArgs {
    /// The addresses of all portals, in the given order.
    fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let mut addresses = Vec::new();
        for portal in &self.portal {
            let found = portal.to_socket_addrs().map_err(|e| format!("portal {portal:?}: {e}"))?;
            addresses.extend(found);
        }
        Ok(addresses)
    }

    /// What session number `index` of this process offers at login. The ISID stays the same for the life of the
    /// process, so a new login replaces the lost session (session reinstatement, RFC 7143 §6.3.5).
    fn offer(&self, index: u16) -> Offer {
        Offer {
            initiator: self.initiator.clone(),
            target: self.iqn.clone(),
            isid: isid(index),
            initial_r2t: self.initial_r2t,
            immediate_data: !self.no_immediate,
            first_burst: self.first_burst.min(self.max_burst),
            max_burst: self.max_burst,
            max_recv: self.max_recv,
            digests: self.digests,
            timeout: Duration::from_secs(5),
        }
    }

    /// Pins the calling thread when `--cpu` was given.
    fn pin(&self) -> Result<(), String> {
        match self.cpu {
            Some(cpu) => cpu::pin(cpu).map_err(|e| format!("cannot pin to CPU {cpu}: {e}")),
            None => Ok(()),
        }
    }
}

/// An ISID of the "random" format (RFC 7143 §11.12.5), different for each process and session index.
fn isid(index: u16) -> [u8; 6] {
    let process = std::process::id().to_be_bytes();
    let index = index.to_be_bytes();
    [0x80, process[1], process[2], process[3], index[0], index[1]]
}

/// Why a command ended without doing its work.
pub enum Failure {
    /// The arguments make no sense for this target.
    Usage(String),
    /// The target cannot be reached, or the connection was lost.
    Unreachable(String),
    /// The target broke the protocol or failed a check.
    Wrong(String),
}

impl From<error::Error> for Failure {
    fn from(error: error::Error) -> Failure {
        match error {
            error::Error::Protocol(_) | error::Error::Status(_) => Failure::Wrong(error.to_string()),
            other => Failure::Unreachable(other.to_string()),
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Load(args) => load::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Check(args) => check::run(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(Failure::Wrong(text)) => complain(&text, 1),
        Err(Failure::Usage(text)) => complain(&text, 2),
        Err(Failure::Unreachable(text)) => complain(&text, 3),
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("blast: {text}");
    ExitCode::from(code)
}
