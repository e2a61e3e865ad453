//! Memory that an execution takes is charged to the control group that the child is in by then.

use std::os::fd::AsRawFd;

use crate::control_group::Cgroup;
use crate::harness::Outcome;
use crate::nowait::Gate;
use crate::os;
use crate::template::{Act, Template};
use crate::{ensure, same, tests};

tests!("charging": moved_while_it_waits, not_moved);

/// Bytes of page tables and of anonymous memory that are charged to a group.
fn charged(group: &Cgroup) -> Outcome<u64> {
    Ok(group.number("memory.stat", "pagetables")? + group.number("memory.stat", "anon")?)
}

/// Starts a child in a first group, which waits in an OPEN until it has been moved to a second one, if it is.
/// Returns what both are charged with once it runs.
fn started(moved: bool) -> Outcome<(u64, u64)> {
    let gate = Gate::new("charging")?;
    let (first, second) = (Cgroup::new("charging-1", &["memory"])?, Cgroup::new("charging-2", &["memory"])?);
    let template = Template::path("/bin/sleep")?;
    let folder = first.open()?;
    let acts = [Act::Cgroup(folder.as_raw_fd()), gate.action()];
    let spawn = template.spawn().argv(["sleep", "1000"]).acts(acts);
    let child = spawn.nowait().run()?;
    same!(first.processes()?, [child.pid], "processes of the first group");
    if moved {
        second.write("cgroup.procs", &child.pid.to_string())?;
    }
    gate.open()?;
    // It has executed its program and come to its sleep.
    let path = format!("/proc/{}/wchan", child.pid);
    let asleep = || std::fs::read_to_string(&path).is_ok_and(|place| place.contains("nanosleep"));
    for _ in 0..500 {
        if asleep() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ensure!(asleep(), "the child does not sleep: {:?}", std::fs::read_to_string(&path));
    // The kernel adds up what processors have counted every two seconds at the latest.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let charges = (charged(&first)?, charged(&second)?);
    os::pidfd_kill(child.pidfd.as_raw_fd(), libc::SIGKILL)?;
    child.wait()?;
    Ok(charges)
}

/// Of the first group, nothing is used any more.
fn moved_while_it_waits() -> Outcome {
    let (first, second) = started(true)?;
    ensure!(second >= 8192, "the group of the program is charged with {second} bytes only");
    same!(first, 0, "bytes that the group of its birth is charged with");
    Ok(())
}

fn not_moved() -> Outcome {
    let (first, second) = started(false)?;
    ensure!(first >= 8192, "the group of the program is charged with {first} bytes only");
    same!(second, 0, "bytes that the other group is charged with");
    Ok(())
}
