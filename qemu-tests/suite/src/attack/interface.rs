//! The interfaces through which one process looks into another or changes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};

use super::calls;
use super::stops;
use crate::os;

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// `/proc/PID/mem`
    Mem,
    /// `/proc/PID/maps`
    Maps,
    /// `/proc/PID/pagemap`
    Pagemap,
    /// `/proc/PID/smaps`
    Smaps,
    /// `/proc/PID/environ`
    Environ,
    /// `/proc/PID/auxv`
    Auxv,
    /// process_vm_readv(2)
    Readv,
    /// process_vm_writev(2)
    Writev,
    /// ptrace(2)
    Ptrace,
    /// pidfd_getfd(2)
    Getfd,
    /// process_madvise(2)
    Madvise,
    /// move_pages(2)
    MovePages,
    /// kcmp(2)
    Kcmp,
}

/// All of them.
pub const INTERFACES: [Interface; 13] = [
    Interface::Mem,
    Interface::Maps,
    Interface::Pagemap,
    Interface::Smaps,
    Interface::Environ,
    Interface::Auxv,
    Interface::Readv,
    Interface::Writev,
    Interface::Ptrace,
    Interface::Getfd,
    Interface::Madvise,
    Interface::MovePages,
    Interface::Kcmp,
];

/// Whom an attack is aimed at.
pub struct Target {
    /// The child.
    pub pid: i32,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// Its parent.
    pub caller: i32,
    /// Where there is something to see, as far as the attacker knows.
    pub places: Vec<u64>,
    /// Whether it runs the program already.
    pub has_executed: bool,
}

/// What an attacker has got.
pub enum Kept {
    /// Nothing that stays.
    Nothing,
    /// An open file, and one of the same kind that nothing was read from.
    Files(File, File),
    /// It traces the child.
    Traced,
}

impl Interface {
    /// What cells call it.
    pub fn name(self) -> &'static str {
        match self {
            Interface::Mem => "mem",
            Interface::Maps => "maps",
            Interface::Pagemap => "pagemap",
            Interface::Smaps => "smaps",
            Interface::Environ => "environ",
            Interface::Auxv => "auxv",
            Interface::Readv => "process_vm_readv",
            Interface::Writev => "process_vm_writev",
            Interface::Ptrace => "ptrace",
            Interface::Getfd => "pidfd_getfd",
            Interface::Madvise => "process_madvise",
            Interface::MovePages => "move_pages",
            Interface::Kcmp => "kcmp",
        }
    }

    /// Whether it is a file of `/proc/PID`.
    fn is_file(self) -> bool {
        matches!(
            self,
            Interface::Mem
                | Interface::Maps
                | Interface::Pagemap
                | Interface::Smaps
                | Interface::Environ
                | Interface::Auxv
        )
    }

    /// Uses it on the target. Returns what is kept, and what was seen or done that must not be.
    pub fn attempt(self, target: &Target) -> (Kept, Vec<String>) {
        if self.is_file() {
            let path = format!("/proc/{}/{}", target.pid, self.name());
            let open = || OpenOptions::new().read(true).write(self == Interface::Mem).open(&path);
            let (Ok(used), Ok(fresh)) = (open(), open()) else { return (Kept::Nothing, Vec::new()) };
            let mut seen = self.look(&used, target);
            if target.has_executed {
                seen.push("can be opened".into());
            }
            return (Kept::Files(used, fresh), seen);
        }
        if self == Interface::Ptrace {
            return attach(target);
        }
        let each = |name: &str, call: &dyn Fn(u64) -> io::Result<u64>| -> Vec<String> {
            let done = |&place: &u64| call(place).ok().map(|answer| format!("{name} of {place:x} answers {answer}"));
            target.places.iter().filter_map(done).collect()
        };
        let seen = match self {
            Interface::Readv => each("a read", &|place| calls::read(target.pid, place)),
            Interface::Writev => each("a write", &|place| calls::write(target.pid, place)),
            Interface::Madvise => each("advice", &|place| calls::advise(target.pidfd.as_raw_fd(), place)),
            Interface::MovePages => each("the node", &|place| calls::node_of(target.pid, place)),
            Interface::Getfd => descriptors(target),
            _ => comparisons(target),
        };
        (Kept::Nothing, seen)
    }

    /// Uses what was kept of an attempt that came before the exec.
    pub fn again(self, kept: &Kept, target: &Target) -> Vec<String> {
        match kept {
            Kept::Nothing => Vec::new(),
            Kept::Files(used, fresh) => {
                let seen = self.look(used, target);
                if seen.is_empty() { self.look(fresh, target) } else { seen }
            }
            Kept::Traced => {
                let stopped =
                    os::ptrace(libc::PTRACE_INTERRUPT, target.pid, 0, 0).and_then(|()| stops::next(target.pid, 2000));
                match stopped {
                    Ok(Some(_)) => {
                        let seen = peek(target);
                        let _ = os::ptrace(libc::PTRACE_CONT, target.pid, 0, 0);
                        seen
                    }
                    other => vec![format!("a tracer could not stop it: {other:?}")],
                }
            }
        }
    }

    /// What an open file shows or lets be done.
    fn look(self, file: &File, target: &Target) -> Vec<String> {
        let mut seen = Vec::new();
        match self {
            Interface::Mem => {
                for &place in &target.places {
                    if let Ok(bytes @ 1..) = calls::read_at(file, place) {
                        seen.push(format!("{bytes} bytes read at {place:x}"));
                    }
                    if let Ok(bytes @ 1..) = calls::write_at(file, place) {
                        seen.push(format!("{bytes} bytes written at {place:x}"));
                    }
                }
            }
            Interface::Pagemap => {
                for &place in &target.places {
                    if let Ok(Some(word @ 1..)) = calls::page_word(file, place) {
                        seen.push(format!("the page at {place:x} is {word:x}"));
                    }
                }
            }
            _ => {
                let mut bytes = Vec::new();
                // An error is as good as nothing.
                let mut file = file;
                if file.rewind().and_then(|()| file.read_to_end(&mut bytes)).is_err() {
                    bytes.clear();
                }
                let shown = match self {
                    Interface::Maps | Interface::Smaps => mappings(&String::from_utf8_lossy(&bytes)).len(),
                    // The end of an empty vector is all zero.
                    _ => bytes.iter().filter(|&&byte| byte != 0).count(),
                };
                if shown > 0 {
                    seen.push(format!("{} bytes are shown", bytes.len()));
                }
            }
        }
        seen
    }
}

