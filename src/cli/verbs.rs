//! What each verb does.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::args::{Cli, ConfigVerb, ConnectArgs, EventsArgs, InitArgs, Place, PromoteArgs, UpArgs, Verb};
use super::client::Client;
use super::{confirm, import, print, print_done, print_json, render};
use crate::daemon::access;
use crate::daemon::api::{Answer, Request, Service};
use crate::daemon::config::{Config, NodeConfig, Secret, units::human_bytes};
use crate::daemon::failure::{Failure, FailureKind};
use crate::daemon::init::{self, InitOptions};
use crate::daemon::log_file;
use crate::daemon::probe::{DeviceFacts, Kernel};
use crate::daemon::process::{self, Life, Process};
use crate::daemon::virtual_machine;

/// Time for an answer that needs no work.
const QUICK: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Where a verb happens.
struct Site {
    config: Config,
    node: NodeConfig,
    json: bool,
}

pub fn run(cli: Cli) -> Result<(), Failure> {
    // Before there is a configuration.
    if let Verb::Config(ConfigVerb::Import(args)) = &cli.verb {
        return import::run(args, cli.json);
    }
    let site = Site::open(&cli.place, cli.json)?;
    match cli.verb {
        Verb::Init(args) => init(&site, &args),
        Verb::Up(args) => up(&site, &cli.place, &args),
        Verb::Down(args) => down(&site, args.wait.timeout, args.or_kill),
        Verb::Status(args) => status(&site, args.terse),
        Verb::Promote(args) => promote(&site, args),
        Verb::Demote(wait) => act(&site, Request::Demote, wait.timeout),
        Verb::Switchover(wait) => act(&site, Request::Switchover, wait.timeout),
        Verb::Standby => standby(&site, true),
        Verb::Unstandby => standby(&site, false),
        Verb::Connect(args) => connect(&site, &args),
        Verb::Disconnect(wait) => act(&site, Request::Disconnect, wait.timeout),
        Verb::Events(args) => events(&site, &args),
        Verb::Config(ConfigVerb::Check) => check(&site),
        Verb::Config(ConfigVerb::Import(args)) => import::run(&args, cli.json),
    }
}

impl Site {
    fn open(place: &Place, json: bool) -> Result<Self, Failure> {
        let config = Config::load(&place.config)?;
        let node = config.choose(place.node.as_deref(), &process::host_name())?.clone();
        Ok(Self { config, node, json })
    }

    fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.config, &self.node)
    }

    fn agent(&self) -> Result<Client, Failure> {
        Client::connect_agent(&self.node)
    }

    fn peer_name(&self) -> Result<&str, Failure> {
        self.config.peer_of(&self.node).map(|peer| peer.name.as_str()).ok_or_else(|| {
            let what =
                format!("{} has no peer: the configuration has no [replication]", self.config.volume.name);
            Failure::usage(what, "")
        })
    }
}

fn init(site: &Site, args: &InitArgs) -> Result<(), Failure> {
    let Site { config, node, json } = site;
    if config.replication.is_none() && args.assume_clean {
        return Err(Failure::usage(
            "--assume-clean has no meaning for a volume without a peer",
            "leave it out",
        ));
    }
    let options = InitOptions {
        forced: args.force.clone(),
        assume_clean: args.assume_clean,
        keep_data: args.keep_data,
    };
    let plan = init::plan(config, node, &options, &Kernel::default())?;
    let size = human_bytes(plan.volume_bytes());
    if !args.yes {
        let mut question = describe(&plan.disk);
        question =
            format!("{question}\nwill hold volume {} ({size}) as node {}.", config.volume.name, node.name);
        if let Some(what) = &plan.kept {
            question = format!("{question}\n{what}; this is kept, and is the volume's data.");
        }
        for what in &plan.overruled {
            question = format!("{question}\nFORCED: {what}; this is given up.");
        }
        confirm(&question, &config.volume.name)?;
    }
    let disk = plan.disk.path.display().to_string();
    plan.write()?;
    let text = format!("{disk} is formatted: volume {} ({size}), node {}", config.volume.name, node.name);
    print_done(*json, &text);
    if !json {
        print(&format!("  next: twinlun up --node {}{}", node.name, after_up(config, args.assume_clean)));
    }
    Ok(())
}

