//! Logins over the wire: CHAP, who may come in, caps, digests.

use super::Target;
use super::client::{F, NO_TAG, W, Wire, cdb10};
use super::support::IQN;
use super::support::initiator::pattern;
use twinlun::iscsi::chap::{Algorithm, Chap, Credential};
use twinlun::iscsi::{Caps, NamePattern, Rule, TargetConfig};

const SECRET: &[u8] = b"0123456789ab";
const OWN: &[u8] = b"another-secret";

fn guard(config: &mut TargetConfig) {
    let credential =
        |user: &str, secret: &[u8]| Credential { user: user.into(), secret: secret.to_vec().into() };
    let chap = Chap::new(credential("host", SECRET), Some(credential("disk", OWN)), Algorithm::ALL.to_vec());
    config.access.chap = Some(chap.expect("good credentials"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.strip_prefix("0x").expect("hexadecimal");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

/// Up to the challenge: identifier and challenge.
fn challenged(wire: &mut Wire, algorithm: u8) -> (u8, Vec<u8>) {
    let names = format!("InitiatorName={} TargetName={IQN} AuthMethod=CHAP,None", wire.initiator);
    assert_eq!(wire.login(0x81, &names).text(), "AuthMethod=CHAP TargetPortalGroupTag=1");
    let text = wire.login(0x00, &format!("CHAP_A={algorithm}")).text();
    let value = |key: &str| {
        let pair = text.split(' ').find_map(|pair| pair.strip_prefix(key)).expect(key);
        pair.strip_prefix('=').expect("a value").to_owned()
    };
    assert_eq!(value("CHAP_A"), algorithm.to_string());
    (value("CHAP_I").parse().expect("a byte"), bytes(&value("CHAP_C")))
}

#[test]
fn chap_both_ways_with_every_algorithm() {
    let target = Target::with(2, guard);
    let mut challenges = Vec::new();
    for algorithm in Algorithm::ALL {
        let mut wire = Wire::connect(target.address);
        let (id, challenge) = challenged(&mut wire, algorithm as u8);
        assert!(challenge.len() >= 16 && !challenges.contains(&challenge), "random, and never twice");
        let response = hex(&algorithm.response(id, SECRET, &challenge));
        challenges.push(challenge);
        let last = wire.login(0x81, &format!("CHAP_N=host CHAP_R=0x{response} CHAP_I=5 CHAP_C=0x0102030405"));
        let own = hex(&algorithm.response(5, OWN, &[1, 2, 3, 4, 5]));
        assert_eq!(last.text(), format!("CHAP_N=disk CHAP_R=0x{own}"));
        assert_eq!(wire.login(0x87, "").bhs[1], 0x87);
        wire.hear_attention();
        wire.log_out();
    }
    target.stop();
}

#[test]
fn nobody_without_the_secret_disturbs_a_session() {
    let target = Target::with(2, guard);
    let mut inside = Wire::connect(target.address);
    let (id, challenge) = challenged(&mut inside, 5);
    let response = hex(&Algorithm::Md5.response(id, SECRET, &challenge));
    let last = inside.login(0x83, &format!("CHAP_N=host CHAP_R=0x{response}"));
    inside.tsih = u16::from_be_bytes([last.bhs[14], last.bhs[15]]);
    inside.hear_attention();
    // The same initiator port, without the secret: the session is not reinstated.
    for tsih in [0, inside.tsih] {
        for text in ["CHAP_N=host CHAP_R=0x00", "CHAP_N=nobody CHAP_R=0x00"] {
            let mut wire = Wire::connect(target.address);
            wire.tsih = tsih;
            challenged(&mut wire, 7);
            assert_eq!(wire.login(0x83, text).login_status(), 0x0201);
            wire.expect_closed();
        }
        let mut wire = Wire::connect(target.address);
        wire.tsih = tsih;
        let text = format!("InitiatorName={} TargetName={IQN}", wire.initiator);
        assert_eq!(wire.login(0x87, &text).login_status(), 0x0201);
    }
    assert!(inside.is_ready());
    target.stop();
}

#[test]
fn only_those_on_the_list_come_in() {
    let target = Target::with(1, |config| {
        config.access.rules.push(Rule {
            names: vec![NamePattern::new("iqn.1991-05.com.microsoft:*")],
            networks: Vec::new(),
            chap: None,
            view: None,
        });
    });
    assert!(Wire::session(target.address, 1).is_ready());
    let mut wire = Wire::connect(target.address);
    let text = format!("InitiatorName=iqn.2001-04.test:a TargetName={IQN} AuthMethod=None");
    assert_eq!(wire.login(0x81, &text).login_status(), 0x0202);
    wire.expect_closed();
    target.stop();
}

#[test]
fn sessions_are_bounded() {
    let caps = Caps { sessions: 5, sessions_per_initiator: 3, ..Caps::default() };
    let target = Target::with(2, |config| config.caps = caps);
    let mut held: Vec<_> = (0..3).map(|isid| Wire::session(target.address, isid)).collect();
    let refused = |isid: u8, initiator: &str| {
        let mut wire = Wire::connect(target.address);
        wire.isid[5] = isid;
        let status = wire.login(0x83, &format!("InitiatorName={initiator} TargetName={IQN}")).login_status();
        if status != 0 {
            wire.expect_closed();
        }
        (status, wire)
    };
    let name = held[0].initiator.clone();
    assert_eq!(refused(9, &name).0, 0x0302, "the initiator has enough");
    let others: Vec<_> = (0..2).map(|isid| refused(isid, "iqn.2001-04.test:b")).collect();
    assert!(others.iter().all(|(status, _)| *status == 0));
    assert_eq!(refused(3, "iqn.2001-04.test:c").0, 0x0302, "the target has enough");
    // One that takes another's place needs no room.
    assert_eq!(refused(2, &name).0, 0);
    assert!(held[0].is_ready());
    target.stop();
}

#[test]
fn digests_hold_in_both_directions_and_damage_is_caught() {
    let target = Target::with(2, |config| config.limits.initial_r2t = false);
    let data = pattern(3, 1 << 20);
    for (header, digest) in [(true, false), (false, true), (true, true)] {
        let mut wire = Wire::connect(target.address);
        wire.isid[5] = u8::from(header) * 2 + u8::from(digest);
        let word = |on| if on { "CRC32C" } else { "None" };
        wire.enter(&format!(
            "HeaderDigest={} DataDigest={} MaxRecvDataSegmentLength=65536 MaxBurstLength=1048576",
            word(header),
            word(digest)
        ));
        (wire.header_digest, wire.data_digest) = (header, digest);
        wire.hear_attention();
        for len in [512, 4096, 65_536, 1 << 20] {
            assert_eq!(wire.write(64, &data[..len], len.min(8192)).status(), (0, None));
            assert!(wire.read(64, len) == data[..len]);
        }
        if !digest {
            continue;
        }
        // A Data-Out with one bit wrong, longer than what the target writes at once.
        wire.send_command(5, W, 262_144, &cdb10(0x2A, 64, 262_144), &[]);
        let r2t = wire.receive();
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[19]) = (0x05, F, 5);
        bhs[5..8].copy_from_slice(&[4, 0, 0]);
        bhs[20..24].copy_from_slice(&r2t.bhs[20..24]);
        let mut bytes = bhs.to_vec();
        if header {
            bytes.extend(twinlun::wire::crc32c(&bhs).to_le_bytes());
        }
        bytes.extend(vec![0xEE; 262_144]);
        bytes.extend((twinlun::wire::crc32c(&vec![0xEE; 262_144]) ^ 1).to_le_bytes());
        wire.send_raw(&bytes);
        let reject = wire.receive();
        assert_eq!((reject.opcode(), reject.bhs[2], reject.data.as_slice()), (0x3F, 0x02, &bhs[..]));
        assert_eq!(wire.receive().status(), (2, Some((0x0B, 0x47, 0x05))));
        assert!(wire.read(64, 262_144) == data[..262_144], "nothing of it was written");
        // Unsolicited data that is damaged.
        let ping = wire.request(0x00, F, 6, NO_TAG);
        wire.send(ping, &data[..100_000]);
        assert!(wire.receive().data == data[..65_536]);
        // A damaged header: nobody knows where the next one begins.
        if header {
            let mut bytes = wire.command_bhs(7, F, 0, &[0; 6]).to_vec();
            bytes.extend([0; 4]);
            wire.send_raw(&bytes);
            wire.expect_closed();
        }
    }
    target.stop();
}
