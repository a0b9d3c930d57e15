//! The secret that the two nodes share. Kept in a file of its own, so that the configuration can be shown to anyone.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::daemon::failure::Failure;

/// Shortest secret: 128 bits if it is random.
pub const SECRET_MIN: usize = 16;
/// Longest secret that is read.
pub const SECRET_MAX: usize = 1024;

/// Wiped from memory when it is dropped; never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Reads the secret. White space at the end does not count, so that an editor's newline does no harm.
    ///
    /// Refuses a file that others may read: the secret is all that keeps a stranger from writing to the disk.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let show = path.display();
        let make = format!(
            "make it on one node with: (umask 077; openssl rand -hex 32 > {show}), and copy it to the other"
        );
        let bytes = read_private(path, "secret", &make)?;
        if !(SECRET_MIN..=SECRET_MAX).contains(&bytes.len()) {
            let length = bytes.len();
            let what = format!("the secret {show} has {length} bytes; it needs {SECRET_MIN} to {SECRET_MAX}");
            return Err(Failure::usage(what, make));
        }
        Ok(Self(bytes))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// The password of a user of etcd.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Reads the password; the file is kept like the secret's.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let show = path.display();
        let make = format!("write it with: (umask 077; cat > {show}), the same on both nodes");
        let bytes = read_private(path, "password", &make)?;
        let text = String::from_utf8(bytes.to_vec()).ok().filter(|it| (1..=SECRET_MAX).contains(&it.len()));
        text.map(|text| Self(Zeroizing::new(text))).ok_or_else(|| {
            Failure::usage(format!("the password {show} is not 1 to {SECRET_MAX} bytes of text"), make)
        })
    }

    pub fn text(&self) -> Zeroizing<String> {
        self.0.clone()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// Reads a CHAP secret; the file is kept like the other secrets'.
pub fn read_chap_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let show = path.display();
    let make = format!("make it with: (umask 077; openssl rand -hex 8 > {show}), the same on both nodes");
    read_private(path, "CHAP secret", &make)
}

/// What a file holds, without white space at its end: at most one byte more than [`SECRET_MAX`]. It must be a regular
/// file that nobody but its owner can read.
fn read_private(path: &Path, what: &str, make: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let show = path.display();
    let cannot = |error| Failure::usage(format!("cannot read the {what} {show}: {error}"), make);
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(cannot)?;
    let facts = file.metadata().map_err(cannot)?;
    if !facts.is_file() {
        return Err(Failure::usage(format!("the {what} {show} is not a regular file"), make));
    }
    let mode = facts.mode() & 0o777;
    if mode & 0o077 != 0 {
        let what =
            format!("the {what} {show} has mode {mode:04o}: others could read it and pose as its owner");
        return Err(Failure::usage(
            what,
            format!("chmod 600 {show} (make a new one if others have read it)"),
        ));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX + 1));
    (&mut file).take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() <= SECRET_MAX {
        let length = bytes.trim_ascii_end().len();
        bytes.truncate(length);
    }
    Ok(bytes)
}
