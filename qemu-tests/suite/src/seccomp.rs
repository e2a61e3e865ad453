//! Seccomp: a spawn is a system call of its own, does what vfork and execve do, and the child has the caller's filters.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::failing::{Failing, Failure, Stage, fields};
use crate::filter::{Filter, errno};
use crate::harness::{Checks, Outcome, failed, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Act, Open, SPAWN_SIZE, Sched, Template};
use crate::{ensure, same, tests};

tests!("seccomp":
    filters_apply_to_the_child, execve_denied, execveat_denied, vfork_denied, each_action_denied, execve_allowed, other_calls_denied,
    strictest_filter_wins, filter_on_the_call_itself, filter_on_create, killing_filter_on_the_call_itself,
    supervisor_is_not_asked, refusal_comes_before_argument_checks, filter_of_another_thread, strict_mode,
    without_new_privileges,
);

/// `__NR_spawn_template_create`.
const CREATE: libc::c_long = 473;
/// `__NR_spawn_template_spawn`.
const SPAWN: libc::c_long = 474;

/// The template of `nothing` of every test here, in a process of its own, with the filter in force.
fn filtered(filter: Filter, body: impl FnOnce(&Template) -> Outcome) -> Outcome {
    in_worker(|| {
        let template = Template::child("nothing")?;
        filter.install()?;
        body(&template)
    })
}

fn filters_apply_to_the_child() -> Outcome {
    in_worker(|| {
        let template = Template::child("show")?;
        same!(template.spawn().show()?.get("nice"), "0", "what the child reads without a filter");
        // show prints the -1 of getpriority() as it is.
        Filter::allowing().on(libc::SYS_getpriority, errno(libc::EPERM)).install()?;
        let show = template.spawn().show()?;
        same!(show.get("nice"), "-1", "what the child reads with a filter");
        same!(show.get("status.Seccomp"), "2", "its seccomp mode");
        Ok(())
    })?;
    // A filter that kills, too.
    filtered(Filter::allowing().on(libc::SYS_exit, libc::SECCOMP_RET_KILL_PROCESS), |template| {
        same!(template.status()?, Status::Signaled(libc::SIGSYS), "status of a child that calls exit");
        Ok(())
    })
}

