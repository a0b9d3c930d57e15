//! The control socket: a Unix stream, one JSON request per line, one JSON answer per line.
//!
//! Whoever may open the socket may do everything, so its mode is 0600 from the first moment. A thread for every client,
//! a limit on clients, on the length of a line and on the time of an answer. Requests go to the daemon as typed
//! [`Call`]s; only `events` is answered here. Absent on purpose: any decision.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::stat::{Mode, umask};

use super::api::{Answer, REQUEST_MAX, Request, RequestLine, SCHEMA};
use super::events::EventLog;
use super::failure::{Failure, FailureKind};

/// Clients served at the same time.
const CLIENTS_MAX: usize = 16;
/// Longest time between a client's requests.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Longest time for an answer; a client gives up earlier.
const ANSWER_MAX: Duration = Duration::from_secs(3600);
/// How often a follower of events is looked after when nothing happens.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the last answers when the daemon ends.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// Calls that wait for the daemon.
const CALLS_MAX: usize = CLIENTS_MAX;

/// A request and where its answer goes. Dropping it unanswered tells the client that the daemon ends.
#[derive(Debug)]
pub struct Call {
    pub request: Request,
    pub reply: Sender<Answer>,
}

impl Call {
    pub fn answer(self, answer: Answer) {
        // The client may be gone; then nobody misses the answer.
        let _ = self.reply.try_send(answer);
    }
}

