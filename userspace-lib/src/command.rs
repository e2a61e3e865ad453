//! One way to start a template.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitStatus;

use libc::c_int;

use crate::action::Placed;
use crate::uapi::{
    SPAWN_TEMPLATE_ACTION_CLOSE, SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, SPAWN_TEMPLATE_ACTION_DUP2,
    SPAWN_TEMPLATE_ACTION_FCHDIR, SPAWN_TEMPLATE_ACTION_OPEN, SPAWN_TEMPLATE_ACTION_SIGDEFAULT,
    SPAWN_TEMPLATE_ACTION_SIGMASK, SPAWN_TEMPLATE_MAX_ACTIONS, SPAWN_TEMPLATE_SPAWN_INHERIT_FDS, open_how,
    spawn_template_action, spawn_template_open, spawn_template_sigset, spawn_template_spawn_args,
};
use crate::{Action, Call, Child, Error, Fd, InvalidInput, Open, SignalSet, Template, sys};

/// How to start a [`Template`]: arguments, environment and actions.
///
/// It can be used any number of times, also from several threads. `'a` is how long the template and the caller's
/// descriptors that actions name are borrowed.
///
/// A mistake, such as an argument with a NUL byte, is reported by [`spawn`](Self::spawn); the first one counts.
///
/// ```no_run
/// use std::fs::File;
///
/// use spawn_template::{Command, Template};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sort = Template::open("/usr/bin/sort")?;
/// let input = File::open("/etc/passwd")?;
/// let output = File::create("/tmp/sorted")?;
/// let mut child = Command::new(&sort).arg("-r").env("LC_ALL", "C").dup2(&input, 0).dup2(&output, 1).spawn()?;
/// assert!(child.wait()?.success());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Command<'a> {
    template: BorrowedFd<'a>,
    /// With argument 0.
    args: Vec<CString>,
    /// Whether the child gets nothing of the caller's environment.
    env_clear: bool,
    /// By name: the whole `NAME=value`, or `None` for a variable that the child does not get.
    env: BTreeMap<OsString, Option<CString>>,
    steps: Vec<Step>,
    placed: Placed,
    inherit_fds: bool,
    mistake: Option<InvalidInput>,
}

/// An action in the kernel's form, `arg` aside, which points to the payload.
#[derive(Debug, Clone)]
struct Step {
    action: spawn_template_action,
    payload: Payload,
}

#[derive(Debug, Clone)]
enum Payload {
    None,
    Open { path: CString, how: open_how },
    Signals(u64),
}

impl<'a> Command<'a> {
    /// Starts `template` with its path as the only argument, with the caller's environment and without actions.
    pub fn new(template: &'a Template) -> Self {
        Command {
            template: template.as_fd(),
            args: vec![template.arg0().to_owned()],
            env_clear: false,
            env: BTreeMap::new(),
            steps: Vec::new(),
            placed: Placed::default(),
            inherit_fds: false,
            mistake: None,
        }
    }

    /// Sets argument 0, which is the path of the template otherwise.
    pub fn arg0(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        if let Some(arg) = self.argument(0, arg.as_ref()) {
            self.args[0] = arg;
        }
        self
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        if let Some(arg) = self.argument(self.args.len(), arg.as_ref()) {
            self.args.push(arg);
        }
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        for arg in args {
            self.arg(arg);
        }
        self
    }

