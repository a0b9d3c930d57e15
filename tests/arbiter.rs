//! The arbiter's back ends against one list of demands, and etcd against real servers that are killed, stopped,
//! restored from backups and filled up.
//!
//! Tests that need etcd-server are ignored unless asked for: `cargo test --test arbiter -- --ignored etcd`. Those that need a
//! Pacemaker cluster are run inside one by `scripts/drills-pacemaker`.

#[path = "arbiter/conformance.rs"]
mod conformance;
#[path = "arbiter/etcd.rs"]
mod etcd;
#[path = "arbiter/etcd_server.rs"]
mod etcd_server;
#[path = "arbiter/fence.rs"]
mod fence;
#[path = "arbiter/pacemaker.rs"]
mod pacemaker;

use twinlun::arbiter::{Arbiter, FileArbiter, ManualArbiter};

#[test]
fn the_file_back_end_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    let number = std::sync::atomic::AtomicU32::new(0);
    let fresh = || {
        let name = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let path = dir.path().join(name);
        Box::new(move || Box::new(FileArbiter::new(&path)) as Box<dyn Arbiter>) as conformance::Open
    };
    conformance::decides(&fresh);
}

#[test]
fn the_manual_back_end_conforms() {
    conformance::never_decides(&|| Box::new(|| Box::new(ManualArbiter) as Box<dyn Arbiter>));
}
