//! `posix_spawn`, `posix_spawnp`, `pidfd_spawn`, `pidfd_spawnp`.

use std::ffi::CStr;
use std::ptr;

use libc::{c_char, c_int, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use spawn_template::uapi::*;
use spawn_template::{Kernel, proof, sys};

use crate::attributes::Attributes;
use crate::cache::{self, Lease, Missing};
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
    let Some(kernel) = Kernel::get() else { return Outcome::FallBack(Reason::Unsupported) };
    // A filter may refuse a step only when an earlier one has made the file.
    if request::is_exclusive(steps) && os::is_filtered() {
        return Outcome::FallBack(Reason::Seccomp);
    }
    let search = |actions: &[spawn_template_action]| {
        let task = Task { call, actions, steps };
        if kernel.can_spawn(task.flags(), actions) { task.search(name) } else { Outcome::FallBack(Reason::Unsupported) }
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
            return match self.candidate(&mut buffer, b"", bytes, true) {
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
        let mut folders = path.split(|&byte| byte == b':').peekable();
        while let Some(folder) = folders.next() {
            let is_last = folders.peek().is_none();
            if let Verdict::End(outcome) = self.candidate(&mut buffer, folder, bytes, is_last) {
                return outcome;
            }
        }
        Outcome::FallBack(Reason::NotFound)
    }

    /// The program `name` in this folder, of which an empty one is none.
    fn candidate(&self, buffer: &mut [u8], folder: &[u8], name: &[u8], is_last: bool) -> Verdict {
        let is_relative = folder.first().or(name.first()) != Some(&b'/');
        let mut length = 0;
        if is_relative {
            if request::changes_directory(self.steps) {
                return Reason::RelativePath.into();
            }
            match os::working_directory(buffer) {
                Some(end) => length = end,
                None => return Reason::RelativePath.into(),
            }
        }
        let separator = |wanted| if wanted { &b"/"[..] } else { b"" };
        let mut start = 0;
        for part in [separator(is_relative), folder, separator(!folder.is_empty()), name, b"\0"] {
            let Some(room) = buffer.get_mut(length..).and_then(|room| room.get_mut(..part.len())) else {
                // Too long for an absolute path, which a relative one need not be.
                return Reason::RelativePath.into();
            };
            room.copy_from_slice(part);
            length += part.len();
            if start == 0 && is_relative {
                start = length;
            }
        }
        let Ok(path) = CStr::from_bytes_until_nul(buffer) else { return Reason::Other.into() };
        if is_relative {
            let relative = buffer.get(start..).and_then(|rest| CStr::from_bytes_until_nul(rest).ok());
            match relative.map(|relative| os::are_same(relative, path)) {
                Some(Ok(true)) => {}
                Some(Err(errno)) if is_elsewhere(errno) => return Verdict::Next,
                // The way from the root leads elsewhere, or is barred.
                _ => return Reason::RelativePath.into(),
            }
        }
        if is_of_the_process(path) {
            return Reason::ProcPath.into();
        }
        self.start(path, is_last)
    }

    /// The program at this absolute path.
    fn start(&self, path: &CStr, is_last: bool) -> Verdict {
        let opens = self.steps.iter().any(|step| matches!(step, Step::Open(..)));
        // With a kept template it shows only after the actions that the executable has changed.
        let mut fresh = request::is_exclusive(self.steps);
        for _ in 0..ATTEMPTS {
            let lease = match cache::lease(path, fresh) {
                Ok(lease) => lease,
                Err(Missing::File(errno)) if is_elsewhere(errno) => return Verdict::Next,
                // What the kernel answers about the file is not believed: it may be a filter's answer.
                Err(Missing::File(errno) | Missing::Template(errno)) => return no_template(errno, path).into(),
            };
            // Files are opened once, and then all folders are tried: the C library does that.
            if opens && !is_last && !has_its_interpreter(&lease) {
                return Reason::Search.into();
            }
            let failure = match self.spawn(&lease) {
                Ok(started) => return Verdict::End(Outcome::Started(started)),
                Err(failure) => failure,
            };
            match (failure.stage, failure.error) {
                // The program has closed the descriptor, or this thread never had it.
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, libc::EBADF) if failure.action < 0 => {}
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, libc::EMFILE | libc::ENFILE) => {
                    // For the C library.
                    drop(lease);
                    cache::give_way();
                    return Reason::Descriptors.into();
                }
                (SPAWN_TEMPLATE_STAGE_ARGUMENTS, _) => return Reason::Arguments.into(),
                (SPAWN_TEMPLATE_STAGE_IDENTITY, libc::ESTALE | libc::EACCES) if failure.action < 0 => {}
                (SPAWN_TEMPLATE_STAGE_IDENTITY, _) => return Reason::Seccomp.into(),
                (SPAWN_TEMPLATE_STAGE_EXEC, errno)
                    if self.call.search && is_elsewhere(errno) && (is_last || !opens) =>
                {
                    return Verdict::Next;
                }
                (SPAWN_TEMPLATE_STAGE_CREATE | SPAWN_TEMPLATE_STAGE_ACTION | SPAWN_TEMPLATE_STAGE_EXEC, errno) => {
                    return Verdict::End(Outcome::Failed(errno));
                }
                // The kernel did not get as far as to write the result.
                _ => return Reason::Unsupported.into(),
            }
            fresh = true;
        }
        Reason::Changing.into()
    }

    /// How to start it.
    fn flags(&self) -> u64 {
        let pidfd = if self.call.pidfd { 0 } else { SPAWN_TEMPLATE_SPAWN_NO_PIDFD };
        u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS | pidfd) | proof::CHECK_ID
    }

    /// *spawn_template_spawn*
    fn spawn(&self, template: &Lease) -> Result<Started, spawn_template_result> {
        let mut pidfd: c_int = -1;
        let mut result = spawn_template_result { stage: u32::MAX, action: -1, ..Default::default() };
        let actions = if self.actions.is_empty() { ptr::null() } else { self.actions.as_ptr() };
        let args = spawn_template_spawn_args {
            flags: self.flags(),
            template_id: template.identity().id(),
            pidfd: if self.call.pidfd { address(&raw mut pidfd) } else { 0 },
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
            // A filter can answer with a number as well, but then nothing has been written.
            Ok(pid) if pid <= 0 || result.stage != SPAWN_TEMPLATE_STAGE_NONE => {
                Err(spawn_template_result { error: libc::ENOSYS, ..result })
            }
            Ok(_) if self.call.pidfd => Ok(Started::Pidfd(pidfd)),
            Ok(pid) => Ok(Started::Id(pid)),
            Err(error) => Err(spawn_template_result { error: os::errno_of(&error), ..result }),
        }
    }
}

