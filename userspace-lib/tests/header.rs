//! The ABI header: the bindings agree with it, and C and C++ programs can use it alone.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::Path;
use std::process::Command;

use spawn_template::uapi;

/// What C and Rust each say about an expression, by the expression in C.
type Facts = BTreeMap<String, u64>;

/// Collects size, alignment, and offset and size of each field, as Rust sees them. The optional name is that of a field
/// in C that Rust cannot spell.
macro_rules! layout {
    ($facts:ident, $type:ident { $($field:ident $(as $c_name:literal)?: $field_type:ty),* $(,)? }) => {
        let c = concat!("struct ", stringify!($type));
        $facts.insert(format!("sizeof({c})"), size_of::<uapi::$type>() as u64);
        $facts.insert(format!("_Alignof({c})"), align_of::<uapi::$type>() as u64);
        $(
            let name = [$($c_name,)? stringify!($field)][0];
            $facts.insert(format!("offsetof({c}, {name})"), offset_of!(uapi::$type, $field) as u64);
            $facts.insert(format!("sizeof((({c} *)0)->{name})"), size_of::<$field_type>() as u64);
            // The size is that of the field's own type.
            let _: fn(&uapi::$type) -> &$field_type = |structure| &structure.$field;
        )*
        // Every byte belongs to a field that is named here: no holes, and no field forgotten.
        assert_eq!([$(size_of::<$field_type>()),*].iter().sum::<usize>(), size_of::<uapi::$type>(), "{c}");
    };
}

macro_rules! constants {
    ($facts:ident, $($name:ident),* $(,)?) => {
        $($facts.insert(stringify!($name).into(), u64::from(uapi::$name));)*
    };
}

fn rust_facts() -> Facts {
    let mut facts = Facts::new();
    layout!(
        facts,
        spawn_template_create_args {
            flags: u64,
            execfd: i32,
            exec_flags: u32,
            filename: u64,
            actions: u64,
            actions_len: u64,
            reserved: [u64; 4],
        }
    );
    layout!(
        facts,
        spawn_template_spawn_args {
            flags: u64,
            pidfd: u64,
            argv: u64,
            envp: u64,
            actions: u64,
            actions_len: u64,
            reserved: [u64; 4],
            result: u64,
            result_size: u64,
            template_id: u64,
        }
    );
    layout!(facts, spawn_template_result { stage: u32, action: i32, error: i32, reserved: u32 });
    layout!(facts, spawn_template_action { type_ as "type": u32, flags: u32, fd: i32, newfd: i32, arg: u64, arg_size: u64 });
    layout!(facts, spawn_template_open { path: u64, how: uapi::open_how });
    layout!(facts, spawn_template_sigset { sigset: u64, sigsetsize: u64 });
    layout!(facts, spawn_template_rlimit { resource: u64, cur: u64, max: u64 });
    layout!(facts, spawn_template_groups { groups: u64, count: u64 });
    layout!(facts, open_how { flags: u64, mode: u64, resolve: u64 });
    constants!(
        facts,
        SPAWN_TEMPLATE_CREATE_CLOEXEC,
        SPAWN_TEMPLATE_CREATE_NO_LEARNING,
        SPAWN_TEMPLATE_CREATE_ARGS_SIZE_VER0,
        SPAWN_TEMPLATE_SPAWN_INHERIT_FDS,
        SPAWN_TEMPLATE_SPAWN_NOWAIT,
        SPAWN_TEMPLATE_SPAWN_NO_PIDFD,
        SPAWN_TEMPLATE_SPAWN_CHECK_ID,
        SPAWN_TEMPLATE_SPAWN_ARGS_SIZE_VER0,
        SPAWN_TEMPLATE_STAGE_NONE,
        SPAWN_TEMPLATE_STAGE_ARGUMENTS,
        SPAWN_TEMPLATE_STAGE_IDENTITY,
        SPAWN_TEMPLATE_STAGE_CREATE,
        SPAWN_TEMPLATE_STAGE_ACTION,
        SPAWN_TEMPLATE_STAGE_EXEC,
        SPAWN_TEMPLATE_RESULT_SIZE_VER0,
        SPAWN_TEMPLATE_MAX_ACTIONS,
        SPAWN_TEMPLATE_OPEN_SIZE_VER0,
        SPAWN_TEMPLATE_SIGSET_SIZE_VER0,
        SPAWN_TEMPLATE_RLIMIT_SIZE_VER0,
        SPAWN_TEMPLATE_GROUPS_SIZE_VER0,
        SPAWN_TEMPLATE_ACTION_CLOSE,
        SPAWN_TEMPLATE_ACTION_DUP2,
        SPAWN_TEMPLATE_ACTION_FCHDIR,
        SPAWN_TEMPLATE_ACTION_OPEN,
        SPAWN_TEMPLATE_ACTION_CLOSE_RANGE,
        SPAWN_TEMPLATE_ACTION_SIGMASK,
        SPAWN_TEMPLATE_ACTION_SIGDEFAULT,
        SPAWN_TEMPLATE_ACTION_CHDIR,
        SPAWN_TEMPLATE_ACTION_SETSID,
        SPAWN_TEMPLATE_ACTION_SETPGID,
        SPAWN_TEMPLATE_ACTION_TCSETPGRP,
        SPAWN_TEMPLATE_ACTION_SETCTTY,
        SPAWN_TEMPLATE_ACTION_UMASK,
        SPAWN_TEMPLATE_ACTION_RLIMIT,
        SPAWN_TEMPLATE_ACTION_SCHED,
        SPAWN_TEMPLATE_ACTION_RESETIDS,
        SPAWN_TEMPLATE_ACTION_SETUID,
        SPAWN_TEMPLATE_ACTION_SETGID,
        SPAWN_TEMPLATE_ACTION_SETGROUPS,
        SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS,
        SPAWN_TEMPLATE_ACTION_PDEATHSIG,
        SPAWN_TEMPLATE_ACTION_SIGIGNORE,
        SPAWN_TEMPLATE_ACTION_CGROUP,
    );
    facts
}

