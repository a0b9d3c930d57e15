//! Lines of the reviewer's checklist that concern iSCSI and can be seen on the wire; `lines` has them all.

use super::Target;
use super::client::{F, NO_TAG, R, W, Wire, cdb10, set};
use super::support::initiator::pattern;

#[test]
fn tags() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    // Live twice.
    wire.send_command(5, W, 4096, &cdb10(0x2A, 0, 4096), &[]);
    assert_eq!(wire.receive().opcode(), 0x31);
    wire.send_command(5, F, 0, &[0; 6], &[]);
    let reject = wire.receive();
    assert_eq!((reject.opcode(), reject.bhs[2], reject.itt()), (0x3F, 0x07, NO_TAG));
    wire.expect_closed();
    // Reserved.
    let mut wire = Wire::session(target.address, 1);
    wire.send_command(NO_TAG, F, 0, &[0; 6], &[]);
    assert_eq!((wire.receive().bhs[2], wire.next()), (0x09, None));
    target.stop();
}

#[test]
fn pings() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    for len in [0, 1, 4096, 16_385, 100_003, 262_144] {
        let data = pattern(1, len);
        let bhs = wire.request(0x00, F, 5, NO_TAG);
        wire.send(bhs, &data);
        let echo = wire.receive();
        assert_eq!((echo.opcode(), echo.bhs[1], echo.itt(), echo.word(20)), (0x20, 0x80, 5, NO_TAG));
        assert!(echo.data == data, "{len} bytes come back");
    }
    let bhs = wire.request(0x00, F, NO_TAG, NO_TAG);
    wire.send(bhs, b"no answer");
    assert!(wire.is_ready());
    target.stop();
}

#[test]
fn a_silent_initiator_is_pinged() {
    let target = Target::with(1, |config| {
        config.limits.ping_interval = Some(twinlun::time::Duration::from_millis(100));
        config.limits.ping_timeout = twinlun::time::Duration::from_millis(400);
    });
    let mut wire = Wire::session(target.address, 1);
    for _ in 0..3 {
        let ping = wire.receive();
        assert_eq!((ping.opcode(), ping.itt()), (0x20, NO_TAG));
        assert_ne!(ping.word(20), NO_TAG);
        let answer = wire.request(0x00, F, NO_TAG, ping.word(20));
        wire.send(answer, &[]);
    }
    // And dropped when it does not answer.
    wire.expect_closed();
    target.stop();
}

#[test]
fn rejects() {
    let target = Target::new(1);
    let case = |change: &dyn Fn(&mut [u8; 48]), reason: u8| {
        let mut wire = Wire::session(target.address, 1);
        let mut bhs = wire.request(0x00, F, 5, NO_TAG);
        change(&mut bhs);
        wire.send(bhs, &[]);
        let reject = wire.receive();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3F, reason));
        assert_eq!(reject.data, bhs, "the header comes back");
        wire.expect_closed();
    };
    case(&|bhs| bhs[0] = 0x5E, 0x05);
    case(&|bhs| bhs[0] = 0x50, 0x04);
    case(&|bhs| (bhs[0], bhs[1]) = (0x43, 0x81), 0x04);
    case(&|bhs| (bhs[0], bhs[1]) = (0x44, 0xC0), 0x09);
    // Longer than the target takes: there is no saying where the next header is.
    let mut wire = Wire::session(target.address, 1);
    let mut bhs = wire.request(0x00, F, 5, NO_TAG);
    bhs[5..8].copy_from_slice(&[4, 0, 1]);
    wire.send_raw(&bhs);
    wire.expect_closed();
    target.stop();
}

