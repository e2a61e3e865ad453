//! Where a program may be.

use std::env;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::InvalidInput;

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

/// The path seen from the root; `None` for one that is relative to a working directory without a path.
pub(crate) fn absolute(path: &CString) -> Option<CString> {
    let bytes = path.as_bytes();
    if bytes.first() == Some(&b'/') {
        return Some(path.clone());
    }
    let mut absolute = env::current_dir().ok()?.into_os_string().into_vec();
    // The kernel says "(unreachable)" in front of a directory outside of the root.
    if absolute.first() != Some(&b'/') {
        return None;
    }
    absolute.push(b'/');
    absolute.extend_from_slice(bytes.strip_prefix(b"./").unwrap_or(bytes));
    CString::new(absolute).ok()
}

pub(crate) fn is_relative(path: &CString) -> bool {
    path.as_bytes().first() != Some(&b'/')
}
