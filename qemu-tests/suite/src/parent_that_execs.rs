//! PDEATHSIG: a parent that executes another program lives on, and its children with it.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::thread;

use crate::harness::{Outcome, ensure_ended};
use crate::nowait::Gate;
use crate::os;
use crate::template::{Act, Template, child};
use crate::{ensure, same, tests};

tests!("parent_that_execs": thread_that_executes, leader_that_executes, parent_that_ends_afterwards);

/// A process, or its second thread, spawns a child that waits at the gate before its PDEATHSIG, and executes `sleep`.
/// Once it has, `then` is called with its pid. Returns what the child, an `echo`, has written.
fn executing(in_thread: bool, then: impl FnOnce(i32) -> Outcome) -> Outcome<String> {
    let gate = Gate::new("parent-execs")?;
    let template = Template::path("/bin/echo")?;
    let (output, writer) = os::pipe()?;
    // Closed by the exec of the parent; its child has it never.
    let (executed, open) = os::pipe()?;
    let parent = os::fork()?;
    if parent == 0 {
        drop((output, executed));
        let start = || -> std::io::Result<()> {
            let acts = [Act::Dup2(writer.as_raw_fd(), 1), gate.action(), Act::Pdeathsig(libc::SIGTERM as u64)];
            template.spawn().arg("alive").acts(acts).nowait().run()?.leave();
            Err(os::execve(&os::c_path(child("sleep")), &[c"sleep".to_owned()], &[]))
        };
        if in_thread {
            thread::scope(|scope| scope.spawn(start).join().is_ok());
        } else {
            let _ = start();
        }
        os::exit_now(1);
    }
    drop((writer, open));
    let ended = ensure_ended(parent);
    File::from(executed).read_to_end(&mut Vec::new())?;
    then(parent)?;
    gate.open()?;
    let mut text = String::new();
    File::from(output).read_to_string(&mut text)?;
    drop(ended);
    // The child is an orphan then, and ours to wait for.
    os::reap_all()?;
    Ok(text)
}

fn thread_that_executes() -> Outcome {
    same!(executing(true, |_| Ok(()))?, "alive\n", "output of a child whose parent lives");
    Ok(())
}

fn leader_that_executes() -> Outcome {
    same!(executing(false, |_| Ok(()))?, "alive\n", "output of a child whose parent lives");
    Ok(())
}

/// The same parent gone before the action is the end of the child.
fn parent_that_ends_afterwards() -> Outcome {
    for in_thread in [false, true] {
        let text = executing(in_thread, |parent| {
            os::kill(parent, libc::SIGKILL)?;
            ensure!(os::readable(os::pidfd_open(parent)?.as_raw_fd(), 20_000)?, "the parent is not killed");
            Ok(())
        })?;
        same!(text, "", "output of a child whose parent has ended");
    }
    Ok(())
}
