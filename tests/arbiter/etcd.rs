//! The etcd back end against real servers.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use twinlun::arbiter::etcd::{EtcdConfig, HEDGE, Login, TRY, TlsFiles, Trouble};
use twinlun::arbiter::value::{PairId, ValueError};
use twinlun::arbiter::{Arbiter, ArbiterError, EtcdArbiter, Swap};
use twinlun::arbitration::Record;

use super::conformance::{self, Open, read_surely, record, settle};
use super::etcd_server::{Cluster, Options, Tls, certificates};

const PAIR: PairId = PairId([7; 16]);

fn config(urls: Vec<String>, volume: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: urls,
        cluster: "test".to_owned(),
        volume: volume.to_owned(),
        pair: PAIR,
        tls: TlsFiles::default(),
        login: None,
    }
}

fn open(config: &EtcdConfig) -> EtcdArbiter {
    EtcdArbiter::open(config).expect("the configuration can be used")
}

fn trouble(swap: Swap) -> Trouble {
    match swap {
        Swap::Unknown(ArbiterError::Etcd(error)) => {
            assert!(error.to_string().starts_with("etcd at http"), "{error}");
            error.trouble
        }
        other => panic!("not an error of etcd's: {other:?}"),
    }
}

/// Offers a change until etcd says why not. Silence is for other tests: a busy machine may need more than one try.
fn refusal(mut arbiter: EtcdArbiter, expected: Option<Record>, proposed: Record) -> Trouble {
    let began = Instant::now();
    loop {
        let why = trouble(arbiter.compare_and_swap(expected, proposed));
        let passing =
            matches!(why, Trouble::NoAnswer | Trouble::Busy | Trouble::NoLeader(_) | Trouble::Connection(_));
        if !passing || began.elapsed() > Duration::from_secs(20) {
            return why;
        }
    }
}

/// Waits until `wanted` says yes.
fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let began = Instant::now();
    while !wanted() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
#[ignore = "needs etcd-server"]
fn etcd_conforms() {
    for members in [1, 3] {
        let cluster = Cluster::start(members, Options::default());
        let number = AtomicU32::new(0);
        let fresh = || {
            let volume = format!("vol{}", number.fetch_add(1, Ordering::Relaxed));
            let config = config(cluster.urls(), &volume);
            Box::new(move || Box::new(open(&config)) as Box<dyn Arbiter>) as Open
        };
        conformance::decides(&fresh);
    }
}

#[test]
#[ignore = "needs etcd-server"]
fn a_change_takes_milliseconds() {
    let cluster = Cluster::start(1, Options::default());
    let mut arbiter = open(&config(cluster.urls(), "vol"));
    let mut known = None;
    let mut took = Vec::new();
    for epoch in 1..=300 {
        let proposed = record(epoch, epoch);
        let began = Instant::now();
        assert_eq!(settle(&mut arbiter, known, proposed), Ok(()));
        took.push(began.elapsed());
        known = Some(proposed);
    }
    took.sort();
    println!(
        "compare-and-swap on loopback: p50 {:?}, p99 {:?}, max {:?}",
        percentile(&took, 50),
        percentile(&took, 99),
        percentile(&took, 100)
    );
    assert!(percentile(&took, 50) < TRY, "half of all changes needed more than one try");
}

/// Four rivals change the record while `disturb` does what it can. Every epoch must have one winner.
fn race_under(cluster: &Mutex<Cluster>, disturb: impl FnOnce(&Mutex<Cluster>)) {
    let urls = cluster.lock().expect("no panic").urls();
    let over = AtomicBool::new(false);
    let wins: Mutex<Vec<(Option<Record>, Record)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for rival in 1..=4u64 {
            let (wins, over, config) = (&wins, &over, config(urls.clone(), "race"));
            scope.spawn(move || {
                let mut arbiter = open(&config);
                let mut known: Option<Record> = None;
                while !over.load(Ordering::Relaxed) {
                    let epoch = known.map_or(1, |record| record.epoch.0 + 1);
                    let proposed = record(epoch, epoch * 100 + rival);
                    match settle(&mut arbiter, known, proposed) {
                        Ok(()) => {
                            wins.lock().expect("no panic").push((known, proposed));
                            known = Some(proposed);
                        }
                        Err(current) => known = current,
                    }
                }
            });
        }
        disturb(cluster);
        over.store(true, Ordering::Relaxed);
    });
    let wins = wins.into_inner().expect("no panic");
    let mut epochs: Vec<u64> = wins.iter().map(|(_, won)| won.epoch.0).collect();
    epochs.sort_unstable();
    let before = epochs.len();
    epochs.dedup();
    assert_eq!(epochs.len(), before, "two winners of one epoch");
    // An epoch without a winner is one whose answer was lost before another change came: its rival was told of a
    // conflict. What is known to have been won builds on what was there.
    for (expected, won) in &wins {
        assert_eq!(expected.map_or(0, |record| record.epoch.0) + 1, won.epoch.0);
        let other =
            wins.iter().find(|(_, earlier)| Some(earlier.epoch) == expected.map(|record| record.epoch));
        assert!(other.is_none_or(|(_, earlier)| Some(*earlier) == *expected), "{won:?} skipped {other:?}");
    }
    let last = read_surely(&mut open(&config(urls, "race"))).expect("a record");
    assert!(wins.iter().all(|(_, won)| won.epoch <= last.epoch), "a change that was committed is gone");
    println!("{} changes committed and told, last epoch {}", wins.len(), last.epoch.0);
}

