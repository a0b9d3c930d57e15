//! Pacemaker through its own tools: `crm_mon`, `cibadmin`, `crm_node`. Each call has a deadline and is killed at it, with
//! everything that it started; what it would still have done may happen or not, and is looked up.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::{PacemakerError, Unsafe};
use super::rules::{Bid, Copy, Member, Presence, View, Write};
use super::xml::{self, Tag};
use super::{Cluster, PacemakerConfig};
use crate::arbiter::value::{self, ValueError};
use crate::arbitration::Record;
use crate::units::NodeId;

/// How long a tool may take. The cluster's own order of messages takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const GLANCE: Duration = Duration::from_millis(2);
/// `cibadmin`: nothing matches (ENXIO).
const NO_MATCH: i32 = 105;
/// The word for "no record yet", "no bid".
const NONE: &str = "none";

/// The cluster that this machine is a node of.
pub struct Tools {
    config: PacemakerConfig,
    /// The name of this machine was compared with the configuration.
    named: bool,
}

/// What a tool said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Tools {
    pub fn new(config: PacemakerConfig) -> Self {
        Self { config, named: false }
    }

    fn set_id(&self) -> String {
        format!("twinlun-{}", self.config.volume)
    }

    fn check_name(&mut self) -> Result<(), PacemakerError> {
        if self.named {
            return Ok(());
        }
        let said = run("crm_node", &["--name"], None)?;
        if said.code != Some(0) {
            return Err(said.failed("crm_node"));
        }
        let (here, wanted) = (said.out.trim().to_owned(), self.config.name.clone());
        if here != wanted {
            return Err(PacemakerError::Unsafe(Unsafe::OtherName { here, wanted }));
        }
        self.named = true;
        Ok(())
    }

    fn read_copy(&self, tags: &[Tag<'_>]) -> Result<Copy, PacemakerError> {
        let set = self.set_id();
        let within = |part: &str| {
            let id = format!("{set}-{part}");
            tags.iter().find(|tag| tag.name == "nvpair" && tag.is("id", &id)).and_then(|tag| tag.get("value"))
        };
        let (Some(record), Some(bid)) = (within("record"), within("bid")) else {
            let there = tags.iter().any(|tag| tag.name == "cluster_property_set" && tag.is("id", &set));
            return if there { Err(self.damaged(ValueError::Foreign)) } else { Ok(Copy::default()) };
        };
        let decode = |text: &str| {
            let record = value::decode(self.config.pair, text.as_bytes());
            record.map_err(|error| self.damaged(error))
        };
        Ok(Copy {
            record: (record != NONE).then(|| decode(&record)).transpose()?,
            bid: match bid.as_str() {
                NONE => None,
                text => Some(Bid {
                    record: decode(text)?,
                    by: bidder(text).ok_or_else(|| self.damaged(ValueError::Foreign))?,
                }),
            },
            words: Some((record, bid)),
        })
    }

    fn damaged(&self, error: ValueError) -> PacemakerError {
        PacemakerError::Value { place: self.set_id(), error }
    }

    fn words(&self, record: Option<&Record>) -> String {
        record.map_or_else(|| NONE.to_owned(), |record| value::encode(self.config.pair, record))
    }

    /// The nodes, and whether the partition is quorate, as the scheduler's own reading of the CIB has it.
    fn members(&self, text: &str) -> Result<(bool, Vec<Member>), PacemakerError> {
        let odd = |why: &str| PacemakerError::Tool { tool: "crm_mon", why: why.to_owned() };
        let tags = xml::tags(text).ok_or_else(|| odd("its answer breaks off"))?;
        let options = tags.iter().find(|tag| tag.name == "cluster_options");
        let options = options.ok_or_else(|| odd("it does not say how the cluster is set up"))?;
        if !options.is("stonith-enabled", "true") {
            return Err(PacemakerError::Unsafe(Unsafe::FencingOff));
        }
        let dc = tags.iter().find(|tag| tag.name == "current_dc");
        let quorate = dc.is_some_and(|dc| dc.is("present", "true") && dc.is("with_quorum", "true"));
        let mut members = Vec::new();
        let mut here = false;
        // Below resources there are `node` tags too, without these attributes.
        for tag in tags.iter().filter(|tag| tag.name == "node" && tag.is("type", "member")) {
            let name = tag.get("name").ok_or_else(|| odd("a node without a name"))?;
            let presence = presence(tag);
            if name == self.config.name {
                here = presence == Presence::Online;
            } else {
                members.push(Member { name, presence });
            }
        }
        if dc.is_none_or(|dc| !dc.is("present", "true")) {
            return Ok((false, members));
        }
        if !members.iter().any(|member| member.name == self.config.peer) {
            return Err(PacemakerError::Unsafe(Unsafe::NoNode(self.config.peer.clone())));
        }
        Ok((quorate && here, members))
    }
}

