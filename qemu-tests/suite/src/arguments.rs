//! The memory of arguments that were copied for a child counts as somebody's, for the OOM killer.

use std::fs;

use crate::harness::{Outcome, failed, in_worker, with_complaints};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template, set_mode};
use crate::{ensure, same, tests};

tests!("arguments":
    of_a_child_nobody_waits_for, of_a_child_that_fails, of_a_setuid_program, of_a_setuid_program_without_memory,
);

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
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("nothing")?;
    set_mode(&path, 0o4755)?;
    in_worker(|| {
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

/// There is no memory for the other address space. The kernel would say "Bad rss-counter state" of pages that stay counted.
fn of_a_setuid_program_without_memory() -> Outcome {
    let folder = Folder::new("/var/tmp", "arguments-memory")?;
    set_mode(folder.path(), 0o755)?;
    let (path, fifo) = (folder.copy("nothing")?, folder.join("fifo"));
    set_mode(&path, 0o4755)?;
    os::mkfifo(&fifo)?;
    set_mode(&fifo, 0o644)?;
    let worker = os::fork()?;
    if worker == 0 {
        let ended = || -> Outcome<Status> {
            os::setgroups(&[])?;
            os::become_user(12345)?;
            let open = Open::new(&fifo, libc::O_RDONLY, 9);
            Ok(Template::path(&path)?.spawn().argv(large()).open(open).nowait().status()?)
        };
        // Exec had not passed its point of no return.
        os::exit_now(i32::from(!matches!(ended(), Ok(Status::Exited(127)))));
    }
    // The child has opened the other end, or waits for it.
    let writer = os::open(&fifo, libc::O_WRONLY | libc::O_NONBLOCK);
    same!(writer.is_err(), true, "whether the child is not there yet");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let limits = [("kbytes", "4"), ("memory", "2")];
    let before = limits.map(|(name, _)| fs::read_to_string(format!("/proc/sys/vm/overcommit_{name}")));
    // It says that there is not enough memory.
    let status = with_complaints(|| {
        let set = |values: [(&str, &str); 2]| -> Outcome {
            for (name, value) in values {
                fs::write(format!("/proc/sys/vm/overcommit_{name}"), value)?;
            }
            Ok(())
        };
        set(limits)?;
        let opened = os::open(&fifo, libc::O_WRONLY);
        let status = os::waitpid(worker, 0);
        let [_, memory] = &before;
        fs::write("/proc/sys/vm/overcommit_memory", memory.as_deref().unwrap_or("0"))?;
        opened?;
        Ok(status?.1)
    })?;
    same!(status, Status::Exited(0), "whether the spawn failed as it should");
    Ok(())
}
