//! Whether a descriptor is a template, and which.
//!
//! A number that was a template's once may be another file's by now: the program has closed it, or the calling thread
//! has a table of descriptors of its own. So the kernel compares the [`Identity`] of a template as part of each spawn, and
//! it is compared here before a template is closed.
//!
//! Nothing here allocates, locks or is a cancellation point, so `libspawn_template_preload.so` uses it as well.

use std::ffi::CStr;

use libc::c_int;

use crate::kernel::{self, Kernel};
use crate::raw::address;
use crate::uapi::{
    SPAWN_TEMPLATE_SPAWN_CHECK_ID, SPAWN_TEMPLATE_STAGE_ARGUMENTS, SPAWN_TEMPLATE_STAGE_IDENTITY,
    spawn_template_result, spawn_template_spawn_args,
};

/// What `/proc/self/fd/N` reads for a template.
const TEMPLATE: &[u8] = b"anon_inode:[spawn_template]";

/// The kernel compares the id of the template, as part of each spawn. A kernel that cannot has no templates for us.
pub const CHECK_ID: u64 = SPAWN_TEMPLATE_SPAWN_CHECK_ID as u64;

/// The kernel's number for a template, which no other template gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64);

impl Identity {
    /// The identity of the template that is open with this number; the `errno` if that cannot be found out, `ENOSYS` if
    /// it is no template.
    pub fn of(fd: c_int) -> Result<Self, c_int> {
        let mut id = 0_u64;
        let mut known = 0_u8;
        info(fd, |key, value| {
            known |= match key {
                b"path" => 1,
                b"dev" => 2,
                b"inode" => 4,
                b"id" => {
                    let digit = |id: u64, byte: &u8| id.wrapping_mul(10).wrapping_add((byte & 0xf).into());
                    id = value.iter().fold(id, digit);
                    8
                }
                _ => 0,
            };
        })?;
        if known == 15 { Ok(Identity(id)) } else { Err(libc::ENOSYS) }
    }

    /// For [`CHECK_ID`].
    pub fn id(self) -> u64 {
        self.0
    }

    /// Whether the descriptor of the calling thread with this number is this template.
    ///
    /// A spawn is tried only where `/proc` cannot tell: a filter that kills for that call may be in force by now.
    pub fn is(self, fd: c_int) -> bool {
        let ask = || Kernel::get().is_some_and(|kernel| asks(&kernel, fd, self.0));
        match Self::of(fd) {
            Ok(found) => found == self,
            Err(libc::EMFILE | libc::ENFILE | libc::EACCES) => ask(),
            Err(_) => !is_possible() && ask(),
        }
    }
}

/// Asks the kernel by a spawn that has no argument vector and nowhere to store a pidfd, which therefore starts nothing.
/// Needs no descriptor, unlike reading `fdinfo`.
fn asks(kernel: &Kernel, fd: c_int, id: u64) -> bool {
    let mut result = spawn_template_result { stage: u32::MAX, action: -1, ..Default::default() };
    let args = spawn_template_spawn_args {
        flags: CHECK_ID,
        template_id: id,
        result: address(&raw mut result),
        result_size: size_of_val(&result) as u64,
        ..Default::default()
    };
    // SAFETY: the kernel may write to `result`, and has no other address.
    let answer = unsafe { libc::syscall(kernel.spawn, fd, &raw const args, size_of_val(&args)) };
    // The id is compared first, then the credentials, then the rest.
    match (result.stage, kernel::errno()) {
        (SPAWN_TEMPLATE_STAGE_ARGUMENTS, error) => answer < 0 && error != libc::EBADF,
        (SPAWN_TEMPLATE_STAGE_IDENTITY, libc::EACCES) => answer < 0,
        _ => false,
    }
}

/// Closes the descriptor if it is this template.
pub fn close(fd: c_int, identity: Identity) {
    if identity.is(fd) {
        kernel::close(fd);
    }
}

