//! The login phase (RFC 7143 §6.3, §11.12-13): from the first Login Request to full feature phase.
//!
//! A [`Login`] is consumed by every request and comes back only while there is more to negotiate, so a login that was
//! refused or completed cannot be fed again. What Windows insists on: TSIH 0 in every response to a new session but the
//! last, TargetPortalGroupTag in the first, and no key that it did not offer.
//!
//! A login with a TSIH wants to reinstate the connection of a live session (§6.3.4). Whether there is such a session,
//! the driver knows: it is asked at the end, when the initiator has shown who it is.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::access::Grant;
use super::bhs::{LoginRequest, Stage};
use super::chap::{self, Challenge, Chap, ChapKeys, Entropy};
use super::config::{Service, TargetConfig};
use super::keys::{self, DEFAULT_MAX_RECV, Negotiation, Pairs, Parameters, REPLY_BYTES_MAX, TEXT_BYTES_MAX};
use super::name::{InitiatorName, is_iscsi_name};

/// Status class and detail of a Login Response (§11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum LoginStatus {
    Success = 0x0000,
    /// The target is found elsewhere for the time being; TargetAddress says where.
    TargetMoved = 0x0101,
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
    /// 0: a new session; else the live session whose connection this one takes the place of.
    pub tsih: u16,
    pub cid: u16,
    pub discovery: bool,
    pub parameters: Parameters,
    pub grant: Grant,
}

/// What follows from a Login Request.
#[derive(Debug)]
pub enum Step {
    /// Answer and wait for the next request.
    Next(Box<Login>, Reply),
    /// Answer, with a TSIH, and enter full feature phase.
    Done(Agreement, Reply),
    /// Answer with this status and text, and close.
    Refuse(Refusal),
}

/// A login that ends here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: LoginStatus,
    pub text: Vec<u8>,
}

impl From<LoginStatus> for Refusal {
    fn from(status: LoginStatus) -> Self {
        Self { status, text: Vec::new() }
    }
}

/// What the first request fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fixed {
    isid: [u8; 6],
    tsih: u16,
    cid: u16,
    itt: u32,
}

/// How far the initiator has shown who it is.
#[derive(Debug)]
enum Authentication {
    /// Nothing was agreed yet.
    Open,
    /// AuthMethod=CHAP was answered; CHAP_A comes next.
    Agreed,
    /// CHAP_C was sent; CHAP_N and CHAP_R come next.
    Challenged(Challenge),
    /// Passed, or nothing was asked for.
    Done,
}

/// A login under way.
#[derive(Debug)]
pub struct Login {
    peer: IpAddr,
    service: Service,
    /// Used up by the challenge.
    entropy: Option<Entropy>,
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
    /// What the initiator may do, once it is introduced.
    grant: Option<Grant>,
    negotiation: Negotiation,
    /// AuthMethod as offered in this request.
    methods: Option<String>,
    auth_seen: bool,
    authentication: Authentication,
}

impl Login {
    pub fn new(config: &TargetConfig, peer: IpAddr, service: Service, entropy: Entropy) -> Self {
        Self {
            peer,
            service,
            entropy: Some(entropy),
            fixed: None,
            stage: Stage::Security,
            text: Vec::new(),
            text_seen: 0,
            pending: Vec::new(),
            introduced: false,
            initiator: None,
            target: None,
            discovery: None,
            grant: None,
            negotiation: Negotiation::new(config.limits),
            methods: None,
            auth_seen: false,
            authentication: Authentication::Open,
        }
    }

    /// Takes one Login Request with its data segment.
    pub fn on_request(mut self, request: &LoginRequest, data: &[u8], config: &TargetConfig) -> Step {
        match self.take(request, data, config) {
            Ok(reply) => self.step(request, reply),
            Err(refusal) => Step::Refuse(refusal),
        }
    }

    fn step(mut self, request: &LoginRequest, reply: Reply) -> Step {
        match reply.transit {
            Some(Stage::FullFeature) => {
                let (Some(initiator), Some(grant)) = (self.initiator.take(), self.grant) else {
                    return Step::Refuse(LoginStatus::MissingParameter.into());
                };
                let agreement = Agreement {
                    initiator,
                    isid: request.isid,
                    tsih: request.tsih,
                    cid: request.cid,
                    discovery: self.discovery == Some(true),
                    parameters: self.negotiation.parameters,
                    grant,
                };
                Step::Done(agreement, reply)
            }
            Some(next) => {
                self.stage = next;
                Step::Next(Box::new(self), reply)
            }
            None => Step::Next(Box::new(self), reply),
        }
    }

