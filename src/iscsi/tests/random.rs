//! Properties: nothing that an initiator sends makes a connection panic or keep buffers, and every command that is
//! admitted is answered exactly once.

use std::collections::HashMap;

use proptest::prelude::*;

use super::pair::{BLOCKS, Pair, config, pattern, read10, write10};
use crate::block::BlockStatus;
use crate::iscsi::{Limits, TargetConfig};

fn small_limits() -> TargetConfig {
    let mut small = config();
    small.limits = Limits { window: 4, immediate: 2, buffers: 3, initial_r2t: false, ..small.limits };
    small
}

/// Buffers that one of these sessions may hold.
const MOST: usize = 4 + 2 + 3;

/// One thing that happens to a connection.
#[derive(Clone, Debug)]
enum Event {
    Pdu { bhs: [u8; 48], data: usize },
    Raw(Vec<u8>),
    Complete { index: usize, status: BlockStatus },
    Timer(u64),
    Pool(usize),
}

fn any_status() -> impl Strategy<Value = BlockStatus> {
    prop_oneof![
        8 => Just(BlockStatus::Good),
        1 => Just(BlockStatus::MediumError),
        1 => Just(BlockStatus::NotReady),
        1 => Just(BlockStatus::NotServing),
    ]
}

/// A header that makes enough sense to get far.
fn any_bhs() -> impl Strategy<Value = [u8; 48]> {
    let opcode = prop_oneof![
        8 => Just(0x01u8), 6 => Just(0x05), 1 => Just(0x00), 2 => Just(0x42), 1 => Just(0x40),
        1 => Just(0x41), 1 => Just(0x44), 1 => Just(0x06), 1 => any::<u8>(),
    ];
    let flags =
        prop_oneof![3 => Just(0xA0u8), 3 => Just(0xC0), 2 => Just(0x20), 2 => Just(0x80), 2 => any::<u8>()];
    let tag = prop_oneof![8 => 0u32..6, 2 => Just(0xFFFF_FFFF), 1 => 0x1_0000u32..0x1_0004];
    let length = prop_oneof![4 => Just(4096u32), 2 => 0u32..200_000, 1 => any::<u32>()];
    let media = prop_oneof![Just(0x2Eu8), Just(0x2F), Just(0x41), Just(0x42), Just(0x89), Just(0x8B)];
    let cdb = (
        prop_oneof![Just(0x28u8), Just(0x2A), Just(0x12), Just(0x15), Just(0x35), media, any::<u8>()],
        0u16..600,
    );
    (opcode, flags, 0u32..6, tag, length, cdb, 0u32..3, prop_oneof![Just(0u32), Just(512), 0u32..70_000])
        .prop_map(|(opcode, flags, itt, second, length, (command, blocks), sn, offset)| {
            let mut bhs = [0; 48];
            bhs[0] = opcode;
            bhs[1] = flags;
            bhs[16..20].copy_from_slice(&itt.to_be_bytes());
            if opcode & 0x3F == 0x01 {
                bhs[20..24].copy_from_slice(&length.to_be_bytes());
                bhs[32..].copy_from_slice(&read10(u32::from(blocks) * 20, blocks));
                bhs[32] = command;
                // An allocation length, a parameter list length.
                bhs[36] = blocks as u8;
            } else {
                bhs[20..24].copy_from_slice(&second.to_be_bytes());
                bhs[36..40].copy_from_slice(&sn.to_be_bytes());
                bhs[40..44].copy_from_slice(&offset.to_be_bytes());
            }
            bhs
        })
}

fn any_event() -> impl Strategy<Value = Event> {
    let data = prop_oneof![4 => Just(0usize), 3 => Just(4096), 2 => 0usize..70_000];
    prop_oneof![
        12 => (any_bhs(), data).prop_map(|(bhs, data)| Event::Pdu { bhs, data }),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Event::Raw),
        6 => (any::<usize>(), any_status()).prop_map(|(index, status)| Event::Complete { index, status }),
        1 => (0u64..20).prop_map(Event::Timer),
        2 => (0usize..12).prop_map(Event::Pool),
    ]
}

