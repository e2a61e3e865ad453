//! Seccomp: of each action, a filter sees the system call that it stands for, with the arguments of that call.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use spawn_template::uapi;

use crate::failing::{Failing, Failure, Stage, fields};
use crate::filter::{Arg, Filter, errno};
use crate::harness::{Checks, Outcome, errno_name, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Open, RawAction, RawResult, Sched, Spawn, Template, raw};
use crate::{ensure, same, tests};

tests!("seccomp_arguments":
    seen_as_they_are [300], null_pointers_are_not_seen [120], every_signal_is_asked_about, limits_may_be_read_but_not_set,
    groups_may_be_dropped_but_not_taken, descriptors_of_the_caller, every_answer_but_allow_refuses [300],
    refused_action_is_named, refused_without_waiting, nothing_has_happened,
);

/// What the filters of these tests answer.
const ANSWER: i32 = libc::EXDEV;

/// An action, and the system call that it stands for.
struct Case {
    what: &'static str,
    act: Act,
    number: libc::c_long,
    args: Vec<Arg>,
}

/// The memory that actions refer to, at addresses that are known before the kernel is called.
struct Memory {
    path: CString,
    folder_path: CString,
    open: Box<[u64; 4]>,
    resolved: Box<[u64; 5]>,
    set: Box<[u64; 1]>,
    sigset: Box<[u64; 2]>,
    limit: Box<[u64; 3]>,
    sched: Box<[u64; 6]>,
    list: Box<[u32; 3]>,
    groups: Box<[u64; 2]>,
    folder: File,
    cgroup: File,
}

impl Memory {
    fn new() -> std::io::Result<Memory> {
        let path = c"/dev/null".to_owned();
        let set = Box::new([os::sigbit(libc::SIGUSR1)]);
        let list = Box::new([5, 6, 7]);
        Ok(Memory {
            folder_path: c"/".to_owned(),
            open: Box::new([path.as_ptr() as u64, libc::O_RDWR as u64, 0, 0]),
            resolved: Box::new([path.as_ptr() as u64, libc::O_RDWR as u64, 0, libc::RESOLVE_NO_MAGICLINKS, 0]),
            sigset: Box::new([set.as_ptr() as u64, 8]),
            limit: Box::new([libc::RLIMIT_CORE.into(), 4096, 8192]),
            sched: Box::new(Sched { nice: 3, ..Sched::default() }.words(48)),
            groups: Box::new([list.as_ptr() as u64, 3]),
            folder: File::open("/")?,
            cgroup: File::open("/sys/fs/cgroup")?,
            path,
            set,
            list,
        })
    }

    /// An action with a structure at this address.
    fn at(kind: u32, address: u64) -> Act {
        Act::Raw(raw(kind, 0, 0, 0, address))
    }

    /// Every action, with all system calls that it stands for. Real IDs are [`REAL`].
    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut case = |what, act, number, args: &[Arg]| cases.push(Case { what, act, number, args: args.to_vec() });
        let int = |value: i32| Arg::Int(value as u32);
        let address = |memory: *const u64| memory as u64;
        let whole = |memory: u64| Arg::Whole(memory);
        let (folder, cgroup) = (self.folder.as_raw_fd(), self.cgroup.as_raw_fd());
        let path = whole(self.path.as_ptr() as u64);
        let set = whole(address(self.set.as_ptr()));
        let eight = whole(8);

