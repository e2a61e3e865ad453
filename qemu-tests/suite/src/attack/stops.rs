//! Stops of a tracee, waited for with a time limit.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::patience;
use crate::os::{self, Status};

/// The next stop or the end of a tracee, or nothing within `ms` milliseconds.
pub fn next(pid: i32, ms: u64) -> io::Result<Option<Status>> {
    let mut status = None;
    eventually(ms, || {
        let (found, what) = os::waitpid(pid, libc::WNOHANG | libc::__WALL)?;
        status = (found != 0).then_some(what);
        Ok(found != 0)
    })?;
    Ok(status)
}

/// Whether this becomes true within `ms` milliseconds, more on a slow kernel.
pub fn eventually(ms: u64, mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let end = Instant::now() + Duration::from_millis(ms * u64::from(patience(1)));
    loop {
        if is_so()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        sleep(Duration::from_millis(1));
    }
}

/// Whether the calling thread traces this process.
pub fn is_mine(pid: i32) -> bool {
    // SAFETY: no memory is involved.
    let own = unsafe { libc::gettid() }.to_string();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).is_some_and(|tracer| tracer.trim() == own)
}

/// Stops a tracee and lets it go.
pub fn detach(pid: i32) -> io::Result<()> {
    os::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
    next(pid, 5000)?;
    os::ptrace(libc::PTRACE_DETACH, pid, 0, 0)
}

/// Lets a tracee go on if it has stopped, with what it stopped for unless that is the tracer's own business. Returns how
/// it ended, if it has.
pub fn go_on(pid: i32) -> io::Result<Option<Status>> {
    let status = match os::waitpid(pid, libc::WNOHANG | libc::__WALL)? {
        (0, _) => return Ok(None),
        (_, status) => status,
    };
    let Status::Other(raw) = status else { return Ok(Some(status)) };
    let signal = if raw >> 16 == 0 && libc::WSTOPSIG(raw) != libc::SIGTRAP { libc::WSTOPSIG(raw) } else { 0 };
    os::ptrace(libc::PTRACE_CONT, pid, 0, signal as u64)?;
    Ok(None)
}