#[test]
#[ignore = "needs etcd-server"]
fn a_server_killed_in_the_middle_of_a_change_loses_nothing() {
    let cluster = Mutex::new(Cluster::start(1, Options::default()));
    race_under(&cluster, |cluster| {
        for round in 0..8 {
            std::thread::sleep(Duration::from_millis(150 + 37 * round));
            let mut cluster = cluster.lock().expect("no panic");
            cluster.members[0].kill();
            cluster.run(0);
            cluster.wait_healthy();
        }
    });
}

#[test]
#[ignore = "needs etcd-server"]
fn a_leader_that_moves_or_dies_costs_time_and_nothing_else() {
    let cluster = Mutex::new(Cluster::start(3, Options::default()));
    race_under(&cluster, |cluster| {
        for round in 0..6 {
            std::thread::sleep(Duration::from_millis(300));
            let mut cluster = cluster.lock().expect("no panic");
            let (leader, ids) = cluster.leader();
            if round % 2 == 0 {
                let next = format!("{:x}", ids[(leader + 1) % 3]);
                cluster.etcdctl_ok(&[leader], &["move-leader", &next]);
            } else {
                cluster.members[leader].kill();
                std::thread::sleep(Duration::from_millis(600));
                cluster.run(leader);
                cluster.wait_healthy();
            }
        }
    });
}

#[test]
#[ignore = "needs etcd-server"]
fn the_gap_when_the_leader_is_killed() {
    let mut cluster = Cluster::start(3, Options::default());
    let mut known: Option<Record> = None;
    let mut gaps = Vec::new();
    let mut epoch = 0;
    for _ in 0..7 {
        let (leader, _) = cluster.leader();
        // The leader's endpoint comes first, so that its loss is felt.
        let mut urls = cluster.urls();
        urls.rotate_left(leader);
        let mut arbiter = open(&config(urls, "gap"));
        epoch += 1;
        let proposed = record(epoch, epoch);
        assert_eq!(settle(&mut arbiter, known, proposed), Ok(()));
        known = Some(proposed);
        cluster.members[leader].kill();
        epoch += 1;
        let proposed = record(epoch, epoch);
        let began = Instant::now();
        assert_eq!(settle(&mut arbiter, known, proposed), Ok(()));
        gaps.push(began.elapsed());
        known = Some(proposed);
        cluster.run(leader);
        cluster.wait_healthy();
    }
    gaps.sort();
    println!("leader killed, heartbeat 50 ms, election 300 ms: p50 {:?}, max {:?}", gaps[3], gaps[6]);
    assert!(gaps[6] < Duration::from_secs(5), "a new leader is elected within a second: {gaps:?}");
}

#[test]
#[ignore = "needs etcd-server"]
fn a_stopped_server_is_not_waited_for_and_its_late_work_does_no_harm() {
    let cluster = Cluster::start(1, Options::default());
    let mut arbiter = open(&config(cluster.urls(), "vol"));
    assert_eq!(settle(&mut arbiter, None, record(1, 1)), Ok(()));
    cluster.members[0].signal(Signal::SIGSTOP);
    let began = Instant::now();
    assert_eq!(trouble(arbiter.compare_and_swap(Some(record(1, 1)), record(2, 2))), Trouble::NoAnswer);
    assert!(began.elapsed() < TRY * 2, "one try took {:?}", began.elapsed());
    for _ in 0..3 {
        arbiter.compare_and_swap(Some(record(1, 1)), record(2, 2));
    }
    // Everything that was offered meanwhile lies in the server's socket and is done now, all at once.
    cluster.members[0].signal(Signal::SIGCONT);
    assert_eq!(settle(&mut arbiter, Some(record(1, 1)), record(2, 2)), Ok(()));
    assert_eq!(settle(&mut arbiter, Some(record(2, 2)), record(3, 3)), Ok(()));
    assert_eq!(read_surely(&mut open(&config(cluster.urls(), "vol"))), Some(record(3, 3)));
}

