//! How many spawns went which way, for those who ask with `SPAWN_TEMPLATE_STATS`.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::io::Write;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::{os, real};

/// Why a spawn was left to the C library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The kernel has no spawn templates, or does not let this process use them.
    Unsupported,
    /// A script, or not ELF for x86-64.
    NotElf,
    /// There is no such program; file actions may still have effects.
    NotFound,
    /// The name is relative to a directory that the child has yet to change to, or to one that cannot be reached from the
    /// root.
    RelativePath,
    /// A path that is another one for another process.
    ProcPath,
    /// The search has to go on after files have been opened.
    Search,
    /// More than the kernel takes.
    TooManyActions,
    /// A seccomp filter forbids what the child would do, or decides about it.
    Seccomp,
    /// The executable changed again and again, or is not the same for the child.
    Changing,
    /// No descriptor is free for the template or the pidfd.
    Descriptors,
    /// The kernel did not accept the arguments.
    Arguments,
    /// Attributes or file actions that were not initialised by this library.
    ForeignRecord,
    /// Anything else.
    Other,
}

const REASONS: [(Reason, &str); 13] = [
    (Reason::Unsupported, "unsupported"),
    (Reason::NotElf, "not-elf"),
    (Reason::NotFound, "not-found"),
    (Reason::RelativePath, "relative-path"),
    (Reason::ProcPath, "proc-path"),
    (Reason::Search, "search"),
    (Reason::TooManyActions, "too-many-actions"),
    (Reason::Seccomp, "seccomp"),
    (Reason::Changing, "changing"),
    (Reason::Descriptors, "descriptors"),
    (Reason::Arguments, "arguments"),
    (Reason::ForeignRecord, "foreign-record"),
    (Reason::Other, "other"),
];

/// Where to write, a C string; null for nowhere.
static FILE: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// The process that is counted; a forked one begins anew.
static OWNER: AtomicU32 = AtomicU32::new(0);

static TEMPLATES: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static FALLBACKS: [AtomicU64; REASONS.len()] = [const { AtomicU64::new(0) }; REASONS.len()];

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// Runs when the process exits, after the functions given to `atexit(3)`.
#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

extern "C" fn start() {
    real::look_up();
    // SAFETY: a plain number.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // SAFETY: a C string.
    let name = unsafe { libc::getenv(c"SPAWN_TEMPLATE_STATS".as_ptr()) };
    // A program with more rights than its caller must not write where that one says.
    if secure || name.is_null() {
        return;
    }
    // The program may change its environment. Without memory nothing is counted.
    // SAFETY: a C string, which nobody changes yet.
    FILE.store(unsafe { libc::strdup(name) }, Ordering::Relaxed);
}

extern "C" fn finish() {
    let file = FILE.load(Ordering::Relaxed);
    if file.is_null() || OWNER.load(Ordering::Relaxed) != os::pid() {
        return;
    }
    // SAFETY: the copy made in `start`, which is never freed.
    let file = unsafe { CStr::from_ptr(file) };
    let mut line = Line { text: [0; 1024], len: 0 };
    // There is room for all of it.
    let _ = line.fill();
    let result = os::open(file, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND).and_then(|fd| {
        // One write, so that lines of several processes do not mix.
        let result = os::write(fd, line.bytes());
        os::close(fd);
        result
    });
    if let Err(error) = result {
        let mut message = Line { text: [0; 1024], len: 0 };
        let name = file.to_string_lossy();
        let _ = fmt::write(&mut message, format_args!("libspawn_template_preload.so: cannot write {name}: {error}\n"));
        let _ = os::write(libc::STDERR_FILENO, message.bytes());
    }
}

/// One text of bounded length.
struct Line {
    text: [u8; 1024],
    len: usize,
}

impl Line {
    fn bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    fn fill(&mut self) -> fmt::Result {
        use fmt::Write as _;

        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(self, "{{\"pid\":{},\"program\":\"", os::pid())?;
        let mut name = [0_u8; 16];
        // SAFETY: room for the 16 bytes that a name has at most, with its NUL.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        for &byte in name.iter().take_while(|&&byte| byte != 0) {
            let plain = byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            self.write_char(if plain { byte.into() } else { '?' })?;
        }
        write!(self, "\",\"templates\":{},\"failed\":{},\"fallbacks\":{{", load(&TEMPLATES), load(&FAILED))?;
        let mut separator = "";
        for ((_, name), counter) in REASONS.iter().zip(&FALLBACKS) {
            if load(counter) != 0 {
                write!(self, "{separator}\"{name}\":{}", load(counter))?;
                separator = ",";
            }
        }
        self.write_str("}}\n")
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut room = self.text.get_mut(self.len..).unwrap_or_default();
        let before = room.len();
        let result = room.write_all(text.as_bytes());
        self.len += before - room.len();
        result.map_err(|_| fmt::Error)
    }
}

/// A process was started from a template.
pub(crate) fn template() {
    count(&TEMPLATES);
}

/// A template was used, and told why there is no process.
pub(crate) fn failed() {
    count(&FAILED);
}

/// The C library was called.
pub(crate) fn fallback(reason: Reason) {
    let counters = REASONS.iter().zip(&FALLBACKS);
    counters.filter(|((known, _), _)| *known == reason).for_each(|(_, counter)| count(counter));
}

fn count(counter: &AtomicU64) {
    if FILE.load(Ordering::Relaxed).is_null() {
        return;
    }
    let this = os::pid();
    if OWNER.swap(this, Ordering::Relaxed) != this {
        [&TEMPLATES, &FAILED].into_iter().chain(&FALLBACKS).for_each(|counter| counter.store(0, Ordering::Relaxed));
    }
    counter.fetch_add(1, Ordering::Relaxed);
}
