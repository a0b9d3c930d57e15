//! The engine: threads pinned to cores, an io_uring each, and the drivers that feed the pure cores with what sockets
//! and disks bring. The only room with `unsafe`, and the only one that knows a descriptor; it knows no protocol field.

pub mod buffers;
pub mod device;
pub mod duplex;
pub mod establish;
pub mod link_driver;
pub mod mesh;
pub mod op_slab;
pub mod plumbing;
pub mod reactor;
pub mod registry;
pub mod ring;
pub mod run;
pub mod shard;
pub mod sockets;
pub mod stream;
pub mod target_driver;
pub mod volume_driver;
pub mod zero;

pub use establish::LinkPlan;
pub use ring::probe;
pub use run::{Engine, EngineError, EngineEvent, EnginePlan, EngineRequest, EngineStatus, Tuning};

#[cfg(test)]
mod tests;
