//! Taking up a posture: what happens to everything in hand when the coordinator decides anew.

use crate::block::BlockStatus;

use crate::time::Instant;

use super::effect::{Effect, Outbox};
use super::lane::Lane;
use super::messages::{LinkRole, Posture, Service, SyncRole};
use super::part::Part;
use super::primary::UNASKED;
use super::work::{Half, Kind, Stage};

impl Part {
    pub(super) fn take_up(&mut self, now: Instant, posture: Posture, out: &mut Outbox) {
        assert!(posture.serial > self.posture.serial, "postures come in order");
        assert!(posture.link == LinkRole::Off || posture.peer_shards > 0);
        let old = core::mem::replace(&mut self.posture, posture);
        self.settled = false;
        self.lanes_need_care = true;
        self.patience.begin(now, if posture.link == LinkRole::Lead { posture.peer_shards } else { 0 });
        if posture.answers() {
            self.hold.note(now, false);
        }
        self.device.begin(now, posture.service == Service::Both);
        let link_changed = old.session != posture.session || old.link != posture.link;
        if link_changed || posture.service != Service::Both {
            self.lease = None;
        }
        if link_changed && old.link == LinkRole::Lead {
            self.orphan_remote_requests();
            self.lose_peer(out);
            self.drop_orphaned_requests(out);
        }
        if old.forward && (link_changed || !posture.forward) {
            self.stop_forwarding();
        }
        if posture.forward || posture.service != Service::Closed {
            self.give_up_doubtful(out);
        }
        if link_changed && old.link == LinkRole::Follow {
            self.orphan_peer_works(out);
        }
        match posture.sync {
            SyncRole::Source { full } if link_changed || !matches!(old.sync, SyncRole::Source { .. }) => {
                self.begin_source(full, out);
            }
            SyncRole::Target if link_changed || old.sync != SyncRole::Target => self.reset_sync(),
            SyncRole::None if old.sync != SyncRole::None => {
                if old.sync == SyncRole::Target && !link_changed {
                    // The source has said that everything is here and flushed. Its flushes need not have come by every
                    // shard of this node, so some lanes have not heard of them.
                    self.lanes.iter_mut().for_each(Lane::mark_all_in_sync);
                }
                self.reset_sync();
                self.lanes.iter_mut().for_each(Lane::want_changed_pages);
            }
            _ => {}
        }
        if posture.wind_down {
            self.lanes.iter_mut().for_each(Lane::want_changed_pages);
        }
        let held_beside = old.service == Service::Held && old.link == LinkRole::Lead && !link_changed;
        if held_beside && posture.service == Service::Both {
            self.find_lost_again();
        }
        match posture.service {
            Service::Held => {}
            Service::Closed if posture.keeps_requests() => {
                self.hold_back(out);
                if posture.forward {
                    self.forward_parked(out);
                }
            }
            Service::Closed => self.close(out),
            Service::Standalone | Service::Alone | Service::Both => self.resume(out),
        }
    }

