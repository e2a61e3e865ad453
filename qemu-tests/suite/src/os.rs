//! Thin wrappers of the system calls the tests need: integers in, `io::Result` out, and no meaning of their own.
//!
//! Pointers for the two calls under test are plain numbers here, because wrong ones are what much of the suite is about.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use spawn_template::sys;

/// What libc calls return on failure becomes the error in `errno`.
fn check<T: PartialOrd + Default>(value: T) -> io::Result<T> {
    if value < T::default() { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// A path as a C string. The tests' paths hold no NUL.
pub fn c_path(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap_or_default()
}

/// `spawn_template_create(args, size)` with any address for `args`.
pub fn template_create(args: u64, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: the kernel only reads there, and checks the address itself.
    unsafe { sys::spawn_template_create(args as *const _, size) }
}

/// `spawn_template_spawn(fd, args, size)` with any address for `args`.
pub fn template_spawn(fd: RawFd, args: u64, size: usize) -> io::Result<i32> {
    // SAFETY: the kernel checks every address it is given; the one it writes to is a test's own or not writable.
    unsafe { sys::spawn_template_spawn(fd, args as *const _, size) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It called exit with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It did not end; the raw wait status.
    Other(i32),
}

impl Status {
    fn from_raw(raw: i32) -> Status {
        if libc::WIFEXITED(raw) {
            Status::Exited(libc::WEXITSTATUS(raw))
        } else if libc::WIFSIGNALED(raw) {
            Status::Signaled(libc::WTERMSIG(raw))
        } else {
            Status::Other(raw)
        }
    }
}

/// `waitpid`; a pid of 0 means that `WNOHANG` found nothing to report.
pub fn waitpid(pid: i32, options: i32) -> io::Result<(i32, Status)> {
    let mut raw = 0;
    loop {
        // SAFETY: `raw` is a live local.
        match check(unsafe { libc::waitpid(pid, &mut raw, options) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(pid) => return Ok((pid, Status::from_raw(raw))),
        }
    }
}

/// `waitid(P_PIDFD)` for the end of a process: its pid and status, and nothing when `WNOHANG` was among `options`.
pub fn wait_pidfd(fd: RawFd, options: i32) -> io::Result<Option<(i32, Status)>> {
    // SAFETY: all zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is a live local.
        match check(unsafe { libc::waitid(libc::P_PIDFD, fd as libc::id_t, &mut info, libc::WEXITED | options) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid() has filled the SIGCHLD part, or left the zeros.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let value = unsafe { info.si_status() };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (pid, libc::CLD_EXITED) => Some((pid, Status::Exited(value))),
        (pid, libc::CLD_KILLED | libc::CLD_DUMPED) => Some((pid, Status::Signaled(value))),
        (pid, _) => Some((pid, Status::Other(value))),
    })
}

/// Whether there is something of a child or tracee to be waited for (`WEXITED`, `WSTOPPED`, ...); leaves it as it is.
pub fn has_news(pid: i32, options: i32) -> io::Result<bool> {
    // SAFETY: all zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = options | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a live local.
    check(unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, options) })?;
    // SAFETY: waitid() has filled the SIGCHLD part, or left the zeros.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Whether this process has any child left, running or not; leaves it as it is.
pub fn has_children() -> io::Result<bool> {
    // SAFETY: all zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a live local.
    match check(unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) }) {
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(false),
        Err(e) => Err(e),
        Ok(_) => Ok(true),
    }
}

/// The page faults, of both kinds, of all children that have been waited for.
pub fn faults_of_children() -> io::Result<i64> {
    // SAFETY: all zero bytes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a live local.
    check(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) })?;
    Ok(usage.ru_minflt + usage.ru_majflt)
}

/// Waits until there is no child left. Half-made ones, which nobody can reap, count too: they go by themselves.
pub fn reap_all() -> io::Result<()> {
    loop {
        match waitpid(-1, libc::__WALL) {
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
            Err(e) => return Err(e),
            Ok(_) => {}
        }
    }
}

/// Forks. Only good in a process with one thread; the child must end with [`exit_now`].
pub fn fork() -> io::Result<i32> {
    // SAFETY: callers are single-threaded, so the child may do what it likes.
    check(unsafe { libc::fork() })
}

/// This process's pid, which a forked one may ask for too.
pub fn pid() -> i32 {
    // SAFETY: getpid() has no preconditions.
    unsafe { libc::getpid() }
}

