//! What can happen to a spawn in the middle: somebody wants to unload the module, the template closed, the thread or the whole
//! program goes away. Nothing is left, each time.
//!
//! A child is held in the middle by an OPEN of a FIFO whose other side does not come.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use crate::harness::{Outcome, Stop, children, failed, refused};
use crate::os::{self, Status};
use crate::template::{Folder, Open, Template, child};
use crate::{ensure, same, tests};

tests!("interrupted":
    module_stays_while_a_child_is_held [300], module_stays_while_a_nowait_child_is_held [300], template_closed [300],
    template_closed_under_a_nowait_child [300], thread_exits [300], exec_in_another_thread [300],
    exit_in_another_thread [300], killed_by_a_signal [300], pidfd_closed_under_a_nowait_child [300],
);

/// How often each is repeated, to see whether something grows.
const ROUNDS: u64 = 25;

/// A FIFO that holds children which open it for reading.
struct Gate {
    _folder: Folder,
    path: String,
}

impl Gate {
    fn new(name: &str) -> io::Result<Gate> {
        let folder = Folder::tmp(name)?;
        let path = folder.join("gate");
        os::mkfifo(&path)?;
        Ok(Gate { _folder: folder, path })
    }

    /// The action that waits here.
    fn wait(&self) -> Open {
        Open::new(&self.path, libc::O_RDONLY, 0)
    }

    /// Lets everybody through who is there while the result lives.
    fn open(&self) -> io::Result<OwnedFd> {
        os::open(&self.path, libc::O_RDWR | libc::O_NONBLOCK)
    }
}

/// What the kernel holds for anybody: processes and threads, open files, and references to the module.
fn holdings() -> Outcome<[u64; 3]> {
    let number = |text: &str| text.parse().map_err(|_| failed(format!("not a number: {text:?}")));
    let load = fs::read_to_string("/proc/loadavg")?;
    let processes = load.split(['/', ' ']).nth(4).unwrap_or_default();
    let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let files = files.split_whitespace().next().unwrap_or_default();
    let references = fs::read_to_string("/sys/module/spawn_template/refcnt").unwrap_or_else(|_| "0".to_owned());
    Ok([number(processes)?, number(files)?, number(references.trim())?])
}

/// Calls `body` some times and wants the kernel to hold no more for it afterwards.
fn repeated(mut body: impl FnMut() -> Outcome) -> Outcome {
    body()?;
    let before = holdings()?;
    for _ in 0..ROUNDS {
        body()?;
    }
    ensure!(!os::has_children()?, "a child is left");
    // What is given back a little later is not left behind. Others come and go meanwhile, but not one each time.
    let slack = [ROUNDS / 2, ROUNDS / 2, 0];
    let mut after = before;
    for _ in 0..40 {
        after = holdings()?;
        if (0..3).all(|i| after[i] <= before[i] + slack[i]) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(250));
    }
    Err(failed(format!("after {ROUNDS} times [processes, files, module references] = {after:?}, {before:?} before")))
}

/// Reaps what a process that is gone has left to this one, and waits for those that reap themselves.
fn reap_orphans() -> Outcome {
    loop {
        match os::waitpid(-1, libc::__WALL) {
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
            result => result?,
        };
    }
}

