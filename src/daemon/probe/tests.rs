//! Real image files, real tools where the machine has them, and a made-up kernel for what needs hardware.

use std::process::Command;

use super::*;

fn image(dir: &Path, name: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).expect("created").set_len(size).expect("sized");
    path
}

fn obstacle(path: &Path) -> Option<Obstacle> {
    let kernel = Kernel::default();
    let facts = DeviceFacts::read(path, "the disk of a", &kernel).expect("a file");
    facts.obstacle(&kernel).expect("readable")
}

/// Runs a formatting tool on an image; `None` when this machine does not have it.
fn formatted(dir: &Path, size: u64, tool: &str, args: &[&str]) -> Option<PathBuf> {
    let path = image(dir, &tool.replace('.', "-"), size);
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(tool));
    let tool = found.into_iter().find(|path| path.exists())?;
    let output = Command::new(tool).args(args).arg(&path).output().expect("the tool starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(path)
}

#[test]
fn what_real_tools_write_is_recognised() {
    let dir = tempfile::tempdir().expect("a directory");
    let cases: [(&str, &[&str], u64, &str); 7] = [
        ("mkfs.ext4", &["-q", "-F"], 16 << 20, "ext2/ext3/ext4"),
        ("mkfs.xfs", &["-q", "-f"], 320 << 20, "XFS"),
        ("mkfs.btrfs", &["-q", "-f"], 256 << 20, "Btrfs"),
        ("mkfs.vfat", &[], 16 << 20, "FAT"),
        ("mkfs.f2fs", &["-q", "-f"], 128 << 20, "F2FS"),
        ("mkfs.ntfs", &["-q", "-F"], 16 << 20, "NTFS"),
        ("mkswap", &["-q"], 16 << 20, "swap"),
    ];
    let mut seen = 0;
    for (tool, args, size, name) in cases {
        let Some(path) = formatted(dir.path(), size, tool, args) else { continue };
        seen += 1;
        match obstacle(&path) {
            Some(Obstacle::Signature(found)) => assert_eq!(found.name, name),
            other => panic!("{tool}: {other:?}"),
        }
        // Those whose size is read fill the device, but for what their own units leave over.
        let facts = DeviceFacts::read(&path, "the disk of a", &Kernel::default()).expect("a file");
        let claimed = facts.with_ends(|ends| ends.claimed()).expect("readable");
        if ["ext2/ext3/ext4", "XFS", "NTFS"].contains(&name) {
            let bytes = claimed.filter(|claimed| claimed.name == name).map_or(0, |claimed| claimed.bytes);
            assert!(bytes <= size && bytes >= size - 65_536, "{tool}: {claimed:?} of {size}");
        }
    }
    if seen == 0 {
        eprintln!("no formatting tool on this machine; the table's own test covers the bytes");
    }
}

#[test]
fn an_empty_file_is_free_until_somebody_claims_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = image(dir.path(), "disk", 4 << 20);
    assert_eq!(obstacle(&path), None);
    let claim = claim(&path, false).expect("free");
    match obstacle(&path) {
        Some(Obstacle::Busy { how, .. }) => assert_eq!(how, "in use by another program"),
        other => panic!("{other:?}"),
    }
    drop(claim);
    assert_eq!(obstacle(&path), None);
}

#[test]
fn what_is_not_a_disk_is_refused_with_its_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = Kernel::default();
    let read = |path: &Path| DeviceFacts::read(path, "the disk of stor-a", &kernel).expect_err("not a disk");
    let missing = read(&dir.path().join("none")).to_string();
    assert!(missing.contains("none") && missing.contains("the disk of stor-a") && missing.contains("lsblk"));
    assert!(read(dir.path()).to_string().contains("neither a block device nor a regular file"));
    assert!(read(Path::new("/dev/null")).to_string().contains("neither"));
}

