//! Tracing: each action, and the execution of the program, enters and leaves the system call that it stands for.

use crate::calls::{Pairs, forked};
use crate::harness::{Checks, Outcome};
use crate::os::Status;
use crate::template::{Act, Folder, Open, Spawn, Template};
use crate::trace::{Line, Trace};
use crate::{ensure, same, tests};

tests!("syscall_tracepoints": execve, execve_that_fails, each_action [180], failing_actions, actions_in_order);

/// A system call that was entered, and what it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Enter(i64),
    Exit(i64, i64),
}

/// Calls of the one child that this process makes in `body`.
fn points(trace: &Trace, body: impl FnOnce() -> Outcome) -> Outcome<Vec<Point>> {
    trace.clear()?;
    body()?;
    let (lines, own) = (trace.lines()?, std::process::id() as i32);
    let born = |line: &&Line| line.pid == own && line.name == "sched_process_fork";
    let born: Vec<i32> = lines.iter().filter(born).filter_map(|line| line.field("child_pid").parse().ok()).collect();
    same!(born.len(), 1, "children");
    Ok(lines.iter().filter(|line| line.pid == born[0]).filter_map(point).collect())
}

/// "sys_enter: NR 59 (...)" and "sys_exit: NR 59 = 0".
fn point(line: &Line) -> Option<Point> {
    let mut words = line.text.strip_prefix("NR ")?.split(' ');
    let number = words.next()?.parse().ok()?;
    match line.name.as_str() {
        "sys_enter" => Some(Point::Enter(number)),
        "sys_exit" => Some(Point::Exit(number, words.nth(1)?.parse().ok()?)),
        _ => None,
    }
}

fn start() -> Outcome<Trace> {
    Trace::events(&["sched/sched_process_fork", "raw_syscalls/sys_enter", "raw_syscalls/sys_exit"])
}

/// Runs a spawn, whether it succeeds or not.
fn run(spawn: &Spawn<'_>) -> Outcome {
    if let Ok(child) = spawn.run() {
        child.wait()?;
    }
    Ok(())
}

/// The calls of a child that has done these things and then executes `nothing`, which only exits.
fn whole(before: &[Point], program: &[Point]) -> Vec<Point> {
    let execve = [Point::Enter(libc::SYS_execve), Point::Exit(libc::SYS_execve, 0)];
    [before, &execve, program].concat()
}

/// What `nothing` does.
const PROGRAM: &[Point] = &[Point::Enter(libc::SYS_exit)];

/// What tools that watch programs start attach to, by name: one entry and one exit of execve.
fn execve() -> Outcome {
    let folder = Folder::tmp("tracepoint-execve")?;
    let template = Template::child("nothing")?;
    let file = std::fs::File::open(crate::template::child("nothing"))?;
    let of_fd = Template::of_fd(&file)?;
    let names = ["syscalls/sys_enter_execve", "syscalls/sys_exit_execve", "syscalls/sys_enter_execveat"];
    let trace = Trace::events(&[names[0], names[1], names[2], "syscalls/sys_exit_execveat"])?;
    let mut checks = Checks::default();
    let open = Act::Open(Open::new(folder.join("x"), libc::O_WRONLY | libc::O_CREAT, 9).mode(0o600));
    for (what, entry, spawn) in [
        ("a spawn", "sys_execve", template.spawn()),
        ("INHERIT_FDS", "sys_execve", template.spawn().inherit_fds()),
        ("NOWAIT", "sys_execve", template.spawn().nowait()),
        ("OPEN and CHDIR", "sys_execve", template.spawn().acts([open, Act::chdir("/")])),
        // The exit of a real execveat() is traced as one of execve, too.
        ("a template of a descriptor", "sys_execveat", of_fd.spawn()),
    ] {
        trace.clear()?;
        let child = spawn.run()?;
        let pid = child.pid;
        same!(child.wait()?, Status::Exited(0), "status, {what}");
        let lines: Vec<Line> = trace.lines()?.into_iter().filter(|line| line.pid == pid).collect();
        let seen: Vec<_> = lines.iter().map(|line| (line.name.as_str(), line.text.starts_with("->"))).collect();
        if seen != [(entry, false), ("sys_execve", true)] || lines[1].text != "-> 0x0" {
            checks.fail(format!("{what}: {lines:?}"));
        }
    }
    checks.finish()?;
    drop(trace);
    let trace = start()?;
    let executed = points(&trace, || forked(|| {}).map(drop).map_err(Into::into))?;
    ensure!(executed.ends_with(&whole(&[], PROGRAM)), "calls of a forked child: {executed:?}");
    same!(points(&trace, || run(&template.spawn()))?, whole(&[], PROGRAM), "calls of a spawned child");
    Ok(())
}

