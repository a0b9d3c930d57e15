//! What must never be untrue. Code, tests and the simulator's checkers cite these by name.
//!
//! # Durability
//!
//! - **D1** A WRITE is answered GOOD only when the local device and the peer's device both completed it (protocol C), or
//!   when the other copy is out by a *committed* change of state (D3). One failed copy of two is not an error to the
//!   initiator.
//! - **D2** SYNCHRONIZE CACHE and FUA mean stable on **both** disks.
//! - **D3** When a peer is lost, before the first write that it may lack is answered: the own cache is flushed, the
//!   arbiter has durably recorded that this node alone is in sync (a successful compare-and-swap, never a read), and a
//!   new generation identifier is durable on the own disk. Until then writes are held, not failed.
//! - **D4** If a block differs between the two disks, then at every instant a durable bitmap bit or a hot activity log
//!   extent on at least one node covers it. Activity log first, data second; a write leaves its extent only when it is
//!   *stable* on the peer, not merely acknowledged; bitmap pages before the extent turns cold that needs them; a resync
//!   bit is durably cleared only after the target's data is flushed. Equal generation identifiers never justify dropping
//!   bits.
//! - **D5** Overlapping writes reach both disks in the same order. Resync never overwrites newer data.
//! - **D6** The bytes sent are the bytes written: buffers are private, and owned by the ring until the completion.
//! - **D7** A read never returns data that a failover could take back (a write that is not yet on both disks).
//!
//! # Safety
//!
//! - **S1** At any instant at most one node answers. Writes are fenced by replication itself: while both nodes are in
//!   sync, an answer needs the peer's acknowledgement of the same epoch. Reads are confirmed: one round trip to the peer,
//!   begun after the read arrived, and no clock is trusted; or, on bare metal by choice, covered by a lease on
//!   `CLOCK_BOOTTIME`. The check stands next to the answer, for each command.
//! - **S2** No node serves unless it is in the in-sync set of the newest committed epoch. A node that comes back alone
//!   after a long absence refuses, and says why.
//! - **S3** Frames of an older epoch are refused.
//! - **S4** What an initiator sees (IQN, LUN, NAA, serial, vendor, product, port identifiers) is identical on both nodes
//!   and survives takeover. Losing the role drops TCP; it never shows the initiator an I/O error.
//!
//! # The unit state
//!
//! What the logical unit remembers of its initiators: persistent reservations, saved parameters, resets.
//!
//! - **U1** A change that was answered is never lost: every node that the record counts in sync holds it durably.
//! - **U2** What arrives at either node after a change was answered is judged by that state or a newer one, or not
//!   answered.
//! - **U3** While both nodes are in sync, both hold a change durably before it is answered.
//!
//! # Resources
//!
//! - **Q1** Every queue, pool, table and loop has a named limit; full means back-pressure. No allocation, lock, log
//!   formatting, dynamic dispatch or extra system call for an I/O on the hot path.
//! - **Q2** Bad input from any socket, disk or file gives a typed error sorted by blame; never a panic, never unbounded
//!   memory.
