//! A child that waits in an open meets its end: what it had goes with it, and nobody misses it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::thread::{self, sleep};
use std::time::Duration;

use crate::attack::{holdup::state, interface::mappings, stops::eventually};
use crate::control_group::Cgroup;
use crate::harness::{Checks, Outcome, failed, patience, with_complaints};
use crate::os::{self, Pages, Status};
use crate::template::{Act, Child, Folder, Open, Spawn, Template};
use crate::userfault::Held;
use crate::{ensure, same, tests};

tests!("outlived": suspend_after_out_of_memory [120], address_space_outlives_the_child);

/// Where an OPEN puts the FIFO.
const FD: i32 = 5;

/// Starts a child and waits until it waits in the opening of a FIFO.
fn waiting(spawn: &Spawn<'_>) -> Outcome<Child> {
    let child = spawn.run()?;
    ensure!(eventually(5000, || Ok(state(child.pid) == 'S'))?, "the child does not wait: {}", state(child.pid));
    Ok(child)
}

/// Starts processes that use so much memory each in a control group, until they are killed.
fn use_memory(group: &Cgroup, megabytes: usize, processes: usize) -> Outcome<Vec<i32>> {
    let mut pids = Vec::new();
    for _ in 0..processes {
        let pid = os::fork()?;
        if pid == 0 {
            let filled = group.join().and_then(|()| Pages::new(megabytes * 256));
            if let Ok(mut pages) = filled {
                pages.bytes().iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                loop {
                    thread::park();
                }
            }
            os::exit_now(1);
        }
        pids.push(pid);
    }
    Ok(pids)
}

/// Each child that the kernel kills for want of memory while it waits is counted as gone when it is gone. Suspend waits for
/// that count to be 0, and for all tasks to freeze.
fn suspend_after_out_of_memory() -> Outcome {
    let folder = Folder::tmp("held")?;
    let gate = folder.join("gate");
    os::mkfifo(&gate)?;
    let group = Cgroup::new("held", &["memory"])?;
    group.write("memory.max", &(32 << 20).to_string())?;
    let directory = group.open()?;
    let template = Template::child("nothing")?;
    // Something to be freed, too.
    let big = "x".repeat(100_000);
    let spawn = template.spawn().argv(["child", &big, &big, &big]).nowait().act(Act::Cgroup(directory.as_raw_fd()));
    let spawn = spawn.open(Open::new(&gate, libc::O_RDONLY, FD));
    for _ in 0..3 {
        fs::write("/proc/self/oom_score_adj", "1000")?;
        let child = waiting(&spawn);
        fs::write("/proc/self/oom_score_adj", "0")?;
        let child = child?;
        let pid = child.pid;
        let status = with_complaints(|| {
            // More than there is, of which each uses less than what an oom_score_adj of 1000 counts as.
            let users = use_memory(&group, 20, 3)?;
            let killed = os::readable(child.pidfd.as_raw_fd(), patience(20) as i32 * 1000)?;
            let status = if killed { Some(child.wait()?) } else { None };
            for user in users {
                os::kill(user, libc::SIGKILL)?;
                os::waitpid(user, 0)?;
            }
            Ok(status)
        })?;
        same!(status, Some(Status::Signaled(libc::SIGKILL)), "how the child ended for want of memory");
        ensure!(group.processes()?.is_empty(), "{pid} is still in the control group: {:?}", group.processes()?);
    }
    suspend()
}

/// Settings that a test changes, put back when dropped.
struct Setting(&'static str, String);

impl Setting {
    fn change(path: &'static str, value: &str) -> Outcome<Setting> {
        let was = fs::read_to_string(path).map_err(|e| failed(format!("{path}: {e}")))?;
        // The one in use stands in brackets where there is a choice.
        let chosen = was.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word.to_owned());
        fs::write(path, value).map_err(|e| failed(format!("{path}: {e}")))?;
        Ok(Setting(path, chosen.unwrap_or(was)))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.0, &self.1);
    }
}

/// Freezes all tasks as suspend does, and goes back from there.
fn suspend() -> Outcome {
    let milliseconds = (5000 * patience(1)).to_string();
    let _test = Setting::change("/sys/power/pm_test", "freezer")?;
    let _delay = Setting::change("/sys/module/suspend/parameters/pm_test_delay", "0")?;
    let _patience = Setting::change("/sys/power/pm_freeze_timeout", &milliseconds)?;
    fs::write("/sys/power/state", "freeze").map_err(|e| failed(format!("suspend as far as the freezer: {e}")))
}

/// Another process is in the middle of a write to the child's memory when the child fails, ends and is gone. What it
/// writes from comes when all that is over.
fn address_space_outlives_the_child() -> Outcome {
    let folder = Folder::tmp("held")?;
    let gate = folder.join("gate");
    os::mkfifo(&gate)?;
    let source = Held::new()?;
    let template = Template::child("nothing")?;
    let spawn = template.spawn().nowait().open(Open::new(&gate, libc::O_RDONLY, FD));
    let child = waiting(&spawn.open(Open::new(folder.join("missing"), libc::O_RDONLY, FD)))?;
    let pid = child.pid;
    let mem = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut checks = Checks::default();
    let mappings = mappings(&maps);
    // A stack grows down; what is below it counts as its own.
    let place = match mappings.first() {
        Some(&(start, end)) if end - start <= 8192 => start - 4096,
        Some(&(start, _)) => start,
        None => 0x40_0000,
    };
    if !mappings.is_empty() {
        checks.fail(format!("the child has memory before its exec: {mappings:x?}"));
    }
    thread::scope(|scope| -> Outcome {
        let address = source.address();
        let writer = scope.spawn(move || {
            // SAFETY: the page is mapped, and nobody has a reference to it; the kernel reads it.
            unsafe { libc::pwrite64(mem.as_raw_fd(), address as *const _, 8, place as i64) }
        });
        // It waits for the page, with the child's address space in its hands.
        let asked = source.somebody_waits(5000);
        drop(os::open(&gate, libc::O_WRONLY)?);
        let status = child.wait()?;
        // The task itself is freed a grace period later.
        sleep(Duration::from_millis(1500 * u64::from(patience(1))));
        source.fill(b"written")?;
        let written = writer.join().map_err(|_| failed("the writer panicked"))?;
        if !asked? {
            checks.fail("the write has not got as far as to what it writes from");
        }
        if status != Status::Exited(127) {
            checks.fail(format!("the child ended with {status:?}"));
        }
        if written > 0 {
            checks.fail(format!("{written} bytes were written to what the child left behind"));
        }
        Ok(())
    })?;
    checks.finish()
}
