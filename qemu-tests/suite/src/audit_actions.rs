//! Audit: each action is recorded, and matched by rules and watches, as the system call that it stands for.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use crate::audit::{ATTRIBUTES, Daemon, EXECVE, Events, PATH, READ, Rule, SYSCALL, WRITE, field, record};
use crate::filter::Filter;
use crate::harness::{Checks, Outcome, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Sched, Spawn, Template};
use crate::{ensure, same, tests};

tests!("audit_actions":
    watch_on_what_is_written, watches_of_all_uses [120], watch_on_a_folder, watch_on_a_working_directory,
    each_action_is_a_call [180], failing_actions [120], actions_come_before_execve, execve_is_one_call,
    filters_that_log,
);

/// What a SYSCALL record says.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    pid: i32,
    number: i64,
    success: String,
    exit: i64,
    /// The first argument.
    first: u64,
    /// Names of the files that go with it.
    paths: Vec<String>,
    /// Whether there is an EXECVE record.
    execve: bool,
}

/// The calls among the events that children of `parent` made, in order.
fn calls(events: &Events, parent: i32) -> Vec<Call> {
    let parent = parent.to_string();
    let number = |text: &str, name| field(text, name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(i64::MIN);
    let mut calls: Vec<(u64, Call)> = Vec::new();
    for (serial, event) in events {
        let Some(text) = record(event, SYSCALL) else { continue };
        if field(text, "ppid") != Some(&parent) {
            continue;
        }
        let names = event.iter().filter(|(kind, _)| *kind == PATH).filter_map(|(_, path)| field(path, "name"));
        let call = Call {
            pid: number(text, "pid") as i32,
            number: number(text, "syscall"),
            success: field(text, "success").unwrap_or_default().to_owned(),
            exit: number(text, "exit"),
            first: field(text, "a0").and_then(|value| u64::from_str_radix(value, 16).ok()).unwrap_or(u64::MAX),
            paths: names.map(|name| name.trim_matches('"').to_owned()).collect(),
            execve: record(event, EXECVE).is_some(),
        };
        calls.push((serial.rsplit(':').next().and_then(|serial| serial.parse().ok()).unwrap_or(0), call));
    }
    calls.sort_by_key(|(serial, _)| *serial);
    calls.into_iter().map(|(_, call)| call).collect()
}

/// Runs `body` in a process that audit knows, and returns the calls of its children.
fn recorded(daemon: &Daemon, body: impl FnOnce() -> std::io::Result<()>) -> Outcome<Vec<Call>> {
    let caller = os::fork()?;
    if caller == 0 {
        let code = i32::from(body().is_err());
        os::exit_now(code);
    }
    same!(os::waitpid(caller, 0)?.1, Status::Exited(0), "the caller");
    Ok(calls(&daemon.events()?, caller))
}

/// The calls of a spawned child, which may fail.
fn of_spawn(daemon: &Daemon, spawn: &Spawn<'_>) -> Outcome<Vec<Call>> {
    recorded(daemon, || {
        if let Ok(child) = spawn.run() {
            child.wait()?;
        }
        Ok(())
    })
}

/// The calls of a forked child that does this by itself.
fn of_fork(daemon: &Daemon, body: impl FnOnce()) -> Outcome<Vec<Call>> {
    recorded(daemon, || {
        let child = os::fork()?;
        if child == 0 {
            body();
            os::exit_now(0);
        }
        os::waitpid(child, 0).map(drop)
    })
}

/// What of calls is the same whether a spawn or a forked child made them.
fn alike(calls: &[Call]) -> Vec<(i64, &str, bool, &[String])> {
    calls.iter().map(|call| (call.number, call.success.as_str(), call.exit < 0, &call.paths[..])).collect()
}

/// `openat()` in a forked child, in the form that the OPEN action stands for.
fn open_by_itself(path: &str, flags: i32) {
    let path = os::c_path(path);
    // SAFETY: `path` is a live C string.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o600) };
}

fn open(path: &str, flags: i32) -> Act {
    let mode = if flags & libc::O_CREAT != 0 { 0o600 } else { 0 };
    Act::Open(Open::new(path, flags, 9).mode(mode))
}

/// The most usual watch there is, `-w FILE -p wa`.
fn watch_on_what_is_written() -> Outcome {
    let folder = Folder::tmp("audit-watch")?;
    let path = folder.join("watched");
    fs::write(&path, "before")?;
    in_worker(|| {
        let daemon = Daemon::start(Some(Rule::watch(&path, WRITE | ATTRIBUTES)))?;
        let template = Template::child("nothing")?;
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let forked = of_fork(&daemon, || open_by_itself(&path, flags))?;
        same!(alike(&forked).len(), 1, "records of a forked child: {forked:?}");
        fs::write(&path, "before")?;
        let spawned = of_spawn(&daemon, &template.spawn().act(open(&path, flags)))?;
        same!(fs::read(&path)?, b"", "contents of the file after the spawn");
        same!(alike(&spawned), alike(&forked), "records of a spawned child: {spawned:?}");
        Ok(())
    })
}

/// Every use that a watch can be about, against every way to open a file.
fn watches_of_all_uses() -> Outcome {
    let folder = Folder::tmp("audit-uses")?;
    let path = folder.join("watched");
    fs::write(&path, "")?;
    in_worker(|| {
        let mut checks = Checks::default();
        let mut records = 0;
        for uses in [READ, WRITE, ATTRIBUTES, READ | WRITE] {
            let daemon = Daemon::start(Some(Rule::watch(&path, uses)))?;
            let template = Template::child("nothing")?;
            for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_APPEND, libc::O_PATH] {
                let forked = of_fork(&daemon, || open_by_itself(&path, flags))?;
                let spawned = of_spawn(&daemon, &template.spawn().act(open(&path, flags)))?;
                records += forked.len();
                if alike(&forked) != alike(&spawned) {
                    checks.fail(format!("uses {uses}, flags {flags:#x}: {spawned:?}, not {forked:?}"));
                }
            }
        }
        ensure!(records >= 8, "only {records} records of the forked children");
        checks.finish()
    })
}

