//! The login phase (RFC 7143 §6.3, §11.12-13): from the first Login Request to full feature phase.
//!
//! A [`Login`] is consumed by every request and comes back only while there is more to negotiate, so a login that was
//! refused or completed cannot be fed again. What Windows insists on: TSIH 0 in every response but the last,
//! TargetPortalGroupTag in the first, and no key that it did not offer.
//!
//! AuthMethod is None. A session is keyed by initiator name, ISID and portal group tag; a login with a TSIH would join
//! or reinstate a connection of a live session and is answered "session does not exist": MaxConnections is 1.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::bhs::{LoginRequest, Stage};
use super::config::TargetConfig;
use super::keys::{self, DEFAULT_MAX_RECV, Negotiation, Pairs, Parameters, TEXT_BYTES_MAX};
use super::name::{InitiatorName, is_iscsi_name};

/// Status class and detail of a Login Response (§11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum LoginStatus {
    Success = 0x0000,
    InitiatorError = 0x0200,
    AuthenticationFailure = 0x0201,
    AuthorizationFailure = 0x0202,
    NotFound = 0x0203,
    TargetRemoved = 0x0204,
    UnsupportedVersion = 0x0205,
    TooManyConnections = 0x0206,
    MissingParameter = 0x0207,
    CannotIncludeInSession = 0x0208,
    SessionTypeNotSupported = 0x0209,
    SessionDoesNotExist = 0x020A,
    InvalidDuringLogin = 0x020B,
    TargetError = 0x0300,
    ServiceUnavailable = 0x0301,
    OutOfResources = 0x0302,
}

/// One answer to the initiator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub stage: Stage,
    pub transit: Option<Stage>,
    pub more: bool,
    pub text: Vec<u8>,
}

/// A finished negotiation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreement {
    pub initiator: InitiatorName,
    pub isid: [u8; 6],
    pub cid: u16,
    pub discovery: bool,
    pub parameters: Parameters,
}

/// What follows from a Login Request.
#[derive(Debug)]
pub enum Step {
    /// Answer and wait for the next request.
    Next(Login, Reply),
    /// Answer, with a TSIH, and enter full feature phase.
    Done(Agreement, Reply),
    /// Answer with this status and close.
    Refuse(LoginStatus),
}

/// What the first request fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fixed {
    isid: [u8; 6],
    cid: u16,
    itt: u32,
}

/// A login under way.
#[derive(Debug)]
pub struct Login {
    /// `None` before the first request.
    fixed: Option<Fixed>,
    stage: Stage,
    /// Text of a request that is continued (C bit).
    text: Vec<u8>,
    /// All text of this login so far, for the bound.
    text_seen: usize,
    /// Text of a response that does not fit in one PDU.
    pending: Vec<u8>,
    /// The names were checked and TargetPortalGroupTag was sent.
    introduced: bool,
    initiator: Option<InitiatorName>,
    /// Lower case; compared when the introduction is complete.
    target: Option<String>,
    /// SessionType, as declared.
    discovery: Option<bool>,
    negotiation: Negotiation,
    auth_seen: bool,
}

impl Login {
    pub fn new(config: &TargetConfig) -> Self {
        Self {
            fixed: None,
            stage: Stage::Security,
            text: Vec::new(),
            text_seen: 0,
            pending: Vec::new(),
            introduced: false,
            initiator: None,
            target: None,
            discovery: None,
            negotiation: Negotiation::new(config.limits),
            auth_seen: false,
        }
    }

    /// Takes one Login Request with its data segment.
    pub fn on_request(mut self, request: &LoginRequest, data: &[u8], config: &TargetConfig) -> Step {
        match self.take(request, data, config) {
            Ok(reply) => self.step(request, reply),
            Err(status) => Step::Refuse(status),
        }
    }

    fn step(mut self, request: &LoginRequest, reply: Reply) -> Step {
        match reply.transit {
            Some(Stage::FullFeature) => {
                let Some(initiator) = self.initiator.take() else {
                    return Step::Refuse(LoginStatus::MissingParameter);
                };
                let agreement = Agreement {
                    initiator,
                    isid: request.isid,
                    cid: request.cid,
                    discovery: self.discovery == Some(true),
                    parameters: self.negotiation.parameters,
                };
                Step::Done(agreement, reply)
            }
            Some(next) => {
                self.stage = next;
                Step::Next(self, reply)
            }
            None => Step::Next(self, reply),
        }
    }

    fn take(
        &mut self,
        request: &LoginRequest,
        data: &[u8],
        config: &TargetConfig,
    ) -> Result<Reply, LoginStatus> {
        self.check_header(request, config)?;
        self.text_seen += data.len();
        if self.text_seen > TEXT_BYTES_MAX {
            return Err(LoginStatus::InitiatorError);
        }
        if !self.pending.is_empty() {
            // The initiator asks for the rest of a long answer with an empty request (§6.2).
            if !data.is_empty() || request.more {
                return Err(LoginStatus::InitiatorError);
            }
            return Ok(self.reply(request));
        }
        self.text.extend_from_slice(data);
        if request.more {
            return Ok(Reply { stage: self.stage, transit: None, more: false, text: Vec::new() });
        }
        let text = core::mem::take(&mut self.text);
        let mut answer = Vec::new();
        for pair in Pairs::new(&text) {
            let (key, value) = pair.map_err(|_| LoginStatus::InitiatorError)?;
            self.on_pair(key, value, &mut answer)?;
        }
        if !self.introduced {
            self.introduce(config, &mut answer)?;
        }
        let declare = self.stage == Stage::Operational;
        self.negotiation.finish(declare, &mut answer);
        self.pending = answer;
        Ok(self.reply(request))
    }

