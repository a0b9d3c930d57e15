//! Formatting image files: what is written, and above all what is not.

use super::*;
use crate::daemon::device::{SuperblockProblem, read_superblock};
use crate::storage::Chosen;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        // Direct I/O does not work on every tmpfs.
        let built = std::env::current_exe().expect("this test");
        Self { dir: tempfile::tempdir_in(built.parent().expect("in a directory")).expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).expect("created").set_len(size).expect("sized");
        path
    }

    /// A configuration of one node (`pair`: of two, this one first) with extra keys.
    fn config(&self, pair: bool, volume: &str, node: &str) -> Config {
        let disk = self.path("disk");
        let mut text = format!(
            "[volume]\nname = \"vol1\"\n{volume}\n[target]\niqn = \"iqn.2026-11.example:vol1\"\nportals = [\"127.0.0.1\"]\n"
        );
        if pair {
            text += "[replication]\nsecret_file = \"/s\"\n[arbiter]\nkind = \"manual\"\n";
            text += "[node.b]\nid = 1\ndisk = \"/b\"\nreplication_address = \"127.0.0.1:2\"\n";
        }
        text += &format!("[node.a]\nid = 0\ndisk = {disk:?}\n{node}\n");
        if pair {
            text += "replication_address = \"127.0.0.1:1\"\n";
        }
        Config::parse(Path::new("t.toml"), &text).expect("a valid file")
    }
}

fn plan_with(config: &Config, forced: &[&Path], assume_clean: bool) -> Result<Plan, Failure> {
    let forced = forced.iter().map(|path| path.to_path_buf()).collect();
    let options = InitOptions { forced, assume_clean, keep_data: false };
    plan(config, &config.nodes[0], &options, &Kernel::default())
}

fn plan_keeping(config: &Config) -> Result<Plan, Failure> {
    let options = InitOptions { keep_data: true, ..InitOptions::default() };
    plan(config, &config.nodes[0], &options, &Kernel::default())
}

fn stored(path: &Path, external: bool) -> Result<Chosen, SuperblockProblem> {
    let file = File::open(path).expect("there");
    let size = file.metadata().expect("known").len();
    read_superblock(|offset| read_page(&file, offset), size, external)
}

#[test]
fn a_fresh_disk_gets_both_superblocks_and_clean_lanes() {
    let bench = Bench::new();
    let disk = bench.image("disk", 64 << 20);
    let config = bench.config(true, "lanes = 4", "");
    let plan = plan_with(&config, &[], false).expect("free");
    // An earlier volume left something.
    let noise = File::options().write(true).open(&disk).expect("writable");
    noise
        .write_all_at(&[0xA5; UNIT_STATE_BYTES], plan.superblock.layout.unit_state_offset(0))
        .expect("written");
    plan.write().expect("written");
    let chosen = stored(&disk, false).expect("formatted");
    assert_eq!(chosen.damaged, None);
    let superblock = chosen.superblock;
    assert_eq!(superblock.volume_name, "vol1");
    assert_eq!(superblock.counter, 2);
    assert!(superblock.flags.just_created && superblock.flags.clean_shutdown);
    assert_eq!(superblock.generations, Generations::default());
    let layout = superblock.layout;
    let file = File::open(&disk).expect("there");
    for number in 0..layout.geometry.lanes {
        let mut loader = crate::storage::LaneLoader::new(&layout, LaneId(number));
        for page in 0..layout.activity_pages_per_lane() {
            let page = read_page(&file, layout.activity_page_offset(LaneId(number), page)).expect("read");
            assert!(loader.on_activity_page(Some(&page)).is_none());
        }
        for page in 0..layout.bitmap_pages_per_lane() {
            let page = read_page(&file, layout.bitmap_page_offset(LaneId(number), page)).expect("read");
            assert!(loader.on_bitmap_page(Some(&page)).is_none());
        }
        let state = loader.finish();
        assert_eq!((state.bitmap.count(), state.activity.hot_count()), (0, 0));
    }
    let mut units = [1; 2 * UNIT_STATE_BYTES];
    file.read_exact_at(&mut units, layout.unit_state_offset(0)).expect("read");
    assert_eq!(units, [0; 2 * UNIT_STATE_BYTES], "nothing is remembered of any initiator");
}

