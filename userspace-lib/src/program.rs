//! What a command starts, and by which way.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use libc::c_int;

use crate::fork_exec;
use crate::plan::Plan;
use crate::raw::{Failure, Request, Stage, Started};
use crate::search;
use crate::uapi::spawn_template_action;
use crate::{Call, Command, Error, InvalidInput, Mode, Reason, Template, Via, cache};

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
                unsafe { template.start(request, hooks) }.map_err(Trouble::Failure)
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
    let fork = |candidates: &[CString], reason| {
        let program = fork_exec::Program::Paths(candidates);
        // SAFETY: the request comes from a plan, which owns or borrows all that its addresses lead to.
        let started = unsafe { fork_exec::spawn(program, request, command.hooks()) }?;
        Ok((started, Via::ForkExec(reason)))
    };
    if mode == Mode::ForkExec {
        return fork(&candidates, Reason::Requested);
    }
    if !command.hooks().is_empty() {
        if mode == Mode::Template {
            return Err(Trouble::Error(InvalidInput::PreExec.into()));
        }
        return fork(&candidates, Reason::PreExec);
    }
    let relative = command.changes_directory() && candidates.iter().any(search::is_relative);
    let absolute = if relative { None } else { candidates.iter().map(search::absolute).collect::<Option<Vec<_>>>() };
    let Some(absolute) = absolute else {
        if mode == Mode::Template {
            return Err(Trouble::Error(InvalidInput::RelativePath.into()));
        }
        return fork(&candidates, Reason::RelativePath);
    };

    // As posix_spawnp(3): go on while there is no such file, and prefer "permission denied" to that.
    let mut failure = Failure::new(Stage::Exec, libc::ENOENT);
    for path in &absolute {
        let alone = std::slice::from_ref(path);
        let started = cache::with_mode(path, mode, |template| {
            // SAFETY: the request comes from a plan, which owns or borrows all that its addresses lead to.
            unsafe { template.start(request, &[]) }
        });
        let error = match started {
            Ok(Ok(started)) => return Ok(started),
            Ok(Err(failure)) if mode == Mode::Auto && failure == Failure::new(Stage::Identity, libc::ESTALE) => {
                return fork(alone, Reason::Changing);
            }
            Ok(Err(failure)) => return Err(failure.into()),
            Err(Error::Os { call: Call::Create | Call::Executable, error }) => errno_of(&error),
            Err(error) => return Err(Trouble::Error(error)),
        };
        match error {
            libc::ENOEXEC if mode == Mode::Auto => return fork(alone, Reason::NotElf),
            libc::ENOSYS => return Err(Failure { stage: None, action: None, error }.into()),
            libc::EACCES => failure = Failure::new(Stage::Exec, error),
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            error => return Err(Failure::new(Stage::Exec, error).into()),
        }
    }
    Err(failure.into())
}

/// The `errno` of an error; `EIO` for one that has none.
fn errno_of(error: &io::Error) -> c_int {
    error.raw_os_error().unwrap_or(libc::EIO)
}
