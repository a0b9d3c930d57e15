//! The own engine, as the agent sees it: its beats over the control socket, its death by the kernel's word, and the way
//! to ask it for something.
//!
//! The death certificate rests on a pidfd: it becomes readable when the process has ended, with all its threads, and
//! at no other time. A control connection that merely breaks certifies nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::effect::Ask;
use super::message::{Disk, EngineView, Link, Role, Service};
use crate::arbitration::{Epoch, NodeSet};
use crate::daemon::api::{self, Answer, AnswerLine, Beat, Request, RequestLine, SCHEMA};
use crate::units::NodeId;

/// Pause between attempts to reach the engine.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a broken connection may be ahead of the end of its process.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);
/// How long the engine may take for what it is asked.
const ASK_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take for dropping connections.
const DROP_PATIENCE: Duration = Duration::from_millis(500);
/// Longest line of the engine's that is read.
const LINE_MAX: usize = 1 << 16;

/// What the engine is asked for, and what goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errand {
    pub ask: Ask,
    /// The peer's engine is certified dead, and this was the epoch that it told last.
    pub died: Option<Epoch>,
}

/// What is told of the engine.
#[derive(Clone, Debug)]
pub enum News {
    Beat(EngineView),
    /// The process of this incarnation has ended.
    Died(u64),
    /// The answer to what it was asked.
    Answered(Result<(), String>),
    /// Connections to addresses that have left this node are no more.
    Dropped,
}

