//! Which C files a configuration compiles, by what the makefiles say: the answer of a build, without one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::option;

/// A configured source tree.
pub struct Configured<'a> {
    /// Options that are on, built in or as modules.
    on: BTreeMap<&'a str, &'a str>,
    /// Reads a file, if it is there.
    read: &'a dyn Fn(&Path) -> Result<Option<String>>,
    /// Names the C files of a folder.
    c_files: &'a dyn Fn(&Path) -> Result<Vec<PathBuf>>,
}

impl<'a> Configured<'a> {
    /// With this `.config`.
    pub fn new(
        config: &'a str,
        read: &'a dyn Fn(&Path) -> Result<Option<String>>,
        c_files: &'a dyn Fn(&Path) -> Result<Vec<PathBuf>>,
    ) -> Self {
        let on = config.lines().filter_map(option).filter(|(_, value)| *value != "n").collect();
        Self { on, read, c_files }
    }

    /// Whether a C file takes part, by itself or, as the scheduler's, included by another of its folder.
    pub fn compiles(&self, path: &Path) -> Result<bool> {
        let folder = path.parent().unwrap_or(Path::new(""));
        if self.is_made(folder, &name_of(&path.with_extension("o")), 0)? {
            return Ok(true);
        }
        let name = name_of(path);
        for other in (self.c_files)(folder)? {
            if other == path {
                continue;
            }
            let text = (self.read)(&other)?.unwrap_or_default();
            if self.includes(&text, &name) && self.is_made(folder, &name_of(&other.with_extension("o")), 0)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the makefile of `folder` makes `target`: an object, or a list of objects by its variable.
    fn is_made(&self, folder: &Path, target: &str, depth: u32) -> Result<bool> {
        // A list that names itself would not be one.
        if depth > 4 {
            return Ok(false);
        }
        for (left, words) in self.assignments(folder)? {
            if !words.iter().any(|word| word == target) {
                continue;
            }
            // The last part is the condition: "big-thing-y", "obj-$(CONFIG_X)".
            let Some((list, condition)) = left.rsplit_once('-') else { continue };
            if !self.holds(condition) {
                continue;
            }
            let made = match list {
                "obj" | "lib" | "core" => self.enters(folder)?,
                _ => {
                    self.is_made(folder, &format!("{list}.o"), depth + 1)?
                        || self.is_made(folder, &format!("$({list}-y)"), depth + 1)?
                }
            };
            if made {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the makefiles of the folders above lead to `folder`.
    fn enters(&self, folder: &Path) -> Result<bool> {
        if folder.as_os_str().is_empty() {
            return Ok(true);
        }
        for above in folder.ancestors().skip(1) {
            let Ok(rest) = folder.strip_prefix(above) else { continue };
            let target = format!("{}/", rest.display());
            for (left, words) in self.assignments(above)? {
                let leads = words.contains(&target);
                if leads && left.strip_prefix("obj-").is_some_and(|c| self.holds(c)) && self.enters(above)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What stands behind the hyphen of `obj-y`, `obj-m`, `thing-objs` or `obj-$(CONFIG_X)`.
    fn holds(&self, condition: &str) -> bool {
        // What of a module is built in.
        let inner = condition.strip_prefix("$(subst m,y,").and_then(|rest| rest.strip_suffix(')'));
        let condition = inner.unwrap_or(condition);
        match condition.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')')) {
            Some(name) => self.on.contains_key(name),
            None => matches!(condition, "y" | "m" | "objs"),
        }
    }

    /// The assignments that count in the makefile of a folder: what is assigned to, and the words.
    fn assignments(&self, folder: &Path) -> Result<Vec<(String, Vec<String>)>> {
        let mut text = None;
        for name in ["Kbuild", "Makefile"] {
            text = (self.read)(&folder.join(name))?;
            if text.is_some() {
                break;
            }
        }
        let text = text.unwrap_or_default().replace("\\\n", " ").replace("$(SRCARCH)", "x86").replace("$(BITS)", "64");
        let (mut found, mut taken) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            match word {
                "ifdef" => taken.push(self.on.contains_key(rest.trim())),
                "ifndef" => taken.push(!self.on.contains_key(rest.trim())),
                "ifeq" => taken.push(self.equal(rest) == Some(true)),
                "ifneq" => taken.push(self.equal(rest) == Some(false)),
                "else" => {
                    if let Some(last) = taken.last_mut() {
                        *last = !*last && rest.trim().is_empty();
                    }
                }
                "endif" => drop(taken.pop()),
                _ if taken.iter().all(|taken| *taken) => {
                    if let Some((left, right)) = line.split_once('=') {
                        let left = left.trim_end_matches(['+', ':', '?', ' ', '\t']).to_owned();
                        found.push((left, right.split_whitespace().map(str::to_owned).collect()));
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether the two sides of "($(CONFIG_X),y)" are the same, if it can be told.
    fn equal(&self, sides: &str) -> Option<bool> {
        let (left, right) = sides.trim().strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
        let name = left.trim().strip_prefix("$(")?.strip_suffix(')')?;
        name.starts_with("CONFIG_").then(|| self.on.get(name).copied().unwrap_or("") == right.trim())
    }

    /// Whether a C file includes `name`, where no condition is against it. A condition that cannot be told is.
    fn includes(&self, text: &str, name: &str) -> bool {
        let mut taken = Vec::new();
        for line in text.lines() {
            let Some(line) = line.trim_start().strip_prefix('#').map(str::trim_start) else { continue };
            let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            match word {
                "ifdef" => taken.push(self.on.contains_key(rest.trim())),
                "ifndef" => taken.push(!self.on.contains_key(rest.trim())),
                "if" => taken.push(false),
                "elif" => taken.iter_mut().last().into_iter().for_each(|last| *last = false),
                "else" => taken.iter_mut().last().into_iter().for_each(|last| *last = !*last),
                "endif" => drop(taken.pop()),
                "include" if rest.trim().trim_matches('"') == name && taken.iter().all(|taken| *taken) => return true,
                _ => {}
            }
        }
        false
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small tree, and the C files of one of its folders.
    const TREE: &[(&str, &str)] = &[
        ("Kbuild", "obj-y += kernel/\nobj-y += arch/$(SRCARCH)/\nobj-$(CONFIG_NET)\t+= net/\n"),
        ("arch/x86/Kbuild", "obj-y += kernel/\n"),
        ("arch/x86/kernel/Makefile", "# comment\nobj-y += step.o process_$(BITS).o\n"),
        ("net/Makefile", "obj-y := socket.o\n"),
        ("kernel/part/Makefile", "obj-y := stub.o\nobj-$(CONFIG_PART) += part.o\n"),
        (
            "kernel/Makefile",
            "obj-y     = fork.o \\\n\t    cred.o $(mmu-y)\nobj-$(CONFIG_BSD_PROCESS_ACCT) += acct.o\nobj-y += sched/\n\
             obj-$(subst m,y,$(CONFIG_PART)) += part/\nmmu-y := nommu.o\nmmu-$(CONFIG_MMU) := memory.o\nbig-thing-y := part.o\nobj-$(CONFIG_BIG) += big-thing.o\n\
             ifdef CONFIG_FUTEX\nobj-y += futex.o\nelse\nobj-y += no-futex.o\nendif\n\
             ifeq ($(CONFIG_SMP),y)\nobj-y += smp.o\nendif\nifneq ($(KBUILD_X),)\nobj-y += other.o\nendif\n",
        ),
        ("kernel/sched/Makefile", "obj-y += build_utility.o\nobj-$(CONFIG_CORE) += unused.o\n"),
        (
            "kernel/sched/build_utility.c",
            "#include \"clock.c\"\n#ifdef CONFIG_SCHED_AUTOGROUP\n# include \"autogroup.c\"\n#endif\n\
             #if defined(X)\n#include \"odd.c\"\n#endif\n",
        ),
        ("kernel/sched/unused.c", "#include \"lost.c\"\n"),
    ];

    fn compiles(config: &str, path: &str) -> bool {
        let read =
            |path: &Path| Ok(TREE.iter().find(|(name, _)| path == Path::new(name)).map(|(_, text)| (*text).to_owned()));
        let c_files = |folder: &Path| {
            let files = TREE.iter().map(|(name, _)| PathBuf::from(name));
            Ok(files.filter(|p| p.parent() == Some(folder) && p.extension().is_some_and(|e| e == "c")).collect())
        };
        Configured::new(config, &read, &c_files).compiles(Path::new(path)).unwrap()
    }

    #[test]
    fn objects_of_makefiles() {
        for path in ["kernel/fork.c", "kernel/cred.c", "arch/x86/kernel/step.c", "arch/x86/kernel/process_64.c"] {
            assert!(compiles("", path), "{path}");
        }
        for path in ["kernel/acct.c", "net/socket.c", "kernel/none.c", "kernel/memory.c", "kernel/part.c"] {
            assert!(!compiles("CONFIG_OTHER=y\n# CONFIG_NET is not set\n", path), "{path}");
        }
        assert!(compiles("CONFIG_BSD_PROCESS_ACCT=y\n", "kernel/acct.c"));
        assert!(compiles("CONFIG_NET=m\n", "net/socket.c"));
        assert!(compiles("CONFIG_MMU=y\n", "kernel/memory.c"));
        assert!(compiles("CONFIG_BIG=y\n", "kernel/part.c"));
        assert!(compiles("CONFIG_PART=m\n", "kernel/part/stub.c"));
        assert!(!compiles("", "kernel/part/stub.c"));
    }

    #[test]
    fn conditions_of_makefiles() {
        for (config, path, wanted) in [
            ("CONFIG_FUTEX=y", "kernel/futex.c", true),
            ("", "kernel/futex.c", false),
            ("", "kernel/no-futex.c", true),
            ("CONFIG_FUTEX=y", "kernel/no-futex.c", false),
            ("CONFIG_SMP=y", "kernel/smp.c", true),
            ("", "kernel/smp.c", false),
            // What cannot be told does not count.
            ("", "kernel/other.c", false),
        ] {
            assert_eq!(compiles(config, path), wanted, "{path} with {config:?}");
        }
    }

    #[test]
    fn files_that_others_include() {
        assert!(compiles("", "kernel/sched/clock.c"));
        assert!(!compiles("", "kernel/sched/autogroup.c"));
        assert!(compiles("CONFIG_SCHED_AUTOGROUP=y", "kernel/sched/autogroup.c"));
        assert!(!compiles("", "kernel/sched/odd.c"));
        assert!(!compiles("", "kernel/sched/lost.c"));
        assert!(compiles("CONFIG_CORE=y", "kernel/sched/lost.c"));
    }
}
