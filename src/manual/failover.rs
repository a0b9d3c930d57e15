//! Who may serve.
//!
//! # The record
//!
//! One small record, `{epoch, primary, in_sync}`, is kept outside both nodes by the *arbiter* and changed only by
//! compare-and-swap. `in_sync` names the nodes whose copies hold every acknowledged write. A node may serve only if it
//! is in the `in_sync` set of the newest record that was committed (S2). Reading the record gives no right: rights
//! grow only by one's own successful compare-and-swap. The arbiter is asked when `in_sync` or `primary` changes, never
//! for an I/O.
//!
//! | kind | for |
//! |---|---|
//! | `file` | two nodes on one machine: tests and the demo. Both must see the same local file. |
//! | `manual` | no third machine: when the peer is lost the primary holds its writes until a person decides |
//!
//! # A peer is lost
//!
//! Writes that are not on both disks are held, not failed. Then, in this order (D3):
//!
//! 1. all disk operations of the old posture have finished, and the own device is flushed;
//! 2. the arbiter has committed `{epoch + 1, me, {me}}`;
//! 3. a new generation identifier is durable on the own disk;
//! 4. the held writes are answered, and every further one marks its blocks out of sync.
//!
//! If step 2 finds that the other node was faster, this node stops serving. Its clients lose their TCP connection and
//! find the other node; they never see an I/O error (S4).
//!
//! # Why two nodes never serve
//!
//! - *Writes:* while both copies are in sync, a write is answered only after the peer acknowledged it in the same
//!   epoch. A peer that took over acknowledges nothing of an older epoch, so the old primary cannot answer.
//! - *Reads:* answered only after the peer confirmed, in a round trip begun after the read arrived, that it still
//!   follows. No clock is trusted, so a paused virtual machine that wakes up hours later answers nothing.
//! - *Alone:* only after its own committed record excluded the other copy, which therefore may not be promoted.
//!
//! The checks stand next to each answer. A node whose other parts died stops serving by itself.
//!
//! # Taking over
//!
//! `twinlun promote` on the surviving node drops the link, lets all disk operations finish, reads the record, and
//! commits itself as primary. It is refused (exit code 4) if this copy is not in the record's `in_sync`, because then
//! it may lack acknowledged writes. `twinlun promote --force --i-have-fenced NODE` is the only way round, is logged, and
//! destroys data if NODE is in fact alive.
//!
//! Initiators reach the volume at a service address. Whoever promotes moves that address to the new primary and
//! announces it (gratuitous ARP); the new owner has no such TCP connection and answers the next segment with a reset,
//! which is what makes initiators log in again at once.
//!
//! # Coming back
//!
//! A node that was lost and returns finds a newer record and generation at its peer, follows, and is resynchronised: the
//! blocks written meanwhile, and those that were in flight when it died (its activity log knows them). When everything
//! is copied and flushed, the primary commits `in_sync = {both}`.
//!
//! A node that comes back *alone* with a record that does not name it refuses to serve and says why.
//!
//! # Split brain
//!
//! With an arbiter it does not happen. With `--force` it can: both copies then have generations of their own, the nodes
//! refuse to copy anything, and `twinlun connect --discard-my-data` on the node whose writes may go
//! (after `twinlun demote`, if it serves), then `twinlun connect` on the other, settles it. `twinlun status` on either
//! node names both commands.
