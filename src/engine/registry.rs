//! Shard 0's list of the initiators' connections: their numbers, which session each carries, and where it is served.
//!
//! A new session of the same initiator port and portal group takes the older one's place (RFC 7143 §6.3.5): it is held
//! back until every older one is gone, so that no command of theirs can follow one of its own.

use std::net::SocketAddr;

use super::plumbing::ConnNo;
use super::run::SessionInfo;
use crate::iscsi::NexusName;
use crate::time::Instant;
use crate::units::ShardId;

/// Most connections of initiators at one time.
pub const CONNECTIONS_MAX: usize = 512;

pub struct Registry {
    entries: Vec<Option<Entry>>,
    /// Sessions on each shard.
    load: Vec<u32>,
    next_order: u64,
}

struct Entry {
    /// The initiator's end.
    peer: SocketAddr,
    /// Where the connection is served.
    shard: ShardId,
    session: Option<SessionEntry>,
}

struct SessionEntry {
    nexus: NexusName,
    /// Rises with every session; tells older from newer.
    order: u64,
    /// Since when it is served.
    admitted: Option<Instant>,
}

impl Registry {
    pub fn new(shards: u8) -> Self {
        Self { entries: Vec::new(), load: vec![0; usize::from(shards)], next_order: 0 }
    }

    /// A number for a connection that shard 0 has accepted; `None` when there are [`CONNECTIONS_MAX`].
    pub fn connect(&mut self, peer: SocketAddr) -> Option<ConnNo> {
        let number = match self.entries.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.entries.len() < CONNECTIONS_MAX => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => return None,
        };
        self.entries[number] = Some(Entry { peer, shard: ShardId(0), session: None });
        Some(ConnNo(number as u32))
    }

    /// A login is agreed. Appends the connections that must go first to `older`; when there is none, the session may be
    /// admitted at once.
    pub fn enter(&mut self, number: ConnNo, nexus: NexusName, older: &mut Vec<(ConnNo, ShardId)>) {
        for (other, entry) in self.entries.iter().enumerate() {
            let Some(Entry { shard, session: Some(session), .. }) = entry else { continue };
            if session.nexus == nexus {
                older.push((ConnNo(other as u32), *shard));
            }
        }
        let order = self.next_order;
        self.next_order += 1;
        let entry = self.entries[number.0 as usize].as_mut().expect("the connection has a number");
        assert!(entry.session.is_none(), "a connection logs in once");
        entry.session = Some(SessionEntry { nexus, order, admitted: None });
    }

    /// Admits the session and chooses its shard: the one with the fewest.
    pub fn admit(&mut self, number: ConnNo, now: Instant) -> ShardId {
        let (shard, _) =
            self.load.iter().enumerate().min_by_key(|(_, load)| **load).expect("there is a shard");
        self.load[shard] += 1;
        let entry = self.entries[number.0 as usize].as_mut().expect("the connection has a number");
        let session = entry.session.as_mut().expect("the connection has logged in");
        assert!(session.admitted.is_none(), "a session is admitted once");
        session.admitted = Some(now);
        entry.shard = ShardId(shard as u8);
        entry.shard
    }

    /// The connection is gone. Returns a session that waited for that and may now be admitted.
    pub fn gone(&mut self, number: ConnNo) -> Option<ConnNo> {
        let entry = self.entries[number.0 as usize].take().expect("a connection goes once");
        let session = entry.session?;
        if session.admitted.is_some() {
            self.load[usize::from(entry.shard.0)] -= 1;
        }
        let same = || {
            self.entries.iter().enumerate().filter_map(|(number, entry)| {
                let candidate = entry.as_ref()?.session.as_ref()?;
                (candidate.nexus == session.nexus).then_some((number, candidate))
            })
        };
        // Only the oldest that is left may be waiting for nothing more.
        let (number, oldest) = same().min_by_key(|(_, candidate)| candidate.order)?;
        oldest.admitted.is_none().then_some(ConnNo(number as u32))
    }

    /// Connections that exist.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Sessions that are admitted, the oldest first.
    pub fn sessions(&self, now: Instant) -> Vec<SessionInfo> {
        let mut sessions: Vec<_> = self
            .entries
            .iter()
            .flatten()
            .filter_map(|entry| {
                let session = entry.session.as_ref()?;
                let since = session.admitted?;
                let initiator = session.nexus.initiator.to_string();
                Some((session.order, SessionInfo { initiator, address: entry.peer, age: now.since(since) }))
            })
            .collect();
        sessions.sort_by_key(|(order, _)| *order);
        sessions.into_iter().map(|(_, session)| session).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::InitiatorName;

    fn peer() -> SocketAddr {
        "192.0.2.9:40000".parse().expect("an address")
    }

    const NOW: Instant = Instant(5_000_000_000);

    fn nexus(isid: u8) -> NexusName {
        let initiator = InitiatorName::new("iqn.2026-11.example:host").expect("a good name");
        NexusName { initiator, isid: [0x80, 0, 0, 0, 0, isid], portal_group_tag: 1 }
    }

    #[test]
    fn sessions_spread_and_numbers_return() {
        let mut registry = Registry::new(2);
        let shards: Vec<_> = (0..4)
            .map(|isid| {
                let number = registry.connect(peer()).expect("room");
                registry.enter(number, nexus(isid), &mut Vec::new());
                registry.admit(number, NOW)
            })
            .collect();
        assert_eq!(shards, [ShardId(0), ShardId(1), ShardId(0), ShardId(1)]);
        assert_eq!(registry.gone(ConnNo(1)), None);
        assert_eq!(registry.connect(peer()), Some(ConnNo(1)));
        registry.enter(ConnNo(1), nexus(9), &mut Vec::new());
        assert_eq!(registry.admit(ConnNo(1), NOW), ShardId(1));
        let sessions = registry.sessions(Instant(7_000_000_000));
        assert_eq!(sessions.len(), 4);
        assert_eq!(sessions[3].initiator, "iqn.2026-11.example:host");
        assert_eq!((sessions[3].address, sessions[3].age.as_secs()), (peer(), 2));
        let left = CONNECTIONS_MAX - registry.connections();
        assert_eq!((0..).map_while(|_: u32| registry.connect(peer())).count(), left);
    }

    #[test]
    fn a_new_session_waits_for_every_older_one_of_its_port() {
        let mut registry = Registry::new(1);
        let (a, b, c) = (registry.connect(peer()), registry.connect(peer()), registry.connect(peer()));
        let (a, b, c) = (a.expect("room"), b.expect("room"), c.expect("room"));
        let mut older = Vec::new();
        registry.enter(a, nexus(1), &mut older);
        assert!(older.is_empty());
        registry.admit(a, NOW);
        registry.enter(b, nexus(1), &mut older);
        assert_eq!(older, [(a, ShardId(0))]);
        older.clear();
        registry.enter(c, nexus(1), &mut older);
        assert_eq!(older, [(a, ShardId(0)), (b, ShardId(0))]);
        // The middle one goes first: the last still waits for the first.
        assert_eq!(registry.gone(b), None);
        assert_eq!(registry.gone(a), Some(c));
        registry.admit(c, NOW);
        assert_eq!(registry.gone(c), None);
        assert_eq!(registry.sessions(NOW), []);
    }
}