        case("CLOSE", Act::Close(5), libc::SYS_close, &[int(5)]);
        case("DUP2", Act::Dup2(1, 7), libc::SYS_dup2, &[int(1), int(7)]);
        case("DUP2 with O_CLOEXEC", Act::Dup2Cloexec(1, 7), libc::SYS_dup3, &[int(1), int(7), int(libc::O_CLOEXEC)]);
        case("DUP2 of one of the caller's", Act::Dup2(folder, 7), libc::SYS_dup2, &[int(folder), int(7)]);
        case("FCHDIR", Act::Fchdir(folder), libc::SYS_fchdir, &[int(folder)]);
        let open_of = |dir, memory: &[u64], arg_size| {
            let (type_, arg) = (uapi::SPAWN_TEMPLATE_ACTION_OPEN, address(memory.as_ptr()));
            Act::Raw(RawAction { type_, flags: 0, fd: dir, newfd: 9, arg, arg_size })
        };
        let open = |dir, memory: &[u64]| open_of(dir, memory, 0);
        let (here, read_write) = (libc::AT_FDCWD, int(libc::O_RDWR));
        case("OPEN", open(here, &self.open[..]), libc::SYS_openat, &[int(here), path, read_write, int(0)]);
        case(
            "OPEN from a folder",
            open(folder, &self.open[..]),
            libc::SYS_openat,
            &[int(folder), path, read_write, int(0)],
        );
        // The last word belongs to a later version, and is zero.
        for (what, size, of_how) in
            [("OPEN with resolve", 0, 24), ("OPEN with resolve, sized", 32, 24), ("OPEN with resolve, longer", 40, 32)]
        {
            let args = [int(here), path, Arg::Pointer, whole(of_how)];
            case(what, open_of(here, &self.resolved[..], size), libc::SYS_openat2, &args);
        }
        let last = int(i32::MAX);
        case("CLOSE_RANGE", Act::CloseRange(5, i32::MAX, 4), libc::SYS_close_range, &[int(5), last, int(4)]);
        case("CLOSE_RANGE of all", Act::CloseRange(5, -1, 0), libc::SYS_close_range, &[int(5), int(-1), int(0)]);
        let sigset = address(self.sigset.as_ptr());
        let args = [int(libc::SIG_SETMASK), set, Arg::Null, eight];
        case("SIGMASK", Memory::at(uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, sigset), libc::SYS_rt_sigprocmask, &args);
        let args = [int(libc::SIGUSR1), Arg::Pointer, Arg::Null, eight];
        case("SIGDEFAULT", Memory::at(uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT, sigset), libc::SYS_rt_sigaction, &args);
        case("SIGIGNORE", Memory::at(uapi::SPAWN_TEMPLATE_ACTION_SIGIGNORE, sigset), libc::SYS_rt_sigaction, &args);
        let folder_path = address(self.folder_path.as_ptr().cast());
        case(
            "CHDIR",
            Memory::at(uapi::SPAWN_TEMPLATE_ACTION_CHDIR, folder_path),
            libc::SYS_chdir,
            &[whole(folder_path)],
        );
        case("SETSID", Act::Setsid, libc::SYS_setsid, &[]);
        case("SETPGID", Act::Setpgid(0), libc::SYS_setpgid, &[int(0), int(0)]);
        let request = |request| whole(request);
        case("TCSETPGRP", Act::Tcsetpgrp(2), libc::SYS_ioctl, &[int(2), request(libc::TIOCSPGRP), Arg::Pointer]);
        case("SETCTTY", Act::Setctty(2), libc::SYS_ioctl, &[int(2), request(libc::TIOCSCTTY), whole(0)]);
        case("UMASK", Act::Umask(0o27), libc::SYS_umask, &[int(0o27)]);
        let limit = Memory::at(uapi::SPAWN_TEMPLATE_ACTION_RLIMIT, address(self.limit.as_ptr()));
        let args = [int(0), int(libc::RLIMIT_CORE as i32), Arg::Pointer, Arg::Null];
        case("RLIMIT", limit, libc::SYS_prlimit64, &args);
        let sched = address(self.sched.as_ptr());
        let args = [int(0), whole(sched), int(0)];
        case("SCHED", Memory::at(uapi::SPAWN_TEMPLATE_ACTION_SCHED, sched), libc::SYS_sched_setattr, &args);
        let (user, group) = REAL;
        let args = |id| [int(-1), Arg::Int(id), int(-1)];
        case("RESETIDS, groups", Act::Resetids, libc::SYS_setresgid, &args(group));
        case("RESETIDS, users", Act::Resetids, libc::SYS_setresuid, &args(user));
        case("SETUID", Act::Setuid(12), libc::SYS_setuid, &[int(12)]);
        case("SETGID", Act::Setgid(13), libc::SYS_setgid, &[int(13)]);
        let groups = Memory::at(uapi::SPAWN_TEMPLATE_ACTION_SETGROUPS, address(self.groups.as_ptr()));
        case("SETGROUPS", groups, libc::SYS_setgroups, &[int(3), whole(self.list.as_ptr() as u64)]);
        let args = [int(libc::PR_SET_NO_NEW_PRIVS), whole(1), whole(0), whole(0), whole(0)];
        case("NO_NEW_PRIVS", Act::NoNewPrivs, libc::SYS_prctl, &args);
        let args = [int(libc::PR_SET_PDEATHSIG), whole(libc::SIGTERM as u64)];
        case("PDEATHSIG", Act::Pdeathsig(libc::SIGTERM as u64), libc::SYS_prctl, &args);
        case("CGROUP", Act::Cgroup(cgroup), libc::SYS_clone3, &[Arg::Pointer, Arg::Any]);
        cases
    }
}

