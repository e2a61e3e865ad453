//! What a template has read of the executable is what a spawn uses.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;
use std::time::Duration;

use crate::harness::Outcome;
use crate::image::Image;
use crate::os::{self, Status};
use crate::template::{Folder, Template, set_mode};
use crate::{ensure, same, tests};

tests!("metadata": headers_are_not_read_again, nor_are_those_of_the_interpreter);

/// Reports reads of one file; mapping it is none.
struct Reads(File);

impl Reads {
    fn of(path: &CStr) -> io::Result<Reads> {
        // SAFETY: Takes no pointer.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: The descriptor was just opened and is nobody else's.
        let inotify = unsafe { File::from_raw_fd(fd) };
        // SAFETY: `path` is a valid string.
        let watch = unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), libc::IN_ACCESS) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(Reads(inotify)) }
    }

    /// Whether the file was read since the last time this was asked.
    fn any(&mut self) -> io::Result<bool> {
        let mut events = [0; 4096];
        match self.0.read(&mut events) {
            Ok(len) => Ok(len > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// exec reads the headers of a file each time; a spawn has them.
fn headers_are_not_read_again() -> Outcome {
    // On tmpfs they are.
    let folder = Folder::new("/var/tmp", "metadata")?;
    // Neither an interpreter nor a GNU property note, which the kernel looks at in the file.
    let program = folder.copy("nothing")?;
    let mut reads = Reads::of(&os::c_path(&program))?;

    ensure!(Command::new(&program).status()?.success(), "the program works");
    ensure!(reads.any()?, "exec does not read the file, so this test shows nothing");
    let template = Template::path(&program)?;
    ensure!(reads.any()?, "a template was made without reading the file");
    for _ in 0..3 {
        same!(template.status()?, Status::Exited(0), "the spawned program");
    }
    ensure!(!reads.any()?, "a spawn read the file again");
    Ok(())
}

/// Nor does a spawn read those of the program interpreter, which it opens all the same.
fn nor_are_those_of_the_interpreter() -> Outcome {
    let folder = Folder::new("/var/tmp", "metadata-interpreter")?;
    let [interpreter, program] = ["interpreter", "program"].map(|name| folder.join(name));
    fs::write(&interpreter, Image::dynamic().bytes())?;
    fs::write(&program, Image::with_interpreter(interpreter.as_bytes()).bytes())?;
    for path in [&interpreter, &program] {
        set_mode(path, 0o755)?;
    }
    // What was changed this very moment is not kept, where only times tell.
    std::thread::sleep(Duration::from_millis(100));
    let mut reads = Reads::of(&os::c_path(&interpreter))?;

    same!(Command::new(&program).status()?.code(), Some(42), "status after exec");
    ensure!(reads.any()?, "exec does not read the interpreter, so this test shows nothing");
    let template = Template::path(&program)?;
    ensure!(reads.any()?, "a template was made without reading the interpreter");
    for _ in 0..3 {
        same!(template.status()?, Status::Exited(42), "the spawned program");
    }
    ensure!(!reads.any()?, "a spawn read the interpreter again");
    Ok(())
}