/// What is made in a folder, `-w FOLDER -p w`, and what only failed to be.
fn watch_on_a_folder() -> Outcome {
    let folder = Folder::tmp("audit-folder")?;
    in_worker(|| {
        let daemon = Daemon::start(Some(Rule::watch(folder.path(), WRITE)))?;
        let template = Template::child("nothing")?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let path = folder.join("made");
        let forked = of_fork(&daemon, || open_by_itself(&path, flags))?;
        let again = of_fork(&daemon, || open_by_itself(&path, flags))?;
        same!((forked.len(), again.len()), (1, 1), "records of two forked children: {forked:?}, {again:?}");
        fs::remove_file(&path)?;
        let spawn = template.spawn().act(open(&path, flags));
        let spawned = of_spawn(&daemon, &spawn)?;
        same!(alike(&spawned), alike(&forked), "records of a spawned child: {spawned:?}");
        let spawned = of_spawn(&daemon, &spawn)?;
        same!(alike(&spawned), alike(&again), "records of one that finds the file there: {spawned:?}");
        Ok(())
    })
}

/// CHDIR into a folder under watch is no reading of it, nor is FCHDIR; chdir is a call of its own for a rule.
fn watch_on_a_working_directory() -> Outcome {
    let folder = Folder::tmp("audit-chdir")?;
    in_worker(|| {
        let opened = File::open(folder.path())?;
        let daemon = Daemon::start(Some(Rule::watch(folder.path(), READ | WRITE)))?;
        let template = Template::child("nothing")?;
        let forked = of_fork(&daemon, || {
            let _ = std::env::set_current_dir(folder.path());
        })?;
        let spawned = of_spawn(&daemon, &template.spawn().act(Act::chdir(folder.path())))?;
        same!(alike(&spawned), alike(&forked), "records of CHDIR");
        let spawned = of_spawn(&daemon, &template.spawn().act(Act::Fchdir(opened.as_raw_fd())))?;
        same!(alike(&spawned), vec![], "records of FCHDIR");
        Ok(())
    })
}

