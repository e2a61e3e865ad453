//! NOWAIT: the call returns once the child exists, and what fails afterwards ends the child with status 127.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use crate::failing::{Failing, Failure, SUCCESS, Stage, fields};
use crate::harness::{Outcome, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Act, Child, Folder, Open, Template, set_mode};
use crate::{ensure, same, tests};

tests!("nowait":
    runs_the_program, returns_before_the_actions, child_is_an_ordinary_one, failing_action_is_127, failing_exec_is_127, stale_file_is_127, result_says_success,
    sigchld_of_a_late_failure, wait_by_pidfd_pid_and_any, killable_before_exec, signals_are_blocked_from_birth, stoppable_before_exec, failures_before_the_child_are_returned,
    descriptors_may_be_closed_at_once, memory_may_be_changed_at_once, template_may_be_closed_at_once, inherits_descriptors, many_at_once,
    caller_may_be_killed, caller_may_exit, ignored_sigchld, process_group_is_set_by_the_child,
);

/// A FIFO that a child blocks on when it opens it for reading.
pub struct Gate {
    folder: Folder,
}

impl Gate {
    /// In a folder of its own, for everybody to open.
    pub fn new(name: &str) -> std::io::Result<Gate> {
        let gate = Gate { folder: Folder::tmp(name)? };
        os::mkfifo(gate.path())?;
        set_mode(gate.path(), 0o666)?;
        Ok(gate)
    }

    fn path(&self) -> String {
        self.folder.join("fifo")
    }

    /// The action that blocks.
    pub fn action(&self) -> Act {
        Act::Open(Open::new(self.path(), libc::O_RDONLY, 60))
    }

    /// Lets the child through, by being the writer; returns as soon as it has come.
    pub fn open(&self) -> std::io::Result<()> {
        OpenOptions::new().write(true).open(self.path()).map(drop)
    }
}

fn runs_the_program() -> Outcome {
    let template = Template::child("exit-code")?;
    for code in [0, 3, 126, 127] {
        for inherit in [false, true] {
            let child = template.spawn().arg(&code.to_string()).nowait().inherit(inherit).run()?;
            ensure!(os::is_cloexec(child.pidfd.as_raw_fd())?, "the pidfd is not close-on-exec");
            same!(child.wait()?, Status::Exited(code), "status");
        }
    }
    let show = Template::child("show")?.spawn().argv(["a", "b"]).envp(["C=d"]).nowait().show()?;
    same!((show.all("arg"), show.all("env")), (vec!["a", "b"], vec!["C=d"]), "arguments and environment");
    same!(show.fd_numbers(), [0, 1, 2], "descriptors");
    same!(show.get("ppid"), std::process::id().to_string(), "parent");
    Ok(())
}

fn returns_before_the_actions() -> Outcome {
    let gate = Gate::new("nowait-before")?;
    let template = Template::child("nothing")?;
    // A spawn that waited would never return: nobody opens the other end yet.
    let (child, result) = template.spawn().act(gate.action()).nowait().report();
    let child = child?;
    same!(fields(&result), SUCCESS, "report");
    ensure!(!os::readable(child.pidfd.as_raw_fd(), 100)?, "the child has ended before its action");
    same!(os::wait_pidfd(child.pidfd.as_raw_fd(), libc::WNOHANG)?, None, "waiting without blocking");
    gate.open()?;
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}

/// From the moment the call returns: a child of this process, with pid and pidfd, group and session.
fn child_is_an_ordinary_one() -> Outcome {
    let gate = Gate::new("nowait-ordinary")?;
    let template = Template::child("nothing")?;
    let child = template.spawn().act(gate.action()).nowait().run()?;
    same!(crate::harness::children()?, [child.pid], "children of this process");
    same!(os::getpgid(child.pid)?, os::getpgid(0)?, "process group");
    same!(os::getsid(child.pid)?, os::getsid(0)?, "session");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", child.pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:\t"));
    same!(pid, Some(child.pid.to_string().as_str()), "pid behind the pidfd");
    gate.open()?;
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}

fn failing_action_is_127() -> Outcome {
    let template = Template::child("nothing")?;
    let acts: [&[Act]; 5] = [
        &[Act::Dup2(900, 1)],
        &[Act::chdir("/missing")],
        &[Act::Dup2(0, 5), Act::Open(Open::new("/missing", libc::O_RDONLY, 6))],
        &[Act::Setsid, Act::Setsid],
        &[Act::Tcsetpgrp(0)],
    ];
    for acts in acts {
        for inherit in [false, true] {
            let (child, result) = template.spawn().acts(acts.iter().cloned()).nowait().inherit(inherit).report();
            same!(fields(&result), SUCCESS, "report, {acts:?}");
            same!(child?.wait()?, Status::Exited(127), "status, {acts:?}");
        }
    }
    Ok(())
}

