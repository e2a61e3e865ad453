//! A program started from a template sees the same of itself as after fork and execve, whatever state the caller is in.

use std::fs;
use std::io;
use std::ptr;

use crate::harness::{Outcome, failed, in_worker};
use crate::os::{self, sigbit};
use crate::template::{Template, child};
use crate::twice::{self, Twice};
use crate::{ensure, same, tests};

tests!("like_exec":
    plain_dynamic, plain_static, at_the_first_instruction, inheriting_fds, of_a_user, several_times,
    nice_and_scheduling, realtime_with_reset_on_fork, io_priority, affinity, memory_policy, blocked_signals, ignored_signals,
    handlers_and_pending_signals, alternate_signal_stack, resource_limits, mask_of_files, working_directory, oom_score,
    personality, addresses_without_randomization, timer_slack, timers, huge_pages_disabled, dump_filter, locked_memory,
    write_or_execute, merged_memory, time_stamp_counter, speculation, child_subreaper, parent_death_signal, keep_capabilities,
    not_dumpable, no_new_privileges, inheritable_and_ambient_capabilities, session_keyring, login_uid, registered_barriers,
    namespaces, time_namespace, session_and_group, root_changed, seccomp_filter, threads_of_the_caller, everything_at_once,
);

/// The result of a C function that answers -1 for an error.
fn checked(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Both flavours, in the state the caller is in now.
#[track_caller]
fn compare_both() -> Outcome<Twice> {
    twice::compare(&child("report-static"))?;
    twice::compare(&child("report"))
}

fn plain_dynamic() -> Outcome {
    let twice = twice::compare(&child("report"))?;
    twice.saw("auxv.31", &child("report"))?;
    twice.saw("auxv.7", "address")?;
    twice.saw("comm", "report\\x0a")?;
    twice.saw("cmdline", "zeroth\\x00first\\x00\\x00")?;
    twice.saw("environ", "A=1\\x00LANG=C\\x00")?;
    twice.saw("exe", &child("report"))?;
    twice.saw("stat.seen", "1")
}

fn plain_static() -> Outcome {
    let twice = twice::compare(&child("report-static"))?;
    twice.saw("auxv.31", &child("report-static"))?;
    twice.saw("auxv.7", "0")
}

/// Registers, thread pointer, restartable sequences, robust futexes: what a C library hides by setting its own.
fn at_the_first_instruction() -> Outcome {
    let twice = twice::compare(&child("first"))?;
    twice.saw("rdx", "0000000000000000")?;
    twice.saw("robust.head", "0000000000000000")?;
    twice.saw("tid.address", "0000000000000000")?;
    twice.saw("rseq.result", "0000000000000000")
}

fn inheriting_fds() -> Outcome {
    os::cloexec_from_3()?;
    Twice::run_with(&child("report"), |spawn| spawn.inherit_fds(), || Ok(()))?.compare()
}

fn of_a_user() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let twice = compare_both()?;
        twice.saw("uid", "12345 12345 12345")?;
        twice.saw("proc.owner", "12345 12345")
    })
}

/// A template that has been used sees to the next child as it did to the first.
fn several_times() -> Outcome {
    let template = Template::child("report")?;
    let first = template.spawn().show()?;
    for _ in 0..3 {
        same!(template.spawn().show()?.without_prefix("own."), first.without_prefix("own."), "a later child");
    }
    Ok(())
}

fn nice_and_scheduling() -> Outcome {
    // SAFETY: nice() takes a number.
    unsafe { libc::nice(7) };
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is a live local.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &parameters) })?;
    let twice = compare_both()?;
    twice.saw("nice", "7")?;
    twice.saw("stat.41", "3")
}

/// SCHED_RESET_ON_FORK takes effect at the birth of the child.
fn realtime_with_reset_on_fork() -> Outcome {
    in_worker(|| {
        let parameters = libc::sched_param { sched_priority: 5 };
        let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
        // SAFETY: `parameters` is a live local.
        let set = checked(unsafe { libc::sched_setscheduler(0, policy, &parameters) });
        let outcome = set.map_err(Into::into).and_then(|_| compare_both());
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: as above.
        checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &parameters) })?;
        outcome?.saw("stat.41", "0")
    })
}

fn io_priority() -> Outcome {
    // Class 2 (best effort), level 6.
    // SAFETY: ioprio_set() takes numbers.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, 2 << 13 | 6) })?;
    compare_both()?.saw("ioprio", &(2 << 13 | 6).to_string())
}

fn affinity() -> Outcome {
    let mask = 1u64;
    // SAFETY: `mask` is a live local of 8 bytes.
    checked(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, 8, &raw const mask) })?;
    compare_both()?.saw("cpus", "1")
}