    /// Sets an environment variable of the child.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let name = name.as_ref();
        match variable(name, value.as_ref()) {
            Ok(variable) => {
                self.env.insert(name.to_owned(), Some(variable));
            }
            Err(mistake) => self.mistaken(mistake),
        }
        self
    }

    /// Sets environment variables of the child.
    pub fn envs(&mut self, vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> &mut Self {
        for (name, value) in vars {
            self.env(name, value);
        }
        self
    }

    /// Takes a variable out of the child's environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Empties the child's environment: neither the caller's variables nor those set before.
    pub fn env_clear(&mut self) -> &mut Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// Whether the child starts from a copy of the caller's descriptor table, less what is close-on-exec, instead of from
    /// descriptors 0, 1 and 2 alone. False by default; true is the way of `fork(2)`, and costs more the more are open.
    pub fn inherit_fds(&mut self, inherit: bool) -> &mut Self {
        self.inherit_fds = inherit;
        self
    }

    /// Adds an action. The child performs them in order.
    pub fn action(&mut self, action: Action<'a>) -> &mut Self {
        if let Err(mistake) = self.push(action) {
            self.mistaken(mistake);
        }
        self
    }

    /// Closes a descriptor of the child: [`Action::Close`].
    pub fn close(&mut self, fd: RawFd) -> &mut Self {
        self.action(Action::Close(fd))
    }

    /// Makes `target` of the child a duplicate of `source`: [`Action::Dup2`].
    pub fn dup2(&mut self, source: impl Into<Fd<'a>>, target: RawFd) -> &mut Self {
        self.action(Action::Dup2 { source: source.into(), target, cloexec: false })
    }

    /// Changes the child's working directory: [`Action::Fchdir`].
    pub fn fchdir(&mut self, dir: impl Into<Fd<'a>>) -> &mut Self {
        self.action(Action::Fchdir(dir.into()))
    }

    /// Opens a file as `target` of the child: [`Action::Open`].
    pub fn open(&mut self, open: Open<'a>, target: RawFd) -> &mut Self {
        self.action(Action::Open { open, target })
    }

    /// Closes the child's descriptors from `first` to `last`, or all from `first` on: [`Action::CloseRange`].
    pub fn close_range(&mut self, first: RawFd, last: Option<RawFd>) -> &mut Self {
        self.action(Action::CloseRange { first, last, cloexec: false })
    }

    /// Sets the child's blocked signals: [`Action::Sigmask`].
    pub fn sigmask(&mut self, signals: SignalSet) -> &mut Self {
        self.action(Action::Sigmask(signals))
    }

    /// Gives signals their default action in the child: [`Action::Sigdefault`].
    pub fn sigdefault(&mut self, signals: SignalSet) -> &mut Self {
        self.action(Action::Sigdefault(signals))
    }

    /// Starts the program.
    ///
    /// Returns when it runs. If anything fails up to there, no child is left.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a mistake in the command, otherwise [`Error::Os`] with
    ///
    /// | errno | reason |
    /// | --- | --- |
    /// | `ESTALE` | the executable changed since the template was made, or its path names another file |
    /// | `EACCES` | the caller's credentials are not those the template was made with, or the program may not be executed |
    /// | `ETXTBSY` | somebody has the executable open for writing |
    /// | `E2BIG` | arguments and environment are too large, see `execve(2)` |
    /// | `EMFILE`, `ENFILE` | no descriptor left for the pidfd |
    /// | `EAGAIN` | too many processes: `RLIMIT_NPROC`, the pids cgroup or the system's limit |
    /// | `ENOMEM` | out of memory |
    /// | `EBADF` | an action takes a descriptor that is not open there, or places one at `RLIMIT_NOFILE` or above |
    /// | `EINVAL` | an action has flags or a mode that `openat2(2)` or `dup3(2)` refuse |
    /// | `ENOENT`, `ENOTDIR`, `EACCES`, ... | an action failed, as `openat2(2)` or `fchdir(2)` |
    /// | others | exec failed, as `execve(2)` |
    pub fn spawn(&self) -> Result<Child, Error> {
        self.prepare()?.spawn()
    }

    /// Starts the program and waits until it ends.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Child::wait`].
    pub fn status(&self) -> Result<ExitStatus, Error> {
        self.spawn()?.wait()
    }

    /// Builds what the kernel is given, for a command that is started many times unchanged.
    ///
    /// The caller's environment is read here.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a mistake in the command.
    pub fn prepare(&self) -> Result<Prepared<'_>, Error> {
        Prepared::new(self)
    }

    fn mistaken(&mut self, mistake: InvalidInput) {
        self.mistake.get_or_insert(mistake);
    }

    fn argument(&mut self, index: usize, arg: &OsStr) -> Option<CString> {
        let arg = CString::new(arg.as_bytes());
        if arg.is_err() {
            self.mistaken(InvalidInput::NulInArgument(index));
        }
        arg.ok()
    }

    fn push(&mut self, action: Action<'a>) -> Result<(), InvalidInput> {
        let index = self.steps.len();
        if index >= SPAWN_TEMPLATE_MAX_ACTIONS as usize {
            return Err(InvalidInput::TooManyActions);
        }
        self.placed.follow(index, &action)?;
        self.steps.push(Step::new(action)?);
        Ok(())
    }

    /// The environment of a child that is started now, as `NAME=value`.
    fn environment(&self) -> Vec<CString> {
        let inherited = (!self.env_clear).then(env::vars_os).into_iter().flatten();
        inherited
            .filter(|(name, _)| !self.env.contains_key(name))
            // The caller's variables come from C strings, so none of them is dropped here.
            .filter_map(|(name, value)| variable_bytes(name.into_vec(), value.as_bytes()))
            .chain(self.env.values().flatten().cloned())
            .collect()
    }
}

impl fmt::Debug for Command<'_> {
    /// Shows neither values of environment variables nor the kernel's form of the actions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("template", &self.template)
            .field("args", &self.args)
            .field("env_clear", &self.env_clear)
            .field("env", &self.env.keys())
            .field("actions", &self.steps.len())
            .field("inherit_fds", &self.inherit_fds)
            .finish_non_exhaustive()
    }
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, InvalidInput> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(InvalidInput::EnvironmentName);
    }
    variable_bytes(name.as_bytes().to_owned(), value.as_bytes()).ok_or(InvalidInput::NulInEnvironment)
}

fn variable_bytes(mut name: Vec<u8>, value: &[u8]) -> Option<CString> {
    name.push(b'=');
    name.extend_from_slice(value);
    CString::new(name).ok()
}