/// Real user and group ID in these tests; root's power is in the effective ones.
const REAL: (u32, u32) = (12345, 12346);

/// Real IDs, from which those that RESETIDS sets can be told from zeros.
fn take_real_ids() -> Outcome {
    os::setresgid(REAL.1, 0, 0)?;
    os::setresuid(REAL.0, 0, 0)?;
    Ok(())
}

/// Runs `body` with a template in a process with those IDs.
fn with_cases(body: impl FnOnce(&Template, Vec<Case>) -> Outcome) -> Outcome {
    in_worker(|| {
        take_real_ids()?;
        let template = Template::child("nothing")?;
        let memory = Memory::new()?;
        let cases = memory.cases();
        body(&template, cases)
    })
}

/// How a spawn with a filter went: errno or 0, what was reported, and whether a child was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    error: i32,
    report: (u32, i32, i32, u32),
    left: bool,
}

impl Answer {
    /// One that a filter gave about an action, or about execve with -1.
    fn of_filter(action: i32, error: i32) -> Answer {
        Answer { error, report: (Stage::Identity as u32, action, error, 0), left: false }
    }
}

/// Installs the filter in a process that can hardly do anything afterwards, runs the spawn there, and reports through a
/// page of shared memory.
fn ask(filter: Filter, run: impl FnOnce() -> (i32, RawResult)) -> Outcome<Answer> {
    let shared = os::SharedPage::new()?;
    let worker = os::fork()?;
    if worker == 0 {
        if filter.install().is_err() {
            os::exit_now(2);
        }
        let (error, result) = run();
        let left = os::has_children().unwrap_or(true);
        let (stage, action, reported, reserved) = fields(&result);
        let words = [error as u32, stage, action as u32, reported as u32, reserved, u32::from(left)];
        for (i, word) in words.into_iter().enumerate() {
            shared.set(i, word);
        }
        // Whatever is still to be dropped would need system calls.
        os::exit_now(0);
    }
    same!(os::waitpid(worker, 0)?.1, Status::Exited(0), "the process with the filter");
    let word = |i| shared.get(i);
    let report = (word(1), word(2) as i32, word(3) as i32, word(4));
    Ok(Answer { error: word(0) as i32, report, left: word(5) != 0 })
}

/// Runs a spawn in a process with a filter and waits for its child.
fn ask_spawn(filter: Filter, spawn: &Spawn<'_>) -> Outcome<Answer> {
    ask(filter, || {
        let (child, result) = spawn.report();
        let error = match child {
            Ok(child) => {
                let (pid, pidfd) = child.leave();
                let _ = os::waitpid(pid, 0);
                std::mem::forget(pidfd);
                0
            }
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        (error, result)
    })
}

/// The error of the call itself, in a process with a filter: what a child of fork gets.
fn ask_call(filter: Filter, number: libc::c_long, args: &[Arg]) -> Outcome<i32> {
    let mut values = [0; 6];
    for (value, arg) in values.iter_mut().zip(args) {
        *value = match *arg {
            Arg::Any | Arg::Null => 0,
            Arg::Int(value) => value.into(),
            Arg::Whole(value) => value,
            Arg::Pointer => c"".as_ptr() as u64,
        };
    }
    let answer = ask(filter, || {
        let [a, b, c, d, e, f] = values;
        // SAFETY: the filter answers in the kernel's place, and otherwise the test fails in a process of its own.
        let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        let error = if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 };
        (error, crate::template::UNREPORTED)
    })?;
    Ok(answer.error)
}

