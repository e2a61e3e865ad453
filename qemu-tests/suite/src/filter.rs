//! Seccomp filters made of a list of system calls and what happens to them.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A filter that allows what its list does not name.
#[derive(Default)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
}

/// `SECCOMP_RET_ERRNO` with an errno.
pub fn errno(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error as u32
}

/// Offset of the number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the low half of the first argument.
const FIRST_ARGUMENT: u32 = 16;

/// An instruction without jump.
fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

impl Filter {
    /// One that allows everything.
    pub fn allowing() -> Filter {
        Filter::default()
    }

    /// Answers the call `number` with `action`, a `SECCOMP_RET_*`.
    pub fn on(mut self, number: libc::c_long, action: u32) -> Filter {
        self.program.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER));
        self.program.push(libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: number as u32,
        });
        self.program.push(instruction(libc::BPF_RET | libc::BPF_K, action));
        self
    }

    /// Answers the call `number` with `action` if the low half of its first argument is not 0.
    pub fn on_first_argument(mut self, number: libc::c_long, action: u32) -> Filter {
        let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        self.program.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER));
        self.program.push(libc::sock_filter { code: equals, jt: 0, jf: 3, k: number as u32 });
        self.program.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, FIRST_ARGUMENT));
        self.program.push(libc::sock_filter { code: equals, jt: 1, jf: 0, k: 0 });
        self.program.push(instruction(libc::BPF_RET | libc::BPF_K, action));
        self
    }

    /// Installs it for good, with `SECCOMP_FILTER_FLAG_*`; returns what the system call does.
    fn install_with(mut self, flags: libc::c_ulong) -> io::Result<libc::c_long> {
        self.program.push(instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
        let program = libc::sock_fprog { len: self.program.len() as u16, filter: self.program.as_mut_ptr() };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the program and its instructions are live locals.
        match unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) } {
            -1 => Err(io::Error::last_os_error()),
            value => Ok(value),
        }
    }

    /// Installs it for good.
    pub fn install(self) -> io::Result<()> {
        self.install_with(0).map(drop)
    }

    /// Installs it for good and returns the descriptor on which `SECCOMP_RET_USER_NOTIF` is announced.
    pub fn install_with_listener(self) -> io::Result<OwnedFd> {
        let fd = self.install_with(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: the kernel has just returned this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}
