//! Two ends against each other, every message seen and changed on its way.

use alloc::vec;

use proptest::prelude::*;

use crate::arbitration::Reads;

use super::message::HELLO_BYTES;
use super::*;

const SECRET: &[u8] = b"correct horse battery";
const SESSIONS: Sessions = Sessions { new: SessionId(77), current: Some(SessionId(5)) };
const DATA: Purpose = Purpose::Data { session: SessionId(5), local: ShardId(1), peer: ShardId(2) };

fn key(secret: &[u8]) -> LinkKey {
    LinkKey::new(secret).expect("the secret is long enough")
}

fn end(node: u8) -> LocalEnd {
    LocalEnd {
        volume: [9; 16],
        volume_name: String::from("vol1"),
        node: NodeId(node),
        shards: 2 + node,
        life: [node + 40; 16],
        versions: VERSIONS,
        reads: Reads::Confirm,
    }
}

fn listener(sessions: Sessions) -> Handshake {
    Handshake::accept(key(SECRET), end(1), sessions, [2; 32])
}

fn connector(purpose: Purpose) -> (Handshake, Vec<u8>) {
    Handshake::connect(key(SECRET), end(0), purpose, [1; 32])
}

fn send(step: Result<Step, Refusal>) -> Vec<u8> {
    match step {
        Ok(Step::Send(message)) => message,
        other => panic!("expected a message to send, got {other:?}"),
    }
}

/// Runs a handshake to its end, `tamper` seeing each of the four messages on its way.
fn run(
    mut connect: (Handshake, Vec<u8>),
    mut accept: Handshake,
    mut tamper: impl FnMut(usize, &mut Vec<u8>),
) -> Result<(Established, Established), HandshakeError> {
    let mut message = connect.1;
    tamper(0, &mut message);
    for turn in 0.. {
        match accept.on_message(&message) {
            Ok(Step::Send(answer)) => message = answer,
            Ok(Step::SendAndDone(mut last, theirs)) => {
                tamper(turn * 2 + 1, &mut last);
                return match connect.0.on_message(&last) {
                    Ok(Step::Done(ours)) => Ok((ours, theirs)),
                    Ok(step) => panic!("the connector does not end: {step:?}"),
                    Err(refusal) => Err(refusal.error),
                };
            }
            Ok(Step::Done(_)) => panic!("the listener has the last word"),
            Err(refusal) => return Err(refusal.error),
        }
        tamper(turn * 2 + 1, &mut message);
        message = match connect.0.on_message(&message) {
            Ok(Step::Send(message)) => message,
            Ok(step) => panic!("the connector ends too early: {step:?}"),
            Err(refusal) => return Err(refusal.error),
        };
        tamper(turn * 2 + 2, &mut message);
    }
    unreachable!("the loop returns")
}

#[test]
fn a_control_link_starts_the_listeners_session() {
    let (ours, theirs) = run(connector(Purpose::Control), listener(SESSIONS), |_, _| {}).expect("both agree");
    assert_eq!(
        ours,
        Established {
            peer: NodeId(1),
            peer_shards: 3,
            peer_life: [41; 16],
            purpose: Purpose::Control,
            session: SessionId(77),
            version: 2,
        }
    );
    assert_eq!(theirs, Established { peer: NodeId(0), peer_shards: 2, peer_life: [40; 16], ..ours });
}

#[test]
fn a_data_link_joins_its_session() {
    let (ours, theirs) = run(connector(DATA), listener(SESSIONS), |_, _| {}).expect("both agree");
    assert_eq!((ours.purpose, ours.session), (DATA, SessionId(5)));
    let mirrored = Purpose::Data { session: SessionId(5), local: ShardId(2), peer: ShardId(1) };
    assert_eq!((theirs.purpose, theirs.session), (mirrored, SessionId(5)));
}

#[test]
fn both_ends_name_the_same_fault() {
    let other_volume = LocalEnd { volume: [8; 16], volume_name: String::from("vol2"), ..end(1) };
    let newer = LocalEnd { versions: VersionRange { min: 3, max: 4 }, ..end(1) };
    let cases = [
        (other_volume, HandshakeError::OtherVolume { theirs: String::from("vol2") }),
        (end(0), HandshakeError::SameNode(NodeId(0))),
        (
            LocalEnd { reads: Reads::Lease, ..end(1) },
            HandshakeError::OtherReads { ours: Reads::Confirm, theirs: Reads::Lease },
        ),
        (newer.clone(), HandshakeError::VersionMismatch { ours: VERSIONS, theirs: newer.versions }),
    ];
    for (remote, expected) in cases {
        let (mut connect, hello) = connector(Purpose::Control);
        let mut accept = Handshake::accept(key(SECRET), remote, SESSIONS, [2; 32]);
        let refusal = accept.on_message(&hello).expect_err("the listener sees it first");
        assert_eq!(
            core::mem::discriminant(&refusal.error),
            core::mem::discriminant(&expected),
            "{:?}",
            refusal.error
        );
        let seen = connect.on_message(&refusal.reply).expect_err("the connector sees it in the answer");
        assert_eq!(seen, silent(expected));
        assert!(connect.on_message(&refusal.reply).is_err(), "a refused handshake is over");
    }
}

