//! The system calls an init needs and the standard library does not offer.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Error, Result};
use std::os::fd::AsRawFd;
use std::ptr;

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Turns a C return value into a result.
pub fn check(value: libc::c_int) -> Result<libc::c_int> {
    if value < 0 { Err(Error::last_os_error()) } else { Ok(value) }
}

/// mount(2)
pub fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, options: &str) -> Result<()> {
    let [source, target, kind, options] = [source, target, kind, options].map(CString::new);
    let (source, target, kind, options) = (source?, target?, kind?, options?);
    // SAFETY: the four strings are NUL-terminated and outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) })
        .map(drop)
}

/// Makes the file system mounted at `path` the root of everything.
pub fn switch_root(path: &str) -> Result<()> {
    std::env::set_current_dir(path)?;
    mount(".", "/", "", libc::MS_MOVE, "")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// sethostname(2)
pub fn set_hostname(name: &str) -> Result<()> {
    // SAFETY: the pointer and the length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Brings up `lo`.
pub fn loopback_up() -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}

/// finit_module(2) without parameters
pub fn load_module(path: &str) -> Result<()> {
    let file = File::open(path)?;
    // SAFETY: the parameter string is NUL-terminated; the kernel checks everything else.
    check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) } as libc::c_int).map(drop)
}

/// Tells a terminal how large it is.
pub fn set_terminal_size(terminal: &File, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which `size` is.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// setsid(2), and makes the terminal on standard input the session's if there is one. Allocates nothing.
pub fn new_session(terminal: bool) -> Result<()> {
    // SAFETY: setsid() has no arguments.
    check(unsafe { libc::setsid() })?;
    if terminal {
        // SAFETY: TIOCSCTTY takes a number.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    }
    Ok(())
}

/// Reaps every process that ends until the one with this id has.
pub fn wait_for(pid: u32) -> Result<End> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result.
        let reaped = match check(unsafe { libc::waitpid(-1, &mut status, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            reaped => reaped?,
        };
        if reaped as u32 != pid {
            continue;
        }
        return Ok(if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Code(libc::WEXITSTATUS(status))
        });
    }
}

/// Kills every other process and reaps all of them.
pub fn kill_everything() {
    // SAFETY: kill() takes no pointers; -1 spares PID 1.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    // SAFETY: waitpid() accepts a null status pointer.
    while check(unsafe { libc::waitpid(-1, ptr::null_mut(), 0) }).is_ok() {}
}

/// Switches the machine off.
pub fn power_off() -> ! {
    // SAFETY: neither call takes a pointer.
    unsafe { libc::sync() };
    // SAFETY: as above; PID 1 of the guest may.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        // Only reached without a way to switch off; the host's time limit ends it.
        std::thread::park();
    }
}
