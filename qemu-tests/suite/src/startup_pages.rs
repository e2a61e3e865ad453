//! What a child finds mapped of what its template has learned: what was learned and no more, for those who could have
//! learned it themselves, and at nobody's cost.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::control_group::Cgroup;
use crate::harness::{Outcome, in_worker, with_complaints};
use crate::landlock::restrict;
use crate::os::{self, Status};
use crate::template::{Act, Folder, Template, child};
use crate::{ensure, same, tests};

tests!("startup_pages":
    no_page_but_those_that_were_used, not_in_another_landlock_domain, in_the_same_landlock_domain,
    bss_is_for_userfaultfd, no_child_is_killed_for_them, first_child_faults_no_more,
    learned_before_exec, known_after_a_hard_link, learned_again_after_a_change, learned_again_soon,
    first_child_is_not_typical, written_by_the_kernel, not_in_another_pid_namespace, not_of_a_child_that_hides,
    record_of_another_is_replaced,
);

/// A template of a program that does what the library (see `children/library.c`) is told.
struct Program {
    template: Template,
    preload: String,
}

impl Program {
    fn new() -> Outcome<Self> {
        Ok(Self { template: Template::child("dynamic0")?, preload: format!("LD_PRELOAD={}", child("library.so")) })
    }

    /// With another copy of the library.
    fn with_library(path: &str) -> Outcome<Self> {
        Ok(Self { preload: format!("LD_PRELOAD={path}"), ..Self::new()? })
    }

    /// What it prints.
    #[track_caller]
    fn output(&self, arguments: &[&str]) -> Outcome<String> {
        let argv = [&["dynamic0"], arguments].concat();
        let (status, output) = self.template.spawn().argv(argv).envp([&self.preload]).output()?;
        same!(status, Status::Exited(0), "status with {arguments:?}");
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// The page faults that it takes.
    #[track_caller]
    fn faults(&self, arguments: &[&str]) -> Outcome<i64> {
        let before = os::faults_of_children()?;
        self.output(arguments)?;
        Ok(os::faults_of_children()? - before)
    }
}

/// A file of data, and what a program with the library says of its pages in a new mapping, and in a second one, after
/// another has read each fourth of 64.
struct Data {
    _folder: Folder,
    path: String,
}

/// What a child finds that may have what was learned, and one that may not.
const FOUND: &str = "16 0";
const NOTHING: &str = "0 0";

impl Data {
    fn new(name: &str) -> Outcome<Self> {
        let folder = Folder::new("/var/tmp", name)?;
        let path = folder.join("data");
        // Written in one piece, so that the page cache has it in large folios where the file system does that.
        // Its size is no multiple of a page's, as is that of most files, so what unmaps it names no whole pages.
        fs::write(&path, vec![b'x'; 64 * 4096 - 100])?;
        Ok(Self { _folder: folder, path })
    }

    fn learn(&self) -> Outcome<Program> {
        let program = Program::new()?;
        program.output(&["read", &self.path, "4"])?;
        Ok(program)
    }

