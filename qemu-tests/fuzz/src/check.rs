//! Making one call and holding its outcome against what the interface promises.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::attacker;
use crate::call::{Call, Create, Spawn, UNTOUCHED};
use crate::sys::{self, Ended};
use crate::world::{self, Kind, World};

/// How long a child that has failed may be kept by its tracer.
const TRACED: Duration = Duration::from_secs(20);

/// How many errno values there are.
const ERRORS: usize = 134;

/// What all workers count together.
pub struct Totals {
    /// Calls that have returned.
    pub calls: AtomicU64,
    /// What was done to children from outside.
    pub attacks: attacker::Counts,
    /// Programs that have been started.
    pub starts: AtomicU64,
    /// Templates that have been made.
    pub templates: AtomicU64,
    /// Failed calls by errno.
    pub errors: [AtomicU64; ERRORS],
    /// Spawns by the stage they came to, as far as a result was asked for.
    pub stages: [AtomicU64; STAGES.len()],
}

/// The stages of `enum spawn_template_stage`.
pub const STAGES: [&str; 6] = ["none", "arguments", "identity", "create", "action", "exec"];
const NONE: usize = 0;
const ARGUMENTS: usize = 1;
const IDENTITY: usize = 2;
const CREATE: usize = 3;
const ACTION: usize = 4;
const EXEC: usize = 5;

/// What spawn_template_create(2) lists under ERRORS.
const CREATE_ERRORS: &[i32] = &[
    libc::E2BIG,
    libc::EACCES,
    libc::EBADF,
    libc::EFAULT,
    libc::EINVAL,
    libc::EIO,
    libc::ELOOP,
    libc::EMFILE,
    libc::ENAMETOOLONG,
    libc::ENFILE,
    libc::ENOENT,
    libc::ENOEXEC,
    libc::ENOMEM,
    libc::ENOTDIR,
    libc::EPERM,
    libc::ETXTBSY,
];

/// What spawn_template_spawn(2) lists under ERRORS for each stage. What an action does has its own page.
const SPAWN_ERRORS: [&[i32]; STAGES.len()] = [
    &[],
    &[
        libc::E2BIG,
        libc::EBADF,
        libc::EFAULT,
        libc::EINVAL,
        libc::EMFILE,
        libc::ENAMETOOLONG,
        libc::ENFILE,
        libc::ENOENT,
        libc::ENOMEM,
    ],
    &[libc::EACCES, libc::ESTALE],
    &[
        libc::EACCES,
        libc::EAGAIN,
        libc::EBUSY,
        libc::ENFILE,
        libc::ENODEV,
        libc::ENOENT,
        libc::ENOMEM,
        libc::EOPNOTSUPP,
    ],
    &[
        libc::EACCES,
        libc::EAGAIN,
        libc::EBADF,
        libc::EBUSY,
        libc::EEXIST,
        libc::EINVAL,
        libc::EIO,
        libc::EISDIR,
        libc::ELOOP,
        libc::EMFILE,
        libc::ENAMETOOLONG,
        libc::ENODEV,
        libc::ENOENT,
        libc::ENOMEM,
        libc::ENOTDIR,
        libc::ENOTTY,
        libc::ENXIO,
        libc::EOPNOTSUPP,
        libc::EPERM,
        libc::ESRCH,
        libc::EXDEV,
        libc::E2BIG,
    ],
    &[
        libc::E2BIG,
        libc::EACCES,
        libc::EAGAIN,
        libc::EIO,
        libc::ELIBBAD,
        libc::ENFILE,
        libc::ENOENT,
        libc::ENOEXEC,
        libc::ENOMEM,
        libc::EPERM,
        libc::ETXTBSY,
    ],
];

/// One worker's means for making calls.
pub struct Caller<'a> {
    /// What it refers to.
    pub world: &'a World,
    /// What it counts.
    pub totals: &'a Totals,
    /// How many seconds a child may take to end.
    pub patience: u64,
    /// Whether to say what comes of each call.
    pub verbose: bool,
}

type Verdict = Result<(), String>;

