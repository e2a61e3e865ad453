//! The files a guest is given, and the initramfs that carries them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

use super::cpio::Archive;
use super::libraries::{self, Closure, Host};
use crate::cmd::open_file;

/// The guest's folder for files of this run, a tmpfs. The command starts in it.
pub const FOLDER: &str = "/payload";

/// Where guest-init finds what belongs elsewhere.
const ELSEWHERE: &str = "/payload/.root";

/// Files for the guest, by their absolute path there.
#[derive(Default)]
pub struct Payload {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Folder { permissions: u32 },
    File { host: PathBuf, permissions: u32 },
    Text { content: Vec<u8>, permissions: u32 },
    Link { target: PathBuf },
}

impl Payload {
    /// Adds what is written here.
    pub fn text(&mut self, guest: impl Into<PathBuf>, content: impl Into<Vec<u8>>, permissions: u32) {
        self.entries.insert(guest.into(), Entry::Text { content: content.into(), permissions });
    }

    /// Adds a file, or a folder with everything in it. A symbolic link given by name is followed, others are kept.
    pub fn copy(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let host = host.canonicalize().with_context(|| format!("cannot copy {}", host.display()))?;
        self.add(&host, guest)
    }

    fn add(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let context = || format!("cannot copy {}", host.display());
        let meta = host.symlink_metadata().with_context(context)?;
        let permissions = meta.permissions().mode() & 0o7777;
        let entry = if meta.is_dir() {
            for item in fs::read_dir(host).with_context(context)? {
                let item = item.with_context(context)?;
                self.add(&item.path(), &guest.join(item.file_name()))?;
            }
            Entry::Folder { permissions }
        } else if meta.is_symlink() {
            Entry::Link { target: fs::read_link(host).with_context(context)? }
        } else if meta.is_file() {
            Entry::File { host: host.into(), permissions }
        } else if meta.file_type().is_socket() {
            // A socket is of no use without the process behind it; folders of running programs have them.
            return Ok(());
        } else {
            bail!("cannot copy {}: neither a file nor a folder nor a link", host.display());
        };
        self.entries.insert(guest.into(), entry);
        Ok(())
    }

    /// Adds the shared libraries that the programs need and the guest lacks. Returns the names of those this machine
    /// lacks as well.
    pub fn add_libraries(&mut self, guest_has: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let programs: Vec<PathBuf> = self
            .entries
            .values()
            .filter_map(|entry| match entry {
                Entry::File { host, .. } => Some(host.clone()),
                _ => None,
            })
            .collect();
        let host = Host::new();
        let given = |path: &str| self.entries.contains_key(Path::new(path));
        let Closure { files, missing } = libraries::closure(
            &programs,
            |name| guest_has(name) || given(name),
            |name, search| host.find(name, search),
            libraries::needs,
        )?;
        for (guest, host) in files {
            // Libraries are named by links; what they lead to is copied under the name that is looked for.
            let host = host.canonicalize()?;
            self.entries.entry(guest).or_insert(Entry::File { host, permissions: 0o755 });
        }
        Ok(missing.into_iter().collect())
    }

    /// Writes the initramfs: `init`, and everything in the payload.
    pub fn write(&self, init: &Path, out: impl Write) -> Result<()> {
        let mut archive = Archive::new(out);
        let size = |path: &Path| Ok::<_, anyhow::Error>(path.metadata()?.len());
        archive.file(Path::new("/init"), 0o755, size(init)?, &mut open_file(init)?)?;
        archive.folder(Path::new(FOLDER), 0o755)?;
        // In the order of their paths, so that a folder comes before what is in it.
        for (guest, entry) in &self.entries {
            let path = place(guest)?;
            match entry {
                Entry::Folder { permissions } => archive.folder(&path, *permissions)?,
                Entry::Link { target } => archive.symlink(&path, target)?,
                Entry::Text { content, permissions } => {
                    archive.file(&path, *permissions, content.len() as u64, &mut content.as_slice())?;
                }
                Entry::File { host, permissions } => {
                    archive.file(&path, *permissions, size(host)?, &mut open_file(host)?)?;
                }
            }
        }
        archive.finish()?;
        Ok(())
    }
}