#[test]
fn another_secret_is_refused_at_both_ends() {
    let (mut connect, hello) = Handshake::connect(key(&[7; 16]), end(0), Purpose::Control, [1; 32]);
    let mut accept = listener(SESSIONS);
    let answer = send(accept.on_message(&hello));
    let proof = send(connect.on_message(&answer));
    let refusal = accept.on_message(&proof).expect_err("the proof is wrong");
    assert_eq!(refusal.error, HandshakeError::WrongSecret);
    let heard = connect.on_message(&refusal.reply).expect_err("the listener says so");
    assert_eq!(heard.error, HandshakeError::Refused(RefusalReason::WrongSecret));
}

#[test]
fn a_listener_that_does_not_know_the_secret_is_refused() {
    let (mut connect, hello) = connector(Purpose::Control);
    let answer = send(listener(SESSIONS).on_message(&hello));
    send(connect.on_message(&answer));
    let forged = Message::Proof([0; MAC_BYTES]).encode();
    assert_eq!(connect.on_message(&forged), Err(silent(HandshakeError::WrongSecret)));
}

#[test]
fn sessions_and_shards_must_exist() {
    for current in [None, Some(SessionId(6))] {
        let result = run(connector(DATA), listener(Sessions { current, ..SESSIONS }), |_, _| {});
        assert_eq!(result, Err(HandshakeError::UnknownSession(SessionId(5))));
    }
    let far = Purpose::Data { session: SessionId(5), local: ShardId(0), peer: ShardId(3) };
    let result = run(connector(far), listener(SESSIONS), |_, _| {});
    assert_eq!(result, Err(HandshakeError::UnknownShard { shard: ShardId(3), of: 3 }));
}

#[test]
fn an_unknown_session_is_told_only_to_who_has_the_secret() {
    let stranger = Handshake::connect(key(&[7; 16]), end(0), DATA, [1; 32]);
    let result = run(stranger, listener(Sessions { current: None, ..SESSIONS }), |_, _| {});
    assert_eq!(result, Err(HandshakeError::WrongSecret));
}

#[test]
fn an_old_conversation_proves_nothing() {
    let mut recorded = vec![Vec::new(); 4];
    run(connector(Purpose::Control), listener(SESSIONS), |at, message| recorded[at] = message.clone())
        .expect("both agree");

    let mut accept = Handshake::accept(key(SECRET), end(1), SESSIONS, [3; 32]);
    send(accept.on_message(&recorded[0]));
    let refusal = accept.on_message(&recorded[2]).expect_err("the proof is of another nonce");
    assert_eq!(refusal.error, HandshakeError::WrongSecret);

    let (mut connect, _) = Handshake::connect(key(SECRET), end(0), Purpose::Control, [4; 32]);
    send(connect.on_message(&recorded[1]));
    assert_eq!(connect.on_message(&recorded[3]), Err(silent(HandshakeError::WrongSecret)));
}

#[test]
fn messages_sent_back_to_their_author_are_refused() {
    let (mut connect, hello) = connector(Purpose::Control);
    let refusal = connect.on_message(&hello).expect_err("its own Hello");
    assert_eq!(refusal.error, HandshakeError::SameNode(NodeId(0)));

    let (mut connect, hello) = connector(Purpose::Control);
    let answer = send(listener(SESSIONS).on_message(&hello));
    let proof = send(connect.on_message(&answer));
    assert_eq!(connect.on_message(&proof), Err(silent(HandshakeError::WrongSecret)));

    // Two listeners played against each other: the answer of one is no question to the other.
    let mut other = Handshake::accept(key(SECRET), end(0), SESSIONS, [6; 32]);
    let refusal = other.on_message(&answer).expect_err("a listener's Hello");
    assert!(matches!(refusal.error, HandshakeError::BadMessage(_)));
}

