//! What the child inherits of signals, SIGMASK and SIGDEFAULT, and signals that arrive during a spawn.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{Outcome, refused};
use crate::os::{self, Status, sigbit};
use crate::show::Show;
use crate::template::{Act, Template};
use crate::{ensure, same, tests};

tests!("signals":
    mask_is_inherited, mask_is_set, mask_drops_kill_and_stop, last_mask_wins, mask_does_not_change_caller,
    ignored_stay_ignored, default_resets_ignored, default_of_all, ignore_sets, ignore_of_all, ignore_and_default,
    ignored_signal_is_dropped, caught_become_default, pending_are_not_inherited,
    as_after_exec, sigchld_on_exit, sigchld_ignored, no_sigchld_on_failure, interrupted_by_handlers [120],
    pidfd_delivers, alternate_stack_is_gone,
);

const USR1: u64 = 1 << (libc::SIGUSR1 - 1);
const USR2: u64 = 1 << (libc::SIGUSR2 - 1);

/// Blocked, ignored and caught signals of a child.
fn masks(show: &Show) -> [u64; 3] {
    ["status.SigBlk", "status.SigIgn", "status.SigCgt"].map(|key| show.mask(key))
}

/// The Rust runtime ignores SIGPIPE; undone, a child ignores nothing.
fn ignore_nothing() -> std::io::Result<()> {
    os::set_signal(libc::SIGPIPE, libc::SIG_DFL, 0)
}

fn mask_is_inherited() -> Outcome {
    ignore_nothing()?;
    let template = Template::child("show")?;
    os::set_sigmask(USR1 | sigbit(40))?;
    same!(masks(&template.spawn().show()?), [USR1 | sigbit(40), 0, 0], "masks");
    Ok(())
}

fn mask_is_set() -> Outcome {
    ignore_nothing()?;
    let template = Template::child("show")?;
    os::set_sigmask(USR1)?;
    for set in [0, USR2, USR1 | USR2, sigbit(64), sigbit(1) | sigbit(32) | sigbit(33)] {
        same!(masks(&template.spawn().act(Act::Sigmask(set)).show()?), [set, 0, 0], "masks with SIGMASK {set:#x}");
    }
    Ok(())
}

fn mask_drops_kill_and_stop() -> Outcome {
    let template = Template::child("show")?;
    let wanted = !(sigbit(libc::SIGKILL) | sigbit(libc::SIGSTOP));
    same!(masks(&template.spawn().act(Act::Sigmask(u64::MAX)).show()?)[0], wanted, "blocked signals");
    let child = Template::child("sleep")?.spawn().act(Act::Sigmask(u64::MAX)).run()?;
    os::kill(child.pid, libc::SIGKILL)?;
    same!(child.wait()?, Status::Signaled(libc::SIGKILL), "status");
    Ok(())
}

fn last_mask_wins() -> Outcome {
    let template = Template::child("show")?;
    let show = template.spawn().act(Act::Sigmask(USR1)).act(Act::Sigmask(USR2)).show()?;
    same!(masks(&show)[0], USR2, "blocked signals");
    Ok(())
}

fn mask_does_not_change_caller() -> Outcome {
    let template = Template::child("nothing")?;
    os::set_signal(libc::SIGUSR2, libc::SIG_IGN, 0)?;
    let before = std::fs::read_to_string("/proc/thread-self/status")?;
    let sets = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("Sig") || line.starts_with("Shd")).map(str::to_owned).collect()
    };
    template.spawn().act(Act::Sigmask(USR1)).act(Act::Sigdefault(u64::MAX)).status()?;
    refused("a failing one", template.spawn().act(Act::Sigmask(USR1)).act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
    same!(sets(&std::fs::read_to_string("/proc/thread-self/status")?), sets(&before), "the caller's signals");
    Ok(())
}

fn ignored_stay_ignored() -> Outcome {
    ignore_nothing()?;
    os::set_signal(libc::SIGUSR2, libc::SIG_IGN, 0)?;
    os::set_signal(libc::SIGINT, libc::SIG_IGN, 0)?;
    let show = Template::child("show")?.spawn().show()?;
    same!(masks(&show), [0, USR2 | sigbit(libc::SIGINT), 0], "masks");
    Ok(())
}

