//! Where a program may be.

use std::env;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use libc::c_int;

use crate::InvalidInput;
use crate::executable::Executable;

/// The folders to look in when there is no `PATH`, as in the C library.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The paths that stand for a program, to be tried in this order, as `posix_spawnp(3)` does: the name itself if it has a
/// slash, otherwise the name in each of the folders in `path`, of which an empty one is the working directory. `None`
/// stands for a missing `PATH`.
///
/// ```
/// use spawn_template::search;
///
/// let paths = search::candidates("sh".as_ref(), Some("/usr/bin::/bin".as_ref()))?;
/// assert_eq!(paths, [c"/usr/bin/sh".to_owned(), c"./sh".to_owned(), c"/bin/sh".to_owned()]);
/// assert_eq!(search::candidates("./configure".as_ref(), None)?, [c"./configure".to_owned()]);
/// # Ok::<(), spawn_template::InvalidInput>(())
/// ```
///
/// # Errors
///
/// [`InvalidInput::NulInPath`]
pub fn candidates(program: &OsStr, path: Option<&OsStr>) -> Result<Vec<CString>, InvalidInput> {
    let name = program.as_bytes();
    if name.is_empty() {
        return Ok(Vec::new());
    }
    let to_c = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| InvalidInput::NulInPath);
    if name.contains(&b'/') {
        return Ok(vec![to_c(name.to_owned())?]);
    }
    let folders = path.map_or(DEFAULT_PATH, OsStr::as_bytes);
    folders
        .split(|&byte| byte == b':')
        .map(|folder| to_c([if folder.is_empty() { b"." } else { folder }, b"/", name].concat()))
        .collect()
}

/// The path seen from the root; the `errno` if the path leads nowhere, `None` if what it leads to is not found from there:
/// because the working directory lies too deep or outside of the root, or this process may not go that way, or something
/// is mounted over it.
pub(crate) fn absolute(path: &CString) -> Result<Option<CString>, c_int> {
    let bytes = path.as_bytes();
    if bytes.first() == Some(&b'/') {
        return Ok(Some(path.clone()));
    }
    let absolute = env::current_dir().ok().and_then(|directory| {
        let mut absolute = directory.into_os_string().into_vec();
        absolute.push(b'/');
        absolute.extend_from_slice(bytes.strip_prefix(b"./").unwrap_or(bytes));
        // The kernel says "(unreachable)" in front of a directory outside of the root.
        CString::new(absolute).ok().filter(|path| path.as_bytes().first() == Some(&b'/'))
    });
    let Some(absolute) = absolute else { return Ok(None) };
    Ok(Executable::are_same(path, &absolute)?.then_some(absolute))
}

/// Whether the path may lead to another file for another process.
pub(crate) fn is_of_the_process(path: &CStr) -> bool {
    const PREFIXES: [&[u8]; 3] = [b"/proc/", b"/dev/fd/", b"/dev/std"];
    // Which is the caller's program for the child as well, until it executes another.
    path != c"/proc/self/exe" && PREFIXES.iter().any(|prefix| path.to_bytes().starts_with(prefix))
}

pub(crate) fn is_relative(path: &CString) -> bool {
    path.as_bytes().first() != Some(&b'/')
}
