//! Starting from image files: the right one, and each wrong one with its reason.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::daemon::init::{self, InitOptions};
use crate::daemon::probe::Kernel;

fn text(dir: &Path, pair: bool) -> String {
    let mut text = "[volume]\nname = \"vol1\"\nlanes = 4\n\
         [target]\niqn = \"iqn.2026-11.example:vol1\"\nportals = [\"127.0.0.1\"]\n"
        .to_owned();
    let disk = dir.join("disk");
    let replication = |port: u16| {
        if pair { format!("replication_address = \"127.0.0.1:{port}\"\n") } else { String::new() }
    };
    text += &format!("[node.a]\nid = 0\ndisk = {disk:?}\n{}", replication(1));
    if pair {
        text += &format!("[node.b]\nid = 1\ndisk = {disk:?}\n{}", replication(2));
        text += "[replication]\nsecret_file = \"/s\"\n[arbiter]\nkind = \"manual\"\n";
    }
    text
}

fn config(text: &str) -> Config {
    Config::parse(Path::new("t.toml"), text).expect("a valid file")
}

/// A formatted disk of 64 MiB and its configuration. Direct I/O may not work on a tmpfs, so it is in the build directory.
fn formatted(pair: bool) -> (tempfile::TempDir, Config) {
    let built = std::env::current_exe().expect("this test");
    let dir = tempfile::tempdir_in(built.parent().expect("in a directory")).expect("a directory");
    File::create(dir.path().join("disk")).expect("created").set_len(64 << 20).expect("sized");
    let config = config(&text(dir.path(), pair));
    let plan = init::plan(&config, &config.nodes[0], &InitOptions::default(), &Kernel::default());
    plan.expect("free").write().expect("written");
    (dir, config)
}

fn failure(config: &Config, node: usize) -> String {
    open(config, &config.nodes[node]).map(|_| ()).expect_err("it must not start").to_string()
}

fn overwrite(dir: &tempfile::TempDir, bytes: &[u8], at: u64) {
    let file = File::options().write(true).open(dir.path().join("disk")).expect("writable");
    file.write_all_at(bytes, at).expect("written");
}

#[test]
fn a_formatted_disk_opens_once() {
    let (_dir, config) = formatted(true);
    let opened = open(&config, &config.nodes[0]).expect("it is right");
    assert_eq!(opened.warnings, Vec::<String>::new());
    assert_eq!(opened.lanes.len(), 4);
    assert!(opened.lanes.iter().all(|lane| lane.bitmap.count() == 0 && lane.damaged == 0));
    assert!(failure(&config, 0).contains("in use"), "two daemons on one disk");
    drop(opened);
    open(&config, &config.nodes[0]).expect("it is free again");
}

#[test]
fn a_wrong_device_is_told_from_a_damaged_one() {
    let (dir, config) = formatted(true);
    assert!(failure(&config, 1).contains("holds the copy of a (id 0), this is b"));
    let (from, to) = ("iqn.2026-11.example:vol1", "iqn.2026-11.example:vol2");
    let other = self::config(&text(dir.path(), true).replace(from, to));
    assert!(failure(&other, 0).contains("initiators would see another disk"));
    let other = self::config(&text(dir.path(), true).replace("name = \"vol1\"", "name = \"vol2\""));
    assert!(failure(&other, 0).contains("holds volume \"vol1\", the configuration is for \"vol2\""));
    let single = self::config(&text(dir.path(), false));
    assert!(failure(&single, 0).contains("belongs to a pair"));
    let sized = self::config(&text(dir.path(), true).replace("lanes = 4", "lanes = 4\nsize = \"1MiB\""));
    assert!(failure(&sized, 0).contains("cannot be resized yet"));
    let outside =
        self::config(&text(dir.path(), true).replace("[node.b]", "metadata = \"/dev/null\"\n[node.b]"));
    assert!(failure(&outside, 0).contains("the metadata device of a"));
}

#[test]
fn one_bad_superblock_is_survived_and_two_are_not() {
    let (dir, config) = formatted(false);
    let places = open(&config, &config.nodes[0]).expect("it is right").superblock.layout.superblocks;
    overwrite(&dir, &[0xFF; 100], places[0] + 200);
    let opened = open(&config, &config.nodes[0]).expect("one copy is left");
    assert!(opened.warnings[0].contains("superblock copy 0"), "{:?}", opened.warnings);
    drop(opened);
    overwrite(&dir, &[0xFF; 100], places[1] + 200);
    let bad = failure(&config, 0);
    assert!(bad.contains("checksum") && bad.contains("--force"), "{bad}");
    overwrite(&dir, &[0; PAGE_BYTES], places[0]);
    overwrite(&dir, &[0; PAGE_BYTES], places[1]);
    let none = failure(&config, 0);
    assert!(none.contains("holds no volume of twinlun") && none.contains("twinlun init --node a"), "{none}");
}

#[test]
fn a_newer_format_is_left_to_its_own_release() {
    let (dir, config) = formatted(false);
    let place = open(&config, &config.nodes[0]).expect("it is right").superblock.layout.superblocks[1];
    let file = File::open(dir.path().join("disk")).expect("there");
    let mut page: Page = [0; PAGE_BYTES];
    file.read_exact_at(&mut page, place).expect("read");
    page[8..12].copy_from_slice(&99u32.to_le_bytes());
    let crc = crate::wire::crc32c(&[&page[..12], &page[16..]].concat());
    page[12..16].copy_from_slice(&crc.to_le_bytes());
    overwrite(&dir, &page, place);
    assert!(failure(&config, 0).contains("metadata version 99"), "{}", failure(&config, 0));
}

#[test]
fn damaged_bitmap_pages_mean_resync_not_refusal() {
    let (dir, config) = formatted(true);
    let layout = open(&config, &config.nodes[0]).expect("it is right").superblock.layout;
    overwrite(&dir, &[0xAA; 64], layout.bitmap_page_offset(LaneId(2), 0) + 512);
    let opened = open(&config, &config.nodes[0]).expect("damage is not fatal");
    assert!(opened.lanes[2].bitmap.count() > 0 && opened.lanes[1].bitmap.count() == 0);
    assert!(opened.warnings[0].contains("will be resynced"), "{:?}", opened.warnings);
}

#[test]
fn a_lost_unit_state_is_told_and_concerns_no_data() {
    let (dir, config) = formatted(true);
    let layout = open(&config, &config.nodes[0]).expect("it is right").superblock.layout;
    overwrite(&dir, &[0xAA; 64], layout.unit_state_offset(1));
    let opened = open(&config, &config.nodes[0]).expect("one copy is enough");
    assert_eq!(opened.unit, Some(UnitCopy::blank()));
    drop(opened);
    overwrite(&dir, &[0xAA; 64], layout.unit_state_offset(0));
    let opened = open(&config, &config.nodes[0]).expect("data can be served");
    assert_eq!(opened.unit, None);
    let told = opened.warnings.iter().any(|line| line.contains("reservations kept on this disk are lost"));
    assert!(told, "{:?}", opened.warnings);
}

#[test]
fn a_shrunken_disk_is_noticed() {
    let (dir, config) = formatted(false);
    let disk = dir.path().join("disk");
    File::options().write(true).open(&disk).expect("writable").set_len(48 << 20).expect("cut");
    // The superblocks were at the old end, so nothing is found.
    assert!(failure(&config, 0).contains("holds no volume"));
}