/// Waits until this process has a child.
fn child_is_there() -> io::Result<()> {
    while children()?.is_empty() {
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Waits until a child of this process has a child itself.
fn has_child(pid: i32) -> Outcome {
    let pidfd = os::pidfd_open(pid)?;
    loop {
        ensure!(!os::readable(pidfd.as_raw_fd(), 0)?, "process {pid} has ended before it had a child");
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // The thread may be gone again.
            let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            if !text.trim().is_empty() {
                return Ok(());
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a spawn that is held at the gate in a thread, runs `meanwhile`, opens the gate and returns how the spawn went.
fn while_held(gate: &Gate, template: &Template, meanwhile: impl FnOnce() -> Outcome) -> Outcome<io::Result<Status>> {
    thread::scope(|scope| {
        let spawning = scope.spawn(|| template.spawn().open(gate.wait()).status());
        child_is_there()?;
        let outcome = meanwhile();
        let through = gate.open()?;
        let spawned = spawning.join().map_err(|_| failed("the spawning thread panicked"))?;
        drop(through);
        outcome?;
        Ok(spawned)
    })
}

/// Skips the test on a kernel that has the module built in.
fn needs_module() -> Outcome {
    if fs::exists("/sys/module/spawn_template/initstate")? {
        Ok(())
    } else {
        Err(Stop::Skipped("spawn templates are built into this kernel".to_owned()))
    }
}

fn module_stays_while_a_child_is_held() -> Outcome {
    needs_module()?;
    let gate = Gate::new("interrupted-module")?;
    repeated(|| {
        let template = Template::child("nothing")?;
        let spawned =
            while_held(&gate, &template, || refused("unloading", os::delete_module(c"spawn_template"), libc::EAGAIN))?;
        same!(spawned?, Status::Exited(0), "status");
        Ok(())
    })
}

/// The child is on its own: caller's call is over, and the template closed.
fn module_stays_while_a_nowait_child_is_held() -> Outcome {
    needs_module()?;
    let gate = Gate::new("interrupted-module-nowait")?;
    repeated(|| {
        let template = Template::child("nothing")?;
        let child = template.spawn().open(gate.wait()).nowait().run()?;
        drop(template);
        refused("unloading", os::delete_module(c"spawn_template"), libc::EAGAIN)?;
        let through = gate.open()?;
        same!(child.wait()?, Status::Exited(0), "status");
        drop(through);
        Ok(())
    })
}

/// Another thread closes the descriptor the call was made with.
fn template_closed() -> Outcome {
    let gate = Gate::new("interrupted-close")?;
    repeated(|| {
        let template = Template::child("nothing")?;
        // A number that no Rust value owns, so that it can be closed while it is in use.
        let number = template.raw() + 1000;
        os::dup2(template.raw(), number)?;
        drop(template);
        // SAFETY: the number was opened above, and this value never closes it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let borrowed = ManuallyDrop::new(Template { fd });
        same!(while_held(&gate, &borrowed, || Ok(os::close(number)?))??, Status::Exited(0), "status");
        Ok(())
    })
}

fn template_closed_under_a_nowait_child() -> Outcome {
    let gate = Gate::new("interrupted-close-nowait")?;
    repeated(|| {
        let template = Template::child("exit-code")?;
        let child = template.spawn().arg("9").open(gate.wait()).nowait().run()?;
        drop(template);
        let through = gate.open()?;
        same!(child.wait()?, Status::Exited(9), "status");
        drop(through);
        Ok(())
    })
}

/// Nobody holds a pidfd; the child is reaped by its pid.
fn pidfd_closed_under_a_nowait_child() -> Outcome {
    let gate = Gate::new("interrupted-pidfd")?;
    repeated(|| {
        let template = Template::child("exit-code")?;
        let child = template.spawn().arg("8").open(gate.wait()).nowait().run()?;
        let (pid, pidfd) = child.leave();
        drop(pidfd);
        let through = gate.open()?;
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(8)), "status");
        drop(through);
        Ok(())
    })
}

/// The thread that made a NOWAIT child is gone before the child gets on.
fn thread_exits() -> Outcome {
    let gate = Gate::new("interrupted-thread")?;
    let template = Template::child("exit-code")?;
    repeated(|| {
        let spawned = thread::scope(|scope| {
            let spawn = || template.spawn().arg("7").open(gate.wait()).nowait().run();
            scope.spawn(spawn).join()
        });
        let child = spawned.map_err(|_| failed("the thread panicked"))??;
        let through = gate.open()?;
        same!(child.wait()?, Status::Exited(7), "status");
        drop(through);
        Ok(())
    })
}

/// Runs a process of which one thread waits for a held child while `end` runs in another; returns how it ended.
/// No child may be left of it, and the gate stays shut: the child must go by itself.
fn ended_while_held(gate: &Gate, template: &Template, end: impl Fn() + Sync) -> Outcome<Status> {
    let caller = os::fork()?;
    if caller == 0 {
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = template.spawn().open(gate.wait()).run();
                // The child got through, or the call was interrupted by something that does not end the process.
                os::exit_now(99);
            });
            let _ = child_is_there();
            end();
        });
        os::exit_now(98);
    }
    let status = os::waitpid(caller, 0)?.1;
    // The child, once it is dead, is this process's to reap, if it was the caller's at all.
    reap_orphans()?;
    Ok(status)
}

fn exec_in_another_thread() -> Outcome {
    let gate = Gate::new("interrupted-exec")?;
    let template = Template::child("nothing")?;
    let (path, argv) = (os::c_path(child("exit-code")), [c"exit-code".to_owned(), c"21".to_owned()]);
    repeated(|| {
        let status = ended_while_held(&gate, &template, || {
            os::execve(&path, &argv, &[]);
        })?;
        same!(status, Status::Exited(21), "the process that became another program");
        Ok(())
    })
}

fn exit_in_another_thread() -> Outcome {
    let gate = Gate::new("interrupted-exit")?;
    let template = Template::child("nothing")?;
    repeated(|| {
        same!(ended_while_held(&gate, &template, || os::exit_now(22))?, Status::Exited(22), "the process that exited");
        Ok(())
    })
}

fn killed_by_a_signal() -> Outcome {
    let gate = Gate::new("interrupted-signal")?;
    let template = Template::child("nothing")?;
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        repeated(|| {
            let caller = os::fork()?;
            if caller == 0 {
                let _ = template.spawn().open(gate.wait()).run();
                os::exit_now(99);
            }
            has_child(caller)?;
            os::kill(caller, signal)?;
            same!(os::waitpid(caller, 0)?, (caller, Status::Signaled(signal)), "the caller");
            reap_orphans()
        })?;
    }
    same!(template.status()?, Status::Exited(0), "status of a spawn afterwards");
    ensure!(children()?.is_empty(), "a child is left");
    Ok(())
}
