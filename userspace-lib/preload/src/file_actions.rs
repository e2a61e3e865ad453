//! `posix_spawn_file_actions_*`.
//!
//! As with attributes, a record that does not begin with our number is left to the C library.

use std::ffi::CStr;
use std::ptr;
use std::slice;

use libc::{c_char, c_int, mode_t, posix_spawn_file_actions_t};
use spawn_template::uapi::{open_how, spawn_template_open};

use crate::real;

/// Two numbers below zero, where the C library has how many actions there are and can be.
const MAGIC: u64 = 0xb94e_60d8_c35b_17fa;

/// What is in the caller's `posix_spawn_file_actions_t`.
#[repr(C)]
pub(crate) struct Record {
    magic: u64,
    /// Memory of `malloc`, or null.
    steps: *mut Step,
    len: usize,
    capacity: usize,
}

const _: () = assert!(size_of::<Record>() <= size_of::<posix_spawn_file_actions_t>());
const _: () = assert!(align_of::<Record>() <= align_of::<posix_spawn_file_actions_t>());

/// One action. Paths are memory of `malloc`, freed with the record.
pub(crate) enum Step {
    Close(c_int),
    Dup2(c_int, c_int),
    Open(c_int, Opening),
    Chdir(*mut c_char),
    Fchdir(c_int),
    CloseFrom(c_int),
    Tcsetpgrp(c_int),
}

/// How to open a file.
pub(crate) struct Opening {
    path: *mut c_char,
    oflag: c_int,
    mode: mode_t,
    /// The same for the kernel.
    kernel: spawn_template_open,
}

impl Opening {
    /// `path` is memory of `malloc`.
    fn new(path: *mut c_char, oflag: c_int, mode: mode_t) -> Self {
        let kernel = spawn_template_open { path: path.expose_provenance() as u64, how: how(oflag, mode) };
        Opening { path, oflag, mode, kernel }
    }

    /// Path, flags and mode, as `open(2)` takes them.
    pub(crate) fn get(&self) -> (*const c_char, c_int, mode_t) {
        (self.path, self.oflag, self.mode)
    }

    /// What `SPAWN_TEMPLATE_ACTION_OPEN` takes.
    pub(crate) fn kernel(&self) -> &spawn_template_open {
        &self.kernel
    }

    /// Whether a second attempt would find the file that the first has made.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.oflag & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL
    }
}

/// What `open(2)` makes of its flags and mode: it leaves out what it does not know, which `openat2(2)` refuses.
/// `build_open_how()` in the kernel.
fn how(oflag: c_int, mode: mode_t) -> open_how {
    /// The C library's constant is 0 here, because every program gets it; `openat2(2)` does so too.
    const O_LARGEFILE: c_int = 0o100_000;
    /// Linux 7.3, which every kernel with templates is.
    const O_EMPTYPATH: c_int = 1 << 26;
    const KNOWN: c_int = libc::O_ACCMODE
        | libc::O_CREAT
        | libc::O_EXCL
        | libc::O_NOCTTY
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_SYNC
        | libc::O_DSYNC
        | libc::O_ASYNC
        | libc::O_DIRECT
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_NOATIME
        | libc::O_CLOEXEC
        | libc::O_PATH
        | libc::O_TMPFILE
        | O_EMPTYPATH;
    /// All that `O_PATH` heeds.
    const WITH_PATH: c_int = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_PATH | libc::O_CLOEXEC | O_EMPTYPATH;
    /// `O_TMPFILE` without `O_DIRECTORY`, which is a part of it.
    const CREATES: c_int = libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY);

    let mut flags = oflag & KNOWN;
    if flags & libc::O_PATH != 0 {
        flags &= WITH_PATH;
    } else {
        flags |= O_LARGEFILE;
    }
    let mode = if flags & CREATES != 0 { mode & 0o7777 } else { 0 };
    open_how { flags: flags as u64, mode: mode.into(), resolve: 0 }
}

