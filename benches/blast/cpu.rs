//! CPU time of this thread and of other processes, and pinning.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Pins the calling thread to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// CPU time that the calling thread has used, user and system together.
pub fn own_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// CPU time of every thread of a process, as the scheduler counted it; io_uring's worker threads are among them.
pub struct ProcessTimes(BTreeMap<u32, Duration>);

impl ProcessTimes {
    /// Reads `/proc/PID/task/*/schedstat` (nanoseconds), or `stat` (ticks of 10 ms) on kernels without it.
    pub fn read(pid: u32) -> io::Result<ProcessTimes> {
        let mut times = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = entry?;
            let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end between the listing and the reading; its time is then not counted.
            if let Some(time) = thread_time(&task.path()) {
                times.insert(thread, time);
            }
        }
        Ok(ProcessTimes(times))
    }

    /// Time used since `earlier`. Threads that are new since then count in full, threads that ended not at all.
    pub fn since(&self, earlier: &ProcessTimes) -> Duration {
        self.0
            .iter()
            .map(|(thread, time)| time.saturating_sub(earlier.0.get(thread).copied().unwrap_or_default()))
            .sum()
    }
}

fn thread_time(task: &std::path::Path) -> Option<Duration> {
    if let Ok(text) = fs::read_to_string(task.join("schedstat")) {
        let nanos = text.split_whitespace().next()?.parse().ok()?;
        return Some(Duration::from_nanos(nanos));
    }
    let text = fs::read_to_string(task.join("stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from the last parenthesis: utime and stime
    // are the 12th and 13th after it (proc_pid_stat(5)), in USER_HZ ticks, which is 100 on every Linux ABI.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(10 * (user + system)))
}
