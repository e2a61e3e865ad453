//! Making templates and starting processes from them, close to the system calls: every field can be set to anything.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use spawn_template::uapi;
pub use spawn_template::uapi::{
    spawn_template_action as RawAction, spawn_template_create_args as CreateArgs, spawn_template_groups as RawGroups,
    spawn_template_open as RawOpen, spawn_template_result as RawResult, spawn_template_rlimit as RawRlimit,
    spawn_template_sigset as RawSigset, spawn_template_spawn_args as SpawnArgs,
};

use crate::harness::{Outcome, failed};
use crate::os::{self, Status};
use crate::show::Show;

/// Sizes of the two argument structures.
pub const CREATE_SIZE: usize = size_of::<CreateArgs>();
/// See [`CREATE_SIZE`].
pub const SPAWN_SIZE: usize = size_of::<SpawnArgs>();

/// Where a child program of ours lies in the guest.
pub fn child(name: &str) -> String {
    format!("/payload/children/{name}")
}

/// Arguments that create a template of `path`.
pub fn create_by_path(path: &CString) -> CreateArgs {
    CreateArgs {
        flags: uapi::SPAWN_TEMPLATE_CREATE_CLOEXEC.into(),
        execfd: -1,
        filename: path.as_ptr() as u64,
        ..Default::default()
    }
}

/// `spawn_template_create` with these arguments.
pub fn create(args: &CreateArgs) -> io::Result<Template> {
    os::template_create(&raw const *args as u64, CREATE_SIZE).map(|fd| Template { fd })
}

/// A template's descriptor.
pub struct Template {
    /// The descriptor itself.
    pub fd: OwnedFd,
}

impl Template {
    /// A close-on-exec template of an absolute path.
    pub fn path(path: impl AsRef<Path>) -> io::Result<Template> {
        create(&create_by_path(&os::c_path(path)))
    }

    /// A close-on-exec template of an open file.
    pub fn of_fd(fd: &impl AsRawFd) -> io::Result<Template> {
        let flags = uapi::SPAWN_TEMPLATE_CREATE_CLOEXEC.into();
        create(&CreateArgs { flags, execfd: fd.as_raw_fd(), ..Default::default() })
    }

    /// A template of one of our child programs.
    pub fn child(name: &str) -> io::Result<Template> {
        Template::path(child(name))
    }

    /// A template of one of our child programs that learns nothing.
    pub fn not_learning(name: &str) -> io::Result<Template> {
        let path = os::c_path(child(name));
        let good = create_by_path(&path);
        let flags = good.flags | u64::from(uapi::SPAWN_TEMPLATE_CREATE_NO_LEARNING);
        create(&CreateArgs { flags, ..good })
    }

    /// The descriptor's number.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// What `/proc/self/fdinfo` says about it.
    pub fn info(&self) -> io::Result<Info> {
        Info::read(&format!("/proc/self/fdinfo/{}", self.raw()))
    }

    /// How many spawns succeeded and how many failed so far.
    pub fn counts(&self) -> Outcome<(u64, u64)> {
        let info = self.info()?;
        Ok((info.number("spawns")?, info.number("failures")?))
    }

    /// A process to start, with "child" as its only argument and an empty environment.
    pub fn spawn(&self) -> Spawn<'_> {
        let argv = vec![c"child".to_owned()];
        Spawn { template: self, argv, envp: Vec::new(), actions: Vec::new(), flags: 0 }
    }

    /// Starts it with the default arguments and waits for it.
    pub fn status(&self) -> io::Result<Status> {
        self.spawn().status()
    }
}

/// The lines of an fdinfo file.
#[derive(Debug)]
pub struct Info(BTreeMap<String, String>);

impl Info {
    /// Reads such a file.
    pub fn read(path: &str) -> io::Result<Info> {
        let text = fs::read_to_string(path)?;
        let split = |line: &str| line.split_once(":\t").map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(Info(text.lines().filter_map(split).collect()))
    }

    /// The value of a line.
    #[track_caller]
    pub fn get(&self, key: &str) -> Outcome<&str> {
        self.0.get(key).map(String::as_str).ok_or_else(|| failed(format!("fdinfo has no \"{key}\": {:?}", self.0)))
    }

