//! Several sessions on several shards: resets reach all of them, requests to leave, redirection, other address families.

use super::Target;
use super::client::{F, NO_TAG, W, Wire, as_text, cdb10};
use super::support::IQN;
use super::support::initiator::pattern;
use twinlun::engine::EngineRequest;

/// A session with a WRITE that waits for its data.
fn busy(target: &Target, isid: u8) -> Wire {
    let mut wire = Wire::session(target.address, isid);
    wire.send_command(77, W, 65_536, &cdb10(0x2A, 1000 * u32::from(isid), 65_536), &[]);
    assert_eq!(wire.receive().opcode(), 0x31);
    wire
}

#[test]
fn resets_reach_the_tasks_of_every_session_on_every_shard() {
    for shards in [1, 3] {
        let target = Target::new(shards);
        let mut asks = Wire::session(target.address, 0);
        for (function, attention) in [(4, None), (5, Some((6, 0x29, 3))), (6, Some((6, 0x29, 2)))] {
            let mut others: Vec<_> = (1..5).map(|isid| busy(&target, isid)).collect();
            asks.manage(function, 0, 1, NO_TAG);
            let answer = asks.receive();
            assert_eq!((answer.opcode(), answer.bhs[2]), (0x22, 0), "function complete");
            for other in &mut others {
                let aborted = other.receive();
                assert_eq!((aborted.itt(), aborted.status()), (77, (0x40, None)), "TASK ABORTED");
                // What was on its way for the aborted task is swallowed.
                let mut late = [0; 48];
                (late[0], late[1], late[19]) = (0x05, F, 77);
                other.send(late, &[1; 512]);
                if let Some(attention) = attention {
                    let heard = other.command(5, F, 0, &[0; 6], &[]);
                    assert_eq!(heard.status(), (2, Some(attention)));
                }
                assert!(other.is_ready());
            }
            asks.is_ready();
        }
        target.stop();
    }
}

#[test]
fn a_cold_reset_ends_every_session() {
    let target = Target::new(2);
    let mut asks = Wire::session(target.address, 0);
    let mut others: Vec<_> = (1..4).map(|isid| busy(&target, isid)).collect();
    asks.manage(7, 0, 1, NO_TAG);
    assert_eq!(asks.receive().bhs[2], 0);
    asks.expect_closed();
    for other in &mut others {
        assert_eq!(other.receive().status(), (0x40, None));
        other.expect_closed();
    }
    // And they are all welcome again.
    for isid in 0..4 {
        assert!(Wire::session(target.address, isid).is_ready());
    }
    target.stop();
}

#[test]
fn several_sessions_of_one_initiator_see_one_disk() {
    let target = Target::new(3);
    let mut sessions: Vec<_> = (0..6).map(|isid| Wire::session(target.address, isid)).collect();
    for (number, wire) in sessions.iter_mut().enumerate() {
        assert_eq!(
            wire.write(number as u32 * 128, &pattern(number as u64, 65_536), 8192).status(),
            (0, None)
        );
    }
    for wire in &mut sessions {
        for number in 0..6 {
            assert!(wire.read(number * 128, 65_536) == pattern(u64::from(number), 65_536));
        }
    }
    target.stop();
}

#[test]
fn initiators_are_asked_to_log_out() {
    let target = Target::new(2);
    let mut wires: Vec<_> = (0..3).map(|isid| Wire::session(target.address, isid)).collect();
    target.engine.request(EngineRequest::AskLogout { seconds: 1 });
    for wire in &mut wires {
        let message = wire.receive();
        assert_eq!(
            (message.opcode(), message.bhs[1], message.itt(), message.bhs[36]),
            (0x32, 0x80, NO_TAG, 1)
        );
        assert_eq!(message.word(40) & 0xFFFF, 1, "within a second");
    }
    // Two obey; the third is disconnected when the second is over.
    let mut last = wires.pop().expect("three");
    for wire in wires {
        wire.log_out();
    }
    last.expect_closed();
    target.stop();
}

#[test]
fn a_target_that_moved_says_where_to() {
    let target = Target::new(1);
    let mut stays = Wire::session(target.address, 1);
    target.engine.request(EngineRequest::Redirect(Some("192.0.2.2:3260".to_owned())));
    let refused = loop {
        // The engine hears of it a moment later.
        let mut wire = Wire::connect(target.address);
        let answer =
            wire.login(0x81, &format!("InitiatorName={} TargetName={IQN} AuthMethod=None", wire.initiator));
        if answer.login_status() != 0 {
            wire.expect_closed();
            break answer;
        }
    };
    assert_eq!((refused.login_status(), refused.text().as_str()), (0x0101, "TargetAddress=192.0.2.2:3260"));
    // Who is here stays, and who looks around is told of this portal.
    assert!(stays.is_ready());
    let mut wire = Wire::connect(target.address);
    let answer = wire.login(0x83, &format!("InitiatorName={} SessionType=Discovery", wire.initiator));
    assert_eq!(answer.login_status(), 0);
    target.engine.request(EngineRequest::Redirect(None));
    target.stop();
}

#[test]
fn portals_may_be_ipv6_and_several() {
    let target = Target::at("[::1]:0", 1, |_| ());
    let mut wire = Wire::session(target.address, 1);
    assert!(wire.is_ready());
    // SendTargets in a normal session: the target's own portals.
    let bhs = wire.request(0x04, F, 3, NO_TAG);
    wire.send(bhs, &as_text("SendTargets="));
    let listed = wire.receive().text();
    assert_eq!(listed, format!("TargetName={IQN} TargetAddress=[::1]:{},1", target.address.port()));
    target.stop();
    let target = Target::with(1, |config| {
        config.portals = vec!["192.0.2.1:3260".into(), "[2001:db8::1]:3260".into()];
    });
    let mut wire = Wire::session(target.address, 1);
    let bhs = wire.request(0x04, F, 3, NO_TAG);
    wire.send(bhs, &as_text("SendTargets="));
    let listed = wire.receive().text();
    let both = "TargetAddress=192.0.2.1:3260,1 TargetAddress=[2001:db8::1]:3260,1";
    assert_eq!(listed, format!("TargetName={IQN} {both}"));
    target.stop();
}
