//! A file system whose times stand still: what its file holds changes without a trace in its times and size, as on file
//! systems that keep times of seconds.

use crate::fuse::{Mount, Node, Request};
use crate::harness::{Outcome, failed};
use crate::os::{self, SharedPage};

/// The time that stands still.
const LONG_AGO: u64 = 1_700_000_000;

/// The file system, see [`Mount`].
pub struct StillFs {
    mount: Mount,
    /// Word 0: which of the contents the file has. Word 1: how often it was opened.
    shared: SharedPage,
}

impl StillFs {
    /// Mounts one whose file has one of two contents of the same length, the first for now.
    pub fn mount(folder: &str, contents: [Vec<u8>; 2]) -> Outcome<StillFs> {
        if contents[0].len() != contents[1].len() {
            return Err(failed("the contents differ in size"));
        }
        os::private_mounts()?;
        let shared = SharedPage::new()?;
        let node = Node { name: "program", mode: 0o755, size: contents[0].len() as u64, time: LONG_AGO };
        let mount = Mount::new(folder, node, |mut connection| {
            loop {
                match connection.next()? {
                    // Nothing is kept in the page cache from one open to the next.
                    Some(Request::Open(unique)) => {
                        shared.set(1, shared.get(1) + 1);
                        connection.opened(unique, 0)?;
                    }
                    Some(Request::Read(range)) => {
                        connection.contents(&range, &contents[shared.get(0) as usize & 1])?;
                    }
                    None => (),
                }
            }
        })?;
        Ok(StillFs { mount, shared })
    }

    /// The file's path.
    pub fn path(&self) -> String {
        self.mount.file()
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
