//! The replication link: what two nodes say to each other, as bytes and as states.

pub mod confirm;
pub mod conflict_set;
pub mod control;
pub mod decision;
pub mod flush_group;
pub mod frame;
pub mod handshake;
pub mod receiver;
