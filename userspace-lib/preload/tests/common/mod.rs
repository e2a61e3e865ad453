//! What the tests share that run programs with the library.

#![allow(dead_code, reason = "not every test needs all of this")]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The library, which cargo has put beside the test.
pub fn library() -> PathBuf {
    let test = env::current_exe().expect("the test has a path");
    test.parent().expect("a folder").join("libspawn_template_preload.so")
}

/// Where the program of this name is, by `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A C compiler: the usual one, or the small one that a guest has.
pub fn compiler() -> Option<PathBuf> {
    find("cc").or_else(|| find("tcc"))
}

/// Whether spawn templates must have been used.
pub fn required() -> bool {
    env::var_os("SPAWN_TEMPLATE_REQUIRED").is_some()
}

/// A folder for temporary files, removed with this.
pub struct Folder(PathBuf);

/// A new empty folder.
pub fn folder(name: &str) -> Folder {
    let path = env::temp_dir().join(format!("spawn-template-preload-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).expect("a folder");
    Folder(path)
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to those who clean the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command with the library; its output, and the lines of the stats.
pub fn preloaded(folder: &Path, program: &OsStr, args: &[&str]) -> (Output, Vec<String>) {
    let stats = folder.join("stats");
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env("LD_PRELOAD", library()).env("SPAWN_TEMPLATE_STATS", &stats);
    let output = command.output().expect("the program starts");
    let lines = fs::read_to_string(&stats).unwrap_or_default();
    (output, lines.lines().map(str::to_owned).collect())
}

/// The number behind this name in a line of the stats; 0 if it is not there.
pub fn number(line: &str, name: &str) -> u64 {
    let rest = line.split_once(&format!("\"{name}\":")).map_or("", |(_, rest)| rest);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
