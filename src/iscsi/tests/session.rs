//! Numbers, windows, NOP, text, logout, task management, rejects, split delivery.

use super::pair::{Pair, Pdu, TARGET, config, pattern, read10, write10};
use crate::block::BlockStatus;
use crate::iscsi::CloseReason;
use crate::wire::Demand;

const R: u8 = 0xC0;
const W: u8 = 0xA0;
const NO_TAG: u32 = 0xFFFF_FFFF;

/// An immediate request with the tag, and a second field at 20.
fn request(opcode: u8, flags: u8, itt: u32, second: u32) -> [u8; 48] {
    let mut bhs = [0; 48];
    bhs[0] = 0x40 | opcode;
    bhs[1] = flags;
    bhs[16..20].copy_from_slice(&itt.to_be_bytes());
    bhs[20..24].copy_from_slice(&second.to_be_bytes());
    bhs
}

fn management(pair: &mut Pair, function: u8, lun: u8, itt: u32, referenced: u32) {
    let mut bhs = request(0x02, 0x80 | function, itt, referenced);
    bhs[9] = lun;
    pair.send(bhs, &[]);
}

fn expect_reject(pair: &mut Pair, reason: u8) {
    let reject = pair.reply();
    assert_eq!((reject.opcode(), reject.bhs[2], reject.data.len()), (0x3F, reason, 48));
    assert_eq!(reject.itt(), NO_TAG);
}

#[test]
fn cmd_sn_outside_the_window_is_ignored() {
    let mut pair = Pair::logged_in(config());
    let now = pair.cmd_sn;
    // libiscsi's iSCSICmdSnTooHigh and TooLow, with data behind the header.
    for wrong in [now.wrapping_add(128), now.wrapping_sub(1), now.wrapping_add(1 << 31)] {
        pair.cmd_sn = wrong;
        pair.send_command(5, W, 512, &write10(0, 1), &[9; 512]);
        assert!(pair.nothing_sent() && pair.closed.is_none());
    }
    pair.cmd_sn = now;
    assert_eq!(pair.command(5, 0x80, 0, &[0; 16], &[]).status(), (0, None));
    // A gap that nothing can fill.
    pair.cmd_sn += 1;
    pair.send_command(6, 0x80, 0, &[0; 16], &[]);
    assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
}

#[test]
fn the_window_closes_and_opens() {
    let mut small = config();
    small.limits.window = 2;
    let mut pair = Pair::logged_in(small);
    pair.prompt = false;
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    pair.send_command(2, R, 512, &read10(0, 1), &[]);
    // Beyond the window: ignored.
    pair.send_command(3, R, 512, &read10(0, 1), &[]);
    assert_eq!(pair.pending.len(), 2);
    pair.cmd_sn -= 1;
    // A NOP-Out is answered while the window is closed.
    pair.send(request(0x00, 0x80, 50, NO_TAG), &[]);
    let nop = pair.reply();
    assert_eq!(nop.field(32), nop.field(28).wrapping_sub(1));
    pair.complete_at(1, BlockStatus::Good);
    let answer = pair.reply();
    assert_eq!((answer.itt(), answer.field(32)), (2, answer.field(28)));
    pair.send_command(3, R, 512, &read10(0, 1), &[]);
    pair.complete_all();
    assert_eq!((pair.reply().itt(), pair.reply().itt()), (1, 3));
}

#[test]
fn immediate_commands_go_beyond_the_window_but_not_for_ever() {
    let mut small = config();
    small.limits.window = 1;
    small.limits.immediate = 2;
    let mut pair = Pair::logged_in(small);
    pair.prompt = false;
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    let sn = pair.cmd_sn;
    for itt in 2..=3 {
        let mut bhs = pair.command_bhs(itt, R, 512, &read10(0, 1));
        bhs[0] |= 0x40;
        pair.send(bhs, &[]);
    }
    assert_eq!(pair.pending.len(), 3);
    let mut bhs = pair.command_bhs(4, W, 512, &write10(0, 1));
    bhs[0] |= 0x40;
    pair.send(bhs, &[1; 512]);
    expect_reject(&mut pair, 0x06);
    assert!(pair.closed.is_none());
    pair.complete_all();
    assert_eq!(pair.sent.iter().map(Pdu::itt).collect::<Vec<_>>(), [1, 2, 3]);
    pair.sent.clear();
    // Immediate commands did not advance CmdSN.
    pair.cmd_sn = sn;
    pair.prompt = true;
    assert_eq!(pair.command(5, R, 512, &read10(0, 1), &[]).bhs[1], 0x81);
}