/// What denies execve, and the errno a spawn gets then.
const DENIALS: &[(&str, u32, i32)] = &[
    ("ERRNO EPERM", libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, libc::EPERM),
    ("ERRNO ENOSYS", libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, libc::ENOSYS),
    ("ERRNO EACCES", libc::SECCOMP_RET_ERRNO | libc::EACCES as u32, libc::EACCES),
    ("ERRNO 0", libc::SECCOMP_RET_ERRNO, libc::EPERM),
    ("KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS, libc::EPERM),
    ("KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD, libc::EPERM),
    ("TRAP", libc::SECCOMP_RET_TRAP, libc::EPERM),
    ("TRACE", libc::SECCOMP_RET_TRACE | 7, libc::EPERM),
    ("USER_NOTIF", libc::SECCOMP_RET_USER_NOTIF, libc::EPERM),
    ("an action that does not exist", 0x1234_0000, libc::EPERM),
];

fn denied(number: libc::c_long) -> Outcome {
    for &(what, action, error) in DENIALS {
        filtered(Filter::allowing().on(number, action), |template| {
            let mut failing = Failing::new()?;
            failing.both(what, &template.spawn(), Failure::at(Stage::Identity, error));
            failing.both(format!("{what}, NOWAIT"), &template.spawn().nowait(), Failure::at(Stage::Identity, error));
            failing.finish()
        })?;
    }
    Ok(())
}

fn execve_denied() -> Outcome {
    denied(libc::SYS_execve)
}

/// A template made from a descriptor is what execveat() would execute, and it is that call which counts.
fn execveat_denied() -> Outcome {
    for (number, refused) in [(libc::SYS_execveat, true), (libc::SYS_execve, false)] {
        in_worker(|| {
            let template = Template::of_fd(&File::open(crate::template::child("nothing"))?)?;
            Filter::allowing().on(number, errno(libc::EXDEV)).install()?;
            if !refused {
                same!(template.status()?, Status::Exited(0), "status where only execve is forbidden");
                return Ok(());
            }
            let mut failing = Failing::new()?;
            failing.both("execveat", &template.spawn(), Failure::at(Stage::Identity, libc::EXDEV));
            failing.finish()
        })?;
    }
    Ok(())
}

fn vfork_denied() -> Outcome {
    denied(libc::SYS_vfork)
}

/// An action is refused, by its index, where the system call is forbidden that it stands for.
fn each_action_denied() -> Outcome {
    let template = Template::child("nothing")?;
    let (folder, null) = (File::open("/")?, Open::new("/dev/null", libc::O_RDONLY, 5));
    let group = File::open("/sys/fs/cgroup")?;
    let cases = [
        ("CLOSE", Act::Close(5), libc::SYS_close),
        ("DUP2", Act::Dup2(0, 5), libc::SYS_dup2),
        ("DUP2 with O_CLOEXEC", Act::Dup2Cloexec(0, 5), libc::SYS_dup3),
        ("FCHDIR", Act::Fchdir(folder.as_raw_fd()), libc::SYS_fchdir),
        ("OPEN", Act::Open(null.clone()), libc::SYS_openat),
        ("OPEN with resolve", Act::Open(null.resolve(libc::RESOLVE_NO_MAGICLINKS)), libc::SYS_openat2),
        ("CLOSE_RANGE", Act::CloseRange(5, 9, 0), libc::SYS_close_range),
        ("SIGMASK", Act::Sigmask(1), libc::SYS_rt_sigprocmask),
        ("SIGDEFAULT", Act::Sigdefault(1), libc::SYS_rt_sigaction),
        ("SIGIGNORE", Act::Sigignore(1), libc::SYS_rt_sigaction),
        ("CHDIR", Act::chdir("/"), libc::SYS_chdir),
        ("SETSID", Act::Setsid, libc::SYS_setsid),
        ("SETPGID", Act::Setpgid(0), libc::SYS_setpgid),
        ("TCSETPGRP", Act::Tcsetpgrp(0), libc::SYS_ioctl),
        ("SETCTTY", Act::Setctty(0), libc::SYS_ioctl),
        ("UMASK", Act::Umask(0), libc::SYS_umask),
        ("RLIMIT", Act::Rlimit(libc::RLIMIT_CORE, 0, 0), libc::SYS_prlimit64),
        ("SCHED", Act::Sched(Sched::default()), libc::SYS_sched_setattr),
        ("RESETIDS, users", Act::Resetids, libc::SYS_setresuid),
        ("RESETIDS, groups", Act::Resetids, libc::SYS_setresgid),
        ("SETUID", Act::Setuid(0), libc::SYS_setuid),
        ("SETGID", Act::Setgid(0), libc::SYS_setgid),
        ("SETGROUPS", Act::Setgroups(vec![0]), libc::SYS_setgroups),
        ("NO_NEW_PRIVS", Act::NoNewPrivs, libc::SYS_prctl),
        ("PDEATHSIG", Act::Pdeathsig(0), libc::SYS_prctl),
        ("CGROUP", Act::Cgroup(group.as_raw_fd()), libc::SYS_clone3),
    ];
    let mut checks = Checks::default();
    for (what, act, number) in cases {
        let spawn = template.spawn().act(act);
        let worker = os::fork()?;
        if worker == 0 {
            // This process can hardly do anything else any more.
            let installed = Filter::allowing().on(number, errno(libc::EXDEV)).install().is_ok();
            let (child, result) = spawn.report();
            let refused = child.is_err_and(|e| e.raw_os_error() == Some(libc::EXDEV));
            let wanted = (Stage::Identity as u32, 0, libc::EXDEV, 0);
            os::exit_now(i32::from(!(installed && refused && fields(&result) == wanted)));
        }
        if os::waitpid(worker, 0)?.1 != Status::Exited(0) {
            checks.fail(format!("{what} was not refused"));
        }
    }
    checks.finish()
}

fn execve_allowed() -> Outcome {
    for (what, action) in [("ALLOW", libc::SECCOMP_RET_ALLOW), ("LOG", libc::SECCOMP_RET_LOG)] {
        filtered(Filter::allowing().on(libc::SYS_execve, action).on(libc::SYS_vfork, action), |template| {
            same!(template.status()?, Status::Exited(0), "{what}: status");
            Ok(())
        })?;
    }
    Ok(())
}

/// Only execve and vfork are asked about: nothing else that a C library might have used to start a program.
fn other_calls_denied() -> Outcome {
    let numbers = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_execveat];
    let deny = |filter: Filter, number| filter.on(number, errno(libc::EPERM));
    let filter = numbers.into_iter().fold(Filter::allowing(), deny);
    filtered(filter, |template| {
        same!(template.status()?, Status::Exited(0), "status");
        Ok(())
    })
}

fn strictest_filter_wins() -> Outcome {
    in_worker(|| {
        let template = Template::child("nothing")?;
        let filters = [libc::SECCOMP_RET_ALLOW, errno(libc::EACCES), libc::SECCOMP_RET_LOG];
        for action in filters {
            Filter::allowing().on(libc::SYS_execve, action).install()?;
        }
        refused("with one of three filters against it", template.status(), libc::EACCES)
    })
}

/// A filter that knows the call is asked as for any other.
fn filter_on_the_call_itself() -> Outcome {
    for error in [libc::EPERM, libc::ENOSYS] {
        filtered(Filter::allowing().on(SPAWN, errno(error)), |template| {
            refused("a filter on 474", template.status(), error)?;
            same!(Template::child("nothing").is_ok(), true, "making a template works");
            same!(template.counts()?, (0, 0), "spawns and failures");
            Ok(())
        })?;
    }
    Ok(())
}

fn filter_on_create() -> Outcome {
    filtered(Filter::allowing().on(CREATE, errno(libc::EPERM)), |template| {
        refused("a filter on 473", Template::child("nothing"), libc::EPERM)?;
        same!(template.status()?, Status::Exited(0), "status of a spawn from an earlier template");
        Ok(())
    })
}

fn killing_filter_on_the_call_itself() -> Outcome {
    let template = Template::child("nothing")?;
    let worker = os::fork()?;
    if worker == 0 {
        if Filter::allowing().on(SPAWN, libc::SECCOMP_RET_KILL_PROCESS).install().is_ok() {
            let _ = template.status();
        }
        os::exit_now(1);
    }
    same!(os::waitpid(worker, 0)?, (worker, Status::Signaled(libc::SIGSYS)), "the caller");
    Ok(())
}

/// A supervisor that is told of every execve hears nothing of a spawn, which is refused.
fn supervisor_is_not_asked() -> Outcome {
    in_worker(|| {
        let template = Template::child("nothing")?;
        let filter = Filter::allowing().on(libc::SYS_execve, libc::SECCOMP_RET_USER_NOTIF);
        let listener = filter.install_with_listener()?;
        refused("a supervised execve", template.status(), libc::EPERM)?;
        ensure!(!os::readable(listener.as_raw_fd(), 100)?, "the supervisor was told");
        Ok(())
    })
}

/// The filters that count are the child's, so what is wrong with the arguments is found first.
fn refusal_comes_before_argument_checks() -> Outcome {
    filtered(Filter::allowing().on(libc::SYS_execve, errno(libc::EACCES)), |template| {
        let spawn = template.spawn();
        refused("argv", spawn.run_changed(|args| args.argv = 1), libc::EACCES)?;
        refused("a wrong action", spawn.clone().act(Act::Close(-1)).run(), libc::EACCES)?;
        refused("an unknown flag", spawn.run_changed(|args| args.flags = 1 << 63), libc::EINVAL)?;
        refused("arguments that cannot be read", os::template_spawn(template.raw(), 1, SPAWN_SIZE), libc::EFAULT)
    })
}

/// A filter is a thread's: another thread's does not count.
fn filter_of_another_thread() -> Outcome {
    in_worker(|| {
        let template = Template::child("nothing")?;
        let filtered = std::thread::scope(|scope| {
            let with_filter = || {
                Filter::allowing().on(libc::SYS_execve, errno(libc::EPERM)).install()?;
                template.status()
            };
            scope.spawn(with_filter).join()
        });
        refused("from the thread with the filter", filtered.map_err(|_| failed("the thread panicked"))?, libc::EPERM)?;
        same!(template.status()?, Status::Exited(0), "status, from a thread without");
        Ok(())
    })
}

/// Strict mode knows read, write, exit and sigreturn.
fn strict_mode() -> Outcome {
    let template = Template::child("nothing")?;
    let worker = os::fork()?;
    if worker == 0 {
        if os::prctl(libc::PR_SET_SECCOMP, 1, 0).is_ok() {
            let _ = template.status();
        }
        // Not exit_group(), which is not among the four.
        // SAFETY: exit() ends this thread, the only one.
        unsafe { libc::syscall(libc::SYS_exit, 1) };
    }
    same!(os::waitpid(worker, 0)?, (worker, Status::Signaled(libc::SIGKILL)), "the caller");
    Ok(())
}

/// A user who set no_new_privs to install a filter spawns like anybody, and what is spawned gains nothing.
fn without_new_privileges() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        refused("a filter without no_new_privs", Filter::allowing().install(), libc::EACCES)?;
        os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
        Filter::allowing().install()?;
        let show = Template::child("show")?.spawn().show()?;
        same!((show.get("status.Seccomp"), show.get("status.NoNewPrivs")), ("2", "1"), "mode and no_new_privs");
        Ok(())
    })
}
