//! The side of `/dev/fuse` that serves: a file system of a test's own, with one folder and one file in it. What opening and
//! reading the file does is the test's business. A process of its own serves it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::harness::{Outcome, failed};
use crate::os;
use crate::template::Folder;

/// The file's node; the folder is 1.
const FILE: u64 = 2;

/// Requests, by the names that linux/fuse.h gives them.
const LOOKUP: u64 = 1;
const FORGET: u64 = 2;
const GETATTR: u64 = 3;
const OPEN: u64 = 14;
const READ: u64 = 15;
const RELEASE: u64 = 18;
const FLUSH: u64 = 25;
const INIT: u64 = 26;
const INTERRUPT: u64 = 36;
const BATCH_FORGET: u64 = 42;

/// The size of the header of each request.
const HEADER: usize = 40;
/// No file system can get by with less room for a request.
const ROOM: usize = 64 * 1024;

/// In the answer to OPEN: nothing is kept in the page cache.
pub const DIRECT: u64 = 1;

/// The file that is served.
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// All its times, in seconds.
    pub time: u64,
}

/// A mounted file system. Unmounted when dropped, by the process that has mounted it.
pub struct Mount {
    folder: Folder,
    server: i32,
    owner: u32,
    name: &'static str,
}

impl Mount {
    /// Mounts a file system in a new folder of `/tmp`, for all users, and has `serve` serve it in a process of its own.
    /// The mount goes with the process's own mount namespace, which has to be private.
    pub fn new(folder: &str, node: Node, serve: impl FnOnce(Connection) -> io::Result<()>) -> Outcome<Mount> {
        let (folder, name) = (Folder::tmp(folder)?, node.name);
        let device = os::open("/dev/fuse", libc::O_RDWR).map_err(|e| failed(format!("/dev/fuse: {e}")))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        os::mount("test", folder.path(), "fuse.test", flags, &options).map_err(|e| failed(format!("mount: {e}")))?;
        let server = os::fork()?;
        if server == 0 {
            let connection = Connection { device: File::from(device), node, room: vec![0; ROOM] };
            os::exit_now(i32::from(serve(connection).is_err()));
        }
        Ok(Mount { folder, server, owner: std::process::id(), name })
    }

    /// The file's path.
    pub fn file(&self) -> String {
        self.folder.join(self.name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process made by fork has a copy, but not the file system.
        if self.owner == std::process::id() {
            let _ = os::unmount(self.folder.path());
            let _ = os::kill(self.server, libc::SIGKILL);
            let _ = os::waitpid(self.server, 0);
        }
    }
}

/// What the kernel wants to know of the file.
pub enum Request {
    /// It is opened; answered by [`Connection::opened`].
    Open(u64),
    /// It is read; answered by [`Connection::contents`].
    Read(Range),
}

/// A part of the file.
pub struct Range {
    unique: u64,
    offset: usize,
    length: usize,
}

/// The server's end.
pub struct Connection {
    device: File,
    node: Node,
    room: Vec<u8>,
}

impl Connection {
    /// The next request that is about the file's contents, if one comes before another that is not; those are answered.
    pub fn next(&mut self) -> io::Result<Option<Request>> {
        let length = match self.device.read(&mut self.room) {
            // A request that was interrupted before it was read.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            length => length?,
        };
        let request = &self.room[..length];
        let (code, unique, node) = (number(request, 4, 4), number(request, 8, 8), number(request, 16, 8));
        let body = request.get(HEADER..).unwrap_or_default();
        match code {
            OPEN => return Ok(Some(Request::Open(unique))),
            READ => {
                let (offset, length) = (number(body, 8, 8) as usize, number(body, 16, 4) as usize);
                return Ok(Some(Request::Read(Range { unique, offset, length })));
            }
            // Version 7.31; the least it takes for the rest: requests in the background, bytes per write, times of 1 ns.
            INIT => self.reply(unique, 0, &words(&[7, 31, 0, 0, 16 | 12 << 16, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?,
            LOOKUP if body.strip_suffix(b"\0") == Some(self.node.name.as_bytes()) => {
                // Valid for no time at all, so that each open asks anew.
                let entry = [&longs(&[FILE, 0, 0, 0, 0])[..], &attributes(&self.node, FILE)].concat();
                self.reply(unique, 0, &entry)?;
            }
            LOOKUP => self.reply(unique, libc::ENOENT, &[])?,
            GETATTR => self.reply(unique, 0, &[&longs(&[0, 0])[..], &attributes(&self.node, node)].concat())?,
            RELEASE | FLUSH => self.reply(unique, 0, &[])?,
            // These have no answer. As many servers do, this one goes on with what is interrupted.
            FORGET | BATCH_FORGET | INTERRUPT => (),
            _ => self.reply(unique, libc::ENOSYS, &[])?,
        }
        Ok(None)
    }

    /// Lets an open succeed, with `flags` such as [`DIRECT`].
    pub fn opened(&mut self, unique: u64, flags: u64) -> io::Result<()> {
        self.reply(unique, 0, &longs(&[0, flags]))
    }

    /// Answers a read of a file that holds `contents`.
    pub fn contents(&mut self, range: &Range, contents: &[u8]) -> io::Result<()> {
        let start = range.offset.min(contents.len());
        let end = (start + range.length).min(contents.len());
        self.reply(range.unique, 0, &contents[start..end])
    }

    fn reply(&mut self, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
        let header = [words(&[16 + body.len() as u32, -error as u32]), longs(&[unique])].concat();
        match self.device.write_all(&[&header[..], body].concat()) {
            // The process that asked was killed.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// `struct fuse_attr` of a node.
fn attributes(file: &Node, node: u64) -> Vec<u8> {
    let (mode, links, size) = match node {
        FILE => (libc::S_IFREG | file.mode, 1, file.size),
        _ => (libc::S_IFDIR | 0o755, 2, 0),
    };
    let times = [file.time; 3];
    [longs(&[node, size, 1]), longs(&times), words(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0])].concat()
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

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        let node = Node { name: "file", mode: 0o644, size: 5, time: 0 };
        assert_eq!(attributes(&node, FILE).len(), 88);
    }

    #[test]
    fn numbers_are_read() {
        let bytes = [words(&[1, 2]), longs(&[3 << 40])].concat();
        assert_eq!((number(&bytes, 4, 4), number(&bytes, 8, 8), number(&bytes, 16, 8)), (2, 3 << 40, 0));
    }
}
