//! What the two nodes say to each other.
//!
//! # Links and sessions
//!
//! Node 0 connects, node 1 listens, on the replication network only. A *session* is one control link (shard 0 to
//! shard 0) and one data link for each pair of shards that share a lane: lane `l` travels between shard
//! `l mod shards` of one node and shard `l mod shards` of the other. All links of a session live and die together, so
//! there is no state "half connected" to reason about; a new session gets a new identifier.
//!
//! # Establishment
//!
//! Each link opens with the handshake drawn in [`handshake`](crate::replication::handshake): both ends prove that they
//! know the pre-shared secret (HMAC-SHA-256 over both nonces and everything else that was said), agree on a version,
//! and check that they serve the same volume. Until then only short handshake frames are read and no buffer is held.
//!
//! The secret authenticates; it does not encrypt. Frames carry CRC32C, not a MAC. Use a dedicated network, or an
//! encrypted tunnel.
//!
//! # Frames
//!
//! A 64-byte header with a CRC32C of its own, then at most 64 KiB of payload with another: see
//! [`frame`](crate::replication::frame) for the bytes. Every frame carries the sender's *epoch*; a frame of an older
//! epoch is refused and ends the session (S3).
//!
//! | frame | from | answered by | when |
//! |---|---|---|---|
//! | Write | primary | WriteAck | the secondary's device completed it |
//! | Flush | primary | FlushAck | the secondary's device is flushed; covers every write acknowledged before |
//! | Confirm | primary | ConfirmAck | at once, as long as the sender still leads: lets reads be answered (S1) |
//! | Bitmap | sync source | Bitmap… (last) | the target's out-of-sync runs of a lane |
//! | ResyncData | sync source | ResyncAck | the target's device completed it |
//! | ForwardRead, ForwardWrite, ForwardOrder | secondary | ForwardData, ForwardAck | an initiator at the secondary asks |
//! | Control | both | – | see below |
//!
//! Frames of one data link are handled in order; writes that overlap are applied in that order (D5). Acknowledgements
//! may overtake each other.
//!
//! # Meeting
//!
//! After the handshake each coordinator sends its [`State`](crate::replication::control::PeerState): generations, the
//! newest arbiter record it knows, disk flags. Both compute the same pure function
//! [`decide`](crate::replication::decision::decide) of the two and come to mirrored results: who leads, who follows,
//! and whether nothing, the bitmap's blocks or everything is copied. If the histories contradict each other, nothing is
//! copied and both say what a person has to decide.
//!
//! Then `Lead` → `Following` → (resync) → `SyncDone` → `SyncDoneAck`. The follower counts as in sync only after the
//! arbiter's record says so.
//!
//! # The unit state
//!
//! What the logical unit remembers of its initiators is one value of at most 28 KiB, with a version, whole in every message
//! that carries it. `Lead` brings the leader's, which always takes the place of the follower's (a leader whose disk lost
//! it brings none, and is given the follower's); `Following` says that it
//! is durable there and that every shard judges by it. Then, for each change: `Unit` → `UnitAdopted`, with the same
//! meaning. The leader answers a change only after that, or alone by the record. A change that a session at the follower
//! asks for travels as `UnitChange` → `UnitChanged`, one at a time; `Refused` means that it was not carried out.
//!
//! [`Notice`](crate::replication::control::Notice) is for the other node's operator and decides nothing: the hash of the
//! configuration file, and how far a resync is.
//!
//! Where reads are leased, the leader sends `LeaseAsk` every 100 ms, with what its clock says and its epoch; the follower
//! promises and sends that back in a `LeaseGrant`. The handshake refuses a peer that answers reads in another way.
//!
//! # Forwarding
//!
//! Where initiators are at both nodes (ALUA), the leader says `Serving` once all its shards lead; from then on the
//! follower carries what its initiators ask for to the leader, by the data link of the lane, and the answers back. The
//! leader orders, mirrors and confirms a forwarded request like one of its own. `volume::forward` tells what happens to
//! those under way when the leader changes.
//!
//! # Resync
//!
//! The source adds the target's bits to its own (what a crashed primary wrote last, or what was written apart, is out
//! of sync whoever wrote it), walks them in order, and copies run after run while initiators go on. A run excludes
//! overlapping writes while it is copied, so resync never overwrites newer data. Both nodes clear a bit only after the
//! target's device was flushed.
//!
//! # The end of a session
//!
//! Any error, silence for `peer_timeout`, or a refused frame ends all links. The primary holds its initiators' writes
//! and follows the order of [`failover`](super::failover) before it goes on alone.
