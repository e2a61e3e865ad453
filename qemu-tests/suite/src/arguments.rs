//! The memory of arguments that were copied for a child counts as somebody's, for the OOM killer.

use std::fs;

use crate::harness::{Outcome, failed};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template};
use crate::{ensure, same, tests};

tests!("arguments": of_a_child_nobody_waits_for, of_a_child_that_fails, of_a_setuid_program);

/// Arguments of about two megabytes.
fn large() -> Vec<String> {
    std::iter::once("child".to_owned()).chain(std::iter::repeat_n("x".repeat(100_000), 20)).collect()
}

/// The resident size of a process, in kB.
fn resident(pid: i32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    size.ok_or_else(|| failed(format!("no resident size: {status}")))
}

/// Its caller has gone on, so they are its own before it has executed anything.
fn of_a_child_nobody_waits_for() -> Outcome {
    let folder = Folder::tmp("arguments")?;
    let fifo = folder.join("fifo");
    os::mkfifo(&fifo)?;
    let template = Template::child("nothing")?;
    let open = Open::new(&fifo, libc::O_RDONLY, 9);
    let child = template.spawn().argv(large()).open(open).nowait().run()?;
    let size = resident(child.pid)?;
    ensure!(size >= 1900, "a held child with 2 MB of arguments has {size} kB");
    drop(os::open(&fifo, libc::O_WRONLY)?);
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}

/// What was counted is taken off again: the kernel complains of a process that leaves pages behind.
fn of_a_child_that_fails() -> Outcome {
    let template = Template::child("nothing")?;
    let folder = Folder::tmp("arguments-fail")?;
    let missing = Open::new(folder.join("missing"), libc::O_RDONLY, 9);
    for acts in [vec![], vec![Act::Umask(0), Act::Close(7)]] {
        let spawn = template.spawn().argv(large()).acts(acts).open(missing.clone()).nowait();
        same!(spawn.status()?, Status::Exited(127), "status");
    }
    Ok(())
}

/// Exec moves the strings of a program with other rights to a new address space.
fn of_a_setuid_program() -> Outcome {
    let folder = Folder::new("/var/tmp", "arguments-setuid")?;
    crate::template::set_mode(folder.path(), 0o755)?;
    let path = folder.copy("nothing")?;
    crate::template::set_mode(&path, 0o4755)?;
    crate::harness::in_worker(|| {
        os::setgroups(&[])?;
        os::become_user(12345)?;
        let template = Template::path(&path)?;
        for nowait in [false, true] {
            let spawn = template.spawn().argv(large());
            let spawn = if nowait { spawn.nowait() } else { spawn };
            same!(spawn.status()?, Status::Exited(0), "status, NOWAIT {nowait}");
        }
        Ok(())
    })
}