fn failing_exec_is_127() -> Outcome {
    let folder = Folder::tmp("nowait-exec")?;
    let path = folder.copy("nothing")?;
    let template = Template::path(&path)?;
    let writer = OpenOptions::new().write(true).open(&path)?;
    let (child, result) = template.spawn().nowait().report();
    same!(fields(&result), SUCCESS, "report");
    same!(child?.wait()?, Status::Exited(127), "status of a program that is open for writing");
    drop(writer);
    same!(template.spawn().nowait().status()?, Status::Exited(0), "status after closing");
    Ok(())
}

fn stale_file_is_127() -> Outcome {
    let folder = Folder::tmp("nowait-stale")?;
    let path = folder.copy("nothing")?;
    let template = Template::path(&path)?;
    fs::write(&path, "something else")?;
    same!(template.spawn().nowait().status()?, Status::Exited(127), "status of a program that has changed");
    Ok(())
}

/// The result is about the time until the child exists; nothing is written later.
fn result_says_success() -> Outcome {
    let gate = Gate::new("nowait-result")?;
    let template = Template::child("nothing")?;
    let mut memory = crate::template::UNREPORTED;
    let address = &raw mut memory as u64;
    let spawn = template.spawn().acts([gate.action(), Act::Dup2(900, 1)]).nowait();
    let child = spawn.run_changed(|args| (args.result, args.result_size) = (address, 16))?;
    // SAFETY: the pointer is to a live local.
    same!(fields(&unsafe { (address as *const crate::template::RawResult).read_volatile() }), SUCCESS, "report");
    gate.open()?;
    same!(child.wait()?, Status::Exited(127), "status");
    // SAFETY: as above.
    same!(fields(&unsafe { (address as *const crate::template::RawResult).read_volatile() }), SUCCESS, "report later");
    Ok(())
}

fn sigchld_of_a_late_failure() -> Outcome {
    os::set_sigmask(os::sigbit(libc::SIGCHLD))?;
    let template = Template::child("nothing")?;
    for act in [Act::Dup2(900, 1), Act::Close(500)] {
        let (pid, pidfd) = template.spawn().act(act.clone()).nowait().run()?.leave();
        same!(os::take_sigchld(20_000)?, Some(pid), "sender of SIGCHLD");
        same!(os::take_sigchld(0)?, None, "second SIGCHLD");
        let code = if matches!(act, Act::Dup2(..)) { 127 } else { 0 };
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(code)), "waitpid");
        drop(pidfd);
    }
    Ok(())
}

fn wait_by_pidfd_pid_and_any() -> Outcome {
    let template = Template::child("nothing")?;
    for code in [0, 127] {
        let start = || -> std::io::Result<_> {
            let act = if code == 0 { Act::Close(500) } else { Act::Dup2(900, 1) };
            Ok(template.spawn().act(act).nowait().run()?.leave())
        };
        let (pid, pidfd) = start()?;
        same!(os::wait_pidfd(pidfd.as_raw_fd(), 0)?, Some((pid, Status::Exited(code))), "by pidfd");
        refused("again", os::waitpid(pid, 0), libc::ECHILD)?;
        let (pid, _pidfd) = start()?;
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(code)), "by pid");
        let (pid, _pidfd) = start()?;
        // No __WALL: these are ordinary children.
        same!(os::waitpid(-1, 0)?, (pid, Status::Exited(code)), "by any");
    }
    Ok(())
}

fn killable_before_exec() -> Outcome {
    let gate = Gate::new("nowait-kill")?;
    let template = Template::child("nothing")?;
    for by_pidfd in [false, true] {
        let child = template.spawn().act(gate.action()).nowait().run()?;
        if by_pidfd {
            os::pidfd_kill(child.pidfd.as_raw_fd(), libc::SIGKILL)?;
        } else {
            os::kill(child.pid, libc::SIGKILL)?;
        }
        same!(child.wait()?, Status::Signaled(libc::SIGKILL), "status");
    }
    Ok(())
}

/// Any signal but SIGKILL waits for the program, however early it comes; the actions say what becomes of it then.
fn signals_are_blocked_from_birth() -> Outcome {
    let gate = Gate::new("nowait-early")?;
    let child = Template::child("nothing")?.spawn().act(gate.action()).nowait().run()?;
    os::kill(child.pid, libc::SIGTERM)?;
    ensure!(!os::readable(child.pidfd.as_raw_fd(), 200)?, "SIGTERM ended the child before it had its program");
    gate.open()?;
    same!(child.wait()?, Status::Signaled(libc::SIGTERM), "status");
    let template = Template::child("nothing")?;
    let spawn = template.spawn().act(Act::Sigignore(os::sigbit(libc::SIGUSR1))).nowait();
    for round in 0..50 {
        let child = spawn.run()?;
        os::kill(child.pid, libc::SIGUSR1)?;
        same!(child.wait()?, Status::Exited(0), "status of child {round}, which ignores the signal");
    }
    Ok(())
}

