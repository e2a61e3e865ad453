//! Limits and accounting: a child counts as any, for its user and its control group.

use std::os::fd::AsRawFd;

use crate::control_group::Cgroup;
use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Outcome, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Act, Child, Spawn, Template};
use crate::{ensure, same, tests};

tests!("accounting":
    processes_of_a_user, processes_of_a_control_group,
    memory_of_children, memory_of_children_of_another_control_group, memory_is_given_back,
);

/// There is one process too many already.
const FULL: Failure = Failure { error: libc::EAGAIN, stage: Stage::Create, action: -1 };

/// RLIMIT_NPROC; root is exempt.
fn processes_of_a_user() -> Outcome {
    in_worker(|| {
        os::become_user(23456)?;
        let (nothing, sleep) = (Template::child("nothing")?, Template::child("sleep")?);
        os::set_rlimit(libc::RLIMIT_NPROC, 1)?;
        let mut failing = Failing::new()?;
        for round in 0..10 {
            failing.both(format!("the second of one process, round {round}"), &nothing.spawn(), FULL);
        }
        failing.finish()?;
        os::set_rlimit(libc::RLIMIT_NPROC, 2)?;
        let second = sleep.spawn().run()?;
        refused("the third of two processes", nothing.status(), libc::EAGAIN)?;
        refused("a fork", fork_and_exit(), libc::EAGAIN)?;
        os::kill(second.pid, libc::SIGKILL)?;
        second.wait()?;
        for _ in 0..10 {
            same!(nothing.status()?, Status::Exited(0), "status once the second process is gone");
            // A child that fails counts no longer either.
            refused("a failing action", nothing.spawn().act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
        }
        same!(nothing.counts()?, (10, 31), "spawns and failures");
        Ok(())
    })
}

/// A fork whose child exits at once.
fn fork_and_exit() -> std::io::Result<()> {
    let pid = os::fork()?;
    if pid == 0 {
        os::exit_now(0);
    }
    os::waitpid(pid, 0).map(drop)
}

/// pids.max of the caller's control group.
fn processes_of_a_control_group() -> Outcome {
    let cgroup = Cgroup::new("pids", &["pids"])?;
    in_worker(|| {
        let template = Template::child("nothing")?;
        cgroup.join()?;
        cgroup.write("pids.max", "1")?;
        let mut failing = Failing::new()?;
        for round in 0..10 {
            failing.both(format!("the second of one process, round {round}"), &template.spawn(), FULL);
        }
        failing.finish()?;
        same!(cgroup.number("pids.current", "")?, 1, "processes of the group after failures");
        ensure!(cgroup.number("pids.events", "max")? >= 1, "the limit did not strike");
        cgroup.write("pids.max", "2")?;
        for _ in 0..10 {
            same!(template.status()?, Status::Exited(0), "status within the limit");
        }
        Ok(())
    })
}

/// How many children are held alive to be charged for.
const CHILDREN: u64 = 24;

/// Starts so many children that stay.
fn hold(spawn: &Spawn<'_>) -> Outcome<Vec<Child>> {
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        children.push(spawn.run()?);
    }
    Ok(children)
}

