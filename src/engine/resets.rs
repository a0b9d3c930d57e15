//! Resets under way: who asked, and whose quiet is still waited for, here and on other shards.

use super::plumbing::ConnNo;
use crate::iscsi::ResetId;
use crate::units::ShardId;

/// See the module.
pub struct Resets {
    shards: u8,
    next: u32,
    /// Asked for by this shard's initiators.
    asked: Vec<Asked>,
    /// Told to this shard's sessions, with the number of those that are not quiet.
    told: Vec<(ResetId, u32)>,
}

struct Asked {
    number: u32,
    connection: ConnNo,
    ticket: u32,
    /// Shards that are not quiet.
    left: u8,
}

impl Resets {
    pub fn new(shards: u8) -> Self {
        Self { shards, next: 0, asked: Vec::new(), told: Vec::new() }
    }

    /// An initiator of this shard asks, and every shard is to be told.
    pub fn begin(&mut self, shard: ShardId, connection: ConnNo, ticket: u32) -> ResetId {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.asked.push(Asked { number, connection, ticket, left: self.shards });
        ResetId { shard, number }
    }

    /// One more of this shard will say that it is quiet.
    pub fn expect(&mut self, id: ResetId) {
        match self.told.iter_mut().find(|(told, _)| *told == id) {
            Some((_, left)) => *left += 1,
            None => self.told.push((id, 1)),
        }
    }

    /// One of this shard is quiet. True: all are.
    pub fn quiet(&mut self, id: ResetId) -> bool {
        let at = self.told.iter().position(|(told, _)| *told == id).expect("who is quiet was told to be");
        self.told[at].1 -= 1;
        let all = self.told[at].1 == 0;
        if all {
            self.told.swap_remove(at);
        }
        all
    }

    /// A shard is quiet. When all are: the connection that asked, and its ticket. `None` also when it is gone.
    pub fn shard_quiet(&mut self, id: ResetId) -> Option<(ConnNo, u32)> {
        let at = self.asked.iter().position(|asked| asked.number == id.number)?;
        self.asked[at].left -= 1;
        if self.asked[at].left > 0 {
            return None;
        }
        let Asked { connection, ticket, .. } = self.asked.swap_remove(at);
        Some((connection, ticket))
    }

    /// The connection is gone: nobody waits for its resets.
    pub fn forget(&mut self, connection: ConnNo) {
        self.asked.retain(|asked| asked.connection != connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_all_shards_are_waited_for() {
        let mut resets = Resets::new(2);
        let id = resets.begin(ShardId(0), ConnNo(3), 7);
        let other = resets.begin(ShardId(0), ConnNo(4), 7);
        resets.expect(id);
        resets.expect(id);
        resets.expect(other);
        assert!(!resets.quiet(id) && resets.quiet(other) && resets.quiet(id));
        assert_eq!(resets.shard_quiet(id), None);
        assert_eq!(resets.shard_quiet(id), Some((ConnNo(3), 7)));
        resets.forget(ConnNo(4));
        assert_eq!((resets.shard_quiet(other), resets.shard_quiet(other)), (None, None));
    }
}
