//! Logins as real initiators do them, and as nobody should.

use super::pair::{Pair, TARGET, TSIH, config};
use crate::iscsi::{CloseReason, LoginStatus, Service, UnitSnapshot};
use crate::wire::Demand;

const OFFER: &str = "HeaderDigest=None,CRC32C DataDigest=None,CRC32C ErrorRecoveryLevel=2 InitialR2T=No \
     ImmediateData=Yes MaxRecvDataSegmentLength=65536 MaxBurstLength=262144 FirstBurstLength=65536 \
     MaxConnections=32 MaxOutstandingR2T=16 DefaultTime2Wait=0 DefaultTime2Retain=60";

fn status_of(pair: &mut Pair) -> u32 {
    pair.reply().field(36) >> 16
}

#[test]
fn windows_logs_in() {
    let mut pair = Pair::new(config());
    pair.login_pdu(
        0x81,
        &format!(
            "InitiatorName=iqn.1991-05.com.microsoft:host SessionType=Normal TargetName={TARGET} AuthMethod=None"
        ),
    );
    let first = pair.reply();
    assert_eq!(first.bhs[..4], [0x23, 0x81, 0, 0]);
    // TSIH stays 0 until the last response, and the tag comes in the first: Windows stalls otherwise.
    assert_eq!(first.bhs[8..16], [0x40, 0, 1, 0x37, 0, 0, 0, 0]);
    assert_eq!(first.text(), "AuthMethod=None TargetPortalGroupTag=1");
    assert_eq!((first.field(28), first.field(32)), (100, 227));
    pair.login_pdu(0x87, OFFER);
    let last = pair.reply();
    assert_eq!(last.bhs[..2], [0x23, 0x87]);
    assert!(last.bhs[14..16] != [0, 0]);
    assert_eq!(last.field(36), 0);
    assert_eq!(
        last.text(),
        "HeaderDigest=None DataDigest=None ErrorRecoveryLevel=0 InitialR2T=Yes ImmediateData=Yes \
         MaxBurstLength=262144 MaxConnections=1 MaxOutstandingR2T=8 DefaultTime2Wait=0 DefaultTime2Retain=0 \
         FirstBurstLength=65536 MaxRecvDataSegmentLength=262144"
    );
    let (nexus, tsih, cid, discovery) = pair.nexus.clone().expect("admitted");
    assert_eq!(nexus.initiator.as_str(), "iqn.1991-05.com.microsoft:host");
    assert_eq!((nexus.portal_group_tag, discovery), (1, false));
    assert_eq!((tsih, cid), (0, 0));
    assert_eq!(last.bhs[14..16], TSIH.to_be_bytes());
    pair.hear_attention();
    pair.hang_up();
}

#[test]
fn libiscsi_logs_in() {
    let mut pair = Pair::new(config());
    let names = format!(
        "InitiatorName=iqn.2007-10.com.github:sahlberg InitiatorAlias=a TargetName={TARGET} SessionType=Normal"
    );
    pair.login_pdu(0x81, &format!("{names} AuthMethod=CHAP,None"));
    assert_eq!(pair.reply().text(), "AuthMethod=None TargetPortalGroupTag=1");
    // It introduces itself again.
    let offer = "HeaderDigest=None,CRC32C DataDigest=None InitialR2T=No ImmediateData=Yes MaxBurstLength=262144 \
         FirstBurstLength=262144 MaxRecvDataSegmentLength=262144 DataPDUInOrder=Yes DefaultTime2Wait=2 \
         DefaultTime2Retain=0 IFMarker=No OFMarker=No MaxConnections=1 MaxOutstandingR2T=1 \
         ErrorRecoveryLevel=0 DataSequenceInOrder=Yes";
    pair.login_pdu(0x87, &format!("{names} {offer}"));
    let last = pair.reply();
    assert_eq!((last.bhs[1], last.field(36)), (0x87, 0));
    assert_eq!(
        last.text(),
        "HeaderDigest=None DataDigest=None InitialR2T=Yes ImmediateData=Yes MaxBurstLength=262144 \
         DataPDUInOrder=Yes DefaultTime2Wait=2 DefaultTime2Retain=0 IFMarker=No OFMarker=No MaxConnections=1 \
         MaxOutstandingR2T=1 ErrorRecoveryLevel=0 DataSequenceInOrder=Yes FirstBurstLength=65536 \
         MaxRecvDataSegmentLength=262144"
    );
}

