//! CGROUP: the child is born in the cgroup, with the permissions, limits and errors of `CLONE_INTO_CGROUP`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::time::Duration;

use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Checks, Outcome, failed, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Child, Template};
use crate::{ensure, same, tests};

tests!("cgroup":
    born_there, listed_while_running, at_any_place, whatever_other_actions_do_with_the_number, by_o_path,
    never_in_the_callers_group, limit_of_the_group, room_again_after_refusal, frozen_group, killed_with_the_group,
    removed_group, group_with_controlled_children, threaded_group, users_may_not, users_may_in_their_own, group_of_the_caller,
    failing_action_leaves_group_empty, actions_run_there,
);

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of a test's own below the root or another one; removed when dropped, which is when nobody is left in it.
pub struct Group {
    path: String,
    dir: File,
}

impl Group {
    /// Directly below the root.
    pub fn new(name: &str) -> io::Result<Group> {
        fs::write(format!("{ROOT}/cgroup.subtree_control"), "+pids")?;
        Group::at(format!("{ROOT}/spawn-template-{name}"))
    }

    fn below(&self, name: &str) -> io::Result<Group> {
        Group::at(format!("{}/{name}", self.path))
    }

    fn at(path: String) -> io::Result<Group> {
        // One that an earlier run could not remove is as good as a new one only when it is empty, so remove it.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path)?;
        let dir = File::open(&path)?;
        Ok(Group { path, dir })
    }

    /// The action for a child to be born in it.
    pub fn action(&self) -> Act {
        Act::Cgroup(self.dir.as_raw_fd())
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(format!("{}/{file}", self.path), value)
    }

    /// Reads one of its files.
    pub fn get(&self, file: &str) -> io::Result<String> {
        Ok(fs::read_to_string(format!("{}/{file}", self.path))?.trim_end().to_owned())
    }

