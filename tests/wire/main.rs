//! Exact byte conversations with the real target over real sockets: an engine in this process, and a client that sends
//! and checks PDUs byte by byte.
//!
//! What each test is named after stands in the reviewer's checklist of the target; `lines` says for every line which
//! test shows it, here or elsewhere, or why none does.

#[path = "../support/mod.rs"]
mod support;

mod checklist;
mod client;
mod commands;
mod hostile;
mod lines;
mod login;
mod reservations;
mod sessions;
mod windows;

use std::net::SocketAddr;
use std::sync::Arc;

use support::{Disk, PATIENCE};
use twinlun::engine::{Engine, EngineEvent, Tuning};
use twinlun::iscsi::TargetConfig;

/// A target on a fresh disk of 32 MiB.
struct Target {
    engine: Engine,
    address: SocketAddr,
    disk: Disk,
}

impl Target {
    fn new(shards: u8) -> Self {
        Self::with(shards, |_| ())
    }

    /// With a configuration of its own.
    fn with(shards: u8, change: impl FnOnce(&mut TargetConfig)) -> Self {
        Self::at("127.0.0.1:0", shards, change)
    }

    fn at(portal: &str, shards: u8, change: impl FnOnce(&mut TargetConfig)) -> Self {
        let disk = Disk::new(32 << 20);
        disk.format(0, false);
        Self::on(disk, portal, shards, change)
    }

    fn on(disk: Disk, portal: &str, shards: u8, change: impl FnOnce(&mut TargetConfig)) -> Self {
        let mut plan = disk.plan(shards, None, Tuning::default());
        plan.portals = vec![portal.parse().expect("an address")];
        change(Arc::get_mut(&mut plan.target).expect("not shared yet"));
        let engine = Engine::start(plan).expect("the engine starts");
        loop {
            let event = engine.events().recv_timeout(PATIENCE).expect("the engine says what it does");
            if let EngineEvent::Serving { addresses } = event {
                return Self { engine, address: addresses[0], disk };
            }
        }
    }

    /// Another engine on the same disk.
    fn restart(self, shards: u8) -> Self {
        self.engine.stop();
        Self::on(self.disk, "127.0.0.1:0", shards, |_| ())
    }

    fn stop(self) {
        self.engine.stop();
    }
}
