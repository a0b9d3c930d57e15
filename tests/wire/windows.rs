//! The initiator that comes with Windows, as it was seen on the wire: its keys, its order of commands, its sizes, and
//! what it does after a failure.

use super::Target;
use super::client::{F, NO_TAG, R, W, Wire, cdb10, set};
use super::support::IQN;
use super::support::initiator::pattern;

/// What Windows offers in a normal session.
const OFFER: &str = "HeaderDigest=None,CRC32C DataDigest=None,CRC32C ErrorRecoveryLevel=2 InitialR2T=No \
     ImmediateData=Yes MaxRecvDataSegmentLength=65536 MaxBurstLength=262144 FirstBurstLength=65536 MaxConnections=32 \
     MaxOutstandingR2T=16 DefaultTime2Wait=0 DefaultTime2Retain=60";

/// Looks for targets as the initiator's control panel does.
fn discover(target: &Target) {
    let mut wire = Wire::connect(target.address);
    let first =
        wire.login(0x81, &format!("InitiatorName={} SessionType=Discovery AuthMethod=None", wire.initiator));
    assert_eq!((first.bhs[1], first.login_status(), first.text().as_str()), (0x81, 0, "AuthMethod=None"));
    let keys = "HeaderDigest=None,CRC32C DataDigest=None,CRC32C MaxRecvDataSegmentLength=65536 DefaultTime2Wait=0 \
         DefaultTime2Retain=60";
    let last = wire.login(0x87, keys);
    assert_eq!(
        last.text(),
        "HeaderDigest=None DataDigest=None DefaultTime2Wait=0 DefaultTime2Retain=0 \
         MaxRecvDataSegmentLength=262144"
    );
    let mut text = wire.request(0x04, F, 3, NO_TAG);
    text[0] = 0x04;
    wire.send(text, b"SendTargets=All\0");
    wire.cmd_sn += 1;
    let answer = wire.receive();
    assert_eq!((answer.opcode(), answer.bhs[1], answer.word(20)), (0x24, 0x80, NO_TAG));
    // Without ",1" Windows calls the text invalid.
    assert_eq!(answer.text(), format!("TargetName={IQN} TargetAddress={},1", target.address));
    wire.log_out();
}

fn arrive(wire: &mut Wire) {
    let names =
        format!("InitiatorName={} SessionType=Normal TargetName={IQN} AuthMethod=None", wire.initiator);
    let tsih = wire.tsih;
    let first = wire.login(0x81, &names);
    assert_eq!((first.bhs[1], first.login_status()), (0x81, 0));
    assert_eq!(first.bhs[14..16], tsih.to_be_bytes(), "TSIH 0 until the last response to a new session");
    assert_eq!(first.text(), "AuthMethod=None TargetPortalGroupTag=1", "the tag in the first response");
    // The window is open from the start.
    assert!(first.word(32).wrapping_sub(first.word(28)) < 1 << 31);
    let last = wire.login(0x87, OFFER);
    assert_eq!((last.bhs[1], last.login_status()), (0x87, 0));
    assert_eq!(
        last.text(),
        "HeaderDigest=None DataDigest=None ErrorRecoveryLevel=0 InitialR2T=Yes ImmediateData=Yes \
         MaxBurstLength=262144 MaxConnections=1 MaxOutstandingR2T=8 DefaultTime2Wait=0 DefaultTime2Retain=0 \
         FirstBurstLength=65536 MaxRecvDataSegmentLength=262144"
    );
    wire.tsih = u16::from_be_bytes([last.bhs[14], last.bhs[15]]);
    assert_ne!(wire.tsih, 0);
}