/// A filter on exactly the arguments of the call forbids the call, and forbids the action.
fn seen_as_they_are() -> Outcome {
    with_cases(|template, cases| {
        same!(cases.len(), 31, "actions and their calls");
        let mut checks = Checks::default();
        for Case { what, act, number, args } in cases {
            let filter = || Filter::allowing().on_arguments(number, &args, errno(ANSWER));
            same!(ask_call(filter(), number, &args)?, ANSWER, "the call of {what}, made by itself");
            let answer = ask_spawn(filter(), &template.spawn().act(act))?;
            if answer != Answer::of_filter(0, ANSWER) {
                checks.fail(format!("{what}: {answer:?} with a filter on {args:?}"));
            }
        }
        let argv = [c"child".as_ptr() as u64, 0];
        let envp = [c"A=B".as_ptr() as u64, 0];
        let args = [Arg::Pointer, Arg::Whole(argv.as_ptr() as u64), Arg::Whole(envp.as_ptr() as u64)];
        let answer = ask(Filter::allowing().on_arguments(libc::SYS_execve, &args, errno(ANSWER)), || {
            let (child, result) = template
                .spawn()
                .report_changed(|args| (args.argv, args.envp) = (argv.as_ptr() as u64, envp.as_ptr() as u64));
            let error = child.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0);
            (error, result)
        })?;
        if answer != Answer::of_filter(-1, ANSWER) {
            checks.fail(format!("execve: {answer:?} with a filter on {args:?}"));
        }
        checks.finish()
    })
}

/// Where a call has a pointer, a filter that forbids null is not asked about null.
fn null_pointers_are_not_seen() -> Outcome {
    with_cases(|template, cases| {
        let mut checks = Checks::default();
        let mut pointers = 0;
        let nothing = Act::Close(5);
        let execve = [Arg::Pointer; 3];
        let cases = cases.into_iter().map(|case| (case.what, case.act, case.number, case.args));
        for (what, act, number, args) in cases.chain([("execve", nothing, libc::SYS_execve, execve.to_vec())]) {
            for (i, arg) in args.iter().enumerate() {
                let is_pointer = match arg {
                    Arg::Pointer => true,
                    Arg::Whole(value) => *value > 1 << 32,
                    _ => false,
                };
                if !is_pointer {
                    continue;
                }
                pointers += 1;
                let mut null = vec![Arg::Any; i];
                null.push(Arg::Null);
                // Of prctl and ioctl, several have the same number.
                if number == libc::SYS_ioctl {
                    null[1] = args[1];
                }
                let filter = Filter::allowing().on_arguments(number, &null, errno(ANSWER));
                let answer = ask_spawn(filter, &template.spawn().act(act.clone()))?;
                if answer.error == ANSWER {
                    checks.fail(format!("{what}: argument {i} was seen as null"));
                }
            }
        }
        same!(pointers, 20, "arguments that are pointers");
        checks.finish()
    })
}

/// SIGDEFAULT and SIGIGNORE stand for one rt_sigaction for each signal of the set.
fn every_signal_is_asked_about() -> Outcome {
    let template = Template::child("nothing")?;
    let signals = [libc::SIGHUP, libc::SIGUSR2, libc::SIGCHLD, 64];
    let set = signals.into_iter().map(os::sigbit).fold(0, |set, bit| set | bit);
    let mut checks = Checks::default();
    for (what, act) in [("SIGDEFAULT", Act::Sigdefault(set)), ("SIGIGNORE", Act::Sigignore(set))] {
        let spawn = template.spawn().acts([Act::Umask(0o77), act]);
        for signal in 0..=65 {
            let filter =
                Filter::allowing().on_arguments(libc::SYS_rt_sigaction, &[Arg::Int(signal as u32)], errno(ANSWER));
            let answer = ask_spawn(filter, &spawn)?;
            let (refused, wanted) = (answer == Answer::of_filter(1, ANSWER), signals.contains(&signal));
            if refused != wanted {
                checks.fail(format!("{what}, a filter on signal {signal}: {answer:?}"));
            }
        }
    }
    checks.finish()
}