/// Where in the initramfs a file of the guest lies until init puts it in its place.
fn place(guest: &Path) -> Result<PathBuf> {
    ensure!(guest.is_absolute(), "{} is not an absolute path in the guest", guest.display());
    if guest.starts_with(FOLDER) {
        return Ok(guest.into());
    }
    Ok(Path::new(ELSEWHERE).join(guest.strip_prefix("/")?))
}

/// A file to copy, as written on the command line: `HOST[:GUEST]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySpec {
    /// The path on this machine.
    pub host: PathBuf,
    /// The path in the guest.
    pub guest: PathBuf,
}

impl FromStr for CopySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The guest's path is what follows the last colon; a host path with a colon needs a guest path to be given.
        let (host, guest) = match text.rsplit_once(':') {
            Some((host, guest)) => (host, guest),
            None => (text, ""),
        };
        if host.is_empty() {
            return Err("the path on this machine is missing".into());
        }
        let host = PathBuf::from(host);
        let mut path = Path::new(FOLDER).join(guest);
        if guest.is_empty() || guest.ends_with('/') || guest == "." {
            // `.` and `..` have no name of their own.
            let full = if host.file_name().is_some() { host.clone() } else { host.canonicalize().unwrap_or_default() };
            let Some(name) = full.file_name() else { return Err(format!("{} has no name", host.display())) };
            path.push(name);
        }
        Ok(Self { host, guest: normal(&path)? })
    }
}

/// Takes `.` and `..` out of an absolute path.
fn normal(path: &Path) -> Result<PathBuf, String> {
    let mut result = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            _ => {}
        }
    }
    if result == Path::new("/") || result == Path::new(FOLDER) {
        return Err(format!("{} cannot be replaced; name a folder or a file in it", result.display()));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, String) {
        let spec: CopySpec = text.parse().unwrap();
        (spec.host.display().to_string(), spec.guest.display().to_string())
    }

    #[test]
    fn copy_specs() {
        let pair = |host: &str, guest: &str| (host.to_owned(), guest.to_owned());
        assert_eq!(parse("target/prog"), pair("target/prog", "/payload/prog"));
        assert_eq!(parse("prog:/usr/local/bin/prog"), pair("prog", "/usr/local/bin/prog"));
        assert_eq!(parse("prog:/opt/"), pair("prog", "/opt/prog"));
        assert_eq!(parse("folder/:data"), pair("folder/", "/payload/data"));
        assert_eq!(parse("prog:sub/"), pair("prog", "/payload/sub/prog"));
        assert_eq!(parse("a:b:/c"), pair("a:b", "/c"));
        assert_eq!(parse("prog:/tmp/../opt/./x"), pair("prog", "/opt/x"));
        assert!(":/x".parse::<CopySpec>().is_err());
        assert!("x:/..".parse::<CopySpec>().is_err());
    }

    #[test]
    fn files_outside_the_payload_are_put_aside() {
        assert_eq!(place(Path::new("/payload/a")).unwrap(), Path::new("/payload/a"));
        assert_eq!(place(Path::new("/etc/a")).unwrap(), Path::new("/payload/.root/etc/a"));
        assert!(place(Path::new("a")).is_err());
    }

    #[test]
    fn folders_are_copied_with_links_and_permissions() {
        let dir = std::env::temp_dir().join(format!("xtask-payload-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/script"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("sub/script"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("sub/script", dir.join("link")).unwrap();
        let mut payload = Payload::default();
        payload.copy(&dir, Path::new("/opt/x")).unwrap();
        let entry = |path: &str| payload.entries.get(Path::new(path)).unwrap();
        assert!(matches!(entry("/opt/x/sub/script"), Entry::File { permissions: 0o750, .. }));
        assert_eq!(entry("/opt/x/link"), &Entry::Link { target: "sub/script".into() });
        assert!(matches!(entry("/opt/x/sub"), Entry::Folder { .. }));
        fs::remove_dir_all(&dir).unwrap();
    }
}
