//! What the kernel says about itself, before any of its calls is made.
//!
//! The numbers of the two system calls belong to nobody in Linux yet: on another kernel they may be something else. So a
//! kernel with spawn templates has a file, [`PATH`], and this crate makes neither call unless that file is there, lies in
//! a real procfs and begins as agreed. The numbers, and which flags and actions are supported, come from the file.
//!
//! Nothing here allocates, locks or is a cancellation point, so `libspawn_template_preload.so` uses it as well.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use libc::{c_int, c_long};

use crate::uapi::{SPAWN_TEMPLATE_SPAWN_CHECK_ID, spawn_template_action};

/// The file by which a kernel with spawn templates identifies itself.
pub const PATH: &CStr = c"/proc/spawn_template";

/// The first line of the file.
const FIRST_LINE: &[u8] = b"spawn_template 1";

/// `PROC_SUPER_MAGIC`
const PROC_MAGIC: i64 = 0x9fa0;

/// More than the file can have; a longer one is not trusted.
const SIZE: usize = 2048;

/// What the kernel supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kernel {
    /// Number of the system call `spawn_template_create`.
    pub create: c_long,
    /// Number of the system call `spawn_template_spawn`.
    pub spawn: c_long,
    /// The `SPAWN_TEMPLATE_CREATE_*` flags that it knows.
    pub create_flags: u64,
    /// The `AT_*` flags that it knows in `exec_flags`.
    pub exec_flags: u64,
    /// The `SPAWN_TEMPLATE_SPAWN_*` flags that it knows.
    pub spawn_flags: u64,
    /// Bit N is set if it knows the action type N.
    pub actions: u64,
}

/// What is known, one of the constants below.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const PRESENT: u8 = 1;
const ABSENT: u8 = 2;

/// The fields of [`Kernel`], valid with [`PRESENT`]. Threads that read the file at the same time store the same.
static FIELDS: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];

impl Kernel {
    /// What the kernel said when it was first asked; `None` if it has no spawn templates.
    ///
    /// The first call reads the file. A file that could not be opened for want of descriptors or memory is read again
    /// the next time; every other answer stays.
    pub fn get() -> Option<Kernel> {
        match STATE.load(Ordering::Acquire) {
            PRESENT => {
                let [create, spawn, create_flags, exec_flags, spawn_flags, actions] =
                    FIELDS.each_ref().map(|field| field.load(Ordering::Relaxed));
                let (create, spawn) = (create as c_long, spawn as c_long);
                Some(Kernel { create, spawn, create_flags, exec_flags, spawn_flags, actions })
            }
            ABSENT => None,
            _ => Self::look(),
        }
    }

    /// Reads the file now, and remembers the answer for [`get`](Self::get).
    pub fn look() -> Option<Kernel> {
        let mut text = [0; SIZE];
        let kernel = match read(&mut text) {
            Ok(text) => Self::parse(text),
            Err(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR) => return None,
            Err(_) => None,
        };
        if let Some(kernel) = kernel {
            let (create, spawn) = (kernel.create as u64, kernel.spawn as u64);
            let values = [create, spawn, kernel.create_flags, kernel.exec_flags, kernel.spawn_flags, kernel.actions];
            FIELDS.iter().zip(values).for_each(|(field, value)| field.store(value, Ordering::Relaxed));
        }
        STATE.store(if kernel.is_some() { PRESENT } else { ABSENT }, Ordering::Release);
        kernel
    }

    /// Reads the text of the file. `None` if it is not of this version or lacks a number.
    fn parse(text: &[u8]) -> Option<Kernel> {
        let mut lines = text.strip_suffix(b"\n")?.split(|&byte| byte == b'\n');
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut kernel = Kernel { create: 0, spawn: 0, create_flags: 0, exec_flags: 0, spawn_flags: 0, actions: 0 };
        for line in lines {
            let Some(space) = line.iter().position(|&byte| byte == b' ') else { continue };
            let (key, value) = (line.get(..space)?, line.get(space + 1..)?);
            match key {
                b"create" => kernel.create = call_number(value)?,
                b"spawn" => kernel.spawn = call_number(value)?,
                b"create_flags" => kernel.create_flags = number(value)?,
                b"exec_flags" => kernel.exec_flags = number(value)?,
                b"spawn_flags" => kernel.spawn_flags = number(value)?,
                b"actions" => kernel.actions = number(value)?,
                _ => {}
            }
        }
        let numbers = kernel.create > 0 && kernel.spawn > 0 && kernel.create != kernel.spawn;
        // No type of actions is 0: the others would be others as well.
        (numbers && kernel.actions & 1 == 0).then_some(kernel)
    }

    /// Whether it knows these flags and actions, and can check the id of a template, which each spawn has it do.
    pub fn can_spawn(&self, flags: u64, actions: &[spawn_template_action]) -> bool {
        let known =
            |action: &spawn_template_action| 1_u64.checked_shl(action.type_).is_some_and(|bit| self.actions & bit != 0);
        let flags = flags | u64::from(SPAWN_TEMPLATE_SPAWN_CHECK_ID);
        flags & !self.spawn_flags == 0 && actions.iter().all(known)
    }
}

