//! `posix_spawn`, `posix_spawnp`, `pidfd_spawn`, `pidfd_spawnp`.

use std::ffi::CStr;
use std::ptr;

use libc::{c_char, c_int, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use spawn_template::sys;
use spawn_template::uapi::*;

use crate::attributes::Attributes;
use crate::cache::{self, Lease};
use crate::file_actions::{Record, Step};
use crate::os::{self, SavedErrno};
use crate::real::{self, RealActions, RealAttributes, Spawn, Symbol};
use crate::request::{self, address};
use crate::stats::{self, Reason};

/// Where a program is looked for when there is no `PATH`, as in the C library.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// How often a spawn is tried: again once, with a new template, when the first was of no use.
const ATTEMPTS: u32 = 2;

/// The arguments of one of the four functions.
struct Call {
    out: *mut c_int,
    name: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attr: *const posix_spawnattr_t,
    argv: *const *mut c_char,
    envp: *const *mut c_char,
    /// Whether to look for the program in `PATH`.
    search: bool,
    /// Whether the caller wants a pidfd, not a process id.
    pidfd: bool,
    /// The function of the C library.
    real: &'static Symbol<Spawn>,
}

/// One of the four functions: where it looks for the program, in `PATH` or not, and what it stores for the caller.
macro_rules! spawner {
    ($name:ident, $manual:literal, search: $search:literal, pidfd: $pidfd:literal) => {
        #[doc = $manual]
        ///
        /// # Safety
        ///
        /// As in C: every pointer must be what the manual page says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            out: *mut c_int,
            name: *const c_char,
            actions: *const posix_spawn_file_actions_t,
            attr: *const posix_spawnattr_t,
            argv: *const *mut c_char,
            envp: *const *mut c_char,
        ) -> c_int {
            let real = &real::$name;
            let call = Call { out, name, actions, attr, argv, envp, search: $search, pidfd: $pidfd, real };
            // SAFETY: the caller's arguments.
            unsafe { run(&call) }
        }
    };
}

spawner!(posix_spawn, "`posix_spawn(3)`", search: false, pidfd: false);
spawner!(posix_spawnp, "`posix_spawnp(3)`", search: true, pidfd: false);
spawner!(pidfd_spawn, "`pidfd_spawn(3)`, an extension of glibc 2.39", search: false, pidfd: true);
spawner!(pidfd_spawnp, "`pidfd_spawnp(3)`, an extension of glibc 2.39", search: true, pidfd: true);

/// A process, as its caller wants to know it.
enum Started {
    Id(pid_t),
    Pidfd(c_int),
}

/// How a spawn from a template ended.
enum Outcome {
    Started(Started),
    /// POSIX wants this errno; there is no process.
    Failed(c_int),
    /// Nothing that counts has happened, and the C library is to decide.
    FallBack(Reason),
}

/// # Safety
///
/// As the four functions.
unsafe fn run(call: &Call) -> c_int {
    let _errno = SavedErrno::new();
    // SAFETY: the caller's arguments.
    match unsafe { from_template(call) } {
        Outcome::Started(started) => {
            stats::template();
            match started {
                // SAFETY: the caller's room for it.
                Started::Id(number) | Started::Pidfd(number) if !call.out.is_null() => unsafe {
                    call.out.write(number)
                },
                Started::Pidfd(pidfd) => os::close(pidfd),
                Started::Id(_) => {}
            }
            0
        }
        Outcome::Failed(errno) => {
            stats::failed();
            errno
        }
        Outcome::FallBack(reason) => {
            stats::fallback(reason);
            // SAFETY: the caller's arguments.
            unsafe { from_c_library(call) }.unwrap_or_else(|errno| errno)
        }
    }
}