#[test]
fn data_out_sequences() {
    let target = Target::new(1);
    let data = pattern(1, 8192);
    // What is wrong, and how it ends: sense data, or a Reject.
    let case = |change: &dyn Fn(&mut [u8; 48]), rejected: bool| {
        let mut wire = Wire::session(target.address, 1);
        wire.send_command(5, W, 8192, &cdb10(0x2A, 0, 8192), &[]);
        let r2t = wire.receive();
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[19]) = (0x05, F, 5);
        bhs[20..24].copy_from_slice(&r2t.bhs[20..24]);
        change(&mut bhs);
        wire.send(bhs, &data);
        let answer = wire.receive();
        match rejected {
            true => assert_eq!(answer.opcode(), 0x3F),
            false => {
                assert_eq!(answer.status(), (2, Some((0x0B, 0x4B, 0))));
                assert!(wire.is_ready());
            }
        }
    };
    case(&|bhs| bhs[39] = 1, false); // DataSN
    case(&|bhs| bhs[42] = 2, false); // offset
    case(&|bhs| bhs[23] ^= 0x80, true); // Target Transfer Tag
    case(&|bhs| bhs[20..24].fill(0xFF), true); // unsolicited
    let mut wire = Wire::session(target.address, 1);
    assert!(wire.read(0, 8192).iter().all(|byte| *byte == 0), "nothing of it was written");
    // DataSN begins at 0 with every R2T.
    let long = pattern(2, 1 << 20);
    wire.send_command(6, W, 1 << 20, &cdb10(0x2A, 0, 1 << 20), &[]);
    let mut number = 0;
    loop {
        let pdu = wire.receive();
        if pdu.opcode() == 0x21 {
            assert_eq!(pdu.status(), (0, None));
            break;
        }
        assert_eq!((pdu.word(36), pdu.bhs[1]), (number, 0x80), "R2TSN");
        assert!(pdu.word(44) <= 1 << 20);
        wire.answer_r2t(&pdu, &long, 8192);
        number += 1;
    }
    assert!(wire.read(0, 1 << 20) == long);
    target.stop();
}

#[test]
fn residuals() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    // EDTL, blocks of the CDB, flag, count.
    for (expected, blocks, flag, count) in [
        (4096u32, 8usize, 0u8, 0u32),
        (10_000, 8, 0x02, 5904),
        (1000, 8, 0x04, 3096),
        (0, 0, 0, 0),
        (512, 0, 0x02, 512),
    ] {
        wire.send_command(1, R, expected, &cdb10(0x28, 0, blocks * 512), &[]);
        let mut moved = 0;
        let last = loop {
            let pdu = wire.receive();
            moved += pdu.data.len() as u32;
            if pdu.opcode() == 0x21 || pdu.bhs[1] & 1 != 0 {
                break pdu;
            }
        };
        assert_eq!(
            (last.bhs[1] & 0x06, last.word(44), last.bhs[3]),
            (flag, count, 0),
            "READ {expected} {blocks}"
        );
        assert_eq!(moved, expected.min(blocks as u32 * 512));
        let data = pattern(9, expected as usize);
        let answer = {
            wire.send_command(2, W, expected, &cdb10(0x2A, 100, blocks * 512), &data[..data.len().min(4096)]);
            loop {
                let pdu = wire.receive();
                if pdu.opcode() != 0x31 {
                    break pdu;
                }
                wire.answer_r2t(&pdu, &data, 4096);
            }
        };
        assert_eq!((answer.bhs[1] & 0x06, answer.word(44)), (flag, count), "WRITE {expected} {blocks}");
        assert_eq!(answer.status(), (0, None));
    }
    target.stop();
}

#[test]
fn functions_by_number() {
    let target = Target::new(2);
    let mut wire = Wire::session(target.address, 1);
    for (function, lun, response) in [
        (1, 0, 1),
        (2, 0, 0),
        (2, 9, 2),
        (3, 0, 0),
        (4, 0, 0),
        (5, 9, 2),
        (5, 0, 0),
        (6, 0, 0),
        (8, 0, 4),
        (9, 0, 0xFF),
    ] {
        wire.manage(function, lun, 3, NO_TAG);
        let answer = wire.receive();
        assert_eq!(
            (answer.opcode(), answer.itt(), answer.bhs[2]),
            (0x22, 3, response),
            "function {function}"
        );
    }
    target.stop();
}

#[test]
fn logouts() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    // Another connection, and removal for recovery, which belongs to a higher ErrorRecoveryLevel.
    for (reason, cid, response) in [(1u8, 9u32, 1u8), (2, 1, 2)] {
        let mut bhs = wire.request(0x06, F | reason, 5, 0);
        set(&mut bhs, 20, cid << 16);
        wire.send(bhs, &[]);
        assert_eq!(wire.receive().bhs[2], response);
    }
    let mut bhs = wire.request(0x06, F | 1, 5, 0);
    set(&mut bhs, 20, 1 << 16);
    wire.send(bhs, &[]);
    assert_eq!((wire.receive().bhs[2], wire.next()), (0, None));
    Wire::session(target.address, 1).log_out();
    target.stop();
}
