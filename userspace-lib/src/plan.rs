//! A command in the form that the kernel takes.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

use libc::c_int;

use crate::command::Task;
use crate::environment::Environment;
use crate::fork_exec::duplicate_above;
use crate::process;
use crate::raw::{Request, address};
use crate::stdio::Kind;
use crate::uapi::*;
use crate::{Action, Call, Command, Error, Fd, InvalidInput, SchedAttr, Scheduler, SignalSet, Step};

/// What the standard streams are that the command says nothing about.
pub(crate) type Defaults = [Kind<'static>; 3];

/// Arguments, environment and actions as the kernel takes them.
///
/// The kernel takes addresses, not pointers, and so does this: everything they lead to belongs to the command, which
/// must not change meanwhile, or to the fields below, on the heap.
pub(crate) struct Plan<'c> {
    flags: u64,
    argv: Vec<u64>,
    environment: Environment<'c>,
    actions: Vec<spawn_template_action>,
    /// Which part of the command an action belongs to.
    steps: Vec<Step>,
    /// What the actions lead to.
    _payloads: Vec<(usize, Payload)>,
    /// Standard streams that are pipes: the index of the action.
    pipes: [Option<usize>; 3],
    /// Descriptors of the caller at other numbers, because theirs are something else in the child by then.
    _copies: Vec<OwnedFd>,
    /// The action that may fail with `EPERM`.
    optional: Option<usize>,
    _command: PhantomData<&'c ()>,
}

enum Payload {
    Open(spawn_template_open),
    Set(spawn_template_sigset),
    Rlimit(spawn_template_rlimit),
    Sched(SchedAttr),
    Groups(spawn_template_groups),
}

impl Payload {
    fn address(&self) -> u64 {
        match self {
            Payload::Open(open) => address(open),
            Payload::Set(set) => address(set),
            Payload::Rlimit(rlimit) => address(rlimit),
            Payload::Sched(attr) => address(attr),
            Payload::Groups(groups) => address(groups),
        }
    }

    /// What the kernel wants to be told of it.
    fn size(&self) -> u64 {
        let size = match self {
            Payload::Open(open) => size_of_val(open),
            Payload::Set(set) => size_of_val(set),
            Payload::Rlimit(rlimit) => size_of_val(rlimit),
            // It has its size in it.
            Payload::Sched(_) => 0,
            Payload::Groups(groups) => size_of_val(groups),
        };
        size as u64
    }
}

/// The ends of the pipes.
#[derive(Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
    /// The child's ends.
    _theirs: [Option<OwnedFd>; 3],
}

impl<'c> Plan<'c> {
    /// Translates a command. With `copy` the caller's environment is taken as it is now.
    pub(crate) fn new(command: &'c Command<'_>, defaults: &Defaults, copy: bool) -> Result<Self, Error> {
        if let Some(mistake) = command.mistake {
            return Err(mistake.into());
        }
        // With the standard streams and the groups that go with a user.
        let steps = command.steps.len() + 4;
        let mut builder = Builder {
            table: Table::new(command),
            actions: Vec::with_capacity(steps),
            steps: Vec::with_capacity(steps),
            ..Builder::default()
        };
        let mut defaults = (0..).zip(defaults).peekable();
        for (&step, task) in &command.steps {
            while let Some((fd, default)) = defaults.next_if(|(fd, _)| Step::Fd(*fd) <= step) {
                // One that the command sets has no default.
                if Step::Fd(fd) != step {
                    builder.stream(fd, default)?;
                }
            }
            builder.task(command, step, task)?;
        }
        for (fd, default) in defaults {
            builder.stream(fd, default)?;
        }
        let mut flags = 0;
        if command.inherit_fds {
            flags |= u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS);
        }
        if command.nowait {
            flags |= u64::from(SPAWN_TEMPLATE_SPAWN_NOWAIT);
        }
        let mut plan = builder.finish()?;
        plan.flags = flags;
        // As with the environment, plain loops: chained iterators take more instructions.
        plan.argv.reserve_exact(command.args.len() + 1);
        for arg in &command.args {
            plan.argv.push(address(arg.as_ptr()));
        }
        plan.argv.push(0);
        plan.environment = command.environment.environment(copy);
        Ok(plan)
    }

    /// Which part of the command the action with this index belongs to; those after the last are closures.
    pub(crate) fn step(&self, action: usize) -> Step {
        let closure = action.saturating_sub(self.steps.len());
        self.steps.get(action).copied().unwrap_or(Step::PreExec(closure))
    }

    /// Whether the failure of this action is one that the command does not mind.
    pub(crate) fn may_fail(&self, action: Option<usize>, error: c_int) -> bool {
        action.is_some() && action == self.optional && error == libc::EPERM
    }

    /// The plan without the action that may fail.
    pub(crate) fn without_optional(&self, actions: &mut Vec<spawn_template_action>) {
        if let Some(index) = self.optional {
            actions.remove(index);
        }
    }

    /// Index in the whole plan of the action that had this index after [`without_optional`](Self::without_optional).
    pub(crate) fn index_with_optional(&self, action: usize) -> usize {
        match self.optional {
            Some(optional) if action >= optional => action + 1,
            _ => action,
        }
    }

    /// Makes the pipes, and the actions with their numbers.
    pub(crate) fn open_pipes(&self) -> Result<(Pipes, Vec<spawn_template_action>), Error> {
        let mut actions = self.actions.clone();
        let mut pipes = Pipes::default();
        let mut places = pipes._theirs.iter_mut();
        for (target, index) in (0..).zip(self.pipes) {
            let (Some(index), Some(place)) = (index, places.next()) else { continue };
            let (reader, writer) = pipe()?;
            let (ours, theirs) = if target == libc::STDIN_FILENO { (writer, reader) } else { (reader, writer) };
            // Only a caller without standard streams gets a low number, which may be another stream's in the child.
            let theirs = if theirs.as_raw_fd() > libc::STDERR_FILENO {
                theirs
            } else {
                duplicate_above(theirs.as_raw_fd(), 3).map_err(|error| Error::os(Call::Duplicate, error))?
            };
            if let Some(action) = actions.get_mut(index) {
                action.fd = theirs.as_raw_fd();
            }
            *place = Some(theirs);
            match target {
                libc::STDIN_FILENO => pipes.stdin = Some(ours.into()),
                libc::STDOUT_FILENO => pipes.stdout = Some(ours.into()),
                _ => pipes.stderr = Some(ours.into()),
            }
        }
        Ok((pipes, actions))
    }

    /// The request with these actions.
    pub(crate) fn request<'a>(&'a self, actions: &'a [spawn_template_action]) -> Request<'a> {
        Request { flags: self.flags, argv: self.argv.as_ptr().cast(), envp: self.environment.as_ptr(), actions }
    }

    #[cfg(test)]
    pub(crate) fn actions(&self) -> &[spawn_template_action] {
        &self.actions
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let mut fds: [c_int; 2] = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(Error::os(Call::Pipe, io::Error::last_os_error()));
    }
    // SAFETY: the call has just made them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}

