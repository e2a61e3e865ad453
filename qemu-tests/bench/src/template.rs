//! The two system calls, without the crate's conveniences: every method gets the same ready-made argument vectors.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

const SYS_SPAWN_TEMPLATE_CREATE: c_long = 473;
const SYS_SPAWN_TEMPLATE_SPAWN: c_long = 474;

/// A template of the program at `path`, close-on-exec.
pub fn create(path: &CStr) -> io::Result<RawFd> {
    #[repr(C)]
    struct CreateArgs {
        flags: u64,
        execfd: i32,
        exec_flags: u32,
        filename: u64,
        actions: u64,
        actions_len: u64,
        reserved: [u64; 4],
    }
    let args = CreateArgs {
        flags: 1,
        execfd: -1,
        exec_flags: 0,
        filename: path.as_ptr() as u64,
        actions: 0,
        actions_len: 0,
        reserved: [0; 4],
    };
    // SAFETY: the call only reads the structure, of the size passed, and the path it points to.
    let fd = unsafe { libc::syscall(SYS_SPAWN_TEMPLATE_CREATE, &args, size_of::<CreateArgs>()) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd as RawFd) }
}

/// Starts a process from `template` and returns its pidfd.
pub fn spawn(template: RawFd, argv: *const *const c_char, envp: *const *const c_char) -> io::Result<RawFd> {
    #[repr(C)]
    struct SpawnArgs {
        flags: u64,
        pidfd: u64,
        argv: u64,
        envp: u64,
        actions: u64,
        actions_len: u64,
        reserved: [u64; 4],
    }
    let mut pidfd: c_int = -1;
    let args = SpawnArgs {
        flags: 0,
        pidfd: (&raw mut pidfd) as u64,
        argv: argv as u64,
        envp: envp as u64,
        actions: 0,
        actions_len: 0,
        reserved: [0; 4],
    };
    // SAFETY: the call reads the structure, of the size passed, and the vectors it points to, and writes `pidfd`.
    let pid = unsafe { libc::syscall(SYS_SPAWN_TEMPLATE_SPAWN, template, &args, size_of::<SpawnArgs>()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pidfd) }
}

/// Reaps the child of `pidfd`, which must exit with status 0, and closes the pidfd.
pub fn wait_and_close(pidfd: RawFd) -> io::Result<()> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: waitid only writes the structure passed to it.
    if unsafe { libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, info.as_mut_ptr(), libc::WEXITED) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller passes on a descriptor that nobody else uses.
    unsafe { libc::close(pidfd) };
    // SAFETY: zero is a valid value of this structure of integers, and waitid succeeded.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of a SIGCHLD.
    let status = unsafe { info.si_status() };
    if info.si_code == libc::CLD_EXITED && status == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("the child ended with code {} and status {status}", info.si_code)))
    }
}

/// How many processes were started from `template`, as the kernel counts them.
pub fn spawns(template: RawFd) -> io::Result<u64> {
    let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{template}"))?;
    field(&fdinfo, "spawns").ok_or_else(|| io::Error::other(format!("no spawns line in fdinfo:\n{fdinfo}")))
}

/// The number in the line `name:\t<number>` of an fdinfo file.
fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn reads_the_counter() {
        let fdinfo = "pos:\t0\nflags:\t02\nspawns-other:\t3\nspawns:\t42\nfailures:\t1\n";
        assert_eq!(field(fdinfo, "spawns"), Some(42));
        assert_eq!(field(fdinfo, "failures"), Some(1));
        assert_eq!(field(fdinfo, "path"), None);
    }
}