#[test]
fn nobody_turns_into_somebody_else() {
    for later in ["InitiatorName=iqn.b", "TargetName=iqn.b", "SessionType=Discovery", "AuthMethod=None"] {
        let mut pair = Pair::new(config());
        pair.login_pdu(0x81, &format!("InitiatorName=iqn.a TargetName={TARGET} AuthMethod=None"));
        pair.reply();
        pair.login_pdu(0x87, later);
        assert_eq!(status_of(&mut pair), 0x0200, "{later}");
    }
}

#[test]
fn a_stage_may_take_several_requests() {
    let mut pair = Pair::new(config());
    pair.login_pdu(0x81, &format!("InitiatorName=iqn.a TargetName={TARGET} SessionType=Normal"));
    assert_eq!(pair.reply().text(), "TargetPortalGroupTag=1");
    pair.login_pdu(0x04, "HeaderDigest=None MaxBurstLength=262144");
    let middle = pair.reply();
    assert_eq!(middle.bhs[1], 0x04);
    assert_eq!(middle.text(), "HeaderDigest=None MaxBurstLength=262144 MaxRecvDataSegmentLength=262144");
    // Nothing is declared twice.
    pair.login_pdu(0x87, "");
    let last = pair.reply();
    assert_eq!((last.bhs[1], last.text().as_str()), (0x87, ""));
}

#[test]
fn straight_to_full_feature() {
    for flags in [0x83, 0x87] {
        let mut pair = Pair::new(config());
        pair.login_pdu(flags, &format!("InitiatorName=iqn.a TargetName={}", TARGET.to_uppercase()));
        let only = pair.reply();
        assert_eq!(only.bhs[1], flags);
        assert!(only.bhs[14..16] != [0, 0]);
        pair.hear_attention();
    }
}

#[test]
fn discovery_lists_the_target() {
    let mut pair = Pair::new(config());
    pair.login_pdu(0x81, "InitiatorName=iqn.a SessionType=Discovery AuthMethod=None");
    assert_eq!(pair.reply().text(), "AuthMethod=None");
    pair.login_pdu(0x87, "HeaderDigest=CRC32C,None MaxRecvDataSegmentLength=8192 MaxConnections=4");
    assert_eq!(
        pair.reply().text(),
        "HeaderDigest=None MaxConnections=Irrelevant MaxRecvDataSegmentLength=262144"
    );
    let text = |pair: &mut Pair, text: &str| {
        let mut bhs = [0; 48];
        bhs[..2].copy_from_slice(&[0x04, 0x80]);
        bhs[19] = 9;
        bhs[20..24].fill(0xFF);
        let cmd_sn = pair.next_cmd_sn();
        bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        pair.send(bhs, text.as_bytes());
        let answer = pair.reply();
        assert_eq!((answer.bhs[..2].to_vec(), answer.field(20)), (vec![0x24, 0x80], 0xFFFF_FFFF));
        answer.text()
    };
    let listed = format!("TargetName={TARGET} TargetAddress=10.0.0.1:3260,1");
    assert_eq!(text(&mut pair, "SendTargets=All\0"), listed);
    assert_eq!(text(&mut pair, &format!("SendTargets={TARGET}\0")), listed);
    assert_eq!(text(&mut pair, "SendTargets=iqn.other\0"), "");
    assert_eq!(text(&mut pair, "SendTargets=\0"), "SendTargets=Reject");
    // A discovery session runs no commands.
    pair.send_command(1, 0x80, 0, &[0; 16], &[]);
    assert_eq!(pair.reply().bhs[2], 0x04);
    assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
}

