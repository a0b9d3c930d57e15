//! The file as people write it, and as they get it wrong.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::iscsi::chap::Algorithm;

const PAIR: &str = r#"
[volume]
name = "vol1"
lanes = 8

[target]
iqn = "iqn.2026-11.example:vol1"
portals = ["10.0.0.100"]

[replication]
secret_file = "/etc/twinlun/secret"
peer_timeout = "1500ms"

[arbiter]
kind = "file"
path = "/var/lib/twinlun/arbiter"

[node.stor-b]
id = 1
disk = "/dev/sdb"
replication_address = "192.168.10.2:7790"
shards = 2
cpus = [2, 3]

[node.stor-a]
id = 0
disk = "/dev/sda"
replication_address = "192.168.10.1:7790"
"#;

const SINGLE: &str = r#"
[volume]
name = "one"
size = "64MiB"
[target]
iqn = "iqn.2026-11.example:one"
portals = ["0.0.0.0:3260", "[::1]:3261"]
[node.box]
id = 0
disk = "/dev/sda"
metadata = "/dev/sdb"
run_dir = "/tmp/run"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("t.toml"), text)
}

/// The error of the file in which `from` is replaced by `to`.
fn broken(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the file");
    parse(&text.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn a_pair_is_read_in_the_order_of_ids() {
    let config = parse(PAIR).expect("the file is right");
    assert_eq!(config.volume, VolumeConfig { name: "vol1".into(), lanes: 8, size: None, block_size: None });
    assert_eq!(config.target.portals, ["10.0.0.100:3260".parse().expect("an address")]);
    assert_eq!(config.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["stor-a", "stor-b"]);
    assert_eq!(config.nodes[1].cpus, [2, 3]);
    let replication = config.replication.as_ref().expect("it is replicated");
    assert_eq!(replication.peer_timeout, Duration::from_millis(1500));
    let hold_limit = |line: &str| {
        let text = PAIR.replacen("peer_timeout", &format!("{line}\npeer_timeout"), 1);
        parse(&text).expect("right").replication.expect("it is replicated").hold_limit
    };
    assert_eq!(hold_limit(""), Some(Duration::from_secs(45)));
    assert_eq!(hold_limit("hold_limit = \"90s\""), Some(Duration::from_secs(90)));
    assert_eq!(hold_limit("hold_limit = \"forever\""), None);
    let reads = |line: &str| {
        let text = PAIR.replacen("peer_timeout", &format!("{line}\npeer_timeout"), 1);
        let replication = parse(&text).expect("right").replication.expect("it is replicated");
        (replication.reads, replication.never_paused)
    };
    assert_eq!(reads(""), (Reads::Confirm, false));
    assert_eq!(reads("reads = \"confirm\""), (Reads::Confirm, false));
    assert_eq!(reads("reads = \"lease\"\nvirtual_machine = \"never-paused\""), (Reads::Lease, true));
    assert_eq!(replication.arbiter, ArbiterConfig::File { path: "/var/lib/twinlun/arbiter".into() });
    assert_eq!(config.peer_of(&config.nodes[0]).map(|peer| peer.id), Some(NodeId(1)));
    assert_eq!(config.hash, parse(PAIR).expect("the same bytes").hash);
    assert_ne!(config.hash, parse(&format!("{PAIR}\n")).expect("other bytes").hash);
}

#[test]
fn a_single_node_needs_no_peer() {
    let config = parse(SINGLE).expect("the file is right");
    assert_eq!(config.volume.size, Some(64 << 20));
    assert_eq!(config.volume.lanes, LANES_DEFAULT);
    assert!(config.replication.is_none());
    assert_eq!(config.nodes[0].socket(), Path::new("/tmp/run/box.sock"));
    assert_eq!(config.choose(None, "elsewhere").expect("the only one").name, "box");
}

#[test]
fn the_node_is_the_named_one_or_the_host() {
    let config = parse(PAIR).expect("the file is right");
    assert_eq!(config.choose(Some("stor-b"), "stor-a").expect("named").name, "stor-b");
    assert_eq!(config.choose(None, "stor-a.lan.example").expect("by host").name, "stor-a");
    let lost = config.choose(None, "other").expect_err("neither").to_string();
    assert!(
        lost.contains("\"other\"") && lost.contains("stor-a and stor-b") && lost.contains("--node"),
        "{lost}"
    );
    assert!(config.choose(Some("stor-c"), "stor-a").is_err());
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_right_one() {
    let error = broken(PAIR, "portals =", "portal =");
    assert_eq!(error, "t.toml:8: target.portal: unknown key; did you mean \"portals\"?");
    let error = broken(PAIR, "[replication]", "[replicaton]");
    assert_eq!(error, "t.toml:10: replicaton: unknown section or key; did you mean \"replication\"?");
    let error = broken(PAIR, "disk = \"/dev/sdb\"", "disc = \"/dev/sdb\"");
    assert_eq!(error, "t.toml:20: node.stor-b.disc: unknown key; did you mean \"disk\"?");
    let error = broken(PAIR, "lanes = 8", "frobnicate = 8");
    assert_eq!(
        error,
        "t.toml:4: volume.frobnicate: unknown key; the keys here are name, lanes, size, block_size"
    );
}

#[test]
fn wrong_values_say_where_and_what_would_be_right() {
    let cases = [
        ("lanes = 8", "lanes = 65", "t.toml:4: volume.lanes: 65 is outside 1..=64"),
        ("lanes = 8", "lanes = \"8\"", "t.toml:4: volume.lanes: a whole number is wanted"),
        ("lanes = 8", "block_size = 1024", "512 or 4096 bytes, not 1024"),
        ("name = \"vol1\"", "name = \"a/b\"", "is not a usable name"),
        ("name = \"vol1\"\n", "", "volume: key \"name\" is missing"),
        ("iqn.2026-11.example:vol1", "iqn.2026-13.example:vol1", "target.iqn: \"iqn.2026-13"),
        ("iqn.2026-11.example:vol1", "IQN.2026-11.example:vol1", "iSCSI names are lower case"),
        ("[\"10.0.0.100\"]", "[]", "at least one portal"),
        ("[\"10.0.0.100\"]", "[\"10.0.0.1\", \"stor\"]", "target.portals[1]: \"stor\" is not an address"),
        ("\"1500ms\"", "\"90s\"", "between 200ms and 60s"),
        ("\"1500ms\"", "\"2s\"\nhold_limit = \"1h\"", "between 1s and 10m, or \"forever\""),
        ("\"1500ms\"", "\"2s\"\nhold_limit = \"for ever\"", "is not a duration"),
        ("\"1500ms\"", "\"2s\"\nreads = \"local\"", "use \"confirm\" or \"lease\""),
        ("\"1500ms\"", "\"2s\"\nvirtual_machine = \"never-paused\"", "beside reads = \"lease\" only"),
        ("\"1500ms\"", "\"2s\"\nreads = \"lease\"\nvirtual_machine = \"no\"", "it is \"never-paused\""),
        ("\"1500ms\"", "2", "replication.peer_timeout: a string in quotes is wanted here, not the number 2"),
        ("kind = \"file\"", "kind = \"etcd3\"", "\"etcd3\" is not a kind of arbiter; did you mean \"etcd\"?"),
        ("kind = \"file\"", "kind = \"manual\"", "kind \"manual\" has no such key; it has no keys"),
        ("\npath = \"/var/lib/twinlun/arbiter\"", "", "arbiter: key \"path\" is missing"),
        ("\"/etc/twinlun/secret\"", "\"secret\"", "not a full path"),
        ("id = 1", "id = 0", "both have id 0"),
        ("id = 1", "id = 2", "node.stor-b.id: 2 is outside 0..=1"),
        (
            "192.168.10.2:7790",
            "192.168.10.1:7790",
            "t.toml:21: node.stor-b.replication_address: stor-a and stor-b",
        ),
        ("192.168.10.2:7790", "192.168.10.2", "not an address with a port"),
        ("192.168.10.2:7790", "0.0.0.0:7790", "not all"),
        ("192.168.10.2:7790", "10.0.0.100:3260", "taken by the portal"),
        ("cpus = [2, 3]", "cpus = [2]", "1 CPUs for 2 shards"),
        ("cpus = [2, 3]", "cpus = [2, 2]", "given twice"),
        (
            "[arbiter]\nkind = \"file\"\npath = \"/var/lib/twinlun/arbiter\"",
            "",
            "section [arbiter] is missing",
        ),
        ("lanes = 8", "lanes 8", "t.toml:4: not valid TOML"),
    ];
    for (from, to, wanted) in cases {
        let error = broken(PAIR, from, to);
        assert!(error.contains(wanted), "{error:?} does not contain {wanted:?}");
        assert!(!error.contains('\n'), "more than one line: {error}");
    }
}

const ETCD: &str = r#"kind = "etcd"
endpoints = ["https://10.0.0.5:2379", "https://[fd00::6]:2379/", "https://third.lan:2379"]
ca = "/etc/twinlun/ca.pem"
cert = "/etc/twinlun/cert.pem"
key = "/etc/twinlun/key.pem"
user = "twinlun"
password_file = "/etc/twinlun/etcd-password""#;

#[test]
fn etcd_is_described_by_its_endpoints_and_who_may_vouch_for_them() {
    let file = PAIR.replace("kind = \"file\"\npath = \"/var/lib/twinlun/arbiter\"", ETCD);
    let config = parse(&file).expect("the file is right");
    let ArbiterConfig::Etcd(etcd) = config.replication.expect("it is replicated").arbiter else {
        panic!("another kind");
    };
    assert_eq!(etcd.endpoints, ["https://10.0.0.5:2379", "https://[fd00::6]:2379", "https://third.lan:2379"]);
    assert_eq!(etcd.ca.as_deref(), Some(Path::new("/etc/twinlun/ca.pem")));
    assert_eq!(etcd.login, Some(("twinlun".into(), "/etc/twinlun/etcd-password".into())));
    assert!(etcd.identity.is_some() && etcd.cluster.is_none());
    let cases = [
        ("endpoints =", "endpoint =", "arbiter.endpoint: unknown key; did you mean \"endpoints\"?"),
        ("third.lan:2379", "third.lan", "is not an endpoint of etcd"),
        ("third.lan:2379", "third.lan:2379/v3", "is not an endpoint of etcd"),
        ("third.lan:2379", "10.0.0.5:2379", "given twice"),
        ("https://third", "http://third", "some endpoints are encrypted and some are not"),
        ("ca = \"/etc/twinlun/ca.pem\"\n", "", "who may vouch"),
        ("key = \"/etc/twinlun/key.pem\"\n", "", "cert needs key beside it"),
        ("user = \"twinlun\"\n", "", "password_file needs user"),
        ("kind = \"etcd\"", "kind = \"etcd\"\npath = \"/x\"", "kind \"etcd\" has no such key"),
        ("kind = \"etcd\"", "kind = \"etcd\"\ncluster = \"a/b\"", "not a usable name"),
    ];
    for (from, to, wanted) in cases {
        let error = broken(&file, from, to);
        assert!(error.contains(wanted), "{error:?} does not contain {wanted:?}");
    }
    let open = file.replace("https://", "http://");
    assert!(parse(&open).expect_err("ca").to_string().contains("not encrypted"));
    let open = open.replace("ca = \"/etc/twinlun/ca.pem\"\n", "");
    let open = open.replace("cert = \"/etc/twinlun/cert.pem\"\nkey = \"/etc/twinlun/key.pem\"\n", "");
    assert!(parse(&open).expect_err("password").to_string().contains("in the clear"));
}

const FENCE: &str = r#"kind = "fence"
timeout = "30s"
[arbiter.node.stor-a]
agent = "fence_ipmilan"
options = { ip = "10.0.9.1", username = "op", password = "x" }
[arbiter.node.stor-b]
agent = "/usr/local/sbin/fence_own"
options = { ip = "10.0.9.2" }"#;

#[test]
fn fencing_needs_a_switch_for_each_node() {
    let file = PAIR.replace("kind = \"file\"\npath = \"/var/lib/twinlun/arbiter\"", FENCE);
    let config = parse(&file).expect("the file is right");
    let ArbiterConfig::Fence(fence) = config.replication.expect("it is replicated").arbiter else {
        panic!("another kind");
    };
    assert_eq!((fence.delay, fence.timeout), (Duration::from_secs(2), Duration::from_secs(30)));
    assert_eq!(fence.agents[0].1.program, Path::new("/usr/sbin/fence_ipmilan"));
    assert_eq!(fence.agents[1].1.options, [("ip".to_owned(), "10.0.9.2".to_owned())]);
    assert!(!format!("{fence:?}").contains("password"), "options hold passwords");
    let cases = [
        ("[arbiter.node.stor-b]", "[arbiter.node.stor-c]", "nothing switches stor-b off"),
        ("fence_ipmilan", "fence_sbd", "a time-out is not a confirmation"),
        ("fence_ipmilan", "/usr/sbin/fence_watchdog", "a time-out is not a confirmation"),
        ("fence_ipmilan", "fence_scsi", "these nodes share none"),
        ("fence_ipmilan", "bin/fence", "not a full path"),
        ("ip = \"10.0.9.2\"", "action = \"on\"", "is for twinlun to say"),
        ("ip = \"10.0.9.2\"", "ip = \"1\\n2\"", "one line"),
        ("ip = \"10.0.9.2\"", "ip = 1", "a string in quotes"),
        ("\"30s\"", "\"1s\"", "timeout is between 5s and 600s"),
        ("options = { ip = \"10.0.9.2\" }", "option = {}", "did you mean \"options\"?"),
    ];
    for (from, to, wanted) in cases {
        let error = broken(&file, from, to);
        assert!(error.contains(wanted), "{error:?} does not contain {wanted:?}");
    }
    let same = file.replace("/usr/local/sbin/fence_own", "fence_ipmilan").replace(
        "options = { ip = \"10.0.9.2\" }",
        "options = { ip = \"10.0.9.1\", username = \"op\", password = \"x\" }",
    );
    assert!(parse(&same).expect_err("one switch").to_string().contains("the wrong one"));
    let none = PAIR.replace("kind = \"file\"\npath = \"/var/lib/twinlun/arbiter\"", "kind = \"fence\"");
    assert!(parse(&none).expect_err("no switch").to_string().contains("nothing switches a node off"));
}

#[test]
fn pacemaker_decides_alone() {
    let file = PAIR.replace("kind = \"file\"\npath = \"/var/lib/twinlun/arbiter\"", "kind = \"pacemaker\"");
    let config = parse(&file).expect("the file is right");
    assert_eq!(config.replication.expect("it is replicated").arbiter, ArbiterConfig::Pacemaker);
    let error = broken(&file, "kind = \"pacemaker\"", "kind = \"pacemaker\"\npath = \"/x\"");
    assert!(error.contains("has no such key; it has no keys besides kind"), "{error}");
    let error = broken(&file, "[arbiter]", "[agent]\n[arbiter]");
    assert!(error.contains("two that decide would fight") && error.contains("IPaddr2"), "{error}");
    assert!(broken(&file, "\"pacemaker\"", "\"pacemake\"").contains("did you mean \"pacemaker\"?"));
}

#[test]
fn replication_and_the_number_of_nodes_belong_together() {
    let third = "[node.stor-c]\nid = 1\ndisk = \"/dev/sdc\"\nreplication_address = \"192.168.10.3:7790\"\n";
    assert!(parse(&format!("{PAIR}\n{third}")).expect_err("three").to_string().contains("both have id 1"));
    assert!(
        broken(SINGLE, "[node.box]", "[arbiter]\nkind = \"manual\"\n[node.box]").contains("[replication]")
    );
    assert!(broken(SINGLE, "id = 0", "id = 1").contains("the only node has id = 0"));
    let error = broken(SINGLE, "id = 0", "id = 0\nreplication_address = \"10.0.0.1:7790\"");
    assert!(error.contains("no section [replication]"), "{error}");
    let error = broken(SINGLE, "size = \"64MiB\"", "size = \"1000B\"");
    assert!(error.contains("multiple of 4 KiB"), "{error}");
}

#[test]
fn a_secret_is_long_and_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    let write = |bytes: &[u8], mode: u32| {
        std::fs::write(&path, bytes).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
    };
    write(b"0123456789abcdef\n", 0o600);
    assert_eq!(Secret::read(&path).expect("good").bytes(), b"0123456789abcdef");
    write(b"0123456789abcdef", 0o640);
    let error = Secret::read(&path).expect_err("readable by the group").to_string();
    assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    write(b"short\n\n\n\n\n\n\n\n\n\n\n\n\n\n", 0o600);
    assert!(Secret::read(&path).expect_err("short").to_string().contains("5 bytes"));
    assert!(Secret::read(dir.path()).expect_err("a directory").to_string().contains("not a regular file"));
    assert!(
        Secret::read(&dir.path().join("none")).expect_err("missing").to_string().contains("openssl rand")
    );
}

/// The pair with an address of each node instead of a service address.
fn with_paths() -> String {
    let own = |text: String, disk: &str, portal: &str| {
        text.replacen(
            &format!("disk = \"{disk}\""),
            &format!("disk = \"{disk}\"\nportals = [\"{portal}\"]"),
            1,
        )
    };
    let text = PAIR.replacen("portals = [\"10.0.0.100\"]", "paths = \"alua\"", 1);
    own(own(text, "/dev/sda", "10.0.0.1"), "/dev/sdb", "10.0.0.2:3261")
}

#[test]
fn with_two_paths_each_node_has_portals_of_its_own() {
    let config = parse(&with_paths()).expect("the file is right");
    assert_eq!(config.target.paths, Paths::Alua);
    let portals = config.nodes.iter().map(|node| config.portals_of(node)[0].to_string());
    assert_eq!(portals.collect::<Vec<_>>(), ["10.0.0.1:3260", "10.0.0.2:3261"]);
    let config = parse(PAIR).expect("the file is right");
    assert_eq!(config.portals_of(&config.nodes[0]), config.portals_of(&config.nodes[1]));
}

#[test]
fn portals_in_the_wrong_place_say_where_they_belong() {
    let text = with_paths();
    let error = broken(&text, "portals = [\"10.0.0.1\"]\n", "");
    assert!(error.contains("node.stor-a: key \"portals\" is missing"), "{error}");
    let error = broken(&text, "paths = \"alua\"", "paths = \"alua\"\nportals = [\"10.0.0.9\"]");
    assert!(error.contains("move them to [node.NAME]"), "{error}");
    let error = broken(&text, "paths = \"alua\"", "paths = \"mpio\"");
    assert!(error.contains("\"vip\" and \"alua\" are"), "{error}");
    let error = broken(&text, "[\"10.0.0.1\"]", "[\"0.0.0.0\"]");
    assert!(error.contains("name those that initiators reach"), "{error}");
    let error = broken(&text, "paths = \"alua\"", "portals = [\"10.0.0.9\"]");
    assert!(error.contains("[target] paths = \"alua\""), "{error}");
}

#[test]
fn initiators_their_secrets_and_luns() {
    let config = parse(&format!(
        "{SINGLE}\n{}",
        r#"
[target.chap]
user = "host"
secret_file = "/etc/twinlun/in"
target_user = "disk"
target_secret_file = "/etc/twinlun/out"
algorithms = ["sha256", "md5"]
[target.discovery_chap]
user = "finder"
secret_file = "/etc/twinlun/find"
[[target.initiator]]
names = ["iqn.1991-05.com.microsoft:*"]
networks = ["192.0.2.0/24", "2001:db8::1"]
luns = { 7 = 0 }
[[target.initiator]]
networks = ["10.0.0.0/8"]
luns = []
chap = { user = "b", secret_file = "/etc/twinlun/b" }
"#
    ))
    .expect("the file is right");
    let access = config.target.access;
    let chap = access.chap.as_ref().expect("given");
    assert_eq!(
        (chap.user.as_str(), chap.algorithms.as_slice()),
        ("host", &[Algorithm::Sha256, Algorithm::Md5][..])
    );
    assert_eq!(chap.target, Some(("disk".into(), "/etc/twinlun/out".into())));
    assert_eq!(access.discovery_chap.as_ref().map(|chap| chap.algorithms.len()), Some(4));
    assert_eq!((access.initiators.len(), access.chaps().count()), (2, 3));
    assert_eq!(access.initiators[0].luns, Some(vec![(7, 0)]));
    assert_eq!((access.initiators[1].luns.clone(), access.initiators[0].networks.len()), (Some(vec![]), 2));
}

#[test]
fn what_is_wrong_with_an_initiator_is_said() {
    let file = format!(
        "{SINGLE}\n{}",
        r#"
[target.chap]
user = "host"
secret_file = "/etc/twinlun/in"
algorithms = ["md5"]
[[target.initiator]]
names = ["iqn.2026-11.example:a"]
networks = ["192.0.2.0/24"]
luns = [0]
"#
    );
    assert!(parse(&file).is_ok());
    for (from, to, said) in [
        ("\"md5\"", "\"md4\"", "did you mean \"md5\""),
        ("[\"md5\"]", "[]", "at least one algorithm"),
        ("user = \"host\"", "user = \"\"", "1 to 255"),
        ("algorithms", "target_user = \"x\"\nalgorithms", "needs both"),
        (
            "algorithms",
            "target_user = \"x\"\ntarget_secret_file = \"/etc/twinlun/in\"\nalgorithms",
            "secrets of their own",
        ),
        ("192.0.2.0/24", "192.0.2.1/24", "behind the first 24"),
        ("192.0.2.0/24", "192.0.2.0/33", "not"),
        ("192.0.2.0/24", "home", "not a network"),
        ("iqn.2026-11.example:a", "iqn.2026-11.Example:*", "not a pattern"),
        ("iqn.2026-11.example:a", "host", "not an iSCSI name"),
        ("[0]", "[1]", "no logical unit 1"),
        ("[0]", "[0, 0]", "given twice"),
        ("[0]", "{ x = 0 }", "a LUN is a number"),
        ("names = [\"iqn.2026-11.example:a\"]\nnetworks = [\"192.0.2.0/24\"]", "", "everybody"),
        ("[target]\n", "[target]\nlogin_timeout = \"2m\"\n", "between 1s and 60s"),
        ("[target]\n", "[target]\nmax_sessions = 0\n", "outside"),
        ("[target]\n", "[target]\ndata_digest = \"yes\"\n", "neither"),
    ] {
        let error = broken(&file, from, to);
        assert!(error.contains(said), "{to}: {error}");
    }
}

#[test]
fn the_disk_can_look_like_another_targets() {
    let keys = "portals = [\"10.0.0.100\"]\nvendor = \"LIO-ORG\"\nproduct = \"disk1\"\nrevision = \"4.0\"\n\
        serial = \"c2a8e3b4-0506-0708-090a-0b0c0d0e0f10\"\nnaa = \"naa.6001405c2a8e3b4050607080900a0b0c\"\n\
        provisioning = \"thin\"\nread_only = true\nphysical_block_size = 512\n";
    let target = parse(&PAIR.replace("portals = [\"10.0.0.100\"]\n", keys)).expect("a valid file").target;
    assert_eq!((target.vendor.as_str(), target.revision.as_str()), ("LIO-ORG", "4.0"));
    assert_eq!(target.serial.len(), 36);
    assert_eq!(target.naa.map(|naa| naa[..4].to_vec()), Some(vec![0x60, 0x01, 0x40, 0x5C]));
    assert_eq!((target.provisioning, target.read_only), (Provisioning::Thin, true));
    assert_eq!(target.physical_block_size, 512);
    let plain = parse(PAIR).expect("a valid file").target;
    assert_eq!((plain.naa, plain.provisioning, plain.read_only), (None, Provisioning::Fixed, false));
    assert_eq!((plain.revision.as_str(), plain.physical_block_size), ("0001", 4096));
    let wrong = |key: &str| broken(PAIR, "portals", &format!("{key}\nportals"));
    assert!(wrong("naa = \"5001405c2a8e3b4050607080900a0b0c\"").contains("begin with 6"));
    assert!(wrong("naa = \"6001\"").contains("32 hexadecimal digits"));
    assert!(wrong("provisioning = \"thick\"").contains("\"fixed\" or \"thin\""));
    assert!(wrong("read_only = \"yes\"").contains("true or false"));
    assert!(wrong("physical_block_size = 1024").contains("512 or 4096"));
}
