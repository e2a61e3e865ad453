//! Seccomp: a filter that is put on all threads at once is on what their spawns start, however far these have come.

use std::thread;

use crate::failing::{Stage, fields};
use crate::filter::{Filter, errno};
use crate::harness::{Outcome, failed, in_worker};
use crate::os::Status;
use crate::template::{Act, Spawn, Template};
use crate::userfault::Held;
use crate::{ensure, same, tests};

tests!("seccomp_tsync":
    execve_forbidden_meanwhile, vfork_forbidden_meanwhile, action_forbidden_meanwhile,
    filter_is_in_the_child,
);

/// How a spawn went: errno or 0, the report's fields, and how the child ended if there was one.
type Went = (i32, (u32, i32, i32, u32), Option<Status>);

/// Starts `spawn` in a thread whose argument vector the kernel cannot read on until `filter` is on all threads.
fn filtered_meanwhile(spawn: &Spawn<'_>, filter: Filter) -> Outcome<Went> {
    let held = Held::new()?;
    let argv = [c"child".as_ptr() as u64, held.address(), 0];
    thread::scope(|scope| {
        let spawning = scope.spawn(|| {
            let (child, result) = spawn.report_changed(|args| args.argv = argv.as_ptr() as u64);
            let (error, status) = match child {
                Ok(child) => (0, child.wait().ok()),
                Err(error) => (error.raw_os_error().unwrap_or(-1), None),
            };
            (error, fields(&result), status)
        });
        let waits = held.somebody_waits(20_000);
        let installed = filter.install_on_all_threads();
        // Only now, and whatever happened.
        let filled = held.fill(b"0\0");
        let outcome = spawning.join().map_err(|_| failed("the spawning thread panicked"))?;
        ensure!(waits?, "nobody read the argument");
        installed?;
        filled?;
        Ok(outcome)
    })
}

/// A filter that forbids this call, put on all threads while the arguments are copied, forbids the spawn.
fn forbidden_meanwhile(number: libc::c_long, acts: &[Act], action: i32) -> Outcome {
    in_worker(|| {
        let template = Template::child("exit-code")?;
        let spawn = template.spawn().acts(acts.iter().cloned());
        let filter = Filter::allowing().on(number, errno(libc::EXDEV));
        let (error, report, status) = filtered_meanwhile(&spawn, filter)?;
        same!(status, None, "a child that started under the filter");
        same!((error, report), (libc::EXDEV, (Stage::Identity as u32, action, libc::EXDEV, 0)), "error and report");
        Ok(())
    })
}

fn execve_forbidden_meanwhile() -> Outcome {
    forbidden_meanwhile(libc::SYS_execve, &[], -1)
}

fn vfork_forbidden_meanwhile() -> Outcome {
    forbidden_meanwhile(libc::SYS_vfork, &[], -1)
}

fn action_forbidden_meanwhile() -> Outcome {
    forbidden_meanwhile(libc::SYS_umask, &[Act::Close(9), Act::Umask(0)], 1)
}

/// One that forbids what only the program does.
fn filter_is_in_the_child() -> Outcome {
    in_worker(|| {
        let template = Template::child("exit-code")?;
        let filter = Filter::allowing().on(libc::SYS_exit_group, libc::SECCOMP_RET_KILL_PROCESS);
        let (error, _, status) = filtered_meanwhile(&template.spawn(), filter)?;
        same!((error, status), (0, Some(Status::Signaled(libc::SIGSYS))), "error and status");
        // This process may not leave by exit_group() any more.
        // SAFETY: exit() ends this thread, the only one.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        Ok(())
    })
}