#[test]
fn refusals_name_their_reason() {
    let named = format!("InitiatorName=iqn.a TargetName={TARGET}");
    let cases = [
        (0x81, "TargetName=iqn.x".to_string(), 0x0207),
        (0x81, "InitiatorName=iqn.a".to_string(), 0x0207),
        (0x81, "InitiatorName=iqn.a TargetName=iqn.other".to_string(), 0x0203),
        (0x81, format!("{named} SessionType=Odd"), 0x0209),
        (0x81, format!("{named} AuthMethod=CHAP"), 0x0201),
        (0x81, format!("{named} InitiatorName=iqn.b"), 0x0200),
        (0x81, "InitiatorName=host".to_string(), 0x0200),
        (0x87, format!("{named} MaxRecvDataSegmentLength=1"), 0x0200),
        (0x87, format!("{named} InitialR2T=No InitialR2T=No"), 0x0200),
        (0x81, "noequals".to_string(), 0x0200),
        // Reserved stages, and a step back.
        (0x89, named.clone(), 0x0200),
        (0x84, named.clone(), 0x0200),
    ];
    for (flags, text, status) in cases {
        let mut pair = Pair::new(config());
        pair.login_pdu(flags, &text);
        assert_eq!(status_of(&mut pair), status, "{text}");
        assert!(matches!(pair.closed, Some(CloseReason::LoginRefused(_))), "{text}");
        pair.hang_up();
    }
}

#[test]
fn a_node_that_does_not_serve_says_so() {
    let mut pair = Pair::arriving(config(), Service::Closed);
    pair.login_pdu(0x81, &format!("InitiatorName=iqn.a TargetName={TARGET}"));
    assert_eq!(status_of(&mut pair), 0x0301);
    assert_eq!(pair.closed, Some(CloseReason::LoginRefused(LoginStatus::ServiceUnavailable)));
}

#[test]
fn versions_sessions_and_other_requests() {
    let with = |change: fn(&mut [u8; 48])| {
        let mut pair = Pair::new(config());
        let mut bhs = [0; 48];
        bhs[..2].copy_from_slice(&[0x43, 0x81]);
        change(&mut bhs);
        pair.send(bhs, format!("InitiatorName=iqn.a\0TargetName={TARGET}\0").as_bytes());
        let reply = pair.reply();
        assert_eq!(reply.opcode(), 0x23);
        reply.field(36) >> 16
    };
    assert_eq!(with(|_| ()), 0);
    assert_eq!(with(|bhs| bhs[2..4].fill(1)), 0x0205);
    // Version-max above ours is fine.
    assert_eq!(with(|bhs| bhs[2] = 1), 0);
    assert_eq!(with(|bhs| bhs[0] = 0x01), 0x020B);
    assert_eq!(with(|bhs| bhs[0] = 0x1F), 0x020B);
    // The default MaxRecvDataSegmentLength holds before full feature phase.
    let mut pair = Pair::new(config());
    let mut bhs = [0; 48];
    bhs[..2].copy_from_slice(&[0x43, 0x81]);
    pair.send(bhs, &[b'a'; 8193]);
    assert!(matches!(pair.closed, Some(CloseReason::Protocol(_))));
}

