//! The child as its parent knows it: pid, pidfd, wait status, family.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::thread;

use crate::harness::{Outcome, failed, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template};
use crate::{ensure, same, tests};

tests!("wait":
    exit_codes, death_by_signal, by_pid, by_pidfd, by_any, pid_is_the_childs, parent_is_the_process,
    group_and_session_are_inherited, from_another_thread, thread_that_spawned_is_gone, spawn_waits_for_actions, group_signal_while_actions_block,
    signal_while_actions_block, killed_caller_leaves_nothing, caller_ended_by_a_signal_leaves_nothing,
    exit_in_another_thread_leaves_nothing, exec_in_another_thread_leaves_nothing, child_killed_before_exec, traced, pid_namespace,
    reparented_when_caller_exits,
);

fn exit_codes() -> Outcome {
    let template = Template::child("exit-code")?;
    for code in [0, 1, 2, 42, 126, 127, 128, 255] {
        same!(template.spawn().arg(&code.to_string()).status()?, Status::Exited(code), "status");
    }
    Ok(())
}

fn death_by_signal() -> Outcome {
    let template = Template::child("sleep")?;
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGUSR2, 64] {
        let child = template.spawn().run()?;
        os::kill(child.pid, signal)?;
        same!(child.wait()?, Status::Signaled(signal), "status");
    }
    Ok(())
}

fn by_pid() -> Outcome {
    let (pid, pidfd) = Template::child("exit-code")?.spawn().arg("5").run()?.leave();
    same!(os::waitpid(pid, 0)?, (pid, Status::Exited(5)), "waitpid");
    refused("waiting again by pidfd", os::wait_pidfd(pidfd.as_raw_fd(), 0), libc::ECHILD)
}

fn by_pidfd() -> Outcome {
    let (pid, pidfd) = Template::child("exit-code")?.spawn().arg("6").run()?.leave();
    same!(os::wait_pidfd(pidfd.as_raw_fd(), libc::WNOWAIT)?, Some((pid, Status::Exited(6))), "a first look");
    same!(os::wait_pidfd(pidfd.as_raw_fd(), 0)?, Some((pid, Status::Exited(6))), "waitid");
    refused("waiting again by pid", os::waitpid(pid, 0), libc::ECHILD)
}

fn by_any() -> Outcome {
    let template = Template::child("exit-code")?;
    let (first, _first_fd) = template.spawn().arg("1").run()?.leave();
    let (second, _second_fd) = template.spawn().arg("2").run()?.leave();
    // No __WALL: these are ordinary children.
    let mut ended = [os::waitpid(-1, 0)?, os::waitpid(-1, 0)?];
    ended.sort_by_key(|(pid, _)| *pid != first);
    same!(ended, [(first, Status::Exited(1)), (second, Status::Exited(2))], "both children");
    refused("a third", os::waitpid(-1, 0), libc::ECHILD)
}

fn pid_is_the_childs() -> Outcome {
    let child = Template::child("sleep")?.spawn().run()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", child.pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:\t"));
    same!(pid, Some(child.pid.to_string().as_str()), "pid behind the pidfd");
    let comm = fs::read_to_string(format!("/proc/{}/comm", child.pid))?;
    same!(comm, "sleep\n", "comm as soon as the spawn returns");
    let exe = fs::read_link(format!("/proc/{}/exe", child.pid))?;
    same!(exe.to_string_lossy(), crate::template::child("sleep"), "exe as soon as the spawn returns");
    Ok(())
}

fn parent_is_the_process() -> Outcome {
    let template = Template::child("show")?;
    let own = std::process::id().to_string();
    same!(template.spawn().show()?.get("ppid"), own, "parent");
    let show = thread::scope(|scope| scope.spawn(|| template.spawn().show()).join());
    let show = show.map_err(|_| failed("the thread panicked"))??;
    same!(show.get("ppid"), own, "parent of a child from another thread");
    Ok(())
}

fn group_and_session_are_inherited() -> Outcome {
    let show = Template::child("show")?.spawn().show()?;
    // SAFETY: getpgrp() and getsid() have no preconditions.
    let group = unsafe { libc::getpgrp() };
    // SAFETY: as above.
    let session = unsafe { libc::getsid(0) };
    same!(show.get("pgid"), group.to_string(), "process group");
    same!(show.get("sid"), session.to_string(), "session");
    Ok(())
}

