//! What two nodes are to each other when they meet: who leads, who follows, and what is to be copied.
//!
//! A pure function of the two [`PeerState`]s. Each side computes it for itself from the same pair; the results must
//! mirror each other, which a test holds for random pairs. First match wins, as in DRBD's handshake table:
//!
//! | generations | meaning |
//! |---|---|
//! | equal | the same history; what differs is in the bitmaps (crash, or a resync whose end was missed) |
//! | my current = your base, or a generation of yours since | you went on from my data: copy by bitmap to me |
//! | my current in your history | you went on, but your bitmap counts from later: copy everything to me |
//! | a common ancestor only | both went on: split brain, a person decides |
//! | nothing in common | another volume's data |

use core::fmt;

use crate::arbitration::Epoch;
use crate::units::NodeId;

use super::control::{Copy, PeerState};

/// One node's place in the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Relation {
    /// Both in sync, nobody serves.
    Idle,
    Lead(Copy),
    Follow(Copy),
}

/// Why two nodes cannot work together as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Discord {
    /// The volumes' sizes or divisions differ.
    Geometry,
    /// Neither copy has data: one must be chosen (`promote --seed`).
    NoData,
    /// This node serves although the other has taken over: it must stop.
    Superseded,
    /// The other node serves although this one has taken over: it will stop.
    PeerSuperseded,
    /// Both wrote in different histories.
    SplitBrain,
    /// The copies never were of one volume.
    Unrelated,
    /// Each copy is the unfinished target of a resync.
    BothInconsistent,
}

impl fmt::Display for Discord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Geometry => {
                "the two nodes' volumes differ in size, block size or lanes; nothing was copied. Set volume.size in \
                 the configuration to what both disks have room for, then twinlun init the node without data again"
            }
            Self::NoData => {
                "neither node has data yet. Run 'twinlun promote --seed' on the node whose disk is to be the first copy"
            }
            Self::Superseded => "the other node has taken over; this node stops serving and will be resynchronised",
            Self::PeerSuperseded => "the other node still serves an older state; it is told to stop",
            Self::SplitBrain => {
                "split brain: both nodes took writes in different histories; nothing was copied. Decide which node's \
                 newer writes to give up and run 'twinlun connect --discard-my-data' there"
            }
            Self::Unrelated => {
                "the other node's data has no common history with this node's; nothing was copied. If it may be \
                 overwritten, run 'twinlun connect --discard-my-data' there"
            }
            Self::BothInconsistent => {
                "both copies are unfinished resync targets; neither can be the source. Restore from a backup, or force \
                 the better one with 'twinlun promote --force --i-have-fenced NODE'"
            }
        })
    }
}

impl core::error::Error for Discord {}

/// Whose data is ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lineage {
    Same,
    MineAhead(Copy),
    TheirsAhead(Copy),
}

/// Decides from my point of view. `decide(a, b)` mirrors `decide(b, a)`.
pub fn decide(mine: &PeerState, theirs: &PeerState) -> Result<Relation, Discord> {
    assert_ne!(mine.node, theirs.node, "the handshake tells the nodes apart");
    if mine.geometry != theirs.geometry {
        return Err(Discord::Geometry);
    }
    if mine.primary && theirs.primary {
        // One of them was replaced without knowing it.
        let older = (mine.record.epoch, mine.node) < (theirs.record.epoch, theirs.node);
        return Err(if older { Discord::Superseded } else { Discord::PeerSuperseded });
    }
    // The record was changed without the node that serves: it was replaced.
    if mine.primary && theirs.record.epoch > mine.record.epoch {
        return Err(Discord::Superseded);
    }
    if theirs.primary && mine.record.epoch > theirs.record.epoch {
        return Err(Discord::PeerSuperseded);
    }
    if let Some(relation) = by_order(mine, theirs) {
        return Ok(relation);
    }
    match lineage(mine, theirs)? {
        Lineage::Same => same_history(mine, theirs),
        Lineage::MineAhead(_) if theirs.primary => Err(Discord::PeerSuperseded),
        Lineage::MineAhead(copy) => Ok(Relation::Lead(copy)),
        Lineage::TheirsAhead(_) if mine.primary => Err(Discord::Superseded),
        Lineage::TheirsAhead(copy) => Ok(Relation::Follow(copy)),
    }
}

/// Does a copy hold nothing that can be built on? Formatted and never synchronised; or formatted as equal
/// (`init --assume-clean`) while the pair has long been at work: a replaced disk says the same as the disk that it
/// replaced once said, so its word counts only as long as nobody has served.
fn is_blank(node: &PeerState, other: &PeerState) -> bool {
    node.flags.just_created || (node.record.epoch == Epoch(0) && other.record.epoch > Epoch(0))
}