#[test]
fn text_may_be_cut_anywhere() {
    let text = format!("InitiatorName=iqn.a TargetName={TARGET} AuthMethod=None");
    for at in [1, 13, 14, 20, text.len() - 1] {
        let mut pair = Pair::new(config());
        let mut bhs = [0; 48];
        bhs[..2].copy_from_slice(&[0x43, 0x40]);
        let bytes = format!("{}\0", text.replace(' ', "\0")).into_bytes();
        pair.send(bhs, &bytes[..at]);
        let empty = pair.reply();
        assert_eq!((empty.bhs[1], empty.data.len()), (0x00, 0));
        bhs[1] = 0x81;
        pair.send(bhs, &bytes[at..]);
        let reply = pair.reply();
        assert_eq!(reply.bhs[1], 0x81);
        assert_eq!(reply.text(), "AuthMethod=None TargetPortalGroupTag=1");
    }
}

#[test]
fn text_without_end_is_refused() {
    let mut pair = Pair::new(config());
    let mut bhs = [0; 48];
    bhs[..2].copy_from_slice(&[0x43, 0x40]);
    for _ in 0..3 {
        pair.send(bhs, &[b'a'; 8000]);
    }
    assert_eq!(status_of(&mut pair), 0);
    assert_eq!(status_of(&mut pair), 0);
    assert_eq!(status_of(&mut pair), 0x0200);
    assert!(pair.closed.is_some());
}

#[test]
fn a_long_answer_is_continued() {
    let mut pair = Pair::new(config());
    pair.login_pdu(0x81, &format!("InitiatorName=iqn.a TargetName={TARGET}"));
    pair.reply();
    // Every key comes back as "kNNN=NotUnderstood".
    let keys: Vec<String> = (0..900).map(|n| format!("k{n:03}=1")).collect();
    pair.login_pdu(0x87, &keys.join(" "));
    let first = pair.reply();
    assert_eq!((first.bhs[1], first.data.len()), (0x44, 8192));
    let mut whole = first.data;
    loop {
        pair.login_pdu(0x87, "");
        let next = pair.reply();
        whole.extend(&next.data);
        if next.bhs[1] & 0x40 == 0 {
            assert_eq!(next.bhs[1], 0x87);
            break;
        }
        assert_eq!((next.bhs[1], &next.bhs[14..16]), (0x44, &[0, 0][..]));
    }
    let whole = String::from_utf8(whole).expect("text");
    assert_eq!(whole.matches("=NotUnderstood\0").count(), 900);
    // The answer is bounded, however short the keys.
    let mut pair = Pair::new(config());
    let keys: Vec<String> = (0..4000).map(|n| format!("{n:x}=")).collect();
    pair.login_pdu(0x44, &keys[..1300].join(" "));
    pair.reply();
    pair.login_pdu(0x83, &keys[1300..2600].join(" "));
    assert_eq!(status_of(&mut pair), 0x0200);
}

#[test]
fn the_login_timer_ends_a_silent_connection() {
    let mut pair = Pair::new(config());
    pair.login_pdu(0x81, &format!("InitiatorName=iqn.a TargetName={TARGET}"));
    pair.wait(14);
    assert_eq!(pair.closed, None);
    pair.wait(1);
    assert_eq!(pair.closed, Some(CloseReason::LoginTimeout));
    assert_eq!(pair.connection.demand(), Demand::Closed);
}

#[test]
fn success_waits_for_the_driver() {
    let mut pair = Pair::new(config());
    pair.admit = false;
    pair.login_pdu(0x87, &format!("InitiatorName=iqn.a TargetName={TARGET}"));
    // Reinstatement: the old session is closed before the new one is told of its success.
    assert!(pair.nexus.is_some() && pair.nothing_sent());
    assert_eq!(pair.connection.demand(), Demand::Stalled);
    pair.connection.on_admitted(pair.now, TSIH, &UnitSnapshot::empty(), &mut pair.out);
    pair.run();
    assert_eq!(pair.reply().bhs[1], 0x87);
    pair.hear_attention();
    // The older session of a nexus hears nothing more.
    pair.connection.on_close_wanted(CloseReason::Replaced, &mut pair.out);
    pair.run();
    assert_eq!(pair.closed, Some(CloseReason::Replaced));
    assert!(pair.connection.is_idle());
}