#[test]
fn bindings_agree_with_the_header() {
    let rust = rust_facts();
    let mut text =
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/spawn_template.h>\n\nint main(void)\n{\n".to_owned();
    for expression in rust.keys() {
        writeln!(text, "\tprintf(\"%llu {expression}\\n\", (unsigned long long)({expression}));").unwrap();
    }
    text.push_str("\treturn 0;\n}\n");

    let program = common::compile("cc", "c11", &common::source("facts.c", &text), "facts");
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success());
    let c: Facts = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(value, expression)| (expression.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(c, rust, "the header (left) and the bindings (right) differ: run userspace-lib/bindgen.sh");
}

#[test]
fn every_constant_of_the_header_is_compared() {
    let header = std::fs::read_to_string(common::headers().join("linux/spawn_template.h")).unwrap();
    let facts = rust_facts();
    let names = header
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        // A name that ends in an underscore stands for a family in a comment.
        .filter(|word| word.starts_with("SPAWN_TEMPLATE_") && !word.ends_with('_'));
    let mut count = 0;
    for name in names {
        assert!(facts.contains_key(name), "{name} is missing in rust_facts()");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn structures_have_the_published_sizes() {
    assert_eq!(size_of::<uapi::spawn_template_create_args>(), 72);
    assert_eq!(size_of::<uapi::spawn_template_spawn_args>(), 104);
    assert_eq!(offset_of!(uapi::spawn_template_spawn_args, result), 80);
    assert_eq!(size_of::<uapi::spawn_template_result>(), 16);
    assert_eq!(size_of::<uapi::spawn_template_action>(), 32);
    assert_eq!(size_of::<uapi::spawn_template_open>(), 32);
    assert_eq!(size_of::<uapi::spawn_template_sigset>(), 16);
    assert_eq!(size_of::<uapi::spawn_template_rlimit>(), 24);
    assert_eq!(size_of::<uapi::spawn_template_groups>(), 16);
}

#[test]
fn the_header_is_usable_alone() {
    let text = "#include <linux/spawn_template.h>\n\
                int main(void)\n{\n\
                \tstruct spawn_template_action action = { SPAWN_TEMPLATE_ACTION_DUP2, 0, 7, 1, 0, 0 };\n\
                \treturn action.newfd != 1;\n}\n";
    let c = common::source("alone.c", text);
    let cpp = common::source("alone.cpp", text);
    for (compiler, standard, source) in
        [("cc", "c99", &c), ("cc", "c11", &c), ("cc", "gnu17", &c), ("c++", "c++11", &cpp), ("c++", "c++17", &cpp)]
    {
        let program = common::compile(compiler, standard, source, &format!("alone-{standard}"));
        assert!(Command::new(program).status().unwrap().success(), "{compiler} -std={standard}");
    }
}

#[test]
fn the_c_example_compiles_and_runs() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/spawn.c");
    common::compile("cc", "c99", &source, "example-c99");
    let program = common::compile("cc", "c11", &source, "example-c11");
    let output = Command::new(program).output().unwrap();
    if spawn_template::is_supported() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.starts_with(b"hello from a template\n"));
    } else {
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stderr, b"spawn: this kernel has no spawn templates\n");
    }
}

#[test]
fn the_c_example_of_the_readme_compiles() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let example = text.split_once("```c\n").unwrap().1.split_once("```").unwrap().0;
    let main = "\nint main(void)\n{\n\tint pidfd;\n\n\treturn echo_once(473, 474, &pidfd) == 0;\n}\n";
    // syscall() is no part of the C standards.
    let source = common::source("readme.c", &format!("#define _GNU_SOURCE\n{example}{main}"));
    common::compile("cc", "c11", &source, "readme");
}

#[test]
fn bindings_are_what_bindgen_generates() {
    let version = Command::new("bindgen").arg("--version").output();
    if !version.is_ok_and(|output| output.stdout == b"bindgen 0.72.1\n") {
        eprintln!("skipped: needs bindgen 0.72.1");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bindgen.sh");
    let output = Command::new(script).arg("--check").output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{stdout}{stderr}");
}
