//! The patched files of a kernel, and only those: what lies over the pristine source.
//!
//! The series is applied in a small folder that holds nothing but the files it names, which takes a moment where a
//! copy of the whole tree would take a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cache::{Key, walk};
use crate::cmd::{Cmd, create_dir, read_file};
use crate::context::Context;
use crate::source::{BASE_VERSION, Source};

/// Where the ABI is defined in the checkout, and where the kernel has it.
const UAPI_HEADER: (&str, &str) = ("uapi-headers/linux/spawn_template.h", "include/uapi/linux/spawn_template.h");

/// Where the implementation lies in the checkout, and where the kernel has it. No patch here carries it.
pub const IMPLEMENTATION: (&str, &str) = ("rust-module", "kernel/spawn_template");

/// Files that differ from the pristine source.
#[derive(Clone, Default)]
pub struct Overlay {
    /// The file with the new content, or nothing for a file that is removed.
    pub files: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Names the content.
    pub digest: String,
}

impl Overlay {
    /// What the checkout's series, ABI header and implementation make of `source`.
    pub fn of_checkout(ctx: &Context, source: &Source) -> Result<Self> {
        Self::made(ctx, source, &series(ctx)?, true)
    }

    /// What `patches`, in this order, make of `source`.
    pub fn of_patches(ctx: &Context, source: &Source, patches: &[PathBuf]) -> Result<Self> {
        Self::made(ctx, source, patches, false)
    }

    fn made(ctx: &Context, source: &Source, patches: &[PathBuf], whole: bool) -> Result<Self> {
        let header = ctx.root.join(UAPI_HEADER.0);
        let implementation = ctx.root.join(IMPLEMENTATION.0);
        let mut key = Key::new("overlay 2").text("source", &source.id);
        for patch in patches {
            key = key.file("patch", patch)?;
        }
        let mut paths = touched(patches)?;
        if whole {
            key = key.file("header", &header)?;
            for file in implementation_files(ctx)? {
                key = key.text("name", file.to_string_lossy()).file("file", &implementation.join(file))?;
            }
            paths.insert(UAPI_HEADER.1.into());
            paths.extend(implementation_files(ctx)?.iter().map(|path| Path::new(IMPLEMENTATION.1).join(path)));
        }
        let entry = ctx.cache.entry(&ctx.ui, "overlay", &key.finish(), |partial| {
            let tree = partial.join("tree");
            create_dir(&tree)?;
            apply(ctx, source, patches, &tree)?;
            if whole {
                place_header(&header, &tree)?;
                place_implementation(ctx, &tree)?;
            }
            Ok(())
        })?;
        Self::read(&entry.join("tree"), paths)
    }

    fn read(tree: &Path, paths: BTreeSet<PathBuf>) -> Result<Self> {
        let mut key = Key::new("overlay content");
        let mut files = BTreeMap::new();
        for path in paths {
            let file = tree.join(&path);
            key = key.text("path", path.to_string_lossy());
            let exists = file.exists();
            key = if exists { key.file("content", &file)? } else { key.text("removed", "") };
            files.insert(path, exists.then_some(file));
        }
        Ok(Self { files, digest: key.finish() })
    }