fn broken(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

impl Caller<'_> {
    /// Makes the call. An error says what about its outcome is wrong.
    pub fn make(&self, call: &Call, arena: &Arena) -> Verdict {
        let alone = self.world.kind.is_alone();
        let free = if alone { sys::lowest_free().map_err(broken("cannot duplicate 0"))? } else { 0 };
        match call {
            Call::Create(create) => self.create(create)?,
            Call::Spawn(spawn) => self.spawn(spawn, arena)?,
        }
        self.totals.calls.fetch_add(1, Relaxed);
        if alone {
            no_children(self.is_traced())?;
            let now = sys::lowest_free().map_err(broken("cannot duplicate 0"))?;
            if now != free {
                return Err(format!("the lowest unused descriptor was {free} before and is {now} now"));
            }
        }
        Ok(())
    }

    /// Whether a child may have a tracer, for whom one that has failed waits.
    fn is_traced(&self) -> bool {
        self.world.kind == Kind::Attacked
    }

    fn fails(&self, error: i32) {
        if let Some(count) = self.totals.errors.get(error as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn create(&self, call: &Create) -> Verdict {
        let fd = match sys::create(call.args.0, call.args.1) {
            Ok(fd) => fd,
            Err(error) => {
                self.say(format_args!("errno {error}"));
                self.fails(error);
                if !CREATE_ERRORS.contains(&error) {
                    return Err(format!("errno {error} is none of those that create has"));
                }
                return Ok(());
            }
        };
        self.say(format_args!("template {fd}"));
        self.totals.templates.fetch_add(1, Relaxed);
        let verdict = self.template(call, fd);
        sys::close(fd);
        verdict
    }

    fn template(&self, call: &Create, fd: RawFd) -> Verdict {
        if call.must_fail {
            return Err("the arguments are wrong, but there is a template".into());
        }
        let flags = sys::fd_flags(fd).map_err(broken("the template is not open"))?;
        if flags != if call.cloexec { libc::FD_CLOEXEC } else { 0 } {
            return Err(format!("the template's descriptor flags are {flags}"));
        }
        let counts = world::counts(fd).map_err(broken("fdinfo"))?;
        // Its number may be that of the template that comes and goes, which another thread is about to use.
        if counts != (0, 0) && self.world.kind.is_alone() {
            return Err(format!("a new template counts {counts:?}"));
        }
        Ok(())
    }

    fn spawn(&self, call: &Spawn, arena: &Arena) -> Verdict {
        let was = [(libc::RLIMIT_NOFILE, call.open_files), (libc::RLIMIT_NPROC, call.processes)]
            .map(|(which, limit)| limit.map(|limit| (which, sys::soft_limit(which, Some(limit)))));
        let outcome = sys::spawn(call.template, call.args.0, call.args.1);
        for (which, limit) in was.into_iter().flatten() {
            let limit = limit.map_err(broken("cannot limit"))?;
            sys::soft_limit(which, Some(limit)).map_err(broken("cannot lift a limit"))?;
        }
        if let (Some(index), true) = (call.known, call.is_counted) {
            let template = &self.world.templates[index];
            let count = if outcome.is_ok() { &template.spawns } else { &template.failures };
            count.fetch_add(1, Relaxed);
        }
        let result = call.result.map(|(address, size)| (arena.read::<16>(address), address, size));
        match outcome {
            Ok(pid) => {
                // In any case the child is reaped and the pidfd closed.
                let ended = self.reap(call, arena, pid);
                self.say(format_args!("pid {pid}, {ended:?}"));
                if let Some(result) = result {
                    self.judge_result(call, arena, result, 0)?;
                }
                self.judge_end(call, ended?)
            }
            Err(error) => {
                self.say(format_args!("errno {error}, result {:?}", result.map(|result| result.0)));
                self.fails(error);
                let left: Option<[u8; 4]> = call.may_look.then(|| arena.read(call.pidfd));
                if left.is_some_and(|left| ![[UNTOUCHED; 4], [0xff; 4]].contains(&left)) {
                    return Err(format!("errno {error}, but {left:?} where the pidfd goes"));
                }
                if let Some(result) = result {
                    return self.judge_result(call, arena, result, error);
                }
                if SPAWN_ERRORS.iter().any(|errors| errors.contains(&error))
                    || (error == libc::EINTR && self.may_die(call))
                {
                    Ok(())
                } else {
                    Err(format!("errno {error} is none of those that spawn has"))
                }
            }
        }
    }

    fn reap(&self, call: &Spawn, arena: &Arena, pid: i64) -> Result<Ended, String> {
        if call.must_fail {
            return Err(format!("the arguments are wrong, but there is a child {pid}"));
        }
        let pidfd = match call.pidfd {
            0 => sys::pidfd_open(pid).map_err(broken("cannot open a pidfd"))?,
            address => i32::from_le_bytes(arena.read(address)),
        };
        let flags = sys::fd_flags(pidfd).map_err(broken("the pidfd is not open"))?;
        let ended = self.reap_pidfd(pidfd);
        sys::close(pidfd);
        let ended = ended?;
        if flags != libc::FD_CLOEXEC {
            return Err(format!("the pidfd's descriptor flags are {flags}"));
        }
        if i64::from(ended.pid) != pid {
            return Err(format!("the pidfd is that of {}, but {pid} was returned", ended.pid));
        }
        Ok(ended)
    }

    fn reap_pidfd(&self, pidfd: RawFd) -> Result<Ended, String> {
        let ended = sys::ends_within(pidfd, self.patience as i32 * 1000).map_err(broken("poll of the pidfd"))?;
        if !ended {
            return Err(format!("the child has not ended after {} s", self.patience));
        }
        let ended = sys::reap(pidfd).map_err(broken("waitid of the pidfd"))?;
        ended.ok_or_else(|| "waitid of a pidfd that is readable returns no child".into())
    }

    /// Whether something else than the call may end the child.
    fn may_die(&self, call: &Spawn) -> bool {
        call.limited || self.world.kind == Kind::Attacked
    }

    fn judge_end(&self, call: &Spawn, ended: Ended) -> Verdict {
        // Who killed it does not say whether the program had started.
        if self.world.kind == Kind::Attacked && ended.status == -libc::SIGKILL {
            return Ok(());
        }
        // Without limits nothing of what calls do harms the program, but who does not wait can have a child that fails.
        let did_not_start = call.nowait && ended.status == 127;
        if call.must_not_start && !did_not_start {
            return Err(format!("the program must not start, but ended with {}", ended.status));
        }
        if !did_not_start {
            self.totals.starts.fetch_add(1, Relaxed);
        }
        if ended.status == 0 || did_not_start || call.limited {
            return Ok(());
        }
        Err(format!("the program ended with {}", ended.status))
    }

    /// Holds a result against what the call returned; `error` is 0 after success.
    fn judge_result(
        &self,
        call: &Spawn,
        arena: &Arena,
        (result, address, size): ([u8; 16], u64, usize),
        error: i32,
    ) -> Verdict {
        let word = |index: usize| i32::from_le_bytes(std::array::from_fn(|byte| result[index * 4 + byte]));
        let [stage, action, said, reserved] = [0, 1, 2, 3].map(word);
        let wrong = |what: &str| {
            Err(format!("errno {error}, but stage {stage}, action {action}, error {said}, reserved {reserved}: {what}"))
        };
        if said != error || reserved != 0 {
            return wrong("the error is not the call's, or reserved is set");
        }
        if size > 16 && arena.read::<1>(address + size as u64 - 1) == [UNTOUCHED] {
            return wrong("the rest of the result is not cleared");
        }
        let Some(errors) = usize::try_from(stage).ok().and_then(|stage| SPAWN_ERRORS.get(stage)) else {
            return wrong("there is no such stage");
        };
        let stage = stage as usize;
        self.totals.stages[stage].fetch_add(1, Relaxed);
        // Limits can leave the program no room for its stack, which exec finds when it writes there.
        let no_stack = stage == EXEC && error == libc::EFAULT && call.limited;
        // A limit of real-time kills who is over it, whatever it is doing.
        // An attacker's signal can come before the first action.
        let early = stage == CREATE && self.world.kind == Kind::Attacked;
        let killed = (early || [ACTION, EXEC].contains(&stage)) && error == libc::EINTR && self.may_die(call);
        let known = errors.contains(&error) || no_stack || killed;
        if (stage == NONE) != (error == 0) || (error != 0 && !known) {
            return wrong("that stage has no such error");
        }
        let in_range = action >= 0 && (action as usize) < call.actions.len();
        match stage {
            ACTION if !in_range => wrong("no action failed"),
            ARGUMENTS if action != -1 && !in_range => wrong("there is no such action"),
            ACTION | ARGUMENTS => Ok(()),
            _ if action != -1 => wrong("that stage has no action"),
            IDENTITY
                if error == libc::ESTALE && call.known.is_some_and(|known| self.world.templates[known].is_good) =>
            {
                wrong("nobody has changed the file")
            }
            _ => Ok(()),
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.verbose {
            println!("{what}");
        }
    }
}

/// Fails when the process has a child; one that has a tracer goes a little later.
pub fn no_children(is_traced: bool) -> Verdict {
    let begun = Instant::now();
    loop {
        match sys::reap_any() {
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
            Err(error) => return Err(format!("waitid: {error}")),
            Ok(None) if is_traced && begun.elapsed() < TRACED => sleep(Duration::from_millis(1)),
            Ok(ended) => return Err(format!("there is a child that no call returned: {ended:?}")),
        }
    }
}
