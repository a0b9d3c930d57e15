//! The failover agent: watches the peer and the own engine, asks the engine to take over or to hand over, and keeps the
//! service addresses where the service is.
//!
//! It has no power over data. The engine wins rights by its own compare-and-swap; without the agent it neither holds a
//! write longer nor serves a read less. The agent owns what cannot be checked against an epoch: addresses, ARP and
//! neighbour advertisements, and the packets that make initiators reconnect at once.
//!
//! [`message`], [`packet`], [`detector`], [`reach`], `failback` and [`decision`] are pure: bytes and values in, effects out. The rest is sockets, threads
//! and the kernel. Absent on purpose: any knowledge of blocks, and any `unsafe`.

pub mod addresses;
pub mod decision;
pub mod detector;
pub mod effect;
pub mod engine;
mod failback;
pub mod heartbeat;
pub mod interface;
mod leftover;
pub mod message;
pub mod packet;
pub mod reach;
pub mod run;
