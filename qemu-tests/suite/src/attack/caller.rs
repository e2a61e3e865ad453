//! The process that starts the children which are attacked. It takes orders over a socket, so that the attacker can be
//! another process, or another thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::harness::{Outcome, failed, patience};
use crate::os::{self, Status};
use crate::template::{Act, Child, Open, Template};

/// Where an OPEN puts what holds the child up.
const HELD_FD: i32 = 9;

/// The environment of the children, which is the program's secret as well once it runs.
const ENVIRONMENT: [&str; 1] = ["SECRET=of the program"];

/// The attacker's end.
pub struct Caller {
    /// The caller's pid.
    pub pid: i32,
    socket: File,
}

impl Caller {
    /// A caller that is served by [`serve`] at the other end.
    pub fn new(pid: i32, socket: OwnedFd) -> Caller {
        Caller { pid, socket: File::from(socket) }
    }

    /// Has it start a child that is held up by FUSE, or by the FIFO.
    pub fn spawn(&self, by_fuse: bool) -> Outcome<i32> {
        self.request(if by_fuse { b'f' } else { b'g' })?;
        self.answer()
    }

    /// Has it wait for the child's end.
    pub fn wait(&self) -> Outcome<Status> {
        self.request(b'w')?;
        Ok(match self.answer()? {
            code @ 0..1000 => Status::Exited(code),
            signal => Status::Signaled(signal - 1000),
        })
    }

    /// Sends an order.
    pub fn request(&self, order: u8) -> io::Result<()> {
        (&self.socket).write_all(&[order])
    }

    /// Waits for the answer to it.
    pub fn answer(&self) -> Outcome<i32> {
        if !os::readable(self.socket.as_raw_fd(), patience(20) as i32 * 1000)? {
            return Err(failed("the caller does not answer"));
        }
        let mut bytes = [0; 4];
        (&self.socket).read_exact(&mut bytes)?;
        match i32::from_le_bytes(bytes) {
            error if error < 0 => Err(failed(format!("the caller: {}", io::Error::from_raw_os_error(-error)))),
            value => Ok(value),
        }
    }
}

/// What the caller starts, and from what.
pub struct Starts {
    /// The program.
    pub program: String,
    /// The FIFO that holds a child up.
    pub gate: String,
    /// The file that does, on FUSE.
    pub file: String,
    /// The program's standard input and output.
    pub ends: (OwnedFd, OwnedFd),
}

/// Does what it is told until nobody is left to tell it.
pub fn serve(socket: OwnedFd, starts: &Starts) -> io::Result<()> {
    let mut socket = File::from(socket);
    let template = Template::path(&starts.program)?;
    let mut child: Option<Child> = None;
    let mut order = [0];
    while socket.read(&mut order)? == 1 {
        let answer = match (order[0], child.take()) {
            (b'w', Some(started)) => started.wait().map(|status| match status {
                Status::Exited(code) => code,
                Status::Signaled(signal) => 1000 + signal,
                Status::Other(raw) => raw,
            }),
            (b'w', None) => Err(io::Error::from_raw_os_error(libc::ECHILD)),
            (order, _) => {
                let path = if order == b'f' { &starts.file } else { &starts.gate };
                let ends = (starts.ends.0.as_raw_fd(), starts.ends.1.as_raw_fd());
                let open = Open::new(path, libc::O_RDONLY | libc::O_CLOEXEC, HELD_FD);
                let spawn =
                    template.spawn().envp(ENVIRONMENT).nowait().act(Act::Dup2(ends.0, 0)).act(Act::Dup2(ends.1, 1));
                spawn.open(open).run().map(|started| child.insert(started).pid)
            }
        };
        let answer = answer.unwrap_or_else(|error| -error.raw_os_error().unwrap_or(libc::EIO));
        socket.write_all(&answer.to_le_bytes())?;
    }
    Ok(())
}