    /// The value of a line that is a number.
    #[track_caller]
    pub fn number(&self, key: &str) -> Outcome<u64> {
        let value = self.get(key)?;
        value.parse().map_err(|_| failed(format!("fdinfo: \"{key}\" is \"{value}\", not a number")))
    }
}

/// An action with the memory behind it.
#[derive(Clone, Debug)]
pub enum Act {
    /// CLOSE.
    Close(RawFd),
    /// DUP2 from the first to the second.
    Dup2(RawFd, RawFd),
    /// DUP2 with O_CLOEXEC.
    Dup2Cloexec(RawFd, RawFd),
    /// FCHDIR.
    Fchdir(RawFd),
    /// OPEN.
    Open(Open),
    /// CLOSE_RANGE: first, last, flags.
    CloseRange(RawFd, RawFd, u32),
    /// SIGMASK.
    Sigmask(u64),
    /// SIGDEFAULT.
    Sigdefault(u64),
    /// CHDIR.
    Chdir(CString),
    /// SETSID.
    Setsid,
    /// SETPGID.
    Setpgid(u64),
    /// TCSETPGRP.
    Tcsetpgrp(RawFd),
    /// SETCTTY.
    Setctty(RawFd),
    /// UMASK.
    Umask(u64),
    /// RLIMIT: resource, soft and hard limit.
    Rlimit(libc::__rlimit_resource_t, u64, u64),
    /// SCHED.
    Sched(Sched),
    /// RESETIDS.
    Resetids,
    /// SETUID.
    Setuid(u64),
    /// SETGID.
    Setgid(u64),
    /// SETGROUPS.
    Setgroups(Vec<u32>),
    /// NO_NEW_PRIVS.
    NoNewPrivs,
    /// PDEATHSIG.
    Pdeathsig(u64),
    /// SIGIGNORE.
    Sigignore(u64),
    /// CGROUP.
    Cgroup(RawFd),
    /// Anything.
    Raw(RawAction),
}

impl Act {
    /// CHDIR to this path.
    pub fn chdir(path: impl AsRef<Path>) -> Act {
        Act::Chdir(os::c_path(path))
    }
}

/// The fields of `struct sched_attr`, in its first published size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sched {
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// Nice value, of SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Priority, of SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, of SCHED_DEADLINE: runtime, deadline and period.
    pub times: [u64; 3],
}

impl Sched {
    /// The structure's memory, with this value in its size field.
    pub fn words(&self, size: u32) -> [u64; 6] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [runtime, deadline, period] = self.times;
        [pair(size, self.policy), self.flags, pair(self.nice as u32, self.priority), runtime, deadline, period]
    }
}

/// The fields of an OPEN.
#[derive(Clone, Debug)]
pub struct Open {
    /// Folder that a relative path starts from.
    pub dir: RawFd,
    /// The path.
    pub path: CString,
    /// `open_how.flags`.
    pub flags: i32,
    /// `open_how.mode`.
    pub mode: u64,
    /// `open_how.resolve`.
    pub resolve: u64,
    /// The number it gets.
    pub newfd: RawFd,
}

impl Open {
    /// Opens `path` from the working directory as `newfd`.
    pub fn new(path: impl AsRef<Path>, flags: i32, newfd: RawFd) -> Open {
        Open { dir: libc::AT_FDCWD, path: os::c_path(path), flags, mode: 0, resolve: 0, newfd }
    }

    /// Starts from this folder.
    pub fn at(self, dir: RawFd) -> Open {
        Open { dir, ..self }
    }

    /// With this mode.
    pub fn mode(self, mode: u64) -> Open {
        Open { mode, ..self }
    }

    /// With these RESOLVE_* flags.
    pub fn resolve(self, resolve: u64) -> Open {
        Open { resolve, ..self }
    }
}

/// An action without payload.
pub fn raw(kind: u32, flags: u32, fd: i32, newfd: i32, arg: u64) -> RawAction {
    RawAction { type_: kind, flags, fd, newfd, arg, arg_size: 0 }
}

/// Actions for the kernel, and the memory they point to apart from what their [`Act`]s own.
struct Encoded {
    actions: Vec<RawAction>,
    payloads: Vec<Box<[u64]>>,
}

impl Encoded {
    /// Encodes actions; `acts` must outlive the call, because strings and lists stay where they are.
    fn new(acts: &[Act]) -> Encoded {
        let mut encoded = Encoded { actions: Vec::new(), payloads: Vec::new() };
        for act in acts {
            let action = encoded.encode(act);
            encoded.actions.push(action);
        }
        encoded
    }

