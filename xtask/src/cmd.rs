//! Running commands: the whole output goes to a log file, a failure says which step, what mattered and what to do next.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context as _, Result, anyhow};

use crate::context::Context;
use crate::interrupt::{self, Guarded};

/// How much of a log a failure shows.
const ERROR_LINES: usize = 12;
const LAST_LINES: usize = 12;

/// A command to be run. Its environment is ours without what cargo, rustup or an outer make put there.
#[derive(Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    env: HashMap<OsString, OsString>,
    step: Option<String>,
    hint: Option<String>,
}

impl Cmd {
    /// A command with a clean environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            dir: None,
            env: clean_environment(std::env::vars_os()),
            step: None,
            hint: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs in this directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_path_buf());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// What a failure calls this command, for example "building the kernel".
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    /// What a failure suggests to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The command as a person would type it.
    pub fn shown(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    /// Runs the command with its output in the log `name`, showing each line to `on_line`.
    pub fn run(&self, ctx: &Context, name: &str, mut on_line: impl FnMut(&str)) -> Result<()> {
        let (log_path, mut log) = ctx.cache.log(name)?;
        writeln!(log, "$ {}", self.shown())?;
        let expression = self.expression().stderr_to_stdout().stdin_null().unchecked();
        let expression = expression.before_spawn(|command| {
            interrupt::prepare(command);
            Ok(())
        });
        let (reader, _registration) = interrupt::register(|| {
            let reader = expression.reader()?;
            let group = reader.pids().first().map_or(0, |&pid| -(pid as i32));
            Ok::<_, std::io::Error>((reader, group))
        })
        .with_context(|| format!("{}: cannot start {}", self.name(), self.program.to_string_lossy()))?;

        let mut tail = Tail::default();
        let mut lines = BufReader::new(&reader);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            log.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            tail.push(text);
            on_line(text);
            line.clear();
        }
        let status = reader.try_wait()?.map(|output| output.status);
        match status {
            Some(status) if status.success() => Ok(()),
            status => Err(self.failure(status, &tail, Some(&log_path))),
        }
    }

    /// Runs a short command and returns what it wrote to stdout, without the last newline.
    pub fn read(&self) -> Result<String> {
        let output = self
            .expression()
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .run()
            .with_context(|| format!("{}: cannot start {}", self.name(), self.program.to_string_lossy()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned());
        }
        let mut tail = Tail::default();
        for text in [&output.stdout, &output.stderr] {
            String::from_utf8_lossy(text).lines().for_each(|line| tail.push(line));
        }
        Err(self.failure(Some(output.status), &tail, None))
    }

    /// Whether a short command succeeds; its output is dropped.
    pub fn succeeds(&self) -> bool {
        self.read().is_ok()
    }

    /// Runs the command on our terminal, for what may ask a question or is worth watching.
    pub fn on_terminal(&self) -> Result<ExitStatus> {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env);
        // What installers say is progress, not a result: keep it off stdout.
        command.stdout(std::io::stderr());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let mut child = Guarded::spawn_on_terminal(&mut command)
            .with_context(|| format!("{}: cannot start {}", self.name(), self.program.to_string_lossy()))?;
        Ok(child.wait()?)
    }

    fn expression(&self) -> duct::Expression {
        let expression = duct::cmd(&self.program, &self.args).full_env(&self.env);
        match &self.dir {
            Some(dir) => expression.dir(dir),
            None => expression,
        }
    }

    fn name(&self) -> String {
        self.step.clone().unwrap_or_else(|| self.program.to_string_lossy().into_owned())
    }

    fn failure(&self, status: Option<ExitStatus>, tail: &Tail, log: Option<&Path>) -> anyhow::Error {
        let status = status.map_or_else(|| "lost".to_owned(), |status| status.to_string());
        let mut text = format!("{} failed ({status})\n  command: {}", self.name(), self.shown());
        for line in tail.what_mattered() {
            text.push_str("\n  | ");
            text.push_str(&line);
        }
        if let Some(log) = log {
            text.push_str(&format!("\n  full log: {}", log.display()));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n  next: {hint}"));
        }
        anyhow!(text)
    }
}

