//! What a newcomer sees: the real programs, on image files, and every mistake that is easily made. Each must end in
//! one or two lines that name the thing, say what it means, and what to do; and in the right exit code.

#[path = "arbiter/etcd_server.rs"]
mod etcd_server;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use twinlun::daemon::process::{Life, Process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlun");

struct Bench {
    dir: tempfile::TempDir,
}

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().expect("it was not killed"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// The error has this code, at most two lines, and these words.
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.lines().count() <= 2, "more than two lines: {}", self.err);
        assert!(self.err.starts_with("twinlun: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {:?}", self.err);
        }
    }

    fn succeeds(&self, words: &[&str]) {
        assert_eq!(self.code, 0, "{self:?}");
        for word in words {
            assert!(self.out.contains(word), "{word:?} is not in {:?}", self.out);
        }
    }
}

/// A daemon of a test's, by its process.
struct Daemon(u32);

impl Daemon {
    fn signal(&self, signal: &str) {
        Command::new("kill").args([signal, &self.0.to_string()]).status().expect("it starts");
    }
}

impl Drop for Bench {
    /// Nothing outlives a test: not a daemon that it stopped, nor one that it never came to end.
    fn drop(&mut self) {
        let names = fs::read_dir(self.path("run")).into_iter().flatten().flatten();
        for lock in names.map(|entry| entry.path()).filter(|path| path.extension() == Some("lock".as_ref())) {
            if let Some(daemon) = self.daemon_of(&lock) {
                daemon.signal("-CONT");
                daemon.signal("-KILL");
                if let Some(mut process) = Process::open(daemon.0) {
                    process.wait_for_end(Duration::from_secs(20));
                }
            }
        }
    }
}

impl Bench {
    /// The running daemon of a node.
    fn daemon(&self, node: &str) -> Daemon {
        self.daemon_of(&self.path(&format!("run/{node}.lock"))).expect("it runs")
    }

    /// The daemon that holds a lock, unless it has ended. The number may be another program's by now.
    fn daemon_of(&self, lock: &Path) -> Option<Daemon> {
        let process: u32 = fs::read_to_string(lock).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
        let ours = String::from_utf8_lossy(&command).contains(&self.path("t.toml").display().to_string());
        ours.then_some(Daemon(process))
    }

    /// A directory with a disk of 64 MiB and a configuration for it.
    fn new() -> Self {
        // Direct I/O does not work on every tmpfs.
        let bench = Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory") };
        bench.image("disk", 64 << 20);
        bench.configure(|text| text);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).expect("created").set_len(size).expect("sized");
        path
    }

    fn configure(&self, change: impl FnOnce(String) -> String) {
        let text = format!(
            "[volume]\nname = \"vol1\"\n\
             [target]\niqn = \"iqn.2026-11.example:vol1\"\nportals = [\"127.0.0.1:{port}\"]\n\
             [node.stor-a]\nid = 0\ndisk = \"{dir}/disk\"\nrun_dir = \"{dir}/run\"\n",
            port = free_port(),
            dir = self.dir.path().display(),
        );
        fs::write(self.path("t.toml"), change(text)).expect("written");
    }

    /// The same as a pair; this is the first node.
    fn configure_pair(&self) {
        self.configure(|text| {
            format!(
                "{text}replication_address = \"127.0.0.1:{}\"\n\
                 [node.stor-b]\nid = 1\ndisk = \"/nowhere\"\nreplication_address = \"127.0.0.1:{}\"\n\
                 [replication]\nsecret_file = \"{dir}/secret\"\n[arbiter]\nkind = \"manual\"\n",
                free_port(),
                free_port(),
                dir = self.dir.path().display(),
            )
        });
    }

    fn secret(&self, text: &str, mode: u32) {
        fs::write(self.path("secret"), text).expect("written");
        fs::set_permissions(self.path("secret"), fs::Permissions::from_mode(mode)).expect("mode set");
    }

    fn run(&self, words: &str) -> Said {
        self.run_with(words, "")
    }

    fn run_with(&self, words: &str, typed: &str) -> Said {
        use std::io::Write;
        let mut child = Command::new(PROGRAM)
            .arg("--config")
            .arg(self.path("t.toml"))
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        // A command that asks nothing may end before it is told anything.
        let _ = child.stdin.take().expect("piped").write_all(typed.as_bytes());
        Said::of(&child.wait_with_output().expect("it ends"))
    }

    fn disk_bytes(&self) -> Vec<u8> {
        fs::read(self.path("disk")).expect("read")
    }
}

