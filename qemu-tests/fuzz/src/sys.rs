//! The system calls that a run needs, with errors as `io::Result`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, pid_t};

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A path for the kernel; ours have no NUL in them.
pub fn c_path(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

/// spawn_template_create(2) as it is: a descriptor or the errno.
pub fn create(args: u64, size: u64) -> Result<RawFd, i32> {
    let kernel = spawn_template::Kernel::get().ok_or(libc::ENOSYS)?;
    // SAFETY: the kernel only reads, and checks every address.
    let fd = unsafe { libc::syscall(kernel.create, args, size) };
    if fd < 0 { Err(errno()) } else { Ok(fd as RawFd) }
}

/// spawn_template_spawn(2) as it is: a process id or the errno. What the structure at `args` has for results has to be
/// memory of an arena, or none.
pub fn spawn(template: RawFd, args: u64, size: u64) -> Result<i64, i32> {
    let kernel = spawn_template::Kernel::get().ok_or(libc::ENOSYS)?;
    // SAFETY: the kernel checks every address, and writes only to memory that holds nothing else.
    let pid = unsafe { libc::syscall(kernel.spawn, template, args, size) };
    if pid < 0 { Err(errno()) } else { Ok(pid) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// open(2), with O_CLOEXEC.
pub fn open(path: &str, flags: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string.
    let fd = check(unsafe { libc::open(c_path(path).as_ptr(), flags | libc::O_CLOEXEC, 0o600) })?;
    // SAFETY: the call succeeded, so this is a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The lowest number from 3 that is not open.
pub fn lowest_free() -> io::Result<RawFd> {
    // SAFETY: duplicates a descriptor, which is closed below.
    let fd = check(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) })?;
    close(fd);
    Ok(fd)
}

/// Closes a descriptor that a call returned as a number.
pub fn close(fd: RawFd) {
    // SAFETY: the caller has it from the kernel, and uses it no more.
    unsafe { libc::close(fd) };
}

/// FD_CLOEXEC or 0.
pub fn fd_flags(fd: RawFd) -> io::Result<c_int> {
    // SAFETY: reads flags.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })
}

/// A pseudoterminal: both sides.
pub fn terminal() -> io::Result<[OwnedFd; 2]> {
    let master = open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    let unlock: c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a descriptor.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the call succeeded, so this is a new descriptor.
    Ok([master, unsafe { OwnedFd::from_raw_fd(slave) }])
}

/// A pair of connected sockets.
pub fn sockets() -> io::Result<[OwnedFd; 2]> {
    let mut fds: [c_int; 2] = [-1; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so these are new descriptors.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// mkfifo(3), for everybody.
pub fn make_fifo(path: &str) -> io::Result<()> {
    // SAFETY: the path is a C string.
    check(unsafe { libc::mkfifo(c_path(path).as_ptr(), 0o666) })?;
    Ok(())
}

/// fork(2); the caller has no other threads. 0 in the child.
pub fn fork() -> io::Result<pid_t> {
    // SAFETY: without other threads the child may do what the parent may.
    check(unsafe { libc::fork() })
}

/// Ends the process without running anything of it again.
pub fn exit(status: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Replaces the program of the process, if that can be.
pub fn exec(program: &str) {
    let program = c_path(program);
    let argv = [program.as_ptr(), std::ptr::null()];
    // SAFETY: path and vector are terminated.
    unsafe { libc::execv(program.as_ptr(), argv.as_ptr()) };
}

/// Sends a signal to a process of ours.
pub fn kill(pid: pid_t, signal: c_int) {
    // SAFETY: sends a signal.
    unsafe { libc::kill(pid, signal) };
}

/// What has happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its process id.
    pub pid: pid_t,
    /// Exit status, or the negative number of the signal that ended it.
    pub status: i32,
}

fn wait(kind: libc::idtype_t, id: libc::id_t, options: c_int) -> io::Result<Option<Ended>> {
    // SAFETY: all zero is a value of this structure of integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to the structure given.
    check(unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::__WALL | options) })?;
    // SAFETY: waitid has filled in the fields of SIGCHLD, or left zeros.
    let pid = unsafe { info.si_pid() };
    // SAFETY: likewise.
    let status = unsafe { info.si_status() };
    let status = if info.si_code == libc::CLD_EXITED { status } else { -status };
    Ok((pid != 0).then_some(Ended { pid, status }))
}

/// Reaps any child that has ended; fails with ECHILD if there is no child.
pub fn reap_any() -> io::Result<Option<Ended>> {
    wait(libc::P_ALL, 0, libc::WNOHANG)
}

/// A pidfd of the child.
pub fn pidfd_open(pid: i64) -> io::Result<RawFd> {
    // SAFETY: no memory is involved.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
        -1 => Err(io::Error::last_os_error()),
        pidfd => Ok(pidfd as RawFd),
    }
}

/// Sends a signal to the process of a pidfd.
pub fn pidfd_kill(pidfd: RawFd, signal: c_int) -> io::Result<()> {
    let none = std::ptr::null::<u8>();
    // SAFETY: a null siginfo is allowed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, none, 0) } as c_int).map(drop)
}

/// ptrace(2) without address and data.
pub fn ptrace(request: libc::c_uint, pid: pid_t) -> io::Result<()> {
    // SAFETY: only used for requests that take numbers.
    check(unsafe { libc::ptrace(request, pid, 0, 0) } as c_int).map(drop)
}

/// Reads a word of a tracee, if there is one.
pub fn peek(pid: pid_t, address: u64) {
    let mut word = 0u64;
    // SAFETY: the kernel writes to a live local; it checks the address.
    unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, pid, address, &raw mut word) };
}

