//! twinlun: one disk on two servers. A replicated iSCSI target whose initiators survive the loss of a server.
//!
//! # The house
//!
//! | room | pure | what is in it |
//! |---|---|---|
//! | [`units`], [`time`] | yes | numbers with a unit; an instant as a value |
//! | [`block`] | yes | the request that walks from a SCSI command to the disks |
//! | [`wire`] | yes | bounds-checked readers and writers, CRC32C, serial numbers |
//! | [`scsi`] | yes | commands, sense data, inquiry, the logical unit |
//! | `iscsi` | yes | login, sessions, the command window, data transfer (RFC 7143) |
//! | [`storage`] | yes | superblock, activity log, bitmap: formats and state, no device |
//! | [`arbitration`] | yes | the record `{epoch, primary, in_sync}` and the rules R1 to R15 for changing it |
//! | [`replication`] | yes | what two nodes say to each other: frames, handshake, resync, stability |
//! | [`volume`] | yes | lanes and coordinator: joins all of the above, emits effects |
//! | `sim` | no | the pure rooms in a world of seeded disks, links and crashes |
//! | [`engine`] | no | one thread, one io_uring per shard: sockets, devices, timers, buffers |
//! | [`arbiter`] | no | where the record is kept: etcd, a file, a fence device, a person; one trait |
//! | [`daemon`] | no | configuration, plan, control socket, events |
//! | [`agent`] | no | failover: heartbeats, when to take over, the service addresses |
//! | [`cli`] | no | the `twinlun` command |
//! | [`manual`] | – | the book: disk format, link protocol, failover, operations |
//!
//! **Pure code knows no descriptor, clock or thread; the engine knows no protocol field.** Who may import whom is a
//! table in `tests/tidy.rs`, kept by that test; `scripts/check-pure` compiles the pure rooms as a `no_std` crate.
//! `unsafe` lives in the engine only.
//!
//! # One contract for every core
//!
//! `on_<input>(now, input, &mut Outbox)` and `deadline() -> Option<Instant>`. The outbox is a reused list of effects.
//! One input, drain it, next input. Effects of one outbox may run in any order (sends stay in order per connection); an
//! order that matters is said by waiting for a completion. Cores carry names of buffers, not bytes. The engine and the
//! simulator drive the same cores.
//!
//! # A WRITE, hop by hop
//!
//! 1. *`engine`, then `iscsi::Connection`*: 48 bytes arrive on the connection's shard. The header is checked, the command
//!    window admits its CmdSN.
//! 2. *`iscsi`*: immediate and unsolicited data, then R2T and Data-Out, land in aligned buffers of at most
//!    [`CHUNK_BYTES`](units::CHUNK_BYTES).
//! 3. *[`scsi::Target`]*: the CDB is decoded, the range checked, unit attentions delivered.
//! 4. *[`units::Geometry::pieces`]* cuts the range at extent and chunk edges; each piece is a
//!    [`block::BlockRequest`] for the shard that owns its lane: a direct call, or a message over `engine::mesh`.
//! 5. *[`volume`], `primary.rs` and `lane.rs`*: an overlapping request in flight is waited for; a cold extent waits for
//!    its activity log page to be durable.
//! 6. The local write and the link frame leave in one submission, from the same memory.
//! 7. *Peer, [`volume`], `follower.rs`*: the frame's CRCs, epoch and lane are checked; its own extent is hot, its device
//!    completes the write, and [`WriteAck`](replication::frame::FrameKind::WriteAck) goes back.
//! 8. Both back, in either order: the request is complete. Link lost: the request waits until the coordinator has gone
//!    through D3 (flush, compare-and-swap, new generation), and is complete then. Local device lost: the node steps down
//!    without answering, and the peer serves.
//! 9. *`iscsi`*: when all pieces are done, the response with StatSN, ExpCmdSN and MaxCmdSN; the buffers go home.
//!
//! A READ takes hops 1 to 5, then the local disk and, beside it, the peer's confirmation that this node still leads.
//!
//! # Reading order
//!
//! [`units`] → `volume/lane.rs` → `volume/primary.rs` → `volume/coordinator` → `iscsi/connection.rs` →
//! `engine/shard.rs` → `sim`.

#![cfg_attr(not(test), warn(unused))]

extern crate alloc;

pub mod agent;
pub mod arbiter;
pub mod arbitration;
pub mod block;
pub mod cli;
pub mod daemon;
pub mod engine;
pub mod iscsi;
pub mod manual;
pub mod replication;
pub mod scsi;
pub mod sim;
pub mod storage;
pub mod time;
pub mod units;
pub mod volume;
pub mod wire;
