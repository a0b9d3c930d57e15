//! Shard 0's list of the initiators' connections: their numbers, which session each carries, and where it is served.
//!
//! A new session of the same initiator port and portal group takes the older one's place (RFC 7143 §6.3.5): it is held
//! back until every older one is gone, so that no command of theirs can follow one of its own. A login with the TSIH of
//! a live session takes the place of its connection (§6.3.4) in the same way and keeps the TSIH.
//!
//! Everything here is bounded by [`Caps`], and what an initiator may have before it has logged in most of all.

use std::net::SocketAddr;
use std::time::Duration;

use super::plumbing::ConnNo;
use crate::iscsi::{Caps, LoginStatus, NexusName};
use crate::time::Instant;
use crate::units::ShardId;

/// A session of an initiator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// The initiator's iSCSI name.
    pub initiator: String,
    pub address: SocketAddr,
    /// How long it has been served.
    pub age: Duration,
}

/// Most connections of initiators at one time.
pub const CONNECTIONS_MAX: usize = 512;

pub struct Registry {
    caps: Caps,
    entries: Vec<Option<Entry>>,
    /// Sessions on each shard.
    load: Vec<u32>,
    next_order: u64,
    last_tsih: u16,
}

struct Entry {
    /// The initiator's end.
    peer: SocketAddr,
    /// Where the connection is served.
    shard: ShardId,
    session: SessionKind,
}

enum SessionKind {
    /// Not logged in.
    None,
    Discovery {
        tsih: u16,
    },
    Normal(SessionEntry),
}

struct SessionEntry {
    nexus: NexusName,
    tsih: u16,
    cid: u16,
    /// Rises with every session; tells older from newer.
    order: u64,
    /// Since when it is served.
    admitted: Option<Instant>,
}

/// What a login asks for.
pub struct Entrant {
    pub nexus: NexusName,
    /// 0: a new session.
    pub tsih: u16,
    pub cid: u16,
    pub discovery: bool,
}

impl Registry {
    pub fn new(caps: Caps, shards: u8) -> Self {
        let load = vec![0; usize::from(shards)];
        Self { caps, entries: Vec::new(), load, next_order: 0, last_tsih: 0 }
    }