/// An execution that fails returns its error.
fn execve_that_fails() -> Outcome {
    let folder = Folder::tmp("tracepoint-busy")?;
    let path = folder.copy("nothing")?;
    let template = Template::path(&path)?;
    let _writer = std::fs::OpenOptions::new().write(true).open(&path)?;
    let trace = start()?;
    let seen = points(&trace, || run(&template.spawn()))?;
    let execve = [Point::Enter(libc::SYS_execve), Point::Exit(libc::SYS_execve, -i64::from(libc::ETXTBSY))];
    same!(seen, execve, "calls of a child whose program is open for writing");
    Ok(())
}

fn each_action() -> Outcome {
    let pairs = Pairs::new()?;
    let template = Template::child("nothing")?;
    let trace = start()?;
    let mut checks = Checks::default();
    let mut count = 0;
    for pair in &pairs.list {
        if matches!(pair.act, Act::Tcsetpgrp(_) | Act::Setctty(_)) {
            continue;
        }
        count += 1;
        let seen = points(&trace, || run(&template.spawn().act(pair.act.clone())))?;
        // Every call is entered and left, with success, before the next.
        let numbers: Vec<i64> = seen
            .chunks(2)
            .map_while(|pair| match *pair {
                [Point::Enter(entered), Point::Exit(left, value)] if entered == left && value >= 0 => Some(entered),
                _ => None,
            })
            .collect();
        let wanted: Vec<i64> = pair.calls.iter().map(|call| call.0).chain([libc::SYS_execve]).collect();
        if numbers != wanted || seen.len() != 2 * wanted.len() + 1 {
            checks.fail(format!("{}: {seen:?}, not {wanted:?}", pair.what));
        }
    }
    same!(count, 22, "actions");
    checks.finish()
}

fn failing_actions() -> Outcome {
    let template = Template::child("nothing")?;
    let trace = start()?;
    let mut checks = Checks::default();
    for (what, act, number, error) in [
        ("DUP2", Act::Dup2(55, 7), libc::SYS_dup2, libc::EBADF),
        ("OPEN", Act::Open(Open::new("/missing", libc::O_RDONLY, 9)), libc::SYS_openat, libc::ENOENT),
        ("CHDIR", Act::chdir("/missing"), libc::SYS_chdir, libc::ENOENT),
        ("FCHDIR", Act::Fchdir(0), libc::SYS_fchdir, libc::ENOTDIR),
        ("SETPGID", Act::Setpgid(1), libc::SYS_setpgid, libc::EPERM),
        ("TCSETPGRP", Act::Tcsetpgrp(0), libc::SYS_ioctl, libc::ENOTTY),
        ("SETCTTY", Act::Setctty(0), libc::SYS_ioctl, libc::ENOTTY),
    ] {
        let seen = points(&trace, || run(&template.spawn().acts([act, Act::Umask(0)])))?;
        if seen != [Point::Enter(number), Point::Exit(number, -i64::from(error))] {
            checks.fail(format!("{what}: {seen:?}"));
        }
    }
    checks.finish()
}

/// One call after the other, and execve last.
fn actions_in_order() -> Outcome {
    let template = Template::child("nothing")?;
    let trace = start()?;
    let acts = [Act::Umask(0o22), Act::chdir("/"), Act::Umask(0o77), Act::NoNewPrivs];
    let seen = points(&trace, || run(&template.spawn().acts(acts)))?;
    let call = |number, value| [Point::Enter(number), Point::Exit(number, value)];
    // umask() returns the mask before.
    let before = crate::os::umask(0);
    let calls = [
        call(libc::SYS_umask, before.into()),
        call(libc::SYS_chdir, 0),
        call(libc::SYS_umask, 0o22),
        call(libc::SYS_prctl, 0),
    ];
    same!(seen, whole(&calls.concat(), PROGRAM), "calls");
    Ok(())
}