#[test]
fn a_tag_in_use_is_rejected() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    expect_reject(&mut pair, 0x07);
    assert!(pair.closed.is_some());
    pair.hang_up();
}

#[test]
fn nop_out_is_echoed() {
    let mut pair = Pair::logged_in(config());
    let mut bhs = request(0x00, 0x80, 9, NO_TAG);
    bhs[0] = 0;
    bhs[8..16].fill(3);
    bhs[24..28].copy_from_slice(&pair.next_cmd_sn().to_be_bytes());
    pair.send(bhs, b"hello");
    let nop = pair.reply();
    assert_eq!((nop.opcode(), nop.bhs[1], nop.itt(), nop.field(20)), (0x20, 0x80, 9, NO_TAG));
    assert_eq!((nop.data.as_slice(), &nop.bhs[8..16]), (&b"hello"[..], &[3; 8][..]));
    assert_eq!(nop.field(28), pair.cmd_sn);
    // Without a tag: no answer.
    pair.send(request(0x00, 0x80, NO_TAG, NO_TAG), b"x");
    assert!(pair.nothing_sent());
    // A long ping is echoed as far as the initiator takes it.
    for len in [16_384, 16_385, 40_001, 65_536, 262_144] {
        let ping = pattern(len, 3);
        pair.send(request(0x00, 0x80, 9, NO_TAG), &ping);
        assert!(pair.reply().data == ping[..len.min(65_536)], "{len}");
    }
    assert_eq!(pair.command(5, 0x80, 0, &[0; 16], &[]).status(), (0, None));
}

#[test]
fn a_silent_initiator_is_pinged_and_dropped() {
    let mut pair = Pair::logged_in(config());
    pair.wait(14);
    assert!(pair.nothing_sent());
    pair.wait(1);
    let ping = pair.reply();
    assert_eq!((ping.opcode(), ping.itt()), (0x20, NO_TAG));
    assert!(ping.field(20) != NO_TAG);
    pair.send(request(0x00, 0x80, NO_TAG, ping.field(20)), &[]);
    pair.wait(15);
    assert_eq!(pair.reply().opcode(), 0x20);
    pair.wait(14);
    assert!(pair.closed.is_none());
    pair.wait(1);
    assert_eq!(pair.closed, Some(CloseReason::Unresponsive));
    pair.hang_up();
}

#[test]
fn an_initiator_that_cannot_be_heard_is_not_blamed() {
    let mut pair = Pair::logged_in(config());
    pair.pool.capacity = 0;
    pair.send_command(5, W, 512, &write10(0, 1), &[7; 512]);
    for _ in 0..10 {
        pair.wait(10);
    }
    assert!(pair.closed.is_none());
    pair.pool_ready(1);
    let pings = pair.sent.iter().filter(|pdu| pdu.opcode() == 0x20).count();
    assert_eq!((pings, pair.sent.back().map(|pdu| pdu.status())), (0, Some((0, None))));
}

#[test]
fn the_reserved_tag_names_no_task() {
    let mut pair = Pair::logged_in(config());
    management(&mut pair, 1, 0, 9, NO_TAG);
    assert_eq!(pair.reply().bhs[2], 1);
    for ttt in [0, 3, NO_TAG] {
        pair.data_out(NO_TAG, ttt, 0, 0, true, &[1; 512]);
    }
    assert!(pair.nothing_sent() && pair.closed.is_none());
    pair.hang_up();
}

#[test]
fn functions_that_wait_are_bounded() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, R, 512, &read10(0, 1), &[]);
    for itt in 100..116 {
        management(&mut pair, 1, 0, itt, 1);
        assert!(pair.nothing_sent());
    }
    management(&mut pair, 1, 0, 116, 1);
    let rejected = pair.reply();
    assert_eq!((rejected.itt(), rejected.bhs[2]), (116, 0xFF));
    pair.complete_all();
    assert_eq!(pair.sent.iter().filter(|pdu| pdu.bhs[2] == 0).count(), 16);
    pair.hang_up();
}

