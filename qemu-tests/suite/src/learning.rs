//! What a template learns from some of its children, and what others make of it: fewer page faults, and nothing else.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;

use spawn_template::uapi;

use crate::harness::{Outcome, in_worker};
use crate::hold::state;
use crate::os::{self, Status};
use crate::show::Show;
use crate::template::{Act, CreateArgs, Folder, Template, child, create, set_mode, show_by_exec};
use crate::{ensure, same, tests};

tests!("learning":
    nothing_before_the_first_child_ends, known_after_the_first_child, later_children_fault_less,
    small_program_on_a_disk, switched_off, switched_off_by_fd, later_children_see_no_difference,
    failing_spawn_teaches_nothing, killed_children, learned_while_others_run, set_user_id_program, unreadable_program,
    child_that_is_another_user, first_child_is_another_user, library_that_shrinks, file_of_data, written_pages_are_the_childs_own, template_closed_under_a_learning_child, many_callers,
);

/// How many pages a template knows.
fn known(template: &Template) -> Outcome<u64> {
    template.info()?.number("startup-pages")
}

/// The page faults of one child.
fn faults(template: &Template) -> Outcome<i64> {
    let before = os::faults_of_children()?;
    same!(template.status()?, Status::Exited(0), "status");
    Ok(os::faults_of_children()? - before)
}

fn nothing_before_the_first_child_ends() -> Outcome {
    let template = Template::child("sleep")?;
    same!(known(&template)?, 0, "pages of a new template");
    let running = template.spawn().arg("1").run()?;
    same!(known(&template)?, 0, "pages while the first child runs");
    same!(running.wait()?, Status::Exited(0), "status");
    ensure!(known(&template)? > 0, "nothing is known after it has ended");
    Ok(())
}

fn known_after_the_first_child() -> Outcome {
    for (name, least, most) in [("nothing", 1, 4), ("static0", 5, 200), ("dynamic0", 30, 400)] {
        let template = Template::child(name)?;
        same!(template.status()?, Status::Exited(0), "status");
        for round in 0..4 {
            let pages = known(&template)?;
            ensure!((least..=most).contains(&pages), "{name}, round {round}: {pages} pages are known");
            same!(template.status()?, Status::Exited(0), "status");
        }
    }
    Ok(())
}

fn later_children_fault_less() -> Outcome {
    for name in ["static0", "dynamic0"] {
        let (learning, other) = (Template::child(name)?, Template::not_learning(name)?);
        let first = faults(&learning)?;
        let usual = faults(&other)?.min(faults(&other)?);
        let later = faults(&learning)?.max(faults(&learning)?);
        ensure!(later < usual * 3 / 4, "{name}: {first} faults at first, {later} later, {usual} without learning");
    }
    Ok(())
}

/// All of a file that is one folio of the page cache, where nothing else is mapped near: the page of its code is there
/// before it is touched.
fn small_program_on_a_disk() -> Outcome {
    let folder = Folder::new("/var/tmp", "learning-small")?;
    let template = Template::path(folder.copy("nothing")?)?;
    same!(template.status()?, Status::Exited(0), "status");
    // Its stack is where chance puts it: a fault or two if that is at the edge of a page, none if not.
    for _ in 0..50 {
        if faults(&template)? == 0 {
            return Ok(());
        }
    }
    ensure!(false, "none of 50 children came without a fault");
    Ok(())
}

fn switched_off() -> Outcome {
    let template = Template::not_learning("dynamic0")?;
    for _ in 0..3 {
        same!(template.status()?, Status::Exited(0), "status");
        same!(known(&template)?, 0, "pages");
    }
    Ok(())
}

fn switched_off_by_fd() -> Outcome {
    let file = File::open(child("dynamic0"))?;
    let flags = uapi::SPAWN_TEMPLATE_CREATE_NO_LEARNING.into();
    let template = create(&CreateArgs { flags, execfd: file.as_raw_fd(), ..Default::default() })?;
    same!(template.status()?, Status::Exited(0), "status");
    same!(known(&template)?, 0, "pages");
    Ok(())
}

