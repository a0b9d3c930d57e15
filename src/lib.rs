//! twinlun: one disk on two servers.

#![cfg_attr(not(test), warn(unused))]

extern crate alloc;

pub mod arbitration;
pub mod block;
pub mod cli;
pub mod daemon;
pub mod engine;
pub mod iscsi;
pub mod replication;
pub mod scsi;
pub mod storage;
pub mod time;
pub mod units;
pub mod volume;
pub mod wire;