#[test]
#[ignore = "needs etcd-server"]
fn a_hung_endpoint_does_not_delay_the_next() {
    let cluster = Cluster::start(3, Options::default());
    let (leader, _) = cluster.leader();
    let hung = (leader + 1) % 3;
    let mut urls = cluster.urls();
    urls.rotate_left(hung);
    let mut arbiter = open(&config(urls, "vol"));
    assert_eq!(settle(&mut arbiter, None, record(1, 1)), Ok(()));
    cluster.members[hung].signal(Signal::SIGSTOP);
    let mut took = Vec::new();
    for epoch in 2..=11 {
        let began = Instant::now();
        assert_eq!(settle(&mut arbiter, Some(record(epoch - 1, epoch - 1)), record(epoch, epoch)), Ok(()));
        took.push(began.elapsed());
    }
    println!("hung endpoint: first change {:?}, the others {:?}", took[0], took[1..].iter().max());
    // A busy machine makes some of them slow, the hung endpoint all.
    assert!(took[0] < TRY * 8 && took[1..].iter().min() < Some(&HEDGE), "{took:?}");
    cluster.members[hung].signal(Signal::SIGCONT);
}

#[test]
#[ignore = "needs etcd-server"]
fn a_server_restored_from_a_backup_is_seen_by_its_older_epoch() {
    let mut cluster = Cluster::start(1, Options::default());
    let mut arbiter = open(&config(cluster.urls(), "vol"));
    let backup = tempfile::tempdir().expect("a directory");
    let kept = backup.path().join("kept");
    assert_eq!(settle(&mut arbiter, None, record(1, 1)), Ok(()));
    cluster.members[0].kill();
    cluster.members[0].back_up(&kept);
    cluster.run(0);
    assert_eq!(settle(&mut arbiter, Some(record(1, 1)), record(2, 2)), Ok(()));
    assert_eq!(settle(&mut arbiter, Some(record(2, 2)), record(3, 3)), Ok(()));
    cluster.members[0].kill();
    cluster.members[0].restore(&kept);
    cluster.run(0);
    // Definite, and below what the node has seen: the coordinator halts on it (its own tests).
    assert_eq!(settle(&mut arbiter, Some(record(3, 3)), record(4, 4)), Err(Some(record(1, 1))));
    assert_eq!(read_surely(&mut arbiter), Some(record(1, 1)));
}