impl Record {
    /// Our record; `None` if it is not ours.
    ///
    /// # Safety
    ///
    /// `actions` must point to a record that some `posix_spawn_file_actions_init` made, or of zeroes, and that does not
    /// change while the reference is used.
    pub(crate) unsafe fn of<'a>(actions: *const posix_spawn_file_actions_t) -> Option<&'a Self> {
        // SAFETY: large enough and aligned, see above, and any bits are a value of this structure.
        unsafe { actions.cast::<Self>().as_ref() }.filter(|ours| ours.magic == MAGIC)
    }

    /// As [`of`](Self::of), to be changed.
    ///
    /// # Safety
    ///
    /// As there, and nobody else may use the record.
    unsafe fn of_mut<'a>(actions: *mut posix_spawn_file_actions_t) -> Option<&'a mut Self> {
        // SAFETY: as in `of`.
        unsafe { actions.cast::<Self>().as_mut() }.filter(|ours| ours.magic == MAGIC)
    }

    /// The actions in their order.
    pub(crate) fn steps(&self) -> &[Step] {
        if self.steps.is_null() {
            return &[];
        }
        // SAFETY: `len` of them have been written.
        unsafe { slice::from_raw_parts(self.steps, self.len) }
    }

    /// Adds one, or frees it.
    fn add(&mut self, step: Step) -> c_int {
        if self.len == self.capacity && !self.grow() {
            step.free();
            return libc::ENOMEM;
        }
        // SAFETY: within the memory, see above.
        let end = unsafe { self.steps.add(self.len) };
        // SAFETY: there is room for one more.
        unsafe { end.write(step) };
        self.len += 1;
        0
    }

    fn grow(&mut self) -> bool {
        let capacity = self.capacity.saturating_mul(2).max(8);
        let Some(size) = capacity.checked_mul(size_of::<Step>()) else { return false };
        // SAFETY: null, or memory of this function.
        let steps = unsafe { libc::realloc(self.steps.cast(), size) };
        if steps.is_null() {
            return false;
        }
        (self.steps, self.capacity) = (steps.cast(), capacity);
        true
    }
}

impl Step {
    fn free(&self) {
        let path = match self {
            Step::Open(_, open) => open.path,
            Step::Chdir(path) => *path,
            _ => return,
        };
        // SAFETY: memory of `malloc` that belongs to this step alone.
        unsafe { libc::free(path.cast()) };
    }
}

/// Whether a process may have a descriptor with this number, as the C library decides.
fn is_valid(fd: c_int) -> bool {
    // SAFETY: a plain number.
    let limit = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    fd >= 0 && (limit < 0 || i64::from(fd) < limit)
}

/// A copy of a path; null if there is no memory for it.
///
/// # Safety
///
/// It must be a C string.
unsafe fn duplicate(path: *const c_char) -> *mut c_char {
    // SAFETY: the caller's C string.
    let path = unsafe { CStr::from_ptr(path) };
    // SAFETY: a C string.
    unsafe { libc::strdup(path.as_ptr()) }
}

/// `posix_spawn_file_actions_init(3)`
///
/// # Safety
///
/// As in C: there must be room for the record.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn_file_actions_init(actions: *mut posix_spawn_file_actions_t) -> c_int {
    let record = Record { magic: MAGIC, steps: ptr::null_mut(), len: 0, capacity: 0 };
    // SAFETY: the caller's room is large enough.
    unsafe { actions.cast::<Record>().write(record) };
    0
}

/// `posix_spawn_file_actions_destroy(3)`
///
/// # Safety
///
/// As in C: the record must have been made by `posix_spawn_file_actions_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn_file_actions_destroy(actions: *mut posix_spawn_file_actions_t) -> c_int {
    // SAFETY: the caller's record.
    let Some(ours) = (unsafe { Record::of_mut(actions) }) else {
        return match real::posix_spawn_file_actions_destroy.get() {
            // SAFETY: the caller's arguments, as they are.
            Ok(function) => unsafe { function(actions) },
            Err(errno) => errno,
        };
    };
    ours.steps().iter().for_each(Step::free);
    // SAFETY: null, or memory of `realloc` that belongs to the record.
    unsafe { libc::free(ours.steps.cast()) };
    *ours = Record { magic: 0, steps: ptr::null_mut(), len: 0, capacity: 0 };
    0
}