/// Whether a tracee has ended (true) or stopped (false), or nothing if neither.
pub fn stopped_or_gone(pid: pid_t) -> io::Result<Option<bool>> {
    let mut status = 0;
    // SAFETY: the status is a live local.
    match check(unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::__WALL) })? {
        0 => Ok(None),
        _ => Ok(Some(!libc::WIFSTOPPED(status))),
    }
}

/// Waits for the child of a pidfd.
pub fn reap(pidfd: RawFd) -> io::Result<Option<Ended>> {
    wait(libc::P_PIDFD, pidfd as libc::id_t, 0)
}

/// Whether the process of a pidfd ends within `milliseconds`.
pub fn ends_within(pidfd: RawFd, milliseconds: c_int) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, as said.
    Ok(check(unsafe { libc::poll(&raw mut poll, 1, milliseconds) })? == 1)
}

/// Sets a soft limit and returns what it was; `None` leaves it as it is.
pub fn soft_limit(resource: libc::__rlimit_resource_t, value: Option<u64>) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the structure.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    let was = limit.rlim_cur;
    if let Some(value) = value {
        limit.rlim_cur = value.min(limit.rlim_max);
        // SAFETY: the kernel reads the structure.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    }
    Ok(was)
}

/// Becomes the user and group `id` with no other groups, for good.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: an empty list needs no memory.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setresuid(id, id, id) })?;
    Ok(())
}

/// prctl(2) with one number.
pub fn prctl(option: c_int, value: u64) -> io::Result<()> {
    // SAFETY: only used for options that take numbers.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })?;
    Ok(())
}

/// Starts a session.
pub fn setsid() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// Blocks SIGCHLD, or lets it through again.
pub fn block_sigchld(block: bool) -> io::Result<()> {
    let set = sigchld();
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set is one, and the old one is not asked for.
    check(unsafe { libc::sigprocmask(how, &raw const set, std::ptr::null_mut()) })?;
    Ok(())
}

fn sigchld() -> libc::sigset_t {
    // SAFETY: all zero is a value of this structure of integers.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: likewise.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    set
}

/// Waits until a child ends, or so long.
pub fn wait_for_sigchld(milliseconds: u64) {
    let set = sigchld();
    let time =
        libc::timespec { tv_sec: (milliseconds / 1000) as i64, tv_nsec: (milliseconds % 1000 * 1_000_000) as i64 };
    // SAFETY: both are what the call takes; which signal it was does not matter.
    unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time) };
}

/// Memory that processes made by fork share, all zero, never unmapped.
pub fn shared<T>() -> io::Result<&'static T> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses harms nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: only used with structures of atomics, of which all zero is a value; a page is aligned for them, and the
    // mapping stays.
    Ok(unsafe { &*base.cast::<T>() })
}
