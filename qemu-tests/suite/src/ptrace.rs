//! A debugger sees a spawn as vfork and exec, or as fork and exec with NOWAIT, and may do to the child what it may to any.

use std::fs;
use std::os::unix::fs::chown;

use crate::harness::{Outcome, failed, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Child, Folder, Template, child, set_mode};
use crate::tracer::{ALL_EVENTS, Step, What, follow, registers, word};
use crate::{ensure, same, tests};

tests!("ptrace":
    events_of_a_spawn, events_of_a_nowait_spawn, events_of_a_failing_spawn, only_what_was_asked_for, nowait_without_fork_option,
    child_stepped_from_its_first_instruction, memory_of_the_child_after_exec, failed_child_poked_at_exit,
    failed_nowait_child_poked_at_exit, system_calls_of_both, detached_at_birth, detached_at_exec, tracer_of_a_user_and_setuid,
    tracer_that_dies, caller_killed_at_birth, child_killed_at_exec,
);

/// `PTRACE_SINGLEBLOCK`.
const SINGLE_BLOCK: libc::c_uint = 33;

/// The body of a caller: 0 when all is as it should be.
fn code(body: impl FnOnce() -> std::io::Result<bool>) -> i32 {
    i32::from(!body().unwrap_or(false))
}

/// Continues, whatever it was.
fn go_on(_: &Step) -> Outcome<libc::c_uint> {
    Ok(libc::PTRACE_CONT)
}

/// The events of one tracee, without those of stops that belong to seizing it.
fn events(steps: &[Step], pid: i32) -> Vec<(i32, u64)> {
    let event = |step: &Step| match step.what {
        What::Event(event, message) if event != libc::PTRACE_EVENT_STOP => Some((event, message)),
        _ => None,
    };
    steps.iter().filter(|step| step.pid == pid).filter_map(event).collect()
}

/// The tracee that is not `caller`.
#[track_caller]
fn the_child(steps: &[Step], caller: i32) -> Outcome<i32> {
    let other = steps.iter().find(|step| step.pid != caller).map(|step| step.pid);
    other.ok_or_else(|| failed(format!("no child was traced: {steps:?}")))
}

/// Starts `exit-code 4` and waits for it.
fn spawn_four(template: &Template) -> std::io::Result<bool> {
    Ok(template.spawn().arg("4").status()? == Status::Exited(4))
}

/// The same with NOWAIT.
fn nowait_four(template: &Template) -> std::io::Result<bool> {
    Ok(template.spawn().arg("4").nowait().status()? == Status::Exited(4))
}

/// VFORK and VFORK_DONE in the caller, EXEC and EXIT in the child, with the messages that vfork and exec give.
fn events_of_a_spawn() -> Outcome {
    let template = Template::child("exit-code")?;
    let (caller, steps) = follow(ALL_EVENTS, || code(|| spawn_four(&template)), go_on)?;
    let child = the_child(&steps, caller)?;
    let (vfork, done) = (libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_VFORK_DONE);
    let (exec, exit) = (libc::PTRACE_EVENT_EXEC, libc::PTRACE_EVENT_EXIT);
    let wanted = [(vfork, child as u64), (done, child as u64), (exit, 0)];
    same!(events(&steps, caller), wanted, "events of the caller (child {child})");
    same!(events(&steps, child), [(exec, child as u64), (exit, 4 << 8)], "events of the child");
    // Whether the tracer hears of the end of the wait or of exec first is chance, as after vfork.
    let at = |pid, event| steps.iter().position(|step| step.pid == pid && step.is_event(event));
    let birth = at(child, libc::PTRACE_EVENT_STOP);
    ensure!(birth.is_some() && at(caller, done) > birth, "the caller went on before exec: {steps:?}");
    ensure!(at(child, exec) > birth, "the child was not stopped at its birth: {steps:?}");
    same!(steps.iter().filter(|s| s.what == What::Ended(Status::Exited(4))).count(), 1, "ends of the child seen");
    Ok(())
}

/// FORK in the caller instead, and nothing that says when exec is done.
fn events_of_a_nowait_spawn() -> Outcome {
    let template = Template::child("exit-code")?;
    let (caller, steps) = follow(ALL_EVENTS, || code(|| nowait_four(&template)), go_on)?;
    let child = the_child(&steps, caller)?;
    let wanted = [(libc::PTRACE_EVENT_FORK, child as u64), (libc::PTRACE_EVENT_EXIT, 0)];
    same!(events(&steps, caller), wanted, "events of the caller");
    let wanted = [(libc::PTRACE_EVENT_EXEC, child as u64), (libc::PTRACE_EVENT_EXIT, 4 << 8)];
    same!(events(&steps, child), wanted, "events of the child");
    Ok(())
}

