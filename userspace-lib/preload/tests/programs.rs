//! Programs that nobody has changed, with the library.
//!
//! With `SPAWN_TEMPLATE_REQUIRED=1` their children must have come from templates, otherwise by either way.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{folder, number, preloaded, required};

mod common;

/// Checks that a program of this name has started so many children.
fn assert_children(stats: &[String], program: &str, children: u64) {
    let name = format!("\"program\":\"{program}");
    let line = stats.iter().find(|line| line.contains(&name));
    let line = line.unwrap_or_else(|| panic!("no line of {program}: {stats:?}"));
    let by =
        if required() { number(line, "templates") } else { number(line, "templates") + number(line, "unsupported") };
    assert!(by >= children, "{line}");
}

#[test]
fn make() {
    let base = folder("make");
    let mut makefile = String::from("result: o1 o2 o3 o4 o5 o6 o7 o8\n\tcat $^ > $@\n");
    for number in 1..=8 {
        fs::write(base.join(format!("i{number}")), format!("{number}\n")).expect("a file");
        makefile += &format!("o{number}: i{number}\n\tcp $< $@\n");
    }
    fs::write(base.join("Makefile"), makefile).expect("a file");
    let (output, stats) = preloaded(&base, OsStr::new("make"), &["-j4"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(base.join("result")).expect("made"), "1\n2\n3\n4\n5\n6\n7\n8\n");
    assert_children(&stats, "make", 9);
}

#[test]
fn python() {
    const PYTHON: &str = "/usr/bin/python3";
    const SCRIPT: &str = r#"
import os, subprocess
def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
actions = [(os.POSIX_SPAWN_DUP2, 1, 2)]
assert status(os.posix_spawn("/bin/true", ["true"], os.environ, file_actions=actions, setsigdef=[13])) == 0
assert status(os.posix_spawnp("false", ["false"], os.environ, setpgroup=0, setsigmask=[10])) == 1
# One of the cases in which subprocess uses posix_spawn().
assert subprocess.run(["/bin/true"], close_fds=False).returncode == 0
try:
    os.posix_spawn("/missing", ["missing"], {})
except FileNotFoundError:
    print("done")
"#;
    if !Path::new(PYTHON).exists() {
        println!("there is no {PYTHON}: not tested");
        return;
    }
    let base = folder("python");
    let (output, stats) = preloaded(&base, OsStr::new(PYTHON), &["-c", SCRIPT]);
    assert_eq!(output.stdout, b"done\n", "{output:?}");
    assert_children(&stats, "python3", 3);
}

/// What `standard_library` runs with the library.
#[test]
#[ignore = "run by standard_library"]
fn standard_library_itself() {
    let output = Command::new("echo").arg("text").output().expect("echo starts");
    assert_eq!(output.stdout, b"text\n");
    let status = Command::new("/bin/false").stdin(Stdio::null()).status().expect("false starts");
    assert_eq!(status.code(), Some(1));
    let output = Command::new("pwd").current_dir("/usr").output().expect("pwd starts");
    assert_eq!(output.stdout, b"/usr\n");
    let error = Command::new("no-such-program").status().expect_err("there is none");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn standard_library() {
    let this = std::env::current_exe().expect("the test has a path");
    let base = folder("std");
    let (output, stats) = preloaded(&base, this.as_os_str(), &["--ignored", "--exact", "standard_library_itself"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    // Named after its thread or its file.
    assert_children(&stats, "", 3);
}
