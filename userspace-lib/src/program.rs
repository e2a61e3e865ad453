//! What a command starts, and by which way.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::c_int;

use crate::fork_exec;
use crate::plan::Plan;
use crate::raw::{Failure, Request, Stage, Started};
use crate::search;
use crate::uapi::{SPAWN_TEMPLATE_ACTION_OPEN, spawn_template_action, spawn_template_open};
use crate::{Call, Command, Error, InvalidInput, Kernel, Mode, Reason, Template, Via, cache};

/// The program of a [`Command`]: a template, or a name or path. Only there to be made from those.
#[derive(Debug, Clone)]
pub struct Program(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Template(Template),
    Named(OsString),
}

impl From<&Template> for Program {
    fn from(template: &Template) -> Self {
        Program(Kind::Template(template.clone()))
    }
}

impl<S: AsRef<OsStr>> From<S> for Program {
    fn from(name: S) -> Self {
        Program(Kind::Named(name.as_ref().to_owned()))
    }
}

impl Program {
    pub(crate) fn name(&self) -> &OsStr {
        match &self.0 {
            Kind::Template(template) => OsStr::from_bytes(template.arg0().to_bytes()),
            Kind::Named(name) => name,
        }
    }

    pub(crate) fn arg0(&self) -> Result<CString, InvalidInput> {
        CString::new(self.name().as_bytes()).map_err(|_| InvalidInput::NulInPath)
    }

    /// Starts it.
    pub(crate) fn start(
        &self,
        command: &Command<'_>,
        plan: &Plan<'_>,
        mut actions: Vec<spawn_template_action>,
    ) -> Result<(Started, Via), Error> {
        let result = self.start_once(command, &plan.request(&actions));
        match result {
            Err(Trouble::Failure(failure)) if plan.may_fail(failure.action, failure.error) => {
                plan.without_optional(&mut actions);
                let result = self.start_once(command, &plan.request(&actions));
                result.map_err(|trouble| self.error(trouble, |action| plan.step(plan.index_with_optional(action))))
            }
            result => result.map_err(|trouble| self.error(trouble, |action| plan.step(action))),
        }
    }

    fn start_once(&self, command: &Command<'_>, request: &Request<'_>) -> Result<(Started, Via), Trouble> {
        match &self.0 {
            Kind::Template(template) => {
                let hooks = command.hooks();
                let possible = hooks.is_empty() || (template.can_be_executed() && may_fork(command));
                if !possible {
                    return Err(Trouble::Error(InvalidInput::PreExec.into()));
                }
                // SAFETY: the request comes from a plan, which owns or borrows all that its addresses lead to.
                unsafe { template.start(request, hooks, may_fork(command)) }.map_err(Trouble::Failure)
            }
            Kind::Named(name) => start_named(name, command, request),
        }
    }

    /// Runs it in this process. Returns only the error.
    pub(crate) fn exec(
        &self,
        command: &Command<'_>,
        plan: &Plan<'_>,
        mut actions: Vec<spawn_template_action>,
    ) -> Error {
        let candidates = match &self.0 {
            Kind::Template(_) => Vec::new(),
            Kind::Named(name) => match search::candidates(name, command.search_path().as_deref()) {
                Ok(candidates) => candidates,
                Err(mistake) => return mistake.into(),
            },
        };
        let program = match &self.0 {
            Kind::Template(template) if !template.can_be_executed() => return InvalidInput::PreExec.into(),
            Kind::Template(template) => template.program(),
            Kind::Named(_) => fork_exec::Program::Paths(&candidates),
        };
        // SAFETY: the request comes from a plan, which owns or borrows all that its addresses lead to.
        let failure = unsafe { fork_exec::exec(program, &plan.request(&actions), command.hooks()) };
        if plan.may_fail(failure.action, failure.error) {
            plan.without_optional(&mut actions);
            // SAFETY: as above.
            let failure = unsafe { fork_exec::exec(program, &plan.request(&actions), command.hooks()) };
            return self.error(failure.into(), |action| plan.step(plan.index_with_optional(action)));
        }
        self.error(failure.into(), |action| plan.step(action))
    }

