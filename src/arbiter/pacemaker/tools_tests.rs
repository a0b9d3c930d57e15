//! What the tools print, as Pacemaker 2.1 prints it.

use super::*;
use crate::arbiter::value::PairId;
use crate::arbitration::{Epoch, NodeSet};

fn tools() -> Tools {
    Tools::new(PacemakerConfig {
        me: NodeId(0),
        name: "a".into(),
        peer: "b".into(),
        volume: "vol1".into(),
        pair: PairId([7; 16]),
        own: Record::default(),
    })
}

fn monitor(options: &str, dc: &str, nodes: &[(&str, &str)]) -> String {
    let mut text = format!(
        "<pacemaker-result><summary><current_dc {dc} name=\"b\"/><cluster_options {options}/></summary><nodes>"
    );
    for (name, state) in nodes {
        text.push_str(&format!("<node name=\"{name}\" {state} type=\"member\"/>\n"));
    }
    text + "</nodes><resources><resource id=\"x\"><node name=\"a\" id=\"1\" cached=\"true\"/></resource></resources></pacemaker-result>"
}

const FENCED: &str = "stonith-enabled=\"true\"";
const QUORATE: &str = "present=\"true\" with_quorum=\"true\"";
const ONLINE: &str = "online=\"true\" pending=\"false\" unclean=\"false\"";
const OFF: &str = "online=\"false\" pending=\"false\" unclean=\"false\"";
const LOST: &str = "online=\"false\" pending=\"false\" unclean=\"true\"";
const COMING: &str = "online=\"true\" pending=\"true\" unclean=\"false\"";

#[test]
fn members_are_told_apart() {
    let text = monitor(FENCED, QUORATE, &[("a", ONLINE), ("b", OFF), ("w", LOST), ("v", COMING)]);
    let (quorate, members) = tools().members(&text).expect("readable");
    assert!(quorate);
    let seen: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.presence)).collect();
    assert_eq!(seen, [("b", Presence::Gone), ("w", Presence::Doubtful), ("v", Presence::Doubtful)]);
    for (own, dc) in [
        (ONLINE, "present=\"true\" with_quorum=\"false\""),
        (COMING, QUORATE),
        (ONLINE, "present=\"false\""),
        (LOST, QUORATE),
    ] {
        let text = monitor(FENCED, dc, &[("a", own), ("b", ONLINE)]);
        assert!(!tools().members(&text).expect("readable").0, "{own} {dc}");
    }
    let odd = monitor(FENCED, QUORATE, &[("a", ONLINE), ("b", "")]);
    assert_eq!(tools().members(&odd).expect("readable").1[0].presence, Presence::Doubtful);
}

#[test]
fn what_would_not_be_safe_is_refused() {
    let unsafe_by = |result: Result<_, PacemakerError>| match result {
        Err(PacemakerError::Unsafe(what)) => what,
        other => panic!("{other:?}"),
    };
    let nodes = [("a", ONLINE), ("b", ONLINE)];
    let off = monitor("stonith-enabled=\"false\"", QUORATE, &nodes);
    assert_eq!(unsafe_by(tools().members(&off).map(drop)), Unsafe::FencingOff);
    let alone = monitor(FENCED, QUORATE, &nodes[..1]);
    assert_eq!(unsafe_by(tools().members(&alone).map(drop)), Unsafe::NoNode("b".into()));
    assert!(tools().members("<pacemaker-result/>").is_err());

    let check = |text: &str| check_properties(&xml::tags(text).expect("whole"));
    let device = "<primitive id=\"f\" class=\"stonith\" type=\"fence_ipmilan\"/>";
    assert_eq!(check(device), Ok(()));
    assert_eq!(unsafe_by(check("<primitive id=\"x\" class=\"ocf\"/>")), Unsafe::NoDevice);
    let watchdog = |time: &str| {
        format!(
            "<nvpair name=\"have-watchdog\" value=\"true\"/><nvpair name=\"stonith-watchdog-timeout\" value=\"{time}\"/>"
        )
    };
    assert_eq!(check(&watchdog("10s")), Ok(()));
    assert_eq!(unsafe_by(check(&watchdog("0"))), Unsafe::NoDevice);
    let blind = format!("{device}<nvpair name=\"startup-fencing\" value=\"False\"/>");
    assert_eq!(unsafe_by(check(&blind)), Unsafe::NoStartupFencing);
}

#[test]
fn record_and_bid_are_read_as_they_are_written() {
    let tools = tools();
    let record = Record { epoch: Epoch(4), primary: Some(NodeId(1)), in_sync: NodeSet::BOTH, nonce: 9 };
    let text = |record: &str, bid: &str| {
        format!(
            "<xpath-query><cluster_property_set id=\"twinlun-vol1\"><nvpair id=\"twinlun-vol1-record\" value=\"{record}\"/>\
             <nvpair id=\"twinlun-vol1-bid\" value=\"{bid}\"/></cluster_property_set></xpath-query>"
        )
    };
    let read = |text: &str| tools.read_copy(&xml::tags(text).expect("whole"));
    assert_eq!(read("<xpath-query/>"), Ok(Copy::default()));
    let fresh = read(&text("none", "none")).expect("readable");
    assert_eq!((fresh.record, fresh.bid), (None, None));
    assert!(fresh.words.is_some());
    let words = tools.words(Some(&record));
    let bid = read(&text(&words, &format!("{words} by=1"))).expect("readable");
    assert_eq!((bid.record, bid.bid), (Some(record), Some(Bid { record, by: NodeId(1) })));
    for (record, bid) in [("hello", "none"), (words.as_str(), words.as_str()), (&words, "none by=1")] {
        assert!(matches!(read(&text(record, bid)), Err(PacemakerError::Value { .. })), "{record} {bid}");
    }
    assert!(read("<cluster_property_set id=\"twinlun-vol1\"/>").is_err());
}

#[test]
fn a_tool_is_waited_for_and_killed_in_time() {
    let said = run("cat", &[], Some("hello")).expect("it ends");
    assert_eq!((said.code, said.out.as_str()), (Some(0), "hello"));
    let said = run("ls", &["/nothing/here"], None).expect("it ends");
    assert!(said.code != Some(0) && matches!(said.failed("ls"), PacemakerError::Tool { .. }));
    assert!(matches!(run("no-such-tool", &[], None), Err(PacemakerError::Tool { .. })));
    assert!(matches!(run("sleep", &["600"], None), Err(PacemakerError::Tool { .. })));
}