/// A port that nobody has now and that no other test of this run is given. Below the kernel's own choices.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as u16);
        let port = 20_000 + offset % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn is_empty(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn a_misspelt_key_is_shown_with_its_place() {
    let bench = Bench::new();
    bench.configure(|text| text.replace("portals", "portal"));
    bench.run("status").fails(2, &["t.toml:5", "target.portal", "did you mean \"portals\"?", "next: "]);
}

#[test]
fn a_missing_configuration_says_where_it_was_looked_for() {
    let bench = Bench::new();
    fs::remove_file(bench.path("t.toml")).expect("removed");
    bench.run("status").fails(2, &["t.toml", "--config"]);
}

#[test]
fn an_unknown_verb_is_a_usage_error() {
    let said = Bench::new().run("promoet");
    assert_eq!(said.code, 2);
    assert!(said.err.contains("promote"), "{said:?}");
}

#[test]
fn without_a_daemon_the_way_to_start_it_is_shown() {
    let bench = Bench::new();
    for verb in ["status", "promote", "demote", "connect", "disconnect", "events"] {
        bench.run(verb).fails(3, &["stor-a", "does not serve vol1", "twinlun up --node stor-a"]);
    }
    let said = bench.run("status --json");
    let answer: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(answer["failure"]["kind"], "unreachable");
    bench.run("down").succeeds(&["does not run"]);
}

#[test]
fn a_disk_that_is_not_there_or_no_disk_is_named() {
    let bench = Bench::new();
    bench.configure(|text| text.replace("/disk\"", "/dsik\""));
    bench.run("init --yes").fails(1, &["dsik", "the disk of stor-a", "lsblk"]);
    bench.configure(|text| text.replace("/disk\"", "\""));
    bench.run("init --yes").fails(1 + 1, &["neither a block device nor a regular file"]);
}

#[test]
fn a_disk_that_is_too_small_says_how_large_it_must_be() {
    let bench = Bench::new();
    bench.image("disk", 4 << 20);
    bench.run("init --yes").fails(1, &["too small", "4.0 MiB", "at least 16.0 MiB"]);
}

#[test]
fn a_disk_with_contents_is_left_alone_until_forced_by_name() {
    let bench = Bench::new();
    let disk = bench.path("disk");
    let file = File::options().write(true).open(&disk).expect("writable");
    file.write_all_at(b"XFSB", 0).expect("written");
    let before = bench.disk_bytes();
    bench.run("init --yes").fails(4, &["XFS", "the disk of stor-a", "--force"]);
    bench.run("init --yes --force /dev/other").fails(2, &["/dev/other is not a device of stor-a"]);
    assert_eq!(bench.disk_bytes(), before);
    bench.run(&format!("init --yes --force {}", disk.display())).succeeds(&["is formatted", "vol1"]);
    bench.run("init --yes").fails(4, &["\"vol1\"", "twinlun up"]);
}

#[test]
fn nothing_is_written_without_the_volumes_name() {
    let bench = Bench::new();
    let said = bench.run_with("init", "yes\n");
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("64.0 MiB") && said.err.contains("not confirmed"), "{said:?}");
    assert!(is_empty(&bench.disk_bytes()));
    bench.run_with("init", "vol1\n").succeeds(&["is formatted", "twinlun up --node stor-a"]);
    assert!(!is_empty(&bench.disk_bytes()));
}

#[test]
fn an_address_that_this_machine_does_not_have_is_named() {
    let bench = Bench::new();
    bench.configure_pair();
    bench.secret("0123456789abcdef0123", 0o600);
    let text = fs::read_to_string(bench.path("t.toml")).expect("there");
    // TEST-NET-1 is nobody's (RFC 5737).
    let text = text.replacen("replication_address = \"127.0.0.1", "replication_address = \"192.0.2.1", 1);
    fs::write(bench.path("t.toml"), text).expect("written");
    let words = ["192.0.2.1", "not an address of this machine", "ip addr", "is this stor-a?"];
    bench.run("config check --node stor-a").fails(1, &words);
    bench.run("init --yes --node stor-a").succeeds(&["is formatted"]);
    bench.run("up --node stor-a").fails(1, &words);
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let bench = Bench::new();
    bench.configure_pair();
    bench.run("config check --node stor-a").fails(2, &["secret", "openssl rand"]);
    bench.secret("0123456789abcdef0123", 0o644);
    bench.run("config check --node stor-a").fails(2, &["mode 0644", "chmod 600"]);
    bench.secret("short", 0o600);
    bench.run("config check --node stor-a").fails(2, &["5 bytes"]);
    bench.secret("0123456789abcdef0123", 0o600);
    bench.run("config check --node stor-a").succeeds(&["is right", "this is stor-a", "its peer is stor-b"]);
}

#[test]
fn a_pair_asks_which_node_this_is() {
    let bench = Bench::new();
    bench.configure_pair();
    bench.run("status").fails(2, &["stor-a and stor-b", "--node NAME"]);
    bench.run("status --node stor-c").fails(2, &["no node \"stor-c\""]);
}

