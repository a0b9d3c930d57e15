//! See `peer::control`.

#![no_main]

#[path = "../harness.rs"]
mod harness;
#[path = "../peer.rs"]
mod peer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| peer::control(data));