impl Step {
    fn new(action: Action<'_>) -> Result<Self, InvalidInput> {
        let mut payload = Payload::None;
        let (type_, flags, fd, newfd) = match action {
            Action::Close(fd) => (SPAWN_TEMPLATE_ACTION_CLOSE, 0, fd, 0),
            Action::Dup2 { source, target, cloexec } => {
                let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
                (SPAWN_TEMPLATE_ACTION_DUP2, flags as u32, source.number(), target)
            }
            Action::Fchdir(dir) => (SPAWN_TEMPLATE_ACTION_FCHDIR, 0, dir.number(), 0),
            Action::Open { open, target } => {
                payload = Payload::Open {
                    path: CString::new(open.path.into_os_string().into_vec()).map_err(|_| InvalidInput::NulInPath)?,
                    how: open_how { flags: open.flags, mode: open.mode, resolve: open.resolve },
                };
                (SPAWN_TEMPLATE_ACTION_OPEN, 0, open.dir.map_or(libc::AT_FDCWD, Fd::number), target)
            }
            Action::CloseRange { first, last, cloexec } => {
                let flags = if cloexec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
                (SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, flags, first, last.unwrap_or(-1))
            }
            Action::Sigmask(signals) => {
                payload = Payload::Signals(signals.bits());
                (SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, 0)
            }
            Action::Sigdefault(signals) => {
                payload = Payload::Signals(signals.bits());
                (SPAWN_TEMPLATE_ACTION_SIGDEFAULT, 0, 0, 0)
            }
        };
        Ok(Step { action: spawn_template_action { type_, flags, fd, newfd, arg: 0 }, payload })
    }
}

/// A [`Command`] in the form that the kernel takes, for starting it many times without building that again.
///
/// Made by [`Command::prepare`].
pub struct Prepared<'c> {
    template: BorrowedFd<'c>,
    flags: u64,
    // The kernel takes addresses, not pointers, and so does this: everything they lead to is either borrowed from the
    // command for 'c or owned by the fields below, on the heap, and never changed.
    argv: Vec<u64>,
    envp: Vec<u64>,
    actions: Vec<spawn_template_action>,
    _environment: Vec<CString>,
    _opens: Vec<spawn_template_open>,
    _sigsets: Vec<spawn_template_sigset>,
    _command: PhantomData<&'c Command<'c>>,
}

impl<'c> Prepared<'c> {
    fn new(command: &'c Command<'_>) -> Result<Self, Error> {
        if let Some(mistake) = command.mistake {
            return Err(mistake.into());
        }
        let environment = command.environment();
        let payloads = || command.steps.iter().map(|step| &step.payload);
        let opens: Vec<_> = payloads()
            .filter_map(|payload| match payload {
                Payload::Open { path, how } => Some(spawn_template_open { path: address(path.as_ptr()), how: *how }),
                _ => None,
            })
            .collect();
        let sigsets: Vec<_> = payloads()
            .filter_map(|payload| match payload {
                Payload::Signals(bits) => {
                    Some(spawn_template_sigset { sigset: address(bits), sigsetsize: size_of_val(bits) as u64 })
                }
                _ => None,
            })
            .collect();
        // The payloads' structures lie in the same order as the actions they belong to.
        let (mut open, mut sigset) = (opens.iter(), sigsets.iter());
        let actions = command
            .steps
            .iter()
            .map(|step| {
                let arg = match step.payload {
                    Payload::None => None,
                    Payload::Open { .. } => open.next().map(|open| address(open)),
                    Payload::Signals(_) => sigset.next().map(|sigset| address(sigset)),
                };
                spawn_template_action { arg: arg.unwrap_or(0), ..step.action }
            })
            .collect();
        Ok(Prepared {
            template: command.template,
            flags: if command.inherit_fds { u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS) } else { 0 },
            argv: vector(&command.args),
            envp: vector(&environment),
            actions,
            _environment: environment,
            _opens: opens,
            _sigsets: sigsets,
            _command: PhantomData,
        })
    }

    /// Starts the program, as [`Command::spawn`].
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`], [`Error::Input`] aside.
    pub fn spawn(&self) -> Result<Child, Error> {
        let mut pidfd: c_int = -1;
        let args = spawn_template_spawn_args {
            flags: self.flags,
            pidfd: (&raw mut pidfd).expose_provenance() as u64,
            argv: address(self.argv.as_ptr()),
            envp: address(self.envp.as_ptr()),
            actions: address(self.actions.as_ptr()),
            actions_len: self.actions.len() as u64,
            ..Default::default()
        };
        // SAFETY: `pidfd` may be written to. The addresses lead to what `self` owns or borrows, and the template and the
        // descriptors in the actions are borrowed for longer than `self` lives.
        let pid = unsafe { sys::spawn_template_spawn(self.template.as_raw_fd(), &args, size_of_val(&args)) }
            .map_err(|source| Error::os(Call::Spawn, source))?;
        if pid <= 0 || pidfd < 0 {
            return Err(Error::Reply("spawn_template_spawn succeeded without a process id or a pidfd"));
        }
        // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
        Ok(Child::new(pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    }
}

impl fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("template", &self.template).finish_non_exhaustive()
    }
}

/// The address as the kernel takes it.
fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// A vector of strings as `execve(2)` takes it, ended by a null pointer.
fn vector(strings: &[CString]) -> Vec<u64> {
    strings.iter().map(|string| address(string.as_ptr())).chain([0]).collect()
}