fn happen(pair: &mut Pair, event: Event) {
    match event {
        Event::Pdu { mut bhs, data } => {
            if pair.closed.is_some() {
                return;
            }
            // Mostly the number that is due.
            let live = matches!(bhs[0], 0x00 | 0x01 | 0x06);
            let cmd_sn = pair.sent.back().map_or(pair.cmd_sn, |pdu| pdu.field(28));
            pair.cmd_sn = cmd_sn;
            if bhs[0] != 0x05 && bhs[0] & 0x3F != 0x02 {
                bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
            }
            pair.send(bhs, &vec![0x5A; data]);
            if live && pair.nothing_sent() {
                pair.cmd_sn = cmd_sn.wrapping_add(1);
            }
        }
        Event::Raw(bytes) if pair.closed.is_none() => {
            pair.stream.extend(bytes);
            pair.run();
        }
        Event::Raw(_) => {}
        Event::Complete { index, status } if !pair.pending.is_empty() => {
            let index = index % pair.pending.len();
            pair.complete_at(index, status);
        }
        Event::Complete { .. } => {}
        Event::Timer(seconds) => pair.wait(seconds),
        Event::Pool(capacity) => pair.pool_ready(capacity),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_before_login(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut pair = Pair::new(config());
        pair.stream.extend(bytes);
        pair.run();
        pair.hang_up();
    }

    #[test]
    fn random_text_in_login(flags in any::<u8>(), text in "[A-Za-z0-9=,.: \u{e9}-]{0,300}") {
        let mut pair = Pair::new(config());
        pair.login_pdu(flags, &text);
        pair.hang_up();
    }

    #[test]
    fn hostile_sessions(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut pair = Pair::new(small_limits());
        pair.login("InitialR2T=No MaxRecvDataSegmentLength=4096 MaxBurstLength=65536 FirstBurstLength=16384");
        pair.hear_attention();
        pair.prompt = false;
        pair.pool.capacity = 6;
        for event in events {
            happen(&mut pair, event);
            prop_assert!(pair.pool.taken.len() <= MOST, "{} buffers", pair.pool.taken.len());
        }
        pair.hang_up();
    }

    /// A polite initiator gets one answer for each command, and the data is right, whatever the sizes, the order of
    /// completions and the shortage of buffers.
    #[test]
    fn every_command_is_answered_once(
        commands in proptest::collection::vec(any_command(), 1..40),
        orders in proptest::collection::vec(any::<usize>(), 64),
        capacity in 1usize..20,
        segment in 1usize..9000,
    ) {
        let mut pair = Pair::new(small_limits());
        pair.login("InitialR2T=Yes MaxRecvDataSegmentLength=3000 MaxBurstLength=100000 FirstBurstLength=8192");
        pair.hear_attention();
        pair.prompt = false;
        pair.pool.capacity = capacity;
        Polite::new(pair, orders, segment).run(&commands);
    }
}

#[derive(Clone, Debug)]
struct AnyCommand {
    write: bool,
    lba: u32,
    blocks: u16,
    /// EDTL less the CDB's length.
    excess: i32,
    immediate: usize,
}

fn any_command() -> impl Strategy<Value = AnyCommand> {
    let excess = prop_oneof![6 => Just(0i32), 1 => -2000i32..2000];
    (any::<bool>(), 0u32..(BLOCKS as u32 - 600), 0u16..600, excess, 0usize..9000).prop_map(
        |(write, lba, blocks, excess, immediate)| AnyCommand { write, lba, blocks, excess, immediate },
    )
}

/// Runs commands, a few at a time, in disjoint places so that the outcome is certain.
struct Polite {
    pair: Pair,
    orders: Vec<usize>,
    turn: usize,
    segment: usize,
    /// By tag: the place on the disk, and the data of a WRITE.
    live: HashMap<u32, (u32, Vec<u8>)>,
    /// By tag: what a READ brought.
    read: HashMap<u32, Vec<u8>>,
    answered: HashMap<u32, u8>,
}

impl Polite {
    fn new(pair: Pair, orders: Vec<usize>, segment: usize) -> Self {
        let (live, read, answered) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { pair, orders, turn: 0, segment, live, read, answered }
    }

    fn run(mut self, commands: &[AnyCommand]) {
        for (itt, command) in commands.iter().enumerate() {
            let itt = itt as u32;
            while self.live.len() >= 4 {
                self.step();
            }
            // One place for each of the commands that may be live together.
            let place = (0..4).find(|place| self.live.values().all(|(taken, _)| taken != place));
            let place = place.expect("at most three are live");
            let lba = place * 4000 + command.lba % 3000;
            let length = usize::from(command.blocks) * 512;
            let expected = (length as i64 + i64::from(command.excess)).max(0) as usize;
            let data = if command.write { pattern(expected, itt as u8) } else { Vec::new() };
            let disk = self.pair.disk_at(u64::from(lba), length).to_vec();
            let moved = length.min(expected);
            if command.write {
                let immediate = command.immediate.min(expected).min(8192);
                let cdb = write10(lba, command.blocks);
                self.pair.send_command(itt, 0xA0, expected as u32, &cdb, &data[..immediate]);
            } else {
                self.pair.send_command(itt, 0xC0, expected as u32, &read10(lba, command.blocks), &[]);
            }
            self.live.insert(itt, (place, data.clone()));
            // Alone from time to time, and then looked at.
            if self.orders[itt as usize % self.orders.len()] % 3 == 0 {
                while !self.live.is_empty() {
                    self.step();
                }
                let now = self.pair.disk_at(u64::from(lba), length);
                let whole = moved / 512 * 512;
                if command.write && self.answered[&itt] == 0 {
                    assert!(now[..whole] == data[..whole] && now[whole..] == disk[whole..]);
                }
                if !command.write {
                    assert!(self.read.remove(&itt).unwrap_or_default() == disk[..moved]);
                }
            }
        }
        while !self.live.is_empty() {
            self.step();
        }
        assert_eq!(self.answered.len(), commands.len());
        assert!(self.pair.closed.is_none() && self.pair.pool.taken.is_empty());
        self.pair.hang_up();
    }

    fn next_order(&mut self) -> usize {
        self.turn += 1;
        self.orders[self.turn % self.orders.len()]
    }

    fn step(&mut self) {
        if let Some(pdu) = self.pair.sent.pop_front() {
            return self.on_pdu(&pdu);
        }
        if !self.pair.pending.is_empty() {
            let index = self.next_order() % self.pair.pending.len();
            return self.pair.complete_at(index, BlockStatus::Good);
        }
        assert!(self.pair.connection.waits_for_buffers(), "nothing goes on, and {:?} live", self.live.keys());
        let capacity = self.pair.pool.capacity;
        let taken = self.pair.pool.taken.len();
        assert!(taken < capacity, "waits for ever: all {taken} buffers are taken");
        self.pair.pool_ready(capacity);
    }

    fn on_pdu(&mut self, pdu: &super::pair::Pdu) {
        let itt = pdu.itt();
        match pdu.opcode() {
            0x31 => {
                let data = self.live[&itt].1.clone();
                self.pair.answer_r2t(pdu, &data, self.segment);
            }
            0x25 | 0x21 => {
                self.read.entry(itt).or_default().extend(&pdu.data);
                if pdu.opcode() == 0x21 || pdu.bhs[1] & 1 != 0 {
                    assert!(self.live.remove(&itt).is_some(), "answered twice");
                    assert!(matches!(pdu.bhs[3], 0 | 0x28));
                    self.answered.insert(itt, pdu.bhs[3]);
                }
            }
            other => panic!("PDU {other:02x}"),
        }
    }
}