    fn count(&self, program: &Program) -> Outcome<String> {
        program.output(&["count", &self.path])
    }
}

/// Exactly the pages that were read, and once in an address space.
fn no_page_but_those_that_were_used() -> Outcome {
    let data = Data::new("startup-exact")?;
    same!(data.count(&Program::new()?)?, NOTHING, "pages present of a file that nobody has read");
    same!(data.count(&data.learn()?)?, FOUND, "pages present after each fourth was read");
    Ok(())
}

/// A process in a Landlock domain, which could not look at the one that was learned from, is not told by its own child.
fn not_in_another_landlock_domain() -> Outcome {
    let data = Data::new("startup-landlock")?;
    let program = data.learn()?;
    in_worker(|| {
        restrict(&["/"])?;
        same!(data.count(&program)?, NOTHING, "pages present in a domain");
        Ok(())
    })?;
    // Nor the other way round.
    let program = Program::new()?;
    in_worker(|| {
        restrict(&["/"])?;
        program.output(&["read", &data.path, "4"])?;
        Ok(())
    })?;
    same!(data.count(&program)?, NOTHING, "pages present of what was read in a domain");
    Ok(())
}

fn in_the_same_landlock_domain() -> Outcome {
    let data = Data::new("startup-domain")?;
    in_worker(|| {
        restrict(&["/"])?;
        same!(data.count(&data.learn()?)?, FOUND, "pages present in the same domain");
        Ok(())
    })
}

/// No page of .bss is there before it is written, whatever another child has written.
fn bss_is_for_userfaultfd() -> Outcome {
    let program = Program::new()?;
    program.output(&["bss", "16"])?;
    for round in 0..2 {
        same!(program.output(&["uffd"])?, "0 16", "pages present and pages filled, round {round}");
    }
    Ok(())
}

/// In a control group with little memory a child that uses none of the pages known lives where one lives for which
/// nothing is known.
fn no_child_is_killed_for_them() -> Outcome {
    for way in ["look", "bss"] {
        let program = Program::new()?;
        program.output(&[way, "480"])?;
        lives_with_little_memory(&program)?;
    }
    Ok(())
}

fn lives_with_little_memory(program: &Program) -> Outcome {
    const STEP: usize = 256;
    let other = Template::not_learning("dynamic0")?;
    let group = Cgroup::new("startup", &["memory"])?;
    let folder = group.open()?;
    let lives = |template: &Template| -> Outcome<bool> {
        let act = Act::Cgroup(std::os::fd::AsRawFd::as_raw_fd(&folder));
        let spawn = template.spawn().envp([&program.preload]).act(act);
        for _ in 0..3 {
            if !matches!(spawn.status(), Ok(Status::Exited(0))) {
                return Ok(false);
            }
        }
        Ok(true)
    };

    let mut enough = None;
    for limit in (STEP..16 * STEP).step_by(STEP) {
        group.write("memory.max", &format!("{limit}K"))?;
        // With a step more, as page tables count as well.
        if enough.is_some() {
            ensure!(
                lives(&program.template)?,
                "a child is killed with {limit} KiB, one without the pages with {enough:?}"
            );
        } else if with_complaints(|| lives(&other))? {
            enough = Some(limit);
        }
    }
    ensure!(enough.is_some_and(|limit| limit < 8 * STEP), "{enough:?} KiB are needed without the pages");
    Ok(())
}

/// A template that is used once costs no more page faults than one that does not learn.
fn first_child_faults_no_more() -> Outcome {
    let preload = format!("LD_PRELOAD={}", child("library.so"));
    let first = |template: Template| -> Outcome<i64> {
        let before = os::faults_of_children()?;
        let spawn = template.spawn().argv(["dynamic0", "look", "480"]).envp([&preload]);
        same!(spawn.status()?, Status::Exited(0), "status");
        Ok(os::faults_of_children()? - before)
    };
    let learning = first(Template::child("dynamic0")?)?;
    let other = first(Template::not_learning("dynamic0")?)?;
    // The stack lies where chance puts it.
    ensure!(learning <= other + 4, "{learning} page faults of the first child, {other} without learning");
    Ok(())
}

/// What a program has used before it executes another one is known.
fn learned_before_exec() -> Outcome {
    let program = Program::new()?;
    program.output(&["exec", &child("nothing")])?;
    let pages = program.template.info()?.number("startup-pages")?;
    ensure!(pages >= 30, "{pages} pages are known");
    Ok(())
}

/// What makes the faults of a child few that reads 480 pages of the library's data, 30 without: that they are known.
const READS: [&str; 2] = ["look", "480"];

/// Less than that, and more than chance.
const MANY: i64 = 20;
const FEW: i64 = 10;

fn own_library(name: &str) -> Outcome<(Folder, String)> {
    let folder = Folder::tmp(name)?;
    let path = folder.copy("library.so")?;
    Ok((folder, path))
}

/// A link, a change of mode and the like say nothing of a file's contents.
fn known_after_a_hard_link() -> Outcome {
    let (folder, path) = own_library("startup-link")?;
    let program = Program::with_library(&path)?;
    program.output(&READS)?;
    let known = program.faults(&READS)?;
    fs::hard_link(&path, folder.join("another"))?;
    let later = program.faults(&READS)?;
    ensure!(later < known + FEW, "{known} page faults of a child, {later} after a link");
    Ok(())
}

/// What was learned of a file counts no more when its contents have changed, and is learned anew.
fn learned_again_after_a_change() -> Outcome {
    let (_folder, path) = own_library("startup-change")?;
    let program = Program::with_library(&path)?;
    let first = program.faults(&READS)?;
    // The fifth is not learned from, and the next one to be so is the eighth.
    let mut later = first;
    for _ in 2..=5 {
        later = program.faults(&READS)?;
        ensure!(later < first - MANY, "{first} page faults of the first child, {later} of a later one");
    }
    let before = SystemTime::now() - Duration::from_secs(100);
    File::options().write(true).open(&path)?.set_modified(before)?;
    let changed = program.faults(&READS)?;
    ensure!(changed > later + MANY, "{later} page faults of the fifth child, {changed} after the change");
    // The seventh is learned from.
    let seventh = program.faults(&READS)?;
    ensure!(seventh > later + MANY, "{later} page faults of the fifth child, {seventh} after the change");
    let again = program.faults(&READS)?;
    ensure!(again < later + FEW, "{later} page faults of the fifth child, {again} once it was learned again");
    Ok(())
}

/// A library that another one has replaced is learned within 16 children, however many there have been.
fn learned_again_soon() -> Outcome {
    let (_folder, path) = own_library("startup-replaced")?;
    let program = Program::with_library(&path)?;
    // The next one to be learned from is the 64th.
    for _ in 1..=32 {
        program.output(&READS)?;
    }
    let known = program.faults(&READS)?;
    let copy = format!("{path}.new");
    fs::copy(&path, &copy)?;
    fs::rename(&copy, &path)?;
    let changed = program.faults(&READS)?;
    ensure!(changed > known + MANY, "{known} page faults of a child, {changed} with another library");
    for _ in 35..=50 {
        program.output(&READS)?;
    }
    let again = program.faults(&READS)?;
    ensure!(again < known + FEW, "{known} page faults of a child, {again} once it was learned again");
    Ok(())
}

/// A first child that does something else is forgotten.
fn first_child_is_not_typical() -> Outcome {
    let program = Program::new()?;
    program.output(&[])?;
    let second = program.faults(&READS)?;
    let third = program.faults(&READS)?;
    ensure!(third < second - MANY, "{second} page faults of the second child, {third} of the third");
    Ok(())
}

/// What the kernel writes to a page by a pin, without marking it dirty, stays written when the page is reclaimed. In the
/// first child it is a page like any other, in later ones a copy that was made ahead.
fn written_by_the_kernel() -> Outcome {
    let folder = Folder::tmp("startup-pinned")?;
    let path = folder.join("input");
    fs::write(&path, vec![b'x'; 4096])?;
    let program = Program::new()?;
    for round in 0..4 {
        same!(program.output(&["pinned", &path])?, "x x", "before and after reclaim, round {round}");
    }
    Ok(())
}

/// A process that cannot even see the one that was learned from is told nothing of it.
fn not_in_another_pid_namespace() -> Outcome {
    let data = Data::new("startup-namespace")?;
    let program = data.learn()?;
    in_worker(|| {
        os::unshare(libc::CLONE_NEWPID)?;
        same!(data.count(&program)?, NOTHING, "pages present in another PID namespace");
        Ok(())
    })
}

/// Nothing is learned from a child that has confined itself, or was not dumpable for a while.
fn not_of_a_child_that_hides() -> Outcome {
    let data = Data::new("startup-hidden")?;
    for way in ["confined", "hidden"] {
        let program = Program::new()?;
        program.output(&[way, &data.path, "4"])?;
        same!(program.template.info()?.number("startup-pages")?, 0, "pages known of a child that is {way}");
    }
    Ok(())
}

/// What was learned in another domain is of no use, and does not stay.
fn record_of_another_is_replaced() -> Outcome {
    let program = Program::new()?;
    in_worker(|| {
        restrict(&["/"])?;
        for _ in 0..9 {
            program.output(&[])?;
        }
        Ok(())
    })?;
    same!(program.template.info()?.number("startup-pages")?, 0, "pages known that were learned in a domain");
    program.output(&[])?;
    ensure!(program.template.info()?.number("startup-pages")? > 0, "nothing is known of an own child");
    Ok(())
}