/// SIGSTOP stops it where it is, and SIGCONT lets it go on.
fn stoppable_before_exec() -> Outcome {
    let gate = Gate::new("nowait-stop")?;
    let child = Template::child("nothing")?.spawn().act(gate.action()).nowait().run()?;
    os::kill(child.pid, libc::SIGSTOP)?;
    os::kill(child.pid, libc::SIGCONT)?;
    gate.open()?;
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}

fn failures_before_the_child_are_returned() -> Outcome {
    let template = Template::child("nothing")?;
    let spawn = template.spawn().nowait();
    let mut failing = Failing::new()?;
    failing.both("an action", &spawn.clone().act(Act::Close(-1)), Failure::wrong(0, libc::EINVAL));
    let argv = spawn.report_changed(|args| args.argv = 1);
    failing.judge("argv", argv, Failure::at(Stage::Arguments, libc::EFAULT));
    let long = "x".repeat(128 * 1024);
    failing.both("a long argument", &spawn.clone().arg(&long), Failure::at(Stage::Arguments, libc::E2BIG));
    let pidfd = spawn.report_changed(|args| args.pidfd = 1);
    failing.judge("pidfd", pidfd, Failure::at(Stage::Arguments, libc::EFAULT));
    failing.finish()?;
    in_worker(|| {
        os::become_user(12345)?;
        let mut failing = Failing::new()?;
        failing.both("another user", &spawn, Failure::at(Stage::Identity, libc::EACCES));
        let own = Template::child("nothing")?;
        let before = os::rlimit(libc::RLIMIT_NPROC)?.rlim_cur;
        // The new template's descriptor is one more.
        failing.finish()?;
        let mut failing = Failing::new()?;
        os::set_rlimit(libc::RLIMIT_NPROC, 1)?;
        failing.both("one process too many", &own.spawn().nowait(), Failure::at(Stage::Create, libc::EAGAIN));
        os::set_rlimit(libc::RLIMIT_NPROC, before)?;
        failing.finish()
    })
}

/// What the actions refer to belongs to the spawn when the call returns.
fn descriptors_may_be_closed_at_once() -> Outcome {
    let gate = Gate::new("nowait-fds")?;
    let template = Template::path("/bin/echo")?;
    let (reader, writer) = os::pipe()?;
    let folder = File::open("/")?;
    let (fd, dir) = (writer.as_raw_fd(), folder.as_raw_fd());
    let acts = [gate.action(), Act::Dup2(fd, 1), Act::Fchdir(dir), Act::Close(60)];
    for inherit in [false, true] {
        let child = template.spawn().arg("late").acts(acts.clone()).nowait().inherit(inherit).run()?;
        // Others take the numbers meanwhile.
        let (saved_fd, saved_dir) = (writer.try_clone()?, folder.try_clone()?);
        os::dup2(0, fd)?;
        os::dup2(0, dir)?;
        gate.open()?;
        same!(child.wait()?, Status::Exited(0), "status");
        os::dup2(saved_fd.as_raw_fd(), fd)?;
        os::dup2(saved_dir.as_raw_fd(), dir)?;
        os::set_cloexec(fd, true)?;
        os::set_cloexec(dir, true)?;
    }
    drop(writer);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    same!(text, "late\n".repeat(2), "what came through the pipe");
    Ok(())
}

fn memory_may_be_changed_at_once() -> Outcome {
    let gate = Gate::new("nowait-memory")?;
    let template = Template::path("/bin/echo")?;
    let (reader, writer) = os::pipe()?;
    let mut word = b"original\0".to_vec();
    let mut argv = [c"echo".as_ptr() as u64, word.as_mut_ptr() as u64, 0];
    let acts = [gate.action(), Act::Dup2(writer.as_raw_fd(), 1), Act::chdir("/"), Act::Setgroups(vec![1, 2])];
    let spawn = template.spawn().acts(acts).nowait();
    let child = spawn.run_changed(|args| args.argv = argv.as_mut_ptr() as u64)?;
    word.fill(b'x');
    argv.fill(1);
    // The actions' memory, the path among it, is gone with this.
    drop(spawn);
    gate.open()?;
    same!(child.wait()?, Status::Exited(0), "status");
    drop(writer);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    same!(text, "original\n", "the argument");
    Ok(())
}