fn text_request(pair: &mut Pair, flags: u8, ttt: u32, text: &[u8]) -> Pdu {
    pair.send(request(0x04, flags, 9, ttt), text);
    pair.reply()
}

#[test]
fn text_in_a_normal_session() {
    let mut two = config();
    two.portals = vec!["10.0.0.100:3260".into(), "[fd00::1]:3260".into()];
    let mut pair = Pair::logged_in(two);
    let own = format!("TargetName={TARGET} TargetAddress=10.0.0.100:3260,1 TargetAddress=[fd00::1]:3260,1");
    assert_eq!(text_request(&mut pair, 0x80, NO_TAG, b"SendTargets=\0").text(), own);
    let all = text_request(&mut pair, 0x80, NO_TAG, b"SendTargets=All\0X-a=1\0ErrorRecoveryLevel=2\0");
    assert_eq!(all.text(), "SendTargets=Reject X-a=NotUnderstood ErrorRecoveryLevel=Reject");
    // Cut in two by the initiator.
    let empty = text_request(&mut pair, 0x40, NO_TAG, b"SendTar");
    assert_eq!((empty.bhs[1], empty.data.len()), (0, 0));
    let tag = empty.field(20);
    assert!(tag != NO_TAG);
    let whole = text_request(&mut pair, 0x80, tag, b"gets=\0");
    assert_eq!((whole.bhs[1], whole.text()), (0x80, own.clone()));
    // Cut in pieces by the target, for an initiator that now takes little.
    assert_eq!(text_request(&mut pair, 0x80, NO_TAG, b"MaxRecvDataSegmentLength=512\0").text(), "");
    let many: String = (0..60).map(|n| format!("k{n:02}=1\0")).collect();
    let mut answer = text_request(&mut pair, 0x80, NO_TAG, many.as_bytes());
    let mut reply = answer.data.clone();
    while answer.bhs[1] & 0x40 != 0 {
        assert_eq!((answer.bhs[1], answer.data.len()), (0x40, 512));
        let tag = answer.field(20);
        answer = text_request(&mut pair, 0x80, tag, &[]);
        reply.extend(&answer.data);
    }
    assert_eq!((answer.bhs[1], answer.field(20)), (0x80, NO_TAG));
    assert_eq!(reply.len(), 60 * "k00=NotUnderstood\0".len());
    // A tag of no negotiation.
    pair.send(request(0x04, 0x80, 9, 77), &[]);
    expect_reject(&mut pair, 0x04);
    assert!(pair.closed.is_some());
}

#[test]
fn text_is_bounded() {
    let mut pair = Pair::logged_in(config());
    let tag = text_request(&mut pair, 0x40, NO_TAG, &[b'a'; 10_000]).field(20);
    pair.send(request(0x04, 0x40, 9, tag), &[b'a'; 10_000]);
    assert!(pair.nothing_sent() && pair.closed.is_some());
    let mut pair = Pair::logged_in(config());
    pair.send(request(0x04, 0x80, 9, NO_TAG), &[b'a'; 20_000]);
    assert!(pair.nothing_sent() && pair.closed.is_some());
}

#[test]
fn logout_waits_for_what_is_in_flight() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(5, W, 512, &write10(0, 1), &[7; 512]);
    pair.send_command(6, W, 1024, &write10(0, 2), &[]);
    assert_eq!(pair.reply().opcode(), 0x31);
    pair.send(request(0x06, 0x80, 9, 0), &[]);
    assert!(pair.nothing_sent() && pair.closed.is_none());
    assert_eq!(pair.connection.demand(), Demand::Stalled);
    assert!(!pair.connection.waits_for_buffers());
    pair.complete_all();
    let logout = pair.reply();
    assert_eq!((logout.opcode(), logout.bhs[2], logout.itt()), (0x26, 0, 9));
    // Time2Wait 2, Time2Retain 20: the defaults, for they were not negotiated.
    assert_eq!(logout.field(40), 0x0002_0014);
    assert!(pair.nothing_sent());
    assert_eq!(pair.closed, Some(CloseReason::Logout));
    pair.hang_up();
}

