//! The fuzz targets of `fuzz/` with seeded random input, and with what coverage-guided fuzzing (`scripts/fuzz`) found
//! worth keeping: the same every time, bounded, on any toolchain.

#[path = "../fuzz/harness.rs"]
mod harness;
#[path = "../fuzz/peer.rs"]
mod peer;

use std::path::Path;

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Many short inputs and some long ones. `TWINLUN_FUZZ_ROUNDS` asks for more rounds.
fn run(entry: fn(&[u8]), rounds: u64) {
    let rounds =
        std::env::var("TWINLUN_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(rounds);
    for seed in 0..rounds {
        let mut numbers = Numbers(seed);
        let length = if numbers.next() % 16 == 0 { 20_000 } else { 1_500 };
        let length = numbers.next() % length;
        // Bytes that are zero half of the time get further: most fields are.
        let sparse = numbers.next() % 2 == 0;
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                let number = numbers.next();
                if sparse && number & 0x100 == 0 { 0 } else { number as u8 }
            })
            .collect();
        let outcome = std::panic::catch_unwind(|| entry(&bytes));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// What is kept in `fuzz/corpus`: one base64 line for each input.
fn replay(target: &str, entry: fn(&[u8])) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(format!("{target}.txt"));
    let lines = std::fs::read_to_string(&path).expect("the kept corpus");
    assert!(lines.lines().count() > 10, "{}", path.display());
    for (number, line) in lines.lines().enumerate() {
        let bytes = data_encoding::BASE64.decode(line.as_bytes()).expect("base64");
        let outcome = std::panic::catch_unwind(|| entry(&bytes));
        assert!(outcome.is_ok(), "line {} of {}", number + 1, path.display());
    }
}

#[test]
fn stream() {
    run(harness::stream, 2500);
    replay("stream", harness::stream);
}

#[test]
fn headers() {
    run(harness::headers, 2500);
    replay("headers", harness::headers);
}

#[test]
fn login() {
    run(harness::login, 2500);
    replay("login", harness::login);
}

#[test]
fn chap() {
    run(harness::chap, 2500);
    replay("chap", harness::chap);
}

#[test]
fn cdb() {
    run(harness::cdb, 2500);
    replay("cdb", harness::cdb);
}

#[test]
fn parameters() {
    run(harness::parameters, 2500);
    replay("parameters", harness::parameters);
}

#[test]
fn link() {
    run(peer::link, 1000);
    replay("link", peer::link);
}

#[test]
fn agent() {
    run(peer::agent, 1000);
    replay("agent", peer::agent);
}

#[test]
fn control() {
    run(peer::control, 1000);
    replay("control", peer::control);
}

#[test]
fn files() {
    run(peer::files, 1000);
    replay("files", peer::files);
}

#[test]
fn pages() {
    run(peer::pages, 1000);
    replay("pages", peer::pages);
}

#[test]
fn reservations() {
    run(harness::reservations, 2500);
}
