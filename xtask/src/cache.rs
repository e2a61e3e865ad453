//! What is slow is kept: one folder outside the checkout, entries named by what they are made of.
//!
//! An entry is built under another name and takes its real name by rename(2) as the last act, so that what an
//! interrupted run leaves is never believed. Locks are flock(2) on files that stay; the kernel drops them with the
//! process, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest, Sha256};

use crate::cmd::{create_dir, open_file, remove};
use crate::context::GlobalArgs;
use crate::ui::Ui;

/// The cache folder, in use by this process.
pub struct Cache {
    root: PathBuf,
    /// Shared by all runs; `clean` takes it alone.
    _in_use: Lock,
}

/// A lock that ends with this value, or with the process.
pub struct Lock {
    _file: File,
}

impl Cache {
    /// Opens the cache, creating it when there is none.
    pub fn open(dir: Option<&Path>, ui: &Ui) -> Result<Self> {
        let root = root(dir)?;
        create_dir(&root.join("locks"))?;
        create_dir(&root.join("logs"))?;
        // Tells backup programs that nothing here is worth keeping.
        let tag = root.join("CACHEDIR.TAG");
        if !tag.exists() {
            fs::write(&tag, "Signature: 8a477f597d28d172789f06886806bc55\n")
                .with_context(|| format!("cannot write {}", tag.display()))?;
        }
        let in_use = lock_file(&root.join("locks/in-use"), Share::Shared, ui, "the cache, which is being cleaned")?;
        Ok(Self { root, _in_use: in_use })
    }

    /// A path below the cache folder, for what is not an entry.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Waits, and says so, until no other run holds the lock `name`.
    pub fn lock(&self, ui: &Ui, name: &str) -> Result<Lock> {
        lock_file(&self.root.join("locks").join(name), Share::Exclusive, ui, name)
    }

    /// A fresh log file. The log of the run before is kept with the suffix `.old`.
    pub fn log(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.root.join("logs").join(format!("{name}.log"));
        if path.exists() {
            fs::rename(&path, path.with_extension("log.old")).ok();
        }
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok((path, file))
    }

    /// Where the entry `kind`/`key` is or would be.
    pub fn entry_path(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join(kind).join(key)
    }

    /// Returns the entry `kind`/`key`, a folder, after having `build` fill it when there is none.
    pub fn entry(&self, ui: &Ui, kind: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let entry = self.entry_path(kind, key);
        if entry.exists() {
            return Ok(entry);
        }
        let _lock = self.lock(ui, &format!("{kind}-{key}"))?;
        if entry.exists() {
            return Ok(entry);
        }
        let partial = entry.with_file_name(format!("{key}.partial"));
        remove(&partial)?;
        create_dir(&partial)?;
        if let Err(error) = build(&partial) {
            remove(&partial).ok();
            return Err(error);
        }
        publish(&partial, &entry)?;
        Ok(entry)
    }
}

/// Gives a finished folder its real name. Its content reaches the disk first, so that a power cut cannot leave the
/// name without the content.
fn publish(partial: &Path, entry: &Path) -> Result<()> {
    let dir = open_file(partial)?;
    // SAFETY: the descriptor is open for the whole call, which touches no memory of ours.
    unsafe { libc::syncfs(dir.as_raw_fd()) };
    fs::rename(partial, entry).with_context(|| format!("cannot publish {}", entry.display()))
}

/// Arguments of `clean`.
#[derive(clap::Args)]
pub struct CleanArgs {
    /// Keep the kernel source, which costs a download
    #[arg(long)]
    keep_source: bool,
}

/// Removes the cache, once no other run uses it.
pub fn clean(global: &GlobalArgs, args: &CleanArgs) -> Result<ExitCode> {
    let ui = Ui::new();
    let root = root(global.cache_dir.as_deref())?;
    if !root.exists() {
        ui.note(format!("nothing to clean: {} does not exist", root.display()));
        return Ok(ExitCode::SUCCESS);
    }
    // Anybody may name any folder; a slip must cost nothing that is not ours.
    if !root.join("CACHEDIR.TAG").exists() || !root.join("locks").exists() {
        bail!("{} does not look like our cache; remove it by hand if it is", root.display());
    }
    let _lock = lock_file(&root.join("locks/in-use"), Share::Exclusive, &ui, "the cache, which is in use")?;
    let step = ui.step(format!("clean {}", root.display()));
    for item in fs::read_dir(&root)? {
        let item = item?;
        let name = item.file_name();
        // The lock files stay: another run may be waiting on one of them.
        let kept = name == "locks" || name == "CACHEDIR.TAG" || (args.keep_source && name == "source");
        if !kept {
            step.progress(name.to_string_lossy());
            remove(&item.path())?;
        }
    }
    step.done("");
    Ok(ExitCode::SUCCESS)
}

fn root(dir: Option<&Path>) -> Result<PathBuf> {
    let root = match dir {
        Some(dir) => dir.to_path_buf(),
        None => match std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            Some(dir) => dir.join("spawn-template"),
            None => {
                let home =
                    std::env::var_os("HOME").context("neither --cache-dir nor XDG_CACHE_HOME nor HOME is set")?;
                PathBuf::from(home).join(".cache/spawn-template")
            }
        },
    };
    std::path::absolute(&root).with_context(|| format!("the cache folder {} is no path", root.display()))
}