fn memory_policy() -> Outcome {
    let nodes = 1u64;
    // MPOL_BIND to node 0.
    // SAFETY: `nodes` is a live local of 64 bits.
    match checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, 2, &raw const nodes, 64) }) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
            return Err(crate::harness::Stop::Skipped("this kernel has no memory policies".to_owned()));
        }
        result => result?,
    };
    compare_both()?.saw("nodes", "2 1")
}

fn blocked_signals() -> Outcome {
    os::set_sigmask(sigbit(libc::SIGUSR1) | sigbit(libc::SIGCHLD) | sigbit(40) | sigbit(64))?;
    compare_both()?.saw("status.SigBlk", "8000008000010200")
}

fn ignored_signals() -> Outcome {
    os::set_signal(libc::SIGPIPE, libc::SIG_DFL, 0)?;
    os::set_signal(libc::SIGINT, libc::SIG_IGN, libc::SA_RESTART)?;
    os::set_signal(libc::SIGQUIT, libc::SIG_IGN, 0)?;
    os::set_signal(50, libc::SIG_IGN, libc::SA_NODEFER)?;
    compare_both()?.saw("status.SigIgn", "0002000000000006")
}

extern "C" fn ignore(_: i32) {}

fn handlers_and_pending_signals() -> Outcome {
    let handler: extern "C" fn(i32) = ignore;
    for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGSEGV, 45] {
        os::set_signal(signal, handler as usize, libc::SA_RESTART | libc::SA_ONSTACK)?;
    }
    os::set_sigmask(sigbit(libc::SIGUSR1) | sigbit(libc::SIGUSR2))?;
    os::kill(std::process::id() as i32, libc::SIGUSR1)?;
    // SAFETY: raise() has no preconditions.
    unsafe { libc::raise(libc::SIGUSR2) };
    let twice = compare_both()?;
    twice.saw("status.SigCgt", "0000000000000000")?;
    twice.saw("status.ShdPnd", "0000000000000000")
}

fn alternate_signal_stack() -> Outcome {
    let mut memory = vec![0u8; 1 << 16];
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    let mut before = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the memory lives until the stack of before is back.
    checked(unsafe { libc::sigaltstack(&stack, &mut before) })?;
    let outcome = compare_both();
    let first = twice::compare(&child("first"));
    // SAFETY: `before` is what was in force.
    checked(unsafe { libc::sigaltstack(&before, ptr::null_mut()) })?;
    first?.saw("altstack.flags", "0000000000000002")?;
    outcome?.saw("altstack", "2 0")
}

fn resource_limits() -> Outcome {
    let limits = [
        (libc::RLIMIT_CPU, 3600),
        (libc::RLIMIT_CORE, 4096),
        (libc::RLIMIT_NOFILE, 777),
        (libc::RLIMIT_STACK, 3 << 20),
        (libc::RLIMIT_DATA, 1 << 30),
        (libc::RLIMIT_MEMLOCK, 12 << 10),
        (libc::RLIMIT_SIGPENDING, 55),
        (libc::RLIMIT_MSGQUEUE, 1 << 16),
        (libc::RLIMIT_FSIZE, 1 << 30),
    ];
    for (resource, soft) in limits {
        os::set_rlimit(resource, soft)?;
    }
    let nofile = os::rlimit(libc::RLIMIT_NOFILE)?;
    compare_both()?.saw("rlimit.7", &format!("{:x} {:x}", nofile.rlim_cur, nofile.rlim_max))
}

fn mask_of_files() -> Outcome {
    os::umask(0o137);
    compare_both()?.saw("umask", "0137")
}

fn working_directory() -> Outcome {
    std::env::set_current_dir("/usr/share")?;
    compare_both()?.saw("cwd", "/usr/share")
}

fn oom_score() -> Outcome {
    fs::write("/proc/self/oom_score_adj", "321")?;
    compare_both()?.saw("oom_score_adj", "321\\x0a")
}

/// ADDR_COMPAT_LAYOUT and STICKY_TIMEOUTS, which stay on exec.
fn personality() -> Outcome {
    // SAFETY: personality() takes a number.
    checked(unsafe { libc::personality(0x0420_0000) })?;
    compare_both()?.saw("personality", "04200000\\x0a")
}

/// Without randomization the very addresses are the same: layout, stack contents and break.
fn addresses_without_randomization() -> Outcome {
    // SAFETY: personality() takes a number.
    checked(unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) })?;
    for program in ["report", "report-static"] {
        let twice = twice::compare(&child(program))?;
        for key in ["stack", "execfn", "random", "exe", "interpreter", "vdso", "brk"] {
            let key = format!("own.address.{key}");
            same!(twice.spawned.get(&key), twice.executed.get(&key), "{program}: {key}");
            ensure!(!twice.spawned.get(&key).is_empty(), "{program} did not print {key}");
        }
    }
    Ok(())
}

