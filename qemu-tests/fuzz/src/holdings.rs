//! What the kernel holds, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

/// Counts of what a call could leave behind.
pub struct Holdings {
    /// Objects in use per slab cache.
    slabs: BTreeMap<String, u64>,
    /// Pages of some kinds, from /proc/vmstat.
    pages: BTreeMap<String, u64>,
    /// Memory in use, in KiB.
    memory: u64,
    /// Open files in the system.
    files: u64,
    /// What must not differ at all.
    exact: BTreeMap<&'static str, u64>,
}

/// Kinds of pages that belong to processes.
const PAGES: [&str; 3] = ["nr_page_table_pages", "nr_kernel_stack", "nr_anon_pages"];

/// Caches that say nothing: address ranges of kernel stacks are kept for a while after the stacks, by the hundred, and
/// kmemleak has its own objects for each of them and for all others; and debugobjects keeps what it once needed for those
/// whose lives it watches.
const IGNORED: [&str; 4] = ["vmap_area", "kmemleak_object", "kmemleak_scan_area", "debug_objects_cache"];

/// The caches in whose objects a process, a template or a spawn consists; a few more may be in use per processor.
const OURS: [&str; 10] = [
    "task_struct",
    "mm_struct",
    "files_cache",
    "fs_cache",
    "signal_cache",
    "sighand_cache",
    "pid",
    "cred_jar",
    "kmalloc-cg-512",
    "kmalloc-cg-1k",
];

fn numbers(path: &str, skip: usize) -> io::Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path)?;
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.trim_end_matches(':').to_owned(), fields.next()?.parse().ok()?))
    };
    Ok(text.lines().skip(skip).filter_map(line).collect())
}

fn first_number(path: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let number = text.split_whitespace().next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{path} holds no number: {text:?}")))
}

/// How many KiB are free and kept by processors for themselves, which MemFree leaves out: each may keep dozens of MiB.
fn kept() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/zoneinfo")?;
    let counts = text.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    Ok(counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>() * 4)
}

/// Processes that are no kernel threads.
fn processes() -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        // It may have ended by now.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).unwrap_or("");
        count += u64::from(parent != "2" && name != "2");
    }
    Ok(count)
}

/// How many milliseconds what is freed after an RCU grace period may take until it is; times SPAWN_TEMPLATE_SLOW.
const GRACE: u64 = 100;

/// Has the kernel give back what it only keeps for later: pages and names, then the objects that it keeps per processor.
/// Some of both are freed after a grace period only, and then are kept again.
fn settle(slow: u64) {
    fs::write("/proc/sys/vm/drop_caches", "3").ok();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(GRACE * slow));
        for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten().flatten() {
            fs::write(cache.path().join("shrink"), "1").ok();
        }
    }
}

impl Holdings {
    /// Counts, after what is kept for later has been given back as far as that can be had.
    pub fn count(slow: u64) -> io::Result<Holdings> {
        settle(slow);
        let memory = numbers("/proc/meminfo", 0)?;
        let memory = |name: &str| memory.get(name).copied().unwrap_or_default();
        let unused = memory("MemFree") + kept()? + memory("Cached") + memory("Buffers");
        let mut pages = numbers("/proc/vmstat", 0)?;
        pages.retain(|name, _| PAGES.contains(&name.as_str()));
        // What reads a folder has it open.
        let own_files = fs::read_dir("/proc/self/fd")?.count() as u64;
        Ok(Holdings {
            slabs: numbers("/proc/slabinfo", 2)?,
            pages,
            memory: memory("MemTotal").saturating_sub(unused),
            files: first_number("/proc/sys/fs/file-nr")?,
            exact: BTreeMap::from([
                ("processes", processes()?),
                ("mounts", fs::read_to_string("/proc/self/mountinfo")?.lines().count() as u64),
                ("own descriptors", own_files),
                ("references to the module", first_number("/sys/module/spawn_template/refcnt")?),
                ("cgroups", fs::read_dir("/sys/fs/cgroup")?.count() as u64),
            ]),
        })
    }

    /// What is different after `calls` calls. What is counted per processor, or kept for a while, may differ a little,
    /// but not by anything like one for each thousand calls.
    pub fn differences(&self, after: &Holdings, calls: u64) -> Vec<String> {
        let mut found = Vec::new();
        for (what, was) in &self.exact {
            let is = after.exact.get(what).copied().unwrap_or_default();
            if is != *was {
                found.push(format!("{was} {what} before, {is} after"));
            }
        }
        for (name, &is) in &after.slabs {
            let was = self.slabs.get(name).copied().unwrap_or_default();
            let few = if OURS.contains(&name.as_str()) { 64 } else { 256 };
            if is > was + few + calls / 1000 && !IGNORED.contains(&name.as_str()) {
                found.push(format!("{was} objects of {name} before, {is} after"));
            }
        }
        for (name, &is) in &after.pages {
            let was = self.pages.get(name).copied().unwrap_or_default();
            if is > was + 256 {
                found.push(format!("{name} was {was}, is {is}"));
            }
        }
        if after.files > self.files + 64 + calls / 1000 {
            found.push(format!("{} open files before, {} after", self.files, after.files));
        }
        if after.memory > self.memory + 16_384 + calls / 4 {
            found.push(format!("{} KiB of memory in use before, {} after", self.memory, after.memory));
        }
        found
    }

    /// The slab caches that have most objects more than before, for people.
    pub fn grown(&self, after: &Holdings) -> String {
        let more = |(name, &is): (&String, &u64)| {
            let was = self.slabs.get(name).copied().unwrap_or_default();
            (is > was).then(|| (is - was, name.clone()))
        };
        let mut grown: Vec<_> = after.slabs.iter().filter_map(more).collect();
        grown.sort_unstable_by(|one, other| other.cmp(one));
        let shown: Vec<_> = grown.iter().take(8).map(|(more, name)| format!("{name} {more}")).collect();
        shown.join(", ")
    }

    /// The counts of a few things, for people.
    pub fn summary(&self) -> String {
        let slab = |name: &str| self.slabs.get(name).copied().unwrap_or_default();
        let exact: Vec<String> = self.exact.iter().map(|(what, count)| format!("{count} {what}")).collect();
        format!(
            "{}, {} open files, {} KiB, task_struct {}, mm_struct {}, filp {}, pid {}, radix_tree_node {}",
            exact.join(", "),
            self.files,
            self.memory,
            slab("task_struct"),
            slab("mm_struct"),
            slab("filp"),
            slab("pid"),
            slab("radix_tree_node")
        )
    }
}
