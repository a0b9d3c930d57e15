//! How much one session may have, and how much all of them together.

use crate::time::Duration;

/// Bounds of one session, and what it offers in the login. Every one is enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Commands in flight (CmdSN window), 1..=192.
    pub window: u16,
    /// Immediate SCSI commands in flight beyond the window, 1..=32; more are rejected (RFC 7143 §4.2.2.1).
    pub immediate: u16,
    /// Data buffers a session holds for reads and for data it asked for with R2T, at least 1. One buffer for each
    /// command's first burst comes on top, so a session never holds more than `buffers + window + immediate`. A command
    /// that compares or combines needs all of its data at once: with fewer than its longest transfer has it is refused.
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
    /// Refuse None where the initiator offers it beside CRC32C.
    pub require_header_digest: bool,
    pub require_data_digest: bool,
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
            buffers: 160,
            max_recv_data_segment: 262_144,
            max_burst: 1 << 20,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            require_header_digest: false,
            require_data_digest: false,
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

/// Bounds over all connections. Every one is enforced by whoever accepts connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Connections that have not logged in.
    pub half_open: u16,
    /// The same, from one address.
    pub half_open_per_source: u16,
    /// Sessions, those for discovery included.
    pub sessions: u16,
    /// Normal sessions of one initiator name.
    pub sessions_per_initiator: u16,
}

impl Default for Caps {
    fn default() -> Self {
        Self { half_open: 64, half_open_per_source: 16, sessions: 128, sessions_per_initiator: 32 }
    }
}
