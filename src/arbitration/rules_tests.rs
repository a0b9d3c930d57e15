use super::*;

const ME: NodeId = NodeId(0);
const PEER: NodeId = NodeId(1);

fn record(epoch: u64, primary: NodeId, in_sync: NodeSet) -> Record {
    Record { epoch: Epoch(epoch), primary: Some(primary), in_sync, nonce: 5 }
}

/// Where a step stands in a change.
fn place(change: Change, step: Step) -> Option<usize> {
    change.steps().iter().position(|&own| own == step)
}

fn gate() -> Gate {
    Gate {
        me: ME,
        seen: record(3, ME, NodeSet::BOTH),
        suspect: false,
        just_created: false,
        seed: false,
        forced: false,
        beside: false,
        by_person: false,
    }
}

#[test]
fn r1_rights_come_of_an_answered_change_and_of_nothing_else() {
    for change in Change::ALL {
        assert_eq!(change.steps().last(), Some(&Step::Act));
        assert!(place(change, Step::Ask) < place(change, Step::Act), "{change:?} asks before it acts");
        let current = record(7, ME, NodeSet::BOTH);
        assert_eq!(change.proposal(ME, current).epoch, Epoch(8), "every change is a new epoch");
        let other = record(8, PEER, NodeSet::only(PEER));
        let verdict = change.on_answer(CasOutcome::Lost(other), true);
        assert!(matches!(verdict, Verdict::Superseded(r) | Verdict::LostRace(r) if r == other), "{change:?}");
        assert_eq!(change.on_answer(CasOutcome::Won, false), Verdict::Granted);
    }
    // Who serves and loses must stop.
    for change in [Change::Alone, Change::Add, Change::HandOver] {
        let other = record(8, PEER, NodeSet::only(PEER));
        assert_eq!(change.on_answer(CasOutcome::Lost(other), false), Verdict::Superseded(other));
    }
}

#[test]
fn r1_a_person_is_asked_only_where_the_other_node_has_no_say() {
    for change in Change::ALL {
        let verdict = change.on_answer(CasOutcome::NeedsOperator, false);
        let agreed = matches!(change, Change::PromoteBeside | Change::Add | Change::HandOver);
        assert_eq!(verdict == Verdict::Granted, agreed, "{change:?}");
    }
    assert_eq!(Change::Promote.on_answer(CasOutcome::NeedsOperator, true), Verdict::Granted);
    assert_eq!(Change::Alone.on_answer(CasOutcome::NeedsOperator, true), Verdict::AwaitPerson);
}

#[test]
fn r2_the_link_is_closed_and_the_disk_drained_before_the_bid_for_the_lead() {
    assert!(place(Change::Promote, Step::Settle) < place(Change::Promote, Step::Ask));
    assert!(
        place(Change::Promote, Step::Read) < place(Change::Promote, Step::Settle),
        "a refusal costs no session"
    );
    assert!(
        is_refused(Epoch(2), Epoch(3)) && !is_refused(Epoch(3), Epoch(3)) && !is_refused(Epoch(4), Epoch(3))
    );
}

#[test]
fn r3_the_acting_set_covers_the_record() {
    // It shrinks after the answer: nothing but holding comes before.
    assert!(place(Change::Alone, Step::Settle) < place(Change::Alone, Step::Ask));
    assert!(place(Change::Alone, Step::Ask) < place(Change::Alone, Step::Act));
    // It grows before the question.
    assert!(place(Change::Add, Step::Settle) < place(Change::Add, Step::Ask));
    assert!(may_act_alone(ME, record(3, ME, NodeSet::only(ME))));
    for in_sync in [NodeSet::BOTH, NodeSet::NONE, NodeSet::only(PEER)] {
        assert!(!may_act_alone(ME, record(3, ME, in_sync)));
    }
}

#[test]
fn r3_what_the_record_says_already_is_not_asked_again() {
    assert!(Change::Alone.is_made(ME, record(3, ME, NodeSet::only(ME))));
    assert!(!Change::Alone.is_made(ME, record(3, ME, NodeSet::BOTH)));
    assert!(Change::Add.is_made(ME, record(3, ME, NodeSet::BOTH)));
    assert!(!Change::Add.is_made(ME, record(3, PEER, NodeSet::BOTH)));
    // A claim is always made anew (R7).
    assert!(!Change::Promote.is_made(ME, record(3, ME, NodeSet::only(ME))));
}