#[test]
fn forcing_a_promotion_names_the_other_node() {
    let bench = Bench::new();
    bench.configure_pair();
    let said = bench.run("promote --node stor-a --force");
    assert_eq!(said.code, 2, "{said:?}");
    let said = bench.run("promote --node stor-a --force --i-have-fenced stor-a");
    said.fails(2, &["\"stor-a\" is not the other node; it is stor-b"]);
    bench.run("promote --node stor-a --force --i-have-fenced stor-b").fails(3, &["no daemon runs"]);
}

#[test]
fn a_locked_disk_is_in_use() {
    let bench = Bench::new();
    let _claim = twinlun::daemon::probe::claim(Path::new(&bench.path("disk")), false).expect("free");
    bench.run("init --yes").fails(4, &["in use by another program", "twinlun down"]);
    assert!(is_empty(&bench.disk_bytes()));
}

/// A running daemon. A test that passes ends it in order; what a failed test leaves is [`Bench`]'s to end.
struct Running<'a>(&'a Bench);

impl Bench {
    fn up(&self) -> Running<'_> {
        self.run("init --yes").succeeds(&["is formatted"]);
        let running = Running(self);
        self.run("up").succeeds(&["twinlund runs for stor-a"]);
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("run/stor-a.log")).unwrap_or_default()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let said = self.0.run("down");
        assert_eq!(said.code, 0, "{said:?}\n{}", self.0.log());
    }
}

#[test]
fn a_single_node_comes_up_serves_and_ends() {
    let bench = Bench::new();
    let running = bench.up();
    bench.run("up").succeeds(&["runs for stor-a already"]);
    bench.run("promote").succeeds(&["stor-a is primary and serves vol1"]);
    bench.run("status").succeeds(&["vol1   HEALTHY", "active on stor-a", "0 sessions"]);
    let status: serde_json::Value = serde_json::from_str(&bench.run("status --json").out).expect("JSON");
    assert_eq!((&status["schema"], &status["health"]), (&1.into(), &"healthy".into()));
    bench.run("events").succeeds(&["serving"]);
    bench.run("demote").fails(2, &["no [replication]"]);
    let socket = fs::metadata(bench.path("run/stor-a.sock")).expect("there");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    bench.run("init --yes").fails(4, &["in use by another program", "twinlun down"]);
    drop(running);
    assert!(!bench.path("run/stor-a.sock").exists());
    bench.run("status").fails(3, &["twinlun up"]);
}

#[test]
fn an_unformatted_disk_does_not_come_up() {
    let bench = Bench::new();
    bench.run("up").fails(1, &["holds no volume of twinlun", "twinlun init --node stor-a"]);
}

#[test]
fn a_disk_of_another_volume_does_not_come_up() {
    let bench = Bench::new();
    bench.run("init --yes").succeeds(&["is formatted"]);
    bench.configure(|text| text.replace("vol1", "vol2"));
    bench.run("up").fails(4, &["holds volume \"vol1\"", "\"vol2\""]);
    assert!(!bench.path("run/stor-a.sock").exists());
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    bench.configure(|text| {
        let from = text.find("127.0.0.1:").expect("a portal");
        let to = from + text[from..].find('"').expect("its end");
        format!("{}127.0.0.1:{port}{}", &text[..from], &text[to..])
    });
    bench.run("init --yes").succeeds(&["is formatted"]);
    bench.run("up").fails(1, &[&format!("127.0.0.1:{port} is in use"), "ss -ltnp", "target.portals"]);
}

#[test]
fn a_secret_with_the_wrong_mode_stops_the_start() {
    let bench = Bench::new();
    bench.configure_pair();
    bench.run("init --yes --node stor-a").succeeds(&["is formatted", "twinlun promote --seed"]);
    bench.secret("0123456789abcdef0123", 0o640);
    bench.run("up --node stor-a").fails(2, &["mode 0640", "chmod 600"]);
}

#[test]
fn a_second_daemon_on_the_same_disk_is_refused() {
    let bench = Bench::new();
    let _running = bench.up();
    // The same disk under another node's name: its lock file and socket are others, the disk is not.
    bench.configure(|text| text.replace("node.stor-a", "node.stor-b"));
    let said = bench.run("up");
    bench.configure(|text| text);
    said.fails(4, &["is in use", "the disk of stor-b", "fuser -v"]);
}

#[test]
fn a_daemon_that_was_killed_leaves_nothing_in_the_way() {
    let bench = Bench::new();
    let running = bench.up();
    bench.daemon("stor-a").signal("-KILL");
    while bench.run("status").code == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(bench.path("run/stor-a.sock").exists());
    bench.run("status").fails(3, &["twinlun up"]);
    bench.run("up").succeeds(&["twinlund runs for stor-a"]);
    bench.run("status").succeeds(&["HEALTHY"]);
    drop(running);
}

