//! Stability (D2, D4): which acknowledged writes are known to be on stable media of both copies.
//!
//! Every write belongs to the flush group that is open when it is acknowledged. Flushing closes the open group: a
//! flush of the local device and one of the peer's, both begun after the group was closed, make it stable. Writes are
//! therefore acknowledged when the devices *completed* them; no write waits for a flush, and a flush covers all writes
//! before it. (DRBD calls these epochs; here `Epoch` is the ownership term.)

/// The peer answered what it was not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotBegun;

/// Flush groups of one part, numbered from 1.
#[derive(Clone, Hash, Debug)]
pub struct FlushGroups {
    open: u64,
    stable: u64,
    /// Highest group somebody waits for.
    wanted: u64,
    running: Option<Running>,
}

#[derive(Clone, Copy, Hash, Debug)]
struct Running {
    group: u64,
    local: bool,
    peer: bool,
}

impl Default for FlushGroups {
    fn default() -> Self {
        Self { open: 1, stable: 0, wanted: 0, running: None }
    }
}

impl FlushGroups {
    /// The group that a write acknowledged now belongs to.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// Every group up to this one is stable.
    pub fn stable(&self) -> u64 {
        self.stable
    }

    /// Somebody waits until everything acknowledged so far is stable. Returns the group to wait for.
    pub fn want(&mut self) -> u64 {
        self.wanted = self.wanted.max(self.open);
        self.open
    }

    /// If a flush is wanted and none runs, closes the open group and returns its number: flush both devices now.
    pub fn begin(&mut self, with_peer: bool) -> Option<u64> {
        if self.running.is_some() || self.wanted <= self.stable {
            return None;
        }
        let group = self.open;
        self.open += 1;
        self.running = Some(Running { group, local: false, peer: !with_peer });
        Some(group)
    }

    /// The local device is flushed. Returns the group that became stable, if one did.
    pub fn on_local(&mut self) -> Option<u64> {
        let running = self.running.as_mut().expect("a flush was begun");
        assert!(!running.local, "the local flush completes once");
        running.local = true;
        self.finish()
    }

    /// The peer says that `group` is flushed. `Err`: no such flush runs.
    pub fn on_peer(&mut self, group: u64) -> Result<Option<u64>, NotBegun> {
        match self.running.as_mut() {
            Some(running) if running.group == group && !running.peer => {
                running.peer = true;
                Ok(self.finish())
            }
            _ => Err(NotBegun),
        }
    }

    /// The peer is out: its flush is not waited for any more.
    pub fn drop_peer(&mut self) -> Option<u64> {
        let running = self.running.as_mut()?;
        running.peer = true;
        self.finish()
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Is the local device's flush still awaited?
    pub fn is_running_here(&self) -> bool {
        self.running.is_some_and(|running| !running.local)
    }

    /// Is the peer's flush still awaited?
    pub fn waits_for_peer(&self) -> bool {
        self.running.is_some_and(|running| !running.peer)
    }

    fn finish(&mut self) -> Option<u64> {
        let running = self.running?;
        if !(running.local && running.peer) {
            return None;
        }
        self.running = None;
        self.stable = running.group;
        Some(running.group)
    }
}

#[cfg(test)]
mod tests {
    use super::{FlushGroups, NotBegun};

    #[test]
    fn a_group_is_stable_when_both_devices_are_flushed() {
        let mut groups = FlushGroups::default();
        let first = groups.want();
        assert_eq!(groups.begin(true), Some(first));
        assert_eq!(groups.begin(true), None, "one flush at a time");
        let second = groups.want();
        assert_eq!(second, first + 1, "what comes later needs the next flush");
        assert_eq!(groups.on_local(), None);
        assert_eq!(groups.on_peer(second), Err(NotBegun));
        assert_eq!(groups.on_peer(first), Ok(Some(first)));
        assert_eq!(groups.begin(false), Some(second));
        assert_eq!(groups.on_local(), Some(second));
        assert_eq!(groups.begin(true), None, "nobody waits");
    }
}