#[test]
fn every_changed_byte_is_refused() {
    let mut lengths = vec![0; 4];
    run(connector(DATA), listener(SESSIONS), |at, message| lengths[at] = message.len()).expect("both agree");
    assert_eq!(lengths, [HELLO_BYTES, HELLO_BYTES, 40, 40]);
    for (number, length) in lengths.into_iter().enumerate() {
        for at in 0..length {
            for bit in 0..8 {
                let result = run(connector(DATA), listener(SESSIONS), |turn, message| {
                    if turn == number {
                        message[at] ^= 1 << bit;
                    }
                });
                assert!(result.is_err(), "message {number} byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn messages_out_of_turn_end_the_handshake() {
    let proof = Message::Proof([1; MAC_BYTES]).encode();
    let mut accept = listener(SESSIONS);
    assert!(matches!(accept.on_message(&proof), Err(Refusal { error: HandshakeError::BadMessage(_), .. })));
    let (_, hello) = connector(Purpose::Control);
    assert!(accept.on_message(&hello).is_err());

    let (mut connect, hello) = connector(Purpose::Control);
    let mut accept = listener(SESSIONS);
    let answer = send(accept.on_message(&hello));
    assert!(accept.on_message(&hello).is_err(), "two Hellos");
    send(connect.on_message(&answer));
    assert!(connect.on_message(&answer).is_err(), "two answers");
}

#[test]
fn releases_without_a_common_version_still_understand_each_other() {
    let (_, mut hello) = connector(Purpose::Control);
    hello[8..12].copy_from_slice(&[4, 0, 9, 0]);
    hello.extend_from_slice(&[0xAA; 100]);
    let refusal = listener(SESSIONS).on_message(&hello).expect_err("a later release");
    let theirs = VersionRange { min: 4, max: 9 };
    assert_eq!(refusal.error, HandshakeError::VersionMismatch { ours: VERSIONS, theirs });
    assert!(refusal.reply.len() == HELLO_BYTES);
}

#[test]
fn secrets_are_long_and_never_shown() {
    assert_eq!(LinkKey::new(&[1; 15]).err(), Some(SecretTooShort { bytes: 15 }));
    assert_eq!(alloc::format!("{:?}", key(SECRET)), "LinkKey(..)");
    let shown = alloc::format!("{:?}", listener(SESSIONS));
    assert!(!shown.contains("horse"));
}

#[test]
fn names_from_the_wire_are_shown_harmless() {
    let theirs = String::from("x\u{1b}[2J\n");
    let shown = alloc::format!("{}", HandshakeError::OtherVolume { theirs });
    assert!(shown.chars().all(|c| !c.is_control()), "{shown}");
}

#[test]
fn the_hello_has_its_documented_bytes() {
    let (_, hello) = connector(DATA);
    let mut expected = vec![0; HELLO_BYTES];
    expected[..20].copy_from_slice(b"TWHS\x01\x01\0\0\x02\0\x02\0\x00\x02\x02\x01\x02\x04\0\0");
    expected[24] = 5;
    expected[32..48].fill(9);
    expected[48..64].fill(40);
    expected[64..96].fill(1);
    expected[96..100].copy_from_slice(b"vol1");
    assert_eq!(hello, expected);
}

/// HMAC-SHA256 of RFC 4231 test case 3, so that the proof is the standard function.
#[test]
fn the_proof_is_hmac_sha256() {
    let mut mac = key(&[0xAA; 20]).0;
    mac.update(&[0xDD; 50]);
    let bytes: [u8; MAC_BYTES] = mac.finalize().into_bytes().into();
    let expected = [
        0x77, 0x3E, 0xA9, 0x1E, 0x36, 0x80, 0x0E, 0x46, 0x85, 0x4D, 0xB8, 0xEB, 0xD0, 0x91, 0x81,
        0xA7, //
        0x29, 0x59, 0x09, 0x8B, 0x3E, 0xF8, 0xC1, 0x22, 0xD9, 0x63, 0x55, 0x14, 0xCE, 0xD5, 0x65, 0xFE,
    ];
    assert_eq!(bytes, expected);
}

proptest! {
    #[test]
    fn noise_is_refused_without_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..600), keep in 0usize..20) {
        let (mut connect, hello) = connector(Purpose::Control);
        let mut message = hello.clone();
        message.truncate(keep);
        message.extend_from_slice(&noise);
        let mut accept = listener(SESSIONS);
        if let Ok(step) = accept.on_message(&message) {
            // A well-formed Hello by chance: it still proves nothing.
            prop_assert!(matches!(step, Step::Send(_)));
            prop_assert!(accept.on_message(&noise).is_err());
        }
        prop_assert!(connect.on_message(&noise).is_err());
    }

    #[test]
    fn a_wrong_field_never_connects(at in 0usize..HELLO_BYTES, value in any::<u8>(), turn in 0usize..2) {
        let mut changed = false;
        let result = run(connector(DATA), listener(SESSIONS), |number, message| {
            if number == turn {
                changed = message[at] != value;
                message[at] = value;
            }
        });
        prop_assert_eq!(result.is_err(), changed);
    }
}