#[derive(Default)]
struct Builder {
    table: Table,
    actions: Vec<spawn_template_action>,
    steps: Vec<Step>,
    /// With the index of the action that leads to it.
    payloads: Vec<(usize, Payload)>,
    pipes: [Option<usize>; 3],
    cgroup: bool,
    optional: Option<usize>,
}

impl Builder {
    fn task(&mut self, command: &Command<'_>, step: Step, task: &Task<'_>) -> Result<(), Error> {
        match task {
            Task::Action(action) => {
                if step == Step::Uid && !command.steps.contains_key(&Step::Groups) && may_drop_groups(command) {
                    // As the standard library does: without this the groups of the old user would stay. That it is
                    // not permitted is no reason to fail.
                    self.optional = Some(self.actions.len());
                    let none = spawn_template_groups::default();
                    self.add(Step::Groups, SPAWN_TEMPLATE_ACTION_SETGROUPS, 0, 0, 0, Some(Payload::Groups(none)));
                }
                self.action(step, action)
            }
            Task::Stream(kind) => match step {
                Step::Fd(fd) => self.stream(fd, kind),
                _ => Ok(()),
            },
            Task::Scheduler(scheduler, nice) => {
                let attr = match (*scheduler, *nice) {
                    (Some(scheduler @ (Scheduler::Other | Scheduler::Batch)), None) => {
                        SchedAttr::new(scheduler, current_nice()?)
                    }
                    (Some(scheduler), nice) => SchedAttr::new(scheduler, nice.unwrap_or(0)),
                    (None, nice) => SchedAttr::nice(nice.unwrap_or(0)),
                };
                self.add(step, SPAWN_TEMPLATE_ACTION_SCHED, 0, 0, 0, Some(Payload::Sched(attr)));
                Ok(())
            }
        }
    }

    /// A standard stream.
    fn stream(&mut self, fd: RawFd, kind: &Kind<'_>) -> Result<(), Error> {
        let step = Step::Fd(fd);
        match kind {
            Kind::Inherit => {}
            Kind::Null => {
                let flags = if fd == libc::STDIN_FILENO { libc::O_RDONLY } else { libc::O_WRONLY };
                let how = open_how { flags: flags as u64, ..Default::default() };
                let open = spawn_template_open { path: address(c"/dev/null".as_ptr()), how };
                self.add(step, SPAWN_TEMPLATE_ACTION_OPEN, libc::AT_FDCWD, fd, 0, Some(Payload::Open(open)));
                self.table.place(fd, true);
            }
            Kind::Piped => {
                let index = self.add(step, SPAWN_TEMPLATE_ACTION_DUP2, -1, fd, 0, None);
                // Only standard streams can be pipes.
                if let Some(pipe) = usize::try_from(fd).ok().and_then(|fd| self.pipes.get_mut(fd)) {
                    *pipe = Some(index);
                }
                self.table.place(fd, true);
            }
            Kind::Fd(source) => self.duplicate(step, source, fd, false)?,
        }
        Ok(())
    }

