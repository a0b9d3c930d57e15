//! CHAP in both directions, who may log in, what they see, and where they are sent.

use zeroize::Zeroizing;

use super::pair::{BLOCKS, ENTROPY, Pair, TARGET, config};
use crate::iscsi::chap::{Algorithm, Chap, Credential};
use crate::iscsi::{CloseReason, LoginStatus, NamePattern, Network, Rule, Service, TargetConfig, View};

const SECRET: &str = "initiator-in";
const OWN_SECRET: &str = "target-out-secret";

fn credential(user: &str, secret: &str) -> Credential {
    Credential {
        user: user.into(),
        secret: Zeroizing::new(secret.as_bytes()[..secret.len().min(16)].to_vec()),
    }
}

fn chap() -> Chap {
    let own = Some(credential("disk", OWN_SECRET));
    Chap::new(credential("host", SECRET), own, Algorithm::ALL.to_vec()).expect("good credentials")
}

fn guarded() -> TargetConfig {
    let mut guarded = config();
    guarded.access.chap = Some(chap());
    guarded
}

fn names(methods: &str) -> String {
    format!("InitiatorName=iqn.a TargetName={TARGET} AuthMethod={methods}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Up to the challenge; returns what CHAP_A, CHAP_I and CHAP_C say.
fn challenged(pair: &mut Pair, algorithms: &str) -> String {
    pair.login_pdu(0x81, &names("CHAP,None"));
    let first = pair.reply();
    // The transit is not granted yet.
    assert_eq!((first.bhs[1], first.text().as_str()), (0x00, "AuthMethod=CHAP TargetPortalGroupTag=1"));
    pair.login_pdu(0x00, &format!("CHAP_A={algorithms}"));
    let second = pair.reply();
    assert_eq!((second.bhs[1], second.field(36)), (0x00, 0));
    second.text()
}

fn expect_status(pair: &mut Pair, status: u32) {
    assert_eq!(pair.reply().field(36) >> 16, status);
    assert!(matches!(pair.closed, Some(CloseReason::LoginRefused(_))));
    assert!(pair.nothing_sent());
    pair.hang_up();
}

#[test]
fn one_way_and_mutual_with_every_algorithm_in_both_encodings() {
    for (algorithm, encode) in Algorithm::ALL.into_iter().flat_map(|algorithm| {
        let hex: fn(&[u8]) -> String = |bytes| format!("0x{}", hex(bytes));
        let base64: fn(&[u8]) -> String = |bytes| format!("0b{}", data_encoding::BASE64.encode(bytes));
        [(algorithm, hex), (algorithm, base64)]
    }) {
        let mut pair = Pair::new(guarded());
        let number = algorithm as u8;
        let challenge = challenged(&mut pair, &format!("99,{number},5"));
        assert_eq!(challenge, format!("CHAP_A={number} CHAP_I=90 CHAP_C=0x{}", hex(&ENTROPY[1..])));
        let response = algorithm.response(90, SECRET.as_bytes(), &ENTROPY[1..]);
        let mine = [7; 20];
        let answer = format!("CHAP_N=host CHAP_R={} CHAP_I=0x21 CHAP_C={}", encode(&response), encode(&mine));
        pair.login_pdu(0x81, &answer);
        let last = pair.reply();
        let own = algorithm.response(0x21, &OWN_SECRET.as_bytes()[..16], &mine);
        assert_eq!((last.bhs[1], last.text()), (0x81, format!("CHAP_N=disk CHAP_R=0x{}", hex(&own))));
        pair.login_pdu(0x87, "");
        assert_eq!(pair.reply().bhs[1], 0x87);
        pair.hear_attention();
        pair.hang_up();
    }
    // One way, and straight on to full feature phase.
    let mut pair = Pair::new(guarded());
    challenged(&mut pair, "5");
    let response = Algorithm::Md5.response(90, SECRET.as_bytes(), &ENTROPY[1..]);
    pair.login_pdu(0x83, &format!("CHAP_N=host CHAP_R=0x{}", hex(&response)));
    assert_eq!(pair.reply().bhs[1], 0x83);
    pair.hear_attention();
}

#[test]
fn nobody_gets_past_the_security_stage_without_the_secret() {
    for (flags, text) in [
        (0x81, names("None")),
        (0x87, format!("InitiatorName=iqn.a TargetName={TARGET}")),
        (0x83, format!("InitiatorName=iqn.a TargetName={TARGET}")),
        (0x04, format!("InitiatorName=iqn.a TargetName={TARGET}")),
        (0x81, names("SRP,KRB5")),
        (0x81, format!("{} CHAP_N=host CHAP_R=0x00", names("CHAP"))),
        (0x81, format!("{} CHAP_A=5 CHAP_N=host CHAP_R=0x00", names("CHAP"))),
        (0x81, format!("{} CHAP_A=9,10", names("CHAP"))),
    ] {
        let mut pair = Pair::new(guarded());
        pair.login_pdu(flags, &text);
        expect_status(&mut pair, 0x0201);
    }
    // Pushing on does not help: the transit is withheld as long as nothing is shown.
    let mut pair = Pair::new(guarded());
    for text in [names("CHAP"), String::new(), String::new()] {
        pair.login_pdu(0x83, &text);
        assert_eq!(pair.reply().bhs[1], 0x00);
    }
    // And the operational stage cannot be entered by claiming to be in it.
    pair.login_pdu(0x87, "");
    expect_status(&mut pair, 0x0200);
}

#[test]
fn a_wrong_secret_and_an_unknown_name_are_answered_alike() {
    let response = |secret: &str| hex(&Algorithm::Sha256.response(90, secret.as_bytes(), &ENTROPY[1..]));
    let right = response(SECRET);
    let mut answers = Vec::new();
    for text in [
        format!("CHAP_N=host CHAP_R=0x{}", response("another-secret")),
        format!("CHAP_N=nobody CHAP_R=0x{right}"),
        format!("CHAP_N=host CHAP_R=0x{}", &right[2..]),
        format!("CHAP_N=host CHAP_R=0x{right}00"),
        format!("CHAP_N=host CHAP_R={right}"),
        format!("CHAP_R=0x{right}"),
        "CHAP_N=host".into(),
        "CHAP_N=host CHAP_R=0x".into(),
        format!("CHAP_N=host CHAP_R=0x{}", "ab".repeat(1100)),
        // Asked a second time, for another challenge.
        "CHAP_A=5".into(),
        // The target's own challenge, sent back to it (§9.2.1).
        format!("CHAP_N=host CHAP_R=0x{right} CHAP_I=90 CHAP_C=0x{}", hex(&ENTROPY[1..])),
        format!("CHAP_N=host CHAP_R=0x{right} CHAP_I=256 CHAP_C=0x01"),
        format!("CHAP_N=host CHAP_R=0x{right} CHAP_C=0x01"),
    ] {
        let mut pair = Pair::new(guarded());
        challenged(&mut pair, "7,5");
        pair.login_pdu(0x81, &text);
        let answer = pair.reply();
        assert_eq!(answer.field(36) >> 16, 0x0201, "{text}");
        assert_eq!(pair.closed, Some(CloseReason::LoginRefused(LoginStatus::AuthenticationFailure)));
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    // A key twice is no guess but nonsense.
    let mut pair = Pair::new(guarded());
    challenged(&mut pair, "7,5");
    pair.login_pdu(0x81, "CHAP_N=a CHAP_N=b");
    expect_status(&mut pair, 0x0200);
}

#[test]
fn who_asks_for_the_targets_secret_gets_it_only_where_there_is_one() {
    let mut one_way = config();
    one_way.access.chap =
        Some(Chap::new(credential("host", SECRET), None, vec![Algorithm::Md5]).expect("good"));
    let mut pair = Pair::new(one_way);
    challenged(&mut pair, "7,5");
    let response = hex(&Algorithm::Md5.response(90, SECRET.as_bytes(), &ENTROPY[1..]));
    pair.login_pdu(0x81, &format!("CHAP_N=host CHAP_R=0x{response} CHAP_I=1 CHAP_C=0x01"));
    expect_status(&mut pair, 0x0201);
}

#[test]
fn nobody_shows_a_secret_that_was_not_asked_for() {
    let mut pair = Pair::new(config());
    pair.login_pdu(0x81, &format!("{} CHAP_A=5", names("None")));
    expect_status(&mut pair, 0x0200);
}

#[test]
fn discovery_has_credentials_of_its_own() {
    let mut guarded = guarded();
    let mut pair = Pair::new(guarded);
    // None are set: discovery is open, the disk is not.
    pair.login_pdu(0x83, "InitiatorName=iqn.a SessionType=Discovery AuthMethod=None");
    assert_eq!(pair.reply().bhs[1], 0x83);
    guarded = config();
    let own = Chap::new(credential("finder", "discovery-secret"), None, vec![Algorithm::Md5]);
    guarded.access.discovery_chap = Some(own.expect("good"));
    let mut pair = Pair::new(guarded);
    pair.login_pdu(0x81, "InitiatorName=iqn.a SessionType=Discovery AuthMethod=CHAP");
    assert_eq!(pair.reply().text(), "AuthMethod=CHAP");
    pair.login_pdu(0x00, "CHAP_A=5");
    pair.reply();
    let response = hex(&Algorithm::Md5.response(90, b"discovery-secret", &ENTROPY[1..]));
    pair.login_pdu(0x83, &format!("CHAP_N=finder CHAP_R=0x{response}"));
    assert_eq!(pair.reply().bhs[1], 0x83);
}

#[test]
fn only_those_on_the_list_come_in() {
    let mut listed = config();
    let network = Network::new("10.0.0.0".parse().expect("an address"), 24);
    listed.access.rules.push(Rule {
        names: vec![NamePattern::new("iqn.2001-04.test:*")],
        networks: network.into_iter().collect(),
        chap: Some(chap()),
        view: None,
    });
    // By name; the rule's own CHAP counts.
    let mut pair = Pair::new(listed);
    pair.login_pdu(0x83, &format!("InitiatorName=IQN.2001-04.Test:a TargetName={TARGET}"));
    expect_status(&mut pair, 0x0201);
    for session in [format!("TargetName={TARGET}"), "SessionType=Discovery".into()] {
        let mut listed = config();
        listed.access.rules.push(Rule {
            names: Vec::new(),
            networks: Network::new("10.0.0.128".parse().expect("an address"), 25).into_iter().collect(),
            chap: None,
            view: None,
        });
        let mut pair = Pair::new(listed);
        pair.login_pdu(0x83, &format!("InitiatorName=iqn.2001-04.test:a {session}"));
        expect_status(&mut pair, 0x0202);
    }
}

#[test]
fn an_initiator_sees_its_own_lun_map() {
    let rule = |map: Vec<(u16, u16)>| {
        let mut mapped = config();
        let view = View::new(&mapped.scsi, &map).expect("a good map");
        mapped.access.rules.push(Rule { names: vec![], networks: vec![], chap: None, view: Some(view) });
        mapped
    };
    let report = |pair: &mut Pair| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[9]) = (0xA0, 64);
        pair.command(1, 0xC0, 64, &cdb, &[]).data
    };
    let mut pair = Pair::new(rule(vec![(9, 0)]));
    pair.login("");
    assert_eq!(report(&mut pair)[..16], [0, 0, 0, 8, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]);
    // LUN 0 is absent, LUN 9 is the disk.
    assert_eq!(pair.command(1, 0x80, 0, &[0; 16], &[]).status(), (2, Some((5, 0x25, 0))));
    let mut capacity = [0; 16];
    capacity[0] = 0x25;
    for _ in 0..2 {
        let mut bhs = pair.command_bhs(2, 0xC0, 8, &capacity);
        bhs[9] = 9;
        pair.send(bhs, &[]);
    }
    assert_eq!(pair.reply().status(), (2, Some((6, 0x29, 0))));
    assert_eq!(pair.reply().data[..4], (BLOCKS as u32 - 1).to_be_bytes());
    let mut pair = Pair::new(rule(vec![]));
    pair.login("");
    assert_eq!(report(&mut pair), [0; 8]);
    let scsi = config().scsi;
    assert!(View::new(&scsi, &[(0, 1)]).is_err() && View::new(&scsi, &[(1, 0), (2, 0)]).is_err());
    assert!(View::new(&scsi, &[(0x4000, 0)]).is_err());
}

#[test]
fn a_target_that_moved_says_where_to() {
    let moved = || Pair::arriving(config(), Service::Moved("10.0.0.2:3260".into()));
    let mut pair = moved();
    pair.login_pdu(0x81, &names("None"));
    let answer = pair.reply();
    assert_eq!((answer.field(36) >> 16, answer.bhs[1] & 0x80), (0x0101, 0));
    assert_eq!(answer.text(), "TargetAddress=10.0.0.2:3260");
    assert_eq!(pair.closed, Some(CloseReason::LoginRefused(LoginStatus::TargetMoved)));
    // Whoever asks for another target, or only looks around, is not sent away.
    let mut pair = moved();
    pair.login_pdu(0x81, "InitiatorName=iqn.a TargetName=iqn.other");
    expect_status(&mut pair, 0x0203);
    let mut pair = moved();
    pair.login_pdu(0x83, "InitiatorName=iqn.a SessionType=Discovery");
    assert_eq!(pair.reply().bhs[1], 0x83);
}

#[test]
fn a_connection_is_reinstated_with_its_sessions_tsih() {
    let mut pair = Pair::new(config());
    pair.tsih = 0x0808;
    pair.login_pdu(0x81, &names("None"));
    // Not a new session: the TSIH is known from the start (§11.13.4).
    assert_eq!(pair.reply().bhs[14..16], [8, 8]);
    pair.login_pdu(0x87, "");
    assert_eq!(pair.reply().bhs[14..16], [8, 8]);
    let (_, tsih, cid, _) = pair.nexus.clone().expect("asked for");
    assert_eq!((tsih, cid), (0x0808, 0));
    // The session goes on without its tasks.
    let attention = pair.command(0, 0x80, 0, &[0; 16], &[]);
    assert_eq!(attention.status().0, 2);
    // The driver knows of no such session.
    let mut pair = Pair::new(config());
    (pair.tsih, pair.admit) = (77, false);
    pair.login_pdu(0x83, &names("None"));
    pair.connection.on_refused(LoginStatus::SessionDoesNotExist, &mut pair.out);
    pair.run();
    expect_status(&mut pair, 0x020A);
}