fn from_another_thread() -> Outcome {
    let template = Template::child("exit-code")?;
    let spawned = thread::scope(|scope| scope.spawn(|| template.spawn().arg("9").run()).join());
    let child = spawned.map_err(|_| failed("the thread panicked"))??;
    same!(child.wait()?, Status::Exited(9), "status, waited for by the main thread");
    Ok(())
}

/// A child outlives the thread that started it.
fn thread_that_spawned_is_gone() -> Outcome {
    let template = Template::child("sleep")?;
    let spawned = thread::scope(|scope| scope.spawn(|| template.spawn().run()).join());
    let child = spawned.map_err(|_| failed("the thread panicked"))??;
    ensure!(!os::readable(child.pidfd.as_raw_fd(), 200)?, "the child ended with its thread");
    os::kill(child.pid, libc::SIGTERM)?;
    same!(child.wait()?, Status::Signaled(libc::SIGTERM), "status");
    Ok(())
}

/// An OPEN of a FIFO blocks until the other side comes; the spawn waits with it.
fn spawn_waits_for_actions() -> Outcome {
    let (_folder, path) = fifo("fifo")?;
    let template = Template::path("/bin/cat")?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> std::io::Result<()> {
            thread::sleep(std::time::Duration::from_millis(100));
            File::options().write(true).open(&path)?.write_all(b"at last")
        });
        let result = template.spawn().open(Open::new(&path, libc::O_RDONLY, 0)).output();
        writer.join().map_err(|_| failed("the writer panicked"))??;
        same!(result?, (Status::Exited(0), b"at last".to_vec()), "status and output");
        Ok(())
    })
}

extern "C" fn nothing(_: i32) {}

/// A signal with a handler does not end the wait for a blocked child.
fn signal_while_actions_block() -> Outcome {
    let (_folder, path) = fifo("fifo-signal")?;
    let template = Template::child("nothing")?;
    let handler: extern "C" fn(i32) = nothing;
    os::set_signal(libc::SIGALRM, handler as usize, 0)?;
    os::set_timer(20_000)?;
    let outcome = thread::scope(|scope| {
        // This thread blocks the alarm, so that the spawning one gets it.
        os::set_sigmask(os::sigbit(libc::SIGALRM))?;
        let writer = scope.spawn(|| -> std::io::Result<()> {
            thread::sleep(std::time::Duration::from_millis(200));
            File::options().write(true).open(&path).map(drop)
        });
        os::set_sigmask(0)?;
        let result = template.spawn().open(Open::new(&path, libc::O_RDONLY, 0)).status();
        writer.join().map_err(|_| failed("the writer panicked"))??;
        same!(result?, Status::Exited(0), "status");
        Ok(())
    });
    os::set_timer(0)?;
    outcome
}

/// A signal to the whole process group, as from a terminal, does not interrupt the action: the spawn succeeds, and the
/// program takes the signal.
fn group_signal_while_actions_block() -> Outcome {
    let (_folder, path) = fifo("fifo-group")?;
    let template = Template::child("sleep")?;
    let handler: extern "C" fn(i32) = nothing;
    os::set_signal(libc::SIGINT, handler as usize, 0)?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> std::io::Result<()> {
            while crate::harness::children()?.is_empty() {
                thread::sleep(std::time::Duration::from_millis(20));
            }
            thread::sleep(std::time::Duration::from_millis(100));
            os::kill(0, libc::SIGINT)?;
            thread::sleep(std::time::Duration::from_millis(100));
            File::options().write(true).open(&path).map(drop)
        });
        let result = template.spawn().open(Open::new(&path, libc::O_RDONLY, 0)).status();
        // Should nobody read any more, this lets the writer go.
        let _reader = os::open(&path, libc::O_RDWR | libc::O_NONBLOCK)?;
        writer.join().map_err(|_| failed("the writer panicked"))??;
        same!(result?, Status::Signaled(libc::SIGINT), "status");
        Ok(())
    })
}