    fn duplicate(&mut self, step: Step, source: &Fd<'_>, target: RawFd, cloexec: bool) -> Result<(), Error> {
        let number = self.table.source(step, source)?;
        not_negative(step, target)?;
        let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
        let index = self.add(step, SPAWN_TEMPLATE_ACTION_DUP2, number, target, 0, None);
        self.actions[index].flags = flags as u32;
        // What keeps its number is still the same file.
        self.table.place(target, number != target);
        Ok(())
    }

    fn action(&mut self, step: Step, action: &Action<'_>) -> Result<(), Error> {
        let (type_, fd, newfd, arg, payload) = match action {
            Action::Dup2 { source, target, cloexec } => return self.duplicate(step, source, *target, *cloexec),
            Action::Close(fd) => {
                not_negative(step, *fd)?;
                self.table.close(*fd, *fd);
                (SPAWN_TEMPLATE_ACTION_CLOSE, *fd, 0, 0, None)
            }
            Action::CloseRange { first, last, cloexec } => {
                not_negative(step, *first)?;
                let end = last.unwrap_or(RawFd::MAX);
                not_negative(step, end)?;
                if *first > end {
                    return Err(InvalidInput::EmptyRange(step).into());
                }
                let index = self.add(step, SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, *first, last.unwrap_or(-1), 0, None);
                if *cloexec {
                    self.actions[index].flags = libc::CLOSE_RANGE_CLOEXEC;
                } else {
                    self.table.close(*first, end);
                }
                return Ok(());
            }
            Action::Open { open, target } => {
                let dir = match &open.dir {
                    Some(dir) => self.table.source(step, dir)?,
                    None => libc::AT_FDCWD,
                };
                not_negative(step, *target)?;
                self.table.place(*target, true);
                let payload = spawn_template_open { path: address(open.path.get()?.as_ptr()), how: open.how };
                (SPAWN_TEMPLATE_ACTION_OPEN, dir, *target, 0, Some(Payload::Open(payload)))
            }
            Action::Fchdir(dir) => (SPAWN_TEMPLATE_ACTION_FCHDIR, self.table.source(step, dir)?, 0, 0, None),
            Action::Chdir(path) => (SPAWN_TEMPLATE_ACTION_CHDIR, 0, 0, address(path.get()?.as_ptr()), None),
            Action::Sigmask(set) => (SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, 0, Some(signals(set))),
            Action::Sigdefault(set) => (SPAWN_TEMPLATE_ACTION_SIGDEFAULT, 0, 0, 0, Some(signals(set))),
            Action::Sigignore(set) => (SPAWN_TEMPLATE_ACTION_SIGIGNORE, 0, 0, 0, Some(signals(set))),
            Action::Setsid => (SPAWN_TEMPLATE_ACTION_SETSID, 0, 0, 0, None),
            Action::Setpgid(group) => {
                let arg = u64::try_from(*group).map_err(|_| InvalidInput::ProcessGroup(*group))?;
                (SPAWN_TEMPLATE_ACTION_SETPGID, 0, 0, arg, None)
            }
            Action::Tcsetpgrp(fd) => (SPAWN_TEMPLATE_ACTION_TCSETPGRP, self.table.source(step, fd)?, 0, 0, None),
            Action::Setctty(fd) => (SPAWN_TEMPLATE_ACTION_SETCTTY, self.table.source(step, fd)?, 0, 0, None),
            Action::Umask(mask) if *mask > 0o777 => return Err(InvalidInput::Umask(*mask).into()),
            Action::Umask(mask) => (SPAWN_TEMPLATE_ACTION_UMASK, 0, 0, u64::from(*mask), None),
            Action::Rlimit { resource, soft, hard } => {
                let limit = resource.limit(*soft, *hard);
                if limit.cur > limit.max {
                    return Err(InvalidInput::SoftLimit(*resource).into());
                }
                (SPAWN_TEMPLATE_ACTION_RLIMIT, 0, 0, 0, Some(Payload::Rlimit(limit)))
            }
            Action::Sched(attr) => (SPAWN_TEMPLATE_ACTION_SCHED, 0, 0, 0, Some(Payload::Sched(*attr))),
            Action::ResetIds => (SPAWN_TEMPLATE_ACTION_RESETIDS, 0, 0, 0, None),
            Action::Setuid(id) => (SPAWN_TEMPLATE_ACTION_SETUID, 0, 0, checked_id(step, *id)?, None),
            Action::Setgid(id) => (SPAWN_TEMPLATE_ACTION_SETGID, 0, 0, checked_id(step, *id)?, None),
            Action::Setgroups(groups) => {
                for id in groups {
                    checked_id(step, *id)?;
                }
                let list = if groups.is_empty() { 0 } else { address(groups.as_ptr()) };
                let payload = spawn_template_groups { groups: list, count: groups.len() as u64 };
                (SPAWN_TEMPLATE_ACTION_SETGROUPS, 0, 0, 0, Some(Payload::Groups(payload)))
            }
            Action::NoNewPrivs => (SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS, 0, 0, 0, None),
            Action::Pdeathsig(signal) => match u64::try_from(*signal) {
                Ok(arg @ 0..=64) => (SPAWN_TEMPLATE_ACTION_PDEATHSIG, 0, 0, arg, None),
                _ => return Err(InvalidInput::SignalNumber(*signal).into()),
            },
            Action::Cgroup(directory) => {
                if std::mem::replace(&mut self.cgroup, true) {
                    return Err(InvalidInput::TwoCgroups.into());
                }
                // The kernel takes the caller's descriptor, whatever was placed at its number.
                not_negative(step, directory.number())?;
                (SPAWN_TEMPLATE_ACTION_CGROUP, directory.number(), 0, 0, None)
            }
        };
        self.add(step, type_, fd, newfd, arg, payload);
        Ok(())
    }