    /// Whether one of the changed Kconfig files has the option `name`.
    pub fn defines_option(&self, name: &str) -> Result<bool> {
        for file in self.files.values().flatten().filter(|path| is_kconfig(path)) {
            if read_file(file)?.lines().any(|line| line.strip_prefix("config ") == Some(name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a file is one of Kconfig's.
pub fn is_kconfig(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("Kconfig"))
}

/// The checkout's patch files in order.
pub fn series(ctx: &Context) -> Result<Vec<PathBuf>> {
    let dir = ctx.root.join("linux-patches");
    let mut patches = Vec::new();
    if dir.is_dir() {
        for item in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == "patch") {
                patches.push(path);
            }
        }
    }
    patches.sort();
    Ok(patches)
}

/// Copies the files that the patches name from the pristine source to `tree` and applies the patches there.
fn apply(ctx: &Context, source: &Source, patches: &[PathBuf], tree: &Path) -> Result<()> {
    copy_touched(source, patches, tree)?;
    let step = ctx.ui.step(format!("apply {} patches", patches.len()));
    for patch in patches {
        let name = patch.file_name().unwrap_or_default().to_string_lossy();
        step.progress(&name);
        git(tree)
            .args(["apply", "--whitespace=nowarn"])
            .arg(patch)
            .step(format!("applying {name} to Linux {} ({})", source.version, source.origin))
            .hint(format!(
                "the series is made for Linux {BASE_VERSION}; give that with --kernel-source, or adapt the series"
            ))
            .run(ctx, "patches", |_| ())?;
    }
    step.done("");
    Ok(())
}

/// Copies the files that the patches name, as far as they exist, from the pristine source to `tree`.
pub fn copy_touched(source: &Source, patches: &[PathBuf], tree: &Path) -> Result<()> {
    for path in touched(patches)? {
        let (from, to) = (source.dir.join(&path), tree.join(&path));
        if from.exists() {
            create_dir(to.parent().unwrap_or(tree))?;
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// git in `dir`, taking neither a repository above it nor the user's settings into account.
pub fn git(dir: &Path) -> Cmd {
    Cmd::new("git")
        .dir(dir)
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
}

/// The kernel gets the ABI header of the checkout; a series that carries another one is a mistake.
fn place_header(header: &Path, tree: &Path) -> Result<()> {
    let ours = read_file(header)?;
    let place = tree.join(UAPI_HEADER.1);
    if !place.exists() {
        create_dir(place.parent().unwrap_or(tree))?;
        fs::copy(header, &place).with_context(|| format!("cannot copy {}", header.display()))?;
    } else if read_file(&place)? != ours {
        bail!(
            "the series carries an {} that differs from {}\n  next: make the two equal; the latter is the definition",
            UAPI_HEADER.1,
            UAPI_HEADER.0
        );
    }
    Ok(())
}

/// The files of the implementation, and no others that happen to lie beside them.
fn implementation_files(ctx: &Context) -> Result<Vec<PathBuf>> {
    let is_ours = |path: &PathBuf| path == Path::new("Makefile") || path.extension().is_some_and(|e| e == "rs");
    Ok(walk(&ctx.root.join(IMPLEMENTATION.0))?.into_iter().filter(is_ours).collect())
}

/// Copies the implementation to its place in `tree`, over what the series has there.
pub fn place_implementation(ctx: &Context, tree: &Path) -> Result<()> {
    let (from, to) = (ctx.root.join(IMPLEMENTATION.0), tree.join(IMPLEMENTATION.1));
    for path in implementation_files(ctx)? {
        let to = to.join(&path);
        create_dir(to.parent().unwrap_or(tree))?;
        fs::copy(from.join(&path), &to).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

/// All files that the patches name.
fn touched(patches: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for patch in patches {
        paths.extend(touched_by(&read_file(patch)?));
    }
    Ok(paths)
}

fn touched_by(patch: &str) -> impl Iterator<Item = PathBuf> {
    patch.lines().flat_map(|line| {
        // Paths in the kernel have no spaces, so this line needs no unquoting.
        let names = line.strip_prefix("diff --git a/").and_then(|names| names.split_once(" b/"));
        names.into_iter().flat_map(|(old, new)| [PathBuf::from(old), PathBuf::from(new)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_files_are_read_from_patches() {
        let patch = "From 0\nSubject: x\n\ndiff --git a/fs/exec.c b/fs/exec.c\nindex 1..2\n--- a/fs/exec.c\n\
                     diff --git a/old.c b/new.c\nsimilarity index 90%\n";
        let paths: Vec<_> = touched_by(patch).collect();
        assert_eq!(paths, ["fs/exec.c", "fs/exec.c", "old.c", "new.c"].map(PathBuf::from));
    }
}