/// Starts with an action that fails: the error comes back, and no child remains.
fn spawn_failing(template: &Template, inherit: bool) -> std::io::Result<bool> {
    let spawned = template.spawn().act(Act::Dup2(99, 1)).inherit(inherit).run();
    let refused = spawned.is_err_and(|e| e.raw_os_error() == Some(libc::EBADF));
    Ok(refused && nothing_is_left()?)
}

/// Waits until there is no child: a call that fails does not wait for the debugger to reap the child, too.
fn nothing_is_left() -> std::io::Result<bool> {
    while os::has_children()? {
        std::thread::yield_now();
    }
    Ok(true)
}

/// The debugger sees the child that failed be born and exit with 127, without exec.
fn events_of_a_failing_spawn() -> Outcome {
    let template = Template::child("nothing")?;
    for inherit in [false, true] {
        let (caller, steps) = follow(ALL_EVENTS, || code(|| spawn_failing(&template, inherit)), go_on)?;
        let child = the_child(&steps, caller)?;
        same!(events(&steps, child), [(libc::PTRACE_EVENT_EXIT, 127 << 8)], "events of the child");
        let ended = What::Ended(Status::Exited(127));
        ensure!(steps.contains(&Step { pid: child, what: ended }), "the child's end was not seen: {steps:?}");
        let births: Vec<i32> = events(&steps, caller).iter().map(|event| event.0).collect();
        let wanted = [libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_VFORK_DONE, libc::PTRACE_EVENT_EXIT];
        same!(births, wanted, "events of the caller");
    }
    Ok(())
}

/// A debugger that does not follow vfork has nothing to do with the child.
fn only_what_was_asked_for() -> Outcome {
    let template = Template::child("exit-code")?;
    for options in [0, libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEEXEC] {
        let (caller, steps) = follow(options, || code(|| spawn_four(&template)), go_on)?;
        ensure!(steps.iter().all(|step| step.pid == caller), "options {options:#x}: a child was traced: {steps:?}");
        same!(events(&steps, caller), [], "options {options:#x}: events of the caller");
    }
    let (caller, steps) = follow(libc::PTRACE_O_TRACEVFORKDONE, || code(|| spawn_four(&template)), go_on)?;
    let events = events(&steps, caller);
    ensure!(events.iter().all(|e| e.0 == libc::PTRACE_EVENT_VFORK_DONE), "events of the caller: {events:?}");
    same!(events.len(), 1, "VFORK_DONE events, asked for alone");
    Ok(())
}

fn nowait_without_fork_option() -> Outcome {
    let template = Template::child("exit-code")?;
    let options = libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACEVFORKDONE;
    let (caller, steps) = follow(options, || code(|| nowait_four(&template)), go_on)?;
    ensure!(steps.iter().all(|step| step.pid == caller), "a child was traced: {steps:?}");
    same!(events(&steps, caller), [], "events of the caller");
    Ok(())
}

/// From exec on one instruction at a time: `nothing` has three.
fn child_stepped_from_its_first_instruction() -> Outcome {
    let template = Template::child("nothing")?;
    let entry = fs::read(child("nothing"))?[24..32].iter().rev().fold(0u64, |value, &b| value << 8 | u64::from(b));
    let body = || code(|| Ok(template.status()? == Status::Exited(0)));
    let (mut addresses, mut stepped) = (Vec::new(), 0);
    let (_, steps) = follow(ALL_EVENTS & !libc::PTRACE_O_TRACEEXIT, body, |step| {
        if step.is_event(libc::PTRACE_EVENT_EXEC) {
            stepped = step.pid;
        }
        if step.pid != stepped {
            return Ok(libc::PTRACE_CONT);
        }
        addresses.push(registers(step.pid)?.rip);
        Ok(libc::PTRACE_SINGLESTEP)
    })?;
    same!(addresses.first(), Some(&entry), "where the child stopped after exec");
    ensure!(addresses.iter().any(|&a| a > entry && a < entry + 32), "addresses stepped through: {addresses:x?}");
    ensure!(steps.contains(&Step { pid: stepped, what: What::Ended(Status::Exited(0)) }), "it did not end: {steps:?}");
    Ok(())
}

