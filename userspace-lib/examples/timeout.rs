//! `timeout MILLISECONDS PROGRAM [ARGUMENT]...`: ends a program and all it has started when the time is over.
//!
//! The pidfd is readable when the process has ended, so one `poll(2)` waits for both, without a thread or a signal
//! handler.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, io};

use spawn_template::{Child, Command};

/// The exit status of timeout(1) for a program that took too long.
const TOO_LONG: u8 = 124;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("timeout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut args = env::args_os().skip(1);
    let limit = args.next().and_then(|limit| limit.to_str()?.parse().ok()).map(Duration::from_millis);
    let (Some(limit), Some(program)) = (limit, args.next()) else {
        return Err("usage: timeout MILLISECONDS PROGRAM [ARGUMENT]...".into());
    };
    // A group of its own, so that its children can be ended with it.
    let mut child = Command::new(&program).args(args).process_group(0).kill_on_drop(true).spawn()?;
    if !ends_within(&child, limit)? {
        // SAFETY: plain numbers. The group cannot be another one as long as its leader has not been waited for.
        unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
        child.wait()?;
        return Ok(ExitCode::from(TOO_LONG));
    }
    let status = child.wait()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(code as u8))
}

/// Whether the process ends in time.
fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let end = Instant::now() + limit;
    let mut entry = libc::pollfd { fd: child.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        // Rounded up, so as not to spin through the last millisecond.
        let milliseconds = i32::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: there is one entry.
        match unsafe { libc::poll(&raw mut entry, 1, milliseconds) } {
            1 => return Ok(true),
            0 if rest.is_zero() => return Ok(false),
            0 => {}
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
