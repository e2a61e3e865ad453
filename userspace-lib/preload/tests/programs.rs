//! Programs that nobody has changed, with the library: all their children have to come from templates where
//! `SPAWN_TEMPLATE_REQUIRED=1` says that there are such, and from the C library elsewhere, and all are counted.
//!
//! A program that is not installed is passed over, and said to be; not so where templates are required, which is in a
//! guest that has all of them. The usual framework for tests cannot say so, hence the `main`.

use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use common::{compiler, find, folder, number, preloaded, required};

mod common;

/// Why a test was passed over.
type Skipped = String;

type Test = fn() -> Result<(), Skipped>;

const TESTS: [(&str, Test); 4] =
    [("make", make), ("python", python), ("shell", shell), ("standard_library", standard_library)];

/// The argument with which this program is the one that uses the standard library.
const STANDARD_LIBRARY: &str = "--use-the-standard-library";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if args == [STANDARD_LIBRARY] {
        use_the_standard_library();
        return ExitCode::SUCCESS;
    }
    // Part of a name, as for other tests; what else those take means nothing here.
    let filter = args.iter().find(|arg| !arg.starts_with('-')).map_or("", String::as_str);
    let tests: Vec<_> = TESTS.into_iter().filter(|(name, _)| name.contains(filter)).collect();
    println!("\nrunning {} tests", tests.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in &tests {
        let how = match panic::catch_unwind(test) {
            Ok(Ok(())) => {
                passed += 1;
                "ok".to_owned()
            }
            Ok(Err(reason)) if !required() => {
                skipped += 1;
                format!("ignored, {reason}")
            }
            Ok(Err(reason)) => {
                failed += 1;
                format!("FAILED, {reason}")
            }
            Err(_) => {
                failed += 1;
                "FAILED".to_owned()
            }
        };
        println!("test {name} ... {how}");
    }
    let (result, rest) = (if failed == 0 { "ok" } else { "FAILED" }, TESTS.len() - tests.len());
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {rest} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks that the processes whose names begin so have started so many children together, all of them by templates where
/// those are required, and that besides these `missing` programs were not found.
fn assert_children(stats: &[String], program: &str, children: u64, missing: u64) {
    let name = format!("\"program\":\"{program}");
    let lines: Vec<_> = stats.iter().filter(|line| line.contains(&name)).collect();
    let sum = |what: &str| lines.iter().map(|line| number(line, what)).sum::<u64>();
    let all = children + missing;
    let (by_template, not_found, by_library) = if required() || sum("unsupported") == 0 {
        (children, missing, 0)
    } else {
        // Whether there is such a program is not looked at then.
        (0, 0, all)
    };
    for (what, count) in [("templates", by_template), ("not-found", not_found), ("unsupported", by_library)] {
        assert_eq!(sum(what), count, "{what}: {stats:?}");
    }
    let reasons = ["templates", "failed", "unsupported", "not-elf", "not-found", "relative-path", "too-many-actions"];
    let reasons = reasons.into_iter().chain(["seccomp", "changing", "descriptors", "arguments", "foreign-record"]);
    assert_eq!(reasons.chain(["other"]).map(sum).sum::<u64>(), all, "{stats:?}");
}

/// A program, by name or path, or why there is none.
fn program(name: &str) -> Result<PathBuf, Skipped> {
    find(name).ok_or_else(|| format!("{name} is not installed"))
}

/// A small C tree with a makefile in a folder of its own.
const TREE: [(&str, &str); 9] = [
    (
        "Makefile",
        "words: main.o parts\n\
         \t$(CC) -o $@ main.o parts/*.o\n\
         \t./words > result\n\
         main.o: main.c words.h\n\
         \t$(CC) -c -o $@ main.c\n\
         .PHONY: parts\n\
         parts:\n\
         \t$(MAKE) -C parts\n",
    ),
    (
        "parts/Makefile",
        "all: one.o two.o three.o four.o five.o\n\
         %.o: %.c ../words.h\n\
         \t$(CC) -c -o $@ $<\n",
    ),
    ("words.h", "const char *one(void), *two(void), *three(void), *four(void), *five(void);\n"),
    (
        "main.c",
        "#include \"words.h\"\n\
         #include <stdio.h>\n\
         int main(void)\n\
         {\n\
         \treturn printf(\"%s %s %s %s %s\\n\", one(), two(), three(), four(), five()) != 24;\n\
         }\n",
    ),
    ("parts/one.c", "#include \"../words.h\"\nconst char *one(void) { return \"one\"; }\n"),
    ("parts/two.c", "#include \"../words.h\"\nconst char *two(void) { return \"two\"; }\n"),
    ("parts/three.c", "#include \"../words.h\"\nconst char *three(void) { return \"three\"; }\n"),
    ("parts/four.c", "#include \"../words.h\"\nconst char *four(void) { return \"four\"; }\n"),
    ("parts/five.c", "#include \"../words.h\"\nconst char *five(void) { return \"five\"; }\n"),
];

/// Seven calls of the compiler, the shell for the redirection, and make in the folder.
const TREE_CHILDREN: u64 = 9;

fn make() -> Result<(), Skipped> {
    let make = program("make")?;
    let compiler = compiler().ok_or("no C compiler is installed")?;
    let base = folder("make");
    fs::create_dir(base.join("parts")).expect("a folder");
    for (name, text) in TREE {
        fs::write(base.join(name), text).expect("a file");
    }
    let (output, stats) = preloaded(&base, make.as_os_str(), &["-j4", &format!("CC={}", compiler.display())]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(base.join("result")).expect("made"), "one two three four five\n");
    assert_children(&stats, "make", TREE_CHILDREN, 0);
    Ok(())
}

fn python() -> Result<(), Skipped> {
    const PYTHON: &str = "/usr/bin/python3";
    const SCRIPT: &str = r#"
import os, subprocess
def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
actions = [(os.POSIX_SPAWN_DUP2, 1, 2)]
assert status(os.posix_spawn("/bin/true", ["true"], os.environ, file_actions=actions, setsigdef=[13])) == 0
assert status(os.posix_spawnp("false", ["false"], os.environ, setpgroup=0, setsigmask=[10])) == 1
# The cases in which subprocess uses posix_spawn().
assert subprocess.run(["/bin/true"], close_fds=False).returncode == 0
assert subprocess.run(["/bin/echo", "text"], close_fds=False, stdout=subprocess.PIPE).stdout == b"text\n"
try:
    os.posix_spawn("/missing", ["missing"], {})
except FileNotFoundError:
    print("done")
"#;
    // Another python3 in PATH may be a script that starts the real one.
    if !Path::new(PYTHON).exists() {
        return Err(format!("{PYTHON} is not installed"));
    }
    let base = folder("python");
    let (output, stats) = preloaded(&base, PYTHON.as_ref(), &["-c", SCRIPT]);
    assert_eq!(output.stdout, b"done\n", "{output:?}");
    assert_children(&stats, "python3", 4, 1);
    Ok(())
}

/// KornShell, which starts programs by posix_spawn(), but not in a pipeline, and becomes the last one itself.
fn shell() -> Result<(), Skipped> {
    const SCRIPT: &str = r#"
/bin/true
ls / > list
text=$(/bin/echo text)
/bin/false || echo failed
for i in 1 2 3; do /bin/true; done
/bin/cat <<END
$text
END
echo done
"#;
    let shell = program("ksh93")?;
    let base = folder("shell");
    let (output, stats) = preloaded(&base, shell.as_os_str(), &["-c", SCRIPT]);
    assert_eq!(output.stdout, b"failed\ntext\ndone\n", "{output:?}");
    assert!(fs::read_to_string(base.join("list")).expect("made").contains("bin\n"));
    assert_children(&stats, "ksh93", 8, 0);
    Ok(())
}

/// What `standard_library` runs with the library.
fn use_the_standard_library() {
    let output = Command::new("echo").arg("text").output().expect("echo starts");
    assert_eq!(output.stdout, b"text\n");
    let status = Command::new("/bin/false").stdin(Stdio::null()).status().expect("false starts");
    assert_eq!(status.code(), Some(1));
    let output = Command::new("pwd").current_dir("/usr").output().expect("pwd starts");
    assert_eq!(output.stdout, b"/usr\n");
    let error = Command::new("no-such-program").status().expect_err("there is none");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

fn standard_library() -> Result<(), Skipped> {
    let this = env::current_exe().expect("the test has a path");
    let base = folder("std");
    let (output, stats) = preloaded(&base, this.as_os_str(), &[STANDARD_LIBRARY]);
    assert!(output.status.success(), "{output:?}");
    assert_children(&stats, "programs", 3, 1);
    Ok(())
}