/// At EXEC the debugger reads the new program in the child's memory.
fn memory_of_the_child_after_exec() -> Outcome {
    let template = Template::child("nothing")?;
    let mut seen = Vec::new();
    let body = || code(|| Ok(template.status()? == Status::Exited(0)));
    follow(ALL_EVENTS, body, |step| {
        if step.is_event(libc::PTRACE_EVENT_EXEC) {
            let registers = registers(step.pid)?;
            // argc, at the top of the stack.
            seen.push((word(step.pid, registers.rsp)?, word(step.pid, registers.rip)? != 0));
            let exe = fs::read_link(format!("/proc/{}/exe", step.pid))?;
            same!(exe.to_string_lossy(), child("nothing"), "exe at EXEC");
        }
        Ok(libc::PTRACE_CONT)
    })?;
    same!(seen, [(1, true)], "argc, and whether there is code, at each EXEC");
    Ok(())
}

/// All that a debugger can try on a task that never had an address space. Most of it fails; none of it may harm.
fn poke(pid: i32) -> Outcome {
    let mut registers = registers(pid)?;
    // A selector of the local descriptor table, which belongs to an address space.
    registers.cs = 7;
    let _ = os::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw const registers as u64);
    for selector in [7u64, 0x33] {
        registers.fs = selector & 7;
        registers.gs = selector & 7;
        let _ = os::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw const registers as u64);
    }
    crate::tracer::registers(pid)?;
    ensure!(word(pid, 0x40_0000).is_err(), "memory of a task without any was read");
    ensure!(word(pid, registers.rip).is_err(), "memory of a task without any was read");
    let _ = os::ptrace(libc::PTRACE_POKEDATA, pid, 0x40_0000, 0);
    let mut room = [0u64; 512];
    let _ = os::ptrace(libc::PTRACE_GETFPREGS, pid, 0, &raw mut room as u64);
    let _ = os::ptrace(libc::PTRACE_SETFPREGS, pid, 0, &raw const room as u64);
    // NT_X86_XSTATE, NT_PRSTATUS, NT_386_TLS, NT_X86_SHSTK.
    for note in [0x202, 1, 0x200, 0x204] {
        let vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: size_of_val(&room) };
        let _ = os::ptrace(libc::PTRACE_GETREGSET, pid, note, &raw const vector as u64);
    }
    // The user area: registers and debug registers.
    for offset in (0..912).step_by(8) {
        let _ = os::ptrace(libc::PTRACE_PEEKUSER, pid, offset, &raw mut room as u64);
    }
    let _ = os::ptrace(libc::PTRACE_POKEUSER, pid, 848, 0x1000);
    // PTRACE_ARCH_PRCTL: ARCH_GET_FS, ARCH_GET_GS, ARCH_GET_CPUID, ARCH_GET_UNTAG_MASK, ARCH_SHSTK_STATUS, ...
    for option in [0x1003, 0x1004, 0x1011, 0x4001, 0x5005, 0x1002, 0x1001] {
        let _ = os::ptrace(30, pid, &raw mut room as u64, option);
    }
    // PTRACE_GET_SYSCALL_INFO, PTRACE_GET_RSEQ_CONFIGURATION, PTRACE_GETSIGMASK.
    for request in [0x420e, 0x420f, 0x420a] {
        let _ = os::ptrace(request, pid, 8, &raw mut room as u64);
    }
    for name in [
        "maps",
        "smaps",
        "smaps_rollup",
        "numa_maps",
        "mem",
        "environ",
        "cmdline",
        "auxv",
        "pagemap",
        "stat",
        "statm",
        "status",
        "syscall",
        "stack",
        "wchan",
        "limits",
        "io",
        "sched",
        "comm",
        "oom_score",
        "coredump_filter",
        "timers",
        "fdinfo/0",
        "arch_status",
        "ksm_stat",
        "ksm_merging_pages",
        "clear_refs",
        "map_files",
        "exe",
        "cwd",
        "root",
        "fd",
    ] {
        let path = format!("/proc/{pid}/{name}");
        let _ = fs::read(&path);
        let _ = fs::read_link(&path);
        let _ = fs::read_dir(&path).map(|entries| entries.count());
    }
    for (name, value) in [("oom_score_adj", "5"), ("coredump_filter", "1"), ("clear_refs", "1"), ("comm", "poked")] {
        let _ = fs::write(format!("/proc/{pid}/{name}"), value);
    }
    let local = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 64 };
    let remote = libc::iovec { iov_base: 0x40_0000 as *mut _, iov_len: 64 };
    // SAFETY: the local vector is live memory; the other process's is the kernel's to check.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    ensure!(read < 0, "process_vm_readv() read the memory of a task without any");
    // Address space compared with ours, pages moved.
    let (own, room) = (u64::from(std::process::id()), room.as_ptr() as u64);
    for [number, a, b, c, d] in [
        [libc::SYS_kcmp as u64, own, pid as u64, 1, 0],
        [libc::SYS_migrate_pages as u64, pid as u64, 64, room, room],
        [libc::SYS_move_pages as u64, pid as u64, 0, 0, 0],
    ] {
        // SAFETY: the calls only read what they are given addresses of, which is live or null.
        unsafe { libc::syscall(number as libc::c_long, a, b, c, d, 0) };
    }
    Ok(())
}

