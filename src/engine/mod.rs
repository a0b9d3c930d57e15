//! The engine: threads pinned to cores, an io_uring each, and the drivers that feed the pure cores with what sockets
//! and disks bring. The only room with `unsafe`, and the only one that knows a descriptor; it knows no protocol field.

pub mod buffers;
pub mod device;
pub mod mesh;
pub mod op_slab;
pub mod reactor;
pub mod ring;
pub mod stream;

pub use ring::probe;

#[cfg(test)]
mod tests;