/// The operator's word that one side's data may go. A node that serves never gives its data up this way, and a copy
/// that is not whole is never the one to keep.
fn by_order(mine: &PeerState, theirs: &PeerState) -> Option<Relation> {
    // The target of an unfinished full copy has nothing left to keep, whatever it once was.
    let junk = |node: &PeerState| node.flags.sync_target && node.flags.full_sync;
    let gives_up = |node: &PeerState| !node.primary && (node.discard || junk(node));
    let whole = |node: &PeerState| !node.flags.sync_target && !node.flags.just_created;
    match (gives_up(mine), gives_up(theirs)) {
        (true, false) if whole(theirs) => Some(Relation::Follow(Copy::Everything)),
        (false, true) if whole(mine) => Some(Relation::Lead(Copy::Everything)),
        _ => None,
    }
}

fn lineage(mine: &PeerState, theirs: &PeerState) -> Result<Lineage, Discord> {
    match (is_blank(mine, theirs), is_blank(theirs, mine)) {
        (true, true) => return Err(Discord::NoData),
        (true, false) => return ahead(theirs, Lineage::TheirsAhead(Copy::Everything)),
        (false, true) => return ahead(mine, Lineage::MineAhead(Copy::Everything)),
        (false, false) => {}
    }
    let (m, t) = (&mine.generations, &theirs.generations);
    if m.current == t.current {
        return match (mine.flags.sync_target, theirs.flags.sync_target) {
            (true, true) => Err(Discord::BothInconsistent),
            (true, false) => Ok(Lineage::TheirsAhead(copy_for(mine))),
            (false, true) => Ok(Lineage::MineAhead(copy_for(theirs))),
            (false, false) => Ok(Lineage::Same),
        };
    }
    match (t.covers(m.current), m.covers(t.current)) {
        // Each says that it went on from the other's data. No history leads there, so no copy may win.
        (true, true) => return Err(Discord::SplitBrain),
        (true, false) => return ahead(theirs, Lineage::TheirsAhead(copy_for(mine))),
        (false, true) => return ahead(mine, Lineage::MineAhead(copy_for(theirs))),
        (false, false) => {}
    }
    match (m.knows(t.current), t.knows(m.current)) {
        (true, false) => ahead(mine, Lineage::MineAhead(Copy::Everything)),
        (false, true) => ahead(theirs, Lineage::TheirsAhead(Copy::Everything)),
        (true, true) => Err(Discord::SplitBrain),
        (false, false) if t.knows(m.base) || m.history.iter().any(|&past| t.knows(past)) => {
            Err(Discord::SplitBrain)
        }
        (false, false) => Err(Discord::Unrelated),
    }
}

/// A copy that is ahead can be the source only if it is whole.
fn ahead(source: &PeerState, lineage: Lineage) -> Result<Lineage, Discord> {
    if source.flags.sync_target { Err(Discord::BothInconsistent) } else { Ok(lineage) }
}

fn copy_for(target: &PeerState) -> Copy {
    if target.flags.full_sync { Copy::Everything } else { Copy::Bitmap }
}

/// Equal generations: the same history up to what the bitmaps mark. Equal generations never justify dropping bits.
fn same_history(mine: &PeerState, theirs: &PeerState) -> Result<Relation, Discord> {
    let differ = mine.dirty_blocks > 0 || theirs.dirty_blocks > 0 || mine.suspect || theirs.suspect;
    if mine.primary {
        let missing = !mine.record.in_sync.contains(theirs.node);
        return Ok(Relation::Lead(if differ || missing { Copy::Bitmap } else { Copy::Nothing }));
    }
    if theirs.primary {
        let missing = !theirs.record.in_sync.contains(mine.node);
        return Ok(Relation::Follow(if differ || missing { Copy::Bitmap } else { Copy::Nothing }));
    }
    if !differ {
        return Ok(Relation::Idle);
    }
    Ok(if i_am_source(mine, theirs) { Relation::Lead(Copy::Bitmap) } else { Relation::Follow(Copy::Bitmap) })
}

/// Neither serves and the same history ended in a crash: whose version of the doubtful blocks counts? Any answer is
/// right for writes that were never acknowledged; a copy that may have lost acknowledged ones with its cache must not
/// win over one that did not.
fn i_am_source(mine: &PeerState, theirs: &PeerState) -> bool {
    if mine.suspect != theirs.suspect {
        return theirs.suspect;
    }
    let newer = if mine.record.epoch >= theirs.record.epoch { &mine.record } else { &theirs.record };
    match (mine.suspect, newer.in_sync.contains(mine.node), newer.in_sync.contains(theirs.node)) {
        (_, true, false) => return true,
        (_, false, true) => return false,
        _ => {}
    }
    let clean = (mine.dirty_blocks == 0, theirs.dirty_blocks == 0);
    match (mine.suspect, clean) {
        // Nobody lost a cache: the survivor of the other's crash.
        (false, (true, false)) => true,
        (false, (false, true)) => false,
        // Both crashed: the one that served last.
        _ => newer.primary.unwrap_or(NodeId(0)) == mine.node,
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