/// # Safety
///
/// As the four functions.
unsafe fn from_c_library(call: &Call) -> Result<c_int, c_int> {
    let real = call.real.get()?;
    // SAFETY: the caller's record, which does not change meanwhile.
    let attributes = unsafe { Attributes::of(call.attr) }.map(RealAttributes::new).transpose()?;
    // SAFETY: the caller's record, which does not change meanwhile.
    let actions = unsafe { Record::of(call.actions) }.map(|ours| RealActions::new(ours.steps())).transpose()?;
    let attr = attributes.as_ref().map_or(call.attr, RealAttributes::as_ptr);
    let actions_ptr = actions.as_ref().map_or(call.actions, RealActions::as_ptr);
    // SAFETY: the caller's arguments, with records of the C library.
    Ok(unsafe { real(call.out, call.name, actions_ptr, attr, call.argv, call.envp) })
}

/// # Safety
///
/// As the four functions.
unsafe fn from_template(call: &Call) -> Outcome {
    if call.name.is_null() {
        return Outcome::FallBack(Reason::Arguments);
    }
    // SAFETY: the caller's C string.
    let name = unsafe { CStr::from_ptr(call.name) };
    // SAFETY: null or the caller's record, which does not change meanwhile.
    let attributes = unsafe { Attributes::of(call.attr) };
    // SAFETY: likewise.
    let record = unsafe { Record::of(call.actions) };
    if attributes.is_none() && !call.attr.is_null() || record.is_none() && !call.actions.is_null() {
        return Outcome::FallBack(Reason::ForeignRecord);
    }
    let steps = record.map_or(&[][..], Record::steps);
    let search = |actions: &[spawn_template_action]| {
        let task = Task { call, actions, steps };
        task.search(name)
    };
    request::with(attributes.unwrap_or(&Attributes::NEW), steps, search).unwrap_or_else(Outcome::FallBack)
}

/// A call with its actions.
struct Task<'a> {
    call: &'a Call,
    actions: &'a [spawn_template_action],
    steps: &'a [Step],
}

/// What comes of one place where the program may be.
enum Verdict {
    End(Outcome),
    /// It is not there, or may not be executed.
    Next,
}

impl From<Reason> for Verdict {
    fn from(reason: Reason) -> Self {
        Verdict::End(Outcome::FallBack(reason))
    }
}

