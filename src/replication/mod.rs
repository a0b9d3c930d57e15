//! The replication link: what two nodes say to each other, as bytes and as states.

pub mod frame;
pub mod handshake;
pub mod receiver;