/// What it means that there is no template of what this process may execute, or search if it is a folder.
fn no_template(errno: c_int, path: &CStr) -> Reason {
    match errno {
        libc::ENOEXEC => Reason::NotElf,
        libc::EMFILE | libc::ENFILE => Reason::Descriptors,
        libc::EACCES if !os::is_file(path) => Reason::NotFound,
        libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::EBADF | libc::EFAULT | libc::EOPNOTSUPP => {
            Reason::Unsupported
        }
        // It was there a moment ago, so this is a filter's answer.
        errno if is_elsewhere(errno) => Reason::Unsupported,
        _ => Reason::Other,
    }
}

/// Whether the program has no ELF interpreter, or one that this process may execute.
fn has_its_interpreter(lease: &Lease) -> bool {
    let mut buffer = [0; libc::PATH_MAX as usize];
    match proof::interpreter(lease.fd(), &mut buffer) {
        Ok(Some(name)) => name.to_bytes().first() == Some(&b'/') && os::access(name).is_ok(),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Whether the path may lead to another file for another process.
fn is_of_the_process(path: &CStr) -> bool {
    const PREFIXES: [&[u8]; 3] = [b"/proc/", b"/dev/fd/", b"/dev/std"];
    // Which is the caller's program for the child as well, until it executes another.
    path != c"/proc/self/exe" && PREFIXES.iter().any(|prefix| path.to_bytes().starts_with(prefix))
}

/// Whether `posix_spawnp(3)` goes on with the next folder.
fn is_elsewhere(errno: c_int) -> bool {
    matches!(errno, libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT)
}
