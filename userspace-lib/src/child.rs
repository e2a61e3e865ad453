//! Started processes.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus, Output};

use libc::{c_int, pid_t, siginfo_t};

use crate::plan::Pipes;
use crate::raw::Started;
use crate::{Call, Error, Via};

/// A started process, with its pidfd.
///
/// As with [`std::process::Child`], dropping it neither ends the process nor waits for it, unless that was asked for
/// with [`Command::kill_on_drop`](crate::Command::kill_on_drop): the process runs on, and when it ends it stays a zombie
/// until this process ends or waits for it in another way.
#[derive(Debug)]
pub struct Child {
    /// The other end of the standard input, if that is a pipe.
    pub stdin: Option<ChildStdin>,
    /// The other end of the standard output, if that is a pipe.
    pub stdout: Option<ChildStdout>,
    /// The other end of the standard error, if that is a pipe.
    pub stderr: Option<ChildStderr>,
    process: Process,
    via: Via,
}

/// A process of which this one is the parent.
#[derive(Debug)]
struct Process {
    pid: pid_t,
    pidfd: OwnedFd,
    /// Set once the process has been waited for.
    status: Option<ExitStatus>,
    kill_on_drop: bool,
}

impl Child {
    pub(crate) fn new(started: Started, via: Via, pipes: Pipes, kill_on_drop: bool) -> Self {
        let Started { pid, pidfd } = started;
        let Pipes { stdin, stdout, stderr, .. } = pipes;
        Child { stdin, stdout, stderr, process: Process { pid, pidfd, status: None, kill_on_drop }, via }
    }

    /// Whether the process was started from a template by the kernel, or why not.
    pub fn via(&self) -> Via {
        self.via
    }

    /// The process id.
    ///
    /// Once the process has been waited for, the number may belong to another one.
    pub fn id(&self) -> u32 {
        // A process id is never negative.
        self.process.pid as u32
    }

    /// *waitid* - waits until the process has ended and returns how.
    ///
    /// The pipe to its standard input is closed first, so that it does not wait for more. Waiting again gives the same
    /// answer. A signal handler that runs meanwhile does not interrupt the wait.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with [`Call::Wait`]: `ECHILD` when the process was waited for in another way or when this process
    /// ignores `SIGCHLD`, or when it is not a child of this process (any more, after a `fork`).
    ///
    /// # References
    ///
    /// `waitid(2)`, `P_PIDFD`
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        drop(self.stdin.take());
        self.process.wait()
    }

    /// *waitid* - returns how the process ended, or `None` while it still runs.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.process.poll(libc::WNOHANG)
    }

    /// Reads what the process writes to the pipes of its standard output and standard error, until it closes them, and
    /// waits until it has ended. The pipe to its standard input is closed first.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait), and [`Error::Os`] with [`Call::Streams`] when a pipe cannot be read.
    pub fn wait_with_output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        match (self.stdout.take(), self.stderr.take()) {
            (Some(out), Some(err)) => read_both(out, &mut stdout, err, &mut stderr),
            (Some(mut out), None) => out.read_to_end(&mut stdout).map(drop),
            (None, Some(mut err)) => err.read_to_end(&mut stderr).map(drop),
            (None, None) => Ok(()),
        }
        .map_err(|error| Error::os(Call::Streams, error))?;
        let status = self.wait()?;
        Ok(Output { status, stdout, stderr })
    }

    /// Kills the process with `SIGKILL`. Does nothing if it has already ended.
    ///
    /// The process still has to be waited for.
    ///
    /// # Errors
    ///
    /// As [`send_signal`](Self::send_signal).
    pub fn kill(&mut self) -> Result<(), Error> {
        self.send_signal(libc::SIGKILL)
    }

    /// *pidfd_send_signal* - sends the process a signal. Does nothing if it has already ended.
    ///
    /// The pidfd makes sure that no other process is hit, even if the process id has been given to a new one. Signal 0
    /// sends nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with [`Call::SendSignal`]: `EINVAL` for a number that is no signal, `EPERM` when the process has
    /// changed to credentials that this one may not signal.
    ///
    /// # References
    ///
    /// `pidfd_send_signal(2)`
    pub fn send_signal(&self, signal: c_int) -> Result<(), Error> {
        self.process.send_signal(signal)
    }
}

impl Process {
    fn send_signal(&self, signal: c_int) -> Result<(), Error> {
        if self.status.is_some() {
            return Ok(());
        }
        let no_info: *const siginfo_t = std::ptr::null();
        // SAFETY: the pidfd is open; a null siginfo asks the kernel to fill in that of kill().
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, no_info, 0) };
        if result == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // Ended and waited for in another way.
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(Error::os(Call::SendSignal, error)),
        }
    }

    fn wait(&mut self) -> Result<ExitStatus, Error> {
        loop {
            if let Some(status) = self.poll(0)? {
                return Ok(status);
            }
        }
    }

    /// Asks for the status once, with `WNOHANG` or 0; `None` when the process still runs.
    fn poll(&mut self, options: c_int) -> Result<Option<ExitStatus>, Error> {
        if self.status.is_none() {
            self.status = wait_status(self.pidfd.as_fd(), options).map_err(|error| Error::os(Call::Wait, error))?;
        }
        Ok(self.status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody could be told of an error: that it has been waited for in another way is fine, and one that may not be
        // killed runs on.
        if self.kill_on_drop && self.status.is_none() && self.send_signal(libc::SIGKILL).is_ok() {
            let _ = self.wait();
        }
    }
}

