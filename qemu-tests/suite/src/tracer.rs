//! A debugger: follows a caller and its children with ptrace and notes what it is told.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

use crate::harness::{Outcome, failed};
use crate::os::{self, Status};

/// Every option that reports an event.
pub const ALL_EVENTS: i32 = libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEVFORKDONE
    | libc::PTRACE_O_TRACEEXIT;

/// How a debugger comes to trace a process. Those that it traces from birth because of that stop first as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process asks for it: PTRACE_TRACEME.
    Traceme,
    /// PTRACE_ATTACH.
    Attach,
    /// PTRACE_SEIZE.
    Seize,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Traceme, Kind::Attach, Kind::Seize];
}

/// What happened to a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It stopped at a `PTRACE_EVENT_*`, with this message.
    Event(i32, u64),
    /// It stopped at the entry or exit of a system call.
    Call,
    /// It stopped with this signal pending.
    Signal(i32),
    /// It ended.
    Ended(Status),
}

/// A tracee that something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which one.
    pub pid: i32,
    /// What.
    pub what: What,
}

impl Step {
    /// Whether it is this event.
    pub fn is_event(&self, event: i32) -> bool {
        matches!(self.what, What::Event(e, _) if e == event)
    }
}

/// Forks a process that runs `caller` once this one traces it, as `kind` says and with `options`; it is stopped then.
fn traced(kind: Kind, options: i32, caller: impl FnOnce() -> i32) -> Outcome<i32> {
    let (reader, writer) = os::pipe()?;
    let worker = os::fork()?;
    if worker == 0 {
        drop(writer);
        let waited = match kind {
            Kind::Traceme => {
                os::ptrace(libc::PTRACE_TRACEME, 0, 0, 0).and_then(|()| os::kill(os::pid(), libc::SIGSTOP))
            }
            // Waits for the debugger.
            _ => os::readable(reader.as_raw_fd(), -1).map(drop),
        };
        drop(reader);
        let code = waited.map_or(99, |()| caller());
        os::exit_now(code);
    }
    let options = (options | libc::PTRACE_O_EXITKILL) as u64;
    match kind {
        Kind::Traceme => {}
        Kind::Attach => os::ptrace(libc::PTRACE_ATTACH, worker, 0, 0)?,
        // Stopped once before it does anything, so that its system calls are seen from the first on.
        Kind::Seize => os::ptrace(libc::PTRACE_SEIZE, worker, 0, options)
            .and_then(|()| os::ptrace(libc::PTRACE_INTERRUPT, worker, 0, 0))?,
    }
    os::waitpid(worker, libc::__WALL)?;
    if kind != Kind::Seize {
        os::ptrace(libc::PTRACE_SETOPTIONS, worker, 0, options)?;
    }
    Ok(worker)
}

/// [`follow_as`] a debugger that seizes.
#[track_caller]
pub fn follow(
    options: i32,
    caller: impl FnOnce() -> i32,
    each: impl FnMut(&Step) -> Outcome<libc::c_uint>,
) -> Outcome<(i32, Vec<Step>)> {
    follow_as(Kind::Seize, options, caller, each)
}

/// Forks a process that runs `caller` once this one traces it, as `kind` says and with `options`, and follows it and all who
/// are attached automatically until it has ended. `each` is called at every stop, before the tracee goes on with the request
/// it returns (`PTRACE_CONT`, ...). The exit code of `caller` must be 0.
#[track_caller]
pub fn follow_as(
    kind: Kind,
    options: i32,
    caller: impl FnOnce() -> i32,
    mut each: impl FnMut(&Step) -> Outcome<libc::c_uint>,
) -> Outcome<(i32, Vec<Step>)> {
    let worker = traced(kind, options, caller)?;
    let calls = options & libc::PTRACE_O_TRACESYSGOOD != 0;
    os::ptrace(if calls { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT }, worker, 0, 0)?;
    let (mut steps, mut alive, mut gone) = (Vec::new(), BTreeSet::from([worker]), BTreeSet::new());
    while !alive.is_empty() {
        let (pid, status) = os::waitpid(-1, libc::__WALL)?;
        let step = Step { pid, what: what(pid, status) };
        steps.push(step);
        if let What::Ended(_) = step.what {
            alive.remove(&pid);
            gone.insert(pid);
            continue;
        }
        alive.insert(pid);
        // Somebody new, who may have come and gone before we are told.
        if let What::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, new) =
            step.what
            && !gone.contains(&(new as i32))
        {
            alive.insert(new as i32);
        }
        let request = each(&step)?;
        if request == libc::PTRACE_DETACH {
            // A child of the caller's is not ours to wait for then.
            alive.remove(&pid);
            gone.insert(pid);
        }
        // SIGTRAP says that a single step is done, or exec, and is not the tracee's. Nor is the SIGSTOP at birth; nobody sends
        // another one.
        let signal = match step.what {
            What::Signal(signal) if signal != libc::SIGTRAP && signal != libc::SIGSTOP => signal as u64,
            _ => 0,
        };
        // It may have been killed in the meantime, which the next wait reports.
        let _ = os::ptrace(request, pid, 0, signal);
    }
    match steps.iter().find(|step| step.pid == worker && matches!(step.what, What::Ended(_))) {
        Some(Step { what: What::Ended(Status::Exited(0)), .. }) => Ok((worker, steps)),
        _ => Err(failed(format!("the traced caller ({worker}) did not end well: {steps:?}"))),
    }
}

/// What a wait status of a tracee says.
fn what(pid: i32, status: Status) -> What {
    let Status::Other(raw) = status else {
        return What::Ended(status);
    };
    let signal = libc::WSTOPSIG(raw);
    match raw >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => What::Call,
        0 => What::Signal(signal),
        event => What::Event(event, message(pid).unwrap_or(u64::MAX)),
    }
}

/// `PTRACE_GETEVENTMSG`.
fn message(pid: i32) -> io::Result<u64> {
    let mut message = 0u64;
    os::ptrace(libc::PTRACE_GETEVENTMSG, pid, 0, &raw mut message as u64)?;
    Ok(message)
}

/// The registers of a stopped tracee.
pub fn registers(pid: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: all zero bytes are a valid user_regs_struct.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    os::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers as u64)?;
    Ok(registers)
}

/// The floating-point registers of a stopped tracee.
pub fn floating_point(pid: i32) -> io::Result<libc::user_fpregs_struct> {
    // SAFETY: all zero bytes are a valid user_fpregs_struct.
    let mut registers: libc::user_fpregs_struct = unsafe { std::mem::zeroed() };
    os::ptrace(libc::PTRACE_GETFPREGS, pid, 0, &raw mut registers as u64)?;
    Ok(registers)
}

/// A word of a stopped tracee's memory.
pub fn word(pid: i32, address: u64) -> io::Result<i64> {
    let mut word = 0i64;
    // The raw call stores the word; the C library's returns it.
    // SAFETY: `word` is a live local.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, pid, address, &raw mut word) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(word) }
}