fn after_up(config: &Config, clean: bool) -> &'static str {
    match (config.replication.is_some(), clean) {
        (false, _) => ", then twinlun promote",
        (true, true) => " (on both nodes), then twinlun promote on one",
        (true, false) => " (on both nodes), then twinlun promote --seed on one",
    }
}

fn describe(disk: &DeviceFacts) -> String {
    let kind = if disk.number.is_some() { "block device" } else { "file" };
    let model = disk.model.as_ref().map_or(String::new(), |model| format!(", {model}"));
    let real = if disk.real == disk.path { String::new() } else { format!(" -> {}", disk.real.display()) };
    format!("{}{real} ({kind}, {}{model})", disk.path.display(), human_bytes(disk.size))
}

fn up(site: &Site, place: &Place, args: &UpArgs) -> Result<(), Failure> {
    let engine = Program::engine(site);
    if args.foreground {
        let error = engine.command(site, place).exec();
        return Err(engine.cannot(&error));
    }
    engine.start(site, place, args.wait.timeout)?;
    if site.config.agent.is_some() {
        Program::agent(site).start(site, place, args.wait.timeout)?;
    }
    Ok(())
}

/// One of the programs that run for a node.
struct Program {
    name: &'static str,
    log: PathBuf,
    connect: fn(&Site) -> Result<Client, Failure>,
}

impl Program {
    fn engine(site: &Site) -> Self {
        Self { name: "twinlund", log: site.node.log_file(), connect: Site::client }
    }

    fn agent(site: &Site) -> Self {
        Self { name: "twinlun-agent", log: site.node.agent_log_file(), connect: Site::agent }
    }

    /// Next to this program, or wherever PATH has it.
    fn path(&self) -> PathBuf {
        let beside = std::env::current_exe().ok().map(|path| path.with_file_name(self.name));
        beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(self.name))
    }

    fn command(&self, site: &Site, place: &Place) -> Command {
        let mut command = Command::new(self.path());
        // The daemon leaves this directory.
        let file = std::path::absolute(&place.config).unwrap_or_else(|_| place.config.clone());
        command.arg("--config").arg(file).arg("--node").arg(&site.node.name);
        command
    }

    fn cannot(&self, error: &std::io::Error) -> Failure {
        let Self { name, .. } = self;
        let what = format!("cannot start {}: {error}", self.path().display());
        Failure::failed(what, format!("install {name} next to twinlun, or into a directory of PATH"))
    }

    fn start(&self, site: &Site, place: &Place, patience: Duration) -> Result<(), Failure> {
        let node = &site.node.name;
        if self.is_running(site, patience)? {
            print_done(site.json, &format!("{} runs for {node} already", self.name));
            return Ok(());
        }
        let (log, begin) = open_log(&site.node, &self.log)?;
        let stderr = log.try_clone().map_err(|error| self.cannot(&error))?;
        let mut command = self.command(site, place);
        command.arg("--background").stdin(Stdio::null()).stdout(stderr).stderr(log);
        let mut child = command.spawn().map_err(|error| self.cannot(&error))?;
        self.wait_for_start(site, &mut child, begin, patience)?;
        print_done(site.json, &format!("{} runs for {node} (log: {})", self.name, self.log.display()));
        Ok(())
    }

    /// Does it answer? One that was killed or ends is waited for until it is gone: for a moment its socket still takes
    /// connections.
    fn is_running(&self, site: &Site, patience: Duration) -> Result<bool, Failure> {
        let Ok(mut client) = (self.connect)(site) else { return Ok(false) };
        let mut process = client.process();
        match client.ask(Request::Status, QUICK) {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind == FailureKind::Unreachable => {
                if process.as_mut().is_none_or(|process| process.wait_for_end(patience)) {
                    return Ok(false);
                }
                let what = format!(
                    "the {} of {} answers nothing and has not ended within {} s",
                    self.name,
                    site.node.name,
                    patience.as_secs_f32()
                );
                Err(Failure::new(FailureKind::TimedOut, what, format!("look at {}", self.log.display())))
            }
            Err(failure) => Err(failure),
        }
    }

    fn wait_for_start(
        &self,
        site: &Site,
        child: &mut Child,
        log_from: u64,
        patience: Duration,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.start_failure(site, status, log_from));
            }
            let answer = (self.connect)(site).and_then(|mut client| client.ask(Request::Status, QUICK));
            if answer.is_ok_and(|answer| is_up(site, &answer)) {
                return Ok(());
            }
            if began.elapsed() > patience {
                let (name, seconds) = (self.name, patience.as_secs());
                let what = format!("{name} has not answered after {seconds} s; it is still starting");
                return Err(Failure::new(
                    FailureKind::TimedOut,
                    what,
                    format!("look at {}", self.log.display()),
                ));
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// What the program said before it ended: the last `NAME: …` of its log.
    fn start_failure(&self, site: &Site, status: ExitStatus, log_from: u64) -> Failure {
        let kind = match status.code() {
            Some(2) => FailureKind::Usage,
            Some(4) => FailureKind::Refused,
            _ => FailureKind::Failed,
        };
        let said = read_from(&self.log, log_from).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let prefix = format!("{}: ", self.name);
        let Some(at) = lines.iter().rposition(|line| line.starts_with(&prefix)) else {
            let what = format!("{} for {} ended at once ({status})", self.name, site.node.name);
            return Failure::new(kind, what, format!("look at {}", self.log.display()));
        };
        let what = &lines[at][prefix.len()..];
        let next = lines.get(at + 1).and_then(|line| line.strip_prefix("  next: ")).unwrap_or("");
        Failure::new(kind, what, next)
    }
}