/// Everything a process can learn about itself, but for what is its own: the same after exec, and in the first and in
/// later children of a template.
fn later_children_see_no_difference() -> Outcome {
    let lines = |show: &Show| show.without_prefix("own.");
    for name in ["report", "report-static", "first"] {
        let path = os::c_path(child(name));
        let executed = show_by_exec(|| os::execve(&path, &[c"child".to_owned()], &[]))?;
        let template = Template::child(name)?;
        for round in 0..3 {
            same!(lines(&template.spawn().show()?), lines(&executed), "what child {round} of {name} says");
        }
    }
    Ok(())
}

fn failing_spawn_teaches_nothing() -> Outcome {
    let template = Template::child("dynamic0")?;
    let limit = Act::Dup2(999, 1);
    ensure!(template.spawn().act(limit).run().is_err(), "a wrong action was accepted");
    same!(known(&template)?, 0, "pages after a failure");
    same!(template.status()?, Status::Exited(0), "status");
    ensure!(known(&template)? > 0, "the failure keeps the template from learning");
    Ok(())
}

/// A child that a signal ends at once is not learned from, unless two others have been before it.
fn killed_children() -> Outcome {
    let mut young = false;
    // A child may have had its second before it is killed, on a machine that has no time.
    for _ in 0..5 {
        let template = Template::child("sleep")?;
        let mut after = [0; 4];
        for pages in &mut after {
            let child = template.spawn().run()?;
            // It has to have used some pages.
            while state(child.pid)? != 'S' {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            // Killed when dropped.
            drop(child);
            *pages = known(&template)?;
        }
        ensure!(after[2] > 0 && after[3] == after[2], "pages after 1, 2, 3, 4 killed children: {after:?}");
        young |= after[1] == 0;
    }
    ensure!(young, "a template always learns from a child that was killed at once");
    Ok(())
}

/// Four children of a new template, all running at the same time: one of them is learned from.
fn learned_while_others_run() -> Outcome {
    let template = Template::child("sleep")?;
    let children = (0..4).map(|_| template.spawn().arg("1").run()).collect::<Result<Vec<_>, _>>()?;
    for child in children {
        same!(child.wait()?, Status::Exited(0), "status");
    }
    ensure!(known(&template)? > 0, "nothing is known after they have ended");
    Ok(())
}

/// Which pages a program touches is its user's business: nothing is learned from one that has more rights than its
/// caller.
fn set_user_id_program() -> Outcome {
    let folder = Folder::new("/var/tmp", "learning-setuid")?;
    let path = folder.copy("static0")?;
    chown(&path, Some(777), None)?;
    set_mode(&path, 0o4755)?;
    teaches_nothing(&Template::path(&path)?)
}

/// Nor from one that its user may execute and not read.
fn unreadable_program() -> Outcome {
    let folder = Folder::new("/var/tmp", "learning-unreadable")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("static0")?;
    set_mode(&path, 0o711)?;
    in_worker(|| {
        os::become_user(12345)?;
        teaches_nothing(&Template::path(&path)?)
    })
}

fn teaches_nothing(template: &Template) -> Outcome {
    for round in 0..3 {
        same!(template.status()?, Status::Exited(0), "status of child {round}");
        same!(known(template)?, 0, "pages after child {round}");
    }
    Ok(())
}

/// What was learned from a child is for children with the same ids.
fn child_that_is_another_user() -> Outcome {
    let template = Template::child("dynamic0")?;
    same!(template.status()?, Status::Exited(0), "status");
    ensure!(known(&template)? > 0, "nothing is known");
    let faults_as = |id: u64| -> Outcome<i64> {
        let before = os::faults_of_children()?;
        same!(template.spawn().act(Act::Setuid(id)).status()?, Status::Exited(0), "status");
        Ok(os::faults_of_children()? - before)
    };
    let (own, others) = (faults_as(0)?, faults_as(12345)?);
    ensure!(own < others * 3 / 4, "{own} faults as the same user, {others} as another");
    // It was learned from in its turn.
    let again = faults_as(12345)?;
    ensure!(again < others * 3 / 4, "{others} faults as another user, {again} as that user again");
    Ok(())
}

/// What counts is the child that was learned from last: one that is another user does not spoil a template.
fn first_child_is_another_user() -> Outcome {
    let template = Template::child("dynamic0")?;
    same!(template.spawn().act(Act::Setuid(12345)).status()?, Status::Exited(0), "status of the first child");
    let second = faults(&template)?;
    let third = faults(&template)?;
    ensure!(third < second * 3 / 4, "{second} faults of the second child, {third} of the third");
    Ok(())
}

/// What was learned of a file that is shorter now is left to faults, and harms nobody.
fn library_that_shrinks() -> Outcome {
    let folder = Folder::tmp("learning-library")?;
    let library = folder.join("libnothing.so");
    // Big enough to have pages that go, and loaded for nothing but its name.
    fs::copy("/lib/x86_64-linux-gnu/libm.so.6", &library)?;
    let template = Template::child("dynamic0")?;
    let preload = format!("LD_PRELOAD={library}");
    let spawn = template.spawn().envp([preload.as_str()]);
    same!(spawn.status()?, Status::Exited(0), "status with the library");
    same!(spawn.status()?, Status::Exited(0), "status with the library, again");
    File::options().write(true).open(&library)?.set_len(100)?;
    let status = spawn.status()?;
    ensure!(matches!(status, Status::Exited(0) | Status::Exited(127)), "with a library that was cut off: {status:?}");
    fs::remove_file(&library)?;
    same!(spawn.status()?, Status::Exited(0), "status without the library");
    Ok(())
}

/// Pages of any file that is mapped privately and only read are known as well, by this file alone.
fn file_of_data() -> Outcome {
    const PAGES: usize = 32;
    let folder = Folder::tmp("learning-data")?;
    let [first, second] = ["first", "second"].map(|name| folder.join(name));
    let template = Template::child("read-mapped")?;
    let read = |path: &str| template.spawn().argv(["read-mapped", path]).status();
    for path in [&first, &second] {
        fs::write(path, vec![b'x'; PAGES * 4096])?;
    }
    same!(read(&first)?, Status::Exited(0), "status of the first child");
    ensure!(known(&template)? >= PAGES as u64 + 10, "only {} pages are known", known(&template)?);
    for path in [&first, &second, &first] {
        same!(read(path)?, Status::Exited(0), "status with {path}");
    }
    // Whatever is known, it is the file's contents that are seen.
    fs::write(&first, vec![b'y'; PAGES * 4096])?;
    same!(read(&first)?, Status::Exited(3), "status after the file was written");
    fs::write(&first, b"x")?;
    same!(read(&first)?, Status::Exited(0), "status after the file was cut off");
    Ok(())
}

/// Private copies that are made ahead are as private as others: the file does not change.
fn written_pages_are_the_childs_own() -> Outcome {
    let folder = Folder::tmp("learning-private")?;
    let path = folder.copy("report")?;
    let before = fs::read(&path)?;
    let template = Template::path(&path)?;
    for _ in 0..3 {
        template.spawn().show()?;
    }
    ensure!(fs::read(&path)? == before, "the executable has changed");
    Ok(())
}

fn template_closed_under_a_learning_child() -> Outcome {
    let template = Template::child("sleep")?;
    let first = template.spawn().run()?;
    let second = template.spawn().run()?;
    drop(template);
    drop((first, second));
    Ok(())
}

/// Processes that use one template at the same time, from its first child on.
fn many_callers() -> Outcome {
    for _ in 0..3 {
        let template = Template::child("dynamic0")?;
        in_worker(|| {
            std::thread::scope(|scope| {
                let spawn_some = || (0..10).all(|_| matches!(template.status(), Ok(Status::Exited(0))));
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(spawn_some)).collect();
                let good = threads.into_iter().all(|thread| thread.join().unwrap_or(false));
                ensure!(good, "a child did not end well");
                Ok(())
            })
        })?;
        ensure!(known(&template)? > 0, "nothing was learned");
    }
    Ok(())
}
