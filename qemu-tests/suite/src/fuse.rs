//! A file system of a test's own, by way of `/dev/fuse`: one folder with one file, whose opening takes as long as the test
//! wants. A process of its own serves it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::harness::{Outcome, failed, patience};
use crate::os;
use crate::template::Folder;

/// The file's name.
const NAME: &[u8] = b"file";
/// What is in it.
const CONTENT: &[u8] = b"served by a test\n";
/// The file's node; the folder is 1.
const FILE: u64 = 2;

/// Requests, by the names that linux/fuse.h gives them.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The size of the header of each request.
const HEADER: usize = 40;
/// No file system can get by with less room for a request.
const ROOM: usize = 64 * 1024;

/// A mounted file system. Unmounted when dropped, by the process that has mounted it.
pub struct Fuse {
    folder: Folder,
    server: i32,
    owner: u32,
    control: OwnedFd,
}

impl Fuse {
    /// Mounts one in a new folder of `/tmp`, for all users. An open of its file waits for [`Fuse::release`] if `hold`.
    /// The mount goes with the process's own mount namespace, which has to be private.
    pub fn mount(name: &str, hold: bool) -> Outcome<Fuse> {
        let folder = Folder::tmp(name)?;
        let device = os::open("/dev/fuse", libc::O_RDWR).map_err(|e| failed(format!("/dev/fuse: {e}")))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let safe = libc::MS_NOSUID | libc::MS_NODEV;
        os::mount("test", folder.path(), "fuse.test", safe, &options).map_err(|e| failed(format!("mount: {e}")))?;
        let (control, theirs) = os::socketpair()?;
        let server = os::fork()?;
        if server == 0 {
            drop(control);
            let served =
                Server { device: File::from(device), control: File::from(theirs), hold, held: Vec::new() }.run();
            os::exit_now(i32::from(served.is_err()));
        }
        Ok(Fuse { folder, server, owner: std::process::id(), control })
    }

    /// The file's path.
    pub fn file(&self) -> String {
        self.folder.join("file")
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

impl Drop for Fuse {
    fn drop(&mut self) {
        // A process made by fork has a copy, but not the file system.
        if self.owner == std::process::id() {
            let _ = os::unmount(self.folder.path());
            let _ = os::kill(self.server, libc::SIGKILL);
            let _ = os::waitpid(self.server, 0);
        }
    }
}

/// What answers the kernel.
struct Server {
    device: File,
    control: File,
    hold: bool,
    /// The opens that wait.
    held: Vec<u64>,
}

impl Server {
    /// Serves until nobody can release an open any more, or the file system is gone.
    fn run(mut self) -> io::Result<()> {
        let mut room = vec![0; ROOM];
        loop {
            let mut ready = [&self.device, &self.control].map(|f| libc::pollfd {
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
                    self.answer(unique, &opened())?;
                }
            }
            if ready[0].revents != 0 {
                let length = self.device.read(&mut room)?;
                self.serve(&room[..length])?;
            }
        }
    }

    fn serve(&mut self, request: &[u8]) -> io::Result<()> {
        let (code, unique, node) = (word(request, 4) as u32, long(request, 8), long(request, 16));
        let body = request.get(HEADER..).unwrap_or_default();
        match code {
            // Version 7.31; the least it takes for the rest: requests in the background, and bytes per write.
            INIT => self.answer(unique, &words(&[7, 31, 0, 0, 16 | 12 << 16, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            LOOKUP if body.strip_suffix(b"\0") == Some(NAME) => {
                // Valid for no time at all, so that each open asks anew.
                let entry = [&longs(&[FILE, 0, 0, 0, 0])[..], &attributes(FILE)].concat();
                self.answer(unique, &entry)
            }
            LOOKUP => self.refuse(unique, libc::ENOENT),
            GETATTR => self.answer(unique, &[&longs(&[0, 0])[..], &attributes(node)].concat()),
            OPEN if self.hold => {
                self.held.push(unique);
                self.control.write_all(b"h")
            }
            OPEN => self.answer(unique, &opened()),
            READ => {
                let offset = (long(body, 8) as usize).min(CONTENT.len());
                let end = (offset + word(body, 16) as usize).min(CONTENT.len());
                self.answer(unique, &CONTENT[offset..end])
            }
            RELEASE | FLUSH => self.answer(unique, &[]),
            // These have no answer. As many servers do, this one goes on with what is interrupted.
            FORGET | BATCH_FORGET | INTERRUPT => Ok(()),
            _ => self.refuse(unique, libc::ENOSYS),
        }
    }

    fn answer(&mut self, unique: u64, body: &[u8]) -> io::Result<()> {
        self.reply(unique, 0, body)
    }

    fn refuse(&mut self, unique: u64, error: i32) -> io::Result<()> {
        self.reply(unique, -error, &[])
    }

    fn reply(&mut self, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
        let header = [words(&[16 + body.len() as u32, error as u32]), longs(&[unique])].concat();
        match self.device.write_all(&[&header[..], body].concat()) {
            // Who asked was killed.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }
}

/// The answer to OPEN: no handle of our own, and nothing is kept in the page cache.
fn opened() -> Vec<u8> {
    longs(&[0, 1])
}

/// `struct fuse_attr` of a node.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, links, size) = match node {
        FILE => (libc::S_IFREG | 0o666, 1, CONTENT.len() as u64),
        _ => (libc::S_IFDIR | 0o755, 2, 0),
    };
    [longs(&[node, size, 1, 0, 0, 0]), words(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0])].concat()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A little-endian number of `size` bytes; what is not there counts as zero.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes.iter().skip(at).take(size).rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at, 4)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(attributes(FILE).len(), 88);
        assert_eq!(opened().len(), 16);
    }

    #[test]
    fn numbers_are_read() {
        let bytes = [words(&[1, 2]), longs(&[3 << 40])].concat();
        assert_eq!((word(&bytes, 4), long(&bytes, 8), long(&bytes, 16)), (2, 3 << 40, 0));
    }
}
