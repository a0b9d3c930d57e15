//! A saved configuration of LIO, and what an initiator sees of the disk before and after.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::daemon::config::Config;
use crate::daemon::{identity, plan};
use crate::iscsi::TargetConfig;
use crate::scsi::{CDB_BYTES, InitiatorPort, Nexus, Outcome};
use crate::storage::{DiskFlags, Generations, Layout, Superblock};
use crate::units::NodeId;

const SAVED: &str = include_str!("saveconfig.json");
const ACCOUNTING: &str = "c2a8e3b4-15d6-4798-9a0b-1c2d3e4f5061";
const FIRST: &str = "iqn.2003-01.org.linux-iscsi.stor1.x8664:sn.9f0c3a1b2d4e";

fn saved() -> serde_json::Value {
    serde_json::from_str(SAVED).expect("JSON")
}

fn choice(target: &str, lun: Option<u64>) -> Choice {
    Choice { target: Some(target.into()), lun, ..Choice::default() }
}

fn import(target: &str, lun: Option<u64>) -> Import {
    import_lio(&saved(), &choice(target, lun)).expect("it is there")
}

fn refused(choice: &Choice) -> String {
    import_lio(&saved(), choice).expect_err("refused").to_string()
}

/// The whole configuration: what was printed, and the node that a person adds.
fn config(import: &Import) -> Config {
    let text = format!("{}\n[node.a]\nid = 0\ndisk = \"/dev/sdz\"\n", import.document);
    Config::parse(Path::new("t.toml"), &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The target as the daemon would serve it. The secrets are not read: they are not there.
fn target(mut config: Config) -> Arc<TargetConfig> {
    config.target.access = Default::default();
    let shift = config.volume.block_size.expect("it is always given").trailing_zeros() as u8;
    let superblock = Superblock {
        counter: 1,
        node: NodeId(0),
        layout: Layout::internal(64 << 20, shift, 4).expect("it fits"),
        volume: [1; 16],
        volume_name: config.volume.name.clone(),
        flags: DiskFlags::default(),
        generations: Generations::new(1),
        record: Default::default(),
        boot_id: [2; 16],
        identity: identity::scsi_identity(&config),
    };
    plan::targets(&config, &config.nodes[0], &superblock, false).expect("it can be shown").0
}

fn inquiry(target: &TargetConfig, page: Option<u8>) -> Vec<u8> {
    let initiator = InitiatorPort { name: "iqn.a".into(), isid: Some([0x80, 0, 0, 0, 0, 1]) };
    let mut nexus = Nexus::new(&target.scsi, initiator, Arc::default());
    let mut cdb = [0; CDB_BYTES];
    (cdb[0], cdb[1], cdb[2], cdb[3]) = (0x12, u8::from(page.is_some()), page.unwrap_or(0), 2);
    let mut data = Vec::new();
    assert_eq!(target.scsi.execute(&mut nexus, [0; 8], &cdb, &mut data), Outcome::Done);
    data
}

/// The designators of page 83h that belong to the logical unit.
fn unit_designators(page: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = &page[4..];
    while let [_, kind, _, len, ..] = *rest {
        let (designator, after) = rest.split_at(4 + usize::from(len));
        if kind & 0x30 == 0 {
            found.extend_from_slice(designator);
        }
        rest = after;
    }
    found
}

#[test]
fn an_initiator_sees_the_disk_that_lio_showed() {
    let target = target(config(&import(FIRST, Some(0))));
    assert_eq!(target.name, FIRST);
    // What LIO of Linux 6.1 answers for this backstore: bytes 8 to 35 of the standard data...
    assert_eq!(&inquiry(&target, None)[8..36], b"LIO-ORG accounting      4.0 ");
    // ...page 80h, with the NUL that it counts...
    let mut page = vec![0x00, 0x80, 0x00, 37];
    page.extend_from_slice(ACCOUNTING.as_bytes());
    page.push(0);
    assert_eq!(inquiry(&target, Some(0x80)), page);
    // ...and the names of the logical unit in page 83h, in this order: NAA, T10 vendor identification.
    let mut names = vec![0x01, 0x03, 0x00, 0x10];
    names.extend([0x60, 0x01, 0x40, 0x5C, 0x2A, 0x8E, 0x3B, 0x41]);
    names.extend([0x5D, 0x64, 0x79, 0x89, 0xA0, 0xB1, 0xC2, 0xD3]);
    names.extend([0x02, 0x01, 0x00, 8 + 10 + 1 + 36 + 1]);
    names.extend_from_slice(b"LIO-ORG accounting:c2a8e3b4-15d6-4798-9a0b-1c2d3e4f5061\0");
    let page = inquiry(&target, Some(0x83));
    assert_eq!(unit_designators(&page), names);
    assert_eq!(&page[4..4 + names.len()], names, "they come first");
    // The target's name, with NULs up to a multiple of four as LIO has it, closes the page.
    let mut device = vec![0x53, 0xA8, 0x00, 56];
    device.extend_from_slice(FIRST.as_bytes());
    device.resize(4 + 56, 0);
    assert!(page.ends_with(&device));
}

#[test]
fn a_plain_disk_is_named_as_ever() {
    let text = "[volume]\nname = \"v\"\nblock_size = 512\n[target]\niqn = \"iqn.2026-11.example:v\"\nserial = \"abc\"\n\
                portals = [\"127.0.0.1\"]\n[node.a]\nid = 0\ndisk = \"/d\"\n";
    let target = target(Config::parse(Path::new("t.toml"), text).expect("right"));
    assert_eq!(inquiry(&target, Some(0x80)), [0, 0x80, 0, 3, b'a', b'b', b'c']);
    let names = unit_designators(&inquiry(&target, Some(0x83)));
    assert!(names.ends_with(b"\x02\x01\x00\x0BTWINLUN abc"));
}

#[test]
fn the_naa_designator_follows_from_the_serial_number() {
    assert_eq!(lio::naa(ACCOUNTING), "6001405c2a8e3b415d647989a0b1c2d3");
    // Other characters than hexadecimal digits do not count, and there may be too few.
    assert_eq!(lio::naa("Serial-No. 12"), "6001405ea120000000000000000000000"[..32]);
    assert_eq!(lio::naa(""), format!("6001405{:0>25}", ""));
    assert_eq!(lio::naa("ABCDEF").len(), 32);
}

#[test]
fn names_that_are_too_long_and_other_block_sizes_come_along() {
    let import = import(FIRST, Some(1));
    let config = config(&import);
    assert_eq!(config.target.product, "media-archive-of");
    assert_eq!(config.volume.size, Some(429_496_729_600));
    assert_eq!((config.volume.block_size, config.target.physical_block_size), (Some(4096), 4096));
    assert_eq!(config.target.provisioning, crate::scsi::Provisioning::Fixed);
    let target = target(config);
    assert_eq!(&inquiry(&target, None)[8..36], b"LIO-ORG media-archive-of4.0 ");
    let names = unit_designators(&inquiry(&target, Some(0x83)));
    assert!(names.ends_with(b"LIO-ORG media-archive-of:a53bd5cc-85d7-47dc-a4d2-9682e9a7b82a\0"));
}

#[test]
fn who_may_log_in_and_under_which_number_comes_along() {
    let import = import(FIRST, Some(0));
    let config = config(&import);
    let portals: Vec<String> = config.target.portals.iter().map(ToString::to_string).collect();
    assert_eq!(portals, ["192.0.2.10:3260", "[2001:db8::10]:3261"]);
    assert_eq!(config.target.provisioning, crate::scsi::Provisioning::Thin);
    let access = &config.target.access;
    assert!(access.chap.is_none(), "each initiator has its own");
    let [windows, backup] = access.initiators.as_slice() else { panic!("two of them") };
    assert_eq!((&windows.luns, &backup.luns), (&Some(vec![(0, 0)]), &Some(vec![(3, 0)])));
    let chap = windows.chap.as_ref().expect("it has one");
    assert_eq!(
        (chap.user.as_str(), chap.secret_file.to_str()),
        ("win-host", Some("/etc/twinlun/chap-win-host-in"))
    );
    let (user, _) = chap.target.as_ref().expect("mutual");
    assert_eq!(user, "disk");
    assert_eq!(access.discovery_chap.as_ref().map(|chap| chap.user.as_str()), Some("finder"));
    let secrets: Vec<_> = import.secrets.iter().map(|(_, secret)| secret.as_str()).collect();
    assert_eq!(secrets, ["the-host-secret", "the-disk-secret", "other-secret!", "discover-secret"]);
    // No secret is printed.
    assert!(secrets.iter().all(|secret| !import.document.contains(secret)));
    // The other LUN can only be read by the first, and is not shown to the second.
    let other = super::import_lio(&saved(), &choice(FIRST, Some(1))).expect("it is there");
    assert!(other.remarks.iter().any(|remark| remark.contains("could only read")), "{:?}", other.remarks);
    let luns = config_luns(&other);
    assert_eq!(luns, [Some(vec![(5, 0)]), Some(vec![])]);
}

fn config_luns(import: &Import) -> Vec<Option<Vec<(u16, u16)>>> {
    config(import).target.access.initiators.iter().map(|initiator| initiator.luns.clone()).collect()
}

#[test]
fn what_does_not_follow_from_the_file_is_said() {
    let import = import("iqn.2003-01.org.linux-iscsi.stor1:plain", None);
    let config = config(&import);
    assert_eq!((config.target.product.as_str(), config.target.read_only), ("IBLOCK", true));
    assert_eq!(config.volume.size, None);
    assert_eq!(config_luns(&import), [Some(vec![(2, 0)])], "LIO showed it as LUN 2 to everybody");
    for word in ["volume.size", "blockdev --getsize64 /dev/vg0/plain", "portals", "tag becomes 1 (it is 7)"] {
        assert!(import.remarks.iter().any(|remark| remark.contains(word)), "{word}: {:?}", import.remarks);
        assert!(import.document.contains(word), "{word} is in the text as well");
    }
}

#[test]
fn what_is_not_clear_is_asked() {
    let several = refused(&Choice::default());
    assert!(several.contains("several of iSCSI target") && several.contains("--target IQN"), "{several}");
    let several = refused(&choice(FIRST, None));
    assert!(several.contains("logical unit: 1, 0") && several.contains("--lun"), "{several}");
    assert!(refused(&choice("iqn.other", None)).contains("no iSCSI target iqn.other; it has iqn.2003"));
    assert!(refused(&choice(FIRST, Some(4))).contains("no logical unit 4; it has 1, 0"));
    assert!(refused(&Choice { portal_group: Some(2), ..choice(FIRST, None) }).contains("no portal group 2"));
}

/// The saved configuration with one thing changed.
fn changed(pointer: &str, to: serde_json::Value) -> Result<Import, Failure> {
    let mut file = saved();
    *file.pointer_mut(pointer).expect(pointer) = to;
    import_lio(&file, &choice(FIRST, Some(0)))
}

#[test]
fn files_that_are_not_as_they_should_be_are_refused() {
    let says = |pointer: &str, to: serde_json::Value, words: &str| {
        let error = changed(pointer, to).expect_err(words).to_string();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    };
    says("/storage_objects/0/wwn", "".into(), "no serial number");
    says("/storage_objects/0/wwn", "tab\tbed".into(), "not printable");
    says("/storage_objects/0/plugin", "pscsi".into(), "not in the file");
    says("/storage_objects/0/attributes/block_size", 520.into(), "blocks of 520 bytes");
    says("/targets/0/tpgs/0/node_acls/0/chap_password", "".into(), "no name and secret");
    says("/storage_objects", 7.into(), "is not in the file");
    let mut file = saved();
    file["storage_objects"][0]["plugin"] = "user".into();
    file["targets"][0]["tpgs"][0]["luns"][1]["storage_object"] = "/backstores/user/accounting".into();
    let error =
        import_lio(&file, &choice(FIRST, Some(0))).expect_err("what it shows is not known").to_string();
    assert!(error.contains("\"user\""), "{error}");
    for nothing in ["null", "[]", "{}", "3", "{\"targets\":{}}"] {
        let file = serde_json::from_str(nothing).expect("JSON");
        assert!(import_lio(&file, &Choice::default()).is_err(), "{nothing}");
    }
    // Attributes as strings, as some releases save them.
    assert!(
        changed("/targets/0/tpgs/0/attributes/authentication", "0".into()).expect("fine").secrets.len() == 1
    );
    let short = changed("/targets/0/tpgs/0/node_acls/0/chap_password", "short".into()).expect("said");
    assert!(short.remarks.iter().any(|remark| remark.contains("has 5 bytes")), "{:?}", short.remarks);
}

#[test]
fn secrets_of_namesakes_have_files_of_their_own() {
    let mut file = saved();
    let acls = &mut file["targets"][0]["tpgs"][0]["node_acls"];
    acls[1]["node_wwn"] = "iqn.1993-08.org.debian:01:win-host".into();
    let import = import_lio(&file, &choice(FIRST, Some(0))).expect("fine");
    let paths: Vec<_> = import.secrets.iter().map(|(path, _)| path.display().to_string()).collect();
    assert!(paths.contains(&"/etc/twinlun/chap-win-host-in".to_owned()), "{paths:?}");
    assert!(paths.contains(&"/etc/twinlun/chap-win-host-in-2".to_owned()), "{paths:?}");
}
