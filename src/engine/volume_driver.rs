//! Drives the part of the volume that this shard owns: requests in; disk operations, frames and answers out.

use std::collections::VecDeque;

use super::device::Page;
use super::link_driver::{FrameSink, LinkDriver};
use super::plumbing::{Message, Plumbing, boot_time};
use super::reactor::{DiskTag, File};
use crate::arbitration::Lease;
use crate::block::BlockRequest;
use crate::replication::frame::FrameHeader;
use crate::replication::receiver::Payload;
use crate::storage::Layout;
use crate::time::Instant;
use crate::units::SessionId;
use crate::volume::effect::{DiskResult, Effect, LinkNo, MetaPage, OpId, Outbox};
use crate::volume::messages::{PartReport, Posture};
use crate::volume::part::{Part, PartStats};

/// See the module.
pub struct VolumeDriver {
    part: Part,
    out: Outbox,
    data: File,
    metadata: File,
    layout: Layout,
    /// Reports for the coordinator, when this is its shard.
    pub reports: VecDeque<PartReport>,
}

impl VolumeDriver {
    pub fn new(part: Part, data: File, metadata: File, layout: Layout) -> Self {
        let out = Outbox::with_capacity(256);
        Self { part, out, data, metadata, layout, reports: VecDeque::new() }
    }

    pub fn on_request(&mut self, request: BlockRequest, links: &mut LinkDriver, plumbing: &mut Plumbing) {
        let now = self.time(plumbing);
        self.part.on_request(now, request, &mut self.out);
        self.drain(links, plumbing);
    }

    pub fn on_disk(&mut self, op: OpId, result: DiskResult, links: &mut LinkDriver, plumbing: &mut Plumbing) {
        let now = self.time(plumbing);
        self.part.on_disk(now, op, result, &mut self.out);
        self.drain(links, plumbing);
    }

    pub fn on_posture(&mut self, posture: Posture, links: &mut LinkDriver, plumbing: &mut Plumbing) {
        let now = self.time(plumbing);
        self.part.on_posture(now, posture, &mut self.out);
        self.drain(links, plumbing);
    }

    pub fn on_lease(&mut self, lease: Lease) {
        self.part.on_lease(lease);
    }

    /// The time of the turn; of the input itself where an answer may rest on it. (The process may have been stopped since
    /// the turn began.)
    fn time(&self, plumbing: &Plumbing) -> Instant {
        if self.part.reads_clock() { boot_time() } else { plumbing.now }
    }

    pub fn on_timer(&mut self, links: &mut LinkDriver, plumbing: &mut Plumbing) {
        if self.part.deadline().is_some_and(|at| at <= plumbing.now) {
            let now = self.time(plumbing);
            self.part.on_timer(now, &mut self.out);
            self.drain(links, plumbing);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.part.deadline()
    }

    pub fn data_file(&self) -> &File {
        &self.data
    }

    pub fn metadata_file(&self) -> &File {
        &self.metadata
    }

    pub fn stats(&self) -> PartStats {
        self.part.stats()
    }

    fn drain(&mut self, links: &mut LinkDriver, plumbing: &mut Plumbing) {
        if self.out.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        for effect in out.drain(..) {
            self.carry_out(effect, links, plumbing);
        }
        self.out = out;
    }

    fn carry_out(&mut self, effect: Effect, links: &mut LinkDriver, plumbing: &mut Plumbing) {
        match effect {
            Effect::DiskRead { op, offset, to, len } => {
                plumbing.reactor.disk_read(&self.data, DiskTag::Part(op), offset, to, len);
            }
            Effect::DiskWrite { op, offset, from, len, fua } => {
                plumbing.reactor.disk_write(&self.data, DiskTag::Part(op), offset, from, len, fua);
            }
            Effect::DiskZero { op, offset, len, fua, unmap, .. } => {
                plumbing.reactor.disk_zero(&self.data, DiskTag::Part(op), offset, len, unmap, fua);
            }
            Effect::DiskFlush { op } => plumbing.reactor.disk_flush(&self.data, DiskTag::Part(op)),
            Effect::MetaWrite { op, page } => {
                let mut bytes = Page::boxed();
                self.part.render(page, &mut bytes.0);
                let offset = match page {
                    MetaPage::ActivityLog { lane, page } => self.layout.activity_page_offset(lane, page),
                    MetaPage::Bitmap { lane, page } => self.layout.bitmap_page_offset(lane, page),
                };
                plumbing.reactor.page_write(&self.metadata, DiskTag::Part(op), offset, bytes);
            }
            Effect::LinkSend { link, header, payload } => {
                links.send(self.part.posture().session, link, header, payload, plumbing);
            }
            Effect::LinkSendBytes { link, header, payload } => {
                links.send_bytes(self.part.posture().session, link, header, &payload, plumbing);
            }
            Effect::LinkGive { link, header, payload, len } => {
                links.send(self.part.posture().session, link, header, Some((payload, len)), plumbing);
                plumbing.release(payload.buf);
            }
            Effect::Deliver { from, to, len, completion } => {
                plumbing.pool.arena().copy(from, to, len as usize);
                plumbing.release(from);
                plumbing.answer(completion);
            }
            Effect::Complete(completion) => plumbing.answer(completion),
            Effect::Free(buf) => plumbing.release(buf),
            Effect::Report(report) => {
                if plumbing.shard.0 == 0 {
                    self.reports.push_back(report);
                } else {
                    plumbing.mesh.send(crate::units::ShardId(0), Message::Report(report));
                }
            }
        }
    }
}

impl FrameSink for VolumeDriver {
    fn on_frame(
        &mut self,
        session: SessionId,
        link: LinkNo,
        header: &FrameHeader,
        payload: Payload<'_>,
        links: &mut LinkDriver,
        plumbing: &mut Plumbing,
    ) {
        let now = self.time(plumbing);
        self.part.on_frame(now, session, link, header, payload, &mut self.out);
        self.drain(links, plumbing);
    }
}
