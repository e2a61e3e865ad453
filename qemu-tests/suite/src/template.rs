//! Making templates and starting processes from them, close to the system calls: every field can be set to anything.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use spawn_template::uapi;
pub use spawn_template::uapi::{
    spawn_template_action as RawAction, spawn_template_create_args as CreateArgs, spawn_template_open as RawOpen,
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
    /// Anything.
    Raw(RawAction),
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
    RawAction { type_: kind, flags, fd, newfd, arg }
}

/// The structures that actions point to; kept alive over the call.
struct Encoded {
    actions: Vec<RawAction>,
    _opens: Vec<RawOpen>,
    _sigsets: Vec<(u64, RawSigset)>,
}

/// Encodes actions for the kernel.
fn encode(acts: &[Act]) -> Encoded {
    // Full-size from the start: what actions point to must not move.
    let (mut opens, mut sigsets) = (Vec::with_capacity(acts.len()), Vec::with_capacity(acts.len()));
    let mut actions = Vec::new();
    for act in acts {
        actions.push(match *act {
            Act::Close(fd) => raw(uapi::SPAWN_TEMPLATE_ACTION_CLOSE, 0, fd, 0, 0),
            Act::Dup2(fd, newfd) => raw(uapi::SPAWN_TEMPLATE_ACTION_DUP2, 0, fd, newfd, 0),
            Act::Dup2Cloexec(fd, newfd) => raw(uapi::SPAWN_TEMPLATE_ACTION_DUP2, libc::O_CLOEXEC as u32, fd, newfd, 0),
            Act::Fchdir(fd) => raw(uapi::SPAWN_TEMPLATE_ACTION_FCHDIR, 0, fd, 0, 0),
            Act::CloseRange(first, last, flags) => raw(uapi::SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, flags, first, last, 0),
            Act::Open(ref open) => {
                let mut payload = RawOpen { path: open.path.as_ptr() as u64, ..Default::default() };
                payload.how.flags = open.flags as u64;
                payload.how.mode = open.mode;
                payload.how.resolve = open.resolve;
                opens.push(payload);
                let address = opens.last().map_or(0, |payload| &raw const *payload as u64);
                raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, open.dir, open.newfd, address)
            }
            Act::Sigmask(set) | Act::Sigdefault(set) => {
                sigsets.push((set, RawSigset { sigset: 0, sigsetsize: 8 }));
                let address = sigsets.last_mut().map_or(0, |(set, payload)| {
                    payload.sigset = &raw const *set as u64;
                    &raw const *payload as u64
                });
                let mask = matches!(act, Act::Sigmask(_));
                let kinds = (uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT);
                raw(if mask { kinds.0 } else { kinds.1 }, 0, 0, 0, address)
            }
            Act::Raw(action) => action,
        });
    }
    Encoded { actions, _opens: opens, _sigsets: sigsets }
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

    /// Calls the kernel, after `change` has had its way with the arguments.
    pub fn run_changed(&self, change: impl FnOnce(&mut SpawnArgs)) -> io::Result<Child> {
        let mut pidfd: RawFd = -1;
        let (argv, envp) = (os::pointers(&self.argv), os::pointers(&self.envp));
        let encoded = encode(&self.actions);
        let mut args = SpawnArgs {
            flags: self.flags,
            pidfd: &raw mut pidfd as u64,
            argv: argv.as_ptr() as u64,
            envp: envp.as_ptr() as u64,
            actions: if encoded.actions.is_empty() { 0 } else { encoded.actions.as_ptr() as u64 },
            actions_len: encoded.actions.len() as u64,
            ..Default::default()
        };
        change(&mut args);
        let pid = os::template_spawn(self.template.raw(), &raw const args as u64, SPAWN_SIZE)?;
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