/// The same by fork and execve.
fn hold_by_exec() -> Outcome<Vec<i32>> {
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        let pid = os::fork()?;
        if pid == 0 {
            os::execve(&os::c_path(crate::template::child("sleep")), &[c"child".to_owned()], &[]);
            os::exit_now(1);
        }
        children.push(pid);
    }
    // Until all have executed it: then they hold what they will hold.
    for pid in &children {
        while std::fs::read_to_string(format!("/proc/{pid}/comm"))? != "sleep\n" {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    Ok(children)
}

/// What the group is charged for in bytes: kernel stacks, page tables, anonymous memory.
fn charged(cgroup: &Cgroup) -> Outcome<[u64; 3]> {
    // The figures are brought up to date every two seconds, and when somebody looks after enough has changed.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let mut figures = [0; 3];
    for (figure, key) in figures.iter_mut().zip(["kernel_stack", "pagetables", "anon"]) {
        *figure = cgroup.number("memory.stat", key)?;
    }
    Ok(figures)
}

/// What the group of the caller is charged for its children, above what it was before.
fn growth(cgroup: &Cgroup, hold: impl FnOnce() -> Outcome) -> Outcome<[u64; 3]> {
    let before = charged(cgroup)?;
    hold()?;
    let after = charged(cgroup)?;
    Ok(std::array::from_fn(|i| after[i].saturating_sub(before[i])))
}

/// Children are charged to the caller's group, as after fork and execve.
fn memory_of_children() -> Outcome {
    let (by_spawn, by_exec) = (Cgroup::new("memory", &["memory"])?, Cgroup::new("memory-exec", &["memory"])?);
    let template = Template::child("sleep")?;
    let report = |body: &dyn Fn() -> Outcome<[u64; 3]>| -> Outcome<[u64; 3]> {
        let (reader, writer) = os::pipe()?;
        in_worker(|| {
            let bytes: Vec<u8> = body()?.iter().flat_map(|figure| figure.to_le_bytes()).collect();
            Ok(std::io::Write::write_all(&mut std::fs::File::from(writer.try_clone()?), &bytes)?)
        })?;
        drop(writer);
        let mut figures = [[0u8; 8]; 3];
        for figure in &mut figures {
            std::io::Read::read_exact(&mut &std::fs::File::from(reader.try_clone()?), figure)?;
        }
        Ok(figures.map(u64::from_le_bytes))
    };
    let spawned = report(&|| {
        by_spawn.join()?;
        let mut held = Vec::new();
        growth(&by_spawn, || {
            held = hold(&template.spawn())?;
            Ok(())
        })
    })?;
    let executed = report(&|| {
        by_exec.join()?;
        let mut held = Vec::new();
        let figures = growth(&by_exec, || {
            held = hold_by_exec()?;
            Ok(())
        });
        for pid in held {
            os::kill(pid, libc::SIGKILL)?;
            os::waitpid(pid, 0)?;
        }
        figures
    })?;
    for (i, what) in ["kernel stacks", "page tables", "anonymous memory"].iter().enumerate() {
        ensure!(
            spawned[i] >= CHILDREN * 4096 && spawned[i] * 10 >= executed[i] * 8,
            "{what} of {CHILDREN} children: {} bytes charged for spawned, {} for executed ones",
            spawned[i],
            executed[i]
        );
    }
    Ok(())
}

/// Children born in another group are charged to that one: their memory, and one process each.
fn memory_of_children_of_another_control_group() -> Outcome {
    let (own, other) =
        (Cgroup::new("memory-own", &["memory", "pids"])?, Cgroup::new("memory-other", &["memory", "pids"])?);
    let template = Template::child("sleep")?;
    in_worker(|| {
        own.join()?;
        let folder = other.open()?;
        let before = [charged(&own)?, charged(&other)?];
        let held = hold(&template.spawn().act(Act::Cgroup(folder.as_raw_fd())))?;
        let after = [charged(&own)?, charged(&other)?];
        let mut inside = other.processes()?;
        inside.sort_unstable();
        let mut started: Vec<i32> = held.iter().map(|child| child.pid).collect();
        started.sort_unstable();
        same!(inside, started, "processes of the group");
        same!(other.number("pids.current", "")?, CHILDREN, "processes the group is charged for");
        for (i, what) in [(1, "page tables"), (2, "anonymous memory")] {
            let [own, other] = [0, 1].map(|group: usize| after[group][i].saturating_sub(before[group][i]));
            ensure!(
                other >= CHILDREN * 4096 && other > own,
                "{what}: {other} bytes charged to the children's group, {own} to the caller's"
            );
        }
        Ok(())
    })
}

/// What children were charged for is uncharged with them, failed ones included.
fn memory_is_given_back() -> Outcome {
    let cgroup = Cgroup::new("memory-back", &["memory"])?;
    let template = Template::child("nothing")?;
    in_worker(|| {
        cgroup.join()?;
        let round = || -> Outcome {
            for _ in 0..100 {
                template.status()?;
                refused("a failing action", template.spawn().act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
            }
            Ok(())
        };
        round()?;
        let before = charged(&cgroup)?;
        round()?;
        let after = charged(&cgroup)?;
        for (i, what) in ["kernel stacks", "page tables", "anonymous memory"].iter().enumerate() {
            // A stack or two may still wait for an RCU grace period or in a cache.
            ensure!(after[i] <= before[i] + (1 << 17), "{what}: {} bytes charged, {} before", after[i], before[i]);
        }
        Ok(())
    })
}