fn timer_slack() -> Outcome {
    os::prctl(libc::PR_SET_TIMERSLACK, 123_456, 0)?;
    let twice = compare_both()?;
    twice.saw("timerslack", "123456")?;
    twice.saw("timerslack_ns", "123456\\x0a")
}

/// Interval timers and POSIX timers stay behind.
fn timers() -> Outcome {
    let far = libc::timeval { tv_sec: 5000, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: far, it_value: far };
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: `timer` is a live local.
        checked(unsafe { libc::syscall(libc::SYS_setitimer, which, &raw const timer, 0) })?;
    }
    let mut id = 0;
    // SAFETY: no sigevent is allowed, and `id` is a live local.
    checked(unsafe { libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, 0, &raw mut id) })?;
    let twice = compare_both()?;
    twice.saw("itimer.0", "0.000000 0.000000")?;
    twice.saw("timers", "")
}

fn huge_pages_disabled() -> Outcome {
    os::prctl(libc::PR_SET_THP_DISABLE, 1, 0)?;
    compare_both()?.saw("thp_disable", "1")
}

fn dump_filter() -> Outcome {
    fs::write("/proc/self/coredump_filter", "0x7f")?;
    compare_both()?.saw("coredump_filter", "0000007f\\x0a")
}

/// MCL_FUTURE is the caller's address space's alone.
fn locked_memory() -> Outcome {
    // SAFETY: mlockall() takes a number.
    checked(unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_CURRENT) })?;
    let outcome = compare_both();
    // SAFETY: munlockall() has no preconditions.
    checked(unsafe { libc::munlockall() })?;
    outcome?.saw("status.VmLck", "0 kB")
}

/// PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN stays on exec.
fn write_or_execute() -> Outcome {
    os::prctl(65, 1, 0)?;
    compare_both()?.saw("mdwe", "1")
}

/// PR_SET_MEMORY_MERGE.
fn merged_memory() -> Outcome {
    os::prctl(67, 1, 0)?;
    compare_both()?.saw("memory_merge", "1")
}

fn time_stamp_counter() -> Outcome {
    in_worker(|| {
        // From here on rdtsc is a SIGSEGV, in the vDSO's clock_gettime() too.
        os::prctl(libc::PR_SET_TSC, 2, 0)?;
        let outcome = twice::compare(&child("report-static"));
        os::prctl(libc::PR_SET_TSC, 1, 0)?;
        outcome?.saw("tsc", "2")
    })
}

fn speculation() -> Outcome {
    // PR_SPEC_STORE_BYPASS and PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE; the processor may not know the one or the other.
    for which in [0, 1] {
        let _ = os::prctl(libc::PR_SET_SPECULATION_CTRL, which, 4);
    }
    compare_both().map(drop)
}

fn child_subreaper() -> Outcome {
    os::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
    compare_both()?.saw("child_subreaper", "0")
}

fn parent_death_signal() -> Outcome {
    os::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1 as u64, 0)?;
    compare_both()?.saw("pdeathsig", "0")
}

fn keep_capabilities() -> Outcome {
    os::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    compare_both()?.saw("keepcaps", "0")
}

fn not_dumpable() -> Outcome {
    os::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    compare_both()?.saw("dumpable", "1")
}

fn no_new_privileges() -> Outcome {
    os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    compare_both()?.saw("no_new_privs", "1")
}

/// CAP_NET_RAW (13) inheritable and ambient, kept by a user who is not root.
fn inheritable_and_ambient_capabilities() -> Outcome {
    in_worker(|| {
        os::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        os::become_user(12345)?;
        os::set_capabilities(0, 1 << 13, 1 << 13)?;
        os::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, 13)?;
        let twice = compare_both()?;
        twice.saw("ambient", "13 ")?;
        twice.saw("status.CapEff", "0000000000002000")
    })
}

fn session_keyring() -> Outcome {
    // KEYCTL_JOIN_SESSION_KEYRING with a new anonymous one, and a process keyring, which exec drops.
    // SAFETY: no name is allowed.
    let id = checked(unsafe { libc::syscall(libc::SYS_keyctl, 1, 0) })?;
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_PROCESS_KEYRING and KEY_SPEC_THREAD_KEYRING, made for the asking.
    for which in [-2, -1] {
        // SAFETY: the call takes numbers.
        checked(unsafe { libc::syscall(libc::SYS_keyctl, 0, which, 1) })?;
    }
    let twice = compare_both()?;
    twice.saw("keyring.1", "ENOKEY")?;
    twice.saw("keyring.2", "ENOKEY")?;
    twice.saw("keyring.3", &id.to_string())
}

fn login_uid() -> Outcome {
    in_worker(|| {
        fs::write("/proc/self/loginuid", "4711")?;
        compare_both()?.saw("loginuid", "4711")
    })
}