/// Actions that succeed, the calls they stand for, and the first argument of these where it is a number.
fn succeeding(folder: &File) -> Vec<(&'static str, Act, libc::c_long, Option<u64>)> {
    let dir = folder.as_raw_fd();
    let null = Open::new("/dev/null", libc::O_RDONLY, 9);
    vec![
        ("CLOSE", Act::Close(2), libc::SYS_close, Some(2)),
        ("DUP2", Act::Dup2(1, 7), libc::SYS_dup2, Some(1)),
        ("DUP2 with O_CLOEXEC", Act::Dup2Cloexec(1, 7), libc::SYS_dup3, Some(1)),
        ("FCHDIR", Act::Fchdir(dir), libc::SYS_fchdir, None),
        ("OPEN", Act::Open(null.clone()), libc::SYS_openat, None),
        ("OPEN with resolve", Act::Open(null.resolve(libc::RESOLVE_NO_MAGICLINKS)), libc::SYS_openat2, None),
        ("CLOSE_RANGE", Act::CloseRange(5, 9, 0), libc::SYS_close_range, Some(5)),
        ("SIGMASK", Act::Sigmask(1), libc::SYS_rt_sigprocmask, Some(libc::SIG_SETMASK as u64)),
        ("SIGDEFAULT", Act::Sigdefault(1), libc::SYS_rt_sigaction, Some(1)),
        ("SIGIGNORE", Act::Sigignore(2), libc::SYS_rt_sigaction, Some(2)),
        ("CHDIR", Act::chdir("/"), libc::SYS_chdir, None),
        ("SETSID", Act::Setsid, libc::SYS_setsid, None),
        ("SETPGID", Act::Setpgid(0), libc::SYS_setpgid, Some(0)),
        ("UMASK", Act::Umask(0o27), libc::SYS_umask, Some(0o27)),
        ("RLIMIT", Act::Rlimit(libc::RLIMIT_CORE, 0, 0), libc::SYS_prlimit64, Some(0)),
        ("SCHED", Act::Sched(Sched { nice: 1, ..Sched::default() }), libc::SYS_sched_setattr, Some(0)),
        ("RESETIDS, groups", Act::Resetids, libc::SYS_setresgid, None),
        ("RESETIDS, users", Act::Resetids, libc::SYS_setresuid, None),
        ("SETUID", Act::Setuid(12), libc::SYS_setuid, Some(12)),
        ("SETGID", Act::Setgid(13), libc::SYS_setgid, Some(13)),
        ("SETGROUPS", Act::Setgroups(vec![1, 2]), libc::SYS_setgroups, Some(2)),
        ("NO_NEW_PRIVS", Act::NoNewPrivs, libc::SYS_prctl, Some(libc::PR_SET_NO_NEW_PRIVS as u64)),
        ("PDEATHSIG", Act::Pdeathsig(15), libc::SYS_prctl, Some(libc::PR_SET_PDEATHSIG as u64)),
    ]
}

/// `-S CALL` of each call that an action stands for.
fn each_action_is_a_call() -> Outcome {
    let folder = File::open("/")?;
    in_worker(|| {
        let mut checks = Checks::default();
        let cases = succeeding(&folder);
        same!(cases.len(), 23, "actions");
        for (what, act, number, first) in cases {
            let daemon = Daemon::start(Some(Rule::on_all(vec![number as usize])))?;
            let template = Template::child("nothing")?;
            let calls = of_spawn(&daemon, &template.spawn().act(act))?;
            match &calls[..] {
                [call]
                    if call.number == number
                        && call.success == "yes"
                        && call.exit >= 0
                        && first.is_none_or(|first| call.first == first) => {}
                other => checks.fail(format!("{what}: {other:?}")),
            }
        }
        checks.finish()
    })
}

/// One that fails is recorded with its error, and nothing after it.
fn failing_actions() -> Outcome {
    let cases = [
        ("DUP2", Act::Dup2(55, 7), libc::SYS_dup2, libc::EBADF),
        ("FCHDIR", Act::Fchdir(0), libc::SYS_fchdir, libc::ENOTDIR),
        ("OPEN", Act::Open(Open::new("/missing", libc::O_RDONLY, 9)), libc::SYS_openat, libc::ENOENT),
        ("CHDIR", Act::chdir("/missing"), libc::SYS_chdir, libc::ENOENT),
        ("SETPGID", Act::Setpgid(1), libc::SYS_setpgid, libc::EPERM),
        ("TCSETPGRP", Act::Tcsetpgrp(0), libc::SYS_ioctl, libc::ENOTTY),
        ("SETCTTY", Act::Setctty(0), libc::SYS_ioctl, libc::ENOTTY),
        ("RLIMIT", Act::Rlimit(libc::RLIMIT_NOFILE, 1, 1 << 40), libc::SYS_prlimit64, libc::EPERM),
        ("SCHED", Act::Sched(Sched { policy: 77, ..Sched::default() }), libc::SYS_sched_setattr, libc::EINVAL),
    ];
    in_worker(|| {
        let mut checks = Checks::default();
        for (what, act, number, error) in cases {
            let calls = vec![number as usize, libc::SYS_umask as usize, libc::SYS_execve as usize];
            let daemon = Daemon::start(Some(Rule::on_all(calls)))?;
            let template = Template::child("nothing")?;
            let calls = of_spawn(&daemon, &template.spawn().acts([Act::Umask(0), act, Act::Umask(0o77)]))?;
            let seen: Vec<_> = calls.iter().map(|call| (call.number, call.success.as_str(), call.exit < 0)).collect();
            if seen != [(libc::SYS_umask, "yes", false), (number, "no", true)] || calls[1].exit != -i64::from(error) {
                checks.fail(format!("{what}: {calls:?}"));
            }
        }
        checks.finish()
    })
}