/// Follows the engine at `socket` for ever, on threads of its own. What is sent on `asks` is asked of it, one by one.
pub fn follow(
    socket: PathBuf,
    every: Duration,
    asks: Receiver<Errand>,
    news: Sender<News>,
) -> io::Result<()> {
    let (path, teller) = (socket.clone(), news.clone());
    thread::Builder::new().name("engine".to_owned()).spawn(move || {
        loop {
            // An error here is the engine's absence or its end; the next attempt says more.
            let over = watch(&path, every, &teller).is_ok_and(|listening| !listening);
            if over {
                return;
            }
            thread::sleep(RETRY_PAUSE);
        }
    })?;
    thread::Builder::new().name("asker".to_owned()).spawn(move || {
        for errand in asks {
            let answer = carry(&socket, errand);
            if news.send(News::Answered(answer)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Tells the engine which addresses have left this node, on a thread of its own: it is not to be kept waiting by a
/// takeover. An engine that does not answer is gone, or hangs, and does nothing for these connections either.
pub fn drop_connections(
    socket: PathBuf,
    addresses: Receiver<Vec<IpAddr>>,
    news: Sender<News>,
) -> io::Result<()> {
    thread::Builder::new().name("dropper".to_owned()).spawn(move || {
        for at in addresses {
            if let Err(error) = exchange(&socket, Request::DropConnections { at }, DROP_PATIENCE) {
                log::info!("the engine does not say that it dropped connections: {error}");
            }
            if news.send(News::Dropped).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// One connection, until it ends. `Ok(false)`: nobody listens any more.
fn watch(path: &Path, every: Duration, news: &Sender<News>) -> io::Result<bool> {
    let mut stream = UnixStream::connect(path)?;
    let process = process_of(&stream)?;
    let every_milliseconds = u32::try_from(every.as_millis()).unwrap_or(u32::MAX);
    send(&mut stream, Request::Watch { every_milliseconds })?;
    stream.set_nonblocking(true)?;
    let mut unread = Vec::new();
    let mut incarnation = None;
    let mut open = true;
    loop {
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&stream, PollFlags::IN));
        }
        let patience = Timespec { tv_sec: DEATH_PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = match poll(&mut fds, (!open).then_some(&patience)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let died = !fds[0].revents().is_empty();
        if open {
            let (beats, still) = read_beats(&mut stream, &mut unread)?;
            open = still;
            for beat in beats {
                incarnation = Some(beat.incarnation);
                if news.send(News::Beat(view(&beat))).is_err() {
                    return Ok(false);
                }
            }
        }
        if died {
            return Ok(incarnation.is_none_or(|incarnation| news.send(News::Died(incarnation)).is_ok()));
        }
        if ready == 0 {
            // The connection is gone and the process lives: connect anew.
            return Ok(true);
        }
    }
}

/// The process at the other end.
fn process_of(stream: &UnixStream) -> io::Result<OwnedFd> {
    let owner = getsockopt(&stream.as_fd(), sockopt::PeerCredentials)?;
    let pid = Pid::from_raw(owner.pid()).ok_or_else(|| io::Error::other("the engine is out of sight"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The beats that have come in whole, and whether more may come.
fn read_beats(stream: &mut UnixStream, unread: &mut Vec<u8>) -> io::Result<(Vec<Beat>, bool)> {
    let mut open = true;
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => open = false,
            Ok(length) => {
                unread.extend_from_slice(&chunk[..length]);
                if unread.len() > LINE_MAX {
                    return Err(io::Error::other("an endless line"));
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => open = false,
        }
        break;
    }
    let mut beats = Vec::new();
    while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = unread.drain(..=end).collect();
        // A failure instead of a beat: the engine does not tell its state. That is no beat.
        if let Ok(AnswerLine { answer: Answer::Beat(beat), .. }) = serde_json::from_slice(&line) {
            beats.push(beat);
        }
    }
    Ok((beats, open))
}

fn view(beat: &Beat) -> EngineView {
    let bits =
        beat.in_sync.iter().fold(0, |bits, node| bits | 1u8.checked_shl(u32::from(*node)).unwrap_or(0));
    EngineView {
        incarnation: beat.incarnation,
        progress: beat.progress,
        role: if beat.role == api::Role::Primary { Role::Primary } else { Role::Secondary },
        service: match beat.service {
            api::Service::Closed => Service::Closed,
            api::Service::Held => Service::Held,
            api::Service::Alone | api::Service::Standalone => Service::Alone,
            api::Service::Both => Service::Both,
        },
        disk: match beat.disk {
            api::DiskState::UpToDate | api::DiskState::Consistent => Disk::Whole,
            api::DiskState::Inconsistent | api::DiskState::Outdated | api::DiskState::Unknown => Disk::Behind,
            api::DiskState::Diskless => Disk::Failed,
        },
        link: match beat.link {
            api::LinkState::Connected => Link::Connected,
            api::LinkState::Negotiating => Link::Meeting,
            _ => Link::Apart,
        },
        epoch: Epoch(beat.epoch),
        primary: beat.primary.filter(|node| *node < 2).map(NodeId),
        in_sync: NodeSet::from_bits(bits).unwrap_or_default(),
        demoted: beat.demoted,
        peer_silent_ms: beat
            .peer_silent_milliseconds
            .map_or(u32::MAX, |silent| u32::try_from(silent).unwrap_or(u32::MAX)),
    }
}

/// Asks the engine and waits for its answer; `Err` in words.
fn carry(socket: &Path, Errand { ask, died }: Errand) -> Result<(), String> {
    let request = match ask {
        Ask::TakeOver(reason) => {
            let automatic = Some(reason.word().to_owned());
            let died_epoch = died.map(|epoch| epoch.0);
            Request::Promote { seed: false, fenced: None, unmet: false, automatic, died_epoch }
        }
        Ask::HandOver(_) => Request::Switchover,
    };
    let answer = exchange(socket, request, ASK_PATIENCE)
        .map_err(|error| format!("the engine does not answer: {error}"))?;
    match answer {
        Answer::Done(_) => Ok(()),
        Answer::Failure(failure) => Err(failure.what),
        _ => Err("the engine answers something else than was asked".to_owned()),
    }
}

fn exchange(socket: &Path, request: Request, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    send(&mut stream, request)?;
    let mut line = String::new();
    BufReader::new(stream).take(LINE_MAX as u64).read_line(&mut line)?;
    let read: AnswerLine = serde_json::from_str(&line)?;
    Ok(read.answer)
}

fn send(stream: &mut UnixStream, request: Request) -> io::Result<()> {
    let line = serde_json::to_string(&RequestLine { schema: SCHEMA, request })?;
    writeln!(stream, "{line}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const BEAT: &str = r#"{"schema":1,"answer":{"beat":{"incarnation":7,"progress":1,"role":"primary","service":"both",
        "disk":"up_to_date","link":"connected","epoch":3,"primary":1,"in_sync":[0,1],"demoted":false,
        "peer_silent_milliseconds":12}}}"#;

    fn line() -> String {
        BEAT.replace('\n', "")
    }

    #[test]
    fn a_broken_connection_is_no_death() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let (news, heard) = crossbeam_channel::unbounded();
        let (_asks, asked) = crossbeam_channel::unbounded();
        follow(path, Duration::from_millis(10), asked, news).expect("threads");
        for _ in 0..2 {
            let (mut engine, _) = listener.accept().expect("the agent connects, and again");
            writeln!(engine, "{}", line()).expect("heard");
            let News::Beat(view) = heard.recv().expect("news") else { panic!("this process lives") };
            assert_eq!((view.incarnation, view.role, view.in_sync), (7, Role::Primary, NodeSet::BOTH));
            assert_eq!((view.primary, view.peer_silent_ms), (Some(NodeId(1)), 12));
        }
    }

    #[test]
    fn what_is_asked_is_answered_in_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let engine = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).expect("a request");
            let answer =
                r#"{"schema":1,"answer":{"failure":{"kind":"refused","what":"not in sync","next":""}}}"#;
            writeln!(&stream, "{answer}").expect("heard");
            request
        });
        let ask = Ask::TakeOver(super::super::effect::Reason::EngineDied);
        let errand = Errand { ask, died: Some(Epoch(7)) };
        assert_eq!(carry(&path, errand), Err("not in sync".to_owned()));
        let request = engine.join().expect("no panic");
        assert!(
            request.contains(r#""verb":"promote""#) && request.contains(r#""automatic":"engine_died""#),
            "{request}"
        );
        assert!(request.contains(r#""died_epoch":7"#), "{request}");
        assert!(carry(&path, errand).is_err_and(|why| why.contains("does not answer")));
    }
}