#[test]
fn a_start_right_after_a_kill_waits_for_the_end_of_the_killed() {
    let bench = Bench::new();
    let running = bench.up();
    // For a moment the killed process' socket takes connections and its lock is held. Either may be met.
    for _ in 0..10 {
        bench.daemon("stor-a").signal("-KILL");
        bench.run("up").succeeds(&["twinlund runs for stor-a (log"]);
    }
    bench.daemon("stor-a").signal("-KILL");
    let said = bench.run("down");
    assert!(said.out.contains("does not run") || said.out.contains("has ended"), "{said:?}");
    bench.run("up").succeeds(&["twinlund runs for stor-a (log"]);
    drop(running);
}

#[test]
fn a_failed_test_leaves_no_daemon_behind() {
    let bench = Bench::new();
    bench.run("init --yes").succeeds(&["is formatted"]);
    bench.run("up").succeeds(&["twinlund runs for stor-a"]);
    let daemon = bench.daemon("stor-a");
    daemon.signal("-STOP");
    let mut process = Process::open(daemon.0).expect("it is only stopped");
    drop(bench);
    assert_eq!(process.life(), Life::Ended);
}

#[test]
fn a_socket_whose_owner_neither_answers_nor_ends_is_told_within_the_time_allowed() {
    let bench = Bench::new();
    fs::create_dir(bench.path("run")).expect("made");
    // The owner is this test, which hangs up on everyone.
    let listener = std::os::unix::net::UnixListener::bind(bench.path("run/stor-a.sock")).expect("bound");
    let thread = std::thread::spawn(move || drop(listener.accept()));
    bench.run("up --timeout 100ms").fails(5, &["has not ended within 0.1 s", "stor-a.log"]);
    thread.join().expect("no panic");
}

#[test]
fn sigterm_is_an_orderly_end() {
    let bench = Bench::new();
    let _running = bench.up();
    bench.daemon("stor-a").signal("-TERM");
    while bench.path("run/stor-a.sock").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(bench.log().contains("event=ended"), "{}", bench.log());
}

/// Two nodes of one volume on this machine: directories of their own, one arbiter file, one secret.
struct Pair {
    a: Bench,
    b: Bench,
}

impl Pair {
    fn new() -> Self {
        let (a, b) = (Bench::new(), Bench::new());
        let text = Self::config(&a, &b);
        for bench in [&a, &b] {
            fs::write(bench.path("t.toml"), &text).expect("written");
        }
        a.secret("the same secret on both", 0o600);
        Self { a, b }
    }

    fn config(a: &Bench, b: &Bench) -> String {
        let node = |name: &str, id: u8, bench: &Bench| {
            format!(
                "[node.{name}]\nid = {id}\ndisk = \"{dir}/disk\"\nrun_dir = \"{dir}/run\"\n\
                 replication_address = \"127.0.0.1:{port}\"\n",
                dir = bench.dir.path().display(),
                port = free_port()
            )
        };
        format!(
            "[volume]\nname = \"vol1\"\n\
             [target]\niqn = \"iqn.2026-11.example:vol1\"\nportals = [\"127.0.0.1:{port}\"]\n\
             [replication]\nsecret_file = \"{dir}/secret\"\npeer_timeout = \"1s\"\n\
             [arbiter]\nkind = \"file\"\npath = \"{dir}/arbiter/record\"\n{}{}",
            node("stor-a", 0, a),
            node("stor-b", 1, b),
            port = free_port(),
            dir = a.dir.path().display()
        )
    }

    fn node(&self, name: &str, words: &str) -> Said {
        let bench = if name == "stor-a" { &self.a } else { &self.b };
        bench.run(&format!("{words} --node {name}"))
    }

