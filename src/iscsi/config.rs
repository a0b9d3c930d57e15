//! What every connection of a target shares: names, portals, limits, the logical units.

use alloc::string::String;
use alloc::vec::Vec;

use crate::scsi::Target;
use crate::time::Duration;

/// Bounds of one session, and what it offers in the login. Every one is enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Commands in flight (CmdSN window), 1..=192.
    pub window: u16,
    /// Immediate SCSI commands in flight beyond the window, 1..=32; more are rejected (RFC 7143 §4.2.2.1).
    pub immediate: u16,
    /// Data buffers a session holds for reads and for data it asked for with R2T, at least 1. One buffer for each
    /// command's first burst comes on top, so a session never holds more than `buffers + window + immediate`.
    pub buffers: u16,
    /// Own MaxRecvDataSegmentLength, 512..=2²⁴−1 bytes.
    pub max_recv_data_segment: u32,
    /// 512..=2²⁴−1 bytes.
    pub max_burst: u32,
    /// 512..=65536 bytes: a first burst fits in one buffer.
    pub first_burst: u32,
    /// InitialR2T=Yes asks that no unsolicited Data-Out is sent.
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// From accept to full feature phase.
    pub login_timeout: Duration,
    /// Silence after which the target pings; `None`: never.
    pub ping_interval: Option<Duration>,
    /// Silence after a ping that ends the connection.
    pub ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 128,
            immediate: 16,
            buffers: 128,
            max_recv_data_segment: 262_144,
            max_burst: 1 << 20,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            login_timeout: Duration::from_secs(15),
            ping_interval: Some(Duration::from_secs(15)),
            ping_timeout: Duration::from_secs(15),
        }
    }
}

impl Limits {
    /// # Panics
    /// When a limit is out of its range.
    pub(super) fn check(&self) {
        assert!((1..=192).contains(&self.window), "the window is 1..=192 commands");
        assert!((1..=32).contains(&self.immediate), "there are 1..=32 immediate commands");
        assert!(self.buffers > 0, "a session needs a buffer");
        let lengths = 512..=0xFF_FFFF;
        assert!(lengths.contains(&self.max_recv_data_segment), "MaxRecvDataSegmentLength");
        assert!(lengths.contains(&self.max_burst), "MaxBurstLength");
        assert!((512..=65_536).contains(&self.first_burst), "FirstBurstLength");
    }
}

/// A target: one iSCSI name with its logical units.
#[derive(Debug)]
pub struct TargetConfig {
    /// iSCSI name of the target.
    pub name: String,
    /// TargetAlias; empty: none is declared.
    pub alias: String,
    /// Addresses that SendTargets returns, `ip:port` (`[ip6]:port`). Empty: the address the connection came in by.
    pub portals: Vec<String>,
    pub portal_group_tag: u16,
    /// `false`: logins are refused with "service unavailable" (0301h), so that the initiator tries again.
    pub serving: bool,
    pub limits: Limits,
    /// The logical units. A nexus is made for every normal session.
    pub scsi: Target,
}