/// The pidfd: readable for `poll(2)` when the process has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

/// Reads two pipes until both are closed, whichever has something.
fn read_both(
    mut first: ChildStdout,
    first_bytes: &mut Vec<u8>,
    mut second: ChildStderr,
    second_bytes: &mut Vec<u8>,
) -> io::Result<()> {
    let entry = |fd: c_int| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(first.as_raw_fd()), entry(second.as_raw_fd())];
    loop {
        // SAFETY: there are two entries.
        if unsafe { libc::poll(entries.as_mut_ptr(), 2, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // Once one is closed, waiting for the other is all that is left to do.
        if entries[0].revents != 0 && read_some(&mut first, first_bytes)? == 0 {
            return second.read_to_end(second_bytes).map(drop);
        }
        if entries[1].revents != 0 && read_some(&mut second, second_bytes)? == 0 {
            return first.read_to_end(first_bytes).map(drop);
        }
    }
}

/// Reads what is there.
fn read_some(stream: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(length) => {
                bytes.extend_from_slice(buffer.get(..length).unwrap_or_default());
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait_status(pidfd: BorrowedFd<'_>, options: c_int) -> io::Result<Option<ExitStatus>> {
    let mut info = MaybeUninit::<siginfo_t>::zeroed();
    loop {
        // A descriptor is not negative, so it keeps its value as an id_t.
        let id = pidfd.as_raw_fd() as libc::id_t;
        // SAFETY: `info` may be written to.
        let result =
            unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::__WALL | options) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all bits zero is a valid siginfo_t, and the kernel writes only valid ones.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid() fills in the fields of SIGCHLD, or with WNOHANG leaves them zero.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok(Some(ExitStatus::from_raw(raw_status(info.si_code, status))))
}

/// The status word that wait() would have given: `siginfo_t` has its parts.
fn raw_status(code: c_int, status: c_int) -> c_int {
    match code {
        libc::CLD_KILLED => status,
        libc::CLD_DUMPED => status | 0x80,
        // CLD_EXITED; WEXITED reports nothing else.
        _ => (status & 0xff) << 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;
    use std::process::Command;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
        // SAFETY: plain numbers.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if pidfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made it.
        Ok(unsafe { OwnedFd::from_raw_fd(pidfd as c_int) })
    }

    /// A `Child` for a process that the standard library has started.
    fn child(script: &str) -> io::Result<Child> {
        let process = Command::new("/bin/sh").args(["-c", script]).spawn()?;
        handle(process.id())
    }

    fn handle(pid: u32) -> io::Result<Child> {
        let started = Started { pid: pid as pid_t, pidfd: pidfd_open(pid)? };
        Ok(Child::new(started, Via::Template, Pipes::default(), false))
    }

    #[test]
    fn an_exit_code_is_reported_and_remembered() -> Result {
        let mut child = child("exit 7")?;
        assert_eq!(child.wait()?.code(), Some(7));
        assert_eq!(child.wait()?.code(), Some(7));
        assert_eq!(child.try_wait()?.and_then(|status| status.code()), Some(7));
        child.kill()?;
        Ok(())
    }

    #[test]
    fn a_running_child_has_no_status_and_can_be_killed() -> Result {
        let mut child = child("sleep 100")?;
        assert_eq!(child.try_wait()?, None);
        child.send_signal(0)?;
        child.kill()?;
        let status = child.wait()?;
        assert_eq!((status.signal(), status.code()), (Some(libc::SIGKILL), None));
        Ok(())
    }

    #[test]
    fn a_signal_is_not_an_exit_code() -> Result {
        let mut child = child("kill -TERM $$")?;
        assert_eq!(child.wait()?.signal(), Some(libc::SIGTERM));
        Ok(())
    }

    #[test]
    fn status_words_are_those_of_wait() {
        assert!(ExitStatus::from_raw(raw_status(libc::CLD_EXITED, 0)).success());
        assert_eq!(ExitStatus::from_raw(raw_status(libc::CLD_EXITED, 255)).code(), Some(255));
        let dumped = ExitStatus::from_raw(raw_status(libc::CLD_DUMPED, libc::SIGSEGV));
        assert!(dumped.core_dumped());
        assert_eq!(dumped.signal(), Some(libc::SIGSEGV));
    }

    #[test]
    fn an_unknown_signal_is_refused() -> Result {
        let mut child = child("sleep 100")?;
        assert_eq!(child.send_signal(65).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    #[test]
    fn a_child_that_somebody_else_waited_for() -> Result {
        let mut process = Command::new("/bin/true").spawn()?;
        let mut child = handle(process.id())?;
        process.wait()?;
        assert_eq!(child.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        child.kill()?;
        Ok(())
    }
}
