//! Until it executes its program, a child's own program is its caller's, as after fork.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{Outcome, failed};
use crate::nowait::Gate;
use crate::os::Status;
use crate::template::{Act, Open, Template};
use crate::{same, tests};

tests!("own_program": opened_by_an_action, template_of_it, seen_from_outside);

/// The device and inode of what a child has as descriptor 9, by `stat -L`.
fn ninth(template: &Template, act: Act) -> Outcome<String> {
    let (status, output) = template.spawn().argv(["stat", "-L", "-c", "%d %i", "/proc/self/fd/9"]).act(act).output()?;
    same!(status, Status::Exited(0), "status of stat");
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

fn opened_by_an_action() -> Outcome {
    let template = Template::path("/usr/bin/stat")?;
    let own = fs::metadata("/proc/self/exe")?;
    let wanted = format!("{} {}", own.dev(), own.ino());
    for flags in [libc::O_RDONLY, libc::O_PATH] {
        same!(
            ninth(&template, Act::Open(Open::new("/proc/self/exe", flags, 9)))?,
            wanted,
            "what OPEN with {flags:#x} gave"
        );
    }
    Ok(())
}

/// `/proc/self/exe` as the program: the caller starts itself.
fn template_of_it() -> Outcome {
    let template = Template::path("/proc/self/exe")?;
    let (status, output) = template.spawn().argv(["guest-suite", "--list", "own_program::"]).output()?;
    same!(status, Status::Exited(0), "status of this program");
    let text = String::from_utf8(output).map_err(failed)?;
    same!(text.lines().next(), Some("own_program::opened_by_an_action"), "its output");
    Ok(())
}

fn seen_from_outside() -> Outcome {
    let gate = Gate::new("own-program")?;
    let child = Template::child("nothing")?.spawn().act(gate.action()).nowait().run()?;
    let seen = fs::read_link(format!("/proc/{}/exe", child.pid));
    gate.open()?;
    same!(child.wait()?, Status::Exited(0), "status");
    same!(seen?, fs::read_link("/proc/self/exe")?, "program of a child that waits in an OPEN");
    Ok(())
}
