//! Real etcd servers on loopback, ended by id whatever becomes of the test.

#![allow(dead_code, reason = "each test program uses its part")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to come up, or a cluster to elect a leader.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the servers of a cluster are started.
#[derive(Clone, Default)]
pub struct Options {
    pub extra: Vec<String>,
    pub tls: Option<Tls>,
}

/// Files that `openssl` made.
#[derive(Clone)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// One server and its data.
pub struct Member {
    pub name: String,
    pub client_port: u16,
    peer_port: u16,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Servers that form one cluster.
pub struct Cluster {
    pub members: Vec<Member>,
    options: Options,
    directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if std::thread::panicking() {
                let log = std::fs::read_to_string(&member.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                eprintln!("{} said at the end:\n{}", member.name, tail.join("\n"));
            }
            member.kill();
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

impl Member {
    /// SIGKILL: as if the power had gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Stopped processes are killed too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("the signal is sent");
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// A copy of everything that the server keeps; it must not run.
    pub fn back_up(&self, to: &Path) {
        assert!(self.child.is_none(), "a backup of files needs a server that does not write them");
        copy(&self.data, to);
    }

    pub fn restore(&self, from: &Path) {
        assert!(self.child.is_none());
        std::fs::remove_dir_all(&self.data).expect("removed");
        copy(from, &self.data);
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

impl Cluster {
    pub fn start(members: usize, options: Options) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let member = |number: usize| Member {
            name: format!("m{number}"),
            client_port: free_port(),
            peer_port: free_port(),
            data: directory.path().join(format!("m{number}")),
            log: directory.path().join(format!("m{number}.log")),
            child: None,
        };
        let members = (0..members).map(member).collect();
        let mut cluster = Self { members, options, directory };
        for place in 0..cluster.members.len() {
            cluster.run(place);
        }
        cluster.wait_healthy();
        cluster
    }

    pub fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() { "https" } else { "http" }
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url(self.scheme())).collect()
    }

    /// Starts a member that does not run, on the data that it has.
    pub fn run(&mut self, place: usize) {
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port))
            .collect();
        let scheme = self.scheme();
        let member = &mut self.members[place];
        assert!(member.child.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(&member.log).expect("a log");
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let client = member.url(scheme);
        let mut command = Command::new("etcd");
        command
            .args(["--name", &member.name, "--data-dir"])
            .arg(&member.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-token"])
            .arg(self.directory.path())
            .args(["--heartbeat-interval", "50", "--election-timeout", "300"])
            .args(&self.options.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("cloned"))
            .stderr(log);
        if let Some(tls) = &self.options.tls {
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            command.arg("--trusted-ca-file").arg(&tls.ca).arg("--client-cert-auth");
        }
        member.child = Some(command.spawn().expect("etcd-server is installed (scripts/install-deps test)"));
    }

    /// Runs etcdctl against the members named, or all.
    pub fn etcdctl(&self, places: &[usize], args: &[&str]) -> Output {
        let urls = self.urls();
        let chosen: Vec<&str> = match places {
            [] => urls.iter().map(String::as_str).collect(),
            some => some.iter().map(|place| urls[*place].as_str()).collect(),
        };
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &chosen.join(",")]);
        if let Some(tls) = &self.options.tls {
            command.arg("--cacert").arg(&tls.ca).arg("--cert").arg(&tls.cert).arg("--key").arg(&tls.key);
        }
        command.args(args).output().expect("etcd-client is installed (scripts/install-deps test)")
    }

    pub fn etcdctl_ok(&self, places: &[usize], args: &[&str]) -> String {
        let output = self.etcdctl(places, args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Every member that runs answers, and there is a leader.
    pub fn wait_healthy(&self) {
        let began = Instant::now();
        let running: Vec<usize> =
            (0..self.members.len()).filter(|place| self.members[*place].child.is_some()).collect();
        while !self.etcdctl(&running, &["endpoint", "health"]).status.success() {
            assert!(began.elapsed() < PATIENCE, "etcd does not become healthy");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The place of the leader and the members' identifiers.
    pub fn leader(&self) -> (usize, Vec<u64>) {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|place| self.members[*place].child.is_some()).collect();
        let said = self.etcdctl_ok(&running, &["endpoint", "status", "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let mut ids = vec![0; self.members.len()];
        let mut leader = 0;
        for (place, one) in running.iter().zip(status.as_array().expect("a list")) {
            ids[*place] = one["Status"]["header"]["member_id"].as_u64().expect("an identifier");
            leader = one["Status"]["leader"].as_u64().expect("a leader");
        }
        let place = ids.iter().position(|id| *id == leader).expect("the leader is one of them");
        (place, ids)
    }
}

/// A certificate authority and two certificates for 127.0.0.1, made by openssl: `member`, and `named`, which has a
/// common name.
pub fn certificates(directory: &Path) -> Tls {
    let run = |args: &str| {
        let output = Command::new("openssl").current_dir(directory).args(args.split(' ')).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {ec} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(directory.join("ext"), extensions).expect("written");
    for (name, subject) in [("member", "/O=twinlun"), ("named", "/CN=named")] {
        run(&format!("req {ec} -keyout {name}.key -out {name}.csr -subj {subject}"));
        let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
        run(&format!("x509 -req -in {name}.csr -out {name}.pem {signed}"));
    }
    let file = |name: &str| directory.join(name);
    Tls { ca: file("ca.pem"), cert: file("member.pem"), key: file("member.key") }
}