fn default_resets_ignored() -> Outcome {
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE, libc::SIGINT, 64] {
        os::set_signal(signal, libc::SIG_IGN, 0)?;
    }
    let template = Template::child("show")?;
    let all = USR1 | USR2 | sigbit(libc::SIGPIPE) | sigbit(libc::SIGINT) | sigbit(64);
    same!(masks(&template.spawn().show()?)[1], all, "ignored without SIGDEFAULT");
    let show = template.spawn().act(Act::Sigdefault(USR1)).show()?;
    same!(masks(&show)[1], all & !USR1, "ignored after one");
    let show = template.spawn().act(Act::Sigdefault(USR1)).act(Act::Sigdefault(sigbit(64))).show()?;
    same!(masks(&show)[1], all & !USR1 & !sigbit(64), "ignored after two");
    Ok(())
}

fn default_of_all() -> Outcome {
    for signal in [libc::SIGUSR1, libc::SIGPIPE, 64] {
        os::set_signal(signal, libc::SIG_IGN, 0)?;
    }
    let show = Template::child("show")?.spawn().act(Act::Sigdefault(u64::MAX)).show()?;
    same!(masks(&show), [0, 0, 0], "masks");
    Ok(())
}

fn ignore_sets() -> Outcome {
    ignore_nothing()?;
    os::set_signal(libc::SIGINT, libc::SIG_IGN, 0)?;
    os::set_signal(libc::SIGUSR1, counter(), 0)?;
    let template = Template::child("show")?;
    let spawn = template.spawn().act(Act::Sigignore(USR1)).act(Act::Sigignore(USR2 | sigbit(64)));
    let wanted = USR1 | USR2 | sigbit(64) | sigbit(libc::SIGINT);
    same!(masks(&spawn.show()?), [0, wanted, 0], "masks");
    same!(masks(&spawn.inherit_fds().show()?), [0, wanted, 0], "masks, inheriting");
    Ok(())
}

/// But for the two that cannot be ignored.
fn ignore_of_all() -> Outcome {
    let wanted = !(sigbit(libc::SIGKILL) | sigbit(libc::SIGSTOP));
    let show = Template::child("show")?.spawn().act(Act::Sigignore(u64::MAX)).show()?;
    same!(masks(&show), [0, wanted, 0], "masks");
    Ok(())
}

/// The last word on a signal counts.
fn ignore_and_default() -> Outcome {
    ignore_nothing()?;
    let template = Template::child("show")?;
    let show = template.spawn().act(Act::Sigignore(USR1 | USR2)).act(Act::Sigdefault(USR1)).show()?;
    same!(masks(&show), [0, USR2, 0], "masks after SIGIGNORE and SIGDEFAULT");
    let show = template.spawn().act(Act::Sigdefault(u64::MAX)).act(Act::Sigignore(USR1)).show()?;
    same!(masks(&show), [0, USR1, 0], "masks after SIGDEFAULT and SIGIGNORE");
    Ok(())
}

fn ignored_signal_is_dropped() -> Outcome {
    let child = Template::child("sleep")?.spawn().act(Act::Sigignore(USR1)).run()?;
    os::kill(child.pid, libc::SIGUSR1)?;
    os::kill(child.pid, libc::SIGTERM)?;
    same!(child.wait()?, Status::Signaled(libc::SIGTERM), "status");
    Ok(())
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// The address of [`count`], as a handler.
fn counter() -> libc::sighandler_t {
    let handler: extern "C" fn(i32) = count;
    handler as usize
}

fn caught_become_default() -> Outcome {
    ignore_nothing()?;
    os::set_signal(libc::SIGUSR1, counter(), libc::SA_RESTART)?;
    os::set_signal(libc::SIGTERM, counter(), 0)?;
    same!(masks(&Template::child("show")?.spawn().show()?), [0, 0, 0], "masks");
    let child = Template::child("sleep")?.spawn().run()?;
    os::kill(child.pid, libc::SIGTERM)?;
    same!(child.wait()?, Status::Signaled(libc::SIGTERM), "status");
    same!(CAUGHT.load(Ordering::Relaxed), 0, "signals the caller caught");
    Ok(())
}

fn pending_are_not_inherited() -> Outcome {
    os::set_sigmask(USR1 | USR2)?;
    // One for the process, one for the thread.
    os::kill(std::process::id() as i32, libc::SIGUSR1)?;
    // SAFETY: raise() has no preconditions.
    unsafe { libc::raise(libc::SIGUSR2) };
    let show = Template::child("show")?.spawn().show()?;
    same!((show.mask("status.SigPnd"), show.mask("status.ShdPnd")), (0, 0), "pending signals");
    // Nor delivered when the mask opens.
    let show = Template::child("show")?.spawn().act(Act::Sigmask(0)).show()?;
    same!(show.mask("status.SigBlk"), 0, "blocked signals");
    Ok(())
}

/// With everything mixed, the same sets as after fork and exec.
fn as_after_exec() -> Outcome {
    os::set_signal(libc::SIGUSR1, counter(), 0)?;
    os::set_signal(libc::SIGUSR2, libc::SIG_IGN, 0)?;
    os::set_signal(libc::SIGCHLD, libc::SIG_DFL, libc::SA_NOCLDSTOP)?;
    os::set_sigmask(sigbit(libc::SIGHUP) | USR1)?;
    let path = os::c_path(crate::template::child("show"));
    let argv = [c"child".to_owned()];
    let traditional = crate::template::show_by_exec(|| os::execve(&path, &argv, &[]))?;
    same!(masks(&Template::child("show")?.spawn().show()?), masks(&traditional), "masks");
    Ok(())
}

fn sigchld_on_exit() -> Outcome {
    os::set_sigmask(sigbit(libc::SIGCHLD))?;
    let template = Template::child("exit-code")?;
    for code in [0, 3] {
        let (pid, pidfd) = template.spawn().arg(&code.to_string()).run()?.leave();
        same!(os::take_sigchld(20_000)?, Some(pid), "sender of SIGCHLD");
        same!(os::take_sigchld(0)?, None, "second SIGCHLD");
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(code)), "waitpid");
        drop(pidfd);
    }
    Ok(())
}

