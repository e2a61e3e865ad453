//! What to start, and how.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::sync::Arc;

use libc::c_int;

use crate::environment::Changes;
use crate::fork_exec::Hook;
use crate::plan::{Defaults, Plan};
use crate::program::Program;
use crate::stdio::Kind;
use crate::{Action, Child, Error, Fd, InvalidInput, Mode, Open, Resource, Scheduler, SignalSet, Stdio, Step};

/// A process to start: program, arguments, environment, and what the child does before it runs the program. Like
/// [`std::process::Command`], with more to say.
///
/// The program is a [`Template`](crate::Template), or a name or path as for `std::process::Command`; then the template
/// comes from the process-wide [`cache`](crate::cache).
///
/// It can be used any number of times, also from several threads. `'a` is how long descriptors of the caller are
/// borrowed; a command that borrows none lives as long as it likes.
///
/// A mistake, such as an argument with a NUL byte, is reported by [`spawn`](Self::spawn).
///
/// The child takes the steps in the order of [`Step`], not in that of the calls here.
///
/// ```no_run
/// use std::fs::File;
///
/// use spawn_template::{Command, Template};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sort = Template::open("/usr/bin/sort")?;
/// let input = File::open("/etc/passwd")?;
/// let output = Command::new(&sort).arg("-r").env("LC_ALL", "C").stdin(&input).output()?;
/// assert!(output.status.success());
///
/// let status = Command::new("gzip").arg("big file").current_dir("/tmp").nice(10).status()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Command<'a> {
    program: Program,
    /// With argument 0.
    pub(crate) args: Vec<CString>,
    pub(crate) environment: Changes,
    /// What the child does, in order.
    pub(crate) steps: BTreeMap<Step, Task<'a>>,
    /// How many actions there are among them.
    actions: usize,
    /// Where [`fd`](Self::fd) has placed something.
    placed: Vec<RawFd>,
    scheduler: Option<Scheduler>,
    nice: Option<i32>,
    hooks: Vec<Hook>,
    pub(crate) inherit_fds: bool,
    pub(crate) nowait: bool,
    kill_on_drop: bool,
    pub(crate) mode: Mode,
    pub(crate) mistake: Option<InvalidInput>,
}