    /// Keeps a payload and returns its address, which stays the same.
    fn keep(&mut self, words: &[u64]) -> u64 {
        let words: Box<[u64]> = words.into();
        let address = words.as_ptr() as u64;
        self.payloads.push(words);
        address
    }

    /// Keeps a signal set and what describes it.
    fn sigset(&mut self, set: u64) -> u64 {
        let set = self.keep(&[set]);
        self.keep(&[set, 8])
    }

    fn encode(&mut self, act: &Act) -> RawAction {
        let with_fd = |kind, fd| raw(kind, 0, fd, 0, 0);
        let with_arg = |kind, arg| raw(kind, 0, 0, 0, arg);
        match *act {
            Act::Close(fd) => with_fd(uapi::SPAWN_TEMPLATE_ACTION_CLOSE, fd),
            Act::Dup2(fd, newfd) => raw(uapi::SPAWN_TEMPLATE_ACTION_DUP2, 0, fd, newfd, 0),
            Act::Dup2Cloexec(fd, newfd) => raw(uapi::SPAWN_TEMPLATE_ACTION_DUP2, libc::O_CLOEXEC as u32, fd, newfd, 0),
            Act::Fchdir(fd) => with_fd(uapi::SPAWN_TEMPLATE_ACTION_FCHDIR, fd),
            Act::CloseRange(first, last, flags) => raw(uapi::SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, flags, first, last, 0),
            Act::Open(ref open) => {
                let path = open.path.as_ptr() as u64;
                let payload = self.keep(&[path, open.flags as u64, open.mode, open.resolve]);
                raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, open.dir, open.newfd, payload)
            }
            Act::Sigmask(set) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, self.sigset(set)),
            Act::Sigdefault(set) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT, self.sigset(set)),
            Act::Chdir(ref path) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_CHDIR, path.as_ptr() as u64),
            Act::Setsid => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SETSID, 0),
            Act::Setpgid(group) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SETPGID, group),
            Act::Tcsetpgrp(fd) => with_fd(uapi::SPAWN_TEMPLATE_ACTION_TCSETPGRP, fd),
            Act::Setctty(fd) => with_fd(uapi::SPAWN_TEMPLATE_ACTION_SETCTTY, fd),
            Act::Umask(mask) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_UMASK, mask),
            Act::Rlimit(resource, soft, hard) => {
                let payload = self.keep(&[resource.into(), soft, hard]);
                with_arg(uapi::SPAWN_TEMPLATE_ACTION_RLIMIT, payload)
            }
            Act::Sched(ref sched) => {
                let payload = self.keep(&sched.words(48));
                with_arg(uapi::SPAWN_TEMPLATE_ACTION_SCHED, payload)
            }
            Act::Resetids => with_arg(uapi::SPAWN_TEMPLATE_ACTION_RESETIDS, 0),
            Act::Setuid(id) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SETUID, id),
            Act::Setgid(id) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SETGID, id),
            Act::Setgroups(ref groups) => {
                let payload = self.keep(&[groups.as_ptr() as u64, groups.len() as u64]);
                with_arg(uapi::SPAWN_TEMPLATE_ACTION_SETGROUPS, payload)
            }
            Act::NoNewPrivs => with_arg(uapi::SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS, 0),
            Act::Pdeathsig(signal) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_PDEATHSIG, signal),
            Act::Sigignore(set) => with_arg(uapi::SPAWN_TEMPLATE_ACTION_SIGIGNORE, self.sigset(set)),
            Act::Cgroup(fd) => with_fd(uapi::SPAWN_TEMPLATE_ACTION_CGROUP, fd),
            Act::Raw(action) => action,
        }
    }
}

/// A process to start.
#[derive(Clone)]
pub struct Spawn<'a> {
    template: &'a Template,
    argv: Vec<CString>,
    envp: Vec<CString>,
    actions: Vec<Act>,
    flags: u64,
}

