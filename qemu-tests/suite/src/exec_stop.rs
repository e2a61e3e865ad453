//! At PTRACE_EVENT_EXEC a spawn is over: the child is its program in every respect, and a waiting caller goes on.

use std::time::{Duration, Instant};

use crate::harness::{Outcome, patience};
use crate::hold::{Held, Hold, Point, Way};
use crate::os::{self, Status};
use crate::template::{Act, Template};
use crate::tracer::{ALL_EVENTS, Kind, follow_as};
use crate::{ensure, same, tests};

tests!("exec_stop":
    mask_is_the_programs [120], mask_that_is_set_is_kept [120], caller_goes_on [120], caller_of_a_traced_child [120],
);

/// `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK`.
const GET: libc::c_uint = 0x420a;
const SET: libc::c_uint = 0x420b;

/// Starts `show` in a traced process, which wants this mask in the program. `at_exec` is called at EXEC.
fn spawn_show(
    kind: Kind,
    nowait: bool,
    acts: &[Act],
    wanted: u64,
    mut at_exec: impl FnMut(i32) -> std::io::Result<()>,
) -> Outcome {
    let template = Template::child("show")?;
    let body = || {
        let spawn = template.spawn().acts(acts.iter().cloned());
        let spawn = if nowait { spawn.nowait() } else { spawn };
        let own = os::set_sigmask(os::sigbit(libc::SIGUSR1));
        let seen = own.is_ok().then(|| spawn.show().ok()).flatten();
        i32::from(!seen.is_some_and(|show| u64::from_str_radix(show.get("status.SigBlk"), 16) == Ok(wanted)))
    };
    let mut execs = 0;
    follow_as(kind, ALL_EVENTS & !libc::PTRACE_O_TRACEEXIT, body, |step| {
        if step.is_event(libc::PTRACE_EVENT_EXEC) {
            execs += 1;
            at_exec(step.pid)?;
        }
        Ok(libc::PTRACE_CONT)
    })?;
    same!(execs, 1, "{kind:?}, NOWAIT {nowait}: EXEC events");
    Ok(())
}

/// The blocked signals of a stopped tracee.
fn blocked(pid: i32) -> std::io::Result<u64> {
    let mut mask = 0u64;
    os::ptrace(GET, pid, 8, &raw mut mask as u64)?;
    Ok(mask)
}

/// What the tracer reads at EXEC is what the program will have: the caller's mask, or that of an action.
fn mask_is_the_programs() -> Outcome {
    let (own, other) = (os::sigbit(libc::SIGUSR1), os::sigbit(libc::SIGUSR2));
    for kind in Kind::ALL {
        for nowait in [false, true] {
            for (acts, wanted) in [(&[][..], own), (&[Act::Sigmask(other)], other)] {
                let mut seen = None;
                spawn_show(kind, nowait, acts, wanted, |pid| {
                    seen = Some(blocked(pid)?);
                    Ok(())
                })?;
                same!(seen, Some(wanted), "{kind:?}, NOWAIT {nowait}, {acts:?}: signals blocked at EXEC");
            }
        }
    }
    Ok(())
}

fn mask_that_is_set_is_kept() -> Outcome {
    let mask = os::sigbit(libc::SIGWINCH);
    for kind in Kind::ALL {
        for nowait in [false, true] {
            spawn_show(kind, nowait, &[], mask, |pid| os::ptrace(SET, pid, 8, &raw const mask as u64))?;
        }
    }
    Ok(())
}

/// The tracer holds the child at EXEC until the caller has stopped at VFORK_DONE.
fn caller_goes_on() -> Outcome {
    let template = Template::child("exit-code")?;
    for kind in Kind::ALL {
        let body = || i32::from(!template.spawn().arg("4").status().is_ok_and(|status| status == Status::Exited(4)));
        let (mut caller, mut done) = (0, 0);
        follow_as(kind, ALL_EVENTS & !libc::PTRACE_O_TRACEEXIT, body, |step| {
            if step.is_event(libc::PTRACE_EVENT_VFORK) {
                caller = step.pid;
            } else if step.is_event(libc::PTRACE_EVENT_VFORK_DONE) {
                done += 1;
            } else if step.is_event(libc::PTRACE_EVENT_EXEC) {
                // Whether it has come already or is waiting to be told. A child so fast that this is told of EXEC before
                // VFORK leaves nothing to wait for.
                let end = Instant::now() + Duration::from_secs(patience(8).into());
                while caller != 0 && done == 0 && !os::has_news(caller, libc::WSTOPPED)? {
                    ensure!(
                        Instant::now() < end,
                        "{kind:?}: the caller stayed in its call while the child was at EXEC"
                    );
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(libc::PTRACE_CONT)
        })?;
        same!(done, 1, "{kind:?}: VFORK_DONE events");
    }
    Ok(())
}

/// Nobody traces the caller, and its call returns while the child's tracer holds that at EXEC.
fn caller_of_a_traced_child() -> Outcome {
    let hold = Hold::new(Point::Fifo)?;
    let held = Held::start(&hold, Way::Waiting, None, || Ok(()))?;
    os::ptrace(libc::PTRACE_SEIZE, held.child, 0, libc::PTRACE_O_TRACEEXEC as u64)?;
    let through = hold.release()?;
    let end = Instant::now() + Duration::from_secs(patience(8).into());
    while !os::has_news(held.child, libc::WSTOPPED)? {
        ensure!(Instant::now() < end, "the child never came to EXEC");
        std::thread::sleep(Duration::from_millis(5));
    }
    let stop = Status::Other(libc::PTRACE_EVENT_EXEC << 16 | libc::SIGTRAP << 8 | 0x7f);
    same!(os::waitpid(held.child, libc::__WALL)?, (held.child, stop), "the child's stop");
    ensure!(held.returns_within(patience(8) as i32 * 1000)?, "the call did not return while the child was at EXEC");
    os::ptrace(libc::PTRACE_DETACH, held.child, 0, 0)?;
    held.ended()?;
    drop(through);
    Ok(())
}
