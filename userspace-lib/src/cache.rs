//! The templates of this process, by path.
//!
//! A [`Command`](crate::Command) that is given a path, not a [`Template`], takes its template from here. One that has
//! become stale, because the executable changed or because this process has other credentials by now, is made anew. At
//! most [`capacity`](set_capacity) templates are kept, and no more than a sixteenth of the descriptors that the process may
//! have; the one that was not used for the longest time goes first. When descriptors run out all of them go. A kernel
//! without templates has nothing to keep.
//!
//! All of this may be used from many threads. After a `fork` the child goes on with the templates it inherited, even if
//! another thread of the parent was just using the cache.
//!
//! A kept number is never used or closed unless it is still the template's: this process may have closed its descriptors,
//! as daemons do, and opened others. Nothing is kept where descriptors and memory do not belong together: in a thread that
//! has another table of descriptors than the first thread (`unshare(2)` with `CLONE_FILES`), and in the child of `vfork`.
//! There a template is made for each spawn.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::executable::Executable;
use crate::process::{self, Memory};
use crate::proof;
use crate::raw::{Failure, Stage};
use crate::{Call, Error, InvalidInput, Mode, Template, TemplateOptions, Via};

/// How many templates are kept unless [`set_capacity`] says otherwise.
pub const DEFAULT_CAPACITY: usize = 64;

/// How often a stale template is made anew before the caller is told that it is stale.
const ATTEMPTS: usize = 3;

static CAPACITY: AtomicUsize = AtomicUsize::new(DEFAULT_CAPACITY);

/// The cache of this process; null before the first use.
static CURRENT: AtomicPtr<Mutex<Templates>> = AtomicPtr::new(ptr::null_mut());

#[derive(Default)]
struct Templates {
    by_path: HashMap<CString, Entry>,
    /// Counts uses.
    clock: u64,
}

struct Entry {
    template: Template,
    used: u64,
}

/// The template of the executable at this absolute path, kept from before or made now.
///
/// # Errors
///
/// As [`Template::open`].
pub fn template(path: &CStr) -> Result<Template, Error> {
    get(path, Mode::Auto)
}

/// Calls `start` with the template of the executable at this absolute path, and again with a new one when it was stale.
///
/// # Errors
///
/// As [`Template::open`] when there is no template; the inner error is that of `start`.
pub fn with<T>(path: &CStr, start: impl FnMut(&Template) -> Result<T, Failure>) -> Result<Result<T, Failure>, Error> {
    with_mode(path, Mode::Auto, false, start)
}

/// With `fresh` the template is made now, because it shows only after the actions that a kept one is stale.
pub(crate) fn with_mode<T>(
    path: &CStr,
    mode: Mode,
    fresh: bool,
    mut start: impl FnMut(&Template) -> Result<T, Failure>,
) -> Result<Result<T, Failure>, Error> {
    let mut template = if fresh { make(path, mode)? } else { get(path, mode)? };
    for _ in 1..ATTEMPTS {
        match start(&template) {
            // Also for a thread that has other descriptors: the template that is kept is none for it.
            Err(failure) if is_stale(&failure) => template = make(path, mode)?,
            result => return Ok(result),
        }
    }
    Ok(start(&template))
}

/// Drops all templates. In a thread that has a table of descriptors of its own this does nothing.
pub fn clear() {
    if !proof::in_first_table() {
        return;
    }
    let all = lock().map(|mut templates| std::mem::take(&mut templates.by_path));
    // Closing the descriptors takes a while, so the lock is not held any more.
    drop(all);
}

/// How many templates are kept now.
pub fn len() -> usize {
    lock().map_or(0, |templates| templates.by_path.len())
}

/// Sets how many templates are kept at most; 0 keeps none. Each is one descriptor. Templates above that go when the next
/// is made.
pub fn set_capacity(templates: usize) {
    CAPACITY.store(templates, Ordering::Relaxed);
}