fn failed_child_poked_at_exit() -> Outcome {
    let template = Template::child("nothing")?;
    for request in [libc::PTRACE_SINGLESTEP, SINGLE_BLOCK, libc::PTRACE_SYSCALL, libc::PTRACE_CONT] {
        let (mut poked, mut caller) = (0, 0);
        follow(
            ALL_EVENTS,
            || code(|| spawn_failing(&template, false)),
            |step| {
                if step.is_event(libc::PTRACE_EVENT_VFORK) {
                    caller = step.pid;
                } else if step.is_event(libc::PTRACE_EVENT_EXIT) && step.pid != caller {
                    poke(step.pid)?;
                    poked += 1;
                    return Ok(request);
                }
                Ok(libc::PTRACE_CONT)
            },
        )?;
        same!(poked, 1, "failed children met at their exit");
    }
    Ok(())
}

fn failed_nowait_child_poked_at_exit() -> Outcome {
    let template = Template::child("nothing")?;
    let body = || {
        code(|| {
            let child = template.spawn().act(Act::Dup2(99, 1)).nowait().run()?;
            Ok(child.wait()? == Status::Exited(127))
        })
    };
    let (mut poked, mut caller) = (0, 0);
    follow(ALL_EVENTS, body, |step| {
        if step.is_event(libc::PTRACE_EVENT_FORK) {
            caller = step.pid;
        } else if step.is_event(libc::PTRACE_EVENT_EXIT) && step.pid != caller {
            poke(step.pid)?;
            poked += 1;
            return Ok(libc::PTRACE_SINGLESTEP);
        }
        Ok(libc::PTRACE_CONT)
    })?;
    same!(poked, 1, "failed children met at their exit");
    Ok(())
}

/// `PTRACE_GET_SYSCALL_INFO`: operation, number of an entry or value of an exit.
fn call_info(pid: i32) -> std::io::Result<(u8, u64)> {
    let mut info = [0u64; 16];
    os::ptrace(0x420e, pid, size_of_val(&info) as u64, &raw mut info as u64)?;
    // struct ptrace_syscall_info: op, 3 bytes of padding, arch; instruction pointer, stack pointer; number or value.
    Ok((info[0] as u8, info[3]))
}

/// What strace does: every system call of caller and child, with number and result. Exec is execve.
fn system_calls_of_both() -> Outcome {
    let template = Template::child("nothing")?;
    let mut calls: Vec<(i32, u8, u64)> = Vec::new();
    let body = || code(|| Ok(template.status()? == Status::Exited(0)));
    let (caller, steps) = follow(ALL_EVENTS | libc::PTRACE_O_TRACESYSGOOD, body, |step| {
        if step.what == What::Call {
            let (operation, value) = call_info(step.pid)?;
            calls.push((step.pid, operation, value));
        }
        Ok(libc::PTRACE_SYSCALL)
    })?;
    let child = the_child(&steps, caller)?;
    let own: Vec<_> = calls.iter().filter(|call| call.0 == caller).collect();
    let entry = own.iter().position(|call| call.1 == 1 && call.2 == 474);
    let exit = entry.and_then(|at| own.get(at + 1));
    same!(exit, Some(&&(caller, 2, child as u64)), "the stop after the entry of 474");
    let entries: Vec<u64> = calls.iter().filter(|call| call.0 == child && call.1 == 1).map(|call| call.2).collect();
    same!(entries, [libc::SYS_execve, libc::SYS_exit].map(|call| call as u64), "system calls that the child entered");
    Ok(())
}

/// The debugger leaves when the child is born; the spawn goes on.
fn detached_at_birth() -> Outcome {
    let template = Template::child("exit-code")?;
    follow(
        ALL_EVENTS,
        || code(|| spawn_four(&template)),
        |step| match step.what {
            What::Event(libc::PTRACE_EVENT_STOP, _) => Ok(libc::PTRACE_DETACH),
            _ => Ok(libc::PTRACE_CONT),
        },
    )
    .map(drop)
}