/// Ends the process without running anything.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit() has no preconditions.
    unsafe { libc::_exit(code) }
}

/// `execve`, which returns only on failure.
pub fn execve(path: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both vectors end with a null pointer and outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast()) };
    io::Error::last_os_error()
}

/// `posix_spawn` without any attribute, and with an empty environment.
pub fn posix_spawn(path: &CStr, argv: &[CString]) -> io::Result<i32> {
    posix_spawn_opening(path, argv, None)
}

/// `posix_spawn`, with a file for the child to open for reading as its descriptor 60, if there is one.
pub fn posix_spawn_opening(path: &CStr, argv: &[CString], file: Option<&CStr>) -> io::Result<i32> {
    let (argv, envp) = (pointers(argv), pointers(&[]));
    // SAFETY: all zero bytes are room for file actions, which the next call makes of it.
    let mut actions: libc::posix_spawn_file_actions_t = unsafe { std::mem::zeroed() };
    let none = |error| if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) };
    // SAFETY: `actions` is a live local.
    none(unsafe { libc::posix_spawn_file_actions_init(&mut actions) })?;
    if let Some(file) = file {
        // SAFETY: `actions` was made above, and `file` is a live C string, which is copied.
        none(unsafe { libc::posix_spawn_file_actions_addopen(&mut actions, 60, file.as_ptr(), libc::O_RDONLY, 0) })?;
    }
    let (mut pid, argv, envp) = (0, argv.as_ptr().cast(), envp.as_ptr().cast());
    // SAFETY: both vectors end with a null pointer and outlive the call, as all else does.
    let result = none(unsafe { libc::posix_spawn(&mut pid, path.as_ptr(), &actions, ptr::null(), argv, envp) });
    // SAFETY: `actions` was made above, and is not used any more.
    unsafe { libc::posix_spawn_file_actions_destroy(&mut actions) };
    result.map(|()| pid)
}

/// `execveat(fd, "", AT_EMPTY_PATH)`, which returns only on failure.
pub fn fexecve(fd: RawFd, argv: &[CString], envp: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(argv), pointers(envp));
    let empty = c"".as_ptr();
    // SAFETY: both vectors end with a null pointer and outlive the call.
    unsafe { libc::syscall(libc::SYS_execveat, fd, empty, argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH) };
    io::Error::last_os_error()
}

/// A null-terminated vector of string addresses, as execve() wants it.
pub fn pointers(strings: &[CString]) -> Vec<u64> {
    strings.iter().map(|s| s.as_ptr() as u64).chain([0]).collect()
}

/// `kill`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// `pidfd_send_signal`.
pub fn pidfd_kill(fd: RawFd, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<u8>(), 0) }).map(drop)
}

/// `pidfd_open`.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    Ok(own(fd as RawFd))
}

/// Waits until `fd` is readable; false when `ms` milliseconds pass first.
pub fn readable(fd: RawFd, ms: i32) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: `entry` is one live pollfd.
        match check(unsafe { libc::poll(&mut entry, 1, ms) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|n| n > 0),
        }
    }
}

