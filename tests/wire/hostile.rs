//! Initiators that mean harm, or have lost their mind, and an honest one beside them.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Target;
use super::client::{F, NO_TAG, R, W, Wire, as_text, cdb10};
use super::support::IQN;
use super::support::initiator::pattern;
use twinlun::iscsi::Caps;

/// Memory of this process (the target is a part of it), bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = status.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("resident pages");
    pages * 4096
}

/// Reads and writes a little; the longest time that one of them took.
fn work(wire: &mut Wire, rounds: u64) -> Duration {
    (0..rounds)
        .map(|round| {
            let begun = Instant::now();
            let data = pattern(round, 4096);
            assert_eq!(wire.write(round as u32 % 64 * 8, &data, 4096).status(), (0, None));
            assert!(wire.read(round as u32 % 64 * 8, 4096) == data);
            begun.elapsed()
        })
        .max()
        .unwrap_or_default()
}

/// Far above what a request takes even on a busy machine, and far below what any initiator waits.
const UNDISTURBED: Duration = Duration::from_secs(5);

#[test]
fn a_thousand_half_open_connections_leave_a_client_undisturbed() {
    let target = Target::new(2);
    let mut honest = Wire::session(target.address, 1);
    assert!(honest.read(0, 4096).len() == 4096);
    let before = memory();
    let mut half_open = Vec::new();
    for number in 0..1000 {
        let stream = TcpStream::connect(target.address).expect("the kernel takes it");
        half_open.push(stream);
        if number % 100 == 0 {
            assert!(work(&mut honest, 4) < UNDISTURBED);
        }
    }
    assert!(work(&mut honest, 50) < UNDISTURBED);
    // Some dribble a login, byte by byte; those that were turned away cannot even do that.
    let mut login = honest.login_bhs(0x81).to_vec();
    login[7] = 200;
    for byte in &login {
        for stream in &mut half_open {
            let _ = stream.write(&[*byte]);
        }
    }
    assert!(work(&mut honest, 50) < UNDISTURBED);
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for connections that have shown nothing", grown >> 20);
    // As soon as they are gone, others are let in.
    drop(half_open);
    let deadline = Instant::now() + UNDISTURBED;
    loop {
        let mut wire = Wire::connect(target.address);
        let text = format!("InitiatorName={} TargetName={IQN}", wire.initiator);
        wire.isid[5] = 2;
        let bhs = wire.login_bhs(0x83);
        wire.send(bhs, &as_text(&text));
        if let Some(answer) = wire.next() {
            assert_eq!(answer.login_status(), 0);
            break;
        }
        assert!(Instant::now() < deadline, "nobody is let in any more");
    }
    assert!(work(&mut honest, 10) < UNDISTURBED);
    target.stop();
}

#[test]
fn the_login_timer_ends_a_slow_loris() {
    let target = Target::with(1, |config| {
        config.limits.login_timeout = twinlun::time::Duration::from_millis(300);
    });
    let mut honest = Wire::session(target.address, 1);
    let mut loris = Wire::connect(target.address);
    let names = format!("InitiatorName={} TargetName={IQN} AuthMethod=None", loris.initiator);
    // Answered requests do not prolong it.
    assert_eq!(loris.login(0x00, &names).login_status(), 0);
    let begun = Instant::now();
    loris.expect_closed();
    assert!(begun.elapsed() < UNDISTURBED);
    assert!(honest.is_ready());
    target.stop();
}

#[test]
fn a_client_that_reads_nothing_is_not_read() {
    let target = Target::new(2);
    let mut honest = Wire::session(target.address, 1);
    let before = memory();
    let mut deaf = Wire::session(target.address, 2);
    deaf.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("socket option");
    // Asks for ever more, and for big echoes, until the target stops reading.
    let mut asked = 0u64;
    'asking: for round in 0..2000u32 {
        for number in 0..8 {
            let bhs = deaf.command_bhs(round * 8 + number, R, 65_536, &cdb10(0x28, 0, 65_536));
            if deaf.stream.write_all(&bhs).is_err() {
                break 'asking;
            }
        }
        let mut ping = deaf.request(0x00, F, 0x7000_0000 + round, NO_TAG).to_vec();
        ping[5..8].copy_from_slice(&[4, 0, 0]);
        ping.resize(48 + 262_144, 7);
        if deaf.stream.write_all(&ping).is_err() {
            break;
        }
        asked += 1;
    }
    assert!(asked < 2000, "the target must stop reading");
    assert!(work(&mut honest, 50) < UNDISTURBED);
    let grown = memory().saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB for one deaf client", grown >> 20);
    target.stop();
}