    fn status(&self, name: &str) -> serde_json::Value {
        let said = self.node(name, "status --json");
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// Waits until a field of the status (a JSON pointer) has a value.
    #[track_caller]
    fn wait(&self, name: &str, field: &str, wanted: &str) {
        self.wait_until(name, |status| {
            status.pointer(field).and_then(|value| value.as_str()) == Some(wanted)
        });
    }

    #[track_caller]
    fn wait_until(&self, name: &str, good: impl Fn(&serde_json::Value) -> bool) {
        let began = std::time::Instant::now();
        loop {
            let status = self.status(name);
            if good(&status) {
                return;
            }
            assert!(began.elapsed().as_secs() < 20, "not in time: {status}\n{}", self.logs());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn logs(&self) -> String {
        let read = |bench: &Bench, name: &str| {
            fs::read_to_string(bench.path(&format!("run/{name}.log"))).unwrap_or_default()
        };
        format!("stor-a:\n{}\nstor-b:\n{}", read(&self.a, "stor-a"), read(&self.b, "stor-b"))
    }

    fn up(&self) {
        for name in ["stor-a", "stor-b"] {
            self.node(name, "init --yes").succeeds(&["is formatted"]);
            self.node(name, "up").succeeds(&["twinlund runs for"]);
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for name in ["stor-b", "stor-a"] {
            let said = self.node(name, "down");
            assert_eq!(said.code, 0, "{said:?}\n{}", self.logs());
        }
    }
}

#[test]
fn a_pair_is_seeded_synced_switched_and_survives_a_leave() {
    let pair = Pair::new();
    pair.up();
    pair.wait("stor-a", "/health", "inactive");
    pair.node("stor-a", "status").succeeds(&["INACTIVE", "NEXT: twinlun promote --seed"]);
    pair.node("stor-a", "promote").fails(4, &["stor-a", "never held data", "promote --seed"]);
    pair.node("stor-a", "promote --seed").succeeds(&["stor-a is primary and serves vol1"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.node("stor-b", "status").succeeds(&["HEALTHY", "active on stor-a", "in sync: stor-a, stor-b"]);
    pair.node("stor-b", "promote").fails(4, &["stor-a is primary", "on stor-a: twinlun switchover"]);
    pair.node("stor-b", "switchover").fails(1, &["stor-b is not primary", "run it on stor-a"]);
    pair.node("stor-a", "switchover").succeeds(&["stor-b is primary"]);
    pair.wait("stor-b", "/health", "healthy");
    pair.node("stor-a", "status").succeeds(&["HEALTHY", "active on stor-b"]);
    // A leave in order, service on one node, and the way back by bitmap.
    pair.node("stor-b", "down").succeeds(&["has ended"]);
    pair.node("stor-a", "promote").succeeds(&["stor-a is primary"]);
    pair.node("stor-a", "status").succeeds(&["DEGRADED", "stor-b unreachable", "NEXT: start stor-b"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.node("stor-a", "events").succeeds(&["promoted", "alone", "peer_connected", "in_sync"]);
}

#[test]
fn a_peer_that_was_left_behind_may_not_serve() {
    let pair = Pair::new();
    pair.up();
    pair.node("stor-a", "promote --seed").succeeds(&["is primary"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.node("stor-b", "down").succeeds(&["has ended"]);
    pair.wait("stor-a", "/service", "alone");
    pair.node("stor-a", "down").succeeds(&["has ended"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.node("stor-b", "promote")
        .fails(4, &["stor-b is outdated", "stor-a alone holds every", "start stor-a"]);
    assert_eq!(pair.status("stor-b")["service"], "closed");
}

#[test]
fn a_promotion_right_after_a_crash_waits_until_the_crash_is_noticed() {
    let pair = Pair::new();
    pair.up();
    pair.node("stor-a", "promote --seed").succeeds(&["is primary"]);
    pair.wait("stor-b", "/health", "healthy");
    // The target is up to date a moment before the arbiter has counted it in; a primary stopped in between would take
    // the arbiter file's lock with it.
    pair.wait("stor-a", "/health", "healthy");
    let daemon = pair.a.daemon("stor-a");
    // A stopped process keeps its connections: only its silence tells.
    daemon.signal("-STOP");
    pair.node("stor-b", "promote").succeeds(&["stor-b is primary"]);
    daemon.signal("-KILL");
    pair.node("stor-b", "status").succeeds(&["active on stor-b", "stor-a unreachable"]);
    pair.node("stor-a", "up").succeeds(&["twinlund runs for stor-a"]);
    pair.wait("stor-b", "/health", "healthy");
}

#[test]
fn a_disconnected_peer_stays_away_until_connected() {
    let pair = Pair::new();
    pair.up();
    pair.node("stor-a", "promote --seed").succeeds(&["is primary"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.node("stor-a", "disconnect").succeeds(&["has dropped the links to stor-b"]);
    pair.wait("stor-a", "/link", "disconnected");
    pair.wait("stor-a", "/service", "alone");
    pair.node("stor-a", "status").succeeds(&["DEGRADED", "disconnected by command", "NEXT: twinlun connect"]);
    pair.node("stor-a", "connect").succeeds(&["looks for stor-b"]);
    pair.wait("stor-a", "/health", "healthy");
}

#[test]
fn a_peer_with_another_secret_or_volume_is_named_as_such() {
    let pair = Pair::new();
    pair.b.secret("another secret on this one", 0o600);
    let own = format!("{}/secret", pair.b.dir.path().display());
    let shared = format!("{}/secret", pair.a.dir.path().display());
    let text = fs::read_to_string(pair.b.path("t.toml")).expect("there");
    fs::write(pair.b.path("t.toml"), text.replace(&shared, &own)).expect("written");
    pair.up();
    let said = |words: &[&str]| {
        let began = std::time::Instant::now();
        loop {
            let status = pair.node("stor-a", "status");
            if words.iter().all(|word| status.out.contains(word)) {
                return;
            }
            assert!(began.elapsed().as_secs() < 20, "{words:?} are not in {}", status.out);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    said(&["DEGRADED", "secret", "must hold the same bytes"]);
    pair.node("stor-b", "down").succeeds(&["has ended"]);
    fs::write(pair.b.path("t.toml"), text.replace("vol1", "vol2")).expect("written");
    let force = format!("init --yes --force {}/disk", pair.b.dir.path().display());
    pair.node("stor-b", &force).succeeds(&["is formatted"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    said(&["DEGRADED", "another volume (\"vol2\")"]);
}

#[test]
fn a_promotion_before_the_nodes_have_met_names_its_price() {
    let pair = Pair::new();
    for name in ["stor-a", "stor-b"] {
        pair.node(name, "init --yes --assume-clean").succeeds(&["is formatted"]);
    }
    pair.node("stor-a", "up").succeeds(&["twinlund runs for"]);
    pair.node("stor-a", "promote").fails(4, &["have not met", "all 63.4 MiB are copied to stor-b", "--yes"]);
    assert_eq!(pair.status("stor-a")["service"], "closed");
    pair.node("stor-a", "promote --yes").succeeds(&["stor-a is primary"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.node("stor-a", "events").succeeds(&["resync of everything from stor-a to stor-b"]);
    // The target was told how much there was.
    let last = pair.status("stor-b");
    assert_eq!(last.pointer("/last_resync/direction"), Some(&"target".into()), "{last}");
}

#[test]
fn a_peer_whose_volume_has_another_size_is_refused_with_the_way_on() {
    let pair = Pair::new();
    pair.b.image("disk", 96 << 20);
    for name in ["stor-a", "stor-b"] {
        pair.node(name, "init --yes --assume-clean").succeeds(&["is formatted"]);
        pair.node(name, "up").succeeds(&["twinlund runs for"]);
    }
    for name in ["stor-a", "stor-b"] {
        pair.wait(name, "/link_refusal", "geometry");
        pair.node(name, "status").succeeds(&["DEGRADED", "differ in size", "NEXT: ", "volume.size"]);
    }
}

#[test]
fn different_configuration_files_are_noticed_on_both_nodes() {
    let pair = Pair::new();
    let text = fs::read_to_string(pair.b.path("t.toml")).expect("there");
    fs::write(pair.b.path("t.toml"), format!("{text}# a note\n")).expect("written");
    pair.up();
    for name in ["stor-a", "stor-b"] {
        pair.wait_until(name, |status| status["config_differs"] == true);
        pair.node(name, "events").succeeds(&[
            "config_differs",
            "different configuration files",
            "twinlun down",
        ]);
    }
    pair.node("stor-a", "status").succeeds(&["stor-b runs with another configuration file"]);
    fs::write(pair.b.path("t.toml"), text).expect("written");
    pair.node("stor-b", "down").succeeds(&["has ended"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.wait_until("stor-a", |status| status["link"] != "connecting" && status["config_differs"] == false);
}

#[test]
fn two_clean_disks_need_no_seed_and_no_resync() {
    let pair = Pair::new();
    for name in ["stor-a", "stor-b"] {
        pair.node(name, "init --yes --assume-clean")
            .succeeds(&["is formatted", "then twinlun promote on one"]);
        pair.node(name, "up").succeeds(&["twinlund runs for"]);
    }
    pair.wait("stor-a", "/link", "connected");
    pair.node("stor-a", "promote").succeeds(&["stor-a is primary"]);
    pair.wait("stor-b", "/health", "healthy");
    let events = pair.node("stor-a", "events");
    assert!(!events.out.contains("resync_started"), "{}", events.out);
}

impl Pair {
    /// Nobody decides but a person. Each node has a portal of its own, as on two machines.
    fn manual() -> Self {
        let pair = Self::new();
        for bench in [&pair.a, &pair.b] {
            let text = fs::read_to_string(bench.path("t.toml")).expect("there");
            let line = |line: &str| match line.split(' ').next() {
                Some("path") => String::new(),
                Some("kind") => "kind = \"manual\"\n".to_owned(),
                Some("portals") => format!("portals = [\"127.0.0.1:{}\"]\n", free_port()),
                _ => format!("{line}\n"),
            };
            fs::write(bench.path("t.toml"), text.lines().map(line).collect::<String>()).expect("written");
        }
        pair
    }

    fn kill(&self, name: &str) {
        let bench = if name == "stor-a" { &self.a } else { &self.b };
        bench.daemon(name).signal("-KILL");
    }
}

#[test]
fn a_manual_arbiter_asks_for_the_persons_word() {
    let pair = Pair::manual();
    pair.node("stor-a", "init --yes").succeeds(&["is formatted"]);
    pair.node("stor-a", "up").succeeds(&["twinlund runs for stor-a"]);
    let refused = pair.node("stor-a", "promote --seed");
    refused.fails(4, &["the arbiter is manual", "nothing to fence", "--seed --force --i-have-fenced stor-b"]);
    pair.node("stor-a", "promote --seed --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.node("stor-a", "events").succeeds(&["forced_promotion"]);
    pair.node("stor-a", "status").succeeds(&["arbiter manual"]);
}

#[test]
fn a_primary_that_lost_its_peer_waits_for_the_persons_word() {
    let pair = Pair::manual();
    pair.up();
    pair.node("stor-a", "promote --seed --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.kill("stor-b");
    pair.wait("stor-a", "/health", "suspended");
    pair.node("stor-a", "status").succeeds(&[
        "SUSPENDED",
        "requests wait for stor-b",
        "--i-have-fenced stor-b",
    ]);
    pair.node("stor-a", "promote --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.wait("stor-a", "/service", "alone");
}

#[test]
fn a_split_brain_is_named_and_healed_by_a_persons_choice() {
    let pair = Pair::manual();
    pair.up();
    pair.node("stor-a", "promote --seed --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.wait("stor-a", "/health", "healthy");
    // The person is wrong twice: each node serves alone while the other is only away.
    pair.kill("stor-a");
    pair.wait("stor-b", "/link", "connecting");
    pair.node("stor-b", "status").succeeds(&["nothing is served", "--force --i-have-fenced stor-a"]);
    pair.node("stor-b", "promote --force --i-have-fenced stor-a").succeeds(&["stor-b is primary"]);
    pair.kill("stor-b");
    pair.node("stor-a", "up").succeeds(&["twinlund runs for stor-a"]);
    pair.node("stor-a", "promote --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.wait("stor-a", "/health", "split_brain");
    let status = pair.node("stor-a", "status");
    status.succeeds(&[
        "SPLIT-BRAIN",
        "of stor-a: on stor-a twinlun demote, then twinlun connect --discard-my-data.",
        "of stor-b: on stor-b twinlun connect --discard-my-data",
    ]);
    pair.node("stor-a", "connect --discard-my-data --yes").fails(1, &["stor-a serves vol1", "demote"]);
    let said = pair.node("stor-b", "connect --discard-my-data");
    assert_eq!(said.code, 4, "data is not given up unasked: {said:?}");
    pair.node("stor-b", "connect --discard-my-data --yes").succeeds(&["stor-b gives up its own writes"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.wait("stor-b", "/health", "healthy");
}

/// Switches a node off as a power switch would: with SIGKILL. `broken` beside it makes it fail.
const FENCE_AGENT: &str = r#"#!/bin/sh
while IFS='=' read -r name value; do
    case $name in action) action=$value ;; dir) dir=$value ;; node) node=$value ;; here) here=$value ;; esac
done
[ ! -e "$here/broken" ] || { echo "the switch does not answer" >&2; exit 1; }
echo "$action $node" >> "$here/calls"
pid=$(cat "$dir/run/$node.lock" 2>/dev/null)
runs() { [ -n "$pid" ] && grep -qs "$dir/t.toml" "/proc/$pid/cmdline"; }
case $action in
    off) ! runs || kill -9 "$pid"; while runs; do sleep 0.01; done ;;
    status) if runs; then exit 0; else exit 2; fi ;;
    *) exit 1 ;;
esac
"#;

impl Pair {
    /// No third vote: each node can switch the other one off.
    fn fencing() -> Self {
        let pair = Self::new();
        let here = pair.a.dir.path().display().to_string();
        let agent = pair.a.path("fence_test");
        fs::write(&agent, FENCE_AGENT).expect("written");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("executable");
        let node = |name: &str, bench: &Bench| {
            format!(
                "[arbiter.node.{name}]\nagent = \"{}\"\n\
                 options = {{ dir = \"{}\", node = \"{name}\", here = \"{here}\" }}\n",
                agent.display(),
                bench.dir.path().display()
            )
        };
        let arbiter = format!(
            "kind = \"fence\"\ndelay = \"1s\"\ntimeout = \"5s\"\n{}{}",
            node("stor-a", &pair.a),
            node("stor-b", &pair.b)
        );
        pair.with_arbiter(&arbiter)
    }

    /// Another arbiter, and a portal of its own for each node, as on two machines.
    fn with_arbiter(self, arbiter: &str) -> Self {
        let text = fs::read_to_string(self.a.path("t.toml")).expect("there");
        let old = format!("kind = \"file\"\npath = \"{}/arbiter/record\"\n", self.a.dir.path().display());
        assert!(text.contains(&old));
        for bench in [&self.a, &self.b] {
            let portal = |line: &str| match line.starts_with("portals = ") {
                true => format!("portals = [\"127.0.0.1:{}\"]\n", free_port()),
                false => format!("{line}\n"),
            };
            let text: String = text.replace(&old, arbiter).lines().map(portal).collect();
            fs::write(bench.path("t.toml"), text).expect("written");
        }
        self
    }

    /// Two clean disks, the first promotion, both in sync.
    fn serve(&self) {
        for name in ["stor-a", "stor-b"] {
            self.node(name, "init --yes --assume-clean").succeeds(&["is formatted"]);
            self.node(name, "up").succeeds(&["twinlund runs for"]);
        }
        self.wait("stor-a", "/link", "connected");
        self.node("stor-a", "promote").succeeds(&["stor-a is primary"]);
        self.wait("stor-a", "/health", "healthy");
        self.wait("stor-b", "/health", "healthy");
    }

    fn fence_calls(&self) -> String {
        fs::read_to_string(self.a.path("calls")).unwrap_or_default()
    }
}

#[test]
fn a_peer_that_is_silent_is_switched_off_before_its_place_is_taken() {
    let pair = Pair::fencing();
    pair.serve();
    assert!(!pair.fence_calls().contains("off"), "{}", pair.fence_calls());
    // It lives, and would come back later.
    pair.b.daemon("stor-b").signal("-STOP");
    pair.wait("stor-a", "/service", "alone");
    assert!(pair.fence_calls().contains("off stor-b\nstatus stor-b"), "{}", pair.fence_calls());
    assert!(pair.b.daemon_of(&pair.b.path("run/stor-b.lock")).is_none(), "it is off");
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.wait("stor-a", "/health", "healthy");
    pair.wait("stor-b", "/health", "healthy");
    // The primary dies; the other one is told to take over.
    pair.kill("stor-a");
    let said = pair.node("stor-b", "promote");
    assert_eq!(said.code, 0, "{said:?}\n{}\n{}", pair.logs(), pair.fence_calls());
    assert!(pair.fence_calls().contains("off stor-a"), "{}", pair.fence_calls());
    // F5: alone before, alone again, and nobody is switched off for it.
    let calls = pair.fence_calls().matches("off").count();
    pair.node("stor-b", "down").succeeds(&["has ended"]);
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.node("stor-b", "promote").succeeds(&["stor-b is primary"]);
    pair.kill("stor-b");
    // F5: the stale one neither serves nor shoots.
    pair.node("stor-a", "up").succeeds(&["twinlund runs for stor-a"]);
    pair.node("stor-a", "promote").fails(4, &["has not met stor-b since it started", "next: "]);
    assert_eq!(pair.fence_calls().matches("off").count(), calls);
}

#[test]
fn a_fence_that_fails_leaves_the_decision_to_a_person() {
    let pair = Pair::fencing();
    pair.serve();
    fs::write(pair.a.path("broken"), "").expect("written");
    pair.b.daemon("stor-b").signal("-STOP");
    pair.wait("stor-a", "/service", "held");
    pair.wait_until("stor-a", |status| status["arbiter"]["reachable"] == false);
    let said = pair.node("stor-a", "events");
    said.succeeds(&["arbiter_silent", "stor-b is not known to be off", "the switch does not answer"]);
    assert_eq!(pair.status("stor-a")["service"], "held", "time does not make a success of it");
    pair.kill("stor-b");
    pair.node("stor-a", "promote --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.wait("stor-a", "/service", "alone");
}

#[test]
#[ignore = "needs etcd-server"]
fn an_etcd_that_was_restored_from_a_backup_stops_the_node_with_words() {
    let mut cluster = etcd_server::Cluster::start(1, etcd_server::Options::default());
    let arbiter = format!("kind = \"etcd\"\nendpoints = [{:?}]\n", cluster.urls()[0]);
    let pair = Pair::new().with_arbiter(&arbiter);
    pair.serve();
    let kept = pair.a.path("backup");
    cluster.members[0].kill();
    cluster.members[0].back_up(&kept);
    cluster.run(0);
    pair.kill("stor-b");
    pair.wait("stor-a", "/service", "alone");
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.wait("stor-a", "/health", "healthy");
    let known = cluster.etcdctl_ok(&[], &["get", "--prefix", "/twinlun/stor-a+stor-b/vol1"]);
    assert!(known.contains("primary=0 in_sync=0,1"), "{known}");
    cluster.members[0].kill();
    cluster.members[0].restore(&kept);
    cluster.run(0);
    cluster.wait_healthy();
    pair.kill("stor-b");
    pair.wait("stor-a", "/service", "closed");
    let said = pair.node("stor-a", "events");
    said.succeeds(&["arbiter_lost_data", "restored from a backup", "stor-a serves no more"]);
    pair.node("stor-a", "promote").fails(4, &["the arbiter lost data or was restored", "next: "]);
    pair.node("stor-a", "promote --force --i-have-fenced stor-b").succeeds(&["stor-a is primary"]);
    pair.wait("stor-a", "/service", "alone");
    pair.node("stor-b", "up").succeeds(&["twinlund runs for stor-b"]);
    pair.wait("stor-a", "/health", "healthy");
}
