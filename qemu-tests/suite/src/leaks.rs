//! Thousands of calls, good and bad, and what they leave in the kernel: nothing that grows with their number.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::harness::{Outcome, failed, refused};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Sched, Spawn, Template, set_mode};
use crate::{ensure, same, tests};

tests!("leaks":
    good_spawns [300], attributes [300], not_waited_for [300], killed_callers [300], failing_actions [300], refused_arguments [300], failing_exec [300], templates [300],
    refused_templates [300], large_arguments [300],
);

/// How often each call is made. Half of that is more than the free objects that slab caches keep for each of two
/// processors, 60 of a kind, and count as used.
const CALLS: u64 = 300;

/// Caches that say nothing: address ranges of kernel stacks are kept for a while after the stacks, by the hundred;
/// kmemleak has its own objects for each of them and for all others; and debugobjects keeps what it once needed.
const IGNORED: [&str; 4] = ["vmap_area", "kmemleak_object", "kmemleak_scan_area", "debug_objects_cache"];

/// What the kernel holds: objects in use per slab cache, open files, processes, and the lines of /proc/meminfo, in KiB.
struct Holdings {
    slabs: BTreeMap<String, u64>,
    files: u64,
    processes: u64,
    memory: BTreeMap<String, u64>,
}

/// One more, which /proc/meminfo lacks: free pages that processors keep for themselves, and that MemFree leaves out.
const KEPT: &str = "free with processors";

impl Holdings {
    /// The memory in use, in KiB.
    fn used(&self) -> u64 {
        let value = |name| self.memory.get(name).copied().unwrap_or_default();
        let free = ["MemFree", KEPT, "Cached", "Buffers"].map(value).iter().sum();
        value("MemTotal").saturating_sub(free)
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    let value = text.and_then(|text| text.parse().ok());
    value.ok_or_else(|| io::Error::other("a number in /proc is missing"))
}

fn holdings() -> io::Result<Holdings> {
    let mut slabs = BTreeMap::new();
    for line in fs::read_to_string("/proc/slabinfo")?.lines().skip(2) {
        let mut fields = line.split_whitespace();
        if let Some(name) = fields.next() {
            slabs.insert(name.to_owned(), number(fields.next())?);
        }
    }
    let files = number(fs::read_to_string("/proc/sys/fs/file-nr")?.split_whitespace().next())?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let processes = number(load.split_whitespace().nth(3).and_then(|field| field.split('/').nth(1)))?;
    let mut memory = BTreeMap::new();
    for line in fs::read_to_string("/proc/meminfo")?.lines() {
        let mut fields = line.split_whitespace();
        if let Some(name) = fields.next() {
            memory.insert(name.trim_end_matches(':').to_owned(), number(fields.next())?);
        }
    }
    memory.insert(KEPT.to_owned(), kept(&fs::read_to_string("/proc/zoneinfo")?)?);
    Ok(Holdings { slabs, files, processes, memory })
}

/// How much is free and kept by processors, in KiB: the counts of all "pagesets".
fn kept(zoneinfo: &str) -> io::Result<u64> {
    let counts = zoneinfo.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    let pages: Vec<u64> = counts.map(|count| number(Some(count.trim()))).collect::<io::Result<_>>()?;
    Ok(pages.iter().sum::<u64>() * 4)
}

/// Has the kernel let go of what is free but still held, such as by KASAN, which keeps freed objects for a while.
fn give_back() {
    for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten().flatten() {
        // Not every kernel has it.
        let _ = fs::write(cache.path().join("shrink"), "1");
    }
}

/// What has grown by more than half an object for each call.
fn growth(before: &Holdings, after: &Holdings) -> Vec<String> {
    let limit = CALLS / 2;
    let mut grown: Vec<String> = after
        .slabs
        .iter()
        .map(|(name, &now)| (name, now.saturating_sub(before.slabs.get(name).copied().unwrap_or_default())))
        .filter(|&(name, more)| more > limit && !IGNORED.contains(&name.as_str()))
        .map(|(name, more)| format!("{more} objects of {name}"))
        .collect();
    for (what, was, is) in [("open files", before.files, after.files), ("processes", before.processes, after.processes)]
    {
        if is.saturating_sub(was) > limit {
            grown.push(format!("{} {what}", is - was));
        }
    }
    // One MiB is usual. This finds what takes four pages a call; the random calls of guest-fuzz find less.
    // What KASAN and kmemleak keep is more, but kmemleak itself finds leaks.
    let more = after.used().saturating_sub(before.used());
    if more > CALLS * 2 + 4096 && !Path::new("/sys/kernel/debug/kmemleak").exists() {
        grown.push(format!("{more} KiB of memory ({})", changes(&before.memory, &after.memory)));
    }
    grown
}

/// The lines that differ, each with by how much.
fn changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let change = |name: &String, is: u64| is.wrapping_sub(before.get(name).copied().unwrap_or_default()) as i64;
    let changes = after.iter().map(|(name, &is)| (name, change(name, is))).filter(|&(_, change)| change != 0);
    changes.map(|(name, change)| format!("{name} {change:+}")).collect::<Vec<_>>().join(", ")
}

