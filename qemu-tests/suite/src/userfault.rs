//! Memory that comes only when a test wants it to: each reader, the kernel as well, is held up until then.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::os;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `UFFDIO_API`, `UFFDIO_REGISTER` and `UFFDIO_COPY`.
const API: libc::Ioctl = 0xc018_aa3f;
/// See [`API`].
const REGISTER: libc::Ioctl = 0xc020_aa00;
/// See [`API`].
const COPY: libc::Ioctl = 0xc028_aa03;

/// One page that is not there yet.
pub struct Held {
    start: *mut libc::c_void,
    fd: OwnedFd,
}

// SAFETY: the address is only given to the kernel, which checks it.
unsafe impl Sync for Held {}

impl Held {
    /// Reserves the page.
    pub fn new() -> io::Result<Held> {
        // One that blocks cannot be polled.
        // SAFETY: userfaultfd() takes flags.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let held = Held { start, fd };
        // UFFD_API
        let mut api = Api { api: 0xaa, features: 0, ioctls: 0 };
        os::ioctl(held.fd.as_raw_fd(), API, &raw mut api as u64)?;
        // UFFDIO_REGISTER_MODE_MISSING
        let mut register = Register { start: held.address(), len: 4096, mode: 1, ioctls: 0 };
        os::ioctl(held.fd.as_raw_fd(), REGISTER, &raw mut register as u64)?;
        Ok(held)
    }

    /// Where the page is.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Waits until somebody is held up; false when nobody is within `ms`.
    pub fn somebody_waits(&self, ms: i32) -> io::Result<bool> {
        os::readable(self.fd.as_raw_fd(), ms)
    }

    /// Lets everybody go on, who finds these bytes and zeros.
    pub fn fill(&self, bytes: &[u8]) -> io::Result<()> {
        let mut page = vec![0u8; 4096];
        page[..bytes.len()].copy_from_slice(bytes);
        let mut copy = Copy { to: self.address(), from: page.as_ptr() as u64, len: 4096, mode: 0, copied: 0 };
        os::ioctl(self.fd.as_raw_fd(), COPY, &raw mut copy as u64)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and ends with this value.
        unsafe { libc::munmap(self.start, 4096) };
    }
}
