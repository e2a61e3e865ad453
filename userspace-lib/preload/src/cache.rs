//! The templates of this process, by path.
//!
//! The crate `spawn-template` has such a cache, for programs that know about it. This one is for programs that do not:
//!
//! - They close descriptors that are not theirs. So none is used or closed for a template on the strength of its number
//!   alone: one that is no template any more is forgotten, as is one whose number a new template has been given.
//! - They fork at any time, from a signal handler too. So there is no allocation, and a lock that was held in another
//!   process is taken over, with an empty cache; one that cannot be had soon is done without.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_int;
use spawn_template::sys;
use spawn_template::uapi::{SPAWN_TEMPLATE_CREATE_CLOEXEC, spawn_template_create_args};

use crate::os;
use crate::request::address;

/// How many templates are kept. Each is a descriptor.
const CAPACITY: usize = 64;

/// Longer paths do not exist for the kernel.
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// Descriptors of templates have this number or a higher one, if there may be such: programs expect the low ones to be
/// theirs.
const LEAST_FD: c_int = 100;

/// How often to look whether the lock is free. It is held for a few comparisons as a rule.
const PATIENCE: u32 = 1000;

/// The process that holds the lock; 0 is none.
static HOLDER: AtomicU32 = AtomicU32::new(0);

static CACHE: Shared =
    Shared(UnsafeCell::new(Cache { clock: 0, slots: [Slot::FREE; CAPACITY], paths: [[0; PATH_MAX]; CAPACITY] }));

struct Shared(UnsafeCell<Cache>);

// SAFETY: only used through `Lock`, of which there is one at a time in a process.
unsafe impl Sync for Shared {}

struct Cache {
    /// Counts uses.
    clock: u64,
    slots: [Slot; CAPACITY],
    /// Apart from the slots, so that looking through those touches little memory.
    paths: [[u8; PATH_MAX]; CAPACITY],
}

#[derive(Clone, Copy)]
struct Slot {
    /// Tells the templates that have been in this slot apart; 0 is none.
    id: u64,
    fd: c_int,
    /// How many spawns are under way with it.
    users: u32,
    /// Not to be used any more, and to be closed by the last user.
    stale: bool,
    /// When it was last used.
    used: u64,
    hash: u64,
    length: usize,
}

impl Slot {
    const FREE: Slot = Slot { id: 0, fd: -1, users: 0, stale: false, used: 0, hash: 0, length: 0 };
}

/// A template for one spawn.
pub(crate) struct Lease {
    fd: c_int,
    /// Where it is kept, and the id; `None` if it is not.
    kept: Option<(usize, u64)>,
}

/// The template of the executable at this absolute path. With `fresh` it is made now, and not kept.
pub(crate) fn lease(path: &CStr, fresh: bool) -> Result<Lease, c_int> {
    let path_bytes = path.to_bytes();
    let hash = hash(path_bytes);
    if !fresh {
        if let Some(lease) = lock().and_then(|mut cache| cache.find(path_bytes, hash)) {
            return Ok(lease);
        }
    }

    let flags = u64::from(SPAWN_TEMPLATE_CREATE_CLOEXEC);
    let args = spawn_template_create_args { flags, execfd: -1, filename: address(path.as_ptr()), ..Default::default() };
    // SAFETY: the path is a C string for as long as the call takes.
    let made = unsafe { sys::spawn_template_create(&args, size_of_val(&args)) };
    let fd = os::move_up(made.map_err(|error| os::errno_of(&error))?.into_raw_fd(), LEAST_FD);

    let kept = if fresh { None } else { lock().and_then(|mut cache| cache.keep(path_bytes, hash, fd)) };
    Ok(Lease { fd, kept })
}

impl Lease {
    /// The descriptor of the template.
    pub(crate) fn fd(&self) -> c_int {
        self.fd
    }

    /// Whether the descriptor is still that of a template of this path.
    pub(crate) fn is_template(&self, path: &CStr) -> bool {
        is_template(self.fd, path.to_bytes()) == Some(true)
    }

    /// The executable, or this process, is not what it was: nobody is to use the template again.
    pub(crate) fn mark_stale(self) {
        if let Some((index, id)) = self.kept {
            if let Some(slot) = lock().as_mut().and_then(|cache| cache.slot(index, id)) {
                slot.stale = true;
            }
        }
    }

    /// The descriptor is not that of a template: the program has closed it, and may use the number.
    pub(crate) fn mark_lost(mut self) {
        if let Some((index, id)) = self.kept.take() {
            if let Some(slot) = lock().as_mut().and_then(|cache| cache.slot(index, id)) {
                *slot = Slot::FREE;
            }
        }
        self.fd = -1;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.kept {
            Some((index, id)) => {
                // Without the lock it stays in use, and is never closed.
                if let Some(slot) = lock().as_mut().and_then(|cache| cache.slot(index, id)) {
                    slot.users = slot.users.saturating_sub(1);
                    if slot.stale && slot.users == 0 {
                        *slot = Slot::FREE;
                        os::close(self.fd);
                    }
                }
            }
            None if self.fd >= 0 => os::close(self.fd),
            None => {}
        }
    }
}

