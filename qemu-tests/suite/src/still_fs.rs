//! A file system whose times stand still, by way of `/dev/fuse`: what its one file holds changes without a trace in its
//! times and size, as on file systems that keep times of seconds. A process of its own serves it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use crate::harness::{Outcome, failed};
use crate::os::{self, SharedPage};
use crate::template::Folder;

/// The file's name.
const NAME: &[u8] = b"program";
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

/// The file system, mounted in the process's own mount namespace; its server ends when this is dropped.
pub struct StillFs {
    folder: Folder,
    server: i32,
    /// Word 0: which of the contents the file has. Word 1: how often it was opened.
    shared: SharedPage,
}

impl StillFs {
    /// Mounts one whose file has one of two contents of the same length, the first for now.
    pub fn mount(name: &str, contents: [Vec<u8>; 2]) -> Outcome<StillFs> {
        if contents[0].len() != contents[1].len() {
            return Err(failed("the contents differ in size"));
        }
        os::private_mounts()?;
        let (folder, shared) = (Folder::tmp(name)?, SharedPage::new()?);
        let device = os::open("/dev/fuse", libc::O_RDWR).map_err(|e| failed(format!("/dev/fuse: {e}")))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        os::mount("test", folder.path(), "fuse.test", flags, &options).map_err(|e| failed(format!("mount: {e}")))?;
        let server = os::fork()?;
        if server == 0 {
            let served = Server { device: File::from(device), contents, shared }.run();
            os::exit_now(i32::from(served.is_err()));
        }
        Ok(StillFs { folder, server, shared })
    }

    /// The file's path.
    pub fn path(&self) -> String {
        self.folder.join("program")
    }

    /// Gives the file its first or second contents.
    pub fn change(&self, to: u32) {
        self.shared.set(0, to);
    }

    /// How often the file was opened.
    pub fn opens(&self) -> u32 {
        self.shared.get(1)
    }
}

impl Drop for StillFs {
    fn drop(&mut self) {
        let _ = os::unmount(self.folder.path());
        let _ = os::kill(self.server, libc::SIGKILL);
        let _ = os::waitpid(self.server, 0);
    }
}

/// What answers the kernel.
struct Server {
    device: File,
    contents: [Vec<u8>; 2],
    shared: SharedPage,
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        let mut room = vec![0; 64 * 1024];
        loop {
            let length = match self.device.read(&mut room) {
                Ok(length) => length,
                // A request that was interrupted before it was read.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(e) => return Err(e),
            };
            self.serve(&room[..length])?;
        }
    }

    fn serve(&mut self, request: &[u8]) -> io::Result<()> {
        let (code, unique, node) = (number(request, 4, 4), number(request, 8, 8), number(request, 16, 8));
        let body = request.get(40..).unwrap_or_default();
        let size = self.contents[0].len() as u64;
        match code {
            // Version 7.31; requests in the background, bytes per write, times in steps of 1 ns.
            INIT => self.reply(unique, 0, &words(&[7, 31, 0, 0, 16 | 12 << 16, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            LOOKUP if body.strip_suffix(b"\0") == Some(NAME) => {
                let entry = [&longs(&[FILE, 0, 0, 0, 0])[..], &attributes(FILE, size)].concat();
                self.reply(unique, 0, &entry)
            }
            LOOKUP => self.reply(unique, libc::ENOENT, &[]),
            GETATTR => self.reply(unique, 0, &[&longs(&[0, 0])[..], &attributes(node, size)].concat()),
            // Nothing is kept in the page cache from one open to the next.
            OPEN => {
                self.shared.set(1, self.shared.get(1) + 1);
                self.reply(unique, 0, &longs(&[0, 0]))
            }
            READ => {
                let contents = &self.contents[self.shared.get(0) as usize & 1];
                let start = (number(body, 8, 8) as usize).min(contents.len());
                let end = (start + number(body, 16, 4) as usize).min(contents.len());
                let part = contents[start..end].to_vec();
                self.reply(unique, 0, &part)
            }
            RELEASE | FLUSH => self.reply(unique, 0, &[]),
            FORGET | BATCH_FORGET | INTERRUPT => Ok(()),
            _ => self.reply(unique, libc::ENOSYS, &[]),
        }
    }

    fn reply(&mut self, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
        let header = [words(&[16 + body.len() as u32, -error as u32]), longs(&[unique])].concat();
        match self.device.write_all(&[&header[..], body].concat()) {
            // Who asked was killed.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }
}

/// `struct fuse_attr` of a node, with times of long ago.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    const LONG_AGO: u64 = 1_700_000_000;
    let (mode, links, size) = match node {
        FILE => (libc::S_IFREG | 0o755, 1, size),
        _ => (libc::S_IFDIR | 0o755, 2, 0),
    };
    let times = [LONG_AGO; 3];
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
        assert_eq!(attributes(FILE, 5).len(), 88);
        assert_eq!(number(&words(&[7, 0x0102_0304]), 4, 4), 0x0102_0304);
    }
}