#[test]
fn other_logouts() {
    let mut pair = Pair::logged_in(config());
    for (flags, cid, response) in [(0x81, 5u32, 1), (0x82, 0, 2)] {
        pair.send(request(0x06, flags, 9, cid << 16), &[]);
        assert_eq!(pair.reply().bhs[2], response);
        assert!(pair.closed.is_none());
    }
    pair.send(request(0x06, 0x81, 9, 0), &[]);
    assert_eq!(pair.reply().bhs[2], 0);
    assert_eq!(pair.closed, Some(CloseReason::Logout));
    let mut pair = Pair::logged_in(config());
    pair.send(request(0x06, 0x87, 9, 0), &[]);
    expect_reject(&mut pair, 0x09);
}

#[test]
fn abort_task_is_answered_when_the_task_is_quiet() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(5, W, 1 << 17, &write10(0, 256), &[7; 65536]);
    let ttt = pair.reply().field(20);
    management(&mut pair, 1, 0, 9, 5);
    assert!(pair.nothing_sent());
    pair.complete_all();
    let response = pair.reply();
    assert_eq!((response.opcode(), response.bhs[1], response.bhs[2]), (0x22, 0x80, 0));
    assert_eq!(response.itt(), 9);
    assert!(pair.pool.taken.is_empty());
    // What still comes for it is dropped, and the window has its credit back.
    pair.data_out(5, ttt, 0, 65536, true, &[7; 65536]);
    assert!(pair.nothing_sent());
    assert_eq!(response.field(32).wrapping_sub(response.field(28)), 127);
    // Answered before.
    management(&mut pair, 1, 0, 9, 5);
    assert_eq!(pair.reply().bhs[2], 1);
    pair.hang_up();
}

#[test]
fn a_reset_takes_every_task() {
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    for itt in 1..4 {
        pair.send_command(itt, R, 1 << 17, &read10(0, 256), &[]);
    }
    management(&mut pair, 1, 0, 8, 2);
    management(&mut pair, 5, 0, 9, NO_TAG);
    assert_eq!(pair.pending.len(), 6);
    // Both pieces of the second task.
    pair.complete_at(2, BlockStatus::MediumError);
    pair.complete_at(2, BlockStatus::Good);
    assert_eq!(pair.reply().itt(), 8);
    assert!(pair.nothing_sent());
    pair.complete_all();
    let response = pair.reply();
    assert_eq!((response.itt(), response.bhs[2]), (9, 0));
    pair.prompt = true;
    let attention = pair.command(5, 0x80, 0, &[0; 16], &[]);
    assert_eq!(attention.status(), (2, Some((6, 0x29, 3))));
    assert_eq!(pair.command(5, 0x80, 0, &[0; 16], &[]).status(), (0, None));
    pair.hang_up();
}

#[test]
fn functions_by_number() {
    let mut pair = Pair::logged_in(config());
    let cases = [
        (2, 0, 0),
        (2, 1, 2),
        (3, 0, 0),
        (3, 1, 2),
        (4, 0, 0),
        (4, 1, 2),
        (5, 1, 2),
        (6, 0, 0),
        (8, 0, 4),
        (9, 0, 255),
        (7, 0, 0),
    ];
    for (function, lun, response) in cases {
        management(&mut pair, function, lun, 9, NO_TAG);
        assert_eq!(pair.reply().bhs[2], response, "function {function}");
    }
    // A cold reset ends the session.
    assert_eq!(pair.closed, Some(CloseReason::Reset));
    pair.hang_up();
}

#[test]
fn bad_headers_end_the_session_with_a_reject() {
    let with = |bhs: [u8; 48], reason: u8| {
        let mut pair = Pair::logged_in(config());
        pair.stream.extend(bhs);
        pair.stream.extend(vec![0; usize::from(bhs[4]) * 4]);
        pair.run();
        expect_reject(&mut pair, reason);
        assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
        pair.hang_up();
    };
    with(request(0x1E, 0x80, 1, 0), 0x05);
    with(request(0x3F, 0x80, 1, 0), 0x05);
    with(request(0x10, 0x80, 1, 0), 0x04);
    with(request(0x03, 0x81, 1, 0), 0x04);
    with(request(0x01, 0x00, 1, 0), 0x09);
    with(request(0x01, 0x80, NO_TAG, 0), 0x09);
    with(request(0x04, 0xC0, 1, NO_TAG), 0x09);
    let mut with_ahs = request(0x00, 0x80, 1, NO_TAG);
    with_ahs[4] = 1;
    with(with_ahs, 0x09);
}