/// All calls of a spawn with several actions, in the order of the actions.
fn actions_come_before_execve() -> Outcome {
    in_worker(|| {
        let wanted = [libc::SYS_umask, libc::SYS_setsid, libc::SYS_openat, libc::SYS_setuid, libc::SYS_execve];
        let daemon = Daemon::start(Some(Rule::on_all(wanted.map(|number| number as usize).to_vec())))?;
        let template = Template::child("nothing")?;
        let null = Act::Open(Open::new("/dev/null", libc::O_RDONLY, 9));
        let acts = [Act::Umask(0o22), Act::Setsid, null, Act::Setuid(12)];
        let calls = of_spawn(&daemon, &template.spawn().acts(acts))?;
        let seen: Vec<_> = calls.iter().map(|call| (call.number, call.success.as_str())).collect();
        same!(seen, wanted.map(|number| (number, "yes")).to_vec(), "calls");
        let execve: Vec<bool> = calls.iter().map(|call| call.execve).collect();
        same!(execve, [false, false, false, false, true], "which of them have an EXECVE record");
        ensure!(calls.iter().all(|call| call.pid == calls[0].pid), "they are of several processes: {calls:?}");
        ensure!(calls[2].paths.iter().any(|path| path == "/dev/null"), "no PATH record of the opened file: {calls:?}");
        Ok(())
    })
}

/// Files that actions touch are not among those of execve.
fn execve_is_one_call() -> Outcome {
    in_worker(|| {
        let daemon = Daemon::start(Some(Rule::on_all(vec![libc::SYS_execve as usize])))?;
        let template = Template::child("nothing")?;
        let plain = of_spawn(&daemon, &template.spawn())?;
        same!(plain.len(), 1, "records without actions: {plain:?}");
        let null = Act::Open(Open::new("/dev/null", libc::O_RDONLY, 9));
        let spawned = of_spawn(&daemon, &template.spawn().acts([null, Act::chdir("/tmp")]))?;
        same!(alike(&spawned), alike(&plain), "records with OPEN and CHDIR");
        Ok(())
    })
}

/// What a filter says about a step of a spawn is logged, as it is of a system call.
fn filters_that_log() -> Outcome {
    /// `AUDIT_SECCOMP`.
    const SECCOMP: u16 = 1326;
    let daemon = Daemon::start(None)?;
    for action in [libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRAP, libc::SECCOMP_RET_KILL_PROCESS] {
        let (caller, spawned) = spawn_under(action)?;
        let events = daemon.events()?;
        let logged = |pid: i32| {
            let (pid, number) = (pid.to_string(), libc::SYS_umask.to_string());
            events
                .values()
                .filter_map(|event| record(event, SECCOMP))
                .any(|text| field(text, "pid") == Some(&pid) && field(text, "syscall") == Some(&number))
        };
        // The caller is asked first, and the child only where the caller may go on.
        let by_request = action == libc::SECCOMP_RET_TRAP;
        same!(logged(caller), !by_request, "a record of the caller, action {action:#x}");
        if let Some(spawned) = spawned {
            ensure!(logged(spawned), "no record of the child, action {action:#x}");
        }
    }
    Ok(())
}

/// Spawns with UMASK under a filter that answers this about it. Returns who called and who was started.
fn spawn_under(action: u32) -> Outcome<(i32, Option<i32>)> {
    let template = Template::child("nothing")?;
    let (reader, writer) = os::pipe()?;
    let caller = os::fork()?;
    if caller == 0 {
        let spawned = Filter::allowing().on(libc::SYS_umask, action).install().and_then(|()| {
            let child = template.spawn().act(Act::Umask(0)).run()?;
            let pid = child.pid;
            child.wait().map(|_| pid)
        });
        let told = File::from(writer).write_all(&spawned.unwrap_or(0).to_le_bytes());
        os::exit_now(i32::from(told.is_err()));
    }
    drop(writer);
    let mut pid = [0; 4];
    File::from(reader).read_exact(&mut pid)?;
    same!(os::waitpid(caller, 0)?.1, Status::Exited(0), "the caller");
    Ok((caller, Some(i32::from_le_bytes(pid)).filter(|&pid| pid != 0)))
}