    fn take(&mut self, request: &LoginRequest, data: &[u8], config: &TargetConfig) -> Result<Reply, Refusal> {
        self.check_header(request)?;
        self.text_seen += data.len();
        if self.text_seen > TEXT_BYTES_MAX {
            return Err(LoginStatus::InitiatorError.into());
        }
        if !self.pending.is_empty() {
            // The initiator asks for the rest of a long answer with an empty request (§6.2).
            if !data.is_empty() || request.more {
                return Err(LoginStatus::InitiatorError.into());
            }
            return Ok(self.reply(request));
        }
        self.text.extend_from_slice(data);
        if request.more {
            return Ok(Reply { stage: self.stage, transit: None, more: false, text: Vec::new() });
        }
        let text = core::mem::take(&mut self.text);
        self.pending = self.answer(&text, config)?;
        let wants_on = request.transit.is_some() || self.stage != Stage::Security;
        if wants_on && matches!(self.authentication, Authentication::Open) {
            return Err(LoginStatus::AuthenticationFailure.into());
        }
        Ok(self.reply(request))
    }

    /// The answer to the text of one whole request.
    fn answer(&mut self, text: &[u8], config: &TargetConfig) -> Result<Vec<u8>, Refusal> {
        let mut answer = Vec::new();
        let mut chap_keys = ChapKeys::default();
        for pair in Pairs::new(text) {
            let (key, value) = pair.map_err(|_| LoginStatus::InitiatorError)?;
            match chap_keys.take(key, value) {
                None => self.on_pair(key, value, &mut answer)?,
                Some(true) => {}
                Some(false) => return Err(LoginStatus::InitiatorError.into()),
            }
            if answer.len() > REPLY_BYTES_MAX {
                return Err(LoginStatus::InitiatorError.into());
            }
        }
        let grant = match self.grant {
            Some(grant) => grant,
            None => self.introduce(config)?,
        };
        let chap = config.access.chap(grant, self.discovery == Some(true));
        self.authenticate(chap, &chap_keys, &mut answer)?;
        if !core::mem::replace(&mut self.introduced, true) && self.discovery != Some(true) {
            if !config.alias.is_empty() {
                keys::put(&mut answer, "TargetAlias", &config.alias);
            }
            keys::put_number(&mut answer, "TargetPortalGroupTag", u32::from(config.portal_group_tag));
        }
        self.negotiation.finish(self.stage == Stage::Operational, &mut answer);
        Ok(answer)
    }