/// "Get, not set": what browsers let their renderers do.
fn limits_may_be_read_but_not_set() -> Outcome {
    in_worker(|| {
        let template = Template::child("show")?;
        let args = [Arg::Any, Arg::Any, Arg::Pointer];
        Filter::allowing().on_arguments(libc::SYS_prlimit64, &args, errno(libc::EPERM)).install()?;
        ensure!(os::rlimit(libc::RLIMIT_CORE).is_ok(), "a limit cannot be read");
        let lower = os::set_rlimit(libc::RLIMIT_CORE, 77);
        same!(lower.map_err(|e| e.raw_os_error()), Err(Some(libc::EPERM)), "setting a limit");
        let (child, result) = template.spawn().act(Act::Rlimit(libc::RLIMIT_CORE, 77, 77)).report();
        same!(child.map(drop).map_err(|e| e.raw_os_error()), Err(Some(libc::EPERM)), "a spawn with RLIMIT");
        same!(fields(&result), (Stage::Identity as u32, 0, libc::EPERM, 0), "report");
        Ok(())
    })
}

/// A filter on the count of setgroups.
fn groups_may_be_dropped_but_not_taken() -> Outcome {
    in_worker(|| {
        os::setgroups(&[42])?;
        let template = Template::child("show")?;
        let none = Filter::allowing().on_arguments(libc::SYS_setgroups, &[Arg::Int(0)], libc::SECCOMP_RET_ALLOW);
        none.on(libc::SYS_setgroups, errno(libc::EPERM)).install()?;
        let (child, result) = template.spawn().act(Act::Setgroups(vec![42, 4242])).report();
        same!(child.map(drop).map_err(|e| e.raw_os_error()), Err(Some(libc::EPERM)), "a spawn that takes groups");
        same!(fields(&result), (Stage::Identity as u32, 0, libc::EPERM, 0), "report");
        let show = template.spawn().act(Act::Setgroups(vec![])).show()?;
        same!(show.numbers("status.Groups"), Vec::<i64>::new(), "groups of a child that drops them");
        Ok(())
    })
}

/// A descriptor has one number for a filter, whether the child has inherited it or only uses it.
fn descriptors_of_the_caller() -> Outcome {
    let template = Template::child("nothing")?;
    let folder = os::dup_from(File::open("/")?.as_raw_fd(), 77, true)?;
    let fd: RawFd = folder.as_raw_fd();
    let mut checks = Checks::default();
    for (what, act, number) in [
        ("DUP2", Act::Dup2(fd, 9), libc::SYS_dup2),
        ("FCHDIR", Act::Fchdir(fd), libc::SYS_fchdir),
        ("OPEN", Act::Open(Open::new("dev/null", libc::O_RDONLY, 9).at(fd)), libc::SYS_openat),
        ("TCSETPGRP", Act::Tcsetpgrp(fd), libc::SYS_ioctl),
        ("SETCTTY", Act::Setctty(fd), libc::SYS_ioctl),
    ] {
        for inherit in [false, true] {
            let spawn = template.spawn().act(act.clone()).inherit(inherit);
            let filter = Filter::allowing().on_arguments(number, &[Arg::Int(fd as u32)], errno(ANSWER));
            let answer = ask_spawn(filter, &spawn)?;
            if answer != Answer::of_filter(0, ANSWER) {
                checks.fail(format!("{what}, inherit {inherit}: {answer:?}"));
            }
        }
    }
    checks.finish()
}