#[test]
fn a_segment_beyond_the_limit_closes_at_once() {
    let mut pair = Pair::logged_in(config());
    let mut bhs = pair.command_bhs(5, W, 1 << 20, &write10(0, 2048));
    bhs[5..8].copy_from_slice(&[0x04, 0x00, 0x01]);
    pair.stream.extend(bhs);
    pair.run();
    assert!(pair.nothing_sent());
    assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
}

#[test]
fn extended_cdbs_and_bidirectional_commands() {
    let mut pair = Pair::logged_in(config());
    let mut bhs = pair.command_bhs(5, 0x80, 0, &[0x7F; 16]);
    bhs[4] = 5;
    pair.stream.extend(bhs);
    pair.stream.extend([0, 17, 1, 0]);
    pair.stream.extend([0; 16]);
    pair.run();
    // Variable-length CDBs are parsed, and no command here has one.
    assert_eq!(pair.reply().status(), (2, Some((5, 0x20, 0))));
    let mut bhs = pair.command_bhs(5, 0xE0, 512, &read10(0, 1));
    bhs[4] = 2;
    pair.stream.extend(bhs);
    pair.stream.extend([0, 5, 2, 0, 0, 0, 2, 0]);
    pair.run();
    expect_reject(&mut pair, 0x09);
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let data = pattern(100_000, 5);
    let mut pair = Pair::logged_in(config());
    let mut bhs = pair.command_bhs(5, W, 99_840, &write10(3, 195));
    bhs[5..8].copy_from_slice(&[0, 0x20, 0]);
    let mut stream = bhs.to_vec();
    stream.extend(&data[..8192]);
    for chunk in stream.chunks(7) {
        pair.stream.extend(chunk);
        pair.run();
    }
    let r2t = pair.reply();
    let mut data_out = request(0x05, 0x80, 5, r2t.field(20));
    data_out[0] = 5;
    data_out[40..44].copy_from_slice(&8192u32.to_be_bytes());
    data_out[5..8].copy_from_slice(&(99_840u32 - 8192).to_be_bytes()[1..]);
    let mut stream = data_out.to_vec();
    stream.extend(&data[8192..99_840]);
    for chunk in stream.chunks(1001) {
        pair.stream.extend(chunk);
        pair.run();
    }
    assert_eq!(pair.reply().status(), (0, None));
    assert_eq!(pair.disk_at(3, 99_840), &data[..99_840]);
}

#[test]
fn a_logout_can_be_asked_for() {
    let mut pair = Pair::logged_in(config());
    pair.connection.on_logout_wanted(pair.now, 3, &mut pair.out);
    pair.run();
    let message = pair.reply();
    assert_eq!((message.opcode(), message.itt(), message.bhs[36]), (0x32, NO_TAG, 1));
    assert_eq!(message.bhs[42..44], [0, 3]);
    pair.wait(2);
    assert!(pair.closed.is_none());
    assert_eq!(pair.command(5, 0x80, 0, &[0; 16], &[]).status(), (0, None));
    pair.wait(1);
    assert_eq!(pair.closed, Some(CloseReason::Overstayed));
    let mut pair = Pair::logged_in(config());
    pair.connection.on_logout_wanted(pair.now, 3, &mut pair.out);
    pair.run();
    pair.reply();
    pair.send(request(0x06, 0x80, 9, 0), &[]);
    assert_eq!((pair.reply().opcode(), pair.closed), (0x26, Some(CloseReason::Logout)));
}

#[test]
fn tcp_may_end_at_any_point() {
    let data = pattern(1 << 17, 1);
    let mut pair = Pair::logged_in(config());
    pair.prompt = false;
    pair.send_command(1, R, 1 << 17, &read10(0, 256), &[]);
    pair.send_command(2, W, 1 << 17, &write10(0, 256), &data[..4096]);
    let mut bhs = pair.command_bhs(3, W, 4096, &write10(0, 8));
    bhs[6] = 0x10;
    pair.stream.extend(bhs);
    pair.stream.extend(&data[..100]);
    pair.run();
    assert!(!pair.pool.taken.is_empty());
    pair.hang_up();
}
