//! The engine: threads pinned to cores, an io_uring each, and the drivers that feed the pure cores with what sockets
//! and disks bring. The only room with `unsafe`, and the only one that knows a descriptor; it knows no protocol field.

mod buffers;
pub mod device;
mod duplex;
mod establish;
mod faces;
mod link_driver;
mod mesh;
mod op_slab;
mod plumbing;
mod reactor;
mod registry;
mod ring;
mod run;
mod shard;
mod sockets;
mod stream;
mod target_driver;
mod volume_driver;
mod zero;
mod zeroing;

pub use buffers::{ArenaPlan, Quota};
pub use establish::LinkPlan;
pub use faces::Face;
pub use registry::SessionInfo;
pub use ring::{RingError, probe};
pub use run::{Engine, EngineError, EngineEvent, EnginePlan, EngineRequest, EngineStatus, Tuning};

#[cfg(test)]
mod tests;