fn registered_barriers() -> Outcome {
    // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
    // SAFETY: membarrier() takes numbers.
    checked(unsafe { libc::syscall(libc::SYS_membarrier, 1 << 4, 0, 0) })?;
    compare_both()?.saw("membarrier", "0")
}

fn namespaces() -> Outcome {
    in_worker(|| {
        let flags = libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;
        os::unshare(flags)?;
        os::private_mounts()?;
        let own = fs::read_link("/proc/self/ns/uts")?;
        compare_both()?.saw("ns/uts", &own.to_string_lossy())
    })
}

/// A child of a caller with another time namespace for its children enters it.
fn time_namespace() -> Outcome {
    in_worker(|| {
        os::unshare(0x80 /* CLONE_NEWTIME */)?;
        fs::write("/proc/self/timens_offsets", "monotonic 1000000 0\n")?;
        let wanted = fs::read_link("/proc/self/ns/time_for_children")?;
        ensure!(wanted != fs::read_link("/proc/self/ns/time")?, "there is no other time namespace");
        compare_both()?.saw("ns/time", &wanted.to_string_lossy().replace("time_for_children", "time"))
    })
}

fn session_and_group() -> Outcome {
    in_worker(|| {
        // SAFETY: fork in a single-threaded process.
        match os::fork()? {
            0 => {
                // SAFETY: setsid() has no preconditions.
                unsafe { libc::setsid() };
                let compared = twice::compare(&child("report"))
                    .and_then(|twice| twice.saw("sid", &std::process::id().to_string()));
                os::exit_now(i32::from(compared.is_err()))
            }
            pid => {
                same!(os::waitpid(pid, 0)?, (pid, os::Status::Exited(0)), "the session leader");
                Ok(())
            }
        }
    })
}

fn root_changed() -> Outcome {
    in_worker(|| {
        os::private_mounts()?;
        let root = crate::template::Folder::tmp("like-exec-root")?;
        os::mount("/", root.path(), "", libc::MS_BIND | libc::MS_REC, "")?;
        let outside = fs::File::open("/")?;
        std::os::unix::fs::chroot(root.path())?;
        std::env::set_current_dir("/tmp")?;
        let outcome = compare_both();
        // Back, so that the folder can be removed.
        use std::os::fd::AsRawFd;
        // SAFETY: fchdir() takes a descriptor that is open.
        checked(unsafe { libc::fchdir(outside.as_raw_fd()) })?;
        std::os::unix::fs::chroot(".")?;
        os::unmount(root.path())?;
        outcome?.saw("cwd", "/tmp")
    })
}

fn seccomp_filter() -> Outcome {
    in_worker(|| {
        crate::filter::Filter::allowing().install()?;
        crate::filter::Filter::allowing().install()?;
        let twice = compare_both()?;
        twice.saw("status.Seccomp", "2")?;
        twice.saw("status.Seccomp_filters", "2")
    })
}

/// The child of a thread, beside others, is as single as any.
fn threads_of_the_caller() -> Outcome {
    let result = std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || receiver.recv());
        let show = scope.spawn(|| Template::child("report")?.spawn().show()).join();
        drop(sender);
        show
    });
    let show = result.map_err(|_| failed("the thread panicked"))??;
    same!(show.get("status.Threads"), "1", "threads");
    same!(show.get("stat.4"), std::process::id().to_string(), "parent");
    let alone = Template::child("report")?.spawn().show()?;
    same!(show.without_prefix("own."), alone.without_prefix("own."), "what it saw, against a child of the only thread");
    Ok(())
}

fn everything_at_once() -> Outcome {
    in_worker(|| {
        os::umask(0o151);
        os::set_rlimit(libc::RLIMIT_STACK, 1 << 20)?;
        os::set_rlimit(libc::RLIMIT_NOFILE, 99)?;
        os::set_signal(libc::SIGUSR1, libc::SIG_IGN, 0)?;
        os::set_sigmask(sigbit(libc::SIGUSR2) | sigbit(33))?;
        os::setgroups(&[5, 7, 9])?;
        fs::write("/proc/self/oom_score_adj", "17")?;
        fs::write("/proc/self/coredump_filter", "1")?;
        std::env::set_current_dir("/usr")?;
        // ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC.
        // SAFETY: personality() takes a number.
        checked(unsafe { libc::personality(0x0044_0000) })?;
        // SAFETY: nice() takes a number.
        unsafe { libc::nice(3) };
        os::prctl(libc::PR_SET_TIMERSLACK, 99_999, 0)?;
        os::prctl(libc::PR_SET_THP_DISABLE, 1, 0)?;
        os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
        os::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        os::become_user(12345)?;
        os::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
        compare_both().map(drop)
    })
}