#[test]
fn r5_r6_who_bids_for_the_lead_has_outwaited_its_promise_with_the_link_closed() {
    for change in [Change::Promote, Change::PromoteBeside] {
        let wait = place(change, Step::Outwait);
        assert!(wait.is_some() && wait < place(change, Step::Ask), "{change:?}");
        assert!(place(change, Step::Settle) < wait, "{change:?}");
    }
    // The others are a leader's own, who follows nobody, or name the peer.
    for change in [Change::Alone, Change::Add, Change::HandOver, Change::Surrender] {
        assert_eq!(place(change, Step::Outwait), None, "{change:?}");
    }
}

#[test]
fn r7_r8_a_copy_that_may_lack_writes_is_not_served() {
    let both = record(3, ME, NodeSet::BOTH);
    assert!(may_lack_writes(ME, both, true) && may_lack_writes(PEER, both, true));
    assert!(!may_lack_writes(ME, both, false));
    assert!(!may_lack_writes(ME, record(3, ME, NodeSet::only(ME)), true), "alone it wrote through");
    assert!(!may_lack_writes(ME, Record::default(), true));
    let suspect = Gate { suspect: true, ..gate() };
    assert_eq!(suspect.check(both), Err(Denial::MayLackWrites));
    assert_eq!(suspect.check(record(3, ME, NodeSet::only(ME))), Ok(Change::Promote));
    assert_eq!(Gate { forced: true, ..suspect }.check(both), Ok(Change::Promote));
}

#[test]
fn r10_the_own_cache_is_flushed_before_any_bid_to_be_the_only_copy() {
    for change in Change::ALL {
        let alone = change.proposal(ME, record(3, ME, NodeSet::BOTH)).in_sync == NodeSet::only(ME);
        let flushes = place(change, Step::Flush).is_some_and(|flush| Some(flush) < place(change, Step::Ask));
        assert!(!alone || flushes, "{change:?}");
    }
}

#[test]
fn r12_a_hand_over_drains_and_keeps_both_copies() {
    let proposal = Change::HandOver.proposal(ME, record(3, ME, NodeSet::BOTH));
    assert_eq!((proposal.primary, proposal.in_sync), (Some(PEER), NodeSet::BOTH));
    assert!(place(Change::HandOver, Step::Settle) < place(Change::HandOver, Step::Flush));
    assert!(place(Change::HandOver, Step::Flush) < place(Change::HandOver, Step::Ask));
    assert_eq!(Change::HandOver.first(), Step::Read, "nothing stops for an arbiter that is away");
}

#[test]
fn r14_the_epoch_is_durable_before_the_first_answer() {
    for change in [Change::Alone, Change::Promote, Change::PromoteBeside, Change::Add] {
        assert!(place(change, Step::Ask) < place(change, Step::Record));
        assert!(place(change, Step::Record) < place(change, Step::Act));
    }
}

#[test]
fn s2_only_a_member_of_the_newest_set_asks_to_lead() {
    let stale = record(4, PEER, NodeSet::only(PEER));
    assert_eq!(gate().check(stale), Err(Denial::NotInSync));
    assert_eq!(gate().check(record(2, ME, NodeSet::BOTH)), Err(Denial::RecordWentBack));
    assert_eq!(gate().check(record(4, PEER, NodeSet::BOTH)), Ok(Change::Promote));
    let beside = Gate { beside: true, ..gate() };
    assert_eq!(beside.check(record(4, PEER, NodeSet::BOTH)), Ok(Change::PromoteBeside));
    assert_eq!(beside.check(record(4, ME, NodeSet::only(ME))), Ok(Change::Promote));
    assert_eq!(Gate { by_person: true, ..gate() }.check(gate().seen), Err(Denial::NeedsPerson));
    assert_eq!(Gate { by_person: true, ..beside }.check(gate().seen), Ok(Change::PromoteBeside));
}

#[test]
fn an_empty_disk_is_the_first_copy_only_on_a_persons_word() {
    let empty = Gate { seen: Record::default(), just_created: true, ..gate() };
    assert_eq!(empty.check(Record::default()), Err(Denial::NeverSynced));
    let seed = Gate { seed: true, ..empty };
    assert_eq!(seed.check(Record::default()), Ok(Change::Promote));
    assert_eq!(seed.check(record(1, ME, NodeSet::BOTH)), Err(Denial::NeverSynced), "others have begun");
}

#[test]
fn steps_follow_each_other() {
    for change in Change::ALL {
        let mut step = change.first();
        for &own in &change.steps()[1..] {
            step = change.after(step);
            assert_eq!(step, own);
        }
    }
}
