//! Permission to use I/O ports is inherited, as by fork, and kept, as by exec.

use std::ffi::CString;

use crate::harness::{Outcome, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Template, child};
use crate::{same, tests};

tests!("io_ports": no_permission, permission_of_a_port, permission_of_another_port, permission_of_all, taken_back);

/// `ioperm(0x80, 1, on)`.
fn permit(port: u64, on: bool) -> std::io::Result<()> {
    // SAFETY: ioperm() takes numbers.
    match unsafe { libc::syscall(libc::SYS_ioperm, port, 1, u64::from(on)) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// `iopl(level)`.
fn set_level(level: u32) -> std::io::Result<()> {
    // SAFETY: iopl() takes a number.
    match unsafe { libc::syscall(libc::SYS_iopl, level) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A program that uses port 0x80 ends like this, by fork and execve and by every kind of spawn, after `prepare`.
fn ends(prepare: impl FnOnce() -> std::io::Result<()>, wanted: Status) -> Outcome {
    in_worker(|| {
        os::set_hard_rlimit(libc::RLIMIT_CORE, 0, 0)?;
        let template = Template::child("port")?;
        prepare()?;
        let (path, argv): (CString, _) = (os::c_path(child("port")), [c"port".to_owned()]);
        let forked = os::fork()?;
        if forked == 0 {
            os::execve(&path, &argv, &[]);
            os::exit_now(1);
        }
        same!(os::waitpid(forked, 0)?.1, wanted, "after fork and execve");
        same!(template.status()?, wanted, "after a spawn");
        same!(template.spawn().inherit_fds().status()?, wanted, "after a spawn with INHERIT_FDS");
        same!(template.spawn().nowait().status()?, wanted, "after a spawn with NOWAIT");
        same!(template.spawn().acts([Act::chdir("/"), Act::Setuid(12345)]).status()?, wanted, "of another user");
        Ok(())
    })
}

fn no_permission() -> Outcome {
    ends(|| Ok(()), Status::Signaled(libc::SIGSEGV))
}

fn permission_of_a_port() -> Outcome {
    ends(|| permit(0x80, true), Status::Exited(0))
}

fn permission_of_another_port() -> Outcome {
    ends(|| permit(0x81, true), Status::Signaled(libc::SIGSEGV))
}

fn permission_of_all() -> Outcome {
    ends(|| set_level(3), Status::Exited(0))
}

fn taken_back() -> Outcome {
    ends(|| permit(0x80, true).and_then(|()| permit(0x80, false)), Status::Signaled(libc::SIGSEGV))?;
    ends(|| set_level(3).and_then(|()| set_level(0)), Status::Signaled(libc::SIGSEGV))
}
