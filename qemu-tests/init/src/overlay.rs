//! Puts files that belong somewhere outside the payload in their place.
//!
//! The payload carries them as a tree of their own. They are copied late, when everything is mounted and `/` is the
//! real root, so that a path below a mount point or through a symbolic link lands where the guest will look for it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The tree in the payload that mirrors `/`.
const TREE: &str = "/payload/.root";

/// Moves the tree to `/`.
pub fn install() -> Result<(), String> {
    if !Path::new(TREE).exists() {
        return Ok(());
    }
    copy(Path::new(TREE), Path::new("/"))?;
    fs::remove_dir_all(TREE).map_err(|error| format!("{TREE}: {error}"))
}

/// Copies the contents of `from` into the existing folder `to`, freeing the memory of each file once it is copied.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let context = |error: io::Error| format!("copying {} to {}: {error}", from.display(), to.display());
    for entry in fs::read_dir(from).map_err(context)? {
        let entry = entry.map_err(context)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let context = |error: io::Error| format!("copying {} to {}: {error}", source.display(), target.display());
        let kind = entry.file_type().map_err(context)?;
        if kind.is_dir() {
            if !target.is_dir() {
                fs::create_dir(&target).map_err(context)?;
                fs::set_permissions(&target, entry.metadata().map_err(context)?.permissions()).map_err(context)?;
            }
            copy(&source, &target)?;
            continue;
        }
        // What stands in the way is replaced, not written through: the image's links may lead anywhere.
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(context(error)),
            _ => {}
        }
        if kind.is_symlink() {
            symlink(fs::read_link(&source).map_err(context)?, &target).map_err(context)?;
        } else {
            fs::copy(&source, &target).map_err(context)?;
            fs::remove_file(&source).map_err(context)?;
        }
    }
    Ok(())
}
