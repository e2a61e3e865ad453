//! The templates of this process, by path.
//!
//! A [`Command`](crate::Command) that is given a path, not a [`Template`], takes its template from here. One that has
//! become stale, because the executable changed or because this process has other credentials by now, is made anew. At
//! most [`capacity`](set_capacity) templates are kept; the one that was not used for the longest time goes first.
//!
//! All of this may be used from many threads. After a `fork` the child goes on with the templates it inherited, even if
//! another thread of the parent was just using the cache.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::raw::{Failure, Stage};
use crate::{Error, InvalidInput, Mode, Template, TemplateOptions, Via};

/// How many templates are kept unless [`set_capacity`] says otherwise.
pub const DEFAULT_CAPACITY: usize = 64;

/// How often a stale template is made anew before the caller is told that it is stale.
const ATTEMPTS: usize = 3;

static CAPACITY: AtomicUsize = AtomicUsize::new(DEFAULT_CAPACITY);

/// The cache of this process; null before the first use.
static CURRENT: AtomicPtr<Cache> = AtomicPtr::new(ptr::null_mut());

struct Cache {
    /// The process that it is known to work in.
    owner: AtomicU32,
    templates: Mutex<Templates>,
}

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
    with_mode(path, Mode::Auto, start)
}

pub(crate) fn with_mode<T>(
    path: &CStr,
    mode: Mode,
    mut start: impl FnMut(&Template) -> Result<T, Failure>,
) -> Result<Result<T, Failure>, Error> {
    let mut attempt = 1;
    loop {
        let template = get(path, mode)?;
        match start(&template) {
            Err(failure) if is_stale(&failure) && attempt < ATTEMPTS => forget(path, &template),
            result => return Ok(result),
        }
        attempt += 1;
    }
}

/// Drops all templates.
pub fn clear() {
    let all = std::mem::take(&mut lock().by_path);
    // Closing the descriptors takes a while, so the lock is not held any more.
    drop(all);
}

/// How many templates are kept now.
pub fn len() -> usize {
    lock().by_path.len()
}

/// Sets how many templates are kept at most; 0 keeps none. Each is one descriptor. Templates above that go when the next
/// is made.
pub fn set_capacity(templates: usize) {
    CAPACITY.store(templates, Ordering::Relaxed);
}

/// Whether the answer means that a new template may do better: another executable, or another user by now.
fn is_stale(failure: &Failure) -> bool {
    failure.stage == Some(Stage::Identity) && matches!(failure.error, libc::ESTALE | libc::EACCES)
}

fn get(path: &CStr, mode: Mode) -> Result<Template, Error> {
    if path.to_bytes().first() != Some(&b'/') {
        return Err(InvalidInput::RelativePath.into());
    }
    {
        let mut templates = lock();
        templates.clock += 1;
        let now = templates.clock;
        if let Some(entry) = templates.by_path.get_mut(path) {
            // One that the kernel does not have is no answer where the caller wants just that.
            if mode.effective() != Mode::Template || entry.template.via() == Via::Template {
                entry.used = now;
                return Ok(entry.template.clone());
            }
        }
    }
    let template = TemplateOptions::new().mode(mode).open_c(path)?;
    let dropped = insert(path, &template);
    drop(dropped);
    Ok(template)
}

/// Keeps a template, and returns those that have to go for it, for the caller to drop without the lock.
fn insert(path: &CStr, template: &Template) -> Vec<Template> {
    let capacity = CAPACITY.load(Ordering::Relaxed);
    let mut dropped = Vec::new();
    if capacity == 0 {
        return dropped;
    }
    let mut templates = lock();
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

/// Drops this template, unless another thread has already put a new one in its place.
fn forget(path: &CStr, template: &Template) {
    let mut templates = lock();
    if templates.by_path.get(path).is_some_and(|entry| entry.template.is(template)) {
        let entry = templates.by_path.remove(path);
        drop(templates);
        drop(entry);
    }
}

fn lock() -> MutexGuard<'static, Templates> {
    // A thread that panicked while it held the lock has left whole entries behind.
    current().templates.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cache whose lock a thread of this process can release.
fn current() -> &'static Cache {
    let pid = process::id();
    loop {
        let pointer = CURRENT.load(Ordering::Acquire);
        // SAFETY: null, or a cache that was leaked below and is never freed.
        if let Some(cache) = unsafe { pointer.as_ref() } {
            // In another process since the last use, the thread that holds the lock may not exist.
            let usable = cache.owner.load(Ordering::Relaxed) == pid
                || !matches!(cache.templates.try_lock(), Err(TryLockError::WouldBlock));
            if usable {
                cache.owner.store(pid, Ordering::Relaxed);
                return cache;
            }
        }
        let cache = Cache { owner: AtomicU32::new(pid), templates: Mutex::default() };
        let new = Box::into_raw(Box::new(cache));
        match CURRENT.compare_exchange(pointer, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and never freed from here on.
            Ok(_) => return unsafe { &*new },
            // SAFETY: just made, and nobody else has seen it.
            Err(_) => drop(unsafe { Box::from_raw(new) }),
        }
    }
}
