//! fanotify: who watches executions sees one for each spawn, as for each execve.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::harness::{Outcome, in_worker};
use crate::os;
use crate::template::{Folder, Template};
use crate::{ensure, same, tests};

tests!("exec_events": spawning_is_one);

/// `FAN_OPEN` and `FAN_OPEN_EXEC`.
const OPEN: u64 = 0x20;
/// See [`OPEN`].
const OPEN_EXEC: u64 = 0x1000;

/// A watch on one file.
struct Watch(File);

impl Watch {
    fn new(path: &str) -> std::io::Result<Watch> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        // SAFETY: fanotify_init() takes numbers.
        let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as u32) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = os::c_path(path);
        let (add, mask) = (libc::FAN_MARK_ADD, OPEN | OPEN_EXEC);
        // SAFETY: `path` is a live C string.
        match unsafe { libc::fanotify_mark(fd.as_raw_fd(), add, mask, libc::AT_FDCWD, path.as_ptr()) } {
            0 => Ok(Watch(File::from(fd))),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Since the last call: how often the file was opened at all, and to be executed. Two opens by one process in a row
    /// are one event.
    fn seen(&mut self) -> std::io::Result<(usize, usize)> {
        let (mut all, mut executions) = (0, 0);
        let mut room = [0u8; 4096];
        while let Ok(length) = self.0.read(&mut room) {
            // struct fanotify_event_metadata: length, version and such, mask, descriptor, pid.
            for event in room[..length].chunks_exact(24) {
                let mask = u64::from_le_bytes(event[8..16].try_into().unwrap_or_default());
                let fd = i32::from_le_bytes(event[16..20].try_into().unwrap_or_default());
                os::close(fd)?;
                all += usize::from(mask & OPEN != 0);
                executions += usize::from(mask & OPEN_EXEC != 0);
            }
        }
        Ok((all, executions))
    }
}

fn spawning_is_one() -> Outcome {
    let folder = Folder::tmp("exec-events-spawn")?;
    let path = folder.copy("nothing")?;
    in_worker(|| {
        let file = File::open(&path)?;
        let templates = [("a path", Template::path(&path)?), ("a descriptor", Template::of_fd(&file)?)];
        let mut watch = Watch::new(&path)?;
        let forked = os::fork()?;
        if forked == 0 {
            os::execve(&os::c_path(&path), &[c"child".to_owned()], &[]);
            os::exit_now(1);
        }
        os::waitpid(forked, 0)?;
        let wanted = watch.seen()?;
        ensure!(wanted.1 == 1, "executions seen of fork and execve: {wanted:?}");
        for (what, template) in &templates {
            for round in 1..=3 {
                template.status()?;
                same!(watch.seen()?, wanted, "events of spawn {round} of a template of {what}");
            }
        }
        Ok(())
    })
}