/// The listening socket and its thread. Dropping it removes the socket.
pub struct ControlSocket {
    path: PathBuf,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// What every client's thread shares.
struct Desk {
    calls: Sender<Call>,
    events: EventLog,
    clients: AtomicUsize,
    /// Requests that were read and whose answer is not written yet.
    answering: AtomicUsize,
    closing: AtomicBool,
}

impl ControlSocket {
    /// Binds the socket and begins to listen. A socket file that nobody answers is a left-over and is replaced.
    pub fn open(path: &Path, events: EventLog) -> Result<(Self, Receiver<Call>), Failure> {
        let show = path.display();
        let cannot = |error: io::Error| {
            Failure::failed(
                format!("cannot make the control socket {show}: {error}"),
                "run this as root, or set run_dir in the configuration to a directory that may be written",
            )
        };
        if UnixStream::connect(path).is_ok() {
            let what = format!("a daemon answers at {show} already; this one has not touched the disk");
            return Err(Failure::failed(what, "see it with twinlun status, or end it with twinlun down"));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        // Not first made and then closed to others: a connection made in between would stay.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(cannot)?;
        let (calls, incoming) = bounded(CALLS_MAX);
        let desk = Arc::new(Desk {
            calls,
            events,
            clients: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &shared))
            .map_err(cannot)?;
        Ok((Self { path: path.to_owned(), desk, thread: Some(thread) }, incoming))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.desk.closing.store(true, Ordering::SeqCst);
        self.desk.events.close();
        // A connection of our own wakes the thread from its accept.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
        // The last answers are on their way through other threads; the process may end after this.
        let began = Instant::now();
        while self.desk.answering.load(Ordering::SeqCst) > 0 && began.elapsed() < LAST_WORDS_MAX {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, desk: &Arc<Desk>) {
    loop {
        let client = listener.accept();
        if desk.closing.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, _)) = client else {
            // Out of descriptors, most likely; others will be closed.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if desk.clients.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
            desk.clients.fetch_sub(1, Ordering::SeqCst);
            let what = format!("the daemon serves {CLIENTS_MAX} clients on its control socket already");
            let failure = Failure::failed(what, "end one (twinlun events --follow?) and try again");
            let _ = send(&mut &stream, Answer::Failure(failure));
            continue;
        }
        let desk = Arc::clone(desk);
        let name = "control-client".to_owned();
        let served = Arc::clone(&desk);
        let thread = thread::Builder::new().name(name).spawn(move || {
            // An error here is the client's going away.
            let _ = serve(&stream, &served);
            served.clients.fetch_sub(1, Ordering::SeqCst);
        });
        if thread.is_err() {
            desk.clients.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(stream: &UnixStream, desk: &Desk) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        (&mut lines).take(REQUEST_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() > REQUEST_MAX {
            let what = format!("a request longer than {REQUEST_MAX} bytes");
            send(&mut &*stream, Answer::Failure(Failure::usage(what, "")))?;
            // Closing on unread bytes would take the answer back: let the client end its line, within reason.
            (&mut lines).take(16 * REQUEST_MAX as u64).skip_until(b'\n')?;
            return Ok(());
        }
        match read_request(&line) {
            Err(failure) => send(&mut &*stream, Answer::Failure(failure))?,
            Ok(Request::Events { after, follow }) => tell_events(stream, desk, after, follow)?,
            Ok(Request::Watch { every_milliseconds }) => return tell_beats(stream, desk, every_milliseconds),
            Ok(request) => {
                desk.answering.fetch_add(1, Ordering::SeqCst);
                let sent = send(&mut &*stream, ask(desk, request));
                desk.answering.fetch_sub(1, Ordering::SeqCst);
                sent?;
            }
        }
    }
}

/// What a line of a client asks for.
pub fn read_request(line: &[u8]) -> Result<Request, Failure> {
    let next = "use the twinlun of the same release as the daemon";
    let read: RequestLine = serde_json::from_slice(line)
        .map_err(|error| Failure::usage(format!("the daemon does not know this request: {error}"), next))?;
    if read.schema != SCHEMA {
        let what = format!("a request of schema {}; this daemon speaks schema {SCHEMA}", read.schema);
        return Err(Failure::usage(what, next));
    }
    Ok(read.request)
}

fn ask(desk: &Desk, request: Request) -> Answer {
    let (reply, answer) = bounded(1);
    let ending = || {
        let what = "the daemon ended before it answered; what was asked may or may not be done";
        Answer::Failure(Failure::new(FailureKind::Unreachable, what, "look again with twinlun status"))
    };
    if desk.calls.send(Call { request, reply }).is_err() {
        return ending();
    }
    match answer.recv_timeout(ANSWER_MAX) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Disconnected) => ending(),
        Err(RecvTimeoutError::Timeout) => {
            let what = "the daemon has not answered for an hour";
            Answer::Failure(Failure::new(FailureKind::TimedOut, what, "look at twinlun events"))
        }
    }
}

/// Events end with a line `{"done": …}` when they are not followed.
fn tell_events(stream: &UnixStream, desk: &Desk, after: u64, follow: bool) -> io::Result<()> {
    let mut last = after;
    let mut out = stream;
    for event in desk.events.after(last) {
        last = event.sequence;
        send(&mut out, Answer::Event(event))?;
    }
    if !follow {
        return send(&mut out, Answer::Done(String::new()));
    }
    // A follower that hangs up is noticed here, not at the next event.
    stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    while let Some(events) = desk.events.wait_after(last, FOLLOW_PAUSE) {
        for event in events {
            last = event.sequence;
            send(&mut out, Answer::Event(event))?;
        }
        if matches!((&mut &*stream).read(&mut [0; 64]), Ok(0)) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    send(&mut out, Answer::Done("the daemon has ended".to_owned()))
}

/// A beat now, after every event, and every so often. Each is asked of the engine anew: one that stands still gives none.
fn tell_beats(stream: &UnixStream, desk: &Desk, every_milliseconds: u32) -> io::Result<()> {
    let pause = Duration::from_millis(u64::from(every_milliseconds.max(1)));
    let mut out = stream;
    let mut last = 0;
    loop {
        send(&mut out, ask(desk, Request::Watch { every_milliseconds }))?;
        let Some(events) = desk.events.wait_after(last, pause) else { return Ok(()) };
        last = events.last().map_or(last, |event| event.sequence);
    }
}

fn send(out: &mut impl Write, answer: Answer) -> io::Result<()> {
    let mut line = answer.line();
    line.push('\n');
    out.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::daemon::api::AnswerLine;
    use crate::daemon::events::Weight;

    struct Client(BufReader<UnixStream>);

    impl Client {
        fn open(path: &Path) -> Self {
            Self(BufReader::new(UnixStream::connect(path).expect("listening")))
        }

        fn say(&mut self, line: &str) {
            writeln!(self.0.get_mut(), "{line}").expect("sent");
        }

        fn hear(&mut self) -> Answer {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("read");
            serde_json::from_str::<AnswerLine>(&line).expect("an answer").answer
        }
    }

    #[test]
    fn requests_are_typed_and_answered_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        let (socket, calls) = ControlSocket::open(&path, EventLog::new("a")).expect("bound");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let mut client = Client::open(&path);
        client.say(r#"{"schema":1,"request":{"verb":"demote"}}"#);
        let call = calls.recv().expect("a call");
        assert_eq!(call.request, Request::Demote);
        call.answer(Answer::Done("stor-a is secondary".into()));
        assert_eq!(client.hear(), Answer::Done("stor-a is secondary".into()));
        for (line, wanted) in [
            (r#"{"schema":2,"request":{"verb":"demote"}}"#, "schema 2"),
            (r#"{"schema":1,"request":{"verb":"explode"}}"#, "does not know"),
            ("hello", "does not know"),
        ] {
            client.say(line);
            let Answer::Failure(failure) = client.hear() else { panic!("{line} was accepted") };
            assert!(failure.what.contains(wanted), "{failure}");
        }
        client.say(&"x".repeat(REQUEST_MAX + 1));
        assert!(matches!(client.hear(), Answer::Failure(failure) if failure.what.contains("longer")));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn clients_that_say_nothing_and_clients_that_are_too_many_disturb_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        let (_socket, calls) = ControlSocket::open(&path, EventLog::new("a")).expect("bound");
        // Like the agent's: it was there before.
        let mut honest = Client::open(&path);
        let ask = |honest: &mut Client| {
            honest.say(r#"{"schema":1,"request":{"verb":"status"}}"#);
            calls.recv().expect("a call").answer(Answer::Done("here".into()));
            assert_eq!(honest.hear(), Answer::Done("here".into()));
        };
        ask(&mut honest);
        let mut idle: Vec<_> = (1..CLIENTS_MAX).map(|_| Client::open(&path)).collect();
        for client in &mut idle {
            client.0.get_mut().write_all(b"{\"schema\":").expect("sent");
        }
        // Those beyond are told, and closed.
        for _ in 0..3 * CLIENTS_MAX {
            let mut client = Client::open(&path);
            assert!(matches!(client.hear(), Answer::Failure(failure) if failure.what.contains("already")));
            ask(&mut honest);
        }
        // One place is free again when one of them goes.
        drop(idle.pop());
        let began = Instant::now();
        loop {
            // Turned away, it may find the door shut before it has spoken.
            let mut client = Client::open(&path);
            let _ = writeln!(client.0.get_mut(), "hello");
            let mut line = String::new();
            if client.0.read_line(&mut line).is_ok() && line.contains("does not know") {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "nobody is let in any more");
        }
    }

    #[test]
    fn a_daemon_that_ends_tells_its_clients() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        let (_socket, calls) = ControlSocket::open(&path, EventLog::new("a")).expect("bound");
        let mut client = Client::open(&path);
        client.say(r#"{"schema":1,"request":{"verb":"status"}}"#);
        drop(calls.recv().expect("a call"));
        assert!(
            matches!(client.hear(), Answer::Failure(failure) if failure.kind == FailureKind::Unreachable)
        );
    }

    #[test]
    fn a_watcher_gets_a_beat_after_every_event() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        let log = EventLog::new("a");
        let (socket, calls) = ControlSocket::open(&path, log.clone()).expect("bound");
        let mut client = Client::open(&path);
        client.say(r#"{"schema":1,"request":{"verb":"watch","every_milliseconds":600000}}"#);
        for number in 1..4 {
            let call = calls.recv().expect("asked anew for every beat");
            assert_eq!(call.request, Request::Watch { every_milliseconds: 600_000 });
            call.answer(Answer::Done(number.to_string()));
            assert_eq!(client.hear(), Answer::Done(number.to_string()));
            log.push(Weight::Info, "promoted", "one");
        }
        drop(calls);
        drop(socket);
    }

    #[test]
    fn a_left_over_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let (_socket, _calls) = ControlSocket::open(&path, EventLog::new("a")).expect("replaced");
        let second = ControlSocket::open(&path, EventLog::new("a")).map(|_| ()).expect_err("taken");
        assert!(second.what.contains("answers at"), "{second}");
    }

    #[test]
    fn events_are_listed_followed_and_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        let log = EventLog::new("a");
        log.push(Weight::Info, "started", "one");
        let (socket, _calls) = ControlSocket::open(&path, log.clone()).expect("bound");
        let mut client = Client::open(&path);
        client.say(r#"{"schema":1,"request":{"verb":"events"}}"#);
        assert!(matches!(client.hear(), Answer::Event(event) if event.sequence == 1));
        assert_eq!(client.hear(), Answer::Done(String::new()));
        client.say(r#"{"schema":1,"request":{"verb":"events","after":1,"follow":true}}"#);
        log.push(Weight::Info, "promoted", "two");
        assert!(matches!(client.hear(), Answer::Event(event) if event.event == "promoted"));
        drop(socket);
        assert!(matches!(client.hear(), Answer::Done(text) if !text.is_empty()));
    }
}