    /// The peer that this node led is out. Whatever it may lack is marked now, while the activity log still covers it;
    /// whether the waiting requests may be answered without it is for the next posture to say.
    fn lose_peer(&mut self, out: &mut Outbox) {
        let stable = self.flushes.stable();
        for lane in &mut self.lanes {
            lane.mark_unstable_out_of_sync(stable);
        }
        self.has_unstable = false;
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) {
                continue;
            }
            let work = *self.works.get(slot);
            match work.kind {
                Kind::Write { .. } | Kind::Zero { .. } if work.peer != Half::Idle => {
                    self.works.get_mut(slot).peer = Half::Lost;
                    self.lanes[usize::from(work.lane)].mark_out_of_sync(work.range);
                }
                // No confirmation of the old session counts for a read.
                Kind::Read => self.works.get_mut(slot).number = UNASKED,
                Kind::Resync => self.abandon_resync_run(slot, out),
                _ => {}
            }
        }
        self.reset_sync();
        self.confirmations.reset();
        self.confirm_waiters.clear();
        if let Some(group) = self.flushes.drop_peer() {
            self.on_stable(group, out);
        }
    }

    /// The peer came back while requests were held, and what it lacked was copied and flushed there: what a held write
    /// lost with the old link is on both copies.
    fn find_lost_again(&mut self) {
        for slot in 0..self.works.slots() {
            if self.works.is_live(slot) && self.works.get(slot).peer == Half::Lost {
                self.works.get_mut(slot).peer = Half::Done;
            }
        }
    }

    fn abandon_resync_run(&mut self, slot: u32, out: &mut Outbox) {
        let work = self.works.get_mut(slot);
        work.orphan = true;
        let lane = usize::from(work.lane);
        match work.stage {
            Stage::Running if work.local == Half::Pending => {}
            Stage::Running => self.end_resync_run(slot, out),
            _ => {
                let mut ready = alloc::vec::Vec::new();
                self.lanes[lane].conflicts.forget_waiting(slot, &mut ready);
                let work = self.works.remove(slot);
                self.resync_free.push(work.buf.expect("a resync run has a buffer").buf);
                self.run_ready(&ready, out);
            }
        }
    }

    /// The leader is gone: what waits is dropped unacknowledged, what is at the disk finishes without an answer.
    fn orphan_peer_works(&mut self, out: &mut Outbox) {
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) || !self.works.get(slot).kind.is_peer() {
                continue;
            }
            let work = self.works.get_mut(slot);
            if work.stage == Stage::Running {
                work.orphan = true;
                continue;
            }
            // Those set free by this are peer works too, still to come in this walk: none of them starts.
            let lane = usize::from(work.lane);
            let mut ready = alloc::vec::Vec::new();
            if !self.lanes[lane].conflicts.forget_waiting(slot, &mut ready) {
                self.lanes[lane].conflicts.release(slot, &mut ready);
            }
            let work = self.works.remove(slot);
            if let Some(slice) = work.buf {
                out.push(Effect::Free(slice.buf));
            }
        }
    }

    /// Initiators wait no longer. What is on its way to the disk is answered when it ends.
    pub(super) fn end_hold(&mut self, out: &mut Outbox) {
        if self.posture.service == Service::Held {
            self.give_up_requests(BlockStatus::NotReady, out);
            // Those that this set free on its way are answered as well.
            return self.parked.clear();
        }
        // Closed: whatever is not at a disk or at the leader holds nothing, and is in this list.
        for slot in core::mem::take(&mut self.parked) {
            self.complete(slot, BlockStatus::NotReady, out);
        }
    }

    /// The node does not serve: requests that have not reached a disk are refused, the others finish.
    fn close(&mut self, out: &mut Outbox) {
        self.parked.clear();
        // No read is answered any more; winding down keeps the link, and confirmations may still come.
        self.confirm_waiters.clear();
        self.give_up_requests(BlockStatus::NotServing, out);
    }

    fn give_up_requests(&mut self, status: BlockStatus, out: &mut Outbox) {
        for slot in 0..self.works.slots() {
            if self.works.is_live(slot) && self.works.get(slot).kind.is_request() {
                self.give_up_request(slot, status, out);
            }
        }
    }

    fn give_up_request(&mut self, slot: u32, status: BlockStatus, out: &mut Outbox) {
        let work = *self.works.get(slot);
        let lane = usize::from(work.lane);
        match (work.stage, work.kind) {
            (Stage::Parked, _) => self.complete(slot, status, out),
            (Stage::Running, Kind::Flush) => {
                self.flush_waiters.retain(|&waiter| waiter != slot);
                self.complete(slot, status, out);
            }
            // Whoever holds it gives it back.
            (Stage::Running, Kind::Lock) => {}
            (Stage::Running, _) => self.try_finish(slot, out),
            (Stage::Conflict, _) => {
                let mut ready = alloc::vec::Vec::new();
                let waited = self.lanes[lane].conflicts.forget_waiting(slot, &mut ready);
                assert!(waited, "a request in conflict waits in its lane");
                self.complete(slot, status, out);
                self.run_ready(&ready, out);
            }
            // In doubt, until the lost leader is known to have stopped.
            (Stage::Forwarded, _) => assert!(work.orphan),
            (Stage::Log, _) => {
                let waited = self.lanes[lane].forget_waiter(slot);
                assert!(waited, "a request that waits for the log is in one of the lists");
                self.refuse_holder(slot, status, out);
            }
            (Stage::Ready, _) => self.refuse_holder(slot, status, out),
        }
    }

    /// The node serves (again).
    fn resume(&mut self, out: &mut Outbox) {
        let both = self.posture.service == Service::Both;
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) {
                continue;
            }
            let work = *self.works.get(slot);
            if work.stage != Stage::Running || !(work.kind == Kind::Read || work.kind.is_write()) {
                continue;
            }
            if both && work.kind == Kind::Read {
                self.ask_confirmation(slot, out);
            }
            self.try_finish(slot, out);
        }
        let parked = core::mem::take(&mut self.parked);
        for slot in parked {
            let work = *self.works.get(slot);
            match (work.stage, work.kind) {
                (Stage::Parked, _) => self.start(slot, out),
                (Stage::Ready, kind) if kind.is_write() && work.number == 1 => self.issue_write(slot, out),
                (Stage::Ready, _) => self.begin(slot, out),
                (stage, _) => unreachable!("parked in stage {stage:?}"),
            }
        }
        self.fail_log_waiters(out);
        let stable = self.flushes.stable();
        self.on_stable(stable, out);
    }
}