    fn error(&self, trouble: Trouble, step: impl Fn(usize) -> crate::Step) -> Error {
        match trouble {
            Trouble::Error(error) => error,
            Trouble::Failure(failure) => Error::Spawn {
                program: self.name().to_owned(),
                stage: failure.stage,
                step: failure.action.map(step),
                error: failure.os_error(),
            },
        }
    }
}

/// Why a process could not be started.
enum Trouble {
    Failure(Failure),
    Error(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failure(failure)
    }
}

/// Whether fork and exec may be used instead of a template.
fn may_fork(command: &Command<'_>) -> bool {
    command.mode.effective() != Mode::Template
}

/// Starts a program that is given as a name or a path.
fn start_named(name: &OsStr, command: &Command<'_>, request: &Request<'_>) -> Result<(Started, Via), Trouble> {
    let path = command.search_path();
    let candidates = search::candidates(name, path.as_deref()).map_err(|mistake| Trouble::Error(mistake.into()))?;
    let mode = command.mode.effective();
    if mode == Mode::ForkExec {
        return fork(&candidates, command, request, Reason::Requested);
    }
    let relative = command.changes_directory() && candidates.iter().any(search::is_relative);
    let instead = if !command.hooks().is_empty() {
        Some((Reason::PreExec, Trouble::Error(InvalidInput::PreExec.into())))
    } else if relative {
        Some((Reason::RelativePath, Trouble::Error(InvalidInput::RelativePath.into())))
    } else if Kernel::get().is_none_or(|kernel| !kernel.can_spawn(request.flags, request.actions)) {
        Some((Reason::Unsupported, Failure::MISSING.into()))
    } else if mode == Mode::Auto && request.actions.iter().any(is_exclusive) && is_filtered() {
        // The filter may refuse only when the file has been made.
        Some((Reason::Seccomp, Failure::MISSING.into()))
    } else {
        None
    };
    match instead {
        Some((reason, _)) if mode == Mode::Auto => fork(&candidates, command, request, reason),
        Some((_, trouble)) => Err(trouble),
        None => search_by_template(&candidates, command, request),
    }
}

/// Starts the first of these paths that can be executed, by fork and exec.
fn fork(
    candidates: &[CString],
    command: &Command<'_>,
    request: &Request<'_>,
    reason: Reason,
) -> Result<(Started, Via), Trouble> {
    let program = fork_exec::Program::Paths(candidates);
    // SAFETY: the request comes from a plan, which owns or borrows all that its addresses lead to.
    let started = unsafe { fork_exec::spawn(program, request, command.hooks()) }?;
    Ok((started, Via::ForkExec(reason)))
}

/// What comes of one place where the program may be.
enum Verdict {
    End(Result<(Started, Via), Trouble>),
    /// It is not there, or cannot be executed: the search goes on.
    Next(c_int),
    /// Fork and exec go on from here; if they may not be used, this is the error.
    Fork(Reason, Trouble),
}

/// Goes on as `posix_spawnp(3)` while there is no such file, and prefers "permission denied" to that.
fn search_by_template(
    candidates: &[CString],
    command: &Command<'_>,
    request: &Request<'_>,
) -> Result<(Started, Via), Trouble> {
    let mut error = libc::ENOENT;
    let mut denied = false;
    for (index, candidate) in candidates.iter().enumerate() {
        let is_last = index + 1 == candidates.len();
        let (reason, trouble) = match try_template(candidate, command, request, is_last) {
            Verdict::End(result) => return result,
            Verdict::Next(errno) => {
                error = errno;
                denied |= errno == libc::EACCES;
                continue;
            }
            Verdict::Fork(reason, trouble) => (reason, trouble),
        };
        if !may_fork(command) {
            return Err(trouble);
        }
        let result = fork(candidates.get(index..).unwrap_or_default(), command, request, reason);
        return match result {
            Err(Trouble::Failure(failure))
                if denied && failure.stage == Some(Stage::Exec) && is_elsewhere(failure.error) =>
            {
                Err(Failure::new(Stage::Exec, libc::EACCES).into())
            }
            result => result,
        };
    }
    Err(Failure::new(Stage::Exec, if denied { libc::EACCES } else { error }).into())
}