/// A kernel that knows `sdb` (8:16) with a partition `sdb1` (8:17).
fn made_up(dir: &Path, mountinfo: &str) -> Kernel {
    let kernel = Kernel { sys: dir.join("sys"), proc: dir.join("proc") };
    let disk = kernel.sys.join("devices/sdb");
    for sub in ["device", "holders", "sdb1/holders"] {
        fs::create_dir_all(disk.join(sub)).expect("made");
    }
    for (file, text) in [("device/model", "Fast Disk 9\n"), ("sdb1/partition", "1\n"), ("sdb1/dev", "8:17\n")]
    {
        fs::write(disk.join(file), text).expect("written");
    }
    let numbers = kernel.sys.join("dev/block");
    fs::create_dir_all(&numbers).expect("made");
    std::os::unix::fs::symlink(&disk, numbers.join("8:16")).expect("linked");
    std::os::unix::fs::symlink(disk.join("sdb1"), numbers.join("8:17")).expect("linked");
    fs::create_dir_all(kernel.sys.join("block")).expect("made");
    fs::create_dir_all(kernel.proc.join("self")).expect("made");
    fs::write(kernel.proc.join("self/mountinfo"), mountinfo).expect("written");
    kernel
}

/// The obstacle of the made-up `sdb`, whose bytes are an empty file.
fn obstacle_of_disk(dir: &Path, kernel: &Kernel) -> Option<Obstacle> {
    let file = image(dir, "bytes", 4 << 20);
    let mut facts = DeviceFacts::read(&file, "the disk", kernel).expect("a file");
    facts.number = Some("8:16".to_owned());
    facts.obstacle(kernel).expect("readable")
}

#[test]
fn a_mounted_partition_makes_its_disk_busy() {
    let dir = tempfile::tempdir().expect("a directory");
    let line = "36 35 8:17 / /srv/data rw,noatime shared:1 - ext4 /dev/sdb1 rw\n";
    let kernel = made_up(dir.path(), line);
    assert_eq!(kernel.model("8:16").as_deref(), Some("Fast Disk 9"));
    let busy = Obstacle::Busy { how: "mounted at /srv/data (sdb1)".into(), end: "umount /srv/data".into() };
    assert_eq!(obstacle_of_disk(dir.path(), &kernel), Some(busy));
}

#[test]
fn a_holder_is_named_as_its_user_knows_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = made_up(dir.path(), "");
    fs::create_dir_all(kernel.sys.join("block/dm-3/dm")).expect("made");
    fs::write(kernel.sys.join("block/dm-3/dm/name"), "vg0-home\n").expect("written");
    fs::create_dir_all(kernel.sys.join("devices/sdb/sdb1/holders/dm-3")).expect("made");
    match obstacle_of_disk(dir.path(), &kernel) {
        Some(Obstacle::Busy { how, .. }) => assert_eq!(how, "held by /dev/mapper/vg0-home (sdb1)"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn swap_and_loop_devices_hold_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = made_up(dir.path(), "");
    let file = fs::canonicalize(image(dir.path(), "disk", 4 << 20)).expect("exists");
    let facts = DeviceFacts::read(&file, "the disk", &kernel).expect("a file");
    let swaps = format!("Filename Type Size Used Priority\n{} file 1 0 -2\n", file.display());
    fs::write(kernel.proc.join("swaps"), swaps).expect("written");
    assert!(matches!(facts.obstacle(&kernel), Ok(Some(Obstacle::Busy { how, .. })) if how.contains("swap")));
    fs::remove_file(kernel.proc.join("swaps")).expect("removed");
    assert_eq!(facts.obstacle(&kernel), Ok(None));
    let backing = kernel.sys.join("block/loop4/loop");
    fs::create_dir_all(&backing).expect("made");
    fs::write(backing.join("backing_file"), format!("{}\n", file.display())).expect("written");
    assert!(
        matches!(facts.obstacle(&kernel), Ok(Some(Obstacle::Busy { how, .. })) if how.contains("/dev/loop4"))
    );
}