    fn check_header(&mut self, request: &LoginRequest) -> Result<(), Refusal> {
        let fixed = Fixed { isid: request.isid, tsih: request.tsih, cid: request.cid, itt: request.itt };
        match self.fixed {
            None => {
                if request.version_min > 0 {
                    return Err(LoginStatus::UnsupportedVersion.into());
                }
                if self.service == Service::Closed {
                    return Err(LoginStatus::ServiceUnavailable.into());
                }
                self.fixed = Some(fixed);
                self.stage = request.stage;
            }
            Some(first) if first != fixed || request.stage != self.stage => {
                return Err(LoginStatus::InitiatorError.into());
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Cuts the next response off the pending text. A transit is granted only with the last of it, and out of the
    /// security stage only to an initiator that has shown who it is.
    fn reply(&mut self, request: &LoginRequest) -> Reply {
        // The initiator's own limit is the default until full feature phase (§13.12).
        let len = self.pending.len().min(DEFAULT_MAX_RECV as usize);
        let rest = self.pending.split_off(len);
        let text = core::mem::replace(&mut self.pending, rest);
        let more = !self.pending.is_empty();
        let may_go_on = !more && matches!(self.authentication, Authentication::Done);
        let transit = if may_go_on { request.transit } else { None };
        Reply { stage: self.stage, transit, more, text }
    }

    fn on_pair(&mut self, key: &str, value: &str, answer: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let open = self.grant.is_none();
        match key {
            "InitiatorName" => {
                let name = InitiatorName::new(value).map_err(|_| LoginStatus::InitiatorError)?;
                declare(&mut self.initiator, name, open)?;
            }
            "TargetName" => {
                if !is_iscsi_name(value) {
                    return Err(LoginStatus::NotFound);
                }
                declare(&mut self.target, value.to_ascii_lowercase(), open)?;
            }
            "SessionType" => {
                let discovery = match value {
                    "Normal" => false,
                    "Discovery" => true,
                    _ => return Err(LoginStatus::SessionTypeNotSupported),
                };
                // Not declared means Normal (§13.21).
                if !open && self.discovery.is_none() && !discovery {
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
                if self.stage == Stage::Security {
                    self.methods = Some(value.into());
                } else {
                    keys::put(answer, key, "Reject");
                }
            }
            _ => self.negotiation.answer(key, value, answer).map_err(|_| LoginStatus::InitiatorError)?,
        }
        Ok(())
    }

    /// Checks what the first request must tell (§6.3.1), and whether this initiator may come in.
    fn introduce(&mut self, config: &TargetConfig) -> Result<Grant, Refusal> {
        let initiator = self.initiator.as_ref().ok_or(LoginStatus::MissingParameter)?;
        let discovery = self.discovery == Some(true);
        if !discovery {
            match &self.target {
                None => return Err(LoginStatus::MissingParameter.into()),
                Some(name) if *name != config.name.to_ascii_lowercase() => {
                    return Err(LoginStatus::NotFound.into());
                }
                Some(_) => {}
            }
        }
        let judged = config.access.judge(initiator, self.peer);
        let grant = judged.map_err(|_| LoginStatus::AuthorizationFailure)?;
        if let (Service::Moved(address), false) = (&self.service, discovery) {
            let mut text = Vec::new();
            keys::put(&mut text, "TargetAddress", address);
            return Err(Refusal { status: LoginStatus::TargetMoved, text });
        }
        self.grant = Some(grant);
        Ok(grant)
    }

    /// AuthMethod and CHAP (§12.1). `chap`: what must be shown, if anything.
    fn authenticate(
        &mut self,
        chap: Option<&Chap>,
        keys: &ChapKeys,
        answer: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        if let Some(methods) = self.methods.take() {
            let offers = |wanted: &str| methods.split(',').any(|method| method == wanted);
            match chap {
                None if offers("None") => keys::put(answer, "AuthMethod", "None"),
                Some(_) if offers("CHAP") => {
                    keys::put(answer, "AuthMethod", "CHAP");
                    self.authentication = Authentication::Agreed;
                }
                _ => return Err(LoginStatus::AuthenticationFailure),
            }
        }
        let Some(chap) = chap else {
            self.authentication = Authentication::Done;
            // Nobody asked.
            return if keys.is_empty() { Ok(()) } else { Err(LoginStatus::InitiatorError) };
        };
        self.authenticate_by(chap, keys, answer)
    }

    fn authenticate_by(
        &mut self,
        chap: &Chap,
        keys: &ChapKeys,
        answer: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        let failure = LoginStatus::AuthenticationFailure;
        match (&self.authentication, &keys.algorithms) {
            (Authentication::Agreed, Some(offered)) => {
                let algorithm = chap.choose(offered).ok_or(failure)?;
                let challenge = Challenge::new(algorithm, self.entropy.take().ok_or(failure)?);
                keys::put_number(answer, "CHAP_A", algorithm as u32);
                keys::put_number(answer, "CHAP_I", u32::from(challenge.id()));
                keys::put(answer, "CHAP_C", &chap::encode(challenge.bytes()));
                self.authentication = Authentication::Challenged(challenge);
                // The response to a challenge that was not sent yet is a guess.
                if keys.has_response() { Err(failure) } else { Ok(()) }
            }
            (_, Some(_)) => Err(failure),
            (Authentication::Challenged(challenge), None) if keys.has_response() => {
                let own = challenge.verify(chap, keys).map_err(|_| failure)?;
                if let Some((user, response)) = own {
                    keys::put(answer, "CHAP_N", &user);
                    keys::put(answer, "CHAP_R", &chap::encode(&response));
                }
                self.authentication = Authentication::Done;
                Ok(())
            }
            (_, None) if keys.has_response() => Err(failure),
            _ => Ok(()),
        }
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
            Self::TargetMoved => "the target is elsewhere for the time being",
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
