//! What the process that starts the children looks like.

use std::fs::File;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::{ptr, thread};

const PAGE: usize = 4096;

/// A kind of parent. Each is measured in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A freshly started small program.
    Small,
    /// 256 MiB of anonymous memory, every page written, in small pages.
    Rss256m,
    /// 10 000 mappings, none of them touched: mappings alone, no memory.
    Vmas10k,
    /// 10 000 open files, close-on-exec, so that the child is the same with every method.
    Fds10k,
    /// 64 threads beside the one that measures, all of them asleep.
    Threads64,
    /// As many MiB of anonymous memory, every page written, in small pages: a point of the curve over the parent's size.
    Touched(u16),
}

impl Parent {
    /// Those of the table, in its order.
    pub const ALL: [Parent; 5] = [Parent::Small, Parent::Rss256m, Parent::Vmas10k, Parent::Fds10k, Parent::Threads64];

    /// The name used on the command line and in results.
    pub fn name(self) -> String {
        match self {
            Parent::Small => "small".into(),
            Parent::Rss256m => "rss256m".into(),
            Parent::Vmas10k => "vmas10k".into(),
            Parent::Fds10k => "fds10k".into(),
            Parent::Threads64 => "threads64".into(),
            Parent::Touched(mib) => format!("touched{mib}m"),
        }
    }

    /// The parent of that name.
    pub fn named(name: &str) -> Option<Self> {
        let touched = || name.strip_prefix("touched")?.strip_suffix('m')?.parse().ok().map(Parent::Touched);
        Self::ALL.into_iter().find(|parent| parent.name() == name).or_else(touched)
    }

    /// Makes the calling process such a parent, for the rest of its life.
    pub fn become_it(self) -> io::Result<()> {
        match self {
            Parent::Small => Ok(()),
            Parent::Touched(0) => Ok(()),
            Parent::Touched(mib) => touch_memory(usize::from(mib) << 20),
            Parent::Rss256m => touch_memory(256 << 20),
            Parent::Vmas10k => make_mappings(10_000),
            Parent::Fds10k => open_files(10_000),
            Parent::Threads64 => start_threads(64),
        }
    }
}

/// Maps `size` bytes of private anonymous memory and never unmaps them.
fn map(size: usize, protection: libc::c_int) -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let address = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

fn touch_memory(size: usize) -> io::Result<()> {
    let start = map(size, libc::PROT_READ | libc::PROT_WRITE)?;
    // Huge pages would make this 128 page-table entries instead of 65 536.
    // SAFETY: start..start + size is the mapping just made; the advice does not change its contents.
    if unsafe { libc::madvise(start.cast(), size, libc::MADV_NOHUGEPAGE) } != 0 {
        // A kernel without huge pages refuses the advice and does not need it.
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    for offset in (0..size).step_by(PAGE) {
        let page = start.wrapping_add(offset);
        // SAFETY: inside the mapping just made, which is writable and known to nobody else. Volatile, because nobody
        // reads what is written and the compiler would leave it out.
        unsafe { page.write_volatile(1) };
    }
    Ok(())
}

fn make_mappings(count: usize) -> io::Result<()> {
    let start = map(count * PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    // Neighbours with the same protection would be one mapping: every other page becomes read-only.
    for page in (1..count).step_by(2) {
        let address = start.wrapping_add(page * PAGE);
        // SAFETY: one page inside the mapping just made, which nobody uses.
        if unsafe { libc::mprotect(address.cast(), PAGE, libc::PROT_READ) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn open_files(count: u32) -> io::Result<()> {
    let wanted = libc::rlim_t::from(count) + 64;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit only writes the structure passed to it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_cur.max(wanted);
    limit.rlim_max = limit.rlim_max.max(wanted);
    // SAFETY: setrlimit only reads the structure passed to it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for _ in 0..count {
        let file: OwnedFd = File::open("/dev/null")?.into();
        let _stays_open = file.into_raw_fd();
    }
    Ok(())
}

fn start_threads(count: u32) -> io::Result<()> {
    for _ in 0..count {
        // Until the process ends.
        let sleep = || loop {
            thread::park();
        };
        thread::Builder::new().stack_size(64 << 10).spawn(sleep)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_have_names() {
        for parent in Parent::ALL.into_iter().chain([Parent::Touched(0), Parent::Touched(1024)]) {
            assert_eq!(Parent::named(&parent.name()), Some(parent));
        }
        for wrong in ["", "touched", "touchedm", "touched-1m", "touched64"] {
            assert_eq!(Parent::named(wrong), None);
        }
    }

    #[test]
    fn mappings_do_not_merge() {
        let before = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        make_mappings(1000).unwrap();
        let after = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(after >= before + 998, "{before} -> {after}");
    }
}