impl Task<'_> {
    /// Starts the first program of this name that can be executed.
    ///
    /// That none can is for the C library to find out: whether it is an action that fails first, what effects those have
    /// until then, and which errno it is.
    fn search(&self, name: &CStr) -> Outcome {
        let bytes = name.to_bytes();
        if bytes.is_empty() {
            return Outcome::FallBack(Reason::NotFound);
        }
        let mut buffer = [0; libc::PATH_MAX as usize];
        if !self.call.search || bytes.contains(&b'/') {
            return match self.candidate(&mut buffer, b"", bytes) {
                Verdict::End(outcome) => outcome,
                Verdict::Next => Outcome::FallBack(Reason::NotFound),
            };
        }
        // SAFETY: a C string.
        let path = unsafe { libc::getenv(c"PATH".as_ptr()) };
        let path = if path.is_null() {
            DEFAULT_PATH
        } else {
            // SAFETY: a C string of the environment, which must not be changed by other threads meanwhile; the C
            // library relies on that too.
            unsafe { CStr::from_ptr(path) }.to_bytes()
        };
        for folder in path.split(|&byte| byte == b':') {
            if let Verdict::End(outcome) = self.candidate(&mut buffer, folder, bytes) {
                return outcome;
            }
        }
        Outcome::FallBack(Reason::NotFound)
    }

    /// The program `name` in this folder, of which an empty one is none.
    fn candidate(&self, buffer: &mut [u8], folder: &[u8], name: &[u8]) -> Verdict {
        let relative = folder.first().or(name.first()) != Some(&b'/');
        let mut length = 0;
        if relative {
            if request::changes_directory(self.steps) {
                return Reason::RelativePath.into();
            }
            match os::working_directory(buffer) {
                Some(end) => length = end,
                None => return Reason::RelativePath.into(),
            }
        }
        let separator = |wanted| if wanted { &b"/"[..] } else { b"" };
        for part in [separator(relative), folder, separator(!folder.is_empty()), name, b"\0"] {
            let Some(room) = buffer.get_mut(length..).and_then(|room| room.get_mut(..part.len())) else {
                return Reason::Other.into();
            };
            room.copy_from_slice(part);
            length += part.len();
        }
        match CStr::from_bytes_until_nul(buffer) {
            Ok(path) => self.start(path, relative),
            Err(_) => Reason::Other.into(),
        }
    }

    /// The program at this absolute path.
    fn start(&self, path: &CStr, relative: bool) -> Verdict {
        // With a kept template it shows only after the actions that the executable has changed.
        let fresh = request::is_exclusive(self.steps);
        for _ in 0..ATTEMPTS {
            let lease = match cache::lease(path, fresh) {
                Ok(lease) => lease,
                Err(errno) => return no_template(errno, relative),
            };
            let failure = match self.spawn(&lease) {
                Ok(started) => return Verdict::End(Outcome::Started(started)),
                Err(failure) => failure,
            };
            match (failure.stage, failure.error) {
                // The kernel does not know the flags.
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, libc::EINVAL) if failure.action < 0 && lease.is_template(path) => {
                    return Reason::Unsupported.into();
                }
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, libc::EBADF | libc::EINVAL) if failure.action < 0 => lease.mark_lost(),
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, libc::EMFILE | libc::ENFILE) => return Reason::Descriptors.into(),
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, _) => return Reason::Arguments.into(),
                (SPAWN_TEMPLATE_STAGE_IDENTITY, libc::ESTALE | libc::EACCES) if failure.action < 0 => {
                    lease.mark_stale()
                }
                (SPAWN_TEMPLATE_STAGE_IDENTITY, _) => return Reason::Seccomp.into(),
                (SPAWN_TEMPLATE_STAGE_EXEC, errno) if self.call.search && is_elsewhere(errno) => return Verdict::Next,
                (SPAWN_TEMPLATE_STAGE_CREATE | SPAWN_TEMPLATE_STAGE_ACTION | SPAWN_TEMPLATE_STAGE_EXEC, errno) => {
                    return Verdict::End(Outcome::Failed(errno));
                }
                // The kernel did not get as far as to write the result.
                _ => return Reason::Unsupported.into(),
            }
        }
        Reason::Changing.into()
    }

    /// *spawn_template_spawn*
    fn spawn(&self, template: &Lease) -> Result<Started, spawn_template_result> {
        let mut pidfd: c_int = -1;
        let mut result = spawn_template_result { action: -1, ..Default::default() };
        let actions = if self.actions.is_empty() { ptr::null() } else { self.actions.as_ptr() };
        let (kind, place) =
            if self.call.pidfd { (0, address(&raw mut pidfd)) } else { (SPAWN_TEMPLATE_SPAWN_NO_PIDFD, 0) };
        let args = spawn_template_spawn_args {
            flags: u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS | kind),
            pidfd: place,
            argv: address(self.call.argv),
            envp: address(self.call.envp),
            actions: address(actions),
            actions_len: self.actions.len() as u64,
            result: address(&raw mut result),
            result_size: size_of_val(&result) as u64,
            ..Default::default()
        };
        // SAFETY: `pidfd` and `result` may be written to; the kernel only reads the caller's vectors.
        match unsafe { sys::spawn_template_spawn(template.fd(), &args, size_of_val(&args)) } {
            Ok(_) if self.call.pidfd => Ok(Started::Pidfd(pidfd)),
            Ok(pid) => Ok(Started::Id(pid)),
            Err(error) => Err(spawn_template_result { error: os::errno_of(&error), ..result }),
        }
    }
}

/// What it means that there is no template of a path.
fn no_template(errno: c_int, relative: bool) -> Verdict {
    match errno {
        libc::ENOSYS | libc::EPERM => Reason::Unsupported.into(),
        libc::ENOEXEC => Reason::NotElf.into(),
        libc::EMFILE | libc::ENFILE => Reason::Descriptors.into(),
        // The way from the root may be barred where the one from the working directory is not.
        libc::EACCES if relative => Reason::RelativePath.into(),
        errno if is_elsewhere(errno) => Verdict::Next,
        _ => Reason::Other.into(),
    }
}

/// Whether `posix_spawnp(3)` goes on with the next folder.
fn is_elsewhere(errno: c_int) -> bool {
    matches!(errno, libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT)
}
