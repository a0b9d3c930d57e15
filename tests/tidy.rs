//! The rules of the house, kept by a test. Each failure names the file, the line and what to do instead.
//!
//! Read here: which room may import which ([`ROOMS`]), what pure rooms may not touch, where `unsafe` may live, how
//! long a file and a function may grow, that every module says what it is, and which licences may come in.
//! Absent on purpose: a real parser. Comments and literals are blanked first ([`source::blank`]), which is enough.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/source.rs"]
mod source;

use source::{Source, Use};

/// A room, whether it is pure, and the rooms that it may import besides itself. `room::Item` allows that item alone.
struct Room {
    name: &'static str,
    pure: bool,
    may_use: &'static [&'static str],
}

const PURE: bool = true;
const MACHINE: bool = false;

const fn room(name: &'static str, pure: bool, may_use: &'static [&'static str]) -> Room {
    Room { name, pure, may_use }
}

/// The dependency rule. A new edge is a change of the design: argue for it in the commit that adds it.
const ROOMS: &[Room] = &[
    room("units", PURE, &[]),
    room("time", PURE, &[]),
    room("block", PURE, &["units", "time"]),
    room("wire", PURE, &["units", "time"]),
    room("scsi", PURE, &["wire", "units", "time", "block"]),
    room("iscsi", PURE, &["scsi", "wire", "units", "time", "block"]),
    // The superblock keeps the newest arbiter record that this node knows.
    room("storage", PURE, &["wire", "units", "time", "block", "arbitration"]),
    room("arbitration", PURE, &["wire", "units", "time"]),
    room("replication", PURE, &["storage", "wire", "units", "time", "block", "arbitration"]),
    room("volume", PURE, &["replication", "storage", "arbitration", "wire", "units", "time", "block"]),
    room("manual", PURE, &[]),
    room("sim", MACHINE, &[PURE_ROOM]),
    room("engine", MACHINE, &[PURE_ROOM]),
    room("cli", MACHINE, &["agent", "daemon", "units", "time", "arbitration"]),
    // Where the record is kept. The engine process changes it: the right is won by the process that holds it.
    room("arbiter", MACHINE, &["arbitration", "wire", "units"]),
    room("daemon", MACHINE, &["engine", "arbiter", PURE_ROOM]),
    // The agent reads the same configuration as the daemon, speaks its control socket, and is a process like it.
    room("agent", MACHINE, &["daemon", "arbiter", "arbitration", "wire", "units", "time"]),
];

/// Stands for every pure room.
const PURE_ROOM: &str = "any pure room";

/// Functions that may be longer than [`FUNCTION_LINES_MAX`], each with the reason. A ratchet: it only shrinks.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;

/// What a pure room may not name (outside its tests), and what takes its place.
const PURE_BANS: &[(&str, &str)] = &[
    ("std::", "use `core::` or `alloc::`: pure rooms are no_std"),
    ("Instant::now", "take `now: Instant` (crate::time) as an argument: cores are told the time"),
    ("SystemTime", "take `now: Instant` (crate::time) as an argument: cores are told the time"),
    ("HashMap", "use a slab, a sorted Vec or alloc::collections::BTreeMap: order must replay"),
    ("HashSet", "use a sorted Vec or alloc::collections::BTreeSet: order must replay"),
    ("libc::", "system calls belong in src/engine"),
    ("nix::", "system calls belong in src/engine"),
    ("io_uring::", "the ring belongs in src/engine"),
    ("serde", "write bytes by hand with wire::Writer: formats are drawn next to their code"),
    ("getrandom", "take random bytes as an argument: a seed must replay"),
    ("println!", "emit an event: cores have no terminal"),
    ("eprintln!", "emit an event: cores have no terminal"),
];

/// What no file of src/ may contain (outside its tests), and what takes its place.
const BANS: &[(&str, &str)] = &[
    ("todo!", "write it, or open an issue and leave the code out"),
    ("unimplemented!", "write it, or open an issue and leave the code out"),
    ("dbg!", "use log::debug! or an event"),
    (".unwrap()", "return a typed error, or `expect(\"the invariant that makes it impossible\")`"),
];

#[test]
fn rooms_import_only_what_the_rule_allows() {
    let mut faults = String::new();
    for file in rust_files("src") {
        let source = Source::read(&file);
        let Some(home) = source.room() else { continue };
        let Some(room) = ROOMS.iter().find(|room| room.name == home) else {
            let _ = writeln!(
                faults,
                "{}: room `{home}` is not in ROOMS of tests/tidy.rs: add it with its edges",
                source.name
            );
            continue;
        };
        for Use { line, path } in source.uses(|name| ROOMS.iter().any(|room| room.name == name)) {
            if !allowed(room, &path) {
                let _ = writeln!(
                    faults,
                    "{}:{line}: `{home}` may not import `{path}`; it may import {:?} (ROOMS, tests/tidy.rs). Pass a value in, or move the type down.",
                    source.name, room.may_use
                );
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

fn allowed(room: &Room, path: &str) -> bool {
    let target = path.split("::").next().unwrap_or(path);
    let Some(known) = ROOMS.iter().find(|known| known.name == target) else { return true };
    target == room.name
        || (known.pure && room.may_use.contains(&PURE_ROOM))
        || room
            .may_use
            .iter()
            .any(|edge| *edge == target || *edge == path || path.starts_with(&format!("{edge}::")))
}

#[test]
fn pure_rooms_know_no_machine() {
    let mut faults = String::new();
    for file in rust_files("src") {
        let source = Source::read(&file);
        let pure = source.room().is_some_and(|home| ROOMS.iter().any(|room| room.pure && room.name == home));
        if !pure || source.is_test() {
            continue;
        }
        report(&mut faults, &source, PURE_BANS, "in a pure room");
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn nothing_unfinished_is_kept() {
    let mut faults = String::new();
    for file in rust_files("src") {
        let source = Source::read(&file);
        if !source.is_test() {
            report(&mut faults, &source, BANS, "in src");
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn everything_builds_with_the_oldest_toolchain() {
    let mut faults = String::new();
    for file in ["src", "benches", "tests"].iter().flat_map(|dir| rust_files(dir)) {
        let source = Source::read(&file);
        for line in source.let_chains() {
            let _ = writeln!(
                faults,
                "{}:{line}: a let chain needs Rust 1.88, and Debian 13 has 1.85: nest the `if`, or use filter or let-else",
                source.name
            );
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

fn report(faults: &mut String, source: &Source, bans: &[(&str, &str)], place: &str) {
    for (number, line) in source.product_lines() {
        for (word, instead) in bans {
            if source::contains_word(line, word) {
                let _ = writeln!(faults, "{}:{number}: `{word}` {place}: {instead}", source.name);
            }
        }
    }
}

#[test]
fn unsafe_lives_in_the_engine_only() {
    let mut faults = String::new();
    for file in rust_files("src") {
        let source = Source::read(&file);
        if source.room() == Some("engine") {
            continue;
        }
        for (number, line) in source.lines() {
            if source::contains_word(line, "unsafe") && !line.contains("unsafe_code") {
                let _ = writeln!(
                    faults,
                    "{}:{number}: `unsafe` outside src/engine: give the engine a safe function for it",
                    source.name
                );
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn files_and_functions_stay_small() {
    let mut faults = String::new();
    let mut excused = vec![false; LONG_FUNCTIONS.len()];
    for file in rust_files("src") {
        let source = Source::read(&file);
        if source.is_test() {
            continue;
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            let _ = writeln!(
                faults,
                "{}: {lines} lines, at most {FILE_LINES_MAX}: move its tests to a sibling tests.rs, or make two rooms of it",
                source.name
            );
        }
        for function in source.functions() {
            if function.lines <= FUNCTION_LINES_MAX {
                continue;
            }
            let excuse = LONG_FUNCTIONS.iter().position(|(f, n, _)| *f == source.name && *n == function.name);
            match excuse {
                Some(index) => excused[index] = true,
                None => {
                    let _ = writeln!(
                        faults,
                        "{}:{}: fn {} has {} lines, at most {FUNCTION_LINES_MAX}: keep the branches, move plain work to helpers",
                        source.name, function.line, function.name, function.lines
                    );
                }
            }
        }
    }
    for (index, used) in excused.iter().enumerate() {
        if !used {
            let (file, name, _) = LONG_FUNCTIONS[index];
            let _ = writeln!(
                faults,
                "{file}: fn {name} is short or gone: take it out of LONG_FUNCTIONS in tests/tidy.rs"
            );
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_module_says_what_it_is() {
    let mut faults = String::new();
    for file in ["src", "benches", "tests"].iter().flat_map(|dir| rust_files(dir)) {
        let source = Source::read(&file);
        if !source.is_test() && !source.text.starts_with("//! ") {
            let _ = writeln!(
                faults,
                "{}:1: no `//!` head: say its role, its invariants and what is absent on purpose",
                source.name
            );
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn no_path_of_one_machine_is_kept() {
    // Spelled in halves so that this file does not find itself.
    let bans =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("bash_", "jobs")];
    let mut faults = String::new();
    for path in text_files() {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            if let Some(ban) = bans.iter().find(|ban| line.contains(**ban)) {
                let _ = writeln!(
                    faults,
                    "{}:{}: `{ban}` names one machine: use a path from the configuration, $HOME or mktemp",
                    relative(&path).display(),
                    number + 1
                );
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_dependency_has_a_licence_of_the_list() {
    let faults = licences::faults(&root());
    assert!(faults.is_empty(), "\n{faults}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a directory entry has a type");
        if kind.is_dir() {
            walk(&path, files);
        } else if kind.is_file() {
            files.push(path);
        }
    }
    files.sort();
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(&root().join(dir), &mut files);
    files.retain(|path| path.extension().is_some_and(|ext| ext == "rs"));
    files
}

/// Everything that people read and run: sources, scripts, and the files at the top. Not target/, not .git/.
fn text_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in ["src", "benches", "tests", "scripts", "vm-tests", ".ci", "fuzz"] {
        walk(&root().join(dir), &mut files);
    }
    for entry in std::fs::read_dir(root()).expect("the package has a directory").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) && entry.file_name() != ".git" {
            files.push(entry.path());
        }
    }
    files
}
