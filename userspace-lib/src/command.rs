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

    /// Whether the child starts from a copy of the caller's descriptor table, less what is close-on-exec, instead of
    /// from descriptors 0, 1 and 2 alone. False by default; true is the way of `fork(2)`, and costs more the more are
    /// open.
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
    ///
    /// A descriptor of the caller stays borrowed while the command exists, so it cannot be closed too early:
    ///
    /// ```compile_fail,E0505
    /// # fn closed_too_early(template: &spawn_template::Template, input: std::fs::File) {
    /// let mut command = spawn_template::Command::new(template);
    /// command.dup2(&input, 0);
    /// drop(input);
    /// let child = command.spawn();
    /// # }
    /// ```
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
    /// | `EACCES` | the caller's credentials are not those that the template was made with |
    /// | `EACCES` | the program may not be executed, or an action was refused |
    /// | `ETXTBSY` | somebody has the executable open for writing |
    /// | `E2BIG` | arguments and environment are too large, see `execve(2)` |
    /// | `EMFILE`, `ENFILE` | no descriptor left for the pidfd |
    /// | `EAGAIN` | too many processes: `RLIMIT_NPROC`, the pids cgroup or the system's limit |
    /// | `ENOMEM` | out of memory |
    /// | `EBADF` | an action takes a descriptor that is not open there, or places one at `RLIMIT_NOFILE` or above |
    /// | `EINVAL` | an action has flags or a mode that `openat2(2)` or `dup3(2)` refuse |
    /// | `ENOENT`, `ENOTDIR`, ... | an action failed, as `openat2(2)` or `fchdir(2)` |
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
        // SAFETY: `pidfd` may be written to. The addresses lead to what `self` owns or borrows, and the template and
        // the descriptors in the actions are borrowed for longer than `self` lives.
        let pid = unsafe { sys::spawn_template_spawn(self.template.as_raw_fd(), &args, size_of_val(&args)) }
            .map_err(|error| Error::os(Call::Spawn, error))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::fs::File;
    use std::os::raw::c_char;

    use crate::ChildFd;

    /// Not a template to the kernel, but good for everything up to the system call.
    fn template() -> Template {
        Template::for_tests(File::open("/dev/null").unwrap().into(), c"/bin/cat")
    }

    fn mistake(command: &Command<'_>) -> InvalidInput {
        match command.spawn() {
            Err(Error::Input(mistake)) => mistake,
            other => panic!("{other:?}"),
        }
    }

    /// The strings of an argument vector, as the kernel would read them.
    fn strings(vector: &[u64]) -> Vec<&CStr> {
        let (end, strings) = vector.split_last().unwrap();
        assert_eq!(*end, 0);
        let pointers = strings.iter().map(|&address| std::ptr::with_exposed_provenance::<c_char>(address as usize));
        // SAFETY: vector() has made them from C strings that still live.
        pointers.map(|pointer| unsafe { CStr::from_ptr(pointer) }).collect()
    }

    fn read<T: Copy>(address: u64) -> T {
        // SAFETY: only used on addresses that Prepared::new() has made from a T that still lives.
        unsafe { std::ptr::with_exposed_provenance::<T>(address as usize).read() }
    }

    #[test]
    fn without_the_calls_it_says_so() {
        let template = template();
        let error = Command::new(&template).spawn().unwrap_err();
        if !crate::is_supported() {
            assert!(error.is_unsupported());
        }
        assert!(matches!(error, Error::Os { call: Call::Spawn, .. }), "{error:?}");
    }

    #[test]
    fn argument_vector() {
        let template = template();
        let mut command = Command::new(&template);
        assert_eq!(strings(&command.prepare().unwrap().argv), [c"/bin/cat"]);
        command.arg("-n").args(["", "a b"]);
        assert_eq!(strings(&command.prepare().unwrap().argv), [c"/bin/cat", c"-n", c"", c"a b"]);
        command.arg0("dog");
        assert_eq!(strings(&command.prepare().unwrap().argv), [c"dog", c"-n", c"", c"a b"]);
    }

    #[test]
    fn environment_is_the_callers_with_changes() {
        let template = template();
        let mut command = Command::new(&template);
        command.env("B", "2").env("A", "1").env("B", "3").env("CARGO", "x").env_remove("PATH").env_remove("C");
        let prepared = command.prepare().unwrap();
        let envp = strings(&prepared.envp);
        assert!(envp.ends_with(&[c"A=1", c"B=3", c"CARGO=x"]), "{envp:?}");
        assert_eq!(envp.iter().filter(|variable| variable.to_bytes().starts_with(b"CARGO=")).count(), 1);
        assert!(!envp.iter().any(|variable| variable.to_bytes().starts_with(b"PATH=")));
        let unchanged = env::vars_os().filter(|(name, _)| name != "PATH" && name != "CARGO").count();
        assert_eq!(envp.len(), unchanged + 3);
    }

    #[test]
    fn environment_can_be_empty_or_only_what_is_set() {
        let template = template();
        let mut command = Command::new(&template);
        command.env("A", "1").env_clear();
        assert!(strings(&command.prepare().unwrap().envp).is_empty());
        command.envs([("X", "with = sign"), ("Y", "")]);
        assert_eq!(strings(&command.prepare().unwrap().envp), [c"X=with = sign", c"Y="]);
    }

    #[test]
    fn actions_in_the_kernels_form() {
        let template = template();
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let mut command = Command::new(&template);
        command
            .dup2(&file, 1)
            .action(Action::Dup2 { source: ChildFd(1).into(), target: 200, cloexec: true })
            .fchdir(&file)
            .open(Open::read_write("a").create(0o640).append(true).resolve(8), 0)
            .sigmask(SignalSet::of([1]).unwrap())
            .open(Open::read("b").at(&file), 201)
            .sigdefault(SignalSet::full())
            .close(2)
            .close_range(300, None)
            .action(Action::CloseRange { first: 300, last: Some(400), cloexec: true });
        let prepared = command.prepare().unwrap();
        let plain: Vec<_> =
            prepared.actions.iter().map(|action| (action.type_, action.flags, action.fd, action.newfd)).collect();
        assert_eq!(
            plain,
            [
                (SPAWN_TEMPLATE_ACTION_DUP2, 0, fd, 1),
                (SPAWN_TEMPLATE_ACTION_DUP2, libc::O_CLOEXEC as u32, 1, 200),
                (SPAWN_TEMPLATE_ACTION_FCHDIR, 0, fd, 0),
                (SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 0),
                (SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, 0),
                (SPAWN_TEMPLATE_ACTION_OPEN, 0, fd, 201),
                (SPAWN_TEMPLATE_ACTION_SIGDEFAULT, 0, 0, 0),
                (SPAWN_TEMPLATE_ACTION_CLOSE, 0, 2, 0),
                (SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, 0, 300, -1),
                (SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, libc::CLOSE_RANGE_CLOEXEC, 300, 400),
            ]
        );
        for index in [0, 1, 2, 7, 8, 9] {
            assert_eq!(prepared.actions[index].arg, 0);
        }

        let open: spawn_template_open = read(prepared.actions[3].arg);
        assert_eq!(strings(&[open.path, 0]), [c"a"]);
        assert_eq!(open.how.flags, (libc::O_RDWR | libc::O_CREAT | libc::O_APPEND) as u64);
        assert_eq!((open.how.mode, open.how.resolve), (0o640, 8));
        let open: spawn_template_open = read(prepared.actions[5].arg);
        assert_eq!(strings(&[open.path, 0]), [c"b"]);
        assert_eq!((open.how.flags, open.how.mode, open.how.resolve), (0, 0, 0));
        for (index, bits) in [(4, 1), (6, u64::MAX)] {
            let sigset: spawn_template_sigset = read(prepared.actions[index].arg);
            assert_eq!((read::<u64>(sigset.sigset), sigset.sigsetsize), (bits, 8));
        }
    }

    #[test]
    fn inherit_fds_is_a_flag() {
        let template = template();
        let mut command = Command::new(&template);
        assert_eq!(command.prepare().unwrap().flags, 0);
        command.inherit_fds(true);
        assert_eq!(command.prepare().unwrap().flags, u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS));
    }

    #[test]
    fn nul_bytes_are_mistakes() {
        let template = template();
        assert_eq!(mistake(Command::new(&template).args(["a", "b\0"])), InvalidInput::NulInArgument(2));
        assert_eq!(mistake(Command::new(&template).arg0("\0")), InvalidInput::NulInArgument(0));
        assert_eq!(mistake(Command::new(&template).env("A", "\0")), InvalidInput::NulInEnvironment);
        assert_eq!(mistake(Command::new(&template).env("A\0", "")), InvalidInput::NulInEnvironment);
        assert_eq!(mistake(Command::new(&template).open(Open::read("/dev/null\0"), 0)), InvalidInput::NulInPath);
    }

    #[test]
    fn names_of_variables_are_checked() {
        let template = template();
        for name in ["", "A=B", "="] {
            assert_eq!(mistake(Command::new(&template).env(name, "")), InvalidInput::EnvironmentName);
        }
    }

    #[test]
    fn the_first_mistake_counts_and_stays() {
        let template = template();
        let mut command = Command::new(&template);
        command.arg("\0").env("", "").arg("good");
        assert_eq!(mistake(&command), InvalidInput::NulInArgument(1));
        assert_eq!(mistake(&command), InvalidInput::NulInArgument(1));
    }

    #[test]
    fn at_most_256_actions() {
        let template = template();
        let mut command = Command::new(&template);
        for fd in 0..256 {
            command.close(fd);
        }
        assert_eq!(command.prepare().unwrap().actions.len(), 256);
        command.close(256);
        assert_eq!(mistake(&command), InvalidInput::TooManyActions);
    }

    #[test]
    fn negative_numbers_and_empty_ranges() {
        let template = template();
        let file = File::open("/dev/null").unwrap();
        assert_eq!(mistake(Command::new(&template).close(-1)), InvalidInput::NegativeFd(0));
        assert_eq!(mistake(Command::new(&template).close(0).dup2(&file, -100)), InvalidInput::NegativeFd(1));
        assert_eq!(mistake(Command::new(&template).dup2(ChildFd(-1), 0)), InvalidInput::NegativeFd(0));
        assert_eq!(mistake(Command::new(&template).open(Open::read("/"), -1)), InvalidInput::NegativeFd(0));
        assert_eq!(mistake(Command::new(&template).close_range(-1, None)), InvalidInput::NegativeFd(0));
        assert_eq!(mistake(Command::new(&template).close_range(3, Some(-1))), InvalidInput::NegativeFd(0));
        assert_eq!(mistake(Command::new(&template).close_range(3, Some(2))), InvalidInput::EmptyRange(0));
    }

    #[test]
    fn a_childs_descriptor_has_to_be_placed_first() {
        let template = template();
        let file = File::open("/dev/null").unwrap();
        let fd = 1000;
        let nothing = |action| InvalidInput::NothingPlaced { action, fd };

        let mut command = Command::new(&template);
        assert_eq!(mistake(command.dup2(ChildFd(fd), 1)), nothing(0));
        assert_eq!(mistake(Command::new(&template).fchdir(ChildFd(fd))), nothing(0));
        assert_eq!(mistake(Command::new(&template).open(Open::read("a").at(ChildFd(fd)), 0)), nothing(0));
        assert!(Command::new(&template).dup2(ChildFd(2), 1).prepare().is_ok());
        assert!(Command::new(&template).dup2(&file, fd).dup2(ChildFd(fd), 1).prepare().is_ok());
        assert!(Command::new(&template).open(Open::read("/"), fd).fchdir(ChildFd(fd)).prepare().is_ok());

        let mut command = Command::new(&template);
        assert_eq!(mistake(command.dup2(&file, fd).close(fd).dup2(ChildFd(fd), 1)), nothing(2));
        let mut command = Command::new(&template);
        assert_eq!(mistake(command.dup2(&file, fd).close_range(3, None).dup2(ChildFd(fd), 1)), nothing(2));
        let mut command = Command::new(&template);
        let cloexec = Action::CloseRange { first: 3, last: None, cloexec: true };
        assert!(command.dup2(&file, fd).action(cloexec).dup2(ChildFd(fd), 1).prepare().is_ok());
    }

    #[test]
    fn a_callers_descriptor_must_not_have_been_replaced() {
        let template = template();
        let (a, b) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
        let fd = b.as_raw_fd();
        let replaced = InvalidInput::Overwritten { action: 1, fd };
        assert_eq!(mistake(Command::new(&template).dup2(&a, fd).dup2(&b, 1)), replaced);
        assert_eq!(mistake(Command::new(&template).open(Open::read("/"), fd).fchdir(&b)), replaced);
        // A descriptor that keeps its number is still itself, and is then one of the child as well.
        assert!(Command::new(&template).dup2(&b, fd).dup2(&b, 1).dup2(ChildFd(fd), 2).prepare().is_ok());
        // One that was closed is not: the kernel answers EBADF, not with another file.
        assert!(Command::new(&template).close(fd).dup2(&b, 1).prepare().is_ok());
    }
}