/// What one node of `crm_mon` is to a change.
fn presence(node: &Tag<'_>) -> Presence {
    let is = |name: &str, value: bool| node.is(name, if value { "true" } else { "false" });
    match (is("online", true), is("unclean", false) && is("pending", false)) {
        (true, true) => Presence::Online,
        (false, true) if is("online", false) => Presence::Gone,
        _ => Presence::Doubtful,
    }
}

/// Whose bid it is: the word after the record.
fn bidder(text: &str) -> Option<NodeId> {
    match text.rsplit_once(" by=")?.1 {
        "0" => Some(NodeId(0)),
        "1" => Some(NodeId(1)),
        _ => None,
    }
}

/// What else must be set up, from the cluster's properties.
fn check_properties(tags: &[Tag<'_>]) -> Result<(), PacemakerError> {
    let property = |name: &str| {
        tags.iter().find(|tag| tag.name == "nvpair" && tag.is("name", name)).and_then(|tag| tag.get("value"))
    };
    let no = |value: &str| matches!(value.to_ascii_lowercase().as_str(), "false" | "off" | "no" | "n" | "0");
    if property("startup-fencing").is_some_and(|value| no(&value)) {
        return Err(PacemakerError::Unsafe(Unsafe::NoStartupFencing));
    }
    let device = tags.iter().any(|tag| tag.is("class", "stonith"));
    let watchdog = property("have-watchdog").is_some_and(|value| value == "true")
        && property("stonith-watchdog-timeout").is_some_and(|value| !value.starts_with('0'));
    if device || watchdog { Ok(()) } else { Err(PacemakerError::Unsafe(Unsafe::NoDevice)) }
}

impl Cluster for Tools {
    fn look(&mut self) -> Result<View, PacemakerError> {
        self.check_name()?;
        let said = run("crm_mon", &["--output-as=xml"], None)?;
        if said.code != Some(0) {
            return Err(said.failed("crm_mon"));
        }
        let (quorate, members) = self.members(&said.out)?;
        let wanted = "//crm_config/cluster_property_set | //resources//*[@class='stonith']";
        let said = run("cibadmin", &["--query", "--local", "--xpath", wanted], None)?;
        if said.code != Some(0) && said.code != Some(NO_MATCH) {
            return Err(said.failed("cibadmin"));
        }
        let tags = xml::tags(&said.out).ok_or_else(|| said.failed("cibadmin"))?;
        check_properties(&tags)?;
        Ok(View { quorate, own: self.read_copy(&tags)?, members })
    }

    fn copy_of(&mut self, node: &str) -> Result<Copy, PacemakerError> {
        let wanted = format!("//crm_config/cluster_property_set[@id='{}']", self.set_id());
        let said = run("cibadmin", &["--query", "--node", node, "--xpath", &wanted], None)?;
        match said.code {
            Some(NO_MATCH) => Ok(Copy::default()),
            Some(0) => {
                let tags = xml::tags(&said.out).ok_or_else(|| said.failed("cibadmin"))?;
                self.read_copy(&tags)
            }
            _ => Err(said.failed("cibadmin")),
        }
    }

    fn change(&mut self, write: &Write) -> Result<(), PacemakerError> {
        let set = self.set_id();
        let place = format!("configuration/crm_config/cluster_property_set[@id='{set}']");
        let guard = match &write.guard {
            None => format!("not({place})"),
            // None of these words can hold a quote: they were decoded before.
            Some((record, bid)) => format!(
                "{place}[nvpair[@id='{set}-record' and @value='{record}'] and nvpair[@id='{set}-bid' and @value='{bid}']]"
            ),
        };
        let xpath = format!("/cib[@have-quorum='1'][{guard}]");
        let record = self.words(write.record.as_ref());
        let bid = write.bid.map_or_else(
            || NONE.to_owned(),
            |bid| format!("{} by={}", self.words(Some(&bid.record)), bid.by.0),
        );
        let raise = if write.raise { " admin_epoch=\"admin_epoch++\"" } else { "" };
        let change = format!(
            "<cib{raise}><configuration><crm_config><cluster_property_set id=\"{set}\">\
             <nvpair id=\"{set}-record\" name=\"{set}-record\" value=\"{record}\"/>\
             <nvpair id=\"{set}-bid\" name=\"{set}-bid\" value=\"{bid}\"/>\
             </cluster_property_set></crm_config></configuration></cib>"
        );
        let said = run("cibadmin", &["--modify", "--xpath", &xpath, "--xml-pipe"], Some(&change))?;
        match said.code {
            // What matches no guard changes nothing; the look that follows shows why.
            Some(0 | NO_MATCH) => Ok(()),
            _ => Err(said.failed("cibadmin")),
        }
    }
}

impl Said {
    fn failed(&self, tool: &'static str) -> PacemakerError {
        let last =
            self.err.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it says nothing");
        let said: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
        let code = self.code.map_or_else(|| "killed".to_owned(), |code| format!("code {code}"));
        PacemakerError::Tool { tool, why: format!("{code}, {said}") }
    }
}

/// Runs a tool to its end, or to the end of [`PATIENCE`].
fn run(tool: &'static str, arguments: &[&str], input: Option<&str>) -> Result<Said, PacemakerError> {
    let trouble = |why: String| PacemakerError::Tool { tool, why };
    let until = Instant::now() + PATIENCE;
    let mut child = Command::new(tool)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| trouble(format!("it cannot be started: {error}")))?;
    let (tell, hear) = bounded(2);
    let listen = |stream: Option<Box<dyn Read + Send>>, is_error: bool| {
        let mut stream = stream.expect("it is piped");
        let tell = tell.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = (&mut stream).take(xml::TEXT_MAX as u64 + 1).read_to_end(&mut bytes);
            let _ = tell.send((is_error, read.map(|_| String::from_utf8_lossy(&bytes).into_owned())));
        });
    };
    listen(child.stdout.take().map(|it| Box::new(it) as _), false);
    listen(child.stderr.take().map(|it| Box::new(it) as _), true);
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // Less than a pipe holds, so this does not block.
        if let Err(error) = stdin.write_all(input.as_bytes()) {
            log::debug!("{tool}: {error}");
        }
    }
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < until => thread::sleep(GLANCE),
            Ok(None) => break Err("it did not end in time".to_owned()),
            Err(error) => break Err(error.to_string()),
        }
    };
    let status = status.map_err(|why| {
        let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids are positive i32"));
        let ended = killpg(group, Signal::SIGKILL).map_err(std::io::Error::from).and_then(|()| child.wait());
        if let Err(error) = ended {
            log::debug!("{tool}: {error}");
        }
        trouble(why)
    })?;
    let mut said = Said { code: status.code(), out: String::new(), err: String::new() };
    for _ in 0..2 {
        let (is_error, text) =
            hear.recv_deadline(until).map_err(|_| trouble("its words do not end".to_owned()))?;
        let text = text.map_err(|error| trouble(error.to_string()))?;
        *(if is_error { &mut said.err } else { &mut said.out }) = text;
    }
    Ok(said)
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