/// A number in decimal or, after `0x`, in hexadecimal notation.
fn number(text: &[u8]) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix(b"0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        value.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

fn call_number(text: &[u8]) -> Option<c_long> {
    c_int::try_from(number(text)?).ok().map(c_long::from).filter(|&number| number > 0)
}

/// Reads [`PATH`], if it is what it should be. Returns the text, or the `errno`.
fn read(text: &mut [u8]) -> Result<&[u8], c_int> {
    // Something else in its place must not make this wait.
    let fd = open(PATH, libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)?;
    let result = if is_proc_file(fd) { read_all(fd, text) } else { Err(libc::ENOSYS) };
    close(fd);
    let length = result?;
    text.get(..length).ok_or(libc::ENOSYS)
}

/// Reads until the end of the file, which has to come before the end of the buffer.
fn read_all(fd: c_int, text: &mut [u8]) -> Result<usize, c_int> {
    let mut length = 0;
    loop {
        let room = text.get_mut(length..).filter(|room| !room.is_empty()).ok_or(libc::ENOSYS)?;
        match read_some(fd, room)? {
            0 => return Ok(length),
            read => length += read,
        }
    }
}

/// Whether this is a regular file of a procfs.
fn is_proc_file(fd: c_int) -> bool {
    let mut mount = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the structure may be written to.
    if unsafe { libc::syscall(libc::SYS_fstatfs, fd, mount.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: zero is a valid value of this structure of integers.
    if unsafe { mount.assume_init() }.f_type != PROC_MAGIC {
        return false;
    }
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure may be written to.
    if unsafe { libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: zero is a valid value of this structure of integers.
    unsafe { stat.assume_init() }.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// Opens a file for reading, close-on-exec. Returns the descriptor, or the `errno`.
pub(crate) fn open(path: &CStr, flags: c_int) -> Result<c_int, c_int> {
    let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the rest are plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) };
    if fd < 0 { Err(errno()) } else { Ok(fd as c_int) }
}

/// Reads once. Returns how many bytes, or the `errno`.
pub(crate) fn read_some(fd: c_int, buffer: &mut [u8]) -> Result<usize, c_int> {
    loop {
        // SAFETY: the buffer may be written to, for its length.
        let read = unsafe { libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) };
        match usize::try_from(read) {
            Ok(read) => return Ok(read),
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
}

/// Closes a descriptor that this crate has just opened.
pub(crate) fn close(fd: c_int) {
    // SAFETY: a plain number; the caller owns the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

pub(crate) fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "spawn_template 1\ncreate 473\nspawn 474\ncreate_flags 0x3\nexec_flags 0x1100\nspawn_flags 0xf\n\
                        actions 0xfffffe\n";

    #[test]
    fn reads_numbers_and_masks() {
        let (create, spawn, create_flags, exec_flags) = (473, 474, 3, 0x1100);
        let expected = Kernel { create, spawn, create_flags, exec_flags, spawn_flags: 15, actions: 0xff_fffe };
        assert_eq!(Kernel::parse(TEXT.as_bytes()), Some(expected));
        // Any order, and what a later kernel may add.
        let text = "spawn_template 1\nfuture a b c\nspawn 600\nactions 2\n\nword\ncreate 601\n";
        let expected = Kernel { create: 601, spawn: 600, create_flags: 0, exec_flags: 0, spawn_flags: 0, actions: 2 };
        assert_eq!(Kernel::parse(text.as_bytes()), Some(expected));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "\n",
            "spawn_template 1",
            "spawn_template 1\n",
            "spawn_template 2\ncreate 473\nspawn 474\n",
            "spawn_template 10\ncreate 473\nspawn 474\n",
            " spawn_template 1\ncreate 473\nspawn 474\n",
            "spawn_template 1\ncreate 473\n",
            "spawn_template 1\ncreate 473\nspawn 473\n",
            "spawn_template 1\ncreate 473\nspawn -1\n",
            "spawn_template 1\ncreate 473\nspawn 0\n",
            "spawn_template 1\ncreate 473\nspawn 0x\n",
            "spawn_template 1\ncreate 473\nspawn 4294967296\n",
            "spawn_template 1\ncreate 473\nspawn 474 \n",
            "spawn_template 1\ncreate 473\nspawn 474\nactions many\n",
            "spawn_template 1\ncreate 473\nspawn 474\nactions 0x7fffff\n",
            // Cut off.
            "spawn_template 1\ncreate 473\nspawn 474",
        ] {
            assert_eq!(Kernel::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn flags_and_actions_are_looked_up() {
        let (create_flags, exec_flags, spawn_flags, actions) = (0, 0, 0b1101, 0b1010);
        let kernel = Kernel { create: 1, spawn: 2, create_flags, exec_flags, spawn_flags, actions };
        let action = |type_| spawn_template_action { type_, ..Default::default() };
        assert!(kernel.can_spawn(0b100, &[action(1), action(3)]));
        assert!(!kernel.can_spawn(0b010, &[]));
        assert!(!kernel.can_spawn(0, &[action(0)]));
        assert!(!kernel.can_spawn(0, &[action(64)]) && !kernel.can_spawn(0, &[action(67)]));
        assert!(!Kernel { spawn_flags: 0b0101, ..kernel }.can_spawn(0, &[]));
    }

    #[test]
    fn only_a_file_of_proc_is_trusted() {
        let trusted = |path: &CStr| {
            open(path, 0).map(|fd| {
                let trusted = is_proc_file(fd);
                close(fd);
                trusted
            })
        };
        assert_eq!(trusted(c"/proc/version"), Ok(true));
        for other in [c"/proc/self", c"/etc/passwd", c"/dev/null"] {
            assert_eq!(trusted(other), Ok(false), "{other:?}");
        }
    }
}