/// The log file and how long it is already.
fn open_log(node: &NodeConfig, path: &Path) -> Result<(File, u64), Failure> {
    let cannot = |error: std::io::Error| {
        let what = format!("cannot write the log {}: {error}", path.display());
        Failure::failed(
            what,
            "run this as root, or set run_dir in the configuration to a directory that may be written",
        )
    };
    fs::create_dir_all(&node.run_dir).map_err(cannot)?;
    log_file::open(path).map_err(cannot)
}

/// A volume without a peer is served as soon as it is up; one of a pair waits for its promotion.
fn is_up(site: &Site, answer: &Answer) -> bool {
    match answer {
        Answer::Agent(_) => true,
        Answer::Status(status) => site.config.replication.is_some() || status.service != Service::Closed,
        _ => false,
    }
}

fn read_from(path: &std::path::Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn down(site: &Site, patience: Duration, or_kill: bool) -> Result<(), Failure> {
    let name = &site.node.name;
    let began = Instant::now();
    // The agent first: it hands the service over if it can, and takes the service addresses away.
    if let Ok(agent) = site.agent() {
        end(agent, &format!("twinlun-agent of {name}"), began, patience)?;
        print_done(site.json, &format!("twinlun-agent of {name} has ended"));
    }
    let client = match site.client() {
        Ok(client) => client,
        Err(failure) if failure.next.starts_with("twinlun up") => {
            print_done(site.json, &format!("twinlund does not run for {name}"));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let process = client.process_id();
    let who = format!("twinlund of {name}");
    match (end(client, &who, began, patience), process) {
        (Err(failure), Some(process)) if or_kill => kill(process, &who, &failure)?,
        (ended, _) => ended?,
    }
    print_done(site.json, &format!("{who} has ended"));
    Ok(())
}

/// Ends a daemon that does not end by itself.
fn kill(id: u32, who: &str, why: &Failure) -> Result<(), Failure> {
    eprintln!("twinlun: {who} is killed: {}", why.what);
    let Some(mut process) = Process::open(id) else { return Ok(()) };
    if process.life() == Life::Lives {
        let pid = Pid::from_raw(i32::try_from(id).expect("process ids are positive i32"));
        signal::kill(pid, Signal::SIGKILL).map_err(|errno| {
            Failure::failed(format!("{who} cannot be killed: {errno}"), "run this as root")
        })?;
    }
    match process.wait_for_end(QUICK) {
        true => Ok(()),
        false => Err(Failure::new(FailureKind::TimedOut, format!("{who} was killed and does not end"), "")),
    }
}

/// Tells a program to end, and waits until it has.
fn end(mut client: Client, who: &str, began: Instant, patience: Duration) -> Result<(), Failure> {
    let mut process = client.process();
    let lived = process.as_mut().is_some_and(|process| process.life() == Life::Lives);
    match client.ask(Request::Down, patience) {
        // It had been killed before it was asked.
        Err(failure) if failure.kind == FailureKind::Unreachable && !lived => {}
        answer => drop(answer?),
    }
    // The answer means that all is stable; the process itself takes a moment more to leave.
    let left = patience.saturating_sub(began.elapsed());
    if !process.is_none_or(|mut process| process.wait_for_end(left)) {
        let what = format!("{who} has drained and does not end");
        return Err(Failure::new(FailureKind::TimedOut, what, "look at its log"));
    }
    Ok(())
}

/// Only the agent knows standby.
fn standby(site: &Site, on: bool) -> Result<(), Failure> {
    let answer = site.agent()?.ask(Request::Standby { on }, QUICK)?;
    let Answer::Done(text) = answer else { return Err(odd_answer()) };
    print_done(site.json, &text);
    Ok(())
}

fn status(site: &Site, terse: bool) -> Result<(), Failure> {
    let answer = site.client()?.ask(Request::Status, QUICK)?;
    let Answer::Status(mut status) = answer else { return Err(odd_answer()) };
    if terse {
        print(&render::terse(&status, site.node.id));
        return Ok(());
    }
    if let Ok(Answer::Agent(agent)) = site.agent().and_then(|mut agent| agent.ask(Request::Status, QUICK)) {
        status.agent = Some(*agent);
    }
    let agent_missing = site.config.agent.is_some() && status.agent.is_none();
    if site.json {
        print_json(&*status);
    } else {
        print(&render::status(&status));
        if agent_missing {
            print(&format!(
                "  NO AGENT: nothing fails over by itself; twinlun up --node {} starts it",
                site.node.name
            ));
        }
    }
    Ok(())
}

fn act(site: &Site, request: Request, patience: Duration) -> Result<(), Failure> {
    let answer = site.client()?.ask(request, patience)?;
    let Answer::Done(text) = answer else { return Err(odd_answer()) };
    print_done(site.json, &text);
    Ok(())
}

fn odd_answer() -> Failure {
    Failure::failed(
        "the daemon answered something else than was asked",
        "use the twinlun of the same release",
    )
}

fn promote(site: &Site, args: PromoteArgs) -> Result<(), Failure> {
    if let Some(fenced) = &args.i_have_fenced {
        let peer = site.peer_name()?;
        if fenced != peer {
            let what = format!("{fenced:?} is not the other node; it is {peer}");
            return Err(Failure::usage(what, format!("make sure that {peer} is off, then name it")));
        }
    }
    let request = Request::Promote {
        seed: args.seed,
        fenced: args.i_have_fenced,
        unmet: args.yes,
        automatic: args.automatic,
        died_epoch: None,
    };
    act(site, request, args.wait.timeout)
}

fn connect(site: &Site, args: &ConnectArgs) -> Result<(), Failure> {
    if args.discard_my_data && !args.yes {
        let peer = site.peer_name()?;
        let question =
            format!("What {} wrote while it was apart will be lost; {peer}'s copy stays.", site.node.name);
        confirm(&question, &site.config.volume.name)?;
    }
    act(site, Request::Connect { discard_my_data: args.discard_my_data }, args.wait.timeout)
}

fn events(site: &Site, args: &EventsArgs) -> Result<(), Failure> {
    let mut client = site.client()?;
    client.send(Request::Events { after: args.after, follow: args.follow })?;
    loop {
        match client.answer((!args.follow).then_some(QUICK))? {
            Answer::Event(event) if site.json => print_json(&event),
            Answer::Event(event) => print(&render::event(&event)),
            Answer::Done(_) => return Ok(()),
            _ => return Err(odd_answer()),
        }
    }
}

fn check(site: &Site) -> Result<(), Failure> {
    let Site { config, node, json } = site;
    if let Some(replication) = &config.replication {
        Secret::read(&replication.secret_file)?;
    }
    process::check_replication_host(node)?;
    access::check(&config.target.access)?;
    virtual_machine::check(config, Path::new("/"))?;
    let kernel = Kernel::default();
    let disk = DeviceFacts::read(&node.disk, &format!("the disk of {}", node.name), &kernel)?;
    if let Some(path) = &node.metadata {
        DeviceFacts::read(path, &format!("the metadata device of {}", node.name), &kernel)?;
    }
    let peer = config.peer_of(node).map_or(String::new(), |peer| format!(", its peer is {}", peer.name));
    let text = format!(
        "{} is right: volume {}, this is {}{peer}; {}",
        config.file.display(),
        config.volume.name,
        node.name,
        describe(&disk)
    );
    print_done(*json, &text);
    Ok(())
}
