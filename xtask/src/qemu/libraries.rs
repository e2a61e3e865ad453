//! Which shared libraries the programs of a payload need beyond what the guest has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use goblin::elf::Elf;
use goblin::elf::header::{EM_X86_64, ET_DYN, ET_EXEC};

use crate::cmd::Cmd;

/// Where Debian keeps libraries, on the host and in the guest. The guest's dynamic linker looks here without being
/// told.
pub const FOLDERS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/lib",
];

/// Where a library the guest lacks is put.
const TARGET: &str = "/usr/lib/x86_64-linux-gnu";

/// What a program needs to start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The dynamic linker it names.
    pub interpreter: Option<String>,
    /// The libraries it names.
    pub libraries: Vec<String>,
    /// Where it says to look for them, with `$ORIGIN` as written.
    pub search: Vec<String>,
}

/// Reads what `program` needs. None for what is no x86-64 ELF program or library.
pub fn needs(program: &Path) -> Result<Option<Needs>> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    // What only looks like ELF may be a test's bad input: it is copied, and needs nothing.
    let Some(elf) = bytes.starts_with(b"\x7fELF").then(|| Elf::parse(&bytes).ok()).flatten() else { return Ok(None) };
    if elf.header.e_machine != EM_X86_64 || !elf.is_64 || !matches!(elf.header.e_type, ET_DYN | ET_EXEC) {
        return Ok(None);
    }
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let paths = if elf.runpaths.is_empty() { &elf.rpaths } else { &elf.runpaths };
    Ok(Some(Needs {
        interpreter: elf.interpreter.map(str::to_owned),
        libraries: owned(&elf.libraries),
        search: paths
            .iter()
            .flat_map(|list| list.split(':'))
            .filter(|dir| !dir.is_empty())
            .map(str::to_owned)
            .collect(),
    }))
}

/// What has to go along with the programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Files by their path in the guest.
    pub files: BTreeMap<PathBuf, PathBuf>,
    /// Libraries this machine does not have either.
    pub missing: BTreeSet<String>,
}

/// Follows the needs of `programs` until everything is in the guest, on the list, or missing.
///
/// `guest_has` answers for a library's name or an interpreter's path; `find` finds a library on this machine, given
/// the folders to look in first. The guest's own libraries win: they fit each other.
pub fn closure(
    programs: &[PathBuf],
    guest_has: impl Fn(&str) -> bool,
    find: impl Fn(&str, &[PathBuf]) -> Option<PathBuf>,
    needs: impl Fn(&Path) -> Result<Option<Needs>>,
) -> Result<Closure> {
    let mut closure = Closure::default();
    let mut queue: VecDeque<PathBuf> = programs.iter().cloned().collect();
    let mut seen: BTreeSet<PathBuf> = programs.iter().cloned().collect();
    while let Some(program) = queue.pop_front() {
        let Some(needs) = needs(&program)? else { continue };
        let origin = program.parent().unwrap_or(Path::new("/")).display().to_string();
        let search: Vec<PathBuf> = needs
            .search
            .iter()
            .map(|dir| PathBuf::from(dir.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin)))
            .collect();
        for name in needs.interpreter.iter().chain(&needs.libraries) {
            if guest_has(name) {
                continue;
            }
            let Some(found) = find(name, &search) else {
                closure.missing.insert(name.clone());
                continue;
            };
            // A name with a slash is a path, and is looked for only there.
            let target = if name.contains('/') { PathBuf::from(name) } else { Path::new(TARGET).join(name) };
            closure.files.insert(target, found.clone());
            if seen.insert(found.clone()) {
                queue.push_back(found);
            }
        }
    }
    Ok(closure)
}

/// Finds libraries on this machine the way its dynamic linker does.
pub struct Host {
    first: Vec<PathBuf>,
    cached: BTreeMap<String, PathBuf>,
}

impl Host {
    /// Asks the dynamic linker's cache what there is.
    pub fn new() -> Self {
        let first = std::env::var_os("LD_LIBRARY_PATH");
        let first = first.map(|list| std::env::split_paths(&list).collect()).unwrap_or_default();
        // Without the cache the usual folders still answer.
        let listing = Cmd::new("/sbin/ldconfig").arg("-p").read().unwrap_or_default();
        Self { first, cached: parse_ldconfig(&listing) }
    }