/// The lines of an output worth showing when it ends badly.
#[derive(Default)]
struct Tail {
    errors: Vec<String>,
    last: VecDeque<String>,
}

impl Tail {
    fn push(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if is_error(line) && self.errors.len() < ERROR_LINES {
            self.errors.push(line.to_owned());
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    /// The first errors, which usually caused the others, then the end of the output.
    fn what_mattered(&self) -> Vec<String> {
        let mut lines = self.errors.clone();
        if self.errors.is_empty() || self.errors.len() < ERROR_LINES {
            lines.extend(self.last.iter().filter(|line| !self.errors.contains(line)).cloned());
        }
        lines
    }
}

fn is_error(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ["error:", "error[", "fatal:", "undefined reference", "undefined symbol", "e: ", "***", "no such file"]
        .iter()
        .any(|mark| lower.starts_with(mark) || (mark.len() > 3 && lower.contains(mark)))
}

/// Drops what cargo, rustup and make tell their children, and what would change a kernel build behind our back. What
/// says where downloads come from stays.
fn clean_environment(vars: impl Iterator<Item = (OsString, OsString)>) -> HashMap<OsString, OsString> {
    vars.filter(|(name, _)| name.to_str().is_none_or(keeps)).chain([("LC_ALL".into(), "C".into())]).collect()
}

fn keeps(name: &str) -> bool {
    const KEPT: [&str; 10] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "RUSTUP_HOME",
        "RUSTUP_DIST_",
        "RUSTUP_UPDATE_",
        "RUSTUP_AUTO_",
        "RUSTUP_PERMIT_",
    ];
    const DROPPED_PREFIXES: [&str; 9] =
        ["CARGO", "RUSTUP_", "RUSTC", "RUSTDOC", "RUSTFLAGS", "KBUILD_", "KCONFIG_", "LC_", "HOST"];
    const DROPPED: [&str; 25] = [
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "GNUMAKEFLAGS",
        "LD_LIBRARY_PATH",
        "LANG",
        "LANGUAGE",
        "ARCH",
        "SRCARCH",
        "CROSS_COMPILE",
        "LLVM",
        "CC",
        "LD",
        "AR",
        "NM",
        "CPP",
        "CFLAGS",
        "CPPFLAGS",
        "LDFLAGS",
        "O",
        "M",
        "V",
        "W",
        "BINDGEN",
        "INSTALL_MOD_PATH",
    ];
    if KEPT.iter().any(|prefix| name.starts_with(prefix)) {
        return true;
    }
    !DROPPED.contains(&name) && !DROPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Where `program` is found: a path as given, a name in PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable =
        |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let path = PathBuf::from(program);
        return executable(&path).then_some(path);
    }
    let paths = std::env::var_os("PATH")?;
    // /sbin holds mke2fs and is not in every person's PATH.
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&paths).chain(sbin).map(|dir| dir.join(program)).find(|path| executable(path))
}

/// Reads a text file; a failure names it.
pub fn read_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file; a failure names it.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Creates a directory and its parents; a failure names it.
pub fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Removes a file or a whole directory, if there is one.
pub fn remove(path: &Path) -> Result<()> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
    let result = if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

/// Opens a file for reading; a failure names it.
pub fn open_file(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_of_cargo_and_make_is_dropped() {
        for name in
            ["CARGO", "CARGO_MANIFEST_DIR", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "MAKEFLAGS"]
        {
            assert!(!keeps(name), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_HTTP_PROXY", "https_proxy", "TERM"] {
            assert!(keeps(name), "{name}");
        }
    }

    #[test]
    fn errors_come_first() {
        let mut tail = Tail::default();
        tail.push("a.c:1:1: error: no");
        (0..50).for_each(|n| tail.push(&format!("  CC f{n}.o")));
        let shown = tail.what_mattered();
        assert_eq!(shown[0], "a.c:1:1: error: no");
        assert_eq!(shown.len(), 1 + LAST_LINES);
    }

    #[test]
    fn words_are_quoted_only_when_needed() {
        assert_eq!(Cmd::new("make").args(["-j2", "a b"]).shown(), "make -j2 'a b'");
    }
}
