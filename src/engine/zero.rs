//! What only shard 0 does: it hears the daemon, and decides for all shards.

use crossbeam_channel::{Receiver, Sender};

use super::reactor::Completion;
use super::run::{EngineEvent, EngineRequest};
use super::shard::Shard;
use crate::time::Instant;
use crate::units::SessionId;
use crate::volume::effect::{DiskResult, OpId};
use crate::volume::messages::{PartReport, Posture, Service};

/// See the module.
pub struct Zero {
    requests: Receiver<EngineRequest>,
    events: Sender<EngineEvent>,
}

impl Zero {
    pub fn new(requests: Receiver<EngineRequest>, events: Sender<EngineEvent>) -> Self {
        Self { requests, events }
    }

    pub fn on_start(&mut self, shard: &mut Shard) {
        shard.posture(Posture { serial: 1, service: Service::Standalone, ..Posture::START });
        match shard.serve(true) {
            Ok(()) => self.tell(EngineEvent::Serving { addresses: shard.target.bound() }),
            Err(error) => self.tell(EngineEvent::Failed { why: error.to_string() }),
        }
    }

    /// Is there something from the daemon?
    pub fn has_control(&self) -> bool {
        !self.requests.is_empty()
    }

    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Once each turn: the daemon's requests and timers.
    pub fn on_turn(&mut self, shard: &mut Shard) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                EngineRequest::Stop => {
                    shard.tell_others(|| super::plumbing::Message::Stop);
                    shard.stop();
                }
            }
        }
    }

    pub fn flush(&mut self, _shard: &mut Shard) {}

    pub fn on_completion(&mut self, _completion: Completion, _shard: &mut Shard) {}

    pub fn on_disk(&mut self, _op: OpId, _result: DiskResult, _shard: &mut Shard) {}

    pub fn on_report(&mut self, _report: PartReport, _shard: &mut Shard) {}

    pub fn on_link_lost(&mut self, _session: SessionId, _why: &str, _shard: &mut Shard) {}

    fn tell(&self, event: EngineEvent) {
        // The daemon may have stopped listening.
        let _ = self.events.send(event);
    }
}