impl<'a> Spawn<'a> {
    /// Replaces argv, the zeroth included.
    pub fn argv<S: AsRef<str>>(mut self, argv: impl IntoIterator<Item = S>) -> Spawn<'a> {
        self.argv = argv.into_iter().map(|s| os::c_path(s.as_ref())).collect();
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: &str) -> Spawn<'a> {
        self.argv.push(os::c_path(arg));
        self
    }

    /// Replaces the environment.
    pub fn envp<S: AsRef<str>>(mut self, envp: impl IntoIterator<Item = S>) -> Spawn<'a> {
        self.envp = envp.into_iter().map(|s| os::c_path(s.as_ref())).collect();
        self
    }

    /// Adds an action.
    pub fn act(mut self, act: Act) -> Spawn<'a> {
        self.actions.push(act);
        self
    }

    /// Adds actions.
    pub fn acts(mut self, acts: impl IntoIterator<Item = Act>) -> Spawn<'a> {
        self.actions.extend(acts);
        self
    }

    /// Adds an OPEN.
    pub fn open(self, open: Open) -> Spawn<'a> {
        self.act(Act::Open(open))
    }

    /// Sets INHERIT_FDS.
    pub fn inherit_fds(mut self) -> Spawn<'a> {
        self.flags |= u64::from(uapi::SPAWN_TEMPLATE_SPAWN_INHERIT_FDS);
        self
    }

    /// Inherits or not.
    pub fn inherit(self, inherit: bool) -> Spawn<'a> {
        if inherit { self.inherit_fds() } else { self }
    }

    /// Sets NOWAIT.
    pub fn nowait(mut self) -> Spawn<'a> {
        self.flags |= u64::from(uapi::SPAWN_TEMPLATE_SPAWN_NOWAIT);
        self
    }

    /// What is asked for so far, in the kernel's form.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Asks for no pidfd. [`Child`] gets one all the same, from `pidfd_open`.
    pub fn no_pidfd(mut self) -> Spawn<'a> {
        self.flags |= u64::from(uapi::SPAWN_TEMPLATE_SPAWN_NO_PIDFD);
        self
    }

    /// Calls the kernel, after `change` has had its way with the arguments.
    pub fn run_changed(&self, change: impl FnOnce(&mut SpawnArgs)) -> io::Result<Child> {
        self.run_at(self.template.raw(), change)
    }

    /// The same with another descriptor in the place of the template's.
    pub fn run_at(&self, template: RawFd, change: impl FnOnce(&mut SpawnArgs)) -> io::Result<Child> {
        let mut pidfd: RawFd = -1;
        let wanted = self.flags & u64::from(uapi::SPAWN_TEMPLATE_SPAWN_NO_PIDFD) == 0;
        let (argv, envp) = (os::pointers(&self.argv), os::pointers(&self.envp));
        let encoded = Encoded::new(&self.actions);
        let mut args = SpawnArgs {
            flags: self.flags,
            pidfd: if wanted { &raw mut pidfd as u64 } else { 0 },
            argv: argv.as_ptr() as u64,
            envp: envp.as_ptr() as u64,
            actions: if encoded.actions.is_empty() { 0 } else { encoded.actions.as_ptr() as u64 },
            actions_len: encoded.actions.len() as u64,
            ..Default::default()
        };
        change(&mut args);
        let pid = os::template_spawn(template, &raw const args as u64, SPAWN_SIZE)?;
        if !wanted && pid > 0 && pidfd == -1 {
            return Ok(Child { pid, pidfd: os::pidfd_open(pid)?, waited: false });
        }
        if pid <= 0 || pidfd < 0 {
            return Err(io::Error::other(format!("success, but pid {pid} and pidfd {pidfd}")));
        }
        // SAFETY: the call succeeded, so it has stored a new descriptor there that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Child { pid, pidfd, waited: false })
    }

    /// Starts the process.
    pub fn run(&self) -> io::Result<Child> {
        self.run_changed(|_| {})
    }

    /// Starts the process, after `change` has had its way with the arguments, and returns what the kernel reports too.
    pub fn report_changed(&self, change: impl FnOnce(&mut SpawnArgs)) -> (io::Result<Child>, RawResult) {
        let mut result = UNREPORTED;
        let address = &raw mut result as u64;
        let child = self.run_changed(|args| {
            (args.result, args.result_size) = (address, size_of::<RawResult>() as u64);
            change(args);
        });
        // The kernel wrote behind the compiler's back.
        // SAFETY: the pointer is to a live local.
        let result = unsafe { (&raw const result).read_volatile() };
        (child, result)
    }

    /// Starts the process and returns what the kernel reports too.
    pub fn report(&self) -> (io::Result<Child>, RawResult) {
        self.report_changed(|_| {})
    }

    /// Starts the process and waits for its end.
    pub fn status(&self) -> io::Result<Status> {
        self.run()?.wait()
    }

    /// Starts the process with its standard output in a pipe and returns all of it; the actions run after that.
    pub fn output(&self) -> io::Result<(Status, Vec<u8>)> {
        let (reader, writer) = os::pipe()?;
        let mut with_pipe = self.clone();
        with_pipe.actions.insert(0, Act::Dup2(writer.as_raw_fd(), 1));
        let child = with_pipe.run()?;
        drop(writer);
        let mut output = Vec::new();
        File::from(reader).read_to_end(&mut output)?;
        Ok((child.wait()?, output))
    }

    /// Starts a `show` and returns what it saw.
    #[track_caller]
    pub fn show(&self) -> Outcome<Show> {
        let (status, output) =
            self.output().map_err(|e| failed(format!("spawn: {}", crate::harness::error_name(&e))))?;
        if status != Status::Exited(0) {
            return Err(failed(format!("show ended with {status:?}")));
        }
        Ok(Show::parse(&output))
    }
}

