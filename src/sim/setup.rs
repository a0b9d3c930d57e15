//! What one seed is like: sizes, speeds, and which faults may come. Every seed switches kinds on and off and draws
//! extremes ("swarm testing"): a run in which everything may happen finds less than many in which little does.

use crate::arbitration::Reads;
use crate::arbitration::lease::DRIFT_PER_MILLE;
use crate::storage::Layout;
use crate::time::Duration;
use crate::volume::mutant::{Mutant, Mutants};

use super::node::Clock;
use super::rng::Rng;

const MILLISECOND: u64 = 1_000_000;

/// What the command line says of a run.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub seed: u64,
    /// Shards of the nodes; in a quarter of the seeds the second node has another count.
    pub shards: u8,
    pub mutants: Mutants,
    pub trace: bool,
}

/// How often each kind of fault comes, in parts of a thousand of all faults.
#[derive(Clone, Copy, Default, Debug)]
pub struct Weights {
    pub crash: u64,
    pub power_cut: u64,
    pub power_cut_both: u64,
    pub link_cut: u64,
    pub half_open: u64,
    pub stall: u64,
    pub pause: u64,
    pub slow_disk: u64,
    pub disk_error: u64,
    pub arbiter_outage: u64,
    pub operator: u64,
}

/// How the volume begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beginning {
    /// Both copies are declared equal.
    AssumeClean,
    /// Fresh disks; one is chosen, the other gets everything.
    Seed,
}

/// See the module. Times are nanoseconds.
#[derive(Clone, Debug)]
pub struct Setup {
    pub shards: [u8; 2],
    pub layout: Layout,
    pub beginning: Beginning,
    pub volatile: [bool; 2],
    pub hot_extents_per_lane: usize,
    pub resync_buffers: usize,
    pub peer_timeout: Duration,
    pub hold_limit: Option<Duration>,
    /// Initiators are at both nodes (ALUA), and the one that does not lead forwards.
    pub standby_serves: bool,
    /// How reads are answered; and the nodes' clocks. Those that leases rest on never stand still.
    pub reads: Reads,
    pub clocks: [Clock; 2],
    pub clocks_freeze: bool,
    pub disk_latency: (u64, u64),
    pub link_latency: (u64, u64),
    pub mesh_latency: (u64, u64),
    pub arbiter_latency: (u64, u64),
    /// Parts of a thousand of the arbiter's answers that get lost, and of reads that are stale.
    pub arbiter_lossy: u64,
    pub arbiter_stale: u64,
    pub clients: usize,
    /// So many of them only read: nothing that hangs keeps them from asking on.
    pub readers: usize,
    /// Commands of the whole run.
    pub commands: u64,
    pub depth: u64,
    pub think: (u64, u64),
    pub idle_per_mille: u64,
    pub reads_per_mille: u64,
    pub flushes_per_mille: u64,
    pub fua_per_mille: u64,
    /// Of the writes, so many are zeroes, and so many read first and keep everybody out from then on.
    pub zeroes_per_mille: u64,
    pub updates_per_mille: u64,
    pub largest: u64,
    /// Of the initiators' turns, so many begin with a change of the unit state.
    pub unit_changes_per_mille: u64,
    /// `(first block, blocks)` of the regions that the clients work on.
    pub hot_spots: Vec<(u64, u64)>,
    pub faults: u64,
    pub fault_gap: (u64, u64),
    pub restart_delay: (u64, u64),
    pub weights: Weights,
    /// The operator forces a promotion although nobody was fenced.
    pub lies: bool,
    pub mutants: Mutants,
}

