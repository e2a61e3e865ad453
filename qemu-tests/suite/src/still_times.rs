//! A file may change without a trace in its times: then the headers that a template has of it are not used on what is new.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::harness::{Outcome, error_name};
use crate::image::Image;
use crate::os::{self, Status};
use crate::still_fs::StillFs;
use crate::template::{Folder, Template, set_mode};
use crate::{ensure, same, tests};

tests!("still_times": program, program_written_back, interpreter, unchanged_program);

/// Two programs of the same length: the second has its code further back, and where the first has its own, nothing.
fn pair(mut first: Image) -> [Vec<u8>; 2] {
    const ROOM: u64 = 64;
    // Code and statuses are 14 bytes at the entry.
    first.tail.resize(first.tail.len() + ROOM as usize, 0x0f);
    first.segments[0].filesz += ROOM;
    first.segments[0].memsz += ROOM;
    let (bytes, mut second) = (first.bytes(), first.clone());
    let code = 64 + 56 * first.segments.len();
    let new = bytes.len() - 32;
    second.entry += (new - code) as u64;
    let mut other = second.exiting(7).bytes();
    let moved = other[code..code + 14].to_vec();
    other[new..new + 14].copy_from_slice(&moved);
    // An instruction that does not exist.
    for at in (code..code + 14).step_by(2) {
        other[at..at + 2].copy_from_slice(&[0x0f, 0x0b]);
    }
    [bytes, other]
}

/// Longer than any times could be apart that are taken for different.
fn settle() {
    thread::sleep(Duration::from_millis(50));
}

/// By fork and execve.
fn executed(path: &str) -> Outcome<Status> {
    let pid = os::fork()?;
    if pid == 0 {
        os::execve(&os::c_path(path), &[c"child".to_owned()], &[]);
        os::exit_now(99);
    }
    Ok(os::waitpid(pid, 0)?.1)
}

/// The new program runs as after execve, or the spawn is refused; nothing in between.
#[track_caller]
fn new_or_refused(template: &Template, wanted: Status, what: &str) -> Outcome {
    match template.status() {
        Ok(status) => same!(status, wanted, "{what}"),
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
        Err(error) => ensure!(false, "{what}: {}", error_name(&error)),
    }
    Ok(())
}

fn program() -> Outcome {
    os::set_hard_rlimit(libc::RLIMIT_CORE, 0, 0)?;
    let fs = StillFs::mount("still-program", pair(Image::new(&[])))?;
    let path = fs.path();
    settle();
    let template = Template::path(&path)?;
    same!(template.status()?, Status::Exited(42), "the first program");
    settle();
    let before = fs::metadata(&path)?;
    fs.change(1);
    same!(executed(&path)?, Status::Exited(7), "the second program, by fork and execve");
    let after = fs::metadata(&path)?;
    same!((before.modified()?, before.len()), (after.modified()?, after.len()), "time and size of the file");
    for round in 1..=3 {
        new_or_refused(&template, Status::Exited(7), &format!("spawn {round} of the second program"))?;
    }
    same!(Template::path(&path)?.status()?, Status::Exited(7), "with a new template");
    Ok(())
}

/// And back again to what the template was made of.
fn program_written_back() -> Outcome {
    os::set_hard_rlimit(libc::RLIMIT_CORE, 0, 0)?;
    let fs = StillFs::mount("still-back", pair(Image::new(&[])))?;
    let template = Template::path(fs.path())?;
    for round in 0..6 {
        let which = round % 2;
        fs.change(which);
        settle();
        let wanted = Status::Exited(if which == 0 { 42 } else { 7 });
        new_or_refused(&template, wanted, &format!("round {round}"))?;
    }
    Ok(())
}

/// An interpreter that has changed is read as exec reads it.
fn interpreter() -> Outcome {
    os::set_hard_rlimit(libc::RLIMIT_CORE, 0, 0)?;
    let fs = StillFs::mount("still-interpreter", pair(Image::dynamic()))?;
    let folder = Folder::tmp("still-user")?;
    let path = folder.join("program");
    fs::write(&path, Image::with_interpreter(fs.path().as_bytes()).bytes())?;
    set_mode(&path, 0o755)?;
    settle();
    let template = Template::path(&path)?;
    for round in 1..=3 {
        same!(template.status()?, Status::Exited(42), "the first interpreter, spawn {round}");
        settle();
    }
    fs.change(1);
    same!(executed(&path)?, Status::Exited(7), "the second interpreter, by fork and execve");
    for round in 1..=3 {
        new_or_refused(&template, Status::Exited(7), &format!("spawn {round} with the second interpreter"))?;
    }
    Ok(())
}

/// A file that nobody changes is never refused.
fn unchanged_program() -> Outcome {
    let fs = StillFs::mount("still-unchanged", pair(Image::new(&[])))?;
    let template = Template::path(fs.path())?;
    let opens = fs.opens();
    for round in 1..=50 {
        same!(template.status()?, Status::Exited(42), "spawn {round}");
    }
    ensure!(fs.opens() >= opens + 50, "the file was not opened for each spawn: {} times", fs.opens() - opens);
    Ok(())
}