    /// A number for a connection that shard 0 has accepted; `None` when there are too many that have not logged in, or
    /// [`CONNECTIONS_MAX`] in all.
    pub fn connect(&mut self, peer: SocketAddr) -> Option<ConnNo> {
        let half_open =
            || self.entries.iter().flatten().filter(|entry| matches!(entry.session, SessionKind::None));
        if half_open().count() >= usize::from(self.caps.half_open)
            || half_open().filter(|entry| entry.peer.ip() == peer.ip()).count()
                >= usize::from(self.caps.half_open_per_source)
        {
            return None;
        }
        let number = match self.entries.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.entries.len() < CONNECTIONS_MAX => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => return None,
        };
        self.entries[number] = Some(Entry { peer, shard: ShardId(0), session: SessionKind::None });
        Some(ConnNo(number as u32))
    }

    /// A login is agreed. Appends the connections that must go first to `older`; when there is none, the session may be
    /// admitted at once.
    ///
    /// # Errors
    /// What the initiator is told instead.
    pub fn enter(
        &mut self,
        number: ConnNo,
        entrant: Entrant,
        older: &mut Vec<(ConnNo, ShardId)>,
    ) -> Result<(), LoginStatus> {
        let Entrant { nexus, tsih, cid, discovery } = entrant;
        if discovery {
            if tsih != 0 {
                return Err(LoginStatus::SessionDoesNotExist);
            }
            self.room_for(None, 0)?;
            let tsih = self.new_tsih();
            self.entry(number).session = SessionKind::Discovery { tsih };
            return Ok(());
        }
        let begun = older.len();
        for (other, entry) in self.entries.iter().enumerate() {
            let Some(Entry { shard, session: SessionKind::Normal(session), .. }) = entry else { continue };
            if session.nexus == nexus {
                older.push((ConnNo(other as u32), *shard));
            }
        }
        let checked = self.check_tsih(&nexus, tsih, cid).and_then(|()| {
            let replaced = older.len() - begun;
            self.room_for(Some(&nexus), replaced)
        });
        if let Err(status) = checked {
            older.truncate(begun);
            return Err(status);
        }
        let tsih = if tsih == 0 { self.new_tsih() } else { tsih };
        let order = self.next_order;
        self.next_order += 1;
        let entry = self.entry(number);
        assert!(matches!(entry.session, SessionKind::None), "a connection logs in once");
        entry.session = SessionKind::Normal(SessionEntry { nexus, tsih, cid, order, admitted: None });
        Ok(())
    }

    /// Is the session that a login means there, and with this connection?
    fn check_tsih(&self, nexus: &NexusName, tsih: u16, cid: u16) -> Result<(), LoginStatus> {
        if tsih == 0 {
            return Ok(());
        }
        let live = self.normal().find(|session| session.nexus == *nexus && session.tsih == tsih);
        match live {
            None => Err(LoginStatus::SessionDoesNotExist),
            Some(session) if session.cid != cid => Err(LoginStatus::TooManyConnections),
            Some(_) => Ok(()),
        }
    }

    /// May there be one more session, when `replaced` others go?
    fn room_for(&self, nexus: Option<&NexusName>, replaced: usize) -> Result<(), LoginStatus> {
        let all = self.entries.iter().flatten().filter(|entry| !matches!(entry.session, SessionKind::None));
        let full = all.count() >= usize::from(self.caps.sessions) + replaced;
        let own = nexus.is_some_and(|nexus| {
            let same = self.normal().filter(|session| session.nexus.initiator == nexus.initiator);
            same.count() >= usize::from(self.caps.sessions_per_initiator) + replaced
        });
        if full || own { Err(LoginStatus::OutOfResources) } else { Ok(()) }
    }

    fn normal(&self) -> impl Iterator<Item = &SessionEntry> {
        self.entries.iter().flatten().filter_map(|entry| match &entry.session {
            SessionKind::Normal(session) => Some(session),
            _ => None,
        })
    }

    /// Not 0, and of no live session.
    fn new_tsih(&mut self) -> u16 {
        loop {
            self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
            let tsih = self.last_tsih;
            let used = self.entries.iter().flatten().any(|entry| match &entry.session {
                SessionKind::None => false,
                SessionKind::Discovery { tsih: other } => *other == tsih,
                SessionKind::Normal(session) => session.tsih == tsih,
            });
            if !used {
                return tsih;
            }
        }
    }

    fn entry(&mut self, number: ConnNo) -> &mut Entry {
        self.entries[number.0 as usize].as_mut().expect("the connection has a number")
    }

    /// Admits the session and chooses its shard: the one with the fewest. A discovery session stays where it is.
    pub fn admit(&mut self, number: ConnNo, now: Instant) -> (ShardId, u16) {
        let loads = self.load.iter().enumerate();
        let (shard, _) = loads.min_by_key(|(_, load)| **load).expect("there is a shard");
        let entry = self.entries[number.0 as usize].as_mut().expect("the connection has a number");
        match &mut entry.session {
            SessionKind::None => panic!("the connection has logged in"),
            SessionKind::Discovery { tsih } => (entry.shard, *tsih),
            SessionKind::Normal(session) => {
                assert!(session.admitted.is_none(), "a session is admitted once");
                session.admitted = Some(now);
                self.load[shard] += 1;
                entry.shard = ShardId(shard as u8);
                (entry.shard, session.tsih)
            }
        }
    }

    /// The connection is gone. Returns a session that waited for that and may now be admitted.
    pub fn gone(&mut self, number: ConnNo) -> Option<ConnNo> {
        let entry = self.entries[number.0 as usize].take().expect("a connection goes once");
        let SessionKind::Normal(session) = entry.session else { return None };
        if session.admitted.is_some() {
            self.load[usize::from(entry.shard.0)] -= 1;
        }
        let same = || {
            self.entries.iter().enumerate().filter_map(|(number, entry)| match &entry.as_ref()?.session {
                SessionKind::Normal(candidate) if candidate.nexus == session.nexus => {
                    Some((number, candidate))
                }
                _ => None,
            })
        };
        // Only the oldest that is left may be waiting for nothing more.
        let (number, oldest) = same().min_by_key(|(_, candidate)| candidate.order)?;
        oldest.admitted.is_none().then_some(ConnNo(number as u32))
    }

    /// Is there a session of this initiator port at this portal group, admitted or about to be?
    pub fn has_session(&self, initiator: &str, isid: Option<[u8; 6]>, portal_group_tag: u16) -> bool {
        self.normal().any(|SessionEntry { nexus, .. }| {
            nexus.initiator.as_str() == initiator
                && isid.is_none_or(|isid| isid == nexus.isid)
                && nexus.portal_group_tag == portal_group_tag
        })
    }

    /// Connections that exist.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Sessions that are admitted, the oldest first; those for discovery are not among them.
    pub fn sessions(&self, now: Instant) -> Vec<SessionInfo> {
        let mut sessions: Vec<_> = self
            .entries
            .iter()
            .flatten()
            .filter_map(|entry| {
                let SessionKind::Normal(session) = &entry.session else { return None };
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

    const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 40000);
    const NOW: Instant = Instant(5_000_000_000);

    fn wide() -> Caps {
        Caps { half_open: 1000, half_open_per_source: 1000, sessions: 1000, sessions_per_initiator: 1000 }
    }

    fn entrant(isid: u8, tsih: u16, cid: u16) -> Entrant {
        let initiator = InitiatorName::new("iqn.2026-11.example:host").expect("a good name");
        let nexus = NexusName { initiator, isid: [0x80, 0, 0, 0, 0, isid], portal_group_tag: 1 };
        Entrant { nexus, tsih, cid, discovery: false }
    }

    fn connected(registry: &mut Registry) -> ConnNo {
        registry.connect(HERE).expect("room")
    }

    /// A session that nothing stands in the way of.
    fn admitted(registry: &mut Registry, isid: u8) -> (ConnNo, ShardId, u16) {
        let number = connected(registry);
        registry.enter(number, entrant(isid, 0, 1), &mut Vec::new()).expect("entered");
        let (shard, tsih) = registry.admit(number, NOW);
        (number, shard, tsih)
    }

    #[test]
    fn sessions_spread_and_numbers_return() {
        let mut registry = Registry::new(wide(), 2);
        let shards: Vec<_> = (0..4).map(|isid| admitted(&mut registry, isid).1).collect();
        assert_eq!(shards, [ShardId(0), ShardId(1), ShardId(0), ShardId(1)]);
        assert_eq!(registry.gone(ConnNo(1)), None);
        assert_eq!(registry.connect(HERE), Some(ConnNo(1)));
        registry.enter(ConnNo(1), entrant(9, 0, 1), &mut Vec::new()).expect("entered");
        assert_eq!(registry.admit(ConnNo(1), NOW).0, ShardId(1));
        let sessions = registry.sessions(Instant(7_000_000_000));
        assert_eq!(sessions.len(), 4);
        assert_eq!(sessions[3].initiator, "iqn.2026-11.example:host");
        assert_eq!((sessions[3].address, sessions[3].age.as_secs()), (HERE, 2));
        let left = CONNECTIONS_MAX - registry.connections();
        assert_eq!((0..).map_while(|_: u32| registry.connect(HERE)).count(), left);
    }

    #[test]
    fn a_new_session_waits_for_every_older_one_of_its_port() {
        let mut registry = Registry::new(wide(), 1);
        let (a, _, tsih) = admitted(&mut registry, 1);
        let (b, c) = (connected(&mut registry), connected(&mut registry));
        let mut older = Vec::new();
        registry.enter(b, entrant(1, 0, 1), &mut older).expect("entered");
        assert_eq!(older, [(a, ShardId(0))]);
        older.clear();
        registry.enter(c, entrant(1, 0, 1), &mut older).expect("entered");
        assert_eq!(older, [(a, ShardId(0)), (b, ShardId(0))]);
        // The middle one goes first: the last still waits for the first.
        assert_eq!(registry.gone(b), None);
        assert_eq!(registry.gone(a), Some(c));
        assert_ne!(registry.admit(c, NOW).1, tsih);
        assert_eq!(registry.gone(c), None);
        assert_eq!(registry.sessions(NOW), []);
    }

    #[test]
    fn a_connection_takes_the_place_of_its_sessions_old_one() {
        let mut registry = Registry::new(wide(), 1);
        let (a, _, tsih) = admitted(&mut registry, 1);
        let mut older = Vec::new();
        let b = connected(&mut registry);
        let mut refused = |isid, tsih, cid| registry.enter(b, entrant(isid, tsih, cid), &mut older);
        assert_eq!(refused(1, tsih + 1, 1), Err(LoginStatus::SessionDoesNotExist));
        assert_eq!(refused(2, tsih, 1), Err(LoginStatus::SessionDoesNotExist));
        assert_eq!(refused(1, tsih, 2), Err(LoginStatus::TooManyConnections));
        assert_eq!(refused(1, tsih, 1), Ok(()));
        assert_eq!(older, [(a, ShardId(0))]);
        assert_eq!(registry.gone(a), Some(b));
        assert_eq!(registry.admit(b, NOW).1, tsih);
    }

    #[test]
    fn what_has_not_logged_in_is_bounded_per_source_and_in_all() {
        let caps = Caps { half_open: 5, half_open_per_source: 3, ..wide() };
        let mut registry = Registry::new(caps, 1);
        let from = |last| SocketAddr::from(([10, 0, 0, last], 9));
        let numbers: Vec<_> = (0..3).map_while(|_| registry.connect(from(1))).collect();
        assert_eq!((numbers.len(), registry.connect(from(1))), (3, None));
        assert!(registry.connect(from(2)).is_some() && registry.connect(from(3)).is_some());
        assert_eq!(registry.connect(from(4)), None);
        // One has logged in: its place is free again.
        registry.enter(numbers[0], entrant(1, 0, 1), &mut Vec::new()).expect("entered");
        assert!(registry.connect(from(1)).is_some());
        assert_eq!(registry.connect(from(1)), None);
    }

    #[test]
    fn sessions_are_bounded_per_initiator_and_in_all() {
        let caps = Caps { sessions: 4, sessions_per_initiator: 2, ..wide() };
        let mut registry = Registry::new(caps, 1);
        admitted(&mut registry, 1);
        admitted(&mut registry, 2);
        let mut older = Vec::new();
        let third = connected(&mut registry);
        assert_eq!(registry.enter(third, entrant(3, 0, 1), &mut older), Err(LoginStatus::OutOfResources));
        // One that takes another's place needs no room.
        assert_eq!(registry.enter(third, entrant(2, 0, 1), &mut older), Ok(()));
        let discovery = || Entrant { discovery: true, ..entrant(0, 0, 1) };
        let d = connected(&mut registry);
        assert_eq!(registry.enter(d, discovery(), &mut older), Ok(()));
        let (shard, tsih) = registry.admit(d, NOW);
        assert!(shard == ShardId(0) && tsih != 0);
        let e = connected(&mut registry);
        assert_eq!(registry.enter(e, discovery(), &mut older), Err(LoginStatus::OutOfResources));
        assert_eq!(registry.gone(d), None);
        assert_eq!(registry.enter(e, discovery(), &mut older), Ok(()));
    }
}
