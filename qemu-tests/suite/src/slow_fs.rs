//! A file system on which opening the file takes as long as the test wants.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::fuse::{Connection, DIRECT, Mount, Node, Request};
use crate::harness::{Outcome, patience};
use crate::os;

/// What is in the file.
const CONTENT: &[u8] = b"served by a test\n";

/// The file system, see [`Mount`].
pub struct SlowFs {
    mount: Mount,
    control: OwnedFd,
}

impl SlowFs {
    /// Mounts one. An open of its file waits for [`SlowFs::release`] if `hold`.
    pub fn mount(folder: &str, hold: bool) -> Outcome<SlowFs> {
        let (control, theirs) = os::socketpair()?;
        let node = Node { name: "file", mode: 0o666, size: CONTENT.len() as u64, time: 0 };
        // Both processes have both ends; the server must have one, to see the other closed.
        let ours = control.as_raw_fd();
        let mount = Mount::new(folder, node, |connection| {
            os::close(ours)?;
            Server { connection, control: File::from(theirs), hold, held: Vec::new() }.run()
        })?;
        Ok(SlowFs { mount, control })
    }

    /// The file's path.
    pub fn file(&self) -> String {
        self.mount.file()
    }

    /// Whether an open comes within `ms` milliseconds that waits now. Each is told once.
    pub fn holds(&self, ms: i32) -> io::Result<bool> {
        if !os::readable(self.control.as_raw_fd(), ms)? {
            return Ok(false);
        }
        Ok(File::from(self.control.try_clone()?).read(&mut [0])? == 1)
    }

    /// Answers the opens that wait.
    pub fn release(&self) -> io::Result<()> {
        File::from(self.control.try_clone()?).write_all(b"r")
    }
}

/// What answers the kernel.
struct Server {
    connection: Connection,
    control: File,
    hold: bool,
    /// The opens that wait.
    held: Vec<u64>,
}

impl Server {
    /// Serves until nobody can release an open any more, or the file system is gone.
    fn run(mut self) -> io::Result<()> {
        loop {
            let mut ready = [self.connection.as_fd(), self.control.as_fd()].map(|f| libc::pollfd {
                fd: f.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
            os::poll(&mut ready, patience(600) as i32 * 1000)?;
            if ready[1].revents != 0 {
                if self.control.read(&mut [0])? == 0 {
                    return Ok(());
                }
                for unique in std::mem::take(&mut self.held) {
                    self.connection.opened(unique, DIRECT)?;
                }
            }
            if ready[0].revents != 0 {
                self.serve()?;
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        match self.connection.next()? {
            Some(Request::Open(unique)) if self.hold => {
                self.held.push(unique);
                self.control.write_all(b"h")
            }
            Some(Request::Open(unique)) => self.connection.opened(unique, DIRECT),
            Some(Request::Read(range)) => self.connection.contents(&range, CONTENT),
            None => Ok(()),
        }
    }
}