/// Whether the descriptor of the calling thread with this number is a template.
pub fn is_template(fd: c_int) -> bool {
    let mut link = [0; LINK];
    read_link(b"/proc/thread-self/fd/", fd, &mut link).is_some_and(|link| link == TEMPLATE)
}

/// Whether [`is_template`] can find out anything: not after a `chroot` to a place without `/proc`.
pub fn is_possible() -> bool {
    // SAFETY: a C string and plain numbers.
    unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, c"/proc/thread-self/fd".as_ptr(), libc::X_OK) == 0 }
}

/// Whether the calling thread has the descriptors of the first thread of the process: the same table, unless one of the
/// two has done `unshare(CLONE_FILES)`. `false` if that cannot be found out.
pub fn in_first_table() -> bool {
    /// `KCMP_FILES`
    const FILES: c_int = 2;
    // SAFETY: has no arguments.
    let process = unsafe { libc::syscall(libc::SYS_getpid) };
    // SAFETY: has no arguments.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    if process == thread {
        return true;
    }
    // SAFETY: plain numbers.
    match unsafe { libc::syscall(libc::SYS_kcmp, process, thread, FILES, 0, 0) } {
        0 => true,
        // Not every kernel has the call, and some filters forbid it.
        answer if answer < 0 => finds_the_same(),
        _ => false,
    }
}

/// Whether the first thread finds the same at the number of a new pipe.
fn finds_the_same() -> bool {
    let mut ends: [c_int; 2] = [-1; 2];
    // SAFETY: there is room for two.
    if unsafe { libc::syscall(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return false;
    }
    let (mut ours, mut theirs) = ([0; LINK], [0; LINK]);
    let ours = read_link(b"/proc/thread-self/fd/", ends[0], &mut ours);
    let same = ours.is_some() && ours == read_link(b"/proc/self/fd/", ends[0], &mut theirs);
    ends.into_iter().for_each(kernel::close);
    same
}

/// More than the links that are compared have; longer ones are cut off.
const LINK: usize = 48;

fn read_link<'a>(prefix: &[u8], fd: c_int, link: &'a mut [u8; LINK]) -> Option<&'a [u8]> {
    let mut name = [0; NAME];
    let name = format(&mut name, prefix, fd)?;
    // SAFETY: the path is a C string, and the buffer may be written to for its length.
    let length = unsafe { libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, name.as_ptr(), link.as_mut_ptr(), LINK) };
    link.get(..usize::try_from(length).ok()?)
}

/// Copies the name of the template's ELF interpreter into `buffer`, as a C string; `None` if it has none. The `errno` if
/// that cannot be found out.
pub fn interpreter(fd: c_int, buffer: &mut [u8]) -> Result<Option<&CStr>, c_int> {
    let mut length = 0;
    let mut fits = true;
    info(fd, |key, value| {
        if key == b"interpreter" {
            match buffer.get_mut(length..).and_then(|room| room.get_mut(..value.len())) {
                Some(room) => room.copy_from_slice(value),
                None => fits = false,
            }
            length += value.len();
        }
    })?;
    *buffer.get_mut(length).ok_or(libc::ENAMETOOLONG)? = 0;
    let name = CStr::from_bytes_until_nul(buffer).map_err(|_| libc::ENAMETOOLONG)?;
    match name.to_bytes() {
        b"-" => Ok(None),
        // The kernel writes unprintable characters in another way.
        bytes if !fits || bytes.is_empty() || bytes.contains(&b'\\') => Err(libc::EINVAL),
        _ => Ok(Some(name)),
    }
}

/// Room for the longest name of a file in `/proc` that is used here.
const NAME: usize = 48;

/// `prefix` and a number, as a C string.
fn format<'a>(buffer: &'a mut [u8; NAME], prefix: &[u8], number: c_int) -> Option<&'a CStr> {
    let mut digits = [0; 10];
    let mut left = u32::try_from(number).ok()?;
    let mut start = digits.len();
    loop {
        start -= 1;
        *digits.get_mut(start)? = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let digits = digits.get(start..)?;
    buffer.get_mut(..prefix.len())?.copy_from_slice(prefix);
    buffer.get_mut(prefix.len()..)?.get_mut(..digits.len())?.copy_from_slice(digits);
    *buffer.get_mut(prefix.len() + digits.len())? = 0;
    CStr::from_bytes_until_nul(buffer).ok()
}