/// A function that adds an action, made by `$step`: a step, or an errno.
macro_rules! adder {
    ($name:ident = $real:ident($($argument:ident: $type:ty),*), $step:expr) => {
        #[doc = concat!("`", stringify!($name), "(3)`")]
        ///
        /// # Safety
        ///
        /// As in C: the record must have been made by `posix_spawn_file_actions_init`, and a path be a C string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(actions: *mut posix_spawn_file_actions_t, $($argument: $type),*) -> c_int {
            // SAFETY: the caller's record.
            match unsafe { Record::of_mut(actions) } {
                Some(ours) => match $step {
                    Ok(step) => ours.add(step),
                    Err(errno) => errno,
                },
                None => match real::$real.get() {
                    // SAFETY: the caller's arguments, as they are.
                    Ok(function) => unsafe { function(actions, $($argument),*) },
                    Err(errno) => errno,
                },
            }
        }
    };
}

/// The step, if the descriptor can exist.
fn valid(fd: c_int, step: Step) -> Result<Step, c_int> {
    if is_valid(fd) { Ok(step) } else { Err(libc::EBADF) }
}

/// A step with a copy of a path.
///
/// # Safety
///
/// The path must be a C string.
unsafe fn with_path(path: *const c_char, step: impl FnOnce(*mut c_char) -> Step) -> Result<Step, c_int> {
    // SAFETY: the caller's C string.
    let path = unsafe { duplicate(path) };
    if path.is_null() { Err(libc::ENOMEM) } else { Ok(step(path)) }
}

adder!(
    posix_spawn_file_actions_addclose = posix_spawn_file_actions_addclose(fd: c_int),
    valid(fd, Step::Close(fd))
);
adder!(
    posix_spawn_file_actions_adddup2 = posix_spawn_file_actions_adddup2(fd: c_int, newfd: c_int),
    valid(fd, Step::Dup2(fd, newfd)).and_then(|step| valid(newfd, step))
);
adder!(
    posix_spawn_file_actions_addopen = posix_spawn_file_actions_addopen(
        fd: c_int, path: *const c_char, oflag: c_int, mode: mode_t
    ),
    if is_valid(fd) {
        // SAFETY: the caller's path.
        unsafe { with_path(path, |path| Step::Open(fd, Opening::new(path, oflag, mode))) }
    } else {
        Err(libc::EBADF)
    }
);
adder!(
    posix_spawn_file_actions_addchdir_np = posix_spawn_file_actions_addchdir_np(path: *const c_char),
    // SAFETY: the caller's path.
    unsafe { with_path(path, Step::Chdir) }
);
adder!(
    posix_spawn_file_actions_addchdir = posix_spawn_file_actions_addchdir_np(path: *const c_char),
    // SAFETY: the caller's path.
    unsafe { with_path(path, Step::Chdir) }
);
adder!(
    posix_spawn_file_actions_addfchdir_np = posix_spawn_file_actions_addfchdir_np(fd: c_int),
    valid(fd, Step::Fchdir(fd))
);
adder!(
    posix_spawn_file_actions_addfchdir = posix_spawn_file_actions_addfchdir_np(fd: c_int),
    valid(fd, Step::Fchdir(fd))
);
adder!(
    posix_spawn_file_actions_addclosefrom_np = posix_spawn_file_actions_addclosefrom_np(fd: c_int),
    valid(fd, Step::CloseFrom(fd))
);
adder!(
    posix_spawn_file_actions_addtcsetpgrp_np = posix_spawn_file_actions_addtcsetpgrp_np(fd: c_int),
    valid(fd, Step::Tcsetpgrp(fd))
);
