//! The templates of this process, by path.
//!
//! The crate `spawn-template` has such a cache, for programs that know about it. This one is for programs that do not:
//!
//! - They close descriptors that are not theirs. So none is used or closed for a template on the strength of its number
//!   alone: one that is not the template any more is forgotten, as is one whose number a new template has been given.
//! - They fork at any time, from a signal handler too. So there is no allocation, and a lock that was held in another
//!   process is taken over, with an empty cache; one that cannot be had soon is done without.
//! - They have threads with descriptors of their own, or call `vfork`. There a template is made for each spawn, and
//!   none is kept.
//! - They need their descriptors. So at most a sixteenth of what the limit allows is kept, and all of it goes when there
//!   is none left.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;
use spawn_template::process::{self, Memory};
use spawn_template::proof::{self, Identity};
use spawn_template::sys;
use spawn_template::uapi::{SPAWN_TEMPLATE_CREATE_CLOEXEC, spawn_template_create_args};

use crate::os;
use crate::request::address;

/// How many templates are kept. Each is a descriptor.
const CAPACITY: usize = 64;

/// Which part of the descriptors that a process may have is kept at most: one of so many.
const SHARE: u64 = 16;

/// Longer paths do not exist for the kernel.
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// Descriptors of kept templates have this number or a higher one: programs expect the low ones to be theirs.
const LEAST_FD: c_int = 100;

/// How often to look whether the lock is free. It is held for a few comparisons as a rule.
const PATIENCE: u32 = 1000;

/// Whether a thread of this process holds the lock.
static HELD: AtomicBool = AtomicBool::new(false);

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
    /// Of the template; there is one if there is an id.
    identity: Option<Identity>,
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
    const FREE: Slot = Slot { id: 0, fd: -1, identity: None, users: 0, stale: false, used: 0, hash: 0, length: 0 };

    /// Closes the descriptor if it is still the template, and frees the slot.
    fn close(&mut self) {
        let slot = std::mem::replace(self, Slot::FREE);
        if let Some(identity) = slot.identity {
            proof::close(slot.fd, identity);
        }
    }
}

/// A template for one spawn.
pub(crate) struct Lease {
    fd: c_int,
    identity: Identity,
    /// Where it is kept, and the id; `None` if it is not.
    kept: Option<(usize, u64)>,
}

/// Why there is no template, with the errno.
pub(crate) enum Missing {
    /// This process may not execute the file, or there is none.
    File(c_int),
    /// The kernel makes none of it, or a filter has answered in its place.
    Template(c_int),
}

/// The template of the executable at this absolute path. With `fresh` it is made now, and takes the place of a kept one,
/// which is of no use to the caller.
pub(crate) fn lease(path: &CStr, fresh: bool) -> Result<Lease, Missing> {
    let path_bytes = path.to_bytes();
    let hash = hash(path_bytes);
    if !fresh {
        if let Some(lease) = lock().and_then(|mut cache| cache.find(path_bytes, hash)) {
            return Ok(lease);
        }
    }
    // Each folder of PATH is asked, so nothing is made for a file that is not there.
    os::access(path).map_err(Missing::File)?;
    let made = match create(path) {
        Err(libc::EMFILE | libc::ENFILE) if give_way() => create(path),
        result => result,
    };
    let (fd, identity) = made.map_err(Missing::Template)?;
    // Others have to find it where this thread does.
    let kept = if fd >= LEAST_FD && proof::in_first_table() {
        lock().and_then(|mut cache| cache.keep(path_bytes, hash, fd, identity))
    } else {
        None
    };
    Ok(Lease { fd, identity, kept })
}