impl Setup {
    pub fn draw(choice: &Choice, rng: &mut Rng) -> Self {
        let other =
            *rng.pick(&[choice.shards, choice.shards, choice.shards, *rng.clone().pick(&[1, 2, 3, 5])]);
        let shards = if rng.coin() { [choice.shards, other] } else { [other, choice.shards] };
        let lanes = rng.range(u64::from(shards[0].max(shards[1])), 8) as u16;
        let layout = draw_layout(lanes, rng);
        let has_cache = rng.below(4);
        let fast = (20_000, rng.range(30_000, 300_000));
        let slow = (500_000, 5 * MILLISECOND);
        let busy = rng.per_mille(700);
        let hold_limit = *rng.clone().pick(&[None, Some(45_000), Some(45_000), Some(1500), Some(150)]);
        let reads = if rng.per_mille(400) { Reads::Lease } else { Reads::Confirm };
        let clocks = [(); 2].map(|()| draw_clock(rng));
        let clocks_freeze = reads == Reads::Confirm && rng.coin();
        let beginning = if rng.per_mille(80) { Beginning::Seed } else { Beginning::AssumeClean };
        Self {
            shards,
            beginning,
            volatile: [has_cache != 0, has_cache > 1],
            hot_extents_per_lane: rng.range(1, 3) as usize,
            resync_buffers: rng.range(1, 4) as usize,
            peer_timeout: Duration::from_millis(*rng.pick(&[80, 200, 500])),
            hold_limit: hold_limit.map(Duration::from_millis),
            standby_serves: rng.per_mille(400),
            reads,
            clocks,
            clocks_freeze: clocks_freeze || choice.mutants.has(Mutant::FrozenClock),
            disk_latency: if rng.per_mille(150) { slow } else { fast },
            link_latency: *rng.pick(&[
                (5_000, 20_000),
                (20_000, 200_000),
                (100_000, 150_000),
                (1_000, 3_000_000),
            ]),
            mesh_latency: *rng.pick(&[(500, 1_000), (500, 50_000), (1_000, 1_000_000)]),
            arbiter_latency: *rng.pick(&[(100_000, 500_000), (MILLISECOND, 20 * MILLISECOND)]),
            arbiter_lossy: *rng.pick(&[0, 0, 100, 400]),
            arbiter_stale: *rng.pick(&[0, 0, 200]),
            clients: rng.range(2, 5) as usize,
            readers: rng.range(1, 3) as usize,
            commands: rng.range(40, 260),
            depth: *rng.pick(&[1, 2, 4, 8, 16]),
            think: if busy { (1_000, 200_000) } else { (100_000, 20 * MILLISECOND) },
            idle_per_mille: *rng.pick(&[0, 10, 50]),
            reads_per_mille: *rng.pick(&[100, 300, 500, 700]),
            flushes_per_mille: *rng.pick(&[0, 30, 100, 200]),
            fua_per_mille: *rng.pick(&[0, 100, 500]),
            zeroes_per_mille: *rng.pick(&[0, 100, 100, 400]),
            updates_per_mille: *rng.pick(&[0, 100, 100, 400]),
            largest: *rng.pick(&[4, 16, 64, 64, 300]),
            unit_changes_per_mille: *rng.pick(&[0, 20, 100, 400]),
            hot_spots: draw_hot_spots(&layout, rng),
            layout,
            faults: rng.range(0, 8),
            fault_gap: *rng.pick(&[
                (100_000, 3 * MILLISECOND),
                (MILLISECOND, 50 * MILLISECOND),
                (10 * MILLISECOND, 600 * MILLISECOND),
            ]),
            restart_delay: *rng.pick(&[
                (100_000, 2 * MILLISECOND),
                (MILLISECOND, 100 * MILLISECOND),
                (50 * MILLISECOND, 1500 * MILLISECOND),
            ]),
            weights: draw_weights(rng),
            lies: rng.per_mille(15),
            mutants: choice.mutants,
        }
    }
}

/// As far apart as leases bear.
fn draw_clock(rng: &mut Rng) -> Clock {
    let rate = *rng.pick(&[1000, 1000, 1000 + DRIFT_PER_MILLE / 2, 1000 + DRIFT_PER_MILLE]);
    Clock { begin: rng.range(0, 1 << 40), rate, frozen: 0, stopped: None }
}

fn draw_layout(lanes: u16, rng: &mut Rng) -> Layout {
    let pages = rng.range(4 * 1024, 7 * 1024);
    let pages = if rng.coin() { pages & !1023 } else { pages };
    let bytes = (pages * 4096).max(16 << 20);
    let block_shift = if rng.per_mille(150) { 12 } else { 9 };
    Layout::internal_sized(64 << 20, bytes, block_shift, lanes).expect("the device has room for the volume")
}

fn draw_hot_spots(layout: &Layout, rng: &mut Rng) -> Vec<(u64, u64)> {
    let geometry = layout.geometry;
    let extents = u64::from(geometry.extents());
    let per_extent = (4 << 20) >> geometry.block_shift;
    (0..rng.range(1, 4))
        .map(|_| {
            let width = *rng.pick(&[8, 32, 128, 600]);
            // Some cross an extent's edge, so that commands fall to two lanes.
            let start = if rng.per_mille(400) && extents > 1 {
                rng.range(1, extents - 1) * per_extent - width / 2
            } else {
                rng.below(extents) * per_extent + rng.below(per_extent / 2)
            };
            (start.min(geometry.blocks - width), width)
        })
        .collect()
}

fn draw_weights(rng: &mut Rng) -> Weights {
    let mut weight = |heavy: u64| if rng.per_mille(550) { rng.range(1, heavy) } else { 0 };
    Weights {
        crash: weight(300),
        power_cut: weight(300),
        power_cut_both: weight(150),
        link_cut: weight(300),
        half_open: weight(400),
        stall: weight(200),
        pause: weight(150),
        slow_disk: weight(80),
        disk_error: weight(30),
        arbiter_outage: weight(120),
        operator: weight(300),
    }
}
