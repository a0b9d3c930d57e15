//! The log of a daemon in the background: one file of bounded size, and the one before it.
//!
//! `twinlun up` opens the file and hands it to the daemon as its stderr, so that even a panic is in it. When the file
//! has grown to its limit it is renamed to `….1`, in place of an older one, and a fresh file takes its place as stderr
//! as well. Under systemd, and in the foreground, there is no such file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of one file; the log takes twice as much at most.
pub const LOG_MAX: u64 = 8 << 20;

/// Opens a log to append to it, renamed first if it is full. Also tells its length.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|facts| facts.len() >= LOG_MAX) {
        fs::rename(path, older(path))?;
    }
    let file = append_to(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Where the log lines of a daemon in the background go.
pub struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    max: u64,
    /// Called with every fresh file.
    renewed: fn(&File),
}

impl LogFile {
    pub fn new(path: &Path, max: u64, renewed: fn(&File)) -> io::Result<Self> {
        let file = append_to(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, max, renewed })
    }

    fn renew(&mut self) -> io::Result<()> {
        fs::rename(&self.path, older(&self.path))?;
        self.file = append_to(&self.path)?;
        (self.renewed)(&self.file);
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length >= self.max {
            // Whatever stands in the way, the log goes on where it is; the next try comes a whole file later.
            self.length = 0;
            let _ = self.renew();
        }
        let count = self.file.write(bytes)?;
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        fs::write(&path, "before\n").expect("written");
        let mut log = LogFile::new(&path, 1000, |_| {}).expect("opened");
        for number in 0..1000 {
            log.write_all(format!("line {number}\n").as_bytes()).expect("written");
        }
        let (new, old) = (fs::read_to_string(&path), fs::read_to_string(dir.path().join("a.log.1")));
        let (new, old) = (new.expect("there"), old.expect("there"));
        assert!(new.len() < 1020 && old.len() < 1020, "{} and {}", new.len(), old.len());
        assert!(new.ends_with("line 999\n") && !old.contains("before"));
        let next = new.lines().next().and_then(|line| line.strip_prefix("line ")?.parse::<u32>().ok());
        let last = next.expect("a whole line") - 1;
        assert!(old.ends_with(&format!("line {last}\n")), "nothing is lost in between");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2);
    }

    #[test]
    fn a_full_log_is_put_aside_at_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        File::create(&path).and_then(|file| file.set_len(LOG_MAX)).expect("made");
        assert_eq!(open(&path).expect("opened").1, 0);
        assert_eq!(fs::metadata(older(&path)).expect("there").len(), LOG_MAX);
        assert_eq!(open(&path).expect("opened").1, 0);
    }
}
