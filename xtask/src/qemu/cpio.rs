//! Writes the "newc" cpio archives the kernel unpacks as its initramfs.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written. Folders above an entry are added by themselves.
pub struct Archive<W> {
    out: W,
    inode: u32,
    written: u64,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0, folders: BTreeSet::new() }
    }

    /// Adds a folder, unless it is there already.
    pub fn folder(&mut self, path: &Path, permissions: u32) -> Result<()> {
        let name = name(path)?;
        if name.is_empty() || self.folders.contains(&name) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(&name, DIRECTORY | permissions, 0, &mut io::empty())?;
        self.folders.insert(name);
        Ok(())
    }

    /// Adds a file with the next `size` bytes of `contents`.
    pub fn file(&mut self, path: &Path, permissions: u32, size: u64, contents: &mut dyn Read) -> Result<()> {
        self.parents(path)?;
        self.entry(&name(path)?, REGULAR | permissions, size, contents)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &Path, target: &Path) -> Result<()> {
        let target = text(target)?;
        self.parents(path)?;
        self.entry(&name(path)?, SYMLINK | 0o777, target.len() as u64, &mut target.as_bytes())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, 0, &mut io::empty())?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) => self.folder(parent, 0o755),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, size: u64, contents: &mut dyn Read) -> Result<()> {
        let size32 = u32::try_from(size).ok().with_context(|| format!("{name} is too large for an initramfs"))?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        self.inode += 1;
        // Magic, inode, mode, uid, gid, links, mtime, size, device (2), represented device (2), name size, checksum.
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size32:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        let copied = io::copy(&mut contents.take(size), &mut self.out)?;
        ensure!(copied == size, "{name} shrank while it was copied");
        self.written += copied;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        Ok(self.out.write_all(bytes)?)
    }

    fn pad(&mut self) -> Result<()> {
        let short = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 4][..short as usize])
    }
}

/// An entry's name: its path without the leading slash.
fn name(path: &Path) -> Result<String> {
    Ok(text(path)?.trim_start_matches('/').to_owned())
}

fn text(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if !text.contains('\0') => Ok(text),
        _ => bail!("{} is not a name an initramfs can hold", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/b/file"), 0o755, 5, &mut &b"hello"[..]).unwrap();
        archive.symlink(Path::new("/a/link"), Path::new("b/file")).unwrap();
        archive.folder(Path::new("/a/b"), 0o700).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn entries_are_aligned_and_folders_come_once() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "two folders, a file, a link and the trailer");
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |n: usize| {
                let digits = &bytes[at + 6 + 8 * n..at + 14 + 8 * n];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (size, length) = (field(6), field(11));
            names.push(String::from_utf8(bytes[at + 110..at + 110 + length - 1].to_vec()).unwrap());
            at = (at + 110 + length).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/file", "a/link", "TRAILER!!!"]);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file(Path::new("/f"), 0o644, 10, &mut &b"short"[..]).is_err());
    }

    #[test]
    fn cpio_reads_it_back() {
        // The real tool is the best judge, where it is installed.
        let Ok(mut cpio) =
            Command::new("cpio").args(["-tv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return;
        };
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(listing.contains("a/link -> b/file"), "{listing}");
    }
}