/// Waits until no child is left, not even as a zombie of ours; false when some are after 20 seconds.
fn all_gone() -> std::io::Result<bool> {
    for _ in 0..400 {
        if !os::has_children()? {
            return Ok(true);
        }
        // A half-made child may vanish by itself just now, which is no error here.
        let _ = os::waitpid(-1, libc::__WALL | libc::WNOHANG);
        thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(false)
}

/// A FIFO that nobody has open, and the folder it goes away with.
fn fifo(name: &str) -> Outcome<(Folder, String)> {
    let folder = Folder::tmp(name)?;
    let path = folder.join("fifo");
    os::mkfifo(&path)?;
    Ok((folder, path))
}

/// Forks a process that spawns a child which blocks at a FIFO, waits until that child is there, and returns the process.
fn caller_with_a_blocked_child(template: &Template, path: &str, extra: fn()) -> Outcome<i32> {
    let worker = os::fork()?;
    if worker == 0 {
        extra();
        let _ = template.spawn().open(Open::new(path, libc::O_RDONLY, 0)).run();
        os::exit_now(3);
    }
    let children = || fs::read_to_string(format!("/proc/{worker}/task/{worker}/children"));
    for _ in 0..400 {
        if !children()?.is_empty() {
            return Ok(worker);
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    os::kill(worker, libc::SIGKILL)?;
    Err(failed("the caller's child never showed"))
}

/// A caller that is killed while its child is still blocked in an action ends at once, and the child with it.
fn killed_caller_leaves_nothing() -> Outcome {
    let (_folder, path) = fifo("fifo-killed")?;
    let template = Template::child("nothing")?;
    for _ in 0..5 {
        let worker = caller_with_a_blocked_child(&template, &path, || ())?;
        os::kill(worker, libc::SIGKILL)?;
        same!(os::waitpid(worker, 0)?, (worker, Status::Signaled(libc::SIGKILL)), "the caller");
        // Nobody ever opens the other end.
        ensure!(all_gone()?, "the half-made child lives on");
    }
    same!(template.status()?, Status::Exited(0), "status of a spawn afterwards");
    Ok(())
}

/// A signal that ends the caller ends it, whatever the child does.
fn caller_ended_by_a_signal_leaves_nothing() -> Outcome {
    let (_folder, path) = fifo("fifo-terminated")?;
    let template = Template::child("nothing")?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
        let worker = caller_with_a_blocked_child(&template, &path, || ())?;
        os::kill(worker, signal)?;
        same!(os::waitpid(worker, 0)?, (worker, Status::Signaled(signal)), "the caller");
        ensure!(all_gone()?, "the half-made child lives on");
    }
    Ok(())
}

/// Another thread ends the process.
fn exit_in_another_thread_leaves_nothing() -> Outcome {
    let (_folder, path) = fifo("fifo-exit")?;
    let template = Template::child("nothing")?;
    let worker = caller_with_a_blocked_child(&template, &path, || {
        thread::spawn(|| {
            thread::sleep(std::time::Duration::from_millis(300));
            os::exit_now(7);
        });
    })?;
    same!(os::waitpid(worker, 0)?, (worker, Status::Exited(7)), "the caller");
    ensure!(all_gone()?, "the half-made child lives on");
    Ok(())
}

/// Another thread executes a program, which then has no child that it knows nothing of.
fn exec_in_another_thread_leaves_nothing() -> Outcome {
    let (_folder, path) = fifo("fifo-exec")?;
    let template = Template::child("nothing")?;
    let worker = caller_with_a_blocked_child(&template, &path, || {
        thread::spawn(|| {
            thread::sleep(std::time::Duration::from_millis(300));
            os::execve(c"/payload/children/sleep", &[c"sleep".into()], &[]);
            os::exit_now(1);
        });
    })?;
    let children = || fs::read_to_string(format!("/proc/{worker}/task/{worker}/children"));
    let comm = || fs::read_to_string(format!("/proc/{worker}/comm"));
    for _ in 0..400 {
        if comm()? == "sleep\n" && children()?.is_empty() {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    same!((comm()?.as_str(), children()?.as_str()), ("sleep\n", ""), "the caller's new program and its children");
    os::kill(worker, libc::SIGKILL)?;
    same!(os::waitpid(worker, 0)?, (worker, Status::Signaled(libc::SIGKILL)), "the caller");
    ensure!(all_gone()?, "the half-made child lives on");
    Ok(())
}

/// Somebody kills the child before it has its program: the spawn ends, one way or the other, and nothing is left.
fn child_killed_before_exec() -> Outcome {
    let (_folder, path) = fifo("fifo-child")?;
    let template = Template::child("nothing")?;
    thread::scope(|scope| {
        let killer = scope.spawn(|| -> std::io::Result<bool> {
            for _ in 0..200 {
                thread::sleep(std::time::Duration::from_millis(50));
                if let Some(&pid) = crate::harness::children()?.first() {
                    os::kill(pid, libc::SIGKILL)?;
                    return Ok(true);
                }
            }
            // Let the spawn go on, or the test hangs.
            os::open(&path, libc::O_RDWR | libc::O_NONBLOCK).map(|_| false)
        });
        let result = template.spawn().open(Open::new(&path, libc::O_RDONLY, 0)).run();
        let killed = killer.join().map_err(|_| failed("the killer panicked"))??;
        ensure!(killed, "the child never showed among the caller's children");
        if let Ok(child) = result {
            same!(child.wait()?, Status::Signaled(libc::SIGKILL), "status");
        }
        Ok(())
    })?;
    ensure!(!os::has_children()?, "a child is left");
    same!(template.status()?, Status::Exited(0), "status of a spawn afterwards");
    Ok(())
}

/// A debugger that follows forks and execs sees both and hinders neither.
fn traced() -> Outcome {
    let template = Template::child("exit-code")?;
    let (reader, writer) = os::pipe()?;
    let worker = os::fork()?;
    if worker == 0 {
        drop(writer);
        // Waits for the debugger.
        let _ = os::readable(reader.as_raw_fd(), -1);
        let ok = template.spawn().arg("4").status().is_ok_and(|status| status == Status::Exited(4));
        let refused = template.spawn().act(Act::Dup2(99, 1)).run().is_err();
        os::exit_now(if ok && refused { 0 } else { 1 });
    }
    let options = libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    os::ptrace(libc::PTRACE_SEIZE, worker, 0, options as u64)?;
    drop((reader, writer));
    let (mut execs, mut births) = (0, 0);
    loop {
        let (pid, status) = os::waitpid(-1, libc::__WALL)?;
        match status {
            Status::Other(raw) if libc::WIFSTOPPED(raw) => {
                let event = raw >> 16;
                match event {
                    libc::PTRACE_EVENT_EXEC => execs += 1,
                    libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => births += 1,
                    _ => {}
                }
                let signal = if event == 0 { libc::WSTOPSIG(raw) as u64 } else { 0 };
                // It may have been killed in the meantime, which the next wait reports.
                let _ = os::ptrace(libc::PTRACE_CONT, pid, 0, signal);
            }
            status if pid == worker => {
                same!(status, Status::Exited(0), "the traced caller");
                break;
            }
            _ => {}
        }
    }
    os::reap_all()?;
    ensure!(births == 0 || execs == 1, "{births} births were traced, but {execs} execs");
    Ok(())
}

/// The child is the first of the caller's new pid namespace; the pid that comes back is the caller's view.
fn pid_namespace() -> Outcome {
    in_worker(|| {
        let template = Template::child("show")?;
        os::unshare(libc::CLONE_NEWPID)?;
        let (reader, writer) = os::pipe()?;
        let child = template.spawn().act(Act::Dup2(writer.as_raw_fd(), 1)).run()?;
        drop(writer);
        ensure!(child.pid > 1, "pid {} in the caller's namespace", child.pid);
        let mut output = Vec::new();
        std::io::Read::read_to_end(&mut File::from(reader), &mut output)?;
        same!(child.wait()?, Status::Exited(0), "status");
        let show = crate::show::Show::parse(&output);
        same!((show.get("pid"), show.get("ppid")), ("1", "0"), "pid and parent in the child's namespace");
        // That namespace ended with its first process; nothing can be born there any more.
        refused("a spawn into a dead namespace", template.status(), libc::ENOMEM)
    })
}

fn reparented_when_caller_exits() -> Outcome {
    let template = Template::child("sleep")?;
    let (reader, writer) = os::pipe()?;
    let worker = os::fork()?;
    if worker == 0 {
        if let Ok(child) = template.spawn().run() {
            let (pid, _pidfd) = child.leave();
            let _ = File::from(writer).write_all(&pid.to_le_bytes());
        }
        os::exit_now(0);
    }
    drop(writer);
    let mut pid = [0; 4];
    std::io::Read::read_exact(&mut File::from(reader), &mut pid)?;
    let pid = i32::from_le_bytes(pid);
    same!(os::waitpid(worker, 0)?, (worker, Status::Exited(0)), "the caller");
    os::kill(pid, libc::SIGTERM)?;
    // This process is a subreaper.
    same!(os::waitpid(pid, 0)?, (pid, Status::Signaled(libc::SIGTERM)), "the orphan");
    Ok(())
}