/// `poll`, begun again when a signal comes.
pub fn poll(entries: &mut [libc::pollfd], ms: i32) -> io::Result<()> {
    loop {
        // SAFETY: pointer and length are one slice's.
        match check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, ms) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// Takes over a descriptor that a call has just returned.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass numbers fresh from the kernel, which nobody else owns yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A pipe, both ends close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// A connected pair of Unix datagram sockets.
pub fn socketpair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// Room for one descriptor in a control message, aligned as one.
#[repr(C)]
struct FdMessage {
    header: libc::cmsghdr,
    fd: RawFd,
}

/// Sends `fd` over a Unix socket.
pub fn send_fd(socket: RawFd, fd: RawFd) -> io::Result<()> {
    let mut byte = 0u8;
    let mut data = libc::iovec { iov_base: ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    let length = size_of::<libc::cmsghdr>() + size_of::<RawFd>();
    let header = libc::cmsghdr { cmsg_len: length, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    let mut control = FdMessage { header, fd };
    // SAFETY: all zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut data;
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(&mut control).cast();
    message.msg_controllen = size_of::<FdMessage>();
    // SAFETY: every pointer in `message` is to a live local.
    check(unsafe { libc::sendmsg(socket, &message, 0) }).map(drop)
}

/// Receives a descriptor that [`send_fd`] sent.
pub fn receive_fd(socket: RawFd) -> io::Result<OwnedFd> {
    let mut byte = 0u8;
    let mut data = libc::iovec { iov_base: ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    let header = libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 };
    let mut control = FdMessage { header, fd: -1 };
    // SAFETY: all zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut data;
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(&mut control).cast();
    message.msg_controllen = size_of::<FdMessage>();
    // SAFETY: every pointer in `message` is to a live local.
    check(unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) })?;
    if control.header.cmsg_type != libc::SCM_RIGHTS || control.fd < 0 {
        return Err(io::Error::other("no descriptor came"));
    }
    Ok(own(control.fd))
}

/// `close` of a number; for descriptors that no Rust value owns.
pub fn close(fd: RawFd) -> io::Result<()> {
    // SAFETY: the caller says that nothing owns it.
    check(unsafe { libc::close(fd) }).map(drop)
}

/// `dup2` to a number, for layouts that no Rust value owns.
pub fn dup2(fd: RawFd, newfd: RawFd) -> io::Result<()> {
    // SAFETY: the caller says that nothing owns `newfd`.
    check(unsafe { libc::dup2(fd, newfd) }).map(drop)
}

/// A duplicate at the lowest free number from `lowest`, close-on-exec or not.
pub fn dup_from(fd: RawFd, lowest: RawFd, cloexec: bool) -> io::Result<OwnedFd> {
    let command = if cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::fcntl(fd, command, lowest) })?;
    Ok(own(fd))
}

/// Whether `fd` is close-on-exec; EBADF when it is not open.
pub fn is_cloexec(fd: RawFd) -> io::Result<bool> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// Sets or clears FD_CLOEXEC.
pub fn set_cloexec(fd: RawFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, flags) }).map(drop)
}

/// Closes every descriptor from 3 up; for the start of a program, when nothing owns any.
pub fn close_from_3() -> io::Result<()> {
    // SAFETY: the caller says that nothing owns them.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }).map(drop)
}

/// `fcntl` with a number.
pub fn fcntl(fd: RawFd, command: i32, arg: i32) -> io::Result<()> {
    // SAFETY: the commands used here take numbers only.
    check(unsafe { libc::fcntl(fd, command, arg) }).map(drop)
}

/// Marks every descriptor from 3 up close-on-exec.
pub fn cloexec_from_3() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// `open` with any flags.
pub fn open(path: impl AsRef<Path>, flags: i32) -> io::Result<OwnedFd> {
    let path = c_path(path);
    // SAFETY: `path` is a live C string.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) })?;
    Ok(own(fd))
}

/// `memfd_create`, executable and without seals.
pub fn memfd(name: &CStr) -> io::Result<File> {
    // SAFETY: `name` is a live C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    Ok(File::from(own(fd)))
}

/// `mkfifo`.
pub fn mkfifo(path: impl AsRef<Path>) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: `path` is a live C string.
    check(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }).map(drop)
}

/// `setxattr`.
pub fn setxattr(path: impl AsRef<Path>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = c_path(path);
    let (data, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: both strings and the value are live.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), data, size, 0) }).map(drop)
}

/// `mount`; an empty string stands for a null pointer.
pub fn mount(source: &str, target: impl AsRef<Path>, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let (source, target, kind, data) = (c_path(source), c_path(target), c_path(kind), c_path(data));
    let or_null = |s: &CStr| if s.is_empty() { ptr::null() } else { s.as_ptr() };
    let (source, kind, data) = (or_null(&source), or_null(&kind), or_null(&data));
    // SAFETY: the strings outlive the call.
    check(unsafe { libc::mount(source, target.as_ptr(), kind, flags, data.cast()) }).map(drop)
}

/// `umount2` with MNT_DETACH.
pub fn unmount(target: impl AsRef<Path>) -> io::Result<()> {
    let target = c_path(target);
    // SAFETY: `target` is a live C string.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// A mount namespace of this process's own: what it mounts goes with it.
pub fn private_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)?;
    mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")
}

/// `unshare`.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Becomes another user for good: groups, group ids, user ids.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: a count of 0 needs no array.
    check(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::setresuid(id, id, id) })?;
    // Changing ids clears the parent-death signal and dumpability; /proc/self must stay readable.
    prctl(libc::PR_SET_DUMPABLE, 1, 0)
}