#[test]
fn a_formatted_disk_is_not_formatted_again_unasked() {
    let bench = Bench::new();
    let disk = bench.image("disk", 64 << 20);
    let config = bench.config(false, "", "");
    plan_with(&config, &[], false).expect("free").write().expect("written");
    let first = stored(&disk, false).expect("formatted").superblock;
    let refusal = plan_with(&config, &[], false).expect_err("it holds a volume");
    assert_eq!(refusal.kind, crate::daemon::failure::FailureKind::Refused);
    assert!(refusal.what.contains("\"vol1\"") && refusal.next.contains("twinlun up"), "{refusal}");
    let other = bench.path("other");
    assert!(
        plan_with(&config, &[&other], false).expect_err("another path").what.contains("not a device of a")
    );
    let plan = plan_with(&config, &[&disk], false).expect("forced by name");
    assert_eq!(plan.overruled.len(), 1);
    plan.write().expect("written");
    let second = stored(&disk, false).expect("formatted").superblock;
    assert_eq!(first.volume, second.volume);
    assert_ne!(first.generations, second.generations);
    // One copy alone is enough to be recognised.
    let file = open(&disk).expect("writable");
    file.write_all_at(&[0; PAGE_BYTES], second.layout.superblocks[0]).expect("written");
    assert!(plan_with(&config, &[], false).expect_err("half a volume").what.contains("vol1"));
}

#[test]
fn a_refusal_writes_nothing() {
    let bench = Bench::new();
    let disk = bench.image("disk", 64 << 20);
    let file = open(&disk).expect("writable");
    file.write_all_at(b"XFSB", 0).expect("written");
    let before = fs::read(&disk).expect("read");
    let refusal = plan_with(&bench.config(false, "", ""), &[], false).expect_err("XFS");
    assert!(refusal.what.contains("XFS") && refusal.next.contains("--force"), "{refusal}");
    assert_eq!(fs::read(&disk).expect("read"), before);
    let _claim = probe::claim(&disk, false).expect("free");
    let forced = plan_with(&bench.config(false, "", ""), &[&disk], false).expect_err("in use");
    assert!(forced.what.contains("in use"), "{forced}");
}

#[test]
fn what_does_not_fit_says_how_much_would() {
    let bench = Bench::new();
    bench.image("disk", 8 << 20);
    let config = bench.config(false, "", "");
    let small = plan_with(&config, &[], false).expect_err("8 MiB").to_string();
    assert!(
        small.contains("too small") && small.contains("8.0 MiB") && small.contains("16.0 MiB"),
        "{small}"
    );
    bench.image("disk", 64 << 20);
    let wide = bench.config(false, "size = \"64MiB\"", "");
    let wide = plan_with(&wide, &[], false).expect_err("no room for metadata").to_string();
    assert!(wide.contains("volume.size") && wide.contains("KiB"), "{wide}");
    let exact = bench.config(false, "size = \"32MiB\"\nblock_size = 4096", "");
    let plan = plan_with(&exact, &[], false).expect("it fits");
    assert_eq!((plan.volume_bytes(), plan.superblock.layout.geometry.block_shift), (32 << 20, 12));
}

#[test]
fn metadata_may_have_a_device_of_its_own() {
    let bench = Bench::new();
    let disk = bench.image("disk", 64 << 20);
    let meta = bench.image("meta", 4 << 20);
    let config = bench.config(false, "", &format!("metadata = {meta:?}"));
    let plan = plan_with(&config, &[], false).expect("free");
    assert_eq!(plan.volume_bytes(), 64 << 20);
    plan.write().expect("written");
    assert_eq!(stored(&meta, true).expect("formatted").superblock.layout.kind, MetadataKind::External);
    assert!(fs::read(&disk).expect("read").iter().all(|byte| *byte == 0), "the data device is not touched");
    assert!(plan_with(&config, &[&disk], false).expect_err("metadata is not forced").what.contains("vol1"));
    bench.image("meta", 4096);
    assert!(plan_with(&config, &[], false).expect_err("a page").what.contains("metadata device"));
}

