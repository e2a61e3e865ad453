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
/// Offset of the low half of an argument; the high half is 4 bytes further.
const fn argument(index: usize) -> u32 {
    16 + 8 * index as u32
}

/// What an argument of a call has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Anything.
    Any,
    /// This number of 32 bits; the C library leaves the upper half of an int to chance.
    Int(u32),
    /// This number or address of 64 bits.
    Whole(u64),
    /// A pointer that is not null.
    Pointer,
    /// A null pointer.
    Null,
}

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
    pub fn on(self, number: libc::c_long, action: u32) -> Filter {
        self.on_arguments(number, &[], action)
    }

    /// Answers the call `number` with `action` if its arguments are these; those that are not given may be anything.
    pub fn on_arguments(mut self, number: libc::c_long, args: &[Arg], action: u32) -> Filter {
        // Offset, value, and whether they have to be the same.
        let mut conditions = vec![(NUMBER, number as u32, true)];
        let mut pointers = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            let (low, high) = (argument(i), argument(i) + 4);
            match *arg {
                Arg::Any => {}
                Arg::Int(value) => conditions.push((low, value, true)),
                Arg::Whole(value) => conditions.extend([(low, value as u32, true), (high, (value >> 32) as u32, true)]),
                // All that the tests pass lies above 4 GiB.
                Arg::Pointer => pointers.push((high, 0, false)),
                Arg::Null => conditions.extend([(low, 0, true), (high, 0, true)]),
            }
        }
        conditions.extend(pointers);
        for (i, &(offset, value, same)) in conditions.iter().enumerate() {
            // Over the conditions that are left and the answer.
            let past = 2 * (conditions.len() - 1 - i) as u8 + 1;
            let (jt, jf) = if same { (0, past) } else { (past, 0) };
            let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
            self.program.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset));
            self.program.push(libc::sock_filter { code, jt, jf, k: value });
        }
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

    /// Installs it for good on every thread of this process.
    pub fn install_on_all_threads(self) -> io::Result<()> {
        // A thread that cannot be synchronized is the result.
        match self.install_with(libc::SECCOMP_FILTER_FLAG_TSYNC)? {
            0 => Ok(()),
            thread => Err(io::Error::other(format!("thread {thread} has other filters"))),
        }
    }

    /// Installs it for good and returns the descriptor on which `SECCOMP_RET_USER_NOTIF` is announced.
    pub fn install_with_listener(self) -> io::Result<OwnedFd> {
        let fd = self.install_with(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: the kernel has just returned this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}