/// Children of a process that ignores SIGCHLD reap themselves.
fn sigchld_ignored() -> Outcome {
    os::set_signal(libc::SIGCHLD, libc::SIG_IGN, 0)?;
    let template = Template::child("nothing")?;
    for _ in 0..10 {
        let (pid, pidfd) = template.spawn().run()?.leave();
        refused("waiting for it", os::waitpid(pid, 0), libc::ECHILD)?;
        drop(pidfd);
        refused("a failing one", template.spawn().act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
    }
    ensure!(!os::has_children()?, "a child is left");
    Ok(())
}

fn no_sigchld_on_failure() -> Outcome {
    os::set_sigmask(sigbit(libc::SIGCHLD))?;
    let template = Template::child("nothing")?;
    for inherit in [false, true] {
        let spawn = template.spawn().act(Act::Dup2(99, 1));
        let spawn = if inherit { spawn.inherit_fds() } else { spawn };
        refused("a failing action", spawn.run(), libc::EBADF)?;
        ensure!(!os::has_children()?, "a child is left");
        same!(os::take_sigchld(50)?, None, "SIGCHLD");
    }
    Ok(())
}

/// Handlers that run all the time, without SA_RESTART, never make a spawn fail.
fn interrupted_by_handlers() -> Outcome {
    let template = Template::child("nothing")?;
    let dynamic = Template::child("dynamic0")?;
    os::set_signal(libc::SIGALRM, counter(), 0)?;
    // Not faster: a fork that a signal interrupts starts over, and must get through at times.
    os::set_timer(10_000)?;
    let mut result = Ok(());
    for round in 0..100 {
        let spawn = if round % 3 == 0 { &dynamic } else { &template };
        match spawn.status() {
            Ok(Status::Exited(0)) => {}
            other => {
                result = Err(crate::harness::failed(format!("spawn {round}: {other:?}")));
                break;
            }
        }
        if let Ok(child) = spawn.spawn().act(Act::Dup2(99, 1)).run() {
            result = Err(crate::harness::failed(format!("failing spawn {round} gave {child:?}")));
            break;
        }
    }
    os::set_timer(0)?;
    result?;
    ensure!(CAUGHT.load(Ordering::Relaxed) > 0, "the timer never fired, so nothing was tested");
    same!(template.counts()?.1 + dynamic.counts()?.1, 100, "failures");
    Ok(())
}

fn pidfd_delivers() -> Outcome {
    use std::os::fd::AsRawFd;
    let child = Template::child("sleep")?.spawn().run()?;
    ensure!(!os::readable(child.pidfd.as_raw_fd(), 0)?, "the pidfd of a running child is readable");
    os::pidfd_kill(child.pidfd.as_raw_fd(), libc::SIGUSR1)?;
    ensure!(os::readable(child.pidfd.as_raw_fd(), 20_000)?, "the pidfd of a dead child is not readable");
    same!(child.wait()?, Status::Signaled(libc::SIGUSR1), "status");
    Ok(())
}

/// A child has no alternate signal stack, whatever its parent has (Rust sets one up for stack overflow).
fn alternate_stack_is_gone() -> Outcome {
    let child = Template::path("/bin/sh")?.spawn().argv(["sh", "-c", "kill -SEGV $$"]).run()?;
    same!(child.wait()?, Status::Signaled(libc::SIGSEGV), "status");
    Ok(())
}