/// What a [`RawResult`] holds before the call; no value of the kernel's is like it.
pub const UNREPORTED: RawResult = RawResult { stage: u32::MAX, action: i32::MIN, error: i32::MIN, reserved: u32::MAX };

/// A started process. Killed and reaped when dropped before it was waited for, so that a failing test leaves none.
#[derive(Debug)]
pub struct Child {
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    waited: bool,
}

impl Child {
    /// Waits for its end, by pidfd.
    pub fn wait(mut self) -> io::Result<Status> {
        self.waited = true;
        match os::wait_pidfd(self.pidfd.as_raw_fd(), 0)? {
            Some((pid, status)) if pid == self.pid => Ok(status),
            other => Err(io::Error::other(format!("waiting for {} gave {other:?}", self.pid))),
        }
    }

    /// Leaves waiting to the test.
    pub fn leave(mut self) -> (i32, OwnedFd) {
        self.waited = true;
        let pidfd = self.pidfd.try_clone();
        (self.pid, pidfd.unwrap_or_else(|e| panic!("dup of a pidfd: {e}")))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited {
            let _ = os::pidfd_kill(self.pidfd.as_raw_fd(), libc::SIGKILL);
            let _ = os::wait_pidfd(self.pidfd.as_raw_fd(), 0);
        }
    }
}

/// What `show` prints when the same program is started the traditional way, by fork and `exec`, with standard output in a
/// pipe and nothing but 0, 1 and 2 open. `exec` returns only when it fails.
#[track_caller]
pub fn show_by_exec(exec: impl FnOnce() -> io::Error) -> Outcome<Show> {
    let (reader, writer) = os::pipe()?;
    let pid = os::fork()?;
    if pid == 0 {
        let _ = os::dup2(writer.as_raw_fd(), 1).and_then(|()| os::cloexec_from_3());
        exec();
        os::exit_now(127);
    }
    drop(writer);
    let mut output = Vec::new();
    File::from(reader).read_to_end(&mut output)?;
    match os::waitpid(pid, 0)?.1 {
        Status::Exited(0) => Ok(Show::parse(&output)),
        status => Err(failed(format!("exec of show ended with {status:?}"))),
    }
}

/// A folder of a test's own, removed with everything in it when dropped.
pub struct Folder(String);

impl Folder {
    /// Makes `NAME` in `parent`, anew.
    pub fn new(parent: &str, name: &str) -> io::Result<Folder> {
        let path = format!("{parent}/spawn-template-{name}");
        if let Err(e) = fs::remove_dir_all(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }

    /// In `/tmp`, which is a tmpfs in the guest.
    pub fn tmp(name: &str) -> io::Result<Folder> {
        Folder::new("/tmp", name)
    }

    /// The folder's own path.
    pub fn path(&self) -> &str {
        &self.0
    }

    /// The path of something in it.
    pub fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// Copies a child program into it, mode 0755, and returns the copy's path.
    pub fn copy(&self, name: &str) -> io::Result<String> {
        let path = self.join(name);
        fs::copy(child(name), &path)?;
        set_mode(&path, 0o755)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// chmod.
pub fn set_mode(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}