/// `setresuid`; `u32::MAX` leaves an id alone.
pub fn setresuid(real: u32, effective: u32, saved: u32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setresuid(real, effective, saved) })?;
    prctl(libc::PR_SET_DUMPABLE, 1, 0)
}

/// `setresgid`; `u32::MAX` leaves an id alone.
pub fn setresgid(real: u32, effective: u32, saved: u32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setresgid(real, effective, saved) })?;
    prctl(libc::PR_SET_DUMPABLE, 1, 0)
}

/// `setgroups`.
pub fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length are one slice's.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

/// `prctl` with two arguments.
pub fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check(unsafe { libc::prctl(option, a, b, 0, 0) }).map(drop)
}

/// `capset` of this thread: the capabilities 0 to 31 of each set; the rest are dropped.
pub fn set_capabilities(effective: u32, permitted: u32, inheritable: u32) -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted and inheritable, low and high.
    let (header, data) = ([0x2008_0522u32, 0], [effective, permitted, inheritable, 0, 0, 0]);
    // SAFETY: header and data have the layout that version 3 prescribes.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// The soft and hard limit of a resource.
pub fn rlimit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live local.
    check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    Ok(limit)
}

/// Sets the soft limit of a resource, and raises the hard one when it is lower.
pub fn set_rlimit(resource: libc::__rlimit_resource_t, soft: u64) -> io::Result<()> {
    set_hard_rlimit(resource, soft, rlimit(resource)?.rlim_max.max(soft))
}

/// Sets both limits of a resource.
pub fn set_hard_rlimit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a live local.
    check(unsafe { libc::setrlimit(resource, &limit) }).map(drop)
}

/// `umask`, returning the old one.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::umask(mask) }
}

/// `setsid`.
pub fn setsid() -> io::Result<i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() })
}

/// `getsid`; 0 is the calling process.
pub fn getsid(pid: i32) -> io::Result<i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::getsid(pid) })
}

/// `getpgid`; 0 is the calling process.
pub fn getpgid(pid: i32) -> io::Result<i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::getpgid(pid) })
}

/// `ioctl` with a number or nothing as its argument.
pub fn ioctl(fd: RawFd, request: libc::Ioctl, arg: u64) -> io::Result<()> {
    // SAFETY: the requests used here take no pointer.
    check(unsafe { libc::ioctl(fd, request, arg) }).map(drop)
}

/// `ioctl` that reads or writes an int.
pub fn ioctl_int(fd: RawFd, request: libc::Ioctl, value: &mut i32) -> io::Result<()> {
    // SAFETY: the requests used here take a pointer to one int.
    check(unsafe { libc::ioctl(fd, request, &raw mut *value) }).map(drop)
}

/// A signal set as the kernel has it: bit `n - 1` is signal `n`.
pub fn sigbit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Sets the blocked signals of this thread.
pub fn set_sigmask(mask: u64) -> io::Result<()> {
    let none = ptr::null_mut::<u64>();
    // SAFETY: the kernel's set is 8 bytes long, and `mask` lives.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, none, 8) }).map(drop)
}

/// Sets what a signal does: SIG_DFL, SIG_IGN or a handler, with SA_* flags.
pub fn set_signal(signal: i32, handler: libc::sighandler_t, flags: i32) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handlers passed here only touch atomics.
    check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }).map(drop)
}

/// An interval timer that sends SIGALRM every `us` microseconds; 0 stops it.
pub fn set_timer(us: i64) -> io::Result<()> {
    let interval = libc::timeval { tv_sec: 0, tv_usec: us };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: `timer` is a live local.
    check(unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) }).map(drop)
}

/// The queued SIGCHLD of a process that blocks it, or nothing when none comes within `ms`: the sender's pid.
pub fn take_sigchld(ms: i64) -> io::Result<Option<i32>> {
    let set = sigbit(libc::SIGCHLD);
    let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    // SAFETY: all zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let (set, out) = (&raw const set, &raw mut info);
    // SAFETY: the three pointers are to live locals and the set is 8 bytes long.
    match check(unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, set, out, &raw const time, 8) }) {
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(None),
        Err(e) => Err(e),
        // SAFETY: SIGCHLD's information holds the child's pid.
        Ok(_) => Ok(Some(unsafe { info.si_pid() })),
    }
}

