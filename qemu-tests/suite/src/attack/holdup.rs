//! The ways in which a child is held up between its birth and its exec.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::caller::Caller;
use super::stops::{self, eventually};
use crate::control_group::Cgroup;
use crate::harness::{Outcome, failed};
use crate::os;
use crate::slow_fs::SlowFs;
use crate::template::{Folder, set_mode};

/// Milliseconds that a child may take to get where it is held up, or out of there.
const TIME: u64 = 3000;

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldUp {
    /// It opens a FIFO that nobody writes to.
    Fifo,
    /// It opens a file whose file system does not answer.
    Fuse,
    /// Its caller's tracer, who is the attacker, has it stopped at birth.
    Tracer,
    /// It opens a FIFO and is stopped meanwhile.
    Stop,
    /// It opens a FIFO and its control group is frozen meanwhile.
    Freezer,
}

/// All of them.
pub const HOLD_UPS: [HoldUp; 5] = [HoldUp::Fifo, HoldUp::Fuse, HoldUp::Tracer, HoldUp::Stop, HoldUp::Freezer];

/// What they take. Made by root.
pub struct Means {
    /// The FIFO.
    pub gate: String,
    /// The file system.
    pub fuse: SlowFs,
    group: Cgroup,
    procs: File,
    freeze: File,
}

impl Means {
    /// Makes it in this folder. The descriptors of the control group are root's, even if others use them.
    pub fn new(folder: &Folder, name: &str) -> Outcome<Means> {
        let gate = folder.join("gate");
        os::mkfifo(&gate)?;
        set_mode(&gate, 0o666)?;
        let group = Cgroup::new(name, &[])?;
        let file = |name: &str| os::open(group.path(name), libc::O_WRONLY).map(File::from);
        let (procs, freeze) = (file("cgroup.procs")?, file("cgroup.freeze")?);
        Ok(Means { gate, fuse: SlowFs::mount(name, true)?, group, procs, freeze })
    }

    /// Thaws the control group.
    pub fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        self.freeze.write_all_at(if frozen { b"1" } else { b"0" }, 0)
    }
}

/// A child that is held up, or should be.
pub struct Held {
    /// It.
    pub pid: i32,
    /// Whether it is really there.
    pub is_held: bool,
}

impl HoldUp {
    /// What cells call it.
    pub fn name(self) -> &'static str {
        match self {
            HoldUp::Fifo => "open of a FIFO",
            HoldUp::Fuse => "open on FUSE",
            HoldUp::Tracer => "stop of a tracer",
            HoldUp::Stop => "SIGSTOP",
            HoldUp::Freezer => "freezer",
        }
    }

    /// Has the caller start a child and holds it up. Waits less when it is known that this does not work.
    pub fn hold(self, means: &Means, caller: &Caller, works: bool) -> Outcome<Held> {
        let time = if works { TIME } else { 50 };
        if self == HoldUp::Tracer {
            return stopped_at_birth(caller, time);
        }
        let pid = caller.spawn(self == HoldUp::Fuse)?;
        let waits = match self {
            HoldUp::Fuse => means.fuse.holds(TIME as i32)?,
            _ => eventually(TIME, || Ok(state(pid) == 'S'))?,
        };
        if !waits {
            return Err(failed(format!("the child does not wait in its open: {}", state(pid))));
        }
        let is_held = match self {
            HoldUp::Stop => {
                os::kill(pid, libc::SIGSTOP)?;
                eventually(time, || Ok(state(pid) == 'T'))?
            }
            HoldUp::Freezer => {
                means.procs.write_all_at(pid.to_string().as_bytes(), 0)?;
                means.set_frozen(true)?;
                eventually(time, || Ok(means.group.read("cgroup.events")?.contains("frozen 1")))?
            }
            _ => true,
        };
        Ok(Held { pid, is_held })
    }

    /// Lets the child go. Its tracer, if it has one, goes on tracing it if `keep_tracing`.
    pub fn release(self, means: &Means, held: &Held, keep_tracing: bool) -> Outcome {
        if stops::is_mine(held.pid) {
            let request = if keep_tracing { libc::PTRACE_CONT } else { libc::PTRACE_DETACH };
            // Fails for one that has not stopped; what it does later is for who waits for the exec.
            let _ = os::ptrace(request, held.pid, 0, 0);
        }
        match self {
            HoldUp::Fuse => return Ok(means.fuse.release()?),
            HoldUp::Stop => os::kill(held.pid, libc::SIGCONT)?,
            HoldUp::Freezer => means.thaw()?,
            _ => {}
        }
        let mut gate = None;
        let opened = eventually(TIME, || {
            // A tracee stops for the end of the stop, too.
            if keep_tracing {
                stops::go_on(held.pid)?;
            }
            gate = os::open(&means.gate, libc::O_WRONLY | libc::O_NONBLOCK).ok();
            Ok(gate.is_some())
        })?;
        if opened { Ok(()) } else { Err(failed(format!("the child does not open the FIFO: {}", state(held.pid)))) }
    }
}

/// The tracer of a caller is told of the child, which stops before it does anything.
fn stopped_at_birth(caller: &Caller, time: u64) -> Outcome<Held> {
    let options = libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE;
    os::ptrace(libc::PTRACE_SEIZE, caller.pid, 0, options as u64)?;
    caller.request(b'g')?;
    let born = stops::next(caller.pid, TIME)?;
    let detached = os::ptrace(libc::PTRACE_DETACH, caller.pid, 0, 0);
    if detached.is_err() {
        return Err(failed(format!("the caller did not stop for the birth of a child: {born:?}")));
    }
    let pid = caller.answer()?;
    let is_held = stops::next(pid, time)?.is_some();
    if !is_held {
        // It waits in its open at least.
        eventually(TIME, || Ok(state(pid) == 'S'))?;
    }
    Ok(Held { pid, is_held })
}

/// The state in `/proc/PID/stat`; a blank when there is no such process.
pub fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or(' ')
}
