//! Keeps a kernel's source tree in the cache equal to "pristine source + overlay".
//!
//! A file is written only when its content differs, and then with the time of now, so that make rebuilds what depends
//! on it and nothing else, in whichever direction the change went.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::overlay::Overlay;
use crate::cache::walk;
use crate::cmd::{create_dir, open_file, remove, write_file};
use crate::context::Context;
use crate::source::Source;

/// What the tree holds. The file is absent while the tree is being changed.
#[derive(Serialize, Deserialize, Default)]
struct State {
    source: String,
    overlay: BTreeSet<PathBuf>,
}

/// Makes `work/src` hold `source` with `overlay` over it.
pub fn sync(ctx: &Context, work: &Path, source: &Source, overlay: &Overlay) -> Result<()> {
    let src = work.join("src");
    let file = work.join("source.json");
    let state: Option<State> = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    remove(&file)?;
    let new = State { source: source.id.clone(), overlay: overlay.files.keys().cloned().collect() };
    match state {
        // Only files that are patched now or were before can differ.
        Some(old) if old.source == new.source => {
            for path in old.overlay.union(&new.overlay) {
                place(&src, path, wanted(source, overlay, path).as_deref())?;
            }
        }
        _ => sync_everything(ctx, &src, source, overlay)?,
    }
    write_file(&file, serde_json::to_vec(&new)?)
}

/// Gives a file so early a time that nothing is compiled because of it.
pub fn pretend_old(path: &Path) -> Result<()> {
    let file = fs::File::options().write(true).open(path);
    file.and_then(|file| file.set_modified(UNIX_EPOCH)).with_context(|| format!("cannot change {}", path.display()))
}

fn sync_everything(ctx: &Context, src: &Path, source: &Source, overlay: &Overlay) -> Result<()> {
    let step = ctx.ui.step("copy the kernel source");
    create_dir(src)?;
    let mut paths: BTreeSet<PathBuf> = walk(&source.dir)?.into_iter().collect();
    paths.extend(overlay.files.keys().cloned());
    paths.extend(walk(src)?);
    for (n, path) in paths.iter().enumerate() {
        if n % 500 == 0 {
            step.progress(format!("{n} of {} files", paths.len()));
        }
        place(src, path, wanted(source, overlay, path).as_deref())?;
    }
    step.done(format!("{} files", paths.len()));
    Ok(())
}

/// The file whose content `path` must have, or nothing when there must be no such file.
fn wanted(source: &Source, overlay: &Overlay, path: &Path) -> Option<PathBuf> {
    match overlay.files.get(path) {
        Some(content) => content.clone(),
        None => Some(source.dir.join(path)).filter(|file| file.symlink_metadata().is_ok()),
    }
}

fn place(src: &Path, path: &Path, wanted: Option<&Path>) -> Result<()> {
    let to = src.join(path);
    let Some(from) = wanted else {
        remove(&to)?;
        // Folders that became empty go as well; the first that is not ends this.
        for dir in path.ancestors().skip(1).take_while(|dir| !dir.as_os_str().is_empty()) {
            if fs::remove_dir(src.join(dir)).is_err() {
                break;
            }
        }
        return Ok(());
    };
    if same(from, &to)? {
        return Ok(());
    }
    remove(&to)?;
    create_dir(to.parent().unwrap_or(src))?;
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    if from.symlink_metadata()?.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, &to).with_context(context)
    } else {
        fs::copy(from, &to).map(drop).with_context(context)
    }
}

fn same(a: &Path, b: &Path) -> Result<bool> {
    let Ok(there) = b.symlink_metadata() else { return Ok(false) };
    let wanted = a.symlink_metadata().with_context(|| format!("cannot read {}", a.display()))?;
    if wanted.file_type() != there.file_type() {
        return Ok(false);
    }
    if wanted.is_symlink() {
        return Ok(fs::read_link(a)? == fs::read_link(b)?);
    }
    Ok(wanted.len() == there.len() && wanted.permissions() == there.permissions() && same_content(a, b)?)
}

fn same_content(a: &Path, b: &Path) -> Result<bool> {
    let (mut a, mut b) = (open_file(a)?, open_file(b)?);
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            // The lengths are equal, so the other one has ended as well.
            return Ok(true);
        }
        if b.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_what_differs_is_written_and_removed() {
        let top = std::env::temp_dir().join(format!("xtask-worktree-{}", std::process::id()));
        remove(&top).unwrap();
        let (base, over, src) = (top.join("base"), top.join("over"), top.join("src"));
        create_dir(&base.join("dir")).unwrap();
        create_dir(&over).unwrap();
        create_dir(&src.join("gone")).unwrap();
        fs::write(base.join("same"), "same").unwrap();
        fs::write(base.join("dir/patched"), "old").unwrap();
        fs::write(over.join("patched"), "new").unwrap();
        fs::write(src.join("same"), "same").unwrap();
        fs::write(src.join("gone/extra"), "x").unwrap();
        std::os::unix::fs::symlink("same", base.join("link")).unwrap();
        let before = fs::metadata(src.join("same")).unwrap().modified().unwrap();

        let source = Source { dir: base, id: "s".into(), version: "7.3.4".into(), origin: "test".into() };
        let files = BTreeMap::from([(PathBuf::from("dir/patched"), Some(over.join("patched")))]);
        let overlay = Overlay { files, digest: String::new() };
        for path in ["same", "dir/patched", "link", "gone/extra"].map(Path::new) {
            place(&src, path, wanted(&source, &overlay, path).as_deref()).unwrap();
        }
        assert_eq!(fs::read_to_string(src.join("dir/patched")).unwrap(), "new");
        assert_eq!(fs::read_link(src.join("link")).unwrap(), Path::new("same"));
        assert!(!src.join("gone").exists());
        assert_eq!(fs::metadata(src.join("same")).unwrap().modified().unwrap(), before);

        place(
            &src,
            Path::new("dir/patched"),
            wanted(&source, &Overlay::default(), Path::new("dir/patched")).as_deref(),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(src.join("dir/patched")).unwrap(), "old");
        remove(&top).unwrap();
    }
}
