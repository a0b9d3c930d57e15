//! Text Requests in full feature phase (RFC 7143 §11.10-11, appendix C): SendTargets, and the one operational key that
//! may change later.
//!
//! One exchange at a time. Text in either direction may be cut anywhere (C bit); requests are bounded by
//! [`TEXT_BYTES_MAX`].

use alloc::string::String;
use alloc::vec::Vec;

use super::bhs::{NO_TAG, TextRequest};
use super::config::TargetConfig;
use super::effect::{CloseReason, Outbox};
use super::keys::{self, Pairs, TEXT_BYTES_MAX, TextError};
use super::pdu::{self, RejectReason};
use super::session::{Flow, Session};

/// Tag of the exchange that is going on. There is only one, so any tag but FFFFFFFFh does.
const EXCHANGE_TAG: u32 = 1;

/// A negotiation that takes more than one round.
#[derive(Debug)]
pub(super) struct TextExchange {
    itt: u32,
    /// The request as far as it came.
    request: Vec<u8>,
    /// The answer as far as it was not sent.
    reply: Vec<u8>,
}

impl Session {
    /// A Text Request with its data segment.
    pub(super) fn on_text(
        &mut self,
        request: &TextRequest,
        data: &[u8],
        portal: &str,
        out: &mut Outbox,
    ) -> Result<(), Flow> {
        self.admit(&request.sequence, 0)?;
        let mut exchange = match self.text.take() {
            // A request without tag starts afresh and ends whatever went on (§11.10.4).
            _ if request.ttt == NO_TAG => {
                TextExchange { itt: request.itt, request: Vec::new(), reply: Vec::new() }
            }
            Some(exchange) if request.ttt == EXCHANGE_TAG && exchange.itt == request.itt => exchange,
            _ => {
                let what = "a text request of no negotiation";
                return Err(Flow::Reject(RejectReason::ProtocolError, what));
            }
        };
        if exchange.reply.is_empty() {
            if exchange.request.len() + data.len() > TEXT_BYTES_MAX {
                return Err(Flow::Close(CloseReason::Protocol("too much text")));
            }
            exchange.request.extend_from_slice(data);
            if !request.more {
                let text = core::mem::take(&mut exchange.request);
                exchange.reply = self.answer_text(&text, portal).map_err(|_| {
                    Flow::Reject(RejectReason::ProtocolError, "text that is no list of key=value pairs")
                })?;
            }
        } else if !data.is_empty() {
            let what = "text while the answer is not complete";
            return Err(Flow::Reject(RejectReason::ProtocolError, what));
        }
        self.send_text(request, exchange, out);
        Ok(())
    }

    fn send_text(&mut self, request: &TextRequest, mut exchange: TextExchange, out: &mut Outbox) {
        let len = exchange.reply.len().min(self.parameters.initiator_max_recv as usize);
        let rest = exchange.reply.split_off(len);
        let now = core::mem::replace(&mut exchange.reply, rest);
        let more = !exchange.reply.is_empty();
        let last = request.last && !more;
        let ttt = if last { NO_TAG } else { EXCHANGE_TAG };
        let numbers = self.status_numbers();
        out.send_bytes(pdu::text_response(request.itt, ttt, last, more, numbers), &now);
        if !last {
            self.text = Some(exchange);
        }
    }

    fn answer_text(&mut self, text: &[u8], portal: &str) -> Result<Vec<u8>, TextError> {
        let mut reply = Vec::new();
        for pair in Pairs::new(text) {
            let (key, value) = pair?;
            match key {
                "SendTargets" => send_targets(&self.config, self.discovery, value, portal, &mut reply),
                "MaxRecvDataSegmentLength" => self.parameters.initiator_max_recv = keys::max_recv(value)?,
                _ => keys::answer_later(key, &mut reply),
            }
        }
        Ok(reply)
    }
}

/// Appendix C. A name that is not ours has no targets, which is an empty answer, not an error.
fn send_targets(config: &TargetConfig, discovery: bool, value: &str, portal: &str, out: &mut Vec<u8>) {
    let wanted = match value {
        "All" if discovery => true,
        // The session's own target; a discovery session has none.
        "" if !discovery => true,
        "All" | "" => return keys::put(out, "SendTargets", "Reject"),
        name => name.eq_ignore_ascii_case(&config.name),
    };
    if !wanted {
        return;
    }
    keys::put(out, "TargetName", &config.name);
    let mut address = |portal: &str, tag: u16| {
        // Without the portal group tag Windows calls the text invalid.
        let value: String = alloc::format!("{portal},{tag}");
        keys::put(out, "TargetAddress", &value);
    };
    if config.portals.is_empty() {
        address(portal, config.portal_group_tag);
    }
    for portal in &config.portals {
        address(portal, config.portal_group_tag);
    }
    if let Some((portals, tag)) = &config.peer_portals {
        portals.iter().for_each(|portal| address(portal, *tag));
    }
}
