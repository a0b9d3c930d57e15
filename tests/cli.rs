//! What a newcomer sees: the real programs, on image files, and every mistake that is easily made. Each must end in
//! one or two lines that name the thing, say what it means, and what to do; and in the right exit code.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

impl Bench {
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

/// A port that nobody had a moment ago.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
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

/// A running daemon; ended when the test ends, however it ends.
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
        let said = self.0.run("down");
        if said.code != 0 && !std::thread::panicking() {
            panic!("{said:?}\n{}", self.0.log());
        }
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
    let process = fs::read_to_string(bench.path("run/stor-a.lock")).expect("there");
    let killed = Command::new("kill").args(["-KILL", process.trim()]).status().expect("it starts");
    assert!(killed.success());
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
fn sigterm_is_an_orderly_end() {
    let bench = Bench::new();
    let _running = bench.up();
    let process = fs::read_to_string(bench.path("run/stor-a.lock")).expect("there");
    Command::new("kill").args(["-TERM", process.trim()]).status().expect("it starts");
    while bench.path("run/stor-a.sock").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(bench.log().contains("event=ended"), "{}", bench.log());
}