#[derive(Clone, Copy)]
enum Share {
    Shared,
    Exclusive,
}

fn lock_file(path: &Path, share: Share, ui: &Ui, what: &str) -> Result<Lock> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the lock {}", path.display()))?;
    let operation = match share {
        Share::Shared => libc::LOCK_SH,
        Share::Exclusive => libc::LOCK_EX,
    };
    if !flock(&file, operation | libc::LOCK_NB)? {
        ui.note(format!("another run holds {what}; waiting for it to finish ..."));
        flock(&file, operation)?;
    }
    Ok(Lock { _file: file })
}

fn flock(file: &File, operation: i32) -> Result<bool> {
    loop {
        // SAFETY: the descriptor is open for the whole call, which touches no memory of ours.
        if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(error).context("cannot lock the cache"),
        }
    }
}

/// Names an entry by what it is made of. Every part carries its label and length, so that no two lists of parts run
/// together to the same bytes.
#[derive(Clone)]
pub struct Key(Sha256);

impl Key {
    /// `recipe` names what is built and how; change it when the steps change but their inputs do not.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).text("recipe", recipe)
    }

    /// Adds a text.
    pub fn text(self, label: &str, value: impl AsRef<str>) -> Self {
        self.bytes(label, value.as_ref().as_bytes())
    }

    /// Adds bytes.
    pub fn bytes(mut self, label: &str, value: &[u8]) -> Self {
        for part in [label.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds the content of a file.
    pub fn file(self, label: &str, path: &Path) -> Result<Self> {
        let digest = sha256_file(path)?;
        Ok(self.text(label, digest))
    }

    /// Adds all files below a folder: names, content, whether executable, link targets. Times and owners do not count.
    pub fn tree(mut self, label: &str, dir: &Path) -> Result<Self> {
        for file in walk(dir)? {
            let path = dir.join(&file);
            let meta = path.symlink_metadata()?;
            self = self.bytes(label, file.as_os_str().as_bytes());
            self = if meta.is_symlink() {
                self.bytes("link", fs::read_link(&path)?.as_os_str().as_bytes())
            } else {
                let kind = if meta.permissions().mode() & 0o100 != 0 { "executable" } else { "file" };
                self.file(kind, &path)?
            };
        }
        Ok(self)
    }

    /// The name: enough of the digest to be unique, short enough to be read.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())[..20].to_owned()
    }
}

/// The SHA-256 of a file in hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = open_file(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..n]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files and links below `dir`, relative to it, sorted. Folders named `.git` are left out.
pub fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    fn visit(top: &Path, relative: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
        let dir = top.join(relative);
        let context = || format!("cannot list {}", dir.display());
        for item in fs::read_dir(&dir).with_context(context)? {
            let item = item.with_context(context)?;
            let path = relative.join(item.file_name());
            if !item.file_type()?.is_dir() {
                files.push(path);
            } else if item.file_name() != ".git" {
                visit(top, &path, files)?;
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    visit(dir, Path::new(""), &mut files)?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-cache-{name}-{}", std::process::id()));
        remove(&dir).unwrap();
        dir
    }

    #[test]
    fn parts_do_not_run_together() {
        let one = Key::new("r").text("a", "bc").text("d", "").finish();
        let two = Key::new("r").text("a", "b").text("cd", "").finish();
        assert_ne!(one, two);
        assert_eq!(one, Key::new("r").text("a", "bc").text("d", "").finish());
    }

    #[test]
    fn a_tree_is_its_names_and_contents() {
        let dir = scratch("tree");
        create_dir(&dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "one").unwrap();
        let key = |label| Key::new("r").tree(label, &dir).unwrap().finish();
        let before = key("t");
        assert_eq!(before, key("t"));
        fs::write(dir.join("sub/file"), "two").unwrap();
        let changed = key("t");
        assert_ne!(before, changed);
        fs::rename(dir.join("sub/file"), dir.join("sub/other")).unwrap();
        assert_ne!(changed, key("t"));
        remove(&dir).unwrap();
    }

    #[test]
    fn a_failed_build_leaves_no_entry() {
        let dir = scratch("entry");
        let ui = Ui::new();
        let cache = Cache::open(Some(&dir), &ui).unwrap();
        let failed = cache.entry(&ui, "kind", "key", |partial| {
            fs::write(partial.join("half"), "")?;
            bail!("no")
        });
        assert!(failed.is_err());
        assert!(!cache.entry_path("kind", "key").exists());
        // What a killed run leaves behind is not believed and not mixed in.
        create_dir(&dir.join("kind/key.partial")).unwrap();
        fs::write(dir.join("kind/key.partial/stale"), "").unwrap();
        let entry = cache.entry(&ui, "kind", "key", |partial| Ok(fs::write(partial.join("whole"), "")?)).unwrap();
        assert!(entry.join("whole").exists());
        assert!(!entry.join("stale").exists());
        let again = cache.entry(&ui, "kind", "key", |_| bail!("built twice")).unwrap();
        assert_eq!(entry, again);
        drop(cache);
        remove(&dir).unwrap();
    }
}