/// `delete_module(name, O_NONBLOCK)`.
pub fn delete_module(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is a live C string.
    check(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) }).map(drop)
}

/// `finit_module` without parameters.
pub fn finit_module(file: &File) -> io::Result<()> {
    // SAFETY: the parameter string is a live C string.
    check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) }).map(drop)
}

/// `ptrace` with numbers only.
pub fn ptrace(request: libc::c_uint, pid: i32, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: the requests used here take numbers only.
    check(unsafe { libc::ptrace(request, pid, address, data) }).map(drop)
}

/// A number that forked processes share.
pub struct Shared(*mut std::sync::atomic::AtomicI32);

impl Shared {
    /// A zero.
    pub fn new() -> io::Result<Shared> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Shared(start.cast())) }
    }
}

impl std::ops::Deref for Shared {
    type Target = std::sync::atomic::AtomicI32;

    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping is aligned, holds zeros at first, and lives as long as this value.
        unsafe { &*self.0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and ends with this value.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// `sched_setscheduler` of this thread.
pub fn set_policy(policy: i32, priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is a live local.
    check(unsafe { libc::sched_setscheduler(0, policy, &param) }).map(drop)
}

/// Runs this thread on one processor only.
pub fn run_on(cpu: usize) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is one of the first two, and the set is a live local.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is a live local of the size given.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Whole pages with an unmapped page behind them, for what must end exactly there.
pub struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    /// Maps `count` readable and writable pages and the hole behind.
    pub fn new(count: usize) -> io::Result<Pages> {
        let len = count * 4096;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len + 4096, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast::<u8>();
        // SAFETY: the mapping is one page longer than `len`.
        let hole = unsafe { start.add(len) };
        // SAFETY: the page is ours and nothing refers to it; it stays reserved, so nothing else moves in.
        check(unsafe { libc::mprotect(hole.cast(), 4096, libc::PROT_NONE) })?;
        Ok(Pages { start, len })
    }

    /// The address of the first byte.
    pub fn start(&self) -> u64 {
        self.start as u64
    }

    /// The address of the hole.
    pub fn hole(&self) -> u64 {
        self.start as u64 + self.len as u64
    }

    /// Puts `bytes` right before the hole and returns their address.
    pub fn at_end(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.len - bytes.len();
        self.bytes()[offset..].copy_from_slice(bytes);
        self.start() + offset as u64
    }

    /// The pages' contents.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` bytes long, readable and writable, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Makes the pages read-only for good.
    pub fn protect(self) -> io::Result<ReadOnly> {
        // SAFETY: the mapping is ours; writing through `bytes` is over, as `self` is gone.
        check(unsafe { libc::mprotect(self.start.cast(), self.len, libc::PROT_READ) })?;
        Ok(ReadOnly(self))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and ends with this value.
        unsafe { libc::munmap(self.start.cast(), self.len + 4096) };
    }
}

/// [`Pages`] that can no longer be written.
pub struct ReadOnly(Pages);

impl ReadOnly {
    /// The address of the first byte.
    pub fn start(&self) -> u64 {
        self.0.start()
    }
}

/// A page of memory that processes share after a fork: what a process can report that may make no system call.
pub struct SharedPage(*mut u32);

// SAFETY: its words are only used as atomics.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Maps one, all zeros.
    pub fn new() -> io::Result<SharedPage> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(SharedPage(start.cast())) }
    }

    /// A word of it.
    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < 1024);
        // SAFETY: the word is within the page, aligned, mapped as long as `self` lives, and only used as an atomic.
        unsafe { AtomicU32::from_ptr(self.0.wrapping_add(index)) }
    }

    /// Writes a word.
    pub fn set(&self, index: usize, value: u32) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    /// Reads a word.
    pub fn get(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::SeqCst)
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and ends with this value.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// Writes a byte through a shared mapping of the file's first page, after having read it there.
pub fn write_mapped(file: &File, at: usize, value: u8) -> io::Result<()> {
    const PAGE: usize = 4096;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let byte = start.cast::<u8>().wrapping_add(at % PAGE);
    // SAFETY: within the page that was just mapped, which is readable.
    unsafe { byte.read_volatile() };
    // SAFETY: it is writable, too.
    unsafe { byte.write_volatile(value) };
    // SAFETY: the mapping is ours, and nothing points to it any more.
    check(unsafe { libc::munmap(start, PAGE) }).map(drop)
}
