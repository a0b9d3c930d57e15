//! Logout (RFC 7143 §11.14-15). The response is sent when every task of the session is quiet, so that nothing written
//! before can land after it.

use super::bhs::Logout;
use super::effect::{CloseReason, Outbox};
use super::pdu::{self, LogoutResponse};
use super::session::{Flow, Session};
use super::task_management::Pending;

const CLOSE_SESSION: u8 = 0;
const CLOSE_CONNECTION: u8 = 1;
const REMOVE_FOR_RECOVERY: u8 = 2;

impl Session {
    pub(super) fn on_logout(&mut self, logout: &Logout, out: &mut Outbox) -> Result<(), Flow> {
        self.admit(&logout.sequence, 0)?;
        let refusal = match logout.reason {
            CLOSE_SESSION => None,
            CLOSE_CONNECTION if logout.cid == self.cid => None,
            CLOSE_CONNECTION => Some(LogoutResponse::CidNotFound),
            REMOVE_FOR_RECOVERY => Some(LogoutResponse::RecoveryNotSupported),
            _ => {
                let what = "an unknown reason to log out";
                return Err(Flow::Reject(super::pdu::RejectReason::InvalidField, what));
            }
        };
        if let Some(response) = refusal {
            self.answer_logout(logout.itt, response, out);
            return Ok(());
        }
        self.management.leaving = true;
        let slots = self.abort_where(|_| true, out);
        self.when_quiet(Pending::Logout { itt: logout.itt }, slots, None, out);
        Ok(())
    }

    pub(super) fn logged_out(&mut self, itt: u32, out: &mut Outbox) {
        self.answer_logout(itt, LogoutResponse::Closed, out);
        self.finished = Some(CloseReason::Logout);
    }

    fn answer_logout(&mut self, itt: u32, response: LogoutResponse, out: &mut Outbox) {
        let numbers = self.status_numbers();
        let Self { parameters, .. } = self;
        let (wait, retain) = (parameters.time2wait, parameters.time2retain);
        out.send(pdu::logout_response(itt, response, wait, retain, numbers));
    }
}