fn template_may_be_closed_at_once() -> Outcome {
    let gate = Gate::new("nowait-template")?;
    let template = Template::child("exit-code")?;
    let child = template.spawn().arg("8").act(gate.action()).nowait().run()?;
    drop(template);
    gate.open()?;
    same!(child.wait()?, Status::Exited(8), "status");
    Ok(())
}

fn inherits_descriptors() -> Outcome {
    let _clutter = os::dup_from(0, 300, false)?;
    let template = Template::child("show")?;
    same!(template.spawn().nowait().show()?.fd_numbers(), [0, 1, 2], "descriptors");
    same!(template.spawn().nowait().inherit_fds().show()?.fd_numbers(), [0, 1, 2, 300], "descriptors, inheriting");
    Ok(())
}

fn many_at_once() -> Outcome {
    let gate = Gate::new("nowait-many")?;
    let template = Template::child("exit-code")?;
    let children = (0..30)
        .map(|code| template.spawn().arg(&code.to_string()).act(gate.action()).nowait().run())
        .collect::<std::io::Result<Vec<Child>>>()?;
    same!(crate::harness::children()?.len(), 30, "children of this process");
    // One writer lets all of them through.
    let writer = os::open(gate.path(), libc::O_RDWR)?;
    for (code, child) in children.into_iter().enumerate() {
        same!(child.wait()?, Status::Exited(code as i32), "status");
    }
    drop(writer);
    Ok(())
}

/// Starts a child blocked at the gate from a process that then ends this way; the child is ours afterwards.
pub fn left_alone(gate: &Gate, acts: &[Act], end: fn() -> !) -> Outcome<i32> {
    let template = Template::child("exit-code")?;
    let (reader, writer) = os::pipe()?;
    let worker = os::fork()?;
    if worker == 0 {
        let spawn = template.spawn().arg("9").act(gate.action()).acts(acts.iter().cloned());
        if let Ok(child) = spawn.nowait().run() {
            let (pid, _pidfd) = child.leave();
            let _ = File::from(writer).write_all(&pid.to_le_bytes());
        }
        end();
    }
    drop(writer);
    let mut pid = [0; 4];
    File::from(reader).read_exact(&mut pid)?;
    same!(os::waitpid(worker, 0)?.0, worker, "the caller");
    Ok(i32::from_le_bytes(pid))
}

/// The child of a caller that does not wait does not depend on it.
fn caller_may_be_killed() -> Outcome {
    let gate = Gate::new("nowait-killed")?;
    let pid = left_alone(&gate, &[], || {
        let _ = os::kill(std::process::id() as i32, libc::SIGKILL);
        os::exit_now(1)
    })?;
    same!(os::waitpid(pid, libc::WNOHANG)?.0, 0, "the orphan, still at its action");
    gate.open()?;
    same!(os::waitpid(pid, 0)?, (pid, Status::Exited(9)), "the orphan");
    Ok(())
}

fn caller_may_exit() -> Outcome {
    let gate = Gate::new("nowait-exited")?;
    let pid = left_alone(&gate, &[], || os::exit_now(0))?;
    thread::sleep(Duration::from_millis(50));
    gate.open()?;
    same!(os::waitpid(pid, 0)?, (pid, Status::Exited(9)), "the orphan");
    Ok(())
}

/// Children of a process that ignores SIGCHLD reap themselves, those that fail late too.
fn ignored_sigchld() -> Outcome {
    os::set_signal(libc::SIGCHLD, libc::SIG_IGN, 0)?;
    let template = Template::child("nothing")?;
    for act in [Act::Close(500), Act::Dup2(900, 1)] {
        let (pid, _pidfd) = template.spawn().act(act).nowait().run()?.leave();
        refused("waiting for it", os::waitpid(pid, 0), libc::ECHILD)?;
    }
    ensure!(!os::has_children()?, "a child is left");
    Ok(())
}

/// Until the child has come to its SETPGID, the caller may put it into a group itself, as shells do.
fn process_group_is_set_by_the_child() -> Outcome {
    let gate = Gate::new("nowait-group")?;
    let template = Template::child("nothing")?;
    let child = template.spawn().acts([gate.action(), Act::Setpgid(0)]).nowait().run()?;
    same!(os::getpgid(child.pid)?, os::getpgid(0)?, "group before the action");
    // SAFETY: setpgid() takes numbers.
    same!(unsafe { libc::setpgid(child.pid, 0) }, 0, "the caller's setpgid()");
    same!(os::getpgid(child.pid)?, child.pid, "group after it");
    gate.open()?;
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}