#[test]
#[ignore = "needs etcd-server"]
fn a_full_server_says_so_and_works_again_when_it_has_room() {
    let quota = ["--quota-backend-bytes", "131072"].map(str::to_owned).to_vec();
    let cluster = Cluster::start(1, Options { extra: quota, tls: None });
    let mut arbiter = open(&config(cluster.urls(), "vol"));
    assert_eq!(settle(&mut arbiter, None, record(1, 1)), Ok(()));
    let filler = "x".repeat(8000);
    until("the alarm", || !cluster.etcdctl(&[], &["put", "filler", &filler]).status.success());
    let why = refusal(open(&config(cluster.urls(), "vol")), Some(record(1, 1)), record(2, 2));
    assert_eq!(why, Trouble::NoSpace);
    assert!(why.to_string().contains("alarm disarm"), "{why}");
    let status = cluster.etcdctl_ok(&[], &["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let revision = status[0]["Status"]["header"]["revision"].as_u64().expect("a revision");
    cluster.etcdctl_ok(&[], &["del", "filler"]);
    cluster.etcdctl_ok(&[], &["compact", &revision.to_string()]);
    cluster.etcdctl_ok(&[], &["defrag"]);
    cluster.etcdctl_ok(&[], &["alarm", "disarm"]);
    assert_eq!(settle(&mut arbiter, Some(record(1, 1)), record(2, 2)), Ok(()));
}

#[test]
#[ignore = "needs etcd-server"]
fn two_pairs_on_one_key_and_two_clusters_in_one_list_are_refused() {
    let (one, two) = (Cluster::start(1, Options::default()), Cluster::start(1, Options::default()));
    let mine = config(one.urls(), "vol");
    assert_eq!(settle(&mut open(&mine), None, record(1, 1)), Ok(()));
    let other = EtcdConfig { pair: PairId([8; 16]), ..mine.clone() };
    for expected in [None, Some(record(1, 1))] {
        let why = refusal(open(&other), expected, record(1, 2));
        assert!(matches!(why, Trouble::Value { error: ValueError::OtherPair(PAIR), .. }), "{why:?}");
    }
    assert!(open(&other).read().is_err());
    assert_eq!(read_surely(&mut open(&mine)), Some(record(1, 1)), "nothing was changed");
    one.etcdctl_ok(&[], &["put", "/twinlun/test/vol", "hello"]);
    let why = refusal(open(&mine), None, record(1, 1));
    assert!(matches!(why, Trouble::Value { error: ValueError::Foreign, .. }), "{why:?}");

    let urls = vec![one.members[0].url("http"), two.members[0].url("http")];
    let mut mixed = open(&config(urls, "mixed"));
    until(
        "the other cluster is noticed",
        || matches!(mixed.read(), Err(ArbiterError::Etcd(error)) if matches!(error.trouble, Trouble::OtherCluster { .. })),
    );
    let why = refusal(mixed, None, record(1, 1));
    assert!(
        matches!(why, Trouble::OtherCluster { .. }) && why.to_string().contains("two primaries"),
        "{why}"
    );
}

fn with_tls(cluster: &Cluster, tls: &Tls, ca: &Path, login: Option<(&str, &str)>) -> EtcdConfig {
    EtcdConfig {
        tls: TlsFiles { ca: Some(ca.to_owned()), identity: Some((tls.cert.clone(), tls.key.clone())) },
        login: login
            .map(|(user, password)| Login { user: user.to_owned(), password: password.to_owned().into() }),
        ..config(cluster.urls(), "vol")
    }
}

#[test]
#[ignore = "needs etcd-server"]
fn certificates_users_and_passwords_are_checked_on_both_sides() {
    let (directory, strangers) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (tls, strange) = (certificates(directory.path()), certificates(strangers.path()));
    let mut cluster = Cluster::start(1, Options { extra: Vec::new(), tls: Some(tls.clone()) });
    let anonymous = settle(&mut open(&with_tls(&cluster, &tls, &tls.ca, None)), None, record(1, 1));
    assert_eq!(anonymous, Ok(()), "certificates are enough where there are no users");
    let why = refusal(open(&with_tls(&cluster, &tls, &strange.ca, None)), None, record(1, 1));
    assert!(matches!(why, Trouble::Tls(_)), "{why:?}");
    let mut bare = with_tls(&cluster, &tls, &tls.ca, None);
    bare.tls.identity = None;
    let why = refusal(open(&bare), None, record(1, 1));
    assert!(matches!(why, Trouble::Tls(_)), "etcd wants this node's certificate: {why:?}");

    for line in [
        "user add root:pw",
        "user grant-role root root",
        "user add tw:secret",
        "role add tw",
        "role grant-permission tw readwrite /twinlun/test/vol",
        "user grant-role tw tw",
        "auth enable",
    ] {
        cluster.etcdctl_ok(&[], &line.split(' ').collect::<Vec<_>>());
    }
    let login = |user, password| open(&with_tls(&cluster, &tls, &tls.ca, Some((user, password))));
    let refused = |arbiter: EtcdArbiter| refusal(arbiter, Some(record(1, 1)), record(2, 2));
    assert_eq!(refused(login("tw", "wrong")), Trouble::LoginRefused);
    let mut arbiter = login("tw", "secret");
    assert_eq!(settle(&mut arbiter, Some(record(1, 1)), record(2, 2)), Ok(()));
    let mut elsewhere = with_tls(&cluster, &tls, &tls.ca, Some(("tw", "secret")));
    elsewhere.volume = "other".to_owned();
    let why = refusal(open(&elsewhere), None, record(1, 1));
    assert_eq!(why, Trouble::Denied { key: "/twinlun/test/other".to_owned() });
    assert_eq!(refused(open(&with_tls(&cluster, &tls, &tls.ca, None))), Trouble::LoginWanted);
    let named = Tls {
        cert: directory.path().join("named.pem"),
        key: directory.path().join("named.key"),
        ca: tls.ca.clone(),
    };
    let named = with_tls(&cluster, &named, &tls.ca, Some(("tw", "secret")));
    assert_eq!(refused(open(&named)), Trouble::NamedCertificate);

    // A restarted server knows none of its tokens: the node logs in anew.
    cluster.members[0].kill();
    cluster.run(0);
    assert_eq!(settle(&mut arbiter, Some(record(2, 2)), record(3, 3)), Ok(()));
}
