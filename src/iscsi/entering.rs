//! A connection's way through the login: requests to [`Login`], responses out, admission by the driver.

use alloc::boxed::Box;

use crate::wire::SerialNumber;

use super::bhs::{self, Bhs, LoginRequest, Stage};
use super::connection::{Connection, Phase};
use super::effect::{CloseReason, Effect, NexusName, Outbox};
use super::login::{Agreement, Login, LoginStatus, Refusal, Reply, Step};
use super::pdu::{LoginResponse, Numbers};

#[derive(Debug)]
pub(super) struct LoginPhase {
    pub(super) login: Login,
    pub(super) stat_sn: SerialNumber,
}

/// A login that is agreed and waits for the driver.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) agreement: Agreement,
    pub(super) reply: Reply,
    pub(super) request: LoginRequest,
    pub(super) stat_sn: SerialNumber,
}

impl Connection {
    pub(super) fn on_login(&mut self, request: &LoginRequest, data: &[u8], out: &mut Outbox) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(None));
        let Phase::Login(login_phase) = phase else {
            self.phase = phase;
            return;
        };
        let LoginPhase { login, stat_sn } = *login_phase;
        match login.on_request(request, data, &self.config) {
            Step::Next(login, reply) => {
                self.send_login(request, &reply, request.tsih, stat_sn, out);
                self.phase = Phase::Login(Box::new(LoginPhase { login: *login, stat_sn: stat_sn.next() }));
            }
            Step::Done(agreement, reply) => {
                let nexus = NexusName {
                    initiator: agreement.initiator.clone(),
                    isid: agreement.isid,
                    portal_group_tag: self.config.portal_group_tag,
                };
                let Agreement { discovery, tsih, cid, .. } = agreement;
                let request = *request;
                self.phase = Phase::Admission(Box::new(Admission { agreement, reply, request, stat_sn }));
                out.push(Effect::FullFeature { nexus, tsih, cid, discovery });
            }
            Step::Refuse(Refusal { status, text }) => {
                self.send_login_status(request, stat_sn, status, &text, out);
                // The login is consumed, so the phase is over already.
                out.push(Effect::Close { reason: CloseReason::LoginRefused(status) });
            }
        }
    }

    fn login_numbers(&self, cmd_sn: SerialNumber, stat_sn: SerialNumber) -> Numbers {
        let window = u32::from(self.config.limits.window);
        Numbers { stat_sn, exp_cmd_sn: cmd_sn, max_cmd_sn: cmd_sn.plus(window).minus(1) }
    }

    pub(super) fn send_login(
        &self,
        request: &LoginRequest,
        reply: &Reply,
        tsih: u16,
        stat_sn: SerialNumber,
        out: &mut Outbox,
    ) {
        let response = LoginResponse {
            transit: reply.transit,
            more: reply.more,
            stage: reply.stage,
            isid: request.isid,
            tsih,
            itt: request.itt,
            status: LoginStatus::Success as u16,
        };
        out.send_bytes(response.encode(self.login_numbers(request.cmd_sn, stat_sn)), &reply.text);
    }

    pub(super) fn send_login_status(
        &self,
        request: &LoginRequest,
        stat_sn: SerialNumber,
        status: LoginStatus,
        text: &[u8],
        out: &mut Outbox,
    ) {
        let response = LoginResponse {
            transit: None,
            more: false,
            stage: request.stage,
            isid: request.isid,
            tsih: request.tsih,
            itt: request.itt,
            status: status as u16,
        };
        out.send_bytes(response.encode(self.login_numbers(request.cmd_sn, stat_sn)), text);
    }

    /// Refuses what is no login, or none that makes sense.
    pub(super) fn refuse_login(&mut self, bhs: &Bhs, status: LoginStatus, out: &mut Outbox) {
        if let Phase::Login(login) = &self.phase {
            let stat_sn = login.stat_sn;
            let request = LoginRequest {
                transit: None,
                more: false,
                stage: Stage::Security,
                version_max: 0,
                version_min: 0,
                isid: [0; 6],
                tsih: 0,
                itt: bhs::itt_of(bhs),
                cid: 0,
                cmd_sn: SerialNumber(u32::from_be_bytes([bhs[24], bhs[25], bhs[26], bhs[27]])),
                exp_stat_sn: SerialNumber(0),
            };
            self.send_login_status(&request, stat_sn, status, &[], out);
        }
        self.close(CloseReason::LoginRefused(status), out);
    }
}