#[test]
fn clean_copies_meet_as_equals() {
    let bench = Bench::new();
    bench.image("disk", 64 << 20);
    let config = bench.config(true, "", "");
    let first = plan_with(&config, &[], true).expect("free").superblock;
    let second = plan_with(&config, &[], true).expect("free").superblock;
    assert_eq!(first.generations, second.generations);
    assert_ne!(first.generations.current, 0);
    assert!(!first.flags.just_created);
}

/// A disk with a GPT that reaches to `end`, and a pattern in its last sectors.
fn with_data(bench: &Bench, size: u64, end: u64) -> PathBuf {
    let disk = bench.image("disk", size);
    let file = open(&disk).expect("writable");
    file.write_all_at(b"EFI PART", 512).expect("written");
    file.write_all_at(&(end / 512 - 1).to_le_bytes(), 544).expect("written");
    file.write_all_at(&[0xD7; 8192], end - 8192).expect("written");
    disk
}

#[test]
fn data_that_is_kept_is_not_touched() {
    let bench = Bench::new();
    let disk = with_data(&bench, 64 << 20, 60 << 20);
    let before = fs::read(&disk).expect("read");
    let config = bench.config(true, "size = \"60MiB\"", "");
    // Not without being told.
    let refusal = plan_with(&config, &[], false).expect_err("it holds data");
    assert!(refusal.what.contains("GPT") && refusal.next.contains("--keep-data"), "{refusal}");
    let plan = plan_keeping(&config).expect("it fits");
    assert!(plan.kept.as_ref().is_some_and(|kept| kept.contains("GPT")) && plan.overruled.is_empty());
    assert_eq!(plan.volume_bytes(), 60 << 20);
    plan.write().expect("written");
    let after = fs::read(&disk).expect("read");
    assert!(after[..60 << 20] == before[..60 << 20], "every byte of the data is as it was");
    assert!(stored(&disk, false).expect("formatted").superblock.flags.just_created);
    // A volume of ours is not data of somebody's.
    assert!(plan_keeping(&config).expect_err("formatted").what.contains("vol1"));
}

#[test]
fn data_that_would_lose_its_end_is_refused() {
    let bench = Bench::new();
    let disk = with_data(&bench, 64 << 20, 64 << 20);
    let before = fs::read(&disk).expect("read");
    let refused =
        |volume: &str, node: &str| plan_keeping(&bench.config(true, volume, node)).expect_err("refused");
    // The size must be said.
    let unsaid = refused("", "");
    assert_eq!(unsaid.kind, crate::daemon::failure::FailureKind::Refused);
    assert!(unsaid.next.contains("volume.size = \"65536KiB\""), "{unsaid}");
    // Smaller than the data.
    let small = refused("size = \"48MiB\"", "");
    assert!(small.what.contains("its end would be lost") && small.next.contains("\"65536KiB\""), "{small}");
    // No room behind it: not a word of making the volume smaller.
    let full = refused("size = \"64MiB\"", "");
    assert!(full.what.contains("there is room for"), "{full}");
    assert!(full.next.contains("lvextend") && full.next.contains("metadata ="), "{full}");
    assert!(!full.next.contains("volume.size"), "{full}");
    assert!(fs::read(&disk).expect("read") == before);
    // Metadata elsewhere leaves all of the disk to the data.
    let meta = bench.image("meta", 4 << 20);
    let config = bench.config(true, "size = \"64MiB\"", &format!("metadata = {meta:?}"));
    plan_keeping(&config).expect("it fits").write().expect("written");
    assert!(fs::read(&disk).expect("read") == before);
}