    fn check_header(&mut self, request: &LoginRequest, config: &TargetConfig) -> Result<(), LoginStatus> {
        let fixed = Fixed { isid: request.isid, cid: request.cid, itt: request.itt };
        match self.fixed {
            None => {
                if request.version_min > 0 {
                    return Err(LoginStatus::UnsupportedVersion);
                }
                if !config.serving {
                    return Err(LoginStatus::ServiceUnavailable);
                }
                if request.tsih != 0 {
                    return Err(LoginStatus::SessionDoesNotExist);
                }
                self.fixed = Some(fixed);
                self.stage = request.stage;
            }
            Some(first) if first != fixed || request.tsih != 0 || request.stage != self.stage => {
                return Err(LoginStatus::InitiatorError);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Cuts the next response off the pending text. A transit is granted only with the last of it.
    fn reply(&mut self, request: &LoginRequest) -> Reply {
        // The initiator's own limit is the default until full feature phase (§13.12).
        let len = self.pending.len().min(DEFAULT_MAX_RECV as usize);
        let rest = self.pending.split_off(len);
        let text = core::mem::replace(&mut self.pending, rest);
        let more = !self.pending.is_empty();
        Reply { stage: self.stage, transit: if more { None } else { request.transit }, more, text }
    }

    fn on_pair(&mut self, key: &str, value: &str, answer: &mut Vec<u8>) -> Result<(), LoginStatus> {
        match key {
            "InitiatorName" => {
                let name = InitiatorName::new(value).map_err(|_| LoginStatus::InitiatorError)?;
                let open = !self.introduced;
                declare(&mut self.initiator, name, open)?;
            }
            "TargetName" => {
                if !is_iscsi_name(value) {
                    return Err(LoginStatus::NotFound);
                }
                let open = !self.introduced;
                declare(&mut self.target, value.to_ascii_lowercase(), open)?;
            }
            "SessionType" => {
                let discovery = match value {
                    "Normal" => false,
                    "Discovery" => true,
                    _ => return Err(LoginStatus::SessionTypeNotSupported),
                };
                let open = !self.introduced;
                // Not declared means Normal (§13.21).
                if self.introduced && self.discovery.is_none() && !discovery {
                    return Ok(());
                }
                declare(&mut self.discovery, discovery, open)?;
                self.negotiation.set_discovery(discovery);
            }
            "InitiatorAlias" => {}
            "AuthMethod" => {
                if core::mem::replace(&mut self.auth_seen, true) {
                    return Err(LoginStatus::InitiatorError);
                }
                if self.stage != Stage::Security {
                    keys::put(answer, key, "Reject");
                } else if value.split(',').any(|method| method == "None") {
                    keys::put(answer, key, "None");
                } else {
                    return Err(LoginStatus::AuthenticationFailure);
                }
            }
            _ => self.negotiation.answer(key, value, answer).map_err(|_| LoginStatus::InitiatorError)?,
        }
        Ok(())
    }

    /// Checks what the first request must tell, and introduces the target's port (§6.3.1, §13.9).
    fn introduce(&mut self, config: &TargetConfig, answer: &mut Vec<u8>) -> Result<(), LoginStatus> {
        self.introduced = true;
        if self.initiator.is_none() {
            return Err(LoginStatus::MissingParameter);
        }
        if self.discovery == Some(true) {
            return Ok(());
        }
        match &self.target {
            None => return Err(LoginStatus::MissingParameter),
            Some(name) if *name != config.name.to_ascii_lowercase() => return Err(LoginStatus::NotFound),
            Some(_) => {}
        }
        if !config.alias.is_empty() {
            keys::put(answer, "TargetAlias", &config.alias);
        }
        keys::put_number(answer, "TargetPortalGroupTag", u32::from(config.portal_group_tag));
        Ok(())
    }
}

/// Takes a declaration of who takes part. It is fixed with the first request (`open`); libiscsi and its users repeat the
/// same one in the operational stage.
fn declare<T: PartialEq>(slot: &mut Option<T>, value: T, open: bool) -> Result<(), LoginStatus> {
    match slot {
        Some(known) if *known != value => Err(LoginStatus::InitiatorError),
        Some(_) => Ok(()),
        None if open => {
            *slot = Some(value);
            Ok(())
        }
        None => Err(LoginStatus::InitiatorError),
    }
}

impl fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Success => "success",
            Self::InitiatorError => "initiator error",
            Self::AuthenticationFailure => "authentication failure",
            Self::AuthorizationFailure => "the initiator may not use this target",
            Self::NotFound => "no target of this name",
            Self::TargetRemoved => "target removed",
            Self::UnsupportedVersion => "unsupported version",
            Self::TooManyConnections => "too many connections",
            Self::MissingParameter => "missing parameter",
            Self::CannotIncludeInSession => "cannot include in session",
            Self::SessionTypeNotSupported => "session type not supported",
            Self::SessionDoesNotExist => "session does not exist",
            Self::InvalidDuringLogin => "invalid request during login",
            Self::TargetError => "target error",
            Self::ServiceUnavailable => "service unavailable",
            Self::OutOfResources => "out of resources",
        };
        write!(f, "{text} ({:04X}h)", *self as u16)
    }
}