/// Tries to start what is at one path.
fn try_template(candidate: &CString, command: &Command<'_>, request: &Request<'_>, is_last: bool) -> Verdict {
    let mode = command.mode.effective();
    let path = match search::absolute(candidate) {
        Ok(Some(path)) => path,
        Ok(None) => return Verdict::Fork(Reason::RelativePath, Trouble::Error(InvalidInput::RelativePath.into())),
        Err(errno) if is_elsewhere(errno) => return Verdict::Next(errno),
        Err(errno) => return Verdict::Fork(Reason::RelativePath, Failure::new(Stage::Exec, errno).into()),
    };
    if mode == Mode::Auto && search::is_of_the_process(&path) {
        return Verdict::Fork(Reason::ProcPath, Failure::MISSING.into());
    }
    let opens = request.actions.iter().any(|action| action.type_ == SPAWN_TEMPLATE_ACTION_OPEN);
    let mut search_goes_on = false;
    let fresh = request.actions.iter().any(is_exclusive);
    let started = cache::with_mode(&path, mode, fresh, |template| {
        // What the child opens it opens once, as with posix_spawnp(3), where only exec is tried again.
        if mode == Mode::Auto && opens && !is_last && !template.has_its_interpreter() {
            search_goes_on = true;
            return Err(Failure::MISSING);
        }
        // SAFETY: the request comes from a plan, which owns or borrows all that its addresses lead to.
        unsafe { template.start(request, &[], false) }
    });
    let failure = match started {
        Ok(Ok(started)) => return Verdict::End(Ok(started)),
        Ok(Err(failure)) => failure,
        Err(Error::Os { call: call @ (Call::Create | Call::Executable | Call::Fdinfo), error }) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            return match errno {
                // Executed anyway, so that what remains is tried too.
                libc::ENOEXEC => Verdict::Fork(Reason::NotElf, Failure::new(Stage::Exec, errno).into()),
                libc::EMFILE | libc::ENFILE => {
                    Verdict::Fork(Reason::Descriptors, Failure::new(Stage::Exec, errno).into())
                }
                libc::ENOSYS => Verdict::Fork(Reason::Unsupported, Failure::MISSING.into()),
                // An answer of the kernel about the file is not believed: it may be a filter's.
                errno if is_elsewhere(errno) && (call == Call::Executable || mode == Mode::Template) => {
                    Verdict::Next(errno)
                }
                errno => Verdict::Fork(Reason::Unsupported, Failure::new(Stage::Exec, errno).into()),
            };
        }
        Err(error) => return Verdict::End(Err(Trouble::Error(error))),
    };
    if search_goes_on {
        return Verdict::Fork(Reason::Search, failure.into());
    }
    match (failure.stage, failure.action, failure.error) {
        // Nothing was started that could hold a template.
        (Some(Stage::Arguments), None, libc::EMFILE | libc::ENFILE) => {
            cache::clear();
            Verdict::Fork(Reason::Descriptors, failure.into())
        }
        (Some(Stage::Arguments), None, libc::EBADF) => Verdict::Fork(Reason::Descriptors, failure.into()),
        (Some(Stage::Identity), None, libc::ESTALE) => Verdict::Fork(Reason::Changing, failure.into()),
        // A new template is this process's own, so it was a filter.
        (Some(Stage::Identity), None, libc::EACCES) => Verdict::Fork(Reason::Seccomp, failure.into()),
        (Some(Stage::Exec), None, errno) if is_elsewhere(errno) && (is_last || !opens) => Verdict::Next(errno),
        _ => match failure.falls_back() {
            Some(reason) => Verdict::Fork(reason, failure.into()),
            None => Verdict::End(Err(failure.into())),
        },
    }
}

/// Whether `posix_spawnp(3)` goes on with the next folder.
fn is_elsewhere(errno: c_int) -> bool {
    matches!(errno, libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT)
}

/// Whether the action makes a file that must not be there, and so cannot be done twice.
fn is_exclusive(action: &spawn_template_action) -> bool {
    if action.type_ != SPAWN_TEMPLATE_ACTION_OPEN {
        return false;
    }
    let exclusive = (libc::O_CREAT | libc::O_EXCL) as u64;
    // SAFETY: the plan that made the action owns what it leads to.
    let open = unsafe { &*ptr::with_exposed_provenance::<spawn_template_open>(action.arg as usize) };
    open.how.flags & exclusive == exclusive
}

/// Whether the calling thread has a seccomp filter, as far as that can be asked.
fn is_filtered() -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) != 0 }
}