/// Attaches and tries the child's memory.
fn attach(target: &Target) -> (Kept, Vec<String>) {
    // A tracer that holds the child up has it already, stopped.
    if !stops::is_mine(target.pid) {
        if os::ptrace(libc::PTRACE_SEIZE, target.pid, 0, 0).is_err() {
            return (Kept::Nothing, Vec::new());
        }
        if target.has_executed {
            let _ = stops::detach(target.pid);
            return (Kept::Nothing, vec!["can be attached to".into()]);
        }
        let _ = os::ptrace(libc::PTRACE_INTERRUPT, target.pid, 0, 0);
        // One that waits in an open that nothing interrupts stops later.
        if !matches!(stops::next(target.pid, 200), Ok(Some(_))) {
            return (Kept::Traced, Vec::new());
        }
    }
    (Kept::Traced, peek(target))
}

/// What a tracer sees and changes in a stopped tracee.
fn peek(target: &Target) -> Vec<String> {
    let mut seen = Vec::new();
    for &place in &target.places {
        if calls::peek(target.pid, place).is_ok() {
            seen.push(format!("a tracer reads at {place:x}"));
        }
        if calls::poke(target.pid, place).is_ok() {
            seen.push(format!("a tracer writes at {place:x}"));
        }
    }
    seen
}

/// Its own 0, 1 and 2 are what any child has from its caller. Nothing else is there before exec, and all of it is the
/// program's own after.
fn descriptors(target: &Target) -> Vec<String> {
    let first = if target.has_executed { 0 } else { 3 };
    let taken = |&fd: &i32| calls::take_fd(target.pidfd.as_raw_fd(), fd).is_ok();
    (first..16).filter(taken).map(|fd| format!("descriptor {fd} can be taken")).collect()
}

/// Its address space is nobody else's; and after exec that is nobody's business.
fn comparisons(target: &Target) -> Vec<String> {
    let mut seen = Vec::new();
    for other in [target.caller, std::process::id() as i32] {
        match calls::compare_memory(target.pid, other) {
            Ok(0) => seen.push(format!("its address space is that of {other}")),
            Ok(_) if target.has_executed => seen.push("it can be compared".into()),
            _ => {}
        }
    }
    seen
}

/// The mappings in the text of a maps file: start and end. Each process has vsyscall, even without any memory.
pub fn mappings(text: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    text.lines().filter(|line| !line.ends_with("[vsyscall]")).filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read() {
        let text = "7ffc1000-7ffc3000 rw-p 00000000 00:00 0    [stack]\nRss:  4 kB\n\
                    ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n";
        assert_eq!(mappings(text), [(0x7ffc_1000, 0x7ffc_3000)]);
    }
}