    /// The processes in it.
    pub fn procs(&self) -> io::Result<Vec<i32>> {
        Ok(self.get("cgroup.procs")?.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// What /proc/PID/cgroup says of its members.
    fn name(&self) -> String {
        format!("0::{}", self.path.trim_start_matches(ROOT))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that have just been reaped may count for a moment still.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() || !fs::exists(&self.path).unwrap_or(true) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn born_there() -> Outcome {
    let group = Group::new("born")?;
    let template = Template::child("show")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    for inherit in [false, true] {
        let show = template.spawn().act(group.action()).inherit(inherit).show()?;
        same!(show.get("cgroup"), group.name(), "the child's cgroup");
        same!(show.fd_numbers(), [0, 1, 2], "descriptors");
    }
    same!(template.spawn().show()?.get("cgroup"), own.trim_end(), "the cgroup of a child without the action");
    same!(fs::read_to_string("/proc/self/cgroup")?, own, "the caller's cgroup");
    Ok(())
}

fn listed_while_running() -> Outcome {
    let group = Group::new("listed")?;
    let template = Template::child("sleep")?;
    let children = (0..3).map(|_| template.spawn().act(group.action()).run()).collect::<io::Result<Vec<Child>>>()?;
    let mut listed = group.procs()?;
    let mut pids: Vec<i32> = children.iter().map(|child| child.pid).collect();
    listed.sort_unstable();
    pids.sort_unstable();
    same!(listed, pids, "processes in the group");
    drop(children);
    same!(group.procs()?, [0; 0], "processes in the group afterwards");
    Ok(())
}

fn at_any_place() -> Outcome {
    let group = Group::new("place")?;
    let template = Template::child("show")?;
    let others = [Act::Dup2(0, 5), Act::Setsid, Act::Umask(0o22)];
    for place in 0..=others.len() {
        let mut acts = others.to_vec();
        acts.insert(place, group.action());
        let show = template.spawn().acts(acts).show()?;
        same!(show.get("cgroup"), group.name(), "the child's cgroup, action {place}");
        same!(show.fd_numbers(), [0, 1, 2, 5], "descriptors");
    }
    Ok(())
}

/// It is the caller's descriptor that counts, as it is when the call begins.
fn whatever_other_actions_do_with_the_number() -> Outcome {
    let group = Group::new("number")?;
    let fd = group.dir.as_raw_fd();
    let template = Template::child("show")?;
    for before in [Act::Close(fd), Act::Dup2(0, fd), Act::CloseRange(3, -1, 0)] {
        for inherit in [false, true] {
            let show = template.spawn().acts([before.clone(), group.action()]).inherit(inherit).show()?;
            same!(show.get("cgroup"), group.name(), "the child's cgroup after {before:?}");
        }
    }
    // A number that only actions open is none of the caller's.
    let template = Template::child("nothing")?;
    let open = crate::template::Open::new(&group.path, libc::O_RDONLY, 800);
    let mut failing = Failing::new()?;
    let spawn = template.spawn().acts([Act::Open(open), Act::Cgroup(800)]);
    failing.both("a number that an action opens", &spawn, Failure::wrong(1, libc::EBADF));
    failing.finish()
}

fn by_o_path() -> Outcome {
    let group = Group::new("o-path")?;
    let path = os::open(&group.path, libc::O_PATH)?;
    let show = Template::child("show")?.spawn().act(Act::Cgroup(path.as_raw_fd())).show()?;
    same!(show.get("cgroup"), group.name(), "the child's cgroup");
    Ok(())
}

/// The caller's group is full, and has never had a second process afterwards.
fn never_in_the_callers_group() -> Outcome {
    let (full, other) = (Group::new("full")?, Group::new("other")?);
    in_worker(|| {
        full.set("cgroup.procs", "0")?;
        full.set("pids.max", "1")?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        failing.both("in the full group", &template.spawn(), Failure::at(Stage::Create, libc::EAGAIN));
        failing.finish()?;
        for inherit in [false, true] {
            for _ in 0..20 {
                let spawn = template.spawn().act(other.action()).inherit(inherit);
                same!(spawn.status()?, Status::Exited(0), "status in the other group");
            }
        }
        same!(full.get("pids.peak")?, "1", "most processes that the caller's group ever had");
        same!(full.get("pids.events")?.contains("max 2"), true, "refusals: the two without the action");
        same!(other.get("pids.peak")?, "1", "most processes that the other group ever had");
        fs::write(format!("{ROOT}/cgroup.procs"), "0")?;
        Ok(())
    })
}

fn limit_of_the_group() -> Outcome {
    let group = Group::new("limit")?;
    group.set("pids.max", "0")?;
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    failing.both("no room", &template.spawn().act(group.action()), Failure::at(Stage::Create, libc::EAGAIN));
    let spawn = template.spawn().acts([Act::Dup2(0, 5), group.action(), Act::Dup2(900, 1)]);
    failing.both("no room, among others", &spawn, Failure::at(Stage::Create, libc::EAGAIN));
    failing.finish()?;
    same!(group.get("pids.peak")?, "0", "most processes that the group ever had");
    same!(template.status()?, Status::Exited(0), "status without the action");
    Ok(())
}

fn room_again_after_refusal() -> Outcome {
    let group = Group::new("room")?;
    group.set("pids.max", "1")?;
    let template = Template::child("nothing")?;
    let running = Template::child("sleep")?.spawn().act(group.action()).run()?;
    for _ in 0..3 {
        let (child, result) = template.spawn().act(group.action()).report();
        crate::harness::refused("a second process", child, libc::EAGAIN)?;
        same!((result.stage, result.action), (Stage::Create as u32, -1), "stage and action");
    }
    drop(running);
    same!(template.spawn().act(group.action()).status()?, Status::Exited(0), "status with room");
    // One that fails later gives its room back.
    for _ in 0..3 {
        let spawn = template.spawn().acts([group.action(), Act::Dup2(900, 1)]);
        crate::harness::refused("a failing action", spawn.run(), libc::EBADF)?;
        same!(template.spawn().act(group.action()).status()?, Status::Exited(0), "status after a failure");
    }
    Ok(())
}

/// In a frozen group a child gets as far as its program's first instruction, and stays there.
fn frozen_group() -> Outcome {
    let group = Group::new("frozen")?;
    let template = Template::child("nothing")?;
    for nowait in [false, true] {
        group.set("cgroup.freeze", "1")?;
        let spawn = template.spawn().act(group.action());
        if !nowait {
            // The child stops before it has done anything, as after fork, and its caller waits.
            let worker = os::fork()?;
            if worker == 0 {
                os::exit_now(i32::from(spawn.status().ok() != Some(Status::Exited(0))));
            }
            wait_until_frozen(&group)?;
            same!(os::waitpid(worker, libc::WNOHANG)?.0, 0, "the caller, if it has ended");
            group.set("cgroup.freeze", "0")?;
            same!(os::waitpid(worker, 0)?.1, Status::Exited(0), "status of the caller after thawing");
            continue;
        }
        let child = spawn.nowait().run()?;
        same!(group.procs()?, [child.pid], "processes in the group");
        ensure!(!os::readable(child.pidfd.as_raw_fd(), 300)?, "a program in a frozen group has ended");
        wait_until_frozen(&group)?;
        let program = fs::read_link(format!("/proc/{}/exe", child.pid))?;
        same!(program, fs::read_link("/proc/self/exe")?, "program of the frozen child");
        group.set("cgroup.freeze", "0")?;
        same!(child.wait()?, Status::Exited(0), "status after thawing");
    }
    Ok(())
}

/// Waits until a group with processes in it counts as frozen.
fn wait_until_frozen(group: &Group) -> Outcome {
    for _ in 0..200 {
        if group.get("cgroup.events")?.contains("frozen 1") && !group.procs()?.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(failed("the group does not count as frozen"))
}

fn killed_with_the_group() -> Outcome {
    let group = Group::new("kill")?;
    let child = Template::child("sleep")?.spawn().act(group.action()).run()?;
    group.set("cgroup.kill", "1")?;
    same!(child.wait()?, Status::Signaled(libc::SIGKILL), "status");
    Ok(())
}

fn removed_group() -> Outcome {
    let group = Group::new("removed")?;
    fs::remove_dir(&group.path)?;
    let template = Template::child("nothing")?;
    let spawn = template.spawn().act(group.action());
    let mut failing = Failing::new()?;
    let mut checks = Checks::default();
    for inherit in [false, true] {
        checks.refused("a group that was removed", spawn.clone().inherit(inherit).run(), &[libc::ENOENT, libc::ENODEV]);
        failing.nothing_left("a group that was removed");
    }
    checks.finish()?;
    failing.finish()
}

/// The rule that processes live in the leaves, as far as a controller cannot work on threads.
fn group_with_controlled_children() -> Outcome {
    let group = Group::new("inner")?;
    fs::write(format!("{ROOT}/cgroup.subtree_control"), "+memory")?;
    let leaf = group.below("leaf")?;
    group.set("cgroup.subtree_control", "+memory")?;
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    failing.both("an inner group", &template.spawn().act(group.action()), Failure::at(Stage::Create, libc::EBUSY));
    failing.finish()?;
    same!(template.spawn().act(leaf.action()).status()?, Status::Exited(0), "status in the leaf");
    Ok(())
}

/// Beside a threaded group, a group of type "domain invalid" takes no processes; the threaded one does.
fn threaded_group() -> Outcome {
    let group = Group::new("threads")?;
    let (threaded, invalid) = (group.below("threaded")?, group.below("invalid")?);
    threaded.set("cgroup.type", "threaded")?;
    same!(invalid.get("cgroup.type")?, "domain invalid", "type of the group beside");
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let spawn = template.spawn().act(invalid.action());
    failing.both("an invalid group", &spawn, Failure::at(Stage::Create, libc::EOPNOTSUPP));
    failing.finish()?;
    let show = Template::child("show")?.spawn().act(threaded.action()).show()?;
    same!(show.get("cgroup"), threaded.name(), "the child's cgroup");
    Ok(())
}

fn users_may_not() -> Outcome {
    let group = Group::new("users")?;
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        let spawn = template.spawn().acts([Act::Close(500), group.action()]);
        failing.both("root's group", &spawn, Failure::at(Stage::Create, libc::EACCES));
        failing.finish()
    })?;
    // It is the caller who needs the right, before any action.
    let template = Template::child("nothing")?;
    same!(
        template.spawn().acts([Act::Setuid(12345), group.action()]).status()?,
        Status::Exited(0),
        "status with SETUID before CGROUP"
    );
    Ok(())
}

/// Delegation: a user may move within a subtree that is theirs.
fn users_may_in_their_own() -> Outcome {
    let subtree = Group::new("delegated")?;
    let (from, to) = (subtree.below("from")?, subtree.below("to")?);
    for group in [&subtree, &from, &to] {
        for file in [group.path.clone(), format!("{}/cgroup.procs", group.path)] {
            chown(&file, Some(12345), Some(12345))?;
        }
    }
    in_worker(|| {
        from.set("cgroup.procs", "0")?;
        os::become_user(12345)?;
        let show = Template::child("show")?.spawn().act(to.action()).show()?;
        same!(show.get("cgroup"), to.name(), "the child's cgroup");
        let root = File::open(ROOT)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        let out = template.spawn().act(Act::Cgroup(root.as_raw_fd()));
        failing.both("out of the subtree", &out, Failure::at(Stage::Create, libc::EACCES));
        failing.finish()
    })
}

fn group_of_the_caller() -> Outcome {
    let group = Group::new("own")?;
    in_worker(|| {
        group.set("cgroup.procs", "0")?;
        let show = Template::child("show")?.spawn().act(group.action()).show()?;
        same!(show.get("cgroup"), group.name(), "the child's cgroup");
        fs::write(format!("{ROOT}/cgroup.procs"), "0")?;
        Ok(())
    })
}

fn failing_action_leaves_group_empty() -> Outcome {
    let group = Group::new("empty")?;
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for _ in 0..20 {
        let spawn = template.spawn().acts([group.action(), Act::Dup2(900, 1)]);
        failing.both("a failing action", &spawn, Failure::action(1, libc::EBADF));
    }
    failing.finish()?;
    same!(group.procs()?, [0; 0], "processes in the group");
    same!(group.get("cgroup.events")?.contains("populated 0"), true, "emptiness of the group");
    fs::remove_dir(&group.path)?;
    Ok(())
}

/// Born there means that the actions happen there: what they open is what a member of the group sees.
fn actions_run_there() -> Outcome {
    let group = Group::new("actions")?;
    let template = Template::path("/bin/cat")?;
    let open = crate::template::Open::new("/proc/self/cgroup", libc::O_RDONLY, 0);
    let acts = [Act::Open(open), group.action()];
    let (status, output) = template.spawn().acts(acts).output()?;
    same!(status, Status::Exited(0), "cat's status");
    same!(String::from_utf8_lossy(&output).trim_end(), group.name(), "the cgroup in a file opened before");
    Ok(())
}