impl Cache {
    /// The slot, if it still has the template with this id.
    fn slot(&mut self, index: usize, id: u64) -> Option<&mut Slot> {
        self.slots.get_mut(index).filter(|slot| slot.id == id)
    }

    fn index_of(&self, path: &[u8], hash: u64) -> Option<usize> {
        self.slots.iter().zip(&self.paths).position(|(slot, kept)| {
            slot.id != 0
                && !slot.stale
                && slot.hash == hash
                && slot.length == path.len()
                && kept.get(..slot.length) == Some(path)
        })
    }

    fn find(&mut self, path: &[u8], hash: u64) -> Option<Lease> {
        let index = self.index_of(path, hash)?;
        self.clock += 1;
        let slot = self.slots.get_mut(index)?;
        slot.users += 1;
        slot.used = self.clock;
        Some(Lease { fd: slot.fd, kept: Some((index, slot.id)) })
    }

    /// Keeps a new template, which has one user.
    fn keep(&mut self, path: &[u8], hash: u64, fd: c_int) -> Option<(usize, u64)> {
        // Whoever had this number before was closed by the program.
        for slot in self.slots.iter_mut().filter(|slot| slot.fd == fd) {
            *slot = Slot::FREE;
        }
        // Another thread may have been faster.
        if path.len() > PATH_MAX || self.index_of(path, hash).is_some() {
            return None;
        }
        let index = self.slots.iter().position(|slot| slot.id == 0).or_else(|| self.make_room())?;
        self.paths.get_mut(index)?.get_mut(..path.len())?.copy_from_slice(path);
        self.clock += 1;
        let id = self.clock;
        let slot = self.slots.get_mut(index)?;
        *slot = Slot { id, fd, users: 1, stale: false, used: id, hash, length: path.len() };
        Some((index, id))
    }

    /// Drops the template that was not used for the longest time.
    fn make_room(&mut self) -> Option<usize> {
        let idle = self.slots.iter().enumerate().filter(|(_, slot)| slot.users == 0);
        let (index, slot) = idle.min_by_key(|(_, slot)| slot.used)?;
        if is_template(slot.fd, self.paths.get(index)?.get(..slot.length)?)? {
            os::close(slot.fd);
        }
        *self.slots.get_mut(index)? = Slot::FREE;
        Some(index)
    }
}

/// Whether the descriptor is a template of this path; `None` if that cannot be found out.
fn is_template(fd: c_int, path: &[u8]) -> Option<bool> {
    // SAFETY: plain numbers.
    if unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFD) } < 0 {
        return Some(false);
    }
    let mut name = [0; 40];
    write!(&mut name[..], "/proc/self/fdinfo/{fd}\0").ok()?;
    let info = os::open(CStr::from_bytes_until_nul(&name).ok()?, libc::O_RDONLY).ok()?;
    // The path comes after four short lines.
    let mut text = [0; PATH_MAX + 512];
    let read = os::read(info, &mut text);
    os::close(info);
    let text = text.get(..read.ok()?)?;
    let mut lines = text.split(|&byte| byte == b'\n');
    Some(lines.any(|line| line.strip_prefix(b"path:\t") == Some(path)))
}

/// FNV-1a
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The cache, for this thread alone.
struct Lock(());

fn lock() -> Option<Lock> {
    let this = os::pid();
    for _ in 0..PATIENCE {
        match HOLDER.compare_exchange(0, this, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Some(Lock(())),
            Err(holder) if holder != this => {
                // The thread that holds it is in the process that this one was forked from.
                if HOLDER.compare_exchange(holder, this, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    let mut lock = Lock(());
                    lock.slots = [Slot::FREE; CAPACITY];
                    return Some(lock);
                }
            }
            Err(_) => {
                // SAFETY: has no arguments.
                unsafe { libc::sched_yield() };
            }
        }
    }
    // A signal handler that interrupted the holder would wait for ever.
    None
}

impl Deref for Lock {
    type Target = Cache;

    fn deref(&self) -> &Cache {
        // SAFETY: who has the lock is the only one to use it.
        unsafe { &*CACHE.0.get() }
    }
}

impl DerefMut for Lock {
    fn deref_mut(&mut self) -> &mut Cache {
        // SAFETY: who has the lock is the only one to use it.
        unsafe { &mut *CACHE.0.get() }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        HOLDER.store(0, Ordering::Release);
    }
}