/// The commands with which Windows looks at a new disk.
fn look_at_the_disk(wire: &mut Wire) {
    let luns = wire.fetch(4096, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
    assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let inquiry = wire.fetch(36, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!((inquiry.len(), inquiry[0]), (36, 0));
    let pages = wire.fetch(255, &[0x12, 1, 0x00, 0, 255, 0]);
    for page in [0x00, 0x80, 0x83, 0xB0] {
        assert!(pages[4..].contains(&page), "page {page:02x} is listed");
    }
    for page in [0x83, 0x80, 0xB0, 0xB0] {
        let data = wire.fetch(255, &[0x12, 1, page, 0, 255, 0]);
        let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
        assert_eq!((data[1], data.len()), (page, 4 + length));
    }
    // A page of seven bytes: the padding is there, and is not counted.
    assert_eq!(wire.fetch(7, &[0x12, 1, 0x80, 0, 7, 0]).len(), 7);
    let answer = wire.command(9, F, 0, &[0; 6], &[]);
    if answer.status().0 == 2 {
        assert!(matches!(answer.status().1, Some((6, 0x29, _))), "a unit attention, told once");
        assert!(wire.is_ready());
    }
    assert_eq!(wire.fetch(8, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])[4..], [0, 0, 2, 0]);
    for page in [0x08, 0x3F] {
        let mode = wire.fetch(192, &[0x1A, 0, page, 0, 192, 0]);
        assert_eq!((usize::from(mode[0]) + 1).min(192), mode.len());
    }
    assert!(wire.is_ready());
    assert_eq!(wire.read(0, 512).len(), 512);
}

#[test]
fn windows_finds_its_disk_reads_and_writes() {
    let target = Target::new(2);
    discover(&target);
    let mut wire = Wire::connect(target.address);
    arrive(&mut wire);
    look_at_the_disk(&mut wire);
    // The largest transfer, with 8 KiB of immediate data as it was seen; the R2T continues behind them.
    let data = pattern(5, 262_144);
    let cdb = cdb10(0x2A, 2048, data.len());
    wire.send_command(1, W, 262_144, &cdb, &data[..8192]);
    let r2t = wire.receive();
    assert_eq!((r2t.opcode(), r2t.bhs[1], r2t.word(40), r2t.word(44)), (0x31, 0x80, 8192, 262_144 - 8192));
    wire.answer_r2t(&r2t, &data, 65_536);
    assert_eq!(wire.receive().status(), (0, None));
    // And all of a first burst.
    assert_eq!(wire.write(4096, &data, 65_536).status(), (0, None));
    for lba in [2048, 4096] {
        wire.send_command(2, R, 262_144, &cdb10(0x28, lba, 262_144), &[]);
        let mut back = Vec::new();
        while back.len() < 262_144 {
            let pdu = wire.receive();
            assert!(pdu.data.len() <= 65_536, "as much as it declared");
            back.extend(pdu.data);
        }
        assert!(back == data);
    }
    // FlushFileBuffers, a trim of nothing, a reset, and it goes on.
    assert_eq!(wire.command(3, F, 0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).status(), (0, None));
    wire.manage(5, 0, 4, NO_TAG);
    let answer = wire.receive();
    assert_eq!((answer.opcode(), answer.bhs[2]), (0x22, 0));
    assert_eq!(wire.command(5, F, 0, &[0; 6], &[]).status(), (2, Some((6, 0x29, 3))));
    assert!(wire.is_ready());
    wire.log_out();
    target.stop();
}

#[test]
fn windows_comes_back_after_a_failure() {
    let target = Target::new(3);
    let data = pattern(9, 65_536);
    let mut wire = Wire::connect(target.address);
    arrive(&mut wire);
    look_at_the_disk(&mut wire);
    assert_eq!(wire.write(100, &data, 8192).status(), (0, None));
    for round in 0..6 {
        // A command is under way when the path is lost, or nothing is.
        if round % 2 == 0 {
            wire.send_command(7, W, 65_536, &cdb10(0x2A, 200, 65_536), &data[..8192]);
        }
        let mut next = Wire::connect(target.address);
        next.cmd_sn = wire.cmd_sn;
        // Every third time it means the session it had (TSIH), else a new one (TSIH 0), always with its ISID.
        next.tsih = if round % 3 == 2 { wire.tsih } else { 0 };
        let had = wire.tsih;
        arrive(&mut next);
        assert_eq!(next.tsih == had, round % 3 == 2, "the TSIH stays with the session");
        let heard = next.command(9, F, 0, &[0; 6], &[]);
        assert!(matches!(heard.status(), (2, Some((6, 0x29, _)))), "one unit attention");
        assert!(next.is_ready());
        assert!(next.read(100, 65_536) == data);
        // The old connection was closed before the new one was answered.
        while let Some(pdu) = wire.next() {
            assert_eq!(pdu.opcode(), 0x31);
        }
        wire = next;
    }
    wire.log_out();
    target.stop();
}

#[test]
fn the_lun_of_a_data_out_is_not_looked_at() {
    let target = Target::new(1);
    let mut wire = Wire::session(target.address, 1);
    let data = pattern(1, 4096);
    wire.send_command(1, W, 4096, &cdb10(0x2A, 8, 4096), &[]);
    let r2t = wire.receive();
    let mut bhs = [0; 48];
    (bhs[0], bhs[1]) = (0x05, F);
    bhs[8..16].fill(0xEE);
    set(&mut bhs, 16, 1);
    bhs[20..24].copy_from_slice(&r2t.bhs[20..24]);
    wire.send(bhs, &data);
    assert_eq!(wire.receive().status(), (0, None));
    assert!(wire.read(8, 4096) == data);
    target.stop();
}
