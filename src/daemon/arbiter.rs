//! The arbiter's desk: the thread that asks the configured back end, and the coordinator's questions and answers.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendError, Sender};

use super::config::{ArbiterConfig, Config, EtcdSection, FenceSection, NodeConfig, Password, Secret};
use super::failure::Failure;
use super::identity;
use crate::arbiter::etcd::{EtcdConfig, Login, TlsFiles};
use crate::arbiter::fence::FenceConfig;
use crate::arbiter::pacemaker::{self, PacemakerConfig};
use crate::arbiter::{
    Arbiter, ArbiterError, EtcdArbiter, FenceArbiter, FileArbiter, ManualArbiter, PacemakerArbiter,
    PacemakerError, Swap,
};
use crate::arbitration::Record;
use crate::volume::coordinator::{CasOutcome, RecordOutcome};

/// Pause before a change that has no answer is offered again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Pause before another reason for the same silence is told.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// The back end that a configuration asks for. `secret` is the pair's, `own` the record on this node's disk.
pub fn open(
    config: &Config,
    node: &NodeConfig,
    secret: &Secret,
    own: Record,
) -> Result<Box<dyn Arbiter>, Failure> {
    let replication = config.replication.as_ref().expect("a secret belongs to replication");
    Ok(match &replication.arbiter {
        ArbiterConfig::File { path } => Box::new(FileArbiter::new(path)),
        ArbiterConfig::Manual => Box::new(ManualArbiter),
        ArbiterConfig::Etcd(section) => Box::new(open_etcd(config, section, secret)?),
        ArbiterConfig::Fence(section) => Box::new(open_fence(config, node, section)?),
        ArbiterConfig::Pacemaker => Box::new(open_pacemaker(config, node, secret, own)?),
    })
}

fn open_pacemaker(
    config: &Config,
    node: &NodeConfig,
    secret: &Secret,
    own: Record,
) -> Result<PacemakerArbiter, Failure> {
    if !pacemaker::is_installed() {
        let next = "install the package pacemaker, or choose another kind of [arbiter]";
        return Err(Failure::usage("the arbiter is Pacemaker, and cibadmin is not installed", next));
    }
    Ok(PacemakerArbiter::new(PacemakerConfig {
        me: node.id,
        name: node.name.clone(),
        peer: config.peer_of(node).expect("replication has two nodes").name.clone(),
        volume: config.volume.name.clone(),
        pair: identity::pair_identifier(config, secret),
        own,
    }))
}

fn open_fence(config: &Config, node: &NodeConfig, section: &FenceSection) -> Result<FenceArbiter, Failure> {
    let peer = config.peer_of(node).expect("replication has two nodes").name.clone();
    let (_, agent) = section
        .agents
        .iter()
        .find(|(name, _)| *name == peer)
        .expect("the configuration has one for each node");
    let show = agent.program.display();
    let mode = std::fs::metadata(&agent.program).map(|facts| facts.permissions().mode());
    let next = "install the package fence-agents, or correct [arbiter.node]";
    match mode {
        Ok(mode) if mode & 0o111 != 0 => {}
        Ok(_) => return Err(Failure::usage(format!("the fence agent {show} is not executable"), next)),
        Err(error) => return Err(Failure::usage(format!("no fence agent {show}: {error}"), next)),
    }
    Ok(FenceArbiter::new(FenceConfig {
        me: node.id,
        peer,
        agent: agent.clone(),
        delay: section.delay,
        timeout: section.timeout,
    }))
}

fn open_etcd(config: &Config, section: &EtcdSection, secret: &Secret) -> Result<EtcdArbiter, Failure> {
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    let login = section.login.as_ref().map(|(user, file)| {
        Password::read(file).map(|password| Login { user: user.clone(), password: password.text() })
    });
    let etcd = EtcdConfig {
        endpoints: section.endpoints.clone(),
        cluster: section.cluster.clone().unwrap_or_else(|| names.join("+")),
        volume: config.volume.name.clone(),
        pair: identity::pair_identifier(config, secret),
        tls: TlsFiles { ca: section.ca.clone(), identity: section.identity.clone() },
        login: login.transpose()?,
    };
    EtcdArbiter::open(&etcd).map_err(|error| {
        Failure::usage(format!("arbiter: {error}"), "correct [arbiter] or the file it names")
    })
}

/// A question for the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    Read,
    /// Not a question: this node and its peer have found that both copies are good.
    Met,
    /// Not a question either: a person says that the other node is off, and asks for a promotion.
    Vouched,
    /// `expected` may be the empty record that stands for none.
    Swap {
        expected: Record,
        proposed: Record,
    },
}

/// What the arbiter's thread tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Record(RecordOutcome),
    Swapped(CasOutcome),
    /// There is no answer yet; a swap is asked again until there is.
    Silent(String),
    /// It answers again.
    Back,
}

/// What is said of an arbiter that does not answer: at once, again when it is for another reason, never in a flood.
#[derive(Default)]
struct Silence(Option<(String, Instant)>);

impl Silence {
    /// What to tell now that a question had this trouble, or none.
    fn hear(&mut self, trouble: Option<&str>) -> Option<Told> {
        let news = match (trouble, &self.0) {
            (None, None) => None,
            (None, Some(_)) => Some(Told::Back),
            (Some(why), Some((told, at))) if why == told || at.elapsed() < SAY_AGAIN => return None,
            (Some(why), _) => Some(Told::Silent(why.to_owned())),
        };
        self.0 = trouble.map(|why| (why.to_owned(), Instant::now()));
        news
    }
}