/// Makes a template and moves it out of the way.
fn create(path: &CStr) -> Result<(c_int, Identity), c_int> {
    let flags = u64::from(SPAWN_TEMPLATE_CREATE_CLOEXEC);
    let args = spawn_template_create_args { flags, execfd: -1, filename: address(path.as_ptr()), ..Default::default() };
    // SAFETY: the path is a C string for as long as the call takes.
    let made = unsafe { sys::spawn_template_create(&args, size_of_val(&args)) };
    let fd = made.map_err(|error| os::errno_of(&error))?.into_raw_fd();
    let fd = os::move_up(fd, LEAST_FD);
    match Identity::of(fd) {
        // One of the standard streams would be the child's as well.
        Ok(identity) if fd > libc::STDERR_FILENO => Ok((fd, identity)),
        result => {
            // Made a moment ago, and proven to be a template.
            os::close(fd);
            Err(result.err().unwrap_or(libc::EMFILE))
        }
    }
}

/// Closes the templates that no spawn is using. Returns whether there were any.
pub(crate) fn give_way() -> bool {
    if !proof::in_first_table() {
        return false;
    }
    let Some(mut cache) = lock() else { return false };
    let idle = cache.slots.iter_mut().filter(|slot| slot.id != 0 && slot.users == 0);
    idle.map(Slot::close).count() > 0
}

impl Lease {
    /// The descriptor of the template.
    pub(crate) fn fd(&self) -> c_int {
        self.fd
    }

    /// Which template the descriptor has to be.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
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
                        slot.close();
                    }
                }
            }
            None => proof::close(self.fd, self.identity),
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
        let identity = slot.identity?;
        slot.users += 1;
        slot.used = self.clock;
        Some(Lease { fd: slot.fd, identity, kept: Some((index, slot.id)) })
    }

    /// Keeps a new template, which has one user.
    fn keep(&mut self, path: &[u8], hash: u64, fd: c_int, identity: Identity) -> Option<(usize, u64)> {
        // The program closed the file that had this number before.
        for slot in self.slots.iter_mut().filter(|slot| slot.fd == fd) {
            *slot = Slot::FREE;
        }
        // One that another thread has made meanwhile, or that this is to replace.
        if let Some(slot) = self.index_of(path, hash).and_then(|index| self.slots.get_mut(index)) {
            match slot.users {
                0 => slot.close(),
                _ => slot.stale = true,
            }
        }
        let capacity = CAPACITY.min(usize::try_from(limit() / SHARE).unwrap_or(CAPACITY));
        if path.len() > PATH_MAX || capacity == 0 {
            return None;
        }
        if self.slots.iter().filter(|slot| slot.id != 0).count() >= capacity {
            self.make_room()?;
        }
        let index = self.slots.iter().position(|slot| slot.id == 0)?;
        self.paths.get_mut(index)?.get_mut(..path.len())?.copy_from_slice(path);
        self.clock += 1;
        let id = self.clock;
        let slot = self.slots.get_mut(index)?;
        let identity = Some(identity);
        *slot = Slot { id, fd, identity, users: 1, stale: false, used: id, hash, length: path.len() };
        Some((index, id))
    }

    /// Drops the template that was not used for the longest time.
    fn make_room(&mut self) -> Option<()> {
        let idle = self.slots.iter_mut().filter(|slot| slot.id != 0 && slot.users == 0);
        idle.min_by_key(|slot| slot.used).map(Slot::close)
    }
}

/// How many descriptors this process may have.
fn limit() -> u64 {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the structure may be written to.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) };
    // SAFETY: zero is a valid value of this structure of integers.
    unsafe { limit.assume_init() }.rlim_cur
}

/// FNV-1a
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The cache, for this thread alone.
struct Lock(());

fn lock() -> Option<Lock> {
    match process::memory() {
        Memory::Own => {}
        Memory::Forked => {
            // The thread that held the lock is in the process that this one was forked from.
            let held = HELD.swap(true, Ordering::Acquire);
            let mut lock = Lock(());
            if held {
                lock.slots = [Slot::FREE; CAPACITY];
            }
            // Nor are the spawns that were under way there.
            lock.slots.iter_mut().for_each(|slot| slot.users = 0);
            process::ready();
            return Some(lock);
        }
        Memory::Shared => return None,
    }
    for _ in 0..PATIENCE {
        if HELD.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(Lock(()));
        }
        // SAFETY: has no arguments.
        unsafe { libc::sched_yield() };
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
        HELD.store(false, Ordering::Release);
    }
}
