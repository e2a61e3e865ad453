//! What watches the birth of processes is told the truth: the child of a spawn shares no memory with its caller.

use std::fs;
use std::io;

use crate::harness::{Outcome, Stop, failed};
use crate::os::{self, Status};
use crate::template::{Act, Open, Template, child};
use crate::{ensure, same, tests};

tests!("newtask": flags_of_a_spawn, flags_without_templates);

/// Where a trace of our own lies.
const TRACE: &str = "/sys/kernel/tracing/instances/spawn-template-newtask";

/// What `task:task_newtask` says of a child: the flags of clone.
fn clone_flags(start: impl FnOnce() -> io::Result<i32>) -> Outcome<i32> {
    if !fs::exists("/sys/kernel/tracing/instances")? {
        return Err(Stop::Skipped("no tracing file system".to_owned()));
    }
    fs::create_dir(TRACE)?;
    let outcome = fs::write(format!("{TRACE}/events/task/task_newtask/enable"), "1").and_then(|()| start());
    let text = fs::read_to_string(format!("{TRACE}/trace"));
    fs::remove_dir(TRACE)?;
    let (pid, text) = (outcome?, text?);
    let start = format!(" task_newtask: pid={pid} ");
    let line = text.lines().find(|line| line.contains(&start));
    let flags = line.and_then(|line| line.split_once("clone_flags=")?.1.split_whitespace().next());
    let flags = flags.and_then(|flags| i64::from_str_radix(flags, 16).ok());
    flags.map(|flags| flags as i32).ok_or_else(|| failed(format!("no event of the birth of {pid}: {text:?}")))
}

/// Flags that say that the child uses its caller's memory.
const SHARED: i32 = libc::CLONE_VM | libc::CLONE_VFORK;

fn flags_of_a_spawn() -> Outcome {
    let template = Template::child("nothing")?;
    for nowait in [false, true] {
        for act in [Act::Umask(0o22), Act::Open(Open::new("/dev/null", libc::O_RDONLY, 5)), Act::chdir("/tmp")] {
            let flags = clone_flags(|| {
                let spawn = template.spawn().act(act.clone());
                let (pid, _pidfd) = if nowait { spawn.nowait() } else { spawn }.run()?.leave();
                os::waitpid(pid, 0).map(|ended| ended.0)
            })?;
            ensure!(
                flags & SHARED == 0,
                "NOWAIT {nowait}, {act:?}: clone flags {flags:#x} have CLONE_VM or CLONE_VFORK"
            );
            same!(flags & (libc::CLONE_THREAD | libc::CLONE_FS | libc::CLONE_FILES), 0, "other things that are shared");
        }
    }
    Ok(())
}

/// The test sees such flags where there are some.
fn flags_without_templates() -> Outcome {
    let (path, argv) = (os::c_path(child("nothing")), [c"nothing".to_owned()]);
    let flags = clone_flags(|| {
        let pid = os::posix_spawn(&path, &argv)?;
        os::waitpid(pid, 0).map(|ended| ended.0)
    })?;
    same!(flags & SHARED, SHARED, "what posix_spawn shares, of clone flags {flags:#x}");
    let flags = clone_flags(|| {
        let pid = os::fork()?;
        if pid == 0 {
            os::exit_now(3);
        }
        let (pid, status) = os::waitpid(pid, 0)?;
        if status == Status::Exited(3) { Ok(pid) } else { Err(io::Error::other(format!("{status:?}"))) }
    })?;
    same!(flags & SHARED, 0, "what fork shares, of clone flags {flags:#x}");
    Ok(())
}
