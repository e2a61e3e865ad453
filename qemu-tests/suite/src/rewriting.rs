//! Somebody writes to the executable all the time: a spawn runs the version its template was made of, or fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Outcome, error_name, failed, refused};
use crate::image::Image;
use crate::os::{self, Status};
use crate::template::{Folder, Open, Template, child, set_mode};
use crate::{ensure, same, tests};

tests!("rewriting":
    in_place_on_tmpfs [300], in_place_on_ext4 [300], by_rename_on_tmpfs [300], by_rename_on_ext4 [300],
    templates_refuse_no_write, running_children_refuse_writes_as_after_exec, written_before_the_child_gets_to_exec,
);

/// Size of version 0.
const BASE_SIZE: usize = 134;
/// Where the exit code stands in the file: the operand of the second instruction.
const CODE_AT: usize = 126;

/// A program that exits with `number`, in a file of [`BASE_SIZE`] and `number` bytes.
fn version(number: u8) -> Vec<u8> {
    let mut program = Image::new(&[]).bytes();
    program[CODE_AT] = number;
    program.resize(BASE_SIZE + usize::from(number), 0);
    program
}

/// Spawns while a thread replaces the program by other versions of it, until both sides have had their turns. How long
/// that takes is the kernel's and the disk's matter.
fn rewritten(parent: &str, replace: fn(&Folder, &str, &[u8]) -> io::Result<()>) -> Outcome {
    let folder = Folder::new(parent, "rewriting")?;
    let path = folder.join("program");
    fs::write(&path, version(1))?;
    set_mode(&path, 0o755)?;
    let stop = AtomicBool::new(false);
    let (started, stale, replaced) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let spawns = || started.load(Ordering::Relaxed) + stale.load(Ordering::Relaxed);
    let spawn_some = || -> Outcome {
        while [(&started, 150), (&stale, 30), (&replaced, 50)]
            .iter()
            .any(|(n, wanted)| n.load(Ordering::Relaxed) < *wanted)
        {
            let template = match Template::path(&path) {
                Ok(template) => template,
                // The writer has it open.
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {
                    thread::yield_now();
                    continue;
                }
                Err(e) => return Err(failed(format!("making a template: {}", error_name(&e)))),
            };
            let wanted = template.info()?.number("size")? as i32 - BASE_SIZE as i32;
            for _ in 0..4 {
                match template.status() {
                    Ok(status) => {
                        same!(status, Status::Exited(wanted), "status of a child of version {wanted}");
                        started.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {
                        stale.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {}
                    Err(e) => return Err(failed(format!("spawning version {wanted}: {}", error_name(&e)))),
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> io::Result<()> {
            for number in (2..=250).cycle() {
                match replace(&folder, &path, &version(number)) {
                    // A spawn is executing it, or somebody makes a template.
                    Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {}
                    result => {
                        result?;
                        replaced.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // A few spawns, not always the same number of them, and then at any moment of the next.
                let (before, wanted) = (spawns(), u32::from(number) % 7);
                while spawns().wrapping_sub(before) < wanted && !stop.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_micros(u64::from(number) % 29 * 100));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        });
        let result = spawn_some();
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| failed("the writer panicked"))??;
        result
    })
}

/// Writes the new version over the old one.
fn in_place(_: &Folder, path: &str, program: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(program.len() as u64)?;
    file.write_all_at(program, 0)
}

/// Puts a new file in the place of the old one.
fn by_rename(folder: &Folder, path: &str, program: &[u8]) -> io::Result<()> {
    let next = folder.join("next");
    fs::write(&next, program)?;
    set_mode(&next, 0o755)?;
    fs::rename(next, path)
}

fn in_place_on_tmpfs() -> Outcome {
    rewritten("/tmp", in_place)
}

fn in_place_on_ext4() -> Outcome {
    rewritten("/var/tmp", in_place)
}

fn by_rename_on_tmpfs() -> Outcome {
    rewritten("/tmp", by_rename)
}

fn by_rename_on_ext4() -> Outcome {
    rewritten("/var/tmp", by_rename)
}

/// Opening for writing, as a test of whether it is refused.
fn open_for_writing(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Nobody who writes notices that there is a template, used or not.
fn templates_refuse_no_write() -> Outcome {
    for parent in ["/tmp", "/var/tmp"] {
        let folder = Folder::new(parent, "rewriting-free")?;
        let path = folder.copy("nothing")?;
        let (by_path, by_fd) = (Template::path(&path)?, Template::of_fd(&File::open(&path)?)?);
        drop(open_for_writing(&path)?);
        for template in [&by_path, &by_fd] {
            // Opening for writing alone is no change.
            same!(template.status()?, Status::Exited(0), "status");
            drop(open_for_writing(&path)?);
        }
        File::options().append(true).open(&path)?.set_len(10)?;
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// While a child runs its file cannot be written, exactly as after execve; and afterwards it can.
fn running_children_refuse_writes_as_after_exec() -> Outcome {
    for parent in ["/tmp", "/var/tmp"] {
        let folder = Folder::new(parent, "rewriting-running")?;
        let path = folder.copy("sleep")?;
        let template = Template::path(&path)?;
        let child = template.spawn().run()?;
        refused("while a spawned child runs", open_for_writing(&path), libc::ETXTBSY)?;
        os::kill(child.pid, libc::SIGKILL)?;
        child.wait()?;
        drop(open_for_writing(&path)?);
        let mut command = std::process::Command::new(&path).spawn()?;
        let traditional = open_for_writing(&path);
        command.kill()?;
        command.wait()?;
        refused("while an executed child runs", traditional, libc::ETXTBSY)?;
        drop(open_for_writing(&path)?);
    }
    Ok(())
}

/// A child that is still at its actions has not opened its file: it can be written, and then exec finds it changed.
fn written_before_the_child_gets_to_exec() -> Outcome {
    let folder = Folder::tmp("rewriting-late")?;
    let (path, fifo) = (folder.copy("nothing")?, folder.join("fifo"));
    os::mkfifo(&fifo)?;
    let template = Template::path(&path)?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> io::Result<()> {
            // Once the child is there it waits for the other side of the FIFO.
            while crate::harness::children()?.is_empty() {
                thread::sleep(Duration::from_millis(5));
            }
            let written = open_for_writing(&path).and_then(|file| file.write_all_at(&fs::read(child("nothing"))?, 0));
            // Let the child go in any case.
            let other_side = os::open(&fifo, libc::O_RDWR | libc::O_NONBLOCK)?;
            while !crate::harness::children()?.is_empty() {
                thread::sleep(Duration::from_millis(5));
            }
            drop(other_side);
            written
        });
        let result = template.spawn().open(Open::new(&fifo, libc::O_RDONLY, 0)).run();
        let refused = refused("written meanwhile", result, libc::ESTALE);
        ensure!(!os::has_children()?, "a child is left");
        writer.join().map_err(|_| failed("the writer panicked"))??;
        refused
    })
}