/// Reads the `fdinfo` of a descriptor; the `errno` if that fails. Calls `each` with the key of a line, and its value in as many parts as it comes.
fn info(fd: c_int, each: impl FnMut(&[u8], &[u8])) -> Result<(), c_int> {
    let mut name = [0; NAME];
    let file = kernel::open(format(&mut name, b"/proc/thread-self/fdinfo/", fd).ok_or(libc::EBADF)?, 0)?;
    let mut lines = Lines { key: [0; 16], length: 0, in_value: false, at_start: false, each };
    // Some programs have small stacks.
    let mut buffer = [0; 512];
    let result = loop {
        match kernel::read_some(file, &mut buffer) {
            Ok(0) => break Ok(()),
            Ok(read) => lines.feed(buffer.get(..read).unwrap_or_default()),
            Err(error) => break Err(error),
        }
    };
    kernel::close(file);
    result
}

/// Takes text apart that comes piece by piece.
struct Lines<F> {
    key: [u8; 16],
    length: usize,
    in_value: bool,
    /// Whether the tab before the value may still come.
    at_start: bool,
    each: F,
}

impl<F: FnMut(&[u8], &[u8])> Lines<F> {
    fn feed(&mut self, mut text: &[u8]) {
        while let [first, rest @ ..] = text {
            if self.in_value && std::mem::take(&mut self.at_start) && *first == b'\t' {
                text = rest;
                continue;
            }
            if self.in_value {
                let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
                let (value, rest) = text.split_at(end);
                // Longer keys are none of ours.
                (self.each)(self.key.get(..self.length).unwrap_or_default(), value);
                text = rest.strip_prefix(b"\n").unwrap_or_default();
                if !rest.is_empty() {
                    (self.length, self.in_value) = (0, false);
                }
                continue;
            }
            text = rest;
            match *first {
                b'\n' => self.length = 0,
                b':' => (self.in_value, self.at_start) = (true, true),
                byte => {
                    if let Some(room) = self.key.get_mut(self.length) {
                        *room = byte;
                    }
                    self.length += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn tables_are_told_apart() {
        let check = || (in_first_table(), finds_the_same());
        assert_eq!(std::thread::spawn(check).join().ok(), Some((true, true)));
        let own = move || {
            // SAFETY: a plain number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            check()
        };
        assert_eq!(std::thread::spawn(own).join().ok(), Some((false, false)));
    }

    #[test]
    fn other_files_are_no_templates() -> std::io::Result<()> {
        let file = std::fs::File::open("/dev/null")?;
        assert!(!is_template(file.as_raw_fd()));
        assert_eq!(Identity::of(file.as_raw_fd()), Err(libc::ENOSYS));
        assert_eq!(Identity::of(-1), Err(libc::EBADF));
        assert!(!is_template(-1) && !is_template(i32::MAX));
        Ok(())
    }

    #[test]
    fn lines_come_in_pieces() {
        let text = b"pos:\t0\npath:\t/bin/true\nempty:\nlonger-than-any-key-is:\tx\nid:\t12\n";
        for size in 1..text.len() {
            let mut found = Vec::new();
            let mut lines = Lines {
                key: [0; 16],
                length: 0,
                in_value: false,
                at_start: false,
                each: |key: &[u8], value: &[u8]| found.push((key.to_vec(), value.to_vec())),
            };
            text.chunks(size).for_each(|chunk| lines.feed(chunk));
            let value = |name: &[u8]| -> Vec<u8> {
                found.iter().filter(|(key, _)| key == name).flat_map(|(_, value)| value.clone()).collect()
            };
            assert_eq!(value(b"path"), b"/bin/true", "{size}");
            assert_eq!(value(b"id"), b"12", "{size}");
            assert_eq!(value(b"pos"), b"0", "{size}");
        }
    }
}
