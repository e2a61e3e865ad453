//! In which order a tracer of any kind sees the stops of a spawn: those of vfork and exec, or of fork and exec with NOWAIT,
//! and the stop at birth before all others of the child.
//!
//! What is expected is one rule for all. A test runs it against `posix_spawn` and against fork and exec; the others run it
//! against templates.

use std::fs;
use std::io;

use crate::harness::{Checks, Outcome, failed};
use crate::os::{self, Status};
use crate::template::{Act, Open, Spawn, Template, child};
use crate::tracer::{ALL_EVENTS, Kind, Step, What, follow_as};
use crate::{ensure, same, tests};

tests!("stops":
    rule_holds_without_templates [240], every_tracer_and_option [240], child_that_fails [120], done_after_exec [120],
    system_calls_of_the_child [120], system_calls_of_actions [120], system_call_that_fails [120],
);

/// The options of the table, in all combinations.
const OPTIONS: [i32; 5] = [
    libc::PTRACE_O_TRACEFORK,
    libc::PTRACE_O_TRACEVFORK,
    libc::PTRACE_O_TRACEVFORKDONE,
    libc::PTRACE_O_TRACEEXEC,
    libc::PTRACE_O_TRACESYSGOOD,
];

/// Every combination.
fn combinations() -> impl Iterator<Item = i32> {
    (0..1 << OPTIONS.len()).map(|bits| (0..OPTIONS.len()).filter(|i| bits >> i & 1 != 0).map(|i| OPTIONS[i]).sum())
}

/// What is done in the traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    PosixSpawn,
    Fork,
    Waiting,
    Nowait,
}

impl Way {
    /// Whether the caller goes on before the child's exec.
    fn forks(self) -> bool {
        matches!(self, Way::Fork | Way::Nowait)
    }
}

/// How the child gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Nothing but exec.
    Plain,
    /// An OPEN comes first.
    Opens,
    /// An action that fails.
    Fails,
}