    /// The library called `name`, looked for in `search` first.
    pub fn find(&self, name: &str, search: &[PathBuf]) -> Option<PathBuf> {
        if name.contains('/') {
            // A relative path means something else in every folder.
            return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && path.is_file());
        }
        let folders = FOLDERS.iter().map(Path::new);
        let there = |folder: &Path| Some(folder.join(name)).filter(|path| path.is_file());
        self.first
            .iter()
            .chain(search)
            .find_map(|folder| there(folder))
            .or_else(|| self.cached.get(name).cloned())
            .or_else(|| folders.into_iter().find_map(there))
    }
}

/// Reads lines such as `libz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1`; the first of a name wins.
fn parse_ldconfig(listing: &str) -> BTreeMap<String, PathBuf> {
    let mut cached = BTreeMap::new();
    for line in listing.lines() {
        let Some((left, path)) = line.trim().split_once(" => ") else { continue };
        let Some((name, kind)) = left.split_once(' ') else { continue };
        if kind.contains("x86-64") {
            cached.entry(name.to_owned()).or_insert_with(|| path.into());
        }
    }
    cached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(libraries: &[&str], search: &[&str]) -> Needs {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Needs {
            interpreter: Some("/lib64/ld-linux-x86-64.so.2".into()),
            libraries: owned(libraries),
            search: owned(search),
        }
    }

    #[test]
    fn needs_are_followed_and_the_guest_wins() {
        let needs = |program: &Path| {
            Ok(match program.to_str().unwrap() {
                "/work/prog" => Some(lists(&["liba.so.1", "libc.so.6"], &["$ORIGIN/lib"])),
                "/work/lib/liba.so.1" => Some(lists(&["libb.so.2", "libgone.so"], &[])),
                "/usr/lib/libb.so.2" => Some(lists(&["liba.so.1", "libc.so.6"], &[])),
                _ => None,
            })
        };
        let find = |name: &str, search: &[PathBuf]| match name {
            "liba.so.1" if search.contains(&PathBuf::from("/work/lib")) => Some("/work/lib/liba.so.1".into()),
            "liba.so.1" => Some("/usr/lib/liba.so.1".into()),
            "libb.so.2" => Some("/usr/lib/libb.so.2".into()),
            _ => None,
        };
        let guest_has = |name: &str| name == "libc.so.6" || name.starts_with("/lib64/");
        let programs = ["/work/prog".into(), "/work/script.sh".into()];
        let closure = closure(&programs, guest_has, find, needs).unwrap();
        let targets: Vec<_> = closure.files.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(targets, ["/usr/lib/x86_64-linux-gnu/liba.so.1", "/usr/lib/x86_64-linux-gnu/libb.so.2"]);
        assert_eq!(closure.missing.into_iter().collect::<Vec<_>>(), ["libgone.so"]);
    }

    #[test]
    fn a_foreign_interpreter_keeps_its_path() {
        let needs = |program: &Path| Ok(program.ends_with("prog").then(|| lists(&[], &[])));
        let closure = closure(&["/prog".into()], |_| false, |name, _| Some(name.into()), needs).unwrap();
        let loader = PathBuf::from("/lib64/ld-linux-x86-64.so.2");
        assert_eq!(closure.files, BTreeMap::from([(loader.clone(), loader)]));
    }

    #[test]
    fn this_test_itself_needs_the_c_library() {
        let needs = needs(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert!(needs.libraries.iter().any(|name| name == "libc.so.6"), "{needs:?}");
        assert!(Host::new().find("libc.so.6", &[]).is_some());
    }

    #[test]
    fn what_is_not_elf_needs_nothing() {
        assert_eq!(needs(Path::new("/etc/passwd")).unwrap(), None);
    }

    #[test]
    fn the_linker_cache_is_understood() {
        let listing = "2 libs found in cache `/etc/ld.so.cache'\n\
            \tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1\n\
            \tlibz.so.1 (libc6) => /lib/i386-linux-gnu/libz.so.1\n";
        let cached = parse_ldconfig(listing);
        assert_eq!(cached.len(), 1);
        assert_eq!(cached["libz.so.1"], Path::new("/lib/x86_64-linux-gnu/libz.so.1"));
    }
}