/// Asks the arbiter on a thread of its own. Ends when the questions end.
pub fn spawn(
    mut arbiter: Box<dyn Arbiter>,
    questions: Receiver<Question>,
    told: Sender<Told>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("arbiter".to_owned()).spawn(move || {
        let mut silence = Silence::default();
        let trouble = arbiter.probe().err().map(|error| error.to_string());
        if let Some(news) = silence.hear(trouble.as_deref()) {
            if told.send(news).is_err() {
                return;
            }
        }
        for question in questions {
            match question {
                Question::Met => {
                    arbiter.on_met();
                    continue;
                }
                Question::Vouched => {
                    arbiter.on_vouched();
                    continue;
                }
                Question::Read | Question::Swap { .. } => {}
            }
            // A dropped receiver means that the daemon ends.
            if answer(arbiter.as_mut(), question, &told, &mut silence).is_err() {
                return;
            }
        }
    })
}

fn answer(
    arbiter: &mut dyn Arbiter,
    question: Question,
    told: &Sender<Told>,
    silence: &mut Silence,
) -> Result<(), SendError<Told>> {
    loop {
        let (outcome, trouble) = match question {
            Question::Met | Question::Vouched => return Ok(()),
            Question::Read => read(arbiter),
            Question::Swap { expected, proposed } => swap(arbiter, expected, proposed),
        };
        if let Some(news) = silence.hear(trouble.as_deref()) {
            told.send(news)?;
        }
        if let Some(outcome) = outcome {
            return told.send(outcome);
        }
        thread::sleep(ASK_AGAIN);
    }
}

/// The answer, if there is one to give on, and what kept the arbiter from answering, if anything.
fn read(arbiter: &mut dyn Arbiter) -> (Option<Told>, Option<String>) {
    match arbiter.read() {
        Ok(record) => (Some(Told::Record(RecordOutcome::Known(record.unwrap_or_default()))), None),
        Err(ArbiterError::Manual) => (Some(Told::Record(RecordOutcome::NeedsOperator)), None),
        Err(ArbiterError::NotKept) => (Some(Told::Record(RecordOutcome::Own)), None),
        Err(error) => (Some(Told::Record(RecordOutcome::Unreachable)), Some(error.to_string())),
    }
}

fn swap(arbiter: &mut dyn Arbiter, expected: Record, proposed: Record) -> (Option<Told>, Option<String>) {
    let expected = (expected != Record::default()).then_some(expected);
    match arbiter.compare_and_swap(expected, proposed) {
        Swap::Committed => (Some(Told::Swapped(CasOutcome::Won)), None),
        Swap::Conflict(record) => (Some(Told::Swapped(CasOutcome::Lost(record.unwrap_or_default()))), None),
        Swap::Unknown(ArbiterError::Manual) => (Some(Told::Swapped(CasOutcome::NeedsOperator)), None),
        Swap::Unknown(
            error @ (ArbiterError::Fence(_) | ArbiterError::Pacemaker(PacemakerError::Refused { .. })),
        ) => (Some(Told::Swapped(CasOutcome::NeedsOperator)), Some(error.to_string())),
        Swap::Unknown(error) => (None, Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::{Epoch, NodeSet};
    use crate::units::NodeId;

    fn record(epoch: u64, nonce: u64) -> Record {
        Record { epoch: Epoch(epoch), primary: Some(NodeId(0)), in_sync: NodeSet::BOTH, nonce }
    }

    /// Answers as it is told to, and remembers nothing.
    struct Scripted(Vec<Swap>);

    impl Arbiter for Scripted {
        fn kind(&self) -> &'static str {
            "scripted"
        }

        fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
            Err(ArbiterError::Unreachable("no".into()))
        }

        fn compare_and_swap(&mut self, expected: Option<Record>, _proposed: Record) -> Swap {
            assert_eq!(expected, None, "the empty record stands for none");
            self.0.remove(0)
        }
    }

    #[test]
    fn a_swap_is_asked_until_it_is_answered_and_a_read_once() {
        let unknown = || Swap::Unknown(ArbiterError::Unreachable("no".into()));
        let (questions, asked) = crossbeam_channel::unbounded();
        let (told, hear) = crossbeam_channel::unbounded();
        let arbiter = Scripted(vec![unknown(), unknown(), Swap::Committed]);
        let thread = spawn(Box::new(arbiter), asked, told).expect("a thread");
        questions.send(Question::Read).expect("listening");
        let swap = Question::Swap { expected: Record::default(), proposed: record(1, 1) };
        questions.send(swap).expect("listening");
        drop(questions);
        let said: Vec<Told> = hear.iter().collect();
        assert_eq!(
            said,
            [
                Told::Silent("the arbiter does not answer: no".into()),
                Told::Record(RecordOutcome::Unreachable),
                Told::Back,
                Told::Swapped(CasOutcome::Won)
            ]
        );
        thread.join().expect("no panic");
    }

    #[test]
    fn a_person_is_asked_for_every_time() {
        let (questions, asked) = crossbeam_channel::unbounded();
        let (told, hear) = crossbeam_channel::unbounded();
        spawn(Box::new(ManualArbiter), asked, told).expect("a thread");
        questions.send(Question::Read).expect("listening");
        questions.send(Question::Swap { expected: record(1, 1), proposed: record(2, 2) }).expect("listening");
        drop(questions);
        let said: Vec<Told> = hear.iter().collect();
        assert_eq!(
            said,
            [Told::Record(RecordOutcome::NeedsOperator), Told::Swapped(CasOutcome::NeedsOperator)]
        );
    }
}