/// What traces a call, announces it to a supervisor or kills for it cannot take part: EPERM, and no child.
fn every_answer_but_allow_refuses() -> Outcome {
    let answers = [
        ("ERRNO EIO", errno(libc::EIO), libc::EIO),
        ("TRACE", libc::SECCOMP_RET_TRACE | 7, libc::EPERM),
        ("USER_NOTIF", libc::SECCOMP_RET_USER_NOTIF, libc::EPERM),
        ("TRAP", libc::SECCOMP_RET_TRAP, libc::EPERM),
        ("KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD, libc::EPERM),
        ("KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS, libc::EPERM),
        ("an answer that does not exist", 0x1234_0000, libc::EPERM),
    ];
    with_cases(|template, cases| {
        let mut checks = Checks::default();
        let mut count = 0;
        for Case { what, act, number, args } in cases {
            for (name, answer, error) in answers {
                // On these arguments only: the process itself closes files.
                let filter = Filter::allowing().on_arguments(number, &args, answer);
                count += 1;
                let got = ask_spawn(filter, &template.spawn().act(act.clone()));
                match got {
                    Ok(got) if got == Answer::of_filter(0, error) => {}
                    other => checks.fail(format!("{what}, {name}: {other:?}")),
                }
            }
            for answer in [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG] {
                let filter = Filter::allowing().on_arguments(number, &args, answer);
                count += 1;
                let got = ask_spawn(filter, &template.spawn().act(act.clone()))?;
                // Standard error of a test is no terminal.
                let terminal = matches!(act, Act::Tcsetpgrp(_) | Act::Setctty(_));
                if got.report.0 != 0 && !(terminal && got.report.0 == Stage::Action as u32) {
                    checks.fail(format!("{what}, allowed with {answer:#x}: {got:?}"));
                }
            }
        }
        same!(count, 31 * 9, "combinations");
        checks.finish()
    })
}

/// The action that a filter refuses is named by its index, wherever it is.
fn refused_action_is_named() -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    for index in [0, 1, 17, 200] {
        let mut acts = vec![Act::Umask(0o22); 201];
        acts[index as usize] = Act::Umask(0o31);
        let filter = Filter::allowing().on_arguments(libc::SYS_umask, &[Arg::Int(0o31)], errno(ANSWER));
        let answer = ask_spawn(filter, &template.spawn().acts(acts))?;
        if answer != Answer::of_filter(index, ANSWER) {
            checks.fail(format!("action {index}: {answer:?}, {}", errno_name(answer.error)));
        }
    }
    checks.finish()
}

/// A caller that does not wait is told of a refusal as well.
fn refused_without_waiting() -> Outcome {
    in_worker(|| {
        let template = Template::child("nothing")?;
        Filter::allowing().on_arguments(libc::SYS_umask, &[Arg::Int(0o31)], errno(ANSWER)).install()?;
        let spawn = |mask| template.spawn().act(Act::Umask(mask)).nowait();
        let mut failing = Failing::new()?;
        let refused = Failure { error: ANSWER, stage: Stage::Identity, action: 0 };
        failing.spawn("an action that is refused", &spawn(0o31), refused);
        failing.finish()?;
        same!(spawn(0o22).status()?, Status::Exited(0), "status with one that is not");
        Ok(())
    })
}

/// What the caller's own filters forbid is found before anything has happened.
fn nothing_has_happened() -> Outcome {
    let template = Template::child("nothing")?;
    let folder = crate::template::Folder::tmp("seccomp-order")?;
    let create = Open::new(folder.join("made"), libc::O_WRONLY | libc::O_CREAT, 9).mode(0o600);
    let filter = Filter::allowing().on_arguments(libc::SYS_umask, &[Arg::Int(0o31)], errno(ANSWER));
    let spawn = template.spawn().open(create).acts([Act::Umask(0o31), Act::Umask(0)]);
    same!(ask_spawn(filter, &spawn)?, Answer::of_filter(1, ANSWER), "a refused action after one that is not");
    ensure!(!std::fs::exists(folder.join("made"))?, "the action before the refused one has happened");
    Ok(())
}