/// The debugger lets go of the child at its exec.
fn detached_at_exec() -> Outcome {
    let template = Template::child("exit-code")?;
    follow(
        ALL_EVENTS,
        || code(|| spawn_four(&template)),
        |step| Ok(if step.is_event(libc::PTRACE_EVENT_EXEC) { libc::PTRACE_DETACH } else { libc::PTRACE_CONT }),
    )
    .map(drop)
}

/// A set-user-id program gains nothing under a debugger without privileges, by spawn as by exec.
fn tracer_of_a_user_and_setuid() -> Outcome {
    let folder = Folder::new("/var/tmp", "ptrace-setuid")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("show-static")?;
    chown(&path, Some(777), None)?;
    set_mode(&path, 0o4755)?;
    in_worker(|| {
        os::become_user(12345)?;
        let body = || {
            code(|| {
                let show = Template::path(&path)?.spawn().show();
                Ok(show.is_ok_and(|show| show.get("euid") == "12345"))
            })
        };
        follow(ALL_EVENTS, body, go_on).map(drop)
    })?;
    // Without the debugger it does.
    in_worker(|| {
        os::become_user(12345)?;
        same!(Template::path(&path)?.spawn().show()?.get("euid"), "777", "effective user without a debugger");
        Ok(())
    })
}

/// A debugger that is killed while the child is stopped at exec takes nobody with it, if it did not ask to.
fn tracer_that_dies() -> Outcome {
    let template = Template::child("exit-code")?;
    let (reader, writer) = os::pipe()?;
    let caller = os::fork()?;
    if caller == 0 {
        drop(writer);
        let _ = os::readable(std::os::fd::AsRawFd::as_raw_fd(&reader), -1);
        os::exit_now(code(|| spawn_four(&template)));
    }
    let tracer = os::fork()?;
    if tracer == 0 {
        let seized = os::ptrace(libc::PTRACE_SEIZE, caller, 0, ALL_EVENTS as u64);
        drop((reader, writer));
        while seized.is_ok()
            && let Ok((pid, Status::Other(raw))) = os::waitpid(-1, libc::__WALL)
        {
            if raw >> 16 == libc::PTRACE_EVENT_EXEC {
                let _ = os::kill(std::process::id() as i32, libc::SIGKILL);
            }
            let _ = os::ptrace(libc::PTRACE_CONT, pid, 0, 0);
        }
        os::exit_now(1);
    }
    drop((reader, writer));
    same!(os::waitpid(tracer, 0)?, (tracer, Status::Signaled(libc::SIGKILL)), "the debugger, at the child's exec");
    same!(os::waitpid(caller, 0)?, (caller, Status::Exited(0)), "the caller");
    Ok(())
}

/// The caller is killed at its VFORK stop: child and caller are both gone.
fn caller_killed_at_birth() -> Outcome {
    // It ends by itself: a child that has its program before the kill is noticed is not half made, and lives. Then it may
    // be left to us by the caller.
    let template = Template::child("nothing")?;
    let result = follow(
        ALL_EVENTS,
        || code(|| template.spawn().run().map(|_| true)),
        |step| {
            if step.is_event(libc::PTRACE_EVENT_VFORK) {
                os::kill(step.pid, libc::SIGKILL)?;
            }
            Ok(libc::PTRACE_CONT)
        },
    );
    ensure!(result.is_err(), "the caller survived SIGKILL");
    os::reap_all()?;
    same!(Template::child("nothing")?.status()?, Status::Exited(0), "status of a spawn afterwards");
    Ok(())
}

/// The child is killed when it stops at exec: it had its program, so the spawn succeeds, and the status tells.
fn child_killed_at_exec() -> Outcome {
    let template = Template::child("sleep")?;
    let body = || {
        code(|| match template.spawn().run().and_then(Child::wait) {
            Ok(status) => Ok(status == Status::Signaled(libc::SIGKILL)),
            // Or the kill is what the caller is told of.
            Err(e) => Ok(e.raw_os_error() == Some(libc::EINTR) && nothing_is_left()?),
        })
    };
    follow(ALL_EVENTS, body, |step| {
        if step.is_event(libc::PTRACE_EVENT_EXEC) {
            os::kill(step.pid, libc::SIGKILL)?;
        }
        Ok(libc::PTRACE_CONT)
    })
    .map(drop)
}