/// Whether the answer means that a new template may do better: another executable, another user by now, or a descriptor
/// that is not the template's any more.
fn is_stale(failure: &Failure) -> bool {
    matches!(
        (failure.stage, failure.action, failure.error),
        (Some(Stage::Identity), None, libc::ESTALE | libc::EACCES) | (Some(Stage::Arguments), None, libc::EBADF)
    )
}

fn get(path: &CStr, mode: Mode) -> Result<Template, Error> {
    if let Some(mut templates) = lock() {
        templates.clock += 1;
        let now = templates.clock;
        if let Some(entry) = templates.by_path.get_mut(path) {
            entry.used = now;
            return Ok(entry.template.clone());
        }
    }
    make(path, mode)
}

/// Makes a template, and keeps it in the place of an older one if it can be kept.
fn make(path: &CStr, mode: Mode) -> Result<Template, Error> {
    if path.to_bytes().first() != Some(&b'/') {
        return Err(InvalidInput::RelativePath.into());
    }
    // Each folder of PATH is asked, so nothing is made for a file that is not there.
    Executable::access(path).map_err(|errno| Error::os(Call::Executable, io::Error::from_raw_os_error(errno)))?;
    let options = TemplateOptions::new().mode(mode);
    let template = match options.open_c(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && len() > 0 => {
            clear();
            options.open_c(path)?
        }
        result => result?,
    };
    if template.via() == Via::Template && proof::in_first_table() {
        drop(insert(path, &template));
    }
    Ok(template)
}

/// Keeps a template, and returns those that have to go for it, for the caller to drop without the lock.
fn insert(path: &CStr, template: &Template) -> Vec<Template> {
    let capacity = capacity();
    let mut dropped = Vec::new();
    let Some(mut templates) = lock().filter(|_| capacity > 0) else { return dropped };
    let used = templates.clock;
    let entry = Entry { template: template.clone(), used };
    dropped.extend(templates.by_path.insert(path.to_owned(), entry).map(|entry| entry.template));
    while templates.by_path.len() > capacity {
        let oldest = templates.by_path.iter().filter(|(kept, _)| kept.as_c_str() != path).min_by_key(|(_, e)| e.used);
        let Some(oldest) = oldest.map(|(path, _)| path.clone()) else { break };
        dropped.extend(templates.by_path.remove(&oldest).map(|entry| entry.template));
    }
    dropped
}

/// How many templates are kept at most in this process.
fn capacity() -> usize {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the structure may be written to.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) };
    // SAFETY: zero is a valid value of this structure of integers.
    let limit = unsafe { limit.assume_init() }.rlim_cur;
    let share = usize::try_from(limit / 16).unwrap_or(usize::MAX);
    CAPACITY.load(Ordering::Relaxed).min(share)
}

/// The templates of this process; `None` where none may be kept.
fn lock() -> Option<MutexGuard<'static, Templates>> {
    let forked = match process::memory() {
        Memory::Own => false,
        Memory::Forked => true,
        Memory::Shared => return None,
    };
    let cache = current(forked);
    if forked {
        process::ready();
    }
    // A thread that panicked while it held the lock has left whole entries behind.
    Some(cache.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The cache whose lock a thread of this process can release.
fn current(forked: bool) -> &'static Mutex<Templates> {
    loop {
        let pointer = CURRENT.load(Ordering::Acquire);
        // SAFETY: null, or a cache that was leaked below and is never freed.
        if let Some(cache) = unsafe { pointer.as_ref() } {
            // The thread that holds the lock does not exist in a forked process.
            if !forked || !matches!(cache.try_lock(), Err(TryLockError::WouldBlock)) {
                return cache;
            }
        }
        let new = Box::into_raw(Box::new(Mutex::default()));
        match CURRENT.compare_exchange(pointer, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and never freed from here on.
            Ok(_) => return unsafe { &*new },
            // SAFETY: just made, and nobody else has seen it.
            Err(_) => drop(unsafe { Box::from_raw(new) }),
        }
    }
}