impl Job {
    fn add(self, spawn: Spawn<'_>) -> Spawn<'_> {
        match self {
            Job::Plain => spawn,
            Job::Opens => spawn.open(Open::new("/dev/null", libc::O_RDONLY, 5)),
            Job::Fails => spawn.act(Act::Dup2(99, 1)),
        }
    }
}

/// Starts `exit-code 4` and waits for it; the exit code is 0 when all is as it should be.
fn start(way: Way, job: Job, template: &Template) -> i32 {
    let path = os::c_path(child("exit-code"));
    let argv = [c"exit-code".to_owned(), c"4".to_owned()];
    let status = match way {
        Way::PosixSpawn => os::posix_spawn(&path, &argv).and_then(|pid| Ok(os::waitpid(pid, 0)?.1)),
        Way::Fork => os::fork().and_then(|pid| {
            if pid == 0 {
                os::execve(&path, &argv, &[]);
                os::exit_now(127);
            }
            Ok(os::waitpid(pid, 0)?.1)
        }),
        Way::Waiting => job.add(template.spawn().arg("4")).status(),
        Way::Nowait => job.add(template.spawn().arg("4")).nowait().status(),
    };
    let good = match (job, way) {
        (Job::Fails, Way::Waiting) => status.is_err_and(|e| e.raw_os_error() == Some(libc::EBADF)),
        (Job::Fails, _) => status.is_ok_and(|status| status == Status::Exited(127)),
        _ => status.is_ok_and(|status| status == Status::Exited(4)),
    };
    i32::from(!good)
}

/// What a step is called.
fn name(step: &Step) -> String {
    match step.what {
        What::Event(libc::PTRACE_EVENT_FORK, _) => "FORK".to_owned(),
        What::Event(libc::PTRACE_EVENT_VFORK, _) => "VFORK".to_owned(),
        What::Event(libc::PTRACE_EVENT_VFORK_DONE, _) => "VFORK_DONE".to_owned(),
        What::Event(libc::PTRACE_EVENT_EXEC, _) => "EXEC".to_owned(),
        What::Event(libc::PTRACE_EVENT_STOP, _) => "STOP".to_owned(),
        What::Event(event, _) => format!("event {event}"),
        What::Signal(libc::SIGSTOP) => "SIGSTOP".to_owned(),
        What::Signal(libc::SIGTRAP) => "SIGTRAP".to_owned(),
        What::Signal(libc::SIGCHLD) => "SIGCHLD".to_owned(),
        What::Signal(signal) => format!("signal {signal}"),
        What::Call => "call".to_owned(),
        What::Ended(Status::Exited(code)) => format!("exit {code}"),
        What::Ended(status) => format!("{status:?}"),
    }
}

/// Which stops caller and child make.
fn rule(kind: Kind, options: i32, way: Way, job: Job) -> (Vec<&'static str>, Vec<&'static str>) {
    let has = |option: i32| options & option != 0;
    let (mut caller, mut child) = (Vec::new(), Vec::new());
    let (birth, follows) =
        if way.forks() { ("FORK", has(libc::PTRACE_O_TRACEFORK)) } else { ("VFORK", has(libc::PTRACE_O_TRACEVFORK)) };
    if follows {
        caller.push(birth);
        child.push(if kind == Kind::Seize { "STOP" } else { "SIGSTOP" });
        match (has(libc::PTRACE_O_TRACEEXEC), kind) {
            _ if job == Job::Fails => {}
            (true, _) => child.push("EXEC"),
            (false, Kind::Seize) => {}
            (false, _) => child.push("SIGTRAP"),
        }
        child.push(if job == Job::Fails { "exit 127" } else { "exit 4" });
    }
    if !way.forks() && has(libc::PTRACE_O_TRACEVFORKDONE) {
        caller.push("VFORK_DONE");
    }
    // One that fails while its caller waits has never been the caller's child.
    if (way, job) != (Way::Waiting, Job::Fails) {
        caller.push("SIGCHLD");
    }
    caller.push("exit 0");
    (caller, child)
}

/// Runs one cell of the table and says what is wrong with it.
fn cell(checks: &mut Checks, kind: Kind, options: i32, way: Way, job: Job) -> Outcome {
    let template = Template::child("exit-code")?;
    // With TRACESYSGOOD the caller is asked to stop at its calls until it goes on for the first time, which is enough here.
    let (caller, steps) = follow_as(kind, options, || start(way, job, &template), |_| Ok(libc::PTRACE_CONT))?;
    let of = |own: bool| -> Vec<String> {
        let steps = steps.iter().filter(|step| (step.pid == caller) == own && step.what != What::Call);
        steps.map(name).collect()
    };
    let wanted = rule(kind, options, way, job);
    let got = (of(true), of(false));
    if (&got.0, &got.1)
        != (&wanted.0.iter().map(|s| s.to_string()).collect(), &wanted.1.iter().map(|s| s.to_string()).collect())
    {
        checks.fail(format!("{kind:?}, options {options:#x}, {way:?}, {job:?}: {got:?}, not {wanted:?}"));
    }
    Ok(())
}

/// Every tracer with every combination of options, each way with each job.
#[track_caller]
fn table(ways: &[Way], jobs: &[Job], cells: usize) -> Outcome {
    let (mut checks, mut count) = (Checks::default(), 0);
    for kind in Kind::ALL {
        for options in combinations() {
            for &way in ways {
                for &job in jobs {
                    cell(&mut checks, kind, options, way, job)?;
                    count += 1;
                }
            }
        }
    }
    same!(count, cells, "cells of the table");
    checks.finish()
}

fn rule_holds_without_templates() -> Outcome {
    table(&[Way::PosixSpawn, Way::Fork], &[Job::Plain], 3 * 32 * 2)
}

fn every_tracer_and_option() -> Outcome {
    table(&[Way::Waiting, Way::Nowait], &[Job::Plain, Job::Opens], 3 * 32 * 2 * 2)
}

fn child_that_fails() -> Outcome {
    let mut checks = Checks::default();
    for kind in Kind::ALL {
        for options in [0, ALL_EVENTS & !libc::PTRACE_O_TRACEEXIT] {
            for way in [Way::Waiting, Way::Nowait] {
                cell(&mut checks, kind, options, way, Job::Fails)?;
            }
        }
    }
    checks.finish()
}

/// VFORK_DONE says that the child no longer runs what it had of its caller: it has its program, or is gone.
fn done_after_exec() -> Outcome {
    let template = Template::child("exit-code")?;
    for kind in Kind::ALL {
        for job in [Job::Plain, Job::Opens] {
            let (mut done, mut early) = (0, Vec::new());
            follow_as(
                kind,
                ALL_EVENTS,
                || start(Way::Waiting, job, &template),
                |step| {
                    if let What::Event(libc::PTRACE_EVENT_VFORK_DONE, new) = step.what {
                        done += 1;
                        match fs::read_link(format!("/proc/{new}/exe")) {
                            Ok(path) if path.as_os_str() != child("exit-code").as_str() => early.push(path),
                            _ => {}
                        }
                    }
                    Ok(libc::PTRACE_CONT)
                },
            )?;
            same!(done, 1, "{kind:?}, {job:?}: VFORK_DONE events");
            ensure!(early.is_empty(), "{kind:?}, {job:?}: VFORK_DONE came while the child still was {early:?}");
        }
    }
    Ok(())
}

/// `PTRACE_GET_SYSCALL_INFO`: the number at an entry, the value at an exit.
fn call(pid: i32) -> io::Result<String> {
    let mut info = [0u64; 16];
    os::ptrace(0x420e, pid, size_of_val(&info) as u64, &raw mut info as u64)?;
    // struct ptrace_syscall_info: op, 3 bytes of padding, arch; instruction pointer, stack pointer; number or value.
    Ok(match info[0] as u8 {
        1 => format!("enter {}", info[3]),
        2 => format!("leave {}", info[3] as i64),
        other => format!("operation {other}"),
    })
}

/// The stops of a child whose tracer wants to see system calls.
fn calls_of(kind: Kind, way: Way, acts: &[Act]) -> Outcome<Vec<String>> {
    let template = Template::child("nothing")?;
    let fails = acts.iter().any(|act| matches!(act, Act::Dup2(99, _)));
    let body = || {
        let spawn = template.spawn().acts(acts.iter().cloned());
        let status = if way == Way::Nowait { spawn.nowait().status() } else { spawn.status() };
        let good = match (fails, way) {
            (false, _) => status.is_ok_and(|status| status == Status::Exited(0)),
            (true, Way::Nowait) => status.is_ok_and(|status| status == Status::Exited(127)),
            (true, _) => status.is_err(),
        };
        i32::from(!good)
    };
    let options = (ALL_EVENTS | libc::PTRACE_O_TRACESYSGOOD) & !libc::PTRACE_O_TRACEEXIT;
    let (mut caller, mut stops) = (0, Vec::new());
    let (worker, steps) = follow_as(kind, options, body, |step| {
        // The caller stops first, entering a call.
        if caller == 0 {
            caller = step.pid;
        }
        if step.pid != caller {
            stops.push(if step.what == What::Call { call(step.pid)? } else { name(step) });
        }
        Ok(libc::PTRACE_SYSCALL)
    })?;
    same!(worker, caller, "who stopped first");
    let end = steps.iter().rfind(|step| step.pid != caller);
    stops.extend(end.filter(|step| matches!(step.what, What::Ended(_))).map(name));
    Ok(stops)
}

/// The child is born, enters execve, has its program, leaves execve with 0, and goes on.
fn system_calls_of_the_child() -> Outcome {
    let mut checks = Checks::default();
    for kind in Kind::ALL {
        for way in [Way::Waiting, Way::Nowait] {
            let birth = if kind == Kind::Seize { "STOP" } else { "SIGSTOP" };
            let (execve, exit) = (format!("enter {}", libc::SYS_execve), format!("enter {}", libc::SYS_exit));
            let wanted = [birth, &execve, "EXEC", "leave 0", &exit, "exit 0"];
            let got = calls_of(kind, way, &[])?;
            if got != wanted {
                checks.fail(format!("{kind:?}, {way:?}: {got:?}, not {wanted:?}"));
            }
        }
    }
    checks.finish()
}

/// Each action is a call of its own, which the child enters and leaves without an error.
fn system_calls_of_actions() -> Outcome {
    let acts = [
        Act::Dup2(0, 5),
        Act::Dup2Cloexec(0, 6),
        Act::Open(Open::new("/dev/null", libc::O_RDONLY, 7)),
        Act::chdir("/tmp"),
        Act::Umask(0o22),
        Act::Setsid,
        Act::Sigdefault(os::sigbit(libc::SIGINT) | os::sigbit(libc::SIGTERM)),
        Act::Sigmask(0),
        Act::Rlimit(libc::RLIMIT_CORE, 0, 0),
        Act::Setgroups(vec![1, 2]),
        Act::Setgid(0),
        Act::Setuid(0),
        Act::NoNewPrivs,
        Act::Pdeathsig(libc::SIGTERM as u64),
        Act::CloseRange(7, 8, 0),
        Act::Close(6),
    ];
    // OPEN may be either call; with SIGDEFAULT there is one for each signal.
    let wanted: [&[i64]; 18] = [
        &[libc::SYS_dup2],
        &[libc::SYS_dup3],
        &[libc::SYS_openat, libc::SYS_openat2],
        &[libc::SYS_chdir],
        &[libc::SYS_umask],
        &[libc::SYS_setsid],
        &[libc::SYS_rt_sigaction],
        &[libc::SYS_rt_sigaction],
        &[libc::SYS_rt_sigprocmask],
        &[libc::SYS_prlimit64],
        &[libc::SYS_setgroups],
        &[libc::SYS_setgid],
        &[libc::SYS_setuid],
        &[libc::SYS_prctl],
        &[libc::SYS_prctl],
        &[libc::SYS_close_range],
        &[libc::SYS_close],
        &[libc::SYS_execve],
    ];
    for kind in Kind::ALL {
        for way in [Way::Waiting, Way::Nowait] {
            let stops = calls_of(kind, way, &acts)?;
            let numbers = |word: &str| -> Vec<i64> {
                stops.iter().filter_map(|stop| stop.strip_prefix(word)?.parse().ok()).collect()
            };
            let (entered, left) = (numbers("enter "), numbers("leave "));
            // The program's own exit is entered after all others, and never left.
            let alike = entered.iter().zip(wanted).all(|(number, any)| any.contains(number));
            ensure!(
                alike && entered.len() == wanted.len() + 1 && entered.last() == Some(&libc::SYS_exit),
                "{kind:?}, {way:?}: the child entered {entered:?}, not {wanted:?}; stops: {stops:?}"
            );
            ensure!(
                left.len() == wanted.len() && left.iter().all(|&value| value >= 0),
                "{kind:?}, {way:?}: the calls were left with {left:?}; stops: {stops:?}"
            );
        }
    }
    Ok(())
}

/// The call of an action that fails is left with the error, and no other follows.
fn system_call_that_fails() -> Outcome {
    for kind in Kind::ALL {
        for way in [Way::Waiting, Way::Nowait] {
            let stops = calls_of(kind, way, &[Act::Umask(0o22), Act::Dup2(99, 1), Act::Umask(0)])?;
            let Some(at) = stops.iter().position(|stop| *stop == format!("enter {}", libc::SYS_dup2)) else {
                return Err(failed(format!("{kind:?}, {way:?}: the child never entered dup2: {stops:?}")));
            };
            let wanted = [format!("leave {}", -libc::EBADF), "exit 127".to_owned()];
            same!(stops[at + 1..], wanted, "{kind:?}, {way:?}: what came after the entry of dup2");
        }
    }
    Ok(())
}