/// Calls `body` [`CALLS`] times and wants nothing to have grown with that number.
fn repeated(mut body: impl FnMut() -> Outcome) -> Outcome {
    // Caches fill up first.
    for _ in 0..CALLS / 4 {
        body()?;
    }
    // Once before, because its files in sysfs take memory themselves.
    give_back();
    let before = holdings()?;
    for _ in 0..CALLS {
        body()?;
    }
    ensure!(!os::has_children()?, "a child is left");
    // Much is freed a little later, after an RCU grace period.
    let mut grown = Vec::new();
    for _ in 0..100 {
        grown = growth(&before, &holdings()?);
        if grown.is_empty() {
            return Ok(());
        }
        give_back();
        std::thread::sleep(Duration::from_millis(250));
    }
    Err(failed(format!("after {CALLS} calls there are more: {}", grown.join(", "))))
}

fn good_spawns() -> Outcome {
    let template = Template::child("nothing")?;
    let file = File::open("/etc/passwd")?;
    let plain = template.spawn();
    let busy = template.spawn().acts([
        Act::Dup2(file.as_raw_fd(), 5),
        Act::Open(Open::new("/dev/null", libc::O_RDONLY, 6)),
        Act::Sigmask(1),
        Act::CloseRange(100, -1, 0),
    ]);
    let inheriting = busy.clone().inherit_fds();
    let spawns = [plain, busy, inheriting];
    let mut round = 0;
    repeated(|| {
        round += 1;
        spawns[round % 3].status()?;
        Ok(())
    })
}

/// Actions that keep something: paths, groups, a scheduling structure, terminals, a cgroup.
fn with_attributes<'a>(template: &'a Template, tty: &OwnedFd, cgroup: &File) -> Spawn<'a> {
    template.spawn().acts([
        Act::chdir("/usr"),
        Act::Setsid,
        Act::Setctty(tty.as_raw_fd()),
        Act::Tcsetpgrp(tty.as_raw_fd()),
        Act::Cgroup(cgroup.as_raw_fd()),
        Act::Rlimit(libc::RLIMIT_NOFILE, 100, 100),
        Act::Sched(Sched { nice: 3, ..Sched::default() }),
        Act::Setgroups((0..1000).collect()),
        Act::Setgid(1000),
        Act::Setuid(1000),
        Act::Sigignore(1),
    ])
}

/// Half of them fail after all their actions.
fn attributes() -> Outcome {
    let template = Template::child("nothing")?;
    let (_master, tty, _) = crate::session::pty()?;
    let cgroup = File::open("/sys/fs/cgroup")?;
    let good = with_attributes(&template, &tty, &cgroup);
    let bad = good.clone().act(Act::Setuid(0));
    let wrong = good.clone().act(Act::Setuid(u64::MAX));
    repeated(|| {
        same!(good.status()?, Status::Exited(0), "status");
        refused("SETUID", bad.run(), libc::EPERM)?;
        refused("SETUID", wrong.run(), libc::EINVAL)?;
        same!(good.clone().inherit_fds().status()?, Status::Exited(0), "status, inheriting");
        Ok(())
    })
}

/// NOWAIT, with and without a failure that comes later.
fn not_waited_for() -> Outcome {
    let template = Template::child("nothing")?;
    let good = template.spawn().acts([Act::chdir("/usr"), Act::Setgroups(vec![1, 2, 3])]).nowait();
    let bad = good.clone().act(Act::Dup2(999, 1));
    repeated(|| {
        same!(good.status()?, Status::Exited(0), "status");
        same!(bad.status()?, Status::Exited(127), "status of a failure");
        same!(bad.clone().inherit_fds().status()?, Status::Exited(127), "status of a failure, inheriting");
        Ok(())
    })
}

/// Callers that die while their child is blocked in an action.
fn killed_callers() -> Outcome {
    let folder = Folder::tmp("leak-killed")?;
    let path = folder.join("fifo");
    os::mkfifo(&path)?;
    let template = Template::child("nothing")?;
    let argv = ["an argument"; 20];
    let spawn = template.spawn().argv(argv).acts([Act::chdir("/usr"), Act::Setgroups(vec![1, 2, 3])]);
    let spawn = spawn.open(Open::new(&path, libc::O_RDONLY, 5));
    repeated(|| {
        let worker = os::fork()?;
        if worker == 0 {
            let _ = spawn.run();
            os::exit_now(3);
        }
        let children = format!("/proc/{worker}/task/{worker}/children");
        while fs::read_to_string(&children)?.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        os::kill(worker, libc::SIGKILL)?;
        os::reap_all()?;
        Ok(())
    })
}