    /// Adds an action and returns its index.
    fn add(&mut self, step: Step, type_: u32, fd: RawFd, newfd: RawFd, arg: u64, payload: Option<Payload>) -> usize {
        let index = self.actions.len();
        let arg_size = payload.as_ref().map_or(0, Payload::size);
        self.actions.push(spawn_template_action { type_, flags: 0, fd, newfd, arg, arg_size });
        self.steps.push(step);
        if let Some(payload) = payload {
            self.payloads.push((index, payload));
        }
        index
    }

    /// The plan, with addresses: nothing moves any more on the heap.
    fn finish<'c>(mut self) -> Result<Plan<'c>, Error> {
        if self.actions.len() > SPAWN_TEMPLATE_MAX_ACTIONS as usize {
            return Err(InvalidInput::TooManyActions.into());
        }
        for (action, payload) in &self.payloads {
            self.actions[*action].arg = payload.address();
        }
        Ok(Plan {
            flags: 0,
            argv: Vec::new(),
            environment: Environment::Callers,
            actions: self.actions,
            steps: self.steps,
            _payloads: self.payloads,
            pipes: self.pipes,
            _copies: self.table.copies,
            optional: self.optional,
            _command: PhantomData,
        })
    }
}

/// What the steps so far have done to the numbers of the child's descriptor table.
///
/// The kernel knows numbers only. This tells a descriptor of the caller from one of the child with the same number.
#[derive(Default)]
struct Table {
    /// Where a step has placed something, which a [`ChildFd`](crate::ChildFd) may name; and whether that is something
    /// else than the caller has there, so that a descriptor of the caller must not be looked for.
    placed: Vec<(RawFd, bool)>,
    copies: Vec<OwnedFd>,
    /// Whether the child has everything that the caller has.
    inherit: bool,
    /// The highest number where something is placed.
    highest: RawFd,
}

impl Table {
    fn new(command: &Command<'_>) -> Self {
        let target = |(step, task): (&Step, &Task<'_>)| match (step, task) {
            (Step::Fd(fd), _) => *fd,
            (_, Task::Action(Action::Dup2 { target, .. } | Action::Open { target, .. })) => *target,
            _ => 0,
        };
        let highest = command.steps.iter().map(target).max().unwrap_or(0).max(libc::STDERR_FILENO);
        // Streams that the command says nothing about are often pipes.
        let placed = Vec::with_capacity(command.steps.len() + 3);
        Table { placed, inherit: command.inherit_fds, highest, ..Table::default() }
    }

    /// The number that the kernel has to look for: that of the source, or of a copy at a number that nobody places
    /// anything at.
    fn source(&mut self, step: Step, source: &Fd<'_>) -> Result<RawFd, Error> {
        let fd = source.number();
        not_negative(step, fd)?;
        match source {
            Fd::Caller(_) | Fd::Owned(_) if self.placed(fd) == Some(true) => {
                let copy = duplicate_above(fd, self.highest.saturating_add(1))
                    .map_err(|error| Error::os(Call::Duplicate, error))?;
                let number = copy.as_raw_fd();
                self.copies.push(copy);
                Ok(number)
            }
            Fd::Child(_) if fd > libc::STDERR_FILENO && !self.inherit && self.placed(fd).is_none() => {
                Err(InvalidInput::NothingPlaced { step, fd }.into())
            }
            _ => Ok(fd),
        }
    }

    fn placed(&self, fd: RawFd) -> Option<bool> {
        self.placed.iter().find(|(placed, _)| *placed == fd).map(|(_, replaced)| *replaced)
    }

    /// Something is at this number now; `replaced` if it is not what the caller has there.
    fn place(&mut self, fd: RawFd, replaced: bool) {
        match self.placed.iter_mut().find(|(placed, _)| *placed == fd) {
            // What has been replaced stays so.
            Some((_, before)) => *before |= replaced,
            None => self.placed.push((fd, replaced)),
        }
    }