/// A generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// A conversation that makes sense: a login, or requests of a session.
fn conversation(numbers: &mut Numbers, session: Option<&mut Wire>) -> Vec<u8> {
    let padded = |mut bhs: [u8; 48], data: &[u8]| {
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = bhs.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let Some(wire) = session else {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x43, [0x81, 0x87, 0x83, 0x00, 0x44][numbers.next(5)]);
        let text = format!(
            "InitiatorName=iqn.2001-04.test:a TargetName={IQN} AuthMethod=CHAP,None HeaderDigest=CRC32C,None \
             MaxRecvDataSegmentLength=8192 MaxBurstLength=262144 FirstBurstLength=65536"
        );
        return padded(bhs, &as_text(&text));
    };
    let mut bytes = Vec::new();
    for itt in 0..4 {
        let data = vec![0x5A; numbers.next(9000)];
        let piece = match numbers.next(7) {
            0 => padded(
                wire.command_bhs(itt, W, 9000, &cdb10(0x2A, 60_000, 8192)),
                &data[..data.len().min(8192)],
            ),
            1 => padded(wire.command_bhs(itt, R, 4096, &cdb10(0x28, 60_000, 4096)), &[]),
            2 => padded(wire.request(0x00, F, itt, NO_TAG), &data),
            3 => padded(wire.request(0x04, F, itt, NO_TAG), b"SendTargets=\0X=1\0"),
            4 => padded(wire.request(0x02, F | numbers.next(10) as u8, itt, 1), &[]),
            5 => padded(
                wire.command_bhs(itt, W, 24, &[0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]),
                &data[..data.len().min(24)],
            ),
            _ => padded(
                wire.command_bhs(itt, W, 24, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]),
                &data[..data.len().min(24)],
            ),
        };
        bytes.extend(piece);
    }
    bytes
}

#[test]
fn truncated_oversized_and_garbled_pdus_do_no_harm() {
    // The hostile ones leave faster than the target can see it.
    let caps = Caps { half_open: 192, half_open_per_source: 192, ..Caps::default() };
    let target = Target::with(2, |config| config.caps = caps);
    let mut honest = Wire::session(target.address, 200);
    let untouched = pattern(77, 65_536);
    assert_eq!(honest.write(0, &untouched, 8192).status(), (0, None));
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let before = memory();
    for round in 0..400 {
        let logged_in = round % 2 == 0;
        let mut wire = Wire::connect(target.address);
        if logged_in {
            wire.isid[5] = (round % 7) as u8;
            wire.initiator = "iqn.2001-04.test:hostile".into();
            wire.enter("MaxRecvDataSegmentLength=65536");
        }
        let mut bytes = conversation(&mut numbers, logged_in.then_some(&mut wire));
        for _ in 0..1 + numbers.next(3) {
            let at = numbers.next(bytes.len());
            match numbers.next(5) {
                // Garbled.
                0 => bytes[at] ^= 1 << numbers.next(8),
                1 => bytes[at.min(47)] = numbers.next(256) as u8,
                // Lengths that lie.
                2 => bytes[4 + numbers.next(4)] = numbers.next(256) as u8,
                // Truncated, and followed by something else.
                3 => drop(bytes.drain(at..)),
                _ => bytes.splice(at..at, (0..numbers.next(100)).map(|n| n as u8)).for_each(drop),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        let _ = wire.stream.write_all(&bytes);
        if numbers.next(2) == 0 {
            let _ = wire.stream.shutdown(std::net::Shutdown::Write);
        }
    }
    // Among what they said was TARGET COLD RESET, which ends every session.
    honest = Wire::session(target.address, 200);
    assert!(work(&mut honest, 1) < UNDISTURBED);
    assert!(honest.read(8, 61_440) == untouched[4096..], "nobody wrote where nobody said to");
    let grown = memory().saturating_sub(before);
    assert!(grown < 96 << 20, "{} MiB", grown >> 20);
    target.stop();
}