/// Repeats spawns that all fail with an error of their own.
fn failing(spawns: &[(Spawn<'_>, i32)]) -> Outcome {
    let mut round = 0;
    repeated(|| {
        round += 1;
        let (spawn, error) = &spawns[round % spawns.len()];
        refused("spawn", spawn.run(), *error)
    })
}

fn failing_actions() -> Outcome {
    let template = Template::child("nothing")?;
    let placed = [Act::Dup2(0, 5), Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, 6)), Act::Sigmask(1)];
    let spawn = template.spawn().acts(placed);
    failing(&[
        (spawn.clone().act(Act::Dup2(999, 1)), libc::EBADF),
        (spawn.clone().act(Act::Fchdir(0)), libc::ENOTDIR),
        (spawn.clone().open(Open::new("/missing", libc::O_RDONLY, 7)), libc::ENOENT),
        (spawn.inherit_fds().act(Act::Dup2(999, 1)), libc::EBADF),
    ])
}

fn refused_arguments() -> Outcome {
    let template = Template::child("nothing")?;
    let spawn = template.spawn().acts([Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, 6)), Act::Sigmask(1)]);
    let mut round = 0;
    repeated(|| {
        round += 1;
        match round % 5 {
            0 => refused("argv", spawn.run_changed(|args| args.argv = 1), libc::EFAULT),
            1 => refused("envp", spawn.run_changed(|args| args.envp = 1), libc::EFAULT),
            2 => refused("pidfd", spawn.run_changed(|args| args.pidfd = 1), libc::EFAULT),
            3 => refused("last action", spawn.clone().act(Act::Close(-1)).run(), libc::EINVAL),
            _ => refused("reserved", spawn.run_changed(|args| args.reserved[2] = 1), libc::EINVAL),
        }
    })
}

fn failing_exec() -> Outcome {
    let folder = Folder::tmp("leak-exec")?;
    let path = folder.copy("nothing")?;
    let stale = Template::path(&path)?;
    set_mode(&path, 0o711)?;
    let busy_path = folder.copy("static0")?;
    let busy = Template::path(&busy_path)?;
    let _writer = File::options().write(true).open(&busy_path)?;
    let arguments = ["an argument"; 20];
    failing(&[
        (stale.spawn().argv(arguments), libc::ESTALE),
        (busy.spawn().argv(arguments), libc::ETXTBSY),
        (busy.spawn().argv(arguments).inherit_fds(), libc::ETXTBSY),
    ])
}

fn templates() -> Outcome {
    let file = File::open(crate::template::child("dynamic0"))?;
    repeated(|| {
        drop(Template::child("dynamic0")?);
        drop(Template::of_fd(&file)?);
        Ok(())
    })
}

fn refused_templates() -> Outcome {
    let folder = Folder::tmp("leak-create")?;
    let text = folder.join("text");
    fs::write(&text, "no program".repeat(100))?;
    set_mode(&text, 0o755)?;
    let cut = folder.copy("dynamic0")?;
    File::options().write(true).open(&cut)?.set_len(600)?;
    repeated(|| {
        refused("text", Template::path(&text), libc::ENOEXEC)?;
        refused("cut off", Template::path(&cut), libc::ENOEXEC)?;
        refused("missing", Template::path("/missing"), libc::ENOENT)?;
        refused("folder", Template::path("/"), libc::EACCES)
    })
}

/// A hundred pages of arguments each, for spawns that fail after they were copied.
fn large_arguments() -> Outcome {
    let template = Template::child("nothing")?;
    let long = "x".repeat(100_000);
    let argv = [long.as_str(); 4];
    let failing = template.spawn().argv(argv).act(Act::Dup2(999, 1));
    let good = template.spawn().argv(argv);
    repeated(|| {
        refused("failing action", failing.run(), libc::EBADF)?;
        refused("bad envp", good.run_changed(|args| args.envp = 1), libc::EFAULT)?;
        good.status()?;
        Ok(())
    })
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn free_pages_of_all_processors_count() {
        let zoneinfo = "Node 0, zone      DMA\n  pages free     3840\n  pagesets\n    cpu: 0\n              count:    3\n              \
                        high:     14\n              batch:    1\n    cpu: 1\n              count:    4\n";
        assert_eq!(kept(zoneinfo).unwrap(), 28);
        assert!(kept("count: many").is_err());
    }

    #[test]
    fn lines_that_differ_are_named() {
        let lines = |pairs: &[(&str, u64)]| pairs.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let (before, after) = (lines(&[("Less", 9), ("Same", 1)]), lines(&[("Less", 2), ("More", 3), ("Same", 1)]));
        assert_eq!(changes(&before, &after), "Less -7, More +3");
    }
}