    fn close(&mut self, first: RawFd, last: RawFd) {
        self.placed.retain(|(fd, _)| !(first..=last).contains(fd));
    }
}

fn not_negative(step: Step, fd: RawFd) -> Result<(), InvalidInput> {
    if fd < 0 { Err(InvalidInput::NegativeFd(step)) } else { Ok(()) }
}

fn checked_id(step: Step, id: u32) -> Result<u64, InvalidInput> {
    if id == u32::MAX { Err(InvalidInput::Id(step)) } else { Ok(u64::from(id)) }
}

fn signals(set: &SignalSet) -> Payload {
    Payload::Set(spawn_template_sigset { sigset: address(set), sigsetsize: size_of_val(set) as u64 })
}

/// Whether to try to drop the groups of a child with another user. Where nobody waits to see it fail only if it is sure
/// to be permitted, as far as one can tell.
fn may_drop_groups(command: &Command<'_>) -> bool {
    // SAFETY: takes and changes nothing.
    !command.nowait || unsafe { libc::geteuid() } == 0
}

/// The nice value that the child is born with.
fn current_nice() -> Result<i32, Error> {
    process::nice_of_child().map_err(|errno| Error::os(Call::Priority, io::Error::from_raw_os_error(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::{CStr, c_char};
    use std::fs::File;

    use crate::{ChildFd, Open, Resource, Stdio};

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn command() -> Command<'static> {
        Command::new("/bin/cat")
    }

    fn plan<'c>(command: &'c Command<'_>) -> Result<Plan<'c>> {
        Ok(Plan::new(command, &[Kind::Inherit, Kind::Inherit, Kind::Inherit], true)?)
    }

    fn mistake(command: &Command<'_>) -> InvalidInput {
        match command.spawn() {
            Err(Error::Input(mistake)) => mistake,
            other => panic!("{other:?}"),
        }
    }

    /// The strings of a vector, as the kernel would read them.
    fn strings(vector: &[u64]) -> Vec<&CStr> {
        let [strings @ .., 0] = vector else { panic!("not ended by 0: {vector:?}") };
        let pointers = strings.iter().map(|&address| std::ptr::with_exposed_provenance::<c_char>(address as usize));
        // SAFETY: the plan has made them from C strings that still live.
        pointers.map(|pointer| unsafe { CStr::from_ptr(pointer) }).collect()
    }

    fn environment<'p>(plan: &'p Plan<'_>) -> Vec<&'p CStr> {
        match &plan.environment {
            Environment::Whole(vector) => strings(vector),
            Environment::Built { vector, .. } => strings(vector),
            Environment::Callers => panic!("the caller's own"),
        }
    }

    fn read<T: Copy>(address: u64) -> T {
        // SAFETY: only used on addresses that the plan has made from a T that still lives.
        unsafe { std::ptr::with_exposed_provenance::<T>(address as usize).read() }
    }

    /// The actions without what every command starts with, which is not looked at here.
    fn plain(plan: &Plan<'_>) -> Vec<(u32, u32, RawFd, RawFd)> {
        let own = plan.actions().iter().filter(|action| action.type_ != SPAWN_TEMPLATE_ACTION_SIGDEFAULT);
        own.map(|action| (action.type_, action.flags, action.fd, action.newfd)).collect()
    }

    #[test]
    fn argument_vector() -> Result {
        let mut command = command();
        assert_eq!(strings(&plan(&command)?.argv), [c"/bin/cat"]);
        command.arg("-n").args(["", "a b"]);
        assert_eq!(strings(&plan(&command)?.argv), [c"/bin/cat", c"-n", c"", c"a b"]);
        command.arg0("dog");
        assert_eq!(strings(&plan(&command)?.argv), [c"dog", c"-n", c"", c"a b"]);
        Ok(())
    }

    #[test]
    fn environment_is_the_callers_with_changes() -> Result {
        let mut command = command();
        command.env("B", "2").env("A", "1").env("B", "3").env("CARGO", "x").env_remove("PATH").env_remove("C");
        let plan = plan(&command)?;
        let envp = environment(&plan);
        assert!(envp.ends_with(&[c"A=1", c"B=3", c"CARGO=x"]), "{envp:?}");
        assert_eq!(envp.iter().filter(|variable| variable.to_bytes().starts_with(b"CARGO=")).count(), 1);
        assert!(!envp.iter().any(|variable| variable.to_bytes().starts_with(b"PATH=")));
        let unchanged = std::env::vars_os().filter(|(name, _)| name != "PATH" && name != "CARGO").count();
        assert_eq!(envp.len(), unchanged + 3);
        Ok(())
    }

    #[test]
    fn environment_can_be_empty_or_only_what_is_set() -> Result {
        let mut command = command();
        command.env("A", "1").env_clear();
        assert!(environment(&plan(&command)?).is_empty());
        command.envs([("X", "with = sign"), ("Y", "")]);
        assert_eq!(environment(&plan(&command)?), [c"X=with = sign", c"Y="]);
        Ok(())
    }

    #[test]
    fn actions_in_the_kernels_form() -> Result {
        let file = File::open("/dev/null")?;
        let fd = file.as_raw_fd();
        let mut command = command();
        let mask = SignalSet::of([1])?;
        command
            .sigdefault(SignalSet::full())
            .dup2(&file, 1)
            .action(Action::Dup2 { source: ChildFd(1).into(), target: 200, cloexec: true })
            .fchdir(&file)
            .open(Open::read_write("a").create(0o640).append(true).resolve(8), 0)
            .action(Action::Sigmask(mask))
            .open(Open::read("b").at(&file), 201)
            .action(Action::chdir("c"))
            .close(2)
            .close_range(300, None)
            .action(Action::CloseRange { first: 300, last: Some(400), cloexec: true });
        let plan = plan(&command)?;
        assert_eq!(
            plain(&plan),
            [
                (SPAWN_TEMPLATE_ACTION_DUP2, 0, fd, 1),
                (SPAWN_TEMPLATE_ACTION_DUP2, libc::O_CLOEXEC as u32, 1, 200),
                (SPAWN_TEMPLATE_ACTION_FCHDIR, 0, fd, 0),
                (SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 0),
                (SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, 0),
                (SPAWN_TEMPLATE_ACTION_OPEN, 0, fd, 201),
                (SPAWN_TEMPLATE_ACTION_CHDIR, 0, 0, 0),
                (SPAWN_TEMPLATE_ACTION_CLOSE, 0, 2, 0),
                (SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, 0, 300, -1),
                (SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, libc::CLOSE_RANGE_CLOEXEC, 300, 400),
            ]
        );
        let args: Vec<u64> = plan.actions().iter().map(|action| action.arg).collect();
        for index in [0, 1, 2, 7, 8, 9] {
            assert_eq!(args[index], 0);
        }
        let open: spawn_template_open = read(args[3]);
        assert_eq!(strings(&[open.path, 0]), [c"a"]);
        assert_eq!(open.how.flags, (libc::O_RDWR | libc::O_CREAT | libc::O_APPEND) as u64);
        assert_eq!((open.how.mode, open.how.resolve), (0o640, 8));
        let open: spawn_template_open = read(args[5]);
        assert_eq!(strings(&[open.path, 0]), [c"b"]);
        assert_eq!((open.how.flags, open.how.mode, open.how.resolve), (0, 0, 0));
        assert_eq!(strings(&[args[6], 0]), [c"c"]);
        for (index, bits) in [(4, mask.bits()), (10, u64::MAX)] {
            let sigset: spawn_template_sigset = read(args[index]);
            assert_eq!((read::<u64>(sigset.sigset), sigset.sigsetsize), (bits, 8));
        }
        Ok(())
    }

    #[test]
    fn every_step_in_its_order() -> Result {
        let tty = File::open("/dev/null")?;
        let fd = tty.as_raw_fd();
        let mut command = command();
        let mask = SignalSet::full();
        command
            .sigmask(mask)
            .sigignore(mask)
            .action(Action::Setsid)
            .current_dir("/")
            .parent_death_signal(9)
            .no_new_privs(true)
            .reset_ids(true)
            .uid(3)
            .gid(4)
            .groups(&[5, 6])
            .umask(0o77)
            .rlimit(Resource::Nofile, Some(7), None)
            .nice(8)
            .fd(1000, &tty)
            .stdin(Stdio::null())
            .foreground(&tty)
            .controlling_terminal(&tty)
            .process_group(10)
            .setsid(true)
            .cgroup(&tty);
        let plan = plan(&command)?;
        let types: Vec<_> = plan.actions().iter().map(|action| (action.type_, action.fd, action.newfd)).collect();
        assert_eq!(
            types,
            [
                (SPAWN_TEMPLATE_ACTION_CGROUP, fd, 0),
                (SPAWN_TEMPLATE_ACTION_SETSID, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SETPGID, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SETCTTY, fd, 0),
                (SPAWN_TEMPLATE_ACTION_TCSETPGRP, fd, 0),
                (SPAWN_TEMPLATE_ACTION_OPEN, libc::AT_FDCWD, 0),
                (SPAWN_TEMPLATE_ACTION_DUP2, fd, 1000),
                (SPAWN_TEMPLATE_ACTION_SCHED, 0, 0),
                (SPAWN_TEMPLATE_ACTION_RLIMIT, 0, 0),
                (SPAWN_TEMPLATE_ACTION_UMASK, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SETGROUPS, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SETGID, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SETUID, 0, 0),
                (SPAWN_TEMPLATE_ACTION_RESETIDS, 0, 0),
                (SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS, 0, 0),
                (SPAWN_TEMPLATE_ACTION_PDEATHSIG, 0, 0),
                (SPAWN_TEMPLATE_ACTION_CHDIR, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SETSID, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SIGDEFAULT, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SIGIGNORE, 0, 0),
                (SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0),
            ]
        );
        let steps: Vec<_> = (0..plan.actions().len()).map(|index| plan.step(index)).collect();
        assert!(steps.is_sorted(), "{steps:?}");
        let args: Vec<u64> = plan.actions().iter().map(|action| action.arg).collect();
        assert_eq!((args[2], args[9], args[11], args[12], args[15]), (10, 0o77, 4, 3, 9));
        let rlimit: spawn_template_rlimit = read(args[8]);
        assert_eq!((rlimit.resource, rlimit.cur, rlimit.max), (libc::RLIMIT_NOFILE.into(), 7, u64::MAX));
        let groups: spawn_template_groups = read(args[10]);
        assert_eq!((groups.count, read::<[u32; 2]>(groups.groups)), (2, [5, 6]));
        let sched: [u32; 12] = read(args[7]);
        // Size, policy, flags (keep the policy), nice.
        assert_eq!(sched[..5], [48, 0, 8, 0, 8]);
        // One more than the actions is the first closure.
        assert_eq!(plan.step(plan.actions().len()), Step::PreExec(0));
        Ok(())
    }

    #[test]
    fn a_new_user_loses_the_old_groups() -> Result {
        let mut command = command();
        command.gid(1).uid(2);
        let plan = plan(&command)?;
        let types: Vec<_> = plain(&plan).iter().map(|action| action.0).collect();
        use crate::uapi::{SPAWN_TEMPLATE_ACTION_SETGID as GID, SPAWN_TEMPLATE_ACTION_SETGROUPS as GROUPS};
        assert_eq!(types, [GID, GROUPS, SPAWN_TEMPLATE_ACTION_SETUID]);
        assert!(plan.may_fail(Some(1), libc::EPERM) && !plan.may_fail(Some(1), libc::EINVAL));
        assert!(!plan.may_fail(Some(0), libc::EPERM) && !plan.may_fail(None, libc::EPERM));
        let mut actions = plan.actions().to_vec();
        plan.without_optional(&mut actions);
        assert_eq!(actions.len(), plan.actions().len() - 1);
        assert_eq!([0, 1].map(|index| plan.step(plan.index_with_optional(index))), [Step::Gid, Step::Uid]);
        Ok(())
    }

    #[test]
    fn flags() -> Result {
        let mut command = command();
        assert_eq!(plan(&command)?.flags, 0);
        command.inherit_fds(true);
        assert_eq!(plan(&command)?.flags, u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS));
        command.nowait(true).inherit_fds(false);
        assert_eq!(plan(&command)?.flags, u64::from(SPAWN_TEMPLATE_SPAWN_NOWAIT));
        Ok(())
    }

    #[test]
    fn nul_bytes_are_mistakes() {
        assert_eq!(mistake(command().args(["a", "b\0"])), InvalidInput::NulInArgument(2));
        assert_eq!(mistake(command().arg0("\0")), InvalidInput::NulInArgument(0));
        assert_eq!(mistake(command().env("A", "\0")), InvalidInput::NulInEnvironment);
        assert_eq!(mistake(command().env("A\0", "")), InvalidInput::NulInEnvironment);
        assert_eq!(mistake(command().open(Open::read("/dev/null\0"), 0)), InvalidInput::NulInPath);
        assert_eq!(mistake(command().current_dir("/\0")), InvalidInput::NulInPath);
        assert_eq!(mistake(&Command::new("/bin/\0")), InvalidInput::NulInPath);
    }

    #[test]
    fn names_of_variables_are_checked() {
        for name in ["", "A=B", "="] {
            assert_eq!(mistake(command().env(name, "")), InvalidInput::EnvironmentName);
        }
    }

    #[test]
    fn the_first_mistake_counts_and_stays() {
        let mut command = command();
        command.arg("\0").env("", "").arg("good");
        assert_eq!(mistake(&command), InvalidInput::NulInArgument(1));
        assert_eq!(mistake(&command), InvalidInput::NulInArgument(1));
    }

    #[test]
    fn at_most_256_actions() -> Result {
        let mut command = command();
        command.sigdefault(SignalSet::empty());
        for fd in 0..256 {
            command.close(fd);
        }
        assert_eq!(plan(&command)?.actions().len(), 256);
        command.close(256);
        assert_eq!(mistake(&command), InvalidInput::TooManyActions);
        Ok(())
    }

    #[test]
    fn negative_numbers_and_empty_ranges() -> Result {
        let file = File::open("/dev/null")?;
        let negative = |action| InvalidInput::NegativeFd(Step::Action(action));
        assert_eq!(mistake(command().close(-1)), negative(0));
        assert_eq!(mistake(command().close(0).dup2(&file, -100)), negative(1));
        assert_eq!(mistake(command().dup2(ChildFd(-1), 0)), negative(0));
        assert_eq!(mistake(command().open(Open::read("/"), -1)), negative(0));
        assert_eq!(mistake(command().close_range(-1, None)), negative(0));
        assert_eq!(mistake(command().close_range(3, Some(-1))), negative(0));
        assert_eq!(mistake(command().close_range(3, Some(2))), InvalidInput::EmptyRange(Step::Action(0)));
        assert_eq!(mistake(command().fd(-1, &file)), InvalidInput::NegativeFd(Step::Fd(-1)));
        Ok(())
    }

    #[test]
    fn values_are_checked() -> Result {
        assert_eq!(mistake(command().umask(0o1000)), InvalidInput::Umask(0o1000));
        assert_eq!(mistake(command().process_group(-1)), InvalidInput::ProcessGroup(-1));
        assert_eq!(mistake(command().parent_death_signal(65)), InvalidInput::SignalNumber(65));
        assert_eq!(mistake(command().parent_death_signal(-1)), InvalidInput::SignalNumber(-1));
        assert_eq!(mistake(command().uid(u32::MAX)), InvalidInput::Id(Step::Uid));
        assert_eq!(mistake(command().gid(u32::MAX)), InvalidInput::Id(Step::Gid));
        assert_eq!(mistake(command().groups(&[1, u32::MAX])), InvalidInput::Id(Step::Groups));
        let too_low = InvalidInput::SoftLimit(Resource::Core);
        assert_eq!(mistake(command().rlimit(Resource::Core, None, Some(1))), too_low);
        let file = File::open("/dev/null")?;
        assert_eq!(mistake(command().cgroup(&file).action(Action::Cgroup((&file).into()))), InvalidInput::TwoCgroups);
        Ok(())
    }

    #[test]
    fn one_descriptor_for_each_number() -> Result {
        let file = File::open("/dev/null")?;
        assert_eq!(mistake(command().fd(5, &file).fd(5, &file)), InvalidInput::FdCollision(5));
        assert_eq!(mistake(command().fd(1, &file).stdout(&file)), InvalidInput::FdCollision(1));
        assert_eq!(mistake(command().stdout(&file).fd(1, &file)), InvalidInput::FdCollision(1));
        assert!(command().stdout(&file).stdout(Stdio::null()).prepare().is_ok());
        Ok(())
    }

    #[test]
    fn a_childs_descriptor_has_to_be_placed_first() -> Result {
        let file = File::open("/dev/null")?;
        let fd = 1000;
        let nothing = |action| InvalidInput::NothingPlaced { step: Step::Action(action), fd };

        assert_eq!(mistake(command().dup2(ChildFd(fd), 1)), nothing(0));
        assert_eq!(mistake(command().fchdir(ChildFd(fd))), nothing(0));
        assert_eq!(mistake(command().open(Open::read("a").at(ChildFd(fd)), 0)), nothing(0));
        assert!(command().dup2(ChildFd(2), 1).prepare().is_ok());
        assert!(command().dup2(&file, fd).dup2(ChildFd(fd), 1).prepare().is_ok());
        assert!(command().open(Open::read("/"), fd).fchdir(ChildFd(fd)).prepare().is_ok());
        assert!(command().inherit_fds(true).fchdir(ChildFd(fd)).prepare().is_ok());

        assert_eq!(mistake(command().dup2(&file, fd).close(fd).dup2(ChildFd(fd), 1)), nothing(2));
        assert_eq!(mistake(command().dup2(&file, fd).close_range(3, None).dup2(ChildFd(fd), 1)), nothing(2));
        let cloexec = Action::CloseRange { first: 3, last: None, cloexec: true };
        assert!(command().dup2(&file, fd).action(cloexec).dup2(ChildFd(fd), 1).prepare().is_ok());
        Ok(())
    }

    #[test]
    fn a_callers_descriptor_whose_number_is_replaced_is_copied() -> Result {
        let (a, b) = (File::open("/dev/null")?, File::open("/dev/zero")?);
        let (first, second) = (a.as_raw_fd(), b.as_raw_fd());
        let mut command = command();
        command.fd(first, &b).fd(second, &a).fchdir(&b);
        let plan = plan(&command)?;
        let plain = plain(&plan);
        // The numbers are in order of their targets.
        let (low, high) = (first.min(second), first.max(second));
        assert_eq!((plain[0].2, plain[0].3, plain[1].3), (high, low, high));
        assert!(plain[1].2 > high && plain[2].2 > high, "{plain:?}");
        // A descriptor that keeps its number is still itself, and is then one of the child as well.
        let mut command = super::tests::command();
        command.dup2(&b, second).dup2(&b, 1).dup2(ChildFd(second), 2);
        let plan = super::tests::plan(&command)?;
        assert_eq!(super::tests::plain(&plan)[1].2, second);
        // One that was closed is not: the kernel answers EBADF, not with another file.
        let mut command = super::tests::command();
        command.close(second).dup2(&b, 1);
        assert_eq!(super::tests::plain(&super::tests::plan(&command)?)[1].2, second);
        Ok(())
    }
}