/// What a [`Step`] does.
#[derive(Debug, Clone)]
pub(crate) enum Task<'a> {
    Action(Action<'a>),
    /// A standard stream, or another descriptor.
    Stream(Kind<'a>),
    /// Policy and nice value, at least one of them.
    Scheduler(Option<Scheduler>, Option<i32>),
}

const INHERIT: Defaults = [Kind::Inherit, Kind::Inherit, Kind::Inherit];
const CAPTURE: Defaults = [Kind::Null, Kind::Piped, Kind::Piped];

impl<'a> Command<'a> {
    /// Starts `program` without arguments, with the caller's environment and standard streams.
    ///
    /// A name without a slash is looked for in the folders of `PATH`: that of the child if the command changes it, else
    /// the caller's.
    pub fn new(program: impl Into<Program>) -> Self {
        let program = program.into();
        let (arg0, mistake) = match program.arg0() {
            Ok(arg0) => (arg0, None),
            Err(mistake) => (CString::default(), Some(mistake)),
        };
        let mut command = Command {
            program,
            args: vec![arg0],
            environment: Changes::default(),
            steps: BTreeMap::new(),
            actions: 0,
            placed: Vec::new(),
            scheduler: None,
            nice: None,
            hooks: Vec::new(),
            inherit_fds: false,
            nowait: false,
            kill_on_drop: false,
            mode: Mode::Auto,
            mistake,
        };
        // The Rust runtime ignores it in this process.
        command.sigdefault(SignalSet::from_bits(1 << (libc::SIGPIPE - 1)));
        command
    }

    /// Sets argument 0, which is the program as it was given otherwise; with a template, its path.
    pub fn arg0(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        if let Some(arg) = self.argument(0, arg.as_ref()) {
            // There is always an argument 0.
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
        if let Err(mistake) = self.environment.set(name.as_ref(), value.as_ref()) {
            self.mistaken(mistake);
        }
        self
    }

    /// Sets environment variables of the child.
    pub fn envs(&mut self, vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> &mut Self {
        let vars = vars.into_iter();
        self.environment.reserve(vars.size_hint().0);
        for (name, value) in vars {
            self.env(name, value);
        }
        self
    }

    /// Takes a variable out of the child's environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.environment.remove(name.as_ref());
        self
    }

    /// Empties the child's environment: neither the caller's variables nor those set before.
    pub fn env_clear(&mut self) -> &mut Self {
        self.environment.clear();
        self
    }

    /// Sets the working directory. It is changed to with the child's ids, and a relative program is relative to it, as
    /// for [`std::process::Command`].
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.set(Step::CurrentDir, Action::chdir(directory))
    }

    /// Sets the working directory to an open one.
    pub fn current_dir_fd(&mut self, directory: impl Into<Fd<'a>>) -> &mut Self {
        self.set(Step::CurrentDir, Action::Fchdir(directory.into()))
    }

    /// Sets the standard input. By default it is inherited, and for [`output`](Self::output) empty.
    pub fn stdin(&mut self, stdio: impl Into<Stdio<'a>>) -> &mut Self {
        self.stream(libc::STDIN_FILENO, stdio.into())
    }

    /// Sets the standard output. By default it is inherited, and for [`output`](Self::output) a pipe.
    pub fn stdout(&mut self, stdio: impl Into<Stdio<'a>>) -> &mut Self {
        self.stream(libc::STDOUT_FILENO, stdio.into())
    }

    /// Sets the standard error. By default it is inherited, and for [`output`](Self::output) a pipe.
    pub fn stderr(&mut self, stdio: impl Into<Stdio<'a>>) -> &mut Self {
        self.stream(libc::STDERR_FILENO, stdio.into())
    }

    /// Gives the child a descriptor at the number `target`.
    ///
    /// All placements happen at once, so to speak: any may take a descriptor of the caller whose number is the target of
    /// another. Two with the same target, or one with that of a standard stream that is set, are a mistake:
    /// [`InvalidInput::FdCollision`].
    ///
    /// A descriptor that is given as a reference stays borrowed while the command exists, so it cannot be closed too
    /// early:
    ///
    /// ```compile_fail,E0505
    /// # fn closed_too_early(input: std::fs::File) {
    /// let mut command = spawn_template::Command::new("cat");
    /// command.fd(5, &input);
    /// drop(input);
    /// let child = command.spawn();
    /// # }
    /// ```
    pub fn fd(&mut self, target: RawFd, source: impl Into<Fd<'a>>) -> &mut Self {
        let step = Step::Fd(target);
        if target < 0 {
            self.mistaken(InvalidInput::NegativeFd(step));
        } else if self.steps.insert(step, Task::Stream(Kind::Fd(source.into()))).is_some() {
            self.mistaken(InvalidInput::FdCollision(target));
        } else {
            self.placed.push(target);
        }
        self
    }

    /// Whether the child starts from a copy of the caller's descriptor table, less what is close-on-exec, instead of
    /// from descriptors 0, 1 and 2 alone. False by default; true is the way of `fork(2)`, and costs more the more are
    /// open.
    pub fn inherit_fds(&mut self, inherit: bool) -> &mut Self {
        self.inherit_fds = inherit;
        self
    }

    /// Puts the child in the process group with this id, or with 0 in a new one.
    pub fn process_group(&mut self, group: c_int) -> &mut Self {
        self.set(Step::ProcessGroup, Action::Setpgid(group))
    }

    /// Whether the child starts a session of its own.
    pub fn setsid(&mut self, setsid: bool) -> &mut Self {
        self.set_if(setsid, Step::Setsid, Action::Setsid)
    }

    /// Makes a terminal the controlling one of the child, which has to start a session ([`setsid`](Self::setsid)).
    pub fn controlling_terminal(&mut self, terminal: impl Into<Fd<'a>>) -> &mut Self {
        self.set(Step::ControllingTerminal, Action::Setctty(terminal.into()))
    }

    /// Makes the child's process group the foreground one of its controlling terminal, which this is. Together with
    /// [`process_group(0)`](Self::process_group) what a shell does for a job.
    pub fn foreground(&mut self, terminal: impl Into<Fd<'a>>) -> &mut Self {
        self.set(Step::Foreground, Action::Tcsetpgrp(terminal.into()))
    }

    /// Sets the user id. Unless [`groups`](Self::groups) are set too, the supplementary groups are dropped if this
    /// process may do that.
    pub fn uid(&mut self, id: u32) -> &mut Self {
        self.set(Step::Uid, Action::Setuid(id))
    }

    /// Sets the group id.
    pub fn gid(&mut self, id: u32) -> &mut Self {
        self.set(Step::Gid, Action::Setgid(id))
    }

    /// Sets the supplementary groups.
    pub fn groups(&mut self, groups: &[u32]) -> &mut Self {
        self.set(Step::Groups, Action::Setgroups(groups.to_vec()))
    }

    /// Whether effective user and group id become the real ones.
    pub fn reset_ids(&mut self, reset: bool) -> &mut Self {
        self.set_if(reset, Step::ResetIds, Action::ResetIds)
    }

    /// Sets the file mode creation mask, 0 to `0o777`.
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.set(Step::Umask, Action::Umask(mask))
    }

    /// Sets a resource limit, in the resource's own unit; `None` is no limit. See [`Action::Rlimit`].
    pub fn rlimit(&mut self, resource: Resource, soft: Option<u64>, hard: Option<u64>) -> &mut Self {
        self.set(Step::Rlimit(resource), Action::Rlimit { resource, soft, hard })
    }

    /// Sets the nice value: -20 (most favourable) to 19. Lowering it needs `CAP_SYS_NICE` or `RLIMIT_NICE`.
    pub fn nice(&mut self, nice: i32) -> &mut Self {
        self.nice = Some(nice);
        self.schedule()
    }

    /// Sets the scheduling policy.
    pub fn scheduler(&mut self, scheduler: Scheduler) -> &mut Self {
        self.scheduler = Some(scheduler);
        self.schedule()
    }

    /// Whether the child and its descendants can never gain privileges by executing a program.
    pub fn no_new_privs(&mut self, set: bool) -> &mut Self {
        self.set_if(set, Step::NoNewPrivs, Action::NoNewPrivs)
    }

    /// Sends the child this signal when the thread that starts it ends; 0 is none.
    pub fn parent_death_signal(&mut self, signal: c_int) -> &mut Self {
        self.set(Step::ParentDeathSignal, Action::Pdeathsig(signal))
    }

    /// Starts the child in the cgroup (version 2) whose directory this is.
    pub fn cgroup(&mut self, directory: impl Into<Fd<'a>>) -> &mut Self {
        self.set(Step::Cgroup, Action::Cgroup(directory.into()))
    }

    /// Sets the child's blocked signals, which are those of the calling thread otherwise.
    pub fn sigmask(&mut self, signals: SignalSet) -> &mut Self {
        self.set(Step::Sigmask, Action::Sigmask(signals))
    }

    /// Gives signals their default action in the child. At first this is `SIGPIPE`, which the Rust runtime ignores in
    /// this process.
    pub fn sigdefault(&mut self, signals: SignalSet) -> &mut Self {
        self.set_if(signals != SignalSet::empty(), Step::Sigdefault, Action::Sigdefault(signals))
    }

    /// Ignores signals in the child; it counts more than [`sigdefault`](Self::sigdefault).
    pub fn sigignore(&mut self, signals: SignalSet) -> &mut Self {
        self.set_if(signals != SignalSet::empty(), Step::Sigignore, Action::Sigignore(signals))
    }

    /// Whether [`spawn`](Self::spawn) returns as soon as the child exists. What fails after that ends the child with exit
    /// status 127.
    pub fn nowait(&mut self, nowait: bool) -> &mut Self {
        self.nowait = nowait;
        self
    }

    /// Whether dropping the [`Child`] kills the process and waits for it.
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// Whether to use the system calls. For a program that is given as a template this has been decided when that was
    /// made ([`TemplateOptions::mode`](crate::TemplateOptions::mode)).
    pub fn mode(&mut self, mode: Mode) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Calls a closure in the child, after everything else and before it executes the program. Closures run in the order
    /// in which they were added; an error ends the spawn.
    ///
    /// The kernel cannot do that, so such a command is started by fork and exec. There is a declarative method for
    /// nearly everything that closures are used for.
    ///
    /// # Safety
    ///
    /// The closure runs in a process that was forked from one with possibly many threads: it may only do what a signal
    /// handler may (`signal-safety(7)`), and neither allocate nor take locks. Handlers of `pthread_atfork(3)` do not run.
    pub unsafe fn pre_exec<F>(&mut self, closure: F) -> &mut Self
    where
        F: Fn() -> io::Result<()> + Send + Sync + 'static,
    {
        self.hooks.push(Arc::new(closure));
        self
    }

    /// Adds an action. They run after everything that the other methods set but the signals, in their own order.
    pub fn action(&mut self, action: Action<'a>) -> &mut Self {
        let step = Step::Action(self.actions);
        self.actions += 1;
        self.set(step, action)
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

    /// The program: as it was given, or the path of the template.
    pub fn get_program(&self) -> &OsStr {
        self.program.name()
    }

    /// The arguments, without argument 0.
    pub fn get_args(&self) -> impl Iterator<Item = &OsStr> {
        self.args.iter().skip(1).map(|arg| OsStr::from_bytes(arg.as_bytes()))
    }

    /// The environment variables that are set, or with `None` taken out.
    pub fn get_envs(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.environment.iter()
    }

    /// The working directory, if a path was given.
    pub fn get_current_dir(&self) -> Option<&Path> {
        match self.steps.get(&Step::CurrentDir) {
            Some(Task::Action(Action::Chdir(path))) => {
                path.get().ok().map(|path| Path::new(OsStr::from_bytes(path.as_bytes())))
            }
            _ => None,
        }
    }

    /// Starts the program.
    ///
    /// Returns when it runs. If anything fails up to there, no child is left, and there is no `SIGCHLD`.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a mistake in the command, [`Error::Os`] when a pipe or the copy of a descriptor cannot be
    /// made, otherwise [`Error::Spawn`] with the step that failed and
    ///
    /// | errno | reason |
    /// | --- | --- |
    /// | `ENOENT` | there is no such program |
    /// | `ESTALE` | the executable changed since the template was made, or its path names another file |
    /// | `EACCES` | the caller's credentials are not those that the template was made with |
    /// | `EACCES` | the program may not be executed, or an action was refused |
    /// | `ETXTBSY` | somebody has the executable open for writing |
    /// | `E2BIG` | arguments and environment are too large, see `execve(2)` |
    /// | `EMFILE`, `ENFILE` | no descriptor left for the pidfd |
    /// | `EAGAIN` | too many processes: `RLIMIT_NPROC`, the pids cgroup or the system's limit |
    /// | `ENOMEM` | out of memory |
    /// | `EBADF` | an action takes a descriptor that is not open there, or places one at `RLIMIT_NOFILE` or above |
    /// | `EINVAL` | an action has flags or a mode that `openat2(2)` or `dup3(2)` refuse |
    /// | `EPERM` | no permission for ids, groups, limits, scheduling or the terminal |
    /// | `ENOSYS` | only with [`Mode::Template`]: the kernel has no spawn templates |
    /// | others | an action failed, as the call that [`Action`] names for it, or exec as `execve(2)` |
    pub fn spawn(&self) -> Result<Child, Error> {
        self.start(&Plan::new(self, &INHERIT, false)?)
    }

    /// Starts the program and waits until it ends.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Child::wait`].
    pub fn status(&self) -> Result<ExitStatus, Error> {
        self.spawn()?.wait()
    }

    /// Starts the program, waits until it ends, and returns what it has written to standard output and standard error.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Child::wait_with_output`].
    pub fn output(&self) -> Result<Output, Error> {
        self.start(&Plan::new(self, &CAPTURE, false)?)?.wait_with_output()
    }

    /// Runs the program in this process, with what the command says, by `execve(2)` and never from a template. Returns
    /// only if it fails; by then standard streams, ids and all the rest may have been changed.
    ///
    /// A cgroup cannot be set this way (`EOPNOTSUPP`).
    pub fn exec(&self) -> Error {
        let plan = match Plan::new(self, &INHERIT, false) {
            Ok(plan) => plan,
            Err(error) => return error,
        };
        match plan.open_pipes() {
            Ok((_pipes, actions)) => self.program.exec(self, &plan, actions),
            Err(error) => error,
        }
    }

    /// Builds what the kernel is given, for a command that is started many times unchanged.
    ///
    /// The caller's environment is read here.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a mistake in the command, [`Error::Os`] when the copy of a descriptor cannot be made.
    pub fn prepare(&self) -> Result<Prepared<'_>, Error> {
        Ok(Prepared { plan: Plan::new(self, &INHERIT, true)?, command: self })
    }

    fn start(&self, plan: &Plan<'_>) -> Result<Child, Error> {
        let (pipes, actions) = plan.open_pipes()?;
        let (started, via) = self.program.start(self, plan, actions)?;
        Ok(Child::new(started, via, pipes, self.kill_on_drop))
    }

    pub(crate) fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Whether the child changes its working directory.
    pub(crate) fn changes_directory(&self) -> bool {
        self.steps.values().any(|task| matches!(task, Task::Action(Action::Chdir(_) | Action::Fchdir(_))))
    }

    /// Where to look for the program.
    pub(crate) fn search_path(&self) -> Option<OsString> {
        self.environment.path()
    }

    fn set(&mut self, step: Step, action: Action<'a>) -> &mut Self {
        self.steps.insert(step, Task::Action(action));
        self
    }

    fn set_if(&mut self, set: bool, step: Step, action: Action<'a>) -> &mut Self {
        if set {
            return self.set(step, action);
        }
        self.steps.remove(&step);
        self
    }

    fn stream(&mut self, fd: RawFd, stdio: Stdio<'a>) -> &mut Self {
        self.steps.insert(Step::Fd(fd), Task::Stream(stdio.0));
        if self.placed.contains(&fd) {
            self.mistaken(InvalidInput::FdCollision(fd));
        }
        self
    }

    fn schedule(&mut self) -> &mut Self {
        self.steps.insert(Step::Scheduler, Task::Scheduler(self.scheduler, self.nice));
        self
    }

    /// The first mistake counts.
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
}

impl fmt::Debug for Command<'_> {
    /// Shows neither values of environment variables nor what the steps do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.get_program())
            .field("args", &self.args)
            .field("env_clear", &self.environment.is_cleared())
            .field("env", &self.environment.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("steps", &self.steps.keys())
            .field("inherit_fds", &self.inherit_fds)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A [`Command`] in the form that the kernel takes, for starting it many times without building that again.
///
/// Made by [`Command::prepare`].
pub struct Prepared<'c> {
    plan: Plan<'c>,
    command: &'c Command<'c>,
}

impl Prepared<'_> {
    /// Starts the program, as [`Command::spawn`].
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`], [`Error::Input`] aside.
    pub fn spawn(&self) -> Result<Child, Error> {
        self.command.start(&self.plan)
    }
}

impl fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prepared").field(self.command).finish()
    }
}
