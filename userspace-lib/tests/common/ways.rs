//! The ways to start a process that this kernel has. Every test runs through all of them.

#![allow(dead_code, reason = "not every test needs all of this")]

use std::env;
use std::path::Path;

use spawn_template::{Command, Mode, Template, TemplateOptions, Via};

/// By fork and exec everywhere, and by template where the kernel has it. With `SPAWN_TEMPLATE_REQUIRED` it must.
pub fn ways() -> &'static [Mode] {
    if spawn_template::is_supported() {
        return &[Mode::Template, Mode::ForkExec];
    }
    assert!(env::var_os("SPAWN_TEMPLATE_REQUIRED").is_none(), "this kernel has no spawn templates");
    &[Mode::ForkExec]
}

/// Calls a test once for each way.
pub fn each_way(test: impl Fn(Mode)) {
    for &mode in ways() {
        eprintln!("{mode:?}");
        test(mode);
    }
}

/// A template that starts its processes in this way.
pub fn template(mode: Mode, path: impl AsRef<Path>) -> Template {
    let template = TemplateOptions::new().mode(mode).open(path).unwrap();
    assert!(is(mode, template.via()));
    template
}

/// A command for a shell script.
pub fn shell(mode: Mode, script: &str) -> Command<'static> {
    let mut command = Command::new("/bin/sh");
    command.mode(mode).args(["-c", script]);
    command
}

/// Runs a command that must succeed, in this way, and returns what it writes.
pub fn output(mode: Mode, command: &mut Command<'_>) -> String {
    let output = command.mode(mode).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a process was started in this way.
pub fn is(mode: Mode, via: Via) -> bool {
    match mode {
        Mode::Template => via == Via::Template,
        _ => matches!(via, Via::ForkExec(_)),
    }
}
